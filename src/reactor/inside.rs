//! What runs inside processes, asked for off the loop: the page that a tracer stamps, and the call
//! stack from outside, by a child of our own binary (`runtime::stack`). A thread is started for
//! each round of questions and ends with it; at rest there is none, and nothing is kept of a
//! container in which nothing happens.
//!
//! At the warning step, when nothing is throttled yet, the notebook that holds the most is asked
//! for its stack: evidence for the record, and for what the notebook is told. At the kill itself
//! only what is known by then counts.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ::log::{debug, warn};
use trace_layout::header::ActivityState;
use trace_layout::{Count, PAGE};

use super::helper::{Answer, Asker, Reply};
use super::{Domain, Reactor};
use crate::config::Policy;
use crate::facts::{Source, Why};
use crate::host::procs;
use crate::ids::ProcKey;
use crate::parse::escape::escape;
use crate::parse::stack_json::{Stack, State};
use crate::policy::activity::{Activities, Counted, MAX_TEXT, Nature, Said};
use crate::policy::episode::Input;
use crate::policy::identity::Claim;
use crate::report::counters::Tally;
use crate::roots::{Buffer, Roots};
use crate::runtime::stack::{self, Missing};
use crate::trace::{self, page};
use crate::units::{Bytes, Moment};

/// The buffers are on the heap, a page of a tracer is not.
const STACK: usize = 128 * 1024;
/// Rounds at once, over all containers; a domain has one.
const ROUNDS_MAX: usize = 4;
/// One that takes longer is held up by something that does not answer. Its own container is not
/// asked before that has ended; the others' questions do not wait for it.
const ROUND_TIME: Duration = Duration::from_secs(15);
/// Pages read in one round: some 50 µs each.
const PAGES_MAX: usize = 512;
/// Stacks asked for in one round: each starts a program.
const STACKS_MAX: usize = 4;
/// The same process is not asked for evidence again before this, however usage goes up and down;
/// nor is a container's everybody, however often its figures are asked for.
const AGAIN: Duration = Duration::from_secs(10);
/// Processes that are remembered for that.
const RECENT_MAX: usize = 64;
/// What a page's pathname is below a process's root.
pub const DIR: &str = trace_layout::DIR;

/// What is kept over all domains.
#[derive(Default)]
pub(super) struct Inside {
    /// Whose questions are out, since when.
    out: Vec<(Asker, Moment)>,
    /// Whose process could not be read by one that has not ended since.
    stuck: Vec<(Asker, ProcKey)>,
    recent: Vec<(ProcKey, Moment)>,
}

/// A stack that was had in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Evidence {
    pub key: ProcKey,
    pub at: Moment,
    pub stack: Stack,
}

/// The evidence that is on its way: who waits for it gets its words from here.
#[derive(Debug)]
pub(super) struct Awaited {
    pub key: ProcKey,
    /// `None`: somebody waits already.
    pub running: Option<Receiver<String>>,
}

/// What to ask of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wish {
    key: ProcKey,
    /// Its container, where that is watched: what hangs there costs nobody else.
    home: Asker,
    page: bool,
    stack: Want,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    No,
    /// Where no tracer says what it does.
    WithoutPage,
    /// For the record as well.
    Evidence,
}

/// What one of the two said.
#[derive(Debug)]
pub struct Heard {
    key: ProcKey,
    at: Instant,
    by: Source,
    word: Word,
    text: Option<Box<str>>,
    stack: Option<Box<Stack>>,
    /// Of a stack: how often the main thread had left the CPU, before and after as often.
    switches: Option<u64>,
    /// Of a page: what the tracer counted up to then.
    counted: Option<Counted>,
    missing: Option<Missing>,
    home: Asker,
}

/// How long ago, at the moment when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Busy(Option<Duration>),
    Idle(Duration),
    Unknown(Why),
}

/// What becomes of questions for a stack, by outcome.
pub(super) fn outcomes() -> Tally {
    Tally::of(["ok", "dropped"].into_iter().chain(Missing::ALL.map(Missing::as_str)))
}

