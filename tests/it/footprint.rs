//! What it costs to have the daemon: memory, descriptors and wake-ups while nothing happens, with
//! a hundred containers watched, and that no number of containers coming and going changes that.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nbguard::report::Incident;
use nbguard::sys::psi;
use nbguard::units::{Bytes, StallKind, Trigger};

use crate::daemon::{Daemon, House, shipped};
use crate::ground::{Container, Ground, alone, eventually};
use crate::notebooks::Server;
use crate::skip;

const WATCHED: usize = 100;
/// DESIGN.md, section 2.
const RSS_KIB: u64 = 3 << 10;
const ANON_KIB: u64 = 1 << 10;
/// Of one more. Tables grow by doubling, so it is measured over two hundred.
const EACH_KIB: u64 = 2;
/// Pages that the first scrape touches and that no heap is (the stack of the loop's thread), and
/// who the fifty notebooks are, which is known from then on.
const LEFT_KIB: u64 = 128;
/// What two measurements of the same thing may differ by; three times the containers are three
/// times the work of a loop that looks at each.
const SAME: f64 = 1.3;
/// Of v2: directory, memory.stat, .events, .current, swap and the PSI trigger; of v1: the same
/// with the v2 directory and three event descriptors.
const DESCRIPTORS_EACH: usize = 9;
/// Standard streams, /proc, epoll, signalfd, inotify, two eventfds, lock, kmsg, log, records, PSI,
/// two doors and the folders they are in.
const DESCRIPTORS_OWN: usize = 28;
/// Windows that other people's containers may spoil (each that comes or goes wakes any guard).
const WINDOWS: usize = 3;
const CHURN: usize = 500;
/// As many at a time as a busy host starts at once.
const WAVE: usize = 50;

fn prepared() -> Option<(Ground, PathBuf)> {
    let binary = shipped().map_err(skip).ok()?;
    Some((Ground::find().map_err(skip).ok()?, binary))
}

/// A container with a process in it.
struct Inhabited {
    container: Container,
    first: Child,
}

impl Drop for Inhabited {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        self.container.remove();
    }
}

fn containers(ground: &Ground, house: &House, count: usize) -> Vec<Inhabited> {
    let make = |_| {
        let first = Command::new("sleep").arg("infinity").spawn().unwrap();
        let container = house.container_of(ground, Bytes::mib(256), &first);
        Inhabited { container, first }
    };
    (0..count).map(make).collect()
}

/// Waits until the daemon watches this many containers of the test.
fn wait_watched(house: &House, count: usize) {
    house.wait("all are watched", |house| {
        let seen = house.log().lines().filter(|line| line.contains("watching \"nb-")).count();
        (seen >= count).then_some(())
    });
}

/// Waits until it has done all that a start brings, and sleeps.
fn settle(daemon: &Daemon) {
    eventually("the daemon sleeps", || {
        let before = daemon.switches();
        thread::sleep(Duration::from_secs(1));
        (daemon.switches() == before).then_some(())
    });
}

#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_hundred_watched_containers_cost_three_mebibytes_and_no_wake_up() {
    let _alone = alone();
    let Some((ground, binary)) = prepared() else { return };
    let house = House::new(&ground, "footprint");
    let mut made = containers(&ground, &house, WATCHED);
    let daemon = house.start(&binary, &[]);
    wait_watched(&house, WATCHED);
    settle(&daemon);
    let (rss, anon, _) = told(&daemon);
    // Afterwards: an answer takes memory that is given back only a minute later.
    let few = cost_of_a_wake_up(&daemon, &house);
    made.extend(containers(&ground, &house, 2 * WATCHED));
    wait_watched(&house, 3 * WATCHED);
    settle(&daemon);
    let (grown, _, descriptors) = told(&daemon);
    let many = cost_of_a_wake_up(&daemon, &house);
    println!("a wake-up costs {few:?} with {WATCHED} containers, {many:?} with {}", 3 * WATCHED);
    assert!(many <= few.mul_f64(SAME), "the work of a wake-up grows: {few:?} became {many:?}");
    settle(&daemon);
    assert!(daemon.status("VmLck") > 0, "memory is not locked:\n{}", house.log());
    assert!(rss <= RSS_KIB, "RSS {rss} KiB, at most {RSS_KIB}");
    assert!(anon <= ANON_KIB, "anonymous {anon} KiB, at most {ANON_KIB}");
    let (growth, more) = (grown.saturating_sub(rss), 2 * WATCHED);
    assert!(growth <= EACH_KIB * more as u64, "{more} more containers cost {growth} KiB");
    let most = DESCRIPTORS_OWN + DESCRIPTORS_EACH * 3 * WATCHED;
    assert!(descriptors <= most, "{descriptors} descriptors, at most {most}");
    assert_sleeps(&daemon);
    let began = Instant::now();
    daemon.stop();
    let (stopped, one) = (began.elapsed(), cost_of_a_close());
    println!(
        "a stop with {} containers takes {stopped:?}, closing one trigger {one:?}",
        3 * WATCHED
    );
    assert!(stopped < one * (2 * WATCHED) as u32, "the triggers were closed one after the other");
}

