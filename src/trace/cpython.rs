//! Two facts about a Jupyter kernel that its frames do not tell, out of CPython's memory: whether
//! a cell runs although nothing of it is on the stack (it awaits), and the number of the cell.
//!
//! While a cell runs, and only then, ipykernel has put a method of its own in the place of
//! `builtins.input`, so that the notebook is asked instead of a terminal. A cell that awaits
//! leaves the same frames as none at all; this tells them apart.

use crate::trace::remote::{Pages, RemoteMemory, Trouble};

/// How CPython 3.x lays out what is read here. 64 bit, with the interpreter lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    minor: u64,
}

/// What stands in the place of `builtins.input`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Python's own: no cell runs.
    Builtin,
    /// Somebody's method: in a kernel, a cell runs.
    Method,
    /// Anything else.
    Other,
}

const TYPE: u64 = 8;
/// `PyTypeObject`
const TYPE_NAME: u64 = 24;
const TYPE_SIZE: u64 = 32;
const TYPE_DICT_OFFSET: u64 = 288;
/// `PyModuleObject`
const MODULE_DICT: u64 = 16;
/// `PyDictObject`
const DICT_KEYS: u64 = 32;
const DICT_VALUES: u64 = 40;
/// `PyASCIIObject`
const TEXT_LENGTH: u64 = 16;
/// The number of a `PyLongObject`, of which the first 30 bits are enough.
const LONG_SIZE: u64 = 16;
const LONG_DIGIT: u64 = 24;
/// What lies in front of an object whose dictionary the interpreter manages (since 3.11).
const MANAGED_DICT: u64 = 24;
const MANAGED_VALUES: u64 = 32;

/// The largest dictionary that is looked through: `builtins` has 160 entries.
const ENTRIES_MAX: u64 = 1024;
/// The longest name of a type that is of any interest here.
const NAME_MAX: usize = 64;

impl Shape {
    /// None: not known.
    pub fn of(major: u64, minor: u64) -> Option<Shape> {
        (major == 3 && (6..=14).contains(&minor)).then_some(Shape { minor })
    }

    /// `PyHeapTypeObject.ht_cached_keys`.
    fn class_keys(self) -> u64 {
        if self.minor >= 12 { 880 } else { 872 }
    }

    /// Where a string of plain ASCII has its text.
    fn text(self) -> u64 {
        if self.minor >= 12 { 40 } else { 48 }
    }
}

/// What `input` is, to a process whose module `__main__` has the dictionary `globals`. None: it
/// is not where it should be.
///
/// # Errors
/// Memory that cannot be read.
pub fn input<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    globals: u64,
) -> Result<Option<Input>, Trouble> {
    let Some(builtins) = find(pages, shape, globals, "__builtins__")? else { return Ok(None) };
    let names = match type_name(pages, builtins)?.as_slice() {
        b"module" => pages.pointer(builtins.wrapping_add(MODULE_DICT))?,
        b"dict" => builtins,
        _ => return Ok(None),
    };
    let Some(input) = find(pages, shape, names, "input")? else { return Ok(None) };
    Ok(Some(match type_name(pages, input)?.as_slice() {
        b"builtin_function_or_method" => Input::Builtin,
        b"method" => Input::Method,
        _ => Input::Other,
    }))
}

/// The attribute `execution_count` of IPython's result of a cell, this object: the number of the
/// cell that runs.
///
/// # Errors
/// Memory that cannot be read.
pub fn execution_count<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    result: u64,
) -> Result<Option<u64>, Trouble> {
    let Some(count) = attribute(pages, shape, result, "execution_count")? else { return Ok(None) };
    if type_name(pages, count)? != b"int" {
        return Ok(None);
    }
    let size = pages.pointer(count.wrapping_add(LONG_SIZE))?;
    // One digit, and positive: `ob_size` is 1; since 3.12 it is shifted by the bits for the sign.
    let is_small = if shape.minor >= 12 { size >> 3 == 1 && size & 3 == 0 } else { size == 1 };
    Ok(is_small.then_some(pages.number::<4>(count.wrapping_add(LONG_DIGIT))?))
}

