"""Containers as Docker makes them, on this very machine, with stand-in notebooks in them, and a real
nbguardd that guards these and no others and answers on a port of the loopback."""

import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

STANDINS = pathlib.Path(__file__).resolve().parent / "standins"
MIB = 1 << 20
PATIENCE = 30

CONTAINERS = [
    {"name": "climate-lab", "image": "quay.io/jupyter/scipy-notebook:2026-11-02", "limit": 640, "books": [
        {"path": "/home/jovyan/era5/regrid.ipynb", "workers": 6, "megabytes": 150},
        {"path": "/home/jovyan/era5/validate.ipynb", "workers": 2, "megabytes": 96},
        {"path": "/home/jovyan/plots/fig-3.ipynb", "workers": 0, "megabytes": 60}]},
    {"name": "teaching-ws26", "image": "registry.example.edu/teaching/datascience:ws26", "limit": 1024, "books": [
        {"path": f"/home/jovyan/exercises/sheet-{n:02}.ipynb", "workers": n % 3, "megabytes": 150 - 21 * n} for n in range(1, 7)]},
    {"name": "genomics", "image": "quay.io/jupyter/r-notebook:2026-10-27", "limit": 512, "books": [
        {"path": "/home/jovyan/assembly.ipynb", "workers": 3, "megabytes": 130},
        {"path": "/home/jovyan/Untitled3.ipynb", "workers": 0, "megabytes": 24}]},
    {"name": "r-course", "image": "quay.io/jupyter/r-notebook:2026-10-27", "limit": 768, "books": [
        {"path": "/home/jovyan/week-5/regression.ipynb", "workers": 0, "megabytes": 70},
        {"path": "/home/jovyan/week-5/survival.ipynb", "workers": 0, "megabytes": 40}]},
]


class CannotStand(Exception):
    """This machine has no ground for it."""


