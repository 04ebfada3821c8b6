//! Ground for the live tests: cgroups that look like Docker's containers on this very machine,
//! made and taken down again, and why a test cannot stand on it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nbguard::facts::HostMode;
use nbguard::host::{Hierarchies, Roots, hierarchies};
use nbguard::sys::pidfd;
use nbguard::units::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What happens at once may take this long on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_millis(2);

/// Live tests go one after the other: they measure the machine that they share.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel that a fact was checked on: told, so that a log of a failure says it.
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Waits for what no event tells (a cgroup's files, `/proc`), but not for ever.
pub fn eventually<T>(what: &str, mut see: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = see() {
            return seen;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        thread::sleep(NAP);
    }
}

/// Whether there was something to read within this time.
pub fn wait_readable(fd: &impl AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, time).unwrap_or(0) > 0
}

/// Where containers can be made, and the names of those of one test.
#[derive(Debug)]
pub struct Ground {
    pub hierarchies: Hierarchies,
    /// The beginning of the names (and ids) of this ground's containers: no other guard's.
    pub tag: String,
    made: Mutex<Vec<PathBuf>>,
    count: AtomicU32,
}

impl Ground {
    /// # Errors
    /// Why no container can be made here.
    pub fn find() -> Result<Ground, String> {
        static GROUNDS: AtomicU32 = AtomicU32::new(0);
        if !fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0) {
            return Err("not root".to_owned());
        }
        let roots = Roots::system().map_err(|e| format!("/proc: {e}"))?;
        let hierarchies = hierarchies(&roots).map_err(|e| e.to_string())?;
        let number = GROUNDS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{:08x}{:04x}", std::process::id(), number & 0xffff);
        let ground =
            Ground { hierarchies, tag, made: Mutex::new(Vec::new()), count: AtomicU32::new(0) };
        let probe = ground.container(Bytes::mib(64))?;
        drop(probe);
        Ok(ground)
    }

    pub fn is_v2(&self) -> bool {
        self.hierarchies.mode == HostMode::V2
    }

    /// The roots in which a container has a directory: memory, and pressure where it is apart.
    fn roots(&self) -> Vec<PathBuf> {
        let memory = self.hierarchies.memory_root();
        let psi = self.hierarchies.psi_root().filter(|root| *root != memory);
        std::iter::once(memory).chain(psi).map(Path::to_path_buf).collect()
    }

    /// A cgroup such as Docker's cgroupfs driver makes it.
    ///
    /// # Errors
    /// What this host refused.
    pub fn container(&self, limit: Bytes) -> Result<Container, String> {
        self.make(self.next_id(), limit)
    }

    /// The id of a container that does not exist yet: its engine may describe it first.
    pub fn next_id(&self) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{}{number:052x}", self.tag)
    }

    /// # Errors
    /// What this host refused.
    pub fn make(&self, id: String, limit: Bytes) -> Result<Container, String> {
        let relative = Path::new("docker").join(&id);
        let mut dirs = Vec::new();
        for root in self.roots() {
            self.prepare(&root)?;
            let dir = root.join(&relative);
            fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            dirs.push(dir);
        }
        let container = Container { id, relative, dirs, is_v2: self.is_v2() };
        container.limit(limit)?;
        Ok(container)
    }

    /// `docker`, with the memory controller for its children.
    fn prepare(&self, root: &Path) -> Result<(), String> {
        let parent = root.join("docker");
        match fs::create_dir(&parent) {
            Ok(()) => self.made.lock().unwrap().push(parent.clone()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(format!("{}: {e}", parent.display())),
        }
        if self.is_v2() {
            for dir in [root, &parent] {
                let file = dir.join("cgroup.subtree_control");
                fs::write(&file, "+memory").map_err(|e| format!("{}: {e}", file.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for dir in self.made.lock().unwrap().iter().rev() {
            // Others may have containers there by now.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// What the engine calls the container with this id.
pub fn name(id: &str) -> String {
    format!("nb-{id}")
}

/// One container-like cgroup. Whoever is in it ends with it.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    /// Below the roots of the hierarchies.
    pub relative: PathBuf,
    /// The memory side first.
    dirs: Vec<PathBuf>,
    is_v2: bool,
}

impl Container {
    /// As the engine's file will say.
    pub fn name(&self) -> String {
        name(&self.id)
    }

    pub fn memory_dir(&self) -> &Path {
        &self.dirs[0]
    }

    /// The directory with pressure and freezer, where there is one.
    pub fn unified_dir(&self) -> Option<&Path> {
        if self.is_v2 { Some(&self.dirs[0]) } else { self.dirs.get(1).map(PathBuf::as_path) }
    }

    /// Every `cgroup.procs` that a process has to be written to.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    pub fn limit(&self, limit: Bytes) -> Result<(), String> {
        let write = |name: &str| {
            let file = self.dirs[0].join(name);
            fs::write(&file, limit.0.to_string()).map_err(|e| format!("{}: {e}", file.display()))
        };
        if self.is_v2 {
            // Swap would only put off what these tests wait for.
            let _ = fs::write(self.dirs[0].join("memory.swap.max"), "0");
            write("memory.max")
        } else {
            write("memory.limit_in_bytes")
        }
    }

    pub fn usage(&self) -> Bytes {
        let name = if self.is_v2 { "memory.current" } else { "memory.usage_in_bytes" };
        let text = fs::read_to_string(self.dirs[0].join(name)).unwrap_or_default();
        Bytes(text.trim().parse().unwrap_or(0))
    }

    /// `memory.high`, where this host has it.
    pub fn high(&self) -> Option<String> {
        let text = fs::read_to_string(self.dirs[0].join("memory.high")).ok()?;
        Some(text.trim().to_owned())
    }

    pub fn is_frozen(&self) -> bool {
        let file = self.unified_dir().map(|dir| dir.join("cgroup.freeze"));
        file.and_then(|file| fs::read_to_string(file).ok()).is_some_and(|text| text.trim() == "1")
    }

    /// What the kernel's own OOM killer did here.
    pub fn oom_kills(&self) -> u64 {
        let name = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.dirs[0].join(name)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for procs in self.procs() {
            let text = fs::read_to_string(procs).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends everybody in it and removes it, as an engine does with a container that goes.
    pub fn remove(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            for pid in self.pids() {
                let Ok(fd) = pidfd::open(pid) else { continue };
                // Now that we hold it, it must still be a member: only then it is ours.
                if self.pids().contains(&pid) {
                    let _ = pidfd::send(fd.as_fd(), libc::SIGKILL);
                }
            }
            let mut left = false;
            for dir in &self.dirs {
                let _ = fs::write(dir.join("cgroup.freeze"), "0");
                left |= fs::remove_dir(dir).is_err_and(|e| e.kind() != io::ErrorKind::NotFound);
            }
            if !left || Instant::now() >= until {
                return;
            }
            thread::sleep(NAP);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A directory that goes when the test is over.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("nbguard-it-{}-{number}-{name}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
