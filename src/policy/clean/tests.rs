//! Who is not essential and in which order they go, one end after the other, as the loop does it.

use super::*;
use crate::config::Policy;
use crate::config::glob::Glob;
use crate::facts::{Comm, Source};
use crate::policy::activity::Said;
use crate::policy::decide::{By, Measure, Scale, Screen, Verdict};
use crate::policy::identity::{Claim, PhpRole};
use crate::policy::rank::Purpose;
use crate::policy::world::{INIT, SERVER, World, key};

const TOTAL: Bytes = Bytes::mib(1000);
/// Looks at second 0 and 100; decisions at 100.
const NOW: u64 = 100;

fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}

fn at(second: u64) -> Moment {
    Moment(second * 1_000_000)
}

fn names(patterns: &[&str]) -> Vec<NameGlob> {
    patterns.iter().map(|pattern| NameGlob::new(pattern).unwrap()).collect()
}

#[derive(Clone, Copy)]
enum Does {
    /// Since this second.
    Idle(u64),
    Busy,
    /// Nobody has said.
    Nothing,
}
use Does::{Busy, Idle, Nothing};

/// A container of 1000 MiB that is full, and what is said of whom.
struct Bench {
    world: World,
    settings: Settings,
    activities: Activities,
    screen: Screen,
    /// What the gate counts, beside what the processes hold.
    rest: u64,
    clearing: bool,
    spent: bool,
    late: bool,
    protected: Vec<u32>,
    /// Of the container with number 1.
    elsewhere: Option<Settings>,
}

impl Bench {
    /// An init, a notebook server, and php-fpm's master (50).
    fn new() -> Bench {
        let mut world = World::new();
        world.php(50, INIT, PhpRole::Master, "");
        Bench {
            world,
            settings: Settings { policy: Policy::IdleFirst, ..Settings::default() },
            activities: Activities::default(),
            screen: Screen::default(),
            rest: 0,
            clearing: false,
            spent: false,
            late: false,
            protected: Vec::new(),
            elsewhere: None,
        }
    }

    /// A worker of a pool.
    fn worker(&mut self, pid: u32, pool: &str, held: u64) -> &mut Bench {
        self.world.php(pid, 50, PhpRole::Worker, pool).holds(pid, mib(held));
        self
    }

    fn notebook(&mut self, pid: u32, path: &str, held: u64) -> &mut Bench {
        self.world.kernel(pid, path).holds(pid, mib(held));
        self
    }

    /// A process that belongs to nothing, below the init.
    fn process(&mut self, pid: u32, comm: &str, held: u64) -> &mut Bench {
        self.world.bare(pid, INIT).holds(pid, mib(held));
        self.called(pid, comm)
    }

    fn called(&mut self, pid: u32, comm: &str) -> &mut Bench {
        self.world.proc(pid).comm = Comm::new(comm.as_bytes());
        self
    }

    fn deny(&mut self, patterns: &[&str]) -> &mut Bench {
        self.settings.deny = names(patterns);
        self
    }

    /// Two looks, and what was said in between.
    fn looked(&mut self, said: &[(u32, Does)]) -> &mut Bench {
        self.activities.look(at(0), &self.world.procs);
        self.activities.look(at(NOW), &self.world.procs);
        for (pid, does) in said {
            let said = match does {
                Idle(since) => Said::Idle { since: at(*since) },
                Busy => Said::Busy { since: None },
                Nothing => continue,
            };
            self.activities.switched(key(*pid), at(NOW), Some(7));
            self.activities.say(key(*pid), at(NOW), Source::Tracer, said, None);
        }
        self
    }

