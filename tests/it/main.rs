//! The one integration binary: what no unit can show for itself.
//!
//! `corpora` plays what the fuzz targets have found to reach something (`tests/fuzz`).
//! `layers` holds the source tree against its ranks, `docs` every list against its copies, `metrics`
//! every metric against a strict reader (`openmetrics`), the rules and the dashboard, `audit` the
//! dependencies against `packaging/deny.toml`, `cli`
//! runs each command to its exit code, `apps` and `commands` show what they make of the world.
//! `reactor` runs the daemon against containers of this machine (`ground`), with stand-ins in them
//! (`notebooks`); `evidence` shows what a record says of what its victim was running, and what comes
//! of a program that does not say it; `errno` lets its system calls fail; `faults` takes away what the daemon stands on and looks at what
//! is left of its work; `message` shows what notebooks are told, real ones where there
//! is a Python with ipykernel, `orders` commands the daemon meanwhile; `stack` looks into
//! interpreters; `top` runs in a terminal; `trace` reads what a stand-in (`tracer`) writes as the
//! extension for PHP does.
//!
//! A test that cannot run where it is prints why through [`skip`] and returns; `tests/run` counts
//! it as skipped. The modules `live` (this machine's kernel) and `footprint` (memory, descriptors,
//! wake-ups) are `#[ignore]`d here, because they want the machine for themselves and the release
//! binaries: `tests/run` runs them alone, with `NBGUARD_BIN_DIR` set. See [`binary`].

#![allow(clippy::unwrap_used)]

mod apps;
mod audit;
mod cleaner;
mod cli;
mod commands;
mod corpora;
mod daemon;
mod docs;
mod errno;
mod evidence;
mod faults;
mod footprint;
mod ground;
mod hangs;
mod http;
mod kernels;
mod layers;
mod live;
mod message;
mod metrics;
mod notebooks;
mod openmetrics;
mod orders;
mod outside;
mod reactor;
mod schema;
mod stack;
mod top;
mod trace;
mod tracer;

use std::path::{Path, PathBuf};

/// The root of this tree.
#[allow(dead_code)]
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of this tree.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Says why the calling test cannot run here. The words at the start are what `tests/run` counts.
#[allow(dead_code)]
fn skip(why: impl std::fmt::Display) {
    println!("skipped: {why}");
}

/// `nbguard` or `nbguardd`: from `NBGUARD_BIN_DIR` where it is set, else as cargo built it for
/// this run.
#[allow(dead_code)]
fn binary(name: &str) -> PathBuf {
    match (std::env::var_os("NBGUARD_BIN_DIR"), name) {
        (Some(folder), _) => Path::new(&folder).join(name),
        (None, "nbguardd") => env!("CARGO_BIN_EXE_nbguardd").into(),
        (None, _) => env!("CARGO_BIN_EXE_nbguard").into(),
    }
}
