"""How the root file system and the disk of a guest are made: a real Debian with systemd, Docker and Python kernels.

The key of a cached image is a hash of this file, so everything that shapes the guest stands
here, and nothing that does not. It names no mirror: the caller passes the one apt here uses.
"""

import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

BASE_PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "docker.io", "iptables", "apparmor", "python3",
    "iproute2", "procps", "kmod", "linux-image-cloud-amd64", "initramfs-tools",
]

# docker-cli became a package of its own with Debian 13; forky is still testing, and the
# release file that a mirror keeps of it may be past its date.
GUESTS = {
    "bookworm": {"packages": BASE_PACKAGES, "trusted": False},
    "trixie": {"packages": BASE_PACKAGES + ["docker-cli"], "trusted": False},
    "forky": {"packages": BASE_PACKAGES + ["docker-cli"], "trusted": True},
}

# numpy 2.4 wants cmpxchg16b, which the emulated CPU leaves out: it would be emulated slowly.
PIP_PACKAGES = ["ipykernel", "jupyter_client", "numpy<2.4", "joblib"]

# Modules that must be there before the root is mounted. The rest is loaded from the root.
INITRD_MODULES = ["virtio_pci", "virtio_blk", "ext4"]

# Nothing of these is needed by a scenario, and each costs seconds under emulation.
MASKED_UNITS = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "man-db.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "logrotate.timer",
    "systemd-tmpfiles-clean.timer", "getty.target", "getty@tty1.service",
    "serial-getty@ttyS0.service", "systemd-logind.service", "apparmor.service",
    "systemd-networkd.service", "systemd-networkd-wait-online.service",
    "systemd-update-utmp.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-firstboot.service",
    "modprobe@drm.service", "systemd-pcrmachine.service", "systemd-timesyncd.service",
    "systemd-sysctl.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "networking.service", "console-setup.service", "keyboard-setup.service",
]

# Containers use no network: a bridge and its firewall rules would only cost start-up time.
DOCKER_CONFIG = """{
  "bridge": "none",
  "iptables": false,
  "ip6tables": false,
  "exec-opts": ["native.cgroupdriver=systemd"],
  "storage-driver": "overlay2",
  "log-driver": "json-file"
}
"""

# The work of a boot is on the second disk: a plain tar with the runner, the scenarios and
# the guard. The image knows nothing else about any of them.
RUNNER_UNIT = """[Unit]
Description=nbguard VM scenarios
After=docker.service dbus.service
Wants=docker.service
[Service]
Type=oneshot
# Workloads are children of containerd, never of this unit; they start from 0.
OOMScoreAdjust=-900
ExecStartPre=/bin/mkdir -p /opt/vm
ExecStartPre=/bin/tar -xf /dev/vdb -C /opt/vm
ExecStart=/usr/bin/python3 -u /opt/vm/guest/runner.py
ExecStopPost=/bin/systemctl --no-block --force poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""

KERNEL_SPEC = """{
 "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
 "display_name": "Python 3 (ipykernel)", "language": "python", "metadata": {}
}
"""

INIT_SCRIPT = """#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read module; do insmod "/modules/$module" || echo "initrd: insmod $module failed"; done </modules/order
n=0
while [ ! -b /dev/vda ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
mount -t ext4 -o rw /dev/vda /root || { echo "initrd: no root"; sleep 1; reboot -f; }
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""

USERS = {"jovyan": 1000, "alice": 1001, "bob": 1002}


class ImageError(Exception):
    """An image could not be made; the text says which step failed and how."""


def build_image(suite, mirror, work, say):
    """Root file system, Python packages, settings, initrd and disk, in that order."""
    root = work / "root"
    bootstrap(suite, mirror, root, work, say)
    install_python_packages(root, say)
    write_settings(root)
    version = kernel_version(root)
    (work / "kernel-version").write_text(version + "\n")
    shutil.copy(kernel_file(root, version), work / "vmlinuz")
    make_initrd(root, version, work)
    make_disk(root, work / "disk.ext4", say)


def bootstrap(suite, mirror, root, work, say):
    """Debian by mmdebstrap, without documentation, from the mirror that apt here uses."""
    options = "[trusted=yes]" if GUESTS[suite]["trusted"] else \
        "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    command = [
        "mmdebstrap", "--variant=minbase", "--quiet",
        "--include=" + ",".join(GUESTS[suite]["packages"]),
        "--aptopt=Acquire::Languages \"none\"",
    ]
    for excluded in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"):
        command.append(f"--dpkgopt=path-exclude={excluded}")
    if GUESTS[suite]["trusted"]:
        command.append("--aptopt=Acquire::Check-Valid-Until \"false\"")
    command += [suite, str(root), f"deb {options} {mirror} {suite} main"]
    run_step("mmdebstrap", command, work, say)


