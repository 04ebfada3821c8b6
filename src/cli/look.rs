//! One look at the containers of this host, with the daemon's own readers and its own policy:
//! what `ps`, `doctor`, `capture` and `demo` show. It reads; it ends nobody and changes nothing.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::act;
use crate::act::state::{Changed, StateFile};
use crate::cli::exit::Failure;
use crate::cli::inside::now;
use crate::cli::restore;
use crate::config::{Config, ContainerFacts, Policy, Protection, Settings};
use crate::facts::{Figures, HostMemory, HostMode, Limit, Mode, Proc};
use crate::host::container::{self, Container, Sources};
use crate::host::discover::{self, Found};
use crate::host::{self, Group, Hierarchies, memory, procs};
use crate::policy::activity::{Activities, Nature};
use crate::policy::clean::{self, Inside};
use crate::policy::decide::{self, Case, Exclusion, Scale, Screen, Verdict, View};
use crate::policy::explain::Facts;
use crate::policy::identity::Identities;
use crate::policy::orders::{Order, Orders, Whom};
use crate::policy::rank::{GroupMemory, Ranking, status_budget};
use crate::policy::telling::{self, Bounds, Told};
use crate::policy::tree::{Context, Forest};
use crate::reactor::inside;
use crate::report::{Cleaning, ProcessRecord, Row, Unattributed, Would};
use crate::roots::{Buffer, Roots};
use crate::runtime::jupyter;
use crate::units::{Bytes, Share};

/// Rounds of reading what the decision asks for. The daemon's own loop needs two.
const ROUNDS_MAX: usize = 8;

/// Where everything is read from, and what is the same for all containers.
pub struct World {
    pub roots: Roots,
    pub hierarchies: Hierarchies,
    pub host: HostMemory,
    pub sources: Sources,
    state: StateFile,
    /// What was ordered by command. Without the right to read it nothing is known of it.
    pub orders: Orders,
    buffer: Buffer,
}

/// A container as it stands now.
#[derive(Serialize)]
pub struct Look {
    pub id: String,
    pub name: String,
    pub image: Option<String>,
    pub engine: String,
    pub cgroup: PathBuf,
    pub mode: Mode,
    pub mode_reason: String,
    pub figures: Figures,
    /// What the shares are shares of: the limit, or the host's memory where there is none.
    pub total: Bytes,
    pub threshold: Bytes,
    /// Where the guard's tripwire stands, if it has set one.
    pub tripwire: Option<Limit>,
    /// The container is short of memory now.
    pub short: bool,
    /// `nbguard pause`, and by whom.
    pub paused: bool,
    pub paused_by: Option<String>,
    /// The whole container is; by whom, where it was by command.
    pub protected: bool,
    pub protected_by: Option<String>,
    pub rows: Vec<Row>,
    pub servers: Vec<ProcessRecord>,
    pub unattributed: Unattributed,
    pub would: Would,
    /// Under `idle-first`: the applications and their shares.
    pub cleaning: Option<Box<Cleaning>>,
    #[serde(skip)]
    pub settings: Settings,
}

impl World {
    /// # Errors
    /// The host has no memory controller that we can see, or `/proc` cannot be read.
    pub fn open(roots: Roots, config: &Config) -> Result<World, Failure> {
        let cannot =
            |e: &dyn std::fmt::Display| Failure::cannot(format!("{e}; `nbguard doctor` says more"));
        let mut buffer = Buffer::new();
        let hierarchies = host::hierarchies(&roots).map_err(|e| cannot(&e))?;
        let host = memory::memory(&roots, &mut buffer).map_err(|e| cannot(&e))?;
        let mut sources = Sources::new(
            &roots,
            config.guard.docker_root.as_deref(),
            config.protect.env.iter().cloned().collect(),
        );
        sources.docker_socket = config.guard.docker_socket.as_deref().map(|path| roots.path(path));
        // Without the right to read it, or with a broken one, only the tripwires are not known.
        let state = roots.path(&config.guard.state_dir).join(restore::STATE_FILE);
        let state = StateFile::read(&state);
        let state = state.unwrap_or_default();
        let orders = roots.path(&config.guard.state_dir).join(act::orders::FILE);
        let orders = act::orders::read(&orders, &boot(&roots)).unwrap_or_default();
        Ok(World { roots, hierarchies, host, sources, state, orders, buffer })
    }

