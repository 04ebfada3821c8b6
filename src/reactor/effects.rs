//! Carries out what the state machines ask for, in the order in which they ask, and feeds the
//! results back in the same turn.

use std::os::fd::AsRawFd;
use std::time::SystemTime;

use ::log::debug;
use mio::Interest;

use super::Reactor;
use super::ending::number;
use super::helper::{Answer, Asker};
use super::token::For;
use super::watch::{self, Episode};
use crate::facts::Figures;
use crate::ids::{EpisodeId, WatchId};
use crate::policy::decide::{HoldReason, Verdict};
use crate::policy::episode::{Decision, Effect, Input, Outcome, Wake};
use crate::report::Timings;
use crate::sys;
use crate::units::Bytes;

/// Processes followed while a tripwire is lifted: whoever held the memory is among the largest.
const FOLLOWED: usize = 16;

impl Reactor {
    /// Gives a domain's machine an input and carries out everything that follows from it.
    pub(super) fn drive(&mut self, who: Asker, input: Input) {
        let now = self.now();
        // Taken, so that a nested turn (another domain) has a list of its own.
        let mut queue = std::mem::take(&mut self.effects);
        queue.clear();
        if let Some(domain) = self.domain_mut(who) {
            domain.machine.step(now, input, &mut queue);
        }
        let mut next = 0;
        while let Some(effect) = queue.get(next).copied() {
            next += 1;
            let answer = self.carry_out(who, effect);
            let now = self.now();
            // A domain that went away meanwhile has nothing more to ask for.
            let Some(domain) = self.domain_mut(who) else { break };
            if let Some(answer) = answer {
                domain.machine.step(now, answer, &mut queue);
            }
        }
        queue.clear();
        self.effects = queue;
        if let Some(id) = who
            && self.deadline_of(id).is_some()
            && !self.timed.contains(&id)
        {
            self.timed.push(id);
        }
    }

