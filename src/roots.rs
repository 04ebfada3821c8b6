//! Where the world is: `/` in production, a fixture directory in tests; and the one reusable
//! buffer through which the hot path reads it. Reads only, never interprets what it read.
//! The hot path opens relative to a kept descriptor of `/proc` and makes its paths on the stack.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::unistd::read;

use crate::facts::Why;

/// How everything that a container can influence is opened: never through a link, never inherited.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_DIRECTORY);

/// Where `/proc` and cgroupfs are.
#[derive(Debug)]
pub struct Roots {
    prefix: PathBuf,
    proc: OwnedFd,
}

impl Roots {
    /// The running system.
    ///
    /// # Errors
    /// When `/proc` cannot be opened.
    pub fn system() -> io::Result<Roots> {
        Roots::at(Path::new("/"))
    }

    /// A directory that holds a `proc` and whatever its `proc/self/mountinfo` names.
    ///
    /// # Errors
    /// When it has no `proc` that can be opened.
    pub fn at(prefix: &Path) -> io::Result<Roots> {
        let proc = open(&prefix.join("proc"), DIRECTORY, Mode::empty())?;
        Ok(Roots { prefix: prefix.to_path_buf(), proc })
    }

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// An absolute path of the guarded system, below the prefix. `..` stays below it as well.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let mut path = self.prefix.clone();
        for part in absolute.as_ref().components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::ParentDir if path != self.prefix => {
                    path.pop();
                }
                _ => {}
            }
        }
        path
    }

    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// The whole of `/proc/<pid>/<file>` where the kernel makes the text in one piece
    /// (`stat`, `status`, `smaps_rollup`): one read.
    ///
    /// # Errors
    /// What `openat` or `read` said; [`why`] tells what it means.
    pub fn read_process<'b>(
        &self,
        pid: u32,
        file: &str,
        buffer: &'b mut Buffer,
    ) -> Result<&'b [u8], Errno> {
        buffer.read_record(self.proc(), PidPath::new(pid, file)?.as_c_str())
    }

    /// At most `bound` bytes of `/proc/<pid>/<file>`: for texts that the process itself chose
    /// (`cmdline`, `environ`). Longer ones are cut.
    ///
    /// # Errors
    /// What `openat` or `read` said; [`why`] tells what it means.
    pub fn read_process_up_to<'b>(
        &self,
        pid: u32,
        file: &str,
        bound: usize,
        buffer: &'b mut Buffer,
    ) -> Result<&'b [u8], Errno> {
        let path = PidPath::new(pid, file)?;
        buffer.read_up_to(self.proc(), path.as_c_str(), bound)
    }

    /// Opens `/proc/<pid>/<file>` for reading.
    ///
    /// # Errors
    /// What `openat` said.
    pub fn open_process(&self, pid: u32, file: &str) -> Result<OwnedFd, Errno> {
        openat(self.proc(), PidPath::new(pid, file)?.as_c_str(), READ, Mode::empty())
    }

    /// Where the link `/proc/<pid>/<file>` says it leads, in the process's own mount namespace.
    ///
    /// # Errors
    /// What `readlinkat` said.
    pub fn read_process_link(&self, pid: u32, file: &str) -> Result<Vec<u8>, Errno> {
        let link = readlinkat(self.proc(), PidPath::new(pid, file)?.as_c_str())?;
        Ok(link.into_vec())
    }

    /// The root directory of the process, in whatever mount namespace: only to open below it.
    ///
    /// # Errors
    /// What `openat` said: `EACCES` without CAP_SYS_PTRACE over the process.
    pub fn open_root(&self, pid: u32) -> Result<OwnedFd, Errno> {
        let how = DIRECTORY | OFlag::O_PATH;
        openat(self.proc(), PidPath::new(pid, "root")?.as_c_str(), how, Mode::empty())
    }
}

/// What an error of the operating system says about a process or its file.
pub fn why(error: Errno) -> Why {
    match error {
        Errno::ENOENT | Errno::ESRCH | Errno::ENODEV => Why::Gone,
        Errno::EACCES | Errno::EPERM => Why::Denied,
        Errno::EOPNOTSUPP => Why::Absent,
        _ => Why::Failed,
    }
}

/// `1234/stat` with its NUL, made on the stack.
struct PidPath {
    bytes: [u8; PidPath::LEN],
    len: usize,
}

impl PidPath {
    /// Ten digits, a slash, the longest file name that is read (`task/<tid>/children` is not), NUL.
    const LEN: usize = 48;

    fn new(pid: u32, file: &str) -> Result<PidPath, Errno> {
        let mut digits = [0; 10];
        let digits = decimal(pid, &mut digits);
        let mut path = PidPath { bytes: [0; Self::LEN], len: 0 };
        let len = digits.len() + 1 + file.len() + 1;
        if len > Self::LEN || file.as_bytes().contains(&0) {
            return Err(Errno::ENAMETOOLONG);
        }
        path.push(digits);
        path.push(b"/");
        path.push(file.as_bytes());
        path.push(b"\0");
        Ok(path)
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..self.len])
            .expect("new() refuses an inner NUL and ends with one")
    }
}

/// A number as decimal digits, written from the right into `digits`.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit is below ten");
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The buffer that every read of the hot path goes through. Allocated once; it grows only for a
/// text longer than itself (`cgroup.procs` of more than 8,000 processes) and stays grown.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Paths of groups that are still to be visited (`host::group`).
    pub(crate) queue: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer::new()
    }
}

