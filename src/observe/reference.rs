//! What stands in the journal and in the record, once: the keys of the line, of a record, the reasons,
//! the modes. `packaging/doc/record.md` and the manual pages are views of these tables; tests hold
//! them against what is written. Pure: text only, and none of it in the daemon.

use std::fmt::Write;

/// Why an episode ended as it did.
pub struct Reason {
    pub kind: &'static str,
    pub name: &'static str,
    pub meaning: &'static str,
}

/// How a container is watched: the mode, what it means, and how good that is.
pub const MODES: [(&str, &str, &str); 6] = [
    (
        "high+psi",
        "`memory.high` as tripwire, a PSI trigger as second witness",
        "the usual one on cgroup v2",
    ),
    (
        "high",
        "the kernel has no PSI (`psi=1` on its command line turns it on)",
        "as quick; while page cache fills a container it wakes more often",
    ),
    (
        "psi",
        "PSI alone: `tripwire = false`, a dry run, or somebody else insists on his own `memory.high`",
        "often too late: a container at its limit is out of memory before PSI speaks",
    ),
    (
        "events",
        "`memory.events` alone: no PSI, and no tripwire could be set",
        "often too late, as with `psi`",
    ),
    (
        "v1-threshold",
        "cgroup v1 or a hybrid host: an event when usage crosses the threshold; nothing is slowed down",
        "best effort: fast growth wins",
    ),
    (
        "none",
        "nothing wakes the guard for this container",
        "judged only when its figures are read for another reason",
    ),
];

/// The keys of the journal's line, in its order. Those that say nothing are left out of it.
pub const LINE: [(&str, &str); 26] = [
    ("episode", "UUID of the episode, in the record as `id`"),
    ("kind", "`kill`, `hold` or `kernel-oom`"),
    ("reason", "why, see the reasons"),
    ("dry_run", "`true`: it was only decided"),
    ("container", "the container's name"),
    ("container_id", "the first twelve digits of its id"),
    ("domain", "what was short: `container`, `slice` or `host`"),
    ("mode", "how it is watched, see the modes"),
    ("trigger", "which event opened the episode"),
    ("pid", "who was ended: the root process of the notebook"),
    ("name", "that process's name"),
    ("notebook", "the notebook's path"),
    ("memory", "what it held"),
    ("processes", "how many processes got a signal"),
    ("usage", "what the cgroup counts"),
    ("unreclaimable", "the part of it that only an end gives back"),
    ("threshold", "where an episode opens"),
    ("total", "what the shares are shares of: the limit, or the host's memory"),
    ("psi_some_avg10", "percent of the last 10 s in which tasks waited for memory"),
    ("decision", "from the event to the decision"),
    ("signal", "from the event to the signal"),
    ("dead", "from the signal until the tree was dead"),
    ("freed", "what came back"),
    ("kernel_oom_kills", "how often the kernel's OOM killer acted in the container meanwhile"),
    ("message", "whether the notebook was told: `written` or `skipped`"),
    ("why", "the same for people, in one sentence"),
];

