//! The checks, each a function of its own: what it looks at, and the remedy.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use crate::cli::demo::is_root;
use crate::cli::files;
use crate::cli::look::{self, World};
use crate::config::{Config, Settings};
use crate::facts::{HostMode, Limit};
use crate::host::container::Sources;
use crate::host::discover::Engine;
use crate::host::fit;
use crate::host::{Hierarchies, hierarchies, memory};
use crate::roots::{Buffer, Roots};
use crate::sys::{pidfd, psi};
use crate::units::{Bytes, Trigger};

/// Containers that are named; the rest is counted.
const NAMED: usize = 5;

/// Everything, in the order in which it is to be set right.
pub fn all(config_file: &Path) -> Vec<Finding> {
    let (config, configured) = configuration(config_file);
    let mut findings = vec![privilege(), configured];
    let roots = match Roots::system() {
        Ok(roots) => roots,
        Err(error) => {
            findings.push(Finding::fail("/proc", error.to_string(), "mount /proc"));
            return findings;
        }
    };
    findings.extend([pidfds(&roots), mrelease()]);
    findings.extend(capabilities());
    let hierarchies = hierarchies(&roots);
    findings.push(cgroups(hierarchies.as_ref()));
    findings.push(pressure());
    findings.extend(windows(&config.defaults));
    findings.extend(tripwire(&config.defaults));
    findings.push(swap(&roots));
    findings.push(systemd(hierarchies.as_ref().ok()));
    findings.push(other_guards());
    findings.push(folder("state folder", &config.guard.state_dir));
    findings.push(folder("record", config.record.path.parent().unwrap_or(Path::new("/"))));
    findings.push(docker(&roots, &config));
    match World::open(roots, &config) {
        Ok(mut world) => findings.extend(containers(&mut world, &config)),
        // Said above, by `cgroups`.
        Err(_) => findings.push(Finding::warn(
            "containers",
            "cannot be looked for",
            "first the memory controller",
        )),
    }
    findings.push(daemon());
    findings
}

fn privilege() -> Finding {
    if is_root() {
        Finding::ok("root", "yes")
    } else {
        let remedy = "run `sudo nbguard doctor`: what follows is what *you* may do";
        Finding::fail("root", "no: the guard needs it, and so does the doctor", remedy)
    }
}

/// The configuration, or the defaults where it is bad: the rest is to be told all the same.
fn configuration(file: &Path) -> (Config, Finding) {
    let name = "configuration";
    match files::config(file) {
        Ok((config, _)) if !file.exists() => {
            let found = format!("{} does not exist: every key at its default", file.display());
            (config, Finding::ok(name, found))
        }
        Ok((config, warnings)) if warnings.is_empty() => {
            (config, Finding::ok(name, format!("{}: no errors", file.display())))
        }
        Ok((config, warnings)) => {
            let found = format!("{}: {} warnings", file.display(), warnings.len());
            (config, Finding::warn(name, found, "`nbguard check` tells them"))
        }
        Err(files::LoadError::Read(error)) => {
            (Config::default(), Finding::fail(name, error, "make it readable, or name another"))
        }
        Err(files::LoadError::Errors(errors)) => {
            let found = format!("{}: {} errors", file.display(), errors.0.len());
            (Config::default(), Finding::fail(name, found, "`nbguard check` tells them"))
        }
    }
}

/// The daemon asks the same before it starts.
fn pidfds(roots: &Roots) -> Finding {
    match fit::to_guard(roots) {
        Ok(()) => Finding::ok("pidfd", format!("Linux {} has pidfd_open", fit::kernel(roots))),
        Err(unfit) => Finding::fail("pidfd", unfit.found, unfit.remedy),
    }
}

