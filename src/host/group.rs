//! One cgroup: its memory, its limits, its processes, through descriptors that are kept.
//! Changes nothing but through [`Group::write`]. No allocation once the buffer is warm, and a
//! group that was removed is `Gone`, whatever the read that noticed it.
//!
//! v2 has everything in one directory. On a hybrid host memory is in v1's, pressure and the
//! freezer in the v2 directory of the same path.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlink};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::write;

use crate::facts::{Events, Field, Figures, HostMode, Limit, Psi, Why};
use crate::host::members::{self, PidCount, members};
use crate::host::mode::Hierarchies;
use crate::host::procs;
use crate::ids::CgroupId;
use crate::parse::{self, MemoryStat, ParseError};
use crate::roots::{Buffer, Roots, why};
use crate::sys;
use crate::units::Bytes;

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);
const DIRECTORY: OFlag = READ.union(OFlag::O_DIRECTORY);

/// How far up the ancestors' limits are read. Kubernetes nests 5 deep, rootless Podman 8.
const ANCESTORS_MAX: usize = 32;

/// Why a group could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// Not a relative path of plain names.
    BadPath {
        path: PathBuf,
    },
    /// It has been removed.
    Gone {
        path: PathBuf,
    },
    /// It exists, but its parent does not give it the memory controller (the root group of v2, a
    /// rootless container without delegation).
    NoMemory {
        path: PathBuf,
    },
    /// A threaded group: its memory and its processes are those of the domain above it, which
    /// has members that are none of this group's. Reading those would rank strangers.
    Threaded {
        path: PathBuf,
    },
    Io {
        path: PathBuf,
        file: &'static str,
        errno: Errno,
    },
    Parse {
        path: PathBuf,
        error: ParseError,
    },
}

