//! Who is at work and who is not, over several looks: what a tracer's page or a stack from outside
//! said of a process, and what its CPU time says of the time since. Pure: no files, no clock.
//!
//! What a page said of a process holds for as long as it has used no CPU time since and its main
//! thread has not run, and it reaches back no further than the kernel's figures allow: of one that
//! ran between two looks it says nothing about the time before the later, unless it says itself
//! that it was at work in between. What a stack said holds for as long as its main thread has not
//! run: a kernel or a worker that waits for its next
//! cell or request sleeps in one call, however often its other threads wake (ipykernel: 0 context
//! switches in 12 s, and 17 for `1 + 1`, measured). Once it has, it is unknown until somebody looks
//! again, and unknown is never idle. CPU time alone speaks only for what runs no interpreter: a
//! cell may sleep, and so may a request.

use std::collections::HashMap;
use std::time::Duration;

use crate::facts::{Activity, Field, Proc, Source, Why};
use crate::ids::ProcKey;
use crate::policy::identity::Claim;
use crate::units::{Bytes, Moment};

/// Processes remembered for one domain, as many as identities are.
pub const MAX_PROCESSES: usize = super::identity::MAX_IDENTITIES;
/// A text that is kept beside an activity.
pub const MAX_TEXT: usize = 256;
/// Of this many parts of a time, and a tick, one may be CPU time, and a daemon still counts as
/// still.
const STILL_PART: u64 = 2_000;
/// The same of an interpreter whose main thread has not run: what its other threads may use. A
/// kernel's look once in a second whether its parent lives (1 tick in 60 s, measured; 38 where
/// the CPU is emulated); one that computes uses far more.
const CALM_PART: u64 = 100;
/// Shorter than ten ticks a share of CPU time says little.
const SPAN_MIN: Duration = Duration::from_millis(100);
/// USER_HZ: what Linux counts CPU time of processes in, on every architecture that is guarded.
const TICKS_PER_SECOND: u64 = 100;
/// A tick, in microseconds.
pub const TICK_US: u64 = 1_000_000 / TICKS_PER_SECOND;
/// A count belongs to a look that is no further away.
const NEAR: Duration = Duration::from_millis(100);

/// What a process is, as far as its CPU time is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nature {
    /// It runs no interpreter that could be asked: CPU time alone may call it idle.
    Plain,
    /// What waits in a call of a cell uses no CPU time either.
    Kernel,
    /// The same of a request; and a worker that waits for the next uses none at all.
    Php,
}

impl Nature {
    pub fn of(claim: &Claim) -> Nature {
        match claim {
            Claim::Kernel(_) => Nature::Kernel,
            Claim::Php(_) => Nature::Php,
            Claim::Server | Claim::Tracker | Claim::Plain => Nature::Plain,
        }
    }
}

/// What a tracer's page or a stack said, at the moment when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    Busy {
        since: Option<Moment>,
    },
    /// A page knows since when. Of a stack it is the moment of its reading.
    Idle {
        since: Moment,
    },
    Unknown(Why),
}

/// What a process's calls cost, by the count of the tracer in it: its own word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Which count it is: when it was begun, on the tracer's clock.
    pub since: u64,
    /// CPU time of all calls so far, in nanoseconds.
    pub cpu: u64,
    /// What its interpreter holds. `None`: not known.
    pub memory: Option<Bytes>,
}

/// When it was read, and what it was.
type Read = Option<(Moment, Counted)>;

/// The counts of one process that belong to the looks.
#[derive(Clone, Copy, Default)]
struct Counts {
    before: Read,
    at: Read,
    again: Read,
}

/// The activities of one domain's processes.
#[derive(Default)]
pub struct Activities {
    /// `None` until the first look: most containers never need one.
    known: Option<Box<Known>>,
}

#[derive(Default)]
struct Known {
    entries: HashMap<ProcKey, Entry>,
    /// The latest look, and the one before.
    at: Option<Moment>,
    before: Option<Moment>,
    /// The latest look between an event and a signal, if that was after both.
    again: Option<Moment>,
    turn: u32,
}

