//! Groups the processes of a domain into workloads: notebook kernels and PHP workers, with
//! everything that belongs to them. What cannot be placed is counted, never guessed into a tree.
//! Pure: no files, no clock. `build` does not allocate once its vectors have grown.
//!
//! The rule, in this order: descendants of the topmost kernel of a line; forks of a kernel that
//! lost their parent; sessions whose leader is in a tree; what was in the tree at an earlier
//! scan; processes that carry the marks of exactly one kernel and run under its uid.
//!
//! A kernel below a kernel (papermill in a cell) belongs to the outer one: ending the outer ends
//! it too, and a process cannot leave its notebook's sum by writing a connection file, or a
//! server's name, into its own argv.
//!
//! PHP takes what notebooks leave: whatever is in a notebook's tree stays there, so a title that
//! speaks of PHP takes nothing out of a notebook. A pool's worker is one below its master, which
//! is never ended; an Apache below an Apache the same; a script one where nothing above it is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::facts::Proc;
use crate::ids::ProcKey;
use crate::policy::identity::{Claim, Evidence, Identities, Identity, Kernel, PhpRole};
use crate::units::Bytes;

/// Trackers spared by one kill: a tree has one of multiprocessing's and one of loky's; twice
/// that leaves room. Their argv can be forged, hence a bound.
pub const MAX_TRACKERS: usize = 4;
/// A resource tracker holds 10 to 38 MiB (measured, Python 3.11).
pub const TRACKER_MAX: Bytes = Bytes::mib(64);
/// A stray may bring in others (its session, its children's sessions). Each round goes one
/// re-parenting deeper; what hides deeper than this is unattributed.
const STRAY_ROUNDS: usize = 4;
const NONE: u32 = u32::MAX;

/// What the processes themselves do not tell.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Pid 1 of each container, by [`Proc::container`], as the host numbers it.
    pub inits: &'a [Option<u32>],
    /// The guard and its ancestors.
    pub guard: &'a [u32],
}

/// One kernel, or one PHP worker or script, and everything that ends with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pub root: ProcKey,
    /// The root, as an index into the scan.
    pub root_index: u32,
    pub container: u16,
    pub uid: u32,
    pub bar: Option<Bar>,
    /// It belongs to nothing else, and a deny list names it ([`Forest::deny`]).
    pub denied: bool,
    members: Range<u32>,
}

/// Why a workload can never be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// Its root is the container's pid 1.
    Init,
    /// The guard runs inside it.
    Guard,
    /// Nothing in it is alive.
    Ended,
}

/// A process of a workload, and how it came to be counted there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// An index into the scan.
    pub index: u32,
    pub via: Via,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    Root,
    Ancestry,
    /// A fork of the kernel, with its argv, whose parent is gone.
    SameFile,
    /// The leader of its session is in the tree.
    Session,
    /// It was in the tree at an earlier scan.
    Remembered,
    /// It carries the kernel's marks in its environment, under the kernel's uid.
    Marks,
}

impl Via {
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Root => "root",
            Via::Ancestry => "ancestry",
            Via::SameFile => "same-connection-file",
            Via::Session => "session",
            Via::Remembered => "remembered",
            Via::Marks => "marks",
        }
    }
}

/// The workloads of one scan. Indices are valid for the scan it was built from.
#[derive(Default)]
pub struct Forest {
    workloads: Vec<Workload>,
    members: Vec<Member>,
    servers: Vec<u32>,
    /// Whose each of them is, in order of the users.
    server_uids: Vec<(u32, u32)>,
    unattributed: Vec<u32>,
    unknown: Vec<u32>,
    nodes: Vec<Node>,
    by_pid: Vec<u32>,
    order: Vec<u32>,
    scratch: Vec<u32>,
    tops: Vec<Top>,
    /// Kernels with marks that are in a tree: a hash of the marks, and the process. Sorted.
    marked: Vec<(u64, u32)>,
}

/// A topmost kernel. In the order of the fields those that may be one kernel with its forks stand
/// side by side, the likeliest root first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Top {
    container: u16,
    /// Of the uid and the connection file.
    hash: u64,
    is_not_launched: bool,
    leads_no_session: bool,
    start: u64,
    pid: u32,
    index: u32,
}

#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    depth: u32,
    /// The topmost kernel, or the topmost PHP, above it or itself.
    top: u32,
    /// The workload, by its place in `workloads`.
    owner: u32,
    via: Via,
    known: bool,
    kernel: bool,
    server: bool,
    /// Stands above a kernel root: the server, a shell that started it, the container's init.
    above: bool,
    init: bool,
    guard: bool,
    /// What it runs of PHP.
    php: Option<PhpRole>,
    /// A master with workers.
    feeds: bool,
    /// A deny list names it, or what it is below.
    denied: bool,
    /// Something below it is in a tree, or may never end.
    holds: bool,
    /// A second reading of a pid that is in the scan already.
    twice: bool,
    /// In no workload, and it or somebody above it was never read.
    unknown: bool,
}

