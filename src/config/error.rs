//! What is wrong with a configuration, as people and programs want to see it: file, line, column,
//! the line with a mark under it, and what to write instead. Pure.

use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest part of a source line that is shown. Lines of a file people write are shorter.
const LINE_MAX: usize = 160;

/// Does the finding stop the configuration from being used?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ConfigError {
    pub severity: Severity,
    pub file: PathBuf,
    /// Line and column count from 1, the column in characters.
    pub line: usize,
    pub column: usize,
    /// Dotted path of the key (`default.threshold`, `rule[0].policy`); empty for bad TOML.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
    /// The line it is on, shortened, control characters replaced.
    pub source: String,
    /// Where in `source` the mark begins and how many characters it has.
    #[serde(skip)]
    mark: (usize, usize),
}

/// A configuration can be used in spite of it.
pub type Warning = ConfigError;

/// All that is wrong, by file and position. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Errors(pub Vec<ConfigError>);

impl std::error::Error for ConfigError {}
impl std::error::Error for Errors {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let ConfigError { line, column, message, .. } = self;
        writeln!(f, "{}:{line}:{column}: {severity}: {message}", self.file.display())?;
        let gutter = line.to_string().len();
        writeln!(f, " {:gutter$} |", "")?;
        writeln!(f, " {line} | {}", self.source)?;
        let (start, len) = self.mark;
        write!(f, " {:gutter$} | {:start$}{}", "", "", "^".repeat(len))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n {:gutter$} = {hint}", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

/// A text whose byte offsets are to be shown as lines and columns.
pub(super) struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a Path, text: &'a str) -> Source<'a> {
        let after = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Source { file, text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// Bytes of the line that holds this offset, without its newline.
    pub fn line_around(&self, offset: usize) -> Range<usize> {
        let line = self.line_index(offset);
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let carriage_return = self.text[start..end].ends_with('\r');
        start..end - usize::from(carriage_return)
    }

    fn line_index(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset) - 1
    }

    pub fn locate(&self, severity: Severity, key: String, fault: Fault) -> ConfigError {
        let offset = (0..=fault.span.start.min(self.text.len()))
            .rev()
            .find(|offset| self.text.is_char_boundary(*offset))
            .unwrap_or(0);
        let line = self.line_around(offset);
        let offset = offset.min(line.end);
        let before = self.text[line.start..offset].chars().count();
        let marked_end = fault.span.end.clamp(offset, line.end);
        let marked = String::from_utf8_lossy(&self.text.as_bytes()[offset..marked_end]);
        let (source, shift) = window(&self.text[line.clone()], before);
        let room = source.chars().count().saturating_sub(before - shift);
        ConfigError {
            severity,
            file: self.file.to_owned(),
            line: self.line_index(line.start) + 1,
            column: before + 1,
            key,
            message: fault.message,
            hint: fault.hint,
            mark: (before - shift, marked.chars().count().min(room).max(1)),
            source,
        }
    }
}

/// The part of a line around a character, and how many characters were left off before it.
/// A tab becomes a space and any other control character U+FFFD, each one for one, so that the
/// mark stays in place and nothing in the file can play with a terminal.
fn window(line: &str, at: usize) -> (String, usize) {
    let skip = if at + 1 > LINE_MAX { at - LINE_MAX / 2 } else { 0 };
    let show = |c: char| match c {
        '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    (line.chars().skip(skip).take(LINE_MAX).map(show).collect(), skip)
}

/// Something wrong at some bytes of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub span: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault { span, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn located(text: &str, span: Range<usize>) -> ConfigError {
        let fault = Fault::new(span, "wrong").hint("right");
        Source::new(Path::new("f.toml"), text).locate(Severity::Error, String::new(), fault)
    }

    #[test]
    fn shows_the_line_with_a_mark_under_it() {
        let error = located("[a]\r\nü = \"bad\"\r\n", 10..15);
        let expected = concat!(
            "f.toml:2:5: error: wrong\n",
            "   |\n",
            " 2 | ü = \"bad\"\n",
            "   |     ^^^^^\n",
            "   = right",
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_line_cannot_play_with_the_terminal() {
        assert_eq!(located("a\tb\u{1b}[31m\u{202e}", 0..1).source, "a b\u{fffd}[31m\u{fffd}");
    }

    #[test]
    fn a_long_line_is_shown_around_the_mark() {
        let text = "x".repeat(10_000);
        let error = located(&text, 5_000..5_001);
        assert_eq!((error.column, error.source.len()), (5_001, LINE_MAX));
        assert_eq!(error.mark, (LINE_MAX / 2, 1));
    }

    #[test]
    fn the_end_of_the_file_has_a_place() {
        let at = |text, span| {
            let error = located(text, span);
            (error.line, error.column)
        };
        assert_eq!(at("", 0..0), (1, 1));
        assert_eq!(at("a\n", 2..2), (2, 1));
        assert_eq!(at("a", 1..1), (1, 2));
    }

    proptest! {
        #[test]
        fn any_span_has_a_place(text in "[aü\t\r\n]{0,40}", start in 0usize..90, len in 0usize..9) {
            let error = located(&text, start..start + len);
            prop_assert!(error.line >= 1 && error.column >= 1);
            let _ = error.to_string();
        }
    }
}
