//! The hook: a program that is started after an incident, with the record on its standard input.
//! It runs off the loop, one at a time, in a session of its own, and is ended with all its group
//! when its time is over. There is no thread while there is nothing to do.
//!
//! What waits is bounded; what does not fit is dropped and counted. A program that hangs, forks,
//! fails, or does not read costs its own time and nothing else.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::log::{debug, warn};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::config::HookSettings;
use crate::report::counters::Tally;
use crate::report::{Incident, Kind};
use crate::sys;

/// Incidents that may wait for the one before.
const QUEUE: usize = 16;
/// The thread starts a child and polls; what it allocates is on the heap.
const STACK: usize = 64 * 1024;
/// Longest container name in the environment; the record on stdin has all of it.
const NAME_MAX: usize = 256;
/// Where programs are found if the daemon itself was told nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What became of hooks. They only rise.
#[derive(Debug, Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    not_started: AtomicU64,
    dropped: AtomicU64,
}

/// One incident on its way to the program.
#[derive(Debug)]
struct Job {
    command: Vec<String>,
    timeout: Duration,
    episode: String,
    kind: &'static str,
    container: String,
    json: String,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Counts,
    state: Mutex<State>,
    /// The thread has nothing to do and ends.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// There is a thread.
    works: bool,
    /// The child, from its start until it is reaped: as long as its number is its own.
    child: Option<Pid>,
}

/// The loop's end. Never blocks longer than it takes to put something into a queue.
#[derive(Debug, Default)]
pub(super) struct Hook(Arc<Shared>);

impl Hook {
    /// Hands an incident over, if the configuration wants a hook for its kind.
    pub fn tell(&self, settings: &HookSettings, incident: &Incident, json: &str) {
        if settings.command.is_empty() || !settings.on.contains(&incident.kind) {
            return;
        }
        let name = incident.container.as_ref().map_or("", |container| container.name.as_str());
        let job = Job {
            command: settings.command.clone(),
            timeout: settings.timeout,
            episode: incident.id.clone(),
            kind: word(incident.kind),
            container: crate::parse::escape::escape(name.as_bytes(), NAME_MAX),
            json: json.to_owned(),
        };
        self.put(job);
    }

