//! What nbguard does to the world: ends a tree, moves a tripwire, keeps note of what it changed.
//! It decides nothing and reads nothing but what it is about to act on.

pub mod kill;
pub mod message;
pub mod orders;
pub mod state;
pub mod tripwire;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

/// Writes a file as JSON, for root alone. It is complete before it takes the old one's place.
///
/// # Errors
/// As open(2), write(2), rename(2).
fn replace(path: &Path, file: &impl Serialize) -> io::Result<()> {
    let next = path.with_extension("new");
    let text = serde_json::to_vec(file).map_err(io::Error::other)?;
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&next)?;
    out.write_all(&text)?;
    fs::rename(&next, path)
}
