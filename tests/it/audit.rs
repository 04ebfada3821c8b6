//! What is built into nbguard, against `packaging/deny.toml`: licences, sources, what is there
//! twice. Without a network; what cargo-deny would find beyond that is told in `tests/run`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use super::{read, root, skip};

#[derive(Deserialize)]
struct Policy {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

fn policy() -> Policy {
    toml::from_str(&read("packaging/deny.toml")).unwrap()
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

/// What cargo says of a manifest's packages, on one target; without a network.
fn metadata(manifest: &str, target: &str) -> Result<Vec<Package>, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    cargo.args(["--filter-platform", target, "--manifest-path"]).arg(root().join(manifest));
    let said = cargo.output().map_err(|error| error.to_string())?;
    if !said.status.success() {
        let words = String::from_utf8_lossy(&said.stderr);
        return Err(words.trim().replace('\n', " "));
    }
    let told: Metadata = serde_json::from_slice(&said.stdout).unwrap();
    let there: BTreeSet<String> = told.resolve.nodes.into_iter().map(|node| node.id).collect();
    Ok(told.packages.into_iter().filter(|package| there.contains(&package.id)).collect())
}

/// Ours and the PHP extension's, which has a lock file of its own.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "src/crates/php-ext/Cargo.toml"];

#[test]
fn every_licence_is_allowed_and_every_exception_needed() {
    let policy = policy();
    let mut needed = BTreeSet::new();
    for manifest in MANIFESTS {
        let packages = match metadata(manifest, &policy.graph.targets[0]) {
            Ok(packages) => packages,
            Err(why) if manifest == MANIFESTS[0] => panic!("{manifest}: {why}"),
            Err(why) => return skip(format!("{manifest}: not fetched yet: {why}")),
        };
        for Package { name, version, license, .. } in packages {
            let license = license.unwrap_or_default();
            let exception = policy.licenses.exceptions.iter().find(|one| one.name == name);
            let more = exception.map_or(&[][..], |exception| &exception.allow);
            let plain =
                is_allowed(&license, &|word| policy.licenses.allow.iter().any(|l| l == word));
            let all = is_allowed(&license, &|word| {
                policy.licenses.allow.iter().chain(more).any(|allowed| allowed == word)
            });
            assert!(
                all,
                "{name} {version} is under {license:?}, which packaging/deny.toml has not"
            );
            if !plain {
                needed.insert(name);
            }
        }
    }
    let listed: BTreeSet<String> =
        policy.licenses.exceptions.into_iter().map(|one| one.name).collect();
    // Of other targets' crates there are exceptions, too.
    assert!(needed.is_subset(&listed), "{needed:?}");
}

/// `(MIT OR Apache-2.0) AND Unicode-3.0`, and the older `MIT/Apache-2.0`. An exception to a licence
/// only allows more.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let is_allowed = any(&mut words, allowed);
    is_allowed && words.next().is_none()
}

type Words<'t> = std::iter::Peekable<std::str::SplitWhitespace<'t>>;

fn any(words: &mut Words<'_>, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut is_allowed = every(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_allowed |= every(words, allowed);
    }
    is_allowed
}

fn every(words: &mut Words<'_>, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut is_allowed = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_allowed &= one(words, allowed);
    }
    is_allowed
}

fn one(words: &mut Words<'_>, allowed: &dyn Fn(&str) -> bool) -> bool {
    let is_allowed = match words.next() {
        Some("(") => any(words, allowed) & words.next_if_eq(&")").is_some(),
        Some(word) => allowed(word),
        None => false,
    };
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    is_allowed
}

#[test]
fn an_expression_is_read_as_it_is_meant() {
    let allowed = |word: &str| ["MIT", "Zlib"].contains(&word);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("", false),
        ("GPL-2.0 OR MIT", true),
        ("GPL-2.0/MIT", true),
        ("GPL-2.0 AND MIT", false),
        ("(GPL-2.0 OR MIT) AND Zlib", true),
        ("(GPL-2.0 OR MIT) AND ISC", false),
        ("Zlib AND GPL-2.0 OR MIT", true),
        ("MIT WITH LLVM-exception", true),
        ("(MIT", false),
        ("MIT Zlib", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

/// `name = "…"`, `source = "…"` and `checksum = "…"` of each package of a lock file.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    source: Option<String>,
    checksum: Option<String>,
}

#[test]
fn everything_comes_from_the_registry_with_its_checksum_or_from_this_tree() {
    let policy = policy();
    let allowed = policy.sources.allow_registry.iter().map(|one| format!("registry+{one}"));
    let allowed: Vec<String> = allowed.collect();
    let ours = ["nbguard", "nbguard-php", "trace-layout"];
    for manifest in MANIFESTS {
        let lock: Lock = toml::from_str(&read(&manifest.replace(".toml", ".lock"))).unwrap();
        assert!(lock.package.len() > 10, "{manifest}");
        for package in lock.package {
            match package.source {
                Some(source) => {
                    assert!(allowed.contains(&source), "{}: {source}", package.name);
                    assert!(package.checksum.is_some(), "{} has no checksum", package.name);
                }
                None => assert!(ours.contains(&package.name.as_str()), "{}", package.name),
            }
        }
    }
}

#[test]
fn what_is_there_twice_is_known_and_nothing_else_is_listed() {
    let policy = policy();
    assert!(policy.bans.skip.iter().all(|skip| !skip.reason.is_empty()));
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata(MANIFESTS[0], &policy.graph.targets[0]).unwrap() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let mut listed: BTreeSet<String> = policy.bans.skip.into_iter().map(|skip| skip.name).collect();
    for (name, versions) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let known = versions.iter().filter(|version| listed.remove(&format!("{name}@{version}")));
        let known = known.count();
        assert_eq!(known, versions.len() - 1, "{name} is there as {versions:?}");
    }
    assert!(listed.is_empty(), "there once, or not any more: {listed:?}");
}
