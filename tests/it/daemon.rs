//! The daemon as a child: configured for the containers of one test and no others, asked nothing
//! but what it writes (records, log) and what the kernel says of it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nbguard::report::{Incident, Kind};
use nbguard::sys::pidfd;
use nbguard::units::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::ground::{Container, Folder, Ground, PATIENCE, name, wait_readable};
use crate::{binary, skip};

/// The folder of one guard: its configuration, state, records, and what Docker would say.
#[derive(Debug)]
pub struct House {
    pub folder: Folder,
    tag: String,
    record: PathBuf,
    /// More lines of its section of that name.
    http: String,
}

impl House {
    pub fn new(ground: &Ground, name: &str) -> House {
        let folder = Folder::new(name);
        for below in ["state", "docker/containers"] {
            fs::create_dir_all(folder.path(below)).unwrap();
        }
        let record = folder.path("incidents.jsonl");
        let house = House { folder, tag: ground.tag.clone(), record, http: String::new() };
        house.configure("");
        house
    }

    /// Records go elsewhere.
    pub fn record_to(&mut self, path: &str) {
        self.record = PathBuf::from(path);
        self.configure("");
    }

    /// More lines for the section `[http]`.
    pub fn configure_http(&mut self, lines: &str) {
        lines.clone_into(&mut self.http);
        self.configure("");
    }

    /// Writes the configuration; `more` stands under the rule for this test's containers.
    pub fn configure(&self, more: &str) {
        let mut text = String::new();
        let path = |below: &str| self.folder.path(below).display().to_string();
        writeln!(text, "[guard]\nlog = \"debug\"\ndocker_socket = \"off\"").unwrap();
        writeln!(text, "docker_root = {:?}", path("docker")).unwrap();
        writeln!(text, "state_dir = {:?}", path("state")).unwrap();
        writeln!(text, "[record]\npath = {:?}", self.record.display().to_string()).unwrap();
        writeln!(text, "[http]\nsocket = {:?}", path("http.sock")).unwrap();
        writeln!(text, "notebook_socket = {:?}", path("notebook/nbguard.sock")).unwrap();
        writeln!(text, "{}", self.http).unwrap();
        writeln!(text, "[default]\nignore = true").unwrap();
        writeln!(text, "[[rule]]\nname = \"nb-{}*\"\nignore = false\n{more}", self.tag).unwrap();
        fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path("nbguard.toml")
    }

    /// A container that Docker has described before it made it.
    pub fn container(&self, ground: &Ground, limit: Bytes) -> Container {
        let id = ground.next_id();
        self.describe(&id, 0);
        ground.make(id, limit).unwrap()
    }

    /// The same with a first process that Docker knows: there is nothing more to be had.
    pub fn container_of(&self, ground: &Ground, limit: Bytes, first: &Child) -> Container {
        let id = ground.next_id();
        self.describe(&id, first.id());
        let container = ground.make(id, limit).unwrap();
        for procs in container.procs() {
            fs::write(procs, first.id().to_string()).unwrap();
        }
        container
    }

