//! Which process belongs to which workload: trees, strays, forks, servers.

use super::*;
use crate::policy::identity::Php;
use crate::policy::world::{INIT, SERVER, USER, World, kernel, key};
use proptest::prelude::*;

/// One notebook, and one more process that must or must not be in it.
struct Case {
    name: &'static str,
    set_up: fn(&mut World),
    /// Members of all workloads, roots first.
    trees: &'static [&'static [u32]],
}

const CASES: &[Case] = &[
    Case {
        name: "children and theirs",
        set_up: |w| {
            w.child(30, 20).child(31, 30);
        },
        trees: &[&[20, 30, 31]],
    },
    Case {
        name: "a child that leads its own session",
        set_up: |w| {
            w.child(30, 20).proc(30).sid = 30;
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a fork carries the kernel's argv",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.child(30, 20).claim(30, claim);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a fork that lost its parent",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.stray(30, 20).claim(30, claim).child(31, 30);
        },
        trees: &[&[20, 30, 31]],
    },
    Case {
        name: "a fork that lost its parent and its marks",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.bare(30, INIT).claim(30, claim);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "the session leader is the root, though older forks are about",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.bare(10, INIT).claim(10, claim).proc(10).sid = 9;
        },
        trees: &[&[20, 10]],
    },
    Case {
        name: "the same file of another uid is another kernel",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.bare(30, INIT).claim(30, claim).id(30).uid = 1001;
        },
        trees: &[&[20], &[30]],
    },
    Case {
        name: "an init joins nobody",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.proc(SERVER).ppid = 0;
            w.claim(INIT, claim);
        },
        trees: &[&[INIT], &[20]],
    },
    Case {
        name: "a relative file says nothing",
        set_up: |w| {
            w.claim(20, kernel("kernel-1.json"));
            w.kernel(30, "b.ipynb").claim(30, kernel("kernel-1.json"));
        },
        trees: &[&[20], &[30]],
    },
    Case {
        name: "two that were surely launched with one file",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.kernel(30, "b.ipynb").claim(30, claim);
        },
        trees: &[&[20], &[30]],
    },
    Case {
        name: "double fork with setsid",
        set_up: |w| {
            w.stray(30, 20).child(31, 30);
        },
        trees: &[&[20, 30, 31]],
    },
    Case {
        name: "double fork without setsid or marks",
        set_up: |w| {
            w.bare(30, INIT).proc(30).sid = 20;
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a session led from within the tree",
        set_up: |w| {
            w.child(30, 20).proc(30).sid = 30;
            w.bare(31, INIT).proc(31).sid = 30;
        },
        trees: &[&[20, 31, 30]],
    },
    Case {
        name: "the session of a stray",
        set_up: |w| {
            w.stray(40, 20);
            w.bare(31, INIT).proc(31).sid = 40;
            w.proc(31).key.start = 1000;
            w.unread(31);
        },
        trees: &[&[20, 31, 40]],
    },
    Case {
        name: "wiped environment and own session",
        set_up: |w| {
            w.bare(30, INIT);
        },
        trees: &[&[20]],
    },
    Case {
        name: "wiped, but seen in the tree before",
        set_up: |w| {
            w.bare(30, INIT).owners.push((30, 20));
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "seen in a tree whose kernel is another one now",
        set_up: |w| {
            w.bare(30, INIT).owners.push((30, 19));
        },
        trees: &[&[20]],
    },
    Case {
        name: "marks under another uid",
        set_up: |w| {
            w.stray(30, 20).id(30).uid = 0;
        },
        trees: &[&[20]],
    },
    Case {
        name: "marks of two kernels",
        set_up: |w| {
            w.kernel(25, "a.ipynb").stray(30, 20);
        },
        trees: &[&[20], &[25]],
    },
    Case {
        name: "marks in another container",
        set_up: |w| {
            w.stray(30, 20).proc(30).container = 1;
        },
        trees: &[&[20]],
    },
    Case {
        name: "a parent in another container",
        set_up: |w| {
            w.child(30, 20).marks(30, None, None).proc(30).container = 1;
        },
        trees: &[&[20]],
    },
    Case {
        name: "no notebook's name, one kernel",
        set_up: |w| {
            w.marks(20, None, Some(SERVER)).stray(30, 20);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "no notebook's name, older than the kernel",
        set_up: |w| {
            w.marks(20, None, Some(SERVER)).bare(15, INIT).marks(15, None, Some(SERVER));
        },
        trees: &[&[20]],
    },
    Case {
        name: "no notebook's name, of a kernel that is gone",
        set_up: |w| {
            w.marks(20, None, Some(SERVER)).stray(30, 20).owners.push((30, 19));
        },
        trees: &[&[20]],
    },
    Case {
        name: "of the notebook's earlier kernel",
        set_up: |w| {
            w.bare(15, INIT).marks(15, Some("a.ipynb"), Some(SERVER));
        },
        trees: &[&[20, 15]],
    },
    Case {
        name: "papermill in a cell",
        set_up: |w| {
            w.child(30, 20).kernel_below(31, 30, Some("a.ipynb")).child(32, 31);
        },
        trees: &[&[20, 30, 31, 32]],
    },
    Case {
        name: "a stray of the inner kernel",
        set_up: |w| {
            w.child(30, 20).kernel_below(31, 30, Some("a.ipynb")).stray(32, 31);
        },
        trees: &[&[20, 32, 30, 31]],
    },
    Case {
        name: "a server's name in a cell hides nothing",
        set_up: |w| {
            w.child(30, 20).claim(30, super::Claim::Server);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a server that got away from a cell is a server",
        set_up: |w| {
            w.stray(30, 20).claim(30, super::Claim::Server).kernel_below(31, 30, Some("x.ipynb"));
        },
        trees: &[&[20], &[31]],
    },
    Case {
        name: "what stands above a kernel is in no tree",
        set_up: |w| {
            w.stray(30, 20).kernel_below(31, 30, Some("x.ipynb"));
        },
        trees: &[&[20], &[31]],
    },
    Case {
        name: "a kernel behind a wrapper with the same argv",
        set_up: |w| {
            let claim = w.id(20).claim.clone();
            w.id(20).comm = crate::facts::Comm::new(b"conda");
            w.child(30, 20).claim(30, claim);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a title over its argv",
        set_up: |w| {
            w.claim(20, super::Claim::Plain).child(30, 20);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "some program with -f x.json",
        set_up: |w| {
            w.stray(30, 20).claim(30, flag("/tmp/x.json"));
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "some kernel with -f x.json",
        set_up: |w| {
            w.kernel(30, "b.ipynb").claim(30, flag("/tmp/x.json"));
        },
        trees: &[&[20], &[30]],
    },
    Case {
        name: "never read, below the kernel",
        set_up: |w| {
            w.child(30, 20).unread(30).child_of_unread(31, 30);
        },
        trees: &[&[20, 30, 31]],
    },
    Case {
        name: "younger parent: the pid was given out anew",
        set_up: |w| {
            w.child(30, 20).marks(30, None, None).proc(30).sid = 30;
            w.proc(30).key.start = 100;
            w.unread(30);
        },
        trees: &[&[20]],
    },
    Case {
        name: "two processes that call each other parent",
        set_up: |w| {
            w.bare(30, 31).bare(31, 30).proc(31).key.start = 300;
        },
        trees: &[&[20]],
    },
    Case {
        name: "read twice",
        set_up: |w| {
            w.child(30, 20);
            let twice = *w.proc(30);
            w.procs.push(twice);
        },
        trees: &[&[20, 30]],
    },
    Case {
        name: "a pool's workers, each with what it started; their master is in no tree",
        set_up: |w| {
            pool(w);
            w.child(54, 52);
        },
        trees: &[&[20], &[52, 54], &[53]],
    },
    Case {
        name: "a script with its forks is one",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Script, "script:/job.php");
            w.php(51, 50, PhpRole::Script, "script:/job.php").child(52, 51);
        },
        trees: &[&[20], &[50, 51, 52]],
    },
    Case {
        name: "a script that a worker started is the worker's",
        set_up: |w| {
            pool(w);
            w.child(54, 52).php(55, 54, PhpRole::Script, "script:/cron.php");
        },
        trees: &[&[20], &[52, 54, 55], &[53]],
    },
    Case {
        name: "a script below a script and a shell",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Script, "script:/a.php").child(51, 50);
            w.php(52, 51, PhpRole::Script, "script:/b.php");
        },
        trees: &[&[20], &[50, 51, 52]],
    },
    Case {
        name: "php below a kernel is the notebook's, whatever it calls itself",
        set_up: |w| {
            w.php(50, 20, PhpRole::Script, "script:/a.php");
            w.php(51, 20, PhpRole::Master, "").php(52, 51, PhpRole::Worker, "pool:www");
            w.php(53, 20, PhpRole::Apache, "apache").php(54, 53, PhpRole::Apache, "apache");
        },
        trees: &[&[20, 50, 51, 53, 52, 54]],
    },
    Case {
        name: "a master that got away from a cell is the notebook's",
        set_up: |w| {
            let php = Php { role: PhpRole::Master, application: "".into() };
            w.stray(30, 20).claim(30, super::Claim::Php(Box::new(php)));
            w.php(52, 30, PhpRole::Worker, "pool:www");
        },
        trees: &[&[20, 30, 52]],
    },
    Case {
        name: "a kernel that a script started is a notebook, and the script above it is no workload",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Script, "script:/a.php").kernel_below(51, 50, Some("x"));
        },
        trees: &[&[20], &[51]],
    },
    Case {
        name: "a title of a worker without a master says nothing",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Worker, "pool:www").php(51, 50, PhpRole::Worker, "pool:www");
        },
        trees: &[&[20]],
    },
    Case {
        name: "a worker forked a moment ago has its master's title still",
        set_up: |w| {
            pool(w);
            w.php(54, 50, PhpRole::Master, "");
        },
        trees: &[&[20], &[52], &[53]],
    },
    Case {
        name: "apache's workers below the topmost apache",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Apache, "apache").php(51, 50, PhpRole::Apache, "apache");
            w.php(52, 50, PhpRole::Apache, "apache").child(53, 52);
        },
        trees: &[&[20], &[51], &[52, 53]],
    },
    Case {
        name: "a script that is the init joins nobody; its forks are each one",
        set_up: |w| {
            w.proc(SERVER).ppid = 0;
            let php = Php { role: PhpRole::Script, application: "script:/s.php".into() };
            w.claim(INIT, super::Claim::Php(Box::new(php)));
            w.php(50, INIT, PhpRole::Script, "script:/s.php").child(51, 50);
            w.php(52, INIT, PhpRole::Script, "script:/s.php");
        },
        trees: &[&[20], &[50, 51], &[52]],
    },
    Case {
        name: "the session of a script",
        set_up: |w| {
            w.php(50, INIT, PhpRole::Script, "script:/a.php").bare(51, INIT).proc(51).sid = 50;
        },
        trees: &[&[20], &[50, 51]],
    },
];

