//! What a container is called: name, image, labels and environment from its engine's own files,
//! from the engine's socket where they say nothing. It takes text and believes none of it: what
//! cannot be had leaves the name unknown, with the reason, and the container guarded all the same.
//!
//! Files of a user's engine are that user's making; a nested container's engine is its outer
//! container's. Neither is looked up among the host's own engines, whatever id it claims.
//! [`describe`] may block (a socket for a second, a home on NFS): call it on the helper thread.
//! [`glance`] reads the host's own files only.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::host::beneath::{self, Missing, Owner};
use crate::host::discover::{Engine, Found};
use crate::host::engine_api;
pub use crate::host::sources::Sources;
use crate::host::sources::{DRIVERS, home_of};
use crate::parse::cgroup_path::is_hex_id;
use crate::parse::engine_json::{self, About, JsonError};
use crate::parse::proc_cgroup;
use crate::roots::{Buffer, Roots};
use crate::sys;

/// Docker's file of a container is about 3 KiB (20.10), a runtime's `config.json` about 10 KiB.
const FILE_MAX: u64 = 1 << 20;
/// One entry of a storage list is 0.5 KiB: a list of 4,000 containers.
const LIST_MAX: u64 = 2 << 20;

/// What is known of a container. Texts are bounded and clean; they are not escaped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    pub engine: Engine,
    /// The short id where it is not known.
    pub name: String,
    pub named: bool,
    /// As the engine was asked for it; empty where it is not known.
    pub image: String,
    /// For the rules. Up to 64 pairs of 1.25 KiB where somebody tries; a dozen short ones usually.
    pub labels: Vec<(String, String)>,
    /// The variables that were asked for ([`Sources::variables`]). The others are dropped at once:
    /// tokens and passwords are among them.
    pub env: Vec<(String, String)>,
    /// The host's pid of the container's first process. It was in the container's group when
    /// this was read.
    pub pid1: Option<u32>,
    /// A pod's own container (`pause`): nobody works in it.
    pub sandbox: bool,
    /// There is nothing more to be had. Otherwise ask again a little later, and then leave it: an
    /// engine makes the group before it has written everything.
    pub complete: bool,
    /// Why something is missing.
    pub unknown: Option<Box<Unknown>>,
}

impl Container {
    /// A slice that containers were put into: it has a name and no engine.
    pub fn of_slice(name: &str) -> Container {
        Container {
            engine: Engine::Docker,
            name: engine_json::clean(name, engine_json::NAME_MAX),
            named: true,
            image: String::new(),
            labels: Vec::new(),
            env: Vec::new(),
            pid1: None,
            sandbox: false,
            complete: true,
            unknown: None,
        }
    }

    /// Takes over what was read later. Its rules and its protection go by this: who was known does
    /// not become unknown because it could not be read again.
    pub fn learn(&mut self, newer: Container) {
        if !self.named || (newer.named && newer.unread().is_none()) {
            *self = newer;
        }
    }

    /// Why its file could not be read, where it is there and may be readable a little later.
    pub fn unread(&self) -> Option<&Unknown> {
        let unknown = self.unknown.as_deref()?;
        let denied = matches!(unknown, Unknown::File { why: Missing::Denied, .. });
        (denied || unknown.may_pass()).then_some(unknown)
    }
}

/// Docker's twelve digits.
pub fn short_id(id: &str) -> &str {
    id.get(..12).filter(|_| is_hex_id(id)).unwrap_or(id)
}

/// Why name, image or labels of a container are not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// It runs inside another container, whose engine knows it.
    Nested,
    /// /etc/passwd has no home for this user (who may be known elsewhere: LDAP).
    NoHome {
        uid: u32,
    },
    /// No engine of the host has it.
    NoEngine,
    /// It would have meant to wait for somebody: [`describe`] does.
    NotAsked,
    File {
        path: PathBuf,
        why: Missing,
    },
    Text {
        path: PathBuf,
        why: JsonError,
    },
}

