//! `nbguard pause`, `resume`, `protect`, `unprotect`: one line to the daemon, one line back. What
//! a name stands for is decided there, against what it watches; here are words and exit codes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::cli::demo::is_root;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{self, CELL_MAX, LINE_MAX, safe};
use crate::cli::{files, look};
use crate::config::GuardSettings;
use crate::config::quantity::parse_duration;
use crate::policy::orders::{LONGEST, Order, Reply, Request, Subject, What, wall};
use crate::reactor::CONTROL_SOCKET;

/// The daemon gives itself two seconds to read who is who, and two to answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// 256 orders of about 2 KiB each, twice.
const ANSWER_MAX: u64 = 1 << 20;

#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Only this one: its name, or the first characters of its id
    pub container: Option<String>,
    /// Until then nobody ends; without it, until `nbguard resume`
    #[arg(long = "for", value_name = "DURATION", value_parser = lasts)]
    pub lasts: Option<Duration>,
}

#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// Only this one; without it every pause ends
    pub container: Option<String>,
}

#[derive(Args, Debug)]
pub struct ProtectArgs {
    /// A container; a pid; a notebook by its path, the end of it, or its kernel id. Where several
    /// are called so: CONTAINER:NOTEBOOK
    #[arg(value_name = "CONTAINER|PID|NOTEBOOK", required_unless_present = "list")]
    pub target: Option<String>,
    /// Only so long; without it, until `nbguard unprotect`
    #[arg(long = "for", value_name = "DURATION", value_parser = lasts, conflicts_with = "list")]
    pub lasts: Option<Duration>,
    /// What is protected and paused by command, by whom, and until when
    #[arg(long, conflicts_with = "target")]
    pub list: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "target")]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct UnprotectArgs {
    /// What was protected, by any of its names
    #[arg(value_name = "CONTAINER|PID|NOTEBOOK")]
    pub target: String,
}

fn lasts(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match time {
        _ if time < Duration::from_secs(1) => Err("that is over at once".to_owned()),
        _ if time > LONGEST => Err("longer than a year: leave --for away".to_owned()),
        _ => Ok(time),
    }
}

pub fn pause(config: &Path, args: &PauseArgs, out: &mut dyn Write) -> Outcome {
    let lasts = args.lasts.map(|time| time.as_secs());
    say(config, &Request::Pause { container: args.container.clone(), lasts }, out)
}

pub fn resume(config: &Path, args: &ResumeArgs, out: &mut dyn Write) -> Outcome {
    say(config, &Request::Resume { container: args.container.clone() }, out)
}

pub fn protect(config: &Path, args: &ProtectArgs, out: &mut dyn Write) -> Outcome {
    let Some(target) = args.target.clone() else { return list(config, args.json, out) };
    let lasts = args.lasts.map(|time| time.as_secs());
    say(config, &Request::Protect { target, lasts }, out)
}

pub fn unprotect(config: &Path, args: &UnprotectArgs, out: &mut dyn Write) -> Outcome {
    say(config, &Request::Unprotect { target: args.target.clone() }, out)
}

fn say(config: &Path, request: &Request, out: &mut dyn Write) -> Outcome {
    let reply = ask(config, request)?;
    writeln!(out, "{}", safe(&reply.said, LINE_MAX))?;
    Ok(Exit::Ok)
}

fn list(config: &Path, json: bool, out: &mut dyn Write) -> Outcome {
    let reply = ask(config, &Request::List)?;
    if json {
        writeln!(out, "{}", out::json(&serde_json::json!({ "orders": reply.orders })))?;
    } else if reply.orders.is_empty() {
        writeln!(out, "Nothing is protected or paused by command")?;
    } else {
        let rows: Vec<Vec<String>> = reply.orders.iter().map(row).collect();
        let headings = ["WHAT", "CONTAINER", "NOTEBOOK", "SINCE", "UNTIL", "BY"];
        write!(out, "{}", out::table(&headings, &rows))?;
    }
    Ok(Exit::Ok)
}

