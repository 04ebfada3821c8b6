"""What a guard could answer, for the tests of the status page: one function per host, each
returns (containers, incidents) in the shape of the API. Figures add up as real ones do."""

import datetime
import uuid

MIB = 1 << 20
GIB = 1 << 30
# Text that would do harm if it became markup, moved the cursor or turned the line around.
EVIL = ['<img src=x onerror="document.title=\'owned\'">', "<script>document.title='owned'</script>",
        "\"><b id=owned>bold</b>", "</td></tr></table><h1 id=owned>", "javascript:alert(1)//.ipynb",
        "\u202egnp.exe\u202c \u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627", "{{7*7}}${7*7}", "a\u0000b\u001b[31mred\u0007",
        "long" + "x" * 4092, "' onmouseover='document.title=1", "&lt;b&gt; &amp; &#60;"]


def stamp(ago):
    """RFC 3339 with milliseconds, so many seconds ago."""
    time = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def identity(name):
    return uuid.uuid5(uuid.NAMESPACE_OID, name).hex * 2


def notebook(pid, path, memory, total, processes=3, eligible="yes", because="it holds the most of those that may end", name="python3"):
    parts = [memory - sum(memory // (n + 3) // processes for n in range(1, processes))]
    parts += [memory // (n + 3) // processes for n in range(1, processes)]
    return {"pid": pid, "start": 1000 + pid, "memory": memory, "lower": memory, "upper": memory, "share": memory / total,
            "name": name, "notebook": path, "kernel_id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(pid))), "uid": 1000,
            "container_pid": pid % 1000, "eligible": eligible, "because": because,
            "processes": [{"pid": pid + n, "name": name if n == 0 else "joblib-worker", "memory": part}
                          for n, part in enumerate(parts)][:256], "processes_total": processes}


def container(name, limit, books, cache=0, state="quiet", psi=0.0, mode="high+psi", reason="", image="quay.io/jupyter/scipy-notebook:2026-11",
              server=140 * MIB, loose=36 * MIB, host=64 * GIB, **more):
    total = limit or host
    books = sorted(books, key=lambda book: -book["memory"])
    total_of_books = sum(book["memory"] for book in books)
    firm = total_of_books + server + loose + 22 * MIB
    end = next((book["pid"] for book in books if book["eligible"] == "yes"), None)
    first = next((book for book in books if book["pid"] == end), None)
    value = {
        "id": identity(name), "name": name, "image": image, "engine": "docker", "mode": mode, "mode_reason": reason, "state": state,
        "usage": firm + cache, "unreclaimable": firm, "anon": firm - 22 * MIB, "shmem": 0, "swap": None, "limit": limit, "total": total,
        "warning": total * 8 // 10, "threshold": total * 9 // 10, "high": total * 8 // 10,
        "psi_some_avg10": psi, "psi_full_avg10": None if psi is None else psi / 3, "sum": total_of_books,
        "ratio": total_of_books / total, "policy": "largest", "dry_run": False, "paused": False, "protected": False,
        "notebooks": books[:256], "notebooks_total": len(books),
        "servers": [{"pid": 7001, "name": "jupyter-lab", "memory": server}] if server else [],
        "unattributed": {"count": 2 if loose else 0, "memory": loose,
                         "top": [{"pid": 7101, "name": "bash", "memory": loose // 3}, {"pid": 7102, "name": "tini", "memory": loose // 9}] if loose else []},
        "would": {"end": end, "reason": "largest" if end else "no-workloads",
                  "sentence": (f"Ends {first['notebook'] or first['name']}: it holds {first['memory'] // MIB if first['memory'] else '?'} MiB, the most.") if first
                  else "Holds: there is no notebook."}}
    value.update(more)
    return value


def incident(n, ago, kind="kill", box=None, **more):
    box = box or container("lab", 4 * GIB, [])
    books = [notebook(4200, "work/genome-assembly.ipynb", 2310 * MIB, 4 * GIB, 9),
             notebook(4300, "work/plots.ipynb", 610 * MIB, 4 * GIB, 2, because="it holds less than the one above"),
             notebook(4400, "Untitled3.ipynb", 180 * MIB, 4 * GIB, 1, eligible="below-min-share", because="its end would not matter")]
    rows = []
    for book in books:
        row = {key: value for key, value in book.items() if key not in ("share", "container_pid", "processes", "processes_total")}
        row.update(settled_by="exact", container=box["name"], members=book["processes"])
        rows.append(row)
    rows[0].update(lower=2280 * MIB, upper=2390 * MIB, settled_by="intervals")
    killed = kind == "kill"
    value = {
        "schema": 1, "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{n}-{kind}")), "time": stamp(ago), "host": "hub-03",
        "kind": kind, "domain": "container",
        "container": {"id": box["id"], "name": box["name"], "image": box["image"], "engine": "docker", "labels": {"team": "genomics"}},
        "mode": "high+psi", "trigger": "high",
        "figures": {"usage": 3700 * MIB, "unreclaimable": 3310 * MIB, "anon": 3290 * MIB, "shmem": 0, "swap": None, "total": 4 * GIB,
                    "limit": 4 * GIB, "threshold": 3686 * MIB, "high": 3686 * MIB, "psi_some_avg10": 7.41, "psi_full_avg10": 2.2},
        "rows": rows, "servers": [{"pid": 7001, "name": "jupyter-lab", "memory": 140 * MIB}],
        "unattributed": {"count": 2, "memory": 36 * MIB, "top": [{"pid": 7101, "name": "bash", "memory": 12 * MIB}]},
        "verdict": "kill" if killed else "hold", "reason": {"kill": "largest", "hold": "benign-cache"}.get(kind, kind),
        "sentence": {"kill": "work/genome-assembly.ipynb was ended: it held 2.26 GiB of the 4.00 GiB of lab, more than any other notebook there.",
                     "hold": "Nobody was ended: what fills lab is page cache, which the kernel takes back by itself.",
                     "kernel-oom": "The kernel's OOM killer acted in lab before the guard could."}[kind],
        "dry_run": False, "victim": None, "timings": {"event_to_decision_us": 840, "decision_to_signal_us": None, "event_to_signal_us": None,
                                                      "signal_to_dead_us": None, "signal_to_back_us": None, "stack_to_decision_us": None},
        "freed": None, "kernel_oom_kills": 1 if kind == "kernel-oom" else 0, "message": "skipped: nobody was ended", "stack": []}
    if killed:
        value.update(freed=2290 * MIB, message="written",
                     stack=["assemble (work/genome-assembly.ipynb cell 7, line 41)", "overlap_graph (graphs.py:118)", "<module> (cell 7, line 3)"])
        value["victim"] = {"pid": 4200, "name": "python3", "notebook": "work/genome-assembly.ipynb", "kernel_id": rows[0]["kernel_id"],
                           "memory": 2310 * MIB, "signals": ["KILL"], "signalled": 9, "trackers_spared": 1, "sweeps": 1, "frozen": False,
                           "refused": []}
        value["timings"] = {"event_to_decision_us": 612, "decision_to_signal_us": 188, "event_to_signal_us": 800,
                            "signal_to_dead_us": 21700, "signal_to_back_us": 48200, "stack_to_decision_us": 2140000}
    value.update(more)
    return value


def answer(boxes, host="hub-03", paused=False):
    view = None if host is None else {"name": host, "mode": "v2", "total": 64 * GIB, "available": 23 * GIB, "swap_total": 0,
                                      "swap_free": 0, "threshold": 64 * GIB * 9 // 10}
    return {"schema": 1, "time": stamp(0), "age_ms": 3, "host": view, "paused": paused, "containers": boxes}


def ordinary():
    boxes = [
        container("lab", 4 * GIB, [
            notebook(4300, "work/plots.ipynb", 1180 * MIB, 4 * GIB, 2),
            notebook(4310, "work/genome-assembly.ipynb", 940 * MIB, 4 * GIB, 9, because="it holds less than work/plots.ipynb"),
            notebook(4400, "Untitled3.ipynb", 180 * MIB, 4 * GIB, 1, eligible="below-min-share", because="its end would not matter")],
            cache=900 * MIB, psi=0.0),
        container("teaching-ws26", 16 * GIB, [
            notebook(5000 + 20 * n, f"exercises/sheet-{n + 1:02}.ipynb", (1900 - 260 * n) * MIB, 16 * GIB, 2 + n % 3,
                     **({} if n else {"eligible": "protected", "because": "the configuration protects exercises/sheet-01.ipynb"}))
            for n in range(7)], cache=1300 * MIB, psi=0.3, image="registry.example.edu/teaching/datascience:ws26"),
        container("climate-model", 12 * GIB, [
            notebook(6000, "era5/regrid.ipynb", 7600 * MIB, 12 * GIB, 17),
            notebook(6100, "era5/validate.ipynb", 1450 * MIB, 12 * GIB, 4)], cache=1100 * MIB, state="warned", psi=3.8,
            image="quay.io/jupyter/r-notebook:latest"),
    ]
    incidents = [incident(1, 3100, box=boxes[0]), incident(2, 15200, "hold", boxes[1]), incident(3, 41000, box=boxes[2]),
                 incident(4, 60500, "kernel-oom", boxes[2]), incident(5, 200000, box=boxes[0])]
    return answer(boxes), incidents


def forty():
    books = [notebook(10000 + 300 * n, f"home/user{n:02}/analysis-{n}.ipynb", (900 - 20 * n) * MIB, 32 * GIB, 300 if n == 3 else 1 + n % 7)
             for n in range(40)]
    return answer([container("shared-hub", 32 * GIB, books, cache=2 * GIB)]), []


def pressed():
    boxes = [container("lab", 4 * GIB, [
        notebook(4310, "work/genome-assembly.ipynb", 2750 * MIB, 4 * GIB, 9), notebook(4300, "work/plots.ipynb", 700 * MIB, 4 * GIB, 2)],
        cache=40 * MIB, state="killing", psi=41.5, high=3686 * MIB),
        # Swapped pages count for a notebook, not for usage: more than the limit.
        container("swapper", 2 * GIB, [notebook(8000, None, 2300 * MIB, 2 * GIB, 2, name="ir")], state="lifted", psi=88.0,
                  usage=2040 * MIB, unreclaimable=2030 * MIB, swap=500 * MIB, high=None),
        container("calm", 8 * GIB, [notebook(9000, "quiet.ipynb", 300 * MIB, 8 * GIB, 1)])]
    return answer(boxes, paused=True), [incident(n, 40 + n * 1500, ("kill", "hold", "kernel-oom")[n % 3], boxes[0]) for n in range(48)]


def hostile():
    books = [notebook(20000 + 10 * n, text, (500 - 30 * n) * MIB, 8 * GIB, 2, name=text[:40], because=text, eligible=text if n % 2 else "yes")
             for n, text in enumerate(EVIL)]
    boxes = [container(text, 8 * GIB, books if n == 0 else books[n - 1:n], image=text, reason=text, mode="psi",
                       servers=[{"pid": 1, "name": text, "memory": 90 * MIB}], id=identity(text)) for n, text in enumerate(EVIL[:6])]
    for box in boxes:
        box["would"]["sentence"] = EVIL[0] + " would end"
    boxes[1]["state"] = "<b>state</b>"
    episodes = []
    for n, text in enumerate(EVIL):
        one = incident(n, 100 + 900 * n, box=boxes[0], sentence=text, reason=text[:60], message=text, stack=[text, text], trigger=text[:80])
        one["rows"][0].update(notebook=text, name=text[:40], because=text)
        one["victim"].update(notebook=text)
        one["container"]["labels"] = {text[:50]: text}
        episodes.append(one)
    episodes[0]["kind"] = "constructor"
    return answer(boxes, host="hub<i>03</i>"), episodes


def empty():
    return answer([]), []


def unlimited():
    """No limits, and much that is not known."""
    boxes = [container(f"free-{n}", None, [notebook(30000 + 10 * n, None, (3 + n) * GIB, 64 * GIB, 2)], cache=GIB,
                       psi=None, mode="v1-threshold", reason="the memory controller is on cgroup v1") for n in range(3)]
    boxes[0].update(usage=None, unreclaimable=None, high=None, image="")
    boxes[0]["notebooks"][0].update(memory=None, lower=None, upper=None, share=None, uid=None, container_pid=None, eligible="identity-unknown")
    return answer(boxes), []


def crowd():
    boxes = [container(f"lab-{n:03}", 2 * GIB, [notebook(40000 + 100 * n + 10 * m, f"nb{m}.ipynb", (60 + (37 * n + 101 * m) % 420) * MIB, 2 * GIB)
                                                for m in range(1 + n % 4)], cache=(n * 13) % 300 * MIB) for n in range(200)]
    return answer(boxes), [incident(n, 60 + n * 700, ("kill", "kill", "hold")[n % 3], boxes[n]) for n in range(120)]


def alone():
    """What a container sees of itself through the notebook's door."""
    given, incidents = ordinary()
    given.update(host=None, containers=given["containers"][:1])
    return given, incidents[:1]


HOSTS = {one.__name__: one for one in (ordinary, forty, pressed, hostile, empty, unlimited, crowd, alone)}
