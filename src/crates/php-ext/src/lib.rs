//! The tracer of nbguard inside PHP: a record for each call while somebody listens, busy and idle
//! in any case, and nearly nothing for a call while nobody does.
//!
//! ```text
//! module start   settings, directories (root), the observer, the compilers (quiet.rs)
//! request start  the trace file (home.rs), busy, the switch, the thread that watches it (waiter.rs)
//! a call         begin, end: tracer.rs writes records, render.rs values; clock.rs tells the time
//!                and watch.rs what is watched
//! an interrupt   the switch again, the stack that was asked for, a child's own file
//! request end    idle; the observer is put away
//! thread end     in a thread-safe PHP the next thread may have the tracer (owner.rs)
//! ```
//!
//! Each function that PHP calls catches panics: a bug here switches the tracer off for the rest of
//! the process, and never takes the worker down.

mod clock;
mod fault;
mod home;
mod owner;
mod php;
mod quiet;
mod render;
mod settings;
mod tracer;
mod waiter;
mod watch;

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use ext_php_rs::builders::ModuleBuilder;
use ext_php_rs::ffi;
use ext_php_rs::zend::{ModuleEntry, StaticModuleEntry};
use ext_php_rs::{info_table_end, info_table_header, info_table_row, info_table_start};

use php::{Frame, is_internal};
use settings::Settings;
use tracer::{FORKED, ON, Tracer};

/// The process's: one, made when PHP starts.
static TRACER: AtomicPtr<Tracer> = AtomicPtr::new(ptr::null_mut());

fn tracer() -> *mut Tracer {
    TRACER.load(Ordering::Relaxed)
}

/// Does something with the tracer, if there is one and it is this thread's. No panic goes further
/// than this.
#[inline(always)]
fn with(what: impl FnOnce(&mut Tracer)) {
    if owner::is_mine() {
        with_any(what);
    }
}

/// The same, where it is known that nobody else is at it.
#[inline(always)]
fn with_any(what: impl FnOnce(&mut Tracer)) {
    let tracer = tracer();
    if tracer.is_null() {
        return;
    }
    let done = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made once, never freed, used by its owner alone (owner.rs); nothing in here calls
        // back into PHP code, so there is no second one.
        what(unsafe { &mut *tracer });
    }));
    if done.is_err() {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: as above; the first use is over.
            unsafe { (*tracer).broken() };
        }));
    }
}

unsafe extern "C" fn begin(frame: *mut Frame) {
    if ON.load(Ordering::Relaxed) {
        // SAFETY: PHP calls this with the frame that begins.
        with(|tracer| unsafe { tracer.enter(frame) });
    }
}

unsafe extern "C" fn end(frame: *mut Frame, returned: *mut ffi::zval) {
    if ON.load(Ordering::Relaxed) {
        // SAFETY: PHP calls this with the frame that ends, and what it returns.
        with(|tracer| unsafe { tracer.leave(frame, returned) });
    }
}

/// PHP asks once for each function of a request whether its calls are of interest.
unsafe extern "C" fn observe(frame: *mut Frame) -> ffi::zend_observer_fcall_handlers {
    let mut wanted = false;
    // SAFETY: PHP calls this with the frame that begins for the first time.
    with(|tracer| unsafe {
        let function = (*frame).func;
        wanted =
            quiet::may_observe(function) && (!is_internal(function) || tracer.wants_internal());
    });
    if wanted {
        ffi::zend_observer_fcall_handlers { begin: Some(begin), end: Some(end) }
    } else {
        ffi::zend_observer_fcall_handlers { begin: None, end: None }
    }
}

type Interrupt = unsafe extern "C" fn(*mut Frame);
static INTERRUPT_BEFORE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" fn interrupt(frame: *mut Frame) {
    // An interrupt of another thread is none of ours, and leaves what the owner was asked for.
    if owner::is_mine() && waiter::SHARED.take() {
        with(Tracer::interrupted);
    }
    let before = INTERRUPT_BEFORE.load(Ordering::Relaxed);
    if !before.is_null() {
        // SAFETY: what stood there before us, of this type.
        unsafe { std::mem::transmute::<*mut c_void, Interrupt>(before)(frame) };
    }
}

unsafe extern "C" fn fiber_switched(from: *mut c_void, to: *mut c_void) {
    if ON.load(Ordering::Relaxed) {
        with(|tracer| tracer.fiber_switched(from as usize, to as usize));
    }
}

unsafe extern "C" fn fiber_destroyed(fiber: *mut c_void) {
    if ON.load(Ordering::Relaxed) {
        with(|tracer| tracer.fiber_destroyed(fiber as usize));
    }
}

/// 8.1 does not observe its own functions: they are called through here.
#[cfg(not(internals_observed))]
mod internals {
    use super::*;

    type Execute = unsafe extern "C" fn(*mut Frame, *mut ffi::zval);
    unsafe extern "C" {
        static mut zend_execute_internal: Option<Execute>;
    }
    static BEFORE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

    pub fn hook() {
        // SAFETY: a global of the interpreter, while it starts.
        unsafe {
            if let Some(before) = zend_execute_internal {
                BEFORE.store(before as *mut c_void, Ordering::Relaxed);
            }
            zend_execute_internal = Some(execute);
        }
    }

