//! Every list against its copies.
