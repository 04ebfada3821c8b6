//! A run of `nbguard trace`: everybody is switched on, their rings are read in turn, the beat goes
//! on, and whatever ends it, everybody is switched off.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use trace_layout::{Bad, Header, Kind, PAGE, Record, SWITCH, TRACE_SUFFIX, Tracing};

use super::data;
use super::show::{Flow, Note, Off, Show, Who};
use super::tell;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::ids::ProcKey;
use crate::parse::maps::maps;
use crate::roots::{Buffer, Roots};
use crate::sys::pidfd;
use crate::trace::php::find::Missing;
use crate::trace::php::watch::Watch;
use crate::trace::{
    Asked, Beat, Place, Ring, Switched, Table, Target, TraceFile, Trouble, now, php, stale, table,
};

/// How long nothing is read while nothing comes. A ring of 8,192 lasts 25 ms at 160,000 calls/s;
/// while records come there is no wait at all.
const NAP_MAX: Duration = Duration::from_millis(20);
/// Batches of one process before it is another's turn, and the beat's.
const TURN: usize = 64;
/// A process that has not opened its file by then is told of.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file that is not there yet is looked for so often.
const LOOK: Duration = Duration::from_millis(50);
/// For a snapshot, unless --for says otherwise: a process that calls nothing has none.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);
/// After the first frames of a snapshot the others are there; a busy machine may need a moment.
const SNAPSHOT_REST: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Trace,
    Snapshot,
    OnlyBeat,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub flags: u32,
    pub dir: PathBuf,
    pub period: Duration,
    pub lasts: Option<Duration>,
    pub watch: Vec<Watch>,
}

/// Where records go.
pub enum Sink<'o> {
    Show(Box<Show<'o>>),
    Data(data::Writer<BufWriter<File>>),
}

impl Sink<'_> {
    fn begin(&mut self, who: Who) -> io::Result<()> {
        match self {
            Sink::Show(show) => {
                show.begin(who);
                Ok(())
            }
            Sink::Data(data) => data.begin(&who),
        }
    }

    fn record(&mut self, index: usize, n: u64, record: &Record<'_>) -> io::Result<Flow> {
        match self {
            Sink::Show(show) => show.record(index, n, record),
            Sink::Data(data) => data.record(index, n, record).map(|()| Flow::On),
        }
    }

    fn note(&mut self, index: usize, note: &Note) -> io::Result<()> {
        match self {
            Sink::Show(show) => show.note(index, note),
            Sink::Data(data) => data.note(index, note),
        }
    }

    fn pause(&mut self) -> io::Result<()> {
        match self {
            Sink::Show(show) => show.pause(now()),
            Sink::Data(data) => data.flush(),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Sink::Show(show) => show.end(),
            Sink::Data(data) => data.end(),
        }
    }
}

/// A process that is traced.
struct Traced<'p> {
    target: Target,
    place: Place<'p>,
    pidfd: OwnedFd,
    program: Option<(u64, u64)>,
    switched: Option<Switched>,
    session: u32,
    /// Its file, once it has one, and its number for the sink.
    file: Option<(TraceFile<'p>, Ring, usize)>,
    /// What was told of it last.
    told: Tracing,
    lost: u64,
    frames: u64,
    is_over: bool,
    /// Over, and not because the process or somebody ended it.
    has_failed: bool,
    is_waited_for: bool,
}

/// Why it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Signal,
    Time,
    Enough,
    /// Nobody is left.
    AllOver,
}

pub fn run(
    roots: &Roots,
    buffer: &mut Buffer,
    plan: &Plan,
    pids: &[u32],
    mut sink: Sink<'_>,
    to_stdout: bool,
) -> Outcome {
    // Before anybody is on: what comes from now on ends us in order.
    let signals = block_signals()?;
    let mut traced = attach_all(roots, buffer, plan, pids)?;
    if plan.mode == Mode::OnlyBeat {
        tell("on; Ctrl-C switches off");
    }
    let mut run =
        Run { roots, buffer, plan, sink: &mut sink, signals: &signals, to_stdout, known: 0 };
    let ended = run.turn(&mut traced);
    // Whatever happened: off first, everything else after it.
    for one in &mut traced {
        if let Some(Err(trouble)) = one.switched.take().map(Switched::off) {
            tell(&format!("process {}: switching off: {trouble}", one.target.key.pid));
        }
        if !plan.watch.is_empty() {
            table::remove_watch(&one.place);
        }
    }
    let end = ended?;
    if end != End::Enough {
        for one in &mut traced {
            run.drain(one)?;
        }
    }
    run.sink.end()?;
    for one in traced.iter().filter(|one| one.is_over) {
        stale::remove(roots, &one.place, run.buffer);
    }
    conclude(plan, &traced, end)
}

