//! Which incidents are meant: by time, container, notebook and kind. Pure: records in, yes or no
//! out. What cannot be told (a time that is none) is shown rather than hidden.

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use crate::config::glob::Glob;
use crate::config::quantity::parse_duration;
use crate::policy::orders::{names_container, names_notebook};
use crate::report::{Incident, Kind};

#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Not older than this: `2h`, `3 days`, `2026-11-22`, `2026-11-22 10:00`, in UTC
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub since: Option<SystemTime>,
    /// Only in this container: its name (`*` and `?` as in the configuration), or the first
    /// characters of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Only of this notebook: its path or the end of it, its kernel id, or a pattern. Of a hold:
    /// the one that would have been first
    #[arg(long, value_name = "NOTEBOOK")]
    pub notebook: Option<String>,
    /// Only of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub kind: Vec<KindName>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum KindName {
    Kill,
    Hold,
    KernelOom,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Kind {
        match name {
            KindName::Kill => Kind::Kill,
            KindName::Hold => Kind::Hold,
            KindName::KernelOom => Kind::KernelOom,
        }
    }
}

fn since(text: &str) -> Result<SystemTime, String> {
    let text = text.trim();
    if let Some(time) = date(text) {
        return Ok(time);
    }
    let Ok(ago) = parse_duration(text) else {
        return Err("neither a duration such as 2h nor a date such as 2026-11-22".to_owned());
    };
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// RFC 3339 in UTC, of which the end may be left away.
fn date(text: &str) -> Option<SystemTime> {
    let text = text.trim_end_matches('Z');
    let whole = match text.len() {
        10 => format!("{text}T00:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    humantime::parse_rfc3339_weak(&whole).ok()
}

impl Filter {
    pub fn takes(&self, incident: &Incident) -> bool {
        let kind =
            self.kind.is_empty() || self.kind.iter().any(|k| Kind::from(*k) == incident.kind);
        kind && self.is_in_time(incident) && self.is_in(incident) && self.is_of(incident)
    }

    fn is_in_time(&self, incident: &Incident) -> bool {
        let (Some(since), Some(time)) = (self.since, date(&incident.time)) else { return true };
        // Records have milliseconds, people do not type them.
        time + Duration::from_millis(999) >= since
    }

    fn is_in(&self, incident: &Incident) -> bool {
        let Some(asked) = &self.container else { return true };
        incident.container.as_ref().is_some_and(|container| {
            names_container(asked, &container.id, &container.name)
                || Glob::new(asked).is_ok_and(|glob| glob.matches(&container.name))
        })
    }

    fn is_of(&self, incident: &Incident) -> bool {
        let Some(asked) = &self.notebook else { return true };
        let (notebook, kernel) = match (&incident.victim, incident.rows.first()) {
            (Some(victim), _) => (&victim.notebook, &victim.kernel_id),
            (None, Some(row)) => (&row.notebook, &row.kernel_id),
            (None, None) => return false,
        };
        let pattern = |path: &str| Glob::new(asked).is_ok_and(|glob| glob.matches_path(path));
        names_notebook(asked, notebook.as_deref(), kernel.as_deref()).is_some()
            || notebook.as_deref().is_some_and(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::incident;
    use super::*;

    #[test]
    fn dates_and_durations_are_understood() {
        let at = |text| date(text).unwrap();
        assert_eq!(at("2026-11-22"), at("2026-11-22T00:00:00Z"));
        assert_eq!(at("2026-11-22 10:30"), at("2026-11-22T10:30:00.000Z"));
        let then = since("2h").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!((7200..7300).contains(&ago.as_secs()));
        assert!(since("900000 years").is_ok_and(|time| time < SystemTime::UNIX_EPOCH));
        for bad in ["", "yesterday", "2026-13-01", "2026", "2"] {
            assert!(since(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_filter_takes_what_it_names_and_nothing_else() {
        let told = incident("1", "/home/j/a.ipynb");
        let hold = Incident { kind: Kind::Hold, victim: None, ..incident("2", "/home/j/a.ipynb") };
        let none = Filter::default();
        let text = |text: &str| Some(text.to_owned());
        for (filter, kill, held) in [
            (none.clone(), true, true),
            (Filter { kind: vec![KindName::Kill], ..none.clone() }, true, false),
            (Filter { kind: vec![KindName::Hold, KindName::Kill], ..none.clone() }, true, true),
            (Filter { kind: vec![KindName::KernelOom], ..none.clone() }, false, false),
            (Filter { container: text("lab"), ..none.clone() }, true, true),
            (Filter { container: text("l*"), ..none.clone() }, true, true),
            (Filter { container: text("la"), ..none.clone() }, false, false),
            (Filter { notebook: text("a.ipynb"), ..none.clone() }, true, true),
            (Filter { notebook: text("/home/j/*"), ..none.clone() }, true, true),
            (Filter { notebook: text("b.ipynb"), ..none.clone() }, false, false),
            (Filter { since: date("2026-11-22 10:00"), ..none.clone() }, true, true),
            (Filter { since: date("2026-11-22 10:00:01"), ..none.clone() }, false, false),
        ] {
            assert_eq!((filter.takes(&told), filter.takes(&hold)), (kill, held), "{filter:?}");
        }
        let timeless = Incident { time: "soon".into(), ..told };
        let later = Filter { since: date("2099-01-01"), ..none };
        assert!(later.takes(&timeless), "what cannot be told is not hidden");
    }
}