struct Entry {
    /// At the latest look, which was then.
    ticks: u64,
    at: Moment,
    first: Moment,
    /// Between the latest two looks, and what it had at the later.
    used: Option<u64>,
    base: u64,
    /// It has been still since then, when it had this many.
    still: Moment,
    still_ticks: u64,
    /// The same by what the threads of an interpreter may use.
    calm: Moment,
    calm_ticks: u64,
    /// Context switches of the main thread, and the first look at which it had as many. `None`:
    /// they could not be read, or nobody did.
    switches: Option<u64>,
    moved: Moment,
    /// The latest look at which it had used any at all.
    ran: Moment,
    /// The latest two looks between which it had run, by either figure: it did at some moment
    /// after the first, at the latest at the second.
    stirred: Option<(Moment, Moment)>,
    /// When the switches were read last.
    switches_at: Moment,
    said: Option<(Moment, Source, Said)>,
    text: Option<Box<str>>,
    /// Of the few in which calls are recorded.
    counts: Option<Box<Counts>>,
    turn: u32,
}

impl Activities {
    /// Takes the CPU times of a scan in, and forgets whoever is not in it.
    pub fn look(&mut self, now: Moment, procs: &[Proc]) {
        self.known.get_or_insert_default().look(now, procs);
    }

    /// The same between an event and a signal: of those that are known already, without an
    /// allocation. Whoever is new has no activity.
    pub fn look_again(&mut self, now: Moment, procs: &[Proc]) {
        if let Some(known) = &mut self.known {
            let is_later = known.at.is_some_and(|at| now.since(at) >= SPAN_MIN);
            if is_later {
                known.again = Some(now);
            }
            for proc in procs {
                if let Some(entry) = known.entries.get_mut(&proc.key) {
                    if is_later {
                        entry.used = proc.ticks.checked_sub(entry.base);
                    }
                    entry.look(now, proc.ticks);
                }
            }
        }
    }

    /// How often the main thread has left the CPU by now; `None`: that could not be read. To be
    /// told after each look, of whoever runs an interpreter.
    pub fn switched(&mut self, key: ProcKey, now: Moment, switches: Option<u64>) {
        let known = self.known.as_mut();
        if let Some(entry) = known.and_then(|known| known.entries.get_mut(&key)) {
            entry.switched(now, switches);
        }
    }

    /// Whether what is known of a process hangs on its main thread not having run.
    pub fn hangs_on_switches(&self, key: ProcKey) -> bool {
        let said = self.entry(key).and_then(|entry| entry.said);
        matches!(said, Some((_, _, Said::Idle { .. })))
    }

    /// Takes in what a page or a stack says. What nobody has looked at is not remembered.
    pub fn say(&mut self, key: ProcKey, now: Moment, by: Source, said: Said, text: Option<&str>) {
        let entry = self.known.as_mut().and_then(|known| known.entries.get_mut(&key));
        let Some(entry) = entry else { return };
        // A stack that could not be had leaves standing what the tracer says.
        if matches!(said, Said::Unknown(_)) && entry.said.is_some_and(|(_, old, _)| old < by) {
            return;
        }
        entry.said = Some((now, by, said));
        entry.text = text.filter(|text| !text.is_empty()).map(|text| cut(text).into());
    }

    /// Whether a process is at work, as far as the latest look knows.
    pub fn of(&self, key: ProcKey, nature: Nature) -> Activity {
        match self.entry(key) {
            Some(entry) => entry.activity(nature),
            None => Activity::Unknown(Why::NotRead),
        }
    }

    /// What it was doing, when that was said: a function, a script. Untrusted.
    pub fn text(&self, key: ProcKey) -> Option<&str> {
        self.entry(key)?.text.as_deref()
    }

    /// When it was looked at first.
    pub fn first_seen(&self, key: ProcKey) -> Option<Moment> {
        self.entry(key).map(|entry| entry.first)
    }

    /// CPU ticks between the latest two looks; of one that began since, all that it has. `None`:
    /// there was one look only.
    pub fn used(&self, key: ProcKey) -> Option<u64> {
        self.entry(key)?.used
    }

    /// The same of a process of the latest scan: one that was not there at the first look has
    /// used all that it has since.
    pub fn used_by(&self, proc: &Proc) -> Field<u64> {
        let Some(known) = self.known.as_ref() else { return Field::Unknown(Why::NotRead) };
        let used = match known.entries.get(&proc.key) {
            Some(entry) => entry.used,
            None => (known.entries.len() < MAX_PROCESSES).then_some(proc.ticks),
        };
        used.map_or(Field::Unknown(Why::NotRead), Field::Known)
    }

