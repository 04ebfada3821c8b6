//! The switch table, from the tool's side. An entry is locked as long as its tool lives, beats
//! while it is on, and is off when the tool lets go of it. If the tool is killed, its lock is gone
//! at once and its beat grows old: the tracer turns itself off.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, RenameFlags, fcntl, renameat2};
use nix::libc::{self, S_IFMT, S_IFREG};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use trace_layout::switch::{
    self, AT_BEAT, AT_FLAGS, ENTRIES_MAX, ENTRIES_MIN, ENTRY, EntryValue, entry_offset,
    parse_table, table_header, table_len,
};
use trace_layout::{Bad, SWITCH, WATCH_SUFFIX};

use super::place::{Name, Place, give, open_beneath};
use super::{NEEDS_PTRACE, NEEDS_WRITE, Target, Trouble};
use crate::ids::ProcKey;
use crate::roots::{Buffer, Roots};

/// A table, open.
#[derive(Debug)]
pub struct Table {
    fd: OwnedFd,
    path: PathBuf,
    entries: u32,
}

/// What a tool asks a tracer for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// [`switch::ON`], [`switch::SNAPSHOT`], [`switch::VALUES`], [`switch::INTERNAL`].
    pub flags: u32,
    pub period_ms: u32,
    /// Who asks, in its own pid namespace.
    pub tool: ProcKey,
    /// There is a `.watch` file.
    pub watches: bool,
}

impl Table {
    /// The table of a place, to look at.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(place: &Place<'_>) -> Result<Table, Trouble> {
        Table::open_as(place, OFlag::O_RDONLY, NEEDS_PTRACE)
    }

    /// The table of a place, to write to; made where there is none.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open_or_make(
        roots: &Roots,
        place: &Place<'_>,
        buffer: &mut Buffer,
    ) -> Result<Table, Trouble> {
        match Table::open_as(place, OFlag::O_RDWR, NEEDS_WRITE) {
            Err(Trouble::NotThere(_)) => {}
            opened => return opened,
        }
        let entries = read_pid_max(roots, buffer).clamp(ENTRIES_MIN, ENTRIES_MAX);
        make(place, entries)?;
        Table::open_as(place, OFlag::O_RDWR, NEEDS_WRITE)
    }

    /// The same, to switch off.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open_to_write(place: &Place<'_>) -> Result<Table, Trouble> {
        Table::open_as(place, OFlag::O_RDWR, NEEDS_WRITE)
    }

    fn open_as(place: &Place<'_>, how: OFlag, needs: &'static str) -> Result<Table, Trouble> {
        let path = place.path_of(Path::new(SWITCH));
        let trouble = |errno| Trouble::of(path.clone(), errno, needs);
        let flags = how | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = place.open_regular(Path::new(SWITCH), flags).map_err(trouble)?;
        let stat = fstat(&fd).map_err(trouble)?;
        let what = match stat {
            _ if stat.st_mode & S_IFMT != S_IFREG => Some("is no regular file"),
            _ if !place.is_trusted(&stat) => Some("belongs to another user"),
            // Another name of some other file of root's: it would be written to.
            _ if stat.st_nlink != 1 => Some("has several names"),
            _ if stat.st_mode & 0o022 != 0 => Some("is writable for others"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Trouble::NotOurs { path, what });
        }
        let mut bytes = [0; 24];
        let bad = |bad| Trouble::Bad { path: path.clone(), bad };
        match pread(&fd, &mut bytes, 0).map_err(trouble)? {
            24 => {}
            _ => return Err(bad(Bad::Short)),
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let entries = parse_table(&bytes, len).map_err(bad)?;
        Ok(Table { fd, path, entries })
    }

    /// The entry of a process.
    ///
    /// # Errors
    /// When the table has none, or is cut meanwhile.
    pub fn entry(&self, target: &Target) -> Result<EntryValue, Trouble> {
        let at = self.offset(target.inner)?;
        let mut bytes = [0; ENTRY];
        match pread(&self.fd, &mut bytes, at) {
            Ok(ENTRY) => Ok(EntryValue::from_bytes(&bytes)),
            Ok(_) => Err(Trouble::Bad { path: self.path.clone(), bad: Bad::Short }),
            Err(errno) => Err(self.trouble(errno)),
        }
    }

    /// Switches a process on. It stays so until the value is dropped, while somebody beats.
    ///
    /// # Errors
    /// [`Trouble::Taken`], [`Trouble::Beyond`], or what could not be written.
    pub fn switch_on(self, target: &Target, asked: &Asked, now: u64) -> Result<Switched, Trouble> {
        let at = self.offset(target.inner)?;
        let before = self.entry(target)?;
        // Whoever holds the lock lives; a beat that is young without one is of another kernel's
        // tool, or of one that was killed just now.
        if !self.lock(at)? {
            return Err(Trouble::Taken { tool: before.tool_pid });
        }
        let value = EntryValue {
            start: target.key.start,
            flags: asked.flags,
            session: before.session.wrapping_add(1).max(1),
            beat: now,
            period_ms: asked.period_ms,
            tool_pid: asked.tool.pid,
            tool_start: asked.tool.start,
            watch_generation: if asked.watches {
                before.watch_generation.wrapping_add(1).max(1)
            } else {
                0
            },
        };
        self.put(at + AT_FLAGS as i64, &0u32.to_ne_bytes())?;
        fence(Ordering::SeqCst);
        self.put(at, &EntryValue { flags: 0, ..value }.to_bytes())?;
        // Last: who sees the flags sees the rest.
        fence(Ordering::SeqCst);
        self.put(at + AT_FLAGS as i64, &value.flags.to_ne_bytes())?;
        self.wake(at);
        Ok(Switched { table: self, at, value, is_on: true })
    }

    /// Switches a process off, whoever switched it on. Whether it was on.
    ///
    /// # Errors
    /// What could not be written.
    pub fn switch_off(&self, target: &Target) -> Result<bool, Trouble> {
        let before = self.entry(target)?;
        let at = self.offset(target.inner)?;
        self.put(at + AT_FLAGS as i64, &0u32.to_ne_bytes())?;
        self.wake(at);
        Ok(before.flags != 0 && before.start == target.key.start)
    }

    fn offset(&self, pid: u32) -> Result<i64, Trouble> {
        if pid >= self.entries {
            return Err(Trouble::Beyond { pid, entries: self.entries });
        }
        Ok(i64::try_from(entry_offset(pid)).expect("4,194,304 entries are 256 MiB"))
    }

    fn put(&self, at: i64, bytes: &[u8]) -> Result<(), Trouble> {
        match pwrite(&self.fd, bytes, at) {
            Ok(len) if len == bytes.len() => Ok(()),
            Ok(_) => Err(self.trouble(Errno::ENOSPC)),
            Err(errno) => Err(self.trouble(errno)),
        }
    }

    /// A worker in a long request sleeps on its flags beside the interpreter, and looks at them once
    /// in a second by itself: so whether it could be woken is nobody's trouble.
    fn wake(&self, at: i64) {
        let flags = u64::try_from(at).map(|at| at + AT_FLAGS as u64);
        let _ = flags.map(|flags| crate::sys::futex::wake_in_file(self.fd.as_fd(), flags));
    }

    /// The entry, for as long as the descriptor is open. Only who may write the table can lock
    /// it, so a worker cannot keep a tool out.
    fn lock(&self, at: i64) -> Result<bool, Trouble> {
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: at,
            l_len: ENTRY as i64,
            l_pid: 0,
        };
        match fcntl(&self.fd, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(self.trouble(errno)),
        }
    }

    fn trouble(&self, errno: Errno) -> Trouble {
        Trouble::of(self.path.clone(), errno, NEEDS_WRITE)
    }
}

