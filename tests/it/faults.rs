//! What is left when something goes wrong: the daemon ended or stopped at a step of an episode, no
//! descriptors, no room to write, events lost, processes by the thousand, a user who lies. Each
//! time the right one ends, everybody else lives, nothing stays frozen, and what failed was said.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nbguard::act::state::{Changed, StateFile};
use nbguard::report::Incident;
use nbguard::sys::pidfd;
use nbguard::units::Bytes;

use crate::binary;
use crate::daemon::{Daemon, House, ground, is_kill, start, victim};
use crate::ground::{Container, Ground, alone, eventually};
use crate::notebooks::{Server, Stranger, joining};
use crate::skip;

const LIMIT: Bytes = Bytes::mib(256);
const WARNED: Bytes = Bytes::mib(210);
/// 90 % of it, and a little, so that the kernel's batches do not hide the crossing.
const PRESSED: Bytes = Bytes::mib(236);

fn state(house: &House) -> StateFile {
    StateFile::read(&house.folder.path("state/state.json")).unwrap()
}

/// After a clean stop nothing that the guard did is left.
fn check_nothing_left(house: &House, container: &Container) {
    assert_eq!(state(house).changed, [], "still noted");
    assert!(!container.is_frozen(), "frozen");
    assert!(container.high().is_none_or(|high| high == "max"), "{:?}", container.high());
    assert_eq!(container.oom_kills(), 0, "the kernel's own killer acted");
}

fn times(house: &House, words: &str) -> usize {
    house.log().matches(words).count()
}

/// How far an episode has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Armed,
    Warned,
    /// Over the threshold, and the daemon has not looked yet.
    Pressed,
    /// SIGTERM was sent, and who got it lives on.
    Killing,
    /// Nobody may be ended: the tripwire is lifted.
    Lifted,
    /// One is dead, and the record is written.
    Cooling,
}

const STEPS: [Step; 6] =
    [Step::Armed, Step::Warned, Step::Pressed, Step::Killing, Step::Lifted, Step::Cooling];

const PATIENT: &str = "signals = [\"TERM\", \"KILL\"]\ngrace = \"8s\"";

/// An episode that has come to a step.
struct Scene {
    house: House,
    container: Container,
    server: Server,
    daemon: Daemon,
    ground: Ground,
}

/// Brings an episode to this step.
fn reach(step: Step) -> Option<Scene> {
    let ground = ground()?;
    let house = House::new(&ground, "step");
    let container = house.container(&ground, LIMIT);
    let server = match step {
        Step::Killing => Server::stubborn(&container, 2),
        _ => Server::start(&container, 2, 1),
    };
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    match step {
        Step::Killing => house.configure(PATIENT),
        Step::Lifted => house.configure("protect = true"),
        _ => {}
    }
    let daemon = start(&house);
    small.grow(Bytes::mib(40));
    match step {
        Step::Armed => {}
        Step::Warned => {
            large.grow_to(&container, WARNED);
            eventually("it has looked", || (daemon.stat_files() > 0).then_some(()));
        }
        Step::Pressed => {
            daemon.signal(libc::SIGSTOP);
            large.grow_to(&container, PRESSED);
        }
        Step::Killing => {
            large.grow_to(&container, PRESSED);
            server.wait_term();
        }
        Step::Lifted => {
            large.grow_to(&container, PRESSED);
            house.record("a hold", |incident| incident.reason == "all-protected");
        }
        Step::Cooling => {
            large.grow_to(&container, PRESSED);
            house.record("a kill", is_kill);
        }
    }
    house.configure("");
    Some(Scene { house, container, server, daemon, ground })
}

