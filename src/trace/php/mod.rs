//! The calls of a PHP process, from outside: nothing is loaded into it, it is not stopped, and it
//! never notices. `find` says where PHP keeps its globals in it, `walk` follows them, `watch`
//! reads single variables, all through [`crate::trace::remote`]. Only `nbguard` looks so; the daemon asks it.

pub mod find;
pub mod layout;
#[cfg(test)]
mod tests;
pub mod walk;
pub mod watch;

use serde_json::Value;
use trace_layout::watch::Line;

use crate::trace::remote::{Pages, ProcessMemory, Trouble};
use find::{Found, Mapped, Missing};
use walk::{Globals, Sample};
use watch::Watch;

/// What is watched, as lines of a process's `.watch` file: where its globals lie is found from
/// outside, what is there the tracer reads itself. Empty where nothing is.
///
/// # Errors
/// Why a global cannot be found. Variables of the script need none.
pub fn lines_for_tracer(pid: u32, watches: &[Watch]) -> Result<String, Missing> {
    let names: Vec<&str> = watches.iter().filter_map(Watch::global).collect();
    let mut places = Vec::new();
    if !names.is_empty() {
        let found = find::find(&Mapped::of(pid)?, &ProcessMemory::of(pid), &names)?;
        places = found.others;
    }
    let mut places = places.into_iter();
    let mut lines = String::new();
    for watch in watches {
        let line = match watch {
            Watch::Known(known) => return Err(Missing::NoGlobal(format!("{known:?}"))),
            Watch::Variable(name) => Line::Variable(name).to_string(),
            Watch::Field { name, global, offset, kind } => {
                let place = places.next().flatten();
                let place = place.ok_or_else(|| Missing::NoGlobal(global.clone()))?;
                Line::Field { name, address: place.wrapping_add(*offset), kind: *kind }.to_string()
            }
        };
        lines += &line;
        lines.push('\n');
    }
    Ok(lines)
}

/// A PHP process that can be looked into.
pub struct Php {
    memory: ProcessMemory,
    version: String,
    globals: Globals,
    watches: Vec<(Watch, Option<u64>)>,
}

impl Php {
    /// # Errors
    /// Why it cannot be looked into.
    pub fn of(pid: u32, mapped: &Mapped, watches: &[Watch]) -> Result<Php, Missing> {
        let memory = ProcessMemory::of(pid);
        let names: Vec<&str> = watches.iter().filter_map(Watch::global).collect();
        let Found { version, layout, executor, sapi, others } =
            find::find(mapped, &memory, &names)?;
        let mut others = others.into_iter();
        let place = |watch: &Watch| watch.global().and_then(|_| others.next().flatten());
        let places: Vec<Option<u64>> = watches.iter().map(place).collect();
        let watches = watches.iter().cloned().zip(places).collect();
        Ok(Php { memory, version, globals: Globals { layout, executor, sapi }, watches })
    }

    /// `8.2.36`
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A global that is watched and that this PHP does not have.
    pub fn unknown_global(&self) -> Option<&str> {
        let unknown =
            self.watches.iter().find(|(watch, place)| place.is_none() && watch.global().is_some());
        unknown.and_then(|(watch, _)| watch.global())
    }

    /// For as many looks as wanted.
    pub fn pages(&self) -> Pages<'_, ProcessMemory> {
        Pages::new(&self.memory)
    }

    /// One look, and the watched values of the same moment.
    ///
    /// # Errors
    /// The process is gone, or has another program now.
    pub fn look(
        &self,
        pages: &mut Pages<'_, ProcessMemory>,
    ) -> Result<(Sample, Vec<(String, Value)>), Trouble> {
        let sample = walk::sample(pages, &self.globals)?;
        let watched = self.watches.iter().map(|(watch, place)| {
            (watch.name(), watch::read(watch, pages, &self.globals, &sample, *place))
        });
        let watched = watched.collect();
        Ok((sample, watched))
    }
}
