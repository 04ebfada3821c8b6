//! Reads what container engines write about a container: Docker's `config.v2.json` and API reply,
//! the runtime's `config.json`, the lists of containers/storage. It keeps name, image, labels and
//! environment, bounded, and ignores the rest. All of it is outside text. Pure: bytes in, values out.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

use crate::parse::escape::is_deceptive;

/// How many labels are kept of one container. Compose sets about 12.
pub const LABELS_MAX: usize = 64;
/// How many variables are handed on, for somebody to pick from. A notebook image sets about 30,
/// Kubernetes seven for each service of the namespace.
pub const ENV_MAX: usize = 1024;
/// The longest key kept whole. Kubernetes allows 253 + 1 + 63 bytes; seen so far: below 60.
pub const KEY_MAX: usize = 256;
/// The longest value kept whole: a path or a switch, not a document.
pub const VALUE_MAX: usize = 1024;
/// The longest name or image kept whole. An image reference is at most 255 + 1 + 128 + 72 bytes
/// (distribution/reference), the name of a Kubernetes container three names of 253 at most.
pub const NAME_MAX: usize = 512;

/// CRI-O's annotation that holds all labels, as JSON.
const CRIO_LABELS: &str = "io.kubernetes.cri-o.Labels";

/// What an engine says of a container. Texts are bounded and hold no control characters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct About {
    pub name: Option<String>,
    pub image: Option<String>,
    pub labels: Vec<(String, String)>,
    pub env: Vec<(String, String)>,
    /// As the engine says; not proved.
    pub pid1: Option<u32>,
    /// A pod's own container (Kubernetes' `pause`): it holds namespaces and no memory.
    pub sandbox: bool,
}

/// Why a text told nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JsonError {
    /// serde_json's words: what was expected, line and column.
    Malformed(String),
    /// It is about another container than the one that was asked for.
    OtherId,
    /// The reply's status, or that it is no HTTP.
    Http(String),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Malformed(what) => write!(f, "not the expected JSON: {what}"),
            JsonError::OtherId => f.write_str("it describes another container"),
            JsonError::Http(what) => write!(f, "the engine answered {what}"),
        }
    }
}

impl std::error::Error for JsonError {}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> JsonError {
        // Its message can quote the text ("invalid type: string \"…\"").
        JsonError::Malformed(clean(&error.to_string(), 200))
    }
}

/// Docker's `<data-root>/containers/<id>/config.v2.json`, and the reply to
/// `GET /containers/<id>/json`, which says the same in the same places (Docker 20.10 to 28).
pub fn docker(text: &[u8], id: &str) -> Result<About, JsonError> {
    let file: DockerFile = serde_json::from_slice(text)?;
    if file.id != id {
        return Err(JsonError::OtherId);
    }
    let name = file.name.as_deref().map(|n| n.strip_prefix('/').unwrap_or(n));
    let config = file.config.unwrap_or_default();
    Ok(About {
        name: name.and_then(present),
        image: config.image.as_deref().and_then(present),
        labels: config.labels.unwrap_or_default().0,
        env: config.env.unwrap_or_default().0,
        pid1: file.state.and_then(|s| u32::try_from(s.pid).ok()).filter(|pid| *pid > 0),
        sandbox: false,
    })
}

