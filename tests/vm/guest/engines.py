"""The same container with another engine than Docker: what a guard sees is another group and another record."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from lab import Container, DOCKER_SECONDS, HOMES, IMAGE, LabError, ROOT_FOLDER, run

ROOTS = pathlib.Path("/var/tmp/roots")
# A process that is started by another engine's helper inherits its score; workloads start from 0.
FROM_ZERO = ["/bin/sh", "-c", 'echo 0 >/proc/self/oom_score_adj; exec "$@"', "sh"]


def own_root():
    """A root for one container: what an engine makes in it is not there for the next."""
    ROOTS.mkdir(parents=True, exist_ok=True)
    root = pathlib.Path(tempfile.mkdtemp(dir=ROOTS))
    shutil.copytree(ROOT_FOLDER, root, symlinks=True, dirs_exist_ok=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    return root


class ContainerdContainer(Container):
    """What a kubelet has containerd make: a group below kubepods.slice, and no Docker anywhere."""

    def run_command(self):
        spec = self.spec
        pod = hashlib.md5(self.name.encode()).hexdigest()
        self.wanted_id = hashlib.sha256(f"{self.name} {time.time()}".encode()).hexdigest()
        group = f"kubepods-burstable-pod{pod}.slice:cri-containerd:{self.wanted_id}"
        command = ["ctr", "-n", "k8s.io", "run", "-d", "--runc-systemd-cgroup", "--cgroup", group,
                   "--label", f"io.kubernetes.container.name={self.name}", "--user", str(self.user),
                   "--cwd", "/home/jovyan", "--rootfs"]
        if spec["memory"] is not None:
            command += ["--memory-limit", str(spec["memory"])]
        for mount in [f"{self.home}:/home/jovyan", *self.binds(), *spec["mounts"]]:
            source, target, *how = mount.split(":")
            command += ["--mount", f"type=bind,src={source},dst={target},options=rbind:{(how or ['rw'])[0]}"]
        for key, value in self.environment().items():
            command += ["--env", f"{key}={value}"]
        # ctr makes no network and no pause container: the group of the workload is all that matters here.
        return command + [str(own_root()), self.wanted_id, *FROM_ZERO, *self.words()]

    def find_id(self, printed):
        return self.wanted_id

    def group_names(self):
        return [f"cri-containerd-{self.id}.scope"]

    def remove(self):
        if self.id:
            run(["ctr", "-n", "k8s.io", "task", "rm", "-f", self.id], check=False)
            run(["ctr", "-n", "k8s.io", "container", "rm", self.id], check=False)


class PodmanContainer(Container):
    """Podman as root: no daemon, a scope in machine.slice."""

    ARCHIVE = pathlib.Path("/opt/vm/payload/podman.tar")
    PODMAN = ["podman", "--storage-driver", "vfs"]

    def start(self):
        self.unpack()
        super().start()

    def unpack(self):
        if self.ARCHIVE.exists():
            run(["tar", "--keep-directory-symlink", "-C", "/", "-xf", str(self.ARCHIVE)])
            run(["ldconfig"])
            self.ARCHIVE.unlink()

    def run_command(self):
        command = [*self.PODMAN, "--runtime", "runc", "run", "-d", "--name", self.name,
                   "--network", "none", "--log-driver", "none", "-w", "/home/jovyan", "--user", str(self.user),
                   "--shm-size", str(self.spec["shm_size"]), "--oom-score-adj", "0"]
        if self.spec["memory"] is not None:
            command += ["-m", str(self.spec["memory"])]
        for mount in [f"{self.home}:/home/jovyan", *self.binds(), *self.spec["mounts"]]:
            command += ["-v", mount]
        for key, value in self.environment().items():
            command += ["-e", f"{key}={value}"]
        return command + ["--rootfs", str(self.root()), *self.words()]

    def root(self):
        return own_root()

    def find_id(self, printed):
        return printed.split()[-1]

    def group_names(self):
        return [f"libpod-{self.id}.scope"]

    def remove(self):
        run([*self.PODMAN, "rm", "-f", "-t", "0", self.name], check=False)


class RootlessPodmanContainer(PodmanContainer):
    """Podman as a user, whose own systemd made the scope; there is no session, as under `enable-linger`."""

    USER, UID = "jovyan", 1000
    RUNTIME = pathlib.Path(f"/run/user/{UID}")
    PODMAN = ["runuser", "-u", USER, "--", "env", "-C", "/", f"HOME=/home/{USER}", f"XDG_RUNTIME_DIR={RUNTIME}",
              f"DBUS_SESSION_BUS_ADDRESS=unix:path={RUNTIME}/bus", *PodmanContainer.PODMAN]

    def start(self):
        self.unpack()
        if not self.RUNTIME.exists():
            self.let_linger()
        super().start()

    def let_linger(self):
        """What the guest leaves out: a home, a range of ids, a word for PAM, and the user's own systemd."""
        home = pathlib.Path(f"/home/{self.USER}")
        home.mkdir(parents=True, exist_ok=True)
        os.chown(home, self.UID, self.UID)
        for file in ("/etc/subuid", "/etc/subgid"):
            pathlib.Path(file).write_text(f"{self.USER}:100000:65536\n")
        with open("/etc/shadow", "a") as file:
            file.write(f"{self.USER}:*:20000::::::\n")
        run(["systemctl", "unmask", "systemd-logind.service"])
        run(["systemctl", "start", "systemd-logind.service"])
        run(["loginctl", "enable-linger", self.USER])
        deadline = time.monotonic() + DOCKER_SECONDS
        while not (self.RUNTIME / "bus").exists():
            if time.monotonic() > deadline:
                raise LabError(f"no bus of {self.USER}: {run(['systemctl', 'status', f'user@{self.UID}'], check=False)}")
            time.sleep(0.2)

    def run_command(self):
        command = super().run_command()
        where = command.index("--name")
        return [*command[:where], "--userns", "keep-id", *command[where:]]

    def root(self):
        root = super().root()
        run(["chown", "-R", f"{self.UID}:{self.UID}", str(root)])
        return root


