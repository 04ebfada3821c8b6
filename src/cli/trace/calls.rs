//! Records made into calls: which end belongs to which beginning, how much of a call's time was
//! its own, and the summary by function. Whatever the records say, memory is bounded.

use std::collections::HashMap;

use trace_layout::record::{FAILED, INTERNAL, RESUMED, SCRIPT, THROWN};
use trace_layout::{Kind, Record, UNKNOWN, UNKNOWN_MEMORY};

use crate::cli::out;
use crate::units::Bytes;

/// Calls that are open at a time: deeper recursion is shown, and not paired.
const OPEN_MAX: usize = 65_536;
/// How far an end looks for its beginning among calls that never ended: generators and fibers
/// leave in another order, and records are lost.
const LOOK_BACK: usize = 64;
/// Functions of a summary. Code that makes functions while it runs has no end of them.
const FUNCTIONS_MAX: usize = 10_000;

/// A call that has begun.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Call {
    pub number: u64,
    pub depth: u16,
    pub flags: u8,
    pub line: u32,
    pub time: u64,
    pub memory: Option<i64>,
    pub name: String,
    pub values: String,
    pub file: String,
    /// Time of the calls that it made.
    inner: u64,
}

/// A call that has ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ended {
    /// Its beginning, if that was seen.
    pub call: Option<Call>,
    pub number: u64,
    pub depth: u16,
    pub flags: u8,
    pub time: u64,
    pub name: String,
    /// What it returned or threw.
    pub values: String,
    pub wall: Option<u64>,
    pub own: Option<u64>,
    pub cpu: Option<u64>,
    pub memory: Option<i64>,
}

impl Ended {
    pub fn has_failed(&self) -> bool {
        self.flags & (FAILED | THROWN) != 0
    }

    pub fn is_slower(&self, than: u64) -> bool {
        self.wall.is_some_and(|wall| wall >= than)
    }
}

/// What a record means.
#[derive(Debug)]
pub enum Event<'c> {
    Began(&'c Call),
    Ended(Box<Ended>),
    Other,
}

/// The calls of one process.
#[derive(Debug, Default)]
pub struct Calls {
    open: Vec<Call>,
    /// The request that is served: when it began, and what it is called.
    request: Option<(u64, String)>,
}

