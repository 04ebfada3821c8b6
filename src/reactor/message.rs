//! Telling notebooks: whom, what, and a thread that does it. A pipe of somebody's may keep its
//! writer waiting (its lock, not its room), so nothing of it is touched in the loop: a thread is
//! started for each text, and ends with it. The signal of a kill waits for none of this.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ::log::debug;
use mio::Interest;

use super::Reactor;
use super::helper::{Answer, Asker};
use super::token::For;
use crate::act::message::{Place, Skip, Stderr, Told};
use crate::config::Signal;
use crate::host::procs;
use crate::ids::{ProcKey, WatchId};
use crate::parse::escape::escape;
use crate::parse::template::{self, LATER, RUNNING_MAX, Values};
use crate::policy::decide::{Kill, Verdict, View};
use crate::policy::episode::Notice;
use crate::report::Incident;
use crate::roots::{Buffer, Roots};
use crate::sys::{pidfd, pipe};
use crate::units::{Bytes, Moment, Share};

/// It lists a directory and formats a line.
const STACK: usize = 64 * 1024;
/// Threads at once. Whoever holds up his own pipe holds up no more than two of them.
const THREADS_MAX: usize = 8;
const THREADS_OF_ONE: usize = 2;
/// A text waits for what its notebook runs no longer than this: it is a warning.
const RUNNING_TIME: Duration = Duration::from_millis(300);
/// The same notebook is not told the same again before this, however usage goes up and down.
const AGAIN: Duration = Duration::from_secs(60);
/// Texts that are remembered for that.
const RECENT_MAX: usize = 128;

/// What is kept over all domains.
#[derive(Default)]
pub(super) struct Messages {
    threads: Arc<AtomicUsize>,
    /// Whose notebooks the threads tell. Of the container, not of the rise: a rise ends, a
    /// notebook goes and another comes, and whoever holds up a thread holds it up all the same.
    out: Vec<WatchId>,
    recent: VecDeque<(ProcKey, Notice, Moment)>,
    /// Pipes that no thread could be had for to close them.
    left: Vec<Stderr>,
}

impl Messages {
    fn is_new(&mut self, key: ProcKey, notice: Notice, now: Moment) -> bool {
        self.recent.retain(|(.., at)| now.since(*at) < AGAIN);
        if self.recent.iter().any(|(known, told, _)| *known == key && *told == notice) {
            return false;
        }
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((key, notice, now));
        true
    }

    /// Does it on a thread of its own. `false`: there are too many already.
    fn start(&self, work: impl FnOnce() + Send + 'static) -> bool {
        self.has_room() && self.start_anyway(work)
    }