    /// Takes in what the tracer of a process counted, at the moment when that was read. To be told
    /// right after a look.
    pub fn count(&mut self, key: ProcKey, now: Moment, counted: Option<Counted>) {
        let Some(known) = self.known.as_mut() else { return };
        let Some(entry) = known.entries.get_mut(&key) else { return };
        if counted.is_none() && entry.counts.is_none() {
            return;
        }
        let counts = entry.counts.get_or_insert_default();
        let (slot, look) = match known.again {
            Some(_) => (&mut counts.again, known.again),
            None => (&mut counts.at, known.at),
        };
        // The first beside a look is the one of its moment.
        if near(*slot, look).is_none() {
            *slot = counted.map(|counted| (now, counted));
        }
    }

    /// CPU time of its calls between the latest two looks, in microseconds, where its tracer counted
    /// at both; never more than the kernel saw it use.
    pub fn traced(&self, key: ProcKey) -> Option<u64> {
        let known = self.known.as_ref()?;
        let entry = known.entries.get(&key)?;
        let (from, to) = known.counts(entry)?;
        if from.since != to.since {
            return None;
        }
        let ran = to.cpu.checked_sub(from.cpu)? / 1_000;
        Some(ran.min(entry.used?.saturating_mul(TICK_US)))
    }

    /// What the interpreter of a process held at the latest look, by its own word: never more than
    /// its resident set.
    pub fn held(&self, proc: &Proc) -> Option<Bytes> {
        let known = self.known.as_ref()?;
        let counts = known.entries.get(&proc.key)?.counts.as_deref()?;
        let memory = match known.again {
            Some(_) => near(counts.again, known.again),
            None => near(counts.at, known.at),
        };
        Some(memory?.memory?.min(proc.rss))
    }

    /// How long there was between the latest two looks.
    pub fn span(&self) -> Option<Duration> {
        let known = self.known.as_ref()?;
        match (known.again, known.at) {
            (Some(again), Some(at)) => Some(again.since(at)),
            _ => Some(known.at?.since(known.before?)),
        }
    }

    pub fn len(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.entries.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nobody asks any more: gives the memory back.
    pub fn forget(&mut self) {
        self.known = None;
    }

    fn entry(&self, key: ProcKey) -> Option<&Entry> {
        self.known.as_ref()?.entries.get(&key)
    }
}

impl Known {
    fn look(&mut self, now: Moment, procs: &[Proc]) {
        self.before = self.at.replace(now);
        self.again = None;
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        // Whoever was not there at an earlier look began since then, if there was room for it.
        let is_new = self.before.is_some() && self.entries.len() < MAX_PROCESSES;
        for proc in procs.iter().filter(|proc| !proc.is_zombie()) {
            if let Some(entry) = self.entries.get_mut(&proc.key) {
                entry.used = proc.ticks.checked_sub(entry.base);
                entry.base = proc.ticks;
                if let Some(counts) = &mut entry.counts {
                    **counts = Counts { before: counts.at, ..Counts::default() };
                }
                entry.look(now, proc.ticks);
                entry.turn = turn;
            } else if self.entries.len() < MAX_PROCESSES {
                let used = is_new.then_some(proc.ticks);
                self.entries.insert(proc.key, Entry::new(now, proc.ticks, used, turn));
            }
        }
        self.entries.retain(|_, entry| entry.turn == turn);
    }
}

impl Known {
    /// The counts of the latest two looks.
    fn counts(&self, entry: &Entry) -> Option<(Counted, Counted)> {
        let counts = entry.counts.as_deref()?;
        match self.again {
            Some(_) => Some((near(counts.at, self.at)?, near(counts.again, self.again)?)),
            None => Some((near(counts.before, self.before)?, near(counts.at, self.at)?)),
        }
    }
}

/// What was read beside that look, and not long before it or after.
fn near(read: Read, look: Option<Moment>) -> Option<Counted> {
    let ((at, counted), look) = (read?, look?);
    (at.since(look).max(look.since(at)) <= NEAR).then_some(counted)
}

impl Entry {
    fn new(now: Moment, ticks: u64, used: Option<u64>, turn: u32) -> Entry {
        Entry {
            ticks,
            used,
            base: ticks,
            at: now,
            first: now,
            still: now,
            still_ticks: ticks,
            calm: now,
            calm_ticks: ticks,
            switches: None,
            moved: now,
            ran: now,
            stirred: None,
            switches_at: now,
            said: None,
            text: None,
            counts: None,
            turn,
        }
    }

