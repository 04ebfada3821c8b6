//! Stepping tripwires for containers without a limit: how much each may grow before the guard
//! looks again, so that together they can never surprise the host. Pure.
//!
//! The total is the host's memory. What may still be given out is MemAvailable less the reserve
//! (one less the threshold). The container that has just used up its step gets half of that, the
//! others the other half in equal parts: the grants together never exceed what is there, a hog
//! wakes the guard about seven times on its way, and a container that does not grow never does.

use crate::facts::HostMemory;
use crate::units::{Bytes, Share};

/// A container without a limit, as the grants see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// `memory.current` now.
    pub usage: Bytes,
    /// The `memory.high` it is to get; filled in by [`grant`].
    pub high: Bytes,
}

/// A step is never smaller than this: below it every allocation would wake the guard.
/// 4 MiB is what 64 pages of per-CPU charge make on 16 CPUs (`MEMCG_CHARGE_BATCH`).
pub const SMALLEST_GRANT: Bytes = Bytes::mib(4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// Every member has a new step.
    Steps,
    /// Less than a smallest step is left to give: the host is short of memory.
    Exhausted { left: Bytes },
}

/// What may still be given out.
pub fn left(host: &HostMemory, threshold: Share) -> Bytes {
    host.available.less(host.total.times(threshold.rest()))
}

/// Gives out what is left. `grown` is the member that woke the guard, if one did.
pub fn grant(
    host: &HostMemory,
    threshold: Share,
    smallest_step: Share,
    members: &mut [Member],
    grown: Option<usize>,
) -> Granted {
    let left = left(host, threshold);
    if left < host.total.times(smallest_step) {
        return Granted::Exhausted { left };
    }
    let count = members.len() as u64;
    let (own, others) = match (grown, count) {
        (Some(_), 0 | 1) => (left, Bytes::ZERO),
        (Some(_), count) => (Bytes(left.0 / 2), Bytes(left.0 / 2 / (count - 1))),
        (None, count) => (Bytes::ZERO, Bytes(left.0 / count.max(1))),
    };
    for (index, member) in members.iter_mut().enumerate() {
        let share = if grown == Some(index) { own } else { others };
        member.high = member.usage.plus(share.max(SMALLEST_GRANT));
    }
    Granted::Steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(available: u64) -> HostMemory {
        HostMemory {
            total: Bytes::mib(3000),
            available: Bytes::mib(available),
            swap_total: Bytes::ZERO,
            swap_free: Bytes::ZERO,
        }
    }

    fn members(usages: &[u64]) -> Vec<Member> {
        usages.iter().map(|u| Member { usage: Bytes::mib(*u), high: Bytes::ZERO }).collect()
    }

    fn granted(members: &[Member]) -> u64 {
        members.iter().map(|m| m.high.less(m.usage).0 >> 20).sum()
    }

    const THRESHOLD: Share = Share::percent(90);
    const SMALLEST: Share = Share::percent(1);

    #[test]
    fn the_grants_together_never_exceed_what_is_left() {
        for count in 1..20usize {
            for grown in [None, Some(0), Some(count - 1)] {
                let mut all = members(&vec![50; count]);
                assert_eq!(
                    grant(&host(2300), THRESHOLD, SMALLEST, &mut all, grown),
                    Granted::Steps
                );
                assert!(granted(&all) <= 2000, "{count} {grown:?}: {}", granted(&all));
            }
        }
    }

    #[test]
    fn the_one_that_grows_gets_half_and_a_lone_one_all() {
        let mut all = members(&[500, 100, 100]);
        grant(&host(2300), THRESHOLD, SMALLEST, &mut all, Some(0));
        assert_eq!(all[0].high, Bytes::mib(1500));
        assert_eq!(all[1].high, Bytes::mib(600));
        let mut lone = members(&[500]);
        grant(&host(2300), THRESHOLD, SMALLEST, &mut lone, Some(0));
        assert_eq!(lone[0].high, Bytes::mib(2500));
    }

    #[test]
    fn a_hog_wakes_the_guard_a_handful_of_times_on_its_way_to_the_reserve() {
        let mut all = members(&[100; 40]);
        let mut available = 2300;
        let mut wakes = 0;
        while grant(&host(available), THRESHOLD, SMALLEST, &mut all, Some(0)) == Granted::Steps {
            wakes += 1;
            let grown = all[0].high.less(all[0].usage).0 >> 20;
            available -= grown;
            all[0].usage = all[0].high;
        }
        assert!((4..=10).contains(&wakes), "{wakes} wake-ups");
        assert!(available >= 300, "the reserve of 300 MiB is still there: {available}");
    }

    #[test]
    fn with_less_than_a_smallest_step_left_the_host_is_short() {
        let mut all = members(&[500]);
        let verdict = grant(&host(329), THRESHOLD, SMALLEST, &mut all, Some(0));
        assert_eq!(verdict, Granted::Exhausted { left: Bytes::mib(29) });
        assert_eq!(grant(&host(330), THRESHOLD, SMALLEST, &mut all, Some(0)), Granted::Steps);
    }
}