/// Of a trigger: it waits for the kernel.
fn cost_of_a_close() -> Duration {
    let trigger = Trigger::new(StallKind::Some, 150_000, 2_000_000).unwrap();
    let open = || Ok(File::options().read(true).write(true).open("/proc/pressure/memory")?.into());
    let armed: Vec<_> = (0..16).map(|_| psi::arm(open, trigger).unwrap()).collect();
    let (began, count) = (Instant::now(), armed.len());
    drop(armed);
    began.elapsed() / u32::try_from(count).unwrap()
}

/// What a scrape costs is there while somebody scrapes; a minute later it is given back.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_scrape_every_fifteen_seconds_keeps_the_promise_and_leaves_nothing_behind() {
    let _alone = alone();
    let Some((ground, binary)) = prepared() else { return };
    let house = House::new(&ground, "footprint-scrape");
    const BUSY: usize = 10;
    let made = containers(&ground, &house, WATCHED - BUSY);
    let busy: Vec<Container> =
        (0..BUSY).map(|_| house.container(&ground, Bytes::mib(256))).collect();
    let servers: Vec<Server> = busy.iter().map(|c| Server::start(c, 5, 0)).collect();
    let daemon = house.start(&binary, &[]);
    wait_watched(&house, WATCHED);
    settle(&daemon);
    let (before, _, _) = told(&daemon);
    let switches = daemon.switches();
    const SCRAPES: u64 = 4;
    for _ in 0..SCRAPES {
        let began = Instant::now();
        let text = scrape(&house);
        println!("{} bytes in {:?}", text.len(), began.elapsed());
        thread::sleep(Duration::from_secs(15));
        let (rss, anon, _) = told(&daemon);
        assert!(rss <= RSS_KIB, "RSS {rss} KiB between scrapes, at most {RSS_KIB}");
        assert!(anon <= ANON_KIB, "anonymous {anon} KiB, at most {ANON_KIB}");
    }
    println!("{} context switches for {SCRAPES} scrapes", daemon.switches() - switches);
    thread::sleep(Duration::from_secs(61));
    settle(&daemon);
    let (after, _, _) = told(&daemon);
    assert!(after <= before + LEFT_KIB, "RSS {before} KiB before, {after} a minute after");
    assert_sleeps(&daemon);
    drop((servers, busy, made));
    assert!(daemon.stop().success());
}

