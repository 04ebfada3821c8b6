//! Asks `nbguard stack` what a process is running: a child with a time of its own, since what it
//! needs (py-spy, the tables of PHP) is too heavy for the daemon, and what it reads may make it
//! hang. Whatever it does costs its time and nothing else: its output is bounded, and it ends with
//! all that it started. Waits, so never in the loop. One that even SIGKILL does not end, since what
//! it reads is a filesystem that does not answer, is left behind, and reaped when it has ended.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::facts::Why;
use crate::ids::ProcKey;
use crate::parse::stack_json::{self, MAX_ANSWER, Stack};
use crate::sys;

/// The longest that one answer may take, the start of the program with it.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that was killed may take to be gone, on a host that is short of everything.
const REAP_TIME: Duration = Duration::from_secs(1);
/// The pause between two looks whether it is: the longest.
const REAP_PAUSE: Duration = Duration::from_millis(50);
/// What it may map: 40 MiB are enough for a PHP, 192 MiB for a Python, 128 MiB are not (measured
/// with prlimit). What a process has mapped under an interpreter's name may be as long as it likes.
const ROOM_MAX: u64 = 1 << 30;
/// Where its programs are found if the daemon itself was told nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// The program could not be started.
    NotStarted,
    /// It said that it cannot: no permission, a version it does not know, the process is gone.
    Failed,
    TimedOut,
    /// More than is read.
    TooLong,
    /// Something else than a stack of this process.
    Malformed,
    /// It does not die.
    Stuck,
}

impl Missing {
    pub const ALL: [Missing; 6] = [
        Missing::NotStarted,
        Missing::Failed,
        Missing::TimedOut,
        Missing::TooLong,
        Missing::Malformed,
        Missing::Stuck,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Missing::NotStarted => "not-started",
            Missing::Failed => "failed",
            Missing::TimedOut => "timed-out",
            Missing::TooLong => "too-long",
            Missing::Malformed => "malformed",
            Missing::Stuck => "stuck",
        }
    }

    /// In the terms of an activity.
    pub fn why(self) -> Why {
        match self {
            Missing::NotStarted => Why::NotRead,
            Missing::Failed => Why::Failed,
            Missing::TimedOut | Missing::Stuck => Why::TimedOut,
            Missing::TooLong | Missing::Malformed => Why::Malformed,
        }
    }
}

/// The call stack of a process, by the program `tool`.
///
/// # Errors
/// Why there is none.
pub fn ask(tool: &Path, key: ProcKey, patience: Duration) -> Result<Stack, Missing> {
    let until = Instant::now() + patience;
    let mut command = Command::new(tool);
    command
        .args(["stack", "--json", "--"])
        .arg(key.pid.to_string())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    sys::spawn::apart(&mut command);
    sys::spawn::within(&mut command, ROOM_MAX);
    let mut child = command.spawn().map_err(|_| Missing::NotStarted)?;
    let said = listen(&mut child, until);
    // Until it is reaped its number is its own, also as that of its group.
    if let Ok(group) = i32::try_from(child.id()) {
        // ESRCH: nobody is left.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let status = reap(child, key)?;
    let text = said?;
    if text.is_empty() && !status.success() {
        return Err(Missing::Failed);
    }
    stack_json::stack(&text, key).ok_or(match status.success() {
        true => Missing::Malformed,
        false => Missing::Failed,
    })
}

/// Those that did not end, and whose stack each was to read.
static STUCK: Mutex<Vec<(ProcKey, Child)>> = Mutex::new(Vec::new());

fn stuck() -> MutexGuard<'static, Vec<(ProcKey, Child)>> {
    STUCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether one that was to read this process's stack still has not ended. Reaps those that have.
pub fn is_stuck(key: ProcKey) -> bool {
    let mut stuck = stuck();
    stuck.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
    stuck.iter().any(|(of, _)| *of == key)
}

/// What a child that was killed leaves.
fn reap(mut child: Child, key: ProcKey) -> Result<ExitStatus, Missing> {
    let until = Instant::now() + REAP_TIME;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < until => {}
            Ok(None) => {
                stuck().push((key, child));
                return Err(Missing::Stuck);
            }
            Err(_) => return Err(Missing::Failed),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(REAP_PAUSE);
    }
}

