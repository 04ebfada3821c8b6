//! Whom a command line means, `--list` and `--off`.

use std::io::Write;

use serde_json::{Value, json};
use trace_layout::{ActivityState, Header, PAGE, Tracing};

use super::calls::{nanos, text};
use super::{TraceArgs, session, tell};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{self, CELL_MAX, safe};
use crate::config::glob::Glob;
use crate::roots::{Buffer, Roots};
use crate::trace::{Place, Table, Target, TraceFile, Trouble, now, stale, table};

/// The longest command line that is looked at; titles of workers are short.
const TITLE_MAX: usize = 512;
/// What php-fpm calls its workers.
const POOL: &str = "php-fpm: pool ";

/// A process with a tracer.
struct Found {
    target: Target,
    header: Header,
    state: ActivityState,
    since: u64,
    requests: u64,
    script: String,
    switched: &'static str,
    by: u32,
}

/// The pids of the command line, and those of the applications that it names.
pub fn chosen(roots: &Roots, buffer: &mut Buffer, args: &TraceArgs) -> Result<Vec<u32>, Failure> {
    let mut pids = args.pids.clone();
    if let Some(glob) = &args.app {
        let before = pids.len();
        for pid in stale::pids(roots) {
            if is_application(roots, buffer, args, pid, glob) {
                pids.push(pid);
            }
        }
        if pids.len() == before {
            let asked = safe(glob.as_str(), CELL_MAX);
            return Err(Failure::wrong(format!("no process of an application called {asked}")));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn is_application(
    roots: &Roots,
    buffer: &mut Buffer,
    args: &TraceArgs,
    pid: u32,
    glob: &Glob,
) -> bool {
    let named =
        |kind: &str, name: &str| glob.matches(name) || glob.matches(&format!("{kind}:{name}"));
    if let Ok(title) = roots.read_process_up_to(pid, "cmdline", TITLE_MAX, buffer) {
        let title = text(title);
        let pool = title.trim_end_matches(['\0', ' ']).strip_prefix(POOL);
        if pool.is_some_and(|pool| named("pool", pool)) {
            return true;
        }
    }
    let found = find(roots, buffer, args, pid);
    found.is_ok_and(|found| !found.script.is_empty() && named("script", &found.script))
}

fn find(roots: &Roots, buffer: &mut Buffer, args: &TraceArgs, pid: u32) -> Result<Found, Trouble> {
    let target = Target::read(roots, pid, buffer)?;
    let place = Place::open(roots, target, &args.dir, buffer)?;
    let mut page = [0; PAGE];
    let (file, header) = TraceFile::open(&place, &mut page)?;
    let activity = file.read_activity(&mut page)?;
    let entry = Table::open(&place).and_then(|table| table.entry(&target)).unwrap_or_default();
    let is_on = entry.is_on(target.key.start, now());
    Ok(Found {
        target,
        header,
        state: activity.state,
        since: activity.since,
        requests: activity.requests,
        script: text(activity.script),
        switched: if is_on { table::flags_text(entry.flags) } else { "off" },
        by: if is_on { entry.tool_pid } else { 0 },
    })
}

pub fn run(roots: &Roots, buffer: &mut Buffer, args: &TraceArgs, out: &mut dyn Write) -> Outcome {
    let (mut found, mut denied) = (Vec::new(), 0);
    let mut pids = stale::pids(roots);
    pids.sort_unstable();
    for pid in pids {
        match find(roots, buffer, args, pid) {
            Ok(one) => found.push(one),
            Err(Trouble::Denied { .. }) => denied += 1,
            Err(Trouble::Gone | Trouble::NotThere(_)) => {}
            Err(trouble) => tell(&format!("process {pid}: {trouble}")),
        }
    }
    if args.json {
        let list: Vec<Value> = found.iter().map(object).collect();
        writeln!(out, "{}", out::json(&json!({ "processes": list, "denied": denied })))?;
    } else if found.is_empty() {
        writeln!(out, "No process with a tracer")?;
    } else {
        let headings = ["PID", ">INSIDE", "PHP", "SWITCH", ">BY", "TRACER", "ACTIVITY", "SCRIPT"];
        let rows: Vec<Vec<String>> = found.iter().map(row).collect();
        write!(out, "{}", out::table(&headings, &rows))?;
    }
    if denied > 0 && !args.json {
        let others = out::counted(denied, "process", "processes");
        tell(&format!("{others} may not be looked into: that takes CAP_SYS_PTRACE"));
    }
    Ok(Exit::Ok)
}

fn row(found: &Found) -> Vec<String> {
    let by = if found.by == 0 { String::new() } else { found.by.to_string() };
    let since = nanos(now().saturating_sub(found.since));
    vec![
        found.target.key.pid.to_string(),
        found.target.inner.to_string(),
        version(found.header.runtime_version),
        found.switched.to_owned(),
        by,
        tracer(found.header.tracing).to_owned(),
        match found.state {
            ActivityState::Unknown => "unknown".to_owned(),
            ActivityState::Idle => format!("idle for {since}"),
            ActivityState::Busy => format!("busy for {since}"),
        },
        safe(&found.script, CELL_MAX),
    ]
}

fn object(found: &Found) -> Value {
    json!({
        "pid": found.target.key.pid,
        "inner_pid": found.target.inner,
        "start": found.target.key.start,
        "version": version(found.header.runtime_version),
        "switch": found.switched,
        "by": Some(found.by).filter(|by| *by != 0),
        "tracer": tracer(found.header.tracing),
        "records": found.header.head,
        "activity": match found.state {
            ActivityState::Unknown => "unknown",
            ActivityState::Idle => "idle",
            ActivityState::Busy => "busy",
        },
        "since_ns": now().saturating_sub(found.since),
        "requests": found.requests,
        "script": found.script,
    })
}

fn tracer(tracing: Tracing) -> &'static str {
    match tracing {
        Tracing::Off => "off",
        Tracing::On => "on",
        Tracing::OffStale => "off: no beat",
        Tracing::OffSwitch => "off: switched off",
        Tracing::Broken => "broken",
    }
}

/// 80236 is 8.2.36.
fn version(id: u32) -> String {
    format!("{}.{}.{}", id / 10_000, id / 100 % 100, id % 100)
}

pub fn off(
    roots: &Roots,
    buffer: &mut Buffer,
    args: &TraceArgs,
    pids: &[u32],
    out: &mut dyn Write,
) -> Outcome {
    let (mut failed, mut denied) = (false, false);
    for pid in pids {
        let ended = Target::read(roots, *pid, buffer).and_then(|target| {
            let place = Place::open(roots, target, &args.dir, buffer)?;
            match Table::open_to_write(&place) {
                // Nobody has ever switched anything on there.
                Err(Trouble::NotThere(_)) => Ok(false),
                table => table?.switch_off(&target),
            }
        });
        match ended {
            Ok(true) => writeln!(out, "{pid}: switched off")?,
            Ok(false) | Err(Trouble::NotThere(_)) => writeln!(out, "{pid}: was not on")?,
            Err(trouble) => {
                failed = true;
                denied |= matches!(trouble, Trouble::Denied { .. });
                tell(&format!("process {pid}: {}", session::told(&trouble)));
            }
        }
    }
    Ok(match (failed, denied) {
        (false, _) => Exit::Ok,
        (true, false) => Exit::Wrong,
        (true, true) => Exit::CannotWork,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_is_said_as_php_does() {
        assert_eq!(super::version(80236), "8.2.36");
        assert_eq!(super::version(0), "0.0.0");
    }
}
