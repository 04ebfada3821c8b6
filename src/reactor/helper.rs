//! The helper threads: whatever may block is done here, and the loop is woken with the answer.
//! The reader reads files of processes that may be throttled; the worker lowers tripwires, talks
//! to PID 1, releases memory, closes triggers. Two, because a reader that hangs on a throttled
//! process must not hold up the worker, and the other way round; the describer asks engines. What
//! only those wait for who ask over HTTP has a thread that is there while somebody asks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::inside::Heard;
use super::message::Kept;
use crate::act::message::Told;
use crate::act::tripwire;
use crate::facts::{Field, Limit, Why};
use crate::host::container::{self, Container, Sources};
use crate::host::discover::Found;
use crate::host::procs;
use crate::ids::{EpisodeId, ProcKey, WatchId};
use crate::observe::tail::{self, Whose};
use crate::policy::episode::Notice;
use crate::policy::identity::Identity;
use crate::roots::{Buffer, Roots};
use crate::runtime::jupyter;
use crate::units::Bytes;

/// The threads read into a heap buffer and recurse nowhere.
const STACK: usize = 128 * 1024;
/// How long the freezer may take: it waits for tasks to reach a safe point.
const FREEZE_TIME: Duration = Duration::from_millis(100);

/// Threads that close triggers at a stop.
const CLOSERS: usize = 16;

const IDENTITIES_AT_ONCE: usize = 4;
/// Nobody waits for a kill here: fewer wake-ups of the loop.
const SURVEYED_AT_ONCE: usize = 64;

/// Who asked: the domain of a watch, or the host's.
pub type Asker = Option<WatchId>;

/// Somebody at a door: the place and how often it was taken before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    pub slot: u32,
    pub generation: u32,
}

/// A question to the reader.
#[derive(Debug)]
pub enum Question {
    Identify {
        asker: Asker,
        /// In which it was asked: no later one is driven by the answer.
        episode: Option<EpisodeId>,
        keys: Vec<ProcKey>,
    },
    Pss {
        asker: Asker,
        episode: Option<EpisodeId>,
        keys: Vec<ProcKey>,
        until: Instant,
    },
    /// What a container is called, where its engine had not written it yet; without a watch if it
    /// is ignored for now.
    Describe {
        watch: Option<WatchId>,
        found: Box<Found>,
        sources: Arc<Sources>,
    },
    /// Who these are, for a survey.
    Survey {
        watch: WatchId,
        keys: Vec<ProcKey>,
    },
    /// The newest records of the file at `path`.
    Incidents {
        client: Client,
        path: PathBuf,
        limit: u32,
        whose: Option<Whose>,
    },
    /// Whether these small members of a tree that is being ended are trackers.
    Trackers {
        serial: u32,
        keys: Vec<ProcKey>,
    },
}

/// A piece of work for the worker.
#[derive(Debug)]
pub enum Work {
    /// Put `memory.high` there: `dir` is given where the file is still to be brought there,
    /// `unit` where systemd keeps the value.
    High { watch: WatchId, dir: Option<OwnedFd>, value: Limit, unit: Option<String> },
    /// process_mrelease of processes that were signalled.
    Release(Vec<OwnedFd>),
    /// Freeze for the last sweep, and say when it is frozen or will not be.
    Freeze { serial: u32, dir: OwnedFd },
    /// Close descriptors whose closing waits for the kernel.
    Close(Vec<OwnedFd>),
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// Whoever could not be read is not in it.
    /// `last`: there is no more to come.
    Identified {
        asker: Asker,
        episode: Option<EpisodeId>,
        read: Vec<Identity>,
        last: bool,
    },
    Pss {
        asker: Asker,
        episode: Option<EpisodeId>,
        pss: Vec<(ProcKey, Field<Bytes>)>,
    },
    Trackers {
        serial: u32,
        read: Vec<(ProcKey, bool)>,
    },
    HighSet {
        watch: WatchId,
        value: Limit,
        result: io::Result<()>,
    },
    /// A notebook was told, or why not; `notice` is `None` of the text that follows the signal.
    Told {
        watch: WatchId,
        key: ProcKey,
        notice: Option<Notice>,
        told: Told,
        kept: Option<Kept>,
    },
    Frozen {
        serial: u32,
    },
    Described {
        watch: Option<WatchId>,
        found: Box<Found>,
        container: Box<Container>,
    },
    Surveyed {
        watch: WatchId,
        read: Vec<Identity>,
        last: bool,
    },
    Incidents {
        client: Client,
        body: io::Result<Vec<u8>>,
    },
    /// What processes are at work on. `last`: there is no more to come.
    Heard {
        asker: Asker,
        heard: Vec<Heard>,
        last: bool,
    },
}

