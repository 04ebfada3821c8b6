//! `nbguard deny --learn`: watches what runs in the containers of this host for a while, and
//! proposes a deny list for `idle-first` from what was at work on nothing all the time. It prints
//! a drop-in and changes nothing.
//!
//! Proposed is what was there from the first look to the last, idle at each of them, and has no
//! children: whoever starts others is needed by them. What nobody can tell is not proposed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::inside::{self, Inside, Watched};
use crate::cli::out::{self, CELL_MAX, LINE_MAX, safe};
use crate::config::glob::{Glob, NameGlob};
use crate::config::quantity::{duration_text, parse_duration};
use crate::facts::{Activity, Field, Proc};
use crate::ids::ProcKey;
use crate::policy::activity::Nature;
use crate::units::{Bytes, Moment};

/// Between two looks, and between two rounds of questions: each starts programs.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_secs(60);
const LEARN_MIN: Duration = Duration::from_secs(1);
const LEARN_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Version of the JSON's shape.
const SCHEMA: u32 = 1;
/// Pids that stand beside a proposal.
const PIDS_SHOWN: usize = 8;

#[derive(Args, Debug)]
pub struct DenyArgs {
    /// Watch for this long
    #[arg(long, value_name = "TIME", value_parser = learn)]
    pub learn: Duration,
    /// Only this container: its name, or the first characters of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn learn(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match (LEARN_MIN..=LEARN_MAX).contains(&time) {
        true => Ok(time),
        false => Err("it must be from 1s to 7d".to_owned()),
    }
}

/// What a pattern of the list would stand for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Whom {
    Application(String),
    Notebook(String),
    Process(Vec<u8>),
}

/// All of one name, over the looks.
#[derive(Clone, Default, Debug)]
struct Group {
    /// Those at the first look; the same must be there at each.
    keys: BTreeSet<ProcKey>,
    is_out: bool,
    memory: Bytes,
    by: BTreeSet<&'static str>,
}

/// What was learned of one container.
#[derive(Default)]
struct Learned {
    id: String,
    name: String,
    groups: BTreeMap<Whom, Group>,
    looks: u32,
}

#[derive(Serialize)]
struct Proposal {
    /// As it stands in the list.
    pattern: String,
    processes: usize,
    pids: Vec<u32>,
    memory: Bytes,
    /// Who says that it was idle: `tracer`, `stack`, `cpu`.
    by: Vec<&'static str>,
    /// `false`: shown only, for a reason that `note` tells.
    proposed: bool,
    note: Option<&'static str>,
}

#[derive(Serialize)]
struct Proposals {
    id: String,
    name: String,
    deny: Vec<Proposal>,
}

pub fn run(config: &Path, args: &DenyArgs, out: &mut dyn Write) -> Outcome {
    let mut inside = Inside::open(config, args.container.as_deref())?;
    let began = Instant::now();
    let first = inside::now();
    let every = (args.learn / 12).clamp(Duration::from_millis(100), LOOK_EVERY);
    let mut learned: Vec<Learned> = Vec::new();
    let mut asked: Option<Instant> = None;
    loop {
        inside.look();
        if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            inside.ask();
            asked = Some(Instant::now());
        }
        take_in(&mut learned, &inside.boxes, first);
        let left = args.learn.saturating_sub(began.elapsed());
        show_progress(args.learn - left, args.learn, &learned);
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(every));
    }
    end_progress();
    if let Some(asked) = &args.container
        && learned.is_empty()
    {
        let asked = safe(asked, CELL_MAX);
        return Err(Failure::wrong(format!("no container called {asked}")));
    }
    let proposals: Vec<Proposals> = learned.iter().map(Learned::proposals).collect();
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = crate::parse::escape(host.trim_ascii(), CELL_MAX);
    let text = drop_in(&proposals, args.learn, &host, SystemTime::now());
    if args.json {
        let report = serde_json::json!({
            "schema": SCHEMA,
            "learned_s": args.learn.as_secs(),
            "containers": proposals,
            "drop_in": text,
            "unread": inside.unread,
        });
        writeln!(out, "{}", out::json(&report))?;
    } else {
        write!(out, "{text}")?;
    }
    for error in &inside.unread {
        let _ = writeln!(io::stderr(), "nbguard: {}, skipped", safe(error, LINE_MAX));
    }
    Ok(if inside.unread.is_empty() { Exit::Ok } else { Exit::Wrong })
}

