//! What is wrong although every value for itself is right: values that contradict each other, and
//! values without effect. Pure.

use std::collections::HashSet;

use super::error::{Fault, Severity};
use super::keys::Section;
use super::quantity::{duration_text, share_text};
use super::read::{Place, Places};
use super::rules::{Overlay, below, between};
use super::{Config, Policy, Settings, Signal};

/// Something wrong, and where.
pub(super) struct Finding {
    pub severity: Severity,
    pub place: Place,
    pub path: String,
    pub fault: Fault,
}

/// Everything. `failed` names the keys whose value could not be read somewhere: nothing is said
/// about those.
pub(super) fn all(
    config: &Config,
    places: &Places,
    rule_places: &[(String, Places)],
    failed: &HashSet<&'static str>,
) -> Vec<Finding> {
    let only_kill = |signals: &[Signal]| signals == [Signal::Kill];
    let grace_matters = failed.contains("signals")
        || !only_kill(&config.defaults.signals)
        || config.rules.iter().any(|rule| rule.changes.signals.is_some());
    let cleans = failed.contains("policy")
        || config.defaults.policy == Policy::IdleFirst
        || config.rules.iter().any(|rule| rule.changes.policy == Some(Policy::IdleFirst));
    let default = Table {
        section: Section::Default,
        path: "default",
        settings: config.defaults.clone(),
        places,
        failed,
        grace_matters: grace_matters || cleans,
        cleans,
    };
    let mut findings = default.findings();
    for (rule, (path, places)) in config.rules.iter().zip(rule_places) {
        let mut overlay = Overlay::on(config.defaults.clone());
        overlay.lay(&rule.changes);
        let settings = overlay.finish();
        let table = Table { section: Section::Rule, path, settings, places, ..default };
        findings.extend(table.findings());
    }
    findings.extend(protects_everything(config, places));
    findings.extend(listens_without_a_token(config, places, failed));
    findings
}

/// One place that sets keys, and what holds then.
struct Table<'a> {
    section: Section,
    path: &'a str,
    settings: Settings,
    places: &'a Places,
    failed: &'a HashSet<&'static str>,
    grace_matters: bool,
    /// Some container is guarded by `idle-first`.
    cleans: bool,
}

/// Keys that count under `idle-first` alone.
const CLEANS: [&str; 7] = ["resource", "ratio", "idle_for", "clear", "important", "deny", "allow"];

