//! Takes out of argv and environment whatever does not tell a notebook from another process.
//! What is kept stands on a list; a word that is on none becomes `x`. Pure.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::parse::jupyter::{self, Said};

/// Options that say what the next word is.
const OPTIONS: [&[u8]; 12] = [
    b"-m",
    b"-c",
    b"-e",
    b"-f",
    b"-i",
    b"-X",
    b"-W",
    b"--f",
    b"--connection-file",
    b"--connection_file",
    b"--args",
    b"--slave",
];
/// Beginnings of names of programs that are notebooks, servers, or belong to them.
const PROGRAMS: [&[u8]; 12] = [
    b"jupyter",
    b"ipykernel",
    b"xeus",
    b"xpython",
    b"almond",
    b"torch_shm_manager",
    b"python",
    b"pypy",
    b"bash_kernel",
    b"notebook",
    b"nbclassic",
    b"coursier.bootstrap.launcher.Launcher",
];
/// What is looked for in a program text, and what stands in its place.
const TEXTS: [(&[u8], &[u8]); 4] = [
    (b"resource_tracker import main", b"from multiprocessing.resource_tracker import main;main(0)"),
    (b"ipykernel", b"import ipykernel"),
    (b"IRkernel::main", b"IRkernel::main()"),
    (b"IJulia", b"import IJulia; IJulia.run_kernel()"),
];
const NOTHING: &[u8] = b"x";
const MARKS: [&[u8]; 2] = [b"JPY_SESSION_NAME", b"JPY_PARENT_PID"];
/// Python's module names and program names; longer is none.
const NAME_MAX: usize = 64;

pub struct Redactor {
    hash_names: bool,
    /// With a key of its own for each capture: a name cannot be found by hashing guesses.
    key: RandomState,
}

impl Redactor {
    pub fn new(hash_names: bool) -> Redactor {
        Redactor { hash_names, key: RandomState::new() }
    }

    /// The words of argv that identify a kernel or a server, in their places.
    pub fn argv(&self, argv: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        let mut before: &[u8] = b"";
        let text = argv.strip_suffix(b"\0").unwrap_or(argv);
        if text.is_empty() {
            return kept;
        }
        for (at, word) in text.split(|byte| *byte == 0).enumerate() {
            kept.extend(self.word(at, before, word));
            kept.push(0);
            before = word;
        }
        // What it is must be the same afterwards, or the fixture shows another host.
        if same_kind(&jupyter::argv(argv), &jupyter::argv(&kept)) {
            kept
        } else {
            self.canonical(argv)
        }
    }

    fn word(&self, at: usize, before: &[u8], word: &[u8]) -> Vec<u8> {
        let name = base_name(word);
        if at == 0 {
            return if is_name(name) { name.to_vec() } else { NOTHING.to_vec() };
        }
        if OPTIONS.contains(&word) {
            return word.to_vec();
        }
        match before {
            b"-m" if is_name(word) => return word.to_vec(),
            b"-c" | b"-e" => {
                let text = TEXTS.iter().find(|(part, _)| contains(word, part));
                return text.map_or(NOTHING, |(_, instead)| instead).to_vec();
            }
            _ => {}
        }
        if word.ends_with(b".json") {
            return self.connection_file(word);
        }
        let known = PROGRAMS.iter().any(|program| name.starts_with(program));
        let subcommand = base_name(before) == b"jupyter";
        if (known || subcommand) && is_name(name) { name.to_vec() } else { NOTHING.to_vec() }
    }

    /// `--f=/home/ada/…/kernel-<uuid>.json` as `--f=/runtime/kernel-<uuid>.json`.
    fn connection_file(&self, word: &[u8]) -> Vec<u8> {
        let (flag, file) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) if word.starts_with(b"-") && is_flag(&word[..at]) => word.split_at(at + 1),
            _ => (&b""[..], word),
        };
        let name = base_name(file);
        let mut kept = flag.to_vec();
        if file.starts_with(b"/") {
            kept.extend(b"/runtime/");
        }
        let text = String::from_utf8_lossy(name);
        if jupyter::kernel_id(&text).is_some() {
            kept.extend(name);
        } else {
            let kernel: &[u8] = if name.starts_with(b"kernel-") { b"kernel-" } else { b"" };
            kept.extend(kernel);
            kept.extend(format!("{:016x}.json", self.key.hash_one(file)).bytes());
        }
        kept
    }

    /// The shortest argv of the same kind.
    fn canonical(&self, argv: &[u8]) -> Vec<u8> {
        match jupyter::argv(argv) {
            Said::Server => b"python3\0/x/jupyter-lab\0".to_vec(),
            Said::Tracker => [b"python3\0-c\0", TEXTS[0].1, b"\0"].concat(),
            Said::Connection { file, is_known } => {
                let program: &[u8] =
                    if is_known { b"python3\0-m\0ipykernel_launcher\0-f\0" } else { b"x\0-f\0" };
                [program, &self.connection_file(file.as_bytes()), b"\0"].concat()
            }
            Said::Nothing => b"x\0".to_vec(),
        }
    }

    /// Only the marks that a launcher sets.
    pub fn environ(&self, environ: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        for entry in environ.split(|byte| *byte == 0) {
            let Some(at) = entry.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            if !MARKS.contains(&name) {
                continue;
            }
            kept.extend(name);
            kept.push(b'=');
            if name == MARKS[0] && self.hash_names {
                kept.extend(self.hashed(value));
            } else {
                kept.extend(value);
            }
            kept.push(0);
        }
        kept
    }

    /// The same name becomes the same hash, so that two notebooks stay two.
    fn hashed(&self, name: &[u8]) -> Vec<u8> {
        let root: &[u8] = if name.starts_with(b"/") { b"/" } else { b"" };
        let hash = format!("{:016x}.ipynb", self.key.hash_one(name));
        [root, hash.as_bytes()].concat()
    }
}

