//! Reads the kernel's texts. Pure: bytes in, values out; whatever the bytes are, it returns.
//! Nothing on the hot path allocates here, and a line that is missing is an error, never a zero.

pub mod cgroup;
pub mod cgroup_path;
pub mod engine_json;
pub mod escape;
pub mod host;
pub mod http;
pub mod jupyter;
pub mod maps;
pub mod php_argv;
pub mod process;
pub mod stack_json;
pub mod template;

pub use cgroup::{
    MemoryStat, MemoryStatV1, limit, memory_events, memory_stat, memory_stat_v1, number, pids, psi,
};
pub use escape::escape;
pub use host::{Mount, ProcCgroup, meminfo, mountinfo, proc_cgroup};
pub use process::{
    Ids, StatLine, smaps_rollup_pss, stat, status_ids, status_memory, status_switches,
};

use std::fmt;

/// What is wrong with a text: which kind of file, which line, and what was expected there.
/// Small and `Copy`, because a vanished process is not worth an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseError {
    pub file: &'static str,
    /// From one; zero where a whole line is missing.
    pub line: u32,
    pub expected: &'static str,
}

impl ParseError {
    pub(crate) fn at(file: &'static str, line: usize, expected: &'static str) -> ParseError {
        ParseError { file, line: u32::try_from(line).unwrap_or(u32::MAX), expected }
    }

    pub(crate) fn missing(file: &'static str, expected: &'static str) -> ParseError {
        ParseError { file, line: 0, expected }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: no {}", self.file, self.expected),
            line => write!(f, "{}: line {line}: expected {}", self.file, self.expected),
        }
    }
}

impl std::error::Error for ParseError {}

/// A whole slice of decimal digits. `None` for anything else, also for what does not fit.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    /// So many digits always fit: u64::MAX has twenty.
    const FIT: usize = 19;
    if text.is_empty() {
        return None;
    }
    let (sure, rest) = text.split_at(text.len().min(FIT));
    let mut number = 0u64;
    for byte in sure {
        number = number * 10 + digit(*byte)?;
    }
    for byte in rest {
        number = number.checked_mul(10)?.checked_add(digit(*byte)?)?;
    }
    Some(number)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

/// Lines with their numbers from one; the last newline does not make an empty line.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|byte| *byte == b'\n').enumerate().map(|(i, line)| (i + 1, line))
}

/// `key value` as in flat keyed cgroup files.
pub(crate) fn key_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// `Key:   123 kB` as in `meminfo`, `status` and `smaps_rollup`; the value as text.
pub(crate) fn key_colon(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// `123 kB` in bytes.
pub(crate) fn kib(value: &[u8]) -> Option<crate::units::Bytes> {
    let bytes = decimal(value.strip_suffix(b" kB")?)?.checked_mul(1024)?;
    Some(crate::units::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_takes_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"00000000000000000000018446744073709551615"), Some(u64::MAX));
        for bad in [
            &b""[..],
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"0x1",
            b"18446744073709551616",
            b"184467440737095516150",
            b"1844674407370955161x",
        ] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn errors_name_file_line_and_what_was_expected() {
        let error = ParseError::at("memory.pressure", 2, "some or full");
        assert_eq!(error.to_string(), "memory.pressure: line 2: expected some or full");
        assert_eq!(ParseError::missing("meminfo", "MemTotal").to_string(), "meminfo: no MemTotal");
    }
}
