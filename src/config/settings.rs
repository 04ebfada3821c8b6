//! What can be configured, as values that were checked when they were built.
//! Pure: reading and explaining a file is `config::read`.

use std::time::Duration;

use crate::units::{Bytes, Share, Trigger};

/// How one container is guarded: the defaults, with the rules that match it laid over them.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// First step of the tripwire: look, read identities, warn. A share of the total.
    pub warning: Share,
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
    /// Decide and report, touch nothing.
    pub dry_run: bool,
    /// Do not watch this container at all.
    pub ignore: bool,
    /// Whole container protected: watched and reported, nothing in it is ever ended.
    pub protect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The workload that holds the most.
    Largest,
    /// The one that grew the most since the warning look, then the largest.
    Growing,
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
    /// `conf/nbguard.toml` shows the same values; `tests/it/config.rs` compares them.
    fn default() -> Settings {
        Settings {
            warning: Share::percent(80),
            threshold: Share::percent(90),
            trigger: Trigger::new(crate::units::StallKind::Some, 150_000, 1_000_000)
                .expect("150 ms within 1 s is within the kernel's bounds"),
            policy: Policy::Largest,
            gate: Gate::Usage,
            min_share: Share::percent(10),
            notebook_max: None,
            scope: Scope::Container,
            signals: vec![Signal::Kill],
            grace: Duration::from_secs(5),
            tripwire: true,
            dry_run: false,
            ignore: false,
            protect: false,
        }
    }
}
