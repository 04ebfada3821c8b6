//! Applications: workloads that work for the same thing, with what they use together and what
//! share that is. Pure: no files, no clock; works in vectors that are kept, so that nothing is
//! allocated between an event and a signal.
//!
//! A pool, a script, an Apache and a notebook are applications, each in its container and of its
//! uid: a name is a process's own word, and takes nobody's place who runs under another uid. A
//! workload without a name is an application of its own.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::facts::{Field, Proc, Why};
use crate::policy::activity::{Activities, TICK_US};
use crate::policy::identity::Identities;
use crate::policy::tree::Forest;
use crate::units::{Bytes, Share};

/// One application, with what its processes use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct App {
    pub container: u16,
    pub uid: u32,
    /// The place in [`Forest::workloads`] of its first workload: `Identities::application` of
    /// that one's root is its name.
    pub first: u32,
    pub workloads: u32,
    /// Live processes of all its workloads.
    pub processes: u32,
    /// Private memory of all its processes, and shared memory once: the opcode cache of a pool is
    /// in each of its workers. Resident sets where nothing better was read.
    pub memory: Bytes,
    /// The largest shared memory of one of its processes: a part of `memory`.
    shared: Bytes,
    /// CPU ticks between the latest two looks. `None`: there were no two, or not of all processes.
    pub cpu: Option<u64>,
    /// The same in microseconds: what its tracer counted where calls of a process are recorded, else
    /// what the kernel did.
    pub used: Option<u64>,
    /// Processes that a tracer counted for.
    pub traced: u32,
    /// What the interpreters hold of those in which calls are recorded. `None`: of nobody known.
    pub held: Option<Bytes>,
}

/// Who says how much CPU time was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Kernel,
    Tracer,
    /// Of some processes the one, of some the other.
    Both,
}

impl By {
    pub const fn as_str(self) -> &'static str {
        match self {
            By::Kernel => "kernel",
            By::Tracer => "traced",
            By::Both => "both",
        }
    }
}

impl App {
    /// Whose word [`App::used`] is.
    pub fn used_by(&self) -> By {
        match self.traced {
            0 => By::Kernel,
            all if all == self.processes => By::Tracer,
            _ => By::Both,
        }
    }

    fn hold(&mut self, proc: &Proc) {
        let (private, shared) = match proc.memory {
            Field::Known(memory) => (memory.anon.plus(memory.swap), memory.shmem),
            Field::Unknown(Why::Gone | Why::Absent) => (Bytes::ZERO, Bytes::ZERO),
            Field::Unknown(_) => (proc.rss, Bytes::ZERO),
        };
        let more = shared.less(self.shared);
        self.shared = self.shared.plus(more);
        self.memory = self.memory.plus(private).plus(more);
    }
}

/// The applications of one scan.
#[derive(Default)]
pub struct Applications {
    apps: Vec<App>,
    /// The application of each workload.
    of: Vec<u32>,
    /// CPU ticks of all processes of a container between the latest two looks.
    cpu: Vec<Option<u64>>,
    /// Workloads, those of one application side by side.
    sorted: Vec<(u16, u32, u64, u32)>,
}

