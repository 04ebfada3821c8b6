"""Every test of this tree, one part after the other: tests/run [--quick | --all [--part NAME]…].

Lints, unit and integration tests, the demo, the status page in Chromium, live tests on this
kernel, and the virtual Docker host, whose image is built while cargo builds. A part that cannot run
here says why and counts as skipped; one that hangs is ended and counts as failed. The last line is
`N passed, N failed, N skipped`; the exit code is 0 only if nothing failed.

--all takes hours and may be stopped at any time: a part that passed on the very same committed
sources is not run again, but counted as it was (.cache/proof; a fresh clone begins afresh).
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SCENARIOS = REPOSITORY / "tests/vm/scenarios"
LOGS = REPOSITORY / ".cache/test-logs"
# What --all has behind it: a file of each part.
PROOF = REPOSITORY / ".cache/proof"
# A run writes these itself, or they are read by people alone.
NO_SOURCES = ["README.md", "CHANGELOG.md", "tests/fuzz/README.md", "tests/vm/results"]
# These bring what later parts need, whatever passed before.
BRING = {"setup", "cargo build --release", "guest image"}

# One boot: these want the same host.
ONE_BOOT = ["a-one-grows", "b-family-of-workers", "e1-shared-memory", "h-two-containers",
            "k1-daemon-killed-before", "l1-limit-changes-while-watching", "p-protected", "r1-terminal-hog",
            "y1-php-goes-on", "y2-notebooks-idle-first", "y3-stacks-from-outside", "y4-php-tells-itself"]

# Scenarios of one part of --all: what a stop in the middle loses.
AT_ONCE = 10

# Seconds. A whole run must end within 80 minutes whatever hangs; --all plays every scenario at
# about 45 s each, the table of guards, and gives each fuzzer ten minutes.
WHOLE_RUN = {"default": 78 * 60, "all": 20 * 3600}
# Kept for telling the result, and for ending what is still running.
RESERVE = 60
# A word at least so often, for who watches a log.
HEARTBEAT = 60
# From SIGTERM to SIGKILL of a part that is over its time.
GRACE = 15
# Lines of a failed part that are shown; all of it is in its log.
TAIL = 60

# Of the test binary `it`: these run alone, one at a time, on the release binaries.
ALONE = ("live", "kernels", "footprint")

# More failures than this are no accident, and are not tried again.
AGAIN_MAX = 3

# tests/vm/run and tests/web/run: it cannot run here. nbguard demo: the same.
VM_CANNOT_RUN = 77
WEB_CANNOT_RUN = 77
DEMO_CANNOT_RUN = 4
# tests/jupyter/run and tests/php/run: the same.
JUPYTER_CANNOT_RUN = 77
PHP_CANNOT_RUN = 77


@dataclasses.dataclass
class Count:
    """What a part came to. The texts say which and why."""
    passed: int = 0
    failed: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


@dataclasses.dataclass
class Done:
    """A command that ended, or was ended."""
    code: int
    out: list
    err: list
    late: bool
    log: pathlib.Path

    def told(self):
        return self.err + self.out

    def last_word(self):
        """The last line on stderr that says something: why it did not do it."""
        return next((line.strip() for line in reversed(self.err) if line.strip()), "")

    def why(self, name):
        if self.late:
            return f"{name}: took too long and was ended"
        return f"{name}: exit code {self.code}"


class Interrupted(Exception):
    """SIGINT or SIGTERM."""


BEGAN = time.monotonic()
RUNNING = []
# What was found out for later parts: where the release binaries are.
FOUND = {}


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def say(text):
    seconds = int(time.monotonic() - BEGAN)
    print(f"[{seconds // 60:2}:{seconds % 60:02}] {text}", flush=True)


class Command:
    """A command in a process group of its own, without a terminal, its output kept and logged."""

    def __init__(self, name, words, env=None, show=None):
        self.name = name
        self.show = show
        LOGS.mkdir(parents=True, exist_ok=True)
        self.path = LOGS / f"{slug(name)}.log"
        self.log = open(self.path, "w")
        self.out, self.err = [], []
        self.late = False
        settings = dict(os.environ, CARGO_TERM_COLOR="never", CARGO_TERM_PROGRESS_WHEN="never",
                        DEBIAN_FRONTEND="noninteractive", **(env or {}))
        self.process = subprocess.Popen(
            [str(word) for word in words], cwd=REPOSITORY, env=settings, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True)
        RUNNING.append(self)
        self.readers = [threading.Thread(target=self.read, args=pair, daemon=True)
                        for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for reader in self.readers:
            reader.start()

    def read(self, pipe, lines):
        for line in pipe:
            line = line.rstrip("\n")
            lines.append(line)
            self.log.write(line + "\n")
            self.log.flush()
            if self.show and (shown := self.show(line)):
                say(f"  {shown}")

    def wait(self, seconds):
        """Until it ends, at most so long."""
        end = min(time.monotonic() + seconds, FOUND["end"])
        told = time.monotonic()
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.late = True
                self.stop()
                break
            if time.monotonic() - told > HEARTBEAT:
                told = time.monotonic()
                last = (self.err or self.out or [""])[-1].strip()
                say(f"  {self.name} … {last[:100]}")
            time.sleep(0.1)
        # What it left behind may hold the pipe open.
        for reader in self.readers:
            reader.join(5)
        if self in RUNNING:
            RUNNING.remove(self)
        return Done(self.process.returncode, self.out, self.err, self.late, self.path)

    def stop(self):
        for which, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            try:
                os.killpg(self.process.pid, which)
            except ProcessLookupError:
                pass
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            # The leader is gone; whoever is left of its group is not wanted either.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            return


def run(name, words, seconds, env=None, show=None):
    return Command(name, words, env, show).wait(seconds)


def show_tail(done):
    for line in done.told()[-TAIL:]:
        print(f"    {line}", flush=True)
    print(f"    (all of it: {done.log.relative_to(REPOSITORY)})", flush=True)


def step(name, words, seconds, env=None, show=None):
    """A part that is one test: it passes with exit code 0."""
    done = run(name, words, seconds, env, show)
    if done.code == 0 and not done.late:
        return Count(passed=1)
    show_tail(done)
    return Count(failed=[done.why(name)])


# ---- the parts, in their order


def part_setup():
    """What the parts before the virtual machine need. tests/vm/run brings its own."""
    os.environ["PATH"] += ":/usr/sbin:/sbin:" + str(pathlib.Path.home() / ".cargo/bin")
    if not shutil.which("cargo"):
        return Count(failed=["setup: cargo is missing: install a Rust toolchain (https://rustup.rs)"])
    missing = []
    if not shutil.which("cc"):
        missing.append("gcc")
    if not shutil.which("cc") or not has_static_libc():
        missing.append("libc6-dev")
    if missing and not may_install():
        return Count(failed=[f"setup: missing here: {' '.join(missing)} (as root on Debian they are installed)"])
    if missing:
        say(f"  installing {' '.join(missing)}")
        for words in (["apt-get", "-qq", "update"],
                      ["apt-get", "-y", "-qq", "--no-install-recommends", "install", *missing]):
            done = run("apt-get", words, 600)
            if done.code != 0:
                show_tail(done)
                return Count(failed=[done.why(" ".join(words[:4]))])
    for tool, component in (("fmt", "rustfmt"), ("clippy", "clippy")):
        if not has_cargo(tool) and shutil.which("rustup"):
            run("rustup", ["rustup", "component", "add", component], 300)
    # Who lets the daemon's system calls fail; without it those tests say so.
    if not shutil.which("strace") and may_install():
        install(["strace"], 300)
    # The integration tests end workers of a real php-fpm and Apache; without them they skip.
    FOUND["php is missing"] = bring_php()
    return Count()


def has_static_libc():
    found = subprocess.run(["cc", "-print-file-name=libc.a"], capture_output=True, text=True).stdout.strip()
    return "/" in found


def has_cargo(tool):
    return subprocess.run(["cargo", tool, "--version"], capture_output=True, cwd=REPOSITORY).returncode == 0


def part_format():
    if not has_cargo("fmt"):
        return Count(skipped=["cargo fmt: rustfmt is missing (rustup component add rustfmt)"])
    return step("cargo fmt", ["cargo", "fmt", "--check"], 120)


def part_lints():
    if not has_cargo("clippy"):
        return Count(skipped=["cargo clippy: it is missing (rustup component add clippy)"])
    return step("cargo clippy", ["cargo", "clippy", "--all-targets", "--", "-D", "warnings"], 1200)


# Installed by --all where it is missing: some hundred crates, four minutes of one processor. `cargo
# test` holds the lock files against the same policy (tests/it/audit.rs), without it and a network.
CARGO_DENY = "0.20.2"


def part_deny():
    """cargo-deny: licences, sources, what is there twice; and RustSec's list, where it can be had."""
    root = REPOSITORY / ".cache/cargo-deny"
    if not has_cargo("deny"):
        if not (root / "bin/cargo-deny").exists():
            done = run("cargo install", ["cargo", "install", "cargo-deny", "--locked", "--version", CARGO_DENY,
                                         "--root", root], 3600)
            if done.code != 0:
                return Count(skipped=[f"cargo deny: it cannot be installed: {done.last_word()}"])
        os.environ["PATH"] += f":{root}/bin"
    deny = ["cargo", "deny", "--config", REPOSITORY / "packaging/deny.toml"]
    count = step("cargo deny", [*deny, "check", "licenses", "bans", "sources"], 300)
    # The extension's lock file is its own; what is there twice in it is in no program of ours.
    extension = ["--manifest-path", "src/crates/php-ext/Cargo.toml"]
    count.add(step("cargo deny nbguard-php", [*deny[:2], *extension, *deny[2:], "check", "licenses", "sources"], 300))
    done = run("cargo deny fetch", [*deny, "fetch", "db"], 120)
    if done.code != 0:
        count.skipped.append(f"cargo deny advisories: RustSec's list cannot be had: {done.last_word()[:200]}")
    else:
        count.add(step("cargo deny advisories", [*deny, "check", "advisories"], 300))
    return count


