//! Moving `memory.high` and living with others who write it too. The state machine says which
//! step is wanted; here stands how it gets into the file, into systemd's property, into the note
//! of what was changed, and back out again.
//!
//! Raised: the file at once, in the loop, the property after it. Lowered below usage: the helper
//! goes down in small steps first, since the writer has to reclaim the difference.

use std::os::fd::AsFd;

use ::log::{error, info, warn};

use super::Reactor;
use super::counters::Trouble;
use super::discovery::parse_limit;
use super::helper::Work;
use super::watch::{OVERWRITES, OVERWRITES_IN, Steps};
use crate::act::state::Changed;
use crate::act::tripwire;
use crate::facts::{Figures, Limit, Mode};
use crate::host::group::Version;
use crate::ids::WatchId;
use crate::policy::episode::{Input, Step, Traits};
use crate::sys;

impl Reactor {
    /// Which steps and which mode a watch has, by its limit, its settings and whoever else has
    /// a value in `memory.high`.
    pub(super) fn place_steps(&mut self, id: WatchId, figures: &Figures) {
        let covered = self.watch(id).is_some_and(|watch| self.is_covered(watch));
        let host_total = self.host.total();
        let dry_run = self.config.host_is_dry_run();
        let stepping = self.config.host.stepping;
        let says_last_call = !self.config.message.last_call.is_empty();
        let Some(watch) = self.watch_mut(id) else { return };
        watch.covered = covered;
        let v1 = watch.group.version() == Version::V1;
        let settings = &watch.settings;
        let foreign = match watch.high.original {
            Limit::At(high) if watch.limit.bytes().is_none_or(|limit| high < limit) => Some(high),
            _ => None,
        };
        watch.unlimited = watch.limit == Limit::Max && foreign.is_none() && !v1;
        let total = foreign.or(watch.limit.bytes()).unwrap_or(host_total);
        watch.steps = Steps::of(total, settings);
        watch.steps.last_call = settings
            .last_call
            .filter(|_| Traits::of(settings).tells && says_last_call && !covered)
            .map(|share| total.times(share).whole_pages());
        let touches = settings.tripwire && !settings.dry_run && !v1 && !covered;
        let touches = touches && !watch.high.lost;
        let tripwire = touches && foreign.is_none() && !watch.unlimited;
        let has_psi = watch.psi.is_some();
        // The engine writes the limit after it makes the group: one that is only being started may
        // get one yet.
        let started = watch.high.started;
        let steps_along = watch.unlimited && started && touches && stepping && !dry_run;
        watch.mode = match (v1, has_psi) {
            _ if covered => Mode::None,
            (true, _) => Mode::V1Threshold,
            (false, true) if tripwire || foreign.is_some() || steps_along => Mode::HighPsi,
            (false, false) if tripwire || foreign.is_some() || steps_along => Mode::High,
            (false, true) => Mode::Psi,
            (false, false) => Mode::Events,
        };
        let psi_reason = std::mem::take(&mut watch.mode_reason);
        let no_psi = psi_reason.starts_with("no PSI");
        watch.mode_reason = if watch.high.lost {
            psi_reason
        } else if covered {
            "the limit is its slice's, which is watched".into()
        } else if v1 {
            "cgroup v1: no throttle, best effort".into()
        } else if settings.dry_run {
            "dry-run".into()
        } else if let Some(high) = foreign {
            format!("memory.high {high} is somebody else's").into()
        } else if !settings.tripwire {
            "tripwire = false".into()
        } else if no_psi {
            psi_reason
        } else if steps_along {
            "stepping, no limit".into()
        } else {
            "".into()
        };
        let last_call = watch.steps.last_call.is_some();
        let traits = Traits { tripwire, psi: has_psi, last_call, ..Traits::of(settings) };
        let held = figures.unreclaimable();
        let step = if held < watch.steps.warning {
            Step::Warning
        } else if watch.steps.last_call.is_some_and(|step| held < step) {
            Step::LastCall
        } else {
            Step::Threshold
        };
        watch.domain.machine.set_traits(traits);
        if tripwire {
            let wanted = watch.domain.machine.place(step);
            let value = watch.value_of(wanted);
            self.set_high(id, value);
        } else if self.watch(id).is_some_and(|w| w.high.ours.is_some() && !steps_along) {
            self.put_back(id);
        }
        if v1 {
            self.arm_v1(id);
        }
    }

    /// The state machine wants the tripwire there.
    pub(super) fn move_tripwire(&mut self, id: WatchId, step: Step) -> Option<Input> {
        let slot = id.slot as usize;
        self.watch(id)?;
        let watch = self.watches[slot].as_ref()?;
        let mut stands = None;
        if let (Step::LastCall, Limit::At(value)) = (step, watch.value_of(step)) {
            // Raised to less than is used already, it would have the writer reclaim the rest.
            let past = watch.group.usage(&mut self.buffer).is_ok_and(|usage| usage >= value);
            stands = past.then_some(Step::Threshold);
        }
        let value = watch.value_of(stands.unwrap_or(step));
        self.set_high(id, value);
        stands.map(Input::Stands)
    }

