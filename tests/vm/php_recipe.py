"""How the root file system of PHP containers is made: Debian 12 with PHP 8.2, whatever the guest is.

The extension is built for this PHP (src/crates/php-ext), and a host is seldom of the same release
as the containers on it. The guest mounts the disk and binds its /usr and /etc into a container:
importing an image takes minutes under emulation. The key of the cached disk is a hash of this file.
"""

import shutil

import guest_recipe

SUITE = "bookworm"
VERSION = "8.2"
# The cli comes with fpm; opcache is a package of its own that both depend on.
PACKAGES = [f"php{VERSION}-fpm"]
DISK_BYTES = 600 << 20
# Docker binds its own over these, and cannot make them on a read-only mount.
DOCKER_FILES = ["hosts", "hostname", "resolv.conf"]


def build_image(mirror, work, say):
    """Root file system, then a disk of what containers bind from it."""
    root = work / "root"
    command = [
        "mmdebstrap", "--variant=essential", "--quiet", "--include=" + ",".join(PACKAGES),
        "--aptopt=Acquire::Languages \"none\"",
    ]
    for excluded in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"):
        command.append(f"--dpkgopt=path-exclude={excluded}")
    command += [SUITE, str(root),
                f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {SUITE} main"]
    guest_recipe.run_step("mmdebstrap", command, work, say)
    kept = work / "kept"
    kept.mkdir()
    for folder in ("usr", "etc"):
        shutil.move(root / folder, kept / folder)
    for file in DOCKER_FILES:
        (kept / "etc" / file).touch()
    disk = work / "disk.ext4"
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    guest_recipe.run_step("mkfs.ext4", ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(kept), str(disk)],
                          work, say)
    shutil.rmtree(kept)
