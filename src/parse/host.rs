//! The files of the whole host: `meminfo`, `mountinfo`, and `/proc/<pid>/cgroup`. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{ParseError, decimal, key_colon, kib, lines};
use crate::facts::HostMemory;

/// MemTotal, MemAvailable, SwapTotal and SwapFree of `/proc/meminfo`. No allocation.
///
/// # Errors
/// When one is missing (MemAvailable came with 3.14) or not in kB.
pub fn meminfo(text: &[u8]) -> Result<HostMemory, ParseError> {
    let mut seen = [None; 4];
    for (n, line) in lines(text) {
        let Some((key, value)) = key_colon(line) else { continue };
        let slot = match key {
            b"MemTotal" => 0,
            b"MemAvailable" => 1,
            b"SwapTotal" => 2,
            b"SwapFree" => 3,
            _ => continue,
        };
        seen[slot] = Some(kib(value).ok_or(ParseError::at("meminfo", n, "a size in kB"))?);
    }
    let missing = |what| ParseError::missing("meminfo", what);
    Ok(HostMemory {
        total: seen[0].ok_or(missing("MemTotal"))?,
        available: seen[1].ok_or(missing("MemAvailable"))?,
        swap_total: seen[2].ok_or(missing("SwapTotal"))?,
        swap_free: seen[3].ok_or(missing("SwapFree"))?,
    })
}

/// One line of `mountinfo`, still escaped (proc_pid_mountinfo(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mount<'a> {
    pub id: u64,
    /// `major:minor`: one filesystem has the same in every namespace.
    pub device: &'a [u8],
    pub fstype: &'a [u8],
    /// Of the superblock: v1 names its controllers here.
    pub options: &'a [u8],
    root: &'a [u8],
    point: &'a [u8],
}

impl Mount<'_> {
    /// The directory of the filesystem that is mounted: not `/` for a bind-mounted subtree.
    pub fn root(&self) -> PathBuf {
        unescape(self.root)
    }

    /// Where it is mounted.
    pub fn point(&self) -> PathBuf {
        unescape(self.point)
    }

    pub fn has_option(&self, option: &[u8]) -> bool {
        self.options.split(|b| *b == b',').any(|o| o == option)
    }
}

/// The lines of `mountinfo`; a broken one does not hide the others.
pub fn mountinfo(text: &[u8]) -> impl Iterator<Item = Result<Mount<'_>, ParseError>> {
    lines(text)
        .filter(|(_, line)| !line.is_empty())
        .map(|(n, line)| mount(line).map_err(|expected| ParseError::at("mountinfo", n, expected)))
}

fn mount(line: &[u8]) -> Result<Mount<'_>, &'static str> {
    // 36 35 98:0 /root /point rw,noatime [optional fields] - ext3 /dev/root rw,errors=continue
    let mut words = line.split(|b| *b == b' ');
    let id = words.next().and_then(decimal).ok_or("a mount id")?;
    words.next().and_then(decimal).ok_or("a parent id")?;
    let device = words.next().ok_or("major:minor")?;
    let root = words.next().ok_or("a root")?;
    let point = words.next().ok_or("a mount point")?;
    words.next().ok_or("mount options")?;
    words.find(|word| *word == b"-").ok_or("a separator")?;
    let fstype = words.next().ok_or("a filesystem type")?;
    words.next().ok_or("a source")?;
    let options = words.next().ok_or("superblock options")?;
    Ok(Mount { id, device, fstype, options, root, point })
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// Where a process is, by `/proc/<pid>/cgroup`: in the v2 hierarchy and in v1's memory controller.
/// Paths are relative to the hierarchy's root (to that of our cgroup namespace, if we are in one).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProcCgroup {
    pub v2: Option<PathBuf>,
    pub v1_memory: Option<PathBuf>,
}

