"""Another guard under test: its Debian package, its configuration laid over it, its own unit.

To a scenario it looks like the guard does that is not there: it has no records, and what a
scenario sets for nbguard says nothing to it.
"""

import pathlib
import shutil
import time

from guard import NoGuard, measure_process
from lab import LabError, run

PAYLOAD = pathlib.Path("/opt/vm/payload/peers")
# Unit -> what tells which groups it watches: its journal does not say.
SHOWS = {"systemd-oomd.service": ["oomctl"]}
# dpkg asks it whether a package may start its service: not before it is configured.
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")


class Peer(NoGuard):
    """Installed once in a boot; started and stopped with each scenario."""

    def __init__(self, order):
        self.unit = order["unit"]
        self.main = None
        self.watched = ""
        self.since = time.time()
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
        run(["dpkg", "-i", "--force-confold", *(str(PAYLOAD / file) for file in order["packages"])])
        shutil.copytree(PAYLOAD / "guards" / order["name"], "/", dirs_exist_ok=True)
        run(["systemctl", "daemon-reexec"])

    def start(self, settings):
        self.since = time.time()
        run(["systemctl", "reset-failed", self.unit], check=False)
        run(["systemctl", "restart", self.unit], 60)
        time.sleep(1)  # a daemon that refuses its configuration is gone by then
        state = self.show("ActiveState")
        self.main = int(self.show("MainPID") or 0)
        if state != "active" or self.measure() is None:
            raise LabError(f"{self.unit} did not start: {state}\n{self.journal()}")
        if self.unit in SHOWS:
            self.watched = run(SHOWS[self.unit], 60, check=False)

    def show(self, name):
        return run(["systemctl", "show", "-p", name, "--value", self.unit], 60).strip()

    def stop(self):
        run(["systemctl", "stop", self.unit], 60)

    def measure(self):
        return measure_process(self.main)

    def journal(self):
        return self.watched + run(["journalctl", "--no-pager", "-o", "short-monotonic", "-u", self.unit,
                    f"--since=@{self.since:.3f}"], 60, check=False)
