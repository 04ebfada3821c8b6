"""Reads a scenario file into plain data, every key at its default, and says what is wrong with a bad one.

Pure: no files but the one it is given, no clock, no guest. The keys stand in README.md; this
file is the list that they are checked against.
"""

import difflib
import re
import tomllib

from guest_recipe import GUESTS
from peer_recipe import PEERS

REQUIRED = object()


class ScenarioError(Exception):
    """All that is wrong with one file, each line with the file and the key."""


def size(value):
    """`512M` is MiB, as Docker reads it; a number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+)([KMG]?)(i?B)?", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("wants a size such as 600M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def seconds(value):
    """`1.5s`, `200ms`, or a number of seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"([\d.]+)(ms|s|m)", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("wants a duration such as 5s or 200ms")
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2]]


def text(value):
    if not isinstance(value, str):
        raise ValueError("wants a text")
    return value


def name(value):
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError("wants a name of letters, digits, '_', '.', '-'")
    return value


def number(value):
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("wants a whole number")
    return value


def share(value):
    if not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError("wants a share between 0 and 1")
    return float(value)


def flag(value):
    if not isinstance(value, bool):
        raise ValueError("wants true or false")
    return value


def texts(value):
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("wants a list of texts")
    return value


def labels(value):
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError("wants a table of texts")
    return value


def counts(value):
    if not isinstance(value, dict) or not all(isinstance(one, (int, dict)) for one in value.values()):
        raise ValueError("wants a table of numbers")
    return value


def patterns(value):
    if not isinstance(value, dict):
        raise ValueError("wants a table of lists of patterns")
    for one in value.values():
        for pattern in texts(one):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"wants patterns, {pattern!r}: {error}") from None
    return value


def pattern_each(value):
    if not isinstance(value, dict):
        raise ValueError("wants a table of patterns")
    for one in value.values():
        try:
            re.compile(text(one))
        except (re.error, ValueError) as error:
            raise ValueError(f"wants a table of patterns, {one!r}: {error}") from None
    return value


def table(value):
    if not isinstance(value, dict):
        raise ValueError("wants a table")
    return value


def one_of(*choices):
    def check(value):
        if value not in choices:
            raise ValueError("wants one of " + ", ".join(repr(choice) for choice in choices))
        return value
    return check


def names_of(*choices):
    """A list of some of these."""
    return lambda value: [one_of(*choices)(one) for one in texts(value)]


def either(*checks):
    """The first of several readings that fits."""
    def check(value):
        wrong = []
        for one in checks:
            try:
                return one(value)
            except ValueError as error:
                wrong.append(str(error))
        raise ValueError(" or ".join(wrong))
    return check


NOTEBOOK = {
    "name": (name, REQUIRED), "kernel": (name, "python3"), "setup": (text, ""), "code": (text, ""),
    "start": (seconds, 0.0), "restart": (number, 0), "restart_delay": (seconds, 3.0), "user": (number, None),
    "launcher": (one_of("server", "papermill"), "server"),
}
PROCESS = {
    "name": (name, REQUIRED), "kind": (one_of("terminal", "daemon", "exec"), "terminal"),
    "command": (text, REQUIRED), "start": (seconds, 0.0),
}
PHP = {"extension": (flag, False), "opcache": (flag, True), "settings": (labels, {})}
POOL = {"name": (name, REQUIRED), "workers": (number, 2), "hold": (size, 0), "settings": (labels, {})}
REQUEST = {"name": (name, REQUIRED), "pool": (name, REQUIRED), "code": (text, REQUIRED), "start": (seconds, 0.0)}
FILE = {"path": (text, REQUIRED), "content": (text, ""), "size": (size, None)}
SERVER = {"ballast": (size, 0), "grow": (size, 0)}
ENGINES = ("docker", "docker-in-docker", "containerd", "podman", "podman-rootless")
CONTAINER = {
    "name": (name, REQUIRED), "engine": (one_of(*ENGINES), "docker"),
    "memory": (size, None), "memory_swap": (size, None), "labels": (labels, {}),
    "env": (labels, {}), "init": (flag, False), "shm_size": (size, 1 << 30), "user": (number, 1000),
    "cgroup_parent": (name, None), "mounts": (texts, []), "server": (SERVER, None), "notebook": ([NOTEBOOK], ()),
    "process": ([PROCESS], ()), "file": ([FILE], ()),
    "php": (PHP, None), "pool": ([POOL], ()), "request": ([REQUEST], ()),
}
# Every field of a fault that says when: at a time, or when something happened (README.md, "Faults").
EVENTS = ("high", "warned", "episode", "ended", "restarted")
ACTIONS = ("kill-daemon", "stop-daemon", "continue-daemon", "restart-daemon", "reload-daemon", "start-daemon",
           "daemon-reload", "docker-update", "remove-container", "write-high", "shell")