/// What a beat met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    Taken,
    /// Somebody else switched it off.
    SwitchedOff,
}

/// A process that is switched on. Off when dropped.
#[derive(Debug)]
pub struct Switched {
    table: Table,
    at: i64,
    value: EntryValue,
    is_on: bool,
}

impl Switched {
    pub fn session(&self) -> u32 {
        self.value.session
    }

    /// The tool is alive.
    ///
    /// # Errors
    /// What could not be written.
    pub fn beat(&mut self, target: &Target, now: u64) -> Result<Beat, Trouble> {
        let entry = self.table.entry(target)?;
        if entry.flags != self.value.flags || entry.session != self.value.session {
            self.is_on = false;
            return Ok(Beat::SwitchedOff);
        }
        self.table.put(self.at + AT_BEAT as i64, &now.to_ne_bytes())?;
        Ok(Beat::Taken)
    }

    /// Switches it off now.
    ///
    /// # Errors
    /// What could not be written.
    pub fn off(mut self) -> Result<(), Trouble> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), Trouble> {
        if !std::mem::take(&mut self.is_on) {
            return Ok(());
        }
        self.table.put(self.at + AT_FLAGS as i64, &0u32.to_ne_bytes())?;
        self.table.wake(self.at);
        Ok(())
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        // If it cannot be written, the beat that stops is what switches it off.
        let _ = self.let_go();
    }
}

