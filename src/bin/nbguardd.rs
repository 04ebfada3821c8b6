//! The daemon. Its arguments are few enough to be read by hand: a parser library would double
//! what stays resident.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use nbguard::exit;
use nbguard::reactor::{self, Options};

const HELP: &str = "\
nbguardd: ends the one notebook that exhausts its container's memory

Usage: nbguardd [--config FILE] [--dry-run]

  --config FILE  configuration; drop-ins are read from conf.d beside it
                 [default: /etc/nbguard/nbguard.toml]
  --dry-run      decide and report, touch nothing
  --help         this text
  --version      the version

Signals: SIGHUP reads the configuration again, SIGTERM puts every tripwire back and ends.
Example: nbguardd --config ./nbguard.toml --dry-run
";

enum Command {
    Run(Options),
    Say(String),
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Err(what) => {
            eprintln!("nbguardd: {what}; see nbguardd --help");
            ExitCode::from(exit::USAGE)
        }
        Ok(Command::Say(text)) => {
            println!("{text}");
            ExitCode::from(exit::OK)
        }
        Ok(Command::Run(options)) => match reactor::run(&options) {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => {
                eprintln!("nbguardd: {error}");
                ExitCode::from(error.exit_code())
            }
        },
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut options =
        Options { config: PathBuf::from(reactor::CONFIG), dry_run: false, tool: None };
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--config") => {
                options.config = args.next().ok_or("--config wants a file")?.into();
            }
            Some("--dry-run") => options.dry_run = true,
            Some("--help" | "-h") => return Ok(Command::Say(HELP.trim_end().to_owned())),
            Some("--version" | "-V") => {
                return Ok(Command::Say(format!("nbguardd {}", env!("CARGO_PKG_VERSION"))));
            }
            Some(text) if text.starts_with("--config=") => {
                options.config = PathBuf::from(&text["--config=".len()..]);
            }
            _ => return Err(format!("unexpected argument {}", arg.display())),
        }
    }
    Ok(Command::Run(options))
}
