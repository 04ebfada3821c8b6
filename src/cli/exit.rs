//! How a command ends: the one table of exit codes, for `nbguard` and `nbguardd` alike.
//! `--help` prints it, and the manual pages have it.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Wrong = 1,
    Usage = 2,
    Config = 3,
    CannotWork = 4,
}

/// Every code and what it says.
pub const TABLE: [(Exit, &str); 5] = [
    (Exit::Ok, "done; nothing is wrong"),
    (
        Exit::Wrong,
        "something is wrong: not guarded, not found, not restored, or the wrong one ended",
    ),
    (Exit::Usage, "the command line was not understood"),
    (Exit::Config, "the configuration has errors"),
    (Exit::CannotWork, "cannot work here: a privilege or a part of the kernel is missing"),
];

impl Exit {
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The table as `--help` prints it.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in TABLE {
        text += &format!("  {}  {meaning}\n", exit.code());
    }
    text
}

/// Why a command stopped, in words for the person at the terminal.
#[derive(Debug)]
pub enum Failure {
    /// The message, and the code to end with.
    Said(Exit, String),
    /// Nobody reads what we print any more (`| head`): no failure.
    NobodyListens,
    Print(io::Error),
}

impl Failure {
    pub fn wrong(message: impl Into<String>) -> Failure {
        Failure::Said(Exit::Wrong, message.into())
    }

    pub fn cannot(message: impl Into<String>) -> Failure {
        Failure::Said(Exit::CannotWork, message.into())
    }

    pub fn exit(&self) -> Exit {
        match self {
            Failure::Said(exit, _) => *exit,
            Failure::NobodyListens => Exit::Ok,
            Failure::Print(_) => Exit::Wrong,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Said(_, message) => f.write_str(message),
            Failure::NobodyListens => Ok(()),
            Failure::Print(error) => write!(f, "standard output: {error}"),
        }
    }
}

/// Only printing uses `?` on an [`io::Error`]; what was read or written elsewhere is put into
/// words where it happened, with its path.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyListens,
            _ => Failure::Print(error),
        }
    }
}

pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_table_once_and_in_order() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        for (exit, meaning) in TABLE {
            assert!(help().contains(&format!("{}  {meaning}", exit.code())));
        }
    }
}
