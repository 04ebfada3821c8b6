"""Keeps the disk images of guests: finds the one that is wanted, or has it built once.

An image lies in the cache folder under a hash of its recipe; a change of the program or of a
scenario never rebuilds it. It is built under a temporary name and renamed, behind a lock, so
that neither an interrupted build nor a second run leaves half an image.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import time

import guest_recipe
import peer_recipe
import php_recipe
import podman_recipe
from guest_recipe import GUESTS, ImageError

HERE = pathlib.Path(__file__).resolve().parent

# The folder of an image build that nobody finished is removed after this long.
STALE_BUILD_SECONDS = 3600


class NeedsRoot(ImageError):
    """There is no image yet, and this user cannot make one."""


def cache_dir():
    """Where images are kept: NBGUARD_CACHE, or .cache at the root of the tree (git ignores it)."""
    root = os.environ.get("NBGUARD_CACHE")
    base = pathlib.Path(root) if root else HERE.parent.parent / ".cache"
    return base / "vm"


def image_key(suite):
    """A hash of everything the image of this suite is built from."""
    return hash_of(suite, guest_recipe)


def hash_of(name, recipe):
    digest = hashlib.sha256()
    digest.update(name.encode())
    digest.update(pathlib.Path(recipe.__file__).read_bytes())
    return digest.hexdigest()[:16]


def ensure_image(suite, say):
    """The folder with disk.ext4, vmlinuz, initrd and kernel-version of this suite; builds it when missing."""
    return ensure(suite, image_key(suite), say,
                  lambda work: guest_recipe.build_image(suite, debian_mirror(), work, say))


def ensure_php(say):
    """The disk with the root file system of PHP containers."""
    name = f"php{php_recipe.VERSION}"
    folder = ensure(name, hash_of(name, php_recipe), say,
                    lambda work: php_recipe.build_image(debian_mirror(), work, say))
    return folder / "disk.ext4"


def ensure_peers(say):
    """The folder with the packages of the other guards."""
    return ensure("peers", hash_of("peers", peer_recipe), say,
                  lambda work: peer_recipe.download(debian_mirror(), work, say))


def ensure_podman(image, say):
    """The archive that is laid over the guest for Podman."""
    folder = ensure("podman", hash_of(f"podman {image.name}", podman_recipe), say,
                    lambda work: podman_recipe.build_archive(debian_mirror(), image, work, say))
    return folder / podman_recipe.ARCHIVE


def ensure(name, key, say, build):
    """The folder of an image in the cache: found, waited for, or built now."""
    cache = cache_dir()
    folder = cache / f"{name}-{key}"
    if folder.is_dir():
        return folder
    if os.geteuid() != 0:
        raise NeedsRoot(f"the {name} guest is not in {cache}, and only root can make it")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # another run built it while this one waited
            return folder
        started = time.monotonic()
        say(f"building the {name} guest (once; kept in {cache})")
        work = cache / f".build-{name}-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            build(work)
            shutil.rmtree(work / "root")
            os.rename(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        remove_old_images(cache, name, folder)
        say(f"guest {name} built in {time.monotonic() - started:.0f} s")
    return folder


def debian_mirror():
    """The address that this machine's apt has for Debian itself; a fresh machine must update its lists first."""
    mirror = known_mirror()
    if mirror is None:
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=900)
        mirror = known_mirror()
    if mirror is None:
        raise ImageError("apt on this machine knows no Debian mirror")
    return mirror


def known_mirror(origin="Debian"):
    """Of what apt has listed: the distribution itself, not security, not a third party."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"],
        capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        uri, *by = line.split("|")
        if by == [origin, origin]:
            return uri
    return None


def remove_old_images(cache, name, keep):
    """Images of older keys and builds that nobody finished; a VM that runs from one keeps its open file."""
    for folder in cache.glob(f"{name}-*"):
        if folder != keep and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    for folder in cache.glob(".build-*"):
        if time.time() - folder.stat().st_mtime > STALE_BUILD_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
