//! `nbguard stack` of a PHP process.

use std::time::Instant;

use crate::cli::exit::Failure;
use crate::cli::stack::{Answers, Asked, Process, repeat};
use crate::report::stack::{Interpreter, SCHEMA, Stack, Thread, Watched};
use crate::trace::php::Php;
use crate::trace::php::find::{Mapped, Missing};
use crate::trace::remote::Trouble;

pub fn look(
    asked: &Asked,
    process: &Process,
    mapped: &Mapped,
    answers: &Answers,
    began: Instant,
) -> Result<(), Failure> {
    let php = Php::of(asked.pid, mapped, &asked.watches);
    let php = php.map_err(|missing| process.failure(&missing))?;
    if let Some(global) = php.unknown_global() {
        return Err(Failure::wrong(format!("{}: this PHP has no global `{global}`", asked.pid)));
    }
    let mut pages = php.pages();
    repeat(asked, answers, began, || {
        let (sample, watched) =
            php.look(&mut pages).map_err(|trouble| failure(process, mapped, trouble))?;
        // What was read of a process that has ended meanwhile may be another's.
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
            runtime: Interpreter::Php,
            version: php.version().to_owned(),
            script: sample.script,
            request_uri: sample.request_uri,
            memory: sample.memory,
            state: sample.state,
            cell: None,
            threads: vec![Thread {
                id: u64::from(process.pid),
                name: None,
                main: true,
                frames: sample.frames,
                at: sample.at,
            }],
            watched: watched.into_iter().map(|(name, value)| Watched { name, value }).collect(),
            took_us: 0,
            note: sample.note,
        })
    })
}

fn failure(process: &Process, mapped: &Mapped, trouble: Trouble) -> Failure {
    match trouble {
        _ if process.has_ended() => process.failure(&Missing::Gone),
        _ if mapped.is_replaced() || mapped.has_moved() => process.replaced(),
        Trouble::Denied => process.failure(&Missing::Denied("its memory")),
        trouble => Failure::wrong(format!("{}: {trouble}", process.pid)),
    }
}
