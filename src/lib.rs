//! nbguard: ends the one notebook that exhausts its container's memory.

#[allow(unsafe_code)]
pub mod sys;

pub mod act;
pub mod cli;
pub mod config;
pub mod facts;
pub mod host;
pub mod ids;
pub mod observe;
pub mod parse;
pub mod policy;
pub mod reactor;
pub mod report;
pub mod roots;
pub mod runtime;
pub mod units;