    /// The containers of this host, but a pod's own (`pause`).
    pub fn containers(&self) -> Vec<(Found, Container)> {
        let knows = |parent: &str, id: &str| self.sources.knows(parent, id);
        let scan = discover::scan(&self.hierarchies, &knows, &mut |_| true);
        let described = scan.containers.into_iter().map(|found| {
            let container = container::describe(&self.roots, &found, &self.sources);
            (found, container)
        });
        described.filter(|(_, container)| !container.sandbox).collect()
    }

    /// # Errors
    /// Why the group cannot be read; one that is gone by now says so.
    pub fn look(
        &mut self,
        found: &Found,
        container: &Container,
        config: &Config,
    ) -> Result<Look, host::group::Error> {
        let group = Group::open(&self.hierarchies, &found.path)?;
        let figures = group.figures(&mut self.buffer)?;
        let facts = ContainerFacts {
            id: &found.id,
            name: &container.name,
            image: &container.image,
            labels: &container.labels,
            env: &container.env,
        };
        let settings = config.settings_for(&facts);
        let protection = config.protection_for(&facts);
        let noted = self.noted(&found.id, group.id().0).cloned();
        let scale = Scale::of(&figures, foreign_high(&figures, noted.as_ref()), &self.host);
        let seen = self.see(&group, container, &figures, &settings)?;
        let judged = self.judge(seen, found, container, &figures, &settings, &protection, scale);
        let wall = wall_now();
        let paused = self.orders.pause(Some(&found.id), wall).map(Order::origin);
        let protected = self.orders.protection(&found.id, wall).map(Order::origin);
        let path = found.path.to_string_lossy();
        let skipped = config.guard.skip_cgroups.iter().any(|glob| glob.matches_path(&path));
        let (mode, mode_reason) = if skipped {
            (Mode::None, "named by skip_cgroups".to_owned())
        } else {
            mode(&self.hierarchies, &settings, &figures)
        };
        Ok(Look {
            id: found.id.clone(),
            name: container.name.clone(),
            image: Some(container.image.clone()).filter(|image| !image.is_empty()),
            engine: found.engine.as_str().to_owned(),
            cgroup: found.path.clone(),
            mode,
            mode_reason,
            total: scale.total,
            threshold: judged.threshold,
            tripwire: noted.map(|_| figures.high),
            short: judged.short,
            protected: protection.whole.is_some() || protected.is_some(),
            protected_by: protected,
            paused: paused.is_some(),
            paused_by: paused,
            rows: judged.rows,
            servers: judged.servers,
            unattributed: judged.unattributed,
            would: judged.would,
            cleaning: judged.cleaning,
            figures,
            settings,
        })
    }

    /// What was noted of a group. In a capture its directory has another inode.
    pub fn noted(&self, id: &str, inode: u64) -> Option<&Changed> {
        let captured = self.roots.prefix() != Path::new("/");
        let same = |changed: &&Changed| captured || changed.inode == inode;
        self.state.changed.iter().filter(|changed| changed.id == id).find(same)
    }

    /// What was noted of all groups of these containers.
    pub fn notes(&self, ids: &[&str]) -> StateFile {
        let mut notes = StateFile::default();
        for changed in self.state.changed.iter().filter(|c| ids.contains(&c.id.as_str())) {
            notes.note(changed.clone());
        }
        notes
    }

    pub(super) fn see(
        &mut self,
        group: &Group,
        container: &Container,
        figures: &Figures,
        settings: &Settings,
    ) -> Result<Seen, host::group::Error> {
        let mut pids = Vec::new();
        group.pids(0, &mut pids, &mut self.buffer)?;
        let mut seen = Seen { memory: Some(GroupMemory::from(figures)), ..Seen::default() };
        procs::scan(&self.roots, &pids, &mut seen.procs, &mut self.buffer);
        let now = jupyter::boot_ticks();
        for proc in &seen.procs {
            // One that cannot be read is gone, or stays unknown: both are counted below.
            if let Ok(identity) = jupyter::identify(&self.roots, proc.key, now, &mut self.buffer) {
                seen.ids.insert(identity);
            }
        }
        let context = Context { inits: &[container.pid1], guard: &[std::process::id()] };
        seen.forest.build(&seen.procs, &seen.ids, &context);
        if settings.policy == Policy::IdleFirst {
            let is_denied = |proc: &Proc| clean::is_denied(proc, settings);
            let is_kept = |proc: &Proc| clean::is_kept(proc, settings);
            seen.forest.deny(&seen.procs, &seen.ids, is_denied, is_kept);
        }
        Ok(seen)
    }

