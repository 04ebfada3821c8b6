//! Reads the record's files, oldest first, line by line, each line bounded.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::report::Incident;

/// The longest line that is taken for a record: a thousand rows with a thousand members.
pub const LINE_MAX: usize = 4 << 20;

/// A record and the line that it came from: an older or newer nbguard may have written more
/// into it than we know.
pub struct Record {
    pub incident: Incident,
    pub line: String,
}

#[derive(Default)]
pub struct Read {
    pub records: Vec<Record>,
    pub broken: u64,
    /// Where the first of those are: `incidents.jsonl.1:7`.
    pub named: Vec<String>,
}

/// Places of broken lines that are named; the others are counted.
const NAMED: usize = 8;

/// Everything in `path` and in the files that it was rotated to.
///
/// # Errors
/// A file is there and cannot be read; the text names it.
pub fn all(path: &Path) -> Result<Read, String> {
    let mut found = Read::default();
    for file in files(path) {
        let words = |e: io::Error| format!("{}: {e}", file.display());
        match File::open(&file) {
            Ok(open) => lines(&mut BufReader::new(open), &file, &mut found).map_err(words)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(words(e)),
        }
    }
    Ok(found)
}

/// `path` and the files beside it that are called `path.N`, the oldest (highest) first.
fn files(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let number = |entry: &fs::DirEntry| -> Option<u32> {
        let other = entry.file_name();
        other.to_str()?.strip_prefix(&name)?.strip_prefix('.')?.parse().ok()
    };
    let mut rotated: Vec<(u32, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((number(&entry)?, entry.path())))
        .collect();
    rotated.sort_unstable_by(|a, b| b.cmp(a));
    rotated.into_iter().map(|(_, file)| file).chain([path.to_owned()]).collect()
}

fn lines(from: &mut impl BufRead, file: &Path, found: &mut Read) -> io::Result<()> {
    let mut split = Splitter::default();
    let mut number = 0;
    let mut take = |line: Line<'_>, found: &mut Read| {
        number += 1;
        match parse(line) {
            Some(Ok(record)) => found.records.push(record),
            Some(Err(())) => {
                found.broken += 1;
                if found.named.len() < NAMED {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    found.named.push(format!("{name}:{number}"));
                }
            }
            None => {}
        }
    };
    loop {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        let len = piece.len();
        split.push(piece, |line| take(line, found));
        from.consume(len);
    }
    if let Some(line) = split.rest() {
        take(line, found);
    }
    Ok(())
}

/// A line as a record; `None` where it is empty.
pub fn parse(line: Line<'_>) -> Option<Result<Record, ()>> {
    let Line::Whole(bytes) = line else { return Some(Err(())) };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let record = std::str::from_utf8(bytes).ok().and_then(|text| {
        let incident = serde_json::from_str(text).ok()?;
        Some(Record { incident, line: text.to_owned() })
    });
    Some(record.ok_or(()))
}

pub enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

/// Cuts what is read in pieces into lines, without keeping more than one line.
#[derive(Default)]
pub struct Splitter {
    held: Vec<u8>,
    too_long: bool,
}

impl Splitter {
    pub fn push(&mut self, mut piece: &[u8], mut line: impl FnMut(Line<'_>)) {
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            self.hold(&piece[..end]);
            line(if self.too_long { Line::TooLong } else { Line::Whole(&self.held) });
            self.held.clear();
            self.too_long = false;
            piece = &piece[end + 1..];
        }
        self.hold(piece);
    }

    /// What came after the last newline.
    pub fn rest(&self) -> Option<Line<'_>> {
        match (self.too_long, self.held.is_empty()) {
            (true, _) => Some(Line::TooLong),
            (false, true) => None,
            (false, false) => Some(Line::Whole(&self.held)),
        }
    }

    fn hold(&mut self, piece: &[u8]) {
        if self.held.len() + piece.len() > LINE_MAX {
            self.too_long = true;
            self.held.clear();
        }
        if !self.too_long {
            self.held.extend_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_were_cut() {
        let mut split = Splitter::default();
        let mut seen = Vec::new();
        for piece in ["a", "b\nc", "\n\nd"] {
            split.push(piece.as_bytes(), |line| match line {
                Line::Whole(bytes) => seen.push(String::from_utf8(bytes.to_vec()).unwrap()),
                Line::TooLong => seen.push("too long".into()),
            });
        }
        assert_eq!(seen, ["ab", "c", ""]);
        assert!(matches!(split.rest(), Some(Line::Whole(b"d"))));
    }

    #[test]
    fn an_endless_line_is_dropped_and_the_next_one_is_read() {
        let mut split = Splitter::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            split.push(&vec![b'x'; 1 << 20], |_| panic!("no line has ended"));
        }
        split.push(b"x\nnext\n", |line| seen.push(matches!(line, Line::Whole(b"next"))));
        assert_eq!(seen, [false, true]);
    }

    #[test]
    fn rotated_files_are_those_with_a_number() {
        let dir = super::super::tests::folder("names");
        for name in ["i.jsonl.10", "i.jsonl.9", "i.jsonl.bak", "i.jsonlx.1", "i.jsonl"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let names: Vec<String> = files(&dir.join("i.jsonl"))
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["i.jsonl.10", "i.jsonl.9", "i.jsonl"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
