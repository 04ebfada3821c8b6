//! The corpora of the fuzz targets, played again: what once reached something, or once broke
//! something, does neither hang nor break the readers now. Looking for more is `tests/fuzz/run`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{read, root};

#[path = "../fuzz/targets/lib.rs"]
mod targets;

/// All of them are in the tree, and stay small.
const CORPORA_MAX: u64 = 200 << 10;
/// The slowest takes a hundredth of it.
const SLOW: Duration = Duration::from_secs(5);

/// Inputs of one target: found by the engine, and written for it after a finding.
fn inputs(target: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["corpus", "crashes"] {
        let folder = root().join("tests/fuzz").join(folder).join(target);
        found.extend(fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

fn replay(target: &str) {
    let run = targets::ALL.iter().find(|(name, _)| *name == target).unwrap().1;
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for path in inputs {
        let bytes = fs::read(&path).unwrap();
        let began = Instant::now();
        let end = std::panic::catch_unwind(|| run(&bytes));
        assert!(end.is_ok(), "{}: see above", path.display());
        assert!(began.elapsed() < SLOW, "{}: {:?}", path.display(), began.elapsed());
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
        $(#[test] fn $target() { replay(stringify!($target)); })*
    };
}

replays! { proc cgroup mountinfo engine config http control stack argv text layout ring data elf walk }

#[test]
fn every_target_has_a_program_a_replay_and_a_row() {
    let names = targets::ALL.map(|(name, _)| name);
    assert_eq!(names, REPLAYED);
    let (manifest, readme) = (read("tests/fuzz/Cargo.toml"), read("tests/fuzz/README.md"));
    assert_eq!(manifest.matches("[[bin]]").count(), names.len());
    for name in names {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\npath = \"bin/{name}.rs\"")),
            "{name}"
        );
        assert!(read(&format!("tests/fuzz/bin/{name}.rs")).contains(&format!("::{name}(bytes)")));
        assert!(readme.contains(&format!("| `{name}` |")), "no row for {name}");
    }
}

#[test]
fn the_corpora_are_small() {
    let sizes = targets::ALL.iter().flat_map(|(name, _)| inputs(name));
    let size: u64 = sizes.map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size <= CORPORA_MAX, "{size} bytes");
}
