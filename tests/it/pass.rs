//! One way from an event to the signals, with the functions that the loop calls and in its order,
//! so that what it costs can be counted and timed without a daemon around it. Everything is kept
//! between two passes, as the loop keeps it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use nbguard::act::kill::{Job, Signals, Spare, Target};
use nbguard::config::Settings;
use nbguard::facts::{HostMemory, Limit, Proc};
use nbguard::host::stat_files::{FILES_MAX, StatFiles};
use nbguard::host::{Buffer, Group, Roots, memory, procs};
use nbguard::ids::ProcKey;
use nbguard::policy::decide::{self, Case, Scale, Screen, Verdict};
use nbguard::policy::identity::Identities;
use nbguard::policy::rank::{GroupMemory, Ranking, status_budget};
use nbguard::policy::tree::{Context, Forest};
use nbguard::runtime::jupyter;
use nbguard::sys::pidfd;
use nbguard::units::{Bytes, Moment, Share};

use crate::ground::{Container, Ground};

/// As many as the loop has room for from the start.
const ROOM: usize = 512;

pub struct Pass {
    roots: Roots,
    group: Group,
    host: HostMemory,
    settings: Settings,
    identities: Identities,
    buffer: Buffer,
    stat_files: Rc<StatFiles>,
    pids: Vec<(u32, u16)>,
    procs: Vec<Proc>,
    groups: Vec<Option<GroupMemory>>,
    inits: Vec<Option<u32>>,
    guard: Vec<u32>,
    forest: Forest,
    ranking: Ranking,
    screen: Screen,
    targets: Vec<Target>,
    pub job: Job,
}

impl Pass {
    /// Knows who is who in the container, as after a warning look. `first` is its first process.
    pub fn new(ground: &Ground, container: &Container, first: u32) -> Pass {
        let roots = Roots::system().unwrap();
        let mut buffer = Buffer::new();
        let host = memory::memory(&roots, &mut buffer).unwrap();
        // Low, so that the gate is open whatever these processes hold.
        let settings = Settings {
            threshold: Share::percent(10),
            min_share: Share::percent(0),
            ..Settings::default()
        };
        let mut pass = Pass {
            group: Group::open(&ground.hierarchies, &container.relative).unwrap(),
            roots,
            host,
            settings,
            identities: Identities::default(),
            buffer,
            stat_files: Rc::default(),
            pids: Vec::with_capacity(ROOM),
            procs: Vec::with_capacity(ROOM),
            groups: Vec::with_capacity(1),
            inits: vec![Some(first)],
            guard: vec![std::process::id()],
            forest: Forest::default(),
            ranking: Ranking::default(),
            screen: Screen::default(),
            targets: Vec::with_capacity(ROOM),
            job: Job::with_room(ROOM),
        };
        pass.identify();
        pass
    }

    fn identify(&mut self) {
        self.scan();
        let now = jupyter::boot_ticks();
        for proc in &self.procs {
            let identity = jupyter::identify(&self.roots, proc.key, now, &mut self.buffer);
            assert!(self.identities.insert(identity.unwrap()));
        }
        let mut files = StatFiles::default();
        files.keep(&self.roots, &self.procs, FILES_MAX, &mut self.buffer);
        self.stat_files = Rc::new(files);
    }

    pub fn pids(&mut self) -> Vec<u32> {
        self.scan();
        self.procs.iter().map(|proc| proc.key.pid).collect()
    }

    fn scan(&mut self) {
        self.pids.clear();
        self.group.pids(0, &mut self.pids, &mut self.buffer).unwrap();
        self.stat_files.scan(&self.roots, &self.pids, &mut self.procs, &mut self.buffer);
    }

    /// From the event to the last signal. Returns whose tree it was and how many were signalled.
    pub fn run(&mut self, signals: &mut impl Signals) -> (u32, u32) {
        let root = self.decide();
        (root, self.signal(signals))
    }

