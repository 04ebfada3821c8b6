//! The header page of a trace file: whose it is, how far its ring has come, whether the tracer
//! traces, and the *activity*: busy or idle since when. The activity is stamped at the beginning
//! and the end of each request even when nobody listens. While calls are recorded it also has the
//! *count*: what they cost so far.

use core::mem::{offset_of, size_of};

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{Bad, PAGE, SLOT, SLOTS_MAX, SLOTS_MIN, VERSION};

pub const MAGIC: u64 = u64::from_le_bytes(*b"nbgtrace");

/// `runtime` of a file.
pub const PHP: u32 = 1;
/// `flags` of a file: the interpreter is thread-safe (ZTS); built for debugging.
pub const THREAD_SAFE: u32 = 1;
pub const DEBUG: u32 = 2;
/// Internal functions cannot be seen in this interpreter.
pub const NO_INTERNAL: u32 = 4;

pub const SCRIPT_MAX: usize = 256;
pub const URI_MAX: usize = 256;
pub const FUNCTION_MAX: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FileHeader {
    pub magic: u64,
    pub version: u32,
    pub header_size: u32,
    pub slot_size: u32,
    pub slots: u32,
    pub pid: u32,
    pub runtime: u32,
    pub start: u64,
    /// PHP_VERSION_ID: 80236.
    pub runtime_version: u32,
    pub flags: u32,
    pub created: u64,
    pub reserved: u64,
    /// Records written so far. A cache line that changes with each record.
    pub head: u64,
    /// The tracer's last beat.
    pub beat: u64,
    pub tracing: u32,
    /// The session of the switch that it traces for, or traced last.
    pub session: u32,
    /// Even: the count is whole. Odd: it is being written. 0: there never was one.
    pub count_seq: u64,
    pub counted_since: u64,
    pub counted_at: u64,
    pub counted_cpu: u64,
    pub memory: u64,
    /// Even: whole. Odd: being written.
    pub activity_seq: u64,
    pub state: u32,
    /// Bits 0, 1, 2: script, URI, function cut.
    pub cut: u32,
    pub since: u64,
    /// Nanoseconds since 1970.
    pub since_unix: u64,
    /// Requests begun so far.
    pub requests: u64,
    pub script_len: u16,
    pub uri_len: u16,
    pub function_len: u16,
    pub reserved_3: u16,
    pub script: [u8; SCRIPT_MAX],
    pub uri: [u8; URI_MAX],
    pub function: [u8; FUNCTION_MAX],
}

pub const AT_HEAD: usize = offset_of!(FileHeader, head);
pub const AT_COUNT: usize = offset_of!(FileHeader, count_seq);
/// Its sequence number and four figures.
pub const COUNT_LEN: usize = 40;
pub const AT_ACTIVITY: usize = offset_of!(FileHeader, activity_seq);

const _: () = {
    assert!(size_of::<FileHeader>() == 816);
    assert!(size_of::<FileHeader>() <= PAGE);
    assert!(offset_of!(FileHeader, version) == 8);
    assert!(offset_of!(FileHeader, slot_size) == 16);
    assert!(offset_of!(FileHeader, slots) == 20);
    assert!(offset_of!(FileHeader, pid) == 24);
    assert!(offset_of!(FileHeader, runtime) == 28);
    assert!(offset_of!(FileHeader, start) == 32);
    assert!(offset_of!(FileHeader, runtime_version) == 40);
    assert!(offset_of!(FileHeader, flags) == 44);
    assert!(offset_of!(FileHeader, created) == 48);
    assert!(AT_HEAD == 64);
    assert!(offset_of!(FileHeader, beat) == 72);
    assert!(offset_of!(FileHeader, tracing) == 80);
    assert!(offset_of!(FileHeader, session) == 84);
    assert!(AT_COUNT == 88);
    assert!(AT_COUNT + COUNT_LEN == AT_ACTIVITY);
    assert!(offset_of!(FileHeader, counted_since) == 96);
    assert!(offset_of!(FileHeader, counted_at) == 104);
    assert!(offset_of!(FileHeader, counted_cpu) == 112);
    assert!(offset_of!(FileHeader, memory) == 120);
    assert!(AT_ACTIVITY == 128);
    assert!(offset_of!(FileHeader, state) == 136);
    assert!(offset_of!(FileHeader, since) == 144);
    assert!(offset_of!(FileHeader, since_unix) == 152);
    assert!(offset_of!(FileHeader, requests) == 160);
    assert!(offset_of!(FileHeader, script_len) == 168);
    assert!(offset_of!(FileHeader, script) == 176);
    assert!(offset_of!(FileHeader, uri) == 432);
    assert!(offset_of!(FileHeader, function) == 688);
};

/// What the tracer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Tracing {
    Off = 0,
    On = 1,
    /// It was on; the tool's beat is older than its period.
    OffStale = 2,
    /// It was on; the switch was turned off.
    OffSwitch = 3,
    /// The tracer met a defect of its own and stays off until the process ends.
    Broken = 4,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ActivityState {
    Unknown = 0,
    Idle = 1,
    Busy = 2,
}

