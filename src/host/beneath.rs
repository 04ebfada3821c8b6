//! Reads a text below a directory, and never leads anywhere else: no link is followed on the way,
//! nothing but a regular file is read, and not more of it than a bound. What stands there may be
//! somebody else's making (a user's home), so that one may neither lead root astray nor stall it
//! with a FIFO. It reads files only; a filesystem that hangs (NFS, FUSE) can still block: off the
//! loop, please.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::libc::{S_IFMT, S_IFREG};
use nix::sys::stat::{Mode, fstat};

/// Who may have made the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The directory is the administrator's, and so is what is in it.
    Trusted,
    /// This user's own, and on the filesystem that the directory is on.
    User(u32),
}

/// Why a text could not be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missing {
    NotThere,
    Denied,
    /// A symbolic link, or a way out of the directory.
    Link,
    /// Another filesystem is mounted there.
    OtherMount,
    /// A FIFO, a device, a directory, a socket.
    NotAFile,
    /// It is there, and somebody else's.
    NotTheirs {
        uid: u32,
    },
    TooLong {
        max: u64,
    },
    Failed(Errno),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NotThere => f.write_str("is not there"),
            Missing::Denied => f.write_str("may not be read"),
            Missing::Link => f.write_str("is a link, not followed"),
            Missing::OtherMount => f.write_str("is on another filesystem, not read"),
            Missing::NotAFile => f.write_str("is not a regular file"),
            Missing::NotTheirs { uid } => write!(f, "does not belong to user {uid}"),
            Missing::TooLong { max } => write!(f, "is longer than {max} bytes"),
            Missing::Failed(errno) => write!(f, "cannot be read: {}", errno.desc()),
        }
    }
}

impl From<Errno> for Missing {
    fn from(errno: Errno) -> Missing {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Missing::NotThere,
            Errno::EACCES | Errno::EPERM => Missing::Denied,
            Errno::ELOOP => Missing::Link,
            Errno::EXDEV => Missing::OtherMount,
            // A socket; a device without a driver.
            Errno::ENXIO | Errno::ENODEV => Missing::NotAFile,
            errno => Missing::Failed(errno),
        }
    }
}

/// NONBLOCK: opening a FIFO without a writer would wait for one.
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The text of the file `below` in the directory `base`. Links in `base` itself are followed: it
/// comes from the administrator, who may have put `/var/lib/docker` elsewhere.
///
/// # Errors
/// What is in the way.
pub fn read(base: &Path, below: &Path, max: u64, owner: Owner) -> Result<Vec<u8>, Missing> {
    let base = open(base, PLACE, Mode::empty())?;
    let file = open_below(base.as_fd(), below, owner)?;
    let stat = fstat(&file)?;
    if stat.st_mode & S_IFMT != S_IFREG {
        return Err(Missing::NotAFile);
    }
    // A hard link to somebody else's file is that one's still.
    if let Owner::User(uid) = owner
        && stat.st_uid != uid
    {
        return Err(Missing::NotTheirs { uid });
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > max) {
        return Err(Missing::TooLong { max });
    }
    // It may grow while it is read.
    let mut text = Vec::new();
    let read = File::from(file).take(max + 1).read_to_end(&mut text);
    read.map_err(|error| {
        error.raw_os_error().map_or(Missing::NotAFile, |e| Errno::from_raw(e).into())
    })?;
    if text.len() as u64 > max {
        return Err(Missing::TooLong { max });
    }
    Ok(text)
}

fn open_below(base: BorrowedFd<'_>, below: &Path, owner: Owner) -> Result<OwnedFd, Missing> {
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    if matches!(owner, Owner::User(_)) {
        resolve |= ResolveFlag::RESOLVE_NO_XDEV;
    }
    match openat2(base, below, OpenHow::new().flags(FILE).resolve(resolve)) {
        // Before 5.6, and behind seccomp filters that do not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => walk_below(base, below, owner),
        opened => Ok(opened?),
    }
}