fn show_progress(done: Duration, all: Duration, learned: &[Learned]) {
    if !io::stderr().is_terminal() {
        return;
    }
    let idle: usize = learned.iter().map(|each| each.steady().count()).sum();
    let (done, all) = (done.as_secs(), all.as_secs());
    let idle = out::counted(idle as u64, "name", "names");
    let _ = write!(io::stderr(), "\r\x1b[Kwatched {done} s of {all} s; idle until now: {idle}");
    let _ = io::stderr().flush();
}

fn end_progress() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn take_in(learned: &mut Vec<Learned>, boxes: &[Watched], first: Moment) {
    for watched in boxes {
        let at = learned.iter().position(|each| each.id == watched.found.id);
        let at = at.unwrap_or_else(|| {
            let (id, name) = (watched.found.id.clone(), watched.container.name.clone());
            learned.push(Learned { id, name, ..Learned::default() });
            learned.len() - 1
        });
        learned[at].look(watched, first);
    }
}

impl Learned {
    fn look(&mut self, watched: &Watched, first: Moment) {
        let mut there: BTreeMap<Whom, BTreeSet<ProcKey>> = BTreeMap::new();
        for (index, proc) in watched.seen.procs.iter().enumerate() {
            let Some(whom) = whom(watched, index, proc) else { continue };
            there.entry(whom.clone()).or_default().insert(proc.key);
            let group = self.groups.entry(whom).or_default();
            let is_idle = match watched.activities.of(proc.key, watched.nature(index)) {
                // Since it was first looked at, which is when all were.
                Activity::Idle { since, by } => {
                    group.by.insert(by.as_str());
                    since <= watched.activities.first_seen(proc.key).unwrap_or(first)
                }
                Activity::Busy { .. } | Activity::Unknown(_) => false,
            };
            group.is_out |= !is_idle || has_children(watched, proc);
        }
        for (whom, keys) in &there {
            let group = self.groups.entry(whom.clone()).or_default();
            if self.looks == 0 {
                group.keys.clone_from(keys);
            }
            group.is_out |= group.keys != *keys;
            let held = watched.seen.procs.iter().filter(|p| keys.contains(&p.key)).map(held);
            group.memory = group.memory.max(held.sum());
        }
        for (whom, group) in &mut self.groups {
            group.is_out |= !there.contains_key(whom);
        }
        self.looks += 1;
    }

    fn steady(&self) -> impl Iterator<Item = (&Whom, &Group)> {
        self.groups.iter().filter(|(_, group)| !group.is_out && !group.keys.is_empty())
    }

    fn proposals(&self) -> Proposals {
        let deny = self.steady().map(|(whom, group)| {
            let (pattern, note) = pattern(whom);
            Proposal {
                pattern,
                processes: group.keys.len(),
                pids: group.keys.iter().take(PIDS_SHOWN).map(|key| key.pid).collect(),
                memory: group.memory,
                by: group.by.iter().copied().collect(),
                proposed: note.is_none(),
                note,
            }
        });
        let mut deny: Vec<Proposal> = deny.collect();
        // One look says nothing of the time.
        if self.looks < 2 {
            deny.clear();
        }
        Proposals { id: self.id.clone(), name: self.name.clone(), deny }
    }
}

