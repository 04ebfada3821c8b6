//! Puts rows and verdicts into sentences for people: one each, with the numbers that decided.
//! Allocates, so it is called after the signal. Pure: no files, no clock. The names in a
//! [`report::Row`] are escaped already; nothing else here was chosen by a process.

use crate::facts::Activity;
use crate::policy::clean::{Cleaning, ENDS_MAX, Listed, Score};
use crate::policy::decide::{Exclusion, HoldReason, Kill, KillWhy};
use crate::policy::rank::{self, Interval, SettledBy};
use crate::report;
use crate::units::{Bytes, Share};

/// The figures that stand in a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `container`, `slice` or `host`.
    pub domain: &'a str,
    pub container: Option<&'a str>,
    pub total: Bytes,
    pub usage: Bytes,
    pub unreclaimable: Bytes,
    pub threshold: Bytes,
    /// Under `idle-first`.
    pub cleaning: Option<&'a report::Cleaning>,
}

impl Facts<'_> {
    /// `web has 1000.0 MiB, of which 910.0 MiB cannot be reclaimed; the threshold is 900.0 MiB`
    fn shortage(&self) -> String {
        let Facts { total, unreclaimable, threshold, .. } = self;
        format!(
            "{} has {total}, of which {unreclaimable} cannot be reclaimed; the threshold is \
             {threshold}",
            self.who()
        )
    }

    /// `so that pool:www goes on, which has 41 % of the memory (the ratio is 2 %)`
    fn sake(&self) -> Option<String> {
        let cleaning = self.cleaning?;
        let important = cleaning.important.as_ref()?;
        let share = match cleaning.resource.as_str() {
            "cpu" => important.cpu_share,
            _ => important.memory_share,
        };
        Some(format!(
            "so that {} goes on, which has {} of {} (the ratio is {})",
            important.name,
            share.map_or_else(|| "an unknown part".to_owned(), percent),
            what(cleaning),
            percent(cleaning.ratio)
        ))
    }

    fn who(&self) -> &str {
        match self.container {
            Some(name) if !name.is_empty() => name,
            _ if self.domain == "host" => "the host",
            _ => "the container",
        }
    }
}

/// Why a row stands where it stands. `first` is the workload that was chosen, or would have been.
pub fn row(
    row: &rank::Row,
    exclusion: Option<Exclusion>,
    first: Option<u32>,
    cleaning: &Cleaning,
) -> String {
    let held = amount(row.held, row.rss);
    if let Some(score) = cleaning.score(row.workload) {
        let place = cleaning.order().iter().position(|number| *number == row.workload);
        let why = match (exclusion, place) {
            (Some(exclusion), _) => excluded(exclusion).to_owned(),
            (None, Some(place)) => goes(place, first == Some(row.workload), cleaning),
            (None, None) => "stays".to_owned(),
        };
        return format!("holds {held}; {}{why}", scored(score));
    }
    match exclusion {
        Some(exclusion) => format!("holds {held}; {}", excluded(exclusion)),
        None if first == Some(row.workload) => format!("holds {held}; goes first"),
        None if row.competes => format!("holds {held}; was not the first to go"),
        None => format!("holds {held}"),
    }
}

/// `is on the deny list, idle for 72 s; `: what a row was scored by.
fn scored(score: &Score) -> String {
    let mut parts = Vec::new();
    match score.listed {
        Some(Listed::Deny(_)) => parts.push("is on the deny list".to_owned()),
        Some(Listed::Allow(_)) => parts.push("is on the allow list".to_owned()),
        None => {}
    }
    if score.important {
        parts.push("works for the important application".to_owned());
    }
    parts.push(match (score.activity, score.idle) {
        (Activity::Idle { by, .. }, Some(idle)) => {
            format!("idle for {idle} s (by {})", by.as_str())
        }
        (activity, _) => format!("activity {}", activity.as_str()),
    });
    format!("{}; ", parts.join(", "))
}

