"""Stands in for a kernel: holds as many megabytes as each line of its input says more, a third of
the first in its workers. Ends with its input."""

import os
import sys
import time

held = []


def hold(megabytes):
    for _ in range(megabytes):
        held.append(bytearray(os.urandom(4096) * 256))


workers = int(os.environ["WORKERS"])
lines = iter(sys.stdin)
first = int(next(lines))
mine = os.getpid()
for _ in range(workers):
    if os.fork() == 0:
        hold(first // 3 // workers)
        while os.getppid() == mine:
            time.sleep(0.2)
        os._exit(0)
hold(first - (first // 3 if workers else 0))
for line in lines:
    # In steps, as a cell that appends to a list: a guard on cgroup v1 slows nobody down.
    for _ in range(int(line)):
        hold(1)
        time.sleep(0.004)
