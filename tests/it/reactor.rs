//! The real loop on this machine's kernel: the daemon as a child, containers with a limit, and
//! stand-in notebooks that hold what they are given. What it did is read from its records, from
//! who is dead, and from the cgroup's files.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nbguard::report::{Incident, Kind, Verdict};
use nbguard::units::Bytes;

use crate::binary;
use crate::daemon::{House, ground, is_kill, start, victim};
use crate::errno::{has_strace, strace};
use crate::ground::{Container, Ground, alone, eventually};
use crate::notebooks::{Server, Stranger};

const LIMIT: Bytes = Bytes::mib(256);
/// Above 80 % of it.
const WARNED: Bytes = Bytes::mib(210);
/// 90 % of it, and a little, so that the kernel's batches do not hide the crossing.
const PRESSED: Bytes = Bytes::mib(236);

fn container(ground: &Ground, house: &House) -> Container {
    house.container(ground, LIMIT)
}

fn is_hold(incident: &Incident) -> bool {
    incident.kind == Kind::Hold
}

#[test]
fn the_largest_ends_with_its_children_and_everybody_else_lives() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "largest");
    let container = container(&ground, &house);
    let server = Server::start(&container, 3, 2);
    let [small, middle, large] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    small.grow(Bytes::mib(10));
    middle.grow(Bytes::mib(60));
    assert_eq!(daemon.stat_files(), 0, "usage is low");
    large.grow_to(&container, WARNED);
    let all = container.pids().len();
    eventually("stat is at hand", || (daemon.stat_files() == all).then_some(()));
    large.grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    large.wait_dead();
    assert!(small.is_alive() && middle.is_alive() && server.is_alive());
    assert_eq!(container.oom_kills(), 0, "the kernel's own killer acted");
    assert_eq!(container.pids().len(), 1 + 2 * 4, "the whole tree is gone, nobody else");
    check_record(&incident, &container, large.pid);
    eventually("nothing is kept", || (daemon.stat_files() == 0).then_some(()));
    assert!(daemon.stop().success());
}

fn check_record(incident: &Incident, container: &Container, pid: u32) {
    let told = incident.container.as_ref().unwrap();
    assert_eq!((told.id.as_str(), told.name.clone()), (container.id.as_str(), container.name()));
    assert_eq!(told.image, "quay.io/jupyter/scipy-notebook");
    assert_eq!((incident.verdict, incident.dry_run), (Verdict::Kill, false));
    assert_eq!((incident.domain.as_str(), incident.reason.as_str()), ("container", "largest"));
    assert_eq!(incident.figures.total, LIMIT);
    assert!(incident.figures.unreclaimable >= Bytes::mib(220), "{:?}", incident.figures);
    let victim = incident.victim.as_ref().unwrap();
    assert_eq!(victim.pid, pid);
    assert_eq!(victim.notebook.as_deref(), Some("/home/jovyan/2.ipynb"));
    assert_eq!(victim.kernel_id.as_deref(), Some("00000002-0000-4000-8000-000000000000"));
    assert_eq!((victim.signals.join(" "), victim.signalled), ("KILL".to_owned(), 4));
    assert!(victim.refused.is_empty(), "{:?}", victim.refused);
    let notebooks: Vec<_> = incident.rows.iter().map(|row| row.notebook.as_deref()).collect();
    let path = |at: u32| format!("/home/jovyan/{at}.ipynb");
    let order = [2, 1, 0].map(path);
    assert_eq!(notebooks, order.iter().map(|path| Some(path.as_str())).collect::<Vec<_>>());
    for (row, eligible) in incident.rows.iter().zip(["yes", "yes", "below-min-share"]) {
        assert_eq!((row.members.len(), row.eligible.as_str()), (4, eligible), "{row:?}");
        assert!(row.lower <= row.upper && row.lower <= row.memory, "{row:?}");
    }
    assert_eq!(incident.servers.len(), 1);
    assert_eq!(incident.unattributed.count, 0);
    let timings = incident.timings;
    let order = [timings.event_to_decision_us, timings.event_to_signal_us];
    assert!(order[0].is_some() && order[0] <= order[1], "{timings:?}");
    let order = [timings.signal_to_dead_us, timings.signal_to_back_us];
    assert!(order[0].is_some() && order[0] <= order[1], "{timings:?}");
    assert!(incident.freed.unwrap() >= Bytes::mib(120), "{:?}", incident.freed);
    assert_eq!(incident.kernel_oom_kills, 0);
}

