//! `nbguard stack` of real interpreters: PHP as it is installed here, against what it should say,
//! and the offsets of its fields against the headers of every `php-dev` that is here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nbguard::report::stack::{Interpreter, Stack, State};
use nbguard::trace::cpython::{self, Input, Shape};
use nbguard::trace::php::layout::{Layout, same};
use nbguard::trace::remote::{Pages, ProcessMemory};
use serde_json::{Value, json};

use crate::kernels::python;
use crate::{binary, root, skip};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with its test.
pub struct Running(pub Child);

impl Running {
    fn start(command: &mut Command) -> Option<Running> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.spawn().ok().map(Running)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nbguard(pid: u32, more: &[&str]) -> Output {
    let mut command = Command::new(binary("nbguard"));
    command.arg("stack").arg(pid.to_string()).args(more).output().expect("nbguard runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Looks until what is seen is what is waited for.
pub fn look_until(pid: u32, is_it: impl Fn(&Stack) -> bool) -> Stack {
    let began = Instant::now();
    loop {
        let output = nbguard(pid, &["--json"]);
        let stack: Option<Stack> = serde_json::from_slice(&output.stdout).ok();
        match stack {
            Some(stack) if is_it(&stack) => return stack,
            stack => assert!(
                began.elapsed() < PATIENCE,
                "never seen: {stack:?} {}",
                text(&output.stderr)
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn innermost(stack: &Stack) -> &str {
    stack.threads.first().and_then(|t| t.frames.first()).map_or("", |frame| &frame.function)
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/stack").join(name)
}

/// PHP with this script of the fixtures, or None where there is no PHP.
fn php(script: &str) -> Option<Running> {
    php_by(&mut Command::new("php"), script)
}

fn php_by(command: &mut Command, script: &str) -> Option<Running> {
    let started = Running::start(command.arg(fixture(script)));
    if started.is_none() {
        skip("no php here");
    }
    started
}

#[test]
fn sleep_say_run_are_told_as_the_source_tells_them() {
    let Some(php) = php("block.php") else { return };
    look_until(php.pid(), |stack| innermost(stack) == "sleep");
    let output = nbguard(php.pid(), &[]);
    let said = text(&output.stdout);
    let file = fixture("block.php").display().to_string();
    let lines: Vec<String> = said.lines().map(without_address).collect();
    assert!(lines[0].starts_with("nbguard ") && lines[0].contains(", PHP 8."), "{said}");
    assert_eq!(
        lines[1..],
        [
            format!("process id={}", php.pid()),
            format!("script_filename={file}"),
            format!("[0x] sleep {file}:6"),
            format!("[0x] say {file}:3"),
            format!("[0x] run {file}:10"),
            String::new(),
        ],
    );
}

fn without_address(line: &str) -> String {
    match line.strip_prefix("[0x").and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.bytes().all(|b| b.is_ascii_hexdigit()) => {
            format!("[0x]{rest}")
        }
        _ => line.to_owned(),
    }
}

/// Each script has its answer beside it: `NAME.php` and `NAME.json`.
#[test]
fn every_script_of_the_fixtures_is_told_as_its_answer_says() {
    for name in ["block", "names", "generator", "fiber"] {
        let Some(php) = php(&format!("{name}.php")) else { return };
        let stack = look_until(php.pid(), |stack| innermost(stack) == "sleep");
        assert_eq!((stack.pid, stack.runtime), (php.pid(), Interpreter::Php));
        assert!(stack.start > 0 && stack.took_us < 1_000_000);
        assert!(stack.memory.is_some_and(|memory| (100_000..100_000_000).contains(&memory)));
        let mut made = serde_json::to_value(&stack).unwrap();
        neutral(&mut made);
        let answer = fixture(&format!("{name}.json"));
        if std::env::var_os("NBGUARD_WRITE_FIXTURES").is_some() {
            fs::write(&answer, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
        }
        let expected: Value = serde_json::from_slice(&fs::read(&answer).unwrap()).unwrap();
        assert_eq!(made, expected, "{name}: {made:#}");
    }
}

/// Without what differs from run to run, and from one PHP to the next.
fn neutral(value: &mut Value) {
    let folder = fixture("").display().to_string();
    match value {
        Value::Object(map) => {
            for key in ["pid", "start", "version", "memory", "took_us", "id"] {
                map.entry(key).and_modify(|value| *value = Value::Null);
            }
            map.entry("address").and_modify(|address| {
                let text = address.as_str().unwrap_or_default();
                assert!(text.starts_with("0x") && text.len() > 6, "{text}");
                *address = json!("0x");
            });
            map.values_mut().for_each(neutral);
        }
        Value::Array(values) => values.iter_mut().for_each(neutral),
        Value::String(text) => {
            *text = text.replace(&folder, "");
            // From 8.4 on a closure's name says where it is, and not in which namespace.
            if text.contains("{closure") {
                *text = "{closure}".to_owned();
            }
        }
        _ => {}
    }
}

#[test]
fn where_code_runs_without_calling_anything_its_line_is_told() {
    let Some(php) = php("loop.php") else { return };
    let stack = look_until(php.pid(), |stack| innermost(stack) == "spin");
    let thread = &stack.threads[0];
    assert_eq!((thread.frames.len(), thread.frames[0].line), (1, Some(11)));
    assert_eq!(thread.at.as_ref().map(|at| (4..=8).contains(&at.line)), Some(true));
    let said = text(&nbguard(php.pid(), &[]).stdout);
    assert!(said.contains(":11, now at "), "{said}");
}

#[test]
fn looks_are_repeated_and_watched_values_told() {
    let Some(php) = php("block.php") else { return };
    look_until(php.pid(), |stack| innermost(stack) == "sleep");
    let watches =
        ["--watch", "memory", "--watch", "$argc", "--watch", "x=executor_globals+428:i32"];
    let output = nbguard(
        php.pid(),
        &[&["--json", "--repeat", "1ms", "--count", "3"], &watches[..]].concat(),
    );
    let looks: Vec<Stack> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 3);
    for look in &looks {
        let values: Vec<_> = look.watched.iter().map(|w| (w.name.as_str(), &w.value)).collect();
        let memory = json!(look.memory);
        assert_eq!(values, [("memory", &memory), ("$argc", &json!(1)), ("x", &json!(0))]);
    }
    let unknown = nbguard(php.pid(), &["--watch", "x=no_such_thing+0:i8"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("no global `no_such_thing`"));
    let wrong = nbguard(php.pid(), &["--watch", "memroy"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_process_that_cannot_be_looked_into_says_why() {
    let gone = {
        let sleep = Running::start(Command::new("true").arg("")).unwrap();
        sleep.pid()
    };
    let other = Running::start(Command::new("sleep").arg("600")).unwrap();
    for (pid, why) in [(gone, "no such process"), (other.pid(), "no PHP and no Python")] {
        let output = nbguard(pid, &["--json"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
    let Some(php) = php("block.php") else { return };
    look_until(php.pid(), |stack| innermost(stack) == "sleep");
    let mut command = Command::new(binary("nbguard"));
    let output = command.arg("stack").arg(php.pid().to_string()).uid(65534).gid(65534).output();
    match output {
        Ok(output) => {
            assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
            assert!(text(&output.stderr).contains("CAP_SYS_PTRACE"), "{}", text(&output.stderr));
        }
        Err(error) => skip(format_args!("nobody cannot run it: {error}")),
    }
}

#[test]
fn a_process_that_becomes_another_program_or_ends_is_told_from_one_that_is_read() {
    let mut command = Command::new("php");
    let code = "usleep(300000); pcntl_exec('/bin/sleep', ['600']);";
    let Some(php) = Running::start(command.args(["-r", code])) else {
        return skip("no php here");
    };
    let output = nbguard(php.pid(), &["--json", "--repeat", "1ms", "--count", "100000"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another program") || said.contains("no PHP"), "{said}");
    let mut command = Command::new("php");
    let php = Running::start(command.args(["-r", "usleep(300000);"])).unwrap();
    let output = nbguard(php.pid(), &["--json", "--repeat", "1ms", "--count", "100000"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended") || said.contains("no such process"), "{said}");
}

/// What a look costs once it is known where to look: the median of many. The bar is that of the
/// release binary; without it this only notices when something is far off.
#[test]
fn a_look_costs_next_to_nothing() {
    let Some(php) = php("names.php") else { return };
    look_until(php.pid(), |stack| innermost(stack) == "sleep");
    let output = nbguard(php.pid(), &["--json", "--repeat", "1ms", "--count", "300"]);
    let said = text(&output.stdout);
    let looks = said.lines().map(|line| serde_json::from_str::<Stack>(line).unwrap().took_us);
    // The first one has to find PHP.
    let mut took: Vec<u64> = looks.skip(1).collect();
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("a look at {} frames: {median} µs", 9);
    let released = std::env::var_os("NBGUARD_BIN_DIR").is_some();
    assert!(median <= if released { 200 } else { 5_000 }, "{median} µs");
}

/// Other mount and pid namespaces, a name that is gone, and a process that is stopped.
#[test]
fn namespaces_deleted_programs_and_stopped_processes_are_no_obstacle() {
    let Ok(program) = fs::canonicalize("/usr/bin/php") else { return skip("no php here") };
    let folder = std::env::temp_dir().join(format!("nbguard-stack-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let copy = folder.join("renamed");
    fs::copy(program, &copy).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child"]).arg(&copy);
    let Some(outer) = php_by(&mut command, "block.php") else { return };
    let inner = child_of(outer.pid());
    if let Some(inner) = inner {
        look_until(inner, |stack| innermost(stack) == "sleep");
        fs::remove_dir_all(&folder).unwrap();
        let pid = nix::unistd::Pid::from_raw(inner as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let stack = look_until(inner, |stack| innermost(stack) == "sleep");
        assert_eq!((stack.pid, stack.threads[0].frames.len()), (inner, 3));
    } else {
        skip("namespaces cannot be made here");
        let _ = fs::remove_dir_all(&folder);
    }
}

fn child_of(pid: u32) -> Option<u32> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        if let Some(child) = children.split_whitespace().next() {
            return child.parse().ok();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The tables against the headers, by a program that prints `offsetof` of every field.
#[test]
fn the_tables_are_those_of_the_headers() {
    let folders = fs::read_dir("/usr/include/php").into_iter().flatten().flatten();
    let mut seen = 0;
    for include in folders.map(|entry| entry.path()).filter(|p| p.join("main/php.h").exists()) {
        match offsets(&include) {
            Some(offsets) => compare(&include, &offsets),
            None => return skip("no compiler here"),
        }
        seen += 1;
    }
    if seen == 0 {
        skip("no headers of PHP here");
    }
}

const FIELDS: [(&str, u64); 20] = [
    ("zend_executor_globals, symbol_table", same::executor::SYMBOL_TABLE),
    ("zend_executor_globals, included_files", same::executor::INCLUDED_FILES),
    ("zend_executor_globals, error_reporting", same::executor::ERROR_REPORTING),
    ("zend_execute_data, opline", same::frame::OPLINE as u64),
    ("zend_execute_data, func", same::frame::FUNC as u64),
    ("zend_execute_data, prev_execute_data", same::frame::PREV as u64),
    ("zend_op_array, function_name", same::function::NAME as u64),
    ("zend_op_array, scope", same::function::SCOPE as u64),
    ("zend_class_entry, name", same::class::NAME),
    ("zend_op, extended_value", same::op::EXTENDED as u64),
    ("zend_op, lineno", same::op::LINE as u64),
    ("zend_op, opcode", same::op::OPCODE as u64),
    ("zend_string, len", same::string::LEN),
    ("zend_string, val", same::string::TEXT),
    ("zend_object, ce", same::object::CLASS),
    ("zend_reference, val", same::reference::VALUE),
    ("zend_array, nNumOfElements", same::array::COUNT),
    ("sapi_globals_struct, request_info.path_translated", same::sapi::SCRIPT),
    ("sapi_globals_struct, request_info.request_uri", same::sapi::URI),
    ("sapi_globals_struct, sapi_started", same::sapi::STARTED),
];

fn offsets(include: &Path) -> Option<Vec<u64>> {
    let folder = std::env::temp_dir().join(format!("nbguard-headers-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut source = String::from(
        "#define _GNU_SOURCE\n#include <stdio.h>\n#include <stddef.h>\n#include \"php.h\"\n\
         #include \"SAPI.h\"\n#include \"php_version.h\"\nint main(void) {\n",
    );
    let version =
        ["PHP_MAJOR_VERSION", "PHP_MINOR_VERSION", "ZEND_INCLUDE_OR_EVAL", "sizeof(zend_op)"];
    let array = ["nTableMask", "arData"].map(|field| format!("offsetof(zend_array, {field})"));
    let bucket = ["h", "key"].map(|field| format!("offsetof(Bucket, {field})"));
    let minor = [
        "offsetof(zend_op_array, last)",
        "offsetof(zend_op_array, opcodes)",
        "offsetof(zend_executor_globals, current_execute_data)",
        "offsetof(zend_executor_globals, vm_stack)",
        "offsetof(zend_op_array, filename)",
    ];
    let fields = FIELDS.map(|(field, _)| format!("offsetof({field})"));
    let all = version.map(str::to_owned).into_iter().chain(array).chain(bucket);
    for value in all.chain(minor.map(str::to_owned)).chain(fields) {
        source += &format!("printf(\"%zu\\n\", (size_t)({value}));\n");
    }
    source += "return 0; }\n";
    fs::write(folder.join("o.c"), source).unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-w").arg("-o").arg(folder.join("o")).arg(folder.join("o.c"));
    for part in ["", "main", "Zend", "TSRM"] {
        cc.arg(format!("-I{}", include.join(part).display()));
    }
    let built = cc.status();
    let output = built.ok().map(|status| {
        assert!(status.success(), "{} does not compile", include.display());
        Command::new(folder.join("o")).output().unwrap()
    });
    let _ = fs::remove_dir_all(&folder);
    output.map(|output| text(&output.stdout).lines().map(|n| n.parse().unwrap()).collect())
}

fn compare(include: &Path, offsets: &[u64]) {
    let [
        major,
        minor,
        opcode,
        op_size,
        mask,
        data,
        hash,
        key,
        last,
        opcodes,
        current,
        vm_stack,
        filename,
        fields @ ..,
    ] = offsets
    else {
        panic!("{offsets:?}");
    };
    let shown = include.display();
    assert_eq!(u64::from(same::op::INCLUDE_OR_EVAL), *opcode, "{shown}");
    assert_eq!(same::op::SIZE as u64, *op_size, "{shown}");
    assert_eq!([same::array::MASK, same::array::DATA], [*mask, *data], "{shown}");
    assert_eq!([same::array::BUCKET_HASH, same::array::BUCKET_KEY], [*hash, *key], "{shown}");
    for ((name, ours), theirs) in FIELDS.iter().zip(fields) {
        assert_eq!(ours, theirs, "{shown}: {name}");
    }
    let Some(layout) = Layout::of((*major as u8, *minor as u8)) else {
        return skip(format_args!("{shown}: PHP {major}.{minor} is not known"));
    };
    assert_eq!(layout.current_execute_data, *current, "{shown}");
    assert_eq!(layout.vm_stack(), *vm_stack, "{shown}");
    let code = [layout.last, layout.opcodes, layout.filename];
    assert_eq!(code, [*last, *opcodes, *filename], "{shown}");
}

#[test]
fn a_pool_worker_is_busy_with_a_request_and_idle_between_two() {
    let Some(fpm) = ["/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.4", "/usr/sbin/php-fpm"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        return skip("no php-fpm here");
    };
    let folder = std::env::temp_dir().join(format!("nbguard-fpm-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("s");
    let conf = folder.join("fpm.conf");
    let conf_text = format!(
        "[global]\nerror_log = {log}\ndaemonize = no\n[www]\nuser = nobody\ngroup = nogroup\n\
         listen = {socket}\npm = static\npm.max_children = 1\n",
        log = folder.join("log").display(),
        socket = socket.display(),
    );
    fs::write(&conf, conf_text).unwrap();
    let mut command = Command::new(fpm);
    command.arg("-R").arg("-F").arg("-y").arg(&conf);
    let master = Running::start(&mut command).unwrap();
    let worker = child_of(master.pid()).expect("the pool has a worker");
    let idle = look_until(worker, |stack| stack.state == State::Idle);
    assert_eq!((idle.script.as_deref(), idle.threads[0].frames.len()), (None, 0));
    let script = fixture("block.php").display().to_string();
    let began = Instant::now();
    let mut stream = loop {
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    std::io::Write::write_all(
        &mut stream,
        &fastcgi(&[
            ("SCRIPT_FILENAME", &script),
            ("SCRIPT_NAME", "/block.php"),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/block.php?token=secret"),
            ("QUERY_STRING", "token=secret"),
        ]),
    )
    .unwrap();
    let busy = look_until(worker, |stack| innermost(stack) == "sleep");
    assert_eq!((busy.state, busy.script.as_deref()), (State::Busy, Some(script.as_str())));
    assert_eq!(busy.request_uri.as_deref(), Some("/block.php"));
    assert!(!serde_json::to_string(&busy).unwrap().contains("secret"));
    drop(master);
    let _ = fs::remove_dir_all(&folder);
}

/// One request without a body (FastCGI 1.0, section 3).
fn fastcgi(params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in params {
        for len in [name.len(), value.len()] {
            body.extend_from_slice(&((len as u32) | 1 << 31).to_be_bytes());
        }
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    let record = |kind: u8, content: &[u8]| {
        let len = (content.len() as u16).to_be_bytes();
        let mut record = vec![1, kind, 0, 1, len[0], len[1], 0, 0];
        record.extend_from_slice(content);
        record
    };
    [record(1, &[0, 1, 0, 0, 0, 0, 0, 0]), record(4, &body), record(4, &[]), record(5, &[])]
        .concat()
}

/// Says what it is, and where its module `__main__` and an object are: `id()` is an address.
const PYTHON: &str = "
import sys, time, builtins
class Result:
    execution_count = None
    def __init__(self): self.info = 1
    def ask(self): pass
one, other = Result(), Result()
one.execution_count = 41
other.execution_count = 42
vars(other)['x'] = 1
if sys.argv[1] == 'cell': builtins.input = one.ask
if sys.argv[1] == 'odd': builtins.input = lambda: 1
sys.stdout.write('%d %d %d %d\\n' % (sys.version_info[1], id(globals()), id(one), id(other)))
sys.stdout.flush()
time.sleep(600)
";

/// Every Python 3 of this machine, by its version.
fn pythons() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = vec!["/usr/bin/python3".into()];
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let versions = fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    found.extend(versions.map(|version| version.path().join("bin/python3")));
    found.retain(|python| python.exists());
    found
}

#[test]
fn what_a_kernel_does_not_show_is_found_in_the_memory_of_every_python() {
    let mut seen = 0;
    for python in pythons() {
        for (how, expected) in [
            ("idle", Some(Input::Builtin)),
            ("cell", Some(Input::Method)),
            ("odd", Some(Input::Other)),
        ] {
            let mut command = Command::new(&python);
            command.args(["-c", PYTHON, how]).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut running = Running(command.spawn().unwrap());
            let mut line = String::new();
            let output = running.0.stdout.take().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
            let told: Vec<u64> =
                line.split_whitespace().map(|number| number.parse().unwrap()).collect();
            let [minor, globals, one, other] = told[..] else {
                panic!("{}: {line}", python.display())
            };
            let Some(shape) = Shape::of(3, minor) else {
                skip(format_args!("3.{minor} is not known"));
                continue;
            };
            let memory = ProcessMemory::of(running.pid());
            let mut pages = Pages::new(&memory);
            let shown = format!("3.{minor} {how}");
            assert_eq!(cpython::input(&mut pages, shape, globals), Ok(expected), "{shown}");
            for (object, count) in [(one, 41), (other, 42)] {
                let told = cpython::execution_count(&mut pages, shape, object);
                assert_eq!(told, Ok(Some(count)), "{shown}");
            }
            seen += 1;
        }
    }
    if seen == 0 {
        skip("no Python here");
    }
}

#[test]
fn python_tells_its_calls_without_being_stopped_also_in_other_namespaces() {
    let code = "import time\ndef nap():\n    time.sleep(600)\nnap()\n";
    let mut seen = 0;
    for python in pythons() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]).arg(&python);
        let Some(outer) = Running::start(command.args(["-c", code])) else {
            return skip("no unshare here");
        };
        let Some(inner) = child_of(outer.pid()) else {
            return skip("namespaces cannot be made here");
        };
        let stack = look_until(inner, |stack| innermost(stack) == "nap");
        let thread = &stack.threads[0];
        let calls: Vec<_> = thread.frames.iter().map(|f| (f.function.as_str(), f.line)).collect();
        assert_eq!(calls, [("nap", Some(3)), ("<module>", Some(4))], "{}", python.display());
        assert_eq!((stack.runtime, stack.state), (Interpreter::Python, State::Unknown));
        assert!(thread.main && stack.version.starts_with("3."), "{stack:?}");
        let status = fs::read_to_string(format!("/proc/{inner}/status")).unwrap();
        assert!(status.contains("TracerPid:\t0"), "{status}");
        let output = nbguard(inner, &["--watch", "memory"]);
        assert_eq!(output.status.code(), Some(2));
        seen += 1;
    }
    if seen == 0 {
        skip("no Python here");
    }
}

/// Runs the cells that it reads, one a line of JSON, in a kernel whose pid it says first; then
/// says the number of each when it has begun.
const CLIENT: &str = r#"
import json, sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
print(manager.provisioner.pid, flush=True)
for line in sys.stdin:
    cell = client.execute(json.loads(line), allow_stdin=True)
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == cell and message["msg_type"] == "execute_input":
            print(message["content"]["execution_count"], flush=True)
            break
manager.shutdown_kernel(now=True)
"#;

/// What the notebook calls busy is busy, and a cell that awaits is not idle.
#[test]
fn a_kernel_is_busy_in_its_cell_and_idle_between_two() {
    let Some(python) = python() else { return };
    let mut command = Command::new(&python);
    // The kernel must be one of this Python, whatever else is installed.
    let bin = python.parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    command.args(["-c", CLIENT]).env("PATH", path).stderr(Stdio::null());
    let mut client = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut told = std::io::BufReader::new(client.0.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut told, &mut line).unwrap();
        line.trim().parse::<u64>().unwrap_or_else(|_| panic!("the client said {line:?}"))
    };
    let pid = line() as u32;
    let mut cells = client.0.stdin.take().unwrap();
    let idle = look_until(pid, |stack| stack.state == State::Idle);
    assert_eq!((idle.runtime, idle.cell), (Interpreter::Python, None));
    assert!(idle.threads[0].main && idle.threads.len() > 1, "{idle:?}");
    let await_it = "import asyncio\nit = asyncio.get_running_loop().create_future()\n\
        asyncio.get_running_loop().call_later(2, it.set_result, 1)\nawait it";
    for (code, function) in [
        ("import time\ndef nap():\n    time.sleep(2)\nnap()", Some("nap")),
        ("import asyncio\nawait asyncio.sleep(2)", None),
        (await_it, None),
        ("sum(i * i for i in range(30_000_000))", Some("<genexpr>")),
        ("import threading\nthreading.Thread(target=nap).start()", None),
    ] {
        let line_of_json = serde_json::to_string(code).unwrap() + "\n";
        std::io::Write::write_all(&mut cells, line_of_json.as_bytes()).unwrap();
        let number = line();
        let is_it = |stack: &Stack| function.is_none_or(|name| innermost(stack).contains(name));
        let seen = look_until(pid, |stack| stack.state != State::Idle && is_it(stack));
        if function.is_some() {
            assert_eq!((seen.state, seen.cell), (State::Busy, Some(number)), "{code}: {seen:?}");
        } else if code.contains("await") {
            assert_eq!((seen.state, seen.threads[0].main), (State::Busy, true), "{code}: {seen:?}");
        }
        look_until(pid, |stack| stack.state == State::Idle);
    }
    let asks = serde_json::to_string("input('?')").unwrap() + "\n";
    std::io::Write::write_all(&mut cells, asks.as_bytes()).unwrap();
    let number = line();
    let asking = look_until(pid, |stack| {
        stack.threads[0].frames.iter().any(|f| f.function.contains("input_request"))
    });
    assert_eq!((asking.state, asking.cell), (State::Busy, Some(number)));
    drop(cells);
}
