//! The gate (is memory really short?) and the verdict (who ends, or why nobody does).
//! Pure: no files, no clock. Every way of not acting has a name, as every kill has.
//!
//! Order of one decision: `gate`, then `Screen::sift` (who may be chosen at all), then the
//! reading of what the ranking asks for, then `Screen::decide`, which may ask once more.

use serde::Serialize;
use std::cmp::Reverse;
use std::time::Duration;

use crate::config::settings::{Gate as GateForm, Policy, Scope, Settings};
use crate::facts::{Activity, Figures, HostMemory, Limit, Proc, Why};
use crate::ids::ProcKey;
use crate::policy::clean::{self, Choice, Cleaning, Inside};
use crate::policy::identity::Identities;
use crate::policy::rank::{Baseline, Interval, Purpose, Ranking, Row, SettledBy};
use crate::policy::tree::{Bar, Forest, Workload};
use crate::units::{Bytes, Share};

/// At the crossing itself some of the usage can always still be reclaimed: of 450 MiB at the
/// first event 443 could not (KERNEL.md, "What happens at memory.high").
pub const GATE_TOLERANCE: Share = Share::percent(3);
/// An end "suffices" when it leaves at least this much of the total below the threshold; the
/// tripwire goes back at the same distance.
pub const RELIEF: Share = Share::percent(5);

// Thrash. Reading big files again and again refaults as well, so refaults count only where little
// is left to reclaim and somebody waits for it.
/// How near to the threshold the memory that cannot be reclaimed must be.
const THRASH_TOLERANCE: Share = Share::percent(10);
/// Memory faulted back in per second, as a share of the total.
const THRASH_RATE: Share = Share::percent(5);
/// Share of the time in which some task waited for memory. The default trigger asks for 15 %.
const THRASH_STALL: Share = Share::percent(25);
/// Two figures nearer than this say nothing about a rate.
const THRASH_SPAN: Duration = Duration::from_millis(50);
/// The page that `workingset_refault_*` counts.
const PAGE: u64 = 4096;

/// Growth below this share of the total is noise: shared libraries, caches of the allocator.
const GROWTH_NOISE: Share = Share::percent(1);
/// Processes whose identity is asked for at once: reading one costs some 40 µs, or half a second
/// where the process is throttled.
pub const MAX_ASKED: usize = 64;
/// RSS whose proportional part is worth waiting for: 14 ms per GiB (KERNEL.md), about a quarter
/// of a second.
pub const PSS_BUDGET: Bytes = Bytes::gib(16);

/// What the shares of the settings are shares of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Scale {
    pub total: Bytes,
    /// Swap that the domain may use.
    pub swap: Bytes,
}

impl Scale {
    /// The limit of a container, or the host's memory where it has none. `foreign_high` is a
    /// `memory.high` that somebody else set: where it is lower, it is the total.
    pub fn of(figures: &Figures, foreign_high: Limit, host: &HostMemory) -> Scale {
        let limit = figures.limit.lowest(foreign_high).lowest(Limit::At(host.total));
        let swap = figures.swap_max.lowest(Limit::At(host.swap_total));
        Scale {
            total: limit.bytes().unwrap_or(host.total),
            swap: swap.bytes().unwrap_or(host.swap_total),
        }
    }

    /// Where the tripwire belongs. For the source system's comparison what is in no workload is
    /// taken off the total first, so the same share stands higher.
    pub fn step(self, share: Share, form: GateForm, in_no_workload: Bytes) -> Bytes {
        match form {
            GateForm::Usage => self.total.times(share),
            GateForm::Notebooks => {
                let outside = in_no_workload.min(self.total);
                outside.plus(self.total.less(outside).times(share))
            }
        }
    }
}

/// What was compared with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Measure {
    pub usage: Bytes,
    /// Usage without what reclaim gives back.
    pub unreclaimable: Bytes,
    /// What the gate counted.
    pub counted: Bytes,
    /// What that was compared with.
    pub mark: Bytes,
    /// Where an end suffices: `counted` at or below this.
    pub relief: Bytes,
    /// What the shares are taken of: the total, and swap where it counts, or what is left for the
    /// notebooks.
    pub whole: Bytes,
    pub total: Bytes,
}

impl Measure {
    /// Whether what counts has come as near to this share as it must come to the threshold.
    pub fn reaches(&self, share: Share) -> bool {
        self.counted >= self.whole.times(share).less(self.total.times(GATE_TOLERANCE))
    }
}

/// What made the gate open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    Usage,
    UsageAndSwap,
    Notebooks,
    Thrash,
    Host,
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            By::Usage => "usage",
            By::UsageAndSwap => "usage-and-swap",
            By::Notebooks => "notebooks",
            By::Thrash => "thrash",
            By::Host => "host",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    Passed {
        by: By,
        measure: Measure,
    },
    Held {
        reason: HoldReason,
        measure: Measure,
    },
    /// The form compares the sum of the workloads, and nobody added it up yet.
    NeedSum,
}