impl Applications {
    /// Adds up a scan: exactly, where `status` of its processes was read.
    pub fn build(
        &mut self,
        forest: &Forest,
        procs: &[Proc],
        ids: &Identities,
        activities: &Activities,
    ) {
        let has_looked_twice = activities.span().is_some_and(|span| !span.is_zero());
        let used = |proc: &Proc| activities.used_by(proc).known().filter(|_| has_looked_twice);
        self.add_containers(procs, used);
        self.sort(forest, ids);
        self.apps.clear();
        self.of.clear();
        self.of.resize(forest.workloads().len(), 0);
        for at in 0..self.sorted.len() {
            let (container, uid, _, number) = self.sorted[at];
            let root = forest.workloads()[number as usize].root;
            let name = ids.application(root);
            let last = self.apps.last().filter(|app| {
                let other = forest.workloads()[app.first as usize].root;
                (app.container, app.uid) == (container, uid)
                    && name.is_some()
                    && ids.application(other) == name
            });
            if last.is_none() {
                let cpu = has_looked_twice.then_some(0);
                self.apps.push(App {
                    container,
                    uid,
                    first: number,
                    workloads: 0,
                    processes: 0,
                    memory: Bytes::ZERO,
                    shared: Bytes::ZERO,
                    cpu,
                    used: cpu,
                    traced: 0,
                    held: None,
                });
            }
            self.of[number as usize] = self.apps.len() as u32 - 1;
            let app = self.apps.last_mut().expect("one was pushed where there was none");
            app.workloads += 1;
            for member in forest.members(&forest.workloads()[number as usize]) {
                let proc = &procs[member.index as usize];
                if !proc.is_zombie() {
                    app.processes += 1;
                    app.hold(proc);
                    let ticks = used(proc);
                    app.cpu = add(app.cpu, ticks);
                    let traced = activities.traced(proc.key).filter(|_| has_looked_twice);
                    app.traced += u32::from(traced.is_some());
                    let kernels = ticks.map(|ticks| ticks.saturating_mul(TICK_US));
                    app.used = add(app.used, traced.or(kernels));
                    if let Some(held) = activities.held(proc) {
                        app.held = Some(app.held.unwrap_or(Bytes::ZERO).plus(held));
                    }
                }
            }
        }
    }

    fn add_containers(&mut self, procs: &[Proc], used: impl Fn(&Proc) -> Option<u64>) {
        self.cpu.clear();
        for proc in procs.iter().filter(|proc| !proc.is_zombie()) {
            let number = usize::from(proc.container);
            if self.cpu.len() <= number {
                self.cpu.resize(number + 1, Some(0));
            }
            let sum = self.cpu[number].zip(used(proc));
            self.cpu[number] = sum.map(|(sum, more)| sum.saturating_add(more));
        }
    }

    fn sort(&mut self, forest: &Forest, ids: &Identities) {
        self.sorted.clear();
        for (number, workload) in forest.workloads().iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            ids.application(workload.root).hash(&mut hasher);
            let hash = hasher.finish();
            self.sorted.push((workload.container, workload.uid, hash, number as u32));
        }
        self.sorted.sort_unstable();
    }

    pub fn apps(&self) -> &[App] {
        &self.apps
    }

    /// The application of a workload, by its place in [`Forest::workloads`].
    pub fn of(&self, workload: u32) -> Option<&App> {
        self.apps.get(*self.of.get(workload as usize)? as usize)
    }

    /// The place of a workload's application in [`Applications::apps`].
    pub fn place_of(&self, workload: u32) -> Option<usize> {
        self.of.get(workload as usize).map(|place| *place as usize)
    }

    /// CPU ticks that all processes of a container used between the latest two looks.
    pub fn cpu_total(&self, container: u16) -> Option<u64> {
        self.cpu.get(usize::from(container)).copied().flatten()
    }

    /// The same of all containers of the scan: a host's denominator.
    pub fn cpu_of_all(&self) -> Option<u64> {
        self.cpu.iter().try_fold(0u64, |sum, cpu| Some(sum.saturating_add((*cpu)?)))
    }
}

/// Unknown and something is unknown.
fn add(sum: Option<u64>, more: Option<u64>) -> Option<u64> {
    Some(sum?.saturating_add(more?))
}

