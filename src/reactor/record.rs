//! Writing down what happened: the draft is made as soon as the signals are out, while the scan
//! still holds, and is completed when the tree is dead and what came back is measured.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, SystemTime};

use ::log::{Level, info, log_enabled, warn};

use super::Reactor;
use super::clean;
use super::helper::Asker;
use super::orders::wall;
use super::watch::{Kind, Watch};
use crate::act::kill::{Spare, Standing};
use crate::act::message::{Skip, Told};
use crate::config::{Config, Settings, Words};
use crate::facts::{Field, Proc};
use crate::ids::{EpisodeId, ProcKey, WatchId};
use crate::observe;
use crate::observe::file::Log;
use crate::parse::escape::escape;
use crate::policy::decide::{Exclusion, HoldReason, Kill, Verdict as Decided, View};
use crate::policy::episode::{Outcome, Wake};
use crate::policy::explain;
use crate::policy::orders::Whom;
use crate::policy::rank;
use crate::policy::telling;
use crate::policy::tree::Workload;
use crate::report::{
    ContainerRecord, FiguresRecord, Incident, Kind as RecordKind, ProcessRecord, Refusal, Row,
    SCHEMA, Timings, Unattributed, Verdict, Victim,
};
use crate::roots::Roots;
use crate::units::Moment;

/// Longest text of a field that a process or an image chose.
const TEXT_MAX: usize = 1024;
/// Rows, members and unattributed processes that a record lists; the rest is in the sums.
const ROWS_MAX: usize = 64;
const MEMBERS_MAX: usize = 256;
const UNATTRIBUTED_MAX: usize = 8;
/// The same container holding for the same reason is not told again for this long.
const HOLD_PAUSE: Duration = Duration::from_secs(600);

pub(super) fn log_file(config: &Config) -> Log {
    Log::new(&config.record.path, config.record.max_size, config.record.keep)
}

/// Who was ended a moment ago, and what was told a moment ago.
#[derive(Default)]
pub(super) struct Recent {
    ended: HashMap<Notebook, Ended>,
    holds: HashMap<(String, &'static str), Moment>,
}

/// A notebook over its restarts: the container and its path, or its kernel's id where it has no
/// path. What has neither does not come back under the same name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Notebook {
    container: String,
    name: String,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Moment,
    pause: Duration,
}

impl Recent {
    /// Whether this notebook was ended so shortly before that it rests.
    pub fn rests(&self, container: &str, view: &View<'_>, _: &Settings, now: Moment) -> bool {
        if self.ended.is_empty() {
            return false;
        }
        let Some(name) = view.notebook.or(view.kernel_id) else { return false };
        self.ended.iter().any(|(notebook, ended)| {
            notebook.container == container
                && notebook.name == name
                && now.since(ended.at) < ended.pause
        })
    }

    fn note(&mut self, container: &str, name: &str, settings: &Settings, now: Moment) {
        // It would be there for ever: most never come back.
        self.ended.retain(|_, ended| now.since(ended.at) < ended.pause * 2);
        let key = Notebook { container: container.to_owned(), name: name.to_owned() };
        let pause = match self.ended.get(&key) {
            // It came back within twice its pause: the next pause is twice as long.
            Some(last) => (last.pause * 2).min(settings.backoff_max),
            None => settings.backoff,
        };
        self.ended.insert(key, Ended { at: now, pause });
    }

    fn may_tell(&mut self, container: &str, reason: &'static str, now: Moment) -> bool {
        let key = (container.to_owned(), reason);
        self.holds.retain(|_, at| now.since(*at) < HOLD_PAUSE);
        if self.holds.contains_key(&key) {
            return false;
        }
        self.holds.insert(key, now);
        true
    }
}

/// The kernel's log, read only when the kernel has killed somebody.
pub(super) struct Kmsg(File);

