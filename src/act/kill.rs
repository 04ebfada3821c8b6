//! Ending one tree: descriptors first, then start times again, then the signal, so that nothing
//! but what was ranked can be hit. Sweeps for children forked meanwhile are the caller's looks
//! handed to [`Job::add`]. Never waits; never picks anybody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::ids::ProcKey;
use crate::units::Moment;

/// Sweeps after the first pass, and the time they may take together.
pub const MOST_SWEEPS: u32 = 20;
pub const SWEEP_TIME: Duration = Duration::from_millis(500);
/// `resource_tracker` processes get this long after everybody else is dead to unlink the
/// tree's shared memory. Under emulation they took 0.45–0.82 s.
pub const TRACKER_TIME: Duration = Duration::from_secs(3);
/// A small process of the tree whose argv nobody has read may be a tracker: it is spared this
/// long, while a helper reads it.
pub const UNREAD_TIME: Duration = Duration::from_millis(60);

/// The two calls that reach a process. In tests a recorder stands here.
pub trait Signals {
    /// # Errors
    /// As pidfd_open(2).
    fn open(&mut self, pid: u32) -> io::Result<OwnedFd>;
    /// The start time of the process that has this pid now. `None`: nobody has it, or the one of
    /// this key is known to be gone.
    /// # Errors
    /// It cannot be known now: whoever that is, he is not signalled.
    fn start_of(&mut self, key: ProcKey) -> io::Result<Option<u64>>;
    /// # Errors
    /// As pidfd_send_signal(2).
    fn send(&mut self, pidfd: BorrowedFd<'_>, pid: u32, signal: i32) -> io::Result<()>;
}

/// Whether a process of the tree is signalled with the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spare {
    No,
    /// Python's `resource_tracker`: it unlinks the shared memory of the dead.
    Tracker,
    /// Small, and nobody has read its argv yet.
    Unread,
    /// What a worker has started, while the worker itself is asked to finish: a signal that asks
    /// a worker of php-fpm would end these.
    Later,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    pub key: ProcKey,
    pub spare: Spare,
}

/// How a process of the tree stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Held by a descriptor, not signalled yet.
    Open,
    Signalled,
    Dead,
    /// Was gone, or its pid belonged to somebody else, before we signalled.
    Gone,
    /// The kernel refused, with this errno.
    Refused(i32),
}

#[derive(Debug)]
pub struct Member {
    pub key: ProcKey,
    pub spare: Spare,
    pub standing: Standing,
    pidfd: Option<OwnedFd>,
    /// Nobody will tell when its descriptor turns readable.
    unheard: bool,
}

impl Member {
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    fn is_left(&self) -> bool {
        matches!(self.standing, Standing::Open | Standing::Signalled)
    }
}

/// One tree being ended.
#[derive(Debug)]
pub struct Job {
    members: Vec<Member>,
    /// Of all members ever added, sorted: a sweep asks it for each process it sees.
    keys: Vec<ProcKey>,
    signal: i32,
    /// How many rungs of the ladder were taken after the first.
    rung: u8,
    pub begun: Moment,
    pub sweeps: u32,
    pub frozen: bool,
    main_dead_at: Option<Moment>,
}

impl Job {
    /// An empty job with room for a large tree, so that signalling it allocates nothing.
    pub fn with_room(members: usize) -> Job {
        Job {
            members: Vec::with_capacity(members),
            keys: Vec::with_capacity(members),
            signal: libc::SIGKILL,
            rung: 0,
            begun: Moment(0),
            sweeps: 0,
            frozen: false,
            main_dead_at: None,
        }
    }

