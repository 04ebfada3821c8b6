//! Each command to its exit code, as a program calls it: `nbguard` and `nbguardd`, on files that
//! are made here. Nothing of this machine is changed, and no container of it is asked for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nbguard::cli::exit::Exit;
use nbguard::report::{Incident, Kind, SCHEMA};

use crate::{binary, root, skip};

/// Whom nobody is; on Debian and everywhere else.
const NOBODY: u32 = 65534;

/// What a command printed, and how it ended.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Said {
    said(Command::new(binary(program)).args(arguments))
}

fn said(command: &mut Command) -> Said {
    let done = command.stdin(Stdio::null()).env("NO_COLOR", "1").output().expect("it was built");
    Said {
        code: done.status.code(),
        out: String::from_utf8(done.stdout).expect("UTF-8"),
        err: String::from_utf8(done.stderr).expect("UTF-8"),
    }
}

impl Said {
    #[track_caller]
    fn ended(self, exit: Exit) -> Said {
        let (out, err) = (&self.out, &self.err);
        assert_eq!(self.code, Some(exit.code().into()), "{exit:?}\n{out}\n{err}");
        self
    }

    #[track_caller]
    fn printed(self, text: &str) -> Said {
        assert!(self.out.contains(text), "no {text:?} on standard output:\n{}", self.out);
        self
    }

    #[track_caller]
    fn complained(self, text: &str) -> Said {
        assert!(self.err.contains(text), "no {text:?} on standard error:\n{}", self.err);
        self
    }
}

/// A folder of its own, that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("nbguard-it-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the temporary folder takes files");
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn words<'a>(words: &[&'a str], path: &'a Path) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).chain([path.as_os_str()]).collect()
}

/// The public commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = run("nbguard", ["--help"]).ended(Exit::Ok).out;
    let list = help.split("Commands:\n").nth(1).expect("help lists the commands");
    let list = list.split("\n\n").next().unwrap_or_default();
    let named = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn help_and_version_are_no_failure() {
    for program in ["nbguard", "nbguardd"] {
        for flag in ["--help", "-h"] {
            run(program, [flag]).ended(Exit::Ok).printed("Usage:").printed("Exit codes:");
        }
        let version = format!("{program} {}", env!("CARGO_PKG_VERSION"));
        for flag in ["--version", "-V"] {
            run(program, [flag]).ended(Exit::Ok).printed(&version);
        }
    }
    let commands = commands();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        run("nbguard", [command, "--help"]).ended(Exit::Ok).printed("Examples:");
    }
}

#[test]
fn a_line_that_is_not_understood_ends_with_its_own_code() {
    run("nbguard", [] as [&str; 0]).ended(Exit::Usage);
    run("nbguard", ["nonsense"]).ended(Exit::Usage).complained("nonsense");
    run("nbguard", ["ps", "--jsno"]).ended(Exit::Usage).complained("--json");
    run("nbguard", ["incidents", "last", "--follow"]).ended(Exit::Usage);
    for command in commands().iter().filter(|command| *command != "help") {
        let wrong = run("nbguard", [command, "--no-such-option"]).ended(Exit::Usage);
        wrong.complained("--no-such-option");
    }
    for line in [&["--no-such-option"][..], &["--config"], &["file"]] {
        run("nbguardd", line).ended(Exit::Usage).complained("--help");
        run("nbguard", [&["daemon"], line].concat()).ended(Exit::Usage);
    }
}

#[test]
fn what_is_shipped_checks_without_a_word() {
    let shipped = root().join("conf/nbguard.toml");
    run("nbguard", words(&["check"], &shipped)).ended(Exit::Ok).printed("no errors");
    run("nbguard", words(&["check", "--config"], &shipped)).ended(Exit::Ok).printed("no errors");
}

#[test]
fn a_bad_configuration_is_told_with_its_place_and_has_its_own_code() {
    let folder = Folder::new("bad");
    let main = folder.file("nbguard.toml", "[default]\nthreshhold = \"90%\"\n");
    folder.file("conf.d/a.toml", "[record]\nkeep = \"many\"\n");
    let both = run("nbguard", words(&["check"], &main)).ended(Exit::Config);
    let both = both.printed("nbguard.toml:2:1").printed("threshold").printed("a.toml:2:8");
    both.printed("2 errors");
    let json = run("nbguard", words(&["check", "--json"], &main)).ended(Exit::Config);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["errors"].as_array().unwrap().len(), 2, "{report}");
    for (program, line) in [("nbguard", &["ps", "--config"][..]), ("nbguardd", &["--config"])] {
        run(program, words(line, &main)).ended(Exit::Config).complained("nbguard.toml:2:1");
    }
}

