//! What was read of the host, as values. Nothing here is guessed: a figure that could not be had
//! is `Unknown` with the reason, never zero. Pure: no files, no clock.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::ids::ProcKey;
use crate::units::{Bytes, Moment};

/// Why a figure is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The process or group ended before it could be read.
    Gone,
    /// EPERM or EACCES.
    Denied,
    /// The kernel has no such file or line.
    Absent,
    /// The text was not what the kernel's documentation says.
    Malformed,
    /// It took longer than its deadline.
    TimedOut,
    /// Nobody asked for it: reading it was not worth its time.
    NotRead,
    /// Any other error of the operating system: out of descriptors, an I/O error.
    Failed,
}

/// A figure, or the reason why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field<T> {
    Known(T),
    Unknown(Why),
}

impl<T: Copy> Field<T> {
    pub fn known(self) -> Option<T> {
        match self {
            Field::Known(value) => Some(value),
            Field::Unknown(_) => None,
        }
    }

    pub fn is_known(&self) -> bool {
        matches!(self, Field::Known(_))
    }
}

impl<T: Serialize> Serialize for Field<T> {
    /// A known figure as itself, an unknown one as `null`.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Known(value) => value.serialize(s),
            Field::Unknown(_) => s.serialize_none(),
        }
    }
}

/// A cgroup limit file: so many bytes, or `max`, which is above all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Limit {
    At(Bytes),
    Max,
}

impl Limit {
    /// The lower of two limits.
    #[must_use]
    pub fn lowest(self, other: Limit) -> Limit {
        self.min(other)
    }

    pub fn bytes(self) -> Option<Bytes> {
        match self {
            Limit::Max => None,
            Limit::At(bytes) => Some(bytes),
        }
    }
}

impl fmt::Display for Limit {
    /// As the kernel reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.write_str("max"),
            Limit::At(bytes) => write!(f, "{}", bytes.0),
        }
    }
}

impl Serialize for Limit {
    /// Bytes, or `null` where there is no limit.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.bytes().serialize(s)
    }
}

/// Which hierarchies this host mounts (cgroups(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostMode {
    /// One hierarchy, memory controller in it.
    V2,
    /// Memory controller in v1, an empty v2 hierarchy beside it, which still has PSI.
    Hybrid,
    /// v1 alone.
    V1,
}

/// How a watched domain can tell that it is short of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// `memory.high` as tripwire, with the PSI trigger as second witness.
    #[serde(rename = "high+psi")]
    HighPsi,
    /// `memory.high` as tripwire; the kernel has no PSI.
    #[serde(rename = "high")]
    High,
    /// PSI alone: the tripwire is off, or could not be agreed on.
    #[serde(rename = "psi")]
    Psi,
    /// `memory.events` alone.
    #[serde(rename = "events")]
    Events,
    /// cgroup v1: a usage threshold, no throttle. Best effort.
    #[serde(rename = "v1-threshold")]
    V1Threshold,
    /// Nothing wakes the guard for this domain.
    #[serde(rename = "none")]
    None,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::HighPsi => "high+psi",
            Mode::High => "high",
            Mode::Psi => "psi",
            Mode::Events => "events",
            Mode::V1Threshold => "v1-threshold",
            Mode::None => "none",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counters of `memory.events` (Documentation/admin-guide/cgroup-v2.rst). They only rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Events {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// `memory.pressure`: averages in hundredths of a percent, totals in microseconds
/// (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Psi {
    pub some_avg10: u32,
    pub full_avg10: u32,
    pub some_total_us: u64,
    pub full_total_us: u64,
}

impl Psi {
    /// `some` and `full` over the last 10 s, as shown: percent.
    pub fn percent(&self) -> (f64, f64) {
        let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
        (percent(self.some_avg10), percent(self.full_avg10))
    }
}