    unsafe extern "C" fn execute(frame: *mut Frame, returned: *mut ffi::zval) {
        let mut wanted = false;
        if ON.load(Ordering::Relaxed) {
            with(|tracer| wanted = tracer.wants_internal());
        }
        // SAFETY: PHP calls this with a frame of one of its own functions.
        unsafe {
            if wanted {
                begin(frame);
            }
            let before = BEFORE.load(Ordering::Relaxed);
            if !before.is_null() {
                std::mem::transmute::<*mut c_void, Execute>(before)(frame, returned);
            } else if let Some(handler) = (*(*frame).func).internal_function.handler {
                handler(frame, returned);
            }
            if wanted {
                let thrown = !(*php::globals()).exception.is_null();
                end(frame, if thrown { ptr::null_mut() } else { returned });
            }
        }
    }
}

extern "C" fn in_child() {
    ON.store(false, Ordering::Relaxed);
    FORKED.store(true, Ordering::Release);
    waiter::SHARED.forked(owner::forked());
}

/// Keeps the library where it is: a thread of ours may sleep in it when PHP lets go of it.
fn pin() {
    // SAFETY: `dladdr` fills in what it is given; the library is open, and stays so.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(pin as *const () as *const c_void, &raw mut info) != 0 {
            libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}

extern "C" fn module_start(_: i32, module: i32) -> i32 {
    let _ = catch_unwind(|| {
        std::panic::set_hook(Box::new(|_| {}));
        settings::register(module);
        let settings = Settings::read();
        if !settings.enable {
            return;
        }
        pin();
        home::prepare(&settings.directory, &settings.users);
        let quiet = settings.quiet;
        TRACER.store(Box::into_raw(Box::new(Tracer::new(settings))), Ordering::Relaxed);
        // SAFETY: PHP is starting: the time to register observers and to put ourselves before
        // others. The handlers live as long as the library, which is never unloaded before them.
        unsafe {
            ffi::zend_observer_fcall_register(Some(observe));
            php::zend_observer_fiber_switch_register(fiber_switched);
            php::zend_observer_fiber_destroy_register(fiber_destroyed);
            if let Some(before) = ffi::zend_interrupt_function {
                INTERRUPT_BEFORE.store(before as *mut c_void, Ordering::Relaxed);
            }
            ffi::zend_interrupt_function = Some(interrupt);
            libc::pthread_atfork(None, None, Some(in_child));
        }
        #[cfg(not(internals_observed))]
        internals::hook();
        if quiet {
            quiet::startup();
        }
    });
    0
}

extern "C" fn module_end(_: i32, module: i32) -> i32 {
    if owner::may_end() {
        with_any(Tracer::ends);
    }
    settings::unregister(module);
    0
}

/// A thread's interpreter ends.
#[cfg(php_zts)]
unsafe extern "C" fn thread_end(_: *mut c_void) {
    with(Tracer::thread_ends);
    owner::give_back();
}

extern "C" fn request_start(_: i32, _: i32) -> i32 {
    if tracer().is_null() || !owner::claim() {
        return 0;
    }
    with(|tracer| {
        if tracer.ini.quiet {
            if let Err(why) = quiet::arm() {
                tracer.not_quiet = Some(why);
            }
        } else {
            tracer.not_quiet = Some("nbguard.quiet is off");
        }
        tracer.request_begins();
    });
    0
}

extern "C" fn request_end(_: i32, _: i32) -> i32 {
    with(Tracer::request_ends);
    0
}

extern "C" fn info(_: *mut ModuleEntry) {
    let mut rows = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    if tracer().is_null() {
        rows.push(("state", "nbguard.enable is off".into()));
    } else if let Some(why) = owner::why_not() {
        rows.push(("state", format!("not traced: {why}")));
    }
    with(|tracer| {
        rows.push(("state", tracer.state()));
        rows.push(("records", tracer.records().to_string()));
        let off = match tracer.not_quiet {
            None => "the observer is put away".to_owned(),
            Some(why) => format!("the observer stays in place: {why}"),
        };
        rows.push(("while switched off", off));
        let waits = if waiter::SHARED.is_running() { "yes" } else { "at its start only" };
        rows.push(("switch noticed within a request", waits.into()));
    });
    for name in settings::NAMES {
        rows.push((name, String::from_utf8_lossy(&php::ini(name)).into_owned()));
    }
    info_table_start!();
    info_table_header!("nbguard", "tracer for the guard of Docker hosts");
    for (name, value) in rows {
        info_table_row!(name, value.replace('\0', " "));
    }
    info_table_end!();
}

#[cfg(php_zts)]
static GLOBALS: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

/// What PHP calls when it loads the library.
#[unsafe(no_mangle)]
pub extern "C" fn get_module() -> *mut ModuleEntry {
    static MODULE: StaticModuleEntry = StaticModuleEntry::new();
    catch_unwind(|| {
        MODULE.get_or_init(|| {
            let builder = ModuleBuilder::new("nbguard", env!("CARGO_PKG_VERSION"))
                .startup_function(module_start)
                .shutdown_function(module_end)
                .request_startup_function(request_start)
                .request_shutdown_function(request_end)
                .info_function(info);
            match builder.try_into() {
                #[cfg(not(php_zts))]
                Ok((entry, _startup, owned)) => (entry, owned),
                // PHP tells of a thread's end those that have something of their own in it.
                #[cfg(php_zts)]
                Ok((mut entry, _startup, owned)) => {
                    entry.globals_size = 1;
                    entry.globals_id_ptr = GLOBALS.as_ptr();
                    entry.globals_dtor = Some(thread_end);
                    (entry, owned)
                }
                Err(error) => panic!("{error}"),
            }
        })
    })
    .unwrap_or(ptr::null_mut())
}