/// Everything that it says until it closes its output.
fn listen(child: &mut Child, until: Instant) -> Result<Vec<u8>, Missing> {
    let mut output = child.stdout.take().ok_or(Missing::Failed)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|_| Missing::Failed)?;
    let mut text = Vec::with_capacity(4096);
    loop {
        let room = u64::try_from(MAX_ANSWER + 1 - text.len()).unwrap_or(0);
        match output.by_ref().take(room).read_to_end(&mut text) {
            _ if text.len() > MAX_ANSWER => return Err(Missing::TooLong),
            // read_to_end keeps what came before it had to wait.
            Ok(_) => return Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Missing::Failed),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Missing::TimedOut);
        }
        // Rounded up: at the end it must not turn in circles.
        let left = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Err(Missing::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::stack_json::State;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const KEY: ProcKey = ProcKey { pid: 4711, start: 99 };
    const LONG: Duration = Duration::from_secs(20);
    const ANSWER: &str = r#"{"pid":4711,"start":99,"runtime":"php","state":"busy","cell":null,
        "threads":[{"id":1,"main":true,"frames":[{"function":"f","file":"/a.php","line":3}]}]}"#;

    /// A program that does what the script says.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, script: &str) -> Fake {
            let dir =
                std::env::temp_dir().join(format!("nbguard-ask-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            let tool = dir.join("nbguard");
            // Under another name first: a file that is still open for writing cannot be executed.
            fs::write(dir.join("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(dir.join("new"), tool).unwrap();
            Fake(dir)
        }

        /// Another test may be between fork and exec with our script open for writing.
        fn ask(&self, patience: Duration) -> Result<Stack, Missing> {
            let until = Instant::now() + LONG;
            loop {
                match ask(&self.0.join("nbguard"), KEY, patience) {
                    Err(Missing::NotStarted) if Instant::now() < until => std::thread::yield_now(),
                    answer => return answer,
                }
            }
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_is_asked_for_the_process_and_its_answer_is_read() {
        let script =
            format!("[ \"$*\" = 'stack --json -- 4711' ] || exit 9\ncat <<'X'\n{ANSWER}\nX");
        let stack = Fake::new("answer", &script).ask(LONG).unwrap();
        assert_eq!((stack.state, stack.frames), (State::Busy, vec!["f /a.php:3".to_owned()]));
    }

    #[test]
    fn an_answer_in_pieces_is_one() {
        let (a, b) = ANSWER.split_at(60);
        let script = format!("printf '%s' '{a}'; sleep 0.1; printf '%s' '{b}'");
        assert!(Fake::new("pieces", &script).ask(LONG).is_ok());
    }

    #[test]
    fn one_that_hangs_ends_at_its_time_with_all_that_it_started() {
        let fake = Fake::new("hangs", "sleep 300 & echo $! > \"${0%/*}/pid\"; sleep 300");
        let began = Instant::now();
        assert_eq!(fake.ask(Duration::from_millis(400)), Err(Missing::TimedOut));
        assert!(began.elapsed() < LONG / 2);
        let pid = fs::read_to_string(fake.0.join("pid")).unwrap().trim().parse().unwrap();
        let Ok(pidfd) = sys::pidfd::open(pid) else { return };
        let mut exit = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut exit, PollTimeout::from(5_000u16)), Ok(1), "{pid} lives on");
    }

    #[test]
    fn one_that_answers_and_leaves_a_child_with_its_output_is_not_waited_for_longer() {
        let script = format!("sleep 300 & cat <<'X'\n{ANSWER}\nX");
        let began = Instant::now();
        let answer = Fake::new("leaves", &script).ask(Duration::from_millis(400));
        assert_eq!(answer, Err(Missing::TimedOut));
        assert!(began.elapsed() < LONG / 2);
    }

    #[test]
    fn one_that_floods_is_cut() {
        let began = Instant::now();
        assert_eq!(Fake::new("floods", "exec yes").ask(LONG), Err(Missing::TooLong));
        assert!(began.elapsed() < LONG / 2);
    }

    #[test]
    fn garbage_another_process_and_failures_are_told_apart() {
        let is = |script: &str, expected: Missing| {
            assert_eq!(Fake::new("bad", script).ask(LONG), Err(expected), "{script}");
        };
        is("echo no stack", Missing::Malformed);
        is("head -c 1000 /dev/urandom", Missing::Malformed);
        is("exit 0", Missing::Malformed);
        is("echo '{\"pid\":4711,\"start\":98}'", Missing::Malformed);
        is("exit 4", Missing::Failed);
        is("echo '{\"error\":\"no\"}'; exit 4", Missing::Failed);
        is("kill -9 $$", Missing::Failed);
        assert_eq!(ask(Path::new("/nowhere/nbguard"), KEY, LONG), Err(Missing::NotStarted));
    }
}