/// Exit code and last words.
fn conclude(plan: &Plan, traced: &[Traced<'_>], end: End) -> Outcome {
    let lost: u64 = traced.iter().map(|one| one.lost).sum();
    if lost > 0 {
        tell(&format!("{} (--no-internal makes fewer)", Note::Lost(lost).words()));
    }
    if plan.mode == Mode::Snapshot && traced.iter().all(|one| one.frames == 0) {
        return Err(Failure::wrong("no snapshot: the process called no function meanwhile"));
    }
    let mute: Vec<String> = traced
        .iter()
        .filter(|one| one.file.is_none() && plan.mode != Mode::OnlyBeat)
        .map(|one| one.target.key.pid.to_string())
        .collect();
    if mute.len() == traced.len() && end != End::Signal {
        return Err(Failure::wrong(format!("nothing was traced: no file of {}", mute.join(", "))));
    }
    Ok(if traced.iter().any(|one| one.has_failed) { Exit::Wrong } else { Exit::Ok })
}

fn block_signals() -> Result<SignalFd, Failure> {
    let words = |e: Errno| Failure::cannot(format!("signals: {}", e.desc()));
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block().map_err(words)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(words)
}

/// Everybody who can be. Those who cannot are told of; nobody at all is a failure.
fn attach_all<'p>(
    roots: &Roots,
    buffer: &mut Buffer,
    plan: &'p Plan,
    pids: &[u32],
) -> Result<Vec<Traced<'p>>, Failure> {
    let own = std::process::id();
    let tool = Target::read(roots, own, buffer).map_or(ProcKey { pid: own, start: 0 }, |t| t.key);
    let mut traced = Vec::new();
    let mut denied = false;
    for pid in pids {
        let lines = match php::lines_for_tracer(*pid, &plan.watch) {
            Ok(lines) => lines,
            Err(missing) => {
                denied |= matches!(missing, Missing::Denied(_));
                tell(&format!("process {pid}: --watch: {missing}"));
                continue;
            }
        };
        match attach(roots, buffer, plan, *pid, tool, &lines) {
            Ok(one) => traced.push(one),
            Err(trouble) => {
                denied |= matches!(trouble, Trouble::Denied { .. });
                tell(&format!("process {pid}: {}", told(&trouble)));
            }
        }
    }
    match (traced.is_empty(), denied) {
        (false, _) => Ok(traced),
        (true, true) => Err(Failure::cannot("nobody could be traced")),
        (true, false) => Err(Failure::wrong("nobody could be traced")),
    }
}

/// Of a pid that somebody typed.
pub fn told(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Gone => "there is no such process".to_owned(),
        other => other.to_string(),
    }
}

fn attach<'p>(
    roots: &Roots,
    buffer: &mut Buffer,
    plan: &'p Plan,
    pid: u32,
    tool: ProcKey,
    watch: &str,
) -> Result<Traced<'p>, Trouble> {
    let target = Target::read(roots, pid, buffer)?;
    let pidfd = pidfd::open(pid).map_err(|_| Trouble::Gone)?;
    let place = Place::prepare(roots, target, &plan.dir, buffer)?;
    stale::remove(roots, &place, buffer);
    let program = target.program(roots);
    // What it wrote for somebody else is not read again: from here on.
    let file = open_file(&place)?.map(|(file, header)| (file, Ring::from(header.head), 0));
    if !watch.is_empty() {
        table::write_watch(&place, watch)?;
    }
    let asked = Asked {
        flags: plan.flags,
        period_ms: u32::try_from(plan.period.as_millis()).unwrap_or(u32::MAX),
        tool,
        watches: !watch.is_empty(),
    };
    let table = Table::open_or_make(roots, &place, buffer)?;
    let switched = table.switch_on(&target, &asked, now())?;
    Ok(Traced {
        target,
        place,
        pidfd,
        program,
        session: switched.session(),
        switched: Some(switched),
        file,
        told: Tracing::Off,
        lost: 0,
        frames: 0,
        is_over: false,
        has_failed: false,
        is_waited_for: false,
    })
}

