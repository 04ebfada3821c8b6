//! Which settings hold for one container: the defaults, with the rules that match it laid over
//! them key by key, in order. Pure.

use std::time::Duration;

use super::glob::{Glob, LabelGlob, NameGlob};
use super::{Amount, Clear, Config, Gate, Policy, Resource, Scope, Settings, Signal};
use crate::units::{Share, Trigger};

/// What is known of a container when its settings are looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContainerFacts<'a> {
    pub id: &'a str,
    /// Without Docker's leading slash (one that is there does no harm).
    pub name: &'a str,
    pub image: &'a str,
    pub labels: &'a [(String, String)],
    pub env: &'a [(String, String)],
}

impl<'a> ContainerFacts<'a> {
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        value_of(self.labels, key)
    }

    pub(super) fn variable(&self, key: &str) -> Option<&'a str> {
        value_of(self.env, key)
    }

    pub(super) fn is_named(&self, glob: &Glob) -> bool {
        glob.matches(self.name.trim_start_matches('/'))
    }
}

fn value_of<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// One `[[rule]]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rule {
    pub matches: Matches,
    pub changes: Changes,
}

/// All that are given must match; each matches by any of its patterns.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Matches {
    pub name: Vec<Glob>,
    pub image: Vec<Glob>,
    pub label: Vec<LabelGlob>,
}

impl Matches {
    /// Whether nothing was given; such a rule matches no container.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.image.is_empty() && self.label.is_empty()
    }

    pub fn container(&self, facts: &ContainerFacts) -> bool {
        let label = |glob: &LabelGlob| facts.labels.iter().any(|(k, v)| glob.matches(k, v));
        !self.is_empty()
            && (self.name.is_empty() || self.name.iter().any(|glob| facts.is_named(glob)))
            && (self.image.is_empty() || self.image.iter().any(|glob| glob.matches(facts.image)))
            && (self.label.is_empty() || self.label.iter().any(label))
    }
}

/// Declares [`Changes`] with a field for each of [`Settings`], so that neither lacks one.
macro_rules! changes {
    ($($key:ident: $type:ty,)*) => {
        /// What one place says of [`Settings`].
        #[derive(Clone, PartialEq, Debug, Default)]
        pub struct Changes {
            $(pub $key: Option<$type>,)*
        }

        impl Changes {
            fn lay_over(&self, settings: &mut Settings) {
                $(if let Some(value) = &self.$key {
                    settings.$key = value.clone();
                })*
            }

            pub fn is_empty(&self) -> bool {
                $(self.$key.is_none())&&*
            }
        }

        impl From<Settings> for Changes {
            fn from(settings: Settings) -> Changes {
                let Settings { $($key,)* } = settings;
                Changes { $($key: Some($key),)* }
            }
        }
    };
}

changes! {
    warning: Share,
    last_call: Option<Share>,
    threshold: Share,
    trigger: Trigger,
    policy: Policy,
    gate: Gate,
    min_share: Share,
    notebook_max: Option<Amount>,
    scope: Scope,
    signals: Vec<Signal>,
    grace: Duration,
    tripwire: bool,
    message: bool,
    dry_run: bool,
    ignore: bool,
    protect: bool,
    backoff: Duration,
    backoff_max: Duration,
    resource: Resource,
    ratio: Share,
    idle_for: Duration,
    clear: Clear,
    important: Vec<Glob>,
    deny: Vec<NameGlob>,
    allow: Vec<NameGlob>,
}

/// Settings while places are laid over them.
///
/// `gate = "notebooks"` brings `min_share = 0` with it, unless the same or a later place sets it;
/// `gate = "usage"` takes that back.
#[derive(Clone)]
pub(super) struct Overlay {
    settings: Settings,
    /// What `min_share` would be under `gate = "usage"`.
    min_share: Share,
    implied_zero: bool,
}

impl Overlay {
    pub(super) fn on(settings: Settings) -> Overlay {
        let implied_zero = settings.gate == Gate::Notebooks && settings.min_share == Share::ZERO;
        let min_share =
            if implied_zero { Settings::default().min_share } else { settings.min_share };
        Overlay { settings, min_share, implied_zero }
    }

    pub(super) fn lay(&mut self, changes: &Changes) {
        changes.lay_over(&mut self.settings);
        if let Some(gate) = changes.gate {
            self.implied_zero = gate == Gate::Notebooks;
        }
        if let Some(min_share) = changes.min_share {
            self.min_share = min_share;
            self.implied_zero = false;
        }
    }

    pub(super) fn finish(self) -> Settings {
        let min_share = if self.implied_zero { Share::ZERO } else { self.min_share };
        Settings { min_share, ..self.settings }
    }
}

impl Config {
    /// The settings of one container.
    ///
    /// Each place was checked against the defaults when it was read, but two rules that both
    /// match can still contradict each other. Then the values that end notebooks hold and the
    /// others give way: the warning moves below the threshold, the last call between the two,
    /// `backoff_max` up to `backoff`.
    pub fn settings_for(&self, facts: &ContainerFacts) -> Settings {
        let mut settings = self.with_rules(facts);
        if settings.warning >= settings.threshold {
            settings.warning = below(settings.threshold);
        }
        if let Some(last_call) = &mut settings.last_call
            && !(settings.warning < *last_call && *last_call < settings.threshold)
        {
            *last_call = between(settings.warning, settings.threshold);
        }
        settings.backoff_max = settings.backoff_max.max(settings.backoff);
        settings.protect |= self.marked_whole(facts).is_some();
        settings.ignore |= self.is_ignored_by_label(facts);
        settings
    }