impl Gate {
    pub fn measure(&self) -> Option<&Measure> {
        match self {
            Gate::Passed { measure, .. } | Gate::Held { measure, .. } => Some(measure),
            Gate::NeedSum => None,
        }
    }

    pub fn is_passed(&self) -> bool {
        matches!(self, Gate::Passed { .. })
    }

    /// The same figures as if the threshold had been reached: who would end there?
    #[must_use]
    pub fn at_the_threshold(self) -> Gate {
        match self {
            Gate::Held { measure, .. } => {
                let counted = measure.counted.max(measure.mark);
                Gate::Passed { by: By::Usage, measure: Measure { counted, ..measure } }
            }
            other => other,
        }
    }
}

/// An earlier look at the same domain.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub figures: &'a Figures,
    pub ago: Duration,
}

/// Whether a container is short of memory that only an end gives back. `sum` is what its
/// workloads hold, needed by `gate = "notebooks"` alone.
pub fn gate(
    now: &Figures,
    before: Option<Before<'_>>,
    scale: Scale,
    settings: &Settings,
    sum: Option<Interval>,
) -> Gate {
    let (by, measure) = match settings.gate {
        GateForm::Usage => by_usage(now, scale, settings.threshold),
        GateForm::Notebooks => match sum {
            Some(sum) => by_notebooks(now, scale, settings.threshold, sum.middle()),
            None => return Gate::NeedSum,
        },
    };
    if measure.counted >= measure.mark {
        return Gate::Passed { by, measure };
    }
    if before.is_some_and(|before| thrashes(now, before, scale, settings.threshold)) {
        return Gate::Passed {
            by: By::Thrash,
            measure: thrash_measure(measure, settings.threshold),
        };
    }
    let threshold = scale.total.times(settings.threshold).less(scale.total.times(GATE_TOLERANCE));
    let reason = if now.usage >= threshold && measure.unreclaimable < threshold {
        HoldReason::BenignCache
    } else {
        HoldReason::Relieved
    };
    Gate::Held { reason, measure }
}

/// With swap, usage and swap together against both limits together.
fn by_usage(now: &Figures, scale: Scale, threshold: Share) -> (By, Measure) {
    let swap = now.swap.known().unwrap_or_default();
    let with_swap = scale.swap > Bytes::ZERO;
    let whole = if with_swap { scale.total.plus(scale.swap) } else { scale.total };
    let counted = now.unreclaimable().plus(if with_swap { swap } else { Bytes::ZERO });
    let by = if with_swap { By::UsageAndSwap } else { By::Usage };
    (by, measure(now, counted, whole, threshold, scale.total))
}

/// The source system's comparison: the sum over the notebooks against the share of what is left
/// for them.
fn by_notebooks(now: &Figures, scale: Scale, threshold: Share, sum: Bytes) -> (By, Measure) {
    let in_no_workload = now.unreclaimable().less(sum);
    (By::Notebooks, measure(now, sum, scale.total.less(in_no_workload), threshold, scale.total))
}

fn measure(now: &Figures, counted: Bytes, whole: Bytes, threshold: Share, total: Bytes) -> Measure {
    let threshold = whole.times(threshold);
    Measure {
        usage: now.usage,
        unreclaimable: now.unreclaimable(),
        counted,
        mark: threshold.less(total.times(GATE_TOLERANCE)),
        relief: threshold.less(total.times(RELIEF)),
        whole,
        total,
    }
}

/// Memory comes back from disk or swap as fast as it is taken, and tasks wait for it.
fn thrashes(now: &Figures, before: Before<'_>, scale: Scale, threshold: Share) -> bool {
    let Before { figures: then, ago } = before;
    if ago < THRASH_SPAN {
        return false;
    }
    let step = scale.total.times(threshold);
    let full = now.usage >= step.less(scale.total.times(GATE_TOLERANCE))
        && now.unreclaimable() >= step.less(scale.total.times(THRASH_TOLERANCE));
    let refaulted = Bytes(now.refaults.saturating_sub(then.refaults).saturating_mul(PAGE));
    let at_rate = scale.total.times(THRASH_RATE).0 as f64 * ago.as_secs_f64();
    full && refaulted.0 as f64 >= at_rate && stalls(now, then, ago)
}

/// As far below its mark as with the other forms.
fn thrash_measure(measure: Measure, threshold: Share) -> Measure {
    let total = measure.total;
    let mark = total.times(threshold).less(total.times(THRASH_TOLERANCE));
    let relief = mark.less(total.times(RELIEF)).plus(total.times(GATE_TOLERANCE));
    Measure { counted: measure.unreclaimable, mark, relief, ..measure }
}

