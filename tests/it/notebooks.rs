//! Stand-ins: a server with notebooks below it, which the guard recognises by the same rule as
//! real ones: argv, environment, ancestry. Each notebook is a shell with a child that holds
//! exactly what the test has written to it, so that nothing depends on a clock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbguard::sys::pidfd;
use nbguard::units::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::ground::{Container, Folder, PATIENCE, eventually, wait_readable};

/// Enters the container.
const JOIN: &str = "for procs in $JOIN; do echo $$ > $procs; done\n";

/// Starts its notebooks. They keep the script's words after `-c` as their argv.
const SERVER: &str = r#"
at=0
while [ -p "$FOLDER/$at" ]; do
    file=$FOLDER/kernel-$(printf %08d $at)-0000-4000-8000-000000000000.json
    JPY_PARENT_PID=$$ JPY_SESSION_NAME=/home/jovyan/$at.ipynb \
        setsid sh -c "$KERNEL" python3 -m ipykernel_launcher -f "$file" < "$FOLDER/$at" &
    at=$((at + 1))
done
wait
"#;

/// `tail` keeps all it reads: it holds as much as was written to it.
const KERNEL: &str = r#"
spare=$CHILDREN
while [ $spare -gt 0 ]; do sleep infinity & spare=$((spare - 1)); done
tail -c 16G > /dev/null
:
"#;

/// Notes SIGTERM in a file and lives on. A child in the background gets no standard input but by
/// another number.
const STUBBORN: &str = r#"
exec 3<&0
trap '' TERM
tail -c 16G > /dev/null <&3 &
trap 'echo $$ >> "$FOLDER/term"' TERM
while :; do wait; done
"#;

/// SIGUSR1 has it do `$RESTLESS`, in the background.
const RESTLESS: &str = r#"
exec 3<&0
trap 'sh -c "$RESTLESS" &' USR1
tail -c 16G > /dev/null <&3 &
while :; do wait; done
"#;

/// Whoever holds memory.
#[derive(Debug)]
pub struct Holder {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The process that has the memory: it itself, or a child.
    tail: u32,
    feed: File,
}

#[derive(Debug)]
pub struct Notebook {
    /// As its environment has it.
    pub path: String,
    /// Its root, the shell.
    holder: Holder,
}

impl Deref for Notebook {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.holder
    }
}

/// The server and its notebooks. All of them end with it.
#[derive(Debug)]
pub struct Server {
    pub pidfd: OwnedFd,
    pub notebooks: Vec<Notebook>,
    child: Child,
    folder: Folder,
}

impl Server {
    /// Starts a server with this many notebooks in the container, each with `children` idle
    /// processes beside the one that holds memory; returns when all are there.
    pub fn start(container: &Container, notebooks: usize, children: usize) -> Server {
        Server::with(container, notebooks, children, KERNEL)
    }

    /// The same with notebooks that SIGTERM does not end.
    pub fn stubborn(container: &Container, notebooks: usize) -> Server {
        Server::with(container, notebooks, 0, STUBBORN)
    }

    /// The same with notebooks that do something when they are sent SIGUSR1.
    pub fn restless(container: &Container, notebooks: usize, does: &str) -> Server {
        Server::doing(container, notebooks, 0, RESTLESS, does)
    }

    fn with(container: &Container, notebooks: usize, children: usize, kernel: &str) -> Server {
        Server::doing(container, notebooks, children, kernel, "")
    }

    fn doing(
        container: &Container,
        notebooks: usize,
        children: usize,
        kernel: &str,
        does: &str,
    ) -> Server {
        let folder = Folder::new("notebooks");
        let fifo = |at: usize| fifo(&folder.path(&at.to_string()));
        let feeds: Vec<File> = (0..notebooks).map(fifo).collect();
        let child = joining(container, SERVER)
            .arg0("jupyter-lab")
            .env("FOLDER", &folder.0)
            .env("KERNEL", kernel)
            .env("RESTLESS", does)
            .env("CHILDREN", children.to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let expected = 1 + notebooks * (children + 2);
        eventually("the notebooks are there", || {
            let pids = container.pids();
            let ready = pids.iter().filter(|pid| is_in_place(**pid)).count();
            (pids.len() == expected && ready == expected).then_some(())
        });
        let pids = container.pids();
        let notebooks = feeds.into_iter().enumerate().map(|(at, feed)| {
            let file = format!("kernel-{at:08}-");
            let root = pids.iter().find(|pid| words(**pid).iter().any(|w| w.contains(&file)));
            let pid = *root.unwrap();
            let is_tail = |pid: &u32| words(*pid).first().is_some_and(|word| word == "tail");
            let tail = children_of(pid).into_iter().find(is_tail).unwrap();
            let holder = Holder { pid, pidfd: pidfd::open(pid).unwrap(), tail, feed };
            Notebook { path: format!("/home/jovyan/{at}.ipynb"), holder }
        });
        let notebooks = notebooks.collect();
        Server { pidfd: pidfd::open(child.id()).unwrap(), notebooks, child, folder }
    }

    #[allow(dead_code)]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&self) -> bool {
        is_alive(&self.pidfd)
    }

