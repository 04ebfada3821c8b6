//! `/proc/<pid>/maps` (proc_pid_maps(5)). Pure. The last field is a path that the process chose:
//! it is the rest of the line, and the kernel writes a newline in it as `\012`.

/// One line: a mapping of a file, or of none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping<'t> {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    /// Zero: no file.
    pub inode: u64,
    /// As the kernel shows it: with ` (deleted)` behind a file that has no name any more.
    pub path: &'t [u8],
}

/// Every mapping whose line can be read; the others, and half a line at the end, are none.
pub fn maps(text: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Mapping<'_>> {
    let (range, rest) = word(line)?;
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let (start, end) = (hex(&range[..dash])?, hex(&range[dash + 1..])?);
    let (_access, rest) = word(rest)?;
    let (offset, rest) = word(rest)?;
    let (_device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let inode = super::decimal(inode)?;
    let path = rest.trim_ascii_start();
    (start < end).then_some(Mapping { start, end, offset: hex(offset)?, inode, path })
}

/// Up to a space, which must be there: behind the inode stands at least one.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

fn hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_the_rest_of_its_line() {
        let text = b"55d0e4a00000-55d0e4a72000 r--p 00000000 fe:00 5760796      /usr/bin/php 8 (deleted)\n\
            7ffd1b5f0000-7ffd1b611000 rw-p 00000000 00:00 0          [stack]\n\
            7f12bb534000-7f12bb554000 rw-p 0000f000 00:00 0 \n\
            +1-2 r--p 0 0 0 /x\nnonsense\n5-4 r--p 0 0:0 0 \n1-2 r--p 0 0";
        let found: Vec<Mapping> = maps(text).collect();
        assert_eq!(
            found[0],
            Mapping {
                start: 0x55d0_e4a0_0000,
                end: 0x55d0_e4a7_2000,
                offset: 0,
                inode: 5_760_796,
                path: b"/usr/bin/php 8 (deleted)",
            }
        );
        assert_eq!((found[1].path, found[1].inode), (&b"[stack]"[..], 0));
        assert_eq!((found[2].path, found[2].offset), (&b""[..], 0xf000));
        assert_eq!(found.len(), 3);
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_returns(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            for mapping in maps(&text) {
                prop_assert!(mapping.start < mapping.end);
            }
        }
    }
}
