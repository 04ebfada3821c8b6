//! Watched variables: how they are named on the command line, and how their values are read.
//! `memory` and the like, `$name` for one of PHP's own global variables, or
//! `NAME=global+offset:type` for any field of any global of the interpreter.

use std::fmt;

use serde_json::Value;
use trace_layout::watch::KINDS;
pub use trace_layout::watch::Kind;

use crate::report::stack::bounded;
use crate::trace::php::layout::same::{array, executor, object, reference};
use crate::trace::php::walk::{Globals, Sample, c_pointer, memory, shown, string};
use crate::trace::remote::{Pages, RemoteMemory, Trouble};

/// What can be watched by name alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Memory,
    Peak,
    Script,
    Uri,
    Depth,
    IncludedFiles,
    ErrorReporting,
}

impl Known {
    pub const ALL: [(Known, &'static str); 7] = [
        (Known::Memory, "memory"),
        (Known::Peak, "peak"),
        (Known::Script, "script"),
        (Known::Uri, "uri"),
        (Known::Depth, "depth"),
        (Known::IncludedFiles, "included_files"),
        (Known::ErrorReporting, "error_reporting"),
    ];
}

/// One `--watch`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Watch {
    Known(Known),
    /// A global variable of the script, without its `$`.
    Variable(String),
    Field {
        name: String,
        global: String,
        offset: u64,
        kind: Kind,
    },
}

/// Longer ones are no names of C, nor of anybody's variable.
const NAME_MAX: usize = 64;
/// The largest structure of PHP's globals has a few KiB.
const OFFSET_MAX: u64 = 1 << 20;

impl Watch {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Watch, String> {
        if let Some(variable) = text.strip_prefix('$') {
            return match is_name(variable) {
                true => Ok(Watch::Variable(variable.to_owned())),
                false => Err(format!("`{text}` is no variable")),
            };
        }
        let Some((name, field)) = text.split_once('=') else {
            let known = Known::ALL.into_iter().find(|(_, name)| *name == text);
            return known.map(|(known, _)| Watch::Known(known)).ok_or_else(|| {
                let names = Known::ALL.map(|(_, name)| name).join(", ");
                format!("not one of {names}, nor `$variable`, nor `NAME=global+offset:type`")
            });
        };
        let (place, kind) = field.rsplit_once(':').ok_or("`:type` is missing")?;
        let (global, offset) = place.split_once('+').unwrap_or((place, "0"));
        if !is_name(name) || !is_name(global) {
            return Err("a name has letters, digits and `_`".to_owned());
        }
        let offset = match offset.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => offset.parse(),
        };
        let offset = offset.ok().filter(|offset| *offset <= OFFSET_MAX);
        let offset =
            offset.ok_or_else(|| format!("the offset is no number of bytes up to {OFFSET_MAX}"))?;
        let kind = Kind::named(kind).ok_or_else(|| {
            format!("the type is not one of {}", KINDS.map(|(name, _)| name).join(", "))
        })?;
        Ok(Watch::Field { name: name.to_owned(), global: global.to_owned(), offset, kind })
    }

    /// What its value is shown under.
    pub fn name(&self) -> String {
        match self {
            Watch::Known(known) => {
                Known::ALL.iter().find(|(one, _)| one == known).map_or("", |(_, n)| n).to_owned()
            }
            Watch::Variable(name) => format!("${name}"),
            Watch::Field { name, .. } => name.clone(),
        }
    }

    /// The symbol that it needs.
    pub fn global(&self) -> Option<&str> {
        match self {
            Watch::Field { global, .. } => Some(global),
            Watch::Known(_) | Watch::Variable(_) => None,
        }
    }
}

/// As it is written on the command line.
impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Watch::Known(_) | Watch::Variable(_) => f.write_str(&self.name()),
            Watch::Field { name, global, offset, kind } => {
                write!(f, "{name}={global}+{offset}:{}", kind.name())
            }
        }
    }
}

/// Of C or of PHP: PHP's may have any byte above ASCII.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let digit = text.bytes().next().is_none_or(|byte| byte.is_ascii_digit());
    text.len() <= NAME_MAX && !digit && text.bytes().all(plain)
}

/// Its value in this sample; `null` where there is none, or it cannot be read. `place` is where
/// its global lies.
pub fn read<M: RemoteMemory>(
    watch: &Watch,
    pages: &mut Pages<'_, M>,
    globals: &Globals,
    sample: &Sample,
    place: Option<u64>,
) -> Value {
    let value = match watch {
        Watch::Known(known) => return known_value(*known, pages, globals, sample),
        Watch::Variable(name) => variable(pages, globals, name.as_bytes()),
        Watch::Field { offset, kind, .. } => match place {
            Some(place) => field(pages, place.wrapping_add(*offset), *kind),
            None => Ok(Value::Null),
        },
    };
    value.unwrap_or(Value::Null)
}

fn known_value<M: RemoteMemory>(
    known: Known,
    pages: &mut Pages<'_, M>,
    globals: &Globals,
    sample: &Sample,
) -> Value {
    let at = |field: u64| globals.executor.wrapping_add(field);
    match known {
        Known::Memory => sample.memory.into(),
        Known::Peak => memory(pages, globals).map(|memory| memory.peak).into(),
        Known::Script => sample.script.clone().into(),
        Known::Uri => sample.request_uri.clone().into(),
        Known::Depth => sample.frames.len().into(),
        Known::IncludedFiles => {
            pages.number::<4>(at(executor::INCLUDED_FILES + array::COUNT)).ok().into()
        }
        Known::ErrorReporting => pages.number::<4>(at(executor::ERROR_REPORTING)).ok().into(),
    }
}

