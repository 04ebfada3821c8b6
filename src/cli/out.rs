//! How things are shown: tables for people, JSON for programs, colour only on a terminal.
//! Whatever a process or a container chose passes through [`safe`] or [`json`] on its way out.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::parse;

/// The longest untrusted text in a table's cell.
pub const CELL_MAX: usize = 64;
/// The longest untrusted text on a line of its own: PATH_MAX is 4096, and nobody reads that.
pub const LINE_MAX: usize = 512;

/// Untrusted text in one printable line. Backslashes stay single: a Windows-like path is no
/// danger to a terminal, and records were escaped once already.
pub fn safe(text: &str, bound: usize) -> String {
    parse::escape(text.as_bytes(), bound).replace("\\\\", "\\")
}

/// JSON in one line, in which no character can play with a terminal: JSON itself escapes the
/// C0 controls, this does the rest.
pub fn json<T: Serialize + ?Sized>(value: &T) -> String {
    let text = serde_json::to_string(value)
        .unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()));
    quiet_json(&text)
}

/// Characters beyond ASCII that are no plain text appear only inside JSON's strings, so they can
/// be replaced by their escapes without reading the text.
pub fn quiet_json(text: &str) -> String {
    let mut quiet = String::with_capacity(text.len());
    for char in text.chars() {
        let mut bytes = [0; 4];
        let plain = parse::escape(char.encode_utf8(&mut bytes).as_bytes(), 16);
        if char.is_ascii() && char != '\x7f' || plain.chars().eq([char]) {
            quiet.push(char);
        } else {
            let mut units = [0; 2];
            for unit in char.encode_utf16(&mut units) {
                quiet += &format!("\\u{unit:04x}");
            }
        }
    }
    quiet
}

/// A table without lines. Columns whose heading starts with `>` are aligned to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|h| h.trim_start_matches('>')).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row);
    }
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `2.3 ms`, `1.20 s`: microseconds as people say them.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// `1 process`, `2 processes`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Colour, where somebody sees it (no-color.org).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    pub fn for_stdout() -> Paint {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Paint { on: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    pub fn plain() -> Paint {
        Paint { on: false }
    }

    pub fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    pub fn dim(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    pub fn green(self, text: &str) -> String {
        self.with(AnsiColor::Green.on_default(), text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.with(AnsiColor::Yellow.on_default(), text)
    }

    pub fn red(self, text: &str) -> String {
        self.with(AnsiColor::Red.on_default().bold(), text)
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json_and_keeps_the_terminal_quiet() {
        let text = "a\u{1b}[31m\u{9b}31m\u{202e}ü\u{e0041}\u{7f}\n";
        let shown = json(text);
        assert!(shown.is_ascii() || shown.chars().all(|c| c.is_ascii() || c == 'ü'), "{shown}");
        assert!(!shown.bytes().any(|b| b < b' ' || b == 0x7f));
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn text_is_made_safe_once_and_stays_readable() {
        assert_eq!(safe("a\\b", 99), "a\\b");
        assert_eq!(safe("a\u{1b}b\nc", 99), "a\\x1bb\\x0ac");
        assert!(safe(&"x".repeat(600), CELL_MAX).len() <= CELL_MAX);
    }

    #[test]
    fn a_table_ends_its_lines_without_blanks() {
        let text = table(&["NAME", ">USED"], &[vec!["a".into(), "1".into()]]);
        assert_eq!(text, "NAME  USED\na        1\n");
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        assert_eq!(
            [0, 999, 1_250, 999_999, 1_204_000].map(micros),
            ["0 µs", "999 µs", "1.2 ms", "999.9 ms", "1.20 s"]
        );
    }

    #[test]
    fn without_a_terminal_there_is_no_colour() {
        assert_eq!(Paint::plain().red("x"), "x");
        assert_ne!(Paint { on: true }.red("x"), "x");
    }
}