/// The loop's end.
pub struct Helper {
    reader: Sender<Question>,
    /// Describes containers: an engine's socket or a user's home may keep it waiting for long.
    describer: Sender<Question>,
    /// Reads for those who ask over HTTP; there while somebody asks.
    slow: Option<Sender<Question>>,
    roots: Arc<Roots>,
    worker: Option<Sender<Work>>,
    answers: Receiver<Answer>,
    reply: Reply,
    thread: Option<JoinHandle<()>>,
    /// The daemon stops: values still waiting are dropped.
    ends: Arc<AtomicBool>,
}

impl Helper {
    /// Starts both threads. They end when the `Helper` is dropped.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(roots: &Arc<Roots>, tool: PathBuf, waker: mio::Waker) -> io::Result<Helper> {
        let (reader, questions) = channel();
        let (describer, descriptions) = channel();
        let (worker, work) = channel();
        let (back, answers) = channel();
        let waker = Arc::new(waker);
        let reply = Reply { back: back.clone(), waker: Arc::clone(&waker) };
        let own = Arc::clone(roots);
        thread::Builder::new()
            .name("reader".into())
            .stack_size(STACK)
            .spawn(move || read_all(&questions, &own, &reply))?;
        let reply = Reply { back: back.clone(), waker: Arc::clone(&waker) };
        let own = Arc::clone(roots);
        thread::Builder::new()
            .name("describer".into())
            .stack_size(STACK)
            .spawn(move || read_all(&descriptions, &own, &reply))?;
        let own = Reply { back, waker };
        let reply = own.clone();
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = thread::Builder::new()
            .name("worker".into())
            .stack_size(STACK)
            .spawn(move || work_all(&work, &tool, &reply, &seen))?;
        Ok(Helper {
            reader,
            describer,
            slow: None,
            roots: Arc::clone(roots),
            reply: own,
            worker: Some(worker),
            answers,
            thread: Some(thread),
            ends,
        })
    }

    pub fn ask(&self, question: Question) {
        let thread = match &question {
            Question::Describe { .. } => &self.describer,
            _ => &self.reader,
        };
        // A thread that is gone panicked, and in a release build so did the daemon.
        let _ = thread.send(question);
    }

    /// Asks the thread that only HTTP waits for, and starts it where it is not there. `false`: it
    /// could not be started, and nobody will answer.
    pub fn ask_slowly(&mut self, question: Question) -> bool {
        if self.slow.is_none() {
            let (sender, questions) = channel();
            let (roots, reply) = (Arc::clone(&self.roots), self.reply.clone());
            let started = thread::Builder::new()
                .name("slow".into())
                .stack_size(STACK)
                .spawn(move || read_all(&questions, &roots, &reply));
            if started.is_err() {
                return false;
            }
            self.slow = Some(sender);
        }
        self.slow.as_ref().is_some_and(|slow| slow.send(question).is_ok())
    }

    /// Nobody asks any more: the thread ends when it has answered what it was asked.
    pub fn rest(&mut self) {
        self.slow = None;
    }

    pub fn give(&self, work: Work) {
        if let Some(worker) = &self.worker {
            let _ = worker.send(work);
        }
    }

    /// Lets the worker end its present piece of work and drop the rest: at a clean stop no older
    /// value may reach systemd after the original one.
    pub fn finish(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.worker = None;
        if let Some(thread) = self.thread.take() {
            // The longest piece is a property, which has a time-out of its own.
            let _ = thread.join();
        }
    }

    /// For threads that are started for one piece of work.
    pub fn reply(&self) -> Reply {
        self.reply.clone()
    }

    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

