//! What a process was running: the answer of `nbguard stack --json`, which the daemon reads again.
//! Pure: values only. Texts are bounded where they were read, [`TEXT_MAX`] bytes each.

use serde::{Deserialize, Serialize};

/// Version of the shape.
pub const SCHEMA: u32 = 1;
/// Frames of one thread: what a person still reads. What is further out is left out, and the
/// note says so.
pub const FRAMES_MAX: usize = 256;
/// Bytes of a name, a path or a value.
pub const TEXT_MAX: usize = 256;
/// Threads of one process.
pub const THREADS_MAX: usize = 32;

/// One look at one process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stack {
    pub schema: u32,
    pub pid: u32,
    /// Field 22 of its `stat`: clock ticks since boot.
    pub start: u64,
    pub runtime: Interpreter,
    /// The interpreter's, as it tells it itself.
    pub version: String,
    /// The script that runs, where the interpreter tells.
    pub script: Option<String>,
    /// Without its query.
    pub request_uri: Option<String>,
    /// What `memory_get_usage()` would answer.
    pub memory: Option<u64>,
    pub state: State,
    /// The number of the cell, where its frames say so.
    pub cell: Option<u64>,
    pub threads: Vec<Thread>,
    pub watched: Vec<Watched>,
    pub took_us: u64,
    /// Why there is less here than one would expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpreter {
    Php,
    Python,
}

/// Whether it works for somebody. Unknown is not idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Busy,
    Idle,
    Unknown,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// Zero: the interpreter does not tell.
    pub id: u64,
    pub name: Option<String>,
    pub main: bool,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Where the innermost code stands, if its frame tells only where it was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Place>,
}

/// A call. The place is, in PHP as in its own backtraces, where the function was called; in
/// Python, as in its own, where the function stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Frame {
    pub function: String,
    /// None where the interpreter itself called.
    pub file: Option<String>,
    pub line: Option<u32>,
    /// Of the frame, in hexadecimal with `0x`; empty where it is not known.
    pub address: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: u32,
}

/// A variable that was asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Watched {
    pub name: String,
    /// `null`: there is none, or it could not be read.
    pub value: serde_json::Value,
}

/// At most [`TEXT_MAX`] bytes, the mark of a cut included.
pub fn bounded(mut text: String) -> String {
    const MARK: char = '…';
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX - MARK.len_utf8()));
        text.push(MARK);
    }
    text
}