    /// Waits until a stubborn notebook has been sent SIGTERM.
    pub fn wait_term(&self) {
        let file = self.folder.path("term");
        eventually("SIGTERM was sent", || file.exists().then_some(()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The rest of each tree ends with its container; the server is our child.
        for notebook in &self.notebooks {
            let _ = pidfd::send(notebook.pidfd.as_fd(), libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of the container that is no notebook and has nothing of one in its environment.
#[derive(Debug)]
pub struct Stranger {
    holder: Holder,
    child: Child,
    _folder: Folder,
}

impl Stranger {
    pub fn start(container: &Container) -> Stranger {
        Stranger::called(container, "tail")
    }

    /// The same under this name.
    pub fn called(container: &Container, name: &str) -> Stranger {
        let folder = Folder::new("stranger");
        let path = folder.path("feed");
        let feed = fifo(&path);
        fs::copy("/usr/bin/tail", folder.path(name)).unwrap();
        let program = folder.path(name).display().to_string();
        let child = joining(container, &format!("exec env -i {program} -c 16G > /dev/null"))
            .stdin(OpenOptions::new().read(true).open(&path).unwrap())
            .spawn()
            .unwrap();
        let pid = child.id();
        eventually("the stranger is there", || {
            (words(pid).first() == Some(&program)).then_some(())
        });
        let holder = Holder { pid, pidfd: pidfd::open(pid).unwrap(), tail: pid, feed };
        Stranger { holder, child, _folder: folder }
    }
}

impl Deref for Stranger {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.holder
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that enters the container and then does `script`.
pub fn joining(container: &Container, script: &str) -> Command {
    let procs = container.procs();
    let join: Vec<String> = procs.iter().map(|procs| procs.display().to_string()).collect();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{JOIN}{script}")]).env("JOIN", join.join(" ")).process_group(0);
    command
}

/// Read and write, so that opening does not wait for the other end.
fn fifo(path: &Path) -> File {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// Has called exec for the last time.
fn is_in_place(pid: u32) -> bool {
    let words = words(pid);
    match words.first().map(String::as_str) {
        Some("jupyter-lab" | "sleep" | "tail") => true,
        // A notebook's forks look like it until they become what they are.
        Some("sh") => {
            words.iter().any(|word| word == "ipykernel_launcher") && !children_of(pid).is_empty()
        }
        _ => false,
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn anonymous(pid: u32) -> Bytes {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) << 10)
}

fn words(pid: u32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

fn is_alive(pidfd: &OwnedFd) -> bool {
    !wait_readable(pidfd, Duration::ZERO)
}

impl Holder {
    pub fn is_alive(&self) -> bool {
        is_alive(&self.pidfd)
    }

    /// Its process, and their children and theirs.
    pub fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.pid];
        let mut at = 0;
        while let Some(pid) = tree.get(at).copied() {
            tree.extend(children_of(pid));
            at += 1;
        }
        tree
    }

    pub fn signal(&self, signal: i32) {
        pidfd::send(self.pidfd.as_fd(), signal).unwrap();
    }

    pub fn wait_dead(&self) {
        assert!(wait_readable(&self.pidfd, PATIENCE), "process {} lives on", self.pid);
    }

    /// Lets it hold so much more; returns when it does, or when it is dead.
    pub fn grow(&self, by: Bytes) {
        let target = anonymous(self.tail).plus(by).less(Bytes::mib(1));
        let piece = vec![b'x'; 1 << 20];
        let mut left = usize::try_from(by.0).unwrap();
        let until = Instant::now() + PATIENCE;
        while left > 0 && self.is_alive() {
            match (&self.feed).write(&piece[..left.min(piece.len())]) {
                Ok(written) => left -= written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_hungry(),
                Err(e) => panic!("{e}"),
            }
            assert!(Instant::now() < until, "process {} takes no more", self.pid);
        }
        eventually("it holds what it was given", || {
            (anonymous(self.tail) >= target || !self.is_alive()).then_some(())
        });
    }

    /// Lets it grow until the container uses this much; returns when it does, or it is dead.
    pub fn grow_to(&self, container: &Container, usage: Bytes) {
        self.grow(usage.less(container.usage()));
    }

    fn wait_hungry(&self) {
        let mut fds = [
            PollFd::new(self.feed.as_fd(), PollFlags::POLLOUT),
            PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::from(1_000u16));
    }
}
