"""Containers with a stand-in notebook server in them: started, spoken to, and removed.

A container here is what Docker makes of `docker run` with an empty image and the guest's own
/usr and /etc bound in read-only: the same scope, limits and namespaces as any other, without
importing an image (which takes minutes under emulation).
"""

import json
import os
import pathlib
import queue
import shutil
import socket
import subprocess
import threading
import time

import groups

IMAGE = "notebook-stack"
HOMES = pathlib.Path("/srv/vm")
ROOT_FOLDER = pathlib.Path("/var/tmp/empty-image")
# docker run takes about 5 s under emulation; on a thrashing host it can take much longer.
DOCKER_SECONDS = 120


class LabError(Exception):
    """The scenario could not be set up; the text says what failed."""


def run(command, seconds=DOCKER_SECONDS, check=True, **how):
    """A command with an end, its output as text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, **how)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command}: no end after {seconds} s") from error
    if check and done.returncode != 0:
        raise LabError(f"{command}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def import_image():
    """An image with folders and nothing in them: what a container sees is bound in."""
    root = ROOT_FOLDER
    # /sbin is a folder of its own: --init puts docker-init there.
    for folder in ("usr", "etc", "proc", "sys", "dev", "tmp", "home/jovyan", "opt/tools", "run", "var", "sbin"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    os.chmod(root / "tmp", 0o1777)
    for folder in ("bin", "lib", "lib64"):
        if not (root / folder).is_symlink():
            (root / folder).symlink_to(f"usr/{folder}")
    run(["sh", "-c", f"tar -C {root} -c . | docker import - {IMAGE}"])


class Container:
    """One container of a scenario, with the server inside and everything it told."""

    def __init__(self, spec):
        self.spec = spec
        self.name = spec["name"]
        self.home = HOMES / self.name
        self.events = queue.Queue()
        self.id = None
        self.cgroup = None
        self.pid = None
        self.log = ""

    def start(self):
        """docker run, then the connection to the server."""
        self.lay_out_home()
        self.id = self.find_id(run(self.run_command()))
        self.cgroup = self.find_cgroup()
        self.pid = self.host_pid(1)
        if self.pid is None:
            raise LabError(f"{self.name}: ended at once: {self.read_log()}")
        with open(f"/proc/{self.pid}/oom_score_adj") as file:
            score = file.read().strip()
        if score != "0":  # the kernel would choose by this, not by size
            raise LabError(f"{self.name}: oom_score_adj is {score}, not 0")
        self.connect()

    def find_id(self, printed):
        return printed.strip()

    def group_names(self):
        """With the systemd driver, and with the cgroupfs driver."""
        return [f"docker-{self.id}.scope", self.id]

    def find_cgroup(self):
        """Its group, in whichever slice: `docker inspect` would cost a second under emulation."""
        for folder, below, _ in os.walk(groups.MEMORY):
            for name in self.group_names():
                if name in below:
                    return pathlib.Path(folder) / name
        raise LabError(f"{self.name}: there is no {self.group_names()[0]}: {self.read_log()}")

    def run_command(self):
        spec = self.spec
        command = ["docker", "run", "-d", "--name", self.name, "--hostname", self.name, "--network", "none",
                   "-v", f"{self.home}:/home/jovyan", "-w", "/home/jovyan", "--user", str(self.user),
                   "--shm-size", str(spec["shm_size"])]
        if spec["memory"] is not None:
            command += ["-m", str(spec["memory"])]
        if spec["memory_swap"] is not None:
            command += ["--memory-swap", str(spec["memory_swap"])]
        if spec["init"]:
            command.append("--init")
        if spec["cgroup_parent"]:
            command.append(f"--cgroup-parent={spec['cgroup_parent']}")
        for mount in self.binds() + spec["mounts"]:
            command += ["-v", mount]
        for key, value in spec["labels"].items():
            command += ["--label", f"{key}={value}"]
        for key, value in self.environment().items():
            command += ["-e", f"{key}={value}"]
        return command + [IMAGE, *self.words()]

    def environment(self):
        return {"HOME": "/home/jovyan", "USER": "jovyan", "OPENBLAS_NUM_THREADS": "1",
                "JUPYTER_RUNTIME_DIR": "/home/jovyan/.local/share/jupyter/runtime", **self.spec["env"]}

    @property
    def user(self):
        return self.spec["user"]

    def binds(self):
        """What of the guest is seen in the container."""
        return ["/usr:/usr:ro", "/etc:/etc:ro", "/opt/vm/guest/tools:/opt/tools:ro"]

    def words(self):
        """Its first process; run by its own name, which is what other guards know a server by."""
        return ["/opt/tools/jupyter-lab", "--ip=127.0.0.1"]

    def lay_out_home(self):
        """The home folder with the server's orders and the scenario's files; big ones are sparse."""
        shutil.rmtree(self.home, ignore_errors=True)
        runtime = self.home / ".local/share/jupyter/runtime"
        runtime.mkdir(parents=True)
        for file in self.spec["file"]:
            path = self.home / file["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            if file["size"] is not None:
                os.truncate(path, file["size"])
        server = self.spec["server"]
        orders = {"ballast_mib": server["ballast"] >> 20, "grow_mib": server["grow"] >> 20,
                  "notebooks": self.spec["notebook"],
                  "processes": [one for one in self.spec["process"] if one["kind"] != "exec"]}
        (self.home / ".spec.json").write_text(json.dumps(orders))
        run(["chown", "-R", f"{self.user}:{self.user}", str(self.home)])
        os.chmod(self.home, 0o777)

    def connect(self):
        """The server listens as soon as it runs; then a thread turns what it says into events."""
        deadline = time.monotonic() + DOCKER_SECONDS
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(self.home / ".server.sock"))
                break
            except OSError:
                if time.monotonic() > deadline or not os.path.exists(f"/proc/{self.pid}"):
                    raise LabError(f"{self.name}: the server did not come up: {self.read_log()}") from None
                time.sleep(0.1)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        try:
            for line in self.socket.makefile():
                self.events.put(json.loads(line))
        except (OSError, ValueError):
            pass
        self.events.put({"event": "server-gone", "at": time.monotonic()})

    def command(self, what):
        if what == "go":
            self.start_execs()
        try:
            self.socket.sendall((json.dumps({"do": what}) + "\n").encode())
        except OSError:
            pass  # a dead server shows as server-gone

    def start_execs(self):
        for process in self.spec["process"]:
            if process["kind"] == "exec":
                threading.Timer(process["start"], self.start_exec, [process]).start()

    def start_exec(self, process):
        """`docker exec`: what somebody on the host puts into the container, no child of anything in it."""
        file = f".{process['name']}.pid"
        try:
            run(["docker", "exec", "-d", self.name, "/bin/sh", "-c",
                 f"echo $$ >/home/jovyan/{file}.new; mv /home/jovyan/{file}.new /home/jovyan/{file}; "
                 f"exec {process['command']}"])
            deadline = time.monotonic() + DOCKER_SECONDS
            while not (self.home / file).exists():
                if time.monotonic() > deadline:
                    raise LabError(f"{process['name']} did not start")
                time.sleep(0.02)
            self.events.put({"event": "process", "at": time.monotonic(), "process": process["name"],
                             "pid": int((self.home / file).read_text())})
        except (LabError, OSError, ValueError) as error:
            self.events.put({"event": "trouble", "at": time.monotonic(), "process": process["name"],
                             "text": str(error)})

    def wait_ready(self, seconds):
        """Until every kernel is up and set up; returns what was told on the way."""
        told = []
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise LabError(f"{self.name}: not ready after {seconds} s: {told[-3:]}") from None
            told.append(event)
            broken = event["event"] in ("trouble", "server-gone") or (
                event["event"] == "set-up" and event["status"] != "ok")
            if broken:
                raise LabError(f"{self.name}: {event} {self.read_log()[-800:]}")
            if event["event"] == "ready":
                return told

    def host_pid(self, inner):
        """The guest's pid of what the server knows under its own: the last column of NSpid."""
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status") as file:
                    for line in file:
                        if line.startswith("NSpid:"):
                            if int(line.split()[-1]) == inner:
                                return pid
                            break
            except (OSError, ValueError):
                continue
        return None

    def pids(self):
        """Every process of the container, nested groups too."""
        found = []
        for folder, _, _ in os.walk(self.cgroup):
            try:
                with open(f"{folder}/cgroup.procs") as file:
                    found += [int(line) for line in file]
            except OSError:
                continue
        return found

    def shm_bytes(self):
        """What is left in the container's /dev/shm."""
        total = 0
        try:
            for entry in os.scandir(f"/proc/{self.pid}/root/dev/shm"):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            return None
        return total

    def read_log(self):
        """What the server printed; straight from Docker's file, which is gone with the container."""
        if self.id:
            try:
                lines = pathlib.Path(f"/var/lib/docker/containers/{self.id}/{self.id}-json.log").read_text()
                self.log = "".join(json.loads(line)["log"] for line in lines.splitlines()[-200:])
            except (OSError, ValueError):
                pass
        return self.log


def remove_all(containers):
    """One call for all of Docker's: each would cost a second of its own."""
    docker = [one.name for one in containers if one.spec["engine"] == "docker"]
    if docker:
        run(["docker", "rm", "-f", *docker], check=False)
    for one in containers:
        if one.spec["engine"] != "docker":
            one.remove()


def start_all(containers):
    """All at once: most of docker run is waiting."""
    wrong = []

    def start(container):
        try:
            container.start()
        except (LabError, OSError, ValueError) as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=start, args=[one]) for one in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise LabError("; ".join(wrong))
