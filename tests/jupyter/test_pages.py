"""JupyterLab 4 and Notebook 7 in Chromium, with real kernels; the guard is a stand-in that ends
them. Pictures go to .cache/test-logs/jupyter."""

import sys
import time
import unittest

from mock_guard import GIB, MockGuard, kernels
from server import REPOSITORY, VENV, Server

sys.path.append(str(REPOSITORY / "tests/browser"))
import driver  # noqa: E402
from driver import ENTER, ESCAPE  # noqa: E402

PICTURES = REPOSITORY / ".cache/test-logs/jupyter"
TOAST = ".jp-Notification-Toast-error"
# The second runs until it is ended.
CELLS = ("1 + 1", "while True:\n    pass")


def setUpModule():
    if not (VENV / "bin/jupyter-server").exists():
        raise unittest.SkipTest(f"no Jupyter in {VENV}")
    if missing := driver.missing():
        raise unittest.SkipTest(f"missing here: {' '.join(missing)}")


class Pages(unittest.TestCase):
    """A server and a guard for each test. The server's port is new, so nothing was read yet."""

    @classmethod
    def setUpClass(cls):
        cls.browser = driver.Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.server = Server("--NbGuard.period=1", front_end=False)
        self.addCleanup(self.server.close)
        self.guard = MockGuard(self.server.socket, self.server.runtime)
        self.addCleanup(self.guard.stop)
        self.addCleanup(self.browser.go, "about:blank")

    def start(self, name, memory=0):
        """A notebook with a kernel that the guard sees."""
        kernel = self.server.open(name, *CELLS)
        self.guard.more[kernel] = memory
        return kernel

    def show(self, page):
        self.browser.go(self.server.page(page))
        self.browser.element(".nbguard-toolbar")

    def run_cell(self, kernel, at=1):
        """Runs a cell, and returns when the kernel is busy with it."""
        self.wait_idle()
        self.browser.run("""
            const app = window.jupyterapp;
            return app.commands.execute('notebook:move-cursor-down').then(
                () => { void app.commands.execute('notebook:run-cell'); return true; })""")
        self.wait_for(lambda: self.server.get(f"api/kernels/{kernel}")["execution_state"] == "busy")

    def wait_idle(self):
        """Until the page is connected to its kernel: before, it asks which one to start."""
        self.browser.wait("""
            const context = window.jupyterapp.shell.currentWidget?.sessionContext;
            const kernel = context?.isReady && context.session?.kernel;
            return kernel && kernel.status === 'idle' && kernel.connectionStatus === 'connected'""")

    def wait_for(self, look, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.1)
        self.fail(f"not within {seconds} s")

    def wait_text(self, selector, part):
        self.browser.wait(
            "return [...document.querySelectorAll(arguments[0])].some(node => node.checkVisibility()"
            " && node.innerText.includes(arguments[1]))", selector, part, what=f"{part!r} in {selector}")

    def toasts(self):
        return self.browser.run(
            "return [...document.querySelectorAll(arguments[0])].map(node => node.innerText)", TOAST)

    def settle(self):
        """Until the page has had two more refreshes."""
        before = len(self.guard.asked)
        self.wait_for(lambda: self.guard.asked[before:].count("/api/v1/containers") >= 2)
        time.sleep(0.5)

    def picture(self, name):
        # Notifications fly in.
        time.sleep(1)
        self.browser.picture(PICTURES / f"{name}.png")

    def from_the_kill_to_the_reason(self, page, name):
        """In a cell that runs: the kernel is ended, the reason appears, stays over a reload until
        it was read, and does not come back."""
        kernel = self.start("big.ipynb", int(2.9 * GIB))
        self.show(page)
        self.wait_text(".nbguard-toolbar", "GiB · 7")
        self.wait_idle()
        self.run_cell(kernel)
        self.picture(f"{name}-running")
        self.guard.kill(kernel)
        self.wait_text(TOAST, "big.ipynb was ended by the memory guard")
        self.assertRegex(self.toasts()[0], "90 % of 4.0 GiB, this notebook held (2.9|3.0) GiB")
        self.wait_text(".jp-Dialog", "appears to have died")
        self.picture(f"{name}-killed")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        self.settle()
        self.assertEqual(len(self.toasts()), 1)
        self.browser.reload()
        self.wait_text(TOAST, "was ended by the memory guard")
        self.picture(f"{name}-after-reload")
        self.browser.click(f"{TOAST} .jp-toast-button")
        self.wait_text(".jp-Dialog .nbguard-account", "it holds the most")
        self.picture(f"{name}-why")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        self.browser.reload()
        self.browser.element(".nbguard-toolbar")
        self.settle()
        self.assertEqual(self.toasts(), [])


