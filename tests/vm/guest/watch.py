"""Watches a scenario while it runs: usage, events, who dies and when; and injects its faults.

Deaths come from pidfds, so they are exact; usage, memory.high and memory.events are read about
every 10 ms through descriptors that stay open. It changes nothing but what a fault asks for.
"""

import os
import pathlib
import queue
import re
import select
import subprocess
import threading
import time

import groups
from lab import LabError, run

# One round of reading costs 1 to 2 ms under emulation; 8 ms between rounds leaves the guest its cores.
ROUND_MS = 8
# Owners are looked up by environ, which can block on a throttled process: in a thread, seldom.
OWNERS_SECONDS = 0.3
# How far below its bound a usage counts as having crossed it: one THP step and the kernel's batching.
NEAR = 0.01


class Member:
    """A notebook, a process or a PHP request of the scenario, over all its lives.

    A request lives as long as its worker, until its answer has come.
    """

    def __init__(self, container, spec, kind):
        self.name = f"{container.name}/{spec['name']}"
        self.container = container
        self.spec = spec
        self.kind = kind
        self.lives = []  # {"pid", "born", "died", "by"}
        self.cell = "none"
        self.error = None
        self.answered = None
        self.streams = []
        self.body = None

    @property
    def alive(self):
        return bool(self.lives) and self.lives[-1]["died"] is None

    def is_done(self):
        """Nothing more is to come from it."""
        if self.kind == "process":
            return bool(self.lives) and not self.alive
        if self.kind == "request":
            return self.cell in ("ok", "error", "cut")
        if self.lives and not self.alive:
            return len(self.lives) > self.spec["restart"]
        return not self.spec["code"] or self.cell in ("ok", "error")


class Worker:
    """A worker of an fpm pool, from fork to end, and what it served at its end."""

    kind = "worker"

    def __init__(self, container, pool, pid, born):
        self.name = f"{container.name}/{pool}"
        self.container = container
        self.lives = [{"pid": pid, "born": born, "died": None, "by": None}]
        self.serves = None
        self.served = None


class Gauge:
    """A container's figures, read again and again through open descriptors."""

    def __init__(self, container):
        self.container = container
        self.figures = groups.Figures(container.cgroup)
        self.limit = container.spec["memory"]
        self.samples = []
        self.highs = []
        self.gone = False
        self.read(time.monotonic())
        self.first_events = dict(self.events)

    def read(self, now):
        """One sample; a removed container keeps its last figures."""
        if self.gone:
            return
        try:
            self.current, self.high, self.events = self.figures.read()
        except (OSError, ValueError):
            self.gone = True
            return
        self.samples.append((now, self.current))
        if not self.highs or self.highs[-1][1] != self.high:
            self.highs.append((now, self.high))

    def counted(self, event):
        """None where the kernel does not count it."""
        return self.events[event] - self.first_events[event] if event in self.events else None

    def close(self):
        self.figures.close()


