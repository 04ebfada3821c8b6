//! What must never be ended in one container, and who said so: the configuration, a label or an
//! environment variable of the container. Pure.

use serde::Serialize;
use std::fmt;

use super::Config;
use super::glob::Glob;
use super::rules::ContainerFacts;

/// Who protects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    Config,
    Label,
    Environment,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Config => "the configuration",
            By::Label => "a label",
            By::Environment => "the environment",
        })
    }
}

/// The value of a protecting label or variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Everything in the container.
    Whole,
    /// Only these notebooks, by path or kernel id. None of them: nothing is protected.
    Notebooks(Vec<Glob>),
}

impl Mark {
    /// More patterns than a person writes into one label. What comes after is dropped.
    pub const MAX_PATTERNS: usize = 64;

    /// `true` and `1` (also `yes`, `on`) protect everything, `false` and `0` (also `no`, `off`,
    /// nothing) nothing; all else is a list of patterns with commas between them.
    pub fn parse(value: &str) -> Mark {
        let is = |words: &[&str]| words.iter().any(|word| value.trim().eq_ignore_ascii_case(word));
        if is(&["true", "1", "yes", "on"]) {
            return Mark::Whole;
        }
        if is(&["", "false", "0", "no", "off"]) {
            return Mark::Notebooks(Vec::new());
        }
        let patterns = value.split(',').take(Self::MAX_PATTERNS);
        Mark::Notebooks(patterns.filter_map(|pattern| Glob::new(pattern.trim()).ok()).collect())
    }
}

/// All that is protected in one container.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Protection {
    /// Nothing in the container is ever ended.
    pub whole: Option<By>,
    /// By path or kernel id.
    pub notebooks: Vec<(Glob, By)>,
    /// As the host sees them.
    pub users: Vec<u32>,
}

impl Protection {
    /// Who protects this workload, if anybody does.
    pub fn of(&self, notebook: Option<&str>, kernel_id: Option<&str>, uid: u32) -> Option<By> {
        let named = |glob: &Glob| {
            notebook.is_some_and(|path| glob.matches_path(path))
                || kernel_id.is_some_and(|id| glob.matches(id))
        };
        let by_name = || self.notebooks.iter().find(|(glob, _)| named(glob)).map(|(_, by)| *by);
        let by_user = || self.users.contains(&uid).then_some(By::Config);
        self.whole.or_else(by_user).or_else(by_name)
    }
}

impl Config {
    /// What is protected in this container. Marks of the container add to the configuration and
    /// take nothing from it.
    pub fn protection_for(&self, facts: &ContainerFacts) -> Protection {
        let by_rule = self.with_rules(facts).protect.then_some(By::Config);
        let mut notebooks: Vec<(Glob, By)> =
            self.protect.notebooks.iter().map(|glob| (glob.clone(), By::Config)).collect();
        for (mark, by) in self.marks(facts) {
            if let Mark::Notebooks(globs) = mark {
                notebooks.extend(globs.into_iter().map(|glob| (glob, by)));
            }
        }
        Protection {
            whole: by_rule.or_else(|| self.marked_whole(facts)),
            notebooks,
            users: self.protect.users.clone(),
        }
    }

    /// Who protects the whole container, the rules left aside.
    pub(super) fn marked_whole(&self, facts: &ContainerFacts) -> Option<By> {
        let listed = |glob: &Glob| facts.is_named(glob) || glob.matches(facts.id);
        if self.protect.containers.iter().any(listed) {
            return Some(By::Config);
        }
        self.marks(facts).find(|(mark, _)| *mark == Mark::Whole).map(|(_, by)| by)
    }

    pub(super) fn is_ignored_by_label(&self, facts: &ContainerFacts) -> bool {
        let value = self.guard.ignore_label.as_ref().and_then(|label| facts.label(label));
        value.is_some_and(|value| Mark::parse(value) == Mark::Whole)
    }