/// A living process cannot be released (EINVAL): asking tells whether the kernel knows the call.
fn mrelease() -> Finding {
    let name = "mrelease";
    let asked = pidfd::open(std::process::id()).and_then(|fd| pidfd::release(fd.as_fd()));
    match asked.map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EINVAL)) => Finding::ok(name, "process_mrelease is there"),
        _ => Finding::warn(
            name,
            "no process_mrelease: memory comes back when a stuck victim gets to it",
            "a kernel of 5.15 or later",
        ),
    }
}

/// Numbers of linux/capability.h.
const CAPABILITIES: [(&str, u32, bool, &str); 5] = [
    ("CAP_KILL", 5, true, "nobody else's process can be ended"),
    ("CAP_SYS_PTRACE", 19, true, "nobody else's environment can be read, so no notebook is known"),
    ("CAP_DAC_READ_SEARCH", 2, false, "names and labels of containers cannot be read"),
    ("CAP_SYS_RESOURCE", 24, false, "PSI windows are multiples of 2 s only"),
    ("CAP_IPC_LOCK", 14, false, "the daemon cannot be kept in memory under pressure"),
];
/// May read whatever CAP_DAC_READ_SEARCH may.
const DAC_OVERRIDE: u32 = 1;

fn capabilities() -> Vec<Finding> {
    let name = "capabilities";
    let held = procfs::process::Process::myself().and_then(|me| me.status()).map(|s| s.capeff);
    let Ok(held) = held else {
        return vec![Finding::warn(name, "/proc/self/status cannot be read", "mount /proc")];
    };
    let has = |number: u32| held & (1 << number) != 0;
    let lacks = |name: &str, number: u32| {
        let instead = name == "CAP_DAC_READ_SEARCH" && has(DAC_OVERRIDE);
        !has(number) && !instead
    };
    let missing: Vec<_> =
        CAPABILITIES.iter().filter(|(name, number, ..)| lacks(name, *number)).collect();
    if missing.is_empty() {
        return vec![Finding::ok(name, "all that are needed")];
    }
    let list: Vec<String> =
        missing.iter().map(|(name, _, _, means)| format!("no {name} ({means})")).collect();
    let names: Vec<&str> = missing.iter().map(|(name, ..)| *name).collect();
    let remedy = format!("CapabilityBoundingSet= of the unit with {}", names.join(" "));
    let fatal = missing.iter().any(|(_, _, fatal, _)| *fatal);
    let finding = if fatal { Finding::fail } else { Finding::warn };
    vec![finding(name, list.join("; "), remedy)]
}

fn cgroups(found: Result<&Hierarchies, &crate::host::mode::Error>) -> Finding {
    let name = "cgroups";
    let unified = "boot with systemd.unified_cgroup_hierarchy=1 (cgroup v2)";
    match found {
        Err(error) => {
            let remedy =
                "boot with cgroup_enable=memory; in a container mount the host's /sys/fs/cgroup";
            Finding::fail(name, error.to_string(), remedy)
        }
        Ok(found) => {
            let root = found.memory_root().display();
            match found.mode {
                HostMode::V2 => Finding::ok(name, format!("v2, memory controller at {root}")),
                HostMode::Hybrid => Finding::warn(
                    name,
                    format!("hybrid, memory controller of v1 at {root}: no tripwire, best effort"),
                    unified,
                ),
                HostMode::V1 => Finding::warn(
                    name,
                    format!("v1 at {root}: no tripwire and no container pressure, best effort"),
                    unified,
                ),
            }
        }
    }
}

fn pressure() -> Finding {
    let name = "pressure";
    match fs::read_to_string("/proc/pressure/memory") {
        Ok(_) => Finding::ok(name, "PSI is on"),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Finding::warn(name, "PSI is off: memory.high alone wakes the guard", "boot with psi=1")
        }
        Err(error) => Finding::warn(
            name,
            format!("no PSI ({error}): memory.high alone wakes the guard"),
            "boot with psi=1; a kernel with CONFIG_PSI",
        ),
    }
}

