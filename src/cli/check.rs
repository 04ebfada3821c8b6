//! `nbguard check`: everything that is wrong with the configuration, in one run.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{files, out};
use crate::config::{Config, ConfigError};

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Instead of `--config`: this file, and `conf.d/*.toml` beside it
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    files: Vec<String>,
    errors: &'a [ConfigError],
    warnings: &'a [ConfigError],
}

pub fn run(config: &Path, args: &CheckArgs, out: &mut dyn Write) -> Outcome {
    let main = args.file.as_deref().unwrap_or(config);
    let files = files::load(main).map_err(|message| Failure::Said(Exit::Config, message))?;
    let (errors, warnings) = match Config::read(&files) {
        Ok((_, warnings)) => (Vec::new(), warnings),
        Err(errors) => (errors.0, Vec::new()),
    };
    let names: Vec<String> = files.iter().map(|(file, _)| file.display().to_string()).collect();
    if args.json {
        let ok = errors.is_empty();
        let report = Report { ok, files: names, errors: &errors, warnings: &warnings };
        writeln!(out, "{}", out::json(&report))?;
    } else {
        tell(main, &names, &errors, &warnings, out)?;
    }
    Ok(if errors.is_empty() { Exit::Ok } else { Exit::Config })
}

fn tell(
    main: &Path,
    files: &[String],
    errors: &[ConfigError],
    warnings: &[ConfigError],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    for finding in errors.iter().chain(warnings) {
        writeln!(out, "{finding}\n")?;
    }
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match (errors.len(), warnings.len()) {
        (0, _) if files.is_empty() => {
            writeln!(out, "{} does not exist: all keys at their defaults", main.display())?;
        }
        (0, 0) => writeln!(out, "{}: no errors", files.join(", "))?,
        (0, n) => writeln!(out, "{}: no errors, {}", files.join(", "), counted(n, "warning"))?,
        (n, _) => writeln!(out, "{}", counted(n, "error"))?,
    }
    Ok(())
}
