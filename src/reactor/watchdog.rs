//! systemd's watchdog, armed only while an episode is open or a tree is being ended: each ping is a
//! wake-up, of the daemon and of PID 1, and out of an episode there are none. One datagram of fixed
//! words on a socket that is there from the start; nothing waits, nothing is allocated.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::Reactor;
use super::log;
use crate::units::Moment;

/// How long the loop may be silent in an episode. A turn takes milliseconds, with a thousand
/// processes on an emulated CPU tens of them; and somebody who waits for memory cannot wait longer
/// than a restart would take anyway. The number stands in `ARM` as well.
const PATIENCE: Duration = Duration::from_secs(10);
/// A ping is lost where PID 1 is behind: three are sent in that time.
const PING_EVERY: Duration = Duration::from_secs(3);
const _: () = assert!(PING_EVERY.as_secs() * 3 < PATIENCE.as_secs());

/// The ping stands first: systemd counts from the last one, which may be days old.
const ARM: &[u8] = b"WATCHDOG=1\nWATCHDOG_USEC=10000000";
const DISARM: &[u8] = b"WATCHDOG_USEC=0";

/// Where systemd listens, and when it is told next.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    to: Option<(UnixDatagram, SocketAddr)>,
    next: Option<Moment>,
}

impl Watchdog {
    /// Without systemd there is nobody to tell.
    pub fn open() -> Watchdog {
        let open = || -> io::Result<_> {
            let Some(address) = log::notify_address()? else { return Ok(None) };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Some((socket, address)))
        };
        Watchdog { to: open().ok().flatten(), next: None }
    }

    pub fn deadline(&self) -> Option<Moment> {
        self.next
    }

    /// An episode opens. What cannot be sent now is sent with the next ping.
    pub fn arm(&mut self, now: Moment) {
        if self.to.is_some() && self.next.is_none() {
            let sent = self.send(ARM);
            self.next = Some(if sent { now.plus(PING_EVERY) } else { now });
        }
    }

    /// The end of a turn: a sign of life while something is open, else the watchdog is taken back.
    fn turn(&mut self, now: Moment, is_open: impl FnOnce() -> bool) {
        let Some(next) = self.next else { return };
        if !is_open() {
            // A watchdog that cannot be taken back would end a daemon that only sleeps.
            self.next = if self.send(DISARM) { None } else { Some(now.plus(PING_EVERY)) };
        } else if next <= now {
            // With the period in it, should the first one have been lost.
            self.send(ARM);
            self.next = Some(now.plus(PING_EVERY));
        }
    }

    fn send(&self, words: &[u8]) -> bool {
        let Some((socket, address)) = &self.to else { return true };
        socket.send_to_addr(words, address).is_ok()
    }
}

impl Reactor {
    pub(super) fn run_watchdog(&mut self) {
        let now = self.now();
        let (watches, host, endings) = (&self.watches, &self.host, &self.endings);
        self.watchdog.turn(now, || {
            host.domain.episode.is_some()
                || endings.any()
                || watches.iter().flatten().any(|watch| watch.domain.episode.is_some())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (UnixDatagram, Watchdog) {
        let path = std::env::temp_dir().join(format!("nbguard-dog-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let ear = UnixDatagram::bind(&path).unwrap();
        ear.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let to = Some((socket, SocketAddr::from_pathname(&path).unwrap()));
        (ear, Watchdog { to, next: None })
    }

    fn heard(ear: &UnixDatagram) -> Option<String> {
        let mut words = [0; 64];
        let length = ear.recv(&mut words).ok()?;
        Some(String::from_utf8(words[..length].to_vec()).unwrap())
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn it_is_armed_once_pinged_in_time_and_taken_back() {
        let (ear, mut dog) = pair("whole");
        dog.turn(at(0), || panic!("out of an episode nobody asks"));
        assert_eq!((dog.deadline(), heard(&ear)), (None, None));
        dog.arm(at(1));
        dog.arm(at(2));
        let arm = String::from_utf8(ARM.to_vec()).unwrap();
        assert_eq!((heard(&ear), heard(&ear)), (Some(arm.clone()), None));
        assert_eq!(dog.deadline(), Some(at(4)));
        dog.turn(at(3), || true);
        assert_eq!(heard(&ear), None);
        dog.turn(at(4), || true);
        assert_eq!((heard(&ear), dog.deadline()), (Some(arm), Some(at(7))));
        dog.turn(at(5), || false);
        let disarm = String::from_utf8(DISARM.to_vec()).unwrap();
        assert_eq!((heard(&ear), dog.deadline()), (Some(disarm), None));
    }

    #[test]
    fn what_could_not_be_taken_back_is_tried_again() {
        let (ear, mut dog) = pair("deaf");
        dog.arm(at(0));
        let words = |dog: &Watchdog| dog.send(ARM);
        // Nobody reads: the queue of a datagram socket is bounded (net.unix.max_dgram_qlen).
        for _ in 0..100_000 {
            if !words(&dog) {
                break;
            }
        }
        dog.turn(at(1), || false);
        assert!(dog.deadline().is_some(), "or the watchdog ends a daemon that sleeps");
        while heard(&ear).is_some() {}
        dog.turn(at(4), || false);
        assert_eq!((heard(&ear).as_deref(), dog.deadline()), (Some("WATCHDOG_USEC=0"), None));
    }

    #[test]
    fn the_words_have_the_period() {
        let words = format!("WATCHDOG=1\nWATCHDOG_USEC={}", PATIENCE.as_micros());
        assert_eq!(ARM, words.as_bytes());
    }

    #[test]
    fn without_systemd_nothing_wakes_anybody() {
        let mut dog = Watchdog::default();
        dog.arm(at(1));
        assert_eq!(dog.deadline(), None);
    }
}
