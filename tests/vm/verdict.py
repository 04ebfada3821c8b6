"""Holds the facts of a scenario against what it expects. Pure: values in, reasons out.

The names of an incident record's fields stand here and nowhere else (`RECORD`); they are
those of src/report.rs.
"""

import re

from scenario import resolve

# What a scenario calls it -> where the record has it.
RECORD = {
    "kind": "kind", "verdict": "verdict", "reason": "reason", "sentence": "sentence", "domain": "domain",
    "container": "container.name", "mode": "mode", "trigger": "trigger", "dry_run": "dry_run",
    "notebook": "victim.notebook", "victim_pid": "victim.pid", "signals": "victim.signals",
    "signalled": "victim.signalled", "trackers_spared": "victim.trackers_spared", "sweeps": "victim.sweeps",
    "frozen": "victim.frozen", "refused": "victim.refused", "freed": "freed", "memory": "victim.memory",
    "oom_kills": "kernel_oom_kills", "first_row": "rows.0.notebook", "settled_by": "rows.0.settled_by",
    "unattributed": "unattributed.count", "unattributed_memory": "unattributed.memory", "message": "message",
    "event_to_signal_us": "timings.event_to_signal_us", "signal_to_dead_us": "timings.signal_to_dead_us",
    "signal_to_back_us": "timings.signal_to_back_us", "total": "figures.total", "threshold": "figures.threshold",
    "limit": "figures.limit", "process": "victim.name", "application": "rows.0.application",
    "activity": "rows.0.activity", "listed": "rows.0.listed", "important": "cleaning.important.name",
    "important_share": "cleaning.important.memory_share", "share_after": "cleaning.after.memory_share",
    "stack": "stack.0",
}
# A notebook is a path in a record and a name in a scenario.
NOTEBOOKS = ("notebook", "first_row")


def judge(scenario, facts, guarded):
    """Every expectation that does not hold, in words. Empty: the scenario passed."""
    if facts["trouble"]:
        return [f"trouble: {one}" for one in facts["trouble"]]
    wrong = judge_members(scenario, facts) + judge_memory(scenario, facts)
    if guarded:
        wrong += judge_guard(scenario, facts) + judge_records(scenario, facts) + judge_told(scenario, facts)
    return wrong


def judge_alone(scenario, facts):
    """What the scenario says the kernel does without a guard."""
    alone = scenario["alone"]
    wrong = [f"trouble: {one}" for one in facts["trouble"]]
    if not wrong and alone["ended"] is not None:
        wrong += compare_ended(alone["ended"], facts)
    if not wrong and alone["oom_kill"] is not None:
        wrong += compare_oom(alone["oom_kill"], facts)
    return wrong


def judge_members(scenario, facts):
    """Who ended, who lives and answers, and what was left of those who ended."""
    expect = scenario["expect"]
    wrong = compare_ended(expect["ended"], facts)
    for short, times in expect["ended_times"].items():
        member = facts["members"][resolve(short, facts["members"])]
        if not in_range(member["ended"], times):
            wrong.append(f"{short} ended {member['ended']} times, not {times}")
    wrong += judge_order(expect["ended_order"], facts) + judge_php(expect, facts)
    ended = {resolve(short, facts["members"]) for short in expect["ended"]}
    alive = set(facts["members"]) - ended if expect["lives"] == "all others" else \
        {resolve(short, facts["members"]) for short in expect["lives"]}
    for name in sorted(alive):
        member = facts["members"][name]
        if removed(facts, name):
            continue
        if not member["alive"]:
            wrong.append(f"{name} does not live")
        elif member["kind"] == "notebook" and not member["answers"]:
            wrong.append(f"{name} lives but gives no answer")
        elif member["cell"] == "error" and member["kind"] == "request":
            wrong.append(f"{name} was answered with an error: {member['error']}")
    for name, member in facts["members"].items():
        if member["ended"] and member["left_behind"]:
            wrong.append(f"{name} ended but left {member['left_behind']} of its processes behind")
    for name, container in facts["containers"].items():
        if expect["server_lives"] and not container["removed"]:
            if not container["server_alive"]:
                wrong.append(f"the server of {name} is gone")
            elif not container["server_answers"]:
                wrong.append(f"the server of {name} gives no answer")
    return wrong


def judge_order(wanted, facts):
    """These ended one after the other."""
    names = [resolve(short, facts["members"]) for short in wanted]
    died = {name: max((life["died"] for life in facts["members"][name]["lives"] if life["died"] is not None), default=None)
            for name in names}
    found = sorted((name for name in names if died[name] is not None), key=died.get)
    return [] if found == names else [f"ended in the order {found}, not {names}: {died}"]


