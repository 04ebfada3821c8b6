//! Orders workloads by what their end would give back. Pure: no files, no clock; works in
//! vectors that are kept, so that nothing is allocated between an event and a signal.
//!
//! What a tree holds is an interval. Forked children share pages, so the sum over a tree is only
//! its upper bound and its largest single process a lower one. The cgroup's own `anon` is exact,
//! so what all others can hold at most bounds a tree from below, and what they surely hold bounds
//! it from above. `status` is read only where the intervals leave the answer open, `smaps_rollup`
//! only where `status` does too. What was not read is never taken for zero: it is bounded by RSS.

use serde::Serialize;
use std::cmp::Reverse;

use crate::facts::{Field, Figures, Proc, Why};
use crate::ids::ProcKey;
use crate::policy::tree::Forest;
use crate::units::Bytes;

/// At least this, at most that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Interval {
    pub least: Bytes,
    pub most: Bytes,
}

impl Interval {
    pub const ZERO: Interval = Interval { least: Bytes::ZERO, most: Bytes::ZERO };

    pub const fn exactly(bytes: Bytes) -> Interval {
        Interval { least: bytes, most: bytes }
    }

    pub fn is_exact(self) -> bool {
        self.least == self.most
    }

    /// Surely not less than the other.
    pub fn is_above(self, other: Interval) -> bool {
        self.least >= other.most
    }

    /// Whether this much is held is open.
    pub fn straddles(self, bytes: Bytes) -> bool {
        self.least < bytes && bytes <= self.most
    }

    /// The middle: the estimate where one number is needed.
    pub fn middle(self) -> Bytes {
        Bytes(self.least.0 + self.most.0.saturating_sub(self.least.0) / 2)
    }

    #[must_use]
    pub fn plus(self, other: Interval) -> Interval {
        Interval { least: self.least.plus(other.least), most: self.most.plus(other.most) }
    }

    /// Both hold. Figures that were read one after the other may contradict each other; then
    /// this one stands.
    #[must_use]
    fn and(self, other: Interval) -> Interval {
        let both = Interval { least: self.least.max(other.least), most: self.most.min(other.most) };
        if both.least <= both.most { both } else { self }
    }
}

/// What a container's cgroup says of itself: exact, unlike any sum over processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupMemory {
    pub anon: Bytes,
    pub shmem: Bytes,
    pub swap: Field<Bytes>,
}

impl From<&Figures> for GroupMemory {
    fn from(figures: &Figures) -> GroupMemory {
        GroupMemory { anon: figures.anon, shmem: figures.shmem, swap: figures.swap }
    }
}

/// How far the order has to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Which competing workload holds the most, and whether it holds as much as `worth`.
    Top { worth: Bytes },
    /// What each workload holds: for growth, for sums, for a table.
    Each,
}

/// What settled the order between the first and the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettledBy {
    /// There was only one to choose.
    Single,
    /// What the processes' own figures bound does not overlap.
    Intervals,
    /// Only together with the cgroup's figures the intervals do not overlap.
    CgroupFigures,
    /// Proportional set sizes had to be read.
    Pss,
    /// The intervals overlap still: what is surely held decided.
    LowerBound,
    /// Size did not decide: growth did.
    Growth,
}

impl SettledBy {
    pub fn as_str(self) -> &'static str {
        match self {
            SettledBy::Single => "single",
            SettledBy::Intervals => "intervals",
            SettledBy::CgroupFigures => "cgroup-figures",
            SettledBy::Pss => "pss",
            SettledBy::LowerBound => "lower-bound",
            SettledBy::Growth => "growth",
        }
    }
}

/// One workload in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The place in [`Forest::workloads`].
    pub workload: u32,
    pub root: ProcKey,
    /// What its end would give back.
    pub held: Interval,
    /// The same by the processes' own figures alone, without the cgroup's and without PSS.
    pub own: Interval,
    /// Resident sets of its processes added up, from `stat`.
    pub rss: Bytes,
    /// Takes part in the choice: neither protected nor otherwise out of the question.
    pub competes: bool,
    /// Some proportional set size went into `held`.
    pub by_pss: bool,
    /// Every live process of it was read in `status` or `smaps_rollup`.
    pub is_read: bool,
}

impl Row {
    /// The one number for a table: what is surely held; of a tree that nobody has read, RSS.
    pub fn figure(&self) -> Bytes {
        if self.held.least == Bytes::ZERO { self.rss } else { self.held.least }
    }
}

/// `status` costs 18 ms per 1,000 processes where `stat` costs 11.5 (native, 6.18, KERNEL.md).
/// The budget from event to signal is 1.3 times the `stat` of all: a sixth of them leaves a
/// little for everything else. Small scans may read a handful more.
pub fn status_budget(procs: usize) -> usize {
    procs / 6 + 8
}

/// A process whose RSS is smaller than this cannot change an order worth changing.
const WORTH_READING: Bytes = Bytes::mib(1);
/// The kernel keeps `memory.stat` and RSS in per-CPU batches and the figures are read one after
/// the other: within this they do not contradict each other.
const SLACK: Bytes = Bytes::mib(2);
const SLACK_PART: u64 = 64;
/// Processes returned at once, so that each choice among many trees is made for many readings.
const TREES_PER_READING: usize = 16;
const PROCS_PER_READING: usize = 512;
/// Finalists whose PSS is worth its time (1.1 ms per process, 14 ms per GiB: KERNEL.md).
const MAX_FINALISTS: usize = 3;