    fn judge(
        &mut self,
        mut seen: Seen,
        found: &Found,
        container: &Container,
        figures: &Figures,
        settings: &Settings,
        protection: &Protection,
        scale: Scale,
    ) -> Judged {
        let wall = wall_now();
        let ordered = |view: &View<'_>| self.orders.protects(&found.id, &Whom::from(view), wall);
        let mut screen = Screen::default();
        screen.sift(&seen.forest, &seen.ids, |view| {
            match protection.of(view.notebook, view.kernel_id, view.workload.uid) {
                Some(by) => Some(excluded_by(by, protection, view.workload.uid)),
                None => ordered(view).map(|_| Exclusion::ProtectedByCommand),
            }
        });
        let mut ranking = Ranking::default();
        let budget = status_budget(seen.procs.len()).max(seen.procs.len());
        let groups = [seen.memory];
        ranking.begin(&seen.forest, &seen.procs, &groups, budget, |n| screen.competes(n));
        self.read_all(&mut seen, &mut ranking);
        let actual = decide::gate(figures, None, scale, settings, Some(ranking.sum()));
        let open = telling::as_if_short(actual.measure().copied(), settings);
        let paused = self.orders.pause(Some(&found.id), wall).is_some();
        let mut verdict = Verdict::NeedPss;
        let cleans = settings.policy == Policy::IdleFirst;
        let activities = if cleans { self.hear(&seen) } else { Activities::default() };
        for round in 0..ROUNDS_MAX {
            // Of activity no more is known than what was heard.
            let late = cleans || round + 1 == ROUNDS_MAX;
            let of_container = |_| Some(settings);
            let known = Inside {
                ids: &seen.ids,
                activities: &activities,
                settings: &of_container,
                now: now(),
                clearing: false,
                spent: false,
            };
            let case = Case {
                forest: &seen.forest,
                procs: &seen.procs,
                settings,
                scale,
                gate: &open,
                baseline: None,
                paused,
                late,
                // Shown is who would end as far as is known.
                unread: false,
                inside: Some(&known),
            };
            verdict = screen.decide(&case, &mut ranking);
            if verdict != Verdict::NeedPss {
                break;
            }
            for index in screen.asked().to_vec() {
                let proc = &mut seen.procs[index as usize];
                proc.pss = procs::read_pss(&self.roots, proc.key.pid, &mut self.buffer);
            }
            ranking.learn(&seen.procs);
        }
        let of_container = |_| Some(settings);
        let told = Told {
            procs: &seen.procs,
            ids: &seen.ids,
            forest: &seen.forest,
            screen: &screen,
            ranking: &ranking,
            verdict: &verdict,
            settings: &of_container,
        };
        let cleaning = told.cleaning(settings).map(Box::new);
        let mut rows = told.rows(Bounds::NONE);
        for workload in seen.forest.workloads() {
            let order =
                self.orders.protects(&found.id, &Whom::from(&View::of(workload, &seen.ids)), wall);
            let row = rows.iter_mut().find(|row| row.pid == workload.root.pid);
            if let (Some(order), Some(row)) = (order, row)
                && row.eligible == Exclusion::ProtectedByCommand.as_str()
            {
                row.because += &format!(", {}", order.origin());
            }
        }
        let in_no_workload = figures.unreclaimable().less(ranking.sum().middle());
        let threshold = scale.step(settings.threshold, settings.gate, in_no_workload);
        let facts = Facts {
            domain: "container",
            container: Some(&container.name),
            total: scale.total,
            usage: figures.usage,
            unreclaimable: figures.unreclaimable(),
            threshold,
            cleaning: cleaning.as_deref(),
        };
        Judged {
            cleaning: cleaning.clone(),
            would: told.would(&rows, &facts),
            rows,
            servers: told.servers(usize::MAX),
            unattributed: told.unattributed(),
            threshold,
            short: actual.is_passed(),
        }
    }

