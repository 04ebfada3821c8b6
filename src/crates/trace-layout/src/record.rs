//! A record: 64 bytes of numbers, then text. Bytes beyond the lengths are leftovers of older
//! records and mean nothing.

use core::mem::{offset_of, size_of};

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{Bad, SLOT, UNKNOWN, UNKNOWN_MEMORY};

/// Room for the four texts of a record.
pub const TEXT: usize = SLOT - size_of::<RecordHeader>();
/// Longest class and function name; what is left belongs to file and values.
pub const NAME_MAX: usize = 96;
/// Longest path of a file: the end of it is kept, for it tells more than the beginning.
pub const FILE_MAX: usize = 128;

/// What a record tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A call begins. `values` are its parameters; `memory` is what is in use. `file` and `line`
    /// are where the function is called from.
    Enter = 1,
    /// The call named by `call` ends. `values` is what it returned, or what was thrown;
    /// `memory` is how much more is in use than at its beginning.
    Leave = 2,
    /// A request begins: `file` is the script, `values` the URI without its query.
    Request = 3,
    /// It ends; `memory` is its peak.
    RequestEnd = 4,
    /// One frame of a stack: `depth` is 0 for the innermost, `call` the same for all of one
    /// stack. Where `depth` is 0 a new stack begins.
    Snapshot = 5,
    /// A watched variable has a new value: `function` is its name, `values` the value.
    Watch = 6,
    /// Something about tracing itself, in `values`: a limit met, a hook missing.
    Notice = 7,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Enter,
            2 => Kind::Leave,
            3 => Kind::Request,
            4 => Kind::RequestEnd,
            5 => Kind::Snapshot,
            6 => Kind::Watch,
            7 => Kind::Notice,
            _ => return None,
        })
    }
}

/// Flags of a record. Class or function name cut.
pub const CUT_NAME: u8 = 1;
pub const CUT_FILE: u8 = 2;
pub const CUT_VALUES: u8 = 4;
/// The function is one of the interpreter's own.
pub const INTERNAL: u8 = 8;
/// Left by an exception; `values` is its class and message.
pub const THROWN: u8 = 16;
/// Returned exactly false: how most functions of PHP say that they failed.
pub const FAILED: u8 = 32;
/// What is called is a file: the main script, include, require, eval. `file` is that file.
pub const SCRIPT: u8 = 64;
/// A generator or fiber is entered again or left for now: not a new call, not its end.
pub const RESUMED: u8 = 128;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// 2n+1 while record n is written, 2n+2 when it is whole.
    pub seq: u64,
    /// When it happened.
    pub time: u64,
    /// Of a Leave: how long the call took. [`UNKNOWN`] where not measured.
    pub wall: u64,
    /// CPU time of the thread in it. [`UNKNOWN`] where not measured.
    pub cpu: u64,
    /// Bytes. [`UNKNOWN_MEMORY`] where not measured.
    pub memory: i64,
    /// The call's number in this file, from 1 on; 0: none.
    pub call: u64,
    pub line: u32,
    /// Callers above it, 65,535 for all that are deeper.
    pub depth: u16,
    pub kind: u8,
    pub flags: u8,
    pub class_len: u16,
    pub function_len: u16,
    pub file_len: u16,
    pub values_len: u16,
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 64);
    assert!(offset_of!(RecordHeader, seq) == 0);
    assert!(offset_of!(RecordHeader, time) == 8);
    assert!(offset_of!(RecordHeader, wall) == 16);
    assert!(offset_of!(RecordHeader, cpu) == 24);
    assert!(offset_of!(RecordHeader, memory) == 32);
    assert!(offset_of!(RecordHeader, call) == 40);
    assert!(offset_of!(RecordHeader, line) == 48);
    assert!(offset_of!(RecordHeader, depth) == 52);
    assert!(offset_of!(RecordHeader, kind) == 54);
    assert!(offset_of!(RecordHeader, flags) == 55);
    assert!(offset_of!(RecordHeader, class_len) == 56);
    assert!(offset_of!(RecordHeader, function_len) == 58);
    assert!(offset_of!(RecordHeader, file_len) == 60);
    assert!(offset_of!(RecordHeader, values_len) == 62);
    assert!(2 * NAME_MAX + FILE_MAX + 128 <= TEXT);
};

