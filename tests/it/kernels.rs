//! What real ipykernels show, in the cell that runs, of what they are told. They run with the
//! tests that have the machine for themselves: tests/run brings a Python with ipykernel.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nbguard::report::Kind;
use nbguard::sys::pidfd;
use nbguard::units::Bytes;

use crate::daemon::House;
use crate::ground::{Container, Folder, Ground, alone};
use crate::message::first;
use crate::{binary, root, skip};

/// A Python with ipykernel and jupyter_client: `NBGUARD_PYTHON`, one made for this tree, or the
/// system's.
pub fn python() -> Option<PathBuf> {
    let named = std::env::var_os("NBGUARD_PYTHON").map(PathBuf::from);
    let made = root().join(".cache/jupyter-venv/bin/python");
    let found = [named, Some(made), Some("python3".into())].into_iter().flatten().find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import ipykernel, jupyter_client"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    if found.is_none() {
        skip("no Python with ipykernel and jupyter_client (NBGUARD_PYTHON names one)");
    }
    found
}

/// Starts a kernel in a container, has it run a cell, and prints what it shows: a line of JSON for
/// each stream, and whether it belongs to that cell.
const CLIENT: &str = r#"
import json, os, sys
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

join, path, code = sys.argv[1], sys.argv[2], sys.argv[3]
script = 'for procs in %s; do echo $$ > $procs; done; exec "$@"' % join
argv = ["sh", "-c", script, "sh", sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager = KernelManager()
manager._kernel_spec = KernelSpec(argv=argv, display_name="guarded", language="python")
manager.start_kernel(env={**os.environ, "JPY_PARENT_PID": str(os.getpid()), "JPY_SESSION_NAME": path})
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
def tell(**words):
    print(json.dumps(words), flush=True)
tell(pid=manager.provisioner.pid)
sys.stdin.readline()
cell = client.execute(code)
while True:
    try:
        message = client.get_iopub_msg(timeout=1)
    except Exception:
        if not manager.is_alive():
            break
        continue
    if message["msg_type"] == "stream":
        content = message["content"]
        tell(name=content["name"], text=content["text"], cell=message["parent_header"].get("msg_id") == cell)
tell(end=True)
"#;

struct Kernel {
    pid: u32,
    client: Child,
    input: ChildStdin,
    told: BufReader<ChildStdout>,
    _folder: Folder,
}

impl Kernel {
    fn start(python: &PathBuf, container: &Container, path: &str, code: &str) -> Kernel {
        let folder = Folder::new("kernel");
        let join: Vec<String> = container.procs().iter().map(|p| p.display().to_string()).collect();
        let mut client = Command::new(python)
            .args(["-c", CLIENT, &join.join(" "), path, code])
            .env("JUPYTER_RUNTIME_DIR", &folder.0)
            .env("IPYTHONDIR", &folder.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path("log")).unwrap())
            .spawn()
            .unwrap();
        let input = client.stdin.take().unwrap();
        let told = BufReader::new(client.stdout.take().unwrap());
        let mut kernel = Kernel { pid: 0, client, input, told, _folder: folder };
        kernel.pid = u32::try_from(kernel.hear()["pid"].as_u64().unwrap()).unwrap();
        kernel
    }

    fn hear(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the client has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// Runs its cell to the kernel's end, and returns what stood below it on standard error.
    fn run(&mut self) -> Vec<String> {
        self.input.write_all(b"go\n").unwrap();
        let mut shown = Vec::new();
        loop {
            let words = self.hear();
            if words.get("end").is_some() {
                return shown;
            }
            assert_eq!((words["name"].as_str(), &words["cell"]), (Some("stderr"), &true.into()));
            shown.push(words["text"].as_str().unwrap().to_owned());
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

const GROWS: &str = "
import time
def grow(mib):
    held.append(bytearray(mib << 20))
    held[-1][::4096] = b'x' * len(held[-1][::4096])
held = []
grow(START)
while True:
    grow(STEP)
    time.sleep(PAUSE)
";

fn grows(start: u32, step: u32, pause: &str) -> String {
    let with = [("START", start.to_string()), ("STEP", step.to_string()), ("PAUSE", pause.into())];
    with.iter().fold(GROWS.to_owned(), |code, (name, value)| code.replace(name, value))
}

#[test]
#[ignore = "wants the machine for itself, and ipykernel: tests/run"]
fn a_slow_cell_shows_the_warning_and_the_last_call_before_its_kernel_ends() {
    let _alone = alone();
    let Some(python) = python() else { return };
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let house = House::new(&ground, "message");
    let container = house.container(&ground, Bytes::mib(640));
    let _first = first(&container);
    let daemon = house.start(&binary("nbguardd"), &[]);
    let mut other = Kernel::start(&python, &container, "/home/ada/other.ipynb", "1");
    let path = "/home/ada/slow.ipynb";
    let mut kernel = Kernel::start(&python, &container, path, &grows(300, 4, "0.15"));
    let shown = kernel.run();
    let incident = house.record("a kill", |incident| incident.kind == Kind::Kill);
    println!("{}\n{:?} {}", shown.concat(), incident.timings, incident.message);
    assert_eq!(incident.victim.as_ref().unwrap().pid, kernel.pid);
    let texts: Vec<&str> = shown.iter().flat_map(|text| text.trim().lines()).collect();
    assert_eq!(texts.iter().filter(|text| !text.is_empty()).count(), 2, "{shown:?}");
    let name = container.name();
    for (text, words) in texts.iter().filter(|text| !text.is_empty()).zip([
        ["nbguard: memory is running out", "At 90 % its kernel will be ended", name.as_str()],
        ["nbguard: almost no memory is left", "is ended at 90 %", name.as_str()],
    ]) {
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        // The kernel counts in batches: what crossed 80 % may be read a little below it.
        let share = text.split_once("MiB of its 640.0 MiB (").unwrap().1;
        assert!(share.starts_with("79 %") || share.starts_with('8'), "{text}");
    }
    assert_eq!(incident.message, "written: cell");
    // Nobody else was told anything, and it lives.
    other.input.write_all(b"go\n").unwrap();
    let pidfd = pidfd::open(other.pid).unwrap();
    pidfd::send(pidfd.as_fd(), libc::SIGKILL).unwrap();
    assert!(other.hear().get("end").is_some(), "the other one was told something");
    assert!(daemon.stop().success());
}

#[test]
#[ignore = "wants the machine for itself, and ipykernel: tests/run"]
fn a_fast_cell_shows_the_warning_at_least() {
    let _alone = alone();
    let Some(python) = python() else { return };
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let house = House::new(&ground, "message-fast");
    let container = house.container(&ground, Bytes::mib(1200));
    let _first = first(&container);
    let daemon = house.start(&binary("nbguardd"), &[]);
    // 200 MiB a second: half a second from the warning to the threshold.
    let code = grows(300, 8, "0.04");
    let mut kernel = Kernel::start(&python, &container, "/home/ada/fast.ipynb", &code);
    let shown = kernel.run().concat();
    let incident = house.record("a kill", |incident| incident.kind == Kind::Kill);
    println!("{shown}\n{:?} {}", incident.timings, incident.message);
    assert!(shown.contains("nbguard: memory is running out"), "{shown}");
    assert_eq!((incident.message.as_str(), container.oom_kills()), ("written: cell", 0));
    assert!(daemon.stop().success());
}

#[test]
#[ignore = "wants the machine for itself, and ipykernel: tests/run"]
fn without_messages_nobody_is_told() {
    let _alone = alone();
    let Some(python) = python() else { return };
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let house = House::new(&ground, "message-off");
    house.configure("message = false");
    let container = house.container(&ground, Bytes::mib(400));
    let _first = first(&container);
    let daemon = house.start(&binary("nbguardd"), &[]);
    let code = grows(150, 4, "0.05");
    let mut kernel = Kernel::start(&python, &container, "/home/ada/off.ipynb", &code);
    assert_eq!(kernel.run(), Vec::<String>::new());
    let incident = house.record("a kill", |incident| incident.kind == Kind::Kill);
    println!("{:?}", incident.timings);
    assert_eq!(incident.message, "skipped: off");
    assert!(daemon.stop().success());
}