/// Arms the configured trigger for a moment, on the host's file: that is what counts.
fn windows(settings: &Settings) -> Option<Finding> {
    let name = "PSI trigger";
    let file = Path::new("/proc/pressure/memory");
    if !file.exists() {
        return None;
    }
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let pressure = || Ok(open(file, flags, Mode::empty())?);
    let asked = settings.trigger;
    let shown = |trigger: Trigger| {
        format!("{} ms in {} ms", trigger.stall_us() / 1000, trigger.window_us() / 1000)
    };
    Some(match psi::arm(pressure, asked) {
        Ok(armed) if armed.trigger == asked => Finding::ok(name, shown(asked)),
        Ok(armed) => Finding::warn(
            name,
            format!("{} is refused, {} is taken", shown(asked), shown(armed.trigger)),
            "give the daemon CAP_SYS_RESOURCE",
        ),
        Err(error) => {
            Finding::warn(name, format!("cannot be armed: {error}"), "run as root; boot with psi=1")
        }
    })
}

fn tripwire(settings: &Settings) -> Option<Finding> {
    let name = "tripwire";
    if settings.dry_run {
        let found = "dry_run = true: nobody is ended, no memory.high is set";
        return Some(Finding::warn(name, found, "dry_run = false when you trust what it would do"));
    }
    if !settings.tripwire {
        // KERNEL.md: 0 of 9 triggers fired before the kernel's OOM kill.
        let found = "tripwire = false: PSI alone comes after the kernel's OOM killer when memory \
                     grows fast";
        return Some(Finding::warn(name, found, "tripwire = true"));
    }
    None
}

fn swap(roots: &Roots) -> Finding {
    let name = "swap";
    match memory::memory(roots, &mut Buffer::new()) {
        Err(error) => Finding::warn(name, error.to_string(), "mount /proc"),
        Ok(host) if host.swap_total == Bytes::ZERO => Finding::ok(name, "none"),
        Ok(host) => Finding::warn(
            name,
            format!("{}: a container gets slow on it long before it is short", host.swap_total),
            "docker run --memory-swap with the value of --memory keeps a container off it",
        ),
    }
}

/// Where systemd owns the groups, a plain value is overwritten at its next daemon-reload.
fn systemd(found: Option<&Hierarchies>) -> Finding {
    let name = "systemd";
    if !Path::new("/run/systemd/system").exists() {
        return Finding::ok(name, "not in charge here: memory.high is written to the files");
    }
    if found.is_some_and(|found| found.mode != HostMode::V2) {
        return Finding::ok(name, "in charge; cgroup v1 has nothing to set");
    }
    let answers = cgroups_rs::systemd::SystemdClient::new("init.scope", Vec::new())
        .is_ok_and(|client| client.exists());
    if answers {
        Finding::ok(name, "in charge, and answers: memory.high is set as a property too")
    } else {
        Finding::warn(
            name,
            "in charge, but does not answer: it may overwrite memory.high",
            "start dbus; run as root",
        )
    }
}

/// As `/proc/<pid>/comm` has them: at most 15 characters.
const GUARDS: [(&str, &str); 4] = [
    (
        "systemd-oomd",
        "systemctl disable --now systemd-oomd, or ManagedOOMMemoryPressure=auto for Docker's slice",
    ),
    ("earlyoom", "systemctl disable --now earlyoom, or earlyoom --avoid '(jupyter|python)'"),
    ("nohang", "systemctl disable --now nohang"),
    ("oomd", "systemctl disable --now oomd"),
];

fn other_guards() -> Finding {
    let name = "other guards";
    let Ok(processes) = procfs::process::all_processes() else {
        return Finding::warn(name, "/proc cannot be listed", "mount /proc");
    };
    let mut running: Vec<&(&str, &str)> = Vec::new();
    for stat in processes.flatten().filter_map(|process| process.stat().ok()) {
        if let Some(guard) = GUARDS.iter().find(|(guard, _)| *guard == stat.comm)
            && !running.contains(&guard)
            && !matches!(stat.state, 'Z' | 'X')
        {
            running.push(guard);
        }
    }
    if running.is_empty() {
        return Finding::ok(name, "none running");
    }
    let names: Vec<&str> = running.iter().map(|(name, _)| *name).collect();
    let remedies: Vec<&str> = running.iter().map(|(_, remedy)| *remedy).collect();
    let found = format!("{}: may end a notebook, or a whole container, first", names.join(", "));
    Finding::warn(name, found, remedies.join("; "))
}

