//! Texts of the kernel, of engines, of processes and of people.

use std::hint::black_box;
use std::path::Path;

use nbguard::cli::capture::redact::Redactor;
use nbguard::config::glob::{Glob, LabelGlob, NameGlob};
use nbguard::config::{Config, quantity};
use nbguard::ids::ProcKey;
use nbguard::parse;
use nbguard::parse::jupyter::MarksReader;
use nbguard::parse::template::{self, Values};
use nbguard::policy::identity::Marks;
use nbguard::policy::orders::{
    Order, Reply, Request, in_container, names_container, names_notebook,
};
use nbguard::report;
use nbguard::trace::php::watch::Watch;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The container of the fixtures.
const ID: &str = "5baba5339d9d68d819ad804673efb5ff65773751b8c8b2d5a7c432222303a167";

/// Files of `/proc`.
pub fn proc(text: &[u8]) {
    if let Ok(stat) = parse::stat(text) {
        assert_eq!(Ok(stat), parse::stat(text));
    }
    let _ = black_box(parse::status_memory(text));
    let _ = black_box(parse::status_switches(text));
    let _ = black_box(parse::status_ids(text));
    let _ = black_box(parse::smaps_rollup_pss(text));
    let _ = black_box(parse::meminfo(text));
    let _ = black_box(parse::proc_cgroup(text));
    for mapping in parse::maps::maps(text) {
        assert!(mapping.path.len() <= text.len());
    }
    if let Err(error) = parse::stat(text) {
        assert!(error.to_string().len() < 200);
    }
}

/// Files of a control group, and its path.
pub fn cgroup(text: &[u8]) {
    let _ = black_box(parse::memory_stat(text));
    let _ = black_box(parse::memory_stat_v1(text));
    let _ = black_box(parse::memory_events(text));
    let _ = black_box(parse::psi(text));
    let _ = black_box(parse::limit(text));
    let _ = black_box(parse::number(text));
    assert!(parse::pids(text).count() <= text.len() + 1);
    let path = Path::new(as_os(text));
    use parse::cgroup_path as paths;
    let _ = black_box(paths::classify(path));
    if let Some((above, _)) = paths::owner(path) {
        assert!(path.starts_with(above));
    }
    for above in paths::containers_above(path) {
        assert!(path.starts_with(above) && paths::classify(above).is_some());
    }
    if let Some(slice) = paths::parent_slice(path) {
        assert!(path.starts_with(slice));
    }
    black_box((paths::user_of(path), paths::tenant(path), paths::holds(path)));
}

fn as_os(text: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text)
}

/// `/proc/self/mountinfo`.
pub fn mountinfo(text: &[u8]) {
    for mount in parse::mountinfo(text) {
        match mount {
            Ok(mount) => {
                black_box((mount.root(), mount.point(), mount.has_option(b"memory_recursiveprot")));
            }
            Err(error) => assert!(error.to_string().len() < 200),
        }
    }
}

/// What engines say of a container: their files, and their answer.
pub fn engine(text: &[u8]) {
    use parse::engine_json as json;
    let docker = json::docker(text, ID);
    let oci = json::oci(text);
    for about in [docker, oci].into_iter().flatten() {
        for shown in [&about.name, &about.image].into_iter().flatten() {
            one_line(shown);
        }
    }
    let _ = black_box(json::storage(text, ID));
    if let Ok(Some(root)) = json::docker_data_root(text) {
        assert!(root.starts_with('/'));
    }
    match json::http_body(text) {
        Ok(body) => assert!(text.ends_with(body)),
        Err(error) => one_line(&error.to_string()),
    }
}

