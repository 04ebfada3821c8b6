//! One client of the HTTP interface: what has come of its request, what of the answer has gone.
//! Reads and writes as much as there is, and never waits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use super::door::Door;
use super::helper::Client as Ticket;
use super::kept::Whose;
use crate::observe::metrics::Format;
use crate::parse::http::HEAD_MAX;
use crate::units::Moment;

/// From the moment somebody is let in until he has his answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);
/// So long before that he is answered with what there is.
const ANSWER_BEFORE: Duration = Duration::from_secs(1);
/// What is read of a request that was refused, so that its sender reads why: closing with bytes
/// unread would take the answer away from him.
const LINGER_MAX: usize = 64 << 10;

pub struct Client {
    pub ticket: Ticket,
    pub door: Door,
    /// On the containers' door: whose process it is. `None` there: nobody's that is watched.
    pub whose: Whose,
    pub stream: File,
    pub since: Moment,
    pub standing: Standing,
}

pub enum Standing {
    Reading(Vec<u8>),
    /// For a survey or for the records.
    Waiting {
        wish: Wish,
        with_body: bool,
    },
    Writing {
        bytes: Vec<u8>,
        at: usize,
        linger: bool,
    },
    /// Answered; so many bytes more are read and thrown away.
    Lingering(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    Containers,
    Notebooks,
    Metrics(Format),
    Incidents,
}

/// What is to be done with it next.
pub enum Step {
    Stay,
    Go,
    Gone,
}

impl Client {
    pub fn deadline(&self) -> Moment {
        let end = self.since.plus(CLIENT_TIME);
        match self.standing {
            Standing::Waiting { wish, .. } if wish != Wish::Incidents => {
                self.since.plus(CLIENT_TIME - ANSWER_BEFORE)
            }
            _ => end,
        }
    }

    pub fn is_reading(&self) -> bool {
        matches!(self.standing, Standing::Reading(_))
    }

    /// Writes until the other end takes no more.
    pub fn write(&mut self) -> Step {
        let Standing::Writing { bytes, at, linger } = &mut self.standing else { return Step::Stay };
        while *at < bytes.len() {
            match self.stream.write(&bytes[*at..]) {
                Ok(0) => return Step::Gone,
                Ok(wrote) => *at += wrote,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Stay,
                Err(_) => return Step::Gone,
            }
        }
        if !*linger {
            return Step::Gone;
        }
        if shutdown(self.stream.as_raw_fd(), Shutdown::Write).is_err() {
            return Step::Gone;
        }
        self.standing = Standing::Lingering(LINGER_MAX);
        Step::Go
    }

    pub fn linger(&mut self) -> Step {
        let mut waste = [0; 2048];
        loop {
            let Standing::Lingering(left) = &mut self.standing else { return Step::Stay };
            match self.stream.read(&mut waste) {
                Ok(0) => return Step::Gone,
                Ok(read) if read >= *left => return Step::Gone,
                Ok(read) => *left -= read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Stay,
                Err(_) => return Step::Gone,
            }
        }
    }

    /// Reads some more of the head. `Go`: there is something new in it.
    pub fn read(&mut self) -> Step {
        let Standing::Reading(head) = &mut self.standing else { return Step::Stay };
        let mut some = [0; 1024];
        let room = (HEAD_MAX + 1).saturating_sub(head.len()).min(some.len());
        loop {
            match self.stream.read(&mut some[..room]) {
                Ok(0) => return Step::Gone,
                Ok(read) => {
                    head.extend_from_slice(&some[..read]);
                    return Step::Go;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Stay,
                Err(_) => return Step::Gone,
            }
        }
    }
}
