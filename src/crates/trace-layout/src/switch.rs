//! The switch table: a header page, then one entry of a cache line per pid. The tool writes it
//! with pwrite; a worker maps the one page with its own entry, read-only, and looks at it in the
//! call path.

use core::mem::{offset_of, size_of};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::bytes::{u32_at, u64_at};
use crate::{Bad, PAGE, VERSION};

pub const MAGIC: u64 = u64::from_le_bytes(*b"nbgswtch");
/// Entries at least, whatever pid_max says.
pub const ENTRIES_MIN: u32 = 65_536;
/// pid_max is at most this (PID_MAX_LIMIT of a 64 bit kernel).
pub const ENTRIES_MAX: u32 = 1 << 22;

/// Flags of an entry: record calls.
pub const ON: u32 = 1;
/// Write the stack once for this session, at the next call.
pub const SNAPSHOT: u32 = 2;
/// Record parameters and return values as well.
pub const VALUES: u32 = 4;
/// Internal functions as well.
pub const INTERNAL: u32 = 8;

/// The table's header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TableHeader {
    pub magic: u64,
    pub version: u32,
    pub header_size: u32,
    pub entry_size: u32,
    pub entries: u32,
}

/// One process's switch. It counts only if `start` is the process's own (a reused pid inherits
/// nothing) and the tool's beat is not older than the period (a crashed tool leaves nothing on).
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Entry {
    /// Field 22 of the process's stat; 0: off.
    pub start: AtomicU64,
    pub flags: AtomicU32,
    /// Rises with each switching on.
    pub session: AtomicU32,
    /// The tool's last, CLOCK_BOOTTIME.
    pub beat: AtomicU64,
    pub period_ms: AtomicU32,
    /// The tool, in its own pid namespace.
    pub tool_pid: AtomicU32,
    pub tool_start: AtomicU64,
    /// Rises when the `.watch` file changes; 0: there is none.
    pub watch_generation: AtomicU32,
    pub reserved: [u32; 5],
}

pub const ENTRY: usize = 64;

const _: () = {
    assert!(size_of::<Entry>() == ENTRY);
    assert!(offset_of!(Entry, start) == 0);
    assert!(offset_of!(Entry, flags) == 8);
    assert!(offset_of!(Entry, session) == 12);
    assert!(offset_of!(Entry, beat) == 16);
    assert!(offset_of!(Entry, period_ms) == 24);
    assert!(offset_of!(Entry, tool_pid) == 28);
    assert!(offset_of!(Entry, tool_start) == 32);
    assert!(offset_of!(Entry, watch_generation) == 40);
    assert!(size_of::<TableHeader>() == 24);
    assert!(offset_of!(TableHeader, version) == 8);
    assert!(offset_of!(TableHeader, entry_size) == 16);
    assert!(offset_of!(TableHeader, entries) == 20);
};

pub const AT_FLAGS: usize = offset_of!(Entry, flags);
pub const AT_BEAT: usize = offset_of!(Entry, beat);

/// Length of a table with so many entries.
pub const fn table_len(entries: u32) -> u64 {
    PAGE as u64 + entries as u64 * ENTRY as u64
}

/// Where the entry of a pid is.
pub const fn entry_offset(pid: u32) -> u64 {
    PAGE as u64 + pid as u64 * ENTRY as u64
}

/// The page with the entry of a pid, and where in that page the entry is: what a worker maps.
pub const fn entry_page(pid: u32) -> (u64, usize) {
    let at = entry_offset(pid);
    (at / PAGE as u64 * PAGE as u64, (at % PAGE as u64) as usize)
}

/// The first bytes of a new table.
pub fn table_header(entries: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0..8].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[8..12].copy_from_slice(&VERSION.to_ne_bytes());
    bytes[12..16].copy_from_slice(&(PAGE as u32).to_ne_bytes());
    bytes[16..20].copy_from_slice(&(ENTRY as u32).to_ne_bytes());
    bytes[20..24].copy_from_slice(&entries.to_ne_bytes());
    bytes
}

