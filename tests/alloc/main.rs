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
use nbguard::units::Bytes;
use notebooks::Server;
use pass::{Kernel, Pass};

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
