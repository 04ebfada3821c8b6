//! `nbguard trace` against a stand-in for the tracer: what is shown, and that whatever ends the
//! command, nothing stays switched on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use trace_layout::record::{FAILED, INTERNAL};
use trace_layout::switch::{ENTRY, EntryValue, entry_offset};
use trace_layout::{Kind, Record, Tracing, UNKNOWN, Writer, parse_header};

use crate::ground::eventually;
use crate::tracer::{Tracer, path_of, start_of};
use crate::{binary, schema, skip};

/// A trace directory of the test's own, and a process to trace.
struct Stage {
    dir: PathBuf,
    process: Child,
}

impl Stage {
    fn new(name: &str) -> Stage {
        Stage::with(name, Command::new("sleep").arg("600"))
    }

    fn with(name: &str, command: &mut Command) -> Stage {
        let dir = std::env::temp_dir().join(format!("nbg-cli-trace-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        Stage { dir: dir.canonicalize().unwrap(), process }
    }

    fn trace_dir(&self) -> PathBuf {
        self.dir.join("trace")
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn tracer(&self, step: impl FnMut(&mut Writer) -> bool + Send + 'static) -> Tracer {
        Tracer::of(self.pid(), &self.trace_dir(), 1024, step)
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(binary("nbguard"));
        command.arg("trace").arg("--dir").arg(self.trace_dir()).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The command on the stage's process.
    fn trace(&self, options: &[&str]) -> Command {
        let mut command = self.command(&[&self.pid().to_string()]);
        command.args(options);
        command
    }

    fn entry(&self) -> EntryValue {
        let mut bytes = [0; ENTRY];
        let table = File::open(self.trace_dir().join("switch")).unwrap();
        table.read_exact_at(&mut bytes, entry_offset(self.pid())).unwrap();
        EntryValue::from_bytes(&bytes)
    }

    fn is_on(&self) -> bool {
        self.trace_dir().join("switch").exists()
            && self.entry().is_on(start_of(self.pid()), nbguard::trace::now())
    }

    /// What the tracer says of itself, once there is one.
    fn tracing(&self) -> Option<Tracing> {
        let mut page = [0; 4096];
        let file = File::open(path_of(&self.trace_dir(), self.pid())).ok()?;
        file.read_exact_at(&mut page, 0).ok()?;
        Some(parse_header(&page).ok()?.tracing)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

fn call(writer: &mut Writer, number: u64, depth: u16, function: &[u8], line: u32) {
    writer.record(&Record {
        call: number,
        depth,
        function,
        file: b"/srv/block.php",
        line,
        values: b"'a'",
        time: nbguard::trace::now(),
        ..Record::new(Kind::Enter)
    });
}

fn end(writer: &mut Writer, number: u64, depth: u16, wall: u64, values: &[u8], flags: u8) {
    writer.record(&Record {
        call: number,
        depth,
        wall,
        cpu: UNKNOWN,
        memory: 2048,
        values,
        flags,
        time: nbguard::trace::now(),
        ..Record::new(Kind::Leave)
    });
}

/// run calls say, which calls opendir, which fails; once.
fn block(writer: &mut Writer) -> bool {
    writer.record(&Record {
        file: b"/srv/block.php",
        values: b"/shop",
        time: nbguard::trace::now(),
        ..Record::new(Kind::Request)
    });
    call(writer, 1, 0, b"run", 10);
    call(writer, 2, 1, b"say", 3);
    call(writer, 3, 2, b"opendir", 6);
    end(writer, 3, 2, 2_000_000, b"false", FAILED | INTERNAL);
    end(writer, 2, 1, 70_000_000, b"null", 0);
    end(writer, 1, 0, 90_000_000, b"'x'", 0);
    false
}

const TREE: &str = "\
--- request /shop  /srv/block.php
run('a')  /srv/block.php:10
  say('a')  /srv/block.php:3
    opendir('a') = false  <2.0 ms, +2.0 KiB>  /srv/block.php:6
  = null  <70.0 ms, +2.0 KiB>  say
= 'x'  <90.0 ms, +2.0 KiB>  run
";

#[test]
fn a_tree_is_shown_and_nothing_is_left_on() {
    let stage = Stage::new("tree");
    let _tracer = stage.tracer(block);
    let output = stage.trace(&["--for", "600ms"]).output().unwrap();
    let (out, err) = text(&output);
    assert_eq!((out.as_str(), output.status.code()), (TREE, Some(0)), "{err}");
    assert!(!stage.is_on());
    assert_eq!(stage.entry().flags, 0);
}

#[test]
fn only_failed_or_slow_calls_are_shown_and_a_limit_ends_it() {
    for (options, expected) in [
        (&["--failed"][..], &["opendir('a') = false  <2.0 ms, +2.0 KiB>  /srv/block.php:6"][..]),
        (&["--slower", "75ms"], &["run('a') = 'x'  <90.0 ms, +2.0 KiB>  /srv/block.php:10"]),
        (
            &["--filter", "s?y", "--slower", "1ms"],
            &["say('a') = null  <70.0 ms, +2.0 KiB>  /srv/block.php:3"],
        ),
        (&["--limit", "1"], &["--- request /shop  /srv/block.php", "run('a')  /srv/block.php:10"]),
    ] {
        let stage = Stage::new(&format!("only{}", options[0]));
        let _tracer = stage.tracer(block);
        let output = stage.trace(options).args(["--for", "600ms"]).output().unwrap();
        let (out, err) = text(&output);
        assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{options:?} {err}");
    }
}

#[test]
fn a_summary_is_by_function_and_a_file_is_printed_again() {
    let stage = Stage::new("data");
    let _tracer = stage.tracer(block);
    let data = stage.dir.join("a.data");
    let data = data.to_str().unwrap();
    let output = stage.trace(&["--for", "600ms", "-o", data]).output().unwrap();
    assert_eq!((text(&output).0.as_str(), output.status.code()), ("", Some(0)));
    let read = |options: &[&str]| {
        let output = stage.command(&["--read", data]).args(options).output().unwrap();
        (text(&output), output.status.code())
    };
    assert_eq!(read(&[]), ((TREE.to_owned(), String::new()), Some(0)));
    let ((summary, _), _) = read(&["--summary"]);
    let words: Vec<Vec<&str>> = summary.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0][..4], ["FUNCTION", "CALLS", "FAILED", "TOTAL"]);
    assert_eq!(words[1][..7], ["say", "1", "0", "70.0", "ms", "68.0", "ms"]);
    assert_eq!(words[2][..7], ["run", "1", "0", "90.0", "ms", "20.0", "ms"]);
    assert_eq!(words[3][..7], ["opendir", "1", "1", "2.0", "ms", "2.0", "ms"]);
    let mut bytes = fs::read(data).unwrap();
    bytes.truncate(bytes.len() - 20);
    fs::write(data, &bytes).unwrap();
    let ((out, err), code) = read(&[]);
    assert!(TREE.starts_with(&out) && err.contains("ends in the midst"), "{out} {err}");
    assert_eq!(code, Some(1));
    fs::write(data, "something else, and longer than a header").unwrap();
    let ((_, err), code) = read(&[]);
    assert!(err.contains("no trace of nbguard") && code == Some(1), "{err}");
}

#[test]
fn programs_get_lines_that_their_schema_knows() {
    let stage = Stage::new("json");
    let _tracer = stage.tracer(block);
    let output = stage.trace(&["--json", "--for", "600ms"]).output().unwrap();
    let (out, err) = text(&output);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 7, "{out}{err}");
    for line in &lines {
        schema::check("trace", line);
    }
    assert_eq!(lines[1]["function"], "run");
    assert_eq!((&lines[4]["returned"], &lines[4]["failed"]), (&"false".into(), &true.into()));
    let data = stage.trace(&["--json", "--summary", "--for", "300ms"]).output().unwrap();
    schema::check("trace", &serde_json::from_str(text(&data).0.trim()).unwrap());
}

/// What the tool shows, and what it says it missed, is what the tracer wrote.
#[test]
fn what_is_overwritten_is_counted_exactly() {
    let stage = Stage::new("lost");
    let mut number = 0;
    let tracer = stage.tracer(move |writer| {
        for _ in 0..3000 {
            number += 1;
            call(writer, number, 0, b"f", 1);
        }
        number < 600_000
    });
    let output = stage.trace(&["--json", "--for", "4s"]).output().unwrap();
    let (out, err) = text(&output);
    let written = tracer.end();
    let (mut seen, mut lost) = (0, 0);
    for line in out.lines() {
        if line.contains("\"type\":\"enter\"") {
            seen += 1;
        } else {
            let line: Value = serde_json::from_str(line).unwrap();
            schema::check("trace", &line);
            lost += line["count"].as_u64().unwrap_or(0);
        }
    }
    // Those that came while it was switched off are nobody's.
    assert!(written - (seen + lost) <= 3000, "{written} written, {seen} seen, {lost} lost");
    if written == 600_000 {
        assert_eq!(seen + lost, written, "{err}");
    }
    assert!(output.status.success(), "no record was torn: {err}");
    assert!(lost > 0, "a ring of 1,024 holds no 3,000");
    assert!(err.contains("overwritten"), "{err}");
}

fn wait_on(stage: &Stage) {
    eventually("switched on", || stage.is_on().then_some(()));
}

#[test]
fn a_signal_switches_off() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let stage = Stage::new(&format!("signal-{signal}"));
        let _tracer = stage.tracer(block);
        let tool = stage.trace(&[]).spawn().unwrap();
        eventually("traced", || (stage.tracing() == Some(Tracing::On)).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        kill(Pid::from_raw(tool.id().cast_signed()), signal).unwrap();
        let output = tool.wait_with_output().unwrap();
        let (out, err) = text(&output);
        assert_eq!((out.as_str(), output.status.code()), (TREE, Some(0)), "{signal}: {err}");
        assert_eq!(stage.entry().flags, 0);
    }
}

#[test]
fn a_killed_tool_leaves_tracing_off_within_its_period() {
    let stage = Stage::new("killed");
    let _tracer = stage.tracer(block);
    let mut tool = stage.trace(&["--period", "1s"]).spawn().unwrap();
    eventually("traced", || (stage.tracing() == Some(Tracing::On)).then_some(()));
    // It lives longer than a period: it beats.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(stage.tracing(), Some(Tracing::On));
    tool.kill().unwrap();
    tool.wait().unwrap();
    let killed = Instant::now();
    assert!(stage.entry().flags != 0, "nobody wrote the switch");
    eventually("the tracer turns itself off", || {
        (stage.tracing() == Some(Tracing::OffStale)).then_some(())
    });
    assert!(killed.elapsed() < Duration::from_millis(1600), "{:?}", killed.elapsed());
    // The next one is let in: nobody holds the entry.
    let output = stage.trace(&["--for", "300ms"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output).1);
}

#[test]
fn nobody_reading_any_more_switches_off() {
    let stage = Stage::new("pipe");
    let _tracer = stage.tracer(block);
    let mut tool = stage.trace(&[]).spawn().unwrap();
    let mut out = BufReader::new(tool.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("/shop"), "{line}");
    // Nothing more is written: it is the pipe alone that tells.
    drop(out);
    assert_eq!(tool.wait().unwrap().code(), Some(0));
    assert_eq!(stage.entry().flags, 0);
}

#[test]
fn the_end_of_the_process_and_another_program_are_told() {
    let mut stage = Stage::new("gone");
    let tracer = stage.tracer(block);
    let tool = stage.trace(&[]).spawn().unwrap();
    eventually("traced", || (stage.tracing() == Some(Tracing::On)).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    stage.process.kill().unwrap();
    stage.process.wait().unwrap();
    let output = tool.wait_with_output().unwrap();
    let (out, _) = text(&output);
    assert_eq!(out, format!("{TREE}--- the process has ended\n"));
    assert_eq!(output.status.code(), Some(0));
    drop(tracer);

    let mut stage = Stage::with("exec", Command::new("sh").args(["-c", "read x; exec sleep 600"]));
    let _tracer = stage.tracer(block);
    let tool = stage.trace(&[]).spawn().unwrap();
    let file = path_of(&stage.trace_dir(), stage.pid());
    eventually("file", || file.exists().then_some(()));
    drop(stage.process.stdin.take());
    let output = tool.wait_with_output().unwrap();
    let (out, _) = text(&output);
    assert!(out.ends_with("its tracer is gone with the old one\n"), "{out}");
    assert_eq!(stage.entry().flags, 0);
}

#[test]
fn switches_are_listed_kept_and_taken_away() {
    let stage = Stage::new("switches");
    let _tracer = stage.tracer(|_| false);
    let mut tool = stage.trace(&["--on"]).spawn().unwrap();
    wait_on(&stage);
    let pid = stage.pid().to_string();
    let row = eventually("listed", || {
        let output = stage.command(&["--list", "--json"]).output().unwrap();
        let list: Value = serde_json::from_str(text(&output).0.trim()).unwrap();
        let of = |row: &&Value| row["pid"].as_u64() == Some(u64::from(stage.pid()));
        list["processes"].as_array().unwrap().iter().find(of).cloned()
    });
    assert_eq!((&row["switch"], &row["activity"]), (&"on".into(), &"idle".into()));
    assert_eq!(row["by"].as_u64(), Some(u64::from(tool.id())));
    let (table, _) = text(&stage.command(&["--list"]).output().unwrap());
    assert!(table.lines().any(|line| line.starts_with(&pid) && line.contains("8.2.36")), "{table}");
    let second = stage.trace(&["--for", "1s"]).output().unwrap();
    let (_, err) = text(&second);
    assert!(err.contains("another tool traces it already"), "{err}");
    assert_eq!(second.status.code(), Some(1));
    let off = stage.trace(&["--off"]).output().unwrap();
    assert_eq!(text(&off).0, format!("{pid}: switched off\n"));
    assert_eq!(tool.wait().unwrap().code(), Some(0));
    let mut err = String::new();
    tool.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("somebody else switched it off"), "{err}");
    let off = stage.trace(&["--off"]).output().unwrap();
    assert_eq!(text(&off).0, format!("{pid}: was not on\n"));
}

#[test]
fn a_snapshot_is_the_stack_once() {
    let stage = Stage::new("snapshot");
    let _tracer = stage.tracer(|writer| {
        for (depth, function, line) in [(0, &b"sleep"[..], 6), (1, b"say", 3), (2, b"run", 10)] {
            writer.record(&Record {
                depth,
                function,
                file: b"/srv/block.php",
                line,
                ..Record::new(Kind::Snapshot)
            });
        }
        false
    });
    let output = stage.trace(&["--snapshot"]).output().unwrap();
    let (out, err) = text(&output);
    let expected =
        "[0] sleep /srv/block.php:6\n[1] say /srv/block.php:3\n[2] run /srv/block.php:10\n";
    assert_eq!((out.as_str(), output.status.code()), (expected, Some(0)), "{err}");
    assert_eq!(stage.entry().flags, 0);
}

#[test]
fn what_cannot_be_traced_is_said_with_its_code() {
    let stage = Stage::new("cannot");
    let output = stage.command(&["999999999"]).output().unwrap();
    let (_, err) = text(&output);
    assert!(err.contains("there is no such process"), "{err}");
    assert_eq!(output.status.code(), Some(1));
    // Nothing is loaded in it: said at once, and it is no success.
    let output = stage.trace(&["--for", "1500ms"]).output().unwrap();
    let (_, err) = text(&output);
    assert!(err.contains("no tracer is loaded in it"), "{err}");
    assert_eq!(output.status.code(), Some(1));
    for options in [&["--list", "1"][..], &[], &["1", "--on", "--off"], &["1", "--period", "1ms"]] {
        let output = stage.command(options).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}");
    }
    hostile(&stage);
    if nix::unistd::access("/root", nix::unistd::AccessFlags::W_OK).is_err() {
        return skip("another user's process: not root");
    }
    let dir = stage.trace_dir();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(binary("nbguard")).args(["trace", &stage.pid().to_string(), "--dir"]).arg(dir);
    let Ok(output) = command.output() else { return skip("no setpriv") };
    let (_, err) = text(&output);
    if err.contains("failed to execute") || err.contains("No such file") {
        return skip("the binary is not where others may run it");
    }
    assert!(err.contains("CAP_SYS_PTRACE"), "{err}");
    assert_eq!(output.status.code(), Some(4), "{err}");
}

#[test]
fn a_file_that_turns_bad_while_it_is_read_is_left_and_switched_off() {
    let at_head = trace_layout::header::AT_HEAD as u64;
    type Spoil = fn(&File);
    let spoilers: [(&str, &str, Spoil); 3] = [
        ("cut", "it is cut short", |file| file.set_len(4096 + 100).unwrap()),
        ("back", "its counter went back", |file| {
            file.write_all_at(&1u64.to_ne_bytes(), trace_layout::header::AT_HEAD as u64).unwrap();
        }),
        ("jump", "not what its number says", |file| {
            let at = trace_layout::header::AT_HEAD as u64;
            file.write_all_at(&(1u64 << 63).to_ne_bytes(), at).unwrap();
        }),
    ];
    for (name, expected, spoil) in spoilers {
        let stage = Stage::new(name);
        let tracer = stage.tracer(block);
        let tool = stage.trace(&[]).spawn().unwrap();
        eventually("traced", || (stage.tracing() == Some(Tracing::On)).then_some(()));
        std::thread::sleep(Duration::from_millis(200));
        // The mapping of a real one would end with SIGBUS: ours ends before.
        drop(tracer);
        let path = path_of(&stage.trace_dir(), stage.pid());
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut head = [0; 8];
        file.read_exact_at(&mut head, at_head).unwrap();
        assert_eq!(u64::from_ne_bytes(head), 7);
        spoil(&file);
        if name == "cut" {
            file.write_all_at(&99u64.to_ne_bytes(), at_head).unwrap();
        }
        let output = tool.wait_with_output().unwrap();
        let (out, err) = text(&output);
        assert!(out.starts_with(TREE) && out.contains(expected), "{name}: {out}{err}");
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert_eq!(stage.entry().flags, 0, "{name}");
    }
}

/// A file that somebody else put in the place of the tracer's.
fn hostile(stage: &Stage) {
    let path = path_of(&stage.trace_dir(), stage.pid());
    let put = |make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&path);
        make(&path);
        let output = stage.trace(&["--for", "2s"]).output().unwrap();
        (text(&output).1, output.status.code())
    };
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (err, code) = put(&fifo);
    assert!(err.contains("is no regular file") && code == Some(1), "{err}");
    let (err, code) = put(&|path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap());
    assert!(err.contains("symbolic link") && code == Some(1), "{err}");
    let (err, code) = put(&|path| fs::write(path, vec![b'x'; 8192]).unwrap());
    assert!(err.contains("no file of nbguard's tracer") && code == Some(1), "{err}");
    assert_eq!(stage.entry().flags, 0);
}
