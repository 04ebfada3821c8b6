"""Where a group's memory stands: in the files of cgroup v2, or of v1's controller on a v1 or hybrid host."""

import os
import pathlib

MOUNT = pathlib.Path("/sys/fs/cgroup")
IS_V1 = (MOUNT / "memory/memory.usage_in_bytes").exists()
# The hierarchy of the memory controller, and the one in which systemd keeps its units.
MEMORY = MOUNT / "memory" if IS_V1 else MOUNT
SERVICES = MOUNT / "systemd" if IS_V1 else MOUNT
USAGE, EVENTS, MORE = ("memory.usage_in_bytes", "memory.oom_control", "memory.failcnt") if IS_V1 else \
    ("memory.current", "memory.events", "memory.high")


class Figures:
    """Read again and again through descriptors that stay open."""

    def __init__(self, group):
        self.files = {name: os.open(group / name, os.O_RDONLY) for name in (USAGE, EVENTS, MORE)}

    def read(self):
        """Usage, memory.high (None: there is none), and what was counted. ValueError or OSError: it is gone."""
        events = {key: int(value) for key, value in (line.split() for line in self.text(EVENTS).splitlines())}
        more = self.text(MORE).strip()
        if IS_V1:
            return int(self.text(USAGE)), None, {"max": int(more), "oom_kill": events["oom_kill"]}
        return int(self.text(USAGE)), None if more == "max" else int(more), events

    def text(self, name):
        return os.pread(self.files[name], 400, 0).decode()

    def close(self):
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files = {}
