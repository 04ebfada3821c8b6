//! The note of what nbguard changed on this host, kept in `/run` so that it outlives the daemon
//! but not the boot: which `memory.high` stood there before, and whom it froze.
//! Written before the change, replaced as a whole, bound to the cgroup's inode.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::act::tripwire;

pub const FREEZE: &str = "cgroup.freeze";
/// Version of the file's shape.
const VERSION: u32 = 1;

/// One cgroup that was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// Container id, or the slice's path.
    pub id: String,
    /// The directory's inode: another container may get the same path later.
    pub inode: u64,
    /// The cgroup's directory.
    pub dir: PathBuf,
    /// The systemd unit that owns it, where the value is set as a property too.
    pub unit: Option<String>,
    /// `memory.high` as it was found: `max` or bytes.
    pub original: String,
    /// Frozen for the last sweep of a kill: to be thawed first of all.
    #[serde(default)]
    pub frozen: bool,
}

impl Changed {
    /// The group's directory, if it is still the one that was noted.
    ///
    /// # Errors
    /// ENOENT: it is gone, or another group has its name by now. Else as open(2).
    pub fn open(&self) -> io::Result<fs::File> {
        let dir = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&self.dir)?;
        if dir.metadata()?.ino() == self.inode {
            Ok(dir)
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    /// Thaws a group that was frozen for the last sweep of a kill. On a hybrid host the freezer is
    /// in the v2 directory, which `unified` finds.
    ///
    /// # Errors
    /// As [`Changed::open`] and [`tripwire::write`].
    pub fn thaw(&self, unified: impl FnOnce(&Path) -> Option<PathBuf>) -> io::Result<()> {
        let thaw = |dir: &fs::File| tripwire::write(dir.as_fd(), FREEZE, "0");
        match thaw(&self.open()?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match unified(&self.dir) {
                Some(unified) => thaw(&fs::File::open(unified)?),
                None => Err(e),
            },
            thawed => thawed,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StateFile {
    version: u32,
    pub changed: Vec<Changed>,
}

impl StateFile {
    /// Reads the note of an earlier daemon. A file that is not there is an empty note.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood; the text says what and where.
    pub fn read(path: &Path) -> Result<StateFile, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(StateFile::default()),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        let file: StateFile =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if file.version != VERSION {
            return Err(format!("{}: version {} is not {VERSION}", path.display(), file.version));
        }
        Ok(file)
    }

    /// Replaces the note. The new one is complete before it takes the old one's place.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub fn write(&self, path: &Path) -> io::Result<()> {
        super::replace(path, &StateFile { version: VERSION, changed: self.changed.clone() })
    }

    pub fn find(&self, id: &str, inode: u64) -> Option<&Changed> {
        self.changed.iter().find(|c| c.id == id && c.inode == inode)
    }

    /// Notes a change, or replaces the note of the same cgroup.
    pub fn note(&mut self, changed: Changed) {
        match self.changed.iter_mut().find(|c| c.inode == changed.inode) {
            Some(old) => *old = changed,
            None => self.changed.push(changed),
        }
    }

    pub fn forget(&mut self, inode: u64) {
        self.changed.retain(|c| c.inode != inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(id: &str, inode: u64) -> Changed {
        Changed {
            id: id.into(),
            inode,
            dir: "/sys/fs/cgroup/x".into(),
            unit: None,
            original: "max".into(),
            frozen: false,
        }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("nbguard-state-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn what_was_noted_is_read_again() {
        let path = folder("again").join("state.json");
        let mut state = StateFile::default();
        state.note(changed("a", 1));
        state.note(changed("b", 2));
        state.note(Changed { original: "77".into(), ..changed("b", 2) });
        state.forget(1);
        state.write(&path).unwrap();
        let read = StateFile::read(&path).unwrap();
        assert_eq!(read.changed.len(), 1);
        assert_eq!(read.find("b", 2).unwrap().original, "77");
        assert_eq!(read.find("b", 3), None, "another inode is another cgroup");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_group_is_opened_only_while_it_is_the_one_that_was_noted() {
        let dir = folder("noted");
        let inode = fs::metadata(&dir).unwrap().ino();
        let noted = |inode| Changed { dir: dir.clone(), ..changed("a", inode) };
        assert_eq!(noted(inode).open().unwrap().metadata().unwrap().ino(), inode);
        let another = noted(inode + 1).open().unwrap_err();
        assert_eq!(another.kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(noted(inode).open().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nobody_but_the_group_that_was_noted_is_thawed() {
        let (dir, unified) = (folder("frozen"), folder("unified"));
        let changed = |inode| Changed { dir: dir.clone(), ..changed("a", inode) };
        let frozen = |dir: &Path| fs::read_to_string(dir.join(FREEZE)).unwrap();
        let inode = fs::metadata(&dir).unwrap().ino();
        fs::write(unified.join(FREEZE), "1").unwrap();
        assert!(changed(inode + 1).thaw(|_| Some(unified.clone())).is_err());
        assert_eq!(frozen(&unified), "1");
        assert!(changed(inode).thaw(|_| None).is_err());
        changed(inode).thaw(|_| Some(unified.clone())).unwrap();
        assert_eq!(frozen(&unified), "0");
        fs::write(dir.join(FREEZE), "1").unwrap();
        assert!(changed(inode + 1).thaw(|_| None).is_err());
        assert_eq!(frozen(&dir), "1");
        changed(inode).thaw(|_| None).unwrap();
        assert_eq!(frozen(&dir), "0");
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(unified).unwrap();
    }

    #[test]
    fn no_file_is_an_empty_note_and_a_broken_one_an_error_with_its_place() {
        let dir = folder("broken");
        assert_eq!(StateFile::read(&dir.join("none")).unwrap(), StateFile::default());
        let path = dir.join("state.json");
        fs::write(&path, "{\"version\":1,\"changed\":[{]}").unwrap();
        let error = StateFile::read(&path).unwrap_err();
        assert!(error.contains("state.json") && error.contains("line 1"), "{error}");
        fs::write(&path, "{\"version\":9,\"changed\":[]}").unwrap();
        assert!(StateFile::read(&path).unwrap_err().contains("version 9"));
        fs::remove_dir_all(dir).unwrap();
    }
}
