//! The walk against memory made by hand: right, wrong and hostile.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::layout::{KNOWN, Layout, same};
use super::walk::{Globals, Sample, sample};
use super::watch::{self, Watch};
use crate::report::stack::{FRAMES_MAX, Place, State, TEXT_MAX};
use crate::trace::remote::{Image, Pages, Trouble};

/// A chunk of PHP's heap begins here.
const BASE: u64 = 0x7f00_0020_0000;
const EXECUTOR: u64 = BASE + 0x1000;
const SAPI: u64 = BASE + 0x2000;
const FILE: &str = "/srv/block.php";

struct World {
    layout: Layout,
    bytes: Vec<u8>,
    next: u64,
}

impl World {
    fn new(layout: Layout) -> World {
        let mut world = World { layout, bytes: vec![0; 64 << 10], next: BASE + 0x3000 };
        world.put(BASE, BASE + same::heap::IN_CHUNK);
        world.put(BASE + same::heap::IN_CHUNK + same::heap::SIZE, 400_000);
        world.put(BASE + same::heap::IN_CHUNK + same::heap::PEAK, 500_000);
        world.put(EXECUTOR + layout.vm_stack(), BASE + 0x100);
        world
    }

    fn put(&mut self, at: u64, value: u64) {
        self.put_bytes(at, &value.to_le_bytes());
    }

