//! The state machine of one domain: what comes in, and what is asked for.

use super::*;

const TRAITS: Traits = Traits {
    tripwire: true,
    psi: true,
    dry_run: false,
    notebook_max: false,
    tells: false,
    last_call: false,
    rungs: 1,
    grace: Duration::from_secs(5),
    clears_all: false,
};
const TELLS: Traits = Traits { tells: true, last_call: true, ..TRAITS };

const CALM: Looked = Looked {
    passed: false,
    below_warning: true,
    mostly_cache: true,
    below_last_call: true,
    below_threshold: true,
    level: Level::Low,
    critical: false,
    rose: false,
    unreadable: false,
};
const HELD: Looked = Looked {
    below_warning: false,
    mostly_cache: false,
    below_last_call: false,
    below_threshold: false,
    rose: true,
    ..CALM
};
const OVER: Looked = Looked { passed: true, ..HELD };

/// A machine, its clock, and what it asked for last.
struct Bench {
    machine: Machine,
    now: Moment,
}

impl Bench {
    fn new(traits: Traits) -> Bench {
        let step = if traits.tripwire { Step::Warning } else { Step::Absent };
        Bench { machine: Machine::new(traits, step), now: Moment(0) }
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.machine.step(self.now, input, &mut out);
        out
    }

    fn wake(&mut self, wake: Wake) -> Vec<Effect> {
        self.give(Input::Wake(wake))
    }

    fn look(&mut self, looked: Looked) -> Vec<Effect> {
        self.give(Input::Looked(looked))
    }

    fn timer(&mut self) -> Vec<Effect> {
        self.now = self.machine.deadline().expect("a timer is only given to who wants one");
        self.give(Input::Timer)
    }

    /// Through the warning step to a kill that was signalled.
    fn killing(traits: Traits) -> Bench {
        let mut b = Bench::new(traits);
        b.wake(Wake::High);
        b.look(OVER);
        b.give(Input::Decided(Decision::Kill));
        b
    }
}

#[test]
fn the_warning_step_raises_first_then_reads_identities_then_looks() {
    let mut b = Bench::new(TRAITS);
    assert_eq!(
        b.wake(Wake::High),
        [Effect::Tripwire(Step::Threshold), Effect::Identify, Effect::Look]
    );
    assert_eq!(b.look(HELD), []);
    assert_eq!(b.machine.deadline(), Some(Moment(50_000)));
}

const WARNED: Looked = Looked { level: Level::Warning, rose: false, ..HELD };
const CALLED: Looked = Looked { level: Level::LastCall, rose: false, ..HELD };
const CACHE: Looked = Looked { level: Level::Cache, mostly_cache: true, rose: false, ..HELD };

#[test]
fn a_rise_is_told_step_by_step_and_each_step_once() {
    let mut b = Bench::new(TELLS);
    assert_eq!(
        b.wake(Wake::High),
        [Effect::Tripwire(Step::LastCall), Effect::Identify, Effect::Look]
    );
    assert_eq!(b.look(WARNED), [Effect::Tell(Notice::Warning)]);
    assert_eq!((b.machine.state_name(), b.machine.deadline()), ("warned", None));
    assert_eq!(b.wake(Wake::Psi), [Effect::Look]);
    assert_eq!(b.look(WARNED), [], "told once");
    while b.machine.deadline().is_some() {
        b.timer();
        assert_eq!(b.look(WARNED), []);
    }
    assert_eq!(
        b.wake(Wake::High),
        [Effect::Tripwire(Step::Threshold), Effect::IdentifyNew, Effect::Look],
        "who held what at the warning is what growth is told by"
    );
    assert_eq!(b.look(CALLED), [Effect::Tell(Notice::LastCall)]);
    assert_eq!(b.wake(Wake::High), [Effect::Look], "at the threshold: an episode");
    assert_eq!(
        b.look(OVER),
        [Effect::Open(Wake::High), Effect::Rank { last: false, gate_passed: true }]
    );
    assert_eq!(
        b.give(Input::Decided(Decision::Kill)),
        [Effect::Kill { rung: 0 }],
        "nothing is told between the decision and the signal"
    );
}

