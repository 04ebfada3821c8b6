//! A line of the `.watch` file: a global variable of the script by its name, or bytes at an address
//! that the tool has resolved from outside: `NAME=0xADDRESS:TYPE`. The address is believed by
//! nobody: the worker reads it as it would another process's memory.

use core::fmt;

use crate::record::NAME_MAX;

/// How the bytes at an address are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Signed(u8),
    Unsigned(u8),
    Bool,
    Float,
    Pointer,
    /// A pointer to text that ends with NUL.
    CText,
    /// A pointer to a `zend_string`.
    Text,
    /// A `zval`, in place.
    Zval,
}

pub const KINDS: [(&str, Kind); 14] = [
    ("i8", Kind::Signed(1)),
    ("i16", Kind::Signed(2)),
    ("i32", Kind::Signed(4)),
    ("i64", Kind::Signed(8)),
    ("u8", Kind::Unsigned(1)),
    ("u16", Kind::Unsigned(2)),
    ("u32", Kind::Unsigned(4)),
    ("u64", Kind::Unsigned(8)),
    ("bool", Kind::Bool),
    ("f64", Kind::Float),
    ("ptr", Kind::Pointer),
    ("cstr", Kind::CText),
    ("str", Kind::Text),
    ("zval", Kind::Zval),
];

impl Kind {
    pub fn named(name: &str) -> Option<Kind> {
        KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// What one line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'t> {
    /// Without its `$`.
    Variable(&'t str),
    Field {
        name: &'t str,
        address: u64,
        kind: Kind,
    },
}

/// What a line says, `None` where it is none: empty, or not written as here.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = core::str::from_utf8(line.trim_ascii()).ok()?;
    let Some((name, field)) = line.split_once('=') else {
        let name = line.strip_prefix('$').unwrap_or(line);
        return is_name(name).then_some(Line::Variable(name));
    };
    let (address, kind) = field.split_once(':')?;
    let digits = address.strip_prefix("0x")?;
    // from_str_radix would take a sign.
    if !is_name(name) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let address = u64::from_str_radix(digits, 16).ok()?;
    Some(Line::Field { name, address, kind: Kind::named(kind)? })
}

/// Letters of any script, digits, `_`; as long as a record has room for.
pub fn is_name(name: &str) -> bool {
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.chars().all(of_a_name)
        && !name.chars().any(char::is_control)
}

/// As [`parse`] reads it, without the end of the line.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Variable(name) => f.write_str(name),
            Line::Field { name, address, kind } => {
                write!(f, "{name}={address:#x}:{}", kind.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let variable = Line::Variable("größe_2");
        let mut lines = std::vec![variable];
        for (_, kind) in KINDS {
            lines.push(Line::Field { name: "x", address: 0x7fff_dead_beef, kind });
        }
        lines.push(Line::Field { name: "x", address: u64::MAX, kind: Kind::Bool });
        for line in lines {
            assert_eq!(parse(line.to_string().as_bytes()), Some(line));
        }
        assert_eq!(parse(b" $count\r"), Some(Line::Variable("count")));
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        for wrong in [
            &b""[..],
            b"$",
            b"# no name",
            b"a b",
            b"a\x80b",
            "a\u{9b}".as_bytes(),
            b"x=1:i8",
            b"x=0x:i8",
            b"x=0x1",
            b"x=0x1:long",
            b"x=0x-1:i8",
            b"x=0x+1:i8",
            b"=0x1:i8",
            b"x=0x10000000000000000:i8",
            b"x=y+8:i8",
            b"a=0x1:i8:i8",
            &[b'x'; NAME_MAX + 1],
        ] {
            assert_eq!(parse(wrong), None, "{:?}", std::string::String::from_utf8_lossy(wrong));
        }
    }
}
