//! Texts with figures in them: `{memory}` in what an administrator wrote becomes what a notebook
//! holds. The text is the administrator's and stands as it is; what is put into it comes from
//! containers and is bounded and escaped. Pure.

use super::escape::escape;

/// What stands for a figure, each in braces.
pub const NAMES: [&str; 9] = [
    "notebook",
    "container",
    "memory",
    "share",
    "usage",
    "total",
    "threshold",
    "warning",
    "running",
];
/// Stands for `{running}` until it is known; nothing that a container chose has it in it.
pub const LATER: &str = "\0";
/// Longest text of what a notebook runs.
pub const RUNNING_MAX: usize = 256;

/// Longest name that is put in. A path of this length can still be told apart by its end in most
/// notebooks' own pages, and four of them fit into a text.
const NAME_MAX: usize = 256;

/// What the names stand for at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Chosen by the process: its path, or what it has instead.
    pub notebook: &'a str,
    /// Chosen by whoever started it.
    pub container: &'a str,
    pub memory: &'a str,
    pub share: &'a str,
    pub usage: &'a str,
    pub total: &'a str,
    pub threshold: &'a str,
    pub warning: &'a str,
    /// In words: `` while running `merge` in cell 7 ``; empty where that is not known, and then the
    /// space before it goes as well. Or [`LATER`].
    pub running: &'a str,
}

impl Values<'_> {
    fn of(&self, name: &str) -> Option<String> {
        let figure = match name {
            "notebook" => return Some(escape(self.notebook.as_bytes(), NAME_MAX)),
            "container" => return Some(escape(self.container.as_bytes(), NAME_MAX)),
            "memory" => self.memory,
            "share" => self.share,
            "usage" => self.usage,
            "total" => self.total,
            "threshold" => self.threshold,
            "warning" => self.warning,
            "running" => self.running,
            _ => return None,
        };
        Some(figure.to_owned())
    }
}

/// A part of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part<'t> {
    Text(&'t str),
    /// What stands between braces.
    Name(&'t str),
}

/// The parts in order. `{{` and `}}` are the braces themselves; one that is alone is as well.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut left = text;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        for doubled in ["{{", "}}"] {
            if let Some(rest) = left.strip_prefix(doubled) {
                left = rest;
                return Some(Part::Text(&doubled[..1]));
            }
        }
        if let Some((name, rest)) = left.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            && !name.contains('{')
        {
            left = rest;
            return Some(Part::Name(name));
        }
        // At least one character: a brace that is alone.
        let first = left.chars().next().map_or(0, char::len_utf8);
        let end = left[first..].find(['{', '}']).map_or(left.len(), |at| first + at);
        let (text, rest) = left.split_at(end);
        left = rest;
        Some(Part::Text(text))
    })
}

/// The first name in the text that stands for nothing.
pub fn unknown(text: &str) -> Option<&str> {
    parts(text).find_map(|part| match part {
        Part::Name(name) if !NAMES.contains(&name) => Some(name),
        _ => None,
    })
}

/// The text with its figures, in at most `bound` bytes, ending with a line break. What is too long
/// is cut between two characters.
pub fn fill(text: &str, values: &Values<'_>, bound: usize) -> String {
    const END: &str = "…\n";
    let mut filled = String::with_capacity(text.len() + 256);
    for part in parts(text) {
        match part {
            Part::Text(text) => filled.push_str(text),
            // The configuration was checked; whatever else comes is shown as it was written.
            Part::Name(name) => match values.of(name) {
                Some(value) if value.is_empty() && filled.ends_with(' ') => {
                    filled.pop();
                }
                Some(value) => filled.push_str(&value),
                None => filled.extend(["{", name, "}"]),
            },
        }
    }
    if filled.len() < bound {
        filled.push('\n');
        return filled;
    }
    let mut end = bound.saturating_sub(END.len());
    while !filled.is_char_boundary(end) {
        end -= 1;
    }
    filled.truncate(end);
    filled.push_str(END);
    filled
}