impl Error {
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. })
    }

    /// As [`sys::may_pass`].
    pub fn may_pass(&self) -> bool {
        matches!(self, Error::Io { errno, .. } if sys::may_pass(&(*errno).into()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadPath { path } => write!(f, "{}: not a path of a cgroup", path.display()),
            Error::Gone { path } => write!(f, "{}: removed", path.display()),
            Error::NoMemory { path } => {
                write!(f, "{}: without the memory controller", path.display())
            }
            Error::Threaded { path } => {
                write!(f, "{}: threaded, its memory is its domain's", path.display())
            }
            Error::Io { path, file, errno } => {
                write!(f, "{}/{file}: {}", path.display(), errno.desc())
            }
            Error::Parse { path, error } => write!(f, "{}/{error}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

/// Which files a group's memory is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V2,
    V1,
}

/// One cgroup.
#[derive(Debug)]
pub struct Group {
    version: Version,
    id: CgroupId,
    /// Directories between it and the root of the mount.
    depth: usize,
    memory: OwnedFd,
    /// The v2 directory, where it is another one.
    unified: Option<OwnedFd>,
    usage: OwnedFd,
    stat: OwnedFd,
    events: OwnedFd,
    swap: Option<OwnedFd>,
    host_swap: bool,
}

impl Group {
    /// Opens a group by its path relative to [`Hierarchies::memory_root`].
    ///
    /// # Errors
    /// `Gone` when there is none; `NoMemory` for one without memory files (the root group of v2:
    /// the whole host is read by [`super::memory`]).
    pub fn open(hierarchies: &Hierarchies, relative: &Path) -> Result<Group, Error> {
        let relative = plain(relative)?;
        let dir = hierarchies.memory_root().join(relative);
        let memory = open_dir(&dir)?;
        let inode = fstat(&memory).map_err(|errno| failed(&dir, ".", errno))?.st_ino;
        let version = match hierarchies.mode {
            HostMode::V2 => Version::V2,
            HostMode::Hybrid | HostMode::V1 => Version::V1,
        };
        let file = |name: &'static CStr| {
            openat(&memory, name, READ, Mode::empty()).map_err(|errno| failed_at(&dir, name, errno))
        };
        let swap = match version {
            Version::V2 => match file(c"memory.swap.current") {
                Ok(swap) => Some(swap),
                Err(Error::Gone { .. }) => None,
                Err(error) => return Err(error),
            },
            Version::V1 => None,
        };
        let unified = match (version, hierarchies.psi_root()) {
            (Version::V1, Some(root)) => open_dir(&root.join(relative)).ok(),
            _ => None,
        };
        Ok(Group {
            usage: file(version.usage()).map_err(|error| without_memory(error, &memory))?,
            stat: file(c"memory.stat")?,
            events: file(version.events())?,
            version,
            id: CgroupId(inode),
            depth: relative.components().count(),
            unified,
            swap,
            host_swap: hierarchies.host_swap,
            memory,
        })
    }

    pub fn id(&self) -> CgroupId {
        self.id
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory of the memory side, for messages and for reopening: asked of the kernel, for
    /// a hundred paths that are hardly ever needed are 10 KiB.
    pub fn dir(&self) -> PathBuf {
        let link = format!("/proc/self/fd/{}", self.memory.as_raw_fd());
        let Ok(dir) = readlink(Path::new(&link)) else { return PathBuf::from(link) };
        match dir.as_bytes().strip_suffix(b" (deleted)") {
            Some(dir) => PathBuf::from(OsStr::from_bytes(dir)),
            None => PathBuf::from(dir),
        }
    }

    /// The directory of the memory side, for whoever writes to it.
    pub fn memory_dir(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Whether there is a directory that can have pressure files.
    pub fn has_unified(&self) -> bool {
        self.version == Version::V2 || self.unified.is_some()
    }

    /// Tells whether the host has swap now, where this was opened before swap was turned on.
    pub fn set_host_swap(&mut self, host_swap: bool) {
        self.host_swap = host_swap;
    }

    /// `memory.events` (`memory.oom_control` on v1), for `Interest::PRIORITY`. Reading the
    /// figures reads this very descriptor and so arms it again.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// All figures. About 10 system calls on v2; [`Group::recheck`] is what a re-check needs.
    ///
    /// # Errors
    /// `Gone`, or which file could not be read. Missing pressure or swap is `Unknown`, no error.
    pub fn figures(&self, buffer: &mut Buffer) -> Result<Figures, Error> {
        let mut figures = Figures {
            usage: Bytes::ZERO,
            swap: Field::Unknown(Why::NotRead),
            swap_max: Limit::Max,
            limit: Limit::Max,
            high: Limit::Max,
            anon: Bytes::ZERO,
            shmem: Bytes::ZERO,
            inactive_file: Bytes::ZERO,
            active_file: Bytes::ZERO,
            slab_reclaimable: Bytes::ZERO,
            refaults: 0,
            events: Events::default(),
            psi: Field::Unknown(Why::NotRead),
        };
        self.refresh(&mut figures, buffer)?;
        if self.version == Version::V2 {
            figures.swap_max = self.swap_max(buffer)?;
            figures.limit = self.limit(buffer)?;
            figures.high = self.high(buffer)?;
        }
        figures.psi = self.psi(buffer);
        Ok(figures)
    }

    /// Reads again what moves by itself: usage, statistics, swap and events, from descriptors
    /// that are kept. Limits and pressure stay as they are in `figures` (on v1 the limit is in
    /// the same file and so is fresh as well).
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn refresh(&self, figures: &mut Figures, buffer: &mut Buffer) -> Result<(), Error> {
        figures.usage = self.usage(buffer)?;
        let stat = match self.version {
            Version::V2 => {
                figures.swap = self.swap(buffer)?;
                self.again(&self.stat, c"memory.stat", buffer, parse::memory_stat)?
            }
            Version::V1 => self.refresh_v1(figures, buffer)?,
        };
        figures.anon = stat.anon;
        figures.shmem = stat.shmem;
        figures.inactive_file = stat.inactive_file;
        figures.active_file = stat.active_file;
        figures.slab_reclaimable = stat.slab_reclaimable;
        figures.refaults = stat.refaults;
        figures.events = self.events(buffer)?;
        Ok(())
    }

    /// What a re-check reads: what moves by itself, and the limit, which somebody may have changed.
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn recheck(&self, figures: &mut Figures, buffer: &mut Buffer) -> Result<(), Error> {
        self.refresh(figures, buffer)?;
        if self.version == Version::V2 {
            figures.limit = self.limit(buffer)?;
        }
        Ok(())
    }

    fn refresh_v1(&self, figures: &mut Figures, buffer: &mut Buffer) -> Result<MemoryStat, Error> {
        let v1 = self.again(&self.stat, c"memory.stat", buffer, parse::memory_stat_v1)?;
        figures.limit = v1.limit;
        figures.swap = v1.swap.map_or(self.no_swap_file(), Field::Known);
        figures.swap_max = match (v1.memory_swap_limit, v1.limit) {
            (Some(Limit::At(both)), Limit::At(memory)) => Limit::At(both.less(memory)),
            (None, _) if !self.host_swap => Limit::At(Bytes::ZERO),
            _ => Limit::Max,
        };
        Ok(v1.stat)
    }

    /// `memory.current`, the cheapest re-check there is.
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn usage(&self, buffer: &mut Buffer) -> Result<Bytes, Error> {
        self.again(&self.usage, self.version.usage(), buffer, parse::number).map(Bytes)
    }

    /// What `memory.events` has counted; on v1 `max` is `memory.failcnt`.
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn events(&self, buffer: &mut Buffer) -> Result<Events, Error> {
        let mut events =
            self.again(&self.events, self.version.events(), buffer, parse::memory_events)?;
        if self.version == Version::V1 {
            events.max = self.file(c"memory.failcnt", buffer, parse::number)?;
        }
        Ok(events)
    }

    /// The lowest limit of the group and its ancestors, as far as the mount shows them.
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn limit(&self, buffer: &mut Buffer) -> Result<Limit, Error> {
        if self.version == Version::V1 {
            let v1 = self.again(&self.stat, c"memory.stat", buffer, parse::memory_stat_v1)?;
            return Ok(v1.limit);
        }
        // Every group with the memory controller has one, so without it this one has gone.
        let mut lowest = self.file(max_above(0), buffer, parse::limit)?;
        for above in 1..=self.depth {
            // The root of the hierarchy has none; that of a cgroup namespace may have one.
            if let Some(limit) = if_there(self.file(max_above(above), buffer, parse::limit))? {
                lowest = lowest.lowest(limit);
            }
        }
        Ok(lowest)
    }

    /// `memory.high` of the group itself; v1 has none.
    ///
    /// # Errors
    /// As [`Group::figures`].
    pub fn high(&self, buffer: &mut Buffer) -> Result<Limit, Error> {
        match self.version {
            Version::V2 => self.file(c"memory.high", buffer, parse::limit),
            Version::V1 => Ok(Limit::Max),
        }
    }

    /// `memory.swap.max` as the file has it. Docker writes one also on hosts without swap, so
    /// whoever adds it to the limit must not take more than the host's own swap.
    fn swap_max(&self, buffer: &mut Buffer) -> Result<Limit, Error> {
        let none = if self.host_swap { Limit::Max } else { Limit::At(Bytes::ZERO) };
        Ok(if_there(self.file(c"memory.swap.max", buffer, parse::limit))?.unwrap_or(none))
    }

    fn swap(&self, buffer: &mut Buffer) -> Result<Field<Bytes>, Error> {
        match &self.swap {
            Some(swap) => {
                let bytes = self.again(swap, c"memory.swap.current", buffer, parse::number)?;
                Ok(Field::Known(Bytes(bytes)))
            }
            None => Ok(self.no_swap_file()),
        }
    }

    /// Without swap accounting: nothing can be swapped out where the host has no swap, and nobody
    /// knows how much is where it has.
    fn no_swap_file(&self) -> Field<Bytes> {
        if self.host_swap { Field::Unknown(Why::Absent) } else { Field::Known(Bytes::ZERO) }
    }

    /// The group's own pressure. `Absent`: no v2 directory, or PSI is off (for the kernel, or by
    /// `cgroup.pressure` for this group).
    pub fn psi(&self, buffer: &mut Buffer) -> Field<Psi> {
        let Some(dir) = self.unified_dir() else { return Field::Unknown(Why::Absent) };
        match buffer.read_record(dir, c"memory.pressure") {
            Ok(text) => parse::psi(text).map_or(Field::Unknown(Why::Malformed), Field::Known),
            Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Field::Unknown(Why::Absent),
            Err(errno) => Field::Unknown(why(errno)),
        }
    }

    /// Appends every process of the group and of the groups nested in it to `out`, each once,
    /// with `container` beside it: whoever reads a domain of several containers calls this for
    /// each of their groups with an index of its own. `out` is appended to in order of pid.
    ///
    /// # Errors
    /// When the group itself cannot be read; of nested groups only the count says so.
    pub fn pids(
        &self,
        container: u16,
        out: &mut Vec<(u32, u16)>,
        buffer: &mut Buffer,
    ) -> Result<PidCount, Error> {
        members(self.memory.as_fd(), container, out, buffer).map_err(|error| match error {
            members::Error::Read(Errno::EOPNOTSUPP) => Error::Threaded { path: self.dir() },
            members::Error::Read(errno) => failed(&self.dir(), "cgroup.procs", errno),
            members::Error::Parse(error) => Error::Parse { path: self.dir(), error },
        })
    }

    /// Opens one of the group's files: on a hybrid host pressure, freezer, kill switch and
    /// `cgroup.events` in the v2 directory, all else on the memory side.
    ///
    /// # Errors
    /// What `openat` said; `NotFound` where there is no v2 directory.
    pub fn open_file(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Errno::EINVAL.into());
        }
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let dir = self.side(name).ok_or(Errno::ENOENT)?;
        Ok(openat(dir, name, flags, Mode::empty())?)
    }

    /// Writes one of the group's files, in one piece as the kernel wants it.
    ///
    /// # Errors
    /// What `openat` or `write` said.
    pub fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let file = self.open_file(name, OFlag::O_WRONLY)?;
        match write(&file, text)? {
            written if written == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn side(&self, name: &str) -> Option<BorrowedFd<'_>> {
        const UNIFIED: [&str; 5] =
            ["memory.pressure", "cgroup.events", "cgroup.freeze", "cgroup.kill", "cgroup.pressure"];
        if UNIFIED.contains(&name) { self.unified_dir() } else { Some(self.memory.as_fd()) }
    }

    /// The v2 directory: pressure, freezer and kill switch are there. `None`: v1 alone.
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        match self.version {
            Version::V2 => Some(self.memory.as_fd()),
            Version::V1 => self.unified.as_ref().map(AsFd::as_fd),
        }
    }

    /// On a hybrid host, finds the v2 directory by where the group's processes are, for drivers
    /// that use another path there. It is taken only if it holds nobody else, since pressure of
    /// strangers would be counted as ours. Off the hot path. Returns whether there is one now.
    ///
    /// # Errors
    /// As [`Group::pids`].
    pub fn find_unified(
        &mut self,
        roots: &Roots,
        hierarchies: &Hierarchies,
        buffer: &mut Buffer,
    ) -> Result<bool, Error> {
        let (Version::V1, Some(root)) = (self.version, hierarchies.psi_root()) else {
            return Ok(self.has_unified());
        };
        let mut ours = Vec::new();
        self.pids(0, &mut ours, buffer)?;
        for (pid, _) in &ours {
            let Ok(found) = procs::cgroup_of(roots, *pid, buffer) else { continue };
            let path = found.v2.as_deref().and_then(|path| hierarchies.relative_to_psi(path));
            let Some(path) = path.filter(|path| path.components().next().is_some()) else { break };
            let Ok(dir) = open_dir(&root.join(path)) else { continue };
            let mut theirs = Vec::new();
            let read = members(dir.as_fd(), 0, &mut theirs, buffer);
            if read.is_ok() && theirs.iter().all(|pid| ours.binary_search(pid).is_ok()) {
                self.unified = Some(dir);
            }
            break;
        }
        Ok(self.has_unified())
    }

    /// Reads a kept descriptor.
    fn again<T>(
        &self,
        file: &OwnedFd,
        name: &'static CStr,
        buffer: &mut Buffer,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        let text = buffer.read_again(file.as_fd()).map_err(|e| failed_at(&self.dir(), name, e))?;
        parse(text).map_err(|error| self.broken(name, error))
    }

    /// Opens and reads a file of the memory side.
    fn file<T>(
        &self,
        name: &'static CStr,
        buffer: &mut Buffer,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        match buffer.read_record(self.memory.as_fd(), name) {
            Ok(text) => parse(text).map_err(|error| self.broken(name, error)),
            Err(errno) => Err(failed_at(&self.dir(), name, errno)),
        }
    }

    fn broken(&self, name: &'static CStr, error: ParseError) -> Error {
        Error::Parse { path: self.dir(), error: ParseError { file: text(name), ..error } }
    }
}

impl Version {
    fn usage(self) -> &'static CStr {
        match self {
            Version::V2 => c"memory.current",
            Version::V1 => c"memory.usage_in_bytes",
        }
    }

    fn events(self) -> &'static CStr {
        match self {
            Version::V2 => c"memory.events",
            Version::V1 => c"memory.oom_control",
        }
    }
}

