//! The metrics: one table of all of them, and their text as OpenMetrics 1.0 and as Prometheus'
//! text format 0.0.4. Formats what it is given and reads nothing.
//!
//! The number of series is bounded: containers and notebooks beyond the bounds are summed up in
//! a series `other`. Names of containers and notebooks are the only labels that somebody else
//! chose; they are bounded, and escaped as the formats ask.

use std::collections::HashSet;
use std::fmt::Write;

use crate::report::counters::{Histogram, Tally};
use crate::report::{ContainerCounts, ContainerView, Counters, HostView, NotebookView, Survey};
use crate::units::Bytes;

/// Containers with series of their own. Each has some thirty, and two for each notebook.
pub const CONTAINERS_MAX: usize = 200;
/// Notebooks of a container with series of their own: the largest ones.
pub const NOTEBOOKS_MAX: usize = 20;
/// Longest label, before it is escaped.
const LABEL_MAX: usize = 256;
/// The label of what is summed up.
const OTHER: &str = "other";

/// How the text is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// openmetrics.io, 1.0.0.
    OpenMetrics,
    /// What every Prometheus understands, 0.0.4.
    Prometheus,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// As the request's `Accept` asks. The order of preference in it is not weighed: who names
    /// OpenMetrics at all can read it.
    pub fn accepted(accept: &str) -> Format {
        let named = |part: &str| {
            let mut words = part.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default();
            kind.eq_ignore_ascii_case("application/openmetrics-text")
                && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        };
        match accept.split(',').any(|part| named(part.trim())) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
    StateSet,
}

impl Kind {
    /// The word of OpenMetrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
        }
    }
}

/// One metric.
pub struct Metric {
    /// Of the family: without `_total`, `_info`, `_bucket`.
    pub name: &'static str,
    pub kind: Kind,
    /// Empty, or what the name ends with.
    pub unit: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    from: From,
}

impl Metric {
    /// The name by which it is asked for: what stands in a query, or for a histogram its count.
    pub fn sample(&self) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Histogram => "_count",
            Kind::Gauge | Kind::StateSet => "",
        };
        format!("{}{suffix}", self.name)
    }

    /// The name under which a manual has it.
    pub fn shown(&self) -> String {
        match self.kind {
            Kind::Histogram => self.name.to_owned(),
            _ => self.sample(),
        }
    }

    /// Every name that a sample of it may have.
    pub fn samples(&self) -> Vec<String> {
        match self.kind {
            Kind::Histogram => {
                ["_bucket", "_count", "_sum"].map(|s| format!("{}{s}", self.name)).to_vec()
            }
            _ => vec![self.sample()],
        }
    }
}

/// Where the value comes from; the variant says whose it is.
#[derive(Clone, Copy)]
enum From {
    Count(fn(&Counters) -> u64),
    Tally(fn(&Counters) -> &Tally),
    Spread(fn(&Counters) -> &Histogram),
    /// A figure of the daemon.
    Guard(fn(&Counters) -> f64),
    Version,
    Paused,
    Host(fn(&HostView) -> Bytes),
    Modes,
    ContainerInfo,
    State,
    /// Bytes of a container; those beyond the bound are added up.
    Sum(fn(&ContainerView) -> Bytes),
    /// The same where there may be none, or where a sum says nothing.
    Each(fn(&ContainerView) -> Option<f64>),
    Pressure,
    Notebooks,
    Counted(fn(&ContainerCounts) -> u32),
    Notebook(fn(&NotebookView) -> u64, fn(&Rest) -> u64),
}

/// The states of a container's machine.
pub const STATES: [&str; 9] =
    ["quiet", "warned", "pressed", "silenced", "deciding", "killing", "cooling", "lifted", "muted"];

/// What the notebooks beyond the bound come to.
struct Rest {
    memory: Bytes,
    processes: u64,
}

fn us(us: u64) -> f64 {
    us as f64 / 1e6
}

fn bytes(bytes: Bytes) -> f64 {
    bytes.0 as f64
}