/// Whether a part is over a ratio of the whole: exactly at it is not over. `None` of nothing.
pub fn is_over(part: u64, whole: u64, ratio: Share) -> Option<bool> {
    let (part, whole) = (u128::from(part), u128::from(whole));
    (whole > 0).then_some(part * u128::from(Share::ONE.0) > whole * u128::from(ratio.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::activity::Counted;
    use crate::policy::identity::PhpRole;
    use crate::policy::world::{INIT, World};
    use crate::units::Moment;

    const LOOKS: [Moment; 2] = [Moment(1), Moment(500_001)];

    /// Two pools, a script and a notebook; each process ran as many ticks as its pid says.
    fn host() -> (World, Activities, Applications) {
        let mut world = World::new();
        world.php(50, INIT, PhpRole::Master, "");
        for (pid, pool) in [(51, "pool:www"), (52, "pool:shop"), (53, "pool:www")] {
            world.php(pid, 50, PhpRole::Worker, pool).holds(pid, Bytes::mib(u64::from(pid)));
        }
        world.child(60, 53).php(70, INIT, PhpRole::Script, "script:/job.php");
        world.kernel(20, "a.ipynb").child(21, 20);
        let mut activities = Activities::default();
        activities.look(LOOKS[0], &world.procs);
        for proc in &mut world.procs {
            proc.ticks += u64::from(proc.key.pid);
        }
        activities.look(LOOKS[1], &world.procs);
        (world, activities, Applications::default())
    }

    fn build(world: &mut World, activities: &Activities, apps: &mut Applications) -> Vec<String> {
        world.build();
        for proc in &mut world.procs {
            proc.memory = Field::Known(world.status[&proc.key.pid]);
        }
        apps.build(&world.forest, &world.procs, &world.ids, activities);
        let mut lines: Vec<String> = apps.apps().iter().map(|app| line(world, app)).collect();
        lines.sort();
        lines
    }

    fn line(world: &World, app: &App) -> String {
        let root = world.forest.workloads()[app.first as usize].root;
        let name = world.ids.application(root).unwrap_or("?");
        let (workloads, processes) = (app.workloads, app.processes);
        format!("{name} {workloads}/{processes} {} {:?}", app.memory, app.cpu)
    }

    #[test]
    fn workloads_of_one_name_are_one_application() {
        let (mut world, activities, mut apps) = host();
        let lines = build(&mut world, &activities, &mut apps);
        assert_eq!(
            lines,
            [
                "a.ipynb 1/2 0 B Some(41)",
                "pool:shop 1/1 52.0 MiB Some(52)",
                "pool:www 2/3 104.0 MiB Some(164)",
                "script:/job.php 1/1 0 B Some(70)",
            ]
        );
        // Of everybody, the server, the master and the init as well.
        let all: u64 = world.procs.iter().map(|proc| u64::from(proc.key.pid)).sum();
        assert_eq!((apps.cpu_total(0), apps.cpu_of_all()), (Some(all), Some(all)));
        assert_eq!(apps.cpu_total(1), None);
        for (number, workload) in world.forest.workloads().iter().enumerate() {
            let app = apps.of(number as u32).unwrap();
            let first = world.forest.workloads()[app.first as usize].root;
            assert_eq!(world.ids.application(first), world.ids.application(workload.root));
        }
        assert!(apps.of(99).is_none());
    }

    #[test]
    fn a_name_under_another_uid_or_in_another_container_is_another_application() {
        let (mut world, activities, mut apps) = host();
        world.id(53).uid = 1000;
        assert_eq!(build(&mut world, &activities, &mut apps).len(), 5);
        world.id(53).uid = world.id(51).uid;
        assert_eq!(build(&mut world, &activities, &mut apps).len(), 4);
        // What has no name is nobody's.
        world.kernel_below(30, 7, None).kernel_below(31, 7, None);
        for pid in [30, 31] {
            let claim = crate::policy::world::kernel(&format!("/r/{pid}.json"));
            world.claim(pid, claim);
        }
        assert_eq!(build(&mut world, &activities, &mut apps).len(), 6);
    }

    #[test]
    fn cpu_time_needs_two_looks_and_counts_the_new_from_their_birth() {
        let (mut world, _, mut apps) = host();
        let mut activities = Activities::default();
        activities.look(LOOKS[0], &world.procs);
        let lines = build(&mut world, &activities, &mut apps);
        assert!(lines.iter().all(|line| line.ends_with("None")), "{lines:?}");
        assert_eq!(apps.cpu_total(0), None);
        world.php(71, INIT, PhpRole::Script, "script:/new.php").proc(71).ticks = 9;
        activities.look(LOOKS[1], &world.procs);
        let lines = build(&mut world, &activities, &mut apps);
        assert!(lines.contains(&"script:/new.php 1/1 0 B Some(9)".to_owned()), "{lines:?}");
        assert_eq!(apps.cpu_total(0), Some(9));
    }

    #[test]
    fn what_all_workers_share_counts_once() {
        let (mut world, activities, mut apps) = host();
        for pid in [51, 53] {
            world.maps(pid, Bytes::mib(10), Bytes::mib(64));
        }
        let lines = build(&mut world, &activities, &mut apps);
        assert!(lines.contains(&"pool:www 2/3 84.0 MiB Some(164)".to_owned()), "{lines:?}");
    }

    #[test]
    fn where_calls_are_recorded_their_cpu_time_counts_and_the_kernels_of_the_others() {
        let (mut world, mut activities, mut apps) = host();
        build(&mut world, &activities, &mut apps);
        let figures = |world: &World, apps: &Applications, name: &str| {
            let root = |app: &&App| world.forest.workloads()[app.first as usize].root;
            let app = apps.apps().iter().find(|app| world.ids.application(root(app)) == Some(name));
            let app = app.unwrap();
            (app.used, app.used_by(), app.held)
        };
        let of_kernel = (Some(520_000), By::Kernel, None);
        assert_eq!(figures(&world, &apps, "pool:shop"), of_kernel);
        // Of pid 51, 52 and 70: 100 ms each; of 53 nobody counted, nor of its child.
        for (look, ms) in LOOKS.into_iter().zip([50u64, 150]) {
            if look == LOOKS[0] {
                activities = Activities::default();
                for proc in &mut world.procs {
                    proc.ticks -= u64::from(proc.key.pid);
                }
            } else {
                for proc in &mut world.procs {
                    proc.ticks += u64::from(proc.key.pid);
                }
            }
            activities.look(look, &world.procs);
            for pid in [51, 52, 70] {
                let memory = (pid != 70).then_some(Bytes::mib(1));
                let counted = Counted { since: 7, cpu: ms * 1_000_000, memory };
                let key = world.proc(pid).key;
                activities.count(key, look, Some(counted));
            }
        }
        for proc in &mut world.procs {
            proc.rss = Bytes::mib(64);
        }
        build(&mut world, &activities, &mut apps);
        let mib = Some(Bytes::mib(1));
        assert_eq!(figures(&world, &apps, "pool:shop"), (Some(100_000), By::Tracer, mib));
        let www = 100_000 + (53 + 60) * TICK_US;
        assert_eq!(figures(&world, &apps, "pool:www"), (Some(www), By::Both, mib));
        assert_eq!(figures(&world, &apps, "script:/job.php"), (Some(100_000), By::Tracer, None));
        // The whole is the kernel's.
        let all: u64 = world.procs.iter().map(|proc| u64::from(proc.key.pid)).sum();
        assert_eq!(apps.cpu_total(0), Some(all));
    }

    #[test]
    fn exactly_at_the_ratio_is_not_over() {
        let two = Share::percent(2);
        assert_eq!(is_over(20, 1_000, two), Some(false));
        assert_eq!(is_over(21, 1_000, two), Some(true));
        assert_eq!(is_over(19, 1_000, two), Some(false));
        assert_eq!(is_over(0, 0, two), None);
        assert_eq!(is_over(1_000, 1_000, Share::ONE), Some(false));
        assert_eq!(is_over(u64::MAX, u64::MAX, Share::percent(99)), Some(true));
        // A byte makes the difference, also of a host's memory.
        let host = 1u64 << 40;
        assert_eq!(is_over(host / 50, host, two), Some(false));
        assert_eq!(is_over(host / 50 + 1, host, two), Some(true));
    }
}
