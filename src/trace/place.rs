//! Whom a tool means by a pid, and where that process's files are: below its own root directory,
//! which another mount namespace may have. Opening never follows a link and never leaves.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::libc::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};

use super::ground::Ground;
use super::{NEEDS_PTRACE, NEEDS_WRITE, Trouble};
use crate::ids::ProcKey;
use crate::parse::process;
use crate::roots::{Buffer, Roots, why};

/// A process, as both sides call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// As we see it.
    pub key: ProcKey,
    /// Its pid in its innermost pid namespace: what its files are named by.
    pub inner: u32,
    /// Its effective user, as we see it, and as its own user namespace does.
    pub uid: u32,
    pub inner_uid: u32,
    /// Root of its user namespace, as we see it.
    pub root_uid: u32,
}

impl Target {
    /// # Errors
    /// [`Trouble::Gone`], or what could not be read.
    pub fn read(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<Target, Trouble> {
        let start = start_of(roots, pid, buffer)?;
        let path = |file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
        let odd = |file| Trouble::NotOurs { path: path(file), what: "is not as proc(5) says" };
        let text = roots.read_process(pid, "status", buffer);
        let text = text.map_err(|e| Trouble::of(path("status"), e, NEEDS_PTRACE).or_gone())?;
        let ids = process::status_ids(text).map_err(|_| odd("status"))?;
        let (mut inner_uid, mut root_uid) = (ids.euid, 0);
        // Without user namespaces in the kernel there is no such file.
        if let Ok(map) = roots.read_process(pid, "uid_map", buffer) {
            let map = UidMap(map);
            inner_uid = map.inner(ids.euid).ok_or_else(|| odd("uid_map"))?;
            root_uid = map.outer(0).unwrap_or(ids.euid);
        }
        let key = ProcKey { pid, start };
        Ok(Target { key, inner: ids.nspid, uid: ids.euid, inner_uid, root_uid })
    }

    /// Whether the pid is still this process's.
    pub fn is_there(&self, roots: &Roots, buffer: &mut Buffer) -> bool {
        start_of(roots, self.key.pid, buffer) == Ok(self.key.start)
    }

    /// The program that it runs: another one after execve, whose tracer is gone with it.
    pub fn program(&self, roots: &Roots) -> Option<(u64, u64)> {
        let mut path = Name::default();
        write!(path, "{}/exe", self.key.pid).ok()?;
        let stat = fstatat(roots.proc(), path.as_path(), AtFlags::empty()).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }
}

fn start_of(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<u64, Trouble> {
    let path = || PathBuf::from(format!("/proc/{pid}/stat"));
    let text = roots.read_process(pid, "stat", buffer);
    let text = text.map_err(|e| Trouble::of(path(), e, NEEDS_PTRACE).or_gone())?;
    match process::stat(text) {
        // A zombie has no memory and no root directory any more.
        Ok(line) if line.state == b'Z' && line.threads <= 1 => Err(Trouble::Gone),
        Ok(line) => Ok(line.start),
        Err(_) => Err(Trouble::NotOurs { path: path(), what: "is not as proc(5) says" }),
    }
}

impl Trouble {
    /// A file of `/proc/<pid>` that is not there means that the process is not.
    fn or_gone(self) -> Trouble {
        match self {
            Trouble::NotThere(_) => Trouble::Gone,
            other => other,
        }
    }
}

/// `/proc/<pid>/uid_map`: lines of inner, outer, count.
struct UidMap<'t>(&'t [u8]);

impl UidMap<'_> {
    fn lines(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        // The kernel keeps at most 340 of them.
        self.0.split(|byte| *byte == b'\n').take(340).filter_map(|line| {
            let mut numbers = line
                .split(|byte| *byte == b' ')
                .filter(|word| !word.is_empty())
                .map(|word| std::str::from_utf8(word).ok()?.parse().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        })
    }

    fn inner(&self, outer: u32) -> Option<u32> {
        self.lines().find_map(|(inner, from, count)| {
            let at = outer.checked_sub(from)?;
            (at < count).then(|| inner.checked_add(at)).flatten()
        })
    }

    fn outer(&self, inner: u32) -> Option<u32> {
        self.lines().find_map(|(from, outer, count)| {
            let at = inner.checked_sub(from)?;
            (at < count).then(|| outer.checked_add(at)).flatten()
        })
    }
}

/// A short text without a heap block: `<uid>/<pid>-<start>.trace`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    bytes: [u8; 64],
    len: usize,
}

