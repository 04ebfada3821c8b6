"""Everything that people see of two kills, in one go: a real nbguardd, JupyterLab and Notebook 7 in
its container, Chromium, the status page, and Prometheus. Skipped without NBGUARD_BIN_DIR. With NBGUARD_PICTURES=1
it also makes the README's picture of a notebook anew."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

from real_guard import Cannot, Real
from server import REPOSITORY, Server, free_port
from test_pages import TOAST, Pages, setUpModule  # noqa: F401

sys.path.append(str(REPOSITORY / "tests/outside"))
from ground import unpacked  # noqa: E402

GIB = 1 << 30
# 20 MiB/s: seconds between the steps, time enough for a kernel to show what it is told.
SLOW = """
import time
kept = []
while True:
    kept.append(bytearray(b"x") * (4 << 20))
    time.sleep(0.2)
"""
# As much in a fifth of the time: it passes from the last call to the threshold in no time.
FAST = SLOW.replace("4 << 20", "16 << 20").replace("0.2", "0.1")
WARNING = "holds the most"
LAST_CALL = "almost no memory is left"
SCRAPE = 1
README_PICTURE = REPOSITORY / "tests/jupyter/pictures/notebook.png"


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


class Prometheus:
    """Debian's own, with a folder of its own."""

    def __init__(self, program, target):
        self.folder = tempfile.mkdtemp(prefix="nbguard-prometheus-")
        self.port = free_port()
        config = f"{self.folder}/prometheus.yml"
        with open(config, "w") as file:
            file.write(json.dumps({"global": {"scrape_interval": f"{SCRAPE}s"}, "scrape_configs": [
                {"job_name": "nbguard", "static_configs": [{"targets": [target]}]}]}))
        self.log = open(f"{self.folder}/log", "w")
        self.process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={self.folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log)

    def value(self, query):
        """The sum of what it found; None: nothing."""
        try:
            text = fetch(f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        except OSError:
            return None
        found = json.loads(text)["data"]["result"]
        return sum(float(one["value"][1]) for one in found) if found else None

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class AllInOne(Pages):
    def setUp(self):
        program = shutil.which("prometheus") or str(unpacked("prometheus", "usr/bin/prometheus"))
        self.address = f"127.0.0.1:{free_port()}"
        try:
            self.guard = Real(GIB, f'listen = "{self.address}"')
        except Cannot as why:
            self.skipTest(str(why))
        self.addCleanup(self.guard.close)
        self.server = Server("--NbGuard.period=1", socket=self.guard.socket, enter=self.guard.enter,
                             front_end=False)
        self.addCleanup(self.server.close)
        self.prometheus = Prometheus(program, self.address)
        self.addCleanup(self.prometheus.close)
        self.addCleanup(self.browser.go, "about:blank")
        self.addCleanup(self.tell_on_failure)

    def tell_on_failure(self):
        """The guard's own account, where something was not as it should be."""
        failed = any(error for _, error in self._outcome.errors if error) if hasattr(self._outcome, "errors") \
            else bool(self._outcome.result.errors or self._outcome.result.failures)
        if failed:
            print(self.guard.told()[-6000:])

    def test_what_everybody_sees_of_two_hogs(self):
        others = {name: self.server.open(name, "6 * 7") for name in ("calm.ipynb", "other.ipynb")}
        pids = self.wait_for(lambda: len(self.pids(others)) == 2 and self.pids(others))

        slow = self.run_until_ended("lab/tree/slow.ipynb?reset", SLOW)
        if os.environ.get("NBGUARD_PICTURES"):
            self.browser.picture(README_PICTURE)
        self.assertRegex(slow, f"(?s){WARNING}.*{LAST_CALL}")
        self.assertRegex(self.saved("slow.ipynb"), f"(?s){WARNING}.*{LAST_CALL}")
        self.server.ask(f"api/sessions/{self.session('slow.ipynb')}", "DELETE")
        # A notebook that was ended rests before it may be ended again; this is another one.
        fast = self.run_until_ended("notebooks/fast.ipynb", FAST)
        self.assertIn(WARNING, fast)
        self.assertIn(WARNING, self.saved("fast.ipynb"))

        self.assertEqual(self.pids(others), pids, "the others live, as the processes they were")
        self.show("notebooks/calm.ipynb")
        self.wait_idle()
        self.browser.run("return window.jupyterapp.commands.execute('notebook:run-cell').then(() => true)")
        self.wait_text(".jp-OutputArea-output", "42")

        metrics = fetch(f"http://{self.address}/metrics")
        kills = [line for line in metrics.splitlines() if line.startswith("nbguard_kills_total{")]
        self.assertEqual(sum(float(line.split()[-1]) for line in kills), 2, kills)
        self.assertIn('notebook="', metrics)
        self.wait_for(lambda: self.prometheus.value("nbguard_kills_total") == 2)
        self.assertEqual(self.prometheus.value("nbguard_kernel_oom_kills_total") or 0, 0)
        self.see_the_status_page()

    def run_until_ended(self, page, code):
        """Runs the cell until its kernel is ended and the page says why; the cell's output. In
        JupyterLab without what was open before, which would have the focus for a moment."""
        name = page.split("/")[-1].split("?")[0]
        kernel = self.server.open(name, code)
        self.show(page)
        self.browser.wait("return window.jupyterapp.shell.currentWidget?.context?.path === arguments[0]", name)
        self.wait_idle()
        self.wait_for(lambda: kernel in self.pids({name: kernel}))
        output = (".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output"
                  "[data-mime-type='application/vnd.jupyter.stderr']")
        self.guard.forget_cache()
        self.browser.run("void window.jupyterapp.commands.execute('notebook:run-cell'); return true")
        self.wait_text(output, WARNING)
        self.picture(f"all-{name}-warned")
        self.wait_text(TOAST, f"{name} was ended by the memory guard")
        self.wait_text(".jp-Dialog", "appears to have died")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        told = "\n".join(self.browser.run(
            "return [...document.querySelectorAll(arguments[0])].map(node => node.innerText)", output))
        self.picture(f"all-{name}-ended")
        self.browser.run("return window.jupyterapp.commands.execute('docmanager:save').then(() => true)")
        return told

    def saved(self, name):
        cells = json.loads((self.server.work / name).read_text())["cells"]
        return "".join(part if isinstance(part, str) else "".join(part)
                       for cell in cells for output in cell["outputs"] for part in output.get("text", []))

    def session(self, name):
        return next(one["id"] for one in self.server.get("api/sessions") if one["path"] == name)

    def pids(self, notebooks):
        """The guard's own row of each kernel."""
        container = self.server.get("nbguard/api/status")["container"] or {"notebooks": []}
        return {row["kernel_id"]: row["pid"] for row in container["notebooks"]
                if row["kernel_id"] in notebooks.values()}

    def see_the_status_page(self):
        self.browser.go(f"http://{self.address}/")
        for text in ("jupyter-test", "calm.ipynb", "slow.ipynb", "fast.ipynb"):
            self.wait_text("body", text)
        self.picture("all-status-page")
        incidents = json.loads(fetch(f"http://{self.address}/api/v1/incidents"))["incidents"]
        self.assertEqual([one["victim"]["notebook"].rsplit("/", 1)[-1] for one in incidents],
                         ["fast.ipynb", "slow.ipynb"])
        self.assertEqual([one["kernel_oom_kills"] for one in incidents], [0, 0])
        self.assertIn("written: cell", incidents[1]["message"])
        self.browser.go(f"http://{self.address}/#incident={incidents[1]['id']}")
        self.wait_text("body", incidents[1]["sentence"][:60])
        time.sleep(0.5)
        self.picture("all-status-page-incident")


if __name__ == "__main__":
    unittest.main()