impl Kmsg {
    /// At its end: what was there before is not ours.
    pub fn open(roots: &Roots) -> Option<Kmsg> {
        let path = roots.path("/dev/kmsg");
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Kmsg(file))
    }

    /// Processes that the kernel's OOM killer ended since the last call: pid and name
    /// (mm/oom_kill.c, `__oom_kill_process`).
    fn killed(&mut self) -> Vec<(u32, String)> {
        let mut killed = Vec::new();
        let mut line = [0u8; 8192];
        // 10,000 lines are more than a ring buffer holds.
        for _ in 0..10_000 {
            match self.0.read(&mut line) {
                Ok(0) => break,
                Ok(len) => killed.extend(killed_in(&line[..len])),
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        killed
    }
}

/// `… Killed process 1234 (python3) total-vm:…`
fn killed_in(line: &[u8]) -> Option<(u32, String)> {
    let text = String::from_utf8_lossy(line);
    let rest = &text[text.find("Killed process ")? + 15..];
    let (pid, rest) = rest.split_once(' ')?;
    let name = rest.strip_prefix('(')?.rsplit_once(") total-vm")?.0;
    Some((pid.parse().ok()?, escape(name.as_bytes(), 64)))
}

impl Reactor {
    /// The record as far as it is known when the decision is made.
    pub(super) fn draft(&mut self, who: Asker) -> Option<Box<Incident>> {
        let episode = self.domain(who)?.episode.as_ref()?;
        let (id, wall, wake, timings) = (episode.id, episode.wall, episode.wake, episode.timings);
        let mut incident = self.skeleton(who, id, wall, wake);
        incident.timings = timings;
        if self.scratch.of == Some(who) {
            self.fill_rows(who, &mut incident);
        }
        if let (Some(cleaning), Some(Decided::Kill(kill))) =
            (&mut incident.cleaning, &self.scratch.verdict)
            && kill.why.is_cleaners()
        {
            self.number_end(who, cleaning);
        }
        self.fill_verdict(&mut incident);
        self.fill_stack(who, &mut incident);
        Some(Box::new(incident))
    }

    /// What is known of the victim by now: nobody is asked any more.
    fn fill_stack(&mut self, who: Asker, incident: &mut Incident) {
        let now = self.now();
        let Some(victim) = &incident.victim else { return };
        let row = incident.rows.iter().find(|row| row.pid == victim.pid);
        let key = row.map(|row| ProcKey { pid: row.pid, start: row.start });
        let Some(evidence) = key.and_then(|key| self.evidence(who, key)) else { return };
        incident.stack = evidence.stack.frames.clone();
        let age = u64::try_from(now.since(evidence.at).as_micros()).ok();
        incident.timings.stack_to_decision_us = age;
        if let Some(episode) = self.domain_mut(who).and_then(|domain| domain.episode.as_mut()) {
            episode.timings.stack_to_decision_us = age;
        }
    }

    fn skeleton(&self, who: Asker, id: EpisodeId, wall: SystemTime, wake: Wake) -> Incident {
        let watch = who.and_then(|id| self.watch(id));
        let domain = match watch.map(|w| w.kind) {
            Some(Kind::Container) => "container",
            Some(Kind::Slice) => "slice",
            None => "host",
        };
        let mode = watch.map_or_else(
            || "stepping".to_owned(),
            |w| match w.settings.dry_run {
                true => format!("{} (dry-run)", w.mode),
                false => w.mode.to_string(),
            },
        );
        Incident {
            schema: SCHEMA,
            id: id.to_string(),
            time: humantime::format_rfc3339_millis(wall).to_string(),
            host: self.hostname.clone(),
            kind: RecordKind::Hold,
            domain: domain.to_owned(),
            container: watch.map(container_record),
            mode,
            trigger: wake.as_str().to_owned(),
            figures: self.figures_record(watch),
            rows: Vec::new(),
            servers: Vec::new(),
            unattributed: Unattributed::default(),
            verdict: Verdict::Hold,
            reason: HoldReason::Relieved.as_str().to_owned(),
            sentence: String::new(),
            dry_run: watch.map_or(self.host.settings.dry_run, |w| w.settings.dry_run),
            victim: None,
            timings: Timings::default(),
            freed: None,
            kernel_oom_kills: 0,
            message: Told::Skipped(Skip::NobodyEnded).to_string(),
            stack: Vec::new(),
            cleaning: None,
        }
    }

    fn figures_record(&self, watch: Option<&Watch>) -> FiguresRecord {
        let Some(watch) = watch else {
            let host = &self.host.memory;
            let used = host.total.less(host.available);
            return FiguresRecord {
                usage: used,
                unreclaimable: used,
                swap: Some(host.swap_total.less(host.swap_free)),
                total: host.total,
                threshold: host.total.times(self.host.settings.threshold),
                ..FiguresRecord::default()
            };
        };
        let mut record = FiguresRecord {
            total: watch.steps.total,
            limit: watch.limit.bytes(),
            threshold: watch.steps.threshold,
            ..FiguresRecord::default()
        };
        if let Some((_, figures)) = &watch.domain.last {
            record.usage = figures.usage;
            record.unreclaimable = figures.unreclaimable();
            record.anon = figures.anon;
            record.shmem = figures.shmem;
            record.swap = figures.swap.known();
            record.high = figures.high.bytes();
            if let Field::Known(psi) = figures.psi {
                let (some, full) = psi.percent();
                record.psi_some_avg10 = Some(some);
                record.psi_full_avg10 = Some(full);
            }
        }
        record
    }

    fn fill_rows(&self, who: Asker, incident: &mut Incident) {
        let Some(domain) = self.domain(who) else { return };
        let scratch = &self.scratch;
        let (forest, procs) = (&scratch.forest, &scratch.procs);
        let settled = match &scratch.verdict {
            Some(Decided::Kill(kill)) => Some((kill.workload, kill.settled_by)),
            Some(Decided::Hold(hold)) => hold.would.map(|kill| (kill.workload, kill.settled_by)),
            _ => None,
        };
        let slots = &scratch.slots;
        let of_container = |number: u16| clean::settings_at(number, slots, &self.watches);
        let verdict = scratch.verdict.unwrap_or(Decided::NeedPss);
        let told = telling::Told {
            procs,
            ids: &domain.identities,
            forest,
            screen: &scratch.screen,
            ranking: &scratch.ranking,
            verdict: &verdict,
            settings: &of_container,
        };
        if let Some(settings) = self.settings(who) {
            incident.cleaning = told.cleaning(settings).map(Box::new);
        }
        for place in told.places().into_iter().take(ROWS_MAX) {
            let row = &scratch.ranking.rows()[place];
            let Some(workload) = forest.workloads().get(row.workload as usize) else { continue };
            let root = &procs[workload.root_index as usize];
            let view = View::of(workload, &domain.identities);
            let exclusion = scratch.screen.exclusion(row.workload);
            let settled_by = match settled {
                Some((first, by)) if first == row.workload => by.as_str(),
                _ if row.held.is_exact() => "exact",
                _ if row.by_pss => "pss",
                _ => "intervals",
            };
            let members = forest
                .members(workload)
                .iter()
                .take(MEMBERS_MAX)
                .map(|member| process_record(&procs[member.index as usize]));
            let inside = told.inside(row.workload);
            incident.rows.push(Row {
                pid: workload.root.pid,
                start: workload.root.start,
                memory: row.figure(),
                lower: row.held.least,
                upper: row.held.most,
                settled_by: settled_by.to_owned(),
                name: comm(root),
                notebook: view.notebook.map(shown),
                kernel_id: view.kernel_id.map(shown),
                uid: Some(workload.uid),
                container: self.container_name(workload),
                eligible: exclusion.map_or("yes", |e| e.as_str()).to_owned(),
                because: self.because(row, exclusion, settled.map(|(first, _)| first), &view),
                application: inside.application,
                activity: inside.activity,
                idle_s: inside.idle_s,
                listed: inside.listed,
                members: members.collect(),
            });
        }
        let servers = forest.servers().iter().take(ROWS_MAX);
        incident.servers = servers.map(|i| process_record(&procs[*i as usize])).collect();
        let mut others: Vec<&Proc> =
            forest.unattributed().iter().map(|i| &procs[*i as usize]).collect();
        incident.unattributed.count = u32::try_from(others.len()).unwrap_or(u32::MAX);
        incident.unattributed.memory = scratch.ranking.unattributed().middle();
        others.sort_by_key(|proc| std::cmp::Reverse(proc.rss));
        incident.unattributed.top =
            others.into_iter().take(UNATTRIBUTED_MAX).map(process_record).collect();
    }

    /// Why a row stands where it stands, and who ordered it where somebody did.
    fn because(
        &self,
        row: &rank::Row,
        exclusion: Option<Exclusion>,
        first: Option<u32>,
        view: &View<'_>,
    ) -> String {
        let mut text = explain::row(row, exclusion, first, self.scratch.screen.cleaning());
        let slot = self.scratch.slots.get(usize::from(view.workload.container));
        let watch = slot.and_then(|slot| self.watches.get(*slot as usize)?.as_ref());
        let id = watch.map_or("", |watch| watch.found.id.as_str());
        let order = match exclusion {
            Some(Exclusion::ProtectedByCommand) => {
                self.orders.protects(id, &Whom::from(view), wall())
            }
            Some(Exclusion::Paused) => self.orders.pause(Some(id), wall()),
            _ => None,
        };
        if let Some(order) = order {
            text.push_str(", ");
            text.push_str(&order.origin());
        }
        text
    }

    fn container_name(&self, workload: &Workload) -> Option<String> {
        let slot = *self.scratch.slots.get(usize::from(workload.container))?;
        let watch = self.watches.get(slot as usize)?.as_ref()?;
        Some(shown(&watch.container.name))
    }

    fn fill_verdict(&self, incident: &mut Incident) {
        let facts = explain::Facts {
            domain: &incident.domain,
            container: incident.container.as_ref().map(|c| c.name.as_str()),
            total: incident.figures.total,
            usage: incident.figures.usage,
            unreclaimable: incident.figures.unreclaimable,
            threshold: incident.figures.threshold,
            cleaning: incident.cleaning.as_deref(),
        };
        match &self.scratch.verdict {
            Some(Decided::Kill(kill)) => {
                incident.verdict = Verdict::Kill;
                incident.kind = RecordKind::Kill;
                incident.reason = kill.why.as_str().to_owned();
                incident.sentence =
                    explain::kill(kill, incident.rows.first(), incident.rows.get(1), &facts);
                incident.victim = self.victim(kill, incident);
                // An episode of the host or of a slice ends in one container.
                incident.container = self.container_of(kill).or(incident.container.take());
            }
            Some(Decided::Hold(hold)) => {
                incident.reason = hold.reason.as_str().to_owned();
                incident.sentence = explain::hold(hold.reason, incident.rows.first(), &facts);
                let id = incident.container.as_ref().map(|container| container.id.as_str());
                if hold.reason == HoldReason::Paused
                    && let Some(order) = self.orders.pause(id, wall())
                {
                    incident.sentence.push_str(&format!(" Paused {}.", order.origin()));
                }
                let Some(would) = &hold.would else { return };
                let otherwise =
                    explain::kill(would, incident.rows.first(), incident.rows.get(1), &facts);
                if hold.reason == HoldReason::DryRun {
                    incident.kind = RecordKind::Kill;
                    incident.verdict = Verdict::Kill;
                    incident.reason = would.why.as_str().to_owned();
                    incident.sentence = format!("dry-run, nothing was done: {otherwise}");
                    incident.victim = self.victim(would, incident);
                } else {
                    incident.sentence.push_str(&format!(" Otherwise: {otherwise}"));
                }
            }
            Some(Decided::NeedIdentity | Decided::NeedPss | Decided::NeedActivity) | None => {
                incident.reason = HoldReason::Relieved.as_str().to_owned();
                incident.sentence = explain::hold(HoldReason::Relieved, None, &facts);
            }
        }
    }

    fn container_of(&self, kill: &Kill) -> Option<ContainerRecord> {
        let workload = self.scratch.forest.workloads().get(kill.workload as usize)?;
        let slot = *self.scratch.slots.get(usize::from(workload.container))?;
        self.watches.get(slot as usize)?.as_ref().map(|watch| container_record(watch))
    }

    fn victim(&self, kill: &Kill, incident: &Incident) -> Option<Victim> {
        let row = incident.rows.iter().find(|row| row.pid == kill.root.pid)?;
        Some(Victim {
            pid: row.pid,
            name: row.name.clone(),
            notebook: row.notebook.clone(),
            kernel_id: row.kernel_id.clone(),
            memory: row.memory,
            ..Victim::default()
        })
    }

    /// The notebook rests for a while, should it come back.
    pub(super) fn remember_ended(&mut self, who: Asker) {
        let now = self.now();
        let Some(Decided::Kill(kill)) = &self.scratch.verdict else { return };
        let Some(workload) = self.scratch.forest.workloads().get(kill.workload as usize) else {
            return;
        };
        let slot = self.scratch.slots.get(usize::from(workload.container)).copied();
        let watch = slot.and_then(|slot| self.watches[slot as usize].as_ref());
        let Some(watch) = watch else { return };
        let ids = match who.and_then(|id| self.watches[id.slot as usize].as_ref()) {
            Some(watch) => &watch.domain.identities,
            None => &self.host.domain.identities,
        };
        let view = View::of(workload, ids);
        if let Some(name) = view.notebook.or(view.kernel_id) {
            self.recent.note(&watch.found.id, name, &watch.settings, now);
        }
    }

    /// Completes and writes the record of the episode that ends with this outcome.
    pub(super) fn write_record(&mut self, who: Asker, outcome: Outcome) {
        let now = self.now();
        let after = self.held_now(who);
        let draft = self.domain_mut(who).and_then(|d| d.episode.as_mut()?.draft.take());
        let Some(mut incident) = draft.or_else(|| self.draft(who)) else { return };
        if let (Outcome::Killed, Some(cleaning)) = (outcome, &mut incident.cleaning)
            && let Some(before) = &cleaning.important
        {
            let episode = self.domain_mut(who).and_then(|domain| domain.episode.as_mut());
            let ticks = episode.map(|episode| std::mem::take(&mut episode.ticks));
            cleaning.after = self.share_after(who, before, &ticks.unwrap_or_default());
        }
        let Some(domain) = self.domain(who) else { return };
        let Some(episode) = &domain.episode else { return };
        incident.timings = episode.timings;
        if let Some(at) = episode.signalled {
            incident.timings.signal_to_back_us = u64::try_from(now.since(at).as_micros()).ok();
            incident.freed = Some(episode.before.less(after));
        }
        if let Some(watch) = who.and_then(|id| self.watch(id)) {
            incident.kernel_oom_kills = watch.seen.oom_kill.saturating_sub(episode.oom_kills);
        }
        if let Some(serial) = episode.serial {
            self.complete_victim(serial, outcome, &mut incident);
        }
        self.count_incident(who, &incident);
        if incident.verdict == Verdict::Kill {
            incident.message = self.message_of(who, &incident).to_string();
        }
        if outcome == Outcome::Held && incident.kind == RecordKind::Hold {
            let name = incident.container.as_ref().map_or("host", |c| c.id.as_str()).to_owned();
            let reason = HoldReason::ALL
                .iter()
                .map(|reason| reason.as_str())
                .find(|reason| *reason == incident.reason)
                .unwrap_or("other");
            if !self.recent.may_tell(&name, reason, now) {
                self.counters.holds_untold += 1;
                return;
            }
        }
        self.put(&incident);
    }

    fn complete_victim(&self, serial: u32, outcome: Outcome, incident: &mut Incident) {
        let Some(ending) = self.endings.get(serial) else { return };
        let Some(victim) = incident.victim.as_mut() else { return };
        let settings = match ending.who.and_then(|id| self.watch(id)) {
            Some(watch) => &watch.settings,
            None => &self.host.settings,
        };
        let rungs = usize::from(ending.job.rung()) + 1;
        let words = |word: &str| word.to_owned();
        victim.signals = match ending.asked_by {
            Some(signal) => {
                let first = if signal == libc::SIGUSR1 { "USR1" } else { "QUIT" };
                [first, "KILL"].into_iter().take(rungs).map(words).collect()
            }
            None => settings.signals.iter().take(rungs).map(|s| words(s.word())).collect(),
        };
        victim.signalled = ending.job.signalled();
        victim.trackers_spared = ending.job.trackers();
        victim.sweeps = ending.job.sweeps;
        victim.frozen = ending.job.frozen;
        for member in ending.job.members() {
            let reason = match member.standing {
                Standing::Refused(errno) => io::Error::from_raw_os_error(errno).to_string(),
                Standing::Signalled if outcome == Outcome::NotDead => self.why_alive(member.key),
                Standing::Open if outcome == Outcome::NotDead && member.spare == Spare::No => {
                    "not signalled".to_owned()
                }
                _ => continue,
            };
            if victim.refused.len() < MEMBERS_MAX {
                victim.refused.push(Refusal { pid: member.key.pid, reason });
            }
        }
        if outcome == Outcome::Spared {
            incident.sentence.push_str("; the pressure went before the next rung was needed");
        }
    }

    /// What keeps a process that was signalled alive.
    fn why_alive(&self, key: ProcKey) -> String {
        let mut buffer = crate::roots::Buffer::new();
        match crate::host::procs::read_stat(&self.roots, key.pid, &mut buffer) {
            Ok(stat) if stat.start == key.start && stat.state == b'D' => {
                "signalled, but in uninterruptible sleep (state D)".to_owned()
            }
            Ok(stat) if stat.start == key.start => {
                format!("signalled, but not dead (state {})", char::from(stat.state))
            }
            _ => "dead by now".to_owned(),
        }
    }

    /// To the journal and the file.
    fn put(&self, incident: &Incident) {
        let line = observe::line::line(incident);
        if !(log_enabled!(Level::Info) && self.writer.entry(incident, &line)) {
            info!("{line}");
        }
        match serde_json::to_string(incident) {
            Ok(json) => {
                self.hook.tell(&self.config.hook, incident, &json);
                self.writer.record(json);
            }
            Err(error) => warn!("a record could not be written as JSON: {error}, skipped"),
        }
    }

    /// A container went away while its episode was open: what is known is written down.
    pub(super) fn close_episode_of_gone(&mut self, id: WatchId) {
        let Some(domain) = self.domain_mut(Some(id)) else { return };
        let Some(mut episode) = domain.episode.take() else { return };
        let serial = episode.serial;
        if let Some(mut incident) = episode.draft.take() {
            incident.timings = episode.timings;
            incident.sentence.push_str("; the container was removed before this could be measured");
            if let Some(serial) = serial {
                self.complete_victim(serial, Outcome::Killed, &mut incident);
            }
            self.count_incident(Some(id), &incident);
            incident.message = self.message_of(Some(id), &incident).to_string();
            self.put(&incident);
        }
        if let Some(serial) = serial {
            self.finish(serial);
        }
    }

    /// The kernel's OOM killer acted in a watched container.
    pub(super) fn on_kernel_oom(&mut self, id: WatchId, count: u64) {
        // A slice's counters have its containers' in them, and those tell for themselves.
        let told_below = self.watch(id).is_some_and(|watch| {
            let own =
                |slot: &u32| self.watches[*slot as usize].as_ref().is_some_and(|w| !w.covered);
            watch.kind == Kind::Slice && watch.members.iter().any(own)
        });
        if told_below {
            return;
        }
        self.count_kernel_oom(id, count);
        let killed = self.kmsg.as_mut().map(Kmsg::killed).unwrap_or_default();
        let mut incident = self.skeleton(
            Some(id),
            EpisodeId::from_random(crate::sys::random::sixteen_bytes()),
            SystemTime::now(),
            Wake::Max,
        );
        let Some(watch) = self.watch(id) else { return };
        incident.kind = RecordKind::KernelOom;
        incident.reason = "kernel-oom".to_owned();
        incident.trigger = "oom_kill".to_owned();
        incident.kernel_oom_kills = count;
        let ids = &watch.domain.identities;
        let known = killed.iter().find_map(|(pid, name)| {
            let key = ids.key_of(*pid)?;
            Some((key, name.clone()))
        });
        let victim = match (&known, killed.first()) {
            (Some((key, name)), _) => {
                let root = ids.owner(*key).unwrap_or(*key);
                Some(Victim {
                    pid: key.pid,
                    name: name.clone(),
                    notebook: ids.notebook(root).map(shown),
                    kernel_id: ids.kernel_id(root).map(shown),
                    signals: vec!["KILL".to_owned()],
                    signalled: u32::try_from(count).unwrap_or(u32::MAX),
                    ..Victim::default()
                })
            }
            (None, Some((pid, name))) => Some(Victim {
                pid: *pid,
                name: name.clone(),
                signals: vec!["KILL".to_owned()],
                signalled: u32::try_from(count).unwrap_or(u32::MAX),
                ..Victim::default()
            }),
            (None, None) => None,
        };
        incident.sentence = match &victim {
            Some(victim) => format!(
                "the kernel's OOM killer ended process {} ({}) before nbguard could act{}",
                victim.pid,
                victim.name,
                victim.notebook.as_ref().map_or(String::new(), |n| format!(", of notebook {n}")),
            ),
            None => format!(
                "the kernel's OOM killer ended {count} processes; its log did not say which"
            ),
        };
        incident.victim = victim;
        self.put(&incident);
    }
}

fn container_record(watch: &Watch) -> ContainerRecord {
    let labels: BTreeMap<String, String> =
        watch.container.labels.iter().map(|(key, value)| (shown(key), shown(value))).collect();
    ContainerRecord {
        id: watch.found.id.clone(),
        name: shown(&watch.container.name),
        image: shown(&watch.container.image),
        engine: watch.found.engine.as_str().to_owned(),
        labels,
    }
}

fn process_record(proc: &Proc) -> ProcessRecord {
    let memory = match proc.memory {
        Field::Known(memory) => memory.anon.plus(memory.shmem).plus(memory.swap),
        Field::Unknown(_) => proc.rss,
    };
    ProcessRecord { pid: proc.key.pid, name: comm(proc), memory }
}

fn comm(proc: &Proc) -> String {
    escape(proc.comm.bytes(), 64)
}

fn shown(text: &str) -> String {
    escape(text.as_bytes(), TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ended_and_told_is_forgotten_when_it_changes_nothing_any_more() {
        let (mut recent, settings) = (Recent::default(), Settings::default());
        for (container, minutes) in [("a", 0), ("b", 5), ("c", 10), ("d", 30)] {
            let now = Moment::default().plus(Duration::from_secs(minutes * 60));
            recent.note(container, "1.ipynb", &settings, now);
            assert!(recent.may_tell(container, "nothing-eligible", now));
            assert!(!recent.may_tell(container, "nothing-eligible", now));
        }
        assert_eq!((recent.ended.len(), recent.holds.len()), (1, 1));
    }

    #[test]
    fn the_kernels_own_line_names_its_victim() {
        let line = b"3,1234,5678,-;Memory cgroup out of memory: Killed process 4711 (py) thon) \
            total-vm:123kB, anon-rss:4kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:5kB";
        assert_eq!(killed_in(line), Some((4711, "py) thon".to_owned())));
        for other in ["6,1,2,-;docker0: port 1", "Killed process x (a) total-vm", "Killed process "]
        {
            assert_eq!(killed_in(other.as_bytes()), None);
        }
    }
}
