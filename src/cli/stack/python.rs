//! `nbguard stack` of a Python process, through py-spy: it reads memory as we do, and is told not
//! to stop the process. What it reads changes meanwhile, so that one attempt may fail and the
//! next not.

use std::time::Instant;

use nix::sys::resource::{Resource, setrlimit};
use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy, StackTrace};

use crate::cli::exit::Failure;
use crate::cli::stack::kernel::{self, Doing};
use crate::cli::stack::{Answers, Asked, Process, repeat};
use crate::report::stack::{
    FRAMES_MAX, Frame, Interpreter, SCHEMA, Stack, State, THREADS_MAX, Thread, bounded,
};
use crate::trace::cpython::{self, Input, Shape};
use crate::trace::php::find::{Mapped, Missing};
use crate::trace::remote::{Pages, ProcessMemory};

/// Of an interpreter that changes while it is read.
const TRIES: u32 = 5;
/// A process may say that it has lists and tables of any length. With this much address space
/// the tool ends instead of taking the host's memory.
const ADDRESSES_MAX: u64 = 2 << 30;

pub fn look(
    asked: &Asked,
    process: &Process,
    mapped: &Mapped,
    answers: &Answers,
    began: Instant,
) -> Result<(), Failure> {
    let _ = setrlimit(Resource::RLIMIT_AS, ADDRESSES_MAX, ADDRESSES_MAX);
    let config = Config {
        blocking: LockingStrategy::NonBlocking,
        full_filenames: true,
        ..Config::default()
    };
    let pid = asked.pid.cast_signed();
    let mut spy = PythonSpy::new(pid, &config)
        .map_err(|error| failure(process, mapped, &format!("{error:#}")))?;
    let version = spy.version.to_string();
    let memory = ProcessMemory::of(asked.pid);
    let inner_pid = process.inner_pid();
    let shape = Shape::of(spy.version.major, spy.version.minor);
    repeat(asked, answers, began, || {
        let traces =
            traces(&mut spy, inner_pid).map_err(|error| failure(process, mapped, &error))?;
        let mut pages = Pages::new(&memory);
        let main = main_of(&traces, inner_pid);
        let (state, cell) = state(&mut pages, shape, &traces, main);
        if process.has_ended() {
            return Err(process.failure(&Missing::Gone));
        }
        if mapped.is_replaced() {
            return Err(process.replaced());
        }
        Ok(Stack {
            schema: SCHEMA,
            pid: process.pid,
            start: process.start,
            runtime: Interpreter::Python,
            version: version.clone(),
            script: None,
            request_uri: None,
            memory: None,
            state,
            cell,
            note: note(&traces, main),
            threads: threads(traces, main),
            watched: Vec::new(),
            took_us: 0,
        })
    })
}

/// All threads; of a kernel with the addresses of local variables, since the result of its
/// cell and its module `__main__` are among them.
fn traces(spy: &mut PythonSpy, inner_pid: u32) -> Result<Vec<StackTrace>, String> {
    let is_torn = |traces: &[StackTrace]| {
        main_of(traces, inner_pid).is_some_and(|main| kernel::seems_torn(&traces[main].frames))
    };
    let mut tries = 0;
    loop {
        let traces = spy.get_stack_traces();
        tries += 1;
        match traces {
            Ok(traces) if spy.config.dump_locals == 0 && traces.iter().any(is_of_a_kernel) => {
                spy.config.dump_locals = 1;
                tries = 0;
            }
            Ok(traces) if tries < TRIES && is_torn(&traces) => {}
            Ok(traces) => return Ok(traces),
            Err(error) if tries >= TRIES => return Err(format!("{error:#}")),
            Err(_) => {}
        }
    }
}

fn is_of_a_kernel(trace: &StackTrace) -> bool {
    kernel::doing(&trace.frames) != Doing::NoKernel
}

/// The thread that runs what the process is there for. Before 3.11 its number is not told, and
/// its name only where somebody has imported `threading`; but the list has the latest first.
fn main_of(traces: &[StackTrace], inner_pid: u32) -> Option<usize> {
    let is_main = |trace: &StackTrace| {
        trace.os_thread_id == Some(u64::from(inner_pid))
            || trace.thread_name.as_deref() == Some("MainThread")
    };
    traces.iter().position(is_main).or(traces.len().checked_sub(1))
}