/// Makes a table under another name and moves it to its place: nobody ever sees half of one, and
/// nobody's is replaced.
fn make(place: &Place<'_>, entries: u32) -> Result<(), Trouble> {
    let mut name = Name::default();
    write!(name, ".{SWITCH}.{}", std::process::id()).expect("it is short");
    let path = place.path_of(Path::new(SWITCH));
    let trouble = |errno| Trouble::of(path.clone(), errno, NEEDS_WRITE);
    let fd = make_file(place, name.as_path(), 0o644, place.target().root_uid)?;
    let made = (|| {
        pwrite(&fd, &table_header(entries), 0)?;
        let len = i64::try_from(table_len(entries)).map_err(|_| Errno::EFBIG)?;
        ftruncate(fd.as_fd(), len)?;
        let dir = place.dir();
        renameat2(dir, name.as_path(), dir, Path::new(SWITCH), RenameFlags::RENAME_NOREPLACE)
    })();
    match made {
        Ok(()) => Ok(()),
        Err(errno) => {
            remove(place, name.as_path());
            // Another tool was quicker.
            if errno == Errno::EEXIST { Ok(()) } else { Err(trouble(errno)) }
        }
    }
}

/// Writes what is to be watched, for the tracer to read: lines, of which the tool makes sense.
///
/// # Errors
/// What is in the way.
pub fn write_watch(place: &Place<'_>, lines: &str) -> Result<(), Trouble> {
    let name = place.name_of(WATCH_SUFFIX);
    let mut new = Name::default();
    write!(new, "{}.{}", name.as_path().display(), std::process::id())
        .expect("10 + 10 + 20 + 10 digits are below 64");
    let trouble = |errno| Trouble::of(place.path_of(name.as_path()), errno, NEEDS_WRITE);
    let fd = make_file(place, new.as_path(), 0o600, place.target().uid)?;
    let moved = || {
        let (dir, from) = folder_of(place, new.as_path())?;
        nix::fcntl::renameat(&dir, from, &dir, name.as_path().file_name().unwrap_or_default())
    };
    if let Err(errno) = pwrite(&fd, lines.as_bytes(), 0).and_then(|_| moved()) {
        remove(place, new.as_path());
        return Err(trouble(errno));
    }
    Ok(())
}

/// Removes it again.
pub fn remove_watch(place: &Place<'_>) {
    remove(place, place.name_of(WATCH_SUFFIX).as_path());
}

/// The folder that holds `name`, as it is and not as a link leads: whoever is root in a container
/// may put one there at any moment.
fn folder_of<'n>(place: &Place<'_>, name: &'n Path) -> Result<(OwnedFd, &'n Path), Errno> {
    let bare = Path::new(name.file_name().ok_or(Errno::EINVAL)?);
    let dir = match name.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => {
            open_beneath(place.dir(), folder, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?
        }
        None => place.dir().try_clone_to_owned().map_err(|_| Errno::EMFILE)?,
    };
    Ok((dir, bare))
}

/// Removes a file of the place; that it is gone is all that matters.
fn remove(place: &Place<'_>, name: &Path) {
    if let Ok((dir, bare)) = folder_of(place, name) {
        let _ = unlinkat(&dir, bare, UnlinkatFlags::NoRemoveDir);
    }
}

/// A new file below the place. One of that name that a killed tool left is removed first.
fn make_file(place: &Place<'_>, name: &Path, mode: u32, owner: u32) -> Result<OwnedFd, Trouble> {
    let trouble = |errno| Trouble::of(place.path_of(name), errno, NEEDS_WRITE);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    let open = || open_beneath(place.dir(), name, flags, Mode::from_bits_truncate(mode));
    let fd = match open() {
        Err(Errno::EEXIST) => {
            remove(place, name);
            open()
        }
        opened => opened,
    };
    let fd = fd.map_err(trouble)?;
    fchmod(&fd, Mode::from_bits_truncate(mode)).map_err(trouble)?;
    let stat = fstat(&fd).map_err(trouble)?;
    give(fd.as_fd(), &stat, owner).map_err(trouble)?;
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

/// One above the highest pid that there can be.
fn read_pid_max(roots: &Roots, buffer: &mut Buffer) -> u32 {
    let text = buffer.read_record(roots.proc(), c"sys/kernel/pid_max").ok();
    let number = text.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    number.unwrap_or(ENTRIES_MAX)
}

/// The flags of an entry in words.
pub fn flags_text(flags: u32) -> &'static str {
    match flags & (switch::ON | switch::SNAPSHOT) {
        0 => "off",
        switch::SNAPSHOT => "snapshot",
        _ => "on",
    }
}
