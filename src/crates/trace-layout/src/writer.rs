//! The tracer's side: the one writer of a mapped file. It stands in the call path of the
//! interpreter, so it copies what is there and nothing else; nothing is zeroed, nothing is read
//! back, and nothing in it can fail.

use core::fmt;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::header::{
    self, ActivityState, Count, FUNCTION_MAX, FileHeader, SCRIPT_MAX, Tracing, URI_MAX,
};
use crate::record::{
    CUT_FILE, CUT_NAME, CUT_VALUES, FILE_MAX, Kind, NAME_MAX, Record, RecordHeader, TEXT,
};
use crate::{PAGE, SLOT, SLOTS_MAX, SLOTS_MIN, VERSION, file_len};

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub pid: u32,
    pub start: u64,
    pub runtime: u32,
    pub runtime_version: u32,
    pub flags: u32,
    pub created: u64,
}

/// Memory aligned as a mapping is.
#[repr(C, align(4096))]
#[derive(Clone, Debug)]
pub struct Page(pub [u8; PAGE]);

/// The single writer of one file.
#[derive(Debug)]
pub struct Writer {
    base: *mut u8,
    mask: u64,
    next: u64,
}

// SAFETY: the region belongs to this writer alone; a thread may hand it to another.
unsafe impl Send for Writer {}

impl Writer {
    /// Makes the header of a fresh file and becomes its writer. None when the region is too
    /// small or `slots` is no power of two within its bounds.
    ///
    /// # Safety
    /// `base` is aligned to a page; `len` bytes from there are mapped, readable and writable as
    /// long as this value lives, zero now, and nobody else writes them.
    pub unsafe fn create(base: *mut u8, len: usize, slots: u32, of: &Identity) -> Option<Writer> {
        if !slots.is_power_of_two()
            || !(SLOTS_MIN..=SLOTS_MAX).contains(&slots)
            || len < file_len(slots)
        {
            return None;
        }
        let header = base.cast::<FileHeader>();
        // SAFETY: the header is inside the region, which is aligned, writable and ours.
        unsafe {
            (*header).version = VERSION;
            (*header).header_size = PAGE as u32;
            (*header).slot_size = SLOT as u32;
            (*header).slots = slots;
            (*header).pid = of.pid;
            (*header).runtime = of.runtime;
            (*header).start = of.start;
            (*header).runtime_version = of.runtime_version;
            (*header).flags = of.flags;
            (*header).created = of.created;
        }
        let writer = Writer { base, mask: u64::from(slots) - 1, next: 0 };
        // Who sees the magic sees the rest.
        writer.u64_at(offset_of!(FileHeader, magic)).store(header::MAGIC, Ordering::Release);
        Some(writer)
    }

    /// The same over memory of one's own: for tests, and for a tracer without a file.
    pub fn over(pages: &'static mut [Page], slots: u32, of: &Identity) -> Option<Writer> {
        let len = size_of_val(pages);
        pages.fill(Page([0; PAGE]));
        // SAFETY: aligned, zero, as long as it says, and borrowed for ever by this value alone.
        unsafe { Writer::create(pages.as_mut_ptr().cast(), len, slots, of) }
    }

