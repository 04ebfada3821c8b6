//! Wakes whoever sleeps on a word of a shared file (futex(2)). The kernel knows such a word by the
//! file and the place in it; it is mapped for that, and never read or written here: a file that is
//! cut short meanwhile is an error of the call, and no SIGBUS.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const PAGE: u64 = 4096;

/// How many were woken. `at` is a multiple of four.
///
/// # Errors
/// The page is not there, or cannot be mapped.
pub fn wake_in_file(file: BorrowedFd<'_>, at: u64) -> Result<usize, Errno> {
    let (page, within) = (at / PAGE * PAGE, at % PAGE);
    let page = i64::try_from(page).map_err(|_| Errno::EOVERFLOW)?;
    let len = NonZeroUsize::new(PAGE as usize).ok_or(Errno::EINVAL)?;
    // SAFETY: a new mapping at an address of the kernel's choice, to which no reference is made.
    let map = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, page) }?;
    let word = map.as_ptr().wrapping_byte_add(within as usize);
    // SAFETY: FUTEX_WAKE uses the address alone, and says EFAULT of a bad one.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
    let woken = Errno::result(woken);
    // SAFETY: the mapping from above, of this length, and nobody uses it any more.
    unsafe { munmap(map, len.get()) }?;
    woken.map(|woken| usize::try_from(woken).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn who_sleeps_on_a_word_of_the_file_is_woken_at_once() {
        let file = memfd_create(c"futex", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        assert_eq!(wake_in_file(file.as_fd(), 4096 + 72), Ok(0));
        let len = NonZeroUsize::new(4096).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: a new mapping of a file that is long enough, read-only, as a worker has it.
                let map = unsafe {
                    mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 4096)
                }
                .unwrap();
                let word = map.as_ptr().wrapping_byte_add(72);
                let patience = libc::timespec { tv_sec: 20, tv_nsec: 0 };
                let time = &raw const patience;
                // SAFETY: the word is mapped, and holds zero.
                unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 0, time) };
                // SAFETY: the mapping from above.
                unsafe { munmap(map, len.get()) }.unwrap();
            });
            while wake_in_file(file.as_fd(), 4096 + 72) == Ok(0) {
                std::thread::yield_now();
                assert!(begun.elapsed() < Duration::from_secs(15), "nobody was woken");
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let file = memfd_create(c"futex", MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(wake_in_file(file.as_fd(), 4096), Err(Errno::EFAULT));
        assert_eq!(wake_in_file(file.as_fd(), 4098), Err(Errno::EINVAL));
    }
}
