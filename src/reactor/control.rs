//! The control socket: `nbguard pause`, `protect` and their opposites, of root alone. One line of
//! JSON comes, one goes back, and the connection is closed. Whoever is slow, talkative or not root
//! costs a bounded vector and a deadline; with nobody there it costs nothing.
//!
//! What is asked for is carried out in `orders`, after everything else of a turn: a kill never
//! waits for a command.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::log::{debug, warn};
use mio::Interest;
use nix::sys::socket::{getsockopt, sockopt};

use super::Reactor;
use super::orders::Pending;
use super::token::For;
use crate::policy::orders::{Origin, Reply, Request};
use crate::units::Moment;

/// Its name in `guard.state_dir`.
pub const SOCKET: &str = "control.sock";
/// Commands are typed by people, one at a time.
const CLIENTS: usize = 4;
/// A request is a path and a few words.
const REQUEST_MAX: usize = 64 * 1024;
/// How long a client may take to ask, the helper to read who is who, and the client to listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections taken in one turn; more come in the next.
const ACCEPTED: usize = 16;

/// The socket and who is connected to it.
pub(super) struct Control {
    listener: Option<UnixListener>,
    path: PathBuf,
    clients: Vec<Client>,
    /// Something happened on it in this turn.
    pub woken: bool,
}

struct Client {
    stream: UnixStream,
    by: Origin,
    input: Vec<u8>,
    /// It waits for the helper to read who is who.
    pending: Option<Pending>,
    /// The answer, and how much of it is gone.
    output: Option<(Vec<u8>, usize)>,
    until: Moment,
}

/// What a turn left of a client.
#[derive(PartialEq, Eq)]
enum Left {
    Open,
    Done,
}

impl Control {
    /// Makes the socket. A guard that cannot be commanded still guards.
    pub fn open(state_dir: &Path) -> Control {
        let path = state_dir.join(SOCKET);
        let listener = listen(&path).inspect_err(|error| {
            warn!("{}: {error}: no pause and no protect by command, skipped", path.display());
        });
        let listener = listener.ok();
        Control { listener, path, clients: Vec::new(), woken: false }
    }

    pub fn deadline(&self) -> Option<Moment> {
        if self.woken {
            // Left over from this turn: at once, but after whatever else has happened.
            return Some(Moment(0));
        }
        self.clients.iter().map(|client| client.until).min()
    }

    /// Whether somebody's command waits for the helper.
    pub fn is_waiting(&self) -> bool {
        self.clients.iter().any(|client| client.pending.is_some())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // A stale one tells `nbguard` as much as none: nobody answers.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bound under another name, so that nobody can connect before its mode is right. What lies there
/// is an earlier daemon's: the lock is ours.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let next = path.with_extension("new");
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&next)?;
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    std::fs::rename(&next, path)?;
    Ok(listener)
}

impl Reactor {
    pub(super) fn register_control(&self) -> io::Result<()> {
        match &self.control.listener {
            Some(listener) => self.register(listener.as_raw_fd(), For::Control, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// Whoever came, said something, was answered or took too long.
    pub(super) fn run_control(&mut self, now: Moment) {
        let due = self.control.deadline().is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.control.woken) && !due {
            return;
        }
        self.accept(now);
        let mut clients = std::mem::take(&mut self.control.clients);
        clients.retain_mut(|client| self.serve(client, now) == Left::Open);
        if !clients.is_empty() {
            self.control.clients = clients;
        }
    }

    fn accept(&mut self, now: Moment) {
        for _ in 0..ACCEPTED {
            let Some(Ok((stream, _))) = self.control.listener.as_ref().map(UnixListener::accept)
            else {
                return;
            };
            if let Err(error) = stream.set_nonblocking(true) {
                debug!("control: {error}, skipped");
                continue;
            }
            match self.admit(&stream) {
                Err(why) => refuse(&stream, why),
                Ok(by) => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let registered = self.register(stream.as_raw_fd(), For::Control, both);
                    if let Err(error) = registered {
                        debug!("control: {error}, skipped");
                        continue;
                    }
                    let (input, until) = (Vec::new(), now.plus(PATIENCE));
                    let client = Client { stream, by, input, pending: None, output: None, until };
                    self.control.clients.push(client);
                }
            }
        }
        // Edge-triggered: who is still waiting is not told of again.
        self.control.woken = true;
    }

    fn admit(&self, stream: &UnixStream) -> Result<Origin, &'static str> {
        let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|_| "who are you?")?;
        if peer.uid() != 0 {
            return Err("only root may command the guard");
        }
        if self.control.clients.len() >= CLIENTS {
            return Err("too many commands at once; try again");
        }
        let login = self.roots.path(format!("/proc/{}/loginuid", peer.pid()));
        let login = std::fs::read_to_string(login).ok().and_then(|text| text.trim().parse().ok());
        Ok(Origin { uid: peer.uid(), login: login.filter(|uid| *uid != u32::MAX) })
    }

    fn serve(&mut self, client: &mut Client, now: Moment) -> Left {
        if client.output.is_none() {
            let answer = match client.pending.take() {
                Some(pending) => self.go_on(pending, client.by, now >= client.until),
                None => match read_request(client) {
                    Heard::Nothing if now >= client.until => return Left::Done,
                    Heard::Nothing => return Left::Open,
                    Heard::Gone => return Left::Done,
                    Heard::Line(line) => self.take_order(&line, client.by),
                    Heard::TooLong => Err(Reply::refused("that is too long for a request")),
                },
            };
            match answer {
                Ok(pending) => {
                    client.pending = Some(pending);
                    return Left::Open;
                }
                Err(reply) => {
                    client.output = Some((line(&reply), 0));
                    client.until = now.plus(PATIENCE);
                }
            }
        }
        match write_answer(client) {
            Left::Open if now >= client.until => Left::Done,
            left => left,
        }
    }

    /// `Err` is the answer that can be given at once.
    fn take_order(&mut self, line: &[u8], by: Origin) -> Result<Pending, Reply> {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) => self.carry_out_order(request, by),
            Err(error) => Err(Reply::refused(format!("that is no request: {error}"))),
        }
    }
}

enum Heard {
    Nothing,
    Gone,
    Line(Vec<u8>),
    TooLong,
}

fn read_request(client: &mut Client) -> Heard {
    let mut piece = [0; 4096];
    loop {
        match client.stream.read(&mut piece) {
            // Whoever stops writing has said all.
            Ok(0) if client.input.is_empty() => return Heard::Gone,
            Ok(0) => return Heard::Line(std::mem::take(&mut client.input)),
            Ok(len) => {
                let piece = &piece[..len];
                let end = piece.iter().position(|byte| *byte == b'\n');
                client.input.extend_from_slice(&piece[..end.unwrap_or(len)]);
                if client.input.len() > REQUEST_MAX {
                    client.input = Vec::new();
                    return Heard::TooLong;
                }
                if end.is_some() {
                    return Heard::Line(std::mem::take(&mut client.input));
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::Nothing,
            Err(_) => return Heard::Gone,
        }
    }
}

fn write_answer(client: &mut Client) -> Left {
    let Some((text, gone)) = &mut client.output else { return Left::Open };
    while *gone < text.len() {
        match client.stream.write(&text[*gone..]) {
            Ok(0) => return Left::Done,
            Ok(len) => *gone += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Left::Open,
            Err(_) => return Left::Done,
        }
    }
    Left::Done
}

/// One short line that fits into any socket's buffer, or is lost.
fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.write(&line(&Reply::refused(why)));
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut text = serde_json::to_vec(reply).unwrap_or_default();
    text.push(b'\n');
    text
}
