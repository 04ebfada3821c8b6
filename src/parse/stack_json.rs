//! What `nbguard stack --json` answers, as the guard needs it: whether the process is at work, in
//! what, and the frames to be written down. The program is ours, what it read is the process's
//! making: bounded and escaped here. Pure: bytes in, values out.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;

use super::escape::escape;
use crate::ids::ProcKey;

/// Longest answer that is read: 256 frames of a deep recursion, or a hundred threads of ten.
pub const MAX_ANSWER: usize = 128 << 10;
/// Frames that a record shows.
pub const MAX_FRAMES: usize = 24;
/// Of a function's name, of a path.
const MAX_NAME: usize = 128;
const MAX_PATH: usize = 256;

/// One look at a process's call stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stack {
    pub state: State,
    /// Innermost first: `merge /work/a.py:12`. Of the main thread.
    pub frames: Vec<String>,
    /// In words, where the frames say so: `` while running `merge` in cell 7 ``.
    pub running: Option<String>,
    /// The function of that.
    pub function: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Busy,
    Idle,
    /// Also whatever else it says.
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Answer<'a> {
    pid: u32,
    start: u64,
    #[serde(borrow, default)]
    runtime: Cow<'a, str>,
    #[serde(default)]
    state: State,
    #[serde(default)]
    cell: Option<u64>,
    #[serde(borrow, default)]
    threads: Vec<Thread<'a>>,
}

#[derive(Deserialize)]
struct Thread<'a> {
    #[serde(default)]
    main: bool,
    #[serde(borrow, default)]
    frames: Vec<Frame<'a>>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    function: Cow<'a, str>,
    #[serde(borrow, default)]
    file: Option<Cow<'a, str>>,
    #[serde(default)]
    line: Option<u32>,
}

/// Reads an answer about exactly this process. `None`: it is none, or about another.
pub fn stack(text: &[u8], key: ProcKey) -> Option<Stack> {
    let answer: Answer<'_> = serde_json::from_slice(text).ok()?;
    if (answer.pid, answer.start) != (key.pid, key.start) {
        return None;
    }
    let main = answer.threads.iter().find(|thread| thread.main).or(answer.threads.first());
    let frames = main.map_or(&[][..], |thread| &thread.frames);
    let function = match (answer.state, &*answer.runtime) {
        (State::Idle, _) => None,
        (_, "python") => in_cell(frames),
        _ => frames.first().map(|frame| &*frame.function),
    };
    let function = function.filter(|name| !name.is_empty());
    let function = function.map(|name| escape(name.as_bytes(), MAX_NAME));
    let cell = answer.cell.filter(|_| answer.state != State::Idle);
    let running = match (&function, cell) {
        (Some(function), Some(cell)) => Some(format!("while running `{function}` in cell {cell}")),
        (Some(function), None) => Some(format!("while running `{function}`")),
        (None, Some(cell)) => Some(format!("while running cell {cell}")),
        (None, None) => None,
    };
    let frames = frames.iter().take(MAX_FRAMES).map(Frame::shown).collect();
    Some(Stack { state: answer.state, frames, running, function })
}

