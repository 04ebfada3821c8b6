//! The command line of the daemon, for `nbguardd` and for the hidden `nbguard daemon` alike.
//! Parsed by hand: clap would double the resident binary for two options.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::{self, Exit};
use crate::cli::files;
use crate::host::mode;
use crate::reactor::{self, Error, Options};
use crate::sys;

/// An option of the daemon.
pub struct Opt {
    pub short: Option<char>,
    pub long: &'static str,
    /// What it takes.
    pub value: Option<&'static str>,
    pub meaning: &'static str,
}

/// The options of the daemon, and what they say: for `--help`, the manual and the completions.
pub const OPTIONS: [Opt; 4] = [
    Opt {
        short: Some('c'),
        long: "config",
        value: Some("FILE"),
        meaning: "The configuration; `conf.d/*.toml` beside it is read after it",
    },
    Opt {
        short: None,
        long: "dry-run",
        value: None,
        meaning: "Decide and record, but touch nothing and end nobody",
    },
    Opt { short: Some('h'), long: "help", value: None, meaning: "Print help" },
    Opt { short: Some('V'), long: "version", value: None, meaning: "Print version" },
];

/// What it does when it is sent one of these.
pub const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGHUP",
        "reads the configuration again; if something in it is wrong, what was in use stays in use",
    ),
    ("SIGTERM, SIGINT", "restores what was changed, and ends"),
    ("SIGKILL", "leaves every tripwire where it is; the next start takes over what it finds"),
];

/// What clap hands through untouched.
#[derive(Args, Debug)]
pub struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    Run { config: PathBuf, dry_run: bool, only: Option<PathBuf> },
    Help,
    Version,
    Wrong(String),
}

/// Reads the daemon's arguments (without its name).
pub fn parse(words: impl IntoIterator<Item = OsString>, default: &Path) -> Asked {
    let mut config = default.to_owned();
    let mut dry_run = false;
    let mut only = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--dry-run") => dry_run = true,
            // For `nbguard demo`: not for people, so not among OPTIONS.
            Some("--only-cgroup") => match words.next() {
                Some(group) => only = Some(PathBuf::from(group)),
                None => return Asked::Wrong("--only-cgroup needs a cgroup".to_owned()),
            },
            Some("-h" | "--help") => return Asked::Help,
            Some("-V" | "--version") => return Asked::Version,
            Some("-c" | "--config") => match words.next() {
                Some(file) => config = PathBuf::from(file),
                None => return Asked::Wrong("--config needs a file".to_owned()),
            },
            Some(word) if word.starts_with("--config=") => {
                config = PathBuf::from(&word["--config=".len()..]);
            }
            _ => return Asked::Wrong(format!("unexpected argument {word:?}")),
        }
    }
    Asked::Run { config, dry_run, only }
}

pub fn help() -> String {
    let mut text = String::from(
        "Guards containers: ends the one notebook that exhausts its container's memory.\n\n\
         Usage: nbguardd [OPTIONS]\n\nOptions:\n",
    );
    for option in &OPTIONS {
        let short = option.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let value = option.value.map_or(String::new(), |value| format!(" <{value}>"));
        let words = format!("{short}--{}{value}", option.long);
        text += &format!("  {words:<21}{}\n", option.meaning);
    }
    text += &format!("\nThe configuration is {} where no other is named.\n", files::DEFAULT);
    text += "SIGHUP reads it again; SIGTERM restores what was changed and ends.\n\nExamples:\n  \
             nbguardd --dry-run\n  nbguardd --config ./conf/nbguard.toml\n\n";
    text + &exit::help()
}

/// `nbguardd`, from its arguments to its exit code.
pub fn main() -> std::process::ExitCode {
    start(parse(std::env::args_os().skip(1), Path::new(files::DEFAULT))).into()
}

/// `nbguard daemon`.
pub fn run(config: &Path, passed: Passed) -> Exit {
    start(parse(passed.words, config))
}

