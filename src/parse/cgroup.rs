//! The files of a cgroup, v2 and v1 (admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
//! Pure, one pass over each text, no allocation.

use super::{ParseError, decimal, key_value, lines};
use crate::facts::{Events, Limit, Psi};
use crate::units::Bytes;

/// `memory.stat` of v2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStat {
    pub anon: Bytes,
    pub shmem: Bytes,
    pub inactive_file: Bytes,
    pub active_file: Bytes,
    pub slab_reclaimable: Bytes,
    /// Anonymous and file pages that were evicted and needed again.
    pub refaults: u64,
}

/// `memory.stat` of v1: the hierarchical (`total_`) figures, and the limits it shows beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryStatV1 {
    /// `slab_reclaimable` is zero: v1 does not show it, so what is in it counts as held.
    pub stat: MemoryStat,
    /// The lowest limit of the group and its ancestors.
    pub limit: Limit,
    /// The same for memory + swap. `None`: the kernel does not account for swap.
    pub memory_swap_limit: Option<Limit>,
    pub swap: Option<Bytes>,
}

/// Parses `memory.stat` of v2.
///
/// # Errors
/// When one of the figures is missing or not a number. Refaults may be missing (before 4.20).
pub fn memory_stat(text: &[u8]) -> Result<MemoryStat, ParseError> {
    const FILE: &str = "memory.stat";
    let mut seen = [None; 5];
    let mut refaults = 0u64;
    for (n, line) in lines(text) {
        let Some((key, value)) = key_value(line) else { continue };
        let slot = match key {
            b"anon" => 0,
            b"shmem" => 1,
            b"inactive_file" => 2,
            b"active_file" => 3,
            b"slab_reclaimable" => 4,
            // One line until 5.8, then one for each kind.
            b"workingset_refault" | b"workingset_refault_anon" | b"workingset_refault_file" => {
                refaults = refaults.saturating_add(figure(FILE, n, value)?);
                continue;
            }
            _ => continue,
        };
        seen[slot] = Some(Bytes(figure(FILE, n, value)?));
    }
    let missing = |what| ParseError::missing(FILE, what);
    Ok(MemoryStat {
        anon: seen[0].ok_or(missing("anon"))?,
        shmem: seen[1].ok_or(missing("shmem"))?,
        inactive_file: seen[2].ok_or(missing("inactive_file"))?,
        active_file: seen[3].ok_or(missing("active_file"))?,
        slab_reclaimable: seen[4].ok_or(missing("slab_reclaimable"))?,
        refaults,
    })
}

/// Parses `memory.stat` of v1.
///
/// # Errors
/// When one of the figures is missing or not a number. Swap and refaults may be missing.
pub fn memory_stat_v1(text: &[u8]) -> Result<MemoryStatV1, ParseError> {
    const FILE: &str = "memory.stat";
    let mut seen = [None; 7];
    let mut refaults = 0u64;
    for (n, line) in lines(text) {
        let Some((key, value)) = key_value(line) else { continue };
        let slot = match key {
            b"total_rss" => 0,
            b"total_shmem" => 1,
            b"total_inactive_file" => 2,
            b"total_active_file" => 3,
            b"hierarchical_memory_limit" => 4,
            b"hierarchical_memsw_limit" => 5,
            b"total_swap" => 6,
            b"total_workingset_refault"
            | b"total_workingset_refault_anon"
            | b"total_workingset_refault_file" => {
                refaults = refaults.saturating_add(figure(FILE, n, value)?);
                continue;
            }
            _ => continue,
        };
        seen[slot] = Some(Bytes(figure(FILE, n, value)?));
    }
    let missing = |what| ParseError::missing(FILE, what);
    Ok(MemoryStatV1 {
        stat: MemoryStat {
            anon: seen[0].ok_or(missing("total_rss"))?,
            shmem: seen[1].ok_or(missing("total_shmem"))?,
            inactive_file: seen[2].ok_or(missing("total_inactive_file"))?,
            active_file: seen[3].ok_or(missing("total_active_file"))?,
            slab_reclaimable: Bytes::ZERO,
            refaults,
        },
        limit: finite(seen[4].ok_or(missing("hierarchical_memory_limit"))?),
        memory_swap_limit: seen[5].map(finite),
        swap: seen[6],
    })
}

