//! The log and the word to systemd: env_logger with journal priorities, through the writer
//! thread; sd_notify(3) by hand, since it is one datagram.

use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use log::{Level, LevelFilter};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

use super::writer::{LogPipe, Writer};
use crate::observe::journal;

/// Sends all further log lines through the writer. A second call changes only the level.
pub fn start(writer: &Writer, level: LevelFilter) {
    let journal = is_journal();
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Trace)
        .target(env_logger::Target::Pipe(Box::new(LogPipe(writer.clone()))))
        .format(move |out, record| {
            if journal {
                // sd-daemon(3): the journal takes the priority from the line's beginning.
                write!(out, "<{}>", priority(record.level()))?;
            } else {
                write!(out, "{:<5} ", record.level())?;
            }
            writeln!(out, "{}", record.args())
        });
    // Only the first logger of a process counts; a second daemon in one test process keeps it.
    let _ = builder.try_init();
    log::set_max_level(level);
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Where incidents can be given to the journal with their fields: where the lines go there too.
pub fn journal() -> Option<PathBuf> {
    is_journal().then(|| PathBuf::from(journal::SOCKET))
}

/// Whether stderr is the journal, and not just inherited the variable (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// How long it may take systemd to make room for a word. It is told at a start, a reload and a stop.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(1);

/// Where systemd wants to be told, if it does.
pub(super) fn notify_address() -> io::Result<Option<SocketAddr>> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    address.map(Some)
}

/// A reload begins now: `Type=notify-reload` waits for the `READY=1` that is later than this
/// (sd_notify(3)).
pub fn notify_reloading() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.num_microseconds());
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// Tells systemd how we are (`READY=1`, `STOPPING=1`, `STATUS=…`). Nobody may be listening.
pub fn notify(words: &str) {
    let sent = notify_address().and_then(|address| {
        let Some(address) = address else { return Ok(0) };
        let socket = UnixDatagram::unbound()?;
        // Whoever waits for these words gets them late rather than never, but nobody who reads no
        // more keeps the loop.
        socket.set_write_timeout(Some(NOTIFY_PATIENCE))?;
        socket.send_to_addr(words.as_bytes(), &address)
    });
    if let Err(error) = sent {
        log::warn!("systemd was not told {words:?}: {error}, skipped");
    }
}
