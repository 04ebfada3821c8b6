"""The packages under test: built once from binaries that are there, a second time in another folder
from a copy of the sources, and a third time as another version.
"""

import atexit
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# What a package is built and judged with -> the Debian package that brings it.
TOOLS = {"rpmbuild": "rpm", "rpmlint": "rpmlint", "lintian": "lintian", "busybox": "busybox-static",
         "dpkg-shlibdeps": "dpkg-dev", "readelf": "binutils", "mmdebstrap": "mmdebstrap"}
# The archives of older systems: who signs them.
KEYRINGS = {"Debian": "debian-archive-keyring.gpg", "Ubuntu": "ubuntu-archive-keyring.gpg"}
OLDER = "0.0.1"

sys.path.insert(0, str(REPOSITORY / "tests/vm"))
import guest_image  # noqa: E402


def skip(why):
    raise unittest.SkipTest(why)


@functools.cache
def tools():
    """Installs what is missing, as root on Debian; else says so."""
    os.environ["PATH"] += ":/usr/sbin:/sbin:" + str(pathlib.Path.home() / ".cargo/bin")
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing and (os.geteuid() != 0 or not shutil.which("apt-get")):
        return f"missing here: {' '.join(missing)} (as root on Debian they are installed)"
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for words in (["update"], ["-y", "--no-install-recommends", "install", *missing]) if missing else ():
        done = subprocess.run(["apt-get", "-qq", *words], env=env, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            return f"apt-get {words[0]}: {done.stderr.strip()[-300:]}"
    return None


@functools.cache
def scratch():
    folder = tempfile.mkdtemp(prefix="nbguard-package-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


def system(origin, suite):
    """The root of another system, from its archive: libc, a shell and dpkg."""
    why = tools() or (os.geteuid() != 0 and "a root of another system takes root")
    if why:
        skip(why)
    mirror = guest_image.known_mirror(origin)
    if mirror is None:
        skip(f"apt on this machine knows no archive of {origin}")
    root = scratch() / suite
    done = run("mmdebstrap", "--variant=essential", "--quiet", "--aptopt=Acquire::Check-Valid-Until \"false\"", suite,
               root, f"deb [signed-by=/usr/share/keyrings/{KEYRINGS[origin]}] {mirror} {suite} main")
    if done.returncode != 0:
        skip(f"{suite} cannot be had: {done.stderr.strip()[-300:]}")
    return root


def binaries():
    """NBGUARD_BIN_DIR, else where cargo puts them."""
    given = os.environ.get("NBGUARD_BIN_DIR")
    found = [pathlib.Path(given)] if given else sorted(REPOSITORY.glob("target/*-linux-gnu/release"))
    for folder in found:
        if (folder / "nbguardd").exists() and (folder / "nbguard").exists():
            return folder
    skip("there are no release binaries (cargo build --release, or NBGUARD_BIN_DIR)")


def extension():
    """The extension for PHP, if one was built for the PHP that php-config names."""
    built = REPOSITORY / "target/php-ext/modules/nbguard.so"
    return built if built.exists() and shutil.which("php-config") else None


def build(sources, out, built, version=None, environment=None):
    words = [str(sources / "packaging/build.sh"), "--binaries", str(built), "--out", str(out),
             "--php", str(extension() or "none")]
    if version:
        words += ["--version", version]
    env = dict(os.environ, SOURCE_DATE_EPOCH="1700000000", **(environment or {}))
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}")
    return {path.name: path for path in sorted(out.iterdir())}


@functools.cache
def packages():
    """Name -> path."""
    why = tools()
    if why:
        skip(why)
    return build(REPOSITORY, scratch() / "first", binaries())


@functools.cache
def packages_from_elsewhere():
    """The same from another folder, by somebody with another umask, language and time zone."""
    copy = scratch() / "somewhere else"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, copy / name)
            shutil.copymode(REPOSITORY / name, copy / name)
    built = copy / "built"
    shutil.copytree(binaries(), built, ignore=lambda _, names: set(names) - {"nbguard", "nbguardd"})
    before = os.umask(0o077)
    try:
        return build(copy, scratch() / "second", built, environment={"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo"})
    finally:
        os.umask(before)


@functools.cache
def older():
    packages()
    return build(REPOSITORY, scratch() / "older", binaries(), OLDER)


def deb(name="nbguard"):
    return only(packages(), f"{name}_", ".deb")


def rpm(found=None):
    return only(found or packages(), "nbguard-", ".rpm")


def only(found, start, end):
    fits = [path for name, path in found.items() if name.startswith(start) and name.endswith(end)]
    assert len(fits) == 1, (start, end, list(found))
    return fits[0]


def unpacked(name="nbguard"):
    return unpack(name)


@functools.cache
def unpack(name):
    folder = scratch() / f"unpacked-{name}"
    subprocess.run(["dpkg-deb", "-R", str(deb(name)), str(folder)], check=True)
    return folder


def run(*words, **how):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, errors="replace",
                          timeout=300, **how)


if __name__ == "__main__":
    sys.exit("python3 -m unittest discover -v tests/package")