#[test]
fn whoever_grows_past_both_steps_at_once_is_told_the_last_word_only() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.give(Input::Stands(Step::Threshold));
    assert_eq!(b.machine.stands(), Step::Threshold);
    assert_eq!(b.look(CALLED), [Effect::Tell(Notice::LastCall)]);
    assert_eq!(b.wake(Wake::High), [Effect::Look]);
    let mut b = Bench::new(Traits { tripwire: false, ..TELLS });
    b.give(Input::Stands(Step::Threshold));
    assert_eq!(b.machine.stands(), Step::Absent, "what is not there stands nowhere");
}

#[test]
fn the_last_call_is_met_within_the_window_of_the_warning() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.look(Looked { rose: true, ..WARNED });
    assert_eq!(
        b.wake(Wake::High),
        [Effect::Tripwire(Step::Threshold), Effect::IdentifyNew, Effect::Look]
    );
    assert_eq!(b.look(CALLED), [Effect::Tell(Notice::LastCall)]);
    // Its event was counted by a look that came before it: nobody stays throttled there.
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.look(Looked { rose: true, ..WARNED });
    b.timer();
    assert_eq!(
        b.look(Looked { rose: true, ..CALLED }),
        [Effect::Tripwire(Step::Threshold), Effect::IdentifyNew, Effect::Tell(Notice::LastCall)]
    );
}

#[test]
fn a_rise_ends_below_the_warning_step_and_the_next_is_told_anew() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.look(WARNED);
    b.wake(Wake::Psi);
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning), Effect::RiseOver]);
    while b.machine.deadline().is_some() {
        b.timer();
        assert_eq!(b.look(CALM), []);
    }
    assert_eq!(
        b.wake(Wake::High),
        [Effect::Tripwire(Step::LastCall), Effect::Identify, Effect::Look]
    );
    assert_eq!(b.look(WARNED), [Effect::Tell(Notice::Warning)]);
}

#[test]
fn after_a_kill_the_next_rise_is_told_and_the_last_call_has_its_step_again() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.look(CALLED);
    b.wake(Wake::High);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Kill));
    b.give(Input::Dead { trackers_left: false });
    let between = Looked { below_last_call: true, ..WARNED };
    assert_eq!(b.look(between), [Effect::Tripwire(Step::LastCall)]);
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(between), []);
    b.wake(Wake::High);
    assert_eq!(b.look(CALLED), [Effect::Tell(Notice::LastCall)]);
}

#[test]
fn a_recovery_in_mid_episode_ends_the_rise_as_well() {
    for traits in [TELLS, Traits { tripwire: false, ..TELLS }] {
        let mut b = Bench::new(traits);
        let wake = if traits.tripwire { Wake::High } else { Wake::V1Threshold };
        b.wake(wake);
        b.look(CALLED);
        b.wake(wake);
        b.look(OVER);
        b.give(Input::Decided(Decision::HoldForNow));
        b.timer();
        assert_eq!(b.look(CALM).last(), Some(&Effect::RiseOver));
        assert!(b.wake(wake).contains(&Effect::Identify));
        assert_eq!(b.look(WARNED), [Effect::Tell(Notice::Warning)]);
    }
}

#[test]
fn page_cache_that_fills_a_container_is_told_to_nobody() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    assert_eq!(b.look(CACHE), []);
    b.wake(Wake::High);
    assert_eq!(b.look(CACHE), []);
    b.wake(Wake::Psi);
    assert_eq!(b.look(WARNED), [Effect::Tell(Notice::Warning)], "until it is more than that");
}

#[test]
fn on_v1_each_crossing_is_a_look_and_each_level_is_told_once() {
    let mut b = Bench::new(Traits { tripwire: false, psi: false, ..TELLS });
    let up = |b: &mut Bench, looked| {
        assert_eq!(b.wake(Wake::V1Threshold), [Effect::Identify, Effect::Look]);
        b.look(looked)
    };
    assert_eq!(up(&mut b, WARNED), [Effect::Tell(Notice::Warning)]);
    assert_eq!(up(&mut b, CALLED), [Effect::Tell(Notice::LastCall)]);
    assert_eq!(up(&mut b, WARNED), [], "on its way down");
    assert_eq!(up(&mut b, CALLED), []);
    let low = Looked { level: Level::Low, below_warning: false, ..WARNED };
    assert_eq!(up(&mut b, low), [Effect::RiseOver]);
    assert_eq!(up(&mut b, WARNED), [Effect::Tell(Notice::Warning)]);
}

