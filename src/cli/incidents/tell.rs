//! Incidents in words: a row of the table, a line, or the whole story. Pure: records in, text out.

use std::fmt::Write;

use crate::cli::out::{self, CELL_MAX, LINE_MAX, Paint, safe};
use crate::report::{Cleaning, Incident, Kind, ProcessRecord, Row};

/// Members that are listed of each workload.
const MEMBERS_SHOWN: usize = 16;

/// A table, one row each: when, what, who, why, how long it took, what came back, who was told.
pub fn list(records: &[super::read::Record]) -> String {
    let rows: Vec<Vec<String>> = records.iter().map(|record| cells_of(&record.incident)).collect();
    let headings =
        ["ID", "WHEN", "WHAT", "CONTAINER", "NOTEBOOK", "WHY", ">DEAD IN", ">FREED", "TOLD"];
    out::table(&headings, &rows)
}

fn cells_of(incident: &Incident) -> Vec<String> {
    vec![
        short(&incident.id),
        when(incident),
        what(incident).to_owned(),
        whose(incident),
        whom(incident),
        safe(&incident.reason, CELL_MAX),
        dead_in(incident).map_or_else(none, out::micros),
        incident.freed.map_or_else(none, |freed| freed.to_string()),
        told(incident),
    ]
}

fn none() -> String {
    "-".to_owned()
}

/// `2026-11-22 10:00:00`, UTC; a time that is none as it stands.
pub fn when(incident: &Incident) -> String {
    let time = incident.time.get(..19).filter(|time| time.is_ascii());
    safe(&time.unwrap_or(&incident.time).replace('T', " "), 32)
}

/// From the first event until the tree was dead.
pub fn dead_in(incident: &Incident) -> Option<u64> {
    let t = &incident.timings;
    Some(t.event_to_signal_us?.saturating_add(t.signal_to_dead_us?))
}

/// Whether the notebook was: the first word; the reason is in the whole story.
fn told(incident: &Incident) -> String {
    match incident.message.split(':').next().unwrap_or_default() {
        _ if incident.victim.is_none() || incident.dry_run => none(),
        "" => none(),
        word => safe(word, 32),
    }
}

/// One line, for `--follow`.
pub fn line(incident: &Incident, paint: Paint) -> String {
    let what = match incident.kind {
        Kind::Hold => paint.yellow(what(incident)),
        Kind::Kill | Kind::KernelOom => paint.red(what(incident)),
    };
    format!(
        "{}  {}  {what}  {}: {}",
        safe(&incident.time, 32),
        short(&incident.id),
        whose(incident),
        safe(&incident.sentence, LINE_MAX)
    )
}

/// The characters that name an incident.
pub fn short(id: &str) -> String {
    safe(id.get(..8).unwrap_or(id), CELL_MAX)
}

pub fn what(incident: &Incident) -> &'static str {
    match (incident.kind, incident.dry_run) {
        (Kind::Kill, false) => "ended",
        (Kind::Kill, true) => "would end",
        (Kind::Hold, _) => "held",
        (Kind::KernelOom, _) => "kernel OOM",
    }
}

pub fn whose(incident: &Incident) -> String {
    match &incident.container {
        Some(container) if !container.name.is_empty() => safe(&container.name, CELL_MAX),
        Some(container) => safe(container.id.get(..12).unwrap_or(&container.id), CELL_MAX),
        None => safe(&incident.domain, CELL_MAX),
    }
}

pub fn whom(incident: &Incident) -> String {
    match &incident.victim {
        Some(victim) => safe(victim.notebook.as_ref().unwrap_or(&victim.name), CELL_MAX),
        None => "-".to_owned(),
    }
}