/// The same to the guard, the file's folder aside.
fn same_kind(a: &Said, b: &Said) -> bool {
    match (a, b) {
        (
            Said::Connection { file: a, is_known: a_known },
            Said::Connection { file: b, is_known: b_known },
        ) => a_known == b_known && jupyter::kernel_id(a) == jupyter::kernel_id(b),
        _ => a == b,
    }
}

fn is_flag(flag: &[u8]) -> bool {
    OPTIONS.contains(&flag) || flag.ends_with(b".connection_file") && is_name(flag)
}

fn is_name(name: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    !name.is_empty() && name.len() <= NAME_MAX && name.iter().all(plain)
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "d3fec54e-1111-4222-8333-444455556666";

    fn argv(words: &[&str]) -> Vec<u8> {
        words.iter().flat_map(|word| word.bytes().chain([0])).collect()
    }

    #[test]
    fn kernels_and_servers_stay_what_they_are_and_lose_everything_else() {
        let file = format!("/home/ada/secret/runtime/kernel-{ID}.json");
        let equals = format!("--f=/home/ada/secret/kernel-{ID}.json");
        let redactor = Redactor::new(false);
        for words in [
            &["/home/ada/venv/bin/python3", "-m", "ipykernel_launcher", "-f", &file][..],
            &["python", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", &equals],
            &["/usr/lib/R/bin/exec/R", "--slave", "-e", "IRkernel::main()", "--args", &file],
            &["python3", "-m", "xpython_launcher", "-f", &file, "--token=secret"],
            &["python3", "-m", "ipykernel_launcher", "-f", "/tmp/secret.json", "--H=secret"],
            &["python3", "/home/ada/secret/bin/jupyter-lab", "--token=secret"],
            &["jupyter", "lab", "--ip=secret"],
            &["python3", "-c", "from multiprocessing.resource_tracker import main;secret(7)"],
            &["python3", "secret.py", "--password", "secret"],
            &["mysql", "-psecret"],
        ] {
            let before = argv(words);
            let after = redactor.argv(&before);
            let shown = String::from_utf8_lossy(&after).into_owned();
            assert!(!shown.contains("secret") && !shown.contains("ada"), "{shown:?}");
            let (was, is) = (jupyter::argv(&before), jupyter::argv(&after));
            assert!(same_kind(&was, &is), "{words:?}: {was:?} became {is:?} in {shown:?}");
        }
    }

    #[test]
    fn of_the_environment_only_marks_are_kept() {
        let environ = b"AWS_SECRET=1\0JPY_SESSION_NAME=/home/ada/a.ipynb\0JPY_PARENT_PID=7\0\
                        JPY_API_TOKEN=2\0";
        let kept = Redactor::new(false).environ(environ);
        assert_eq!(kept, b"JPY_SESSION_NAME=/home/ada/a.ipynb\0JPY_PARENT_PID=7\0");
        let redactor = Redactor::new(true);
        let hashed = String::from_utf8(redactor.environ(environ)).unwrap();
        assert!(!hashed.contains("ada") && hashed.contains(".ipynb\0JPY_PARENT_PID=7\0"));
        assert_eq!(hashed.as_bytes(), redactor.environ(environ));
        assert_ne!(hashed.as_bytes(), Redactor::new(true).environ(environ), "a key for each");
    }

    proptest! {
        #[test]
        fn any_argv_keeps_its_kind(words in proptest::collection::vec(
            "(-m|-f|-c|-e|--f=|python3|/a/jupyter-lab|lab|jupyter|ipykernel|kernel-1\\.json|\
             /x/kernel-d3fec54e-1111-4222-8333-444455556666\\.json|[a-z=/ ]{0,9}\\.json|[ -~]{0,12})",
            0..6,
        )) {
            let before: Vec<u8> = words.iter().flat_map(|w| w.bytes().chain([0])).collect();
            let after = Redactor::new(true).argv(&before);
            prop_assert!(same_kind(&jupyter::argv(&before), &jupyter::argv(&after)));
        }
    }
}
