//! What nbguard does to the world: ends a tree, moves a tripwire, keeps note of what it changed.
//! It decides nothing and reads nothing but what it is about to act on.

pub mod kill;
pub mod message;
pub mod orders;
pub mod state;
pub mod tripwire;
