//! `nbguard capture`: writes what the guard sees of this host into a directory, as a fixture that
//! any field report can become. Bounded. Of argv and environment only what tells notebooks from
//! other processes is kept (`redact`), nothing of a container but its name and image.

pub mod redact;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::World;
use crate::cli::{files, out, ps, restore};
use crate::config::GuardSettings;
use crate::facts::HostMode;
use crate::host::container::Container;
use crate::host::discover::{Engine, Found};
use crate::host::fit;
use crate::parse;
use crate::roots::Roots;
use redact::Redactor;

#[derive(Args, Debug)]
pub struct CaptureArgs {
    /// A directory that does not exist, or is empty
    pub dir: PathBuf,
    /// Only this container: its name, or the first characters of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Put hashes in the place of the notebooks' names
    #[arg(long)]
    pub hash_names: bool,
}

/// A fixture with more than this shows nothing that a smaller one does not.
const CONTAINERS_MAX: usize = 256;
const PROCESSES_MAX: usize = 8_192;
/// Groups nested in one container; systemd inside makes some 60.
const NESTED_MAX: usize = 256;
const DEPTH_MAX: usize = 16;
/// No file that is captured is longer, but `cgroup.procs` of thousands of processes.
const FILE_MAX: u64 = 256 << 10;

/// What is read of a group. Both versions: what is not there is left out.
const GROUP_FILES: [&str; 26] = [
    "cgroup.controllers",
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.procs",
    "cgroup.subtree_control",
    "cgroup.type",
    "memory.current",
    "memory.events",
    "memory.events.local",
    "memory.failcnt",
    "memory.high",
    "memory.limit_in_bytes",
    "memory.low",
    "memory.max",
    "memory.memsw.limit_in_bytes",
    "memory.memsw.usage_in_bytes",
    "memory.min",
    "memory.oom_control",
    "memory.peak",
    "memory.pressure",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "memory.swappiness",
    "memory.usage_in_bytes",
    "memory.use_hierarchy",
];
/// Whose processes these are is nobody's business: of the groups above a container only limits.
const ANCESTOR_FILES: [&str; 6] = [
    "cgroup.controllers",
    "cgroup.subtree_control",
    "memory.high",
    "memory.limit_in_bytes",
    "memory.max",
    "memory.use_hierarchy",
];

pub fn run(config: &Path, args: &CaptureArgs, out: &mut dyn Write) -> Outcome {
    let (config, _) = files::config(config)?;
    let roots = Roots::system().map_err(|e| Failure::cannot(format!("/proc: {e}")))?;
    let world = World::open(roots, &config)?;
    let mut containers = world.containers();
    containers
        .retain(|(found, container)| ps::is_asked(args.container.as_deref(), found, container));
    if let Some(asked) = args.container.as_ref().filter(|_| containers.is_empty()) {
        let asked = out::safe(asked, out::CELL_MAX);
        return Err(Failure::wrong(format!("no container called {asked}")));
    }
    containers.truncate(CONTAINERS_MAX);
    make_target(&args.dir).map_err(|e| Failure::wrong(format!("{}: {e}", args.dir.display())))?;
    let mut capture = Capture {
        target: args.dir.clone(),
        redactor: Redactor::new(args.hash_names),
        pids: BTreeSet::new(),
        files: 0,
    };
    capture.all(&world, &containers).map_err(|e| Failure::wrong(format!("capture: {e}")))?;
    writeln!(
        out,
        "{}: {}, {}, {} files",
        args.dir.display(),
        out::counted(containers.len() as u64, "container", "containers"),
        out::counted(capture.pids.len() as u64, "process", "processes"),
        capture.files
    )?;
    writeln!(
        out,
        "Look through it before you pass it on; `nbguard ps --root {}` shows what the \
        guard would make of it.",
        args.dir.display()
    )?;
    Ok(Exit::Ok)
}

fn make_target(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    if !fs::symlink_metadata(dir)?.is_dir() {
        return Err(io::Error::other("not a directory"));
    }
    match fs::read_dir(dir)?.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("not empty")),
    }
}

struct Capture {
    target: PathBuf,
    redactor: Redactor,
    pids: BTreeSet<u32>,
    files: u32,
}

impl Capture {
    fn all(&mut self, world: &World, containers: &[(Found, Container)]) -> io::Result<()> {
        self.host(world)?;
        for (found, container) in containers {
            self.groups(world, found)?;
            if found.engine == Engine::Docker {
                self.docker(found, container)?;
            }
        }
        let pids: Vec<u32> = self.pids.iter().copied().collect();
        for pid in pids {
            self.process(pid)?;
        }
        // Where the tripwires are the guard's own: by the daemon's default place, so that a
        // reader of the fixture finds it without a configuration.
        let ids: Vec<&str> = containers.iter().map(|(found, _)| found.id.as_str()).collect();
        let state = GuardSettings::default().state_dir.join(restore::STATE_FILE);
        if let Some(folder) = state.parent() {
            self.make_dir(folder)?;
        }
        world.notes(&ids).write(&self.below(&state))?;
        let about = serde_json::json!({
            "nbguard": env!("CARGO_PKG_VERSION"),
            "kernel": fit::kernel(&world.roots),
            "host_mode": world.hierarchies.mode,
        });
        self.put(Path::new("capture.json"), format!("{about:#}\n").as_bytes())
    }