def part_tests():
    done = run("cargo test", ["cargo", "test", "--no-fail-fast", "--", "--show-output"], 1800,
               env={"RUST_BACKTRACE": "0"})
    count = count_cargo("cargo test", done, later=ALONE)
    # Two processors and a kernel that others load as well: what fails gets one more try, alone.
    return again(count, lambda names: count_cargo("cargo test again", run(
        "cargo test again", ["cargo", "test", "--no-fail-fast", "--", "--exact", "--test-threads=1",
                             "--show-output", *names], 900, env={"RUST_BACKTRACE": "0"}), later=ALONE))


def again(count, run_once_more):
    """A few that failed are run once more; what passes then is told, and counts as passed."""
    if not 0 < len(count.failed) <= AGAIN_MAX:
        return count
    names, count.failed = count.failed, []
    for name in names:
        print(f"    failed, once more: {name}", flush=True)
    second = run_once_more(names)
    count.add(second)
    if not second.failed and second.passed + len(second.skipped) < len(names):
        count.failed = [f"{name}: it could not be run once more" for name in names]
    return count


# Of one module; errno plays some hundred episodes.
ALONE_SECONDS = 1800


def part_alone(module):
    """The tests of one module of `it`, alone on this machine and one at a time."""
    name = f"{module} tests"
    if not FOUND.get("binaries"):
        return Count(skipped=[f"{name}: there are no release binaries"])
    words = ["cargo", "test", "--test", "it", f"{module}::", "--",
             "--include-ignored", "--test-threads=1", "--show-output"]
    done = run(name, words, ALONE_SECONDS, env={"NBGUARD_BIN_DIR": str(FOUND["binaries"]), "RUST_BACKTRACE": "0"})
    count = count_cargo(name, done)
    if not (count.passed or count.failed or count.skipped):
        count.skipped.append(f"{name}: this tree has none")
    alone = {"NBGUARD_BIN_DIR": str(FOUND["binaries"]), "RUST_BACKTRACE": "0"}
    return again(count, lambda names: count_cargo(f"{name} again", run(
        f"{name} again", ["cargo", "test", "--test", "it", "--", "--include-ignored", "--exact",
                          "--test-threads=1", "--show-output", *names], ALONE_SECONDS, env=alone)))


