"""The switch and the trace files, from outside, for tests: a second reading of the layout."""

import os
import struct
import time
from pathlib import Path

ON, SNAPSHOT, VALUES, INTERNAL = 1, 2, 4, 8
PAGE, ENTRY, SLOT = 4096, 64, 512
STATES = {0: "unknown", 1: "idle", 2: "busy"}


def start_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def boottime():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Switch:
    def __init__(self, directory):
        self.file = os.open(f"{directory}/switch", os.O_RDWR)

    def on(self, pid, flags=ON, session=1, period_ms=5000):
        at = PAGE + ENTRY * pid
        entry = struct.pack("=QIIQIIQI", start_of(pid), 0, session, boottime(), period_ms, os.getpid(), 0, 0)
        os.pwrite(self.file, entry, at)
        os.pwrite(self.file, struct.pack("=I", flags), at + 8)

    def off(self, pid):
        os.pwrite(self.file, struct.pack("=I", 0), PAGE + ENTRY * pid + 8)

    def beat(self, pid):
        os.pwrite(self.file, struct.pack("=Q", boottime()), PAGE + ENTRY * pid + 16)


class Page:
    def __init__(self, path):
        data = Path(path).read_bytes()[:816] if not isinstance(path, bytes) else path
        self.slots, self.pid = struct.unpack_from("=II", data, 20)
        self.head, self.beat, self.tracing, self.session = struct.unpack_from("=QQII", data, 64)
        count_seq, *self.costs = struct.unpack_from("=QQQQQ", data, 88)
        self.is_counting = count_seq % 2 == 1
        seq, state, _cut, self.since, self.since_unix, self.requests = struct.unpack_from("=QIIQQQ", data, 128)
        self.state = STATES[state]
        script, uri, function = struct.unpack_from("=HHH", data, 168)
        self.script = data[176:176 + script].decode()
        self.uri = data[432:432 + uri].decode()
        self.function = data[688:688 + function].decode()


def page(path):
    with open(path, "rb") as file:
        return Page(file.read(816))


def records(path):
    """Whole records of a file that is not being written."""
    with open(path, "rb") as file:
        head = Page(file.read(816))
        for n in range(max(0, head.head - head.slots), head.head):
            file.seek(PAGE + SLOT * (n % head.slots))
            slot = file.read(SLOT)
            fields = struct.unpack_from("=QQQQqQIHBBHHHH", slot)
            if fields[0] != 2 * n + 2:
                continue
            at, texts = 64, []
            for length in fields[10:]:
                texts.append(slot[at:at + length].decode(errors="replace"))
                at += length
            yield {"kind": fields[8], "call": fields[5], "flags": fields[9], "depth": fields[7],
                   "function": texts[1], "values": texts[3]}
