//! `nbguard doc`: documents made from the lists they describe, so that they cannot differ.

mod completions;
mod man;
mod page;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::config::keys;
use crate::observe::{metrics, reference};

#[derive(Args, Debug)]
pub struct DocArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// The reference of the configuration: conf/nbguard.toml
    Config,
    /// Every metric: packaging/doc/metrics.md
    Metrics,
    /// The reasons, the line and the record: packaging/doc/record.md
    Record,
    /// The manual pages. Dated by SOURCE_DATE_EPOCH where it is set, else today
    Man {
        /// Print this one
        #[arg(default_value = "nbguard")]
        page: man::Page,
        /// Write all of them into this directory instead
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Completions of the command line
    Completions {
        #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
        shell: Shell,
        /// Print those of this program
        #[arg(default_value = "nbguard")]
        program: Program,
        /// Write those of both into this directory instead, as the shell looks for them
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    Nbguard,
    Nbguardd,
}

pub fn run(args: &DocArgs, out: &mut dyn Write) -> Outcome {
    match &args.what {
        What::Config => out.write_all(keys::reference().as_bytes())?,
        What::Metrics => out.write_all(metrics::manual().as_bytes())?,
        What::Record => out.write_all(reference::manual().as_bytes())?,
        What::Man { page, to: None } => out.write_all(man::text(*page).as_bytes())?,
        What::Man { to: Some(dir), .. } => {
            for page in man::Page::ALL {
                write(&dir.join(page.file()), &man::text(page))?;
            }
        }
        What::Completions { shell, program, to: None } => {
            out.write_all(completions::text(*shell, *program).as_bytes())?;
        }
        What::Completions { shell, to: Some(dir), .. } => {
            for program in [Program::Nbguard, Program::Nbguardd] {
                let file = dir.join(completions::file(*shell, program));
                write(&file, &completions::text(*shell, program))?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let dir = file.parent().unwrap_or(file);
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(file, text))
        .map_err(|error| Failure::wrong(format!("{}: {error}", file.display())))
}
