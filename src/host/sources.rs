//! Where the engines of this host keep what they know of their containers, from their own
//! settings. Reads files, asks nobody.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::host::beneath::{self, Owner};
use crate::parse::cgroup_path::{Engine, is_containerd_id, is_hex_id};
use crate::parse::engine_json;
use crate::roots::Roots;

/// The most that is read of a file of settings.
const FILE_MAX: u64 = 1 << 20;
/// containerd's namespaces, userns-remapped data roots: one or two are usual.
const DIRECTORIES_MAX: usize = 32;

/// Where the host's engines keep what they know. Found once, at the start and at a reload; whether
/// an engine is there is seen at each look, since it may start after us.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    pub docker: PathBuf,
    pub docker_socket: Option<PathBuf>,
    /// Podman keeps labels in its database only. Its socket starts an engine for five seconds.
    pub podman_socket: Option<PathBuf>,
    /// `<graphroot>/<driver>-containers` of containers/storage (Podman, CRI-O).
    pub storage: Vec<PathBuf>,
    /// The same below the run root: pid files, and everything of containers that are not kept.
    pub storage_run: Vec<PathBuf>,
    /// Directories of containerd's running tasks, one per containerd.
    pub containerd: Vec<PathBuf>,
    /// Which variables of a container's environment somebody asks for (`protect.env`).
    pub variables: Vec<String>,
}

/// containers/storage names its directories after the driver.
pub(super) const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];
/// containerd by itself, of k3s and RKE2, of k0s, of MicroK8s.
const CONTAINERD_STATES: [&str; 4] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];

impl Sources {
    /// `docker_root` is the configured one; else `/etc/docker/daemon.json` names it, else it is
    /// where Docker puts it. `variables` are those of a container's environment that are kept.
    pub fn new(roots: &Roots, docker_root: Option<&Path>, variables: Vec<String>) -> Sources {
        let docker = match docker_root {
            Some(root) => root.to_path_buf(),
            None => docker_root_of(roots).unwrap_or_else(|| PathBuf::from("/var/lib/docker")),
        };
        let storage = storage_roots(roots);
        let by_driver =
            |root: &Path| DRIVERS.map(|driver| root.join(format!("{driver}-containers"))).to_vec();
        Sources {
            docker: roots.path(docker),
            docker_socket: Some(roots.path("/run/docker.sock")),
            podman_socket: Some(roots.path("/run/podman/podman.sock")),
            storage: by_driver(&roots.path(storage.graph)),
            storage_run: by_driver(&roots.path(storage.run)),
            containerd: CONTAINERD_STATES
                .iter()
                .map(|state| roots.path(state).join("io.containerd.runtime.v2.task"))
                .collect(),
            variables,
        }
    }

    /// Whose container the bare name `id` in the group `parent` is, if anybody's: what
    /// [`crate::host::discover::scan`] asks.
    pub fn knows(&self, parent: &str, id: &str) -> Option<Engine> {
        if !is_hex_id(id) {
            let named = |tasks: &PathBuf| tasks.join(parent).join(id).is_dir();
            let plain = is_containerd_id(parent) && is_containerd_id(id) && parent != "moby";
            return (plain && self.containerd.iter().any(named)).then_some(Engine::Containerd);
        }
        if self.docker_roots().any(|root| root.join("containers").join(id).is_dir()) {
            return Some(Engine::Docker);
        }
        if self.storage.iter().chain(&self.storage_run).any(|root| root.join(id).is_dir()) {
            return Some(Engine::Podman);
        }
        let bundle = self.bundles(id).next()?;
        // Docker's own containers in the containerd that it shares.
        let moby = bundle.parent().is_some_and(|namespace| namespace.ends_with("moby"));
        Some(if moby { Engine::Docker } else { Engine::Containerd })
    }

    /// Docker's data root, and with userns-remap those below it (`165536.165536`).
    pub(super) fn docker_roots(&self) -> impl Iterator<Item = PathBuf> {
        let is_id = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let remapped = move |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|n| n.split_once('.')).is_some_and(|(uid, gid)| is_id(uid) && is_id(gid))
        };
        // Not listed before the first was of no use.
        let below = std::iter::once_with(|| directories(&self.docker)).flatten().filter(remapped);
        std::iter::once(self.docker.clone()).chain(below)
    }

    /// The directories of containerd's running tasks called `id`.
    pub(super) fn bundles(&self, id: &str) -> impl Iterator<Item = PathBuf> {
        self.containerd
            .iter()
            .flat_map(|tasks| directories(tasks))
            .map(move |namespace| namespace.join(id))
            .filter(|bundle| bundle.is_dir())
    }
}

fn docker_root_of(roots: &Roots) -> Option<PathBuf> {
    let text = beneath::read(
        &roots.path("/etc/docker"),
        Path::new("daemon.json"),
        FILE_MAX,
        Owner::Trusted,
    );
    engine_json::docker_data_root(&text.ok()?).ok()?.map(PathBuf::from)
}

