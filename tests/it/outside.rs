//! What is shipped beside the program and repeats its names: the metrics' page, Prometheus' rules,
//! the dashboard, the journal's catalog, the example hooks. Each against the list it repeats.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use nbguard::observe::journal;
use nbguard::observe::line::line;
use nbguard::observe::metrics::{METRICS, manual};
use nbguard::report::Incident;
use serde_json::Value;

use crate::{read, root, skip};

const RULES: &str = "packaging/prometheus/nbguard.rules.yml";
const RULES_TEST: &str = "packaging/prometheus/nbguard.rules.test.yml";
const FLEET: &str = "packaging/prometheus/fleet.rules.yml";
const FLEET_TEST: &str = "packaging/prometheus/fleet.rules.test.yml";
const DASHBOARD: &str = "packaging/grafana/nbguard.json";
const CATALOG: &str = "packaging/nbguard.catalog";
const COUNTERS: &str = "src/report/counters.rs";

#[test]
fn the_page_of_metrics_is_the_table() {
    let written = read("packaging/doc/metrics.md");
    let told = "write it anew: nbguard doc metrics > packaging/doc/metrics.md";
    assert!(written == manual(), "{told}");
    for metric in METRICS {
        assert!(metric.help.ends_with('.') && metric.help.len() > 10, "{}", metric.name);
        assert!(!metric.help.contains(['|', '"', '\\', '\n']), "{}", metric.name);
        let unit = metric.unit.is_empty() || metric.name.ends_with(metric.unit);
        assert!(unit && metric.name.starts_with("nbguard_"), "{}", metric.name);
    }
}

/// The names of metrics in a text, with the labels in braces behind each.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = text;
    while let Some(at) = rest.find("nbguard_") {
        let inside = rest[..at].ends_with(word);
        rest = &rest[at..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if inside {
            continue;
        }
        let labels = after.strip_prefix('{').and_then(|braces| braces.split_once('}'));
        let labels = labels.map_or("", |(inside, _)| inside).split("\",");
        let labels = labels.filter_map(|pair| pair.split(['=', '!']).next());
        let labels = labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        found.push((name.to_owned(), labels.collect()));
    }
    found
}

/// Every metric and label in a text is one that is written.
fn all_exist(file: &str, text: &str) -> usize {
    let found = named(text);
    for (name, labels) in &found {
        let metric = METRICS.iter().find(|metric| metric.samples().contains(name));
        let metric = metric.unwrap_or_else(|| panic!("{file}: there is no metric {name}"));
        for label in labels {
            let of_scrape = ["instance", "job", "le"].contains(&label.as_str());
            let known = of_scrape || metric.labels.contains(&label.as_str());
            assert!(known, "{file}: {name} has no label {label:?}");
        }
    }
    found.len()
}

#[test]
fn names_and_labels_are_found_wherever_they_stand() {
    let text =
        "sum by (x) (increase(nbguard_a_total{b=\"c,d\",e!~\"f\"}[5m])) / nbguard_g or x_nbguard_h";
    let made = named(text);
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let wanted =
        vec![("nbguard_a_total".to_owned(), words(&["b", "e"])), ("nbguard_g".to_owned(), vec![])];
    assert_eq!(made, wanted);
}

#[test]
fn the_rules_ask_for_metrics_that_are_there_and_each_is_played() {
    for (rules_file, test_file, least) in [(RULES, RULES_TEST, 10), (FLEET, FLEET_TEST, 5)] {
        let (rules, played) = (read(rules_file), read(test_file));
        assert!(all_exist(rules_file, &rules) > least);
        assert!(all_exist(test_file, &played) > least);
        let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        for alert in alerts {
            let quiet = played.contains(&format!("alertname: {alert}}}"));
            let fires = played.contains(&format!("alertname: {alert}\n        exp_alerts"));
            assert!(quiet && fires, "{alert} is not played in {test_file}, quiet and firing");
        }
    }
}

#[test]
fn the_dashboard_is_one_and_asks_for_metrics_that_are_there() {
    let text = read(DASHBOARD);
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(all_exist(DASHBOARD, &text.replace("\\\"", "\"")) > 40);
    assert!(dashboard["schemaVersion"].as_u64() >= Some(37));
    assert_eq!((dashboard["uid"].as_str(), dashboard["id"].is_null()), (Some("nbguard"), true));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: BTreeSet<&str> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}: too wide");
        for cell in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            let other = taken.insert(cell, title);
            assert_eq!(other, None, "{title} lies over another");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(["stat", "bargauge", "timeseries"].contains(&panel["type"].as_str().unwrap()));
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let letters: BTreeSet<&str> =
            targets.iter().map(|t| t["refId"].as_str().unwrap()).collect();
        assert!(letters.len() == targets.len() && !targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            for variable in expression.split('$').skip(1) {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let name = variable.split(|c| !word(c)).next().unwrap_or_default();
                let known = variables.contains(name) || name == "__rate_interval";
                assert!(known, "{title}: there is no ${name}");
            }
        }
    }
}

