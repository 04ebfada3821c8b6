//! The readers against files as a tracer makes them, and as somebody hostile would.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use proptest::prelude::*;
use trace_layout::switch::{self, ENTRIES_MIN, EntryValue};
use trace_layout::writer::Page as Memory;
use trace_layout::{
    ActivityState, Bad, Count, Identity, Kind, PAGE, Record, SLOT, Tracing, Writer, file_len,
};

use super::*;
use crate::ids::ProcKey;
use crate::roots::{Buffer, Roots};

const SLOTS: u32 = 8;
const KEY: ProcKey = ProcKey { pid: 4242, start: 777 };
const INNER: u32 = 17;
const DIR: &str = "/run/nbguard/trace";

/// A `/proc` with one process in a pid namespace of its own, its root directory, and a tracer.
struct World {
    dir: PathBuf,
    roots: Roots,
    buffer: Buffer,
    uid: u32,
}

impl World {
    fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("nbg-trace-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let proc = dir.join("proc/4242");
        fs::create_dir_all(&proc).unwrap();
        fs::create_dir_all(dir.join("proc/sys/kernel")).unwrap();
        fs::write(dir.join("proc/sys/kernel/pid_max"), "4096\n").unwrap();
        fs::create_dir_all(dir.join("rootfs")).unwrap();
        symlink(dir.join("rootfs"), proc.join("root")).unwrap();
        // Which filesystems these files are on only the kernel knows.
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        symlink("/proc/self/fdinfo", dir.join("proc/self/fdinfo")).unwrap();
        fs::copy("/proc/self/mountinfo", proc.join("mountinfo")).unwrap();
        let uid = fs::metadata(&dir).unwrap().uid();
        let stat = "4242 (php-fpm8.2) S 1 1 1 0 -1 4194304 0 0 0 0 7 9 0 0 20 0 1 0 777 9 9\n";
        fs::write(proc.join("stat"), stat).unwrap();
        let status = format!(
            "Name:\tphp\nTgid:\t4242\nPPid:\t1\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t4242\t17\n"
        );
        fs::write(proc.join("status"), status).unwrap();
        let roots = Roots::at(&dir).unwrap();
        World { dir, roots, buffer: Buffer::new(), uid }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    fn target(&mut self) -> Target {
        Target::read(&self.roots, KEY.pid, &mut self.buffer).unwrap()
    }

    fn prepare(&mut self) -> Place<'static> {
        let target = self.target();
        Place::prepare(&self.roots, target, Path::new(DIR), &mut self.buffer).unwrap()
    }

