//! A stand-in for the tracer inside an interpreter: a mapped file of a process's, the switch in its
//! page, and calls that are written while it is on. The process itself knows nothing of it.

#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use trace_layout::switch::{Entry, entry_page};
use trace_layout::{Identity, PAGE, Switch, SwitchState, Tracing, Writer, file_len};

/// The tracer of one process, in a thread of the test.
pub struct Tracer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

struct Map(NonNull<std::ffi::c_void>, usize);

impl Map {
    fn new(file: &File, len: usize, at: u64, protection: ProtFlags) -> Map {
        let size = NonZeroUsize::new(len).unwrap();
        let at = i64::try_from(at).unwrap();
        // SAFETY: a new mapping, at no fixed address, of a file that the test does not cut.
        let map = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, at) };
        Map(map.unwrap(), len)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and what pointed into it is gone before.
        unsafe { munmap(self.0, self.1) }.unwrap();
    }
}

/// A process's start, field 22 of its stat.
pub fn start_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

pub fn path_of(dir: &Path, pid: u32) -> PathBuf {
    let uid = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    dir.join(format!("{uid}/{pid}-{}.trace", start_of(pid)))
}

impl Tracer {
    /// Waits for the tool to make table and directory, then does what its switch says. `step` is
    /// called again and again while it is on; false: it has nothing more to write. What is
    /// returned at the end is the number of records.
    pub fn of(
        pid: u32,
        dir: &Path,
        slots: u32,
        mut step: impl FnMut(&mut Writer) -> bool + Send + 'static,
    ) -> Tracer {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, dir) = (Arc::clone(&stop), dir.to_owned());
        let (path, start) = (path_of(&dir, pid), start_of(pid));
        let thread = thread::spawn(move || {
            let nap = || thread::sleep(Duration::from_millis(1));
            while !dir.join("switch").exists() || !path.parent().unwrap().exists() {
                if asked.load(Ordering::Acquire) {
                    return 0;
                }
                nap();
            }
            let table = File::open(dir.join("switch")).unwrap();
            let (page, at) = entry_page(pid);
            let page = Map::new(&table, PAGE, page, ProtFlags::PROT_READ);
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path).unwrap();
            let len = file_len(slots);
            file.set_len(len as u64).unwrap();
            let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let map = Map::new(&file, len, 0, both);
            let of = Identity {
                pid,
                start,
                runtime: trace_layout::header::PHP,
                runtime_version: 80236,
                flags: 0,
                created: 1,
            };
            // SAFETY: the page is mapped until the end of this thread, entries are aligned in it;
            // the file is new, as long as is said, and written to by nobody else.
            let (switch, mut writer) = unsafe {
                let entry = page.0.as_ptr().cast::<u8>().add(at).cast::<Entry>();
                (Switch::new(entry), Writer::create(map.0.as_ptr().cast(), len, slots, &of))
            };
            let writer = writer.as_mut().unwrap();
            writer.idle(nbguard::trace::now(), 0);
            let mut session = 0;
            let mut has_more = true;
            while !asked.load(Ordering::Acquire) {
                let now = nbguard::trace::now();
                writer.beat(now);
                match switch.look(start, now) {
                    SwitchState::On(settings) => {
                        if session != settings.session {
                            session = settings.session;
                            writer.tracing(Tracing::On, session);
                        }
                        if !has_more || !step(writer) {
                            has_more = false;
                            nap();
                        }
                    }
                    SwitchState::Stale => {
                        writer.tracing(Tracing::OffStale, session);
                        nap();
                    }
                    SwitchState::Off => {
                        if session != 0 {
                            writer.tracing(Tracing::OffSwitch, session);
                        }
                        nap();
                    }
                }
            }
            writer.written()
        });
        Tracer { stop, thread: Some(thread) }
    }

    /// How many records it wrote.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