/// The whole story.
pub fn full(incident: &Incident, paint: Paint) -> String {
    let mut text = String::new();
    head(&mut text, incident, paint);
    figures(&mut text, incident);
    victim(&mut text, incident);
    ranking(&mut text, incident, paint);
    if let Some(made) = &incident.cleaning {
        text += "\n";
        text += &cleaning(made);
    }
    bystanders(&mut text, incident);
    if !incident.stack.is_empty() {
        let before = incident.timings.stack_to_decision_us;
        let before = before.map_or(String::new(), |us| format!(" {} before", out::micros(us)));
        let _ = writeln!(text, "\nWhat it was running{before}, innermost first:");
        for frame in incident.stack.iter().take(64) {
            let _ = writeln!(text, "  {}", safe(frame, LINE_MAX));
        }
    }
    text
}

fn field(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name:<11} {value}");
}

fn head(text: &mut String, incident: &Incident, paint: Paint) {
    let sentence = safe(&incident.sentence, LINE_MAX);
    let _ = writeln!(text, "{}\n", paint.bold(&sentence));
    field(text, "what", what(incident));
    field(text, "incident", safe(&incident.id, CELL_MAX));
    field(
        text,
        "time",
        format!("{}  on {}", safe(&incident.time, 32), safe(&incident.host, CELL_MAX)),
    );
    if let Some(container) = &incident.container {
        let id = container.id.get(..12).unwrap_or(&container.id);
        let words = [&container.name, &container.image, &container.engine]
            .map(|word| safe(word, LINE_MAX))
            .into_iter()
            .filter(|word| !word.is_empty());
        let words: Vec<String> = words.collect();
        field(text, "container", format!("{}  {}", words.join("  "), safe(id, CELL_MAX)));
        for (key, value) in container.labels.iter().take(64) {
            field(text, "  label", format!("{}={}", safe(key, CELL_MAX), safe(value, LINE_MAX)));
        }
    }
    let watched = format!(
        "the {}, mode {}, opened by {}",
        safe(&incident.domain, CELL_MAX),
        safe(&incident.mode, CELL_MAX),
        safe(&incident.trigger, CELL_MAX)
    );
    field(text, "watched", watched);
    field(text, "reason", safe(&incident.reason, CELL_MAX));
    if incident.dry_run {
        field(text, "dry run", "nothing was touched");
    }
    if incident.kernel_oom_kills > 0 {
        field(text, "kernel", format!("{} OOM kills meanwhile", incident.kernel_oom_kills));
    }
}

fn figures(text: &mut String, incident: &Incident) {
    let f = &incident.figures;
    let limit = match f.limit {
        Some(limit) => format!("limit {limit}"),
        None => format!("no limit, the host has {}", f.total),
    };
    let high = f.high.map(|high| format!(", memory.high {high}")).unwrap_or_default();
    field(text, "limits", format!("{limit}, threshold {}{high}", f.threshold));
    let swap = f.swap.map(|swap| format!(", swap {swap}")).unwrap_or_default();
    let usage = format!(
        "{}, of it not reclaimable {} (anonymous {}, shared {}{swap})",
        f.usage, f.unreclaimable, f.anon, f.shmem
    );
    field(text, "usage", usage);
    if let (Some(some), Some(full)) = (f.psi_some_avg10, f.psi_full_avg10) {
        field(text, "pressure", format!("some {some:.2} %, full {full:.2} % in 10 s"));
    }
}

