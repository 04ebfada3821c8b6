//! What a survey found, and for how long it is kept: whole for a second, so that those who ask
//! together are told the same; in brief for a minute, for an answer in the midst of an episode.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::decision::Scratch;
use crate::facts::Figures;
use crate::ids::WatchId;
use crate::policy::telling::Bounds;
use crate::report::{ContainerView, NotebookView};
use crate::units::{Bytes, Moment};

/// When the last one who asked did so this long ago, nothing is kept any more.
const FORGET: Duration = Duration::from_secs(60);

/// Figures younger than this are the answer for the next one who asks, too.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// One container is given one part in so many of the loop's time.
const SHARE: u32 = 20;

/// Notebooks that are listed of one container, and of all together; of a container that comes
/// last when there is no more room, so many all the same.
const NOTEBOOKS_MAX: usize = 500;
const NOTEBOOKS_ALL: usize = 2048;
const NOTEBOOKS_LEAST: usize = 8;
/// Processes that are listed of one notebook, of one container, and of all.
const PROCESSES_MAX: usize = 256;
const PROCESSES_OF_ONE: usize = 4096;
const PROCESSES_ALL: usize = 16_384;
/// Notebooks of all containers that are kept for answers in the midst of an episode.
const KEPT: usize = 512;

const _: () = assert!(NOTEBOOKS_LEAST < NOTEBOOKS_MAX && NOTEBOOKS_MAX < NOTEBOOKS_ALL);

/// Whose figures: one container's, or all.
pub(super) type Whose = Option<WatchId>;

#[derive(Default)]
pub(super) struct Surveys {
    pub kept: Vec<Kept>,
    pub todo: VecDeque<Todo>,
    /// Containers whose identities are being read, and until when that is waited for.
    pub reading: Vec<(WatchId, Moment)>,
    /// Containers whose identities the helper was asked for and has not read to the end, waited
    /// for or not: whoever holds up the reader does not fill its queue.
    pub out: Vec<WatchId>,
    /// Room for the scans, apart from that of the decisions, so that it can be given back.
    pub scratch: Option<Box<Scratch>>,
    pub asked_at: Option<Moment>,
    pub aside_at: Option<Moment>,
}

pub(super) struct Todo {
    pub id: WatchId,
    /// The identities were asked for: what is not known by now stays unknown.
    pub asked: bool,
}

pub(super) struct Kept {
    pub id: WatchId,
    pub at: Moment,
    pub wall: SystemTime,
    /// What the loop gave for it.
    pub took: Duration,
    pub seen: Seen,
}

impl Kept {
    /// Whether it is the answer for the next one who asks, too. Whoever fills his own container
    /// with processes makes looking at it slow; he gets no more of the loop's time for that.
    pub fn is_fresh(&self, now: Moment) -> bool {
        let age = now.since(self.at);
        (self.seen.view().is_some() && age < FRESH) || age < self.took * SHARE
    }
}

pub(super) enum Seen {
    Whole(Box<ContainerView>),
    /// What is left of it a second later.
    Brief(Box<Brief>),
    /// Nothing was read: what the guard knows anyway.
    Outline,
}

/// What an answer in the midst of an episode needs and the guard does not know anyway.
pub(super) struct Brief {
    pub figures: Numbers,
    pub total: Bytes,
    pub threshold: Bytes,
    pub sum: Bytes,
    pub ratio: f64,
    pub notebooks: Vec<NotebookView>,
    pub notebooks_total: u32,
    pub outside: u32,
    pub outside_memory: Bytes,
}

/// The figures of a view.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub usage: Bytes,
    pub unreclaimable: Bytes,
    pub anon: Bytes,
    pub shmem: Bytes,
    pub swap: Option<Bytes>,
    pub limit: Option<Bytes>,
    pub high: Option<Bytes>,
    pub psi: Option<(f64, f64)>,
}

impl Seen {
    pub fn view(&self) -> Option<&ContainerView> {
        match self {
            Seen::Whole(view) => Some(view),
            Seen::Brief(_) | Seen::Outline => None,
        }
    }
}

impl Brief {
    pub fn of(view: &mut ContainerView, notebooks: usize) -> Brief {
        let mut notebooks: Vec<NotebookView> =
            std::mem::take(&mut view.notebooks).into_iter().take(notebooks).collect();
        notebooks.shrink_to_fit();
        for notebook in &mut notebooks {
            notebook.processes = Vec::new();
        }
        Brief {
            figures: Numbers {
                usage: view.usage,
                unreclaimable: view.unreclaimable,
                anon: view.anon,
                shmem: view.shmem,
                swap: view.swap,
                limit: view.limit,
                high: view.high,
                psi: view.psi_some_avg10.zip(view.psi_full_avg10),
            },
            total: view.total,
            threshold: view.threshold,
            sum: view.sum,
            ratio: view.ratio,
            notebooks,
            notebooks_total: view.notebooks_total,
            outside: view.unattributed.count,
            outside_memory: view.unattributed.memory,
        }
    }