/// The processor's time of the loop for one wake-up that concerns no container: whatever it does
/// for each of them is in it. The best of several rounds: what others do only adds.
fn cost_of_a_wake_up(daemon: &Daemon, house: &House) -> Duration {
    const ASKED: u32 = 400;
    let worked = || {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", daemon.pid())).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let round = |_| {
        let before = worked();
        for _ in 0..ASKED {
            let mut stream = UnixStream::connect(house.folder.path("http.sock")).unwrap();
            stream.write_all(b"GET /nothing HTTP/1.1\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        }
        (worked() - before) / ASKED
    };
    (0..20).map(round).min().unwrap()
}

fn scrape(house: &House) -> String {
    let mut stream = UnixStream::connect(house.folder.path("http.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

/// RSS and anonymous memory in KiB, and descriptors.
fn told(daemon: &Daemon) -> (u64, u64, usize) {
    let (rss, anon) = (daemon.status("VmRSS"), daemon.status("RssAnon"));
    let (watches, descriptors) = (daemon.watches(), daemon.descriptors());
    println!("RSS {rss} KiB, anonymous {anon}, {descriptors} descriptors, {watches} watches");
    (rss, anon, descriptors)
}

/// A window without a single context switch: nothing in the daemon wakes it by the clock.
fn assert_sleeps(daemon: &Daemon) {
    let quick = std::env::var_os("NBGUARD_QUICK").is_some();
    let window = Duration::from_secs(if quick { 10 } else { 60 });
    let mut spoiled = Vec::new();
    for _ in 0..WINDOWS {
        let before = daemon.switches();
        thread::sleep(window);
        let switches = daemon.switches() - before;
        println!("{switches} context switches in {window:?}");
        if switches == 0 {
            return;
        }
        spoiled.push(switches);
    }
    panic!("context switches in {WINDOWS} windows of {window:?}: {spoiled:?}");
}

#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn containers_that_come_and_go_are_all_seen_and_leave_nothing_behind() {
    let _alone = alone();
    let Some((ground, binary)) = prepared() else { return };
    let house = House::new(&ground, "churn");
    let daemon = house.start(&binary, &[]);
    // One wave first: vectors and tables have their room after it.
    churn(&ground, &house, WAVE);
    let start = wait_back(&daemon, None);
    for wave in 2..=1 + CHURN / WAVE {
        churn(&ground, &house, wave * WAVE);
    }
    let end = wait_back(&daemon, Some(start));
    println!("descriptors and watches before {start:?}, after {end:?}");
    let log = house.log();
    let gone = |log: &str| log.lines().filter(|line| line.contains("watched no longer")).count();
    assert_eq!(gone(&log), CHURN + WAVE, "each was let go once");
    println!("RSS {} KiB", daemon.status("VmRSS"));
    assert!(daemon.status("VmRSS") <= RSS_KIB, "RSS {} KiB", daemon.status("VmRSS"));
    assert!(daemon.stop().success());
}

/// Five hundred are there all the time, fifty go and fifty come in each round, and in each a
/// notebook ends. Ten minutes of it in `tests/run --all`, one otherwise.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn containers_that_come_and_go_while_notebooks_end_leave_nothing_behind() {
    let _alone = alone();
    let Some((ground, binary)) = prepared() else { return };
    let seconds = std::env::var("NBGUARD_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(60));
    let house = House::new(&ground, "churn-and-kills");
    let daemon = house.start(&binary, &[]);
    let mut there = VecDeque::new();
    for wave in 1..=CHURN / WAVE {
        there.extend(containers(&ground, &house, WAVE));
        wait_watched(&house, wave * WAVE);
    }
    // Each was renewed once: the heap is as mixed as it will be.
    for _ in 0..CHURN / WAVE {
        end_one_and_renew(&ground, &house, &mut there);
    }
    let start = wait_back(&daemon, None);
    let rss = daemon.status("VmRSS");
    let (mut rounds, began) = (CHURN / WAVE, Instant::now());
    while began.elapsed() < time {
        end_one_and_renew(&ground, &house, &mut there);
        rounds += 1;
    }
    let end = wait_back(&daemon, Some(start));
    let grown = daemon.status("VmRSS");
    println!("{rounds} rounds; descriptors and watches before {start:?}, after {end:?}");
    println!("RSS {rss} KiB, after {grown} KiB");
    assert_eq!(house.records().len(), rounds, "one record each");
    assert!(grown <= rss + LEFT_KIB, "RSS {rss} KiB became {grown} KiB");
    // Not stopped: each PSI trigger takes the kernel an RCU grace period to close (12 ms here, and
    // several times that where the machine is busy), and there are five hundred.
    drop(daemon);
}

fn end_one_and_renew(ground: &Ground, house: &House, there: &mut VecDeque<Inhabited>) {
    for inhabited in there.drain(..WAVE) {
        house.forget(&inhabited.container);
    }
    let container = house.container(ground, Bytes::mib(256));
    let server = Server::start(&container, 2, 1);
    server.notebooks[0].grow(Bytes::mib(20));
    server.notebooks[1].grow_to(&container, Bytes::mib(236));
    let of_it = |i: &Incident| i.container.as_ref().is_some_and(|c| c.id == container.id);
    let incident = house.record("a kill", of_it);
    let ended = incident.victim.and_then(|victim| victim.notebook);
    assert_eq!(ended.as_ref(), Some(&server.notebooks[1].path));
    server.notebooks[1].wait_dead();
    assert!(server.notebooks[0].is_alive() && server.is_alive());
    house.forget(&container);
    there.extend(containers(ground, house, WAVE));
}

/// A wave of containers comes, is seen, and goes.
fn churn(ground: &Ground, house: &House, seen: usize) {
    let wave = containers(ground, house, WAVE);
    wait_watched(house, seen);
    for inhabited in wave {
        house.forget(&inhabited.container);
        drop(inhabited);
    }
    house.wait("all are let go", |house| {
        let log = house.log();
        let gone = log.lines().filter(|line| line.contains("watched no longer")).count();
        (gone >= seen).then_some(())
    });
}

/// Descriptors and watches, when they are (back) where they were.
fn wait_back(daemon: &Daemon, start: Option<(usize, usize)>) -> (usize, usize) {
    settle(daemon);
    let now = (daemon.descriptors(), daemon.watches());
    if let Some(start) = start {
        assert!(now.0 <= start.0 && now.1 <= start.1, "{start:?} became {now:?}");
    }
    now
}