/// The order of the workloads of one scan.
#[derive(Default)]
pub struct Ranking {
    rows: Vec<Row>,
    /// Where each workload stands in `rows`.
    places: Vec<u32>,
    /// The workloads, then for each container its servers and its unattributed.
    trees: Vec<Tree>,
    /// Processes by tree, the largest RSS first.
    by_rss: Vec<u32>,
    tree_of: Vec<u32>,
    groups: Vec<Option<GroupMemory>>,
    totals: Vec<Totals>,
    batch: Vec<u32>,
    heads: Vec<(Bytes, u32)>,
    finalists: Vec<u32>,
    workloads: usize,
    budget: usize,
}

#[derive(Clone, Copy, Default)]
struct Tree {
    container: u16,
    competes: bool,
    /// Its part of `by_rss`, and how far it was offered for reading.
    from: u32,
    next: u32,
    to: u32,
    /// Sums over what was read in `status`.
    anon: Bytes,
    swap: Bytes,
    shmem: Bytes,
    /// The largest single process.
    max_anon: Bytes,
    max_swap: Bytes,
    max_private: Bytes,
    max_shmem: Bytes,
    rss: Bytes,
    /// RSS of live processes without status, and their number.
    unread: Bytes,
    unread_count: u32,
    /// Σ PSS of those that have one, and the upper bound of those that have none.
    pss: Bytes,
    pss_count: u32,
    without_pss: Bytes,
    without_pss_count: u32,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    anon_most: Bytes,
    anon_least: Bytes,
}

impl Ranking {
    /// Takes a scan over. `competes` says which workloads are to be chosen among; `budget` how
    /// many `status` files may be read ([`status_budget`]).
    pub fn begin(
        &mut self,
        forest: &Forest,
        procs: &[Proc],
        groups: &[Option<GroupMemory>],
        budget: usize,
        competes: impl Fn(usize) -> bool,
    ) {
        self.budget = budget;
        self.batch.clear();
        self.workloads = forest.workloads().len();
        self.groups.clear();
        self.groups.extend_from_slice(groups);
        let containers = procs.iter().map(|p| usize::from(p.container) + 1).max().unwrap_or(0);
        self.groups.resize(containers.max(groups.len()), None);
        self.trees.clear();
        for (number, workload) in forest.workloads().iter().enumerate() {
            let (container, competes) = (workload.container, competes(number));
            self.trees.push(Tree { container, competes, ..Tree::default() });
        }
        for container in 0..self.groups.len() as u16 {
            self.trees.push(Tree { container, ..Tree::default() });
            self.trees.push(Tree { container, ..Tree::default() });
        }
        self.sort_processes(forest, procs);
        self.rows.clear();
        for (number, workload) in forest.workloads().iter().enumerate() {
            self.rows.push(Row {
                workload: number as u32,
                root: workload.root,
                held: Interval::ZERO,
                own: Interval::ZERO,
                rss: Bytes::ZERO,
                competes: self.trees[number].competes,
                by_pss: false,
                is_read: false,
            });
        }
        self.learn(procs);
    }

    fn sort_processes(&mut self, forest: &Forest, procs: &[Proc]) {
        const NOWHERE: u32 = u32::MAX;
        self.tree_of.clear();
        self.tree_of.resize(procs.len(), NOWHERE);
        for (number, workload) in forest.workloads().iter().enumerate() {
            for member in forest.members(workload) {
                self.tree_of[member.index as usize] = number as u32;
            }
        }
        let outside = |container: u16| self.workloads as u32 + 2 * u32::from(container);
        for index in forest.servers() {
            self.tree_of[*index as usize] = outside(procs[*index as usize].container);
        }
        for index in forest.unattributed() {
            self.tree_of[*index as usize] = outside(procs[*index as usize].container) + 1;
        }
        let tree_of = &self.tree_of;
        self.by_rss.clear();
        self.by_rss.extend((0..procs.len() as u32).filter(|i| tree_of[*i as usize] != NOWHERE));
        self.by_rss.sort_unstable_by_key(|i| {
            let proc = &procs[*i as usize];
            (tree_of[*i as usize], Reverse(proc.rss), proc.key)
        });
        let mut at = 0;
        for (number, tree) in self.trees.iter_mut().enumerate() {
            tree.from = at;
            tree.next = at;
            while self
                .by_rss
                .get(at as usize)
                .is_some_and(|i| tree_of[*i as usize] == number as u32)
            {
                at += 1;
            }
            tree.to = at;
        }
    }

    /// Which processes' `status` to read next; empty when the order is settled, nothing more
    /// would help, or the budget is used up. Put the answers into the scan, then call `learn`.
    pub fn next_to_read(&mut self, procs: &[Proc], purpose: Purpose) -> &[u32] {
        self.batch.clear();
        if self.budget > 0 && !self.is_settled(purpose) {
            self.fill_batch(procs, purpose);
        }
        self.budget = self.budget.saturating_sub(self.batch.len());
        &self.batch
    }

    fn is_settled(&self, purpose: Purpose) -> bool {
        let Purpose::Top { worth } = purpose else { return false };
        let mut competing = self.rows.iter().filter(|row| row.competes);
        let Some(first) = competing.next() else { return true };
        let outside = self.beyond_reach();
        let compares = first.held.is_above(outside) || outside.least > first.held.most;
        compares
            && !first.held.straddles(worth)
            && competing.all(|row| first.held.is_above(row.held))
    }

