//! Kernel facts that the guard rests on, asked of this machine's kernel. Each test names the
//! kernels it was checked on; what it prints names the one it ran on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nbguard::sys::{pidfd, psi};
use nbguard::units::{Bytes, StallKind, Trigger};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::ground::{Container, Ground, PATIENCE, alone, kernel};
use crate::notebooks::Server;
use crate::skip;

/// Long enough that an event which comes at all has come: triggers look ten times a window.
const QUIET: Duration = Duration::from_millis(300);

fn ground() -> Option<Ground> {
    println!("kernel {}", kernel());
    Ground::find().map_err(skip).ok()
}

fn container(ground: &Ground) -> Container {
    ground.container(Bytes::mib(256)).unwrap()
}

/// The pressure file of a container, where this kernel has it.
fn pressure(container: &Container) -> Option<PathBuf> {
    let file = container.unified_dir()?.join("memory.pressure");
    match fs::read_to_string(&file) {
        Ok(_) => Some(file),
        Err(error) => {
            skip(format!("{}: {error}", file.display()));
            None
        }
    }
}

fn open(file: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    Ok(OwnedFd::from(options.open(file)?))
}

/// What writing this to a fresh descriptor gives: the errno, if any.
fn written(file: &Path, text: &[u8]) -> Option<i32> {
    let mut to = File::from(open(file).unwrap());
    to.write(text).err().and_then(|error| error.raw_os_error())
}

fn events_of(fd: &impl AsFd, asked: PollFlags, time: Duration) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), asked)];
    let time = PollTimeout::try_from(time).unwrap();
    poll(&mut fds, time).unwrap();
    fds[0].revents().unwrap()
}

fn has_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(line, 16).unwrap() & (1 << CAP_SYS_RESOURCE) != 0
}

fn sleeper() -> Child {
    Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
}

/// kernel/sched/psi.c, psi_trigger_create. Checked on 6.18 without CAP_SYS_RESOURCE.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_window_that_is_refused_without_the_capability_is_scaled_to_two_seconds() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let container = container(&ground);
    let Some(file) = pressure(&container) else { return };
    let wanted = Trigger::new(StallKind::Some, 150_000, 1_000_000).unwrap();
    let armed = psi::arm(|| open(&file), wanted).unwrap();
    if has_sys_resource() {
        assert_eq!(armed.trigger, wanted);
        return;
    }
    assert_eq!(armed.trigger, wanted.unprivileged());
    assert_eq!(armed.trigger.window_us(), 2_000_000);
    assert_eq!(armed.trigger.stall_us(), 300_000);
    for (window_s, refused) in [(1, true), (2, false), (3, true), (4, false), (10, false)] {
        let text = format!("some 150000 {window_s}000000\0");
        let errno = refused.then_some(libc::EINVAL);
        assert_eq!(written(&file, text.as_bytes()), errno, "a window of {window_s} s");
    }
}

/// Checked on 6.18.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn the_kernel_refuses_what_a_trigger_cannot_be_and_a_second_one_on_a_descriptor() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let container = container(&ground);
    let Some(file) = pressure(&container) else { return };
    for bad in ["some 0 2000000\0", "some 2000001 2000000\0", "some 150000 12000000\0", "all 1 2\0"]
    {
        assert_eq!(written(&file, bad.as_bytes()), Some(libc::EINVAL), "{bad}");
    }
    let mut armed = File::from(open(&file).unwrap());
    armed.write_all(b"some 150000 2000000\0").unwrap();
    let second = armed.write(b"some 150000 2000000\0").unwrap_err();
    assert_eq!(second.raw_os_error(), Some(libc::EBUSY));
}

/// `psi_write` overwrites the last byte it is given with NUL; the cgroup's file does not.
/// Checked on 6.18: without a byte to spare `2000000` becomes `200000`.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn the_last_byte_written_to_the_hosts_pressure_file_is_lost() {
    let _alone = alone();
    println!("kernel {}", kernel());
    let file = Path::new("/proc/pressure/memory");
    if let Err(error) = open(file) {
        return skip(format!("{}: {error}", file.display()));
    }
    assert_eq!(written(file, b"some 150000 2000000\0"), None);
    if has_sys_resource() {
        return skip("with CAP_SYS_RESOURCE a window of 0.2 s is accepted in silence");
    }
    assert_eq!(written(file, b"some 150000 2000000"), Some(libc::EINVAL));
}

/// Checked on 6.18: POLLERR and POLLPRI at once; the guard takes POLLERR for "it is gone".
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn removing_a_group_reports_an_error_on_its_trigger_and_nothing_before() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let container = container(&ground);
    let Some(file) = pressure(&container) else { return };
    let trigger = Trigger::new(StallKind::Some, 150_000, 2_000_000).unwrap();
    let armed = psi::arm(|| open(&file), trigger).unwrap();
    assert_eq!(events_of(&armed.fd, PollFlags::POLLPRI, QUIET), PollFlags::empty());
    container.remove();
    let seen = events_of(&armed.fd, PollFlags::POLLPRI, PATIENCE);
    assert!(seen.contains(PollFlags::POLLERR | PollFlags::POLLPRI), "{seen:?}");
}

