//! Who is at the other end of a Unix socket (unix(7)), held so that it cannot become another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SO_PEERPIDFD` (include/uapi/asm-generic/socket.h); the architectures nbguard is built for take
/// the generic number.
const SO_PEERPIDFD: libc::c_int = 77;

/// A descriptor of the process that connected.
///
/// # Errors
/// ENOPROTOOPT: a kernel before 6.5. ESRCH, EINVAL: it has exited.
pub fn pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the kernel writes at most `len` bytes to `fd`, a live local of exactly that size, and
    // the length to `len`, another live local; the socket is open and borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_is_a_process_that_lives_or_the_kernel_is_too_old() {
        let (here, _there) = UnixStream::pair().unwrap();
        match pidfd(here.as_fd()) {
            // Signal 0 asks whether it is there.
            Ok(fd) => crate::sys::pidfd::send(fd.as_fd(), 0).unwrap(),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(pidfd(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
