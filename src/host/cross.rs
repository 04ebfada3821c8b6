//! The same facts once more, through `cgroups-rs` and `procfs`: what `doctor` shows beside our own
//! readers, and what the tests compare them with. Off the hot path: allocates as it likes.
//!
//! The crates know only the running system, so nothing here takes a fixture's root, and
//! `cgroups-rs` turns every error into *no limit, 0 used*, so its figures are asked for only where
//! its files are known to exist (CRATES.md, section 1).

use std::path::PathBuf;

use cgroups_rs::fs::cgroup::get_cgroups_relative_paths_by_pid;
use cgroups_rs::fs::hierarchies;
use cgroups_rs::fs::memory::MemController;

use crate::facts::{HostMode, Limit};
use crate::host::group::{Group, Version};
use crate::ids::ProcKey;
use crate::parse::ProcCgroup;
use crate::units::Bytes;

/// Whether `cgroups-rs` takes this host for what we do. It knows *v2 alone* and *anything else*.
pub fn agrees_on_mode(mode: HostMode) -> bool {
    hierarchies::is_cgroup2_unified_mode() == (mode == HostMode::V2)
}

/// Where a process is, as `cgroups-rs` reads `/proc/<pid>/cgroup`. `None`: gone, or not readable.
pub fn cgroup_of(pid: u32) -> Option<ProcCgroup> {
    let paths = get_cgroups_relative_paths_by_pid(pid).ok()?;
    let path = |controller: &str| paths.get(controller).map(PathBuf::from);
    Some(ProcCgroup { v2: path(""), v1_memory: path("memory") })
}

/// Usage and own limit of a group as `cgroups-rs` reads them. `None`: removed meanwhile.
pub fn usage_and_limit(group: &Group) -> Option<(Bytes, Limit)> {
    let v2 = group.version() == Version::V2;
    let current = if v2 { "memory.current" } else { "memory.usage_in_bytes" };
    let memory = MemController::new(group.dir(), PathBuf::new(), v2).memory_stat();
    // Asked after the figures: if the file is there now, it was there when they were read.
    if !group.dir().join(current).exists() {
        return None;
    }
    let limit = match u64::try_from(memory.limit_in_bytes) {
        Err(_) => Limit::Max,
        Ok(bytes) if bytes >= 1 << 62 => Limit::Max,
        Ok(bytes) => Limit::At(Bytes(bytes)),
    };
    Some((Bytes(memory.usage_in_bytes), limit))
}

/// Identity and resident bytes of a process as `procfs` reads them. `None`: gone.
pub fn process(pid: u32) -> Option<(ProcKey, Bytes)> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let rss = stat.rss.saturating_mul(procfs::page_size());
    Some((ProcKey { pid, start: stat.starttime }, Bytes(rss)))
}