    /// The largest unread processes of the trees that are in question. What is not in question
    /// itself still bounds those that are, through the cgroup's figures.
    fn fill_batch(&mut self, procs: &[Proc], purpose: Purpose) {
        let want = (self.workloads / TREES_PER_READING).max(procs.len() / PROCS_PER_READING);
        let want = want.clamp(1, self.budget);
        let surest = self.surest();
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        for number in 0..self.trees.len() {
            if self.is_contested(number, surest, purpose) {
                heads.extend(self.next_unread(number, procs).map(|rss| (rss, number as u32)));
            }
        }
        heads.sort_unstable_by_key(|(rss, number)| (Reverse(*rss), *number));
        for (_, number) in heads.iter().take(want) {
            let tree = &mut self.trees[*number as usize];
            self.batch.push(self.by_rss[tree.next as usize]);
            tree.next += 1;
        }
        self.heads = heads;
    }

    fn is_contested(&self, number: usize, surest: Bytes, purpose: Purpose) -> bool {
        let tree = &self.trees[number];
        tree.unread_count > 0
            && (purpose == Purpose::Each || !tree.competes || self.held(number).most >= surest)
    }

    /// RSS of the largest process of a tree that was not read; moves past those that were.
    fn next_unread(&mut self, number: usize, procs: &[Proc]) -> Option<Bytes> {
        let tree = &mut self.trees[number];
        while tree.next < tree.to {
            let proc = &procs[self.by_rss[tree.next as usize] as usize];
            if is_unread(proc) {
                return (proc.rss >= WORTH_READING).then_some(proc.rss);
            }
            tree.next += 1;
        }
        None
    }

    /// The most that any competing workload surely holds.
    fn surest(&self) -> Bytes {
        let competing = self.rows.iter().filter(|row| row.competes);
        competing.map(|row| row.held.least).max().unwrap_or_default()
    }

    /// Works out all intervals and the order anew. After `next_to_read` only the processes that
    /// it gave are looked at again, at any other time all.
    pub fn learn(&mut self, procs: &[Proc]) {
        if self.batch.is_empty() {
            for tree in &mut self.trees {
                *tree = tree.emptied();
                for index in &self.by_rss[tree.from as usize..tree.to as usize] {
                    tree.take(&procs[*index as usize]);
                }
            }
        }
        for index in self.batch.drain(..) {
            let tree = &mut self.trees[self.tree_of[index as usize] as usize];
            tree.forget_unread(&procs[index as usize]);
            tree.take(&procs[index as usize]);
        }
        self.settle();
    }

    /// Intervals and order, from the trees' sums.
    fn settle(&mut self) {
        self.totals.clear();
        self.totals.resize(self.groups.len(), Totals::default());
        for tree in &self.trees {
            let total = &mut self.totals[usize::from(tree.container)];
            total.anon_most = total.anon_most.plus(tree.anon_most());
            total.anon_least = total.anon_least.plus(tree.max_anon);
        }
        for at in 0..self.rows.len() {
            let number = self.rows[at].workload as usize;
            let (held, own, tree) = (self.held(number), self.own(number), self.trees[number]);
            let row = &mut self.rows[at];
            row.held = held;
            row.own = own;
            row.rss = tree.rss;
            row.by_pss = tree.pss_count > 0;
            row.is_read = tree.unread_count == 0 || tree.without_pss_count == 0;
        }
        self.rows.sort_unstable_by_key(|row| {
            (Reverse(row.held.least), Reverse(row.held.most), row.root)
        });
        self.places.clear();
        self.places.resize(self.rows.len(), 0);
        for (place, row) in self.rows.iter().enumerate() {
            self.places[row.workload as usize] = place as u32;
        }
    }

    fn own(&self, number: usize) -> Interval {
        let tree = &self.trees[number];
        tree.own(self.groups[usize::from(tree.container)])
    }

    fn held(&self, number: usize) -> Interval {
        let tree = &self.trees[number];
        let own = self.own(number);
        if own.is_exact() && tree.unread_count == 0 {
            return own;
        }
        let by_group = match self.groups[usize::from(tree.container)] {
            Some(group) => own.and(tree.beside(group, self.totals[usize::from(tree.container)])),
            None => own,
        };
        tree.by_pss(self.groups[usize::from(tree.container)])
            .map_or(by_group, |pss| pss.and(by_group))
    }

    /// The order: what is surely held decides, then what may be held, then the older root.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Where a workload stands in `rows`.
    pub fn place(&self, workload: u32) -> Option<u32> {
        self.places.get(workload as usize).copied()
    }

    pub fn row(&self, workload: u32) -> Option<&Row> {
        self.rows.get(self.place(workload)? as usize)
    }

    /// Takes a workload out of the choice after all.
    pub fn exclude(&mut self, workload: u32) {
        self.trees[workload as usize].competes = false;
        let place = self.places[workload as usize];
        self.rows[place as usize].competes = false;
    }

