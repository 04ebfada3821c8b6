//! The metrics as they are written, read by a reader that forgives nothing; and the lists that
//! repeat them: the manual page, the dashboard, the rules, and the places that count.

use std::collections::BTreeSet;
use std::time::Duration;

use nbguard::observe::metrics::{
    CONTAINERS_MAX, Format, Kind, METRICS, NOTEBOOKS_MAX, STATES, render,
};
use nbguard::report::counters::{BUCKETS, Guard, Histogram, Tally};
use nbguard::report::{
    ContainerCounts, ContainerView, Counters, HostView, NotebookView, Survey, Unattributed,
};
use nbguard::units::Bytes;
use proptest::prelude::*;

use crate::openmetrics::{Family, parse};

fn notebook(pid: u32, path: Option<&str>, mib: u64) -> NotebookView {
    NotebookView {
        pid,
        memory: Bytes::mib(mib),
        name: "python3".to_owned(),
        notebook: path.map(str::to_owned),
        processes_total: 3,
        ..NotebookView::default()
    }
}

fn container(name: &str, id: &str) -> ContainerView {
    ContainerView {
        id: id.to_owned(),
        name: name.to_owned(),
        image: "quay.io/jupyter/scipy-notebook".to_owned(),
        engine: "docker".to_owned(),
        mode: "high+psi".to_owned(),
        state: "warned".to_owned(),
        usage: Bytes::mib(576),
        unreclaimable: Bytes::mib(570),
        swap: Some(Bytes::ZERO),
        limit: Some(Bytes::mib(640)),
        total: Bytes::mib(640),
        warning: Bytes::mib(512),
        threshold: Bytes::mib(576),
        high: Some(Bytes::mib(576)),
        psi_some_avg10: Some(12.5),
        psi_full_avg10: Some(0.0),
        sum: Bytes::mib(480),
        ratio: 0.75,
        policy: "largest".to_owned(),
        notebooks: vec![notebook(42, Some("/home/jovyan/a.ipynb"), 400), notebook(43, None, 80)],
        notebooks_total: 2,
        counts: ContainerCounts { episodes: 4, kills: 2, holds: 1, kernel_oom_kills: 1 },
        unattributed: Unattributed { memory: Bytes::mib(9), ..Unattributed::default() },
        ..ContainerView::default()
    }
}

fn survey(containers: Vec<ContainerView>) -> Survey {
    let host = HostView {
        total: Bytes::gib(8),
        available: Bytes::gib(3),
        threshold: Bytes::gib(7),
        ..HostView::default()
    };
    Survey { host: Some(host), containers, ..Survey::default() }
}

fn counters() -> Counters {
    let tally = |label: &'static str| {
        let mut tally = Tally::of(["none", label]);
        tally.add_many(label, 7);
        tally
    };
    let mut spread = Histogram::default();
    for us in [50, 700, 30_000, 99_000_000] {
        spread.add(us);
    }
    Counters {
        wakeups: 11,
        events: tally("psi"),
        episodes: tally("high"),
        kills: tally("largest"),
        holds: tally("relieved"),
        holds_untold: 2,
        kernel_oom_kills: 3,
        freed: Bytes::gib(5),
        tripwire_moves: 5,
        tripwire_overwritten: 6,
        tripwire_lost: 1,
        steps: 8,
        messages: tally("written"),
        stacks: tally("ok"),
        hooks: tally("ok"),
        http: tally("200"),
        lost: tally("queue-full"),
        errors: tally("signal-refused"),
        event_to_decision: spread.clone(),
        decision_to_signal: spread.clone(),
        signal_to_dead: spread.clone(),
        signal_to_back: spread,
        guard: Guard {
            version: "0.1.0",
            resident: Bytes::kib(2600),
            uptime: Duration::from_millis(61_500),
            config_good: true,
            config_read_at: 1_795_000_000,
        },
    }
}

fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let samples = families.iter().flat_map(|family| &family.samples);
    let mut found = samples.filter(|sample| {
        sample.name == name && labels.iter().all(|(name, value)| sample.label(name) == *value)
    });
    let value = found.next().map(|sample| sample.value);
    assert!(found.next().is_none(), "{name} {labels:?}: several");
    value
}

