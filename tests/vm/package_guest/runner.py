"""Runs in the guest: the life of the package, from installation to purge, beside a container.

Each check is one function; they run in their order, on the same machine, and each says what is wrong
or nothing. What one leaves is what the next finds.
"""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import time
import traceback

import groups
import lab

RESULTS = "/dev/ttyS1"
OLD, NEW = "/opt/vm/old.deb", "/opt/vm/new.deb"
UNIT = "nbguard.service"
CONF = pathlib.Path("/etc/nbguard/nbguard.toml")
LISTEN = pathlib.Path("/etc/nbguard/conf.d/listen.toml")
DROP_INS = pathlib.Path(f"/etc/systemd/system/{UNIT}.d")
BAD = pathlib.Path("/etc/nbguard/conf.d/bad.toml")
# Of the unit: CAP_KILL, CAP_SYS_PTRACE, CAP_DAC_OVERRIDE, CAP_SYS_RESOURCE.
CAPABILITIES = 1 << 5 | 1 << 19 | 1 << 1 | 1 << 24
# Emulated, and right after dpkg.
PATIENCE = 40
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def run(*words, check=True):
    return lab.run(list(words), 180, check=check)


def show(what):
    return run("systemctl", "show", "-P", what, UNIT).strip()


def until(what, see, seconds=PATIENCE):
    """Waits until it is so; else says what it was last."""
    end = time.monotonic() + seconds
    while True:
        seen = see()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}; {diagnosis()}")
        time.sleep(0.2)


def start_after_failure():
    # On a fast machine it may be the sixth start within a minute (StartLimitBurst=).
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "start", UNIT)
    active()
    guarded()


def diagnosis():
    status = run("systemctl", "--no-pager", "-l", "status", UNIT, check=False)
    return status[-1500:]


class Lab:
    """The container that is guarded."""

    cgroup = None

    @classmethod
    def start(cls):
        lab.import_image()
        identity = run("docker", "run", "-d", "--name", "lab", "-m", "256m", "--network", "none", "-v", "/usr:/usr:ro",
                       "-v", "/etc:/etc:ro", lab.IMAGE, "/usr/bin/sleep", "100000").strip()
        for folder, below, _ in os.walk(groups.MEMORY):
            if f"docker-{identity}.scope" in below:
                cls.cgroup = pathlib.Path(folder) / f"docker-{identity}.scope"
        assert cls.cgroup, "the container has no scope"

    @classmethod
    def high(cls):
        return (cls.cgroup / "memory.high").read_text().strip()


def guarded():
    until("the tripwire stands", lambda: Lab.high() != "max")


def left_alone():
    until("the tripwire is lifted", lambda: Lab.high() == "max")


def journal():
    return run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)


def opened(process):
    """What its descriptors are; it opens and closes some while they are looked at."""
    folder = pathlib.Path(f"/proc/{process}/fd")
    found = []
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(folder / descriptor))
    return found


def pid():
    return int(show("MainPID"))


def active():
    until("the unit is active", lambda: show("ActiveState") == "active")


@check
def it_is_installed_enabled_and_started():
    assert Lab.high() == "max", Lab.high()
    run("dpkg", "-i", OLD)
    active()
    assert show("UnitFileState") == "enabled", show("UnitFileState")
    guarded()
    for path in ("/run/nbguard/notebook/nbguard.sock", "/run/nbguard/http.sock", "/var/lib/nbguard",
                 "/usr/share/nbguard/grafana/nbguard.json"):
        assert os.path.exists(path), path
    assert os.stat("/run/nbguard/notebook").st_mode & 0o777 == 0o755
    assert os.stat("/run/nbguard/trace").st_mode & 0o777 == 0o711


@check
def it_is_locked_down_and_lacks_nothing():
    status = pathlib.Path(f"/proc/{pid()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapBnd"], 16) == CAPABILITIES, fields["CapBnd"]
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"), fields
    assert int(fields["VmLck"].split()[0]) > 0, "memory is not locked"
    score = pathlib.Path(f"/proc/{pid()}/oom_score_adj").read_text().strip()
    assert score == "-900", score
    warnings = run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT, "-p", "warning").strip()
    assert not warnings.replace("-- No entries --", ""), warnings
    ps = json.loads(run("nbguard", "ps", "--json"))
    modes = {one["name"]: one["mode"] for one in ps["containers"]}
    assert modes.get("lab", "").startswith("high"), modes


@check
def systemd_gives_it_what_its_version_has():
    version = int(run("systemctl", "--version").split()[1])
    assert show("Type") == ("notify-reload" if version >= 253 else "notify"), show("Type")


@check
def the_drop_ins_open_what_they_say():
    def may():
        with open("/proc/net/tcp") as file:
            listens = ":2673 " in file.read()  # 9843
        return "/dev/kmsg" in opened(pid()), listens

    LISTEN.write_text("[http]\nlisten = \"127.0.0.1:9843\"\n")
    run("systemctl", "restart", UNIT)
    assert may() == (False, False), may()
    until("it says what it lacks", lambda: "network.conf" in journal())
    DROP_INS.mkdir(parents=True)
    for name in ("network.conf", "kernel-log.conf"):
        shutil.copy(f"/usr/share/nbguard/systemd/{name}", DROP_INS)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", UNIT)
    active()
    assert may() == (True, True), may()
    shutil.rmtree(DROP_INS)
    LISTEN.unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", UNIT)
    guarded()