impl Unknown {
    /// What the kernel refused it may grant a moment later.
    fn may_pass(&self) -> bool {
        let Unknown::File { why: Missing::Failed(errno), .. } = self else { return false };
        sys::may_pass(&(*errno).into())
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Nested => f.write_str("only the engine inside its outer container knows it"),
            Unknown::NoHome { uid } => write!(f, "/etc/passwd names no home of user {uid}"),
            Unknown::NotAsked => f.write_str("its engine was not asked yet"),
            Unknown::NoEngine => f.write_str("no engine of this host has files about it"),
            Unknown::File { path, why } => write!(f, "{} {why}", path.display()),
            Unknown::Text { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

/// Everything that can be found out about a container. It never fails, and may wait.
pub fn describe(roots: &Roots, found: &Found, sources: &Sources) -> Container {
    tell(roots, found, sources, Reach::All)
}

/// What the host's own files say, in about 0.3 ms: good enough for the loop. No socket, nobody's
/// home. It is not complete where [`describe`] could say more.
pub fn glance(roots: &Roots, found: &Found, sources: &Sources) -> Container {
    tell(roots, found, sources, Reach::HostFiles)
}

/// How far to go for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    HostFiles,
    All,
}

fn tell(roots: &Roots, found: &Found, sources: &Sources, reach: Reach) -> Container {
    // What root runs from its own session is the host's.
    let user = found.user.filter(|uid| *uid != 0);
    let all = reach == Reach::All;
    let docker_socket = sources.docker_socket.as_deref().filter(|_| all);
    let podman_socket = sources.podman_socket.as_deref().filter(|_| all);
    let (about, unknown) = match (&found.outer, user, found.engine) {
        (Some(_), _, _) => (About::default(), Some(Unknown::Nested)),
        (None, Some(_), _) if !all => (About::default(), Some(Unknown::NotAsked)),
        (None, Some(uid), _) => rootless(roots, found, uid),
        (None, None, Engine::Docker) => docker(found, sources, docker_socket),
        (None, None, Engine::Podman) => podman(found, sources, podman_socket),
        (None, None, Engine::Containerd) => containerd(found, sources, docker_socket),
        (None, None, Engine::Crio) => crio(found, sources),
    };
    let pid1 = about.pid1.filter(|pid| is_in_group(roots, *pid, &found.path));
    // Nobody whom we believe tells the pid of these.
    let told = pid1.is_some() || user.is_some();
    // Podman's labels come through its socket only.
    let all_labels = all || found.engine != Engine::Podman || sources.podman_socket.is_none();
    let hopeless = matches!(unknown, Some(Unknown::Nested | Unknown::NoHome { .. }));
    // Labels and variables may be in a file of their own.
    let has_gap = unknown.as_ref().is_some_and(Unknown::may_pass);
    let unknown = unknown.filter(|_| has_gap || about.name.is_none() || about.image.is_none());
    // Collected in place, the few that were asked for would keep the room of all.
    let asked_for = |(key, _): &(String, String)| sources.variables.contains(key);
    let (mut labels, mut env) = (about.labels, about.env);
    labels.shrink_to_fit();
    env.retain(asked_for);
    env.shrink_to_fit();
    Container {
        engine: found.engine,
        complete: hopeless || (about.name.is_some() && told && all_labels && !has_gap),
        unknown: unknown.map(Box::new),
        named: about.name.is_some(),
        name: about.name.unwrap_or_else(|| short_id(&found.id).to_string()),
        image: about.image.unwrap_or_default(),
        labels,
        env,
        pid1,
        sandbox: about.sandbox,
    }
}

type Answer = (About, Option<Unknown>);

fn docker(found: &Found, sources: &Sources, socket: Option<&Path>) -> Answer {
    let file = Path::new("containers").join(&found.id).join("config.v2.json");
    let mut why = None;
    for root in sources.docker_roots() {
        match parsed(&root, &file, Owner::Trusted, |text| engine_json::docker(text, &found.id)) {
            Ok(about) => return (about, None),
            // The first is the usual place, and what is wrong there tells most.
            Err(unknown) => _ = why.get_or_insert(unknown),
        }
    }
    match ask(socket, &found.id) {
        Ok(about) => (about, None),
        Err(unknown) => (About::default(), Some(why.or(unknown).unwrap_or(Unknown::NoEngine))),
    }
}

fn podman(found: &Found, sources: &Sources, socket: Option<&Path>) -> Answer {
    let places = sources.storage.iter().chain(&sources.storage_run).map(PathBuf::as_path);
    let (mut about, mut why) = stored(places, Path::new(""), &found.id, Owner::Trusted);
    about.pid1 =
        sources.storage_run.iter().find_map(|run| pid_file(run, &found.id, "userdata/pidfile"));
    match ask(socket, &found.id) {
        Ok(engine) => {
            about.labels = engine.labels;
            about.pid1 = about.pid1.or(engine.pid1);
            about.image = about.image.or(engine.image);
            about.name = about.name.or(engine.name);
        }
        Err(unknown) => why = why.or(unknown),
    }
    (about, why)
}

/// Name and image from a list of containers/storage, the rest from the runtime's own file.
/// `places` are looked through in turn, each below `base`.
fn stored<'p>(
    places: impl Iterator<Item = &'p Path>,
    below: &Path,
    id: &str,
    owner: Owner,
) -> Answer {
    let mut about = About::default();
    let mut why = None;
    for place in places {
        for list in ["containers.json", "volatile-containers.json"] {
            if about.name.is_some() {
                break;
            }
            let list = below.join(list);
            match parsed_up_to(place, &list, LIST_MAX, owner, |text| engine_json::storage(text, id))
            {
                Ok(Some(listed)) => (about.name, about.image) = (listed.name, listed.image),
                Ok(None) => {}
                Err(unknown) => worst(&mut why, unknown),
            }
        }
        if about.env.is_empty() {
            let file = below.join(id).join("userdata/config.json");
            match parsed(place, &file, owner, engine_json::oci) {
                Ok(spec) => (about.labels, about.env) = (spec.labels, spec.env),
                Err(unknown) => worst(&mut why, unknown),
            }
        }
    }
    (about, Some(why.unwrap_or(Unknown::NoEngine)))
}

fn crio(found: &Found, sources: &Sources) -> Answer {
    let file = Path::new(&found.id).join("userdata/config.json");
    let mut why = None;
    for place in sources.storage_run.iter().chain(&sources.storage) {
        match parsed(place, &file, Owner::Trusted, engine_json::oci) {
            Ok(mut about) => {
                about.pid1 = pid_file(place, &found.id, "userdata/pidfile");
                return (about, None);
            }
            Err(unknown) => worst(&mut why, unknown),
        }
    }
    (About::default(), Some(why.unwrap_or(Unknown::NoEngine)))
}

fn containerd(found: &Found, sources: &Sources, docker_socket: Option<&Path>) -> Answer {
    let mut why = None;
    for bundle in sources.bundles(&found.id) {
        match parsed(&bundle, Path::new("config.json"), Owner::Trusted, engine_json::oci) {
            Ok(mut about) => {
                about.pid1 = pid_file(&bundle, "", "init.pid");
                // ctr knows no names but the id.
                about.name =
                    about.name.or_else(|| (!is_hex_id(&found.id)).then(|| found.id.clone()));
                return (about, None);
            }
            Err(unknown) => worst(&mut why, unknown),
        }
    }
    // A kubelet that runs on Docker (cri-dockerd) looks like containerd from its groups.
    let (about, unknown) = docker(found, sources, docker_socket);
    let unknown = if about.name.is_some() { None } else { why.or(unknown) };
    (about, unknown)
}

/// A user's own engine: Podman's storage and Docker's data root, where both are by default.
fn rootless(roots: &Roots, found: &Found, uid: u32) -> Answer {
    let Some(home) = home_of(roots, uid) else {
        return (About::default(), Some(Unknown::NoHome { uid }));
    };
    let home = roots.path(home);
    if found.engine == Engine::Docker {
        let file =
            Path::new(".local/share/docker/containers").join(&found.id).join("config.v2.json");
        let about =
            parsed(&home, &file, Owner::User(uid), |text| engine_json::docker(text, &found.id));
        return match about {
            Ok(about) => (About { pid1: None, ..about }, None),
            Err(unknown) => (About::default(), Some(unknown)),
        };
    }
    let mut best = (About::default(), None);
    for driver in DRIVERS {
        let below = PathBuf::from(format!(".local/share/containers/storage/{driver}-containers"));
        let (about, why) =
            stored([home.as_path()].into_iter(), &below, &found.id, Owner::User(uid));
        if about.name.is_some() {
            return (about, why);
        }
        if let Some(why) = why {
            worst(&mut best.1, why);
        }
        if best.0 == About::default() {
            best.0 = about;
        }
    }
    best
}

/// What the engine itself says. `Err(None)`: there is no engine to be asked.
fn ask(socket: Option<&Path>, id: &str) -> Result<About, Option<Unknown>> {
    let Some(socket) = socket.filter(|_| is_hex_id(id)) else { return Err(None) };
    let file = |why| Some(Unknown::File { path: socket.to_path_buf(), why });
    let text = |why| Some(Unknown::Text { path: socket.to_path_buf(), why });
    let reply = engine_api::inspect(socket, id).map_err(file)?;
    let body = engine_json::http_body(&reply).map_err(text)?;
    engine_json::docker(body, id).map_err(text)
}

fn parsed<T>(
    base: &Path,
    below: &Path,
    owner: Owner,
    parse: impl FnOnce(&[u8]) -> Result<T, JsonError>,
) -> Result<T, Unknown> {
    parsed_up_to(base, below, FILE_MAX, owner, parse)
}

fn parsed_up_to<T>(
    base: &Path,
    below: &Path,
    max: u64,
    owner: Owner,
    parse: impl FnOnce(&[u8]) -> Result<T, JsonError>,
) -> Result<T, Unknown> {
    let path = || base.join(below);
    let text = beneath::read(base, below, max, owner);
    let text = text.map_err(|why| Unknown::File { path: path(), why })?;
    parse(&text).map_err(|why| Unknown::Text { path: path(), why })
}

/// Keeps the reason that tells most: a file that is broken, before one that is not there.
fn worst(kept: &mut Option<Unknown>, new: Unknown) {
    let absent = |unknown: &Unknown| {
        matches!(unknown, Unknown::File { why: Missing::NotThere, .. } | Unknown::NoEngine)
    };
    if kept.as_ref().is_none_or(|kept| absent(kept) && !absent(&new)) {
        *kept = Some(new);
    }
}

fn pid_file(base: &Path, id: &str, name: &str) -> Option<u32> {
    let text = beneath::read(base, &Path::new(id).join(name), 64, Owner::Trusted).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether a process is in a group: a pid in a file may be somebody else's by now.
fn is_in_group(roots: &Roots, pid: u32, group: &Path) -> bool {
    let mut buffer = Buffer::new();
    let text = roots.read_process_up_to(pid, "cgroup", 16 << 10, &mut buffer);
    let Ok(cgroup) = text.map_err(|_: Errno| ()).and_then(|text| proc_cgroup(text).map_err(|_| ()))
    else {
        return false;
    };
    // Our mount may show a part of the hierarchy only; the process's path is from the real root.
    let holds = |path: &Path| path.ancestors().any(|above| above.ends_with(group));
    [cgroup.v1_memory, cgroup.v2].iter().flatten().any(|path| holds(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    const DOCKER: &str = "5baba5339d9d68d819ad804673efb5ff65773751b8c8b2d5a7c432222303a167";
    const PODMAN: &str = "032f6496ba5c5199cd3132055673c01f2515f2d5c53fff5512d10fb50a1850a3";
    const VOLATILE: &str = "c9d3910333781ba829a7deae55432c62aed99037cc832d8a680522f59cfbed7f";

    fn fixture(name: &str) -> Roots {
        let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines");
        Roots::at(&engines.join(name)).unwrap()
    }

    fn group(engine: Engine, id: &str, path: &str) -> Found {
        let path = PathBuf::from(path.replace("{}", id));
        let user = crate::parse::cgroup_path::user_of(&path);
        Found { engine, id: id.into(), path, parent_slice: None, outer: None, user }
    }

    fn on(root: &str, engine: Engine, id: &str, path: &str) -> Container {
        let roots = fixture(root);
        describe(&roots, &group(engine, id, path), &sources(&roots))
    }

    fn sources(roots: &Roots) -> Sources {
        let names = ["NBGUARD_PROTECT", "LANG", "A"].map(String::from);
        Sources::new(roots, None, names.to_vec())
    }

    fn named(told: &Container) -> Option<&str> {
        told.named.then_some(told.name.as_str())
    }

    fn value<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
        pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A root of its own, removed at the end.
    struct World(PathBuf);

    impl World {
        fn new(name: &str) -> World {
            let dir = std::env::temp_dir().join(format!("nbg-ctr-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("proc")).unwrap();
            World(dir)
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn describe(&self, found: &Found) -> Container {
            let roots = Roots::at(&self.0).unwrap();
            describe(&roots, found, &sources(&roots))
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_known_of_a_container_does_not_become_unknown() {
        let refused = |errno| {
            let why = Missing::Failed(errno);
            Some(Box::new(Unknown::File { path: "/var/lib/docker".into(), why }))
        };
        let lab = Container { pid1: None, complete: false, ..Container::of_slice("lab") };
        let unnamed = Container { name: "5baba5339d9d".into(), named: false, ..lab.clone() };
        let unread = Container { unknown: refused(Errno::EMFILE), ..unnamed.clone() };
        let without_labels = Container { unknown: refused(Errno::EIO), ..lab.clone() };
        let renamed = Container { name: "thesis".into(), pid1: Some(7), ..lab.clone() };
        for (was, newer, is) in [
            (&lab, &unnamed, &lab),
            (&lab, &unread, &lab),
            (&lab, &without_labels, &lab),
            (&lab, &renamed, &renamed),
            (&unread, &unnamed, &unnamed),
            (&unread, &lab, &lab),
            (&without_labels, &lab, &lab),
        ] {
            let mut known = was.clone();
            known.learn(newer.clone());
            assert_eq!(&known, is, "{was:?} {newer:?}");
        }
    }

    #[test]
    fn docker_is_read_from_its_own_files() {
        let told = on("docker", Engine::Docker, DOCKER, "docker/{}");
        assert_eq!(named(&told), Some("lab-anna"));
        assert_eq!(told.image, "tiny:1");
        assert_eq!(value(&told.labels, "nbguard.protect"), Some("true"));
        assert_eq!(told.env, [("LANG".to_string(), "C.UTF-8".to_string())], "and no token");
        assert_eq!((told.pid1, told.complete, told.unknown), (Some(31357), true, None));
    }

    #[test]
    fn a_container_that_does_not_run_yet_is_not_complete() {
        let id = format!("{}0", "b".repeat(63));
        let told = on("docker", Engine::Docker, &id, "system.slice/docker-{}.scope");
        assert_eq!(named(&told), Some("lab-remapped"), "below 165536.165536");
        assert_eq!((told.pid1, told.complete), (None, false));
    }

    #[test]
    fn a_pid_is_believed_only_where_it_is_in_the_group() {
        let told = on("docker", Engine::Docker, DOCKER, "system.slice/docker-{}.scope");
        assert_eq!((named(&told), told.pid1), (Some("lab-anna"), None));
        assert!(!told.complete);
    }

    #[test]
    fn podman_is_read_from_its_storage() {
        let told = on("podman", Engine::Podman, PODMAN, "machine.slice/libpod-{}.scope");
        assert_eq!(named(&told), Some("lab-bert"));
        assert_eq!(told.image, "localhost/tiny:1");
        assert_eq!(value(&told.env, "NBGUARD_PROTECT"), Some("1"));
        assert_eq!(value(&told.labels, "io.container.manager"), Some("libpod"));
        assert_eq!((told.pid1, told.complete, told.unknown), (Some(32301), true, None));
        let told = on("podman", Engine::Podman, VOLATILE, "machine.slice/libpod-{}.scope");
        assert_eq!(named(&told), Some("lab-volatile"));
        assert_eq!(value(&told.labels, "io.podman.annotations.autoremove"), Some("TRUE"));
    }

    #[test]
    fn kubernetes_is_read_from_the_runtimes_files() {
        let id = |n: u8| format!("{}{n}", "c".repeat(63));
        let scope = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6d1f0b52_7a52_4c9e_9b53_0d3f6f0e5a11.slice/cri-containerd-{}.scope";
        let told = on("containerd", Engine::Containerd, &id(1), scope);
        assert_eq!(named(&told), Some("hub/jupyter-anna/notebook"));
        assert_eq!(told.image, "quay.io/jupyter/scipy-notebook:2026-01-05");
        assert_eq!((told.pid1, told.complete, told.sandbox), (Some(4711), true, false));
        let told = on("containerd", Engine::Containerd, &id(2), scope);
        assert!(told.sandbox);
        let told = on("containerd", Engine::Containerd, &id(3), "system.slice/nerdctl-{}.scope");
        assert_eq!(named(&told), Some("lab-nerd"));
        assert_eq!(value(&told.labels, "team"), Some("blue"));
        let told = on("containerd", Engine::Containerd, "web", "default/web");
        assert_eq!((named(&told), told.name.as_str()), (Some("web"), "web"));
        let crio = format!("{}5", "d".repeat(63));
        let told =
            on("crio", Engine::Crio, &crio, "kubepods.slice/kubepods-pod1.slice/crio-{}.scope");
        assert_eq!(named(&told), Some("hub/jupyter-bert/notebook"));
        assert_eq!(value(&told.labels, "nbguard.protect"), Some("true"));
        assert_eq!((told.pid1, told.complete), (Some(815), true));
    }

    #[test]
    fn the_socket_answers_where_the_file_does_not() {
        let world = World::new("socket");
        fs::create_dir_all(world.0.join("run")).unwrap();
        let listener = UnixListener::bind(world.0.join("run/docker.sock")).unwrap();
        let reply = fs::read(fixture("docker").path("/reply.http")).unwrap();
        let engine = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(&reply).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let told = world.describe(&group(Engine::Docker, DOCKER, "docker/{}"));
        assert_eq!((named(&told), told.unknown.clone()), (Some("lab-anna"), None));
        assert_eq!(value(&told.labels, "nbguard.protect"), Some("true"));
        assert!(engine.join().unwrap().starts_with(&format!("GET /containers/{DOCKER}/json ")));
    }

    #[test]
    fn what_is_broken_or_hostile_leaves_the_name_unknown() {
        let world = World::new("hostile");
        let file = format!("var/lib/docker/containers/{DOCKER}/config.v2.json");
        world.write(&file, "");
        let path = world.0.join(&file);
        let deep = format!("{{\"ID\":{}", "[".repeat(200_000));
        let other = format!("{{\"ID\":\"{}\",\"Name\":\"/x\"}}", "e".repeat(64));
        let texts: [(&[u8], &str); 6] = [
            (b"", "EOF"),
            (b"{\"ID\"", "EOF"),
            (b"{\"ID\":\"\xff\"}", "unicode"),
            (deep.as_bytes(), "expected a string"),
            (other.as_bytes(), "another container"),
            (&vec![b' '; (1 << 20) + 1], "longer than 1048576 bytes"),
        ];
        let look = |expected: &str| {
            let started = Instant::now();
            let told = world.describe(&group(Engine::Docker, DOCKER, "docker/{}"));
            assert!(started.elapsed() < Duration::from_secs(2));
            let why = told.unknown.as_ref().unwrap().to_string();
            assert!(why.contains(expected) && why.contains("config.v2.json"), "{why}");
            assert_eq!((named(&told), told.name.as_str()), (None, "5baba5339d9d"));
            assert!(!told.complete);
        };
        for (text, expected) in texts {
            fs::write(&path, text).unwrap();
            look(expected);
        }
        fs::remove_file(&path).unwrap();
        look("is not there");
        symlink("/etc/shadow", &path).unwrap();
        look("is a link");
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        look("is not a regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        look("is not a regular file");
    }

    #[test]
    fn a_name_with_control_characters_is_shown_harmless() {
        let world = World::new("control");
        let file = format!("var/lib/docker/containers/{DOCKER}/config.v2.json");
        world.write(&file, format!(r#"{{"ID":"{DOCKER}","Name":"/a\u001b]0;x\u0007\nb"}}"#));
        let told = world.describe(&group(Engine::Docker, DOCKER, "docker/{}"));
        assert_eq!(told.name.as_str(), r"a\u{1b}]0;x\u{7}\u{a}b");
    }

    #[test]
    fn a_rootless_engine_is_read_from_its_users_home_only() {
        let world = World::new("rootless");
        let uid = fs::metadata(&world.0).unwrap().uid().max(1);
        let stranger = uid + 1;
        world.write("etc/passwd", format!("root:x:0:0::/root:/bin/sh\nbroken\nanna:x:{uid}:9:A,,:/home/anna:/bin/sh\nbert:x:{stranger}:9::/home/anna:\n"));
        let storage = "home/anna/.local/share/containers/storage/overlay-containers";
        let list = fs::read(
            fixture("podman")
                .path("/var/lib/containers/storage/overlay-containers/containers.json"),
        );
        world.write(&format!("{storage}/containers.json"), list.unwrap());
        world.write(
            &format!("{storage}/{PODMAN}/userdata/config.json"),
            "{\"process\":{\"env\":[\"A=1\"]}}",
        );
        let docker = format!("home/anna/.local/share/docker/containers/{DOCKER}/config.v2.json");
        world.write(
            &docker,
            format!(
                r#"{{"ID":"{DOCKER}","Name":"/mine","Config":{{"Image":"i"}},"State":{{"Pid":1}}}}"#
            ),
        );
        // The host's own Docker has the same id: the user made that up.
        world.write(
            &format!("var/lib/docker/containers/{PODMAN}/config.v2.json"),
            format!(r#"{{"ID":"{PODMAN}","Name":"/theirs"}}"#),
        );
        let tree = |uid: u32, name: &str| {
            format!("user.slice/user-{uid}.slice/user@{uid}.service/user.slice/{name}")
        };
        let podman = |uid| group(Engine::Podman, PODMAN, &tree(uid, "libpod-{}.scope"));
        if world.0.metadata().unwrap().uid() != 0 {
            let told = world.describe(&podman(uid));
            assert_eq!(named(&told), Some("lab-bert"));
        } else {
            for path in [&storage.to_string(), &docker] {
                chown_all(&world.0.join(path), uid);
            }
            let told = world.describe(&podman(uid));
            assert_eq!(named(&told), Some("lab-bert"), "{:?}", told.unknown);
            assert_eq!((value(&told.env, "A"), told.pid1, told.complete), (Some("1"), None, true));
            let told =
                world.describe(&group(Engine::Docker, DOCKER, &tree(uid, "docker-{}.scope")));
            assert_eq!((named(&told), told.pid1), (Some("mine"), None));
        }
        let told = world.describe(&group(Engine::Docker, PODMAN, &tree(uid, "docker-{}.scope")));
        assert_eq!(named(&told), None, "the host's engines are not asked");
        let told = world.describe(&podman(stranger));
        assert_eq!(named(&told), None);
        assert!(told.unknown.unwrap().to_string().contains("does not belong to user"));
        let told = world.describe(&podman(stranger + 1));
        assert_eq!(told.unknown, Some(Box::new(Unknown::NoHome { uid: stranger + 1 })));
        assert!(told.complete, "asking again would not help");
    }

    fn chown_all(path: &Path, uid: u32) {
        std::os::unix::fs::chown(path, Some(uid), None).unwrap();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| chown_all(&entry.unwrap().path(), uid));
        }
    }

    #[test]
    fn a_nested_container_gets_no_name_of_the_hosts() {
        let roots = fixture("docker");
        let mut found = group(Engine::Docker, DOCKER, "system.slice/x/docker/{}");
        found.outer = Some("system.slice/x".into());
        let told = describe(&roots, &found, &sources(&roots));
        assert_eq!((named(&told), told.name.as_str()), (None, "5baba5339d9d"));
        assert_eq!((told.unknown, told.complete), (Some(Box::new(Unknown::Nested)), true));
    }
    #[test]
    fn a_glance_asks_nobody_and_says_that_there_is_more() {
        let roots = fixture("podman");
        let found = group(Engine::Podman, PODMAN, "machine.slice/libpod-{}.scope");
        let told = glance(&roots, &found, &sources(&roots));
        assert_eq!((named(&told), told.complete), (Some("lab-bert"), false), "labels are to come");
        let docker = fixture("docker");
        let found = group(Engine::Docker, DOCKER, "docker/{}");
        assert_eq!(
            glance(&docker, &found, &sources(&docker)),
            describe(&docker, &found, &sources(&docker))
        );
        let path = "user.slice/user-7.slice/user@7.service/user.slice/libpod-{}.scope";
        let told = glance(&roots, &group(Engine::Podman, PODMAN, path), &sources(&roots));
        assert_eq!((told.unknown, told.complete), (Some(Box::new(Unknown::NotAsked)), false));
    }

    #[test]
    fn a_slice_is_called_by_its_name() {
        let slice = Container::of_slice("note\u{1b}books.slice");
        assert_eq!((slice.name.as_str(), slice.complete), (r"note\u{1b}books.slice", true));
    }
}
