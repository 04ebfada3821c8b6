//! `nbguard doc`: documents made from the lists they describe, so that they cannot differ.

use std::io::Write;

use clap::{Args, ValueEnum};

use crate::cli::exit::{Exit, Outcome};
use crate::config::keys;
use crate::observe::metrics;

#[derive(Args, Debug)]
pub struct DocArgs {
    pub what: What,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum What {
    /// The reference of the configuration: conf/nbguard.toml
    Config,
    /// Every metric: packaging/doc/metrics.md
    Metrics,
}

pub fn run(args: &DocArgs, out: &mut dyn Write) -> Outcome {
    match args.what {
        What::Config => out.write_all(keys::reference().as_bytes())?,
        What::Metrics => out.write_all(metrics::manual().as_bytes())?,
    }
    Ok(Exit::Ok)
}
