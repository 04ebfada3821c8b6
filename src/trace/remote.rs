//! The memory of another process: read from outside (process_vm_readv(2)), which neither stops
//! it nor tells it. Every read is bounded, and what is read is the process's own word: any
//! pointer may be wild, any text without end.

use std::collections::HashMap;
use std::fmt;
use std::io::IoSliceMut;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// Where the memory of an interpreter comes from: a process, or the bytes of a test.
pub trait RemoteMemory {
    /// Fills `into` from `address` on, or fails.
    ///
    /// # Errors
    /// Why it could not be had.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Trouble>;
}

/// Why a piece of memory could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing is mapped there: a wild pointer, or a process that has replaced its program.
    Unmapped(u64),
    /// More was asked for in one sample than any stack needs.
    TooMuch,
    Gone,
    Denied,
    Failed(Errno),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unmapped(address) => write!(f, "nothing is mapped at {address:#x}"),
            Trouble::TooMuch => f.write_str("it leads through more memory than a stack can need"),
            Trouble::Gone => f.write_str("the process has ended"),
            Trouble::Denied => f.write_str("its memory may not be read"),
            Trouble::Failed(errno) => write!(f, "its memory cannot be read: {}", errno.desc()),
        }
    }
}

/// A process of this host.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    pid: Pid,
}

impl ProcessMemory {
    pub fn of(pid: u32) -> ProcessMemory {
        // A pid beyond i32 is nobody's: pid_max is 4,194,304 at most (proc_sys_kernel(5)).
        ProcessMemory { pid: Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)) }
    }
}

impl RemoteMemory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let wanted = into.len();
        let base = usize::try_from(address).map_err(|_| Trouble::Unmapped(address))?;
        let remote = [RemoteIoVec { base, len: wanted }];
        match process_vm_readv(self.pid, &mut [IoSliceMut::new(into)], &remote) {
            Ok(got) if got == wanted => Ok(()),
            Ok(_) | Err(Errno::EFAULT | Errno::EINVAL | Errno::EIO | Errno::ENOMEM) => {
                Err(Trouble::Unmapped(address))
            }
            Err(Errno::ESRCH) => Err(Trouble::Gone),
            Err(Errno::EPERM | Errno::EACCES) => Err(Trouble::Denied),
            Err(errno) => Err(Trouble::Failed(errno)),
        }
    }
}

/// Memory for tests: pieces of it, each at its address.
#[derive(Clone, Default, Debug)]
pub struct Image {
    pub pieces: Vec<(u64, Vec<u8>)>,
}

impl RemoteMemory for Image {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Trouble> {
        for (start, bytes) in &self.pieces {
            let from = address.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            let piece = from.and_then(|from| bytes.get(from..from.checked_add(into.len())?));
            if let Some(piece) = piece {
                into.copy_from_slice(piece);
                return Ok(());
            }
        }
        Err(Trouble::Unmapped(address))
    }
}

/// The smallest page there is: wherever one byte can be read, all of it can.
const PAGE: usize = 4096;

/// The memory of one sample, fetched a page at a time and kept until [`Pages::forget`]: frames,
/// functions and names lie close together, so that a stack of twenty costs thirty calls, not two
/// hundred. It also bounds what one sample may read.
pub struct Pages<'m, M> {
    memory: &'m M,
    places: HashMap<u64, usize>,
    bytes: Vec<u8>,
    /// Consecutive reads mostly hit the same page.
    last: (u64, usize),
}

impl<'m, M: RemoteMemory> Pages<'m, M> {
    /// 256 frames with their functions, names and files a page each are 1,024 pages; what asks
    /// for more is no stack.
    pub const MAX: usize = 1024;

    pub fn new(memory: &'m M) -> Pages<'m, M> {
        Pages { memory, places: HashMap::new(), bytes: Vec::new(), last: (1, 0) }
    }

    /// For the next sample. The room is kept.
    pub fn forget(&mut self) {
        self.places.clear();
        self.bytes.clear();
        self.last = (1, 0);
    }

    /// # Errors
    /// Why it could not be had.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let mut done = 0;
        while done < into.len() {
            let at = address.checked_add(done as u64).ok_or(Trouble::Unmapped(address))?;
            let within = (at % PAGE as u64) as usize;
            let page = self.page(at - within as u64)?;
            let len = (PAGE - within).min(into.len() - done);
            into[done..done + len].copy_from_slice(&page[within..within + len]);
            done += len;
        }
        Ok(())
    }

