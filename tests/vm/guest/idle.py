"""What each guard costs while nothing happens, with many containers: all guards in one boot, at once.

The containers are groups that look like Docker's, each with a limit, a process that sleeps and the
file in which Docker describes it: five hundred real ones do not fit into this guest. systemd knows
nothing of them.
"""

import hashlib
import json
import pathlib
import subprocess
import time

SLICE = pathlib.Path("/sys/fs/cgroup/system.slice")
DOCKER = pathlib.Path("/var/lib/docker/containers")
LIMIT = 640 << 20
# Daemons that look at what is new do so now and not while they are measured.
SETTLE_SECONDS = 20
SETTLE_EACH_SECONDS = 0.2


def measure_all(orders, make_guard, port):
    """Guard -> number of containers -> figures of so many idle seconds."""
    (SLICE / "cgroup.subtree_control").write_text("+memory")
    guards = {name: make_guard(name, orders) for name in orders["idle"]["guards"]}
    for guard in guards.values():
        guard.start({"config": "", "arguments": []})
    found, there = {name: {} for name in guards}, 0
    for count in orders["idle"]["containers"]:
        for number in range(there, count):
            add_container(number)
        port.tell("ready", name=f"idle {count}", seconds=0)
        time.sleep(SETTLE_SECONDS + SETTLE_EACH_SECONDS * (count - there))
        there = count
        before = {name: guard.measure() for name, guard in guards.items()}
        time.sleep(orders["idle"]["seconds"])
        for name, guard in guards.items():
            found[name][str(count)] = compare(before[name], guard.measure())
    watched = subprocess.run(["nbguard", "ps"], capture_output=True, text=True, timeout=60).stdout
    return {"figures": found, "seconds": orders["idle"]["seconds"], "ps": watched[:2000],
            "stop_seconds": {name: time_of(guard.stop) for name, guard in guards.items()},
            "journals": {name: guard.journal()[-3000:] for name, guard in guards.items()}}


def time_of(work):
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 2)


def add_container(number):
    name = hashlib.sha256(str(number).encode()).hexdigest()
    process = subprocess.Popen(["sleep", "infinity"])
    (DOCKER / name).mkdir(parents=True)
    (DOCKER / name / "config.v2.json").write_text(json.dumps({
        "ID": name, "Name": f"/idle-{number}", "State": {"Running": True, "Pid": process.pid},
        "Config": {"Image": "none", "Labels": {}}}))
    group = SLICE / f"docker-{name}.scope"
    group.mkdir()
    (group / "memory.max").write_text(str(LIMIT))
    (group / "cgroup.procs").write_text(str(process.pid))


def compare(before, after):
    if before is None or after is None or before["pid"] != after["pid"]:
        return None
    return {"rss_kib": after["rss_kib"], "pss_kib": after["pss_kib"], "threads": after["threads"],
            "wakeups": after["wakeups"] - before["wakeups"], "cpu_ms": after["cpu_ms"] - before["cpu_ms"]}
