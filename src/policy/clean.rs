//! The cleaner: which applications use how much, which of them is the important one, and who is
//! not essential, in the order in which they go. Pure: no files, no clock; works in vectors that
//! are kept.
//!
//! An *application* is what its processes work for: a php-fpm pool, a PHP script, mod_php, a
//! notebook. One with a larger share than the ratio is the important one. Not essential is
//! whoever is on the deny list, and whoever is idle for long enough; what is not known is neither.
//! The important application loses only idle workers, and those last.
//!
//! CPU time alone may call a process idle that runs no interpreter; a kernel and a worker of PHP
//! are idle only where a page or a stack says so.

use std::cmp::Reverse;
use std::time::Duration;

use crate::config::glob::NameGlob;
use crate::config::{Clear, Resource, Settings};
use crate::facts::{Activity, Proc, Why};
use crate::ids::ProcKey;
use crate::policy::activity::{Activities, Nature, TICK_US};
use crate::policy::apps::{self, App, Applications};
use crate::policy::decide::{Case, Exclusion, Gate, HoldReason, KillWhy};
use crate::policy::identity::Identities;
use crate::policy::rank::Ranking;
use crate::policy::tree::Workload;
use crate::units::{Bytes, Moment, Share};

/// Ends of one domain within [`ENDS_SPAN`]. Each is looked at, measured and written down before
/// the next; a daemon that its supervisor starts again at once would be ended for ever.
pub const ENDS_MAX: u32 = 32;
pub const ENDS_SPAN: Duration = Duration::from_secs(60);
/// What runs containers, or everything in one. A pattern of the deny list does not reach these
/// where they belong to nothing else. As the kernel cuts names: 15 bytes.
const NEEDED: [&[u8]; 27] = [
    b"init",
    b"systemd",
    b"systemd-journal",
    b"systemd-logind",
    b"dbus-daemon",
    b"dbus-broker",
    b"docker-init",
    b"tini",
    b"dumb-init",
    b"catatonit",
    b"s6-svscan",
    b"s6-supervise",
    b"runsvdir",
    b"supervisord",
    b"dockerd",
    b"containerd",
    b"containerd-shim",
    b"runc",
    b"crun",
    b"conmon",
    b"crio",
    b"podman",
    b"kubelet",
    b"slirp4netns",
    b"fuse-overlayfs",
    b"nbguardd",
    b"nbguard",
];

/// What runs inside the processes: needed by `idle-first` alone.
#[derive(Clone, Copy)]
pub struct Inside<'a> {
    pub ids: &'a Identities,
    pub activities: &'a Activities,
    /// The settings of each container, by its number in the scan: their lists.
    pub settings: &'a dyn Fn(u16) -> Option<&'a Settings>,
    pub now: Moment,
    /// `clear = "all"`, and one has ended: the others follow although memory is back.
    pub clearing: bool,
    /// [`ENDS_MAX`] have ended.
    pub spent: bool,
}

impl Inside<'_> {
    /// What a process does. Of one that nobody has read nothing is known.
    pub fn of(&self, key: ProcKey) -> Activity {
        match self.ids.get(key) {
            Some(identity) => self.activities.of(key, Nature::of(&identity.claim)),
            None => Activity::Unknown(Why::NotRead),
        }
    }

    /// Whether it runs an interpreter that could be asked.
    pub fn may_say(&self, key: ProcKey) -> bool {
        self.ids.get(key).is_some_and(|identity| Nature::of(&identity.claim) != Nature::Plain)
    }
}

/// Whether a process that belongs to nothing else is a workload by the deny list.
pub fn is_denied(proc: &Proc, settings: &Settings) -> bool {
    let comm = proc.comm.bytes();
    let named = |globs: &[NameGlob]| globs.iter().any(|glob| glob.is_process(comm));
    named(&settings.deny) && !is_kept(proc, settings)
}

/// Whether a process ends neither by the deny list nor with what is above it and is on that.
pub fn is_kept(proc: &Proc, settings: &Settings) -> bool {
    let comm = proc.comm.bytes();
    settings.allow.iter().any(|glob| glob.is_process(comm)) || NEEDED.contains(&comm)
}