    pub fn fill(&self, view: &mut ContainerView) {
        self.figures.fill(view);
        view.total = self.total;
        view.threshold = self.threshold;
        view.sum = self.sum;
        view.ratio = self.ratio;
        view.notebooks = self.notebooks.clone();
        view.notebooks_total = self.notebooks_total;
        view.unattributed.count = self.outside;
        view.unattributed.memory = self.outside_memory;
    }
}

impl Numbers {
    pub fn of(figures: &Figures) -> Numbers {
        Numbers {
            usage: figures.usage,
            unreclaimable: figures.unreclaimable(),
            anon: figures.anon,
            shmem: figures.shmem,
            swap: figures.swap.known(),
            limit: figures.limit.bytes(),
            high: figures.high.bytes(),
            psi: figures.psi.known().map(|psi| psi.percent()),
        }
    }

    pub fn fill(&self, view: &mut ContainerView) {
        view.usage = self.usage;
        view.unreclaimable = self.unreclaimable;
        view.anon = self.anon;
        view.shmem = self.shmem;
        view.swap = self.swap;
        view.limit = self.limit;
        view.high = self.high;
        view.psi_some_avg10 = self.psi.map(|(some, _)| some);
        view.psi_full_avg10 = self.psi.map(|(_, full)| full);
    }
}

impl Surveys {
    /// Whether the next turn of the loop has a container to look at.
    pub fn has_work(&self) -> bool {
        !self.todo.is_empty()
    }

    pub fn deadline(&self) -> Option<Moment> {
        let reading = self.reading.iter().map(|(_, until)| *until);
        reading.chain(self.aside_at).chain(self.forget_at()).min()
    }

    pub fn forget_at(&self) -> Option<Moment> {
        self.asked_at.map(|at| at.plus(FORGET))
    }

    pub fn is_under_way(&self, id: WatchId) -> bool {
        self.todo.iter().any(|todo| todo.id == id) || self.reading.iter().any(|(of, _)| *of == id)
    }

    /// Whether everything that was asked for has been looked at.
    pub fn is_ready(&self, whose: Whose) -> bool {
        match whose {
            Some(id) => !self.is_under_way(id),
            None => self.is_over(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.todo.is_empty() && self.reading.is_empty()
    }

    pub fn find(&self, id: WatchId) -> Option<usize> {
        self.kept.iter().position(|kept| kept.id == id)
    }

    pub fn keep(&mut self, kept: Kept) {
        match self.find(kept.id) {
            Some(at) => self.kept[at] = kept,
            None => self.kept.push(kept),
        }
    }

    /// How much may be listed of one more container.
    pub fn room(&self, id: WatchId) -> Bounds {
        let others =
            || self.kept.iter().filter(|kept| kept.id != id).filter_map(|kept| kept.seen.view());
        let notebooks: usize = others().map(|view| view.notebooks.len()).sum();
        let processes: usize =
            others().flat_map(|view| &view.notebooks).map(|n| n.processes.len()).sum();
        let rows = NOTEBOOKS_ALL.saturating_sub(notebooks);
        Bounds {
            rows: rows.clamp(NOTEBOOKS_LEAST, NOTEBOOKS_MAX),
            members: PROCESSES_MAX,
            all_members: PROCESSES_ALL.saturating_sub(processes).min(PROCESSES_OF_ONE),
        }
    }

    /// Keeps what an answer in the midst of an episode needs.
    pub fn put_aside(&mut self) {
        let each = (KEPT / self.kept.len().max(1)).max(1);
        for kept in &mut self.kept {
            if let Seen::Whole(view) = &mut kept.seen {
                kept.seen = Seen::Brief(Box::new(Brief::of(view, each)));
            }
        }
        self.kept.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_is_slow_to_look_at_is_looked_at_less_often() {
        let kept = |took, seen| Kept {
            id: WatchId { slot: 0, generation: 0 },
            at: Moment(0),
            wall: SystemTime::UNIX_EPOCH,
            took: Duration::from_millis(took),
            seen,
        };
        let whole = || Seen::Whole(Box::default());
        let brief = || Seen::Brief(Box::new(Brief::of(&mut ContainerView::default(), 0)));
        let ms = |ms: u64| Moment(ms * 1000);
        assert!(kept(2, whole()).is_fresh(ms(999)) && !kept(2, whole()).is_fresh(ms(1000)));
        assert!(!kept(2, brief()).is_fresh(ms(500)), "what is left of it is no answer");
        assert!(kept(300, brief()).is_fresh(ms(5999)) && !kept(300, brief()).is_fresh(ms(6000)));
    }
}
