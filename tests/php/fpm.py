"""php-fpm with a pool of its own, asked over its socket: idle and busy, tracing in a worker that
runs, a tool that is killed, and what is left when the pool ends."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbtrace

SCRIPT = """<?php
function work($n) { return $n ? work($n - 1) : 0; }
$end = microtime(true) + (float) ($_GET['for'] ?? 0);
do { work(10); if (isset($_GET['sleep'])) usleep(1000); } while (microtime(true) < $end);
echo "done ", getmypid();
"""


def until(what, seconds=8):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


class Pool:
    def __init__(self, binary, so, directory, trace, **more):
        self.socket, self.script = f"{directory}/fpm.sock", f"{directory}/work.php"
        Path(self.script).write_text(SCRIPT)
        config = f"{directory}/fpm.conf"
        Path(config).write_text(textwrap.dedent(f"""\
            [global]
            error_log = {directory}/fpm.log
            daemonize = no
            [www]
            user = www-data
            group = www-data
            listen = {self.socket}
            pm = static
            pm.max_children = 2
            """))
        self.process = subprocess.Popen(
            [binary, "-n", "-R", "-y", config, "-d", "zend_extension=opcache", "-d", f"extension={so}",
             "-d", f"nbguard.directory={trace}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | more)
        if not until(lambda: os.path.exists(self.socket)):
            raise RuntimeError(Path(f"{directory}/fpm.log").read_text())

    def ask(self, query=""):
        env = {"SCRIPT_FILENAME": self.script, "SCRIPT_NAME": "/work.php", "REQUEST_METHOD": "GET",
               "REQUEST_URI": f"/work.php?{query}", "QUERY_STRING": query, "PATH": os.environ["PATH"]}
        return subprocess.Popen(["cgi-fcgi", "-bind", "-connect", self.socket], env=env,
                                stdout=subprocess.PIPE, text=True)

    def end(self):
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run(tally, so, directory, trace):
    binary = shutil.which("php-fpm8.2", path="/usr/sbin:/usr/bin")
    if not binary or not shutil.which("cgi-fcgi"):
        return tally.add("fpm", "skip", "php8.2-fpm or libfcgi-bin is not here")
    pool = Pool(binary, so, directory, trace)

    def check(name, passed, text=""):
        tally.add(f"fpm: {name}", "pass" if passed else "fail", "" if passed else str(text))

    try:
        home = Path(f"{trace}/{uid()}")
        answers = [pool.ask().communicate()[0] for _ in range(20)]
        check("requests are answered", all("done" in answer for answer in answers), answers[:2])
        files = sorted(home.glob("*.trace"))
        check("one file for each worker", len(files) == 2, files)
        modes = {oct(file.stat().st_mode & 0o777) for file in files}
        check("nobody else may read it", modes == {"0o600"}, modes)
        pages = [nbtrace.page(file) for file in files]
        check("between requests it is idle", all(page.state == "idle" for page in pages),
              [page.state for page in pages])
        check("every request is counted", sum(page.requests for page in pages) == 20,
              [page.requests for page in pages])
        check("the URI is without its query", all(page.uri == "/work.php" for page in pages), pages[0].uri)

        asked = pool.ask("for=6&secret=x")
        def busy():
            return [file for file in files if nbtrace.page(file).state == "busy"]
        check("in a request it is busy", until(busy))
        file = busy()[0]
        pid = int(file.name.split("-")[0])
        page = nbtrace.page(file)
        check("busy names the script", page.script == pool.script, page.script)
        check("busy since the request began", 0 <= nbtrace.boottime() - page.since < 2e9)
        check("the function it is in is known within the period",
              until(lambda: nbtrace.page(file).function in ("work", "{main}", "microtime"), 4),
              nbtrace.page(file).function)

        # A tool that switches on in the middle of the request, beats, and is killed.
        tool = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""\
            import sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import nbtrace
            switch = nbtrace.Switch({trace!r})
            switch.on({pid}, nbtrace.ON | nbtrace.VALUES, session=3, period_ms=1000)
            while True:
                switch.beat({pid})
                time.sleep(0.1)
            """)])
        begun = time.monotonic()
        on = until(lambda: nbtrace.page(file).tracing == 1, 4)
        check("a worker that runs notices the switch", on, nbtrace.page(file).tracing)
        took = time.monotonic() - begun
        check("within the period", took < 2, f"{took:.2f} s")
        check("it records", until(lambda: nbtrace.page(file).head > 1000))
        since, at, cpu, memory = nbtrace.page(file).costs
        check("what its calls cost rises while it is in a request",
              until(lambda: nbtrace.page(file).costs[2] > cpu + 1e6) and since and memory > 100_000,
              (since, at, cpu, memory, nbtrace.page(file).costs))
        tool.kill()
        tool.wait()
        begun = time.monotonic()
        off = until(lambda: nbtrace.page(file).tracing == 2, 4)
        took = time.monotonic() - begun
        check("the tool is killed: tracing is off", off, nbtrace.page(file).tracing)
        check("within its period", took < 1.6, f"{took:.2f} s")
        last = list(nbtrace.records(file))[-1]
        check("and the file says so", last["kind"] == 7 and "has not beaten" in last["values"], last)
        head, costs = nbtrace.page(file).head, nbtrace.page(file).costs
        answer = asked.communicate()[0]
        check("the request was answered all the same", f"done {pid}" in answer, answer)
        check("nothing is written while off", nbtrace.page(file).head == head)
        check("what calls cost stands still while off", nbtrace.page(file).costs == costs,
              (costs, nbtrace.page(file).costs))
        check("and it is idle again", until(lambda: nbtrace.page(file).state == "idle"))

        # Under load, on and off again.
        switch = nbtrace.Switch(trace)
        load = [pool.ask("for=0.01") for _ in range(10)]
        pids = [int(file.name.split("-")[0]) for file in files]
        for pid in pids:
            switch.on(pid, nbtrace.ON, session=4)
        answers = [one.communicate()[0] for one in load]
        answers += [pool.ask("for=0.01").communicate()[0] for _ in range(10)]
        check("under load with tracing on every request is answered",
              all(answer.endswith(tuple(f"done {pid}" for pid in pids)) for answer in answers), answers)
        kinds = {record["kind"] for file in files for record in nbtrace.records(file)}
        check("requests and calls are recorded", {1, 2} <= kinds, kinds)
        pages = [nbtrace.page(file) for file in files]
        check("a request's end counts what it cost", all(page.costs[1] == page.since and page.costs[2] > 0
              for page in pages if page.state == "idle"), [(page.since, page.costs) for page in pages])
        for pid in pids:
            switch.off(pid)
        [pool.ask().communicate() for _ in range(6)]
        check("switched off between requests", all(nbtrace.page(file).tracing == 3 for file in files),
              [nbtrace.page(file).tracing for file in files])

        # A worker that is killed leaves a file; the one that takes its place clears it away.
        os.kill(pids[0], signal.SIGKILL)
        dead = files[0]
        def replaced():
            pool.ask().communicate()
            return not dead.exists() and len(list(home.glob("*.trace"))) == 2
        check("a dead worker's file is cleared away by its successor", until(replaced),
              list(home.glob("*")))
    finally:
        pool.end()
    # The master may kill its workers before they have cleared up: what is left is nobody's, and goes
    # with the next worker or the tool.
    held = [file for file in home.glob("*.trace") if not is_free(file)]
    check("the pool ends: what is left is nobody's", not held, held)

    # A defect of the tracer: the worker goes on, and is not traced again.
    Path(f"{directory}/fpm.sock").unlink(missing_ok=True)
    pool = Pool(binary, so, directory, trace, NBGUARD_TEST_DEFECT="1")
    try:
        pids = {pool.ask().communicate()[0].rpartition(" ")[2] for _ in range(10)}
        files = [file for file in home.glob("*.trace") if file.name.split("-")[0] in pids]
        switch = nbtrace.Switch(trace)
        for pid in pids:
            switch.on(int(pid), session=5)
        answers = [pool.ask().communicate()[0] for _ in range(20)]
        check("a defect: every request is answered", all("done" in answer for answer in answers), answers)
        served = [page for page in map(nbtrace.page, files) if page.requests > 5]
        said = [(page.tracing, page.head) for page in served]
        check("a defect: the page says so, request after request, and nothing is written",
              said and set(said) == {(4, 0)}, said)
        Path(pool.script).write_text("<?php phpinfo(INFO_MODULES);")
        time.sleep(2.5)  # what opcache takes a file to be unchanged for
        info = pool.ask().communicate()[0]
        check("a defect: phpinfo() says so", "a defect in the tracer" in info, info[:200])
    finally:
        pool.end()


def is_free(path):
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False


def uid():
    import pwd
    return pwd.getpwnam("www-data").pw_uid
