//! This process's files: its entry of the switch table, mapped to be read, and its own trace file,
//! mapped to be written. Whatever is not as it should be is a reason not to trace, never more.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use trace_layout::header::{self, PHP};
use trace_layout::{Identity, PAGE, SWITCH, TRACE_SUFFIX, WATCH_SUFFIX, Writer, file_len, switch};

/// Files of dead processes that one new worker clears away.
const STALE_MAX: usize = 256;
/// A file that lists more is not read further.
pub const WATCH_FILE_MAX: usize = 8192;

/// Why nothing is traced: what phpinfo() says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(pub String);

fn why(what: &str, error: io::Error) -> Why {
    Why(format!("{what}: {error}"))
}

/// A mapping that ends with its owner.
#[derive(Debug)]
pub struct Map {
    pub base: *mut u8,
    pub len: usize,
}

impl Map {
    fn new(fd: &OwnedFd, at: u64, len: usize, write: bool) -> io::Result<Map> {
        let protection = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping of an open file at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                at as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map { base: base.cast(), len })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of our own mapping.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Pid and start time, as every part of nbguard names a process.
pub fn identity() -> Option<(u32, u64)> {
    let stat = fs::read("/proc/self/stat").ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    // Field 22, and what follows the name begins with field 3.
    let start = stat.get(end + 2..)?.split(|byte| *byte == b' ').nth(19)?;
    Some((std::process::id(), std::str::from_utf8(start).ok()?.parse().ok()?))
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let start = stat.get(end + 2..)?.split(|byte| *byte == b' ').nth(19)?;
    std::str::from_utf8(start).ok()?.parse().ok()
}

fn open_at(dir: i32, name: &CStr, flags: i32, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the name ends with a NUL; the descriptor that comes back is ours.
    unsafe {
        let fd = libc::openat(dir, name.as_ptr(), flags, libc::c_uint::from(mode));
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn stat(fd: &OwnedFd) -> io::Result<libc::stat> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and a place to write to.
    if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat)
}

fn uid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() }
}

