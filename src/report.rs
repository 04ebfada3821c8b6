//! The record of an episode: what happened, to whom, why, on which figures, how fast. One JSON
//! object each in `incidents.jsonl`, and one line in the journal. And the survey: what the HTTP
//! interface answers of now. Pure: values only.
//!
//! A key that changes its name or meaning is an entry in the changelog.

pub mod counters;
pub mod stack;

use serde::{Deserialize, Serialize};

pub use counters::{ContainerCounts, Counters};

use crate::units::Bytes;

/// Version of the record's shape, in every record.
pub const SCHEMA: u32 = 1;

/// One episode from its first event to its end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Incident {
    pub schema: u32,
    /// UUID of the episode.
    pub id: String,
    /// When its first event arrived: RFC 3339, UTC, milliseconds.
    pub time: String,
    pub host: String,
    pub kind: Kind,
    /// `container`, `slice` or `host`: what was short of memory.
    pub domain: String,
    /// The container that was short; of a kill in an episode of the host or a slice, the victim's.
    pub container: Option<ContainerRecord>,
    /// How the domain is watched, such as `high+psi`.
    pub mode: String,
    /// Which event opened the episode.
    pub trigger: String,
    pub figures: FiguresRecord,
    /// Ranked workloads, the one that goes first at the top.
    pub rows: Vec<Row>,
    /// Notebook servers: shown, never ended.
    pub servers: Vec<ProcessRecord>,
    pub unattributed: Unattributed,
    pub verdict: Verdict,
    /// Why, in kebab-case: the stable name of the reason to end or to hold.
    pub reason: String,
    /// The same for people, in one sentence.
    pub sentence: String,
    /// Nothing was done, only decided.
    pub dry_run: bool,
    pub victim: Option<Victim>,
    pub timings: Timings,
    /// What came back: what could not be reclaimed before, less what could not be afterwards.
    pub freed: Option<Bytes>,
    /// `oom_kill` of the container while the episode ran.
    pub kernel_oom_kills: u64,
    /// Whether the notebook was told: `written: cell`, `written: log`, or `skipped: …` with the
    /// reason (`act::message::Skip`).
    pub message: String,
    /// What the victim was running at the warning step or the last call, innermost frame first,
    /// where it could be had; `timings` say how long before.
    pub stack: Vec<String>,
    /// Under `idle-first`: for whose sake, and how much that one has.
    pub cleaning: Option<Box<Cleaning>>,
}

/// What `idle-first` stands on: the applications and their shares.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cleaning {
    /// `memory` or `cpu`: what `ratio` is a share of.
    pub resource: String,
    pub ratio: f64,
    /// What the shares are shares of, in words.
    pub of: String,
    /// `enough` or `all`.
    pub clear: String,
    /// The application for whose sake others end, as it was when that was decided.
    pub important: Option<Application>,
    /// The same when the tree was dead.
    pub after: Option<Application>,
    /// All of them, the largest first. Bounded.
    pub applications: Vec<Application>,
    /// How many are not essential, and how many of them it takes.
    pub candidates: u32,
    pub needed: u32,
    /// The episode that ended the first one of this shortage, and the how many-th this one is.
    pub first: Option<String>,
    pub number: u32,
}

/// A php-fpm pool, a PHP script, mod_php or a notebook, with all its processes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Application {
    pub name: String,
    pub processes: u32,
    /// What their end gives back.
    pub memory: Bytes,
    pub memory_share: Option<f64>,
    pub cpu_share: Option<f64>,
    /// Above the ratio.
    pub over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The guard ended a workload (or would have, under `dry_run`).
    Kill,
    /// The guard looked and ended nobody.
    Hold,
    /// The kernel's OOM killer acted in a watched container.
    KernelOom,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Kill,
    Hold,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub image: String,
    pub engine: String,
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What the decision was made on. Bytes, unless the name says otherwise.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FiguresRecord {
    pub usage: Bytes,
    pub unreclaimable: Bytes,
    pub anon: Bytes,
    pub shmem: Bytes,
    pub swap: Option<Bytes>,
    /// The lowest limit that holds for the domain; the host's memory where there is none.
    pub total: Bytes,
    pub limit: Option<Bytes>,
    pub threshold: Bytes,
    /// `memory.high` at the moment of the decision.
    pub high: Option<Bytes>,
    /// Tasks stalled on memory in the last 10 s, percent.
    pub psi_some_avg10: Option<f64>,
    pub psi_full_avg10: Option<f64>,
}

/// A workload in the ranking.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// The root process.
    pub pid: u32,
    pub start: u64,
    /// What its end gives back, as far as it is known: the figure that ranks it.
    pub memory: Bytes,
    pub lower: Bytes,
    pub upper: Bytes,
    /// What settled its place: `exact`, `intervals`, `cgroup-figures`, `pss`, `lower-bound`.
    pub settled_by: String,
    /// The process's own name.
    pub name: String,
    pub notebook: Option<String>,
    pub kernel_id: Option<String>,
    pub uid: Option<u32>,
    pub container: Option<String>,
    /// `yes`, or the reason why it may not be ended.
    pub eligible: String,
    pub because: String,
    /// What it works for: `pool:www`, `script:/srv/job.php`, `apache`, a notebook's path.
    pub application: Option<String>,
    /// Under `idle-first`: `busy`, `idle` or `unknown`, and for how long it is idle.
    pub activity: Option<String>,
    pub idle_s: Option<u64>,
    /// … which list names it: `deny` or `allow`, and the pattern.
    pub listed: Option<String>,
    pub members: Vec<ProcessRecord>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub pid: u32,
    pub name: String,
    pub memory: Bytes,
}