/// Checked on 6.18 (v1 `memory.limit_in_bytes`; v2 `memory.max` in the VM, 6.1 to 7.2): a changed
/// limit needs no polling.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn inotify_tells_that_somebody_wrote_a_cgroups_file() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let container = container(&ground);
    let name = if ground.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    inotify.add_watch(&container.memory_dir().join(name), AddWatchFlags::IN_MODIFY).unwrap();
    assert_eq!(events_of(&inotify, PollFlags::POLLIN, Duration::ZERO), PollFlags::empty());
    container.limit(Bytes::mib(128)).unwrap();
    assert_eq!(events_of(&inotify, PollFlags::POLLIN, PATIENCE), PollFlags::POLLIN);
    assert!(inotify.read_events().unwrap()[0].mask.contains(AddWatchFlags::IN_MODIFY));
}

/// Checked on 6.18: what starts and stops containers is told by their parents' directories.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn inotify_tells_that_a_group_came_and_went() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let parent = container(&ground).memory_dir().parent().unwrap().to_path_buf();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
    inotify.add_watch(&parent, mask).unwrap();
    let container = container(&ground);
    let name = container.relative.file_name().unwrap().to_os_string();
    container.remove();
    let mut seen = AddWatchFlags::empty();
    while seen != mask {
        assert_eq!(events_of(&inotify, PollFlags::POLLIN, PATIENCE), PollFlags::POLLIN, "{seen:?}");
        for event in inotify.read_events().unwrap() {
            if event.name.as_ref() == Some(&name) {
                seen |= event.mask & mask;
            }
        }
    }
}

/// pidfd_open(2), since 5.3. Checked on 6.18.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_pidfd_turns_readable_when_its_process_exits_and_not_before() {
    let _alone = alone();
    println!("kernel {}", kernel());
    let mut child = sleeper();
    let pidfd = pidfd::open(child.id()).unwrap();
    assert_eq!(events_of(&pidfd, PollFlags::POLLIN, Duration::ZERO), PollFlags::empty());
    pidfd::send(pidfd.as_fd(), libc::SIGKILL).unwrap();
    // Nobody has waited for the child: it is a zombie, and readable all the same.
    let seen = events_of(&pidfd, PollFlags::POLLIN, PATIENCE);
    assert!(seen.contains(PollFlags::POLLIN), "{seen:?}");
    child.wait().unwrap();
}

/// process_mrelease(2), since 5.15. Checked on 6.18: nobody's memory is taken by mistake.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn memory_is_released_of_the_dying_only() {
    let _alone = alone();
    println!("kernel {}", kernel());
    let mut child = sleeper();
    let pidfd = pidfd::open(child.id()).unwrap();
    let errno = pidfd::release(pidfd.as_fd()).unwrap_err().raw_os_error();
    if errno == Some(libc::ENOSYS) {
        skip("no process_mrelease (Linux 5.15)");
    } else {
        assert_eq!(errno, Some(libc::EINVAL), "it lives");
        pidfd::send(pidfd.as_fd(), libc::SIGKILL).unwrap();
        events_of(&pidfd, PollFlags::POLLIN, PATIENCE);
        let errno = pidfd::release(pidfd.as_fd()).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::ESRCH), "it is a zombie");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Documentation/admin-guide/cgroup-v1/memory.rst, 9. Memory thresholds. Checked on 6.18: crossed
/// upwards and downwards, both are told.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_v1_usage_threshold_tells_when_it_is_crossed_either_way() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    if ground.is_v2() {
        return skip("the memory controller is in the v2 hierarchy");
    }
    let container = container(&ground);
    let server = Server::start(&container, 1, 0);
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    let usage = File::open(container.memory_dir().join("memory.usage_in_bytes")).unwrap();
    let threshold = container.usage().plus(Bytes::mib(32));
    let line = format!("{} {} {}", event.as_raw_fd(), usage.as_raw_fd(), threshold.0);
    fs::write(container.memory_dir().join("cgroup.event_control"), line).unwrap();
    assert_eq!(events_of(&event, PollFlags::POLLIN, Duration::ZERO), PollFlags::empty());
    server.notebooks[0].grow(Bytes::mib(64));
    assert_eq!(events_of(&event, PollFlags::POLLIN, PATIENCE), PollFlags::POLLIN, "upwards");
    event.read().unwrap();
    drop(server);
    container.remove();
    assert_eq!(events_of(&event, PollFlags::POLLIN, PATIENCE), PollFlags::POLLIN, "downwards");
}

/// cgroup_procs of a group that was removed. Checked on 6.18: ENODEV, which the guard reads as gone.
#[test]
#[ignore = "wants the machine for itself: tests/run"]
fn a_kept_descriptor_of_a_removed_group_says_enodev() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let container = container(&ground);
    let mut kept = File::open(container.memory_dir().join("memory.stat")).unwrap();
    container.remove();
    let error = kept.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}
