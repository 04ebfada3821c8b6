//! `nbguard doctor`: each thing the guard needs, whether it is there, and the remedy where it is
//! not. It tries things out where trying is harmless, and changes nothing.

mod checks;

use std::io::Write;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Outcome};
use crate::cli::out::{self, LINE_MAX, Paint, safe};

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How a thing stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Ok,
    /// It guards, but not as well as it could.
    Warn,
    /// It cannot guard, or not these containers.
    Fail,
}

/// What was found about one thing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub status: Status,
    pub found: String,
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Finding {
        Finding { name, status: Status::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let (found, remedy) = (found.into(), Some(remedy.into()));
        Finding { name, status: Status::Warn, found, remedy }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { status: Status::Fail, ..Finding::warn(name, found, remedy) }
    }
}

pub fn run(config: &Path, args: &DoctorArgs, out: &mut dyn Write) -> Outcome {
    let findings = checks::all(config);
    let can_guard = findings.iter().all(|finding| finding.status != Status::Fail);
    if args.json {
        let report = serde_json::json!({ "can_guard": can_guard, "checks": findings });
        writeln!(out, "{}", out::json(&report))?;
    } else {
        let paint = Paint::for_stdout();
        for finding in &findings {
            write!(out, "{}", shown(finding, paint))?;
        }
        writeln!(out, "\n{}", summary(&findings, paint))?;
    }
    Ok(if can_guard { Exit::Ok } else { Exit::Wrong })
}

fn shown(finding: &Finding, paint: Paint) -> String {
    let word = match finding.status {
        Status::Ok => paint.green("ok  "),
        Status::Warn => paint.yellow("warn"),
        Status::Fail => paint.red("FAIL"),
    };
    let mut text = format!("{word}  {:<15} {}\n", finding.name, safe(&finding.found, LINE_MAX));
    if let Some(remedy) = &finding.remedy {
        text += &format!("{:21} -> {}\n", "", safe(remedy, LINE_MAX));
    }
    text
}

fn summary(findings: &[Finding], paint: Paint) -> String {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => paint.green("nbguard can guard this host."),
        (0, warn) => {
            paint.yellow(&format!("nbguard can guard this host; {warn} things could be better."))
        }
        (fail, _) => paint.red(&format!("nbguard cannot guard this host as it is: {fail} failed.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_its_remedy_another() {
        let plain = Paint::plain();
        assert_eq!(shown(&Finding::ok("psi", "on"), plain), "ok    psi             on\n");
        let text = shown(&Finding::fail("psi", "off\u{1b}[2J\nx", "boot with psi=1"), plain);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("-> boot with psi=1") && !text.contains('\u{1b}'));
    }

    #[test]
    fn it_looks_at_this_host_without_failing_itself() {
        let findings = checks::all(Path::new("/nonexistent/nbguard.toml"));
        let find = |name| findings.iter().find(|f| f.name == name).unwrap();
        assert_eq!(find("configuration").status, Status::Fail);
        for name in ["pidfd", "cgroups", "pressure", "swap", "other guards", "docker"] {
            assert!(!find(name).found.is_empty());
        }
        for finding in &findings {
            assert_eq!(finding.remedy.is_some(), finding.status != Status::Ok, "{finding:?}");
        }
        let mut names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), findings.len(), "each thing is looked at once");
    }
}
