"""A real nbguardd for one container, which is a cgroup on this machine that looks like Docker's.

`Real(limit)` makes the cgroup and the guard's folders and starts the guard; `enter` puts a new
process into the container. `close` takes all of it down again.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BINARIES = os.environ.get("NBGUARD_BIN_DIR")
CGROUPS = pathlib.Path("/sys/fs/cgroup")


class Cannot(Exception):
    """Why it cannot run here."""


def hierarchies():
    """Where a container has a directory: memory first, and pressure where that is another."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    found = [CGROUPS / "memory"]
    if (CGROUPS / "unified/cgroup.procs").exists():
        found.append(CGROUPS / "unified")
    return found


class Real:
    def __init__(self, limit, http=""):
        """`http`: more lines of the guard's `[http]`."""
        if not BINARIES or not (pathlib.Path(BINARIES) / "nbguardd").exists():
            raise Cannot("no nbguardd (NBGUARD_BIN_DIR)")
        if os.geteuid() != 0:
            raise Cannot("not root")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-real-"))
        self.id = os.urandom(32).hex()
        self.group = pathlib.Path("nbguard-jupyter/docker") / self.id
        self.made = []
        self.daemon = None
        self.log = None
        try:
            self._make_groups(limit)
            self._describe(http)
            self.socket = self.folder / "notebook/nbguard.sock"
            self.start()
        except OSError as error:
            self.close()
            raise Cannot(f"no container can be made here: {error}") from None

    def _make_groups(self, limit):
        for root in hierarchies():
            at = root
            for part in self.group.parts:
                if root == CGROUPS:
                    (at / "cgroup.subtree_control").write_text("+memory")
                at = at / part
                if not at.exists():
                    at.mkdir()
                self.made.append(at)
        memory = self.made[len(self.group.parts) - 1]
        name = "memory.max" if memory.is_relative_to(CGROUPS) and hierarchies()[0] == CGROUPS else "memory.limit_in_bytes"
        (memory / name).write_text(str(limit))
        self.members = [directory / "cgroup.procs" for directory in self.made if directory.name == self.id]

    def _describe(self, http):
        """What Docker writes of a container."""
        docker = self.folder / "docker/containers" / self.id
        docker.mkdir(parents=True)
        (docker / "config.v2.json").write_text(json.dumps({
            "ID": self.id, "Name": "/jupyter-test", "Config": {"Image": "quay.io/jupyter/base-notebook",
                                                               "Labels": {}, "Env": []},
            "State": {"Running": True, "Pid": 0}}))
        for below in ("state", "notebook"):
            (self.folder / below).mkdir()
        (self.folder / "nbguard.toml").write_text(f"""
[guard]
docker_root = "{self.folder}/docker"
docker_socket = "off"
state_dir = "{self.folder}/state"
[record]
path = "{self.folder}/incidents.jsonl"
[http]
socket = "{self.folder}/http.sock"
notebook_socket = "{self.folder}/notebook/nbguard.sock"
{http}
""")

    def start(self):
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = self.folder / "notify"
        notify.unlink(missing_ok=True)
        ear.bind(str(notify))
        ear.settimeout(20)
        self.log = open(self.folder / "log", "a")
        self.daemon = subprocess.Popen(
            [str(pathlib.Path(BINARIES) / "nbguardd"), "--config", str(self.folder / "nbguard.toml"),
             "--only-cgroup", str(self.group)],
            env=dict(os.environ, NOTIFY_SOCKET=str(notify)), stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log)
        try:
            while b"READY=1" not in ear.recv(4096):
                pass
        except OSError:
            raise RuntimeError(f"the guard did not start:\n{self.told()}") from None
        finally:
            ear.close()

    def told(self):
        return (self.folder / "log").read_text(errors="replace")

    def enter(self):
        """In the new process."""
        for member in self.members:
            member.write_text(str(os.getpid()))

    def forget_cache(self):
        """Files that were read count as well until the kernel takes their pages back."""
        for directory in self.made:
            if directory.name == self.id:
                for name, words in (("memory.force_empty", "0"), ("memory.reclaim", "1G")):
                    try:
                        (directory / name).write_text(words)
                    except OSError:
                        pass  # no such file here, or nothing more to take

    def stop(self):
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(10)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
            self.daemon = None
            self.log.close()

    def close(self):
        self.stop()
        end = time.monotonic() + 10
        for directory in reversed(self.made):
            while directory.exists():
                try:
                    for pid in (directory / "cgroup.procs").read_text().split():
                        # Whoever is left in the group of the test is the test's.
                        os.kill(int(pid), signal.SIGKILL)
                except (OSError, ValueError):
                    pass
                try:
                    directory.rmdir()
                except OSError:
                    if directory.name != self.id or time.monotonic() > end:
                        break
                    time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)
