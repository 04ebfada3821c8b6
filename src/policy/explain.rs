//! Puts rows and verdicts into sentences for people: one each, with the numbers that decided.
//! Allocates, so it is called after the signal. Pure: no files, no clock. The names in a
//! [`report::Row`] are escaped already; nothing else here was chosen by a process.

use crate::policy::decide::{Exclusion, HoldReason, Kill, KillWhy};
use crate::policy::rank::{self, Interval, SettledBy};
use crate::report;
use crate::units::Bytes;

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

    fn who(&self) -> &str {
        match self.container {
            Some(name) if !name.is_empty() => name,
            _ if self.domain == "host" => "the host",
            _ => "the container",
        }
    }
}

/// Why a row stands where it stands. `first` is the workload that was chosen, or would have been.
pub fn row(row: &rank::Row, exclusion: Option<Exclusion>, first: Option<u32>) -> String {
    let held = amount(row.held, row.rss);
    match exclusion {
        Some(exclusion) => format!("holds {held}; {}", excluded(exclusion)),
        None if first == Some(row.workload) => format!("holds {held}; goes first"),
        None if row.competes => format!("holds {held}; was not the first to go"),
        None => format!("holds {held}"),
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
    };
    format!("Ends nobody: {why}; {}.", facts.shortage())
}

/// What people call a workload: the notebook's path, else the kernel's id, else its process.
pub fn name(row: &report::Row) -> String {
    match (&row.notebook, &row.kernel_id) {
        (Some(path), _) => path.clone(),
        (None, Some(id)) => format!("kernel {id}"),
        (None, None) => format!("{} (pid {})", row.name, row.pid),
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

fn settled(by: SettledBy) -> &'static str {
    match by {
        SettledBy::Single | SettledBy::Intervals | SettledBy::Growth => "",
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
            (row(&of(interval(60, 60)), None, Some(1)), "holds 60.0 MiB; goes first"),
            (
                row(&of(interval(60, 70)), None, Some(2)),
                "holds 60.0 MiB to 70.0 MiB; was not the first to go",
            ),
            (
                row(&of(interval(0, 70)), Some(Exclusion::ProtectedUser), None),
                "holds at most 70.0 MiB; its user is protected",
            ),
            (
                row(&of(endless), Some(Exclusion::Backoff), None),
                "holds at most 80.0 MiB; it was ended a moment ago and is left alone for now",
            ),
        ];
        for (sentence, expected) in table {
            assert_eq!(sentence, expected);
        }
    }
}
