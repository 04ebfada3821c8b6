//! Looking and ranking: reads the figures of a domain, passes them through the gate, scans its
//! processes, and lets policy decide. All in vectors that are kept: after the first episode
//! nothing here allocates between an event and a signal.

use ::log::warn;

use super::clean;
use super::counters::Trouble;
use super::helper::{Asker, Question};
use super::orders;
use super::watch::{self, Kind, Steps, Wanted};
use super::{Reactor, domain_of, domain_of_mut, settings_of};
use crate::act::kill::{Spare, Target};
use crate::config::{Gate as GateForm, Policy, Settings};
use crate::facts::{Figures, Limit, Proc};
use crate::host::group::Error as GroupError;
use crate::host::{StatFiles, procs};
use crate::ids::{ProcKey, WatchId};
use crate::policy::clean::Inside;
use crate::policy::decide::{
    self, Before, Case, Exclusion, Gate, HoldReason, Kill, Scale, Screen, Verdict,
};
use crate::policy::episode::{ANSWER_BUDGET, Decision, Level, Looked};
use crate::policy::identity::Wanted as Reading;
use crate::policy::orders::Whom;
use crate::policy::rank::{GroupMemory, Purpose, Ranking};
use crate::policy::tree::{Context, Forest};
use crate::roots::{Buffer, Roots};
use crate::runtime::jupyter;
use crate::units::{Bytes, Moment, Share};

/// Processes for which there is room from the start: a container has tens.
const ROOM: usize = 2048;
/// As near to the limit as this, waiting for anything risks the kernel's OOM killer.
const CRITICAL: Share = Share::percent(3);
/// How far below a step what cannot be reclaimed must be before the tripwire goes (back) there.
const DISTANCE: Share = Share::percent(5);
/// At the crossing of a step reclaim has already taken a little of the usage away again.
const NEAR: Share = Share::percent(1);
/// A process whose argv nobody has read may be a tracker only if it is as small as one.
const UNREAD_MAX: usize = 8;

/// Everything a decision is made in. Valid for the domain that was scanned last.
pub(super) struct Scratch {
    pub pids: Vec<(u32, u16)>,
    pub procs: Vec<Proc>,
    /// Somebody is missing in `procs` who is there.
    pub unread: bool,
    pub forest: Forest,
    pub ranking: Ranking,
    pub screen: Screen,
    pub groups: Vec<Option<GroupMemory>>,
    pub inits: Vec<Option<u32>>,
    pub guard: Vec<u32>,
    pub targets: Vec<Target>,
    pub slots: Vec<u32>,
    pub verdict: Option<Verdict>,
    pub of: Option<Asker>,
    /// Figures and gate of the last look at the domain.
    pub figures: Option<Figures>,
    pub gate: Option<(Gate, Scale)>,
}

impl Scratch {
    pub fn new(guard: Vec<u32>) -> Scratch {
        Scratch {
            pids: Vec::with_capacity(ROOM),
            procs: Vec::with_capacity(ROOM),
            unread: false,
            forest: Forest::default(),
            ranking: Ranking::default(),
            screen: Screen::default(),
            groups: Vec::with_capacity(64),
            inits: Vec::with_capacity(64),
            guard,
            targets: Vec::with_capacity(ROOM),
            slots: Vec::with_capacity(64),
            verdict: None,
            of: None,
            figures: None,
            gate: None,
        }
    }
}

/// This process and everything above it: never part of a tree that is ended.
pub(super) fn own_line(roots: &Roots, buffer: &mut Buffer) -> Vec<u32> {
    let mut line = vec![std::process::id()];
    while let Some(pid) = line.last().copied().filter(|pid| *pid > 1) {
        match procs::read_stat(roots, pid, buffer) {
            Ok(stat) if stat.ppid != 0 && !line.contains(&stat.ppid) => line.push(stat.ppid),
            _ => break,
        }
    }
    line
}

impl Reactor {
    /// Reads the figures of a domain. `None`: it is gone.
    pub(super) fn look(&mut self, who: Asker) -> Option<Looked> {
        match who {
            Some(id) => self.look_at(id),
            None => Some(self.look_at_host()),
        }
    }