def judge_php(expect, facts):
    """Answers that have to come whole, and how many workers of each pool ended."""
    wrong = []
    for short, pattern in expect["answered"].items():
        name = resolve(short, facts["members"])
        member = facts["members"][name]
        if member["cell"] != "ok":
            wrong.append(f"{name} got no whole answer: {member['cell']}, {member['error']}")
        elif not re.search(pattern, member["body"] or ""):
            wrong.append(f"{name} was answered {member['body'][-200:]!r}, not {pattern!r}")
    pools = {worker["pool"] for worker in facts["workers"]}
    for short, times in expect["workers_ended"].items():
        ended = sum(1 for worker in facts["workers"] if worker["pool"] == resolve(short, pools) and worker["died"] is not None)
        if not in_range(ended, times):
            wrong.append(f"{ended} workers of {short} ended, not {times}")
    return wrong


def compare_ended(expected, facts):
    """Members that ended, against the list: each missing and each surplus one."""
    expected = {resolve(short, facts["members"]) for short in expected}
    ended = {name for name, member in facts["members"].items() if member["ended"] and not removed(facts, name)}
    return [f"{name} did not end" for name in sorted(expected - ended)] + \
           [f"{name} ended" for name in sorted(ended - expected)]


def removed(facts, member):
    """Its container was removed by the scenario itself."""
    return facts["containers"][member.split("/", 1)[0]]["removed"]


def oom_kills(facts):
    return len(facts["oom_victims"])


def compare_oom(wanted, facts):
    found = oom_kills(facts)
    if wanted == "allowed" or (wanted == "some" and found) or wanted == found:
        return []
    return [f"the kernel's OOM killer acted {found} times, not {wanted}: {facts['oom_victims']}"]


def judge_memory(scenario, facts):
    """The kernel's events, what came back, what was left."""
    expect = scenario["expect"]
    wrong = compare_oom(expect["oom_kill"], facts)
    containers = facts["containers"]
    max_events = sum(c["events"]["max"] for c in containers.values())
    if expect["max_events"] is not None and max_events > expect["max_events"]:
        wrong.append(f"memory.max was hit {max_events} times, more than {expect['max_events']}")
    if expect["freed_at_least"] is not None:
        freed = max((c.get("freed") or 0 for c in containers.values()), default=0)
        if freed < expect["freed_at_least"]:
            wrong.append(f"{freed >> 20} MiB came back, not {expect['freed_at_least'] >> 20}")
    for name, container in containers.items():
        left = container["shm"]
        if expect["shm_left"] is not None and left is not None and left > expect["shm_left"]:
            wrong.append(f"{left >> 10} KiB are left in /dev/shm of {name}")
    for check in facts["checks"]:
        ok = check["exit"] == 0 and (check["wants"] is None or re.search(check["wants"], check["output"]))
        if not ok:
            wrong.append(f"check {check['what']!r}: exit {check['exit']}, output {check['output'][-400:]!r}")
    return wrong


def judge_guard(scenario, facts):
    """The daemon itself, the tripwire it leaves, and its pace."""
    expect = scenario["expect"]
    wrong = []
    guard = facts["guard"]
    if guard is None:
        wrong.append("the guard does not run any more")
    elif guard["restarts"] != expect["daemon_restarts"]:
        wrong.append(f"the guard was restarted {guard['restarts']} times, not {expect['daemon_restarts']}")
    if guard and expect["wakeups_at_most"] is not None and (guard["wakeups"] or 0) > expect["wakeups_at_most"]:
        wrong.append(f"the guard woke up {guard['wakeups']} times, more than {expect['wakeups_at_most']}")
    if expect["memory_high"] == "restored":
        for name, container in facts["containers"].items():
            # None: the container is gone, and its group with it.
            if container["high_after_stop"] not in ("max", None):
                wrong.append(f"memory.high of {name} is {container['high_after_stop']} after the guard stopped")
    took = facts["timings"]["crossed_to_dead_ms"]
    if expect["ended_within"] is not None and (took is None or took > expect["ended_within"] * 1000):
        wrong.append(f"crossed to dead took {took} ms, more than {expect['ended_within'] * 1000:.0f}")
    return wrong


def judge_records(scenario, facts):
    """The number of records, and for each wanted record one that fits it."""
    expect = scenario["expect"]
    records = facts["incidents"]
    wrong = []
    if expect["records"] != "any" and not in_range(len(records), expect["records"]):
        wrong.append(f"{len(records)} records, not {expect['records']}: {[brief(r) for r in records]}")
    for wanted in expect["record"]:
        if not any(fits(record, wanted) for record in records):
            wrong.append(f"no record fits {wanted}: {[brief(r, wanted) for r in records]}")
    return wrong