    fn decide(&mut self) -> Verdict {
        let Bench { world, settings, activities, screen, protected, elsewhere, .. } = self;
        world.build().group_of_sums();
        let kept = |proc: &Proc| is_kept(proc, settings);
        world.forest.deny(&world.procs, &world.ids, |proc| is_denied(proc, settings), kept);
        screen.sift(&world.forest, &world.ids, |view| {
            let is_protected = protected.contains(&view.workload.root.pid);
            is_protected.then_some(Exclusion::ProtectedNotebook)
        });
        world.rank_among(Purpose::Each, |number| screen.competes(number));
        let counted: Bytes =
            world.status.values().map(|m| m.anon).sum::<Bytes>().plus(mib(self.rest));
        let mark = mib(870);
        let measure =
            Measure { counted, mark, relief: mib(850), total: TOTAL, ..Measure::default() };
        let gate = match counted >= mark {
            true => Gate::Passed { by: By::Usage, measure },
            false => Gate::Held { reason: HoldReason::Relieved, measure },
        };
        let of_container = |number: u16| match (number, &*elsewhere) {
            (1, Some(other)) => Some(other),
            _ => Some(&*settings),
        };
        let inside = Inside {
            ids: &world.ids,
            activities,
            settings: &of_container,
            now: at(NOW),
            clearing: self.clearing,
            spent: self.spent,
        };
        let case = Case {
            forest: &world.forest,
            procs: &world.procs,
            settings,
            scale: Scale { total: TOTAL, swap: Bytes::ZERO },
            gate: &gate,
            baseline: None,
            paused: false,
            late: self.late,
            unread: false,
            inside: Some(&inside),
        };
        screen.decide(&case, &mut world.ranking)
    }

    /// Ends one after the other, each looked at anew, until nobody does: who, and why it stopped.
    fn run(&mut self) -> (Vec<u32>, &'static str) {
        let mut ended = Vec::new();
        loop {
            match self.decide() {
                Verdict::Kill(kill) => {
                    assert!(kill.why.is_cleaners(), "{kill:?}");
                    ended.push(kill.root.pid);
                    self.end(kill.workload);
                    self.clearing = self.settings.clear == Clear::All;
                }
                Verdict::Hold(hold) => return (ended, hold.reason.as_str()),
                Verdict::NeedActivity => self.late = true,
                other => panic!("{other:?}"),
            }
        }
    }

    fn end(&mut self, workload: u32) {
        let workload = self.world.forest.workloads()[workload as usize].clone();
        let members = self.world.forest.members(&workload).to_vec();
        let pids: Vec<u32> =
            members.iter().map(|m| self.world.procs[m.index as usize].key.pid).collect();
        self.world.procs.retain(|proc| !pids.contains(&proc.key.pid));
        for pid in pids {
            self.world.identities.remove(&pid);
            self.world.status.remove(&pid);
        }
        for proc in &mut self.world.procs {
            proc.memory = crate::facts::Field::Unknown(Why::NotRead);
        }
    }

    fn exclusion(&self, pid: u32) -> Option<&'static str> {
        let workloads = self.world.forest.workloads();
        let at = workloads.iter().position(|w| w.root.pid == pid).unwrap();
        self.screen.exclusion(at as u32).map(Exclusion::as_str)
    }

    fn order(&self) -> Vec<u32> {
        let pid = |number: &u32| self.world.forest.workloads()[*number as usize].root.pid;
        self.screen.cleaning().order().iter().map(pid).collect()
    }

    fn important(&self) -> Option<String> {
        let app = self.screen.cleaning().important()?;
        let root = self.world.forest.workloads()[app.first as usize].root;
        self.world.ids.application(root).map(str::to_owned)
    }
}

/// The source system's example: on the list are a1, a2, b1 and b2; a1 and b2 run, and a1 and b2
/// end.
#[test]
fn of_a_deny_list_exactly_those_end_that_run() {
    for clear in [Clear::All, Clear::Enough] {
        let mut bench = Bench::new();
        bench.settings.clear = clear;
        bench.worker(51, "pool:www", 700).looked(&[(51, Busy)]);
        bench.process(60, "a1", 100).process(61, "b2", 50).process(62, "c1", 60);
        bench.process(63, "a11", 20).deny(&["a1", "a2", "b1", "b2"]);
        match clear {
            Clear::All => assert_eq!(bench.run(), (vec![60, 61], "nobody-non-essential")),
            // 930 of 1000: the larger one is enough.
            Clear::Enough => assert_eq!(bench.run(), (vec![60], "relieved")),
        }
    }
}

