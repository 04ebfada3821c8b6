//! No allocation between an event and the signals: under pressure the kernel may not have a page
//! to give. A counting allocator stands under the functions that the loop calls; the first pass
//! may make room, the second may not ask for a byte.

#![allow(clippy::unwrap_used, unsafe_code)]

#[allow(dead_code)]
#[path = "../it/ground.rs"]
mod ground;
#[allow(dead_code)]
#[path = "../it/notebooks.rs"]
mod notebooks;
#[allow(dead_code)]
#[path = "../it/pass.rs"]
mod pass;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ground::Ground;
use nbguard::roots::{Buffer, Roots};
use nbguard::trace::{Place, Target, page};
use nbguard::units::Bytes;
use notebooks::Server;
use pass::{Kernel, Pass};
use trace_layout::writer::Page as Memory;
use trace_layout::{Identity, PAGE, Writer};

/// The system's allocator, and how often this thread asked it for memory.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no count any more, and asks for nothing that matters here.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call goes to the system's allocator with the arguments it came with, so its
// guarantees are this one's; counting touches only a thread-local integer and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to GlobalAlloc's contract, which is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the block came from `System`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn asked() -> u64 {
    ASKED.with(Cell::get)
}

#[test]
fn the_counter_counts() {
    let before = asked();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(asked() - before, 1);
}

#[test]
fn the_second_way_from_an_event_to_the_signals_allocates_nothing() {
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return println!("skipped: {why}"),
    };
    let container = ground.container(Bytes::mib(192)).unwrap();
    let server = Server::start(&container, 4, 6);
    for (notebook, mib) in server.notebooks.iter().zip([8, 16, 48, 24]) {
        notebook.grow(Bytes::mib(mib));
    }
    let mut pass = Pass::new(&ground, &container, server.pid());
    let mut kernel = Kernel::new(&pass, false);
    let first = pass.run(&mut kernel);
    let before = asked();
    let second = pass.run(&mut kernel);
    let allocated = asked() - before;
    assert_eq!(first, second);
    assert_eq!(second, (server.notebooks[2].pid, 8), "the largest, with all its processes");
    assert_eq!(allocated, 0, "allocations between the event and the signals");
}

/// The guard asks what its processes do while it is short of memory itself.
#[test]
fn reading_whether_a_process_is_busy_allocates_nothing() {
    let dir = std::env::temp_dir().join(format!("nbg-alloc-trace-{}", std::process::id()));
    let roots = Roots::system().unwrap();
    let mut buffer = Buffer::new();
    let target = Target::read(&roots, std::process::id(), &mut buffer).unwrap();
    Place::prepare(&roots, target, &dir, &mut buffer).unwrap();
    let of = Identity {
        pid: target.inner,
        start: target.key.start,
        runtime: 1,
        runtime_version: 80236,
        flags: 0,
        created: 0,
    };
    let memory = vec![Memory([0; PAGE]); 2].leak();
    let mut writer = Writer::over(memory, 8, &of).unwrap();
    writer.busy(1, 2, b"/srv/a.php", b"/");
    let name = format!("{}/{}-{}.trace", target.inner_uid, target.inner, target.key.start);
    std::fs::write(dir.join(&name), writer.bytes()).unwrap();
    let mut page = [0; PAGE];
    for round in 0..2 {
        let before = asked();
        let read = page::read(&roots, &dir, target.key, &mut buffer, &mut page);
        let allocated = asked() - before;
        assert_eq!(read.unwrap().activity.script, b"/srv/a.php");
        assert_eq!(allocated, 0, "round {round}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