/// A metric that nothing shows is a metric that nobody sees.
#[test]
fn the_dashboard_shows_almost_every_metric() {
    let shown: BTreeSet<String> =
        named(&read(DASHBOARD)).into_iter().map(|(name, _)| name).collect();
    let is_shown = |metric: &&nbguard::observe::metrics::Metric| {
        !metric.samples().iter().any(|name| shown.contains(name))
    };
    let left: Vec<&str> = METRICS.iter().filter(is_shown).map(|metric| metric.name).collect();
    assert!(left.len() <= METRICS.len() / 3, "{left:?}");
}

/// Each counter is in the table, and something in the reactor counts it.
#[test]
fn every_counter_is_counted_somewhere_and_written() {
    let source = read(COUNTERS);
    let body = source.split("pub struct Counters {").nth(1).unwrap().split("\n}").next().unwrap();
    let fields: Vec<&str> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    assert!(fields.len() > 20, "{fields:?}");
    let table = read("src/observe/metrics.rs");
    let mut reactor = String::new();
    for file in std::fs::read_dir(root().join("src/reactor")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        // What a test touches is not counted.
        reactor += text.split("#[cfg(test)]").next().unwrap_or_default();
    }
    let reactor: String = reactor.split_whitespace().collect();
    for field in fields {
        let name = format!("counters.{field}");
        let counted = ["+=", "=", ".add(", ".add_many("]
            .iter()
            .any(|how| reactor.contains(&format!("{name}{how}")));
        // Histograms are listed with the duration that each takes.
        let listed = reactor.contains(&format!("(&mut{name},"));
        assert!(counted || listed || field == "guard", "nothing counts {field}");
        assert!(table.contains(&format!("c.{field}")), "no metric shows {field}");
    }
    let serves = root().join("src/reactor/survey.rs").exists();
    for method in ["message", "event", "reload", "kernel_oom", "trouble", "answer"] {
        let called = reactor.contains(&format!(".count_{method}("));
        assert!(called || (method == "answer" && !serves), "nobody calls count_{method}");
    }
}

fn incident() -> Incident {
    serde_json::from_str(&read("tests/fixtures/incident.json")).unwrap()
}

#[test]
fn the_catalog_explains_every_message_with_fields_that_are_sent() {
    let catalog = read(CATALOG);
    let mut found = Vec::new();
    let sent = String::from_utf8(journal::entry(&incident(), &line(&incident()))).unwrap();
    let sent: BTreeSet<&str> =
        sent.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for entry in catalog.split("\n-- ").skip(1) {
        let (id, text) = entry.split_once('\n').unwrap();
        found.push(id);
        let (head, body) = text.split_once("\n\n").unwrap();
        assert!(head.starts_with("Subject: ") && head.contains("\nDefined-By: nbguard"), "{id}");
        assert!(body.len() > 100, "{id}");
        for field in text.split('@').skip(1).step_by(2) {
            assert!(sent.contains(field), "{id}: @{field}@ is not sent");
        }
    }
    assert_eq!(found, journal::MESSAGES.map(|(_, id)| id), "the ids of src/observe/journal.rs");
    for id in found {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
}

/// Answers one request with `204`, and hands over what it was.
fn one_request(listener: &TcpListener) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let lower = head.to_lowercase();
    if lower.contains("expect: 100-continue") {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let length = lower.split("content-length: ").nth(1).unwrap();
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
    (head, body)
}

#[test]
fn the_example_hooks_post_the_record_and_the_sentence() {
    for tool in ["curl", "jq"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return skip(format!("{tool} is missing"));
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks/memory", listener.local_addr().unwrap());
    let mut incident = incident();
    incident.sentence = "it's \"large\" \\ <b>&amp;\nnew line".to_owned();
    let record = serde_json::to_string(&incident).unwrap();
    let post = |hook: &str| {
        let mut child = Command::new(root().join("packaging/hooks").join(hook))
            .arg(&url)
            .env("NBGUARD_KIND", "kill")
            .env("NBGUARD_EPISODE", "3fa85f64")
            .env("NBGUARD_CONTAINER", "lab")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(record.as_bytes()).unwrap();
        let request = one_request(&listener);
        assert!(child.wait().unwrap().success(), "{hook}");
        request
    };
    let (head, body) = post("webhook");
    assert!(head.starts_with("POST /hooks/memory HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("X-Nbguard-Kind: kill\r\n"), "{head}");
    assert_eq!(String::from_utf8(body).unwrap(), record);
    let (_, body) = post("chat");
    let text: Value = serde_json::from_slice(&body).unwrap();
    let name = &incident.container.as_ref().unwrap().name;
    assert_eq!(text["text"], Value::from(format!("{name}: {}", incident.sentence)));
    let failed = Command::new(root().join("packaging/hooks/webhook"))
        .arg("http://127.0.0.1:1/")
        .envs([("NBGUARD_KIND", "kill"), ("NBGUARD_EPISODE", "1"), ("no_proxy", "127.0.0.1")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!failed.status.success(), "a hook that reaches nobody fails");
}
