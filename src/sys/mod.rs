//! sys

pub mod getdents;
