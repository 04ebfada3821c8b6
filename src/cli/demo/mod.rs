//! `nbguard demo`: a container-like cgroup, a stand-in server, three stand-in notebooks of which
//! one grows, and the guard itself, the real one, between them and the kernel's OOM killer. Shows
//! live what happens, then says who ended and why, who lived, and how fast it was.

pub mod actors;
mod plan;
mod show;
mod stage;
mod verdict;
mod witness;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::exit::{Failure, Outcome};
use crate::cli::files;
use crate::cli::look::{Look, World};
use crate::host::Group;
use crate::host::container::Container;
use crate::host::discover::Found;
use crate::report::Incident;
use crate::roots::{Buffer, Roots};
use crate::units::Bytes;
use plan::Plan;
use show::Screen;
use stage::Stage;
use witness::Witness;

pub use plan::ROLE;

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Real kernels: a Python that has ipykernel
    #[arg(long, value_name = "PYTHON")]
    pub python: Option<PathBuf>,
}

/// How often the screen is drawn anew.
const FRAME: Duration = Duration::from_millis(100);
/// Before anything grows: the guard takes its place, and the kernels are older than the 2 s after
/// which the guard believes that a process has become what it is.
const CALM: Duration = Duration::from_millis(2_500);
/// From the word to grow until somebody has ended.
const GROW_TIME: Duration = Duration::from_secs(30);
/// From the end of the notebook to its record: memory has to come back first.
const RECORD_TIME: Duration = Duration::from_secs(6);
/// Afterwards: so that a second kill, or a late one of the kernel's, would be seen.
const AFTER: Duration = Duration::from_millis(1_500);
/// What the host should have to spare, above the container's limit.
const SPARE: Bytes = Bytes::mib(128);

pub fn run(args: &DemoArgs, out: &mut dyn Write) -> Outcome {
    let plan = Plan::new(args.python.clone());
    let missing = missing(&plan);
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(|what| format!("  - {what}")).collect();
        return Err(Failure::cannot(format!("the demo cannot run here:\n{}", list.join("\n"))));
    }
    // Before the first thread, so that all of them have the signals blocked.
    let signals = Signals::block().map_err(Failure::cannot)?;
    let played = play(plan, &signals, out);
    // The stage is cleared by now.
    if let Err(Stop::Signal(signal)) = played {
        out.flush()?;
        signals.die_of(signal);
    }
    played.map_err(|stop| match stop {
        Stop::Signal(_) => Failure::wrong("interrupted"),
        Stop::Failed(failure) => failure,
    })
}

enum Stop {
    Signal(Signal),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Failed(error.into())
    }
}

/// Everything that is missing, so that nobody has to come back twice.
fn missing(plan: &Plan) -> Vec<String> {
    let mut missing = Vec::new();
    if !is_root() {
        missing.push("root: it makes a cgroup with a memory limit".to_owned());
    }
    if let Err(error) = crate::sys::pidfd::open(std::process::id()) {
        missing.push(format!("pidfd_open (Linux 5.3): {error}"));
    }
    match Roots::system() {
        Err(error) => missing.push(format!("/proc: {error}")),
        Ok(roots) => {
            if let Err(error) = crate::host::hierarchies(&roots) {
                missing.push(format!("a cgroup memory controller: {error}"));
            }
            let available = crate::host::memory::memory(&roots, &mut Buffer::new());
            let needed = plan.limit.plus(SPARE);
            if let Ok(host) = available
                && host.available < needed
            {
                missing.push(format!("{needed} of memory; {} are available", host.available));
            }
        }
    }
    if let Some(python) = &plan.python {
        missing.extend(no_ipykernel(python));
    }
    missing
}

