"""Runs the scenarios of one boot, one after the other, inside the guest. Started by nbguard-vm.service.

It tells facts, not judgements: whether a scenario passed is decided outside, where the
expectations are. Each line on the second serial port is one JSON object with a `type`.
"""

import json
import os
import pathlib
import platform
import queue
import subprocess
import threading
import time
import traceback

import engines
import groups
import guard as guards
import idle
from lab import LabError, import_image, remove_all, run, start_all
from peers import Peer
from php import PhpContainer
from watch import NEAR, Watch

RESULTS = "/dev/ttyS1"
ORDERS = "/opt/vm/orders.json"
SWAP_FILE = "/var/tmp/swap"
# Kernels of a scenario are ready within this, or it cannot run (seen: 18 s, 110 s on a busy machine).
READY_SECONDS = 240
# Kernels answer within a second or two; one that pages its code in again takes longer.
PROBE_SECONDS = 20
# Longest text of a log that is sent out (115 kB/s over the serial port at best).
LOG_BYTES = 60_000


class Port:
    """The second serial port."""

    def __init__(self):
        subprocess.run(["stty", "-F", RESULTS, "raw", "-echo"], check=True)
        self.file = open(RESULTS, "w")
        self.lock = threading.Lock()

    def tell(self, kind, **facts):
        with self.lock:
            self.file.write(json.dumps({"type": kind, **facts}) + "\n")
            self.file.flush()


def leave_the_slice():
    """Into a group of its own: whoever looks 100 times a second lowers the pressure of the slice that he is in."""
    group = groups.MEMORY / "vm-runner"
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def main():
    leave_the_slice()
    port = Port()
    port.tell("hello", kernel=platform.release(), up=time.monotonic(),
              psi=os.path.exists("/proc/pressure/memory"))
    with open(ORDERS) as file:
        orders = json.load(file)
    try:
        import_image()
        if orders.get("idle"):
            port.tell("idle", **idle.measure_all(orders, make_guard, port))
            port.tell("end")
            return
        names = dict.fromkeys(scenario["guard_name"] for scenario in orders["scenarios"])
        installed = {name: make_guard(name, orders) for name in names}
    except Exception:
        port.tell("broken", text=traceback.format_exc()[-2000:])
        return
    for scenario in orders["scenarios"]:
        port.tell("begin", name=scenario["name"])
        port.tell("facts", name=scenario["name"], **run_scenario(
            scenario, installed[scenario["guard_name"]], orders, port))
    port.tell("end")


def make_guard(name, orders):
    """Installed, and not started."""
    if name == "nbguard":
        return guards.Guard()
    return Peer(orders["peers"][name]) if name in orders["peers"] else guards.NoGuard()


def run_scenario(scenario, guard, orders, port):
    """One scenario from a clean host to a clean host; whatever goes wrong is told as `trouble`."""
    began = time.monotonic()
    containers = [(PhpContainer if spec["pool"] else engines.ENGINES[spec["engine"]])(spec)
                  for spec in scenario["container"]]
    facts = {"trouble": []}
    others = []
    try:
        engines.set_cgroup_driver(scenario["host"]["cgroup_driver"])
        set_swap(scenario["host"]["swap"])
        engines.set_zram(scenario["host"]["zram"])
        guard.start(scenario["guard"])
        if guard.installed:
            others = [make_guard(name, orders) for name in scenario["guard"]["beside"]]
        for other in others:
            other.start({})
        facts.update(play(scenario, containers, guard, port))
    except (LabError, OSError, subprocess.SubprocessError, queue.Empty) as error:
        facts["trouble"].append(f"{type(error).__name__}: {error}"[:2000])
    except Exception:
        facts["trouble"].append(traceback.format_exc()[-2000:])
    finally:
        clean_up(containers, [guard, *others], scenario["name"], port, facts)
    facts["seconds"] = dict(facts.get("seconds", {}), total=round(time.monotonic() - began, 1))
    return facts