    fn look(&mut self, now: Moment, ticks: u64) {
        let ran = |before: u64, since: Moment, part: u64| {
            let elapsed = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            let allowed = elapsed.saturating_mul(TICKS_PER_SECOND) / 1_000 / part;
            ticks.saturating_sub(before) > allowed.saturating_add(1)
        };
        // Over the whole time little by little, or since the last look at once.
        let has_run =
            |before, since, part| ran(before, since, part) || ran(self.ticks, self.at, part);
        if has_run(self.still_ticks, self.still, STILL_PART) {
            (self.still, self.still_ticks) = (now, ticks);
        }
        if has_run(self.calm_ticks, self.calm, CALM_PART) {
            (self.calm, self.calm_ticks) = (now, ticks);
        }
        if ticks != self.ticks {
            self.ran = now;
            self.stirred = Some((self.at, now));
        }
        (self.ticks, self.at) = (ticks, now);
    }

    fn switched(&mut self, now: Moment, switches: Option<u64>) {
        if switches.is_none() || switches != self.switches {
            if self.switches.is_some() {
                self.stirred = Some((self.switches_at, now));
            }
            (self.switches, self.moved) = (switches, now);
        }
        self.switches_at = now;
    }

    /// Since when it can have been idle that says it is so since then.
    fn allowed(&self, since: Moment) -> Moment {
        match self.stirred {
            Some((from, to)) if since < from => to,
            _ => since,
        }
    }

    fn activity(&self, nature: Nature) -> Activity {
        let still = if nature == Nature::Php { self.ran } else { self.still };
        let Some((at, by, said)) = self.said else {
            return match nature {
                Nature::Plain => Activity::Idle { since: still, by: Source::Cpu },
                Nature::Kernel | Nature::Php => Activity::Unknown(Why::NotRead),
            };
        };
        match said {
            Said::Busy { since } => Activity::Busy { since, by },
            // It may be in its next request or cell by now.
            Said::Idle { since } if by == Source::Tracer => {
                match self.switches.is_none() || still > at || self.moved > at {
                    true => Activity::Unknown(Why::NotRead),
                    false => Activity::Idle { since: self.allowed(since), by },
                }
            }
            // A stack knows only that it was idle when it was taken; but a main thread that has
            // not run since an earlier look was in that same wait then.
            Said::Idle { since } => match self.switches.is_none() || self.moved.max(self.calm) > at
            {
                true => Activity::Unknown(Why::NotRead),
                false => Activity::Idle { since: since.min(self.moved.max(self.calm)), by },
            },
            Said::Unknown(why) => Activity::Unknown(why),
        }
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::world::{World, key};
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * SECOND)
    }

    /// One process (pid 20) over several looks: second, ticks.
    fn looks(looks: &[(u64, u64)]) -> Activities {
        let mut activities = Activities::default();
        for (second, ticks) in looks {
            look(&mut activities, *second, *ticks);
        }
        activities
    }

    fn look(activities: &mut Activities, second: u64, ticks: u64) {
        let mut world = World::new();
        world.bare(20, 1).proc(20).ticks = ticks;
        activities.look(at(second), &world.procs);
    }

    fn say(activities: &mut Activities, second: u64, by: Source, said: Said) {
        if by == Source::Tracer {
            activities.switched(key(20), at(second), Some(7));
        }
        activities.say(key(20), at(second), by, said, Some("merge"));
    }

    fn idle(since: u64, by: Source) -> Activity {
        Activity::Idle { since: at(since), by }
    }

    const NOT_READ: Activity = Activity::Unknown(Why::NotRead);

