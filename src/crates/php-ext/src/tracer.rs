//! The tracer of one interpreter: what it knows of its switch, the calls that are open, and the
//! records it writes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use ext_php_rs::ffi;
use trace_layout::header::FileHeader;
use trace_layout::record::{FAILED, INTERNAL, RESUMED, SCRIPT, THROWN};
use trace_layout::switch::{self, Settings};
use trace_layout::writer::Numbers;
use trace_layout::{
    Count, Kind, Record, Slot, Switch, SwitchState, Tracing, UNKNOWN, UNKNOWN_MEMORY, Writer,
};

use crate::clock::{self, Clock};
use crate::home::{Home, Why};
use crate::php::{self, Frame, Function};
use crate::render::{self, Redact};
use crate::waiter::SHARED;
use crate::watch::{self, Watched};
use crate::{owner, quiet, settings::Settings as Ini};

/// Whether calls are recorded: what the call path looks at first.
pub static ON: AtomicBool = AtomicBool::new(false);
/// The process is a child of the one whose files are mapped.
pub static FORKED: AtomicBool = AtomicBool::new(false);

/// Open calls that are kept; what is deeper is recorded, but its end is not.
const OPEN_MAX: usize = 1 << 20;
/// Frames of one stack in the ring.
const SNAPSHOT_MAX: u16 = 256;
/// Stacks of fibers that are kept while they wait.
const FIBERS_MAX: usize = 4096;
/// Generators that wait at a yield.
const GENERATORS_MAX: usize = 4096;

/// Between two publications of what calls cost.
const COUNT_STEP_NS: u64 = 1_000_000;

/// A call that is open.
#[derive(Clone, Copy, Debug)]
struct Open {
    frame: *mut Frame,
    call: u64,
    time: u64,
    cpu: u64,
    memory: usize,
}

/// What recorded calls cost: CPU time from the first open call to the end of the last is what their
/// self times add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    /// When recording went on; 0: calls are not recorded.
    since: u64,
    /// When to publish next.
    due: u64,
    /// Of stretches that are over.
    cpu: u64,
    /// A stretch is under way, since this CPU time of the thread.
    is_open: bool,
    from: u64,
}

impl Costs {
    #[inline]
    fn begin(&mut self, cpu: u64) {
        (self.is_open, self.from) = (true, cpu);
    }

    #[inline]
    fn end(&mut self, cpu: u64) {
        if std::mem::take(&mut self.is_open) {
            self.cpu += cpu.saturating_sub(self.from);
        }
    }
}

pub struct Tracer {
    pub ini: Ini,
    redact: Redact,
    pub home: Option<Home>,
    writer: Option<Writer>,
    /// Why there is no file.
    pub why: Option<Why>,
    pub not_quiet: Option<&'static str>,
    clock: Clock,
    in_request: bool,

    on: bool,
    /// A defect was met. It stays so as long as the process lives, and in its children.
    is_broken: bool,
    entry: *const switch::Entry,
    settings: Settings,
    /// When the tool's beat is too old, as far as it was last read.
    deadline: u64,
    snapshot_of: u32,
    watch_generation: u32,

    open: Vec<Open>,
    over: u64,
    /// Callers above the first open call, from before tracing went on.
    base: u32,
    calls: u64,
    costs: Costs,
    fibers: HashMap<usize, (Vec<Open>, u32)>,
    watched: Vec<Watched>,
    /// Calls of generators that wait at a yield, by their frames.
    generators: HashMap<usize, u64>,
}

const NOTHING: Settings = Settings { flags: 0, session: 0, watch_generation: 0 };

impl Tracer {
    pub fn new(ini: Ini) -> Tracer {
        Tracer {
            redact: Redact::new(&ini.redact),
            ini,
            home: None,
            writer: None,
            why: None,
            not_quiet: None,
            clock: Clock::default(),
            in_request: false,
            on: false,
            is_broken: false,
            entry: std::ptr::null(),
            settings: NOTHING,
            deadline: 0,
            snapshot_of: 0,
            watch_generation: 0,
            open: Vec::new(),
            over: 0,
            base: 0,
            calls: 0,
            costs: Costs::default(),
            fibers: HashMap::new(),
            watched: Vec::new(),
            generators: HashMap::new(),
        }
    }

