//! `-o FILE.data` and `--read`: a trace as a file. A header, then frames, each with its length;
//! the last one says that it is the last. All numbers are little-endian.
//!
//! ```text
//! header  magic "nbgtdata", version u32, reserved u32
//! frame   length u32 (of what follows these eight bytes), kind u16, process u16
//!   1     pid u32, inner pid u32, start u64, runtime version u32, reserved u32, to unix u64
//!   2     number u64, then the record as in the ring, without what is beyond its texts
//!   3     note u32, reserved u32, count u64, words
//!   4     nothing: the end
//! ```

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use trace_layout::record::encode;
use trace_layout::{Record, SLOT, parse_record};

use super::show::{Flow, Note, Off, Show, Who};
use crate::cli::exit::Failure;

const MAGIC: &[u8; 8] = b"nbgtdata";
const VERSION: u32 = 1;
/// The longest frame: a record with its number, or a note's words.
const FRAME_MAX: usize = 1024;
/// Processes of one file: what a frame's number has room for. The writer names no more, and the
/// reader believes no more.
const PROCESSES_MAX: usize = 1 << 16;

const PROCESS: u16 = 1;
const RECORD: u16 = 2;
const NOTE: u16 = 3;
const END: u16 = 4;

/// Writes a trace.
pub struct Writer<W: Write> {
    out: W,
    processes: usize,
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// What the file says.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[0; 4])?;
        Ok(Writer { out, processes: 0 })
    }

    fn frame(&mut self, kind: u16, process: usize, payload: &[u8]) -> io::Result<()> {
        let process = u16::try_from(process).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&process.to_le_bytes())?;
        self.out.write_all(payload)
    }

    pub fn begin(&mut self, who: &Who) -> io::Result<()> {
        let mut payload = [0; 32];
        payload[0..4].copy_from_slice(&who.pid.to_le_bytes());
        payload[4..8].copy_from_slice(&who.inner.to_le_bytes());
        payload[8..16].copy_from_slice(&who.start.to_le_bytes());
        payload[16..20].copy_from_slice(&who.runtime_version.to_le_bytes());
        payload[24..32].copy_from_slice(&who.to_unix.to_le_bytes());
        if self.processes >= PROCESSES_MAX {
            let words = format!("a trace holds at most {PROCESSES_MAX} processes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let process = self.processes;
        self.processes += 1;
        self.frame(PROCESS, process, &payload)
    }

    pub fn record(&mut self, process: usize, n: u64, record: &Record<'_>) -> io::Result<()> {
        let mut slot = [0; SLOT];
        let len = encode(record, n, &mut slot);
        let mut payload = [0; 8 + SLOT];
        payload[..8].copy_from_slice(&n.to_le_bytes());
        payload[8..8 + len].copy_from_slice(&slot[..len]);
        self.frame(RECORD, process, &payload[..8 + len])
    }

    pub fn note(&mut self, process: usize, note: &Note) -> io::Result<()> {
        let (code, count, words): (u32, u64, &str) = match note {
            Note::Lost(n) => (1, *n, ""),
            Note::Gone => (2, 0, ""),
            Note::Exec => (3, 0, ""),
            Note::Turned(Off::Stale) => (4, 0, ""),
            Note::Turned(Off::Switch) => (5, 0, ""),
            Note::Turned(Off::Broken) => (6, 0, ""),
            Note::SwitchedOff => (7, 0, ""),
            Note::Trouble(words) => (8, 0, words),
        };
        let mut payload = Vec::with_capacity(16 + words.len());
        payload.extend(code.to_le_bytes());
        payload.extend([0; 4]);
        payload.extend(count.to_le_bytes());
        payload.extend(words.bytes().take(FRAME_MAX - 16));
        self.frame(NOTE, process, &payload)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn end(&mut self) -> io::Result<()> {
        self.frame(END, 0, &[])?;
        self.out.flush()
    }
}

/// Shows a file. What is before a defect is shown; the defect is a failure.
pub fn read(path: &Path, show: &mut Show<'_>) -> Result<(), Failure> {
    let wrong = |words: String| Failure::wrong(format!("{}: {words}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    match read_from(&mut BufReader::new(file), show) {
        Ok(()) => Ok(show.end()?),
        Err(Defect::Print(error)) => Err(error.into()),
        Err(Defect::Words(words)) => {
            show.end()?;
            Err(wrong(words))
        }
    }
}

/// Why a trace was not shown to its end.
#[derive(Debug)]
pub enum Defect {
    Words(String),
    Print(io::Error),
}

fn words(text: impl Into<String>) -> Defect {
    Defect::Words(text.into())
}

/// # Errors
/// What is wrong with it, or that nothing can be shown any more.
pub fn read_from(input: &mut impl Read, show: &mut Show<'_>) -> Result<(), Defect> {
    let mut header = [0; 16];
    match fill(input, &mut header) {
        Ok(16) => {}
        Ok(_) => return Err(words("it is no trace of nbguard: too short")),
        Err(error) => return Err(words(error.to_string())),
    }
    if header[..8] != *MAGIC {
        return Err(words("it is no trace of nbguard"));
    }
    let version = u32_at(&header, 8);
    if version != VERSION {
        return Err(words(format!("it is of version {version}, this nbguard reads {VERSION}")));
    }
    let mut processes = 0;
    let mut payload = [0; FRAME_MAX];
    loop {
        let mut head = [0; 8];
        match fill(input, &mut head) {
            Ok(8) => {}
            Ok(_) => return Err(words("it ends in the midst: whoever wrote it was stopped")),
            Err(error) => return Err(words(error.to_string())),
        }
        let len = u32_at(&head, 0) as usize;
        let (kind, process) = (u16_at(&head, 4), usize::from(u16_at(&head, 6)));
        let Some(payload) = payload.get_mut(..len) else {
            return Err(words("it has a frame longer than any"));
        };
        match fill(input, payload) {
            Ok(read) if read == len => {}
            Ok(_) => return Err(words("it ends in the midst: whoever wrote it was stopped")),
            Err(error) => return Err(words(error.to_string())),
        }
        if kind != PROCESS && kind != END && process >= processes {
            return Err(words("it has a record of a process that it does not name"));
        }
        match kind {
            PROCESS if processes < PROCESSES_MAX && len >= 32 => {
                processes += 1;
                show.begin(Who {
                    pid: u32_at(payload, 0),
                    inner: u32_at(payload, 4),
                    start: u64_at(payload, 8),
                    runtime_version: u32_at(payload, 16),
                    to_unix: u64_at(payload, 24),
                });
            }
            RECORD => {
                let (n, slot) = slot_of(payload).ok_or_else(|| words("a record of no length"))?;
                let record = parse_record(&slot, n);
                let record = record.map_err(|bad| words(format!("a record: {bad}")))?;
                if show.record(process, n, &record).map_err(Defect::Print)? == Flow::Enough {
                    return Ok(());
                }
            }
            NOTE => {
                let note = note_of(payload).ok_or_else(|| words("a note that says nothing"))?;
                show.note(process, &note).map_err(Defect::Print)?;
            }
            END => return Ok(()),
            _ => return Err(words("it has a frame of no known kind")),
        }
    }
}

/// As many bytes as there are, up to the length.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match input.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn slot_of(payload: &[u8]) -> Option<(u64, [u8; SLOT])> {
    let record = payload.get(8..).filter(|record| record.len() <= SLOT)?;
    let mut slot = [0; SLOT];
    slot[..record.len()].copy_from_slice(record);
    Some((u64_at(payload, 0), slot))
}

fn note_of(payload: &[u8]) -> Option<Note> {
    let text = payload.get(16..)?;
    Some(match u32_at(payload, 0) {
        1 => Note::Lost(u64_at(payload, 8)),
        2 => Note::Gone,
        3 => Note::Exec,
        4 => Note::Turned(Off::Stale),
        5 => Note::Turned(Off::Switch),
        6 => Note::Turned(Off::Broken),
        7 => Note::SwitchedOff,
        8 => Note::Trouble(String::from_utf8_lossy(text).into_owned()),
        _ => return None,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::super::show::{Form, Wanted};
    use super::*;
    use crate::cli::out::Paint;
    use proptest::prelude::*;
    use trace_layout::Kind;

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        writer
            .begin(&Who { pid: 7, inner: 2, start: 9, runtime_version: 80236, to_unix: 5 })
            .unwrap();
        let enter = Record { call: 1, function: b"f", values: b"1, 2", ..Record::new(Kind::Enter) };
        writer.record(0, 0, &enter).unwrap();
        let leave = Record { call: 1, wall: 5, values: b"3", ..Record::new(Kind::Leave) };
        writer.record(0, 1, &leave).unwrap();
        writer.note(0, &Note::Lost(12)).unwrap();
        writer.note(0, &Note::Trouble("odd\n".into())).unwrap();
        writer.end().unwrap();
        bytes
    }

    fn shown(bytes: &[u8]) -> (String, Result<(), Defect>) {
        let mut text = Vec::new();
        let mut show = Show::new(&mut text, Form::Tree, Paint::plain(), Wanted::default(), false);
        let read = read_from(&mut &bytes[..], &mut show);
        show.end().unwrap();
        (String::from_utf8(text).unwrap(), read)
    }

    #[test]
    fn what_was_written_is_shown_again() {
        let (text, read) = shown(&file());
        assert!(read.is_ok(), "{read:?}");
        let lost = "--- 12 records were overwritten before they were read\n";
        assert_eq!(text, format!("f(1, 2) = 3  <5 ns>\n{lost}--- odd\\x0a\n"));
    }

    #[test]
    fn as_many_processes_are_read_as_are_written() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        let who = Who { pid: 7, inner: 2, start: 9, runtime_version: 80236, to_unix: 5 };
        for _ in 0..PROCESSES_MAX {
            writer.begin(&who).unwrap();
        }
        let last = PROCESSES_MAX - 1;
        writer.note(last, &Note::Lost(12)).unwrap();
        assert!(writer.begin(&who).unwrap_err().to_string().contains("65536"));
        writer.end().unwrap();
        let (text, read) = shown(&bytes);
        assert!(read.is_ok() && text.contains("12 records"), "{read:?} {text}");
        // One more than any writer names.
        let process = bytes[16..16 + 40].to_vec();
        bytes.splice(16..16, process);
        let Err(Defect::Words(words)) = shown(&bytes).1 else { panic!("one too many") };
        assert!(words.contains("no known kind"), "{words}");
    }

    #[test]
    fn a_file_that_is_none_or_half_of_one_is_told() {
        let good = file();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, expected) in [
            (vec![], "too short"),
            (with(0, b'x'), "no trace of nbguard"),
            (with(8, 7), "version 7"),
            (good[..good.len() - 4].to_vec(), "ends in the midst"),
            (good[..40].to_vec(), "ends in the midst"),
            (with(18, 1), "a frame longer than any"),
            (with(60, 99), "no known kind"),
            (with(62, 4), "does not name"),
        ] {
            let Err(Defect::Words(words)) = shown(&bytes).1 else { panic!("{expected}") };
            assert!(words.contains(expected), "{expected}: {words}");
        }
        // What came before the defect is shown.
        assert!(shown(&good[..good.len() - 4]).0.contains("f(1, 2) = 3"));
    }

    proptest! {
        #[test]
        fn no_file_hangs_or_ends_the_reader(
            changes in proptest::collection::vec((0usize..300, any::<u8>()), 0..20),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = file();
            for (at, byte) in changes {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            let _ = shown(&bytes);
            let _ = shown(&noise);
            bytes.truncate(16);
            bytes.extend(noise);
            let (text, _) = shown(&bytes);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
