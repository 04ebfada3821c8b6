//! Keeping this process in memory: under pressure its own pages must not be what is evicted.

use std::io;

fn checked(result: libc::c_int) -> io::Result<()> {
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Locks the binary as a whole, so that no code on the way from an event to a signal has to come
/// from disk, and everything else from its first use on (mlockall(2), MCL_ONFAULT).
///
/// MCL_CURRENT without it would fill the room of every vector and every hole of the heap (1 MiB
/// with 110 containers), MCL_FUTURE 2 MiB for each thread's stack.
///
/// # Errors
/// EPERM, ENOMEM: neither CAP_IPC_LOCK nor enough RLIMIT_MEMLOCK.
pub fn lock() -> io::Result<()> {
    let used = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall takes an integer and changes only how pages are kept.
    checked(unsafe { libc::mlockall(used) })?;
    let unwinding = unwind_tables();
    for (start, end) in files_of(&std::fs::read_to_string("/proc/self/maps")?) {
        let end = if (start..end).contains(&unwinding) { unwinding } else { end };
        // SAFETY: mlock takes an address and a length, not to read or write there: it brings the
        // pages in and keeps them. What is not mapped it refuses.
        checked(unsafe { libc::mlock(start as *const libc::c_void, end - start) })?;
    }
    Ok(())
}

/// Where the tables for unwinding begin, from which on nothing else is in their mapping (ld puts
/// them last): 210 KiB that nobody reads, since a panic aborts. `usize::MAX`: not known.
fn unwind_tables() -> usize {
    // SAFETY: getauxval takes an integer and reads what the kernel gave the process at its start.
    let (headers, count) =
        unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if headers == 0 {
        return usize::MAX;
    }
    // SAFETY: the kernel gave address and number of this program's own headers, which are mapped
    // to be read for as long as it runs (getauxval(3), elf(5)).
    let headers =
        unsafe { std::slice::from_raw_parts(headers as *const libc::Elf64_Phdr, count as usize) };
    let of = |kind| headers.iter().find(|header| header.p_type == kind);
    // Of a program that may lie anywhere the addresses are relative to where it does.
    let base = of(libc::PT_PHDR)
        .map_or(0, |own| (headers.as_ptr() as usize).wrapping_sub(own.p_vaddr as usize));
    of(libc::PT_GNU_EH_FRAME)
        .map_or(usize::MAX, |tables| base.wrapping_add(tables.p_vaddr as usize))
}

/// Mappings of files that can be read, as addresses: the binary, and its libraries where it has
/// any (proc_pid_maps(5)).
fn files_of(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next()?, words.next()?);
        let is_file = words.nth(2)? != "0";
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (is_file && access.starts_with('r')).then_some((address(start)?, address(end)?))
    })
}

/// What is larger gets a mapping of its own: pages of it that are never used are never there, and
/// it is given back as soon as it is freed; so is the top of the heap. glibc's own bound for both
/// is 128 KiB, and rises.
const LARGE: libc::c_int = 16 << 10;

/// One malloc arena for all threads: each further one would map 64 MiB and touch its own pages.
/// To be called before the first thread starts.
pub fn small_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TOP_PAD, LARGE);
    }
}

/// Gives freed memory at the top of the heap back to the kernel (malloc_trim(3)).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The same where memory is locked, whose pages are not given back while they are: the heap is
/// let go of for the time of the trimming, and what is used of it afterwards is locked again.
/// Seen on 6.18: madvise(MADV_DONTNEED) of locked pages is EINVAL, and `malloc_trim` goes on
/// without a word.
///
/// # Errors
/// ENOMEM, EPERM: it could not be locked again.
pub fn trim_locked() -> io::Result<()> {
    let Some((start, end)) = heap_of(&std::fs::read_to_string("/proc/self/maps")?) else {
        trim();
        return Ok(());
    };
    // SAFETY: munlock takes an address and a length, not to read or write there.
    checked(unsafe { libc::munlock(start as *const libc::c_void, end - start) })?;
    trim();
    // The heap may be shorter by now: what is not mapped any more is refused, so ask anew.
    let Some((start, end)) = heap_of(&std::fs::read_to_string("/proc/self/maps")?) else {
        return Ok(());
    };
    // SAFETY: mlock2 takes an address, a length and a flag, not to read or write there.
    checked(unsafe { libc::mlock2(start as *const libc::c_void, end - start, libc::MLOCK_ONFAULT) })
}

/// The heap's mapping, as addresses.
fn heap_of(maps: &str) -> Option<(usize, usize)> {
    let line = maps.lines().find(|line| line.ends_with("[heap]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_among_the_files_that_are_mapped_and_the_heap_is_not() {
        let maps = "00200000-00272000 r--p 00000000 fe:00 5760796 /usr/sbin/nbguardd\n\
            00272000-0040d000 r-xp 00071000 fe:00 5760796 /usr/sbin/nbguardd\n\
            00500000-00501000 ---p 00071000 fe:00 5760796 /usr/sbin/nbguardd\n\
            04589000-0461c000 rw-p 00000000 00:00 0 [heap]\n\
            7f12bb534000-7f12bb554000 rw-p 00000000 00:00 0 \nnonsense";
        let found: Vec<_> = files_of(maps).collect();
        assert_eq!(found, [(0x20_0000, 0x27_2000), (0x27_2000, 0x40_d000)]);
        assert_eq!(heap_of(maps), Some((0x458_9000, 0x461_c000)));
        assert_eq!(heap_of("nonsense\n"), None);
        let code = files_of as fn(&'static str) -> _ as *const () as usize;
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(files_of(&own).any(|(start, end)| (start..end).contains(&code)));
    }
}