    /// What phpinfo() shows.
    pub fn state(&self) -> String {
        match (&self.home, &self.why) {
            (_, Some(why)) => format!("not traceable: {}", why.0),
            (None, None) => "no request yet".into(),
            (Some(home), None) => match &home.why {
                Some(why) => format!("activity only: {}", why.0),
                None if self.on => format!("on, session {}", self.settings.session),
                None => "ready, switched off".into(),
            },
        }
    }

    pub fn records(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::written)
    }

    fn begin_home(&mut self) {
        if FORKED.swap(false, Ordering::AcqRel) {
            self.forget();
        }
        match &mut self.home {
            Some(home) if home.switch.is_none() => {
                home.look_again(&self.ini.directory);
                if let Some(page) = &home.switch {
                    crate::fault::guard(1, page.region());
                }
            }
            Some(_) => {}
            None => {
                let flags = crate::home::interpreter_flags();
                match Home::open(&self.ini.directory, self.ini.slots, flags) {
                    Ok((home, writer)) => {
                        crate::fault::guard(0, home.region());
                        if let Some(page) = &home.switch {
                            crate::fault::guard(1, page.region());
                        }
                        self.home = Some(home);
                        // SAFETY: a field of the header, which is mapped.
                        owner::publish(unsafe {
                            &raw mut (*writer.base().cast::<FileHeader>()).state
                        });
                        self.writer = Some(writer);
                        self.why = None;
                        self.calls = 0;
                        if self.is_broken {
                            self.say_broken();
                        }
                    }
                    Err(why) => self.why = Some(why),
                }
            }
        }
        let page = self.home.as_ref().and_then(|home| home.switch.as_ref());
        self.entry = page.map_or(std::ptr::null(), |page| page.entry);
        if self.is_broken {
            self.entry = std::ptr::null();
        }
        if !self.entry.is_null() {
            SHARED.start(self.entry);
        }
    }

    /// In a child: nothing of the parent's is written to, and no file of its removed.
    fn forget(&mut self) {
        crate::fault::release(0);
        crate::fault::release(1);
        ON.store(false, Ordering::Relaxed);
        self.on = false;
        self.entry = std::ptr::null();
        self.writer = None;
        self.home = None;
        self.open.clear();
        self.fibers.clear();
        self.generators.clear();
        self.watched.clear();
        self.costs = Costs::default();
        self.snapshot_of = 0;
        self.watch_generation = 0;
        self.clock = Clock::default();
    }

    pub fn request_begins(&mut self) {
        self.begin_home();
        self.in_request = true;
        let now = self.clock.now();
        // SAFETY: the request's own texts, which live as long as it.
        let (script, uri) =
            unsafe { (php::c_bytes(php::nbg_script()), php::c_bytes(php::nbg_uri())) };
        let uri = uri.split(|byte| *byte == b'?').next().unwrap_or_default();
        if let Some(writer) = &mut self.writer {
            writer.busy(now, clock::unix(), script, uri);
        }
        self.open.clear();
        self.fibers.clear();
        self.generators.clear();
        (self.over, self.base) = (0, 0);
        SHARED.busy();
        self.review(now);
        if self.on
            && let Some(writer) = &mut self.writer
        {
            let mut slot = writer.begin(Kind::Request);
            slot.file(script);
            slot.values(uri);
            slot.commit(&numbers(now, php::memory() as i64));
        }
    }

    pub fn request_ends(&mut self) {
        if FORKED.load(Ordering::Acquire) {
            // A child that was too short to be noticed: it has no file, and needs none.
            self.forget();
        }
        SHARED.idle();
        let now = self.clock.now();
        if self.on {
            self.unwind(0, now);
            if let Some(writer) = &mut self.writer {
                let slot = writer.begin(Kind::RequestEnd);
                // SAFETY: reads a number of the memory manager.
                let peak = unsafe { php::zend_memory_peak_usage(false) };
                slot.commit(&numbers(now, peak as i64));
            }
            self.close_costs(now);
            self.review(now);
        }
        if let Some(writer) = &mut self.writer {
            writer.idle(now, clock::unix());
            owner::idle_was_written();
            writer.beat(now);
        }
        self.open.clear();
        self.fibers.clear();
        self.generators.clear();
        self.in_request = false;
        if !self.on {
            quiet::rest();
        }
    }

    /// The thread ends whose tracer this was. Another may go on with it, in the same file.
    #[cfg(php_zts)]
    pub fn thread_ends(&mut self) {
        SHARED.let_go();
        if FORKED.load(Ordering::Acquire) {
            return;
        }
        let now = self.clock.now();
        if self.on {
            self.turn_off(Tracing::Off, now);
        }
        if self.in_request
            && let Some(writer) = &mut self.writer
        {
            writer.unknown(now, clock::unix());
        }
        self.in_request = false;
        self.entry = std::ptr::null();
        // CPU time is a thread's own.
        self.clock = Clock::default();
    }

    /// The process ends.
    pub fn ends(&mut self) {
        if FORKED.load(Ordering::Acquire) {
            return;
        }
        if let Some(home) = &self.home
            && home.pid == std::process::id()
        {
            home.remove();
        }
    }

    /// The interpreter comes by, asked for by the waiting thread or by a fork.
    pub fn interrupted(&mut self) {
        if FORKED.load(Ordering::Acquire) {
            self.begin_home();
            let now = self.clock.now();
            // SAFETY: the request's own texts.
            let (script, uri) =
                unsafe { (php::c_bytes(php::nbg_script()), php::c_bytes(php::nbg_uri())) };
            let uri = uri.split(|byte| *byte == b'?').next().unwrap_or_default();
            if let Some(writer) = &mut self.writer {
                writer.busy(now, clock::unix(), script, uri);
            }
            SHARED.busy();
        }
        let now = self.clock.now();
        self.review(now);
        quiet::interrupt(self.on);
        let frame = php::current_frame();
        if let Some(writer) = &mut self.writer {
            writer.beat(now);
            // SAFETY: the frame that is being executed is valid, as is its function.
            unsafe {
                if !frame.is_null() && !(*frame).func.is_null() {
                    let (class, mut function) = names((*frame).func);
                    if function.is_empty() {
                        function = b"{main}";
                    }
                    writer.function(class, function);
                }
            }
        }
        self.snapshot_if_due(frame, now);
    }

    /// Looks at the switch. Everything that follows from it happens here.
    #[cold]
    fn review(&mut self, now: u64) {
        let (Some(home), false) = (&self.home, self.entry.is_null()) else { return };
        // SAFETY: mapped as long as `home` lives.
        let (switch, entry) = unsafe { (Switch::new(self.entry), &*self.entry) };
        match switch.look(home.start, now) {
            SwitchState::Off if self.on => self.turn_off(Tracing::OffSwitch, now),
            SwitchState::Stale if self.on => self.turn_off(Tracing::OffStale, now),
            SwitchState::Off | SwitchState::Stale => {}
            SwitchState::On(settings) => {
                let period = u64::from(entry.period_ms.load(Ordering::Relaxed)) * 1_000_000;
                self.deadline = entry.beat.load(Ordering::Acquire).saturating_add(period);
                let was_on = self.on;
                let new = !was_on || self.settings.session != settings.session;
                self.settings = settings;
                if new {
                    self.turn_on(now);
                }
                let records = settings.flags & switch::ON != 0;
                if self.on && (!was_on || records != (self.costs.since != 0)) {
                    self.begin_costs(now);
                }
                if self.on && self.watch_generation != settings.watch_generation {
                    self.watch_generation = settings.watch_generation;
                    self.read_watched();
                }
            }
        }
    }

    fn turn_on(&mut self, now: u64) {
        if std::mem::take(&mut self.ini.defect) {
            panic!("asked for by a test");
        }
        let Some(home) = &self.home else { return };
        if let Err(why) = home.allocate() {
            self.why = Some(why);
            return;
        }
        self.why = None;
        if !self.on {
            self.open.clear();
            self.over = 0;
            // SAFETY: the chain of frames is valid while the interpreter is at rest.
            self.base = unsafe { depth_of(php::current_frame()) };
        }
        self.on = true;
        quiet::wake();
        ON.store(true, Ordering::Relaxed);
        if let Some(writer) = &mut self.writer {
            writer.tracing(Tracing::On, self.settings.session);
            writer.beat(now);
        }
        self.notice(now, "tracing is on");
    }

    fn turn_off(&mut self, how: Tracing, now: u64) {
        let says = match how {
            Tracing::OffStale => {
                "tracing is off: the tool has not beaten for longer than its period"
            }
            Tracing::Off => "tracing is off: the thread that was traced has ended",
            _ => "tracing is off: it was switched off",
        };
        self.notice(now, says);
        self.close_costs(now);
        self.costs = Costs::default();
        ON.store(false, Ordering::Relaxed);
        self.on = false;
        self.open.clear();
        self.fibers.clear();
        self.generators.clear();
        self.watched.clear();
        self.watch_generation = 0;
        if let Some(writer) = &mut self.writer {
            writer.tracing(how, self.settings.session);
        }
    }

    /// Calls are recorded from now on, or no more: a switch may ask for a stack alone.
    #[cold]
    fn begin_costs(&mut self, now: u64) {
        let records = self.settings.flags & switch::ON != 0;
        self.costs = Costs { since: if records { now } else { 0 }, ..Costs::default() };
        // What is open already is a call as well.
        if records && self.base as usize + self.open.len() > 0 {
            let cpu = self.clock.cpu(now);
            self.costs.begin(cpu);
        }
        self.publish_costs(now);
    }

    /// No call is open any more, as far as will be known.
    fn close_costs(&mut self, now: u64) {
        if self.costs.since != 0 {
            let cpu = self.clock.cpu(now);
            self.costs.end(cpu);
            self.publish_costs(now);
        }
    }

    /// In the call path once in a while: a reader knows by the time how much is missing.
    #[cold]
    fn publish_costs(&mut self, now: u64) {
        let costs = &mut self.costs;
        costs.due = now + COUNT_STEP_NS;
        if costs.is_open {
            let cpu = self.clock.cpu(now);
            costs.end(cpu);
            costs.begin(cpu);
        }
        let (since, span) = (costs.since, now.saturating_sub(costs.since));
        // CPU time is reckoned between two readings: it may be ahead by as much.
        let count =
            Count { since, at: now, cpu: costs.cpu.min(span), memory: php::memory() as u64 };
        if let Some(writer) = &mut self.writer {
            writer.count(Some(&count).filter(|_| since != 0));
        }
    }

    /// After a defect of our own: nothing more is written, whatever the switch says.
    pub fn broken(&mut self) {
        ON.store(false, Ordering::Relaxed);
        self.on = false;
        self.is_broken = true;
        self.entry = std::ptr::null();
        self.say_broken();
    }

    fn say_broken(&mut self) {
        if let Some(writer) = &self.writer {
            writer.tracing(Tracing::Broken, self.settings.session);
        }
        self.why = Some(Why("a defect in the tracer; it stays off in this process".into()));
    }

    fn notice(&mut self, now: u64, text: &str) {
        if let Some(writer) = &mut self.writer {
            let mut slot = writer.begin(Kind::Notice);
            slot.values(text.as_bytes());
            slot.commit(&numbers(now, UNKNOWN_MEMORY));
        }
    }

    /// Whether calls are still to be recorded, by the switch and by the tool's beat.
    #[inline]
    fn goes_on(&mut self, now: u64) -> bool {
        if self.entry.is_null() {
            return false;
        }
        // SAFETY: mapped as long as it is not null here.
        let entry = unsafe { &*self.entry };
        if entry.flags.load(Ordering::Relaxed) != self.settings.flags
            || entry.session.load(Ordering::Relaxed) != self.settings.session
            || entry.watch_generation.load(Ordering::Relaxed) != self.watch_generation
            || now > self.deadline
        {
            self.review(now);
        }
        self.on
    }

    /// A call begins.
    ///
    /// # Safety
    /// `frame` is the frame that is about to be executed.
    #[inline]
    pub unsafe fn enter(&mut self, frame: *mut Frame) {
        let now = self.clock.now();
        if !self.goes_on(now) {
            return;
        }
        let flags = self.settings.flags;
        if flags & switch::SNAPSHOT != 0 {
            self.snapshot_if_due(frame, now);
        }
        if flags & switch::ON == 0 {
            return;
        }
        if !self.watched.is_empty() {
            self.look_at_watched(now);
        }
        let cpu = self.clock.cpu(now);
        let memory = php::memory();
        // SAFETY: the function is valid while its call begins.
        let resumed = unsafe {
            if (*(*frame).func).common.fn_flags & ffi::ZEND_ACC_GENERATOR != 0 {
                self.generators.remove(&(frame as usize)).filter(|_| !starts(frame))
            } else {
                None
            }
        };
        let call = resumed.unwrap_or_else(|| {
            self.calls += 1;
            self.calls
        });
        let depth = u64::from(self.base) + self.open.len() as u64 + self.over;
        let Some(writer) = &mut self.writer else { return };
        let mut slot = writer.begin(Kind::Enter);
        // SAFETY: the frame, its function and its callers are valid while the call begins.
        let line = unsafe {
            let function = (*frame).func;
            let caller = php::user_frame((*frame).prev_execute_data);
            describe(&mut slot, function, caller);
            if resumed.is_some() {
                slot.flags(RESUMED);
            } else if flags & switch::VALUES != 0 && php::nbg_arguments(frame) > 0 {
                render::parameters(&mut slot, frame, &self.redact);
            }
            if caller.is_null() { 0 } else { php::nbg_line(caller) }
        };
        slot.commit(&Numbers {
            depth: depth.min(u64::from(u16::MAX)) as u16,
            line,
            call,
            time: now,
            wall: UNKNOWN,
            cpu: UNKNOWN,
            memory: memory as i64,
        });
        if self.open.len() < OPEN_MAX {
            self.open.push(Open { frame, call, time: now, cpu, memory });
        } else {
            self.over += 1;
        }
        if !self.costs.is_open {
            self.costs.begin(cpu);
        }
        if now >= self.costs.due {
            self.publish_costs(now);
        }
    }

    /// A call ends; `returned` is null when it did not return.
    ///
    /// # Safety
    /// `frame` is the frame that was executed, `returned` null or its value.
    #[inline]
    pub unsafe fn leave(&mut self, frame: *mut Frame, returned: *mut ffi::zval) {
        if self.over > 0 {
            self.over -= 1;
            return;
        }
        let Some(at) = self.open.iter().rposition(|open| open.frame == frame) else { return };
        let now = self.clock.now();
        if at + 1 < self.open.len() {
            self.unwind(at + 1, now);
        }
        let Some(open) = self.open.pop() else { return };
        let cpu = self.clock.cpu(now);
        let depth = self.base as usize + self.open.len();
        let Some(writer) = &mut self.writer else { return };
        let mut slot = writer.begin(Kind::Leave);
        let values = self.settings.flags & switch::VALUES != 0;
        // SAFETY: the frame, its function and the value are valid while the call ends.
        unsafe {
            let function = (*frame).func;
            // Names are in the Enter: a Leave is one cache line where nothing is to be told.
            if (*function).common.function_name.is_null() {
                slot.flags(SCRIPT);
            } else if php::is_internal(function) {
                slot.flags(INTERNAL);
            }
            if returned.is_null() {
                thrown(&mut slot, &self.redact);
            } else {
                if u32::from((*returned).u1.v.type_) == ffi::IS_FALSE {
                    slot.flags(FAILED);
                }
                if values {
                    render::value(&mut slot, returned, &self.redact, 0);
                }
                if (*function).common.fn_flags & ffi::ZEND_ACC_GENERATOR != 0
                    && php::nbg_yields(frame, returned)
                {
                    slot.flags(RESUMED);
                    if self.generators.len() < GENERATORS_MAX {
                        self.generators.insert(frame as usize, open.call);
                    }
                }
            }
        }
        slot.commit(&Numbers {
            depth: depth.min(usize::from(u16::MAX)) as u16,
            line: 0,
            call: open.call,
            time: now,
            wall: now - open.time,
            cpu: cpu.saturating_sub(open.cpu),
            memory: php::memory() as i64 - open.memory as i64,
        });
        if depth == 0 {
            self.costs.end(cpu);
        }
        if now >= self.costs.due {
            self.publish_costs(now);
        }
    }

    /// Ends the open calls from the innermost down to `keep`: nobody else will.
    fn unwind(&mut self, keep: usize, now: u64) {
        let cpu = self.clock.cpu(now);
        while self.open.len() > keep {
            let Some(open) = self.open.pop() else { return };
            let depth = self.base as usize + self.open.len();
            let Some(writer) = &mut self.writer else { return };
            let mut slot = writer.begin(Kind::Leave);
            slot.flags(THROWN);
            slot.values(b"unwound");
            slot.commit(&Numbers {
                depth: depth.min(usize::from(u16::MAX)) as u16,
                line: 0,
                call: open.call,
                time: now,
                wall: now.saturating_sub(open.time),
                cpu: cpu.saturating_sub(open.cpu),
                memory: php::memory() as i64 - open.memory as i64,
            });
        }
    }

    /// The whole stack, once for each session that asks for it.
    fn snapshot_if_due(&mut self, from: *mut Frame, now: u64) {
        if !self.on
            || self.settings.flags & switch::SNAPSHOT == 0
            || self.snapshot_of == self.settings.session
            || from.is_null()
        {
            return;
        }
        self.snapshot_of = self.settings.session;
        self.calls += 1;
        let call = self.calls;
        let Some(writer) = &mut self.writer else { return };
        let (mut frame, mut depth) = (from, 0);
        // SAFETY: the chain of frames is valid while the interpreter is at rest or in a call.
        unsafe {
            while !frame.is_null() && depth < SNAPSHOT_MAX {
                let function = (*frame).func;
                if !function.is_null() {
                    let mut slot = writer.begin(Kind::Snapshot);
                    let (class, name) = names(function);
                    slot.class(class);
                    slot.function(name);
                    let mut line = 0;
                    if php::is_internal(function) {
                        slot.flags(INTERNAL);
                    } else {
                        slot.file(php::file(function));
                        // A frame that only begins has not come to its first line.
                        line = match php::nbg_line(frame) {
                            0 => (*function).op_array.line_start,
                            line => line,
                        };
                    }
                    if name.is_empty() {
                        slot.flags(SCRIPT);
                    }
                    slot.commit(&Numbers { depth, line, call, ..numbers(now, UNKNOWN_MEMORY) });
                    depth += 1;
                }
                frame = (*frame).prev_execute_data;
            }
        }
    }

    fn read_watched(&mut self) {
        let text = self.home.as_ref().map_or_else(Vec::new, Home::watch_file);
        self.watched = watch::all_of(&text);
    }

    #[cold]
    fn look_at_watched(&mut self, now: u64) {
        let Tracer { writer: Some(writer), watched, redact, .. } = self else { return };
        for watched in watched {
            if watched.has_changed(redact) {
                let mut slot = writer.begin(Kind::Watch);
                slot.function(&watched.name);
                slot.values(watched.value());
                slot.commit(&numbers(now, UNKNOWN_MEMORY));
            }
        }
    }

    /// A fiber takes the place of another.
    pub fn fiber_switched(&mut self, from: usize, to: usize) {
        if !self.on {
            return;
        }
        let (open, base) = self.fibers.remove(&to).unwrap_or_default();
        // A fiber's first call opens the next stretch; what it goes on with is open.
        let now = self.clock.now();
        let cpu = self.clock.cpu(now);
        self.costs.end(cpu);
        if base as usize + open.len() > 0 {
            self.costs.begin(cpu);
        }
        let left = std::mem::replace(&mut self.open, open);
        let left_base = std::mem::replace(&mut self.base, base);
        if self.fibers.len() < FIBERS_MAX {
            self.fibers.insert(from, (left, left_base));
        }
    }

    pub fn fiber_destroyed(&mut self, fiber: usize) {
        if let Some((open, _)) = self.fibers.remove(&fiber)
            && !open.is_empty()
            && self.on
        {
            let now = self.clock.now();
            let own = std::mem::replace(&mut self.open, open);
            self.unwind(0, now);
            self.open = own;
        }
    }

    pub fn wants_internal(&self) -> bool {
        self.on && self.settings.flags & switch::INTERNAL != 0
    }
}

