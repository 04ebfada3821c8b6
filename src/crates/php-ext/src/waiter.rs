//! A thread that sleeps beside the interpreter, so that a request that runs for long notices the
//! switch: it asks the interpreter for an interrupt, which costs the call path nothing. It wakes
//! while a request runs, every [`LOOK_NS`], and at once when the tool wakes the futex that is the
//! switch's flags; while the process is idle it sleeps without end.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use trace_layout::switch::Entry;

/// How often it looks while a request runs.
const LOOK_NS: i64 = 1_000_000_000;
/// It needs next to none.
const STACK: usize = 32 * 1024;

/// What the thread knows. One of them, for the life of the process: the thread never ends.
pub struct Shared {
    entry: AtomicPtr<Entry>,
    interrupt: AtomicPtr<AtomicBool>,
    /// Held while the flag behind `interrupt` is set: it may go with its thread.
    setting: AtomicBool,
    busy: AtomicBool,
    requests: AtomicU32,
    /// It sleeps without end, and whoever begins a request wakes it.
    asleep: AtomicBool,
    /// Rises with each wake-up by us.
    wakes: AtomicU32,
    /// Something is to be looked at: the interrupt handler takes it.
    pending: AtomicBool,
    running: AtomicBool,
}

pub static SHARED: Shared = Shared {
    entry: AtomicPtr::new(ptr::null_mut()),
    interrupt: AtomicPtr::new(ptr::null_mut()),
    setting: AtomicBool::new(false),
    busy: AtomicBool::new(false),
    requests: AtomicU32::new(0),
    asleep: AtomicBool::new(false),
    wakes: AtomicU32::new(0),
    pending: AtomicBool::new(false),
    running: AtomicBool::new(false),
};

impl Shared {
    /// Starts the thread, once in a process. `entry` stays mapped until [`Shared::forked`].
    pub fn start(&'static self, entry: *const Entry) {
        self.entry.store(entry.cast_mut(), Ordering::Release);
        // SAFETY: the flag is a global of the interpreter, which outlives every request; that of a
        // thread is taken back before it goes (`let_go`).
        let flag = unsafe { crate::php::nbg_interrupt_flag() };
        self.interrupt.store(flag.cast(), Ordering::Release);
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: signals are blocked while the thread is made, so that it never takes one that
        // PHP waits for; then the mask is as it was. Not SIGBUS: a table that is cut short is a
        // fault of this thread, and one that is blocked ends the process past every handler. The
        // attributes are destroyed once.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigdelset(&raw mut all, libc::SIGBUS);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstacksize(&raw mut attributes, STACK);
            libc::pthread_attr_setdetachstate(&raw mut attributes, libc::PTHREAD_CREATE_DETACHED);
            let mut thread: libc::pthread_t = std::mem::zeroed();
            let made =
                libc::pthread_create(&raw mut thread, &raw const attributes, wait, ptr::null_mut());
            libc::pthread_attr_destroy(&raw mut attributes);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            self.running.store(made == 0, Ordering::Release);
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// A request begins.
    pub fn busy(&self) {
        self.busy.store(true, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            futex_wake(self.wakes.as_ptr(), true);
        }
    }

    /// It ends.
    pub fn idle(&self) {
        self.busy.store(false, Ordering::SeqCst);
        self.pending.store(false, Ordering::Relaxed);
    }

    /// In a child: the thread is the parent's. `traced`: the one that forked may go on here.
    pub fn forked(&self, traced: bool) {
        self.running.store(false, Ordering::Relaxed);
        self.asleep.store(false, Ordering::Relaxed);
        // Whoever held it is not here.
        self.setting.store(false, Ordering::Relaxed);
        self.entry.store(ptr::null_mut(), Ordering::Relaxed);
        if traced {
            self.interrupt();
        } else {
            self.interrupt.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// The interpreter's thread ends, and its flag with it.
    #[cfg(php_zts)]
    pub fn let_go(&self) {
        self.idle();
        self.lock();
        self.interrupt.store(ptr::null_mut(), Ordering::SeqCst);
        self.setting.store(false, Ordering::Release);
    }

    /// For as long as a load and a store take.
    fn lock(&self) {
        while self.setting.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// Asks the interpreter to come by.
    pub fn interrupt(&self) {
        self.pending.store(true, Ordering::SeqCst);
        self.lock();
        let flag = self.interrupt.load(Ordering::Acquire);
        if !flag.is_null() {
            // SAFETY: set by `start`, to a global that is there until `let_go` has had the lock.
            // Signal handlers of the interpreter set it the same way.
            unsafe { (*flag).store(true, Ordering::SeqCst) };
        }
        self.setting.store(false, Ordering::Release);
    }

    /// Whether something is to be looked at.
    pub fn take(&self) -> bool {
        self.pending.swap(false, Ordering::SeqCst)
    }
}

extern "C" fn wait(_: *mut libc::c_void) -> *mut libc::c_void {
    let shared = &SHARED;
    loop {
        let requests = shared.requests.load(Ordering::SeqCst);
        let entry = shared.entry.load(Ordering::Acquire);
        if entry.is_null() {
            let wakes = shared.wakes.load(Ordering::SeqCst);
            futex_wait(shared.wakes.as_ptr(), wakes, Some(LOOK_NS), true);
        } else {
            // SAFETY: the entry stays mapped as long as this thread runs.
            let flags = unsafe { &(*entry).flags };
            let before = flags.load(Ordering::Acquire);
            // The page is shared with the tool: its word is no private futex.
            futex_wait(flags.as_ptr(), before, Some(LOOK_NS), false);
        }
        if shared.busy.load(Ordering::SeqCst) {
            shared.interrupt();
        } else if shared.requests.load(Ordering::SeqCst) == requests {
            // Not one request in all that time. A worker that serves one after the other is not
            // made to wake us for each.
            let wakes = shared.wakes.load(Ordering::SeqCst);
            shared.asleep.store(true, Ordering::SeqCst);
            // Between the two a request may have begun without seeing that we sleep.
            if !shared.busy.load(Ordering::SeqCst) {
                futex_wait(shared.wakes.as_ptr(), wakes, None, true);
            }
            shared.asleep.store(false, Ordering::SeqCst);
        }
    }
}

const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;

fn futex_wait(word: *mut u32, value: u32, nanos: Option<i64>, private: bool) {
    let time = nanos.map(|nanos| libc::timespec {
        tv_sec: nanos / 1_000_000_000,
        tv_nsec: nanos % 1_000_000_000,
    });
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    let operation = libc::FUTEX_WAIT | if private { PRIVATE } else { 0 };
    // SAFETY: the word is mapped; the kernel reads it and the time.
    unsafe { libc::syscall(libc::SYS_futex, word, operation, value, time) };
}

fn futex_wake(word: *mut u32, private: bool) {
    let operation = libc::FUTEX_WAKE | if private { PRIVATE } else { 0 };
    // SAFETY: the word is mapped; the kernel uses its address only.
    unsafe { libc::syscall(libc::SYS_futex, word, operation, i32::MAX) };
}