impl World {
    fn child_of_unread(&mut self, pid: u32, parent: u32) -> &mut World {
        self.bare(pid, parent).unread(pid)
    }
}

fn flag(file: &str) -> Claim {
    let Claim::Kernel(mut claim) = kernel(file) else { unreachable!() };
    claim.evidence = Evidence::Flag;
    Claim::Kernel(claim)
}

#[test]
fn the_rule_of_recognition_case_by_case() {
    for case in CASES {
        let mut world = World::new();
        world.kernel(20, "a.ipynb");
        (case.set_up)(&mut world);
        assert_eq!(world.build().trees(), case.trees, "{}", case.name);
        world.procs.reverse();
        assert_eq!(world.build().trees(), case.trees, "{}, the other way round", case.name);
    }
}

#[test]
fn everybody_is_in_one_list() {
    for case in CASES {
        let mut world = World::new();
        world.kernel(20, "a.ipynb");
        (case.set_up)(&mut world);
        world.build();
        let mut all: Vec<u32> = world.trees().concat();
        all.extend(world.pids(world.forest.servers()));
        all.extend(world.pids(world.forest.unattributed()));
        all.sort_unstable();
        let mut pids: Vec<u32> = world.procs.iter().map(|proc| proc.key.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(all, pids, "{}", case.name);
    }
}

#[test]
fn the_server_is_found_by_its_kernels_and_by_its_argv() {
    let mut world = World::new();
    let servers = |world: &mut World| {
        world.build();
        world.pids(world.forest.servers())
    };
    assert_eq!(servers(&mut world), [SERVER]);
    world.kernel(20, "a.ipynb").claim(SERVER, Claim::Plain);
    assert_eq!(servers(&mut world), [SERVER]);
    world.bare(8, SERVER).proc(20).ppid = 8;
    assert_eq!(servers(&mut world), [SERVER], "an init in between");
    assert_eq!(world.pids(world.forest.unattributed()), [INIT, 8]);
    world.unread(8).build();
    assert_eq!(world.pids(world.forest.unknown()), [] as [u32; 0], "stands above a kernel");
}

#[test]
fn a_server_that_is_pid_1() {
    let mut world = World::new();
    world.procs.clear();
    world.bare(INIT, 0).claim(INIT, Claim::Server).kernel_below(20, INIT, Some("a.ipynb"));
    let claim = world.id(20).claim.clone();
    world.stray(30, 20).claim(30, claim).build();
    assert_eq!(world.trees(), [[20, 30]], "its orphaned fork is no second kernel");
    assert_eq!(world.pids(world.forest.servers()), [INIT]);
}

#[test]
fn unread_processes_that_nobody_can_place_are_listed() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").stray(30, 20).unread(30).child(31, 20).unread(31).build();
    assert_eq!(world.pids(world.forest.unknown()), [30]);
    assert_eq!(world.pids(world.forest.unattributed()), [INIT, 30]);
}

