//! Which containers are watched: found at the start and by inotify on their parents, let go when
//! their trigger's error or inotify says that they are gone, counted again after an overflow.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::log::{debug, info, warn};
use mio::Interest;
use nix::sys::inotify::{AddWatchFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::os::fd::AsRawFd;

use super::counters::Trouble;
use super::helper::Question;
use super::retry::Retry;
use super::token::{For, next_generation};
use super::watch::{self, Domain, High, Kind, Steps, Watch, unit_of};
use super::{Reactor, leaves_free};
use crate::config::{Config, ContainerFacts, Protection, Settings};
use crate::facts::{Events, Limit, Mode};
use crate::host::container::{self, Container, Sources};
use crate::host::discover::{self, Action, Found, Scan};
use crate::host::group::{self, Group, Version};
use crate::host::watches::{CONTAINERS_MAX, Quota, Watches};
use crate::ids::WatchId;
use crate::policy::episode::{Input, Step, Traits, Wake};
use crate::report::ContainerCounts;
use crate::roots::Roots;
use crate::sys;
use crate::units::{Bytes, Moment};

/// A file of a watched group whose change concerns us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum File {
    High,
    Max,
}

/// When an engine is asked again for what it had not written yet: dockerd writes its file before
/// it starts the container, Podman and containerd within some ten milliseconds after.
const DESCRIBED_AGAIN: Duration = Duration::from_millis(500);

/// … and how often, each time after twice as long: 15 s in all.
const ASKED_MOST: u8 = 4;
/// What cannot be read is asked for again and again, at last each four minutes.
const ASKED_LONGEST: u8 = 9;

/// When it is tried again what could not be armed or read for a reason that may pass: after twice
/// as long each time, and never if nothing is missing.
const MEND_FIRST: Duration = Duration::from_secs(1);
const MEND_LONGEST: Duration = Duration::from_secs(300);

/// Descriptors that no further container gets: without one no process can be read or ended. Nine
/// complete a container, sixteen clients may be there, each thread opens a few, and the rest is for
/// the kill.
const DESCRIPTORS_FREE: usize = 64;

/// A container that is ignored by a description which is not complete yet: its name or labels may
/// say otherwise. There may be as many as may be watched.
struct Ignored {
    found: Found,
    asked: u8,
    ask_at: Moment,
}

/// What the loop keeps for finding containers.
pub(super) struct Discovery {
    directories: Watches<WatchDescriptor>,
    /// Limit files of covered containers, by the file's path.
    covered: Watches<WatchDescriptor>,
    files: HashMap<WatchDescriptor, (WatchId, File)>,
    containers: Quota,
    /// The helper has questions by the hundred in its queue when many containers come at once.
    sources: Arc<Sources>,
    ignored: Vec<Ignored>,
    /// Armed in this walk, and not looked at yet.
    fresh: Vec<WatchId>,
    /// Somebody was told that a walk left something out.
    told_skipped: bool,
    /// Somebody was told that there are no descriptors for another container.
    told_descriptors: bool,
    /// When the descriptions that were incomplete are tried again.
    again: Option<Moment>,
    /// When what could not be armed is tried again.
    mend: Retry,
}

impl Discovery {
    pub fn new(roots: &Roots, config: &Config) -> Discovery {
        Discovery {
            directories: Watches::default(),
            covered: Watches::default(),
            files: HashMap::new(),
            containers: Quota::for_containers(),
            sources: Arc::new(sources(roots, config)),
            ignored: Vec::new(),
            fresh: Vec::new(),
            told_skipped: false,
            told_descriptors: false,
            again: None,
            mend: Retry::new(MEND_FIRST, MEND_LONGEST),
        }
    }

    pub fn deadline(&self) -> Option<Moment> {
        [self.again, self.mend.at()].into_iter().flatten().min()
    }

    fn ask_again(&mut self, at: Moment) {
        self.again = Some(self.again.map_or(at, |other| other.min(at)));
    }

    fn ignore_for_now(&mut self, found: Found, ask_at: Moment) {
        let known = self.ignored.iter().any(|ignored| ignored.found.path == found.path);
        if !known && self.ignored.len() < CONTAINERS_MAX as usize {
            self.ignored.push(Ignored { found, asked: 0, ask_at });
            self.ask_again(ask_at);
        }
    }
}

/// Where engines keep what they know, as configured.
fn sources(roots: &Roots, config: &Config) -> Sources {
    let variables = config.protect.env.iter().cloned().collect();
    let mut sources = Sources::new(roots, config.guard.docker_root.as_deref(), variables);
    sources.docker_socket = config.guard.docker_socket.as_deref().map(|path| roots.path(path));
    sources
}