fn goes(place: usize, first: bool, cleaning: &Cleaning) -> String {
    match place {
        _ if first => "goes first".to_owned(),
        place if place < cleaning.needed() as usize => format!("goes as number {}", place + 1),
        place => format!("goes as number {}, should the others not be enough", place + 1),
    }
}

/// Why this one ends. `first` is its row, `second` the next; in a dry run the same sentence says
/// what would have been done.
pub fn kill(
    kill: &Kill,
    first: Option<&report::Row>,
    second: Option<&report::Row>,
    facts: &Facts<'_>,
) -> String {
    let name = first.map_or_else(|| format!("pid {}", kill.root.pid), name);
    let held = first.map_or(kill.held.least, |row| row.memory);
    let why = match kill.why {
        KillWhy::Largest => match second {
            None => format!("it holds {held} and is the only notebook"),
            Some(next) => format!(
                "it holds {held}, the most (next is {} with {}{})",
                self::name(next),
                next.memory,
                settled(kill.settled_by)
            ),
        },
        KillWhy::DenyList | KillWhy::Idle => {
            let because = match (kill.why, first.and_then(|row| row.idle_s)) {
                (KillWhy::Idle, Some(idle)) => format!("it is idle for {idle} s"),
                (KillWhy::Idle, None) => "it is idle".to_owned(),
                _ => "it is on the deny list".to_owned(),
            };
            let sake = facts.sake().map_or_else(String::new, |sake| format!(", {sake}"));
            format!("{because} and holds {held}{sake}")
        }
        KillWhy::Growing => {
            format!("it grew the most since the warning and holds {held}")
        }
        KillWhy::NotebookMax => {
            return format!("Ends {name}: it holds {held}, more than one notebook may hold here.");
        }
    };
    format!("Ends {name}: {why}; {}.", facts.shortage())
}

/// Why nobody ends. `first` is the row at the top.
pub fn hold(reason: HoldReason, first: Option<&report::Row>, facts: &Facts<'_>) -> String {
    let top = first.map_or_else(
        || "there is no notebook".to_owned(),
        |row| format!("the first notebook is {} with {}", name(row), row.memory),
    );
    let why = match reason {
        HoldReason::Relieved => "memory is not short".to_owned(),
        HoldReason::BenignCache => {
            format!("of the {} in use enough is page cache, which reclaim gives back", facts.usage)
        }
        HoldReason::NoWorkloads => "there is no notebook to end".to_owned(),
        HoldReason::AllProtected => "none of the notebooks may be ended".to_owned(),
        HoldReason::MemoryIsProtected => {
            "the memory is in notebooks that may not be ended, and ending another would not help \
             for long"
                .to_owned()
        }
        HoldReason::BelowMinShare => {
            format!("no notebook holds enough to matter, and none would suffice ({top})")
        }
        HoldReason::MemoryInNoWorkload => format!("the memory is in no notebook ({top})"),
        HoldReason::IdentityUnknown => {
            format!("the memory is in processes that could not be told apart in time ({top})")
        }
        HoldReason::Backoff => {
            "the memory is in a notebook that was ended a moment ago and came back".to_owned()
        }
        HoldReason::ContainerProtected => format!("the container is protected ({top})"),
        HoldReason::DryRun => format!("dry run ({top})"),
        HoldReason::Paused => format!("the guard is paused ({top})"),
        HoldReason::NoApplicationOverRatio => match facts.cleaning {
            Some(cleaning) => format!(
                "no application has more than {} of {}",
                percent(cleaning.ratio),
                what(cleaning)
            ),
            None => "no application has more than the ratio".to_owned(),
        },
        HoldReason::ShareUnknown => {
            "how much the applications use is not known yet: there was one look only".to_owned()
        }
        HoldReason::NobodyNonEssential => {
            format!("nobody is on the deny list or idle for long enough ({top})")
        }
        HoldReason::ActivityUnknown => {
            format!("of nobody is it known that it is idle ({top})")
        }
        HoldReason::TooManyEnds => {
            format!("{ENDS_MAX} have ended within a minute, and it was not enough")
        }
    };
    format!("Ends nobody: {why}; {}.", facts.shortage())
}