/// `nbguard.toml`.
pub fn config(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    match Config::read_text(Path::new("nbguard.toml"), text) {
        Ok((config, warnings)) => {
            black_box(config.settings_for(&nbguard::config::ContainerFacts::default()));
            for warning in warnings {
                assert!(!warning.to_string().is_empty());
            }
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// The head of a request to the guard.
pub fn http(text: &[u8]) {
    use parse::http::{LIMIT_MAX, host_name, request};
    let Ok(Some(read)) = request(text) else { return };
    assert!(read.len <= text.len() && read.limit <= LIMIT_MAX && read.path.starts_with('/'));
    // What follows the head changes nothing about it.
    assert_eq!(request(&text[..read.len]), Ok(Some(read)));
    if let Some(host) = read.host {
        assert!(host.starts_with(host_name(host)));
    }
}

/// A line to the control socket, the answer to it, and what is kept of orders and incidents.
pub fn control(text: &[u8]) {
    if let Some(request) = again::<Request>(text) {
        let words = match request {
            Request::Pause { container, .. } | Request::Resume { container } => container,
            Request::Protect { target, .. } | Request::Unprotect { target } => Some(target),
            Request::List => None,
        };
        let words = words.unwrap_or_default();
        black_box(names_container(&words, ID, "jupyter"));
        black_box(names_notebook(&words, Some("work/a.ipynb"), Some(ID)));
        black_box(in_container(&words, |name| name == "jupyter"));
    }
    let reply = again::<Reply>(text);
    let order = again::<Order>(text);
    for order in order.into_iter().chain(reply.into_iter().flat_map(|reply| reply.orders)) {
        one_line(&order.of.to_string());
        black_box((order.is_over(1), order.origin(), order.of.is_called("jupyter")));
    }
    if let Ok(incident) = serde_json::from_slice::<report::Incident>(text) {
        let _ = black_box(serde_json::to_string(&incident));
    }
}

/// What was read is written so that it is read again.
fn again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(text: &[u8]) -> Option<T> {
    let read = serde_json::from_slice::<T>(text).ok()?;
    let written = serde_json::to_vec(&read).expect("texts and numbers");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("our own writing"), read);
    Some(read)
}

/// The answer of `nbguard stack --json`.
pub fn stack(text: &[u8]) {
    let key = ProcKey { pid: 7, start: 9 };
    if let Some(stack) = parse::stack_json::stack(text, key) {
        assert!(stack.frames.len() <= parse::stack_json::MAX_FRAMES);
        let words = stack.running.iter().chain(&stack.function);
        for shown in stack.frames.iter().chain(words) {
            one_line(shown);
            assert!(shown.len() <= 600);
        }
    }
    if let Ok(stack) = serde_json::from_slice::<report::stack::Stack>(text) {
        let _ = black_box(serde_json::to_string(&stack));
    }
}

/// What a process says of itself: command line and environment, connection files by their names.
pub fn argv(text: &[u8]) {
    use parse::{jupyter, php_argv};
    let marks = jupyter::marks(text);
    black_box(jupyter::argv(text).with(marks.as_ref()));
    black_box(jupyter::argv(text).with(None));
    assert_eq!(marks, in_pieces(text));
    for has_php in [false, true] {
        if let Some(php) = php_argv::argv(text).with(Some(text), has_php) {
            assert!(php.application.len() <= php_argv::MAX_NAME);
        }
    }
    if let Ok(text) = str::from_utf8(text) {
        if let Some(id) = jupyter::kernel_id(text) {
            assert_eq!(id.len(), 36);
        }
        black_box(nbguard::config::Mark::parse(text));
    }
    let redactor = Redactor::new(text.len().is_multiple_of(2));
    black_box((redactor.argv(text), redactor.environ(text)));
}

/// An environment comes in pieces, cut anywhere.
fn in_pieces(text: &[u8]) -> Option<Marks> {
    let size = text.first().map_or(1, |byte| usize::from(*byte % 16) + 1);
    let (mut reader, mut rest) = (MarksReader::default(), Vec::new());
    for piece in text.chunks(size) {
        rest.extend_from_slice(piece);
        let used = reader.feed(&rest);
        rest.drain(..used);
    }
    reader.take(&rest);
    reader.finish()
}

/// Texts and patterns that people write, and names that are put into them.
pub fn text(bytes: &[u8]) {
    let bound = usize::from(bytes.first().copied().unwrap_or(0));
    let escaped = parse::escape(bytes, bound);
    assert!(escaped.len() <= bound);
    one_line(&escaped);
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    patterns(one, other);
    filled(one, other);
    if let Ok(size) = quantity::parse_size(one) {
        assert_eq!(quantity::parse_size(&quantity::size_text(size)), Ok(size));
    }
    if let Ok(share) = quantity::parse_share(one) {
        assert_eq!(quantity::parse_share(&quantity::share_text(share)), Ok(share));
    }
    if let Ok(trigger) = quantity::parse_trigger(one) {
        assert_eq!(quantity::parse_trigger(&quantity::trigger_text(trigger)), Ok(trigger));
    }
    let _ = black_box((quantity::parse_amount(one), quantity::parse_duration(one)));
    if let Ok(watch) = Watch::parse(one) {
        assert_eq!(Watch::parse(&watch.to_string()), Ok(watch));
    }
}

fn patterns(pattern: &str, name: &str) {
    if let Ok(glob) = Glob::new(pattern) {
        black_box(glob.matches_path(name));
        assert!(!glob.is_everything() || glob.matches(name));
    }
    if let Ok(glob) = LabelGlob::new(pattern) {
        black_box(glob.matches(name, name));
    }
    if let Ok(glob) = NameGlob::new(pattern) {
        black_box((glob.is_process(name.as_bytes()), glob.is_application(name)));
    }
}

fn filled(text: &str, name: &str) {
    const BOUND: usize = 4096;
    let figure = "1.0 GiB";
    let values = Values {
        notebook: name,
        container: name,
        memory: figure,
        share: figure,
        usage: figure,
        total: figure,
        threshold: figure,
        warning: figure,
        running: template::LATER,
    };
    black_box(template::unknown(text));
    let filled = template::fill(text, &values, BOUND);
    assert!(filled.len() <= BOUND && filled.ends_with('\n'));
    let running = parse::escape(name.as_bytes(), template::RUNNING_MAX);
    let placed = template::place(&filled, &running);
    assert!(text.contains('\0') || !placed.contains('\0'));
}

/// Whatever is shown to people is one line, and moves no cursor.
fn one_line(shown: &str) {
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}
