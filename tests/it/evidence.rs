//! What the victim was running: asked for at the warning step, by a child that may do whatever it
//! likes, and found in the record and in what the notebook is told.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nbguard::report::{Incident, Kind};
use nbguard::units::Bytes;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::binary;
use crate::daemon::{House, ground};
use crate::ground::{Ground, alone, eventually};
use crate::message::first;

/// Answers as `nbguard stack --json -- PID` does, of a notebook in its seventh cell.
const ANSWERS: &str = r#"
start=$(sed 's/.*) //' "/proc/$4/stat" | cut -d' ' -f20)
cat <<X
{"schema":1,"pid":$4,"start":$start,"runtime":"python","version":"3.11.2","script":null,
"request_uri":null,"memory":null,"state":"busy","cell":7,"threads":[{"id":$4,"name":null,
"main":true,"frames":[{"function":"merge","file":"/lib/pandas/frame.py","line":9,"address":""},
{"function":"<module>","file":"/tmp/ipykernel_1/2.py","line":3,"address":""}]}],
"watched":[],"took_us":9}
X"#;

struct Came {
    incident: Incident,
    told: String,
}

/// A kernel grows until it is ended, beside a daemon whose `nbguard` is this script.
fn kill_with(ground: &Ground, outcome: &str, script: &str) -> Came {
    let house = House::new(ground, &format!("evidence-{outcome}"));
    let bin = house.folder.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(binary("nbguardd"), bin.join("nbguardd")).unwrap();
    fs::write(bin.join("nbguard"), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(bin.join("nbguard"), fs::Permissions::from_mode(0o755)).unwrap();
    let container = house.container(ground, Bytes::mib(256));
    let _first = first(&container);
    let daemon = house.start(&bin.join("nbguardd"), &[]);
    let join: Vec<String> = container.procs().iter().map(|p| p.display().to_string()).collect();
    let (out, into): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let script = "for procs in $JOIN; do echo $$ > $procs; done; exec \
        python3 -c 'import time\nheld = []\nwhile True:\n    held.append(bytearray(4 << 20))\n    \
        held[-1][::4096] = b\"x\" * 1024\n    time.sleep(0.1)' \
        -m ipykernel_launcher -f kernel-00000000-0000-4000-8000-000000000000.json";
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("JOIN", join.join(" ")).env("JPY_PARENT_PID", "1");
    let mut kernel = command.stdin(Stdio::null()).stderr(into).spawn().unwrap();
    // The command holds the end to write until it is dropped.
    drop(command);
    let mut told = String::new();
    File::from(out).read_to_string(&mut told).unwrap();
    kernel.wait().unwrap();
    let incident = house.record("a kill", |incident| incident.kind == Kind::Kill);
    assert_eq!(incident.victim.as_ref().unwrap().pid, kernel.id());
    // What it waits for it may wait for longer than the notebook lives.
    eventually(&format!("nbguard_stacks_total counts {outcome}"), || {
        let mut metrics = String::new();
        let mut socket = UnixStream::connect(house.folder.path("http.sock")).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        socket.read_to_string(&mut metrics).unwrap();
        counts(&metrics, outcome).then_some(())
    });
    assert!(daemon.stop().success());
    Came { incident, told }
}

fn counts(metrics: &str, outcome: &str) -> bool {
    let line = format!("nbguard_stacks_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().any(|text| text.strip_prefix(&line).is_some_and(|count| count != "0"))
}

#[test]
fn the_record_and_the_notebook_say_what_it_was_running() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let came = kill_with(&ground, "ok", ANSWERS);
    assert_eq!(
        came.incident.stack,
        ["merge /lib/pandas/frame.py:9", "<module> /tmp/ipykernel_1/2.py:3"]
    );
    let age = came.incident.timings.stack_to_decision_us.unwrap();
    println!("{age} µs old\n{}", came.told);
    assert!((1..60_000_000).contains(&age), "{age}");
    let lines: Vec<&str> = came.told.lines().collect();
    assert_eq!(lines.len(), 3, "{}", came.told);
    for line in lines {
        assert!(line.contains("MiB while running `merge` in cell 7"), "{line}");
    }
}

/// Whatever it does, the notebook is warned and ends as it would without.
#[test]
fn a_program_that_does_not_answer_costs_nothing_but_the_stack() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    for (outcome, script) in [
        ("timed-out", "trap '' TERM INT HUP; sleep 300 & while :; do sleep 100; done"),
        ("too-long", "exec yes '{\"pid\":1}'"),
        ("malformed", "head -c 5000 /dev/urandom"),
        ("failed", "kill -9 $$"),
    ] {
        let came = kill_with(&ground, outcome, script);
        assert_eq!(came.incident.stack, [] as [&str; 0], "{outcome}");
        assert_eq!(came.incident.timings.stack_to_decision_us, None);
        assert_eq!(came.told.lines().count(), 3, "{outcome}: {}", came.told);
        assert!(!came.told.contains("running `") && !came.told.contains(" ."), "{}", came.told);
        let decided = came.incident.timings.event_to_decision_us.unwrap();
        assert!(decided < 1_000_000, "{outcome}: {decided} µs: it was waited for");
    }
}
