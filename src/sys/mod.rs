//! The kernel's calls that no library of ours wraps, one shape a function.
//! The only module with `unsafe`. It knows nothing of containers or notebooks.

use std::io;

pub mod futex;
pub mod getdents;
pub mod memory;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod psi;
pub mod random;
pub mod spawn;
pub mod terminal;
pub mod xattr;

/// Whether what the kernel refused with this error it may grant a moment later.
pub fn may_pass(error: &io::Error) -> bool {
    let passing = [
        libc::EAGAIN,
        libc::EBUSY,
        libc::EINTR,
        libc::EIO,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::ENOSPC,
    ];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}