    fn marks(&self, facts: &ContainerFacts) -> impl Iterator<Item = (Mark, By)> {
        let label = self.protect.label.as_ref().and_then(|key| facts.label(key));
        let variable = self.protect.env.as_ref().and_then(|key| facts.variable(key));
        let label = label.map(|value| (Mark::parse(value), By::Label));
        label.into_iter().chain(variable.map(|value| (Mark::parse(value), By::Environment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Changes, Matches, Protect, Rule};

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn marks() {
        for value in ["true", "1", "TRUE", " yes ", "on"] {
            assert_eq!(Mark::parse(value), Mark::Whole, "{value:?}");
        }
        for value in ["", "false", "0", "No", "off", ",, ,"] {
            assert_eq!(Mark::parse(value), Mark::Notebooks(Vec::new()), "{value:?}");
        }
        assert_eq!(Mark::parse("a.ipynb, b*"), Mark::Notebooks(globs(&["a.ipynb", "b*"])));
        let Mark::Notebooks(many) = Mark::parse(&"x,".repeat(10_000)) else { panic!() };
        assert_eq!(many.len(), Mark::MAX_PATTERNS);
    }

    #[test]
    fn a_container_is_protected_by_config_rule_label_or_environment() {
        let config = Config {
            protect: Protect { containers: globs(&["db*", "0123*"]), ..Protect::default() },
            rules: vec![Rule {
                matches: Matches { image: globs(&["precious"]), ..Matches::default() },
                changes: Changes { protect: Some(true), ..Changes::default() },
            }],
            ..Config::default()
        };
        let yes = pairs(&[("nbguard.protect", "true")]);
        let env = pairs(&[("NBGUARD_PROTECT", "1")]);
        let none = ContainerFacts { id: "9999", name: "lab", image: "x", ..Default::default() };
        for (facts, expected) in [
            (none, None),
            (ContainerFacts { name: "db1", ..none }, Some(By::Config)),
            (ContainerFacts { id: "01234567", ..none }, Some(By::Config)),
            (ContainerFacts { image: "precious", ..none }, Some(By::Config)),
            (ContainerFacts { labels: &yes, ..none }, Some(By::Label)),
            (ContainerFacts { env: &env, ..none }, Some(By::Environment)),
        ] {
            assert_eq!(config.protection_for(&facts).whole, expected, "{facts:?}");
            assert_eq!(config.settings_for(&facts).protect, expected.is_some(), "{facts:?}");
        }
    }

    #[test]
    fn a_notebook_is_protected_by_path_name_kernel_or_user() {
        let config = Config {
            protect: Protect {
                notebooks: globs(&["thesis.ipynb", "9f3c*"]),
                users: vec![1000],
                ..Protect::default()
            },
            ..Config::default()
        };
        let labels = pairs(&[("nbguard.protect", "demo/*")]);
        let facts = ContainerFacts { labels: &labels, ..Default::default() };
        let protection = config.protection_for(&facts);
        for (notebook, kernel, uid, expected) in [
            (Some("/home/j/thesis.ipynb"), None, 7, Some(By::Config)),
            (None, Some("9f3c-1"), 7, Some(By::Config)),
            (Some("/x.ipynb"), None, 1000, Some(By::Config)),
            (Some("demo/x.ipynb"), None, 7, Some(By::Label)),
            (Some("/x.ipynb"), Some("1"), 7, None),
            (None, None, 7, None),
        ] {
            assert_eq!(protection.of(notebook, kernel, uid), expected, "{notebook:?} {kernel:?}");
        }
    }

    #[test]
    fn marks_are_not_looked_at_when_turned_off() {
        let protect = Protect { label: None, env: None, ..Protect::default() };
        let config = Config { protect, ..Config::default() };
        let pairs = pairs(&[("nbguard.protect", "1"), ("NBGUARD_PROTECT", "1")]);
        let facts = ContainerFacts { labels: &pairs, env: &pairs, ..Default::default() };
        assert_eq!(config.protection_for(&facts), Protection::default());
    }

    #[test]
    fn the_ignore_label() {
        let facts = |pairs| ContainerFacts { labels: pairs, ..Default::default() };
        let (yes, no) = (pairs(&[("nbguard.ignore", "1")]), pairs(&[("nbguard.ignore", "0")]));
        assert!(Config::default().settings_for(&facts(&yes)).ignore);
        assert!(!Config::default().settings_for(&facts(&no)).ignore);
    }
}
