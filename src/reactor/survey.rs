//! The figures that are shown to whoever asks: one container a turn of the loop, so that an event
//! of the kernel never waits for more than one. Nothing is surveyed while an episode is open or a
//! kill is in flight: then the answer is what was last seen, with its age.
//!
//! What was read anyway passes through the gate as well, as a refresh did in the system this
//! comes from: a container whose mode is `none` is guarded by nothing else.
//!
//! Everything here is given back: the room for the scan when the survey is over, most of what it
//! found a second later, the rest when nobody has asked for a minute.

use std::time::{Duration, SystemTime};

use ::log::{debug, warn};

use super::Reactor;
use super::decision::Scratch;
use super::helper::Question;
use super::kept::{FRESH, Kept, Numbers, Seen, Surveys, Todo, Whose};
use super::orders;
use super::watch::{Kind, Watch};
use crate::config::{Gate as GateForm, Words};
use crate::facts::{Figures, HostMode, Mode};
use crate::ids::{ProcKey, WatchId};
use crate::parse::escape;
use crate::policy::decide::{Scale, Verdict};
use crate::policy::episode::{Input, Wake};
use crate::policy::explain::Facts;
use crate::policy::identity::{MAX_IDENTITIES, Wanted as Reading};
use crate::policy::rank::Purpose;
use crate::policy::telling::{self, TEXT_MAX, Told};
use crate::report::{self, ContainerView, HostView, SCHEMA, Would};
use crate::sys;
use crate::units::Moment;

/// How long the reading of identities may hold up an answer: a throttled process once held up
/// the reader of its `cmdline` for 491 ms. The answer then stands on what is known.
const IDENTITIES_TIME: Duration = Duration::from_millis(250);
/// The same where nothing is known yet: an answer would say that there are no notebooks.
const FIRST_TIME: Duration = Duration::from_secs(2);
/// Identities that are asked for at once: 40 µs each.
const IDENTITIES_AT_ONCE: usize = 2048;
const SERVERS_MAX: usize = 64;
/// So few identities are read again sooner than kept.
const FEW: usize = 32;

impl Reactor {
    /// Whether anything that is read now could hold up a kill.
    fn is_in_episode(&self) -> bool {
        let open = |watch: &Watch| watch.domain.episode.is_some();
        self.endings.in_flight()
            || self.host.domain.episode.is_some()
            || self.watches.iter().flatten().any(|watch| open(watch))
    }

    /// Somebody wants figures: what is not fresh is looked at in the next turns.
    pub(super) fn ask_survey(&mut self, whose: Whose) {
        let now = self.now();
        self.surveys.asked_at = Some(now);
        if self.is_in_episode() {
            return;
        }
        let Reactor { watches, surveys, .. } = self;
        let asked = watches
            .iter()
            .flatten()
            .filter(|watch| watch.kind == Kind::Container)
            .map(|watch| watch.id)
            .filter(|id| whose.is_none_or(|asked| asked == *id));
        for id in asked {
            let fresh = surveys.find(id).is_some_and(|at| surveys.kept[at].is_fresh(now));
            if !fresh && !surveys.is_under_way(id) {
                surveys.todo.push_back(Todo { id, asked: false });
            }
        }
        if !surveys.is_over() {
            surveys.aside_at = None;
        }
    }

    /// Somebody asked for something that is not figures, and that is given back with them.
    pub(super) fn note_asked(&mut self) {
        self.surveys.asked_at = Some(self.now());
    }

    /// One container, and whatever is due. Comes last in a turn.
    pub(super) fn run_survey(&mut self) {
        let now = self.now();
        if self.surveys.asked_at.is_none() {
            return;
        }
        if self.is_in_episode() {
            // Whoever waits is answered with what there is.
            self.surveys.todo.clear();
            self.surveys.reading.clear();
        }
        let surveys = &mut self.surveys;
        let Surveys { todo, reading, .. } = surveys;
        reading.retain(|(id, until)| {
            if now >= *until {
                todo.push_back(Todo { id: *id, asked: true });
            }
            now < *until
        });
        if let Some(Todo { id, asked }) = surveys.todo.pop_front() {
            self.survey(id, asked);
        }
        if self.surveys.is_over() && self.surveys.scratch.take().is_some() {
            self.surveys.aside_at = Some(self.now().plus(FRESH));
        }
        self.give_back(now);
    }