/// The fixed part of the header page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub slots: u32,
    pub pid: u32,
    pub start: u64,
    pub runtime: u32,
    pub runtime_version: u32,
    pub flags: u32,
    pub created: u64,
    pub head: u64,
    pub beat: u64,
    pub tracing: Tracing,
    pub session: u32,
}

/// What recorded calls cost, as of the moment `at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// When recording went on, and when this was counted last: in a call, or at a request's end.
    pub since: u64,
    pub at: u64,
    /// CPU time in calls since then: the sum of their self times. Calls that were open when
    /// recording went on count from that moment.
    pub cpu: u64,
    /// What the interpreter held then, in bytes, by its own count: `memory_get_usage()`.
    /// 0: not known.
    pub memory: u64,
}

/// Busy or idle, since when, with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activity<'t> {
    pub state: ActivityState,
    pub since: u64,
    pub since_unix: u64,
    pub requests: u64,
    pub script: &'t [u8],
    pub uri: &'t [u8],
    pub function: &'t [u8],
}

/// The fixed part of a header page.
///
/// # Errors
/// When no tracer of this version wrote it; [`Bad::Torn`] while it is being made.
pub fn parse_header(page: &[u8; PAGE]) -> Result<Header, Bad> {
    match u64_at(page, 0) {
        MAGIC => {}
        // It has its size, and not yet its header.
        0 => return Err(Bad::Torn),
        _ => return Err(Bad::Magic),
    }
    if u32_at(page, 8) != VERSION {
        return Err(Bad::Version(u32_at(page, 8)));
    }
    let slots = u32_at(page, 20);
    if u32_at(page, 12) as usize != PAGE
        || u32_at(page, 16) as usize != SLOT
        || !slots.is_power_of_two()
        || !(SLOTS_MIN..=SLOTS_MAX).contains(&slots)
    {
        return Err(Bad::Size);
    }
    let tracing = match u32_at(page, 80) {
        0 => Tracing::Off,
        1 => Tracing::On,
        2 => Tracing::OffStale,
        3 => Tracing::OffSwitch,
        4 => Tracing::Broken,
        _ => return Err(Bad::Value),
    };
    Ok(Header {
        slots,
        pid: u32_at(page, 24),
        start: u64_at(page, 32),
        runtime: u32_at(page, 28),
        runtime_version: u32_at(page, 40),
        flags: u32_at(page, 44),
        created: u64_at(page, 48),
        head: u64_at(page, AT_HEAD),
        beat: u64_at(page, 72),
        tracing,
        session: u32_at(page, 84),
    })
}

/// The activity of a header page, and its sequence number: whoever read the page asks for that
/// number again, and believes what is here only if it is still the same.
///
/// # Errors
/// [`Bad::Torn`] while it is written, else when no tracer wrote it.
pub fn parse_activity(page: &[u8; PAGE]) -> Result<(u64, Activity<'_>), Bad> {
    let seq = u64_at(page, AT_ACTIVITY);
    if seq % 2 == 1 {
        return Err(Bad::Torn);
    }
    let state = match u32_at(page, 136) {
        0 => ActivityState::Unknown,
        1 => ActivityState::Idle,
        2 => ActivityState::Busy,
        _ => return Err(Bad::Value),
    };
    let text = |len_at: usize, at: usize, max: usize| {
        let len = usize::from(u16_at(page, len_at));
        if len > max { Err(Bad::Size) } else { Ok(&page[at..at + len]) }
    };
    Ok((
        seq,
        Activity {
            state,
            since: u64_at(page, 144),
            since_unix: u64_at(page, 152),
            requests: u64_at(page, 160),
            script: text(168, 176, SCRIPT_MAX)?,
            uri: text(170, 432, URI_MAX)?,
            function: text(172, 688, FUNCTION_MAX)?,
        },
    ))
}

/// The count out of a header page, from [`AT_COUNT`] on, and its sequence number, as
/// [`parse_activity`] has one. `None`: nothing is known of what calls cost. A tracer older than the
/// count left zeros there.
///
/// # Errors
/// [`Bad::Torn`] while it is written, [`Bad::Value`] when it cannot be: counted before it was begun,
/// or more CPU time than time.
pub fn parse_count(bytes: &[u8; COUNT_LEN]) -> Result<(u64, Option<Count>), Bad> {
    let seq = u64_at(bytes, 0);
    if seq % 2 == 1 {
        return Err(Bad::Torn);
    }
    let count = Count {
        since: u64_at(bytes, 8),
        at: u64_at(bytes, 16),
        cpu: u64_at(bytes, 24),
        memory: u64_at(bytes, 32),
    };
    if count.since == 0 {
        return Ok((seq, None));
    }
    match count.at.checked_sub(count.since) {
        Some(span) if count.cpu <= span => Ok((seq, Some(count))),
        _ => Err(Bad::Value),
    }
}