impl Calls {
    pub fn take(&mut self, record: &Record<'_>) -> Event<'_> {
        match record.kind {
            Kind::Enter => Event::Began(self.enter(record)),
            Kind::Leave => Event::Ended(Box::new(self.leave(record))),
            Kind::RequestEnd => Event::Ended(Box::new(self.request_end(record))),
            Kind::Request => {
                // Whatever was open belongs to an earlier one.
                self.open.clear();
                let name = if record.values.is_empty() { record.file } else { record.values };
                self.request = Some((record.time, text(name)));
                Event::Other
            }
            _ => Event::Other,
        }
    }

    fn enter(&mut self, record: &Record<'_>) -> &Call {
        // Those as deep as this one have ended; their ends were lost.
        while record.depth < u16::MAX
            && self.open.last().is_some_and(|last| last.depth >= record.depth)
        {
            self.open.pop();
        }
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.push(Call {
            number: record.call,
            depth: record.depth,
            flags: record.flags,
            line: record.line,
            time: record.time,
            memory: memory(record.memory),
            name: name(record),
            values: text(record.values),
            file: text(record.file),
            inner: 0,
        });
        self.open.last().expect("it was pushed just now")
    }

    fn leave(&mut self, record: &Record<'_>) -> Ended {
        let from = self.open.len().saturating_sub(LOOK_BACK);
        let found = self.open[from..].iter().rposition(|call| call.number == record.call);
        let call = found.filter(|_| record.call != 0).map(|at| {
            self.open.truncate(from + at + 1);
            self.open.pop().expect("it was found")
        });
        let wall = known(record.wall).or_else(|| {
            let begin = call.as_ref()?.time;
            record.time.checked_sub(begin)
        });
        if let (Some(parent), Some(wall)) = (self.open.last_mut(), wall) {
            parent.inner = parent.inner.saturating_add(wall);
        }
        let named = !record.function.is_empty() || !record.class.is_empty();
        Ended {
            number: record.call,
            depth: record.depth,
            flags: record.flags | call.as_ref().map_or(0, |call| call.flags & (SCRIPT | INTERNAL)),
            time: record.time,
            name: match &call {
                Some(call) if !named => call.name.clone(),
                _ => name(record),
            },
            values: text(record.values),
            wall,
            own: wall.zip(call.as_ref()).map(|(wall, call)| wall.saturating_sub(call.inner)),
            cpu: known(record.cpu),
            memory: memory(record.memory),
            call,
        }
    }

    fn request_end(&mut self, record: &Record<'_>) -> Ended {
        self.open.clear();
        let (begun, name) = self.request.take().unzip();
        let named = [record.values, record.file].into_iter().find(|text| !text.is_empty());
        Ended {
            flags: record.flags,
            time: record.time,
            name: named.map(text).or(name).unwrap_or_default(),
            wall: known(record.wall).or_else(|| record.time.checked_sub(begun?)),
            cpu: known(record.cpu),
            memory: memory(record.memory),
            ..Ended::default()
        }
    }

    /// Whether a function of this name is open: its time is counted there already.
    fn is_open(&self, name: &str) -> bool {
        // A deep recursion is open near its end, too.
        self.open.iter().rev().take(LOOK_BACK).any(|call| call.name == name)
    }
}

fn known(figure: u64) -> Option<u64> {
    (figure != UNKNOWN).then_some(figure)
}

fn memory(figure: i64) -> Option<i64> {
    (figure != UNKNOWN_MEMORY).then_some(figure)
}

/// As it was, with what is no text replaced: to be made safe when it is shown.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `Class::method`, `function`.
pub fn name(record: &Record<'_>) -> String {
    match (record.class, record.function) {
        ([], []) => "?".to_owned(),
        ([], function) => text(function),
        (class, function) => format!("{}::{}", text(class), text(function)),
    }
}

/// What a function cost, over all processes.
#[derive(Clone, Copy, Default, Debug)]
struct Cost {
    calls: u64,
    failed: u64,
    total: u64,
    own: u64,
    cpu: u64,
    memory: i64,
}

/// A summary by function.
#[derive(Debug, Default)]
pub struct Summary {
    functions: HashMap<String, Cost>,
    /// Calls of functions beyond the bound.
    others: Cost,
}

impl Summary {
    pub fn add(&mut self, ended: &Ended, calls: &Calls) {
        let room = self.functions.len() < FUNCTIONS_MAX || self.functions.contains_key(&ended.name);
        let cost = if room {
            self.functions.entry(ended.name.clone()).or_default()
        } else {
            &mut self.others
        };
        cost.calls += u64::from(ended.flags & RESUMED == 0);
        cost.failed += u64::from(ended.has_failed());
        cost.own = cost.own.saturating_add(ended.own.unwrap_or(0));
        if !calls.is_open(&ended.name) {
            cost.total = cost.total.saturating_add(ended.wall.unwrap_or(0));
            cost.cpu = cost.cpu.saturating_add(ended.cpu.unwrap_or(0));
            cost.memory = cost.memory.saturating_add(ended.memory.unwrap_or(0));
        }
    }

    /// The most expensive first.
    fn sorted(&self) -> Vec<(&str, Cost)> {
        let mut rows: Vec<(&str, Cost)> =
            self.functions.iter().map(|(name, cost)| (name.as_str(), *cost)).collect();
        rows.sort_by(|(a_name, a), (b_name, b)| {
            b.own.cmp(&a.own).then(b.calls.cmp(&a.calls)).then(a_name.cmp(b_name))
        });
        if self.others.calls > 0 {
            rows.push(("(others)", self.others));
        }
        rows
    }

    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .sorted()
            .into_iter()
            .map(|(name, cost)| {
                vec![
                    out::safe(name, out::CELL_MAX),
                    cost.calls.to_string(),
                    cost.failed.to_string(),
                    nanos(cost.total),
                    nanos(cost.own),
                    nanos(cost.cpu),
                    signed(cost.memory),
                ]
            })
            .collect();
        let headings = ["FUNCTION", ">CALLS", ">FAILED", ">TOTAL", ">SELF", ">CPU", ">MEMORY"];
        out::table(&headings, &rows)
    }

    pub fn json(&self) -> serde_json::Value {
        let rows: Vec<serde_json::Value> = self
            .sorted()
            .into_iter()
            .map(|(name, cost)| {
                serde_json::json!({
                    "function": name,
                    "calls": cost.calls,
                    "failed": cost.failed,
                    "total_ns": cost.total,
                    "self_ns": cost.own,
                    "cpu_ns": cost.cpu,
                    "memory": cost.memory,
                })
            })
            .collect();
        serde_json::Value::Array(rows)
    }
}

/// `830 ns`, `1.2 ms`.
pub fn nanos(ns: u64) -> String {
    if ns < 1000 { format!("{ns} ns") } else { out::micros(ns / 1000) }
}

