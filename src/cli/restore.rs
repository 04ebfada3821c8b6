//! `nbguard restore`: puts back what the state file says was changed. Thaws everybody first, then
//! `memory.high`: the plain file at once, then systemd's property. Touches a group only while it
//! still has the inode that was noted.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde::Serialize;

use crate::act::state::{Changed, FREEZE, StateFile};
use crate::act::tripwire;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{files, out, set_memory_high};
use crate::config::GuardSettings;
use crate::facts::Limit;
use crate::host;
use crate::roots::Roots;
use crate::units::Bytes;

pub const STATE_FILE: &str = "state.json";
const DAEMON: &str = "nbguardd";

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The state file, if not the one that the configuration names
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What became of one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
enum Fate {
    Restored {
        from: String,
    },
    /// Removed, or another group has its name now: nothing to put back.
    Gone,
    Failed {
        error: String,
    },
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    dir: &'a Path,
    unit: Option<&'a str>,
    value: &'a str,
    thawed: bool,
    #[serde(flatten)]
    fate: Fate,
}

pub fn run(config: &Path, args: &RestoreArgs, out: &mut dyn Write) -> Outcome {
    let path = match &args.state {
        Some(path) => path.clone(),
        None => state_file(config),
    };
    let mut state = StateFile::read(&path).map_err(Failure::wrong)?;
    let noted = state.changed.clone();
    let thawed: Vec<Result<bool, String>> = noted.iter().map(thaw).collect();
    let mut rows = Vec::new();
    for (changed, thawed) in noted.iter().zip(thawed) {
        let fate = match &thawed {
            Err(error) => Fate::Failed { error: error.clone() },
            Ok(_) => put_back(changed),
        };
        if !matches!(fate, Fate::Failed { .. }) {
            state.forget(changed.inode);
        }
        rows.push(Row {
            id: &changed.id,
            dir: &changed.dir,
            unit: changed.unit.as_deref(),
            value: &changed.original,
            thawed: thawed == Ok(true),
            fate,
        });
    }
    let daemon = is_guarded(&path);
    if !daemon && !noted.is_empty() {
        state.write(&path).map_err(|e| Failure::wrong(format!("{}: {e}", path.display())))?;
    }
    if args.json {
        let report = serde_json::json!({ "state": path, "daemon": daemon, "groups": rows });
        writeln!(out, "{}", out::json(&report))?;
    } else {
        tell(&path, daemon, &rows, out)?;
    }
    let failed = rows.iter().any(|row| matches!(row.fate, Fate::Failed { .. }));
    Ok(if failed { Exit::Wrong } else { Exit::Ok })
}

/// Where the daemon keeps its note. A configuration with errors must not keep anybody from
/// lifting the tripwires, so its place is then the default one.
pub fn state_file(config: &Path) -> PathBuf {
    let dir = match files::config(config) {
        Ok((config, _)) => config.guard.state_dir,
        Err(error) => {
            let dir = GuardSettings::default().state_dir;
            let dir_shown = dir.display();
            let _ = writeln!(io::stderr(), "nbguard: {error}\nnbguard: looking in {dir_shown}");
            dir
        }
    };
    dir.join(STATE_FILE)
}