    /// What settled that `first` stands before all of `others`.
    pub fn settled_by<'a>(first: &Row, others: impl Iterator<Item = &'a Row>) -> SettledBy {
        let mut by = SettledBy::Single;
        for other in others {
            let this = if !first.held.is_above(other.held) {
                SettledBy::LowerBound
            } else if first.own.is_above(other.own) {
                SettledBy::Intervals
            } else if first.by_pss || other.by_pss {
                SettledBy::Pss
            } else {
                SettledBy::CgroupFigures
            };
            by = by.max_with(this);
        }
        by
    }

    /// The processes whose PSS would tell the competing workloads apart that may hold the most,
    /// or whether the first holds `worth`: parents first, as long as they cost no more than
    /// `budget` of RSS (14 ms per GiB). Empty when the order is settled or everything was read.
    pub fn finalists(
        &mut self,
        forest: &Forest,
        procs: &[Proc],
        worth: Bytes,
        budget: Bytes,
    ) -> &[u32] {
        self.finalists.clear();
        let surest = self.surest();
        // Two that differ by less than the figures can tell are equally right: no time for that.
        let bar = surest.plus(slack(surest));
        let open = |row: &&Row| row.competes && row.held.most > bar;
        let Some(first) = self.rows.iter().find(|row| row.competes) else {
            return &self.finalists;
        };
        let contest = self.rows.iter().filter(open).any(|row| row.workload != first.workload);
        if !contest && !first.held.straddles(worth) {
            return &self.finalists;
        }
        let mut spent = Bytes::ZERO;
        let in_question = |row: &&Row| row.workload == first.workload || open(row);
        for row in self.rows.iter().filter(in_question).take(MAX_FINALISTS) {
            if row.held.is_exact() {
                continue;
            }
            for member in forest.members(&forest.workloads()[row.workload as usize]) {
                let proc = &procs[member.index as usize];
                let wanted = proc.pss == Field::Unknown(Why::NotRead) && !proc.is_zombie();
                if wanted && spent.plus(proc.rss) <= budget {
                    spent = spent.plus(proc.rss);
                    self.finalists.push(member.index);
                }
            }
        }
        &self.finalists
    }

    /// What all workloads hold together.
    pub fn sum(&self) -> Interval {
        let each: Interval = self.rows.iter().fold(Interval::ZERO, |sum, row| sum.plus(row.held));
        let mut bound = Interval::ZERO;
        for (container, group) in self.groups.iter().enumerate() {
            let Some(group) = group else { return each };
            let [servers, rest] = self.outside_trees(container);
            let outside_most = servers.anon_most().plus(rest.anon_most());
            let outside_least = servers.max_anon.plus(rest.max_anon);
            bound.least = bound.least.plus(group.anon.less(outside_most).less(slack(group.anon)));
            let swap = swapped_at_most(Some(*group));
            let most = group.anon.plus(slack(group.anon)).less(outside_least);
            bound.most = bound.most.plus(most).plus(group.shmem).plus(swap);
        }
        each.and(bound)
    }

    /// What the servers hold.
    pub fn servers(&self) -> Interval {
        self.outside(0)
    }

    /// What processes in no workload hold, servers apart.
    pub fn unattributed(&self) -> Interval {
        self.outside(1)
    }

    /// What workloads that do not compete hold, protected ones for instance.
    pub fn excluded(&self) -> Interval {
        let rows = self.rows.iter().filter(|row| !row.competes);
        rows.fold(Interval::ZERO, |sum, row| sum.plus(row.held))
    }

    /// What no kill can give back, the servers apart.
    pub fn beyond_reach(&self) -> Interval {
        self.unattributed().plus(self.excluded())
    }

    /// All that the cgroups say cannot be reclaimed but the kernel's own; `None` where one of
    /// them is not known.
    pub fn charged(&self) -> Option<Bytes> {
        self.groups.iter().try_fold(Bytes::ZERO, |sum, group| {
            let group = group.as_ref()?;
            Some(
                sum.plus(group.anon).plus(group.shmem).plus(group.swap.known().unwrap_or_default()),
            )
        })
    }

    fn outside(&self, which: usize) -> Interval {
        (0..self.groups.len())
            .map(|container| self.held(self.workloads + 2 * container + which))
            .fold(Interval::ZERO, Interval::plus)
    }

    fn outside_trees(&self, container: usize) -> [&Tree; 2] {
        let at = self.workloads + 2 * container;
        [&self.trees[at], &self.trees[at + 1]]
    }
}

