//! Finds every mistake in the TOML itself, and leaves a text without them, so that the keys that
//! can be read are checked in the same run. Offsets stay as they were. Pure.

use std::borrow::Cow;
use std::ops::Range;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{Fault, Source};

/// How many broken lines are taken out of one file before the rest is left alone.
const ROUNDS_MAX: usize = 50;

/// The text with its broken lines blanked, and what is wrong with them.
///
/// The parser loses its place after some mistakes, and what it says then is not worth telling. So
/// only the first mistake is believed, its line blanked, and the text parsed again.
pub(super) fn repaired<'a>(source: &Source<'a>) -> (Cow<'a, str>, Vec<Fault>) {
    let mut text = Cow::Borrowed(source.text);
    let mut faults = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let Some(fault) = first_fault(&text) else { break };
        let lines = broken(source, &text, fault.span.start);
        let progress = !text[lines.clone()].trim().is_empty();
        faults.push(with_hint(fault, source));
        if !progress {
            break;
        }
        blank(text.to_mut(), lines);
    }
    (text, faults)
}

fn first_fault(text: &str) -> Option<Fault> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let place = |span: Option<Range<usize>>| span.unwrap_or(0..0);
    let first = errors.iter().min_by_key(|error| place(error.span()).start)?;
    let fault = Fault::new(place(first.span()), first.message());
    let open = errors.iter().filter(|error| error.message().starts_with("unclosed array"));
    let begin = open.filter_map(|error| begin_of(table.get_ref(), place(error.span()).start)).min();
    match begin {
        Some(begin) if begin < fault.span.start => {
            Some(Fault::new(begin..begin + 1, "this list is not closed, expected `]`"))
        }
        _ => Some(fault),
    }
}

/// Where the outermost list begins that ends here.
fn begin_of(table: &DeTable, end: usize) -> Option<usize> {
    let begin = |span: Range<usize>, value: &DeValue| match value {
        DeValue::Array(_) if span.end == end => Some(span.start),
        DeValue::Table(table) => begin_of(table, end),
        DeValue::Array(array) => begin_in(array, end),
        _ => None,
    };
    table.iter().find_map(|(_, value)| begin(value.span(), value.get_ref()))
}

fn begin_in(array: &DeArray, end: usize) -> Option<usize> {
    array.iter().find_map(|value| match value.get_ref() {
        DeValue::Table(table) => begin_of(table, end),
        _ => None,
    })
}

/// The line of a mistake. If it is the head of a section, all of the section: its keys would
/// seem to belong to the section before.
fn broken(source: &Source, text: &str, at: usize) -> Range<usize> {
    let line = source.line_around(at);
    let is_head = |line: &str| line.trim_start().starts_with('[');
    if !is_head(&text[line.clone()]) {
        return line;
    }
    let mut end = line.end;
    while let Some(newline) = text[end..].find('\n') {
        let next = source.line_around(end + newline + 1);
        if is_head(&text[next.clone()]) {
            break;
        }
        end = end.max(next.end).max(end + newline + 1);
    }
    line.start..end
}

/// Puts a space for every byte but the line ends.
fn blank(text: &mut String, range: Range<usize>) {
    let blanked: String =
        text[range.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(range, &blanked);
}

/// Most mistakes are texts without quotes.
fn with_hint(fault: Fault, source: &Source) -> Fault {
    let line = &source.text[source.line_around(fault.span.start)];
    let Some((key, value)) = line.split_once('=') else { return fault };
    let value = value.split('#').next().unwrap_or(value).trim();
    let bare = value.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '/');
    let plain = value.chars().all(|c| !c.is_control() && !matches!(c, '"' | '\'' | '[' | ']'));
    if !bare || !plain || value.chars().count() > 60 || key.trim().chars().count() > 40 {
        return fault;
    }
    fault.hint(format!("a text stands in quotes: {} = \"{value}\"", key.trim().escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn faults(text: &str) -> Vec<(usize, String, Option<String>)> {
        let source = Source::new(Path::new("f"), text);
        let (repaired, faults) = repaired(&source);
        assert_eq!(repaired.len(), text.len());
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        faults.into_iter().map(|f| (line(f.span.start), f.message, f.hint)).collect()
    }

    #[test]
    fn every_broken_line_is_told_and_nothing_else() {
        for (text, expected) in [
            ("[guard]\nlog = \"info\"\n", vec![]),
            ("[guard]\nlog = info\nx\n[host]\ny = = 1\nz = 1\n", vec![2, 3, 5]),
            ("[default]\nwarning = 80%\nthreshold = 90%\ngrace = 5s\n", vec![2, 3, 4]),
            ("[guard\nlog = \"x\"\n[host]\na 1\n", vec![1, 4]),
            ("[[rule]]\nname = [\"a\",\n[host]\nx = 1\ny\n", vec![2, 5]),
            ("[a]\nb = 1\nb = 2\nc = \"d\n", vec![3, 4]),
            ("[a]\nb = 1\n[a]\nc = 2\n", vec![3]),
            ("[a\r\nb = 1\r\n\r\n[c]\r\nx\r\n", vec![1, 5]),
            ("[a\r\n", vec![1]),
            ("[a]\nb = 'x'\u{7f}\n", vec![2]),
            ("\u{1b}[31m = 1\n", vec![1]),
        ] {
            let lines: Vec<_> = faults(text).into_iter().map(|(line, ..)| line).collect();
            assert_eq!(lines, expected, "{text:?}: {:?}", faults(text));
        }
    }

    #[test]
    fn a_text_without_quotes_has_a_hint() {
        for (text, expected) in [
            ("threshold = 90%\n", Some("threshold = \"90%\"")),
            ("log = info # comment\n", Some("log = \"info\"")),
            ("max_size = 512M", Some("max_size = \"512M\"")),
            ("path = /var/x", Some("path = \"/var/x\"")),
            ("path = \"/var/x\n", None),
            ("path\n", None),
        ] {
            let found = faults(text);
            let hint = found[0].2.as_deref();
            assert_eq!(hint.is_some(), expected.is_some(), "{text:?}: {found:?}");
            assert!(hint.unwrap_or_default().contains(expected.unwrap_or_default()), "{hint:?}");
        }
    }

    proptest! {
        #[test]
        fn takes_any_text(text in "[a=\\[\\]\"'#\n\r {},.0-9%ü\u{0}]{0,60}", other in ".{0,60}") {
            let _ = (faults(&text), faults(&other));
        }
    }
}
