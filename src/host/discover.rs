//! Finds the groups of containers in the hierarchy of the memory controller, and says which
//! directories tell of new ones. It walks at the start and after an overflow, and looks into what
//! appears; it never polls, never changes anything, never follows a link.
//!
//! A directory is watched first and read afterwards: what is made in between is seen twice, and
//! never missed. The kernel keeps the watch of a removed cgroup until somebody removes it (no
//! IN_DELETE_SELF, no IN_IGNORED on v1 and v2; tried on 6.18), so
//! [`crate::host::watches::Watches::forget`] names them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::sys::inotify::AddWatchFlags as Mask;

use crate::facts::Limit;
use crate::host::mode::Hierarchies;
use crate::parse;
pub use crate::parse::cgroup_path::Engine;
use crate::parse::cgroup_path::{self, Class, Holds};
use crate::sys::xattr;

/// What a watch on a directory asks for. IN_ATTRIB tells of a delegation: systemd makes the group
/// first and marks it afterwards.
pub const DIRECTORY_MASK: Mask = Mask::IN_CREATE
    .union(Mask::IN_DELETE)
    .union(Mask::IN_MOVED_FROM)
    .union(Mask::IN_MOVED_TO)
    .union(Mask::IN_ATTRIB)
    .union(Mask::IN_ONLYDIR)
    .union(Mask::IN_DONT_FOLLOW);

/// What a watch on the limit file of a covered container asks for ([`Scan::covered`]).
pub const LIMIT_MASK: Mask = Mask::IN_MODIFY.union(Mask::IN_DONT_FOLLOW);

/// How deep below the root a directory is looked at. A pod in kind in rootless Docker is at 11.
pub const DEPTH_MAX: usize = 16;
/// How many directories one walk reads: a host with 1,000 containers has about 3,000.
pub const DIRECTORIES_MAX: usize = 16_384;
/// How many entries of one directory are taken; each container and unit is one.
pub const ENTRIES_MAX: usize = 8_192;
/// How many directories of one tenant (a user's slice, the inside of a container) one walk reads.
/// A desktop session has about 60; who makes more hides own containers only.
pub const TENANT_DIRECTORIES_MAX: usize = 256;
/// A group that is a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub engine: Engine,
    /// 64 hexadecimal digits; containerd's own names (`ctr run IMAGE NAME`) otherwise.
    pub id: String,
    /// Relative to [`Hierarchies::memory_root`].
    pub path: PathBuf,
    /// The slice it was put into by choice (Docker's `--cgroup-parent`).
    pub parent_slice: Option<PathBuf>,
    /// The container that it runs in, where it does: everything it says is that one's making.
    pub outer: Option<PathBuf>,
    /// Whose systemd tree it is in (rootless engines): likewise.
    pub user: Option<u32>,
}

/// What a walk found. It lists everything that is there now, whether it was known before or not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Parents before what is nested in them.
    pub containers: Vec<Found>,
    /// Nested containers without a limit of their own: the outer one covers them. The engine
    /// writes the limit after it makes the group, so watch their [`limit_file`] and look again.
    pub covered: Vec<Found>,
    /// The directories that hold containers, in the order in which they were watched.
    pub parents: Vec<PathBuf>,
    pub skipped: Skipped,
}

/// What a walk left out, each with its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Directories whose watch was refused: containers that start there later are not seen.
    pub unwatched: u32,
    /// Below [`DEPTH_MAX`].
    pub too_deep: u32,
    /// Above [`DIRECTORIES_MAX`], [`ENTRIES_MAX`] or [`TENANT_DIRECTORIES_MAX`].
    pub too_many: u32,
    /// Not readable for another reason than that they are gone.
    pub unreadable: u32,
}

impl Skipped {
    /// Whether it may be had a little later.
    pub fn may_pass(&self) -> bool {
        self.unreadable > 0
    }