/// Whether the daemon can write there, or make it.
fn folder(name: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let nearest = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match access(nearest, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if nearest == path => Finding::ok(name, format!("{shown} can be written to")),
        Ok(()) => Finding::ok(name, format!("{shown} can be made")),
        Err(error) => {
            let found = format!("{}: {}", nearest.display(), error.desc());
            Finding::fail(name, found, format!("make {shown} writable for the daemon"))
        }
    }
}

fn docker(roots: &Roots, config: &Config) -> Finding {
    let name = "docker";
    let configured = config.guard.docker_root.as_deref();
    let folder = Sources::new(roots, configured, Vec::new()).docker.join("containers");
    let shown = folder.display();
    match fs::read_dir(&folder) {
        Ok(_) => Finding::ok(name, format!("names and labels from {shown}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && configured.is_none() => {
            Finding::ok(name, "not here")
        }
        Err(error) => {
            let found = format!("{shown}: {error}: names and labels may stay unknown");
            Finding::warn(name, found, "docker_root in [guard]; CAP_DAC_READ_SEARCH")
        }
    }
}

/// How many there are, how Docker names them, and which have no limit.
fn containers(world: &mut World, config: &Config) -> Vec<Finding> {
    let all = world.containers();
    let name = "containers";
    let mut unlimited = Vec::new();
    let mut sliced = true;
    let mut unread = 0;
    for (found, container) in &all {
        match world.look(found, container, config) {
            Ok(look) if look.figures.limit == Limit::Max && !look.settings.ignore => {
                unlimited.push(look.name);
                sliced &= found.parent_slice.is_some();
            }
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(_) => unread += 1,
        }
    }
    let scoped = |scope: bool| {
        all.iter()
            .filter(|(found, _)| found.engine == Engine::Docker)
            .any(|(found, _)| found.path.extension().is_some_and(|e| e == "scope") == scope)
    };
    let driver = match (scoped(true), scoped(false)) {
        (true, false) => "; Docker's cgroup driver is systemd",
        (false, true) => "; Docker's cgroup driver is cgroupfs",
        _ => "",
    };
    let mut findings = vec![match unread {
        0 => Finding::ok(name, format!("{} running{driver}", all.len())),
        n => Finding::warn(
            name,
            format!("{} running, {n} of them cannot be read{driver}", all.len()),
            "run as root",
        ),
    }];
    if !unlimited.is_empty() {
        findings.push(without_limit(&unlimited, sliced));
    }
    findings
}

fn without_limit(names: &[String], sliced: bool) -> Finding {
    let more = match names.len() {
        n if n > NAMED => format!(" and {} more", n - NAMED),
        _ => String::new(),
    };
    let listed = names[..names.len().min(NAMED)].join(", ");
    let remedy = if sliced {
        "docker run --memory, so that one container cannot take it from the others"
    } else {
        "docker run --memory; or \"cgroup-parent\": \"notebooks.slice\" in /etc/docker/daemon.json and \
         MemoryMax= for that slice, which then takes one ordinary tripwire"
    };
    let found =
        format!("{listed}{more}: the host's memory is theirs, guarded by stepping tripwires");
    Finding::warn("no limit", found, remedy)
}

fn daemon() -> Finding {
    match look::running_daemon() {
        Some(pid) => Finding::ok("daemon", format!("nbguardd runs, pid {pid}")),
        None => Finding::warn(
            "daemon",
            "nbguardd is not running: nothing is guarded now",
            "systemctl enable --now nbguard",
        ),
    }
}
