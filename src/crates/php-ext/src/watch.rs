//! Watched variables: a global of the script by its name, or bytes at an address that the tool has
//! resolved from outside. Such an address may be wrong, and what lies there may change while it is
//! read: it is read as another process's memory would be, so that a wild one is an error and no
//! SIGSEGV, and nothing behind it is followed for long.

use core::ffi::c_void;
use core::fmt::Write as _;
use core::mem::offset_of;

use ext_php_rs::ffi;
use trace_layout::watch::{self, Kind, Line};

use crate::php;
use crate::render::{self, Pad, Redact, STRING_MAX, Text as _};

/// Watched variables of one process.
const MOST: usize = 16;
/// References and places of compiled variables that lead on to another value.
const LINKS_MAX: usize = 4;

#[derive(Debug)]
enum Place {
    Variable,
    Memory(u64, Kind),
}

#[derive(Debug)]
pub struct Watched {
    pub name: Vec<u8>,
    place: Place,
    last: Option<Vec<u8>>,
}

/// Why nothing can be shown.
#[derive(Clone, Copy, Debug)]
enum No {
    /// Nothing is mapped there.
    Unreadable,
    /// A filter of system calls has something against it.
    Denied,
}

/// The lines of a `.watch` file that are lines.
pub fn all_of(text: &[u8]) -> Vec<Watched> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(watch::parse);
    lines
        .take(MOST)
        .map(|line| {
            let (name, place) = match line {
                Line::Variable(name) => (name, Place::Variable),
                Line::Field { name, address, kind } => (name, Place::Memory(address, kind)),
            };
            Watched { name: name.as_bytes().to_vec(), place, last: None }
        })
        .collect()
}

impl Watched {
    /// Whether the value is another one than it was.
    pub fn has_changed(&mut self, redact: &Redact) -> bool {
        let mut pad = Pad::default();
        if redact.hides(&self.name) {
            // That it is not there is no secret.
            let held = matches!(self.place, Place::Memory(..)) || !self.variable().is_null();
            pad.values(if held { b"(redacted)" } else { b"(unset)" });
        } else {
            match self.place {
                Place::Variable => {
                    let held = self.variable();
                    if held.is_null() {
                        pad.values(b"(unset)");
                    } else {
                        // SAFETY: a value of the symbol table, which is only read.
                        unsafe { render::value(&mut pad, held, redact, 0) };
                    }
                }
                Place::Memory(address, kind) => match show(&mut pad, address, kind) {
                    Ok(()) => {}
                    Err(No::Unreadable) => drop(pad.values(b"(unreadable)")),
                    Err(No::Denied) => drop(pad.values(b"(process_vm_readv is not allowed)")),
                },
            }
        }
        if self.last.as_ref() == Some(&pad.0) {
            return false;
        }
        self.last = Some(pad.0);
        true
    }

    /// The value at the latest look.
    pub fn value(&self) -> &[u8] {
        self.last.as_deref().unwrap_or_default()
    }

    fn variable(&self) -> *mut ffi::zval {
        // SAFETY: the globals are valid while the interpreter runs; the name has its length.
        unsafe { php::nbg_global(self.name.as_ptr().cast(), self.name.len()) }
    }
}

/// This process's own memory: how many bytes there were, from the first on.
fn read(address: u64, into: &mut [u8]) -> Result<usize, No> {
    let own = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let there = libc::iovec {
        iov_base: core::ptr::without_provenance_mut::<c_void>(address as usize),
        iov_len: into.len(),
    };
    // SAFETY: the kernel writes at most what `into` holds, and looks itself whether `there` is
    // anywhere.
    let got = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const own, 1, &raw const there, 1, 0)
    };
    match usize::try_from(got) {
        Ok(got) if got > 0 => Ok(got),
        Ok(_) => Err(No::Unreadable),
        Err(_) => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Err(No::Denied),
            _ => Err(No::Unreadable),
        },
    }
}

fn bytes<const N: usize>(address: u64) -> Result<[u8; N], No> {
    let mut bytes = [0; N];
    if read(address, &mut bytes)? == N { Ok(bytes) } else { Err(No::Unreadable) }
}

fn word(address: u64) -> Result<u64, No> {
    bytes(address).map(u64::from_ne_bytes)
}

