//! `nbguard trace`: what a PHP process calls, while it calls it, through the tracer that is loaded
//! in it. Switches on, reads, and leaves off: at the end, on a signal, when nobody reads the
//! output any more; and if it is killed, the tracer finds its beat old and turns itself off.

mod calls;
pub mod data;
mod list;
mod session;
pub mod show;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use trace_layout::record::NAME_MAX;
use trace_layout::switch;
use trace_layout::watch::is_name;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{LINE_MAX, Paint, safe};
use crate::config::glob::Glob;
use crate::config::quantity::parse_duration;
use crate::roots::{Buffer, Roots};
use crate::trace::php::watch::Watch;
use session::{Mode, Plan, Sink};
use show::{Form, Show, Wanted};

/// As the tracer's own default; the source of the idea has 30 s.
const PERIOD: &str = "5s";

#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Whom: pids as this host has them, in whatever container they are
    #[arg(value_name = "PID", required_unless_present_any = ["app", "read", "list"])]
    pub pids: Vec<u32>,
    /// All processes of an application: `pool:www`, `script:/srv/*`, or the name without the kind
    #[arg(long, value_name = "GLOB", value_parser = glob, conflicts_with = "read")]
    pub app: Option<Glob>,
    /// Only calls of functions called so: `Class::*`, `curl_*`
    #[arg(long, value_name = "PATTERN", value_parser = glob)]
    pub filter: Option<Glob>,
    /// Only calls that returned false, or threw
    #[arg(long)]
    pub failed: bool,
    /// Only calls and requests that took at least this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub slower: Option<Duration>,
    /// End after so many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub lasts: Option<Duration>,
    /// At the end, a table by function: calls, failures, total and own time, memory
    #[arg(long)]
    pub summary: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Into this file; `FILE.data` is for --read, and holds everything
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Print a FILE.data again, with the same options
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["pids", "lasts"],
        value_hint = clap::ValueHint::FilePath
    )]
    pub read: Option<PathBuf>,
    /// Leave PHP's own functions away: cheaper for the process
    #[arg(long)]
    pub no_internal: bool,
    /// Leave parameters and return values away: cheaper, and nothing secret is seen
    #[arg(long)]
    pub no_values: bool,
    /// Tell whenever this has another value: a global variable of the script, or any field of a
    /// global of the interpreter, as `NAME=global+offset:type`
    #[arg(long, value_name = "NAME", value_parser = watch)]
    pub watch: Vec<Watch>,
    /// Only the call stack as it is now, written by the process itself at its next call
    #[arg(long, conflicts_with_all = ["summary", "filter", "failed", "slower", "limit", "read"])]
    pub snapshot: bool,
    /// Which processes have a tracer, who is switched on and by whom
    #[arg(long, conflicts_with_all = ["pids", "app", "read", "output"])]
    pub list: bool,
    /// Only switch on and beat, for others to read; until Ctrl-C or --for
    #[arg(long, conflicts_with_all = ["off", "snapshot", "summary", "output", "read", "list", "json"])]
    pub on: bool,
    /// Switch off, whoever switched on
    #[arg(long, conflicts_with_all = ["snapshot", "summary", "output", "read", "list", "json"])]
    pub off: bool,
    /// A tracer that hears nothing of this command for so long turns itself off
    #[arg(long, value_name = "DURATION", default_value = PERIOD, value_parser = period)]
    pub period: Duration,
    /// Where the trace directory is, as the processes see it
    #[arg(long, value_name = "DIR", hide = true, default_value = trace_layout::DIR)]
    pub dir: PathBuf,
    /// A /proc other than this host's
    #[arg(long, value_name = "DIR", hide = true, default_value = "/")]
    pub root: PathBuf,
}

fn glob(text: &str) -> Result<Glob, String> {
    Glob::new(text).map_err(str::to_owned)
}