    #[test]
    fn what_nobody_looked_at_is_unknown_and_so_is_an_interpreter_nobody_asked() {
        let mut activities = Activities::default();
        assert_eq!(activities.of(key(20), Nature::Plain), NOT_READ);
        say(&mut activities, 1, Source::Stack, Said::Idle { since: at(1) });
        assert_eq!(activities.of(key(20), Nature::Plain), NOT_READ, "never looked at: not kept");
        let still = looks(&[(0, 50), (600, 50)]);
        assert_eq!(still.of(key(20), Nature::Kernel), NOT_READ);
        assert_eq!(still.of(key(20), Nature::Plain), idle(0, Source::Cpu));
    }

    #[test]
    fn cpu_time_ends_what_it_says_itself() {
        let ran = looks(&[(0, 50), (60, 50), (61, 70), (90, 71)]);
        assert_eq!(ran.of(key(20), Nature::Plain), idle(61, Source::Cpu));
        // An hour of standing still does not pay for a cell of a second.
        let after_long = looks(&[(0, 50), (3_600, 50), (3_660, 150)]);
        assert_eq!(after_long.of(key(20), Nature::Plain), idle(3_660, Source::Cpu));
        let often: Vec<(u64, u64)> = (0..60).map(|second| (second, 50 + second)).collect();
        assert!(
            matches!(looks(&often).of(key(20), Nature::Plain), Activity::Idle { since, .. } if since > at(50))
        );
        // One part in 2,000 is what a process uses that only looks whether it is needed.
        let ticked = looks(&[(0, 50), (60, 53), (120, 56)]);
        assert_eq!(ticked.of(key(20), Nature::Plain), idle(0, Source::Cpu));
    }

    #[test]
    fn a_page_knows_since_when_and_holds_until_the_process_runs() {
        let mut activities = looks(&[(0, 50), (60, 50)]);
        say(&mut activities, 60, Source::Tracer, Said::Idle { since: at(42) });
        assert_eq!(activities.of(key(20), Nature::Kernel), idle(42, Source::Tracer));
        look(&mut activities, 100, 50);
        assert_eq!(activities.of(key(20), Nature::Kernel), idle(42, Source::Tracer));
        look(&mut activities, 101, 90);
        assert_eq!(activities.of(key(20), Nature::Kernel), NOT_READ);
        assert_eq!(activities.of(key(20), Nature::Plain), NOT_READ, "it was at work a moment ago");
    }

    /// Looks with ticks and switches; then the page says that it is idle since this second.
    #[test]
    fn a_page_claims_no_more_than_the_kernels_figures_allow() {
        for (seen, claimed, expected) in [
            // It ran between 50 and 60: idle since 42 it cannot be, and since 55 it can.
            (&[(0, 50, 7), (50, 50, 7), (60, 51, 7)][..], 42, 60),
            (&[(0, 50, 7), (50, 50, 7), (60, 50, 8)], 42, 60),
            (&[(0, 50, 7), (50, 50, 7), (60, 50, 8)], 55, 55),
            (&[(0, 50, 7), (50, 50, 7), (60, 50, 8)], 50, 50),
            (&[(0, 50, 7), (50, 50, 7), (60, 50, 7)], 42, 42),
            // What was before the first look nobody has seen.
            (&[(50, 50, 7), (60, 50, 7)], 42, 42),
            (&[(0, 50, 7), (30, 50, 9), (60, 50, 9)], 0, 0),
            (&[(10, 50, 7), (30, 50, 9), (60, 50, 9)], 0, 30),
        ] {
            let mut activities = Activities::default();
            for (second, ticks, switches) in seen {
                look(&mut activities, *second, *ticks);
                activities.switched(key(20), at(*second), Some(*switches));
            }
            let (last, _, switches) = *seen.last().unwrap();
            let said = Said::Idle { since: at(claimed) };
            activities.say(key(20), at(last), Source::Tracer, said, None);
            assert_eq!(
                activities.of(key(20), Nature::Php),
                idle(expected, Source::Tracer),
                "{seen:?} {claimed}"
            );
            // It holds until the main thread runs, or nobody knows whether it has.
            assert!(activities.hangs_on_switches(key(20)));
            look(&mut activities, 90, seen.last().unwrap().1);
            for (switches, is_idle) in
                [(Some(switches), true), (Some(switches + 1), false), (None, false)]
            {
                activities.switched(key(20), at(90), switches);
                let known = activities.of(key(20), Nature::Php).idle_for(at(90)).is_some();
                assert_eq!(known, is_idle, "{switches:?}");
            }
        }
    }

