"""The whole way with a real nbguardd: a cell allocates without end in a container-like cgroup, the
guard ends its kernel, and the page says so. Skipped without NBGUARD_BIN_DIR."""

import time
import unittest

from real_guard import Cannot, Real
from server import Server
from test_pages import TOAST, Pages, setUpModule  # noqa: F401

GIB = 1 << 30
# Quickly to the warning step, then slowly past it, while a page looks on.
GROWS = """
import time
kept = []
while True:
    kept.append(bytearray(b"x") * (10 << 20))
    time.sleep(0.05 if len(kept) < 60 else 0.4)
"""


class RealGuard(Pages):
    def setUp(self):
        try:
            self.guard = Real(GIB)
        except Cannot as why:
            self.skipTest(str(why))
        self.addCleanup(self.guard.close)
        self.server = Server("--NbGuard.period=1", socket=self.guard.socket, enter=self.guard.enter,
                             front_end=False)
        self.addCleanup(self.server.close)
        self.addCleanup(self.browser.go, "about:blank")

    def container(self):
        return self.server.get("nbguard/api/status")["container"]

    def seen(self, kernel):
        """The guard's row of a kernel."""
        def look():
            rows = (self.container() or {"notebooks": []})["notebooks"]
            return next((row for row in rows if row["kernel_id"] == kernel), None)
        return self.wait_for(look)

    def test_from_a_growing_cell_to_the_reason(self):
        calm = self.server.open("calm.ipynb", "1")
        grows = self.server.open("grows.ipynb", GROWS)
        self.assertEqual(self.seen(calm)["path"], "calm.ipynb")
        self.show("lab/tree/grows.ipynb")
        self.wait_idle()
        before = self.seen(grows)
        self.browser.run("void window.jupyterapp.commands.execute('notebook:run-cell'); return true")
        self.browser.wait("return document.querySelector('.nbguard-status').dataset.level !== 'calm'")
        self.picture("real-warning")
        self.wait_text(TOAST, "grows.ipynb was ended by the memory guard")
        self.wait_text(".jp-Dialog", "appears to have died")
        self.picture("real-killed")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        self.browser.click(f"{TOAST} .jp-toast-button")
        self.wait_text(".jp-Dialog .nbguard-account", "grows.ipynb")
        self.picture("real-why")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        # The same kernel has a new process by now; the other one's is still there.
        self.wait_for(lambda: self.seen(grows)["pid"] != before["pid"])
        self.assertEqual(self.seen(calm)["path"], "calm.ipynb")
        metrics = self.server.ask("metrics")[1]
        self.assertIn('notebook="calm.ipynb"', metrics)

    def test_the_guard_may_be_restarted(self):
        kernel = self.server.open("calm.ipynb", "1")
        self.seen(kernel)
        self.guard.stop()
        self.wait_for(lambda: self.server.get("nbguard/api/status")["state"] == "no-guard")
        self.guard.start()
        self.assertEqual(self.seen(kernel)["path"], "calm.ipynb")

    def test_who_is_in_no_container_sees_nothing(self):
        outside = Server("--NbGuard.period=1", socket=self.guard.socket)
        self.addCleanup(outside.close)
        end = time.monotonic() + 20
        while (said := outside.get("nbguard/api/status"))["state"] == "unknown" and time.monotonic() < end:
            time.sleep(0.2)
        self.assertEqual((said["state"], said["container"]), ("not-watched", None))


if __name__ == "__main__":
    unittest.main()
