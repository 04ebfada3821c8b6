//! `nbguard stack`: what a process is running, from outside. PHP by our own reader, Python by
//! py-spy's without stopping it. It has one second: who asks must not hang on a process that
//! does not let itself be read.

mod kernel;
mod php;
mod python;
mod text;

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out;
use crate::parse::{stat, status_ids};
use crate::report::stack::Stack;
use crate::trace::php::find::{Mapped, Missing};
use crate::trace::php::watch::Watch;

#[derive(Args, Debug)]
pub struct StackArgs {
    /// The process
    #[arg(value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff))]
    pub pid: u32,
    /// Print JSON, one object a look
    #[arg(long)]
    pub json: bool,
    /// Look again and again, this long apart
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub repeat: Option<Duration>,
    /// With --repeat: look so often, then end
    #[arg(long, value_name = "N", requires = "repeat")]
    pub count: Option<u64>,
    /// Of PHP, the value of a variable: memory, peak, script, uri, depth, `$name`, or
    /// `NAME=global+offset:type`
    #[arg(long, value_name = "WHAT", value_parser = Watch::parse)]
    pub watch: Vec<Watch>,
}

/// The whole of a look, from the first question to the answer.
const TIME_MAX: Duration = Duration::from_secs(1);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval.is_zero() { Err("too short".to_owned()) } else { Ok(interval) }
}

pub fn run(args: &StackArgs, out: &mut dyn Write) -> Outcome {
    let (sender, answers) = sync_channel(1);
    let asked = Asked {
        pid: args.pid,
        watches: args.watch.clone(),
        interval: args.repeat,
        looks: if args.repeat.is_some() { args.count.unwrap_or(u64::MAX) } else { 1 },
    };
    // A process may be anything, and a library may not have thought of it.
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "nbguard: the process cannot be read: {panic}");
        std::process::exit(i32::from(Exit::Wrong.code()));
    }));
    // Whatever holds up the look holds up that thread, which ends with this process.
    thread::spawn(move || {
        let told = look(&asked, &sender);
        if let Err(failure) = told {
            let _ = sender.send(Err(failure));
        }
    });
    let wait = TIME_MAX + args.repeat.unwrap_or_default();
    loop {
        match answers.recv_timeout(wait) {
            Ok(Ok(stack)) if args.json => writeln!(out, "{}", out::json(&stack))?,
            Ok(Ok(stack)) => text::tell(&stack, out)?,
            Ok(Err(failure)) => return Err(failure),
            Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Ok),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::wrong(format!(
                    "{}: not read within {}",
                    args.pid,
                    out::micros(TIME_MAX.as_micros() as u64)
                )));
            }
        }
        if args.repeat.is_some() {
            out.flush()?;
        }
    }
}

/// What the thread that looks is to do.
struct Asked {
    pid: u32,
    watches: Vec<Watch>,
    interval: Option<Duration>,
    looks: u64,
}

type Answers = SyncSender<Result<Stack, Failure>>;

fn look(asked: &Asked, answers: &Answers) -> Result<(), Failure> {
    let began = Instant::now();
    let process = Process::open(asked.pid)?;
    let mapped = Mapped::of(asked.pid).map_err(|missing| process.failure(&missing))?;
    let libraries = |name: &[u8]| name.starts_with(b"libpython");
    if mapped.exe_name().starts_with("python") || mapped.loads(libraries) {
        if !asked.watches.is_empty() {
            let text = "--watch reads variables of PHP, and this is Python";
            return Err(Failure::Said(Exit::Usage, text.to_owned()));
        }
        return python::look(asked, &process, &mapped, answers, began);
    }
    php::look(asked, &process, &mapped, answers, began)
}

/// Looks as often as asked, and hands over each answer.
fn repeat(
    asked: &Asked,
    answers: &Answers,
    mut began: Instant,
    mut one: impl FnMut() -> Result<Stack, Failure>,
) -> Result<(), Failure> {
    for turn in 0..asked.looks {
        if turn > 0 {
            // From one beginning to the next, unless the looks take longer than that.
            let next = began + asked.interval.unwrap_or_default();
            thread::sleep(next.saturating_duration_since(Instant::now()));
            began = Instant::now();
        }
        let mut stack = one()?;
        stack.took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Nobody listens any more: the time is over, or the process that asked ends.
        if answers.send(Ok(stack)).is_err() {
            break;
        }
    }
    Ok(())
}

/// The process as it was when we began, by a descriptor that no other process inherits with the
/// pid: its `stat` is an error from its end on.
struct Process {
    pid: u32,
    start: u64,
    stat: std::fs::File,
}

impl Process {
    fn open(pid: u32) -> Result<Process, Failure> {
        let gone = || Failure::wrong(format!("{pid}: there is no such process"));
        let file = std::fs::File::open(format!("/proc/{pid}/stat")).map_err(|_| gone())?;
        let mut process = Process { pid, start: 0, stat: file };
        process.start = process.start_now().ok_or_else(gone)?;
        Ok(process)
    }

    /// None: it has ended.
    fn start_now(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        // 363 bytes is the longest seen.
        let mut text = [0; 1024];
        let len = self.stat.read_at(&mut text, 0).ok()?;
        let line = stat(&text[..len]).ok()?;
        (!matches!(line.state, b'Z' | b'X')).then_some(line.start)
    }

    fn has_ended(&self) -> bool {
        self.start_now().is_none()
    }

    /// Its pid as it sees it itself: the innermost of its namespaces.
    fn inner_pid(&self) -> u32 {
        let status = std::fs::read(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status_ids(&status).map_or(self.pid, |ids| ids.nspid)
    }

    fn replaced(&self) -> Failure {
        Failure::wrong(format!("{}: the process runs another program now", self.pid))
    }

    fn failure(&self, missing: &Missing) -> Failure {
        let said = |text: &dyn std::fmt::Display| format!("{}: {text}", self.pid);
        match missing {
            _ if self.has_ended() => Failure::wrong(said(&Missing::Gone)),
            Missing::Denied(_) => Failure::cannot(said(missing)),
            // A kernel thread has neither program nor memory map.
            Missing::Gone | Missing::NotPhp => {
                Failure::wrong(said(&"no PHP and no Python runs in it"))
            }
            missing => Failure::wrong(said(missing)),
        }
    }
}