/// A record as values. Texts are bytes as the interpreter had them: escape before showing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'t> {
    pub kind: Kind,
    pub flags: u8,
    pub depth: u16,
    pub line: u32,
    pub call: u64,
    pub time: u64,
    pub wall: u64,
    pub cpu: u64,
    pub memory: i64,
    pub class: &'t [u8],
    pub function: &'t [u8],
    pub file: &'t [u8],
    pub values: &'t [u8],
}

impl<'t> Record<'t> {
    /// A record of this kind in which nothing is known yet.
    pub const fn new(kind: Kind) -> Record<'t> {
        Record {
            kind,
            flags: 0,
            depth: 0,
            line: 0,
            call: 0,
            time: 0,
            wall: UNKNOWN,
            cpu: UNKNOWN,
            memory: UNKNOWN_MEMORY,
            class: &[],
            function: &[],
            file: &[],
            values: &[],
        }
    }
}

/// Record `n` out of its slot.
///
/// # Errors
/// [`Bad::Torn`] when the slot holds another record or half of one; [`Bad::Size`] or
/// [`Bad::Value`] when no tracer wrote it.
pub fn parse_record(slot: &[u8; SLOT], n: u64) -> Result<Record<'_>, Bad> {
    if Some(u64_at(slot, 0)) != whole(n) {
        return Err(Bad::Torn);
    }
    let kind = Kind::from_byte(slot[54]).ok_or(Bad::Value)?;
    let mut at = size_of::<RecordHeader>();
    let mut texts = [&slot[..0]; 4];
    for (index, text) in texts.iter_mut().enumerate() {
        let len = usize::from(u16_at(slot, 56 + 2 * index));
        *text = slot.get(at..at + len).ok_or(Bad::Size)?;
        at += len;
    }
    let [class, function, file, values] = texts;
    Ok(Record {
        kind,
        flags: slot[55],
        depth: u16_at(slot, 52),
        line: u32_at(slot, 48),
        call: u64_at(slot, 40),
        time: u64_at(slot, 8),
        wall: u64_at(slot, 16),
        cpu: u64_at(slot, 24),
        memory: u64_at(slot, 32) as i64,
        class,
        function,
        file,
        values,
    })
}

/// Record `n` as its slot's bytes, for tests and for files of records. How many bytes count: texts
/// that do not fit are cut without a flag, since who has them as a [`Record`] had them cut before.
pub fn encode(record: &Record<'_>, n: u64, slot: &mut [u8; SLOT]) -> usize {
    slot[0..8].copy_from_slice(&whole(n).unwrap_or(0).to_ne_bytes());
    slot[8..16].copy_from_slice(&record.time.to_ne_bytes());
    slot[16..24].copy_from_slice(&record.wall.to_ne_bytes());
    slot[24..32].copy_from_slice(&record.cpu.to_ne_bytes());
    slot[32..40].copy_from_slice(&record.memory.to_ne_bytes());
    slot[40..48].copy_from_slice(&record.call.to_ne_bytes());
    slot[48..52].copy_from_slice(&record.line.to_ne_bytes());
    slot[52..54].copy_from_slice(&record.depth.to_ne_bytes());
    slot[54] = record.kind as u8;
    slot[55] = record.flags;
    let mut at = size_of::<RecordHeader>();
    let texts = [record.class, record.function, record.file, record.values];
    for (index, text) in texts.into_iter().enumerate() {
        let len = text.len().min(SLOT - at);
        slot[at..at + len].copy_from_slice(&text[..len]);
        slot[56 + 2 * index..58 + 2 * index].copy_from_slice(&(len as u16).to_ne_bytes());
        at += len;
    }
    at
}

/// What `seq` is when record `n` is whole.
pub const fn whole(n: u64) -> Option<u64> {
    match n.checked_mul(2) {
        Some(twice) => twice.checked_add(2),
        None => None,
    }
}