/// Every reason, in the order in which people ask for them.
pub const REASONS: [Reason; 23] = [
    Reason { kind: "kill", name: "largest", meaning: "it held the most" },
    Reason { kind: "kill", name: "growing", meaning: "it grew the most since the warning" },
    Reason { kind: "kill", name: "notebook-max", meaning: "it alone was above `notebook_max`" },
    Reason { kind: "kill", name: "deny-list", meaning: "`idle-first`: it is on the deny list" },
    Reason {
        kind: "kill",
        name: "idle",
        meaning: "`idle-first`: it was idle for long enough, longer than all others",
    },
    Reason {
        kind: "hold",
        name: "relieved",
        meaning: "memory came back before anybody had to end",
    },
    Reason {
        kind: "hold",
        name: "benign-cache",
        meaning: "what fills the container is page cache, which the kernel takes back",
    },
    Reason { kind: "hold", name: "no-workloads", meaning: "there is no notebook in the container" },
    Reason { kind: "hold", name: "all-protected", meaning: "every notebook is protected" },
    Reason {
        kind: "hold",
        name: "memory-is-protected",
        meaning: "what is protected holds the memory; ending the others would not suffice",
    },
    Reason {
        kind: "hold",
        name: "below-min-share",
        meaning: "no notebook holds enough for its end to matter",
    },
    Reason {
        kind: "hold",
        name: "memory-in-no-workload",
        meaning: "the memory is in processes that belong to no notebook",
    },
    Reason {
        kind: "hold",
        name: "identity-unknown",
        meaning: "whose process it is could not be read in time",
    },
    Reason { kind: "hold", name: "backoff", meaning: "this notebook was ended a moment ago" },
    Reason {
        kind: "hold",
        name: "container-protected",
        meaning: "the whole container is protected",
    },
    Reason { kind: "hold", name: "dry-run", meaning: "would have ended somebody, and may not" },
    Reason {
        kind: "hold",
        name: "paused",
        meaning: "somebody paused the guard, or the guard of this container (`nbguard pause`)",
    },
    Reason {
        kind: "hold",
        name: "no-application-over-ratio",
        meaning: "`idle-first`: no application has more than `ratio`, so nobody ends for anybody's sake",
    },
    Reason {
        kind: "hold",
        name: "share-unknown",
        meaning: "`idle-first` with `resource = \"cpu\"`: there was one look only",
    },
    Reason {
        kind: "hold",
        name: "nobody-non-essential",
        meaning: "`idle-first`: nobody is on the deny list or idle for long enough",
    },
    Reason {
        kind: "hold",
        name: "activity-unknown",
        meaning: "`idle-first`: nobody is, as far as is known, and of some it is not known",
    },
    Reason {
        kind: "hold",
        name: "too-many-ends",
        meaning: "`idle-first`: 32 have ended within a minute",
    },
    Reason {
        kind: "kernel-oom",
        name: "kernel-oom",
        meaning: "the kernel's OOM killer acted in a watched container",
    },
];
/// The keys of a record, in its order: `a.b` within an object, `a[].b` in a list of them.
pub const RECORD: [(&[&str], &str); 49] = [
    (&["schema"], "version of this shape"),
    (&["id"], "UUID of the episode"),
    (&["time"], "its first event, UTC"),
    (&["host"], "the host's name"),
    (&["kind", "reason", "sentence"], "what happened and why; the sentence says it for people"),
    (&["verdict"], "`kill` or `hold`"),
    (&["dry_run"], "it was only decided"),
    (&["domain"], "what was short: `container`, `slice` or `host`"),
    (
        &[
            "container.id",
            "container.name",
            "container.image",
            "container.engine",
            "container.labels",
        ],
        "the container, as its engine knows it",
    ),
    (&["mode"], "how it is watched"),
    (
        &["trigger"],
        "which event opened the episode: `high`, `max`, `psi`, `v1-threshold`, `host-step`, `host-psi`, `armed`, `asked`",
    ),
    (&["figures.usage"], "what the cgroup counts"),
    (&["figures.unreclaimable"], "the part of it that only an end gives back"),
    (&["figures.anon", "figures.shmem", "figures.swap"], "of which anonymous, shared, swapped out"),
    (&["figures.total"], "what the shares are shares of: the limit, or the host's memory"),
    (&["figures.limit"], "the lowest limit that holds here"),
    (
        &["figures.threshold", "figures.high"],
        "where an episode opens; `memory.high` at that moment",
    ),
    (
        &["figures.psi_some_avg10", "figures.psi_full_avg10"],
        "percent of the last 10 s in which tasks waited for memory",
    ),
    (
        &["rows[].pid", "rows[].start"],
        "a notebook in the ranking, the first to go at the top: its root process",
    ),
    (
        &["rows[].memory", "rows[].lower", "rows[].upper"],
        "what its end gives back, and between which bounds that is known",
    ),
    (
        &["rows[].settled_by"],
        "what settled its place: `exact`, `intervals`, `cgroup-figures`, `pss`, `lower-bound`; in the first row also `single`, `growth`, `policy`",
    ),
    (
        &["rows[].name", "rows[].notebook", "rows[].kernel_id"],
        "the process's name; the notebook's path and kernel id, where it has them",
    ),
    (&["rows[].uid", "rows[].container"], "whose it is, and where"),
    (&["rows[].eligible"], "`yes`, or why it may not end"),
    (&["rows[].because"], "why it stands in this place"),
    (
        &["rows[].application"],
        "what it works for: `pool:www`, `script:/srv/job.php`, `apache`, a notebook's path",
    ),
    (
        &["rows[].activity", "rows[].idle_s"],
        "`idle-first`: `busy`, `idle` or `unknown`, and for how many seconds it is idle",
    ),
    (&["rows[].listed"], "`idle-first`: the list that names it and the pattern, as `deny backup*`"),
    (
        &["rows[].members[].pid", "rows[].members[].name", "rows[].members[].memory"],
        "every process of it",
    ),
    (
        &["servers[].pid", "servers[].name", "servers[].memory"],
        "notebook servers: shown, never ended",
    ),
    (
        &["unattributed.count", "unattributed.memory"],
        "processes that belong to no notebook: counted, never ended",
    ),
    (
        &["unattributed.top[].pid", "unattributed.top[].name", "unattributed.top[].memory"],
        "the largest of them",
    ),
    (
        &["victim.pid", "victim.name", "victim.notebook", "victim.kernel_id", "victim.memory"],
        "who was ended",
    ),
    (&["victim.signals", "victim.signalled"], "the signals, and how many processes got them"),
    (
        &["victim.trackers_spared"],
        "Python `resource_tracker`s that were given time to remove shared memory",
    ),
    (
        &["victim.sweeps", "victim.frozen"],
        "passes for children forked meanwhile; whether the container was frozen for the last one",
    ),
    (
        &["victim.refused[].pid", "victim.refused[].reason"],
        "who could not be signalled, or did not die",
    ),
    (
        &[
            "timings.event_to_decision_us",
            "timings.decision_to_signal_us",
            "timings.event_to_signal_us",
        ],
        "from the event to the signal",
    ),
    (
        &["timings.signal_to_dead_us", "timings.signal_to_back_us"],
        "from the signal until the tree was dead, and until its memory was back",
    ),
    (&["freed"], "what came back"),
    (&["kernel_oom_kills"], "how often the kernel's OOM killer acted in the container meanwhile"),
    (
        &["message"],
        "whether the notebook itself was told: `written: cell`, `written: log`, or `skipped: …` with the reason",
    ),
    (
        &["stack", "timings.stack_to_decision_us"],
        "what the victim was running when it was asked at the warning step or the last call, innermost frame first, where that could be had; how long before the decision that was",
    ),
    (
        &["cleaning.resource", "cleaning.ratio", "cleaning.of"],
        "`idle-first`: what the shares are of, and which share is too much",
    ),
    (
        &["cleaning.clear", "cleaning.candidates", "cleaning.needed"],
        "how many are to end; how many are not essential, and how many of them it takes",
    ),
    (
        &["cleaning.first", "cleaning.number"],
        "the episode of the first end of this shortage, and the how many-th this one is",
    ),
    (
        &[
            "cleaning.important.name",
            "cleaning.important.processes",
            "cleaning.important.memory",
            "cleaning.important.memory_share",
            "cleaning.important.cpu_share",
            "cleaning.important.over",
        ],
        "the important application when it was decided",
    ),
    (
        &[
            "cleaning.after.name",
            "cleaning.after.processes",
            "cleaning.after.memory",
            "cleaning.after.memory_share",
            "cleaning.after.cpu_share",
            "cleaning.after.over",
        ],
        "the same when the tree was dead; CPU since the signal, where there was enough of it to tell",
    ),
    (
        &[
            "cleaning.applications[].name",
            "cleaning.applications[].processes",
            "cleaning.applications[].memory",
            "cleaning.applications[].memory_share",
            "cleaning.applications[].cpu_share",
            "cleaning.applications[].over",
        ],
        "all applications, the largest first",
    ),
];