    /// What has been written: the whole file as a reader would find it now.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the region is mapped and at least so long; what is written through a shared
        // reference (the beat, the state) is atomic, the rest takes an exclusive one.
        unsafe { core::slice::from_raw_parts(self.base, file_len(self.slots())) }
    }

    /// Records written so far.
    pub fn written(&self) -> u64 {
        self.next
    }

    /// Where the region begins, to unmap it.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn slots(&self) -> u32 {
        self.mask as u32 + 1
    }

    fn u64_at(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is an offset of the header, aligned to eight; the region is mapped.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }

    fn u32_at(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is an offset of the header, aligned to four; the region is mapped.
        unsafe { &*self.base.add(at).cast::<AtomicU32>() }
    }

    /// Begins the next record. Nothing of it is seen before [`Slot::commit`]; one that is
    /// dropped instead is overwritten by the next.
    #[inline]
    pub fn begin(&mut self, kind: Kind) -> Slot<'_> {
        let at = (self.next & self.mask) as usize * SLOT + PAGE;
        // SAFETY: `at` is inside the region for every `next`, because of the mask.
        let slot = unsafe { self.base.add(at) };
        let seq = self.next * 2 + 1;
        // SAFETY: slots are aligned to 512 bytes, and `seq` is their first field.
        unsafe { &*slot.cast::<AtomicU64>() }.store(seq, Ordering::Relaxed);
        // A reader that meets a byte of this record meets the odd number, too.
        fence(Ordering::Release);
        // SAFETY: the four lengths are eight bytes, aligned to eight, inside the slot.
        unsafe { slot.add(AT_LENS).cast::<u64>().write(0) };
        Slot { writer: self, slot, at: 0, part: 0, kind, flags: 0 }
    }

    /// A whole record at once.
    #[inline]
    pub fn record(&mut self, record: &Record<'_>) {
        let mut slot = self.begin(record.kind);
        slot.class(record.class);
        slot.function(record.function);
        slot.file(record.file);
        slot.values(record.values);
        slot.flags(record.flags);
        slot.commit(&Numbers {
            depth: record.depth,
            line: record.line,
            call: record.call,
            time: record.time,
            wall: record.wall,
            cpu: record.cpu,
            memory: record.memory,
        });
    }

    /// The tracer's sign of life.
    #[inline]
    pub fn beat(&self, now: u64) {
        self.u64_at(offset_of!(FileHeader, beat)).store(now, Ordering::Relaxed);
    }

    /// Whether it traces, and for whom.
    pub fn tracing(&self, tracing: Tracing, session: u32) {
        self.u32_at(offset_of!(FileHeader, session)).store(session, Ordering::Relaxed);
        self.u32_at(offset_of!(FileHeader, tracing)).store(tracing as u32, Ordering::Release);
    }

    /// A request begins: busy since `since`.
    pub fn busy(&mut self, since: u64, since_unix: u64, script: &[u8], uri: &[u8]) {
        self.stamp(|header| {
            // SAFETY: `stamp` hands over the header of the region, which is ours to write.
            unsafe {
                (*header).state = ActivityState::Busy as u32;
                (*header).since = since;
                (*header).since_unix = since_unix;
                (*header).requests = (*header).requests.wrapping_add(1);
                let script_cut = script.len() > SCRIPT_MAX;
                // The end of a path tells more than its beginning.
                let script = &script[script.len().saturating_sub(SCRIPT_MAX)..];
                (*header).script_len = script.len() as u16;
                let to = ptr::addr_of_mut!((*header).script).cast::<u8>();
                ptr::copy_nonoverlapping(script.as_ptr(), to, script.len());
                let uri_len = uri.len().min(URI_MAX);
                (*header).uri_len = uri_len as u16;
                let to = ptr::addr_of_mut!((*header).uri).cast::<u8>();
                ptr::copy_nonoverlapping(uri.as_ptr(), to, uri_len);
                (*header).function_len = 0;
                (*header).cut = u32::from(script_cut) | u32::from(uri.len() > URI_MAX) << 1;
            }
        });
    }

    /// A request ends: idle since `since`. Script and URI stay: they are what it did last.
    pub fn idle(&mut self, since: u64, since_unix: u64) {
        self.stamp(|header| {
            // SAFETY: as in `busy`.
            unsafe {
                (*header).state = ActivityState::Idle as u32;
                (*header).since = since;
                (*header).since_unix = since_unix;
            }
        });
    }

    /// Neither is known (a fork that has not served yet, a shutdown).
    pub fn unknown(&mut self, since: u64, since_unix: u64) {
        self.stamp(|header| {
            // SAFETY: as in `busy`.
            unsafe {
                (*header).state = ActivityState::Unknown as u32;
                (*header).since = since;
                (*header).since_unix = since_unix;
            }
        });
    }

    /// The last function that is known to have run: `Class::method`.
    pub fn function(&mut self, class: &[u8], function: &[u8]) {
        self.stamp(|header| {
            let mut len = 0;
            let mut push = |part: &[u8]| {
                let part = &part[..part.len().min(FUNCTION_MAX - len)];
                // SAFETY: as in `busy`; `len` and the part together fit the field.
                unsafe {
                    let to = ptr::addr_of_mut!((*header).function).cast::<u8>().add(len);
                    ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                }
                len += part.len();
            };
            if !class.is_empty() {
                push(class);
                push(b"::");
            }
            push(function);
            // SAFETY: as in `busy`.
            unsafe { (*header).function_len = len as u16 };
        });
    }

    /// What recorded calls cost so far; `None`: not known.
    pub fn count(&mut self, count: Option<&Count>) {
        let seq = self.u64_at(header::AT_COUNT);
        let before = seq.load(Ordering::Relaxed);
        seq.store(before | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let header = self.base.cast::<FileHeader>();
        // SAFETY: the header is inside the region, which is aligned and ours to write.
        unsafe {
            (*header).counted_since = count.map_or(0, |count| count.since);
            (*header).counted_at = count.map_or(0, |count| count.at);
            (*header).counted_cpu = count.map_or(0, |count| count.cpu);
            (*header).memory = count.map_or(0, |count| count.memory);
        }
        seq.store((before | 1).wrapping_add(1), Ordering::Release);
    }

    fn stamp(&mut self, write: impl FnOnce(*mut FileHeader)) {
        let seq = self.u64_at(header::AT_ACTIVITY);
        let before = seq.load(Ordering::Relaxed);
        seq.store(before | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        write(self.base.cast());
        seq.store((before | 1).wrapping_add(1), Ordering::Release);
    }
}

/// Where a record's four lengths are.
const AT_LENS: usize = offset_of!(RecordHeader, class_len);
const _: () = {
    assert!(AT_LENS.is_multiple_of(8));
    assert!(offset_of!(RecordHeader, function_len) == AT_LENS + 2);
    assert!(offset_of!(RecordHeader, file_len) == AT_LENS + 4);
    assert!(offset_of!(RecordHeader, values_len) == AT_LENS + 6);
};

/// Copies a name: in the call path most are shorter than what a call of memcpy costs.
///
/// # Safety
/// `len` bytes can be read at `from` and written at `to`, and the two do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    type Wide = [u64; 2];
    // SAFETY: every piece lies within the `len` bytes; the last ones overlap what was copied.
    unsafe {
        if len >= 16 {
            let mut at = 0;
            while at + 16 <= len {
                let piece = from.add(at).cast::<Wide>().read_unaligned();
                to.add(at).cast::<Wide>().write_unaligned(piece);
                at += 16;
            }
            let last = from.add(len - 16).cast::<Wide>().read_unaligned();
            to.add(len - 16).cast::<Wide>().write_unaligned(last);
        } else if len >= 8 {
            let (first, last) = (
                from.cast::<u64>().read_unaligned(),
                from.add(len - 8).cast::<u64>().read_unaligned(),
            );
            to.cast::<u64>().write_unaligned(first);
            to.add(len - 8).cast::<u64>().write_unaligned(last);
        } else if len >= 4 {
            let (first, last) = (
                from.cast::<u32>().read_unaligned(),
                from.add(len - 4).cast::<u32>().read_unaligned(),
            );
            to.cast::<u32>().write_unaligned(first);
            to.add(len - 4).cast::<u32>().write_unaligned(last);
        } else {
            for at in 0..len {
                to.add(at).write(from.add(at).read());
            }
        }
    }
}