    pub fn is_nothing(&self) -> bool {
        *self == Skipped::default()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.unwatched, "without a watch (see fs.inotify.max_user_watches)"),
            (self.too_deep, "too deep"),
            (self.too_many, "above the bounds"),
            (self.unreadable, "not readable"),
        ];
        let mut first = true;
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} cgroup directories {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Asks the engines whose container a bare id is (`parent`, `id`): see [`crate::host::sources::Sources::knows`].
pub type Knows<'a> = &'a dyn Fn(&str, &str) -> Option<Engine>;

/// Sets a watch on a directory (relative to the memory root) and says whether it now has one.
/// Asked again for a directory that has one already.
pub type Watch<'a> = &'a mut dyn FnMut(&Path) -> bool;

/// Everything that is there: at the start, and after inotify overflowed.
pub fn scan(hierarchies: &Hierarchies, knows: Knows<'_>, watch: Watch<'_>) -> Scan {
    Walk::new(hierarchies, knows, watch).run(PathBuf::new())
}

/// A directory (relative to the memory root) that just appeared or changed, and what is below it.
/// One that is gone again gives nothing.
pub fn look_into(
    hierarchies: &Hierarchies,
    directory: &Path,
    knows: Knows<'_>,
    watch: Watch<'_>,
) -> Scan {
    let inside = directory.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Scan::default();
    }
    Walk::new(hierarchies, knows, watch).run(directory.to_path_buf())
}

/// The file that says whether a nested container has a limit of its own.
pub fn limit_file(hierarchies: &Hierarchies) -> &'static str {
    match hierarchies.mode {
        crate::facts::HostMode::V2 => "memory.max",
        _ => "memory.limit_in_bytes",
    }
}

/// What an inotify event asks for. Paths are relative to the memory root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Call [`look_into`] with it.
    LookInto(PathBuf),
    /// The group and all below it are gone: let go of containers and watches there.
    Gone(PathBuf),
    /// Events were lost: drop nothing, call [`scan`], and let go of what it no longer lists.
    Rescan,
    Ignore,
}

/// What an event means. `directory` is what was watched ([`DIRECTORY_MASK`], or the limit file of
/// a covered container with [`LIMIT_MASK`]), `name` what changed in it. Reads nothing: a session or
/// a timer's service that comes and goes costs one call of this.
pub fn on_event(directory: &Path, name: Option<&OsStr>, mask: Mask) -> Action {
    if mask.intersects(Mask::IN_Q_OVERFLOW | Mask::IN_UNMOUNT) {
        return Action::Rescan;
    }
    if mask.contains(Mask::IN_DELETE_SELF) || mask.contains(Mask::IN_MOVE_SELF) {
        return Action::Gone(directory.to_path_buf());
    }
    if mask.contains(Mask::IN_MODIFY) {
        let group = directory.parent().filter(|group| group.file_name().is_some());
        return group.map_or(Action::Ignore, |group| Action::LookInto(group.to_path_buf()));
    }
    let Some(name) = name.filter(|_| mask.contains(Mask::IN_ISDIR)) else { return Action::Ignore };
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Action::Ignore;
    }
    let path = directory.join(name);
    let Some(interest) = interest(&path) else { return Action::Ignore };
    if mask.intersects(Mask::IN_DELETE | Mask::IN_MOVED_FROM) {
        return Action::Gone(path);
    }
    if mask.intersects(Mask::IN_CREATE | Mask::IN_MOVED_TO) {
        return Action::LookInto(path);
    }
    // Attributes matter only where the delegation does.
    if mask.contains(Mask::IN_ATTRIB) && interest == Holds::IfDelegated {
        return Action::LookInto(path);
    }
    Action::Ignore
}

/// Whether a directory may be a container or hold one, from its path alone.
fn interest(path: &Path) -> Option<Holds> {
    if path.components().count() > DEPTH_MAX {
        return None;
    }
    match cgroup_path::holds(path) {
        Holds::Nothing if cgroup_path::classify(path).is_none() => None,
        holds => Some(holds),
    }
}

/// Whether a limit stands in this file. One that cannot be read is none: the outer container has
/// one.
pub fn is_limited(file: &Path) -> bool {
    let text = fs::read(file).unwrap_or_default();
    matches!(parse::limit(&text), Ok(Limit::At(_)))
}

