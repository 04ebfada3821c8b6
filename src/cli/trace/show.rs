//! How a trace is shown: a tree with one line a call where nothing happens inside it, JSON lines,
//! or a summary. The same from a process and from a file. Text of a process is made safe here.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use trace_layout::record::{
    CUT_FILE, CUT_NAME, CUT_VALUES, FAILED, INTERNAL, RESUMED, SCRIPT, THROWN,
};
use trace_layout::{Kind, Record, Tracing};

use super::calls::{Call, Calls, Ended, Event, Summary, name, nanos, signed, text};
use crate::cli::out::{self, LINE_MAX, Paint, safe};
use crate::config::glob::Glob;

/// Deeper calls are not moved further to the right.
const INDENT_MAX: u16 = 32;
/// Nanoseconds that a call may take before its line is written without its end.
const LONG: u64 = 100_000_000;
/// Version of the JSON lines.
pub const SCHEMA: u32 = 1;

/// A process that is traced, or was.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Who {
    pub pid: u32,
    /// As its own pid namespace calls it.
    pub inner: u32,
    pub start: u64,
    pub runtime_version: u32,
    /// Nanoseconds from the records' clock to the time since 1970.
    pub to_unix: u64,
}

impl Who {
    fn time(&self, boot: u64) -> String {
        let at = UNIX_EPOCH + Duration::from_nanos(boot.saturating_add(self.to_unix));
        // Beyond the year 9999 there is no such text; a hostile clock gets none.
        let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        humantime::format_rfc3339_micros(at.min(last)).to_string()
    }
}

/// What happens beside the records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// Records were overwritten before they were read.
    Lost(u64),
    Gone,
    /// It runs another program now.
    Exec,
    /// The tracer stopped by itself, or was stopped.
    Turned(Off),
    /// Somebody else switched it off in the table.
    SwitchedOff,
    Trouble(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Off {
    Stale,
    Switch,
    Broken,
}

impl Off {
    pub fn of(tracing: Tracing) -> Option<Off> {
        match tracing {
            Tracing::Off | Tracing::On => None,
            Tracing::OffStale => Some(Off::Stale),
            Tracing::OffSwitch => Some(Off::Switch),
            Tracing::Broken => Some(Off::Broken),
        }
    }
}

impl Note {
    /// What a program sees of it.
    fn kind(&self) -> &'static str {
        match self {
            Note::Lost(_) => "lost",
            Note::Gone => "gone",
            Note::Exec => "exec",
            Note::Turned(_) | Note::SwitchedOff => "off",
            Note::Trouble(_) => "trouble",
        }
    }

    pub fn words(&self) -> String {
        match self {
            Note::Lost(1) => "1 record was overwritten before it was read".to_owned(),
            Note::Lost(n) => format!("{n} records were overwritten before they were read"),
            Note::Gone => "the process has ended".to_owned(),
            Note::Exec => {
                "the process runs another program now; its tracer is gone with the old one"
                    .to_owned()
            }
            Note::Turned(Off::Stale) => "the tracer turned itself off: it saw no beat of this \
                                         command for longer than the period"
                .to_owned(),
            Note::Turned(Off::Switch) => "the tracer was turned off by its switch".to_owned(),
            Note::Turned(Off::Broken) => {
                "the tracer met a defect of its own and stays off in this process".to_owned()
            }
            Note::SwitchedOff => "somebody else switched it off".to_owned(),
            Note::Trouble(words) => safe(words, LINE_MAX),
        }
    }
}

/// What is asked for.
#[derive(Clone, Default, Debug)]
pub struct Wanted {
    pub name: Option<Glob>,
    pub failed: bool,
    /// Nanoseconds.
    pub slower: Option<u64>,
    /// Calls.
    pub limit: Option<u64>,
}

impl Wanted {
    fn named(&self, name: &str) -> bool {
        let Some(glob) = &self.name else { return true };
        glob.matches(name) || name.rsplit_once("::").is_some_and(|(_, method)| glob.matches(method))
    }

    /// Whether only the end of a call tells if it is wanted.
    fn is_by_end(&self) -> bool {
        self.failed || self.slower.is_some()
    }