class NestedContainer(Container):
    """A container of a Docker that runs in a container itself: the group is below that one's scope."""

    # Everything of the inner Docker is seen at the same place outside and inside.
    PLACE = pathlib.Path("/srv/dind")
    # What the usual image for this does first: its own group must be a leaf before others can be made beside it.
    BEGIN = """
cd /sys/fs/cgroup && mkdir -p init && for p in $(cat cgroup.procs); do echo $p >init/cgroup.procs; done
sed 's/^/+/; s/ / +/g' cgroup.controllers >cgroup.subtree_control
exec dockerd -H unix://PLACE/docker.sock --data-root PLACE/data --exec-root PLACE/exec --pidfile PLACE/docker.pid \\
  --bridge none --iptables=false --ip6tables=false --exec-opt native.cgroupdriver=cgroupfs --config-file PLACE/none.json
"""

    def start(self):
        self.PLACE.mkdir(parents=True, exist_ok=True)
        (self.PLACE / "none.json").write_text("{}")
        (self.PLACE / "docker.sock").unlink(missing_ok=True)
        for place in (HOMES, pathlib.Path("/opt/vm")):
            place.mkdir(parents=True, exist_ok=True)
        binds = [word for path in ("/usr", "/etc", "/opt/vm", str(HOMES), str(self.PLACE))
                 for word in ("-v", f"{path}:{path}")]
        run(["docker", "run", "-d", "--privileged", "--name", f"{self.name}-host", "--network", "none", *binds, IMAGE,
             "/bin/sh", "-c", self.BEGIN.replace("PLACE", str(self.PLACE))])
        deadline = time.monotonic() + DOCKER_SECONDS
        while run(self.inner("info"), check=False) == "" or not (self.PLACE / "docker.sock").exists():
            if time.monotonic() > deadline:
                log = subprocess.run(["docker", "logs", f"{self.name}-host"], capture_output=True, text=True, timeout=60)
                raise LabError(f"{self.name}: no Docker in it: {log.stderr[-800:]}")
            time.sleep(0.5)
        run(["sh", "-c", f"tar -C {ROOT_FOLDER} -c . | {' '.join(self.inner('import', '-', IMAGE))}"])
        super().start()

    def inner(self, *words):
        return ["docker", "-H", f"unix://{self.PLACE}/docker.sock", *words]

    def run_command(self):
        return self.inner(*super().run_command()[1:])

    def group_names(self):
        return [self.id]

    def remove(self):
        run(self.inner("rm", "-f", self.name), check=False)
        run(["docker", "rm", "-f", f"{self.name}-host"], check=False)


ENGINES = {"docker": Container, "docker-in-docker": NestedContainer, "containerd": ContainerdContainer,
           "podman": PodmanContainer, "podman-rootless": RootlessPodmanContainer}


def set_cgroup_driver(driver):
    """Docker with this driver; a restart only where it has another."""
    config = pathlib.Path("/etc/docker/daemon.json")
    text = config.read_text()
    other = {"systemd": "cgroupfs", "cgroupfs": "systemd"}[driver]
    if f"native.cgroupdriver={other}" not in text:
        return
    config.write_text(text.replace(f"native.cgroupdriver={other}", f"native.cgroupdriver={driver}"))
    run(["systemctl", "restart", "docker.service"])
    found = run(["docker", "info", "--format", "{{.CgroupDriver}}"]).strip()
    if found != driver:
        raise LabError(f"Docker's cgroup driver is {found}, not {driver}")


def set_zram(size):
    """Swap of this size in memory, or none."""
    device = pathlib.Path("/sys/block/zram0")
    if device.exists() and (device / "disksize").read_text().strip() != "0":
        run(["swapoff", "/dev/zram0"], check=False)
        # Busy as long as anybody has it open, as udev does when it is told of a change.
        run(["udevadm", "settle"], check=False)
        (device / "reset").write_text("1")
    if size:
        run(["modprobe", "zram"])
        (device / "disksize").write_text(str(size))
        run(["mkswap", "-q", "/dev/zram0"])
        run(["swapon", "/dev/zram0"])