const MANUAL: &str = "\
# What is recorded

`nbguard doc record` writes this page from the tables in `src/observe/reference.rs`. A key that changes
is an entry in `CHANGELOG.md`.

";

/// The text of `packaging/doc/record.md`.
pub fn manual() -> String {
    let mut text = MANUAL.to_owned();
    text += "## The kinds of episode, and their reasons\n\n| kind | reason | meaning |\n|---|---|---|\n";
    for reason in &REASONS {
        let _ = writeln!(text, "| `{}` | `{}` | {} |", reason.kind, reason.name, reason.meaning);
    }
    text +=
        "\n## How a container is watched\n\n| mode | meaning | how good it is |\n|---|---|---|\n";
    for (mode, meaning, worth) in MODES {
        let _ = writeln!(text, "| `{mode}` | {meaning} | {worth} |");
    }
    text += "\n## The line in the journal\n\nIt leaves out what it has no figure for.\n\n| key | meaning |\n|---|---|\n";
    for (key, meaning) in LINE {
        let _ = writeln!(text, "| `{key}` | {meaning} |");
    }
    text += "\n## The record\n\nOne JSON object per episode and line. Bytes are plain numbers, times are microseconds; what is not \
             known is\n`null`, never zero.\n\n| key | meaning |\n|---|---|\n";
    for (keys, meaning) in RECORD {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let _ = writeln!(text, "| {} | {meaning} |", keys.join(", "));
    }
    text
}