def judge_told(scenario, facts):
    """What each notebook was told: these texts in this order, in its running cell; an empty list: nothing."""
    wrong = []
    for short, patterns in scenario["expect"]["told"].items():
        streams = facts["members"][resolve(short, facts["members"])]["streams"]
        said = [one for one in streams if one["name"] == "stderr"]
        texts = [one["text"] for one in said]
        left = iter(texts)
        if not patterns and texts:
            wrong.append(f"{short} was told {texts}, and should have been told nothing")
        elif not all(any(re.search(pattern, text) for text in left) for pattern in patterns):
            wrong.append(f"{short} was told {texts}, not {patterns}")
        elif not all(one["in_cell"] for one in said):
            wrong.append(f"{short} was told, but not in a cell: {said}")
    return wrong


def fits(record, wanted):
    return all(fits_value(key, lookup(record, RECORD.get(key, key)), value) for key, value in wanted.items())


def fits_value(key, found, wanted):
    """A range {min, max}, a pattern `~…`, a notebook by its name, or the very value."""
    if isinstance(wanted, dict):
        return isinstance(found, (int, float)) and in_range(found, wanted)
    if isinstance(wanted, str) and wanted.startswith("~"):
        return isinstance(found, str) and re.search(wanted[1:], found) is not None
    if key in NOTEBOOKS and isinstance(found, str):
        return found.rsplit("/", 1)[-1].removesuffix(".ipynb") == wanted
    return found == wanted


def in_range(found, wanted):
    if isinstance(wanted, dict):
        return wanted.get("min", found) <= found <= wanted.get("max", found)
    return found == wanted


def lookup(record, path):
    """`victim.notebook`, `rows.0.notebook`: the value there, or None."""
    for part in path.split("."):
        if isinstance(record, list) and part.isdigit() and int(part) < len(record):
            record = record[int(part)]
        elif isinstance(record, dict):
            record = record.get(part)
        else:
            return None
    return record


def workers_ended(facts):
    """Pool -> when each of its workers that ended did so, and in the middle of what."""
    found = {}
    for worker in facts["workers"]:
        if worker["died"] is not None:
            found.setdefault(worker["pool"], []).append([worker["died"], worker["served"]])
    return found


def brief(record, also=()):
    """A record in one line of a report."""
    keys = dict.fromkeys(["kind", "reason", "container", "notebook", *also])
    return {key: lookup(record, RECORD.get(key, key)) for key in keys}


def timings(facts):
    """When the threshold was crossed, when the first victim was dead, when its memory was back; ms after go."""
    deaths = [life["died"] for member in facts.get("members", {}).values() for life in member["lives"]
              if life["died"] is not None]
    deaths += [worker["died"] for worker in facts.get("workers", []) if worker["died"] is not None]
    seen = facts.get("seen", {})
    crossed, dead = seen.get("episode"), min(deaths, default=None)
    backs = [c["back"] for c in facts.get("containers", {}).values() if c.get("back") is not None]
    back = min(backs, default=None)
    between = dead - crossed if None not in (dead, crossed) else None
    return {"high_ms": seen.get("high"), "crossed_ms": crossed, "dead_ms": dead, "back_ms": back,
            "crossed_to_dead_ms": between}


# A word about memory on stderr of the cell. Names of modules are not one: `shared_memory` is no word of its own.
TOLD = re.compile(r"(?i)\b(memory|oom)\b")


def outcome(scenario, facts):
    """What came of it, judged alike for every guard and for none: nothing in here knows which one ran.

    Right is: nobody ended who should not have, every server and everybody else lives and answers, and
    where somebody should have ended the memory is back. It does not matter who did it, the guard or the
    kernel, nor whether a notebook ended as a whole or only what was too much of it.
    """
    if facts["trouble"] or "members" not in facts:
        return None
    members, containers = facts["members"], facts["containers"]
    wanted = {resolve(short, members) for short in scenario["expect"]["ended"]}
    ended = {name for name, member in members.items() if member["ended"] and not removed(facts, name)}
    hit = {victim["owner"] for victim in facts["oom_victims"] if victim["owner"] in members}
    in_part = {name for name in hit - ended if members[name]["kind"] == "notebook"}
    there = {name: one for name, one in containers.items() if not one["removed"]}
    servers = sorted(name for name, one in there.items() if not one["server_alive"] or not one["server_answers"])
    silent = sorted(name for name, member in members.items()
                    if member["alive"] and member["kind"] == "notebook" and name not in wanted and not member["answers"])
    above, relief = facts["above"], relief_ms(facts)
    if wanted and above["first_ms"] is None and not ended | hit:
        return None  # its time was over before there was anything to do: a busy machine, and nobody's merit or fault
    wrong = [f"ended {name}" for name in sorted(ended - wanted)]
    wrong += [f"a part of {name} ended" for name in sorted(in_part - wanted)]
    wrong += [f"the server of {name} was lost" for name in servers]
    wrong += [f"{name} gives no answer" for name in silent]
    if wanted and relief is None:
        wrong.append("the memory did not come back")
    return {
        "right": not wrong, "wrong": wrong, "ended": sorted(ended), "in_part": sorted(in_part),
        "server_lives": not servers, "others_live": not silent and not (ended | in_part) - wanted,
        "kernel_oom_kills": oom_kills(facts),
        "relief_ms": relief,
        "shm_lost": shm_lost(facts, ended), "told": told(members, (ended | in_part) & wanted),
    }


