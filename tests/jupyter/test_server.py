"""The server extension in a real Jupyter server, whose guard is a stand-in: who may ask, what is
answered, /metrics, and jupyter-resource-usage's interface."""

import time
import unittest

from mock_guard import GIB, MockGuard
from server import VENV, Server


def setUpModule():
    if not (VENV / "bin/jupyter-server").exists():
        raise unittest.SkipTest(f"no Jupyter in {VENV}")


def wait_for(look, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def samples(server):
    """What the server's /metrics has of ours."""
    lines = server.ask("metrics")[1].splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line.startswith("nbguard_"))


class WithGuard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--NbGuard.period=1")
        cls.addClassCleanup(cls.server.close)
        cls.guard = MockGuard(cls.server.socket, cls.server.runtime)
        cls.addClassCleanup(cls.guard.stop)
        cls.kernel = cls.server.open("work/a.ipynb")
        wait_for(lambda: cls.status()["state"] == "ok")

    @classmethod
    def status(cls):
        return cls.server.get("nbguard/api/status")

    def rows(self):
        container = self.status()["container"]
        return container["notebooks"] if container else []

    def test_a_notebook_has_the_path_of_its_session(self):
        row = wait_for(lambda: next((row for row in self.rows() if row["kernel_id"] == self.kernel), None))
        self.assertEqual((row["path"], row["own"]), ("work/a.ipynb", True))
        self.assertGreater(row["memory"], 10_000_000)
        self.assertEqual(self.status()["period"], 1)

    def test_nobody_is_answered_without_the_token(self):
        for path in ("nbguard/api/status", "nbguard/api/incidents", "api/metrics/v1",
                     "api/metrics/v1/kernel_usage/get_usage/" + self.kernel):
            self.assertEqual(self.server.ask(path, token=None)[0], 403, path)
            self.assertEqual(self.server.ask(path, token="wrong")[0], 403, path)
            self.assertEqual(self.server.ask(path, "POST", {})[0], 405, path)

    def test_watching_is_no_activity(self):
        def active():
            return self.server.get("api/status")["last_activity"]
        before = active()
        time.sleep(0.01)
        for _ in range(3):
            self.status()
            self.server.get("api/metrics/v1")
        self.assertEqual(active(), before)

    def test_pages_ask_the_guard_once_per_period(self):
        time.sleep(1)
        before = len(self.guard.asked)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            self.status()
        asked = self.guard.asked[before:]
        self.assertLessEqual(asked.count("/api/v1/containers"), 4)
        self.assertGreaterEqual(asked.count("/api/v1/containers"), 2)

    def test_metrics_have_the_same_figures_and_do_not_wait_for_the_guard(self):
        def named():
            text = 'nbguard_notebook_bytes{kernel_id="%s",notebook="work/a.ipynb"}' % self.kernel
            return samples(self.server).get(text)
        self.assertGreater(float(wait_for(named)), 10_000_000)
        found = samples(self.server)
        self.assertEqual(float(found["nbguard_container_total_bytes"]), 4 * GIB)
        self.assertEqual(float(found["nbguard_up"]), 1)
        self.assertLess(float(found["nbguard_figures_age_seconds"]), 10)
        time.sleep(1)
        self.guard.delay = 2
        self.addCleanup(setattr, self.guard, "delay", 0)
        began = time.monotonic()
        self.assertIn("nbguard_container_total_bytes", samples(self.server))
        self.assertLess(time.monotonic() - began, 1)
        self.guard.delay = 0

    def test_metrics_are_bounded(self):
        row = dict(self.guard.row(self.kernel, 1), memory=1)
        self.guard.rows = [dict(row, pid=pid, kernel_id=None, notebook='x"\n' + "é" * 2000 + str(pid))
                           for pid in range(250)]
        self.addCleanup(setattr, self.guard, "rows", [])
        wait_for(lambda: len(self.rows()) == 200)
        found = [name for name in samples(self.server) if name.startswith("nbguard_notebook_bytes")]
        self.assertEqual(len(found), 50)
        self.assertLess(max(map(len, found)), 400)

    def test_resource_usage_is_served(self):
        said = self.server.get("api/metrics/v1")
        self.assertEqual(said["limits"]["memory"]["rss"], 4 * GIB)
        self.assertEqual(said["rss"], said["pss"])
        said = wait_for(lambda: self.kernel_usage().get("kernel_memory"))
        self.assertGreater(said, 10_000_000)
        said = self.server.get("api/metrics/v1/kernel_usage/get_usage/nobody")
        self.assertIn("reason", said["content"])

    def kernel_usage(self):
        return self.server.get("api/metrics/v1/kernel_usage/get_usage/" + self.kernel)["content"]

    def test_incidents_are_those_of_the_guard(self):
        gone = dict(self.guard.row(self.kernel, 1), memory=GIB)
        incident = self.guard.record(gone, id="an-incident")
        self.addCleanup(self.guard.incidents.clear)
        self.guard.state = "cooling"
        self.addCleanup(setattr, self.guard, "state", "quiet")
        said = wait_for(lambda: self.server.get("nbguard/api/incidents")["incidents"])
        self.assertEqual((said[0]["id"], said[0]["victim"]["path"]), ("an-incident", "work/a.ipynb"))
        self.assertIsNotNone(incident)

    def test_a_guard_that_hangs_slows_nobody_else(self):
        time.sleep(1)
        self.guard.delay = 1.5
        self.addCleanup(setattr, self.guard, "delay", 0)
        self.server.ask("metrics")  # starts a question
        began = time.monotonic()
        self.server.get("api/kernels")
        self.assertLess(time.monotonic() - began, 1)
        self.guard.delay = 0


class WithoutGuard(unittest.TestCase):
    def test_without_a_guard_all_is_quiet_and_said_once(self):
        server = Server("--NbGuard.period=1", "--debug")
        self.addCleanup(server.close)
        for _ in range(20):
            self.assertEqual(server.get("nbguard/api/status")["state"], "no-guard")
            self.assertEqual(server.get("api/metrics/v1"), {"limits": {}})
            time.sleep(0.1)
        self.assertEqual(samples(server), {"nbguard_up": "0.0"})
        said = [line for line in server.told().splitlines() if "nbguard: " in line]
        self.assertEqual(len(said), 1, said)
        self.assertIn("no guard", said[0])

    def test_jupyter_resource_usage_keeps_its_own_interface_and_that_is_said(self):
        server = Server(resource_usage=True)
        self.addCleanup(server.close)
        if "jupyter_resource_usage" not in server.told():
            self.skipTest("jupyter-resource-usage is not installed")
        self.assertGreater(server.get("api/metrics/v1")["rss"], 10_000_000)
        self.assertIn("jupyter server extension disable jupyter_resource_usage", server.told())


if __name__ == "__main__":
    unittest.main()
