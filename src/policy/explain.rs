//! Puts rows and verdicts into sentences and into the record. Allocates, so it is called after
//! the signal. Pure: no files, no clock. All text that a process chose is escaped here.

use std::fmt::Write as _;

use crate::facts::{Field, Proc};
use crate::parse::escape;
use crate::policy::decide::{
    By, Case, Exclusion, Gate, Hold, HoldReason, Kill, KillWhy, Measure, Screen, Verdict,
};
use crate::policy::identity::{Identities, Identity};
use crate::policy::rank::{Interval, Ranking, Row, SettledBy};
use crate::policy::tree::{Member, Workload};
use crate::report;
use crate::units::{Bytes, Share};

/// Bytes of a name in a sentence or a record.
pub const MAX_NAME: usize = 256;
/// Rows, members of each and unattributed processes in one record: what a person reads, and what
/// keeps a record of a thousand processes below a MiB.
pub const MAX_ROWS: usize = 64;
pub const MAX_MEMBERS: usize = 256;
pub const MAX_TOP: usize = 8;

/// Everything that was known when it was decided.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub case: Case<'a>,
    pub ids: &'a Identities,
    pub ranking: &'a Ranking,
    pub screen: &'a Screen,
}

/// What people call a workload: the notebook's path, else the kernel's id, else its process.
pub fn name(workload: &Workload, procs: &[Proc], ids: &Identities) -> String {
    let told = ids.notebook(workload.root).or_else(|| ids.kernel_id(workload.root));
    match told {
        Some(text) => escape(text.as_bytes(), MAX_NAME),
        None => {
            let comm = process_name(&procs[workload.root_index as usize]);
            format!("{comm} (pid {})", workload.root.pid)
        }
    }
}

fn process_name(proc: &Proc) -> String {
    escape(proc.comm.bytes(), MAX_NAME)
}