/// Brings an episode to this step, does something to the daemon, which gives one that runs, and
/// checks that the largest ends, or has ended, and nobody else.
fn at_step(step: Step, done: impl FnOnce(&House, Daemon) -> Daemon) {
    let Some(scene) = reach(step) else { return };
    let Scene { house, container, server, daemon, ground: _ground } = scene;
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let mut daemon = done(&house, daemon);
    assert!(!container.is_frozen(), "{step:?}");
    // A daemon that was stopped has the old configuration still.
    daemon.reload();
    if matches!(step, Step::Armed | Step::Warned) {
        large.grow_to(&container, PRESSED);
    }
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(large.path.as_str()), "{step:?}");
    large.wait_dead();
    assert!(small.is_alive() && server.is_alive(), "{step:?}");
    assert!(daemon.stop().success());
    let kills = house.records().iter().filter(|incident| is_kill(incident)).count();
    assert_eq!(kills, 1, "{step:?}\n{}", house.log());
    check_nothing_left(&house, &container);
}

#[test]
fn a_guard_that_is_killed_at_any_step_leaves_nothing_that_its_successor_does_not_mend() {
    let _alone = alone();
    for step in STEPS {
        at_step(step, |house, daemon| {
            daemon.kill();
            start(house)
        });
    }
}

/// A child of a daemon that was killed holds the lock until it calls exec.
#[test]
fn a_lock_that_is_held_for_a_moment_longer_is_waited_for() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "lock");
    let lock = fs::File::create(house.folder.path("state/lock")).unwrap();
    lock.lock().unwrap();
    let mut daemon = house.spawn(&binary("nbguardd"), &[]);
    thread::sleep(Duration::from_millis(300));
    drop(lock);
    daemon.hear("READY=1");
    assert!(daemon.stop().success());
}

#[test]
fn a_guard_that_is_stopped_at_any_step_goes_on_where_it_was() {
    let _alone = alone();
    for step in STEPS {
        at_step(step, |_, daemon| {
            daemon.signal(libc::SIGSTOP);
            // Longer than any time of an episode but the ten seconds of a kill.
            thread::sleep(Duration::from_secs(if step == Step::Killing { 11 } else { 2 }));
            daemon.signal(libc::SIGCONT);
            daemon
        });
    }
}

/// What the engine writes when somebody renames the container: the group stays as it is.
#[test]
fn a_container_that_is_renamed_at_any_step_is_guarded_as_before() {
    let _alone = alone();
    for step in STEPS {
        at_step(step, |house, daemon| {
            let containers = fs::read_dir(house.folder.path("docker/containers")).unwrap();
            for entry in containers.flatten() {
                let file = entry.path().join("config.v2.json");
                let text = fs::read_to_string(&file).unwrap();
                // The engine writes beside it and renames.
                let new = file.with_extension("tmp");
                let text = text.replace("\",\"Config\"", "-renamed\",\"Config\"");
                fs::write(&new, text).unwrap();
                fs::rename(&new, &file).unwrap();
            }
            daemon.signal(libc::SIGCONT);
            daemon
        });
    }
}

/// Its user's pause outlives whatever the guard does meanwhile, and costs nobody anything but the
/// largest, who ends while he is frozen: SIGKILL reaches him there (not with the freezer of v1).
#[test]
fn a_container_that_is_paused_at_any_step_stays_so_and_the_largest_ends_all_the_same() {
    let _alone = alone();
    for step in STEPS {
        let Some(scene) = reach(step) else { return };
        let Scene { house, container, server, mut daemon, ground: _ground } = scene;
        let [small, large] = &server.notebooks[..] else { unreachable!() };
        let Some(dir) = container.unified_dir() else {
            return skip("no unified hierarchy, so no freezer");
        };
        let freeze = dir.join("cgroup.freeze");
        fs::write(&freeze, "1").unwrap();
        daemon.signal(libc::SIGCONT);
        daemon.reload();
        if matches!(step, Step::Armed | Step::Warned) {
            // Whoever is frozen does not grow: nobody is ended for what was there before.
            thread::sleep(Duration::from_millis(500));
            assert_eq!(house.records(), [], "{step:?}");
            assert!(container.is_frozen(), "{step:?}");
            fs::write(&freeze, "0").unwrap();
            large.grow_to(&container, PRESSED);
        }
        let incident = house.record("a kill", is_kill);
        assert_eq!(victim(&incident), Some(large.path.as_str()), "{step:?}");
        large.wait_dead();
        let is_paused = !matches!(step, Step::Armed | Step::Warned);
        assert_eq!(container.is_frozen(), is_paused, "{step:?}");
        assert!(daemon.stop().success());
        assert_eq!(container.is_frozen(), is_paused, "{step:?}: after the stop");
        assert!(small.is_alive() && server.is_alive(), "{step:?}");
        fs::write(&freeze, "0").unwrap();
        let kills = house.records().iter().filter(|incident| is_kill(incident)).count();
        assert_eq!(kills, 1, "{step:?}\n{}", house.log());
        check_nothing_left(&house, &container);
    }
}

