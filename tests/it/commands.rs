//! What commands make of the world: a record that grows, a captured host, this machine. Their
//! options and exit codes are in `cli`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::{binary, skip};

fn nbguard() -> Command {
    let mut command = Command::new(binary("nbguard"));
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

fn said(words: &[&str]) -> Output {
    nbguard().args(words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not ended by a signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("nbguard-it-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child that goes with the test, also when it fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const RECORD: &str = include_str!("../fixtures/incident.json");

fn record(id: &str) -> String {
    let mut value: Value = serde_json::from_str(RECORD).unwrap();
    value["id"] = id.into();
    format!("{value}\n")
}

#[test]
fn follow_goes_on_over_rotation_and_ends_with_its_reader() {
    let folder = Folder::new("follow");
    // Neither the file nor its folder is there yet.
    let file = folder.0.join("state/i.jsonl");
    let mut child = Running(
        nbguard()
            .args(["incidents", "--follow", "--json", "--file"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["id"].as_str().unwrap().to_owned()
    };
    fs::create_dir(file.parent().unwrap()).unwrap();
    append(&file, &record("one"));
    assert_eq!(next(), "one");
    append(&file, &record("two"));
    assert_eq!(next(), "two");
    fs::rename(&file, file.with_extension("jsonl.1")).unwrap();
    append(&file, &record("three"));
    assert_eq!(next(), "three");
    let (half, rest) = (record("four"), record("five"));
    append(&file, &half[..20]);
    append(&file, &half[20..]);
    append(&file, &rest);
    assert_eq!((next(), next()), ("four".to_owned(), "five".to_owned()));
    drop(lines);
    assert!(child.0.wait().unwrap().success(), "nobody listens any more");
}

fn append(file: &Path, text: &str) {
    let mut out = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    out.write_all(text.as_bytes()).unwrap();
}

/// Captured of a running demo, just before its notebook ended.
const CAPTURED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo-hybrid");

#[test]
fn ps_ranks_a_captured_host() {
    let output = said(&["ps", "--root", CAPTURED]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name} in:\n{text}"));
    assert!(at("growing.ipynb") < at("big-but-still.ipynb"));
    assert!(at("big-but-still.ipynb") < at("report.ipynb"));
    assert!(text.contains("v1-threshold") && text.contains("server, never ended"), "{text}");
    let output = said(&["ps", "--root", CAPTURED, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let container = &report["containers"][0];
    assert_eq!(container["name"], "nbguard-demo");
    let rows = container["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(container["would"]["end"], rows[0]["pid"]);
    assert_eq!(rows[0]["members"].as_array().unwrap().len(), 2, "its child ends with it");
    let id = container["id"].as_str().unwrap();
    for name in ["nbguard-demo", &id[..12]] {
        assert_eq!(code(&said(&["ps", "--root", CAPTURED, "--container", name])), 0);
    }
    let output = said(&["ps", "--root", CAPTURED, "--container", "nobody"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (1, ""));
}

#[test]
fn capture_writes_into_an_empty_directory_only() {
    let folder = Folder::new("capture");
    folder.put("there", "");
    let dir = folder.0.display().to_string();
    let output = said(&["capture", &dir]);
    assert!(matches!(code(&output), 1 | 4), "{}", stderr(&output));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn doctor_says_of_each_thing_how_it_stands() {
    let output = said(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_guard = report["can_guard"].as_bool().unwrap();
    assert_eq!(code(&output), i32::from(!can_guard));
    for check in report["checks"].as_array().unwrap() {
        let ok = check["status"] == "ok";
        assert_eq!(check["remedy"].is_null(), ok, "a remedy where one is needed: {check}");
    }
    let text = stdout(&said(&["doctor"]));
    assert!(text.lines().any(|line| line.starts_with("ok    pidfd")), "{text}");
}

#[test]
fn a_property_of_no_unit_is_a_failure() {
    let output = said(&["set-memory-high", "nbguard-no-such.scope=max", "nbguard-nor.slice=1"]);
    assert_eq!(code(&output), 1);
    // What the daemon reads.
    let why = "no such unit, or systemd cannot be asked";
    let lines = format!("nbguard-no-such.scope: {why}\nnbguard-nor.slice: {why}\n");
    assert_eq!(stdout(&output), lines);
}

/// On this machine's kernel, with the real daemon. One test, since a second demo would refuse to
/// run beside the first one's guard.
#[test]
fn the_demo_ends_the_right_one_and_leaves_nothing_behind() {
    let _machine = crate::ground::alone();
    let output = said(&["demo"]);
    if code(&output) == 4 {
        return skip(stderr(&output).trim());
    }
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}{}", stderr(&output));
    assert!(text.contains("ended     /home/jovyan/growing.ipynb"), "{text}");
    assert!(text.contains("The right notebook ended, alone"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert_eq!(left_behind(), Vec::<PathBuf>::new());

    let mut child = Running(nbguard().arg("demo").stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("all is calm")), "it is under way");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = child.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    assert_eq!(left_behind(), Vec::<PathBuf>::new());
}

fn left_behind() -> Vec<PathBuf> {
    let in_tmp = fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    in_tmp.filter(|path| path.to_string_lossy().contains("/nbguard-demo-")).collect()
}
