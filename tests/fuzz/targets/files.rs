//! What tracers and interpreters leave in files: the shared memory, a trace that was kept, ELF.

use std::fs::{self, File, Permissions};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nbguard::cli::out::Paint;
use nbguard::cli::trace::data;
use nbguard::cli::trace::show::{Form, Show, Wanted};
use nbguard::ids::ProcKey;
use nbguard::parse::maps::Mapping;
use nbguard::roots::{Buffer, Roots};
use nbguard::trace::php::find::inspect;
use nbguard::trace::remote::Image;
use nbguard::trace::{Asked, Place, Ring, Table, Target, TraceFile};
use trace_layout::switch::{self, ENTRY, EntryValue};
use trace_layout::writer::Page;
use trace_layout::{Identity, Kind, PAGE, Record, SLOT, Writer, file_len};

use super::patches::{Patch, patches, put};

const SLOTS: u32 = 8;
/// The process in its own pid namespace, and on the host.
const INNER: u32 = 17;
const KEY: ProcKey = ProcKey { pid: 4242, start: 777 };

/// What a tracer of PHP wrote: ten records in a ring of eight, busy.
fn written() -> Vec<u8> {
    let pages = vec![Page([0; PAGE]); file_len(SLOTS).div_ceil(PAGE)].leak();
    let (runtime, runtime_version) = (trace_layout::header::PHP, 80236);
    let of =
        Identity { pid: INNER, start: KEY.start, runtime, runtime_version, flags: 0, created: 1 };
    let mut writer = Writer::over(pages, SLOTS, &of).expect("eight slots are enough");
    writer.busy(5, 1_700_000_000, b"/srv/block.php", b"/block?x=1");
    for call in 0..5 {
        let kind = Kind::Enter;
        let (file, values) = (&b"/srv/block.php"[..], &b"'a', 2"[..]);
        let (class, function) = (&b"App\\Shop"[..], &b"cart"[..]);
        writer.record(&Record { call, class, function, file, values, ..Record::new(kind) });
        let (wall, cpu) = (900, 800);
        writer.record(&Record { call, wall, cpu, values, ..Record::new(Kind::Leave) });
    }
    writer.function(b"", b"sleep");
    writer.bytes().to_vec()
}

thread_local! {
    static WRITTEN: Vec<u8> = written();
}

/// The structures of the shared memory, as bytes.
pub fn layout(bytes: &[u8]) {
    let mut file = WRITTEN.with(Clone::clone);
    for patch in patches(bytes) {
        if let Patch::Put(at, what) = patch {
            put(&mut file, at, what);
        }
    }
    let (page, slots) = file.split_first_chunk::<PAGE>().expect("it has a header");
    let _ = black_box(trace_layout::parse_header(page));
    if let Ok((_, activity)) = trace_layout::parse_activity(page) {
        black_box(activity);
    }
    for (slot, n) in slots.as_chunks::<SLOT>().0.iter().zip([8, 9, 2, 3, 4, 5, 6, 7]) {
        if let Ok(record) = trace_layout::parse_record(slot, n) {
            let mut again = [0; SLOT];
            trace_layout::record::encode(&record, n, &mut again);
            assert_eq!(trace_layout::parse_record(&again, n), Ok(record));
        }
    }
    if let Some((header, rest)) = bytes.split_first_chunk::<24>() {
        let _ = black_box(switch::parse_table(header, 1 << 40));
        if let Some(entry) = rest.first_chunk::<ENTRY>() {
            black_box(EntryValue::from_bytes(entry).is_on(KEY.start, 5));
        }
    }
}

/// A `/proc` of one process, its root directory, and the folder of its tracer.
struct World {
    dir: PathBuf,
    place: Place<'static>,
    trace: File,
    table: File,
}

const DIR: &str = "/run/nbguard/trace";