/// The way back to the loop.
#[derive(Clone)]
pub struct Reply {
    back: Sender<Answer>,
    waker: Arc<mio::Waker>,
}

impl Reply {
    pub fn give(&self, answer: Answer) {
        let _ = self.back.send(answer);
        let _ = self.waker.wake();
    }
}

fn read_all(questions: &Receiver<Question>, roots: &Roots, reply: &Reply) {
    let mut buffer = Buffer::new();
    while let Ok(question) = questions.recv() {
        match question {
            Question::Identify { asker, episode, keys } => {
                let now = jupyter::boot_ticks();
                // Handed over in parts: one throttled process must not hold up what is known of
                // the others.
                for part in keys.chunks(IDENTITIES_AT_ONCE) {
                    let read = part
                        .iter()
                        .filter_map(|key| jupyter::identify(roots, *key, now, &mut buffer).ok())
                        .collect();
                    reply.give(Answer::Identified { asker, episode, read, last: false });
                }
                reply.give(Answer::Identified { asker, episode, read: Vec::new(), last: true });
            }
            Question::Pss { asker, episode, keys, until } => {
                let mut pss = Vec::with_capacity(keys.len());
                for key in keys {
                    let value = if Instant::now() >= until {
                        Field::Unknown(Why::TimedOut)
                    } else {
                        procs::read_pss(roots, key.pid, &mut buffer)
                    };
                    pss.push((key, value));
                }
                reply.give(Answer::Pss { asker, episode, pss });
            }
            Question::Describe { watch, found, sources } => {
                let container = Box::new(container::describe(roots, &found, &sources));
                reply.give(Answer::Described { watch, found, container });
            }
            Question::Survey { watch, keys } => {
                let now = jupyter::boot_ticks();
                for part in keys.chunks(SURVEYED_AT_ONCE) {
                    let read = part
                        .iter()
                        .filter_map(|key| jupyter::identify(roots, *key, now, &mut buffer).ok())
                        .collect();
                    reply.give(Answer::Surveyed { watch, read, last: false });
                }
                reply.give(Answer::Surveyed { watch, read: Vec::new(), last: true });
            }
            Question::Incidents { client, path, limit, whose } => {
                let body = tail::incidents(&path, limit, whose.as_ref());
                reply.give(Answer::Incidents { client, body });
            }
            Question::Trackers { serial, keys } => {
                let now = jupyter::boot_ticks();
                let read = keys
                    .into_iter()
                    .map(|key| {
                        let identity = jupyter::identify(roots, key, now, &mut buffer);
                        (key, identity.is_ok_and(|i| i.is_tracker()))
                    })
                    .collect();
                reply.give(Answer::Trackers { serial, read });
            }
        }
    }
}

/// A value that stands in its file and that systemd is still to be told.
struct Property {
    watch: WatchId,
    unit: String,
    value: Limit,
}

fn work_all(work: &Receiver<Work>, tool: &Path, reply: &Reply, ends: &AtomicBool) {
    let mut queue = VecDeque::new();
    // Told together: a process for each would be hundreds when a host starts.
    let mut properties: Vec<Property> = Vec::new();
    loop {
        queue.extend(work.try_iter());
        let item = match next(&mut queue) {
            Some(item) => item,
            None if !properties.is_empty() => {
                tell(&mut properties, tool, reply, ends);
                continue;
            }
            None => match work.recv() {
                Ok(item) => item,
                Err(_) => return,
            },
        };
        match item {
            Work::High { watch, dir, value, unit } => {
                // Only the newest value of a group is worth stepping down to, and the way to PID 1.
                if let Some(at) = properties.iter().position(|p| p.watch == watch) {
                    let Property { watch, value, .. } = properties.swap_remove(at);
                    reply.give(Answer::HighSet { watch, value, result: Ok(()) });
                }
                let newer =
                    |later: &Work| matches!(later, Work::High { watch: w, .. } if *w == watch);
                let mut is_wanted = || {
                    queue.extend(work.try_iter());
                    !ends.load(Ordering::Acquire) && !queue.iter().any(newer)
                };
                let result = bring_to(dir.as_ref(), value, &mut is_wanted);
                match unit {
                    Some(unit) if result.is_ok() && is_wanted() => {
                        properties.push(Property { watch, unit, value });
                    }
                    _ => reply.give(Answer::HighSet { watch, value, result }),
                }
                if properties.len() == tripwire::PROPERTIES_AT_ONCE {
                    tell(&mut properties, tool, reply, ends);
                }
            }
            Work::Release(pidfds) => {
                for pidfd in &pidfds {
                    // ESRCH, EINVAL: it was faster than we; EAGAIN: the exit does the rest.
                    let _ = crate::sys::pidfd::release(pidfd.as_fd());
                }
            }
            Work::Freeze { serial, dir } => {
                wait_frozen(dir.as_fd());
                reply.give(Answer::Frozen { serial });
            }
            Work::Close(fds) => drop(fds),
        }
    }
}

