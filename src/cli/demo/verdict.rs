//! What came of it: who ended and why, who lived, how fast, and whether that was right.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::Told;
use super::plan::Plan;
use super::stage::{Part, Stage};
use super::witness::Seen;
use crate::cli::exit::Exit;
use crate::cli::out::{self, Paint, safe};
use crate::report::{Incident, Kind};
use crate::units::Bytes;

/// The records of the demo's guard. Broken or half-written ones do not count yet.
pub fn recorded(stage: &Stage) -> Vec<Incident> {
    let text = std::fs::read_to_string(stage.record()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub struct Report {
    /// What was not as it should be. Empty: the right one ended, and nobody else.
    wrong: Vec<String>,
    lines: Vec<(&'static str, String)>,
}

impl Report {
    pub fn new(stage: &Stage, seen: &Seen, told: &Told, threshold: Bytes) -> Report {
        let mut report = Report { wrong: Vec::new(), lines: Vec::new() };
        let kill = told.incidents.iter().find(|incident| incident.kind == Kind::Kill);
        report.judge(stage, seen, told);
        report.ended(&stage.plan, seen, kill);
        report.lived(&stage.plan, seen);
        report.speed(seen, kill);
        report.memory(seen, kill, threshold, stage.plan.limit);
        report
    }

    /// Exactly the one that grew, with its child; by the guard and not by the kernel; once.
    fn judge(&mut self, stage: &Stage, seen: &Seen, told: &Told) {
        let plan = &stage.plan;
        let right = Part::Kernel(plan.grows());
        let pid_of = |part: Part| {
            stage.actors.iter().find(|actor| actor.part == part).map(|actor| actor.pid)
        };
        if let Some(how) = &told.guard_ended {
            self.wrong.push(how.clone());
        }
        if told.kernel_kills > 0 {
            self.wrong.push(format!("the kernel's OOM killer acted {} times", told.kernel_kills));
        }
        if !is_dead(seen, right) {
            self.wrong.push(format!("{} was not ended", name(plan, right)));
        }
        for (part, _, _) in &seen.deaths {
            if *part != right && *part != Part::Child {
                self.wrong.push(format!("{} died", name(plan, *part)));
            }
        }
        if pid_of(Part::Child).is_some() && !is_dead(seen, Part::Child) && is_dead(seen, right) {
            self.wrong.push("a child of the ended notebook lives on".to_owned());
        }
        let kills: Vec<&Incident> =
            told.incidents.iter().filter(|incident| incident.kind == Kind::Kill).collect();
        match kills[..] {
            [] => self.wrong.push("the guard recorded no end".to_owned()),
            [one] => {
                let victim = one.victim.as_ref().map(|victim| victim.pid);
                if victim != pid_of(right) {
                    self.wrong.push(format!("the record names another victim: {victim:?}"));
                }
            }
            _ => self.wrong.push(format!("the guard ended {} notebooks", kills.len())),
        }
    }

    fn ended(&mut self, plan: &Plan, seen: &Seen, kill: Option<&Incident>) {
        let names: Vec<String> = seen
            .deaths
            .iter()
            .filter(|(part, ..)| *part != Part::Child)
            .map(|(part, pid, _)| format!("{} (pid {pid})", name(plan, *part)))
            .collect();
        let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        self.lines.push(("ended", names));
        let Some(kill) = kill else { return };
        self.lines.push(("why", kill.sentence.clone()));
        if let Some(victim) = &kill.victim {
            let mut signals =
                format!("{} to {} processes", victim.signals.join(", "), victim.signalled);
            for refusal in &victim.refused {
                let _ = write!(signals, "; {} refused: {}", refusal.pid, refusal.reason);
            }
            self.lines.push(("signals", signals));
            self.lines.push(("told", kill.message.clone()));
        }
    }

    fn lived(&mut self, plan: &Plan, seen: &Seen) {
        let all = (0..plan.kernels.len()).map(Part::Kernel).chain([Part::Server]);
        let living: Vec<String> =
            all.filter(|part| !is_dead(seen, *part)).map(|part| name(plan, part)).collect();
        self.lines.push(("lived", living.join(", ")));
    }

    /// The guard's own times, and what was seen from outside: the witness looks every 2 ms, and
    /// the usage that it reads lags behind what the kernel has charged.
    fn speed(&mut self, seen: &Seen, kill: Option<&Incident>) {
        let timings = kill.map(|kill| kill.timings).unwrap_or_default();
        let whole = timings.event_to_signal_us.zip(timings.signal_to_dead_us);
        let mut parts = Vec::new();
        if let Some((signal, dead)) = whole {
            parts.push(format!("{} from threshold to dead", out::micros(signal + dead)));
            parts.push(format!("signal after {}", out::micros(signal)));
        }
        if let Some(back) = timings.signal_to_back_us {
            parts.push(format!("memory back {} after the signal", out::micros(back)));
        }
        let dead = seen.deaths.iter().map(|(.., at)| *at).max();
        if let (Some(crossed), Some(dead)) = (seen.crossed, dead) {
            let time = dead.saturating_duration_since(crossed);
            parts.push(format!("seen from outside: {} ms", time.as_millis()));
        }
        if parts.is_empty() {
            parts.push("nobody was ended".to_owned());
        }
        self.lines.push(("speed", parts.join(", ")));
    }

    fn memory(&mut self, seen: &Seen, kill: Option<&Incident>, threshold: Bytes, limit: Bytes) {
        let back = seen.after_death.map(|least| seen.peak.less(least));
        let counted = kill.and_then(|kill| kill.freed);
        let mut text = match back {
            Some(back) => format!("{back} came back"),
            None => "nothing came back".to_owned(),
        };
        if let Some(counted) = counted {
            let _ = write!(text, " (the guard counted {counted})");
        }
        let peak = seen.peak;
        let _ = write!(text, "; peak {peak}, threshold {threshold}, limit {limit}");
        self.lines.push(("memory", text));
    }

    /// # Errors
    /// Standard output cannot be written to.
    pub fn tell(&self, stage: &Stage, out: &mut dyn Write) -> io::Result<Exit> {
        let paint = Paint::for_stdout();
        for (what, text) in &self.lines {
            writeln!(out, "{what:<9} {}", safe(text, out::LINE_MAX))?;
        }
        if self.wrong.is_empty() {
            let text = "The right notebook ended, alone; everybody else lives.";
            writeln!(out, "\n{}", paint.green(text))?;
            return Ok(Exit::Ok);
        }
        writeln!(out, "\n{}", paint.red("That was not right:"))?;
        for wrong in &self.wrong {
            writeln!(out, "  - {wrong}")?;
        }
        writeln!(out, "\nThe guard's last words:\n{}", stage.daemon_log())?;
        Ok(Exit::Wrong)
    }
}

fn is_dead(seen: &Seen, part: Part) -> bool {
    seen.deaths.iter().any(|(dead, ..)| *dead == part)
}

pub fn name(plan: &Plan, part: Part) -> String {
    match part {
        Part::Server => "the notebook server".to_owned(),
        Part::Child => "a child of the growing notebook".to_owned(),
        Part::Kernel(number) => plan
            .kernels
            .get(number)
            .map_or_else(|| format!("kernel {number}"), |kernel| kernel.notebook.clone()),
    }
}