/// Every metric, in the order in which they are written.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "nbguard_build",
        kind: Kind::Info,
        unit: "",
        help: "The version that runs.",
        labels: &["version"],
        from: From::Version,
    },
    Metric {
        name: "nbguard_uptime_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        help: "Time since the daemon started.",
        labels: &[],
        from: From::Guard(|c| c.guard.uptime.as_millis() as f64 / 1e3),
    },
    Metric {
        name: "nbguard_resident_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Resident memory of the daemon itself.",
        labels: &[],
        from: From::Guard(|c| bytes(c.guard.resident)),
    },
    Metric {
        name: "nbguard_config_good",
        kind: Kind::Gauge,
        unit: "",
        help: "1 if the last reading of the configuration succeeded, 0 if an older one is in use.",
        labels: &[],
        from: From::Guard(|c| f64::from(u8::from(c.guard.config_good))),
    },
    Metric {
        name: "nbguard_config_read_timestamp_seconds",
        kind: Kind::Gauge,
        unit: "seconds",
        help: "When the configuration in use was read, since the epoch.",
        labels: &[],
        from: From::Guard(|c| c.guard.config_read_at as f64),
    },
    Metric {
        name: "nbguard_paused",
        kind: Kind::Gauge,
        unit: "",
        help: "1 while `nbguard pause` holds for the whole host.",
        labels: &[],
        from: From::Paused,
    },
    Metric {
        name: "nbguard_wakeups",
        kind: Kind::Counter,
        unit: "",
        help: "Times that the daemon's loop was woken, by an event or a deadline.",
        labels: &[],
        from: From::Count(|c| c.wakeups),
    },
    Metric {
        name: "nbguard_events",
        kind: Kind::Counter,
        unit: "",
        help: "Events that the loop took, by their source.",
        labels: &["source"],
        from: From::Tally(|c| &c.events),
    },
    Metric {
        name: "nbguard_episodes",
        kind: Kind::Counter,
        unit: "",
        help: "Episodes opened, by the event that opened them.",
        labels: &["trigger"],
        from: From::Tally(|c| &c.episodes),
    },
    Metric {
        name: "nbguard_kills",
        kind: Kind::Counter,
        unit: "",
        help: "Notebooks ended, by reason.",
        labels: &["reason"],
        from: From::Tally(|c| &c.kills),
    },
    Metric {
        name: "nbguard_holds",
        kind: Kind::Counter,
        unit: "",
        help: "Episodes in which nobody was ended, by reason.",
        labels: &["reason"],
        from: From::Tally(|c| &c.holds),
    },
    Metric {
        name: "nbguard_holds_untold",
        kind: Kind::Counter,
        unit: "",
        help: "Of these, those without a record: the same had been told a moment before.",
        labels: &[],
        from: From::Count(|c| c.holds_untold),
    },
    Metric {
        name: "nbguard_kernel_oom_kills",
        kind: Kind::Counter,
        unit: "",
        help: "Processes of watched containers that the kernel's OOM killer ended.",
        labels: &[],
        from: From::Count(|c| c.kernel_oom_kills),
    },
    Metric {
        name: "nbguard_freed_bytes",
        kind: Kind::Counter,
        unit: "bytes",
        help: "Memory that came back after kills.",
        labels: &[],
        from: From::Count(|c| c.freed.0),
    },
    Metric {
        name: "nbguard_event_to_decision_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        help: "Of kills: from the first event of the episode to the decision.",
        labels: &[],
        from: From::Spread(|c| &c.event_to_decision),
    },
    Metric {
        name: "nbguard_decision_to_signal_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        help: "Of kills: from the decision until the signals were out.",
        labels: &[],
        from: From::Spread(|c| &c.decision_to_signal),
    },
    Metric {
        name: "nbguard_signal_to_dead_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        help: "Of kills: from the signals until every process was dead.",
        labels: &[],
        from: From::Spread(|c| &c.signal_to_dead),
    },
    Metric {
        name: "nbguard_signal_to_back_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        help: "Of kills: from the signals until what came back was measured.",
        labels: &[],
        from: From::Spread(|c| &c.signal_to_back),
    },
    Metric {
        name: "nbguard_tripwire_moves",
        kind: Kind::Counter,
        unit: "",
        help: "Times that memory.high of a container was set.",
        labels: &[],
        from: From::Count(|c| c.tripwire_moves),
    },
    Metric {
        name: "nbguard_tripwire_overwritten",
        kind: Kind::Counter,
        unit: "",
        help: "Times that somebody else overwrote it.",
        labels: &[],
        from: From::Count(|c| c.tripwire_overwritten),
    },
    Metric {
        name: "nbguard_tripwire_lost",
        kind: Kind::Counter,
        unit: "",
        help: "Containers whose tripwire was given up: it could not be written, or not be kept.",
        labels: &[],
        from: From::Count(|c| c.tripwire_lost),
    },
    Metric {
        name: "nbguard_steps_granted",
        kind: Kind::Counter,
        unit: "",
        help: "Steps granted to containers without a limit that had used theirs up.",
        labels: &[],
        from: From::Count(|c| c.steps),
    },
    Metric {
        name: "nbguard_messages",
        kind: Kind::Counter,
        unit: "",
        help: "Messages to notebooks: written, or why not.",
        labels: &["outcome"],
        from: From::Tally(|c| &c.messages),
    },
    Metric {
        name: "nbguard_stacks",
        kind: Kind::Counter,
        unit: "",
        help: "Call stacks asked for, by outcome: ok, failed, timed-out, too-long, malformed, stuck, not-started, dropped.",
        labels: &["outcome"],
        from: From::Tally(|c| &c.stacks),
    },
    Metric {
        name: "nbguard_hooks",
        kind: Kind::Counter,
        unit: "",
        help: "Hooks, by what became of them: ok, failed, timed-out, not-started, dropped.",
        labels: &["outcome"],
        from: From::Tally(|c| &c.hooks),
    },
    Metric {
        name: "nbguard_http_requests",
        kind: Kind::Counter,
        unit: "",
        help: "Requests answered, by status code.",
        labels: &["code"],
        from: From::Tally(|c| &c.http),
    },
    Metric {
        name: "nbguard_records_lost",
        kind: Kind::Counter,
        unit: "",
        help: "Lines and records that were not written, by reason.",
        labels: &["reason"],
        from: From::Tally(|c| &c.lost),
    },
    Metric {
        name: "nbguard_errors",
        kind: Kind::Counter,
        unit: "",
        help: "What did not work and stopped nothing, by kind.",
        labels: &["kind"],
        from: From::Tally(|c| &c.errors),
    },
    Metric {
        name: "nbguard_host_total_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Memory of the host.",
        labels: &[],
        from: From::Host(|host| host.total),
    },
    Metric {
        name: "nbguard_host_available_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Memory that the host can still give.",
        labels: &[],
        from: From::Host(|host| host.available),
    },
    Metric {
        name: "nbguard_host_threshold_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Use of the host's memory above which the host itself is short.",
        labels: &[],
        from: From::Host(|host| host.threshold),
    },
    Metric {
        name: "nbguard_containers",
        kind: Kind::Gauge,
        unit: "",
        help: "Watched containers, by how they are watched.",
        labels: &["mode"],
        from: From::Modes,
    },
    Metric {
        name: "nbguard_container",
        kind: Kind::Info,
        unit: "",
        help: "A watched container, and how it is watched.",
        labels: &["container", "id", "image", "engine", "mode", "policy"],
        from: From::ContainerInfo,
    },
    Metric {
        name: "nbguard_container_state",
        kind: Kind::StateSet,
        unit: "",
        help: "Where the container stands: quiet, or in which part of an episode.",
        labels: &["container", "nbguard_container_state"],
        from: From::State,
    },
    Metric {
        name: "nbguard_container_total_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "What the shares are shares of: the limit, or the host's memory.",
        labels: &["container"],
        from: From::Each(|c| Some(bytes(c.total))),
    },
    Metric {
        name: "nbguard_container_limit_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "The lowest limit that holds for the container; absent without one.",
        labels: &["container"],
        from: From::Each(|c| c.limit.map(bytes)),
    },
    Metric {
        name: "nbguard_container_threshold_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Above this an episode opens.",
        labels: &["container"],
        from: From::Each(|c| Some(bytes(c.threshold))),
    },
    Metric {
        name: "nbguard_container_warning_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Above this the guard has its first look.",
        labels: &["container"],
        from: From::Each(|c| Some(bytes(c.warning))),
    },
    Metric {
        name: "nbguard_container_high_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "memory.high as it stands; absent where there is none.",
        labels: &["container"],
        from: From::Each(|c| c.high.map(bytes)),
    },
    Metric {
        name: "nbguard_container_usage_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "What the container's cgroup counts, page cache included.",
        labels: &["container"],
        from: From::Sum(|c| c.usage),
    },
    Metric {
        name: "nbguard_container_unreclaimable_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "The part of it that only an end gives back.",
        labels: &["container"],
        from: From::Sum(|c| c.unreclaimable),
    },
    Metric {
        name: "nbguard_container_swap_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Swapped out; absent where the kernel does not say.",
        labels: &["container"],
        from: From::Each(|c| c.swap.map(bytes)),
    },
    Metric {
        name: "nbguard_container_notebooks_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "The sum over all its notebooks.",
        labels: &["container"],
        from: From::Sum(|c| c.sum),
    },
    Metric {
        name: "nbguard_container_notebooks_ratio",
        kind: Kind::Gauge,
        unit: "ratio",
        help: "That sum as a share of the total.",
        labels: &["container"],
        from: From::Each(|c| Some(c.ratio)),
    },
    Metric {
        name: "nbguard_container_unattributed_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "Memory of processes that belong to no notebook.",
        labels: &["container"],
        from: From::Sum(|c| c.unattributed.memory),
    },
    Metric {
        name: "nbguard_container_notebooks",
        kind: Kind::Gauge,
        unit: "",
        help: "How many notebooks run in it.",
        labels: &["container"],
        from: From::Notebooks,
    },
    Metric {
        name: "nbguard_container_pressure_avg10_ratio",
        kind: Kind::Gauge,
        unit: "ratio",
        help: "Share of the last 10 s in which some or all (full) of its tasks waited for memory.",
        labels: &["container", "stalled"],
        from: From::Pressure,
    },
    Metric {
        name: "nbguard_container_episodes",
        kind: Kind::Counter,
        unit: "",
        help: "Episodes of the container since it is watched.",
        labels: &["container"],
        from: From::Counted(|c| c.episodes),
    },
    Metric {
        name: "nbguard_container_kills",
        kind: Kind::Counter,
        unit: "",
        help: "Notebooks ended in it since it is watched.",
        labels: &["container"],
        from: From::Counted(|c| c.kills),
    },
    Metric {
        name: "nbguard_container_holds",
        kind: Kind::Counter,
        unit: "",
        help: "Episodes in which nobody was ended, since it is watched.",
        labels: &["container"],
        from: From::Counted(|c| c.holds),
    },
    Metric {
        name: "nbguard_container_kernel_oom_kills",
        kind: Kind::Counter,
        unit: "",
        help: "Processes that the kernel's OOM killer ended in it, since it is watched.",
        labels: &["container"],
        from: From::Counted(|c| c.kernel_oom_kills),
    },
    Metric {
        name: "nbguard_notebook_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        help: "What the notebook's end would give back, all its processes together.",
        labels: &["container", "notebook", "pid"],
        from: From::Notebook(|n| n.memory.0, |rest| rest.memory.0),
    },
    Metric {
        name: "nbguard_notebook_processes",
        kind: Kind::Gauge,
        unit: "",
        help: "How many processes it has.",
        labels: &["container", "notebook", "pid"],
        from: From::Notebook(|n| u64::from(n.processes_total), |rest| rest.processes),
    },
];

