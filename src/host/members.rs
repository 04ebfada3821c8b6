//! The processes of a group and of the groups nested in it, each once. Reads only. No allocation
//! once the vectors are warm: directories are listed by `getdents64` and queued as plain bytes.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use crate::parse::{self, ParseError};
use crate::roots::Buffer;
use crate::sys::getdents::{Kind, getdents64};

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW).union(OFlag::O_DIRECTORY);

/// Nested groups below a container that are visited: systemd inside a container makes some 60.
/// A container could make more to slow the guard down; these bounds say how much.
const GROUPS_MAX: usize = 4096;
const DEPTH_MAX: usize = 16;

/// What [`super::Group::pids`] met besides processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PidCount {
    /// Processes outside our pid namespace (the kernel shows them as 0): they cannot be ended.
    pub outside: u32,
    /// Nested groups visited.
    pub nested: u32,
    /// Nested threaded groups: their processes are listed by the domain above them.
    pub threaded: u32,
    /// Nested groups that were removed meanwhile.
    pub gone: u32,
    /// Nested groups that could not be read, or were beyond the bounds of depth and number.
    pub unread: u32,
}

impl PidCount {
    fn add(&mut self, errno: Errno) {
        match errno {
            Errno::EOPNOTSUPP => self.threaded += 1,
            Errno::ENOENT | Errno::ENODEV => self.gone += 1,
            _ => self.unread += 1,
        }
    }
}

/// Why the group itself could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    Read(Errno),
    Parse(ParseError),
}

/// Appends the processes of `top` and of everything nested in it to `out`, sorted by pid.
///
/// # Errors
/// When `top` itself cannot be read; of nested groups only the count says so.
pub fn members(
    top: BorrowedFd<'_>,
    container: u16,
    out: &mut Vec<(u32, u16)>,
    buffer: &mut Buffer,
) -> Result<PidCount, Error> {
    let mut count = PidCount::default();
    let first = out.len();
    procs_of(top, container, out, buffer, &mut count)?;
    if may_nest(top) {
        // Taken out so that the buffer can be read into meanwhile; its room goes back after.
        let mut queue = std::mem::take(&mut buffer.queue);
        queue.clear();
        walk(top, &mut queue, container, out, buffer, &mut count);
        buffer.queue = queue;
    }
    each_once(out, first);
    Ok(count)
}

/// Visits the nested groups breadth first. `queue` holds their paths relative to this group,
/// each with its NUL; what was visited stays in it.
fn walk(
    top: BorrowedFd<'_>,
    queue: &mut Vec<u8>,
    container: u16,
    out: &mut Vec<(u32, u16)>,
    buffer: &mut Buffer,
    count: &mut PidCount,
) {
    // A descriptor of its own: the kept one has a position that others would share.
    let mut queued = 0;
    match openat(top, c".", DIRECTORY, Mode::empty()) {
        Ok(dir) => list(dir.as_fd(), 0..0, queue, &mut queued, buffer, count),
        Err(_) => count.gone += 1,
    }
    let mut at = 0;
    while let Some(len) = queue[at..].iter().position(|b| *b == 0) {
        let here = at..at + len;
        at += len + 1;
        let path = CStr::from_bytes_with_nul(&queue[here.start..at])
            .expect("it ends at the first NUL that was found");
        let dir = match openat(top, path, DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            // A filesystem that does not tell directories from files.
            Err(Errno::ENOTDIR) => continue,
            Err(errno) => {
                count.add(errno);
                continue;
            }
        };
        match procs_of(dir.as_fd(), container, out, buffer, count) {
            Ok(()) => count.nested += 1,
            Err(Error::Read(errno)) => count.add(errno),
            Err(Error::Parse(_)) => count.unread += 1,
        }
        if may_nest(dir.as_fd()) {
            list(dir.as_fd(), here, queue, &mut queued, buffer, count);
        }
    }
}

/// Appends the processes of one directory.
fn procs_of(
    dir: BorrowedFd<'_>,
    container: u16,
    out: &mut Vec<(u32, u16)>,
    buffer: &mut Buffer,
    count: &mut PidCount,
) -> Result<(), Error> {
    let text = buffer.read_whole(dir, c"cgroup.procs").map_err(Error::Read)?;
    for pid in parse::pids(text) {
        match pid.map_err(Error::Parse)? {
            0 => count.outside += 1,
            pid => out.push((pid, container)),
        }
    }
    Ok(())
}

/// Whether a directory can have others in it: cgroupfs counts them in its links (2 is none).
/// Filesystems that do not count show 1.
fn may_nest(dir: BorrowedFd<'_>) -> bool {
    fstat(dir).is_ok_and(|stat| stat.st_nlink != 2)
}

/// Appends the directories in `dir` to the queue; `prefix` is where the queue has its own path.
fn list(
    dir: BorrowedFd<'_>,
    prefix: Range<usize>,
    queue: &mut Vec<u8>,
    queued: &mut usize,
    buffer: &mut Buffer,
    count: &mut PidCount,
) {
    let too_deep = !prefix.is_empty()
        && queue[prefix.clone()].iter().filter(|b| **b == b'/').count() + 1 >= DEPTH_MAX;
    loop {
        let entries = match getdents64(dir, buffer.room()) {
            Ok(entries) => entries,
            Err(errno) => return count.add(errno),
        };
        if entries.is_end() {
            return;
        }
        for entry in entries {
            if entry.kind == Kind::Other || matches!(entry.name, b"." | b"..") {
                continue;
            }
            if too_deep || *queued >= GROUPS_MAX {
                count.unread += 1;
                continue;
            }
            queue.extend_from_within(prefix.clone());
            if !prefix.is_empty() {
                queue.push(b'/');
            }
            queue.extend_from_slice(entry.name);
            queue.push(0);
            *queued += 1;
        }
    }
}

/// Sorts what was appended and drops what was listed twice: the kernel lists a process that moves
/// while it reads in both groups (admin-guide/cgroup-v2.rst).
fn each_once(out: &mut Vec<(u32, u16)>, first: usize) {
    out[first..].sort_unstable();
    let mut kept = first;
    for at in first..out.len() {
        if kept == first || out[kept - 1].0 != out[at].0 {
            out[kept] = out[at];
            kept += 1;
        }
    }
    out.truncate(kept);
}