#[test]
fn whoever_is_below_an_unread_process_may_be_a_kernels() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20).child(31, 30).kernel(25, "b.ipynb").child(40, 25);
    world.bare(50, INIT).unread(20).unread(40).build();
    assert_eq!(world.pids(world.forest.unknown()), [20, 30, 31]);
    let unread: Vec<u32> = world.forest.unread().collect();
    assert_eq!(world.pids(&unread), [20], "40 is placed, and 50 was read");
}

#[test]
fn what_can_never_be_ended_is_barred() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20).child(31, 30).guard = vec![31, 30, 20, SERVER, INIT];
    world.build();
    assert_eq!(world.forest.workloads()[0].bar, Some(Bar::Guard));
    assert_eq!(world.trees(), [[] as [u32; 0]], "the guard and its ancestors are no members");
    let mut world = World::new();
    world.procs.clear();
    world.kernel_below(INIT, 0, None).child(30, INIT).build();
    assert_eq!(world.forest.workloads()[0].bar, Some(Bar::Init));
    let mut world = World::new();
    world.kernel(20, "a.ipynb").proc(20).state = b'Z';
    world.build();
    assert_eq!(world.forest.workloads()[0].bar, Some(Bar::Ended));
}

#[test]
fn the_uid_is_the_one_the_kernel_ends_up_with() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").id(20).uid = 0;
    let claim = world.id(20).claim.clone();
    world.child(30, 20).claim(30, claim).id(30).uid = 1001;
    world.stray(40, 30).build();
    assert_eq!(world.forest.workloads()[0].uid, 1001);
    assert_eq!(world.trees(), [[20, 40, 30]]);
}