#[test]
fn without_messages_there_is_no_third_step_and_nobody_is_told() {
    for traits in [TRAITS, Traits { tripwire: false, ..TRAITS }] {
        let mut b = Bench::new(traits);
        let effects = b.wake(if traits.tripwire { Wake::High } else { Wake::V1Threshold });
        assert!(!effects.contains(&Effect::Tripwire(Step::LastCall)));
        assert_eq!(b.look(WARNED), []);
        b.wake(Wake::Psi);
        assert_eq!(b.look(CALLED), []);
    }
}

#[test]
fn while_a_decision_waits_for_an_answer_there_is_time_to_tell() {
    let mut b = Bench::new(TELLS);
    b.wake(Wake::High);
    b.look(OVER);
    assert_eq!(
        b.give(Input::Decided(Decision::Ask)),
        [Effect::Ask, Effect::Tell(Notice::LastCall)]
    );
}

#[test]
fn nobody_stays_throttled_below_the_threshold_when_a_stall_came_first() {
    for traits in [TRAITS, TELLS] {
        let mut b = Bench::new(traits);
        b.wake(Wake::Psi);
        b.look(Looked { rose: false, ..HELD });
        assert_eq!(b.machine.state_name(), "pressed");
        let up = if traits.last_call { Step::LastCall } else { Step::Threshold };
        assert_eq!(
            b.wake(Wake::High),
            [Effect::Tripwire(up), Effect::Identify, Effect::Look],
            "it is the warning step still"
        );
    }
}

#[test]
fn high_at_the_threshold_opens_an_episode_and_ranks_in_the_same_turn() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(Looked { rose: false, ..HELD });
    assert_eq!(b.machine.state_name(), "warned");
    assert_eq!(b.machine.deadline(), None, "nothing wakes a warned container");
    assert_eq!(b.wake(Wake::High), [Effect::Look]);
    assert_eq!(
        b.look(OVER),
        [Effect::Open(Wake::High), Effect::Rank { last: false, gate_passed: true }]
    );
    assert_eq!(b.give(Input::Decided(Decision::Kill)), [Effect::Kill { rung: 0 }]);
}

#[test]
fn a_kill_is_measured_before_the_next_ranking() {
    let mut b = Bench::killing(TRAITS);
    for wake in [Wake::High, Wake::Psi, Wake::Max] {
        assert_eq!(b.wake(wake), [], "no event starts a second kill while one is in flight");
    }
    assert_eq!(
        b.give(Input::Dead { trackers_left: false }),
        [Effect::Report(Outcome::Killed), Effect::Look]
    );
    assert_eq!(
        b.look(OVER),
        [Effect::Open(Wake::High), Effect::Rank { last: false, gate_passed: true }]
    );
}

#[test]
fn after_a_kill_that_sufficed_it_goes_back_to_the_warning_step_and_sleeps() {
    let mut b = Bench::killing(TRAITS);
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning)]);
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(CALM), []);
    assert_eq!(b.machine.deadline(), None);
    assert_eq!(b.machine.state_name(), "quiet");
}

#[test]
fn while_trackers_unlink_only_an_urgent_look_goes_on() {
    let mut b = Bench::killing(TRAITS);
    assert_eq!(b.give(Input::Dead { trackers_left: true }), []);
    assert_eq!(b.timer(), [Effect::Look, Effect::Sweep]);
    assert_eq!(b.look(OVER), []);
    assert_eq!(
        b.look(Looked { critical: true, ..OVER }),
        [
            Effect::Report(Outcome::Killed),
            Effect::Open(Wake::High),
            Effect::Rank { last: false, gate_passed: true }
        ]
    );
}

#[test]
fn cache_above_the_warning_step_does_not_make_the_tripwire_go_up_and_down() {
    let cache = Looked { mostly_cache: true, ..HELD };
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(cache);
    while b.machine.state_name() == "pressed" {
        b.timer();
        let moved = b.look(Looked { rose: false, ..cache });
        assert_eq!(moved, [], "the tripwire stays at the threshold");
    }
    let mut b = Bench::killing(TRAITS);
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(cache), [Effect::Tripwire(Step::Warning)], "after a kill, once");
}

