"""Lays the wheel out where Debian's Python and Jupyter look: unpack.py WHEEL TREE."""

import pathlib
import sys
import zipfile

# What a wheel calls data, on a system's own installation (`sys.prefix` is /usr), and where Debian
# wants configuration all the same.
PLACES = [(".data/data/etc/", "etc/"), (".data/data/share/", "usr/share/")]
MODULES = "usr/lib/python3/dist-packages/"


def place(name):
    for part, where in PLACES:
        if part in name:
            return where + name.split(part, 1)[1]
    return MODULES + name


def main():
    wheel, tree = sys.argv[1], pathlib.Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            # RECORD is pip's list of what it installed; dpkg has one of its own, and LICENSE the copyright.
            if name.endswith((".dist-info/RECORD", ".dist-info/LICENSE")):
                continue
            target = tree / place(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
            target.chmod(0o644)
    installer = next(tree.glob(MODULES + "*.dist-info")) / "INSTALLER"
    installer.write_text("dpkg\n")
    installer.chmod(0o644)


if __name__ == "__main__":
    main()
