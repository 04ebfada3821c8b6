//! What is read of the interpreter. Nothing here calls user code: no `__toString`, no property
//! hooks, no autoloading.

use core::ffi::{c_char, c_int, c_void};
use core::slice;

use ext_php_rs::ffi;

pub type Frame = ffi::zend_execute_data;
pub type Function = ffi::zend_function;

unsafe extern "C" {
    pub fn nbg_next(
        table: *mut ffi::HashTable,
        at: u32,
        number: *mut u64,
        key: *mut *mut ffi::zend_string,
        value: *mut *mut ffi::zval,
    ) -> u32;
    pub fn nbg_is_sensitive(function: *mut Function, argument: u32) -> bool;
    pub fn nbg_interrupt_flag() -> *mut c_void;
    #[cfg(php_zts)]
    pub fn nbg_thread() -> *mut c_void;
    pub fn nbg_version() -> u32;
    pub fn nbg_line(frame: *mut Frame) -> u32;
    pub fn nbg_include_kind(caller: *mut Frame) -> c_int;
    pub fn nbg_argument(frame: *mut Frame, n: u32) -> *mut ffi::zval;
    pub fn nbg_arguments(frame: *mut Frame) -> u32;
    pub fn nbg_parameter(function: *mut Function, n: u32, length: *mut usize) -> *const c_char;
    pub fn nbg_thrown(exception: *mut *mut ffi::zend_object) -> c_int;
    pub fn nbg_yields(frame: *mut Frame, returned: *mut ffi::zval) -> bool;
    pub fn nbg_message(exception: *mut ffi::zend_object) -> *mut ffi::zval;
    pub fn nbg_is_enum(object: *mut ffi::zend_object) -> bool;
    pub fn nbg_enum_case(object: *mut ffi::zend_object) -> *mut ffi::zval;
    pub fn nbg_property(
        object: *mut ffi::zend_object,
        n: u32,
        name: *mut *mut ffi::zend_string,
    ) -> *mut ffi::zval;
    pub fn nbg_global(name: *const c_char, length: usize) -> *mut ffi::zval;
    pub fn nbg_script() -> *const c_char;
    pub fn nbg_uri() -> *const c_char;

    pub fn zend_memory_usage(real: bool) -> usize;
    pub fn zend_memory_peak_usage(real: bool) -> usize;
    pub fn zend_ini_string_ex(
        name: *const c_char,
        length: usize,
        orig: c_int,
        exists: *mut bool,
    ) -> *const c_char;
    pub fn zend_unregister_ini_entries(module: c_int);
    pub fn zend_ini_long(name: *const c_char, length: usize, orig: c_int) -> i64;

    pub fn zend_observer_fiber_switch_register(
        handler: unsafe extern "C" fn(*mut c_void, *mut c_void),
    );
    pub fn zend_observer_fiber_destroy_register(handler: unsafe extern "C" fn(*mut c_void));
}

/// The bytes of an interpreter's string; empty for none.
///
/// # Safety
/// `string` is null or a valid string that outlives what is returned.
#[inline]
pub unsafe fn bytes<'t>(string: *const ffi::zend_string) -> &'t [u8] {
    if string.is_null() {
        return &[];
    }
    // SAFETY: a valid string has `len` bytes at `val`.
    unsafe { slice::from_raw_parts((&raw const (*string).val).cast::<u8>(), (*string).len) }
}

/// The bytes of a C string; empty for none.
///
/// # Safety
/// `text` is null or ends with a NUL, and outlives what is returned.
pub unsafe fn c_bytes<'t>(text: *const c_char) -> &'t [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: as the caller promised.
    unsafe { core::ffi::CStr::from_ptr(text) }.to_bytes()
}

/// Whether the function is the interpreter's own.
///
/// # Safety
/// `function` is valid.
#[inline]
pub unsafe fn is_internal(function: *const Function) -> bool {
    // SAFETY: the type is the first byte of every kind of function.
    unsafe { u32::from((*function).type_) == ffi::ZEND_INTERNAL_FUNCTION }
}

/// Class and name of a function. A file's own code has no name.
///
/// # Safety
/// `function` is valid and outlives what is returned.
#[inline]
pub unsafe fn names<'t>(function: *const Function) -> (&'t [u8], &'t [u8]) {
    // SAFETY: the common part is that of every kind of function.
    unsafe {
        let common = &(*function).common;
        let class: &[u8] = if common.scope.is_null() { &[] } else { bytes((*common.scope).name) };
        (class, bytes(common.function_name))
    }
}

/// The file of a user function.
///
/// # Safety
/// `function` is a valid user function and outlives what is returned.
#[inline]
pub unsafe fn file<'t>(function: *const Function) -> &'t [u8] {
    // SAFETY: user functions are op arrays.
    unsafe { bytes((*function).op_array.filename) }
}

/// The nearest frame of PHP code at or above `frame`, null when there is none.
///
/// # Safety
/// `frame` is null or a valid frame.
#[inline]
pub unsafe fn user_frame(mut frame: *mut Frame) -> *mut Frame {
    // SAFETY: frames are linked to valid frames; a frame without a function is the
    // interpreter's own mark.
    unsafe {
        while !frame.is_null() && ((*frame).func.is_null() || is_internal((*frame).func)) {
            frame = (*frame).prev_execute_data;
        }
    }
    frame
}

/// A setting of php.ini.
pub fn ini(name: &str) -> Vec<u8> {
    // SAFETY: the name has its length; the answer is a C string that is copied at once.
    unsafe {
        let mut exists = false;
        c_bytes(zend_ini_string_ex(name.as_ptr().cast(), name.len(), 0, &raw mut exists)).to_vec()
    }
}

pub fn ini_number(name: &str) -> i64 {
    // SAFETY: the name has its length.
    unsafe { zend_ini_long(name.as_ptr().cast(), name.len(), 0) }
}

pub fn memory() -> usize {
    // SAFETY: reads two numbers of the memory manager.
    unsafe { zend_memory_usage(false) }
}

pub fn current_frame() -> *mut Frame {
    // SAFETY: the globals of this thread live as long as it does.
    unsafe { (*globals()).current_execute_data }
}

/// The executor's globals of this thread.
pub fn globals() -> *mut ffi::zend_executor_globals {
    #[cfg(not(php_zts))]
    return &raw mut ffi::executor_globals;
    #[cfg(php_zts)]
    // SAFETY: gives the address of this thread's globals.
    return unsafe { ffi::ext_php_rs_executor_globals() };
}
