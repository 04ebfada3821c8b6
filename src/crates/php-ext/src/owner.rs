//! Whose the tracer is. A trace file, its switch, the waiting thread and the guard against faults are
//! the process's; in a thread-safe PHP several interpreters live in it. So one thread at a time owns
//! the tracer: the first that begins a request while nobody does, until its interpreter ends. The
//! others are not traced, and `phpinfo()` says why.
//!
//! What the file says of busy and idle is then the owner's alone: a process in which others serve
//! requests as well is not called idle any more, but unknown.

#[cfg(not(php_zts))]
pub use alone::*;
#[cfg(php_zts)]
pub use threads::*;

#[cfg(not(php_zts))]
mod alone {
    #[inline(always)]
    pub fn is_mine() -> bool {
        true
    }
    pub fn why_not() -> Option<&'static str> {
        None
    }
    pub fn claim() -> bool {
        true
    }
    pub fn may_end() -> bool {
        true
    }
    pub fn forked() -> bool {
        true
    }
    pub fn publish(_state: *mut u32) {}
    pub fn idle_was_written() {}
}

#[cfg(php_zts)]
mod threads {
    use std::cell::Cell;
    use std::ffi::c_void;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};

    use trace_layout::ActivityState;

    use crate::php;

    /// The owner: the address of its interpreter's memory, which is freed after it gave the tracer
    /// back. Null: nobody's.
    static OWNER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    /// Another thread than the owner has begun a request in this process.
    static OTHERS: AtomicBool = AtomicBool::new(false);
    /// The state in the trace file, which is mapped as long as this process lives.
    static STATE: AtomicPtr<u32> = AtomicPtr::new(ptr::null_mut());

    /// The process is the child of one in which another thread owned the tracer.
    static ORPHANED: AtomicBool = AtomicBool::new(false);

    thread_local! {
        static MINE: Cell<bool> = const { Cell::new(false) };
    }

    fn here() -> *mut c_void {
        // SAFETY: only asks for an address; null in a thread without an interpreter.
        unsafe { php::nbg_thread() }
    }

    /// Whether this thread owns the tracer.
    #[inline(always)]
    pub fn is_mine() -> bool {
        MINE.with(Cell::get)
    }

    /// Why this thread is not traced: what phpinfo() says.
    pub fn why_not() -> Option<&'static str> {
        if is_mine() {
            None
        } else if ORPHANED.load(Ordering::Relaxed) {
            Some("this process was forked by a thread that was not")
        } else {
            Some("another thread of this process is, until it ends")
        }
    }

    /// At the beginning of a request: takes the tracer if it is nobody's.
    pub fn claim() -> bool {
        let here = here();
        if here.is_null() {
            return false;
        }
        // Who gave it back has left it whole.
        let mine = match OWNER.compare_exchange(
            ptr::null_mut(),
            here,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => true,
            Err(owner) => owner == here,
        };
        MINE.with(|own| own.set(mine));
        if !mine {
            OTHERS.store(true, Ordering::SeqCst);
            not_idle();
        }
        mine
    }

    /// The interpreter of this thread ends: the next one may have the tracer.
    pub fn give_back() {
        let here = here();
        MINE.with(|own| own.set(false));
        if !here.is_null() {
            let _ =
                OWNER.compare_exchange(here, ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether the end of the process finds no other thread at work in the tracer.
    pub fn may_end() -> bool {
        is_mine() || OWNER.load(Ordering::Acquire).is_null()
    }

    /// In a child, which has this one thread alone. False: the owner was another, perhaps in the
    /// middle of a record; what it left is not touched, and nothing is traced in this child.
    pub fn forked() -> bool {
        OTHERS.store(false, Ordering::SeqCst);
        STATE.store(ptr::null_mut(), Ordering::SeqCst);
        let whole = may_end();
        ORPHANED.store(!whole, Ordering::Relaxed);
        whole
    }

    /// The owner has made the file: where its state is.
    pub fn publish(state: *mut u32) {
        STATE.store(state, Ordering::SeqCst);
    }

    /// The owner has written that it is idle. Either it sees here that there are others, or they
    /// see in [`claim`] what it wrote.
    pub fn idle_was_written() {
        fence(Ordering::SeqCst);
        if OTHERS.load(Ordering::SeqCst) {
            not_idle();
        }
    }

    fn not_idle() {
        fence(Ordering::SeqCst);
        let state = STATE.load(Ordering::SeqCst);
        if !state.is_null() {
            // SAFETY: an aligned number of the file's header, mapped as long as the process lives.
            // A reader finds the one state or the other; what else the stamp says holds for both.
            let _ = unsafe { AtomicU32::from_ptr(state) }.compare_exchange(
                ActivityState::Idle as u32,
                ActivityState::Unknown as u32,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
        }
    }
}
