//! What recognises workloads on a live host. Reads, never decides: what it read goes to
//! `policy` as values.

pub mod jupyter;
pub mod php;
pub mod stack;