    fn look_at(&mut self, id: WatchId) -> Option<Looked> {
        let now = self.now();
        let slot = id.slot as usize;
        self.watch(id)?;
        let watch = self.watches[slot].as_ref()?;
        let figures = match watch.group.figures(&mut self.buffer) {
            Ok(figures) => figures,
            Err(error) if error.is_gone() => {
                self.remove(id, "its figures are gone");
                return None;
            }
            Err(error) => {
                self.count_trouble(Trouble::FiguresUnreadable);
                warn!("{error}: this look is skipped");
                return Some(Looked::UNREADABLE);
            }
        };
        let scale = self.scale(id, &figures)?;
        let mut gate = self.gate(id, now, &figures, scale, None);
        if gate == Gate::NeedSum {
            let sum = self.sum(Some(id), &figures);
            gate = self.gate(id, now, &figures, scale, Some(sum));
        }
        let watch = self.watches[slot].as_mut()?;
        let total = watch.steps.total;
        let events = figures.events;
        let rose = if watch.is_v1() {
            figures.usage.plus(total.times(CRITICAL)) >= watch.steps.threshold
        } else {
            events.high > watch.seen.high || events.max > watch.seen.max
        };
        let oom_kills = events.oom_kill.saturating_sub(watch.seen.oom_kill);
        watch.seen = events;
        watch.domain.last = Some((now, figures));
        let below = |bytes: Bytes, step: Bytes| {
            bytes.plus(total.times(DISTANCE)) <= step && !gate.is_passed()
        };
        let low = |bytes: Bytes| below(bytes, watch.steps.warning);
        let looked = Looked {
            passed: gate.is_passed(),
            below_warning: low(figures.usage),
            mostly_cache: low(figures.unreclaimable()),
            below_last_call: watch.steps.last_call.is_some_and(|step| below(figures.usage, step)),
            below_threshold: gate.measure().is_some_and(|m| m.counted <= m.relief),
            critical: figures.usage.plus(total.times(CRITICAL)) >= total,
            level: level(&figures, &gate, &watch.steps, &watch.settings),
            rose,
            unreadable: false,
        };
        self.scratch.figures = Some(figures);
        self.scratch.gate = Some((gate, scale));
        self.scratch.of = None;
        self.scratch.verdict = None;
        if oom_kills > 0 {
            self.on_kernel_oom(id, oom_kills);
        }
        if looked.level == Level::Low {
            self.forget_stat_files(Some(id));
        }
        Some(looked)
    }

    pub(super) fn scale(&self, id: WatchId, figures: &Figures) -> Option<Scale> {
        let watch = self.watch(id)?;
        let foreign = match watch.high.ours {
            Some(_) => Limit::Max,
            None => watch.high.original,
        };
        Some(Scale::of(figures, foreign, &self.host.memory))
    }

    pub(super) fn gate(
        &self,
        id: WatchId,
        now: Moment,
        figures: &Figures,
        scale: Scale,
        sum: Option<crate::policy::rank::Interval>,
    ) -> Gate {
        let Some(watch) = self.watch(id) else { return Gate::NeedSum };
        let before = match &watch.domain.last {
            Some((at, figures)) if watch.domain.machine.may_prove_thrash() => {
                Some(Before { figures, ago: now.since(*at) })
            }
            _ => None,
        };
        decide::gate(figures, before, scale, &watch.settings, sum)
    }

    /// What the workloads of a domain hold together, for the source system's comparison.
    fn sum(&mut self, who: Asker, figures: &Figures) -> crate::policy::rank::Interval {
        self.scratch.figures = Some(*figures);
        self.scan(who);
        self.order(who, Purpose::Each, usize::MAX, false);
        self.scratch.ranking.sum()
    }

