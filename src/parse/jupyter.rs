//! What a process's argv and environment say about notebooks. Pure: bytes in, values out.
//! Both are the process's own words: bounded here, escaped where they are shown, never a path
//! that is opened.

use crate::policy::identity::{Claim, Evidence, Kernel, Marks};

/// A notebook's path is kept up to here; longer ones are cut.
pub const MAX_SESSION: usize = 1024;
/// `PATH_MAX` of Linux: nothing longer can be a connection file.
pub const MAX_PATH: usize = 4096;
/// Arguments looked at. A kernel has a dozen, Almond's class path is one.
const MAX_ARGS: usize = 1024;

/// What argv alone says; [`Said::with`] makes a claim of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    Server,
    Tracker,
    /// It was given a connection file.
    Connection {
        file: Box<str>,
        /// A known kernel's own name stands in argv.
        is_known: bool,
    },
    Nothing,
}

impl Said {
    /// The claim: a connection file counts only beside a known kernel's name or the mark that
    /// every launcher leaves.
    pub fn with(self, marks: Option<&Marks>) -> Claim {
        let (file, is_known) = match self {
            Said::Server => return Claim::Server,
            Said::Tracker => return Claim::Tracker,
            Said::Nothing => return Claim::Plain,
            Said::Connection { file, is_known } => (file, is_known),
        };
        let is_marked = marks.is_some_and(|marks| marks.parent.is_some());
        let evidence = if is_known || (is_marked && is_kernel_file(&file)) {
            Evidence::Name
        } else if is_marked {
            Evidence::Flag
        } else {
            return Claim::Plain;
        };
        let kernel_id = kernel_id(&file).map(Box::from);
        Claim::Kernel(Box::new(Kernel { connection: file, kernel_id, evidence }))
    }
}

/// Reads `/proc/<pid>/cmdline`.
pub fn argv(cmdline: &[u8]) -> Said {
    let args = || cmdline.split(|byte| *byte == 0).take(MAX_ARGS);
    if is_server(args()) {
        return Said::Server;
    }
    if is_tracker(args()) {
        return Said::Tracker;
    }
    let is_known = is_known_kernel(args());
    match connection_file(args(), is_known) {
        Some(file) if file.len() <= MAX_PATH => {
            Said::Connection { file: String::from_utf8_lossy(file).into(), is_known }
        }
        _ => Said::Nothing,
    }
}

/// Programs that serve notebooks, by the name of the script.
const SERVERS: [&[u8]; 10] = [
    b"jupyter-lab",
    b"jupyter-labhub",
    b"jupyter-notebook",
    b"jupyter-server",
    b"jupyter-nbclassic",
    b"jupyter-kernelgateway",
    b"jupyter-enterprisegateway",
    b"jupyter-voila",
    b"jupyterhub-singleuser",
    b"jupyterhub",
];
/// The same as subcommands of `jupyter`.
const SUBCOMMANDS: [&[u8]; 8] = [
    b"lab",
    b"labhub",
    b"notebook",
    b"server",
    b"nbclassic",
    b"kernelgateway",
    b"enterprisegateway",
    b"voila",
];
/// The same as modules after `python -m`.
const MODULES: [&[u8]; 8] = [
    b"jupyterlab",
    b"jupyterlab.labhubapp",
    b"jupyter_server",
    b"notebook",
    b"nbclassic",
    b"jupyterhub",
    b"jupyterhub.singleuser",
    b"kernel_gateway",
];

/// The program itself or the script of its interpreter; an init that merely carries the server's
/// command line behind its own is none.
fn is_server<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    let Some(mut program) = args.next().map(base_name) else { return false };
    if is_python(program) {
        loop {
            match args.next() {
                Some(b"-m") => match args.next() {
                    Some(b"jupyter") => break program = b"jupyter",
                    module => return module.is_some_and(|module| MODULES.contains(&module)),
                },
                Some(b"-X" | b"-W") => {
                    args.next();
                }
                Some(option) if option.starts_with(b"-") => {}
                Some(script) => break program = base_name(script),
                None => return false,
            }
        }
    }
    SERVERS.contains(&program)
        || (program == b"jupyter" && args.next().is_some_and(|arg| SUBCOMMANDS.contains(&arg)))
}

fn is_python(program: &[u8]) -> bool {
    program.starts_with(b"python") || program.starts_with(b"pypy")
}