def count_cargo(name, done, later=()):
    """Counts a run of cargo test. A test that prints `skipped: why` was skipped, not passed."""
    count = Count()
    shown_of = None
    for line in done.out:
        if result := re.match(r"test result: \w+\. (\d+) passed; ", line):
            count.passed += int(result[1])
        elif test := re.match(r"test (\S+)(?: - should panic)? \.\.\. (FAILED|ignored(?:, .*)?)$", line):
            if test[2] == "FAILED":
                count.failed.append(test[1])
            elif not test[1].startswith(tuple(f"{module}::" for module in later)):
                count.skipped.append(f"{test[1]}: {test[2]}")
        elif section := re.match(r"---- (\S+) stdout ----$", line):
            shown_of = section[1]
        elif shown_of and (why := re.match(r"skipped: (.*)$", line)):
            if shown_of not in count.failed:
                count.passed -= 1
                count.skipped.append(f"{shown_of}: {why[1]}")
            shown_of = None
    if (done.code != 0 or done.late) and not count.failed:
        count.failed.append(done.why(name))
    if count.failed:
        show_failures(done, count.failed)
    return count


def show_failures(done, failed):
    """What the failed tests printed; without a failed test (it did not compile) the end of all."""
    shown = False
    left = 0
    for line in done.out:
        if section := re.match(r"---- (\S+) stdout ----$", line):
            left = TAIL if section[1] in failed else 0
        elif line in ("failures:", "successes:"):
            left = 0
        if left:
            print(f"    {line}", flush=True)
            left -= 1
            shown = True
    if not shown:
        # Of a compiler the errors matter, of everything else the end.
        done.out = [] if any(line.startswith("error") for line in done.err) else done.out
        show_tail(done)


