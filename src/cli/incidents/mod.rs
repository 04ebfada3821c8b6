//! `nbguard incidents`: the record, as a table, one told in full, or as it is written.
//! Reads the rotated files too. A line that cannot be read is skipped, counted and named.

mod filter;
mod follow;
mod read;
mod tell;

pub use tell::{RANKING, cells, cleaning, dead_in, full, short, what, when, whom, whose};

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{files, out};
use crate::config::RecordSettings;
use read::Read;

#[derive(Args, Debug)]
pub struct IncidentsArgs {
    /// Tell this one in full: the first characters of its id, or `last`
    #[arg(conflicts_with_all = ["follow", "last"])]
    pub id: Option<String>,
    /// Go on printing what is recorded from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Print JSON, one object a line, as recorded
    #[arg(long)]
    pub json: bool,
    /// The record, if not the one that the configuration names
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub filter: filter::Filter,
}

/// What `--follow` shows of what has been, unless `--last` says otherwise; as tail(1).
const SHOWN_BEFORE: usize = 10;

pub fn run(config: &Path, args: &IncidentsArgs, out: &mut dyn Write) -> Outcome {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => record_path(config),
    };
    if let Some(id) = &args.id {
        return one(&path, id, args, out);
    }
    if args.follow {
        let before = args.last.unwrap_or(SHOWN_BEFORE);
        return follow::run(&path, before, args.json, &args.filter, out);
    }
    let mut found = read::all(&path).map_err(Failure::wrong)?;
    let all = found.records.len();
    found.records.retain(|record| args.filter.takes(&record.incident));
    if let Some(last) = args.last {
        found.records.drain(..found.records.len().saturating_sub(last));
    }
    if args.json {
        for record in &found.records {
            writeln!(out, "{}", out::quiet_json(&record.line))?;
        }
    } else if found.records.is_empty() && all > 0 {
        writeln!(
            out,
            "None of the {} was asked for",
            out::counted(all as u64, "incident", "incidents")
        )?;
    } else if found.records.is_empty() {
        writeln!(out, "No incidents in {}", path.display())?;
    } else {
        write!(out, "{}", tell::list(&found.records))?;
    }
    count_skipped(&found);
    Ok(Exit::Ok)
}

/// Every record that can be read, the oldest first: for `nbguard top`.
///
/// # Errors
/// As [`read::all`].
pub fn recorded(path: &Path) -> Result<Vec<crate::report::Incident>, String> {
    Ok(read::all(path)?.records.into_iter().map(|record| record.incident).collect())
}

/// Where the daemon writes its record. A configuration with errors must not hide what happened,
/// so its place is then the default one.
fn record_path(config: &Path) -> PathBuf {
    match files::config(config) {
        Ok((config, _)) => config.record.path,
        Err(error) => {
            let path = RecordSettings::default().path;
            let shown = path.display();
            let _ = writeln!(io::stderr(), "nbguard: {error}\nnbguard: reading {shown}");
            path
        }
    }
}

fn one(path: &Path, id: &str, args: &IncidentsArgs, out: &mut dyn Write) -> Outcome {
    let mut found = read::all(path).map_err(Failure::wrong)?;
    found.records.retain(|record| args.filter.takes(&record.incident));
    let mut matching =
        found.records.iter().filter(|record| id == "last" || record.incident.id.starts_with(id));
    let record = if id == "last" { matching.next_back() } else { matching.next() };
    let Some(record) = record else {
        count_skipped(&found);
        let id = out::safe(id, out::CELL_MAX);
        return Err(Failure::wrong(format!("no incident {id} in {}", path.display())));
    };
    if id != "last" && matching.any(|other| other.incident.id != record.incident.id) {
        return Err(Failure::wrong(format!("more than one incident begins with {id}")));
    }
    if args.json {
        writeln!(out, "{}", out::quiet_json(&record.line))?;
    } else {
        write!(out, "{}", tell::full(&record.incident, out::Paint::for_stdout()))?;
    }
    Ok(Exit::Ok)
}

fn count_skipped(found: &Read) {
    if found.broken > 0 {
        let lines = out::counted(found.broken, "line", "lines");
        let more = if found.named.len() as u64 == found.broken { "" } else { ", …" };
        let named = found.named.join(", ");
        let _ =
            writeln!(io::stderr(), "nbguard: {lines} could not be read, skipped: {named}{more}");
    }
}

