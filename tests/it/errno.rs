//! One system call of the daemon fails: every kind that it makes, at every point of an episode,
//! with every error that the kernel may give there. strace is who lets it fail.
//!
//! Whatever failed: nobody ends but the largest notebook, nothing stays frozen or throttled that
//! nobody has noted, the daemon goes on or ends with a word why, and never spins.
//!
//! strace counts the calls of each thread for itself (`when=`), so that one point fails a call of
//! the loop, one of the helper and one of the writer, as far as each comes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nbguard::act::state::StateFile;
use nbguard::report::Incident;
use nbguard::units::Bytes;

use crate::daemon::{House, ground, is_kill, victim};
use crate::ground::{Container, Ground, PATIENCE, alone, wait_readable};
use crate::notebooks::Server;
use crate::{binary, skip};

const LIMIT: Bytes = Bytes::mib(128);
const WARNED: Bytes = Bytes::mib(105);
/// 90 % of it, and a little.
const PRESSED: Bytes = Bytes::mib(119);

/// A call, and the errors that it fails with. `brk` is not among them: it does not fail by a
/// negative result, so that the C library takes one for an address.
const CALLS: [(&str, &[&str]); 19] = [
    ("openat", &["EMFILE", "ENFILE", "ENOMEM", "EACCES", "ENOENT"]),
    ("openat2", &["EMFILE", "ENOMEM", "EACCES"]),
    ("open", &["EMFILE", "ENOMEM"]),
    ("write", &["ENOSPC", "EROFS", "EIO", "ENOMEM"]),
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("writev", &["ENOSPC", "EIO"]),
    ("read", &["EIO", "ENOMEM"]),
    ("pread64", &["EIO", "ENOMEM"]),
    ("rename", &["EROFS", "ENOSPC"]),
    ("mkdir", &["EROFS", "ENOSPC"]),
    ("ftruncate", &["EROFS", "EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("clone3", &["ENOMEM", "EAGAIN"]),
    ("mmap", &["ENOMEM"]),
    ("pidfd_open", &["EMFILE", "ENOMEM"]),
    ("pidfd_send_signal", &["ENOMEM", "EPERM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("inotify_add_watch", &["ENOMEM", "ENOSPC"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
];

/// How Rust's own start ends, before anything of ours runs.
const BEFORE_MAIN: &str = "failed to allocate an alternative stack";

/// What the loop waits with: where it spins, this is called without end.
const WAIT: &str = "epoll_wait";
/// An episode wakes it some dozen times, other tests beside it by inotify some thousand times; a loop
/// that spins comes to more within a second.
const WAITS_MAX: usize = 10_000;

/// What strace lets fail: the K-th call of each thread, or all from it on.
#[derive(Clone, Debug)]
struct Point {
    call: &'static str,
    errno: &'static str,
    from: usize,
    on: bool,
}

impl Point {
    fn words(&self) -> String {
        let on = if self.on { "+" } else { "" };
        format!("{}:error={}:when={}{on}", self.call, self.errno, self.from)
    }

    /// Nothing that it says arrives.
    fn is_mute(&self) -> bool {
        self.call == "write" && self.on
    }

    /// It hears no signal: those are read.
    fn is_deaf(&self) -> bool {
        self.call == "read" && self.on
    }

    /// What is said not to be there is gone like any other: containers and processes go without a
    /// word all the time.
    fn says_gone(&self) -> bool {
        self.errno == "ENOENT"
    }
}

/// What became of an episode.
#[derive(Debug, Default)]
struct Played {
    /// It ended before it guarded, and said why.
    ended: Option<String>,
    /// It went on, and the notebook lives, for this reason.
    spared: Option<String>,
    wrong: Vec<String>,
    log: String,
    trace: String,
}

fn trace_of(house: &House) -> String {
    fs::read_to_string(house.folder.path("trace")).unwrap_or_default()
}

/// Lines of the trace: a call's own, not where it goes on.
fn calls(trace: &str) -> impl Iterator<Item = (&str, &str)> {
    trace.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        let (call, _) = rest.trim_start().split_once('(')?;
        (!call.contains(' ')).then_some((thread, call))
    })
}

/// The most calls of this kind that one thread made.
fn most(trace: &str) -> BTreeMap<String, usize> {
    let mut of_thread: HashMap<(&str, &str), usize> = HashMap::new();
    for key in calls(trace) {
        *of_thread.entry(key).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((_, call), count) in of_thread {
        let so_far: &mut usize = most.entry(call.to_owned()).or_default();
        *so_far = count.max(*so_far);
    }
    most
}

/// What the largest notebook is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tree {
    Plain,
    /// Nobody of it is there when somebody comes: its container is frozen for the last sweep.
    Forking,
}

/// Each forks the next and exits.
const CHAIN: &str = "exec perl -e 'while (1) { exit if fork }'";

/// One whole episode: start, armed, warned, pressed, a kill, its record, stop.
fn play(ground: &Ground, tree: Tree, point: Option<&Point>) -> Played {
    let mut played = Played::default();
    let house = House::new(ground, "errno");
    let container = house.container(ground, LIMIT);
    let server = match tree {
        Tree::Plain => Server::start(&container, 2, 0),
        Tree::Forking => Server::restless(&container, 2, CHAIN),
    };
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    small.grow(Bytes::mib(20));
    let trace = house.folder.path("trace").display().to_string();
    let calls: Vec<&str> = CALLS.iter().map(|(call, _)| *call).collect();
    let traced = match point {
        Some(point) => format!("trace={},{WAIT}", point.call),
        None => format!("trace={},{WAIT}", calls.join(",")),
    };
    let mut words = strace(&trace, &traced);
    let inject = point.map(|point| format!("inject={}", point.words())).unwrap_or_default();
    if point.is_some() {
        words.extend(["-e", &inject]);
    }
    // What else there is on this machine would only make the range longer.
    let only = ["--only-cgroup", "docker"];
    let mut daemon = house.spawn_through(&words, &binary("nbguardd"), &only);
    match daemon.hears("READY=1", PATIENCE) {
        Ok(()) => {
            large.grow_to(&container, WARNED);
            eventually_for(Duration::from_secs(1), || daemon.stat_files() > 0);
            if tree == Tree::Forking {
                large.signal(libc::SIGUSR1);
                eventually_for(PATIENCE, || container.pids().len() >= 6);
            }
            large.grow_to(&container, PRESSED);
            // What failed once is tried again; what fails for good is not waited for.
            let patience = if point.is_some_and(|point| point.on) { 4 } else { 15 };
            if !wait_readable(&large.pidfd, Duration::from_secs(patience)) {
                played.spared = Some(why_spared(&house));
            }
            daemon.signal(libc::SIGTERM);
            let is_deaf = point.is_some_and(Point::is_deaf);
            // An end that is under way is not cut off all the same.
            let patience = if is_deaf { Duration::from_secs(1) } else { PATIENCE };
            if daemon.end_within(patience).is_none() && !is_deaf {
                played.wrong.push("it does not end".to_owned());
            }
        }
        Err(why) => match daemon.end_within(Duration::from_secs(2)) {
            Some(status) if status.success() => {
                played.wrong.push("ended well, and was not ready".to_owned())
            }
            Some(_) => {
                let log = house.log();
                let words = log.lines().rev().find(|line| {
                    line.starts_with("nbguardd: ")
                        || line.contains("memory allocation of")
                        || line.starts_with(BEFORE_MAIN)
                });
                match words {
                    Some(words) => played.ended = Some(words.to_owned()),
                    None if point.is_some_and(Point::is_mute) => {
                        played.ended = Some("(mute)".to_owned())
                    }
                    None => played.wrong.push(format!("ended without a word: {why}")),
                }
            }
            None => played.wrong.push(why),
        },
    }
    drop(daemon);
    // What strace has not written yet.
    eventually_for(Duration::from_secs(5), || !is_traced(&trace));
    check(&house, &container, &server, tree, point, &mut played);
    played.log = house.log();
    played.trace = trace_of(&house);
    played
}

/// Whether a strace writes there still.
fn is_traced(file: &str) -> bool {
    let Ok(all) = fs::read_dir("/proc") else { return false };
    all.flatten().any(|entry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        words.starts_with(b"strace\0")
            && words.split(|b| *b == 0).any(|word| word == file.as_bytes())
    })
}

fn eventually_for(patience: Duration, mut see: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !see() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The last reason that was written down.
fn why_spared(house: &House) -> String {
    let reason =
        house.records().pop().map(|incident| format!("{:?} {}", incident.kind, incident.reason));
    let log = house.log();
    let is_trouble = |line: &&str| line.starts_with("WARN") || line.starts_with("ERROR");
    let warning = log.lines().rev().find(is_trouble).map(str::to_owned);
    match (reason, warning) {
        (None, None) => String::new(),
        (reason, warning) => {
            format!("{} | {}", reason.unwrap_or_default(), warning.unwrap_or_default())
        }
    }
}

fn check(
    house: &House,
    container: &Container,
    server: &Server,
    tree: Tree,
    point: Option<&Point>,
    played: &mut Played,
) {
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let mut found = Vec::new();
    let mut wrong = |what: String| found.push(what);
    if !small.is_alive() || !server.is_alive() {
        wrong("somebody innocent was ended".to_owned());
    }
    if played.ended.is_some() && !large.is_alive() {
        wrong("it guards nobody and has ended one".to_owned());
    }
    // A chain of which nobody can be found or ended any more, or that is spared for a reason that
    // was given, grows on until the kernel acts. Of it some exit by themselves meanwhile, and more
    // come.
    let grows_on =
        tree == Tree::Forking && (played.spared.is_some() || point.is_some_and(|point| point.on));
    // Both processes of it, or none.
    let left = container.pids().len();
    if !large.is_alive() && left != 3 {
        eventually_for(Duration::from_secs(2), || container.pids().len() == 3);
        let is_told = |incident: &Incident| {
            incident.victim.as_ref().is_some_and(|victim| !victim.refused.is_empty())
        };
        let told = point.is_some_and(|point| point.on) && house.records().iter().any(is_told);
        if container.pids().len() != 3 && !told && !grows_on {
            wrong(format!("half of it lives: {left} processes"));
        }
    }
    if played.spared.as_ref().is_some_and(String::is_empty)
        && !point.is_some_and(|point| point.is_mute() || point.says_gone())
    {
        wrong("the largest lives, and nobody says why".to_owned());
    }
    // One whom nobody could signal is written down as well.
    let is_end = |incident: &Incident| {
        is_kill(incident) && incident.victim.as_ref().is_some_and(|victim| victim.signalled > 0)
    };
    let kills: Vec<_> = house.records().into_iter().filter(is_end).collect();
    if (kills.len() > 1 && !grows_on)
        || kills.iter().any(|kill| victim(kill) != Some(large.path.as_str()))
    {
        wrong(format!("{} kills", kills.len()));
    }
    let log = house.log();
    if log.contains("panicked at") && !log.contains(BEFORE_MAIN) {
        wrong("panic".to_owned());
    }
    if container.oom_kills() > 0 && !grows_on {
        wrong("the kernel's own killer acted".to_owned());
    }
    let waits = calls(&trace_of(house)).filter(|(_, call)| *call == WAIT).count();
    if waits > WAITS_MAX {
        wrong(format!("it spins: {waits} times woken"));
    }
    // One call that fails once is no reason to spare anybody, unless the guard itself ended.
    if let (Some(point), Some(why)) = (point, &played.spared)
        && !point.on
        && !point.says_gone()
        && !["EACCES", "EROFS"].contains(&point.errno)
        // What could not be armed or read is tried again later, and a chain may grow faster.
        && !(tree == Tree::Forking && container.oom_kills() > 0)
    {
        wrong(format!("it is spared: {why}"));
    }
    let is_left = || container.is_frozen() || container.high().is_some_and(|high| high != "max");
    if is_left() {
        let noted = StateFile::read(&house.folder.path("state/state.json")).unwrap_or_default();
        if noted.changed.is_empty() {
            wrong("something is left that nobody has noted".to_owned());
        }
        let mut restore = Command::new(binary("nbguard"));
        let _ = restore.arg("--config").arg(house.config()).arg("restore").status();
        if is_left() {
            wrong("what is left is not put back".to_owned());
        }
    }
    played.wrong.append(&mut found);
}

/// Whether processes can be traced here; if not, says why.
pub fn has_strace() -> bool {
    let there = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
    match there {
        Err(error) => skip(format!("strace: {error}")),
        Ok(done) if !done.status.success() => {
            skip(format!("strace: {}", String::from_utf8_lossy(&done.stderr).trim()));
        }
        Ok(_) => return true,
    }
    false
}

/// What the daemon is started through, so that strace sees these calls and writes them there. It
/// stays our child (-D), and strace is a grandchild.
pub fn strace<'a>(trace: &'a str, calls: &'a str) -> Vec<&'a str> {
    vec!["strace", "-D", "-f", "-q", "-o", trace, "-e", calls, "-e", "signal=none"]
}

/// How often each call is made in an episode in which nothing fails.
fn baseline(ground: &Ground, tree: Tree) -> Option<BTreeMap<String, usize>> {
    if !has_strace() {
        return None;
    }
    let played = play(ground, tree, None);
    assert!(played.wrong.is_empty() && played.spared.is_none(), "{played:?}");
    let most = most(&played.trace);
    println!("{tree:?}: calls of one thread: {most:?}");
    println!("{tree:?}: frozen: {}", played.trace.contains("cgroup.freeze\", O_WRONLY"));
    Some(most)
}

#[derive(Default)]
struct Sum {
    played: usize,
    went_on: usize,
    spared: usize,
    ended: usize,
    wrong: Vec<String>,
}

impl Sum {
    fn play(&mut self, ground: &Ground, tree: Tree, point: &Point) {
        let began = Instant::now();
        let played = play(ground, tree, Some(point));
        let words = format!("{tree:?} {}: {:.1} s", point.words(), began.elapsed().as_secs_f32());
        self.played += 1;
        if !played.wrong.is_empty() {
            let hit = played.trace.lines().filter(|line| line.contains("(INJECTED)")).take(5);
            let hit: Vec<&str> = hit.collect();
            println!("{words}: WRONG\n{played:#?}\n{}\n{}", hit.join("\n"), played.log);
            self.wrong.push(format!("{words}: {:?}", played.wrong));
            return;
        }
        match (&played.ended, &played.spared) {
            (Some(why), _) => {
                self.ended += 1;
                println!("{words}: ended: {why}");
            }
            (None, Some(why)) => {
                self.spared += 1;
                println!("{words}: spared: {why}");
            }
            (None, None) => self.went_on += 1,
        }
    }

    fn told(&self, began: Instant) {
        println!(
            "{} points in {:.0} s: {} went on and ended the right one, {} went on and said why \
             not, {} ended with a word, wrong: {}",
            self.played,
            began.elapsed().as_secs_f32(),
            self.went_on,
            self.spared,
            self.ended,
            self.wrong.len()
        );
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

/// Points at which something went wrong once, and one of each kind.
const QUICK: [(&str, &str, usize, bool); 14] = [
    ("openat", "ENOENT", 20, false),
    ("openat", "EMFILE", 31, false),
    ("openat", "EMFILE", 44, false),
    ("openat", "ENFILE", 177, false),
    ("write", "ENOSPC", 4, false),
    ("write", "EIO", 9, true),
    ("pread64", "ENOMEM", 2, false),
    ("rename", "EROFS", 1, true),
    ("mkdir", "EROFS", 1, false),
    ("clone3", "ENOMEM", 3, false),
    ("pidfd_open", "ENOMEM", 3, false),
    ("pidfd_send_signal", "EPERM", 2, false),
    ("epoll_ctl", "ENOMEM", 9, false),
    ("eventfd2", "EMFILE", 4, false),
];

#[test]
fn a_call_that_fails_costs_nobody_but_the_largest() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    if baseline(&ground, Tree::Plain).is_none() {
        return;
    }
    let (began, mut sum) = (Instant::now(), Sum::default());
    for (call, errno, from, on) in QUICK {
        sum.play(&ground, Tree::Plain, &Point { call, errno, from, on });
    }
    sum.told(began);
}

/// Of each call and error so many points where one fails, and where all fail from there on.
const EACH: usize = 12;
const EACH_ON: usize = 3;

/// `NBGUARD_ERRNO_ONLY` names the calls, where not all are wanted.
#[test]
#[ignore = "a quarter of an hour: tests/run --all"]
fn whichever_call_fails_nobody_ends_but_the_largest_and_nothing_is_left() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let only = std::env::var("NBGUARD_ERRNO_ONLY").ok();
    let is_wanted =
        |call: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == call));
    let (began, mut sum) = (Instant::now(), Sum::default());
    for tree in [Tree::Plain, Tree::Forking] {
        let Some(most) = baseline(&ground, tree) else { return };
        for (call, errnos) in CALLS {
            let Some(count) = most.get(call).copied().filter(|_| is_wanted(call)) else { continue };
            // What matters of it is how it is ended.
            let ends = ["openat", "write", "pidfd_open", "pidfd_send_signal"].contains(&call);
            if tree == Tree::Forking && !ends {
                continue;
            }
            for (number, errno) in errnos.iter().enumerate() {
                for (each, on) in [(EACH, false), (EACH_ON, true)] {
                    let stride = count.div_ceil(each).max(1);
                    // Each error begins elsewhere, so that together they come by more calls.
                    let first = 1 + number * stride / errnos.len();
                    for from in (first..=count).step_by(stride) {
                        sum.play(&ground, tree, &Point { call, errno, from, on });
                    }
                }
            }
        }
    }
    sum.told(began);
}
