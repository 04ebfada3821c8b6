//! `getdents64(2)`: the entries of a directory without a `DIR` and its heap block, for walking
//! nested groups between an event and a signal. Never recurses and never opens anything.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// The next entries of `dir` in `buffer`; none at its end.
///
/// # Errors
/// What the kernel said: `ENOENT` when the directory has been removed, `EINVAL` when `buffer` is
/// too small for one entry.
pub fn getdents64<'b>(dir: BorrowedFd<'_>, buffer: &'b mut [u8]) -> Result<Entries<'b>, Errno> {
    // SAFETY: SYS_getdents64 writes at most `buffer.len()` bytes to `buffer.as_mut_ptr()`, which is
    // valid for that many and exclusively borrowed for the call; the descriptor is open, borrowed.
    let read = unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    let len = usize::try_from(read).map_err(|_| Errno::last())?;
    Ok(Entries { rest: &buffer[..len] })
}

/// One entry. `.` and `..` are among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'b> {
    pub kind: Kind,
    pub name: &'b [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Directory,
    Other,
    /// The filesystem does not say.
    Unknown,
}

#[derive(Debug)]
pub struct Entries<'b> {
    rest: &'b [u8],
}

impl Entries<'_> {
    /// Whether the end of the directory was reached.
    pub fn is_end(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'b> Iterator for Entries<'b> {
    type Item = Entry<'b>;

    fn next(&mut self) -> Option<Entry<'b>> {
        // struct linux_dirent64 { u64 d_ino; s64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }
        let len = usize::from(u16::from_ne_bytes([*self.rest.get(16)?, *self.rest.get(17)?]));
        let record = self.rest.get(..len)?;
        let kind = match *record.get(18)? {
            libc::DT_DIR => Kind::Directory,
            libc::DT_UNKNOWN => Kind::Unknown,
            _ => Kind::Other,
        };
        let name = record.get(19..)?;
        let end = name.iter().position(|b| *b == 0)?;
        self.rest = &self.rest[len..];
        Some(Entry { kind, name: &name[..end] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::fd::AsFd;

    #[test]
    fn lists_what_read_dir_lists_in_as_many_pieces_as_it_takes() {
        let dir = std::fs::File::open("/sys/kernel").unwrap();
        let mut buffer = [0; 128];
        let mut names = BTreeSet::new();
        loop {
            let entries = getdents64(dir.as_fd(), &mut buffer).unwrap();
            if entries.is_end() {
                break;
            }
            names.extend(
                entries
                    .filter(|e| e.kind == Kind::Directory)
                    .map(|e| String::from_utf8(e.name.to_vec()).unwrap()),
            );
        }
        assert!(names.remove(".") && names.remove(".."));
        let expected: BTreeSet<String> = std::fs::read_dir("/sys/kernel")
            .unwrap()
            .map(Result::unwrap)
            .filter(|e| e.file_type().unwrap().is_dir())
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_file_or_a_tiny_buffer_is_an_error() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(getdents64(file.as_fd(), &mut [0; 64]).unwrap_err(), Errno::ENOTDIR);
        let dir = std::fs::File::open("/proc").unwrap();
        assert_eq!(getdents64(dir.as_fd(), &mut [0; 4]).unwrap_err(), Errno::EINVAL);
    }
}