fn row(order: &Order) -> Vec<String> {
    let what = match order.what {
        What::Pause => "paused",
        What::Protect => "protected",
    };
    let all = || "(all)".to_owned();
    let (container, notebook) = match &order.of {
        Subject::All => (all(), all()),
        Subject::Container { name, .. } => (name.clone(), all()),
        Subject::Notebook { name, notebook, kernel_id, .. } => {
            (name.clone(), notebook.clone().or_else(|| kernel_id.clone()).unwrap_or_default())
        }
        Subject::Process { name, pid, process, .. } => {
            (name.clone(), format!("{process} (pid {pid})"))
        }
    };
    vec![
        what.to_owned(),
        safe(&container, CELL_MAX),
        safe(&notebook, LINE_MAX),
        wall(order.at),
        order.until.map_or_else(|| "taken back".to_owned(), wall),
        order.by.to_string(),
    ]
}

/// Asks the daemon. What it refuses is a failure, with what could have been meant.
fn ask(config: &Path, request: &Request) -> Result<Reply, Failure> {
    // The configuration says where the daemon listens. If it has errors by now, the daemon that
    // runs still has the place that it started with, most likely the default one.
    let dir = match files::config(config) {
        Ok((config, _)) => config.guard.state_dir,
        Err(_) => GuardSettings::default().state_dir,
    };
    let path = dir.join(CONTROL_SOCKET);
    let reply = exchange(&path, request).map_err(|error| failure(&path, &error))?;
    if reply.ok {
        return Ok(reply);
    }
    let mut text = safe(&reply.said, LINE_MAX);
    for candidate in &reply.candidates {
        text += &format!("\n  {}", safe(candidate, LINE_MAX));
    }
    Err(Failure::wrong(text))
}

fn exchange(path: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A daemon that refuses at once has closed by now; its answer says why.
    let sent = stream.write_all(&line);
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        sent?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied if !is_root() => {
            Failure::cannot("only root may command the guard; try it with sudo")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::wrong(match look::running_daemon() {
                None => format!(
                    "nbguardd is not running, so nothing is guarded and nothing can be ordered \
                     ({shown}): `systemctl start nbguard`"
                ),
                Some(pid) => format!(
                    "nbguardd (pid {pid}) does not listen on {shown}; is its `state_dir` another?"
                ),
            })
        }
        io::ErrorKind::UnexpectedEof => Failure::wrong(format!("{shown}: nbguardd did not answer")),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Failure::wrong(format!("{shown}: no answer within {} s", PATIENCE.as_secs()))
        }
        _ => Failure::wrong(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn served(name: &str, answer: &'static str) -> io::Result<Reply> {
        let path = std::env::temp_dir().join(format!("nbguard-ask-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let served = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            line
        });
        let reply = exchange(&path, &Request::List);
        assert_eq!(served.join().unwrap(), "{\"do\":\"list\"}\n");
        std::fs::remove_file(&path).unwrap();
        reply
    }

    #[test]
    fn one_line_goes_and_one_comes() {
        let reply = served("good", "{\"ok\":true,\"said\":\"x\"}\nmore\n").unwrap();
        assert_eq!(reply, Reply::done("x"));
        assert!(served("broken", "{\"ok\":\n").is_err());
        assert_eq!(served("silent", "").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nobody_there_is_told_with_the_remedy() {
        let path = Path::new("/nonexistent/control.sock");
        let error = exchange(path, &Request::List).unwrap_err();
        let failure = failure(path, &error);
        assert_eq!(failure.exit(), Exit::Wrong);
        assert!(failure.to_string().contains("/nonexistent/control.sock"), "{failure}");
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(lasts("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "2", "0s", "10ms", "2y", "soon"] {
            assert!(lasts(bad).is_err(), "{bad:?}");
        }
    }
}