/// Parses `/proc/<pid>/cgroup` (cgroups(7)). A path may hold colons, but no newline: the kernel
/// refuses one in a group's name.
///
/// # Errors
/// When a line has no three parts.
pub fn proc_cgroup(text: &[u8]) -> Result<ProcCgroup, ParseError> {
    let mut found = ProcCgroup::default();
    for (n, line) in lines(text).filter(|(_, line)| !line.is_empty()) {
        let mut parts = line.splitn(3, |b| *b == b':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseError::at("cgroup", n, "hierarchy:controllers:path"));
        };
        // A group that has been removed while its process lives on as a zombie.
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let path = PathBuf::from(OsString::from_vec(path.to_vec()));
        if id == b"0" && controllers.is_empty() {
            found.v2 = Some(path);
        } else if controllers.split(|b| *b == b',').any(|c| c == b"memory") {
            found.v1_memory = Some(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn reads_meminfo() {
        let text = b"MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   23905816 kB\n\
            SwapTotal:      1048576 kB\nSwapFree:  1024 kB\nHugePages_Total:       0\n";
        let host = meminfo(text).unwrap();
        assert_eq!(host.total, Bytes::kib(24_684_092));
        assert_eq!(host.available, Bytes::kib(23_905_816));
        assert_eq!((host.swap_total, host.swap_free), (Bytes::gib(1), Bytes::mib(1)));
        assert_eq!(meminfo(b"MemTotal: 1 kB\n").unwrap_err().expected, "MemAvailable");
        assert_eq!(meminfo(b"x\nMemTotal: lots\n").unwrap_err().line, 2);
        assert!(meminfo(b"MemTotal: 18446744073709551615 kB\n").is_err());
    }

    #[test]
    fn reads_mounts_with_and_without_optional_fields() {
        let text = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup c rw,memory\n\
            41 31 0:38 /docker/ab /mnt/a\\040b\\134c rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts: Vec<Mount> = mountinfo(text).map(Result::unwrap).collect();
        assert_eq!(mounts[0].fstype, b"cgroup");
        assert!(mounts[0].has_option(b"memory") && !mounts[0].has_option(b"mem"));
        assert_eq!(mounts[1].root(), Path::new("/docker/ab"));
        assert_eq!(mounts[1].point(), Path::new("/mnt/a b\\c"));
    }

    #[test]
    fn a_broken_mount_does_not_hide_the_others() {
        let text = b"x\n1 2 0:1 / /a rw - cgroup2\n1 2 0:1 / /a rw cgroup2 c rw\n\n1 2 0:1 / /b rw - cgroup2 c rw\n";
        let mounts: Vec<_> = mountinfo(text).collect();
        let lines: Vec<_> = mounts.iter().map(|m| m.map_err(|e| e.line).err()).collect();
        assert_eq!(lines, [Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn only_whole_octal_escapes_are_undone() {
        for (escaped, plain) in
            [("a\\040b", "a b"), ("\\04", "\\04"), ("\\", "\\"), ("\\999", "\\999")]
        {
            assert_eq!(unescape(escaped.as_bytes()), Path::new(plain));
        }
    }

    #[test]
    fn reads_where_a_process_is() {
        let text = b"9:name=systemd:/\n4:cpu,memory:/docker/ab:cri:cd\n0::/system.slice/a.scope\n";
        let found = proc_cgroup(text).unwrap();
        assert_eq!(found.v1_memory.as_deref(), Some(Path::new("/docker/ab:cri:cd")));
        assert_eq!(found.v2.as_deref(), Some(Path::new("/system.slice/a.scope")));
        assert_eq!(proc_cgroup(b"0::/a (deleted)\n").unwrap().v2, Some(PathBuf::from("/a")));
        assert_eq!(proc_cgroup(b"").unwrap(), ProcCgroup::default());
        assert_eq!(proc_cgroup(b"0::/\nnothing\n").unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (meminfo(&text), proc_cgroup(&text), unescape(&text));
            for mount in mountinfo(&text).flatten() {
                let _ = (mount.root(), mount.point(), mount.has_option(b"memory"));
            }
        }
    }
}