    /// Ready for the next tree; keeps its room.
    pub fn begin(&mut self, now: Moment, signal: i32) {
        self.members.clear();
        self.keys.clear();
        self.signal = signal;
        self.rung = 0;
        self.begun = now;
        self.sweeps = 0;
        self.frozen = false;
        self.main_dead_at = None;
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// By its start as well: a child that is forked late may get the pid of one that died early.
    pub fn knows(&self, key: ProcKey) -> bool {
        self.keys.binary_search(&key).is_ok()
    }

    /// Opens, checks and signals these processes, parents first. Returns how many were signalled.
    ///
    /// Descriptors of all come first, then the start times are read again: whoever still has the
    /// start time it was ranked with *after* we hold its descriptor is the one we hold. Start times
    /// count in ticks of 10 ms: who was born in the very tick in which its pid's earlier owner was
    /// born, ranked and reaped could be taken for that one, which wants the host to go through all
    /// its pids within 10 ms; whose `stat` is kept is told apart even so. When descriptors run out,
    /// those held so far are signalled and let go before the next.
    pub fn add<S: Signals>(&mut self, signals: &mut S, targets: &[Target]) -> u32 {
        let mut first = self.members.len();
        let mut signalled = 0;
        for target in targets {
            let Err(at) = self.keys.binary_search(&target.key) else { continue };
            self.keys.insert(at, target.key);
            let mut opened = signals.open(target.key.pid);
            if matches!(&opened, Err(e) if is_out_of_descriptors(e)) {
                signalled += self.check_and_signal(signals, first);
                for member in &mut self.members[first..] {
                    // Nobody waits on these any more: the sweeps find out whether they are gone.
                    // Whoever is spared keeps its descriptor: it is to be signalled later.
                    if member.standing == Standing::Signalled {
                        member.pidfd = None;
                        member.standing = Standing::Dead;
                    }
                }
                first = self.members.len();
                opened = signals.open(target.key.pid);
            }
            let (pidfd, standing) = standing_of(opened);
            if standing == Standing::Open {
                self.main_dead_at = None;
            }
            let Target { key, spare } = *target;
            self.members.push(Member { key, spare, standing, pidfd, unheard: false });
        }
        signalled + self.check_and_signal(signals, first)
    }

    fn check_and_signal<S: Signals>(&mut self, signals: &mut S, first: usize) -> u32 {
        let mut signalled = 0;
        for member in &mut self.members[first..] {
            check_one(signals, member);
        }
        for member in &mut self.members[first..] {
            if member.spare == Spare::No {
                signalled += u32::from(signal_one(signals, member, self.signal));
            }
        }
        signalled
    }

    /// Tries those once more whom the kernel refused: what it had no room for it may have by now.
    /// Says which are signalled, or held, from now on.
    pub fn again<S: Signals>(&mut self, signals: &mut S, mut reached: impl FnMut(usize)) {
        for (at, member) in self.members.iter_mut().enumerate() {
            if !matches!(member.standing, Standing::Refused(_)) {
                continue;
            }
            (member.pidfd, member.standing) = standing_of(signals.open(member.key.pid));
            check_one(signals, member);
            if member.spare == Spare::No {
                signal_one(signals, member, self.signal);
            }
            if member.is_left() {
                self.main_dead_at = None;
                reached(at);
            }
        }
    }

    /// The next rung of the ladder for all that are left, trackers aside.
    pub fn escalate<S: Signals>(&mut self, signals: &mut S, signal: i32) {
        self.signal = signal;
        self.rung += 1;
        for member in self.members.iter_mut().filter(|m| m.spare == Spare::Later) {
            member.spare = Spare::No;
        }
        for member in self.members.iter_mut().filter(|m| m.spare == Spare::No && m.is_left()) {
            member.standing = Standing::Open;
            signal_one(signals, member, signal);
        }
    }

    /// What a helper found out about an unread process.
    pub fn settle_unread<S: Signals>(&mut self, signals: &mut S, key: ProcKey, is_tracker: bool) {
        let trackers = self.members.iter().filter(|m| m.spare == Spare::Tracker).count();
        let signal = self.signal;
        let Some(member) =
            self.members.iter_mut().find(|m| m.key == key && m.spare == Spare::Unread)
        else {
            return;
        };
        // As in `policy::tree`: at most four, since argv can be forged.
        if is_tracker && trackers < 4 {
            member.spare = Spare::Tracker;
        } else {
            member.spare = Spare::No;
            signal_one(signals, member, signal);
        }
    }

    /// Takes the processes whose time is over: unread ones after [`UNREAD_TIME`], trackers
    /// [`TRACKER_TIME`] after everybody else was dead.
    pub fn expire<S: Signals>(&mut self, now: Moment, signals: &mut S) {
        let unread_over = now.since(self.begun) >= UNREAD_TIME;
        let trackers_over = self.main_dead_at.is_some_and(|dead| now.since(dead) >= TRACKER_TIME);
        for member in &mut self.members {
            let over = match member.spare {
                Spare::No | Spare::Later => false,
                Spare::Unread => unread_over,
                Spare::Tracker => trackers_over,
            };
            if over && member.standing == Standing::Open {
                signal_one(signals, member, libc::SIGKILL);
                if member.spare == Spare::Unread {
                    member.spare = Spare::No;
                }
            }
        }
    }

    /// The descriptor of this member turned readable.
    pub fn died(&mut self, now: Moment, index: usize) -> Option<OwnedFd> {
        let member = self.members.get_mut(index)?;
        // Whoever was given time and left by itself was not signalled.
        let was_spared = member.standing == Standing::Open;
        member.standing = if was_spared { Standing::Gone } else { Standing::Dead };
        let pidfd = member.pidfd.take();
        if self.main_is_dead() && self.main_dead_at.is_none() {
            self.main_dead_at = Some(now);
        }
        pidfd
    }

    /// Nobody will tell of this member's exit: it is to be asked for.
    pub fn unheard(&mut self, index: usize) {
        if let Some(member) = self.members.get_mut(index) {
            member.unheard = true;
        }
    }

    /// Asks for the exits that nobody tells of.
    pub fn ask_unheard(&mut self, now: Moment, has_exited: impl Fn(BorrowedFd<'_>) -> bool) {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let asked = member.unheard && member.is_left();
            if asked && member.pidfd().is_some_and(&has_exited) {
                self.died(now, index);
            }
        }
    }

    /// All are dead, gone or refused, trackers aside.
    pub fn main_is_dead(&self) -> bool {
        !self.members.iter().any(|m| m.is_left() && m.spare != Spare::Tracker)
    }

    pub fn main_dead_at(&mut self, now: Moment) -> Option<Moment> {
        if self.main_is_dead() && self.main_dead_at.is_none() {
            self.main_dead_at = Some(now);
        }
        self.main_dead_at
    }

    /// When the last but the trackers was found dead.
    pub fn dead_at(&self) -> Option<Moment> {
        self.main_dead_at
    }

    /// Whether those that belong to it are asked to finish: nobody is looked for then.
    pub fn asks(&self) -> bool {
        [libc::SIGQUIT, libc::SIGUSR1].contains(&self.signal)
    }

    pub fn rung(&self) -> u8 {
        self.rung
    }

    pub fn trackers_left(&self) -> bool {
        self.members.iter().any(|m| m.is_left() && m.spare == Spare::Tracker)
    }

    /// Nobody was signalled, and somebody could not be.
    pub fn was_refused(&self) -> bool {
        let refused = |m: &Member| matches!(m.standing, Standing::Refused(_));
        self.signalled() == 0 && self.members.iter().any(refused)
    }

    /// Whether another sweep may still be made. After the last the tree is swept once more
    /// while the container is frozen.
    pub fn may_sweep(&self, now: Moment) -> bool {
        self.sweeps < MOST_SWEEPS && now.since(self.begun) < SWEEP_TIME
    }

    pub fn signalled(&self) -> u32 {
        let count = self
            .members
            .iter()
            .filter(|m| matches!(m.standing, Standing::Signalled | Standing::Dead))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub fn trackers(&self) -> u32 {
        let count = self.members.iter().filter(|m| m.spare == Spare::Tracker).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn standing_of(opened: io::Result<OwnedFd>) -> (Option<OwnedFd>, Standing) {
    match opened {
        Ok(fd) => (Some(fd), Standing::Open),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => (None, Standing::Gone),
        Err(e) => (None, Standing::Refused(e.raw_os_error().unwrap_or(0))),
    }
}

/// Lets go of one that is not whom it was opened for, or of whom that cannot be known.
fn check_one<S: Signals>(signals: &mut S, member: &mut Member) {
    if member.standing != Standing::Open {
        return;
    }
    member.standing = match signals.start_of(member.key) {
        Ok(start) if start == Some(member.key.start) => return,
        Ok(_) => Standing::Gone,
        Err(e) => Standing::Refused(e.raw_os_error().unwrap_or(0)),
    };
    member.pidfd = None;
}

fn signal_one<S: Signals>(signals: &mut S, member: &mut Member, signal: i32) -> bool {
    if member.standing != Standing::Open {
        return false;
    }
    let Some(pidfd) = &member.pidfd else {
        member.standing = Standing::Gone;
        return false;
    };
    match signals.send(pidfd.as_fd(), member.key.pid, signal) {
        Ok(()) => {
            member.standing = Standing::Signalled;
            true
        }
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
            member.standing = Standing::Gone;
            member.pidfd = None;
            false
        }
        Err(e) => {
            member.standing = Standing::Refused(e.raw_os_error().unwrap_or(0));
            member.pidfd = None;
            false
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs::File;

    /// Knows which process has which pid, and notes who was signalled.
    #[derive(Default)]
    struct Recorder {
        starts: HashMap<u32, u64>,
        refuse: HashMap<u32, i32>,
        /// Descriptors that may be open at once.
        room: Option<usize>,
        opened: usize,
        sent: Vec<(u32, i32)>,
        /// Whose start time cannot be read, and why.
        unreadable: HashMap<u32, i32>,
    }

    impl Signals for Recorder {
        fn open(&mut self, pid: u32) -> io::Result<OwnedFd> {
            if self.room.is_some_and(|room| self.opened >= room) {
                self.opened = 0;
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            self.opened += 1;
            if self.starts.contains_key(&pid) {
                Ok(OwnedFd::from(File::open("/dev/null").unwrap()))
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        }

        fn start_of(&mut self, key: ProcKey) -> io::Result<Option<u64>> {
            match self.unreadable.get(&key.pid) {
                Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
                None => Ok(self.starts.get(&key.pid).copied()),
            }
        }

        fn send(&mut self, _: BorrowedFd<'_>, pid: u32, signal: i32) -> io::Result<()> {
            if let Some(errno) = self.refuse.get(&pid) {
                return Err(io::Error::from_raw_os_error(*errno));
            }
            self.sent.push((pid, signal));
            Ok(())
        }
    }

    fn recorder(starts: &[(u32, u64)]) -> Recorder {
        Recorder { starts: starts.iter().copied().collect(), ..Recorder::default() }
    }

    fn target(pid: u32, start: u64, spare: Spare) -> Target {
        Target { key: ProcKey { pid, start }, spare }
    }

    fn job() -> Job {
        let mut job = Job::with_room(8);
        job.begin(Moment(0), libc::SIGKILL);
        job
    }

    #[test]
    fn who_is_asked_to_finish_keeps_its_children_until_the_last_rung() {
        let mut signals = recorder(&[(10, 100), (11, 110)]);
        let mut job = Job::with_room(8);
        job.begin(Moment(0), libc::SIGQUIT);
        let sent =
            job.add(&mut signals, &[target(10, 100, Spare::No), target(11, 110, Spare::Later)]);
        assert_eq!((sent, &signals.sent[..]), (1, &[(10, libc::SIGQUIT)][..]));
        assert!(job.asks() && !job.main_is_dead());
        job.expire(Moment(60_000_000), &mut signals);
        assert_eq!(signals.sent.len(), 1, "time alone ends nobody");
        job.died(Moment(1), 0);
        assert!(!job.main_is_dead(), "what it has started is of its tree");
        job.escalate(&mut signals, libc::SIGKILL);
        assert_eq!(signals.sent[1..], [(11, libc::SIGKILL)]);
        job.died(Moment(2), 1);
        assert!(job.main_is_dead() && !job.asks());
    }

    #[test]
    fn a_reused_pid_is_never_signalled() {
        let mut signals = recorder(&[(10, 100), (11, 999)]);
        let mut job = job();
        let sent = job.add(
            &mut signals,
            &[target(10, 100, Spare::No), target(11, 101, Spare::No), target(12, 102, Spare::No)],
        );
        assert_eq!(sent, 1);
        assert_eq!(signals.sent, [(10, libc::SIGKILL)]);
        assert_eq!(job.members()[1].standing, Standing::Gone);
        assert_eq!(job.members()[2].standing, Standing::Gone);
    }

    #[test]
    fn a_late_child_with_the_pid_of_a_dead_one_is_signalled_as_well() {
        let mut signals = recorder(&[(10, 100)]);
        let mut job = job();
        let first = target(10, 100, Spare::No);
        assert_eq!(job.add(&mut signals, &[first, first]), 1, "once is enough");
        job.died(Moment(1), 0);
        signals.starts.insert(10, 200);
        let late = target(10, 200, Spare::No);
        assert!(job.knows(first.key) && !job.knows(late.key));
        assert_eq!(job.add(&mut signals, &[late]), 1);
    }

    #[test]
    fn parents_are_signalled_before_their_children() {
        let mut signals = recorder(&[(30, 1), (20, 2), (10, 3)]);
        job().add(
            &mut signals,
            &[target(30, 1, Spare::No), target(20, 2, Spare::No), target(10, 3, Spare::No)],
        );
        let order: Vec<u32> = signals.sent.iter().map(|(pid, _)| *pid).collect();
        assert_eq!(order, [30, 20, 10]);
    }

    #[test]
    fn a_tracker_outlives_the_rest_by_its_time_and_no_longer() {
        let mut signals = recorder(&[(10, 1), (11, 2)]);
        let mut job = job();
        job.add(&mut signals, &[target(10, 1, Spare::No), target(11, 2, Spare::Tracker)]);
        assert_eq!(signals.sent, [(10, libc::SIGKILL)]);
        assert!(!job.main_is_dead());
        job.died(Moment(50_000), 0);
        assert!(job.main_is_dead() && job.trackers_left());
        job.expire(Moment(3_000_000), &mut signals);
        assert_eq!(signals.sent.len(), 1, "its three seconds start when the rest is dead");
        job.expire(Moment(3_050_000), &mut signals);
        assert_eq!(signals.sent[1], (11, libc::SIGKILL));
        job.died(Moment(3_060_000), 1);
        assert!(!job.trackers_left());
    }

    #[test]
    fn who_cannot_be_heard_is_asked_and_nobody_else() {
        let mut signals = recorder(&[(10, 1), (11, 2)]);
        let mut job = job();
        job.add(&mut signals, &[target(10, 1, Spare::No), target(11, 2, Spare::No)]);
        job.unheard(1);
        job.ask_unheard(Moment(1), |_| false);
        assert_eq!(job.members()[1].standing, Standing::Signalled);
        job.ask_unheard(Moment(2), |_| true);
        let standing = job.members().iter().map(|m| m.standing);
        assert_eq!(standing.collect::<Vec<_>>(), [Standing::Signalled, Standing::Dead]);
        job.died(Moment(3), 0);
        assert_eq!(job.dead_at(), Some(Moment(3)));
    }

    #[test]
    fn an_unread_process_is_spared_until_it_is_read_or_its_time_is_over() {
        let mut signals = recorder(&[(10, 1), (11, 2), (12, 3), (13, 4)]);
        let mut job = job();
        let unread = [11, 12, 13].map(|pid| target(pid, u64::from(pid) - 9, Spare::Unread));
        job.add(&mut signals, &unread);
        assert_eq!(signals.sent, []);
        job.settle_unread(&mut signals, unread[0].key, true);
        job.settle_unread(&mut signals, unread[1].key, false);
        assert_eq!(signals.sent, [(12, libc::SIGKILL)]);
        job.expire(Moment(60_000), &mut signals);
        assert_eq!(signals.sent[1..], [(13, libc::SIGKILL)], "the tracker is still spared");
    }

    #[test]
    fn no_more_than_four_claim_to_be_trackers() {
        let starts: Vec<(u32, u64)> = (10..16).map(|pid| (pid, 1)).collect();
        let mut signals = recorder(&starts);
        let mut job = job();
        for pid in 10..16 {
            let unread = target(pid, 1, Spare::Unread);
            job.add(&mut signals, &[unread]);
            job.settle_unread(&mut signals, unread.key, true);
        }
        assert_eq!(job.trackers(), 4);
        assert_eq!(signals.sent.len(), 2);
    }

    #[test]
    fn a_refusal_is_kept_with_its_errno_and_does_not_hold_up_the_rest() {
        let mut signals = recorder(&[(10, 1), (11, 2)]);
        signals.refuse.insert(10, libc::EPERM);
        let mut job = job();
        let sent = job.add(&mut signals, &[target(10, 1, Spare::No), target(11, 2, Spare::No)]);
        assert_eq!(sent, 1);
        assert_eq!(job.members()[0].standing, Standing::Refused(libc::EPERM));
    }

    /// What the kernel had no room for once is tried again, and only that.
    #[test]
    fn whoever_was_refused_is_tried_again_and_is_no_dead_one() {
        let mut signals = recorder(&[(10, 1), (11, 2), (12, 3)]);
        signals.refuse.insert(10, libc::ENOMEM);
        signals.unreadable.insert(11, libc::EMFILE);
        let mut job = job();
        let targets = [(10, 1), (11, 2), (12, 3)].map(|(pid, at)| target(pid, at, Spare::No));
        assert_eq!(job.add(&mut signals, &targets), 1);
        let standing = |job: &Job| job.members().iter().map(|m| m.standing).collect::<Vec<_>>();
        let refused = [Standing::Refused(libc::ENOMEM), Standing::Refused(libc::EMFILE)];
        assert_eq!(standing(&job)[..2], refused, "what is not known is not gone");
        job.again(&mut signals, |at| panic!("{at} was reached"));
        assert_eq!(standing(&job)[..2], refused);
        signals.refuse.clear();
        signals.unreadable.clear();
        // Somebody else has that pid by now.
        signals.starts.insert(11, 9);
        job.died(Moment(1), 2);
        assert!(job.main_is_dead());
        let mut reached = Vec::new();
        job.again(&mut signals, |at| reached.push(at));
        assert_eq!(reached, [0]);
        assert!(!job.main_is_dead());
        assert_eq!(standing(&job), [Standing::Signalled, Standing::Gone, Standing::Dead]);
        let pids: Vec<u32> = signals.sent.iter().map(|(pid, _)| *pid).collect();
        assert_eq!(pids, [12, 10]);
    }

    #[test]
    fn who_left_before_a_signal_is_not_counted_as_signalled() {
        let mut signals = recorder(&[(10, 1), (11, 2), (12, 3)]);
        let mut job = job();
        let spared = [target(11, 2, Spare::Tracker), target(12, 3, Spare::Unread)];
        job.add(&mut signals, &[target(10, 1, Spare::No), spared[0], spared[1]]);
        (0..3).for_each(|at| drop(job.died(Moment(1), at)));
        assert_eq!((job.signalled(), signals.sent.len()), (1, 1));
        assert!(job.main_is_dead() && !job.trackers_left());
    }

    #[test]
    fn a_tree_larger_than_the_descriptor_table_is_signalled_in_parts() {
        let starts: Vec<(u32, u64)> = (1..=20).map(|pid| (pid, 7)).collect();
        let mut signals = recorder(&starts);
        signals.room = Some(6);
        let targets: Vec<Target> = (1..=20).map(|pid| target(pid, 7, Spare::No)).collect();
        assert_eq!(job().add(&mut signals, &targets), 20);
        assert_eq!(signals.sent.len(), 20);
    }

    #[test]
    fn the_next_rung_reaches_those_that_are_left() {
        let mut signals = recorder(&[(10, 1), (11, 2)]);
        let mut job = job();
        job.begin(Moment(0), libc::SIGTERM);
        job.add(&mut signals, &[target(10, 1, Spare::No), target(11, 2, Spare::No)]);
        job.died(Moment(1), 0);
        job.escalate(&mut signals, libc::SIGKILL);
        assert_eq!(signals.sent, [(10, libc::SIGTERM), (11, libc::SIGTERM), (11, libc::SIGKILL)]);
    }
}
