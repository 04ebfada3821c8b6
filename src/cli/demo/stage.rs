//! The stage: a cgroup like a container's, a folder like Docker's, the stand-ins, the daemon.
//! Whatever was put up is taken down again when it goes out of scope, however the demo ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::plan::{CONTAINER, PLAN, Plan, ROLE};
use crate::cli::out;
use crate::facts::HostMode;
use crate::host::Hierarchies;
use crate::reactor::DEMOS;
use crate::sys::{pidfd, random};

/// A stand-in is there in milliseconds; three real kernels on a busy machine take their time.
const READY_TIME: Duration = Duration::from_secs(10);
const READY_TIME_PYTHON: Duration = Duration::from_secs(60);
/// The daemon restores and ends in milliseconds.
const DAEMON_TIME: Duration = Duration::from_secs(3);
/// A gigabyte dies in less than half a second.
const CLEAR_TIME: Duration = Duration::from_secs(5);

/// Somebody on stage.
#[derive(Debug)]
pub struct Actor {
    pub part: Part,
    pub pid: u32,
    pub pidfd: OwnedFd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Server,
    Kernel(usize),
    /// A child of the kernel that grows.
    Child,
}

pub struct Stage {
    pub plan: Plan,
    pub folder: PathBuf,
    pub id: String,
    /// The container's cgroup, relative to the hierarchies' roots.
    pub group: PathBuf,
    pub actors: Vec<Actor>,
    /// Made by us, the outermost first.
    made: Vec<PathBuf>,
    /// Files that were written to, and what takes it back.
    written: Vec<(PathBuf, &'static str)>,
    server: Option<Child>,
    daemon: Option<Child>,
}

impl Stage {
    /// # Errors
    /// What could not be made; what was made until then is taken down.
    pub fn set_up(plan: Plan, hierarchies: &Hierarchies) -> Result<Stage, String> {
        let id: String = [random::sixteen_bytes(), random::sixteen_bytes()]
            .concat()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut stage = Stage {
            plan,
            folder: PathBuf::new(),
            group: Path::new(DEMOS).join("docker").join(&id),
            actors: Vec::new(),
            made: Vec::new(),
            written: Vec::new(),
            server: None,
            daemon: None,
            id,
        };
        stage.make_folder()?;
        stage.make_groups(hierarchies)?;
        Ok(stage)
    }

    fn make_folder(&mut self) -> Result<(), String> {
        let name = format!("nbguard-demo-{}-{}", std::process::id(), &self.id[..8]);
        let folder = std::env::temp_dir().join(name);
        let make = |path: &Path| {
            fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| failed(path, &e))
        };
        make(&folder)?;
        self.folder.clone_from(&folder);
        for below in ["runtime", "state", "docker", "docker/containers"] {
            make(&folder.join(below))?;
        }
        make(&self.docker_folder())?;
        self.plan.runtime = folder.join("runtime");
        self.plan.ready = folder.join("ready");
        mkfifo(&self.plan.ready, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|e| failed(&self.plan.ready, &e.into()))
    }

    fn docker_folder(&self) -> PathBuf {
        self.folder.join("docker/containers").join(&self.id)
    }

    /// `nbguard-demo/docker/<id>` in the hierarchy that has the memory controller, and in the one that has
    /// pressure where that is another.
    fn make_groups(&mut self, hierarchies: &Hierarchies) -> Result<(), String> {
        let memory = hierarchies.memory_root().to_owned();
        let group = self.make_group(&memory, hierarchies.mode == HostMode::V2)?;
        let limit = self.plan.limit.0.to_string();
        if hierarchies.mode == HostMode::V2 {
            write(&group.join("memory.max"), &limit)?;
            // Absent where the kernel has no swap accounting; then there is mostly no swap.
            let _ = write(&group.join("memory.swap.max"), "0");
        } else {
            write(&group.join("memory.limit_in_bytes"), &limit)?;
            let _ = write(&group.join("memory.memsw.limit_in_bytes"), &limit);
        }
        self.plan.join.push(group.join("cgroup.procs"));
        if let Some(unified) = hierarchies.psi_root().filter(|root| *root != memory) {
            let group = self.make_group(unified, false)?;
            self.plan.join.push(group.join("cgroup.procs"));
        }
        Ok(())
    }

    fn make_group(&mut self, root: &Path, passes_memory: bool) -> Result<PathBuf, String> {
        let mut group = root.to_owned();
        for name in self.group.clone().iter() {
            if passes_memory {
                self.pass_on_memory(&group)?;
            }
            group.push(name);
            match fs::create_dir(&group) {
                // Another demo's; whoever leaves last removes it.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(|e| failed(&group, &e))?,
            }
            self.made.push(group.clone());
        }
        Ok(group)
    }

    /// Lets the children of a v2 group have the memory controller.
    fn pass_on_memory(&mut self, group: &Path) -> Result<(), String> {
        let file = group.join("cgroup.subtree_control");
        let has = fs::read_to_string(&file).map_err(|e| failed(&file, &e))?;
        if has.split_whitespace().any(|controller| controller == "memory") {
            return Ok(());
        }
        write(&file, "+memory").map_err(|e| {
            format!("{e}: the memory controller cannot be passed on (inside a container? run this on the host)")
        })?;
        self.written.push((file, "-memory"));
        Ok(())
    }