/// One walk: breadth first, so that what a bound cuts off is deep in somebody's own part.
struct Walk<'a> {
    root: &'a Path,
    limit_file: &'static str,
    knows: Knows<'a>,
    watch: Watch<'a>,
    seen: usize,
    by_tenant: HashMap<PathBuf, usize>,
    scan: Scan,
}

/// A directory still to be visited, and what is known of the way to it.
struct Next {
    path: PathBuf,
    outer: Option<PathBuf>,
    /// A limit was set between the outer container and here.
    limited: bool,
}

impl<'a> Walk<'a> {
    fn new(hierarchies: &'a Hierarchies, knows: Knows<'a>, watch: Watch<'a>) -> Walk<'a> {
        Walk {
            root: hierarchies.memory_root(),
            limit_file: limit_file(hierarchies),
            knows,
            watch,
            seen: 0,
            by_tenant: HashMap::new(),
            scan: Scan::default(),
        }
    }

    fn run(mut self, start: PathBuf) -> Scan {
        let Some(start) = self.arrive(start) else { return self.scan };
        let mut queue = VecDeque::from([start]);
        while let Some(next) = queue.pop_front() {
            self.visit(next, &mut queue);
        }
        self.scan
    }

    /// What is known of the way to a directory that was not reached by walking.
    fn arrive(&self, start: PathBuf) -> Option<Next> {
        let mut next = Next { path: start.clone(), outer: None, limited: false };
        let mut above: Vec<&Path> = start.ancestors().skip(1).collect();
        above.reverse();
        for path in above {
            // Only real directories on the way: a link would lead out of the hierarchy.
            if !fs::symlink_metadata(self.root.join(path)).is_ok_and(|meta| meta.is_dir()) {
                return None;
            }
            if next.outer.is_some() {
                next.limited |= self.has_limit(path);
            }
            if self.identify(path, next.outer.is_some()).is_some() {
                next.outer = Some(path.to_path_buf());
                next.limited = false;
            }
        }
        fs::symlink_metadata(self.root.join(&start)).is_ok_and(|meta| meta.is_dir()).then_some(next)
    }

    fn visit(&mut self, mut next: Next, queue: &mut VecDeque<Next>) {
        if !self.admit(&next.path) {
            self.scan.skipped.too_many += 1;
            return;
        }
        let nested = next.outer.is_some();
        if nested {
            next.limited |= self.has_limit(&next.path);
        }
        if let Some((engine, id)) = self.identify(&next.path, nested) {
            let found = Found {
                engine,
                id,
                parent_slice: cgroup_path::parent_slice(&next.path).map(Path::to_path_buf),
                outer: next.outer.take(),
                user: cgroup_path::user_of(&next.path),
                path: next.path.clone(),
            };
            let list = if nested && !next.limited {
                &mut self.scan.covered
            } else {
                &mut self.scan.containers
            };
            list.push(found);
            next.outer = Some(next.path.clone());
            next.limited = false;
        } else if !self.holds_containers(&next.path) {
            return;
        }
        // First the watch, then the look.
        if (self.watch)(&next.path) {
            self.scan.parents.push(next.path.clone());
        } else {
            self.scan.skipped.unwatched += 1;
        }
        match self.children(&next.path) {
            Ok(children) => queue.extend(children.into_iter().map(|path| Next {
                path,
                outer: next.outer.clone(),
                limited: next.limited,
            })),
            Err(error) if is_gone(&error) => {}
            Err(_) => self.scan.skipped.unreadable += 1,
        }
    }

    /// Counts a directory against the bounds.
    fn admit(&mut self, path: &Path) -> bool {
        self.seen += 1;
        if self.seen > DIRECTORIES_MAX {
            return false;
        }
        let Some(tenant) = cgroup_path::tenant(path) else { return true };
        let count = self.by_tenant.entry(tenant).or_default();
        *count += 1;
        *count <= TENANT_DIRECTORIES_MAX
    }

    /// Engine and id, if this is a container. A tenant's word about a bare id is not asked of the
    /// host's engines: it could name somebody else's container.
    fn identify(&self, path: &Path, nested: bool) -> Option<(Engine, String)> {
        match cgroup_path::classify(path)? {
            Class::Container { engine, id } => Some((engine, id.to_string())),
            Class::Ask { parent, id, likely } => {
                let foreign = nested || cgroup_path::user_of(path).is_some_and(|uid| uid != 0);
                let known = if foreign { None } else { (self.knows)(parent, id) };
                known.or(likely).map(|engine| (engine, id.to_string()))
            }
        }
    }

    fn holds_containers(&self, path: &Path) -> bool {
        match cgroup_path::holds(path) {
            Holds::Containers => true,
            Holds::Nothing => false,
            Holds::IfDelegated => is_delegated(&self.root.join(path)),
        }
    }

    fn has_limit(&self, path: &Path) -> bool {
        is_limited(&self.root.join(path).join(self.limit_file))
    }

    /// The directories in `path` that may be containers or hold some.
    fn children(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let deep = path.components().count() >= DEPTH_MAX;
        let mut children = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let entry = entry?;
            // From readdir itself; a link is a link here and not what it points to.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if deep {
                self.scan.skipped.too_deep += 1;
                break;
            }
            let child = path.join(entry.file_name());
            if interest(&child).is_none() {
                continue;
            }
            if children.len() >= ENTRIES_MAX {
                self.scan.skipped.too_many += 1;
                break;
            }
            children.push(child);
        }
        children.sort();
        Ok(children)
    }
}

