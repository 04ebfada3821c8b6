//! Following a kill until the tree is dead: pidfds, sweeps, the freezer, trackers, and what the
//! kernel refused. Picks nobody; the tree was decided on before.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ::log::warn;
use mio::Interest;
use mio::unix::SourceFd;

use super::helper::{Asker, Question, Work, wait_frozen};
use super::retry::Retry;
use super::token::For;
use super::{Reactor, domain_of, leaves_free};
use crate::act::kill::{Job, MOST_SWEEPS, Signals, Spare, Standing, TRACKER_TIME, UNREAD_TIME};
use crate::act::tripwire;
use crate::config::Signal;
use crate::host::{StatFiles, procs};
use crate::ids::{ProcKey, WatchId};
use crate::policy::episode::Input;
use crate::policy::tree::KillSet;
use crate::roots::{Buffer, Roots};
use crate::sys::pidfd;
use crate::units::{Bytes, Moment};

/// Members for which a job has room from the start.
const ROOM: usize = 1024;
/// Sweeps in a row that must find nobody before the tree counts as complete.
const CLEAN: u32 = 2;
/// Processes whose memory is taken apart by the helper: the largest ones hold what counts.
const RELEASED: usize = 8;
const RELEASE_MIN: Bytes = Bytes::mib(16);
/// Who could not be thawed is tried again after this, and then after twice as long each time.
const THAW_FIRST: Duration = Duration::from_millis(100);
const THAW_LONGEST: Duration = Duration::from_secs(60);
/// Descriptors that a tree's pidfds leave free: start times are read through one, before anybody
/// is signalled, and the threads want some meanwhile.
const TO_READ: usize = 16;

/// One tree that is being ended.
pub(super) struct Ending {
    pub serial: u32,
    pub who: Asker,
    pub job: Job,
    pub set: KillSet,
    /// One that gets to finish its request: this signal, then SIGKILL.
    pub asked_by: Option<i32>,
    /// The container of the tree. Sweeps and the freezer reach no other, whatever other domains
    /// have scanned in the meantime.
    home: Option<WatchId>,
    clean: u32,
    /// The reactor was told that all but the trackers are dead.
    told: bool,
    frozen: Option<WatchId>,
}

pub(super) struct Endings {
    open: Vec<Ending>,
    /// Jobs that are done, with their room, for the next.
    spare: Vec<Ending>,
    serial: u32,
    /// Serial numbers of one turn, with their room.
    turn: Vec<u32>,
    /// When those are thawed who could not be.
    thaw: Retry,
}

impl Ending {
    /// The container of the tree.
    pub fn home(&self) -> Option<WatchId> {
        self.home
    }
}

impl Endings {
    pub fn new() -> Endings {
        let mut endings = Endings {
            open: Vec::with_capacity(4),
            spare: Vec::new(),
            serial: 0,
            turn: Vec::with_capacity(4),
            thaw: Retry::new(THAW_FIRST, THAW_LONGEST),
        };
        let first = endings.make();
        endings.spare.push(first);
        endings
    }

    fn make(&mut self) -> Ending {
        Ending {
            serial: 0,
            who: None,
            job: Job::with_room(ROOM),
            set: KillSet::default(),
            asked_by: None,
            home: None,
            clean: 0,
            told: false,
            frozen: None,
        }
    }

    /// One kill in flight per host: somebody who was signalled is not dead yet.
    pub fn in_flight(&self) -> bool {
        self.open.iter().any(|ending| !ending.job.main_is_dead())
    }

    /// Nobody was told yet that all of a tree but its trackers are dead.
    pub fn untold(&self) -> bool {
        self.open.iter().any(|ending| !ending.told)
    }

    /// Somebody who was signalled is still followed, trackers included.
    pub fn any(&self) -> bool {
        !self.open.is_empty()
    }

    pub fn get(&self, serial: u32) -> Option<&Ending> {
        self.open.iter().find(|ending| ending.serial == serial)
    }

    fn get_mut(&mut self, serial: u32) -> Option<&mut Ending> {
        self.open.iter_mut().find(|ending| ending.serial == serial)
    }

