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

/// The name of a process, or of an application behind `app:`, each as a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameGlob {
    Process(Glob),
    Application(Glob),
}

impl NameGlob {
    /// What stands before the name of an application.
    pub const APPLICATION: &str = "app:";
    /// The kernel keeps so many bytes of a process's name (proc_pid_comm(5)).
    const COMM_LEN: usize = 15;

    /// # Errors
    /// A sentence that says what is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<NameGlob, &'static str> {
        match pattern.strip_prefix(Self::APPLICATION) {
            Some("") => Err("the application's name is missing after `app:`"),
            Some(name) => Ok(NameGlob::Application(Glob::new(name)?)),
            None if pattern.contains('/') => Err("a process is named without its folder"),
            None => Ok(NameGlob::Process(Glob::new(pattern)?)),
        }
    }

    /// Whether this is the name of a process, as far as the kernel has kept it: one that is written
    /// out in full matches its own beginning.
    pub fn is_process(&self, comm: &[u8]) -> bool {
        let NameGlob::Process(glob) = self else { return false };
        let written = glob.0.as_bytes();
        let is_exact = !written.iter().any(|byte| matches!(byte, b'*' | b'?'));
        if is_exact && written.len() > Self::COMM_LEN {
            return written[..Self::COMM_LEN] == *comm;
        }
        // A name that is no text matches no pattern of letters; what it is made of is not guessed.
        std::str::from_utf8(comm).is_ok_and(|comm| glob.matches(comm))
    }

    pub fn is_application(&self, name: &str) -> bool {
        matches!(self, NameGlob::Application(glob) if glob.matches_path(name))
    }

    /// Whether this matches every process, or every application.
    pub fn is_everything(&self) -> bool {
        let (NameGlob::Process(glob) | NameGlob::Application(glob)) = self;
        glob.is_everything()
    }
}

impl fmt::Display for NameGlob {
    /// As it stands in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameGlob::Process(glob) => glob.fmt(f),
            NameGlob::Application(glob) => write!(f, "{}{glob}", Self::APPLICATION),
        }
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

    #[test]
    fn names_of_processes_and_of_applications() {
        for (pattern, comm, application, expected) in [
            ("sleep", "sleep", "", (true, false)),
            ("sleep", "sleeper", "sleep", (false, false)),
            ("back*", "backup", "backup", (true, false)),
            // The kernel has cut it.
            ("a-very-long-daemon-name", "a-very-long-dae", "", (true, false)),
            ("a-very-long-daemon-name", "a-very-long-da", "", (false, false)),
            ("a-very-long-d", "a-very-long-dae", "", (false, false)),
            ("app:pool:www", "pool:www", "pool:www", (false, true)),
            ("app:pool:*", "", "pool:www", (false, true)),
            ("app:a.ipynb", "", "/home/j/a.ipynb", (false, true)),
            ("app:script:/srv/*", "", "script:/srv/cron.php", (false, true)),
            ("app:pool:www", "", "pool:www2", (false, false)),
        ] {
            let glob = NameGlob::new(pattern).unwrap();
            let found = (glob.is_process(comm.as_bytes()), glob.is_application(application));
            assert_eq!(found, expected, "{pattern} on {comm}, {application}");
            assert_eq!(glob.to_string(), pattern);
        }
        assert!(!NameGlob::new("s*").unwrap().is_process(b"s\xff"), "no text");
        for wrong in ["", "app:", "/usr/bin/sleep"] {
            assert!(NameGlob::new(wrong).is_err(), "{wrong}");
        }
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