impl Table<'_> {
    fn findings(&self) -> Vec<Finding> {
        [
            self.warning_below_threshold(),
            self.last_call_between(),
            self.backoff_below_its_end(),
            self.grace_without_effect(),
        ]
        .into_iter()
        .flatten()
        .chain(CLEANS.iter().filter_map(|key| self.cleans_without_effect(key)))
        .chain(self.denies_everything())
        .collect()
    }

    fn cleans_without_effect(&self, key: &'static str) -> Option<Finding> {
        let default = Settings::default();
        let settings = &self.settings;
        let is_default = match key {
            "resource" => settings.resource == default.resource,
            "ratio" => settings.ratio == default.ratio,
            "idle_for" => settings.idle_for == default.idle_for,
            "clear" => settings.clear == default.clear,
            "important" => settings.important == default.important,
            "deny" => settings.deny == default.deny,
            _ => settings.allow == default.allow,
        };
        let place = self.place(key).filter(|_| !self.cleans && !is_default)?;
        let message = format!("`{key}` has no effect: no container's policy is \"idle-first\"");
        let fault =
            Fault::new(place.span.clone(), message).hint("policy = \"idle-first\" would use it");
        let path = format!("{}.{key}", self.path);
        Some(Finding { severity: Severity::Warning, place: place.clone(), path, fault })
    }

    fn denies_everything(&self) -> Option<Finding> {
        let place = self.place("deny").filter(|_| self.cleans)?;
        self.settings.deny.iter().find(|glob| glob.is_everything())?;
        let fault = Fault::new(place.span.clone(), "this denies everything that is not protected")
            .hint("terminals, cron jobs and the like end as well; name what may go");
        let path = format!("{}.deny", self.path);
        Some(Finding { severity: Severity::Warning, place: place.clone(), path, fault })
    }

    fn warning_below_threshold(&self) -> Option<Finding> {
        let Settings { warning, threshold, .. } = self.settings;
        if warning < threshold {
            return None;
        }
        let message = format!(
            "`warning` ({}) must be below `threshold` ({})",
            share_text(warning),
            share_text(threshold)
        );
        let hint = match self.place("warning") {
            Some(_) => "the guard has to look before the threshold is reached".to_owned(),
            None => format!("set `warning` too, for example to {:?}", share_text(below(threshold))),
        };
        self.contradiction(["warning", "threshold"], message, hint)
    }

    /// Only where it is set: the default moves to where there is room.
    fn last_call_between(&self) -> Option<Finding> {
        let Settings { warning, threshold, .. } = self.settings;
        let last_call = self.settings.last_call?;
        self.place("last_call")?;
        let (other, word, end) = if last_call <= warning {
            ("warning", "above", warning)
        } else if last_call >= threshold {
            ("threshold", "below", threshold)
        } else {
            return None;
        };
        if warning >= threshold {
            return None;
        }
        let message = format!(
            "`last_call` ({}) must be {word} `{other}` ({})",
            share_text(last_call),
            share_text(end)
        );
        let fits = share_text(between(warning, threshold));
        let hint = format!("for example {fits:?}, or \"off\"");
        self.contradiction(["last_call", other], message, hint)
    }

    fn backoff_below_its_end(&self) -> Option<Finding> {
        let Settings { backoff, backoff_max, .. } = self.settings;
        if backoff <= backoff_max {
            return None;
        }
        let (backoff, end) = (duration_text(backoff), duration_text(backoff_max));
        let message = format!("`backoff` ({backoff}) must not be above `backoff_max` ({end})");
        let hint = format!("the same value, {backoff:?} for both, turns the doubling off");
        self.contradiction(["backoff", "backoff_max"], message, hint)
    }

    fn grace_without_effect(&self) -> Option<Finding> {
        let is_default = self.settings.grace == Settings::default().grace;
        let place = self.place("grace").filter(|_| !self.grace_matters && !is_default)?;
        let fault =
            Fault::new(place.span.clone(), "`grace` has no effect: KILL is the only signal")
                .hint("signals = [\"TERM\", \"KILL\"] would use it");
        let path = format!("{}.grace", self.path);
        Some(Finding { severity: Severity::Warning, place: place.clone(), path, fault })
    }

    /// An error where the later of the two is set; none if neither is set here.
    fn contradiction(
        &self,
        keys: [&'static str; 2],
        message: String,
        hint: String,
    ) -> Option<Finding> {
        if keys.iter().any(|key| self.failed.contains(key)) {
            return None;
        }
        let set = keys.iter().filter_map(|key| Some((self.place(key)?, key)));
        let (place, key) = set.max_by_key(|(place, _)| (place.file, place.span.start))?;
        let fault = Fault::new(place.span.clone(), message).hint(hint);
        let path = format!("{}.{key}", self.path);
        Some(Finding { severity: Severity::Error, place: place.clone(), path, fault })
    }

    fn place(&self, key: &'static str) -> Option<&Place> {
        self.places.get(&(self.section, key))
    }
}

/// Everybody who reaches the address could read whose notebooks are called what.
fn listens_without_a_token(
    config: &Config,
    places: &Places,
    failed: &HashSet<&'static str>,
) -> Option<Finding> {
    let listen = config.http.listen.filter(|address| !address.ip().is_loopback())?;
    if config.http.token_file.is_some() || failed.contains("token_file") {
        return None;
    }
    let place = places.get(&(Section::Http, "listen"))?.clone();
    let message = format!("`listen` ({listen}) is beyond loopback and there is no `token_file`");
    let fault = Fault::new(place.span.clone(), message)
        .hint("set `token_file` to a file with a token that only root and a group may read");
    let path = "http.listen".to_owned();
    Some(Finding { severity: Severity::Error, place, path, fault })
}

fn protects_everything(config: &Config, places: &Places) -> Vec<Finding> {
    let lists =
        [("containers", &config.protect.containers), ("notebooks", &config.protect.notebooks)];
    let everything = lists.into_iter().filter(|(_, globs)| globs.iter().any(|g| g.is_everything()));
    everything
        .filter_map(|(key, _)| {
            let place = places.get(&(Section::Protect, key))?.clone();
            let fault =
                Fault::new(place.span.clone(), "this protects everything: nothing will end")
                    .hint("to only watch, set dry_run = true in [default]");
            let path = format!("protect.{key}");
            Some(Finding { severity: Severity::Warning, place, path, fault })
        })
        .collect()
}
