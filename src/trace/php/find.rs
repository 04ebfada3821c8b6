//! Finds PHP in a process: the program or library that holds the interpreter, where it is loaded,
//! where its globals lie, and which version it is. The file may be another container's, deleted
//! or stripped; it is opened through what the kernel keeps of it, and believed only if its head
//! is the head of what is mapped.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc::{S_IFMT, S_IFREG};
use nix::sys::stat::{Mode, fstat};
use object::elf::{
    FileHeader64, PT_LOAD, ProgramHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, Sym64,
};
use object::endian::LittleEndian;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};

use crate::parse::maps::{Mapping, maps};
use crate::trace::php::layout::Layout;
use crate::trace::remote::{RemoteMemory, Trouble};

/// A process with 65,530 mappings (vm.max_map_count) of 100 bytes each; what is longer is cut.
const MAPS_MAX: u64 = 8 << 20;
/// Debian's has 260 KiB of symbols and as much of their names; one with all its debug symbols
/// some MiB.
const SYMBOLS_MAX: u64 = 64 << 20;
/// A library is looked into if its name says PHP; more than a few of them are not PHP's doing.
const LIBRARIES_MAX: usize = 4;

/// Why there is nothing to look into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missing {
    /// The process is gone.
    Gone,
    /// What may not be read.
    Denied(&'static str),
    /// No interpreter in it.
    NotPhp,
    /// It is PHP, built thread-safe: its globals lie in thread-local storage.
    ThreadSafe { version: String },
    /// It is PHP, of a version whose fields are not known.
    NoTable { version: String },
    /// It is PHP, but does not say which, or not where its globals are.
    Hidden(&'static str),
    /// It has no symbol of that name.
    NoGlobal(String),
    /// A file that is not what it should be.
    Broken(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Gone => f.write_str("the process has ended"),
            Missing::Denied(what) => write!(f, "{what} may not be read: it takes CAP_SYS_PTRACE"),
            Missing::NotPhp => f.write_str("no PHP runs in it"),
            Missing::ThreadSafe { version } => write!(
                f,
                "PHP {version} is built thread-safe (ZTS), whose globals cannot be found from \
                 outside: load the extension and use `nbguard trace --snapshot`"
            ),
            Missing::NoTable { version } => write!(
                f,
                "PHP {version} is not known here, only {}: load the extension and use `nbguard \
                 trace --snapshot`",
                Layout::names()
            ),
            Missing::Hidden(what) => write!(f, "PHP runs in it, but {what}"),
            Missing::NoGlobal(name) => write!(f, "this PHP has no global `{name}`"),
            Missing::Broken(what) => f.write_str(what),
        }
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// `8.2.36`
    pub version: String,
    pub layout: Layout,
    pub executor: u64,
    pub sapi: u64,
    /// Where the other symbols that were asked for lie, in their order.
    pub others: Vec<Option<u64>>,
}

/// A process's `maps`, and which of its files may hold an interpreter.
pub struct Mapped {
    pid: u32,
    text: Vec<u8>,
    exe: PathBuf,
}

impl Mapped {
    /// # Errors
    /// The process is gone, or may not be looked into.
    pub fn of(pid: u32) -> Result<Mapped, Missing> {
        let missing = |error: std::io::Error, what| match error.raw_os_error().map(Errno::from_raw)
        {
            Some(Errno::EACCES | Errno::EPERM) => Missing::Denied(what),
            _ => Missing::Gone,
        };
        let mut text = Vec::new();
        let file = File::open(format!("/proc/{pid}/maps"));
        file.and_then(|file| file.take(MAPS_MAX).read_to_end(&mut text))
            .map_err(|error| missing(error, "its memory map"))?;
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map_err(|error| missing(error, "its program"))?;
        Ok(Mapped { pid, text, exe })
    }

    /// The program's path, as its own namespace has it.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// The name of the program's file, without what follows a deleted one.
    pub fn exe_name(&self) -> String {
        let name = self.exe.file_name().unwrap_or_default().to_string_lossy();
        name.trim_end_matches(DELETED).to_owned()
    }

    /// Whether the process has begun another program meanwhile: then nothing read of it counts.
    pub fn is_replaced(&self) -> bool {
        let now = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        now.is_ok_and(|now| now != self.exe)
    }

    /// The same where the program may be the same one, begun anew: it lies elsewhere.
    pub fn has_moved(&self) -> bool {
        let first = |mapped: &Mapped| mapped.candidates().first().map(|(head, _)| head.start);
        Mapped::of(self.pid).is_ok_and(|now| first(&now) != first(self))
    }

    /// Whether a library with such a name is loaded.
    pub fn loads(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        maps(&self.text).any(|mapping| mapping.offset == 0 && is_it(name(mapping.path)))
    }

    /// The first mapping of the program, then of each library that calls itself PHP.
    fn candidates(&self) -> Vec<(Mapping<'_>, bool)> {
        use std::os::unix::ffi::OsStrExt;
        let exe = self.exe.as_os_str().as_bytes();
        let heads = || maps(&self.text).filter(|m| m.offset == 0 && m.inode != 0);
        let program = heads().find(|mapping| mapping.path == exe).map(|mapping| (mapping, true));
        let libraries = heads().filter(|mapping| mapping.path != exe && is_php(name(mapping.path)));
        let mut found: Vec<(Mapping<'_>, bool)> = program.into_iter().collect();
        for library in libraries {
            if !found.iter().any(|(known, _)| known.path == library.path) {
                found.push((library, false));
            }
        }
        found.truncate(LIBRARIES_MAX + 1);
        found
    }
}

const DELETED: &str = " (deleted)";

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// `libphp8.2.so`, `libphp.so`, `mod_php.so`; `php8.2` and `php-fpm8.2` where the program was
/// started through a loader.
fn is_php(name: &[u8]) -> bool {
    ["libphp", "mod_php", "php"].iter().any(|start| name.starts_with(start.as_bytes()))
}

/// Looks for PHP in the process, and for where `others` of its symbols lie.
///
/// # Errors
/// Why there is none to look into.
pub fn find<M: RemoteMemory>(
    mapped: &Mapped,
    memory: &M,
    others: &[&str],
) -> Result<Found, Missing> {
    let mut why = Missing::NotPhp;
    for (mapping, is_program) in mapped.candidates() {
        match look_into(mapped.pid, &mapping, is_program, memory, others) {
            Ok(found) => return Ok(found),
            // The first that is PHP, or that could not be read, says more than one that is not.
            Err(missing) if why == Missing::NotPhp => why = missing,
            Err(_) => {}
        }
    }
    Err(why)
}

fn look_into<M: RemoteMemory>(
    pid: u32,
    mapping: &Mapping<'_>,
    is_program: bool,
    memory: &M,
    others: &[&str],
) -> Result<Found, Missing> {
    inspect(&open_mapped(pid, mapping, is_program)?, mapping, memory, others)
}

/// What an ELF file says, and the memory into which it is mapped.
///
/// # Errors
/// As [`find`].
pub fn inspect<M: RemoteMemory>(
    file: &File,
    mapping: &Mapping<'_>,
    memory: &M,
    others: &[&str],
) -> Result<Found, Missing> {
    let shown = crate::parse::escape(mapping.path, 256);
    let broken = |what: &str| Missing::Broken(format!("{shown}: {what}"));
    let size = file.metadata().map_err(|_| broken("has no size"))?.len();
    is_mapped(file, mapping, memory).map_err(|trouble| match trouble {
        Some(Trouble::Gone) => Missing::Gone,
        Some(Trouble::Denied) => Missing::Denied("its memory"),
        Some(trouble) => broken(&trouble.to_string()),
        None => broken("is not the file that is mapped"),
    })?;
    let cache = ReadCache::new(file);
    let elf = Elf::read(&cache, size).map_err(&broken)?;
    let bias = mapping.start.wrapping_sub(elf.start);
    let mut wanted = ALWAYS.to_vec();
    wanted.extend(others);
    let symbols = elf.symbols(file, &wanted).map_err(broken)?;
    let place = |symbol: Option<u64>| symbol.map(|symbol| bias.wrapping_add(symbol));
    if symbols[0].is_none() && symbols[2].is_none() {
        return Err(Missing::NotPhp);
    }
    let version = elf.version(file).ok_or(Missing::Hidden("it does not say which version"))?;
    let (Some(executor), Some(sapi)) = (place(symbols[0]), place(symbols[1])) else {
        return Err(match symbols[2] {
            Some(_) => Missing::ThreadSafe { version },
            None => Missing::Hidden("it does not say where its globals are"),
        });
    };
    let layout = numbers(&version).and_then(Layout::of);
    let layout = layout.ok_or_else(|| Missing::NoTable { version: version.clone() })?;
    let others = symbols[ALWAYS.len()..].iter().map(|symbol| place(*symbol)).collect();
    Ok(Found { version, layout, executor, sapi, others })
}

/// Only thread-safe builds have the third, and these have neither of the others.
const ALWAYS: [&str; 3] = ["executor_globals", "sapi_globals", "executor_globals_offset"];

/// `8.2` of `8.2.36`.
fn numbers(version: &str) -> Option<(u8, u8)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A FIFO at that name must not hold us up, and a terminal not become ours.
const FILE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// The file behind a mapping: by the kernel's own links, which also lead to what was deleted or
/// lies in another mount namespace, or by its path there.
fn open_mapped(pid: u32, mapping: &Mapping<'_>, is_program: bool) -> Result<File, Missing> {
    let link = if is_program {
        format!("/proc/{pid}/exe")
    } else {
        // Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)).
        format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end)
    };
    let opened = match open(link.as_str(), FILE, Mode::empty()) {
        Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT) if !is_program => {
            open_beneath_root(pid, mapping)
        }
        opened => opened,
    };
    let file = opened.map_err(|errno| match errno {
        Errno::EACCES | Errno::EPERM => Missing::Denied("its program"),
        Errno::ENOENT | Errno::ESRCH if is_program => Missing::Gone,
        errno => Missing::Broken(format!(
            "{}: {}",
            crate::parse::escape(mapping.path, 256),
            errno.desc()
        )),
    })?;
    let is_file = fstat(file.as_fd()).is_ok_and(|stat| stat.st_mode & S_IFMT == S_IFREG);
    is_file.then(|| File::from(file)).ok_or(Missing::NotPhp)
}

