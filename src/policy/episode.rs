//! The state machine of one watched domain: what to do next, given what happened.
//! It never reads, waits or signals: it takes inputs and the time, and asks for effects. The
//! reactor carries them out and feeds the results back. Pure.
//!
//! ```text
//!  Watching ──high, psi──▶ (look) ──gate held──▶ Pressed ──window over──▶ Silenced ─┐
//!     ▲                      │ gate passed           │ gate passed          ▲      │
//!     │                      ▼                       ▼                      └──────┘
//!     │                   Deciding ◀──answers── (helper reads)
//!     │                   │      │ hold
//!     │              kill │      └────────────▶ Lifted ──usage low again──▶ Watching
//!     └── Cooling ◀── Killing
//! ```

use std::time::Duration;

use crate::config::{Clear, Policy, Settings};
use crate::units::Moment;

/// Looks inside a window: the first soon, because reclaim needs some time to show that what is
/// left cannot be reclaimed; later ones at the pace lmkd was found to keep (10–100 ms).
pub const FIRST_LOOK: Duration = Duration::from_millis(50);
pub const NEXT_LOOK: Duration = Duration::from_millis(100);
/// How long looks go on after an event before the guard sleeps again: one PSI window, since the
/// kernel tells at most once a window.
pub const WINDOW: Duration = Duration::from_secs(1);
/// How long a decision may wait for the helper (identities, PSS). `smaps_rollup` takes 14 ms per
/// GiB; a throttled process once held up the reader of its `cmdline` for 491 ms.
pub const ANSWER_BUDGET: Duration = Duration::from_millis(250);
/// How long an episode stays open for identities that are still being read: a daemon that was
/// restarted in mid-episode knows nobody, and lifting would hand the choice to the kernel.
pub const READING_PATIENCE: Duration = Duration::from_secs(5);
/// `memory.events` fires 63 times a second under benign cache: first pause, and the longest.
pub const SILENCE_FIRST: Duration = Duration::from_secs(1);
pub const SILENCE_LONGEST: Duration = Duration::from_secs(30);
/// Without PSI nothing else would wake the guard in the meantime.
pub const SILENCE_LONGEST_WITHOUT_PSI: Duration = Duration::from_secs(1);
/// A lifted tripwire is looked at after this, doubling.
pub const LIFTED_FIRST: Duration = Duration::from_secs(1);
pub const LIFTED_LONGEST: Duration = Duration::from_secs(60);
/// A signalled tree that has not died by now is reported as what it is (D state, EPERM).
/// SIGKILL → dead was 7–81 ms while throttled, 0.8 s for 6 GiB; trackers get 3 s.
pub const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Sweeps for children forked meanwhile: the pause between two.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(5);
/// Asked to finish, then ended.
pub const GENTLE_RUNGS: u8 = 2;
/// While all are being cleared: questions in a row without an end between them. A round asks for
/// four stacks; whoever is not known after so many stays.
pub const CLEARING_ASKS: u8 = 32;
/// How long one of them may take. Nobody waits for it: memory is back.
pub const CLEARING_PATIENCE: Duration = Duration::from_secs(2);
/// After a dry-run verdict the same container is not reported again for this long, doubling.
pub const DRY_RUN_PAUSE: Duration = Duration::from_secs(60);
pub const DRY_RUN_PAUSE_LONGEST: Duration = Duration::from_secs(960);

/// Where the tripwire of a domain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `memory.high` at the warning share.
    Warning,
    /// … at the share between the two: who would end is told while it can still be shown.
    LastCall,
    /// `memory.high` at the threshold.
    Threshold,
    /// Taken away, so that the kernel's OOM killer can work.
    Lifted,
    /// This domain has none: dry-run, PSI alone, v1, host.
    Absent,
}

/// How far usage has risen, as far as notebooks are told of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Below the warning step: the rise is over.
    #[default]
    Low,
    /// Above it, but by cache, which the kernel takes back.
    Cache,
    Warning,
    LastCall,
}

/// What a notebook is told before anything happens to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    Warning,
    LastCall,
}

impl Notice {
    pub fn as_str(self) -> &'static str {
        match self {
            Notice::Warning => "warning",
            Notice::LastCall => "last_call",
        }
    }
}

