"""Which guards nbguard is compared with, and where their packages come from: Debian, for the guest's suite.

The packages are downloaded once, as files, and go onto the second disk of a boot: the guest's
image is the same for everybody. The key of the cached folder is a hash of this file.
"""

import os
import pathlib

import guest_recipe

SUITE = "trixie"
# Guard -> its packages that the guest does not have, libraries first.
PEERS = {
    "earlyoom": ["earlyoom"],
    "nohang": ["nohang"],
    "systemd-oomd": ["systemd-oomd"],
    "oomd": ["libjsoncpp26", "oomd"],
}
# Guard -> the unit that its package brings.
UNITS = {name: f"{name}.service" for name in PEERS}


def download(mirror, work, say):
    """Every package as a file."""
    packages = [package for needed in PEERS.values() for package in needed]
    with_apt(mirror, SUITE, "", work, say, ["apt-get", "-qq", "download", *packages])


def with_apt(mirror, suite, status, work, say, command):
    """One command with an apt root of its own (apt here knows another suite), where `status` is installed."""
    root = work / "root"  # thrown away when the folder is complete
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "status").write_text(status)
    (root / "sources.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n")
    (root / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{root}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{root}/lists";\nDir::Cache "{root}/cache";\nDir::State::status "{root}/status";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\nAPT::Architecture "amd64";\n')
    for one in (["apt-get", "-qq", "update"], command):
        guest_recipe.run_step(" ".join(one[:3]), ["env", f"APT_CONFIG={root / 'apt.conf'}", *one], work, say)


def files_of(guard, folder):
    """The guard's packages in the order of installation."""
    return [next(pathlib.Path(folder).glob(f"{package}_*.deb")) for package in PEERS[guard]]


def version_of(guard, folder):
    """What Debian calls the version of the guard's own package: apt writes a colon as %3a."""
    name = os.path.basename(files_of(guard, folder)[-1])
    return name.split("_")[1].replace("%3a", ":")