/// multiprocessing: `-c "from multiprocessing.resource_tracker import main;main(5)"`; loky the
/// same from its own module; torch a program of its own.
fn is_tracker<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    args.next().is_some_and(|program| base_name(program) == b"torch_shm_manager")
        || args.any(|arg| contains(arg, b"resource_tracker import main"))
}

/// ipykernel, IRkernel, IJulia, Almond, the xeus family, and every `python -m something_kernel`.
fn is_known_kernel<'a>(args: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut before: &[u8] = b"";
    for (at, arg) in args.enumerate() {
        let name = base_name(arg);
        let known = match before {
            b"-m" => contains(arg, b"kernel") || arg.starts_with(b"xpython"),
            b"-c" | b"-e" => {
                contains(arg, b"ipykernel")
                    || contains(arg, b"IRkernel::main")
                    || contains(arg, b"IJulia")
            }
            _ => name.starts_with(b"ipykernel") || name.starts_with(b"almond"),
        };
        let program = at == 0 && (name.starts_with(b"xeus") || name.starts_with(b"xpython"));
        if known || program || arg == b"coursier.bootstrap.launcher.Launcher" {
            return true;
        }
        before = arg;
    }
    false
}

/// A `.json` behind a flag for it, or called `kernel-*.json`; of a known kernel any.
fn connection_file<'a>(args: impl Iterator<Item = &'a [u8]>, is_known: bool) -> Option<&'a [u8]> {
    let mut by_name = None;
    let mut any = None;
    let mut before: &[u8] = b"";
    for arg in args {
        let (flag, file) = match arg.iter().position(|byte| *byte == b'=') {
            Some(at) if arg.starts_with(b"-") => (&arg[..at], &arg[at + 1..]),
            _ => (before, arg),
        };
        before = arg;
        if !file.ends_with(b".json") {
            continue;
        }
        if is_connection_flag(flag) {
            return Some(file);
        }
        if base_name(file).starts_with(b"kernel-") {
            by_name = by_name.or(Some(file));
        }
        any = Some(file);
    }
    by_name.or(any.filter(|_| is_known))
}

fn is_connection_flag(flag: &[u8]) -> bool {
    matches!(flag, b"-f" | b"--f" | b"--connection-file" | b"--connection_file" | b"--args")
        || flag.ends_with(b".connection_file")
}

fn is_kernel_file(path: &str) -> bool {
    base_name(path.as_bytes()).starts_with(b"kernel-")
}