/// What woke the guard for this domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// `high` of `memory.events` rose.
    High,
    /// `max` of `memory.events` rose.
    Max,
    Psi,
    /// A v1 usage threshold was crossed.
    V1Threshold,
    /// A container without a limit used up its step, and little is left to grant.
    HostStep,
    /// `/proc/pressure/memory`.
    HostPsi,
    /// The limit changed, or the domain was just armed: look whether it is already over.
    Armed,
    /// Somebody read the figures anyway (a scrape, a refresh).
    Asked,
}

impl Wake {
    pub const ALL: [Wake; 8] = [
        Wake::High,
        Wake::Max,
        Wake::Psi,
        Wake::V1Threshold,
        Wake::HostStep,
        Wake::HostPsi,
        Wake::Armed,
        Wake::Asked,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Wake::High => "high",
            Wake::Max => "max",
            Wake::Psi => "psi",
            Wake::V1Threshold => "v1-threshold",
            Wake::HostStep => "host-step",
            Wake::HostPsi => "host-psi",
            Wake::Armed => "armed",
            Wake::Asked => "asked",
        }
    }
}

/// What a look at the figures found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    /// The gate of `policy::decide` lets an episode open.
    pub passed: bool,
    /// Usage is far enough below the warning step to put the tripwire there.
    pub below_warning: bool,
    /// Usage may be higher, but what cannot be reclaimed is that low.
    pub mostly_cache: bool,
    /// … far enough below the last call to put it there.
    pub below_last_call: bool,
    /// … far enough below the threshold to put a lifted tripwire back.
    pub below_threshold: bool,
    pub level: Level,
    /// Usage is so near the limit that waiting for anything risks the kernel's OOM killer.
    pub critical: bool,
    /// `high` or `max` rose since the look before.
    pub rose: bool,
    /// The figures could not be read: none of this is known.
    pub unreadable: bool,
}

impl Looked {
    pub const UNREADABLE: Looked = Looked {
        passed: false,
        below_warning: false,
        mostly_cache: false,
        below_last_call: false,
        below_threshold: false,
        level: Level::Low,
        critical: false,
        rose: false,
        unreadable: true,
    };
}

/// What ranking came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Kill,
    /// Somebody who is not essential, and who may not be the last one. `gently`: it gets to finish
    /// its request, by a ladder of two rungs whatever the settings say. Also where it is known to be
    /// idle: a request may have come since it was looked at, and where memory is short a moment is
    /// not enough for it.
    Clear {
        gently: bool,
    },
    /// The helper has to read something first.
    Ask,
    /// Another kill is in flight on this host: look again when it is over.
    Busy,
    /// The helper is still reading who they are, because they are throttled.
    Reading,
    /// Nothing is ended, and that may change within the window: an identity is unknown, the
    /// notebook was ended a moment ago, it recovered while ranking.
    HoldForNow,
    /// Nothing is ended, and waiting will not change it.
    Hold,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    Wake(Wake),
    Looked(Looked),
    Decided(Decision),
    /// The helper has brought what was asked for.
    Answered,
    /// Every process that was signalled is dead, `resource_tracker`s that are still unlinking
    /// shared memory aside.
    Dead {
        trackers_left: bool,
    },
    /// The kernel refused every signal (EPERM, no descriptors): nobody will die of it.
    Refused,
    /// A process that is followed while the tripwire is lifted has exited.
    FollowedExited,
    /// The tripwire stands higher than was asked for: usage was past that step already.
    Stands(Step),
    /// The deadline has come.
    Timer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Read the figures, answer with `Looked`.
    Look,
    /// At the warning step nothing is throttled yet: read argv and environ of all now, and note
    /// what everybody holds.
    Identify,
    /// The same for whoever came since; growth is still told from the warning look on.
    IdentifyNew,
    /// Tell the notebook that would end.
    Tell(Notice),
    /// Usage is low again: whoever was told may be told anew at the next rise.
    RiseOver,
    /// Put the tripwire there.
    Tripwire(Step),
    /// An episode begins: give it a name and note the event that opened it.
    Open(Wake),
    /// Rank and decide, answer with `Decided`. `last`: the helper's time is over, decide on
    /// what is known. `gate_passed`: otherwise only `notebook_max` can end something.
    Rank {
        last: bool,
        gate_passed: bool,
    },
    /// Hand the question to the helper; `Answered` follows.
    Ask,
    /// Check once more and signal the tree, with this rung of the ladder.
    Kill {
        rung: u8,
    },
    /// Look for children that were forked meanwhile, and signal those.
    Sweep,
    /// Write the record.
    Report(Outcome),
    /// Stop listening to `memory.events`.
    Silence,
    Unsilence,
    /// Follow the largest processes, so that an exit is noticed while the tripwire is lifted.
    Follow,
    Unfollow,
}

