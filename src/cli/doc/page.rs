//! A manual page: sections, paragraphs, items, examples. Text comes as the lists have it, with words
//! to be typed in backticks, and is broken into short lines, as mandoc(1) asks.

use roff::{Inline, Roff, bold, italic, roman};

/// Longest line of text with its escapes: mandoc complains above 80 bytes.
const WIDTH: usize = 76;

pub struct Page {
    roff: Roff,
    /// A heading and an item begin a paragraph already.
    fresh: bool,
}

impl Page {
    pub fn new(name: &str, section: &str, date: &str) -> Page {
        let mut roff = Roff::new();
        let version = concat!("nbguard ", env!("CARGO_PKG_VERSION"));
        let title = name.to_uppercase();
        roff.control("TH", [title.as_str(), section, date, version]);
        Page { roff, fresh: true }
    }

    pub fn section(&mut self, title: &str) {
        self.roff.control("SH", [title]);
        self.fresh = true;
    }

    pub fn subsection(&mut self, title: &str) {
        self.roff.control("SS", [title]);
        self.fresh = true;
    }

    pub fn name(&mut self, name: &str, what: &str) {
        self.section("NAME");
        self.roff.text([roman(format!("{name} - {what}"))]);
    }

    /// Options and values as they are typed, one line.
    pub fn synopsis(&mut self, line: &str) {
        if !std::mem::take(&mut self.fresh) {
            self.roff.control("br", []);
        }
        self.roff.text(typed(line));
    }

    /// The same in the midst of a text.
    pub fn synopsis_below(&mut self, line: &str) {
        self.roff.control("PP", []);
        self.roff.text(typed(line));
        self.fresh = false;
    }

    pub fn prose(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|text| !text.trim().is_empty()) {
            if !std::mem::take(&mut self.fresh) {
                self.roff.control("PP", []);
            }
            self.fill(paragraph);
        }
    }

    /// `term` as it is typed, and what it means.
    pub fn item(&mut self, term: &str, meaning: &str) {
        self.item_of(typed(term), meaning);
    }

    /// A name, whatever is in it.
    pub fn named(&mut self, name: &str, meaning: &str) {
        self.item_of(vec![bold(name)], meaning);
    }

    fn item_of(&mut self, term: Vec<Inline>, meaning: &str) {
        self.roff.control("TP", []);
        self.roff.text(term);
        self.fill(meaning);
        self.fresh = false;
    }

    /// Another line within an item.
    pub fn more(&mut self, text: &str) {
        self.roff.control("br", []);
        self.fill(text);
    }

    /// What is shown line by line.
    pub fn example(&mut self, text: &str) {
        if !std::mem::take(&mut self.fresh) {
            self.roff.control("PP", []);
        }
        self.verbatim(text, "4");
    }

    /// The same within an item.
    pub fn example_inside(&mut self, text: &str) {
        self.verbatim(text, "7");
    }

    fn verbatim(&mut self, text: &str, indent: &str) {
        self.roff.control("RS", [indent]);
        self.roff.control("EX", []);
        for line in ascii(text).lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("EE", []);
        self.roff.control("RE", []);
    }

    fn fill(&mut self, text: &str) {
        let mut is_bold = false;
        for line in lines(&ascii(text)) {
            let mut inlines = Vec::new();
            for (at, part) in line.split('`').enumerate() {
                if at > 0 {
                    is_bold = !is_bold;
                }
                if !part.is_empty() {
                    inlines.push(if is_bold { bold(part) } else { roman(part) });
                }
            }
            self.roff.text(inlines);
        }
    }

    pub fn render(&self) -> String {
        self.roff.render()
    }
}

/// `--name <VALUE>`: bold, but for what is to be replaced.
fn typed(words: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    let mut rest = words;
    while let Some((before, (value, after))) =
        rest.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?)))
    {
        if !before.is_empty() {
            inlines.push(bold(before));
        }
        inlines.push(italic(value));
        rest = after;
    }
    if !rest.is_empty() {
        inlines.push(bold(rest));
    }
    inlines
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let more = cost(word);
        match lines.last_mut() {
            Some(line) if width + 1 + more <= WIDTH => {
                line.push(' ');
                line.push_str(word);
                width += 1 + more;
            }
            _ => {
                lines.push(word.to_owned());
                width = more;
            }
        }
    }
    lines
}

/// How wide a word is in the source: `\-`, `\*(Aq`, `\fB`.
fn cost(word: &str) -> usize {
    let escapes = word.chars().map(|c| match c {
        '-' | '\\' => 1,
        '\'' => 4,
        '`' => 2,
        _ => 0,
    });
    word.len() + escapes.sum::<usize>()
}

/// A terminal that knows ASCII alone has no such character.
fn ascii(text: &str) -> String {
    text.replace('…', "...")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(write: impl Fn(&mut Page)) -> String {
        let mut page = Page::new("x", "1", "2026-11-23");
        write(&mut page);
        page.render().split(".TH X 1 2026\\-11\\-23").last().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_typed_is_bold_also_over_the_end_of_a_line() {
        let long = format!("{} `a b` c", "word ".repeat(WIDTH / 5));
        let text = made(|page| page.prose(&long));
        assert!(
            text.contains("\\fBa\\fR\n\\fBb\\fR c") || text.contains("\\fBa b\\fR c"),
            "{text}"
        );
    }

    #[test]
    fn a_value_is_italic_and_no_text_is_a_request() {
        let text = made(|page| page.item("-c, --config <FILE>", ".x is 'a'\\b"));
        assert!(text.contains(".TP\n\\fB\\-c, \\-\\-config \\fR\\fIFILE\\fR\n"), "{text}");
        assert!(text.contains("\n\\&.x is \\*(Aqa\\*(Aq\\\\b\n"), "{text}");
        let text = made(|page| page.example(".a\n'b"));
        assert!(text.contains(".EX\n\\&.a\n"), "{text}");
        assert!(!text.contains("\n'b"), "{text}");
    }
}
