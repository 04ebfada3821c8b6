//! The figures that are shown to whoever asks: one container a turn of the loop, so that an event
//! of the kernel never waits for more than one. Nothing is surveyed while an episode is open or a
//! kill is in flight: then the answer is what was last seen, with its age.
//!
//! What was read anyway passes through the gate as well, as a refresh did in the system this
//! comes from: a container whose mode is `none` is guarded by nothing else.
//!
//! Everything here is given back: the room for the scan when the survey is over, most of what it
//! found a second later, the rest when nobody has asked for a minute.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use ::log::{debug, warn};

use super::Reactor;
use super::decision::Scratch;
use super::helper::Question;
use super::watch::{Kind, Watch};
use crate::config::{Gate as GateForm, Policy};
use crate::facts::{Field, Figures, HostMode, Mode};
use crate::ids::{ProcKey, WatchId};
use crate::parse::escape;
use crate::policy::decide::{Scale, Verdict};
use crate::policy::episode::{Input, Wake};
use crate::policy::explain::Facts;
use crate::policy::identity::{MAX_IDENTITIES, Wanted as Reading};
use crate::policy::rank::Purpose;
use crate::policy::telling::{self, Bounds, TEXT_MAX, Told};
use crate::report::{self, ContainerView, HostView, SCHEMA, Would};
use crate::sys;
use crate::units::Moment;

/// Figures younger than this are the answer for the next one who asks, too.
const FRESH: Duration = Duration::from_secs(1);
/// How long the reading of identities may hold up an answer: a throttled process once held up
/// the reader of its `cmdline` for 491 ms. The answer then stands on what is known.
const IDENTITIES_TIME: Duration = Duration::from_millis(250);
/// The same where nothing is known yet: an answer would say that there are no notebooks.
const FIRST_TIME: Duration = Duration::from_secs(2);
/// Identities that are asked for at once: 40 µs each.
const IDENTITIES_AT_ONCE: usize = 2048;
/// When the last one who asked did so this long ago, nothing is kept any more.
const FORGET: Duration = Duration::from_secs(60);

/// Notebooks that are listed of one container, and of all together; of a container that comes
/// last when there is no more room, so many all the same.
const NOTEBOOKS_MAX: usize = 500;
const NOTEBOOKS_ALL: usize = 2048;
const NOTEBOOKS_LEAST: usize = 8;
/// Processes that are listed of one notebook, of one container, and of all.
const PROCESSES_MAX: usize = 256;
const PROCESSES_OF_ONE: usize = 4096;
const PROCESSES_ALL: usize = 16_384;
const SERVERS_MAX: usize = 64;
/// Notebooks of all containers that are kept for answers in the midst of an episode.
const KEPT: usize = 512;

const _: () = assert!(NOTEBOOKS_LEAST < NOTEBOOKS_MAX && NOTEBOOKS_MAX < NOTEBOOKS_ALL);

/// Whose figures: one container's, or all.
pub(super) type Whose = Option<WatchId>;

#[derive(Default)]
pub(super) struct Surveys {
    kept: Vec<Kept>,
    todo: VecDeque<Todo>,
    /// Containers whose identities are being read, and until when that is waited for.
    reading: Vec<(WatchId, Moment)>,
    /// Room for the scans, apart from that of the decisions, so that it can be given back.
    scratch: Option<Box<Scratch>>,
    asked_at: Option<Moment>,
    aside_at: Option<Moment>,
}

struct Todo {
    id: WatchId,
    /// The identities were asked for: what is not known by now stays unknown.
    asked: bool,
}

struct Kept {
    id: WatchId,
    at: Moment,
    wall: SystemTime,
    /// Nothing but what the guard knew anyway.
    is_outline: bool,
    view: ContainerView,
}

impl Surveys {
    /// Whether the next turn of the loop has a container to look at.
    pub fn has_work(&self) -> bool {
        !self.todo.is_empty()
    }

    pub fn deadline(&self) -> Option<Moment> {
        let reading = self.reading.iter().map(|(_, until)| *until);
        reading.chain(self.aside_at).chain(self.forget_at()).min()
    }

    fn forget_at(&self) -> Option<Moment> {
        self.asked_at.map(|at| at.plus(FORGET))
    }

    fn is_under_way(&self, id: WatchId) -> bool {
        self.todo.iter().any(|todo| todo.id == id) || self.reading.iter().any(|(of, _)| *of == id)
    }

    /// Whether everything that was asked for has been looked at.
    pub fn is_ready(&self, whose: Whose) -> bool {
        match whose {
            Some(id) => !self.is_under_way(id),
            None => self.todo.is_empty() && self.reading.is_empty(),
        }
    }

    fn is_over(&self) -> bool {
        self.todo.is_empty() && self.reading.is_empty()
    }

    fn find(&self, id: WatchId) -> Option<usize> {
        self.kept.iter().position(|kept| kept.id == id)
    }

    fn keep(&mut self, kept: Kept) {
        match self.find(kept.id) {
            Some(at) => self.kept[at] = kept,
            None => self.kept.push(kept),
        }
    }

