//! Each command to its exit code.