#[test]
fn benign_cache_is_looked_at_for_one_window_then_silenced_for_longer_and_longer() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(HELD);
    let mut looks = 0;
    let silenced = loop {
        assert_eq!(b.timer(), [Effect::Look]);
        looks += 1;
        let effects = b.look(HELD);
        if !effects.is_empty() {
            break effects;
        }
    };
    assert_eq!(silenced, [Effect::Silence]);
    assert!((10..=12).contains(&looks), "{looks} looks in a window");
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let from = b.now;
        assert_eq!(b.timer(), [Effect::Unsilence, Effect::Look]);
        pauses.push(b.now.since(from).as_secs());
        assert_eq!(b.look(HELD), [Effect::Silence]);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn a_hog_that_comes_while_events_are_silent_is_met_through_psi() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(HELD);
    while b.machine.state_name() != "silenced" {
        b.timer();
        b.look(HELD);
    }
    assert_eq!(b.wake(Wake::Psi), [Effect::Look]);
    assert_eq!(
        b.look(OVER),
        [
            Effect::Unsilence,
            Effect::Open(Wake::Psi),
            Effect::Rank { last: false, gate_passed: true }
        ]
    );
}

#[test]
fn figures_that_were_read_anyway_open_an_episode_and_move_nothing_else() {
    let mut b = Bench::new(TRAITS);
    assert_eq!(b.wake(Wake::Asked), [Effect::Look]);
    assert_eq!(b.look(Looked { rose: false, ..HELD }), [], "the tripwire stays where it is");
    assert_eq!((b.machine.state_name(), b.machine.deadline()), ("quiet", None));
    assert_eq!(b.wake(Wake::Asked), [Effect::Look]);
    assert_eq!(
        b.look(OVER),
        [Effect::Open(Wake::Asked), Effect::Rank { last: false, gate_passed: true }]
    );
    assert_eq!(b.wake(Wake::Asked), [], "an open decision is not asked twice");
    assert_eq!(b.give(Input::Decided(Decision::Kill)), [Effect::Kill { rung: 0 }]);
    assert_eq!(b.wake(Wake::Asked), [], "nor is a kill in flight");
}

#[test]
fn whoever_asks_each_second_does_not_draw_out_the_looks_of_a_lifted_tripwire() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Hold));
    let next = b.machine.deadline();
    for _ in 0..9 {
        assert_eq!(b.wake(Wake::Asked), []);
    }
    assert_eq!(b.machine.deadline(), next);
    assert_eq!(b.wake(Wake::Psi), [Effect::Look], "the kernel's word counts");
}

#[test]
fn with_notebook_max_whoever_asks_has_the_largest_judged() {
    let mut b = Bench::new(Traits { notebook_max: true, ..TRAITS });
    b.wake(Wake::Asked);
    let effects = b.look(Looked { rose: false, ..HELD });
    assert_eq!(effects, [Effect::Rank { last: false, gate_passed: false }]);
}

#[test]
fn readers_that_stall_while_events_are_silent_cost_one_look_each() {
    let cache = Looked { mostly_cache: true, ..HELD };
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(cache);
    while b.machine.state_name() != "silenced" {
        b.timer();
        b.look(cache);
    }
    let until = b.machine.deadline();
    assert_eq!(b.wake(Wake::Psi), [Effect::Look]);
    assert_eq!(b.look(cache), []);
    assert_eq!(b.machine.deadline(), until, "the silence goes on");
    b.wake(Wake::Psi);
    assert_eq!(b.look(HELD), [Effect::Unsilence], "less and less of it is cache: stay and look");
    assert_eq!(b.machine.state_name(), "pressed");
}

#[test]
fn without_psi_the_silence_stays_short() {
    let mut b = Bench::new(Traits { psi: false, ..TRAITS });
    b.wake(Wake::High);
    b.look(HELD);
    while b.machine.state_name() != "silenced" {
        b.timer();
        b.look(HELD);
    }
    for _ in 0..4 {
        let from = b.now;
        b.timer();
        b.look(HELD);
        assert!(b.now.since(from) <= Duration::from_secs(1));
    }
}

