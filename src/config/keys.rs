//! Every key of the configuration, once: name, what it takes, default, reason, and where the
//! value goes. The reader, the nearest-key hints, `conf/nbguard.toml` and the manual are views of
//! this table. Pure.

use std::time::Duration;

use super::glob::Glob;
use super::rules::{Changes, Matches};
use super::settings::{
    GuardSettings, HookSettings, HostSettings, HttpSettings, MessageSettings, Protect,
    RecordSettings,
};
use super::value::{Item, Kind, Outcome, names, put};
use super::{Clear, Gate, Policy, Resource, Scope};
use crate::units::{Bytes, Share};

/// One key.
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// The default as it stands in the file; for what a rule matches, which has none, an example.
    pub default: &'static str,
    /// What it does and why the default is what it is.
    pub doc: &'static str,
    pub(super) set: Set,
}

/// Where a value goes, and by which reader. The variant says the section.
#[derive(Clone, Copy)]
pub(super) enum Set {
    Guard(fn(&mut GuardSettings, Item) -> Outcome<()>),
    Host(fn(&mut HostSettings, Item) -> Outcome<()>),
    Record(fn(&mut RecordSettings, Item) -> Outcome<()>),
    Protect(fn(&mut Protect, Item) -> Outcome<()>),
    Message(fn(&mut MessageSettings, Item) -> Outcome<()>),
    Http(fn(&mut HttpSettings, Item) -> Outcome<()>),
    Hook(fn(&mut HookSettings, Item) -> Outcome<()>),
    Default(fn(&mut Changes, Item) -> Outcome<()>),
    Rule(fn(&mut Matches, Item) -> Outcome<()>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Section {
    Guard,
    Host,
    Record,
    Protect,
    Message,
    Http,
    Hook,
    Default,
    /// `[[rule]]`: takes the keys of `[default]` too.
    Rule,
}

impl Section {
    pub const ALL: [Section; 9] = [
        Section::Guard,
        Section::Host,
        Section::Record,
        Section::Protect,
        Section::Message,
        Section::Http,
        Section::Hook,
        Section::Default,
        Section::Rule,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Section::Guard => "guard",
            Section::Host => "host",
            Section::Record => "record",
            Section::Protect => "protect",
            Section::Message => "message",
            Section::Http => "http",
            Section::Hook => "hook",
            Section::Default => "default",
            Section::Rule => "rule",
        }
    }

    /// As it stands above its keys.
    pub fn header(self) -> String {
        match self {
            Section::Rule => "[[rule]]".to_owned(),
            _ => format!("[{}]", self.name()),
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Section::Guard => "The daemon itself.",
            Section::Host => {
                "Containers without a memory limit. Their total is the host's memory, and they \
                 share it."
            }
            Section::Record => "The file of incidents: one JSON object per line and episode.",
            Section::Protect => {
                "What is never ended, whatever a rule says. Protected workloads are still \
                 watched, shown and reported."
            }
            Section::Message => {
                "What a notebook is told, in the output of its running cell, in any language. \
                 {notebook} (its path), {container}, {memory} (what it holds), {usage} (of all, \
                 without what can be reclaimed), {total}, {share} (usage of total), {warning} and \
                 {threshold} stand for the figures of that moment, {running} for \"while running \
                 `merge` in cell 7\", where its frames say so, else for nothing; {{ is a brace. An \
                 empty text says nothing."
            }
            Section::Http => {
                "Metrics, the status page and the figures as JSON. Read-only, and answered by the \
                 daemon's own loop; nobody asks, nothing is done."
            }
            Section::Hook => {
                "A program that is started after each incident, with the record (JSON) on its \
                 standard input. Never waited for by the guard."
            }
            Section::Default => {
                "How a container is guarded when no rule says otherwise. The total below is the \
                 container's memory limit; without one, the host's memory."
            }
            Section::Rule => {
                "Settings for some containers: any key of [default], for the containers that \
                 match. Each matcher that is given must match, by any of its patterns; * stands \
                 for any text (slashes too) and ? for one character. All rules that match are \
                 applied in order, so a later one wins key by key."
            }
        }
    }

    /// Whether a key may stand in this section.
    pub fn takes(self, key: &Key) -> bool {
        key.section() == self || (self == Section::Rule && key.section() == Section::Default)
    }

    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| self.takes(key))
    }
}