fn open_beneath_root(pid: u32, mapping: &Mapping<'_>) -> Result<OwnedFd, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let place = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
    let root = open(format!("/proc/{pid}/root").as_str(), place, Mode::empty())?;
    let how = OFlag::O_PATH.union(OFlag::O_CLOEXEC);
    let how = OpenHow::new().flags(how).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let name = Path::new(std::ffi::OsStr::from_bytes(mapping.path));
    let found = openat2(root.as_fd(), name, how)?;
    // A device may have its name by now: to open one may already be too much.
    if fstat(found.as_fd())?.st_mode & S_IFMT != S_IFREG {
        return Err(Errno::ENOENT);
    }
    open(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str(), FILE, Mode::empty())
}

/// Bytes that must be the same: ELF's header and the program headers behind it.
const HEAD: usize = 1024;

/// Some other file may have that name by now.
fn is_mapped<M: RemoteMemory>(
    file: &File,
    mapping: &Mapping<'_>,
    memory: &M,
) -> Result<(), Option<Trouble>> {
    let (mut ours, mut theirs) = ([0; HEAD], [0; HEAD]);
    memory.read(mapping.start, &mut theirs).map_err(Some)?;
    file.read_exact_at(&mut ours, 0).map_err(|_| None)?;
    if ours == theirs { Ok(()) } else { Err(None) }
}