    /// Puts a value into `memory.high` and sees to it that it stays.
    pub(super) fn set_high(&mut self, id: WatchId, value: Limit) {
        if !self.note_original(id) {
            return;
        }
        let slot = id.slot as usize;
        let Some(watch) = self.watches[slot].as_mut() else { return };
        let unit = watch.high.unit.clone().filter(|_| watch.high.started);
        let lowers = match (watch.group.high(&mut self.buffer), value) {
            (Ok(current), value) if current == value && watch.high.ours == Some(value) => return,
            (Ok(Limit::At(current)), Limit::At(value)) => value < current,
            (Ok(Limit::Max), Limit::At(_)) => true,
            _ => false,
        };
        let before = watch.high.ours.replace(value);
        let blocks = lowers
            && watch.group.usage(&mut self.buffer).is_ok_and(|usage| Limit::At(usage) > value);
        let lower = || watch.group.memory_dir().try_clone_to_owned().ok();
        let dir = if blocks { lower() } else { watch.dir_for_helper() };
        if !(blocks && dir.is_some())
            && let Err(error) = tripwire::write_high(watch.group.memory_dir(), value)
        {
            watch.high.ours = before;
            if tripwire::is_gone(&error) {
                return;
            }
            if sys::may_pass(&error) {
                warn!("{:?}: memory.high cannot be written now: {error}", watch.name());
                self.mend_later(Some(id));
                return;
            }
            self.lose_tripwire(id, &format!("memory.high cannot be written: {error}"));
            return;
        }
        if dir.is_some() || unit.is_some() {
            watch.high.in_flight += 1;
            self.helper.give(Work::High { watch: id, dir, value, unit });
        }
        self.counters.tripwire_moves += 1;
    }

    /// The container has started: what stands in the file may become systemd's value as well.
    pub(super) fn tell_systemd(&mut self, id: WatchId) {
        let Some(watch) = self.watch_mut(id) else { return };
        let (Some(value), Some(unit)) = (watch.high.ours, watch.high.unit.clone()) else { return };
        let dir = watch.dir_for_helper();
        watch.high.in_flight += 1;
        self.helper.give(Work::High { watch: id, dir, value, unit: Some(unit) });
    }

    /// Writes down what stood there, before it is changed for the first time.
    fn note_original(&mut self, id: WatchId) -> bool {
        let Some(watch) = self.watch(id) else { return false };
        let inode = watch.group.id().0;
        if self.state.changed.iter().any(|c| c.inode == inode) {
            return true;
        }
        let changed = Changed {
            id: watch.found.id.clone(),
            inode,
            dir: watch.dir(),
            unit: watch.high.unit.clone(),
            original: watch.high.original.to_string(),
            frozen: false,
        };
        self.state.note(changed);
        self.save_state();
        true
    }

    /// The helper is done with a value.
    pub(super) fn on_high_set(&mut self, id: WatchId, value: Limit, result: std::io::Result<()>) {
        let Some(watch) = self.watch_mut(id) else { return };
        watch.high.in_flight = watch.high.in_flight.saturating_sub(1);
        let settled = watch.high.in_flight == 0;
        let ours = watch.high.ours;
        if let Err(error) = result {
            // The file stands; what is lost is that it survives systemd's next reload.
            warn!("{:?}: memory.high as a property of its unit: {error}, skipped", watch.name());
            self.count_trouble(Trouble::PropertyNotSet);
        }
        let (true, Some(ours)) = (settled, ours) else { return };
        let slot = id.slot as usize;
        let Some(watch) = self.watches[slot].as_ref() else { return };
        match watch.group.high(&mut self.buffer) {
            // Our own value of before, brought late: not somebody else's.
            Ok(found) if found == value && value != ours => {
                if value < ours {
                    let _ = tripwire::write_high(watch.group.memory_dir(), ours);
                }
            }
            _ => self.on_high_written(id),
        }
    }