    /// Reads who is in the domain and groups them into workloads.
    pub(super) fn scan(&mut self, who: Asker) {
        self.scan_processes(who);
        let Reactor { watches, host, scratch, buffer, .. } = self;
        scratch.inits.clear();
        scratch.groups.clear();
        for slot in &scratch.slots {
            let watch = watches[*slot as usize].as_ref();
            scratch.inits.push(watch.and_then(|watch| watch.container.pid1));
            let own = match (watch, who, &scratch.figures) {
                (Some(watch), Some(id), Some(figures)) if watch.id == id => Some(*figures),
                (Some(watch), ..) => watch.group.figures(buffer).ok(),
                (None, ..) => None,
            };
            scratch.groups.push(own.as_ref().map(GroupMemory::from));
        }
        find_inits(&scratch.procs, &mut scratch.inits);
        let Some(domain) = domain_of(who, watches, host) else { return };
        let context = Context { inits: &scratch.inits, guard: &scratch.guard };
        scratch.forest.build(&scratch.procs, &domain.identities, &context);
        self.look_inside(who);
        let Reactor { watches, host, scratch, .. } = self;
        let Some(domain) = domain_of_mut(who, watches, host) else { return };
        scratch.forest.remember(&scratch.procs, &mut domain.identities);
        scratch.of = Some(who);
        scratch.verdict = None;
    }

    /// `stat` of every process in the domain, and nothing else.
    pub(super) fn scan_processes(&mut self, who: Asker) {
        self.slots_of(who);
        let Reactor { watches, host, scratch, roots, buffer, .. } = self;
        scratch.pids.clear();
        let mut lists = 0;
        for (number, slot) in scratch.slots.iter().enumerate() {
            let Some(watch) = watches[*slot as usize].as_ref() else { continue };
            let index = u16::try_from(number).unwrap_or(u16::MAX);
            // One that is gone by now has no processes to rank; its removal comes as an event.
            match watch.group.pids(index, &mut scratch.pids, buffer) {
                Ok(_) | Err(GroupError::Gone { .. }) => {}
                Err(_) => lists += 1,
            }
        }
        let none = StatFiles::default();
        let kept = domain_of(who, watches, host).and_then(|domain| domain.stat_files.as_deref());
        let files = kept.unwrap_or(&none);
        let count = files.scan(roots, &scratch.pids, &mut scratch.procs, buffer);
        scratch.of = None;
        // Who is denied is denied the next time as well: the others are ranked without him.
        scratch.unread = lists > 0 || count.malformed > 0;
        let unreadable = u64::from(count.denied) + u64::from(count.malformed) + lists;
        self.count_troubles(Trouble::ProcessUnreadable, unreadable);
    }

    /// `stat` of every process of one container, numbered as a scan before had it: whether their
    /// list could be read in full. `None`: it is gone.
    pub(super) fn scan_container(&mut self, id: WatchId, number: u16) -> Option<bool> {
        self.watch(id)?;
        let Reactor { watches, scratch, roots, buffer, .. } = self;
        let watch = watches[id.slot as usize].as_ref()?;
        scratch.of = None;
        scratch.verdict = None;
        scratch.pids.clear();
        let listed = watch.group.pids(number, &mut scratch.pids, buffer);
        procs::scan(roots, &scratch.pids, &mut scratch.procs, buffer);
        match listed {
            Ok(count) => Some(count.unread == 0),
            Err(GroupError::Gone { .. }) => None,
            Err(_) => Some(false),
        }
    }

    /// The slots of the containers whose processes a domain ranks.
    fn slots_of(&mut self, who: Asker) {
        self.scratch.slots.clear();
        let slots = match who {
            Some(id) => match self.watches.get(id.slot as usize).and_then(Option::as_ref) {
                Some(watch) if watch.kind == Kind::Slice => &watch.members,
                Some(_) => return self.scratch.slots.push(id.slot),
                None => return,
            },
            None => &self.host.members,
        };
        self.scratch.slots.extend_from_slice(slots);
    }