    fn put_bytes(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - BASE) as usize;
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize((at + bytes.len()).next_multiple_of(4096), 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn room(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(16) as u64;
        self.put_bytes(self.next, &[0]);
        at
    }

    fn string(&mut self, text: &str) -> u64 {
        let at = self.room(24 + text.len() + 1);
        self.put(at + same::string::LEN, text.len() as u64);
        self.put_bytes(at + same::string::TEXT, text.as_bytes());
        at
    }

    fn function(&mut self, kind: u8, class: &str, name: &str, file: &str) -> u64 {
        let at = self.room(256);
        self.put_bytes(at, &[kind]);
        if !name.is_empty() {
            let name = self.string(name);
            self.put(at + same::function::NAME as u64, name);
        }
        if !class.is_empty() {
            let (scope, name) = (self.room(32), self.string(class));
            self.put(scope + same::class::NAME, name);
            self.put(at + same::function::SCOPE as u64, scope);
        }
        if kind != same::function::INTERNAL {
            let file = self.string(file);
            self.put(at + self.layout.filename, file);
            // All instructions here belong to everybody.
            self.put(at + self.layout.opcodes, BASE);
            self.put_bytes(at + self.layout.last, &(1u32 << 20).to_le_bytes());
        }
        at
    }

    fn user(&mut self, name: &str) -> u64 {
        self.function(same::function::USER, "", name, FILE)
    }

    fn internal(&mut self, name: &str) -> u64 {
        self.function(same::function::INTERNAL, "", name, "")
    }

    fn op(&mut self, line: u32, code: u8, extended: u32) -> u64 {
        let at = self.room(same::op::SIZE);
        self.put_bytes(at + same::op::LINE as u64, &line.to_le_bytes());
        self.put_bytes(at + same::op::OPCODE as u64, &[code]);
        self.put_bytes(at + same::op::EXTENDED as u64, &extended.to_le_bytes());
        at
    }

    /// A frame that is called by the current one, and becomes it.
    fn call(&mut self, function: u64, op: u64) -> u64 {
        let at = self.room(80);
        let current = self.current();
        self.put(at + same::frame::OPLINE as u64, op);
        self.put(at + same::frame::FUNC as u64, function);
        self.put(at + same::frame::PREV as u64, current);
        self.put(EXECUTOR + self.layout.current_execute_data, at);
        at
    }

    fn call_at(&mut self, function: u64, line: u32) -> u64 {
        let op = self.op(line, 60, 0);
        self.call(function, op)
    }

    fn current(&self) -> u64 {
        let at = (EXECUTOR + self.layout.current_execute_data - BASE) as usize;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// sleep ← say ← run, called at lines 6, 3 and 10.
    fn block(layout: Layout) -> World {
        let mut world = World::new(layout);
        for (name, line) in [("", 10), ("run", 3), ("say", 6)] {
            let function = world.user(name);
            world.call_at(function, line);
        }
        let sleep = world.internal("sleep");
        world.call(sleep, 0);
        world
    }

    fn image(&self) -> Image {
        Image { pieces: vec![(BASE, self.bytes.clone())] }
    }

    fn globals(&self) -> Globals {
        Globals { layout: self.layout, executor: EXECUTOR, sapi: SAPI }
    }

    fn sample(&self) -> Sample {
        let image = self.image();
        sample(&mut Pages::new(&image), &self.globals()).unwrap()
    }
}

/// `function file:line` of each.
fn told(sample: &Sample) -> Vec<String> {
    let told = sample.frames.iter().map(|frame| {
        let line = frame.line.map_or(String::new(), |line| format!(":{line}"));
        format!("{} {}{line}", frame.function, frame.file.as_deref().unwrap_or("-"))
    });
    told.collect()
}

fn newest() -> Layout {
    KNOWN[KNOWN.len() - 1]
}

#[test]
fn every_version_tells_who_called_whom_and_where() {
    for layout in KNOWN {
        let world = World::block(layout);
        let sample = world.sample();
        let expected = ["sleep /srv/block.php:6", "say /srv/block.php:3", "run /srv/block.php:10"];
        assert_eq!(told(&sample), expected, "{layout:?}");
        assert_eq!(sample.frames[0].address, format!("{:#x}", world.current()));
        assert_eq!((sample.state, sample.memory), (State::Busy, Some(400_000)));
        assert_eq!((sample.at, sample.note), (None, None));
    }
}

#[test]
fn functions_have_the_names_that_php_gives_them() {
    let mut world = World::new(newest());
    let include_op = world.op(7, same::op::INCLUDE_OR_EVAL, 2);
    let eval_op = world.op(8, same::op::INCLUDE_OR_EVAL, 1);
    let main = world.user("");
    world.call(main, include_op);
    let included = world.function(same::function::USER, "", "", "/srv/inc.php");
    world.call(included, eval_op);
    let eval = world.function(same::function::EVAL, "", "", "/srv/inc.php(8) : eval()'d code");
    world.call_at(eval, 1);
    let method = world.function(same::function::USER, "App\\Shop", "cart", FILE);
    world.call_at(method, 21);
    // A generator that delegates leaves a frame without a function, a fiber one without a name.
    world.call(0, 0);
    let bottom = world.internal("");
    let map = world.internal("array_map");
    world.call(map, 0);
    let closure = world.user("{closure}");
    world.call_at(closure, 30);
    world.call(bottom, 0);
    let last = world.user("leaf");
    world.call_at(last, 40);
    let sample = world.sample();
    assert_eq!(
        told(&sample),
        [
            "leaf -",
            "{closure} -",
            "array_map /srv/block.php:21",
            "App\\Shop::cart /srv/inc.php(8) : eval()'d code:1",
            "eval() /srv/inc.php:8",
            "include(/srv/inc.php) /srv/block.php:7",
        ]
    );
    assert_eq!(sample.at, Some(Place { file: FILE.into(), line: 40 }));
}

#[test]
fn the_script_itself_is_told_where_nothing_else_runs() {
    let mut world = World::new(newest());
    let main = world.user("");
    world.call_at(main, 5);
    let sample = world.sample();
    assert_eq!(told(&sample), ["{main} /srv/block.php:5"]);
    assert_eq!(sample.at, Some(Place { file: FILE.into(), line: 5 }));
}

#[test]
fn a_line_that_is_not_known_is_none() {
    let mut world = World::new(newest());
    let (main, run) = (world.user(""), world.user("run"));
    world.call(main, BASE - 0x10);
    world.call_at(run, 0);
    let sample = world.sample();
    assert_eq!(told(&sample), ["run /srv/block.php"]);
    assert_eq!((sample.at, sample.note), (None, None));
}

#[test]
fn an_instruction_of_another_function_is_none_of_this_one() {
    let mut world = World::new(newest());
    let (main, run) = (world.user(""), world.user("run"));
    world.call_at(main, 3);
    let first = world.op(7, 60, 0);
    let own = world.op(8, 60, 0);
    let beyond = world.op(9, 60, 0);
    world.put(run + world.layout.opcodes, first);
    world.put_bytes(run + world.layout.last, &2u32.to_le_bytes());
    world.call(run, own);
    assert_eq!(world.sample().at, Some(Place { file: FILE.into(), line: 8 }));
    let run = world.current();
    world.put(run + same::frame::OPLINE as u64, beyond);
    assert_eq!((world.sample().at, world.sample().note), (None, None));
}

#[test]
fn between_requests_it_is_idle_and_within_one_it_is_not() {
    let mut world = World::new(newest());
    let (script, uri) = (world.room(32), world.room(64));
    world.put_bytes(script, b"/srv/index.php\0");
    world.put_bytes(uri, b"/shop/cart?token=secret\0");
    world.put(SAPI + same::sapi::SCRIPT, script);
    world.put(SAPI + same::sapi::URI, uri);
    let idle = world.sample();
    assert_eq!((idle.state, idle.script, idle.request_uri), (State::Idle, None, None));
    world.put_bytes(SAPI + same::sapi::STARTED, &[1]);
    let sending = world.sample();
    assert_eq!((sending.state, sending.frames.len()), (State::Busy, 0));
    assert_eq!(sending.script.as_deref(), Some("/srv/index.php"));
    assert_eq!(sending.request_uri.as_deref(), Some("/shop/cart"));
    world.put_bytes(SAPI + same::sapi::STARTED, &[7]);
    assert_eq!(world.sample().state, State::Unknown);
    let main = world.user("");
    world.call_at(main, 5);
    assert_eq!(world.sample().state, State::Busy);
}

#[test]
fn another_allocator_has_no_figure() {
    let mut world = World::block(newest());
    world.put(BASE, BASE + 128);
    assert_eq!(world.sample().memory, None);
    world.put(BASE, 0x40);
    assert_eq!(world.sample().memory, None);
    world.put(BASE, BASE + same::heap::IN_CHUNK);
    world.put(BASE + same::heap::IN_CHUNK + same::heap::PEAK, 1);
    assert_eq!(world.sample().memory, None);
}

#[test]
fn a_ring_of_frames_ends_with_a_note() {
    let mut world = World::block(newest());
    let current = world.current();
    let run = u64::from_str_radix(&world.sample().frames[2].address[2..], 16).unwrap();
    world.put(run + same::frame::PREV as u64, current);
    let sample = world.sample();
    assert_eq!(told(&sample), ["sleep /srv/block.php:6", "say /srv/block.php:3", "run -"]);
    assert!(sample.note.unwrap().contains("back to itself"));
    // A ring of frames that count for nothing.
    let mut world = World::new(newest());
    let first = world.call(0, 0);
    let second = world.call(0, 0);
    world.put(first + same::frame::PREV as u64, second);
    let sample = world.sample();
    assert_eq!(sample.frames, []);
    assert!(sample.note.is_some());
}

#[test]
fn a_wild_pointer_ends_the_walk_with_what_was_had() {
    let whole = World::block(newest()).sample();
    let say = u64::from_str_radix(&whole.frames[1].address[2..], 16).unwrap();
    for wild in [0x10, 0xffff_ffff_ffff_fff8, BASE + (64 << 20), 0xdead_beef_dead_beef] {
        for field in [same::frame::PREV, same::frame::FUNC] {
            let mut world = World::block(newest());
            world.put(say + field as u64, wild);
            let sample = world.sample();
            let had = if field == same::frame::PREV { 2 } else { 1 };
            assert_eq!(sample.frames.len(), had, "{wild:#x}");
            assert!(sample.note.unwrap().contains("breaks off"), "{wild:#x}");
        }
        let mut world = World::block(newest());
        world.put(EXECUTOR + world.layout.current_execute_data, wild);
        assert!(world.sample().note.unwrap().contains("breaks off"), "{wild:#x}");
    }
    let mut world = World::block(newest());
    let function = world.function(77, "", "x", FILE);
    world.put(say + same::frame::FUNC as u64, function);
    assert!(world.sample().note.unwrap().contains("no kind 77"));
}

#[test]
fn without_its_globals_there_is_nothing() {
    let image = Image::default();
    let globals = World::new(newest()).globals();
    let at = (EXECUTOR + newest().current_execute_data) & !0xfff;
    let told = sample(&mut Pages::new(&image), &globals);
    assert_eq!(told, Err(Trouble::Unmapped(at)));
}

#[test]
fn deep_recursion_and_long_names_are_cut() {
    let mut world = World::new(newest());
    let deep = world.user(&"ü".repeat(300));
    let op = world.op(4, 60, 0);
    for _ in 0..FRAMES_MAX + 50 {
        world.call(deep, op);
    }
    let sample = world.sample();
    assert_eq!(sample.frames.len(), FRAMES_MAX);
    assert!(sample.note.unwrap().contains("more than 256 frames"));
    let name = &sample.frames[9].function;
    assert!(name.len() <= TEXT_MAX && name.ends_with("ü…"), "{name}");
}

fn value(world: &World, watch: &str, place: Option<u64>) -> Value {
    let image = world.image();
    let mut pages = Pages::new(&image);
    let globals = world.globals();
    let sample = sample(&mut pages, &globals).unwrap();
    watch::read(&Watch::parse(watch).unwrap(), &mut pages, &globals, &sample, place)
}

/// A symbol table of one place for hash values, with two variables in it.
fn with_variables(world: &mut World, values: [(u64, u8); 2]) {
    let table = EXECUTOR + same::executor::SYMBOL_TABLE;
    let places = world.room(256);
    let data = places + 8;
    world.put_bytes(table + same::array::MASK, &(-2i32).to_le_bytes());
    world.put(table + same::array::DATA, data);
    world.put_bytes(places, &[0, 0, 0, 0, 0, 0, 0, 0]);
    for (index, (name, (value, kind))) in ["one", "two"].into_iter().zip(values).enumerate() {
        let bucket = data + index as u64 * same::array::BUCKET;
        let mut hash = 5381u64;
        for byte in name.bytes() {
            hash = hash.wrapping_mul(33).wrapping_add(u64::from(byte));
        }
        let key = world.string(name);
        let next = if index == 0 { 1 } else { u32::MAX };
        world.put(bucket, value);
        world.put_bytes(bucket + 8, &[kind]);
        world.put_bytes(bucket + 12, &next.to_le_bytes());
        world.put(bucket + same::array::BUCKET_HASH, hash | 1 << 63);
        world.put(bucket + same::array::BUCKET_KEY, key);
    }
}

#[test]
fn watched_variables_have_their_values() {
    let mut world = World::block(newest());
    let text = world.string("hello");
    with_variables(&mut world, [(text, 6), (42, 4)]);
    for (watch, expected) in [
        ("memory", json!(400_000)),
        ("peak", json!(500_000)),
        ("depth", json!(3)),
        ("uri", Value::Null),
        ("$one", json!("hello")),
        ("$two", json!(42)),
        ("$none", Value::Null),
    ] {
        assert_eq!(value(&world, watch, None), expected, "{watch}");
    }
    let at = world.room(64);
    world.put(at + 8, (-5i64) as u64);
    world.put(at + 16, text);
    world.put(at + 24, 2.5f64.to_bits());
    for (kind, expected) in [
        ("8:i8", json!(-5)),
        ("8:i64", json!(-5)),
        ("8:u16", json!(0xfffb)),
        ("8:bool", json!(true)),
        ("24:f64", json!(2.5)),
        ("16:str", json!("hello")),
        ("16:ptr", json!(format!("{text:#x}"))),
        ("0:cstr", Value::Null),
        ("0:zval", Value::Null),
    ] {
        let watch = format!("x=some_globals+{kind}");
        assert_eq!(value(&world, &watch, Some(at)), expected, "{kind}");
        assert_eq!(value(&world, &watch, Some(0x10)), Value::Null, "{kind}");
        assert_eq!(value(&world, &watch, None), Value::Null, "{kind}");
    }
}

#[test]
fn a_value_that_leads_to_itself_is_none() {
    let mut world = World::block(newest());
    with_variables(&mut world, [(0, 12), (0x10, 6)]);
    let table = EXECUTOR + same::executor::SYMBOL_TABLE + same::array::DATA - BASE;
    let at = table as usize;
    let bucket = u64::from_le_bytes(world.bytes[at..at + 8].try_into().unwrap());
    world.put(bucket, bucket);
    assert_eq!(value(&world, "$one", None), Value::Null);
    assert_eq!(value(&world, "$two", None), Value::Null);
    // A chain of buckets that never ends.
    world.put(bucket + same::array::BUCKET_KEY, 0);
    world.put_bytes(bucket + 12, &0u32.to_le_bytes());
    assert_eq!(value(&world, "$two", None), Value::Null);
}

/// Anything at all, at any place; and pointers, which are what leads astray.
fn damage() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let value = prop_oneof![
        any::<u64>(),
        (0u64..(64 << 10)).prop_map(|offset| BASE + offset),
        (0u64..64).prop_map(|offset| EXECUTOR + offset * 8),
        Just(0),
        Just(u64::MAX),
    ];
    proptest::collection::vec((0usize..(0x3a00 / 8), value), 0..40)
}

proptest! {
    #[test]
    fn whatever_stands_in_memory_the_walk_ends(
        which in 0..KNOWN.len(), damage in damage(), flips in proptest::collection::vec(
            (0usize..0x4000, any::<u8>()), 0..60),
    ) {
        let mut world = World::block(KNOWN[which]);
        with_variables(&mut world, [(3, 12), (42, 4)]);
        for (at, byte) in flips {
            world.bytes[at] = byte;
        }
        for (at, value) in damage {
            world.put(BASE + at as u64 * 8, value);
        }
        let image = world.image();
        let mut pages = Pages::new(&image);
        let sample = sample(&mut pages, &world.globals()).unwrap();
        prop_assert!(sample.frames.len() <= FRAMES_MAX);
        for frame in &sample.frames {
            prop_assert!(frame.function.len() <= TEXT_MAX);
            prop_assert!(frame.file.as_ref().is_none_or(|file| file.len() <= TEXT_MAX));
        }
        for watch in ["peak", "$one", "$two", "x=e+400:zval", "x=e+304:str", "x=e+0:cstr"] {
            let watch = Watch::parse(watch).unwrap();
            let value =
                watch::read(&watch, &mut pages, &world.globals(), &sample, Some(EXECUTOR));
            prop_assert!(value.as_str().is_none_or(|text| text.len() <= TEXT_MAX));
        }
    }
}
