//! One line per episode for the journal: stable keys, numbers with units, greppable with
//! `journalctl -u nbguard -g episode=`. A key that changes is an entry in the changelog.

use std::fmt::Write;

use crate::parse::escape::escape;
use crate::report::{Incident, Kind, Verdict};
use crate::units::Bytes;

/// The line of an incident.
pub fn line(incident: &Incident) -> String {
    let mut out = String::with_capacity(512);
    let kind = match incident.kind {
        Kind::Kill => "kill",
        Kind::Hold => "hold",
        Kind::KernelOom => "kernel-oom",
    };
    let mut put = |key: &str, value: &str| {
        let _ = write!(out, "{}{key}={value}", if out.is_empty() { "" } else { " " });
    };
    put("episode", &incident.id);
    put("kind", kind);
    put("reason", &incident.reason);
    if incident.dry_run {
        put("dry_run", "true");
    }
    if let Some(container) = &incident.container {
        put("container", &quoted(&container.name));
        put("container_id", container.id.get(..12).unwrap_or(&container.id));
    }
    put("domain", &incident.domain);
    put("mode", &incident.mode);
    put("trigger", &incident.trigger);
    if let Some(victim) = &incident.victim {
        put("pid", &victim.pid.to_string());
        put("name", &quoted(&victim.name));
        if let Some(notebook) = &victim.notebook {
            put("notebook", &quoted(notebook));
        }
        put("memory", &mib(victim.memory));
        put("processes", &victim.signalled.to_string());
    }
    put("usage", &mib(incident.figures.usage));
    put("unreclaimable", &mib(incident.figures.unreclaimable));
    put("threshold", &mib(incident.figures.threshold));
    put("total", &mib(incident.figures.total));
    if let Some(psi) = incident.figures.psi_some_avg10 {
        put("psi_some_avg10", &format!("{psi:.2}%"));
    }
    let timings = &incident.timings;
    for (key, value) in [
        ("decision", timings.event_to_decision_us),
        ("signal", timings.event_to_signal_us),
        ("dead", timings.signal_to_dead_us),
    ] {
        if let Some(us) = value {
            put(key, &format!("{}.{:03}ms", us / 1000, us % 1000));
        }
    }
    if let Some(freed) = incident.freed {
        put("freed", &mib(freed));
    }
    if incident.kernel_oom_kills > 0 {
        put("kernel_oom_kills", &incident.kernel_oom_kills.to_string());
    }
    if incident.verdict == Verdict::Kill {
        put("message", incident.message.split(':').next().unwrap_or("skipped"));
    }
    put("why", &quoted(&incident.sentence));
    out
}

/// Longest text of one key: a notebook's path of 200 characters and its quotes.
const TEXT_MAX: usize = 512;

/// In double quotes, as a shell and logfmt readers take it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text.as_bytes(), TEXT_MAX).replace('"', "'"))
}

fn mib(bytes: Bytes) -> String {
    format!("{}MiB", bytes.0 >> 20)
}