#[test]
fn a_guard_that_was_killed_in_mid_episode_finishes_it_when_it_is_back() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "killed");
    let container = container(&ground, &house);
    let server = Server::stubborn(&container, 2);
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    house.configure("signals = [\"TERM\", \"KILL\"]\ngrace = \"5m\"");
    let daemon = start(&house);
    small.grow(Bytes::mib(40));
    large.grow_to(&container, PRESSED);
    server.wait_term();
    daemon.kill();
    assert!(large.is_alive(), "only SIGTERM was sent");
    house.configure("");
    let daemon = start(&house);
    large.wait_dead();
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(large.path.as_str()));
    assert!(small.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
    assert!(container.high().is_none_or(|high| high == "max"), "what was found is back");
}

#[test]
fn a_bad_configuration_is_refused_at_reload_and_the_old_one_stays() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "reload");
    let container = container(&ground, &house);
    let server = Server::start(&container, 1, 0);
    let mut daemon = start(&house);
    house.configure("dry_run = true\nthreshhold = \"50%\"");
    daemon.reload();
    house.told("the configuration stays as it was", 0);
    house.told("threshold", house.log().find("stays as it was").unwrap());
    server.notebooks[0].grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert!(!incident.dry_run);
    server.notebooks[0].wait_dead();
    assert!(daemon.stop().success());
}

#[test]
fn a_good_configuration_counts_from_the_reload_on() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "reload-good");
    let container = container(&ground, &house);
    let server = Server::start(&container, 1, 0);
    let mut daemon = start(&house);
    server.notebooks[0].grow_to(&container, Bytes::mib(150));
    house.configure("threshold = \"50%\"\nwarning = \"40%\"");
    daemon.signal(libc::SIGHUP);
    daemon.hear("READY=1");
    let incident = house.record("a kill", is_kill);
    assert_eq!(incident.figures.threshold, Bytes::mib(128));
    server.notebooks[0].wait_dead();
    assert!(daemon.stop().success());
}

#[test]
fn a_clean_stop_leaves_everything_as_it_was_found() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "stop");
    let container = container(&ground, &house);
    let found = container.high();
    let daemon = start(&house);
    if found.is_some() {
        assert_ne!(container.high(), found, "the tripwire stands");
    }
    assert!(daemon.stop().success());
    assert_eq!(container.high(), found);
    let state = fs::read_to_string(house.folder.path("state/state.json")).unwrap_or_default();
    assert!(!state.contains(&container.id), "{state}");
    assert!(start(&house).stop().success(), "and the lock is free");
}

#[test]
fn a_second_guard_does_not_start_and_the_first_goes_on() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "second");
    let container = container(&ground, &house);
    let server = Server::start(&container, 1, 0);
    let mut first = start(&house);
    let mut second = house.spawn(&binary("nbguardd"), &[]);
    assert_eq!(second.end().code(), Some(4), "{}", house.log());
    house.told("another nbguardd holds this lock", 0);
    assert!(first.is_running());
    server.notebooks[0].grow_to(&container, PRESSED);
    server.notebooks[0].wait_dead();
    house.record("a kill", is_kill);
}

#[test]
fn a_full_disk_costs_the_record_and_nothing_else() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let mut house = House::new(&ground, "full");
    house.record_to("/dev/full");
    let container = container(&ground, &house);
    let server = Server::start(&container, 2, 0);
    let mut daemon = start(&house);
    for notebook in &server.notebooks {
        let from = house.log().len();
        notebook.grow_to(&container, PRESSED);
        notebook.wait_dead();
        // The journal's line is there even so.
        house.told(&notebook.path, from);
    }
    house.told("could not be written, skipped", 0);
    assert!(daemon.is_running());
    assert!(daemon.stop().success());
}

