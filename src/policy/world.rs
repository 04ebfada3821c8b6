//! A small world for tests: a container with a server and notebooks, put together line by line.
//! Pids are host pids; the container's own are the same, so that a table can be read at sight.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::identity::{Claim, Evidence, Identities, Identity, Kernel, Marks, Php, PhpRole};
use super::rank::{GroupMemory, Purpose, Ranking, status_budget};
use super::tree::{Context, Forest};
use crate::facts::{Comm, Field, Proc, ProcMemory, Why};
use crate::ids::ProcKey;
use crate::units::Bytes;

pub const INIT: u32 = 1;
pub const SERVER: u32 = 7;
pub const USER: u32 = 1000;
/// Debian's www-data.
pub const WWW: u32 = 33;
/// Code and libraries that every process maps.
pub const FILE_PAGES: Bytes = Bytes::mib(20);

pub struct World {
    pub procs: Vec<Proc>,
    pub identities: BTreeMap<u32, Identity>,
    /// Identities that only a helper thread will have read.
    pub hidden: BTreeMap<u32, Identity>,
    /// What `status` and `smaps_rollup` would say.
    pub status: BTreeMap<u32, ProcMemory>,
    pub pss: BTreeMap<u32, Bytes>,
    pub groups: Vec<Option<GroupMemory>>,
    pub guard: Vec<u32>,
    pub owners: Vec<(u32, u32)>,
    pub ids: Identities,
    pub forest: Forest,
    pub ranking: Ranking,
    /// Pids whose status was read, in order.
    pub read: Vec<u32>,
}

pub fn key(pid: u32) -> ProcKey {
    ProcKey { pid, start: u64::from(pid) * 10 }
}

impl World {
    /// An init and a server.
    pub fn new() -> World {
        let mut world = World {
            procs: Vec::new(),
            identities: BTreeMap::new(),
            hidden: BTreeMap::new(),
            status: BTreeMap::new(),
            pss: BTreeMap::new(),
            groups: Vec::new(),
            guard: Vec::new(),
            owners: Vec::new(),
            ids: Identities::default(),
            forest: Forest::default(),
            ranking: Ranking::default(),
            read: Vec::new(),
        };
        world.bare(INIT, 0).claim(INIT, Claim::Plain);
        world.bare(SERVER, INIT).claim(SERVER, Claim::Server);
        world
    }

    /// A process with a session of its own and nothing in its environment.
    pub fn bare(&mut self, pid: u32, ppid: u32) -> &mut World {
        self.procs.push(Proc {
            key: key(pid),
            ppid,
            pgrp: pid,
            sid: pid,
            comm: Comm::new(b"python3"),
            state: b'S',
            ticks: 0,
            rss: FILE_PAGES,
            container: 0,
            memory: Field::Unknown(Why::NotRead),
            pss: Field::Unknown(Why::NotRead),
        });
        let identity = Identity {
            key: key(pid),
            uid: USER,
            nspid: pid,
            comm: Comm::new(b"python3"),
            settled: true,
            claim: Claim::Plain,
            marks: None,
        };
        self.identities.insert(pid, identity);
        self.holds(pid, Bytes::ZERO)
    }

    /// A kernel below the server.
    pub fn kernel(&mut self, pid: u32, notebook: &str) -> &mut World {
        self.kernel_below(pid, SERVER, Some(notebook))
    }

    pub fn kernel_below(&mut self, pid: u32, parent: u32, notebook: Option<&str>) -> &mut World {
        let file = format!("/run/kernel-00000000-0000-0000-0000-{pid:012}.json");
        self.bare(pid, parent).marks(pid, notebook, Some(parent)).claim(pid, kernel(&file))
    }

    /// A child in the same session and group, with its parent's environment.
    pub fn child(&mut self, pid: u32, parent: u32) -> &mut World {
        let of = *self.proc(parent);
        let (uid, marks) = {
            let id = &self.identities[&parent];
            (id.uid, id.marks.clone())
        };
        self.bare(pid, parent);
        let proc = self.proc(pid);
        (proc.sid, proc.pgrp, proc.container) = (of.sid, of.pgrp, of.container);
        let id = self.id(pid);
        (id.uid, id.marks) = (uid, marks);
        self
    }

    /// A double-forked child of `of` with a session of its own and the environment it inherited.
    pub fn stray(&mut self, pid: u32, of: u32) -> &mut World {
        self.child(pid, of);
        let proc = self.proc(pid);
        (proc.ppid, proc.sid, proc.pgrp) = (INIT, pid, pid);
        self
    }

    pub fn claim(&mut self, pid: u32, claim: Claim) -> &mut World {
        self.id(pid).claim = claim;
        self
    }

    /// A process that runs PHP; a master gets root's uid, all others www-data's.
    pub fn php(&mut self, pid: u32, parent: u32, role: PhpRole, application: &str) -> &mut World {
        let php = Php { role, application: application.into() };
        self.bare(pid, parent).claim(pid, Claim::Php(Box::new(php)));
        self.id(pid).uid = if role == PhpRole::Master { 0 } else { WWW };
        self.proc(pid).comm = Comm::new(b"php");
        self.id(pid).comm = Comm::new(b"php");
        self
    }