/// The directory of all, if it may be trusted: root's or our own, and nobody else may write it.
fn open_dir(path: &str) -> Result<OwnedFd, Why> {
    let name = CString::new(path).map_err(|_| Why("nbguard.directory is no path".into()))?;
    // It may be searched, not listed: 0711.
    let dir = open_at(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map_err(|error| why(path, error))?;
    let is = stat(&dir).map_err(|error| why(path, error))?;
    if (is.st_uid != 0 && is.st_uid != uid()) || is.st_mode & 0o022 != 0 {
        return Err(Why(format!("{path} is not root's alone")));
    }
    Ok(dir)
}

fn open_own(dir: &OwnedFd) -> Result<OwnedFd, Why> {
    let name = CString::new(uid().to_string()).unwrap_or_default();
    let own = open_at(dir.as_raw_fd(), &name, libc::O_RDONLY | libc::O_DIRECTORY, 0)
        .map_err(|error| why(&format!("directory of user {}", uid()), error))?;
    let is = stat(&own).map_err(|error| why("directory of this user", error))?;
    if is.st_uid != uid() || is.st_mode & 0o077 != 0 {
        return Err(Why(format!("directory of user {} is not this user's alone", uid())));
    }
    Ok(own)
}

/// The switch table's page with the entry of `pid`.
pub struct SwitchPage {
    map: Map,
    pub entry: *const switch::Entry,
}

fn map_switch(dir: &OwnedFd, pid: u32) -> Result<SwitchPage, Why> {
    let name = CString::new(SWITCH).unwrap_or_default();
    let file = open_at(dir.as_raw_fd(), &name, libc::O_RDONLY | libc::O_NONBLOCK, 0)
        .map_err(|error| why("switch table", error))?;
    let is = stat(&file).map_err(|error| why("switch table", error))?;
    let dir_is = stat(dir).map_err(|error| why("switch table", error))?;
    if is.st_mode & libc::S_IFMT != libc::S_IFREG
        || is.st_uid != dir_is.st_uid
        || is.st_mode & 0o022 != 0
    {
        return Err(Why("the switch table is not of the directory's owner alone".into()));
    }
    let mut head = [0; 24];
    // SAFETY: reads at most what `head` holds.
    let read = unsafe { libc::pread(file.as_raw_fd(), head.as_mut_ptr().cast(), head.len(), 0) };
    if read != head.len() as isize {
        return Err(Why("the switch table is cut short".into()));
    }
    let entries = switch::parse_table(&head, is.st_size as u64)
        .map_err(|bad| Why(format!("switch table: {bad}")))?;
    if pid >= entries {
        return Err(Why(format!("pid {pid} is beyond the switch table's {entries} entries")));
    }
    let (at, within) = switch::entry_page(pid);
    let map = Map::new(&file, at, PAGE, false).map_err(|error| why("switch table", error))?;
    // SAFETY: the entry lies within the page.
    let entry = unsafe { map.base.add(within) }.cast_const().cast();
    Ok(SwitchPage { map, entry })
}

impl SwitchPage {
    pub fn region(&self) -> (usize, usize) {
        (self.map.base as usize, self.map.len)
    }
}

/// A trace file of our own, and what belongs to it.
pub struct Home {
    own: OwnedFd,
    file: OwnedFd,
    map: Map,
    pub pid: u32,
    pub start: u64,
    pub switch: Option<SwitchPage>,
    /// Why there is no switch.
    pub why: Option<Why>,
    slots: u32,
}

fn file_name(pid: u32, start: u64, suffix: &str) -> CString {
    CString::new(format!("{pid}-{start}{suffix}")).unwrap_or_default()
}

impl Home {
    /// Makes the file. The whole ring has its length at once; only written pages exist.
    pub fn open(directory: &str, slots: u32, flags: u32) -> Result<(Home, Writer), Why> {
        let (pid, start) = identity().ok_or_else(|| Why("/proc/self/stat is unreadable".into()))?;
        let dir = open_dir(directory)?;
        let own = open_own(&dir)?;
        let name = file_name(pid, start, TRACE_SUFFIX);
        let create = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let file = match open_at(own.as_raw_fd(), &name, create, 0o600) {
            // Same pid, same start: an earlier file of this very process, whose mapping was given
            // up, or one of another pid namespace. Only the first has no lock.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !remove_unlocked(&own, &name) {
                    return Err(Why("this process's trace file is somebody else's".into()));
                }
                open_at(own.as_raw_fd(), &name, create, 0o600)
            }
            other => other,
        }
        .map_err(|error| why("trace file", error))?;
        // Held as long as this process lives: who can have it may remove the file.
        // SAFETY: an open descriptor of ours.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        clear_stale(&own);
        let len = file_len(slots);
        // The header exists from now on: a full file system is met here, not as a SIGBUS later.
        // SAFETY: an open descriptor of ours.
        let made = unsafe {
            if libc::ftruncate(file.as_raw_fd(), len as libc::off_t) < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        }
        .and_then(|()| allocate(&file, PAGE))
        .and_then(|()| Map::new(&file, 0, len, true));
        let map = match made {
            Ok(map) => map,
            Err(error) => {
                unlink(&own, &name);
                return Err(why("trace file", error));
            }
        };
        let of = Identity {
            pid,
            start,
            runtime: PHP,
            // SAFETY: returns a constant.
            runtime_version: unsafe { crate::php::nbg_version() },
            flags,
            created: crate::clock::boottime(),
        };
        // SAFETY: a fresh mapping of a file that nobody else has written: pages of zeros.
        let Some(writer) = (unsafe { Writer::create(map.base, map.len, slots, &of) }) else {
            unlink(&own, &name);
            return Err(Why("nbguard.ring is no power of two between 8 and 65536".into()));
        };
        let mut home = Home { own, file, map, pid, start, switch: None, why: None, slots };
        home.find_switch(&dir);
        Ok((home, writer))
    }

    fn find_switch(&mut self, dir: &OwnedFd) {
        match map_switch(dir, self.pid) {
            Ok(page) => {
                self.switch = Some(page);
                self.why = None;
            }
            Err(error) => self.why = Some(error),
        }
    }

    /// Looks for the table again: the tool may have made it since.
    pub fn look_again(&mut self, directory: &str) {
        if self.switch.is_none()
            && let Ok(dir) = open_dir(directory)
        {
            self.find_switch(&dir);
        }
    }

    /// Makes sure that every page of the ring can be written.
    pub fn allocate(&self) -> Result<(), Why> {
        allocate(&self.file, file_len(self.slots)).map_err(|error| why("room for the ring", error))
    }

    /// The text of the watch file, as far as it is read.
    pub fn watch_file(&self) -> Vec<u8> {
        let name = file_name(self.pid, self.start, WATCH_SUFFIX);
        let mut text = vec![0; WATCH_FILE_MAX];
        let read = open_at(self.own.as_raw_fd(), &name, libc::O_RDONLY | libc::O_NONBLOCK, 0)
            // SAFETY: reads at most what `text` holds.
            .map(|file| unsafe {
                libc::pread(file.as_raw_fd(), text.as_mut_ptr().cast(), text.len(), 0)
            });
        text.truncate(read.map_or(0, |read| read.max(0) as usize));
        text
    }

    /// The region that is mapped: a fault in it is ours to mend.
    pub fn region(&self) -> (usize, usize) {
        (self.map.base as usize, self.map.len)
    }

    /// Removes the file: this process ends, and it is the one that made it.
    pub fn remove(&self) {
        unlink(&self.own, &file_name(self.pid, self.start, TRACE_SUFFIX));
        unlink(&self.own, &file_name(self.pid, self.start, WATCH_SUFFIX));
    }
}