/// How an episode ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The tree is dead and what came back was measured.
    Killed,
    /// An earlier rung than KILL was enough, or the pressure went by itself after it.
    Spared,
    /// Signalled, but not dead by the deadline.
    NotDead,
    WouldKill,
    Held,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Out of an episode; nothing wakes the guard but the kernel.
    Watching,
    /// Something fired, the gate held (or held for now): looks for one window.
    Pressed {
        until: Moment,
        next: Moment,
        open: bool,
    },
    /// Benign: `memory.events` is not listened to until then.
    Silenced {
        until: Moment,
    },
    /// Ranked; the helper may be reading.
    Deciding {
        deadline: Option<Moment>,
        asked: bool,
    },
    Killing {
        since: Moment,
        rung: u8,
        /// How many there are for this tree.
        rungs: u8,
        rung_until: Option<Moment>,
        next: Moment,
        dead: bool,
    },
    Cooling {
        until: Moment,
    },
    Lifted {
        next: Moment,
    },
    /// Dry-run has said what it would do; the same is not said again until then.
    Muted {
        until: Moment,
    },
}

/// What a machine must know of its domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traits {
    /// Has a tripwire of its own to move.
    pub tripwire: bool,
    /// Has a second witness while `memory.events` is silent.
    pub psi: bool,
    pub dry_run: bool,
    pub notebook_max: bool,
    /// Notebooks are told when memory runs short.
    pub tells: bool,
    /// There is a step for the last call.
    pub last_call: bool,
    /// Number of rungs in `signals`, at least one.
    pub rungs: u8,
    /// How long each rung but the last may take.
    pub grace: Duration,
    /// Of those that are not essential all end, also when one was enough.
    pub clears_all: bool,
}

impl Traits {
    /// What the settings alone say; whether there is a tripwire or a PSI trigger they cannot.
    pub fn of(settings: &Settings) -> Traits {
        Traits {
            tripwire: false,
            psi: false,
            dry_run: settings.dry_run,
            notebook_max: settings.notebook_max.is_some(),
            // Who is idle reads no message, and who is busy does not end.
            tells: settings.message && !settings.dry_run && settings.policy != Policy::IdleFirst,
            last_call: false,
            rungs: u8::try_from(settings.signals.len()).unwrap_or(1).max(1),
            grace: settings.grace,
            clears_all: settings.policy == Policy::IdleFirst && settings.clear == Clear::All,
        }
    }
}

#[derive(Debug)]
pub struct Machine {
    traits: Traits,
    state: State,
    step: Step,
    wake: Wake,
    silence: Duration,
    lifted: Duration,
    dry_run_pause: Duration,
    /// How long an open episode may be held for now.
    patience: Option<Moment>,
    /// The hold of this stay in `Lifted` was reported; it is told once.
    hold_told: bool,
    /// The highest level of this rise: each is told once.
    reached: Level,
    /// One has ended under `clear = "all"`: the others follow.
    clearing: bool,
    /// Questions since the last end.
    asks: u8,
}

impl Machine {
    pub fn new(traits: Traits, step: Step) -> Machine {
        Machine {
            traits,
            state: State::Watching,
            step,
            wake: Wake::Armed,
            silence: SILENCE_FIRST,
            lifted: LIFTED_FIRST,
            dry_run_pause: DRY_RUN_PAUSE,
            patience: None,
            hold_told: false,
            reached: Level::Low,
            clearing: false,
            asks: 0,
        }
    }

    /// A reload changed the rules; where the domain stands stays as it is.
    pub fn set_traits(&mut self, traits: Traits) {
        self.traits = traits;
        // By rules that are no more nobody else follows.
        self.clearing &= traits.clears_all;
        if !traits.tripwire {
            self.step = Step::Absent;
        } else if self.step == Step::Absent {
            self.step = if self.is_lifted() { Step::Lifted } else { Step::Warning };
        }
    }

    /// The tripwire was given up (somebody else keeps writing it), or could not be set.
    pub fn tripwire_lost(&mut self) {
        self.traits.tripwire = false;
        self.step = Step::Absent;
    }

