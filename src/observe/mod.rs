//! How an episode is told: the journal's line and the file of records. Formats and writes what it
//! is given; decides nothing.

pub mod file;
pub mod line;