def install_python_packages(root, say):
    """Wheels for the guest's Python, put in from outside and compiled now: that is slow under emulation."""
    version = os.readlink(root / "usr/bin/python3").removeprefix("python")
    target = root / f"usr/local/lib/python{version}/dist-packages"
    run_step("pip", [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--root-user-action=ignore", "--target", str(target), "--python-version", version,
        "--only-binary=:all:", *PIP_PACKAGES], root.parent, say)
    for package in ("numpy", "zmq"):  # test suites; nobody imports them
        for tests in (target / package).rglob("tests"):
            shutil.rmtree(tests, ignore_errors=True)
    run_step("compileall", ["chroot", str(root), "python3", "-m", "compileall", "-q", "-j", "2",
                            f"/usr/local/lib/python{version}/dist-packages"], root.parent, say, may_fail=True)


def write_settings(root):
    """What makes a plain Debian into this guest: the runner's unit, Docker's settings, users, no timers."""
    write(root / "etc/docker/daemon.json", DOCKER_CONFIG)
    write(root / "usr/local/share/jupyter/kernels/python3/kernel.json", KERNEL_SPEC)
    write(root / "etc/hostname", "nbguard-vm\n")
    write(root / "etc/fstab", "")
    write(root / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    units = root / "etc/systemd/system"
    for unit in MASKED_UNITS:
        link(units / unit, "/dev/null")
    write(units / "nbguard-vm.service", RUNNER_UNIT)
    link(units / "multi-user.target.wants/nbguard-vm.service", "../nbguard-vm.service")
    link(units / "default.target", "/usr/lib/systemd/system/multi-user.target")
    for name, uid in USERS.items():
        with open(root / "etc/passwd", "a") as passwd:
            passwd.write(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n")
        with open(root / "etc/group", "a") as group:
            group.write(f"{name}:x:{uid}:\n")


def kernel_version(root):
    """The one kernel that is installed in the guest."""
    versions = sorted(p.name for p in (root / "usr/lib/modules").iterdir())
    if len(versions) != 1:
        raise ImageError(f"expected one kernel in the guest, found {versions}")
    return versions[0]


def kernel_file(root, version):
    """Up to Debian 13 the kernel lies in /boot; the split packages of 14 have it among the modules."""
    for place in (root / f"boot/vmlinuz-{version}", root / f"usr/lib/modules/{version}/vmlinuz"):
        if place.is_file():
            return place
    raise ImageError(f"no vmlinuz for {version} in the guest")


def make_initrd(root, version, work):
    """Static busybox and the few modules up to the root disk: 2 MB instead of 30, seconds saved per boot."""
    tree = work / "initrd-tree"
    for folder in ("bin", "dev", "proc", "sys", "root", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for applet in ("sh", "mount", "umount", "insmod", "sleep", "switch_root", "reboot", "echo"):
        link(tree / "bin" / applet, "busybox")
    order = []
    for source in needed_modules(root, version):
        name = re.sub(r"\.(xz|zst)$", "", source.name)
        if name not in order:
            (tree / "modules" / name).write_bytes(unpack_module(source))
            order.append(name)
    write(tree / "modules/order", "".join(name + "\n" for name in order))
    write(tree / "init", INIT_SCRIPT)
    (tree / "init").chmod(0o755)
    packed = subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=tree, capture_output=True)
    if packed.returncode != 0:
        raise ImageError(f"cpio: {packed.stderr.decode(errors='replace')}")
    (work / "initrd").write_bytes(packed.stdout)
    shutil.rmtree(tree)


def needed_modules(root, version):
    """The module files for INITRD_MODULES with what they depend on, in load order."""
    files = []
    for module in INITRD_MODULES:
        shown = subprocess.run(["modprobe", "-d", str(root), "-S", version, "--show-depends", module],
                               capture_output=True, text=True)
        if shown.returncode != 0:
            raise ImageError(f"modprobe --show-depends {module}: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            if line.startswith("insmod "):
                files.append(pathlib.Path(line.split()[1]))
    return files


def unpack_module(source):
    """busybox insmod reads plain modules only."""
    data = source.read_bytes()
    if source.suffix == ".xz":
        return lzma.decompress(data)
    if source.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    return data


def make_disk(root, disk, say):
    """An ext4 image straight from the folder, with room for containers, swap and big files (sparse)."""
    for folder in ("var/cache/apt", "var/lib/apt/lists", "boot"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
    with open(disk, "wb") as file:
        file.truncate(6 << 30)
    # No journal: the disk is thrown away after each boot.
    run_step("mkfs.ext4", ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(root), str(disk)],
             disk.parent, say)


def run_step(name, command, work, say, may_fail=False):
    """One step of the build; what it prints is shown only when it fails."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=1800)
    if done.returncode != 0 and not may_fail:
        raise ImageError(f"{name} failed ({done.returncode}):\n{done.stdout[-3000:]}")
    say(f"  {name}: {time.monotonic() - started:.0f} s")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)
