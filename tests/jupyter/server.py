"""A real Jupyter server for the tests: JupyterLab and Notebook 7 of the virtual environment in
.cache, with folders of its own, and whatever guard listens at its socket."""

import json
import os
import pathlib
import shutil
import signal
import socket as socketlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
VENV = pathlib.Path(os.environ.get("NBGUARD_JUPYTER_VENV", REPOSITORY / ".cache/jupyter-venv"))
TOKEN = "secret"


def notebook(*cells):
    """The text of a notebook with these cells."""
    return json.dumps({
        "cells": [{"cell_type": "code", "id": f"c{at}", "metadata": {}, "execution_count": None,
                   "outputs": [], "source": cell} for at, cell in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4, "nbformat_minor": 5})


def free_port():
    """With --port=0 older servers do not know their own address."""
    with socketlib.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, *arguments, socket=None, resource_usage=False, front_end=None, enter=None, env=None):
        """`resource_usage`: jupyter-resource-usage's server extension; `front_end`: its Lab
        extension. `enter`: what to do in the new process, such as joining a cgroup."""
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-jupyter-"))
        self.work = self.folder / "work"
        self.runtime = self.folder / "runtime"
        self.socket = socket or self.folder / "guard/nbguard.sock"
        config = self.folder / "config"
        for folder in (self.work, self.runtime, config / "labconfig", self.socket.parent):
            folder.mkdir(parents=True, exist_ok=True)
        enabled = {"ServerApp": {"jpserver_extensions": {"jupyter_resource_usage": resource_usage}}}
        (config / "jupyter_server_config.json").write_text(json.dumps(enabled))
        hidden = not (resource_usage if front_end is None else front_end)
        (config / "labconfig/page_config.json").write_text(json.dumps(
            {"disabledExtensions": {"@jupyter-server/resource-usage": hidden,
                                    "@jupyterlab/apputils-extension:announcements": True}}))
        self.log = open(self.folder / "log", "w+")
        settings = dict(os.environ, HOME=str(self.folder), JUPYTER_CONFIG_DIR=str(config),
                        JUPYTER_RUNTIME_DIR=str(self.runtime), JUPYTER_DATA_DIR=str(self.folder / "data"),
                        IPYTHONDIR=str(self.folder / "ipython"), NBGUARD_SOCKET=str(self.socket),
                        **(env or {}))
        self.process = subprocess.Popen(
            [str(VENV / "bin/jupyter-server"), "--allow-root", "--ip=127.0.0.1", f"--port={free_port()}",
             f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
             "--JupyterNotebookApp.expose_app_in_browser=True", *arguments],
            cwd=self.work, env=settings, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            preexec_fn=enter)
        self.url = self._find_url()

    def _find_url(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            for path in self.runtime.glob("jpserver-*.json"):
                try:
                    url = json.loads(path.read_text())["url"]
                    self.url = url
                    self.get("api")
                    return url
                except (ValueError, OSError):
                    pass
            time.sleep(0.1)
        raise RuntimeError(f"no Jupyter server:\n{self.told()}")

    def told(self):
        return (self.folder / "log").read_text(errors="replace")

    def ask(self, path, method="GET", body=None, token=TOKEN):
        """Status and text."""
        headers = {"Authorization": f"token {token}"} if token else {}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path):
        status, text = self.ask(path)
        if status != 200:
            raise OSError(f"{path}: {status}: {text}")
        return json.loads(text)

    def page(self, path):
        return f"{self.url}{path}{'&' if '?' in path else '?'}token={TOKEN}"

    def open(self, name, *cells):
        """A notebook with a session and a kernel; the kernel's id."""
        (self.work / name).parent.mkdir(parents=True, exist_ok=True)
        (self.work / name).write_text(notebook(*cells))
        status, text = self.ask("api/sessions", "POST", {
            "path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}})
        if status != 201:
            raise OSError(f"{name}: {status}: {text}")
        return json.loads(text)["kernel"]["id"]

    def close(self):
        if self.process.poll() is None:
            # Twice: it asks back otherwise. It ends its kernels.
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