    /// Gives memory back when its time has come; never in an episode, which it would hold up.
    fn give_back(&mut self, now: Moment) {
        let due = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        let (aside, forget) = (due(self.surveys.aside_at), due(self.surveys.forget_at()));
        if !aside && !forget {
            return;
        }
        if self.is_in_episode() {
            let later = Some(now.plus(FRESH));
            let surveys = &mut self.surveys;
            surveys.aside_at = surveys.aside_at.and(later);
            if forget {
                surveys.asked_at = Some(now);
            }
            return;
        }
        if forget {
            let out = std::mem::take(&mut self.surveys.out);
            self.surveys = Surveys { out, ..Surveys::default() };
            self.give_identities_back(|_| true);
        } else {
            self.surveys.put_aside();
            self.surveys.aside_at = None;
            // Of a container in which nobody works they are not worth their room until the next
            // survey: the table alone is half a KiB.
            let kept = std::mem::take(&mut self.surveys.kept);
            self.give_identities_back(|watch| {
                let brief = kept.iter().find(|kept| kept.id == watch.id).map(|kept| &kept.seen);
                let idle = matches!(brief, Some(Seen::Brief(brief)) if brief.notebooks_total == 0);
                idle && watch.domain.identities.len() <= FEW
            });
            self.surveys.kept = kept;
        }
        self.helper.rest();
        let given = match self.config.guard.lock_memory {
            true => sys::memory::trim_locked(),
            false => {
                sys::memory::trim();
                Ok(())
            }
        };
        if let Err(error) = given {
            debug!("memory was not given back: {error}, skipped");
        }
    }

    /// Those that only a survey wanted; what a look at the warning step has read stays.
    fn give_identities_back(&mut self, is_meant: impl Fn(&Watch) -> bool) {
        for watch in self.watches.iter_mut().flatten() {
            if watch.domain.lent && is_meant(watch) {
                watch.domain.identities = Default::default();
                watch.domain.lent = false;
            }
        }
    }

    /// Identities that were read for a survey.
    pub(super) fn on_surveyed(
        &mut self,
        id: WatchId,
        read: Vec<crate::policy::identity::Identity>,
        last: bool,
    ) {
        if let Some(watch) = self.watch_mut(id) {
            let domain = &mut watch.domain;
            domain.lent |= domain.identities.is_empty() && !read.is_empty();
            for identity in read {
                domain.identities.insert(identity);
            }
        }
        let surveys = &mut self.surveys;
        if last {
            surveys.out.retain(|of| *of != id);
        }
        if last && surveys.reading.iter().any(|(of, _)| *of == id) {
            surveys.reading.retain(|(of, _)| *of != id);
            surveys.todo.push_front(Todo { id, asked: true });
        }
    }

    fn survey(&mut self, id: WatchId, asked: bool) {
        let began = self.now();
        let Some(watch) = self.watch(id) else { return };
        let seen = watch.seen;
        let slot = id.slot as usize;
        let Some(watch) = self.watches[slot].as_ref() else { return };
        let figures = match watch.group.figures(&mut self.buffer) {
            Ok(figures) => figures,
            Err(error) if error.is_gone() => return self.remove(id, "its figures are gone"),
            // It stands in the answer with what the guard knows anyway.
            Err(error) => return warn!("{error}: not in this survey, skipped"),
        };
        let events = figures.events;
        let rose = |now: u64, then: u64| now > then;
        if rose(events.high, seen.high)
            || rose(events.max, seen.max)
            || rose(events.oom_kill, seen.oom_kill)
        {
            // The descriptor was read, so that the event that is on its way may not come any more.
            self.on_memory_events(id);
            if self.is_in_episode() {
                return;
            }
        }
        let Some(scale) = self.scale(id, &figures) else { return };
        let guard = &self.scratch.guard;
        let room = self.surveys.scratch.take();
        let mut room = room.unwrap_or_else(|| Box::new(Scratch::new(guard.clone())));
        std::mem::swap(&mut self.scratch, &mut room);
        let found = self.survey_scan(id, &figures, scale, asked);
        std::mem::swap(&mut self.scratch, &mut room);
        self.surveys.scratch = Some(room);
        let Some((view, short)) = found else { return };
        let (at, wall) = (self.now(), SystemTime::now());
        let took = at.since(began);
        self.surveys.keep(Kept { id, at, wall, took, seen: Seen::Whole(Box::new(view)) });
        let covered = self.watch(id).is_some_and(|watch| watch.covered);
        // One that its slice covers is guarded there. At most once a second: figures are fresh for
        // as long.
        if short && !covered {
            self.drive(Some(id), Input::Wake(Wake::Asked));
        }
    }

