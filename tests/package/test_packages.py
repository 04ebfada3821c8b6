"""What is in the packages: the same bytes wherever they are built, static binaries, sound scripts,
nothing that lintian or rpmlint would say and nobody has explained.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import unittest

import build
from build import REPOSITORY, run, skip

PROGRAMS = ["usr/sbin/nbguardd", "usr/bin/nbguard"]
# Of the deb and not of the rpm, and the other way round.
DEB_ONLY = re.compile(r"usr/share/(lintian/|zsh/vendor-completions/|doc/nbguard/(changelog|copyright|README))")
RPM_ONLY = re.compile(r"usr/(share/licenses/|share/zsh/site-functions/|lib/systemd/system-preset/"
                      r"|share/doc/nbguard/(CHANGELOG|README))")


def tar_of(package):
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True)
    path = build.scratch() / "data.tar"
    path.write_bytes(done.stdout)
    return tarfile.open(path)


class Reproducible(unittest.TestCase):
    def test_two_builds_in_different_folders_are_the_same_bytes(self):
        first, second = build.packages(), build.packages_from_elsewhere()
        self.assertEqual(list(first), list(second))
        self.assertGreaterEqual(len(first), 4)
        for name, path in first.items():
            self.assertTrue(path.read_bytes() == second[name].read_bytes(), f"{name} differs")

    def test_no_path_of_this_machine_is_in_a_binary(self):
        home = os.environ.get("CARGO_HOME") or str(pathlib.Path.home() / ".cargo")
        for program in PROGRAMS:
            content = (build.unpacked() / program).read_bytes()
            self.assertNotIn(str(REPOSITORY).encode() + b"/", content, program)
            # Only what packaging/build.sh built itself has the other names for crates.
            if b"/cargo/registry/src" in content.replace(home.encode() + b"/registry", b""):
                self.assertNotIn(home.encode() + b"/", content, program)


class Binaries(unittest.TestCase):
    def test_they_need_no_library_no_interpreter_and_no_version_of_glibc(self):
        for program in PROGRAMS:
            path = build.unpacked() / program
            headers = run("readelf", "--wide", "--program-headers", path).stdout
            self.assertIn("LOAD", headers)
            self.assertNotIn("INTERP", headers)
            self.assertNotIn("NEEDED", run("readelf", "--wide", "--dynamic", path).stdout)
            self.assertNotIn("GLIBC_", run("readelf", "--wide", "--version-info", "--symbols", path).stdout)

    def test_they_run_where_there_is_nothing_else(self):
        if os.geteuid() != 0:
            skip("chroot takes root")
        root = build.scratch() / "empty"
        root.mkdir()
        for program in PROGRAMS:
            shutil.copy(build.unpacked() / program, root)
            name = pathlib.Path(program).name
            done = run("chroot", root, f"/{name}", "--version")
            self.assertEqual((done.returncode, done.stdout.split()[0]), (0, name), done.stderr)

    def test_they_run_on_debian_11(self):
        self.run_on("Debian", "bullseye")

    def test_they_run_on_ubuntu_22_04(self):
        self.run_on("Ubuntu", "jammy")

    def run_on(self, origin, suite):
        """The package, in a root without /proc: nothing of this machine is asked, and nothing started."""
        root = build.system(origin, suite)
        shutil.copy(build.deb(), root / "nbguard.deb")
        done = run("chroot", root, "dpkg", "-i", "/nbguard.deb")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for words, code, says in ((("nbguard", "--version"), 0, r"^nbguard \d"), (("nbguardd", "--help"), 0, "--dry-run"),
                                  (("nbguard", "check"), 0, r"nbguard\.toml"),
                                  (("nbguard", "doctor"), 1, r"(?s)pidfd .*FAIL  cgroups  .*/proc/self/mountinfo")):
            done = run("chroot", root, *words)
            self.assertEqual(done.returncode, code, (words, done.stdout + done.stderr))
            self.assertRegex(done.stdout, says)
        done = run("chroot", root, "dpkg", "-P", "nbguard")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([path for path in root.rglob("*nbguard*") if path.parent.name != "log"], [root / "nbguard.deb"])

    def test_the_extension_needs_no_more_than_its_php_has(self):
        if build.extension() is None:
            skip("no extension for PHP was built (src/crates/php-ext/build.sh)")
        control = (build.unpacked("nbguard-php") / "DEBIAN/control").read_text()
        api = run("php-config", "--phpapi").stdout.strip()
        self.assertRegex(control, rf"(?m)^Depends: phpapi-{api}, libc6 \(>= 2\.\d+\)")


class Contents(unittest.TestCase):
    def test_everything_is_roots_and_nobody_else_may_write(self):
        for name, path in build.packages().items():
            if not name.endswith(".deb"):
                continue
            for entry in tar_of(path):
                self.assertEqual((entry.uid, entry.gid), (0, 0), entry.name)
                if not entry.issym():
                    self.assertFalse(entry.mode & 0o7022, f"{name}: {entry.name}: {entry.mode:o}")

    def test_what_lies_in_etc_and_nothing_else_is_a_conffile(self):
        for name in ("nbguard", "python3-nbguard-jupyter"):
            tree = build.unpacked(name)
            etc = {f"/{file.relative_to(tree)}" for file in tree.glob("etc/**/*") if file.is_file()}
            self.assertEqual(set((tree / "DEBIAN/conffiles").read_text().split()), etc)
            self.assertTrue(etc)

    def test_deb_and_rpm_have_the_same_in_them(self):
        tree = build.unpacked()
        of_deb = {str(file.relative_to(tree)) for file in tree.rglob("*") if file.is_file()}
        of_deb = {name for name in of_deb if not name.startswith("DEBIAN/") and not DEB_ONLY.match(name)}
        listed = run("rpm", "-qpl", "--dump", build.rpm()).stdout.splitlines()
        of_rpm = {line.split()[0].lstrip("/") for line in listed if line.split()[4].startswith("0100")}
        of_rpm = {name for name in of_rpm if not RPM_ONLY.match(name)}
        self.assertEqual(of_deb, of_rpm)
        config = [line.split()[0] for line in listed if line.split()[7] == "1"]
        self.assertEqual(config, ["/etc/nbguard/nbguard.toml"])

    def test_what_units_and_drop_ins_name_is_there(self):
        tree = build.unpacked()
        units = list(tree.glob("usr/lib/systemd/system/*")) + list(tree.glob("usr/share/nbguard/systemd/*"))
        self.assertGreaterEqual(len(units), 4)
        for unit in units:
            text = unit.read_text()
            for path in re.findall(r"^Exec\w+=([^\s]+)", text, re.M) + re.findall(r" (/etc/nbguard/\S+\.toml)", text):
                self.assertTrue(path == "/bin/kill" or (tree / path.lstrip("/")).exists(), f"{unit.name}: {path}")

    def test_pages_and_completions_are_there(self):
        tree = build.unpacked()
        for page in ("man8/nbguardd.8.gz", "man1/nbguard.1.gz", "man5/nbguard.toml.5.gz"):
            self.assertTrue((tree / "usr/share/man" / page).exists(), page)
        for place in ("bash-completion/completions/nbguard", "zsh/vendor-completions/_nbguard",
                      "fish/vendor_completions.d/nbguard.fish"):
            self.assertTrue((tree / "usr/share" / place).exists(), place)

    def test_the_licenses_of_what_is_linked_in_travel_with_it(self):
        done = subprocess.run(["zcat", build.unpacked() / "usr/share/doc/nbguard/licenses.gz"], capture_output=True)
        text = done.stdout.decode()
        for crate in ("mio", "serde", "clap", "py-spy"):
            self.assertRegex(text, rf"(?m)^  {crate} \d")
        self.assertIn("Permission is hereby granted", text)


class Scripts(unittest.TestCase):
    def test_they_are_shell(self):
        for script in sorted((REPOSITORY / "packaging/deb").glob("*/*inst")) + sorted(
                (REPOSITORY / "packaging/deb").glob("*/*rm")):
            done = run("sh", "-n", script)
            self.assertEqual(done.returncode, 0, f"{script}: {done.stderr}")
            self.assertTrue(script.read_text().startswith("#!/bin/sh\nset -e\n"), script)

    def test_lintian_has_nothing_to_say(self):
        debs = [path for name, path in build.packages().items() if name.endswith(".deb")]
        done = run("lintian", *(["--allow-root"] if os.geteuid() == 0 else []), "--fail-on", "error,warning", *debs)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_rpmlint_has_nothing_to_say(self):
        done = run("rpmlint", "--config", REPOSITORY / "packaging/rpm/rpmlint.toml", build.rpm())
        self.assertIn("0 errors, 0 warnings", done.stdout, done.stdout + done.stderr)


class Unit(unittest.TestCase):
    """The sandbox, as systemd judges it."""

    def exposure(self, unit):
        if not shutil.which("systemd-analyze"):
            skip("systemd-analyze is missing")
        done = run("systemd-analyze", "--no-pager", "security", "--offline=yes", unit)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        if not found:
            skip(f"systemd-analyze security: {done.stderr.strip()[-300:]}")
        return float(found[1])

    def unit(self):
        """With programs that are there, where the package is not installed."""
        path = build.scratch() / "nbguard.service"
        text = (REPOSITORY / "packaging/nbguard.service").read_text()
        path.write_text(re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", text, flags=re.M))
        return path

    def test_it_is_no_more_exposed_than_systemd_oomd_and_the_readme_says_how_much(self):
        own = self.exposure(self.unit())
        readme = (REPOSITORY / "README.md").read_text()
        self.assertTrue(re.search(rf"exposure of {own},", readme), f"README.md does not say: exposure of {own}")
        folder = build.scratch() / "oomd"
        folder.mkdir()
        done = run("apt-get", "-qq", "download", "systemd-oomd", cwd=folder)
        found = sorted(folder.glob("*.deb"))
        if done.returncode != 0 or not found:
            skip(f"systemd-oomd cannot be had: {done.stderr.strip()[-200:]}")
        subprocess.run(["dpkg", "-x", str(found[0]), str(folder / "root")], check=True)
        oomd = next((folder / "root").rglob("systemd-oomd.service"))
        self.assertLessEqual(own, self.exposure(oomd))

    def test_systemd_understands_every_line(self):
        path = self.unit()
        if not shutil.which("systemd-analyze"):
            skip("systemd-analyze is missing")
        said = run("systemd-analyze", "verify", "--man=no", path).stderr.splitlines()
        self.assertEqual([line for line in said if path.name in line], [])

    def test_each_capability_has_its_reason(self):
        text = (REPOSITORY / "packaging/nbguard.service").read_text()
        kept = re.search(r"^CapabilityBoundingSet=(.*)$", text, re.M)[1].split()
        self.assertTrue(kept)
        for name in kept:
            self.assertRegex(text, rf"(?m)^# {name.removeprefix('CAP_')} +\S")


if __name__ == "__main__":
    unittest.main()