#[test]
fn a_container_that_goes_in_mid_episode_takes_nothing_with_it() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "removed");
    house.configure("signals = [\"TERM\", \"KILL\"]\ngrace = \"5m\"");
    let mut daemon = start(&house);
    let descriptors = daemon.descriptors();
    let first = container(&ground, &house);
    let server = Server::stubborn(&first, 1);
    house.told(&first.name(), 0);
    server.notebooks[0].grow_to(&first, PRESSED);
    server.wait_term();
    first.remove();
    drop(server);
    let incident = house.record("what was known of it", is_kill);
    assert_eq!(victim(&incident), Some("/home/jovyan/0.ipynb"));
    // The file of records is open from the first record on.
    eventually("descriptors are back", || (daemon.descriptors() <= descriptors + 1).then_some(()));
    house.configure("");
    daemon.reload();
    let second = container(&ground, &house);
    let server = Server::start(&second, 1, 0);
    house.told(&second.name(), 0);
    server.notebooks[0].grow_to(&second, PRESSED);
    let of_second = |i: &Incident| is_kill(i) && i.container.as_ref().unwrap().id == second.id;
    house.record("a kill in the next container", of_second);
    server.notebooks[0].wait_dead();
    assert!(daemon.stop().success());
}

#[test]
fn a_container_whose_engine_describes_it_late_is_guarded_as_its_rule_says() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "late");
    let daemon = start(&house);
    let id = ground.next_id();
    let container = ground.make(id.clone(), LIMIT).unwrap();
    // All are ignored but those whose names a rule knows, and this one has no name yet.
    house.told(&format!("{:?}: a rule or label says to ignore it", &id[..12]), 0);
    house.describe(&id, 0);
    house.told(&format!("watching {:?}", container.name()), 0);
    assert!(daemon.stop().success());
}

/// A container made inside another one, as its own engine makes it: no engine of the host knows it.
struct Nested(Vec<PathBuf>);

impl Nested {
    fn new(outer: &Container, id: &str) -> Nested {
        let dirs = outer.procs().into_iter().map(|procs| procs.with_file_name("docker").join(id));
        let nested = Nested(dirs.collect());
        for dir in &nested.0 {
            fs::create_dir_all(dir).unwrap();
        }
        nested
    }

    fn limit(&self, limit: Bytes) {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|name| self.0[0].join(name));
        let file = files.iter().find(|file| file.exists()).unwrap();
        fs::write(file, limit.0.to_string()).unwrap();
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        for dir in &self.0 {
            let _ = fs::remove_dir(dir);
            let _ = fs::remove_dir(dir.parent().unwrap());
        }
    }
}

#[test]
fn a_nested_container_that_got_a_limit_is_heard_of_when_it_gets_another() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "nested");
    // Nobody knows its name, so it is called by its id, which begins with the tag.
    house.configure(&format!("[[rule]]\nname = \"{}\"\nignore = false", ground.tag));
    let outer = container(&ground, &house);
    let mut daemon = start(&house);
    let inner = Nested::new(&outer, &ground.next_id());
    house.told(&outer.name(), 0);
    let words = |limit: Bytes| format!("{:?}: limit {limit}", ground.tag);
    inner.limit(Bytes::mib(128));
    house.told(&words(Bytes::mib(128)), 0);
    // All groups are looked at again.
    daemon.reload();
    inner.limit(Bytes::mib(96));
    house.told(&format!("{:?}: the limit is now {}", ground.tag, Bytes::mib(96).0), 0);
    assert!(daemon.stop().success());
}