/// What a kernel does, and in which cell. Anything but a kernel may be at work in any frame.
fn state(
    pages: &mut Pages<'_, ProcessMemory>,
    shape: Option<Shape>,
    traces: &[StackTrace],
    main: Option<usize>,
) -> (State, Option<u64>) {
    let Some(main) = main.map(|main| &traces[main]) else { return (State::Unknown, None) };
    let local = |names: &[&str], frame: &py_spy::Frame| {
        let locals = frame.locals.iter().flatten();
        let mut named = locals.filter(|local| names.contains(&local.name.as_str()));
        named.next().map(|local| local.addr as u64)
    };
    match kernel::doing(&main.frames) {
        Doing::NoKernel | Doing::Else => (State::Unknown, None),
        Doing::Cell => {
            let in_name = main.frames.iter().find_map(kernel::number_in_name);
            let mut shells = main.frames.iter().filter(|frame| kernel::is_shell(frame));
            let result = shells.find_map(|frame| local(&["result"], frame));
            let counted = shape.zip(result).and_then(|(shape, result)| {
                cpython::execution_count(pages, shape, result).ok().flatten()
            });
            (State::Busy, in_name.or(counted))
        }
        Doing::Waits => {
            let globals = ["main_globals", "run_globals"];
            let globals = main.frames.iter().find_map(|frame| local(&globals, frame));
            let input = shape
                .zip(globals)
                .and_then(|(shape, globals)| cpython::input(pages, shape, globals).ok().flatten());
            // A cell may have left a thread that still works.
            let works = traces.iter().any(|trace| trace.frames.iter().any(kernel::is_of_a_cell));
            match input {
                Some(Input::Method) => (State::Busy, None),
                Some(Input::Builtin) if !works => (State::Idle, None),
                _ => (State::Unknown, None),
            }
        }
    }
}

/// Frames of a thread that is not the main one.
const OTHERS_MAX: usize = 32;

fn note(traces: &[StackTrace], main: Option<usize>) -> Option<String> {
    let left_out = traces.len() > THREADS_MAX
        || traces.iter().enumerate().any(|(i, trace)| trace.frames.len() > most(Some(i) == main));
    let text = || {
        format!(
            "more than {THREADS_MAX} threads, {FRAMES_MAX} frames of the main one or {OTHERS_MAX} of another: the rest is left out"
        )
    };
    left_out.then(text)
}

fn most(is_main: bool) -> usize {
    if is_main { FRAMES_MAX } else { OTHERS_MAX }
}

/// The main one first.
fn threads(mut traces: Vec<StackTrace>, main: Option<usize>) -> Vec<Thread> {
    if let Some(main) = main {
        let trace = traces.remove(main);
        traces.insert(0, trace);
    }
    let thread = |(index, trace): (usize, StackTrace)| {
        let is_main = main.is_some() && index == 0;
        Thread {
            id: trace.os_thread_id.unwrap_or(0),
            main: is_main,
            name: trace.thread_name.map(bounded),
            frames: trace.frames.into_iter().take(most(is_main)).map(frame).collect(),
            at: None,
        }
    };
    traces.into_iter().take(THREADS_MAX).enumerate().map(thread).collect()
}

fn frame(frame: py_spy::Frame) -> Frame {
    Frame {
        function: bounded(frame.name),
        file: Some(bounded(frame.filename)),
        // Zero where it could not be read.
        line: u32::try_from(frame.line).ok().filter(|line| *line > 0),
        address: String::new(),
    }
}

fn failure(process: &Process, mapped: &Mapped, error: &str) -> Failure {
    if process.has_ended() {
        process.failure(&Missing::Gone)
    } else if mapped.is_replaced() || mapped.has_moved() {
        process.replaced()
    } else if error.contains("Operation not permitted") || error.contains("Permission denied") {
        process.failure(&Missing::Denied("its memory"))
    } else {
        Failure::wrong(format!("{}: this Python cannot be read: {error}", process.pid))
    }
}