/// The owner of our own folder in /proc is our effective user (proc_pid(5)).
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn no_ipykernel(python: &PathBuf) -> Option<String> {
    let shown = python.display();
    let status = Command::new(python)
        .args(["-c", "import ipykernel"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => None,
        Ok(_) => Some(format!("ipykernel for {shown} ({shown} -m pip install ipykernel)")),
        Err(error) => Some(format!("{shown}: {error}")),
    }
}

fn play(
    plan: Plan,
    signals: &Signals,
    out: &mut dyn Write,
) -> Result<crate::cli::exit::Exit, Stop> {
    let roots = Roots::system().map_err(|e| Failure::cannot(format!("/proc: {e}")))?;
    let hierarchies =
        crate::host::hierarchies(&roots).map_err(|e| Failure::cannot(e.to_string()))?;
    let mut stage = Stage::set_up(plan, &hierarchies).map_err(Failure::cannot)?;
    let mut screen = Screen::new();
    screen.say("Setting up a container, a server and three notebooks …", out)?;
    stage.start_actors().map_err(Failure::wrong)?;
    stage.start_daemon().map_err(Failure::wrong)?;
    let mut eye = Eye::open(roots, &stage)?;
    let first = eye.look()?;
    screen.introduce(&stage, &first, out)?;
    let group =
        Group::open(&hierarchies, &stage.group).map_err(|e| Failure::wrong(e.to_string()))?;
    let actors = std::mem::take(&mut stage.actors);
    let witness = Witness::watch(group, first.threshold, actors)
        .map_err(|e| Failure::wrong(format!("a thread: {e}")))?;
    let told = follow(&mut stage, &mut eye, &witness, &mut screen, signals, out);
    let seen = witness.seen();
    stage.actors = witness.dismiss();
    let told = told?;
    screen.leave(out)?;
    let report = verdict::Report::new(&stage, &seen, &told, first.threshold);
    Ok(report.tell(&stage, out)?)
}

/// What the guard recorded, and what the kernel did.
pub struct Told {
    incidents: Vec<Incident>,
    kernel_kills: u64,
    guard_ended: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Calm,
    Growing,
    /// Somebody died, nothing is recorded yet.
    Ended,
    After,
}

fn follow(
    stage: &mut Stage,
    eye: &mut Eye,
    witness: &Witness,
    screen: &mut Screen,
    signals: &Signals,
    out: &mut dyn Write,
) -> Result<Told, Stop> {
    let begun = Instant::now();
    let (mut act, mut since) = (Act::Calm, begun);
    let mut incidents = Vec::new();
    loop {
        signals.wait(FRAME).map_err(Stop::Signal)?;
        let guard_ended = stage.daemon_ended();
        if incidents.is_empty() {
            incidents = verdict::recorded(stage);
        }
        let seen = witness.seen();
        let look = eye.look().ok();
        screen.draw(&stage.plan, act, begun.elapsed(), look.as_ref(), &seen, out)?;
        let waited = since.elapsed();
        let next = match act {
            Act::Calm if waited >= CALM => {
                stage.let_it_grow().map_err(Failure::wrong)?;
                Some(Act::Growing)
            }
            Act::Growing if !seen.deaths.is_empty() => Some(Act::Ended),
            Act::Ended if !incidents.is_empty() || waited >= RECORD_TIME => Some(Act::After),
            _ => None,
        };
        let over = match act {
            Act::Growing => waited >= GROW_TIME,
            Act::After => waited >= AFTER,
            Act::Calm | Act::Ended => false,
        };
        if over || guard_ended.is_some() {
            let incidents = verdict::recorded(stage);
            return Ok(Told { incidents, kernel_kills: eye.kernel_kills(), guard_ended });
        }
        if let Some(next) = next {
            (act, since) = (next, Instant::now());
        }
    }
}

/// Looks at the demo's container as `ps` does.
pub struct Eye {
    world: World,
    config: crate::config::Config,
    found: Found,
    container: Container,
}

impl Eye {
    fn open(roots: Roots, stage: &Stage) -> Result<Eye, Failure> {
        let (config, _) = files::config(&stage.config_file())?;
        let world = World::open(roots, &config)?;
        let all = world.containers();
        let mine = all.into_iter().find(|(found, _)| found.id == stage.id);
        let (found, container) =
            mine.ok_or_else(|| Failure::wrong("the demo's container was not recognised as one"))?;
        Ok(Eye { world, config, found, container })
    }

    fn look(&mut self) -> Result<Look, Failure> {
        self.world
            .look(&self.found, &self.container, &self.config)
            .map_err(|e| Failure::wrong(e.to_string()))
    }

    fn kernel_kills(&mut self) -> u64 {
        self.look().map_or(0, |look| look.figures.events.oom_kill)
    }
}

/// Ctrl-C and its kin, taken as events so that the stage is cleared before we go.
struct Signals {
    set: SigSet,
    fd: SignalFd,
}

impl Signals {
    fn block() -> Result<Signals, String> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let words = |e: nix::errno::Errno| format!("signals: {}", e.desc());
        set.thread_block().map_err(words)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(words)?;
        Ok(Signals { set, fd })
    }

    /// Waits for so long; the signal, if one came.
    fn wait(&self, time: Duration) -> Result<(), Signal> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO));
        match self.fd.read_signal() {
            Ok(Some(info)) => Err(i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
                .unwrap_or(Signal::SIGTERM)),
            _ => Ok(()),
        }
    }

    /// Ends as the signal would have ended us: the shell that called wants to know.
    fn die_of(&self, signal: Signal) {
        let _ = self.set.thread_unblock();
        let _ = raise(signal);
    }
}
