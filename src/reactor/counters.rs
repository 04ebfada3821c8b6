//! What the daemon counts, and the snapshot of it. The counters are plain numbers of the loop's
//! thread; those of other threads are atomics, read when somebody asks.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Reactor;
use super::helper::Asker;
use super::token::For;
use crate::act::message::Told;
use crate::ids::WatchId;
use crate::policy::decide::{HoldReason, KillWhy};
use crate::policy::episode::Wake;
use crate::report::counters::{Guard, Tally};
use crate::report::{Counters, Incident, Kind};
use crate::units::Bytes;

/// Status codes that have a series of their own; any other one is `other`.
const CODES: [(u16, &str); 15] = [
    (200, "200"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (413, "413"),
    (414, "414"),
    (421, "421"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (503, "503"),
];

/// Something that went wrong and was got over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// A process could not be read, for another reason than that it is gone.
    ProcessUnreadable,
    /// The figures of a container or of the host could not be read: a look was skipped.
    FiguresUnreadable,
    /// A process could not be signalled, or did not die.
    SignalRefused,
    /// A container could not be guarded.
    NotGuarded,
    /// A walk through the cgroups had to leave something out.
    WalkIncomplete,
    InotifyOverflow,
    /// The note of what was changed could not be written.
    StateNotSaved,
    /// A value could not be given to systemd.
    PropertyNotSet,
    /// A door of the HTTP interface could not be opened.
    DoorNotOpened,
    /// A client came when there were too many.
    ClientRefused,
    /// A client did not get done in its time.
    ClientLate,
}

impl Trouble {
    const ALL: [Trouble; 11] = [
        Trouble::ProcessUnreadable,
        Trouble::FiguresUnreadable,
        Trouble::SignalRefused,
        Trouble::NotGuarded,
        Trouble::WalkIncomplete,
        Trouble::InotifyOverflow,
        Trouble::StateNotSaved,
        Trouble::PropertyNotSet,
        Trouble::DoorNotOpened,
        Trouble::ClientRefused,
        Trouble::ClientLate,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Trouble::ProcessUnreadable => "process-unreadable",
            Trouble::FiguresUnreadable => "figures-unreadable",
            Trouble::SignalRefused => "signal-refused",
            Trouble::NotGuarded => "not-guarded",
            Trouble::WalkIncomplete => "walk-incomplete",
            Trouble::InotifyOverflow => "inotify-overflow",
            Trouble::StateNotSaved => "state-not-saved",
            Trouble::PropertyNotSet => "property-not-set",
            Trouble::DoorNotOpened => "door-not-opened",
            Trouble::ClientRefused => "client-refused",
            Trouble::ClientLate => "client-late",
        }
    }
}

/// All at zero, with the labels that are known.
pub(super) fn zero() -> Counters {
    let codes = CODES.iter().map(|(_, text)| *text).filter(|text| *text == "200");
    Counters {
        events: Tally::of(SOURCES),
        episodes: Tally::of(Wake::ALL.map(Wake::as_str)),
        kills: Tally::of(KillWhy::ALL.map(KillWhy::as_str)),
        holds: Tally::of(HoldReason::ALL.map(HoldReason::as_str)),
        messages: Tally::of(Told::words()),
        stacks: super::inside::outcomes(),
        http: Tally::of(codes),
        errors: Tally::of(Trouble::ALL.map(Trouble::as_str)),
        guard: Guard {
            version: env!("CARGO_PKG_VERSION"),
            config_good: true,
            config_read_at: seconds_now(),
            ..Guard::default()
        },
        ..Counters::default()
    }
}

const SOURCES: [&str; 12] = [
    "signal",
    "inotify",
    "helper",
    "host-psi",
    "memory-events",
    "psi",
    "v1-threshold",
    "victim",
    "followed",
    "control",
    "told",
    "http",
];

fn source(what: For) -> &'static str {
    match what {
        For::Signals => "signal",
        For::Inotify => "inotify",
        For::Helper => "helper",
        For::HostPsi => "host-psi",
        For::Events(_) => "memory-events",
        For::Psi(_) => "psi",
        For::V1(_) => "v1-threshold",
        For::Victim { .. } => "victim",
        For::Followed(_) => "followed",
        For::Control => "control",
        For::Told(_) => "told",
        For::Door(_) | For::Client { .. } => "http",
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The stable word for a reason that stands in a record.
fn known(reason: &str) -> &'static str {
    let kills = KillWhy::ALL.map(KillWhy::as_str);
    let holds = HoldReason::ALL.map(HoldReason::as_str);
    kills.into_iter().chain(holds).find(|word| *word == reason).unwrap_or("other")
}