fn stalls(now: &Figures, then: &Figures, ago: Duration) -> bool {
    match (now.psi.known(), then.psi.known()) {
        (Some(now), Some(then)) => {
            let stalled = now.some_total_us.saturating_sub(then.some_total_us);
            let span = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
            Share::of(Bytes(stalled), Bytes(span)).is_some_and(|share| share >= THRASH_STALL)
        }
        // Without PSI nobody can say who waits.
        _ => false,
    }
}

/// The same question for a host: all that is not available, and swap with it.
pub fn host_gate(host: &HostMemory, settings: &Settings) -> Gate {
    let used = host.total.less(host.available);
    let whole = host.total.plus(host.swap_total);
    let threshold = whole.times(settings.threshold);
    let measure = Measure {
        usage: used,
        unreclaimable: used,
        counted: host.held(),
        mark: threshold.less(host.total.times(GATE_TOLERANCE)),
        relief: threshold.less(host.total.times(RELIEF)),
        whole,
        total: host.total,
    };
    if measure.counted >= measure.mark {
        Gate::Passed { by: By::Host, measure }
    } else {
        Gate::Held { reason: HoldReason::Relieved, measure }
    }
}

/// Why nobody is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldReason {
    Relieved,
    BenignCache,
    NoWorkloads,
    AllProtected,
    MemoryIsProtected,
    BelowMinShare,
    MemoryInNoWorkload,
    IdentityUnknown,
    Backoff,
    ContainerProtected,
    DryRun,
    /// `nbguard pause`.
    Paused,
    /// `idle-first`: there is no important application for whose sake somebody would end.
    NoApplicationOverRatio,
    /// … how much the applications use is not known.
    ShareUnknown,
    /// … nobody is on the deny list or idle for long enough.
    NobodyNonEssential,
    /// … nobody is, as far as is known, and of some it is not known.
    ActivityUnknown,
    /// … so many have ended that one more is not likely to help.
    TooManyEnds,
}

impl HoldReason {
    pub const ALL: [HoldReason; 17] = [
        HoldReason::Relieved,
        HoldReason::BenignCache,
        HoldReason::NoWorkloads,
        HoldReason::AllProtected,
        HoldReason::MemoryIsProtected,
        HoldReason::BelowMinShare,
        HoldReason::MemoryInNoWorkload,
        HoldReason::IdentityUnknown,
        HoldReason::Backoff,
        HoldReason::ContainerProtected,
        HoldReason::DryRun,
        HoldReason::Paused,
        HoldReason::NoApplicationOverRatio,
        HoldReason::ShareUnknown,
        HoldReason::NobodyNonEssential,
        HoldReason::ActivityUnknown,
        HoldReason::TooManyEnds,
    ];

    /// Stable: the record and the metrics carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::Relieved => "relieved",
            HoldReason::BenignCache => "benign-cache",
            HoldReason::NoWorkloads => "no-workloads",
            HoldReason::AllProtected => "all-protected",
            HoldReason::MemoryIsProtected => "memory-is-protected",
            HoldReason::BelowMinShare => "below-min-share",
            HoldReason::MemoryInNoWorkload => "memory-in-no-workload",
            HoldReason::IdentityUnknown => "identity-unknown",
            HoldReason::Backoff => "backoff",
            HoldReason::ContainerProtected => "container-protected",
            HoldReason::DryRun => "dry-run",
            HoldReason::Paused => "paused",
            HoldReason::NoApplicationOverRatio => "no-application-over-ratio",
            HoldReason::ShareUnknown => "share-unknown",
            HoldReason::NobodyNonEssential => "nobody-non-essential",
            HoldReason::ActivityUnknown => "activity-unknown",
            HoldReason::TooManyEnds => "too-many-ends",
        }
    }

    /// Whether there is nothing to do, as against something that must not be done: after the
    /// latter the container is over its threshold still, and the tripwire is to be lifted.
    pub fn is_calm(self) -> bool {
        matches!(self, HoldReason::Relieved | HoldReason::BenignCache)
    }
}

/// Why one workload was not to be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// `protect = true` for its container, by rule, label or environment.
    ProtectedContainer,
    /// Its path or kernel id is on the list.
    ProtectedNotebook,
    ProtectedUser,
    /// `nbguard protect`, for itself or with its container.
    ProtectedByCommand,
    /// It was ended a moment ago and came back.
    Backoff,
    /// `dry_run = true` for its container, in a domain of several.
    DryRun,
    /// `nbguard pause` for its container, in a domain of several.
    Paused,
    /// Its root is the container's pid 1.
    Init,
    /// The guard runs inside it.
    Guard,
    /// Nothing in it is alive.
    Ended,
    /// `scope = "user"`, and another user's notebooks press more.
    OtherUser,
    BelowMinShare,
    // The reasons of `idle-first` why somebody is essential.
    /// On the allow list.
    Allowed,
    /// Of the important application, and not idle.
    Important,
    Busy,
    /// Nobody knows whether it is idle.
    ActivityUnknown,
    IdleTooShort,
}