/// The text of everything. Without counters (for who may see one container alone) their families
/// are left out.
pub fn render(format: Format, survey: &Survey, counters: Option<&Counters>) -> String {
    let shown = survey.containers.len().min(CONTAINERS_MAX);
    let (own, rest) = survey.containers.split_at(shown);
    let notebooks: usize = own.iter().map(|c| c.notebooks.len().min(NOTEBOOKS_MAX)).sum();
    let page = Page { survey, counters, labels: labels(own), own, rest };
    // 90 bytes a line; once, so that the heap is not left in steps.
    let lines = 300 + shown * 32 + notebooks * 2;
    let mut out = Out { text: String::with_capacity(lines * 96), format };
    for metric in METRICS {
        page.family(&mut out, metric);
    }
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

const MANUAL: &str = "\
# Metrics

`nbguard doc metrics` writes this page from the table in `src/observe/metrics.rs`. `GET /metrics`
answers in OpenMetrics 1.0 if the request's `Accept` names it, else in Prometheus' text format.

- A container's label is its name; where two have the same one, the id's first twelve digits follow.
- At most 200 containers and the 20 largest notebooks of each have series of their own. What is
  beyond is summed up as `other` where a sum says something.
- Counters of a container begin at zero when it is watched, and go when it goes. Those without a
  container stay until the daemon ends.
- Whoever asks from within a container gets the gauges of that container alone.

| name | type | labels | meaning |
|---|---|---|---|
";

/// The text of `packaging/doc/metrics.md`.
pub fn manual() -> String {
    let mut text = MANUAL.to_owned();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (metric.shown(), metric.kind.as_str());
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {} |", labels.join(", "), metric.help);
    }
    text
}