/// The same one name at a time.
fn walk_below(base: BorrowedFd<'_>, below: &Path, owner: Owner) -> Result<OwnedFd, Missing> {
    let mut at = base.try_clone_to_owned().map_err(|_| Missing::Failed(Errno::EMFILE))?;
    let filesystem = fstat(&at)?.st_dev;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Missing::Link) };
        let flags = if names.peek().is_some() { PLACE | OFlag::O_NOFOLLOW } else { FILE };
        at = openat(&at, name, flags, Mode::empty())?;
        if matches!(owner, Owner::User(_)) && fstat(&at)?.st_dev != filesystem {
            return Err(Missing::OtherMount);
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("nbg-beneath-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("a/b")).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    type Open = fn(BorrowedFd<'_>, &Path, Owner) -> Result<OwnedFd, Missing>;

    #[test]
    fn only_plain_files_below_are_read() {
        let dir = Dir::new("plain");
        let base = &dir.0;
        fs::write(base.join("a/b/file"), "text").unwrap();
        fs::write(base.join("outside"), "secret").unwrap();
        symlink("/etc/shadow", base.join("a/b/shadow")).unwrap();
        symlink("file", base.join("a/b/near")).unwrap();
        symlink("b", base.join("a/c")).unwrap();
        mkfifo(&base.join("a/b/fifo"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(base.join("a/b/socket")).unwrap();
        let max = 64;
        let read = |below: &str| read(&base.join("a"), Path::new(below), max, Owner::Trusted);
        assert_eq!(read("b/file"), Ok(b"text".to_vec()));
        for (below, why) in [
            ("b/none", Missing::NotThere),
            ("b/file/x", Missing::NotThere),
            ("b/shadow", Missing::Link),
            ("b/near", Missing::Link),
            ("c/file", Missing::Link),
            ("b/fifo", Missing::NotAFile),
            ("b/socket", Missing::NotAFile),
            ("b", Missing::NotAFile),
            ("../outside", Missing::OtherMount),
            ("/etc/passwd", Missing::OtherMount),
        ] {
            assert_eq!(read(below), Err(why), "{below}");
        }
        // The way for old kernels refuses the same.
        let open: Open = walk_below;
        let place = nix::fcntl::open(&base.join("a"), PLACE, Mode::empty()).unwrap();
        let walk = |below: &str| open(place.as_fd(), Path::new(below), Owner::Trusted).map(drop);
        assert_eq!(walk("b/file"), Ok(()));
        for below in ["b/shadow", "b/near", "../outside", "/etc/passwd"] {
            assert_eq!(walk(below), Err(Missing::Link), "{below}");
        }
        // O_PATH|O_DIRECTORY|O_NOFOLLOW on a link says ENOTDIR.
        assert_eq!(walk("c/file"), Err(Missing::NotThere));
        assert_eq!(walk("b/none"), Err(Missing::NotThere));
    }

    #[test]
    fn a_file_is_bounded_even_if_it_says_it_is_empty() {
        let dir = Dir::new("bound");
        fs::write(dir.0.join("a/file"), [b'x'; 65]).unwrap();
        let read = |base: &Path, below: &str| read(base, Path::new(below), 64, Owner::Trusted);
        assert_eq!(read(&dir.0, "a/file"), Err(Missing::TooLong { max: 64 }));
        // Files of /proc have size 0.
        assert_eq!(read(Path::new("/proc"), "meminfo"), Err(Missing::TooLong { max: 64 }));
        assert_eq!(read(Path::new("/proc"), "sys/kernel/ostype").unwrap(), b"Linux\n");
    }

    #[test]
    fn a_users_text_is_the_users_own_and_on_the_same_filesystem() {
        let dir = Dir::new("owner");
        fs::write(dir.0.join("a/file"), "text").unwrap();
        let me = fs::metadata(&dir.0).unwrap().uid();
        let read =
            |base: &Path, below: &str, uid| read(base, Path::new(below), 64, Owner::User(uid));
        assert!(read(&dir.0, "a/file", me).is_ok());
        let other = me + 1;
        assert_eq!(read(&dir.0, "a/file", other), Err(Missing::NotTheirs { uid: other }));
        assert_eq!(read(Path::new("/"), "proc/sys/kernel/ostype", 0), Err(Missing::OtherMount));
        let root = nix::fcntl::open("/", PLACE, Mode::empty()).unwrap();
        let below = Path::new("proc/sys/kernel/ostype");
        let walked = walk_below(root.as_fd(), below, Owner::User(0)).map(drop);
        assert_eq!(walked, Err(Missing::OtherMount));
    }
}
