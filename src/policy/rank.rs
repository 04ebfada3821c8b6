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
    /// … who is not essential did.
    Policy,
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
            SettledBy::Policy => "policy",
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
            SettledBy::Policy => 6,
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
mod tests;
