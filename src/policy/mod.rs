//! What to do when memory runs short, as pure decisions: values in, values out, `now` is an
//! argument. No file, no clock, no log line.
//!
//! `identity` says what a process is, `tree` groups processes into workloads, `rank` orders the
//! workloads by what their end would give back, `decide` holds the gate and the verdict, `clean`
//! is what `idle-first` chooses by, `explain` puts rows and verdicts into sentences; `episode`
//! carries a container through all of it; `activity` remembers who is at work, `apps` adds
//! workloads up by what they work for; `stepping` shares out the host's memory among containers
//! without a limit; `orders` is what
//! people forbade by command.

pub mod activity;
pub mod apps;
pub mod clean;
pub mod decide;
pub mod episode;
pub mod explain;
pub mod identity;
pub mod orders;
pub mod rank;
pub mod stepping;
pub mod telling;
pub mod tree;

#[cfg(test)]
pub(crate) mod world;
