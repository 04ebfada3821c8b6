"""What a refresh costs the Jupyter server: the guard's figures against jupyter-resource-usage.

tests/jupyter/run --setup && NBGUARD_BIN_DIR=… python3 tests/jupyter/cost.py [PROCESSES…]

A kernel forks as many children (each with 1 MiB of its own); both servers are asked as a page asks
them. Latency is what the client waits; CPU is the server process's own, from its schedstat, and
the guard's, which looks through the container for each refresh. Without NBGUARD_BIN_DIR the guard
is the stand-in of the tests, whose own cost says nothing.
"""

import argparse
import os
import pathlib
import statistics
import time

from mock_guard import MockGuard, kernels
from real_guard import Real
from server import Server

# Each at least so many seconds apart, so that none is answered with an earlier one's figures.
PERIOD = 1.0
POLLS = 10

FORK = """
import os, time
for _ in range({count}):
    if os.fork() == 0:
        data = bytearray(1 << 20)
        time.sleep(3600)
        os._exit(0)
"""


def cpu(pid):
    """Seconds that all threads of the process have run."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def family(server, kernel, count):
    """Until the kernel has so many children."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        pid = kernels(server.runtime).get(kernel)
        if pid and len(children(pid)) >= count:
            return
        time.sleep(0.2)
    raise RuntimeError("the children did not come")


def children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def measure(path, count, resource_usage):
    """Seconds per poll: latency and CPU, medians, the guard's CPU; and CPU while nobody asks."""
    real = Real(16 << 30) if not resource_usage and os.environ.get("NBGUARD_BIN_DIR") else None
    server = Server(f"--NbGuard.period={PERIOD}", resource_usage=resource_usage,
                    socket=real and real.socket, enter=real and real.enter)
    guard = real
    try:
        if not resource_usage and not real:
            guard = MockGuard(server.socket, server.runtime)
        startup = server.folder / "ipython/profile_default/startup"
        startup.mkdir(parents=True)
        (startup / "fork.py").write_text(FORK.format(count=count))
        kernel = server.open("a.ipynb")
        family(server, kernel, count)
        server.get(path)
        time.sleep(2 * PERIOD)
        before, began = cpu(server.process.pid), time.monotonic()
        time.sleep(5)
        idle = (cpu(server.process.pid) - before) / (time.monotonic() - began)
        waited, worked = [], []
        guards = cpu(real.daemon.pid) if real else 0
        for _ in range(POLLS):
            time.sleep(PERIOD)
            before, began = cpu(server.process.pid), time.monotonic()
            server.get(path)
            waited.append(time.monotonic() - began)
            worked.append(cpu(server.process.pid) - before)
        guards = (cpu(real.daemon.pid) - guards) / POLLS if real else None
        return statistics.median(waited), statistics.median(worked), guards, idle
    finally:
        server.close()
        if real:
            real.close()
        elif guard:
            guard.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("processes", type=int, nargs="*", default=[50, 500])
    options = parser.parse_args()
    print("| processes | asked | latency | server's CPU per poll | guard's | server's CPU while nobody asks |")
    print("|---|---|---|---|---|---|")
    for count in options.processes:
        of = {}
        for name, path, theirs in (("jupyter-resource-usage", "api/metrics/v1", True),
                                   ("nbguard-jupyter", "nbguard/api/status", False)):
            waited, worked, guards, idle = of[name] = measure(path, count, theirs)
            guards = "" if guards is None else f"{1000 * guards:.1f} ms"
            print(f"| {count} | {name} | {1000 * waited:.1f} ms | {1000 * worked:.1f} ms | {guards} | {100 * idle:.1f} % |",
                  flush=True)
        theirs, ours = of.values()
        print(f"| {count} | ratio | {theirs[0] / ours[0]:.0f} | {theirs[1] / ours[1]:.0f} | | |", flush=True)


if __name__ == "__main__":
    main()
