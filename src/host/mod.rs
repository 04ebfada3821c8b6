//! Reads the host: its mode, its memory, the memory of a group, its processes.
//! Reads and returns; never logs, never changes anything but through [`group::Group::write`].

pub mod beneath;
pub mod conf;
pub mod container;
pub mod cross;
pub mod discover;
pub mod engine_api;
pub mod fit;
pub mod group;
mod members;
pub mod memory;
pub mod mode;
pub mod procs;
pub mod sources;
pub mod stat_files;
#[cfg(test)]
mod tests;
pub mod watches;

pub use container::Container;
pub use discover::{Action, Engine, Found, Scan};
pub use group::Group;
pub use members::PidCount;
pub use mode::{Hierarchies, hierarchies};
pub use procs::ScanCount;
pub use sources::Sources;
pub use stat_files::StatFiles;

pub use crate::roots::{Buffer, Roots};
