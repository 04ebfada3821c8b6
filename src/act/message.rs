//! A line into a process's own standard error, from outside: into the very pipe that it has there,
//! if it is one without a name, and nowhere else. Opens nothing, changes nothing, never waits for
//! a reader. Whatever else may make it wait (see [`pipe::put`] and [`pidfd::borrow`]) is why the
//! loop has a thread do it.
//!
//! ipykernel and bash_kernel read that pipe themselves and show the line in the running cell. The
//! standard error of R and of xeus is the container's log.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use crate::roots::Roots;
use crate::sys::{pidfd, pipe};

/// Standard error. Not standard output: what is written there is somebody's data.
const STDERR: i32 = 2;
/// Descriptors of a process that are looked at: an ipykernel has 60.
const DESCRIPTORS_MAX: usize = 4096;
/// May be read, in the mode of `/proc/<pid>/fd/<n>` (proc_pid_fd(5)).
const READS: u32 = 0o400;

/// Who gets to see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The process reads the pipe itself, to show it in its running cell.
    Cell,
    /// Somebody else does.
    Log,
}

/// Why nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// `message = false`, or no text.
    Off,
    NobodyEnded,
    DryRun,
    /// It was not told before its end: it grew too fast, or somebody else was expected to end.
    NotTold,
    /// The thread that writes has not answered yet.
    Late,
    /// It was gone by then.
    Gone,
    /// It has no standard error.
    NoStderr,
    /// A file, a terminal, a socket, a pipe that somebody gave a name.
    NotAPipe,
    /// The end of a pipe that is read from.
    NotWritable,
    /// There is no room in the pipe, and nobody waits for some.
    Full,
    /// Nobody reads it any more.
    Closed,
    /// The kernel does not let us look into the process.
    Refused,
    /// A kernel before 5.6.
    Unsupported,
    /// Somebody holds up the threads that write.
    Busy,
    Failed,
}

impl Skip {
    /// What may come of an attempt. The others are the record's alone.
    pub const OF_ATTEMPTS: [Skip; 10] = [
        Skip::Gone,
        Skip::NoStderr,
        Skip::NotAPipe,
        Skip::NotWritable,
        Skip::Full,
        Skip::Closed,
        Skip::Refused,
        Skip::Unsupported,
        Skip::Busy,
        Skip::Failed,
    ];

    /// Stable: the record and the metrics carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Off => "off",
            Skip::NobodyEnded => "nobody-ended",
            Skip::DryRun => "dry-run",
            Skip::NotTold => "not-told",
            Skip::Gone => "gone",
            Skip::NoStderr => "no-stderr",
            Skip::NotAPipe => "not-a-pipe",
            Skip::NotWritable => "not-writable",
            Skip::Full => "full",
            Skip::Closed => "closed",
            Skip::Refused => "refused",
            Skip::Unsupported => "unsupported",
            Skip::Busy => "busy",
            Skip::Late => "late",
            Skip::Failed => "failed",
        }
    }

    fn of(error: &io::Error) -> Skip {
        match error.raw_os_error() {
            Some(libc::EBADF) => Skip::NoStderr,
            Some(libc::ESRCH) => Skip::Gone,
            Some(libc::EPERM | libc::EACCES) => Skip::Refused,
            Some(libc::ENOSYS) => Skip::Unsupported,
            Some(libc::EAGAIN) => Skip::Full,
            Some(libc::EPIPE) => Skip::Closed,
            _ => Skip::Failed,
        }
    }
}

/// What came of telling somebody, as the record has it: `written: cell`, `skipped: full`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Written(Place),
    Skipped(Skip),
}