/// The function that a person would name: the innermost one of a cell, or what the cell's own
/// lines have called.
fn in_cell<'a>(frames: &'a [Frame<'_>]) -> Option<&'a str> {
    let at = frames.iter().position(Frame::is_of_cell)?;
    match frames[at].has_name() {
        true => Some(&frames[at].function),
        false => Some(&frames.get(at.checked_sub(1)?)?.function),
    }
}

impl Frame<'_> {
    /// ipykernel compiles each cell as a file of its own: `/tmp/ipykernel_<pid>/<hash>.py`; older
    /// ones, and IPython itself, call it `<ipython-input-7-…>`.
    fn is_of_cell(&self) -> bool {
        let file = self.file.as_deref().unwrap_or_default();
        file.starts_with("<ipython-input-")
            || file.rsplit('/').nth(1).is_some_and(|dir| dir.starts_with("ipykernel_"))
    }

    /// `<module>` is the cell itself, as is `<cell line: 1>`.
    fn has_name(&self) -> bool {
        !self.function.starts_with("<module>") && !self.function.starts_with("<cell line")
    }

    fn shown(&self) -> String {
        let mut text = escape(self.function.as_bytes(), MAX_NAME);
        if let Some(file) = &self.file {
            let _ = write!(text, " {}", escape(file.as_bytes(), MAX_PATH));
            if let Some(line) = self.line {
                let _ = write!(text, ":{line}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: ProcKey = ProcKey { pid: 7, start: 99 };

    fn answer(runtime: &str, state: &str, cell: &str, frames: &[(&str, &str, u32)]) -> String {
        let frames: Vec<String> = frames
            .iter()
            .map(|(function, file, line)| {
                let (function, file) = (serde_json::json!(function), serde_json::json!(file));
                format!(r#"{{"function":{function},"file":{file},"line":{line},"address":"0x1"}}"#)
            })
            .collect();
        format!(
            r#"{{"schema":1,"pid":7,"start":99,"runtime":"{runtime}","version":"3.11.2",
            "script":null,"request_uri":null,"memory":null,"state":"{state}","cell":{cell},
            "threads":[{{"id":8,"name":"gc","main":false,"frames":[]}},
            {{"id":7,"name":null,"main":true,"frames":[{}]}}],"watched":[],"took_us":412}}"#,
            frames.join(",")
        )
    }

    const LIBRARY: (&str, &str, u32) = ("_merge", "/usr/lib/pandas/core.py", 80);
    const CALLED: (&str, &str, u32) = ("merge", "/usr/lib/pandas/frame.py", 9);
    const OWN: (&str, &str, u32) = ("join_all", "/tmp/ipykernel_7/123.py", 4);
    const MODULE: (&str, &str, u32) = ("<module>", "/tmp/ipykernel_7/124.py", 1);
    const KERNEL: (&str, &str, u32) = ("run_code", "/usr/lib/IPython/shell.py", 3500);

    #[test]
    fn what_runs_is_told_in_words_where_the_frames_say_so() {
        let running = |runtime, state, cell, frames: &[_]| {
            let text = answer(runtime, state, cell, frames);
            stack(text.as_bytes(), KEY).unwrap().running.unwrap_or_default()
        };
        let whole = [LIBRARY, CALLED, MODULE, KERNEL];
        assert_eq!(running("python", "busy", "7", &whole), "while running `merge` in cell 7");
        assert_eq!(
            running("python", "busy", "7", &[LIBRARY, CALLED, OWN, MODULE, KERNEL]),
            "while running `join_all` in cell 7"
        );
        assert_eq!(running("python", "busy", "7", &[MODULE, KERNEL]), "while running cell 7");
        assert_eq!(running("python", "busy", "null", &whole), "while running `merge`");
        assert_eq!(running("python", "unknown", "null", &[LIBRARY, CALLED]), "");
        assert_eq!(running("python", "idle", "7", &whole), "");
        let old = ("f", "<ipython-input-7-abc>", 1);
        assert_eq!(running("python", "busy", "7", &[old, KERNEL]), "while running `f` in cell 7");
        let php = [("PDO::query", "/srv/a.php", 3), ("run", "/srv/b.php", 9)];
        assert_eq!(running("php", "busy", "null", &php), "while running `PDO::query`");
        assert_eq!(running("php", "idle", "null", &[]), "");
    }

    #[test]
    fn frames_are_the_main_threads_innermost_first_and_bounded() {
        let text = answer("python", "busy", "7", &[LIBRARY, CALLED, MODULE]);
        let read = stack(text.as_bytes(), KEY).unwrap();
        assert_eq!(
            read.frames,
            [
                "_merge /usr/lib/pandas/core.py:80",
                "merge /usr/lib/pandas/frame.py:9",
                "<module> /tmp/ipykernel_7/124.py:1"
            ]
        );
        let many = answer("php", "busy", "null", &[("f", "/a.php", 1); 256]);
        assert_eq!(stack(many.as_bytes(), KEY).unwrap().frames.len(), MAX_FRAMES);
    }

    #[test]
    fn whatever_is_shown_is_escaped_and_bounded() {
        let long = "x".repeat(10_000);
        let text = answer("php", "busy", "null", &[("a\u{1b}[2Jb\u{202e}", &long, 1)]);
        let read = stack(text.as_bytes(), KEY).unwrap();
        let frame = &read.frames[0];
        assert!(frame.len() < 1_000 && !frame.contains(['\u{1b}', '\u{202e}']), "{frame}");
        assert!(!read.running.unwrap().contains('\u{1b}'));
    }

    #[test]
    fn another_process_an_older_one_and_no_answer_are_none() {
        let text = answer("php", "busy", "null", &[]);
        assert!(stack(text.as_bytes(), ProcKey { pid: 8, ..KEY }).is_none());
        assert!(stack(text.as_bytes(), ProcKey { start: 98, ..KEY }).is_none());
        for bad in ["", "{}", "null", "[1]", &text[..text.len() - 1], r#"{"pid":7,"start":"99"}"#] {
            assert!(stack(bad.as_bytes(), KEY).is_none(), "{bad}");
        }
        // A state of a later version is not idle.
        let later = text.replace("\"busy\"", "\"dreaming\"");
        assert_eq!(stack(later.as_bytes(), KEY).unwrap().state, State::Unknown);
        let least = stack(br#"{"pid":7,"start":99}"#, KEY).unwrap();
        assert_eq!((least.state, least.frames.len(), least.running), (State::Unknown, 0, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..400) {
            let _ = stack(&text, KEY);
            let mut near = answer("python", "busy", "7", &[CALLED, MODULE]).into_bytes();
            let at = at % near.len();
            near[at] = text.first().copied().unwrap_or(b'"');
            let _ = stack(&near, KEY);
        }
    }
}