#[test]
fn when_nothing_may_be_ended_the_tripwire_is_lifted_once_and_put_back_below() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    assert_eq!(
        b.give(Input::Decided(Decision::Hold)),
        [
            Effect::Report(Outcome::Held),
            Effect::Tripwire(Step::Lifted),
            Effect::Silence,
            Effect::Follow
        ]
    );
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let from = b.now;
        assert_eq!(b.timer(), [Effect::Look]);
        pauses.push(b.now.since(from).as_secs());
        assert_eq!(b.look(OVER), [Effect::Rank { last: true, gate_passed: true }]);
        assert_eq!(b.give(Input::Decided(Decision::Hold)), [], "told once");
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(b.give(Input::FollowedExited), [Effect::Look]);
    assert_eq!(
        b.look(CALM),
        [Effect::Unfollow, Effect::Unsilence, Effect::Tripwire(Step::Warning)]
    );
    assert_eq!(b.machine.deadline(), None);
}

#[test]
fn a_lifted_container_in_which_a_hog_turns_up_is_served() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Hold));
    assert_eq!(b.wake(Wake::Psi), [Effect::Look]);
    b.look(OVER);
    assert_eq!(
        b.give(Input::Decided(Decision::Kill)),
        [Effect::Unfollow, Effect::Unsilence, Effect::Open(Wake::High), Effect::Kill { rung: 0 }]
    );
}

#[test]
fn after_a_kill_out_of_lifted_the_tripwire_is_back() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Hold));
    b.wake(Wake::Psi);
    b.look(OVER);
    b.give(Input::Decided(Decision::Kill));
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning)]);
}

#[test]
fn dry_run_out_of_lifted_listens_again() {
    let traits = Traits { dry_run: true, tripwire: false, ..TRAITS };
    let mut b = Bench::new(traits);
    b.wake(Wake::Psi);
    b.look(OVER);
    assert!(b.give(Input::Decided(Decision::Hold)).contains(&Effect::Silence));
    b.timer();
    b.look(OVER);
    let effects = b.give(Input::Decided(Decision::Kill));
    assert_eq!(
        effects,
        [
            Effect::Unfollow,
            Effect::Unsilence,
            Effect::Open(Wake::Psi),
            Effect::Report(Outcome::WouldKill)
        ]
    );
}

#[test]
fn each_rung_has_its_own_time_to_take_effect() {
    let traits = Traits { rungs: 2, grace: Duration::from_secs(10), ..TRAITS };
    let mut b = Bench::killing(traits);
    while !b.timer().contains(&Effect::Look) {}
    assert_eq!(b.look(OVER).first(), Some(&Effect::Kill { rung: 1 }));
    assert_eq!(b.timer(), [Effect::Sweep], "5 ms after SIGKILL nothing has failed yet");
}

#[test]
fn a_tripwire_that_is_configured_while_lifted_stays_lifted() {
    let mut b = Bench::new(Traits { tripwire: false, ..TRAITS });
    b.wake(Wake::Psi);
    b.look(OVER);
    b.give(Input::Decided(Decision::Hold));
    b.machine.set_traits(TRAITS);
    assert_eq!(b.machine.place(Step::Threshold), Step::Lifted);
}

#[test]
fn refused_signals_are_no_kill_and_start_no_second_one() {
    let mut b = Bench::killing(TRAITS);
    let effects = b.give(Input::Refused);
    assert_eq!(effects[0], Effect::Report(Outcome::NotDead));
    assert_eq!(b.machine.state_name(), "lifted");
}

#[test]
fn signals_that_stay_refused_are_tried_ever_less_often() {
    let mut b = Bench::killing(TRAITS);
    let until = b.now.plus(Duration::from_secs(600));
    let mut tries = 1;
    while b.now < until {
        b.give(Input::Refused);
        assert_eq!(b.timer(), [Effect::Look]);
        assert!(b.look(OVER).contains(&Effect::Rank { last: true, gate_passed: true }));
        assert!(b.give(Input::Decided(Decision::Kill)).contains(&Effect::Kill { rung: 0 }));
        tries += 1;
    }
    assert!((8..25).contains(&tries), "{tries}");
}

/// The kernel tells of a crossing once: what could not be read then is read a moment later.
#[test]
fn figures_that_cannot_be_read_are_read_again_and_are_no_recovery() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::V1Threshold);
    assert_eq!(b.look(Looked::UNREADABLE), []);
    assert_eq!(b.timer(), [Effect::Look]);
    let effects = b.look(OVER);
    assert!(matches!(effects[..], [Effect::Open(_), Effect::Rank { .. }]), "{effects:?}");
    b.give(Input::Decided(Decision::HoldForNow));
    b.timer();
    assert_eq!(b.look(Looked::UNREADABLE), [], "not known, so not over");
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(OVER)[0], Effect::Rank { last: false, gate_passed: true });
}