impl Told<'_> {
    fn workload(&self, row: &Row) -> &Workload {
        &self.case.forest.workloads()[row.workload as usize]
    }

    fn name_of(&self, workload: u32) -> String {
        let workload = &self.case.forest.workloads()[workload as usize];
        name(workload, self.case.procs, self.ids)
    }

    /// The rows as the policy ordered them, then those that were not to be chosen.
    fn ordered(&self) -> Vec<&Row> {
        let chosen = self.screen.order().iter().filter_map(|number| self.ranking.row(*number));
        let others =
            self.ranking.rows().iter().filter(|row| !self.screen.order().contains(&row.workload));
        chosen.chain(others).collect()
    }

    /// The rows of the record. `container` names a container by its place in the domain.
    pub fn rows(&self, container: impl Fn(u16) -> Option<String>) -> Vec<report::Row> {
        let ordered = self.ordered();
        let of = ordered.len();
        let rows = ordered.iter().enumerate().take(MAX_ROWS);
        rows.map(|(at, row)| {
            let below = ordered.get(at + 1).copied();
            let above = at.checked_sub(1).map(|at| ordered[at]);
            let settled_by = match (below, above) {
                (Some(below), _) => Ranking::settled_by(row, std::iter::once(below)),
                (None, Some(above)) => Ranking::settled_by(above, std::iter::once(*row)),
                (None, None) => SettledBy::Single,
            };
            let workload = self.workload(row);
            report::Row {
                pid: row.root.pid,
                start: row.root.start,
                memory: row.figure(),
                lower: row.held.least,
                upper: bounded(row).most,
                settled_by: settled_by.as_str().to_owned(),
                name: process_name(&self.case.procs[workload.root_index as usize]),
                notebook: self.ids.notebook(row.root).map(|t| escape(t.as_bytes(), MAX_NAME)),
                kernel_id: self.ids.kernel_id(row.root).map(str::to_owned),
                uid: Some(workload.uid),
                container: container(workload.container),
                eligible: match self.screen.exclusion(row.workload) {
                    None => "yes".to_owned(),
                    Some(exclusion) => exclusion.as_str().to_owned(),
                },
                because: self.because(row, at, of),
                members: self.members(workload),
            }
        })
        .collect()
    }

    fn members(&self, workload: &Workload) -> Vec<report::ProcessRecord> {
        let members = self.case.forest.members(workload).iter().take(MAX_MEMBERS);
        members.map(|member: &Member| self.process(member.index)).collect()
    }

    fn process(&self, index: u32) -> report::ProcessRecord {
        let proc = &self.case.procs[index as usize];
        report::ProcessRecord {
            pid: proc.key.pid,
            name: process_name(proc),
            memory: process_memory(proc),
        }
    }

    pub fn servers(&self) -> Vec<report::ProcessRecord> {
        let servers = self.case.forest.servers().iter().take(MAX_TOP);
        servers.map(|index| self.process(*index)).collect()
    }

    pub fn unattributed(&self) -> report::Unattributed {
        let mut top: Vec<u32> = self.case.forest.unattributed().to_vec();
        top.sort_by_key(|i| std::cmp::Reverse(process_memory(&self.case.procs[*i as usize])));
        report::Unattributed {
            count: u32::try_from(top.len()).unwrap_or(u32::MAX),
            memory: top.iter().map(|i| process_memory(&self.case.procs[*i as usize])).sum(),
            top: top.into_iter().take(MAX_TOP).map(|index| self.process(index)).collect(),
        }
    }

    /// Why a row stands where it stands, in one sentence.
    pub fn because(&self, row: &Row, at: usize, of: usize) -> String {
        let processes = self.case.forest.members(self.workload(row)).len();
        let mut text = format!(
            "Holds {} in {}",
            amount(bounded(row)),
            counted(processes, "process", "processes")
        );
        match self.screen.exclusion(row.workload) {
            Some(exclusion) => write!(text, "; {}.", excluded(exclusion)),
            None if of == 1 => write!(text, "; it is the only notebook."),
            None => match self.growth(row) {
                Some(grown) => {
                    write!(text, ", {grown} more than at the warning; number {} of {of}.", at + 1)
                }
                None => write!(text, "; number {} of {of}.", at + 1),
            },
        }
        .expect("a String takes whatever it is given");
        text
    }

    fn growth(&self, row: &Row) -> Option<Bytes> {
        let grown = self.case.baseline?.growth(row);
        (grown > Bytes::ZERO).then_some(grown)
    }

    /// The verdict in one sentence; empty while something is still asked for.
    pub fn verdict(&self, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Kill(kill) => self.kill(kill, "Ended"),
            Verdict::Hold(hold) => self.hold(hold),
            Verdict::NeedIdentity | Verdict::NeedPss => String::new(),
        }
    }

    fn kill(&self, kill: &Kill, verb: &str) -> String {
        let name = self.name_of(kill.workload);
        let held = amount(self.ranking.row(kill.workload).map_or(kill.held, bounded));
        let why = match kill.why {
            KillWhy::NotebookMax => {
                let max = self.case.settings.notebook_max.map(|a| a.of(self.case.scale.total));
                let max = max.unwrap_or_default();
                return format!(
                    "{verb} {name}: it holds {held}, and a notebook may hold {max} here."
                );
            }
            KillWhy::Largest => {
                let of = self.ranking.rows().iter().filter(|row| row.competes).count();
                let settled = settled(kill.settled_by);
                match of {
                    1 => format!("it holds {held} and is the only one to choose"),
                    _ => format!("it holds {held}, the most of {of}{settled}"),
                }
            }
            KillWhy::Growing => {
                let row = self.ranking.row(kill.workload);
                let grown = row.and_then(|row| self.growth(row)).unwrap_or_default();
                format!("it grew by {grown} since the warning, the most, and holds {held}")
            }
        };
        format!("{verb} {name}: {why}; {}.", self.shortage())
    }

    /// What is short, with the numbers that were compared.
    fn shortage(&self) -> String {
        let Gate::Passed { by, measure } = self.case.gate else {
            return "memory is not short".to_owned();
        };
        let Measure { counted, mark, total, .. } = *measure;
        match by {
            By::Usage => format!("{counted} of {total} cannot be reclaimed, {mark} is the mark"),
            By::UsageAndSwap => {
                format!("{counted} of memory and swap are in use, {mark} is the mark")
            }
            By::Notebooks => format!("the notebooks hold {counted} together, {mark} is the mark"),
            By::Thrash => format!("{counted} of {total} cannot be reclaimed and the rest thrashes"),
            By::Host => format!("{counted} of the host's {total} are in use, {mark} is the mark"),
        }
    }

    fn hold(&self, hold: &Hold) -> String {
        let nearest = hold.nearest.map(|number| self.name_of(number));
        let nearest = nearest.as_deref().unwrap_or("none");
        let share = self.case.settings.min_share;
        match hold.reason {
            HoldReason::Relieved => format!("Nobody is ended: {}.", self.calm()),
            HoldReason::BenignCache => format!(
                "Nobody is ended: what is over the threshold is page cache, which reclaim gives \
                 back ({}).",
                self.calm()
            ),
            HoldReason::NoWorkloads => {
                format!("Nobody is ended: there is no notebook; {}.", self.shortage())
            }
            HoldReason::AllProtected => {
                format!("Nobody is ended: no notebook may be; {}.", self.shortage())
            }
            HoldReason::MemoryIsProtected => format!(
                "Nobody is ended: the memory is in notebooks that are protected, and ending \
                 {nearest} would not help for long."
            ),
            HoldReason::BelowMinShare => format!(
                "Nobody is ended: no notebook holds {share} of the total ({}), not even {nearest}, \
                 and none would suffice.",
                self.case.scale.total.times(share)
            ),
            HoldReason::MemoryInNoWorkload => format!(
                "Nobody is ended: the memory is in no notebook; {} in no notebook, and {nearest} \
                 is the largest notebook.",
                self.beyond()
            ),
            HoldReason::IdentityUnknown => format!(
                "Nobody is ended: most of the memory is in processes that could not be told apart \
                 in time ({}).",
                counted(self.case.forest.unknown().len(), "process", "processes")
            ),
            HoldReason::Backoff => format!(
                "Nobody is ended: the memory is in a notebook that was ended a moment ago and came \
                 back; {}.",
                self.shortage()
            ),
            HoldReason::ContainerProtected => {
                self.would(hold, "Nobody is ended, the container is protected")
            }
            HoldReason::DryRun => self.would(hold, "Dry run"),
            HoldReason::PolicyOff => self.would(hold, "Nobody is ended, the guard is paused"),
        }
    }

    fn would(&self, hold: &Hold, why: &str) -> String {
        match &hold.would {
            Some(kill) => format!("{why}: {}", self.kill(kill, "would have ended")),
            None => format!("{why}."),
        }
    }

    fn calm(&self) -> String {
        match self.case.gate.measure() {
            Some(m) => format!("{} of {} count, {} is the mark", m.counted, m.total, m.mark),
            None => "memory is not short".to_owned(),
        }
    }

    fn beyond(&self) -> String {
        let processes = self.case.forest.unattributed().len();
        let held = self.ranking.unattributed();
        format!("{} are {}", counted(processes, "process", "processes"), amount(held))
    }
}

