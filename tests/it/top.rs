//! `nbguard top` in a real terminal: what it draws, and that whoever ends it, and how, gets the
//! terminal back as it was.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::binary;
use crate::ground::{Folder, PATIENCE, wait_readable};

/// xterm's own: to the other screen, and back from it.
const OTHER_SCREEN: &str = "\x1b[?1049h";
const BACK: &str = "\x1b[?1049l";
const CURSOR: &str = "\x1b[?25h";

struct Terminal {
    ours: File,
    theirs: File,
    before: Termios,
    child: Child,
    seen: String,
    folder: Folder,
}

fn config(folder: &Folder) -> PathBuf {
    let path = folder.path("nbguard.toml");
    let at = |below: &str| folder.path(below).display().to_string();
    let text = format!(
        "[guard]\nstate_dir = {:?}\n[record]\npath = {:?}\n[http]\nsocket = {:?}\n",
        at("state"),
        at("i.jsonl"),
        at("http.sock")
    );
    fs::write(&path, text).unwrap();
    path
}

impl Terminal {
    fn start(colour: bool) -> Terminal {
        let folder = Folder::new("top");
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let (ours, theirs) = (File::from(pty.master), File::from(pty.slave));
        let before = tcgetattr(theirs.as_fd()).unwrap();
        let mut command = Command::new(binary("nbguard"));
        command.args(["top", "--config"]).arg(config(&folder)).env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR").env_remove("COLUMNS").env_remove("LINES");
        if !colour {
            command.env("NO_COLOR", "1");
        }
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let mut terminal = Terminal { ours, theirs, before, child, seen: String::new(), folder };
        terminal.wait_for("q quit");
        terminal
    }

    fn read_on(&mut self, time: Duration) -> bool {
        if !wait_readable(&self.ours, time) {
            return false;
        }
        let mut piece = [0; 4096];
        let len = self.ours.read(&mut piece).unwrap_or(0);
        self.seen += &String::from_utf8_lossy(&piece[..len]);
        len > 0
    }

    fn wait_for(&mut self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.seen.contains(words) {
            assert!(Instant::now() < until, "no {words:?} in {:?}", self.seen);
            self.read_on(Duration::from_millis(200));
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        let now = tcgetattr(self.theirs.as_fd()).unwrap();
        now.local_flags != self.before.local_flags
    }

    /// Waits for its end; the terminal must be as it was.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            self.read_on(Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it did not end: {:?}", self.seen);
        };
        while self.read_on(Duration::from_millis(50)) {}
        let after = tcgetattr(self.theirs.as_fd()).unwrap();
        assert_eq!(after, self.before, "the terminal is as it was");
        let (back, cursor) = (self.seen.rfind(BACK), self.seen.rfind(CURSOR));
        assert!(back.is_some() && back > self.seen.rfind(OTHER_SCREEN), "{:?}", self.seen);
        assert!(cursor > self.seen.rfind("\x1b[?25l"), "the cursor is there: {:?}", self.seen);
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.folder;
    }
}

#[test]
fn q_and_ctrl_c_leave_the_terminal_as_it_was() {
    for keys in ["q", "\x03", "?\x1b", "/abc\rq"] {
        let mut terminal = Terminal::start(true);
        assert!(terminal.is_raw());
        terminal.wait_for("NOT GUARDED");
        terminal.type_in(keys);
        if keys == "?\x1b" {
            terminal.wait_for("Keys");
            terminal.type_in("q");
        }
        let (status, _) = terminal.end();
        assert_eq!(status.code(), Some(0), "{keys:?}");
    }
}

#[test]
fn a_signal_ends_it_as_a_signal_and_leaves_the_terminal_as_it_was() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let terminal = Terminal::start(true);
        let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap());
        kill(pid, signal).unwrap();
        let (status, _) = terminal.end();
        assert_eq!(status.signal(), Some(signal as i32), "{status:?}");
    }
}

#[test]
fn without_colour_there_is_none() {
    let is_coloured = |text: &str| text.contains("\x1b[38") || text.contains("\x1b[31");
    let mut plain = Terminal::start(false);
    plain.type_in("q");
    let (_, seen) = plain.end();
    assert!(!is_coloured(&seen), "{seen:?}");
    let mut coloured = Terminal::start(true);
    coloured.type_in("q");
    let (_, seen) = coloured.end();
    assert!(is_coloured(&seen), "{seen:?}");
}

#[test]
fn where_it_cannot_draw_it_says_what_can() {
    let folder = Folder::new("top-dumb");
    let mut command = Command::new(binary("nbguard"));
    command.args(["top", "--config"]).arg(config(&folder)).stdin(Stdio::null());
    let output = command.env("TERM", "dumb").output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nbguard ps"));
    let mut command = Command::new(binary("nbguard"));
    command.args(["top", "--once", "--config"]).arg(config(&folder)).env("COLUMNS", "80");
    let output = command.env("TERM", "dumb").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if output.status.code() != Some(0) {
        return crate::skip(String::from_utf8_lossy(&output.stderr).trim());
    }
    assert!(text.starts_with("nbguard top") && text.contains("NOT GUARDED"), "{text}");
    assert!(
        !text.contains('\x1b') && text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}