impl Default for Name {
    fn default() -> Name {
        Name { bytes: [0; 64], len: 0 }
    }
}

impl Name {
    pub fn as_path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.bytes[..self.len]))
    }
}

impl std::fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS);
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The trace directory of one process.
#[derive(Debug)]
pub struct Place<'d> {
    dir: OwnedFd,
    target: Target,
    /// As its container calls it.
    path: &'d Path,
    /// Nothing below it may stand on another filesystem.
    calm: bool,
}

impl<'d> Place<'d> {
    /// The directory `dir` (absolute, as the process sees it), if it is there.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(
        roots: &Roots,
        target: Target,
        dir: &'d Path,
        buffer: &mut Buffer,
    ) -> Result<Place<'d>, Trouble> {
        let root = root_of(roots, target)?;
        let opened = open_beneath(root.as_fd(), relative(dir), PLACE, Mode::empty());
        let opened = opened.map_err(|e| Trouble::of(dir.into(), e, NEEDS_PTRACE))?;
        let place = Place { dir: opened, target, path: dir, calm: false };
        place.check()?;
        if target.is_there(roots, buffer) { Ok(place) } else { Err(Trouble::Gone) }
    }

    /// The same for whoever must not wait: one name at a time, each only where what came before
    /// stands on a filesystem that answers by itself.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open_calm(
        roots: &Roots,
        target: Target,
        dir: &'d Path,
        buffer: &mut Buffer,
    ) -> Result<Place<'d>, Trouble> {
        let trouble = |errno| Trouble::of(dir.into(), errno, NEEDS_PTRACE);
        let mut ground = Ground::of(roots, target.key.pid);
        let mut stands = |at: &OwnedFd, buffer: &mut Buffer| {
            if ground.is_calm(at.as_fd(), buffer).map_err(trouble)? {
                return Ok(());
            }
            let what = "is on a filesystem that may not answer";
            Err(Trouble::NotOurs { path: dir.into(), what })
        };
        let mut at = root_of(roots, target)?;
        stands(&at, buffer)?;
        for name in relative(dir).components() {
            let Component::Normal(name) = name else { return Err(trouble(Errno::EXDEV)) };
            at = openat(&at, name, PLACE | OFlag::O_NOFOLLOW, Mode::empty()).map_err(trouble)?;
            stands(&at, buffer)?;
        }
        let place = Place { dir: at, target, path: dir, calm: true };
        place.check()?;
        if target.is_there(roots, buffer) { Ok(place) } else { Err(Trouble::Gone) }
    }

    /// The same, made where it is not there yet, with a directory for the process's user in it.
    ///
    /// # Errors
    /// What is in the way.
    pub fn prepare(
        roots: &Roots,
        target: Target,
        dir: &'d Path,
        buffer: &mut Buffer,
    ) -> Result<Place<'d>, Trouble> {
        let mut at = root_of(roots, target)?;
        let mut path = PathBuf::from("/");
        let mut names = relative(dir).components().peekable();
        // Above the directory others have theirs; in it, nobody lists who is traced.
        while let Some(Component::Normal(name)) = names.next() {
            path.push(name);
            let mode = if names.peek().is_some() { 0o755 } else { 0o711 };
            at = make_dir(at.as_fd(), Path::new(name), mode, target.root_uid, &path)?;
        }
        let place = Place { dir: at, target, path: dir, calm: false };
        place.check()?;
        let mut name = Name::default();
        write!(name, "{}", target.inner_uid).expect("a number fits");
        let path = dir.join(name.as_path());
        let own = make_dir(place.dir.as_fd(), name.as_path(), 0o700, target.uid, &path)?;
        let stat = fstat(&own).map_err(|e| Trouble::of(path.clone(), e, NEEDS_WRITE))?;
        if stat.st_uid != target.uid {
            return Err(Trouble::NotOurs { path, what: "belongs to another user" });
        }
        if target.is_there(roots, buffer) { Ok(place) } else { Err(Trouble::Gone) }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn path(&self) -> &'d Path {
        self.path
    }

    pub(super) fn path_of(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    /// `<uid>/<pid>-<start>` with a suffix.
    pub(super) fn name_of(&self, suffix: &str) -> Name {
        let mut name = Name::default();
        let Target { inner_uid, inner, key, .. } = self.target;
        write!(name, "{inner_uid}/{inner}-{}{suffix}", key.start)
            .expect("10 + 10 + 20 digits and a suffix are below 64");
        name
    }

    /// A regular file in it, for reading. What it is is known before it is opened: only to open a
    /// device may be more than its maker could do himself.
    ///
    /// # Errors
    /// `EISDIR`: it is no regular file; and what the kernel says.
    pub(super) fn open_regular(&self, name: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let found = if self.calm {
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW);
            openat2(&self.dir, name, how.resolve(BENEATH | ResolveFlag::RESOLVE_NO_XDEV))?
        } else {
            open_beneath(self.dir(), name, OFlag::O_PATH, Mode::empty())?
        };
        match fstat(&found)?.st_mode & S_IFMT {
            S_IFREG => {}
            S_IFLNK => return Err(Errno::ELOOP),
            _ => return Err(Errno::EISDIR),
        }
        let mut path = Name::default();
        write!(path, "/proc/self/fd/{}", found.as_raw_fd()).expect("a number fits");
        open(path.as_path(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Made by root or by the user itself, and writable for nobody else.
    fn check(&self) -> Result<(), Trouble> {
        let stat = fstat(&self.dir);
        let stat = stat.map_err(|e| Trouble::of(self.path.into(), e, NEEDS_PTRACE))?;
        let not = |what| Err(Trouble::NotOurs { path: self.path.into(), what });
        match stat {
            _ if stat.st_mode & S_IFMT != S_IFDIR => not("is no directory"),
            _ if !self.is_trusted(&stat) => not("belongs to another user"),
            _ if stat.st_mode & 0o022 != 0 => not("is writable for others"),
            _ => Ok(()),
        }
    }

    /// Whether a file here is root's or the process's own.
    pub(super) fn is_trusted(&self, stat: &FileStat) -> bool {
        [0, self.target.root_uid, self.target.uid].contains(&stat.st_uid)
    }
}

fn root_of(roots: &Roots, target: Target) -> Result<OwnedFd, Trouble> {
    let path = || PathBuf::from(format!("/proc/{}/root", target.key.pid));
    roots.open_root(target.key.pid).map_err(|e| {
        if why(e) == crate::facts::Why::Gone {
            Trouble::Gone
        } else {
            Trouble::of(path(), e, NEEDS_PTRACE)
        }
    })
}

fn relative(dir: &Path) -> &Path {
    dir.strip_prefix("/").unwrap_or(dir)
}

/// Opens `below` in `base` without following any link and without a way out.
pub(super) fn open_beneath(
    base: BorrowedFd<'_>,
    below: &Path,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve = BENEATH;
    match openat2(base, below, OpenHow::new().flags(flags).mode(mode).resolve(resolve)) {
        // Before 5.6, and behind seccomp filters that do not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => walk_beneath(base, below, flags, mode),
        opened => opened,
    }
}

/// The same one name at a time.
fn walk_beneath(
    base: BorrowedFd<'_>,
    below: &Path,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let mut at = base.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::EXDEV) };
        if names.peek().is_none() {
            return openat(&at, name, flags, mode);
        }
        at = openat(&at, name, PLACE | OFlag::O_NOFOLLOW, Mode::empty())?;
    }
    Err(Errno::ENOENT)
}