    /// Its next request may be short.
    #[test]
    fn after_a_page_a_php_worker_is_still_only_where_it_used_nothing_at_all() {
        let mut activities = looks(&[(0, 50), (60, 50)]);
        say(&mut activities, 60, Source::Tracer, Said::Idle { since: at(60) });
        look(&mut activities, 120, 51);
        assert_eq!(activities.of(key(20), Nature::Php), NOT_READ);
        assert_eq!(activities.of(key(20), Nature::Kernel), idle(60, Source::Tracer));
    }

    /// Looks with the ticks and the context switches, and at the last a stack that is idle.
    fn stacked(each: &[(u64, u64, Option<u64>)]) -> Activities {
        let mut activities = Activities::default();
        for (second, ticks, switches) in each {
            look(&mut activities, *second, *ticks);
            activities.switched(key(20), at(*second), *switches);
        }
        let last = each.last().unwrap();
        say(&mut activities, last.0, Source::Stack, Said::Idle { since: at(last.0) });
        activities
    }

    #[test]
    fn a_stack_that_is_idle_reaches_back_as_far_as_the_main_thread_has_not_run() {
        for nature in [Nature::Kernel, Nature::Php] {
            let same = stacked(&[(0, 10, Some(7)), (10, 10, Some(9)), (60, 10, Some(9))]);
            assert_eq!(same.of(key(20), nature), idle(10, Source::Stack));
            // A cell that slept used no CPU time to speak of, and its end is a context switch.
            let slept = stacked(&[(0, 10, Some(7)), (60, 10, Some(8))]);
            assert_eq!(slept.of(key(20), nature), idle(60, Source::Stack));
            // 0.6 % of an emulated CPU, in threads that look whether the parent lives.
            let emulated = stacked(&[(0, 10, Some(7)), (60, 46, Some(7))]);
            assert_eq!(emulated.of(key(20), nature), idle(0, Source::Stack));
            let threads = stacked(&[(0, 10, Some(7)), (60, 1_000, Some(7))]);
            assert_eq!(threads.of(key(20), nature), idle(60, Source::Stack), "a thread computed");
            let unread = stacked(&[(0, 10, Some(7)), (60, 10, None)]);
            assert_eq!(unread.of(key(20), nature), NOT_READ);
        }
    }

    #[test]
    fn a_stack_holds_until_the_main_thread_runs_or_another_computes() {
        for (second, ticks, switches, expected) in [
            (90, 60, Some(7), idle(0, Source::Stack)),
            (90, 60, Some(8), NOT_READ),
            (90, 60, None, NOT_READ),
            (90, 800, Some(7), NOT_READ),
        ] {
            let mut activities = stacked(&[(0, 50, Some(7)), (60, 50, Some(7))]);
            assert!(activities.hangs_on_switches(key(20)));
            look(&mut activities, second, ticks);
            activities.switched(key(20), at(second), switches);
            assert_eq!(activities.of(key(20), Nature::Kernel), expected, "{ticks} {switches:?}");
        }
    }

    #[test]
    fn busy_stays_busy_however_still_it_is() {
        let mut activities = looks(&[(0, 50), (60, 50)]);
        let busy = Said::Busy { since: Some(at(3)) };
        say(&mut activities, 60, Source::Stack, busy);
        look(&mut activities, 4_000, 50);
        let expected = Activity::Busy { since: Some(at(3)), by: Source::Stack };
        assert_eq!(activities.of(key(20), Nature::Plain), expected);
        assert_eq!(expected.idle_for(at(5_000)), None);
        assert_eq!(activities.text(key(20)), Some("merge"));
    }

    #[test]
    fn a_stack_that_could_not_be_had_takes_nothing_from_the_page() {
        let mut activities = looks(&[(0, 50), (60, 50)]);
        say(&mut activities, 60, Source::Tracer, Said::Idle { since: at(42) });
        say(&mut activities, 60, Source::Stack, Said::Unknown(Why::TimedOut));
        assert_eq!(activities.of(key(20), Nature::Kernel), idle(42, Source::Tracer));
        say(&mut activities, 61, Source::Tracer, Said::Unknown(Why::Malformed));
        assert_eq!(activities.of(key(20), Nature::Kernel), Activity::Unknown(Why::Malformed));
    }

