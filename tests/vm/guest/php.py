"""Containers with php-fpm as their first process: pools, the requests that are sent to them, and their workers.

The file system is a Debian of its own (php_recipe.py), so that PHP in the container is of another
release than the host. Requests come from outside, over the pools' sockets in the home folder, as
from a web server in another container. What happens is told as events, as the notebook server does.
"""

import os
import pathlib
import threading
import time

import fastcgi
from lab import Container, DOCKER_SECONDS, LabError, run

DISK = "/dev/vdc"
ROOT = pathlib.Path("/srv/php-root")
EXTENSION = pathlib.Path("/opt/vm/payload/php-ext/nbguard.so")
FPM = "/usr/sbin/php-fpm8.2"
HOME = "/home/jovyan"
# New workers are noticed within this.
LOOK_SECONDS = 0.2
# The chunks that a worker keeps follow an average over its requests: after four they are 15/16 of `hold`.
HOLD_ROUNDS = 4
HOLD_SECONDS = 60
# A string of this many bytes fills half a page: 2 KiB with its header.
HOLD_STRING = 2000

# Every script begins so: the first line of the answer says which worker runs it.
PRELUDE = '<?php echo getmypid(), "\\n"; flush(); '
# Takes memory in small pieces, which the worker keeps when the request is over, and waits until
# every other worker of the pool has a request too. Constant strings opcache would make one of.
HOLD_SCRIPT = PRELUDE + """
$held = [];
for ($n = 0; $n < (int) $_GET['pieces']; $n++) $held[] = str_repeat(chr(97 + $n %% 26), %d);
while (!file_exists($_GET['until'])) { usleep(50000); clearstatcache(); }
echo "held\\n";
""" % HOLD_STRING


def mount_root():
    """The second system, once a boot."""
    if not ROOT.is_mount():
        ROOT.mkdir(parents=True, exist_ok=True)
        run(["mount", "-o", "ro", DISK, str(ROOT)])