    /// What Docker writes of a container; 0: its first process has not started.
    pub fn describe(&self, id: &str, pid: u32) {
        let dir = self.folder.path("docker/containers").join(id);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "{{\"ID\":{id:?},\"Name\":\"/{}\",\"Config\":{{\"Image\":\"quay.io/jupyter/scipy-notebook\",\
             \"Labels\":{{\"tier\":\"test\"}},\"Env\":[\"PATH=/usr/bin\"]}},\
             \"State\":{{\"Running\":true,\"Pid\":{pid}}}}}",
            name(id)
        );
        fs::write(dir.join("config.v2.json"), text).unwrap();
    }

    pub fn forget(&self, container: &Container) {
        let dir = self.folder.path("docker/containers").join(&container.id);
        let _ = fs::remove_dir_all(dir);
    }

    /// Starts the daemon and returns when it says that it guards.
    pub fn start(&self, binary: &Path, arguments: &[&str]) -> Daemon {
        let mut daemon = self.spawn(binary, arguments);
        daemon.hear("READY=1");
        daemon
    }

    pub fn spawn(&self, binary: &Path, arguments: &[&str]) -> Daemon {
        self.spawn_through(&[], binary, arguments)
    }

    /// The same through another program, which becomes the daemon by exec.
    pub fn start_through(&self, words: &[&str], binary: &Path) -> Daemon {
        let mut daemon = self.spawn_through(words, binary, &[]);
        daemon.hear("READY=1");
        daemon
    }

    pub fn spawn_through(&self, words: &[&str], binary: &Path, arguments: &[&str]) -> Daemon {
        let socket = self.folder.path("notify");
        let _ = fs::remove_file(&socket);
        let ear = UnixDatagram::bind(&socket).unwrap();
        ear.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log_file()).unwrap();
        let mut command = match words {
            [] => Command::new(binary),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(binary);
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon { child, ear }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn records(&self) -> Vec<Incident> {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the files of this folder let `see` see something.
    pub fn wait<T>(&self, what: &str, mut see: impl FnMut(&House) -> Option<T>) -> T {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
        inotify.add_watch(&self.folder.0, mask).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = see(self) {
                return seen;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {PATIENCE:?}\n{}", self.log());
            wait_readable(&inotify, left);
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }

    /// The record that `is_it` picks, as soon as it is there.
    pub fn record(&self, what: &str, is_it: impl Fn(&Incident) -> bool) -> Incident {
        self.wait(what, |house| house.records().into_iter().find(&is_it))
    }

    /// Waits for a line of the log that contains `words`, after the first `from` bytes.
    pub fn told(&self, words: &str, from: usize) -> String {
        self.wait(words, |house| {
            let log = house.log();
            let line = log.get(from..)?.lines().find(|line| line.contains(words));
            line.map(str::to_owned)
        })
    }
}

/// A daemon that runs. Killed at the end if the test has not ended it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    ear: UnixDatagram,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a word to systemd: a line of one of its datagrams.
    pub fn hear(&mut self, word: &str) {
        self.hears(word, PATIENCE).unwrap();
    }

    /// The same.
    ///
    /// # Errors
    /// It has ended, or did not say it in time.
    pub fn hears(&mut self, word: &str, patience: Duration) -> Result<(), String> {
        let mut words = [0; 512];
        let glance = Duration::from_millis(200);
        self.ear.set_read_timeout(Some(glance)).unwrap();
        let until = Instant::now() + patience;
        loop {
            match self.ear.recv(&mut words) {
                Ok(len)
                    if words[..len].split(|b| *b == b'\n').any(|one| one == word.as_bytes()) =>
                {
                    return Ok(());
                }
                Ok(_) => {}
                // A child of another test has ended: with a time of its own `recv` is not resumed.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(ended) = self.child.try_wait().unwrap() {
                        return Err(format!("the daemon ended instead of saying {word}: {ended}"));
                    }
                }
                Err(e) => panic!("{e}"),
            }
            if Instant::now() >= until {
                return Err(format!("the daemon never said {word}"));
            }
        }
    }

    /// Has it read its configuration again, and waits until it has.
    pub fn reload(&mut self) {
        self.signal(libc::SIGHUP);
        self.hear("RELOADING=1");
        self.hear("READY=1");
    }

    pub fn signal(&self, signal: i32) {
        let fd = pidfd::open(self.pid()).unwrap();
        pidfd::send(fd.as_fd(), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        self.end_within(PATIENCE).expect("the daemon did not end")
    }

    pub fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        if let Some(status) = self.child.try_wait().unwrap() {
            return Some(status);
        }
        let fd = pidfd::open(self.pid()).unwrap();
        wait_readable(&fd, patience).then(|| self.child.wait().unwrap())
    }

    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.end()
    }

    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.end();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// A figure of `/proc/<pid>/status`, in its own unit.
    pub fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        number_of(&text, key)
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Processes whose `stat` it holds open.
    pub fn stat_files(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.filter(|path| path.starts_with("/proc") && path.ends_with("stat")).count()
    }

    /// Watches of its inotify descriptor (proc_pid_fdinfo(5)).
    pub fn watches(&self) -> usize {
        let dir = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).unwrap();
        let texts = dir.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        texts.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum()
    }

    /// Times that any of its threads went to sleep or was put to it.
    pub fn switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .flatten()
            .map(|task| {
                let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                number_of(&text, "voluntary_ctxt_switches")
                    + number_of(&text, "nonvoluntary_ctxt_switches")
            })
            .sum()
    }
}

fn number_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon as it ships: from `NBGUARD_BIN_DIR`, else where `cargo build --release` puts it.
///
/// # Errors
/// It is not there.
pub fn shipped() -> Result<PathBuf, String> {
    let binary = match std::env::var_os("NBGUARD_BIN_DIR") {
        Some(_) => crate::binary("nbguardd"),
        None => crate::binary("nbguardd").parent().unwrap().with_file_name("release/nbguardd"),
    };
    if binary.exists() {
        Ok(binary)
    } else {
        Err(format!("no {} (cargo build --release, or set NBGUARD_BIN_DIR)", binary.display()))
    }
}

/// Where containers can be made, or the reason why not is printed.
pub fn ground() -> Option<Ground> {
    Ground::find().map_err(skip).ok()
}

/// The daemon of this tree, with the configuration of the house.
pub fn start(house: &House) -> Daemon {
    house.start(&binary("nbguardd"), &[])
}

pub fn is_kill(incident: &Incident) -> bool {
    incident.kind == Kind::Kill
}

/// The notebook that ended.
pub fn victim(incident: &Incident) -> Option<&str> {
    incident.victim.as_ref()?.notebook.as_deref()
}
