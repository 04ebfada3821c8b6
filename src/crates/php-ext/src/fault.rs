//! A file that is cut short while it is mapped makes its reader die of SIGBUS: the interpreter must
//! not. A fault in our own mappings puts empty memory in the place of the file; every other one goes
//! to whoever cared for it before.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use trace_layout::PAGE;

/// The ring, and the page of the switch.
static REGIONS: [(AtomicUsize, AtomicUsize); 2] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// Whether a fault was mended.
pub static MENDED: AtomicBool = AtomicBool::new(false);
static mut BEFORE: Option<libc::sigaction> = None;

/// Mends faults in `region` from now on.
pub fn guard(which: usize, region: (usize, usize)) {
    REGIONS[which].1.store(0, Ordering::SeqCst);
    REGIONS[which].0.store(region.0, Ordering::SeqCst);
    REGIONS[which].1.store(region.1, Ordering::SeqCst);
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: a handler that does nothing but what a handler may; what was there is kept first.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) < 0 {
            return;
        }
        BEFORE = Some(before);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = handle as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut());
    }
}

/// The region is no longer ours: what comes to lie there is somebody else's.
pub fn release(which: usize) {
    REGIONS[which].1.store(0, Ordering::SeqCst);
}

/// An address where a mapping has no file any more (sigaction(2)). A signal that somebody sent has
/// another code, and may say any address.
const BUS_ADRERR: i32 = 2;

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo; mmap of a page that is ours is all that is
    // done to it. The handler from before is called as it asked to be.
    unsafe {
        let at = (*info).si_addr() as usize;
        let is_fault = (*info).si_code == BUS_ADRERR;
        for (base, len) in REGIONS.iter().filter(|_| is_fault) {
            let (base, len) = (base.load(Ordering::SeqCst), len.load(Ordering::SeqCst));
            if (base..base + len).contains(&at) {
                let page = at / PAGE * PAGE;
                let got = libc::mmap(
                    page as *mut libc::c_void,
                    PAGE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                );
                if got != libc::MAP_FAILED {
                    MENDED.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
        let before = (&raw const BEFORE).read();
        match before {
            Some(before) if before.sa_sigaction > 1 && before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(before.sa_sigaction);
                handler(signal, info, context);
            }
            Some(before) if before.sa_sigaction > 1 => {
                let handler: extern "C" fn(i32) = std::mem::transmute(before.sa_sigaction);
                handler(signal);
            }
            // Nobody cared: the fault comes again, and ends the process as it would have.
            _ => {
                libc::signal(signal, libc::SIG_DFL);
                // One that was sent does not come again by itself.
                if !is_fault {
                    libc::raise(signal);
                }
            }
        }
    }
}