def part_python():
    name = "unittests of tests/vm"
    return count_unittest(name, run(name, [sys.executable, "-m", "unittest", "discover", "tests/vm"], 120))


def part_jupyter():
    """The wheel in real JupyterLab and Notebook 7, in Chromium, against a real guard as well."""
    name = "nbguard-jupyter"
    env = {"NBGUARD_BIN_DIR": str(FOUND["binaries"])} if "binaries" in FOUND else {}
    done = run(name, [sys.executable, "tests/jupyter/run"], 1800, env=env)
    if done.code == JUPYTER_CANNOT_RUN:
        return Count(skipped=[f"{name}: {done.last_word()}"])
    text = "\n".join(done.err)
    full = dict(re.findall(r"^(?:FAIL|ERROR): (\S+) \(([\w.]+)\)", text, re.M))

    def once_more(names):
        # Before Python 3.11 the second word lacks the test's own name.
        words = [full[one] if full[one].endswith(one) else f"{full[one]}.{one}" for one in names if one in full]
        return count_unittest(f"{name} again", run(
            f"{name} again", [sys.executable, "tests/jupyter/run", *words], 900, env=env))

    return again(count_unittest(name, done), once_more)


# What the PHP extension is built with and tested on: Debian 12's. Other releases have another PHP.
PHP = ["php8.2-cli", "php8.2-fpm", "libapache2-mod-php8.2", "php8.2-dev", "php8.2-mbstring", "php8.2-xdebug",
       "libclang-dev", "libfcgi-bin"]


def bring_php():
    """None, or why there is no PHP to test with."""
    missing = [package for package in PHP if not is_installed(package)]
    if not missing:
        return None
    if not may_install():
        return f"missing here: {' '.join(missing)} (as root on Debian 12 they are installed)"
    done = install(missing, 900)
    if done.code != 0:
        return f"{' '.join(missing)}: {done.last_word()}"
    if "php8.2-xdebug" in missing:
        # Who compares with it loads it; it would slow everybody else down.
        run("phpdismod", ["phpdismod", "xdebug"], 60)
    return None


def part_php():
    """The extension, built and loaded into Debian's PHP: phpt, pools, stacks, and what it costs."""
    name = "tests/php"
    if not (REPOSITORY / "tests/php/run").exists():
        return Count(skipped=[f"{name}: this tree has none"])
    if FOUND.get("php is missing"):
        return Count(skipped=[f"{name}: {FOUND['php is missing']}"])
    done = run(name, ["tests/php/run"], 1500,
               env={"NBGUARD_BIN_DIR": str(FOUND["binaries"])} if "binaries" in FOUND else None)
    if done.code == PHP_CANNOT_RUN and not done.late:
        return Count(skipped=[f"{name}: {' '.join(done.told()[-1:])}"])
    return count_line(name, done)


def may_install():
    return os.geteuid() == 0 and shutil.which("apt-get")


def install(packages, seconds):
    """Debian's packages, for a part that says itself what it misses: lists that are old may do."""
    say(f"  installing {' '.join(packages)}")
    run("apt-get", ["apt-get", "-qq", "update"], 300)
    return run("apt-get", ["apt-get", "-y", "-qq", "--no-install-recommends", "install", *packages], seconds)


def is_installed(package):
    shown = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
                           capture_output=True, text=True) if shutil.which("dpkg-query") else None
    return shown is not None and shown.stdout == "installed"