    /// When unread processes or trackers have had their time.
    pub fn deadline(&self) -> Option<Moment> {
        self.open
            .iter()
            .filter_map(|ending| {
                let waits = |spare| {
                    ending
                        .job
                        .members()
                        .iter()
                        .any(|m| m.spare == spare && m.standing == Standing::Open)
                };
                let unread = waits(Spare::Unread).then(|| ending.job.begun.plus(UNREAD_TIME));
                let trackers = waits(Spare::Tracker)
                    .then(|| ending.job.dead_at().map(|at| at.plus(TRACKER_TIME)))
                    .flatten();
                [unread, trackers].into_iter().flatten().min()
            })
            .chain(self.thaw.at())
            .min()
    }
}

/// The kernel, as the kill sees it.
pub(super) struct Kernel<'a> {
    pub roots: &'a Roots,
    pub buffer: &'a mut Buffer,
    /// One that is kept tells of the process that it was opened for, or that it is gone.
    stat_files: Option<&'a StatFiles>,
    /// Descriptors that there may be at all.
    descriptors: usize,
}

impl Kernel<'_> {
    fn of<'a>(roots: &'a Roots, buffer: &'a mut Buffer, descriptors: usize) -> Kernel<'a> {
        Kernel { roots, buffer, stat_files: None, descriptors }
    }
}

impl Signals for Kernel<'_> {
    fn open(&mut self, pid: u32) -> io::Result<OwnedFd> {
        let pidfd = pidfd::open(pid)?;
        match leaves_free(pidfd.as_fd(), TO_READ, self.descriptors) {
            true => Ok(pidfd),
            false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        }
    }

    fn start_of(&mut self, key: ProcKey) -> io::Result<Option<u64>> {
        let start = match self.stat_files {
            Some(files) => files.start_of(self.roots, key, self.buffer),
            None => procs::start_of(self.roots, key.pid, self.buffer),
        };
        start.map_err(io::Error::from)
    }

    fn send(&mut self, pidfd: BorrowedFd<'_>, _: u32, signal: i32) -> io::Result<()> {
        pidfd::send(pidfd, signal)
    }
}

pub(super) fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Int => libc::SIGINT,
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    }
}

impl Reactor {
    /// Signals the workload of the verdict. Returns the kill's serial number and when the signals
    /// were out.
    pub(super) fn signal_tree(
        &mut self,
        who: Asker,
        signal: i32,
        asked_by: Option<i32>,
    ) -> Option<(u32, Moment)> {
        if !self.fill_targets(who) {
            return None;
        }
        let now = self.now();
        let mut ending = match self.endings.spare.pop() {
            Some(ending) => ending,
            None => self.endings.make(),
        };
        self.endings.serial = (self.endings.serial + 1) & 0x0fff_ffff;
        ending.serial = self.endings.serial;
        ending.who = who;
        ending.clean = 0;
        ending.told = false;
        ending.frozen = None;
        ending.asked_by = asked_by;
        ending.job.begin(now, signal);
        let Reactor { watches, host, scratch, roots, buffer, descriptors_max, .. } = self;
        let domain = domain_of(who, watches, host);
        let stat_files = domain.and_then(|domain| domain.stat_files.as_deref());
        let mut kernel = Kernel { stat_files, ..Kernel::of(roots, buffer, *descriptors_max) };
        ending.job.add(&mut kernel, &scratch.targets);
        ending.job.again(&mut kernel, |_| {});
        // From here on the signals are out; what follows may take its time.
        let signalled = self.now();
        if let Some(crate::policy::decide::Verdict::Kill(kill)) = &self.scratch.verdict
            && let Some(workload) = self.scratch.forest.workloads().get(kill.workload as usize)
        {
            ending.set.start(&self.scratch.forest, workload, &self.scratch.procs);
            let slot = self.scratch.slots.get(usize::from(workload.container)).copied();
            let watch = slot.and_then(|slot| self.watches[slot as usize].as_ref());
            ending.home = watch.map(|watch| watch.id);
        }
        let serial = ending.serial;
        self.endings.open.push(ending);
        self.follow_victims(serial, 0..usize::MAX);
        self.release(serial);
        self.ask_about_unread(serial);
        Some((serial, signalled))
    }

