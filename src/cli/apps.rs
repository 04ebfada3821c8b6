//! `nbguard apps`: what the processes of each container work for, what that uses, and who of them
//! is at work. Two looks half a second apart; works without the daemon. CPU time is what a tracer
//! counted where calls are recorded, else the kernel's; what shares are shares of is the kernel's.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::inside::{self, Inside, Watched};
use crate::cli::out::{self, CELL_MAX, LINE_MAX, Paint, safe};
use crate::config::Resource;
use crate::config::quantity::parse_share;
use crate::facts::{Activity, Field};
use crate::policy::activity::TICK_US;
use crate::policy::apps::{App, Applications, By, is_over};
use crate::units::{Bytes, Share};

/// Between the two looks: fifty ticks of CPU time.
const SPAN: Duration = Duration::from_millis(500);
/// Version of the JSON's shape.
const SCHEMA: u32 = 1;

#[derive(Args, Debug)]
pub struct AppsArgs {
    /// Only this container: its name, or the first characters of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// What shares are shares of: the container's memory, or the CPU time of all its processes
    /// between two looks. Default: as its configuration says
    #[arg(long, value_name = "WHAT")]
    pub resource: Option<Of>,
    /// An application with more than this share is over it; exactly at it is not. Default: as its
    /// configuration says
    #[arg(long, value_name = "SHARE", value_parser = ratio)]
    pub ratio: Option<Share>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Of {
    Memory,
    Cpu,
}

fn ratio(text: &str) -> Result<Share, String> {
    let share = parse_share(text)?;
    match share >= Share::percent(2) && share <= Share::ONE {
        true => Ok(share),
        false => Err("it must be from 2% to 100%".to_owned()),
    }
}

/// One container's applications.
#[derive(Serialize)]
struct Box_ {
    id: String,
    name: String,
    engine: String,
    resource: &'static str,
    ratio: f64,
    /// Bytes: what shares of memory are shares of.
    total: Bytes,
    /// What all its processes ran between the two looks; what shares of CPU time are shares of.
    cpu_us: Option<u64>,
    span_us: u64,
    applications: Vec<AppView>,
}

#[derive(Serialize)]
struct AppView {
    application: Option<String>,
    uid: u32,
    workloads: u32,
    processes_total: u32,
    memory: Bytes,
    memory_share: Option<f64>,
    cpu_us: Option<u64>,
    cpu_share: Option<f64>,
    /// Who says how much CPU time: `traced`, the tracer, of its calls; `kernel`; or `both`.
    cpu_source: Option<&'static str>,
    /// What the interpreters in which calls are recorded hold, by their own word. `null`: not known.
    interpreter_memory: Option<Bytes>,
    /// Of the resource that was asked about. `null`: not known.
    over: Option<bool>,
    busy: u32,
    idle: u32,
    unknown: u32,
    processes: Vec<ProcessView>,
}

#[derive(Serialize)]
struct ProcessView {
    pid: u32,
    name: String,
    memory: Bytes,
    cpu_us: Option<u64>,
    cpu_source: Option<&'static str>,
    interpreter_memory: Option<Bytes>,
    /// `busy`, `idle`, `unknown`.
    activity: &'static str,
    /// For how long, as far as that is known.
    for_us: Option<u64>,
    /// Who says so: `tracer`, `stack`, `cpu`.
    by: Option<&'static str>,
    /// The function or script that was named.
    what: Option<String>,
}

pub fn run(config: &Path, args: &AppsArgs, out: &mut dyn Write) -> Outcome {
    let mut inside = Inside::open(config, args.container.as_deref())?;
    inside.look();
    std::thread::sleep(SPAN);
    inside.look();
    inside.ask();
    if let Some(asked) = &args.container
        && inside.boxes.is_empty()
        && inside.unread.is_empty()
    {
        let asked = safe(asked, CELL_MAX);
        return Err(Failure::wrong(format!("no container called {asked}")));
    }
    let boxes: Vec<Box_> = inside.boxes.iter().map(|watched| view(watched, args)).collect();
    if args.json {
        let report = serde_json::json!({
            "schema": SCHEMA,
            "time": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            "containers": boxes,
            "unread": inside.unread,
        });
        writeln!(out, "{}", out::json(&report))?;
    } else {
        tell(&boxes, Paint::for_stdout(), out)?;
    }
    for error in &inside.unread {
        let _ = writeln!(io::stderr(), "nbguard: {}, skipped", safe(error, LINE_MAX));
    }
    Ok(if inside.unread.is_empty() { Exit::Ok } else { Exit::Wrong })
}

fn view(watched: &Watched, args: &AppsArgs) -> Box_ {
    let mut sums = Applications::default();
    let seen = &watched.seen;
    sums.build(&seen.forest, &seen.procs, &seen.ids, &watched.activities);
    let resource = match (args.resource, watched.settings.resource) {
        (Some(Of::Memory), _) | (None, Resource::Memory) => Of::Memory,
        (Some(Of::Cpu), _) | (None, Resource::Cpu) => Of::Cpu,
    };
    let ratio = args.ratio.unwrap_or(watched.settings.ratio);
    let all = sums.cpu_total(0);
    let mut applications: Vec<AppView> = Vec::new();
    for (place, app) in sums.apps().iter().enumerate() {
        if seen.forest.workloads()[app.first as usize].denied {
            continue;
        }
        let over = match resource {
            Of::Memory => is_over(app.memory.0, watched.total.0, ratio),
            Of::Cpu => app.used.zip(all).and_then(|(cpu, all)| is_over(cpu, us(all), ratio)),
        };
        applications.push(app_view(watched, &sums, place, app, over));
    }
    applications.sort_by_key(|app| {
        let size = match resource {
            Of::Memory => app.memory.0,
            Of::Cpu => app.cpu_us.unwrap_or(0),
        };
        (Reverse(size), app.application.clone())
    });
    let span = watched.activities.span().unwrap_or_default();
    Box_ {
        id: watched.found.id.clone(),
        name: safe(&watched.container.name, CELL_MAX),
        engine: watched.found.engine.as_str().to_owned(),
        resource: if resource == Of::Memory { "memory" } else { "cpu" },
        ratio: f64::from(ratio.0) / f64::from(Share::ONE.0),
        total: watched.total,
        cpu_us: all.map(us),
        span_us: u64::try_from(span.as_micros()).unwrap_or(u64::MAX),
        applications,
    }
}

fn app_view(
    watched: &Watched,
    sums: &Applications,
    place: usize,
    app: &App,
    over: Option<bool>,
) -> AppView {
    let seen = &watched.seen;
    let root = seen.forest.workloads()[app.first as usize].root;
    let all = sums.cpu_total(0);
    let mut processes = Vec::new();
    for (number, workload) in seen.forest.workloads().iter().enumerate() {
        if sums.place_of(number as u32) == Some(place) {
            let members = seen.forest.members(workload).iter();
            processes.extend(members.filter_map(|m| process(watched, m.index as usize)));
        }
    }
    processes.sort_by_key(|process| (Reverse(process.memory), process.pid));
    let count = |what| processes.iter().filter(|p| p.activity == what).count() as u32;
    AppView {
        application: seen.ids.application(root).map(|name| safe(name, LINE_MAX)),
        uid: app.uid,
        workloads: app.workloads,
        processes_total: app.processes,
        memory: app.memory,
        memory_share: share(app.memory.0, watched.total.0),
        cpu_us: app.used,
        cpu_share: app.used.zip(all).and_then(|(cpu, all)| share(cpu, us(all))),
        cpu_source: app.used.map(|_| app.used_by().as_str()),
        interpreter_memory: app.held,
        over,
        busy: count("busy"),
        idle: count("idle"),
        unknown: count("unknown"),
        processes,
    }
}

fn process(watched: &Watched, index: usize) -> Option<ProcessView> {
    let proc = &watched.seen.procs[index];
    if proc.is_zombie() {
        return None;
    }
    let activity = watched.activities.of(proc.key, watched.nature(index));
    let now = inside::now();
    let (since, by) = match activity {
        Activity::Busy { since, by } => (since, Some(by)),
        Activity::Idle { since, by } => (Some(since), Some(by)),
        Activity::Unknown(_) => (None, None),
    };
    let traced = watched.activities.traced(proc.key);
    let cpu_us = traced.or(watched.activities.used(proc.key).map(us));
    let source = if traced.is_some() { By::Tracer } else { By::Kernel };
    let memory = match proc.memory {
        Field::Known(memory) => memory.anon.plus(memory.shmem).plus(memory.swap),
        Field::Unknown(_) => proc.rss,
    };
    Some(ProcessView {
        pid: proc.key.pid,
        name: crate::parse::escape(proc.comm.bytes(), CELL_MAX),
        memory,
        cpu_us,
        cpu_source: cpu_us.map(|_| source.as_str()),
        interpreter_memory: watched.activities.held(proc),
        activity: activity.as_str(),
        for_us: since.map(|at| u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX)),
        by: by.map(|by| by.as_str()),
        what: watched.activities.text(proc.key).map(|text| safe(text, CELL_MAX)),
    })
}