/// The runtime's `config.json` (OCI runtime-spec) with the annotations of containerd's CRI plugin,
/// nerdctl, CRI-O and Podman. Podman's name and labels are not in it.
pub fn oci(text: &[u8]) -> Result<About, JsonError> {
    let spec: Spec = serde_json::from_slice(text)?;
    let notes = spec.annotations.unwrap_or_default().0;
    let note = |key: &str| notes.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let first = |keys: &[&str]| keys.iter().find_map(|key| note(key)).and_then(present);
    let type_of = note("io.kubernetes.cri.container-type")
        .or_else(|| note("io.kubernetes.cri-o.ContainerType"));
    let sandbox = type_of == Some("sandbox");
    let image = first(&[
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri-o.ImageName",
        "io.kubernetes.cri-o.SomeNameOfTheImage",
        "io.kubernetes.cri-o.Image",
        "nerdctl/image",
    ]);
    let pod = (
        first(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
        first(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        first(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]),
    );
    let name = match pod {
        (Some(space), Some(pod), _) if sandbox => Some(clean(&format!("{space}/{pod}"), NAME_MAX)),
        (Some(space), Some(pod), Some(name)) => {
            Some(clean(&format!("{space}/{pod}/{name}"), NAME_MAX))
        }
        (_, _, name) => name.or_else(|| first(&["nerdctl/name", "io.kubernetes.cri-o.Name"])),
    };
    // CRI-O keeps the labels as JSON in one annotation; nerdctl makes each label an annotation.
    let inner = note(CRIO_LABELS).and_then(|text| serde_json::from_str::<Pairs>(text).ok());
    let labels = match inner {
        Some(labels) => labels.0,
        None => notes.into_iter().filter(|(key, _)| key != CRIO_LABELS).collect(),
    };
    let env = spec.process.and_then(|p| p.env).unwrap_or_default().0;
    Ok(About { name, image, labels, env, pid1: None, sandbox })
}

/// One entry of containers/storage's `containers.json` or `volatile-containers.json`: Podman's and
/// CRI-O's names. `None` when the list does not have the container.
pub fn storage(text: &[u8], id: &str) -> Result<Option<About>, JsonError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let entry = json.deserialize_seq(Entries { id })?;
    json.end()?;
    let Some(entry) = entry else { return Ok(None) };
    // The metadata is JSON once more; without it the name is in `names` still.
    let meta: StorageMeta =
        entry.metadata.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let name = entry.names.unwrap_or_default().into_iter().next().or(meta.name);
    Ok(Some(About {
        name: name.as_deref().and_then(present),
        image: meta.image_name.as_deref().and_then(present),
        ..About::default()
    }))
}

/// The data root that `/etc/docker/daemon.json` names (`graph` before Docker 17.05).
pub fn docker_data_root(text: &[u8]) -> Result<Option<String>, JsonError> {
    #[derive(Deserialize)]
    struct Daemon {
        #[serde(rename = "data-root")]
        data_root: Option<String>,
        graph: Option<String>,
    }
    let daemon: Daemon = serde_json::from_slice(text)?;
    Ok(daemon.data_root.or(daemon.graph).filter(|root| root.starts_with('/')))
}

/// The body of a whole HTTP reply of status 200. An HTTP/1.0 request is answered unchunked, and
/// the connection's end is the body's (tried on Docker 20.10).
pub fn http_body(reply: &[u8]) -> Result<&[u8], JsonError> {
    let other = |what: &str| JsonError::Http(clean(what, 60));
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n").ok_or(other("without a head"))?;
    let (head, body) = (&reply[..end], &reply[end + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| other("in no HTTP"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut words = status.splitn(3, ' ');
    if !words.next().is_some_and(|w| w.starts_with("HTTP/1.")) || words.next() != Some("200") {
        return Err(other(status));
    }
    let mut length = None;
    for (key, value) in lines.filter_map(|line| line.split_once(':')) {
        if key.eq_ignore_ascii_case("transfer-encoding") {
            return Err(other("in chunks to an HTTP/1.0 request"));
        }
        if key.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    match length {
        Some(length) if body.len() < length => Err(other("with less than it announced")),
        Some(length) => Ok(&body[..length]),
        None => Ok(body),
    }
}

/// At most `max` bytes of `text`, cut at a character. What could move a terminal's cursor or turn
/// its text around stands there as `\u{…}`. Unlike [`crate::parse::escape()`] it leaves a backslash
/// alone: rules are matched against this text, and it is escaped once more where it is shown.
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let before = out.len();
        if c.is_control() || is_deceptive(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        if out.len() > max {
            let mut cut = before.min(max.saturating_sub('…'.len_utf8()));
            while !out.is_char_boundary(cut) {
                cut -= 1;
            }
            out.truncate(cut);
            out.push('…');
            break;
        }
    }
    out
}

/// A text that says something, clean.
fn present(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| clean(text, NAME_MAX))
}

#[derive(Deserialize)]
struct DockerFile {
    /// `ID` in the file, `Id` in the reply.
    #[serde(rename = "ID", alias = "Id")]
    id: String,
    #[serde(rename = "Name")]
    name: Option<String>,
    #[serde(rename = "Config")]
    config: Option<DockerConfig>,
    #[serde(rename = "State")]
    state: Option<DockerState>,
}

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(rename = "Image")]
    image: Option<String>,
    #[serde(rename = "Labels")]
    labels: Option<Pairs>,
    #[serde(rename = "Env")]
    env: Option<Env>,
}