class PhpContainer(Container):
    """One container of a scenario with php-fpm in it."""

    user = 0

    def start(self):
        mount_root()
        self.known = set()
        self.removed = False
        super().start()

    def binds(self):
        found = [f"{ROOT}/usr:/usr:ro", f"{ROOT}/etc:/etc:ro", "/opt/vm/guest/tools:/opt/tools:ro"]
        if self.spec["php"]["extension"]:
            found.append(f"{EXTENSION.parent}:/opt/php-ext:ro")
        return found

    def words(self):
        return [FPM, "--nodaemonize", "--fpm-config", f"{HOME}/fpm.conf",
                *[word for key, value in self.ini().items() for word in ("-d", f"{key}={value}")]]

    def ini(self):
        php = self.spec["php"]
        # Debian's php.ini buffers 4 KiB, and the first line must go out at once.
        found = {"opcache.enable": int(php["opcache"]), "memory_limit": -1, "max_execution_time": 0,
                 "output_buffering": 0}
        if php["extension"]:
            found["extension"] = "/opt/php-ext/nbguard.so"
        return {**found, **php["settings"]}

    def lay_out_home(self):
        super().lay_out_home()
        lines = ["[global]", "error_log = /proc/self/fd/2", "daemonize = no"]
        for pool in self.spec["pool"]:
            lines += [f"[{pool['name']}]", "user = www-data", "group = www-data",
                      f"listen = {HOME}/{pool['name']}.sock", "listen.mode = 0666", "pm = static",
                      f"pm.max_children = {pool['workers']}", "ping.path = /ping",
                      *[f"{key} = {value}" for key, value in pool["settings"].items()]]
        (self.home / "fpm.conf").write_text("\n".join(lines) + "\n")
        (self.home / "hold.php").write_text(HOLD_SCRIPT)
        for request in self.spec["request"]:
            (self.home / f"{request['name']}.php").write_text(PRELUDE + request["code"])

    def connect(self):
        """fpm is up when every pool answers a ping."""
        deadline = time.monotonic() + DOCKER_SECONDS
        for pool in self.spec["pool"]:
            while not self.ping(pool["name"]):
                if time.monotonic() > deadline or not os.path.exists(f"/proc/{self.pid}"):
                    raise LabError(f"{self.name}: pool {pool['name']} did not come up: {self.read_log()[-2000:]}")
                time.sleep(0.2)
        threading.Thread(target=self.keep_workers, daemon=True).start()

    def ping(self, pool):
        try:
            return "pong" in self.ask(pool, "", "/ping", seconds=DOCKER_SECONDS).body
        except OSError:
            return False

    def ask(self, pool, script, uri, **how):
        return fastcgi.ask(str(self.home / f"{pool}.sock"), script, uri, **how)

    def keep_workers(self):
        """Tells each new worker, by the title that fpm gives it."""
        while os.path.exists(f"/proc/{self.pid}"):
            for pid in self.pids():
                if pid not in self.known and (pool := pool_of(pid)):
                    self.known.add(pid)
                    self.tell("worker", pool=pool, host_pid=pid)
            time.sleep(LOOK_SECONDS)

    def tell(self, event, **facts):
        self.events.put({"event": event, "at": time.monotonic(), **facts})

    def wait_ready(self, seconds):
        """Until each pool holds what it is to hold."""
        deadline = time.monotonic() + seconds
        while len(self.known) < sum(pool["workers"] for pool in self.spec["pool"]):
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {len(self.known)} workers came up")
            time.sleep(LOOK_SECONDS)
        for pool in self.spec["pool"]:
            if pool["hold"]:
                self.fill(pool)
        self.tell("ready")
        told = []
        while not self.events.empty():
            told.append(self.events.get())
        return told

    def fill(self, pool):
        """As many requests at once as there are workers, so that each gets one; and that a few times."""
        pieces = pool["hold"] // 2048
        for turn in range(HOLD_ROUNDS):
            until = f"hold-{pool['name']}-{turn}"
            uri = f"/hold.php?pieces={pieces}&until={HOME}/{until}"
            lock, served, answers = threading.Lock(), set(), []

            def one():
                def note(body):
                    if "\n" in body:
                        with lock:
                            served.add(body.split("\n")[0])
                try:
                    answers.append(self.ask(pool["name"], f"{HOME}/hold.php", uri, on_body=note, seconds=HOLD_SECONDS))
                except OSError as error:
                    answers.append(error)

            threads = [threading.Thread(target=one) for _ in range(pool["workers"])]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + HOLD_SECONDS
            while len(served) < pool["workers"] and time.monotonic() < deadline:
                time.sleep(0.05)
            (self.home / until).touch()
            for thread in threads:
                thread.join()
            bad = [one for one in answers if not (isinstance(one, fastcgi.Answer) and one.whole and "held" in one.body)]
            if bad or len(served) < pool["workers"]:
                raise LabError(f"{self.name}: filling {pool['name']}: {len(served)} workers, {bad[:1]} {self.read_log()[-500:]}")

    def command(self, what):
        if what == "go":
            self.start_execs()
            for request in self.spec["request"]:
                threading.Timer(request["start"], self.send, [request]).start()
        elif what == "probe":
            threading.Thread(target=self.probe, daemon=True).start()

    def send(self, request):
        """One request, from its first line to its end or to that of its worker."""
        name = request["name"]
        begun = []

        def note(body):
            if not begun and "\n" in body:
                begun.append(int(body.split("\n")[0]))
                self.tell("serving", request=name, pid=begun[0])

        try:
            answer = self.ask(request["pool"], f"{HOME}/{name}.php", f"/{name}.php?from=vm", on_body=note)
        except OSError as error:
            self.tell("answer", request=name, status="cut", error=f"{type(error).__name__}: {error}", body="")
            return
        status = "cut" if not answer.whole else "ok" if answer.status == 200 else "error"
        error = None if status == "ok" else f"status {answer.status}: {answer.errors[-300:]}"
        self.tell("answer", request=name, status=status, error=error, body=answer.body.partition("\n")[2][-2000:])

    def probe(self):
        """Stands for the server's answer: each pool has a worker that answers."""
        if all(self.ping(pool["name"]) for pool in self.spec["pool"]):
            self.tell("server-answered")


def pool_of(pid):
    """`php-fpm: pool www` -> www; of anything else None."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read(200).split(b"\0")[0].decode(errors="replace")
    except OSError:
        return None
    return title.removeprefix("php-fpm: pool ").strip() if title.startswith("php-fpm: pool ") else None
