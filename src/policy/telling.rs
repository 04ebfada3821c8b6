//! Puts a ranking and its verdict into what people and programs are shown: rows, and who would
//! end if memory ran short now. For `nbguard ps` and the HTTP interface alike. Allocates. Pure: no
//! files, no clock.

use crate::config::{Gate as GateForm, Resource, Settings, Words};
use crate::facts::{Field, Proc};
use crate::ids::ProcKey;
use crate::parse::escape;
use crate::policy::apps::App;
use crate::policy::clean::Listed;
use crate::policy::decide::{By, Exclusion, Gate, Kill, Measure, Screen, Verdict};
use crate::policy::explain::{self, Facts};
use crate::policy::identity::Identities;
use crate::policy::rank::{self, Ranking};
use crate::policy::tree::Forest;
use crate::report::{Application, Cleaning, NotebookView, ProcessRecord, Row, Unattributed, Would};
use crate::units::{Bytes, Share};

/// The longest text that a process chose: a path of 200 characters has room, 4 KiB have not.
pub const TEXT_MAX: usize = 512;
/// Unattributed processes that are named.
const TOP: usize = 8;
/// Applications that are named.
const APPLICATIONS: usize = 32;

/// What a telling is of: one scan, and what was decided on it.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub procs: &'a [Proc],
    pub ids: &'a Identities,
    pub forest: &'a Forest,
    pub screen: &'a Screen,
    pub ranking: &'a Ranking,
    pub verdict: &'a Verdict,
    /// The settings of each container, by its number in the scan: whose lists they are.
    pub settings: &'a dyn Fn(u16) -> Option<&'a Settings>,
}

/// How much is told. What is left out is in the sums all the same.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub rows: usize,
    /// Of each row.
    pub members: usize,
    /// Of all rows together.
    pub all_members: usize,
}

impl Bounds {
    pub const NONE: Bounds =
        Bounds { rows: usize::MAX, members: usize::MAX, all_members: usize::MAX };
}

/// The gate taken as open: the question is who would end *if* memory were short.
pub fn as_if_short(measure: Option<Measure>, settings: &Settings) -> Gate {
    let by = match settings.gate {
        GateForm::Usage => By::Usage,
        GateForm::Notebooks => By::Notebooks,
    };
    measure.map_or(Gate::NeedSum, |measure| Gate::Passed { by, measure })
}

