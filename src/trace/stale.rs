//! Files of processes that are dead. Who is dead can be told only by who sees everybody: a tool in
//! the first pid namespace. Elsewhere other containers' workers may share the directory unseen.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::place::{Place, Target, open_beneath};
use crate::roots::{Buffer, Roots};
use crate::sys::getdents::getdents64;

/// The inode of the first pid namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Files looked at in one directory: a directory with more is somebody's joke.
const MOST: usize = 65_536;

/// Removes what the dead left in the directory of the place's user. How many files.
pub fn remove(roots: &Roots, place: &Place<'_>, buffer: &mut Buffer) -> usize {
    let first = fstatat(roots.proc(), "self/ns/pid", AtFlags::empty());
    if !first.is_ok_and(|stat| stat.st_ino == FIRST_PID_NAMESPACE) {
        return 0;
    }
    let folder = place.target().inner_uid.to_string();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let dir = open_beneath(place.dir(), Path::new(&folder), flags, Mode::empty());
    let Ok(dir) = dir else { return 0 };
    let mut named = Vec::new();
    let mut room = [0; 4096];
    while let Ok(entries) = getdents64(dir.as_fd(), &mut room) {
        if entries.is_end() || named.len() >= MOST {
            break;
        }
        named.extend(entries.filter_map(|entry| {
            let key = owner_of(entry.name)?;
            Some((key, String::from_utf8(entry.name.to_vec()).ok()?))
        }));
    }
    if named.is_empty() {
        return 0;
    }
    let living = living(roots, buffer);
    let dead = named.iter().filter(|(key, _)| !living.contains(key));
    dead.filter(|(_, name)| {
        unlinkat(dir.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir).is_ok()
    })
    .count()
}

/// `<pid>-<start>.trace` or `.watch`, and nothing else.
fn owner_of(name: &[u8]) -> Option<(u32, u64)> {
    let name = std::str::from_utf8(name).ok()?;
    let (pid, rest) = name.split_once('-')?;
    let start = rest
        .strip_suffix(trace_layout::TRACE_SUFFIX)
        .or_else(|| rest.strip_suffix(trace_layout::WATCH_SUFFIX))?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(pid) && digits(start)).then_some(())?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// Everybody, by the pid of the innermost namespace and the start. A zombie is dead.
fn living(roots: &Roots, buffer: &mut Buffer) -> HashSet<(u32, u64)> {
    pids(roots)
        .into_iter()
        .filter_map(|pid| Target::read(roots, pid, buffer).ok())
        .map(|target| (target.inner, target.key.start))
        .collect()
}

/// All pids of `/proc`.
pub fn pids(roots: &Roots) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(roots.path("/proc")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::owner_of;

    #[test]
    fn only_names_of_ours_are_names() {
        assert_eq!(owner_of(b"12-345.trace"), Some((12, 345)));
        assert_eq!(owner_of(b"12-345.watch"), Some((12, 345)));
        for other in
            ["12-345", "+2-3.trace", "a-3.trace", "1-.trace", "..", "1-2.trace.9", "switch"]
        {
            assert_eq!(owner_of(other.as_bytes()), None, "{other}");
        }
    }
}
