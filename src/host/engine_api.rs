//! Asks an engine about one container through its socket: the fallback where its files say
//! nothing. One request, one second for all of it, one mebibyte. It may wait that second: not in
//! the loop.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::host::beneath::Missing;

/// From connect to the last byte. A healthy dockerd answers in 0.7 ms (Docker 20.10).
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// The reply about one container is 4 KiB; 100 networks make it 60 KiB.
pub const REPLY_MAX: u64 = 1 << 20;

/// The whole reply to `GET /containers/<id>/json`. The unversioned path is answered by every
/// version; HTTP/1.0 keeps the reply in one piece. `id` must be checked already.
///
/// # Errors
/// No engine there, none that answers in time, or one that talks too much.
pub fn inspect(engine: &Path, id: &str) -> Result<Vec<u8>, Missing> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = open(engine)?;
    let request = format!("GET /containers/{id}/json HTTP/1.0\r\nHost: nbguard\r\n\r\n");
    stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut reply = Vec::with_capacity(8 << 10);
    let mut piece = [0; 8 << 10];
    loop {
        // A reply that drips in must not outlast the deadline.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Missing::Failed(Errno::ETIMEDOUT));
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(reply),
            Ok(n) => reply.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
        if reply.len() as u64 > REPLY_MAX {
            return Err(Missing::TooLong { max: REPLY_MAX });
        }
    }
}

/// Connects without waiting: an engine that no longer accepts lets its queue fill up, and a
/// blocking connect would wait for ever (EAGAIN here).
fn open(engine: &Path) -> Result<UnixStream, Missing> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(engine)?) {
        Ok(()) => {}
        // The socket of an engine that is not running.
        Err(Errno::ECONNREFUSED) => return Err(Missing::NotThere),
        Err(errno) => return Err(errno.into()),
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).map_err(failed)?;
    Ok(stream)
}

fn failed(error: std::io::Error) -> Missing {
    match error.raw_os_error() {
        // SO_RCVTIMEO and SO_SNDTIMEO say EAGAIN.
        Some(nix::libc::EAGAIN) | None => Missing::Failed(Errno::ETIMEDOUT),
        Some(errno) => Missing::Failed(Errno::from_raw(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    fn socket_path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("nbg-api-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    /// An engine that answers one request by `answer`.
    fn engine(name: &str, answer: impl FnOnce(UnixStream, String) + Send + 'static) -> PathBuf {
        let path = socket_path(name);
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let n = stream.read(&mut request).unwrap();
            answer(stream, String::from_utf8_lossy(&request[..n]).into_owned());
        });
        path
    }

    #[test]
    fn an_engine_is_asked_by_an_unversioned_path() {
        let path = engine("ok", |mut stream, request| {
            assert!(request.starts_with("GET /containers/abc/json HTTP/1.0\r\n"), "{request}");
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap();
        });
        assert_eq!(inspect(&path, "abc").unwrap(), b"HTTP/1.0 200 OK\r\n\r\n{}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_engine_that_says_nothing_or_too_much_is_left() {
        let silent = engine("silent", |stream, _| {
            // Until the other side gives up.
            let _ = (&stream).read(&mut [0; 16]);
        });
        let started = Instant::now();
        assert_eq!(inspect(&silent, "a"), Err(Missing::Failed(Errno::ETIMEDOUT)));
        assert!(started.elapsed() < TIMEOUT * 3);
        let endless =
            engine("endless", |mut stream, _| while stream.write_all(&[b'x'; 65536]).is_ok() {});
        assert_eq!(inspect(&endless, "a"), Err(Missing::TooLong { max: REPLY_MAX }));
        let none = socket_path("none");
        assert_eq!(inspect(&none, "a"), Err(Missing::NotThere));
        drop(UnixListener::bind(&none).unwrap());
        assert_eq!(inspect(&none, "a"), Err(Missing::NotThere), "refused");
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(matches!(inspect(&long, "a"), Err(Missing::Failed(_))));
        for path in [silent, endless, none] {
            let _ = std::fs::remove_file(path);
        }
    }

    #[test]
    fn an_engine_whose_queue_is_full_does_not_hold_us() {
        let path = socket_path("full");
        let listener = UnixListener::bind(&path).unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = open(&path) {
            held.push(stream);
            assert!(held.len() < 10_000);
        }
        let started = Instant::now();
        assert!(inspect(&path, "a").is_err());
        assert!(started.elapsed() < TIMEOUT);
        drop(listener);
        std::fs::remove_file(path).unwrap();
    }
}