    /// `--dry-run`: nothing in the files may take it back.
    pub fn force_dry_run(&mut self, force: bool) {
        if force {
            self.defaults.dry_run = true;
            self.rules.iter_mut().for_each(|rule| rule.changes.dry_run = None);
        }
    }

    /// What belongs to no container of its own (the host) goes by the defaults.
    pub fn host_is_dry_run(&self) -> bool {
        self.defaults.dry_run
    }

    pub(super) fn with_rules(&self, facts: &ContainerFacts) -> Settings {
        let mut overlay = Overlay::on(self.defaults.clone());
        for rule in self.rules.iter().filter(|rule| rule.matches.container(facts)) {
            overlay.lay(&rule.changes);
        }
        overlay.finish()
    }
}

/// A last call that fits.
pub(super) fn between(warning: Share, threshold: Share) -> Share {
    Share(warning.0.midpoint(threshold.0))
}

/// A warning for this threshold: as far below it as by default (80 % for 90 %), in whole percent.
pub(super) fn below(threshold: Share) -> Share {
    let default = Settings::default();
    Share::percent(threshold.0 * (default.warning.0 / 100) / default.threshold.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::new(pattern).unwrap()).collect()
    }

    fn named(name: &str, changes: Changes) -> Rule {
        Rule { matches: Matches { name: globs(&[name]), ..Matches::default() }, changes }
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_given_matcher_must_match_by_one_of_its_patterns() {
        let matches = Matches {
            name: globs(&["lab-*", "hub"]),
            image: globs(&["*jupyter*"]),
            label: vec![LabelGlob::new("tier=prod").unwrap()],
        };
        let labels = pairs(&[("tier", "prod")]);
        let facts = ContainerFacts {
            name: "/lab-1",
            image: "quay.io/jupyter/base",
            labels: &labels,
            ..ContainerFacts::default()
        };
        assert!(matches.container(&facts));
        assert!(matches.container(&ContainerFacts { name: "hub", ..facts }));
        assert!(!matches.container(&ContainerFacts { name: "db", ..facts }));
        assert!(!matches.container(&ContainerFacts { image: "mysql", ..facts }));
        assert!(!matches.container(&ContainerFacts { labels: &[], ..facts }));
        assert!(!Matches::default().container(&facts));
    }

    #[test]
    fn later_rules_override_earlier_ones_key_by_key() {
        let config = Config {
            rules: vec![
                named(
                    "lab-*",
                    Changes {
                        dry_run: Some(true),
                        threshold: Some(Share::percent(95)),
                        ..Changes::default()
                    },
                ),
                named("lab-1", Changes { dry_run: Some(false), ..Changes::default() }),
            ],
            ..Config::default()
        };
        let of = |name| config.settings_for(&ContainerFacts { name, ..ContainerFacts::default() });
        assert_eq!((of("lab-1").dry_run, of("lab-1").threshold), (false, Share::percent(95)));
        assert!(of("lab-2").dry_run);
        assert_eq!(of("db"), Settings::default());
    }

    #[test]
    fn a_forced_dry_run_holds_against_every_rule() {
        let mut config = Config {
            rules: vec![named("*", Changes { dry_run: Some(false), ..Changes::default() })],
            ..Config::default()
        };
        config.force_dry_run(false);
        assert!(!config.settings_for(&ContainerFacts::default()).dry_run);
        config.force_dry_run(true);
        assert!(config.settings_for(&ContainerFacts::default()).dry_run);
        assert!(config.host_is_dry_run());
    }

    #[test]
    fn the_notebooks_gate_brings_min_share_zero_until_somebody_sets_it() {
        let gate = |gate| Changes { gate: Some(gate), ..Changes::default() };
        let share =
            |percent| Changes { min_share: Some(Share::percent(percent)), ..Changes::default() };
        let both = Changes { min_share: Some(Share::percent(7)), ..gate(Gate::Notebooks) };
        for (places, percent) in [
            (vec![gate(Gate::Notebooks)], 0),
            (vec![both.clone()], 7),
            (vec![gate(Gate::Notebooks), share(3)], 3),
            (vec![share(3), gate(Gate::Notebooks)], 0),
            (vec![share(3), gate(Gate::Notebooks), gate(Gate::Usage)], 3),
            (vec![gate(Gate::Notebooks), gate(Gate::Usage)], 10),
            (vec![gate(Gate::Usage)], 10),
        ] {
            let mut overlay = Overlay::on(Settings::default());
            places.iter().for_each(|changes| overlay.lay(changes));
            assert_eq!(overlay.finish().min_share, Share::percent(percent), "{places:?}");
        }
    }

    #[test]
    fn rules_that_contradict_each_other_leave_the_warning_below_the_threshold() {
        let config = Config {
            rules: vec![
                named(
                    "*",
                    Changes {
                        warning: Some(Share::percent(85)),
                        backoff_max: Some(Duration::from_secs(20)),
                        ..Changes::default()
                    },
                ),
                named(
                    "*",
                    Changes {
                        threshold: Some(Share::percent(81)),
                        backoff: Some(Duration::from_secs(60)),
                        ..Changes::default()
                    },
                ),
            ],
            ..Config::default()
        };
        let settings = config.settings_for(&ContainerFacts::default());
        assert_eq!(
            (settings.warning, settings.threshold),
            (Share::percent(72), Share::percent(81))
        );
        assert_eq!(settings.backoff_max, Duration::from_secs(60));
    }
}