impl SettledBy {
    /// The weaker of two reasons.
    fn max_with(self, other: SettledBy) -> SettledBy {
        let weight = |by| match by {
            SettledBy::Single => 0,
            SettledBy::Intervals => 1,
            SettledBy::CgroupFigures => 2,
            SettledBy::Pss => 3,
            SettledBy::LowerBound => 4,
            SettledBy::Growth => 5,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

impl Tree {
    /// The same tree before anything was added up.
    fn emptied(&self) -> Tree {
        Tree {
            container: self.container,
            competes: self.competes,
            from: self.from,
            next: self.next,
            to: self.to,
            ..Tree::default()
        }
    }

    /// Adds a process, by what is known of it now.
    fn take(&mut self, proc: &Proc) {
        if is_over(proc) {
            return;
        }
        self.rss = self.rss.plus(proc.rss);
        let most = match proc.memory {
            Field::Known(memory) => {
                let private = memory.anon.plus(memory.swap);
                self.anon = self.anon.plus(memory.anon);
                self.swap = self.swap.plus(memory.swap);
                self.shmem = self.shmem.plus(memory.shmem);
                self.max_anon = self.max_anon.max(memory.anon);
                self.max_swap = self.max_swap.max(memory.swap);
                self.max_private = self.max_private.max(private);
                self.max_shmem = self.max_shmem.max(memory.shmem);
                private.plus(memory.shmem)
            }
            Field::Unknown(_) => {
                self.unread = self.unread.plus(proc.rss);
                self.unread_count += 1;
                proc.rss
            }
        };
        match proc.pss {
            Field::Known(pss) => {
                self.pss = self.pss.plus(pss);
                self.pss_count += 1;
            }
            Field::Unknown(_) => {
                self.without_pss = self.without_pss.plus(most);
                self.without_pss_count += 1;
            }
        }
    }

    /// Takes back what was added for a process while its status was not read.
    fn forget_unread(&mut self, proc: &Proc) {
        self.rss = self.rss.less(proc.rss);
        self.unread = self.unread.less(proc.rss);
        self.unread_count = self.unread_count.saturating_sub(1);
        match proc.pss {
            Field::Known(pss) => {
                self.pss = self.pss.less(pss);
                self.pss_count = self.pss_count.saturating_sub(1);
            }
            Field::Unknown(_) => {
                self.without_pss = self.without_pss.less(proc.rss);
                self.without_pss_count = self.without_pss_count.saturating_sub(1);
            }
        }
    }

    /// Anonymous memory at most.
    fn anon_most(&self) -> Bytes {
        self.anon.plus(self.unread)
    }

    /// By its own processes alone.
    fn own(&self, group: Option<GroupMemory>) -> Interval {
        let shmem = group.map_or(self.shmem, |group| self.shmem.min(group.shmem.plus(SLACK)));
        Interval {
            least: self.max_private.plus(self.max_shmem),
            most: self
                .anon
                .plus(self.swap)
                .plus(shmem.max(self.max_shmem))
                .plus(self.unread)
                .plus(self.unread_swap(group)),
        }
    }

    fn unread_swap(&self, group: Option<GroupMemory>) -> Bytes {
        if self.unread_count > 0 { swapped_at_most(group) } else { Bytes::ZERO }
    }

    /// By what is left of the cgroup's anonymous memory beside all other trees.
    fn beside(&self, group: GroupMemory, totals: Totals) -> Interval {
        let others_most = totals.anon_most.less(self.anon_most());
        let others_least = totals.anon_least.less(self.max_anon);
        let slack = slack(group.anon);
        let anon_least = group.anon.less(others_most).less(slack);
        let anon_most = group.anon.plus(slack).less(others_least);
        let shmem = self.shmem.plus(self.unread).min(group.shmem.plus(SLACK));
        Interval {
            least: anon_least.plus(self.max_swap).plus(self.max_shmem),
            most: anon_most
                .plus(shmem.max(self.max_shmem))
                .plus(self.swap)
                .plus(self.unread_swap(Some(group))),
        }
    }

    fn by_pss(&self, group: Option<GroupMemory>) -> Option<Interval> {
        if self.pss_count == 0 {
            return None;
        }
        let rest = match self.without_pss_count {
            0 => Bytes::ZERO,
            _ => self.without_pss.plus(self.unread_swap(group)),
        };
        Some(Interval { least: self.pss, most: self.pss.plus(rest) })
    }
}

/// RSS does not cover what is swapped out, so without the cgroup's figure a process that was not
/// read could hold anything.
fn swapped_at_most(group: Option<GroupMemory>) -> Bytes {
    group.and_then(|group| group.swap.known()).unwrap_or(Bytes(u64::MAX))
}

fn slack(anon: Bytes) -> Bytes {
    SLACK.plus(Bytes(anon.0 / SLACK_PART))
}

/// Holds nothing any more: a zombie, or one that was gone when it was read (`Absent` is how a
/// process without memory looks).
fn is_over(proc: &Proc) -> bool {
    const OVER: [Why; 2] = [Why::Gone, Why::Absent];
    proc.is_zombie()
        || matches!(proc.memory, Field::Unknown(why) if OVER.contains(&why))
        || proc.pss == Field::Unknown(Why::Gone)
}

/// Not read, and reading was not tried.
fn is_unread(proc: &Proc) -> bool {
    !is_over(proc) && proc.memory == Field::Unknown(Why::NotRead)
}

/// What was held at the warning look, to tell who grew since.
#[derive(Clone, Default, Debug)]
pub struct Baseline {
    /// Sorted by root.
    held: Vec<Then>,
    charged: Option<Bytes>,
}

#[derive(Clone, Copy, Debug)]
struct Then {
    root: ProcKey,
    held: Interval,
    rss: Bytes,
}

impl Baseline {
    /// Keeps a ranking's figures, best those of [`Purpose::Each`].
    pub fn take(&mut self, ranking: &Ranking) {
        self.charged = ranking.charged();
        self.held.clear();
        self.held.extend(ranking.rows.iter().map(|row| Then {
            root: row.root,
            held: row.held,
            rss: row.rss,
        }));
        self.held.sort_unstable_by_key(|then| then.root);
    }

    pub fn clear(&mut self) {
        self.held.clear();
        self.charged = None;
    }

    /// By how much the cgroups' own figures grew, whoever it was.
    pub fn total_growth(&self, ranking: &Ranking) -> Option<Bytes> {
        Some(ranking.charged()?.less(self.charged?))
    }

    /// Nothing, if it was not there.
    fn then(&self, root: ProcKey) -> Then {
        let found = self.held.binary_search_by_key(&root, |then| then.root);
        found.map_or(Then { root, held: Interval::ZERO, rss: Bytes::ZERO }, |at| self.held[at])
    }

    /// By how much a workload surely grew since.
    pub fn growth(&self, row: &Row) -> Bytes {
        row.held.least.less(self.then(row.root).held.most)
    }

    /// By how much its resident sets grew: an upper bound that needs no `status`.
    pub fn rss_growth(&self, row: &Row) -> Bytes {
        row.rss.less(self.then(row.root).rss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::ProcMemory;
    use crate::policy::world::{SERVER, World, key};
    use proptest::prelude::*;

    const TOP: Purpose = Purpose::Top { worth: Bytes::ZERO };
    const NO_RSS: Bytes = Bytes::ZERO;

    fn mib(n: u64) -> Bytes {
        Bytes::mib(n)
    }

    /// Every tree's interval holds the truth; every pair whose intervals do not overlap stands
    /// in the true order; the first is what the test says, settled as it says.
    #[track_caller]
    fn check(world: &World, truth: &[(u32, Bytes)], first: u32, by: SettledBy) {
        let of = |pid: u32| truth.iter().find(|(root, _)| *root == pid).unwrap().1;
        let rows = world.ranking.rows();
        assert_eq!(rows.len(), truth.len());
        for (at, row) in rows.iter().enumerate() {
            let bytes = of(row.root.pid);
            assert!(row.held.least <= bytes && bytes <= row.held.most, "{row:?}: {bytes}");
            assert_eq!(world.ranking.place(row.workload), Some(at as u32));
            for below in &rows[at + 1..] {
                if row.held.is_above(below.held) {
                    assert!(bytes >= of(below.root.pid), "{row:?} above {below:?}");
                }
                let reversed = below.held.is_above(row.held);
                assert!(!reversed || below.held == row.held, "{below:?} below {row:?}");
            }
        }
        let top = rows.iter().find(|row| row.competes).unwrap();
        let others = rows.iter().filter(|row| row.competes && row.root != top.root);
        assert_eq!((top.root.pid, Ranking::settled_by(top, others)), (first, by));
    }

    #[test]
    fn a_hog_among_small_ones_is_settled_without_reading_anybody() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(60));
        world.kernel(30, "b").holds(30, mib(400));
        world.kernel(40, "c").holds(40, mib(50));
        world.holds(SERVER, mib(80)).group_of_sums().build().rank(TOP);
        let truth = [(20, mib(60)), (30, mib(400)), (40, mib(50))];
        check(&world, &truth, 30, SettledBy::CgroupFigures);
        assert_eq!(world.read, [] as [u32; 0]);
        world.rank(Purpose::Each);
        check(&world, &truth, 30, SettledBy::Intervals);
        assert_eq!(world.order(), [30, 20, 40]);
    }

    #[test]
    fn a_family_is_largest_while_another_has_the_largest_process() {
        let mut world = World::new();
        world.kernel(20, "family").holds(20, mib(50));
        for pid in 21..29 {
            world.child(pid, 20).holds(pid, mib(200));
        }
        world.kernel(30, "single").holds(30, mib(700));
        world.kernel(40, "small").holds(40, mib(50)).group_of_sums().build().rank(TOP);
        let truth = [(20, mib(1650)), (30, mib(700)), (40, mib(50))];
        check(&world, &truth, 20, SettledBy::CgroupFigures);
    }

    /// A holds 1.5 GiB that 32 forks share, B 2.1 GiB alone: the RSS of A's tree adds up to 50.
    fn readers(world: &mut World) {
        world.kernel(20, "readers").holds(20, mib(1500));
        world.pss.insert(20, mib(1500 / 30));
        for pid in 100..132 {
            world.child(pid, 20).holds(pid, mib(1502));
            world.pss.insert(pid, mib(47));
        }
        world.kernel(30, "single").holds(30, mib(2100));
        world.kernel(40, "small").holds(40, mib(60));
    }

    #[test]
    fn copy_on_write_readers_are_counted_once() {
        let mut world = World::new();
        readers(&mut world);
        world.group(mib(1564 + 2100 + 60), Bytes::ZERO).build().rank(TOP);
        let truth = [(20, mib(1564)), (30, mib(2100)), (40, mib(60))];
        check(&world, &truth, 30, SettledBy::CgroupFigures);
        assert!(world.read.len() <= status_budget(world.procs.len()), "{:?}", world.read);
    }

    #[test]
    fn two_trees_that_share_need_pss_and_without_it_what_is_surely_held_decides() {
        let mut world = World::new();
        readers(&mut world);
        world.kernel(50, "more readers").holds(50, mib(900));
        for pid in 200..208 {
            world.child(pid, 50).holds(pid, mib(910));
            world.pss.insert(pid, mib(110));
        }
        world.pss.insert(50, mib(100));
        let anon = mib(1564 + 2100 + 60 + 980);
        world.group(anon, Bytes::ZERO).build().rank(TOP);
        let truth = [(20, mib(1564)), (30, mib(2100)), (40, mib(60)), (50, mib(980))];
        check(&world, &truth, 30, SettledBy::LowerBound);
        let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(100_000));
        let list = list.to_vec();
        assert_eq!(list[0], world.index(20), "parents first");
        assert!(!list.contains(&world.index(40)), "not in question");
        world.read_pss(&list);
        let row = world.ranking.row(0).unwrap();
        assert_eq!(row.held, Interval::exactly(mib(50 + 32 * 47)));
        assert_eq!(world.order()[0], 30);
        assert!(world.ranking.finalists(&world.forest, &world.procs, NO_RSS, anon).is_empty());
    }

    #[test]
    fn pss_that_came_in_part_still_bounds() {
        let mut world = World::new();
        readers(&mut world);
        world.kernel(50, "more readers").holds(50, mib(900));
        world.child(51, 50).holds(51, mib(1800));
        for pid in [50, 51] {
            let memory = world.status[&pid];
            world.proc(pid).memory = Field::Known(memory);
        }
        world.build().rank(Purpose::Each);
        let before = world.ranking.row(2).unwrap().held;
        world.pss.insert(51, mib(1350));
        let index = world.index(51);
        world.read_pss(&[index]);
        let after = world.ranking.row(3).unwrap();
        assert_eq!(world.ranking.row(2).unwrap().held, before);
        let expected = Interval { least: mib(1800), most: mib(1350 + 900) };
        assert_eq!((after.root, after.held), (key(50), expected));
    }

    #[test]
    fn a_finalists_budget_is_kept() {
        let mut world = World::new();
        readers(&mut world);
        world.groups = vec![None];
        world.build().rank(TOP);
        let budget = mib(8_000);
        let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, budget).to_vec();
        let spent: Bytes = list.iter().map(|i| world.procs[*i as usize].rss).sum();
        assert!(!list.is_empty() && spent <= budget);
    }

    #[test]
    fn two_that_can_hardly_be_told_apart_are_not_waited_for() {
        let finalists = |second: u64| {
            let mut world = World::new();
            for (root, held) in [(20, 300), (30, second)] {
                world.kernel(root, "x").holds(root, mib(held));
                world.child(root + 1, root).holds(root + 1, mib(3));
            }
            world.build().rank(Purpose::Each);
            world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(10_000)).len()
        };
        assert_eq!((finalists(297), finalists(299)), (0, 0));
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(300)).child(21, 20).holds(21, mib(30));
        world.kernel(30, "b").holds(30, mib(310)).build().rank(Purpose::Each);
        let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(10_000));
        assert_eq!(list.len(), 2, "330 or 300 against 310");
    }

    #[test]
    fn shared_memory_is_counted_once() {
        let mut world = World::new();
        world.kernel(20, "shm").maps(20, mib(50), mib(2048));
        for pid in 21..25 {
            world.child(pid, 20).maps(pid, mib(30), mib(2048));
        }
        world.kernel(30, "anon").holds(30, mib(2150));
        world.kernel(40, "small").holds(40, mib(40)).group_of_sums().build().rank(TOP);
        let truth = [(20, mib(2048 + 170)), (30, mib(2150)), (40, mib(40))];
        check(&world, &truth, 20, SettledBy::CgroupFigures);
        let held = world.ranking.row(0).unwrap().held;
        assert!(held.most <= mib(2048 + 170 + 4), "{held:?}");
    }

    #[test]
    fn a_double_forked_child_counts_for_its_notebook() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(50)).stray(25, 20).holds(25, mib(900));
        world.kernel(30, "b").holds(30, mib(500)).group_of_sums().build().rank(TOP);
        check(&world, &[(20, mib(950)), (30, mib(500))], 20, SettledBy::CgroupFigures);
    }

    #[test]
    fn what_could_not_be_read_is_bounded_by_rss_and_never_zero() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(900));
        world.kernel(30, "b").holds(30, mib(500)).groups = vec![None];
        world.build();
        world.proc(20).memory = Field::Unknown(Why::TimedOut);
        world.rank(TOP);
        let row = world.ranking.row(0).unwrap();
        assert_eq!(row.held, Interval { least: Bytes::ZERO, most: Bytes(u64::MAX) });
        assert_eq!(row.figure(), mib(920));
        world.group(mib(1400), Bytes::ZERO).rank(TOP);
        let truth = [(20, mib(900)), (30, mib(500))];
        check(&world, &truth, 20, SettledBy::CgroupFigures);
    }

    #[test]
    fn zombies_and_those_that_are_gone_hold_nothing() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(50)).child(21, 20).holds(21, mib(900));
        world.kernel(30, "b").holds(30, mib(100));
        world.proc(21).state = b'Z';
        world.group(mib(150), Bytes::ZERO).build().rank(Purpose::Each);
        check(&world, &[(20, mib(50)), (30, mib(100))], 30, SettledBy::Intervals);
        world.proc(21).state = b'S';
        world.status.remove(&21);
        world.rank(Purpose::Each);
        check(&world, &[(20, mib(50)), (30, mib(100))], 30, SettledBy::Intervals);
    }

    #[test]
    fn what_is_swapped_out_counts() {
        let mut world = World::new();
        world.kernel(20, "swapped").holds(20, mib(100));
        world.status.insert(20, ProcMemory { anon: mib(100), shmem: NO_RSS, swap: mib(900) });
        world.kernel(30, "resident").holds(30, mib(600));
        world.kernel(40, "small").holds(40, mib(40));
        world.group(mib(740), NO_RSS).groups[0].as_mut().unwrap().swap = Field::Known(mib(900));
        world.build().rank(TOP);
        let truth = [(20, mib(1000)), (30, mib(600)), (40, mib(40))];
        check(&world, &truth, 20, SettledBy::Intervals);
    }

    #[test]
    fn without_the_cgroups_figures_status_settles_it() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(300));
        world.kernel(30, "b").holds(30, mib(310));
        world.kernel(40, "c").holds(40, mib(100)).build().rank(TOP);
        let truth = [(20, mib(300)), (30, mib(310)), (40, mib(100))];
        check(&world, &truth, 30, SettledBy::Intervals);
    }

    #[test]
    fn of_two_alike_the_older_stands_first() {
        let mut world = World::new();
        world.kernel(30, "b").holds(30, mib(300));
        world.kernel(20, "a").holds(20, mib(300)).group_of_sums().build().rank(TOP);
        check(&world, &[(20, mib(300)), (30, mib(300))], 20, SettledBy::Intervals);
        assert_eq!(world.order(), [20, 30]);
    }

    #[test]
    fn figures_that_contradict_the_processes_are_not_believed() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(300)).child(21, 20).holds(21, mib(200));
        world.kernel(30, "b").holds(30, mib(100));
        for anon in [mib(1), mib(100_000)] {
            world.group(anon, Bytes::ZERO).build().rank(Purpose::Each);
            let held = world.ranking.row(0).unwrap().held;
            assert!(held.least >= mib(300) && held.most <= mib(500), "{anon}: {held:?}");
            assert_eq!(world.order(), [20, 30]);
        }
    }

    #[test]
    fn whether_it_is_worth_it_is_read_where_it_is_open() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(110)).holds(SERVER, mib(600));
        world.group_of_sums().build().rank(TOP);
        assert_eq!(world.read, [] as [u32; 0]);
        world.rank(Purpose::Top { worth: mib(108) });
        let held = world.ranking.row(0).unwrap().held;
        assert!(!held.straddles(mib(108)) && held.least <= mib(110), "{held:?}");
    }

    #[test]
    fn who_does_not_compete_is_ranked_but_not_first() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(900));
        world.kernel(30, "b").holds(30, mib(500));
        world.kernel(40, "c").holds(40, mib(400)).group_of_sums().build();
        world.rank_among(TOP, |number| number != 0);
        let truth = [(20, mib(900)), (30, mib(500)), (40, mib(400))];
        check(&world, &truth, 30, SettledBy::Intervals);
        assert_eq!(world.ranking.excluded().middle(), world.ranking.row(0).unwrap().held.middle());
    }

    #[test]
    fn two_containers_are_bounded_each_by_its_own_figures() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(400));
        world.kernel(30, "b").holds(30, mib(700)).proc(30).container = 1;
        let group = |anon| GroupMemory { anon, shmem: NO_RSS, swap: Field::Known(NO_RSS) };
        world.groups = vec![Some(group(mib(400))), Some(group(mib(700)))];
        world.build().rank(TOP);
        check(&world, &[(20, mib(400)), (30, mib(700))], 30, SettledBy::CgroupFigures);
        let sum = world.ranking.sum();
        assert!(sum.least <= mib(1100) && mib(1100) <= sum.most, "{sum:?}");
    }

    #[test]
    fn a_thousand_processes_stay_within_the_budget() {
        let mut world = World::new();
        for root in 0..10 {
            let pid = 1_000 * (root + 1);
            world.kernel(pid, &format!("{root}.ipynb")).holds(pid, mib(100));
            for child in 1..100 {
                world.child(pid + child, pid).holds(pid + child, mib(3));
            }
        }
        world.holds(5_000, mib(5_000)).group_of_sums().build().rank(TOP);
        assert_eq!(world.order()[0], 5_000);
        assert!(world.read.len() <= 4, "{:?}", world.read);
        world.rank(Purpose::Each);
        assert!(world.read.len() <= status_budget(world.procs.len()) + 4);
    }

    #[test]
    fn growth_is_what_surely_came_since() {
        let mut world = World::new();
        world.kernel(20, "a").holds(20, mib(900));
        world.kernel(30, "b").holds(30, mib(100)).group_of_sums().build().rank(Purpose::Each);
        let mut base = Baseline::default();
        base.take(&world.ranking);
        world.holds(30, mib(300)).kernel(40, "new").holds(40, mib(50));
        for proc in &mut world.procs {
            proc.memory = Field::Unknown(Why::NotRead);
        }
        world.group_of_sums().build().rank(Purpose::Each);
        let growth: Vec<Bytes> = world.ranking.rows().iter().map(|row| base.growth(row)).collect();
        assert_eq!(growth, [Bytes::ZERO, mib(200), mib(50)], "a, b, new");
    }

    proptest! {
        /// Trees whose processes hold something of their own and share something: the intervals
        /// hold the truth before and after PSS, and PSS finds the largest.
        #[test]
        fn intervals_hold_the_truth(
            trees in proptest::collection::vec(
                (0u64..500, proptest::collection::vec(0u64..300, 1..6)), 1..6),
            server in 0u64..300,
            unread in 0usize..5,
        ) {
            let mut world = World::new();
            let mut truth = Vec::new();
            let mut anon = mib(server);
            for (at, (shared, own)) in trees.iter().enumerate() {
                let root = 100 * (at as u32 + 1);
                world.kernel(root, &format!("{at}.ipynb"));
                for (child, own_mib) in own.iter().enumerate() {
                    let pid = root + child as u32;
                    if child > 0 {
                        world.child(pid, root);
                    }
                    world.holds(pid, mib(own_mib + shared));
                    let pss = Bytes(mib(*own_mib).0 + mib(*shared).0 / own.len() as u64);
                    world.pss.insert(pid, pss);
                }
                let total = mib(shared + own.iter().sum::<u64>());
                truth.push((root, total));
                anon = anon.plus(total);
            }
            world.holds(SERVER, mib(server)).group(anon, Bytes::ZERO).build();
            for index in 0..unread.min(world.procs.len()) {
                world.procs[index].memory = Field::Unknown(Why::TimedOut);
            }
            world.rank(TOP);
            let of = |pid: u32| truth.iter().find(|(root, _)| *root == pid).unwrap().1;
            let sum = world.ranking.sum();
            let all: Bytes = truth.iter().map(|(_, bytes)| *bytes).sum();
            prop_assert!(sum.least <= all && all <= sum.most, "{:?} {}", sum, all);
            for row in world.ranking.rows() {
                let bytes = of(row.root.pid);
                prop_assert!(row.held.least <= bytes && bytes <= row.held.most, "{:?} {}", row, bytes);
            }
            let everybody: Vec<u32> = (0..world.procs.len() as u32).collect();
            world.read_pss(&everybody);
            // A division by the number of sharers loses a few bytes for each.
            let lost = Bytes(8);
            let most = truth.iter().map(|(_, bytes)| *bytes).max().unwrap();
            let first = world.ranking.rows()[0];
            prop_assert!(of(first.root.pid).plus(lost) >= most, "{:?}", world.ranking.rows());
        }
    }
}
