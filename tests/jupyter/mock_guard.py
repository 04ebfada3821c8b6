"""A stand-in for the guard's notebook socket, for kernels that the tests started.

It finds them as the guard does, by the connection file in argv, and answers in the guard's shape.
`kill` ends a kernel and adds the record. `answer` lets a test answer something else.
"""

import json
import os
import pathlib
import re
import signal
import socketserver
import threading
import time
import uuid

GIB = 1 << 30
KERNEL = re.compile(r"/kernel-([0-9a-f-]{36})\.json")


def kernels(runtime):
    """Kernel id → pid, of kernels whose connection file is in the folder `runtime`."""
    found = {}
    parents = {}
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            argv = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        for word in argv:
            if word.startswith(str(runtime)) and (match := KERNEL.search(word)):
                try:
                    stat = (folder / "stat").read_text()
                except OSError:
                    continue
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
                found.setdefault(match[1], []).append(int(folder.name))
    # The topmost: a forked child has the same argv.
    return {kernel: next((pid for pid in pids if parents[pid] not in pids), pids[0])
            for kernel, pids in found.items()}


def resident(pid):
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def variable(pid, name):
    try:
        words = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for word in words:
        if word.startswith(name.encode() + b"="):
            return word.partition(b"=")[2].decode(errors="replace")
    return None


def stamp(when=None):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))


class MockGuard:
    def __init__(self, socket, runtime):
        self.path = pathlib.Path(socket)
        self.runtime = runtime
        self.total = 4 * GIB
        # Kernel id → bytes that are shown beside what it really holds.
        self.more = {}
        self.cache = 0
        self.state = "quiet"
        # Rows beside the real kernels.
        self.rows = []
        self.incidents = []
        # Paths, in the order in which they were asked for.
        self.asked = []
        # Path → status and body (bytes) to answer instead, or None.
        self.answer = lambda path: None
        # Seconds before an answer.
        self.delay = 0
        self.start()

    def start(self):
        guard = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                words = self.rfile.readline().split()
                while self.rfile.readline().strip():
                    pass
                if len(words) > 1:
                    guard.serve(self.wfile, words[1].decode())

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                # A client that went away in a test of just that.
                pass

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.server = Server(str(self.path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self):
        """As the guard's end does: nobody listens, and the socket is gone."""
        self.server.shutdown()
        self.server.server_close()
        self.path.unlink(missing_ok=True)

    def serve(self, out, path):
        self.asked.append(path)
        time.sleep(self.delay)
        status, body = self.answer(path) or (200, json.dumps(self.say(path)).encode())
        out.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)

    def say(self, path):
        if path.startswith("/api/v1/incidents"):
            return {"schema": 1, "incidents": self.incidents}
        return {"schema": 1, "time": stamp(), "age_ms": 0, "host": None, "paused": False,
                "containers": [self.container()]}

    def container(self):
        rows = [self.row(kernel, pid) for kernel, pid in kernels(self.runtime).items()] + self.rows
        rows.sort(key=lambda row: -row["memory"])
        total = sum(row["memory"] for row in rows)
        used = total + 150_000_000
        first = rows[0] if rows else None
        return {
            "id": "0" * 64, "name": "jupyter", "image": "lab", "engine": "docker", "mode": "high+psi",
            "mode_reason": "", "state": self.state, "usage": used + self.cache, "unreclaimable": used,
            "anon": used, "shmem": 0, "swap": None, "limit": self.total, "total": self.total,
            "warning": self.total * 8 // 10, "threshold": self.total * 9 // 10, "high": None,
            "psi_some_avg10": 0.0, "psi_full_avg10": 0.0, "sum": total, "ratio": total / self.total,
            "policy": "largest", "dry_run": False, "paused": False, "protected": False,
            "notebooks": rows, "notebooks_total": len(rows),
            "servers": [{"pid": 1, "name": "jupyter-lab", "memory": 120_000_000}],
            "unattributed": {"count": 3, "memory": 30_000_000, "top": []},
            "would": {"end": first and first["pid"], "reason": "largest",
                      "sentence": f"Ends {first['notebook']}: it holds the most." if first else ""},
        }

    def row(self, kernel, pid):
        memory = resident(pid) + self.more.get(kernel, 0)
        return {"pid": pid, "start": 1, "memory": memory, "lower": memory, "upper": memory,
                "share": memory / self.total, "name": "python3",
                "notebook": variable(pid, "JPY_SESSION_NAME"), "kernel_id": kernel, "uid": 0,
                "container_pid": pid, "eligible": "yes", "because": "",
                "processes": [{"pid": pid, "name": "python3", "memory": memory}], "processes_total": 1}

    def kill(self, kernel, **changes):
        """Ends a kernel as the guard does, and records it. The record's id."""
        pid = kernels(self.runtime)[kernel]
        row = self.row(kernel, pid)
        os.kill(pid, signal.SIGKILL)
        return self.record(row, **changes)

    def record(self, row, **changes):
        incident = {
            "schema": 1, "id": str(uuid.uuid4()), "time": stamp(), "host": "h", "kind": "kill",
            "domain": "container", "container": {"id": "0" * 64, "name": "jupyter"}, "mode": "high+psi",
            "trigger": "high", "figures": {"usage": self.total * 91 // 100, "unreclaimable": self.total * 9 // 10,
                                           "total": self.total, "threshold": self.total * 9 // 10},
            "rows": [row], "servers": [], "unattributed": {"count": 0, "memory": 0, "top": []},
            "verdict": "kill", "reason": "largest",
            "sentence": f"Ends {row['notebook']}: it holds the most, {row['memory'] // 1048576} MiB.",
            "dry_run": False, "victim": {"pid": row["pid"], "name": row["name"], "notebook": row["notebook"],
                                         "kernel_id": row["kernel_id"], "memory": row["memory"],
                                         "signals": ["KILL"], "signalled": 1},
            "timings": {}, "freed": row["memory"], "kernel_oom_kills": 0, "message": "written",
            "stack": [],
        }
        incident.update(changes)
        self.incidents.insert(0, incident)
        # The episode is over when its record is written.
        self.more.pop(row["kernel_id"], None)
        return incident["id"]