fn allocate(file: &OwnedFd, len: usize) -> io::Result<()> {
    // SAFETY: an open descriptor of ours.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as libc::off_t) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // A file system without fallocate: then it is as it is everywhere else.
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) }
}

fn unlink(dir: &OwnedFd, name: &CStr) {
    // SAFETY: the name ends with a NUL.
    unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) };
}

/// Removes a trace file that no process holds locked.
fn remove_unlocked(dir: &OwnedFd, name: &CStr) -> bool {
    let Ok(file) = open_at(dir.as_raw_fd(), name, libc::O_RDWR | libc::O_NONBLOCK, 0) else {
        return false;
    };
    // SAFETY: an open descriptor of ours.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
        return false;
    }
    unlink(dir, name);
    true
}

/// Removes what dead processes left. A process of another pid namespace looks dead from here:
/// the lock tells, for it holds across namespaces.
fn clear_stale(own: &OwnedFd) {
    let Ok(listing) = fs::read_dir(format!("/proc/self/fd/{}", own.as_raw_fd())) else { return };
    for entry in listing.flatten().take(STALE_MAX) {
        let name = entry.file_name();
        let Some((base, suffix)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let dead = base
            .split_once('-')
            .and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)))
            .is_some_and(|(pid, start)| start_of(pid) != Some(start));
        let Ok(name) = CString::new(name.as_encoded_bytes()) else { continue };
        if dead && suffix == &TRACE_SUFFIX[1..] && remove_unlocked(own, &name) {
            let watch = CString::new(format!("{base}{WATCH_SUFFIX}")).unwrap_or_default();
            unlink(own, &watch);
        }
    }
}

/// Makes what root alone can make: the directory, a table, and one directory for each user.
pub fn prepare(directory: &str, users: &[u8]) {
    let own = uid();
    let path = std::path::Path::new(directory);
    // SAFETY: an all-zero mask is valid; it is put back below.
    let mask = unsafe { libc::umask(0o022) };
    let _ = (|| -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        if own == 0 {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path.parent().unwrap_or(path))?;
            match fs::DirBuilder::new().mode(0o711).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let dir = open_dir(directory).map_err(|error| io::Error::other(error.0))?;
        if stat(&dir)?.st_uid != own {
            return Ok(());
        }
        make_table(&dir)?;
        make_user(&dir, own)?;
        if own == 0 {
            for name in users.split(|byte| matches!(byte, b',' | b' ')) {
                if let Some(user) = user_of(name) {
                    make_user(&dir, user)?;
                }
            }
        }
        Ok(())
    })();
    // SAFETY: puts back what was there.
    unsafe { libc::umask(mask) };
}

fn make_user(dir: &OwnedFd, user: u32) -> io::Result<()> {
    let name = CString::new(user.to_string()).unwrap_or_default();
    // SAFETY: the name ends with a NUL; a directory that was there keeps its owner, and is looked
    // at before it is used. Nobody but the owner can put a link in its place here.
    unsafe {
        if libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), 0o700) == 0 && user != uid() {
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            libc::fchownat(dir.as_raw_fd(), name.as_ptr(), user, u32::MAX, flags);
        }
    }
    Ok(())
}

fn make_table(dir: &OwnedFd) -> io::Result<()> {
    let name = CString::new(SWITCH).unwrap_or_default();
    let create = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let file = match open_at(dir.as_raw_fd(), &name, create, 0o644) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    };
    let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(switch::ENTRIES_MAX);
    let entries = (pid_max + 1).clamp(switch::ENTRIES_MIN, switch::ENTRIES_MAX);
    let head = switch::table_header(entries);
    // SAFETY: an open descriptor of ours; writes exactly the bytes of `head`.
    unsafe {
        if libc::ftruncate(file.as_raw_fd(), switch::table_len(entries) as libc::off_t) < 0
            || libc::pwrite(file.as_raw_fd(), head.as_ptr().cast(), head.len(), 0) < 0
        {
            let error = io::Error::last_os_error();
            unlink(dir, &name);
            return Err(error);
        }
    }
    Ok(())
}

/// A user's number, from /etc/passwd alone: no name service is asked while PHP starts.
fn user_of(name: &[u8]) -> Option<u32> {
    if name.is_empty() {
        return None;
    }
    if let Some(number) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
        return Some(number);
    }
    fs::read("/etc/passwd").ok()?.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.next()? == name)
            .then(|| std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok())
            .flatten()
    })
}

/// The header's flags of this interpreter.
pub const fn interpreter_flags() -> u32 {
    let mut flags = 0;
    if cfg!(php_zts) {
        flags |= header::THREAD_SAFE;
    }
    flags
}
