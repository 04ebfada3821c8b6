//! What a directory stands on. Whoever is root in a container may mount there what he answers for
//! himself, and then every question to it waits for him, in a way that no signal ends (FUSE). The
//! guard's own threads ask nothing of such a filesystem, not even what it is: the number of a
//! mount is in fdinfo, its type in mountinfo, and the kernel makes both without it.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::read;

use super::place::Name;
use crate::parse;
use crate::parse::host::Mount;
use crate::roots::{Buffer, Roots};

/// Those that answer out of memory or from a disk, and that only the host's root mounts, or that
/// nobody stands behind.
const CALM: [&[u8]; 8] = [b"tmpfs", b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs", b"zfs"];
/// As calm as what it lies on. One that the host has mounted, as engines do, lies on the host's
/// disks; one that a container has made may lie on anything.
const OVERLAY: &[u8] = b"overlay";
/// `mountinfo` is read no further: a container of an engine has some 40 mounts, a host with 1,000
/// of them some 1 KiB of each.
const MOUNTS_MAX: usize = 4 << 20;

/// The mounts that one process sees.
pub(super) struct Ground<'r> {
    roots: &'r Roots,
    pid: u32,
    /// The mount that was found calm last.
    known: Option<u64>,
}

impl<'r> Ground<'r> {
    pub fn of(roots: &'r Roots, pid: u32) -> Ground<'r> {
        Ground { roots, pid, known: None }
    }

    /// Whether what is opened there stands on a filesystem that answers. Nothing but the
    /// descriptor itself is asked, and it keeps the mount and its number.
    pub fn is_calm(&mut self, fd: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<bool, Errno> {
        let Some(mount) = self.mount_of(fd, buffer)? else { return Ok(false) };
        if self.known == Some(mount) {
            return Ok(true);
        }
        let mut device = Device::default();
        let mut calm = false;
        find(&self.open(format_args!("{}/mountinfo", self.pid))?, buffer, |line| {
            if line.id != mount {
                return false;
            }
            calm = CALM.contains(&line.fstype);
            if line.fstype == OVERLAY {
                device.keep(line.device);
            }
            true
        })?;
        if !device.get().is_empty() {
            let host = self.open(format_args!("1/mountinfo"))?;
            calm =
                find(&host, buffer, |line| line.fstype == OVERLAY && line.device == device.get())?;
        }
        self.known = calm.then_some(mount);
        Ok(calm)
    }

    fn mount_of(&self, fd: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<Option<u64>, Errno> {
        let file = self.open(format_args!("self/fdinfo/{}", fd.as_raw_fd()))?;
        // pos, flags, mnt_id, ino: 60 bytes.
        let room = buffer.room();
        let len = read(&file, room)?;
        let mut lines = room[..len].split(|byte| *byte == b'\n');
        let number = lines.find_map(|line| line.strip_prefix(b"mnt_id:"));
        let number = number.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
        Ok(number)
    }

    fn open(&self, path: std::fmt::Arguments<'_>) -> Result<OwnedFd, Errno> {
        let mut name = Name::default();
        name.write_fmt(path).map_err(|_| Errno::ENAMETOOLONG)?;
        let how = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(self.roots.proc(), name.as_path(), how, Mode::empty())
    }
}

/// `major:minor`, kept while the buffer is used for something else.
#[derive(Default)]
struct Device {
    bytes: [u8; 24],
    len: usize,
}

impl Device {
    fn keep(&mut self, text: &[u8]) {
        if let Some(room) = self.bytes.get_mut(..text.len()) {
            room.copy_from_slice(text);
            self.len = text.len();
        }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Goes through the lines until one is it. One longer than the buffer is nobody's.
fn find(
    file: &OwnedFd,
    buffer: &mut Buffer,
    mut is_it: impl FnMut(&Mount<'_>) -> bool,
) -> Result<bool, Errno> {
    let room = buffer.room();
    let (mut total, mut len) = (0, 0);
    while total < MOUNTS_MAX {
        let got = match read(file.as_fd(), &mut room[len..]) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        (total, len) = (total + got, len + got);
        let whole = room[..len].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if parse::mountinfo(&room[..whole]).flatten().any(|line| is_it(&line)) {
            return Ok(true);
        }
        // What is left is the beginning of the next; a full buffer without an end is dropped.
        let whole = if whole == 0 && len == room.len() { len } else { whole };
        room.copy_within(whole..len, 0);
        len -= whole;
    }
    Ok(false)
}