impl Reactor {
    /// The warning look: the notebook that holds the most is asked what it runs, and where idle
    /// processes go first, all are.
    pub(super) fn ask_at_warning(&mut self, who: Asker) {
        self.note_activities(who);
        let Some(domain) = self.domain(who) else { return };
        let ids = &domain.identities;
        let asked = |claim: &Claim| Nature::of(claim) != Nature::Plain;
        let first = self.scratch.ranking.rows().iter().map(|row| row.root);
        let first = first.take(1).find(|key| ids.get(*key).is_some_and(|id| asked(&id.claim)));
        let mut wishes = if self.asks_activities(who) { self.wishes(who, &[]) } else { Vec::new() };
        if let Some(key) = first.filter(|key| self.may_ask(*key)) {
            match wishes.iter_mut().find(|wish| wish.key == key) {
                Some(wish) => wish.stack = Want::Evidence,
                None => {
                    let home = self.whose_process(who, key);
                    wishes.push(Wish { key, home, page: false, stack: Want::Evidence });
                }
            }
        }
        self.ask_inside(who, wishes);
    }

    /// Figures are read anyway: who is at work is seen as well, so that it is known since when
    /// should memory run short.
    pub(super) fn ask_at_survey(&mut self, who: Asker) {
        if !self.asks_activities(who) {
            return;
        }
        self.note_activities(who);
        let now = self.now();
        let Some(domain) = self.domain_mut(who) else { return };
        if domain.asked_inside.is_some_and(|at| now.since(at) < AGAIN) {
            return;
        }
        domain.asked_inside = Some(now);
        let wishes = self.wishes(who, &[]);
        self.ask_inside(who, wishes);
    }

    /// One that nobody was asked about at the warning look is going to be told that it ends.
    pub(super) fn ask_evidence(&mut self, who: Asker, key: ProcKey) {
        let known = self.evidence(who, key).is_some();
        if !known && self.may_ask(key) {
            let home = self.whose_process(who, key);
            self.ask_inside(who, vec![Wish { key, home, page: false, stack: Want::Evidence }]);
        }
    }

    /// A decision stands on what these do. The scan is the one that they are from.
    pub(super) fn ask_activity(&mut self, who: Asker, keys: &[ProcKey]) {
        let wishes = self.wishes(who, keys);
        self.ask_inside(who, wishes);
    }

    /// Takes the CPU times of the last scan in, where anybody goes by them.
    pub(super) fn note_activities(&mut self, who: Asker) {
        if !self.asks_activities(who) {
            // A reload may have taken the policy away: what was kept for it is locked in memory.
            if let Some(domain) =
                self.domain_mut(who).filter(|domain| !domain.activities.is_empty())
            {
                domain.activities.forget();
            }
            return;
        }
        let now = self.now();
        let Reactor { watches, host, scratch, roots, buffer, .. } = self;
        let Some(domain) = super::domain_of_mut(who, watches, host) else { return };
        let Domain { activities, identities, .. } = domain;
        activities.look(now, &scratch.procs);
        let asked =
            |key| identities.get(key).is_some_and(|id| Nature::of(&id.claim) != Nature::Plain);
        for key in
            scratch.procs.iter().map(|proc| proc.key).filter(|key| asked(*key)).take(PAGES_MAX)
        {
            activities.switched(key, now, procs::read_switches(roots, key.pid, buffer));
        }
    }

    fn asks_activities(&self, who: Asker) -> bool {
        self.settings(who).is_some_and(|settings| settings.policy == Policy::IdleFirst)
    }

    fn may_ask(&mut self, key: ProcKey) -> bool {
        let now = self.now();
        let recent = &mut self.inside.recent;
        recent.retain(|(_, at)| now.since(*at) < AGAIN);
        if recent.len() >= RECENT_MAX || recent.iter().any(|(known, _)| *known == key) {
            return false;
        }
        recent.push((key, now));
        true
    }

