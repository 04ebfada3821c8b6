"""Headless Chromium through chromedriver (W3C WebDriver), with Python's own library only."""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Seconds. A page of JupyterLab takes some five on two busy cores.
PATIENCE = 60
# Keys, as the protocol names them.
TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Failed(Exception):
    """The browser's own word."""


class Gone(Failed):
    """There is no browser any more: nothing is worth waiting for."""


def missing():
    """The programs that are not here."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    # Of everything that waits and is not told how long.
    patience = PATIENCE

    def __init__(self, *switches, logs=("browser",)):
        self.folder = tempfile.mkdtemp(prefix="nbguard-browser-")
        self.program = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        self.base = None
        try:
            self._start(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                         "--no-first-run", f"--user-data-dir={self.folder}", "--window-size=1280,800",
                         *switches], logs)
        except BaseException:
            self.close()
            raise

    def _start(self, switches, logs):
        said = ""
        for line in self.program.stdout:
            said += line
            if found := re.search(r"started successfully on port (\d+)", line):
                self.base = f"http://127.0.0.1:{found[1]}"
                break
        else:
            raise Failed(f"chromedriver did not start: {said}")
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": switches},
            "goog:loggingPrefs": {kind: "ALL" for kind in logs}}}})
        self.base += f"/session/{session['sessionId']}"
        self._call("POST", "/timeouts", {"script": PATIENCE * 1000, "pageLoad": PATIENCE * 1000})

    def _call(self, method, path, body=None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            kind = Gone if value["error"] == "invalid session id" else Failed
            raise kind(value["message"].split("\n")[0]) from None

    def go(self, url):
        self._call("POST", "/url", {"url": url})

    def reload(self):
        self._call("POST", "/refresh")

    def run(self, script, *arguments):
        """What the script returns; of a promise, what it comes to."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command, **arguments):
        """One of the commands of Chromium's own protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": arguments})

    def wait(self, script, *arguments, seconds=None, what=None):
        """Until the script returns something true; that."""
        seconds = seconds or self.patience
        end = time.monotonic() + seconds
        last = None
        while time.monotonic() < end:
            try:
                last = self.run(script, *arguments)
            except Gone:
                raise
            except Failed as failed:
                last = failed
            if last and not isinstance(last, Failed):
                return last
            time.sleep(0.05)
        raise Failed(f"{what or script}: not within {seconds} s ({last})")

    def element(self, selector, seconds=None):
        """The first visible element, as scripts take it for an argument."""
        return self.wait(
            "return [...document.querySelectorAll(arguments[0])].find(node => node.checkVisibility())",
            selector, seconds=seconds, what=f"element {selector}")

    def _element(self, selector, command, body=None):
        self._call("POST", f"/element/{self.element(selector)[ELEMENT]}/{command}", body)

    def click(self, selector):
        end = time.monotonic() + self.patience
        while True:
            try:
                return self._element(selector, "click")
            except Failed as failed:
                # Still moving, or under something that is about to go.
                if isinstance(failed, Gone) or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def type(self, selector, text):
        """Into the first visible element, which gets the focus."""
        self._element(selector, "value", {"text": text})

    def clear(self, selector):
        self._element(selector, "clear")

    def shown(self, selector):
        """Whether the first such element is visible; there must be one."""
        return self.run("return document.querySelector(arguments[0]).checkVisibility()", selector)

    def text(self, selector):
        """The text of the first visible element, or None."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].find(node => node.checkVisibility())"
            "?.innerText ?? null", selector)

    def keys(self, text):
        """To whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self, kind):
        """What has come to it since it was asked for."""
        return self._call("POST", "/se/log", {"type": kind})

    def new_window(self):
        handle = self._call("POST", "/window/new", {"type": "tab"})["handle"]
        self._call("POST", "/window", {"handle": handle})
        return handle

    def window(self):
        return self._call("GET", "/window")

    def to_window(self, handle):
        self._call("POST", "/window", {"handle": handle})

    def close_window(self, then):
        """The one that is looked at; then that one is."""
        self._call("DELETE", "/window")
        self.to_window(then)

    def picture(self, path):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self):
        try:
            if self.base:
                self._call("DELETE", "")
        except (Failed, OSError):
            pass
        self.program.terminate()
        self.program.wait()
        self.program.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