/// An upper bound that nobody could read is no figure: the resident set stands for it.
fn bounded(row: &Row) -> Interval {
    let most = if row.held.most == Bytes(u64::MAX) { row.rss } else { row.held.most };
    Interval { least: row.held.least, most: most.max(row.held.least) }
}

/// `700.0 MiB`, `600.0 MiB to 700.0 MiB`, `at most 60.0 MiB`.
fn amount(held: Interval) -> String {
    let (least, most) = (held.least.to_string(), held.most.to_string());
    match held.least {
        _ if least == most => least,
        Bytes::ZERO => format!("at most {most}"),
        _ => format!("{least} to {most}"),
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// What the process surely or at most gives back: its own figures where they were read.
fn process_memory(proc: &Proc) -> Bytes {
    match (proc.is_zombie(), proc.memory) {
        (true, _) => Bytes::ZERO,
        (_, Field::Known(memory)) => memory.anon.plus(memory.swap).plus(memory.shmem),
        (_, Field::Unknown(_)) => proc.rss,
    }
}

fn settled(by: SettledBy) -> &'static str {
    match by {
        SettledBy::Single | SettledBy::Intervals | SettledBy::Growth => "",
        SettledBy::CgroupFigures => " (by the container's own figures)",
        SettledBy::Pss => " (by proportional set sizes)",
        SettledBy::LowerBound => " (as far as could be told in time)",
    }
}

fn excluded(exclusion: Exclusion) -> &'static str {
    match exclusion {
        Exclusion::ProtectedContainer => "its container is protected",
        Exclusion::ProtectedNotebook => "it is on the list of protected notebooks",
        Exclusion::ProtectedUser => "its user is protected",
        Exclusion::ProtectedByHand => "it is protected by `nbguard protect`",
        Exclusion::Backoff => "it was ended a moment ago and is left alone for now",
        Exclusion::DryRun => "its container is guarded in dry run",
        Exclusion::Init => "it is the container's first process, which is never ended",
        Exclusion::Guard => "the guard itself runs inside it",
        Exclusion::Ended => "it has ended already",
        Exclusion::OtherUser => "another user's notebooks hold more",
        Exclusion::BelowMinShare => "too little to matter",
    }
}

/// One process as `ps` and the record name it: who it is by its own words.
pub fn process(proc: &Proc, identity: Option<&Identity>) -> String {
    let uid = identity.map(|identity| format!(", uid {}", identity.uid)).unwrap_or_default();
    format!("{} (pid {}{uid})", process_name(proc), proc.key.pid)
}

/// A share of the total, for a table.
pub fn share_of(bytes: Bytes, total: Bytes) -> String {
    Share::of(bytes, total).map_or_else(|| "-".to_owned(), |share| share.to_string())
}