fn numbers(time: u64, memory: i64) -> Numbers {
    let Record { depth, line, call, wall, cpu, .. } = Record::new(Kind::Notice);
    Numbers { depth, line, call, time, wall, cpu, memory }
}

/// Class and name, without what anonymous classes have behind theirs.
///
/// # Safety
/// `function` is valid and outlives what is returned.
#[inline]
unsafe fn names<'t>(function: *const Function) -> (&'t [u8], &'t [u8]) {
    // SAFETY: as promised.
    unsafe {
        let (class, name) = php::names(function);
        let scope = (*function).common.scope;
        if !scope.is_null() && (*scope).ce_flags & ffi::ZEND_ACC_ANON_CLASS != 0 {
            let end = class.iter().position(|byte| *byte == 0).unwrap_or(class.len());
            return (&class[..end], name);
        }
        (class, name)
    }
}

/// Who is called, and from which file.
///
/// # Safety
/// `function` is valid; `caller` is null or a valid frame of PHP code.
#[inline]
unsafe fn describe(slot: &mut Slot<'_>, function: *mut Function, caller: *mut Frame) {
    // SAFETY: as promised.
    unsafe {
        let (class, name) = names(function);
        if name.is_empty() {
            slot.flags(SCRIPT);
            let kind = if caller.is_null() { 0 } else { php::nbg_include_kind(caller) };
            slot.function(match kind {
                1 => b"include",
                2 => b"include_once",
                3 => b"require",
                4 => b"require_once",
                5 => b"eval",
                _ => b"{main}",
            });
            slot.file(php::file(function));
            return;
        }
        slot.class(class);
        slot.function(name);
        if php::is_internal(function) {
            slot.flags(INTERNAL);
        }
        if !caller.is_null() {
            slot.file(php::file((*caller).func));
        }
    }
}

