//! Reads a process's argv, environment and ids into an [`Identity`]. Everything it reads was
//! written by the process: bounded, never opened as a path, never trusted beyond its own uid.
//! May block for as long as the kernel throttles that process (491 ms seen): for the warning step
//! or a helper thread, never between an event and a signal.

use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, read, sysconf};

use crate::facts::Why;
use crate::ids::ProcKey;
use crate::parse::jupyter::{MarksReader, argv};
use crate::parse::{php_argv, stat, status_ids};
use crate::policy::identity::{Claim, Identity, Marks};
use crate::roots::{Buffer, Roots, why};
use crate::runtime::php;

/// A kernel's argv has some 300 bytes; a JVM's class path several KiB.
pub const MAX_ARGV: usize = 16 << 10;
/// Kubernetes puts a hundred bytes for each service into every environment, and launchers put
/// their marks behind all of it.
pub const MAX_ENVIRON: usize = 256 << 10;
/// Between fork and exec a child has its parent's argv. `conda run` and a login shell take up to
/// a second to the last exec; a process older than this has surely become what it is.
pub const SETTLES_AFTER_MS: u64 = 2_000;

/// Clock ticks since boot, as `stat` counts a start time.
pub fn boot_ticks() -> u64 {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds * *TICKS + nanos * *TICKS / 1_000_000_000
}

/// How long ago that was, in whole milliseconds; `start` as `stat` has it.
pub fn age(start: u64) -> Duration {
    let ticks = boot_ticks().saturating_sub(start);
    Duration::from_millis(ticks.saturating_mul(1000) / *TICKS)
}

static TICKS: LazyLock<u64> = LazyLock::new(|| {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).expect("POSIX demands CLK_TCK of every host")
});

/// What a process is. `now` is [`boot_ticks`].
///
/// # Errors
/// Why it is not known: `Gone` also where the pid belongs to another process by now.
pub fn identify(
    roots: &Roots,
    key: ProcKey,
    now: u64,
    buffer: &mut Buffer,
) -> Result<Identity, Why> {
    let cmdline = text(roots.read_process_up_to(key.pid, "cmdline", MAX_ARGV, buffer))?;
    // In the middle of exec both texts are empty (seen on 6.18 right after a vfork).
    let in_exec = cmdline.is_empty();
    let said = argv(cmdline);
    let of_php = php_argv::argv(cmdline);
    let marks = read_marks(roots, key.pid, buffer)?;
    let claim = match said.with(marks.as_ref()) {
        Claim::Plain => match php::claim(roots, key.pid, of_php, buffer) {
            Some(php) => Claim::Php(Box::new(php)),
            None => Claim::Plain,
        },
        claim => claim,
    };
    let ids = status_ids(text(roots.read_process(key.pid, "status", buffer))?)
        .map_err(|_| Why::Malformed)?;
    // Last, so that everything above was read of the process that `key` names.
    let line =
        stat(text(roots.read_process(key.pid, "stat", buffer))?).map_err(|_| Why::Malformed)?;
    if line.start != key.start || matches!(line.state, b'Z' | b'X') {
        return Err(Why::Gone);
    }
    let age = now.saturating_sub(key.start);
    Ok(Identity {
        key,
        uid: ids.uid,
        nspid: ids.nspid,
        comm: line.comm,
        settled: !in_exec && age.saturating_mul(1000) >= SETTLES_AFTER_MS * *TICKS,
        claim,
        marks: marks.map(Arc::new),
    })
}

fn text(read: Result<&[u8], Errno>) -> Result<&[u8], Why> {
    read.map_err(why)
}

