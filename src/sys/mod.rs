//! The kernel's calls that no library of ours wraps, one shape a function.
//! The only module with `unsafe`. It knows nothing of containers or notebooks.

pub mod futex;
pub mod getdents;
pub mod memory;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod psi;
pub mod random;
pub mod spawn;
pub mod terminal;
pub mod xattr;
