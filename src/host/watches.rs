//! Which directory has which watch, and how much one tenant may make the guard keep. Pure: the
//! caller talks to inotify; this only remembers, counts and refuses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::parse::cgroup_path;

/// How many watches all together: half of what old kernels give a user (fs.inotify
/// max_user_watches was 8,192 before 5.11). One costs the kernel about 1 KiB.
pub const WATCHES_MAX: u32 = 4_096;
/// How many watches for one tenant.
pub const TENANT_WATCHES_MAX: u32 = 64;
/// How many containers all together, and of one tenant: each takes descriptors and a PSI trigger.
pub const CONTAINERS_MAX: u32 = 2_048;
pub const TENANT_CONTAINERS_MAX: u32 = 32;

/// Counts what is kept, in all and for each tenant, and refuses above the bounds.
#[derive(Debug)]
pub struct Quota {
    all_max: u32,
    tenant_max: u32,
    all: u32,
    by_tenant: HashMap<PathBuf, u32>,
    refused: u64,
}

impl Quota {
    pub fn for_watches() -> Quota {
        Quota::new(WATCHES_MAX, TENANT_WATCHES_MAX)
    }

    pub fn for_containers() -> Quota {
        Quota::new(CONTAINERS_MAX, TENANT_CONTAINERS_MAX)
    }

    fn new(all_max: u32, tenant_max: u32) -> Quota {
        Quota { all_max, tenant_max, all: 0, by_tenant: HashMap::new(), refused: 0 }
    }

    /// Takes one more at `path`, or refuses it.
    pub fn admit(&mut self, path: &Path) -> bool {
        let tenant = cgroup_path::tenant(path);
        let theirs = tenant.as_ref().and_then(|t| self.by_tenant.get(t)).copied().unwrap_or(0);
        if self.all >= self.all_max || theirs >= self.tenant_max {
            self.refused += 1;
            return false;
        }
        self.all += 1;
        if let Some(tenant) = tenant {
            self.by_tenant.insert(tenant, theirs + 1);
        }
        true
    }

