//! The memory of an interpreter that wants to mislead whoever looks into it.

use std::hint::black_box;

use nbguard::report::stack::{FRAMES_MAX, TEXT_MAX};
use nbguard::trace::cpython::{self, Shape};
use nbguard::trace::php::layout::KNOWN;
use nbguard::trace::php::walk::{Globals, sample};
use nbguard::trace::php::watch::{self, Watch};
use nbguard::trace::remote::{Pages, RemoteMemory, Trouble};

use super::patches::put;

/// A chunk of PHP's heap begins here.
const BASE: u64 = 0x7f00_0020_0000;
const EXECUTOR: u64 = BASE + 0x1000;
const SAPI: u64 = BASE + 0x2000;
/// What is mapped.
const LEN: usize = 32 << 10;

struct Hostile {
    bytes: Vec<u8>,
    /// Every address is mapped, and leads to the same bytes over and over.
    is_endless: bool,
}

impl RemoteMemory for Hostile {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Trouble> {
        if !self.is_endless && !(BASE..BASE + LEN as u64).contains(&address) {
            return Err(Trouble::Unmapped(address));
        }
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.bytes[(address as usize).wrapping_add(index) % LEN];
        }
        Ok(())
    }
}

/// The calls of a PHP process, variables of it, and the two facts of a Jupyter kernel. After two
/// bytes that choose, words of eight bytes, each with the number of its place.
pub fn walk(bytes: &[u8]) {
    let Some(([which, how], words)) = bytes.split_first_chunk::<2>() else { return };
    let mut memory = Hostile { bytes: vec![0; LEN], is_endless: how % 2 == 1 };
    for word in words.as_chunks::<10>().0 {
        let at = usize::from(u16::from_le_bytes([word[0], word[1]]));
        put(&mut memory.bytes, at * 8 % LEN, &word[2..]);
    }
    let layout = KNOWN[usize::from(*which) % KNOWN.len()];
    let globals = Globals { layout, executor: EXECUTOR, sapi: SAPI };
    let mut pages = Pages::new(&memory);
    if let Ok(sample) = sample(&mut pages, &globals) {
        assert!(sample.frames.len() <= FRAMES_MAX);
        for frame in &sample.frames {
            assert!(frame.function.len() <= TEXT_MAX);
            assert!(frame.file.as_ref().is_none_or(|file| file.len() <= TEXT_MAX));
        }
        for text in [&sample.script, &sample.request_uri].into_iter().flatten() {
            assert!(text.len() <= TEXT_MAX);
        }
        for line in ["memory", "peak", "included_files", "$total", "x=sapi+8:cstr", "x=sapi+8:str"]
            .into_iter()
            .chain(["x=sapi+8:zval", "x=sapi+8:f64", "x=sapi+8:i16"])
        {
            let watch = Watch::parse(line).expect("they are right");
            let value = watch::read(&watch, &mut pages, &globals, &sample, Some(SAPI));
            assert!(value.to_string().len() <= 8 * TEXT_MAX);
        }
    }
    pages.forget();
    let shape = Shape::of(3, 6 + u64::from(how / 2 % 9)).expect("3.6 to 3.14");
    let _ = black_box(cpython::input(&mut pages, shape, BASE));
    let _ = black_box(cpython::execution_count(&mut pages, shape, BASE));
}
