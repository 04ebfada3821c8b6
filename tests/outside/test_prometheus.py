"""Debian's own Prometheus against what this tree ships: the rules, the dashboard's expressions, and
a real guard that is scraped while it ends a notebook. python3 -m unittest discover tests/outside
"""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from ground import (KERNEL, LIMIT, NOTEBOOK, PACKAGING, PATIENCE, REPOSITORY, Guarded,  # noqa: E402
                    eventually, free_port, unpacked)


def tool(name):
    """Of this machine, or out of Debian's package."""
    return shutil.which(name) or str(unpacked("prometheus", f"usr/bin/{name}"))


def fetch(url, accept=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with opener.open(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers


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

    def test_the_rules_of_many_hosts_are_rules_and_fire_when_they_should(self):
        self.check("check", "rules", "fleet.rules.yml")
        self.check("test", "rules", "fleet.rules.test.yml")

    def with_token(self, folder, text):
        """promtool looks whether the files are there."""
        token = folder / "token"
        token.write_text("x" * 32)
        path = folder / "prometheus.yml"
        path.write_text(text.replace("/etc/prometheus/nbguard.token", str(token)))
        for rules in (PACKAGING / "prometheus").glob("*.rules.yml"):
            shutil.copy(rules, folder)
        return path

    def test_the_scrape_configurations_of_many_hosts_are_ones(self):
        fleet = (PACKAGING / "prometheus/fleet.yml").read_text()
        pods = (PACKAGING / "kubernetes/prometheus.yml").read_text()
        # Debian's is built without this discovery; all but it is checked.
        found = re.compile(r"kubernetes_sd_configs:\n      - role: pod\n        namespaces:\n +names: \[nbguard\]\n")
        self.assertRegex(pods, found)
        pods = found.sub('static_configs: [{targets: ["a:9843"]}]\n', pods)
        for text in (fleet, pods):
            with tempfile.TemporaryDirectory() as folder:
                self.check("check", "config", self.with_token(pathlib.Path(folder), text))

    def test_alerts_go_where_the_example_says(self):
        amtool = shutil.which("amtool") or str(unpacked("prometheus-alertmanager", "usr/bin/amtool"))
        file = PACKAGING / "prometheus/alertmanager.yml"

        def ask(*words):
            done = subprocess.run([amtool, *words], capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return done.stdout.strip()

        ask("check-config", str(file))
        severities = {"critical": "on-call", "warning": "admins", "info": "log"}
        alerts = []
        for rules in sorted((PACKAGING / "prometheus").glob("*.rules.yml")):
            alerts += re.findall(r"alert: (\w+)\n(?:.*\n)*?\s+severity: (\w+)", rules.read_text())
        self.assertGreater(len(alerts), 15)
        self.assertEqual({severity for _, severity in alerts}, set(severities))
        for alert, severity in alerts:
            got = ask("config", "routes", "test", f"--config.file={file}", f"alertname={alert}", f"severity={severity}")
            self.assertEqual(got, severities[severity], alert)
        names = {alert for alert, _ in alerts}
        named = re.findall(r"alertname =~? \"([^\"]+)\"", file.read_text().split("inhibit_rules:")[1])
        self.assertLessEqual({name for text in named for name in text.split("|")}, names)

    def test_every_expression_of_the_dashboard_and_the_readme_is_one(self):
        every = expressions()
        self.assertGreater(len(every), 40)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rules.yml"
            rules = [{"record": f"test:{number}", "expr": text} for number, text in enumerate(every)]
            # JSON is YAML.
            path.write_text(json.dumps({"groups": [{"name": "test", "rules": rules}]}))
            self.check("check", "rules", path)


class Scrape(Guarded):
    """One guard, one Prometheus, one notebook that takes too much."""

    def listening(self):
        port = free_port()
        hook = self.folder / "hook"
        hook.write_text(f"#!/bin/sh\ncat > {self.folder}/told\n")
        hook.chmod(0o755)
        log = open(self.folder / "log", "w")
        self.addCleanup(log.close)
        more = f'listen = "127.0.0.1:{port}"\n[hook]\ncommand = ["{hook}"]\n'
        return self.guard("prometheus-lab", more, log), f"http://127.0.0.1:{port}"

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
        self.make()
        folder, go = self.folder, self.go
        guard, url = self.listening()
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
