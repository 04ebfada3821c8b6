//! Tells from a cgroup's path alone whether it is a container, of which engine, and whose.
//! Names of cgroups are outside text: users make them in their own part of the tree, so a path
//! says what a group claims to be, and `discover` decides what that is worth. Pure: no files.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Who made a container.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Docker,
    Podman,
    /// containerd by itself: Kubernetes, nerdctl, ctr. Docker's own containerd is `Docker`.
    Containerd,
    #[serde(rename = "cri-o")]
    Crio,
}

impl Engine {
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
            Engine::Containerd => "containerd",
            Engine::Crio => "cri-o",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a cgroup's path claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class<'a> {
    /// The name says both engine and id.
    Container { engine: Engine, id: &'a str },
    /// It may be one: the name is an id without an engine (Docker's cgroupfs driver with a parent
    /// of its own, `ctr`). An engine's own files must confirm it; where none does, `likely` holds.
    Ask { parent: &'a str, id: &'a str, likely: Option<Engine> },
}

/// Whether containers may appear in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    Containers,
    /// A unit of systemd: only where it was delegated (Podman's `--cgroups=split`, Quadlet).
    IfDelegated,
    Nothing,
}

/// The longest name containerd gives to a container or a namespace
/// (containerd pkg/identifiers: maxLength).
const CONTAINERD_ID_MAX: usize = 76;

/// `<prefix><64hex>.scope`, as the engines' systemd drivers name them.
const SCOPES: [(&str, Engine); 5] = [
    ("docker-", Engine::Docker),
    ("libpod-", Engine::Podman),
    ("cri-containerd-", Engine::Containerd),
    ("nerdctl-", Engine::Containerd),
    ("crio-", Engine::Crio),
];

/// `<prefix><64hex>` without a suffix: cgroupfs drivers, and Podman inside a delegated unit.
const PLAIN: [(&str, Engine); 3] =
    [("libpod-payload-", Engine::Podman), ("libpod-", Engine::Podman), ("crio-", Engine::Crio)];

/// Names of systemd's units that have a cgroup and never a container below it.
const BARREN_UNITS: [&str; 9] = [
    ".mount",
    ".socket",
    ".swap",
    ".device",
    ".timer",
    ".path",
    ".target",
    ".automount",
    ".snapshot",
];

/// What `path`, relative to the hierarchy's root, claims to be. Only the last name is judged:
/// a group *below* a container is not one itself ([`owner`] finds whose it is).
pub fn classify(path: &Path) -> Option<Class<'_>> {
    let name = name_of(path)?;
    for (prefix, engine) in SCOPES {
        if let Some(id) = name.strip_suffix(".scope").and_then(|n| n.strip_prefix(prefix))
            && is_hex_id(id)
        {
            return Some(Class::Container { engine, id });
        }
    }
    for (prefix, engine) in PLAIN {
        if let Some(id) = name.strip_prefix(prefix)
            && is_hex_id(id)
        {
            return Some(Class::Container { engine, id });
        }
    }
    let parent = match path.parent() {
        Some(above) if above.file_name().is_some() => name_of(above)?,
        _ => "",
    };
    if is_hex_id(name) {
        if parent == "docker" {
            return Some(Class::Container { engine: Engine::Docker, id: name });
        }
        let likely = (parent.contains("pod") && below_kubepods(path)).then_some(Engine::Containerd);
        return Some(Class::Ask { parent, id: name, likely });
    }
    // `ctr run IMAGE NAME` puts NAME below the namespace, at the root.
    let at_second_level = path.iter().filter(|n| *n != "/").count() == 2;
    let plain = |text| is_containerd_id(text) && !is_unit(text);
    (at_second_level && plain(parent) && plain(name)).then_some(Class::Ask {
        parent,
        id: name,
        likely: None,
    })
}

/// The innermost group at or above `path` that claims to be a container.
pub fn owner(path: &Path) -> Option<(&Path, Class<'_>)> {
    path.ancestors().find_map(|at| classify(at).map(|class| (at, class)))
}

/// The groups strictly above `path` that claim to be containers without a doubt, innermost first.
pub fn containers_above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().skip(1).filter(|at| {
        matches!(classify(at), Some(Class::Container { .. } | Class::Ask { likely: Some(_), .. }))
    })
}

/// The user in whose part of systemd's tree a group stands. Everything there, names included, is
/// that user's own making.
pub fn user_of(path: &Path) -> Option<u32> {
    let mut names = path.iter().filter(|n| *n != "/");
    if names.next()? != "user.slice" {
        return None;
    }
    let uid = names.next()?.to_str()?.strip_prefix("user-")?.strip_suffix(".slice")?;
    // `parse` alone would take "+5"; systemd writes plain digits.
    uid.bytes().all(|b| b.is_ascii_digit()).then(|| uid.parse().ok())?
}

