//! Values as text, bounded in length, depth and number. Nothing of the script runs for it: objects
//! are read where they lie, as `var_dump` would not.

use core::fmt::Write;

use ext_php_rs::ffi;
use trace_layout::Slot;

use crate::php::{self, Frame, bytes};

/// Of a string; how long it is follows when it was longer.
pub const STRING_MAX: usize = 64;
/// Elements of one array, properties of one object.
const ELEMENTS_MAX: u32 = 8;
/// Arrays in arrays. An array that holds itself ends here, too.
const DEPTH_MAX: u32 = 3;
const ARGUMENTS_MAX: u32 = 16;

const REDACTED: &[u8] = b"(redacted)";

/// Where a value is written to: a record, or a scratch pad of the same kind.
pub trait Text: Write {
    /// False: it is full.
    fn values(&mut self, piece: &[u8]) -> bool;
    fn room(&self) -> usize;
}

impl Text for Slot<'_> {
    #[inline]
    fn values(&mut self, piece: &[u8]) -> bool {
        Slot::values(self, piece)
    }

    #[inline]
    fn room(&self) -> usize {
        Slot::room(self)
    }
}

/// A value that may turn out not to be worth a record.
#[derive(Debug, Default)]
pub struct Pad(pub Vec<u8>);

/// What a watched variable's record holds at most.
const PAD_MAX: usize = 256;

impl Text for Pad {
    fn values(&mut self, piece: &[u8]) -> bool {
        let room = self.room();
        self.0.extend_from_slice(&piece[..piece.len().min(room)]);
        piece.len() <= room
    }

    fn room(&self) -> usize {
        PAD_MAX.saturating_sub(self.0.len())
    }
}

impl Write for Pad {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if self.values(text.as_bytes()) { Ok(()) } else { Err(core::fmt::Error) }
    }
}

/// Names whose values are nobody's business: globs of `*`, without regard to case.
#[derive(Debug, Default)]
pub struct Redact(Vec<Vec<u8>>);

impl Redact {
    pub fn new(setting: &[u8]) -> Redact {
        let globs = setting.split(|byte| matches!(byte, b',' | b' ' | b'\t'));
        Redact(globs.filter(|glob| !glob.is_empty()).map(<[u8]>::to_ascii_lowercase).collect())
    }

    pub fn hides(&self, name: &[u8]) -> bool {
        self.0.iter().any(|glob| matches(glob, name))
    }
}

/// Whether a glob matches a name. Linear: after a `*` only the latest one is tried again.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if glob.get(g) == Some(&b'*') {
            star = Some((g, n));
            g += 1;
        } else if glob.get(g) == Some(&name[n].to_ascii_lowercase()) {
            g += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            g = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

/// The parameters of a call: `$a = 1, $b = "x"`.
///
/// # Safety
/// `frame` is a call that just begins.
pub unsafe fn parameters(slot: &mut impl Text, frame: *mut Frame, redact: &Redact) {
    // SAFETY: the frame and its function are valid while the call begins.
    unsafe {
        let function = (*frame).func;
        let count = php::nbg_arguments(frame);
        for n in 0..count.min(ARGUMENTS_MAX) {
            if n > 0 {
                slot.values(b", ");
            }
            let mut length = 0;
            let name = php::nbg_parameter(function, n, &raw mut length);
            let name: &[u8] =
                if name.is_null() { &[] } else { core::slice::from_raw_parts(name.cast(), length) };
            if !name.is_empty() {
                slot.values(b"$");
                slot.values(name);
                slot.values(b" = ");
            }
            if redact.hides(name) || php::nbg_is_sensitive(function, n) {
                slot.values(REDACTED);
            } else {
                value(slot, php::nbg_argument(frame, n), redact, 0);
            }
            if slot.room() == 0 {
                return;
            }
        }
        if count > ARGUMENTS_MAX {
            let _ = write!(slot, ", ...{} more", count - ARGUMENTS_MAX);
        }
    }
}

/// One value.
///
/// # Safety
/// `zval` is null or a valid value.
pub unsafe fn value(slot: &mut impl Text, zval: *const ffi::zval, redact: &Redact, depth: u32) {
    if zval.is_null() {
        slot.values(b"null");
        return;
    }
    // SAFETY: the type tells which member of the union is the valid one.
    unsafe {
        let held = &(*zval).value;
        match u32::from((*zval).u1.v.type_) {
            ffi::IS_UNDEF | ffi::IS_NULL => drop(slot.values(b"null")),
            ffi::IS_FALSE => drop(slot.values(b"false")),
            ffi::IS_TRUE => drop(slot.values(b"true")),
            ffi::IS_LONG => drop(write!(slot, "{}", held.lval)),
            ffi::IS_DOUBLE => float(slot, held.dval),
            ffi::IS_STRING => string(slot, bytes(held.str_)),
            ffi::IS_ARRAY => array(slot, held.arr, redact, depth),
            ffi::IS_OBJECT => object(slot, held.obj, redact, depth),
            ffi::IS_RESOURCE => drop(write!(slot, "resource({})", (*held.res).handle)),
            // A reference holds no further one: this ends.
            ffi::IS_REFERENCE => value(slot, &raw const (*held.ref_).val, redact, depth),
            other => drop(write!(slot, "(type {other})")),
        }
    }
}

pub fn float(slot: &mut impl Text, number: f64) {
    let size = number.abs();
    let _ = if number.is_nan() {
        write!(slot, "NAN")
    } else if number.is_infinite() {
        write!(slot, "{}INF", if number < 0.0 { "-" } else { "" })
    } else if size != 0.0 && !(1e-5..1e15).contains(&size) {
        write!(slot, "{number:e}")
    } else {
        write!(slot, "{number:?}")
    };
}

fn string(slot: &mut impl Text, text: &[u8]) {
    self::text(slot, text, Some(text.len()));
}

/// The same of a text whose first bytes are here, one more than are shown, and which has `len`;
/// `None`: nobody knows how many.
pub fn text(slot: &mut impl Text, text: &[u8], len: Option<usize>) {
    let mut end = text.len().min(STRING_MAX);
    // Not in the middle of a character of UTF-8.
    while end < text.len() && end + 3 > STRING_MAX && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    slot.values(b"\"");
    let mut plain = 0;
    for (at, byte) in text[..end].iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 | 0x7f => b"",
            _ => continue,
        };
        slot.values(&text[plain..at]);
        if escape.is_empty() {
            let _ = write!(slot, "\\x{byte:02x}");
        } else {
            slot.values(escape);
        }
        plain = at + 1;
    }
    slot.values(&text[plain..end]);
    slot.values(b"\"");
    match len {
        Some(len) if end < len => drop(write!(slot, "...({len} bytes)")),
        Some(_) => {}
        None => drop(slot.values(b"...")),
    }
}