impl Node {
    const NEW: Node = Node {
        parent: NONE,
        depth: NONE,
        top: NONE,
        owner: NONE,
        via: Via::Ancestry,
        known: false,
        kernel: false,
        server: false,
        above: false,
        init: false,
        guard: false,
        php: None,
        feeds: false,
        denied: false,
        holds: false,
        twice: false,
        unknown: false,
    };

    /// May be taken into a tree as a stray.
    fn is_free(&self) -> bool {
        self.owner == NONE && !(self.above || self.server || self.init || self.guard || self.twice)
    }
}

impl Forest {
    /// By container, then by the root's pid.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The root first, parents before their children.
    pub fn members(&self, workload: &Workload) -> &[Member] {
        &self.members[workload.members.start as usize..workload.members.end as usize]
    }

    /// Processes that launched kernels, are notebook servers by their argv, or masters of PHP
    /// workers.
    pub fn servers(&self) -> &[u32] {
        &self.servers
    }

    /// What the servers of one user hold, root and this one apart: of that user of whose servers it
    /// is the most. To be a server is a claim: `argv` is enough, or a child that calls itself a
    /// kernel.
    pub fn held_by_anothers_servers(&self, uid: u32, procs: &[Proc]) -> Bytes {
        let of_one = self.server_uids.chunk_by(|a, b| a.0 == b.0);
        let of_others = of_one.filter(|servers| servers[0].0 != 0 && servers[0].0 != uid);
        let held = |servers: &[(u32, u32)]| -> Bytes {
            servers.iter().map(|(_, index)| procs[*index as usize].rss).sum()
        };
        of_others.map(held).max().unwrap_or_default()
    }

    /// Live processes in no workload that are no server: terminals, daemons, the init.
    pub fn unattributed(&self) -> &[u32] {
        &self.unattributed
    }

    /// Those of the unattributed whose argv and environ were never read, and whoever is below
    /// them: any of those may be a kernel, with what it started.
    pub fn unknown(&self) -> &[u32] {
        &self.unknown
    }

    /// Those of the unknown who would have to be read.
    pub fn unread(&self) -> impl Iterator<Item = u32> {
        self.unknown.iter().copied().filter(|index| !self.nodes[*index as usize].known)
    }

    /// The workload a process of the scan was placed in.
    pub fn owner_of(&self, index: u32) -> Option<usize> {
        let owner = self.nodes.get(index as usize)?.owner;
        (owner != NONE).then_some(owner as usize)
    }

