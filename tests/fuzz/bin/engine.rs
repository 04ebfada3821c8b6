#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nbguard_fuzz::texts::engine(bytes));
