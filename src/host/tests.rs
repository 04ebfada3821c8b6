//! Three hosts as fixtures (`tests/fixtures/host-*`), broken and hostile ones made on the spot,
//! and this machine against `procfs` and `cgroups-rs`.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::group::{Error, Version};
use super::procs::{cgroup_of, read_ids, read_memory, read_pss, read_stat, scan, start_of};
use super::{Buffer, Group, Hierarchies, PidCount, Roots, cross, hierarchies, memory, mode};
use crate::facts::{Field, HostMode, Limit, Proc, Why};
use crate::units::Bytes;

const A: &str = "docker-3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f.scope";
const B: &str = "a0b1c2d3a0b1c2d3a0b1c2d3a0b1c2d3a0b1c2d3a0b1c2d3a0b1c2d3a0b1c2d3";

fn fixture(name: &str) -> Roots {
    Roots::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn a_in_slice() -> PathBuf {
    Path::new("notebooks.slice").join(A)
}

fn a_of_cgroupfs() -> PathBuf {
    Path::new("docker").join(A.trim_start_matches("docker-").trim_end_matches(".scope"))
}

/// A directory of its own that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory where there is such a place: one test makes 4,200 directories.
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        let dir = base.join(format!("nbguard-host-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        Scratch(dir)
    }

    fn file(&self, path: &str, text: &str) -> &Scratch {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A v2 host with one group `g` in it.
    fn v2() -> Scratch {
        let scratch = Scratch::new();
        scratch
            .file("proc/self/mountinfo", "31 22 0:26 / /cg rw - cgroup2 cgroup2 rw\n")
            .file("cg/cgroup.controllers", "memory\n")
            .file("cg/cgroup.procs", "")
            .file("cg/g/cgroup.procs", "7\n")
            .file("cg/g/memory.current", "100\n")
            .file("cg/g/memory.max", "max\n")
            .file("cg/g/memory.high", "max\n")
            .file("cg/g/memory.events", "high 0\nmax 0\n")
            .file(
                "cg/g/memory.stat",
                "anon 1\nshmem 2\ninactive_file 3\nactive_file 4\nslab_reclaimable 5\n",
            );
        scratch
    }

    fn roots(&self) -> Roots {
        Roots::at(&self.0).unwrap()
    }

    fn group(&self) -> Group {
        Group::open(&hierarchies(&self.roots()).unwrap(), Path::new("g")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn finds_each_mode_by_its_mounts() {
    let table = [
        ("host-v2", HostMode::V2, "sys/fs/cgroup", Some("sys/fs/cgroup")),
        ("host-hybrid", HostMode::Hybrid, "sys/fs/cgroup/memory", Some("sys/fs/cgroup/unified")),
        ("host-v1", HostMode::V1, "sys/fs/cgroup/cpu,memory", None),
    ];
    for (name, mode, memory_root, psi_root) in table {
        let roots = fixture(name);
        let found = hierarchies(&roots).unwrap();
        assert_eq!(found.mode, mode, "{name}");
        assert_eq!(found.memory_root(), roots.path(memory_root), "{name}");
        assert_eq!(found.psi_root(), psi_root.map(|p| roots.path(p)).as_deref(), "{name}");
        assert_eq!(found.host_swap, name != "host-v2", "{name}");
        assert_eq!(found.relative_to_memory(Path::new("/a/b")), Some(Path::new("a/b")));
    }
}

#[test]
fn a_host_without_usable_cgroups_says_what_is_missing() {
    let scratch = Scratch::new();
    assert_eq!(hierarchies(&scratch.roots()), Err(mode::Error::MountInfo(Errno::ENOENT)));
    scratch.file("proc/self/mountinfo", "garbage\n31 22 0:26 / /gone rw - cgroup2 cgroup2 rw\n");
    assert_eq!(hierarchies(&scratch.roots()), Err(mode::Error::NoCgroups));
    scratch.file("gone/cgroup.procs", "").file("gone/cgroup.controllers", "cpu pids\n");
    let error = hierarchies(&scratch.roots()).unwrap_err();
    assert!(error.to_string().ends_with("/gone/cgroup.controllers: no memory controller"));
}

#[test]
fn takes_the_mount_that_shows_the_most_and_knows_which_part_it_shows() {
    let scratch = Scratch::v2();
    scratch
        .file("part/cgroup.procs", "")
        .file("part/cgroup.controllers", "memory\n")
        .file("proc/self/mountinfo", "1 2 0:1 /docker/ab /part rw - cgroup2 cgroup2 rw\n");
    let part = hierarchies(&scratch.roots()).unwrap();
    assert_eq!(part.v2_subtree, Path::new("/docker/ab"));
    assert_eq!(part.relative_to_memory(Path::new("/docker/ab/x")), Some(Path::new("x")));
    assert_eq!(part.relative_to_memory(Path::new("/docker/cd")), None);
    scratch.file(
        "proc/self/mountinfo",
        "1 2 0:1 /docker/ab /part rw - cgroup2 c rw\n1 2 0:1 / /cg rw - cgroup2 c rw\n\
         1 2 0:1 /x /part rw - cgroup2 c rw\n",
    );
    assert_eq!(hierarchies(&scratch.roots()).unwrap().memory_root(), scratch.0.join("cg"));
}

#[test]
fn reads_all_figures_of_a_v2_group() {
    let roots = fixture("host-v2");
    let group = Group::open(&hierarchies(&roots).unwrap(), &a_in_slice()).unwrap();
    let figures = group.figures(&mut Buffer::new()).unwrap();
    assert_eq!(figures.usage, Bytes::mib(520));
    assert_eq!(figures.limit, Limit::At(Bytes::mib(512)), "the slice is lower than the scope");
    assert_eq!(figures.high, Limit::At(Bytes::mib(540)));
    assert_eq!(figures.swap, Field::Known(Bytes::ZERO));
    assert_eq!(figures.swap_max, Limit::At(Bytes::mib(600)));
    assert_eq!((figures.anon, figures.shmem), (Bytes::mib(450), Bytes::mib(16)));
    assert_eq!((figures.inactive_file, figures.active_file), (Bytes::mib(30), Bytes::mib(14)));
    assert_eq!((figures.slab_reclaimable, figures.refaults), (Bytes::mib(2), 4100));
    assert_eq!((figures.events.high, figures.events.oom_kill), (7, 0));
    assert_eq!(figures.psi.known().unwrap().some_avg10, 361);
    assert_eq!(figures.unreclaimable(), Bytes::mib(474));
}

#[test]
fn what_a_group_does_not_have_is_unknown_and_never_zero() {
    let roots = fixture("host-v2");
    let mut found = hierarchies(&roots).unwrap();
    let scope = PathBuf::from(format!("/system.slice/docker-{B}.scope"));
    let mut group = Group::open(&found, &scope).unwrap();
    let mut buffer = Buffer::new();
    let figures = group.figures(&mut buffer).unwrap();
    assert_eq!((figures.limit, figures.high), (Limit::Max, Limit::Max));
    assert_eq!(figures.psi, Field::Unknown(Why::Absent));
    assert_eq!(figures.swap, Field::Known(Bytes::ZERO), "no accounting, but no swap either");
    assert_eq!(figures.swap_max, Limit::At(Bytes::ZERO));
    group.set_host_swap(true);
    let figures = group.figures(&mut buffer).unwrap();
    assert_eq!(figures.swap, Field::Unknown(Why::Absent));
    found.host_swap = true;
    let again = Group::open(&found, &scope).unwrap();
    assert_eq!(again.figures(&mut buffer).unwrap(), figures);
}

#[test]
fn reads_memory_from_v1_and_pressure_from_v2_on_a_hybrid_host() {
    let roots = fixture("host-hybrid");
    let group = Group::open(&hierarchies(&roots).unwrap(), &a_of_cgroupfs()).unwrap();
    let figures = group.figures(&mut Buffer::new()).unwrap();
    assert_eq!(group.version(), Version::V1);
    assert_eq!((figures.usage, figures.limit), (Bytes::mib(520), Limit::At(Bytes::mib(600))));
    assert_eq!((figures.high, figures.anon), (Limit::Max, Bytes::mib(450)));
    assert_eq!((figures.events.max, figures.events.oom_kill), (37, 1));
    assert_eq!(figures.swap, Field::Unknown(Why::Absent), "swap on the host, not accounted for");
    assert_eq!(figures.psi.known().unwrap().full_avg10, 120);
    assert!(group.open_file("cgroup.freeze", OFlag::O_RDONLY).is_ok());
    assert!(group.open_file("memory.usage_in_bytes", OFlag::O_RDONLY).is_ok());
}

#[test]
fn finds_the_v2_directory_by_where_the_processes_are() {
    let roots = fixture("host-hybrid");
    let found = hierarchies(&roots).unwrap();
    let mut buffer = Buffer::new();
    let mut group = Group::open(&found, &Path::new("docker").join(B)).unwrap();
    assert_eq!(group.psi(&mut buffer), Field::Unknown(Why::Absent));
    assert!(group.find_unified(&roots, &found, &mut buffer).unwrap());
    assert_eq!(group.psi(&mut buffer).known().unwrap().some_total_us, 0);
}

#[test]
fn never_takes_a_v2_directory_that_strangers_share() {
    let scratch = Scratch::new();
    let stat = fs::read_to_string(
        fixture("host-v1")
            .path("/sys/fs/cgroup/cpu,memory")
            .join(a_of_cgroupfs())
            .join("memory.stat"),
    );
    scratch
        .file(
            "proc/self/mountinfo",
            "1 2 0:1 / /m rw - cgroup c rw,memory\n1 2 0:2 / /u rw - cgroup2 c rw\n",
        )
        .file("m/cgroup.procs", "")
        .file("m/g/cgroup.procs", "7\n")
        .file("m/g/memory.usage_in_bytes", "1\n")
        .file("m/g/memory.stat", &stat.unwrap())
        .file("m/g/memory.oom_control", "oom_kill 0\n")
        .file("m/g/memory.failcnt", "0\n")
        .file("u/cgroup.procs", "7\n8\n")
        .file("u/shared/cgroup.procs", "7\n8\n")
        .file("proc/7/cgroup", "2:memory:/g\n0::/shared\n");
    let roots = scratch.roots();
    let found = hierarchies(&roots).unwrap();
    let mut group = Group::open(&found, Path::new("g")).unwrap();
    let mut buffer = Buffer::new();
    assert!(!group.find_unified(&roots, &found, &mut buffer).unwrap());
    scratch.file("proc/7/cgroup", "2:memory:/g\n0::/\n");
    assert!(!group.find_unified(&roots, &found, &mut buffer).unwrap());
    scratch.file("u/own/cgroup.procs", "7\n").file("proc/7/cgroup", "2:memory:/g\n0::/own\n");
    assert!(group.find_unified(&roots, &found, &mut buffer).unwrap());
}

#[test]
fn reads_swap_from_v1_where_it_is_accounted_for() {
    let roots = fixture("host-v1");
    let group = Group::open(&hierarchies(&roots).unwrap(), &a_of_cgroupfs()).unwrap();
    let figures = group.figures(&mut Buffer::new()).unwrap();
    assert_eq!(figures.swap, Field::Known(Bytes(12288)));
    assert_eq!(figures.swap_max, Limit::At(Bytes::mib(600)));
    assert_eq!(figures.psi, Field::Unknown(Why::Absent));
    assert_eq!(
        group.open_file("cgroup.freeze", OFlag::O_RDONLY).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

#[test]
fn a_refresh_reads_what_moves_and_leaves_the_rest() {
    let scratch = Scratch::v2();
    scratch.file("cg/g/memory.max", "1000\n");
    let group = scratch.group();
    let mut buffer = Buffer::new();
    let mut figures = group.figures(&mut buffer).unwrap();
    scratch
        .file("cg/g/memory.current", "200\n")
        .file("cg/g/memory.max", "2000\n")
        .file("cg/g/memory.events", "high 3\nmax 1\n");
    group.refresh(&mut figures, &mut buffer).unwrap();
    assert_eq!((figures.usage, figures.events.high), (Bytes(200), 3));
    assert_eq!(figures.limit, Limit::At(Bytes(1000)));
    assert_eq!(group.limit(&mut buffer).unwrap(), Limit::At(Bytes(2000)));
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let scratch = Scratch::v2();
    let group = scratch.group();
    let mut buffer = Buffer::new();
    scratch.file("cg/g/memory.stat", "anon 1\nshmem many\n");
    let error = group.figures(&mut buffer).unwrap_err().to_string();
    assert!(error.ends_with("/cg/g/memory.stat: line 2: expected a number"), "{error}");
    scratch.file("cg/g/memory.current", "");
    assert!(matches!(group.usage(&mut buffer), Err(Error::Parse { .. })));
    scratch.file("cg/g/memory.max", "none\n");
    let error = group.limit(&mut buffer).unwrap_err().to_string();
    assert!(error.ends_with("/cg/g/memory.max: line 1: expected max or a number"), "{error}");
    scratch.file("cg/g/memory.pressure", "some\n");
    assert_eq!(group.psi(&mut buffer), Field::Unknown(Why::Malformed));
}

#[test]
fn a_group_that_is_missing_or_has_no_memory_files_says_which() {
    let scratch = Scratch::v2();
    let found = hierarchies(&scratch.roots()).unwrap();
    assert!(Group::open(&found, Path::new("none")).unwrap_err().is_gone());
    assert!(matches!(Group::open(&found, Path::new("")), Err(Error::NoMemory { .. })));
    for bad in ["../etc", "a/../../b", "/.."] {
        assert!(matches!(Group::open(&found, Path::new(bad)), Err(Error::BadPath { .. })), "{bad}");
    }
    let deep = "a/".repeat(33);
    assert!(matches!(Group::open(&found, Path::new(&deep)), Err(Error::BadPath { .. })));
    std::os::unix::fs::symlink("g", scratch.0.join("cg/link")).unwrap();
    assert!(matches!(Group::open(&found, Path::new("link")), Err(Error::Io { .. })));
}

#[test]
fn the_limit_climbs_to_the_root_of_the_mount_and_no_further() {
    let scratch = Scratch::v2();
    let leaf = "cg/g/h/i";
    for name in ["cgroup.procs", "memory.current", "memory.events", "memory.max", "memory.stat"] {
        let text = fs::read_to_string(scratch.0.join("cg/g").join(name)).unwrap();
        scratch.file(&format!("{leaf}/{name}"), &text);
    }
    scratch.file("memory.max", "1\n").file("cg/g/memory.max", "max\n");
    let found = hierarchies(&scratch.roots()).unwrap();
    let group = Group::open(&found, Path::new("g/h/i")).unwrap();
    let mut buffer = Buffer::new();
    assert_eq!(group.limit(&mut buffer).unwrap(), Limit::Max);
    scratch.file("cg/g/h/memory.max", "300\n").file("cg/g/memory.max", "200\n");
    assert_eq!(group.limit(&mut buffer).unwrap(), Limit::At(Bytes(200)));
    scratch.file("cg/memory.max", "100\n");
    assert_eq!(group.limit(&mut buffer).unwrap(), Limit::At(Bytes(100)), "a namespace's root");
}

#[test]
fn lists_each_process_of_a_group_and_its_nested_groups_once() {
    let roots = fixture("host-v2");
    let group = Group::open(&hierarchies(&roots).unwrap(), &a_in_slice()).unwrap();
    let mut pids = vec![(9999, 3)];
    let count = group.pids(4, &mut pids, &mut Buffer::new()).unwrap();
    assert_eq!(pids, [(9999, 3), (1200, 4), (1210, 4), (1301, 4), (1302, 4), (1310, 4), (1320, 4)]);
    assert_eq!(count, PidCount { outside: 1, nested: 2, ..PidCount::default() });
}

#[test]
fn nested_groups_are_bounded_in_depth_and_number() {
    let scratch = Scratch::v2();
    let mut path = String::from("cg/g");
    for depth in 1..=20 {
        path.push_str("/d");
        scratch.file(&format!("{path}/cgroup.procs"), &format!("{}\n", 100 + depth));
    }
    let group = scratch.group();
    let mut pids = Vec::new();
    let count = group.pids(0, &mut pids, &mut Buffer::new()).unwrap();
    assert_eq!((count.nested, count.unread), (16, 1));
    assert_eq!(pids.last(), Some(&(116, 0)));
    for n in 0..4200 {
        fs::create_dir(scratch.0.join(format!("cg/g/many{n}"))).unwrap();
    }
    let mut buffer = Buffer::new();
    let count = group.pids(0, &mut pids, &mut buffer).unwrap();
    assert_eq!(count.nested + count.gone, 4096, "a directory without cgroup.procs counts as gone");
    assert!(count.unread >= 4201 - 4096);
}

#[test]
fn hostile_lists_of_processes_are_refused_or_bounded() {
    let scratch = Scratch::v2();
    let group = scratch.group();
    let mut buffer = Buffer::new();
    let mut pids = Vec::new();
    for bad in ["x\n", "-1\n", "1 2\n", "99999999999\n"] {
        scratch.file("cg/g/cgroup.procs", bad);
        assert!(
            matches!(group.pids(0, &mut pids, &mut buffer), Err(Error::Parse { .. })),
            "{bad:?}"
        );
    }
    let many: String = (1..=100_000).map(|pid| format!("{pid}\n")).collect();
    scratch.file("cg/g/cgroup.procs", &many);
    pids.clear();
    group.pids(0, &mut pids, &mut buffer).unwrap();
    assert_eq!(pids.len(), 100_000);
    scratch.file("cg/g/cgroup.procs", &"4194304\n".repeat(700_000));
    assert!(matches!(
        group.pids(0, &mut pids, &mut buffer),
        Err(Error::Io { errno: Errno::EFBIG, .. })
    ));
}

#[test]
fn writes_only_files_of_the_group_itself() {
    let scratch = Scratch::v2();
    scratch.file("cg/g/memory.high", "max\n").file("cg/secret", "");
    let group = scratch.group();
    group.write("memory.high", b"4096").unwrap();
    let written = fs::read_to_string(scratch.0.join("cg/g/memory.high")).unwrap();
    assert!(written.starts_with("4096"));
    for bad in ["../secret", "a/b", "", ".", "..", "x\0y"] {
        assert!(group.write(bad, b"1").is_err(), "{bad:?}");
    }
    std::os::unix::fs::symlink("../secret", scratch.0.join("cg/g/memory.link")).unwrap();
    assert!(group.write("memory.link", b"1").is_err());
}

#[test]
fn scans_processes_and_counts_what_it_could_not_read() {
    let roots = fixture("host-v2");
    let mut buffer = Buffer::new();
    let mut procs: Vec<Proc> = Vec::new();
    let pids = [(1200, 0), (1302, 1), (1320, 1), (1330, 1), (4000, 1)];
    let count = scan(&roots, &pids, &mut procs, &mut buffer);
    assert_eq!((count.gone, count.denied, count.malformed), (1, 0, 1));
    let seen: Vec<_> =
        procs.iter().map(|p| (p.key.pid, p.key.start, p.ppid, p.container)).collect();
    assert_eq!(seen, [(1200, 5100, 1180, 0), (1302, 9100, 1210, 1), (1320, 9500, 1301, 1)]);
    assert_eq!(procs[1].comm.bytes(), b"a) R 1 1 1 (b");
    assert!(procs[2].is_zombie() && !procs[0].is_zombie());
    assert_eq!(procs[0].memory, Field::Unknown(Why::NotRead));
    let room = procs.capacity();
    scan(&roots, &pids[..1], &mut procs, &mut buffer);
    assert_eq!((procs.len(), procs.capacity()), (1, room));
}

#[test]
fn a_process_that_lost_its_first_thread_only_is_no_zombie() {
    let scratch = Scratch::new();
    let proc = |pid: u32, threads: u32| {
        let text = format!(
            "{pid} (zl) Z 1 {pid} {pid} 0 -1 4227084 16511 0 0 0 0 3 0 0 20 0 {threads} 0 1399843 \
             0 0 18446744073709551615 0 0 0 0 0 0 0 6 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        scratch.file(&format!("proc/{pid}/stat"), &text);
    };
    proc(7, 2);
    proc(8, 1);
    let mut procs = Vec::new();
    let roots = Roots::at(&scratch.0).unwrap();
    scan(&roots, &[(7, 0), (8, 0)], &mut procs, &mut Buffer::new());
    assert_eq!(procs.iter().map(Proc::is_zombie).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn reads_memory_pss_and_ids_of_one_process() {
    let roots = fixture("host-v2");
    let buffer = &mut Buffer::new();
    let memory = read_memory(&roots, 1310, buffer).known().unwrap();
    assert_eq!((memory.anon, memory.shmem), (Bytes::kib(16_000), Bytes::kib(4000)));
    assert_eq!(memory.swap, Bytes::kib(512));
    assert_eq!(read_pss(&roots, 1310, buffer), Field::Known(Bytes::kib(20_512)));
    let ids = read_ids(&roots, 1310, buffer).unwrap();
    assert_eq!((ids.uid, ids.nspid, ids.ppid), (1000, 30, 1301));
    assert_eq!(start_of(&roots, 1310, buffer), Ok(Some(9400)));
    assert_eq!(
        cgroup_of(&roots, 1310, buffer).unwrap().v2,
        Some(Path::new("/").join(a_in_slice()))
    );
}

#[test]
fn what_is_not_there_says_why() {
    let roots = fixture("host-v2");
    let buffer = &mut Buffer::new();
    assert_eq!(read_memory(&roots, 1320, buffer), Field::Unknown(Why::Absent), "a zombie");
    assert_eq!(read_memory(&roots, 4000, buffer), Field::Unknown(Why::Gone));
    assert_eq!(read_pss(&roots, 4000, buffer), Field::Unknown(Why::Gone));
    assert_eq!(start_of(&roots, 1330, buffer), Err(nix::errno::Errno::EBADMSG));
    let error = read_stat(&roots, 1330, buffer).unwrap_err();
    assert_eq!(error.why(), Why::Malformed);
    assert_eq!(error.to_string(), "/proc/1330/stat: line 1: expected )");
}

#[test]
fn reads_the_memory_of_the_host() {
    let roots = fixture("host-hybrid");
    let buffer = &mut Buffer::new();
    let host = memory::memory(&roots, buffer).unwrap();
    assert_eq!((host.total, host.swap_total), (Bytes::kib(3_028_492), Bytes::gib(1)));
    assert!(memory::pressure(&roots, buffer).is_known());
    assert_eq!(memory::pressure(&fixture("host-v1"), buffer), Field::Unknown(Why::Absent));
    let broken = Scratch::new();
    assert_eq!(memory::memory(&broken.roots(), buffer), Err(memory::Error::Read(Errno::ENOENT)));
    broken.file("proc/meminfo", "MemTotal: 1 kB\n").file("proc/pressure/memory", "\n");
    let error = memory::memory(&broken.roots(), buffer).unwrap_err();
    assert_eq!(error.to_string(), "/proc/meminfo: no MemAvailable");
    assert_eq!(memory::pressure(&broken.roots(), buffer), Field::Unknown(Why::Malformed));
}

/// This machine's own hierarchies, or why the test cannot run here.
fn live() -> Option<(Roots, Hierarchies)> {
    let roots = Roots::system().unwrap();
    match hierarchies(&roots) {
        Ok(found) => Some((roots, found)),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn agrees_with_procfs_about_every_process_here() {
    let roots = Roots::system().unwrap();
    let mut buffer = Buffer::new();
    let mut compared = 0;
    for process in procfs::process::all_processes().unwrap().flatten() {
        let (Ok(theirs), pid) = (process.stat(), process.pid().unsigned_abs()) else { continue };
        let Ok(ours) = read_stat(&roots, pid, &mut buffer) else { continue };
        assert_eq!(ours.start, theirs.starttime);
        assert_eq!(ours.comm.bytes(), &theirs.comm.as_bytes()[..theirs.comm.len().min(15)]);
        assert_eq!(ours.sid, theirs.session.unsigned_abs());
        let Ok(status) = process.status() else { continue };
        let Ok(ids) = read_ids(&roots, pid, &mut buffer) else { continue };
        assert_eq!((ids.uid, ids.tgid), (status.ruid, status.tgid.unsigned_abs()));
        assert_eq!(Some(ids.nspid), status.nspid.unwrap().last().map(|n| n.unsigned_abs()));
        assert_eq!(read_memory(&roots, pid, &mut buffer).is_known(), status.rssanon.is_some());
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn agrees_with_procfs_about_our_own_memory() {
    let roots = Roots::system().unwrap();
    let mut buffer = Buffer::new();
    let me = std::process::id();
    let ballast = vec![1u8; 32 << 20];
    let ours = read_memory(&roots, me, &mut buffer).known().unwrap();
    let theirs = procfs::process::Process::myself().unwrap().status().unwrap();
    let near = |a: Bytes, b: u64| a.0.abs_diff(b * 1024) < 16 << 20;
    assert!(near(ours.anon, theirs.rssanon.unwrap()), "{ours:?}");
    let pss = read_pss(&roots, me, &mut buffer).known().unwrap();
    assert!(pss >= Bytes::mib(32) && ours.anon >= Bytes::mib(32), "{pss} {ours:?}");
    let (key, _) = cross::process(me).unwrap();
    assert_eq!(start_of(&roots, me, &mut buffer), Ok(Some(key.start)));
    drop(ballast);
}

#[test]
fn agrees_with_cgroups_rs_about_this_host() {
    let Some((roots, found)) = live() else { return };
    assert!(cross::agrees_on_mode(found.mode));
    let mut buffer = Buffer::new();
    let ours = cgroup_of(&roots, std::process::id(), &mut buffer).unwrap();
    assert_eq!(cross::cgroup_of(std::process::id()).unwrap(), ours);
    let path = if found.mode == HostMode::V2 { ours.v2 } else { ours.v1_memory }.unwrap();
    let Some(relative) = found.relative_to_memory(&path) else { return };
    let group = match Group::open(&found, relative) {
        Ok(group) => group,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let figures = group.figures(&mut buffer).unwrap();
    let (usage, limit) = cross::usage_and_limit(&group).unwrap();
    assert!(figures.usage.0.abs_diff(usage.0) < 1 << 30, "{} {usage}", figures.usage);
    assert_eq!(figures.limit.lowest(limit), figures.limit);
    let mut pids = Vec::new();
    group.pids(0, &mut pids, &mut buffer).unwrap();
    assert!(pids.iter().any(|(pid, _)| *pid == std::process::id()));
    assert!(group.events_fd().as_raw_fd() > 2);
}

#[test]
fn a_group_that_is_removed_while_it_is_held_is_gone() {
    let Some((_, found)) = live() else { return };
    let name = format!("nbguard-test-{}", std::process::id());
    let dir = found.memory_root().join(&name);
    if let Err(error) = fs::create_dir(&dir) {
        return eprintln!("skipped: {}: {error}", dir.display());
    }
    let group = Group::open(&found, Path::new(&name));
    let nested = fs::create_dir(dir.join("nested"));
    let counted = group.as_ref().map(|g| g.pids(0, &mut Vec::new(), &mut Buffer::new()));
    let _ = fs::remove_dir(dir.join("nested"));
    fs::remove_dir(&dir).unwrap();
    let Ok(group) = &group else { return eprintln!("skipped: no memory controller for {name}") };
    nested.unwrap();
    assert_eq!(counted.unwrap().unwrap().nested, 1);
    let mut buffer = Buffer::new();
    assert!(group.figures(&mut buffer).unwrap_err().is_gone());
    assert!(group.usage(&mut buffer).unwrap_err().is_gone());
    assert!(group.limit(&mut buffer).unwrap_err().is_gone());
    assert!(group.pids(0, &mut Vec::new(), &mut buffer).unwrap_err().is_gone());
    assert_eq!(group.psi(&mut buffer), Field::Unknown(Why::Absent));
    assert!(cross::usage_and_limit(group).is_none());
}