    /// Where the tripwire is to stand after the steps were computed anew: as the figures say,
    /// or where an open episode has put it.
    pub fn place(&mut self, step: Step) -> Step {
        let keeps = match self.state {
            State::Watching | State::Cooling { .. } => false,
            State::Lifted { .. } => true,
            _ => self.step == Step::Threshold,
        };
        if self.traits.tripwire && !keeps {
            self.step = step;
        }
        self.step
    }

    /// When the machine wants a `Timer`. `None` out of an episode: nothing wakes the guard.
    pub fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Watching => None,
            State::Pressed { next, .. } | State::Lifted { next } => Some(next),
            State::Silenced { until } | State::Cooling { until } | State::Muted { until } => {
                Some(until)
            }
            State::Deciding { deadline, .. } => deadline,
            State::Killing { next, rung_until, .. } => {
                Some(rung_until.map_or(next, |until| until.min(next)))
            }
        }
    }

    pub fn is_lifted(&self) -> bool {
        matches!(self.state, State::Lifted { .. })
    }

    /// Whether `memory.events` is to be listened to in this state.
    pub fn listens(&self) -> bool {
        !matches!(self.state, State::Silenced { .. } | State::Lifted { .. })
    }

    pub fn has_tripwire(&self) -> bool {
        self.traits.tripwire
    }

    /// The state's name, as `ps` and the metrics show it.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Watching if matches!(self.step, Step::LastCall | Step::Threshold) => "warned",
            State::Watching => "quiet",
            State::Pressed { .. } => "pressed",
            State::Silenced { .. } => "silenced",
            State::Deciding { .. } => "deciding",
            State::Killing { .. } => "killing",
            State::Cooling { .. } => "cooling",
            State::Lifted { .. } => "lifted",
            State::Muted { .. } => "muted",
        }
    }

    /// Whether the next one follows whatever the gate says.
    pub fn is_clearing(&self) -> bool {
        self.clearing
    }

    /// Where its tripwire stands, or is to stand.
    pub fn stands(&self) -> Step {
        self.step
    }

    /// Whether refaults may prove thrash now: after a kill they lag behind the relief.
    pub fn may_prove_thrash(&self) -> bool {
        !matches!(self.state, State::Cooling { .. } | State::Killing { .. })
    }

    pub fn step(&mut self, now: Moment, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Wake(wake) => self.on_wake(wake, out),
            Input::Looked(looked) => self.on_looked(now, looked, out),
            Input::Decided(decision) => self.on_decided(now, decision, out),
            Input::Answered => {
                // What was asked for took its time: look afresh before anything is decided on it.
                match self.state {
                    State::Deciding { asked: true, .. } => out.push(Effect::Look),
                    State::Cooling { .. } if self.clearing => out.push(Effect::Look),
                    _ => {}
                }
            }
            Input::Dead { trackers_left } => self.on_dead(now, trackers_left, out),
            Input::Refused => {
                if let State::Killing { .. } = self.state {
                    self.ended(Outcome::NotDead, out);
                    // Each try is an incident: ever fewer of them where it is refused for good.
                    self.lift_for(self.lifted, now, out);
                }
            }
            Input::FollowedExited => {
                if let State::Lifted { .. } = self.state {
                    out.push(Effect::Look);
                }
            }
            Input::Stands(step) => {
                if self.traits.tripwire {
                    self.step = step;
                }
            }
            Input::Timer => self.on_timer(now, out),
        }
    }

    fn on_wake(&mut self, wake: Wake, out: &mut Vec<Effect>) {
        match self.state {
            State::Watching => {
                self.wake = wake;
                if wake == Wake::High {
                    self.raise(out);
                } else if wake == Wake::V1Threshold {
                    out.push(Effect::Identify);
                }
                out.push(Effect::Look);
            }
            State::Pressed { open: false, .. } | State::Cooling { .. } => {
                self.wake = wake;
                if wake == Wake::High {
                    self.raise(out);
                }
                out.push(Effect::Look);
            }
            State::Silenced { .. } if wake != Wake::High && wake != Wake::Max => {
                // Readers of big files stall as well: one look tells whether it is more than that.
                self.wake = wake;
                out.push(Effect::Look);
            }
            // PSI fires at most once a window, so this cannot become a storm. Whoever asks each
            // second would only draw out the pauses of its own looks.
            State::Lifted { .. } if !matches!(wake, Wake::High | Wake::Max | Wake::Asked) => {
                out.push(Effect::Look);
            }
            // The open decision or kill is what this event asks for.
            State::Pressed { open: true, .. }
            | State::Silenced { .. }
            | State::Lifted { .. }
            | State::Deciding { .. }
            | State::Killing { .. }
            | State::Muted { .. } => {}
        }
    }

    /// What fired may never fire again, so the looks go on until one succeeds. Nothing else changes:
    /// nobody is ended, or counts as recovered, on figures that nobody has.
    fn on_unreadable(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.state {
            State::Watching => self.state = Self::pressed(now),
            State::Pressed { until, open, .. } if now < until => {
                self.state = State::Pressed { until, next: now.plus(NEXT_LOOK), open };
            }
            State::Pressed { open: true, .. } => self.lift(now, out),
            State::Deciding { .. } => self.look_again(now, now.plus(WINDOW)),
            State::Pressed { .. } | State::Silenced { .. } => self.silence(now, out),
            State::Cooling { until } if now >= until => self.silence(now, out),
            State::Lifted { .. } => {
                self.state = State::Lifted { next: now.plus(self.lifted) };
                self.lifted = (self.lifted * 2).min(LIFTED_LONGEST);
            }
            State::Cooling { .. } | State::Killing { .. } | State::Muted { .. } => {}
        }
    }

    fn on_looked(&mut self, now: Moment, looked: Looked, out: &mut Vec<Effect>) {
        if looked.unreadable {
            return self.on_unreadable(now, out);
        }
        match self.state {
            State::Watching | State::Cooling { .. } if looked.passed => self.open(out),
            State::Watching => {
                if self.traits.notebook_max {
                    out.push(Effect::Rank { last: false, gate_passed: false });
                }
                self.settle(looked, out);
                self.tell(looked, out);
                // A stall, or the threshold itself, with something left to reclaim: stay and look.
                let at_threshold = self.step != Step::Warning
                    && matches!(self.wake, Wake::High | Wake::Max | Wake::V1Threshold);
                let stalled = matches!(self.wake, Wake::Psi | Wake::HostPsi | Wake::HostStep);
                if stalled || (at_threshold && looked.rose) {
                    self.state = Self::pressed(now);
                }
            }
            State::Pressed { open: true, until, .. } => {
                if looked.passed {
                    let last = now >= until;
                    self.state = State::Deciding { deadline: None, asked: last };
                    out.push(Effect::Rank { last, gate_passed: true });
                } else {
                    self.recover(looked, out);
                }
            }
            State::Pressed { until, .. } => {
                if looked.passed {
                    self.open(out);
                    return;
                }
                if looked.rose {
                    // Its event was counted by the look before, or by this one.
                    self.raise(out);
                }
                self.tell(looked, out);
                if now < until {
                    let next = now.plus(NEXT_LOOK);
                    self.state = State::Pressed { until, next, open: false };
                } else if looked.rose {
                    self.silence(now, out);
                } else {
                    self.calm(looked, out);
                }
            }
            State::Silenced { until } if now < until && !looked.passed => {
                if !looked.mostly_cache {
                    out.push(Effect::Unsilence);
                    self.state = Self::pressed(now);
                }
            }
            State::Silenced { .. } => {
                if looked.passed {
                    self.open(out);
                } else if looked.rose {
                    // Nobody listens: at the last call it would be throttled until somebody does.
                    self.raise(out);
                    self.silence(now, out);
                } else {
                    self.calm(looked, out);
                }
            }
            State::Cooling { until } => {
                // After a kill cache is given up for the warning step, once. Whenever only cache
                // stands above it would be for ever: the readers would fill it again.
                let below_warning = looked.below_warning || looked.mostly_cache;
                let looked = Looked { below_warning, ..looked };
                if self.clearing {
                    self.settle(looked, out);
                    out.push(Effect::Rank { last: false, gate_passed: false });
                } else if now >= until {
                    self.calm(looked, out);
                } else {
                    self.settle(looked, out);
                }
            }
            State::Lifted { .. } => {
                if looked.below_threshold {
                    out.push(Effect::Unfollow);
                    out.push(Effect::Unsilence);
                    self.lifted = LIFTED_FIRST;
                    self.hold_told = false;
                    self.state = State::Watching;
                    let step = if looked.below_warning { Step::Warning } else { Step::Threshold };
                    self.move_to(step, out);
                } else {
                    self.state = State::Lifted { next: now.plus(self.lifted) };
                    self.lifted = (self.lifted * 2).min(LIFTED_LONGEST);
                    if looked.passed {
                        out.push(Effect::Rank { last: true, gate_passed: true });
                    }
                }
            }
            State::Killing { rung, rungs, rung_until, dead, .. } => {
                self.on_looked_killing(now, looked, (rung, rungs), rung_until, dead, out);
            }
            State::Deciding { asked: true, .. } => {
                if looked.passed {
                    self.state = State::Deciding { deadline: None, asked: true };
                    out.push(Effect::Rank { last: true, gate_passed: true });
                } else {
                    self.recover(looked, out);
                }
            }
            State::Deciding { .. } | State::Muted { .. } => {}
        }
    }

    /// It recovered by itself: the episode closes, and its record says so.
    fn recover(&mut self, looked: Looked, out: &mut Vec<Effect>) {
        out.push(Effect::Report(Outcome::Held));
        self.state = State::Watching;
        self.settle(looked, out);
    }

    fn on_looked_killing(
        &mut self,
        now: Moment,
        looked: Looked,
        (rung, rungs): (u8, u8),
        rung_until: Option<Moment>,
        dead: bool,
        out: &mut Vec<Effect>,
    ) {
        if dead {
            // The trackers are unlinking: wait for what they give back unless it is urgent.
            if looked.passed && looked.critical {
                self.ended(Outcome::Killed, out);
                self.open(out);
            }
            return;
        }
        if rung_until.is_some_and(|until| now >= until) {
            if looked.passed {
                let rung = rung + 1;
                let rung_until = (rung + 1 < rungs).then(|| now.plus(self.traits.grace));
                let next = now.plus(SWEEP_PAUSE);
                // Each rung has its own time to take effect.
                self.state = State::Killing { since: now, rung, rungs, rung_until, next, dead };
                out.push(Effect::Kill { rung });
            } else {
                // It goes when it is done: chosen again it would be asked again.
                self.clearing = false;
                self.ended(Outcome::Spared, out);
                self.cool(now, looked, out);
            }
        }
    }

    fn on_decided(&mut self, now: Moment, decision: Decision, out: &mut Vec<Effect>) {
        let ends = matches!(decision, Decision::Kill | Decision::Clear { .. });
        if let (State::Cooling { .. }, false) = (self.state, ends) {
            return self.on_none_left(now, decision, out);
        }
        match decision {
            Decision::Kill | Decision::Clear { .. } if self.traits.dry_run => {
                let lifted = self.leave_lifted(out);
                if lifted || self.is_watching() {
                    out.push(Effect::Open(self.wake));
                }
                out.push(Effect::Report(Outcome::WouldKill));
                self.state = State::Muted { until: now.plus(self.dry_run_pause) };
                self.dry_run_pause = (self.dry_run_pause * 2).min(DRY_RUN_PAUSE_LONGEST);
            }
            Decision::Kill | Decision::Clear { .. } => {
                let lifted = self.leave_lifted(out);
                let follows = matches!(self.state, State::Cooling { .. });
                if lifted || follows || self.is_watching() {
                    out.push(Effect::Open(self.wake));
                }
                self.clearing = self.traits.clears_all && decision != Decision::Kill;
                self.asks = 0;
                let gently = decision == Decision::Clear { gently: true };
                let rungs = if gently { GENTLE_RUNGS } else { self.traits.rungs };
                let rung_until = (rungs > 1).then(|| now.plus(self.traits.grace));
                self.state = State::Killing {
                    since: now,
                    rung: 0,
                    rungs,
                    rung_until,
                    next: now.plus(SWEEP_PAUSE),
                    dead: false,
                };
                out.push(Effect::Kill { rung: 0 });
            }
            Decision::Ask => match self.state {
                State::Deciding { asked: false, .. } => {
                    let deadline = Some(now.plus(ANSWER_BUDGET));
                    self.state = State::Deciding { deadline, asked: true };
                    out.push(Effect::Ask);
                    if self.traits.tells {
                        // The answer takes its time: enough to be told before the end.
                        out.push(Effect::Tell(Notice::LastCall));
                    }
                }
                // Asked already, and no wiser: nobody is ended on a guess.
                State::Deciding { .. } => self.lift(now, out),
                // `notebook_max` alone: it is judged again, on what is known.
                State::Watching | State::Pressed { open: false, .. } => {
                    out.push(Effect::Rank { last: true, gate_passed: false });
                }
                _ => {}
            },
            Decision::Busy => self.look_again(now, now.plus(WINDOW)),
            Decision::HoldForNow | Decision::Reading => {
                let patience =
                    if decision == Decision::Reading { READING_PATIENCE } else { WINDOW };
                let until = *self.patience.get_or_insert(now.plus(patience));
                if now > until.plus(NEXT_LOOK) && matches!(self.state, State::Deciding { .. }) {
                    self.lift(now, out);
                } else {
                    self.look_again(now, until);
                }
            }
            Decision::Hold => match self.state {
                State::Deciding { .. } | State::Killing { .. } => self.lift(now, out),
                _ => {}
            },
        }
    }

    /// A decision after an end whose answer is not one more.
    fn on_none_left(&mut self, now: Moment, decision: Decision, out: &mut Vec<Effect>) {
        match decision {
            // Memory is back: there is time to ask everybody, a few at once.
            Decision::Ask if self.asks < CLEARING_ASKS => {
                self.asks += 1;
                self.state = State::Cooling { until: now.plus(CLEARING_PATIENCE) };
                out.push(Effect::Ask);
            }
            Decision::Ask => out.push(Effect::Rank { last: true, gate_passed: false }),
            Decision::Reading if self.asks < CLEARING_ASKS => {
                self.asks += 1;
                self.state = State::Cooling { until: now.plus(CLEARING_PATIENCE) };
            }
            Decision::Busy => self.state = State::Cooling { until: now.plus(WINDOW) },
            _ => self.clearing = false,
        }
    }

    fn on_dead(&mut self, now: Moment, trackers_left: bool, out: &mut Vec<Effect>) {
        let State::Killing { rung, rungs, .. } = self.state else { return };
        if trackers_left {
            let next = now.plus(NEXT_LOOK);
            self.state =
                State::Killing { since: now, rung, rungs, rung_until: None, next, dead: true };
            return;
        }
        // Look afresh: a second ranking only on figures younger than the first kill.
        self.ended(Outcome::Killed, out);
        self.state = State::Cooling { until: now.plus(WINDOW) };
        out.push(Effect::Look);
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.state {
            State::Pressed { until, open, .. } => {
                self.state = State::Pressed { until, next: now.plus(NEXT_LOOK), open };
                out.push(Effect::Look);
            }
            State::Silenced { .. } => {
                out.push(Effect::Unsilence);
                out.push(Effect::Look);
            }
            State::Deciding { asked: true, deadline: Some(_) } => {
                let deadline = Some(now.plus(NEXT_LOOK));
                self.state = State::Deciding { deadline, asked: true };
                out.push(Effect::Look);
            }
            State::Cooling { .. } | State::Lifted { .. } => out.push(Effect::Look),
            State::Killing { since, rung, rungs, rung_until, dead, .. } => {
                if now.since(since) >= KILL_DEADLINE && rung_until.is_none() {
                    self.ended(Outcome::NotDead, out);
                    self.lift_silently(now, out);
                    return;
                }
                let pause = if dead { NEXT_LOOK } else { SWEEP_PAUSE };
                let next = now.plus(pause);
                self.state = State::Killing { since, rung, rungs, rung_until, next, dead };
                if dead || rung_until.is_some_and(|until| now >= until) {
                    out.push(Effect::Look);
                }
                out.push(Effect::Sweep);
            }
            State::Muted { .. } => self.state = State::Watching,
            State::Watching | State::Deciding { .. } => {}
        }
    }

    /// The kernel says that usage has crossed the step: up with it before anything else is done,
    /// since from here on every millisecond at the step throttles all. Then see who is there.
    fn raise(&mut self, out: &mut Vec<Effect>) {
        match self.step {
            Step::Warning if self.traits.last_call => self.move_to(Step::LastCall, out),
            Step::Warning | Step::LastCall => self.move_to(Step::Threshold, out),
            Step::Threshold | Step::Lifted | Step::Absent => return,
        }
        out.push(self.identify());
    }

    fn identify(&self) -> Effect {
        if self.reached < Level::Warning { Effect::Identify } else { Effect::IdentifyNew }
    }

    /// Each level of a rise is told once; a fall below the warning step ends the rise.
    fn tell(&mut self, looked: Looked, out: &mut Vec<Effect>) {
        let before = self.reached;
        self.reached = before.max(looked.level);
        if looked.level == Level::Low {
            self.end_rise(out);
        } else if self.traits.tells && self.reached > before {
            match self.reached {
                Level::Low | Level::Cache => {}
                Level::Warning => out.push(Effect::Tell(Notice::Warning)),
                Level::LastCall => out.push(Effect::Tell(Notice::LastCall)),
            }
        }
    }

    fn end_rise(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.reached) > Level::Low {
            out.push(Effect::RiseOver);
        }
    }

    /// The episode stays open, and looks go on.
    fn look_again(&mut self, now: Moment, until: Moment) {
        if matches!(self.state, State::Deciding { .. } | State::Killing { .. }) {
            self.state = State::Pressed { until, next: now.plus(FIRST_LOOK), open: true };
        }
    }

    /// Out of `Lifted` into an episode: whoever was followed and what was silenced is as before.
    fn leave_lifted(&mut self, out: &mut Vec<Effect>) -> bool {
        if !self.is_lifted() {
            return false;
        }
        self.hold_told = false;
        out.push(Effect::Unfollow);
        out.push(Effect::Unsilence);
        true
    }

    /// Out of an episode, or only looking.
    pub fn is_watching(&self) -> bool {
        matches!(self.state, State::Watching | State::Pressed { open: false, .. })
    }

    fn pressed(now: Moment) -> State {
        State::Pressed { until: now.plus(WINDOW), next: now.plus(FIRST_LOOK), open: false }
    }

    /// An episode opens: rank at once.
    fn open(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.state, State::Silenced { .. }) {
            out.push(Effect::Unsilence);
        }
        self.silence = SILENCE_FIRST;
        self.patience = None;
        self.lifted = LIFTED_FIRST;
        self.state = State::Deciding { deadline: None, asked: false };
        out.push(Effect::Open(self.wake));
        out.push(Effect::Rank { last: false, gate_passed: true });
    }

    fn silence(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let longest = if self.traits.psi { SILENCE_LONGEST } else { SILENCE_LONGEST_WITHOUT_PSI };
        self.state = State::Silenced { until: now.plus(self.silence) };
        self.silence = (self.silence * 2).min(longest.max(SILENCE_FIRST));
        out.push(Effect::Silence);
    }

    /// Somebody was signalled, and the episode is over: whatever is told from here on is told of
    /// a new rise.
    fn ended(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.reached = Level::Low;
        out.push(Effect::Report(outcome));
    }

    /// Back to watching, with nothing left of the benign storm.
    fn calm(&mut self, looked: Looked, out: &mut Vec<Effect>) {
        self.state = State::Watching;
        self.silence = SILENCE_FIRST;
        self.settle(looked, out);
    }

    /// Usage is low again: the step goes back to the warning share.
    fn settle(&mut self, looked: Looked, out: &mut Vec<Effect>) {
        match self.step {
            Step::Threshold | Step::LastCall if looked.below_warning => {
                self.move_to(Step::Warning, out);
            }
            Step::Threshold if self.traits.last_call && looked.below_last_call => {
                self.move_to(Step::LastCall, out);
            }
            // A kill out of `Lifted`: what was taken away is put back.
            Step::Lifted if !looked.passed => {
                let low = looked.below_warning;
                self.move_to(if low { Step::Warning } else { Step::Threshold }, out);
            }
            _ => {}
        }
        if looked.level == Level::Low || looked.below_warning {
            self.end_rise(out);
        }
    }

    fn cool(&mut self, now: Moment, looked: Looked, out: &mut Vec<Effect>) {
        self.state = State::Cooling { until: now.plus(WINDOW) };
        self.settle(looked, out);
    }

    /// The guard cannot help here: get out of the kernel's way, and say so once.
    fn lift(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if !self.hold_told {
            out.push(Effect::Report(Outcome::Held));
            self.hold_told = true;
        }
        self.lift_silently(now, out);
    }

    fn lift_silently(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.lift_for(LIFTED_FIRST, now, out);
    }

    fn lift_for(&mut self, pause: Duration, now: Moment, out: &mut Vec<Effect>) {
        self.clearing = false;
        self.state = State::Lifted { next: now.plus(pause) };
        self.lifted = (pause * 2).min(LIFTED_LONGEST);
        self.move_to(Step::Lifted, out);
        out.push(Effect::Silence);
        out.push(Effect::Follow);
    }

    fn move_to(&mut self, step: Step, out: &mut Vec<Effect>) {
        if self.traits.tripwire && self.step != step {
            self.step = step;
            out.push(Effect::Tripwire(step));
        }
    }
}

#[cfg(test)]
mod tests;