fn figure(file: &'static str, line: usize, value: &[u8]) -> Result<u64, ParseError> {
    decimal(value).ok_or(ParseError::at(file, line, "a number"))
}

/// `memory.events` of v2, or the `oom_kill` line of v1's `memory.oom_control`. Kernels add lines;
/// one that is missing has never counted anything.
///
/// # Errors
/// When a counter is not a number, or there is neither `max` nor `oom_kill`.
pub fn memory_events(text: &[u8]) -> Result<Events, ParseError> {
    const FILE: &str = "memory.events";
    let mut events = Events::default();
    let mut seen = false;
    for (n, line) in lines(text) {
        let Some((key, value)) = key_value(line) else { continue };
        let slot = match key {
            b"low" => &mut events.low,
            b"high" => &mut events.high,
            b"max" => &mut events.max,
            b"oom" => &mut events.oom,
            b"oom_kill" => &mut events.oom_kill,
            b"oom_group_kill" => &mut events.oom_group_kill,
            _ => continue,
        };
        *slot = figure(FILE, n, value)?;
        seen |= matches!(key, b"max" | b"oom_kill");
    }
    if seen { Ok(events) } else { Err(ParseError::missing(FILE, "max or oom_kill")) }
}

/// `memory.pressure` or `/proc/pressure/memory`: a `some` and a `full` line.
///
/// # Errors
/// When a line is neither, or one of the two or one of its figures is missing.
pub fn psi(text: &[u8]) -> Result<Psi, ParseError> {
    const FILE: &str = "memory.pressure";
    let (mut some, mut full) = (None, None);
    for (n, line) in lines(text) {
        let slot = match key_value(line) {
            Some((b"some", rest)) => (&mut some, rest),
            Some((b"full", rest)) => (&mut full, rest),
            _ => return Err(ParseError::at(FILE, n, "some or full")),
        };
        *slot.0 = Some(psi_line(slot.1).ok_or(ParseError::at(FILE, n, "avg10=N.NN … total=N"))?);
    }
    let (some_avg10, some_total_us) = some.ok_or(ParseError::missing(FILE, "some"))?;
    let (full_avg10, full_total_us) = full.ok_or(ParseError::missing(FILE, "full"))?;
    Ok(Psi { some_avg10, full_avg10, some_total_us, full_total_us })
}

fn psi_line(line: &[u8]) -> Option<(u32, u64)> {
    let (mut avg10, mut total) = (None, None);
    for word in line.split(|b| *b == b' ') {
        if let Some(value) = word.strip_prefix(b"avg10=") {
            avg10 = Some(hundredths(value)?);
        } else if let Some(value) = word.strip_prefix(b"total=") {
            total = Some(decimal(value)?);
        }
    }
    Some((avg10?, total?))
}

/// `12.34` as 1,234. The kernel prints two decimals (kernel/sched/psi.c).
fn hundredths(text: &[u8]) -> Option<u32> {
    let dot = text.iter().position(|b| *b == b'.')?;
    let (whole, part) = (decimal(&text[..dot])?, &text[dot + 1..]);
    if part.len() != 2 {
        return None;
    }
    let number = whole.checked_mul(100)?.checked_add(decimal(part)?)?;
    u32::try_from(number).ok()
}

/// `memory.max`, `memory.high`, `memory.swap.max`: `max` or bytes; v1 writes a huge number
/// where it means no limit.
///
/// # Errors
/// When it is neither.
pub fn limit(text: &[u8]) -> Result<Limit, ParseError> {
    match text.trim_ascii_end() {
        b"max" => Ok(Limit::Max),
        digits => decimal(digits).map(|bytes| finite(Bytes(bytes))).ok_or(ParseError::at(
            "limit",
            1,
            "max or a number",
        )),
    }
}