#[test]
fn trackers_are_spared_within_bounds() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb");
    for pid in 30..36 {
        world.child(pid, 20).claim(pid, Claim::Tracker);
    }
    world.holds(30, TRACKER_MAX.plus(Bytes(1)));
    world.child(40, 20).build();
    let spared = |world: &World| {
        let workload = &world.forest.workloads()[0];
        let list: Vec<u32> = world.forest.trackers(workload, &world.procs, &world.ids).collect();
        world.pids(&list)
    };
    assert_eq!(spared(&world), [31, 32, 33, 34], "too big, and one too many");
    let memory = world.status[&30];
    world.proc(31).memory = crate::facts::Field::Known(memory);
    assert_eq!(spared(&world), [32, 33, 34, 35]);
    let mut world = World::new();
    world.kernel(20, "a.ipynb").stray(30, 20).claim(30, Claim::Tracker).build();
    assert_eq!(spared(&world), [] as [u32; 0], "nobody's child");
}

#[test]
fn membership_is_remembered_across_scans() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20).build();
    let mut ids = std::mem::take(&mut world.ids);
    world.forest.remember(&world.procs, &mut ids);
    let proc = world.proc(30);
    (proc.ppid, proc.sid, proc.pgrp) = (INIT, 30, 30);
    ids.insert(Identity { marks: None, ..world.identities[&30].clone() });
    ids.prune(&world.procs);
    let context = Context { inits: &[Some(INIT)], guard: &[] };
    world.forest.build(&world.procs, &ids, &context);
    assert_eq!(world.trees(), [[20, 30]]);
    assert_eq!(world.forest.members(&world.forest.workloads()[0])[1].via, Via::Remembered);
}