impl Told {
    /// Stable: the metrics carry it.
    pub fn word(self) -> &'static str {
        match self {
            Told::Written(Place::Cell) => "written-cell",
            Told::Written(Place::Log) => "written-log",
            Told::Skipped(why) => why.as_str(),
        }
    }

    /// Every word that may come of an attempt.
    pub fn words() -> impl Iterator<Item = &'static str> {
        let written = [Place::Cell, Place::Log].map(Told::Written);
        let skipped = Skip::OF_ATTEMPTS.map(Told::Skipped);
        written.into_iter().chain(skipped).map(Told::word)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Written(Place::Cell) => f.write_str("written: cell"),
            Told::Written(Place::Log) => f.write_str("written: log"),
            Told::Skipped(why) => write!(f, "skipped: {}", why.as_str()),
        }
    }
}

/// The standard error of a process, found to be a pipe without a name that can be written. What
/// the process puts in its place later changes nothing here: this stays what was looked at.
///
/// To be let go off the loop: if it is the last one, closing it waits for the pipe's lock.
#[derive(Debug)]
pub struct Stderr {
    fd: OwnedFd,
    pub place: Place,
}

impl Stderr {
    /// Looks at what the process behind the descriptor has there.
    ///
    /// # Errors
    /// Why nothing may be written there.
    pub fn of(roots: &Roots, process: BorrowedFd<'_>, pid: u32) -> Result<Stderr, Skip> {
        // Looked at first: closing what was borrowed asks the file system that the file is in (NFS,
        // FUSE), which need not answer. Whoever swaps it between here and there holds up himself.
        let there = fs::read_link(roots.path(format!("/proc/{pid}/fd/{STDERR}")));
        if there.is_ok_and(|name| !is_pipe(&name)) {
            return Err(Skip::NotAPipe);
        }
        let fd = pidfd::borrow(process, STDERR).map_err(|error| Skip::of(&error))?;
        // The kernel's own words for it, before anything is asked that a file system of the
        // container's might have to answer. A file is told by its absolute path.
        let name = fs::read_link(roots.path(format!("/proc/self/fd/{}", fd.as_raw_fd())))
            .map_err(|_| Skip::Failed)?;
        if !is_pipe(&name) {
            return Err(Skip::NotAPipe);
        }
        let inode = pipe::anonymous(fd.as_fd()).map_err(|_| Skip::Failed)?;
        let inode = inode.ok_or(Skip::NotAPipe)?;
        if !pipe::is_writable(fd.as_fd()).map_err(|_| Skip::Failed)? {
            return Err(Skip::NotWritable);
        }
        let place = if reads(roots, pid, inode) { Place::Cell } else { Place::Log };
        Ok(Stderr { fd, place })
    }

    /// Writes a text of at most [`pipe::WHOLE`] bytes, as one piece or not at all.
    pub fn put(&self, text: &str) -> Told {
        match pipe::put(text.as_bytes(), self.fd.as_fd()) {
            Ok(()) => Told::Written(self.place),
            Err(error) => Told::Skipped(Skip::of(&error)),
        }
    }
}

fn is_pipe(name: &std::path::Path) -> bool {
    name.as_os_str().as_encoded_bytes().starts_with(b"pipe:[")
}

/// Whether the process has the other end of this pipe.
fn reads(roots: &Roots, pid: u32, inode: u64) -> bool {
    let wanted = format!("pipe:[{inode}]");
    let Ok(entries) = fs::read_dir(roots.path(format!("/proc/{pid}/fd"))) else { return false };
    entries.flatten().take(DESCRIPTORS_MAX).any(|entry| {
        let path = entry.path();
        fs::read_link(&path).is_ok_and(|name| name.as_os_str() == wanted.as_str())
            && fs::symlink_metadata(&path)
                .is_ok_and(|about| about.permissions().mode() & READS != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_told_in_words_that_stay() {
        assert_eq!(Told::Written(Place::Cell).to_string(), "written: cell");
        assert_eq!(Told::Written(Place::Log).to_string(), "written: log");
        assert_eq!(Told::Skipped(Skip::NotAPipe).to_string(), "skipped: not-a-pipe");
        let mut words: Vec<_> = Told::words().collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 2 + Skip::OF_ATTEMPTS.len());
    }
}