/// v1's *no limit* is the largest signed 64-bit number in whole pages, so it depends on the page
/// size. Nothing has 4 EiB of memory.
fn finite(bytes: Bytes) -> Limit {
    if bytes.0 >= 1 << 62 { Limit::Max } else { Limit::At(bytes) }
}

/// A file with a single number: `memory.current`, `memory.usage_in_bytes`, …
///
/// # Errors
/// When it is not a number.
pub fn number(text: &[u8]) -> Result<u64, ParseError> {
    decimal(text.trim_ascii_end()).ok_or(ParseError::at("number", 1, "a number"))
}

/// `cgroup.procs`: one pid on each line; 0 stands for a process outside our pid namespace.
pub fn pids(text: &[u8]) -> impl Iterator<Item = Result<u32, ParseError>> {
    lines(text).filter(|(_, line)| !line.is_empty()).map(|(n, line)| {
        decimal(line).and_then(|pid| u32::try_from(pid).ok()).ok_or(ParseError::at(
            "cgroup.procs",
            n,
            "a pid",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "anon 104857600\nfile 20971520\nkernel 3145728\nshmem 4194304\n\
        file_mapped 1\ninactive_anon 5\nactive_anon 6\ninactive_file 7340032\n\
        active_file 8388608\nunevictable 0\nslab_reclaimable 1048576\nslab_unreclaimable 9\n\
        workingset_refault_anon 3\nworkingset_refault_file 39\nworkingset_activate_anon 100\n";

    #[test]
    fn reads_memory_stat_of_v2() {
        let stat = memory_stat(STAT.as_bytes()).unwrap();
        assert_eq!((stat.anon, stat.shmem), (Bytes::mib(100), Bytes::mib(4)));
        assert_eq!((stat.inactive_file, stat.active_file), (Bytes::mib(7), Bytes::mib(8)));
        assert_eq!((stat.slab_reclaimable, stat.refaults), (Bytes::mib(1), 42));
        let old = STAT.replace(
            "workingset_refault_anon 3\nworkingset_refault_file 39",
            "workingset_refault 42",
        );
        assert_eq!(memory_stat(old.as_bytes()).unwrap(), stat);
    }

    #[test]
    fn a_missing_or_broken_figure_is_not_zero() {
        for key in ["anon ", "shmem ", "inactive_file ", "active_file ", "slab_reclaimable "] {
            let text: String =
                STAT.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
            let error = memory_stat(text.as_bytes()).unwrap_err();
            assert_eq!((error.line, error.expected), (0, key.trim()));
        }
        let error = memory_stat(STAT.replace("4194304", "many").as_bytes()).unwrap_err();
        assert_eq!(error.line, 4);
        assert!(memory_stat(b"").is_err());
    }

    const STAT_V1: &str = "cache 1\nrss 1\nshmem 1\nhierarchical_memory_limit 67108864\n\
        hierarchical_memsw_limit 9223372036854771712\ntotal_cache 9\ntotal_rss 1753088\n\
        total_shmem 4096\ntotal_swap 12288\ntotal_workingset_refault_anon 1\n\
        total_workingset_refault_file 1559\ntotal_inactive_file 8192\ntotal_active_file 516096\n";

    #[test]
    fn reads_the_totals_and_limits_of_v1() {
        let v1 = memory_stat_v1(STAT_V1.as_bytes()).unwrap();
        assert_eq!((v1.stat.anon, v1.stat.shmem), (Bytes(1_753_088), Bytes(4096)));
        assert_eq!((v1.stat.inactive_file, v1.stat.active_file), (Bytes(8192), Bytes(516_096)));
        assert_eq!((v1.limit, v1.memory_swap_limit), (Limit::At(Bytes::mib(64)), Some(Limit::Max)));
        assert_eq!((v1.swap, v1.stat.refaults), (Some(Bytes(12288)), 1560));
        let text = STAT_V1.replace("total_swap", "x").replace("hierarchical_memsw_limit", "y");
        let without = memory_stat_v1(text.as_bytes()).unwrap();
        assert_eq!((without.swap, without.memory_swap_limit), (None, None));
        assert!(memory_stat_v1(STAT.as_bytes()).is_err());
        assert!(memory_stat_v1(STAT_V1.replace("total_rss 1", "total_rss -1").as_bytes()).is_err());
    }

    #[test]
    fn reads_events_of_both_versions() {
        let events =
            memory_events(b"low 0\nhigh 7\nmax 12\noom 3\noom_kill 1\noom_group_kill 0\nnew 5\n")
                .unwrap();
        assert_eq!((events.high, events.max, events.oom, events.oom_kill), (7, 12, 3, 1));
        let v1 = memory_events(b"oom_kill_disable 0\nunder_oom 0\noom_kill 4\n").unwrap();
        assert_eq!((v1.oom_kill, v1.max), (4, 0));
        assert!(memory_events(b"").is_err());
        assert!(memory_events(b"high 1\n").is_err());
        assert_eq!(memory_events(b"high 1\nmax x\n").unwrap_err().line, 2);
    }

    #[test]
    fn reads_pressure_in_hundredths() {
        let text = b"some avg10=12.34 avg60=0.00 avg300=0.00 total=1500000\n\
            full avg10=100.00 avg60=0.00 avg300=0.00 total=9\n";
        let psi = psi(text).unwrap();
        assert_eq!((psi.some_avg10, psi.full_avg10), (1234, 10_000));
        assert_eq!((psi.some_total_us, psi.full_total_us), (1_500_000, 9));
    }

    #[test]
    fn broken_pressure_names_its_line() {
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let with = |line: &str| psi(format!("{some}{line}").as_bytes()).unwrap_err();
        assert_eq!(with("fulll avg10=0.00 total=0\n").line, 2);
        for line in ["full avg10=0.0 total=0", "full avg10=.00 total=0", "full avg10=0.00", "full"]
        {
            assert_eq!(with(line).line, 2, "{line}");
        }
        assert_eq!(with("").expected, "full");
        assert_eq!(with("full avg10=99999999999999999999.00 total=0").line, 2);
    }

    #[test]
    fn reads_limits() {
        assert_eq!(limit(b"max\n").unwrap(), Limit::Max);
        assert_eq!(limit(b"629145600\n").unwrap(), Limit::At(Bytes::mib(600)));
        assert_eq!(limit(b"0\n").unwrap(), Limit::At(Bytes::ZERO));
        for huge in ["9223372036854771712", "9223372036854710272", "18446744073709551615"] {
            assert_eq!(limit(huge.as_bytes()).unwrap(), Limit::Max, "{huge}");
        }
        for bad in ["", "\n", "-1", "maximum", "1 2", "18446744073709551616"] {
            assert!(limit(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reads_pids_and_names_the_line_that_is_none() {
        let read: Result<Vec<u32>, _> = pids(b"1\n0\n4194304\n").collect();
        assert_eq!(read.unwrap(), [1, 0, 4_194_304]);
        assert_eq!(pids(b"").count(), 0);
        let read: Result<Vec<u32>, _> = pids(b"1\nx\n").collect();
        assert_eq!(read.unwrap_err().line, 2);
        assert!(pids(b"4294967296").next().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (memory_stat(&text), memory_stat_v1(&text), memory_events(&text));
            let _ = (psi(&text), limit(&text), number(&text), pids(&text).count());
        }

        #[test]
        fn near_misses_do_not_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            for text in [STAT, STAT_V1] {
                let mut text = text.as_bytes().to_vec();
                let at = at.index(text.len());
                text[at] = byte;
                let _ = (memory_stat(&text), memory_stat_v1(&text));
            }
        }
    }
}