fn kill_set(world: &mut World) -> KillSet {
    world.build();
    let mut set = KillSet::default();
    set.start(&world.forest, &world.forest.workloads()[0], &world.procs);
    set
}

fn sweep(set: &mut KillSet, world: &World) -> Vec<u32> {
    let mut found = Vec::new();
    set.sweep(&listed(world), &world.procs, |proc| found.push(proc.key.pid));
    found
}

fn listed(world: &World) -> Vec<(u32, u16)> {
    world.procs.iter().map(|proc| (proc.key.pid, proc.container)).collect()
}

#[test]
fn sweeps_find_late_children_and_only_them() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20).proc(30).sid = 30;
    world.kernel(25, "b.ipynb");
    let mut set = kill_set(&mut world);
    assert_eq!(sweep(&mut set, &world), [] as [u32; 0], "nobody new");
    world.child(50, 30).child(51, 50).child(52, 30);
    world.bare(53, INIT).proc(53).sid = 30;
    world.bare(54, INIT).proc(54).pgrp = 20;
    world.bare(60, INIT).child(61, 25).child(62, SERVER).stray(63, 20);
    world.child(64, 20).proc(64).container = 1;
    world.procs.reverse();
    let mut found = sweep(&mut set, &world);
    found.sort_unstable();
    assert_eq!(found, [50, 51, 52, 53, 54]);
    assert_eq!(sweep(&mut set, &world), [] as [u32; 0], "once each");
}

/// Each forks the next and exits: who is read is dead or gone by then, and the next one is not in
/// the list.
#[test]
fn who_came_and_went_between_two_sweeps_may_have_left_a_child() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20).kernel(25, "b.ipynb");
    let mut set = kill_set(&mut world);
    let mut unseen = |world: &World, gone: &[u32]| {
        let mut all = listed(world);
        all.extend(gone.iter().map(|pid| (*pid, 0)));
        all.sort_unstable();
        set.sweep(&all, &world.procs, |proc| panic!("{} is alive", proc.key.pid))
    };
    world.procs.sort_by_key(|proc| proc.key.pid);
    assert_eq!(unseen(&world, &[]), 0);
    world.proc(20).state = b'Z';
    assert_eq!(unseen(&world, &[]), 0, "those who were signalled may go");
    world.bare(40, INIT).proc(40).sid = 20;
    world.proc(40).state = b'Z';
    world.bare(50, 25).proc(50).state = b'Z';
    assert_eq!(unseen(&world, &[]), 1, "one of the tree; the other is somebody else's");
    assert_eq!(unseen(&world, &[]), 0, "once each");
    assert_eq!(unseen(&world, &[60, 70]), 2, "nobody knows whose they were");
    world.procs.retain(|proc| proc.key.pid != 30);
    assert_eq!(unseen(&world, &[30]), 0, "one of the tree, reaped");
}

/// A master with two workers.
fn pool(world: &mut World) {
    world.php(50, INIT, PhpRole::Master, "");
    world.php(52, 50, PhpRole::Worker, "pool:www").php(53, 50, PhpRole::Worker, "pool:www");
}

fn servers(world: &World) -> Vec<u32> {
    world.forest.servers().iter().map(|i| world.procs[*i as usize].key.pid).collect()
}

/// A title costs nothing: who has neither root's uid nor workers gains nothing by it.
#[test]
fn a_master_is_a_server_only_where_it_is_roots_or_has_workers() {
    let mut world = World::new();
    pool(&mut world);
    world.php(60, INIT, PhpRole::Master, "").id(60).uid = USER;
    world.php(70, INIT, PhpRole::Master, "").php(71, 70, PhpRole::Worker, "pool:x");
    world.id(70).uid = USER;
    world.php(80, INIT, PhpRole::Apache, "apache");
    world.php(90, INIT, PhpRole::Script, "script:/x.php").id(90).uid = 0;
    world.build();
    assert_eq!(servers(&world), [SERVER, 50, 70]);
    let shelters = |pid: u32| {
        let index = world.procs.iter().position(|p| p.key.pid == pid).unwrap();
        world.forest.is_sheltered(index as u32)
    };
    assert!(shelters(INIT) && shelters(50) && shelters(70));
    assert!(!shelters(60) && !shelters(52) && !shelters(90));
}