def play(scenario, containers, guard, port):
    """Sets up, lets go, watches, and asks everybody who is left."""
    began = time.monotonic()
    start_all(containers)
    up = time.monotonic()
    watch = Watch(scenario, containers, guard)
    try:
        for container in containers:
            watch.take_events(container, container.wait_ready(READY_SECONDS))
        time.sleep(scenario["run"]["settle"])
        ready = time.monotonic()
        port.tell("ready", name=scenario["name"], seconds=round(ready - began, 1))
        facts = let_go(scenario, containers, guard, watch)
    finally:
        watch.stop()
    facts["seconds"].update(containers=round(up - began, 1), start=round(ready - began, 1))
    facts["trouble"] = watch.trouble
    return facts


def let_go(scenario, containers, guard, watch):
    """From `go` to the last look after the guard was stopped."""
    shm_before = {c.name: c.shm_bytes() for c in containers}
    watch.begin()
    checks = do_checks(scenario, "before", watch)
    guard_before = guard.measure()
    for container in containers:
        container.command("go")
    watch.run()
    guard_after = guard.measure()
    quiet = time.monotonic()
    watch.settle(1)
    watch.probe(PROBE_SECONDS)
    checks += do_checks(scenario, "after", watch)
    facts = collect(watch, shm_before)
    facts["guard"] = compare_measures(guard_before, guard_after, watch)
    facts["incidents"] = wait_incidents(guard) if guard.installed else []
    guard.stop()
    for container in containers:
        facts["containers"][container.name]["high_after_stop"] = read_text(container.cgroup / "memory.high")
    facts["checks"] = checks + do_checks(scenario, "stopped", watch)
    facts["timed_out"] = watch.timed_out
    facts["seconds"] = {"run": round(quiet - watch.started, 1), "ask": round(time.monotonic() - quiet, 1)}
    return facts


def set_swap(size):
    """Swap of this size in a file, or none."""
    run(["swapoff", "-a"])
    pathlib.Path(SWAP_FILE).unlink(missing_ok=True)
    if size:
        run(["fallocate", "-l", str(size), SWAP_FILE])
        os.chmod(SWAP_FILE, 0o600)
        run(["mkswap", "-q", SWAP_FILE])
        run(["swapon", SWAP_FILE])


def do_checks(scenario, when, watch):
    """Commands of the scenario whose output is part of what is expected."""
    done = []
    for check in scenario["expect"]["check"]:
        if check["when"] != when:
            continue
        if "nbguard" in check["command"] and not watch.guard.installed:
            continue
        try:
            result = subprocess.run(["sh", "-c", check["command"]], env=watch.environment(), capture_output=True,
                                    text=True, errors="replace", timeout=60)
            code, output = result.returncode, (result.stdout + result.stderr).strip()
        except subprocess.TimeoutExpired:
            code, output = None, "no end after 60 s"
        done.append({"what": check["what"], "exit": code, "output": output[-2000:], "wants": check["output"]})
    return done


def wait_incidents(guard):
    """The records; the last one may still be on its way when the freed memory is being measured."""
    records = guard.incidents()
    for _ in range(20):
        time.sleep(0.2)
        newer = guard.incidents()
        if newer and len(newer) == len(records):
            return newer
        records = newer
    return records


def collect(watch, shm_before):
    """What happened, in figures that stand on their own. Times are milliseconds after `go`."""
    def since_go(moment):
        return None if moment is None else round((moment - watch.started) * 1000)

    members = {}
    for member in watch.members:
        lives = [dict(life, born=since_go(life["born"]), died=since_go(life["died"])) for life in member.lives]
        members[member.name] = {
            "kind": member.kind, "lives": lives, "alive": member.alive, "answers": getattr(member, "answers", None),
            "cell": member.cell, "error": member.error, "left_behind": watch.left_behind(member),
            "ended": sum(1 for life in lives if life["died"] is not None),
            "streams": [dict(one, at=since_go(one["at"])) for one in member.streams][:10], "body": member.body}
    workers = [{**one.lives[0], "pool": one.name, "died": since_go(one.lives[0]["died"]), "served": one.served,
                "born": since_go(one.lives[0]["born"])} for one in watch.workers]
    containers = {c.name: container_facts(c, watch, shm_before, since_go) for c in watch.containers}
    victims = [dict(victim, at=since_go(victim["at"])) for victim in watch.oom_victims]
    seen = {f"{event} {container}" if container else event: since_go(moment)
            for (event, container), moment in watch.seen.items()}
    return {"members": members, "workers": workers, "containers": containers, "oom_victims": victims, "seen": seen,
            "above": time_above(watch, since_go),
            "faults": [{"action": f["action"], "at": since_go(f["done"])} for f in watch.faults],
            "lowest_available": min((free for _, free in watch.mem_available), default=None)}


