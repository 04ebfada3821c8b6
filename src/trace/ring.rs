//! Reads records out of a ring that is written meanwhile. A batch is copied, then the counter is
//! looked at again: what may have been overwritten during the copy is not believed but counted.
//! Delivered and lost together are exactly what the tracer wrote.

use std::sync::atomic::{Ordering, fence};

use trace_layout::record::whole;
use trace_layout::{Bad, Header, PAGE, Record, SLOT, header, parse_record, record_offset};

use super::Trouble;
use super::file::TraceFile;

/// Records of one copy: 64 KiB.
const BATCH: usize = 128;

/// A reader's place in one ring.
#[derive(Debug)]
pub struct Ring {
    next: u64,
    /// The whole of the last batch was overwritten while it was copied.
    is_outrun: bool,
    batch: Box<[u8]>,
    page: Box<[u8; PAGE]>,
}

/// What a round brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    pub header: Header,
    /// Overwritten before they were read.
    pub lost: u64,
    pub seen: u64,
    /// There is more to read at once.
    pub more: bool,
}

impl Ring {
    /// A reader that begins with record `next`.
    pub fn from(next: u64) -> Ring {
        Ring {
            next,
            is_outrun: false,
            batch: vec![0; BATCH * SLOT].into_boxed_slice(),
            page: Box::new([0; PAGE]),
        }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next records, at most [`BATCH`] of them. `take` gets each with its number.
    ///
    /// # Errors
    /// When the file is no ring any more. What was taken before stays taken.
    pub fn read(
        &mut self,
        file: &TraceFile<'_>,
        mut take: impl FnMut(u64, &Record<'_>),
    ) -> Result<Round, Trouble> {
        let header = file.read_header(&mut self.page)?;
        let mut round = Round { header, lost: 0, seen: 0, more: false };
        if header.head < self.next {
            return Err(file.forged("its counter went back"));
        }
        round.lost += self.skip_to(header.head, file.slots);
        let slot = usize::try_from(self.next % u64::from(file.slots)).unwrap_or(0);
        let left = usize::try_from(header.head - self.next).unwrap_or(usize::MAX);
        let count = left.min(BATCH).min(file.slots as usize - slot);
        if count == 0 {
            return Ok(round);
        }
        let bytes = &mut self.batch[..count * SLOT];
        file.read_at(bytes, record_offset(self.next, file.slots))?;
        fence(Ordering::SeqCst);
        let mut head = [0; 8];
        file.read_at(&mut head, header::AT_HEAD)?;
        let head = u64::from_ne_bytes(head);
        if head < header.head {
            return Err(file.forged("its counter went back"));
        }
        let first = self.next;
        for (index, slot) in bytes.as_chunks::<SLOT>().0.iter().enumerate() {
            let n = first + index as u64;
            self.next = n + 1;
            if is_overwritten(file, n, head)? {
                round.lost += 1;
                continue;
            }
            match parse_record(slot, n) {
                Ok(record) => take(n, &record),
                Err(Bad::Torn) => return Err(file.forged("a record is not what its number says")),
                Err(bad) => return Err(file.bad(bad)),
            }
            round.seen += 1;
        }
        round.more = self.next < head;
        self.is_outrun = round.seen == 0;
        Ok(round)
    }

    /// Past what is overwritten already, and how much that is. Where the tracer is so quick that
    /// the oldest records are gone before they are copied, half of the ring is given up for the
    /// other half.
    fn skip_to(&mut self, head: u64, slots: u32) -> u64 {
        let mut oldest = head.saturating_sub(u64::from(slots));
        if oldest > self.next && std::mem::take(&mut self.is_outrun) {
            oldest += u64::from(slots / 2);
        }
        let lost = oldest.saturating_sub(self.next);
        self.next += lost;
        lost
    }
}

/// Whether record `n`, which was copied before the counter stood at `head`, may have been
/// overwritten meanwhile. The one whose slot is next may be, or not: its own number tells.
fn is_overwritten(file: &TraceFile<'_>, n: u64, head: u64) -> Result<bool, Trouble> {
    match (head - n).cmp(&u64::from(file.slots)) {
        std::cmp::Ordering::Less => Ok(false),
        std::cmp::Ordering::Greater => Ok(true),
        std::cmp::Ordering::Equal => {
            let mut seq = [0; 8];
            file.read_at(&mut seq, record_offset(n, file.slots))?;
            Ok(Some(u64::from_ne_bytes(seq)) != whole(n))
        }
    }
}