/// Puts in what was still to come; there must be [`RUNNING_MAX`] bytes left. There is room for it
/// once: where a text names it again, it is left out.
pub fn place(filled: &str, running: &str) -> String {
    let Some((before, after)) = filled.split_once(LATER) else { return filled.to_owned() };
    let mut end = running.len().min(RUNNING_MAX);
    while !running.is_char_boundary(end) {
        end -= 1;
    }
    let before = if end == 0 { before.strip_suffix(' ').unwrap_or(before) } else { before };
    let after = after.replace(&format!(" {LATER}"), "").replace(LATER, "");
    [before, &running[..end], &after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALUES: Values<'static> = Values {
        notebook: "/home/ada/a.ipynb",
        container: "jupyter-ada",
        memory: "3.2 GiB",
        share: "81 %",
        usage: "3.3 GiB",
        total: "4.0 GiB",
        threshold: "90 %",
        warning: "80 %",
        running: "while running `f` in cell 7",
    };

    fn filled(text: &str) -> String {
        fill(text, &VALUES, 4096)
    }

    #[test]
    fn names_in_braces_become_figures() {
        for (text, shown) in [
            ("{container}: {usage} of {total}", "jupyter-ada: 3.3 GiB of 4.0 GiB"),
            ("{memory}{share}{threshold}{warning}", "3.2 GiB81 %90 %80 %"),
            ("{notebook}", "/home/ada/a.ipynb"),
            ("Speicher: {memory} – Größe", "Speicher: 3.2 GiB – Größe"),
            ("内存 {memory} を使用", "内存 3.2 GiB を使用"),
            ("{{memory}} {{ }} {", "{memory} { } {"),
            ("a } b { c", "a } b { c"),
            ("{{{memory}}}", "{3.2 GiB}"),
            ("", ""),
        ] {
            assert_eq!(filled(text), format!("{shown}\n"), "{text}");
            assert_eq!(unknown(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_found() {
        for (text, name) in [
            ("{memroy}", "memroy"),
            ("{memory} {}", ""),
            ("{Memory}", "Memory"),
            ("{ memory }", " memory "),
            ("{memory:>8}", "memory:>8"),
        ] {
            assert_eq!(unknown(text), Some(name), "{text}");
        }
        for name in NAMES {
            assert_eq!(unknown(&format!("{{{name}}}")), None);
            assert_ne!(filled(&format!("{{{name}}}")), format!("{{{name}}}\n"));
        }
    }

    #[test]
    fn what_runs_is_put_in_at_once_or_later_and_leaves_no_gap() {
        const TEXT: &str = "It holds {memory} {running}. {running}";
        let fill = |running| fill(TEXT, &Values { running, ..VALUES }, 4096);
        let known = "while running `f` in cell 7";
        assert_eq!(fill(known), format!("It holds 3.2 GiB {known}. {known}\n"));
        assert_eq!(fill(""), "It holds 3.2 GiB.\n");
        let later =
            super::fill("It holds {memory} {running}.", &Values { running: LATER, ..VALUES }, 4096);
        assert_eq!(place(&later, known), format!("It holds 3.2 GiB {known}.\n"));
        assert_eq!(place(&later, ""), "It holds 3.2 GiB.\n");
        assert_eq!(place("no place", known), "no place");
        let twice = super::fill(TEXT, &Values { running: LATER, ..VALUES }, 4096);
        assert_eq!(place(&twice, known), format!("It holds 3.2 GiB {known}.\n"));
        assert_eq!(place(&twice, ""), "It holds 3.2 GiB.\n");
        assert!(place(LATER, &"\u{20ac}".repeat(RUNNING_MAX)).len() <= RUNNING_MAX);
    }

    #[test]
    fn what_containers_chose_is_escaped_and_bounded() {
        for (notebook, shown) in [
            ("a\nnbguard: all is well", "a\\x0anbguard: all is well"),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "\\x1b[2J\\x1b]0;x\\x07"),
            ("\u{202e}bpyni", "\\u{202e}bpyni"),
            ("{memory}", "{memory}"),
            ("\u{fffd}\\xff", "\u{fffd}\\\\xff"),
            ("数据/größe.ipynb", "数据/größe.ipynb"),
        ] {
            let values = Values { notebook, container: notebook, ..VALUES };
            assert_eq!(fill("{notebook}", &values, 4096), format!("{shown}\n"));
            assert_eq!(fill("{container}", &values, 4096), format!("{shown}\n"));
        }
        let long = "ä".repeat(4096);
        let values = Values { notebook: &long, ..VALUES };
        let shown = fill("{notebook} holds {memory}", &values, 4096);
        assert!(shown.len() < 300 && shown.ends_with("ä… holds 3.2 GiB\n"), "{shown}");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let text = "ä".repeat(100);
        assert_eq!(fill(&text, &VALUES, 201), format!("{text}\n"));
        for bound in 5..200 {
            let shown = fill(&text, &VALUES, bound);
            assert!(shown.len() <= bound && shown.ends_with("…\n"), "{bound}: {shown:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_bounded_and_one_line_longer(
            text in "[a-z{}ä\u{1b}]{0,60}", notebook in any::<String>(), bound in 8usize..100,
        ) {
            let values = Values { notebook: &notebook, ..VALUES };
            let shown = fill(&text, &values, bound);
            prop_assert!(shown.len() <= bound);
            prop_assert!(shown.ends_with('\n'));
            prop_assert_eq!(shown.matches('\n').count(), 1);
        }
    }
}
