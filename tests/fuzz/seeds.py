"""What each target begins with: texts of tests/fixtures, and a few made by hand where a file would
be none. `run` beside this file writes them down; what is kept in corpus/ came out of them.
"""

import pathlib
import struct

TREE = pathlib.Path(__file__).resolve().parent.parent.parent
FIXTURES = TREE / "tests/fixtures"

# Names of files, by the target that reads them.
FILES = {
    "proc": ["stat", "status", "smaps_rollup", "maps", "meminfo", "cgroup"],
    "cgroup": ["memory.stat", "memory.events", "memory.pressure", "memory", "memory.max", "cgroup.procs",
               "memory.usage_in_bytes", "memory.oom_control"],
    "mountinfo": ["mountinfo"],
    "engine": ["config.v2.json", "config.json", "containers.json", "volatile-containers.json",
               "daemon.json", "reply.http"],
    "argv": ["cmdline", "environ"],
    "control": ["incident.json"],
    "stack": ["block.json", "fiber.json", "generator.json", "names.json"],
}

STACK = (b'{"pid":7,"start":9,"runtime":"python","state":"busy","cell":7,"threads":[{"main":true,'
         b'"frames":[{"function":"merge","file":"/tmp/ipykernel_7/1.py","line":3},'
         b'{"function":"<module>","file":"<ipython-input-7-1a2b>","line":1}]}]}')