#[test]
fn a_container_that_is_removed_at_any_step_leaves_nothing_and_costs_no_other() {
    let _alone = alone();
    for step in STEPS {
        let Some(scene) = reach(step) else { return };
        let Scene { house, container, server, mut daemon, ground } = scene;
        let before = house.records().iter().filter(|incident| is_kill(incident)).count();
        house.forget(&container);
        container.remove();
        daemon.signal(libc::SIGCONT);
        house.told(&format!("{:?} is watched no longer", container.name()), 0);
        assert_eq!(state(&house).changed, [], "{step:?}");
        daemon.reload();
        let other = house.container(&ground, LIMIT);
        let next = Server::start(&other, 2, 0);
        house.told(&format!("watching {:?}", other.name()), 0);
        next.notebooks[0].grow(Bytes::mib(40));
        next.notebooks[1].grow_to(&other, PRESSED);
        let of_it = |i: &Incident| is_kill(i) && i.container.as_ref().unwrap().id == other.id;
        let incident = house.record("a kill", of_it);
        assert_eq!(victim(&incident), Some(next.notebooks[1].path.as_str()), "{step:?}");
        next.notebooks[1].wait_dead();
        assert!(next.notebooks[0].is_alive() && next.is_alive(), "{step:?}");
        assert!(daemon.stop().success());
        // Its own may have been on the way.
        let kills = house.records().iter().filter(|incident| is_kill(incident)).count();
        assert!((before + 1..=2).contains(&kills), "{step:?}\n{}", house.log());
        check_nothing_left(&house, &other);
        drop(server);
    }
}

/// Somebody moves the largest notebook to another container. What it holds stays charged where it
/// was, and what it takes from then on counts there: whoever stayed is not ended for it.
#[test]
fn a_notebook_that_is_moved_at_any_step_costs_nobody_who_stays() {
    let _alone = alone();
    for step in STEPS {
        let Some(scene) = reach(step) else { return };
        let Scene { house, container, server, daemon, ground } = scene;
        let [small, large] = &server.notebooks[..] else { unreachable!() };
        let other = house.container(&ground, Bytes::gib(1));
        for pid in large.tree() {
            for procs in other.procs() {
                let _ = fs::write(procs, pid.to_string());
            }
        }
        daemon.signal(libc::SIGCONT);
        if step == Step::Pressed {
            house.record("a hold", |incident| incident.reason == "memory-in-no-workload");
        }
        thread::sleep(Duration::from_secs(1));
        assert!(small.is_alive() && server.is_alive(), "{step:?}\n{}", house.log());
        assert!(daemon.stop().success());
        check_nothing_left(&house, &container);
        check_nothing_left(&house, &other);
    }
}

#[test]
fn whom_a_killed_guard_has_frozen_is_thawed_and_whom_somebody_else_froze_is_not() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "frozen");
    let (ours, theirs) = (house.container(&ground, LIMIT), house.container(&ground, LIMIT));
    let Some(dirs) = ours.unified_dir().zip(theirs.unified_dir()) else {
        return skip("no unified hierarchy, so no freezer");
    };
    for dir in [dirs.0, dirs.1] {
        fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    }
    let mut left = StateFile::default();
    left.note(Changed {
        id: ours.id.clone(),
        inode: fs::metadata(ours.memory_dir()).unwrap().ino(),
        dir: ours.memory_dir().to_path_buf(),
        unit: None,
        original: "max".to_owned(),
        frozen: true,
    });
    left.write(&house.folder.path("state/state.json")).unwrap();
    let daemon = start(&house);
    assert!(!ours.is_frozen(), "{}", house.log());
    assert!(theirs.is_frozen(), "its user's business");
    assert!(daemon.stop().success());
    assert!(theirs.is_frozen());
    check_nothing_left(&house, &ours);
    assert_eq!(times(&house, "WARN"), 0, "{}", house.log());
}

