"""One question to the guard: GET over a Unix socket, in the server's event loop, never blocking it.

Every answer is bounded in size and time. A connection is used once: whether the guard was
restarted since the last question makes no difference.
"""

import asyncio
import json

# Seconds. The guard answers in milliseconds; a host that is short of memory takes longer.
CONNECT_TIME = 2.0
ANSWER_TIME = 5.0
# A head is some 200 bytes.
HEAD_LIMIT = 16 * 1024
# 50 notebooks with 256 processes each are some 700 KiB. Parsing blocks the event loop, 4 MiB for
# some 40 ms.
BODY_LIMIT = 4 * 1024 * 1024


class Trouble(Exception):
    """No figures. `kind` is one of the three below, `str()` says more."""

    def __init__(self, kind, detail):
        super().__init__(detail)
        self.kind = kind


# Nobody listens at the socket.
NO_GUARD = "no-guard"
# The guard does not watch the container that we ask from.
NOT_WATCHED = "not-watched"
# It answers, but not what we understand.
TROUBLE = "trouble"


async def ask(socket, path):
    """The JSON that is the guard's answer. Raises Trouble."""
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_unix_connection(socket, limit=HEAD_LIMIT), CONNECT_TIME)
    except asyncio.TimeoutError:
        raise Trouble(NO_GUARD, "{}: the connection took too long".format(socket)) from None
    except (OSError, ValueError) as error:
        # ValueError: a path that is too long, or holds a zero byte.
        raise Trouble(NO_GUARD, "{}: {}".format(socket, error)) from None
    try:
        status, body = await asyncio.wait_for(exchange(reader, writer, path), ANSWER_TIME)
    except asyncio.TimeoutError:
        raise Trouble(TROUBLE, "the answer took too long") from None
    except asyncio.IncompleteReadError:
        # So ends a connection whose guard is being restarted.
        raise Trouble(NO_GUARD, "the answer broke off") from None
    except asyncio.LimitOverrunError:
        raise Trouble(TROUBLE, "the head of the answer is too long") from None
    except OSError as error:
        raise Trouble(NO_GUARD, str(error)) from None
    finally:
        writer.close()
    return understand(status, body)


async def exchange(reader, writer, path):
    writer.write("GET {} HTTP/1.1\r\nHost: nbguard\r\nAccept: application/json\r\n"
                 "Connection: close\r\n\r\n".format(path).encode("ascii"))
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = parse_head(head)
    return status, await reader.readexactly(length)


def parse_head(head):
    """Status and length of the body. Raises Trouble."""
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise Trouble(TROUBLE, "that is no HTTP")
    length = None
    for field in fields:
        name, _, value = field.partition(":")
        if name.strip().lower() == "content-length" and value.strip().isdigit():
            length = int(value)
    if length is None:
        raise Trouble(TROUBLE, "an answer without a length")
    if length > BODY_LIMIT:
        raise Trouble(TROUBLE, "an answer of {} bytes is too long".format(length))
    return int(words[1]), length


def understand(status, body):
    try:
        said = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Trouble(TROUBLE, "status {}, and that is no JSON".format(status)) from None
    if not isinstance(said, dict):
        raise Trouble(TROUBLE, "status {}, and that is no object".format(status))
    if status == 200:
        return said
    detail = str(said.get("error", "status {}".format(status)))[:500]
    raise Trouble(NOT_WATCHED if status == 403 else TROUBLE, detail)