/// The uuid of `kernel-<uuid>.json`.
pub fn kernel_id(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let id = name.strip_prefix("kernel-")?.strip_suffix(".json")?;
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    is_uuid.then_some(id)
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Gathers the marks from an environment that comes in pieces: launchers append theirs at the
/// end, and an environment can be long.
#[derive(Default, Debug)]
pub struct MarksReader {
    session: Option<Box<str>>,
    parent: Option<u32>,
}

impl MarksReader {
    /// Takes the entries that are complete and says how many bytes they were. Of two with one
    /// name the first counts, as for getenv(3).
    pub fn feed(&mut self, environ: &[u8]) -> usize {
        let mut used = 0;
        while let Some(len) = environ[used..].iter().position(|byte| *byte == 0) {
            self.take(&environ[used..used + len]);
            used += len + 1;
        }
        used
    }

    /// One `NAME=value`.
    pub fn take(&mut self, entry: &[u8]) {
        if let Some(value) = entry.strip_prefix(b"JPY_SESSION_NAME=") {
            self.session.get_or_insert_with(|| bounded(value, MAX_SESSION).into());
        } else if let Some(value) = entry.strip_prefix(b"JPY_PARENT_PID=") {
            let pid = super::decimal(value).and_then(|pid| u32::try_from(pid).ok());
            self.parent = self.parent.or(pid.filter(|pid| *pid > 0));
        }
    }

    pub fn finish(self) -> Option<Marks> {
        let session = self.session.filter(|path| !path.is_empty());
        (session.is_some() || self.parent.is_some())
            .then_some(Marks { session, parent: self.parent })
    }
}

/// Reads a whole `/proc/<pid>/environ`. The last entry may lack its NUL.
pub fn marks(environ: &[u8]) -> Option<Marks> {
    let mut reader = MarksReader::default();
    let used = reader.feed(environ);
    reader.take(&environ[used..]);
    reader.finish()
}

/// Valid text of at most `bound` bytes.
fn bounded(bytes: &[u8], bound: usize) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(bound)]).into_owned();
    while text.len() > bound {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "d3fec54e-0c5f-4d7a-9d0f-111122223333";
    const FILE: &str = "/home/jovyan/.local/share/jupyter/runtime/kernel-d3fec54e-0c5f-4d7a-9d0f-111122223333.json";

    fn line(args: &str) -> Vec<u8> {
        args.replace("FILE", FILE).replace(' ', "\0").into_bytes()
    }

    fn launched() -> Marks {
        Marks { session: Some("/home/jovyan/a.ipynb".into()), parent: Some(7) }
    }

    /// A command line, and what it claims to be without and with the launcher's marks.
    #[test]
    fn claims_follow_the_table() {
        const TABLE: [(&str, &str, &str); 46] = [
            ("/opt/venv/bin/python3 -m ipykernel_launcher -f FILE", "name", "name"),
            ("python3 -m ipykernel -f FILE", "name", "name"),
            ("python -Xfrozen_modules=off -m ipykernel_launcher -f FILE", "name", "name"),
            ("python /site-packages/ipykernel_launcher.py -f FILE", "name", "name"),
            ("python -m ipykernel_launcher --f=/r/kernel-v2-12345AbCd.json", "name", "name"),
            (
                "python -m ipykernel_launcher -f /tmp/tmpab12.json --HistoryManager.hist_file=:memory:",
                "name",
                "name",
            ),
            ("python -m ipykernel --IPKernelApp.connection_file=/x/c.json", "name", "name"),
            ("python -m xpython_launcher -f FILE", "name", "name"),
            ("/usr/bin/xpython -f FILE", "name", "name"),
            ("/usr/bin/xeus-sqlite -f FILE", "name", "name"),
            ("python -m bash_kernel -f FILE", "name", "name"),
            ("/usr/lib/R/bin/exec/R --slave -e IRkernel::main() --args FILE", "name", "name"),
            ("julia -i --color=yes -e import.IJulia;IJulia.run_kernel() FILE", "name", "name"),
            (
                "julia -i --color=yes -e import.IJulia;IJulia.run_kernel() /tmp/tmpx.json",
                "name",
                "name",
            ),
            ("julia -i /pkg/IJulia/src/kernel.jl FILE", "plain", "name"),
            (
                "java -cp /k/launcher.jar coursier.bootstrap.launcher.Launcher --connection-file FILE",
                "name",
                "name",
            ),
            (
                "java -cp /k/launcher.jar coursier.bootstrap.launcher.Launcher --connection-file /tmp/t.json",
                "name",
                "name",
            ),
            ("deno jupyter --kernel --conn FILE", "plain", "name"),
            ("evcxr_jupyter --control_file FILE", "plain", "name"),
            ("conda run -n x python -m ipykernel_launcher -f FILE", "name", "name"),
            ("some-kernel -f /tmp/x.json", "plain", "flag"),
            ("jq -f program.json", "plain", "flag"),
            ("cat data.json", "plain", "plain"),
            ("cat FILE", "plain", "name"),
            ("python -m ipykernel_launcher", "plain", "plain"),
            ("python train.py --config=a.json", "plain", "plain"),
            ("/home/ipykernel/bin/tool --config=a.json", "plain", "plain"),
            ("/bin/bash -l", "plain", "plain"),
            ("", "plain", "plain"),
            ("/usr/bin/python3 /opt/bin/jupyter-lab --ip=0.0.0.0", "server", "server"),
            ("/usr/bin/python3 -I -X utf8 /opt/bin/jupyter-lab", "server", "server"),
            ("jupyter-notebook --no-browser", "server", "server"),
            ("/opt/bin/jupyterhub-singleuser --port=1", "server", "server"),
            ("python3 -m jupyterhub.singleuser", "server", "server"),
            ("python3 -m jupyter lab", "server", "server"),
            ("python3 -m jupyter run x.ipynb", "plain", "plain"),
            ("jupyter server", "server", "server"),
            ("jupyter", "plain", "plain"),
            ("python3 /opt/bin/jupyterhub -f /etc/hub.json", "server", "server"),
            ("tini -g -- jupyter lab", "plain", "plain"),
            ("python3", "plain", "plain"),
            ("python -c from.multiprocessing", "plain", "plain"),
            ("vim /w/jupyter-lab", "plain", "plain"),
            ("torch_shm_manager", "tracker", "tracker"),
            ("python3 -m kernel_gateway", "server", "server"),
            ("python3 -m jupyter_server -f FILE", "server", "server"),
        ];
        for (args, alone, marked) in TABLE {
            assert_eq!(name(&argv(&line(args)).with(None)), alone, "{args}");
            assert_eq!(name(&argv(&line(args)).with(Some(&launched()))), marked, "{args}, marked");
        }
    }

    fn name(claim: &Claim) -> &'static str {
        match claim {
            Claim::Kernel(kernel) if kernel.evidence == Evidence::Name => "name",
            Claim::Kernel(_) => "flag",
            Claim::Server => "server",
            Claim::Tracker => "tracker",
            Claim::Php(_) | Claim::Plain => "plain",
        }
    }

    #[test]
    fn trackers_are_told_by_their_code() {
        for code in [
            "from multiprocessing.resource_tracker import main;main(41)",
            "from joblib.externals.loky.backend.resource_tracker import main; main(43, False)",
        ] {
            let cmdline = [b"/usr/bin/python3\0-c\0", code.as_bytes(), b"\0"].concat();
            assert_eq!(argv(&cmdline), Said::Tracker);
        }
        assert_eq!(
            argv(b"python3\0-c\0from multiprocessing.forkserver import main\0"),
            Said::Nothing
        );
    }

    #[test]
    fn the_kernel_id_is_a_uuid_or_nothing() {
        assert_eq!(kernel_id(FILE), Some(ID));
        for none in ["/tmp/tmpab12.json", "kernel-12345.json", "kernel-v2-12345AbCd.json", "", "/"]
        {
            assert_eq!(kernel_id(none), None, "{none}");
        }
        assert_eq!(kernel_id(&FILE.replace('f', "g")), None);
    }

    #[test]
    fn the_connection_file_is_the_flagged_one() {
        let said = argv(&line("python -m ipykernel_launcher --conf=/etc/kernel-x.json -f FILE"));
        let Said::Connection { file, .. } = said else { panic!("{said:?}") };
        assert_eq!(&*file, FILE);
    }

    #[test]
    fn marks_are_the_first_of_their_name() {
        let environ = b"A=1\0JPY_PARENT_PID=44\0JPY_SESSION_NAME=/w/a b.ipynb\0JPY_PARENT_PID=9\0";
        let expected = Marks { session: Some("/w/a b.ipynb".into()), parent: Some(44) };
        assert_eq!(marks(environ), Some(expected.clone()));
        assert_eq!(marks(&environ[..environ.len() - 1]), Some(expected));
        for none in [
            &b""[..],
            b"\0\0",
            b"XJPY_PARENT_PID=1\0",
            b"JPY_PARENT_PID=x\0",
            b"JPY_PARENT_PID=0\0",
            b"JPY_PARENT_PID=4294967296\0",
            b"JPY_SESSION_NAME=\0",
        ] {
            assert_eq!(marks(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_hostile_path_is_valid_and_bounded() {
        let mut environ = b"JPY_SESSION_NAME=".to_vec();
        environ.extend([0xff, 0xfe].repeat(10_000));
        let session = marks(&environ).unwrap().session.unwrap();
        assert!(session.len() <= MAX_SESSION && session.starts_with('\u{fffd}'));
        let long = format!("python\0-f\0/{}.json\0", "a".repeat(MAX_PATH));
        assert_eq!(argv(long.as_bytes()), Said::Nothing);
        assert_eq!(argv(&b"a\0".repeat(100_000)), Said::Nothing);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (argv(&bytes), marks(&bytes), kernel_id(&String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn pieces_say_what_the_whole_says(at in 0usize..60, pad in 0usize..40) {
            let text = format!("{}=1\0JPY_SESSION_NAME=/w/x.ipynb\0JPY_PARENT_PID=12\0B=2\0",
                "P".repeat(pad));
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            let mut reader = MarksReader::default();
            let used = reader.feed(&bytes[..at]);
            reader.feed(&bytes[used..]);
            prop_assert_eq!(reader.finish(), marks(bytes));
        }
    }
}