/// What is shared among the applications.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Whole {
    pub memory: Bytes,
    /// Clock ticks of all processes between two looks. `None`: there was one look only.
    pub cpu: Option<u64>,
}

impl Whole {
    pub fn memory_share(&self, app: &App) -> Option<Share> {
        Share::of(app.memory, self.memory)
    }

    /// By the kernel alone: the record has the same after the end, when nobody asks a tracer.
    pub fn cpu_share(&self, app: &App) -> Option<Share> {
        Share::of(Bytes(app.cpu?), Bytes(self.cpu?))
    }

    /// Part and whole of the resource that is asked about.
    fn of(&self, app: &App, resource: Resource) -> Option<(u64, u64)> {
        match resource {
            Resource::Memory => Some((app.memory.0, self.memory.0)),
            Resource::Cpu => Some((app.used?, self.cpu?.saturating_mul(TICK_US))),
        }
    }

    /// `None`: how much it uses is not known.
    pub fn is_over(&self, app: &App, settings: &Settings) -> Option<bool> {
        let (part, whole) = self.of(app, settings.resource)?;
        apps::is_over(part, whole, settings.ratio)
    }
}

/// Which list names a workload, and by which of its patterns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    Deny(u16),
    Allow(u16),
}

/// Why a workload stands where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Score {
    pub important: bool,
    pub listed: Option<Listed>,
    /// Of all its processes together.
    pub activity: Activity,
    /// For so many whole seconds.
    pub idle: Option<u64>,
}

/// What the cleaner came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    Ends(u32, KillWhy),
    /// What these do is to be read first.
    NeedActivity,
    Nobody(HoldReason),
    /// Nobody may be chosen, for reasons that are not the cleaner's.
    Excluded,
}

#[derive(Default)]
pub struct Cleaning {
    apps: Applications,
    made: bool,
    /// By their places among the applications.
    are_important: Vec<bool>,
    scores: Vec<Score>,
    order: Vec<u32>,
    whole: Whole,
    important: Option<u32>,
    needed: u32,
}

impl Cleaning {
    /// Of a decision under another policy nothing is left.
    pub fn clear(&mut self) {
        self.made = false;
        self.are_important.clear();
        self.scores.clear();
        self.order.clear();
        self.whole = Whole::default();
        self.important = None;
        self.needed = 0;
    }

    /// Whether the last decision was the cleaner's.
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// What is on the deny list alone works for nobody.
    pub fn apps<'a>(&'a self, workloads: &'a [Workload]) -> impl Iterator<Item = &'a App> {
        let apps = if self.made { self.apps.apps() } else { &[] };
        apps.iter().filter(|app| !workloads[app.first as usize].denied)
    }

    pub fn whole(&self) -> &Whole {
        &self.whole
    }

    /// The application for whose sake others end.
    pub fn important(&self) -> Option<&App> {
        self.apps.apps().get(self.important? as usize)
    }

    pub fn score(&self, workload: u32) -> Option<&Score> {
        self.scores.get(workload as usize)
    }

    /// Who is not essential, the first to go at the top.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// How many of them it takes, as far as that can be told before.
    pub fn needed(&self) -> u32 {
        self.needed
    }