/// What people call a workload: the notebook's path, else the kernel's id, else its process.
pub fn name(row: &report::Row) -> String {
    match (&row.notebook, &row.kernel_id, &row.application) {
        (Some(path), ..) => path.clone(),
        (None, Some(id), _) => format!("kernel {id}"),
        (None, None, Some(name)) => format!("{name} (pid {})", row.pid),
        (None, None, None) => format!("{} (pid {})", row.name, row.pid),
    }
}

/// `700.0 MiB`, `600.0 MiB to 700.0 MiB`, `at most 60.0 MiB`. An upper bound that nobody could
/// read is no figure: the resident sets stand for it.
pub fn amount(held: Interval, rss: Bytes) -> String {
    let most = if held.most == Bytes(u64::MAX) { rss.max(held.least) } else { held.most };
    let (least, most) = (held.least.to_string(), most.to_string());
    match held.least {
        _ if least == most => least,
        Bytes::ZERO => format!("at most {most}"),
        _ => format!("{least} to {most}"),
    }
}

fn percent(share: f64) -> String {
    Share((share * f64::from(Share::ONE.0)).round() as u32).to_string()
}

fn what(cleaning: &report::Cleaning) -> &'static str {
    match cleaning.resource.as_str() {
        "cpu" => "the CPU time of all processes",
        _ => "the memory",
    }
}

fn settled(by: SettledBy) -> &'static str {
    match by {
        SettledBy::Single | SettledBy::Intervals | SettledBy::Growth | SettledBy::Policy => "",
        SettledBy::CgroupFigures => ", told apart by the container's own figures",
        SettledBy::Pss => ", told apart by proportional set sizes",
        SettledBy::LowerBound => ", as far as could be told in time",
    }
}