    /// Puts the workloads of the scan in order, reading `status` where that settles something.
    pub(super) fn order(&mut self, who: Asker, purpose: Purpose, budget: usize, last: bool) {
        let now = self.now();
        let urgent = last || self.is_urgent(who);
        let Reactor { watches, host, scratch, roots, buffer, recent, orders, .. } = self;
        let Some(domain) = domain_of(who, watches, host) else { return };
        if let Some(episode) = &domain.episode {
            for (key, pss) in &episode.pss {
                if let Some(proc) = scratch.procs.iter_mut().find(|proc| proc.key == *key) {
                    proc.pss = *pss;
                }
            }
        }
        let slots = &scratch.slots;
        let wall = orders::wall();
        let all_paused = orders.pause(None, wall).is_some();
        let rule = |view: &decide::View<'_>| -> Option<Exclusion> {
            let slot = *slots.get(usize::from(view.workload.container))?;
            let watch = watches[slot as usize].as_ref()?;
            if watch.protection.whole.is_some() {
                return Some(Exclusion::ProtectedContainer);
            }
            if watch.protection.users.contains(&view.workload.uid) {
                return Some(Exclusion::ProtectedUser);
            }
            if watch.protection.of(view.notebook, view.kernel_id, view.workload.uid).is_some() {
                return Some(Exclusion::ProtectedNotebook);
            }
            if orders.protects(&watch.found.id, &Whom::from(view), wall).is_some() {
                return Some(Exclusion::ProtectedByCommand);
            }
            // Of the domain itself, or of all, the verdict knows: it says who it would have been.
            let of_another = who != Some(watch.id) && !all_paused;
            if of_another && orders.pause(Some(&watch.found.id), wall).is_some() {
                return Some(Exclusion::Paused);
            }
            if who.is_none() && watch.settings.dry_run {
                return Some(Exclusion::DryRun);
            }
            let rests = recent.rests(&watch.found.id, view, &watch.settings, now);
            (rests && !urgent).then_some(Exclusion::Backoff)
        };
        scratch.screen.sift(&scratch.forest, &domain.identities, rule);
        let Scratch { ranking, forest, procs, groups, screen, .. } = scratch;
        ranking.begin(forest, procs, groups, budget, |number| screen.competes(number));
        loop {
            let batch = ranking.next_to_read(procs, purpose);
            if batch.is_empty() {
                break;
            }
            for index in batch {
                let pid = procs[*index as usize].key.pid;
                procs[*index as usize].memory = procs::read_memory(roots, pid, buffer);
            }
            ranking.learn(procs);
        }
    }

    /// Whether a notebook that was ended a moment ago must be ended again all the same: tasks
    /// stall, or the limit is near.
    fn is_urgent(&self, who: Asker) -> bool {
        let stalled = self
            .domain(who)
            .and_then(|domain| domain.episode.as_ref())
            .is_some_and(|episode| episode.stalled);
        let near = self.scratch.figures.as_ref().zip(self.scratch.gate.as_ref()).is_some_and(
            |(figures, (_, scale))| figures.usage.plus(scale.total.times(CRITICAL)) >= scale.total,
        );
        stalled || near
    }

    /// Ranks and decides. The verdict stays in the scratch for the effect that follows.
    pub(super) fn rank(&mut self, who: Asker, last: bool, gate_passed: bool) -> Decision {
        if self.endings.in_flight() {
            // The scratch holds somebody else's verdict.
            self.scratch.verdict = None;
            return Decision::Busy;
        }
        let Some((gate, scale)) = self.scratch.gate else { return Decision::HoldForNow };
        if gate_passed && !gate.is_passed() {
            return Decision::HoldForNow;
        }
        let Some(settings) = self.settings(who) else { return Decision::Hold };
        let purpose = Screen::purpose(settings, scale, &gate);
        self.scan(who);
        let budget = self.status_budget(who);
        self.order(who, purpose, budget, last);
        let verdict = self.decide(who, last, &gate, scale);
        self.scratch.verdict = verdict;
        match verdict {
            Some(Verdict::Kill(kill)) if kill.why.is_cleaners() => {
                Decision::Clear { gently: self.asked_by(who).is_some() }
            }
            Some(Verdict::Kill(_)) => Decision::Kill,
            Some(Verdict::Hold(hold)) if hold.reason == HoldReason::DryRun => Decision::Kill,
            Some(Verdict::Hold(hold)) => match hold.reason {
                HoldReason::Relieved | HoldReason::BenignCache | HoldReason::Backoff => {
                    Decision::HoldForNow
                }
                HoldReason::IdentityUnknown if self.is_reading(who) => Decision::Reading,
                HoldReason::IdentityUnknown => Decision::HoldForNow,
                _ => Decision::Hold,
            },
            Some(Verdict::NeedIdentity) if self.is_reading(who) => Decision::Reading,
            Some(Verdict::NeedIdentity) => {
                let keys = self.asked();
                self.want(who, Wanted::Identities(keys));
                Decision::Ask
            }
            Some(Verdict::NeedPss) => {
                let keys = self.asked();
                self.want(who, Wanted::Pss(keys));
                Decision::Ask
            }
            Some(Verdict::NeedActivity) => {
                let keys = self.asked();
                self.want(who, Wanted::Activity(keys));
                Decision::Ask
            }
            None => Decision::Hold,
        }
    }

    pub(super) fn decide(
        &mut self,
        who: Asker,
        late: bool,
        gate: &Gate,
        scale: Scale,
    ) -> Option<Verdict> {
        let now = self.now();
        let Reactor { watches, host, scratch, orders, .. } = self;
        let watch = who.and_then(|id| watches[id.slot as usize].as_ref());
        let container = watch.map(|watch| watch.found.id.as_str());
        let domain = domain_of(who, watches, host)?;
        let Scratch { ranking, forest, procs, screen, slots, .. } = scratch;
        let of_container = |number: u16| clean::settings_at(number, slots, watches);
        let inside = Inside {
            ids: &domain.identities,
            activities: &domain.activities,
            settings: &of_container,
            now,
            clearing: domain.machine.is_clearing(),
            spent: domain.chain.as_ref().is_some_and(|chain| chain.is_spent(now)),
        };
        let case = Case {
            forest,
            procs,
            settings: settings_of(who, watches, host)?,
            scale,
            gate,
            baseline: domain.baseline.as_deref(),
            paused: orders.pause(container, orders::wall()).is_some(),
            late,
            unread: scratch.unread,
            inside: Some(&inside),
        };
        Some(screen.decide(&case, ranking))
    }

    fn is_reading(&self, who: Asker) -> bool {
        self.domain(who).is_some_and(|domain| domain.reading)
    }

    fn asked(&self) -> Vec<ProcKey> {
        let procs = &self.scratch.procs;
        self.scratch.screen.asked().iter().map(|i| procs[*i as usize].key).collect()
    }

    fn want(&mut self, who: Asker, wanted: Wanted) {
        if let Some(domain) = self.domain_mut(who) {
            domain.wanted = Some(Box::new(wanted));
        }
    }

    /// Hands to the helper what the decision asked for.
    pub(super) fn ask(&mut self, who: Asker) {
        let Some(domain) = self.domain_mut(who) else { return };
        let Some(wanted) = domain.wanted.take() else { return };
        let episode = domain.episode_id();
        match *wanted {
            Wanted::Identities(keys) => {
                domain.reading = true;
                self.helper.ask(Question::Identify { asker: who, episode, keys });
            }
            Wanted::Pss(keys) => {
                let until = std::time::Instant::now() + ANSWER_BUDGET;
                self.helper.ask(Question::Pss { asker: who, episode, keys, until });
            }
            Wanted::Activity(keys) => {
                domain.listening = true;
                self.ask_activity(who, &keys);
            }
        }
    }

    /// Who would end if the threshold were reached now, and what that one holds.
    pub(super) fn would_end(&mut self, who: Asker) -> Option<(Kill, Bytes)> {
        let (gate, scale) = self.scratch.gate?;
        // Who is idle reads nothing, and who is busy does not end.
        if self.settings(who)?.policy == Policy::IdleFirst {
            return None;
        }
        if self.scratch.of != Some(who) {
            self.scan(who);
            self.order(who, Purpose::Each, usize::MAX, false);
        }
        let verdict = self.decide(who, true, &gate.at_the_threshold(), scale)?;
        let Verdict::Kill(kill) = verdict else { return None };
        let holds = self.scratch.ranking.row(kill.workload)?.figure();
        let worth = scale.total.times(self.settings(who)?.min_share);
        (holds >= worth).then_some((kill, holds))
    }

    /// The look at the last call: who came since the warning look is read as well, and what
    /// everybody held then stays what growth is told by.
    pub(super) fn identify_new(&mut self, who: Asker) {
        self.scratch.figures = None;
        self.scan(who);
        self.read_identities(who);
    }

    /// The warning look: nothing is throttled yet, so argv and environ are read here and now, and
    /// what everybody holds is kept, so that growth can be told later.
    pub(super) fn identify(&mut self, who: Asker) {
        self.scratch.figures = None;
        self.scan_processes(who);
        self.read_identities(who);
        self.scan(who);
        self.order(who, Purpose::Each, usize::MAX, false);
        let Reactor { watches, host, scratch, .. } = self;
        let Some(domain) = domain_of_mut(who, watches, host) else { return };
        domain.identities.prune(&scratch.procs);
        domain.lent = false;

        domain.baseline.get_or_insert_default().take(&scratch.ranking);
        if let Some(id) = who {
            self.place_for_notebooks(id);
            self.keep_stat_files(id);
        }
        self.ask_at_warning(who);
    }

    /// What an episode reads first is kept open for it. A host's episode has too much of it.
    fn keep_stat_files(&mut self, id: WatchId) {
        let others = self.watches.iter().flatten().filter(|watch| watch.id != id);
        let kept = others.filter_map(|watch| watch.domain.stat_files.as_ref());
        let room = self.stat_files_max.saturating_sub(kept.map(|files| files.len()).sum());
        let Reactor { watches, scratch, roots, buffer, .. } = self;
        let Some(watch) = watch::of_mut(id, watches) else { return };
        let files = watch.domain.stat_files.get_or_insert_default();
        let gone = files.keep(roots, &scratch.procs, room, buffer);
        self.close(gone);
    }

    pub(super) fn forget_stat_files(&mut self, who: Asker) {
        if let Some(files) = self.domain_mut(who).and_then(|domain| domain.stat_files.take()) {
            self.close(files.into_files());
        }
    }

    fn read_identities(&mut self, who: Asker) {
        let Reactor { watches, host, scratch, roots, buffer, .. } = self;
        let Some(domain) = domain_of_mut(who, watches, host) else { return };
        let now = jupyter::boot_ticks();
        for proc in &scratch.procs {
            if domain.identities.wanted(proc) == Reading::No {
                continue;
            }
            if let Ok(identity) = jupyter::identify(roots, proc.key, now, buffer)
                && !domain.identities.insert(identity)
            {
                return;
            }
        }
    }

    /// With `gate = "notebooks"` the threshold is a share of what is left for the notebooks: now
    /// that it is known what the rest holds, the tripwire can stand where that puts it.
    fn place_for_notebooks(&mut self, id: WatchId) {
        let sum = self.scratch.ranking.sum().middle();
        let rest = self.held_now(Some(id)).less(sum);
        let Some(watch) = self.watch_mut(id) else { return };
        if watch.settings.gate == GateForm::Notebooks && watch.high.ours.is_some() {
            let scale = Scale { total: watch.steps.total, swap: Bytes::ZERO };
            let at = |share| scale.step(share, GateForm::Notebooks, rest).whole_pages();
            watch.steps.threshold = at(watch.settings.threshold);
            if let (Some(step), Some(share)) =
                (&mut watch.steps.last_call, watch.settings.last_call)
            {
                *step = at(share);
            }
            let value = watch.value_of(watch.domain.machine.stands());
            self.set_high(id, value);
        }
    }

    /// Fills the targets of the verdict's workload, parents first, trackers marked.
    pub(super) fn fill_targets(&mut self, who: Asker) -> bool {
        let Reactor { watches, host, scratch, .. } = self;
        let domain = domain_of(who, watches, host);
        let (Some(domain), Some(Verdict::Kill(kill))) = (domain, &scratch.verdict) else {
            return false;
        };
        let Scratch { forest, procs, targets, .. } = scratch;
        let Some(workload) = forest.workloads().get(kill.workload as usize) else { return false };
        targets.clear();
        let gently = clean::asks_by(kill, &domain.identities).is_some();
        let mut unread = 0;
        for member in forest.members(workload) {
            let proc = &procs[member.index as usize];
            if proc.is_zombie() {
                continue;
            }
            let is_root = proc.key == workload.root;
            if gently {
                let spare = if is_root { Spare::No } else { Spare::Later };
                targets.push(Target { key: proc.key, spare });
                continue;
            }
            let small = proc.rss <= crate::policy::tree::TRACKER_MAX;
            let unknown = domain.identities.get(proc.key).is_none();
            let spare = if !is_root && small && unknown && unread < UNREAD_MAX {
                unread += 1;
                Spare::Unread
            } else {
                Spare::No
            };
            targets.push(Target { key: proc.key, spare });
        }
        if gently {
            return true;
        }
        for index in forest.trackers(workload, procs, &domain.identities) {
            let key = procs[index as usize].key;
            if let Some(target) = targets.iter_mut().find(|target| target.key == key) {
                target.spare = Spare::Tracker;
            }
        }
        true
    }
}

