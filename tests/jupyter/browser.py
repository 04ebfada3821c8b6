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
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Failed(Exception):
    """The browser's own word."""


def missing():
    """The programs that are not here."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    def __init__(self, width=1280, height=800, dark=False):
        self.folder = tempfile.mkdtemp(prefix="nbguard-browser-")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True)
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self.base = f"http://127.0.0.1:{found[1]}"
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--no-first-run", f"--user-data-dir={self.folder}",
                     f"--window-size={width},{height}"]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        options = {"binary": shutil.which("chromium"), "args": arguments}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.base += f"/session/{session['sessionId']}"
        self._call("POST", "/timeouts", {"script": PATIENCE * 1000})

    def _call(self, method, path, body=None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(json.load(error)["value"]["message"].split("\n")[0]) from None

    def go(self, url):
        self._call("POST", "/url", {"url": url})

    def reload(self):
        self._call("POST", "/refresh")

    def run(self, script, *arguments):
        """What the script returns; of a promise, what it comes to."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, *arguments, seconds=PATIENCE, what=None):
        """Until the script returns something true; that."""
        end = time.monotonic() + seconds
        last = None
        while time.monotonic() < end:
            try:
                last = self.run(script, *arguments)
            except Failed as failed:
                last = failed
            if last and not isinstance(last, Failed):
                return last
            time.sleep(0.1)
        raise Failed(f"{what or script}: not within {seconds} s ({last})")

    def element(self, selector, seconds=PATIENCE):
        """The first visible element."""
        found = self.wait(
            "return [...document.querySelectorAll(arguments[0])].find(node => node.checkVisibility())",
            selector, seconds=seconds, what=f"element {selector}")
        return found[ELEMENT]

    def click(self, selector):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._call("POST", f"/element/{self.element(selector)}/click")
            except Failed:
                # Still moving, or under something that is about to go.
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def text(self, selector):
        """The text of the first visible element, or None."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].find(node => node.checkVisibility())"
            "?.innerText ?? null", selector)

    def keys(self, text):
        """To whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def console(self):
        return self._call("POST", "/se/log", {"type": "browser"})

    def new_window(self):
        handle = self._call("POST", "/window/new", {"type": "tab"})["handle"]
        self._call("POST", "/window", {"handle": handle})
        return handle

    def window(self):
        return self._call("GET", "/window")

    def to_window(self, handle):
        self._call("POST", "/window", {"handle": handle})

    def picture(self, path):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self):
        try:
            self._call("DELETE", "")
        except (Failed, OSError):
            pass
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