#[test]
fn masters_and_other_workers_are_never_swept() {
    let mut world = World::new();
    pool(&mut world);
    world.child(54, 52).build();
    let workload = world.forest.workloads()[0].clone();
    let mut set = KillSet::default();
    set.start(&world.forest, &workload, &world.procs);
    assert_eq!(set.keys(), [key(52), key(54)]);
    // A master that re-parents below a worker, or shares its session, stays out of it.
    (world.proc(50).ppid, world.proc(50).sid, world.proc(53).sid) = (52, 52, 52);
    assert_eq!(sweep(&mut set, &world), [] as [u32; 0]);
}

#[test]
fn a_settled_script_stays_one_whatever_its_title_says_later() {
    let mut world = World::new();
    world.php(50, INIT, PhpRole::Script, "script:/a.php").build();
    let title = |world: &mut World, claim| {
        let identity = Identity { claim, ..world.identities[&50].clone() };
        world.ids.insert(identity);
        world.ids.application(key(50)).map(str::to_owned)
    };
    let master = Php { role: PhpRole::Master, application: "".into() };
    let other = Php { role: PhpRole::Script, application: "script:/b.php".into() };
    let was = Some("script:/a.php".to_owned());
    assert_eq!(title(&mut world, Claim::Plain), was);
    assert_eq!(title(&mut world, Claim::Server), was);
    assert_eq!(title(&mut world, Claim::Php(Box::new(master))), was);
    // Another script is another program: exec.
    assert_eq!(title(&mut world, Claim::Php(Box::new(other))).as_deref(), Some("script:/b.php"));
}

#[test]
fn a_reused_pid_takes_nobody_along() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb").child(30, 20);
    let mut set = kill_set(&mut world);
    world.proc(30).key.start = 900;
    (world.proc(30).ppid, world.proc(30).sid, world.proc(30).pgrp) = (INIT, 30, 30);
    world.bare(95, 30).proc(95).sid = 30;
    assert_eq!(sweep(&mut set, &world), [] as [u32; 0]);
    assert!(!set.contains(key(30)) && set.contains(key(20)));
}

#[test]
fn shelter_holds_during_sweeps() {
    let mut world = World::new();
    world.kernel(20, "a.ipynb");
    let mut set = kill_set(&mut world);
    for pid in [INIT, SERVER] {
        (world.proc(pid).ppid, world.proc(pid).sid) = (20, 20);
    }
    assert_eq!(sweep(&mut set, &world), [] as [u32; 0]);
}

proptest! {
    /// Whatever ppids, sessions and claims a scan shows: no panic, nobody twice, and the init
    /// and the guard in no tree.
    #[test]
    fn any_scan_is_grouped(
        rows in proptest::collection::vec((1u32..40, 0u32..40, 0u32..40, 0u8..10, 0u16..3), 0..60),
    ) {
        let mut world = World::new();
        world.procs.clear();
        world.identities.clear();
        world.guard = vec![2, 3];
        for (pid, ppid, sid, what, container) in rows {
            world.bare(pid, ppid);
            world.procs.last_mut().unwrap().sid = sid;
            world.procs.last_mut().unwrap().container = container;
            match what {
                0 => { world.claim(pid, kernel("/r/kernel-1.json")); }
                1 => { world.claim(pid, kernel(&format!("/r/{pid}.json"))).marks(pid, None, Some(ppid)); }
                2 => { world.claim(pid, Claim::Server); }
                3 => { world.marks(pid, None, Some(ppid)); }
                4 => { world.unread(pid); }
                5 => { world.procs.last_mut().unwrap().state = b'Z'; }
                _ => {
                    let role = match what {
                        6 => PhpRole::Master,
                        7 => PhpRole::Worker,
                        8 => PhpRole::Apache,
                        _ => PhpRole::Script,
                    };
                    let php = Php { role, application: "x".into() };
                    world.claim(pid, Claim::Php(Box::new(php)));
                }
            }
        }
        world.build();
        let mut seen = world.trees().concat();
        prop_assert!(!seen.contains(&2) && !seen.contains(&3));
        let len = seen.len();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), len);
        for workload in world.forest.workloads() {
            let set = &world.forest.members(workload);
            let bare_init = workload.bar == Some(Bar::Init);
            let has_init = set.iter().any(|m| world.procs[m.index as usize].key.pid == INIT
                && world.procs[m.index as usize].container < 2);
            prop_assert!(!has_init || bare_init);
        }
    }

    /// Whatever a process says of PHP, a notebook keeps all that it had.
    #[test]
    fn titles_take_nothing_out_of_a_notebook(
        rows in proptest::collection::vec((8u32..40, 0u32..40, 0u32..40, 0u8..6), 0..60),
    ) {
        let mut plain = World::new();
        let mut titled = World::new();
        for (world, php) in [(&mut plain, false), (&mut titled, true)] {
            for (pid, ppid, sid, what) in &rows {
                let (pid, ppid) = (*pid, *ppid);
                world.bare(pid, ppid);
                world.procs.last_mut().unwrap().sid = *sid;
                let role = match what {
                    0 => { world.claim(pid, kernel(&format!("/r/{pid}.json"))); continue }
                    1 => { world.marks(pid, None, Some(ppid)); PhpRole::Script }
                    2 => PhpRole::Master,
                    3 => PhpRole::Worker,
                    4 => PhpRole::Apache,
                    _ => continue,
                };
                let claim = Php { role, application: "x".into() };
                let claim = Claim::Php(Box::new(claim));
                world.claim(pid, if php { claim } else { Claim::Plain });
            }
            world.build();
        }
        for was in plain.trees() {
            let is = titled.trees().into_iter().find(|tree| tree[0] == was[0]);
            let is = is.unwrap_or_default();
            prop_assert!(was.iter().all(|pid| is.contains(pid)), "{was:?} became {is:?}");
        }
    }
}