    fn ended(&self, ended: &Ended) -> bool {
        self.named(&ended.name)
            && (!self.failed || ended.has_failed())
            && self.slower.is_none_or(|than| ended.is_slower(than))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Tree,
    Json,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    On,
    /// As many calls as were asked for have been shown.
    Enough,
}

/// A trace on its way to somebody's eyes.
pub struct Show<'o> {
    out: &'o mut dyn Write,
    form: Form,
    paint: Paint,
    wanted: Wanted,
    summary: Option<Summary>,
    who: Vec<(Who, Calls)>,
    /// A call that has begun, and about which nothing is written yet: it may end at once.
    pending: Option<(usize, Call)>,
    shown: u64,
    lost: u64,
}

impl<'o> Show<'o> {
    pub fn new(
        out: &'o mut dyn Write,
        form: Form,
        paint: Paint,
        wanted: Wanted,
        summary: bool,
    ) -> Show<'o> {
        Show {
            out,
            form,
            paint,
            wanted,
            summary: summary.then(Summary::default),
            who: Vec::new(),
            pending: None,
            shown: 0,
            lost: 0,
        }
    }

    pub fn begin(&mut self, who: Who) {
        self.who.push((who, Calls::default()));
    }

    /// One record of the process at `index`.
    ///
    /// # Errors
    /// When nothing can be written any more.
    pub fn record(&mut self, index: usize, n: u64, record: &Record<'_>) -> io::Result<Flow> {
        if self.wanted.limit.is_some_and(|limit| self.shown >= limit) && self.pending.is_none() {
            return Ok(Flow::Enough);
        }
        let Some((_, calls)) = self.who.get_mut(index) else { return Ok(Flow::On) };
        match calls.take(record) {
            Event::Began(call) => {
                if self.summary.is_some()
                    || self.wanted.is_by_end()
                    || !self.wanted.named(&call.name)
                {
                    return Ok(Flow::On);
                }
                let call = call.clone();
                self.began(index, n, call)?;
            }
            Event::Ended(ended) => self.ended(index, n, &ended, record.kind)?,
            Event::Other => self.other(index, n, record)?,
        }
        let enough = self.wanted.limit.is_some_and(|limit| self.shown >= limit);
        Ok(if enough && self.pending.is_none() { Flow::Enough } else { Flow::On })
    }

    fn began(&mut self, index: usize, n: u64, call: Call) -> io::Result<()> {
        self.settle()?;
        if self.wanted.limit.is_some_and(|limit| self.shown >= limit) {
            return Ok(());
        }
        self.shown += 1;
        if self.form == Form::Json {
            let mut line = self.object(index, "enter", Some(n), call.time);
            describe(&mut line, &call);
            line["memory"] = call.memory.into();
            return self.json(&line);
        }
        self.pending = Some((index, call));
        Ok(())
    }

    fn ended(&mut self, index: usize, n: u64, ended: &Ended, kind: Kind) -> io::Result<()> {
        let is_call = kind == Kind::Leave;
        if let Some(summary) = &mut self.summary {
            if is_call && self.wanted.ended(ended) {
                summary.add(ended, &self.who[index].1);
            }
            return Ok(());
        }
        if !self.wanted.ended(ended) {
            return Ok(());
        }
        if self.form == Form::Json {
            return self.ended_json(index, n, ended, is_call);
        }
        let alone = match self.pending.take() {
            Some((who, call)) if who == index && is_call && call.number == ended.number => true,
            pending => {
                self.pending = pending;
                self.settle()?;
                false
            }
        };
        let tail = self.tail(ended, is_call);
        let prefix = self.prefix(index);
        let line = match &ended.call {
            _ if !is_call => {
                format!("{prefix}--- end of request {}  {tail}", safe(&ended.name, LINE_MAX))
            }
            // By its end alone, or without anything inside: all on one line.
            Some(call) if alone || self.wanted.is_by_end() => {
                let indent = if alone { indent(call.depth) } else { String::new() };
                self.shown += u64::from(!alone);
                format!("{prefix}{indent}{} {tail}{}", self.head(call), self.place(call))
            }
            _ if self.wanted.is_by_end() => {
                self.shown += 1;
                format!("{prefix}{}(…) {tail}", safe(&ended.name, LINE_MAX))
            }
            _ => {
                let of = self.paint.dim(&format!("  {}", safe(&ended.name, LINE_MAX)));
                format!("{prefix}{}{tail}{of}", indent(ended.depth))
            }
        };
        writeln!(self.out, "{line}")
    }

    fn ended_json(&mut self, index: usize, n: u64, ended: &Ended, call: bool) -> io::Result<()> {
        let kind = if call { "leave" } else { "request-end" };
        let mut line = self.object(index, kind, Some(n), ended.time);
        match &ended.call {
            Some(call) => describe(&mut line, call),
            None => {
                line["call"] = ended.number.into();
                line["depth"] = ended.depth.into();
                line["function"] = ended.name.as_str().into();
            }
        }
        let thrown = ended.flags & THROWN != 0;
        line["returned"] = if thrown { Value::Null } else { ended.values.as_str().into() };
        line["thrown"] = if thrown { ended.values.as_str().into() } else { Value::Null };
        line["failed"] = ended.has_failed().into();
        line["cut"] = (ended.flags & CUT_VALUES != 0).into();
        line["wall_ns"] = ended.wall.into();
        line["self_ns"] = ended.own.into();
        line["cpu_ns"] = ended.cpu.into();
        line["memory"] = ended.memory.into();
        self.shown += u64::from(self.wanted.is_by_end());
        self.json(&line)
    }

    fn other(&mut self, index: usize, n: u64, record: &Record<'_>) -> io::Result<()> {
        if self.summary.is_some() {
            return Ok(());
        }
        // Frames and values that were asked for by name are shown in any case; requests only
        // where calls are.
        if record.kind == Kind::Request && self.wanted.is_by_end() {
            return Ok(());
        }
        self.settle()?;
        if self.form == Form::Json {
            let kind = match record.kind {
                Kind::Request => "request",
                Kind::Snapshot => "frame",
                Kind::Watch => "watch",
                _ => "notice",
            };
            let mut line = self.object(index, kind, Some(n), record.time);
            line["depth"] = record.depth.into();
            line["function"] = name(record).into();
            line["file"] = text(record.file).into();
            line["line"] = record.line.into();
            line["value"] = text(record.values).into();
            return self.json(&line);
        }
        let prefix = self.prefix(index);
        let file = safe(&text(record.file), LINE_MAX);
        let values = safe(&text(record.values), LINE_MAX);
        let function = safe(&name(record), LINE_MAX);
        let line = match record.kind {
            Kind::Request => format!("--- request {values}  {file}"),
            Kind::Snapshot => {
                // The outermost frame is the script itself.
                let function = if function == "?" { "{main}" } else { &function };
                format!("[{}] {function} {file}:{}", record.depth, record.line)
            }
            Kind::Watch => format!("{}* {function} = {values}", indent(record.depth)),
            _ => format!("--- {values}"),
        };
        writeln!(self.out, "{prefix}{line}")
    }

    /// Something beside the records. In a tree it is a line among them; programs get an object.
    ///
    /// # Errors
    /// When nothing can be written any more.
    pub fn note(&mut self, index: usize, note: &Note) -> io::Result<()> {
        if let Note::Lost(n) = note {
            self.lost = self.lost.saturating_add(*n);
        }
        self.settle()?;
        if self.form == Form::Json {
            let mut line = self.object(index, note.kind(), None, 0);
            line["words"] = note.words().into();
            if let Note::Lost(n) = note {
                line["count"] = (*n).into();
            }
            return self.json(&line);
        }
        if self.summary.is_some() && matches!(note, Note::Lost(_)) {
            return Ok(());
        }
        writeln!(
            self.out,
            "{}{}",
            self.prefix(index),
            self.paint.yellow(&format!("--- {}", note.words()))
        )
    }

    /// Nothing more comes for now: what is known is shown, a call that takes its time as well.
    ///
    /// # Errors
    /// When nothing can be written any more.
    pub fn pause(&mut self, now: u64) -> io::Result<()> {
        let takes_long = |(_, call): &(usize, Call)| now.saturating_sub(call.time) > LONG;
        if self.pending.as_ref().is_some_and(takes_long) {
            self.settle()?;
        }
        self.out.flush()
    }

    /// Nothing more comes at all.
    ///
    /// # Errors
    /// When nothing can be written any more.
    pub fn end(&mut self) -> io::Result<()> {
        self.settle()?;
        if let Some(summary) = &self.summary {
            if self.form == Form::Json {
                let line = json!({
                    "schema": SCHEMA, "type": "summary",
                    "functions": summary.json(), "lost": self.lost,
                });
                writeln!(self.out, "{}", out::json(&line))?;
            } else {
                write!(self.out, "{}", summary.table())?;
                if self.lost > 0 {
                    let words = Note::Lost(self.lost).words();
                    writeln!(self.out, "{}", self.paint.yellow(&format!("--- {words}")))?;
                }
            }
        }
        self.out.flush()
    }

    /// Writes the call that waits for its end.
    fn settle(&mut self) -> io::Result<()> {
        let Some((index, call)) = self.pending.take() else { return Ok(()) };
        let prefix = self.prefix(index);
        let place = self.place(&call);
        writeln!(self.out, "{prefix}{}{}{place}", indent(call.depth), self.head(&call))
    }

    fn prefix(&self, index: usize) -> String {
        match self.who.get(index) {
            Some((who, _)) if self.who.len() > 1 => self.paint.dim(&format!("[{}] ", who.pid)),
            _ => String::new(),
        }
    }

    /// `Shop::open('x')`, `include /srv/a.php`.
    fn head(&self, call: &Call) -> String {
        let cut = |flag: u8| if call.flags & flag != 0 { "…" } else { "" };
        let name = safe(&call.name, LINE_MAX);
        let name = if call.flags & INTERNAL != 0 { name } else { self.paint.bold(&name) };
        let resumed = if call.flags & RESUMED != 0 { "resume " } else { "" };
        if call.flags & SCRIPT != 0 {
            let file = safe(&call.file, LINE_MAX);
            return format!("{resumed}{name} {}{file}", cut(CUT_FILE));
        }
        let values = safe(&call.values, LINE_MAX);
        format!("{resumed}{name}{}({values}{})", cut(CUT_NAME), cut(CUT_VALUES))
    }

    fn place(&self, call: &Call) -> String {
        if call.file.is_empty() || call.flags & SCRIPT != 0 {
            return String::new();
        }
        let cut = if call.flags & CUT_FILE != 0 { "…" } else { "" };
        let file = safe(&call.file, LINE_MAX);
        self.paint.dim(&format!("  {cut}{file}:{}", call.line))
    }

    /// `= 'x'  <1.2 ms, cpu 300 µs, +2.0 KiB>`.
    fn tail(&self, ended: &Ended, is_call: bool) -> String {
        let mut figures = Vec::new();
        figures.extend(ended.wall.map(nanos));
        figures.extend(ended.cpu.map(|cpu| format!("cpu {}", nanos(cpu))));
        let memory = ended.memory.filter(|bytes| *bytes != 0);
        figures.extend(
            memory.map(
                |bytes| {
                    if is_call { signed(bytes) } else { format!("peak {}", signed(bytes)) }
                },
            ),
        );
        let figures = match figures.join(", ") {
            text if text.is_empty() => text,
            text => format!("<{text}>"),
        };
        if !is_call {
            return figures;
        }
        let cut = if ended.flags & CUT_VALUES != 0 { "…" } else { "" };
        let values = format!("{}{cut}", safe(&ended.values, LINE_MAX));
        let what = if ended.flags & THROWN != 0 {
            self.paint.red(&format!("! {values}"))
        } else if ended.flags & RESUMED != 0 {
            format!("~ {values}")
        } else if ended.flags & FAILED != 0 {
            self.paint.red(&format!("= {values}"))
        } else {
            format!("= {values}")
        };
        format!("{what}  {figures}").trim_end().to_owned()
    }

    fn object(&self, index: usize, kind: &str, n: Option<u64>, time: u64) -> Value {
        let who = self.who.get(index).map(|(who, _)| who);
        json!({
            "schema": SCHEMA,
            "type": kind,
            "pid": who.map(|who| who.pid),
            "start": who.map(|who| who.start),
            "n": n,
            "time": who.filter(|_| time != 0).map(|who| who.time(time)),
        })
    }

    fn json(&mut self, line: &Value) -> io::Result<()> {
        writeln!(self.out, "{}", out::json(line))
    }
}