def relief_ms(facts):
    """From the threshold to relief: as long as usage was above it, and at least until the first one was dead.

    0: it never came so far; None: it never ended. Usage that a guard or the kernel squeezes to just below the threshold is no relief.
    """
    above = facts["above"]
    if above["first_ms"] is None:
        return 0
    if above["still"]:
        return None
    deaths = [life["died"] for member in facts["members"].values() for life in member["lives"]]
    deaths += [victim.get("at") for victim in facts["oom_victims"]]
    later = [moment for moment in deaths if moment is not None and moment >= above["first_ms"]]
    return max(above["lasted_ms"], min(later, default=above["first_ms"]) - above["first_ms"])


def shm_lost(facts, ended):
    """Bytes that came to /dev/shm and are still there although somebody of that container ended."""
    return sum(max(0, one["shm"] - (one["shm_before"] or 0)) for name, one in facts["containers"].items()
               if one["shm"] is not None and any(member.startswith(f"{name}/") for member in ended))


def told(members, whom):
    """Whether each of those who lost something was told why: "yes", "by an error", "no"; None: nobody did."""
    if not whom:
        return None
    if all(any(one["name"] == "stderr" and TOLD.search(one["text"]) for one in members[name]["streams"])
           for name in whom):
        return "yes"
    return "by an error" if all(members[name]["error"] for name in whom) else "no"


def report(scenario, facts, boot, guard):
    """The one line of JSON for this scenario: the verdict first, then what happened, in figures."""
    facts = dict(facts, timings=timings(facts))
    guarded = guard == "nbguard"
    wrong = judge(scenario, facts, guarded)
    line = {"scenario": scenario["name"], "guard": guard, **boot}
    if guarded:
        line.update({"pass": not wrong, "wrong": wrong})
    elif guard == "none":
        alone = judge_alone(scenario, facts)
        line.update({"pass": None, "expected": not wrong, "otherwise": wrong, "as_foreseen": not alone,
                     "not_foreseen": alone})
    else:
        line.update({"pass": None, "expected": not wrong, "otherwise": wrong})
    line["outcome"] = outcome(scenario, facts)
    if "members" in facts:
        line.update(tell_story(facts))
    line["seconds"] = facts.get("seconds")
    return line


def tell_story(facts):
    members, containers = facts["members"], facts["containers"]
    return {
        "ended": {name: m["ended"] for name, m in members.items() if m["ended"]},
        "workers_ended": workers_ended(facts),
        "lives": sorted(name for name, m in members.items() if m["alive"]),
        "oom_kill": oom_kills(facts), "oom_victims": facts["oom_victims"],
        "timings": facts["timings"],
        "containers": {name: {
            "events": c["events"], "peak_mib": c["peak"] >> 20,
            "freed_mib": None if c.get("freed") is None else c["freed"] >> 20,
            "shm_left_kib": None if c["shm"] is None else c["shm"] >> 10,
            "highs": [[at, None if high is None else high >> 20] for at, high in c["highs"]],
            "high_after_stop": c.get("high_after_stop"), "server_alive": c["server_alive"],
        } for name, c in containers.items()},
        "errors": {name: m["error"] for name, m in members.items() if m["error"]},
        "told": {name: [one["text"][:200] for one in m["streams"][:2]] for name, m in members.items() if m["streams"]},
        "lowest_available_mib": None if facts["lowest_available"] is None else facts["lowest_available"] >> 20,
        "faults": facts["faults"], "daemon": facts["guard"], "timed_out": facts["timed_out"],
        "records": [brief(record, ("event_to_signal_us", "signal_to_dead_us", "freed")) for record in
                    facts["incidents"]][:10],
    }
