"""From the guard's answers to what the pages show. Pure: values only.

What the guard says about processes comes from a container, so nothing is taken for granted: each
value has its type and its bound here, and whatever shows it treats it as text.
"""

# The guard bounds its lists as well; a page with more rows than this is no help to anybody.
NOTEBOOKS = 200
INCIDENTS = 50
# The guard's sentences and paths are shorter.
TEXT = 1000


def number(value):
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2 ** 63
    return value if good else None


def text(value):
    return value[:TEXT] if isinstance(value, str) else None


def table(value):
    return value if isinstance(value, dict) else {}


def rows(value, most):
    return [row for row in value[:most] if isinstance(row, dict)] if isinstance(value, list) else []


def pick(source, numbers, texts, flags=()):
    picked = {key: number(source.get(key)) for key in numbers}
    picked.update({key: text(source.get(key)) for key in texts})
    picked.update({key: source.get(key) is True for key in flags})
    return picked


class Places:
    """Which notebook a kernel belongs to, as this server names it."""

    # A kernel that was ended may be gone from the sessions when its incident is read.
    REMEMBERED = 1000

    def __init__(self, root):
        self.root = root.rstrip("/")
        self.now = {}
        self.before = {}

    def learn(self, sessions):
        """Takes what the server's session manager lists."""
        self.now = {}
        for session in rows(sessions, 10_000):
            kernel = text(table(session.get("kernel")).get("id"))
            path = text(session.get("path")) or text(session.get("name"))
            if kernel and path:
                self.now[kernel] = path
        self.before.update(self.now)
        while len(self.before) > self.REMEMBERED:
            del self.before[next(iter(self.before))]

    def path(self, kernel, notebook):
        """The path in this server, from the session or else from the notebook's file; or None."""
        if kernel in self.now:
            return self.now[kernel]
        if notebook and notebook.startswith(self.root + "/"):
            return notebook[len(self.root) + 1:]
        return self.before.get(kernel)

    def shorten(self, sentence):
        """A sentence of the guard's with the paths as this server names them."""
        return sentence.replace(self.root + "/", "") if sentence and self.root else sentence

    def own(self, kernel):
        return kernel in self.now


def container(answer, places, hide_foreign=False):
    """What GET /api/v1/containers says of our container; None if it says nothing."""
    found = rows(answer.get("containers"), 1)
    if not found:
        return None
    source = found[0]
    shown = pick(
        source,
        ("usage", "unreclaimable", "anon", "shmem", "swap", "limit", "total", "warning", "threshold",
         "psi_some_avg10", "psi_full_avg10", "sum", "ratio", "notebooks_total"),
        ("id", "name", "mode", "state", "policy"),
        ("dry_run", "paused", "protected"))
    shown["paused"] = shown["paused"] or answer.get("paused") is True
    shown["notebooks"] = [notebook(row, places, hide_foreign)
                          for row in rows(source.get("notebooks"), NOTEBOOKS)]
    shown["servers"] = sum(number(row.get("memory")) or 0 for row in rows(source.get("servers"), 1000))
    shown["unattributed"] = pick(table(source.get("unattributed")), ("count", "memory"), ())
    shown["would"] = pick(table(source.get("would")), ("end",), ("reason", "sentence"))
    shown["would"]["sentence"] = places.shorten(shown["would"]["sentence"])
    if hide_foreign and not any(row["own"] and row["pid"] == shown["would"]["end"]
                                for row in shown["notebooks"]):
        shown["would"]["sentence"] = None
    return shown


def notebook(source, places, hide_foreign):
    shown = pick(
        source,
        ("pid", "start", "memory", "lower", "upper", "share", "container_pid", "processes_total"),
        ("name", "notebook", "kernel_id", "eligible", "because"))
    shown["own"] = places.own(shown["kernel_id"])
    shown["path"] = places.path(shown["kernel_id"], shown["notebook"])
    shown["because"] = places.shorten(shown["because"])
    if hide_foreign and not shown["own"]:
        shown.update(name=None, notebook=None, kernel_id=None, path=None, because=None)
    return shown


def incidents(answer, places, most=INCIDENTS, hide_foreign=False):
    """What GET /api/v1/incidents says, the newest first."""
    shown = [incident(row, places) for row in rows(answer.get("incidents"), most)]
    if hide_foreign:
        shown = [row for row in shown if row["victim"] and row["victim"]["path"]]
    return shown


def incident(source, places):
    shown = pick(
        source,
        ("freed", "kernel_oom_kills"),
        ("id", "time", "kind", "verdict", "reason", "sentence", "trigger"),
        ("dry_run",))
    shown["sentence"] = places.shorten(shown["sentence"])
    shown["figures"] = pick(table(source.get("figures")),
                            ("usage", "unreclaimable", "total", "threshold"), ())
    victim = source.get("victim")
    shown["victim"] = None
    if isinstance(victim, dict):
        shown["victim"] = pick(victim, ("pid", "memory", "signalled"), ("name", "notebook", "kernel_id"))
        shown["victim"]["path"] = places.path(shown["victim"]["kernel_id"], shown["victim"]["notebook"])
    stack = source.get("stack")
    shown["stack"] = [text(frame) for frame in stack[:10] if text(frame)] if isinstance(stack, list) else []
    return shown


def resource_usage(shown):
    """The same in the shape of jupyter-resource-usage's /api/metrics/v1."""
    if shown is None:
        return {"limits": {}}
    used, total = used_and_total(shown)
    limits = {"rss": total, "pss": total, "warn": is_warning(shown)} if total else {}
    return {"rss": used, "pss": used, "limits": {"memory": limits} if limits else {}}


def used_and_total(shown):
    """What cannot be taken back, which is what the guard goes by: page cache is nobody's worry."""
    used = shown["unreclaimable"] if shown["unreclaimable"] is not None else shown["usage"]
    return used or 0, shown["total"] or 0


def is_warning(shown):
    used, _ = used_and_total(shown)
    return bool(shown["warning"]) and used >= shown["warning"]


def kernel_usage(shown, kernel_id, hostname):
    """One kernel in the shape of jupyter-resource-usage's get_usage. CPU is not the guard's."""
    for row in shown["notebooks"] if shown else ():
        if row["kernel_id"] == kernel_id:
            content = {"hostname": hostname, "pid": row["container_pid"] or row["pid"],
                       "kernel_cpu": None, "kernel_memory": row["memory"], "host_usage_flag": False}
            return {"content": content, "kernel_id": kernel_id}
    return {"content": {"reason": "the guard does not see this kernel (yet)"}, "kernel_id": kernel_id}
