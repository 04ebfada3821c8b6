//! Keeping this process in memory: under pressure its own pages must not be what is evicted.

use std::io;

fn checked(result: libc::c_int) -> io::Result<()> {
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Locks what is mapped now, and what will be mapped from its first use on (mlockall(2)).
///
/// The first call reads the whole binary in, so that no code on the way from an event to a
/// signal has to come from disk. The second keeps later mappings (thread stacks, the heap)
/// from being filled before they are used: MCL_FUTURE alone costs 2 MiB a thread.
///
/// # Errors
/// EPERM, ENOMEM: neither CAP_IPC_LOCK nor enough RLIMIT_MEMLOCK.
pub fn lock() -> io::Result<()> {
    // SAFETY: mlockall takes an integer and changes only how pages are kept.
    checked(unsafe { libc::mlockall(libc::MCL_CURRENT) })?;
    let later = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: as above.
    checked(unsafe { libc::mlockall(later) })
}

/// One malloc arena for all threads: each further one would map 64 MiB and touch its own pages.
/// To be called before the first thread starts.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
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
