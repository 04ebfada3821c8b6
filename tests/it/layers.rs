//! The source tree against its ranks: what may know whom (src/lib.rs), who may be unsafe, and
//! that every file says what it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::root;

/// Every module at the top, and its rank. A module knows those below it and, except in rank 3,
/// those beside it.
const RANKS: [(&str, u8); 17] = [
    ("units", 0),
    ("ids", 0),
    ("facts", 0),
    ("report", 0),
    ("policy", 1),
    ("parse", 1),
    ("config", 1),
    ("sys", 2),
    ("roots", 2),
    ("host", 3),
    ("runtime", 3),
    ("act", 3),
    ("trace", 3),
    ("observe", 3),
    ("reactor", 4),
    ("cli", 5),
    ("bin", 5),
];

/// Between the modules of this rank there are no edges: each can be read alone.
const APART: u8 = 3;

/// The only module that may be unsafe.
const UNSAFE: &str = "sys";

#[test]
fn no_module_knows_one_above_it() {
    let mut edges = BTreeSet::new();
    for file in sources() {
        let Some(from) = module_of(&file) else { continue };
        for to in known_to(&file) {
            edges.insert((from.clone(), to, shown(&file)));
        }
    }
    let wrong: Vec<String> = edges
        .iter()
        .filter(|(from, to, _)| !allowed(from, to))
        .map(|(from, to, file)| {
            format!("{file}: {from} (rank {}) uses {to} (rank {})", rank(from), rank(to))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges.len() > 50, "the parser of `use` found almost nothing: {}", edges.len());
}

#[test]
fn every_module_has_a_rank_and_every_rank_a_module() {
    let found: BTreeSet<String> = sources().iter().filter_map(|file| module_of(file)).collect();
    let ranked: BTreeSet<String> = RANKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, ranked);
}

/// What reads interpreters from outside is large: the daemon asks `nbguard` for it, as a child.
#[test]
fn the_daemon_reads_no_interpreter_itself() {
    let heavy = ["py_spy", "object::", "trace::php", "trace::cpython"];
    let apart = ["trace", "cli"];
    for file in sources() {
        if module_of(&file).is_some_and(|module| apart.contains(&module.as_str())) {
            continue;
        }
        for word in heavy {
            let uses = code(&file).lines().any(|line| {
                line.contains(word) && (word != "object::" || line.contains("use object::"))
            });
            assert!(!uses, "{}: {word}", shown(&file));
        }
    }
    for file in ["src/cli/daemon.rs", "src/cli/look.rs"] {
        let text = code(&root().join(file));
        assert!(heavy.iter().all(|word| !text.contains(word)), "{file}");
    }
}

#[test]
fn only_sys_is_unsafe() {
    for file in sources() {
        let text = code(&file);
        let inside = module_of(&file).as_deref() == Some(UNSAFE);
        assert!(inside || !has_word(&text, "unsafe"), "{}: unsafe", shown(&file));
        // lib.rs permits it for `sys` alone.
        let permits = text.matches("allow(unsafe_code)").count();
        let may = usize::from(file.ends_with("src/lib.rs"));
        assert_eq!(permits, may, "{}: allow(unsafe_code)", shown(&file));
    }
}

#[test]
fn every_file_says_what_it_is() {
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{}: does not begin with `//!`", shown(&file));
    }
}

/// A rule of the tree is worth nothing if the reader of `use` misses a way to write it.
#[test]
fn every_way_to_name_a_module_is_seen() {
    for (text, names) in [
        ("use crate::sys::psi;", &["sys"][..]),
        ("use crate::{act, host::Group, self};", &["act", "host"]),
        ("let x = nbguard::cli::main();", &["cli"]),
        ("fn f(x: &crate::units::Bytes) {}", &["units"]),
        ("use super::super::reactor::run;", &["reactor"]),
        ("// crate::cli is above", &[]),
        ("let x = other_crate::cli();", &[]),
    ] {
        let found: Vec<String> = names_in(text, 2).into_iter().collect();
        assert_eq!(found, names, "{text}");
    }
}

fn allowed(from: &str, to: &str) -> bool {
    from == to || rank(to) < rank(from) || (rank(to) == rank(from) && rank(to) != APART)
}

fn rank(module: &str) -> u8 {
    let found = RANKS.iter().find(|(name, _)| *name == module);
    found.unwrap_or_else(|| panic!("{module} has no rank")).1
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join("src")];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                // Members of the workspace are crates of their own.
                if path != root().join("src/crates") {
                    left.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn shown(file: &Path) -> String {
    inside(file, "").display().to_string()
}

fn inside<'f>(file: &'f Path, folder: &str) -> &'f Path {
    file.strip_prefix(root().join(folder)).expect("all sources are below src")
}

/// `src/host/mod.rs` and `src/host/group.rs` belong to `host`; `src/lib.rs` to nobody.
fn module_of(file: &Path) -> Option<String> {
    let first = inside(file, "src").iter().next()?.to_str()?;
    (first != "lib.rs").then(|| first.trim_end_matches(".rs").to_owned())
}

/// Without comments: a link in a comment is no edge.
fn code(file: &Path) -> String {
    without_comments(&std::fs::read_to_string(file).expect("sources are text"))
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    )
}

fn known_to(file: &Path) -> BTreeSet<String> {
    let depth = inside(file, "src").components().count() - usize::from(file.ends_with("mod.rs"));
    names_in(&code(file), depth)
}

/// The modules at the top that a text names. `depth` is how many `super` lead to the top.
fn names_in(text: &str, depth: usize) -> BTreeSet<String> {
    let text = without_comments(text);
    let mut found = BTreeSet::new();
    for start in ["crate::", "nbguard::", &"super::".repeat(depth)] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            found.extend(heads(&text[at + start.len()..]));
        }
    }
    found.retain(|name| RANKS.iter().any(|(ranked, _)| ranked == name));
    found
}

/// The first name of a path, or of every path in a list: `{act, host::{Group, id}}`.
fn heads(path: &str) -> Vec<String> {
    let Some(list) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut names = Vec::new();
    let mut open = 1;
    let mut at_start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 1 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(word(&list[at..]));
                at_start = false;
            }
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}