impl Exclusion {
    /// Found by a decision itself: the next one finds it anew.
    fn is_of_decision(self) -> bool {
        self == Exclusion::BelowMinShare || self.is_cleaners()
    }

    /// Whether it is one of those of `idle-first`.
    pub fn is_cleaners(self) -> bool {
        matches!(
            self,
            Exclusion::Allowed
                | Exclusion::Important
                | Exclusion::Busy
                | Exclusion::ActivityUnknown
                | Exclusion::IdleTooShort
        )
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Exclusion::ProtectedContainer => "protected-container",
            Exclusion::ProtectedNotebook => "protected-notebook",
            Exclusion::ProtectedUser => "protected-user",
            Exclusion::ProtectedByCommand => "protected-by-command",
            Exclusion::Backoff => "backoff",
            Exclusion::DryRun => "dry-run",
            Exclusion::Paused => "paused",
            Exclusion::Init => "init",
            Exclusion::Guard => "guard",
            Exclusion::Ended => "ended",
            Exclusion::OtherUser => "other-user",
            Exclusion::BelowMinShare => "below-min-share",
            Exclusion::Allowed => "allowed",
            Exclusion::Important => "important",
            Exclusion::Busy => "busy",
            Exclusion::ActivityUnknown => "activity-unknown",
            Exclusion::IdleTooShort => "idle-too-short",
        }
    }
}

impl From<Bar> for Exclusion {
    fn from(bar: Bar) -> Exclusion {
        match bar {
            Bar::Init => Exclusion::Init,
            Bar::Guard => Exclusion::Guard,
            Bar::Ended => Exclusion::Ended,
        }
    }
}

/// What a protection rule may look at. The texts are the process's own.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub workload: &'a Workload,
    pub notebook: Option<&'a str>,
    pub kernel_id: Option<&'a str>,
}

impl<'a> View<'a> {
    pub fn of(workload: &'a Workload, ids: &'a Identities) -> View<'a> {
        View {
            workload,
            notebook: ids.notebook(workload.root),
            kernel_id: ids.kernel_id(workload.root),
        }
    }
}

/// What a verdict stands on, beside the ranking.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub forest: &'a Forest,
    pub procs: &'a [Proc],
    pub settings: &'a Settings,
    pub scale: Scale,
    pub gate: &'a Gate,
    /// The figures of the warning look, where there was one.
    pub baseline: Option<&'a Baseline>,
    /// `nbguard pause`.
    pub paused: bool,
    /// Nothing more is asked for: the answers came, or their deadline passed.
    pub late: bool,
    /// Somebody who is there could not be read, nor who is there: whoever holds the most may be
    /// missing.
    pub unread: bool,
    /// What runs inside the processes; only `idle-first` asks.
    pub inside: Option<&'a Inside<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Kill(Kill),
    Hold(Hold),
    /// [`Screen::asked`] lists processes whose argv and environ would matter.
    NeedIdentity,
    /// [`Screen::asked`] lists processes whose PSS would tell the finalists apart.
    NeedPss,
    /// [`Screen::asked`] lists processes of which it would matter what they do.
    NeedActivity,
}

/// Who ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kill {
    /// The place in [`Forest::workloads`].
    pub workload: u32,
    pub root: ProcKey,
    pub why: KillWhy,
    pub settled_by: SettledBy,
    pub held: Interval,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillWhy {
    Largest,
    Growing,
    /// Above `notebook_max`, whatever the sum is.
    NotebookMax,
    /// `idle-first`: it is on the deny list.
    DenyList,
    /// … it has been idle for long enough, the longest of all.
    Idle,
}

impl KillWhy {
    pub const ALL: [KillWhy; 5] = [
        KillWhy::Largest,
        KillWhy::Growing,
        KillWhy::NotebookMax,
        KillWhy::DenyList,
        KillWhy::Idle,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            KillWhy::Largest => "largest",
            KillWhy::Growing => "growing",
            KillWhy::NotebookMax => "notebook-max",
            KillWhy::DenyList => "deny-list",
            KillWhy::Idle => "idle",
        }
    }

    /// Whether it ends because it is not essential, so that others may follow.
    pub fn is_cleaners(self) -> bool {
        matches!(self, KillWhy::DenyList | KillWhy::Idle)
    }
}

/// Why nobody ends, and who was nearest to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    pub reason: HoldReason,
    /// The workload that stood first, by its place in [`Forest::workloads`].
    pub nearest: Option<u32>,
    /// In a dry run: what would have been done.
    pub would: Option<Kill>,
}

/// Who may be chosen, and the choice.
#[derive(Default)]
pub struct Screen {
    exclusions: Vec<Option<Exclusion>>,
    order: Vec<u32>,
    asked: Vec<u32>,
    users: Vec<(u32, Bytes)>,
    cleaning: Cleaning,
}

