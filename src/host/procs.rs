//! Reads processes: `stat` of many between an event and a signal, `status` and `smaps_rollup` of
//! few. A process that vanished is counted, never an error; no allocation once vectors are warm.

use std::fmt;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

use crate::facts::{Field, Proc, ProcMemory, Why};
use crate::ids::ProcKey;
use crate::parse::{self, Ids, ParseError, ProcCgroup, StatLine};
use crate::roots::{Buffer, Roots, why};
use crate::units::Bytes;

/// Why a file of a process is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    pub pid: u32,
    pub file: &'static str,
    pub cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Read(Errno),
    Parse(ParseError),
}

impl Error {
    pub fn why(&self) -> Why {
        match self.cause {
            Cause::Read(errno) => why(errno),
            Cause::Parse(_) => Why::Malformed,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Read(errno) => write!(f, "/proc/{}/{}: {}", self.pid, self.file, errno.desc()),
            Cause::Parse(error) => write!(f, "/proc/{}/{error}", self.pid),
        }
    }
}

impl std::error::Error for Error {}

/// What a scan could not read, and why. The rest is in the vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanCount {
    /// Ended between the list of pids and the read.
    pub gone: u32,
    /// EPERM, EACCES.
    pub denied: u32,
    /// Not what proc_pid_stat(5) says, or another error.
    pub malformed: u32,
}

impl ScanCount {
    fn add(&mut self, why: Why) {
        match why {
            Why::Gone => self.gone += 1,
            Why::Denied => self.denied += 1,
            _ => self.malformed += 1,
        }
    }
}

/// The page size that `stat` counts in.
static PAGE: LazyLock<u64> = LazyLock::new(|| {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).expect("POSIX demands a page size of every host")
});

/// `/proc/<pid>/stat`.
///
/// # Errors
/// With the reason; [`Error::why`] says whether the process is simply gone.
pub fn read_stat(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<StatLine, Error> {
    read(roots, pid, "stat", buffer, parse::stat)
}

/// Fills `procs` with everyone in `pids` (as [`super::Group::pids`] lists them) who could be read.
/// Its earlier content is dropped, its room is used again.
pub fn scan(
    roots: &Roots,
    pids: &[(u32, u16)],
    procs: &mut Vec<Proc>,
    buffer: &mut Buffer,
) -> ScanCount {
    scan_by(pids, procs, |pid| read_stat(roots, pid, buffer))
}

/// The same, with a way of one's own to read `stat`.
pub(super) fn scan_by(
    pids: &[(u32, u16)],
    procs: &mut Vec<Proc>,
    mut read_stat: impl FnMut(u32) -> Result<StatLine, Error>,
) -> ScanCount {
    procs.clear();
    procs.reserve(pids.len());
    let mut count = ScanCount::default();
    for (pid, container) in pids {
        match read_stat(*pid) {
            Ok(line) => procs.push(proc_of(&line, *container)),
            Err(error) => count.add(error.why()),
        }
    }
    count
}

fn proc_of(line: &StatLine, container: u16) -> Proc {
    Proc {
        key: ProcKey { pid: line.pid, start: line.start },
        ppid: line.ppid,
        pgrp: line.pgrp,
        sid: line.sid,
        comm: line.comm,
        state: state_of(line),
        ticks: line.utime.saturating_add(line.stime),
        rss: Bytes(line.rss_pages.saturating_mul(*PAGE)),
        container,
        memory: Field::Unknown(Why::NotRead),
        pss: Field::Unknown(Why::NotRead),
    }
}

/// A process whose first thread has ended while others run is shown as a zombie, and holds its
/// memory still (seen on 6.18): it is no zombie as long as a signal can end it.
fn state_of(line: &StatLine) -> u8 {
    if line.state == b'Z' && line.threads > 1 { b'S' } else { line.state }
}

/// RssAnon, RssShmem and VmSwap. `Absent` for a process without memory (zombie, kernel thread).
pub fn read_memory(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Field<ProcMemory> {
    match read(roots, pid, "status", buffer, parse::status_memory) {
        Ok(Some(memory)) => Field::Known(memory),
        Ok(None) => Field::Unknown(Why::Absent),
        Err(error) => Field::Unknown(error.why()),
    }
}

/// Context switches of the main thread, by which it shows that it has not run.
pub fn read_switches(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Option<u64> {
    read(roots, pid, "status", buffer, parse::status_switches).ok()
}

/// Proportional anonymous + shared + swapped memory. Takes 14 ms per GiB and the mmap lock of its
/// owner (measured, KERNEL.md), so it belongs on a helper thread.
pub fn read_pss(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Field<Bytes> {
    match read(roots, pid, "smaps_rollup", buffer, parse::smaps_rollup_pss) {
        Ok(bytes) => Field::Known(bytes),
        Err(error) => Field::Unknown(error.why()),
    }
}

/// Whose a process is, and its pid inside its container.
///
/// # Errors
/// With the reason; [`Error::why`] says whether the process is simply gone.
pub fn read_ids(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<Ids, Error> {
    read(roots, pid, "status", buffer, parse::status_ids)
}

/// When a process started, to compare with a [`ProcKey`] just before it is signalled. `None`: it
/// is gone.
///
/// # Errors
/// It cannot be read: it must count as another process, but not as gone.
pub fn start_of(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<Option<u64>, Errno> {
    match read_stat(roots, pid, buffer) {
        Ok(line) => Ok(Some(line.start)),
        Err(error) if error.why() == Why::Gone => Ok(None),
        Err(Error { cause: Cause::Read(errno), .. }) => Err(errno),
        Err(_) => Err(Errno::EBADMSG),
    }
}

/// Where a process is in the hierarchies, relative to their roots (to those of our own cgroup
/// namespace). Off the hot path: it allocates.
///
/// # Errors
/// With the reason; [`Error::why`] says whether the process is simply gone.
pub fn cgroup_of(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<ProcCgroup, Error> {
    read(roots, pid, "cgroup", buffer, parse::proc_cgroup)
}

fn read<T>(
    roots: &Roots,
    pid: u32,
    file: &'static str,
    buffer: &mut Buffer,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, Error> {
    let failed = |cause| Error { pid, file, cause };
    let text = roots.read_process(pid, file, buffer).map_err(|e| failed(Cause::Read(e)))?;
    // A process that is gone by now can leave an empty text instead of ESRCH.
    if text.is_empty() {
        return Err(failed(Cause::Read(Errno::ESRCH)));
    }
    parse(text).map_err(|e| failed(Cause::Parse(e)))
}
