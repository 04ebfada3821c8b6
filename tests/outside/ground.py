"""What the tests with other people's programs stand on: a container-like cgroup with a server and
one notebook, a guard for it alone, and tools out of Debian's packages, which are unpacked beneath
.cache: nothing is installed, and no service of this machine is started or asked.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = REPOSITORY / "packaging"
CACHE = REPOSITORY / ".cache/outside"
# What happens at once may take this long on a machine that is busy with other things.
PATIENCE = 60
LIMIT = 256 << 20
# 90 % of it, and a little.
PRESSED = 236 << 20
KERNEL = "00000001-0000-4000-8000-000000000000"
NOTEBOOK = "/home/jovyan/\"a\\b\".ipynb"

# In the container: the init and server, and its one kernel, which takes memory when told to.
SERVER = f"""
import os, signal, sys, time
child = os.fork()
if child == 0:
    env = dict(os.environ, JPY_PARENT_PID=str(os.getppid()), JPY_SESSION_NAME={NOTEBOOK!r})
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], "-f", "/run/kernel-{KERNEL}.json"], env)
signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, 9), sys.exit()))
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(3600)
"""
GROWS = f"""
import pathlib, sys, time
held = []
go = pathlib.Path({{go!r}})
while not go.exists():
    time.sleep(0.05)
usage = pathlib.Path({{usage!r}})
while True:
    if int(usage.read_text()) < {PRESSED}:
        held.append(b"x" * (1 << 20))
    else:
        time.sleep(0.05)
"""


def skip(why):
    raise unittest.SkipTest(why)


def unpacked(package, path):
    """A file of a Debian package, unpacked with all that is in it."""
    root = CACHE / package
    if (root / path).exists():
        return root / path
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        skip(f"{package} is missing, and there is no apt to fetch it")
    root.mkdir(parents=True, exist_ok=True)
    words = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and os.geteuid() == 0:
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=600)
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    archives = sorted(root.glob("*.deb"))
    if done.returncode != 0 or not archives:
        skip(f"{package} cannot be fetched: {done.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", archives[-1], root], check=True)
    return root / path


def built(name):
    """A program of this tree."""
    binaries = os.environ.get("NBGUARD_BIN_DIR")
    every = [pathlib.Path(binaries)] if binaries else sorted(REPOSITORY.glob("target/*-linux-gnu/debug"))
    found = [path / name for path in every if (path / name).exists()]
    if not found:
        skip(f"{name} is not built (cargo build, or set NBGUARD_BIN_DIR)")
    return found[0]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def eventually(what, see):
    until = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < until:
        try:
            if (seen := see()) is not None:
                return seen
        except OSError as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE} s ({last})")


class Ground:
    """A cgroup such as Docker makes it, with a limit."""

    def __init__(self):
        root = pathlib.Path("/sys/fs/cgroup")
        if os.geteuid() != 0:
            skip("not root")
        controllers = root / "cgroup.controllers"
        self.is_v2 = controllers.exists() and "memory" in controllers.read_text().split()
        self.memory = root if self.is_v2 else root / "memory"
        if not self.memory.is_dir():
            skip("there is no memory controller")
        self.roots = [self.memory]
        if not self.is_v2 and (root / "unified").is_dir():
            self.roots.append(root / "unified")
        self.id = f"{os.getpid():08x}".ljust(64, "e")
        self.made = []

    def make(self):
        for root in self.roots:
            parent = root / "docker"
            if not parent.exists():
                parent.mkdir()
                self.made.append(parent)
            if self.is_v2:
                for above in (root, parent):
                    (above / "cgroup.subtree_control").write_text("+memory")
            (parent / self.id).mkdir()
            self.made.append(parent / self.id)
        own = self.memory / "docker" / self.id
        if self.is_v2:
            (own / "memory.max").write_text(str(LIMIT))
            with contextlib.suppress(OSError):
                (own / "memory.swap.max").write_text("0")
            self.usage = own / "memory.current"
        else:
            (own / "memory.limit_in_bytes").write_text(str(LIMIT))
            self.usage = own / "memory.usage_in_bytes"

    def take(self):
        """For the child itself, before it becomes somebody else."""
        for root in self.roots:
            (root / "docker" / self.id / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        for path in reversed(self.made):
            for _ in range(100):
                try:
                    path.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


class Guarded(unittest.TestCase):
    """A folder, a container with one notebook that grows when told to, and a guard."""

    def start(self, words, **more):
        child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, **more)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def make(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-outside-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.ground = Ground()
        self.addCleanup(self.ground.remove)
        try:
            self.ground.make()
        except OSError as error:
            skip(f"no container can be made here: {error}")
        self.go = self.folder / "go"
        grows = GROWS.format(go=str(self.go), usage=str(self.ground.usage))
        server = self.start([sys.executable, "-c", SERVER, grows], stderr=subprocess.DEVNULL,
                            preexec_fn=self.ground.take)
        self.addCleanup(server.send_signal, signal.SIGTERM)

    def guard(self, name, more, stderr, environment=None):
        program = built("nbguardd")
        about = self.folder / "docker/containers" / self.ground.id
        about.mkdir(parents=True)
        (about / "config.v2.json").write_text(json.dumps({
            "ID": self.ground.id, "Name": f"/{name}", "State": {"Running": True, "Pid": 0},
            "Config": {"Image": "lab", "Labels": {}, "Env": []}}))
        (self.folder / "nbguard.toml").write_text(f"""
[guard]
docker_socket = "off"
docker_root = "{self.folder}/docker"
state_dir = "{self.folder}/state"
[record]
path = "{self.folder}/incidents.jsonl"
[http]
socket = "{self.folder}/http.sock"
notebook_socket = "off"
{more}""")
        settings = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        return self.start([program, "--config", self.folder / "nbguard.toml", "--only-cgroup",
                           f"docker/{self.ground.id}"], stderr=stderr, env={**settings, **(environment or {})})
