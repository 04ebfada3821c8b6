//! The files of one process: `stat`, `status`, `smaps_rollup` (proc(5)). Pure, no allocation.
//! A process chooses its own name, so nothing here splits at what a name may contain.

use super::{ParseError, decimal, key_colon, kib, lines};
use crate::facts::{Comm, ProcMemory};
use crate::units::Bytes;

/// `/proc/<pid>/stat`, the fields that are used (proc_pid_stat(5) numbers them from one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatLine {
    pub pid: u32,
    pub comm: Comm,
    pub state: u8,
    /// Zero: none, or outside our pid namespace.
    pub ppid: u32,
    pub pgrp: u32,
    pub sid: u32,
    /// Clock ticks in user mode.
    pub utime: u64,
    /// Clock ticks in kernel mode.
    pub stime: u64,
    pub threads: u32,
    /// Clock ticks since boot.
    pub start: u64,
    pub rss_pages: u64,
}

/// The longest name between the brackets: a kernel worker's (64 with its NUL, fs/proc/array.c,
/// `proc_task_name`); a process has 15. After it come only digits, spaces and signs.
const NAME_MAX: usize = 64;

/// Parses `stat` from the **last** `)`: the name in front of it may hold spaces, newlines and
/// brackets, and nothing after it can hold a bracket. One pass, since this is done for every
/// process between an event and a signal.
///
/// # Errors
/// When a field is missing or not a number.
pub fn stat(text: &[u8]) -> Result<StatLine, ParseError> {
    let bad = |expected| ParseError::at("stat", 1, expected);
    let open = text.iter().position(|b| *b == b'(').ok_or(bad("("))?;
    let name = &text[open + 1..text.len().min(open + 1 + NAME_MAX)];
    let close = name.iter().rposition(|b| *b == b')').ok_or(bad(")"))?;
    let pid = decimal(text[..open].trim_ascii_end()).ok_or(bad("a pid"))?;
    let [b' ', state, rest @ ..] = &text[open + 1 + close + 1..] else {
        return Err(bad("a state"));
    };
    let mut fields = Fields { rest };
    let ppid = fields.id().ok_or(bad("ppid"))?;
    let pgrp = fields.id().ok_or(bad("pgrp"))?;
    let sid = fields.id().ok_or(bad("session"))?;
    // tty_nr to cmajflt, by the numbers of the manual page.
    let utime = fields.skip(14 - 7).number().ok_or(bad("utime"))?;
    let stime = fields.number().ok_or(bad("stime"))?;
    let threads = fields.skip(20 - 16).number().ok_or(bad("num_threads"))?;
    let start = fields.skip(22 - 21).number().ok_or(bad("starttime"))?;
    let rss_pages = fields.skip(24 - 23).number().ok_or(bad("rss"))?;
    Ok(StatLine {
        pid: u32::try_from(pid).map_err(|_| bad("a pid"))?,
        comm: Comm::new(&name[..close]),
        state: *state,
        ppid,
        pgrp,
        sid,
        utime,
        stime,
        threads: u32::try_from(threads).map_err(|_| bad("num_threads"))?,
        start,
        rss_pages,
    })
}

/// What is left of a line of numbers: each stands behind one space.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn skip(&mut self, fields: usize) -> &mut Self {
        for _ in 0..fields {
            let text = self.rest.get(1..).unwrap_or_default();
            let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
            self.rest = &text[end..];
        }
        self
    }

    fn number(&mut self) -> Option<u64> {
        let [b' ', text @ ..] = self.rest else { return None };
        let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        self.rest = &text[end..];
        decimal(&text[..end])
    }

    /// A pid; a process that is just being reaped has `-1` there (fs/proc/array.c,
    /// `do_task_stat`).
    fn id(&mut self) -> Option<u32> {
        if let [b' ', b'-', b'1', rest @ ..] = self.rest {
            self.rest = rest;
            return Some(0);
        }
        self.number().and_then(|id| u32::try_from(id).ok())
    }
}

/// RssAnon, RssShmem and VmSwap of `status`; `Ok(None)` for a process without memory of its own
/// (a kernel thread, a zombie). The kernel escapes newlines in `Name`, so lines can be trusted.
///
/// # Errors
/// When one is there without the others, or is not in kB.
pub fn status_memory(text: &[u8]) -> Result<Option<ProcMemory>, ParseError> {
    let (mut anon, mut shmem, mut swap) = (None, None, None);
    for (n, line) in lines(text) {
        let Some((key, value)) = key_colon(line) else { continue };
        let slot = match key {
            b"RssAnon" => &mut anon,
            b"RssShmem" => &mut shmem,
            b"VmSwap" => &mut swap,
            _ => continue,
        };
        *slot = Some(kib(value).ok_or(ParseError::at("status", n, "a size in kB"))?);
    }
    match (anon, shmem, swap) {
        (Some(anon), Some(shmem), Some(swap)) => Ok(Some(ProcMemory { anon, shmem, swap })),
        (None, None, None) => Ok(None),
        _ => Err(ParseError::missing("status", "RssAnon, RssShmem and VmSwap together")),
    }
}