/// The label of each container: its name, made different where two have the same.
fn labels(own: &[ContainerView]) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::from([OTHER.to_owned()]);
    own.iter()
        .map(|view| {
            let name = bounded(&view.name);
            let id = view.id.get(..12).unwrap_or(&view.id);
            let first = [name.to_owned(), format!("{name} ({id})")];
            let more = (2..).map(|n| format!("{name} ({n})"));
            let mut all = first.into_iter().chain(more);
            let label = all.find(|label| !label.is_empty() && !taken.contains(label));
            let label = label.unwrap_or_default();
            taken.insert(label.clone());
            label
        })
        .collect()
}

/// What a container chose, cut at a character.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(LABEL_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Page<'a> {
    survey: &'a Survey,
    counters: Option<&'a Counters>,
    labels: Vec<String>,
    own: &'a [ContainerView],
    rest: &'a [ContainerView],
}

impl Page<'_> {
    fn family(&self, out: &mut Out, metric: &Metric) {
        let mut family = Family { out, metric, begun: false };
        match metric.from {
            From::Count(read) => {
                if let Some(counters) = self.counters {
                    family.sample(&[], read(counters));
                }
            }
            From::Tally(read) => {
                for (label, count) in self.counters.iter().flat_map(|c| read(c).iter()) {
                    family.sample(&[label], count);
                }
            }
            From::Spread(read) => {
                if let Some(counters) = self.counters {
                    family.histogram(read(counters));
                }
            }
            From::Guard(read) => {
                if let Some(counters) = self.counters {
                    family.sample(&[], Float(read(counters)));
                }
            }
            From::Version => {
                if let Some(counters) = self.counters {
                    family.sample(&[counters.guard.version], 1);
                }
            }
            From::Paused => family.sample(&[], u8::from(self.survey.paused)),
            From::Host(read) => {
                if let Some(host) = &self.survey.host {
                    family.sample(&[], read(host).0);
                }
            }
            From::Modes => self.modes(&mut family),
            _ => self.containers(&mut family),
        }
    }

    /// Those beyond the bound are in it: they are counted, not named.
    fn modes(&self, family: &mut Family<'_>) {
        let mut modes: Vec<(&str, u64)> = Vec::with_capacity(8);
        for view in &self.survey.containers {
            match modes.iter_mut().find(|(mode, _)| *mode == view.mode) {
                Some((_, count)) => *count += 1,
                None => modes.push((&view.mode, 1)),
            }
        }
        for (mode, count) in modes {
            family.sample(&[mode], count);
        }
    }

    fn containers(&self, family: &mut Family<'_>) {
        for (view, label) in self.own.iter().zip(&self.labels) {
            let label = label.as_str();
            match family.metric.from {
                From::ContainerInfo => {
                    let id = view.id.get(..12).unwrap_or(&view.id);
                    let image = bounded(&view.image);
                    let words = [label, id, image, &view.engine, &view.mode, &view.policy];
                    family.sample(&words, 1);
                }
                From::State => {
                    for state in STATES {
                        family.sample(&[label, state], u8::from(state == view.state));
                    }
                }
                From::Sum(read) => family.sample(&[label], read(view).0),
                From::Each(read) => {
                    if let Some(value) = read(view) {
                        family.sample(&[label], Float(value));
                    }
                }
                From::Pressure => {
                    let both = [("some", view.psi_some_avg10), ("full", view.psi_full_avg10)];
                    for (stalled, percent) in both {
                        if let Some(percent) = percent {
                            family.sample(&[label, stalled], Float(percent / 100.0));
                        }
                    }
                }
                From::Notebooks => family.sample(&[label], view.notebooks_total),
                From::Counted(read) if self.counters.is_some() => {
                    family.sample(&[label], read(&view.counts));
                }
                From::Notebook(read, rest) => notebooks(family, label, view, read, rest),
                _ => {}
            }
        }
        if self.rest.is_empty() {
            return;
        }
        match family.metric.from {
            From::Sum(read) => {
                let sum: Bytes = self.rest.iter().map(read).sum();
                family.sample(&[OTHER], sum.0);
            }
            From::Notebooks => {
                let sum: u64 = self.rest.iter().map(|view| u64::from(view.notebooks_total)).sum();
                family.sample(&[OTHER], sum);
            }
            _ => {}
        }
    }
}