def count_line(name, done):
    """The last `N passed, N failed, N skipped` of a part that counts for itself; FAIL and SKIP lines say which."""
    told = [found for line in done.out if (found := re.search(r"(\d+) passed, (\d+) failed, (\d+) skipped", line))]
    count = Count()
    if told:
        passed, failed, skipped = map(int, told[-1].groups())
        count = Count(passed, named(name, "FAIL", failed, done.out), named(name, "SKIP", skipped, done.out))
    if (done.code != 0 or done.late or not told) and not count.failed:
        count.failed.append(done.why(name) if done.code != 0 or done.late else f"{name}: it told no count")
    if count.failed:
        show_tail(done)
    return count


def named(name, word, number, lines):
    """As many texts as were counted."""
    found = [f"{name}: {line.removeprefix(word).strip()[:500]}" for line in lines if line.startswith(f"{word} ")]
    return (found + [f"{name}: see the log"] * number)[:number]


def count_unittest(name, done):
    text = "\n".join(done.err)
    ran = re.search(r"^Ran (\d+) tests?", text, re.M)
    bad = re.findall(r"^(?:FAIL|ERROR): (\S+)", text, re.M)
    left = re.search(r"skipped=(\d+)", text)
    # Told one by one only with -v.
    why = re.findall(r"^(?:\S+ \()?([^\s()]+)\)? \.\.\. skipped (.*)$", text, re.M)
    skipped = [f"{name}: {test}: {reason}" for test, reason in why]
    skipped += [f"{name}: see the log"] * ((int(left[1]) if left else 0) - len(skipped))
    count = Count(failed=bad, skipped=skipped)
    count.passed = max(0, (int(ran[1]) if ran else 0) - len(bad) - len(count.skipped))
    if done.code != 0 and not bad:
        count.failed.append(done.why(name))
    if count.failed:
        show_tail(done)
    return count


# Who reads the manual pages and the completions; where one is missing its tests say so.
READERS = ["man-db", "groff-base", "mandoc", "zsh", "fish"]


def part_outside():
    """Other people's programs on what is shipped beside the binaries: Debian's Prometheus and journald on
    the rules, the catalog, and a guard that they ask; mandoc and the shells; the schemas of Kubernetes."""
    name = "tests/outside"
    missing = [package for package in READERS if not is_installed(package)]
    if missing and may_install():
        install(missing, 600)
    words = [sys.executable, "-m", "unittest", "discover", "-v"]
    env = {"NBGUARD_BIN_DIR": str(FOUND["binaries"])} if "binaries" in FOUND else None

    def once_more(names):
        only = [word for one in names for word in ("-k", one.rsplit(" ", 1)[-1])]
        again_name = f"{name} again"
        return count_outside(again_name, run(again_name, [*words, *only, "tests/outside"], 900, env=env))

    return again(count_outside(name, run(name, [*words, "tests/outside"], 900, env=env)), once_more)


def count_outside(name, done):
    count = Count()
    for line in done.err:
        if test := re.match(r"(\w+) \(.*\) \.\.\. (ok|FAIL|ERROR|skipped '(.*)')$", line):
            if test[2] == "ok":
                count.passed += 1
            elif test[3]:
                count.skipped.append(f"{name}: {test[1]}: {test[3]}")
            else:
                count.failed.append(f"{name}: {test[1]}")
    if (done.code != 0 or done.late) and not count.failed:
        count.failed.append(done.why(name))
    if count.failed:
        show_tail(done)
    return count


def part_packages():
    """The packages: built twice, looked into, judged by lintian and rpmlint; the rpm's life in a root."""
    name = "tests/package"
    if "binaries" not in FOUND:
        return Count(skipped=[f"{name}: there are no release binaries"])
    done = run(name, [sys.executable, "-m", "unittest", "discover", "-v", "tests/package"], 900,
               env={"NBGUARD_BIN_DIR": str(FOUND["binaries"])})
    return count_outside(name, done)


