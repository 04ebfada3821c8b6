"""Debian's own Prometheus against what this tree ships: the rules, the dashboard's expressions, and
a real guard that is scraped while it ends a notebook. python3 -m unittest discover tests/prometheus

Prometheus is unpacked from its Debian package beneath .cache; nothing is installed, and no service
of this machine is started or asked.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = REPOSITORY / "packaging"
CACHE = REPOSITORY / ".cache/prometheus"
# What happens at once may take this long on a machine that is busy with other things.
PATIENCE = 60
LIMIT = 256 << 20
# 90 % of it, and a little.
PRESSED = 236 << 20
KERNEL = "00000001-0000-4000-8000-000000000000"
NOTEBOOK = "/home/jovyan/\"a\\b\".ipynb"

# In the container: the init and server, and its one kernel, which takes memory when told to.
SERVER = f"""
import os, signal, sys, time
child = os.fork()
if child == 0:
    env = dict(os.environ, JPY_PARENT_PID=str(os.getppid()), JPY_SESSION_NAME={NOTEBOOK!r})
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], "-f", "/run/kernel-{KERNEL}.json"], env)
signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, 9), sys.exit()))
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(3600)
"""
GROWS = f"""
import pathlib, sys, time
held = []
go = pathlib.Path({{go!r}})
while not go.exists():
    time.sleep(0.05)
usage = pathlib.Path({{usage!r}})
while True:
    if int(usage.read_text()) < {PRESSED}:
        held.append(b"x" * (1 << 20))
    else:
        time.sleep(0.05)
"""


def skip(why):
    raise unittest.SkipTest(why)


def tool(name):
    """Of this machine, or out of Debian's package."""
    if found := shutil.which(name):
        return found
    unpacked = CACHE / "root/usr/bin" / name
    if not unpacked.exists():
        unpack()
    return str(unpacked)


def unpack():
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        skip("prometheus is missing, and there is no apt to fetch it")
    CACHE.mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    done = subprocess.run(fetch, cwd=CACHE, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and os.geteuid() == 0:
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=600)
        done = subprocess.run(fetch, cwd=CACHE, capture_output=True, text=True, timeout=300)
    packages = sorted(CACHE.glob("prometheus_*.deb"))
    if done.returncode != 0 or not packages:
        skip(f"prometheus cannot be fetched: {done.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[-1], CACHE / "root"], check=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fetch(url, accept=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with opener.open(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers


def eventually(what, see):
    until = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < until:
        try:
            if (seen := see()) is not None:
                return seen
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE} s ({last})")


def expressions():
    """Every expression that is shipped outside of rules: the dashboard's and the README's."""
    def within(value):
        if isinstance(value, dict):
            if isinstance(value.get("expr"), str):
                yield value["expr"]
            for inside in value.values():
                yield from within(inside)
        elif isinstance(value, list):
            for inside in value:
                yield from within(inside)
    shown = list(within(json.loads((PACKAGING / "grafana/nbguard.json").read_text())))
    readme = (REPOSITORY / "README.md").read_text()
    table = readme.split("| asked | metric |\n")[1].split("\n\n")[0]
    told = [words for words in re.findall(r"`([^`]+)`", table) if "nbguard_" in words]
    return [text.replace("$__rate_interval", "1m") for text in shown + told]


