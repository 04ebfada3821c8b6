//! The shared memory between nbguard and the tracer inside an interpreter: where each field is,
//! the writer that a tracer uses, and pure functions that read what somebody else wrote.
//!
//! ```text
//! /run/nbguard/trace/switch                     one entry per pid; written by the tool alone
//! /run/nbguard/trace/<uid>/<pid>-<start>.trace  header page and ring; written by that process
//! /run/nbguard/trace/<uid>/<pid>-<start>.watch  what to watch, a line each; written by the tool
//! ```
//!
//! The directory is 0711: a worker that is not root may pass through it, not read it, so it opens
//! its own folder by the whole path, or the directory with O_PATH.
//!
//! `pid` is the process's own, in its innermost pid namespace; `start` is field 22 of its
//! `/proc/<pid>/stat`. Times are nanoseconds of CLOCK_BOOTTIME unless a name says otherwise.
//! Numbers are in the machine's order: writer and reader share one kernel.
//!
//! No allocation, no system call, no clock: callers bring those. What a reader gets was written
//! by a process that may lie; every parse function is total over every sequence of bytes.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod header;
pub mod record;
pub mod switch;
pub mod watch;
pub mod writer;

pub use header::{
    Activity, ActivityState, Count, Header, Tracing, parse_activity, parse_count, parse_header,
};
pub use record::{Kind, Record, parse_record};
pub use switch::{Switch, SwitchState};
pub use writer::{Identity, Slot, Writer};

/// Rises when a field changes its place or its meaning. A reader of another version refuses.
pub const VERSION: u32 = 1;

/// Where the directory is unless a test or a configuration says otherwise.
pub const DIR: &str = "/run/nbguard/trace";
/// The switch table's name in it.
pub const SWITCH: &str = "switch";
/// `<pid>-<start>` and this.
pub const TRACE_SUFFIX: &str = ".trace";
pub const WATCH_SUFFIX: &str = ".watch";

/// A page of every file here: the header's size.
pub const PAGE: usize = 4096;
/// One record.
pub const SLOT: usize = 512;
/// Records of a ring unless somebody says otherwise: 4 MiB, of which only written pages exist.
pub const SLOTS: u32 = 8192;
/// A ring of fewer or more records is refused; 65,536 are 32 MiB.
pub const SLOTS_MIN: u32 = 8;
pub const SLOTS_MAX: u32 = 1 << 16;

/// A figure that was not measured. Unknown is not zero.
pub const UNKNOWN: u64 = u64::MAX;
pub const UNKNOWN_MEMORY: i64 = i64::MIN;

/// Length of a trace file with so many slots.
pub const fn file_len(slots: u32) -> usize {
    PAGE + slots as usize * SLOT
}

/// Where record `n` is in its file.
pub const fn record_offset(n: u64, slots: u32) -> usize {
    PAGE + (n % slots as u64) as usize * SLOT
}

/// What is wrong with bytes that should be a file of this contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// Shorter than its header says, or than a header is.
    Short,
    /// Not a file of this kind.
    Magic,
    /// Of another version than [`VERSION`].
    Version(u32),
    /// A size, a count or a length that cannot be.
    Size,
    /// A value that no writer of this version writes.
    Value,
    /// Being written just now: read again.
    Torn,
}

impl core::fmt::Display for Bad {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Bad::Short => f.write_str("it is cut short"),
            Bad::Magic => f.write_str("it is no file of nbguard's tracer"),
            Bad::Version(version) => {
                write!(f, "it is of version {version}, this nbguard knows {VERSION}")
            }
            Bad::Size => f.write_str("it has a size or a length that cannot be"),
            Bad::Value => f.write_str("it has a value that no tracer writes"),
            Bad::Torn => f.write_str("it is being written just now"),
        }
    }
}

/// Fields of a byte slice; the callers' slices are as long as the layout says.
pub(crate) mod bytes {
    pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
        let mut field = [0; 2];
        field.copy_from_slice(&bytes[at..at + 2]);
        u16::from_ne_bytes(field)
    }

    pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
        let mut field = [0; 4];
        field.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(field)
    }

    pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
        let mut field = [0; 8];
        field.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(field)
    }
}