    /// How much may be listed of one more container.
    fn room(&self, id: WatchId) -> Bounds {
        let others = || self.kept.iter().filter(|kept| kept.id != id).map(|kept| &kept.view);
        let notebooks: usize = others().map(|view| view.notebooks.len()).sum();
        let processes: usize =
            others().flat_map(|view| &view.notebooks).map(|n| n.processes.len()).sum();
        let rows = NOTEBOOKS_ALL.saturating_sub(notebooks);
        Bounds {
            rows: rows.clamp(NOTEBOOKS_LEAST, NOTEBOOKS_MAX),
            members: PROCESSES_MAX,
            all_members: PROCESSES_ALL.saturating_sub(processes).min(PROCESSES_OF_ONE),
        }
    }

    /// Keeps what an answer in the midst of an episode needs.
    fn put_aside(&mut self) {
        let each = (KEPT / self.kept.len().max(1)).max(1);
        for kept in &mut self.kept {
            let view = &mut kept.view;
            view.notebooks.truncate(each);
            view.notebooks.shrink_to_fit();
            for notebook in &mut view.notebooks {
                notebook.processes = Vec::new();
            }
            view.servers.truncate(1);
            view.servers.shrink_to_fit();
        }
    }
}

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
            let fresh = surveys.find(id).is_some_and(|at| {
                let kept = &surveys.kept[at];
                !kept.is_outline && now.since(kept.at) < FRESH
            });
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
            self.surveys = Surveys::default();
            self.helper.rest();
            for watch in self.watches.iter_mut().flatten() {
                if std::mem::take(&mut watch.domain.lent) {
                    watch.domain.identities = Default::default();
                }
            }
        } else {
            self.surveys.put_aside();
            self.surveys.aside_at = None;
        }
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
        if last && surveys.reading.iter().any(|(of, _)| *of == id) {
            surveys.reading.retain(|(of, _)| *of != id);
            surveys.todo.push_front(Todo { id, asked: true });
        }
    }

    fn survey(&mut self, id: WatchId, asked: bool) {
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
        self.surveys.keep(Kept { id, at, wall, is_outline: false, view });
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
            if !wanted.is_empty() {
                let first = self.watch(id).is_none_or(|w| w.domain.identities.is_empty());
                let time = if first { FIRST_TIME } else { IDENTITIES_TIME };
                let until = self.now().plus(time);
                // By a thread of its own: a throttled process blocks its reader, and the reader of
                // the decisions must not wait behind that.
                if self.helper.ask_slowly(Question::Survey { watch: id, keys: wanted }) {
                    self.surveys.reading.push((id, until));
                    return None;
                }
            }
        }
        self.order(who, Purpose::Each, usize::MAX, false);
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
        let told = Told {
            procs: &scratch.procs,
            ids,
            forest: &scratch.forest,
            screen: &scratch.screen,
            ranking: &scratch.ranking,
            verdict,
        };
        let mut view = self.outline(watch);
        fill_figures(&mut view, figures);
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
        };
        let would = told.would(&rows, &facts);
        view.would = would;
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
            policy: match settings.policy {
                Policy::Largest => "largest",
                Policy::Growing => "growing",
            }
            .to_owned(),
            dry_run: settings.dry_run,
            protected: settings.protect || watch.protection.whole.is_some(),
            counts: watch.counts,
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
            fill_figures(&mut view, figures);
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
        taken.sort_by(|a, b| {
            let name = |at: &usize| &self.surveys.kept[*at].view.name;
            name(a).cmp(name(b))
        });
        let oldest = taken.iter().map(|at| &self.surveys.kept[*at]).min_by_key(|kept| kept.at);
        let (at, wall) = oldest.map_or((now, SystemTime::now()), |kept| (kept.at, kept.wall));
        let host = whose.is_none().then(|| self.host_view());
        let mut survey = report::Survey {
            schema: SCHEMA,
            time: humantime::format_rfc3339_millis(wall).to_string(),
            age_ms: u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX),
            host,
            paused: false,
            containers: Vec::with_capacity(taken.len()),
        };
        for at in &taken {
            let kept = &mut self.surveys.kept[*at];
            let id = kept.id;
            survey.containers.push(std::mem::take(&mut kept.view));
            // These two move on in the midst of an episode.
            if let (Some(watch), Some(view)) = (self.watch(id), survey.containers.last_mut()) {
                view.state = watch.domain.machine.state_name().to_owned();
                view.counts = watch.counts;
            }
        }
        let seen = see(&survey, self);
        for (at, view) in taken.into_iter().zip(survey.containers) {
            self.surveys.kept[at].view = view;
        }
        seen
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
            let view = self.outline(watch);
            let age = self.now().since(at);
            let wall = SystemTime::now().checked_sub(age).unwrap_or_else(SystemTime::now);
            self.surveys.keep(Kept { id, at, wall, is_outline: true, view });
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

fn fill_figures(view: &mut ContainerView, figures: &Figures) {
    view.usage = figures.usage;
    view.unreclaimable = figures.unreclaimable();
    view.anon = figures.anon;
    view.shmem = figures.shmem;
    view.swap = figures.swap.known();
    view.limit = figures.limit.bytes();
    view.high = figures.high.bytes();
    if let Field::Known(psi) = figures.psi {
        view.psi_some_avg10 = Some(f64::from(psi.some_avg10) / 100.0);
        view.psi_full_avg10 = Some(f64::from(psi.full_avg10) / 100.0);
    }
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}
