//! Time at the price of a call: CLOCK_BOOTTIME by the processor's own counter where the kernel
//! itself tells time by it, and CPU time that is asked for rarely.

/// How long CPU time is reckoned to pass like the clock before the kernel is asked again, a
/// system call of about 240 ns: CPU times are exact to this.
const CPU_STEP_NS: u64 = 10_000;

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to be written.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_BOOTTIME, what all times in the shared memory are.
pub fn boottime() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds since 1970.
pub fn unix() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// CLOCK_BOOTTIME, reckoned from the counter for up to [`Clock::RESYNC`] ticks at a time: 10 ns
/// instead of 22 (measured in a virtual machine, Linux 6.18).
#[derive(Debug, Default)]
pub struct Clock {
    /// Where both were read together, first and last.
    first: (u64, u64),
    last: (u64, u64),
    /// Nanoseconds a tick, times 2^32; 0: not known yet, or not to be used.
    scale: u64,
    latest: u64,
    counter: bool,
    asked: bool,
    cpu: (u64, u64),
}

impl Clock {
    /// About a millisecond at 2 to 4 GHz: an error of the scale has no time to grow.
    const RESYNC: u64 = 1 << 21;

    #[inline]
    pub fn now(&mut self) -> u64 {
        let tick = ticks();
        let since = tick.wrapping_sub(self.last.0);
        let now = if self.scale != 0 && since < Self::RESYNC {
            self.last.1 + ((u128::from(since) * u128::from(self.scale)) >> 32) as u64
        } else {
            self.sync(tick)
        };
        // Time does not run backwards, not even by the error of the scale.
        self.latest = self.latest.max(now);
        self.latest
    }

    #[cold]
    fn sync(&mut self, tick: u64) -> u64 {
        let now = boottime();
        if !self.asked {
            self.asked = true;
            // A counter that the kernel does not trust is not trusted here.
            self.counter = cfg!(target_arch = "x86_64")
                && std::fs::read(
                    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
                )
                .is_ok_and(|name| name.starts_with(b"tsc"));
            self.first = (tick, now);
        }
        let (ticks, nanos) = (tick.wrapping_sub(self.first.0), now.wrapping_sub(self.first.1));
        // A shorter stretch tells the scale too badly.
        if self.counter && nanos > 200_000 && ticks > 0 {
            self.scale = ((u128::from(nanos) << 32) / u128::from(ticks)) as u64;
            // The counter may be set anew by a suspend; a long stretch would hide it for long.
            if nanos > 10_000_000_000 {
                self.first = (tick, now);
            }
        }
        self.last = (tick, now);
        now
    }

    /// CPU time of this thread at `now`.
    #[inline]
    pub fn cpu(&mut self, now: u64) -> u64 {
        let since = now.saturating_sub(self.cpu.0);
        if since > CPU_STEP_NS {
            self.cpu = (now, read(libc::CLOCK_THREAD_CPUTIME_ID));
            return self.cpu.1;
        }
        self.cpu.1 + since
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: every x86_64 has this instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn ticks() -> u64 {
    0
}
