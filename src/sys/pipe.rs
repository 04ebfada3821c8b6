//! Pipes of other processes: which descriptor is one, and how something is put into it without
//! ever waiting for whoever reads it (pipe(7), splice(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The file system of pipes that have no name (linux/magic.h). A FIFO lies in one that has.
const PIPEFS_MAGIC: libc::c_long = 0x5049_5045;

/// The inode of an anonymous pipe; `None` of everything else. Not to be asked of a file in a
/// container's own file system: whoever serves that one need not answer.
///
/// # Errors
/// As fstat(2) and fstatfs(2).
pub fn anonymous(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut about = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills in the structure it is given, which is as large as it takes it to be.
    checked(unsafe { libc::fstat(fd.as_raw_fd(), about.as_mut_ptr()) }.into())?;
    // SAFETY: the call above succeeded and has filled it in.
    let about = unsafe { about.assume_init() };
    let mut system = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: as with fstat.
    checked(unsafe { libc::fstatfs(fd.as_raw_fd(), system.as_mut_ptr()) }.into())?;
    // SAFETY: as above.
    let system = unsafe { system.assume_init() };
    let is_fifo = about.st_mode & libc::S_IFMT == libc::S_IFIFO;
    Ok((is_fifo && system.f_type == PIPEFS_MAGIC).then_some(about.st_ino))
}

/// Whether it was opened for writing, and for real (not with O_PATH).
///
/// # Errors
/// As fcntl(2).
pub fn is_writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: F_GETFL takes no argument and touches no memory of ours.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    checked(flags.into())?;
    Ok(flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0)
}

/// What fits into one page, and so into one place of a pipe: it arrives as a whole or not at all.
pub const WHOLE: usize = 4096;

/// Puts at most [`WHOLE`] bytes into a pipe as one piece, without waiting for room: a write(2)
/// would wait, since the file is its owner's and so is O_NONBLOCK, which stays as he has it. So
/// the bytes go into a pipe of ours and are moved on with SPLICE_F_NONBLOCK, which looks for room
/// and takes it in one (fs/splice.c, `splice_pipe_to_pipe`; checked on 6.18 by
/// `tests/it/message.rs`). `pwritev2` with RWF_NOWAIT would do the same, since 6.4.
///
/// Either waits for the lock of the pipe, which a writer holds while its page is brought in, as
/// long as that takes: only off the loop.
///
/// # Errors
/// EAGAIN: there is no room. EPIPE: nobody reads. EINVAL: too long, or no pipe that takes bytes.
pub fn put(text: &[u8], into: BorrowedFd<'_>) -> io::Result<()> {
    if text.len() > WHOLE {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (out, own) = pair()?;
    // SAFETY: the pointer and the length are those of a slice that lives through the call.
    checked(unsafe { libc::write(own.as_raw_fd(), text.as_ptr().cast(), text.len()) } as i64)?;
    let no_offset = std::ptr::null_mut();
    // SAFETY: both offsets are null, as they must be for pipes; the rest are integers.
    let moved = checked(unsafe {
        libc::splice(
            out.as_raw_fd(),
            no_offset,
            into.as_raw_fd(),
            no_offset,
            text.len(),
            libc::SPLICE_F_NONBLOCK,
        )
    } as i64)?;
    // One page is one piece.
    if usize::try_from(moved) == Ok(text.len()) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// A pipe of our own: the end to read, and the end to write.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills in two integers, and there is room for two.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }.into())?;
    // SAFETY: the kernel has just given us both descriptors, and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_text_arrives_as_one_piece_or_not_at_all() {
        let (out, into) = pair().unwrap();
        put(b"one", into.as_fd()).unwrap();
        put(&[b'x'; WHOLE], into.as_fd()).unwrap();
        let mut text = [0; 2 * WHOLE];
        assert_eq!(File::from(out).read(&mut text).unwrap(), 3 + WHOLE);
        assert!(text.starts_with(b"onexxx"));
        assert_eq!(put(b"two", into.as_fd()).unwrap_err().raw_os_error(), Some(libc::EPIPE));
        let long = [b'x'; WHOLE + 1];
        assert_eq!(put(&long, into.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_full_pipe_is_told_and_not_waited_for() {
        let (_out, into) = pair().unwrap();
        // SAFETY: F_SETFL takes an integer. Writes to it wait from here on.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETFL, 0) };
        for _ in 0..16 {
            put(b"x", into.as_fd()).unwrap();
        }
        assert_eq!(put(b"x", into.as_fd()).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn only_a_pipe_without_a_name_is_one() {
        let (out, into) = pair().unwrap();
        let inode = anonymous(out.as_fd()).unwrap();
        assert!(inode.is_some() && inode == anonymous(into.as_fd()).unwrap());
        assert!(!is_writable(out.as_fd()).unwrap() && is_writable(into.as_fd()).unwrap());
        let null = File::open("/dev/null").unwrap();
        assert_eq!(anonymous(null.as_fd()).unwrap(), None);
    }
}