fn describe(line: &mut Value, call: &Call) {
    line["call"] = call.number.into();
    line["depth"] = call.depth.into();
    line["function"] = call.name.as_str().into();
    line["parameters"] = call.values.as_str().into();
    line["parameters_cut"] = (call.flags & CUT_VALUES != 0).into();
    line["file"] = call.file.as_str().into();
    line["line"] = call.line.into();
    line["internal"] = (call.flags & INTERNAL != 0).into();
    line["script"] = (call.flags & SCRIPT != 0).into();
}

fn indent(depth: u16) -> String {
    if depth <= INDENT_MAX {
        "  ".repeat(depth.into())
    } else {
        format!("{}({depth}) ", "  ".repeat(INDENT_MAX.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_layout::UNKNOWN;

    fn enter(call: u64, depth: u16, function: &'static str) -> Record<'static> {
        Record {
            call,
            depth,
            line: 6,
            time: 1,
            function: function.as_bytes(),
            file: b"/srv/block.php",
            values: b"1",
            ..Record::new(Kind::Enter)
        }
    }

    fn leave(call: u64, depth: u16, flags: u8, values: &'static str) -> Record<'static> {
        Record {
            call,
            depth,
            flags,
            wall: 60_000_000,
            cpu: UNKNOWN,
            values: values.as_bytes(),
            ..Record::new(Kind::Leave)
        }
    }

    fn shown(wanted: &Wanted, form: Form, summary: bool, records: &[Record<'_>]) -> String {
        let mut text = Vec::new();
        let mut show = Show::new(&mut text, form, Paint::plain(), wanted.clone(), summary);
        show.begin(Who { pid: 7, ..Who::default() });
        for (n, record) in records.iter().enumerate() {
            if show.record(0, n as u64, record).unwrap() == Flow::Enough {
                break;
            }
        }
        show.note(0, &Note::Lost(3)).unwrap();
        show.end().unwrap();
        String::from_utf8(text).unwrap()
    }

    fn block() -> Vec<Record<'static>> {
        vec![
            enter(1, 0, "run"),
            enter(2, 1, "say"),
            enter(3, 2, "sleep"),
            leave(3, 2, INTERNAL, "0"),
            leave(2, 1, THROWN, "Oops: \u{1b}[31m"),
            leave(1, 0, FAILED, "false"),
        ]
    }

    #[test]
    fn a_tree_has_one_line_for_a_call_that_calls_nobody() {
        let text = shown(&Wanted::default(), Form::Tree, false, &block());
        let expected = "\
run(1)  /srv/block.php:6
  say(1)  /srv/block.php:6
    sleep(1) = 0  <60.0 ms>  /srv/block.php:6
  ! Oops: \\x1b[31m  <60.0 ms>  say
= false  <60.0 ms>  run
--- 3 records were overwritten before they were read
";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let named = |pattern| Wanted { name: Glob::new(pattern).ok(), ..Wanted::default() };
        let first = |wanted: &Wanted| {
            let text = shown(wanted, Form::Tree, false, &block());
            text.lines()
                .filter(|line| !line.starts_with("---"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(first(&named("sl*")), ["    sleep(1) = 0  <60.0 ms>  /srv/block.php:6"]);
        let failed = first(&Wanted { failed: true, ..Wanted::default() });
        assert_eq!(
            failed,
            [
                "say(1) ! Oops: \\x1b[31m  <60.0 ms>  /srv/block.php:6",
                "run(1) = false  <60.0 ms>  /srv/block.php:6"
            ]
        );
        assert_eq!(first(&Wanted { slower: Some(50_000_000), ..Wanted::default() }).len(), 3);
        assert!(first(&Wanted { slower: Some(70_000_000), ..Wanted::default() }).is_empty());
        let two = first(&Wanted { limit: Some(2), ..Wanted::default() });
        assert_eq!(two, ["run(1)  /srv/block.php:6", "  say(1)  /srv/block.php:6"]);
        let one = Wanted { limit: Some(1), failed: true, ..Wanted::default() };
        assert_eq!(first(&one).len(), 1);
    }

    #[test]
    fn programs_get_an_object_a_line_and_a_summary() {
        let text = shown(&Wanted::default(), Form::Json, false, &block());
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[0]["type"], "enter");
        assert_eq!(lines[3]["returned"], "0");
        assert_eq!(
            (&lines[4]["thrown"], &lines[4]["failed"]),
            (&json!("Oops: \u{1b}[31m"), &json!(true))
        );
        assert_eq!(lines[5]["parameters"], "1");
        assert_eq!((&lines[6]["type"], &lines[6]["count"]), (&json!("lost"), &json!(3)));
        let summary = shown(&Wanted::default(), Form::Tree, true, &block());
        assert!(summary.starts_with("FUNCTION  CALLS  FAILED    TOTAL"), "{summary}");
        assert!(summary.ends_with("3 records were overwritten before they were read\n"));
        let json = shown(&Wanted::default(), Form::Json, true, &block());
        let last: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
        assert_eq!(last["functions"][0]["function"], "sleep");
    }

    #[test]
    fn a_clock_that_lies_is_no_panic() {
        let who = Who { to_unix: u64::MAX, ..Who::default() };
        assert!(who.time(u64::MAX).ends_with('Z'));
    }
}