/// `None`: never proposed: servers, masters, the container's first process, what is ending, and
/// what works for nothing that has a name.
fn whom(watched: &Watched, index: usize, proc: &Proc) -> Option<Whom> {
    let (forest, ids) = (&watched.seen.forest, &watched.seen.ids);
    if proc.is_zombie() || watched.container.pid1 == Some(proc.key.pid) {
        return None;
    }
    if let Some(number) = forest.owner_of(index as u32) {
        let root = forest.workloads()[number].root;
        let name = ids.application(root)?.to_owned();
        let is_kernel = ids.get(root).is_some_and(|id| Nature::of(&id.claim) == Nature::Kernel);
        return Some(if is_kernel { Whom::Notebook(name) } else { Whom::Application(name) });
    }
    let is_other = forest.unattributed().contains(&(index as u32));
    // Without its identity it may be anything.
    let is_known = ids.get(proc.key).is_some();
    let is_first = !watched.seen.procs.iter().any(|other| other.key.pid == proc.ppid);
    (is_other && is_known && !is_first).then(|| Whom::Process(proc.comm.bytes().to_vec()))
}

fn has_children(watched: &Watched, proc: &Proc) -> bool {
    let owner = |proc: &Proc| {
        let index = watched.seen.procs.iter().position(|p| p.key == proc.key)?;
        watched.seen.forest.owner_of(index as u32)
    };
    let of_it = |child: &&Proc| child.ppid == proc.key.pid && child.key != proc.key;
    // Within a workload they go together.
    watched
        .seen
        .procs
        .iter()
        .filter(of_it)
        .any(|child| !child.is_zombie() && (owner(child).is_none() || owner(child) != owner(proc)))
}

fn held(proc: &Proc) -> Bytes {
    match proc.memory {
        Field::Known(memory) => memory.anon.plus(memory.shmem).plus(memory.swap),
        Field::Unknown(_) => proc.rss,
    }
}

/// The pattern that names exactly these, or why it can only be shown.
fn pattern(whom: &Whom) -> (String, Option<&'static str>) {
    let (text, note) = match whom {
        Whom::Application(name) => (format!("{}{name}", NameGlob::APPLICATION), None),
        Whom::Notebook(name) => {
            let note = "a notebook: it goes first anyway as long as it is idle";
            (format!("{}{name}", NameGlob::APPLICATION), Some(note))
        }
        Whom::Process(comm) => match std::str::from_utf8(comm) {
            Ok(name) => (name.to_owned(), None),
            Err(_) => {
                (crate::parse::escape(comm, CELL_MAX), Some("its name is no text to be matched"))
            }
        },
    };
    let is_plain = !text.contains(['*', '?']) && !text.contains(char::is_control);
    let note = note.or_else(|| match is_plain && NameGlob::new(&text).is_ok() {
        true => None,
        false => Some("its name cannot be written as a pattern"),
    });
    (text, note)
}

/// The text of the drop-in: the list, and the evidence as comments.
fn drop_in(proposals: &[Proposals], learned: Duration, host: &str, now: SystemTime) -> String {
    let mut text = String::new();
    let time = duration_text(learned);
    let when = humantime::format_rfc3339_seconds(now);
    let _ = writeln!(
        text,
        "# Proposed by `nbguard deny --learn {time}` on {host}, {when}: what was at work on\n\
         # nothing all that time. Nothing was changed. Read it, strike out what is needed, put the\n\
         # rest into /etc/nbguard/conf.d/, then run `nbguard check` and reload nbguardd.\n\
         # A deny list counts under policy = \"idle-first\" alone."
    );
    if proposals.iter().all(|each| each.deny.is_empty()) {
        let _ = writeln!(text, "\n# Nothing stayed idle.");
    }
    for each in proposals.iter().filter(|each| !each.deny.is_empty()) {
        let name = quoted(&each.name);
        // Whose name is no pattern is named by its id.
        let matcher = match Glob::new(&each.name).is_ok() && !each.name.contains(['*', '?']) {
            true => format!("name = {name}"),
            false => format!("# name = {name} cannot be written as a pattern\n# id {}", each.id),
        };
        let is_rule = matcher.starts_with("name") && each.deny.iter().any(|one| one.proposed);
        let mark = if is_rule { "" } else { "# " };
        let _ = writeln!(text, "\n{mark}[[rule]]");
        let _ = writeln!(text, "{mark}{}", matcher.trim_start_matches("# "));
        let _ = writeln!(text, "{mark}deny = [");
        for one in &each.deny {
            let pids: Vec<String> = one.pids.iter().map(u32::to_string).collect();
            let more = if one.processes > one.pids.len() { ", …" } else { "" };
            let count = out::counted(one.processes as u64, "process", "processes");
            let mark = if is_rule && one.proposed { "" } else { "# " };
            let _ = writeln!(
                text,
                "    # {count} (pid {}{more}), {}, idle for all of it as told by: {}{}",
                pids.join(", "),
                one.memory,
                one.by.join(", "),
                one.note.map_or(String::new(), |note| format!("; {note}")),
            );
            let _ = writeln!(text, "    {mark}{},", quoted(&one.pattern));
        }
        let _ = writeln!(text, "{mark}]");
    }
    text
}