#[test]
fn what_is_allowed_or_needed_does_not_end_with_a_denied_one_above_it() {
    let mut bench = Bench::new();
    bench.rest = 900;
    bench.worker(51, "pool:www", 700).looked(&[(51, Busy)]);
    // A shell that started a database, one that started a runtime, and one that started nothing.
    for (pid, below) in [(60, "postgres"), (62, "containerd-shim"), (64, "sleep")] {
        bench.process(pid, "sh", 5).process(pid + 1, below, 5);
        bench.world.proc(pid + 1).ppid = pid;
    }
    bench.deny(&["sh", "sleep"]).settings.allow = names(&["postgres"]);
    assert_eq!(bench.run(), (vec![64], "nobody-non-essential"));
    assert!(bench.world.procs.iter().any(|proc| proc.key.pid == 61));
}

/// Neither by the list nor for being idle.
#[test]
fn what_is_allowed_does_not_end_with_a_notebook_that_started_it() {
    for (deny, allow, expected) in [
        (&[][..], &["postgres"][..], Some("allowed")),
        (&["app:a.ipynb"], &["postgres"], Some("allowed")),
        (&[], &["postgresql"], None),
        (&["app:a.ipynb"], &[], None),
    ] {
        let mut bench = Bench::new();
        bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100);
        bench.world.child(21, 20);
        bench.called(21, "postgres").deny(deny).settings.allow = names(allow);
        bench.looked(&[(51, Busy), (20, Idle(0))]);
        bench.decide();
        assert_eq!(bench.exclusion(20), expected, "{deny:?} {allow:?}");
    }
}

#[test]
fn exactly_at_the_ratio_is_not_over() {
    // Held by the pool, MiB of 1000; the ratio.
    for (held, ratio, over) in [
        (20, 2, false),
        (21, 2, true),
        (19, 2, false),
        (500, 50, false),
        (501, 50, true),
        (1000, 100, false),
        (0, 2, false),
    ] {
        let mut bench = Bench::new();
        bench.settings.ratio = Share::percent(ratio);
        bench.rest = 900;
        bench.worker(51, "pool:www", held).looked(&[(51, Busy)]);
        bench.process(60, "a1", 1).deny(&["a1"]);
        let (ended, reason) = bench.run();
        match over {
            true => assert_eq!((ended, reason), (vec![60], "nobody-non-essential"), "{held}"),
            false => assert_eq!((ended, reason), (vec![], "no-application-over-ratio"), "{held}"),
        }
    }
}

#[test]
fn an_application_is_all_of_its_workers_together() {
    let mut bench = Bench::new();
    bench.rest = 900;
    for pid in 51..=53 {
        bench.worker(pid, "pool:www", 10);
    }
    bench.process(60, "a1", 1).deny(&["a1"]).looked(&[(51, Busy), (52, Busy), (53, Busy)]);
    assert_eq!(bench.run().0, [60]);
    assert_eq!(bench.important().as_deref(), Some("pool:www"));
}

#[test]
fn of_cpu_time_two_looks_are_needed_and_the_share_is_of_all_processes() {
    let scene = |www: u64, others: u64| {
        let mut bench = Bench::new();
        bench.settings.resource = Resource::Cpu;
        bench.rest = 900;
        bench.worker(51, "pool:www", 1).process(60, "a1", 1).deny(&["a1"]);
        bench.activities.look(at(0), &bench.world.procs);
        bench.world.proc(51).ticks = www;
        bench.world.proc(SERVER).ticks = others;
        bench
    };
    let mut bench = scene(3, 97);
    assert_eq!(bench.run(), (vec![], "share-unknown"), "one look says nothing of a share");
    for (www, others, over) in [(3, 97, true), (2, 98, false), (100, 0, true), (0, 100, false)] {
        let mut bench = scene(www, others);
        bench.activities.look(at(NOW), &bench.world.procs);
        let expected = if over { vec![60] } else { vec![] };
        assert_eq!(bench.run().0, expected, "{www} of {}", www + others);
    }
}