/// The dead first: somebody waits for their memory.
fn next(queue: &mut VecDeque<Work>) -> Option<Work> {
    let urgent = |item: &Work| matches!(item, Work::Release(_) | Work::Freeze { .. });
    let at = queue.iter().position(urgent).unwrap_or(0);
    queue.remove(at)
}

/// Brings `memory.high` itself where it is wanted; not on, once it is no longer.
fn bring_to(
    dir: Option<&OwnedFd>,
    value: Limit,
    mut is_wanted: impl FnMut() -> bool,
) -> io::Result<()> {
    match (dir, value) {
        _ if !is_wanted() => Ok(()),
        (Some(dir), Limit::At(target)) => tripwire::step_down(dir.as_fd(), target, is_wanted),
        (Some(dir), Limit::Max) => tripwire::write_high(dir.as_fd(), value),
        (None, _) => Ok(()),
    }
}

fn tell(properties: &mut Vec<Property>, tool: &Path, reply: &Reply, ends: &AtomicBool) {
    let results = if ends.load(Ordering::Acquire) {
        Vec::new()
    } else {
        let values: Vec<_> = properties.iter().map(|p| (p.unit.clone(), p.value)).collect();
        tripwire::set_properties(tool, &values)
    };
    let results = results.into_iter().chain(std::iter::repeat_with(|| Ok(())));
    for (Property { watch, value, .. }, result) in properties.drain(..).zip(results) {
        reply.give(Answer::HighSet { watch, value, result });
    }
}

/// Closes at the end what waits for the kernel: each trigger for an RCU grace period, which hundreds
/// of containers one after the other make many seconds in which nobody guards (Linux,
/// `psi_trigger_destroy`). Those who wait at the same time wait together.
pub fn drop_together<T: Send>(mut all: Vec<T>) {
    let share = all.len().div_ceil(CLOSERS).max(1);
    thread::scope(|scope| {
        while !all.is_empty() {
            let some = all.split_off(all.len().saturating_sub(share));
            // What no thread could be started for is closed here.
            let _ =
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || drop(some));
        }
    });
}