fn place(
    watches: &mut Watches<WatchDescriptor>,
    inotify: &Inotify,
    root: &Path,
    path: &Path,
    mask: AddWatchFlags,
    refused: &mut bool,
) -> bool {
    let placed = watches.set(path, |path| {
        let added = inotify.add_watch(&root.join(path), mask);
        *refused |= added.is_err_and(|errno| sys::may_pass(&errno.into()));
        added.ok()
    });
    if let Some(stale) = placed.stale {
        let _ = inotify.rm_watch(stale);
    }
    placed.watched
}

impl Reactor {
    /// Everything that is there: at the start, and after inotify lost events.
    pub(super) fn rescan(&mut self) {
        let scan = self.walk(None);
        let listed: HashSet<PathBuf> = scan.parents.iter().cloned().collect();
        let limit_file = discover::limit_file(&self.hierarchies);
        let covered = scan.covered.iter().map(|found| found.path.join(limit_file)).collect();
        let mut stale = self.discovery.directories.forget_unlisted(&listed);
        stale.extend(self.discovery.covered.forget_unlisted(&covered));
        for watch in stale {
            let _ = self.inotify.rm_watch(watch);
        }
        let there: HashSet<&Path> = scan.containers.iter().map(|f| f.path.as_path()).collect();
        let gone: Vec<WatchId> = self
            .watches
            .iter()
            .flatten()
            .filter(|w| w.kind == Kind::Container && !there.contains(w.found.path.as_path()))
            .map(|w| w.id)
            .collect();
        for id in gone {
            self.remove(id, "it is gone");
        }
        self.take(scan);
    }

    fn walk(&mut self, from: Option<&Path>) -> Scan {
        let Discovery { directories, sources, .. } = &mut self.discovery;
        let inotify = &self.inotify;
        let root = self.hierarchies.memory_root();
        let knows = |parent: &str, id: &str| sources.knows(parent, id);
        let mut refused = false;
        let mut watch = |path: &Path| {
            place(directories, inotify, root, path, discover::DIRECTORY_MASK, &mut refused)
        };
        let scan = match from {
            Some(path) => discover::look_into(&self.hierarchies, path, &knows, &mut watch),
            None => discover::scan(&self.hierarchies, &knows, &mut watch),
        };
        if refused {
            self.mend_later(None);
        }
        scan
    }

    /// What a walk has found.
    fn take(&mut self, scan: Scan) {
        // Their limits are watched by now: what comes after this second walk is told.
        for path in self.take_once(scan) {
            let scan = self.walk(Some(&path));
            self.take_once(scan);
        }
    }

    /// Gives those that got a limit of their own between the walk and the watch on its file.
    fn take_once(&mut self, scan: Scan) -> Vec<PathBuf> {
        if !scan.skipped.is_nothing() {
            self.count_trouble(Trouble::WalkIncomplete);
            if scan.skipped.may_pass() {
                self.mend_later(None);
            }
            // A tenant can make this happen at will: told once, counted afterwards.
            if !std::mem::replace(&mut self.discovery.told_skipped, true) {
                warn!("{}: containers there are not guarded, skipped", scan.skipped);
            }
        }
        let limit_file = discover::limit_file(&self.hierarchies);
        let mut limited = Vec::new();
        let mut refused = false;
        // One that is watched tells of its limit by itself: inotify gives a file one watch only.
        for found in scan.covered {
            if self.at(&found.path).is_some() {
                continue;
            }
            let root = self.hierarchies.memory_root();
            let file = found.path.join(limit_file);
            let Discovery { covered, .. } = &mut self.discovery;
            place(covered, &self.inotify, root, &file, discover::LIMIT_MASK, &mut refused);
            if discover::is_limited(&root.join(&file)) {
                limited.push(found.path);
            }
        }
        if refused {
            self.mend_later(None);
        }
        for found in scan.containers {
            self.add(found);
        }
        self.regroup();
        self.look_at_fresh();
        limited
    }

    /// Only when they are grouped it is known whose processes each of them ranks.
    fn look_at_fresh(&mut self) {
        for id in std::mem::take(&mut self.discovery.fresh) {
            self.drive(Some(id), Input::Wake(Wake::Armed));
        }
    }

    pub(super) fn on_inotify(&mut self) {
        while let Ok(events) = self.inotify.read_events() {
            if events.is_empty() {
                return;
            }
            for event in events {
                self.on_inotify_event(&event);
            }
        }
    }