    /// The scan, in room of its own. `None`: identities are being read first. Otherwise the view,
    /// and whether the gate lets an episode open on these very figures.
    fn survey_scan(
        &mut self,
        id: WatchId,
        figures: &Figures,
        scale: Scale,
        asked: bool,
    ) -> Option<(ContainerView, bool)> {
        let who = Some(id);
        self.scratch.figures = Some(*figures);
        self.scan(who);
        if !asked {
            let wanted = self.unread(id);
            if !wanted.is_empty() && !self.surveys.out.contains(&id) {
                let first = self.watch(id).is_none_or(|w| w.domain.identities.is_empty());
                let time = if first { FIRST_TIME } else { IDENTITIES_TIME };
                let until = self.now().plus(time);
                // By a thread of its own: a throttled process blocks its reader, and the reader of
                // the decisions must not wait behind that.
                if self.helper.ask_slowly(Question::Survey { watch: id, keys: wanted }) {
                    self.surveys.reading.push((id, until));
                    self.surveys.out.push(id);
                    return None;
                }
            }
        }
        self.note_activities(who);
        self.order(who, Purpose::Each, usize::MAX, false);
        self.ask_at_survey(who);
        let sum = self.scratch.ranking.sum();
        let now = self.now();
        let gate = self.gate(id, now, figures, scale, Some(sum));
        self.scratch.gate = Some((gate, scale));
        // `notebook_max` ends one although the gate holds.
        let short = gate.is_passed()
            || match self.decide(who, true, &gate, scale) {
                Some(Verdict::Kill(_)) => true,
                Some(Verdict::Hold(hold)) => hold.would.is_some(),
                _ => false,
            };
        let settings = self.watch(id)?.settings.clone();
        let open = telling::as_if_short(gate.measure().copied(), &settings);
        let verdict = self.decide(who, true, &open, scale)?;
        let Reactor { watches, scratch, .. } = self;
        let domain = &mut watches[id.slot as usize].as_mut()?.domain;
        domain.identities.prune(&scratch.procs);
        let view = self.view(id, figures, scale, &verdict)?;
        Some((view, short))
    }

    /// Processes whose argv and environment nobody has read.
    fn unread(&self, id: WatchId) -> Vec<ProcKey> {
        let Some(watch) = self.watch(id) else { return Vec::new() };
        let ids = &watch.domain.identities;
        if ids.len() >= MAX_IDENTITIES {
            return Vec::new();
        }
        let procs = self.scratch.procs.iter();
        let wanted = procs.filter(|proc| ids.wanted(proc) != Reading::No).map(|proc| proc.key);
        wanted.take(IDENTITIES_AT_ONCE).collect()
    }