struct StorageRoots {
    graph: PathBuf,
    run: PathBuf,
}

/// Where containers/storage keeps things (containers-storage.conf(5)).
fn storage_roots(roots: &Roots) -> StorageRoots {
    #[derive(Deserialize, Default)]
    struct Conf {
        #[serde(default)]
        storage: Storage,
    }
    #[derive(Deserialize, Default)]
    struct Storage {
        graphroot: Option<PathBuf>,
        runroot: Option<PathBuf>,
    }
    let read = |directory: &str| {
        let place = roots.path(directory);
        let text =
            beneath::read(&place, Path::new("storage.conf"), FILE_MAX, Owner::Trusted).ok()?;
        toml::from_str::<Conf>(std::str::from_utf8(&text).ok()?).ok()
    };
    let conf =
        read("/etc/containers").or_else(|| read("/usr/share/containers")).unwrap_or_default();
    let absolute = |path: Option<PathBuf>, usual: &str| {
        path.filter(|path| path.is_absolute()).unwrap_or_else(|| PathBuf::from(usual))
    };
    StorageRoots {
        graph: absolute(conf.storage.graphroot, "/var/lib/containers/storage"),
        run: absolute(conf.storage.runroot, "/run/containers/storage"),
    }
}

/// The home that /etc/passwd names. Read as text: a static binary has no NSS.
pub(super) fn home_of(roots: &Roots, uid: u32) -> Option<PathBuf> {
    let text =
        beneath::read(&roots.path("/etc"), Path::new("passwd"), FILE_MAX, Owner::Trusted).ok()?;
    let home = text.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':').skip(2);
        let theirs = std::str::from_utf8(fields.next()?).ok()?.parse() == Ok(uid);
        // The group, the comment, the home.
        let home = fields.nth(2)?;
        theirs.then(|| std::str::from_utf8(home).ok().map(PathBuf::from))
    })??;
    home.is_absolute().then_some(home)
}

/// The directories in one, in order and bounded; none if it cannot be read.
fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .filter(is_directory)
        .map(|entry| entry.path())
        .take(DIRECTORIES_MAX)
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "5baba5339d9d68d819ad804673efb5ff65773751b8c8b2d5a7c432222303a167";
    const PODMAN: &str = "032f6496ba5c5199cd3132055673c01f2515f2d5c53fff5512d10fb50a1850a3";

    fn fixture(name: &str) -> Roots {
        let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines");
        Roots::at(&engines.join(name)).unwrap()
    }

    #[test]
    fn bare_ids_are_asked_of_every_engine() {
        let c = |n: u8| format!("{}{n}", "c".repeat(63));
        let table = [
            ("docker", "notebooks", DOCKER.to_string(), Some(Engine::Docker)),
            ("docker", "notebooks", c(1), None),
            ("podman", "jobs", PODMAN.to_string(), Some(Engine::Podman)),
            ("containerd", "x", c(3), Some(Engine::Containerd)),
            ("containerd", "notebooks", c(4), Some(Engine::Docker)),
            ("containerd", "default", "web".into(), Some(Engine::Containerd)),
            ("containerd", "other", "web".into(), None),
            ("containerd", "..", "web".into(), None),
            ("containerd", "default", "..".into(), None),
        ];
        for (root, parent, id, expected) in table {
            let sources = Sources::new(&fixture(root), None, Vec::new());
            assert_eq!(sources.knows(parent, &id), expected, "{root} {parent}/{id}");
        }
    }

    #[test]
    fn the_data_root_is_the_configured_one_first() {
        let roots = fixture("docker");
        let found = Sources::new(&roots, None, Vec::new());
        let all = [roots.path("/srv/docker"), roots.path("/srv/docker/165536.165536")];
        assert_eq!(found.docker_roots().collect::<Vec<_>>(), all);
        let given = Sources::new(&roots, Some(Path::new("/data/docker")), Vec::new());
        assert_eq!(given.docker, roots.path("/data/docker"));
        let none = fixture("crio");
        assert_eq!(Sources::new(&none, None, Vec::new()).docker, none.path("/var/lib/docker"));
    }

    #[test]
    fn an_engine_that_comes_later_is_known() {
        let dir = std::env::temp_dir().join(format!("nbg-sources-{}", std::process::id()));
        fs::create_dir_all(dir.join("proc")).unwrap();
        let sources = Sources::new(&Roots::at(&dir).unwrap(), None, Vec::new());
        assert_eq!(sources.knows("jobs", DOCKER), None);
        fs::create_dir_all(dir.join("var/lib/docker/1.2/containers").join(DOCKER)).unwrap();
        assert_eq!(sources.knows("jobs", DOCKER), Some(Engine::Docker));
        fs::remove_dir_all(dir).unwrap();
    }
}