/// An attribute of an object: out of its dictionary, or, since 3.11, out of its values without
/// one, whose names are its class's.
fn attribute<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    object: u64,
    name: &str,
) -> Result<Option<u64>, Trouble> {
    let class = pages.pointer(object.wrapping_add(TYPE))?;
    if shape.minor < 11 {
        let offset = pages.pointer(class.wrapping_add(TYPE_DICT_OFFSET))?;
        // Negative: counted from the end of an object of variable size, which a result is not.
        if offset == 0 || offset > 1 << 20 {
            return Ok(None);
        }
        let dict = pages.pointer(object.wrapping_add(offset))?;
        return find(pages, shape, dict, name);
    }
    let dict = pages.pointer(object.wrapping_sub(MANAGED_DICT))?;
    let values = match (shape.minor, dict) {
        (11, 0) => pages.pointer(object.wrapping_sub(MANAGED_VALUES))?,
        // An odd pointer leads to one byte before values.
        (12, odd) if odd % 2 == 1 => odd.wrapping_add(1),
        (13.., 0) => object.wrapping_add(pages.pointer(class.wrapping_add(TYPE_SIZE))?),
        (_, dict) => return find(pages, shape, dict, name),
    };
    let keys = pages.pointer(class.wrapping_add(shape.class_keys()))?;
    match entry(pages, shape, keys, name)? {
        Some((index, _)) => value_at(pages, shape, values, index),
        None => Ok(None),
    }
}

/// The value of a name in a dictionary.
fn find<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    dict: u64,
    name: &str,
) -> Result<Option<u64>, Trouble> {
    let values = pages.pointer(dict.wrapping_add(DICT_VALUES))?;
    let keys = pages.pointer(dict.wrapping_add(DICT_KEYS))?;
    match entry(pages, shape, keys, name)? {
        Some((index, _)) if values != 0 => value_at(pages, shape, values, index),
        Some((_, value)) => Ok((value != 0).then_some(value)),
        None => Ok(None),
    }
}

/// One of the values that lie apart from their names.
fn value_at<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    values: u64,
    index: u64,
) -> Result<Option<u64>, Trouble> {
    // Since 3.13 their sizes stand in front of them.
    let first = if shape.minor >= 13 { values.wrapping_add(8) } else { values };
    let value = pages.pointer(first.wrapping_add(index * 8))?;
    Ok((value != 0).then_some(value))
}

/// Where a name stands among the keys, and the value beside it.
fn entry<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    keys: u64,
    name: &str,
) -> Result<Option<(u64, u64)>, Trouble> {
    // `PyDictKeysObject`: behind its head the table of indices, then the entries.
    let (count, entries, has_hash) = if shape.minor >= 11 {
        let index_bytes = pages.number::<1>(keys.wrapping_add(9))?;
        let kind = pages.number::<1>(keys.wrapping_add(10))?;
        let count = pages.pointer(keys.wrapping_add(24))?;
        if index_bytes > 30 || kind > 2 {
            return Ok(None);
        }
        (count, 32 + (1 << index_bytes), kind == 0)
    } else {
        let size = pages.pointer(keys.wrapping_add(8))?;
        let index = match size {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        let count = pages.pointer(keys.wrapping_add(32))?;
        (count, 40u64.saturating_add(size.saturating_mul(index)), true)
    };
    let (stride, key_at) = if has_hash { (24, 8) } else { (16, 0) };
    for index in 0..count.min(ENTRIES_MAX) {
        let at = keys.wrapping_add(entries).wrapping_add(index * stride).wrapping_add(key_at);
        let key = pages.pointer(at)?;
        if key != 0 && is_text(pages, shape, key, name)? {
            return Ok(Some((index, pages.pointer(at.wrapping_add(8))?)));
        }
    }
    Ok(None)
}

fn is_text<M: RemoteMemory>(
    pages: &mut Pages<'_, M>,
    shape: Shape,
    object: u64,
    text: &str,
) -> Result<bool, Trouble> {
    let len = text.len() as u64;
    if pages.pointer(object.wrapping_add(TEXT_LENGTH))? != len {
        return Ok(false);
    }
    Ok(pages.text(object.wrapping_add(shape.text()), len, NAME_MAX)? == text.as_bytes())
}

fn type_name<M: RemoteMemory>(pages: &mut Pages<'_, M>, object: u64) -> Result<Vec<u8>, Trouble> {
    let class = pages.pointer(object.wrapping_add(TYPE))?;
    let name = pages.pointer(class.wrapping_add(TYPE_NAME))?;
    pages.c_text(name, NAME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::remote::Image;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_known_has_a_shape() {
        for (major, minor, known) in [(2, 7, false), (3, 5, false), (3, 6, true), (3, 15, false)] {
            assert_eq!(Shape::of(major, minor).is_some(), known, "{major}.{minor}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Every pointer leads into it, so that every loop is entered.
        #[test]
        fn whatever_stands_in_memory_it_ends(
            words in proptest::collection::vec(
                prop_oneof![0u64..0x400, (0u64..0x1000).prop_map(|at| 0x10000 + at), any::<u64>()],
                0x200,
            ),
            minor in 6u64..=14, at in 0u64..0x1000,
        ) {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let image = Image { pieces: vec![(0x10000, bytes)] };
            let mut pages = Pages::new(&image);
            let shape = Shape::of(3, minor).unwrap();
            let _ = input(&mut pages, shape, 0x10000 + at);
            let _ = execution_count(&mut pages, shape, 0x10000 + at);
        }
    }
}