/// A filesystem of 64 KiB on this directory.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Small> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"]).arg(&at);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Small(at));
        }
        skip("no tmpfs can be mounted here");
        None
    }

    fn fill(&self) {
        let _ = fs::write(self.0.join("full"), vec![b'x'; 1 << 20]);
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("full")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Who cannot be caught is frozen for the last sweep, but nobody is frozen of whom no note can be
/// made: a crash would leave him frozen for ever.
#[test]
fn nobody_is_frozen_whom_nobody_would_thaw() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "note");
    let Some(disk) = Small::mount(house.folder.path("state")) else { return };
    let daemon = start(&house);
    let mut kills = 0;
    for round in ["room", "full", "room again"] {
        match round {
            "full" => disk.fill(),
            "room again" => disk.empty(),
            _ => {}
        }
        let container = house.container(&ground, LIMIT);
        if container.unified_dir().is_none() {
            return skip("no unified hierarchy, so no freezer");
        }
        let server = Server::restless(&container, 2, CHAIN);
        house.told(&format!("watching {:?}", container.name()), 0);
        let [small, large] = &server.notebooks[..] else { unreachable!() };
        small.grow(Bytes::mib(40));
        large.grow_to(&container, WARNED);
        let from = house.log().len();
        large.signal(libc::SIGUSR1);
        eventually("it forks", || (container.pids().len() >= 6).then_some(()));
        large.grow_to(&container, PRESSED);
        let id = container.id.clone();
        let of_it = |i: &Incident| is_kill(i) && i.container.as_ref().unwrap().id == id;
        let incident = house.record("a kill", of_it);
        kills += 1;
        assert_eq!(victim(&incident), Some(large.path.as_str()), "{round}");
        large.wait_dead();
        let log = house.log();
        let refused = log[from..].contains("it cannot be noted who is frozen");
        println!("{round}: {:?}, refused: {refused}", incident.victim.as_ref().map(|v| v.frozen));
        assert!(round == "full" || !refused, "{round}\n{log}");
        if round != "full" {
            whole_is_gone(&container);
        }
        assert!(small.is_alive() && server.is_alive(), "{round}");
        eventually("nobody is frozen", || (!container.is_frozen()).then_some(()));
    }
    assert!(times(&house, "after a crash tripwires would stay") <= 1, "{}", house.log());
    assert_eq!(house.records().iter().filter(|i| is_kill(i)).count(), kills);
    assert!(daemon.stop().success());
}

/// Each container takes some, and without any nobody can be read or ended.
#[test]
fn descriptors_that_run_out_leave_enough_for_a_kill() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "descriptors");
    let made: Vec<Container> = (0..12).map(|_| house.container(&ground, LIMIT)).collect();
    let daemon = house.start_through(&["prlimit", "--nofile=128:128", "--"], &binary("nbguardd"));
    let is_watched = |c: &Container| house.log().contains(&format!("watching {:?}", c.name()));
    let watched: Vec<&Container> = made.iter().filter(|c| is_watched(c)).collect();
    assert!((1..12).contains(&watched.len()), "{}\n{}", watched.len(), house.log());
    assert_eq!(times(&house, "descriptors run out"), 1, "{}", house.log());
    for container in watched {
        // More of them than there are descriptors.
        let server = Server::start(container, 2, 120);
        let [small, large] = &server.notebooks[..] else { unreachable!() };
        small.grow(Bytes::mib(20));
        large.grow_to(container, PRESSED);
        let of_it = |i: &Incident| is_kill(i) && i.container.as_ref().unwrap().id == container.id;
        let incident = house.record("a kill", of_it);
        assert_eq!(victim(&incident), Some(large.path.as_str()));
        large.wait_dead();
        eventually("its tree is gone", || (container.pids().len() == 1 + 122).then_some(()));
        assert!(small.is_alive() && server.is_alive());
        assert_eq!(container.oom_kills(), 0, "the kernel's own killer acted");
    }
    assert!(daemon.stop().success());
}

