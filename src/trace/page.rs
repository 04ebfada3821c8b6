//! What the guard reads when it wakes: whether a process is busy or idle, out of the page that its
//! tracer stamps. One small read, a page of the caller's, nothing kept and nothing on the heap
//! unless it fails. What is below another's root directory may be a filesystem that hangs: such a
//! one is not asked. Off the loop all the same: disks may be slow.

use std::path::Path;

use trace_layout::{Activity, PAGE};

use super::{Place, Target, TraceFile};
use crate::facts::Why;
use crate::ids::ProcKey;
use crate::roots::{Buffer, Roots};

/// What a tracer says of its process. Texts are as the process chose them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<'p> {
    pub activity: Activity<'p>,
    /// `runtime` and version of the interpreter: [`trace_layout::header::PHP`], 80236.
    pub runtime: u32,
    pub runtime_version: u32,
}

/// The activity of exactly this process. `dir` is the directory as the process sees it, usually
/// [`trace_layout::DIR`].
///
/// # Errors
/// [`Why::Absent`]: no tracer is loaded in it, or it has no directory. [`Why::Gone`].
/// [`Why::Malformed`]: something is there that no tracer made.
pub fn read<'p>(
    roots: &Roots,
    dir: &Path,
    key: ProcKey,
    buffer: &mut Buffer,
    page: &'p mut [u8; PAGE],
) -> Result<Page<'p>, Why> {
    let target = Target::read(roots, key.pid, buffer).map_err(|trouble| trouble.why())?;
    if target.key != key {
        return Err(Why::Gone);
    }
    let place = Place::open_calm(roots, target, dir, buffer).map_err(|trouble| trouble.why())?;
    let (file, header) = TraceFile::open(&place, page).map_err(|trouble| trouble.why())?;
    let activity = file.read_activity(page).map_err(|trouble| trouble.why())?;
    Ok(Page { activity, runtime: header.runtime, runtime_version: header.runtime_version })
}
