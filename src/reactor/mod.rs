//! The loop: one mio poll over PSI triggers, `memory.events`, inotify, pidfds and signals, with
//! the earliest deadline as its time-out and none when no episode is open. It reads, asks policy,
//! carries out what policy asks for, and feeds the result back. Nothing in it waits.
//!
//! `discovery` adds and removes watches, `watch` is what one is, `tripwire` moves `memory.high`,
//! `effects` carries out what the state machines ask for, `decision` ranks and decides, `ending`
//! follows the kill, `host` steps containers without a limit, `record` writes down what happened.
//! `clean` is what `idle-first` asks beside.
//! `control` is where commands come in, `orders` carries them out.
//! `helper` and `writer` are the threads for what may block. `door` is where others ask, `http`
//! answers them, `survey` has the figures for that. `inside` asks what runs inside processes.

mod clean;
mod client;
mod control;
mod counters;
mod decision;
mod discovery;
mod door;
mod effects;
mod ending;
mod helper;
mod hook;
mod host;
mod http;
pub(crate) mod inside;
mod kept;
mod log;
mod message;
mod orders;
mod record;
mod retry;
mod survey;
mod token;
mod tripwire;
mod watch;
mod watchdog;
mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::log::{error, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::act::state::StateFile;
use crate::config::{self, Config, Settings};
use crate::host::fit;
use crate::host::memory;
use crate::host::mode::{self, Hierarchies};
use crate::host::stat_files::FILES_OF_ALL_MAX;
use crate::ids::WatchId;
use crate::policy::episode::{Effect, Input, Wake};
use crate::policy::orders::Orders;
use crate::report::Counters;
use crate::roots::{Buffer, Roots};
use crate::sys;
use crate::units::Moment;

use control::Control;
pub use control::SOCKET as CONTROL_SOCKET;
use counters::Trouble;
use decision::Scratch;
use ending::Endings;
use helper::{Asker, Helper};
use hook::Hook;
use host::Host;
use token::For;
use watch::{Domain, Watch};
use watchdog::Watchdog;
use writer::Writer;

/// Events taken from the kernel in one turn. What does not fit comes in the next.
const EVENTS: usize = 128;

/// How long a stop waits for hooks that were told already. systemd gives 90 s for all of it.
const HOOK_PATIENCE: Duration = Duration::from_secs(2);

/// How long somebody else may hold the lock: a child of a daemon that was killed has its
/// descriptors until it calls exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stop waits for a kill. Sweeps take half a second at most.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// How the daemon is started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The main configuration file; drop-ins lie in `conf.d` beside it.
    pub config: PathBuf,
    /// Decide and report, touch nothing, whatever the configuration says.
    pub dry_run: bool,
    /// The `nbguard` binary, for what is too heavy for the daemon. `None`: beside this one.
    pub tool: Option<PathBuf>,
    /// Guard nothing but this cgroup (relative to the hierarchy's root) and what is below it.
    /// `None`: everything but demos, which bring a guard of their own.
    pub only: Option<PathBuf>,
}

/// The group in which `nbguard demo` makes its containers, relative to the hierarchy's root.
pub const DEMOS: &str = "nbguard-demo";

