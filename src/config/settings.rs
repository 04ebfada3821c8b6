//! What can be configured, as values that were checked when they were built.
//! Pure: reading and explaining a file is `config::read`.

use log::LevelFilter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::glob::{Glob, NameGlob};
use crate::report::Kind;
use crate::units::{Bytes, Share, StallKind, Trigger};

/// The daemon itself.
#[derive(Clone, PartialEq, Debug)]
pub struct GuardSettings {
    /// Keep the daemon in memory (mlockall).
    pub lock_memory: bool,
    /// Docker's data directory; `None`: as `/etc/docker/daemon.json` says, else `/var/lib/docker`.
    pub docker_root: Option<PathBuf>,
    /// Where Docker is asked when its files do not answer; `None`: never.
    pub docker_socket: Option<PathBuf>,
    /// Where the original values of `memory.high` are kept over restarts.
    pub state_dir: PathBuf,
    pub log: LevelFilter,
    /// Cgroups never watched, by path below the hierarchy's root, without a leading slash.
    pub skip_cgroups: Vec<Glob>,
    /// The label of a container that is not to be watched; `None`: no label does that.
    pub ignore_label: Option<String>,
}

/// Containers without a limit: their total is the host's memory.
#[derive(Clone, PartialEq, Debug)]
pub struct HostSettings {
    /// The share of the host's memory that may be used.
    pub threshold: Share,
    /// Stepping tripwires; `false`: PSI alone.
    pub stepping: bool,
    /// A share of the host's memory; less is not granted, an episode opens instead.
    pub smallest_step: Share,
    /// On `/proc/pressure/memory`.
    pub trigger: Trigger,
}

/// The file of incidents.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordSettings {
    pub path: PathBuf,
    /// The file is rotated before it grows over this.
    pub max_size: Bytes,
    /// How many rotated files stay beside it.
    pub keep: u32,
}

/// What is never ended, whatever a rule says.
#[derive(Clone, PartialEq, Debug)]
pub struct Protect {
    /// By name or id.
    pub containers: Vec<Glob>,
    /// By path or kernel id.
    pub notebooks: Vec<Glob>,
    /// As the host sees them.
    pub users: Vec<u32>,
    /// The container's label that protects it or some of its notebooks; `None`: none does.
    pub label: Option<String>,
    /// The container's environment variable that does.
    pub env: Option<String>,
}

/// What a notebook is told; an empty text says nothing.
#[derive(Clone, PartialEq, Debug)]
pub struct MessageSettings {
    /// At the warning step, to the notebook that holds the most.
    pub warning: String,
    /// Just below the threshold.
    pub last_call: String,
    /// With the signal.
    pub ended: String,
}

/// Who may ask for the figures, and where.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpSettings {
    /// Of the host: everything.
    pub socket: Option<PathBuf>,
    /// Of the containers: each its own.
    pub notebook_socket: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    /// Host headers beside the loopback's names.
    pub hosts: Vec<Glob>,
    pub token_file: Option<PathBuf>,
}

/// A program that is told of incidents.
#[derive(Clone, PartialEq, Debug)]
pub struct HookSettings {
    /// Empty: none.
    pub command: Vec<String>,
    pub on: Vec<Kind>,
    pub timeout: Duration,
}

/// How one container is guarded: the defaults, with the rules that match it laid over them.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// First step of the tripwire: look, read identities, warn. A share of the total.
    pub warning: Share,
    /// Between the two: who would end is told so while it can still be shown. `None`: no such step.
    pub last_call: Option<Share>,
    /// Second step: an episode opens. A share of the total.
    pub threshold: Share,
    /// The second witness.
    pub trigger: Trigger,
    pub policy: Policy,
    pub gate: Gate,
    /// A workload that holds less than this share of the total is only ended if that alone suffices.
    pub min_share: Share,
    /// End the largest notebook above this whatever the sum is. Off by default.
    pub notebook_max: Option<Amount>,
    pub scope: Scope,
    /// The rungs in order; the last is always KILL.
    pub signals: Vec<Signal>,
    /// How long each rung but the last waits for the pressure to go.
    pub grace: Duration,
    /// `false`: PSI alone, no `memory.high`.
    pub tripwire: bool,
    /// Tell notebooks about it.
    pub message: bool,
    /// Decide and report, touch nothing.
    pub dry_run: bool,
    /// Do not watch this container at all.
    pub ignore: bool,
    /// Whole container protected: watched and reported, nothing in it is ever ended.
    pub protect: bool,
    /// After a notebook was ended: how long until the same one may be ended again.
    pub backoff: Duration,
    /// Where the doubling of `backoff` stops.
    pub backoff_max: Duration,
    // What follows counts under `idle-first` alone.
    /// What an application's share is a share of.
    pub resource: Resource,
    /// An application above this is the important one.
    pub ratio: Share,
    /// Idle for less than this is not idle.
    pub idle_for: Duration,
    pub clear: Clear,
    /// Applications that are the important ones, where they are above the ratio.
    pub important: Vec<Glob>,
    /// Not essential, whatever they do.
    pub deny: Vec<NameGlob>,
    /// Essential, whatever `deny` says.
    pub allow: Vec<NameGlob>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The workload that holds the most.
    Largest,
    /// The one that grew the most since the warning look, then the largest.
    Growing,
    /// Who is not essential, so that the important application goes on: the deny list, then the
    /// longest idle, then the largest.
    IdleFirst,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Of the container's total.
    Memory,
    /// Of the CPU time that all processes of the container used between two looks.
    Cpu,
}