/// What the tracer would pass over in silence is refused here.
fn watch(text: &str) -> Result<Watch, String> {
    if text.contains('=') {
        return Watch::parse(text);
    }
    let name = text.strip_prefix('$').unwrap_or(text);
    match name {
        "" => Err("an empty name".to_owned()),
        _ if name.len() > NAME_MAX => Err(format!("longer than {NAME_MAX} bytes")),
        _ if !is_name(name) => Err("no name of a variable".to_owned()),
        _ => Ok(Watch::Variable(name.to_owned())),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let period = parse_duration(text)?;
    // Below, a busy machine would switch off what is meant to be on.
    if period < Duration::from_millis(200) {
        return Err("shorter than 200ms".to_owned());
    }
    if period > Duration::from_secs(3600) {
        return Err("longer than an hour: what is forgotten would stay on".to_owned());
    }
    Ok(period)
}

pub fn run(args: &TraceArgs, out: &mut dyn Write) -> Outcome {
    if let Some(path) = &args.read {
        return read_again(path, args, out);
    }
    if !args.dir.is_absolute() {
        return Err(Failure::Said(Exit::Usage, "--dir: not an absolute path".to_owned()));
    }
    let roots = Roots::at(&args.root)
        .map_err(|e| Failure::cannot(format!("{}: {e}", args.root.join("proc").display())))?;
    let mut buffer = Buffer::new();
    if args.list {
        return list::run(&roots, &mut buffer, args, out);
    }
    let pids = list::chosen(&roots, &mut buffer, args)?;
    if args.off {
        return list::off(&roots, &mut buffer, args, &pids, out);
    }
    let plan = plan(args);
    match &args.output {
        None => {
            let paint = Paint::for_stdout();
            let sink = Sink::Show(Box::new(show(args, out, paint)));
            session::run(&roots, &mut buffer, &plan, &pids, sink, true)
        }
        Some(path) => {
            let file = BufWriter::new(create(path)?);
            let ended = if is_data(path) {
                let sink = data::Writer::new(file).map(Sink::Data);
                sink.map_err(Failure::from)
                    .and_then(|sink| session::run(&roots, &mut buffer, &plan, &pids, sink, false))
            } else {
                let mut file = file;
                let sink = Sink::Show(Box::new(show(args, &mut file, Paint::plain())));
                session::run(&roots, &mut buffer, &plan, &pids, sink, false)
            };
            ended.map_err(|failure| match failure {
                Failure::Print(error) => Failure::wrong(format!("{}: {error}", path.display())),
                Failure::NobodyListens => Failure::wrong(format!("{}: closed", path.display())),
                said => said,
            })
        }
    }
}

fn read_again(path: &Path, args: &TraceArgs, out: &mut dyn Write) -> Outcome {
    let Some(to) = &args.output else {
        data::read(path, &mut show(args, out, Paint::for_stdout()))?;
        return Ok(Exit::Ok);
    };
    if is_data(to) {
        let words = "--read shows a trace; it does not write another";
        return Err(Failure::Said(Exit::Usage, words.to_owned()));
    }
    let mut file = BufWriter::new(create(to)?);
    data::read(path, &mut show(args, &mut file, Paint::plain()))?;
    Ok(Exit::Ok)
}

fn plan(args: &TraceArgs) -> Plan {
    let mode = match (args.snapshot, args.on) {
        (true, _) => Mode::Snapshot,
        (_, true) => Mode::OnlyBeat,
        _ => Mode::Trace,
    };
    let set = |flag: u32, is_set: bool| if is_set { flag } else { 0 };
    let flags = set(switch::ON, mode != Mode::Snapshot)
        | set(switch::SNAPSHOT, mode == Mode::Snapshot)
        | set(switch::VALUES, !args.no_values)
        | set(switch::INTERNAL, !args.no_internal);
    Plan {
        mode,
        flags,
        dir: args.dir.clone(),
        period: args.period,
        lasts: args.lasts,
        watch: args.watch.clone(),
    }
}

fn show<'o>(args: &TraceArgs, out: &'o mut dyn Write, paint: Paint) -> Show<'o> {
    let wanted = Wanted {
        name: args.filter.clone(),
        failed: args.failed,
        slower: args.slower.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        limit: args.limit,
    };
    let form = if args.json { Form::Json } else { Form::Tree };
    Show::new(out, form, paint, wanted, args.summary)
}

fn is_data(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "data")
}

/// Parameters may hold what is nobody else's business.
fn create(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(|error| Failure::wrong(format!("{}: {error}", path.display())))
}

/// For the person at the terminal, whatever goes where.
fn tell(words: &str) {
    let _ = writeln!(io::stderr(), "nbguard: {}", safe(words, LINE_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_variable_is_one_that_the_tracer_looks_at() {
        let variable = |name: &str| Ok(Watch::Variable(name.to_owned()));
        assert_eq!(watch("cart"), variable("cart"));
        assert_eq!(watch("$Größe_2"), variable("Größe_2"));
        assert!(matches!(watch("a=sapi_globals+8:u32"), Ok(Watch::Field { offset: 8, .. })));
        for wrong in ["", "$", "a=sapi_globals+8", "a=b+8:long", "a b", "a\nb", "a\u{9b}", "a->b"] {
            assert!(watch(wrong).is_err(), "{wrong:?}");
        }
        assert!(watch(&"x".repeat(NAME_MAX + 1)).is_err());
    }
}