/// # Safety
/// `table` is a valid table.
unsafe fn elements(slot: &mut impl Text, table: *mut ffi::HashTable, redact: &Redact, depth: u32) {
    let (mut at, mut shown) = (0, 0);
    let (mut number, mut key, mut held) = (0u64, core::ptr::null_mut(), core::ptr::null_mut());
    let mut expected = 0;
    // SAFETY: the table is valid, and what `nbg_next` gives lies in it.
    unsafe {
        loop {
            at = php::nbg_next(table, at, &raw mut number, &raw mut key, &raw mut held);
            if at == u32::MAX || slot.room() == 0 {
                return;
            }
            if shown > 0 {
                slot.values(b", ");
            }
            if shown == ELEMENTS_MAX {
                let count = (*table).nNumOfElements.saturating_sub(shown);
                let _ = write!(slot, "...{count} more");
                return;
            }
            shown += 1;
            let mut hidden = false;
            if key.is_null() {
                if number != expected {
                    let _ = write!(slot, "{} => ", number as i64);
                }
                expected = number.wrapping_add(1);
            } else {
                string(slot, bytes(key));
                slot.values(b" => ");
                hidden = redact.hides(bytes(key));
            }
            if hidden {
                slot.values(REDACTED);
            } else {
                value(slot, held, redact, depth + 1);
            }
        }
    }
}

/// # Safety
/// `table` is a valid array.
unsafe fn array(slot: &mut impl Text, table: *mut ffi::HashTable, redact: &Redact, depth: u32) {
    // SAFETY: the array is valid.
    unsafe {
        let count = (*table).nNumOfElements;
        if depth >= DEPTH_MAX && count > 0 {
            let _ = write!(slot, "[...{count}]");
            return;
        }
        slot.values(b"[");
        elements(slot, table, redact, depth);
        slot.values(b"]");
    }
}

/// # Safety
/// `object` is a valid object.
unsafe fn object(slot: &mut impl Text, object: *mut ffi::zend_object, redact: &Redact, depth: u32) {
    // SAFETY: the object is valid; declared properties lie behind it, others in its table.
    unsafe {
        let class = (*object).ce;
        if class.is_null() {
            slot.values(b"object");
            return;
        }
        slot.values(bytes((*class).name).split(|byte| *byte == 0).next().unwrap_or_default());
        if php::nbg_is_enum(object) {
            let case = php::nbg_enum_case(object);
            if u32::from((*case).u1.v.type_) == ffi::IS_STRING {
                slot.values(b"::");
                slot.values(bytes((*case).value.str_));
            }
            return;
        }
        let _ = write!(slot, "#{}", (*object).handle);
        // What is inside an object inside tells little and costs much.
        if depth >= 1 {
            return;
        }
        let table = (*object).properties;
        let declared = (*class).default_properties_count;
        if declared == 0 && (table.is_null() || (*table).nNumOfElements == 0) {
            return;
        }
        slot.values(b" {");
        let mut shown = 0;
        for n in 0..declared.max(0) as u32 {
            if slot.room() == 0 {
                return;
            }
            let mut name = core::ptr::null_mut();
            let held = php::nbg_property(object, n, &raw mut name);
            if held.is_null() || u32::from((*held).u1.v.type_) == ffi::IS_UNDEF {
                continue;
            }
            if shown > 0 {
                slot.values(b", ");
            }
            if shown == ELEMENTS_MAX {
                slot.values(b"...");
                break;
            }
            shown += 1;
            // "\0Class\0name" of what is private, "\0*\0name" of what is protected.
            let name = bytes(name).rsplit(|byte| *byte == 0).next().unwrap_or_default();
            slot.values(name);
            slot.values(b": ");
            if redact.hides(name) {
                slot.values(REDACTED);
            } else {
                value(slot, held, redact, depth + 1);
            }
        }
        if declared == 0 && !table.is_null() {
            elements(slot, table, redact, depth);
        }
        slot.values(b"}");
    }
}
