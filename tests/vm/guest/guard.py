"""The guard under test: a plain install, started with a scenario's settings, measured, and stopped.

With `--guard none` nothing is installed, and every question has an empty answer.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import groups
from lab import LabError, run

PAYLOAD = pathlib.Path("/opt/vm/payload")
UNIT = "nbguard.service"
PROCESSES = groups.SERVICES / "system.slice" / UNIT / "cgroup.procs"
INCIDENTS = pathlib.Path("/var/lib/nbguard/incidents.jsonl")
DROP_IN = pathlib.Path("/etc/nbguard/conf.d/scenario.toml")
DROP_INS = pathlib.Path("/usr/lib/systemd/system/nbguard.service.d")
ARGUMENTS = pathlib.Path("/etc/systemd/system/nbguard.service.d/scenario.conf")
INSTALLED = {
    "nbguardd": ("/usr/sbin/nbguardd", 0o755), "nbguard": ("/usr/bin/nbguard", 0o755),
    "nbguard.toml": ("/etc/nbguard/nbguard.toml", 0o644),
}


class NoGuard:
    """What the kernel does alone."""

    pid = None
    installed = False

    def start(self, settings):
        pass

    def stop(self):
        pass

    def measure(self):
        return None

    def incidents(self):
        return []

    def journal(self):
        return ""


class Guard:
    """The nbguard unit of this guest."""

    installed = True

    def __init__(self):
        for name, (target, mode) in INSTALLED.items():
            place = pathlib.Path(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PAYLOAD / name, place)
            place.chmod(mode)
        for unit in PAYLOAD.glob("*.service"):
            shutil.copy(unit, f"/usr/lib/systemd/system/{unit.name}")
        if int(run(["systemctl", "--version"]).split()[1]) >= 253:  # as the package decides it
            DROP_INS.mkdir(parents=True, exist_ok=True)
            shutil.copy(PAYLOAD / "notify-reload.conf", DROP_INS)
        self.since = time.time()

    @property
    def pid(self):
        """The daemon's pid now, or None while it is down. Asking systemd would cost 100 ms and wake PID 1."""
        try:
            pids = [int(line) for line in PROCESSES.read_text().split()]
        except OSError:
            return None
        return next((pid for pid in pids if is_daemon(pid)), None)

    def start(self, settings):
        """Fresh records, this scenario's drop-in, and the daemon up and ready."""
        INCIDENTS.unlink(missing_ok=True)
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(settings["config"])
        self.write_arguments(settings["arguments"])
        self.since = time.time()
        done = subprocess.run(["systemctl", "restart", UNIT], capture_output=True, text=True, timeout=60)
        if done.returncode != 0 or self.pid is None:
            raise LabError(f"the guard did not start: {done.stderr.strip()}\n{self.journal()}")

    def write_arguments(self, arguments):
        """Arguments come as a drop-in of the unit, as an administrator would add them."""
        if arguments:
            ARGUMENTS.parent.mkdir(parents=True, exist_ok=True)
            words = " ".join(arguments)
            ARGUMENTS.write_text(f"[Service]\nExecStart=\nExecStart=/usr/sbin/nbguardd {words}\n")
        else:
            ARGUMENTS.unlink(missing_ok=True)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "reset-failed", UNIT], check=False)

    def stop(self):
        run(["systemctl", "stop", UNIT], 60)

    def signal(self, number):
        pid = self.pid
        if pid:
            os.kill(pid, number)

    def act(self, action):
        """A fault that is done to the daemon."""
        if action == "kill-daemon":
            self.signal(signal.SIGKILL)
        elif action == "stop-daemon":
            self.signal(signal.SIGSTOP)
        elif action == "continue-daemon":
            self.signal(signal.SIGCONT)
        elif action == "reload-daemon":
            run(["systemctl", "reload", UNIT], 60)
        elif action == "restart-daemon":
            run(["systemctl", "restart", UNIT], 60)
        elif action == "start-daemon":
            run(["systemctl", "start", UNIT], 60)

    def measure(self):
        return measure_process(self.pid)

    def incidents(self):
        """Every record that it wrote since it was started."""
        try:
            lines = INCIDENTS.read_text(errors="replace").splitlines()
        except OSError:
            return []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:
                records.append({"broken": line[:500]})
        return records

    def journal(self):
        return run(["journalctl", "--no-pager", "-o", "short-monotonic", "-u", UNIT,
                    f"--since=@{self.since:.3f}"], 60, check=False)


def measure_process(pid):
    """Its memory, and how often its threads woke up so far; None when there is none."""
    if not pid:
        return None
    try:
        status = read_status(f"/proc/{pid}/status")
        wakeups = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            threads = read_status(f"/proc/{pid}/task/{task}/status")
            wakeups += int(threads["voluntary_ctxt_switches"]) + int(threads["nonvoluntary_ctxt_switches"])
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{pid}/smaps_rollup") as file:
            pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        ticks = os.sysconf("SC_CLK_TCK")
        return {"pid": pid, "rss_kib": kib(status, "VmRSS"), "rss_peak_kib": kib(status, "VmHWM"),
                "anon_kib": kib(status, "RssAnon"), "pss_kib": pss, "threads": int(status["Threads"]),
                "wakeups": wakeups, "cpu_ms": (int(fields[11]) + int(fields[12])) * 1000 // ticks,
                "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}
    except (OSError, KeyError, StopIteration):
        return None


def is_daemon(pid):
    """Not a child that the daemon started: that one's name is another, also when it was orphaned."""
    try:
        status = read_status(f"/proc/{pid}/status")
    except OSError:
        return False
    return status.get("Name") == "nbguardd" and status.get("PPid") == "1" and status.get("State", "Z")[0] not in "ZX"


def read_status(path):
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def kib(status, key):
    return int(status[key].split()[0])