#[test]
fn figures_that_stay_unreadable_are_asked_for_ever_less_often() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::V1Threshold);
    let mut looks = 0;
    let until = b.now.plus(Duration::from_secs(600));
    while b.now < until {
        b.look(Looked::UNREADABLE);
        b.timer();
        looks += 1;
    }
    assert!((10..200).contains(&looks), "{looks}");
    let effects = b.look(OVER);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Rank { .. })), "{effects:?}");
}

#[test]
fn the_helper_is_asked_once_and_waited_for_no_longer_than_its_budget() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    assert_eq!(b.give(Input::Decided(Decision::Ask)), [Effect::Ask]);
    assert_eq!(b.machine.deadline(), Some(b.now.plus(ANSWER_BUDGET)));
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(OVER), [Effect::Rank { last: true, gate_passed: true }]);
    let effects = b.give(Input::Decided(Decision::Ask));
    assert_eq!(effects[0], Effect::Report(Outcome::Held), "nobody is ended on a guess");
}

#[test]
fn an_answer_is_decided_on_only_after_a_fresh_look() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Ask));
    assert_eq!(b.give(Input::Answered), [Effect::Look]);
    assert_eq!(
        b.look(CALM),
        [Effect::Report(Outcome::Held), Effect::Tripwire(Step::Warning)],
        "what was asked for came too late: it had recovered"
    );
}

#[test]
fn a_recovery_while_ranking_kills_nobody_and_is_on_record() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    assert_eq!(b.give(Input::Decided(Decision::HoldForNow)), []);
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(CALM), [Effect::Report(Outcome::Held), Effect::Tripwire(Step::Warning)]);
    assert_eq!(b.machine.deadline(), None);
}

#[test]
fn dry_run_says_what_it_would_do_and_is_quiet_for_a_while() {
    let traits = Traits { dry_run: true, tripwire: false, ..TRAITS };
    let mut b = Bench::new(traits);
    b.wake(Wake::Psi);
    b.look(OVER);
    assert_eq!(b.give(Input::Decided(Decision::Kill)), [Effect::Report(Outcome::WouldKill)]);
    assert_eq!(b.wake(Wake::Psi), []);
    assert_eq!(b.timer(), []);
    assert!(b.now >= Moment(60_000_000));
    assert_eq!(b.wake(Wake::Psi), [Effect::Look]);
}

#[test]
fn a_tree_that_does_not_die_is_reported_as_such() {
    let mut b = Bench::killing(TRAITS);
    let reported = loop {
        let effects = b.timer();
        if effects.contains(&Effect::Report(Outcome::NotDead)) {
            break b.now;
        }
        assert_eq!(effects, [Effect::Sweep]);
    };
    assert!(reported >= Moment(10_000_000));
    assert_eq!(b.machine.state_name(), "lifted");
}

#[test]
fn the_next_rung_is_taken_only_if_the_pressure_remains() {
    let traits = Traits { rungs: 2, ..TRAITS };
    for (looked, last) in
        [(OVER, Effect::Kill { rung: 1 }), (CALM, Effect::Report(Outcome::Spared))]
    {
        let mut b = Bench::killing(traits);
        while !b.timer().contains(&Effect::Look) {}
        assert!(b.now >= Moment(5_000_000));
        assert_eq!(b.look(looked).first(), Some(&last));
    }
}

