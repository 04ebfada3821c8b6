//! The screen: on a terminal one block that is drawn anew, elsewhere a plain line now and then.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::Act;
use super::plan::Plan;
use super::stage::Stage;
use super::witness::Seen;
use crate::cli::look::{self, Look};
use crate::cli::out::{Paint, safe};
use crate::facts::Psi;
use crate::sys::terminal;
use crate::units::{Bytes, Share};

/// Without a terminal: how often a line is printed while nothing new happens.
const LINE_EVERY: Duration = Duration::from_millis(500);
const BAR: usize = 40;
const WIDTH: usize = 80;

pub struct Screen {
    live: bool,
    paint: Paint,
    width: usize,
    /// Lines of the block that stands there now.
    drawn: usize,
    last: Option<(Act, Duration)>,
}

impl Screen {
    pub fn new() -> Screen {
        let stdout = io::stdout();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal::columns(stdout.as_fd()).map_or(WIDTH, usize::from);
        Screen {
            live: stdout.is_terminal() && !dumb,
            paint: Paint::for_stdout(),
            width: width.max(40),
            drawn: 0,
            last: None,
        }
    }

    pub fn say(&mut self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{text}")?;
        out.flush()
    }

    pub fn introduce(&mut self, stage: &Stage, look: &Look, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Container {} with a limit of {}, threshold {}, watched by {} ({})",
            safe(&look.name, 64),
            stage.plan.limit,
            look.threshold,
            look.mode,
            look.mode_reason
        )?;
        let who = match &stage.plan.python {
            Some(python) => format!("real ipykernels of {}", python.display()),
            None => "stand-ins, recognised by the same rule as real kernels".to_owned(),
        };
        writeln!(out, "Notebooks: {who}\n")?;
        out.flush()
    }

    pub fn draw(
        &mut self,
        plan: &Plan,
        act: Act,
        time: Duration,
        look: Option<&Look>,
        seen: &Seen,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let Some(look) = look else { return Ok(()) };
        if self.live {
            let lines = self.block(plan, act, time, look, seen);
            self.replace(&lines, out)?;
        } else if self.is_due(act, time) {
            writeln!(out, "{}", line(act, time, look))?;
        }
        out.flush()
    }

    /// Leaves what was drawn last where it is.
    pub fn leave(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.drawn = 0;
        writeln!(out)
    }

    fn is_due(&mut self, act: Act, time: Duration) -> bool {
        let due = self.last.is_none_or(|(last, at)| last != act || time - at >= LINE_EVERY);
        if due {
            self.last = Some((act, time));
        }
        due
    }

    /// Up over the old block, clear to the end, the new one.
    fn replace(&mut self, lines: &[String], out: &mut dyn Write) -> io::Result<()> {
        if self.drawn > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
        self.drawn = lines.len();
        Ok(())
    }

    fn block(
        &self,
        plan: &Plan,
        act: Act,
        time: Duration,
        look: &Look,
        seen: &Seen,
    ) -> Vec<String> {
        let usage = look.figures.usage;
        let bar = bar(usage, look.threshold, look.total);
        let bar = match act {
            _ if usage >= look.threshold => self.paint.red(&bar),
            _ if usage >= Bytes(look.threshold.0 / 9 * 8) => self.paint.yellow(&bar),
            _ => self.paint.green(&bar),
        };
        let mut lines = vec![
            format!("{:>6.1} s  {}", time.as_secs_f64(), self.paint.bold(said(act))),
            format!("usage     {bar} {usage} ({})", look::share(usage, look.total)),
            format!("pressure  {}", pressure(look)),
            self.clip("", "  PID      MEMORY       NOTEBOOK"),
        ];
        for row in &look.rows {
            let mark = if look.would.end == Some(row.pid) { "<- would end first" } else { "" };
            let name = safe(row.notebook.as_deref().unwrap_or(&row.name), 48);
            let text = format!("  {:<8} {:<12} {name}", row.pid, row.memory.to_string());
            lines.push(self.clip(&text, mark));
        }
        for server in &look.servers {
            let name = safe(&server.name, 48);
            let memory = server.memory.to_string();
            lines.push(self.clip(&format!("  {:<8} {memory:<12} {name}", server.pid), "server"));
        }
        for (part, pid, _) in &seen.deaths {
            let name = super::verdict::name(plan, *part);
            lines.push(self.paint.red(&self.clip(&format!("  {pid:<8} ended"), &name)));
        }
        lines
    }

    /// A line never wraps: the block would be drawn one line too low.
    fn clip(&self, text: &str, more: &str) -> String {
        let mut line = if text.is_empty() { more.to_owned() } else { format!("{text}  {more}") };
        if let Some((at, _)) = line.char_indices().nth(self.width - 1) {
            line.truncate(at);
        }
        line
    }
}

fn said(act: Act) -> &'static str {
    match act {
        Act::Calm => "all is calm",
        Act::Growing => "one notebook grows",
        Act::Ended => "it was ended; memory comes back",
        Act::After => "it is over; does anybody else end?",
    }
}

/// `####----|--`: filled to the usage, with a mark at the threshold.
fn bar(usage: Bytes, threshold: Bytes, total: Bytes) -> String {
    let at = |part: Bytes| {
        let share = Share::of(part, total).unwrap_or(Share::ZERO).0 as usize;
        (share * BAR / Share::ONE.0 as usize).min(BAR)
    };
    let (full, mark) = (at(usage), at(threshold));
    let cell = |i: usize| match i {
        _ if i == mark => '|',
        _ if i < full => '#',
        _ => '-',
    };
    format!("[{}]", (0..BAR).map(cell).collect::<String>())
}

fn pressure(look: &Look) -> String {
    match look.figures.psi.known() {
        Some(Psi { some_avg10, full_avg10, some_total_us, .. }) => format!(
            "some {} %, full {} % in 10 s; {} ms waited in all",
            percent(some_avg10),
            percent(full_avg10),
            some_total_us / 1000
        ),
        None => "unknown: this kernel has no PSI here".to_owned(),
    }
}

fn percent(hundredths: u32) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn line(act: Act, time: Duration, look: &Look) -> String {
    let usage = look.figures.usage;
    let first = look.rows.first().map_or(String::new(), |row| {
        let name = safe(row.notebook.as_deref().unwrap_or(&row.name), 48);
        format!(", first {name} {}", row.memory)
    });
    let stall = match look.figures.psi.known() {
        Some(psi) => format!("{} %", percent(psi.some_avg10)),
        None => "unknown".to_owned(),
    };
    format!(
        "{:>5.1} s  {}: usage {usage} ({} of {}), pressure {stall}{first}",
        time.as_secs_f64(),
        said(act),
        look::share(usage, look.total),
        look.total
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_usage_against_the_threshold() {
        let bar = |usage| bar(Bytes(usage), Bytes(90), Bytes(100));
        assert_eq!(bar(0), format!("[{}|---]", "-".repeat(36)));
        assert_eq!(bar(50), format!("[{}{}|---]", "#".repeat(20), "-".repeat(16)));
        assert_eq!(bar(200), format!("[{}|###]", "#".repeat(36)));
    }
}