impl Screen {
    /// Sifts out what can never be chosen, before anything is ranked. `rule` gives protections
    /// and back-off.
    pub fn sift(
        &mut self,
        forest: &Forest,
        ids: &Identities,
        rule: impl Fn(&View<'_>) -> Option<Exclusion>,
    ) {
        self.exclusions.clear();
        self.exclusions.extend(forest.workloads().iter().map(|workload| {
            let bar = workload.bar.map(Exclusion::from);
            bar.or_else(|| rule(&View::of(workload, ids)))
        }));
    }

    /// Whether the workload at this place is among those to choose from.
    pub fn competes(&self, workload: usize) -> bool {
        self.exclusions.get(workload).is_some_and(Option::is_none)
    }

    /// Why the workload at this place was not to be chosen. After `decide` this also knows the
    /// reasons that depend on size.
    pub fn exclusion(&self, workload: u32) -> Option<Exclusion> {
        self.exclusions.get(workload as usize).copied().flatten()
    }

    /// The processes that a `Need…` verdict asks for, as indices into the scan.
    pub fn asked(&self) -> &[u32] {
        &self.asked
    }

    /// The competing workloads in the policy's order, by their places in [`Forest::workloads`].
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// What `idle-first` made of it.
    pub fn cleaning(&self) -> &Cleaning {
        &self.cleaning
    }

    /// How far the ranking has to be worked out for these settings.
    pub fn purpose(settings: &Settings, scale: Scale, gate: &Gate) -> Purpose {
        let each = settings.policy != Policy::Largest
            || settings.gate == GateForm::Notebooks
            || settings.scope == Scope::User;
        match settings.notebook_max {
            _ if each => Purpose::Each,
            Some(max) if !gate.is_passed() => Purpose::Top { worth: above(max.of(scale.total)) },
            _ => Purpose::Top { worth: worth(settings, scale) },
        }
    }

    /// The verdict.
    pub fn decide(&mut self, case: &Case<'_>, ranking: &mut Ranking) -> Verdict {
        self.asked.clear();
        self.order.clear();
        self.cleaning.clear();
        for exclusion in &mut self.exclusions {
            *exclusion = exclusion.filter(|reason| !reason.is_of_decision());
        }
        let too_big = case.settings.notebook_max.map(|amount| amount.of(case.scale.total));
        let clearing = case.inside.is_some_and(|inside| inside.clearing);
        let calm = match case.gate {
            Gate::Passed { .. } => None,
            Gate::Held { .. } if clearing => None,
            Gate::Held { reason, .. } => Some(*reason),
            Gate::NeedSum => Some(HoldReason::Relieved),
        };
        if let (Some(reason), None) = (calm, too_big) {
            return hold(reason, None);
        }
        if case.unread {
            return hold(HoldReason::IdentityUnknown, None);
        }
        if let (None, Policy::IdleFirst) = (calm, case.settings.policy) {
            let verdict = self.judge_clean(case, ranking);
            return restrain(case, verdict);
        }
        self.narrow_to_user(case, ranking);
        self.line_up(case, ranking);
        let verdict = match (calm, too_big) {
            (Some(reason), Some(max)) => self.judge_max(case, ranking, reason, max),
            _ => self.judge(case, ranking),
        };
        restrain(case, verdict)
    }

    /// Under `scope = "user"` only the notebooks of the uid stay that presses: whose notebooks
    /// grew the most since the warning look, or where nobody's did, hold the most.
    fn narrow_to_user(&mut self, case: &Case<'_>, ranking: &mut Ranking) {
        if case.settings.scope != Scope::User {
            return;
        }
        let workloads = case.forest.workloads();
        let noise = case.scale.total.times(GROWTH_NOISE);
        let grew = |row: &Row| case.baseline.map_or(Bytes::ZERO, |base| base.rss_growth(row));
        let by_growth =
            self.largest_user(workloads, ranking, grew).filter(|(_, sum)| *sum >= noise);
        let presses = by_growth.or_else(|| self.largest_user(workloads, ranking, |r| r.held.least));
        let Some((presses, _)) = presses else { return };
        for (number, workload) in workloads.iter().enumerate() {
            if workload.uid != presses && self.exclusions[number].is_none() {
                self.exclusions[number] = Some(Exclusion::OtherUser);
                ranking.exclude(number as u32);
            }
        }
    }

    /// The uid whose notebooks have the largest sum of something, and that sum.
    fn largest_user(
        &mut self,
        workloads: &[Workload],
        ranking: &Ranking,
        of: impl Fn(&Row) -> Bytes,
    ) -> Option<(u32, Bytes)> {
        self.users.clear();
        for row in ranking.rows() {
            let uid = workloads[row.workload as usize].uid;
            match self.users.iter_mut().find(|(known, _)| *known == uid) {
                Some((_, sum)) => *sum = sum.plus(of(row)),
                None => self.users.push((uid, of(row))),
            }
        }
        self.users.iter().copied().max_by_key(|(uid, sum)| (*sum, Reverse(*uid)))
    }

    /// The policy's order.
    fn line_up(&mut self, case: &Case<'_>, ranking: &Ranking) {
        self.order.extend(ranking.rows().iter().filter(|r| r.competes).map(|r| r.workload));
        if let (Policy::Growing, Some(base)) = (case.settings.policy, case.baseline) {
            let noise = case.scale.total.times(GROWTH_NOISE);
            let place = |number: u32| {
                let growth = ranking.row(number).map(|row| base.growth(row));
                (Reverse(growth.filter(|growth| *growth >= noise)), ranking.place(number))
            };
            self.order.sort_unstable_by_key(|number| place(*number));
        }
    }

    /// Who is not essential goes, so that the important application goes on. What they hold is no
    /// question here: not one of them has to suffice, and there is nobody to fall back on.
    fn judge_clean(&mut self, case: &Case<'_>, ranking: &Ranking) -> Verdict {
        let Some(inside) = case.inside else { return hold(HoldReason::ActivityUnknown, None) };
        if !case.late && self.asks_who_they_are(case, inside) {
            return Verdict::NeedIdentity;
        }
        if case.forest.workloads().is_empty() {
            return hold(self.nobody(case), None);
        }
        let choice = self.cleaning.choose(case, inside, ranking, &mut self.exclusions);
        self.order.extend_from_slice(self.cleaning.order());
        let nearest =
            self.order.first().copied().or_else(|| Some(ranking.rows().first()?.workload));
        match choice {
            Choice::Ends(workload, why) => match ranking.row(workload) {
                Some(row) => Verdict::Kill(kill(ranking, row, why)),
                None => hold(HoldReason::IdentityUnknown, nearest),
            },
            Choice::NeedActivity if self.asks_activity(case, inside) => Verdict::NeedActivity,
            Choice::NeedActivity => {
                let late = Case { late: true, ..*case };
                self.order.clear();
                for exclusion in &mut self.exclusions {
                    *exclusion = exclusion.filter(|reason| !reason.is_of_decision());
                }
                self.judge_clean(&late, ranking)
            }
            Choice::Nobody(reason) => hold(reason, nearest),
            Choice::Excluded => hold(self.nobody(case), nearest),
        }
    }

    /// Those whose process it is nobody knows: where they hold something, or a deny list names one.
    fn asks_who_they_are(&mut self, case: &Case<'_>, inside: &Inside<'_>) -> bool {
        let denied = |index: &u32| {
            let proc = &case.procs[*index as usize];
            (inside.settings)(proc.container).is_some_and(|s| clean::is_denied(proc, s))
        };
        let unknown = case.forest.unknown();
        let matters = unknown_bytes(case) >= case.scale.total.times(GROWTH_NOISE)
            || unknown.iter().any(denied);
        if matters {
            self.asked.extend(case.forest.unread());
            self.asked.sort_unstable_by_key(|i| (!denied(i), Reverse(case.procs[*i as usize].rss)));
            self.asked.truncate(MAX_ASKED);
        }
        matters
    }

    /// Of whom nobody has read what it does.
    fn asks_activity(&mut self, case: &Case<'_>, inside: &Inside<'_>) -> bool {
        let unread = Activity::Unknown(Why::NotRead);
        for (number, workload) in case.forest.workloads().iter().enumerate() {
            if self.exclusions[number] != Some(Exclusion::ActivityUnknown) {
                continue;
            }
            let members = case.forest.members(workload).iter().map(|member| member.index);
            self.asked.extend(members.filter(|index| {
                let proc = &case.procs[*index as usize];
                inside.may_say(proc.key) && inside.of(proc.key) == unread && !proc.is_zombie()
            }));
        }
        self.asked.truncate(MAX_ASKED);
        !self.asked.is_empty()
    }

    fn judge(&mut self, case: &Case<'_>, ranking: &mut Ranking) -> Verdict {
        if !case.late && self.asks_identity(case, ranking) {
            return Verdict::NeedIdentity;
        }
        let Some(first) = self.first(ranking) else { return hold(self.nobody(case), None) };
        if !case.late && self.asks_pss(case, ranking, worth(case.settings, case.scale)) {
            return Verdict::NeedPss;
        }
        let nearest = Some(first.workload);
        if let Some(reason) = self.points_elsewhere(case, ranking, &first) {
            return hold(reason, nearest);
        }
        match self.first_that_matters(case, ranking) {
            Some((row, why)) => Verdict::Kill(kill(ranking, &row, why)),
            None => hold(HoldReason::BelowMinShare, nearest),
        }
    }

    fn first(&self, ranking: &Ranking) -> Option<Row> {
        self.order.first().and_then(|number| ranking.row(*number)).copied()
    }

    /// There is nobody to choose.
    fn nobody(&self, case: &Case<'_>) -> HoldReason {
        if case.forest.workloads().is_empty() {
            let unknown = unknown_bytes(case) >= worth(case.settings, case.scale);
            return if unknown && !case.forest.unknown().is_empty() {
                HoldReason::IdentityUnknown
            } else {
                HoldReason::NoWorkloads
            };
        }
        self.excluded_reason(HoldReason::AllProtected)
    }

    /// Back-off or a pause, if that alone is what stands in the way; else `otherwise`.
    fn excluded_reason(&self, otherwise: HoldReason) -> HoldReason {
        let mut exclusions = self.exclusions.iter().flatten();
        match exclusions.next() {
            Some(first) if exclusions.all(|other| other == first) => match first {
                Exclusion::Backoff => HoldReason::Backoff,
                Exclusion::Paused => HoldReason::Paused,
                _ => otherwise,
            },
            _ => otherwise,
        }
    }

    /// Processes that nobody could place and that are large enough to change the choice.
    fn asks_identity(&mut self, case: &Case<'_>, ranking: &Ranking) -> bool {
        let unknown = unknown_bytes(case);
        let mut rows = ranking.rows().iter().filter(|row| row.competes);
        let first = rows.next().map_or(Bytes::ZERO, |row| row.held.least);
        let second = rows.next().map_or(Bytes::ZERO, |row| row.held.most);
        let matters = unknown >= case.scale.total.times(GROWTH_NOISE)
            && (second.plus(unknown) > first || first < worth(case.settings, case.scale));
        if matters {
            self.asked.extend(case.forest.unread());
            self.asked.sort_unstable_by_key(|i| Reverse(case.procs[*i as usize].rss));
            self.asked.truncate(MAX_ASKED);
        }
        matters
    }

    fn asks_pss(&mut self, case: &Case<'_>, ranking: &mut Ranking, worth: Bytes) -> bool {
        let list = ranking.finalists(case.forest, case.procs, worth, PSS_BUDGET);
        self.asked.extend_from_slice(list);
        !list.is_empty()
    }

    /// Most of the memory is where no kill reaches: then only an end that suffices by itself is
    /// worth it, and only if it is the workloads that grew.
    fn points_elsewhere(
        &self,
        case: &Case<'_>,
        ranking: &Ranking,
        first: &Row,
    ) -> Option<HoldReason> {
        let nowhere = in_no_process(case, ranking);
        let uid = case.forest.workloads().get(first.workload as usize).map_or(0, |w| w.uid);
        let claimed = case.forest.held_by_anothers_servers(uid, case.procs);
        let unattributed = ranking.unattributed().middle().plus(nowhere).plus(claimed);
        let excluded = self.excluded_bytes(ranking);
        let beyond = unattributed.plus(excluded);
        if beyond <= first.held.middle() {
            // A server that is larger than every notebook and grew while they did not: ending one
            // of them would buy a moment, with somebody's work.
            let server_grew = ranking.servers().middle() > first.held.middle()
                && self.pressed(case, ranking) == Some(false);
            return server_grew.then_some(HoldReason::MemoryInNoWorkload);
        }
        if self.would_help(case, ranking, first, beyond) {
            return None;
        }
        Some(if excluded > unattributed {
            self.excluded_reason_of_largest(ranking)
        } else if unknown_bytes(case) > first.held.middle() {
            HoldReason::IdentityUnknown
        } else {
            HoldReason::MemoryInNoWorkload
        })
    }

    /// What protected and resting workloads hold. Those of other users are not in the way: they
    /// hold less than the user's who presses.
    fn excluded_bytes(&self, ranking: &Ranking) -> Bytes {
        let in_the_way = |row: &&Row| {
            !row.competes && self.exclusion(row.workload) != Some(Exclusion::OtherUser)
        };
        ranking.rows().iter().filter(in_the_way).map(|row| row.held.middle()).sum()
    }

    fn excluded_reason_of_largest(&self, ranking: &Ranking) -> HoldReason {
        let largest = ranking.rows().iter().find(|row| !row.competes);
        match largest.and_then(|row| self.exclusion(row.workload)) {
            Some(Exclusion::Backoff) => HoldReason::Backoff,
            Some(Exclusion::Paused) => HoldReason::Paused,
            _ => HoldReason::MemoryIsProtected,
        }
    }

    fn would_help(&self, case: &Case<'_>, ranking: &Ranking, first: &Row, beyond: Bytes) -> bool {
        let pressed = self.pressed(case, ranking).unwrap_or_else(|| {
            // Nobody saw who grew: then the workload must at least be of the same order.
            first.held.middle().plus(first.held.middle()) >= beyond
        });
        pressed && suffices(case.gate, first)
    }

    /// Whether it was the competing workloads that grew since the warning look, and not all else.
    /// `None` where nobody looked or nothing grew.
    fn pressed(&self, case: &Case<'_>, ranking: &Ranking) -> Option<bool> {
        let base = case.baseline?;
        let grown = base.total_growth(ranking)?;
        if grown < case.scale.total.times(GROWTH_NOISE) {
            return None;
        }
        let competing = ranking.rows().iter().filter(|row| row.competes);
        let by_them: Bytes = competing.map(|row| base.rss_growth(row)).sum();
        Some(by_them >= grown.less(by_them))
    }

    /// The first in the policy's order that holds enough, or whose end alone is enough.
    fn first_that_matters(&mut self, case: &Case<'_>, ranking: &Ranking) -> Option<(Row, KillWhy)> {
        let worth = worth(case.settings, case.scale);
        let mut found = None;
        for at in 0..self.order.len() {
            let number = self.order[at];
            let Some(row) = ranking.row(number) else { continue };
            // Where the end of the interval could not be had in time, unknown is not small.
            let held = if case.late { row.held.most } else { row.held.least };
            if held >= worth || suffices(case.gate, row) {
                found = found.or(Some(*row));
            } else {
                self.exclusions[number as usize] = Some(Exclusion::BelowMinShare);
            }
        }
        found.map(|row| (row, self.why(case, &row)))
    }

    fn why(&self, case: &Case<'_>, row: &Row) -> KillWhy {
        let grew = case.baseline.map_or(Bytes::ZERO, |base| base.growth(row));
        let noise = case.scale.total.times(GROWTH_NOISE);
        if case.settings.policy == Policy::Growing && grew >= noise && grew > Bytes::ZERO {
            KillWhy::Growing
        } else {
            KillWhy::Largest
        }
    }

    /// Nothing is short, but one notebook may be larger than a notebook may be.
    fn judge_max(
        &mut self,
        case: &Case<'_>,
        ranking: &mut Ranking,
        calm: HoldReason,
        max: Bytes,
    ) -> Verdict {
        let workloads = case.forest.workloads();
        let may = |row: &&Row| row.competes && !workloads[row.workload as usize].denied;
        let Some(first) = ranking.rows().iter().find(may).copied() else {
            return hold(calm, None);
        };
        if first.held.most <= max {
            return hold(calm, Some(first.workload));
        }
        if !case.late && self.asks_pss(case, ranking, above(max)) {
            return Verdict::NeedPss;
        }
        if first.held.least <= max {
            return hold(calm, Some(first.workload));
        }
        Verdict::Kill(kill(ranking, &first, KillWhy::NotebookMax))
    }
}

/// What a policy, a switch or a protection of the whole container makes of a kill.
fn restrain(case: &Case<'_>, verdict: Verdict) -> Verdict {
    let Verdict::Kill(kill) = verdict else { return verdict };
    let reason = if case.paused {
        HoldReason::Paused
    } else if case.settings.protect {
        HoldReason::ContainerProtected
    } else if case.settings.dry_run {
        HoldReason::DryRun
    } else {
        return verdict;
    };
    Verdict::Hold(Hold { reason, nearest: Some(kill.workload), would: Some(kill) })
}

fn kill(ranking: &Ranking, row: &Row, why: KillWhy) -> Kill {
    let others = ranking.rows().iter().filter(|o| o.competes && o.workload != row.workload);
    let settled_by = match why {
        KillWhy::Growing => SettledBy::Growth,
        KillWhy::DenyList | KillWhy::Idle => SettledBy::Policy,
        KillWhy::Largest | KillWhy::NotebookMax => Ranking::settled_by(row, others),
    };
    Kill { workload: row.workload, root: row.root, why, settled_by, held: row.held }
}

fn hold(reason: HoldReason, nearest: Option<u32>) -> Verdict {
    Verdict::Hold(Hold { reason, nearest, would: None })
}

fn above(bytes: Bytes) -> Bytes {
    Bytes(bytes.0.saturating_add(1))
}

/// What a workload must hold to matter. In the source system's comparison any does.
fn worth(settings: &Settings, scale: Scale) -> Bytes {
    match settings.gate {
        GateForm::Usage => scale.total.times(settings.min_share),
        GateForm::Notebooks => Bytes::ZERO,
    }
}

/// Whether this end alone brings the memory well below the threshold.
fn suffices(gate: &Gate, row: &Row) -> bool {
    gate.measure().is_some_and(|m| m.counted.less(row.held.least) <= m.relief)
}

fn unknown_bytes(case: &Case<'_>) -> Bytes {
    case.forest.unknown().iter().map(|i| case.procs[*i as usize].rss).sum()
}

/// Memory that is charged to the domain and to no process: files in `/dev/shm` that nobody maps,
/// the kernel's own.
fn in_no_process(case: &Case<'_>, ranking: &Ranking) -> Bytes {
    let Some(measure) = case.gate.measure() else { return Bytes::ZERO };
    let in_processes = ranking.sum().plus(ranking.unattributed()).plus(ranking.servers());
    measure.unreclaimable.less(in_processes.most)
}

#[cfg(test)]
mod tests;