/// systemd marks a group that it delegated: `trusted.delegate` by PID 1 (since 235), `user.delegate`
/// by every manager (since 251).
fn is_delegated(path: &Path) -> bool {
    [c"user.delegate", c"trusted.delegate"].iter().any(|name| xattr::has(path, name))
}

fn is_gone(error: &io::Error) -> bool {
    // ENODEV: an open directory of a removed cgroup.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::HostMode;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A hierarchy in a directory of its own, removed at the end.
    struct Tree {
        root: PathBuf,
    }

    impl Tree {
        fn new(groups: &[&str]) -> Tree {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nbguard-discover-{}-{count}", std::process::id());
            let tree = Tree { root: std::env::temp_dir().join(name) };
            let _ = fs::remove_dir_all(&tree.root);
            fs::create_dir_all(&tree.root).unwrap();
            groups.iter().for_each(|group| tree.make(group));
            tree
        }

        fn make(&self, group: &str) {
            fs::create_dir_all(self.root.join(name(group))).unwrap();
        }

        fn limit(&self, group: &str, text: &str) {
            fs::write(self.root.join(name(group)).join("memory.max"), text).unwrap();
        }

        fn hierarchies(&self) -> Hierarchies {
            Hierarchies {
                mode: HostMode::V2,
                v2: Some(self.root.clone()),
                v1_memory: None,
                memory_subtree: "/".into(),
                v2_subtree: "/".into(),
                host_swap: false,
            }
        }

        fn scan(&self) -> Scan {
            scan(&self.hierarchies(), &|_, _| None, &mut |_| true)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    /// `{a}` is 64 times `a`.
    fn name(text: &str) -> String {
        ["a", "b", "c", "d"]
            .iter()
            .fold(text.to_string(), |text, c| text.replace(&format!("{{{c}}}"), &c.repeat(64)))
    }

    fn short(path: &Path) -> String {
        let text = path.display().to_string();
        ["a", "b", "c", "d"]
            .iter()
            .fold(text, |text, c| text.replace(&c.repeat(64), &format!("{{{c}}}")))
    }

    fn paths(found: &[Found]) -> Vec<String> {
        found.iter().map(|f| short(&f.path)).collect()
    }

    #[test]
    fn a_docker_host_is_found_with_what_to_watch() {
        let tree = Tree::new(&[
            "init.scope",
            "system.slice/docker-{a}.scope",
            "system.slice/docker.service",
            "system.slice/cron.service/deep/inside",
            "system.slice/run-u7.scope",
            "system.slice/dev-hugepages.mount",
            "user.slice/user-1000.slice/session-3.scope",
            "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{b}.scope/container",
            "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{b}.scope",
            "notebooks.slice/docker-{c}.scope",
        ]);
        let scan = tree.scan();
        assert_eq!(
            paths(&scan.containers),
            [
                "notebooks.slice/docker-{c}.scope",
                "system.slice/docker-{a}.scope",
                "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{b}.scope",
            ]
        );
        assert_eq!(scan.containers[0].parent_slice.as_deref(), Some(Path::new("notebooks.slice")));
        assert_eq!(scan.containers[1].parent_slice, None);
        assert_eq!(scan.containers[1].id, "a".repeat(64));
        assert_eq!((scan.containers[1].user, scan.containers[2].user), (None, Some(1000)));
        let parents: Vec<String> = scan.parents.iter().map(|p| short(p)).collect();
        assert_eq!(
            parents,
            [
                "",
                "notebooks.slice",
                "system.slice",
                "user.slice",
                "notebooks.slice/docker-{c}.scope",
                "system.slice/docker-{a}.scope",
                "user.slice/user-1000.slice",
                "user.slice/user-1000.slice/user@1000.service",
                "user.slice/user-1000.slice/user@1000.service/user.slice",
                "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{b}.scope",
                "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{b}.scope/container",
            ]
        );
        assert!(scan.skipped.is_nothing(), "{}", scan.skipped);
    }

    #[test]
    fn kubernetes_and_plain_drivers_are_found() {
        let tree = Tree::new(&[
            "docker/{a}",
            "kubepods/burstable/pod1/{b}",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2.slice/cri-containerd-{c}.scope",
            "kubepods.slice/kubepods-pod3.slice/crio-{d}.scope",
        ]);
        let engines: Vec<Engine> = tree.scan().containers.iter().map(|f| f.engine).collect();
        use Engine::{Containerd, Crio, Docker};
        assert_eq!(engines, [Docker, Crio, Containerd, Containerd]);
    }

    #[test]
    fn bare_ids_are_containers_only_when_an_engine_knows_them() {
        let tree =
            Tree::new(&["jobs/{a}", "default/web", "user.slice/user-1.slice/user@1.service/x/{b}"]);
        assert!(tree.scan().containers.is_empty());
        let knows = |parent: &str, id: &str| match (parent, &id[..1]) {
            ("jobs", "a") => Some(Engine::Docker),
            ("default", "w") => Some(Engine::Containerd),
            // Never asked: the user made that name.
            ("x", _) => Some(Engine::Docker),
            _ => None,
        };
        let scan = scan(&tree.hierarchies(), &knows, &mut |_| true);
        assert_eq!(paths(&scan.containers), ["default/web", "jobs/{a}"]);
        assert_eq!(scan.containers[1].parent_slice.as_deref(), Some(Path::new("jobs")));
        assert_eq!(scan.containers[0].id, "web");
    }

    #[test]
    fn a_nested_container_counts_when_it_has_a_limit() {
        let tree = Tree::new(&[
            "system.slice/docker-{a}.scope/init",
            "system.slice/docker-{a}.scope/docker/{b}",
            "system.slice/docker-{a}.scope/docker/{c}",
            "system.slice/docker-{a}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-{d}.scope",
        ]);
        tree.limit("system.slice/docker-{a}.scope", "1073741824\n");
        tree.limit("system.slice/docker-{a}.scope/docker", "max\n");
        tree.limit("system.slice/docker-{a}.scope/docker/{b}", "max\n");
        tree.limit("system.slice/docker-{a}.scope/docker/{c}", "104857600\n");
        let pod = "system.slice/docker-{a}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice";
        tree.limit(pod, "104857600\n");
        let scan = tree.scan();
        let outer = name("system.slice/docker-{a}.scope");
        assert_eq!(
            paths(&scan.containers),
            [
                "system.slice/docker-{a}.scope",
                "system.slice/docker-{a}.scope/docker/{c}",
                &format!("{pod}/cri-containerd-{{d}}.scope"),
            ]
        );
        assert_eq!(scan.containers[1].outer.as_deref(), Some(Path::new(&outer)));
        assert_eq!(paths(&scan.covered), ["system.slice/docker-{a}.scope/docker/{b}"]);

        // The engine writes the limit after it made the group: the event leads here.
        let covered = &scan.covered[0].path;
        let file = covered.join(limit_file(&tree.hierarchies()));
        assert_eq!(on_event(&file, None, Mask::IN_MODIFY), Action::LookInto(covered.clone()));
        tree.limit("system.slice/docker-{a}.scope/docker/{b}", "52428800\n");
        let again = look_into(&tree.hierarchies(), covered, &|_, _| None, &mut |_| true);
        assert_eq!(paths(&again.containers), ["system.slice/docker-{a}.scope/docker/{b}"]);
        assert_eq!(again.containers[0].outer.as_deref(), Some(Path::new(&outer)));
    }

    #[test]
    fn what_is_made_between_watch_and_look_is_not_missed() {
        let tree = Tree::new(&["system.slice"]);
        let late = name("system.slice/docker-{a}.scope");
        let scan = scan(&tree.hierarchies(), &|_, _| None, &mut |path| {
            if path == Path::new("system.slice") {
                tree.make(&late);
            }
            true
        });
        assert_eq!(paths(&scan.containers), ["system.slice/docker-{a}.scope"]);
    }

    #[test]
    fn looking_into_what_is_gone_or_elsewhere_gives_nothing() {
        let tree = Tree::new(&["system.slice/docker-{a}.scope"]);
        let outside = Tree::new(&["docker/{b}"]);
        symlink(&outside.root, tree.root.join("link.slice")).unwrap();
        symlink(outside.root.join("docker"), tree.root.join("docker")).unwrap();
        fs::write(tree.root.join(name("docker-{c}.scope")), "a file").unwrap();
        assert_eq!(paths(&tree.scan().containers), ["system.slice/docker-{a}.scope"]);
        for path in [
            "gone.slice",
            "link.slice",
            "link.slice/docker",
            "docker",
            "../x",
            "/etc",
            "docker-{c}.scope",
        ] {
            let path = PathBuf::from(name(path));
            let scan =
                look_into(&tree.hierarchies(), &path, &|_, _| Some(Engine::Docker), &mut |_| true);
            assert_eq!(scan, Scan::default(), "{path:?}");
        }
    }

    #[test]
    fn a_delegated_service_is_looked_into() {
        let tree = Tree::new(&[
            "system.slice/lab.service/libpod-payload-{a}",
            "system.slice/lab.service/supervisor",
            "system.slice/other.service/libpod-payload-{b}",
        ]);
        if !xattr::set(&tree.root.join("system.slice/lab.service"), c"user.delegate", b"1") {
            eprintln!("skipped: the temporary directory takes no user attributes");
            return;
        }
        let scan = tree.scan();
        assert_eq!(paths(&scan.containers), ["system.slice/lab.service/libpod-payload-{a}"]);
        assert_eq!(scan.containers[0].parent_slice, None);
        assert_eq!(scan.parents.len(), 4, "root, slice, service, container");
    }

    #[test]
    fn one_tenant_cannot_use_up_the_walk() {
        let tree = Tree::new(&["system.slice/docker-{a}.scope"]);
        let user = "user.slice/user-7.slice/user@7.service";
        (0..TENANT_DIRECTORIES_MAX * 2).for_each(|i| tree.make(&format!("{user}/x{i}")));
        tree.make(&format!("user.slice/user-7.slice{}", "/x".repeat(40)));
        (0..300)
            .for_each(|i| tree.make(&format!("{}/y{i}", name("system.slice/docker-{a}.scope"))));
        tree.make("zzz/docker/{b}");
        let scan = tree.scan();
        assert_eq!(paths(&scan.containers), ["system.slice/docker-{a}.scope", "zzz/docker/{b}"]);
        assert!(scan.skipped.too_many > 256, "{:?}", scan.skipped);
        assert!(scan.parents.len() < 2 * TENANT_DIRECTORIES_MAX + 10);
        assert!(scan.skipped.to_string().contains("above the bounds"));
    }

    #[test]
    fn the_depth_is_bounded() {
        let tree = Tree::new(&[&"x/".repeat(DEPTH_MAX + 5)]);
        let scan = tree.scan();
        assert_eq!(scan.skipped.too_deep, 1);
        assert_eq!(scan.parents.len(), DEPTH_MAX + 1);
    }

    #[test]
    fn a_refused_watch_is_counted_and_its_containers_are_found() {
        let tree = Tree::new(&["docker/{a}"]);
        let scan = scan(&tree.hierarchies(), &|_, _| None, &mut |_| false);
        assert_eq!(paths(&scan.containers), ["docker/{a}"]);
        assert_eq!((scan.parents.len(), scan.skipped.unwatched), (0, 3));
    }

    #[test]
    fn events_become_actions() {
        let dir = Mask::IN_ISDIR;
        let look = |path: &str| Action::LookInto(name(path).into());
        let gone = |path: &str| Action::Gone(name(path).into());
        let table: Vec<(&str, &str, Mask, Action)> = vec![
            (
                "system.slice",
                "docker-{a}.scope",
                Mask::IN_CREATE | dir,
                look("system.slice/docker-{a}.scope"),
            ),
            (
                "system.slice",
                "docker-{a}.scope",
                Mask::IN_DELETE | dir,
                gone("system.slice/docker-{a}.scope"),
            ),
            ("docker", "{a}", Mask::IN_MOVED_TO | dir, look("docker/{a}")),
            ("docker", "{a}", Mask::IN_MOVED_FROM | dir, gone("docker/{a}")),
            ("foo", "{a}", Mask::IN_CREATE | dir, look("foo/{a}")),
            ("", "docker", Mask::IN_CREATE | dir, look("docker")),
            ("", "notebooks.slice", Mask::IN_CREATE | dir, look("notebooks.slice")),
            ("docker-{a}.scope", "docker", Mask::IN_CREATE | dir, look("docker-{a}.scope/docker")),
            (
                "system.slice",
                "lab.service",
                Mask::IN_CREATE | dir,
                look("system.slice/lab.service"),
            ),
            (
                "system.slice",
                "lab.service",
                Mask::IN_ATTRIB | dir,
                look("system.slice/lab.service"),
            ),
            ("system.slice", "docker-{a}.scope", Mask::IN_ATTRIB | dir, Action::Ignore),
            ("system.slice", "tmp.mount", Mask::IN_CREATE | dir, Action::Ignore),
            ("machine.slice", "libpod-conmon-{a}.scope", Mask::IN_CREATE | dir, Action::Ignore),
            ("system.slice", "docker-{a}.scope", Mask::IN_CREATE, Action::Ignore),
            ("system.slice", "..", Mask::IN_CREATE | dir, Action::Ignore),
            ("system.slice", "a/b", Mask::IN_CREATE | dir, Action::Ignore),
            ("system.slice", "x\u{1b}", Mask::IN_CREATE | dir, Action::Ignore),
            ("docker", "", Mask::IN_DELETE_SELF, gone("docker")),
            ("docker", "", Mask::IN_IGNORED, Action::Ignore),
            ("", "", Mask::IN_Q_OVERFLOW, Action::Rescan),
            ("", "", Mask::IN_UNMOUNT, Action::Rescan),
            (
                "docker/{a}/docker/{b}/memory.max",
                "",
                Mask::IN_MODIFY,
                look("docker/{a}/docker/{b}"),
            ),
            ("memory.max", "", Mask::IN_MODIFY, Action::Ignore),
        ];
        for (directory, changed, mask, expected) in table {
            let (directory, changed) = (name(directory), name(changed));
            let changed = (!changed.is_empty()).then(|| OsStr::new(&changed));
            let action = on_event(Path::new(&directory), changed, mask);
            assert_eq!(action, expected, "{directory} {changed:?} {mask:?}");
        }
        let deep = "x/".repeat(DEPTH_MAX);
        let action = on_event(Path::new(&deep), Some(OsStr::new("y")), Mask::IN_CREATE | dir);
        assert_eq!(action, Action::Ignore);
    }
}