/// Whose making a group is, where that is not the host's administrator: the user's slice, or the
/// outermost container above it. What one tenant can make us keep is bounded.
pub fn tenant(path: &Path) -> Option<PathBuf> {
    if user_of(path).is_some() {
        return Some(path.iter().filter(|n| *n != "/").take(2).collect());
    }
    containers_above(path).last().map(Path::to_path_buf)
}

/// Whether containers may appear directly in `path`. The root holds them.
pub fn holds(path: &Path) -> Holds {
    if path.components().all(|c| matches!(c, Component::RootDir | Component::CurDir)) {
        return Holds::Containers;
    }
    let Some(name) = name_of(path) else { return Holds::Nothing };
    match classify(path) {
        // Docker in Docker makes its groups below its own container.
        Some(Class::Container { .. } | Class::Ask { likely: Some(_), .. }) => {
            return Holds::Containers;
        }
        Some(Class::Ask { id, .. }) if is_hex_id(id) => return Holds::Nothing,
        _ => {}
    }
    if name.ends_with(".slice") {
        return Holds::Containers;
    }
    if name.ends_with(".service") {
        return if name.starts_with("user@") { Holds::Containers } else { Holds::IfDelegated };
    }
    if name.ends_with(".scope") {
        let never = name == "init.scope" || name.starts_with("libpod-conmon-");
        return if never { Holds::Nothing } else { Holds::IfDelegated };
    }
    let never = BARREN_UNITS.iter().any(|unit| name.ends_with(unit))
        || matches!(name, "conmon" | "supervisor")
        || name.starts_with("crio-conmon-")
        || name.starts_with("libpod-conmon-");
    if never { Holds::Nothing } else { Holds::Containers }
}

/// The slice that a container was put into by choice (Docker's `--cgroup-parent`), so that it can
/// have a limit and a tripwire of its own. The places every engine uses by default are none.
pub fn parent_slice(path: &Path) -> Option<&Path> {
    let parent = path.parent().filter(|p| p.file_name().is_some())?;
    if user_of(path).is_some() || below_kubepods(path) || containers_above(path).next().is_some() {
        return None;
    }
    let name = name_of(parent)?;
    let usual = ["system.slice", "machine.slice", "user.slice", "docker", "libpod_parent"];
    let engines = usual.contains(&name)
        || name.starts_with("machine-libpod_pod_")
        || name.ends_with(".service")
        || name.ends_with(".scope");
    (!engines).then_some(parent)
}

/// The last name, where it is plain text: no engine makes others.
fn name_of(path: &Path) -> Option<&str> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    name.bytes().all(|b| b.is_ascii_graphic()).then_some(name)
}

/// 64 lower-case hexadecimal digits, as Docker, Podman, CRI-O, Kubernetes and nerdctl number.
pub fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that containerd takes (containerd pkg/identifiers), less strict about runs of signs.
pub fn is_containerd_id(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= CONTAINERD_ID_MAX
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.as_bytes().last().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(inner)
}

fn is_unit(name: &str) -> bool {
    [".slice", ".scope", ".service"].iter().chain(&BARREN_UNITS).any(|unit| name.ends_with(unit))
}

