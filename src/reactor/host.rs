//! The host as a domain: containers without a limit step their tripwires along as they grow, and
//! when there is nothing left to give, the episode spans the notebooks of all of them.

use std::os::fd::AsRawFd;

use ::log::{info, warn};
use mio::Interest;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::Reactor;
use super::counters::Trouble;
use super::token::For;
use super::watch::Domain;
use crate::config::{Config, Settings};
use crate::facts::{HostMemory, Limit};
use crate::host::memory;
use crate::policy::decide::{self, Scale};
use crate::policy::episode::{Input, Level, Looked, Step, Traits, Wake};
use crate::policy::stepping::{self, Granted, Member};
use crate::sys::psi::{self, Armed};
use crate::units::{Bytes, Share};

/// Grants nearer to each other than this are the same.
const HARDLY_ANOTHER: Bytes = Bytes::mib(8);
/// Nearer to nothing than this, waiting risks the kernel's OOM killer.
const CRITICAL: Share = Share::percent(3);

pub(super) struct Host {
    pub domain: Domain,
    pub settings: Settings,
    pub memory: HostMemory,
    /// Slots of the containers that are ranked in a host episode.
    pub members: Vec<u32>,
    /// Slots of the groups (containers, or a slice in their place) that have stepping tripwires.
    pub stepping: Vec<u32>,
    pub psi: Option<Armed>,
    grants: Vec<Member>,
}

impl Host {
    pub fn new(config: &Config, memory: HostMemory) -> Host {
        let settings = host_settings(config);
        let traits = traits(config, &settings, false);
        Host {
            domain: Domain::new(traits, Step::Threshold),
            settings,
            memory,
            members: Vec::new(),
            stepping: Vec::new(),
            psi: None,
            grants: Vec::with_capacity(64),
        }
    }

    pub fn total(&self) -> Bytes {
        self.memory.total
    }
}

/// The defaults, with the host's own threshold.
fn host_settings(config: &Config) -> Settings {
    Settings {
        threshold: config.host.threshold,
        trigger: config.host.trigger,
        ..config.defaults.clone()
    }
}

fn traits(config: &Config, settings: &Settings, psi: bool) -> Traits {
    Traits {
        tripwire: config.host.stepping && settings.tripwire && !settings.dry_run,
        psi,
        notebook_max: false,
        tells: false,
        ..Traits::of(settings)
    }
}

impl Reactor {
    /// Arms `/proc/pressure/memory` for what grows outside the containers.
    pub(super) fn arm_host(&mut self) {
        let path = self.roots.path("/proc/pressure/memory");
        let open = || {
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            Ok(open(&path, flags, Mode::empty())?)
        };
        match psi::arm(open, self.config.host.trigger) {
            Ok(armed) => {
                let fd = armed.fd.as_raw_fd();
                if let Err(error) = self.register(fd, For::HostPsi, Interest::PRIORITY) {
                    warn!("/proc/pressure/memory could not be registered: {error}");
                }
                self.host.psi = Some(armed);
            }
            Err(error) => warn!(
                "no PSI trigger on /proc/pressure/memory: {error}; `nbguard doctor` says more"
            ),
        }
        let traits = traits(&self.config, &self.host.settings, self.host.psi.is_some());
        self.host.domain.machine.set_traits(traits);
    }

    pub(super) fn reload_host(&mut self) {
        self.host.settings = host_settings(&self.config);
        let stepped = self.host.domain.machine.has_tripwire();
        let traits = traits(&self.config, &self.host.settings, self.host.psi.is_some());
        self.host.domain.machine.set_traits(traits);
        if stepped != traits.tripwire {
            // Their mode and their `memory.high` hang on it.
            for id in self.stepping_ids() {
                self.relimit(id);
            }
        }
        self.step_host(None);
    }

    fn stepping_ids(&self) -> Vec<crate::ids::WatchId> {
        let slots = self.host.stepping.iter();
        slots.filter_map(|slot| Some(self.watches[*slot as usize].as_ref()?.id)).collect()
    }

    pub(super) fn read_host(&mut self) -> Option<HostMemory> {
        match memory::memory(&self.roots, &mut self.buffer) {
            Ok(memory) => {
                self.host.memory = memory;
                Some(memory)
            }
            Err(error) => {
                self.count_trouble(Trouble::FiguresUnreadable);
                warn!("{error}: this look at the host is skipped");
                None
            }
        }
    }

    /// A container used up its step (`grown`), or who takes part has changed: grant anew, or open
    /// a host episode when less than a smallest step is left.
    pub(super) fn step_host(&mut self, grown: Option<usize>) {
        if !self.host.domain.machine.has_tripwire() || self.host.stepping.is_empty() {
            return;
        }
        if self.host.domain.machine.is_lifted() {
            // Whoever joined since then is not left throttled either.
            self.move_host_steps(Step::Lifted);
            return;
        }
        if self.read_host().is_none() {
            return;
        }
        match self.grant(grown) {
            Granted::Steps => {
                if grown.is_some() {
                    self.counters.steps += 1;
                    // It has room again and is not throttled: the moment to read who is in there.
                    self.identify(None);
                }
            }
            Granted::Exhausted { left } => {
                // Once an episode is under way, further steps that are used up say nothing new.
                if grown.is_some() && self.host.domain.machine.is_watching() {
                    info!("the host has {left} left to give: a host episode opens");
                    self.drive(None, Input::Wake(Wake::HostStep));
                }
            }
        }
    }