/// A path of plain names, at most as deep as the ancestors that are read.
fn plain(path: &Path) -> Result<&Path, Error> {
    let bad = || Error::BadPath { path: path.to_path_buf() };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let mut depth = 0;
    for part in relative.components() {
        depth += 1;
        if !matches!(part, Component::Normal(_)) || depth > ANCESTORS_MAX {
            return Err(bad());
        }
    }
    Ok(relative)
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Error> {
    open(dir, DIRECTORY, Mode::empty()).map_err(|errno| failed(dir, ".", errno))
}

fn failed(dir: &Path, file: &'static str, errno: Errno) -> Error {
    let path = dir.to_path_buf();
    match errno {
        Errno::ENOENT | Errno::ENODEV => Error::Gone { path },
        errno => Error::Io { path, file, errno },
    }
}

/// A group that is there without memory files has not gone.
fn without_memory(error: Error, dir: &OwnedFd) -> Error {
    match error {
        Error::Gone { path } if openat(dir, c"cgroup.procs", READ, Mode::empty()).is_ok() => {
            Error::NoMemory { path }
        }
        error => error,
    }
}

fn failed_at(dir: &Path, file: &'static CStr, errno: Errno) -> Error {
    failed(dir, text(file), errno)
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().unwrap_or("?")
}

/// `None` for a file that this kernel or this group does not have.
fn if_there<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Gone { .. } | Error::Io { errno: Errno::EOPNOTSUPP, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

const NAME: &[u8; 11] = b"memory.max\0";
const UP: usize = 3 * ANCESTORS_MAX;

/// `../` for each ancestor, then the name with its NUL: any path is an end of this text.
static CLIMB: [u8; UP + NAME.len()] = {
    let mut text = [b'.'; UP + NAME.len()];
    let mut at = 0;
    while at < text.len() {
        if at >= UP {
            text[at] = NAME[at - UP];
        } else if at % 3 == 2 {
            text[at] = b'/';
        }
        at += 1;
    }
    text
};

/// `memory.max` of the ancestor so many directories up.
fn max_above(above: usize) -> &'static CStr {
    let from = 3 * ANCESTORS_MAX.saturating_sub(above);
    CStr::from_bytes_with_nul(&CLIMB[from..]).expect("it has one NUL, at its end")
}