FAULT = {
    "at": (seconds, None), "on": (one_of(*EVENTS), None), "delay": (seconds, 0.0),
    "action": (one_of(*ACTIONS), REQUIRED), "container": (name, None), "arguments": (text, ""),
}
EXPECT = {
    "ended": (texts, []), "ended_times": (counts, {}), "ended_order": (texts, []), "told": (patterns, {}),
    "answered": (pattern_each, {}), "workers_ended": (counts, {}),
    "lives": (either(one_of("all others"), texts), "all others"),
    "server_lives": (flag, True), "oom_kill": (either(number, one_of("allowed", "some")), 0),
    "max_events": (number, None), "freed_at_least": (size, None), "shm_left": (size, None),
    "memory_high": (one_of("restored", "any"), "restored"),
    "records": (either(number, counts, one_of("any")), "any"), "record": ([table], ()),
    "ended_within": (seconds, None), "wakeups_at_most": (number, None),
    "daemon_restarts": (number, 0), "check": ([{
        "what": (text, REQUIRED), "command": (text, REQUIRED), "when": (one_of("before", "after", "stopped"), "after"),
        "output": (text, None)}], ()),
}
SCENARIO = {
    "title": (text, REQUIRED), "why": (text, ""),
    "host": ({"guest": (one_of(*GUESTS), None), "memory": (size, 3 << 30), "swap": (size, 0), "zram": (size, 0),
              "cmdline": (text, ""), "cgroup_driver": (one_of("systemd", "cgroupfs"), "systemd")}, {}),
    "container": ([CONTAINER], REQUIRED),
    "guard": ({"config": (text, ""), "arguments": (texts, []), "beside": (names_of(*PEERS), []),
               "threshold": (share, 0.9)}, {}),
    "run": ({"duration": (seconds, 45.0), "settle": (seconds, 2.0), "quiet": (seconds, 2.0)}, {}),
    "fault": ([FAULT], ()),
    "expect": (EXPECT, {}),
    "alone": ({"ended": (texts, None), "oom_kill": (either(number, one_of("allowed", "some")), None)}, {}),
}


def load(path):
    """The scenario in this file, complete with defaults and under the file's own name; or ScenarioError."""
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    return parse(raw, str(path))


def parse(raw, path):
    """Checks and completes what TOML gave; all that is wrong comes in one error."""
    wrong = []
    scenario = read_table(raw, SCENARIO, "", wrong)
    if not wrong:
        check_references(scenario, wrong)
    if wrong:
        raise ScenarioError("\n".join(f"{path}: {line}" for line in wrong))
    scenario["name"] = path.rsplit("/", 1)[-1].removesuffix(".toml")
    return scenario


def read_table(raw, schema, where, wrong):
    """One table against its schema; `where` is its place for the reader of an error."""
    for key in raw:
        if key not in schema:
            near = difflib.get_close_matches(key, schema, 1)
            wrong.append(f"{where}{key}: unknown key" + (f", did you mean {near[0]}?" if near else ""))
    return {key: read_value(raw, key, check, default, where, wrong) for key, (check, default) in schema.items()}


def read_value(raw, key, check, default, where, wrong):
    place = f"{where}{key}"
    if key not in raw:
        if default is REQUIRED:
            wrong.append(f"{place}: missing")
            return None
        if isinstance(check, dict):
            return read_table(default or {}, check, f"{place}.", wrong)
        return list(default) if isinstance(check, list) else default
    value = raw[key]
    if isinstance(check, dict):
        if isinstance(value, dict):
            return read_table(value, check, f"{place}.", wrong)
        wrong.append(f"{place}: wants a table")
        return None
    if isinstance(check, list):
        return read_list(value, check[0], place, wrong)
    try:
        return check(value)
    except ValueError as error:
        wrong.append(f"{place}: {error}, not {value!r}")
        return None