/// The memory of a cgroup at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Figures {
    /// `memory.current`, or `memory.usage_in_bytes` on v1.
    pub usage: Bytes,
    /// `memory.swap.current`; zero where the host has no swap accounting *and* no swap.
    pub swap: Field<Bytes>,
    /// `memory.swap.max`.
    pub swap_max: Limit,
    /// The lowest `memory.max` of the group and its ancestors.
    pub limit: Limit,
    /// `memory.high` as it stands in the file now.
    pub high: Limit,
    /// `memory.stat`: anonymous memory in use, without swap.
    pub anon: Bytes,
    /// `memory.stat`: tmpfs and shared memory.
    pub shmem: Bytes,
    /// `memory.stat`: page cache on the inactive list.
    pub inactive_file: Bytes,
    /// `memory.stat`: page cache on the active list.
    pub active_file: Bytes,
    /// `memory.stat`: slab that can be reclaimed.
    pub slab_reclaimable: Bytes,
    /// `memory.stat`: pages that were evicted and needed again, anonymous and file together.
    pub refaults: u64,
    pub events: Events,
    pub psi: Field<Psi>,
}

impl Figures {
    /// What reclaim cannot give back: usage less the page cache on both lists and reclaimable
    /// slab. Shared memory is on neither file list, so it stays in.
    pub fn unreclaimable(&self) -> Bytes {
        self.usage.less(self.inactive_file).less(self.active_file).less(self.slab_reclaimable)
    }

    /// The same with what is swapped out, as far as that is known: what an end gives back.
    pub fn held(&self) -> Bytes {
        self.unreclaimable().plus(self.swap.known().unwrap_or_default())
    }
}

/// The host's memory (`/proc/meminfo`, proc_meminfo(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct HostMemory {
    pub total: Bytes,
    pub available: Bytes,
    pub swap_total: Bytes,
    pub swap_free: Bytes,
}

impl HostMemory {
    /// What is not available, and what is swapped out.
    pub fn held(&self) -> Bytes {
        self.total.less(self.available).plus(self.swap_total.less(self.swap_free))
    }
}

/// The name a process gives itself: at most 15 bytes and a NUL (proc_pid_comm(5)). Untrusted.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    pub fn new(text: &[u8]) -> Comm {
        let mut comm = [0; 16];
        let len = text.len().min(15);
        comm[..len].copy_from_slice(&text[..len]);
        Comm(comm)
    }

    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(16);
        &self.0[..end]
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.bytes()))
    }
}

/// One process as `/proc/<pid>/stat` shows it. Copied, never allocated: this is read by the
/// hundred between an event and a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proc {
    pub key: ProcKey,
    pub ppid: u32,
    pub pgrp: u32,
    pub sid: u32,
    pub comm: Comm,
    /// `R`, `S`, `D`, `Z`, … of the whole process: `Z` when all its threads have ended.
    pub state: u8,
    /// Clock ticks that it ran so far, in user and in kernel mode, all its threads together.
    pub ticks: u64,
    /// Resident set with everything shared in it: an upper bound of what an end gives back.
    pub rss: Bytes,
    /// Which container of the domain it is in (a slice or the host holds several).
    pub container: u16,
    /// From `status`, where it was worth reading.
    pub memory: Field<ProcMemory>,
    /// From `smaps_rollup`, where it was worth reading: proportional anonymous + swap + shared
    /// memory (proc_pid_smaps(5)).
    pub pss: Field<Bytes>,
}

impl Proc {
    /// A zombie holds nothing and cannot be ended.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// RssAnon, RssShmem and VmSwap of `/proc/<pid>/status` (proc_pid_status(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcMemory {
    pub anon: Bytes,
    pub shmem: Bytes,
    pub swap: Bytes,
}

/// Whether a process is at work. The texts (which function, which script) are kept beside it,
/// by [`ProcKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// In a function, a request or a cell: since when, where that was said.
    Busy { since: Option<Moment>, by: Source },
    /// At work on nothing, at the latest since then.
    Idle { since: Moment, by: Source },
    /// Never taken for idle.
    Unknown(Why),
}

/// Who says whether a process is busy, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The page that the tracer inside the interpreter stamps.
    Tracer,
    /// A call stack that was read from outside.
    Stack,
    /// CPU time alone: it did not rise.
    Cpu,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Tracer => "tracer",
            Source::Stack => "stack",
            Source::Cpu => "cpu",
        }
    }
}

impl Activity {
    /// For how long it has surely been idle. `None`: it is busy, or nobody knows.
    pub fn idle_for(self, now: Moment) -> Option<std::time::Duration> {
        match self {
            Activity::Idle { since, .. } => Some(now.since(since)),
            Activity::Busy { .. } | Activity::Unknown(_) => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Activity::Busy { .. } => "busy",
            Activity::Idle { .. } => "idle",
            Activity::Unknown(_) => "unknown",
        }
    }
}
