//! Puts a ranking and its verdict into what people and programs are shown: rows, and who would
//! end if memory ran short now. For `nbguard ps` and the HTTP interface alike. Allocates. Pure: no
//! files, no clock.

use crate::config::{Gate as GateForm, Settings};
use crate::facts::{Field, Proc};
use crate::parse::escape;
use crate::policy::decide::{By, Exclusion, Gate, Kill, Measure, Screen, Verdict};
use crate::policy::explain::{self, Facts};
use crate::policy::identity::Identities;
use crate::policy::rank::{self, Ranking};
use crate::policy::tree::Forest;
use crate::report::{ProcessRecord, Row, Unattributed, Would};
use crate::units::Bytes;

/// The longest text that a process chose: a path of 200 characters has room, 4 KiB have not.
pub const TEXT_MAX: usize = 512;
/// Unattributed processes that are named.
const TOP: usize = 8;

/// What a telling is of: one scan, and what was decided on it.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub procs: &'a [Proc],
    pub ids: &'a Identities,
    pub forest: &'a Forest,
    pub screen: &'a Screen,
    pub ranking: &'a Ranking,
    pub verdict: &'a Verdict,
}

/// How much is told. What is left out is in the sums all the same.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub rows: usize,
    /// Of each row.
    pub members: usize,
    /// Of all rows together.
    pub all_members: usize,
}

impl Bounds {
    pub const NONE: Bounds =
        Bounds { rows: usize::MAX, members: usize::MAX, all_members: usize::MAX };
}

/// The gate taken as open: the question is who would end *if* memory were short.
pub fn as_if_short(measure: Option<Measure>, settings: &Settings) -> Gate {
    let by = match settings.gate {
        GateForm::Usage => By::Usage,
        GateForm::Notebooks => By::Notebooks,
    };
    measure.map_or(Gate::NeedSum, |measure| Gate::Passed { by, measure })
}

impl Told<'_> {
    /// The workload that was chosen, or would have been.
    fn chosen(&self) -> Option<&Kill> {
        match self.verdict {
            Verdict::Kill(kill) => Some(kill),
            Verdict::Hold(hold) => hold.would.as_ref(),
            Verdict::NeedIdentity | Verdict::NeedPss => None,
        }
    }

    /// The ranked rows, as in the record: the one that goes first stands first.
    pub fn rows(&self, bounds: Bounds) -> Vec<Row> {
        let ranked = self.ranking.rows();
        let first = self.chosen().map(|kill| kill.workload);
        let at = ranked.iter().position(|row| Some(row.workload) == first);
        let others = (0..ranked.len()).filter(|place| Some(*place) != at);
        let mut left = bounds.all_members;
        let places = at.into_iter().chain(others).take(bounds.rows);
        places
            .map(|place| {
                let row = self.row(place, first, bounds.members.min(left));
                left -= row.members.len();
                row
            })
            .collect()
    }

    fn row(&self, place: usize, first: Option<u32>, members: usize) -> Row {
        let ranked: &rank::Row = &self.ranking.rows()[place];
        let workload = &self.forest.workloads()[ranked.workload as usize];
        let exclusion = self.screen.exclusion(ranked.workload);
        // What settled it that those below stand below.
        let others = self.ranking.rows()[place + 1..].iter();
        let all = self.forest.members(workload).iter().take(members);
        Row {
            pid: ranked.root.pid,
            start: ranked.root.start,
            memory: ranked.figure(),
            lower: ranked.held.least,
            upper: ranked.held.most,
            settled_by: Ranking::settled_by(ranked, others).as_str().to_owned(),
            name: comm(&self.procs[workload.root_index as usize]),
            notebook: self.ids.notebook(ranked.root).map(text),
            kernel_id: self.ids.kernel_id(ranked.root).map(text),
            uid: Some(workload.uid),
            container: None,
            eligible: exclusion.map_or("yes", Exclusion::as_str).to_owned(),
            because: explain::row(ranked, exclusion, first),
            members: all.map(|member| record(&self.procs[member.index as usize])).collect(),
        }
    }

    /// What would be done, and why.
    pub fn would(&self, rows: &[Row], facts: &Facts<'_>) -> Would {
        let (first, second) = (rows.first(), rows.get(1));
        match self.verdict {
            Verdict::Kill(kill) => Would {
                end: Some(kill.root.pid),
                reason: kill.why.as_str().to_owned(),
                sentence: explain::kill(kill, first, second, facts),
            },
            Verdict::Hold(hold) => Would {
                end: None,
                reason: hold.reason.as_str().to_owned(),
                sentence: match &hold.would {
                    Some(kill) => format!(
                        "{} Otherwise: {}",
                        explain::hold(hold.reason, first, facts),
                        explain::kill(kill, first, second, facts)
                    ),
                    None => explain::hold(hold.reason, first, facts),
                },
            },
            Verdict::NeedIdentity | Verdict::NeedPss => Would {
                end: None,
                reason: "unknown".to_owned(),
                sentence: "Not to be told: some processes cannot be read (are you root?)"
                    .to_owned(),
            },
        }
    }

    /// The notebook servers, the largest first.
    pub fn servers(&self, most: usize) -> Vec<ProcessRecord> {
        self.largest(self.forest.servers(), most)
    }

    /// What belongs to no notebook.
    pub fn unattributed(&self) -> Unattributed {
        let all = self.forest.unattributed();
        Unattributed {
            count: u32::try_from(all.len()).unwrap_or(u32::MAX),
            memory: all.iter().map(|index| memory_of(&self.procs[*index as usize])).sum(),
            top: self.largest(all, TOP),
        }
    }

    fn largest(&self, indices: &[u32], most: usize) -> Vec<ProcessRecord> {
        let mut order = indices.to_vec();
        order.sort_by_key(|index| std::cmp::Reverse(memory_of(&self.procs[*index as usize])));
        order.iter().take(most).map(|index| record(&self.procs[*index as usize])).collect()
    }
}

fn record(proc: &Proc) -> ProcessRecord {
    ProcessRecord { pid: proc.key.pid, name: comm(proc), memory: memory_of(proc) }
}

/// What is surely a process's own, or all that is mapped into it where nothing better is known.
fn memory_of(proc: &Proc) -> Bytes {
    match (proc.pss, proc.memory) {
        (Field::Known(pss), _) => pss,
        (_, Field::Known(memory)) => memory.anon.plus(memory.swap).plus(memory.shmem),
        _ => proc.rss,
    }
}

/// Text that a process chose, as it stands in records.
fn text(text: &str) -> String {
    escape(text.as_bytes(), TEXT_MAX)
}

fn comm(proc: &Proc) -> String {
    escape(proc.comm.bytes(), TEXT_MAX)
}
