//! A filesystem that does not answer, where the guard looks: FUSE, mounted as whoever is root in a
//! container may.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nbguard::facts::Why;
use nbguard::ids::ProcKey;
use nbguard::roots::{Buffer, Roots};
use nbguard::runtime::stack::{self, Missing};
use nbguard::trace::{Target, page};

use crate::ground::{Folder, eventually};
use crate::skip;

/// Mounts itself there, greets the kernel as it must, and answers no question.
const MUTE: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"mute", sys.argv[1].encode(), b"fuse", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
_, _, unique = struct.unpack("=IIQ", os.read(fd, 1 << 20)[:16])
welcome = struct.pack("=IIIIHHII", 7, 31, 65536, 0, 12, 9, 4096, 1) + bytes(36)
os.write(fd, struct.pack("=IiQ", 16 + len(welcome), 0, unique) + welcome)
print("there", flush=True)
while True:
    os.read(fd, 1 << 20)
"#;

struct Mute {
    server: Child,
    folder: Folder,
}

impl Mute {
    fn mount(name: &str) -> Option<Mute> {
        let folder = Folder::new(name);
        fs::create_dir_all(folder.path("at")).unwrap();
        let mut python = Command::new("python3");
        python.args(["-c", MUTE]).arg(folder.path("at"));
        let server = python.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut server) = server else {
            skip("no python3");
            return None;
        };
        let mut line = String::new();
        let _ = BufReader::new(server.stdout.take().unwrap()).read_line(&mut line);
        if line.trim() != "there" {
            let _ = server.wait();
            skip("FUSE cannot be mounted here");
            return None;
        }
        Some(Mute { server, folder })
    }

    fn end(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let at = self.folder.path("at");
        let _ = Command::new("umount").arg("-l").arg(at).stderr(Stdio::null()).status();
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn a_page_on_a_filesystem_that_does_not_answer_is_not_waited_for() {
    let Some(mute) = Mute::mount("mute-page") else { return };
    for below in ["at", "at/run/nbguard/trace"] {
        let dir = mute.folder.path(below);
        let (sender, answer) = channel();
        thread::spawn(move || {
            let roots = Roots::system().unwrap();
            let mut buffer = Buffer::new();
            let key = Target::read(&roots, std::process::id(), &mut buffer).unwrap().key;
            let mut room = [0; trace_layout::PAGE];
            let read = page::read(&roots, &dir, key, &mut buffer, &mut room);
            sender.send(read.map(|_| ())).unwrap();
        });
        let read = answer.recv_timeout(Duration::from_secs(10)).expect("it hangs");
        assert_eq!(read, Err(Why::Malformed), "{below}");
    }
}

#[test]
fn one_that_reads_a_stack_and_does_not_die_is_left_behind_until_it_has() {
    let Some(mut mute) = Mute::mount("mute-stack") else { return };
    let tool = mute.folder.path("tool");
    let at = mute.folder.path("at");
    fs::write(&tool, format!("#!/bin/sh\nexec stat {}/x\n", at.display())).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let key = ProcKey { pid: 4711, start: 99 };
    let began = Instant::now();
    let answer = loop {
        match stack::ask(Path::new(&tool), key, Duration::from_millis(300)) {
            // Another test may be between fork and exec with our script open for writing; or its
            // time was over before it came to the file.
            Err(Missing::NotStarted | Missing::TimedOut)
                if began.elapsed() < Duration::from_secs(10) => {}
            answer => break answer,
        }
    };
    assert_eq!(answer, Err(Missing::Stuck));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(stack::is_stuck(key));
    assert!(!stack::is_stuck(ProcKey { pid: 4711, start: 98 }), "somebody else's");
    mute.end();
    eventually("it is reaped", || (!stack::is_stuck(key)).then_some(()));
}
