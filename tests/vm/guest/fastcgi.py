"""One FastCGI request over a Unix socket, as a web server sends it, and whether the answer came whole.

Only what php-fpm needs: one request a connection, no input, output in order.
"""

import dataclasses
import socket
import struct

BEGIN, END, PARAMS, STDIN, STDOUT, STDERR = 1, 3, 4, 5, 6, 7
RESPONDER = 1
HEADER = struct.Struct("!BBHHBx")
# A value of more than 127 bytes has its length in four, with the top bit set.
SHORT = 127
# Longest part of one record.
RECORD_BYTES = 65535


@dataclasses.dataclass
class Answer:
    """`whole`: the worker said that it is done. Without it the worker went away in the middle."""
    whole: bool
    status: int
    body: str
    errors: str


def ask(path, script, uri, on_body=None, seconds=None):
    """Asks for a script; `on_body` gets the body so far whenever more of it came."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(request(script, uri))
        return read_answer(connection.makefile("rb"), on_body)


def request(script, uri):
    path, _, query = uri.partition("?")
    params = {
        "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "GET", "SCRIPT_FILENAME": script, "SCRIPT_NAME": path,
        "REQUEST_URI": uri, "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "nbguard-vm",
        "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "web", "CONTENT_LENGTH": "0",
    }
    pairs = b"".join(pair(name.encode(), value.encode()) for name, value in params.items())
    return record(BEGIN, struct.pack("!HB5x", RESPONDER, 0)) + record(PARAMS, pairs) + record(PARAMS, b"") + \
        record(STDIN, b"")


def pair(name, value):
    return length(name) + length(value) + name + value


def length(text):
    return bytes([len(text)]) if len(text) <= SHORT else struct.pack("!I", len(text) | 1 << 31)


def record(kind, content):
    if len(content) > RECORD_BYTES:
        raise ValueError("a request of more than one record")
    return HEADER.pack(1, kind, 1, len(content), 0) + content


def read_answer(stream, on_body):
    """Records until the end, or until the connection is closed."""
    output, errors = b"", b""
    while True:
        try:
            head = stream.read(HEADER.size)
            if len(head) < HEADER.size:
                return answer(False, output, errors)
            _, kind, _, size, padding = HEADER.unpack(head)
            content = stream.read(size)
            if len(stream.read(padding)) < padding or len(content) < size:
                return answer(False, output, errors)
        except ConnectionError:
            return answer(False, output, errors)
        if kind == STDOUT:
            output += content
            if on_body and b"\r\n\r\n" in output:
                on_body(output.split(b"\r\n\r\n", 1)[1].decode(errors="replace"))
        elif kind == STDERR:
            errors += content
        elif kind == END:
            application, protocol = struct.unpack("!IB", content[:5])
            return answer(application == 0 and protocol == 0, output, errors)


def answer(whole, output, errors):
    """The CGI headers are lines before the first empty one; without a Status it is 200."""
    head, _, body = output.partition(b"\r\n\r\n")
    status = 200
    for line in head.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
    return Answer(whole, status, body.decode(errors="replace"), errors.decode(errors="replace"))