def time_above(watch, since_go):
    """When a threshold was first reached, how long usage was above one in sum, and whether it still is.

    The same bound for every guard, and for none: the threshold of the scenario, less what counts as near.
    """
    share = watch.scenario["guard"]["threshold"] - NEAR
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    series = [(gauge.samples, lambda value, limit=gauge.limit: value >= share * limit)
              for gauge in watch.gauges.values() if gauge.limit is not None]
    if watch.unlimited:
        series.append((watch.mem_available, lambda value: value <= (1 - share) * total))
    first, lasted, still = None, 0.0, False
    for samples, is_above in series:
        since = None
        for moment, value in samples:
            if is_above(value) and since is None:
                since = moment
                first = moment if first is None else min(first, moment)
            elif since is not None and not is_above(value):
                lasted += moment - since
                since = None
        if since is not None:
            still = True
            lasted += samples[-1][0] - since
    return {"first_ms": since_go(first), "lasted_ms": round(lasted * 1000), "still": still}


def container_facts(container, watch, shm_before, since_go):
    gauge = watch.gauges[container.name]
    removed = getattr(container, "removed", False)
    deaths = [life["died"] for member in watch.members + watch.workers if member.container is container
              for life in member.lives if life["died"] is not None]
    facts = {"events": {key: gauge.counted(key) for key in ("high", "max", "oom", "oom_kill")},
             "peak": max(usage for _, usage in gauge.samples), "last": gauge.samples[-1][1],
             "highs": [[since_go(moment), high] for moment, high in gauge.highs][:40],
             "shm_before": shm_before[container.name], "shm": container.shm_bytes(), "removed": removed,
             "server_alive": container.name not in watch.servers_gone and os.path.exists(f"/proc/{container.pid}"),
             "server_answers": bool(getattr(container, "answered", None))}
    if deaths:
        facts.update(what_came_back(gauge.samples, min(deaths), since_go))
    return facts


def what_came_back(samples, death, since_go):
    """Bytes between the peak before the first death and the lowest usage in the 3 s after it."""
    before = max((usage for moment, usage in samples if death - 5 < moment <= death), default=0)
    after = [(moment, usage) for moment, usage in samples if death < moment < death + 3]
    if not after:
        return {"freed": None, "back": None}
    lowest = min(usage for _, usage in after)
    back = next(moment for moment, usage in after if usage <= before - 0.8 * (before - lowest))
    return {"freed": before - lowest, "back": since_go(back)}


def compare_measures(before, after, watch):
    if after is None:
        return None
    facts = {key: after[key] for key in ("rss_kib", "rss_peak_kib", "anon_kib", "pss_kib", "threads", "descriptors")}
    same = before is not None and before["pid"] == after["pid"]
    facts["wakeups"] = after["wakeups"] - before["wakeups"] if same else None
    facts["cpu_ms"] = after["cpu_ms"] - before["cpu_ms"] if same else None
    facts["restarts"] = len(watch.daemon_pids) - 1
    return facts


def read_text(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return None


def clean_up(containers, guards, name, port, facts):
    """Whatever happened: no guard, no container, no swap; and the logs for whoever wants to know why."""
    for what in (*(guard.stop for guard in guards), *(c.read_log for c in containers), lambda: remove_all(containers)):
        try:
            what()
        except Exception as error:
            facts["trouble"].append(f"cleaning up: {error}"[:500])
    try:
        logs = {"guard": "".join(guard.journal() for guard in guards), **{c.name: c.log for c in containers}}
        logs["kernel"] = run(["sh", "-c", "dmesg | tail -150"], check=False)
        for log, text in logs.items():
            if text:
                port.tell("log", name=name, log=log, text=text[-LOG_BYTES:])
        set_swap(0)
        engines.set_zram(0)
    except Exception as error:
        facts["trouble"].append(f"cleaning up: {error}"[:500])


main()