    /// Who is at work, as far as one look can tell: by the pages of tracers. Of a kernel's stack it
    /// would only be known that it is idle since now.
    fn hear(&mut self, seen: &Seen) -> Activities {
        let mut activities = Activities::default();
        activities.look(now(), &seen.procs);
        for proc in &seen.procs {
            let claim = seen.ids.get(proc.key).map(|identity| &identity.claim);
            if claim.is_some_and(|claim| Nature::of(claim) == Nature::Php) {
                let dir = Path::new(inside::DIR);
                inside::hear_page(&self.roots, dir, proc.key, &mut self.buffer)
                    .tell(&mut activities, now());
            }
        }
        activities
    }

    /// `status` of every process: nobody is waiting for a signal here.
    fn read_all(&mut self, seen: &mut Seen, ranking: &mut Ranking) {
        for proc in &mut seen.procs {
            proc.memory = procs::read_memory(&self.roots, proc.key.pid, &mut self.buffer);
        }
        ranking.learn(&seen.procs);
    }
}

/// Who is in a container.
#[derive(Default)]
pub(super) struct Seen {
    pub procs: Vec<Proc>,
    pub ids: Identities,
    pub forest: Forest,
    memory: Option<GroupMemory>,
}

struct Judged {
    rows: Vec<Row>,
    servers: Vec<ProcessRecord>,
    unattributed: Unattributed,
    threshold: Bytes,
    short: bool,
    would: Would,
    cleaning: Option<Box<Cleaning>>,
}

/// A `memory.high` that is not ours: what was found when ours was set, or what stands there.
fn foreign_high(figures: &Figures, noted: Option<&Changed>) -> Limit {
    match noted.map(|changed| changed.original.as_str()) {
        None => figures.high,
        Some("max") => Limit::Max,
        Some(bytes) => bytes.parse().map_or(Limit::Max, |bytes| Limit::At(Bytes(bytes))),
    }
}

fn excluded_by(_: crate::config::By, protection: &Protection, uid: u32) -> Exclusion {
    if protection.whole.is_some() {
        Exclusion::ProtectedContainer
    } else if protection.users.contains(&uid) {
        Exclusion::ProtectedUser
    } else {
        Exclusion::ProtectedNotebook
    }
}

/// Seconds since 1970.
pub fn wall_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn boot(roots: &Roots) -> String {
    let text = std::fs::read_to_string(roots.path("/proc/sys/kernel/random/boot_id"));
    text.unwrap_or_default().trim().to_owned()
}

/// How a container is watched, or would be, and why not better.
pub fn mode(hierarchies: &Hierarchies, settings: &Settings, figures: &Figures) -> (Mode, String) {
    let psi = figures.psi.is_known();
    let v1 = hierarchies.mode != HostMode::V2;
    let (mode, reason) = match () {
        () if settings.ignore => (Mode::None, "ignored by the configuration"),
        () if v1 && settings.dry_run => (Mode::V1Threshold, "cgroup v1; dry run"),
        () if v1 => (Mode::V1Threshold, "cgroup v1 has no memory.high: best effort"),
        () if settings.dry_run && psi => (Mode::Psi, "dry run changes no memory.high"),
        () if settings.dry_run => (Mode::Events, "dry run, and the kernel has no PSI"),
        () if !settings.tripwire && psi => (Mode::Psi, "tripwire = false"),
        () if !settings.tripwire => (Mode::Events, "tripwire = false, and the kernel has no PSI"),
        () if !psi => (Mode::High, "the kernel has no PSI"),
        () if figures.limit == Limit::Max => {
            (Mode::HighPsi, "no limit: stepping tripwires on the host's memory")
        }
        () => (Mode::HighPsi, "memory.high as tripwire, PSI as second witness"),
    };
    (mode, reason.to_owned())
}

/// `58 %`, or `-` of nothing.
pub fn share(part: Bytes, whole: Bytes) -> String {
    Share::of(part, whole).map_or_else(|| "-".to_owned(), |share| format!("{} %", share.0 / 100))
}
/// The pid of a running daemon. A zombie guards nothing.
pub fn running_daemon() -> Option<i32> {
    let processes = procfs::process::all_processes().ok()?;
    let guards =
        |stat: procfs::process::Stat| stat.comm == "nbguardd" && !matches!(stat.state, 'Z' | 'X');
    processes.flatten().find(|process| process.stat().is_ok_and(guards)).map(|p| p.pid)
}