fn field<M: RemoteMemory>(pages: &mut Pages<'_, M>, at: u64, kind: Kind) -> Result<Value, Trouble> {
    Ok(match kind {
        Kind::Signed(1) => i8::from_le_bytes([pages.number::<1>(at)? as u8]).into(),
        Kind::Signed(2) => (pages.number::<2>(at)? as u16).cast_signed().into(),
        Kind::Signed(4) => (pages.number::<4>(at)? as u32).cast_signed().into(),
        Kind::Signed(_) => pages.number::<8>(at)?.cast_signed().into(),
        Kind::Unsigned(1) => pages.number::<1>(at)?.into(),
        Kind::Unsigned(2) => pages.number::<2>(at)?.into(),
        Kind::Unsigned(4) => pages.number::<4>(at)?.into(),
        Kind::Unsigned(_) => pages.number::<8>(at)?.into(),
        Kind::Bool => (pages.number::<1>(at)? != 0).into(),
        Kind::Float => f64::from_bits(pages.number::<8>(at)?).into(),
        Kind::Pointer => format!("{:#x}", pages.pointer(at)?).into(),
        Kind::CText => c_pointer(pages, at)?.map(|text| shown(&text)).into(),
        Kind::Text => match pages.pointer(at)? {
            0 => Value::Null,
            text => string(pages, text)?.into(),
        },
        Kind::Zval => zval(pages, at)?,
    })
}

/// References and places of compiled variables that lead on to another value.
const LINKS_MAX: usize = 4;

fn zval<M: RemoteMemory>(pages: &mut Pages<'_, M>, mut at: u64) -> Result<Value, Trouble> {
    for _ in 0..LINKS_MAX {
        let value = pages.pointer(at)?;
        // IS_UNDEF to IS_REFERENCE, IS_INDIRECT (Zend/zend_types.h).
        return Ok(match pages.number::<1>(at.wrapping_add(8))? {
            2 => false.into(),
            3 => true.into(),
            4 => value.cast_signed().into(),
            5 => f64::from_bits(value).into(),
            6 => string(pages, value)?.into(),
            7 => {
                let count = pages.number::<4>(value.wrapping_add(array::COUNT))?;
                format!("array({count})").into()
            }
            8 => {
                let class = pages.pointer(value.wrapping_add(object::CLASS))?;
                let name = pages.pointer(class.wrapping_add(super::layout::same::class::NAME))?;
                bounded(format!("object({})", string(pages, name)?)).into()
            }
            9 => "resource".into(),
            10 => {
                at = value.wrapping_add(reference::VALUE);
                continue;
            }
            12 => {
                at = value;
                continue;
            }
            _ => Value::Null,
        });
    }
    Ok(Value::Null)
}

/// Buckets of one hash value that are looked at.
const CHAIN_MAX: usize = 64;

/// One of the script's global variables, out of the symbol table by its hash.
fn variable<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    globals: &Globals,
    name: &[u8],
) -> Result<Value, Trouble> {
    let table = globals.executor.wrapping_add(executor::SYMBOL_TABLE);
    let mask = pages.number::<4>(table.wrapping_add(array::MASK))? as u32;
    let data = pages.pointer(table.wrapping_add(array::DATA))?;
    let hash = hash(name);
    // The places of the hash values stand in front of the buckets, counted backwards.
    let slot = i64::from((hash as u32 | mask).cast_signed()) * 4;
    let mut index = pages.number::<4>(data.wrapping_add_signed(slot))? as u32;
    for _ in 0..CHAIN_MAX {
        if index == u32::MAX {
            break;
        }
        let bucket = data.wrapping_add(u64::from(index) * array::BUCKET);
        let key = pages.pointer(bucket.wrapping_add(array::BUCKET_KEY))?;
        if key != 0
            && pages.pointer(bucket.wrapping_add(array::BUCKET_HASH))? == hash
            && string(pages, key)?.as_bytes() == name
        {
            return zval(pages, bucket);
        }
        index = pages.number::<4>(bucket.wrapping_add(12))? as u32;
    }
    Ok(Value::Null)
}

/// The times-33 hash by D. J. Bernstein, with PHP's mark that it was made.
fn hash(name: &[u8]) -> u64 {
    let start = 5381u64;
    name.iter().fold(start, |hash, byte| hash.wrapping_mul(33).wrapping_add(u64::from(*byte)))
        | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_written_as_it_is_read() {
        for text in ["memory", "uri", "$total", "$größe", "x=basic_globals+16:zval"] {
            assert_eq!(Watch::parse(text).unwrap().to_string(), text);
        }
        let same = Watch::parse("x=executor_globals:i32").unwrap();
        assert_eq!(same, Watch::parse("x=executor_globals+0x0:i32").unwrap());
        assert_eq!(same.global(), Some("executor_globals"));
    }

    #[test]
    fn what_cannot_be_watched_says_why() {
        for (text, why) in [
            ("memroy", "not one of memory, peak"),
            ("", "not one of"),
            ("$", "no variable"),
            ("$a b", "no variable"),
            ("x=y", ":type"),
            ("x=y+8", ":type"),
            ("x=y+8:long", "i8, i16"),
            ("x=y+-8:i8", "offset"),
            ("x=y+99999999:i8", "offset"),
            ("x y=z:i8", "letters"),
            ("x=:i8", "letters"),
        ] {
            let said = Watch::parse(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
