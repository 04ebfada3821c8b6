//! Configuration: values in `settings`.
pub mod settings;
pub use settings::*;