    pub fn marks(&mut self, pid: u32, session: Option<&str>, parent: Option<u32>) -> &mut World {
        let marks = Marks { session: session.map(Box::from), parent };
        self.id(pid).marks = Some(Arc::new(marks));
        self
    }

    pub fn unread(&mut self, pid: u32) -> &mut World {
        self.identities.remove(&pid);
        self
    }

    pub fn hide(&mut self, pid: u32) -> &mut World {
        let identity = self.identities.remove(&pid).unwrap();
        self.hidden.insert(pid, identity);
        self
    }

    pub fn holds(&mut self, pid: u32, anon: Bytes) -> &mut World {
        self.maps(pid, anon, Bytes::ZERO)
    }

    pub fn maps(&mut self, pid: u32, anon: Bytes, shmem: Bytes) -> &mut World {
        self.proc(pid).rss = anon.plus(shmem).plus(FILE_PAGES);
        self.status.insert(pid, ProcMemory { anon, shmem, swap: Bytes::ZERO });
        self
    }

    /// What the container's cgroup says; no swap.
    pub fn group(&mut self, anon: Bytes, shmem: Bytes) -> &mut World {
        self.groups = vec![Some(GroupMemory { anon, shmem, swap: Field::Known(Bytes::ZERO) })];
        self
    }

    /// The cgroup of a world in which nothing is shared.
    pub fn group_of_sums(&mut self) -> &mut World {
        let anon = self.status.values().map(|memory| memory.anon).sum();
        let shmem = self.status.values().map(|memory| memory.shmem).max().unwrap_or_default();
        self.group(anon, shmem)
    }

    pub fn proc(&mut self, pid: u32) -> &mut Proc {
        self.procs.iter_mut().find(|proc| proc.key.pid == pid).unwrap()
    }

    pub fn id(&mut self, pid: u32) -> &mut Identity {
        self.identities.get_mut(&pid).unwrap()
    }

    pub fn index(&self, pid: u32) -> u32 {
        self.procs.iter().position(|proc| proc.key.pid == pid).unwrap() as u32
    }

    pub fn build(&mut self) -> &mut World {
        self.ids = Identities::default();
        for identity in self.identities.values() {
            self.ids.insert(identity.clone());
        }
        for (pid, root) in &self.owners {
            self.ids.remember(key(*pid), key(*root));
        }
        let context = Context { inits: &[Some(INIT), Some(INIT)], guard: &self.guard };
        self.forest.build(&self.procs, &self.ids, &context);
        self
    }

    /// Ranks, and reads whatever the ranking asks for.
    pub fn rank(&mut self, purpose: Purpose) -> &mut World {
        self.rank_among(purpose, |_| true)
    }

    pub fn rank_among(&mut self, purpose: Purpose, competes: impl Fn(usize) -> bool) -> &mut World {
        let budget = status_budget(self.procs.len());
        self.ranking.begin(&self.forest, &self.procs, &self.groups, budget, competes);
        loop {
            let batch = self.ranking.next_to_read(&self.procs, purpose).to_vec();
            if batch.is_empty() {
                return self;
            }
            for index in batch {
                let proc = &mut self.procs[index as usize];
                let known = self.status.get(&proc.key.pid);
                proc.memory = known.map_or(Field::Unknown(Why::Gone), |m| Field::Known(*m));
                self.read.push(proc.key.pid);
            }
            self.ranking.learn(&self.procs);
            let step_by_step = self.ranking.rows().to_vec();
            self.ranking.learn(&self.procs);
            assert_eq!(step_by_step, self.ranking.rows(), "one at a time and all at once");
        }
    }

    /// Reads the PSS of these processes, as the helper thread does.
    pub fn read_pss(&mut self, indices: &[u32]) -> &mut World {
        for index in indices {
            let proc = &mut self.procs[*index as usize];
            proc.pss = match self.pss.get(&proc.key.pid) {
                Some(pss) => Field::Known(*pss),
                None => Field::Unknown(Why::TimedOut),
            };
        }
        self.ranking.learn(&self.procs);
        self
    }

    /// Pids of each workload, the root first: `7: [7, 9]` as `[[7, 9]]`.
    pub fn trees(&self) -> Vec<Vec<u32>> {
        let pid = |index: u32| self.procs[index as usize].key.pid;
        let members = |w| self.forest.members(w).iter().map(|m| pid(m.index)).collect();
        self.forest.workloads().iter().map(members).collect()
    }

    pub fn pids(&self, indices: &[u32]) -> Vec<u32> {
        indices.iter().map(|index| self.procs[*index as usize].key.pid).collect()
    }

    /// Root pids in the order of the ranking.
    pub fn order(&self) -> Vec<u32> {
        self.ranking.rows().iter().map(|row| row.root.pid).collect()
    }
}

pub fn kernel(file: &str) -> Claim {
    let kernel_id = crate::parse::jupyter::kernel_id(file).map(Box::from);
    Claim::Kernel(Box::new(Kernel { connection: file.into(), kernel_id, evidence: Evidence::Name }))
}