/// How far usage has risen. What counts must be there as well: a container that is filled by page
/// cache is short of nothing.
fn level(figures: &Figures, gate: &Gate, steps: &Steps, settings: &Settings) -> Level {
    let at = |step: Bytes| figures.usage.plus(steps.total.times(NEAR)) >= step;
    let counts = |share| gate.measure().is_some_and(|measure| measure.reaches(share));
    let last_call = steps.last_call.zip(settings.last_call);
    if !at(steps.warning) {
        Level::Low
    } else if last_call.is_some_and(|(step, share)| at(step) && counts(share)) {
        Level::LastCall
    } else if counts(settings.warning) {
        Level::Warning
    } else {
        Level::Cache
    }
}

/// Where the engine did not say which process is the container's first: the oldest one whose
/// parent is not in the container. A scan lists container after container, each in order of pid.
fn find_inits(procs: &[Proc], inits: &mut [Option<u32>]) {
    let mut rest = procs;
    for (container, init) in inits.iter_mut().enumerate() {
        let (of_it, others) =
            rest.split_at(rest.partition_point(|p| usize::from(p.container) <= container));
        rest = others;
        if init.is_some() {
            continue;
        }
        let is_inside = |pid| of_it.binary_search_by_key(&pid, |p| p.key.pid).is_ok();
        *init = of_it
            .iter()
            .filter(|p| !is_inside(p.ppid))
            .min_by_key(|p| (p.key.start, p.key.pid))
            .map(|p| p.key.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Comm, Field, Why};

    fn proc(container: u16, pid: u32, ppid: u32, start: u64) -> Proc {
        Proc {
            key: ProcKey { pid, start },
            ppid,
            pgrp: pid,
            sid: pid,
            comm: Comm::default(),
            state: b'S',
            ticks: 0,
            rss: Bytes::ZERO,
            container,
            memory: Field::Unknown(Why::NotRead),
            pss: Field::Unknown(Why::NotRead),
        }
    }

    #[test]
    fn the_first_process_of_a_container_is_its_oldest_with_a_parent_outside() {
        let procs = [
            // A child with a smaller pid, and somebody who was brought in later.
            proc(0, 30, 90, 8),
            proc(0, 90, 5, 8),
            proc(0, 91, 90, 9),
            proc(0, 95, 7, 70),
            // Its parent's pid is in another container only.
            proc(1, 40, 30, 3),
            proc(1, 41, 40, 3),
            proc(3, 50, 1, 1),
        ];
        let mut inits = [None, None, None, Some(51), None];
        find_inits(&procs, &mut inits);
        assert_eq!(inits, [Some(90), Some(40), None, Some(51), None]);
    }
}
