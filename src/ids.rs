//! Identities: what a thing is called while it outlives one turn of the loop.
//! A pid, a path or an index may belong to somebody else a millisecond later; these may not.
//! Pure: values only.

use std::fmt;

/// A process: its pid and the time it started.
///
/// `start` is field 22 of `/proc/<pid>/stat` in clock ticks since boot (proc_pid_stat(5)).
/// The pair is the only thing that nbguard ever signals: a reused pid has another start time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ProcKey {
    pub pid: u32,
    pub start: u64,
}

impl fmt::Display for ProcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start)
    }
}

/// A cgroup: the inode of its directory, which cgroupfs never gives out twice in one boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CgroupId(pub u64);

/// A watched domain in the reactor: a slot, and how often the slot had been used before.
///
/// It travels through epoll as a token. An event that was queued for an earlier tenant of the
/// slot carries an older generation and is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WatchId {
    pub slot: u32,
    pub generation: u32,
}

/// An episode, and with it its record: a random UUID (RFC 9562, version 4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpisodeId(pub [u8; 16]);

impl EpisodeId {
    /// Makes a version 4 UUID of 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        EpisodeId(bytes)
    }
}

impl fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_id_is_a_version_4_uuid() {
        let id = EpisodeId::from_random([0xff; 16]).to_string();
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
