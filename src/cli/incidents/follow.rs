//! `--follow`: waits in inotify for the record to grow, to be rotated, or to appear at all.
//! Never polls; ends when nobody reads its output any more.

use std::fs::File;
use std::io::{self, IsTerminal, Read as _, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::filter::Filter;
use super::read::{self, Line, Record, Splitter};
use super::tell;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{self, Paint};

pub fn run(
    path: &Path,
    before: usize,
    json: bool,
    filter: &Filter,
    out: &mut dyn Write,
) -> Outcome {
    let paint = Paint::for_stdout();
    let words = |e: Errno| Failure::wrong(format!("inotify: {}", e.desc()));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(words)?;
    let mut watch = watch_nearest(&inotify, path, None).map_err(words)?;
    let show = |line: Line<'_>, out: &mut dyn Write| match read::parse(line) {
        Some(Ok(record)) if !filter.takes(&record.incident) => Ok(()),
        Some(Ok(record)) if json => writeln!(out, "{}", out::quiet_json(&record.line)),
        Some(Ok(record)) => writeln!(out, "{}", tell::line(&record.incident, paint)),
        Some(Err(())) => writeln!(io::stderr(), "nbguard: a line could not be read, skipped"),
        None => Ok(()),
    };
    let earlier = read::all(path).map_err(Failure::wrong)?;
    // What is in the file now is in `earlier`, except what was added while it was read. So it is
    // read again, and the records of `earlier` are known by their ids.
    let known: Vec<String> = earlier.records.iter().map(|r| r.incident.id.clone()).collect();
    let asked: Vec<&Record> =
        earlier.records.iter().filter(|record| filter.takes(&record.incident)).collect();
    for record in &asked[asked.len().saturating_sub(before)..] {
        show(Line::Whole(record.line.as_bytes()), out)?;
    }
    drop(asked);
    drop(earlier);
    let mut tail = Tail::default();
    tail.read(path, |line| match line {
        Line::Whole(bytes) if is_known(bytes, &known) => Ok(()),
        line => show(line, out),
    })?;
    loop {
        out.flush()?;
        wait(&inotify)?;
        drain(&inotify).map_err(words)?;
        watch = watch_nearest(&inotify, path, Some(watch)).map_err(words)?;
        tail.read(path, |line| show(line, out))?;
    }
}

fn is_known(line: &[u8], known: &[String]) -> bool {
    match read::parse(Line::Whole(line)) {
        Some(Ok(record)) => known.contains(&record.incident.id),
        // Broken lines were there before, too.
        _ => true,
    }
}

/// Until something happens, or standard output has no reader left.
fn wait(inotify: &Inotify) -> Outcome {
    let stdout = io::stdout();
    let mut fds = vec![PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    // A terminal that hangs up sends SIGHUP; a pipe is asked here. A file has no reader to lose.
    if !stdout.is_terminal() {
        fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
    }
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::wrong(format!("poll: {}", error.desc()))),
            Ok(_) => break,
        }
    }
    let hung_up = fds.get(1).and_then(|fd| fd.revents());
    if hung_up.is_some_and(|e| e.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)) {
        return Err(Failure::NobodyListens);
    }
    Ok(Exit::Ok)
}

fn drain(inotify: &Inotify) -> Result<(), Errno> {
    loop {
        match inotify.read_events() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Watches the record's folder, or the nearest one above it that exists: the daemon makes the
/// folder with its first record.
fn watch_nearest(
    inotify: &Inotify,
    path: &Path,
    old: Option<WatchDescriptor>,
) -> Result<WatchDescriptor, Errno> {
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let absolute = std::path::absolute(path).map_err(|_| Errno::EINVAL)?;
    for folder in absolute.ancestors().skip(1) {
        match inotify.add_watch(folder, flags) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(error) => return Err(error),
            Ok(new) => {
                if let Some(old) = old.filter(|old| *old != new) {
                    // The kernel has removed it already if its folder is gone.
                    let _ = inotify.rm_watch(old);
                }
                return Ok(new);
            }
        }
    }
    Err(Errno::ENOENT)
}

/// The file that is read on, over rotations.
#[derive(Default)]
struct Tail {
    open: Option<File>,
    split: Splitter,
}

impl Tail {
    /// Reads on to the end, and then the file that has taken its place.
    fn read(
        &mut self,
        path: &Path,
        mut line: impl FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.read_on(&mut line)?;
        if self.is_current(path) {
            return Ok(());
        }
        // Rotated between the read above and the look at the name: its last lines.
        self.read_on(&mut line)?;
        if let Some(rest) = self.split.rest() {
            line(rest)?;
        }
        self.split = Splitter::default();
        self.open = match File::open(path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Failure::wrong(format!("{}: {e}", path.display()))),
        };
        self.read_on(&mut line)
    }

    fn is_current(&self, path: &Path) -> bool {
        let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let open = self.open.as_ref().and_then(|file| file.metadata().ok()).map(id);
        open == path.metadata().ok().map(id)
    }

    fn read_on(
        &mut self,
        line: &mut impl FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let Some(file) = &mut self.open else { return Ok(()) };
        let mut piece = vec![0; 64 << 10];
        loop {
            let len = match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::wrong(format!("the record: {e}"))),
            };
            let mut printed = Ok(());
            self.split.push(&piece[..len], |text| {
                if printed.is_ok() {
                    printed = line(text);
                }
            });
            printed?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_tail_goes_on_over_a_rotation_and_misses_nothing() {
        let dir = super::super::tests::folder("tail");
        let path = dir.join("i.jsonl");
        let mut tail = Tail::default();
        let mut seen = Vec::new();
        let mut read = |tail: &mut Tail| {
            tail.read(&path, |line| {
                if let Line::Whole(bytes) = line {
                    seen.push(String::from_utf8(bytes.to_vec()).unwrap());
                }
                Ok(())
            })
            .unwrap();
        };
        read(&mut tail);
        fs::write(&path, "a\nb").unwrap();
        read(&mut tail);
        fs::write(&path, "a\nbc\nd\n").unwrap();
        fs::rename(&path, dir.join("i.jsonl.1")).unwrap();
        fs::write(&path, "e\n").unwrap();
        read(&mut tail);
        read(&mut tail);
        assert_eq!(seen, ["a", "bc", "d", "e"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