/// Processes of the domain that belong to no workload: counted and named, never ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Unattributed {
    pub count: u32,
    pub memory: Bytes,
    /// The largest of them.
    pub top: Vec<ProcessRecord>,
}

/// The workload that was ended, and how that went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Victim {
    pub pid: u32,
    pub name: String,
    pub notebook: Option<String>,
    pub kernel_id: Option<String>,
    pub memory: Bytes,
    /// `KILL`, or the rungs that were taken.
    pub signals: Vec<String>,
    /// Processes that were signalled, those found by later sweeps among them.
    pub signalled: u32,
    /// `resource_tracker` processes that were given time to unlink shared memory.
    pub trackers_spared: u32,
    pub sweeps: u32,
    pub frozen: bool,
    /// Processes that could not be signalled or did not die, with the reason.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Refusal {
    pub pid: u32,
    pub reason: String,
}

/// Microseconds between the steps. `None`: the step was not reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timings {
    pub event_to_decision_us: Option<u64>,
    pub decision_to_signal_us: Option<u64>,
    pub event_to_signal_us: Option<u64>,
    pub signal_to_dead_us: Option<u64>,
    pub signal_to_back_us: Option<u64>,
    /// How old `stack` was at the decision.
    #[serde(default)]
    pub stack_to_decision_us: Option<u64>,
}

// What the HTTP interface answers: the guard's view of now, where an incident is its view of then.
// Text in it is bounded and escaped for a terminal, and is not escaped for HTML: whoever shows it
// in a page sets it as text.

/// Everything that is watched, at one moment: the body of `/api/v1/containers`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Survey {
    pub schema: u32,
    /// When the figures were read: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// How old they were when they were sent.
    pub age_ms: u64,
    /// `None` for whoever may see nothing but his own container.
    pub host: Option<HostView>,
    /// `nbguard pause` holds for the whole host.
    pub paused: bool,
    pub containers: Vec<ContainerView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostView {
    pub name: String,
    /// Its cgroups: `v2`, `hybrid`, `v1`.
    pub mode: String,
    pub total: Bytes,
    pub available: Bytes,
    pub swap_total: Bytes,
    pub swap_free: Bytes,
    /// Above this the host itself is short.
    pub threshold: Bytes,
}

/// One watched container.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ContainerView {
    pub id: String,
    pub name: String,
    pub image: String,
    pub engine: String,
    /// How it is watched, such as `high+psi`, and why not better.
    pub mode: String,
    pub mode_reason: String,
    /// Where its state machine stands: `quiet`, `warned`, `pressed`, `silenced`, `deciding`,
    /// `killing`, `cooling`, `lifted`, `muted`.
    pub state: String,
    pub usage: Bytes,
    pub unreclaimable: Bytes,
    pub anon: Bytes,
    pub shmem: Bytes,
    pub swap: Option<Bytes>,
    pub limit: Option<Bytes>,
    /// What the shares are shares of: the limit, or the host's memory.
    pub total: Bytes,
    pub warning: Bytes,
    pub threshold: Bytes,
    /// `memory.high` as it stands now.
    pub high: Option<Bytes>,
    pub psi_some_avg10: Option<f64>,
    pub psi_full_avg10: Option<f64>,
    /// What all notebooks hold together.
    pub sum: Bytes,
    pub ratio: f64,
    /// `largest`, `growing` or `idle-first`.
    pub policy: String,
    pub dry_run: bool,
    pub paused: bool,
    pub protected: bool,
    /// The largest first. Bounded; `notebooks_total` is not.
    pub notebooks: Vec<NotebookView>,
    pub notebooks_total: u32,
    /// For the metrics.
    #[serde(skip)]
    pub counts: ContainerCounts,
    pub servers: Vec<ProcessRecord>,
    pub unattributed: Unattributed,
    pub would: Would,
    /// Under `idle-first`.
    pub cleaning: Option<Box<Cleaning>>,
}

/// One notebook, with all its processes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NotebookView {
    /// The root process.
    pub pid: u32,
    pub start: u64,
    /// What its end gives back, and between which bounds that is known.
    pub memory: Bytes,
    pub lower: Bytes,
    pub upper: Bytes,
    /// Of the container's total.
    pub share: f64,
    pub name: String,
    pub notebook: Option<String>,
    pub kernel_id: Option<String>,
    pub uid: Option<u32>,
    /// The root process as the container itself sees it.
    pub container_pid: Option<u32>,
    /// `yes`, or why it may not be ended.
    pub eligible: String,
    pub because: String,
    /// As in a [`Row`].
    pub application: Option<String>,
    pub activity: Option<String>,
    pub idle_s: Option<u64>,
    pub listed: Option<String>,
    /// Bounded; `processes_total` is not.
    pub processes: Vec<ProcessRecord>,
    pub processes_total: u32,
}

/// What would happen if the container ran short now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Would {
    pub end: Option<u32>,
    pub reason: String,
    pub sentence: String,
}

/// Whether the guard can guard: the body of `/healthz`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or what is wrong.
    pub status: String,
    pub version: String,
    pub uptime_s: u64,
    pub containers: u32,
}
