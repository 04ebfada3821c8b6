//! What is done with bytes from outside, one function for each kind of text: every reader of it,
//! and what must hold whatever the bytes are. `tests/fuzz/run` looks for bytes that break it,
//! `tests/it/corpora.rs` plays those again that were found to reach something.

pub mod files;
pub mod memory;
mod patches;
pub mod texts;

/// One target: anything but a quiet return is a finding.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its corpus.
pub const ALL: [(&str, Target); 15] = [
    ("proc", texts::proc),
    ("cgroup", texts::cgroup),
    ("mountinfo", texts::mountinfo),
    ("engine", texts::engine),
    ("config", texts::config),
    ("http", texts::http),
    ("control", texts::control),
    ("stack", texts::stack),
    ("argv", texts::argv),
    ("text", texts::text),
    ("layout", files::layout),
    ("ring", files::ring),
    ("data", files::data),
    ("elf", files::elf),
    ("walk", memory::walk),
];