    /// # Errors
    /// As [`Pages::read`].
    pub fn number<const LEN: usize>(&mut self, address: u64) -> Result<u64, Trouble> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..LEN])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// # Errors
    /// As [`Pages::read`].
    pub fn pointer(&mut self, address: u64) -> Result<u64, Trouble> {
        self.number::<8>(address)
    }

    /// So many bytes, but not more than `bound`.
    ///
    /// # Errors
    /// As [`Pages::read`].
    pub fn text(&mut self, address: u64, len: u64, bound: usize) -> Result<Vec<u8>, Trouble> {
        let mut text = vec![0; usize::try_from(len).unwrap_or(bound).min(bound)];
        self.read(address, &mut text)?;
        Ok(text)
    }

    /// Up to a NUL, but not more than `bound` bytes.
    ///
    /// # Errors
    /// As [`Pages::read`].
    pub fn c_text(&mut self, address: u64, bound: usize) -> Result<Vec<u8>, Trouble> {
        let mut text = Vec::new();
        while text.len() < bound {
            let at = address.checked_add(text.len() as u64).ok_or(Trouble::Unmapped(address))?;
            let within = (at % PAGE as u64) as usize;
            let page = self.page(at - within as u64)?;
            let piece = &page[within..PAGE.min(within + bound - text.len())];
            let end = piece.iter().position(|byte| *byte == 0);
            text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
            if end.is_some() {
                break;
            }
        }
        Ok(text)
    }

    fn page(&mut self, start: u64) -> Result<&[u8], Trouble> {
        if self.last.0 != start {
            let place = match self.places.get(&start) {
                Some(place) => *place,
                None => self.fetch(start)?,
            };
            self.last = (start, place);
        }
        Ok(&self.bytes[self.last.1..self.last.1 + PAGE])
    }

    fn fetch(&mut self, start: u64) -> Result<usize, Trouble> {
        if self.places.len() >= Self::MAX {
            return Err(Trouble::TooMuch);
        }
        let place = self.bytes.len();
        self.bytes.resize(place + PAGE, 0);
        let read = self.memory.read(start, &mut self.bytes[place..]);
        if let Err(trouble) = read {
            self.bytes.truncate(place);
            return Err(trouble);
        }
        self.places.insert(start, place);
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let bytes = (0..3 * PAGE).map(|i| (i % 251) as u8 + 1).collect();
        Image { pieces: vec![(0x1000, bytes)] }
    }

    #[test]
    fn a_read_crosses_pages_and_stops_where_nothing_is_mapped() {
        let image = image();
        let mut pages = Pages::new(&image);
        let mut got = [0; 6];
        pages.read(0x1ffd, &mut got).unwrap();
        assert_eq!(got, image.pieces[0].1[0xffd..0x1003]);
        assert_eq!(pages.read(0x3ffd, &mut got), Err(Trouble::Unmapped(0x4000)));
        assert_eq!(
            pages.read(u64::MAX - 2, &mut got),
            Err(Trouble::Unmapped(0xffff_ffff_ffff_f000))
        );
        assert_eq!(pages.number::<2>(0x1000), Ok(0x0201));
    }

    #[test]
    fn texts_are_bounded() {
        let mut image = image();
        image.pieces[0].1[0x1004] = 0;
        let mut pages = Pages::new(&image);
        assert_eq!(pages.text(0x1000, u64::MAX, 16).unwrap().len(), 16);
        assert_eq!(pages.c_text(0x1ffe, 100).unwrap().len(), 6);
        assert_eq!(pages.c_text(0x1ffe, 3).unwrap().len(), 3);
        assert_eq!(pages.c_text(0x3fff, 100), Err(Trouble::Unmapped(0x4000)));
    }

    #[test]
    fn one_sample_reads_only_so_much() {
        let image = Image { pieces: vec![(0, vec![1; (Pages::<Image>::MAX + 1) * PAGE])] };
        let mut pages = Pages::new(&image);
        for page in 0..Pages::<Image>::MAX {
            assert_eq!(pages.number::<1>((page * PAGE) as u64), Ok(1));
        }
        let beyond = (Pages::<Image>::MAX * PAGE) as u64;
        assert_eq!(pages.number::<1>(beyond), Err(Trouble::TooMuch));
        assert_eq!(pages.number::<1>(0), Ok(1));
        pages.forget();
        assert_eq!(pages.number::<1>(beyond), Ok(1));
    }

    #[test]
    fn our_own_memory_is_read_and_a_wild_pointer_is_no_crash() {
        let memory = ProcessMemory::of(std::process::id());
        let told = [7u8; 300];
        let mut got = [0; 300];
        memory.read(told.as_ptr() as u64, &mut got).unwrap();
        assert_eq!(told, got);
        assert_eq!(memory.read(16, &mut got), Err(Trouble::Unmapped(16)));
        assert_eq!(ProcessMemory::of(u32::MAX).read(16, &mut got), Err(Trouble::Gone));
    }
}
