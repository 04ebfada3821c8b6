//! When something that failed for a moment is tried again: after twice as long each time. Pure.

use std::time::Duration;

use crate::units::Moment;

#[derive(Debug)]
pub struct Retry {
    first: Duration,
    longest: Duration,
    pause: Duration,
    at: Option<Moment>,
}

impl Retry {
    pub fn new(first: Duration, longest: Duration) -> Retry {
        Retry { first, longest, pause: first, at: None }
    }

    /// The next try, if one is wanted.
    pub fn at(&self) -> Option<Moment> {
        self.at
    }

    /// Wants a try; one that is wanted already comes no later for it.
    pub fn want(&mut self, now: Moment) {
        if self.at.is_none() {
            self.at = Some(now.plus(self.pause));
            self.pause = (self.pause * 2).min(self.longest);
        }
    }

    /// Whether it is time; then it is this try, and [`Retry::tried`] follows it.
    pub fn is_due(&mut self, now: Moment) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    /// After a try: `true` if nothing wants another, and the next failure begins anew.
    pub fn tried(&mut self) -> bool {
        if self.at.is_none() {
            self.pause = self.first;
        }
        self.at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_as_long_until_a_try_succeeds() {
        let seconds = Duration::from_secs;
        let mut retry = Retry::new(seconds(1), seconds(3));
        let mut now = Moment(0);
        assert!(!retry.is_due(now), "nobody wants one");
        retry.want(now);
        for pause in [1, 2, 3, 3] {
            let at = now.plus(seconds(pause));
            retry.want(now.plus(Duration::from_millis(1)));
            assert_eq!(retry.at(), Some(at), "the first who wants it says when");
            assert!(!retry.is_due(now));
            now = at;
            assert!(retry.is_due(now));
            retry.want(now);
            assert!(!retry.tried(), "it failed again");
        }
        now = retry.at().unwrap();
        assert!(retry.is_due(now) && retry.tried());
        retry.want(now);
        assert_eq!(retry.at(), Some(now.plus(seconds(1))));
    }
}
