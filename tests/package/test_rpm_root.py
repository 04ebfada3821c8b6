"""The rpm in a root of its own, with its scriptlets: a shell out of busybox, and stand-ins for what
systemd would do, which write down how they were called. No booted host is asked anything.
"""

import os
import pathlib
import shutil
import unittest

import build
from build import run, skip

HELPER = "/usr/lib/systemd/systemd-update-helper"
APPLETS = ["sh", "sed", "mkdir", "rmdir", "ln", "rm", "cat", "echo", "test"]


class Root:
    def __init__(self, name, systemd=257):
        self.path = build.scratch() / name
        for folder in ("bin", "usr/bin", "usr/lib/systemd", "usr/lib/sysimage", "run/systemd/system", "var/lib", "dev", "etc"):
            (self.path / folder).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), self.path / "bin/busybox")
        for applet in APPLETS:
            (self.path / "bin" / applet).symlink_to("busybox")
        self.script(HELPER, 'echo "helper $*" >>/calls')
        # `is-enabled` is answered by a file: what the preset has done, or the administrator undone.
        self.script("/usr/bin/systemctl", f'''case "$*" in
            --version) echo "systemd {systemd} (stand-in)" ;;
            *is-enabled*) test -e /enabled ;;
            *) echo "systemctl $*" >>/calls ;;
        esac''')

    def script(self, path, text):
        target = self.path / path.lstrip("/")
        target.write_text(f"#!/bin/sh\n{text}\n")
        target.chmod(0o755)

    def rpm(self, *words):
        """Of a distribution whose rpm knows what systemd is; here nobody provides it."""
        done = run("rpm", "--root", self.path, "--nodeps", "--noverify" if "-V" in words else "--nosignature", *words)
        assert "scriptlet failed" not in done.stderr, done.stderr
        return done

    def calls(self):
        path = self.path / "calls"
        text = path.read_text() if path.exists() else ""
        path.write_text("")
        return text.splitlines()

    def exists(self, path):
        return os.path.lexists(self.path / path.lstrip("/"))


class Rpm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            skip("rpm --root takes root")
        cls.new, cls.old = build.rpm(), build.rpm(build.older())

    def install(self, root, package, *words):
        done = root.rpm("-U", *words, package)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_from_installation_to_removal(self):
        root = Root("rpm-life")
        (root.path / "enabled").touch()
        self.install(root, self.old)
        self.assertEqual(root.calls(), ["helper install-system-units nbguard.service", "systemctl daemon-reload",
                                        "systemctl --no-block start nbguard.service"])
        link = root.path / "usr/lib/systemd/system/nbguard.service.d/notify-reload.conf"
        self.assertTrue((root.path / str(link.readlink()).lstrip("/")).exists())
        verified = run("rpm", "--root", root.path, "-V", "--nodeps", "nbguard")
        self.assertEqual((verified.returncode, verified.stdout), (0, ""))

        conf = root.path / "etc/nbguard/nbguard.toml"
        changed = conf.read_text() + "[default]\nthreshold = \"85%\"\n"
        conf.write_text(changed)
        self.install(root, self.new)
        self.assertEqual(conf.read_text(), changed)
        calls = root.calls()
        self.assertIn("helper mark-restart-system-units nbguard.service", calls)
        self.assertNotIn("helper remove-system-units nbguard.service", calls)
        self.assertTrue(link.is_symlink())

        self.install(root, self.old, "--oldpackage")
        self.assertEqual(conf.read_text(), changed)
        self.assertIn("helper mark-restart-system-units nbguard.service", root.calls())

        (root.path / "run/nbguard").mkdir()
        done = root.rpm("-e", "nbguard")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(root.calls(), ["helper remove-system-units nbguard.service"])
        left = [str(path.relative_to(root.path)) for path in root.path.rglob("*nbguard*")]
        # rpm keeps what the administrator wrote.
        self.assertEqual(sorted(left), ["etc/nbguard", "etc/nbguard/nbguard.toml.rpmsave"])

    def test_who_disabled_it_is_not_overruled(self):
        root = Root("rpm-disabled")
        self.install(root, self.old)
        self.assertEqual(root.calls(), ["helper install-system-units nbguard.service"])
        self.install(root, self.new)
        self.assertNotIn("systemctl --no-block start nbguard.service", root.calls())

    def test_an_older_systemd_gets_no_lines_that_it_does_not_know(self):
        root = Root("rpm-252", systemd=252)
        self.install(root, self.old)
        self.assertFalse(root.exists("/usr/lib/systemd/system/nbguard.service.d/notify-reload.conf"))


if __name__ == "__main__":
    unittest.main()