impl Reactor {
    /// What was counted until now.
    pub(super) fn counted(&self) -> Counters {
        let mut counters = self.counters.clone();
        let lost = &self.writer.lost;
        counters.lost = Tally::of(["queue-full", "not-written"]);
        counters.lost.add_many("queue-full", lost.dropped.load(Ordering::Relaxed));
        counters.lost.add_many("not-written", lost.failed.load(Ordering::Relaxed));
        counters.hooks = self.hook.counted();
        counters.guard.resident = resident();
        counters.guard.uptime = self.began.elapsed();
        counters
    }

    pub(super) fn count_event(&mut self, what: For) {
        self.counters.events.add(source(what));
    }

    pub(super) fn count_trouble(&mut self, trouble: Trouble) {
        self.count_troubles(trouble, 1);
    }

    pub(super) fn count_troubles(&mut self, trouble: Trouble, many: u64) {
        self.counters.errors.add_many(trouble.as_str(), many);
    }

    pub(super) fn count_episode(&mut self, who: Asker, wake: Wake) {
        self.counters.episodes.add(wake.as_str());
        if let Some(watch) = who.and_then(|id| self.watch_mut(id)) {
            watch.counts.episodes += 1;
        }
    }

    /// What the kernel's OOM killer did.
    pub(super) fn count_kernel_oom(&mut self, id: WatchId, kills: u64) {
        self.counters.kernel_oom_kills += kills;
        if let Some(watch) = self.watch_mut(id) {
            let kills = u32::try_from(kills).unwrap_or(u32::MAX);
            watch.counts.kernel_oom_kills = watch.counts.kernel_oom_kills.saturating_add(kills);
        }
    }

    /// An episode is over. What would have been a kill is a hold for the reason `dry-run`.
    pub(super) fn count_incident(&mut self, who: Asker, incident: &Incident) {
        let killed = incident.kind == Kind::Kill && !incident.dry_run;
        if killed {
            self.counters.kills.add(known(&incident.reason));
            self.count_timings(incident);
        } else if incident.dry_run && incident.kind == Kind::Kill {
            self.counters.holds.add(HoldReason::DryRun.as_str());
        } else {
            self.counters.holds.add(known(&incident.reason));
        }
        // Of an episode of the host or a slice: the victim's container.
        let named = incident.container.as_ref().map(|container| container.id.as_str());
        let of = self
            .watches
            .iter()
            .flatten()
            .find(|watch| Some(watch.found.id.as_str()) == named)
            .map(|watch| watch.id);
        let Some(watch) = of.or(who).and_then(|id| self.watch_mut(id)) else { return };
        match killed {
            true => watch.counts.kills += 1,
            false => watch.counts.holds += 1,
        }
    }

    fn count_timings(&mut self, incident: &Incident) {
        let timings = &incident.timings;
        let counters = &mut self.counters;
        for (histogram, us) in [
            (&mut counters.event_to_decision, timings.event_to_decision_us),
            (&mut counters.decision_to_signal, timings.decision_to_signal_us),
            (&mut counters.signal_to_dead, timings.signal_to_dead_us),
            (&mut counters.signal_to_back, timings.signal_to_back_us),
        ] {
            if let Some(us) = us {
                histogram.add(us);
            }
        }
        counters.freed = counters.freed.plus(incident.freed.unwrap_or_default());
        let refused = incident.victim.as_ref().map_or(0, |victim| victim.refused.len());
        counters.errors.add_many(Trouble::SignalRefused.as_str(), refused as u64);
    }

    pub(super) fn count_reload(&mut self, good: bool) {
        self.counters.guard.config_good = good;
        if good {
            self.counters.guard.config_read_at = seconds_now();
        }
    }

    /// What came of telling a notebook.
    pub(super) fn count_message(&mut self, outcome: &'static str) {
        self.counters.messages.add(outcome);
    }

    /// A request was answered.
    pub(super) fn count_answer(&mut self, code: u16) {
        let code = CODES.iter().find(|(known, _)| *known == code).map_or("other", |(_, text)| text);
        self.counters.http.add(code);
    }
}

/// Of this process, in bytes (proc_pid_statm(5): the second number, in pages). Read when asked.
fn resident() -> Bytes {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
    Bytes(pages.unwrap_or(0).saturating_mul(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_that_can_come_is_there_at_zero() {
        let counters = zero();
        let ids = WatchId { slot: 0, generation: 0 };
        for what in [
            For::Signals,
            For::Inotify,
            For::Helper,
            For::HostPsi,
            For::Events(ids),
            For::Psi(ids),
            For::V1(ids),
            For::Victim { serial: 0, index: 0 },
            For::Followed(None),
            For::Door(0),
            For::Client { slot: 0, generation: 0 },
        ] {
            assert!(counters.events.iter().any(|(label, _)| label == source(what)), "{what:?}");
        }
        assert_eq!(known("largest"), "largest");
        assert_eq!(known("benign-cache"), "benign-cache");
        assert_eq!(known("kernel-oom"), "other");
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident() > Bytes::kib(500), "{}", resident());
    }
}
