//! Descriptors of `stat` that are kept while a container's usage is high: reading one again costs
//! half of opening, reading and closing it (1.2 instead of 2.6 µs with 100 processes, 6.18), and
//! in an episode that is most of the time to the signal. Reads only.
//!
//! A kept descriptor is bound to its process: when that is gone it says ESRCH, whoever has the
//! pid by then. It costs the kernel 4.3 KiB (measured), so there are bounds: on cgroup v2 no event
//! tells that usage fell, and until the next look they stay.

use std::os::fd::{AsFd, OwnedFd};

use super::procs::{self, Error, ScanCount};
use nix::errno::Errno;

use crate::facts::{Proc, Why};
use crate::ids::ProcKey;
use crate::parse::{self, StatLine};
use crate::roots::{Buffer, Roots, why};

/// In one container: more than that are a fork bomb's. In all: some 17 MiB of the kernel's memory.
pub const FILES_MAX: usize = 2_048;
pub const FILES_OF_ALL_MAX: usize = 4_096;

/// The kept descriptors of one container, in order of pid.
#[derive(Debug, Default)]
pub struct StatFiles {
    files: Vec<(ProcKey, OwnedFd)>,
}

impl StatFiles {
    /// Keeps those of the processes of a scan, as many as there is room for, and returns those of
    /// who is not in it any more. Each is read once, so that the kernel has its buffer by then.
    pub fn keep(
        &mut self,
        roots: &Roots,
        procs: &[Proc],
        room: usize,
        buffer: &mut Buffer,
    ) -> Vec<OwnedFd> {
        let before = std::mem::take(&mut self.files);
        let mut before: Vec<(ProcKey, Option<OwnedFd>)> =
            before.into_iter().map(|(key, file)| (key, Some(file))).collect();
        for proc in procs.iter().take(room.min(FILES_MAX)) {
            let file = match before.binary_search_by_key(&proc.key, |(key, _)| *key) {
                Ok(at) => before[at].1.take(),
                Err(_) => open(roots, proc.key, buffer),
            };
            self.files.extend(file.map(|file| (proc.key, file)));
        }
        self.files.sort_unstable_by_key(|(key, _)| *key);
        before.into_iter().filter_map(|(_, file)| file).collect()
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// All of them, to be closed elsewhere.
    pub fn into_files(self) -> Vec<OwnedFd> {
        self.files.into_iter().map(|(_, file)| file).collect()
    }

    /// `/proc/<pid>/stat` of whoever has this pid now.
    ///
    /// # Errors
    /// As [`procs::read_stat`].
    pub fn read(&self, roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<StatLine, Error> {
        if let Ok(at) = self.files.binary_search_by_key(&pid, |(key, _)| key.pid)
            && let Ok(text) = buffer.read_again(self.files[at].1.as_fd())
            && let Ok(line) = parse::stat(text)
        {
            return Ok(line);
        }
        procs::read_stat(roots, pid, buffer)
    }

    /// As [`procs::scan`].
    pub fn scan(
        &self,
        roots: &Roots,
        pids: &[(u32, u16)],
        procs: &mut Vec<Proc>,
        buffer: &mut Buffer,
    ) -> ScanCount {
        procs::scan_by(pids, procs, |pid| self.read(roots, pid, buffer))
    }

    /// As [`procs::start_of`]; and `None` once the process of this very key is gone, also when its
    /// pid has gone to somebody who was born in the same tick.
    ///
    /// # Errors
    /// As [`procs::start_of`].
    pub fn start_of(
        &self,
        roots: &Roots,
        key: ProcKey,
        buffer: &mut Buffer,
    ) -> Result<Option<u64>, Errno> {
        let Ok(at) = self.files.binary_search_by_key(&key, |(key, _)| *key) else {
            return procs::start_of(roots, key.pid, buffer);
        };
        match buffer.read_again(self.files[at].1.as_fd()) {
            Ok(text) => Ok(parse::stat(text).ok().map(|line| line.start)),
            Err(errno) if why(errno) == Why::Gone => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// The `stat` of exactly this process.
fn open(roots: &Roots, key: ProcKey, buffer: &mut Buffer) -> Option<OwnedFd> {
    let file = roots.open_process(key.pid, "stat").ok()?;
    let line = parse::stat(buffer.read_again(file.as_fd()).ok()?).ok()?;
    (line.start == key.start).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn keys(procs: &[Proc]) -> Vec<ProcKey> {
        procs.iter().map(|proc| proc.key).collect()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_kept_stat_is_read_again_until_its_process_is_gone() {
        let (first, second) = (sleeper(), sleeper());
        let pids = [(first.id(), 0), (second.id(), 0)];
        let (roots, mut buffer) = (Roots::system().unwrap(), Buffer::new());
        let (mut procs, mut again) = (Vec::new(), Vec::new());
        procs::scan(&roots, &pids, &mut procs, &mut buffer);
        let mut files = StatFiles::default();
        assert!(files.keep(&roots, &procs, 1, &mut buffer).is_empty());
        assert_eq!(files.len(), 1, "no more than there is room for");
        assert!(files.keep(&roots, &procs, 9, &mut buffer).is_empty());
        assert_eq!(files.len(), 2);
        // Without a `/proc` nothing but what was kept can be read.
        let nowhere = std::env::temp_dir().join(format!("nbguard-stat-{}", std::process::id()));
        std::fs::create_dir_all(nowhere.join("proc")).unwrap();
        let nowhere_roots = Roots::at(&nowhere).unwrap();
        assert_eq!(files.scan(&nowhere_roots, &pids, &mut again, &mut buffer).gone, 0);
        assert_eq!(keys(&again), keys(&procs));
        let key = procs[0].key;
        assert_eq!(files.start_of(&nowhere_roots, key, &mut buffer), Ok(Some(key.start)));
        end(first);
        assert_eq!(files.start_of(&nowhere_roots, key, &mut buffer), Ok(None));
        let count = files.scan(&nowhere_roots, &pids, &mut again, &mut buffer);
        assert_eq!((count.gone, keys(&again)), (1, keys(&procs[1..])));
        assert_eq!(files.keep(&roots, &again, 9, &mut buffer).len(), 1, "the dead one's goes");
        assert_eq!(files.into_files().len(), 1);
        end(second);
        std::fs::remove_dir_all(nowhere).unwrap();
    }

    #[test]
    fn another_process_of_the_same_pid_is_not_kept() {
        let child = sleeper();
        let (roots, mut buffer) = (Roots::system().unwrap(), Buffer::new());
        let mut procs = Vec::new();
        procs::scan(&roots, &[(child.id(), 0)], &mut procs, &mut buffer);
        procs[0].key.start += 1;
        let mut files = StatFiles::default();
        files.keep(&roots, &procs, 9, &mut buffer);
        assert!(files.is_empty());
        end(child);
    }
}