#[test]
fn no_state_is_left_without_a_way_out() {
    // Whatever comes, in whatever order: a state that is not Watching has a deadline or
    // waits for an answer that was asked for in the same turn.
    let inputs = [
        Input::Wake(Wake::High),
        Input::Wake(Wake::Psi),
        Input::Wake(Wake::Max),
        Input::Looked(CALM),
        Input::Looked(HELD),
        Input::Looked(OVER),
        Input::Looked(Looked { critical: true, ..OVER }),
        Input::Decided(Decision::Kill),
        Input::Decided(Decision::Clear { gently: false }),
        Input::Decided(Decision::Clear { gently: true }),
        Input::Decided(Decision::Ask),
        Input::Decided(Decision::Hold),
        Input::Decided(Decision::HoldForNow),
        Input::Decided(Decision::Busy),
        Input::Decided(Decision::Reading),
        Input::Answered,
        Input::Dead { trackers_left: true },
        Input::Dead { trackers_left: false },
        Input::Refused,
        Input::FollowedExited,
        Input::Looked(WARNED),
        Input::Looked(CALLED),
        Input::Stands(Step::Threshold),
        Input::Timer,
    ];
    for traits in [TRAITS, TELLS, Traits { tripwire: false, dry_run: true, ..TRAITS }] {
        let mut random = 88_172_645_463_325_252u64;
        let mut b = Bench::new(traits);
        let mut waiting_for_rank = false;
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let input = inputs[usize::try_from(random % 22).unwrap()];
            // The reactor answers Rank in the same turn, and gives no other input before.
            if waiting_for_rank != matches!(input, Input::Decided(_)) {
                continue;
            }
            b.now = b.now.plus(Duration::from_millis(7));
            let effects = b.give(input);
            waiting_for_rank = effects.iter().any(|e| matches!(e, Effect::Rank { .. }));
            let name = b.machine.state_name();
            let sleeps = name == "quiet" || name == "warned";
            assert!(
                sleeps || waiting_for_rank || b.machine.deadline().is_some(),
                "{name} after {input:?} waits for nothing"
            );
            assert!(!effects.iter().any(|e| matches!(e, Effect::Kill { .. })) || !traits.dry_run);
        }
    }
}

/// Raised only as far as the last call by the very look that silences: without a second witness
/// nothing else would ever raise it, and the gate lies above it.
#[test]
fn a_silenced_domain_is_not_left_throttled_at_the_last_call() {
    let mut b = Bench::new(Traits { psi: false, ..TELLS });
    b.wake(Wake::Psi);
    b.look(Looked { rose: false, ..HELD });
    loop {
        b.timer();
        let rose = b.now >= Moment(0).plus(WINDOW);
        let out = b.look(Looked { rose, ..HELD });
        if out.contains(&Effect::Silence) {
            break;
        }
    }
    assert_eq!(b.machine.stands(), Step::LastCall);
    b.timer();
    let out = b.look(HELD);
    assert!(out.contains(&Effect::Tripwire(Step::Threshold)), "{out:?}");
}

const CLEARS: Traits = Traits { clears_all: true, ..TRAITS };
const CLEAR: Input = Input::Decided(Decision::Clear { gently: false });

#[test]
fn nobody_follows_by_rules_that_a_reload_took_away() {
    let mut b = Bench::new(CLEARS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(CLEAR);
    assert!(b.machine.is_clearing());
    b.machine.set_traits(TRAITS);
    assert!(!b.machine.is_clearing());
    b.give(Input::Dead { trackers_left: false });
    assert!(!b.look(CALM).iter().any(|effect| matches!(effect, Effect::Rank { .. })));
}

#[test]
fn one_after_the_other_ends_each_on_figures_younger_than_the_end_before() {
    for traits in [TRAITS, CLEARS] {
        let mut b = Bench::new(traits);
        b.wake(Wake::High);
        b.look(OVER);
        for _ in 0..5 {
            assert_eq!(b.give(CLEAR), [Effect::Kill { rung: 0 }]);
            assert_eq!(
                b.give(Input::Dead { trackers_left: false }),
                [Effect::Report(Outcome::Killed), Effect::Look],
                "its record is written before anybody is looked for"
            );
            assert_eq!(
                b.look(OVER),
                [Effect::Open(Wake::High), Effect::Rank { last: false, gate_passed: true }]
            );
        }
        let effects = b.give(Input::Decided(Decision::Hold));
        assert_eq!(effects[0], Effect::Report(Outcome::Held), "nobody is left, and it is told");
        assert_eq!(b.machine.state_name(), "lifted");
    }
}

#[test]
fn enough_ends_when_memory_is_back_and_all_goes_on_until_nobody_is_left() {
    let mut b = Bench::new(TRAITS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(CLEAR);
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning)]);

    let mut b = Bench::new(CLEARS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(CLEAR);
    b.give(Input::Dead { trackers_left: false });
    let next = Effect::Rank { last: false, gate_passed: false };
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning), next]);
    assert!(b.machine.is_clearing());
    assert_eq!(b.give(CLEAR), [Effect::Open(Wake::High), Effect::Kill { rung: 0 }]);
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(CALM), [next]);
    // There is time to ask all of them, a few at once; whoever does not answer holds up nobody.
    for _ in 1..CLEARING_ASKS {
        assert_eq!(b.give(Input::Decided(Decision::Ask)), [Effect::Ask]);
        assert_eq!(b.give(Input::Answered), [Effect::Look]);
        assert_eq!(b.look(CALM), [next]);
    }
    assert_eq!(b.give(Input::Decided(Decision::Ask)), [Effect::Ask]);
    let asked = b.now;
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!((b.now.since(asked), b.look(CALM)), (CLEARING_PATIENCE, vec![next]));
    let last = Effect::Rank { last: true, gate_passed: false };
    assert_eq!(b.give(Input::Decided(Decision::Ask)), [last], "that is enough");
    // Another container's kill is waited for.
    assert_eq!(b.give(Input::Decided(Decision::Busy)), []);
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(CALM), [next]);
    assert_eq!(b.give(Input::Decided(Decision::Hold)), [], "nobody is left: nothing to tell");
    assert_eq!(b.timer(), [Effect::Look]);
    assert_eq!(b.look(CALM), []);
    assert_eq!((b.machine.state_name(), b.machine.is_clearing()), ("quiet", false));
}