/// How often the main thread left the CPU, of its own will or not: a thread that has not run since
/// has the same number (proc_pid_status(5), `voluntary_ctxt_switches`, `nonvoluntary_ctxt_switches`).
///
/// # Errors
/// Where a line is not as documented, or missing.
pub fn status_switches(text: &[u8]) -> Result<u64, ParseError> {
    let (mut own, mut forced) = (None, None);
    for (n, line) in lines(text) {
        let Some((key, value)) = key_colon(line) else { continue };
        let slot = match key {
            b"voluntary_ctxt_switches" => &mut own,
            b"nonvoluntary_ctxt_switches" => &mut forced,
            _ => continue,
        };
        *slot = Some(decimal(value).ok_or(ParseError::at("status", n, "a number"))?);
    }
    match (own, forced) {
        (Some(own), Some(forced)) => Ok(own.saturating_add(forced)),
        _ => Err(ParseError::missing("status", "ctxt_switches")),
    }
}

/// Who a process is: its owner and what it is called in its own pid namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    pub tgid: u32,
    pub ppid: u32,
    /// The real uid, as seen from our user namespace.
    pub uid: u32,
    /// The effective uid.
    pub euid: u32,
    /// The pid in the innermost pid namespace.
    pub nspid: u32,
}

/// Tgid, PPid, Uid and NSpid of `status`.
///
/// # Errors
/// When one is missing or not a number.
pub fn status_ids(text: &[u8]) -> Result<Ids, ParseError> {
    let (mut tgid, mut ppid, mut uids, mut nspid) = (None, None, None, None);
    for (n, line) in lines(text) {
        let Some((key, value)) = key_colon(line) else { continue };
        let bad = ParseError::at("status", n, "a number");
        let mut words = value.split(|b| *b == b'\t' || *b == b' ').filter(|w| !w.is_empty());
        match key {
            b"Tgid" => tgid = Some(small(words.next()).ok_or(bad)?),
            b"PPid" => ppid = Some(small(words.next()).ok_or(bad)?),
            b"NSpid" => nspid = Some(small(words.next_back()).ok_or(bad)?),
            b"Uid" => {
                let real = small(words.next()).ok_or(bad)?;
                uids = Some((real, small(words.next()).ok_or(bad)?));
            }
            _ => {}
        }
    }
    let missing = |what| ParseError::missing("status", what);
    let (uid, euid) = uids.ok_or(missing("Uid"))?;
    Ok(Ids {
        tgid: tgid.ok_or(missing("Tgid"))?,
        ppid: ppid.ok_or(missing("PPid"))?,
        uid,
        euid,
        nspid: nspid.ok_or(missing("NSpid"))?,
    })
}

fn small(word: Option<&[u8]>) -> Option<u32> {
    decimal(word?).and_then(|n| u32::try_from(n).ok())
}

