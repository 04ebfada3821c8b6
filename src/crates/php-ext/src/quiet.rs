//! Nothing at all for a call while nobody listens. An interpreter with an observer compiles each
//! function with opcodes that call it, which costs 8 ns a call even with nothing to do: a whole
//! application runs 6 to 7 % slower (measured, README). So the observer is registered, and all code
//! is compiled for it; then the opcodes of calls and returns are set to their plain form, and the
//! observer's handle is put away. When the switch goes on, both are set back.
//!
//! What makes that sound, checked on PHP 8.2 (`build.rs` keeps this file to it):
//! * both forms of an opcode do the same but for the observer, and are looked up by the
//!   interpreter's own `zend_vm_set_opcode_handler`; a pointer is written, in one piece;
//! * code compiled for the observer has room in each frame for its bookkeeping. Only functions with
//!   our mark, set where they were compiled under the observer, are ever observed;
//! * opcache shares opcodes between workers. One that is not traced runs the observer's form with
//!   the handle put away, which does nothing; it costs it a few nanoseconds while another is traced;
//! * the handle is put away only while no observed call is open.
//!
//! Where something of this does not hold (JIT, another observer, protected memory, another PHP), the
//! observer stays in place, and `phpinfo()` says so.

#[cfg(not(quiet))]
pub use absent::*;
#[cfg(quiet)]
pub use present::*;

#[cfg(not(quiet))]
mod absent {
    use crate::php::Function;

    pub fn startup() {}
    pub fn arm() -> Result<(), &'static str> {
        Err("this PHP is not one for which it was tried")
    }
    pub fn wake() {}
    pub fn rest() {}
    pub fn interrupt(_on: bool) {}
    /// # Safety
    /// None is needed here.
    pub unsafe fn may_observe(_function: *const Function) -> bool {
        true
    }
}

#[cfg(quiet)]
mod present {
    use core::ffi::{c_char, c_int, c_void};
    use core::ptr;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

    use ext_php_rs::ffi;

    use crate::php::{self, Function, is_internal};

    type Code = ffi::zend_op_array;
    type CompileFile = unsafe extern "C" fn(*mut c_void, c_int) -> *mut Code;
    type CompileString =
        unsafe extern "C" fn(*mut ffi::zend_string, *const c_char, c_int) -> *mut Code;

    unsafe extern "C" {
        static mut zend_observer_fcall_op_array_extension: c_int;
        #[link_name = "zend_compile_file"]
        static mut COMPILE_FILE: Option<CompileFile>;
        #[link_name = "zend_compile_string"]
        static mut COMPILE_STRING: Option<CompileString>;
        fn zend_vm_set_opcode_handler(opcode: *mut ffi::zend_op);
        fn nbg_observers() -> c_int;
        fn nbg_closure(handle: u32) -> *mut Function;
        fn nbg_objects() -> u32;
        fn zend_get_resource_handle(name: *const c_char) -> c_int;
    }

    /// Opcodes with a form for the observer (zend_vm_def.h, SPEC(OBSERVER)). RETURN and the like
    /// are in every function, or it never returns.
    const RETURN: u8 = 62;
    const RETURN_BY_REF: u8 = 111;
    const GENERATOR_RETURN: u8 = 161;
    const INCLUDE_OR_EVAL: u8 = 73;
    const DO_FCALL: u8 = 60;
    const DO_ICALL: u8 = 129;
    const DO_UCALL: u8 = 130;
    const DO_FCALL_BY_NAME: u8 = 131;

    const fn has_two_forms(opcode: u8) -> bool {
        matches!(
            opcode,
            RETURN
                | RETURN_BY_REF
                | GENERATOR_RETURN
                | INCLUDE_OR_EVAL
                | DO_FCALL
                | DO_ICALL
                | DO_UCALL
                | DO_FCALL_BY_NAME
        )
    }