/// How many of those that are not essential end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clear {
    /// As many as it takes to fall below the threshold.
    Enough,
    /// Every one of them.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// All that cannot be reclaimed against the threshold.
    Usage,
    /// The sum over the workloads against the threshold of what is left for them.
    Notebooks,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Container,
    /// Only the notebooks of the uid that presses.
    User,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    Int,
    Term,
    Kill,
}

/// A size, or a share of the total.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    Bytes(Bytes),
    Share(Share),
}

impl Amount {
    pub fn of(self, total: Bytes) -> Bytes {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Share(share) => total.times(share),
        }
    }
}

impl Default for Settings {
    /// `conf/nbguard.toml` shows the same values; a test of `config::keys` compares them.
    fn default() -> Settings {
        Settings {
            warning: Share::percent(80),
            last_call: Some(Share::percent(85)),
            threshold: Share::percent(90),
            trigger: default_trigger(),
            policy: Policy::Largest,
            gate: Gate::Usage,
            min_share: Share::percent(10),
            notebook_max: None,
            scope: Scope::Container,
            signals: vec![Signal::Kill],
            grace: Duration::from_secs(5),
            tripwire: true,
            message: true,
            dry_run: false,
            ignore: false,
            protect: false,
            backoff: Duration::from_secs(15),
            backoff_max: Duration::from_secs(300),
            resource: Resource::Memory,
            ratio: Share::percent(2),
            idle_for: Duration::from_secs(60),
            clear: Clear::Enough,
            important: Vec::new(),
            deny: Vec::new(),
            allow: Vec::new(),
        }
    }
}

impl Default for GuardSettings {
    fn default() -> GuardSettings {
        GuardSettings {
            lock_memory: true,
            docker_root: None,
            docker_socket: Some(PathBuf::from("/run/docker.sock")),
            state_dir: PathBuf::from("/run/nbguard"),
            log: LevelFilter::Info,
            skip_cgroups: Vec::new(),
            ignore_label: Some("nbguard.ignore".to_owned()),
        }
    }
}

impl Default for HostSettings {
    fn default() -> HostSettings {
        HostSettings {
            threshold: Share::percent(90),
            stepping: true,
            smallest_step: Share::percent(1),
            trigger: default_trigger(),
        }
    }
}

impl Default for RecordSettings {
    fn default() -> RecordSettings {
        RecordSettings {
            path: PathBuf::from("/var/lib/nbguard/incidents.jsonl"),
            max_size: Bytes::mib(16),
            keep: 4,
        }
    }
}

impl Default for Protect {
    fn default() -> Protect {
        Protect {
            containers: Vec::new(),
            notebooks: Vec::new(),
            users: Vec::new(),
            label: Some("nbguard.protect".to_owned()),
            env: Some("NBGUARD_PROTECT".to_owned()),
        }
    }
}

impl Default for MessageSettings {
    fn default() -> MessageSettings {
        MessageSettings {
            warning: "nbguard: memory is running out: container {container} uses {usage} of \
                its {total} ({share}). This notebook holds the most, {memory} {running}. At \
                {threshold} its kernel will be ended, so that the others can go on. \
                Save your results now and free memory: del what is no longer needed, \
                or restart this kernel."
                .to_owned(),
            last_call: "nbguard: almost no memory is left: container {container} uses {usage} \
                of its {total} ({share}). This notebook holds the most, {memory} {running}, so \
                its kernel is the one that is ended at {threshold}, which may be in a \
                moment. If the kernel has died after this line, this is why: its \
                variables are gone, the notebook's file and the other notebooks are \
                not. To use less, work in smaller chunks, del what is done with, or \
                ask for a larger limit."
                .to_owned(),
            ended: "nbguard: the kernel of {notebook} was ended: container {container} was \
                out of memory ({usage} of {total}), and this notebook held the most, \
                {memory} {running}. Its variables are gone, its file and the other notebooks are \
                not."
                .to_owned(),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            socket: Some(PathBuf::from("/run/nbguard/http.sock")),
            notebook_socket: Some(PathBuf::from("/run/nbguard/notebook/nbguard.sock")),
            listen: None,
            hosts: Vec::new(),
            token_file: None,
        }
    }
}

impl Default for HookSettings {
    fn default() -> HookSettings {
        HookSettings {
            command: Vec::new(),
            on: vec![Kind::Kill, Kind::KernelOom],
            timeout: Duration::from_secs(10),
        }
    }
}

fn default_trigger() -> Trigger {
    Trigger::new(StallKind::Some, 150_000, 1_000_000)
        .expect("150 ms within 1 s is within the kernel's bounds")
}