/// A field of something that is pointed to.
fn field(address: u64, offset: usize) -> u64 {
    address.wrapping_add(offset as u64)
}

fn show(pad: &mut Pad, at: u64, kind: Kind) -> Result<(), No> {
    let _ = match kind {
        Kind::Signed(1) => write!(pad, "{}", i8::from_ne_bytes(bytes(at)?)),
        Kind::Signed(2) => write!(pad, "{}", i16::from_ne_bytes(bytes(at)?)),
        Kind::Signed(4) => write!(pad, "{}", i32::from_ne_bytes(bytes(at)?)),
        Kind::Signed(_) => write!(pad, "{}", i64::from_ne_bytes(bytes(at)?)),
        Kind::Unsigned(1) => write!(pad, "{}", u8::from_ne_bytes(bytes(at)?)),
        Kind::Unsigned(2) => write!(pad, "{}", u16::from_ne_bytes(bytes(at)?)),
        Kind::Unsigned(4) => write!(pad, "{}", u32::from_ne_bytes(bytes(at)?)),
        Kind::Unsigned(_) => write!(pad, "{}", word(at)?),
        Kind::Bool => write!(pad, "{}", bytes::<1>(at)? != [0]),
        Kind::Pointer => write!(pad, "{:#x}", word(at)?),
        Kind::Float => {
            render::float(pad, f64::from_bits(word(at)?));
            Ok(())
        }
        Kind::CText => {
            match word(at)? {
                0 => drop(pad.values(b"null")),
                text => c_text(pad, text)?,
            }
            Ok(())
        }
        Kind::Text => {
            match word(at)? {
                0 => drop(pad.values(b"null")),
                text => string(pad, text)?,
            }
            Ok(())
        }
        Kind::Zval => return zval(pad, at),
    };
    Ok(())
}

fn c_text(pad: &mut Pad, at: u64) -> Result<(), No> {
    let mut text = [0; STRING_MAX + 1];
    let got = read(at, &mut text)?;
    let text = &text[..got];
    match text.iter().position(|byte| *byte == 0) {
        Some(end) => render::text(pad, &text[..end], Some(end)),
        None => render::text(pad, text, None),
    }
    Ok(())
}

fn string(pad: &mut Pad, at: u64) -> Result<(), No> {
    let len = word(field(at, offset_of!(ffi::zend_string, len)))? as usize;
    let mut text = [0; STRING_MAX + 1];
    let text = &mut text[..len.min(STRING_MAX + 1)];
    if !text.is_empty() && read(field(at, offset_of!(ffi::zend_string, val)), text)? < text.len() {
        return Err(No::Unreadable);
    }
    render::text(pad, text, Some(len));
    Ok(())
}

fn zval(pad: &mut Pad, mut at: u64) -> Result<(), No> {
    const INDIRECT: u32 = 12;
    for _ in 0..LINKS_MAX {
        let held = word(at)?;
        let [kind] = bytes::<1>(field(at, offset_of!(ffi::zval, u1)))?;
        let _ = match u32::from(kind) {
            ffi::IS_FALSE => pad.write_str("false"),
            ffi::IS_TRUE => pad.write_str("true"),
            ffi::IS_LONG => write!(pad, "{}", held.cast_signed()),
            ffi::IS_DOUBLE => {
                render::float(pad, f64::from_bits(held));
                Ok(())
            }
            ffi::IS_STRING => return string(pad, held),
            ffi::IS_ARRAY => {
                let count = bytes(field(held, offset_of!(ffi::zend_array, nNumOfElements)))?;
                write!(pad, "array({})", u32::from_ne_bytes(count))
            }
            ffi::IS_OBJECT => {
                let class = word(field(held, offset_of!(ffi::zend_object, ce)))?;
                let name = word(field(class, offset_of!(ffi::zend_class_entry, name)))?;
                pad.values(b"object ");
                return string(pad, name);
            }
            ffi::IS_RESOURCE => pad.write_str("resource"),
            ffi::IS_REFERENCE => {
                at = field(held, offset_of!(ffi::zend_reference, val));
                continue;
            }
            INDIRECT => {
                at = held;
                continue;
            }
            _ => pad.write_str("null"),
        };
        return Ok(());
    }
    pad.values(b"null");
    Ok(())
}