    /// Somebody wrote `memory.high`: we, our helper, systemd on our behalf, or somebody else.
    pub(super) fn on_high_written(&mut self, id: WatchId) {
        let now = self.now();
        let slot = id.slot as usize;
        let Some(watch) = self.watches.get_mut(slot).and_then(Option::as_mut) else { return };
        let Ok(found) = watch.group.high(&mut self.buffer) else { return };
        let Some(ours) = watch.high.ours else {
            // Not ours to write, but ours to reckon with: it may be the total, or no longer.
            if watch.high.original != found && !watch.high.lost {
                watch.high.original = found;
                self.relimit(id);
            }
            return;
        };
        if found == ours {
            return;
        }
        if watch.high.in_flight > 0 {
            // An older value of ours that arrives late must not throttle: raise it again.
            if found < ours {
                let _ = tripwire::write_high(watch.group.memory_dir(), ours);
            }
            return;
        }
        let name = watch.name().to_owned();
        if !watch.high.started && found > ours {
            // The engine at its work; it does not mean us.
            watch.high.ours = Some(found);
            self.set_high(id, ours);
            return;
        }
        if now.since(watch.high.overwritten_since) > OVERWRITES_IN {
            watch.high.overwritten = 0;
            watch.high.overwritten_since = now;
        }
        watch.high.overwritten += 1;
        self.counters.tripwire_overwritten += 1;
        if found < ours {
            info!("{name:?}: somebody set memory.high to {found}, below ours: it is left alone");
            watch.high.original = found;
            watch.high.ours = None;
            self.hand_over(id, found);
            self.relimit(id);
        } else if watch.high.overwritten > OVERWRITES {
            let why = format!("somebody keeps setting memory.high to {found}");
            self.lose_tripwire(id, &why);
        } else {
            warn!(
                "{name:?}: somebody set memory.high to {found}: set to {ours} again \
                 ({} of {OVERWRITES} an hour)",
                watch.high.overwritten
            );
            watch.high.ours = Some(found);
            self.set_high(id, ours);
        }
    }

    /// Nobody can agree with us on `memory.high`: PSI alone from here on.
    fn lose_tripwire(&mut self, id: WatchId, why: &str) {
        self.counters.tripwire_lost += 1;
        let Some(watch) = self.watch_mut(id) else { return };
        warn!("{:?}: {why}: mode psi from now on", watch.name());
        watch.mode = if watch.psi.is_some() { Mode::Psi } else { Mode::Events };
        watch.mode_reason = why.to_owned().into();
        watch.high.ours = None;
        watch.high.lost = true;
        watch.domain.machine.tripwire_lost();
        let slot = id.slot as usize;
        let found = self.watches[slot].as_ref().map(|w| w.group.high(&mut self.buffer));
        if let Some(Ok(found)) = found {
            self.hand_over(id, found);
        }
    }

    /// `memory.high` is somebody else's from here on: neither our note nor systemd's property may
    /// bring a value of ours back.
    fn hand_over(&mut self, id: WatchId, found: Limit) {
        let Some(watch) = self.watch_mut(id) else { return };
        let inode = watch.group.id().0;
        if let Some(unit) = watch.high.unit.clone().filter(|_| watch.high.started) {
            let dir = watch.dir_for_helper();
            watch.high.in_flight += 1;
            let unit = Some(unit);
            self.helper.give(Work::High { watch: id, dir, value: found, unit });
        }
        self.state.forget(inode);
        self.save_state();
    }

