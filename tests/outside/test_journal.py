"""systemd's own journal against what the guard tells it: the fields of an incident, its message id,
and the catalog. journald runs in a mount namespace with a /run of its own, so that this machine's
journal, if it has one, knows nothing of it. python3 -m unittest discover tests/outside
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from ground import (KERNEL, NOTEBOOK, PACKAGING, REPOSITORY, Guarded, eventually,  # noqa: E402
                    skip, unpacked)

# Set in the child that has namespaces of its own.
INSIDE = "NBGUARD_TEST_INSIDE"
KILL = "4b4d1a60fcec4ea5ab86aded869ffdf4"


class Systemd:
    """journald and journalctl, of this machine or out of Debian's packages."""

    def __init__(self):
        self.environment = dict(os.environ)
        self.journald = "/lib/systemd/systemd-journald"
        self.journalctl = shutil.which("journalctl")
        if not os.path.exists(self.journald) or not self.journalctl:
            self.journald = unpacked("systemd", "lib/systemd/systemd-journald")
            self.journalctl = unpacked("systemd", "bin/journalctl")
            unpacked("libsystemd-shared", "")
            shared = unpacked("libsystemd-shared", "usr/lib")
            found = sorted(pathlib.Path(shared).rglob("libsystemd-shared*.so"))
            if not found:
                skip("Debian's package of systemd's library has no library")
            self.environment["LD_LIBRARY_PATH"] = str(found[0].parent)
        if (why := self.ask("--version").returncode) != 0:
            skip(f"journalctl does not run here: {why}")

    def ask(self, *words):
        return subprocess.run([str(self.journalctl), "--no-pager", *map(str, words)], env=self.environment,
                              capture_output=True, text=True, timeout=60)


class Catalog(unittest.TestCase):
    def test_the_catalog_is_one(self):
        systemd = Systemd()
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder) / "usr/lib/systemd/catalog"
            place.mkdir(parents=True)
            shutil.copy(PACKAGING / "nbguard.catalog", place)
            made = systemd.ask(f"--root={folder}", "--update-catalog")
            self.assertEqual((made.returncode, made.stderr), (0, ""))
            shown = systemd.ask(f"--root={folder}", "--dump-catalog")
            self.assertEqual(shown.stdout.count("Defined-By: nbguard"), 3, shown.stdout + shown.stderr)


class Journal(Guarded):
    def test_an_incident_has_its_fields_in_the_journal(self):
        if os.environ.get(INSIDE):
            return self.inside()
        if os.geteuid() != 0:
            skip("not root")
        Systemd()
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
            skip("no mount namespace of one's own here")
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "unittest", "discover",
             "-k", "Journal", "tests/outside"],
            cwd=REPOSITORY, env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, timeout=240)
        if "skipped=1" in done.stderr:
            skip(done.stderr.strip()[-300:])
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])

    def inside(self):
        for place in ("/run", "/var/log"):
            mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, text=True)
            if mounted.returncode != 0:
                skip(f"{place} cannot be one of its own: {mounted.stderr}")
        systemd = Systemd()
        for place in ("/run/log/journal", "/run/systemd/journal"):
            os.makedirs(place)
        daemon = self.start([systemd.journald], env=systemd.environment, stderr=subprocess.DEVNULL)
        there = pathlib.Path("/run/systemd/journal/stdout")
        eventually("journald listens", lambda: there.exists() or daemon.poll() is not None or None)
        if daemon.poll() is not None:
            skip(f"journald does not run here: {daemon.returncode}")
        # As systemd connects the stderr of a service (systemd.exec(5), JOURNAL_STREAM).
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(stream.close)
        stream.connect(str(there))
        stream.sendall(b"nbguardd\n\n6\n1\n0\n0\n0\n")
        about = os.fstat(stream.fileno())
        self.make()
        guard = self.guard("journal-lab", "", stream.fileno(),
                           {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})

        def entries(*words):
            systemd.ask("--sync")
            found = systemd.ask("-D", "/run/log/journal", "-o", "json", *words).stdout
            return [json.loads(line) for line in found.splitlines()]

        eventually("it guards", lambda: entries("-t", "nbguardd", "-g", "guards 1 containers") or None)
        self.go.touch()
        [entry] = eventually("an entry", lambda: entries(f"MESSAGE_ID={KILL}") or None)
        written = (self.folder / "incidents.jsonl").read_text().splitlines()
        # On cgroup v1 the kernel's OOM killer may have been there as well: that is a record of its own.
        [record] = [record for record in map(json.loads, written) if record["kind"] == "kill"]
        shown = NOTEBOOK.replace("\\", "\\\\")
        for field, value in {
            "PRIORITY": "4", "SYSLOG_IDENTIFIER": "nbguardd", "_TRANSPORT": "journal",
            "_PID": str(guard.pid), "NBGUARD_KIND": "kill", "NBGUARD_REASON": "largest",
            "NBGUARD_CONTAINER": "journal-lab", "NBGUARD_CONTAINER_ID": self.ground.id,
            "NBGUARD_NOTEBOOK": shown, "NBGUARD_EPISODE": record["id"],
            "NBGUARD_SENTENCE": record["sentence"], "NBGUARD_MEMORY": str(record["victim"]["memory"]),
        }.items():
            self.assertEqual(entry.get(field), value, field)
        self.assertEqual(record["victim"]["kernel_id"], KERNEL)
        # The line is what it always was, and there once.
        lines = entries("-t", "nbguardd", "-g", "^episode=.* kind=kill")
        self.assertEqual([line["MESSAGE"] for line in lines], [entry["MESSAGE"]])
        # Without anybody at the socket the line comes as every other does.
        daemon.kill()
        daemon.wait()
        guard.terminate()
        self.assertEqual(guard.wait(60), 0)


if __name__ == "__main__":
    unittest.main()