/// Why the daemon cannot run. Only at the start: later nothing ends it but a signal.
#[derive(Debug)]
pub enum Error {
    /// The configuration is bad; all that is wrong with it.
    Config(config::Errors),
    /// One of its files cannot be read; the text names it.
    Unreadable(io::Error),
    /// Another daemon holds the lock.
    Running(PathBuf),
    /// The hierarchies could not be found.
    Cgroups(mode::Error),
    /// The kernel lacks what nobody can be ended safely without.
    Unfit(fit::Unfit),
    Io {
        what: String,
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(errors) => errors.fmt(f),
            Error::Unreadable(error) => write!(f, "the configuration cannot be read: {error}"),
            Error::Running(path) => {
                write!(f, "{}: another nbguardd holds this lock", path.display())
            }
            Error::Cgroups(error) => write!(f, "{error}; `nbguard doctor` says more"),
            Error::Unfit(unfit) => write!(f, "{unfit}; `nbguard doctor` says more"),
            Error::Io { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io { what, error }
}

/// Guards until SIGTERM or SIGINT, then puts everything back as it was found.
///
/// # Errors
/// Whatever keeps it from guarding at all, before the first container is touched.
pub fn run(options: &Options) -> Result<(), Error> {
    sys::memory::small_heap();
    // Before the first thread starts: one that does not block SIGTERM would take it, and die of it.
    signals().thread_block().map_err(|e| failed("signals could not be blocked")(e.into()))?;
    let config = load(options)?;
    let (writer, thread) = Writer::start(record::log_file(&config), log::journal())
        .map_err(failed("the writer thread could not be started"))?;
    log::start(&writer, config.guard.log);
    let mut reactor = Reactor::new(options, config, writer.clone())?;
    reactor.start()?;
    reactor.turn_until_told();
    reactor.stop();
    drop(reactor);
    writer.flush(Duration::from_secs(2));
    drop(writer);
    drop(thread);
    Ok(())
}

/// The signals that the loop answers, blocked before the first thread starts.
fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

fn load(options: &Options) -> Result<Config, Error> {
    let files = crate::host::conf::read_files(&options.config).map_err(Error::Unreadable)?;
    let (mut config, warnings) = Config::read(&files).map_err(Error::Config)?;
    for warning in warnings {
        warn!("{warning}");
    }
    config.force_dry_run(options.dry_run);
    Ok(config)
}

/// The whole state of the daemon.
struct Reactor {
    options: Options,
    config: Config,
    roots: Arc<Roots>,
    hierarchies: Hierarchies,
    poll: Poll,
    signal_fd: SignalFd,
    inotify: Inotify,
    helper: Helper,
    writer: Writer,
    discovery: discovery::Discovery,
    /// Each in a place of its own: in the vector they would be kept twice while it grows.
    watches: Vec<Option<Box<Watch>>>,
    generations: Vec<u32>,
    /// Those that wait for a moment, which few do: a wake-up that looked at each watch would cost
    /// more with each container.
    timed: Vec<WatchId>,
    host: Host,
    endings: Endings,
    recent: record::Recent,
    counters: Counters,
    hook: Hook,
    http: http::Http,
    surveys: kept::Surveys,
    messages: message::Messages,
    inside: inside::Inside,
    state: StateFile,
    state_path: PathBuf,
    /// It could not be written the last time.
    unsaved: bool,
    /// What people ordered: pauses and protections.
    orders: Orders,
    orders_path: PathBuf,
    /// Which boot this is.
    boot: String,
    control: Control,
    /// Held for as long as the daemon lives: only one may move tripwires.
    _lock: File,
    scratch: Scratch,
    effects: Vec<Effect>,
    /// Descriptors of `stat` that may be kept in all.
    stat_files_max: usize,
    /// Descriptors that there may be at all.
    descriptors_max: usize,
    buffer: Buffer,
    kmsg: Option<record::Kmsg>,
    watchdog: Watchdog,
    tool: PathBuf,
    has_systemd: bool,
    hostname: String,
    began: Instant,
    stopping: bool,
    /// When it stops even so.
    stop_by: Option<Moment>,
    reload: bool,
    /// When the events of this turn arrived: an episode begins there, not at its first look.
    woken_at: Option<Moment>,
}

impl Reactor {
    fn new(options: &Options, config: Config, writer: Writer) -> Result<Reactor, Error> {
        let signal_fd =
            SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
                .map_err(|e| failed("signalfd")(e.into()))?;
        let roots = Arc::new(Roots::system().map_err(failed("/proc"))?);
        fit::to_guard(&roots).map_err(Error::Unfit)?;
        let hierarchies = mode::hierarchies(&roots).map_err(Error::Cgroups)?;
        let state_dir = config.guard.state_dir.clone();
        let lock = lock(&state_dir)?;
        let state_path = state_dir.join("state.json");
        let state = StateFile::read(&state_path).unwrap_or_else(|why| {
            // What was changed before is not known any more; what is found now counts as original.
            error!("{why}; the values found now are taken for the original ones");
            StateFile::default()
        });
        let boot = orders::boot(&roots);
        let orders_path = state_dir.join(crate::act::orders::FILE);
        let orders = orders::kept(&orders_path, &boot);
        let mut buffer = Buffer::new();
        // No limit is higher than this. Taken for nothing, every container would be short of it.
        let memory = memory::memory(&roots, &mut buffer).map_err(|error| match error {
            memory::Error::Read(errno) => failed("/proc/meminfo")(errno.into()),
            memory::Error::Parse(_) => failed("/proc")(io::Error::other(error)),
        })?;
        let guard = decision::own_line(&roots, &mut buffer);
        let poll = Poll::new().map_err(failed("epoll"))?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| failed("inotify")(e.into()))?;
        let waker =
            mio::Waker::new(poll.registry(), For::Helper.token()).map_err(failed("eventfd"))?;
        let tool = options.tool.clone().unwrap_or_else(beside);
        let helper =
            Helper::start(&roots, tool.clone(), waker).map_err(failed("a helper thread"))?;
        let descriptors_max = raise_descriptors();
        let stat_files_max = FILES_OF_ALL_MAX.min(descriptors_max / 4);
        Ok(Reactor {
            options: options.clone(),
            discovery: discovery::Discovery::new(&roots, &config),
            host: Host::new(&config, memory),
            endings: Endings::new(),
            recent: record::Recent::default(),
            counters: counters::zero(),
            hook: Hook::default(),
            http: http::Http::default(),
            surveys: kept::Surveys::default(),
            messages: message::Messages::default(),
            inside: inside::Inside::default(),
            kmsg: record::Kmsg::open(&roots),
            watchdog: Watchdog::open(),
            has_systemd: roots.path("/run/systemd/system").is_dir(),
            hostname: hostname(),
            began: Instant::now(),
            stopping: false,
            stop_by: None,
            reload: false,
            woken_at: None,
            tool,
            watches: Vec::new(),
            generations: Vec::new(),
            timed: Vec::new(),
            scratch: Scratch::new(guard),
            effects: Vec::with_capacity(32),
            stat_files_max,
            descriptors_max,
            buffer,
            config,
            roots,
            hierarchies,
            poll,
            signal_fd,
            inotify,
            helper,
            writer,
            state,
            state_path,
            unsaved: false,
            orders,
            orders_path,
            boot,
            control: Control::open(&state_dir),
            _lock: lock,
        })
    }

    /// Takes over what an earlier daemon left, finds the containers, and locks itself in memory.
    fn start(&mut self) -> Result<(), Error> {
        let registry = self.poll.registry();
        let fixed =
            [(self.signal_fd.as_raw_fd(), For::Signals), (self.inotify_raw(), For::Inotify)];
        for (fd, what) in fixed {
            registry
                .register(&mut SourceFd(&fd), what.token(), Interest::READABLE)
                .map_err(failed("epoll"))?;
        }
        self.thaw_left_over();
        self.arm_host();
        self.rescan();
        self.restore_left_over();
        self.open_doors();
        self.take_over_orders();
        self.register_control().map_err(failed("epoll"))?;
        // First: what is locked is not given back.
        sys::memory::trim();
        if self.config.guard.lock_memory
            && let Err(error) = sys::memory::lock()
        {
            warn!("memory is not locked: {error}; under pressure nbguardd itself may be slow");
        }
        let watched = self.watches.iter().flatten().count();
        info!(
            "nbguardd {} guards {watched} containers, host mode {:?}{}",
            env!("CARGO_PKG_VERSION"),
            self.hierarchies.mode,
            if self.options.dry_run { ", dry-run: nothing is touched" } else { "" },
        );
        log::notify("READY=1");
        Ok(())
    }

    fn inotify_raw(&self) -> i32 {
        use std::os::fd::AsFd;
        self.inotify.as_fd().as_raw_fd()
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn turn_until_told(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopping || self.ends_first() {
            // Between two containers of a survey the kernel is asked what else there is.
            let patience = match self.surveys.has_work() || self.http.has_more() {
                true => Some(Duration::ZERO),
                false => self.deadline().map(|at| at.since(self.now())),
            };
            match self.poll.poll(&mut events, patience) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    error!("epoll: {e}");
                    return;
                }
            }
            self.woken_at = Some(self.now());
            self.counters.wakeups += 1;
            for event in &events {
                if let Some(what) = For::of(event.token()) {
                    self.on_event(what, event.is_error());
                }
            }
            self.run_deadlines();
            // Last: whatever is short of memory comes before whoever types.
            self.run_control(self.now());
            // Whoever asks comes after everything that guards.
            self.run_http(&events);
            if std::mem::take(&mut self.reload) {
                self.reload();
            }
            self.run_watchdog();
        }
    }