/// The numbers of a record, written when it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    pub depth: u16,
    pub line: u32,
    pub call: u64,
    pub time: u64,
    pub wall: u64,
    pub cpu: u64,
    pub memory: i64,
}

/// A record being written. Texts come in the order class, function, file, values; one that is
/// left out is empty. Values may come in pieces, and by `write!`.
#[derive(Debug)]
pub struct Slot<'w> {
    writer: &'w mut Writer,
    slot: *mut u8,
    at: usize,
    part: usize,
    kind: Kind,
    flags: u8,
}

impl Slot<'_> {
    #[inline]
    pub fn class(&mut self, name: &[u8]) {
        self.name(0, name);
    }

    #[inline]
    pub fn function(&mut self, name: &[u8]) {
        self.name(1, name);
    }

    #[inline]
    fn name(&mut self, part: usize, name: &[u8]) {
        let len = name.len().min(NAME_MAX);
        if len < name.len() {
            self.flags |= CUT_NAME;
        }
        self.append(part, &name[..len]);
    }

    #[inline]
    pub fn file(&mut self, path: &[u8]) {
        let from = path.len().saturating_sub(FILE_MAX);
        if from > 0 {
            self.flags |= CUT_FILE;
        }
        self.append(2, &path[from..]);
    }

    /// More of the values. False: they are full, and the rest was cut.
    #[inline]
    pub fn values(&mut self, piece: &[u8]) -> bool {
        let room = self.room();
        if piece.len() > room {
            self.flags |= CUT_VALUES;
            self.append(3, &piece[..room]);
            return false;
        }
        self.append(3, piece);
        true
    }

    /// Bytes that values may still take.
    #[inline]
    pub fn room(&self) -> usize {
        TEXT - self.at
    }

    /// Sets flags of [`crate::record`], beside those that tell of cuts.
    #[inline]
    pub fn flags(&mut self, flags: u8) {
        self.flags |= flags;
    }

    #[inline]
    fn append(&mut self, part: usize, piece: &[u8]) {
        debug_assert!(part >= self.part, "texts come in their order");
        if part < self.part {
            return;
        }
        self.part = part;
        // Three bounded texts and what is left fit by construction; a text that is given twice
        // is what this is for.
        let len = piece.len().min(TEXT - self.at);
        // SAFETY: `at + len` is within the text of a slot, which is inside the writer's region.
        unsafe {
            let to = self.slot.add(size_of::<RecordHeader>() + self.at);
            copy(piece.as_ptr(), to, len);
            // Kept where it is read: four lengths gathered in a local are written as two bytes each
            // and read back as eight, which stalls the processor for 6 ns (measured).
            *self.slot.add(AT_LENS).cast::<u16>().add(part) += len as u16;
        }
        self.at += len;
    }

    /// Writes the numbers and makes the record whole.
    #[inline]
    pub fn commit(self, numbers: &Numbers) {
        let seq = self.writer.next * 2 + 2;
        let header = self.slot.cast::<RecordHeader>();
        // SAFETY: the slot is inside the region, aligned, and ours to write.
        unsafe {
            (*header).time = numbers.time;
            (*header).wall = numbers.wall;
            (*header).cpu = numbers.cpu;
            (*header).memory = numbers.memory;
            (*header).call = numbers.call;
            (*header).line = numbers.line;
            (*header).depth = numbers.depth;
            (*header).kind = self.kind as u8;
            (*header).flags = self.flags;
            (*self.slot.cast::<AtomicU64>()).store(seq, Ordering::Release);
        }
        self.writer.next += 1;
        self.writer.u64_at(header::AT_HEAD).store(self.writer.next, Ordering::Release);
    }
}

impl fmt::Write for Slot<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.values(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests;