class Lab(Pages):
    def test_from_the_kill_to_the_reason(self):
        self.from_the_kill_to_the_reason("lab/tree/big.ipynb", "lab")

    def test_figures_colours_and_the_list(self):
        kernel = self.start("big.ipynb", GIB)
        self.start("work/small.ipynb")
        self.guard.cache = GIB // 2
        self.show("lab/tree/big.ipynb")
        self.wait_text(".nbguard-status", "of 4.0 GiB")
        self.wait_text(".nbguard-toolbar", "GiB · 2")
        level = "return document.querySelector('.nbguard-status').dataset.level"
        self.assertEqual(self.browser.run(level), "calm")
        self.guard.more[kernel] = int(3.2 * GIB)
        self.browser.wait(level + " === 'warning'")
        self.picture("lab-warning")
        self.guard.more[kernel] = int(3.6 * GIB)
        self.browser.wait(level + " === 'danger'")
        self.browser.click(".nbguard-status")
        panel = self.browser.text(".nbguard-panel")
        for part in ("work/small.ipynb", "this notebook · would be ended first", "Jupyter itself",
                     "other processes (3)", "512 MiB of file cache", "a notebook is ended at 3.6 GiB"):
            self.assertIn(part, panel)
        self.picture("lab-list")
        self.browser.run("""return window.jupyterapp.commands.execute('apputils:change-theme',
            { theme: 'JupyterLab Dark' }).then(() => true)""")
        time.sleep(1)
        self.picture("lab-list-dark")

    def test_the_panel_is_there_for_the_keyboard(self):
        self.start("big.ipynb")
        self.show("lab/tree/big.ipynb")
        self.wait_idle()
        self.settle()
        self.browser.run("document.querySelector('.nbguard-toolbar').focus()")
        self.browser.keys(ENTER)
        self.browser.element(".nbguard-panel")
        focus = "return document.activeElement.className"
        self.assertEqual(self.browser.run(focus), "nbguard-panel")
        self.settle()
        self.browser.keys(ESCAPE)
        self.browser.wait("return !document.querySelector('.nbguard-panel')")
        self.assertIn("nbguard-toolbar", self.browser.run(focus))

    def test_a_kill_while_the_page_was_closed_is_told_when_it_is_opened(self):
        kernel = self.start("big.ipynb", 2 * GIB)
        self.start("other.ipynb")
        self.show("lab/tree/other.ipynb")
        self.browser.go("about:blank")
        self.guard.kill(kernel)
        # Even if the session is gone by then.
        session, = [session for session in self.server.get("api/sessions") if session["path"] == "big.ipynb"]
        self.assertEqual(self.server.ask(f"api/sessions/{session['id']}", "DELETE")[0], 204)
        self.show("lab/tree/other.ipynb")
        self.browser.click(".nbguard-toolbar")
        self.wait_text(".nbguard-panel", "big.ipynb was ended, 2.0 GiB")
        self.settle()
        self.assertEqual(self.toasts(), [], "a notebook that is not open here is only in the list")
        self.browser.keys(ESCAPE)
        self.browser.run("""return window.jupyterapp.commands.execute('docmanager:open',
            { path: 'big.ipynb' }).then(() => true)""")
        self.wait_text(TOAST, "big.ipynb was ended by the memory guard")

    def test_what_one_window_read_no_other_shows(self):
        kernel = self.start("big.ipynb", 2 * GIB)
        self.show("lab/tree/big.ipynb")
        first = self.browser.window()
        self.browser.new_window()
        self.show("notebooks/big.ipynb")
        self.wait_idle()
        self.guard.kill(kernel)
        self.wait_text(TOAST, "was ended")
        self.browser.to_window(first)
        self.wait_text(TOAST, "was ended")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        self.browser.click(".jp-Notification-Toast-Close")
        self.browser.wait(f"return !document.querySelector('{TOAST}')")
        self.browser.new_window()
        self.show("lab/tree/big.ipynb")
        self.settle()
        self.assertEqual(self.toasts(), [])

    def test_names_are_text(self):
        name = "<img src=x onerror=document.title=1>.ipynb"
        kernel = self.start(name, 2 * GIB)
        self.guard.rows = [dict(self.guard.row("k", 1), pid=5, kernel_id=None, memory=1000,
                                notebook="</span><script>document.title=2</script>\x1b[31m" + "x" * 3000,
                                eligible="no", because="<b onclick=1>bold</b>")]
        self.show("lab/tree/" + name.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20"))
        self.wait_idle()
        self.guard.kill(kernel, sentence="<i>because</i>", stack=["<script>document.title=3</script>"])
        self.wait_text(TOAST, "onerror")
        self.browser.click(".jp-Dialog .jp-mod-accept")
        self.browser.click(".nbguard-toolbar")
        self.browser.click(".nbguard-panel summary")
        self.wait_text(".nbguard-panel", "<i>because</i>")
        self.wait_text(".nbguard-panel", "is not ended: <b onclick=1>bold</b>")
        self.picture("lab-hostile")
        self.browser.keys(ESCAPE)
        self.wait_for(lambda: not self.toasts(), 10)
        count = "return document.querySelectorAll('.nbguard-panel :is(img, script, b, i)').length"
        self.assertEqual(self.browser.run(count), 0)
        self.assertNotIn(self.browser.run("return document.title"), ("1", "2", "3"))

    def test_a_hidden_window_asks_nothing(self):
        self.start("big.ipynb")
        self.show("lab/tree/big.ipynb")
        self.settle()
        hide = ("Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });"
                "document.dispatchEvent(new Event('visibilitychange'))")
        self.browser.run(hide, True)
        time.sleep(1.5)
        before = len(self.guard.asked)
        time.sleep(3)
        self.assertEqual(self.guard.asked[before:], [])
        self.browser.run(hide, False)
        self.settle()

    def test_without_a_guard_nothing_is_shown_until_one_comes(self):
        self.guard.stop()
        self.start("big.ipynb")
        self.browser.go(self.server.page("lab/tree/big.ipynb"))
        self.browser.element(".jp-NotebookPanel-toolbar")
        time.sleep(3)
        self.assertIsNone(self.browser.text(".nbguard-item"))
        self.guard.start()
        self.browser.element(".nbguard-toolbar")
        bad = [line for line in self.browser.log("browser") if "nbguard" in line["message"] and line["level"] != "DEBUG"]
        self.assertEqual(bad, [])

    def test_the_front_end_of_jupyter_resource_usage_shows_the_guards_figures(self):
        self.server.close()
        self.server = Server("--NbGuard.period=1", front_end=True)
        self.addCleanup(self.server.close)
        self.guard.stop()
        self.guard = MockGuard(self.server.socket, self.server.runtime)
        self.addCleanup(self.guard.stop)
        self.start("big.ipynb", 3 * GIB)
        self.show("lab/tree/big.ipynb")
        self.wait_text("#jp-main-statusbar", "Mem: 3.")
        self.wait_text("#jp-main-statusbar", "/ 4.00 GB")
        self.picture("lab-resource-usage")


class Notebook7(Pages):
    def test_from_the_kill_to_the_reason(self):
        self.from_the_kill_to_the_reason("notebooks/big.ipynb", "notebook7")

    def test_the_list_and_a_kill_of_another_notebook(self):
        self.start("big.ipynb", GIB)
        other = self.start("other.ipynb", 2 * GIB)
        self.show("notebooks/big.ipynb")
        self.guard.kill(other)
        self.browser.click(".nbguard-toolbar")
        self.wait_text(".nbguard-panel", "other.ipynb was ended, 2.0 GiB")
        self.settle()
        self.assertEqual(self.toasts(), [])
        self.picture("notebook7-list")

    def test_the_tree_page_asks_nothing(self):
        self.start("big.ipynb")
        self.browser.go(self.server.page("tree"))
        self.wait_text(".jp-DirListing", "big.ipynb")
        time.sleep(3)
        before = len(self.guard.asked)
        time.sleep(3)
        self.assertEqual(self.guard.asked[before:], [])
        self.assertEqual(len(kernels(self.server.runtime)), 1)


if __name__ == "__main__":
    unittest.main()