fn below_kubepods(path: &Path) -> bool {
    // kind and kubeadm call it kubelet-kubepods.slice or kubelet/kubepods.
    path.iter().filter_map(OsStr::to_str).any(|name| {
        name == "kubepods"
            || name.starts_with("kubepods.")
            || name.starts_with("kubepods-")
            || name.starts_with("kubelet-kubepods")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f5c1e0a9b7d4e2f8c6a5b4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f";

    fn claim(path: &str) -> String {
        match classify(Path::new(path)) {
            Some(Class::Container { engine, id }) => format!("{engine} {}", &id[..id.len().min(6)]),
            Some(Class::Ask { parent, id, likely }) => {
                let likely = likely.map_or("-", Engine::as_str);
                format!("ask {parent} {} {likely}", &id[..id.len().min(6)])
            }
            None => "none".into(),
        }
    }

    #[test]
    fn each_layout_is_recognised_and_nothing_else() {
        let table: &[(&str, &str)] = &[
            // Docker, systemd driver, with and without a slice of its own
            ("system.slice/docker-{}.scope", "docker 3f5c1e"),
            ("/system.slice/docker-{}.scope", "docker 3f5c1e"),
            ("notebooks.slice/docker-{}.scope", "docker 3f5c1e"),
            (
                "user.slice/user-1000.slice/user@1000.service/user.slice/docker-{}.scope",
                "docker 3f5c1e",
            ),
            // Docker, cgroupfs driver
            ("docker/{}", "docker 3f5c1e"),
            ("notebooks/{}", "ask notebooks 3f5c1e -"),
            ("a/b/c/{}", "ask c 3f5c1e -"),
            ("{}", "ask  3f5c1e -"),
            // Docker in Docker
            ("system.slice/docker-{}.scope/docker/{}", "docker 3f5c1e"),
            ("docker/{}/docker/{}", "docker 3f5c1e"),
            ("docker/{}/init", "none"),
            ("docker/buildkit", "ask docker buildk -"),
            // Podman: root, rootless, cgroupfs, Quadlet
            ("machine.slice/libpod-{}.scope", "podman 3f5c1e"),
            ("machine.slice/libpod-{}.scope/container", "none"),
            ("machine.slice/machine-libpod_pod_{}.slice/libpod-{}.scope", "podman 3f5c1e"),
            (
                "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{}.scope",
                "podman 3f5c1e",
            ),
            ("libpod_parent/libpod-{}", "podman 3f5c1e"),
            ("system.slice/jupyter.service/libpod-payload-{}", "podman 3f5c1e"),
            ("machine.slice/libpod-conmon-{}.scope", "none"),
            ("system.slice/jupyter.service/supervisor", "none"),
            // Kubernetes: containerd and CRI-O, both drivers, the three classes of service
            (
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a.slice/cri-containerd-{}.scope",
                "containerd 3f5c1e",
            ),
            ("kubepods.slice/kubepods-podab.slice/cri-containerd-{}.scope", "containerd 3f5c1e"),
            ("kubepods/burstable/pod0a-b/{}", "ask pod0a-b 3f5c1e containerd"),
            ("kubepods/pod0a-b/{}", "ask pod0a-b 3f5c1e containerd"),
            (
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a.slice/{}",
                "ask kubepods-burstable-pod0a.slice 3f5c1e containerd",
            ),
            ("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a.slice", "none"),
            ("kubepods.slice/kubepods-podab.slice/crio-{}.scope", "cri-o 3f5c1e"),
            ("kubepods.slice/kubepods-podab.slice/crio-{}.scope/container", "none"),
            ("kubepods/podab/crio-{}", "cri-o 3f5c1e"),
            ("kubepods.slice/kubepods-podab.slice/crio-conmon-{}.scope", "none"),
            (
                "system.slice/docker-{}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0.slice/cri-containerd-{}.scope",
                "containerd 3f5c1e",
            ),
            ("somewhere/poduid/{}", "ask poduid 3f5c1e -"),
            // containerd by nerdctl and ctr
            ("system.slice/nerdctl-{}.scope", "containerd 3f5c1e"),
            ("default/{}", "ask default 3f5c1e -"),
            ("default/web-1", "ask default web-1 -"),
            ("a/default/web-1", "none"),
            ("default", "none"),
            // what else there is
            ("", "none"),
            ("/", "none"),
            ("system.slice/cron.service", "none"),
            ("system.slice/session-3.scope", "none"),
            ("init.scope", "none"),
        ];
        for (path, expected) in table {
            assert_eq!(claim(&path.replace("{}", ID)), *expected, "{path}");
        }
    }

    #[test]
    fn hostile_names_are_no_containers() {
        let short = &ID[1..];
        let upper = ID.to_uppercase();
        let mut odd: Vec<String> = vec![
            format!("system.slice/docker-{short}.scope"),
            format!("system.slice/docker-{ID}0.scope"),
            format!("system.slice/docker-{upper}.scope"),
            format!("system.slice/docker-{}.scope", ID.replace('3', "g")),
            format!("system.slice/docker-{ID}.scope\n"),
            format!("system.slice/\u{1b}docker-{ID}.scope"),
            format!("system.slice/docker-{ID}.SCOPE"),
            format!("system.slice/docker--{ID}.scope"),
            format!("system.slice/docker-{ID}"),
            format!("system.slice/docker-{ID}.scope.scope"),
            format!("docker/\u{202e}{short}"),
            format!("docker/{}", "a".repeat(255)),
            format!("docker/{}", "\u{ff11}".repeat(64)),
            "docker/..".into(),
        ];
        odd.push(format!("x/{}", "y".repeat(4096)));
        for path in &odd {
            assert!(classify(Path::new(path)).is_none(), "{path:?}");
        }
        use std::os::unix::ffi::OsStrExt;
        let raw = [b"docker/\xff\xfe".as_slice(), ID.as_bytes()].concat();
        assert!(classify(Path::new(OsStr::from_bytes(&raw))).is_none());
        assert_eq!(holds(Path::new(OsStr::from_bytes(b"\xff"))), Holds::Nothing);
    }

    #[test]
    fn the_owner_is_the_innermost_container() {
        let outer = format!("system.slice/docker-{ID}.scope");
        let nested = format!("{outer}/docker/{ID}");
        for (path, expected) in [
            (format!("{outer}/init"), Some(outer.clone())),
            (outer.clone(), Some(outer.clone())),
            (format!("{nested}/a/b"), Some(nested.clone())),
            (
                format!("machine.slice/libpod-{ID}.scope/container"),
                Some(format!("machine.slice/libpod-{ID}.scope")),
            ),
            ("system.slice/cron.service".into(), None),
        ] {
            let found = owner(Path::new(&path)).map(|(at, _)| at.display().to_string());
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn users_and_tenants_are_told_from_the_path() {
        for (path, uid) in [
            ("user.slice/user-1000.slice/user@1000.service/app.slice", Some(1000)),
            ("/user.slice/user-0.slice", Some(0)),
            ("user.slice/user-+5.slice", None),
            ("user.slice/user-.slice", None),
            ("user.slice/user-4294967296.slice", None),
            ("system.slice/user-1000.slice", None),
            ("x/user.slice/user-1000.slice", None),
            ("user.slice", None),
        ] {
            assert_eq!(user_of(Path::new(path)), uid, "{path}");
        }
        let outer = format!("system.slice/docker-{ID}.scope");
        for (path, expected) in [
            (
                "user.slice/user-7.slice/user@7.service/a".to_string(),
                Some("user.slice/user-7.slice"),
            ),
            (outer.clone(), None),
            (format!("{outer}/docker/{ID}/docker/{ID}"), Some(outer.as_str())),
            ("system.slice/cron.service".into(), None),
        ] {
            assert_eq!(tenant(Path::new(&path)).as_deref(), expected.map(Path::new), "{path}");
        }
    }

    #[test]
    fn watches_are_wanted_only_where_containers_appear() {
        use Holds::{Containers, IfDelegated, Nothing};
        let table: &[(&str, Holds)] = &[
            ("", Containers),
            ("/", Containers),
            ("system.slice", Containers),
            ("user.slice/user-1000.slice", Containers),
            ("user.slice/user-1000.slice/user@1000.service", Containers),
            ("user.slice/user-1000.slice/user@1000.service/app.slice", Containers),
            ("user.slice/user-1000.slice/session-3.scope", IfDelegated),
            ("notebooks.slice", Containers),
            ("docker", Containers),
            ("default", Containers),
            ("kubepods/burstable/pod0a", Containers),
            ("system.slice/docker-{}.scope", Containers),
            ("machine.slice/libpod-{}.scope/container", Containers),
            ("system.slice/jupyter.service", IfDelegated),
            ("system.slice/run-u12.scope", IfDelegated),
            ("system.slice/tmp.mount", Nothing),
            ("system.slice/dbus.socket", Nothing),
            ("init.scope", Nothing),
            ("machine.slice/libpod-conmon-{}.scope", Nothing),
            ("system.slice/a.service/supervisor", Nothing),
            ("foo/{}", Nothing),
        ];
        for (path, expected) in table {
            assert_eq!(holds(Path::new(&path.replace("{}", ID))), *expected, "{path}");
        }
    }

    #[test]
    fn only_a_slice_of_choice_is_a_parent_slice() {
        for (path, expected) in [
            ("notebooks.slice/docker-{}.scope", Some("notebooks.slice")),
            ("a.slice/a-b.slice/docker-{}.scope", Some("a.slice/a-b.slice")),
            ("notebooks/{}", Some("notebooks")),
            ("system.slice/system-nb.slice/docker-{}.scope", Some("system.slice/system-nb.slice")),
            ("system.slice/docker-{}.scope", None),
            ("docker/{}", None),
            ("{}", None),
            ("machine.slice/libpod-{}.scope", None),
            ("machine.slice/machine-libpod_pod_{}.slice/libpod-{}.scope", None),
            ("system.slice/a.service/libpod-payload-{}", None),
            ("kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope", None),
            ("kubepods/pod1/{}", None),
            ("user.slice/user-1.slice/user@1.service/my.slice/libpod-{}.scope", None),
            ("notebooks.slice/docker-{}.scope/docker/{}", None),
        ] {
            let path = path.replace("{}", ID);
            assert_eq!(parent_slice(Path::new(&path)), expected.map(Path::new), "{path}");
        }
    }
}