    fn on_inotify_event(&mut self, event: &InotifyEvent) {
        if let Some((id, file)) = self.discovery.files.get(&event.wd).copied() {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.discovery.files.remove(&event.wd);
                return;
            }
            match file {
                File::High => self.on_high_written(id),
                File::Max => self.on_limit_written(id),
            }
            return;
        }
        let known = self.discovery.directories.path(event.wd);
        let at = known.or_else(|| self.discovery.covered.path(event.wd));
        let overflow = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        let directory = match at {
            Some(path) => path.to_path_buf(),
            None if overflow => PathBuf::new(),
            None => return,
        };
        match discover::on_event(&directory, event.name.as_deref(), event.mask) {
            Action::LookInto(path) => {
                let scan = self.walk(Some(&path));
                self.take(scan);
            }
            Action::Gone(path) => self.let_go(&path),
            Action::Rescan => {
                self.count_trouble(Trouble::InotifyOverflow);
                warn!("inotify lost events: all cgroups are looked at again");
                self.rescan();
                self.read_files_again();
            }
            Action::Ignore => {}
        }
    }

    /// What was written into watched files while nobody told.
    fn read_files_again(&mut self) {
        for slot in 0..self.watches.len() {
            if let Some(id) = self.watches[slot].as_ref().map(|watch| watch.id) {
                self.on_limit_written(id);
                // Nothing, where the first has let it go.
                self.on_high_written(id);
            }
        }
    }

    /// A directory and all below it are gone.
    fn let_go(&mut self, path: &Path) {
        for watches in [&mut self.discovery.directories, &mut self.discovery.covered] {
            for watch in watches.forget(path) {
                let _ = self.inotify.rm_watch(watch);
            }
        }
        self.discovery.ignored.retain(|ignored| !ignored.found.path.starts_with(path));
        let gone: Vec<WatchId> = self
            .watches
            .iter()
            .flatten()
            .filter(|w| w.found.path.starts_with(path))
            .map(|w| w.id)
            .collect();
        // After an overflow the event may be of an earlier group of the same name.
        let gone: Vec<WatchId> = gone.into_iter().filter(|id| self.is_gone(*id)).collect();
        for id in gone {
            self.remove(id, "it is gone");
        }
    }

    /// Whether the group of this watch is no more. What cannot be read now may well be there.
    fn is_gone(&mut self, id: WatchId) -> bool {
        let watch = watch::of(id, &self.watches);
        watch.is_none_or(|watch| {
            watch.group.usage(&mut self.buffer).is_err_and(|error| error.is_gone())
        })
    }

    fn add(&mut self, found: Found) {
        if let Some(slice) = found.parent_slice.clone()
            && self.options.only.is_none()
        {
            self.add_slice(&slice);
        }
        if self.is_skipped(&found.path) {
            debug!("{}: skip_cgroups names it, or it is a demo's; skipped", found.path.display());
            return;
        }
        // What the engine's own files say, which takes 0.3 ms. Sockets and users' homes may block,
        // so what only they know is asked for on the helper, a little later.
        let container = container::glance(&self.roots, &found, &self.discovery.sources);
        if container.sandbox {
            debug!("{}: a pod's pause container, not watched", found.path.display());
            return;
        }
        self.add_watch(Kind::Container, found, container);
    }

    fn add_slice(&mut self, path: &Path) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let found = Found {
            engine: discover::Engine::Docker,
            id: name.clone(),
            path: path.to_path_buf(),
            parent_slice: None,
            outer: None,
            user: None,
        };
        let container = Container::of_slice(&name);
        self.add_watch(Kind::Slice, found, container);
    }

    fn is_skipped(&self, path: &Path) -> bool {
        let not_ours = match &self.options.only {
            Some(only) => !path.starts_with(only),
            None => path.starts_with(super::DEMOS),
        };
        let path = path.to_string_lossy();
        not_ours || self.config.guard.skip_cgroups.iter().any(|glob| glob.matches_path(&path))
    }

    fn add_watch(&mut self, kind: Kind, found: Found, container: Container) {
        let path = found.path.clone();
        let group = match Group::open(&self.hierarchies, &path) {
            Ok(group) => group,
            Err(error) if error.is_gone() => return,
            Err(error) => {
                self.count_trouble(Trouble::NotGuarded);
                warn!("{error}: not guarded, skipped");
                if error.may_pass() {
                    self.mend_later(None);
                }
                return;
            }
        };
        if let Some(known) = self.at(&path).map(|watch| watch.id) {
            if self.watch(known).is_some_and(|watch| watch.group.id() == group.id()) {
                return;
            }
            self.remove(known, "another group took its place");
        }
        if !leaves_free(group.events_fd(), DESCRIPTORS_FREE, self.descriptors_max) {
            self.count_trouble(Trouble::NotGuarded);
            self.mend_later(None);
            if !std::mem::replace(&mut self.discovery.told_descriptors, true) {
                warn!(
                    "{}: descriptors run out (LimitNOFILE), not guarded, skipped",
                    path.display()
                );
            }
            return;
        }
        let facts = facts_of(&found, &container);
        let settings = self.config.settings_for(&facts);
        let ask_at = self.now().plus(DESCRIBED_AGAIN);
        if settings.ignore {
            debug!("{:?}: a rule or label says to ignore it", container.name);
            if !container.complete {
                self.discovery.ignore_for_now(found, ask_at);
            }
            return;
        }
        if !self.discovery.containers.admit(&path) {
            self.count_trouble(Trouble::NotGuarded);
            warn!("{}: too many containers, not guarded, skipped", path.display());
            return;
        }
        let protection = self.shared_protection(self.config.protection_for(&facts));
        let slot = self.free_slot();
        let id = WatchId { slot, generation: self.generations[slot as usize] };
        let unit = unit_of(&path, self.has_systemd);
        let container_started = kind == Kind::Slice || container.pid1.is_some();
        if !container.complete || !container_started {
            self.discovery.ask_again(ask_at);
        }
        let watch = Watch {
            id,
            kind,
            domain: Domain::new(Traits::of(&settings), Step::Absent),
            steps: Steps::of(Bytes::ZERO, &settings),
            found,
            since: std::time::SystemTime::now(),
            container,
            settings: self.shared(settings),
            protection,
            group,
            limit: Limit::Max,
            mode: Mode::None,
            mode_reason: Cow::Borrowed(""),
            unlimited: false,
            covered: false,
            members: Vec::new(),
            listening: false,
            seen: Events::default(),
            psi: None,
            v1_events: Vec::new(),
            high: High {
                original: Limit::Max,
                ours: None,
                started: container_started,
                asked: 0,
                lost: false,
                ask_at,
                in_flight: 0,
                unit,
                overwritten: 0,
                overwritten_since: Moment(0),
            },
            lame: false,
            counts: ContainerCounts::default(),
            inotify: [None; 2],
        };
        self.watches[slot as usize] = Some(Box::new(watch));
        self.watch_files(id);
        self.arm(id);
    }

    /// Most containers have the same settings: kept once.
    fn shared(&self, settings: Settings) -> Rc<Settings> {
        let mut known = self.watches.iter().flatten().map(|watch| &watch.settings);
        known.find(|known| ***known == settings).cloned().unwrap_or_else(|| Rc::new(settings))
    }

    /// The watch on the group at this path. They are few, and asked for when one comes or goes.
    fn at(&self, path: &Path) -> Option<&Watch> {
        self.watches.iter().flatten().map(Box::as_ref).find(|watch| watch.found.path == path)
    }

    fn shared_protection(&self, protection: Protection) -> Rc<Protection> {
        let mut known = self.watches.iter().flatten().map(|watch| &watch.protection);
        known.find(|known| ***known == protection).cloned().unwrap_or_else(|| Rc::new(protection))
    }

    fn free_slot(&mut self) -> u32 {
        let free = self.watches.iter().position(Option::is_none).unwrap_or(self.watches.len());
        if free == self.watches.len() {
            self.watches.push(None);
            self.generations.push(0);
        }
        u32::try_from(free).expect("the quota keeps the number of watches far below 2^32")
    }

    /// Watches `memory.high` and `memory.max` before they are read, so that no change is missed.
    fn watch_files(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id) else { return };
        let dir = watch.dir();
        let names: &[(&str, File)] = match watch.group.version() {
            Version::V2 => &[("memory.high", File::High), ("memory.max", File::Max)],
            Version::V1 => &[("memory.limit_in_bytes", File::Max)],
        };
        let mut placed = watch.inotify;
        let mut failed = false;
        for ((name, file), place) in names.iter().zip(&mut placed) {
            if place.is_some() {
                continue;
            }
            match self.inotify.add_watch(&dir.join(name), AddWatchFlags::IN_MODIFY) {
                Ok(wd) => {
                    self.discovery.files.insert(wd, (id, *file));
                    *place = Some(wd);
                }
                Err(error) => {
                    debug!("{}/{name}: {error}: its changes go unnoticed", dir.display());
                    failed |= sys::may_pass(&error.into());
                }
            }
        }
        if failed {
            self.mend_later(Some(id));
        }
        let Some(watch) = watch::of_mut(id, &mut self.watches) else { return };
        watch.inotify = placed;
        // It got a limit of its own: inotify gives a file one watch only, which is now this one.
        let file = watch.found.path.join(discover::limit_file(&self.hierarchies));
        self.discovery.covered.forget(&file);
    }

    /// Reads where the group stands, and arms what can tell that it runs short.
    fn arm(&mut self, id: WatchId) {
        let slot = id.slot as usize;
        let Some(watch) = self.watches[slot].as_mut() else { return };
        let figures = match watch.group.figures(&mut self.buffer) {
            Ok(figures) => figures,
            Err(error) => {
                if !error.is_gone() {
                    warn!("{error}: not guarded, skipped");
                }
                if error.may_pass() {
                    self.mend_later(None);
                }
                self.remove(id, "it could not be read");
                return;
            }
        };
        watch.seen = figures.events;
        watch.limit = figures.limit;
        watch.high.original = figures.high;
        let inode = watch.group.id().0;
        if let Some(before) = self.state.find(&watch.found.id, inode) {
            // An earlier daemon put its own value there; what it found is the original.
            watch.high.original = parse_limit(&before.original);
            watch.high.ours = Some(figures.high);
        }
        self.attach(id);
        self.place_steps(id, &figures);
        self.tell_armed(id);
        self.discovery.fresh.push(id);
    }

    /// Listens to what can tell of pressure, unless a slice above is listened to in its place.
    fn attach(&mut self, id: WatchId) {
        let covered = self.watch(id).is_some_and(|watch| self.is_covered(watch));
        if !covered {
            self.arm_psi(id);
            if self.watch(id).is_some_and(|watch| watch.domain.machine.listens()) {
                self.listen(id);
            }
            return;
        }
        self.stop_listening(id);
        self.drop_psi(id);
    }

    fn drop_psi(&mut self, id: WatchId) {
        if let Some(armed) = self.watch_mut(id).and_then(|watch| watch.psi.take()) {
            self.deregister(armed.fd.as_raw_fd());
            self.close(vec![armed.fd]);
        }
    }

    /// The trigger reports an error: the group is gone, or somebody switched its PSI off.
    pub(super) fn on_psi_gone(&mut self, id: WatchId) {
        if self.is_gone(id) {
            self.remove(id, "it is gone");
            return;
        }
        self.drop_psi(id);
        if let Some(watch) = self.watch_mut(id) {
            watch.mode_reason = "no PSI trigger: its PSI was switched off".into();
            warn!("{:?}: its PSI was switched off (cgroup.pressure)", watch.name());
        }
        self.relimit(id);
    }

    fn arm_psi(&mut self, id: WatchId) {
        let Some(watch) = self.watch_mut(id) else { return };
        if watch.psi.is_some() {
            return;
        }
        let mut armed = watch.arm_psi();
        if let Some(fd) = watch.psi.as_ref().map(|armed| armed.fd.as_raw_fd()) {
            armed = self.register(fd, For::Psi(id), Interest::PRIORITY);
        }
        let Err(error) = armed else { return };
        self.drop_psi(id);
        let Some(watch) = self.watch_mut(id) else { return };
        watch.mode_reason = format!("no PSI trigger: {error}").into();
        if sys::may_pass(&error) {
            warn!("{:?}: no PSI trigger: {error}", watch.name());
            self.mend_later(Some(id));
        }
    }

    /// Listens to `memory.events`.
    pub(super) fn listen(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id) else { return };
        if watch.listening {
            return;
        }
        let fd = watch.group.events_fd().as_raw_fd();
        let listens = self.register(fd, For::Events(id), Interest::PRIORITY);
        let Some(watch) = self.watch_mut(id) else { return };
        watch.listening = listens.is_ok();
        if let Err(error) = listens {
            warn!("{:?}: memory.events is not listened to: {error}", watch.name());
            self.mend_later(Some(id));
        }
    }

    pub(super) fn stop_listening(&mut self, id: WatchId) {
        let Some(watch) = self.watch_mut(id) else { return };
        if std::mem::take(&mut watch.listening) {
            let fd = watch.group.events_fd().as_raw_fd();
            self.deregister(fd);
        }
    }

    fn tell_armed(&self, id: WatchId) {
        let Some(watch) = self.watch(id) else { return };
        if watch.limit == Limit::Max && !watch.high.started {
            return;
        }
        let reason = match watch.mode_reason.as_ref() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        match watch.limit {
            Limit::At(limit) => info!(
                "watching {:?}: limit {limit}, threshold {}, mode {}{reason}",
                watch.name(),
                watch.steps.threshold,
                watch.mode,
            ),
            Limit::Max => info!(
                "watching {:?}: no limit, so the host's memory counts, mode {}{reason}",
                watch.name(),
                watch.mode,
            ),
        }
    }

    /// Lets go of a watch; its descriptors are closed off the loop, after the group is gone.
    pub(super) fn remove(&mut self, id: WatchId, why: &str) {
        if self.watch(id).is_none() {
            return;
        }
        self.close_episode_of_gone(id);
        self.end_rise(Some(id));
        self.thaw_of(id);
        let slot = id.slot as usize;
        // Still there (a rule, a rescan, a limit of its own lost): nothing of ours is left behind.
        let there = !self.is_gone(id);
        if there {
            self.put_back(id);
        }
        let Some(mut watch) = self.watches[slot].take() else { return };
        self.generations[slot] = next_generation(self.generations[slot]);
        debug!("{:?} is watched no longer: {why}", watch.name());
        if watch.listening {
            self.deregister(watch.group.events_fd().as_raw_fd());
        }
        let mut fds = std::mem::take(&mut watch.v1_events);
        fds.extend(watch.psi.take().map(|armed| armed.fd));
        fds.append(&mut watch.domain.followed);
        for fd in &fds {
            self.deregister(fd.as_raw_fd());
        }
        self.close(fds);
        for wd in watch.inotify.iter().flatten() {
            self.discovery.files.remove(wd);
            let _ = self.inotify.rm_watch(*wd);
        }
        self.discovery.containers.release(&watch.found.path);
        if watch.kind == Kind::Container {
            self.forget_orders_of(&watch.found.id);
        }
        // What could not be put back, or thawed, stays noted.
        let inode = watch.group.id().0;
        let noted = self.state.changed.iter().find(|c| c.inode == inode);
        if noted.is_some_and(|noted| !there || (!noted.frozen && watch.high.ours.is_none())) {
            self.state.forget(inode);
            self.save_state();
        }
        self.regroup();
    }

    /// Something of this watch, or a whole container, could not be had for a reason that may pass.
    pub(super) fn mend_later(&mut self, id: Option<WatchId>) {
        if let Some(watch) = id.and_then(|id| self.watch_mut(id)) {
            watch.lame = true;
        }
        let now = self.now();
        self.discovery.mend.want(now);
    }

    fn run_mending(&mut self, now: Moment) {
        if !self.discovery.mend.is_due(now) {
            return;
        }
        let lame = self.watches.iter_mut().flatten().filter(|watch| watch.lame);
        let lame: Vec<WatchId> = lame
            .map(|watch| {
                watch.lame = false;
                watch.id
            })
            .collect();
        for id in lame {
            self.watch_files(id);
            self.relimit(id);
            if self.watch(id).is_some_and(|watch| !watch.lame) {
                self.tell_armed(id);
            }
        }
        self.rescan();
        if self.discovery.mend.tried() {
            info!("whatever could not be read or armed before was tried again");
        }
    }

    /// Which containers make up each slice, and which of them make up the host's domain.
    fn regroup(&mut self) {
        let slices: Vec<(usize, PathBuf, bool)> = self
            .watches
            .iter()
            .enumerate()
            .filter_map(|(slot, watch)| {
                let watch = watch.as_ref().filter(|w| w.kind == Kind::Slice)?;
                Some((slot, watch.found.path.clone(), watch.unlimited))
            })
            .collect();
        let mut members: HashMap<usize, Vec<u32>> = HashMap::new();
        let mut of_host = Vec::new();
        let mut stepping = Vec::new();
        for watch in self.watches.iter_mut().flatten() {
            let slot = watch.id.slot;
            if watch.kind == Kind::Slice {
                continue;
            }
            let parent = slices.iter().find(|(_, path, _)| watch.found.path.starts_with(path));
            if let Some((slice, _, unlimited)) = parent {
                members.entry(*slice).or_default().push(slot);
                if watch.covered && *unlimited {
                    of_host.push(slot);
                }
            }
            if watch.unlimited && !watch.covered && watch.high.started {
                of_host.push(slot);
                stepping.push(slot);
            }
        }
        for (slice, _, unlimited) in &slices {
            let slots = members.remove(slice).unwrap_or_default();
            if *unlimited {
                stepping.push(u32::try_from(*slice).unwrap_or(u32::MAX));
            }
            if let Some(watch) = self.watches[*slice].as_mut() {
                watch.members = slots;
            }
        }
        // A slice without containers is not watched for its own sake.
        let empty: Vec<WatchId> = self
            .watches
            .iter()
            .flatten()
            .filter(|w| w.kind == Kind::Slice && w.members.is_empty())
            .map(|w| w.id)
            .collect();
        self.host.members = of_host;
        let others = std::mem::replace(&mut self.host.stepping, stepping) != self.host.stepping;
        for id in empty {
            self.remove_slice(id);
        }
        if others {
            self.step_host(None);
        }
    }

    fn remove_slice(&mut self, id: WatchId) {
        self.put_back(id);
        self.remove(id, "no container is left in it");
    }

    /// Descriptions that were not complete when the container appeared, and what could not be armed.
    pub(super) fn run_discovery(&mut self, now: Moment) {
        self.run_mending(now);
        if self.discovery.again.is_none_or(|at| at > now) {
            return;
        }
        self.discovery.again = None;
        for slot in 0..self.watches.len() {
            let Some(watch) = self.watches[slot].as_mut() else { continue };
            if watch.container.complete && watch.high.started {
                continue;
            }
            if watch.high.ask_at > now {
                self.discovery.ask_again(watch.high.ask_at);
                continue;
            }
            let found = watch.found.clone();
            let id = watch.id;
            watch.high.ask_at = now.plus(DESCRIBED_AGAIN * 4);
            let sources = Arc::clone(&self.discovery.sources);
            let found = Box::new(found);
            self.helper.ask(Question::Describe { watch: Some(id), found, sources });
        }
        self.ask_about_ignored(now);
    }

    fn ask_about_ignored(&mut self, now: Moment) {
        let Reactor { discovery, helper, .. } = self;
        let mut next: Option<Moment> = None;
        for ignored in &mut discovery.ignored {
            if ignored.ask_at > now {
                next = Some(next.map_or(ignored.ask_at, |at| at.min(ignored.ask_at)));
                continue;
            }
            ignored.ask_at = now.plus(DESCRIBED_AGAIN * 4);
            let found = Box::new(ignored.found.clone());
            let sources = Arc::clone(&discovery.sources);
            helper.ask(Question::Describe { watch: None, found, sources });
        }
        if let Some(next) = next {
            discovery.ask_again(next);
        }
    }

    /// More is known of a container that was ignored by what was known.
    pub(super) fn on_ignored_described(&mut self, found: Found, container: Container) {
        let now = self.now();
        let list = &mut self.discovery.ignored;
        let Some(at) = list.iter().position(|ignored| ignored.found.path == found.path) else {
            return;
        };
        list[at].asked += 1;
        let facts = facts_of(&found, &container);
        // What could not be read is no reason to guard it.
        let is_known = container.unread().is_none();
        if is_known && !self.config.settings_for(&facts).ignore && !container.sandbox {
            list.swap_remove(at);
            self.add_watch(Kind::Container, found, container);
            self.regroup();
            self.look_at_fresh();
            return;
        }
        if let Some(why) = container.unread().filter(|_| list[at].asked == 1) {
            warn!("{:?}: {why}: ignored by what else is known of it", container.name);
        }
        if container.complete || list[at].asked >= ASKED_MOST {
            list.swap_remove(at);
            if container.unread().is_some() {
                self.mend_later(None);
            }
        } else {
            list[at].ask_at = now.plus(DESCRIBED_AGAIN * 2u32.pow(u32::from(list[at].asked)));
            let ask_at = list[at].ask_at;
            self.discovery.ask_again(ask_at);
        }
    }

    /// The helper has read a container's description again.
    pub(super) fn on_described(&mut self, id: WatchId, container: Container) {
        let Some(watch) = self.watch_mut(id) else { return };
        watch.container.learn(container);
        let Some(watch) = self.watch(id) else { return };
        let facts = facts_of(&watch.found, &watch.container);
        let settings = self.config.settings_for(&facts);
        let is_sandbox = watch.container.sandbox;
        let protection = self.shared_protection(self.config.protection_for(&facts));
        let now = self.now();
        let Some(watch) = self.watch_mut(id) else { return };
        watch.protection = protection;
        watch.high.asked = watch.high.asked.saturating_add(1);
        let last = watch.high.asked >= ASKED_MOST;
        // What the engine does not say by then it will not say, unless nobody could read it.
        watch.container.complete |= last && watch.container.unread().is_none();
        let starts = !watch.high.started && (watch.container.pid1.is_some() || last);
        watch.high.started |= starts;
        if !watch.high.started || !watch.container.complete {
            let pause = DESCRIBED_AGAIN * 2u32.pow(u32::from(watch.high.asked.min(ASKED_LONGEST)));
            let at = now.plus(pause);
            watch.high.ask_at = at;
            self.discovery.ask_again(at);
        }
        if starts {
            self.tell_systemd(id);
            if self.watch(id).is_some_and(|watch| watch.limit == Limit::Max) {
                self.relimit(id);
                self.tell_armed(id);
            }
        }
        if settings.ignore || is_sandbox {
            self.put_back(id);
            self.remove(id, "a rule or label says to ignore it, or it is a pod's pause container");
            return;
        }
        self.apply_settings(id, settings);
    }

    /// Engines may have come, or moved their data.
    pub(super) fn refresh_sources(&mut self) {
        self.discovery.sources = Arc::new(sources(&self.roots, &self.config));
    }

    /// Applies a configuration that was read again; returns how many were armed anew.
    pub(super) fn apply_config(&mut self) -> usize {
        let ids: Vec<WatchId> = self.watches.iter().flatten().map(|w| w.id).collect();
        let mut rearmed = 0;
        for id in ids {
            let Some(watch) = self.watch(id) else { continue };
            let facts = facts_of(&watch.found, &watch.container);
            let settings = self.config.settings_for(&facts);
            let protection = self.shared_protection(self.config.protection_for(&facts));
            let skipped = settings.ignore || self.is_skipped(&watch.found.path);
            if skipped {
                self.put_back(id);
                self.remove(id, "the configuration says to ignore it");
                rearmed += 1;
                continue;
            }
            if let Some(watch) = self.watch_mut(id) {
                watch.protection = protection;
            }
            rearmed += usize::from(self.apply_settings(id, settings));
        }
        // What was ignored before may be wanted now.
        self.rescan();
        rearmed
    }

    /// New settings for one watch; only what changed is armed anew.
    fn apply_settings(&mut self, id: WatchId, settings: Settings) -> bool {
        let settings = self.shared(settings);
        let Some(watch) = self.watch_mut(id) else { return false };
        if watch.settings == settings {
            return false;
        }
        let new_trigger = watch.settings.trigger != settings.trigger;
        watch.settings = settings;
        if new_trigger && let Some(old) = watch.psi.take() {
            self.deregister(old.fd.as_raw_fd());
            self.close(vec![old.fd]);
            self.arm_psi(id);
        }
        self.relimit(id);
        true
    }

    /// Somebody wrote the limit, or the settings changed: compute the steps anew.
    pub(super) fn relimit(&mut self, id: WatchId) {
        let slot = id.slot as usize;
        let Some(watch) = self.watches[slot].as_mut() else { return };
        match watch.group.figures(&mut self.buffer) {
            Ok(figures) => {
                watch.limit = figures.limit;
                self.attach(id);
                self.place_steps(id, &figures);
                self.regroup();
                self.drive(Some(id), Input::Wake(Wake::Armed));
            }
            Err(error) if error.is_gone() => self.remove(id, "it is gone"),
            Err(error) => self.unreadable(id, &error),
        }
    }

    /// What stands in its files now is not known: the steps stay where they are.
    fn unreadable(&mut self, id: WatchId, error: &group::Error) {
        warn!("{error}, skipped");
        if error.may_pass() {
            self.mend_later(Some(id));
        }
    }

    fn on_limit_written(&mut self, id: WatchId) {
        let slot = id.slot as usize;
        let Some(watch) = self.watches.get_mut(slot).and_then(Option::as_mut) else { return };
        match watch.group.limit(&mut self.buffer) {
            Ok(limit) if limit == watch.limit => {}
            Ok(limit) => {
                let first = watch.limit == Limit::Max && !watch.high.started;
                if !first {
                    info!("{:?}: the limit is now {limit}", watch.name());
                }
                self.relimit(id);
                self.relimit_below(id);
                if first {
                    self.tell_armed(id);
                }
            }
            Err(error) if error.is_gone() => self.remove(id, "it is gone"),
            Err(error) => self.unreadable(id, &error),
        }
    }

    /// A slice's limit is its containers' limit too.
    fn relimit_below(&mut self, id: WatchId) {
        let Some(watch) = self.watch(id).filter(|w| w.kind == Kind::Slice) else { return };
        for slot in watch.members.clone() {
            if let Some(id) = self.watches[slot as usize].as_ref().map(|w| w.id) {
                self.relimit(id);
            }
        }
    }

    /// Whether the limit that holds for a container is that of a watched slice above it.
    pub(super) fn is_covered(&self, watch: &Watch) -> bool {
        let Some(slice) = &watch.found.parent_slice else { return false };
        self.at(slice).is_some_and(|above| match (watch.limit, above.limit) {
            (Limit::At(own), Limit::At(slice)) => own >= slice,
            (Limit::Max, _) => true,
            (Limit::At(_), Limit::Max) => false,
        })
    }
}

fn facts_of<'a>(found: &'a Found, container: &'a Container) -> ContainerFacts<'a> {
    ContainerFacts {
        id: &found.id,
        name: &container.name,
        image: &container.image,
        labels: &container.labels,
        env: &container.env,
    }
}

/// `max` or bytes, as the state file has it.
pub(super) fn parse_limit(text: &str) -> Limit {
    text.parse().map_or(Limit::Max, |bytes| Limit::At(Bytes(bytes)))
}