    /// The server and its kernels, all in the container; returns when everybody is ready.
    ///
    /// # Errors
    /// Somebody did not come.
    pub fn start_actors(&mut self) -> Result<(), String> {
        let plan = self.folder.join("plan.json");
        let text = serde_json::to_vec(&self.plan).map_err(|e| e.to_string())?;
        fs::write(&plan, text).map_err(|e| failed(&plan, &e))?;
        // Read and write, so that opening does not wait for a writer.
        let ready = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.plan.ready)
            .map_err(|e| failed(&self.plan.ready, &e))?;
        let server = self.spawn("server", &plan, Stdio::piped(), "actors.log")?;
        let pid = server.id();
        self.server = Some(server);
        self.describe_container(pid)?;
        self.wait_for_actors(&ready)
    }

    fn spawn(&self, role: &str, plan: &Path, stdin: Stdio, log: &str) -> Result<Child, String> {
        let log = self.folder.join(log);
        let output = File::create(&log).map_err(|e| failed(&log, &e))?;
        let mut command = Command::new("/proc/self/exe");
        match role {
            "daemon" => command
                .arg0("nbguardd")
                .arg("--config")
                .arg(self.folder.join(CONFIG))
                .arg("--only-cgroup")
                .arg(&self.group),
            _ => command.arg0("python3").args(["/usr/local/bin/jupyter-lab", "--no-browser"]),
        };
        command
            .env(ROLE, role)
            .env(PLAN, plan)
            .env("NOTIFY_SOCKET", self.folder.join(NOTIFY))
            .stdin(stdin)
            .stdout(output.try_clone().map_err(|e| failed(&log, &e))?)
            .stderr(output)
            // Ctrl-C is for the demo; it clears the stage in order.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("the {role} could not be started: {e}"))
    }

    /// As Docker would: the guard takes the name and the first process from here.
    fn describe_container(&self, pid: u32) -> Result<(), String> {
        let file = self.docker_folder().join("config.v2.json");
        let text = serde_json::json!({
            "ID": self.id,
            "Name": format!("/{CONTAINER}"),
            "Config": { "Image": "nbguard-demo:latest", "Labels": {}, "Env": [] },
            "State": { "Running": true, "Pid": pid },
        });
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)
            .map_err(|e| failed(&file, &e))?;
        out.write_all(text.to_string().as_bytes()).map_err(|e| failed(&file, &e))
    }

    fn wait_for_actors(&mut self, mut ready: &File) -> Result<(), String> {
        let python = self.plan.python.is_some();
        let expected = 1
            + self.plan.kernels.len()
            + self.plan.kernels.iter().filter(|k| k.growth.is_some() && !python).count();
        let until = Instant::now() + if python { READY_TIME_PYTHON } else { READY_TIME };
        let mut text = String::new();
        loop {
            while let Some((line, rest)) = text.split_once('\n') {
                let actor = actor(line)?;
                text = rest.to_owned();
                self.actors.push(actor);
            }
            if self.actors.len() >= expected {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, patience).unwrap_or(0) == 0 {
                let here = self.actors.len();
                let log = self.log_tail("actors.log");
                return Err(format!("{here} of {expected} processes came up\n{log}"));
            }
            let mut piece = [0; 4096];
            match ready.read(&mut piece) {
                Ok(len) => text += &String::from_utf8_lossy(&piece[..len]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(failed(&self.plan.ready, &e)),
            }
        }
    }

    /// Starts the guard, for this container and no other; returns when it says that it guards.
    ///
    /// # Errors
    /// It could not be started, or did not say so in time.
    pub fn start_daemon(&mut self) -> Result<(), String> {
        let file = self.folder.join(CONFIG);
        fs::write(&file, self.config()).map_err(|e| failed(&file, &e))?;
        let socket = self.folder.join(NOTIFY);
        let listener = UnixDatagram::bind(&socket).map_err(|e| failed(&socket, &e))?;
        let glance = Some(Duration::from_millis(100));
        listener.set_read_timeout(glance).map_err(|e| failed(&socket, &e))?;
        let plan = self.folder.join("plan.json");
        self.daemon = Some(self.spawn("daemon", &plan, Stdio::null(), DAEMON_LOG)?);
        let until = Instant::now() + DAEMON_TIME;
        let mut words = [0; 512];
        loop {
            if let Ok(len) = listener.recv(&mut words)
                && words[..len].split(|b| *b == b'\n').any(|word| word == b"READY=1")
            {
                return Ok(());
            }
            if let Some(how) = self.daemon_ended() {
                return Err(how);
            }
            if Instant::now() >= until {
                return Err(format!("the guard did not start\n{}", self.log_tail(DAEMON_LOG)));
            }
        }
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// Every container is left alone but the one whose name our own Docker folder gives.
    fn config(&self) -> String {
        // JSON's strings are TOML's basic strings, too.
        let path = |below: &str| out::json(&self.folder.join(below));
        format!(
            "[guard]\ndocker_root = {}\ndocker_socket = \"off\"\nstate_dir = {}\n\n\
             [record]\npath = {}\n\n\
             [http]\nsocket = \"off\"\nnotebook_socket = \"off\"\n\n\
             [default]\nignore = true\n\n\
             [[rule]]\nname = \"{CONTAINER}\"\nignore = false\n",
            path("docker"),
            path("state"),
            path(RECORD)
        )
    }

    pub fn record(&self) -> PathBuf {
        self.folder.join(RECORD)
    }

    /// Whether the daemon still runs; else how it ended.
    pub fn daemon_ended(&mut self) -> Option<String> {
        let daemon = self.daemon.as_mut()?;
        let status = daemon.try_wait().ok().flatten()?;
        Some(format!("the guard ended: {status}\n{}", self.log_tail(DAEMON_LOG)))
    }

    /// The last lines that the guard wrote.
    pub fn daemon_log(&self) -> String {
        self.log_tail(DAEMON_LOG)
    }

    fn log_tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// # Errors
    /// The server is not there any more.
    pub fn let_it_grow(&mut self) -> Result<(), String> {
        let to = self.server.as_mut().and_then(|server| server.stdin.as_mut());
        let to = to.ok_or("the server is not there")?;
        to.write_all(b"grow\n").and_then(|()| to.flush()).map_err(|e| format!("the server: {e}"))
    }

    fn stop_daemon(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let ended = pidfd::open(daemon.id()).is_ok_and(|fd| {
            let _ = pidfd::send(fd.as_fd(), libc::SIGTERM);
            wait_for(&fd, DAEMON_TIME)
        });
        if !ended {
            let _ = daemon.kill();
        }
        let _ = daemon.wait();
    }

    fn stop_actors(&mut self) {
        for procs in &self.plan.join {
            let Some(group) = procs.parent() else { continue };
            // A guard that was killed in mid-sweep may have left it frozen.
            let _ = fs::write(group.join("cgroup.freeze"), "0");
        }
        if let Some(server) = &mut self.server {
            let _ = server.kill();
        }
        let until = Instant::now() + CLEAR_TIME;
        while self.kill_members() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    /// Everybody in the groups that we made. Returns how many there still were.
    fn kill_members(&self) -> usize {
        let mut members = 0;
        for procs in &self.plan.join {
            let text = fs::read_to_string(procs).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.parse().ok()) {
                members += 1;
                let Ok(fd) = pidfd::open(pid) else { continue };
                // Now that we hold it, it must still be a member: only then it is ours.
                let again = fs::read_to_string(procs).unwrap_or_default();
                if again.lines().any(|line| line.parse() == Ok(pid)) {
                    let _ = pidfd::send(fd.as_fd(), libc::SIGKILL);
                }
            }
        }
        members
    }
}

const NOTIFY: &str = "notify";
const CONFIG: &str = "nbguard.toml";
const RECORD: &str = "incidents.jsonl";
const DAEMON_LOG: &str = "daemon.log";

impl Drop for Stage {
    fn drop(&mut self) {
        // First the guard, so that it restores and does not take the clearing for an episode.
        self.stop_daemon();
        self.stop_actors();
        for made in self.made.iter().rev() {
            remove_group(made);
        }
        for (file, back) in self.written.iter().rev() {
            // A parent that we made is gone with its files by now.
            let _ = fs::write(file, back);
        }
        if self.folder.file_name().is_some() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A cgroup goes when its last process has been taken apart, unless another demo is in it.
fn remove_group(path: &Path) {
    let until = Instant::now() + CLEAR_TIME;
    loop {
        match fs::remove_dir(path) {
            // cgroupfs says EBUSY both of processes and of groups below.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                if has_groups(path) {
                    return;
                }
                if Instant::now() >= until {
                    let _ = writeln!(io::stderr(), "nbguard: {}: {e}", path.display());
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                let _ = writeln!(io::stderr(), "nbguard: {}: {e}", path.display());
                return;
            }
            _ => return,
        }
    }
}

fn has_groups(path: &Path) -> bool {
    let mut entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn actor(line: &str) -> Result<Actor, String> {
    let words: Vec<&str> = line.split(' ').collect();
    let (part, pid) = match words[..] {
        ["server", pid] => (Part::Server, pid),
        ["child", pid] => (Part::Child, pid),
        ["kernel", number, pid] => {
            (Part::Kernel(number.parse().map_err(|_| format!("`{line}`"))?), pid)
        }
        _ => return Err(format!("`{line}` is nobody")),
    };
    let pid: u32 = pid.parse().map_err(|_| format!("`{line}` has no pid"))?;
    let pidfd = pidfd::open(pid).map_err(|e| format!("process {pid}: {e}"))?;
    Ok(Actor { part, pid, pidfd })
}

fn wait_for(pidfd: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)).is_ok_and(|n| n > 0)
}

fn write(path: &Path, value: &str) -> Result<(), String> {
    fs::write(path, value).map_err(|e| failed(path, &e))
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
