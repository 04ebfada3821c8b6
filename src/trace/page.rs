//! What the guard reads when it wakes: whether a process is busy or idle, out of the page that its
//! tracer stamps. One small read, a page of the caller's, nothing kept and nothing on the heap
//! unless it fails. What is below another's root directory may be a filesystem that hangs: such a
//! one is not asked. Off the loop all the same: disks may be slow.

use std::path::Path;

use trace_layout::{Activity, ActivityState, Count, PAGE, Tracing};

use super::{Place, Target, TraceFile};
use crate::facts::Why;
use crate::ids::ProcKey;
use crate::roots::{Buffer, Roots};

/// How old a count may be of one that is in a request: twenty times what the tracer's own step is.
/// Whoever has made no call for longer may have run all the while, which nobody counted.
const FRESH_NS: u64 = 20_000_000;
/// By how much a tracer's clock may be ahead: it reckons for a millisecond at a time.
const AHEAD_NS: u64 = 1_000_000;

/// What a tracer says of its process. Texts are as the process chose them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<'p> {
    pub activity: Activity<'p>,
    /// What recorded calls cost, while they are recorded.
    pub count: Option<Count>,
    /// `runtime` and version of the interpreter: [`trace_layout::header::PHP`], 80236.
    pub runtime: u32,
    pub runtime_version: u32,
}

impl Page<'_> {
    /// The count, where it has everything up to `now`: it is fresh, or the process is idle since it
    /// was made. Without its memory where that is another by now.
    pub fn count_at(&self, now: u64) -> Option<Count> {
        let count = self.count.filter(|count| count.at <= now.saturating_add(AHEAD_NS))?;
        let is_idle = self.activity.state == ActivityState::Idle;
        if is_idle && count.at >= self.activity.since {
            // What it held at the request's end was given back after it.
            return Some(Count { memory: 0, ..count });
        }
        (!is_idle && now.saturating_sub(count.at) <= FRESH_NS).then_some(count)
    }
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
    // After the activity: what it said of an end is counted by then.
    let count = (header.tracing == Tracing::On).then(|| file.read_count()).flatten();
    Ok(Page { activity, count, runtime: header.runtime, runtime_version: header.runtime_version })
}