def part_package_in_vm(guest="trixie"):
    """The deb on a booted Debian: installed, upgraded, downgraded, removed, purged."""
    name = f"package on {guest}"
    if why := no_guest():
        return Count(skipped=[f"{name}: {why}"])
    out = REPOSITORY / "target/package-test"
    done = run(name, ["packaging/build.sh", "--binaries", FOUND["binaries"], "--php", "none", "--out", out], 600)
    found = sorted(out.glob("nbguard_*.deb"))
    if done.code != 0 or not found:
        show_tail(done)
        return Count(failed=[done.why("packaging/build.sh")])
    done = run(name, [sys.executable, "tests/vm/package", "--guest", guest, "--log", LOGS / f"package-{guest}",
                      found[0]], 1500, show=lambda line: line if line.startswith("vm:") else None)
    if done.code == VM_CANNOT_RUN:
        return Count(skipped=[f"{name}: " + done.last_word().removeprefix("vm: SKIPPED: ")])
    count = Count()
    for line in done.out:
        if line.startswith("{"):
            result = json.loads(line)
            if result["pass"]:
                count.passed += 1
            else:
                count.failed.append(f"{name}: {result['check']}: {result['wrong'][:1000]}")
    if done.code != 0 and not count.failed:
        show_tail(done)
        count.failed.append(done.why("tests/vm/package"))
    return count


def part_release():
    name = "cargo build --release"
    done = run(name, ["cargo", "build", "--release", "--bins", "--message-format=json"], 1800)
    for line in done.out:
        built = json.loads(line).get("executable") if line.startswith("{") else None
        if built and pathlib.Path(built).name == "nbguardd":
            FOUND["binaries"] = pathlib.Path(built).parent
    if done.code == 0 and "binaries" in FOUND:
        return Count(passed=1)
    # Its messages are JSON on the other channel.
    done.out = []
    show_tail(done)
    return Count(failed=[done.why(name)])


def part_demo():
    if "binaries" not in FOUND:
        return Count(skipped=["nbguard demo: there are no release binaries"])
    done = run("nbguard demo", [FOUND["binaries"] / "nbguard", "demo"], 180)
    if done.code == DEMO_CANNOT_RUN and not done.late:
        return Count(skipped=["nbguard demo: " + " ".join(line.strip() for line in done.err)[-500:]])
    if done.code == 0 and not done.late:
        for line in done.out[-12:]:
            print(f"    {line}", flush=True)
        return Count(passed=1)
    show_tail(done)
    return Count(failed=[done.why("nbguard demo")])


# Debian's browser, and what drives it.
BROWSER = ["chromium", "chromium-driver"]


def part_page():
    """The status page in a real browser. Each check is a test."""
    name = "status page"
    have = shutil.which("chromium") and shutil.which("chromedriver")
    if not have and may_install():
        install(BROWSER, 900)
    words = [sys.executable, "tests/web/run"]
    if "binaries" in FOUND:
        words += ["--binaries", FOUND["binaries"]]
    done = run(name, words, 900)
    if done.code == WEB_CANNOT_RUN:
        return Count(skipped=[f"{name}: " + done.last_word().removeprefix("web: SKIPPED: ")])
    count = Count()
    for line in done.out:
        if not line.startswith("{"):
            continue
        result = json.loads(line)
        if "skipped" in result:
            count.skipped.append(f"{name}: {result['check']}: {result['skipped']}")
        elif result["pass"]:
            count.passed += 1
        else:
            count.failed.append(f"{name}: {result['check']}: {result['wrong'][:500]}")
    if done.late or done.code not in (0, 1) or not (count.passed or count.failed):
        show_tail(done)
        count.failed.append(done.why("tests/web/run"))
    return count


def start_image():
    """The guest of the virtual machine, built while cargo builds."""
    FOUND["image"] = Command("guest image", [sys.executable, "tests/vm/run", "--image-only"],
                             show=lambda line: line if line.startswith("vm:") else None)


def part_image():
    """Waits for the guest. It counts nothing: the virtual machine's part says how it went."""
    done = FOUND["image"].wait(2400)
    if done.code == VM_CANNOT_RUN:
        FOUND["no_vm"] = done.last_word().removeprefix("vm: SKIPPED: ")
    elif done.code != 0:
        show_tail(done)
        say("  the virtual machine's part tries again")
    return Count()


def no_guest():
    """Why no guard can be tried in a virtual machine here, or None."""
    return FOUND.get("no_vm") or (None if "binaries" in FOUND else "there are no release binaries")


def part_vm(what, scenarios, guard="nbguard", guest=None, seconds=2700):
    """Scenarios in the virtual Docker host. Each is a test; with `--guard none` it only has to run.

    The CPU is emulated, on a machine that others load as well: a few that fail get one more try."""
    def once_more(names):
        failed = [one for one in scenarios if any(name.startswith(f"{what}: {one}: ") for name in names)]
        return play(f"{what} again", failed, guard, guest, seconds)

    return again(play(what, scenarios, guard, guest, seconds), once_more)