/// A directory that is there, or is made and given to its owner.
fn make_dir(
    base: BorrowedFd<'_>,
    name: &Path,
    mode: u32,
    owner: u32,
    path: &Path,
) -> Result<OwnedFd, Trouble> {
    let trouble = |errno| Trouble::of(path.into(), errno, NEEDS_WRITE);
    match mkdirat(base, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            return open_beneath(base, name, PLACE, Mode::empty()).map_err(trouble);
        }
        Err(errno) => return Err(trouble(errno)),
    }
    // Whoever is root in there may put something else in its place before we look: another
    // directory of ours, mounted there, must not be given away.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let made =
        openat2(base, name, OpenHow::new().flags(flags).resolve(resolve)).map_err(trouble)?;
    let stat = fstat(&made).map_err(trouble)?;
    if Some(stat.st_uid) != our_uid() || stat.st_nlink > 2 {
        return Err(Trouble::NotOurs { path: path.into(), what: "was replaced" });
    }
    // The umask took some of it.
    fchmod(&made, Mode::from_bits_truncate(mode)).map_err(trouble)?;
    give(made.as_fd(), &stat, owner).map_err(trouble)?;
    Ok(made)
}

/// Gives what was just made to its owner.
pub(super) fn give(fd: BorrowedFd<'_>, stat: &FileStat, owner: u32) -> Result<(), Errno> {
    if stat.st_uid == owner {
        return Ok(());
    }
    fchown(fd, Some(owner), None)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))
}

