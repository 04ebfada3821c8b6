//! A stack for people: the version, `process id=`, `script_filename=`, then one call a line,
//! innermost first.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::out::{LINE_MAX, safe};
use crate::report::stack::{Interpreter, Stack, State, TEXT_MAX, Thread};

pub fn tell(stack: &Stack, out: &mut dyn Write) -> io::Result<()> {
    let runtime = match stack.runtime {
        Interpreter::Php => "PHP",
        Interpreter::Python => "Python",
    };
    let version = safe(&stack.version, TEXT_MAX);
    writeln!(out, "nbguard {}, {runtime} {version}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "process id={}", stack.pid)?;
    if let Some(script) = &stack.script {
        writeln!(out, "script_filename={}", safe(script, TEXT_MAX))?;
    }
    if let Some(uri) = &stack.request_uri {
        writeln!(out, "request_uri={}", safe(uri, TEXT_MAX))?;
    }
    if let Some(cell) = stack.cell {
        writeln!(out, "cell={cell}")?;
    }
    for watched in &stack.watched {
        let value = match &watched.value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        writeln!(out, "{}={}", safe(&watched.name, TEXT_MAX), safe(&value, TEXT_MAX))?;
    }
    match stack.state {
        State::Busy => {}
        State::Idle => writeln!(out, "state=idle")?,
        State::Unknown => writeln!(out, "state=unknown")?,
    }
    for thread in &stack.threads {
        calls(stack, thread, out)?;
    }
    if let Some(note) = &stack.note {
        writeln!(out, "note: {}", safe(note, LINE_MAX))?;
    }
    writeln!(out)
}

fn calls(stack: &Stack, thread: &Thread, out: &mut dyn Write) -> io::Result<()> {
    if stack.threads.len() > 1 {
        let name = thread.name.as_deref().unwrap_or("thread");
        writeln!(out, "{} {}:", safe(name, TEXT_MAX), thread.id)?;
    }
    for (index, frame) in thread.frames.iter().enumerate() {
        if !frame.address.is_empty() {
            write!(out, "[{}] ", safe(&frame.address, TEXT_MAX))?;
        }
        write!(out, "{}", safe(&frame.function, TEXT_MAX))?;
        if let Some(file) = &frame.file {
            write!(out, " {}", safe(file, TEXT_MAX))?;
        }
        if let Some(line) = frame.line {
            write!(out, ":{line}")?;
        }
        // Where the innermost code stands, if that is not where it was called.
        if let (0, Some(at)) = (index, &thread.at)
            && (frame.file.as_ref(), frame.line) != (Some(&at.file), Some(at.line))
        {
            write!(out, ", now at {}:{}", safe(&at.file, TEXT_MAX), at.line)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