/// Whether a daemon holds the lock beside this note: it will move its tripwires again.
pub fn is_guarded(state: &Path) -> bool {
    let lock = File::open(state.with_file_name("lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The group's directory, if it is still the one that was noted.
fn same_group(changed: &Changed) -> Result<Option<File>, String> {
    match changed.open() {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if tripwire::is_gone(&e) => Ok(None),
        Err(e) => Err(format!("{}: {e}", changed.dir.display())),
    }
}

/// Thaws a group that was frozen for the last sweep of a kill. Whether it had to.
fn thaw(changed: &Changed) -> Result<bool, String> {
    if !changed.frozen || same_group(changed)?.is_none() {
        return Ok(false);
    }
    let unified = |dir: &Path| host::hierarchies(&Roots::system().ok()?).ok()?.unified(dir);
    let thawed = changed.thaw(unified).map(|()| true);
    thawed.map_err(|e| format!("{}/{FREEZE}: {e}", changed.dir.display()))
}

fn put_back(changed: &Changed) -> Fate {
    match try_put_back(changed) {
        Ok(fate) => fate,
        Err(error) => Fate::Failed { error },
    }
}

fn try_put_back(changed: &Changed) -> Result<Fate, String> {
    let value = match changed.original.as_str() {
        "max" => Limit::Max,
        text => Limit::At(Bytes(
            text.parse().map_err(|e| format!("{}: `{text}` in the note: {e}", changed.id))?,
        )),
    };
    let Some(dir) = same_group(changed)? else { return Ok(Fate::Gone) };
    let file = changed.dir.join(tripwire::HIGH);
    let words = |e: io::Error| format!("{}: {e}", file.display());
    let from = match read_high(&dir) {
        Ok(from) => from,
        // cgroup v1: only a freeze was noted, and that is thawed by now.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Fate::Restored { from: String::new() });
        }
        Err(e) => return Err(words(e)),
    };
    tripwire::write_high(dir.as_fd(), value).map_err(words)?;
    if let Some(unit) = &changed.unit {
        set_memory_high::set(unit, value).map_err(|why| format!("{unit}: {why}"))?;
    }
    Ok(Fate::Restored { from })
}

fn read_high(dir: &File) -> io::Result<String> {
    let fd = openat(dir, tripwire::HIGH, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(fd).take(64).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn tell(state: &Path, daemon: bool, rows: &[Row<'_>], out: &mut dyn Write) -> Result<(), Failure> {
    if rows.is_empty() {
        writeln!(out, "{}: nothing was changed, nothing to restore", state.display())?;
        return Ok(());
    }
    for row in rows {
        let dir = out::safe(&row.dir.to_string_lossy(), out::LINE_MAX);
        let thawed = if row.thawed { "thawed; " } else { "" };
        match &row.fate {
            Fate::Restored { from } if from.is_empty() => writeln!(out, "{dir}: {thawed}done")?,
            Fate::Restored { from } => {
                writeln!(out, "{dir}: {thawed}memory.high {from} -> {}", row.value)?;
            }
            Fate::Gone => writeln!(out, "{dir}: gone, nothing to restore")?,
            Fate::Failed { error } => {
                writeln!(out, "FAILED {thawed}{}", out::safe(error, out::LINE_MAX))?;
            }
        }
    }
    if daemon {
        writeln!(out, "{DAEMON} is running and will set its tripwires again")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    /// A directory that looks like a cgroup to a writer.
    fn group(name: &str) -> (PathBuf, Changed) {
        let dir =
            std::env::temp_dir().join(format!("nbguard-restore-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory.high"), "483183820\n").unwrap();
        fs::write(dir.join(FREEZE), "1\n").unwrap();
        let changed = Changed {
            id: name.into(),
            inode: fs::metadata(&dir).unwrap().ino(),
            dir: dir.clone(),
            unit: None,
            original: "max".into(),
            frozen: true,
        };
        (dir, changed)
    }

    fn restore(state: &Path) -> (Exit, String) {
        let args = RestoreArgs { state: Some(state.to_owned()), json: false };
        let mut text = Vec::new();
        let exit = run(Path::new("unused"), &args, &mut text).unwrap();
        (exit, String::from_utf8(text).unwrap())
    }

    #[test]
    fn thaws_and_puts_back_what_stood_there() {
        let (dir, changed) = group("all");
        let path = dir.join(STATE_FILE);
        let mut state = StateFile::default();
        state.note(changed);
        state.write(&path).unwrap();
        let (exit, text) = restore(&path);
        assert_eq!(exit, Exit::Ok, "{text}");
        assert!(text.contains("thawed; memory.high 483183820 -> max"), "{text}");
        // A cgroup file has no length; a plain one keeps what is not overwritten.
        assert!(fs::read_to_string(dir.join("memory.high")).unwrap().starts_with("max"));
        assert!(fs::read_to_string(dir.join(FREEZE)).unwrap().starts_with('0'));
        assert!(restore(&path).1.contains("nothing to restore"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn another_group_under_the_same_name_is_not_touched() {
        let (dir, changed) = group("reused");
        let path = dir.join(STATE_FILE);
        let mut state = StateFile::default();
        state.note(Changed { inode: changed.inode + 1, ..changed });
        state.write(&path).unwrap();
        let (exit, text) = restore(&path);
        assert_eq!(exit, Exit::Ok);
        assert!(text.contains("gone"), "{text}");
        assert_eq!(fs::read_to_string(dir.join("memory.high")).unwrap(), "483183820\n");
        assert_eq!(fs::read_to_string(dir.join(FREEZE)).unwrap(), "1\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_failed_stays_noted_and_the_others_are_restored() {
        let (good, changed) = group("good");
        let (bad, broken) = group("bad");
        let path = good.join(STATE_FILE);
        let mut state = StateFile::default();
        state.note(Changed { original: "lots".into(), ..broken });
        state.note(changed);
        state.write(&path).unwrap();
        let (exit, text) = restore(&path);
        assert_eq!(exit, Exit::Wrong);
        assert!(text.contains("FAILED") && text.contains("-> max"), "{text}");
        assert_eq!(StateFile::read(&path).unwrap().changed.len(), 1);
        fs::remove_dir_all(good).unwrap();
        fs::remove_dir_all(bad).unwrap();
    }
}