/// Goes through the environment in pieces of the buffer's size. One that may not be read is one
/// without marks: argv and ancestry still tell.
fn read_marks(roots: &Roots, pid: u32, buffer: &mut Buffer) -> Result<Option<Marks>, Why> {
    let file = match roots.open_process(pid, "environ") {
        Ok(file) => file,
        Err(Errno::EACCES | Errno::EPERM) => return Ok(None),
        Err(error) => return Err(why(error)),
    };
    let room = buffer.room();
    let mut reader = MarksReader::default();
    let (mut total, mut len) = (0, 0);
    while total < MAX_ENVIRON {
        let end = room.len().min(len + MAX_ENVIRON - total);
        let got = match read(file.as_fd(), &mut room[len..end]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::EINTR) => continue,
            Err(Errno::EACCES | Errno::EPERM) => return Ok(None),
            Err(error) => return Err(why(error)),
        };
        total += got;
        len += got;
        let used = reader.feed(&room[..len]);
        room.copy_within(used..len, 0);
        len -= used;
        if len == room.len() {
            // An entry as long as the buffer is none of ours; its end is read as one more entry.
            len = 0;
        }
    }
    reader.take(&room[..len]);
    Ok(reader.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::identity::Claim;
    use std::fs;
    use std::io::Read;
    use std::path::{Path, PathBuf};

    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str) -> Fixture {
            let dir =
                std::env::temp_dir().join(format!("nbguard-jupyter-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("proc/31")).unwrap();
            let fixture = Fixture(dir);
            fixture.write(
                "stat",
                b"31 (python3) S 7 31 31 0 -1 4194304 1 0 0 0 7 9 0 0 20 0 3 0 500 1 9\n",
            );
            fixture.write(
                "status",
                b"Tgid:\t31\nPPid:\t7\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t31\t5\n",
            );
            fixture.write("cmdline", b"python3\0-m\0ipykernel_launcher\0-f\0/r/kernel-x.json\0");
            fixture.write("environ", b"JPY_SESSION_NAME=/w/a.ipynb\0JPY_PARENT_PID=2\0");
            fixture
        }

        fn write(&self, file: &str, text: &[u8]) {
            fs::write(self.0.join("proc/31").join(file), text).unwrap();
        }

        fn read(&self, start: u64, now: u64) -> Result<Identity, Why> {
            let roots = Roots::at(&self.0).unwrap();
            identify(&roots, ProcKey { pid: 31, start }, now, &mut Buffer::new())
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(Path::new(&self.0));
        }
    }

    #[test]
    fn reads_a_kernel() {
        let fixture = Fixture::new("kernel");
        let id = fixture.read(500, 10_000).unwrap();
        assert_eq!((id.uid, id.nspid, id.comm.bytes()), (1000, 5, &b"python3"[..]));
        assert_eq!(&*id.claim.kernel().unwrap().connection, "/r/kernel-x.json");
        let marks = id.marks.unwrap();
        assert_eq!((marks.session.as_deref(), marks.parent), (Some("/w/a.ipynb"), Some(2)));
        assert!(id.settled);
    }

    #[test]
    fn a_young_process_may_still_exec() {
        let fixture = Fixture::new("young");
        assert!(!fixture.read(500, 500).unwrap().settled);
        assert!(!fixture.read(500, 400).unwrap().settled, "a clock behind the start");
        assert!(fixture.read(500, 500 + 2 * *TICKS).unwrap().settled);
    }

    #[test]
    fn a_reused_pid_a_zombie_and_a_missing_file_are_gone() {
        let fixture = Fixture::new("gone");
        assert_eq!(fixture.read(499, 10_000).unwrap_err(), Why::Gone);
        fixture.write(
            "stat",
            b"31 (python3) Z 7 31 31 0 -1 4194304 1 0 0 0 7 9 0 0 20 0 3 0 500 1 9\n",
        );
        assert_eq!(fixture.read(500, 10_000).unwrap_err(), Why::Gone);
        fs::remove_file(fixture.0.join("proc/31/cmdline")).unwrap();
        assert_eq!(fixture.read(500, 10_000).unwrap_err(), Why::Gone);
    }

    #[test]
    fn in_the_middle_of_exec_nothing_is_settled() {
        let fixture = Fixture::new("exec");
        fixture.write("cmdline", b"");
        let id = fixture.read(500, 10_000).unwrap();
        assert_eq!((id.claim, id.settled), (Claim::Plain, false));
    }

    #[test]
    fn broken_files_are_malformed() {
        let fixture = Fixture::new("broken");
        fixture.write("status", b"Uid:\tx\n");
        assert_eq!(fixture.read(500, 10_000).unwrap_err(), Why::Malformed);
    }

    #[test]
    fn marks_behind_a_long_environment_are_found() {
        let fixture = Fixture::new("long");
        let mut environ = Vec::new();
        for i in 0..2_000 {
            environ.extend(format!("SERVICE_{i}_PORT=tcp://10.0.0.1:{}\0", "8".repeat(60)).bytes());
        }
        environ.extend(b"HUGE=");
        environ.extend([b'x'].repeat(Buffer::SIZE + 77));
        environ.extend(b"\0JPY_PARENT_PID=3\0");
        assert!((Buffer::SIZE * 2..MAX_ENVIRON).contains(&environ.len()));
        fixture.write("environ", &environ);
        assert_eq!(fixture.read(500, 10_000).unwrap().marks.unwrap().parent, Some(3));
    }

    #[test]
    fn an_environment_past_its_bound_is_cut() {
        let fixture = Fixture::new("cut");
        let mut environ = b"A=x\0".repeat(MAX_ENVIRON / 4);
        environ.extend(b"JPY_PARENT_PID=3\0");
        fixture.write("environ", &environ);
        assert_eq!(fixture.read(500, 10_000).unwrap().marks, None);
    }

    /// Kills and reaps its child also when the test fails.
    struct Child(std::process::Child);

    impl Drop for Child {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_live_process_with_a_kernels_argv_is_a_kernel() {
        let me = std::process::id();
        let child = std::process::Command::new("sh")
            .args(["-c", "echo up; read line", "ipykernel_launcher", "-f", "/r/kernel-live.json"])
            .env("JPY_PARENT_PID", me.to_string())
            .env("JPY_SESSION_NAME", "/w/live.ipynb")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = Child(child.unwrap());
        // `spawn` returns in the middle of exec; what the child says comes after it.
        let mut said = [0; 3];
        child.0.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let roots = Roots::system().unwrap();
        let mut buffer = Buffer::new();
        let pid = child.0.id();
        let start = stat(roots.read_process(pid, "stat", &mut buffer).unwrap()).unwrap().start;
        let id = identify(&roots, ProcKey { pid, start }, boot_ticks(), &mut buffer).unwrap();
        assert_eq!(&*id.claim.kernel().unwrap().connection, "/r/kernel-live.json");
        let marks = id.marks.unwrap();
        assert_eq!((marks.session.as_deref(), marks.parent), (Some("/w/live.ipynb"), Some(me)));
        assert!(!id.settled, "it was born a moment ago");
    }

    #[test]
    fn this_process_is_a_plain_one() {
        let roots = Roots::system().unwrap();
        let mut buffer = Buffer::new();
        let pid = std::process::id();
        let line = stat(roots.read_process(pid, "stat", &mut buffer).unwrap()).unwrap();
        let key = ProcKey { pid, start: line.start };
        assert!(boot_ticks() >= key.start, "{} {}", boot_ticks(), key.start);
        let id = identify(&roots, key, boot_ticks(), &mut buffer).unwrap();
        assert_eq!(id.claim, Claim::Plain);
    }
}