#[test]
fn an_ordinary_host_is_written_as_openmetrics_asks() {
    let text = render(
        Format::OpenMetrics,
        &survey(vec![container("lab", "5baba5339d9d77")]),
        Some(&counters()),
    );
    let families = parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let lab = ("container", "lab");
    let mib = |n: u64| Some((n << 20) as f64);
    for (name, labels, expected) in [
        ("nbguard_build_info", &[("version", "0.1.0")][..], Some(1.0)),
        ("nbguard_uptime_seconds", &[], Some(61.5)),
        ("nbguard_resident_bytes", &[], Some(2_662_400.0)),
        ("nbguard_config_read_timestamp_seconds", &[], Some(1_795_000_000.0)),
        ("nbguard_kills_total", &[("reason", "largest")], Some(7.0)),
        ("nbguard_kills_total", &[("reason", "none")], Some(0.0)),
        ("nbguard_freed_bytes_total", &[], mib(5 << 10)),
        ("nbguard_containers", &[("mode", "high+psi")], Some(1.0)),
        ("nbguard_container_info", &[lab, ("id", "5baba5339d9d")], Some(1.0)),
        ("nbguard_container_state", &[lab, ("nbguard_container_state", "warned")], Some(1.0)),
        ("nbguard_container_state", &[lab, ("nbguard_container_state", "quiet")], Some(0.0)),
        ("nbguard_container_usage_bytes", &[lab], mib(576)),
        ("nbguard_container_notebooks_ratio", &[lab], Some(0.75)),
        ("nbguard_container_pressure_avg10_ratio", &[lab, ("stalled", "some")], Some(0.125)),
        ("nbguard_container_kernel_oom_kills_total", &[lab], Some(1.0)),
        (
            "nbguard_notebook_bytes",
            &[lab, ("notebook", "/home/jovyan/a.ipynb"), ("pid", "42")],
            mib(400),
        ),
        ("nbguard_notebook_processes", &[lab, ("notebook", "python3"), ("pid", "43")], Some(3.0)),
        ("nbguard_signal_to_dead_seconds_bucket", &[("le", "0.001")], Some(2.0)),
        ("nbguard_signal_to_dead_seconds_count", &[], Some(4.0)),
        ("nbguard_signal_to_dead_seconds_sum", &[], Some(99.03075)),
    ] {
        assert_eq!(value(&families, name, labels), expected, "{name} {labels:?}");
    }
    let names: Vec<&str> = families.iter().map(|family| family.name.as_str()).collect();
    let table: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names, table, "every metric of the table, once, in its order");
    for (family, metric) in families.iter().zip(METRICS) {
        assert_eq!(
            (family.kind.as_str(), family.unit.as_str()),
            (metric.kind.as_str(), metric.unit)
        );
        assert_eq!(family.help, metric.help);
    }
}

#[test]
fn the_older_format_names_in_full_what_it_types() {
    let text = render(Format::Prometheus, &survey(vec![container("lab", "1")]), Some(&counters()));
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    assert!(text.contains("# TYPE nbguard_kills_total counter\n"));
    assert!(
        text.contains("# TYPE nbguard_build_info gauge\nnbguard_build_info{version=\"0.1.0\"} 1\n")
    );
    assert!(text.contains("# TYPE nbguard_container_state gauge\n"));
    let types = |line: &&str| line.starts_with("# TYPE ");
    let mut typed = text.lines().filter(types).map(|l| l.split(' ').nth(2).unwrap_or_default());
    let mut known: BTreeSet<String> = BTreeSet::new();
    assert!(typed.all(|name| known.insert(name.to_owned())), "a type twice");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|s| name.strip_suffix(s));
        let typed = known.contains(name) || histogram.is_some_and(|name| known.contains(name));
        assert!(typed, "{line}");
    }
    // What is written of samples is the same in both.
    let strict =
        render(Format::OpenMetrics, &survey(vec![container("lab", "1")]), Some(&counters()));
    let samples = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&text), samples(&strict));
}

