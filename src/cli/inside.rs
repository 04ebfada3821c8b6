//! Several looks at the containers of this host, and what runs inside their processes: for `apps`
//! and `deny`. It reads; it ends nobody and changes nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::exit::Failure;
use crate::cli::look::{Seen, World};
use crate::cli::{files, ps};
use crate::config::{Config, ContainerFacts, Settings};
use crate::host::container::Container;
use crate::host::discover::Found;
use crate::host::{Group, group, procs};
use crate::policy::activity::{Activities, Nature};
use crate::policy::decide::Scale;
use crate::reactor::inside::{self, Heard};
use crate::roots::{Buffer, Roots};
use crate::trace;
use crate::units::{Bytes, Moment};

/// All stacks of one round together. Each has a second of its own.
const STACKS_TIME: Duration = Duration::from_secs(5);

/// Everything that is watched here, over its looks.
pub struct Inside {
    world: World,
    config: Config,
    /// This program: it reads the stacks.
    tool: PathBuf,
    asked: Option<String>,
    pub boxes: Vec<Watched>,
    pub unread: Vec<String>,
}

/// One container.
pub struct Watched {
    pub found: Found,
    pub container: Container,
    pub settings: Settings,
    /// What shares of memory are shares of.
    pub total: Bytes,
    pub(super) seen: Seen,
    pub activities: Activities,
    is_there: bool,
}

/// Now, on the clock of the looks.
pub fn now() -> Moment {
    Moment(trace::now() / 1_000)
}

impl Inside {
    /// # Errors
    /// The configuration is wrong, or nothing can be seen here.
    pub fn open(config: &Path, asked: Option<&str>) -> Result<Inside, Failure> {
        let (config, _) = files::config(config)?;
        let roots = Roots::system().map_err(|e| Failure::cannot(format!("/proc: {e}")))?;
        let world = World::open(roots, &config)?;
        let tool = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/nbguard".into());
        let asked = asked.map(str::to_owned);
        Ok(Inside { world, config, tool, asked, boxes: Vec::new(), unread: Vec::new() })
    }

    /// One look at everything: who is there, and what CPU time they have.
    pub fn look(&mut self) {
        self.unread.clear();
        for watched in &mut self.boxes {
            watched.is_there = false;
        }
        for (found, container) in self.world.containers() {
            if !ps::is_asked(self.asked.as_deref(), &found, &container) {
                continue;
            }
            match self.look_at(&found, &container) {
                Ok(()) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => self.unread.push(error.to_string()),
            }
        }
        self.boxes.retain(|watched| watched.is_there);
    }

    fn look_at(&mut self, found: &Found, container: &Container) -> Result<(), group::Error> {
        let mut buffer = Buffer::new();
        let group = Group::open(&self.world.hierarchies, &found.path)?;
        let figures = group.figures(&mut buffer)?;
        let facts = ContainerFacts {
            id: &found.id,
            name: &container.name,
            image: &container.image,
            labels: &container.labels,
            env: &container.env,
        };
        let settings = self.config.settings_for(&facts);
        let mut seen = self.world.see(&group, container, &figures, &settings)?;
        for proc in &mut seen.procs {
            proc.memory = procs::read_memory(&self.world.roots, proc.key.pid, &mut buffer);
        }
        let at = match self.boxes.iter().position(|watched| watched.found.id == found.id) {
            Some(at) => at,
            None => {
                self.boxes.push(Watched {
                    found: found.clone(),
                    container: container.clone(),
                    settings,
                    total: Bytes::ZERO,
                    seen: Seen::default(),
                    activities: Activities::default(),
                    is_there: true,
                });
                self.boxes.len() - 1
            }
        };
        let watched = &mut self.boxes[at];
        watched.total = Scale::of(&figures, figures.high, &self.world.host).total;
        let at = now();
        watched.activities.look(at, &seen.procs);
        watched.seen = seen;
        let mut buffer = Buffer::new();
        for index in 0..watched.seen.procs.len() {
            if watched.nature(index) != Nature::Plain {
                let key = watched.seen.procs[index].key;
                let switches = procs::read_switches(&self.world.roots, key.pid, &mut buffer);
                watched.activities.switched(key, at, switches);
            }
            if watched.nature(index) == Nature::Php {
                let (roots, key) = (&self.world.roots, watched.seen.procs[index].key);
                let heard = inside::hear_page(roots, Path::new(inside::DIR), key, &mut buffer);
                heard.tell(&mut watched.activities, now());
            }
        }
        watched.is_there = true;
        Ok(())
    }

    /// Asks interpreters what they are at: the page of a tracer where there is one, else the
    /// stack, the largest first.
    pub fn ask(&mut self) {
        let until = Instant::now() + STACKS_TIME;
        let mut buffer = Buffer::new();
        for watched in &mut self.boxes {
            let mut order: Vec<usize> = (0..watched.seen.procs.len()).collect();
            order.sort_by_key(|at| std::cmp::Reverse(watched.seen.procs[*at].rss));
            for at in order {
                let proc = &watched.seen.procs[at];
                let nature = watched.nature(at);
                if nature == Nature::Plain || proc.is_zombie() {
                    continue;
                }
                let page = (nature == Nature::Php).then(|| {
                    let dir = Path::new(inside::DIR);
                    inside::hear_page(&self.world.roots, dir, proc.key, &mut buffer)
                });
                let is_known = page.as_ref().is_some_and(Heard::is_known);
                let stack = (!is_known && Instant::now() < until).then(|| {
                    inside::hear_stack(&self.world.roots, &self.tool, proc.key, &mut buffer)
                });
                for heard in page.into_iter().chain(stack) {
                    heard.tell(&mut watched.activities, now());
                }
            }
        }
    }
}

impl Watched {
    pub fn nature(&self, index: usize) -> Nature {
        let claim = self.seen.ids.get(self.seen.procs[index].key).map(|id| &id.claim);
        claim.map_or(Nature::Plain, Nature::of)
    }
}