class Watch:
    """One run of a scenario, from `go` to quiet."""

    def __init__(self, scenario, containers, guard):
        self.scenario = scenario
        self.containers = containers
        self.guard = guard
        self.members = [Member(c, spec, kind) for c in containers
                        for kind, specs in (("notebook", c.spec["notebook"]), ("process", c.spec["process"]),
                                            ("request", c.spec["request"]))
                        for spec in specs]
        self.poll = select.poll()
        self.workers = []
        self.pidfds = {}  # descriptor -> (member or worker, life)
        self.owners = {}  # pid -> member name
        self.gauges = {}
        self.seen = {}    # event -> when, first time
        self.oom_victims = []
        self.servers_gone = {}
        self.trouble = []
        self.faults = [dict(fault, done=None) for fault in scenario["fault"]]
        self.fault_threads = []
        self.mem_available = []
        self.unlimited = any(c.spec["memory"] is None for c in containers)
        self.meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        self.kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.kmsg, 0, os.SEEK_END)
        self.stopping = False
        self.daemon_pids = [guard.pid] if guard.pid else []

    def take_events(self, container, events):
        for event in events:
            self.take_event(container, event)

    def take_event(self, container, event):
        """What a server told, put to the member it is about."""
        what = event["event"]
        who = event.get("notebook") or event.get("process") or event.get("request")
        member = self.member(f"{container.name}/{who}") if who else None
        if what in ("kernel", "process"):
            self.add_life(member, event["at"], container.host_pid(event["pid"]))
        elif what == "worker":
            self.add_worker(container, event)
        elif what == "serving":
            self.begin_request(member, event)
        elif what == "answer":
            self.end_request(member, event)
        elif what == "running":
            member.cell = "running"
        elif what == "finished":
            member.cell, member.error = event["status"], event["error"]
        elif what == "answered":
            member.answered = event["at"]
        elif what == "stream" and len(member.streams) < 50:
            member.streams.append({key: event[key] for key in ("at", "name", "text", "in_cell")})
        elif what == "server-gone":
            self.servers_gone[container.name] = event["at"]
        elif what == "server-answered":
            container.answered = event["at"]
        elif what == "trouble":
            self.trouble.append(f"{who}: {event['text']}")

    def member(self, name):
        return next((one for one in self.members if one.name == name), None)

    def add_life(self, member, born, pid):
        life = {"pid": pid, "born": born, "died": None, "by": None}
        member.lives.append(life)
        if pid is None:  # it came and went before anybody could look
            life["died"] = born
            return
        self.owners[pid] = member.name
        self.wait_for_death(member, life)

    def wait_for_death(self, who, life):
        try:
            descriptor = os.pidfd_open(life["pid"])
        except ProcessLookupError:
            life["died"] = time.monotonic()
            return
        self.pidfds[descriptor] = (who, life)
        self.poll.register(descriptor, select.POLLIN)

    def add_worker(self, container, event):
        worker = Worker(container, event["pool"], event["host_pid"], event["at"])
        self.workers.append(worker)
        self.owners[event["host_pid"]] = worker.name
        self.wait_for_death(worker, worker.lives[0])

    def begin_request(self, member, event):
        member.cell = "running"
        self.add_life(member, event["at"], member.container.host_pid(event["pid"]))
        if worker := self.worker_of(member):
            worker.serves = member.name

    def worker_of(self, member):
        """The worker that has the request, also when it is dead."""
        pid = member.lives[-1]["pid"] if member.lives else None
        return next((one for one in reversed(self.workers) if pid and one.lives[0]["pid"] == pid), None)

    def end_request(self, member, event):
        """A whole answer outlives its worker: one that was asked to end goes as soon as it has answered."""
        member.cell, member.error, member.body = event["status"], event["error"], event["body"]
        if not member.lives:
            member.lives.append({"pid": None, "born": event["at"], "died": None, "by": None})
        life, worker = member.lives[-1], self.worker_of(member)
        if event["status"] == "cut":
            life["died"] = life["died"] or event["at"]
            return
        life["died"] = life["by"] = None
        if worker:
            worker.serves = worker.served = None
            self.owners[worker.lives[0]["pid"]] = worker.name
        for descriptor, (who, _) in list(self.pidfds.items()):
            if who is member:
                self.poll.unregister(descriptor)
                os.close(descriptor)
                del self.pidfds[descriptor]

    def begin(self):
        """The last look before anything happens."""
        self.gauges = {c.name: Gauge(c) for c in self.containers}
        self.started = time.monotonic()
        for task in (self.keep_owners, self.keep_daemon):
            threading.Thread(target=task, daemon=True).start()

    def run(self):
        """Until everybody is done and it was quiet for a while, or the time is up."""
        run_for = self.scenario["run"]
        deadline = self.started + run_for["duration"]
        done_since = None
        while time.monotonic() < deadline:
            self.round()
            faults_left = any(fault["done"] is None and fault["at"] is not None for fault in self.faults)
            busy = faults_left or any(t.is_alive() for t in self.fault_threads)
            if busy or not all(member.is_done() for member in self.members):
                done_since = None
            elif done_since is None:
                done_since = time.monotonic()
            elif time.monotonic() - done_since > run_for["quiet"]:
                break
        self.timed_out = done_since is None

    def round(self):
        """Sleep until something dies or the next sample is due; then look at everything once."""
        for descriptor, _ in self.poll.poll(ROUND_MS):
            self.note_death(descriptor)
        now = time.monotonic()
        for gauge in self.gauges.values():
            gauge.read(now)
        if self.unlimited:
            text = os.pread(self.meminfo, 200, 0).decode()
            self.mem_available.append((now, int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) << 10))
        self.read_kmsg()
        for container in self.containers:
            while not container.events.empty():
                self.take_event(container, container.events.get())
        self.note_events(now)
        self.inject(now)

    def note_death(self, descriptor):
        member, life = self.pidfds.pop(descriptor)
        self.poll.unregister(descriptor)
        os.close(descriptor)
        life["died"] = time.monotonic()
        self.read_kmsg()
        if member.kind == "worker":
            member.served = member.serves
        life["by"] = "kernel" if any(v["pid"] == life["pid"] for v in self.oom_victims) else "other"
        self.see("ended", member.container.name)

    def see(self, event, container):
        now = time.monotonic()
        self.seen.setdefault((event, container), now)
        self.seen.setdefault((event, None), now)

    def note_events(self, now):
        for name, gauge in self.gauges.items():
            if gauge.gone:
                continue
            if (gauge.counted("high") or 0) > 0:
                self.see("high", name)
            heights = [high for _, high in gauge.highs if high is not None]
            if len(heights) > 1 and heights[-1] > heights[0]:
                self.see("warned", name)
            if gauge.limit is not None:
                bound = self.scenario["guard"]["threshold"] - NEAR
                if gauge.current >= bound * gauge.limit:
                    self.see("episode", name)
        if self.unlimited and self.mem_available:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            if self.mem_available[-1][1] <= (1 - self.scenario["guard"]["threshold"] + NEAR) * total:
                self.see("episode", None)

    def inject(self, now):
        """Starts each fault whose time or event has come; what it does must not stop the watch."""
        for fault in self.faults:
            if fault["done"] is not None:
                continue
            base = self.started + fault["at"] if fault["at"] is not None else \
                self.seen.get((fault["on"], fault["container"]))
            if base is None or now < base + fault["delay"]:
                continue
            fault["done"] = now
            thread = threading.Thread(target=self.do_fault, args=[fault], daemon=True)
            thread.start()
            self.fault_threads.append(thread)

    def do_fault(self, fault):
        action = fault["action"]
        target = next((c for c in self.containers if c.name == fault["container"]), self.containers[0])
        try:
            if action.endswith("-daemon"):
                if self.guard.installed:
                    self.guard.act(action)
            elif action == "daemon-reload":
                run(["systemctl", "daemon-reload"])
            elif action == "docker-update":
                run(["docker", "update", *fault["arguments"].split(), target.id])
            elif action == "remove-container":
                target.removed = True
                run(["docker", "rm", "-f", target.id])
            elif action == "write-high":
                (target.cgroup / "memory.high").write_text(fault["arguments"])
            else:
                run(["sh", "-c", fault["arguments"]], env=self.environment(target))
        except (LabError, OSError, subprocess.SubprocessError) as error:
            self.trouble.append(f"fault {action}: {error}")

    def environment(self, target=None):
        """What a command of a scenario can ask for."""
        env = dict(os.environ, GUARD_PID=str(self.daemon_pids[-1] if self.daemon_pids else ""))
        for container in self.containers:
            key = re.sub(r"\W", "_", container.name)
            env[f"CGROUP_{key}"] = str(container.cgroup)
            env[f"ID_{key}"] = str(container.id)
        for member in self.members:
            if member.alive and member.lives[-1]["pid"]:
                env[f"PID_{re.sub(r'[^A-Za-z0-9]', '_', member.spec['name'])}"] = str(member.lives[-1]["pid"])
        for container in self.containers:
            env[f"PID_{re.sub(r'[^A-Za-z0-9]', '_', container.name)}"] = str(container.pid)
        target = target or self.containers[0]
        env.update(CGROUP=str(target.cgroup), ID=str(target.id), SCOPE=pathlib.Path(target.cgroup).name)
        return env

    def read_kmsg(self):
        """Whom the kernel's OOM killer took, and whose that was."""
        while True:
            try:
                record = os.read(self.kmsg, 8192).decode(errors="replace")
            except BlockingIOError:
                return
            except OSError:  # EPIPE: records were overwritten; the next read goes on
                continue
            found = re.search(r"Killed process (\d+) \(([^)]*)\).*?anon-rss:(\d+)kB", record)
            if found:
                pid = int(found[1])
                self.oom_victims.append({"pid": pid, "process": found[2], "owner": self.owners.get(pid),
                                         "anon_mib": int(found[3]) >> 10, "at": time.monotonic()})

    def keep_owners(self):
        """Which process belongs to which notebook: by its inherited environment, else by its parent."""
        while not self.stopping:
            for container in self.containers:
                for pid in container.pids():
                    if pid not in self.owners:
                        owner = self.owner_of(container, pid)
                        if owner:
                            self.owners[pid] = owner
            time.sleep(OWNERS_SECONDS)

    def owner_of(self, container, pid):
        if pid == container.pid:
            return f"{container.name} server"
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            return None
        marked = re.search(rb"JPY_SESSION_NAME=[^\0]*/([^/\0]+)\.ipynb", environ)
        if marked:
            return f"{container.name}/{marked[1].decode()}"
        return self.owners.get(parent)

    def keep_daemon(self):
        """Every pid that the daemon had: a restart is an event."""
        while not self.stopping and self.guard.installed:
            pid = self.guard.pid
            if pid and pid not in self.daemon_pids:
                self.daemon_pids.append(pid)
                self.see("restarted", None)
            time.sleep(0.05)

    def settle(self, seconds):
        """Goes on looking for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.round()

    def probe(self, seconds):
        """Asks every server and every kernel that lives for an answer."""
        asked = time.monotonic()
        for container in self.containers:
            container.answered = None
            container.command("probe")
        waiting = [m for m in self.members if m.kind == "notebook" and m.alive]
        while time.monotonic() < asked + seconds:
            self.round()
            if all((m.answered or 0) > asked or not m.alive for m in waiting) and \
                    all(c.answered for c in self.containers if c.name not in self.servers_gone):
                break
        for member in waiting:
            member.answers = (member.answered or 0) > asked

    def left_behind(self, member):
        """Processes of a notebook that ended, which still live: those known to be its own."""
        current = member.lives[-1]["pid"] if member.alive else None
        if current is not None:
            return 0
        alive = set(member.container.pids())
        return sum(1 for pid, owner in list(self.owners.items()) if owner == member.name and pid in alive)

    def stop(self):
        self.stopping = True
        for thread in self.fault_threads:
            thread.join(30)
        for descriptor in self.pidfds:
            os.close(descriptor)
        for gauge in self.gauges.values():
            gauge.close()
        os.close(self.meminfo)
        os.close(self.kmsg)
