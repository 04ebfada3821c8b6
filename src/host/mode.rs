//! Which cgroup hierarchies this host mounts, and where: from `/proc/self/mountinfo`, never from
//! the usual paths. Never changes anything.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::facts::HostMode;
use crate::host::memory;
use crate::parse::{Mount, mountinfo};
use crate::roots::{Buffer, Roots};

/// Why no hierarchy can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// `/proc/self/mountinfo` cannot be read.
    MountInfo(Errno),
    /// Neither hierarchy is mounted where we can see it.
    NoCgroups,
    /// The kernel was started without the memory controller (`cgroup_disable=memory`, and the
    /// default of some arm boards), or it is not delegated to the part that we see.
    NoMemoryController { v2: PathBuf },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::MountInfo(errno) => write!(f, "/proc/self/mountinfo: {}", errno.desc()),
            Error::NoCgroups => f.write_str("/proc/self/mountinfo: no cgroup hierarchy is mounted"),
            Error::NoMemoryController { v2 } => {
                write!(f, "{}/cgroup.controllers: no memory controller", v2.display())
            }
        }
    }
}

impl std::error::Error for Error {}

/// The hierarchies, as paths that can be opened (below the prefix of [`Roots`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchies {
    pub mode: HostMode,
    pub v2: Option<PathBuf>,
    pub v1_memory: Option<PathBuf>,
    /// Which group the mount of the memory controller shows as its root: `/`, unless a part of
    /// the hierarchy was bind-mounted (a guard inside a container). `/proc/<pid>/cgroup` counts
    /// from the real root.
    pub memory_subtree: PathBuf,
    /// Likewise of the v2 mount.
    pub v2_subtree: PathBuf,
    /// The host had swap when this was read.
    pub host_swap: bool,
}

impl Hierarchies {
    /// Where the memory controller is.
    pub fn memory_root(&self) -> &Path {
        let v2 = self.v2.as_deref();
        match self.mode {
            HostMode::V2 => v2,
            HostMode::Hybrid | HostMode::V1 => self.v1_memory.as_deref(),
        }
        .expect("hierarchies() found the memory controller in the one its mode names")
    }

    /// Where pressure, `cgroup.events` and the freezer of v2 are.
    pub fn psi_root(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// The v2 directory of the group whose directory on the memory side this is.
    pub fn unified(&self, dir: &Path) -> Option<PathBuf> {
        let relative = dir.strip_prefix(self.memory_root()).ok()?;
        Some(self.psi_root()?.join(relative))
    }

    /// A path of `/proc/<pid>/cgroup` relative to [`Hierarchies::memory_root`]; `None` when the
    /// mount does not show that group.
    pub fn relative_to_memory<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.memory_subtree).ok()
    }

    /// Likewise relative to [`Hierarchies::psi_root`].
    pub fn relative_to_psi<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.v2_subtree).ok()
    }
}

/// Finds the hierarchies. Where one is mounted several times, the mount that shows the most of it.
///
/// # Errors
/// When there is none that accounts for memory.
pub fn hierarchies(roots: &Roots) -> Result<Hierarchies, Error> {
    let mut buffer = Buffer::new();
    let host_swap = memory::memory(roots, &mut buffer).is_ok_and(|host| host.swap_total.0 > 0);
    let text = buffer.read_whole(roots.proc(), c"self/mountinfo").map_err(Error::MountInfo)?;
    let (mut v2, mut v1) = (None, None);
    for mount in mountinfo(text).flatten() {
        match mount.fstype {
            b"cgroup2" => widest(&mut v2, roots, &mount),
            b"cgroup" if mount.has_option(b"memory") => widest(&mut v1, roots, &mount),
            _ => {}
        }
    }
    let mode = match (&v2, &v1) {
        (None, None) => return Err(Error::NoCgroups),
        (None, Some(_)) => HostMode::V1,
        (Some(_), Some(_)) => HostMode::Hybrid,
        (Some(mounted), None) if has_memory(&mounted.path) => HostMode::V2,
        (Some(mounted), None) => {
            return Err(Error::NoMemoryController { v2: mounted.path.clone() });
        }
    };
    let subtree = |mounted: &Option<Mounted>| {
        mounted.as_ref().map_or_else(|| PathBuf::from("/"), |mounted| mounted.subtree.clone())
    };
    Ok(Hierarchies {
        mode,
        memory_subtree: if mode == HostMode::V2 { subtree(&v2) } else { subtree(&v1) },
        v2_subtree: subtree(&v2),
        v2: v2.map(|mounted| mounted.path),
        v1_memory: v1.map(|mounted| mounted.path),
        host_swap,
    })
}

struct Mounted {
    path: PathBuf,
    subtree: PathBuf,
}

/// Takes the mount if it can be used and shows more than the one that is held.
fn widest(held: &mut Option<Mounted>, roots: &Roots, mount: &Mount<'_>) {
    let mounted = Mounted { path: roots.path(mount.point()), subtree: mount.root() };
    let depth = |mounted: &Mounted| mounted.subtree.components().count();
    // Another filesystem may be mounted over it.
    let usable = mounted.path.join("cgroup.procs").exists();
    if usable && held.as_ref().is_none_or(|held| depth(&mounted) < depth(held)) {
        *held = Some(mounted);
    }
}

/// Whether v2 has the memory controller: on a hybrid host, or started without it, it does not.
fn has_memory(v2: &Path) -> bool {
    std::fs::read_to_string(v2.join("cgroup.controllers"))
        .is_ok_and(|text| text.split_ascii_whitespace().any(|controller| controller == "memory"))
}