    /// The processes to spare at first, so that they give the tree's shared memory back: small
    /// trackers whose parent is in the tree, at most [`MAX_TRACKERS`].
    pub fn trackers<'a>(
        &'a self,
        workload: &'a Workload,
        procs: &'a [Proc],
        ids: &'a Identities,
    ) -> impl Iterator<Item = u32> + 'a {
        self.members(workload)
            .iter()
            .filter(|member| member.via == Via::Ancestry)
            .map(|member| member.index)
            .filter(move |index| is_small_tracker(&procs[*index as usize], ids))
            .take(MAX_TRACKERS)
    }

    /// Groups a scan.
    pub fn build(&mut self, procs: &[Proc], ids: &Identities, context: &Context<'_>) {
        self.link(procs, context);
        self.claim(procs, ids);
        self.found(procs, ids);
        self.shelter(procs, ids);
        self.adopt(procs, ids);
        self.found_php(procs, ids);
        self.list(procs, ids);
    }

    /// Makes workloads, after `build`, of processes that belong to nothing and that `is_denied`
    /// names, each with what is below it. Never of one above anything that has a place already or
    /// that `is_kept` names, and never of one whose user nobody knows.
    pub fn deny(
        &mut self,
        procs: &[Proc],
        ids: &Identities,
        is_denied: impl Fn(&Proc) -> bool,
        is_kept: impl Fn(&Proc) -> bool,
    ) {
        self.mark_holders(|i| is_kept(&procs[i]) && !procs[i].is_zombie());
        let mut roots = std::mem::take(&mut self.scratch);
        roots.clear();
        for at in 0..self.order.len() {
            let i = self.order[at];
            let node = self.nodes[i as usize];
            let proc = &procs[i as usize];
            let below = node.parent != NONE && self.nodes[node.parent as usize].denied;
            // What says that it is of a pool is, or will be, somebody's worker or their master.
            let of_pool = node.php.is_some_and(|role| role != PhpRole::Script);
            let may = node.is_free() && node.known && !(node.holds || of_pool || proc.is_zombie());
            let is_root = !below && may && is_denied(proc);
            self.nodes[i as usize].denied = below || is_root;
            if is_root {
                roots.push(i);
            }
        }
        if roots.is_empty() {
            self.scratch = roots;
            return;
        }
        for node in self.nodes.iter_mut().filter(|node| node.owner != NONE) {
            node.owner = self.workloads[node.owner as usize].root_index;
        }
        for i in &roots {
            let node = &mut self.nodes[*i as usize];
            (node.owner, node.via) = (*i, Via::Root);
            let workload = new_workload(&procs[*i as usize], *i, ids);
            self.workloads.push(Workload { denied: true, ..workload });
        }
        self.scratch = roots;
        self.workloads.sort_unstable_by_key(|w| (w.container, w.root));
        self.number_owners(procs.len());
        self.adopt(procs, ids);
        self.list(procs, ids);
    }

    fn mark_holders(&mut self, is_kept: impl Fn(usize) -> bool) {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.owner == NONE && node.is_free() && !is_kept(i) {
                continue;
            }
            let mut at = node.parent;
            while at != NONE && !self.nodes[at as usize].holds {
                self.nodes[at as usize].holds = true;
                at = self.nodes[at as usize].parent;
            }
        }
    }

    /// Tells the cache who was placed where, for the scans to come.
    pub fn remember(&self, procs: &[Proc], ids: &mut Identities) {
        for workload in &self.workloads {
            for member in self.members(workload) {
                ids.remember(procs[member.index as usize].key, workload.root);
            }
        }
    }

    /// Parent links, depths, and an order in which parents come before their children.
    fn link(&mut self, procs: &[Proc], context: &Context<'_>) {
        self.nodes.clear();
        self.nodes.resize(procs.len(), Node::NEW);
        fill(&mut self.by_pid, procs.len());
        self.by_pid.sort_unstable_by_key(|i| procs[*i as usize].key);
        for pair in self.by_pid.windows(2) {
            let (earlier, later) = (pair[0] as usize, pair[1] as usize);
            if procs[earlier].key.pid == procs[later].key.pid {
                self.nodes[earlier].twice = true;
            }
        }
        for (i, proc) in procs.iter().enumerate() {
            let parent = self.find(procs, proc.container, proc.ppid, proc.key.start);
            let node = &mut self.nodes[i];
            node.parent = parent.filter(|p| *p as usize != i).unwrap_or(NONE);
            node.init = is_init(proc, context);
            node.guard = context.guard.contains(&proc.key.pid);
        }
        for i in 0..procs.len() {
            self.measure_depth(i);
        }
        fill(&mut self.order, procs.len());
        let nodes = &self.nodes;
        self.order.sort_unstable_by_key(|i| (nodes[*i as usize].depth, procs[*i as usize].key));
    }

    /// The process with this pid in the same container, if it is not younger than `start`.
    fn find(&self, procs: &[Proc], container: u16, pid: u32, start: u64) -> Option<u32> {
        let after = self.by_pid.partition_point(|i| procs[*i as usize].key.pid <= pid);
        let index = *self.by_pid.get(after.checked_sub(1)?)?;
        let proc = &procs[index as usize];
        let fits = proc.key.pid == pid && proc.container == container && proc.key.start <= start;
        fits.then_some(index)
    }

    /// Walks up to a depth that is known and writes the depths on the way back. Two readings a
    /// moment apart can show a loop; it is cut where it closes.
    fn measure_depth(&mut self, from: usize) {
        const OPEN: u32 = NONE - 1;
        self.scratch.clear();
        let mut at = from;
        let mut depth = loop {
            match self.nodes[at].depth {
                NONE => {
                    self.nodes[at].depth = OPEN;
                    self.scratch.push(at as u32);
                }
                OPEN => {
                    if let Some(last) = self.scratch.last() {
                        self.nodes[*last as usize].parent = NONE;
                    }
                    break 0;
                }
                known => break known + 1,
            }
            match self.nodes[at].parent {
                NONE => break 0,
                parent => at = parent as usize,
            }
        };
        while let Some(index) = self.scratch.pop() {
            self.nodes[index as usize].depth = depth;
            depth += 1;
        }
    }

    /// Finds the topmost kernel of every line.
    fn claim(&mut self, procs: &[Proc], ids: &Identities) {
        for at in 0..self.order.len() {
            let i = self.order[at] as usize;
            let identity = ids.get(procs[i].key);
            let kernel = identity.is_some_and(|id| self.is_kernel(procs, ids, i, id));
            let node = &self.nodes[i];
            let above =
                if node.parent == NONE { NONE } else { self.nodes[node.parent as usize].top };
            let node = &mut self.nodes[i];
            node.known = identity.is_some();
            node.php = identity.and_then(|id| id.claim.php()).map(|php| php.role);
            node.kernel = kernel && !node.twice;
            node.top = match (above, node.kernel) {
                (NONE, true) => i as u32,
                (above, _) => above,
            };
        }
    }

    fn is_kernel(&self, procs: &[Proc], ids: &Identities, i: usize, id: &Identity) -> bool {
        match id.claim.kernel().map(|kernel| kernel.evidence) {
            Some(Evidence::Name) => true,
            Some(Evidence::Flag) => self.is_launched(procs, ids, i, id),
            None => self.is_served(procs, ids, i, id),
        }
    }

    /// Launched by a notebook server: a kernel in any language, also one that wrote a title over
    /// its argv before anybody read it. What re-parents to a server that is pid 1 looks the same.
    fn is_served(&self, procs: &[Proc], ids: &Identities, i: usize, id: &Identity) -> bool {
        let named = id.marks.as_ref().and_then(|marks| marks.parent);
        let parent = self.nodes[i].parent;
        let of_server = || {
            let parent = ids.get(procs[parent as usize].key);
            parent.is_some_and(|parent| parent.claim == Claim::Server)
        };
        named != Some(1) && self.is_launched(procs, ids, i, id) && of_server()
    }

    /// Leads a session of its own, and its parent is the one its mark names: what jupyter_client
    /// does for every kernel.
    fn is_launched(&self, procs: &[Proc], ids: &Identities, i: usize, id: &Identity) -> bool {
        let proc = &procs[i];
        let named = id.marks.as_ref().and_then(|marks| marks.parent);
        let parent = self.nodes[i].parent;
        proc.sid == proc.key.pid
            && parent != NONE
            && named.is_some()
            && ids.get(procs[parent as usize].key).map(|p| p.nspid) == named
    }

    /// Makes a workload of every topmost kernel, but of several with one file only one.
    fn found(&mut self, procs: &[Proc], ids: &Identities) {
        let mut tops = std::mem::take(&mut self.tops);
        tops.clear();
        let is_top = |i: &u32| self.nodes[*i as usize].top == *i;
        tops.extend((0..procs.len() as u32).filter(is_top).map(|i| self.top(procs, ids, i)));
        tops.sort_unstable();
        self.workloads.clear();
        let mut first = NONE;
        for at in 0..tops.len() {
            let i = tops[at].index;
            let follows = at > 0 && same_file(procs, ids, tops[at - 1].index, i);
            let joins = !self.nodes[i as usize].init && !self.stands_alone(procs, ids, i);
            if follows && joins {
                self.nodes[i as usize].owner = first;
                self.nodes[i as usize].via = Via::SameFile;
                continue;
            }
            // One that stands alone takes no forks from the likelier root before it.
            if !follows {
                first = i;
            }
            self.nodes[i as usize].owner = i;
            self.nodes[i as usize].via = Via::Root;
            self.workloads.push(new_workload(&procs[i as usize], i, ids));
        }
        self.tops = tops;
        self.workloads.sort_unstable_by_key(|w| (w.container, w.root));
        self.number_owners(procs.len());
        self.descend(procs, ids);
    }

    fn top(&self, procs: &[Proc], ids: &Identities, index: u32) -> Top {
        let proc = &procs[index as usize];
        let id = ids.get(proc.key);
        let is_launched = id.is_some_and(|id| self.is_launched(procs, ids, index as usize, id));
        Top {
            container: proc.container,
            hash: hash(&file_of(proc, ids)),
            is_not_launched: !is_launched,
            leads_no_session: proc.sid != proc.key.pid,
            start: proc.key.start,
            pid: proc.key.pid,
            index,
        }
    }

    /// A kernel that was certainly launched as one, though another names the same file (the same
    /// path in two mount namespaces). Below a server that is pid 1 an orphaned fork looks the
    /// same, so it does not count there.
    fn stands_alone(&self, procs: &[Proc], ids: &Identities, i: u32) -> bool {
        ids.get(procs[i as usize].key).is_some_and(|id| {
            let named = id.marks.as_ref().and_then(|marks| marks.parent);
            named != Some(1) && self.is_launched(procs, ids, i as usize, id)
        })
    }

    /// Turns owners given as the root's index in the scan into places in `workloads`.
    fn number_owners(&mut self, len: usize) {
        let mut place = std::mem::take(&mut self.scratch);
        place.clear();
        place.resize(len, NONE);
        for (number, workload) in self.workloads.iter().enumerate() {
            place[workload.root_index as usize] = number as u32;
        }
        for node in &mut self.nodes {
            if node.owner != NONE {
                node.owner = place[node.owner as usize];
            }
        }
        self.scratch = place;
    }

    /// Gives every process below a topmost kernel to its workload.
    fn descend(&mut self, procs: &[Proc], ids: &Identities) {
        for at in 0..self.order.len() {
            let i = self.order[at] as usize;
            let top = self.nodes[i].top;
            if top == NONE || self.nodes[i].twice {
                continue;
            }
            let owner = self.nodes[top as usize].owner;
            self.nodes[i].owner = owner;
            let workload = &mut self.workloads[owner as usize];
            if workload.uid == 0 && self.nodes[i].kernel {
                lower_uid(workload, &procs[i], ids);
            }
        }
    }

    /// Marks what stands above a root, and the servers.
    fn shelter(&mut self, procs: &[Proc], ids: &Identities) {
        for number in 0..self.workloads.len() {
            let root = self.workloads[number].root_index as usize;
            if let Some(server) = self.launcher(procs, ids, root) {
                self.nodes[server as usize].server = true;
            }
            let mut at = self.nodes[root].parent;
            while at != NONE && !self.nodes[at as usize].above {
                self.nodes[at as usize].above = true;
                at = self.nodes[at as usize].parent;
            }
        }
        for at in 0..self.order.len() {
            let i = self.order[at] as usize;
            let Some(id) = ids.get(procs[i].key) else { continue };
            let node = &self.nodes[i];
            let below_server = node.parent != NONE && self.nodes[node.parent as usize].server;
            if node.owner == NONE && id.claim == Claim::Server && (id.settled || !below_server) {
                self.nodes[i].server = true;
            }
        }
    }

    /// Makes workloads of what runs PHP and is in no notebook. Does nothing where nobody does.
    fn found_php(&mut self, procs: &[Proc], ids: &Identities) {
        let mut roots = std::mem::take(&mut self.scratch);
        roots.clear();
        self.mark_feeders();
        for at in 0..self.order.len() {
            let i = self.order[at];
            let parent = self.nodes[i as usize].parent;
            if parent != NONE && self.nodes[i as usize].top == NONE {
                self.nodes[i as usize].top = self.nodes[parent as usize].top;
            }
            let Some(role) = self.nodes[i as usize].php else { continue };
            if self.is_master(procs, ids, i, role) {
                self.nodes[i as usize].server = true;
                self.shelter_above(i);
            } else if self.is_php_root(i, role) {
                // What is below it comes later and takes its place from here.
                self.nodes[i as usize].top = i;
                roots.push(i);
            }
        }
        let found = !roots.is_empty();
        if found {
            for node in &mut self.nodes {
                if node.owner != NONE {
                    node.owner = self.workloads[node.owner as usize].root_index;
                }
            }
            for i in &roots {
                self.nodes[*i as usize].owner = *i;
                self.nodes[*i as usize].via = Via::Root;
                self.workloads.push(new_workload(&procs[*i as usize], *i, ids));
            }
            self.workloads.sort_unstable_by_key(|w| (w.container, w.root));
        }
        self.scratch = roots;
        if found {
            self.number_owners(procs.len());
            self.adopt(procs, ids);
        }
    }

    /// Whoever has workers below it.
    fn mark_feeders(&mut self) {
        for i in 0..self.nodes.len() {
            let node = self.nodes[i];
            let master = node.php.and_then(PhpRole::master);
            if let (Some(master), false) = (master, node.parent == NONE) {
                let parent = &mut self.nodes[node.parent as usize];
                parent.feeds |= parent.php == Some(master);
            }
        }
    }

    /// A title can be forged: without workers below it, or root's uid, a master is none.
    fn is_master(&self, procs: &[Proc], ids: &Identities, i: u32, role: PhpRole) -> bool {
        let node = &self.nodes[i as usize];
        let serves = matches!(role, PhpRole::Master | PhpRole::Apache);
        // A worker that was forked a moment ago has its master's title still.
        let is_topmost = node.parent == NONE || self.nodes[node.parent as usize].php != Some(role);
        serves
            && is_topmost
            && node.owner == NONE
            && !node.twice
            && (node.feeds || ids.get(procs[i as usize].key).is_some_and(|id| id.uid == 0))
    }

    /// A worker below its master, or a script with no PHP above it.
    fn is_php_root(&self, i: u32, role: PhpRole) -> bool {
        let node = &self.nodes[i as usize];
        let is_its_place = match role {
            PhpRole::Script => true,
            _ if node.parent == NONE => false,
            role => {
                let parent = &self.nodes[node.parent as usize];
                parent.server && parent.php.is_some() && parent.php == role.master()
            }
        };
        is_its_place && node.is_free() && node.top == NONE
    }

    /// What started a master lives as long as the master does.
    fn shelter_above(&mut self, i: u32) {
        let mut at = self.nodes[i as usize].parent;
        while at != NONE && !self.nodes[at as usize].above {
            self.nodes[at as usize].above = true;
            at = self.nodes[at as usize].parent;
        }
    }

    /// The nearest ancestor that the root's mark names; a parent that nobody has read yet is
    /// taken for it.
    fn launcher(&self, procs: &[Proc], ids: &Identities, root: usize) -> Option<u32> {
        let id = ids.get(procs[root].key)?;
        let named = id.marks.as_ref()?.parent?;
        let parent = self.nodes[root].parent;
        let mut at = parent;
        while at != NONE {
            if ids.get(procs[at as usize].key).is_some_and(|p| p.nspid == named) {
                return Some(at);
            }
            at = self.nodes[at as usize].parent;
        }
        let unread = parent != NONE && !self.nodes[parent as usize].known;
        (unread && !self.nodes[parent as usize].init).then_some(parent)
    }

    /// Takes strays in, round after round, until nothing changes.
    fn adopt(&mut self, procs: &[Proc], ids: &Identities) {
        if self.workloads.is_empty() {
            return;
        }
        self.list_marked(procs, ids);
        for _ in 0..STRAY_ROUNDS {
            let mut changed = false;
            for at in 0..self.order.len() {
                let i = self.order[at] as usize;
                if !self.nodes[i].is_free() || procs[i].is_zombie() {
                    continue;
                }
                if let Some((owner, via)) = self.place(procs, ids, i) {
                    self.nodes[i].owner = owner;
                    self.nodes[i].via = via;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn place(&self, procs: &[Proc], ids: &Identities, i: usize) -> Option<(u32, Via)> {
        let parent = self.nodes[i].parent;
        if parent != NONE && self.nodes[parent as usize].owner != NONE {
            return Some((self.nodes[parent as usize].owner, Via::Ancestry));
        }
        self.by_session(procs, i)
            .map(|owner| (owner, Via::Session))
            .or_else(|| self.by_memory(procs, ids, i).map(|owner| (owner, Via::Remembered)))
            .or_else(|| self.by_marks(procs, ids, i).map(|owner| (owner, Via::Marks)))
    }

    fn by_session(&self, procs: &[Proc], i: usize) -> Option<u32> {
        let proc = &procs[i];
        let leader = self.find(procs, proc.container, proc.sid, proc.key.start)?;
        let leads = procs[leader as usize].sid == procs[leader as usize].key.pid;
        let owner = self.nodes[leader as usize].owner;
        (leads && owner != NONE).then_some(owner)
    }

    fn by_memory(&self, procs: &[Proc], ids: &Identities, i: usize) -> Option<u32> {
        let root = ids.owner(procs[i].key)?;
        let index = self.find(procs, procs[i].container, root.pid, u64::MAX)?;
        let node = &self.nodes[index as usize];
        (procs[index as usize].key == root && node.via == Via::Root).then_some(node.owner)
    }

    /// The only workload whose kernels carry the same marks.
    fn by_marks(&self, procs: &[Proc], ids: &Identities, i: usize) -> Option<u32> {
        let id = ids.get(procs[i].key)?;
        let marks = id.marks.as_ref()?;
        marks.parent?;
        let key = (procs[i].container, marks.as_ref());
        let hash = hash(&key);
        let from = self.marked.partition_point(|(other, _)| *other < hash);
        let mut same = self.marked[from..]
            .iter()
            .take_while(|(other, _)| *other == hash)
            .map(|(_, kernel)| *kernel)
            .filter(|kernel| marked(procs, ids, *kernel) == Some(key));
        let owner = self.nodes[same.next()? as usize].owner;
        if same.any(|kernel| self.nodes[kernel as usize].owner != owner) {
            return None;
        }
        let workload = &self.workloads[owner as usize];
        let may_be_older = marks.session.is_some();
        let fits = id.uid == workload.uid
            && (may_be_older || self.is_of_this_life(&procs[i], ids, workload));
        fits.then_some(owner)
    }

    /// Marks without a notebook's name are those of every kernel that this launcher ever had: an
    /// older process, or one that was seen in another tree, is not this kernel's.
    fn is_of_this_life(&self, proc: &Proc, ids: &Identities, workload: &Workload) -> bool {
        proc.key.start >= workload.root.start
            && ids.owner(proc.key).is_none_or(|owner| owner == workload.root)
    }

    /// All kernels that are in a tree and have marks, for `by_marks`.
    fn list_marked(&mut self, procs: &[Proc], ids: &Identities) {
        self.marked.clear();
        for i in 0..procs.len() as u32 {
            let node = &self.nodes[i as usize];
            if node.kernel && node.owner != NONE {
                self.marked.extend(marked(procs, ids, i).map(|key| (hash(&key), i)));
            }
        }
        self.marked.sort_unstable();
    }

    /// Writes the lists that others read.
    fn list(&mut self, procs: &[Proc], ids: &Identities) {
        self.members.clear();
        self.servers.clear();
        self.unattributed.clear();
        self.unknown.clear();
        for &index in &self.order {
            let node = &self.nodes[index as usize];
            if node.twice {
                continue;
            }
            if node.owner != NONE {
                if !node.guard {
                    self.members.push(Member { index, via: node.via });
                }
            } else if node.server {
                self.servers.push(index);
            } else if !procs[index as usize].is_zombie() {
                self.unattributed.push(index);
                let unread = !(node.known || node.init || node.above || node.guard);
                // Parents come before their children.
                let below = self.nodes.get(node.parent as usize).is_some_and(|node| node.unknown);
                if unread || below {
                    self.nodes[index as usize].unknown = true;
                    self.unknown.push(index);
                }
            }
        }
        self.server_uids.clear();
        for &index in &self.servers {
            let identity = ids.get(procs[index as usize].key);
            self.server_uids.extend(identity.map(|identity| (identity.uid, index)));
        }
        self.server_uids.sort_unstable();
        let nodes = &self.nodes;
        self.members.sort_unstable_by_key(|member| {
            let node = &nodes[member.index as usize];
            let key = procs[member.index as usize].key;
            (node.owner, member.via != Via::Root, node.depth, key)
        });
        self.cut_members(procs);
    }

    fn cut_members(&mut self, procs: &[Proc]) {
        let mut from = 0;
        for (number, workload) in self.workloads.iter_mut().enumerate() {
            let nodes = &self.nodes;
            let of_it = |m: &&Member| nodes[m.index as usize].owner == number as u32;
            let len = self.members[from..].iter().take_while(of_it).count();
            workload.members = from as u32..(from + len) as u32;
            let alive =
                self.members[from..from + len].iter().any(|m| !procs[m.index as usize].is_zombie());
            let root = &nodes[workload.root_index as usize];
            workload.bar = match (root.guard, root.init, alive) {
                (true, ..) => Some(Bar::Guard),
                (_, true, _) => Some(Bar::Init),
                (_, _, false) => Some(Bar::Ended),
                _ => None,
            };
            from += len;
        }
    }

    fn is_sheltered(&self, index: u32) -> bool {
        let node = &self.nodes[index as usize];
        node.server || node.above || node.init || node.guard
    }
}

/// To sort and search by. Whatever collides is compared in full.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn fill(indices: &mut Vec<u32>, len: usize) {
    indices.clear();
    indices.extend(0..len as u32);
}

fn is_init(proc: &Proc, context: &Context<'_>) -> bool {
    context.inits.get(usize::from(proc.container)).is_some_and(|pid| *pid == Some(proc.key.pid))
}

fn new_workload(proc: &Proc, index: u32, ids: &Identities) -> Workload {
    Workload {
        root: proc.key,
        root_index: index,
        container: proc.container,
        uid: ids.get(proc.key).map_or(0, |id| id.uid),
        bar: None,
        denied: false,
        members: 0..0,
    }
}

/// A kernel that was started through sudo or a spawner of root's: the uid is the one it runs
/// under in the end.
fn lower_uid(workload: &mut Workload, proc: &Proc, ids: &Identities) {
    let file = |key| ids.get(key).and_then(|id| id.claim.kernel()).map(|kernel| &kernel.connection);
    if file(workload.root) == file(proc.key) {
        workload.uid = ids.get(proc.key).map_or(0, |id| id.uid);
    }
}

fn file_of<'a>(proc: &Proc, ids: &'a Identities) -> (u16, Option<(u32, &'a str)>) {
    let file = ids.get(proc.key).and_then(|id| {
        id.claim.kernel().map(|kernel: &Kernel| (id.uid, kernel.connection.as_ref()))
    });
    (proc.container, file)
}

/// The same file of the same uid. A relative path says nothing: every project has one.
fn same_file(procs: &[Proc], ids: &Identities, a: u32, b: u32) -> bool {
    let (a, b) = (file_of(&procs[a as usize], ids), file_of(&procs[b as usize], ids));
    a == b && a.1.is_some_and(|(_, path)| path.starts_with('/'))
}

fn marked<'a>(
    procs: &[Proc],
    ids: &'a Identities,
    index: u32,
) -> Option<(u16, &'a crate::policy::identity::Marks)> {
    let proc = &procs[index as usize];
    let marks = ids.get(proc.key)?.marks.as_deref()?;
    marks.parent.map(|_| (proc.container, marks))
}

fn is_small_tracker(proc: &Proc, ids: &Identities) -> bool {
    let claims = ids.get(proc.key).is_some_and(|id| id.claim == Claim::Tracker);
    let held = proc.memory.known().map_or(proc.rss, |memory| memory.anon.plus(memory.swap));
    claims && !proc.is_zombie() && held <= TRACKER_MAX
}

/// The processes of a tree that is being ended, to tell its late children from others.
#[derive(Default)]
pub struct KillSet {
    container: u16,
    /// Sorted.
    keys: Vec<ProcKey>,
    /// Sessions and groups that a process of the tree leads, by number. Sorted.
    sessions: Vec<u32>,
    groups: Vec<u32>,
    /// Never taken in: servers, inits, what stands above a kernel, the guard. Sorted.
    never: Vec<ProcKey>,
}

impl KillSet {
    /// Starts with the members of a workload.
    pub fn start(&mut self, forest: &Forest, workload: &Workload, procs: &[Proc]) {
        self.container = workload.container;
        self.keys.clear();
        self.sessions.clear();
        self.groups.clear();
        self.never.clear();
        for (index, proc) in procs.iter().enumerate() {
            let owner = forest.owner_of(index as u32);
            let other = owner.is_some_and(|number| forest.workloads[number].root != workload.root);
            if other || forest.is_sheltered(index as u32) {
                self.never.push(proc.key);
            }
        }
        self.never.sort_unstable();
        for member in forest.members(workload) {
            let proc = &procs[member.index as usize];
            self.keys.push(proc.key);
            self.sessions.extend((proc.sid == proc.key.pid).then_some(proc.sid));
            self.groups.extend((proc.pgrp == proc.key.pid).then_some(proc.pgrp));
        }
        self.keys.sort_unstable();
        self.sessions.sort_unstable();
        self.groups.sort_unstable();
    }

    /// The container of the tree, as the scan numbered it.
    pub fn container(&self) -> u16 {
        self.container
    }

    pub fn keys(&self) -> &[ProcKey] {
        &self.keys
    }

    pub fn contains(&self, key: ProcKey) -> bool {
        self.keys.binary_search(&key).is_ok()
    }

    /// Takes a process in and says whether it was new.
    pub fn take_in(&mut self, proc: &Proc) -> bool {
        let Err(at) = self.keys.binary_search(&proc.key) else { return false };
        self.keys.insert(at, proc.key);
        if proc.sid == proc.key.pid {
            insert_sorted(&mut self.sessions, proc.sid);
        }
        if proc.pgrp == proc.key.pid {
            insert_sorted(&mut self.groups, proc.pgrp);
        }
        true
    }

    /// Whether a process belongs to the tree: it is in it, or its parent is, or the leader of its
    /// session or group was.
    pub fn belongs(&self, proc: &Proc) -> bool {
        if proc.container != self.container || self.never.binary_search(&proc.key).is_ok() {
            return false;
        }
        self.contains(proc.key)
            || self.has_parent_of(proc)
            || self.sessions.binary_search(&proc.sid).is_ok()
            || self.groups.binary_search(&proc.pgrp).is_ok()
    }

    fn has_parent_of(&self, proc: &Proc) -> bool {
        let from = self.keys.partition_point(|key| key.pid < proc.ppid);
        let mut same = self.keys[from..].iter().take_while(|key| key.pid == proc.ppid);
        same.any(|parent| parent.start <= proc.key.start)
    }

    /// Goes through a fresh scan: forgets pids that others use by now, then calls `found` for
    /// every live process that belongs and was not in the set, until no more turn up.
    ///
    /// Returns how many came and went without having been seen alive: zombies of the tree, and
    /// whoever is listed (in the order of `procs`) and could not be read. Each of them may have
    /// left a child that came after the list.
    pub fn sweep(
        &mut self,
        listed: &[(u32, u16)],
        procs: &[Proc],
        mut found: impl FnMut(&Proc),
    ) -> usize {
        for proc in procs {
            self.forget_reused(proc);
        }
        let mut unseen = 0;
        loop {
            let mut changed = false;
            for proc in procs {
                if self.belongs(proc) && self.take_in(proc) {
                    changed = true;
                    if proc.is_zombie() { unseen += 1 } else { found(proc) }
                }
            }
            if !changed {
                break;
            }
        }
        let mut read = procs.iter().map(|proc| proc.key.pid).peekable();
        let unread = listed.iter().filter(|(pid, _)| read.next_if_eq(pid).is_none());
        unseen + unread.filter(|(pid, _)| !self.has_pid(*pid)).count()
    }

    fn has_pid(&self, pid: u32) -> bool {
        let at = self.keys.partition_point(|key| key.pid < pid);
        self.keys.get(at).is_some_and(|key| key.pid == pid)
    }

    /// A pid with another start time is somebody else, and a number that is given out anew is no
    /// longer a session or a group of the tree.
    fn forget_reused(&mut self, proc: &Proc) {
        let pid = proc.key.pid;
        let from = self.keys.partition_point(|key| key.pid < pid);
        let len = self.keys[from..].iter().take_while(|key| key.pid == pid).count();
        if len == 0 || self.keys[from..from + len].contains(&proc.key) {
            return;
        }
        self.keys.drain(from..from + len);
        if let Ok(at) = self.sessions.binary_search(&pid) {
            self.sessions.remove(at);
        }
        if let Ok(at) = self.groups.binary_search(&pid) {
            self.groups.remove(at);
        }
    }
}

fn insert_sorted(list: &mut Vec<u32>, value: u32) {
    if let Err(at) = list.binary_search(&value) {
        list.insert(at, value);
    }
}

#[cfg(test)]
mod tests;