#[test]
fn who_may_see_one_container_alone_gets_no_figure_of_the_host() {
    let survey = Survey { host: None, ..survey(vec![container("lab", "1")]) };
    let families = parse(&render(Format::OpenMetrics, &survey, None)).unwrap();
    let outside = families.iter().filter(|family| {
        let of_container = ["nbguard_container", "nbguard_notebook", "nbguard_paused"];
        !of_container.iter().any(|prefix| family.name.starts_with(prefix))
    });
    assert_eq!(outside.map(|family| &family.name).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(families.iter().all(|family| family.kind != "counter"));
    assert_eq!(
        value(&families, "nbguard_container_usage_bytes", &[("container", "lab")]),
        Some((576u64 << 20) as f64)
    );
}

#[test]
fn nothing_at_all_is_a_page_too() {
    assert_eq!(parse(&render(Format::OpenMetrics, &Survey::default(), None)).unwrap().len(), 1);
    let zero = parse(&render(Format::OpenMetrics, &Survey::default(), Some(&Counters::default())));
    assert!(zero.is_ok(), "{zero:?}");
}

#[test]
fn the_number_of_series_is_bounded_and_what_is_left_out_is_summed_up() {
    let mut containers: Vec<ContainerView> = (0..CONTAINERS_MAX + 300)
        .map(|n| container(&format!("user-{n}"), &format!("{n:064x}")))
        .collect();
    for view in &mut containers {
        view.notebooks = (0..1000).map(|n| notebook(n + 1, Some("/home/a.ipynb"), 1)).collect();
        view.notebooks_total = 10_000;
        view.sum = Bytes::mib(10_000);
    }
    let text = render(Format::OpenMetrics, &survey(containers), Some(&counters()));
    let families = parse(&text).unwrap();
    let lines = text.lines().count();
    assert!(lines < CONTAINERS_MAX * (32 + 2 * (NOTEBOOKS_MAX + 1)) + 400, "{lines}");
    let mib = |n: u64| Some((n << 20) as f64);
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    let first = ("container", "user-0");
    let other = ("container", "other");
    assert_eq!(of("nbguard_containers", &[("mode", "high+psi")]), Some(500.0));
    assert_eq!(of("nbguard_container_usage_bytes", &[other]), mib(300 * 576));
    assert_eq!(of("nbguard_container_notebooks", &[other]), Some(3_000_000.0));
    assert_eq!(of("nbguard_container_ratio", &[other]), None);
    let rest = [first, ("notebook", "other"), ("pid", "")];
    assert_eq!(of("nbguard_notebook_bytes", &rest), mib(10_000 - NOTEBOOKS_MAX as u64));
    assert_eq!(of("nbguard_notebook_processes", &rest), Some(980.0 * 3.0));
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        any::<String>(),
        Just("\n# EOF\n".to_owned()),
        Just("a\"} 1\nnbguard_kills_total 9".to_owned()),
        Just("\\".to_owned()),
        Just("other".to_owned()),
        Just("é".repeat(4096)),
        Just("\r\n\t\0\u{202e}\u{feff}".to_owned()),
    ]
}

fn figure() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), 0.0..100.0]
}

prop_compose! {
    fn any_notebook()(pid in any::<u32>(), memory in any::<u64>(), name in hostile(), path in proptest::option::of(hostile())) -> NotebookView {
        NotebookView { pid, memory: Bytes(memory), name, notebook: path, ..NotebookView::default() }
    }
}

prop_compose! {
    fn any_container()(
        words in proptest::array::uniform4(hostile()),
        sizes in proptest::array::uniform4(any::<u64>()),
        some in proptest::option::of(figure()),
        ratio in figure(),
        state in 0..STATES.len(),
        notebooks in proptest::collection::vec(any_notebook(), 0..NOTEBOOKS_MAX + 5),
        total in any::<u32>(),
    ) -> ContainerView {
        let [id, name, image, mode] = words;
        let [usage, sum, total_bytes, limit] = sizes.map(Bytes);
        // A pid is of one process.
        let mut seen = BTreeSet::new();
        let notebooks = notebooks.into_iter().filter(|n| seen.insert(n.pid)).collect();
        ContainerView {
            id, name, image, mode, usage, sum, total: total_bytes, limit: Some(limit), ratio,
            psi_some_avg10: some, state: STATES[state].to_owned(), notebooks, notebooks_total: total,
            ..ContainerView::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_container_is_called_the_page_can_be_read(
        containers in proptest::collection::vec(any_container(), 0..6),
        times in proptest::collection::vec(any::<u64>(), 0..20),
    ) {
        let mut counters = counters();
        for us in times {
            counters.event_to_decision.add(us);
        }
        let many = containers.len();
        let survey = survey(containers);
        let text = render(Format::OpenMetrics, &survey, Some(&counters));
        let families = parse(&text).map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let of = |name: &str| families.iter().find(|family| family.name == name);
        let usage = of("nbguard_container_usage_bytes").map_or(0, |family| family.samples.len());
        prop_assert_eq!(usage, many, "each container has one series");
        prop_assert_eq!(value(&families, "nbguard_kills_total", &[("reason", "largest")]), Some(7.0));
    }
}

/// The buckets of a histogram are the same everywhere, so that they can be added up.
#[test]
fn every_histogram_has_the_buckets_of_the_table() {
    let text = render(Format::OpenMetrics, &Survey::default(), Some(&counters()));
    let families = parse(&text).unwrap();
    let histograms: Vec<_> = families.iter().filter(|f| f.kind == "histogram").collect();
    assert_eq!(histograms.len(), METRICS.iter().filter(|m| m.kind == Kind::Histogram).count());
    for family in histograms {
        let bounds = family.samples.iter().filter(|s| s.name.ends_with("_bucket"));
        assert_eq!(bounds.count(), BUCKETS.len() + 1, "{}", family.name);
    }
}