impl Key {
    /// The section it is documented in.
    pub fn section(&self) -> Section {
        match self.set {
            Set::Guard(_) => Section::Guard,
            Set::Host(_) => Section::Host,
            Set::Record(_) => Section::Record,
            Set::Protect(_) => Section::Protect,
            Set::Message(_) => Section::Message,
            Set::Http(_) => Section::Http,
            Set::Hook(_) => Section::Hook,
            Set::Default(_) => Section::Default,
            Set::Rule(_) => Section::Rule,
        }
    }
}

/// A line of a message: one write to a pipe of at most PIPE_BUF (pipe(7)) with its figures.
const MESSAGE_MAX: usize = 2048;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub static KEYS: &[Key] = &[
    Key {
        name: "log",
        kind: Kind::Word(names::<log::LevelFilter>),
        default: "\"info\"",
        doc: "How much the daemon tells the journal; \"debug\" adds why something was not done.",
        set: Set::Guard(|guard, item| put(&mut guard.log, item.word())),
    },
    Key {
        name: "lock_memory",
        kind: Kind::Bool,
        default: "true",
        doc: "Keep the daemon's memory out of swap and reclaim (mlockall): it must act when there \
              is no memory left, and cannot wait for its own code to be read from disk.",
        set: Set::Guard(|guard, item| put(&mut guard.lock_memory, item.boolean())),
    },
    Key {
        name: "docker_root",
        kind: Kind::PathOr("auto"),
        default: "\"auto\"",
        doc: "Docker's data directory, for names, images and labels of containers. \"auto\" asks \
              /etc/docker/daemon.json, else takes /var/lib/docker.",
        set: Set::Guard(|guard, item| put(&mut guard.docker_root, item.path_or())),
    },
    Key {
        name: "docker_socket",
        kind: Kind::PathOr("off"),
        default: "\"/run/docker.sock\"",
        doc: "Where Docker is asked about a container whose files cannot be read.",
        set: Set::Guard(|guard, item| put(&mut guard.docker_socket, item.path_or())),
    },
    Key {
        name: "state_dir",
        kind: Kind::Path,
        default: "\"/run/nbguard\"",
        doc: "Where the values of memory.high that were found are kept, so that a restarted \
              daemon or `nbguard restore` can put them back. It must survive a restart of the \
              daemon, but not of the host.",
        set: Set::Guard(|guard, item| put(&mut guard.state_dir, item.path())),
    },
    Key {
        name: "skip_cgroups",
        kind: Kind::Globs,
        default: "[]",
        doc: "Cgroups that are never looked at, by their path below /sys/fs/cgroup, for example \
              \"kubepods.slice/*\". A pattern without a slash also matches the last part alone.",
        set: Set::Guard(|guard, item| {
            put(&mut guard.skip_cgroups, item.globs().map(Glob::all_relative))
        }),
    },
    Key {
        name: "ignore_label",
        kind: Kind::NameOrOff,
        default: "\"nbguard.ignore\"",
        doc: "A container with this label set to \"true\" is not watched. Labels are set by \
              whoever starts a container: \"off\" leaves that to the rules.",
        set: Set::Guard(|guard, item| put(&mut guard.ignore_label, item.name_or_off())),
    },
    Key {
        name: "threshold",
        kind: Kind::Share(Share::percent(10), Share::percent(99)),
        default: "\"90%\"",
        doc: "The share of the host's memory that may be in use. The rest is the reserve that is \
              never granted to a container.",
        set: Set::Host(|host, item| put(&mut host.threshold, item.share())),
    },
    Key {
        name: "stepping",
        kind: Kind::Bool,
        default: "true",
        doc: "Give each container without a limit a tripwire above its usage that is moved up as \
              it grows. Without it only /proc/pressure/memory remains, which has been seen to \
              tell too late or never.",
        set: Set::Host(|host, item| put(&mut host.stepping, item.boolean())),
    },
    Key {
        name: "smallest_step",
        kind: Kind::Share(Share(10), Share::percent(10)),
        default: "\"1%\"",
        doc: "A share of the host's memory. When less than this is left to grant, an episode \
              opens instead. Larger steps mean fewer wake-ups and an earlier episode.",
        set: Set::Host(|host, item| put(&mut host.smallest_step, item.share())),
    },
    Key {
        name: "trigger",
        kind: Kind::Trigger,
        default: "\"some 150ms/1s\"",
        doc: "The PSI trigger on /proc/pressure/memory, for what grows outside the containers: \
              wakes the guard when tasks were stalled on memory for so long within a window.",
        set: Set::Host(|host, item| put(&mut host.trigger, item.trigger())),
    },
    Key {
        name: "path",
        kind: Kind::Path,
        default: "\"/var/lib/nbguard/incidents.jsonl\"",
        doc: "The file. Rotated ones are beside it, as incidents.jsonl.1 and so on.",
        set: Set::Record(|record, item| put(&mut record.path, item.path())),
    },
    Key {
        name: "max_size",
        kind: Kind::Size(Bytes::kib(64), Bytes::gib(1)),
        default: "\"16M\"",
        doc: "The file is rotated before it grows over this.",
        set: Set::Record(|record, item| put(&mut record.max_size, item.size())),
    },
    Key {
        name: "keep",
        kind: Kind::Count(0, 100),
        default: "4",
        doc: "How many rotated files are kept.",
        set: Set::Record(|record, item| put(&mut record.keep, item.count())),
    },
    Key {
        name: "containers",
        kind: Kind::Globs,
        default: "[]",
        doc: "Containers, by name or id, in which nothing is ever ended.",
        set: Set::Protect(|protect, item| put(&mut protect.containers, item.globs())),
    },
    Key {
        name: "notebooks",
        kind: Kind::Globs,
        default: "[]",
        doc: "Notebooks that are never ended, by path or kernel id. A pattern without a slash \
              also matches the file's name alone.",
        set: Set::Protect(|protect, item| put(&mut protect.notebooks, item.globs())),
    },
    Key {
        name: "users",
        kind: Kind::Uids,
        default: "[]",
        doc: "Users whose notebooks are never ended.",
        set: Set::Protect(|protect, item| put(&mut protect.users, item.uids())),
    },
    Key {
        name: "label",
        kind: Kind::NameOrOff,
        default: "\"nbguard.protect\"",
        doc: "A label by which a container asks for protection: \"true\" for all of it, else \
              patterns of notebooks with commas between them. \"off\" does not listen to labels.",
        set: Set::Protect(|protect, item| put(&mut protect.label, item.name_or_off())),
    },
    Key {
        name: "env",
        kind: Kind::NameOrOff,
        default: "\"NBGUARD_PROTECT\"",
        doc: "The same by an environment variable of the container.",
        set: Set::Protect(|protect, item| put(&mut protect.env, item.name_or_off())),
    },
    Key {
        name: "warning",
        kind: Kind::Text(MESSAGE_MAX),
        default: r#""""\
nbguard: memory is running out: container {container} uses {usage} of its {total} \
({share}). This notebook holds the most, {memory} {running}. At {threshold} its kernel \
will be ended, so that the others can go on. Save your results now and free memory: del \
what is no longer needed, or restart this kernel.""""#,
        doc: "At the warning step, to the notebook that holds the most: nothing has happened yet.",
        set: Set::Message(|message, item| put(&mut message.warning, item.free_text())),
    },
    Key {
        name: "last_call",
        kind: Kind::Text(MESSAGE_MAX),
        default: r#""""\
nbguard: almost no memory is left: container {container} uses {usage} of its {total} \
({share}). This notebook holds the most, {memory} {running}, so its kernel is the one \
that is ended at {threshold}, which may be in a moment. If the kernel has died after \
this line, this is why: its variables are gone, the notebook's file and the other \
notebooks are not. To use less, work in smaller chunks, del what is done with, or ask \
for a larger limit.""""#,
        doc: "At the step between warning and threshold, to the notebook that would end: written \
              while it can still be shown, so it stands in the notebook as the reason afterwards.",
        set: Set::Message(|message, item| put(&mut message.last_call, item.free_text())),
    },
    Key {
        name: "ended",
        kind: Kind::Text(MESSAGE_MAX),
        default: r#""""\
nbguard: the kernel of {notebook} was ended: container {container} was out of memory \
({usage} of {total}), and this notebook held the most, {memory} {running}. Its variables \
are gone, its file and the other notebooks are not.""""#,
        doc: "After the signal, where somebody else than the notebook itself reads its standard \
              error: the container's log.",
        set: Set::Message(|message, item| put(&mut message.ended, item.free_text())),
    },
    Key {
        name: "socket",
        kind: Kind::PathOr("off"),
        default: "\"/run/nbguard/http.sock\"",
        doc: "The Unix socket of the host's administrator: all containers, root only.",
        set: Set::Http(|http, item| put(&mut http.socket, item.path_or())),
    },
    Key {
        name: "notebook_socket",
        kind: Kind::PathOr("off"),
        default: "\"/run/nbguard/notebook/nbguard.sock\"",
        doc: "The Unix socket whose folder is mounted into containers, read-only: whoever asks \
              there sees the container it asks from, and no other.",
        set: Set::Http(|http, item| put(&mut http.notebook_socket, item.path_or())),
    },
    Key {
        name: "listen",
        kind: Kind::AddressOrOff,
        default: "\"off\"",
        doc: "Where to listen on TCP, such as \"127.0.0.1:9843\". Beyond loopback there must be a \
              `token_file`.",
        set: Set::Http(|http, item| put(&mut http.listen, item.address_or_off())),
    },
    Key {
        name: "hosts",
        kind: Kind::Globs,
        default: "[]",
        doc: "Names by which a browser may ask on TCP (the Host header), beside localhost and \
              the address itself.",
        set: Set::Http(|http, item| put(&mut http.hosts, item.globs())),
    },
    Key {
        name: "token_file",
        kind: Kind::PathOr("off"),
        default: "\"off\"",
        doc: "A file with a bearer token of 16 to 512 characters that every request on TCP must \
              show. Others may not read it; it is read at the start and at each reload.",
        set: Set::Http(|http, item| put(&mut http.token_file, item.path_or())),
    },
    Key {
        name: "command",
        kind: Kind::Command,
        default: "[]",
        doc: "The program and its arguments; no shell. Without one there is no hook.",
        set: Set::Hook(|hook, item| put(&mut hook.command, item.command())),
    },
    Key {
        name: "on",
        kind: Kind::Kinds,
        default: "[\"kill\", \"kernel-oom\"]",
        doc: "For which incidents.",
        set: Set::Hook(|hook, item| put(&mut hook.on, item.kinds())),
    },
    Key {
        name: "timeout",
        kind: Kind::Duration(Duration::from_millis(100), seconds(300)),
        default: "\"10s\"",
        doc: "How long it may run before it is ended, with its children.",
        set: Set::Hook(|hook, item| put(&mut hook.timeout, item.duration())),
    },
    Key {
        name: "name",
        kind: Kind::Globs,
        default: "\"jupyter-*\"",
        doc: "Name of the container.",
        set: Set::Rule(|matches, item| put(&mut matches.name, item.globs())),
    },
    Key {
        name: "image",
        kind: Kind::Globs,
        default: "[\"quay.io/jupyter/*\", \"*/datascience-notebook:*\"]",
        doc: "Image it was started from, as it was named then.",
        set: Set::Rule(|matches, item| put(&mut matches.image, item.globs())),
    },
    Key {
        name: "label",
        kind: Kind::LabelGlobs,
        default: "\"tier=prod*\"",
        doc: "A label and its value; the key alone asks that the label is there.",
        set: Set::Rule(|matches, item| put(&mut matches.label, item.label_globs())),
    },
    Key {
        name: "warning",
        kind: Kind::Share(Share::percent(5), Share::percent(98)),
        default: "\"80%\"",
        doc: "The first step of the tripwire (memory.high), a share of the total, below \
              `threshold`. Crossing it throttles nobody: the guard looks once, reads who is who, \
              and warns the notebook that holds the most.",
        set: Set::Default(|changes, item| some(&mut changes.warning, item.share())),
    },
    Key {
        name: "last_call",
        kind: Kind::ShareOrOff(Share::percent(5), Share::percent(98)),
        default: "\"85%\"",
        doc: "A step between `warning` and `threshold`: who would end is told so once more. The \
              text takes some 0.3 s to be shown, and from 3% below the threshold on a notebook may \
              end at once, so keep some distance. Where the other two leave no room for it, it \
              moves between them. Without messages there is no such step.",
        set: Set::Default(|changes, item| some(&mut changes.last_call, item.share_or_off())),
    },
    Key {
        name: "threshold",
        kind: Kind::Share(Share::percent(10), Share::percent(99)),
        default: "\"90%\"",
        doc: "The second step, a share of the total: crossing it opens an episode, in which a \
              notebook may end. The room above it is the time the guard has before the kernel's \
              OOM killer acts.",
        set: Set::Default(|changes, item| some(&mut changes.threshold, item.share())),
    },
    Key {
        name: "trigger",
        kind: Kind::Trigger,
        default: "\"some 150ms/1s\"",
        doc: "The second witness, a PSI trigger on the container's memory.pressure: wakes the \
              guard when tasks were stalled on memory for so long within a window. Without \
              CAP_SYS_RESOURCE the window is scaled to a multiple of 2 s.",
        set: Set::Default(|changes, item| some(&mut changes.trigger, item.trigger())),
    },
    Key {
        name: "tripwire",
        kind: Kind::Bool,
        default: "true",
        doc: "Set memory.high. Without it only the PSI trigger remains, and a container at its \
              limit is out of memory 20 to 210 ms later, before PSI speaks.",
        set: Set::Default(|changes, item| some(&mut changes.tripwire, item.boolean())),
    },
    Key {
        name: "policy",
        kind: Kind::Word(names::<Policy>),
        default: "\"largest\"",
        doc: "Who ends: the workload that holds the most, the one that grew the most since the \
              warning, or (\"idle-first\") whoever is not essential, so that the important \
              application goes on: see `resource`, `ratio`, `idle_for`, `clear`, `important`, \
              `deny` and `allow`, which count under it alone.",
        set: Set::Default(|changes, item| some(&mut changes.policy, item.word())),
    },
    Key {
        name: "resource",
        kind: Kind::Word(names::<Resource>),
        default: "\"memory\"",
        doc: "What `ratio` is a share of: \"memory\", the container's total; \"cpu\", the CPU \
              time that all processes of the container used between two looks.",
        set: Set::Default(|changes, item| some(&mut changes.resource, item.word())),
    },
    Key {
        name: "ratio",
        kind: Kind::Share(Share::percent(2), Share::ONE),
        default: "\"2%\"",
        doc: "An application (a php-fpm pool, a PHP script, mod_php, a notebook) with a larger \
              share than this is the important one; at exactly this it is not. Where several are, \
              those that `important` names, else the largest that `deny` does not name. Where none \
              is, nobody ends.",
        set: Set::Default(|changes, item| some(&mut changes.ratio, item.share())),
    },
    Key {
        name: "idle_for",
        kind: Kind::Duration(seconds(1), seconds(86_400)),
        default: "\"60s\"",
        doc: "Whoever has called no function for at least so long is not essential. What nobody \
              knows is never taken for idle.",
        set: Set::Default(|changes, item| some(&mut changes.idle_for, item.duration())),
    },
    Key {
        name: "clear",
        kind: Kind::Word(names::<Clear>),
        default: "\"enough\"",
        doc: "How many of those that are not essential end: as many as it takes to fall below the \
              threshold, looked at again after each; or all of them. At most 32 within a minute.",
        set: Set::Default(|changes, item| some(&mut changes.clear, item.word())),
    },
    Key {
        name: "important",
        kind: Kind::Globs,
        default: "[]",
        doc: "Applications that lose only idle workers, and those last: \"pool:www\", \
              \"script:/srv/app/*\", \"apache\", or a notebook's path. A pattern without a slash \
              also matches the file's name alone.",
        set: Set::Default(|changes, item| some(&mut changes.important, item.globs())),
    },
    Key {
        name: "deny",
        kind: Kind::NameGlobs,
        default: "[]",
        doc: "What is not essential, idle or not, and goes first: processes by name (as `ps -o \
              comm` shows it), applications as \"app:pool:batch\". A process that belongs to \
              nothing else becomes a workload by this, with its children; never the container's \
              first process, a server, a master, or what runs containers.",
        set: Set::Default(|changes, item| some(&mut changes.deny, item.name_globs())),
    },
    Key {
        name: "allow",
        kind: Kind::NameGlobs,
        default: "[]",
        doc: "What is essential, in the same form: never ended under \"idle-first\", whatever \
              `deny` says and however long it is idle.",
        set: Set::Default(|changes, item| some(&mut changes.allow, item.name_globs())),
    },
    Key {
        name: "gate",
        kind: Kind::Word(names::<Gate>),
        default: "\"usage\"",
        doc: "What is compared with the threshold: all memory that cannot be reclaimed, or the \
              sum over the notebooks against their part of the total. \"notebooks\" makes \
              `min_share` 0 unless the same or a later place sets it.",
        set: Set::Default(|changes, item| some(&mut changes.gate, item.word::<Gate>())),
    },
    Key {
        name: "min_share",
        kind: Kind::Share(Share::ZERO, Share::ONE),
        default: "\"10%\"",
        doc: "A workload that holds less than this share of the total only ends if that alone \
              suffices: nobody loses work for a problem that stays.",
        set: Set::Default(|changes, item| some(&mut changes.min_share, item.share())),
    },
    Key {
        name: "notebook_max",
        kind: Kind::AmountOrOff,
        default: "\"off\"",
        doc: "End the largest notebook above this even if the container as a whole is below its \
              threshold. A share is one of the total. Judged when something wakes the guard, \
              not by a clock.",
        set: Set::Default(|changes, item| some(&mut changes.notebook_max, item.amount_or_off())),
    },
    Key {
        name: "scope",
        kind: Kind::Word(names::<Scope>),
        default: "\"container\"",
        doc: "Among whom the victim is sought: everybody in the container, or only the notebooks \
              of the user who presses (several users on one server).",
        set: Set::Default(|changes, item| some(&mut changes.scope, item.word())),
    },
    Key {
        name: "signals",
        kind: Kind::Signals,
        default: "[\"KILL\"]",
        doc: "Signals in order; the next one is sent only if the pressure remains after `grace`. \
              INT and TERM can be caught, and INT was seen to free nothing in 6 of 8 workloads.",
        set: Set::Default(|changes, item| some(&mut changes.signals, item.signals())),
    },
    Key {
        name: "grace",
        kind: Kind::Duration(Duration::from_millis(100), seconds(300)),
        default: "\"5s\"",
        doc: "How long each signal but the last is given. The container stays throttled \
              meanwhile.",
        set: Set::Default(|changes, item| some(&mut changes.grace, item.duration())),
    },
    Key {
        name: "backoff",
        kind: Kind::Duration(Duration::ZERO, seconds(3600)),
        default: "\"15s\"",
        doc: "After a notebook was ended: how long until the same one may be ended again \
              (Jupyter restarts a dead kernel at once). Doubled each time.",
        set: Set::Default(|changes, item| some(&mut changes.backoff, item.duration())),
    },
    Key {
        name: "backoff_max",
        kind: Kind::Duration(Duration::ZERO, seconds(86_400)),
        default: "\"5m\"",
        doc: "Where that doubling stops; not below `backoff`.",
        set: Set::Default(|changes, item| some(&mut changes.backoff_max, item.duration())),
    },
    Key {
        name: "message",
        kind: Kind::Bool,
        default: "true",
        doc: "Tell notebooks when memory runs short, as [message] says.",
        set: Set::Default(|changes, item| some(&mut changes.message, item.boolean())),
    },
    Key {
        name: "dry_run",
        kind: Kind::Bool,
        default: "false",
        doc: "Watch by PSI alone, decide and report, but touch nothing: no memory.high, no \
              signal.",
        set: Set::Default(|changes, item| some(&mut changes.dry_run, item.boolean())),
    },
    Key {
        name: "protect",
        kind: Kind::Bool,
        default: "false",
        doc: "Watch and report, but never end anything in the container.",
        set: Set::Default(|changes, item| some(&mut changes.protect, item.boolean())),
    },
    Key {
        name: "ignore",
        kind: Kind::Bool,
        default: "false",
        doc: "Do not watch the container at all.",
        set: Set::Default(|changes, item| some(&mut changes.ignore, item.boolean())),
    },
];

fn some<T>(place: &mut Option<T>, value: Outcome<T>) -> Outcome<()> {
    put(place, value.map(Some))
}

const HEAD: &str = "\
# Configuration of nbguard. Every key is here at its default, commented out: what begins with
# `#` and a space is text, what begins with `#` alone is a key.
#
# Files in conf.d/*.toml beside this one are read after it, in the order of their names; a later
# file wins key by key (a list is replaced as a whole), and its rules follow the earlier ones.
#
# Sizes:     \"512M\" is 512 MiB, as Docker reads it (K, M, G, T; KiB, MiB … are the same).
# Shares:    \"90%\" or 0.9.
# Durations: \"150ms\", \"5s\", \"1m30s\".
#
# `nbguard check` tells every mistake in these files. `systemctl reload nbguard` applies them; if
# something is wrong, the configuration that was in use stays in use.
";

/// Widest line of the reference.
const WIDTH: usize = 98;

/// What holds for all keys, without the marks of a comment.
pub fn head() -> String {
    let lines = HEAD.lines().map(|line| line.trim_start_matches('#').trim_start());
    lines.collect::<Vec<_>>().join("\n")
}

/// The text of `conf/nbguard.toml`.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in Section::ALL {
        text += "\n";
        wrap(&mut text, section.doc());
        if section == Section::Rule {
            rule_example(&mut text);
            continue;
        }
        text += &section.header();
        text += "\n";
        for key in section.keys() {
            text += "\n";
            wrap(&mut text, key.doc);
            wrap(&mut text, &format!("Takes {}.", key.kind.range()));
            text += &format!("#{} = {}\n", key.name, key.default.replace('\n', "\n#"));
        }
    }
    text
}

/// A rule has no defaults, so it is all text.
fn rule_example(text: &mut String) {
    let matchers = || KEYS.iter().filter(|key| key.section() == Section::Rule);
    *text += "#\n";
    for key in matchers() {
        wrap(text, &format!("`{}`: {} Takes {}.", key.name, key.doc, key.kind.range()));
    }
    *text += "#\n# [[rule]]\n";
    for key in matchers() {
        *text += &format!("# {} = {}\n", key.name, key.default);
    }
    *text += "# threshold = \"85%\"\n# warning = \"75%\"\n";
}

fn wrap(text: &mut String, prose: &str) {
    let mut width = 0;
    for word in prose.split_whitespace() {
        let len = word.chars().count();
        if width == 0 || width + 1 + len > WIDTH {
            *text += if width == 0 { "#" } else { "\n#" };
            width = 1;
        }
        *text += " ";
        *text += word;
        width += 1 + len;
    }
    *text += "\n";
}

/// The reference with every key at its default in force.
#[cfg(test)]
pub(super) fn uncommented() -> String {
    let key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    reference()
        .lines()
        .map(|line| format!("{}\n", if key(line) { &line[1..] } else { line }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use std::path::PathBuf;

    fn read(text: String) -> Config {
        let files = [(PathBuf::from("reference"), text)];
        let (config, warnings) = Config::read(&files).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(warnings, []);
        config
    }

    #[test]
    fn the_shipped_file_is_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/nbguard.toml");
        let shipped = std::fs::read_to_string(path).unwrap();
        assert!(shipped == reference(), "write it anew: nbguard doc config > conf/nbguard.toml");
    }

    #[test]
    fn the_reference_uncommented_is_the_default() {
        let text = uncommented();
        for key in KEYS.iter().filter(|key| key.section() != Section::Rule) {
            let line = format!("\n{} = {}\n", key.name, key.default);
            assert!(text.contains(&line), "{} is missing", key.name);
        }
        assert_eq!(read(text), Config::default());
        assert_eq!(read(reference()), Config::default());
    }

    #[test]
    fn the_rule_of_the_reference_can_be_used() {
        let text = reference();
        let start = text.find("# [[rule]]\n").unwrap();
        let rule: String = text[start..].lines().map(|line| format!("{}\n", &line[2..])).collect();
        let config = read(rule);
        assert_eq!((config.rules.len(), config.rules[0].matches.is_empty()), (1, false));
    }

    #[test]
    fn every_setting_has_a_key_and_every_key_of_default_sets_one() {
        let text: String = Section::Default
            .keys()
            .map(|key| format!("{} = {}\n", key.name, key.default))
            .collect();
        let config = read(format!("[[rule]]\nname = \"*\"\n{text}"));
        assert_eq!(config.rules[0].changes, Changes::from(Settings::default()));
    }

    #[test]
    fn no_key_stands_twice_and_each_says_why() {
        for section in Section::ALL {
            let mut names: Vec<_> = section.keys().map(|key| key.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{section:?}");
        }
        for key in KEYS {
            assert!(key.doc.ends_with('.') && key.doc.len() > 15, "{}", key.name);
        }
    }

    #[test]
    fn no_line_of_the_reference_is_too_wide() {
        for line in reference().lines() {
            assert!(line.chars().count() <= WIDTH + 1, "{line}");
            assert_eq!(line.trim_end(), line);
        }
    }
}