    /// The next rung for all that are left.
    pub(super) fn escalate(&mut self, serial: u32, signal: i32) {
        let Reactor { endings, roots, buffer, descriptors_max, .. } = self;
        if let Some(ending) = endings.get_mut(serial) {
            ending.job.escalate(&mut Kernel::of(roots, buffer, *descriptors_max), signal);
        }
    }

    /// Waits for the exits of these.
    fn follow_victims(&mut self, serial: u32, members: Range<usize>) {
        let Reactor { endings, poll, .. } = self;
        let Some(ending) = endings.get_mut(serial) else { return };
        for at in members.start..members.end.min(ending.job.members().len()) {
            let Some(fd) = ending.job.members()[at].pidfd().map(|fd| fd.as_raw_fd()) else {
                continue;
            };
            let token =
                For::Victim { serial, index: u32::try_from(at).unwrap_or(u32::MAX) }.token();
            let registry = poll.registry();
            if let Err(error) = registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
                warn!("a pidfd could not be registered: {error}: its exit is asked for");
                ending.job.unheard(at);
            }
        }
    }

    /// Lets the helper take the largest ones' memory apart.
    fn release(&mut self, serial: u32) {
        let Some(ending) = self.endings.get(serial) else { return };
        let procs = &self.scratch.procs;
        let size =
            |key: ProcKey| procs.iter().find(|p| p.key == key).map_or(Bytes::ZERO, |proc| proc.rss);
        let mut largest: Vec<(Bytes, BorrowedFd<'_>)> = ending
            .job
            .members()
            .iter()
            .filter(|m| m.standing == Standing::Signalled)
            .filter_map(|m| Some((size(m.key), m.pidfd()?)))
            .filter(|(bytes, _)| *bytes >= RELEASE_MIN)
            .collect();
        largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let fds: Vec<OwnedFd> = largest
            .iter()
            .take(RELEASED)
            .filter_map(|(_, fd)| fd.try_clone_to_owned().ok())
            .collect();
        if !fds.is_empty() {
            self.helper.give(Work::Release(fds));
        }
    }

    fn ask_about_unread(&mut self, serial: u32) {
        let Some(ending) = self.endings.get(serial) else { return };
        let unread = ending.job.members().iter().filter(|m| m.spare == Spare::Unread);
        let keys: Vec<ProcKey> = unread.map(|m| m.key).collect();
        if !keys.is_empty() {
            self.helper.ask(Question::Trackers { serial, keys });
        }
    }

    pub(super) fn on_trackers(&mut self, serial: u32, read: &[(ProcKey, bool)]) {
        let Reactor { endings, roots, buffer, descriptors_max, .. } = self;
        if let Some(ending) = endings.get_mut(serial) {
            let mut kernel = Kernel::of(roots, buffer, *descriptors_max);
            for (key, is_tracker) in read {
                ending.job.settle_unread(&mut kernel, *key, *is_tracker);
            }
        }
    }

    /// A process of a tree has exited.
    pub(super) fn on_victim(&mut self, serial: u32, index: u32) {
        let now = self.now();
        let Some(ending) = self.endings.get_mut(serial) else { return };
        let Some(fd) = ending.job.died(now, index as usize) else { return };
        self.deregister(fd.as_raw_fd());
        drop(fd);
        self.after_death(serial);
    }

    /// Whether nobody is left whom nobody knows, now that all who are known are dead. Sweeps of
    /// before do not count: who is killed in the middle of fork has his child after them.
    fn is_whole(&mut self, serial: u32) -> bool {
        let Some(ending) = self.endings.get(serial) else { return true };
        if ending.frozen.is_some() || ending.job.frozen || ending.job.asks() {
            return ending.frozen.is_none();
        }
        let mut clean = 0;
        for _ in 0..MOST_SWEEPS {
            clean = if self.sweep_once(serial) == 0 { clean + 1 } else { 0 };
            let Some(ending) = self.endings.get_mut(serial) else { return true };
            if !ending.job.main_is_dead() {
                ending.clean = 0;
                return false;
            }
            if clean == CLEAN {
                return true;
            }
        }
        self.freeze(serial);
        self.endings.get(serial).is_none_or(|ending| ending.frozen.is_none())
    }

    /// Tells the domain when all are dead, and lets go of the job when nobody is left.
    fn after_death(&mut self, serial: u32) {
        let now = self.now();
        let Some(ending) = self.endings.get_mut(serial) else { return };
        let is_news = !ending.told && ending.job.main_is_dead();
        if is_news && !self.is_whole(serial) {
            return;
        }
        let Some(ending) = self.endings.get_mut(serial) else { return };
        let Some(dead_at) = ending.job.main_dead_at(now) else { return };
        let trackers_left = ending.job.trackers_left();
        let who = ending.who;
        let first = !std::mem::replace(&mut ending.told, true);
        if !first && trackers_left {
            return;
        }
        // A domain that went on to another kill meanwhile is not told of this one.
        let is_current = self
            .domain_mut(who)
            .and_then(|domain| domain.episode.as_mut())
            .filter(|episode| episode.serial == Some(serial))
            .map(|episode| {
                if first && let Some(at) = episode.signalled {
                    let span = dead_at.since(at);
                    episode.timings.signal_to_dead_us = u64::try_from(span.as_micros()).ok();
                }
            })
            .is_some();
        if is_current {
            self.drive(who, Input::Dead { trackers_left });
        }
        if !trackers_left {
            self.finish(serial);
        }
    }

    /// Looks for children that were forked meanwhile and signals those. When they keep coming,
    /// the container is frozen around one last sweep.
    pub(super) fn sweep(&mut self, serial: u32) {
        let now = self.now();
        let Some(ending) = self.endings.get(serial) else { return };
        // Whoever is asked to finish may start what it needs for that.
        if ending.job.asks() {
            return;
        }
        if ending.clean >= CLEAN || ending.frozen.is_some() || ending.job.frozen {
            return;
        }
        if !ending.job.may_sweep(now) {
            if ending.clean == 0 {
                self.freeze(serial);
            }
            return;
        }
        let found = self.sweep_once(serial);
        if let Some(ending) = self.endings.get_mut(serial) {
            ending.clean = if found == 0 { ending.clean + 1 } else { 0 };
        }
    }

    /// How many were found who were not signalled yet, or who may have left somebody like that.
    fn sweep_once(&mut self, serial: u32) -> usize {
        let Some(ending) = self.endings.get(serial) else { return 0 };
        // Only the container of the tree, under the number by which the set knows it.
        let number = ending.set.container();
        let Some(home) = ending.home else { return 0 };
        let Some(is_complete) = self.scan_container(home, number) else { return 0 };
        let Reactor { endings, scratch, roots, buffer, descriptors_max, .. } = self;
        let Some(ending) = endings.get_mut(serial) else { return 0 };
        scratch.targets.clear();
        let targets = &mut scratch.targets;
        let unseen = ending.set.sweep(&scratch.pids, &scratch.procs, |proc| {
            targets.push(crate::act::kill::Target { key: proc.key, spare: Spare::No });
        });
        ending.job.sweeps += 1;
        let first = ending.job.members().len();
        let mut kernel = Kernel::of(roots, buffer, *descriptors_max);
        ending.job.add(&mut kernel, &scratch.targets);
        let mut again = Vec::new();
        ending.job.again(&mut kernel, |at| again.push(at));
        let found = scratch.targets.len() + again.len() + unseen + usize::from(!is_complete);
        for at in again.into_iter().take_while(|at| *at < first) {
            self.follow_victims(serial, at..at + 1);
        }
        self.follow_victims(serial, first..usize::MAX);
        found
    }

    fn freeze(&mut self, serial: u32) {
        let home = self.endings.get(serial).and_then(|ending| ending.home);
        let Some(watch) = home.and_then(|home| self.watch(home)) else { return };
        let id = watch.id;
        let inode = watch.group.id().0;
        let Some(dir) = watch.group.unified_dir() else { return };
        // Who is paused by its user is not ours to thaw, nor is who may be.
        let mut buffer = Buffer::new();
        if !buffer.read_record(dir, c"cgroup.freeze").is_ok_and(|text| text.starts_with(b"0")) {
            return;
        }
        let Ok(dir) = dir.try_clone_to_owned() else { return };
        let noted = crate::act::state::Changed {
            id: watch.found.id.clone(),
            inode,
            dir: watch.dir(),
            unit: watch.high.unit.clone(),
            original: watch.high.original.to_string(),
            frozen: true,
        };
        // Noted first: whoever starts after a crash thaws what this froze. What could not be noted
        // would stay frozen.
        self.state.note(noted);
        let set = || tripwire::write(dir.as_fd(), "cgroup.freeze", "1");
        // Once more, since without it part of the tree may live on.
        if !(self.save_state() || self.save_state()) {
            warn!("it cannot be noted who is frozen: the last sweep is made without it");
        } else if let Err(error) = set().or_else(|_| set()) {
            warn!("cgroup.freeze: {error}: the last sweep is made without it");
        }
        if let Some(ending) = self.endings.get_mut(serial) {
            ending.frozen = Some(id);
            ending.job.frozen = true;
        }
        self.helper.give(Work::Freeze { serial, dir });
    }

    /// The container is frozen, or will not be: one last sweep, then thaw whatever happened.
    pub(super) fn on_frozen(&mut self, serial: u32) {
        let Some(id) = self.endings.get_mut(serial).and_then(|ending| ending.frozen.take()) else {
            return;
        };
        self.sweep_once(serial);
        self.thaw(id);
        if let Some(ending) = self.endings.get_mut(serial) {
            ending.clean = CLEAN;
        }
        self.after_death(serial);
    }

    /// A stop in the middle of an end: what is left of those trees goes as well. The loop may wait
    /// here, within the bounds of the sweeps and of the freezer. Thawing is the caller's.
    pub(super) fn finish_endings(&mut self) {
        let serials: Vec<u32> = self.endings.open.iter().map(|ending| ending.serial).collect();
        for serial in serials {
            let is_open = |ending: &Ending| !(ending.job.asks() || ending.job.frozen);
            let mut clean = 0;
            let mut sweeps = 0;
            while self.endings.get(serial).is_some_and(is_open) && clean < CLEAN {
                if sweeps == MOST_SWEEPS {
                    self.freeze(serial);
                    break;
                }
                clean = if self.sweep_once(serial) == 0 { clean + 1 } else { 0 };
                sweeps += 1;
            }
            let Some(id) = self.endings.get(serial).and_then(|ending| ending.frozen) else {
                continue;
            };
            if let Some(dir) = self.watch(id).and_then(|watch| watch.group.unified_dir()) {
                wait_frozen(dir);
            }
            self.sweep_once(serial);
        }
    }

    /// A container goes: nobody stays frozen in it.
    pub(super) fn thaw_of(&mut self, id: WatchId) {
        let frozen = self.endings.open.iter_mut().filter(|e| e.frozen == Some(id));
        if frozen.map(|ending| ending.frozen = None).count() > 0 {
            self.thaw(id);
        }
    }

    fn thaw(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id) else { return };
        let inode = watch.group.id().0;
        if let Err(error) = watch.group.write("cgroup.freeze", b"0") {
            // The note stays, for another try, and after a crash for the next start.
            warn!("{:?}: not thawed: {error}", watch.name());
            if !tripwire::is_gone(&error) {
                let now = self.now();
                self.endings.thaw.want(now);
            }
            return;
        }
        let owned = watch.high.ours.is_some();
        match self.state.changed.iter_mut().find(|c| c.inode == inode) {
            Some(changed) if owned => changed.frozen = false,
            _ => self.state.forget(inode),
        }
        self.save_state();
    }

    /// Once more, whoever should have been thawed by now.
    fn thaw_again(&mut self, now: Moment) {
        if !self.endings.thaw.is_due(now) {
            return;
        }
        let frozen: Vec<u64> =
            self.state.changed.iter().filter(|c| c.frozen).map(|c| c.inode).collect();
        for inode in frozen {
            let watch = self.watches.iter().flatten().find(|watch| watch.group.id().0 == inode);
            match watch.map(|watch| watch.id) {
                Some(id) if self.endings.open.iter().any(|ending| ending.frozen == Some(id)) => {}
                Some(id) => self.thaw(id),
                // Let go of meanwhile.
                None => {
                    self.thaw_left_over();
                    if self.state.changed.iter().any(|c| c.frozen && c.inode == inode) {
                        self.endings.thaw.want(now);
                    }
                }
            }
        }
        self.endings.thaw.tried();
    }

    /// Those whose time is over, exits that nobody told of, and jobs in which nobody is left.
    pub(super) fn expire_endings(&mut self) {
        let now = self.now();
        self.thaw_again(now);
        let Reactor { endings, roots, buffer, descriptors_max, .. } = self;
        // Taken: what follows a death may end a job, and begin another.
        let mut turn = std::mem::take(&mut endings.turn);
        turn.clear();
        for ending in &mut endings.open {
            ending.job.expire(now, &mut Kernel::of(roots, buffer, *descriptors_max));
            ending.job.ask_unheard(now, pidfd::has_exited);
            turn.push(ending.serial);
        }
        for serial in &turn {
            self.after_death(*serial);
        }
        self.endings.turn = turn;
    }

    /// The episode is over: the job's room is kept for the next.
    pub(super) fn finish(&mut self, serial: u32) {
        let Some(at) = self.endings.open.iter().position(|e| e.serial == serial) else { return };
        if let Some(id) = self.endings.open[at].frozen.take() {
            self.thaw(id);
        }
        let ending = self.endings.open.swap_remove(at);
        for member in ending.job.members() {
            if let Some(fd) = member.pidfd() {
                self.deregister(fd.as_raw_fd());
            }
        }
        if self.endings.spare.is_empty() {
            let mut ending = ending;
            ending.job.begin(Moment(0), libc::SIGKILL);
            self.endings.spare.push(ending);
        }
    }

    /// Gives up on those that did not die: the record has said so.
    pub(super) fn give_up(&mut self, serial: u32) {
        self.finish(serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use crate::act::kill::Target;
    use crate::facts::Proc;

    /// Processes in one round; a round is over in some hundred milliseconds.
    const BATCH: u32 = 250;
    const REPLACED: usize = 10_000;
    /// The pids that are given out again and again. Whoever else is born gets others.
    const FIRST: u32 = 20_000;
    const OF_THE_NAMESPACE: &str = "NBGUARD_TEST_IN_A_NAMESPACE";

    /// Processes with these pids, one after the other: whoever writes `ns_last_pid` says which pid
    /// the next process of his namespace gets.
    fn born_as(pids: impl Iterator<Item = u32>) -> Vec<Child> {
        pids.map(|pid| {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let mut sleep = Command::new("sleep");
            let child = sleep.arg("infinity").stdin(Stdio::null()).spawn().unwrap();
            assert_eq!(child.id(), pid, "somebody else got it");
            child
        })
        .collect()
    }

    fn end(children: &mut Vec<Child>) {
        for child in children.iter_mut() {
            child.kill().unwrap();
        }
        for mut child in children.drain(..) {
            child.wait().unwrap();
        }
    }

    fn ranked(roots: &Roots, children: &[Child]) -> Vec<Proc> {
        let pids: Vec<(u32, u16)> = children.iter().map(|child| (child.id(), 0)).collect();
        let mut procs = Vec::new();
        procs::scan(roots, &pids, &mut procs, &mut Buffer::new());
        assert_eq!(procs.len(), children.len());
        procs
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum When {
        Opening,
        Reading,
        Signalling,
    }

    /// The kernel, and all that was ranked goes at one step of the kill and comes back as others.
    struct Replacing<'a, 'b> {
        kernel: Kernel<'a>,
        when: When,
        replace: Option<&'b dyn Fn()>,
    }

    impl Replacing<'_, '_> {
        fn at(&mut self, when: When) {
            if self.when == when
                && let Some(replace) = self.replace.take()
            {
                replace();
            }
        }
    }

    impl Signals for Replacing<'_, '_> {
        fn open(&mut self, pid: u32) -> io::Result<OwnedFd> {
            self.at(When::Opening);
            self.kernel.open(pid)
        }

        fn start_of(&mut self, key: ProcKey) -> io::Result<Option<u64>> {
            self.at(When::Reading);
            self.kernel.start_of(key)
        }

        fn send(&mut self, pidfd: BorrowedFd<'_>, pid: u32, signal: i32) -> io::Result<()> {
            self.at(When::Signalling);
            self.kernel.send(pidfd, pid, signal)
        }
    }

    /// Ranks these, has them replaced in the middle of the kill, and returns who was hit.
    fn hit(
        roots: &Roots,
        children: &RefCell<Vec<Child>>,
        when: When,
        stat_files: Option<&StatFiles>,
        before: &[Proc],
    ) -> usize {
        let replace = || {
            let mut children = children.borrow_mut();
            let pids: Vec<u32> = children.iter().map(Child::id).collect();
            end(&mut children);
            *children = born_as(pids.into_iter());
        };
        let mut buffer = Buffer::new();
        let kernel = Kernel { stat_files, ..Kernel::of(roots, &mut buffer, usize::MAX) };
        let mut signals = Replacing { kernel, when, replace: Some(&replace) };
        let targets: Vec<Target> =
            before.iter().map(|proc| Target { key: proc.key, spare: Spare::No }).collect();
        let mut job = Job::with_room(targets.len());
        job.begin(Moment(0), libc::SIGKILL);
        let signalled = job.add(&mut signals, &targets);
        assert_eq!(signalled, 0, "{when:?}");
        // A signal that was sent would be there by now, and a zombie is not alive.
        let mut children = children.borrow_mut();
        children.iter_mut().filter_map(|child| child.try_wait().unwrap()).count()
    }

    /// Runs the test of this name again as the first process of a pid namespace.
    fn in_a_namespace(test: &str) -> Option<()> {
        if std::env::var_os(OF_THE_NAMESPACE).is_some() {
            return Some(());
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.arg(std::env::current_exe().unwrap());
        unshare.args(["--exact", "--nocapture", &format!("reactor::ending::tests::{test}")]);
        match unshare.env(OF_THE_NAMESPACE, "1").output() {
            Ok(done) if done.status.success() => {
                let said = String::from_utf8_lossy(&done.stdout);
                said.lines().filter(|line| line.contains("replaced")).for_each(|l| println!("{l}"));
            }
            Ok(done) if String::from_utf8_lossy(&done.stderr).contains("unshare failed") => {
                println!("skipped: no pid namespace can be made here");
            }
            Ok(done) => panic!(
                "{}{}",
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            ),
            Err(error) => println!("skipped: unshare: {error}"),
        }
        None
    }

    #[test]
    fn whoever_has_the_pid_of_one_that_was_ranked_is_never_hit() {
        let Some(()) = in_a_namespace("whoever_has_the_pid_of_one_that_was_ranked_is_never_hit")
        else {
            return;
        };
        let roots = Roots::system().unwrap();
        let children = RefCell::new(born_as(FIRST..FIRST + BATCH));
        let (mut replaced, mut wrong) = (0, 0);
        let steps = [When::Opening, When::Reading, When::Signalling];
        for when in steps.into_iter().cycle() {
            // Who is ranked was born before the tick of the ranking.
            std::thread::sleep(Duration::from_millis(11));
            let before = ranked(&roots, &children.borrow());
            wrong += hit(&roots, &children, when, None, &before);
            replaced += before.len();
            if replaced >= REPLACED {
                break;
            }
        }
        end(&mut children.borrow_mut());
        println!("{replaced} processes replaced between ranking and signal: {wrong} wrong kills");
        assert_eq!(wrong, 0);
    }

    /// Here the start time tells nothing: the new one was born in the same tick as the old one.
    #[test]
    fn one_that_was_born_in_the_same_tick_is_not_hit_either_where_stat_is_kept() {
        let name = "one_that_was_born_in_the_same_tick_is_not_hit_either_where_stat_is_kept";
        let Some(()) = in_a_namespace(name) else { return };
        let roots = Roots::system().unwrap();
        let children = RefCell::new(Vec::new());
        let (mut same, mut wrong) = (0, 0);
        for at in 0..2_000 {
            *children.borrow_mut() = born_as(FIRST..=FIRST);
            let before = ranked(&roots, &children.borrow());
            let mut files = StatFiles::default();
            files.keep(&roots, &before, 1, &mut Buffer::new());
            let when = [When::Opening, When::Reading, When::Signalling][at % 3];
            wrong += hit(&roots, &children, when, Some(&files), &before);
            let after = ranked(&roots, &children.borrow());
            same += usize::from(after[0].key == before[0].key);
            end(&mut children.borrow_mut());
            if same >= 200 {
                break;
            }
        }
        println!("{same} replaced within one tick: {wrong} wrong kills");
        assert!(same > 0, "none was born in the tick of the one before");
        assert_eq!(wrong, 0);
    }
}