/// What was thrown: class and message.
///
/// # Safety
/// A call ends without a value.
unsafe fn thrown(slot: &mut Slot<'_>, redact: &Redact) {
    // SAFETY: the exception is valid while it flies; its message is read where it lies.
    unsafe {
        let mut exception = std::ptr::null_mut();
        slot.flags(THROWN);
        match php::nbg_thrown(&raw mut exception) {
            1 => {
                let class = (*exception).ce;
                if !class.is_null() {
                    slot.values(php::bytes((*class).name));
                }
                slot.values(b": ");
                render::value(slot, php::nbg_message(exception), redact, 0);
            }
            2 => drop(slot.write_str("exit")),
            _ => drop(slot.write_str("unwound")),
        }
    }
}

/// Whether a generator's frame stands at its beginning.
///
/// # Safety
/// `frame` is a valid frame of a generator.
unsafe fn starts(frame: *mut Frame) -> bool {
    const GENERATOR_CREATE: u8 = 139;
    // SAFETY: a frame of PHP code stands at one of its function's opcodes.
    unsafe {
        let (opcode, first) = ((*frame).opline, (*(*frame).func).op_array.opcodes.cast_const());
        opcode == first || opcode > first && (*opcode.sub(1)).opcode == GENERATOR_CREATE
    }
}

/// Frames above, bounded.
///
/// # Safety
/// `frame` is null or a valid frame.
unsafe fn depth_of(mut frame: *mut Frame) -> u32 {
    let mut depth = 0;
    // SAFETY: the chain is valid, and ends.
    unsafe {
        while !frame.is_null() && depth < u32::from(u16::MAX) {
            if !(*frame).func.is_null() {
                depth += 1;
            }
            frame = (*frame).prev_execute_data;
        }
    }
    depth
}