    fn carry_out(&mut self, who: Asker, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Look => return self.look(who).map(Input::Looked),
            Effect::Identify => self.identify(who),
            Effect::IdentifyNew => self.identify_new(who),
            Effect::Tell(notice) => self.tell(who, notice),
            Effect::RiseOver => self.end_rise(who),
            Effect::Tripwire(step) => match who {
                Some(id) => return self.move_tripwire(id, step),
                None => self.move_host_steps(step),
            },
            Effect::Open(wake) => self.open_episode(who, wake),
            Effect::Rank { last, gate_passed } => {
                let decision = self.rank(who, last, gate_passed);
                self.note_decision(who, decision);
                return Some(Input::Decided(decision));
            }
            Effect::Ask => self.ask(who),
            Effect::Kill { rung } => return self.kill(who, rung),
            Effect::Sweep => {
                if let Some(serial) = self.serial(who) {
                    self.sweep(serial);
                }
            }
            Effect::Report(outcome) => self.report(who, outcome),
            Effect::Silence => {
                if let Some(id) = who {
                    self.stop_listening(id);
                }
            }
            Effect::Unsilence => {
                if let Some(id) = who {
                    self.listen(id);
                }
            }
            Effect::Follow => self.follow(who),
            Effect::Unfollow => self.unfollow(who),
        }
        None
    }

    fn open_episode(&mut self, who: Asker, wake: Wake) {
        let now = self.now();
        self.watchdog.arm(now);
        let oom_kills = match who {
            Some(id) => self.watch(id).map_or(0, |watch| watch.seen.oom_kill),
            None => 0,
        };
        let episode = Episode {
            id: EpisodeId::from_random(sys::random::sixteen_bytes()),
            wake,
            at: self.woken_at.unwrap_or(now),
            wall: SystemTime::now(),
            before: Bytes::ZERO,
            timings: Timings::default(),
            signalled: None,
            serial: None,
            oom_kills,
            draft: None,
            pss: Vec::new(),
            stalled: matches!(wake, Wake::Psi | Wake::HostPsi),
            ticks: Vec::new(),
        };
        if let Some(domain) = self.domain_mut(who) {
            domain.episode = Some(Box::new(episode));
        }
        self.count_episode(who, wake);
    }

    fn note_decision(&mut self, who: Asker, decision: Decision) {
        let now = self.now();
        let Some(episode) = self.domain_mut(who).and_then(|d| d.episode.as_mut()) else { return };
        if matches!(decision, Decision::Kill | Decision::Hold) {
            let span = now.since(episode.at);
            episode.timings.event_to_decision_us = u64::try_from(span.as_micros()).ok();
        }
    }

    /// Checks once more and signals. Between the ranking and here no other domain has had a turn.
    fn kill(&mut self, who: Asker, rung: u8) -> Option<Input> {
        let signal = {
            let settings = self.settings(who)?;
            let signal = settings.signals.get(usize::from(rung)).copied();
            number(signal.unwrap_or(crate::config::Signal::Kill))
        };
        if rung > 0 {
            let serial = self.serial(who)?;
            let asked = self.endings.get(serial)?.asked_by.is_some();
            let signal = if asked { libc::SIGKILL } else { signal };
            if let Some(why) = self.forbidden_since(who, serial) {
                let draft = self.domain_mut(who)?.episode.as_mut()?.draft.as_mut();
                if let Some(incident) = draft {
                    incident.sentence.push_str(&format!("; before the next signal it was {why}"));
                }
                return Some(Input::Refused);
            }
            self.escalate(serial, signal);
            return None;
        }
        if !self.is_still_short(who) {
            self.scratch.verdict = Some(Verdict::Hold(crate::policy::decide::Hold {
                reason: HoldReason::Relieved,
                nearest: None,
                would: None,
            }));
            return Some(Input::Decided(Decision::HoldForNow));
        }
        let before = self.held_then(who);
        let asked_by = self.asked_by(who);
        let signal = asked_by.unwrap_or(signal);
        let (serial, signalled) = self.signal_tree(who, signal, asked_by)?;
        let episode = self.domain(who)?.episode_id()?;
        self.note_cleaned(who, episode);
        let draft = self.draft(who);
        let cleans = draft.as_ref().is_some_and(|draft| draft.cleaning.is_some());
        let ticks = if cleans { self.ticks_now() } else { Vec::new() };
        let episode = self.domain_mut(who)?.episode.as_mut()?;
        episode.ticks = ticks;
        episode.serial = Some(serial);
        episode.signalled = Some(signalled);
        episode.before = before;
        let span = signalled.since(episode.at);
        episode.timings.event_to_signal_us = u64::try_from(span.as_micros()).ok();
        episode.timings.decision_to_signal_us = episode
            .timings
            .event_to_signal_us
            .zip(episode.timings.event_to_decision_us)
            .map(|(signal, decision)| signal.saturating_sub(decision));
        episode.draft = draft;
        // Whom nobody could signal lives, and is the first to be tried again.
        if !self.endings.get(serial)?.job.was_refused() {
            self.remember_ended(who);
            self.tell_ended(who);
        }
        // Everybody was gone already, or refused: nobody's exit will come.
        let job = &self.endings.get(serial)?.job;
        match (job.main_is_dead(), job.was_refused()) {
            (true, true) => Some(Input::Refused),
            (true, false) => Some(Input::Dead { trackers_left: false }),
            (false, _) => None,
        }
    }

    /// The re-check, in microseconds: usage and statistics of now against the gate of before.
    fn is_still_short(&mut self, who: Asker) -> bool {
        let Some((gate, scale)) = self.scratch.gate else { return false };
        if !gate.is_passed() {
            // `notebook_max`: it is the notebook that is too big, not the sum.
            return true;
        }
        let Some(measure) = gate.measure().copied() else { return false };
        match who {
            None => self.read_host().is_some_and(|_| self.host_is_short()),
            Some(id) => {
                let slot = id.slot as usize;
                let Some(before) = self.scratch.figures else { return false };
                let Some(watch) = self.watches[slot].as_ref() else { return false };
                let counted_before = before.unreclaimable();
                let mut figures = before;
                if watch.group.recheck(&mut figures, &mut self.buffer).is_err() {
                    return false;
                }
                // The limit was changed meanwhile: nothing that was decided holds any more.
                if self.scale(id, &figures) != Some(scale) {
                    return false;
                }
                // The gate counted more than this only by swap or by the sum of the workloads;
                // what fell since then is taken off that.
                let fell = counted_before.less(figures.unreclaimable());
                self.scratch.figures = Some(figures);
                measure.counted.less(fell) >= measure.mark
            }
        }
    }

    /// What the domain held at the last look, without another read: the signal waits for this.
    fn held_then(&self, who: Asker) -> Bytes {
        match who {
            Some(_) => self.scratch.figures.as_ref().map(Figures::held).unwrap_or_default(),
            None => self.host.memory.held(),
        }
    }

    pub(super) fn held_now(&mut self, who: Asker) -> Bytes {
        match who {
            Some(id) => {
                let Some(watch) = watch::of(id, &self.watches) else { return Bytes::ZERO };
                let figures = watch.group.figures(&mut self.buffer);
                figures.map_or(Bytes::ZERO, |figures| figures.held())
            }
            None => {
                self.read_host();
                self.host.memory.held()
            }
        }
    }

    pub(super) fn serial(&self, who: Asker) -> Option<u32> {
        self.domain(who)?.episode.as_ref()?.serial
    }

    /// While the tripwire is lifted the exit of whoever held the memory is worth a look.
    fn follow(&mut self, who: Asker) {
        if self.scratch.of != Some(who) {
            self.scan(who);
        }
        let mut order: Vec<u32> = (0..).take(self.scratch.procs.len()).collect();
        let procs = &self.scratch.procs;
        order.sort_by_key(|i| std::cmp::Reverse(procs[*i as usize].rss));
        let mut followed = Vec::new();
        for index in order.into_iter().take(FOLLOWED) {
            let key = procs[index as usize].key;
            let Ok(fd) = sys::pidfd::open(key.pid) else { continue };
            if self.register(fd.as_raw_fd(), For::Followed(who), Interest::READABLE).is_ok() {
                followed.push(fd);
            }
        }
        if let Some(domain) = self.domain_mut(who) {
            domain.followed = followed;
        }
    }

    fn unfollow(&mut self, who: Asker) {
        let Some(domain) = self.domain_mut(who) else { return };
        for fd in std::mem::take(&mut domain.followed) {
            self.deregister(fd.as_raw_fd());
        }
    }

    pub(super) fn on_followed(&mut self, who: Asker) {
        // Edge-triggered: each exit comes once; the dead one's descriptor goes with the rest.
        self.drive(who, Input::FollowedExited);
    }

    /// `memory.events` of a watch changed: what rose says what happened.
    pub(super) fn on_memory_events(&mut self, id: WatchId) {
        let slot = id.slot as usize;
        if self.watch(id).is_none() {
            return;
        }
        let Some(watch) = self.watches[slot].as_ref() else { return };
        let seen = watch.seen;
        let events = match watch.group.events(&mut self.buffer) {
            Ok(events) => events,
            Err(error) if error.is_gone() => return self.remove(id, "it is gone"),
            Err(error) => return debug!("{error}, skipped"),
        };
        let Some(watch) = self.watches[slot].as_ref() else { return };
        let unlimited = watch.unlimited && watch.high.ours.is_some();
        let kills = events.oom_kill.saturating_sub(seen.oom_kill);
        if kills > 0 {
            if let Some(watch) = self.watch_mut(id) {
                watch.seen.oom_kill = events.oom_kill;
            }
            self.on_kernel_oom(id, kills);
        }
        if unlimited {
            if let Some(watch) = self.watch_mut(id) {
                watch.seen = events;
            }
            if events.high > seen.high {
                self.step_host(Some(slot));
            }
        } else if events.high > seen.high {
            self.drive(Some(id), Input::Wake(Wake::High));
        } else if events.max > seen.max {
            self.drive(Some(id), Input::Wake(Wake::Max));
        }
    }

    /// A v1 threshold was crossed, upwards or downwards.
    pub(super) fn on_v1(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id) else { return };
        for fd in &watch.v1_events {
            let mut count = [0u8; 8];
            let _ = nix::unistd::read(fd, &mut count);
        }
        self.drive(Some(id), Input::Wake(Wake::V1Threshold));
    }

    /// The helper's answers.
    pub(super) fn on_answers(&mut self) {
        while let Some(answer) = self.helper.answer() {
            match answer {
                Answer::Identified { asker, episode, read, last } => {
                    let Some(domain) = self.domain_mut(asker) else { continue };
                    for identity in read {
                        domain.identities.insert(identity);
                    }
                    domain.reading &= !last;
                    // Asked outside of an episode, as a command does, it must not end the wait for
                    // something else; whoever waits for identities looks again by himself.
                    if last && domain.is_in(episode) {
                        self.drive(asker, Input::Answered);
                    }
                }
                Answer::Pss { asker, episode, pss } => {
                    let Some(domain) = self.domain_mut(asker) else { continue };
                    if domain.keep_pss(episode, pss) {
                        self.drive(asker, Input::Answered);
                    }
                }
                Answer::Trackers { serial, read } => self.on_trackers(serial, &read),
                Answer::HighSet { watch, value, result } => self.on_high_set(watch, value, result),
                Answer::Told { watch, key, notice, told, kept } => {
                    self.on_thread_told(watch, key, notice, told, kept);
                }
                Answer::Frozen { serial } => self.on_frozen(serial),
                Answer::Heard { asker, heard, last } => self.on_heard(asker, heard, last),
                Answer::Described { watch: Some(id), container, .. } => {
                    self.on_described(id, *container);
                }
                Answer::Described { watch: None, found, container } => {
                    self.on_ignored_described(*found, *container);
                }
                Answer::Surveyed { watch, read, last } => self.on_surveyed(watch, read, last),
                // Sent on at the end of the turn, with what else is due to clients.
                Answer::Incidents { client, body } => self.http.deliver(client, body),
            }
        }
    }

    fn report(&mut self, who: Asker, outcome: Outcome) {
        self.write_record(who, outcome);
        // Whoever lives on must not hold the lock of the one kill in flight.
        if matches!(outcome, Outcome::NotDead | Outcome::Spared)
            && let Some(serial) = self.serial(who)
        {
            self.give_up(serial);
        }
        if let Some(domain) = self.domain_mut(who) {
            domain.episode = None;
        }
        if outcome != Outcome::Held {
            self.end_rise(who);
        }
    }
}
