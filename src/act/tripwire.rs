//! Moving `memory.high` of one cgroup: at once where that cannot block, in small steps where it
//! can (a write below usage makes the writer reclaim the difference).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::facts::Limit;
use crate::units::Bytes;

pub const HIGH: &str = "memory.high";
/// The most that is reclaimed in one write: 1 GiB of clean cache at once kept PID 1 busy for
/// 0.98 s.
pub const STEP_DOWN: Bytes = Bytes::mib(16);
/// Setting a property is a round trip to PID 1; more than this and something is wrong there.
pub const PROPERTY_TIME: Duration = Duration::from_secs(5);
/// Units whose property is set in one call of the tool: each is a round trip to PID 1 of some
/// milliseconds, and the call has a time-out.
pub const PROPERTIES_AT_ONCE: usize = 32;
/// What a pipe holds while nobody reads (pipe(7)): the tool never says more than that.
const PIPE: u64 = 65_536;

/// Whether this error of [`write`], or of opening a group's directory, says that the group is gone.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Writes a value into a file of a cgroup. Blocks if the value is below usage.
///
/// # Errors
/// ENOENT, ENODEV: the cgroup is gone. EACCES, EROFS: not ours to write.
pub fn write(dir: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let fd = openat(dir, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(fd).write_all(value.as_bytes())
}

/// # Errors
/// As [`write`].
pub fn write_high(dir: BorrowedFd<'_>, value: Limit) -> io::Result<()> {
    match value {
        Limit::Max => write(dir, HIGH, "max"),
        Limit::At(bytes) => {
            // In the loop when it is raised: no allocation for a number.
            let mut text = [0u8; 20];
            let mut rest = &mut text[..];
            write!(rest, "{}", bytes.0)?;
            let left = rest.len();
            let used = text.len() - left;
            let fd = openat(dir, HIGH, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            File::from(fd).write_all(&text[..used])
        }
    }
}

/// Lowers `memory.high` from where usage is to `target`, 16 MiB a write, so that no single write
/// reclaims much. For the helper thread. Stops early when the usage is below anyway, and on the
/// way when `is_wanted` no longer: then the file is left to whoever brings the newer value.
///
/// # Errors
/// As [`write`].
pub fn step_down(
    dir: BorrowedFd<'_>,
    target: Bytes,
    mut is_wanted: impl FnMut() -> bool,
) -> io::Result<()> {
    let mut at = usage(dir)?;
    while at > target {
        if !is_wanted() {
            return Ok(());
        }
        at = at.less(STEP_DOWN).max(target);
        write_high(dir, Limit::At(at))?;
        at = at.min(usage(dir)?);
    }
    write_high(dir, Limit::At(target))
}

fn usage(dir: BorrowedFd<'_>) -> io::Result<Bytes> {
    let fd = openat(dir, "memory.current", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(fd.as_fd().try_clone_to_owned()?).read_to_string(&mut text)?;
    text.trim().parse().map(Bytes).map_err(io::Error::other)
}

/// Sets `MemoryHigh=` of units as runtime properties, through `nbguard` as a child: the D-Bus
/// client would cost the resident process more memory than everything else in it. One answer for
/// each, in their order.
///
/// # Errors
/// Of one: systemd does not know the unit, or refused. Of all: the child could not be started,
/// failed otherwise (its words follow), or took too long.
pub fn set_properties(tool: &Path, values: &[(String, Limit)]) -> Vec<io::Result<()>> {
    let said = match ask_tool(tool, values) {
        Ok(said) => said,
        Err(error) => {
            let of_all = |_| Err(io::Error::new(error.kind(), error.to_string()));
            return values.iter().map(of_all).collect();
        }
    };
    let answer = |unit: &str| {
        let own = |line: &str| Some(line.strip_prefix(unit)?.strip_prefix(": ")?.to_owned());
        said.lines().find_map(own).map_or(Ok(()), |words| Err(io::Error::other(words)))
    };
    values.iter().map(|(unit, _)| answer(unit)).collect()
}

/// What `nbguard set-memory-high` printed: a line `UNIT: WHY` for each that was not set.
fn ask_tool(tool: &Path, values: &[(String, Limit)]) -> io::Result<String> {
    let mut command = Command::new(tool);
    command
        .arg("set-memory-high")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (unit, value) in values {
        command.arg(format!("{unit}={value}"));
    }
    let mut child = command.spawn()?;
    let pidfd = crate::sys::pidfd::open(child.id())?;
    let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let patience =
        nix::poll::PollTimeout::try_from(PROPERTY_TIME).unwrap_or(nix::poll::PollTimeout::MAX);
    if nix::poll::poll(&mut fds, patience)? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, "PID 1 did not answer in 5 s"));
    }
    let status = child.wait()?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(PIPE).read_to_string(&mut said)?;
    }
    if status.success() || !said.is_empty() {
        return Ok(said);
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(512).read_to_string(&mut words)?;
    }
    Err(io::Error::other(format!("set-memory-high: {status}: {}", words.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stepping_down_stops_when_the_value_is_no_longer_wanted() {
        let dir = std::env::temp_dir().join(format!("nbguard-steps-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let high = || std::fs::read_to_string(dir.join(HIGH)).unwrap();
        std::fs::write(dir.join("memory.current"), Bytes::gib(8).0.to_string()).unwrap();
        std::fs::write(dir.join(HIGH), "max").unwrap();
        let opened = File::open(&dir).unwrap();
        let mut left = 3;
        let until_newer = || {
            left -= 1;
            left >= 0
        };
        step_down(opened.as_fd(), Bytes::gib(2), until_newer).unwrap();
        assert_eq!(high(), Bytes::gib(8).less(Bytes::mib(3 * 16)).0.to_string());
        step_down(opened.as_fd(), Bytes::gib(2), || true).unwrap();
        assert_eq!(high(), Bytes::gib(2).0.to_string());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
