//! Where PHP keeps what: offsets of fields, one row for each minor version. A test compares them
//! with the headers of every `php-dev` it finds.
//!
//! Established so (all on x86-64; 8.2 thread-safe has the same offsets as 8.2 not thread-safe):
//!
//! | minor | `offsetof` against its headers | stacks of a process of it |
//! |---|---|---|
//! | 8.1 | not had; a published dump of the structures agrees | not had |
//! | 8.2 | Debian's php8.2-dev 8.2.36 | Debian's 8.2.36, cli and fpm |
//! | 8.3 | not had; a published dump of the structures agrees | 8.3.8 as built for another distribution |
//! | 8.4 | Debian's php8.4-dev 8.4.24 | 8.4.14 as built for another distribution |
//! | 8.5 | not had; a published dump and generated bindings agree | 8.5.2 as built for another distribution |

/// What differs from one minor to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub version: (u8, u8),
    /// `zend_executor_globals.current_execute_data`. `vm_stack` stands two fields before it.
    pub current_execute_data: u64,
    /// `zend_op_array.last`, the number of its instructions.
    pub last: u64,
    /// `zend_op_array.opcodes`, where they are.
    pub opcodes: u64,
    /// `zend_op_array.filename`.
    pub filename: u64,
}

/// Every minor that is known, oldest first, in the order of the fields above.
pub const KNOWN: [Layout; 5] = [
    row((8, 1), 488, 68, 72, 144),
    row((8, 2), 488, 80, 88, 152),
    row((8, 3), 488, 76, 80, 144),
    row((8, 4), 488, 96, 104, 168),
    row((8, 5), 512, 96, 104, 168),
];

const fn row(
    version: (u8, u8),
    current_execute_data: u64,
    last: u64,
    opcodes: u64,
    filename: u64,
) -> Layout {
    Layout { version, current_execute_data, last, opcodes, filename }
}

impl Layout {
    pub fn of(version: (u8, u8)) -> Option<Layout> {
        KNOWN.into_iter().find(|layout| layout.version == version)
    }

    /// `zend_executor_globals.vm_stack`.
    pub fn vm_stack(self) -> u64 {
        self.current_execute_data - 16
    }

    /// `8.1, 8.2, …`, for people.
    pub fn names() -> String {
        let names = KNOWN.map(|layout| format!("{}.{}", layout.version.0, layout.version.1));
        names.join(", ")
    }
}

/// Fields that stand where they stand in every minor of [`KNOWN`], by structure.
pub mod same {
    /// `zend_executor_globals`
    pub mod executor {
        pub const SYMBOL_TABLE: u64 = 304;
        pub const INCLUDED_FILES: u64 = 360;
        pub const ERROR_REPORTING: u64 = 424;
    }
    /// `zend_execute_data`
    pub mod frame {
        pub const OPLINE: usize = 0;
        pub const FUNC: usize = 24;
        pub const PREV: usize = 48;
        pub const SIZE: usize = 56;
    }
    /// `zend_function`, `zend_op_array`
    pub mod function {
        pub const TYPE: usize = 0;
        pub const NAME: usize = 8;
        pub const SCOPE: usize = 16;
        pub const INTERNAL: u8 = 1;
        pub const USER: u8 = 2;
        pub const EVAL: u8 = 4;
    }
    /// `zend_class_entry`
    pub mod class {
        pub const NAME: u64 = 8;
    }
    /// `zend_op`
    pub mod op {
        pub const EXTENDED: usize = 20;
        pub const LINE: usize = 24;
        pub const OPCODE: usize = 28;
        pub const SIZE: usize = 32;
        pub const INCLUDE_OR_EVAL: u8 = 73;
    }
    /// `zend_string`
    pub mod string {
        pub const LEN: u64 = 16;
        pub const TEXT: u64 = 24;
    }
    /// `zend_object`
    pub mod object {
        pub const CLASS: u64 = 16;
    }
    /// `zend_reference`
    pub mod reference {
        pub const VALUE: u64 = 8;
    }
    /// `zend_array` and its `Bucket`
    pub mod array {
        pub const MASK: u64 = 12;
        pub const DATA: u64 = 16;
        pub const COUNT: u64 = 28;
        pub const BUCKET: u64 = 32;
        pub const BUCKET_HASH: u64 = 16;
        pub const BUCKET_KEY: u64 = 24;
    }
    /// `sapi_globals_struct`
    pub mod sapi {
        pub const SCRIPT: u64 = 40;
        pub const URI: u64 = 48;
        pub const STARTED: u64 = 436;
    }
    /// `zend_mm_chunk` and `zend_mm_heap` (Zend/zend_alloc.c; in no header). A chunk lies at a
    /// multiple of its size, its first field is the heap, and the heap lies in the first chunk
    /// behind that chunk's own head.
    pub mod heap {
        pub const CHUNK: u64 = 2 << 20;
        pub const IN_CHUNK: u64 = 64;
        pub const SIZE: u64 = 16;
        pub const PEAK: u64 = 24;
    }
}