    /// Whoever runs an interpreter, the largest workloads first: of PHP the page, of the largest
    /// the stack where there is no page. `among`: only these, if there are any.
    fn wishes(&self, who: Asker, among: &[ProcKey]) -> Vec<Wish> {
        let Some(domain) = self.domain(who) else { return Vec::new() };
        let (scratch, now) = (&self.scratch, self.now());
        let mut wishes = Vec::new();
        let mut stacks = 0;
        for row in scratch.ranking.rows() {
            let Some(workload) = scratch.forest.workloads().get(row.workload as usize) else {
                continue;
            };
            for member in scratch.forest.members(workload) {
                let proc = &scratch.procs[member.index as usize];
                let claim = domain.identities.get(proc.key).map(|id| &id.claim);
                let nature = claim.map_or(Nature::Plain, Nature::of);
                let is_meant = among.is_empty() || among.contains(&proc.key);
                if nature == Nature::Plain || !is_meant || proc.is_zombie() {
                    continue;
                }
                if wishes.len() >= PAGES_MAX {
                    return wishes;
                }
                let page = nature == Nature::Php;
                // Who is known to be idle still is; so those have their turn whom nobody knows.
                let is_idle = domain.activities.of(proc.key, nature).idle_for(now).is_some();
                let room = stacks < STACKS_MAX && !is_idle;
                let stack = if room { Want::WithoutPage } else { Want::No };
                stacks += usize::from(!page && room);
                if page || stack != Want::No {
                    let home = self.home_at(who, proc.container);
                    wishes.push(Wish { key: proc.key, home, page, stack });
                }
            }
        }
        wishes
    }

    /// The container of a process of the last scan.
    fn whose_process(&self, who: Asker, key: ProcKey) -> Asker {
        let proc = self.scratch.procs.iter().find(|proc| proc.key == key);
        proc.map_or(who, |proc| self.home_at(who, proc.container))
    }

    fn home_at(&self, who: Asker, container: u16) -> Asker {
        let slot = self.scratch.slots.get(usize::from(container)).copied();
        let watch = slot.and_then(|slot| self.watches.get(slot as usize)?.as_ref());
        who.or_else(|| watch.map(|watch| watch.id))
    }

    fn ask_inside(&mut self, who: Asker, mut wishes: Vec<Wish>) {
        let now = self.now();
        if wishes.is_empty() || self.inside.out.iter().any(|(asker, _)| *asker == who) {
            return;
        }
        let evidence = wishes.iter().find(|wish| wish.stack == Want::Evidence).map(|wish| wish.key);
        let Inside { out, stuck, .. } = &mut self.inside;
        stuck.retain(|(_, key)| stack::is_stuck(*key));
        wishes.retain(|wish| !stuck.iter().any(|(home, _)| *home == wish.home));
        let under_way = out.iter().filter(|(_, since)| now.since(*since) < ROUND_TIME).count();
        let is_asked = evidence.is_none_or(|key| wishes.iter().any(|wish| wish.key == key));
        let no_room = under_way >= ROUNDS_MAX;
        self.counters
            .stacks
            .add_many("dropped", u64::from(evidence.is_some() && (no_room || !is_asked)));
        if wishes.is_empty() || no_room {
            return;
        }
        let evidence = evidence.filter(|_| is_asked);
        let (sender, running) = channel();
        let (roots, tool) = (Arc::clone(&self.roots), self.tool.clone());
        let round = Round { who, reply: self.helper.reply() };
        let named = thread::Builder::new().name("inside".into()).stack_size(STACK);
        let started = named.spawn(move || {
            hear_all(&roots, &tool, Path::new(DIR), &wishes, &sender, &mut |heard| {
                round.reply.give(Answer::Heard { asker: who, heard, last: false });
            });
        });
        if started.is_err() {
            self.counters.stacks.add_many("not-started", u64::from(evidence.is_some()));
            return;
        }
        self.inside.out.push((who, now));
        if let (Some(key), Some(domain)) = (evidence, self.domain_mut(who)) {
            domain.awaited = Some(Box::new(Awaited { key, running: Some(running) }));
        }
    }

