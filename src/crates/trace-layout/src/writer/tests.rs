use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::vec::Vec;
use std::{format, thread};

use super::*;
use crate::header::{AT_COUNT, COUNT_LEN};
use crate::{Bad, UNKNOWN, parse_activity, parse_count, parse_header, parse_record, record_offset};

const OF: Identity =
    Identity { pid: 42, start: 777, runtime: 1, runtime_version: 80236, flags: 0, created: 9 };

/// A page-aligned region that lives as long as the test.
struct Region(Vec<Page>);

impl Region {
    fn new(slots: u32) -> Region {
        Region(std::vec![Page([0; PAGE]); file_len(slots).div_ceil(PAGE)])
    }

    fn base(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    fn writer(&mut self, slots: u32) -> Writer {
        // SAFETY: aligned to a page, zero, long enough, and the tests keep it.
        unsafe { Writer::create(self.base(), file_len(slots), slots, &OF) }.unwrap()
    }
}

/// Copies as pread does: without regard to who writes.
fn copy(base: usize, at: usize, to: &mut [u8]) {
    for (index, byte) in to.iter_mut().enumerate() {
        // SAFETY: within the region, which the test keeps until its threads have ended.
        let from = unsafe { &*((base + at + index) as *const AtomicU8) };
        *byte = from.load(Ordering::Relaxed);
    }
    fence(Ordering::Acquire);
}

fn page(base: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    copy(base, 0, &mut page);
    page
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let mut region = Region::new(8);
    let base = region.base() as usize;
    let mut writer = region.writer(8);
    let record = Record {
        flags: crate::record::FAILED,
        depth: 3,
        line: 17,
        call: 5,
        time: 1,
        wall: 2,
        cpu: UNKNOWN,
        memory: -4,
        class: b"Shop",
        function: b"open",
        file: b"/srv/a.php",
        values: b"'x', 3",
        ..Record::new(Kind::Leave)
    };
    writer.record(&Record::new(Kind::Notice));
    writer.record(&record);
    let mut slot = [0; SLOT];
    copy(base, record_offset(1, 8), &mut slot);
    assert_eq!(parse_record(&slot, 1), Ok(record));
    let mut encoded = [0; SLOT];
    let len = crate::record::encode(&record, 1, &mut encoded);
    assert_eq!(encoded[..len], slot[..len]);
    assert_eq!(parse_record(&slot, 9), Err(Bad::Torn));
    assert_eq!(parse_record(&slot, u64::MAX), Err(Bad::Torn));
    let header = parse_header(&page(base)).unwrap();
    assert_eq!((header.head, header.slots, header.pid, header.start), (2, 8, 42, 777));
    assert_eq!((header.runtime, header.runtime_version), (1, 80236));
}

#[test]
fn long_texts_are_cut_and_say_so_and_the_end_of_a_path_is_kept() {
    let mut region = Region::new(8);
    let base = region.base() as usize;
    let mut writer = region.writer(8);
    let path = format!("{}/end.php", "x".repeat(400));
    let mut slot = writer.begin(Kind::Enter);
    slot.class(&[b'c'; 200]);
    slot.function(&[b'f'; 200]);
    slot.file(path.as_bytes());
    assert!(write!(slot, "{}", "v".repeat(100)).is_ok());
    assert!(write!(slot, "{}", "v".repeat(100)).is_err());
    assert!(!slot.values(b"more"));
    slot.commit(&Numbers { depth: 0, line: 0, call: 1, time: 0, wall: 0, cpu: 0, memory: 0 });
    let mut bytes = [0; SLOT];
    copy(base, record_offset(0, 8), &mut bytes);
    let record = parse_record(&bytes, 0).unwrap();
    assert_eq!(record.flags, CUT_NAME | CUT_FILE | CUT_VALUES);
    assert_eq!((record.class.len(), record.function.len()), (NAME_MAX, NAME_MAX));
    assert!(record.file.ends_with(b"/end.php"));
    assert_eq!(record.values.len(), TEXT - 2 * NAME_MAX - FILE_MAX);
}

#[test]
fn a_record_that_is_given_up_is_never_seen() {
    let mut region = Region::new(8);
    let base = region.base() as usize;
    let mut writer = region.writer(8);
    writer.begin(Kind::Enter).class(b"half");
    assert_eq!(parse_header(&page(base)).unwrap().head, 0);
    let mut bytes = [0; SLOT];
    copy(base, record_offset(0, 8), &mut bytes);
    assert_eq!(parse_record(&bytes, 0), Err(Bad::Torn));
    writer.record(&Record { function: b"whole", ..Record::new(Kind::Enter) });
    copy(base, record_offset(0, 8), &mut bytes);
    assert_eq!(parse_record(&bytes, 0).unwrap().function, b"whole");
}

#[test]
fn the_activity_tells_who_is_busy_with_what() {
    let mut region = Region::new(8);
    let base = region.base() as usize;
    let mut writer = region.writer(8);
    assert_eq!(parse_activity(&page(base)).unwrap().1.state, ActivityState::Unknown);
    writer.busy(5, 6, b"/srv/index.php", b"/shop");
    writer.function(b"Shop", b"open");
    let bytes = page(base);
    let (seq, activity) = parse_activity(&bytes).unwrap();
    assert_eq!((seq, activity.state, activity.since), (4, ActivityState::Busy, 5));
    assert_eq!((activity.since_unix, activity.requests), (6, 1));
    assert_eq!((activity.script, activity.uri), (&b"/srv/index.php"[..], &b"/shop"[..]));
    assert_eq!(activity.function, b"Shop::open");
    writer.idle(7, 8);
    let bytes = page(base);
    let (_, activity) = parse_activity(&bytes).unwrap();
    assert_eq!((activity.state, activity.since), (ActivityState::Idle, 7));
    assert_eq!(activity.script, b"/srv/index.php");
    writer.busy(9, 9, &[b's'; 1000], &[b'u'; 1000]);
    writer.function(&[b'c'; 200], b"f");
    let bytes = page(base);
    let (_, activity) = parse_activity(&bytes).unwrap();
    assert_eq!((activity.script.len(), activity.uri.len()), (SCRIPT_MAX, URI_MAX));
    assert_eq!((activity.function.len(), activity.requests), (FUNCTION_MAX, 2));
    writer.tracing(Tracing::OffStale, 12);
    writer.beat(99);
    let header = parse_header(&page(base)).unwrap();
    assert_eq!((header.tracing, header.session, header.beat), (Tracing::OffStale, 12, 99));
}

#[test]
fn the_count_tells_what_calls_cost_and_zeros_tell_nothing() {
    let mut region = Region::new(8);
    let base = region.base() as usize;
    let mut writer = region.writer(8);
    let read = || {
        let mut bytes = [0; COUNT_LEN];
        copy(base, AT_COUNT, &mut bytes);
        parse_count(&bytes)
    };
    assert_eq!(read(), Ok((0, None)), "nothing was counted, and an older tracer never does");
    let count = Count { since: 5, at: 25, cpu: 20, memory: 1 << 21 };
    writer.count(Some(&count));
    assert_eq!(read(), Ok((2, Some(count))));
    assert_eq!(parse_activity(&page(base)).unwrap().0, 0, "the activity is left alone");
    writer.count(None);
    assert_eq!(read(), Ok((4, None)));
    for (bad, why) in [
        (Count { at: 4, ..count }, Bad::Value),
        (Count { cpu: 21, ..count }, Bad::Value),
        (Count { since: u64::MAX, ..count }, Bad::Value),
    ] {
        writer.count(Some(&bad));
        assert_eq!(read(), Err(why), "{bad:?}");
    }
    let mut bytes = [0; COUNT_LEN];
    bytes[0] = 3;
    assert_eq!(parse_count(&bytes), Err(Bad::Torn));
}

#[test]
fn a_region_that_does_not_fit_is_refused() {
    let mut region = Region::new(8);
    let base = region.base();
    for (len, slots) in
        [(file_len(8) - 1, 8), (file_len(8), 7), (file_len(8), 4), (1 << 40, 1 << 17)]
    {
        // SAFETY: what does not fit is not written to.
        assert!(unsafe { Writer::create(base, len, slots, &OF) }.is_none(), "{len} {slots}");
    }
}

/// Ten million records through a ring of 1,024 while somebody reads: none is torn, and what the
/// reader did not see is exactly what it counts as lost.
#[test]
fn ten_million_records_pass_a_concurrent_reader_untorn_and_counted() {
    const RECORDS: u64 = 10_000_000;
    const SLOTS: u32 = 1024;
    let mut region = Region::new(SLOTS);
    let base = region.base() as usize;
    let mut writer = region.writer(SLOTS);
    let done = Arc::new(AtomicBool::new(false));
    let finished = Arc::clone(&done);
    let reader = thread::spawn(move || read_until(base, SLOTS, &finished));
    for n in 0..RECORDS {
        let fill = [b'a' + (n % 26) as u8; 100];
        let mut slot = writer.begin(Kind::Enter);
        slot.function(&fill[..20 + (n % 60) as usize]);
        slot.values(&fill);
        slot.commit(&Numbers {
            depth: (n % 100) as u16,
            line: n as u32,
            call: n,
            time: n,
            wall: n,
            cpu: n,
            memory: n as i64,
        });
    }
    done.store(true, Ordering::Release);
    let (seen, lost) = reader.join().unwrap();
    assert_eq!(seen + lost, RECORDS);
    assert!(seen >= u64::from(SLOTS), "the last ones are always there: {seen}");
    std::println!("{seen} records seen, {lost} lost");
}

/// The reader that the tool has, over memory instead of a file: copy, look at the head again,
/// take what cannot have been overwritten meanwhile.
fn read_until(base: usize, slots: u32, done: &AtomicBool) -> (u64, u64) {
    let (mut next, mut seen, mut lost) = (0, 0, 0);
    let mut slot = [0; SLOT];
    loop {
        let last = done.load(Ordering::Acquire);
        let head = parse_header(&page(base)).unwrap().head;
        while next < head {
            let oldest = head.saturating_sub(u64::from(slots));
            if next < oldest {
                lost += oldest - next;
                next = oldest;
            }
            copy(base, record_offset(next, slots), &mut slot);
            let mut seq = [0; 8];
            copy(base, record_offset(next, slots), &mut seq);
            if seq == slot[..8] && u64::from_ne_bytes(seq) == next * 2 + 2 {
                check(&parse_record(&slot, next).unwrap(), next);
                seen += 1;
            } else {
                lost += 1;
            }
            next += 1;
        }
        if last {
            return (seen, lost);
        }
    }
}

fn check(record: &Record<'_>, n: u64) {
    let fill = b'a' + (n % 26) as u8;
    assert_eq!((record.call, record.time, record.wall, record.cpu), (n, n, n, n));
    assert_eq!((record.memory, record.line), (n as i64, n as u32));
    assert_eq!(record.function.len(), 20 + (n % 60) as usize);
    assert_eq!(record.values.len(), 100);
    assert!(record.function.iter().chain(record.values).all(|byte| *byte == fill), "torn: {n}");
}