    fn view(
        &self,
        id: WatchId,
        figures: &Figures,
        scale: Scale,
        verdict: &Verdict,
    ) -> Option<ContainerView> {
        let watch = self.watch(id)?;
        let ids = &watch.domain.identities;
        let scratch = &self.scratch;
        let of_container =
            |number: u16| super::clean::settings_at(number, &scratch.slots, &self.watches);
        let told = Told {
            procs: &scratch.procs,
            ids,
            forest: &scratch.forest,
            screen: &scratch.screen,
            ranking: &scratch.ranking,
            verdict,
            settings: &of_container,
        };
        let cleaning = told.cleaning(&watch.settings).map(Box::new);
        let mut view = self.outline(watch);
        Numbers::of(figures).fill(&mut view);
        view.total = scale.total;
        if watch.settings.gate == GateForm::Notebooks {
            let rest = figures.unreclaimable().less(scratch.ranking.sum().middle());
            view.threshold = scale.step(watch.settings.threshold, GateForm::Notebooks, rest);
        }
        let rows = told.rows(self.surveys.room(id));
        let facts = Facts {
            domain: "container",
            container: Some(&view.name),
            total: view.total,
            usage: view.usage,
            unreclaimable: view.unreclaimable,
            threshold: view.threshold,
            cleaning: cleaning.as_deref(),
        };
        let would = told.would(&rows, &facts);
        view.would = would;
        view.cleaning = cleaning;
        view.sum = scratch.ranking.rows().iter().map(|row| row.figure()).sum();
        view.ratio = telling::part(view.sum, view.total);
        view.notebooks_total = count(scratch.ranking.rows().len());
        view.servers = told.servers(SERVERS_MAX);
        view.unattributed = told.unattributed();
        view.notebooks = told.notebooks(rows, view.total);
        Some(view)
    }

    /// What the guard knows of a container without reading anything.
    fn outline(&self, watch: &Watch) -> ContainerView {
        let shown = |text: &str| escape(text.as_bytes(), TEXT_MAX);
        let settings = &watch.settings;
        let mut view = ContainerView {
            id: shown(&watch.found.id),
            name: shown(&watch.container.name),
            image: shown(&watch.container.image),
            engine: watch.found.engine.as_str().to_owned(),
            mode: watch.mode.as_str().to_owned(),
            mode_reason: shown(&watch.mode_reason),
            state: watch.domain.machine.state_name().to_owned(),
            limit: watch.limit.bytes(),
            total: watch.steps.total,
            warning: watch.steps.warning,
            threshold: watch.steps.threshold,
            policy: settings.policy.word().to_owned(),
            dry_run: settings.dry_run,
            would: Would {
                end: None,
                reason: "unknown".to_owned(),
                sentence: "Not to be told now: an episode is open, and nothing is read that could \
                           hold it up."
                    .to_owned(),
            },
            ..ContainerView::default()
        };
        if let Some((_, figures)) = &watch.domain.last {
            Numbers::of(figures).fill(&mut view);
        }
        view
    }