    /// A stop waits a moment for a kill that is under way: its tree ends whole, and is on record.
    fn ends_first(&mut self) -> bool {
        let now = self.now();
        let until = *self.stop_by.get_or_insert(now.plus(KILL_PATIENCE));
        self.endings.untold() && now < until
    }

    fn on_event(&mut self, what: For, is_error: bool) {
        if matches!(what, For::Door(_) | For::Client { .. }) {
            return;
        }
        self.count_event(what);
        match what {
            For::Door(_) | For::Client { .. } => {}
            For::Signals => self.on_signals(),
            For::Inotify => self.on_inotify(),
            For::Helper => {
                self.on_answers();
                self.control.woken |= self.control.is_waiting();
            }
            For::Control => self.control.woken = true,
            For::HostPsi => self.drive(None, Input::Wake(Wake::HostPsi)),
            // memory.events always carries EPOLLERR: only the trigger's error means gone.
            For::Events(id) => self.on_memory_events(id),
            For::Psi(id) if is_error => self.on_psi_gone(id),
            For::Psi(id) => self.on_psi(id),
            For::V1(id) => self.on_v1(id),
            For::Victim { serial, index } => self.on_victim(serial, index),
            For::Followed(who) => self.on_followed(who),
            For::Told(id) => self.let_go_of_rise(id),
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signal_fd.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGHUP) => self.reload = true,
                _ => self.stopping = true,
            }
        }
    }

    fn on_psi(&mut self, id: WatchId) {
        if let Some(episode) = self.watch_mut(id).and_then(|w| w.domain.episode.as_mut()) {
            episode.stalled = true;
        }
        self.drive(Some(id), Input::Wake(Wake::Psi));
    }

    /// The earliest moment at which something is to be done. `None`: sleep until the kernel calls.
    fn deadline(&self) -> Option<Moment> {
        let domains = self.timed.iter().filter_map(|id| self.deadline_of(*id));
        domains
            .chain(self.host.domain.machine.deadline())
            .chain(self.endings.deadline())
            .chain(self.discovery.deadline())
            .chain(self.http.deadline())
            .chain(self.surveys.deadline())
            .chain(self.control.deadline())
            .chain(self.watchdog.deadline())
            .chain(self.stop_by)
            .min()
    }

    fn run_deadlines(&mut self) {
        let now = self.now();
        // From behind: whoever is taken out has its place filled by one that was seen.
        for at in (0..self.timed.len()).rev() {
            let Some(id) = self.timed.get(at).copied() else { continue };
            match self.deadline_of(id) {
                Some(deadline) if deadline <= now => self.drive(Some(id), Input::Timer),
                Some(_) => {}
                None => drop(self.timed.swap_remove(at)),
            }
        }
        if self.host.domain.machine.deadline().is_some_and(|at| at <= now) {
            self.drive(None, Input::Timer);
        }
        self.expire_endings();
        self.run_discovery(now);
    }

    fn deadline_of(&self, id: WatchId) -> Option<Moment> {
        self.watch(id)?.domain.machine.deadline()
    }

    fn watch(&self, id: WatchId) -> Option<&Watch> {
        watch::of(id, &self.watches)
    }

    fn watch_mut(&mut self, id: WatchId) -> Option<&mut Watch> {
        watch::of_mut(id, &mut self.watches)
    }

    fn domain(&self, who: Asker) -> Option<&Domain> {
        domain_of(who, &self.watches, &self.host)
    }

    fn domain_mut(&mut self, who: Asker) -> Option<&mut Domain> {
        domain_of_mut(who, &mut self.watches, &mut self.host)
    }

    fn settings(&self, who: Asker) -> Option<&Settings> {
        settings_of(who, &self.watches, &self.host)
    }

    fn register(&self, fd: i32, what: For, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), what.token(), interest)
    }

    fn deregister(&self, fd: i32) {
        // A descriptor that is not registered needs no taking out.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    /// Closing a trigger waits for the kernel, so the helper does it.
    fn close(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            self.helper.give(helper::Work::Close(fds));
        }
    }

    /// Writes down what is changed. `false`: nobody would know of it after a crash. Told once, and
    /// once more when it works again: each container that comes would tell it anew.
    fn save_state(&mut self) -> bool {
        let written = self.state.write(&self.state_path);
        let path = self.state_path.display();
        match &written {
            Ok(()) if self.unsaved => info!("{path}: written again"),
            Err(error) if !self.unsaved => {
                error!("{path}: {error}; after a crash tripwires would stay");
            }
            _ => {}
        }
        self.unsaved = written.is_err();
        if self.unsaved {
            self.count_trouble(Trouble::StateNotSaved);
        }
        !self.unsaved
    }

    /// SIGHUP: the new configuration, or the old one if the new one is bad.
    fn reload(&mut self) {
        log::notify_reloading();
        match load(&self.options) {
            Err(why) => {
                self.count_reload(false);
                error!("the configuration stays as it was: {why}");
            }
            Ok(config) => {
                self.count_reload(true);
                log::start(&self.writer, config.guard.log);
                if config.record != self.config.record {
                    self.writer.reopen(record::log_file(&config));
                }
                self.config = config;
                self.refresh_sources();
                self.reload_host();
                let rearmed = self.apply_config();
                self.open_doors();
                info!("configuration read again: {rearmed} containers armed anew");
            }
        }
        log::notify("READY=1");
    }

    /// A clean stop: whoever is being ended is ended whole, and every tripwire goes back to what
    /// was found.
    fn stop(&mut self) {
        log::notify("STOPPING=1");
        self.close_doors();
        self.finish_endings();
        self.thaw_left_over();
        let restored = self.restore_all();
        self.hook.finish(HOOK_PATIENCE);
        let armed = self.watches.iter_mut().flatten().filter_map(|watch| watch.psi.take());
        helper::drop_together(armed.collect());
        info!("nbguardd stops, {restored} tripwires put back as they were found");
    }
}

