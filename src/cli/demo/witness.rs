//! The witness: looks every few milliseconds who died when and how much memory was in use, apart
//! from the guard's own figures and from the screen, so that neither can flatter the other.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::stage::{Actor, Part};
use crate::host::Group;
use crate::roots::Buffer;
use crate::units::Bytes;

/// How often the usage is read.
const EVERY: Duration = Duration::from_millis(2);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub usage: Bytes,
    pub peak: Bytes,
    /// When usage was first at the threshold.
    pub crossed: Option<Instant>,
    pub deaths: Vec<(Part, u32, Instant)>,
    /// The lowest usage after it.
    pub after_death: Option<Bytes>,
}

pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Actor>>>,
}

impl Witness {
    /// # Errors
    /// No thread could be started.
    pub fn watch(
        group: Group,
        threshold: Bytes,
        actors: Vec<Actor>,
    ) -> Result<Witness, std::io::Error> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let over = Arc::new(AtomicBool::new(false));
        let (mine, ended) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = thread::Builder::new().name("witness".into()).spawn(move || {
            let mut buffer = Buffer::new();
            while !ended.load(Ordering::Relaxed) {
                look(&group, threshold, &actors, &mine, &mut buffer);
            }
            actors
        })?;
        Ok(Witness { seen, over, thread: Some(thread) })
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the watch and gives the actors back.
    pub fn dismiss(mut self) -> Vec<Actor> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

fn look(
    group: &Group,
    threshold: Bytes,
    actors: &[Actor],
    seen: &Mutex<Seen>,
    buffer: &mut Buffer,
) {
    let known = seen.lock().unwrap_or_else(PoisonError::into_inner).deaths.clone();
    let living: Vec<&Actor> =
        actors.iter().filter(|actor| !known.iter().any(|(_, pid, _)| *pid == actor.pid)).collect();
    let mut fds: Vec<PollFd<'_>> =
        living.iter().map(|actor| PollFd::new(actor.pidfd.as_fd(), PollFlags::POLLIN)).collect();
    let patience = PollTimeout::try_from(EVERY).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut fds, patience);
    let now = Instant::now();
    let died = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    let usage = group.usage(buffer);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for (actor, _) in living.iter().zip(&fds).filter(|(_, fd)| died(fd)) {
        seen.deaths.push((actor.part, actor.pid, now));
    }
    let Ok(usage) = usage else { return };
    seen.usage = usage;
    seen.peak = seen.peak.max(usage);
    if usage >= threshold && seen.crossed.is_none() {
        seen.crossed = Some(now);
    }
    if !seen.deaths.is_empty() {
        seen.after_death = Some(seen.after_death.map_or(usage, |least| least.min(usage)));
    }
}