/// Its file, if it has one yet.
fn open_file<'p>(place: &Place<'p>) -> Result<Option<(TraceFile<'p>, Header)>, Trouble> {
    let mut page = [0; PAGE];
    match TraceFile::open(place, &mut page) {
        Ok(opened) => Ok(Some(opened)),
        Err(Trouble::NotThere(_)) => Ok(None),
        // It is being made just now: the size comes after the name, the magic after the size.
        Err(Trouble::Bad { bad: Bad::Short | Bad::Torn, .. }) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// As much of `maps` as is read: 65,530 mappings of 64 bytes.
const MAPS_MAX: u64 = 4 << 20;

/// What the mappings of a process say of its tracer: is it loaded, where does it write, has it found
/// the switch. `None`: all is as it should be.
fn why_not(text: &[u8], dir: &Path, has_file: bool) -> Option<String> {
    let (mut is_loaded, mut trace, mut switch) = (false, None, false);
    for mapping in maps(text) {
        let path = Path::new(OsStr::from_bytes(mapping.path));
        let name = path.file_name().unwrap_or_default().as_bytes();
        let folder = path.parent().and_then(Path::parent);
        is_loaded |= name.starts_with(b"nbguard") || name.starts_with(b"libnbguard");
        switch |= path == dir.join(SWITCH);
        // Its own, not that of a parent before a fork: that one is unmapped.
        if name.ends_with(TRACE_SUFFIX.as_bytes()) && is_a_trace(name) {
            trace = folder.or(trace);
        }
    }
    let next = "it looks at the beginning of its next request; phpinfo() there says why not";
    match trace {
        _ if !is_loaded => Some(
            "waiting; no tracer is loaded in it (the extension nbguard, see README)".to_owned(),
        ),
        Some(folder) if !has_file && folder != dir => Some(format!(
            "waiting; its tracer writes elsewhere: nbguard.directory is {}",
            folder.display()
        )),
        Some(_) if has_file && !switch => {
            Some(format!("waiting; its tracer has not found the switch table yet: {next}"))
        }
        None if !has_file => {
            Some(format!("waiting; its tracer has made no trace file yet: {next}"))
        }
        _ => None,
    }
}

/// `<pid>-<start>.trace`
fn is_a_trace(name: &[u8]) -> bool {
    name.iter().take_while(|byte| **byte != b'.').all(|b| b.is_ascii_digit() || *b == b'-')
}

struct Run<'r, 'o> {
    roots: &'r Roots,
    buffer: &'r mut Buffer,
    plan: &'r Plan,
    sink: &'r mut Sink<'o>,
    signals: &'r SignalFd,
    to_stdout: bool,
    /// Processes that the sink knows.
    known: usize,
}

impl Run<'_, '_> {
    fn turn(&mut self, traced: &mut [Traced<'_>]) -> Result<End, Failure> {
        let begun = Instant::now();
        let lasts = match (self.plan.mode, self.plan.lasts) {
            (Mode::Snapshot, None) => Some(SNAPSHOT_WAIT),
            (_, lasts) => lasts,
        };
        // Five beats a period: four may be late.
        let every = (self.plan.period / 5).min(Duration::from_secs(1));
        let (mut next_beat, mut next_look) = (begun + every, begun);
        let mut nap = Duration::ZERO;
        let mut last_frame: Option<Instant> = None;
        for one in traced.iter_mut() {
            self.introduce(one)?;
        }
        loop {
            let time = Instant::now();
            if matches!(self.signals.read_signal(), Ok(Some(_))) {
                return Ok(End::Signal);
            }
            if lasts.is_some_and(|lasts| time - begun >= lasts) {
                return Ok(End::Time);
            }
            if time >= next_beat {
                next_beat = time + every;
                for one in traced.iter_mut() {
                    self.beat(one)?;
                }
            }
            if time >= next_look {
                next_look = time + LOOK;
                self.look_for_files(traced, time - begun)?;
            }
            let mut seen = 0;
            if self.plan.mode != Mode::OnlyBeat {
                for one in traced.iter_mut() {
                    let (more, flow) = self.read(one, TURN)?;
                    seen += more;
                    if flow == Flow::Enough {
                        return Ok(End::Enough);
                    }
                }
            }
            for one in traced.iter_mut().filter(|one| !one.is_over) {
                if pidfd::has_exited(one.pidfd.as_fd()) {
                    self.drain(one)?;
                    self.over(one, &Note::Gone)?;
                }
            }
            if self.plan.mode == Mode::Snapshot {
                if seen > 0 {
                    last_frame = Some(time);
                }
                let written = traced.iter().all(|one| one.frames > 0 || one.is_over);
                if written && last_frame.is_some_and(|last| time - last > SNAPSHOT_REST) {
                    return Ok(End::Enough);
                }
            }
            if traced.iter().all(|one| one.is_over) {
                return Ok(End::AllOver);
            }
            if seen > 0 {
                nap = Duration::ZERO;
                continue;
            }
            self.sink.pause()?;
            nap = (nap * 2).clamp(Duration::from_millis(1), NAP_MAX);
            let until = next_beat.saturating_duration_since(time);
            self.wait(traced, nap.min(until))?;
        }
    }

    /// Until something happens, or the nap is over. A closed pipe is noticed while nothing comes.
    fn wait(&self, traced: &[Traced<'_>], nap: Duration) -> Result<(), Failure> {
        let stdout = io::stdout();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if self.to_stdout {
            fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
        }
        let living = traced.iter().filter(|one| !one.is_over);
        fds.extend(living.map(|one| {
            let fd: BorrowedFd<'_> = one.pidfd.as_fd();
            PollFd::new(fd, PollFlags::POLLIN)
        }));
        let timeout = PollTimeout::try_from(nap).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::wrong(format!("poll: {}", errno.desc()))),
        }
        let closed = PollFlags::POLLERR | PollFlags::POLLHUP;
        let is_closed =
            self.to_stdout && fds[1].revents().is_some_and(|revents| revents.intersects(closed));
        if is_closed { Err(Failure::NobodyListens) } else { Ok(()) }
    }

    fn beat(&mut self, one: &mut Traced<'_>) -> Result<(), Failure> {
        if one.is_over {
            return Ok(());
        }
        if one.program.is_some() && one.target.is_there(self.roots, self.buffer) {
            let program = one.target.program(self.roots);
            if program.is_some() && program != one.program {
                self.drain(one)?;
                return self.over(one, &Note::Exec);
            }
        }
        let Some(switched) = &mut one.switched else { return Ok(()) };
        match switched.beat(&one.target, now()) {
            Ok(Beat::Taken) => Ok(()),
            Ok(Beat::SwitchedOff) => {
                self.drain(one)?;
                self.over(one, &Note::SwitchedOff)
            }
            Err(trouble) => self.over(one, &Note::Trouble(trouble.to_string())),
        }
    }

    fn look_for_files(
        &mut self,
        traced: &mut [Traced<'_>],
        waited: Duration,
    ) -> Result<(), Failure> {
        for one in traced.iter_mut() {
            if one.is_over {
                continue;
            }
            if one.file.is_none() {
                match open_file(&one.place) {
                    Ok(Some((file, _))) => {
                        one.file = Some((file, Ring::from(0), 0));
                        self.introduce(one)?;
                    }
                    Ok(None) => {}
                    Err(trouble) => self.over(one, &Note::Trouble(trouble.to_string()))?,
                }
            }
            if waited >= PATIENCE && !one.is_waited_for && !one.is_over {
                one.is_waited_for = true;
                if let Some(words) = self.hint(one) {
                    tell(&format!("process {}: {words}", one.target.key.pid));
                }
            }
        }
        Ok(())
    }

    /// Why a process is not traced yet, as far as that can be known from outside.
    fn hint(&mut self, one: &Traced<'_>) -> Option<String> {
        let header = one.file.as_ref().map(|(file, ..)| file.read_header(&mut [0; PAGE]));
        match header {
            Some(Ok(header)) if header.tracing == Tracing::Broken => {
                return Some(Note::Turned(Off::Broken).words());
            }
            Some(Ok(header)) if header.session == one.session => return None,
            _ => {}
        }
        let maps = self.roots.open_process(one.target.key.pid, "maps").ok().map(File::from)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(maps, MAPS_MAX), &mut text).ok()?;
        why_not(&text, &self.plan.dir, header.is_some())
    }

    /// Makes its file known to the sink. Those without one have no number there.
    fn introduce(&mut self, one: &mut Traced<'_>) -> Result<(), Failure> {
        let Some((file, _, number)) = &mut one.file else { return Ok(()) };
        let version = file.read_header(&mut [0; PAGE]).map_or(0, |header| header.runtime_version);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = u64::try_from(unix.as_nanos()).unwrap_or(0);
        let who = Who {
            pid: one.target.key.pid,
            inner: one.target.inner,
            start: one.target.key.start,
            runtime_version: version,
            to_unix: unix.saturating_sub(now()),
        };
        *number = self.known;
        self.known += 1;
        self.sink.begin(who)?;
        Ok(())
    }

    /// At most `turns` batches of one process: how many records there were.
    fn read(&mut self, one: &mut Traced<'_>, turns: usize) -> Result<(u64, Flow), Failure> {
        let mut seen = 0;
        if one.is_over {
            return Ok((0, Flow::On));
        }
        for _ in 0..turns {
            let Some((file, ring, number)) = &mut one.file else { break };
            let number = *number;
            let snapshot = self.plan.mode == Mode::Snapshot;
            let (sink, frames) = (&mut *self.sink, &mut one.frames);
            let mut said = Ok(Flow::On);
            let round = ring.read(file, |n, record| {
                *frames += u64::from(record.kind == Kind::Snapshot);
                if matches!(said, Ok(Flow::On)) && (!snapshot || record.kind == Kind::Snapshot) {
                    said = sink.record(number, n, record);
                }
            });
            let flow = said?;
            let round = match round {
                Ok(round) => round,
                Err(trouble) => {
                    self.over(one, &Note::Trouble(trouble.to_string()))?;
                    break;
                }
            };
            seen += round.seen;
            if round.lost > 0 {
                one.lost = one.lost.saturating_add(round.lost);
                self.sink.note(number, &Note::Lost(round.lost))?;
            }
            self.heed(one, number, &round.header)?;
            if flow == Flow::Enough {
                return Ok((seen, flow));
            }
            if !round.more {
                break;
            }
        }
        Ok((seen, Flow::On))
    }

    /// What the tracer says of itself.
    fn heed(
        &mut self,
        one: &mut Traced<'_>,
        number: usize,
        header: &Header,
    ) -> Result<(), Failure> {
        if header.session != one.session || header.tracing == one.told {
            return Ok(());
        }
        one.told = header.tracing;
        let Some(off) = Off::of(header.tracing) else { return Ok(()) };
        // We are the ones who switch off, and a snapshot is over when it is taken.
        if off == Off::Switch && (one.switched.is_none() || self.plan.mode == Mode::Snapshot) {
            return Ok(());
        }
        self.sink.note(number, &Note::Turned(off))?;
        if off == Off::Broken {
            one.is_over = true;
            one.has_failed = true;
        }
        Ok(())
    }

    /// Everything that is there, once.
    fn drain(&mut self, one: &mut Traced<'_>) -> Result<(), Failure> {
        if self.plan.mode != Mode::OnlyBeat {
            // As much as a ring holds: who writes on and on is not followed for ever.
            let turns = one.file.as_ref().map_or(0, |(file, ..)| file.slots as usize / 64 + 2);
            self.read(one, turns)?;
        }
        Ok(())
    }

    /// Nothing more is to be had of this one.
    fn over(&mut self, one: &mut Traced<'_>, note: &Note) -> Result<(), Failure> {
        one.is_over = true;
        one.has_failed |= matches!(note, Note::Trouble(_));
        match &one.file {
            Some((_, _, number)) if self.plan.mode != Mode::OnlyBeat => {
                self.sink.note(*number, note)?;
            }
            _ => tell(&format!("process {}: {}", one.target.key.pid, note.words())),
        }
        // A table that cannot be written any more is left to the beat that stops.
        drop(one.switched.take());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SO: &str = "7f01000-7f02000 r-xp 00000000 08:01 7 /usr/lib/php/20220829/nbguard.so\n";
    const SWITCHED: &str = "7f03000-7f04000 r--s 00005000 00:19 8 /run/nbguard/trace/switch\n";
    const TRACE: &str =
        "7f05000-7f06000 rw-s 00000000 00:19 9 /run/nbguard/trace/33/12-345.trace\n";
    const OTHER: &str = "7f05000-7f06000 rw-s 00000000 00:19 9 /srv/t/33/12-345.trace\n";
    const PHP: &str = "5f00000-5f01000 r-xp 00000000 08:01 6 /usr/sbin/php-fpm8.2\n";

    #[test]
    fn why_a_process_is_not_traced_is_told_as_far_as_its_mappings_tell() {
        for (maps, has_file, expected) in [
            (vec![PHP], false, Some("no tracer is loaded")),
            (vec![], false, Some("no tracer is loaded")),
            (vec![PHP, SO], false, Some("no trace file yet")),
            (vec![PHP, SO, OTHER], false, Some("nbguard.directory is /srv/t")),
            (vec![PHP, SO, TRACE], true, Some("not found the switch table")),
            (vec![PHP, SO, TRACE, SWITCHED], true, None),
            // It is being made just now.
            (vec![PHP, SO, TRACE, SWITCHED], false, None),
        ] {
            let told = why_not(maps.concat().as_bytes(), Path::new(trace_layout::DIR), has_file);
            match expected {
                Some(words) => {
                    assert!(told.as_ref().is_some_and(|t| t.contains(words)), "{told:?}")
                }
                None => assert_eq!(told, None),
            }
        }
    }
}