impl Told<'_> {
    /// The workload that was chosen, or would have been.
    fn chosen(&self) -> Option<&Kill> {
        match self.verdict {
            Verdict::Kill(kill) => Some(kill),
            Verdict::Hold(hold) => hold.would.as_ref(),
            Verdict::NeedIdentity | Verdict::NeedPss | Verdict::NeedActivity => None,
        }
    }

    /// The ranked rows, as in the record: the one that goes first stands first.
    pub fn rows(&self, bounds: Bounds) -> Vec<Row> {
        let first = self.chosen().map(|kill| kill.workload);
        let mut left = bounds.all_members;
        self.places()
            .into_iter()
            .take(bounds.rows)
            .map(|place| {
                let row = self.row(place, first, bounds.members.min(left));
                left -= row.members.len();
                row
            })
            .collect()
    }

    /// The places in the ranking as they are shown: whoever would go, in that order, then the rest
    /// by size.
    pub fn places(&self) -> Vec<usize> {
        let first = self.chosen().map(|kill| kill.workload);
        let cleaned = self.screen.cleaning().order().iter().copied();
        let going = first.into_iter().chain(cleaned.filter(|number| Some(*number) != first));
        let mut places: Vec<usize> =
            going.filter_map(|number| Some(self.ranking.place(number)? as usize)).collect();
        let mut is_going = vec![false; self.ranking.rows().len()];
        for place in &places {
            is_going[*place] = true;
        }
        places.extend((0..is_going.len()).filter(|place| !is_going[*place]));
        places
    }

    /// What of a row `idle-first` knows: application, activity, for how long, on which list.
    pub fn inside(&self, number: u32) -> Inside {
        let workload = self.forest.workloads().get(number as usize);
        let application = workload.and_then(|w| self.ids.application(w.root)).map(text);
        let Some(score) = self.screen.cleaning().score(number) else {
            return Inside { application, ..Inside::default() };
        };
        let lists = workload.and_then(|workload| (self.settings)(workload.container));
        let listed = score.listed.zip(lists).and_then(|(listed, lists)| match listed {
            Listed::Deny(at) => Some(format!("deny {}", lists.deny.get(usize::from(at))?)),
            Listed::Allow(at) => Some(format!("allow {}", lists.allow.get(usize::from(at))?)),
        });
        Inside {
            application,
            activity: Some(score.activity.as_str().to_owned()),
            idle_s: score.idle,
            listed,
        }
    }

    /// The applications and their shares, where that was the question.
    pub fn cleaning(&self, settings: &Settings) -> Option<Cleaning> {
        let made = self.screen.cleaning();
        if !made.is_made() {
            return None;
        }
        let mut apps: Vec<&App> = made.apps(self.forest.workloads()).collect();
        apps.sort_by_key(|app| std::cmp::Reverse(app.memory));
        let of = match settings.resource {
            Resource::Memory => "the total",
            Resource::Cpu => "the CPU time of all processes between two looks",
        };
        Some(Cleaning {
            resource: settings.resource.word().to_owned(),
            ratio: fraction(settings.ratio),
            of: of.to_owned(),
            clear: settings.clear.word().to_owned(),
            important: made.important().map(|app| self.application(app, settings)),
            after: None,
            applications: apps
                .iter()
                .take(APPLICATIONS)
                .map(|app| self.application(app, settings))
                .collect(),
            candidates: u32::try_from(made.order().len()).unwrap_or(u32::MAX),
            needed: made.needed(),
            first: None,
            number: 1,
        })
    }

    /// What an application is called: its name, or the first of its processes.
    pub fn name(&self, app: &App) -> String {
        let Some(first) = self.forest.workloads().get(app.first as usize) else {
            return String::new();
        };
        match self.ids.application(first.root) {
            Some(name) => text(name),
            None => {
                format!("{} (pid {})", comm(&self.procs[first.root_index as usize]), first.root.pid)
            }
        }
    }

    pub fn application(&self, app: &App, settings: &Settings) -> Application {
        let whole = self.screen.cleaning().whole();
        Application {
            name: self.name(app),
            processes: app.processes,
            memory: app.memory,
            memory_share: whole.memory_share(app).map(fraction),
            cpu_share: whole.cpu_share(app).map(fraction),
            over: whole.is_over(app, settings) == Some(true),
        }
    }

    fn row(&self, place: usize, first: Option<u32>, members: usize) -> Row {
        let ranked: &rank::Row = &self.ranking.rows()[place];
        let workload = &self.forest.workloads()[ranked.workload as usize];
        let exclusion = self.screen.exclusion(ranked.workload);
        // What settled it that those below stand below.
        let others = self.ranking.rows()[place + 1..].iter();
        let all = self.forest.members(workload).iter().take(members);
        let Inside { application, activity, idle_s, listed } = self.inside(ranked.workload);
        Row {
            pid: ranked.root.pid,
            start: ranked.root.start,
            memory: ranked.figure(),
            lower: ranked.held.least,
            upper: ranked.held.most,
            settled_by: Ranking::settled_by(ranked, others).as_str().to_owned(),
            name: comm(&self.procs[workload.root_index as usize]),
            notebook: self.ids.notebook(ranked.root).map(text),
            kernel_id: self.ids.kernel_id(ranked.root).map(text),
            uid: Some(workload.uid),
            container: None,
            eligible: exclusion.map_or("yes", Exclusion::as_str).to_owned(),
            because: explain::row(ranked, exclusion, first, self.screen.cleaning()),
            application,
            activity,
            idle_s,
            listed,
            members: all.map(|member| record(&self.procs[member.index as usize])).collect(),
        }
    }

    /// The same rows for whoever shows them, the largest first.
    pub fn notebooks(&self, rows: Vec<Row>, total: Bytes) -> Vec<NotebookView> {
        let mut views: Vec<NotebookView> =
            rows.into_iter().map(|row| self.notebook(row, total)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.memory));
        views
    }

    fn notebook(&self, row: Row, total: Bytes) -> NotebookView {
        let key = ProcKey { pid: row.pid, start: row.start };
        let workload = self.forest.workloads().iter().find(|workload| workload.root == key);
        let all = workload.map_or(0, |workload| self.forest.members(workload).len());
        NotebookView {
            pid: row.pid,
            start: row.start,
            memory: row.memory,
            lower: row.lower,
            upper: row.upper,
            share: part(row.memory, total),
            name: row.name,
            notebook: row.notebook,
            kernel_id: row.kernel_id,
            uid: row.uid,
            container_pid: self.ids.get(key).map(|identity| identity.nspid),
            eligible: row.eligible,
            because: row.because,
            application: row.application,
            activity: row.activity,
            idle_s: row.idle_s,
            listed: row.listed,
            processes: row.members,
            processes_total: u32::try_from(all).unwrap_or(u32::MAX),
        }
    }

    /// What would be done, and why.
    pub fn would(&self, rows: &[Row], facts: &Facts<'_>) -> Would {
        let (first, second) = (rows.first(), rows.get(1));
        match self.verdict {
            Verdict::Kill(kill) => Would {
                end: Some(kill.root.pid),
                reason: kill.why.as_str().to_owned(),
                sentence: explain::kill(kill, first, second, facts),
            },
            Verdict::Hold(hold) => Would {
                end: None,
                reason: hold.reason.as_str().to_owned(),
                sentence: match &hold.would {
                    Some(kill) => format!(
                        "{} Otherwise: {}",
                        explain::hold(hold.reason, first, facts),
                        explain::kill(kill, first, second, facts)
                    ),
                    None => explain::hold(hold.reason, first, facts),
                },
            },
            Verdict::NeedIdentity | Verdict::NeedPss | Verdict::NeedActivity => Would {
                end: None,
                reason: "unknown".to_owned(),
                sentence: "Not to be told: some processes cannot be read (are you root?)"
                    .to_owned(),
            },
        }
    }

    /// The notebook servers, the largest first.
    pub fn servers(&self, most: usize) -> Vec<ProcessRecord> {
        self.largest(self.forest.servers(), most)
    }

    /// What belongs to no notebook.
    pub fn unattributed(&self) -> Unattributed {
        let all = self.forest.unattributed();
        Unattributed {
            count: u32::try_from(all.len()).unwrap_or(u32::MAX),
            memory: all.iter().map(|index| memory_of(&self.procs[*index as usize])).sum(),
            top: self.largest(all, TOP),
        }
    }

    fn largest(&self, indices: &[u32], most: usize) -> Vec<ProcessRecord> {
        let mut order = indices.to_vec();
        order.sort_by_key(|index| std::cmp::Reverse(memory_of(&self.procs[*index as usize])));
        order.iter().take(most).map(|index| record(&self.procs[*index as usize])).collect()
    }
}