fn us(ticks: u64) -> u64 {
    ticks.saturating_mul(TICK_US)
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn tell(boxes: &[Box_], paint: Paint, out: &mut dyn Write) -> Result<(), Failure> {
    if boxes.is_empty() {
        writeln!(out, "No containers")?;
    }
    for (number, each) in boxes.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        let ratio = format!("{} %", each.ratio * 100.0);
        let whole = match (each.resource, each.cpu_us) {
            ("memory", _) => format!("{} of memory", each.total),
            (_, Some(all)) => {
                format!("{} of CPU time in {}", out::micros(all), out::micros(each.span_us))
            }
            (_, None) => "CPU time, which is not known".to_owned(),
        };
        writeln!(out, "{}: over is more than {ratio} of {whole}", paint.bold(&each.name))?;
        if each.applications.is_empty() {
            writeln!(out, "  no application: neither a notebook nor PHP runs here")?;
            continue;
        }
        let rows: Vec<Vec<String>> =
            each.applications.iter().map(|app| app_row(app, paint)).collect();
        let headings = [
            "  APPLICATION",
            ">UID",
            ">PROCESSES",
            ">MEMORY",
            ">OF TOTAL",
            ">IN PHP",
            ">CPU",
            ">OF CPU",
            "BY",
            "OVER",
            "AT WORK",
        ];
        write!(out, "{}", out::table(&headings, &rows))?;
        let rows: Vec<Vec<String>> = each
            .applications
            .iter()
            .flat_map(|app| app.processes.iter().map(move |process| (app, process)))
            .map(|(app, process)| process_row(app, process))
            .collect();
        let headings =
            ["  PID", "NAME", "APPLICATION", ">MEMORY", ">IN PHP", ">CPU", "BY", "ACTIVITY"];
        writeln!(out)?;
        write!(out, "{}", out::table(&headings, &rows))?;
    }
    Ok(())
}