/// A basic string of TOML: what JSON writes is one, but for DEL and what only looks like text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if crate::parse::escape(letter.to_string().as_bytes(), 64).len() > 4 => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(letter));
            }
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn proposal(whom: &Whom) -> Proposal {
        let (pattern, note) = pattern(whom);
        Proposal {
            pattern,
            processes: 2,
            pids: vec![12, 13],
            memory: Bytes::mib(7),
            by: vec!["cpu"],
            proposed: note.is_none(),
            note,
        }
    }

    fn text(name: &str, whom: &[Whom]) -> String {
        let deny = whom.iter().map(proposal).collect();
        let each = Proposals { id: "0123abcd".into(), name: name.into(), deny };
        let learned = Duration::from_secs(3600);
        drop_in(&[each], learned, "host", SystemTime::UNIX_EPOCH)
    }

    fn process(name: &[u8]) -> Whom {
        Whom::Process(name.to_vec())
    }

    /// What the configuration makes of it: the patterns of the one rule.
    fn read(text: &str) -> Vec<String> {
        let main = "[default]\npolicy = \"idle-first\"\n".to_owned();
        let files = [("nbguard.toml".into(), main), ("conf.d/d.toml".into(), text.to_owned())];
        let (config, warnings) = Config::read(&files).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(warnings.is_empty(), "{text}");
        let facts = crate::config::ContainerFacts {
            id: "0123abcd",
            name: "web",
            image: "",
            labels: &[],
            env: &[],
        };
        config.settings_for(&facts).deny.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_drop_in_is_a_configuration_that_denies_exactly_those() {
        let whom =
            [Whom::Application("pool:old shop".into()), process(b"cron"), process(b"a\"b\\c")];
        let text = text("web", &whom);
        assert_eq!(read(&text), ["app:pool:old shop", "cron", "a\"b\\c"]);
        assert!(
            text.contains(
                "# 2 processes (pid 12, 13), 7.0 MiB, idle for all of it as told by: cpu"
            )
        );
        assert!(text.contains("nbguard deny --learn 1h"), "{text}");
    }

    #[test]
    fn what_cannot_be_written_as_a_pattern_is_shown_and_not_proposed() {
        for bad in [&b"a*"[..], b"kworker/0:1", b"\xff\xfe", b"x\ny", b"\x1b[2J", b"app:"] {
            let text = text("web", &[process(bad), process(b"cron")]);
            assert_eq!(read(&text), ["cron"], "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
        let only = text("web", &[Whom::Notebook("/home/a.ipynb".into())]);
        assert_eq!(read(&only), [] as [&str; 0], "{only}");
        assert!(only.contains("app:/home/a.ipynb"), "{only}");
        assert_eq!(read(&text("a*", &[process(b"cron")])), [] as [&str; 0]);
        let nothing = drop_in(&[], Duration::from_secs(60), "host", SystemTime::UNIX_EPOCH);
        assert_eq!(read(&nothing), [] as [&str; 0]);
    }

    #[test]
    fn a_time_to_learn_has_bounds() {
        assert_eq!(learn("1h"), Ok(Duration::from_secs(3600)));
        assert!(learn("0s").is_err() && learn("8d").is_err() && learn("soon").is_err());
    }
}