#[cfg(test)]
pub use tests::incident as an_incident;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{
        ContainerRecord, FiguresRecord, Incident, Kind, Row, SCHEMA, Timings, Unattributed,
        Verdict, Victim,
    };
    use crate::units::Bytes;
    use std::fs;

    pub fn incident(id: &str, notebook: &str) -> Incident {
        let row = Row {
            pid: 4242,
            start: 1,
            memory: Bytes::mib(300),
            lower: Bytes::mib(290),
            upper: Bytes::mib(310),
            settled_by: "intervals".into(),
            name: "python3".into(),
            notebook: Some(notebook.into()),
            eligible: "yes".into(),
            because: "it holds the most".into(),
            ..Row::default()
        };
        Incident {
            schema: SCHEMA,
            id: id.into(),
            time: "2026-11-22T10:00:00.000Z".into(),
            host: "h".into(),
            kind: Kind::Kill,
            domain: "container".into(),
            container: Some(ContainerRecord { name: "lab".into(), ..ContainerRecord::default() }),
            mode: "high+psi".into(),
            trigger: "high".into(),
            figures: FiguresRecord {
                usage: Bytes::mib(460),
                total: Bytes::mib(512),
                threshold: Bytes::mib(460),
                ..FiguresRecord::default()
            },
            rows: vec![row],
            servers: Vec::new(),
            unattributed: Unattributed::default(),
            verdict: Verdict::Kill,
            reason: "largest".into(),
            sentence: "it held the most".into(),
            dry_run: false,
            victim: Some(Victim {
                pid: 4242,
                name: "python3".into(),
                notebook: Some(notebook.into()),
                memory: Bytes::mib(300),
                signals: vec!["KILL".into()],
                signalled: 3,
                ..Victim::default()
            }),
            timings: Timings { event_to_signal_us: Some(2_300), ..Timings::default() },
            freed: Some(Bytes::mib(298)),
            kernel_oom_kills: 0,
            message: "skipped: off".into(),
            stack: Vec::new(),
            cleaning: None,
        }
    }

    pub(super) fn folder(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("nbguard-incidents-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn asked(file: &Path) -> IncidentsArgs {
        IncidentsArgs {
            id: None,
            follow: false,
            last: None,
            json: false,
            file: Some(file.to_owned()),
            filter: filter::Filter::default(),
        }
    }

    fn said(args: &IncidentsArgs) -> Result<String, Failure> {
        let mut text = Vec::new();
        run(Path::new("unused"), args, &mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }

    fn line(id: &str) -> String {
        serde_json::to_string(&incident(id, "/home/a.ipynb")).unwrap() + "\n"
    }

    #[test]
    fn lists_rotated_files_first_and_skips_what_is_broken() {
        let dir = folder("list");
        let file = dir.join("incidents.jsonl");
        fs::write(dir.join("incidents.jsonl.2"), line("aaaa-1")).unwrap();
        fs::write(dir.join("incidents.jsonl.1"), line("bbbb-2") + "{\"cut\n").unwrap();
        fs::write(&file, [line("cccc-3").as_bytes(), b"\xff\xfe\n"].concat()).unwrap();
        let found = read::all(&file).unwrap();
        assert_eq!(found.broken, 2);
        assert_eq!(found.named, ["incidents.jsonl.1:2", "incidents.jsonl:2"]);
        let text = said(&asked(&file)).unwrap();
        let at = |id: &str| text.find(id).unwrap();
        assert!(at("aaaa") < at("bbbb") && at("bbbb") < at("cccc"), "{text}");
        let last = said(&IncidentsArgs { last: Some(1), ..asked(&file) }).unwrap();
        assert!(last.contains("cccc") && !last.contains("bbbb"), "{last}");
        let json = said(&IncidentsArgs { json: true, ..asked(&file) }).unwrap();
        assert_eq!(json, line("aaaa-1") + &line("bbbb-2") + &line("cccc-3"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_is_found_by_the_first_characters_of_its_id_or_as_the_last() {
        let dir = folder("one");
        let file = dir.join("incidents.jsonl");
        fs::write(&file, line("abc-1") + &line("abd-2")).unwrap();
        let tell = |id: &str| said(&IncidentsArgs { id: Some(id.into()), ..asked(&file) });
        assert!(tell("abc").unwrap().contains("abc-1"));
        assert!(tell("last").unwrap().contains("abd-2"));
        assert!(tell("ab").unwrap_err().to_string().contains("more than one"));
        assert_eq!(tell("x").unwrap_err().exit(), Exit::Wrong);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_record_is_no_incident() {
        let text = said(&asked(Path::new("/nonexistent/incidents.jsonl"))).unwrap();
        assert!(text.contains("No incidents"), "{text}");
    }
}
