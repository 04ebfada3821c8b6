//! How it is told: the journal's line, the file of records, the answers of the HTTP interface.
//! Formats and writes what it is given; decides nothing.

pub mod answer;
pub mod api;
pub mod file;
pub mod journal;
pub mod line;
pub mod metrics;
pub mod page;
pub mod reference;
pub mod tail;