    /// What was heard of some, or that there is no more.
    pub(super) fn on_heard(&mut self, who: Asker, heard: Vec<Heard>, last: bool) {
        let now = self.now();
        for each in heard {
            self.take_in(who, each, now);
        }
        if !last {
            return;
        }
        self.inside.out.retain(|(asker, _)| *asker != who);
        let Some(domain) = self.domain_mut(who) else { return };
        domain.awaited = None;
        // Whoever waits for this decides again.
        if std::mem::take(&mut domain.listening) {
            self.drive(who, Input::Answered);
        }
    }

    fn take_in(&mut self, who: Asker, heard: Heard, now: Moment) {
        if heard.by == Source::Stack {
            self.counters.stacks.add(heard.missing.map_or("ok", Missing::as_str));
        }
        if heard.missing == Some(Missing::Stuck) {
            let pid = heard.key.pid;
            warn!(
                "what was to read the stack of pid {pid} does not end: nothing more is asked in its container until it does"
            );
            self.inside.stuck.push((heard.home, heard.key));
        }
        let at = heard.at(now);
        debug!("pid={}: {} {:?}", heard.key.pid, heard.by.as_str(), heard.word);
        let Some(domain) = self.domain_mut(who) else { return };
        heard.tell(&mut domain.activities, now);
        // Whatever was asked, evidence is what was had of one that is at work.
        if let Some(stack) = heard.stack.filter(|stack| !stack.frames.is_empty())
            && domain.awaited.as_ref().is_some_and(|awaited| awaited.key == heard.key)
        {
            domain.evidence = Some(Box::new(Evidence { key: heard.key, at, stack: *stack }));
        }
    }

    /// What is known of exactly this process.
    pub(super) fn evidence(&self, who: Asker, key: ProcKey) -> Option<&Evidence> {
        self.domain(who)?.evidence.as_deref().filter(|evidence| evidence.key == key)
    }
}

impl Heard {
    fn at(&self, now: Moment) -> Moment {
        self.ago(Duration::ZERO, now)
    }

    fn ago(&self, age: Duration, now: Moment) -> Moment {
        let us = (self.at.elapsed() + age).as_micros();
        Moment(now.0.saturating_sub(u64::try_from(us).unwrap_or(u64::MAX)))
    }

    /// Passes it on, on the clock of `now`.
    pub fn tell(&self, activities: &mut Activities, now: Moment) {
        let said = match self.word {
            Word::Busy(age) => Said::Busy { since: age.map(|age| self.ago(age, now)) },
            Word::Idle(age) => Said::Idle { since: self.ago(age, now) },
            Word::Unknown(why) => Said::Unknown(why),
        };
        activities.switched(self.key, self.at(now), self.switches);
        if self.by == Source::Tracer {
            activities.count(self.key, self.at(now), self.counted);
        }
        activities.say(self.key, self.at(now), self.by, said, self.text.as_deref());
    }

    /// It says whether the process is at work.
    pub fn is_known(&self) -> bool {
        !matches!(self.word, Word::Unknown(_))
    }
}

/// One round of questions: however it ends, it is told that there is no more.
struct Round {
    who: Asker,
    reply: Reply,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.reply.give(Answer::Heard { asker: self.who, heard: Vec::new(), last: true });
    }
}