    /// Chooses. `exclusions` come with what keeps workloads out for other reasons, and leave with
    /// the cleaner's own.
    pub fn choose(
        &mut self,
        case: &Case<'_>,
        inside: &Inside<'_>,
        ranking: &Ranking,
        exclusions: &mut [Option<Exclusion>],
    ) -> Choice {
        self.clear();
        self.add_up(case, inside);
        let mut unknown = false;
        for (score, exclusion) in self.scores.iter().zip(exclusions.iter_mut()) {
            if exclusion.is_none() {
                *exclusion = essential(score, case.settings, inside.now);
                unknown |= *exclusion == Some(Exclusion::ActivityUnknown);
            }
        }
        self.line_up(ranking, exclusions);
        self.count_needed(case, ranking);
        if let Some(reason) = self.nothing_is_over(case) {
            return Choice::Nobody(reason);
        }
        if inside.spent {
            return Choice::Nobody(HoldReason::TooManyEnds);
        }
        // Those on the list go first whatever the others do.
        let first = self.order.first().copied();
        let denied = first.is_some_and(|first| self.is_denied(first));
        if unknown && !denied && !case.late {
            return Choice::NeedActivity;
        }
        match first {
            Some(first) if denied => Choice::Ends(first, KillWhy::DenyList),
            Some(first) => Choice::Ends(first, KillWhy::Idle),
            None if unknown => Choice::Nobody(HoldReason::ActivityUnknown),
            None if exclusions.iter().flatten().any(|reason| reason.is_cleaners()) => {
                Choice::Nobody(HoldReason::NobodyNonEssential)
            }
            None => Choice::Excluded,
        }
    }

    fn is_denied(&self, workload: u32) -> bool {
        let score = self.score(workload);
        score.is_some_and(|score| matches!(score.listed, Some(Listed::Deny(_))) && !score.important)
    }

    /// Applications with what they use, and what each workload is.
    fn add_up(&mut self, case: &Case<'_>, inside: &Inside<'_>) {
        self.made = true;
        let Inside { ids, activities, .. } = *inside;
        self.apps.build(case.forest, case.procs, ids, activities);
        self.whole = Whole { memory: case.scale.total, cpu: self.apps.cpu_of_all() };
        self.find_important(case, inside);
        for (number, workload) in case.forest.workloads().iter().enumerate() {
            let app = self.apps.place_of(number as u32).filter(|_| !workload.denied);
            let activity = activity_of(workload, case, inside);
            self.scores.push(Score {
                important: app.is_some_and(|app| self.are_important[app]),
                listed: listed(workload, case, inside),
                activity,
                idle: activity.idle_for(inside.now).map(|idle| idle.as_secs()),
            });
        }
    }

    /// Those that are named and above the ratio; where none is, the largest above it that is not on
    /// the deny list. Whoever is named keeps its busy workers, however little it uses just now.
    fn find_important(&mut self, case: &Case<'_>, inside: &Inside<'_>) {
        let Case { forest, settings, .. } = *case;
        let (mut first, mut first_key) = (None, None);
        for (at, app) in self.apps.apps().iter().enumerate() {
            let root = &forest.workloads()[app.first as usize];
            let name = inside.ids.application(root.root).filter(|_| !root.denied);
            // Each container names its own, also where the host is short: a name is its processes' word.
            let globs = (inside.settings)(app.container).map_or(&[][..], |own| &own.important);
            let named = name.is_some_and(|name| globs.iter().any(|glob| glob.matches_path(name)));
            self.are_important.push(named);
            let counts = named || !matches!(listed(root, case, inside), Some(Listed::Deny(_)));
            if !counts || root.denied || self.whole.is_over(app, settings) != Some(true) {
                continue;
            }
            let size = self.whole.of(app, settings.resource).map(|(part, _)| part);
            let key = Some((named, size));
            if key > first_key {
                (first, first_key) = (Some(at as u32), key);
            }
        }
        self.important = first;
        if let Some(at) = first {
            self.are_important[at as usize] = true;
        }
    }

    /// The deny list, then the longest idle, then the largest; the important application last.
    fn line_up(&mut self, ranking: &Ranking, exclusions: &[Option<Exclusion>]) {
        let goes = |number: &u32| exclusions[*number as usize].is_none();
        self.order.extend((0..self.scores.len() as u32).filter(goes));
        let scores = &self.scores;
        self.order.sort_unstable_by_key(|number| {
            let score = &scores[*number as usize];
            let denied = matches!(score.listed, Some(Listed::Deny(_))) && !score.important;
            let held = ranking.row(*number).map_or(Bytes::ZERO, |row| row.held.least);
            (score.important, !denied, Reverse(score.idle), Reverse(held), *number)
        });
    }