@check
def a_reload_takes_a_good_configuration_and_refuses_a_bad_one():
    before = pid()
    BAD.write_text("[default]\nthreshold = \"85%\"\n")
    run("systemctl", "reload", UNIT)
    until("it is in use", lambda: journal().count("configuration read again") == 1)
    BAD.write_text("[default]\nthreshhold = 1\n")
    done = subprocess.run(["systemctl", "reload", UNIT], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, "a bad configuration was taken"
    until("the journal says why", lambda: "threshhold" in journal())
    active()
    assert pid() == before
    guarded()


@check
def what_cannot_start_says_why_and_does_not_flap():
    # With the bad configuration that the last check left.
    subprocess.run(["systemctl", "restart", UNIT], capture_output=True, timeout=60)
    until("it has failed", lambda: show("ActiveState") == "failed")
    time.sleep(2)
    assert (show("NRestarts"), show("ExecMainStatus")) == ("0", "3"), diagnosis()
    left_alone()
    BAD.unlink()
    start_after_failure()


@check
def a_crash_lifts_no_tripwire():
    before = pid()
    assert before, diagnosis()
    os.kill(before, signal.SIGKILL)
    end = time.monotonic() + 15
    while time.monotonic() < end and pid() in (0, before):
        assert Lab.high() != "max", "lifted in front of whoever is held back"
    active()
    assert show("NRestarts") == "1", show("NRestarts")
    guarded()


@check
def when_restarts_are_exhausted_everything_is_put_back():
    run("systemctl", "reset-failed", UNIT)
    end = time.monotonic() + 55
    while show("ActiveState") != "failed" and time.monotonic() < end:
        if now := pid():
            os.kill(now, signal.SIGKILL)
        time.sleep(0.3)
    until("it has failed", lambda: show("ActiveState") == "failed")
    left_alone()
    until("the restoring unit is done", lambda: run(
        "systemctl", "show", "-P", "ActiveState", "nbguard-restore.service").strip() == "inactive")
    result = run("systemctl", "show", "-P", "Result", "nbguard-restore.service").strip()
    assert result == "success", run("journalctl", "--no-pager", "-u", "nbguard-restore.service")
    start_after_failure()


@check
def an_upgrade_keeps_what_the_administrator_changed():
    CONF.write_text(CONF.read_text().replace("[default]\n", "[default]\nthreshold = \"85%\"\n", 1))
    changed, before = CONF.read_text(), pid()
    run("dpkg", "--force-confdef", "--force-confold", "-i", NEW)
    active()
    assert pid() != before, "the old daemon still runs"
    assert CONF.read_text() == changed
    assert os.path.exists(f"{CONF}.dpkg-dist"), os.listdir(CONF.parent)
    guarded()


@check
def a_downgrade_works_as_an_upgrade_does():
    changed = CONF.read_text()
    run("dpkg", "--force-confdef", "--force-confold", "-i", OLD)
    active()
    assert CONF.read_text() == changed
    assert "0.0.1" in run("dpkg-query", "-W", "-f", "${Version}", "nbguard")
    guarded()


@check
def an_upgrade_does_not_start_what_was_stopped_and_disabled():
    run("systemctl", "disable", "--now", UNIT)
    left_alone()
    run("dpkg", "--force-confdef", "--force-confold", "-i", NEW)
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "disabled"), diagnosis()
    run("systemctl", "enable", "--now", UNIT)
    guarded()


@check
def removing_it_puts_everything_back():
    run("dpkg", "-r", "nbguard")
    assert Lab.high() == "max", Lab.high()
    assert CONF.exists()
    assert not os.path.exists("/usr/sbin/nbguardd")
    assert subprocess.run(["pgrep", "-x", "nbguardd"]).returncode != 0
    assert run("docker", "inspect", "-f", "{{.State.Running}}", "lab").strip() == "true"


@check
def it_comes_back():
    run("dpkg", "-i", NEW)
    active()
    assert show("UnitFileState") == "enabled", show("UnitFileState")
    guarded()


@check
def a_purge_leaves_nothing():
    run("dpkg", "-P", "nbguard")
    assert Lab.high() == "max", Lab.high()
    found = run("find", "/", "-xdev", "(", "-path", "/opt/vm", "-o", "-path", "/proc", "-o", "-path", "/sys", "-o",
                "-path", "/var/log", "-o", "-path", "/var/lib/docker", ")", "-prune", "-o", "-iname", "*nbguard*", "-print")
    found += run("find", "/run", "-xdev", "-iname", "*nbguard*", check=False)
    # The unit that runs this test, and what systemd keeps of units in memory.
    left = [line for line in found.splitlines()
            if "nbguard-vm" not in line and not line.startswith(("/run/log", "/run/systemd/units"))]
    assert not left, left
    assert "nbguard" not in run("systemctl", "list-units", "--all", "--plain", "--no-legend", "nbguard.service"), "unit"


def main():
    subprocess.run(["stty", "-F", RESULTS, "raw", "-echo"], check=True)
    with open(RESULTS, "w") as port:
        def tell(**facts):
            port.write(json.dumps(facts) + "\n")
            port.flush()

        tell(type="hello", kernel=platform.release())
        try:
            Lab.start()
        except Exception:
            tell(type="broken", text=traceback.format_exc()[-2000:])
            return
        for function in CHECKS:
            began, wrong = time.monotonic(), None
            try:
                function()
            except AssertionError as error:
                wrong = str(error)[:2000] or traceback.format_exc()[-800:]
            except Exception:
                wrong = f"{traceback.format_exc()[-1200:]}\n{diagnosis()}"
            tell(type="check", name=function.__name__.replace("_", " "), wrong=wrong,
                 seconds=round(time.monotonic() - began, 1))
        said = run("journalctl", "--no-pager", "-b", "-u", "nbguard*", check=False)
        tell(type="log", name="journal", text=said[-60_000:])
        tell(type="end")


if __name__ == "__main__":
    main()