    /// Functions in functions in functions: closures of closures.
    const NESTED_MAX: u32 = 16;
    const PUT_AWAY: c_int = -1;
    /// ZEND_USER_CLASS.
    const USER_CLASS: u8 = 2;
    /// What marks a function that was compiled under the observer.
    const MARK: usize = 0x6e62_6764;

    static HANDLE: AtomicI32 = AtomicI32::new(PUT_AWAY);
    static SLOT: AtomicI32 = AtomicI32::new(-1);
    static QUIET: AtomicBool = AtomicBool::new(false);
    static ARMED: AtomicBool = AtomicBool::new(false);
    /// The observer is in place for calls to be recorded.
    static AWAKE: AtomicBool = AtomicBool::new(false);
    /// Compilations under way, one inside the other.
    static COMPILING: AtomicU32 = AtomicU32::new(0);
    static INNER_FILE: AtomicUsize = AtomicUsize::new(0);
    static INNER_STRING: AtomicUsize = AtomicUsize::new(0);
    static OUTER_FILE: AtomicUsize = AtomicUsize::new(0);

    fn set_handle(handle: c_int) {
        // SAFETY: a global of the interpreter, whose one thread this is.
        unsafe { zend_observer_fcall_op_array_extension = handle };
    }

    /// At module start: before opcache puts its own compiler before the interpreter's.
    pub fn startup() {
        // SAFETY: globals of the interpreter, while it starts; a name that ends with a NUL.
        unsafe {
            SLOT.store(zend_get_resource_handle(c"nbguard".as_ptr()), Ordering::Relaxed);
            if let Some(compile) = COMPILE_FILE {
                INNER_FILE.store(compile as usize, Ordering::Relaxed);
                COMPILE_FILE = Some(inner_file);
            }
            if let Some(compile) = COMPILE_STRING {
                INNER_STRING.store(compile as usize, Ordering::Relaxed);
                COMPILE_STRING = Some(inner_string);
            }
        }
    }