    #[test]
    fn the_pid_of_another_inherits_nothing_and_the_gone_are_forgotten() {
        let mut activities = looks(&[(0, 50), (60, 50)]);
        say(&mut activities, 60, Source::Stack, Said::Idle { since: at(60) });
        let mut world = World::new();
        world.bare(20, 1).proc(20).key.start += 1;
        let key = world.proc(20).key;
        activities.look(at(61), &world.procs);
        assert_eq!(activities.of(key, Nature::Kernel), NOT_READ);
        assert_eq!(activities.of(key, Nature::Plain), idle(61, Source::Cpu));
        activities.look(at(62), &[]);
        assert!(activities.is_empty());
    }

    #[test]
    fn what_was_used_between_two_looks() {
        let mut activities = looks(&[(0, 50)]);
        assert_eq!((activities.used(key(20)), activities.span()), (None, None));
        look(&mut activities, 10, 75);
        assert_eq!(activities.used(key(20)), Some(25));
        assert_eq!(activities.span(), Some(Duration::from_secs(10)));
        // Between an event and a signal nobody is added, and what was used is counted from the
        // last look on, unless that was a moment ago.
        let mut world = World::new();
        world.bare(20, 1).proc(20).ticks = 99;
        world.bare(30, 1).proc(30).ticks = 4;
        let len = activities.len();
        activities.look_again(Moment(10 * SECOND + 50_000), &world.procs);
        assert_eq!(activities.used(key(20)), Some(25));
        activities.look_again(at(11), &world.procs);
        assert_eq!((activities.used(key(20)), activities.len()), (Some(24), len));
        assert_eq!(activities.span(), Some(Duration::from_secs(1)));
        assert!(
            matches!(activities.of(key(20), Nature::Plain), Activity::Idle { since, .. } if since > at(10))
        );
        let used = [20, 30].map(|pid| activities.used_by(world.proc(pid)));
        assert_eq!(used, [Field::Known(24), Field::Known(4)]);
    }

    const MS: u64 = 1_000;

    /// A count `late` microseconds after the second, of so many milliseconds of CPU time.
    fn count(activities: &mut Activities, second: u64, late: u64, since: u64, cpu_ms: u64) {
        let memory = Some(Bytes::mib(2));
        let counted = Counted { since, cpu: cpu_ms * 1_000_000, memory };
        activities.count(key(20), Moment(second * SECOND + late), Some(counted));
    }

    #[test]
    fn what_a_tracer_counted_is_believed_up_to_what_the_kernel_saw() {
        // Ticks between the looks, both counts (when, since, milliseconds), microseconds of it.
        for (ticks, from, to, expected, why) in [
            (25, (0, 1, 40), (0, 1, 140), Some(100_000), "what its calls ran"),
            (25, (0, 1, 40), (0, 1, 290), Some(250_000), "all of it"),
            (25, (0, 1, 40), (0, 1, 9_000), Some(250_000), "no more than the kernel saw"),
            (0, (0, 1, 40), (0, 1, 9_000), Some(0), "of nothing, nothing"),
            (25, (0, 1, 40), (0, 1, 40), Some(0), "it was at work outside its calls"),
            (25, (0, 1, 40), (0, 2, 140), None, "another count"),
            (25, (0, 1, 40), (0, 1, 39), None, "it went back"),
            (25, (90 * MS, 1, 40), (5 * MS, 1, 140), Some(100_000), "beside the looks"),
            (25, (101 * MS, 1, 40), (0, 1, 140), None, "long after the first"),
            (25, (0, 1, 40), (101 * MS, 1, 140), None, "long after the second"),
            (25, (0, 1, u64::MAX / 1_000_000), (0, 1, 0), None, "nonsense"),
        ] {
            let mut activities = looks(&[(0, 50)]);
            count(&mut activities, 0, from.0, from.1, from.2);
            assert_eq!(activities.traced(key(20)), None, "one look");
            look(&mut activities, 10, 50 + ticks);
            assert_eq!(activities.traced(key(20)), None, "one count");
            count(&mut activities, 10, to.0, to.1, to.2);
            assert_eq!(activities.traced(key(20)), expected, "{why}");
        }
    }