def play(what, scenarios, guard, guest, seconds):
    if why := no_guest():
        return Count(skipped=[f"{what}: {name}: {why}" for name in scenarios])
    words = [sys.executable, "tests/vm/run", "--guard", guard, "--log", LOGS / "vm",
             *(["--guest", guest] if guest else []), *[SCENARIOS / f"{name}.toml" for name in scenarios]]
    done = run(what, words, seconds, env={"NBGUARD_BIN_DIR": str(FOUND["binaries"])},
               show=lambda line: line if line.startswith("vm:") else None)
    (LOGS / f"{slug(what)}.json").write_text("".join(f"{line}\n" for line in done.out if line.startswith("{")))
    count = Count()
    left = list(scenarios)
    if done.code == VM_CANNOT_RUN:
        why = done.last_word().removeprefix("vm: SKIPPED: ")
        return Count(skipped=[f"{what}: {name}: {why}" for name in scenarios])
    for line in done.out:
        if not line.startswith("{"):
            continue
        result = json.loads(line)
        left.remove(result["scenario"])
        if "skipped" in result:
            count.skipped.append(f"{what}: {result['scenario']}: {result['skipped']}")
            continue
        wrong = "; ".join(result.get("wrong", [])) or result.get("broken", "")
        if "broken" in result or result["pass"] is False:
            count.failed.append(f"{what}: {result['scenario']}: {wrong[:1000]}")
        else:
            count.passed += 1
    if left:
        show_tail(done)
        count.failed += [f"{what}: {name}: no result; {done.why('tests/vm/run')}" for name in left]
    elif done.code not in (0, 1):
        count.failed.append(done.why(what))
    return count


def part_scenarios(what, names):
    """Scenarios with the guard; those that the table of guards has are its rows as well."""
    count = part_vm(what, names, seconds=3600)
    lines = [path for word in (what, f"{what} again") if (path := LOGS / f"{slug(word)}.json").exists()]
    if lines:
        count.add(compare("--minutes", "0", *(word for path in lines for word in ("--take", path))))
    return count


def part_peers():
    """What the table of guards lacks is played, and the README's copy of it written."""
    if why := no_guest():
        return Count(skipped=[f"table of guards: {why}"])
    return compare()


def compare(*words):
    return step("tests/vm/compare", ["tests/vm/compare", *words], 6 * 3600,
                env={"NBGUARD_BIN_DIR": str(FOUND["binaries"])},
                show=lambda line: line if line.startswith(("compare:", "vm:")) else None)


def part_fuzz(target):
    """Ten million runs or ten minutes of one target; a finding is a failure."""
    return step(f"fuzz {target}", ["tests/fuzz/run", "--record", target], 1800,
                show=lambda line: line if line.startswith("|") else None)


def fuzz_targets():
    return re.findall(r'^    \("(\w+)", ', (REPOSITORY / "tests/fuzz/targets/lib.rs").read_text(), re.M)


def batches():
    """Every scenario, those together that want the same boot."""
    sys.path.insert(0, str(SCENARIOS.parent))
    import scenario
    boots = {}
    for path in sorted(SCENARIOS.glob("*.toml")):
        boots.setdefault(scenario.boot_key(scenario.load(path)), []).append(path.stem)
    return [names[first:first + AT_ONCE] for names in boots.values() for first in range(0, len(names), AT_ONCE)]


# ---- which parts, and the result