/// While the daemon is stopped one container goes, one comes, and one gets another limit; and so
/// much is written elsewhere that the queue has no room for any of it.
#[test]
fn events_that_were_lost_cost_no_container_and_no_limit() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let Some(most) = most.trim().parse::<u64>().ok().filter(|most| *most <= 1 << 17) else {
        return skip(format!("fs.inotify.max_queued_events is {}", most.trim()));
    };
    let house = House::new(&ground, "overflow");
    let [changed, gone, busy, other] = [(); 4].map(|()| house.container(&ground, LIMIT));
    let daemon = start(&house);
    house.told(&format!("watching {:?}", other.name()), 0);
    let (descriptors, watches) = (daemon.descriptors(), daemon.watches());
    daemon.signal(libc::SIGSTOP);
    // The same one twice would be one event.
    for _ in 0..=most / 2 {
        busy.limit(LIMIT).unwrap();
        other.limit(LIMIT).unwrap();
    }
    let less = Bytes::mib(192);
    changed.limit(less).unwrap();
    house.forget(&gone);
    gone.remove();
    let new = house.container(&ground, LIMIT);
    let server = Server::start(&new, 2, 0);
    daemon.signal(libc::SIGCONT);
    house.told("inotify lost events", 0);
    house.told(&format!("watching {:?}", new.name()), 0);
    house.told(&format!("{:?} is watched no longer", gone.name()), 0);
    house.told(&format!("{:?}: the limit is now {}", changed.name(), less.0), 0);
    eventually("as many as before", || {
        (daemon.descriptors() <= descriptors && daemon.watches() <= watches).then_some(())
    });
    server.notebooks[0].grow(Bytes::mib(20));
    server.notebooks[1].grow_to(&new, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(server.notebooks[1].path.as_str()));
    server.notebooks[1].wait_dead();
    assert!(server.notebooks[0].is_alive() && server.is_alive());
    assert!(daemon.stop().success());
}

#[test]
fn a_proc_that_hides_processes_from_others_hides_none_from_the_guard() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "hidepid");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 2, 1);
    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$0\" \"$@\"";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide];
    let daemon = house.start_through(&words, &binary("nbguardd"));
    server.notebooks[0].grow(Bytes::mib(20));
    server.notebooks[1].grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(server.notebooks[1].path.as_str()));
    server.notebooks[1].wait_dead();
    assert!(server.notebooks[0].is_alive() && server.is_alive());
    assert!(daemon.stop().success());
    check_nothing_left(&house, &container);
}

/// A group of the pids controller of v1, beside the container's own.
struct Pids(PathBuf);