TEXTS = {
    "proc": [b"55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 1 /usr/bin/php (deleted)\n"],
    "cgroup": [b"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-"
               + b"c" * 64 + b".scope", b"/docker/" + b"a" * 64,
               b"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + b"b" * 64 + b".scope"],
    "config": [b'[default]\nthreshold = "90%"\npolicy = "idle-first"\n[[rule]]\ncontainer = ["a*"]\n'
               b'threshold = "4GiB"\npsi = "some 100ms 1s"\n[protect]\nnotebooks = ["*/x.ipynb"]\n',
               b'[guard]\nlog = "info"\n[http]\nlisten = "127.0.0.1:9817"\n[hook]\ncommand = ["/bin/x", "a"]\n'
               b'on = ["kill"]\ntimeout = "10s"\n[message]\nwarning = "{memory} of {total}"\n',
               b'default.threshold = 0.9\nrule = [{ label = ["a=b*"], deny = ["app:x"], signals = ["INT", "KILL"] }]\n'],
    "http": [b"GET /metrics HTTP/1.1\r\nHost: localhost:9817\r\nAccept: text/plain\r\n\r\n",
             b"GET /api/v1/incidents?limit=7 HTTP/1.1\r\nHost: [::1]:1\r\nAuthorization: Bearer x\r\n\r\n",
             b"HEAD / HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
             b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"],
    "control": [b'{"do":"list"}', b'{"do":"pause","container":"a","for":60}', b'{"do":"resume"}',
                b'{"do":"protect","target":"a:b.ipynb","for":1}', b'{"do":"unprotect","target":"7"}',
                b'{"ok":true,"said":"x","candidates":["a"]}',
                b'{"what":"protect","of":{"kind":"process","pid":7,"start":9},"by":{"uid":0},"at":1}'],
    "stack": [STACK],
    "argv": [b"/opt/conda/bin/python\0-m\0ipykernel_launcher\0-f\0/r/kernel-"
             b"01234567-89ab-cdef-0123-456789abcdef.json\0",
             b"python\0/usr/bin/jupyter-lab\0--port=8888\0", b"php-fpm: pool www\0\0\0",
             b"php\0-d\0x=y\0./run.php\0", b"php-fpm: master process (/etc/php/fpm.conf)\0",
             b"JPY_SESSION_NAME=/work/a.ipynb\0JPY_PARENT_PID=17\0TOKEN=x\0",
             b"python3\0-m\0joblib.externals.loky.backend.resource_tracker\0"],
    "text": [b"{notebook} in {container} holds {memory}{running}\nwork/a.ipynb", b"*.ipynb\nwork/a.ipynb",
             b"12.5%", b"1.5GiB", b"some 150ms 2s", b"90s", b"env=prod*\nprod-1", b"x=basic_globals+0x10:zval",
             b"$total", b"app:/srv/*\n/srv/a", "größe\u202e\x1b[2J".encode(), b"a*b*c*d*e*f?\naaaaaaaabbbbbbbbcccccc"],
}


def put(at, what):
    return struct.pack("<HB", at, len(what)) + what


LOOK, CUT = b"\xff\xff", b"\xfe\xff"


def layout():
    """Changes of a right file; see targets/patches.rs."""
    yield b""
    for at in (0, 8, 16, 20, 24, 32, 64, 80, 128, 136, 168, 176, 432, 688, 4096, 4096 + 54, 4096 + 56, 4096 + 62):
        yield put(at, b"\x07\x00\x00\x00")
    yield struct.pack("<8sIIII", b"nbgtswch", 1, 4096, 64, 65536) + bytes(64)


def ring():
    yield b"\0" + LOOK + put(64, struct.pack("<Q", 12)) + LOOK + put(64, struct.pack("<Q", 9)) + LOOK
    yield b"\0" + CUT + struct.pack("<H", 5000) + LOOK
    yield b"\0" + LOOK + CUT + struct.pack("<H", 100) + LOOK
    yield b"\0" + LOOK + put(128, b"\1") + put(20, b"\x10") + LOOK
    yield b"\0" + put(4096, struct.pack("<Q", 99)) + LOOK
    yield b"\1" + put(8, b"\2") + LOOK
    yield b"\1" + put(24, struct.pack("<QIIQI", 777, 1, 5, 5, 5000)) + LOOK + CUT + struct.pack("<H", 30) + LOOK


def data():
    def frame(kind, what, process=0):
        return struct.pack("<IHH", len(what), kind, process) + what
    head = b"nbgtdata" + struct.pack("<II", 1, 0)
    who = frame(1, struct.pack("<IIQIIQ", 7, 2, 9, 80236, 0, 5))

    def record(n, kind, function, values):
        # Its number is doubled and made even, as when it is whole: both are tried.
        texts = function + values
        fixed = struct.pack("<QQQQqQIHBBHHHH", 2 * n + 2, 5, 900, 800, 4096, 1, 3, 0, kind, 0, 0,
                            len(function), 0, len(values))
        return frame(2, struct.pack("<Q", n) + fixed + texts)
    for first in (0, 1):
        yield head + who + record(first, 1, b"cart", b"1, 2") + record(first + 1, 2, b"cart", b"3") + frame(4, b"")
    for kind in range(3, 9):
        yield head + who + record(0, kind, b"x", b"y") + frame(4, b"")
    for note in range(1, 10):
        yield head + who + frame(3, struct.pack("<IIQ", note, 0, 12) + b"odd\n") + frame(4, b"")
    yield head + who + who


def elf():
    def program(symbols, text):
        whole = bytearray(1536)

        def at(place, what):
            whole[place:place + len(what)] = what
        at(0, b"\x7fELF\x02\x01\x01")
        at(16, bytes([3, 0, 62, 0, 1, 0, 0, 0]))
        at(32, struct.pack("<QQ", 64, 128))
        at(52, bytes([64, 0, 56, 0, 1, 0, 64, 0, 5, 0, 4, 0]))
        at(64, struct.pack("<II", 1, 4))
        at(80, struct.pack("<Q", 0x1000))
        at(96, struct.pack("<Q", 1536))
        names = b"\0" + b"".join(name + b"\0" for name in symbols)
        table, offset = bytearray(24), 1
        for index, name in enumerate(symbols):
            table += struct.pack("<IBBHQQ", offset, 0x11, 0, 9, 0x3000 + index * 256, 8)
            offset += len(name) + 1
        headings, place = b"\0.dynsym\0.dynstr\0.rodata\0.shstrtab\0", 512
        sections = [(1, 11, bytes(table), 2), (9, 3, names, 0), (17, 1, text, 0), (25, 3, headings, 0)]
        for index, (name, kind, content, link) in enumerate(sections):
            head = 128 + 64 * (index + 1)
            at(head, struct.pack("<II", name, kind))
            at(head + 24, struct.pack("<QQI", place, len(content), link))
            at(head + 56, struct.pack("<Q", 24 if index == 0 else 0))
            at(place, content)
            place += (len(content) + 7) // 8 * 8
        return bytes(whole)
    globals_ = [b"sapi_globals", b"executor_globals", b"core_globals"]
    yield program(globals_, b"x\0X-Powered-By: PHP/8.3.8\0y")
    yield program([b"executor_globals_offset"], b"X-Powered-By: PHP/8.2.1\0")
    yield program(globals_, b"X-Powered-By: PHP/7.4.33\0")
    yield program([b"main"], b"")


def walk():
    """PHP that sleeps in a function, for each layout; see targets/memory.rs."""
    base, executor, sapi = 0x7f0000200000, 0x1000, 0x2000
    layouts = [(488, 68, 72, 144), (488, 80, 88, 152), (488, 76, 80, 144), (488, 96, 104, 168), (512, 96, 104, 168)]
    for which, (current, last, opcodes, filename) in enumerate(layouts):
        whole = bytearray(32768)

        def at(place, value):
            struct.pack_into("<Q", whole, place, value & (2**64 - 1))

        def string(place, text):
            at(place + 16, len(text))
            whole[place + 24:place + 24 + len(text)] = text
            return base + place
        at(0, base + 64)
        at(64 + 16, 400_000)
        at(64 + 24, 500_000)
        at(executor + current - 16, base + 0x100)
        at(sapi + 40, base + 0x2800)
        at(sapi + 48, base + 0x2840)
        whole[sapi + 436] = 1
        whole[0x2800:0x280e] = b"/srv/block.php"
        whole[0x2840:0x284a] = b"/block?a=1"
        frame = 0
        for index, name in enumerate([b"run", b"say", b"sleep"]):
            function, op, here = (0x3000 + 0x400 * index + at for at in (0, 0x100, 0x140))
            whole[function] = 1 if name == b"sleep" else 2
            at(function + 8, string(function + 0x200, name))
            at(function + 16, base + function + 0x300)
            at(function + 0x308, string(function + 0x320, b"Shop"))
            at(function + filename, string(function + 0x240, b"/srv/block.php"))
            at(function + opcodes, base)
            struct.pack_into("<I", whole, function + last, 1 << 20)
            struct.pack_into("<II", whole, op + 20, 1, 3 + index)
            whole[op + 28] = 60 if index else 73
            at(here, base + op)
            at(here + 24, base + function)
            at(here + 48, frame)
            frame = base + here
        at(executor + current, frame)
        # The symbol table, with `total` in it.
        hashed = 5381
        for byte in b"total":
            hashed = (hashed * 33 + byte) & (2**64 - 1)
        at(executor + 304 + 8, (2**32 - 2) << 32)
        at(executor + 304 + 16, base + 0x5010)
        struct.pack_into("<II", whole, 0x5008, 0, 0)
        at(0x5010, 42)
        at(0x5018, 4 | 0xffffffff << 32)
        at(0x5020, hashed | 1 << 63)
        at(0x5028, string(0x5100, b"total"))
        words = b"".join(struct.pack("<H", place // 8) + whole[place:place + 8]
                         for place in range(0, len(whole), 8) if any(whole[place:place + 8]))
        yield bytes([which, 0]) + words
    yield bytes([3, 1]) + words
    # A dictionary of CPython 3.11 that leads to itself.
    for minor in (0, 5, 7, 8):
        yield bytes([0, minor * 2]) + b"".join(struct.pack("<HQ", place // 8, value) for place, value in [
            (8, base), (24, base + 0x300), (32, base + 0x100), (0x108, 3 << 8), (0x118, 2), (0x128, base + 0x200),
            (0x128 + 8, base + 0x200), (0x210, 12), (0x228, int.from_bytes(b"__builti", "little")),
            (0x230, int.from_bytes(b"ns__", "little")), (0x300, int.from_bytes(b"module", "little"))])


MADE = {"layout": layout, "ring": ring, "data": data, "elf": elf, "walk": walk}


def seeds(target):
    """Each once."""
    found = list(TEXTS.get(target, []))
    for path in sorted(FIXTURES.rglob("*")):
        if path.is_file() and path.name in FILES.get(target, []):
            found.append(path.read_bytes()[:16384])
    found += MADE.get(target, list)()
    return list(dict.fromkeys(found))