#[derive(Deserialize)]
struct DockerState {
    #[serde(rename = "Pid", default)]
    pid: i64,
}

#[derive(Deserialize)]
struct Spec {
    process: Option<SpecProcess>,
    annotations: Option<Pairs>,
}

#[derive(Deserialize)]
struct SpecProcess {
    env: Option<Env>,
}

#[derive(Deserialize)]
struct StorageEntry {
    id: String,
    names: Option<Vec<String>>,
    metadata: Option<String>,
}

#[derive(Deserialize, Default)]
struct StorageMeta {
    name: Option<String>,
    #[serde(rename = "image-name")]
    image_name: Option<String>,
}

/// Finds one entry of the list without keeping the others.
struct Entries<'a> {
    id: &'a str,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Option<StorageEntry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of containers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while let Some(entry) = list.next_element::<StorageEntry>()? {
            if entry.id == self.id {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// An object of texts, bounded.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    keep(&mut pairs, LABELS_MAX, &key, &value);
                }
                Ok(Pairs(pairs))
            }
        }
        json.deserialize_map(Object)
    }
}

/// A list of `KEY=value`, bounded. A line without `=` has an empty value, as in Docker.
#[derive(Default)]
struct Env(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Env;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of KEY=value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Env, A::Error> {
                let mut pairs = Vec::new();
                while let Some(line) = list.next_element::<String>()? {
                    let (key, value) = line.split_once('=').unwrap_or((&line, ""));
                    keep(&mut pairs, ENV_MAX, key, value);
                }
                Ok(Env(pairs))
            }
        }
        json.deserialize_seq(List)
    }
}

/// Keeps the first `most`. A pair that is meant for us gets in even when it comes late.
fn keep(pairs: &mut Vec<(String, String)>, most: usize, key: &str, value: &str) {
    let ours = |key: &str| key.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("nbguard"));
    // What is read out of an annotation later must stay whole to be JSON still.
    let max = if key == CRIO_LABELS { 64 * VALUE_MAX } else { VALUE_MAX };
    let pair = || (clean(key, KEY_MAX), clean(value, max));
    if pairs.len() < most {
        pairs.push(pair());
    } else if ours(key) || needed(key) {
        let last = pairs.iter().rposition(|(k, _)| !ours(k) && !needed(k));
        if let Some(last) = last {
            pairs.remove(last);
            pairs.push(pair());
        }
    }
}