/// Asks all, evidence first: somebody waits for that. What was heard is handed over page by page
/// of a few, and each stack at once.
fn hear_all(
    roots: &Roots,
    tool: &Path,
    dir: &Path,
    wishes: &[Wish],
    running: &Sender<String>,
    tell: &mut dyn FnMut(Vec<Heard>),
) {
    let mut buffer = Buffer::new();
    let mut stuck = Vec::new();
    for wish in wishes.iter().filter(|wish| wish.stack == Want::Evidence) {
        let heard = Heard { home: wish.home, ..hear_stack(roots, tool, wish.key, &mut buffer) };
        if heard.missing == Some(Missing::Stuck) {
            stuck.push(wish.home);
        }
        let words = heard.stack.as_ref().and_then(|stack| stack.running.clone());
        // Nobody may be waiting.
        let _ = running.send(words.unwrap_or_default());
        tell(vec![heard]);
    }
    let mut pages = Vec::new();
    let mut without = Vec::new();
    for wish in wishes {
        let heard = wish.page.then(|| hear_page(roots, dir, wish.key, &mut buffer));
        let is_known = heard.as_ref().is_some_and(Heard::is_known);
        if wish.stack == Want::WithoutPage && !is_known {
            without.push(wish);
        }
        pages.extend(heard);
    }
    tell(pages);
    for wish in without.into_iter().take(STACKS_MAX) {
        if stuck.contains(&wish.home) {
            continue;
        }
        let heard = Heard { home: wish.home, ..hear_stack(roots, tool, wish.key, &mut buffer) };
        if heard.missing == Some(Missing::Stuck) {
            stuck.push(wish.home);
        }
        tell(vec![heard]);
    }
}

/// What the page says that a tracer stamps in this process.
pub fn hear_page(roots: &Roots, dir: &Path, key: ProcKey, buffer: &mut Buffer) -> Heard {
    let mut room = [0; PAGE];
    let before = procs::read_switches(roots, key.pid, buffer);
    let read = page::read(roots, dir, key, buffer, &mut room);
    let after = procs::read_switches(roots, key.pid, buffer);
    let switches = before.filter(|_| before == after);
    let count = read.as_ref().ok().and_then(|page| page.count_at(trace::now()));
    let counted = count.map(|Count { since, cpu, memory, .. }| Counted {
        since,
        cpu,
        memory: (memory > 0).then_some(Bytes(memory)),
    });
    let (word, text) = match &read {
        Ok(page) => {
            let activity = &page.activity;
            let age = Duration::from_nanos(trace::now().saturating_sub(activity.since));
            let text = [activity.function, activity.script].into_iter().find(|t| !t.is_empty());
            let word = match activity.state {
                ActivityState::Busy => Word::Busy(Some(age)),
                ActivityState::Idle => Word::Idle(age),
                ActivityState::Unknown => Word::Unknown(Why::NotRead),
            };
            (word, text.map(|text| escape(text, MAX_TEXT).into()))
        }
        Err(why) => (Word::Unknown(*why), None),
    };
    let (at, by) = (Instant::now(), Source::Tracer);
    let (stack, missing, home) = (None, None, None);
    Heard { key, at, by, word, text, stack, switches, counted, missing, home }
}

/// What its stack says, as `nbguard stack` reads it.
pub fn hear_stack(roots: &Roots, tool: &Path, key: ProcKey, buffer: &mut Buffer) -> Heard {
    let before = procs::read_switches(roots, key.pid, buffer);
    let answer = stack::ask(tool, key, stack::PATIENCE);
    let after = procs::read_switches(roots, key.pid, buffer);
    let switches = before.filter(|_| before == after);
    let at = Instant::now();
    let by = Source::Stack;
    match answer {
        Ok(stack) => {
            let word = match stack.state {
                State::Busy => Word::Busy(None),
                State::Idle => Word::Idle(Duration::ZERO),
                State::Unknown => Word::Unknown(Why::Absent),
            };
            let text = stack.function.as_deref().map(Box::from);
            let stack = Some(Box::new(stack));
            let (counted, missing, home) = (None, None, None);
            Heard { key, at, by, word, text, stack, switches, counted, missing, home }
        }
        Err(missing) => {
            let word = Word::Unknown(missing.why());
            let missing = Some(missing);
            let (text, stack, counted, home) = (None, None, None, None);
            Heard { key, at, by, word, text, stack, switches, counted, missing, home }
        }
    }
}
