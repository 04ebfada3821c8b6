//! Policy: values in, values out.
pub mod episode;
pub mod stepping;