fn victim(text: &mut String, incident: &Incident) {
    let Some(victim) = &incident.victim else { return };
    let notebook = victim.notebook.as_deref().map(|n| safe(n, LINE_MAX)).unwrap_or_default();
    let named = format!("{notebook}  pid {} {}", victim.pid, safe(&victim.name, CELL_MAX));
    field(text, "notebook", named.trim_start());
    if let Some(kernel) = &victim.kernel_id {
        field(text, "kernel id", safe(kernel, CELL_MAX));
    }
    let freed = match incident.freed {
        Some(freed) => format!(", {freed} came back"),
        None => String::new(),
    };
    field(text, "memory", format!("{}{freed}", victim.memory));
    let mut done = format!(
        "{} to {} processes in {} sweeps",
        safe(&victim.signals.join(", "), CELL_MAX),
        victim.signalled,
        victim.sweeps
    );
    if victim.trackers_spared > 0 {
        let _ = write!(done, ", {} resource trackers given time", victim.trackers_spared);
    }
    if victim.frozen {
        done += ", the last one frozen";
    }
    field(text, "signals", done);
    for refusal in victim.refused.iter().take(MEMBERS_SHOWN) {
        field(text, "refused", format!("pid {}: {}", refusal.pid, safe(&refusal.reason, LINE_MAX)));
    }
    let t = &incident.timings;
    let steps = [
        ("event to decision", t.event_to_decision_us),
        ("event to signal", t.event_to_signal_us),
        ("signal to dead", t.signal_to_dead_us),
        ("signal to memory back", t.signal_to_back_us),
    ];
    let whole = dead_in(incident).map(|us| format!("event to dead {}", out::micros(us)));
    let steps: Vec<String> = steps
        .into_iter()
        .filter_map(|(step, us)| Some(format!("{step} {}", out::micros(us?))))
        .chain(whole)
        .collect();
    if !steps.is_empty() {
        field(text, "timings", steps.join(", "));
    }
    if !incident.message.is_empty() {
        field(text, "told", safe(&incident.message, LINE_MAX));
    }
}

fn ranking(text: &mut String, incident: &Incident, paint: Paint) {
    if incident.rows.is_empty() {
        return;
    }
    *text += "\nRanking, who goes first on top:\n";
    let rows: Vec<Vec<String>> = incident.rows.iter().map(cells).collect();
    *text += &out::table(&RANKING, &rows);
    for row in &incident.rows {
        if !row.because.is_empty() {
            let because = format!("  {}: {}", row.pid, safe(&row.because, LINE_MAX));
            let _ = writeln!(text, "{}", paint.dim(&because));
        }
    }
    for row in incident.rows.iter().filter(|row| row.members.len() > 1) {
        let _ = writeln!(text, "\nProcesses of {}:", row.pid);
        processes(text, &row.members);
    }
}

/// The headings of a ranking, here and in `nbguard ps`.
pub const RANKING: [&str; 7] =
    [">PID", ">MEMORY", "BETWEEN", "NAME", "NOTEBOOK", "USER", "MAY END"];

/// A row of a ranking, here and in `nbguard ps`.
pub fn cells(row: &Row) -> Vec<String> {
    let between = if row.lower == row.upper {
        "exact".to_owned()
    } else {
        format!("{} - {}", row.lower, row.upper)
    };
    vec![
        row.pid.to_string(),
        row.memory.to_string(),
        between,
        safe(&row.name, CELL_MAX),
        row.notebook.as_ref().map_or_else(|| "-".to_owned(), |n| safe(n, CELL_MAX)),
        row.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
        safe(&row.eligible, CELL_MAX),
    ]
}

/// For whose sake others end under `idle-first`: here and in `nbguard ps`.
pub fn cleaning(made: &Cleaning) -> String {
    let mut text = String::new();
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let _ = writeln!(
        text,
        "Applications, as shares of {}; more than {} is too much:",
        safe(&made.of, CELL_MAX),
        percent(Some(made.ratio))
    );
    let important = made.important.as_ref().map(|app| app.name.as_str());
    let rows: Vec<Vec<String>> = made
        .applications
        .iter()
        .map(|app| {
            vec![
                safe(&app.name, CELL_MAX),
                app.processes.to_string(),
                app.memory.to_string(),
                percent(app.memory_share),
                percent(app.cpu_share),
                match (important == Some(app.name.as_str()), app.over) {
                    (true, _) => "important".to_owned(),
                    (false, true) => "over".to_owned(),
                    (false, false) => String::new(),
                },
            ]
        })
        .collect();
    text += &out::table(&["APPLICATION", ">PROCESSES", ">MEMORY", ">SHARE", ">CPU", ""], &rows);
    if let Some(after) = &made.after {
        let _ = writeln!(
            text,
            "{} has {} of the memory and {} of the CPU time after it",
            safe(&after.name, CELL_MAX),
            percent(after.memory_share),
            percent(after.cpu_share)
        );
    }
    let _ = writeln!(
        text,
        "Not essential: {}, of which it takes {} (clear = {:?})",
        made.candidates, made.needed, made.clear
    );
    if made.number > 1
        && let Some(first) = &made.first
    {
        let _ = writeln!(text, "Number {} after {}", made.number, short(first));
    }
    text
}

