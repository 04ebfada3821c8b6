"""Podman for the guest: what its image lacks of Debian's package, unpacked, as one archive on the second disk.

Unpacked and not installed: dpkg would take minutes for thirty packages under emulation, and none of
their scripts does anything that a container needs. The key of the cached archive is a hash of this file.
"""

import subprocess

import guest_recipe
import peer_recipe

SUITE = peer_recipe.SUITE
# The others: what a user needs to run it without root, his own systemd and a bus among it.
PACKAGES = ["podman", "uidmap", "dbus-user-session", "libpam-systemd"]
ARCHIVE = "podman.tar"


def build_archive(mirror, image, work, say):
    """`image` is the guest's: what it has is not fetched."""
    status = subprocess.run(["debugfs", "-R", "cat /var/lib/dpkg/status", str(image / "disk.ext4")],
                            capture_output=True, text=True, timeout=60)
    peer_recipe.with_apt(mirror, SUITE, status.stdout, work, say, [
        "apt-get", "-y", "-qq", "--no-install-recommends", "--download-only", "install", *PACKAGES])
    tree = work / "root/tree"
    for package in sorted((work / "root/cache/archives").glob("*.deb")):
        guest_recipe.run_step(f"dpkg -x {package.name}", ["dpkg", "-x", str(package), str(tree)], work, lambda _: None)
    guest_recipe.run_step("tar", ["tar", "-C", str(tree), "--exclude=./usr/share/doc", "--exclude=./usr/share/man",
                                  "--exclude=./usr/share/locale", "--owner=0", "--group=0", "-cf",
                                  str(work / ARCHIVE), "."], work, say)
