//! What a child of the daemon must not inherit: its place in front of the OOM killer, its session,
//! its signal mask.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child an ordinary process: first of a session and group of its own, no longer spared
/// by the OOM killer, no signal blocked (those that std does not set back itself).
///
/// The memory lock ends with execve(2) by itself; the daemon's descriptors are all close-on-exec.
pub fn apart(command: &mut Command) {
    let prepare = || {
        ordinary_oom_score()?;
        // SAFETY: setsid takes nothing; it fails only for the leader of a group, which a child
        // that was just forked is not.
        if unsafe { libc::setsid() } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: an all-zero sigset_t is a value that sigemptyset fills in; both calls touch
        // nothing but it and this process's mask.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: between fork and execve in a process with threads only async-signal-safe calls may
    // be made: open, write, close, setsid, sigemptyset, sigprocmask are (signal-safety(7)); nothing
    // allocates, and reading errno is neither.
    unsafe { command.pre_exec(prepare) };
}

/// The child may map no more than so many bytes, and leaves no core.
pub fn within(command: &mut Command, bytes: u64) {
    let limit = move || {
        for (what, most) in [(libc::RLIMIT_AS, bytes), (libc::RLIMIT_CORE, 0)] {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: setrlimit reads the one value whose address it is given.
            if unsafe { libc::setrlimit(what, &raw const limit) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: as in `apart`: setrlimit is one system call and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

/// `OOMScoreAdjust=-900` is for the guard, not for what it starts.
fn ordinary_oom_score() -> io::Result<()> {
    // SAFETY: the path is a literal that ends with NUL; the buffer is one byte of a literal, and
    // its length is given; the descriptor is ours and is closed here.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let wrote = libc::write(fd, c"0".as_ptr().cast(), 1);
        let error = io::Error::last_os_error();
        libc::close(fd);
        if wrote == 1 { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_maps_no_more_than_it_may() {
        let ulimits = |bytes| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "ulimit -v; ulimit -c"]);
            within(&mut command, bytes);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!(ulimits(256 << 20), "262144\n0\n");
    }

    #[test]
    fn a_child_leads_a_session_and_blocks_nothing() {
        // A shell blocks everything while it starts a program, so that one is asked, not the shell.
        // Anybody may raise his own score; the value is every thread's, and no other test asks for it.
        std::fs::write("/proc/self/oom_score_adj", "100").unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat /proc/self/oom_score_adj; cut -d' ' -f1,5,6 /proc/$$/stat; grep SigBlk /proc/self/status"]);
        apart(&mut command);
        let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
        let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(out, format!("0\n{pid} {pid} {pid}\nSigBlk:\t0000000000000000\n"));
    }
}