/// As an engine does it: the group first, its limit a moment later, while it is being looked at.
/// Each watch takes 20 ms to be put up here, so that some of the limits come in between.
#[test]
fn a_limit_that_comes_while_its_watch_is_put_up_is_seen() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    if !has_strace() {
        return;
    }
    let house = House::new(&ground, "at-once");
    house.configure(&format!("[[rule]]\nname = \"{}\"\nignore = false", ground.tag));
    let outer = container(&ground, &house);
    let mut slow = strace("/dev/null", "trace=inotify_add_watch");
    slow.extend(["-e", "inject=inotify_add_watch:delay_enter=20000"]);
    let daemon = house.start_through(&slow, &binary("nbguardd"));
    let words = format!("{:?}: limit {}", ground.tag, Bytes::mib(128));
    let inner: Vec<Nested> = (0..12)
        .map(|at| {
            let nested = Nested::new(&outer, &ground.next_id());
            thread::sleep(Duration::from_millis(4 * at));
            nested.limit(Bytes::mib(128));
            house.wait(&format!("the limit after {} ms", 4 * at), |house| {
                (house.log().matches(&words).count() > at as usize).then_some(())
            });
            nested
        })
        .collect();
    drop(inner);
    assert!(daemon.stop().success());
}

#[test]
fn a_dry_run_decides_and_touches_nothing() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "dry-run");
    let container = container(&ground, &house);
    let found = container.high();
    let server = Server::start(&container, 2, 0);
    let daemon = house.start(&binary("nbguardd"), &["--dry-run"]);
    server.notebooks[0].grow(Bytes::mib(20));
    server.notebooks[1].grow_to(&container, PRESSED);
    let incident = house.record("what would have been done", is_kill);
    assert!(incident.dry_run);
    assert_eq!(victim(&incident), Some(server.notebooks[1].path.as_str()));
    assert_eq!(incident.victim.as_ref().unwrap().signalled, 0);
    assert!(server.notebooks.iter().all(|notebook| notebook.is_alive()));
    assert_eq!(container.high(), found);
    assert!(daemon.stop().success());
}

#[test]
fn who_is_protected_stays_and_the_next_one_ends_if_that_suffices() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "protected");
    house.configure("[protect]\nnotebooks = [\"0.ipynb\"]");
    let container = container(&ground, &house);
    let server = Server::start(&container, 2, 0);
    let [protected, other] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    other.grow(Bytes::mib(90));
    protected.grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(other.path.as_str()));
    let row = incident.rows.iter().find(|row| row.pid == protected.pid).unwrap();
    assert_ne!(row.eligible, "yes", "{row:?}");
    other.wait_dead();
    assert!(protected.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
}

#[test]
fn nobody_ends_when_everybody_is_protected() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "all-protected");
    house.configure("protect = true");
    let container = container(&ground, &house);
    let server = Server::start(&container, 2, 0);
    let daemon = start(&house);
    server.notebooks[0].grow(Bytes::mib(20));
    server.notebooks[1].grow_to(&container, PRESSED);
    let incident = house.record("a hold", is_hold);
    assert_eq!(incident.reason, "all-protected", "{}", incident.sentence);
    assert_eq!((incident.verdict, &incident.victim), (Verdict::Hold, &None));
    assert!(server.notebooks.iter().all(|notebook| notebook.is_alive()));
    // What holds it back is lifted, so that the kernel can do its work.
    assert!(container.high().is_none_or(|high| high == "max"), "{:?}", container.high());
    assert!(daemon.stop().success());
}

#[test]
fn a_hog_that_is_no_notebook_costs_no_notebook() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "stranger");
    let container = container(&ground, &house);
    let server = Server::start(&container, 1, 0);
    let stranger = Stranger::start(&container);
    let daemon = start(&house);
    server.notebooks[0].grow(Bytes::mib(40));
    stranger.grow_to(&container, PRESSED);
    let incident = house.record("a hold", is_hold);
    assert_eq!(incident.reason, "memory-in-no-workload", "{}", incident.sentence);
    assert_eq!(incident.unattributed.top[0].pid, stranger.pid, "{:?}", incident.unattributed);
    assert!(server.notebooks[0].is_alive() && server.is_alive() && stranger.is_alive());
    assert!(daemon.stop().success());
}