    /// At the first request: whether the observer can be put away at all.
    pub fn arm() -> Result<(), &'static str> {
        if ARMED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: globals of the interpreter, whose one thread this is.
        unsafe {
            let handle = zend_observer_fcall_op_array_extension;
            if handle < 0 || SLOT.load(Ordering::Relaxed) < 0 {
                return Err("the observer has no handle");
            }
            if nbg_observers() != 1 {
                return Err("another extension observes calls");
            }
            if php::ini_number("opcache.jit_buffer_size") > 0 {
                return Err("opcache's JIT is on");
            }
            if php::ini_number("opcache.protect_memory") != 0
                || php::ini_number("opcache.consistency_checks") != 0
            {
                return Err("opcache guards its memory");
            }
            HANDLE.store(handle, Ordering::Relaxed);
            if COMPILE_FILE
                .is_some_and(|compile| compile as usize != inner_file as *const () as usize)
            {
                OUTER_FILE.store(COMPILE_FILE.map_or(0, |f| f as usize), Ordering::Relaxed);
                COMPILE_FILE = Some(outer_file);
            }
            QUIET.store(true, Ordering::Relaxed);
            set_handle(PUT_AWAY);
            // What was compiled before: preloaded code.
            tune_everything();
        }
        Ok(())
    }

    fn is_quiet() -> bool {
        QUIET.load(Ordering::Relaxed)
    }

    /// The switch went on.
    pub fn wake() {
        if !is_quiet() || AWAKE.swap(true, Ordering::Relaxed) {
            return;
        }
        set_handle(HANDLE.load(Ordering::Relaxed));
        // SAFETY: at an interrupt or between requests: the interpreter is at rest.
        unsafe { tune_everything() };
    }

    /// At the end of a request, when no call is open.
    pub fn rest() {
        if !is_quiet() {
            return;
        }
        COMPILING.store(0, Ordering::Relaxed);
        set_handle(PUT_AWAY);
        if AWAKE.swap(false, Ordering::Relaxed) {
            // SAFETY: as in `wake`.
            unsafe { tune_everything() };
        }
    }

    /// At an interrupt. `opcache_compile_file()` goes past us and leaves the handle in place.
    pub fn interrupt(on: bool) {
        if is_quiet()
            && !on
            && !AWAKE.load(Ordering::Relaxed)
            && COMPILING.load(Ordering::Relaxed) == 0
        {
            set_handle(PUT_AWAY);
        }
    }

    /// Whether a call of this function may be observed.
    ///
    /// # Safety
    /// `function` is valid.
    pub unsafe fn may_observe(function: *const Function) -> bool {
        if !is_quiet() {
            return true;
        }
        // SAFETY: as promised; the slot is one that the interpreter gave to us.
        unsafe {
            if !AWAKE.load(Ordering::Relaxed) {
                return false;
            }
            if is_internal(function) {
                // Made while the handle was put away: no room for the bookkeeping.
                return (*function).internal_function.T > 0;
            }
            let slot = SLOT.load(Ordering::Relaxed) as usize;
            (*function).op_array.reserved[slot] as usize == MARK
        }
    }

    /// Where the tables of functions and classes ended before something was compiled.
    #[derive(Clone, Copy)]
    struct Before(u32, u32);

    unsafe fn before() -> Before {
        // SAFETY: the tables live as long as the interpreter.
        unsafe {
            let globals = php::globals();
            Before((*(*globals).function_table).nNumUsed, (*(*globals).class_table).nNumUsed)
        }
    }

    /// Calls `visit` for everything compiled since.
    unsafe fn since(before: Before, main: *mut Code, visit: &mut dyn FnMut(*mut Code)) {
        // SAFETY: tables hold valid functions and classes; `main` is null or valid.
        unsafe {
            let globals = php::globals();
            if !main.is_null() {
                nested(main, 0, visit);
            }
            functions((*globals).function_table, before.0, None, visit);
            let classes = (*globals).class_table;
            let (mut at, mut number) = (before.1, 0);
            let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
            loop {
                at = php::nbg_next(classes, at, &raw mut number, &raw mut key, &raw mut value);
                if at == u32::MAX {
                    break;
                }
                // An alias stands there as well; a class twice is a class once more.
                let class = (*value).value.ce;
                if !class.is_null() && (*class).type_ as u8 == USER_CLASS {
                    functions(&raw mut (*class).function_table, 0, Some(class), visit);
                }
            }
        }
    }

    unsafe fn functions(
        table: *mut ffi::HashTable,
        from: u32,
        class: Option<*mut ffi::zend_class_entry>,
        visit: &mut dyn FnMut(*mut Code),
    ) {
        let (mut at, mut number) = (from, 0);
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: as in `since`.
        unsafe {
            loop {
                at = php::nbg_next(table, at, &raw mut number, &raw mut key, &raw mut value);
                if at == u32::MAX {
                    return;
                }
                let function = (*value).value.func;
                // An inherited method is its parent's, and visited there.
                if !function.is_null()
                    && !is_internal(function)
                    && class.is_none_or(|class| (*function).common.scope == class)
                {
                    nested(&raw mut (*function).op_array, 0, visit);
                }
            }
        }
    }

    unsafe fn nested(code: *mut Code, depth: u32, visit: &mut dyn FnMut(*mut Code)) {
        visit(code);
        // SAFETY: as many definitions as the count says.
        unsafe {
            if depth < NESTED_MAX && !(*code).dynamic_func_defs.is_null() {
                for n in 0..(*code).num_dynamic_func_defs as usize {
                    nested(*(*code).dynamic_func_defs.add(n), depth + 1, visit);
                }
            }
        }
    }

    /// Sets the opcodes of one function to the form that the handle asks for just now.
    unsafe fn tune(code: *mut Code) {
        // SAFETY: as many opcodes as `last` says, in memory that may be written (`arm`).
        unsafe {
            let mut asked = false;
            for n in 0..(*code).last as usize {
                let opcode = (*code).opcodes.add(n);
                if !has_two_forms((*opcode).opcode) {
                    continue;
                }
                if !asked {
                    asked = true;
                    let mut copy = *opcode;
                    zend_vm_set_opcode_handler(&raw mut copy);
                    // As this one is, so are the others.
                    if copy.handler == (*opcode).handler {
                        return;
                    }
                }
                zend_vm_set_opcode_handler(opcode);
            }
        }
    }

    unsafe fn tune_everything() {
        // SAFETY: frames, closures and tables are valid while the interpreter is at rest.
        unsafe {
            since(Before(0, 0), ptr::null_mut(), &mut |code| tune(code));
            let mut frame = php::current_frame();
            while !frame.is_null() {
                let function = (*frame).func;
                if !function.is_null() && !is_internal(function) {
                    nested(&raw mut (*function).op_array, 0, &mut |code| tune(code));
                }
                frame = (*frame).prev_execute_data;
            }
            for handle in 1..nbg_objects() {
                let function = nbg_closure(handle);
                if !function.is_null() && !is_internal(function) {
                    nested(&raw mut (*function).op_array, 0, &mut |code| tune(code));
                }
            }
        }
    }

    unsafe fn mark(before: Before, main: *mut Code) {
        let slot = SLOT.load(Ordering::Relaxed) as usize;
        // SAFETY: what was just compiled is ours to mark: the slot was given to us.
        unsafe {
            since(before, main, &mut |code| {
                (*code).reserved[slot] = ptr::without_provenance_mut(MARK);
            });
        }
    }

    fn settle(before: Before, main: *mut Code) {
        if !AWAKE.load(Ordering::Relaxed) {
            set_handle(PUT_AWAY);
        }
        // SAFETY: what was just compiled, or loaded from opcache.
        unsafe { since(before, main, &mut |code| tune(code)) };
    }

    // A compilation that fails jumps over these with longjmp: nothing in them needs a drop, and
    // `rest` sets the count right. None of it can panic.

    unsafe extern "C" fn inner_file(file: *mut c_void, kind: c_int) -> *mut Code {
        // SAFETY: what `startup` found there.
        unsafe {
            let compile: CompileFile = core::mem::transmute(INNER_FILE.load(Ordering::Relaxed));
            let before = before();
            if is_quiet() {
                set_handle(HANDLE.load(Ordering::Relaxed));
            }
            let code = compile(file, kind);
            mark(before, code);
            if is_quiet() && COMPILING.load(Ordering::Relaxed) == 0 {
                if OUTER_FILE.load(Ordering::Relaxed) == 0 {
                    settle(before, code);
                } else {
                    // opcache was called past us, and is not done with this code: it needs the
                    // handle until it is.
                    crate::waiter::SHARED.interrupt();
                }
            }
            code
        }
    }

    unsafe extern "C" fn inner_string(
        source: *mut ffi::zend_string,
        name: *const c_char,
        position: c_int,
    ) -> *mut Code {
        // SAFETY: what `startup` found there.
        unsafe {
            let compile: CompileString = core::mem::transmute(INNER_STRING.load(Ordering::Relaxed));
            let before = before();
            if is_quiet() {
                set_handle(HANDLE.load(Ordering::Relaxed));
            }
            let code = compile(source, name, position);
            mark(before, code);
            if is_quiet() && COMPILING.load(Ordering::Relaxed) == 0 {
                settle(before, code);
            }
            code
        }
    }

    unsafe extern "C" fn outer_file(file: *mut c_void, kind: c_int) -> *mut Code {
        // SAFETY: what `arm` found there.
        unsafe {
            let compile: CompileFile = core::mem::transmute(OUTER_FILE.load(Ordering::Relaxed));
            let before = before();
            COMPILING.fetch_add(1, Ordering::Relaxed);
            set_handle(HANDLE.load(Ordering::Relaxed));
            let code = compile(file, kind);
            if COMPILING.fetch_sub(1, Ordering::Relaxed) == 1 {
                settle(before, code);
            }
            code
        }
    }
}