fn bystanders(text: &mut String, incident: &Incident) {
    if !incident.servers.is_empty() {
        *text += "\nNotebook servers, never ended:\n";
        processes(text, &incident.servers);
    }
    let rest = &incident.unattributed;
    if rest.count > 0 {
        let _ = writeln!(text, "\nIn no notebook: {} processes, {}", rest.count, rest.memory);
        processes(text, &rest.top);
    }
}

fn processes(text: &mut String, list: &[ProcessRecord]) {
    for process in list.iter().take(MEMBERS_SHOWN) {
        let memory = process.memory.to_string();
        let _ =
            writeln!(text, "  {:>9}  {memory:>10}  {}", process.pid, safe(&process.name, CELL_MAX));
    }
    if list.len() > MEMBERS_SHOWN {
        let _ = writeln!(text, "  and {} more", list.len() - MEMBERS_SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::incident;
    use super::*;
    use crate::report::Application;
    use crate::units::Bytes;

    #[test]
    fn a_hostile_name_cannot_play_with_the_terminal() {
        let mut hostile = incident("1", "a\u{1b}[2J\u{202e}\nINJECTED");
        hostile.sentence = "\u{9b}31m".into();
        for text in [full(&hostile, Paint::plain()), line(&hostile, Paint::plain())] {
            assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{text:?}");
            assert!(!text.contains('\u{202e}'));
            assert!(!text.lines().any(|l| l.trim_start().starts_with("INJECTED")));
        }
    }

    #[test]
    fn the_story_of_the_cleaner_has_the_applications_before_and_after() {
        let app = |share| Application {
            name: "pool:www\u{1b}[2J".into(),
            processes: 8,
            memory: Bytes::mib(200),
            memory_share: Some(share),
            cpu_share: None,
            over: true,
        };
        let mut told = incident("abcdef12-3", "/home/a.ipynb");
        told.cleaning = Some(Box::new(Cleaning {
            of: "the total".into(),
            ratio: 0.02,
            clear: "enough".into(),
            important: Some(app(0.4)),
            after: Some(app(0.35)),
            applications: vec![app(0.4)],
            candidates: 3,
            needed: 2,
            first: Some("12345678-9".into()),
            number: 2,
            ..Cleaning::default()
        }));
        let text = full(&told, Paint::plain());
        for words in [
            "shares of the total; more than 2.0 % is too much",
            "pool:www",
            "important",
            "40.0 %",
            "has 35.0 % of the memory and - of the CPU time after it",
            "Not essential: 3, of which it takes 2",
            "Number 2 after 12345678",
        ] {
            assert!(text.contains(words), "{words} in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn the_story_names_victim_figures_and_times() {
        let text = full(&incident("abcdef12-3", "/home/a.ipynb"), Paint::plain());
        for word in [
            "abcdef12-3",
            "/home/a.ipynb",
            "300.0 MiB",
            "290.0 MiB - 310.0 MiB",
            "event to signal 2.3 ms",
            "KILL to 3 processes",
            "298.0 MiB came back",
            "lab",
        ] {
            assert!(text.contains(word), "{word} in:\n{text}");
        }
    }
}