    /// Gives one back that was admitted at `path`.
    pub fn release(&mut self, path: &Path) {
        self.all = self.all.saturating_sub(1);
        let Some(tenant) = cgroup_path::tenant(path) else { return };
        if let Some(theirs) = self.by_tenant.get_mut(&tenant) {
            *theirs -= 1;
            if *theirs == 0 {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    pub fn count(&self) -> u32 {
        self.all
    }

    /// How often it refused, for the metric and the note.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// What [`Watches::set`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed<W> {
    pub watched: bool,
    /// To be removed from inotify: the kernel keeps it, and the inode of the removed group.
    pub stale: Option<W>,
}

/// Which watch stands on which path. `W` is inotify's descriptor of a watch.
#[derive(Debug)]
pub struct Watches<W> {
    /// The paths are kept once for both: a host has hundreds.
    by_path: BTreeMap<Rc<Path>, W>,
    by_watch: HashMap<W, Rc<Path>>,
    quota: Quota,
}

impl<W> Default for Watches<W> {
    fn default() -> Self {
        Watches { by_path: BTreeMap::new(), by_watch: HashMap::new(), quota: Quota::for_watches() }
    }
}

impl<W: Copy + Eq + Hash> Watches<W> {
    /// Sets a watch by `add`, unless the bounds forbid it. Asked again for a path that has one, it
    /// asks the kernel again: the same directory gives the same descriptor, a group that was made
    /// anew under the old name another one, and then the old one is stale.
    pub fn set(&mut self, path: &Path, add: impl FnOnce(&Path) -> Option<W>) -> Placed<W> {
        let old = self.by_path.get(path).copied();
        if old.is_none() && !self.quota.admit(path) {
            return Placed { watched: false, stale: None };
        }
        let new = add(path);
        let stale = old.filter(|old| new != Some(*old));
        if let Some(stale) = stale {
            self.by_watch.remove(&stale);
        }
        match new {
            Some(new) => {
                let path: Rc<Path> = Rc::from(path);
                self.by_path.insert(Rc::clone(&path), new);
                self.by_watch.insert(new, path);
            }
            None => {
                self.by_path.remove(path);
                self.quota.release(path);
            }
        }
        Placed { watched: new.is_some(), stale }
    }

    /// What a watch stands on.
    pub fn path(&self, watch: W) -> Option<&Path> {
        self.by_watch.get(&watch).map(Rc::as_ref)
    }

    /// Takes out what stands at and below `path`. The caller removes these from inotify: nobody
    /// else does, and the kernel would keep them and the inodes of the removed groups.
    pub fn forget(&mut self, path: &Path) -> Vec<W> {
        let range = (Bound::Included(path), Bound::Unbounded);
        let gone: Vec<(Rc<Path>, W)> = self
            .by_path
            .range::<Path, _>(range)
            .take_while(|(at, _)| at.starts_with(path))
            .map(|(at, watch)| (at.clone(), *watch))
            .collect();
        for (at, watch) in &gone {
            self.by_path.remove(&**at);
            self.by_watch.remove(watch);
            self.quota.release(at);
        }
        gone.into_iter().map(|(_, watch)| watch).collect()
    }

    /// After a new scan: takes out what it no longer lists. The caller removes these likewise.
    pub fn forget_unlisted(&mut self, listed: &HashSet<PathBuf>) -> Vec<W> {
        let gone: Vec<Rc<Path>> =
            self.by_path.keys().filter(|path| !listed.contains(&***path)).cloned().collect();
        let mut watches = Vec::with_capacity(gone.len());
        for path in gone {
            if let Some(watch) = self.by_path.remove(&*path) {
                self.by_watch.remove(&watch);
                self.quota.release(&path);
                watches.push(watch);
            }
        }
        watches
    }

    /// Every watched path, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.by_path.keys().map(Rc::as_ref)
    }

    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// How often a bound refused a watch.
    pub fn refused(&self) -> u64 {
        self.quota.refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_come_and_go_without_a_leak() {
        let mut watches = Watches::default();
        for (i, path) in ["", "a", "a/b", "a.x", "b", "ab"].iter().enumerate() {
            assert!(watches.set(Path::new(path), |_| Some(i)).watched);
        }
        assert_eq!(watches.set(Path::new("a"), |_| Some(1)), Placed { watched: true, stale: None });
        // Made anew under the old name.
        let placed = watches.set(Path::new("b"), |_| Some(9));
        assert_eq!(placed, Placed { watched: true, stale: Some(4) });
        assert_eq!((watches.path(4), watches.path(9)), (None, Some(Path::new("b"))));
        assert_eq!(watches.forget(Path::new("a")), [1, 2]);
        assert_eq!(watches.paths().collect::<Vec<_>>(), ["", "a.x", "ab", "b"].map(Path::new));
        let failed = watches.set(Path::new("b"), |_| None);
        assert_eq!(failed, Placed { watched: false, stale: Some(9) });
        let listed = ["".into(), "ab".into()].into_iter().collect();
        assert_eq!(watches.forget_unlisted(&listed), [3]);
        assert_eq!(watches.forget(Path::new("")).len(), 2);
        assert!(watches.is_empty() && watches.by_watch.is_empty());
        assert_eq!((watches.quota.count(), watches.refused()), (0, 0));
    }

    #[test]
    fn five_hundred_containers_churn_and_nothing_is_left() {
        let mut watches = Watches::default();
        let mut containers = Quota::for_containers();
        for round in 0..3u32 {
            for i in 0..500 {
                let path = PathBuf::from(format!("system.slice/docker-{i:064x}.scope"));
                assert!(watches.set(&path, |_| Some(round * 500 + i)).watched);
                assert!(containers.admit(&path));
            }
            for i in 0..500 {
                let path = PathBuf::from(format!("system.slice/docker-{i:064x}.scope"));
                assert_eq!(watches.forget(&path), [round * 500 + i]);
                containers.release(&path);
            }
            assert_eq!((watches.len(), watches.quota.count(), containers.count()), (0, 0, 0));
            assert!(watches.by_watch.is_empty());
        }
    }

    #[test]
    fn one_tenant_cannot_use_up_the_watches() {
        let mut quota = Quota::for_watches();
        let user = Path::new("user.slice/user-7.slice/user@7.service");
        let admitted = (0..1000).filter(|i| quota.admit(&user.join(format!("x{i}")))).count();
        assert_eq!(admitted, TENANT_WATCHES_MAX as usize);
        assert!(quota.admit(Path::new("system.slice")));
        assert!(quota.admit(Path::new("user.slice/user-8.slice")));
        quota.release(&user.join("x0"));
        assert!(quota.admit(&user.join("again")));
        assert_eq!(quota.refused(), 1000 - u64::from(TENANT_WATCHES_MAX));
        let all = (0..10_000).filter(|i| quota.admit(Path::new(&format!("s{i}.slice")))).count();
        assert_eq!(all as u32 + TENANT_WATCHES_MAX + 2, WATCHES_MAX);
    }
}