/// Annotations that [`oci`] reads: nerdctl and CRI-O put many others beside them.
fn needed(key: &str) -> bool {
    ["io.kubernetes.", "nerdctl/"].iter().any(|start| key.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f5c1e0a9b7d4e2f8c6a5b4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f";

    fn value<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
        pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    #[test]
    fn docker_says_name_image_labels_environment_and_pid() {
        let text = format!(
            r#"{{"StreamConfig":{{}},"State":{{"Running":true,"Pid":4242}},"ID":"{ID}",
            "Image":"sha256:aa","Name":"/lab-anna","Config":{{"Image":"jupyter/base-notebook:x",
            "Env":["A=1","B=x=y","C"],"Labels":{{"nbguard.protect":"true"}},"Cmd":["sh"]}}}}"#
        );
        let about = docker(text.as_bytes(), ID).unwrap();
        assert_eq!(about.name.as_deref(), Some("lab-anna"));
        assert_eq!(about.image.as_deref(), Some("jupyter/base-notebook:x"));
        assert_eq!(about.pid1, Some(4242));
        assert_eq!(value(&about.labels, "nbguard.protect"), Some("true"));
        assert_eq!(value(&about.env, "B"), Some("x=y"));
        assert_eq!(value(&about.env, "C"), Some(""));
        let other = ID.replace('3', "4");
        assert_eq!(docker(text.as_bytes(), &other), Err(JsonError::OtherId));
    }

    #[test]
    fn what_docker_leaves_out_is_absent_and_no_error() {
        let text = format!(
            r#"{{"Id":"{ID}","State":{{"Pid":0}},"Config":{{"Labels":null,"Env":null,"Image":""}}}}"#
        );
        assert_eq!(docker(text.as_bytes(), ID).unwrap(), About::default());
        let bare = format!(r#"{{"ID":"{ID}"}}"#);
        assert_eq!(docker(bare.as_bytes(), ID).unwrap(), About::default());
    }

    #[test]
    fn a_late_pair_of_ours_is_kept_of_hundreds() {
        let mut env: Vec<String> = (0..ENV_MAX * 2).map(|i| format!("\"SVC_{i}=tcp\"")).collect();
        env.push("\"NBGUARD_PROTECT=1\"".into());
        let text = format!(r#"{{"ID":"{ID}","Config":{{"Env":[{}]}}}}"#, env.join(","));
        let about = docker(text.as_bytes(), ID).unwrap();
        assert_eq!(about.env.len(), ENV_MAX);
        assert_eq!(value(&about.env, "NBGUARD_PROTECT"), Some("1"));
    }

    #[test]
    fn long_and_hostile_texts_are_cut_and_made_harmless() {
        let long = "x".repeat(100_000);
        let text = format!(
            r#"{{"ID":"{ID}","Name":"/a\u001b[2J\nb\u202ec\u009b","Config":{{
            "Image":"{long}","Labels":{{"{long}":"{long}"}},"Env":["{long}={long}"]}}}}"#
        );
        let about = docker(text.as_bytes(), ID).unwrap();
        assert_eq!(about.name.as_deref(), Some(r"a\u{1b}[2J\u{a}b\u{202e}c\u{9b}"));
        assert_eq!(about.image.unwrap().len(), NAME_MAX);
        for (key, value) in about.labels.iter().chain(&about.env) {
            assert_eq!((key.len(), value.len()), (KEY_MAX, VALUE_MAX));
        }
    }

    #[test]
    fn broken_texts_are_errors_and_never_more() {
        let deep = "[".repeat(500_000);
        let deep_label = format!(r#"{{"ID":"{ID}","X":{}"#, "{\"a\":".repeat(300_000));
        let mut raw = format!(r#"{{"ID":"{ID}","Name":"/x"}}"#).into_bytes();
        let at = raw.len() - 3;
        raw[at] = 0xff;
        let pid = format!(r#"{{"ID":"{ID}","State":{{"Pid":-5}}}}"#);
        for text in [
            b"".as_slice(),
            b"{}",
            b"null",
            b"[]",
            b"{\"ID\":5}",
            deep.as_bytes(),
            deep_label.as_bytes(),
            &raw,
            &raw[..20],
        ] {
            assert!(matches!(docker(text, ID), Err(JsonError::Malformed(_))));
            assert!(docker_data_root(text).map_or(true, |root| root.is_none()));
            let _ = (oci(text), storage(text, ID), http_body(text));
        }
        assert_eq!(docker(pid.as_bytes(), ID).unwrap().pid1, None);
        let twice = format!(r#"{{"ID":"{ID}","Id":"{ID}"}}"#);
        assert!(docker(twice.as_bytes(), ID).is_err());
        let JsonError::Malformed(said) =
            docker(b"{\"ID\":\"\\u001b[2J\",\"Name\":\"\\u001b\",\"Config\":\"\\u001b\"}", ID)
                .unwrap_err()
        else {
            panic!()
        };
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }

    #[test]
    fn kubernetes_names_are_namespace_pod_and_container() {
        let containerd = br#"{"ociVersion":"1.1.0","process":{"env":["JUPYTERHUB_USER=anna"]},
            "annotations":{"io.kubernetes.cri.container-name":"notebook",
            "io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"quay.io/jupyter/base:1",
            "io.kubernetes.cri.sandbox-name":"jupyter-anna","io.kubernetes.cri.sandbox-namespace":"hub"}}"#;
        let about = oci(containerd).unwrap();
        assert_eq!(about.name.as_deref(), Some("hub/jupyter-anna/notebook"));
        assert_eq!(about.image.as_deref(), Some("quay.io/jupyter/base:1"));
        assert_eq!(value(&about.env, "JUPYTERHUB_USER"), Some("anna"));
        assert!(!about.sandbox);
        let crio = br#"{"annotations":{"io.kubernetes.container.name":"notebook",
            "io.kubernetes.pod.name":"jupyter-anna","io.kubernetes.pod.namespace":"hub",
            "io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.ImageName":"i:1",
            "io.kubernetes.cri-o.Labels":"{\"app\":\"jupyterhub\",\"nbguard.protect\":\"true\"}"}}"#;
        let about = oci(crio).unwrap();
        assert_eq!(about.name.as_deref(), Some("hub/jupyter-anna/notebook"));
        assert_eq!(about.labels.len(), 2);
        let pause = br#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
            "io.kubernetes.cri.sandbox-name":"jupyter-anna","io.kubernetes.cri.sandbox-namespace":"hub"}}"#;
        let about = oci(pause).unwrap();
        assert!(about.sandbox);
        assert_eq!(about.name.as_deref(), Some("hub/jupyter-anna"));
    }

    #[test]
    fn storage_lists_name_one_container_of_many() {
        let text = format!(
            r#"[{{"id":"aa","names":["other"],"metadata":"{{}}"}},
            {{"id":"{ID}","names":["lab"],"image":"ff","metadata":"{{\"image-name\":\"docker.io/library/debian:13\",\"name\":\"lab\"}}","flags":{{"X":true}}}},
            {{"id":"bb"}}]"#
        );
        let about = storage(text.as_bytes(), ID).unwrap().unwrap();
        assert_eq!(about.name.as_deref(), Some("lab"));
        assert_eq!(about.image.as_deref(), Some("docker.io/library/debian:13"));
        assert_eq!(storage(text.as_bytes(), &ID.replace('3', "4")).unwrap(), None);
        assert!(storage(&text.as_bytes()[..text.len() - 1], ID).is_err());
        let odd = format!(r#"[{{"id":"{ID}","metadata":"not json"}}]"#);
        assert_eq!(storage(odd.as_bytes(), ID).unwrap().unwrap().name, None);
    }

    #[test]
    fn a_reply_is_taken_whole_or_not() {
        let ok = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nServer: Docker\r\n\r\n{}rest";
        assert_eq!(http_body(ok).unwrap(), b"{}");
        assert_eq!(http_body(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap(), b"{}");
        for bad in [
            b"HTTP/1.0 404 Not Found\r\n\r\n{}".as_slice(),
            b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\n",
            b"\xff\xff 200\r\n\r\n",
            b"SSH-2.0 200 x\r\n\r\n",
        ] {
            assert!(matches!(http_body(bad), Err(JsonError::Http(_))));
        }
    }

    #[test]
    fn the_data_root_is_an_absolute_path() {
        let root = |text: &str| docker_data_root(text.as_bytes()).ok().flatten();
        assert_eq!(
            root(r#"{"data-root":"/srv/docker","log-level":"warn"}"#).as_deref(),
            Some("/srv/docker")
        );
        assert_eq!(root(r#"{"graph":"/srv/old"}"#).as_deref(), Some("/srv/old"));
        assert_eq!(root(r#"{"data-root":"relative"}"#), None);
        assert_eq!(root("{}"), None);
        assert_eq!(root("{"), None);
    }

    #[test]
    fn texts_are_cut_at_characters() {
        for (text, max, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "…"),
            ("äöü", 5, "ä…"),
            ("äöü", 6, "äöü"),
            ("a\u{202e}", 9, "a\\u{202e}"),
            ("a\u{202e}", 8, "a…"),
            ("", 0, ""),
        ] {
            assert_eq!(clean(text, max), expected, "{text:?} {max}");
        }
    }

    proptest::proptest! {
        #[test]
        fn cleaning_is_bounded_and_harmless(text: String, max in 3usize..64) {
            let out = clean(&text, max);
            proptest::prop_assert!(out.len() <= max);
            proptest::prop_assert!(!out.chars().any(char::is_control));
        }

        #[test]
        fn no_bytes_break_the_readers(bytes: Vec<u8>) {
            let _ = (docker(&bytes, ID), oci(&bytes), storage(&bytes, ID), http_body(&bytes));
        }
    }
}