    fn place(&mut self) -> Result<Place<'static>, Trouble> {
        let target = self.target();
        Place::open(&self.roots, target, Path::new(DIR), &mut self.buffer)
    }

    fn file(&self) -> PathBuf {
        self.inside(&format!("{DIR}/{}/{INNER}-777.trace", self.uid))
    }

    /// What a tracer's memory holds becomes what is in its file, in place.
    fn write(&self, bytes: &[u8]) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.file()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    fn open(&mut self) -> Result<TraceFile<'static>, Trouble> {
        TraceFile::open(&self.place()?, &mut [0; PAGE]).map(|(file, _)| file)
    }

    fn page(&mut self) -> Result<ActivityState, Why> {
        let mut page = [0; PAGE];
        page::read(&self.roots, Path::new(DIR), KEY, &mut self.buffer, &mut page)
            .map(|page| page.activity.state)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn writer() -> Writer {
    let memory = vec![Memory([0; PAGE]); file_len(SLOTS).div_ceil(PAGE)].leak();
    let of = Identity {
        pid: INNER,
        start: KEY.start,
        runtime: trace_layout::header::PHP,
        runtime_version: 80236,
        flags: 0,
        created: 1,
    };
    Writer::over(memory, SLOTS, &of).unwrap()
}

fn enter(writer: &mut Writer, call: u64) {
    writer.record(&Record { call, function: b"f", ..Record::new(Kind::Enter) });
}

/// The calls that a round brings, and how many were lost.
fn read(ring: &mut Ring, file: &TraceFile<'_>) -> Result<(Vec<u64>, u64), Trouble> {
    let (mut calls, mut lost) = (Vec::new(), 0);
    loop {
        let round = ring.read(file, |_, record| calls.push(record.call))?;
        lost += round.lost;
        if !round.more {
            return Ok((calls, lost));
        }
    }
}

#[test]
fn a_process_is_found_as_its_own_namespace_calls_it() {
    let mut world = World::new("namespace");
    let target = world.target();
    assert_eq!((target.key, target.inner, target.inner_uid), (KEY, INNER, world.uid));
    let map = format!("         0 {} 10\n", world.uid);
    fs::write(world.dir.join("proc/4242/uid_map"), map).unwrap();
    let target = world.target();
    assert_eq!((target.uid, target.inner_uid, target.root_uid), (world.uid, 0, world.uid));
    let place = world.prepare();
    assert!(world.inside(&format!("{DIR}/0")).is_dir());
    assert!(place.target().is_there(&world.roots, &mut world.buffer));
    assert_eq!(Target::read(&world.roots, 1, &mut world.buffer), Err(Trouble::Gone));
}

#[test]
fn what_is_made_is_private_and_what_is_there_is_left() {
    let mut world = World::new("made");
    let place = world.prepare();
    let mode = |path: &str| fs::metadata(world.inside(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("/run/nbguard"), 0o755);
    assert_eq!(mode(DIR), 0o711);
    assert_eq!(mode(&format!("{DIR}/{}", world.uid)), 0o700);
    let table = Table::open_or_make(&world.roots, &place, &mut world.buffer).unwrap();
    let meta = fs::metadata(world.inside(&format!("{DIR}/switch"))).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o644);
    assert_eq!(meta.len(), switch::table_len(ENTRIES_MIN));
    assert!(meta.blocks() * 512 <= 8192, "sparse: {} blocks", meta.blocks());
    let inode = meta.ino();
    drop(table);
    world.prepare();
    let _ = Table::open_or_make(&world.roots, &place, &mut world.buffer).unwrap();
    assert_eq!(fs::metadata(world.inside(&format!("{DIR}/switch"))).unwrap().ino(), inode);
}

#[test]
fn records_are_read_and_what_was_overwritten_is_counted_exactly() {
    let mut world = World::new("ring");
    world.prepare();
    let mut writer = writer();
    enter(&mut writer, 1);
    world.write(writer.bytes());
    let file = world.open().unwrap();
    let mut ring = Ring::from(0);
    assert_eq!(read(&mut ring, &file), Ok((vec![1], 0)));
    assert_eq!(read(&mut ring, &file), Ok((vec![], 0)));
    for call in 2..=9 {
        enter(&mut writer, call);
    }
    world.write(writer.bytes());
    // Exactly a ring full: the oldest is whole still.
    assert_eq!(read(&mut ring, &file), Ok(((2..=9).collect(), 0)));
    for call in 10..=30 {
        enter(&mut writer, call);
    }
    // The next one is half written: the oldest of the ring is gone with it.
    writer.begin(Kind::Enter).function(b"half");
    world.write(writer.bytes());
    assert_eq!(read(&mut ring, &file), Ok(((24..=30).collect(), 14)));
    assert_eq!(ring.next(), 30);
}

#[test]
fn the_activity_is_read_without_a_descriptor_or_a_heap_block_left() {
    let mut world = World::new("page");
    assert_eq!(world.page(), Err(Why::Absent));
    world.prepare();
    assert_eq!(world.page(), Err(Why::Absent));
    let mut writer = writer();
    world.write(writer.bytes());
    assert_eq!(world.page(), Ok(ActivityState::Unknown));
    writer.busy(5, 6, b"/srv/a.php", b"/a");
    world.write(writer.bytes());
    let mut page = [0; PAGE];
    let read = page::read(&world.roots, Path::new(DIR), KEY, &mut world.buffer, &mut page).unwrap();
    assert_eq!((read.activity.state, read.activity.since), (ActivityState::Busy, 5));
    assert_eq!((read.activity.script, read.runtime_version), (&b"/srv/a.php"[..], 80236));
    let other = ProcKey { start: 778, ..KEY };
    let mut page = [0; PAGE];
    let read = page::read(&world.roots, Path::new(DIR), other, &mut world.buffer, &mut page);
    assert_eq!(read, Err(Why::Gone), "another process of that pid");
    // Half written for ever: a tracer that died in the midst of it.
    let mut bytes = writer.bytes().to_vec();
    bytes[trace_layout::header::AT_ACTIVITY] |= 1;
    world.write(&bytes);
    assert_eq!(world.page(), Err(Why::Malformed));
}

#[test]
fn a_count_is_read_while_calls_are_recorded_and_only_what_reaches_up_to_now() {
    const MS: u64 = 1_000_000;
    let mut world = World::new("count");
    world.prepare();
    let mut writer = writer();
    let count = Count { since: 5, at: 1_000 * MS, cpu: 7 * MS, memory: 1 << 20 };
    writer.busy(900 * MS, 6, b"/srv/a.php", b"/a");
    writer.count(Some(&count));
    let read = |world: &mut World, writer: &Writer, now: u64| {
        world.write(writer.bytes());
        let mut page = [0; PAGE];
        page::read(&world.roots, Path::new(DIR), KEY, &mut world.buffer, &mut page)
            .unwrap()
            .count_at(now)
    };
    assert_eq!(read(&mut world, &writer, 1_000 * MS), None, "calls are not recorded");
    writer.tracing(Tracing::On, 1);
    for (now, expected, why) in [
        (1_001 * MS, Some(count), "fresh"),
        (1_021 * MS, None, "it may have run since"),
        (1_000 * MS - 1, Some(count), "its clock is a little ahead"),
        (998 * MS, None, "of a time that is to come"),
    ] {
        assert_eq!(read(&mut world, &writer, now), expected, "{why}");
    }
    writer.idle(1_000 * MS, 6);
    let idle = Count { memory: 0, ..count };
    assert_eq!(read(&mut world, &writer, 9_000 * MS), Some(idle), "idle since it was counted");
    writer.idle(1_001 * MS, 6);
    assert_eq!(read(&mut world, &writer, 1_002 * MS), None, "and not longer");
    // A tracer that lies, or that died in the midst of it.
    writer.busy(900 * MS, 6, b"/srv/a.php", b"/a");
    writer.count(Some(&Count { cpu: u64::MAX, ..count }));
    assert_eq!(read(&mut world, &writer, 1_000 * MS), None);
    writer.count(Some(&count));
    let mut bytes = writer.bytes().to_vec();
    bytes[trace_layout::header::AT_COUNT] |= 1;
    world.write(&bytes);
    let mut page = [0; PAGE];
    let read = page::read(&world.roots, Path::new(DIR), KEY, &mut world.buffer, &mut page);
    assert_eq!(read.unwrap().count_at(1_000 * MS), None, "the activity is read all the same");
}

#[test]
fn what_no_tracer_made_is_refused_with_its_reason() {
    let mut world = World::new("hostile");
    world.prepare();
    let writer = writer();
    let good = writer.bytes().to_vec();
    let path = world.file();
    let secret = world.dir.join("secret");
    fs::write(&secret, &good).unwrap();
    type Make<'m> = &'m dyn Fn();
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        write(&bytes);
    };
    let table: [(&str, Make<'_>); 14] = [
        ("is not there", &|| {}),
        ("symbolic link", &|| symlink(&secret, &path).unwrap()),
        ("no regular file", &|| nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap()),
        ("no regular file", &|| fs::create_dir(&path).unwrap()),
        ("several names", &|| {
            fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
            fs::hard_link(&secret, &path).unwrap();
        }),
        ("writable for others", &|| {
            write(&good);
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        }),
        ("cut short", &|| write(&[])),
        ("cut short", &|| write(&good[..PAGE - 1])),
        ("cut short", &|| write(&good[..PAGE + SLOT])),
        ("being written", &|| write(&vec![0; file_len(SLOTS)])),
        ("no file of nbguard", &|| with(0, b'x')),
        ("version 9", &|| with(8, 9)),
        ("size or a length", &|| with(20, 9)),
        ("another process", &|| with(24, 99)),
    ];
    for (expected, make) in table {
        make();
        let trouble = world.open().map(drop).unwrap_err();
        assert!(trouble.to_string().contains(expected), "{expected}: {trouble}");
        assert!(world.page().is_err(), "{expected}");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    // The way to it: a link in the place of a directory, and one that others may write to.
    let dir = world.inside(DIR);
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    assert!(world.place().map(drop).unwrap_err().to_string().contains("writable for others"));
    fs::rename(&dir, world.dir.join("elsewhere")).unwrap();
    symlink(world.dir.join("elsewhere"), &dir).unwrap();
    assert!(world.place().map(drop).unwrap_err().to_string().contains("link"));
    let target = world.target();
    let made = Place::prepare(&world.roots, target, Path::new(DIR), &mut world.buffer);
    assert!(matches!(made.map(drop), Err(Trouble::NotOurs { .. })));
}

#[test]
fn a_ring_that_lies_is_left() {
    let mut world = World::new("lies");
    world.prepare();
    let mut writer = writer();
    for call in 1..=5 {
        enter(&mut writer, call);
    }
    let good = writer.bytes().to_vec();
    let with_head = |head: u64| {
        let mut bytes = good.clone();
        let at = trace_layout::header::AT_HEAD;
        bytes[at..at + 8].copy_from_slice(&head.to_ne_bytes());
        bytes
    };
    for (head, expected) in [(2, "went back"), (1 << 63, "its number"), (u64::MAX, "its number")] {
        world.write(&good);
        let file = world.open().unwrap();
        let mut ring = Ring::from(0);
        assert_eq!(read(&mut ring, &file).unwrap().0.len(), 5);
        world.write(&with_head(head));
        let trouble = read(&mut ring, &file).unwrap_err();
        assert!(trouble.to_string().contains(expected), "{head}: {trouble}");
    }
    // Cut while it is read; another file's size while it is read.
    world.write(&good);
    let file = world.open().unwrap();
    world.write(&good[..PAGE + 2 * SLOT]);
    let trouble = read(&mut Ring::from(0), &file).unwrap_err();
    assert!(trouble.to_string().contains("cut short"), "{trouble}");
    let mut other = good.clone();
    other[20..24].copy_from_slice(&16u32.to_ne_bytes());
    world.write(&other);
    let trouble = read(&mut Ring::from(0), &file).unwrap_err();
    assert!(trouble.to_string().contains("size has changed"), "{trouble}");
    // A record with a length beyond its slot.
    let mut long = good.clone();
    long[PAGE + 62..PAGE + 64].copy_from_slice(&u16::MAX.to_ne_bytes());
    world.write(&long);
    let trouble = read(&mut Ring::from(0), &file).unwrap_err();
    assert!(trouble.to_string().contains("a length that cannot be"), "{trouble}");
}

#[test]
fn one_tool_at_a_time_switches_and_what_it_leaves_is_off() {
    let mut world = World::new("switch");
    let place = world.prepare();
    let target = world.target();
    let tool = ProcKey { pid: 9, start: 8 };
    let asked = Asked { flags: switch::ON, period_ms: 5000, tool, watches: false };
    let mut open = || Table::open_or_make(&world.roots, &place, &mut world.buffer).unwrap();
    let seen = Table::open;
    let mut on = open().switch_on(&target, &asked, 1_000).unwrap();
    let entry = seen(&place).unwrap().entry(&target).unwrap();
    assert_eq!(
        entry,
        EntryValue {
            start: 777,
            flags: switch::ON,
            session: 1,
            beat: 1_000,
            period_ms: 5000,
            tool_pid: 9,
            tool_start: 8,
            watch_generation: 0
        }
    );
    assert!(entry.is_on(777, 1_000) && !entry.is_on(778, 1_000));
    let second = open().switch_on(&target, &asked, 2_000);
    assert_eq!(second.map(drop), Err(Trouble::Taken { tool: 9 }));
    assert_eq!(on.beat(&target, 3_000), Ok(Beat::Taken));
    assert_eq!(seen(&place).unwrap().entry(&target).unwrap().beat, 3_000);
    assert_eq!(open().switch_off(&target), Ok(true));
    assert_eq!(on.beat(&target, 4_000), Ok(Beat::SwitchedOff));
    drop(on);
    let on = open().switch_on(&target, &asked, 5_000).unwrap();
    assert_eq!(on.session(), 2, "another session");
    drop(on);
    let entry = seen(&place).unwrap().entry(&target).unwrap();
    assert_eq!((entry.flags, entry.session), (0, 2));
    let far = Target { inner: ENTRIES_MIN, ..target };
    let beyond = open().switch_on(&far, &asked, 6_000).map(drop).unwrap_err();
    assert!(beyond.to_string().contains("beyond the switch table"), "{beyond}");
}

#[test]
fn a_table_that_is_none_is_not_written_to() {
    let mut world = World::new("table");
    let place = world.prepare();
    let path = world.inside(&format!("{DIR}/switch"));
    let victim = world.dir.join("victim");
    fs::write(&victim, "precious").unwrap();
    let mut open = || Table::open_or_make(&world.roots, &place, &mut world.buffer).map(drop);
    symlink(&victim, &path).unwrap();
    assert!(open().unwrap_err().to_string().contains("symbolic link"));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&victim, &path).unwrap();
    assert!(open().unwrap_err().to_string().contains("several names"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "short").unwrap();
    assert!(open().unwrap_err().to_string().contains("cut short"));
    fs::write(&path, [b'x'; 64]).unwrap();
    assert!(open().unwrap_err().to_string().contains("no file of nbguard"));
    fs::write(&path, switch::table_header(ENTRIES_MIN)).unwrap();
    assert!(open().unwrap_err().to_string().contains("cut short"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn what_the_dead_left_is_removed_and_nothing_else() {
    let mut world = World::new("stale");
    let place = world.prepare();
    world.write(writer().bytes());
    let folder = world.file().parent().unwrap().to_path_buf();
    for name in ["17-776.trace", "99-1.trace", "99-1.watch", "notes.txt", "x-1.trace"] {
        fs::write(folder.join(name), "").unwrap();
    }
    // Without the first pid namespace in sight nobody can be said to be dead.
    assert_eq!(stale::remove(&world.roots, &place, &mut world.buffer), 0);
    let Ok(real) = fs::metadata("/proc/self/ns/pid") else { return };
    if real.ino() != 0xEFFF_FFFC {
        println!("skipped: not in the first pid namespace");
        return;
    }
    fs::create_dir_all(world.dir.join("proc/self/ns")).unwrap();
    symlink("/proc/self/ns/pid", world.dir.join("proc/self/ns/pid")).unwrap();
    assert_eq!(stale::remove(&world.roots, &place, &mut world.buffer), 3);
    let mut left: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["17-777.trace", "notes.txt", "x-1.trace"]);
}

#[test]
fn what_is_to_be_watched_is_handed_over_whole() {
    let mut world = World::new("watch");
    let place = world.prepare();
    table::write_watch(&place, "a\nb\n").unwrap();
    table::write_watch(&place, "c\n").unwrap();
    let path = world.file().with_extension("watch");
    assert_eq!(fs::read_to_string(&path).unwrap(), "c\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    table::remove_watch(&place);
    assert!(!path.exists());
}

/// Whoever is root in a container may put a link where a worker's folder was, at any moment.
#[test]
fn a_link_in_the_place_of_a_folder_leads_nowhere() {
    let mut world = World::new("watch-link");
    let place = world.prepare();
    table::write_watch(&place, "a\n").unwrap();
    let path = world.file().with_extension("watch");
    let (folder, elsewhere) = (path.parent().unwrap(), world.dir.join("elsewhere"));
    fs::rename(folder, &elsewhere).unwrap();
    symlink(&elsewhere, folder).unwrap();
    table::remove_watch(&place);
    assert!(table::write_watch(&place, "b\n").is_err());
    let outside = elsewhere.join(path.file_name().unwrap());
    assert_eq!(fs::read_to_string(outside).unwrap(), "a\n");
}

#[test]
fn denied_says_what_it_takes() {
    let denied = Trouble::of("/proc/1/root".into(), nix::errno::Errno::EACCES, NEEDS_PTRACE);
    assert_eq!(denied.why(), Why::Denied);
    assert!(denied.to_string().contains("CAP_SYS_PTRACE"), "{denied}");
    let bad = Trouble::Bad { path: "x".into(), bad: Bad::Version(7) };
    assert_eq!(bad.why(), Why::Malformed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the file: an answer, no more records than there are slots a round, no end
    /// of the reader.
    #[test]
    fn no_bytes_hang_or_end_the_readers(
        changes in proptest::collection::vec((0usize..file_len(SLOTS), any::<u8>()), 1..60),
        more in proptest::collection::vec((0usize..816, any::<u8>()), 0..6),
        cut in 0usize..file_len(SLOTS) * 4,
    ) {
        let mut world = World::new(&format!("fuzz-{:?}", std::thread::current().id()));
        world.prepare();
        let mut writer = writer();
        writer.busy(1, 2, b"/srv/a.php", b"/");
        writer.tracing(Tracing::On, 1);
        for call in 1..=11 {
            enter(&mut writer, call);
        }
        let good = writer.bytes().to_vec();
        world.write(&good);
        let opened = world.open().unwrap();
        let mut bad = good.clone();
        for (at, byte) in changes.into_iter().chain(more) {
            bad[at] = byte;
        }
        bad.truncate(cut);
        world.write(&bad);
        for file in [Ok(opened), world.open()].into_iter().flatten() {
            for start in [0, 9] {
                let mut ring = Ring::from(start);
                for _ in 0..4 {
                    let mut seen = 0;
                    let round = ring.read(&file, |_, _| seen += 1);
                    prop_assert!(seen <= SLOTS);
                    if round.is_err() {
                        break;
                    }
                }
            }
            let _ = file.read_activity(&mut [0; PAGE]);
        }
        let _ = world.page();
    }

    #[test]
    fn no_bytes_are_a_record_or_a_page_by_accident(
        bytes in proptest::collection::vec(any::<u8>(), PAGE..=PAGE), n in any::<u64>(),
    ) {
        let page: [u8; PAGE] = bytes.try_into().unwrap();
        prop_assert!(trace_layout::parse_header(&page).is_err());
        let _ = trace_layout::parse_activity(&page);
        let mut count = [0; trace_layout::header::COUNT_LEN];
        count.copy_from_slice(&page[..trace_layout::header::COUNT_LEN]);
        if let Ok((_, Some(count))) = trace_layout::parse_count(&count) {
            prop_assert!(count.cpu <= count.at - count.since);
        }
        let mut slot = [0; SLOT];
        slot.copy_from_slice(&page[..SLOT]);
        let _ = trace_layout::parse_record(&slot, n);
        if let Some(whole) = trace_layout::record::whole(n) {
            slot[..8].copy_from_slice(&whole.to_ne_bytes());
            if let Ok(record) = trace_layout::parse_record(&slot, n) {
                prop_assert!(record.values.len() <= trace_layout::record::TEXT);
            }
        }
    }
}