    /// Puts one watch's `memory.high` back as it was found.
    pub(super) fn put_back(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id).filter(|watch| watch.high.ours.is_some()) else { return };
        let original = watch.high.original;
        self.set_high(id, original);
        let Some(watch) = self.watch_mut(id) else { return };
        if watch.high.ours.is_some_and(|ours| ours != original) {
            // It could not be written: the note stays.
            return;
        }
        watch.high.ours = None;
        let inode = watch.group.id().0;
        self.state.forget(inode);
        self.save_state();
    }

    /// A clean stop: everything back at once, the properties in one call.
    pub(super) fn restore_all(&mut self) -> usize {
        // Nothing older may reach systemd after this.
        self.helper.finish();
        let mut units = Vec::new();
        let mut restored = 0;
        for watch in self.watches.iter_mut().flatten() {
            if watch.high.ours.take().is_none() {
                continue;
            }
            match tripwire::write_high(watch.group.memory_dir(), watch.high.original) {
                Ok(()) => restored += 1,
                Err(error) => {
                    warn!("{:?}: memory.high: {error}, skipped", watch.name());
                    // The note stays, for the next start and `nbguard restore`.
                    if !tripwire::is_gone(&error) {
                        continue;
                    }
                }
            }
            match watch.high.unit.clone() {
                Some(unit) => units.push((watch.group.id().0, unit, watch.high.original)),
                None => self.state.forget(watch.group.id().0),
            }
        }
        self.put_properties_back(&units);
        self.save_state();
        restored
    }

    /// systemd's own values go back too; what could not be put back stays noted, for
    /// `nbguard restore` and the next start.
    fn put_properties_back(&mut self, units: &[(u64, String, Limit)]) {
        for some in units.chunks(tripwire::PROPERTIES_AT_ONCE) {
            let values: Vec<(String, Limit)> =
                some.iter().map(|(_, unit, value)| (unit.clone(), *value)).collect();
            let results = tripwire::set_properties(&self.tool, &values);
            for ((inode, unit, _), result) in some.iter().zip(results) {
                match result {
                    Ok(()) => self.state.forget(*inode),
                    Err(error) => {
                        self.count_trouble(Trouble::PropertyNotSet);
                        error!("MemoryHigh of {unit} was not put back: {error}");
                    }
                }
            }
        }
    }

    /// What an earlier daemon changed and this one does not guard (ignored by now, dry-run, its
    /// slice empty) goes back as it was found.
    pub(super) fn restore_left_over(&mut self) {
        let ours: Vec<u64> = self
            .watches
            .iter()
            .flatten()
            .filter(|watch| watch.high.ours.is_some())
            .map(|watch| watch.group.id().0)
            .collect();
        // What is frozen still keeps its note.
        let left = self.state.changed.iter().filter(|c| !ours.contains(&c.inode) && !c.frozen);
        let left: Vec<Changed> = left.cloned().collect();
        let mut units = Vec::new();
        for changed in left {
            let dir = match changed.open() {
                Ok(dir) => dir,
                Err(error) if tripwire::is_gone(&error) => {
                    self.state.forget(changed.inode);
                    continue;
                }
                Err(error) => {
                    warn!("{}: {error}: not put back", changed.dir.display());
                    continue;
                }
            };
            let value = parse_limit(&changed.original);
            match tripwire::write_high(dir.as_fd(), value) {
                Ok(()) => info!("{}: memory.high is {value} again", changed.dir.display()),
                // Gone by now; or v1, which has none: it was noted for having been frozen.
                Err(error) if tripwire::is_gone(&error) => {}
                Err(error) => {
                    warn!("{}: memory.high: {error}", changed.dir.display());
                    continue;
                }
            }
            match changed.unit {
                Some(unit) => units.push((changed.inode, unit, value)),
                None => self.state.forget(changed.inode),
            }
        }
        self.put_properties_back(&units);
        self.save_state();
    }

    /// An earlier daemon may have ended between freezing a container and thawing it.
    pub(super) fn thaw_left_over(&mut self) {
        let mut thawed = false;
        let Reactor { state, hierarchies, .. } = self;
        for changed in state.changed.iter_mut().filter(|c| c.frozen) {
            match changed.thaw(|dir| hierarchies.unified(dir)) {
                Ok(()) => info!("{}: thawed", changed.dir.display()),
                Err(error) if tripwire::is_gone(&error) => {}
                Err(error) => {
                    warn!("{}: not thawed: {error}", changed.dir.display());
                    continue;
                }
            }
            changed.frozen = false;
            thawed = true;
        }
        if thawed {
            self.save_state();
        }
    }

    /// v1: usage thresholds for all steps, and a look whatever crosses them
    /// (Documentation/admin-guide/cgroup-v1/memory.rst, section 9).
    fn arm_v1(&mut self, id: WatchId) {
        use mio::Interest;
        use nix::sys::eventfd::{EfdFlags, EventFd};
        use std::os::fd::{AsRawFd, OwnedFd};
        let Some(watch) = self.watch_mut(id) else { return };
        let old = std::mem::take(&mut watch.v1_events);
        let steps = watch.steps;
        let mut armed = Vec::new();
        let mut failure = None;
        let steps = [Some(steps.warning), steps.last_call, Some(steps.threshold)];
        for threshold in steps.into_iter().flatten() {
            let attempt = || -> std::io::Result<EventFd> {
                let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
                let usage =
                    watch.group.open_file("memory.usage_in_bytes", nix::fcntl::OFlag::O_RDONLY)?;
                let words = format!("{} {} {}", event.as_raw_fd(), usage.as_raw_fd(), threshold.0);
                watch.group.write("cgroup.event_control", words.as_bytes())?;
                Ok(event)
            };
            match attempt() {
                Ok(event) => armed.push(OwnedFd::from(event)),
                Err(error) => failure = Some(error),
            }
        }
        for fd in &old {
            self.deregister(fd.as_raw_fd());
        }
        self.close(old);
        for fd in &armed {
            let registered =
                self.register(fd.as_raw_fd(), super::token::For::V1(id), Interest::READABLE);
            failure = registered.err().or(failure);
        }
        if let Some(error) = failure {
            let Some(watch) = self.watch_mut(id) else { return };
            watch.mode = if watch.psi.is_some() { Mode::Psi } else { Mode::None };
            watch.mode_reason = format!("cgroup.event_control: {error}").into();
            warn!("{:?}: a threshold could not be armed: {error}", watch.name());
            if sys::may_pass(&error) {
                self.mend_later(Some(id));
            }
        }
        if let Some(watch) = self.watch_mut(id) {
            watch.v1_events = armed;
        }
    }
}
