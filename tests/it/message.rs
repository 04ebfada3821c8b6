//! What a notebook is told, from outside, through its own standard error. What is no pipe to
//! write to, and pipes whose owner means harm: nothing is written, opened or waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbguard::act::message::{Place, Skip, Stderr, Told};
use nbguard::host::Roots;
use nbguard::report::Kind;
use nbguard::sys::pidfd;
use nbguard::units::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};

use crate::daemon::House;
use crate::ground::{Container, Folder, Ground, alone, eventually};
use crate::{binary, skip};

/// Longer than anything here takes, shorter than waiting for somebody.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A process with this standard error. Ended when it is dropped.
pub struct Target {
    child: Child,
    pidfd: OwnedFd,
}

impl Target {
    fn with(stderr: impl Into<Stdio>) -> Target {
        Target::of(Command::new("sleep").arg("600").stdin(Stdio::null()).stderr(stderr))
    }

    fn of(command: &mut Command) -> Target {
        let child = command.spawn().unwrap();
        let pidfd = pidfd::open(child.id()).unwrap();
        Target { child, pidfd }
    }

    fn stderr(&self) -> Result<Stderr, Skip> {
        let begun = Instant::now();
        let roots = Roots::system().unwrap();
        let found = Stderr::of(&roots, self.pidfd.as_fd(), self.child.id());
        assert!(begun.elapsed() < AT_ONCE);
        found
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container's first process, which is none of its notebooks.
pub fn first(container: &Container) -> Target {
    let join: Vec<String> = container.procs().iter().map(|p| p.display().to_string()).collect();
    let script = "for procs in $JOIN; do echo $$ > $procs; done; echo; exec sleep 600";
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("JOIN", join.join(" ")).stdout(Stdio::piped());
    let mut target = Target::of(&mut command);
    BufReader::new(target.child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    target
}

/// No other child of this test has it by chance.
fn pair() -> (OwnedFd, OwnedFd) {
    pipe2(OFlag::O_CLOEXEC).unwrap()
}

fn skipped(found: Result<Stderr, Skip>) -> &'static str {
    match found {
        Ok(stderr) => panic!("{stderr:?} would be written to"),
        Err(why) => why.as_str(),
    }
}

fn flags(fd: &impl AsFd) -> OFlag {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap())
}

/// Whatever is in there now.
fn drained(mut out: impl Read + AsFd) -> Vec<u8> {
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut text = Vec::new();
    let _ = out.read_to_end(&mut text);
    text
}

/// Until nothing more goes in. Leaves O_NONBLOCK as it was.
fn fill(into: &OwnedFd) {
    let before = flags(into);
    fcntl(into, FcntlArg::F_SETFL(before | OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(into, &[b'x'; 4096]).is_ok() {}
    fcntl(into, FcntlArg::F_SETFL(before)).unwrap();
}

#[test]
fn nothing_but_a_pipe_without_a_name_is_written_to() {
    let folder = Folder::new("message");
    let file = folder.path("pipe:[12345]");
    let target = Target::with(File::create(&file).unwrap());
    assert_eq!(skipped(target.stderr()), "not-a-pipe", "a file, whatever it is called");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);

    let (ours, theirs) = UnixStream::pair().unwrap();
    let target = Target::with(OwnedFd::from(theirs));
    assert_eq!(skipped(target.stderr()), "not-a-pipe", "a socket");
    assert!(drained(ours).is_empty());

    let fifo = folder.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut options = OpenOptions::new();
    let both = options.read(true).write(true).open(&fifo).unwrap();
    let target = Target::with(both.try_clone().unwrap());
    assert_eq!(skipped(target.stderr()), "not-a-pipe", "a FIFO with a name");
    assert!(drained(both).is_empty());

    for device in ["/dev/null", "/dev/full", "/dev/ptmx"] {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(device);
        let target = Target::with(file.unwrap());
        assert_eq!(skipped(target.stderr()), "not-a-pipe", "{device}");
    }
}

#[test]
fn a_descriptor_that_cannot_be_written_is_left_alone() {
    let (out, into) = pair();
    let target = Target::with(out.try_clone().unwrap());
    assert_eq!(skipped(target.stderr()), "not-writable", "the end to read from");
    drop(target);

    // O_PATH: a name for a pipe, not the pipe.
    let name = format!("/proc/self/fd/{}", into.as_raw_fd());
    let path = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(name).unwrap();
    let target = Target::with(path);
    assert_eq!(skipped(target.stderr()), "not-writable", "O_PATH");
    drop(target);

    let mut command = Command::new("sh");
    command.args(["-c", "exec 2>&-; echo; exec sleep 600"]).stdout(Stdio::piped());
    let mut target = Target::of(&mut command);
    BufReader::new(target.child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    assert_eq!(skipped(target.stderr()), "no-stderr");

    let mut target = Target::with(into);
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    assert_eq!(skipped(target.stderr()), "gone");
    assert!(drained(File::from(out)).is_empty());
}

#[test]
fn a_line_arrives_and_the_description_stays_as_it_is() {
    let (out, into) = pair();
    let target = Target::with(into.try_clone().unwrap());
    let before = flags(&into);
    let stderr = target.stderr().unwrap();
    assert_eq!(stderr.put("a line\n"), Told::Written(Place::Log));
    assert_eq!(flags(&into), before);
    assert!(!before.contains(OFlag::O_NONBLOCK));
    assert_eq!(drained(File::from(out)), b"a line\n");

    // Who reads the pipe himself shows it.
    let (out, into) = pair();
    let mut command = Command::new("sleep");
    command.arg("600").stdin(out.try_clone().unwrap()).stderr(into);
    let target = Target::of(&mut command);
    assert_eq!(target.stderr().unwrap().put("a line\n"), Told::Written(Place::Cell));
    assert_eq!(drained(File::from(out)), b"a line\n");
}

#[test]
fn nobody_is_waited_for() {
    let (out, into) = pair();
    let target = Target::with(into.try_clone().unwrap());
    let stderr = target.stderr().unwrap();
    let begun = Instant::now();
    // Between the look and the writing another writer fills it.
    fill(&into);
    assert!(!flags(&into).contains(OFlag::O_NONBLOCK), "a write would wait");
    assert_eq!(stderr.put("a line\n"), Told::Skipped(Skip::Full));
    let text = drained(File::from(out.try_clone().unwrap()));
    assert!(text.iter().all(|byte| *byte == b'x'), "nothing of it, not even a part");
    assert_eq!(stderr.put("a line\n"), Told::Written(Place::Log), "there is room again");
    assert!(begun.elapsed() < AT_ONCE);
    drop(out);
    // A child that another test is starting has the end to read until its execve(2).
    eventually("closed, and no SIGPIPE", || {
        (stderr.put("a line\n") == Told::Skipped(Skip::Closed)).then_some(())
    });
}

/// Other writers all the time: whatever the moment, it is written as one piece or not at all.
#[test]
fn a_race_with_other_writers_blocks_nobody_and_tears_nothing() {
    let (out, into) = pair();
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&2; done"]);
    let target = Target::of(command.stdin(Stdio::null()).stderr(into));
    let stderr = target.stderr().unwrap();
    let line = format!("{}\n", "y".repeat(4000));
    let (mut written, mut full, mut longest) = (0, 0, Duration::ZERO);
    let mut lines = BufReader::new(File::from(out));
    let mut seen = 0;
    for _ in 0..300 {
        let begun = Instant::now();
        match stderr.put(&line) {
            Told::Written(_) => written += 1,
            Told::Skipped(Skip::Full) => full += 1,
            other => panic!("{other}"),
        }
        longest = longest.max(begun.elapsed());
        for _ in 0..8 {
            let mut text = String::new();
            lines.read_line(&mut text).unwrap();
            assert!(text == line || text.trim_end().bytes().all(|b| b == b'x'), "{text:?}");
            seen += u32::from(text == line);
        }
    }
    println!("{written} written, {full} times no room, {longest:?} at most");
    assert!(seen > 0 && seen <= written && longest < AT_ONCE);
}

#[test]
fn what_is_put_in_its_place_later_is_not_written_to() {
    let folder = Folder::new("swapped");
    let file = folder.path("secret");
    fs::write(&file, "").unwrap();
    let (out, into) = pair();
    let mut command = Command::new("sh");
    command.args(["-c", "read go; exec 2>\"$0\"; echo swapped; read go"]).arg(&file);
    let mut target = Target::of(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(into));
    let stderr = target.stderr().unwrap();
    target.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut told = BufReader::new(target.child.stdout.take().unwrap());
    told.read_line(&mut String::new()).unwrap();
    // Nobody else writes to that pipe any more; we do, and to nothing else.
    assert_eq!(stderr.put("a line\n"), Told::Written(Place::Log));
    assert_eq!(fs::read(&file).unwrap(), b"");
    assert_eq!(skipped(target.stderr()), "not-a-pipe", "a new look finds the file");
    assert_eq!(drained(File::from(out)), b"a line\n");
}

/// R, xeus: standard error is a pipe that somebody else reads. It is told there, also of its end,
/// and the reader gets its end of file when the process is gone, though the guard had the pipe.
#[test]
fn where_somebody_else_reads_he_is_told_also_of_the_end() {
    let _alone = alone();
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let house = House::new(&ground, "message-log");
    let container = house.container(&ground, Bytes::mib(256));
    let _first = first(&container);
    let daemon = house.start(&binary("nbguardd"), &[]);
    let join: Vec<String> = container.procs().iter().map(|p| p.display().to_string()).collect();
    let (out, into) = pair();
    let script = "for procs in $JOIN; do echo $$ > $procs; done; exec \
        python3 -c 'import time\nheld = []\nwhile True:\n    held.append(bytearray(4 << 20))\n    \
        held[-1][::4096] = b\"x\" * 1024\n    time.sleep(0.1)' \
        -m ipykernel_launcher -f kernel-00000000-0000-4000-8000-000000000000.json";
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("JOIN", join.join(" ")).env("JPY_PARENT_PID", "1");
    let mut target = Target::of(command.stdin(Stdio::null()).stderr(into));
    // The command holds the end to write until it is dropped.
    drop(command);
    let mut text = String::new();
    File::from(out).read_to_string(&mut text).unwrap();
    let incident = house.record("a kill", |incident| incident.kind == Kind::Kill);
    println!("{text}{:?}", incident.timings);
    assert_eq!(incident.victim.as_ref().unwrap().pid, target.child.id());
    let lines: Vec<&str> = text.lines().collect();
    let begin =
        ["nbguard: memory is running", "nbguard: almost no memory", "nbguard: the kernel of"];
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().zip(begin).all(|(line, begin)| line.starts_with(begin)), "{text}");
    assert!(lines[2].contains("00000000-0000-4000-8000-000000000000"), "{text}");
    assert_eq!(incident.message, "written: log");
    eventually("it is reaped", || target.child.try_wait().unwrap());
    assert!(daemon.stop().success());
}