/// Waits until `cgroup.events` says `frozen 1`, not longer than [`FREEZE_TIME`]: a task in
/// uninterruptible sleep does not freeze, and the sweep is made all the same.
pub(super) fn wait_frozen(dir: BorrowedFd<'_>) {
    let until = Instant::now() + FREEZE_TIME;
    let mut buffer = Buffer::new();
    while Instant::now() < until {
        match buffer.read_record(dir, c"cgroup.events") {
            Ok(text) if text.windows(8).any(|w| w == b"frozen 1") => return,
            Err(error) if tripwire::is_gone(&error.into()) => return,
            // Whoever cannot be asked now may say so yet.
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WatchId;
    use std::fs::{self, File};

    fn ends_of_a_worker() -> (Reply, Receiver<Answer>) {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let (back, answers) = channel();
        (Reply { back, waker }, answers)
    }

    #[test]
    fn who_cannot_be_asked_whether_it_is_frozen_is_asked_again() {
        let dir = std::env::temp_dir().join(format!("nbguard-frozen-{}", std::process::id()));
        let events = dir.join("cgroup.events");
        // A directory cannot be read (EISDIR).
        fs::create_dir_all(&events).unwrap();
        let opened = File::open(&dir).unwrap();
        let is_frozen = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(FREEZE_TIME / 10);
                is_frozen.store(true, Ordering::Release);
                fs::remove_dir(&events).unwrap();
                fs::write(&events, "populated 1\nfrozen 1\n").unwrap();
            });
            wait_frozen(opened.as_fd());
            assert!(is_frozen.load(Ordering::Acquire));
        });
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn systemd_is_told_of_many_at_once_and_refuses_each_for_itself() {
        let dir = std::env::temp_dir().join(format!("nbguard-told-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let tool = dir.join("tool");
        let calls = dir.join("calls");
        let script = format!(
            "#!/bin/sh\nshift\necho $# >> {}\necho u7.scope: refused\nexit 1\n",
            calls.display()
        );
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let (reply, answers) = ends_of_a_worker();
        let (give, work) = channel();
        let to = |slot, value| Work::High {
            watch: WatchId { slot, generation: 0 },
            dir: None,
            value: Limit::At(Bytes(value)),
            unit: Some(format!("u{slot}.scope")),
        };
        // One more than fit into a call; the last one's first value is overtaken.
        for slot in 0..=u32::try_from(tripwire::PROPERTIES_AT_ONCE).unwrap() {
            give.send(to(slot, 1)).unwrap();
        }
        give.send(to(0, 2)).unwrap();
        drop(give);
        work_all(&work, &tool, &reply, &AtomicBool::new(false));
        assert_eq!(fs::read_to_string(&calls).unwrap(), "32\n1\n");
        let mut refused = Vec::new();
        let mut answered = 0;
        while let Ok(Answer::HighSet { watch, result, .. }) = answers.try_recv() {
            answered += 1;
            refused.extend(result.err().map(|error| (watch.slot, error.to_string())));
        }
        assert_eq!((answered, refused), (34, vec![(7, "refused".to_owned())]));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_dropped_together_is_closed_whole() {
        for count in [0, 1, CLOSERS - 1, 3 * CLOSERS + 1] {
            let pipes = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
            let (read, write): (Vec<_>, Vec<_>) = (0..count).map(|_| pipes()).unzip();
            drop_together(write);
            for end in read {
                assert_eq!(nix::unistd::read(&end, &mut [0; 1]), Ok(0), "of {count}");
            }
        }
    }

    #[test]
    fn the_dead_come_before_what_waits_for_systemd() {
        let high = |slot| Work::High {
            watch: WatchId { slot, generation: 0 },
            dir: None,
            value: Limit::Max,
            unit: None,
        };
        let mut queue = VecDeque::from([high(0), high(1), Work::Release(Vec::new()), high(2)]);
        assert!(matches!(next(&mut queue), Some(Work::Release(_))));
        for slot in 0..3 {
            let found = next(&mut queue);
            assert!(matches!(found, Some(Work::High { watch, .. }) if watch.slot == slot));
        }
        assert!(next(&mut queue).is_none());
    }

    #[test]
    fn a_newer_value_ends_the_way_down_to_an_older_one() {
        let dir = std::env::temp_dir().join(format!("nbguard-worker-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        // So far away from the target that the way takes minutes.
        fs::write(dir.join("memory.current"), "9000000000000000").unwrap();
        let high = dir.join("memory.high");
        fs::write(&high, "").unwrap();
        let (reply, answers) = ends_of_a_worker();
        let (give, work) = channel();
        let ends = AtomicBool::new(false);
        let watch = WatchId { slot: 0, generation: 0 };
        let to = |dir, value| Work::High { watch, dir, value: Limit::At(value), unit: None };
        give.send(to(Some(File::open(&dir).unwrap().into()), Bytes(1_000_000_000_000_000)))
            .unwrap();
        let seen = &ends;
        let answered = thread::scope(|scope| {
            scope.spawn(move || work_all(&work, std::path::Path::new("/nowhere"), &reply, seen));
            while fs::read_to_string(&high).unwrap().is_empty() {
                thread::yield_now();
            }
            give.send(to(None, Bytes(2))).unwrap();
            let patience = Duration::from_secs(20);
            let answered = [0, 1].map(|_| answers.recv_timeout(patience));
            seen.store(true, Ordering::Release);
            drop(give);
            answered
        });
        for answer in answered {
            assert!(matches!(answer, Ok(Answer::HighSet { result: Ok(()), .. })), "{answer:?}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
