//! How wide the terminal is (ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

/// The columns of the terminal behind `fd`; `None` where it is none, or does not say.
pub fn columns(fd: BorrowedFd<'_>) -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is that of a live local.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col)
}