fn notebooks(
    family: &mut Family<'_>,
    label: &str,
    view: &ContainerView,
    read: fn(&NotebookView) -> u64,
    rest: fn(&Rest) -> u64,
) {
    let (own, others) = view.notebooks.split_at(view.notebooks.len().min(NOTEBOOKS_MAX));
    for notebook in own {
        let name = notebook.notebook.as_ref().or(notebook.kernel_id.as_ref());
        let name = bounded(name.unwrap_or(&notebook.name));
        let pid = notebook.pid.to_string();
        family.sample(&[label, name, &pid], read(notebook));
    }
    if !others.is_empty() {
        // The view is bounded as well; its sum is not.
        let listed = |some: &[NotebookView]| some.iter().map(|n| n.memory).sum::<Bytes>();
        let sum = Rest {
            memory: view.sum.less(listed(own)).max(listed(others)),
            processes: others.iter().map(|n| u64::from(n.processes_total)).sum(),
        };
        family.sample(&[label, OTHER, ""], rest(&sum));
    }
}

struct Out {
    text: String,
    format: Format,
}

/// One family while it is written: its head comes with its first sample.
struct Family<'a> {
    out: &'a mut Out,
    metric: &'a Metric,
    begun: bool,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[&str], value: impl std::fmt::Display) {
        self.begin();
        let suffix = match self.metric.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        self.line(suffix, self.metric.labels, labels, value);
    }

    fn histogram(&mut self, histogram: &Histogram) {
        self.begin();
        for (bound, count) in histogram.cumulative() {
            self.line("_bucket", &["le"], &[bound], count);
        }
        self.line("_count", &[], &[], histogram.count());
        self.line("_sum", &[], &[], Float(us(histogram.sum_us())));
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Metric { name, kind, unit, help, .. } = self.metric;
        let text = &mut self.out.text;
        let write = match self.out.format {
            Format::OpenMetrics => {
                let _ = writeln!(text, "# TYPE {name} {}", kind.as_str());
                if !unit.is_empty() {
                    let _ = writeln!(text, "# UNIT {name} {unit}");
                }
                writeln!(text, "# HELP {name} {help}")
            }
            Format::Prometheus => {
                // The older format knows neither info nor stateset, and names what it types in full.
                let suffix = match kind {
                    Kind::Counter => "_total",
                    Kind::Info => "_info",
                    _ => "",
                };
                let kind = match kind {
                    Kind::Info | Kind::StateSet => "gauge",
                    kind => kind.as_str(),
                };
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
                writeln!(text, "# TYPE {name}{suffix} {kind}")
            }
        };
        debug_assert!(write.is_ok(), "a String takes whatever it is given");
    }

    fn line(
        &mut self,
        suffix: &str,
        names: &[&str],
        labels: &[&str],
        value: impl std::fmt::Display,
    ) {
        let text = &mut self.out.text;
        text.push_str(self.metric.name);
        text.push_str(suffix);
        let mut mark = '{';
        for (name, label) in names.iter().zip(labels) {
            text.push(mark);
            mark = ',';
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(text, label);
            text.push('"');
        }
        if mark == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Both formats escape a label's value in the same way, and these three characters alone.
fn push_escaped(text: &mut String, label: &str) {
    for char in label.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(char),
        }
    }
}

/// A number as both formats read it.
struct Float(f64);

impl std::fmt::Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_openmetrics_gets_it() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("text/plain, Application/OpenMetrics-Text; version=1.0.0", Format::OpenMetrics),
            ("application/openmetrics-text;q=0,text/plain", Format::Prometheus),
            ("application/openmetrics-textual", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn two_containers_of_one_name_are_told_apart() {
        let view = |name: &str, id: &str| ContainerView {
            name: name.to_owned(),
            id: id.to_owned(),
            ..ContainerView::default()
        };
        let views = [
            view("lab", "0123456789abcdef"),
            view("lab", "abcdef0123456789"),
            view("other", "1"),
            view("lab", "abcdef012345"),
            view("", "x"),
        ];
        let made = ["lab", "lab (abcdef012345)", "other (1)", "lab (2)", " (x)"];
        assert_eq!(labels(&views), made);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = "é".repeat(200);
        assert_eq!(bounded(&long), "é".repeat(128));
    }
}