#[test]
fn a_configuration_that_is_named_and_not_there_is_an_error() {
    let nowhere = Path::new("/nonexistent/nbguard.toml");
    for (program, line) in [
        ("nbguard", &["check"][..]),
        ("nbguard", &["check", "--config"]),
        ("nbguard", &["ps", "--config"]),
        ("nbguardd", &["--config"]),
        ("nbguard", &["daemon", "--config"]),
    ] {
        run(program, words(line, nowhere)).ended(Exit::Config).complained("/nonexistent");
    }
}

#[test]
fn incidents_are_listed_told_and_passed_on_as_they_were_written() {
    let folder = Folder::new("incidents");
    let (kill, hold) = (incident("aaaa-1", Kind::Kill), incident("bbbb-2", Kind::Hold));
    let file = folder.file("incidents.jsonl", &format!("{kill}\nbroken\n{hold}\n"));
    let list = run("nbguard", words(&["incidents", "--file"], &file)).ended(Exit::Ok);
    list.printed("aaaa")
        .printed("bbbb")
        .complained("1 line could not be read, skipped: incidents.jsonl:2");
    let json = run("nbguard", words(&["incidents", "--json", "--file"], &file)).ended(Exit::Ok);
    assert_eq!(json.out, format!("{kill}\n{hold}\n"));
    let one = run("nbguard", words(&["incidents", "--json", "aaaa", "--file"], &file));
    assert_eq!(one.ended(Exit::Ok).out, format!("{kill}\n"));
    let last = run("nbguard", words(&["incidents", "last", "--file"], &file));
    last.ended(Exit::Ok).printed("bbbb-2").printed("because of the test");
    let none = run("nbguard", words(&["incidents", "cccc", "--file"], &file));
    none.ended(Exit::Wrong).complained("cccc");
    let nowhere = Path::new("/nonexistent/incidents.jsonl");
    run("nbguard", words(&["incidents", "--file"], nowhere)).ended(Exit::Ok);
}

#[test]
fn incidents_are_picked_by_time_container_notebook_and_kind() {
    let folder = Folder::new("picked");
    let (kill, hold) = (incident("aaaa-1", Kind::Kill), incident("bbbb-2", Kind::Hold));
    let file = folder.file("i.jsonl", &format!("{kill}\n\n{hold}\n{{\"cut"));
    let picked = |options: &[&str]| {
        let line = [&["incidents", "--json"], options, &["--file"]].concat();
        run("nbguard", words(&line, &file)).ended(Exit::Ok).complained("i.jsonl:4").out
    };
    let (kill, hold) = (format!("{kill}\n"), format!("{hold}\n"));
    assert_eq!(picked(&["--kind", "kill"]), kill);
    assert_eq!(picked(&["--kind", "hold,kernel-oom"]), hold);
    assert_eq!(picked(&["--since", "2026-11-22 10:00"]), kill.clone() + &hold);
    assert_eq!(picked(&["--since", "2026-11-23"]), "");
    assert_eq!(picked(&["--container", "lab"]), "", "they are of no container");
    assert_eq!(picked(&["--notebook", "a.ipynb"]), "");
    let last = run("nbguard", words(&["incidents", "last", "--kind", "kill", "--file"], &file));
    last.ended(Exit::Ok).printed("aaaa-1");
    let none = run("nbguard", words(&["incidents", "--container", "lab", "--file"], &file));
    none.ended(Exit::Ok).printed("None of the 2 incidents");
    for line in [&["--since", "yesterday"][..], &["--kind", "murder"]] {
        let line = [&["incidents"], line].concat();
        run("nbguard", &line).ended(Exit::Usage).complained(line[2]);
    }
}