/// `+1.5 KiB`, `-32 B`, `0 B`.
pub fn signed(bytes: i64) -> String {
    let sign = match bytes {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", Bytes(bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(call: u64, depth: u16, function: &'static str) -> Record<'static> {
        Record {
            call,
            depth,
            function: function.as_bytes(),
            time: call * 1000,
            ..Record::new(Kind::Enter)
        }
    }

    fn leave(call: u64, depth: u16, wall: u64) -> Record<'static> {
        Record { call, depth, wall, ..Record::new(Kind::Leave) }
    }

    fn ended(calls: &mut Calls, record: &Record<'_>) -> Ended {
        match calls.take(record) {
            Event::Ended(ended) => *ended,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_calls_own_time_is_what_its_calls_did_not_take() {
        let mut calls = Calls::default();
        let mut summary = Summary::default();
        let records = [
            enter(1, 0, "run"),
            enter(2, 1, "say"),
            leave(2, 1, 300),
            enter(3, 1, "say"),
            leave(3, 1, 200),
            leave(1, 0, 1100),
        ];
        let mut own = Vec::new();
        for record in &records {
            if let Event::Ended(ended) = calls.take(record) {
                own.push((ended.name.clone(), ended.wall, ended.own));
                summary.add(&ended, &calls);
            }
        }
        let say = |ns| ("say".to_owned(), Some(ns), Some(ns));
        assert_eq!(own, [say(300), say(200), ("run".to_owned(), Some(1100), Some(600))]);
        let rows = summary.sorted();
        assert_eq!((rows[0].0, rows[0].1.calls, rows[0].1.own), ("run", 1, 600));
        assert_eq!((rows[1].0, rows[1].1.calls, rows[1].1.total), ("say", 2, 500));
    }

    #[test]
    fn a_request_takes_from_its_beginning_to_its_end_whoever_measured() {
        let mut calls = Calls::default();
        let begin = Record { time: 5, values: b"/shop", ..Record::new(Kind::Request) };
        assert!(matches!(calls.take(&begin), Event::Other));
        let end = Record { time: 12, ..Record::new(Kind::RequestEnd) };
        let request = ended(&mut calls, &end);
        assert_eq!((request.name.as_str(), request.wall), ("/shop", Some(7)));
        let measured = Record { wall: 3, file: b"/a.php", ..end };
        let request = ended(&mut calls, &measured);
        assert_eq!((request.name.as_str(), request.wall), ("/a.php", Some(3)));
        assert_eq!(ended(&mut calls, &end).wall, None);
    }

    #[test]
    fn recursion_counts_its_total_once() {
        let mut calls = Calls::default();
        let mut summary = Summary::default();
        for record in [enter(1, 0, "f"), enter(2, 1, "f"), leave(2, 1, 60), leave(1, 0, 100)] {
            if let Event::Ended(ended) = calls.take(&record) {
                summary.add(&ended, &calls);
            }
        }
        let rows = summary.sorted();
        assert_eq!((rows[0].1.calls, rows[0].1.total, rows[0].1.own), (2, 100, 100));
    }

    #[test]
    fn lost_records_leave_no_call_open_for_ever_and_pair_nobody_wrongly() {
        let mut calls = Calls::default();
        calls.take(&enter(1, 0, "a"));
        calls.take(&enter(2, 1, "lost its end"));
        calls.take(&enter(3, 1, "b"));
        assert_eq!(calls.open.len(), 2);
        assert_eq!(ended(&mut calls, &leave(99, 1, 5)).call, None);
        assert_eq!(ended(&mut calls, &leave(3, 1, 5)).name, "b");
        let last = ended(&mut calls, &Record { time: 9000, ..leave(1, 0, UNKNOWN) });
        assert_eq!((last.name.as_str(), last.wall), ("a", Some(8000)));
        assert!(calls.open.is_empty());
    }

    #[test]
    fn whatever_the_depths_say_memory_is_bounded() {
        let mut calls = Calls::default();
        for n in 1..=200_000 {
            calls.take(&enter(n, u16::MAX, "deep"));
        }
        assert!(calls.open.len() <= OPEN_MAX);
        for n in 0..1000 {
            calls.take(&leave(n, (n % 7) as u16, n));
        }
        let mut summary = Summary::default();
        for n in 0..FUNCTIONS_MAX + 5 {
            let ended = Ended { name: format!("f{n}"), ..Ended::default() };
            summary.add(&ended, &Calls::default());
        }
        assert_eq!((summary.functions.len(), summary.others.calls), (FUNCTIONS_MAX, 5));
    }

    #[test]
    fn figures_are_said_as_people_say_them() {
        assert_eq!([nanos(0), nanos(999), nanos(1_250_000)], ["0 ns", "999 ns", "1.2 ms"]);
        assert_eq!([signed(0), signed(-5), signed(1536)], ["0 B", "-5 B", "+1.5 KiB"]);
        assert!(signed(i64::MIN).starts_with('-'));
    }
}