#[test]
fn the_important_one_is_the_named_one_else_the_largest_over_the_ratio() {
    let globs = |patterns: &[&str]| patterns.iter().map(|p| Glob::new(p).unwrap()).collect();
    for (named, expected) in [
        (&[][..], "pool:big"),
        (&["pool:small"], "pool:small"),
        (&["pool:*"], "pool:big"),
        (&["a.ipynb"], "/home/j/a.ipynb"),
        // Named, and below the ratio: the largest that is over it.
        (&["pool:tiny"], "pool:big"),
        (&["nothing"], "pool:big"),
    ] {
        let mut bench = Bench::new();
        bench.worker(51, "pool:big", 500).worker(52, "pool:small", 200);
        bench.worker(53, "pool:tiny", 1).notebook(20, "/home/j/a.ipynb", 300);
        bench.settings.important = globs(named);
        bench.looked(&[(51, Busy), (52, Busy), (53, Busy), (20, Busy)]);
        bench.decide();
        assert_eq!(bench.important().as_deref(), Some(expected), "{named:?}");
    }
}

/// A name is its processes' own word: what one container calls important is nothing in another.
#[test]
fn in_a_host_episode_each_container_names_its_own() {
    let names = || vec![Glob::new("script:/job.php").unwrap()];
    // Who names it, what the two hold, and whose is the important one.
    for (here, there, held, expected) in [
        (false, false, (300, 200), 0),
        (false, true, (300, 200), 1),
        (true, false, (200, 300), 0),
        (true, true, (200, 300), 1),
    ] {
        let mut bench = Bench::new();
        for (pid, held) in [(70, held.0), (71, held.1)] {
            bench.world.php(pid, INIT, PhpRole::Script, "script:/job.php").holds(pid, mib(held));
        }
        bench.world.proc(71).container = 1;
        let settings = |named| Settings {
            important: if named { names() } else { Vec::new() },
            ..bench.settings.clone()
        };
        (bench.settings, bench.elsewhere) = (settings(here), Some(settings(there)));
        bench.rest = 900;
        bench.looked(&[(70, Busy), (71, Busy)]);
        bench.decide();
        let important = bench.screen.cleaning().important().map(|app| app.container);
        assert_eq!(important, Some(expected), "{here} {there}");
        for (pid, named) in [(70, here), (71, there)] {
            let is = bench.exclusion(pid) == Some("important");
            assert_eq!(is, named || u16::from(pid == 71) == expected, "{pid} {here} {there}");
        }
    }
}

#[test]
fn the_deny_list_goes_first_then_the_longest_idle_then_the_largest_and_the_important_last() {
    let mut bench = Bench::new();
    bench.rest = 900;
    bench.worker(51, "pool:www", 300).worker(52, "pool:www", 30).worker(53, "pool:www", 30);
    bench.worker(54, "pool:shop", 10).worker(55, "pool:shop", 15).worker(56, "pool:shop", 5);
    bench.notebook(20, "a.ipynb", 40).process(60, "a1", 1).process(61, "a1", 2);
    bench.deny(&["a1"]);
    bench.looked(&[
        (51, Busy),
        // Of the important application, and idle for the longest time of all.
        (52, Idle(0)),
        (53, Nothing),
        (54, Idle(20)),
        (55, Idle(20)),
        (56, Idle(10)),
        (20, Idle(30)),
    ]);
    let order = [61, 60, 56, 55, 54, 20, 52];
    bench.decide();
    assert_eq!(bench.order(), order);
    assert_eq!(bench.run(), (order.to_vec(), "activity-unknown"));
    assert_eq!(
        (bench.exclusion(51), bench.exclusion(53)),
        (Some("important"), Some("activity-unknown"))
    );
}

#[test]
fn idle_for_long_enough_and_not_a_moment_less() {
    for (since, expected) in
        [(40, Some(20)), (39, Some(20)), (41, None), (0, Some(20)), (100, None)]
    {
        let mut bench = Bench::new();
        bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100);
        bench.looked(&[(51, Busy), (20, Idle(since))]);
        let (ended, reason) = bench.run();
        assert_eq!(ended.first().copied(), expected, "since {since}");
        if expected.is_none() {
            assert_eq!(
                (reason, bench.exclusion(20)),
                ("nobody-non-essential", Some("idle-too-short"))
            );
        }
    }
}

