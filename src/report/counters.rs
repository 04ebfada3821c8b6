//! What the guard has counted since it started, and what it knows of itself: a plain snapshot,
//! from which the metrics are written. Pure. Every label comes from the source, none from a
//! container, so the number of series is known.

use std::time::Duration;

use crate::units::Bytes;

/// Counts by a label of ours. A label is there from the start where it is known then, so that its
/// first increment is one that a rate sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    pub fn of(labels: impl IntoIterator<Item = &'static str>) -> Tally {
        Tally(labels.into_iter().map(|label| (label, 0)).collect())
    }

    pub fn add(&mut self, label: &'static str) {
        self.add_many(label, 1);
    }

    pub fn add_many(&mut self, label: &'static str, many: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == label) {
            Some((_, count)) => *count += many,
            None => self.0.push((label, many)),
        }
    }

    pub fn get(&self, label: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == label).map_or(0, |(_, count)| *count)
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// Upper bounds of the buckets: microseconds, and the same in seconds as it is written. A tree of
/// some processes is ranked within 100 µs; one that does not die is given up after seconds.
pub const BUCKETS: [(u64, &str); 16] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_500_000, "2.5"),
    (5_000_000, "5.0"),
    (10_000_000, "10.0"),
];

/// Durations, by how long they were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// Of each bucket alone; the last is what was longer than all of them.
    counts: [u64; BUCKETS.len() + 1],
    sum_us: u64,
}

impl Histogram {
    pub fn add(&mut self, us: u64) {
        let bucket = BUCKETS.iter().position(|(bound, _)| us <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many were at most as long as each bound, and at the end all of them.
    pub fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let bounds = BUCKETS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        bounds.zip(self.counts.iter().scan(0, |below, count| {
            *below += count;
            Some(*below)
        }))
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

/// What is counted of one container. It goes with the container's watch; the sums stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContainerCounts {
    pub episodes: u32,
    pub kills: u32,
    pub holds: u32,
    pub kernel_oom_kills: u32,
}

/// Everything that is counted. It only rises.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Turns of the loop.
    pub wakeups: u64,
    /// Events that it took, by source.
    pub events: Tally,
    /// Episodes, by the event that opened them.
    pub episodes: Tally,
    /// Kills, by reason. As in the record: one for each line with `kind=kill` that was no dry run.
    pub kills: Tally,
    /// Holds by reason, those among them that were not told because the same was told before.
    pub holds: Tally,
    pub holds_untold: u64,
    pub kernel_oom_kills: u64,
    /// What came back after kills.
    pub freed: Bytes,
    pub tripwire_moves: u64,
    pub tripwire_overwritten: u64,
    pub tripwire_lost: u64,
    /// Steps granted to containers without a limit that had used theirs up.
    pub steps: u64,
    /// What was told to notebooks: `written-cell`, `written-log`, or why not.
    pub messages: Tally,
    /// Call stacks that were asked for, by what became of the question.
    pub stacks: Tally,
    /// Hooks, by what became of them.
    pub hooks: Tally,
    /// Answers, by status code.
    pub http: Tally,
    /// Lines and records that were not written, by reason.
    pub lost: Tally,
    /// What did not work and stopped nothing.
    pub errors: Tally,
    pub event_to_decision: Histogram,
    pub decision_to_signal: Histogram,
    pub signal_to_dead: Histogram,
    pub signal_to_back: Histogram,
    pub guard: Guard,
}

/// The daemon itself, at the moment of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guard {
    pub version: &'static str,
    pub resident: Bytes,
    pub uptime: Duration,
    /// Whether the last reading of the configuration succeeded, and when the one in use was read
    /// (seconds since the epoch).
    pub config_good: bool,
    pub config_read_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_has_what_it_was_given_and_what_came() {
        let mut tally = Tally::of(["a", "b"]);
        tally.add("b");
        tally.add_many("c", 3);
        assert_eq!(tally.iter().collect::<Vec<_>>(), [("a", 0), ("b", 1), ("c", 3)]);
        assert_eq!((tally.sum(), tally.get("c"), tally.get("d")), (4, 3, 0));
    }

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            histogram.add(us);
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative.first(), Some(&("0.0001", 2)));
        assert_eq!(cumulative[1], ("0.00025", 3));
        assert_eq!(cumulative[15], ("10.0", 4));
        assert_eq!(cumulative[16], ("+Inf", 6));
        assert_eq!((histogram.count(), histogram.sum_us()), (6, u64::MAX));
    }

    #[test]
    fn a_bound_is_written_as_it_is_compared() {
        for (us, text) in BUCKETS {
            let seconds: f64 = text.parse().unwrap();
            assert_eq!((seconds * 1e6).round(), us as f64);
        }
        assert!(BUCKETS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