    /// Look, gate, scan, group, rank, decide, check again. Returns whose tree is to end.
    pub fn decide(&mut self) -> u32 {
        let mut figures = self.group.figures(&mut self.buffer).unwrap();
        let scale = Scale::of(&figures, Limit::Max, &self.host);
        let gate = decide::gate(&figures, None, scale, &self.settings, None);
        assert!(gate.is_passed());
        self.scan();
        self.groups.clear();
        self.groups.push(Some(GroupMemory::from(&figures)));
        let context = Context { inits: &self.inits, guard: &self.guard };
        self.forest.build(&self.procs, &self.identities, &context);
        self.forest.remember(&self.procs, &mut self.identities);
        self.order(scale, &gate);
        let case = Case {
            forest: &self.forest,
            procs: &self.procs,
            settings: &self.settings,
            scale,
            gate: &gate,
            baseline: None,
            paused: false,
            late: false,
            unread: false,
            inside: None,
        };
        let verdict = self.screen.decide(&case, &mut self.ranking);
        let Verdict::Kill(kill) = verdict else { panic!("{verdict:?}") };
        self.group.recheck(&mut figures, &mut self.buffer).unwrap();
        assert!(decide::gate(&figures, None, scale, &self.settings, None).is_passed());
        self.aim(kill.workload);
        kill.root.pid
    }

    pub fn signal(&mut self, signals: &mut impl Signals) -> u32 {
        self.job.begin(Moment(0), libc::SIGKILL);
        self.job.add(signals, &self.targets)
    }

    /// The pids of the tree that is to end.
    pub fn tree(&self) -> Vec<u32> {
        self.targets.iter().map(|target| target.key.pid).collect()
    }

    /// Descriptors of those that were signalled and hold this much.
    pub fn holders(&self, least: Bytes) -> Vec<OwnedFd> {
        let size = |pid: u32| self.procs.iter().find(|p| p.key.pid == pid).map(|p| p.rss);
        let members = self.job.members().iter();
        let large = members.filter(|m| size(m.key.pid).is_some_and(|rss| rss >= least));
        large.filter_map(|m| m.pidfd()?.try_clone_to_owned().ok()).collect()
    }

    fn order(&mut self, scale: Scale, gate: &decide::Gate) {
        let purpose = Screen::purpose(&self.settings, scale, gate);
        let budget = status_budget(self.procs.len());
        self.screen.sift(&self.forest, &self.identities, |_| None);
        self.ranking.begin(&self.forest, &self.procs, &self.groups, budget, |_| true);
        loop {
            let batch = self.ranking.next_to_read(&self.procs, purpose);
            if batch.is_empty() {
                return;
            }
            for index in batch {
                let proc = &mut self.procs[*index as usize];
                proc.memory = procs::read_memory(&self.roots, proc.key.pid, &mut self.buffer);
            }
            self.ranking.learn(&self.procs);
        }
    }

    fn aim(&mut self, workload: u32) {
        let workload = &self.forest.workloads()[workload as usize];
        self.targets.clear();
        self.targets.extend(self.forest.members(workload).iter().map(|member| {
            let key = self.procs[member.index as usize].key;
            Target { key, spare: Spare::No }
        }));
        for index in self.forest.trackers(workload, &self.procs, &self.identities) {
            let key = self.procs[index as usize].key;
            if let Some(target) = self.targets.iter_mut().find(|target| target.key == key) {
                target.spare = Spare::Tracker;
            }
        }
    }
}

/// The kernel, which is asked for every descriptor and every start time; of signals it gets those
/// that `real` lets through, else signal 0, which it only checks.
pub struct Kernel {
    roots: Roots,
    buffer: Buffer,
    stat_files: Rc<StatFiles>,
    real: bool,
}

impl Kernel {
    pub fn new(pass: &Pass, real: bool) -> Kernel {
        let stat_files = Rc::clone(&pass.stat_files);
        Kernel { roots: Roots::system().unwrap(), buffer: Buffer::new(), stat_files, real }
    }
}

impl Signals for Kernel {
    fn open(&mut self, pid: u32) -> io::Result<OwnedFd> {
        pidfd::open(pid)
    }

    fn start_of(&mut self, key: ProcKey) -> std::io::Result<Option<u64>> {
        Ok(self.stat_files.start_of(&self.roots, key, &mut self.buffer)?)
    }

    fn send(&mut self, pidfd: BorrowedFd<'_>, _: u32, signal: i32) -> io::Result<()> {
        pidfd::send(pidfd, if self.real { signal } else { 0 })
    }
}
