//! Every list against its copies: what the README, the documents beside it, the scenarios and `--help`
//! repeat of the source must be what the source says. `config::keys` itself compares `conf/nbguard.toml`.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};
use nbguard::cli::Cli;
use nbguard::cli::daemon::OPTIONS;
use nbguard::config::keys::Section;
use nbguard::facts::Mode;
use nbguard::observe::{line, reference};
use nbguard::policy::decide::{HoldReason, KillWhy};
use nbguard::policy::episode::Wake;
use nbguard::report::{
    Application, Cleaning, ContainerRecord, FiguresRecord, Incident, Kind, ProcessRecord, Refusal,
    Row, SCHEMA, Timings, Unattributed, Verdict, Victim,
};
use serde_json::Value;

use crate::{read, root};

const MODES: [Mode; 6] =
    [Mode::HighPsi, Mode::High, Mode::Psi, Mode::Events, Mode::V1Threshold, Mode::None];

#[test]
fn the_readme_has_every_command_and_no_option_that_is_not_there() {
    let told = rows("| command | what it does |");
    let full = Cli::command();
    let public: Vec<_> = full.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    assert_eq!(told.len(), public.len() + 1);
    for command in public {
        let name = format!("`nbguard {}`", command.get_name());
        let row = told.iter().find(|row| row[0] == name);
        let row = row.unwrap_or_else(|| panic!("{name} is not in the README's table")).join(" ");
        for option in options_in(&row) {
            let known = command.get_opts().any(|known| known.get_long() == Some(&option));
            assert!(known, "{name} has no --{option}");
        }
    }
    let daemon = told.iter().find(|row| row[0] == "`nbguardd`").expect("the daemon's row");
    for option in options_in(&daemon.join(" ")) {
        assert!(OPTIONS.iter().any(|known| known.long == option), "nbguardd has no --{option}");
    }
}