    /// Lets somebody see the survey: of all containers, or of one alone, and then without the
    /// host.
    pub(super) fn with_survey<T>(
        &mut self,
        whose: Whose,
        see: impl FnOnce(&report::Survey, &Reactor) -> T,
    ) -> T {
        self.outline_missing(whose);
        let now = self.now();
        let mut taken: Vec<usize> = (0..self.surveys.kept.len())
            .filter(|at| {
                let id = self.surveys.kept[*at].id;
                self.watch(id).is_some() && whose.is_none_or(|asked| asked == id)
            })
            .collect();
        taken.sort_by_cached_key(|at| {
            let id = self.surveys.kept[*at].id;
            self.watch(id).map(|watch| watch.container.name.clone())
        });
        let oldest = taken.iter().map(|at| &self.surveys.kept[*at]).min_by_key(|kept| kept.at);
        let (at, wall) = oldest.map_or((now, SystemTime::now()), |kept| (kept.at, kept.wall));
        let host = whose.is_none().then(|| self.host_view());
        let ordered = orders::wall();
        let mut survey = report::Survey {
            schema: SCHEMA,
            time: humantime::format_rfc3339_millis(wall).to_string(),
            age_ms: u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX),
            host,
            paused: self.orders.pause(None, ordered).is_some(),
            containers: Vec::with_capacity(taken.len()),
        };
        // Where the views go back to; of the others there is nothing to keep.
        let mut back = Vec::with_capacity(taken.len());
        for at in taken {
            let kept = &mut self.surveys.kept[at];
            let id = kept.id;
            let whole = match std::mem::replace(&mut kept.seen, Seen::Outline) {
                Seen::Whole(view) => Some(*view),
                other => {
                    kept.seen = other;
                    None
                }
            };
            back.push(whole.is_some().then_some(at));
            let view = whole.unwrap_or_else(|| self.brief(at));
            survey.containers.push(self.as_of_now(id, view, ordered));
        }
        let answer = see(&survey, self);
        for (at, view) in back.into_iter().zip(survey.containers) {
            if let Some(at) = at {
                self.surveys.kept[at].seen = Seen::Whole(Box::new(view));
            }
        }
        answer
    }

    fn brief(&self, at: usize) -> ContainerView {
        let kept = &self.surveys.kept[at];
        let mut view = self.watch(kept.id).map(|watch| self.outline(watch)).unwrap_or_default();
        if let Seen::Brief(brief) = &kept.seen {
            brief.fill(&mut view);
        }
        view
    }

    /// With what moves on in the midst of an episode as well.
    fn as_of_now(&self, id: WatchId, mut view: ContainerView, ordered: u64) -> ContainerView {
        if let Some(watch) = self.watch(id) {
            let id = &watch.found.id;
            view.state = watch.domain.machine.state_name().to_owned();
            view.counts = watch.counts;
            view.paused = self.orders.pause(Some(id), ordered).is_some();
            view.protected = watch.settings.protect
                || watch.protection.whole.is_some()
                || self.orders.protection(id, ordered).is_some();
        }
        view
    }

    fn outline_missing(&mut self, whose: Whose) {
        let ids: Vec<WatchId> = self
            .watches
            .iter()
            .flatten()
            .filter(|watch| watch.kind == Kind::Container)
            .map(|watch| watch.id)
            .filter(|id| whose.is_none_or(|asked| asked == *id))
            .filter(|id| self.surveys.find(*id).is_none())
            .collect();
        for id in ids {
            let Some(watch) = self.watch(id) else { continue };
            let at = watch.domain.last.map_or_else(|| self.now(), |(at, _)| at);
            let age = self.now().since(at);
            let wall = SystemTime::now().checked_sub(age).unwrap_or_else(SystemTime::now);
            let took = Duration::ZERO;
            self.surveys.keep(Kept { id, at, wall, took, seen: Seen::Outline });
        }
        let Reactor { surveys, watches, .. } = self;
        surveys.kept.retain(|kept| watches.iter().flatten().any(|watch| watch.id == kept.id));
    }

    fn host_view(&mut self) -> HostView {
        if !self.is_in_episode() {
            self.read_host();
        }
        let memory = &self.host.memory;
        HostView {
            name: self.hostname.clone(),
            mode: match self.hierarchies.mode {
                HostMode::V2 => "v2",
                HostMode::Hybrid => "hybrid",
                HostMode::V1 => "v1",
            }
            .to_owned(),
            total: memory.total,
            available: memory.available,
            swap_total: memory.swap_total,
            swap_free: memory.swap_free,
            threshold: memory.total.times(self.host.settings.threshold),
        }
    }

    /// Whether it guards, and what keeps it from it.
    pub(super) fn health(&mut self, whose: Whose) -> (bool, report::Health) {
        let readable = self.is_in_episode() || self.read_host().is_some();
        let all = || {
            let watches = self.watches.iter().flatten().filter(|w| w.kind == Kind::Container);
            watches.filter(|watch| whose.is_none_or(|asked| asked == watch.id))
        };
        let containers = all().count();
        let deaf = |watch: &Watch| watch.mode == Mode::None && !watch.covered;
        let wrong = if !readable {
            Some("/proc/meminfo cannot be read")
        } else if containers > 0 && all().all(|watch| deaf(watch)) {
            Some("nothing can tell it that a container runs short; nbguard doctor says more")
        } else {
            None
        };
        let health = report::Health {
            status: wrong.unwrap_or("ok").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.began.elapsed().as_secs(),
            containers: count(containers),
        };
        (wrong.is_none(), health)
    }
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}
