//! Reads the host: its mode, its memory, the memory of a group, its processes.
//! Reads and returns; never logs, never changes anything but through [`group::Group::write`].

pub mod beneath;
pub mod container;
pub mod discover;
pub mod engine_api;
pub mod group;
pub mod memory;
pub mod mode;
pub mod procs;
pub mod watches;

pub use container::{Container, Sources};
pub use discover::{Action, Engine, Found, Scan};
pub use group::{Group, PidCount};
pub use mode::{Hierarchies, hierarchies};
pub use procs::ScanCount;

pub use crate::roots::{Buffer, Roots};