    /// Until what they surely hold is enough, or all.
    fn count_needed(&mut self, case: &Case<'_>, ranking: &Ranking) {
        let all = self.order.len() as u32;
        let measure = match (case.settings.clear, case.gate) {
            (Clear::Enough, Gate::Passed { measure, .. }) => measure,
            _ => return self.needed = all,
        };
        let mut left = measure.counted;
        self.needed = 0;
        for number in &self.order {
            if left < measure.mark {
                return;
            }
            let held = ranking.row(*number).map_or(Bytes::ZERO, |row| row.held.least);
            left = left.less(held);
            self.needed += 1;
        }
    }

    fn nothing_is_over(&self, case: &Case<'_>) -> Option<HoldReason> {
        if self.important.is_some() {
            return None;
        }
        // Where nobody works, whoever is on the deny list would go for nobody's sake.
        let mut apps = self.apps(case.forest.workloads());
        let is_unknown = |app: &App| self.whole.is_over(app, case.settings).is_none();
        Some(match apps.any(is_unknown) {
            false => HoldReason::NoApplicationOverRatio,
            true => HoldReason::ShareUnknown,
        })
    }
}

/// Why a workload is essential, if it is.
fn essential(score: &Score, settings: &Settings, now: Moment) -> Option<Exclusion> {
    match (score.listed, score.activity) {
        (Some(Listed::Allow(_)), _) => Some(Exclusion::Allowed),
        (Some(Listed::Deny(_)), _) if !score.important => None,
        (_, Activity::Unknown(_)) => Some(Exclusion::ActivityUnknown),
        (_, Activity::Busy { .. }) if score.important => Some(Exclusion::Important),
        (_, Activity::Busy { .. }) => Some(Exclusion::Busy),
        (_, activity @ Activity::Idle { .. }) => {
            let idle = activity.idle_for(now).unwrap_or_default();
            (idle < settings.idle_for).then_some(Exclusion::IdleTooShort)
        }
    }
}

/// Busy where one of its processes is, idle where all are, since the last of them is.
fn activity_of(workload: &Workload, case: &Case<'_>, inside: &Inside<'_>) -> Activity {
    let mut of_all: Option<Activity> = None;
    for member in case.forest.members(workload) {
        if case.procs[member.index as usize].is_zombie() {
            continue;
        }
        let this = inside.of(case.procs[member.index as usize].key);
        of_all = Some(of_all.map_or(this, |all| both(all, this)));
    }
    of_all.unwrap_or(Activity::Unknown(Why::Gone))
}

fn both(a: Activity, b: Activity) -> Activity {
    use Activity::{Busy, Idle, Unknown};
    match (a, b) {
        (Busy { .. }, _) => a,
        (_, Busy { .. }) => b,
        (Unknown(_), _) => a,
        (_, Unknown(_)) => b,
        (Idle { since: first, .. }, Idle { since: second, .. }) => {
            if first >= second {
                a
            } else {
                b
            }
        }
    }
}

/// The list that names a workload, by its root's name or its application; `allow` counts first,
/// and for all that would end with the root: a database that a notebook has started.
fn listed(workload: &Workload, case: &Case<'_>, inside: &Inside<'_>) -> Option<Listed> {
    let settings = (inside.settings)(workload.container)?;
    let comm = case.procs[workload.root_index as usize].comm;
    let app = inside.ids.application(workload.root);
    let names = |glob: &NameGlob| {
        glob.is_process(comm.bytes()) || app.is_some_and(|app| glob.is_application(app))
    };
    let keeps = |glob: &NameGlob| {
        let mut members = case.forest.members(workload).iter();
        let member = |index: u32| &case.procs[index as usize];
        names(glob) || members.any(|m| glob.is_process(member(m.index).comm.bytes()))
    };
    let place = |at: Option<usize>| at.map(|at| u16::try_from(at).unwrap_or(u16::MAX));
    let deny = || place(settings.deny.iter().position(names)).map(Listed::Deny);
    place(settings.allow.iter().position(keeps)).map(Listed::Allow).or_else(deny)
}

#[cfg(test)]
mod tests;