    fn grant(&mut self, grown: Option<usize>) -> Granted {
        let Reactor { host, watches, buffer, config, .. } = self;
        host.grants.clear();
        let mut of = None;
        for (number, slot) in host.stepping.iter().enumerate() {
            let watch = watches[*slot as usize].as_ref();
            let usage = watch.and_then(|w| w.group.usage(buffer).ok()).unwrap_or_default();
            host.grants.push(Member { usage, high: Bytes::ZERO });
            if grown == Some(*slot as usize) {
                of = Some(number);
            }
        }
        let granted = stepping::grant(
            &host.memory,
            host.settings.threshold,
            config.host.smallest_step,
            &mut host.grants,
            of,
        );
        match granted {
            Granted::Steps => self.write_grants(of),
            Granted::Exhausted { .. } => self.give_the_least(),
        }
        granted
    }

    /// Nothing is left to give, but nobody is to grow unseen either: who has no step yet gets the
    /// smallest.
    fn give_the_least(&mut self) {
        for number in 0..self.host.grants.len() {
            let usage = self.host.grants[number].usage;
            let slot = self.host.stepping[number] as usize;
            let Some(watch) = self.watches[slot].as_ref() else { continue };
            let none = !matches!(watch.high.ours, Some(Limit::At(_)));
            if none && watch.settings.tripwire && !watch.settings.dry_run && !watch.high.lost {
                let id = watch.id;
                let step = usage.plus(stepping::SMALLEST_GRANT);
                self.set_high(id, Limit::At(step.whole_pages()));
            }
        }
    }

    /// Whoever did not grow first: what they give up is what the grower gets.
    fn write_grants(&mut self, grown: Option<usize>) {
        let others = (0..self.host.grants.len()).filter(|number| Some(*number) != grown);
        let order: Vec<usize> = others.chain(grown).collect();
        for number in order {
            let high = self.host.grants[number].high;
            let slot = self.host.stepping[number] as usize;
            let Some(watch) = self.watches[slot].as_ref() else { continue };
            if !watch.settings.tripwire || watch.settings.dry_run || watch.high.lost {
                continue;
            }
            // A step that is hardly another one is not worth a write and the way to PID 1.
            let stays = match (watch.high.ours, Some(number) == grown) {
                (Some(Limit::At(old)), false) => old.0.abs_diff(high.0) < HARDLY_ANOTHER.0,
                _ => false,
            };
            if stays {
                continue;
            }
            let id = watch.id;
            self.set_high(id, Limit::At(high.whole_pages()));
        }
    }

    /// The host's machine moves its steps: granted, or all of them lifted.
    pub(super) fn move_host_steps(&mut self, step: Step) {
        match step {
            Step::Lifted => {
                for slot in self.host.stepping.clone() {
                    let Some(watch) = self.watches[slot as usize].as_ref() else { continue };
                    let (id, original) = (watch.id, watch.high.original);
                    if watch.high.ours.is_some() {
                        self.set_high(id, original);
                    }
                }
            }
            Step::Warning | Step::LastCall | Step::Threshold => {
                if self.read_host().is_some() {
                    self.grant(None);
                }
            }
            Step::Absent => {}
        }
    }

    /// A look at the host: while there is something to give, it is given.
    pub(super) fn look_at_host(&mut self) -> Looked {
        let now = self.now();
        if self.read_host().is_none() {
            return Looked::UNREADABLE;
        }
        let memory = self.host.memory;
        let gate = decide::host_gate(&memory, &self.host.settings);
        let scale = Scale { total: memory.total, swap: memory.swap_total };
        self.scratch.figures = None;
        self.scratch.gate = Some((gate, scale));
        self.scratch.of = None;
        self.scratch.verdict = None;
        let passed = gate.is_passed();
        if !passed
            && self.host.domain.machine.has_tripwire()
            && !self.host.domain.machine.is_lifted()
        {
            self.grant(None);
        }
        let _ = now;
        Looked {
            passed,
            // The host has one step: granted, or lifted.
            below_warning: false,
            mostly_cache: false,
            below_last_call: false,
            level: Level::Low,
            below_threshold: gate.measure().is_some_and(|m| m.counted <= m.relief),
            critical: memory.available <= memory.total.times(CRITICAL),
            rose: false,
            unreadable: false,
        }
    }

    pub(super) fn host_is_short(&self) -> bool {
        decide::host_gate(&self.host.memory, &self.host.settings).is_passed()
    }
}