/// What is needed of an ELF file.
struct Elf {
    /// The address, before any bias, at which the beginning of the file is loaded.
    start: u64,
    /// Read-only segments and `.rodata`, which comes first: where texts are.
    texts: Vec<(u64, u64)>,
    tables: Vec<Table>,
}

/// A table of symbols, and of their names: offset and length.
struct Table {
    symbols: (u64, u64),
    names: (u64, u64),
}

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;
type Symbol = Sym64<LittleEndian>;

impl Elf {
    fn read(data: &ReadCache<&File>, size: u64) -> Result<Elf, &'static str> {
        const E: LittleEndian = LittleEndian;
        let inside = |(offset, len): (u64, u64)| {
            offset.checked_add(len).is_some_and(|end| end <= size).then_some((offset, len))
        };
        let header = Header::parse(data).map_err(|_| "is no 64-bit ELF file")?;
        let segments = header.program_headers(E, data).map_err(|_| "has no program headers")?;
        let loaded = || segments.iter().filter(|segment| segment.p_type(E) == PT_LOAD);
        let page = |value: u64| value & !0xfff;
        let first = loaded().find(|segment| page(segment.p_offset(E)) == 0);
        let start = first.map(|s| page(s.p_vaddr(E))).ok_or("has no beginning")?;
        let sections = header.sections(E, data).map_err(|_| "has broken sections")?;
        let of = |section: &object::elf::SectionHeader64<LittleEndian>| {
            inside((section.sh_offset(E), section.sh_size(E)))
        };
        let mut texts = Vec::new();
        texts.extend(sections.section_by_name(E, b".rodata").and_then(|(_, rodata)| of(rodata)));
        let is_constant = |segment: &&Segment| !segment.p_flags(E).contains(object::elf::PF_W);
        if texts.is_empty() {
            let ranges = loaded().filter(is_constant);
            texts.extend(ranges.filter_map(|s| inside((s.p_offset(E), s.p_filesz(E)))));
        }
        let mut tables = Vec::new();
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let Some(section) = sections.iter().find(|section| section.sh_type(E) == kind) else {
                continue;
            };
            let names = sections.section(object::SectionIndex(section.sh_link(E) as usize));
            let names = names.ok().and_then(of);
            if let (Some(symbols), Some(names)) = (of(section), names) {
                tables.push(Table { symbols, names });
            }
        }
        Ok(Elf { start, texts, tables })
    }

    /// Where each of `wanted` lies, before any bias.
    fn symbols(&self, file: &File, wanted: &[&str]) -> Result<Vec<Option<u64>>, &'static str> {
        let mut found = vec![None; wanted.len()];
        for table in &self.tables {
            // The full table is large, and of use only where the other says too little.
            let globals = found[0].is_some() && found[1].is_some();
            if globals && found[ALWAYS.len()..].iter().all(Option::is_some) {
                break;
            }
            let symbols = piece(file, table.symbols)?;
            let names = piece(file, table.names)?;
            let symbols = object::pod::slice_from_all_bytes::<Symbol>(&symbols)
                .map_err(|()| "has a broken table of symbols")?;
            for symbol in symbols.iter().filter(|symbol| symbol.st_shndx(LittleEndian) != SHN_UNDEF)
            {
                let name = names.get(symbol.st_name(LittleEndian) as usize..).unwrap_or_default();
                for (wanted, found) in wanted.iter().zip(&mut found) {
                    let rest = name.strip_prefix(wanted.as_bytes());
                    if rest.is_some_and(|rest| rest.first() == Some(&0)) && found.is_none() {
                        *found = Some(symbol.st_value(LittleEndian));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Out of the header that PHP would send: the one place where every build says it.
    fn version(&self, file: &File) -> Option<String> {
        self.texts.iter().find_map(|range| search(file, *range))
    }
}

fn piece(file: &File, (offset, len): (u64, u64)) -> Result<Vec<u8>, &'static str> {
    if len > SYMBOLS_MAX {
        return Err("has more symbols than a program has");
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| "is too long")?];
    file.read_exact_at(&mut bytes, offset).map_err(|_| "was cut short while it was read")?;
    Ok(bytes)
}

const HEADER: &[u8] = b"X-Powered-By: PHP/";
/// `8.5.0-dev`, `8.2.36-1~deb12u1` and the like.
const VERSION_MAX: usize = 32;
/// Read at once. PHP has some MiB of texts.
const WINDOW: usize = 256 << 10;
/// Looked through at most.
const TEXTS_MAX: u64 = 256 << 20;

fn search(file: &File, (offset, len): (u64, u64)) -> Option<String> {
    let end = offset + len.min(TEXTS_MAX);
    let mut window = vec![0; WINDOW];
    let mut at = offset;
    while at < end {
        let want = usize::try_from(end - at).map_or(WINDOW, |left| left.min(WINDOW));
        file.read_exact_at(&mut window[..want], at).ok()?;
        if let Some(found) = position(&window[..want], HEADER) {
            let mut text = [0; VERSION_MAX];
            let from = at + (found + HEADER.len()) as u64;
            let got = file.read_at(&mut text, from).ok()?;
            return version_of(&text[..got]);
        }
        if at + want as u64 == end {
            break;
        }
        // What may lie across the border is read again.
        at += (want - HEADER.len()) as u64;
    }
    None
}

fn version_of(text: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+~".contains(byte);
    let len = text.iter().take_while(|byte| plain(byte)).count();
    let version = String::from_utf8(text[..len].to_vec()).ok()?;
    numbers(&version).is_some().then_some(version)
}

/// Horspool's search: it looks at one byte in eighteen.
fn position(text: &[u8], pattern: &[u8]) -> Option<usize> {
    let last = pattern.len() - 1;
    let mut skip = [pattern.len(); 256];
    for (index, byte) in pattern[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - index;
    }
    let mut at = 0;
    while at + last < text.len() {
        if &text[at..=at + last] == pattern {
            return Some(at);
        }
        at += skip[usize::from(text[at + last])];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::remote::Image;
    use proptest::prelude::*;
    use std::io::Write;

    const LOADED: u64 = 0x5555_0000_0000;

    fn mapping() -> Mapping<'static> {
        Mapping { start: LOADED, end: LOADED + 0x1000, offset: 0, inode: 1, path: b"/usr/bin/php" }
    }

    /// A file with the beginning of an ELF program, symbols, and a text.
    fn elf(symbols: &[&str], text: &str) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
        // Program headers at 64, sections at 128: one and five.
        put(32, &64u64.to_le_bytes());
        put(40, &128u64.to_le_bytes());
        put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 5, 0, 4, 0]);
        put(64, &[1, 0, 0, 0, 4, 0, 0, 0]);
        put(64 + 16, &0x1000u64.to_le_bytes());
        put(64 + 32, &2048u64.to_le_bytes());
        let names: String = symbols.iter().map(|name| format!("{name}\0")).collect();
        let names = format!("\0{names}");
        let headings = "\0.dynsym\0.dynstr\0.rodata\0.shstrtab\0";
        let mut table = vec![0; 24];
        let mut at = 1;
        for (index, name) in symbols.iter().enumerate() {
            table.extend((at as u32).to_le_bytes());
            table.extend([0x11, 0, 9, 0]);
            table.extend((0x3000 + index as u64 * 0x100).to_le_bytes());
            table.extend(8u64.to_le_bytes());
            at += name.len() + 1;
        }
        let sections: [(u32, u32, &[u8], u32); 4] = [
            (1, 11, &table, 2),
            (9, 3, names.as_bytes(), 0),
            (17, 1, text.as_bytes(), 0),
            (25, 3, headings.as_bytes(), 0),
        ];
        let mut place = 512;
        for (index, (name, kind, content, link)) in sections.into_iter().enumerate() {
            let head = 128 + 64 * (index + 1);
            put(head, &name.to_le_bytes());
            put(head + 4, &kind.to_le_bytes());
            put(head + 24, &(place as u64).to_le_bytes());
            put(head + 32, &(content.len() as u64).to_le_bytes());
            put(head + 40, &link.to_le_bytes());
            put(head + 56, &if index == 0 { 24u64 } else { 0 }.to_le_bytes());
            put(place, content);
            place += content.len().next_multiple_of(8);
        }
        bytes
    }

    fn inspected(bytes: &[u8], mapped: &[u8]) -> Result<Found, Missing> {
        let mut file = unnamed();
        file.write_all(bytes).unwrap();
        let image = Image { pieces: vec![(LOADED, mapped.to_vec())] };
        inspect(&file, &mapping(), &image, &["core_globals"])
    }

    /// A file of the temporary directory that is gone with its descriptor.
    fn unnamed() -> File {
        let path = std::env::temp_dir().join(format!(
            "nbguard-elf-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    const GLOBALS: [&str; 3] = ["sapi_globals", "executor_globals", "core_globals"];
    const TEXT: &str = "x\0X-Powered-By: PHP/8.3.8\0y";

    #[test]
    fn globals_are_where_the_file_says_plus_where_it_is_loaded() {
        let bytes = elf(&GLOBALS, TEXT);
        let found = inspected(&bytes, &bytes).unwrap();
        let bias = LOADED - 0x1000;
        assert_eq!((found.sapi, found.executor), (bias + 0x3000, bias + 0x3100));
        assert_eq!(found.others, [Some(bias + 0x3200)]);
        assert_eq!((found.version.as_str(), found.layout.version), ("8.3.8", (8, 3)));
    }

    #[test]
    fn what_cannot_be_looked_into_has_a_reason() {
        let zts = ["executor_globals_offset", "sapi_globals_offset"];
        let table: [(&[&str], &str, &str); 6] = [
            (&["main"], TEXT, "no PHP runs"),
            (&zts, TEXT, "PHP 8.3.8 is built thread-safe (ZTS)"),
            (&GLOBALS, "X-Powered-By: PHP/7.4.33\0", "PHP 7.4.33 is not known here, only 8.1, 8.2"),
            (&GLOBALS, "X-Powered-By: PHP/9.0.0-dev\0", "PHP 9.0.0-dev is not known here"),
            (&GLOBALS, "X-Powered-By: PHP/", "which version"),
            (&GLOBALS[1..], TEXT, "where its globals are"),
        ];
        for (symbols, text, why) in table {
            let bytes = elf(symbols, text);
            let said = inspected(&bytes, &bytes).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        let version = || "9".to_owned();
        for missing in
            [Missing::NoTable { version: version() }, Missing::ThreadSafe { version: version() }]
        {
            assert!(missing.to_string().contains("nbguard trace --snapshot"), "{missing}");
        }
        let bytes = elf(&GLOBALS, TEXT);
        let other = elf(&["executor_globals", "sapi_globals"], TEXT);
        let said = inspected(&bytes, &other).unwrap_err().to_string();
        assert_eq!(said, "/usr/bin/php: is not the file that is mapped");
        assert!(inspected(&bytes[..900], &bytes).is_err());
        assert!(inspected(b"", &bytes).is_err());
    }

    #[test]
    fn a_text_is_found_wherever_it_lies() {
        let mut file = unnamed();
        for at in [0, 1, WINDOW - HEADER.len() - 1, WINDOW - 9, WINDOW - 1, WINDOW, 2 * WINDOW - 5]
        {
            let mut bytes = vec![b'X'; at];
            bytes.extend(HEADER);
            bytes.extend(b"8.5.2\0");
            file.set_len(0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let found = search(&file, (0, bytes.len() as u64));
            assert_eq!(found.as_deref(), Some("8.5.2"), "{at}");
            assert_eq!(search(&file, (0, at as u64)), None, "{at}");
        }
        file.flush().unwrap();
    }

    #[test]
    fn our_own_process_is_no_php() {
        let pid = std::process::id();
        let mapped = Mapped::of(pid).unwrap();
        let memory = crate::trace::remote::ProcessMemory::of(pid);
        assert_eq!(find(&mapped, &memory, &[]), Err(Missing::NotPhp));
        assert!(!mapped.is_replaced() && !mapped.has_moved());
        assert!(matches!(Mapped::of(u32::MAX), Err(Missing::Gone)));
    }

    proptest! {
        // Each writes two files.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_file_is_it_is_refused_or_understood(
            flips in proptest::collection::vec((0usize..900, any::<u8>()), 0..12),
            cut in 0usize..2048,
        ) {
            let mut bytes = elf(&GLOBALS, TEXT);
            for (at, byte) in flips {
                bytes[at] = byte;
            }
            let whole = inspected(&bytes, &bytes);
            prop_assert!(whole.is_err() || whole.is_ok_and(|found| found.others.len() == 1));
            let _ = inspected(&bytes[..cut], &bytes);
        }
    }
}