/// Our effective user, to whom what we make belongs.
fn our_uid() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|meta| meta.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way for old kernels refuses what openat2 does.
    #[test]
    fn one_name_at_a_time_leads_nowhere_else() {
        let dir = std::env::temp_dir().join(format!("nbg-walk-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(dir.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink("b", dir.join("a/link")).unwrap();
        std::os::unix::fs::symlink("file", dir.join("a/b/near")).unwrap();
        let base = openat(nix::fcntl::AT_FDCWD, &dir, PLACE, Mode::empty()).unwrap();
        type Open = fn(BorrowedFd<'_>, &Path, OFlag, Mode) -> Result<OwnedFd, Errno>;
        for open in [open_beneath as Open, walk_beneath] {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
            let open = |path: &str| open(base.as_fd(), Path::new(path), flags, Mode::empty());
            assert!(open("a/b/file").is_ok());
            for refused in ["a/link/file", "a/b/near", "../x", "a/../../x", "/etc/passwd"] {
                let error = open(refused).map(drop).unwrap_err();
                let known = [Errno::ELOOP, Errno::EXDEV, Errno::ENOTDIR];
                assert!(known.contains(&error), "{refused}: {error}");
            }
            assert_eq!(open("a/none").map(drop), Err(Errno::ENOENT));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn users_of_another_namespace_are_translated() {
        let map = UidMap(b"         0     100000      65536\n     65536       1000          1\n");
        assert_eq!((map.inner(100_033), map.outer(33)), (Some(33), Some(100_033)));
        assert_eq!((map.inner(1000), map.outer(65536)), (Some(65536), Some(1000)));
        assert_eq!((map.inner(0), map.outer(65537)), (None, None));
        let all = UidMap(b"         0          0 4294967295\n");
        assert_eq!((all.inner(33), all.outer(0)), (Some(33), Some(0)));
        for hostile in [&b"x y z\n"[..], b"", b"4294967295 4294967295 4294967295", b"1 2"] {
            assert_eq!(UidMap(hostile).inner(7), None);
        }
    }
}