/// Proportional anonymous + shared + swapped memory: `Pss_Anon` + `Pss_Shmem` + `SwapPss`. What
/// files hold is left out, since an end gives nothing of it back that reclaim could not.
/// The kernel splits PSS since 5.3, the oldest that is guarded.
///
/// # Errors
/// When one of the three is missing or not in kB.
pub fn smaps_rollup_pss(text: &[u8]) -> Result<Bytes, ParseError> {
    let mut parts = [None; 3];
    for (n, line) in lines(text) {
        let Some((key, value)) = key_colon(line) else { continue };
        let part = match key {
            b"Pss_Anon" => &mut parts[0],
            b"Pss_Shmem" => &mut parts[1],
            b"SwapPss" => &mut parts[2],
            _ => continue,
        };
        *part = Some(kib(value).ok_or(ParseError::at("smaps_rollup", n, "a size in kB"))?);
    }
    match parts {
        [Some(anon), Some(shmem), Some(swap)] => Ok(anon.plus(shmem).plus(swap)),
        _ => Err(ParseError::missing("smaps_rollup", "Pss_Anon, Pss_Shmem and SwapPss")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "16878 (head) R 16873 16870 15274 0 -1 4194304 100 0 0 0 7 9 0 0 20 0 3 0 \
        87001 2998272 414 18446744073709551615 94216086511616 94216086535721 140737197028752 0 0\n";

    #[test]
    fn reads_a_stat_line() {
        let line = stat(STAT.as_bytes()).unwrap();
        assert_eq!((line.pid, line.state, line.comm.bytes()), (16878, b'R', &b"head"[..]));
        assert_eq!((line.ppid, line.pgrp, line.sid), (16873, 16870, 15274));
        assert_eq!((line.utime, line.stime, line.threads), (7, 9, 3));
        assert_eq!((line.start, line.rss_pages), (87001, 414));
    }

    #[test]
    fn a_name_cannot_forge_fields() {
        for name in ["a) R 1 1 1 (b", ") S 1", "((((", "))))", " ", "a\nb", "\u{202e}x", "a b) Z 0"]
        {
            let text = STAT.replace("(head)", &format!("({name})"));
            let line = stat(text.as_bytes()).unwrap();
            assert_eq!((line.ppid, line.start, line.state), (16873, 87001, b'R'), "{name:?}");
            assert_eq!(line.comm, Comm::new(name.as_bytes()));
        }
    }

    #[test]
    fn a_process_that_is_being_reaped_has_no_group() {
        let line = stat(STAT.replace("16873 16870 15274", "0 -1 -1").as_bytes()).unwrap();
        assert_eq!((line.ppid, line.pgrp, line.sid), (0, 0, 0));
    }

    #[test]
    fn broken_stat_lines_are_refused() {
        for bad in
            ["", "1", "1 (a", "1 a)", ")(", "1 (a)", "1 (a) R", "x (a) R 1 1 1", "1 (a) RR 1"]
        {
            assert!(stat(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(stat(STAT.replace("87001", "x").as_bytes()).is_err());
        assert!(stat(STAT.replace("87001", "99999999999999999999").as_bytes()).is_err());
        assert!(stat(STAT.replace("16878", "4294967296").as_bytes()).is_err());
        let cut = STAT.find("2998272").unwrap();
        assert_eq!(stat(&STAT.as_bytes()[..cut]).unwrap_err().expected, "rss");
    }

    const STATUS: &str = "Name:\tpy\\nUid:\t0\nTgid:\t31\nPid:\t31\nPPid:\t7\n\
        Uid:\t1000\t1001\t1000\t1000\nNSpid:\t4242\t31\nVmRSS:\t 1768 kB\n\
        RssAnon:\t     116 kB\nRssFile:\t 1652 kB\nRssShmem:\t       8 kB\nVmSwap:\t       4 kB\n\
        voluntary_ctxt_switches:\t42\nnonvoluntary_ctxt_switches:\t4\n";

    #[test]
    fn reads_memory_and_ids_of_status() {
        let memory = status_memory(STATUS.as_bytes()).unwrap().unwrap();
        assert_eq!(memory.anon, Bytes::kib(116));
        assert_eq!((memory.shmem, memory.swap), (Bytes::kib(8), Bytes::kib(4)));
        let ids = status_ids(STATUS.as_bytes()).unwrap();
        assert_eq!(ids, Ids { tgid: 31, ppid: 7, uid: 1000, euid: 1001, nspid: 31 });
    }

    #[test]
    fn a_zombie_has_no_memory_lines_and_half_of_them_is_an_error() {
        assert_eq!(status_memory(b"Name:\tx\nState:\tZ (zombie)\n").unwrap(), None);
        assert!(status_memory(b"RssAnon:\t 1 kB\n").is_err());
        assert!(status_memory(STATUS.replace("116 kB", "116 MB").as_bytes()).is_err());
        assert!(status_memory(STATUS.replace("116", "18446744073709551615").as_bytes()).is_err());
        assert!(status_ids(b"Tgid:\t1\n").is_err());
        assert!(status_ids(STATUS.replace("Uid:\t1000\t", "Uid:\t-1\t").as_bytes()).is_err());
    }

    const ROLLUP: &str = "556d68568000-7ffdb5102000 ---p 00000000 00:00 0    [rollup]\n\
        Rss:                1640 kB\nPss:                 384 kB\nPss_Anon:            112 kB\n\
        Pss_File:            272 kB\nPss_Shmem:            10 kB\nSwap:   9 kB\nSwapPss:   5 kB\n";

    #[test]
    fn context_switches_are_those_of_both_kinds() {
        assert_eq!(status_switches(STATUS.as_bytes()).unwrap(), 46);
        assert!(status_switches(b"voluntary_ctxt_switches:\t12\n").is_err());
        let bad = b"voluntary_ctxt_switches:\t1x\nnonvoluntary_ctxt_switches:\t1\n";
        assert!(status_switches(bad).is_err());
    }

    #[test]
    fn pss_counts_what_an_end_gives_back() {
        assert_eq!(smaps_rollup_pss(ROLLUP.as_bytes()).unwrap(), Bytes::kib(127));
        assert!(smaps_rollup_pss(b"").is_err());
        assert!(smaps_rollup_pss(ROLLUP.replace("SwapPss", "Other").as_bytes()).is_err());
        assert!(smaps_rollup_pss(ROLLUP.replace("112 kB", "many").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (stat(&text), status_memory(&text), status_ids(&text), smaps_rollup_pss(&text));
        }

        #[test]
        fn any_name_leaves_the_fields_alone(name in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut text = b"5 (".to_vec();
            text.extend(&name);
            text.extend(&STAT.as_bytes()["16878 (head".len()..]);
            let line = stat(&text).unwrap();
            prop_assert_eq!((line.pid, line.ppid, line.start), (5, 16873, 87001));
        }

        #[test]
        fn near_misses_do_not_panic(at in 0usize..180, byte in any::<u8>()) {
            let mut text = STAT.as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _ = stat(&text);
            let mut text = STATUS.as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _ = (status_memory(&text), status_ids(&text));
        }
    }
}