impl Buffer {
    /// The longest text that is usual: `memory.stat` is 1.6 KiB, `status` 1.5 KiB, `meminfo`
    /// 1.5 KiB (`wc -c`, 6.18). Only pages that were written to are resident.
    pub const SIZE: usize = 64 << 10;
    /// No file of the kernel that is read here is longer: `cgroup.procs` with the largest pid_max
    /// (4,194,304) has 32 MiB, and nobody guards four million processes.
    pub const BOUND: usize = 4 << 20;

    pub fn new() -> Buffer {
        Buffer { bytes: vec![0; Self::SIZE], queue: Vec::with_capacity(1024) }
    }

    /// A file that the kernel makes in one piece: complete after the one read that ends in a
    /// newline and leaves room.
    ///
    /// # Errors
    /// What `openat` or `read` said; `EFBIG` above [`Buffer::BOUND`].
    pub fn read_record(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<&[u8], Errno> {
        let file = openat(dir, name, READ, Mode::empty())?;
        self.fill(End::Record, |bytes, _| read(&file, bytes))
    }

    /// A file that the kernel hands out in pieces (`cgroup.procs`, `mountinfo`): read to its end.
    ///
    /// # Errors
    /// As [`Buffer::read_record`].
    pub fn read_whole(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<&[u8], Errno> {
        let file = openat(dir, name, READ, Mode::empty())?;
        self.fill(End::OfFile, |bytes, _| read(&file, bytes))
    }

    /// The same record again from a descriptor that was kept, from its beginning.
    ///
    /// # Errors
    /// What `pread` said: `ENODEV` when the group has been removed.
    pub fn read_again(&mut self, file: BorrowedFd<'_>) -> Result<&[u8], Errno> {
        self.fill(End::Record, |bytes, offset| pread(file, bytes, offset))
    }

    /// At most `bound` bytes.
    fn read_up_to(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        bound: usize,
    ) -> Result<&[u8], Errno> {
        let file = openat(dir, name, READ, Mode::empty())?;
        let bound = bound.min(self.bytes.len());
        let mut len = 0;
        while len < bound {
            match read(&file, &mut self.bytes[len..bound]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.bytes[..len])
    }

    fn fill(
        &mut self,
        end: End,
        mut more: impl FnMut(&mut [u8], i64) -> Result<usize, Errno>,
    ) -> Result<&[u8], Errno> {
        let mut len = 0;
        loop {
            if len == self.bytes.len() {
                self.grow()?;
            }
            let offset = i64::try_from(len).expect("BOUND is below i64::MAX");
            match more(&mut self.bytes[len..], offset) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            }
            let complete = len < self.bytes.len() && self.bytes[len - 1] == b'\n';
            if complete && matches!(end, End::Record) {
                break;
            }
        }
        Ok(&self.bytes[..len])
    }

    fn grow(&mut self) -> Result<(), Errno> {
        let len = self.bytes.len() * 2;
        if len > Self::BOUND {
            return Err(Errno::EFBIG);
        }
        self.bytes.resize(len, 0);
        Ok(())
    }

    /// The bytes, for a system call that fills them itself.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// When a text is complete.
#[derive(Clone, Copy)]
enum End {
    Record,
    OfFile,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_path_is_made_on_the_stack() {
        let path = PidPath::new(4_294_967_295, "smaps_rollup").unwrap();
        assert_eq!(path.as_c_str().to_bytes(), b"4294967295/smaps_rollup");
        assert_eq!(PidPath::new(0, "stat").unwrap().as_c_str().to_bytes(), b"0/stat");
        assert!(PidPath::new(1, "a\0b").is_err());
        assert!(PidPath::new(1, &"x".repeat(48)).is_err());
    }

    #[test]
    fn paths_stay_below_the_prefix() {
        let dir = std::env::temp_dir().join(format!("nbguard-roots-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("proc")).unwrap();
        let roots = Roots::at(&dir).unwrap();
        assert_eq!(roots.path("/sys/fs/cgroup"), dir.join("sys/fs/cgroup"));
        assert_eq!(roots.path("relative"), dir.join("relative"));
        assert_eq!(roots.path("/a/../../../etc/shadow"), dir.join("etc/shadow"));
        assert_eq!(Roots::system().unwrap().path("/proc/self"), Path::new("/proc/self"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn reads_short_and_long_files_and_stops_at_the_bound() {
        let roots = Roots::system().unwrap();
        let mut buffer = Buffer::new();
        let me = std::process::id();
        assert!(roots.read_process(me, "stat", &mut buffer).unwrap().ends_with(b"\n"));
        let maps = buffer.read_whole(roots.proc(), c"self/smaps").unwrap().len();
        assert!(maps > 8192, "smaps comes in several pieces: {maps}");
        assert_eq!(roots.read_process_up_to(me, "environ", 3, &mut buffer).unwrap().len(), 3);
        let gone = roots.read_process(u32::MAX, "stat", &mut buffer);
        assert_eq!(why(gone.unwrap_err()), Why::Gone);
        let endless = buffer.read_whole(open_dev().as_fd(), c"zero");
        assert_eq!(endless.unwrap_err(), Errno::EFBIG);
    }

    #[test]
    fn reads_a_kept_descriptor_from_its_beginning_each_time() {
        let roots = Roots::system().unwrap();
        let mut buffer = Buffer::new();
        let kept = roots.open_process(std::process::id(), "status").unwrap();
        for _ in 0..3 {
            assert!(buffer.read_again(kept.as_fd()).unwrap().starts_with(b"Name:"));
        }
    }

    #[test]
    fn never_follows_a_link() {
        let roots = Roots::system().unwrap();
        let error = roots.open_process(std::process::id(), "exe").unwrap_err();
        assert_eq!(error, Errno::ELOOP);
    }

    fn open_dev() -> OwnedFd {
        open("/dev", DIRECTORY, Mode::empty()).unwrap()
    }
}