#[test]
fn busy_and_unknown_are_never_idle_and_one_process_of_a_tree_speaks_for_all() {
    for (root, child, expected) in [
        (Idle(0), Idle(0), None),
        (Idle(0), Busy, Some("busy")),
        (Busy, Idle(0), Some("busy")),
        (Nothing, Idle(0), Some("activity-unknown")),
        (Busy, Nothing, Some("busy")),
        // The last that went idle says since when.
        (Idle(0), Idle(90), Some("idle-too-short")),
    ] {
        let mut bench = Bench::new();
        bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100);
        bench.world.child(21, 20);
        bench.looked(&[(51, Busy), (20, root), (21, child)]);
        bench.late = true;
        bench.decide();
        assert_eq!(bench.exclusion(20), expected);
    }
    // What a kernel has started runs no interpreter that could be asked: its CPU time speaks.
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100);
    bench.world.child(21, 20);
    bench.looked(&[(51, Busy), (20, Idle(0))]);
    assert_eq!(bench.run().0, [20]);
}

#[test]
fn what_is_not_known_is_asked_once_unless_the_deny_list_has_somebody() {
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100).looked(&[(51, Busy)]);
    assert_eq!(bench.decide(), Verdict::NeedActivity);
    assert_eq!(bench.world.pids(bench.screen.asked()), [20]);
    assert_eq!(bench.run(), (vec![], "activity-unknown"));
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100).looked(&[(51, Busy)]);
    bench.process(60, "a1", 1).deny(&["a1"]);
    assert!(matches!(bench.decide(), Verdict::Kill(kill) if kill.root.pid == 60));
    // Tried, and not to be had: nobody is asked again.
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100).looked(&[(51, Busy)]);
    let denied = Said::Unknown(Why::Denied);
    bench.activities.say(key(20), at(NOW), Source::Stack, denied, None);
    assert!(matches!(bench.decide(), Verdict::Hold(_)));
}

#[test]
fn who_is_denied_by_name_pattern_or_application_and_what_allow_takes_back() {
    // Deny, allow, who ends.
    for (deny, allow, expected) in [
        (&["backup"][..], &[][..], &[60][..]),
        (&["back*"], &[], &[61, 60]),
        (&["back*"], &["backup"], &[61]),
        (&["back*"], &["back*"], &[]),
        (&["app:pool:shop"], &[], &[54]),
        (&["app:pool:*"], &["app:pool:shop"], &[51]),
        (&["app:a.ipynb"], &[], &[20]),
        // The one that is idle before the one that is not.
        (&["app:pool:shop", "backup"], &[], &[60, 54]),
        // A worker's name is a name as any other, its master's is not.
        (&["php"], &["app:pool:shop"], &[51]),
        (&["php"], &[], &[51, 54]),
        // Nobody is called so.
        (&["app:backup", "pool:shop"], &[], &[]),
    ] {
        let mut bench = Bench::new();
        bench.rest = 900;
        bench.worker(51, "pool:www", 800).worker(54, "pool:shop", 30);
        bench.notebook(20, "/home/j/a.ipynb", 100);
        bench.process(60, "backup", 1).process(61, "backupper", 2);
        bench.looked(&[(51, Busy), (54, Busy), (20, Busy)]);
        bench.settings.allow = names(allow);
        bench.deny(deny);
        assert_eq!(bench.run().0, expected, "{deny:?} {allow:?}");
    }
}

#[test]
fn whatever_the_system_needs_is_beyond_every_list() {
    let mut bench = Bench::new();
    bench.rest = 900;
    bench.worker(51, "pool:www", 800).looked(&[(51, Busy)]);
    // Another server, the guard and its parent, what runs containers, a shell above a server.
    bench.world.bare(70, INIT).bare(71, 70).claim(71, Claim::Server);
    bench.process(72, "containerd-shim", 10).process(73, "conmon", 10).process(74, "x", 10);
    bench.world.bare(75, 74);
    bench.world.guard = vec![74, 75];
    bench.deny(&["*"]);
    bench.settings.important = vec![Glob::new("pool:www").unwrap()];
    assert_eq!(bench.run(), (vec![], "nobody-non-essential"));
    assert_eq!(bench.world.trees(), [vec![51]], "nothing else is a workload");
}