fn bytes(of: Option<Bytes>) -> String {
    of.map_or_else(|| "-".to_owned(), |of| of.to_string())
}

fn app_row(app: &AppView, paint: Paint) -> Vec<String> {
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let over = match app.over {
        Some(true) => paint.yellow("over"),
        Some(false) => "no".to_owned(),
        None => "unknown".to_owned(),
    };
    let mut at_work = Vec::new();
    for (count, what) in [(app.busy, "busy"), (app.idle, "idle"), (app.unknown, "unknown")] {
        if count > 0 {
            at_work.push(format!("{count} {what}"));
        }
    }
    vec![
        format!("  {}", app.application.as_deref().unwrap_or("(no name)")),
        app.uid.to_string(),
        app.processes_total.to_string(),
        app.memory.to_string(),
        percent(app.memory_share),
        bytes(app.interpreter_memory),
        app.cpu_us.map_or_else(|| "-".to_owned(), out::micros),
        percent(app.cpu_share),
        app.cpu_source.unwrap_or("-").to_owned(),
        over,
        at_work.join(", "),
    ]
}

fn process_row(app: &AppView, process: &ProcessView) -> Vec<String> {
    let mut activity = process.activity.to_owned();
    if let Some(what) = process.what.as_ref().filter(|_| process.activity == "busy") {
        activity += &format!(" in {what}");
    }
    if let Some(span) = process.for_us {
        activity += &format!(" for {}", out::micros(span));
    }
    if let Some(by) = process.by {
        activity += &format!(" ({by})");
    }
    vec![
        format!("  {}", process.pid),
        process.name.clone(),
        app.application.clone().unwrap_or_default(),
        process.memory.to_string(),
        bytes(process.interpreter_memory),
        process.cpu_us.map_or_else(|| "-".to_owned(), out::micros),
        process.cpu_source.unwrap_or("-").to_owned(),
        activity,
    ]
}
