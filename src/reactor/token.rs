//! What travels through epoll: which descriptor of which tenant an event is for. Pure.

use mio::Token;

use crate::ids::WatchId;

/// What an event is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    Signals,
    Inotify,
    /// The helper has answered.
    Helper,
    HostPsi,
    /// The control socket, or whoever is connected to it: they are few, and looked at together.
    Control,
    /// `memory.events` of a watch.
    Events(WatchId),
    Psi(WatchId),
    /// A v1 usage threshold of a watch.
    V1(WatchId),
    /// A member (index) of the kill with this serial number.
    Victim {
        serial: u32,
        index: u32,
    },
    /// A process that is followed while the tripwire is lifted; `None` of the host's domain.
    Followed(Option<WatchId>),
    /// The process that was told in this rise: it has exited.
    Told(WatchId),
}

const KIND: u32 = 60;
const GENERATION: u32 = 32;
const GENERATION_MASK: u32 = 0x0fff_ffff;
const NO_WATCH: u32 = u32::MAX;

const _: () = assert!(usize::BITS == 64, "tokens carry a slot and a generation");

impl For {
    pub fn token(self) -> Token {
        let (kind, generation, slot) = match self {
            For::Signals => (0, 0, 0),
            For::Inotify => (0, 0, 1),
            For::Helper => (0, 0, 2),
            For::HostPsi => (0, 0, 3),
            For::Control => (0, 0, 9),
            For::Events(id) => (1, id.generation, id.slot),
            For::Psi(id) => (2, id.generation, id.slot),
            For::V1(id) => (3, id.generation, id.slot),
            For::Victim { serial, index } => (4, serial, index),
            For::Followed(Some(id)) => (5, id.generation, id.slot),
            For::Followed(None) => (5, 0, NO_WATCH),
            For::Told(id) => (6, id.generation, id.slot),
        };
        let generation = (generation & GENERATION_MASK) as usize;
        Token(kind << KIND | generation << GENERATION | slot as usize)
    }

    /// `None`: nothing of ours.
    pub fn of(token: Token) -> Option<For> {
        let slot = (token.0 & 0xffff_ffff) as u32;
        let generation = (token.0 >> GENERATION) as u32 & GENERATION_MASK;
        let id = WatchId { slot, generation };
        Some(match (token.0 >> KIND, slot) {
            (0, 0) => For::Signals,
            (0, 1) => For::Inotify,
            (0, 2) => For::Helper,
            (0, 3) => For::HostPsi,
            (0, 9) => For::Control,
            (1, _) => For::Events(id),
            (2, _) => For::Psi(id),
            (3, _) => For::V1(id),
            (4, _) => For::Victim { serial: generation, index: slot },
            (5, NO_WATCH) => For::Followed(None),
            (5, _) => For::Followed(Some(id)),
            (6, _) => For::Told(id),
            _ => return None,
        })
    }
}

/// The next generation of a slot, as far as a token can carry it.
pub fn next_generation(generation: u32) -> u32 {
    (generation + 1) & GENERATION_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_read_back_as_what_it_was() {
        let ids = [(0, 0), (1, 2), (7, GENERATION_MASK), (70_000, 3)]
            .map(|(slot, generation)| WatchId { slot, generation });
        let mut all = vec![For::Signals, For::Inotify, For::Helper, For::HostPsi, For::Control];
        for id in ids {
            all.extend([For::Events(id), For::Psi(id), For::V1(id)]);
            all.extend([For::Followed(Some(id)), For::Told(id)]);
        }
        all.extend([For::Followed(None), For::Victim { serial: 9, index: 10_000 }]);
        for what in &all {
            assert_eq!(For::of(what.token()), Some(*what));
        }
        assert_eq!(For::of(Token(usize::MAX)), None);
    }
}