impl Pids {
    fn make(container: &Container, most: u32) -> Option<Pids> {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        if !v1.join("cgroup.procs").exists() {
            skip("no pids controller of v1 here");
            return None;
        }
        let pids = Pids(v1.join(format!("nbguard-{}", container.id)));
        fs::create_dir(&pids.0).unwrap();
        fs::write(pids.0.join("pids.max"), most.to_string()).unwrap();
        for pid in container.pids() {
            fs::write(pids.0.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        Some(pids)
    }

    fn refused(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("pids.events")).unwrap_or_default();
        text.trim().strip_prefix("max ").and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // Whoever is in it ends with it, and is gone a little later.
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let Ok(fd) = pidfd::open(pid.parse().unwrap()) else { continue };
            let _ = pidfd::send(fd.as_fd(), libc::SIGKILL);
        }
        let until = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The server is left, and one notebook of two processes.
fn whole_is_gone(container: &Container) {
    for _ in 0..500 {
        if container.pids().len() == 3 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let shown = container
        .pids()
        .into_iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
    panic!("these are left:\n{}", shown.collect::<String>());
}

/// Never there when somebody comes: each forks the next and exits.
const CHAIN: &str = "exec perl -e 'while (1) { exit if fork }'";

#[test]
fn whoever_is_another_process_each_time_ends_all_the_same() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "chain");
    let container = house.container(&ground, LIMIT);
    let server = Server::restless(&container, 2, CHAIN);
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    small.grow(Bytes::mib(40));
    large.grow_to(&container, WARNED);
    large.signal(libc::SIGUSR1);
    eventually("it forks", || (container.pids().len() >= 6).then_some(()));
    large.grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(large.path.as_str()));
    println!("{:?}", incident.victim.as_ref().map(|v| (v.signalled, v.sweeps, v.frozen)));
    large.wait_dead();
    whole_is_gone(&container);
    assert!(small.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
    check_nothing_left(&house, &container);
}

/// Forks until it is refused, and goes on asking.
const BOMB: &str =
    "exec perl -e 'while (1) { fork // select undef, undef, undef, 0.005; $x = \"y\" x 100000 }'";

#[test]
fn a_fork_bomb_within_its_limit_ends_whole_and_alone() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "bomb");
    let container = house.container(&ground, Bytes::mib(512));
    let server = Server::restless(&container, 2, BOMB);
    // So many that they cross the threshold, and too few to reach the limit: v1 has no throttle, and
    // there the kernel may come first.
    let Some(pids) = Pids::make(&container, 50) else { return };
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    small.grow(Bytes::mib(20));
    // A little below the threshold: each of them holds something, and nobody else gets to run.
    large.grow_to(&container, Bytes::mib(450));
    large.signal(libc::SIGUSR1);
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(large.path.as_str()));
    println!("refused {} forks, {:?}", pids.refused(), incident.victim);
    large.wait_dead();
    whole_is_gone(&container);
    assert!(small.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
    check_nothing_left(&house, &container);
}

/// Ten thousand children that wait: each costs a shell's pages and the kernel's own.
const CROWD: &str = r#"
mkfifo "$FOLDER/crowd"
exec 4<>"$FOLDER/crowd"
at=0
while [ $at -lt 10000 ]; do (read -r word <&4) & at=$((at + 1)); done
wait
"#;

#[test]
#[ignore = "some GiB and half a minute: tests/run --all"]
fn a_notebook_of_ten_thousand_processes_ends_whole() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "crowd");
    let container = house.container(&ground, Bytes::gib(4));
    let server = Server::restless(&container, 2, CROWD);
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    let rss = daemon.status("VmRSS");
    small.grow(Bytes::mib(20));
    large.signal(libc::SIGUSR1);
    for _ in 0..20 {
        if container.pids().len() >= 10_000 {
            break;
        }
        thread::sleep(Duration::from_secs(3));
    }
    let count = container.pids().len();
    assert!(count >= 10_000, "{count} are there");
    println!("{count} processes hold {}", container.usage());
    large.grow_to(&container, Bytes::mib(4096 * 92 / 100));
    let incident = house.record("a kill", is_kill);
    assert_eq!(victim(&incident), Some(large.path.as_str()));
    println!("{:?} RSS {rss} became {} KiB", incident.timings, daemon.status("VmRSS"));
    large.wait_dead();
    eventually("the whole tree is gone", || (container.pids().len() == 3).then_some(()));
    assert!(small.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
    check_nothing_left(&house, &container);
}

