//! One trace file: opened beneath its directory, checked, and read by pread.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{S_IFMT, S_IFREG};
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use trace_layout::{Activity, Bad, Count, Header, PAGE, TRACE_SUFFIX, header};

use super::place::{Name, Place};
use super::{NEEDS_PTRACE, Trouble};

/// NONBLOCK: of a file that somebody has a lease on nobody waits for its end.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// Looks at an activity before it counts as one that is never whole.
const TRIES: usize = 8;

/// A process's file, open for reading.
#[derive(Debug)]
pub struct TraceFile<'d> {
    fd: OwnedFd,
    dir: &'d Path,
    name: Name,
    pub slots: u32,
    pid: u32,
    start: u64,
}

impl<'d> TraceFile<'d> {
    /// Opens the file of the place's process and reads its header into `page`.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(
        place: &Place<'d>,
        page: &mut [u8; PAGE],
    ) -> Result<(TraceFile<'d>, Header), Trouble> {
        let target = place.target();
        let name = place.name_of(TRACE_SUFFIX);
        let path = || place.path_of(name.as_path());
        let trouble = |errno| Trouble::of(path(), errno, NEEDS_PTRACE);
        let fd = place.open_regular(name.as_path(), READ).map_err(trouble)?;
        let stat = fstat(&fd).map_err(trouble)?;
        let what = match stat {
            _ if stat.st_mode & S_IFMT != S_IFREG => Some("is no regular file"),
            _ if stat.st_uid != target.uid => Some("belongs to another user"),
            // A name of some other file of that user.
            _ if stat.st_nlink != 1 => Some("has several names"),
            _ if stat.st_mode & 0o022 != 0 => Some("is writable for others"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Trouble::NotOurs { path: path(), what });
        }
        let mut file = TraceFile {
            fd,
            dir: place.path(),
            name,
            slots: 0,
            pid: target.inner,
            start: target.key.start,
        };
        let header = file.read_header(page)?;
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        if len < trace_layout::file_len(header.slots) as u64 {
            return Err(file.bad(Bad::Short));
        }
        file.slots = header.slots;
        Ok((file, header))
    }

    /// The header as it is now.
    ///
    /// # Errors
    /// When it is no header any more, or another process's.
    pub fn read_header(&self, page: &mut [u8; PAGE]) -> Result<Header, Trouble> {
        self.read_at(page, 0)?;
        let header = trace_layout::parse_header(page).map_err(|bad| self.bad(bad))?;
        if (header.pid, header.start) != (self.pid, self.start) {
            return Err(self.forged("it is of another process"));
        }
        if self.slots != 0 && header.slots != self.slots {
            return Err(self.forged("its size has changed"));
        }
        Ok(header)
    }

    /// Busy or idle. `page` is read anew until the activity in it is whole.
    ///
    /// # Errors
    /// When it is never whole, or never was one.
    pub fn read_activity<'p>(&self, page: &'p mut [u8; PAGE]) -> Result<Activity<'p>, Trouble> {
        for _ in 0..TRIES {
            self.read_at(page, 0)?;
            let mut again = [0; 8];
            self.read_at(&mut again, header::AT_ACTIVITY)?;
            match trace_layout::parse_activity(page) {
                Ok((seq, _)) if seq == u64::from_ne_bytes(again) => break,
                Ok(_) | Err(Bad::Torn) => {}
                Err(bad) => return Err(self.bad(bad)),
            }
        }
        match trace_layout::parse_activity(page) {
            Ok((_, activity)) => Ok(activity),
            Err(bad) => Err(self.bad(bad)),
        }
    }

    /// What recorded calls cost; `None` where that is not known, or cannot be.
    pub fn read_count(&self) -> Option<Count> {
        for _ in 0..TRIES {
            let (mut bytes, mut again) = ([0; header::COUNT_LEN], [0; 8]);
            self.read_at(&mut bytes, header::AT_COUNT).ok()?;
            self.read_at(&mut again, header::AT_COUNT).ok()?;
            match trace_layout::parse_count(&bytes) {
                Ok((seq, count)) if seq == u64::from_ne_bytes(again) => return count,
                Ok(_) | Err(Bad::Torn) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Exactly so many bytes.
    pub(super) fn read_at(&self, bytes: &mut [u8], at: usize) -> Result<(), Trouble> {
        let mut len = 0;
        while len < bytes.len() {
            let offset = i64::try_from(at + len).map_err(|_| self.bad(Bad::Size))?;
            match pread(&self.fd, &mut bytes[len..], offset) {
                Ok(0) => return Err(self.bad(Bad::Short)),
                Ok(n) => len += n,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Trouble::Failed { path: self.path(), errno }),
            }
        }
        Ok(())
    }

    /// Made only when something is wrong with it: the guard reads without a heap block.
    fn path(&self) -> PathBuf {
        self.dir.join(self.name.as_path())
    }

    pub(super) fn bad(&self, bad: Bad) -> Trouble {
        Trouble::Bad { path: self.path(), bad }
    }

    pub(super) fn forged(&self, what: &'static str) -> Trouble {
        Trouble::Forged { path: self.path(), what }
    }
}