/// What `idle-first` knows of a row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inside {
    pub application: Option<String>,
    pub activity: Option<String>,
    pub idle_s: Option<u64>,
    pub listed: Option<String>,
}

fn fraction(share: Share) -> f64 {
    f64::from(share.0) / f64::from(Share::ONE.0)
}

/// To a ten-thousandth: what is shown is a percent.
pub fn part(of: Bytes, whole: Bytes) -> f64 {
    match whole {
        Bytes::ZERO => 0.0,
        _ => (of.0 as f64 / whole.0 as f64 * 10_000.0).round() / 10_000.0,
    }
}

fn record(proc: &Proc) -> ProcessRecord {
    ProcessRecord { pid: proc.key.pid, name: comm(proc), memory: memory_of(proc) }
}

/// What is surely a process's own, or all that is mapped into it where nothing better is known.
fn memory_of(proc: &Proc) -> Bytes {
    match (proc.pss, proc.memory) {
        (Field::Known(pss), _) => pss,
        (_, Field::Known(memory)) => memory.anon.plus(memory.swap).plus(memory.shmem),
        _ => proc.rss,
    }
}

/// Text that a process chose, as it stands in records.
fn text(text: &str) -> String {
    escape(text.as_bytes(), TEXT_MAX)
}

fn comm(proc: &Proc) -> String {
    escape(proc.comm.bytes(), TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Comm, Field, ProcMemory};
    use crate::policy::decide::{Case, Scale};
    use crate::policy::rank::Purpose;
    use crate::policy::world::{SERVER, World, kernel};

    const TOTAL: Bytes = Bytes::gib(64);

    /// What is told of a world in which memory is short.
    fn tell(world: &mut World, bounds: Bounds) -> (Vec<Row>, Vec<NotebookView>, Would) {
        world.build().group_of_sums().rank(Purpose::Each);
        let mut screen = Screen::default();
        screen.sift(&world.forest, &world.ids, |_| None);
        let measure = Measure {
            usage: TOTAL,
            unreclaimable: TOTAL,
            counted: TOTAL,
            mark: Bytes::gib(50),
            relief: Bytes::gib(50),
            total: TOTAL,
            whole: TOTAL,
        };
        let settings = Settings::default();
        let gate = as_if_short(Some(measure), &settings);
        let case = Case {
            forest: &world.forest,
            procs: &world.procs,
            settings: &settings,
            scale: Scale { total: TOTAL, swap: Bytes::ZERO },
            gate: &gate,
            baseline: None,
            paused: false,
            late: true,
            unread: false,
            inside: None,
        };
        let verdict = screen.decide(&case, &mut world.ranking);
        let told = Told {
            procs: &world.procs,
            ids: &world.ids,
            forest: &world.forest,
            screen: &screen,
            ranking: &world.ranking,
            verdict: &verdict,
            settings: &|_| None,
        };
        let rows = told.rows(bounds);
        let facts = Facts {
            cleaning: None,
            domain: "container",
            container: Some("lab"),
            total: TOTAL,
            usage: TOTAL,
            unreclaimable: TOTAL,
            threshold: Bytes::gib(58),
        };
        let would = told.would(&rows, &facts);
        (rows.clone(), told.notebooks(rows, TOTAL), would)
    }

    #[test]
    fn whoever_would_go_stands_first_among_the_rows_and_the_largest_among_the_notebooks() {
        let mut world = World::new();
        world.kernel(10, "/a.ipynb").holds(10, Bytes::gib(2));
        world.child(12, 10).holds(12, Bytes::gib(1));
        world.kernel(11, "/b.ipynb").holds(11, Bytes::gib(60));
        let (rows, notebooks, would) = tell(&mut world, Bounds::NONE);
        assert_eq!(rows.iter().map(|row| row.pid).collect::<Vec<_>>(), [11, 10]);
        assert_eq!(notebooks.iter().map(|n| n.pid).collect::<Vec<_>>(), [11, 10]);
        assert_eq!((would.end, would.reason.as_str()), (Some(11), "largest"));
        assert!(would.sentence.contains("/b.ipynb"), "{}", would.sentence);
        let small = &notebooks[1];
        assert_eq!((small.processes_total, small.container_pid), (2, Some(10)));
        // Between the larger of its processes and both of them.
        assert!((0.0312..=0.0469).contains(&small.share), "{}", small.share);
    }

    #[test]
    fn ten_thousand_notebooks_are_a_bounded_answer_and_whole_in_their_number() {
        let mut world = World::new();
        for number in 0..10_000u32 {
            let pid = 100 + number;
            let mut proc = world.procs[1];
            (proc.key, proc.ppid) = (crate::policy::world::key(pid), SERVER);
            (proc.pgrp, proc.sid) = (pid, pid);
            let anon = Bytes::mib(u64::from(number));
            proc.rss = anon;
            let none = Bytes::ZERO;
            world.status.insert(pid, ProcMemory { anon, shmem: none, swap: none });
            let mut identity = world.identities[&SERVER].clone();
            (identity.key, identity.nspid) = (proc.key, pid);
            identity.claim = kernel(&format!("/kernel-00000000-0000-0000-0000-{pid:012}.json"));
            let marks = crate::policy::identity::Marks {
                session: Some("x".repeat(4096).into()),
                parent: Some(SERVER),
            };
            identity.marks = Some(std::sync::Arc::new(marks));
            world.procs.push(proc);
            world.identities.insert(pid, identity);
        }
        let bounds = Bounds { rows: 500, members: 256, all_members: 300 };
        let (rows, notebooks, would) = tell(&mut world, bounds);
        assert_eq!((rows.len(), notebooks.len()), (500, 500));
        assert_eq!(world.ranking.rows().len(), 10_000);
        let listed: usize = notebooks.iter().map(|n| n.processes.len()).sum();
        assert_eq!(listed, 300, "so many processes of all together");
        assert!(notebooks.iter().all(|n| n.processes_total == 1));
        assert!(notebooks.iter().all(|n| n.notebook.as_ref().unwrap().len() <= TEXT_MAX));
        assert!(would.sentence.len() < 4 * TEXT_MAX, "{}", would.sentence.len());
        let json = serde_json::to_string(&notebooks).unwrap();
        assert!(json.len() < 500 * 2048, "{} bytes", json.len());
        // The largest are those that are listed.
        assert_eq!(notebooks[0].pid, 10_099);
    }

    #[test]
    fn names_are_one_line_and_harmless_on_a_terminal() {
        for (name, comm, shown) in [
            ("a\nb.ipynb", &b"two\nlines"[..], "a\\x0ab.ipynb"),
            ("\u{1b}[2Jx", b"\x1b[31mred", "\\x1b[2Jx"),
            ("<img src=x onerror=alert(1)>", b"<b>", "<img src=x onerror=alert(1)>"),
            ("\u{202e}gpj.ipynb", b"\xff\xfe", "\\u{202e}gpj.ipynb"),
        ] {
            let mut world = World::new();
            world.kernel(10, name).holds(10, Bytes::gib(60));
            world.proc(10).comm = Comm::new(comm);
            let (_, notebooks, would) = tell(&mut world, Bounds::NONE);
            assert_eq!(notebooks[0].notebook.as_deref(), Some(shown));
            for text in [&notebooks[0].name, &notebooks[0].processes[0].name, &would.sentence] {
                assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
            }
            assert!(serde_json::to_string(&notebooks).is_ok());
        }
    }

    #[test]
    fn what_cannot_be_read_is_bounded_by_what_is_mapped() {
        let mut world = World::new();
        world.kernel(10, "/a.ipynb").holds(10, Bytes::gib(1));
        let mut proc = world.procs[2];
        assert_eq!(memory_of(&proc), proc.rss);
        proc.pss = Field::Known(Bytes::mib(5));
        assert_eq!(memory_of(&proc), Bytes::mib(5));
        assert_eq!((part(Bytes(1), Bytes::ZERO), part(Bytes(1), Bytes(3))), (0.0, 0.3333));
    }
}