    fn host(&mut self, world: &World) -> io::Result<()> {
        for file in ["/proc/meminfo", "/proc/pressure/memory", "/proc/swaps"] {
            self.copy(Path::new(file))?;
        }
        let mounts = fs::read(world.roots.path("/proc/self/mountinfo"))?;
        self.put(Path::new("/proc/self/mountinfo"), &cgroup_mounts(&mounts))?;
        // The root groups: which controllers there are.
        let mut tops = vec![world.hierarchies.memory_root()];
        tops.extend(world.hierarchies.psi_root());
        for top in tops {
            self.above(top)?;
        }
        Ok(())
    }

    /// A container's groups in every hierarchy that it is in, and the limits above it.
    fn groups(&mut self, world: &World, found: &Found) -> io::Result<()> {
        let mut tops = vec![world.hierarchies.memory_root()];
        if world.hierarchies.mode == HostMode::Hybrid {
            tops.extend(world.hierarchies.psi_root());
        }
        for top in tops {
            for above in found.path.ancestors().skip(1) {
                self.above(&top.join(above))?;
            }
            self.nested(&top.join(&found.path))?;
        }
        Ok(())
    }

    /// A group above a container. Its `cgroup.procs` is there, so that it is one, and empty.
    fn above(&mut self, group: &Path) -> io::Result<()> {
        self.group(group, &ANCESTOR_FILES)?;
        let procs = group.join("cgroup.procs");
        if procs.exists() { self.put(&procs, b"") } else { Ok(()) }
    }

    /// A group and those below it, breadth first.
    fn nested(&mut self, top: &Path) -> io::Result<()> {
        let mut queue = vec![(top.to_owned(), 0)];
        let mut next = 0;
        while let Some((group, depth)) = queue.get(next).cloned() {
            next += 1;
            self.group(&group, &GROUP_FILES)?;
            self.members(&group);
            let below = fs::read_dir(&group).into_iter().flatten().flatten();
            for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                if depth < DEPTH_MAX && queue.len() < NESTED_MAX {
                    queue.push((entry.path(), depth + 1));
                }
            }
        }
        Ok(())
    }

    fn group(&mut self, group: &Path, files: &[&str]) -> io::Result<()> {
        if group.is_dir() {
            self.make_dir(group)?;
        }
        for file in files {
            self.copy(&group.join(file))?;
        }
        Ok(())
    }

    fn members(&mut self, group: &Path) {
        let text = read(&group.join("cgroup.procs")).unwrap_or_default();
        for pid in parse::cgroup::pids(&text).flatten() {
            if self.pids.len() < PROCESSES_MAX {
                self.pids.insert(pid);
            }
        }
    }

    /// What Docker's file says of it, less everything that could be a secret.
    fn docker(&mut self, found: &Found, container: &Container) -> io::Result<()> {
        let text = serde_json::json!({
            "ID": found.id,
            "Name": format!("/{}", container.name),
            "Config": { "Image": container.image, "Labels": {}, "Env": [] },
            "State": { "Running": true, "Pid": container.pid1.unwrap_or(0) },
        });
        let file = Path::new("/var/lib/docker/containers").join(&found.id).join("config.v2.json");
        self.put(&file, text.to_string().as_bytes())
    }

    fn process(&mut self, pid: u32) -> io::Result<()> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        for file in ["stat", "status", "cgroup", "smaps_rollup"] {
            self.copy(&folder.join(file))?;
        }
        if let Ok(argv) = read(&folder.join("cmdline")) {
            let argv = self.redactor.argv(&argv);
            self.put(&folder.join("cmdline"), &argv)?;
        }
        if let Ok(environ) = read(&folder.join("environ")) {
            let environ = self.redactor.environ(&environ);
            self.put(&folder.join("environ"), &environ)?;
        }
        Ok(())
    }

    /// Copies a file of the kernel's; one that is not there, or not for us, is left out.
    fn copy(&mut self, file: &Path) -> io::Result<()> {
        match read(file) {
            Ok(bytes) => self.put(file, &bytes),
            Err(_) => Ok(()),
        }
    }

    fn put(&mut self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            self.make_dir(folder)?;
        }
        let target = self.below(file);
        let words = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", target.display()));
        let mut opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&target)
            .map_err(words)?;
        opened.write_all(bytes).map_err(words)?;
        self.files += 1;
        Ok(())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.below(dir))
    }

    fn below(&self, path: &Path) -> PathBuf {
        self.target.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    File::take(opened, FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The lines of mountinfo that are about cgroups: the others name people's disks.
fn cgroup_mounts(text: &[u8]) -> Vec<u8> {
    let is_cgroup = |line: &&[u8]| {
        parse::mountinfo(line).flatten().any(|mount| mount.fstype.starts_with(b"cgroup"))
    };
    text.split_inclusive(|byte| *byte == b'\n').filter(is_cgroup).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_written_to() {
        let dir = std::env::temp_dir().join(format!("nbguard-capture-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        make_target(&dir).unwrap();
        make_target(&dir).unwrap();
        fs::write(dir.join("x"), "").unwrap();
        assert!(make_target(&dir).unwrap_err().to_string().contains("not empty"));
        assert!(make_target(&dir.join("x")).unwrap_err().to_string().contains("not a directory"));
        let link = dir.join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(make_target(&link).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn of_the_mounts_only_cgroups_are_kept() {
        let text = b"1 0 8:1 / /home/ada/secret rw - ext4 /dev/sda rw\n\
                     2 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let kept = String::from_utf8(cgroup_mounts(text)).unwrap();
        assert!(kept.contains("cgroup2") && !kept.contains("secret"), "{kept}");
    }
}
