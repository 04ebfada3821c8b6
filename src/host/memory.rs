//! The memory of the whole host: `/proc/meminfo` and `/proc/pressure/memory`. No allocation.

use std::fmt;

use nix::errno::Errno;

use crate::facts::{Field, HostMemory, Psi, Why};
use crate::parse::{self, ParseError};
use crate::roots::{Buffer, Roots, why};

/// Why the host's memory is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    Read(Errno),
    Parse(ParseError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read(errno) => write!(f, "/proc/meminfo: {}", errno.desc()),
            Error::Parse(error) => write!(f, "/proc/{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// MemTotal, MemAvailable and swap.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or lacks one of them.
pub fn memory(roots: &Roots, buffer: &mut Buffer) -> Result<HostMemory, Error> {
    let text = buffer.read_record(roots.proc(), c"meminfo").map_err(Error::Read)?;
    parse::meminfo(text).map_err(Error::Parse)
}

/// The host's pressure; `Absent` where the kernel was built or started without PSI.
pub fn pressure(roots: &Roots, buffer: &mut Buffer) -> Field<Psi> {
    match buffer.read_record(roots.proc(), c"pressure/memory") {
        Ok(text) => parse::psi(text).map_or(Field::Unknown(Why::Malformed), Field::Known),
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Field::Unknown(Why::Absent),
        Err(errno) => Field::Unknown(why(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::Current;

    #[test]
    fn agrees_with_procfs_about_this_host() {
        let roots = Roots::system().unwrap();
        let ours = memory(&roots, &mut Buffer::new()).unwrap();
        let theirs = procfs::Meminfo::current().unwrap();
        assert_eq!(ours.total.0, theirs.mem_total);
        assert_eq!(ours.swap_total.0, theirs.swap_total);
        let apart = ours.available.0.abs_diff(theirs.mem_available.unwrap());
        assert!(apart < ours.total.0 / 10, "{apart}");
    }
}