/// How many entries a table has, from its first bytes and its length.
///
/// # Errors
/// When it is no table of this version, or shorter than it says.
pub fn parse_table(bytes: &[u8; 24], len: u64) -> Result<u32, Bad> {
    if u64_at(bytes, 0) != MAGIC {
        return Err(Bad::Magic);
    }
    if u32_at(bytes, 8) != VERSION {
        return Err(Bad::Version(u32_at(bytes, 8)));
    }
    let entries = u32_at(bytes, 20);
    if u32_at(bytes, 12) as usize != PAGE
        || u32_at(bytes, 16) as usize != ENTRY
        || !(ENTRIES_MIN..=ENTRIES_MAX).contains(&entries)
    {
        return Err(Bad::Size);
    }
    if len < table_len(entries) { Err(Bad::Short) } else { Ok(entries) }
}

/// An entry as values, for the tool.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EntryValue {
    pub start: u64,
    pub flags: u32,
    pub session: u32,
    pub beat: u64,
    pub period_ms: u32,
    pub tool_pid: u32,
    pub tool_start: u64,
    pub watch_generation: u32,
}

impl EntryValue {
    pub fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0..8].copy_from_slice(&self.start.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.session.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.beat.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.period_ms.to_ne_bytes());
        bytes[28..32].copy_from_slice(&self.tool_pid.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.tool_start.to_ne_bytes());
        bytes[40..44].copy_from_slice(&self.watch_generation.to_ne_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; ENTRY]) -> EntryValue {
        EntryValue {
            start: u64_at(bytes, 0),
            flags: u32_at(bytes, 8),
            session: u32_at(bytes, 12),
            beat: u64_at(bytes, 16),
            period_ms: u32_at(bytes, 24),
            tool_pid: u32_at(bytes, 28),
            tool_start: u64_at(bytes, 32),
            watch_generation: u32_at(bytes, 40),
        }
    }

    /// Whether it counts for the process that started at `start`.
    pub fn is_on(&self, start: u64, now: u64) -> bool {
        self.flags & (ON | SNAPSHOT) != 0
            && self.start == start
            && is_fresh(self.beat, self.period_ms, now)
    }
}

fn is_fresh(beat: u64, period_ms: u32, now: u64) -> bool {
    now.saturating_sub(beat) <= u64::from(period_ms) * 1_000_000
}

/// What the switch says, to the worker whose entry it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchState {
    Off,
    /// On, but the tool has not beaten for longer than its period.
    Stale,
    On(Settings),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// [`ON`], [`SNAPSHOT`] or both, [`VALUES`], [`INTERNAL`].
    pub flags: u32,
    pub session: u32,
    pub watch_generation: u32,
}

/// The worker's view of its own entry.
#[derive(Clone, Copy, Debug)]
pub struct Switch(*const Entry);

impl Switch {
    /// # Safety
    /// `entry` is aligned to 64 bytes and stays mapped, readable, as long as this value and its
    /// copies are used.
    pub const unsafe fn new(entry: *const Entry) -> Switch {
        Switch(entry)
    }

    fn entry(&self) -> &Entry {
        // SAFETY: `new` was promised an aligned entry that stays mapped; others write it only
        // while we look through atomics.
        unsafe { &*self.0 }
    }

