//! `nbguard ps`: every container, how it is watched, its notebooks in the order in which they
//! would end, and who would end if it ran short now. Works without the daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::demo::is_root;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::{self, Look, World};
use crate::cli::out::{self, CELL_MAX, LINE_MAX, Paint, safe};
use crate::cli::{files, incidents};
use crate::host::container::{Container, short_id};
use crate::host::discover::Found;
use crate::policy::orders::Order;
use crate::roots::Roots;

#[derive(Args, Debug)]
pub struct PsArgs {
    /// Only this one: its name, or the first characters of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Instead of this host: a directory that `nbguard capture` wrote
    #[arg(long, value_name = "DIR", hide = true)]
    pub root: Option<PathBuf>,
}

pub fn run(config: &Path, args: &PsArgs, out: &mut dyn Write) -> Outcome {
    let (config, _) = files::config(config)?;
    let prefix = args.root.as_deref().unwrap_or(Path::new("/"));
    let roots = Roots::at(prefix)
        .map_err(|e| Failure::cannot(format!("{}: {e}", prefix.join("proc").display())))?;
    let mut world = World::open(roots, &config)?;
    let containers = world.containers();
    let mut looks = Vec::new();
    let mut unread = Vec::new();
    for (found, container) in &containers {
        if !is_asked(args.container.as_deref(), found, container) {
            continue;
        }
        match world.look(found, container, &config) {
            Ok(look) => looks.push(look),
            Err(error) if error.is_gone() => {}
            Err(error) => unread.push(error.to_string()),
        }
    }
    if let Some(asked) = &args.container
        && looks.is_empty()
        && unread.is_empty()
    {
        let asked = safe(asked, CELL_MAX);
        return Err(Failure::wrong(format!("no container called {asked}")));
    }
    let daemon = look::running_daemon();
    if args.json {
        let report = serde_json::json!({
            "daemon": daemon,
            "host": world.host,
            "host_mode": world.hierarchies.mode,
            "containers": looks,
            "unread": unread,
        });
        writeln!(out, "{}", out::json(&report))?;
    } else {
        let all = world.orders.pause(None, look::wall_now()).map(Order::origin);
        tell(daemon, args.root.as_deref(), all.as_deref(), &looks, out)?;
    }
    for error in &unread {
        let _ = writeln!(io::stderr(), "nbguard: {}, skipped", safe(error, LINE_MAX));
    }
    Ok(if unread.is_empty() { Exit::Ok } else { Exit::Wrong })
}

pub fn is_asked(asked: Option<&str>, found: &Found, container: &Container) -> bool {
    asked.is_none_or(|asked| {
        container.name == asked || (asked.len() >= 4 && found.id.starts_with(asked))
    })
}

fn tell(
    daemon: Option<i32>,
    root: Option<&Path>,
    paused: Option<&str>,
    looks: &[Look],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let paint = Paint::for_stdout();
    if daemon.is_none() && root.is_none() {
        writeln!(out, "{}\n", paint.yellow("nbguardd is not running: nothing is guarded now"))?;
    }
    if let Some(origin) = paused {
        let text = format!("the guard is paused, {origin}: nobody is ended");
        writeln!(out, "{}\n", paint.yellow(&text))?;
    }
    if root.is_none() && !is_root() {
        let text = "you are not root: what cannot be read is missing below";
        writeln!(out, "{}\n", paint.yellow(text))?;
    }
    if looks.is_empty() {
        writeln!(out, "No containers")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = looks.iter().map(summary).collect();
    let headings =
        ["CONTAINER", "ID", "MODE", ">USED", ">LIMIT", ">FULL", ">THRESHOLD", ">NOTEBOOKS"];
    write!(out, "{}", out::table(&headings, &rows))?;
    for look in looks {
        writeln!(out)?;
        details(look, paint, out)?;
    }
    Ok(())
}

fn summary(look: &Look) -> Vec<String> {
    let limit = look.figures.limit.bytes();
    vec![
        safe(&look.name, CELL_MAX),
        safe(short_id(&look.id), CELL_MAX),
        look.mode.to_string(),
        look.figures.usage.to_string(),
        limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()),
        look::share(look.figures.unreclaimable(), look.total),
        look.threshold.to_string(),
        look.rows.len().to_string(),
    ]
}

fn details(look: &Look, paint: Paint, out: &mut dyn Write) -> Result<(), Failure> {
    let short = if look.short { paint.red("  SHORT OF MEMORY") } else { String::new() };
    let name = paint.bold(&safe(&look.name, CELL_MAX));
    writeln!(out, "{name}: {} ({}){short}", look.mode, look.mode_reason)?;
    for (what, by) in [("paused", &look.paused_by), ("protected", &look.protected_by)] {
        if let Some(by) = by {
            writeln!(out, "  {}", paint.yellow(&format!("{what} {by}")))?;
        }
    }
    if !look.rows.is_empty() {
        let rows: Vec<Vec<String>> = look.rows.iter().map(incidents::cells).collect();
        write!(out, "{}", indented(&out::table(&incidents::RANKING, &rows)))?;
    }
    if let Some(made) = &look.cleaning {
        for row in &look.rows {
            writeln!(out, "  {}: {}", row.pid, safe(&row.because, LINE_MAX))?;
        }
        write!(out, "{}", indented(&incidents::cleaning(made)))?;
    }
    for server in &look.servers {
        writeln!(
            out,
            "  server, never ended: {} {} {}",
            server.pid,
            safe(&server.name, CELL_MAX),
            server.memory
        )?;
    }
    let rest = &look.unattributed;
    if rest.count > 0 {
        let names: Vec<String> = rest
            .top
            .iter()
            .map(|p| format!("{} {} {}", p.pid, safe(&p.name, CELL_MAX), p.memory))
            .collect();
        let more = if names.len() < rest.count as usize { ", …" } else { "" };
        writeln!(
            out,
            "  in no notebook: {} processes, {} ({}{more})",
            rest.count,
            rest.memory,
            names.join(", ")
        )?;
    }
    writeln!(out, "  if it ran short now: {}", safe(&look.would.sentence, LINE_MAX))?;
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