    fn put(&self, job: Job) {
        let mut state = lock(&self.0.state);
        if state.queue.len() >= QUEUE {
            self.0.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.queue.push_back(job);
        if state.works {
            return;
        }
        let shared = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("hook".into()).stack_size(STACK);
        match thread.spawn(move || work(&shared)) {
            Ok(_) => state.works = true,
            Err(error) => {
                let lost = state.queue.len() as u64;
                state.queue.clear();
                self.0.counts.not_started.fetch_add(lost, Ordering::Relaxed);
                warn!("the hook's thread could not be started: {error}, skipped");
            }
        }
    }

    pub fn counted(&self) -> Tally {
        let counts = &self.0.counts;
        let mut tally = Tally::default();
        for (outcome, count) in [
            ("ok", &counts.ok),
            ("failed", &counts.failed),
            ("timed-out", &counts.timed_out),
            ("not-started", &counts.not_started),
            ("dropped", &counts.dropped),
        ] {
            tally.add_many(outcome, count.load(Ordering::Relaxed));
        }
        tally
    }

    /// The daemon stops: what is told already gets this long, and then nothing is left running.
    pub fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = lock(&self.0.state);
        while state.works {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.idle.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let lost = state.queue.len() as u64;
        state.queue.clear();
        self.0.counts.dropped.fetch_add(lost, Ordering::Relaxed);
        end_group(state.child);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Kill => "kill",
        Kind::Hold => "hold",
        Kind::KernelOom => "kernel-oom",
    }
}

fn work(shared: &Shared) {
    loop {
        let mut state = lock(&shared.state);
        let Some(job) = state.queue.pop_front() else {
            state.works = false;
            shared.idle.notify_all();
            return;
        };
        drop(state);
        let count = run(shared, &job);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn run<'a>(shared: &'a Shared, job: &Job) -> &'a AtomicU64 {
    let counts = &shared.counts;
    let program = job.command.first().map_or("", String::as_str);
    let mut child = match start(job) {
        Ok(child) => child,
        Err(error) => {
            warn!("the hook {program:?} could not be started: {error}, skipped");
            return &counts.not_started;
        }
    };
    let group = i32::try_from(child.id()).ok().map(Pid::from_raw);
    lock(&shared.state).child = group;
    let in_time = attend(&mut child, job);
    // Until it is reaped its number stays its own, also as that of its group: whatever is left of
    // that ends with it.
    end_group(group);
    lock(&shared.state).child = None;
    let status = child.wait();
    match (in_time, status) {
        (Ok(true), Ok(status)) if status.success() => {
            debug!("the hook {program:?} is done");
            &counts.ok
        }
        (Ok(true), Ok(status)) => {
            warn!("the hook {program:?} failed: {}", how(status));
            &counts.failed
        }
        (Ok(false), _) => {
            warn!("the hook {program:?} was ended after {:?}", job.timeout);
            &counts.timed_out
        }
        (Err(error), _) | (_, Err(error)) => {
            warn!("the hook {program:?}: {error}");
            &counts.failed
        }
    }
}

fn how(status: ExitStatus) -> String {
    status.to_string()
}

fn start(job: &Job) -> io::Result<Child> {
    let (program, arguments) = job.command.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
        .env("NBGUARD_EPISODE", &job.episode)
        .env("NBGUARD_KIND", job.kind)
        .env("NBGUARD_CONTAINER", &job.container)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // What it complains about belongs beside what the daemon says.
        .stderr(Stdio::inherit());
    sys::spawn::apart(&mut command);
    command.spawn()
}

/// Feeds it the record as far as it reads, until it ends. `false`: its time is over.
fn attend(child: &mut Child, job: &Job) -> io::Result<bool> {
    let until = Instant::now() + job.timeout;
    let pidfd = sys::pidfd::open(child.id())?;
    let mut left = job.json.as_bytes();
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &stdin {
        fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    loop {
        feed(&mut stdin, &mut left);
        let patience = until.saturating_duration_since(Instant::now());
        if patience.is_zero() {
            return Ok(false);
        }
        // Rounded up: at the end it must not turn in circles.
        let patience = patience + Duration::from_millis(1);
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let exit = PollFd::new(pidfd.as_fd(), PollFlags::POLLIN);
        let ended = match &stdin {
            Some(stdin) => {
                let mut both = [exit, PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)];
                wait(&mut both, patience)?;
                is_ready(&both[0])
            }
            None => {
                let mut one = [exit];
                wait(&mut one, patience)?;
                is_ready(&one[0])
            }
        };
        if ended {
            return Ok(true);
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], patience: PollTimeout) -> io::Result<()> {
    match poll(fds, patience) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| !events.is_empty())
}

/// Writes what the pipe takes. It is closed when all is written, or nobody reads it any more.
fn feed(stdin: &mut Option<ChildStdin>, left: &mut &[u8]) {
    let Some(pipe) = stdin else { return };
    while !left.is_empty() {
        match pipe.write(left) {
            Ok(written) => *left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EPIPE: it does not want the rest.
            Err(_) => break,
        }
    }
    *stdin = None;
}

fn end_group(group: Option<Pid>) {
    if let Some(group) = group {
        // ESRCH: nobody is left.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("nbguard-hook-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn shell(script: &str, timeout: Duration, json: &str) -> Job {
        Job {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            timeout,
            episode: "3fa85f64".into(),
            kind: "kill",
            container: "lab".into(),
            json: json.into(),
        }
    }

    fn counts(hook: &Hook) -> [u64; 5] {
        let tally = hook.counted();
        ["ok", "failed", "timed-out", "not-started", "dropped"].map(|outcome| tally.get(outcome))
    }

    /// Waits until nothing is left to do, without ending anything.
    fn settle(hook: &Hook) {
        let until = Instant::now() + PATIENCE;
        let mut state = lock(&hook.0.state);
        while state.works {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the hook's thread does not end");
            state = hook.0.idle.wait_timeout(state, left).unwrap().0;
        }
        assert_eq!((state.queue.len(), state.child), (0, None));
    }

    #[test]
    fn it_gets_the_record_and_little_else() {
        let dir = folder("record");
        let (record, env) = (dir.join("record"), dir.join("env"));
        let hook = Hook::default();
        let json = "x".repeat(200 << 10);
        let script = format!("cat > {}; env > {}", record.display(), env.display());
        hook.put(shell(&script, PATIENCE, &json));
        settle(&hook);
        assert_eq!(counts(&hook), [1, 0, 0, 0, 0]);
        assert_eq!(fs::read_to_string(record).unwrap(), json);
        let env = fs::read_to_string(env).unwrap();
        let mut names: Vec<&str> = env.lines().filter_map(|l| Some(l.split_once('=')?.0)).collect();
        names.sort_unstable();
        // `PWD` and `_` are the shell's own.
        names.retain(|name| !["PWD", "_", "SHLVL"].contains(name));
        assert_eq!(names, ["NBGUARD_CONTAINER", "NBGUARD_EPISODE", "NBGUARD_KIND", "PATH"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_hangs_is_ended_with_its_children_at_its_time() {
        let dir = folder("hangs");
        let pids = dir.join("pids");
        let hook = Hook::default();
        let script = format!("sleep 300 & echo $! > {}; sleep 300", pids.display());
        let began = Instant::now();
        hook.put(shell(&script, Duration::from_millis(300), "{}"));
        settle(&hook);
        assert_eq!(counts(&hook), [0, 0, 1, 0, 0]);
        assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < PATIENCE / 2);
        assert_gone(&pids);
        fs::remove_dir_all(dir).unwrap();
    }

    /// The process whose number stands in the file dies: its signal is out. Reaped or not.
    fn assert_gone(pids: &std::path::Path) {
        let pid = fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let Ok(pidfd) = sys::pidfd::open(pid) else { return };
        let mut exit = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE / 4).unwrap();
        assert_eq!(poll(&mut exit, patience), Ok(1), "{pid} lives on");
    }

    #[test]
    fn what_one_leaves_behind_ends_with_it() {
        let dir = folder("forks");
        let pids = dir.join("pids");
        let hook = Hook::default();
        // The child has the shell's stderr and the record's pipe, and waits for nobody.
        let script = format!("sleep 300 & echo $! > {}", pids.display());
        hook.put(shell(&script, PATIENCE, "{}"));
        settle(&hook);
        assert_eq!(counts(&hook), [1, 0, 0, 0, 0]);
        assert_gone(&pids);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_does_not_read_holds_up_nobody() {
        let hook = Hook::default();
        let long = "x".repeat(200 << 10);
        hook.put(shell("exec sleep 300", Duration::from_millis(200), &long));
        hook.put(shell("exec true", PATIENCE, &long));
        hook.put(shell("exec <&-; sleep 0.1", PATIENCE, &long));
        settle(&hook);
        assert_eq!(counts(&hook), [2, 0, 1, 0, 0]);
    }

    #[test]
    fn failures_are_counted_by_what_they_are() {
        let hook = Hook::default();
        hook.put(shell("exit 3", PATIENCE, "{}"));
        hook.put(shell("kill -9 $$", PATIENCE, "{}"));
        let missing = Job { command: vec!["/no/such/hook".into()], ..shell("", PATIENCE, "{}") };
        hook.put(missing);
        hook.put(Job { command: vec!["/etc/passwd".into()], ..shell("", PATIENCE, "{}") });
        settle(&hook);
        assert_eq!(counts(&hook), [0, 2, 0, 2, 0]);
    }

    #[test]
    fn ten_at_once_run_one_after_the_other_and_too_many_are_dropped() {
        let dir = folder("ten");
        let hook = Hook::default();
        let lock = dir.join("lock");
        // mkdir fails if another one is at work.
        let script = format!("mkdir {0} && sleep 0.02 && rmdir {0}", lock.display());
        for _ in 0..10 {
            hook.put(shell(&script, PATIENCE, "{}"));
        }
        settle(&hook);
        assert_eq!(counts(&hook), [10, 0, 0, 0, 0]);
        hook.put(shell("sleep 0.5", PATIENCE, "{}"));
        for _ in 0..40 {
            hook.put(shell("true", PATIENCE, "{}"));
        }
        settle(&hook);
        let [ok, failed, _, _, dropped] = counts(&hook);
        // Whether the first was already taken out of the queue when the others came is open.
        assert_eq!((ok + dropped, failed), (51, 0));
        assert!((24..=25).contains(&dropped), "{dropped}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_daemon_that_stops_leaves_nothing_running() {
        let dir = folder("stop");
        let pids = dir.join("pids");
        let hook = Hook::default();
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 300", pids.display());
        hook.put(shell(&script, PATIENCE * 10, "{}"));
        hook.put(shell("true", PATIENCE, "{}"));
        let until = Instant::now() + PATIENCE;
        while !pids.exists() {
            assert!(Instant::now() < until, "it never started");
            thread::sleep(Duration::from_millis(5));
        }
        let began = Instant::now();
        hook.finish(Duration::from_millis(100));
        assert!(began.elapsed() < Duration::from_secs(5));
        settle(&hook);
        assert_gone(&pids);
        assert_eq!(counts(&hook), [0, 1, 0, 0, 1]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_the_kinds_that_are_wanted_are_told() {
        let hook = Hook::default();
        let text = include_str!("../../tests/fixtures/incident.json");
        let incident: Incident = serde_json::from_str(text).unwrap();
        let wants = |on: Vec<Kind>, command: &str| HookSettings {
            command: command.split_whitespace().map(str::to_owned).collect(),
            on,
            timeout: PATIENCE,
        };
        let all = vec![Kind::Kill, Kind::Hold, Kind::KernelOom];
        hook.tell(&wants(all.clone(), ""), &incident, text);
        let others = all.iter().copied().filter(|kind| *kind != incident.kind).collect();
        hook.tell(&wants(others, "true"), &incident, text);
        settle(&hook);
        assert_eq!(counts(&hook), [0; 5]);
        hook.tell(&wants(all, "true"), &incident, text);
        settle(&hook);
        assert_eq!(counts(&hook), [1, 0, 0, 0, 0]);
    }
}
