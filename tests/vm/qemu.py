"""Boots one guest under emulation and hands over, line by line, what it says.

Two serial ports: the first is the console (kernel, systemd, the runner's own troubles), the
second carries one JSON object per line and nothing else. The disk is opened as a snapshot,
so a boot never changes an image. Every wait here has an end.
"""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

# psi=1: Debian's kernels have PSI built in; some are configured with it off until asked.
# tsc=reliable: otherwise the guest falls back to a clock that costs an exit per reading.
BASE_CMDLINE = ("root=/dev/vda rw console=ttyS0 panic=-1 psi=1 quiet loglevel=4 tsc=reliable "
                "no_timer_check mitigations=off systemd.show_status=0 net.ifnames=0")

# A boot says hello after 15 to 60 s under TCG on two busy cores; four times that is a hang.
HELLO_SECONDS = 240
# How often the files behind the serial ports are looked at.
LOOK_SECONDS = 0.1


class BootFailed(Exception):
    """The guest never said hello; `panicked` tells whether its kernel panicked on the way."""

    def __init__(self, text, panicked):
        super().__init__(text)
        self.panicked = panicked


class Guest:
    """A running virtual machine. Use it as a context: it is killed at the end, come what may."""

    def __init__(self, image, disks, folder, memory_mib, cmdline, attempt):
        self.console = folder / f"console-{attempt}.log"
        self.results = folder / f"results-{attempt}.jsonl"
        self.console.write_bytes(b"")
        self.results.write_bytes(b"")
        self.offset = 0
        self.tail = b""
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2",
            "-m", str(memory_mib), "-display", "none", "-no-reboot", "-snapshot", "-nic", "none",
            "-monitor", "none", "-serial", f"file:{self.console}", "-serial", f"file:{self.results}",
            "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"),
            "-drive", f"file={image / 'disk.ext4'},if=virtio,format=raw,cache=unsafe",
            *[word for disk in disks for word in ("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe")],
            "-append", f"{BASE_CMDLINE} {cmdline}".strip(),
        ]
        self.started = time.monotonic()
        self.errors = open(folder / f"qemu-{attempt}.log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.errors,
                                        stderr=self.errors, preexec_fn=die_with_parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()

    def read_lines(self):
        """The complete lines that came since the last call."""
        with open(self.results, "rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.offset += len(data)
        *lines, self.tail = (self.tail + data).split(b"\n")
        return [line.rstrip(b"\r") for line in lines if line.strip()]

    def messages(self, deadline_of):
        """Yields each message of the guest until it powers off; `deadline_of()` is asked at every look."""
        while True:
            ended = self.process.poll() is not None
            for line in self.read_lines():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"type": "garbled", "text": line.decode(errors="replace")[:500]}
            if ended:
                return
            if time.monotonic() > deadline_of():
                yield {"type": "timeout"}
                return
            time.sleep(LOOK_SECONDS)

    def wait_hello(self):
        """Waits for the runner's first message; a panic or a silent guest is a BootFailed."""
        deadline = self.started + HELLO_SECONDS
        for message in self.messages(lambda: deadline):
            if message["type"] == "hello":
                return message
            if message["type"] == "timeout":
                break
        raise BootFailed(f"no sign of life; the console ends with:\n{self.console_tail()}",
                         "Kernel panic" in self.console_text())

    def console_text(self):
        return self.console.read_bytes().decode(errors="replace")

    def console_tail(self):
        return "\n".join(self.console_text().splitlines()[-15:])


def die_with_parent():
    """A VM must not outlive the run that started it, even one that was killed with SIGKILL."""
    import ctypes
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def alone_on_this_machine(say):
    """Waits until no other run has a VM up: two of them on two cores time each other out."""
    turn = open(pathlib.Path(tempfile.gettempdir()) / "nbguard-vm.lock", "a")
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another run to be done with its VM")
        fcntl.flock(turn, fcntl.LOCK_EX)
    return turn
