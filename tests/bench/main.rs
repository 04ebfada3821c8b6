//! The budgets that are ratios, measured on this machine in one run: `cargo bench`.
//!
//! Event to signal is compared with the bare cost of reading `stat` of the same processes, the
//! time until memory is back with a bare `kill -9` of the same tree. Both sides take turns, so
//! that a busy machine is busy for both; the ratio is that of the medians.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../it/ground.rs"]
mod ground;
#[allow(dead_code)]
#[path = "../it/notebooks.rs"]
mod notebooks;
#[allow(dead_code)]
#[path = "../it/pass.rs"]
mod pass;

use std::ffi::CString;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ground::{Ground, kernel};
use nbguard::sys::pidfd;
use nbguard::units::{Bytes, Moment};
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, read};
use notebooks::Server;
use pass::{Kernel, Pass};

/// DESIGN.md, section 2.
const EVENT_TO_SIGNAL: f64 = 1.3;
const MEMORY_BACK: f64 = 1.0;
/// Two runs of the same thing differ by as much on a machine that does other things.
const NOISE: f64 = 0.15;
/// Notebooks, processes of each beside root and holder, and runs: 10, 100 and 1,000 processes
/// with the server.
const SIZES: [(usize, usize, usize); 3] = [(3, 1, 400), (9, 9, 100), (37, 25, 30)];
/// Of the tree whose end is timed.
const HELD: Bytes = Bytes::mib(256);
const ENDS: usize = 7;
/// What is left then: the kernel counts in batches.
const REST: Bytes = Bytes::mib(8);
/// As in the daemon: smaller ones are faster gone than asked for.
const RELEASED: Bytes = Bytes::mib(16);

fn main() -> ExitCode {
    // Cargo says `--bench`; anything else would be a filter, and there is nothing to filter.
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => {
            println!("skipped: {why}");
            return ExitCode::SUCCESS;
        }
    };
    println!("kernel {}, {} processors\n", kernel(), thread::available_parallelism().unwrap());
    println!("{:<44} {:>10} {:>10} {:>6}  bar", "", "nbguard", "bare", "ratio");
    let mut kept = true;
    for size in SIZES {
        kept &= event_to_signal(&ground, size);
    }
    kept &= memory_back(&ground);
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(what: &str, ours: Duration, bare: Duration, bar: f64, noise: f64) -> bool {
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    let kept = ratio <= bar + noise;
    let verdict = if kept { "" } else { "  MISSED" };
    let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    println!("{what:<44} {:>10} {:>10} {ratio:>6.2}  {bar}{verdict}", ms(ours), ms(bare));
    kept
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The processor's time of this thread: what others do meanwhile is not in it.
fn worked(work: impl FnOnce()) -> Duration {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    let before = now();
    work();
    Duration::from(now() - before)
}

fn event_to_signal(ground: &Ground, (notebooks, children, runs): (usize, usize, usize)) -> bool {
    let container = ground.container(Bytes::gib(1)).unwrap();
    let server = Server::start(&container, notebooks, children);
    for notebook in &server.notebooks {
        notebook.grow(Bytes::mib(4));
    }
    let largest = &server.notebooks[notebooks / 2];
    largest.grow(Bytes::mib(128));
    let mut pass = Pass::new(ground, &container, server.pid());
    let mut kernel = Kernel::new(&pass, false);
    let bare = Bare::new(&pass.pids());
    let (mut ours, mut theirs) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    let (mut decided, mut root, mut signalled) = (Vec::with_capacity(runs), 0, 0);
    for run in 0..runs + 2 {
        let their = worked(|| bare.read_all());
        let decision = worked(|| root = pass.decide());
        let signals = worked(|| signalled = pass.signal(&mut kernel));
        assert_eq!(root, largest.pid, "the largest is the one that would end");
        // As the loop does when a kill is over.
        pass.job.begin(Moment(0), libc::SIGKILL);
        // The first two make room and warm the caches.
        if run >= 2 {
            ours.push(decision + signals);
            decided.push(decision);
            theirs.push(their);
        }
    }
    let what = format!("event to signal, {} processes", bare.paths.len());
    let (ours, decided, theirs) = (median(ours), median(decided), median(theirs));
    let kept = row(&what, ours, theirs, EVENT_TO_SIGNAL, 0.0);
    let signals = ours.saturating_sub(decided).as_secs_f64() * 1e3;
    println!("    of it signals to a tree of {signalled:<15} {signals:>10.3} ms");
    kept
}

/// `openat`, `read`, `close`, and nothing else.
struct Bare {
    proc: File,
    paths: Vec<CString>,
}

impl Bare {
    fn new(pids: &[u32]) -> Bare {
        let path = |pid: &u32| CString::new(format!("{pid}/stat")).unwrap();
        Bare { proc: File::open("/proc").unwrap(), paths: pids.iter().map(path).collect() }
    }

    fn read_all(&self) {
        let mut text = [0; 1024];
        for path in &self.paths {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let file = openat(&self.proc, path.as_c_str(), flags, Mode::empty()).unwrap();
            black_box(read(&file, &mut text).unwrap());
        }
    }
}

fn memory_back(ground: &Ground) -> bool {
    let (give, take) = channel::<Vec<OwnedFd>>();
    // As the daemon has it: a thread of its own, for it blocks.
    thread::spawn(move || {
        for pidfd in take.iter().flatten() {
            let _ = pidfd::release(pidfd.as_fd());
        }
    });
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ENDS {
        bare.push(timed_end(ground, |pass, _| {
            for pid in pass.tree() {
                // One may have gone with the one before it.
                let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
            }
        }));
        ours.push(timed_end(ground, |pass, kernel| {
            pass.signal(kernel);
            give.send(pass.holders(RELEASED)).unwrap();
        }));
    }
    let what = format!("signal to memory back, {} in 8 processes", HELD);
    row(&what, median(ours), median(bare), MEMORY_BACK, NOISE)
}

/// From before the first signal until the container uses next to nothing.
fn timed_end(ground: &Ground, end: impl FnOnce(&mut Pass, &mut Kernel)) -> Duration {
    let container = ground.container(Bytes::gib(1)).unwrap();
    let server = Server::start(&container, 1, 6);
    let before = container.usage();
    server.notebooks[0].grow(HELD);
    let mut pass = Pass::new(ground, &container, server.pid());
    pass.decide();
    let mut kernel = Kernel::new(&pass, true);
    let begun = Instant::now();
    end(&mut pass, &mut kernel);
    while container.usage() > before.plus(REST) {
        thread::yield_now();
    }
    begun.elapsed()
}