    fn start_anyway(&self, work: impl FnOnce() + Send + 'static) -> bool {
        self.threads.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(&self.threads));
        let named = thread::Builder::new().name("message".into()).stack_size(STACK);
        // One that could not be started has dropped its work, and the count with it.
        named
            .spawn(move || {
                work();
                drop(counted);
            })
            .is_ok()
    }

    fn has_room(&self) -> bool {
        self.threads.load(Ordering::Acquire) < THREADS_MAX
    }

    /// Whether one more thread may tell somebody of this container.
    fn has_room_for(&self, id: WatchId) -> bool {
        self.out.iter().filter(|of| **of == id).count() < THREADS_OF_ONE
    }

    /// A thread has answered.
    fn is_back(&mut self, id: WatchId) {
        if let Some(at) = self.out.iter().position(|of| *of == id) {
            self.out.swap_remove(at);
        }
    }

    /// Lets go of pipes, off the loop.
    fn close(&mut self, stderr: Option<Stderr>) {
        self.left.extend(stderr);
        // One more than write: whoever reads these waits for their end.
        if self.left.is_empty() || self.threads.load(Ordering::Acquire) > THREADS_MAX {
            return;
        }
        let left = std::mem::take(&mut self.left);
        self.start_anyway(move || drop(left));
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who was told in this rise of a domain, the last one.
#[derive(Debug)]
pub(super) struct Rise {
    key: ProcKey,
    /// What came of the last text; `None`: the thread has not answered yet.
    told: Option<Told>,
    kept: Option<Kept>,
}

/// Where the last text can go.
#[derive(Debug)]
pub(super) struct Kept {
    /// When it exits the pipe is let go of: whoever reads it waits for its end.
    process: OwnedFd,
    stderr: Stderr,
}

impl Reactor {
    /// Tells the notebook that would end, if there is one that matters.
    pub(super) fn tell(&mut self, who: Asker, notice: Notice) {
        let Some(id) = who else { return };
        let text = match notice {
            Notice::Warning => &self.config.message.warning,
            Notice::LastCall => &self.config.message.last_call,
        };
        // Of somebody who is being ended nothing more is foretold.
        let ends = matches!(self.scratch.verdict, Some(Verdict::Kill(_)));
        if text.is_empty() || ends {
            return;
        }
        let text = text.clone();
        let now = self.now();
        let Some((kill, holds)) = self.would_end(who) else { return };
        // These words are for somebody who looks at a cell; a worker's pipe is its master's log.
        let identity = self.domain(who).and_then(|domain| domain.identities.get(kill.root));
        if identity.is_some_and(|identity| identity.claim.php().is_some()) {
            return;
        }
        if !self.messages.is_new(kill.root, notice, now) {
            return;
        }
        self.ask_evidence(who, kill.root);
        let awaited = self.watch_mut(id).and_then(|watch| {
            let awaited = watch.domain.awaited.as_mut().filter(|a| a.key == kill.root);
            awaited.and_then(|awaited| awaited.running.take())
        });
        let running = match (&awaited, self.evidence(who, kill.root)) {
            (_, Some(evidence)) => evidence.stack.running.clone().unwrap_or_default(),
            (Some(_), None) => LATER.to_owned(),
            (None, None) => String::new(),
        };
        let Some(text) = self.fill(id, &kill, holds, &text, &running) else { return };
        let Some(watch) = self.watch_mut(id) else { return };
        // A process that is killed at once shows nothing any more: only a log has use for a pipe.
        let keep_cell = watch.settings.signals.first() != Some(&Signal::Kill);
        let key = kill.root;
        let rise = &mut watch.domain.rise;
        let mut old = None;
        if rise.as_ref().is_none_or(|rise| rise.key != key) {
            let new = Rise { key, told: None, kept: None };
            old = rise.replace(Box::new(new)).and_then(|rise| rise.kept);
        }
        self.drop_kept(old);
        let reply = self.helper.reply();
        let roots = Arc::clone(&self.roots);
        let started = self.messages.has_room_for(id)
            && self.messages.start(move || {
                let text = match awaited.filter(|_| text.contains(LATER)) {
                    None => text,
                    Some(awaited) => {
                        let running = awaited.recv_timeout(RUNNING_TIME);
                        template::place(&text, &running.unwrap_or_default())
                    }
                };
                let (told, kept) = say(&roots, key, text, keep_cell);
                reply.give(Answer::Told { watch: id, key, notice: Some(notice), told, kept });
            });
        if !started {
            return self.on_told(id, key, Some(notice), Told::Skipped(Skip::Busy), None);
        }
        self.messages.out.push(id);
    }

    /// The signals are out. Where somebody else reads what the process wrote, he is told.
    pub(super) fn tell_ended(&mut self, who: Asker) {
        let (Some(id), Some(Verdict::Kill(kill))) = (who, self.scratch.verdict) else { return };
        let has_room = self.messages.has_room_for(id);
        let holds = self.scratch.ranking.row(kill.workload).map_or(Bytes::ZERO, |row| row.figure());
        let Some(rise) = self.watch_mut(id).and_then(|watch| watch.domain.rise.as_mut()) else {
            return;
        };
        if rise.key != kill.root || !has_room {
            return;
        }
        let Some(kept) = rise.kept.take() else { return };
        self.deregister(kept.process.as_raw_fd());
        let key = kill.root;
        let text = self.config.message.ended.clone();
        let filled = match text.is_empty() {
            true => None,
            false => {
                let evidence = self.evidence(who, key);
                let running = evidence.and_then(|evidence| evidence.stack.running.clone());
                self.fill(id, &kill, holds, &text, &running.unwrap_or_default())
            }
        };
        let Some(text) = filled.filter(|_| self.messages.has_room()) else {
            return self.messages.close(Some(kept.stderr));
        };
        let reply = self.helper.reply();
        let started = self.messages.start(move || {
            let told = kept.stderr.put(&laid_out(text, kept.stderr.place));
            drop(kept);
            reply.give(Answer::Told { watch: id, key, notice: None, told, kept: None });
        });
        if !started {
            return self.on_told(id, key, None, Told::Skipped(Skip::Busy), None);
        }
        self.messages.out.push(id);
    }

    fn fill(
        &self,
        id: WatchId,
        kill: &Kill,
        holds: Bytes,
        text: &str,
        running: &str,
    ) -> Option<String> {
        let watch = self.watch(id)?;
        let workload = self.scratch.forest.workloads().get(kill.workload as usize)?;
        let view = View::of(workload, &watch.domain.identities);
        let root = self.scratch.procs.get(workload.root_index as usize)?;
        let process;
        let notebook = match view.notebook.or(view.kernel_id) {
            Some(name) => name,
            None => {
                process = format!("process {} ({})", root.key.pid, escape(root.comm.bytes(), 64));
                &process
            }
        };
        // What the steps count: page cache would make it look nearer to its end than it is.
        let usage = self.scratch.figures.as_ref()?.unreclaimable();
        let total = watch.steps.total;
        let share = Share::of(usage, total).unwrap_or(Share::ZERO);
        let values = Values {
            notebook,
            container: watch.name(),
            memory: &holds.to_string(),
            share: &Share(share.0 / 100 * 100).to_string(),
            usage: &usage.to_string(),
            total: &total.to_string(),
            threshold: &watch.settings.threshold.to_string(),
            warning: &watch.settings.warning.to_string(),
            running,
        };
        // A byte is left for the line break before it, and room for what is still to come.
        let later = if running == LATER { RUNNING_MAX } else { 0 };
        Some(template::fill(text, &values, pipe::WHOLE - 1 - later))
    }

    /// A thread has answered.
    pub(super) fn on_thread_told(
        &mut self,
        id: WatchId,
        key: ProcKey,
        notice: Option<Notice>,
        told: Told,
        kept: Option<Kept>,
    ) {
        self.messages.is_back(id);
        self.messages.close(None);
        self.on_told(id, key, notice, told, kept);
    }

    /// What came of a text.
    fn on_told(
        &mut self,
        id: WatchId,
        key: ProcKey,
        notice: Option<Notice>,
        told: Told,
        kept: Option<Kept>,
    ) {
        self.count_message(told.word());
        let what = notice.map_or("ended", Notice::as_str);
        let name = self.watch(id).map_or("", |watch| watch.name());
        // Usage may go up and down as often as a container likes: the journal is not told each time.
        debug!("{name:?}: pid={} {what}: {told}", key.pid);
        let rise = self.watch_mut(id).and_then(|watch| watch.domain.rise.as_mut());
        let Some(rise) = rise.filter(|rise| rise.key == key) else { return self.drop_kept(kept) };
        // The last word is what counts, unless it came too late for anybody to read it.
        let was_written = matches!(rise.told, Some(Told::Written(_)));
        if !(was_written && matches!(told, Told::Skipped(_))) {
            rise.told = Some(told);
        }
        let Some(kept) = kept else { return };
        let process = kept.process.as_raw_fd();
        let old = rise.kept.replace(kept);
        self.drop_kept(old);
        if self.register(process, For::Told(id), Interest::READABLE).is_err() {
            self.let_go_of_rise(id);
        }
    }

    /// Whoever was told has exited, or its pipe is of no use any more.
    pub(super) fn let_go_of_rise(&mut self, id: WatchId) {
        let rise = self.watch_mut(id).and_then(|watch| watch.domain.rise.as_mut());
        let kept = rise.and_then(|rise| rise.kept.take());
        self.drop_kept(kept);
    }

    /// Usage is low again, the episode is over, or the container is gone.
    pub(super) fn end_rise(&mut self, who: Asker) {
        self.forget_stat_files(who);
        let Some(domain) = self.domain_mut(who) else { return };
        (domain.evidence, domain.awaited) = (None, None);
        let kept = domain.rise.take().and_then(|rise| rise.kept);
        self.drop_kept(kept);
    }

    fn drop_kept(&mut self, kept: Option<Kept>) {
        if let Some(kept) = kept {
            self.deregister(kept.process.as_raw_fd());
            self.messages.close(Some(kept.stderr));
        }
    }

    /// What the record of a kill says of it.
    pub(super) fn message_of(&self, who: Asker, incident: &Incident) -> Told {
        let (Some(victim), Some(settings)) = (&incident.victim, self.settings(who)) else {
            return Told::Skipped(Skip::NobodyEnded);
        };
        if incident.dry_run {
            return Told::Skipped(Skip::DryRun);
        }
        if !settings.message {
            return Told::Skipped(Skip::Off);
        }
        let rise = self.domain(who).and_then(|domain| domain.rise.as_deref());
        let is_it = |rise: &&Rise| {
            let mut rows = incident.rows.iter().filter(|row| row.pid == victim.pid);
            rise.key.pid == victim.pid && rows.any(|row| row.start == rise.key.start)
        };
        match rise.filter(is_it) {
            Some(rise) => rise.told.unwrap_or(Told::Skipped(Skip::Late)),
            None => Told::Skipped(Skip::NotTold),
        }
    }
}

/// Finds the standard error of a process and writes there.
fn say(roots: &Roots, key: ProcKey, text: String, keep_cell: bool) -> (Told, Option<Kept>) {
    let found = || {
        let process = pidfd::open(key.pid).map_err(|_| Skip::Gone)?;
        // Whoever has this start time now that we hold it is whom we hold.
        if procs::start_of(roots, key.pid, &mut Buffer::new()) != Ok(Some(key.start)) {
            return Err(Skip::Gone);
        }
        let stderr = Stderr::of(roots, process.as_fd(), key.pid)?;
        Ok(Kept { process, stderr })
    };
    match found() {
        Ok(kept) => {
            let place = kept.stderr.place;
            let told = kept.stderr.put(&laid_out(text, place));
            let keep = place == Place::Log || keep_cell;
            (told, keep.then_some(kept))
        }
        Err(skip) => (Told::Skipped(skip), None),
    }
}

/// In a cell it begins a line of its own: whatever draws progress there has not ended its last.
fn laid_out(text: String, place: Place) -> String {
    match place {
        Place::Cell => format!("\n{text}"),
        Place::Log => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_notebook_is_told_the_same_once_a_minute() {
        let mut messages = Messages::default();
        let key = |pid| ProcKey { pid, start: 1 };
        let mut told =
            |pid, notice, s: u64| messages.is_new(key(pid), notice, Moment(s * 1_000_000));
        assert!(told(1, Notice::Warning, 0));
        assert!(!told(1, Notice::Warning, 59));
        assert!(told(1, Notice::LastCall, 59) && told(2, Notice::Warning, 59));
        assert!(told(1, Notice::Warning, 60));
        for pid in 0..10_000 {
            told(pid, Notice::Warning, 60);
        }
        assert_eq!(messages.recent.len(), RECENT_MAX);
    }

    #[test]
    fn no_more_threads_than_so_many_however_long_they_take() {
        let messages = Messages::default();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..THREADS_MAX {
            let held = Arc::clone(&held);
            assert!(messages.start(move || {
                let _ = held.lock().unwrap().recv();
            }));
        }
        assert!(!messages.start(|| panic!("one too many")));
        drop(hold);
        while messages.threads.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert!(messages.start(|| {}));
    }

    #[test]
    fn whoever_holds_up_threads_holds_up_no_more_than_two_in_whatever_rise() {
        let mut messages = Messages::default();
        let id = |slot| WatchId { slot, generation: 0 };
        for _ in 0..2 {
            assert!(messages.has_room_for(id(1)));
            messages.out.push(id(1));
        }
        assert!(!messages.has_room_for(id(1)) && messages.has_room_for(id(2)));
        messages.is_back(id(1));
        messages.is_back(id(2));
        assert!(messages.has_room_for(id(1)));
        assert_eq!(messages.out.len(), 1);
    }

    /// Whoever reads a pipe waits for its end, also while all the threads are held up.
    #[test]
    fn pipes_are_let_go_of_while_every_thread_is_held_up() {
        let mut messages = Messages::default();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..THREADS_MAX {
            let held = Arc::clone(&held);
            assert!(messages.start(move || {
                let _ = held.lock().unwrap().recv();
            }));
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = pidfd::open(child.id()).unwrap();
        let stderr = Stderr::of(&Roots::system().unwrap(), process.as_fd(), child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        messages.close(Some(stderr));
        let mut end = Vec::new();
        use std::io::Read;
        child.stderr.take().unwrap().read_to_end(&mut end).unwrap();
        drop(hold);
    }
}
