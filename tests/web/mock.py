"""A stand-in for nbguardd's HTTP door: the page's three files from this tree under the real
policy, and answers out of fixtures.py. `python3 tests/web/mock.py [FIXTURE [PORT]]` to look at it.
"""

import http.server
import json
import pathlib
import re
import sys
import threading
import urllib.parse

import fixtures

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src/observe"
FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}


def policy():
    """The same words that the daemon sends."""
    text = re.search(r"Content-Security-Policy: (.*?)\\r", (SOURCE / "answer.rs").read_text(), re.S)[1]
    return re.sub(r"\\\n\s*", "", text)


class Mock(http.server.ThreadingHTTPServer):
    """One guard. What it answers can be changed while a browser looks at it."""
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.containers, self.incidents = fixtures.ordinary()
        self.token = None
        self.broken = False
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def play(self, fixture):
        self.containers, self.incidents = fixtures.HOSTS[fixture]()
        self.token, self.broken, self.asked = None, False, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *_):
        """A browser that went away is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        self.server.asked.append(url.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            return self.send(200, kind, (SOURCE / "page" / name).read_bytes())
        if self.server.broken:
            # As a daemon that died: the connection closes without an answer.
            self.close_connection = True
            return None
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self.json(401, {"error": "a token is needed"})
        if url.path == "/api/v1/containers":
            self.server.containers["time"] = fixtures.stamp(0)
            return self.json(200, self.server.containers)
        if url.path == "/api/v1/incidents":
            limit = int(urllib.parse.parse_qs(url.query).get("limit", ["50"])[0])
            return self.json(200, {"schema": 1, "incidents": self.server.incidents[:limit]})
        return self.json(404, {"error": "there is nothing at this path"})

    def json(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, body):
        self.send_response(status)
        for name, value in (("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                            ("Content-Security-Policy", policy()), ("X-Content-Type-Options", "nosniff"), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet: a test says what went wrong."""


if __name__ == "__main__":
    mock = Mock(int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
    mock.play(sys.argv[1] if len(sys.argv) > 1 else "ordinary")
    print(mock.address, "ordinary and others: " + ", ".join(fixtures.HOSTS), flush=True)
    threading.Event().wait()