fn start(asked: Asked) -> Exit {
    let mut out = std::io::stdout();
    match asked {
        Asked::Run { config, dry_run, only } => guard(config, dry_run, only),
        Asked::Help => say(&mut out, &help()),
        Asked::Version => say(&mut out, &format!("nbguardd {}\n", env!("CARGO_PKG_VERSION"))),
        Asked::Wrong(message) => {
            let text = format!("nbguardd: {message}\nTry 'nbguardd --help'.\n");
            say(&mut std::io::stderr(), &text);
            Exit::Usage
        }
    }
}

fn say(to: &mut dyn Write, text: &str) -> Exit {
    match to.write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Wrong,
    }
}

/// The allocator's cache of each thread holds on to small blocks all over the heap, so that what a
/// survey used could not be given back: 70 KiB in it, and 200 KiB of pages that it kept (seen with
/// glibc 2.36 and 110 containers). glibc reads this before `main` and from nowhere else.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// Starts itself once more, as the same process, where nobody has set the allocator up. What does
/// not work out costs memory and nothing else.
fn without_caches() {
    let (name, value) = TUNABLES;
    if std::env::var_os(name).is_none()
        && let Ok(own) = std::env::current_exe()
    {
        let mut words = std::env::args_os();
        let first = words.next().unwrap_or_default();
        let _ = std::process::Command::new(own).arg0(first).args(words).env(name, value).exec();
    }
}

fn guard(config: PathBuf, dry_run: bool, only: Option<PathBuf>) -> Exit {
    #[cfg(target_env = "gnu")]
    without_caches();
    match reactor::run(&Options { config, dry_run, tool: tool(), only }) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(exit_of(&error), &error),
    }
}

/// What carries out the daemon's helper commands: this very binary, if it is `nbguard`.
fn tool() -> Option<PathBuf> {
    std::env::current_exe().ok().filter(|exe| exe.file_name().is_some_and(|name| name == "nbguard"))
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreadable(error) if sys::may_pass(error) => Exit::Wrong,
        Error::Cgroups(mode::Error::MountInfo(errno)) if sys::may_pass(&(*errno).into()) => {
            Exit::Wrong
        }
        Error::Config(_) | Error::Unreadable(_) => Exit::Config,
        Error::Running(_) | Error::Cgroups(_) | Error::Unfit(_) => Exit::CannotWork,
        // It may work at the next attempt: the unit starts again after this one, a few times.
        Error::Io { .. } => Exit::Wrong,
    }
}

fn fail(exit: Exit, error: &dyn std::fmt::Display) -> Exit {
    say(&mut std::io::stderr(), &format!("nbguardd: {error}\n"));
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Asked {
        parse(words.iter().map(OsString::from), Path::new("/d"))
    }

    #[test]
    fn the_options_are_understood_in_any_order() {
        let run = |config: &str, dry_run| Asked::Run { config: config.into(), dry_run, only: None };
        assert_eq!(asked(&[]), run("/d", false));
        assert_eq!(asked(&["--dry-run", "-c", "/x"]), run("/x", true));
        assert_eq!(asked(&["--config=/x", "--dry-run"]), run("/x", true));
        assert_eq!(asked(&["--config", "/x", "--help"]), Asked::Help);
        assert_eq!(asked(&["-V"]), Asked::Version);
        for bad in [&["--config"][..], &["--dryrun"], &["file"], &["-x"]] {
            assert!(matches!(asked(bad), Asked::Wrong(_)), "{bad:?}");
        }
    }

    #[test]
    fn every_option_of_the_list_is_understood() {
        for option in &OPTIONS {
            let value = option.value.map(|_| "/x");
            let long = format!("--{}", option.long);
            let short = option.short.map(|short| format!("-{short}"));
            for word in [Some(long), short].into_iter().flatten() {
                let words: Vec<&str> = [Some(&*word), value].into_iter().flatten().collect();
                assert!(!matches!(asked(&words), Asked::Wrong(_)), "{words:?}");
            }
        }
    }

    #[test]
    fn help_names_every_option_and_exit_code() {
        for option in ["--config", "--dry-run", "--help", "--version", "Exit codes", "SIGHUP"] {
            assert!(help().contains(option), "{option}");
        }
    }
}