def hierarchies():
    """Where memory is counted, and where pressure is; twice the same on cgroup v2."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    unified = next((pathlib.Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)
    memory = next((pathlib.Path(m[1]) for m in mounts if m[2] == "cgroup" and "memory" in m[3].split(",")), None)
    if memory is None and unified and "memory" in (unified / "cgroup.controllers").read_text().split():
        return unified, None
    if memory is None:
        raise CannotStand("there is no memory controller")
    return memory, unified


class Stage:
    def __init__(self, binaries, containers=CONTAINERS, token=None):
        if os.geteuid() != 0:
            raise CannotStand("not root")
        self.binary = pathlib.Path(binaries) / "nbguardd"
        self.memory, self.unified = hierarchies()
        self.own = pathlib.Path("nbguard-demo") / f"web-{secrets.token_hex(4)}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-web-"))
        self.made, self.servers, self.daemon = [], [], None
        self.record = self.folder / "incidents.jsonl"
        self.ids = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        try:
            for box in containers:
                self.container(box)
            self.start(containers, token)
        except BaseException:
            self.clear()
            raise

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    def group(self, root, path):
        at = root
        for name in path.parts:
            if root == self.memory and self.unified is None:
                try:
                    (at / "cgroup.subtree_control").write_text("+memory")
                except OSError as error:
                    raise CannotStand(f"the memory controller cannot be passed on: {error}") from None
            at = at / name
            if not at.exists():
                try:
                    at.mkdir()
                except OSError as error:
                    raise CannotStand(f"{at}: {error}") from None
                self.made.append(at)
        return at

    def container(self, box):
        identity = secrets.token_hex(32)
        self.ids[box["name"]] = identity
        path = self.own / "docker" / identity
        group = self.group(self.memory, path)
        limit = group / ("memory.limit_in_bytes" if self.unified or (group / "memory.limit_in_bytes").exists() else "memory.max")
        limit.write_text(str(box["limit"] * MIB))
        groups = [group] + ([self.group(self.unified, path)] if self.unified else [])
        shutil.copytree(STANDINS, self.folder / "bin", dirs_exist_ok=True)
        server = subprocess.Popen(
            [sys.executable, str(self.folder / "bin/jupyter-lab"), "--no-browser"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=open(self.folder / f"{box['name']}.log", "w"), text=True, start_new_session=True,
            env={"PATH": f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(self.folder / "bin"), "PYTHONDONTWRITEBYTECODE": "1",
                 "JOIN": ":".join(str(each / "cgroup.procs") for each in groups), "BOOKS": json.dumps(box["books"])})
        self.servers.append((box["name"], server))
        folder = self.folder / "docker/containers" / identity
        folder.mkdir(parents=True)
        (folder / "config.v2.json").write_text(json.dumps({
            "ID": identity, "Name": "/" + box["name"], "Config": {"Image": box["image"], "Labels": {"tier": "test"}, "Env": []},
            "State": {"Running": True, "Pid": server.pid}}))
        wanted = sum(book["megabytes"] for book in box["books"]) * MIB
        usage = group / ("memory.usage_in_bytes" if (group / "memory.usage_in_bytes").exists() else "memory.current")
        self.until(lambda: int(usage.read_text()) > wanted, f"the notebooks of {box['name']}")

    def start(self, containers, token):
        (self.folder / "state").mkdir(exist_ok=True)
        rules = "".join(f"\n[[rule]]\nname = {json.dumps(box['name'])}\nignore = false\n" for box in containers)
        text = (f"[guard]\ndocker_root = {json.dumps(str(self.folder / 'docker'))}\ndocker_socket = \"off\"\n"
                f"state_dir = {json.dumps(str(self.folder / 'state'))}\n[record]\npath = {json.dumps(str(self.record))}\n"
                f"[http]\nsocket = \"off\"\nnotebook_socket = \"off\"\nlisten = \"127.0.0.1:{self.port}\"\n")
        if token:
            file = self.folder / "token"
            file.write_text(token + "\n")
            file.chmod(0o600)
            text += f"token_file = {json.dumps(str(file))}\n"
        config = self.folder / "nbguard.toml"
        config.write_text(text + "[default]\nignore = true\n" + rules)
        self.daemon = subprocess.Popen([str(self.binary), "--config", str(config), "--only-cgroup", str(self.own)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.folder / "nbguardd.log", "w"),
                                       env={"PATH": os.environ["PATH"]})
        self.until(lambda: self.answers() and len(self.ask("/api/v1/containers", token)["containers"]) == len(containers), "the guard")

    def until(self, seen, what):
        end = time.monotonic() + PATIENCE
        while not seen():
            if self.daemon and self.daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{what}: not within {PATIENCE} s\n{self.log()}")
            time.sleep(0.05)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def ask(self, path, token=None):
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        asked.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return json.loads(asked.getresponse().read())

    def grow(self, name, book, megabytes):
        server = dict(self.servers)[name]
        server.stdin.write(f"{book} {megabytes}\n")
        server.stdin.flush()

    def records(self):
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def log(self):
        return "\n".join(file.read_text()[-2000:] for file in sorted(self.folder.glob("*.log")))

    def stop_daemon(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(20)

    def clear(self):
        try:
            self.stop_daemon()
        finally:
            for _, server in self.servers:
                # It is the container's; all that is in there goes with it.
                if server.poll() is None:
                    os.killpg(server.pid, signal.SIGKILL)
                    server.wait()
            for group in reversed(self.made):
                end = time.monotonic() + 10
                while group.exists() and time.monotonic() < end:
                    for pid in (group / "cgroup.procs").read_text().split():
                        try:
                            os.kill(int(pid), signal.SIGKILL)
                        except ProcessLookupError:
                            pass
                    try:
                        group.rmdir()
                    except OSError:
                        # Busy until its last process is reaped; a group above may be another stage's.
                        if group.name == "nbguard-demo":
                            break
                        time.sleep(0.05)
            shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    # To look at it: tests/web/stage.py target/…/debug
    stage = Stage(sys.argv[1])
    try:
        print(stage.address, flush=True)
        for line in sys.stdin:
            stage.grow(*line.split())
    except KeyboardInterrupt:
        pass
    finally:
        stage.clear()