#[test]
fn commands_for_the_daemon_say_that_there_is_none() {
    let folder = Folder::new("orders");
    let text = format!("[guard]\nstate_dir = {:?}\n", folder.0.display().to_string());
    let config = folder.file("nbguard.toml", &text);
    for line in [
        &["pause"][..],
        &["pause", "lab", "--for", "2h"],
        &["resume"],
        &["protect", "lab"],
        &["protect", "--list"],
        &["unprotect", "lab"],
    ] {
        let line = [line, &["--config"]].concat();
        run("nbguard", words(&line, &config)).ended(Exit::Wrong).complained("control.sock");
    }
    // Left behind by one that was killed.
    drop(std::os::unix::net::UnixListener::bind(folder.0.join("control.sock")).unwrap());
    let said = run("nbguard", words(&["pause", "--config"], &config)).ended(Exit::Wrong);
    said.complained("control.sock");
    for line in [
        &["protect"][..],
        &["protect", "lab", "--list"],
        &["protect", "lab", "--json"],
        &["protect", "lab", "--for", "2"],
        &["pause", "--for", "soon"],
        &["pause", "--for", "0s"],
        &["unprotect"],
        &["resume", "a", "b"],
    ] {
        run("nbguard", line).ended(Exit::Usage);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new("pipe");
    let file = folder.file("incidents.jsonl", &format!("{}\n", incident("aaaa-1", Kind::Kill)));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(binary("nbguard"));
    command.args(words(&["incidents", "--json", "--file"], &file)).stdout(writer);
    let done = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn restore_puts_back_what_is_noted_and_nothing_else() {
    let folder = Folder::new("restore");
    let nothing = folder.0.join("none.json");
    run("nbguard", words(&["restore", "--state"], &nothing)).ended(Exit::Ok);
    assert!(!nothing.exists());
    let broken = folder.file("broken.json", "{");
    run("nbguard", words(&["restore", "--state"], &broken)).ended(Exit::Wrong);
    // A group that is gone, and one that has its name but not its inode.
    let other = folder.file("group/memory.high", "1\n");
    let note = |inode: u64, dir: &Path| {
        serde_json::json!({ "id": "a".repeat(64), "inode": inode, "dir": dir, "unit": null,
                            "original": "max", "frozen": false })
    };
    let changed = [note(1, &folder.0.join("gone")), note(2, &folder.0.join("group"))];
    let state = serde_json::json!({ "version": 1, "changed": changed });
    let noted = folder.file("state.json", &state.to_string());
    let report = run("nbguard", words(&["restore", "--json", "--state"], &noted)).ended(Exit::Ok);
    let report: serde_json::Value = serde_json::from_str(&report.out).unwrap();
    let results: Vec<&str> = report["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["gone", "gone"]);
    assert_eq!(fs::read_to_string(other).unwrap(), "1\n");
}

#[test]
fn a_container_that_is_not_there_is_told() {
    let folder = Folder::new("ps");
    let config = folder.file("nbguard.toml", "");
    let line = words(&["ps", "--container", "no-such-container-here", "--config"], &config);
    let said = run("nbguard", line);
    if said.code == Some(Exit::CannotWork.code().into()) {
        return skip(said.err.trim());
    }
    said.ended(Exit::Wrong).complained("no-such-container-here");
}

#[test]
fn a_second_daemon_does_not_start() {
    let folder = Folder::new("second");
    let text = format!(
        "[guard]\nstate_dir = \"{0}\"\nlock_memory = false\n[record]\npath = \"{0}/i.jsonl\"\n",
        folder.0.display()
    );
    let config = folder.file("nbguard.toml", &text);
    let lock = File::create(folder.0.join("lock")).unwrap();
    lock.lock().unwrap();
    let said = run("nbguardd", words(&["--dry-run", "--config"], &config)).ended(Exit::CannotWork);
    if !said.err.contains("lock") {
        return skip(said.err.trim());
    }
    said.complained("another nbguardd");
}

#[test]
fn the_demo_says_what_is_missing_where_it_cannot_run() {
    let mut command = Command::new(binary("nbguard"));
    command.arg("demo").current_dir("/").stdin(Stdio::null());
    command.env("NO_COLOR", "1");
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        // The tree lies where only its owner may go.
        Err(error) => skip(error),
        Ok(done) => {
            let err = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.code(), Some(Exit::CannotWork.code().into()), "{err}");
            assert!(err.contains("cannot run here") && err.contains("root"), "{err}");
        }
    }
}

/// A record as the daemon writes it.
fn incident(id: &str, kind: Kind) -> String {
    let verdict = if kind == Kind::Kill { "kill" } else { "hold" };
    let value = serde_json::json!({
        "schema": SCHEMA, "id": id, "time": "2026-11-22T10:00:00.000Z", "host": "h", "kind": kind,
        "domain": "container", "container": null, "mode": "high+psi", "trigger": "high",
        "figures": { "usage": 1, "unreclaimable": 1, "anon": 1, "shmem": 0, "swap": null,
                     "total": 2, "limit": 2, "threshold": 1, "high": null,
                     "psi_some_avg10": null, "psi_full_avg10": null },
        "rows": [], "servers": [], "unattributed": { "count": 0, "memory": 0, "top": [] },
        "verdict": verdict, "reason": "largest", "sentence": "because of the test",
        "dry_run": false, "victim": null,
        "timings": { "event_to_decision_us": 1, "decision_to_signal_us": null,
                     "event_to_signal_us": null, "signal_to_dead_us": null,
                     "signal_to_back_us": null },
        "freed": null, "kernel_oom_kills": 0, "message": "skipped: off", "stack": [],
    });
    let text = value.to_string();
    serde_json::from_str::<Incident>(&text).expect("it is a whole record");
    text
}