/// A process of another user in the container, that holds memory and says of itself what it likes.
struct Liar(Child);

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// User 1001 holds the memory and claims: to be the kernel of that notebook, with its file, its
/// path and its server; to be a part of it; to be what must be spared. It costs nobody else
/// anything.
#[test]
fn whoever_lies_about_himself_has_nobody_else_ended() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "liar");
    let lies = [
        ("its kernel", "python3 -m ipykernel_launcher -f", true),
        ("a part of it", "tail -c 16G", true),
        ("a tracker", "python3 -c from_multiprocessing.resource_tracker_import_main;main(3)", true),
        ("its server", "jupyter-lab", false),
    ];
    let daemon = start(&house);
    for (what, argv, marks) in lies {
        let container = house.container(&ground, LIMIT);
        let server = Server::start(&container, 2, 0);
        house.told(&format!("watching {:?}", container.name()), 0);
        let [small, honest] = &server.notebooks[..] else { unreachable!() };
        small.grow(Bytes::mib(30));
        honest.grow(Bytes::mib(60));
        let argv = argv.replace(
            "launcher -f",
            "launcher -f /home/jovyan/kernel-00000001-0000-4000-8000-000000000000.json",
        );
        let marks = match marks {
            true => format!("JPY_PARENT_PID={} JPY_SESSION_NAME={}", server.pid(), honest.path),
            false => String::new(),
        };
        // 140 MiB more, of its own: 1001 leaves its parent behind and wipes what it inherited.
        let script = format!(
            "exec env -i {marks} setsid setpriv --reuid 1001 --regid 1001 --clear-groups \
             perl -e '$0 = shift; $x = \"x\" x (70 << 20); sleep 600' '{argv}'"
        );
        let child = joining(&container, &script).stdin(Stdio::null()).spawn().unwrap();
        let liar = Liar(child);
        let of_it = |i: &Incident| i.container.as_ref().is_some_and(|c| c.id == container.id);
        let usage = eventually("it holds what it wants", || {
            let usage = container.usage();
            (usage >= PRESSED.less(Bytes::mib(20)) || house.records().iter().any(of_it))
                .then_some(usage)
        });
        if usage < PRESSED && !house.records().iter().any(of_it) {
            small.grow(PRESSED.less(container.usage()));
        }
        let incident = house.record(what, of_it);
        let ended = incident.victim.as_ref().map(|victim| (victim.pid, victim.notebook.clone()));
        println!("{what}: {:?} {} {ended:?}", incident.kind, incident.reason);
        assert!(honest.is_alive() && small.is_alive() && server.is_alive(), "{what}: {incident:?}");
        drop(liar);
    }
    assert!(daemon.stop().success());
}

/// A name is all that a group says of itself.
#[test]
fn a_group_that_is_called_like_anothers_container_reaches_nobody_there() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "namesake");
    let (honest, liar) = (house.container(&ground, LIMIT), house.container(&ground, LIMIT));
    // Inside the liar's container there is a group with the other one's id.
    let forged: Vec<PathBuf> = liar
        .procs()
        .into_iter()
        .map(|procs| procs.with_file_name("docker").join(&honest.id))
        .collect();
    for dir in &forged {
        fs::create_dir_all(dir).unwrap();
    }
    let files = ["memory.max", "memory.limit_in_bytes"].map(|name| forged[0].join(name));
    if let Some(file) = files.iter().find(|file| file.exists()) {
        fs::write(file, Bytes::mib(64).0.to_string()).unwrap();
    }
    let server = Server::start(&honest, 2, 0);
    let stranger = Stranger::start(&liar);
    for dir in &forged {
        fs::write(dir.join("cgroup.procs"), stranger.pid.to_string()).unwrap();
    }
    let daemon = start(&house);
    server.notebooks[0].grow(Bytes::mib(100));
    stranger.grow(Bytes::mib(61));
    thread::sleep(Duration::from_secs(2));
    for incident in house.records() {
        assert_eq!(incident.victim, None, "{incident:?}");
    }
    assert!(server.notebooks.iter().all(|notebook| notebook.is_alive()) && server.is_alive());
    // The other one is guarded as before.
    server.notebooks[1].grow_to(&honest, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(incident.container.as_ref().unwrap().id, honest.id);
    assert!(stranger.is_alive());
    assert!(daemon.stop().success());
    drop(stranger);
    for dir in &forged {
        eventually("it is empty", || fs::remove_dir(dir).ok());
        let _ = fs::remove_dir(dir.parent().unwrap());
    }
}

#[test]
fn where_nothing_can_be_noted_the_guard_does_not_start_and_says_why() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "read-only");
    let Some(disk) = Small::mount(house.folder.path("state")) else { return };
    let mut again = Command::new("mount");
    assert!(again.args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap().success());
    let ended = house.spawn(&binary("nbguardd"), &[]).end();
    assert!(!ended.success());
    house.told("Read-only file system", 0);
}
