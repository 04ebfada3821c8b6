//! Names with `*` (any run of characters, `/` too) and `?` (one character).
//! Matches without recursion and without allocating, in at most pattern × text steps, and both
//! are bounded: names come from containers. Pure.

use std::fmt;

/// A pattern. Built only through [`Glob::new`], so its length is bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob(Box<str>);

impl Glob {
    /// Longer than any container name, image or notebook path worth writing down.
    pub const MAX_LEN: usize = 512;

    /// # Errors
    /// A sentence that says what is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<Glob, &'static str> {
        if pattern.is_empty() {
            return Err("an empty pattern matches nothing");
        }
        if pattern.len() > Self::MAX_LEN {
            return Err("a pattern may be at most 512 bytes long");
        }
        Ok(Glob(pattern.into()))
    }

    /// Without the slashes that some write before a path that is below something.
    pub(super) fn all_relative(globs: Vec<Glob>) -> Vec<Glob> {
        let relative = |glob: Glob| Glob::new(glob.0.trim_start_matches('/')).unwrap_or(glob);
        globs.into_iter().map(relative).collect()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this matches whatever it is given.
    pub fn is_everything(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Goes back only to the last `*`: what an earlier one might take instead changes nothing.
    pub fn matches(&self, text: &str) -> bool {
        let pattern = self.0.as_bytes();
        let bytes = text.as_bytes();
        let (mut at, mut seen) = (0, 0);
        let mut last_star: Option<(usize, usize)> = None;
        while seen < bytes.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    last_star = Some((at, seen));
                    at += 1;
                }
                Some(b'?') => {
                    at += 1;
                    seen += char_len(bytes[seen]);
                }
                Some(byte) if *byte == bytes[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((star, start)) = last_star else { return false };
                    let next = start + char_len(bytes[start]);
                    last_star = Some((star, next));
                    (at, seen) = (star + 1, next);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// As [`Glob::matches`]; a pattern without `/` may also match the last part of a path.
    pub fn matches_path(&self, path: &str) -> bool {
        let last = path.rsplit('/').next().unwrap_or(path);
        self.matches(path) || (!self.0.contains('/') && self.matches(last))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many bytes the character takes that begins with this one.
fn char_len(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// `key=value` of a label, each a pattern; the key alone asks that the label is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelGlob {
    pub key: Glob,
    pub value: Option<Glob>,
}

impl LabelGlob {
    /// # Errors
    /// A sentence that says what is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<LabelGlob, &'static str> {
        match pattern.split_once('=') {
            None => Ok(LabelGlob { key: Glob::new(pattern)?, value: None }),
            Some(("", _)) => Err("the label's name is missing before the `=`"),
            Some((_, "")) => Err("the label's value is missing after the `=`"),
            Some((key, value)) => {
                Ok(LabelGlob { key: Glob::new(key)?, value: Some(Glob::new(value)?) })
            }
        }
    }

    pub fn matches(&self, key: &str, value: &str) -> bool {
        self.key.matches(key) && self.value.as_ref().is_none_or(|glob| glob.matches(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).unwrap().matches(text)
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("hub", "hub", true),
            ("hub", "hub2", false),
            ("hub*", "hub", true),
            ("jupyter-*", "jupyter-alice", true),
            ("jupyter-*", "my-jupyter-alice", false),
            ("*-lab-*", "x-lab-lab-y", true),
            ("*/scipy:?", "quay.io/jupyter/scipy:3", true),
            ("?", "ü", true),
            ("?", "", false),
            ("??", "ü", false),
            ("*ü?", "aüüb", true),
            ("*", "", true),
            ("**", "anything", true),
            ("a*b*c", "a-b-b-c-c", true),
            ("a*b*c", "a-b-b-c-d", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(100_000)));
    }

    #[test]
    fn a_bare_name_matches_the_last_part_of_a_path() {
        let glob = Glob::new("thesis.ipynb").unwrap();
        assert!(glob.matches_path("/home/jovyan/thesis.ipynb"));
        assert!(!glob.matches_path("/home/jovyan/thesis.ipynb/x"));
        assert!(!Glob::new("a/thesis.ipynb").unwrap().matches_path("/b/a/thesis.ipynb"));
    }

    #[test]
    fn labels() {
        for (pattern, key, value, expected) in [
            ("tier=prod*", "tier", "production", true),
            ("tier=prod*", "tier", "dev", false),
            ("tier", "tier", "", true),
            ("com.docker.*=hub", "com.docker.compose.project", "hub", true),
            ("a=b=c", "a", "b=c", true),
        ] {
            let glob = LabelGlob::new(pattern).unwrap();
            assert_eq!(glob.matches(key, value), expected, "{pattern} on {key}={value}");
        }
        assert!(LabelGlob::new("=x").is_err());
        assert!(LabelGlob::new("x=").is_err());
        assert!(LabelGlob::new("").is_err());
    }

    /// The textbook table: `table[i][j]` = the first i of the pattern match the first j of the text.
    fn by_table(pattern: &str, text: &str) -> bool {
        let (pattern, text): (Vec<char>, Vec<char>) =
            (pattern.chars().collect(), text.chars().collect());
        let mut row: Vec<bool> = (0..=text.len()).map(|j| j == 0).collect();
        for p in pattern {
            let mut next = vec![p == '*' && row[0]];
            for (j, c) in text.iter().enumerate() {
                next.push(match p {
                    '*' => row[j + 1] || next[j],
                    '?' => row[j],
                    _ => row[j] && p == *c,
                });
            }
            row = next;
        }
        row[text.len()]
    }

    proptest! {
        #[test]
        fn agrees_with_the_table(pattern in "[ab*?ü€]{1,12}", text in "[abü€]{0,12}") {
            prop_assert_eq!(matches(&pattern, &text), by_table(&pattern, &text));
        }

        #[test]
        fn takes_any_text(pattern in ".{1,40}", text in ".{0,40}") {
            let _ = matches(&pattern, &text);
        }
    }
}