/// The domain of whoever asks, for when the rest of the reactor is borrowed as well.
fn domain_of<'a>(
    who: Asker,
    watches: &'a [Option<Box<Watch>>],
    host: &'a Host,
) -> Option<&'a Domain> {
    match who {
        Some(id) => watch::of(id, watches).map(|watch| &watch.domain),
        None => Some(&host.domain),
    }
}

fn domain_of_mut<'a>(
    who: Asker,
    watches: &'a mut [Option<Box<Watch>>],
    host: &'a mut Host,
) -> Option<&'a mut Domain> {
    match who {
        Some(id) => watch::of_mut(id, watches).map(|watch| &mut watch.domain),
        None => Some(&mut host.domain),
    }
}

fn settings_of<'a>(
    who: Asker,
    watches: &'a [Option<Box<Watch>>],
    host: &'a Host,
) -> Option<&'a Settings> {
    match who {
        Some(id) => watch::of(id, watches).map(|watch| &*watch.settings),
        None => Some(&host.settings),
    }
}

/// The lock of the one daemon that may move tripwires here.
fn lock(dir: &Path) -> Result<File, Error> {
    std::fs::create_dir_all(dir).map_err(failed(dir.display().to_string()))?;
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed(path.display().to_string()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Running(path)),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(Error::Io { what: path.display().to_string(), error });
            }
        }
    }
}

/// `nbguard` in the directory of this binary, or in the `bin` beside its `sbin`.
fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let near = own.with_file_name("nbguard");
    let other = own.parent().and_then(Path::parent).map(|dir| dir.join("bin/nbguard"));
    let found = [Some(near), other].into_iter().flatten().find(|tool| tool.exists());
    found.unwrap_or_else(|| PathBuf::from("/usr/bin/nbguard"))
}

/// Seven descriptors a container, one for each process of a tree that is being ended, and those of
/// `stat` that are kept. Returns how many there may be.
fn raise_descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

/// Whether so many descriptors are free beside this one, which was opened just now: the lowest that
/// is free is given out, so that its number says how many there are.
fn leaves_free(newest: BorrowedFd<'_>, free: usize, max: usize) -> bool {
    let number = usize::try_from(newest.as_raw_fd()).unwrap_or(usize::MAX);
    number.saturating_add(free) <= max
}

fn hostname() -> String {
    let name = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    crate::parse::escape::escape(name.trim_ascii(), 64)
}