    #[test]
    fn a_count_belongs_to_its_look_and_without_one_nothing_is_known() {
        let mut activities = looks(&[(0, 50)]);
        count(&mut activities, 0, 0, 1, 40);
        // A second question beside the same look is answered later.
        count(&mut activities, 0, 50 * MS, 1, 60);
        look(&mut activities, 10, 75);
        count(&mut activities, 10, 0, 1, 140);
        assert_eq!(activities.traced(key(20)), Some(100_000));
        // Between an event and a signal: since the latest look.
        let mut world = World::new();
        world.bare(20, 1).proc(20).ticks = 80;
        activities.look_again(at(11), &world.procs);
        assert_eq!(activities.traced(key(20)), None, "not asked yet");
        count(&mut activities, 11, 0, 1, 170);
        assert_eq!(activities.traced(key(20)), Some(30_000));
        look(&mut activities, 20, 90);
        activities.count(key(20), at(20), None);
        assert_eq!(activities.traced(key(20)), None, "it is traced no more");
        look(&mut activities, 30, 99);
        count(&mut activities, 30, 0, 1, 300);
        assert_eq!(activities.traced(key(20)), None, "of one end only");
        assert_eq!(Activities::default().traced(key(20)), None);
    }

    #[test]
    fn an_interpreter_holds_no_more_than_its_process() {
        let mut activities = looks(&[(0, 50)]);
        let mut world = World::new();
        world.bare(20, 1);
        let proc = world.proc(20);
        proc.rss = Bytes::mib(8);
        assert_eq!(activities.held(proc), None);
        count(&mut activities, 0, 0, 1, 40);
        assert_eq!(activities.held(proc), Some(Bytes::mib(2)));
        proc.rss = Bytes::mib(1);
        assert_eq!(activities.held(proc), Some(Bytes::mib(1)));
        let unknown = Counted { since: 1, cpu: 0, memory: None };
        look(&mut activities, 10, 50);
        assert_eq!(activities.held(proc), None, "that was at an earlier look");
        activities.count(key(20), at(10), Some(unknown));
        assert_eq!(activities.held(proc), None);
    }

    #[test]
    fn no_more_than_so_many_and_texts_are_cut() {
        let mut world = World::new();
        for pid in 100..100 + MAX_PROCESSES as u32 + 10 {
            world.bare(pid, 1);
        }
        let mut activities = Activities::default();
        activities.look(at(0), &world.procs);
        assert_eq!(activities.len(), MAX_PROCESSES);
        let long = "\u{20ac}".repeat(1_000);
        activities.say(key(100), at(0), Source::Stack, Said::Busy { since: None }, Some(&long));
        assert_eq!(activities.text(key(100)).unwrap().len(), 255);
        activities.forget();
        assert_eq!(activities.len(), 0);
    }

    proptest! {
        /// Whatever is said in whatever order: idle is nobody who ran since the last word, and
        /// nobody is idle since a moment that is to come.
        #[test]
        fn idle_is_never_more_than_was_seen(
            steps in proptest::collection::vec((1u64..50, 0u64..40, 0u8..5), 1..20),
        ) {
            let mut activities = Activities::default();
            let (mut now, mut ticks, mut ran_since) = (0, 0, true);
            for (wait, run, what) in steps {
                now += wait;
                ticks += run;
                look(&mut activities, now, ticks);
                // Whoever uses CPU time has left the CPU as well.
                activities.switched(key(20), at(now), Some(ticks));
                ran_since |= run > 0;

                match what {
                    0 => activities.say(key(20), at(now), Source::Stack, Said::Busy { since: None }, None),
                    1 => activities.say(key(20), at(now), Source::Stack, Said::Unknown(Why::Denied), None),
                    2 => {
                        activities.say(key(20), at(now), Source::Stack, Said::Idle { since: at(now) }, None);
                        ran_since = false;
                    }
                    3 => {
                        activities.say(key(20), at(now), Source::Tracer, Said::Idle { since: at(now) }, None);
                        ran_since = false;
                    }
                    _ => {}
                }
                if let Activity::Idle { since, .. } = activities.of(key(20), Nature::Kernel) {
                    prop_assert!(!ran_since, "{now}");
                    prop_assert!(since <= at(now));
                }
            }
        }
    }
}