def read_list(value, check, place, wrong):
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        wrong.append(f"{place}: wants [[{place}]] tables")
        return []
    if not isinstance(check, dict):
        return value
    return [read_table(one, check, f"{place}[{index}].", wrong) for index, one in enumerate(value)]


def check_references(scenario, wrong):
    """What no single value shows: names twice, names that are not there, faults without a time."""
    names = [container["name"] for container in scenario["container"]]
    for double in sorted({one for one in names if names.count(one) > 1}):
        wrong.append(f"container: the name {double} is used twice")
    if not names:
        wrong.append("container: wants at least one")
    known = set(all_members(scenario))
    if len(known) < sum(len(members_of(c)) for c in scenario["container"]):
        wrong.append("container: a notebook, process or request name is used twice in one container")
    for container in scenario["container"]:
        check_php(container, wrong)
        check_engine(container, wrong)
    for index, fault in enumerate(scenario["fault"]):
        if (fault["at"] is None) == (fault["on"] is None):
            wrong.append(f"fault[{index}]: wants either at or on")
        if fault["container"] is not None and fault["container"] not in names:
            wrong.append(f"fault[{index}].container: there is no container {fault['container']}")
    expect = scenario["expect"]
    lives = expect["lives"] if isinstance(expect["lives"], list) else []
    for key, values in (("ended", expect["ended"]), ("ended_times", expect["ended_times"]), ("told", expect["told"]),
                        ("ended_order", expect["ended_order"]), ("answered", expect["answered"]), ("lives", lives),
                        ("alone.ended", scenario["alone"]["ended"] or [])):
        for value in values:
            if resolve(value, known) is None:
                wrong.append(f"expect.{key}: there is no single notebook, process or request {value}")
    pools = [f"{c['name']}/{pool['name']}" for c in scenario["container"] for pool in c["pool"]]
    for value in expect["workers_ended"]:
        if resolve(value, pools) is None:
            wrong.append(f"expect.workers_ended: there is no single pool {value}")


def all_members(scenario):
    """Every notebook, process and request as container/name."""
    return [f"{container['name']}/{one['name']}" for container in scenario["container"]
            for one in members_of(container)]


def members_of(container):
    return container["notebook"] + container["process"] + container["request"]


def check_engine(container, wrong):
    """Only Docker is asked for what is not in every engine's command."""
    if container["engine"] != "docker":
        for key in ("memory_swap", "labels", "init", "cgroup_parent", "pool"):
            if container[key]:
                wrong.append(f"container {container['name']}: {key} wants engine = \"docker\"")
        for process in container["process"]:
            if process["kind"] == "exec":
                wrong.append(f"container {container['name']}: {process['name']} wants engine = \"docker\"")


def check_php(container, wrong):
    """A container has php-fpm or a notebook server in it, not both; a request wants its pool."""
    where, pools = container["name"], [pool["name"] for pool in container["pool"]]
    if len(set(pools)) < len(pools):
        wrong.append(f"container {where}: a pool name is used twice")
    for request in container["request"]:
        if request["pool"] not in pools:
            wrong.append(f"container {where}: there is no pool {request['pool']} for the request {request['name']}")
    if pools and container["notebook"]:
        wrong.append(f"container {where}: has pools, so it can have no notebooks")
    for process in container["process"]:
        if pools and process["kind"] != "exec":
            wrong.append(f"container {where}: has pools, so {process['name']} wants kind = \"exec\"")


def wants_php(scenario):
    return any(container["pool"] for container in scenario["container"])


def wants_podman(scenario):
    return any(container["engine"].startswith("podman") for container in scenario["container"])


def wants_extension(scenario):
    return any(container["php"]["extension"] for container in scenario["container"])


def resolve(short, known):
    """`big` or `lab/big` as container/name, when that is one and only one."""
    found = [one for one in known if one == short or one.split("/", 1)[1] == short]
    return found[0] if len(found) == 1 else None


def guest_of(scenario, asked):
    """The guest that the scenario names, else the one that somebody asks for."""
    named = scenario["host"]["guest"]
    if named and asked not in (None, named):
        raise ScenarioError(f"{scenario['name']}: host.guest: it is about {named}, not {asked}")
    return named or asked


def boot_key(scenario):
    """Scenarios with the same key can share one boot: swap and Docker's driver are switched within the guest."""
    return scenario["host"]["memory"], scenario["host"]["cmdline"], scenario["host"]["guest"] or ""