class Shipped(unittest.TestCase):
    def check(self, *words):
        done = subprocess.run([tool("promtool"), *words], cwd=PACKAGING / "prometheus",
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_rules_are_rules(self):
        self.check("check", "rules", "nbguard.rules.yml")

    def test_every_alert_fires_when_it_should_and_only_then(self):
        self.check("test", "rules", "nbguard.rules.test.yml")

    def test_the_scrape_configuration_is_one(self):
        self.check("check", "config", "prometheus.yml")

    def test_every_expression_of_the_dashboard_and_the_readme_is_one(self):
        every = expressions()
        self.assertGreater(len(every), 40)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rules.yml"
            rules = [{"record": f"test:{number}", "expr": text} for number, text in enumerate(every)]
            # JSON is YAML.
            path.write_text(json.dumps({"groups": [{"name": "test", "rules": rules}]}))
            self.check("check", "rules", path)


class Ground:
    """A cgroup such as Docker makes it, with a limit."""

    def __init__(self):
        root = pathlib.Path("/sys/fs/cgroup")
        if os.geteuid() != 0:
            skip("not root")
        controllers = root / "cgroup.controllers"
        self.is_v2 = controllers.exists() and "memory" in controllers.read_text().split()
        self.memory = root if self.is_v2 else root / "memory"
        if not self.memory.is_dir():
            skip("there is no memory controller")
        self.roots = [self.memory]
        if not self.is_v2 and (root / "unified").is_dir():
            self.roots.append(root / "unified")
        self.id = f"{os.getpid():08x}".ljust(64, "e")
        self.made = []

    def make(self):
        for root in self.roots:
            parent = root / "docker"
            if not parent.exists():
                parent.mkdir()
                self.made.append(parent)
            if self.is_v2:
                for above in (root, parent):
                    (above / "cgroup.subtree_control").write_text("+memory")
            (parent / self.id).mkdir()
            self.made.append(parent / self.id)
        own = self.memory / "docker" / self.id
        if self.is_v2:
            (own / "memory.max").write_text(str(LIMIT))
            with contextlib.suppress(OSError):
                (own / "memory.swap.max").write_text("0")
            self.usage = own / "memory.current"
        else:
            (own / "memory.limit_in_bytes").write_text(str(LIMIT))
            self.usage = own / "memory.usage_in_bytes"

    def take(self):
        """For the child itself, before it becomes somebody else."""
        for root in self.roots:
            (root / "docker" / self.id / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        for path in reversed(self.made):
            for _ in range(100):
                try:
                    path.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


class Scrape(unittest.TestCase):
    """One guard, one Prometheus, one notebook that takes too much."""

    def start(self, words, **more):
        child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, **more)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def guard(self, folder, ground):
        binaries = os.environ.get("NBGUARD_BIN_DIR")
        every = [pathlib.Path(binaries)] if binaries else sorted(REPOSITORY.glob("target/*-linux-gnu/debug"))
        found = [path / "nbguardd" for path in every if (path / "nbguardd").exists()]
        if not found:
            skip("nbguardd is not built (cargo build, or set NBGUARD_BIN_DIR)")
        about = folder / "docker/containers" / ground.id
        about.mkdir(parents=True)
        (about / "config.v2.json").write_text(json.dumps({
            "ID": ground.id, "Name": "/prometheus-lab", "Config": {"Image": "lab", "Labels": {}, "Env": []},
            "State": {"Running": True, "Pid": 0}}))
        port = free_port()
        hook = folder / "hook"
        hook.write_text(f"#!/bin/sh\ncat > {folder}/told\n")
        hook.chmod(0o755)
        (folder / "nbguard.toml").write_text(f"""
[guard]
docker_socket = "off"
docker_root = "{folder}/docker"
state_dir = "{folder}/state"
[record]
path = "{folder}/incidents.jsonl"
[http]
socket = "{folder}/http.sock"
notebook_socket = "off"
listen = "127.0.0.1:{port}"
[hook]
command = ["{hook}"]
""")
        log = open(folder / "log", "w")
        self.addCleanup(log.close)
        environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        guard = self.start([found[0], "--config", folder / "nbguard.toml", "--only-cgroup",
                            f"docker/{ground.id}"], stderr=log, env=environment)
        return guard, f"http://127.0.0.1:{port}"

    def prometheus(self, folder, guard):
        shipped = (PACKAGING / "prometheus/prometheus.yml").read_text()
        text = shipped.replace("127.0.0.1:9843", guard.removeprefix("http://"))
        text = text.replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s")
        self.assertNotEqual(text, shipped)
        (folder / "prometheus.yml").write_text(text)
        shutil.copy(PACKAGING / "prometheus/nbguard.rules.yml", folder)
        url = f"127.0.0.1:{free_port()}"
        log = open(folder / "prometheus.log", "w")
        self.addCleanup(log.close)
        self.start([tool("prometheus"), f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={url}"], stderr=log)
        return f"http://{url}"

    def test_a_kill_is_scraped_and_the_alert_fires(self):
        tool("prometheus")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-prometheus-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        ground = Ground()
        self.addCleanup(ground.remove)
        try:
            ground.make()
        except OSError as error:
            skip(f"no container can be made here: {error}")
        go = folder / "go"
        grows = GROWS.format(go=str(go), usage=str(ground.usage))
        server = self.start([sys.executable, "-c", SERVER, grows], preexec_fn=ground.take)
        self.addCleanup(server.send_signal, signal.SIGTERM)
        guard, url = self.guard(folder, ground)
        log = lambda: (folder / "log").read_text()[-3000:]  # noqa: E731
        text, head = eventually("the guard answers", lambda: fetch(f"{url}/metrics", "application/openmetrics-text"))
        self.assertTrue(text.endswith("# EOF\n"), text[-200:])
        self.assertIn("application/openmetrics-text; version=1.0.0", head["Content-Type"])
        self.lint(fetch(f"{url}/metrics")[0])
        asked = self.prometheus(folder, url)

        def query(expression):
            words = urllib.parse.urlencode({"query": expression})
            answer = json.loads(fetch(f"{asked}/api/v1/query?{words}")[0])
            self.assertEqual(answer["status"], "success")
            return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

        def value(expression):
            result = query(expression)
            return result[0][1] if result else None

        up = 'up{job="nbguard"}'
        eventually("it is scraped", lambda: value(up) == 1 or None)
        container = '{container="prometheus-lab"}'
        self.assertEqual(value(f"nbguard_container_limit_bytes{container}"), LIMIT)
        notebook = query(f"nbguard_notebook_bytes{container}")
        self.assertEqual([one["notebook"] for one, _ in notebook], [NOTEBOOK.replace("\\", "\\\\")])
        self.assertEqual(value('nbguard_kills_total{reason="largest"}'), 0)
        # A rate needs two samples of before.
        eventually("two scrapes", lambda: value(f"count_over_time({up}[1m])") >= 2 or None)
        go.touch()
        eventually(f"a kill is scraped\n{log()}", lambda: value('nbguard_kills_total{reason="largest"}') == 1 or None)
        self.assertEqual(value(f"nbguard_container_kills_total{container}"), 1, log())
        self.assertEqual(value("nbguard_signal_to_dead_seconds_count"), 1)
        self.assertEqual(value("nbguard_kernel_oom_kills_total"), 0)
        self.assertGreater(value("nbguard_freed_bytes_total"), 100 << 20)
        alert = 'ALERTS{alertname="NbguardNotebookEnded",container="prometheus-lab",alertstate="firing"}'
        eventually("the alert fires", lambda: value(alert))
        self.assertEqual(query('ALERTS{severity="critical"}'), [])
        eventually("the hook was counted", lambda: value('nbguard_hooks_total{outcome="ok"}') == 1 or None)
        told = json.loads((folder / "told").read_text())
        self.assertEqual((told["kind"], told["victim"]["kernel_id"]), ("kill", KERNEL))
        health = json.loads(fetch(f"{asked}/api/v1/rules")[0])["data"]["groups"][0]["rules"]
        self.assertEqual({rule["name"]: rule["health"] for rule in health if rule["health"] != "ok"}, {})
        for expression in expressions():
            if "$" not in expression:
                query(expression)
        guard.send_signal(signal.SIGTERM)
        self.assertEqual(guard.wait(PATIENCE), 0, log())
        down = 'ALERTS{alertname="NbguardDown",alertstate="pending"}'
        eventually("a guard that is gone is noticed", lambda: value(down))

    def lint(self, text):
        done = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True,
                              text=True, timeout=PATIENCE)
        # What is wrong with the format is an error; what is only unusual is said as well.
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