impl World {
    fn new() -> World {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = format!("nbg-ring-{}-{:?}", std::process::id(), std::thread::current().id());
        let dir = above.join(name);
        World::at(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    }

    fn at(dir: &Path) -> std::io::Result<World> {
        let proc = dir.join("proc/4242");
        fs::create_dir_all(&proc)?;
        fs::create_dir_all(dir.join("proc/sys/kernel"))?;
        fs::write(dir.join("proc/sys/kernel/pid_max"), "4096\n")?;
        fs::create_dir_all(dir.join("rootfs"))?;
        symlink(dir.join("rootfs"), proc.join("root"))?;
        let uid = fs::metadata(dir)?.uid();
        let stat = "4242 (php-fpm8.2) S 1 1 1 0 -1 4194304 0 0 0 0 7 9 0 0 20 0 1 0 777 9 9\n";
        fs::write(proc.join("stat"), stat)?;
        let ids = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t4242\t{INNER}\n");
        fs::write(proc.join("status"), format!("Name:\tphp\nTgid:\t4242\nPPid:\t1\n{ids}"))?;
        let (roots, mut buffer) = (Roots::at(dir)?, Buffer::new());
        let target = Target::read(&roots, KEY.pid, &mut buffer).expect("it is there");
        let place = Place::prepare(&roots, target, Path::new(DIR), &mut buffer);
        let place = place.expect("all of it is ours");
        let inside = dir.join("rootfs").join(DIR.trim_start_matches('/'));
        let table = Table::open_or_make(&roots, &place, &mut buffer).expect("nothing is there");
        drop(table);
        let both = || File::options().read(true).write(true).create(true).clone();
        let trace = inside.join(format!("{uid}/{INNER}-{}.trace", KEY.start));
        let trace = both().open(trace)?;
        trace.set_permissions(Permissions::from_mode(0o600))?;
        let table = both().open(inside.join(trace_layout::SWITCH))?;
        Ok(World { dir: dir.to_owned(), place, trace, table })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

thread_local! {
    static WORLD: World = World::new();
}

/// A tracer's file while it changes, and the switch table.
pub fn ring(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    WORLD.with(|world| match which % 2 {
        0 => read_ring(world, bytes).expect("files of our own"),
        _ => read_table(world, bytes).expect("files of our own"),
    });
}

/// Rounds of one reader: the ring has eight places, and what lies is refused.
const ROUNDS: usize = 64;

fn read_ring(world: &World, bytes: &[u8]) -> std::io::Result<()> {
    WRITTEN.with(|written| {
        world.trace.write_all_at(written, 0)?;
        world.trace.set_len(written.len() as u64)
    })?;
    let mut opened: Option<TraceFile<'static>> = None;
    let (mut ring, mut page) = (Ring::from(0), [0; PAGE]);
    for patch in patches(bytes).chain([Patch::Look]).take(ROUNDS) {
        match patch {
            // Not beyond its end: a page of zeroes more teaches nothing.
            Patch::Put(at, what) if at + what.len() <= file_len(SLOTS) => {
                world.trace.write_all_at(what, at as u64)?;
            }
            Patch::Put(..) => {}
            Patch::Cut(len) => world.trace.set_len(len.min(file_len(SLOTS)) as u64)?,
            Patch::Look => {
                if opened.is_none() {
                    let found = TraceFile::open(&world.place, &mut page);
                    opened = found.ok().map(|(file, _)| file);
                }
                let Some(file) = &opened else { continue };
                let _ = black_box(file.read_activity(&mut page));
                let _ = black_box(file.read_count());
                let before = ring.next();
                let mut taken = 0;
                if let Ok(round) = ring.read(file, |_, record| {
                    black_box(record);
                    taken += 1;
                }) {
                    assert_eq!(
                        (round.seen, before + round.seen + round.lost),
                        (taken, ring.next())
                    );
                }
            }
        }
    }
    Ok(())
}

fn read_table(world: &World, bytes: &[u8]) -> std::io::Result<()> {
    let entries = switch::ENTRIES_MIN;
    let entry = switch::entry_offset(INNER);
    world.table.set_len(switch::table_len(entries))?;
    world.table.write_all_at(&switch::table_header(entries), 0)?;
    world.table.write_all_at(&[0; ENTRY], entry)?;
    let mut table = None;
    for patch in patches(bytes).chain([Patch::Look]).take(ROUNDS) {
        match patch {
            // The header's fields, or those of the entry.
            Patch::Put(at, what) if at < 24 => {
                world.table.write_all_at(&what[..what.len().min(24 - at)], at as u64)?;
            }
            Patch::Put(at, what) => {
                let at = (at - 24) % ENTRY;
                let what = &what[..what.len().min(ENTRY - at)];
                world.table.write_all_at(what, entry + at as u64)?;
            }
            Patch::Cut(len) => world.table.set_len(len as u64)?,
            Patch::Look => {
                table = table.or_else(|| Table::open_to_write(&world.place).ok());
                let Some(table) = &table else { continue };
                if let Ok(entry) = table.entry(world.place.target()) {
                    black_box(entry.is_on(KEY.start, 5));
                }
            }
        }
    }
    let Some(table) = table else { return Ok(()) };
    let flags = switch::ON;
    let asked =
        Asked { flags, period_ms: 5000, tool: ProcKey { pid: 1, start: 1 }, watches: false };
    if let Ok(mut on) = table.switch_on(world.place.target(), &asked, 5) {
        let _ = black_box(on.beat(world.place.target(), 6));
        let _ = black_box(on.off());
    }
    Ok(())
}

/// `nbguard trace --read FILE.data`.
pub fn data(bytes: &[u8]) {
    for (form, summary) in [(Form::Tree, false), (Form::Json, false), (Form::Tree, true)] {
        let mut text = Vec::new();
        let mut show = Show::new(&mut text, form, Paint::plain(), Wanted::default(), summary);
        let _ = black_box(data::read_from(&mut &bytes[..], &mut show));
        show.end().expect("a vector takes everything");
        let text = String::from_utf8(text).expect("what is shown is text");
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
        if form == Form::Json {
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).expect("a line is an object");
            }
        }
    }
}

/// Where it is loaded.
const LOADED: u64 = 0x5555_0000_0000;
/// Its head is compared with what is mapped, and a file shorter than that is refused at once.
const HEAD: usize = 1024;

thread_local! {
    static ELF: File = {
        let name = c"nbguard-elf";
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        File::from(nix::sys::memfd::memfd_create(name, flags).expect("Linux has had it since 3.17"))
    };
}

/// The program or library of a process, in which PHP is looked for.
pub fn elf(bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().max(HEAD), 0);
    let (start, path) = (LOADED, &b"/usr/bin/php"[..]);
    let mapping = Mapping { start, end: start + 0x1000, offset: 0, inode: 1, path };
    let image = Image { pieces: vec![(start, whole[..HEAD].to_vec())] };
    ELF.with(|file| {
        file.set_len(0).and_then(|()| file.write_all_at(&whole, 0)).expect("some KiB of memory");
        match inspect(file, &mapping, &image, &["core_globals"]) {
            Ok(found) => assert_eq!(found.others.len(), 1),
            Err(missing) => assert!(missing.to_string().len() < 400, "{missing}"),
        }
    });
}
