//! PSI triggers (Documentation/accounting/psi.rst): open, write, keep open.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use crate::units::Trigger;

/// A trigger that the kernel accepted. Closing it takes about 10 ms (synchronize_rcu), so it is
/// closed off the loop.
#[derive(Debug)]
pub struct Armed {
    pub fd: OwnedFd,
    /// What was accepted: without CAP_SYS_RESOURCE a window of a multiple of 2 s.
    pub trigger: Trigger,
}

/// Arms `trigger` on a pressure file that `open` opens for reading and writing; where the kernel
/// refuses the window for lack of CAP_SYS_RESOURCE (EINVAL), the scaled one on a fresh
/// descriptor. A refused one is closed, never given back: epoll would report it for ever.
///
/// # Errors
/// ENOENT or EOPNOTSUPP: this kernel or this group has no PSI. EINVAL, EACCES: as the kernel says.
pub fn arm(mut open: impl FnMut() -> io::Result<OwnedFd>, trigger: Trigger) -> io::Result<Armed> {
    match write_trigger(open()?, trigger) {
        Ok(fd) => Ok(Armed { fd, trigger }),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let scaled = trigger.unprivileged();
            Ok(Armed { fd: write_trigger(open()?, scaled)?, trigger: scaled })
        }
        Err(error) => Err(error),
    }
}

fn write_trigger(fd: OwnedFd, trigger: Trigger) -> io::Result<OwnedFd> {
    let mut file = File::from(fd);
    file.write_all(trigger.as_written().as_bytes())?;
    Ok(OwnedFd::from(file))
}