/// The pids of each workload by deny list, after `denied` was named.
fn denied(world: &mut World, names: &[&str]) -> Vec<Vec<u32>> {
    world.build();
    let is_denied = |proc: &Proc| names.iter().any(|name| proc.comm.bytes() == name.as_bytes());
    world.forest.deny(&world.procs, &world.ids, is_denied, |_| false);
    let trees = world.trees();
    let workloads = world.forest.workloads().iter().zip(trees);
    workloads.filter(|(w, _)| w.denied).map(|(_, pids)| pids).collect()
}

fn called(world: &mut World, pid: u32, name: &str) {
    world.proc(pid).comm = crate::facts::Comm::new(name.as_bytes());
}

#[test]
fn a_deny_list_makes_workloads_of_what_belongs_to_nothing_and_of_nothing_else() {
    let mut world = World::new();
    world.kernel(10, "/a.ipynb").child(11, 10);
    // A daemon with a child and a grandchild; a shell with a denied child; a helper of the kernel.
    world.bare(20, INIT).child(21, 20).child(22, 21).stray(23, 20);
    world.bare(30, INIT).child(31, 30);
    for (pid, name) in [(11, "sleep"), (20, "backup"), (21, "sleep"), (31, "sleep")] {
        called(&mut world, pid, name);
    }
    assert_eq!(denied(&mut world, &["sleep", "backup"]), [vec![20, 21, 22], vec![31]]);
    assert_eq!(world.trees(), [vec![10, 11], vec![20, 21, 22], vec![31]]);
    // Its double-forked child led a session of its own: nothing says whose it is.
    assert_eq!(world.pids(world.forest.unattributed()), [INIT, 23, 30]);
    let (mut again, mut none) = (World::new(), World::new());
    again.bare(20, INIT);
    none.bare(20, INIT);
    called(&mut again, 20, "backup");
    assert_eq!(denied(&mut again, &["backup"]), [vec![20]]);
    assert_eq!(denied(&mut none, &["backup"]), Vec::<Vec<u32>>::new());
}

#[test]
fn whoever_holds_a_place_or_stands_above_one_is_never_made_a_workload() {
    let mut world = World::new();
    // A shell above the server's kernel, a supervisor above another server, the guard, the init.
    world.bare(5, INIT).kernel_below(10, 5, None);
    world.bare(40, INIT).bare(41, 40).claim(41, Claim::Server);
    world.bare(50, INIT).bare(51, 50);
    world.guard = vec![51];
    // Nobody has read who it is.
    world.bare(60, INIT).unread(60);
    for pid in [INIT, SERVER, 5, 10, 40, 41, 50, 51, 60] {
        called(&mut world, pid, "x");
    }
    assert_eq!(denied(&mut world, &["x"]), Vec::<Vec<u32>>::new());
    world.bare(61, INIT);
    called(&mut world, 61, "x");
    world.proc(61).state = b'Z';
    assert_eq!(denied(&mut world, &["x"]), Vec::<Vec<u32>>::new(), "a zombie holds nothing");
}
