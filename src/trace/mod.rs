//! The shared memory of the tracer inside interpreters, seen from outside: where it is
//! (`place`), switching on and off (`table`), and reading what a process wrote (`file`, `ring`,
//! `page`), always by pread: a file that is cut while it is mapped is SIGBUS.
//!
//! Everything below a process's own root directory is its container's making. No link is
//! followed there, nothing leads out, nothing but a private regular file of the process's own
//! user is read, and what is in it counts only as far as [`trace_layout`] can make sense of it.
//!
//! `php` and `cpython` need none of that: they read what an interpreter does out of its memory
//! (`remote`).

pub mod cpython;
pub mod file;
mod ground;
pub mod page;
pub mod php;
pub mod place;
pub mod remote;
pub mod ring;
pub mod stale;
pub mod table;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use trace_layout::Bad;

use crate::facts::Why;

pub use file::TraceFile;
pub use place::{Place, Target};
pub use ring::{Ring, Round};
pub use table::{Asked, Beat, Switched, Table};

/// Now, on the clock of all times here.
pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// Why a process cannot be traced, or what it wrote cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The process has ended, or its pid is another's by now.
    Gone,
    /// Its directory may not be entered, or not be written to.
    Denied {
        path: PathBuf,
        needs: &'static str,
    },
    /// There is no such file or directory.
    NotThere(PathBuf),
    /// It is there, but not as a tracer or root makes it.
    NotOurs {
        path: PathBuf,
        what: &'static str,
    },
    /// Its content.
    Bad {
        path: PathBuf,
        bad: Bad,
    },
    /// Its counter went back, or a record is not the one that its number says.
    Forged {
        path: PathBuf,
        what: &'static str,
    },
    /// The table has no entry for this pid.
    Beyond {
        pid: u32,
        entries: u32,
    },
    /// Another tool traces it.
    Taken {
        tool: u32,
    },
    Failed {
        path: PathBuf,
        errno: Errno,
    },
}

/// What reading `/proc/<pid>/root` asks for (ptrace(2), PTRACE_MODE_READ_FSCREDS).
pub const NEEDS_PTRACE: &str = "CAP_SYS_PTRACE, unless the process is your own";
/// What writing into a directory of root's asks for.
pub const NEEDS_WRITE: &str = "root (CAP_DAC_OVERRIDE)";

impl Trouble {
    /// In the terms of the guard.
    pub fn why(&self) -> Why {
        match self {
            Trouble::Gone => Why::Gone,
            Trouble::Denied { .. } => Why::Denied,
            Trouble::NotThere(_) => Why::Absent,
            Trouble::NotOurs { .. } | Trouble::Bad { .. } | Trouble::Forged { .. } => {
                Why::Malformed
            }
            Trouble::Beyond { .. } => Why::Absent,
            Trouble::Taken { .. } | Trouble::Failed { .. } => Why::Failed,
        }
    }

    fn of(path: PathBuf, errno: Errno, needs: &'static str) -> Trouble {
        match errno {
            Errno::ENOENT => Trouble::NotThere(path),
            Errno::ESRCH => Trouble::Gone,
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Trouble::Denied { path, needs },
            Errno::ELOOP => Trouble::NotOurs { path, what: "is a symbolic link" },
            Errno::EXDEV => Trouble::NotOurs { path, what: "leads out of its directory" },
            Errno::ENOTDIR => Trouble::NotOurs { path, what: "is no directory, or a link" },
            Errno::ENXIO | Errno::ENODEV | Errno::EISDIR => {
                Trouble::NotOurs { path, what: "is no regular file" }
            }
            errno => Trouble::Failed { path, errno },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Gone => f.write_str("it has ended"),
            Trouble::Denied { path, needs } => {
                write!(f, "{}: permission denied: that takes {needs}", path.display())
            }
            Trouble::NotThere(path) => write!(f, "{} is not there", path.display()),
            Trouble::NotOurs { path, what } => {
                write!(f, "{} {what}: not touched", path.display())
            }
            Trouble::Bad { path, bad } => write!(f, "{}: {bad}", path.display()),
            Trouble::Forged { path, what } => write!(f, "{}: {what}: not read on", path.display()),
            Trouble::Beyond { pid, entries } => write!(
                f,
                "its pid {pid} is beyond the switch table, which has {entries} entries: pid_max \
                 was raised since it was made"
            ),
            Trouble::Taken { tool: 0 } => f.write_str("another tool traces it already"),
            Trouble::Taken { tool } => {
                write!(f, "another tool traces it already (pid {tool} there)")
            }
            Trouble::Failed { path, errno } => write!(f, "{}: {}", path.display(), errno.desc()),
        }
    }
}