fn excluded(exclusion: Exclusion) -> &'static str {
    match exclusion {
        Exclusion::ProtectedContainer => "its container is protected",
        Exclusion::ProtectedNotebook => "it is on the list of protected notebooks",
        Exclusion::ProtectedUser => "its user is protected",
        Exclusion::ProtectedByCommand => "it is protected by `nbguard protect`",
        Exclusion::Backoff => "it was ended a moment ago and is left alone for now",
        Exclusion::DryRun => "its container is guarded in dry run",
        Exclusion::Paused => "the guard is paused for its container",
        Exclusion::Init => "it is the container's first process, which is never ended",
        Exclusion::Guard => "the guard itself runs inside it",
        Exclusion::Ended => "it has ended already",
        Exclusion::OtherUser => "another user's notebooks hold more",
        Exclusion::BelowMinShare => "that is too little to matter, and would not suffice",
        Exclusion::Allowed => "never ends",
        Exclusion::Important => "is kept",
        Exclusion::Busy => "is kept",
        Exclusion::ActivityUnknown => "whether it is idle nobody knows",
        Exclusion::IdleTooShort => "that is not long enough",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProcKey;

    const FACTS: Facts<'_> = Facts {
        domain: "container",
        container: Some("web"),
        total: Bytes::mib(1000),
        usage: Bytes::mib(950),
        unreclaimable: Bytes::mib(910),
        threshold: Bytes::mib(900),
        cleaning: None,
    };

    fn report_row(notebook: Option<&str>, memory: u64) -> report::Row {
        report::Row {
            pid: 30,
            memory: Bytes::mib(memory),
            name: "python3".to_owned(),
            notebook: notebook.map(str::to_owned),
            ..report::Row::default()
        }
    }

    fn chosen(why: KillWhy, settled_by: SettledBy) -> Kill {
        let held = Interval::exactly(Bytes::mib(700));
        Kill { workload: 1, root: ProcKey { pid: 30, start: 1 }, why, settled_by, held }
    }

    #[test]
    fn a_kill_says_who_why_and_on_what_figures() {
        let (first, second) = (report_row(Some("b.ipynb"), 700), report_row(None, 60));
        let told = |why, by, second| kill(&chosen(why, by), Some(&first), second, &FACTS);
        let table = [
            (
                told(KillWhy::Largest, SettledBy::Pss, Some(&second)),
                "Ends b.ipynb: it holds 700.0 MiB, the most (next is python3 (pid 30) with \
                 60.0 MiB, told apart by proportional set sizes); web has 1000.0 MiB, of which \
                 910.0 MiB cannot be reclaimed; the threshold is 900.0 MiB.",
            ),
            (
                told(KillWhy::Largest, SettledBy::Single, None),
                "Ends b.ipynb: it holds 700.0 MiB and is the only notebook; web has 1000.0 MiB, \
                 of which 910.0 MiB cannot be reclaimed; the threshold is 900.0 MiB.",
            ),
            (
                told(KillWhy::NotebookMax, SettledBy::Single, None),
                "Ends b.ipynb: it holds 700.0 MiB, more than one notebook may hold here.",
            ),
        ];
        for (sentence, expected) in table {
            assert_eq!(sentence, expected);
        }
        let grew = told(KillWhy::Growing, SettledBy::Growth, Some(&second));
        assert!(grew.starts_with("Ends b.ipynb: it grew the most since the warning"), "{grew}");
        let bare = kill(&chosen(KillWhy::Largest, SettledBy::Single), None, None, &FACTS);
        assert!(bare.starts_with("Ends pid 30: it holds 700.0 MiB"), "{bare}");
    }

    #[test]
    fn every_hold_has_a_sentence_of_its_own() {
        let first = report_row(Some("b.ipynb"), 700);
        let mut seen = Vec::new();
        for reason in HoldReason::ALL {
            for first in [None, Some(&first)] {
                let sentence = hold(reason, first, &FACTS);
                assert!(sentence.starts_with("Ends nobody: ") && sentence.ends_with('.'));
                assert!(sentence.contains("web has 1000.0 MiB"), "{sentence}");
                assert!(!sentence.contains('\n'));
                seen.push((reason, sentence));
            }
        }
        for (at, (reason, sentence)) in seen.iter().enumerate() {
            for (other, said) in &seen[at + 1..] {
                assert!(reason == other || sentence != said, "{reason:?} and {other:?}");
            }
        }
        let host = Facts { domain: "host", container: None, ..FACTS };
        assert!(hold(HoldReason::Relieved, None, &host).contains("the host has"));
    }

    #[test]
    fn a_row_says_what_it_holds_and_why_it_stands_there() {
        let interval = |least, most| Interval { least: Bytes::mib(least), most: Bytes::mib(most) };
        let of = |held| rank::Row {
            workload: 1,
            root: ProcKey { pid: 30, start: 1 },
            held,
            own: held,
            rss: Bytes::mib(80),
            competes: true,
            by_pss: false,
            is_read: true,
        };
        let endless = Interval { least: Bytes::ZERO, most: Bytes(u64::MAX) };
        let table = [
            (
                row(&of(interval(60, 60)), None, Some(1), &Cleaning::default()),
                "holds 60.0 MiB; goes first",
            ),
            (
                row(&of(interval(60, 70)), None, Some(2), &Cleaning::default()),
                "holds 60.0 MiB to 70.0 MiB; was not the first to go",
            ),
            (
                row(
                    &of(interval(0, 70)),
                    Some(Exclusion::ProtectedUser),
                    None,
                    &Cleaning::default(),
                ),
                "holds at most 70.0 MiB; its user is protected",
            ),
            (
                row(&of(endless), Some(Exclusion::Backoff), None, &Cleaning::default()),
                "holds at most 80.0 MiB; it was ended a moment ago and is left alone for now",
            ),
        ];
        for (sentence, expected) in table {
            assert_eq!(sentence, expected);
        }
    }
}