#[test]
fn a_protection_holds_against_the_deny_list() {
    let mut bench = Bench::new();
    bench.rest = 900;
    bench.worker(51, "pool:www", 800).notebook(20, "a.ipynb", 100).process(60, "a1", 10);
    bench.deny(&["a1", "app:a.ipynb"]).looked(&[(51, Busy), (20, Idle(0))]);
    bench.protected = vec![20, 60];
    assert_eq!(bench.run(), (vec![], "nobody-non-essential"));
    bench.protected = vec![20, 60, 51];
    assert_eq!(bench.run(), (vec![], "all-protected"));
}

#[test]
fn enough_stops_below_the_threshold_and_all_does_not() {
    // 1000 MiB, and the mark at 870: seven of twenty.
    for (clear, expected) in [(Clear::Enough, 7), (Clear::All, 10)] {
        let mut bench = Bench::new();
        bench.settings.clear = clear;
        bench.worker(50 + 1, "pool:www", 800);
        for pid in 60..70 {
            bench.process(pid, "a1", 20);
        }
        bench.deny(&["a1"]).looked(&[(51, Busy)]);
        bench.decide();
        assert_eq!(bench.screen.cleaning().needed(), expected);
        let (ended, reason) = bench.run();
        let over = if clear == Clear::Enough { "relieved" } else { "nobody-non-essential" };
        assert_eq!((ended.len() as u32, reason), (expected, over));
    }
}

#[test]
fn below_the_threshold_nobody_ends_unless_all_are_being_cleared() {
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 100).process(60, "a1", 20).deny(&["a1"]).looked(&[(51, Busy)]);
    assert_eq!(bench.run(), (vec![], "relieved"));
    assert!(!bench.screen.cleaning().is_made());
    bench.clearing = true;
    assert!(matches!(bench.decide(), Verdict::Kill(_)));
}

#[test]
fn after_so_many_ends_nobody_more_for_a_while() {
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 800).process(60, "a1", 100).deny(&["a1"]).looked(&[(51, Busy)]);
    bench.spent = true;
    assert_eq!(bench.run(), (vec![], "too-many-ends"));
}

#[test]
fn an_application_whose_last_workers_are_idle_keeps_them_until_all_others_are_gone() {
    let mut bench = Bench::new();
    bench.worker(51, "pool:www", 400).worker(52, "pool:www", 400).notebook(20, "a.ipynb", 100);
    bench.rest = 100;
    bench.looked(&[(51, Idle(0)), (52, Busy), (20, Idle(10))]);
    assert_eq!(bench.run(), (vec![20, 51], "relieved"));
}

#[test]
fn what_is_on_the_deny_list_is_important_only_where_it_is_named() {
    let scene = |important: &[&str]| {
        let mut bench = Bench::new();
        bench.rest = 400;
        bench.worker(51, "pool:batch", 400).worker(52, "pool:batch", 10);
        bench.worker(53, "pool:www", 100);
        bench.settings.important = important.iter().map(|p| Glob::new(p).unwrap()).collect();
        bench.deny(&["app:pool:batch"]);
        bench.looked(&[(51, Busy), (52, Idle(0)), (53, Busy)]);
        bench
    };
    let mut bench = scene(&[]);
    bench.decide();
    assert_eq!(bench.important().as_deref(), Some("pool:www"));
    assert_eq!(bench.run(), (vec![52, 51], "relieved"));
    // Both say of it what they say: then it loses its idle workers alone.
    let mut bench = scene(&["pool:batch"]);
    assert_eq!(bench.run(), (vec![52], "nobody-non-essential"));
    let mut bench = scene(&[]);
    bench.rest = 800;
    bench.world.holds(53, mib(1));
    assert_eq!(bench.run(), (vec![], "no-application-over-ratio"), "for nobody's sake");
}

#[test]
fn without_anybody_at_work_nobody_ends() {
    let mut bench = Bench::new();
    bench.rest = 900;
    bench.process(60, "a1", 100);
    assert_eq!(bench.run().1, "no-workloads");
    bench.deny(&["a1"]);
    assert_eq!(bench.run(), (vec![], "no-application-over-ratio"));
    // Of this one nobody has read who it is, and a list names it.
    bench.process(61, "a1", 1).world.unread(61);
    assert_eq!(bench.decide(), Verdict::NeedIdentity);
}
