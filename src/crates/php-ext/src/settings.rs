//! What php.ini says. All of it is the administrator's: a script cannot change it.

use ext_php_rs::flags::IniEntryPermission;
use ext_php_rs::zend::{IniEntryDef, IniEntryDefs};
use trace_layout::{SLOTS_MAX, SLOTS_MIN};

use crate::php::{ini, ini_number};

/// A megabyte, which stays in a core's cache beside the application: a parser with records took 13 to
/// 15 % more, with four megabytes 29 to 33 %. At full speed neither is enough for a reader.
const SLOTS_DEFAULT: u32 = 2048;

const fn entry(name: &'static core::ffi::CStr, value: &'static core::ffi::CStr) -> IniEntryDef {
    IniEntryDef::new(name, value, IniEntryPermission::System)
}

static ENTRIES: IniEntryDefs<7> = IniEntryDefs::new([
    // Whether the extension does anything at all.
    entry(c"nbguard.enable", c"1"),
    // Where the switch table and the trace files are.
    entry(c"nbguard.directory", c"/run/nbguard/trace"),
    // For whom root makes directories there, when it starts PHP (as php-fpm does).
    entry(c"nbguard.users", c"www-data"),
    // Records of the ring, a power of two; 512 bytes each.
    entry(c"nbguard.ring", c"2048"),
    // Names of parameters, keys and properties whose values are not recorded.
    entry(c"nbguard.redact", c"pass*,*passw*,secret*,*_secret,token*,*_token,*key*"),
    // Whether the observer is put away while nobody listens.
    entry(c"nbguard.quiet", c"1"),
    IniEntryDef::end(),
]);

/// Shown by phpinfo(), in this order.
pub const NAMES: [&str; 6] = [
    "nbguard.enable",
    "nbguard.directory",
    "nbguard.users",
    "nbguard.ring",
    "nbguard.redact",
    "nbguard.quiet",
];

pub fn register(module: i32) {
    IniEntryDef::register(ENTRIES.as_slice(), module);
}

/// At the end of the process: left in the table they would be freed after the names in them.
pub fn unregister(module: i32) {
    // SAFETY: the module that registered them ends.
    unsafe { crate::php::zend_unregister_ini_entries(module) };
}

#[derive(Debug)]
pub struct Settings {
    pub enable: bool,
    pub directory: String,
    pub users: Vec<u8>,
    pub slots: u32,
    pub redact: Vec<u8>,
    pub quiet: bool,
    /// A test asks for a panic, once, where tracing goes on.
    pub defect: bool,
}

impl Settings {
    pub fn read() -> Settings {
        let slots = u32::try_from(ini_number("nbguard.ring")).unwrap_or(0);
        Settings {
            enable: is_true(&ini("nbguard.enable")),
            directory: String::from_utf8(ini("nbguard.directory")).unwrap_or_default(),
            users: ini("nbguard.users"),
            // A number that no ring can have is no reason to trace nothing.
            slots: if slots.is_power_of_two() && (SLOTS_MIN..=SLOTS_MAX).contains(&slots) {
                slots
            } else {
                SLOTS_DEFAULT
            },
            redact: ini("nbguard.redact"),
            quiet: is_true(&ini("nbguard.quiet")),
            defect: std::env::var_os("NBGUARD_TEST_DEFECT").is_some(),
        }
    }
}

fn is_true(value: &[u8]) -> bool {
    let value = value.trim_ascii().to_ascii_lowercase();
    matches!(&value[..], b"1" | b"on" | b"yes" | b"true")
}