    /// Whether anything is asked for at all, of anybody: one load, for the path that is off.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        self.entry().flags.load(Ordering::Relaxed) != 0
    }

    /// Whether calls are to be recorded.
    #[inline]
    pub fn is_on(&self, start: u64, now: u64) -> bool {
        matches!(self.look(start, now), SwitchState::On(settings) if settings.flags & ON != 0)
    }

    /// Everything that the switch says.
    #[inline]
    pub fn look(&self, start: u64, now: u64) -> SwitchState {
        let entry = self.entry();
        // Written last by the tool: who sees the flags sees the rest.
        let flags = entry.flags.load(Ordering::Acquire);
        if flags & (ON | SNAPSHOT) == 0 || entry.start.load(Ordering::Relaxed) != start {
            return SwitchState::Off;
        }
        let period_ms = entry.period_ms.load(Ordering::Relaxed);
        // The kernel copies a pwrite as it likes: a beat that is half the old one and half the
        // new one looks old once, not twice.
        if !is_fresh(entry.beat.load(Ordering::Acquire), period_ms, now)
            && !is_fresh(entry.beat.load(Ordering::Acquire), period_ms, now)
        {
            return SwitchState::Stale;
        }
        SwitchState::On(Settings {
            flags,
            session: entry.session.load(Ordering::Relaxed),
            watch_generation: entry.watch_generation.load(Ordering::Relaxed),
        })
    }

    /// No table is mapped.
    pub const fn absent() -> Switch {
        Switch(ptr::addr_of!(OFF))
    }
}

static OFF: Entry = Entry {
    start: AtomicU64::new(0),
    flags: AtomicU32::new(0),
    session: AtomicU32::new(0),
    beat: AtomicU64::new(0),
    period_ms: AtomicU32::new(0),
    tool_pid: AtomicU32::new(0),
    tool_start: AtomicU64::new(0),
    watch_generation: AtomicU32::new(0),
    reserved: [0; 5],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: EntryValue) -> Entry {
        // SAFETY: an Entry is 64 bytes of plain numbers.
        unsafe { core::mem::transmute::<[u8; ENTRY], Entry>(value.to_bytes()) }
    }

    const BASE: EntryValue = EntryValue {
        start: 77,
        flags: ON | VALUES,
        session: 3,
        beat: 10_000_000_000,
        period_ms: 5000,
        tool_pid: 9,
        tool_start: 8,
        watch_generation: 2,
    };

    #[test]
    fn counts_only_for_its_own_process_and_while_the_tool_beats() {
        let on = SwitchState::On(Settings { flags: ON | VALUES, session: 3, watch_generation: 2 });
        let stale = 15_000_000_001;
        let table = [
            (BASE, 77, 15_000_000_000, on),
            (BASE, 77, 0, on),
            (BASE, 77, stale, SwitchState::Stale),
            (BASE, 78, 10_000_000_000, SwitchState::Off),
            (EntryValue { flags: 0, ..BASE }, 77, 10_000_000_000, SwitchState::Off),
            (EntryValue { flags: VALUES, ..BASE }, 77, 10_000_000_000, SwitchState::Off),
            (EntryValue { start: 0, ..BASE }, 77, 10_000_000_000, SwitchState::Off),
        ];
        for (value, start, now, expected) in table {
            let entry = entry(value);
            // SAFETY: the entry lives until the end of this turn.
            let switch = unsafe { Switch::new(&entry) };
            assert_eq!(switch.look(start, now), expected, "{value:?} {start} {now}");
            assert_eq!(value.is_on(start, now), matches!(expected, SwitchState::On(_)));
            assert_eq!(EntryValue::from_bytes(&value.to_bytes()), value);
        }
        assert_eq!(Switch::absent().look(0, 0), SwitchState::Off);
        assert!(!Switch::absent().is_set());
    }

    #[test]
    fn a_table_is_recognised_and_others_are_not() {
        let good = table_header(ENTRIES_MIN);
        let len = table_len(ENTRIES_MIN);
        assert_eq!(parse_table(&good, len), Ok(ENTRIES_MIN));
        assert_eq!(parse_table(&good, len - 1), Err(Bad::Short));
        assert_eq!(parse_table(&table_header(10), len), Err(Bad::Size));
        assert_eq!(parse_table(&table_header(u32::MAX), u64::MAX), Err(Bad::Size));
        let mut other = good;
        other[0] ^= 1;
        assert_eq!(parse_table(&other, len), Err(Bad::Magic));
        let mut older = good;
        older[8] = 0;
        assert_eq!(parse_table(&older, len), Err(Bad::Version(0)));
        assert_eq!(entry_page(0), (4096, 0));
        assert_eq!(entry_page(65), (8192, 64));
    }
}
