//! The writer thread: log lines and records leave the process here, so that a stalled journal or
//! a full disk never stops the loop. The queue is bounded; what does not fit is counted. Log lines
//! leave room for records: five hundred containers that are watched anew say so in one breath, and
//! whom that ends must be told all the same.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::observe::file::Log;
use crate::observe::journal;
use crate::report::Incident;

/// What may wait. An episode makes one line and one record of some KiB.
const QUEUE: usize = 256;
/// Of these, log lines.
const LINES: usize = 192;
/// The thread formats nothing and calls write(2); 64 KiB is ample.
const STACK: usize = 64 * 1024;

enum Item {
    Line(String),
    /// For the journal's own socket, and as a line should that not take it.
    Entry {
        entry: Vec<u8>,
        line: String,
    },
    Record(String),
    Reopen(Log),
    Flush(SyncSender<()>),
}

/// Counters of what could not be written. They only rise.
#[derive(Debug, Default)]
pub struct Lost {
    pub dropped: AtomicU64,
    pub failed: AtomicU64,
}

/// The loop's end of the queue. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Writer {
    queue: SyncSender<Item>,
    /// Log lines that wait.
    lines: Arc<AtomicUsize>,
    pub lost: Arc<Lost>,
    /// The journal's socket, where stderr goes there anyway.
    journal: Option<Arc<Path>>,
}

impl Writer {
    /// Starts the thread. It ends when the last `Writer` is gone.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(log: Log, journal: Option<PathBuf>) -> io::Result<(Writer, JoinHandle<()>)> {
        let (queue, items) = sync_channel(QUEUE);
        let lost = Arc::new(Lost::default());
        let counters = Arc::clone(&lost);
        let lines = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&lines);
        let journal: Option<Arc<Path>> = journal.map(Arc::from);
        let socket = journal.clone();
        let thread = thread::Builder::new()
            .name("writer".into())
            .stack_size(STACK)
            .spawn(move || write_all(&items, log, socket.as_deref(), &waiting, &counters))?;
        Ok((Writer { queue, lines, lost, journal }, thread))
    }

    pub fn line(&self, line: String) {
        if self.lines.load(Ordering::Relaxed) >= LINES {
            self.count_dropped();
            return;
        }
        self.lines.fetch_add(1, Ordering::Relaxed);
        if !self.put(Item::Line(line)) {
            self.lines.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives the line of an incident to the journal with all its fields. `false`: there is no
    /// journal to talk to, and it is a line like any other.
    pub fn entry(&self, incident: &Incident, line: &str) -> bool {
        if self.journal.is_none() {
            return false;
        }
        let entry = journal::entry(incident, line);
        let line = format!("<{}>{line}\n", journal::priority(incident.kind));
        self.put(Item::Entry { entry, line });
        true
    }

    pub fn record(&self, json: String) {
        self.put(Item::Record(json));
    }

    /// A reload moved the file of records.
    pub fn reopen(&self, log: Log) {
        self.put(Item::Reopen(log));
    }

    /// Waits until all that was put is written, or `patience` is over. Not for the loop: at the end.
    pub fn flush(&self, patience: std::time::Duration) {
        let (done, wait) = sync_channel(1);
        self.put(Item::Flush(done));
        let _ = wait.recv_timeout(patience);
    }

    /// `false`: there is no room for it.
    fn put(&self, item: Item) -> bool {
        let is_full = matches!(self.queue.try_send(item), Err(TrySendError::Full(_)));
        if is_full {
            self.count_dropped();
        }
        !is_full
    }

    fn count_dropped(&self) {
        self.lost.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(
    items: &Receiver<Item>,
    mut log: Log,
    socket: Option<&Path>,
    lines: &AtomicUsize,
    lost: &Lost,
) {
    let mut told = false;
    while let Ok(item) = items.recv() {
        let result = match item {
            Item::Line(line) => {
                lines.fetch_sub(1, Ordering::Relaxed);
                io::stderr().write_all(line.as_bytes())
            }
            Item::Entry { entry, line } => match socket.map(|path| journal::send(path, &entry)) {
                Some(Ok(())) => Ok(()),
                // Nobody listens there, or he does not keep up: as it was before.
                _ => io::stderr().write_all(line.as_bytes()),
            },
            Item::Record(json) => log.append(&json),
            Item::Reopen(next) => {
                log = next;
                told = false;
                Ok(())
            }
            Item::Flush(done) => {
                let _ = done.send(());
                Ok(())
            }
        };
        match result {
            Ok(()) => {}
            Err(error) => {
                lost.failed.fetch_add(1, Ordering::Relaxed);
                if !told {
                    told = true;
                    let _ = writeln!(
                        io::stderr(),
                        "<4>nbguard: a record or line could not be written, skipped: {error}"
                    );
                }
            }
        }
    }
}

/// What env_logger writes to: each formatted line becomes one item of the queue.
pub struct LogPipe(pub Writer);

impl Write for LogPipe {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.line(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use crate::units::Bytes;

    #[test]
    fn log_lines_leave_room_for_records() {
        let (queue, waiting) = sync_channel(QUEUE);
        let (lines, lost) = <(Arc<AtomicUsize>, Arc<Lost>)>::default();
        let writer = Writer { queue, lines, lost, journal: None };
        for _ in 0..2 * QUEUE {
            writer.line("watching".to_owned());
        }
        writer.record("{}".to_owned());
        let dropped = writer.lost.dropped.load(Ordering::Relaxed);
        assert_eq!(dropped as usize, 2 * QUEUE - LINES);
        assert_eq!(waiting.try_iter().filter(|item| matches!(item, Item::Record(_))).count(), 1);
    }

    #[test]
    fn an_incident_reaches_the_journal_once_and_otherwise_nobody() {
        let path = std::env::temp_dir().join(format!("nbguard-native-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let text = include_str!("../../tests/fixtures/incident.json");
        let incident: Incident = serde_json::from_str(text).unwrap();
        let log = || Log::new(Path::new("/dev/null"), Bytes::mib(1), 1);
        let (writer, thread) = Writer::start(log(), None).unwrap();
        assert!(!writer.entry(&incident, "a line"));
        drop(writer);
        thread.join().unwrap();
        let (writer, thread) = Writer::start(log(), Some(path.clone())).unwrap();
        assert!(writer.entry(&incident, "a line"));
        let mut got = [0; 8192];
        let len = journal.recv(&mut got).unwrap();
        assert!(got[..len].starts_with(b"MESSAGE=a line\nMESSAGE_ID="));
        // Nobody listens any more: the line goes to stderr, which is no loss.
        drop(journal);
        assert!(writer.entry(&incident, "a line"));
        writer.flush(Duration::from_secs(20));
        assert_eq!(writer.lost.failed.load(Ordering::Relaxed), 0);
        drop(writer);
        thread.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