#[test]
fn an_end_for_its_size_alone_is_followed_by_nobody() {
    let mut b = Bench::killing(CLEARS);
    b.give(Input::Dead { trackers_left: false });
    assert_eq!(b.look(CALM), [Effect::Tripwire(Step::Warning)]);
}

#[test]
fn whoever_ends_gently_has_a_ladder_of_its_own() {
    for traits in [TRAITS, Traits { rungs: 3, ..TRAITS }] {
        let mut b = Bench::new(traits);
        b.wake(Wake::High);
        b.look(OVER);
        assert_eq!(
            b.give(Input::Decided(Decision::Clear { gently: true })),
            [Effect::Kill { rung: 0 }]
        );
        let asked = b.now;
        while !b.timer().contains(&Effect::Look) {}
        assert!(b.now.since(asked) >= traits.grace);
        assert_eq!(b.look(OVER), [Effect::Kill { rung: 1 }]);
        let ended = b.now;
        while !b.timer().contains(&Effect::Report(Outcome::NotDead)) {}
        assert!(b.now.since(ended) >= KILL_DEADLINE, "there is no third rung");
    }
    // It goes when it is done with its request: memory is back, and nobody follows.
    let mut b = Bench::new(CLEARS);
    b.wake(Wake::High);
    b.look(OVER);
    b.give(Input::Decided(Decision::Clear { gently: true }));
    while !b.timer().contains(&Effect::Look) {}
    assert_eq!(b.look(CALM)[0], Effect::Report(Outcome::Spared));
    assert!(!b.machine.is_clearing());
}

#[test]
fn whoever_is_asked_to_finish_has_the_whole_grace() {
    for grace in [Duration::from_millis(100), Duration::from_secs(5)] {
        let mut b = Bench::new(Traits { grace, ..TRAITS });
        b.wake(Wake::High);
        b.look(OVER);
        b.give(Input::Decided(Decision::Clear { gently: true }));
        let asked = b.now;
        while !b.timer().contains(&Effect::Look) {}
        let took = b.now.since(asked);
        assert!(took >= grace && took <= grace + SWEEP_PAUSE, "{took:?} of {grace:?}");
        assert_eq!(b.look(OVER), [Effect::Kill { rung: 1 }]);
    }
}

#[test]
fn an_end_gives_the_next_ones_their_questions_back() {
    let mut b = Bench::new(CLEARS);
    b.wake(Wake::High);
    b.look(OVER);
    for _ in 0..3 {
        b.give(CLEAR);
        b.give(Input::Dead { trackers_left: false });
        b.look(CALM);
        for _ in 0..CLEARING_ASKS - 1 {
            assert_eq!(b.give(Input::Decided(Decision::Ask)), [Effect::Ask]);
            b.give(Input::Answered);
            b.look(CALM);
        }
    }
}

#[test]
fn in_a_dry_run_nobody_follows_whoever_would_have_ended() {
    let mut b = Bench::new(Traits { dry_run: true, tripwire: false, ..CLEARS });
    b.wake(Wake::Psi);
    b.look(OVER);
    assert_eq!(b.give(CLEAR), [Effect::Report(Outcome::WouldKill)]);
    assert_eq!((b.machine.state_name(), b.machine.is_clearing()), ("muted", false));
}
