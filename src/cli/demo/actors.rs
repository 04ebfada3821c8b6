//! The stand-ins: this same binary, started anew under another name. To the guard they are what
//! they pretend to be, because it knows notebooks by the same rule: argv, environment, ancestry.
//! They live no longer than the demo.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use super::plan::{Growth, Kernel, NUMBER, PLAN, Plan, ROLE};
use crate::cli::daemon;
use crate::units::Bytes;

/// This binary, also from a directory that the stand-in may not search.
const SELF: &str = "/proc/self/exe";

/// Plays the part that the environment names.
pub fn main(role: &OsString) -> ExitCode {
    match play(&role.to_string_lossy()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nbguard demo: {}: {error}", role.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

fn play(role: &str) -> io::Result<ExitCode> {
    match role {
        "daemon" => {
            set_pdeathsig(Signal::SIGTERM)?;
            call_me("nbguardd");
            Ok(daemon::main())
        }
        "server" => server(&plan()?),
        "kernel" => kernel(&plan()?),
        "python" => python(&plan()?),
        "child" => child(&plan()?),
        _ => Err(io::Error::other("no such part")),
    }
}

fn plan() -> io::Result<Plan> {
    let path = env::var_os(PLAN).ok_or_else(|| io::Error::other("no plan"))?;
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn my_kernel(plan: &Plan) -> io::Result<(usize, &Kernel)> {
    let number: usize = env::var(NUMBER)
        .ok()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("no number"))?;
    plan.kernels.get(number).map(|kernel| (number, kernel)).ok_or(io::ErrorKind::NotFound.into())
}

/// The kernel would call us `exe`.
fn call_me(name: &str) {
    // Only for the eye: recognition goes by argv.
    let _ = fs::write("/proc/self/comm", name);
}

/// Memory that is there: every page is written to.
fn hold(bytes: Bytes) -> Vec<u8> {
    vec![1; usize::try_from(bytes.0).unwrap_or(0)]
}

fn say_ready(plan: &Plan, what: &str) -> io::Result<()> {
    // One write, shorter than PIPE_BUF, so that lines do not mix.
    let line = format!("{what} {}\n", std::process::id());
    OpenOptions::new().write(true).open(&plan.ready)?.write_all(line.as_bytes())
}

fn for_ever() -> ! {
    loop {
        thread::park();
    }
}

/// Enters the container, starts the kernels, and passes on the word to grow. Ends with its
/// standard input.
fn server(plan: &Plan) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    call_me("jupyter-lab");
    for procs in &plan.join {
        fs::write(procs, "0")?;
    }
    let held = hold(plan.server);
    let mut grower = None;
    for (number, kernel) in plan.kernels.iter().enumerate() {
        let mut child = start_kernel(plan, number, kernel)?;
        grower = child.stdin.take().or(grower);
        thread::spawn(move || child.wait());
    }
    say_ready(plan, "server")?;
    for line in io::stdin().lock().lines() {
        if line? == "grow"
            && let Some(to) = &mut grower
        {
            to.write_all(b"g")?;
            to.flush()?;
        }
    }
    drop(held);
    Ok(ExitCode::SUCCESS)
}

fn start_kernel(plan: &Plan, number: usize, kernel: &Kernel) -> io::Result<Child> {
    let mut command = Command::new(SELF);
    let role = if plan.python.is_some() { "python" } else { "kernel" };
    command
        .arg0("python3")
        .args(["-m", "ipykernel_launcher", "-f"])
        .arg(plan.connection_file(kernel))
        .env(ROLE, role)
        .env(NUMBER, number.to_string())
        .env("JPY_PARENT_PID", std::process::id().to_string())
        .env("JPY_SESSION_NAME", &kernel.notebook)
        .stdin(if kernel.growth.is_some() { Stdio::piped() } else { Stdio::null() });
    command.spawn()
}

fn kernel(plan: &Plan) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    call_me("python3");
    let (number, kernel) = my_kernel(plan)?;
    let held = hold(kernel.ballast);
    let Some(growth) = kernel.growth else {
        say_ready(plan, &format!("kernel {number}"))?;
        for_ever()
    };
    let mut child = Command::new(SELF)
        .arg0("python3")
        .args(["-c", "from multiprocessing.spawn import spawn_main"])
        .env(ROLE, "child")
        .stdin(Stdio::null())
        .spawn()?;
    thread::spawn(move || child.wait());
    say_ready(plan, &format!("kernel {number}"))?;
    if io::stdin().read(&mut [0])? == 1 {
        grow(growth);
    }
    drop(held);
    for_ever()
}

fn grow(growth: Growth) {
    let mut held = Vec::new();
    for _ in 0..growth.steps {
        held.push(hold(growth.step));
        thread::sleep(Duration::from_millis(growth.pause_ms));
    }
    for_ever()
}

/// A worker of the kernel that grows: it ends with it.
fn child(plan: &Plan) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    call_me("python3");
    let (_, kernel) = my_kernel(plan)?;
    let held = hold(kernel.growth.map_or(Bytes::ZERO, |growth| growth.child));
    say_ready(plan, "child")?;
    if held.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for_ever()
}

/// Becomes a real ipykernel, started as jupyter_client does. What it plays stands in a file that
/// IPython runs at its start.
fn python(plan: &Plan) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    let (number, kernel) = my_kernel(plan)?;
    let python = plan.python.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let startup = plan.runtime.join(format!("startup-{number}.py"));
    fs::write(&startup, script(number, kernel, &plan.ready))?;
    let error = Command::new(python)
        .args(["-m", "ipykernel_launcher", "-f"])
        .arg(plan.connection_file(kernel))
        .env("PYTHONSTARTUP", startup)
        .env("IPYTHONDIR", &plan.runtime)
        .env_remove(ROLE)
        .exec();
    Err(error)
}

fn script(number: usize, kernel: &Kernel, ready: &Path) -> String {
    let growth = kernel.growth.map_or(String::new(), |growth| {
        format!(
            "def _grow():
    os.read(0, 1)
    for _ in range({}):
        _held.append(bytearray(b'\\x01') * {})
        time.sleep({})
threading.Thread(target=_grow, daemon=True).start()
",
            growth.steps,
            growth.step.0,
            growth.pause_ms as f64 / 1000.0
        )
    });
    format!(
        "import os, threading, time
_held = [bytearray(b'\\x01') * {}]
{growth}with open({:?}, 'w') as _ready:
    _ready.write('kernel {number} %d\\n' % os.getpid())
",
        kernel.ballast.0,
        ready.display().to_string()
    )
}
