//! Quantities that can be mixed up, each as a type: bytes and shares.
//! How people write and read them stands here and nowhere else. Pure: no files, no clock.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An amount of memory in bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const ZERO: Bytes = Bytes(0);

    pub const fn kib(n: u64) -> Bytes {
        Bytes(n << 10)
    }

    pub const fn mib(n: u64) -> Bytes {
        Bytes(n << 20)
    }

    pub const fn gib(n: u64) -> Bytes {
        Bytes(n << 30)
    }

    /// The sum; stays at the largest value instead of wrapping (the figures are outside input).
    #[must_use]
    pub const fn plus(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }

    /// The difference, or zero: figures read one after the other may contradict each other.
    #[must_use]
    pub const fn less(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// In whole pages: the kernel rounds what is written to a limit of a cgroup
    /// (mm/page_counter.c), and what is compared with the file must be rounded too.
    #[must_use]
    pub const fn whole_pages(self) -> Bytes {
        const PAGE: u64 = 4096;
        Bytes(self.0 / PAGE * PAGE)
    }

    #[must_use]
    pub fn times(self, share: Share) -> Bytes {
        let bytes = u128::from(self.0) * u128::from(share.0) / u128::from(Share::ONE.0);
        Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes::ZERO, Bytes::plus)
    }
}

impl fmt::Display for Bytes {
    /// `512 B`, `1.5 MiB`, `2.0 GiB`: one decimal, so that neighbours in a table compare by eye.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = 0;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        f.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]))
    }
}

/// A share of something, in hundredths of a percent: 90 % is 9,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    pub const ZERO: Share = Share(0);
    pub const ONE: Share = Share(10_000);

    pub const fn percent(n: u32) -> Share {
        Share(n * 100)
    }

    /// What share `part` is of `whole`, rounded down; `None` of nothing.
    pub fn of(part: Bytes, whole: Bytes) -> Option<Share> {
        if whole == Bytes::ZERO {
            return None;
        }
        let share = u128::from(part.0) * u128::from(Share::ONE.0) / u128::from(whole.0);
        Some(Share(u32::try_from(share).unwrap_or(u32::MAX)))
    }

    /// The rest to one.
    #[must_use]
    pub const fn rest(self) -> Share {
        Share(Share::ONE.0.saturating_sub(self.0))
    }
}

impl fmt::Display for Share {
    /// `90 %`, `12.5 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) {
            return f.pad(&format!("{} %", self.0 / 100));
        }
        let text = format!("{}.{:02}", self.0 / 100, self.0 % 100);
        f.pad(&format!("{} %", text.trim_end_matches('0')))
    }
}

/// A PSI trigger: tell me when tasks were stalled on memory for `stall_us` within `window_us`.
///
/// Built only through [`Trigger::new`], so whoever holds one may write it to the kernel
/// (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trigger {
    kind: StallKind,
    stall_us: u64,
    window_us: u64,
}

/// `some`: at least one task was stalled. `full`: all of them were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StallKind {
    Some,
    Full,
}

impl Trigger {
    /// The documented bounds of the window. Newer kernels take shorter ones; older do not.
    pub const WINDOW_MIN_US: u64 = 500_000;
    pub const WINDOW_MAX_US: u64 = 10_000_000;
    /// Without CAP_SYS_RESOURCE the kernel takes only windows that are multiples of this
    /// (kernel/sched/psi.c since 6.5; checked on 6.18 by `tests/it/live.rs`).
    pub const UNPRIVILEGED_STEP_US: u64 = 2_000_000;

    /// # Errors
    /// A sentence that says which bound was passed.
    pub fn new(kind: StallKind, stall_us: u64, window_us: u64) -> Result<Trigger, &'static str> {
        if !(Self::WINDOW_MIN_US..=Self::WINDOW_MAX_US).contains(&window_us) {
            return Err("the window must be from 500ms to 10s");
        }
        if stall_us == 0 {
            return Err("the stall must be longer than nothing");
        }
        if stall_us > window_us {
            return Err("the stall cannot be longer than its window");
        }
        Ok(Trigger { kind, stall_us, window_us })
    }

    pub fn kind(self) -> StallKind {
        self.kind
    }

    pub fn stall_us(self) -> u64 {
        self.stall_us
    }

    pub fn window_us(self) -> u64 {
        self.window_us
    }

    /// The same share of stall in the next window that an unprivileged writer may ask for.
    #[must_use]
    pub fn unprivileged(self) -> Trigger {
        let steps = self.window_us.div_ceil(Self::UNPRIVILEGED_STEP_US);
        let window_us = (steps * Self::UNPRIVILEGED_STEP_US).min(Self::WINDOW_MAX_US);
        let stall_us = (self.stall_us * window_us / self.window_us).max(1);
        Trigger { kind: self.kind, stall_us, window_us }
    }

    /// What is written to the kernel, with the trailing NUL: `/proc/pressure/*` overwrites the
    /// last byte it is given (kernel/sched/psi.c, `psi_write`; checked on 6.18).
    pub fn as_written(self) -> String {
        let kind = match self.kind {
            StallKind::Some => "some",
            StallKind::Full => "full",
        };
        format!("{kind} {} {}\0", self.stall_us, self.window_us)
    }
}

/// A moment on the monotonic clock, in microseconds. Policy gets it as an argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    #[must_use]
    pub fn plus(self, wait: std::time::Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; nothing if that is still to come.
    #[must_use]
    pub fn since(self, earlier: Moment) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