#[test]
fn every_example_of_the_documents_parses() {
    let mut count = 0;
    for (name, text) in documents() {
        let shell = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        for line in shell.flat_map(str::lines) {
            let words = line.trim_start_matches("sudo ").split(" | ").next().unwrap_or_default();
            let words = words.split('#').next().unwrap_or_default();
            let Some(rest) = words.strip_prefix("nbguard ") else { continue };
            // As a shell would.
            let rest = rest.split_whitespace().map(|word| word.trim_matches('\''));
            let line = std::iter::once("nbguard").chain(rest);
            Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{name}: {words}: {error}"));
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

#[test]
fn the_keys_of_the_readme_are_keys_of_the_configuration() {
    let known: Vec<_> = Section::Default.keys().collect();
    for row in rows("| key | default |") {
        let name = row[0].trim_matches('`');
        let key = known.iter().find(|key| key.name == name);
        let key = key.unwrap_or_else(|| panic!("[default] has no key {name}"));
        let number: String = row[1].chars().filter(|c| c.is_ascii_digit()).collect();
        assert!(key.default.contains(&number), "{name}: {} is not {}", row[1], key.default);
    }
}

#[test]
fn every_toml_of_the_documents_is_a_configuration() {
    let mut count = 0;
    for (name, text) in documents() {
        for example in text.split("```toml\n").skip(1) {
            let text = example.split("```").next().unwrap_or_default().to_owned();
            let read = nbguard::config::Config::read(&[(name.clone().into(), text)]);
            assert!(read.is_ok(), "{}", read.err().map(|e| e.to_string()).unwrap_or_default());
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}

/// What a file says stands somewhere else is there.
#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut count = 0;
    for (name, text) in documents() {
        let folder = root().join(&name).parent().expect("a folder").to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{name}: there is no {target}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_tables_have_every_mode_reason_and_trigger() {
    let modes: Vec<&str> = reference::MODES.iter().map(|(mode, ..)| *mode).collect();
    assert_eq!(modes, MODES.map(Mode::as_str));
    let told: Vec<&str> = reference::REASONS.iter().map(|reason| reason.name).collect();
    let once: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(once.len(), told.len());
    let kills = KillWhy::ALL.map(KillWhy::as_str);
    let made = HoldReason::ALL.map(HoldReason::as_str);
    assert_eq!(once, kills.iter().chain(&made).chain(&["kernel-oom"]).copied().collect());
    let triggers = reference::RECORD.iter().find(|(keys, _)| keys.contains(&"trigger"));
    let (_, triggers) = triggers.expect("a row for `trigger`");
    for wake in Wake::ALL {
        assert!(triggers.contains(&format!("`{}`", wake.as_str())), "{}", wake.as_str());
    }
}

#[test]
fn the_readme_has_every_mode_as_the_table_has_it() {
    let made: Vec<Vec<String>> = reference::MODES
        .iter()
        .map(|(mode, meaning, worth)| {
            vec![format!("`{mode}`"), (*meaning).to_owned(), (*worth).to_owned()]
        })
        .collect();
    assert_eq!(rows("| mode | meaning |"), made);
}

#[test]
fn the_table_has_every_key_of_the_record_and_no_other() {
    let told = reference::RECORD.iter().flat_map(|(keys, _)| *keys);
    let told: BTreeSet<String> = told.map(|key| (*key).to_owned()).collect();
    let value = serde_json::to_value(full()).expect("a record is JSON");
    let mut made = BTreeSet::new();
    keys_of(&value, "", &mut made);
    assert_eq!(told, made);
}

#[test]
fn the_table_has_every_key_of_the_log_line_in_its_order() {
    let mut incident = full();
    incident.dry_run = true;
    let told: Vec<&str> = reference::LINE.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys_of_line(&line::line(&incident)), told);
}

#[test]
fn the_page_of_the_record_is_the_tables() {
    let told = "write it anew: nbguard doc record > packaging/doc/record.md";
    assert!(read("packaging/doc/record.md") == reference::manual(), "{told}");
}

#[test]
fn the_readme_has_every_key_of_the_log_line() {
    let readme = read("README.md");
    let section = readme.split("## What happened").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut incident = full();
    incident.dry_run = true;
    for word in keys_of_line(&line::line(&incident)) {
        assert!(section.contains(&format!("{word}=")), "{word}= is not in the README");
    }
    let example = section.split("```text\n").nth(1).expect("the example");
    let example = example.split("```").next().unwrap_or_default();
    let known = keys_of_line(&line::line(&incident));
    for word in keys_of_line(&example.replace('\n', " ")) {
        assert!(known.contains(&word), "the line has no {word}=");
    }
}

/// A budget is proved by a test that is there, or it is pending.
#[test]
fn every_budget_names_its_test_and_every_path_of_the_documents_leads_somewhere() {
    for row in rows("| promise | bar |") {
        let proved = &row[2];
        let pending = proved.contains("*pending*");
        assert!(pending || !quoted(proved).is_empty(), "{}: no test and not pending", row[0]);
    }
    for (name, text) in documents() {
        for line in text.lines().filter(|line| !line.contains("*pending*")) {
            for path in quoted(line) {
                let path = path.split([' ', ':']).next().unwrap_or_default().to_owned();
                let tops = ["src/", "tests/", "conf/", "packaging/"];
                if tops.iter().any(|top| path.starts_with(top)) {
                    assert!(root().join(&path).exists(), "{name}: there is no {path}");
                }
            }
        }
    }
}

#[test]
fn every_scenario_letter_is_shipped() {
    let letters: BTreeSet<char> = std::fs::read_dir(root().join("tests/vm/scenarios"))
        .expect("the scenarios")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.chars().next())
        .collect();
    let missing: Vec<char> = ('a'..='u').filter(|letter| !letters.contains(letter)).collect();
    assert!(missing.is_empty(), "no scenario {missing:?}");
}

#[test]
fn every_scenario_of_the_usual_run_is_there() {
    let suite = read("tests/suite.py");
    let list =
        suite.split("ONE_BOOT = [").nth(1).expect("the list").split(']').next().unwrap_or("");
    let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let letters: String = names.iter().filter_map(|name| name.chars().next()).collect();
    assert_eq!(letters, "abehklpryyyy");
    for name in names {
        assert!(root().join(format!("tests/vm/scenarios/{name}.toml")).exists(), "{name}");
    }
}

#[test]
fn the_changelog_has_this_version() {
    let version = format!("## {}", env!("CARGO_PKG_VERSION"));
    assert!(read("CHANGELOG.md").contains(&version), "CHANGELOG.md has no {version}");
}

/// What people read: the README, and what it leads to.
fn documents() -> Vec<(String, String)> {
    let folder = "packaging/doc";
    let found = std::fs::read_dir(root().join(folder)).expect("the folder of documents");
    let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names = names.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}/{name}"));
    let names = ["README.md", "SECURITY.md", "packaging/kubernetes/README.md"]
        .map(str::to_owned)
        .into_iter()
        .chain(names);
    names.map(|name| (name.clone(), read(&name))).collect()
}

/// The rows of the README's table whose head begins like this, cell by cell.
fn rows(head: &str) -> Vec<Vec<String>> {
    let readme = read("README.md");
    let mut lines = readme.lines().skip_while(|line| !line.starts_with(head));
    assert!(lines.next().is_some(), "README.md has no table {head}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn options_in(text: &str) -> Vec<String> {
    let names = text.split("--").skip(1);
    let names = names.map(|rest| {
        rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// `key=` in front of each value, whatever stands inside quotes.
fn keys_of_line(line: &str) -> Vec<String> {
    let outside: String = line.split('"').step_by(2).collect();
    outside
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(key, _)| key.to_owned())
        .collect()
}

/// Every key of a record as the README writes it: `a.b`, and `a[].b` in lists.
fn keys_of(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        // A map with keys of its own making, or nothing to look into.
        Value::Object(object) if at != "container.labels" => {
            for (key, value) in object {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                keys_of(value, &at, found);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for value in list {
                keys_of(value, &format!("{at}[]"), found);
            }
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

/// A record in which nothing is left out.
fn full() -> Incident {
    let process = ProcessRecord::default();
    let row =
        Row { notebook: Some(String::new()), members: vec![process.clone()], ..Row::default() };
    let us = Some(1);
    Incident {
        schema: SCHEMA,
        id: "3fa85f64".into(),
        time: String::new(),
        host: String::new(),
        kind: Kind::Kill,
        domain: "container".into(),
        container: Some(ContainerRecord::default()),
        mode: String::new(),
        trigger: String::new(),
        figures: FiguresRecord { psi_some_avg10: Some(1.0), ..FiguresRecord::default() },
        rows: vec![row],
        servers: vec![process.clone()],
        unattributed: Unattributed { top: vec![process], ..Unattributed::default() },
        verdict: Verdict::Kill,
        reason: String::new(),
        sentence: String::new(),
        dry_run: false,
        victim: Some(Victim {
            notebook: Some(String::new()),
            refused: vec![Refusal::default()],
            ..Victim::default()
        }),
        timings: Timings {
            event_to_decision_us: us,
            decision_to_signal_us: us,
            event_to_signal_us: us,
            signal_to_dead_us: us,
            signal_to_back_us: us,
            stack_to_decision_us: us,
        },
        freed: Some(nbguard::units::Bytes(1)),
        kernel_oom_kills: 1,
        message: String::new(),
        stack: Vec::new(),
        cleaning: Some(Box::new(Cleaning {
            important: Some(Application::default()),
            after: Some(Application::default()),
            applications: vec![Application::default()],
            ..Cleaning::default()
        })),
    }
}
