//! Changes to bytes that are right, as a short text: a mutation of it then is a change of one
//! field, where a mutation of the whole would mostly hit nothing.

/// One step.
#[derive(Clone, Copy, Debug)]
pub enum Patch<'b> {
    /// These bytes, there.
    Put(usize, &'b [u8]),
    /// So many bytes are left.
    Cut(usize),
    /// What has changed so far is read.
    Look,
}

const LOOK: u16 = 0xffff;
const CUT: u16 = 0xfffe;

/// `at` of two bytes, then a length and so many bytes; [`CUT`] and a length of two bytes; [`LOOK`].
pub fn patches(mut bytes: &[u8]) -> impl Iterator<Item = Patch<'_>> {
    std::iter::from_fn(move || {
        Some(match u16_of(&mut bytes)? {
            LOOK => Patch::Look,
            CUT => Patch::Cut(usize::from(u16_of(&mut bytes)?)),
            at => {
                let (len, rest) = bytes.split_first()?;
                let (put, rest) = rest.split_at(usize::from(*len).min(rest.len()));
                bytes = rest;
                Patch::Put(usize::from(at), put)
            }
        })
    })
}

fn u16_of(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    Some(u16::from_le_bytes(*number))
}

/// As far as it lies within.
pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(what) {
        *place = *byte;
    }
}