def parts(options):
    """Name and work of each part, in the order in which they run."""
    yield "setup", part_setup
    if not options.quick:
        yield None, start_image
    yield "cargo fmt --check", part_format
    yield "cargo clippy", part_lints
    if options.all or has_cargo("deny"):
        yield "cargo deny", part_deny
    yield "unit and integration tests", part_tests
    yield "unittests of tests/vm", part_python
    yield "cargo build --release", part_release
    yield "packages", part_packages
    yield "Prometheus, the journal, manuals, Kubernetes", part_outside
    if not options.quick:
        yield "guest image", part_image
    yield "nbguard-jupyter", part_jupyter
    yield "PHP extension", part_php
    # From here on nothing else runs: these look at the clock.
    yield "nbguard demo", part_demo
    yield "status page in Chromium", part_page
    if options.all:
        os.environ["NBGUARD_CHURN_SECONDS"] = "600"
    # Of these only the long ones were left out before.
    for module in ALONE + (("faults", "errno") if options.all else ()):
        yield f"{module} tests", lambda module=module: part_alone(module)
    if options.quick:
        return
    yield "the package on a booted Debian", part_package_in_vm
    if not options.all:
        yield "Docker host in a VM", lambda: part_vm("vm", ONE_BOOT)
        return
    for names in batches():
        what = f"vm {names[0]} to {names[-1]}"
        yield what, lambda what=what, names=names: part_scenarios(what, names)
    yield "the table of guards", part_peers
    for guest in ("bookworm", "forky"):
        yield f"the package on {guest}", lambda guest=guest: part_package_in_vm(guest)
        yield f"Docker host in a VM, {guest}", \
            lambda guest=guest: part_vm(f"vm-{guest}", ONE_BOOT, guest=guest, seconds=5400)
    for target in fuzz_targets():
        yield f"fuzz {target}", lambda target=target: part_fuzz(target)


def run_part(name, work):
    """One part, whatever becomes of it."""
    started = time.monotonic()
    if time.monotonic() > FOUND["end"]:
        return Count(failed=[f"{name}: no time was left for it"])
    say(f"{name} …")
    try:
        count = work()
    except Interrupted:
        raise
    except Exception:
        traceback.print_exc(file=sys.stdout)
        count = Count(failed=[f"{name}: {sys.exc_info()[1]}"])
    say(f"{name}: {count} in {time.monotonic() - started:.0f} s")
    for why in count.skipped:
        print(f"    skipped: {why}", flush=True)
    for what in count.failed:
        print(f"    FAILED: {what}", flush=True)
    return count


# ---- what --all has behind it


def sources():
    """A hash of everything that is tested; None if something of it is not committed."""
    def git(*words):
        left_out = [f":!{path}" for path in NO_SOURCES]
        return subprocess.run(["git", *words, "--", ".", *left_out], cwd=REPOSITORY, capture_output=True)

    listed, changed = git("ls-files", "--stage"), git("status", "--porcelain")
    if listed.returncode != 0 or changed.returncode != 0 or changed.stdout:
        return None
    return hashlib.sha256(listed.stdout).hexdigest()


def passed_before(name, key):
    """What a part came to on the same sources, or None."""
    try:
        known = json.loads((PROOF / f"{slug(name)}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    if key is None or known["sources"] != key:
        return None
    say(f"{name}: passed on these sources at {known['at']}")
    return Count(passed=known["passed"], skipped=known["skipped"])


def keep(name, key, count):
    if key is None or count.failed or key != sources():
        return
    PROOF.mkdir(parents=True, exist_ok=True)
    (PROOF / f"{slug(name)}.json").write_text(json.dumps({
        "part": name, "sources": key, "at": time.strftime("%Y-%m-%d %H:%M"), "passed": count.passed,
        "skipped": count.skipped}, indent=1) + "\n")


def interrupt(*_):
    raise Interrupted


def main():
    parser = argparse.ArgumentParser(prog="tests/run", description="Runs every test of this tree.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="no virtual machine")
    which.add_argument("--all", action="store_true",
                       help="every scenario, the other guests, the table of guards, fuzzing: hours; goes on "
                            "where it was stopped")
    parser.add_argument("--part", action="append", default=[], metavar="NAME",
                        help="of --all only the parts whose name contains this; may be repeated")
    options = parser.parse_args()
    if options.part and not options.all:
        parser.error("--part wants --all")
    FOUND["end"] = BEGAN + WHOLE_RUN["all" if options.all else "default"] - RESERVE
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, interrupt)
    key = sources() if options.all else None
    if options.all and key is None:
        say("something is not committed: what passes is not kept")
    total = Count()
    try:
        for name, work in parts(options):
            if name is None:
                work()
                continue
            brings = name in BRING
            if options.part and not brings and not any(part in name for part in options.part):
                continue
            if not brings and (count := passed_before(name, key)):
                total.add(count)
                continue
            count = run_part(name, work)
            total.add(count)
            if not brings:
                keep(name, key, count)
            if name == "setup" and total.failed:
                break
    except Interrupted:
        total.failed.append("interrupted")
    finally:
        for command in list(RUNNING):
            command.stop()
    for what in total.failed:
        print(f"FAILED: {what}", flush=True)
    say(f"logs: {LOGS.relative_to(REPOSITORY)}")
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
