//! Text that a process, a container or an image chose, made fit to be shown: one line, bounded,
//! without anything that moves a cursor or reorders what stands around it. Pure.

use std::fmt::Write as _;

/// Printable text of at most `bound` bytes (`…` included where it was cut).
///
/// Controls, newlines, ESC, bidi overrides, invisible characters and invalid UTF-8 become `\xNN`
/// or `\u{…}`, and a backslash becomes two, so that what is shown says exactly what was there.
pub fn escape(bytes: &[u8], bound: usize) -> String {
    let mut shown = String::with_capacity(bytes.len().min(bound));
    // Where the text ends if the mark has to follow it.
    let mut cut = 0;
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            push_char(&mut shown, char);
            if shown.len() > bound {
                return shorten(shown, cut, bound);
            }
            cut = last_fit(&shown, cut, bound);
        }
        for byte in chunk.invalid() {
            push(&mut shown, format_args!("\\x{byte:02x}"));
            if shown.len() > bound {
                return shorten(shown, cut, bound);
            }
            cut = last_fit(&shown, cut, bound);
        }
    }
    shown
}

const MARK: char = '…';

fn last_fit(shown: &str, cut: usize, bound: usize) -> usize {
    if shown.len() + MARK.len_utf8() <= bound { shown.len() } else { cut }
}

fn shorten(mut shown: String, cut: usize, bound: usize) -> String {
    shown.truncate(cut);
    if cut + MARK.len_utf8() <= bound {
        shown.push(MARK);
    }
    shown
}

fn push_char(shown: &mut String, char: char) {
    match char {
        '\\' => shown.push_str("\\\\"),
        '\0'..='\x1f' | '\x7f' => push(shown, format_args!("\\x{:02x}", u32::from(char))),
        _ if is_deceptive(char) => push(shown, format_args!("\\u{{{:x}}}", u32::from(char))),
        _ => shown.push(char),
    }
}

fn push(shown: &mut String, text: std::fmt::Arguments<'_>) {
    shown.write_fmt(text).expect("a String takes whatever it is given");
}

/// C1 controls; characters that reorder, break or hide text (Unicode Technical Report 36).
pub(crate) fn is_deceptive(char: char) -> bool {
    matches!(char,
        '\u{80}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shows_plain_text_as_it_is() {
        assert_eq!(escape("work/Größe – 数据.ipynb".as_bytes(), 100), "work/Größe – 数据.ipynb");
        assert_eq!(escape(b"", 10), "");
    }

    #[test]
    fn shows_what_would_move_or_hide_text() {
        let table: [(&[u8], &str); 8] = [
            (b"a\nb\tc\0", "a\\x0ab\\x09c\\x00"),
            (b"\x1b[2J\x7f", "\\x1b[2J\\x7f"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("\u{202e}evil\u{2066}".as_bytes(), "\\u{202e}evil\\u{2066}"),
            ("a\u{200b}b\u{feff}".as_bytes(), "a\\u{200b}b\\u{feff}"),
            (b"\xff\xc3(", "\\xff\\xc3("),
            (b"C:\\x1b", "C:\\\\x1b"),
            ("\u{2028}\u{e0041}".as_bytes(), "\\u{2028}\\u{e0041}"),
        ];
        for (bytes, shown) in table {
            assert_eq!(escape(bytes, 100), shown, "{bytes:?}");
        }
    }

    #[test]
    fn a_cut_never_halves_a_character_or_an_escape() {
        assert_eq!(escape(b"abcdefgh", 8), "abcdefgh");
        assert_eq!(escape(b"abcdefghi", 8), "abcde…");
        assert_eq!(escape(b"abcd\x1bxxxx", 8), "abcd…");
        assert_eq!(escape("ääääää".as_bytes(), 7), "ää…");
        assert_eq!(escape(b"abc", 2), "");
        assert_eq!(escape(&vec![b'\n'; 1 << 20], 64).len(), 63);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded_and_printable(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), bound in 0usize..80,
        ) {
            let shown = escape(&bytes, bound);
            prop_assert!(shown.len() <= bound);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_deceptive(c)));
        }
    }
}
