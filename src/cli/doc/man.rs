//! The manual pages, from the definition of the command line, the daemon's options and signals, the
//! keys of the configuration, the exit codes, the tables of the record and of the metrics.

use std::time::{Duration, SystemTime};

use clap::{Arg, Command, CommandFactory, ValueEnum};

use super::page::Page as Text;
use crate::cli::{Cli, daemon, exit, files};
use crate::config::keys::{self, Section};
use crate::observe::{metrics, reference};

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    Nbguardd,
    Nbguard,
    #[value(name = "nbguard.toml")]
    Config,
}

impl Page {
    pub const ALL: [Page; 3] = [Page::Nbguardd, Page::Nbguard, Page::Config];

    fn title(self) -> (&'static str, &'static str) {
        match self {
            Page::Nbguardd => ("nbguardd", "8"),
            Page::Nbguard => ("nbguard", "1"),
            Page::Config => ("nbguard.toml", "5"),
        }
    }

    pub fn file(self) -> String {
        let (name, section) = self.title();
        format!("{name}.{section}")
    }
}

pub fn text(page: Page) -> String {
    let (name, section) = page.title();
    let mut text = Text::new(name, section, &date());
    match page {
        Page::Nbguardd => of_daemon(&mut text),
        Page::Nbguard => of_command(&mut text),
        Page::Config => of_config(&mut text),
    }
    let others: Vec<String> = Page::ALL
        .iter()
        .filter(|other| **other != page)
        .map(|other| other.title())
        .map(|(name, section)| format!("`{name}`({section})"))
        .collect();
    text.section("SEE ALSO");
    text.prose(&format!(
        "{}, `journalctl`(1), `systemd-oomd.service`(8); record.md, metrics.md and http.md beside the \
         README in /usr/share/doc/nbguard",
        others.join(", ")
    ));
    text.render()
}

/// reproducible-builds.org/specs/source-date-epoch: two builds of a package are the same bytes.
fn date() -> String {
    let set = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let at = set.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
    // RFC 3339 ends at the year 9999, and so does this.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let at = at.filter(|at| *at <= end).unwrap_or_else(SystemTime::now);
    humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect()
}

// ---- nbguardd(8)

fn of_daemon(page: &mut Text) {
    page.name("nbguardd", "ends the one notebook that exhausts its container's memory");
    page.section("SYNOPSIS");
    let words: Vec<String> = daemon::OPTIONS
        .iter()
        .filter(|option| !["help", "version"].contains(&option.long))
        .map(|option| {
            let value = option.value.map_or(String::new(), |value| format!(" <{value}>"));
            format!("[--{}{value}]", option.long)
        })
        .collect();
    page.synopsis(&format!("nbguardd {}", words.join(" ")));
    page.section("DESCRIPTION");
    page.prose(
        "The daemon watches the memory of the containers of this host. When a container runs short, \
         it ends the one notebook that holds the most, with everything that this one started, before \
         the kernel's OOM killer ends the wrong one, and says why. The container, the notebook server \
         and everybody else's notebooks live on.\n\n\
         It sleeps in the kernel and polls nothing. `memory.high` of each container is its tripwire: \
         a little below the limit the kernel wakes the guard and slows the container down. It looks \
         again just before it acts, ends the whole tree through pidfds, and waits until it is dead. \
         It ends nobody when that would not help, and every way of not acting has a name.\n\n\
         systemd starts it as `nbguard.service`. `nbguard`(1) is what people type; \
         `nbguard.toml`(5) is its configuration.",
    );
    page.section("OPTIONS");
    for option in &daemon::OPTIONS {
        let short = option.short.map_or(String::new(), |short| format!("-{short}, "));
        let value = option.value.map_or(String::new(), |value| format!(" <{value}>"));
        page.item(&format!("{short}--{}{value}", option.long), &sentence(option.meaning));
    }
    page.section("SIGNALS");
    for (signal, meaning) in daemon::SIGNALS {
        page.named(signal, &sentence(meaning));
    }
    exit_status(page);
    page.section("FILES");
    for (file, meaning) in our_files() {
        page.named(&file, &sentence(meaning));
    }
    page.section("THE JOURNAL");
    page.prose("Each episode is one line in the journal, with stable keys:");
    page.example(
        "journalctl -u nbguard -g episode=\n\
         journalctl -u nbguard -g 'episode=.* kind=kill'\n\
         journalctl -u nbguard --catalog NBGUARD_KIND=kill\n\
         journalctl -o verbose NBGUARD_CONTAINER=lab",
    );
    page.prose("Its keys; those that have nothing to say are left out:");
    for (key, meaning) in reference::LINE {
        page.named(key, &sentence(meaning));
    }
    page.section("REASONS");
    page.prose("Why somebody ended (`kill`), or nobody did (`hold`):");
    for reason in &reference::REASONS {
        page.named(reason.name, &format!("`{}`: {}", reason.kind, sentence(reason.meaning)));
    }
    page.section("MODES");
    page.prose("How a container is watched, as `nbguard ps` shows it:");
    for (mode, meaning, worth) in reference::MODES {
        page.named(mode, &format!("{} {}", sentence(meaning), sentence(worth)));
    }
    page.section("THE RECORD");
    page.prose(
        "One JSON object per episode and line. Bytes are plain numbers, times are microseconds; what \
         is not known is `null`, never zero. `nbguard incidents` reads it.",
    );
    for (keys, meaning) in reference::RECORD {
        page.named(&keys.join(", "), &sentence(meaning));
    }
    page.section("METRICS");
    page.prose(
        "`GET /metrics` on the socket answers in OpenMetrics 1.0 if the request's Accept names it, \
         else in Prometheus' text format. A scrape is what costs something; between scrapes nothing \
         is done.",
    );
    for metric in metrics::METRICS {
        let labels = match metric.labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", metric.labels.join(", ")),
        };
        page.named(&format!("{}{labels}", metric.shown()), metric.help);
    }
}

/// What the daemon reads and writes where no key says otherwise.
fn our_files() -> Vec<(String, &'static str)> {
    let of = |section: Section, name: &str| {
        let key = section.keys().find(|key| key.name == name);
        key.map_or("", |key| key.default).trim_matches('"').to_owned()
    };
    let beside = files::DEFAULT.replace("nbguard.toml", "conf.d/*.toml");
    let state = of(Section::Guard, "state_dir");
    vec![
        (files::DEFAULT.to_owned(), "the configuration; every key is in it at its default"),
        (beside, "read after it, in the order of their names"),
        (of(Section::Record, "path"), "the record: one JSON object per episode"),
        (format!("{state}/state.json"), "what was changed, so that it can be put back"),
        (format!("{state}/orders.json"), "pauses and protections by command"),
        (
            format!("{state}/control.sock"),
            "where `nbguard pause` and `nbguard protect` go; of root alone",
        ),
        (
            of(Section::Http, "socket"),
            "metrics, the status page and the figures as JSON; of root alone",
        ),
        (
            of(Section::Http, "notebook_socket"),
            "the same for a container that this folder is mounted into: of itself alone",
        ),
    ]
}

// ---- nbguard(1)

fn of_command(page: &mut Text) {
    let mut full = Cli::command();
    full.build();
    let public: Vec<Command> =
        full.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    page.name("nbguard", "sees, asks and commands the guard of this host's notebooks");
    page.section("SYNOPSIS");
    // `help` is made by clap.
    for command in public.iter().filter(|command| command.get_name() != "help") {
        page.synopsis(&usage(command));
    }
    page.section("DESCRIPTION");
    page.prose(&sentence(&full.get_about().map(ToString::to_string).unwrap_or_default()));
    page.prose(
        "The daemon `nbguardd`(8) does that; this command shows what it sees, says what happened and \
         why, and tells it whom to leave alone. All but `pause`, `resume`, `protect` and `unprotect` \
         work without the daemon as well.",
    );
    let (examples, _) = examples(&full);
    page.example(&examples);
    page.section("OPTIONS");
    page.prose("All commands take these:");
    for arg in full.get_arguments() {
        option(page, arg);
    }
    page.section("COMMANDS");
    for command in public.iter().filter(|command| command.get_name() != "help") {
        one_command(page, command, &full);
    }
    exit_status(page);
    page.section("ENVIRONMENT");
    page.named("NO_COLOR", "Nothing is coloured. What colour says is written as well.");
}

fn one_command(page: &mut Text, command: &Command, full: &Command) {
    page.subsection(&format!("nbguard {}", command.get_name()));
    page.prose(&sentence(&command.get_about().map(ToString::to_string).unwrap_or_default()));
    page.synopsis_below(&usage(command));
    let own = |arg: &&Arg| {
        let global = full.get_arguments().any(|known| known.get_id() == arg.get_id());
        !global && !arg.is_hide_set()
    };
    for arg in command.get_arguments().filter(own) {
        option(page, arg);
    }
    let (examples, rest) = examples(command);
    page.prose("Examples:");
    page.example(&examples);
    page.prose(&rest);
}

/// As clap writes it, without its first word, in one line.
fn usage(command: &Command) -> String {
    let text = command.clone().render_usage().to_string();
    let words: Vec<&str> = text.split_whitespace().skip(1).collect();
    words.join(" ")
}

fn option(page: &mut Text, arg: &Arg) {
    let short = arg.get_short().filter(|_| !arg.is_positional());
    let short = short.map_or(String::new(), |short| format!("-{short}, "));
    let mut meaning = sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    if !arg.get_action().takes_values() {
        page.item(&format!("{short}{arg}"), &meaning);
        return;
    }
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        meaning += &format!(" One of {}.", values.join(", "));
    }
    for default in arg.get_default_values() {
        meaning += &format!(" Default: `{}`.", default.to_string_lossy());
    }
    page.item(&format!("{short}{arg}"), meaning.trim());
}

/// What stands below `Examples:` in the help of a command, and what follows it.
fn examples(command: &Command) -> (String, String) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut blocks = help.splitn(2, "\n\n");
    let first = blocks.next().unwrap_or_default();
    let lines: Vec<&str> = first.lines().skip(1).map(str::trim).collect();
    (lines.join("\n"), blocks.next().unwrap_or_default().to_owned())
}

fn exit_status(page: &mut Text) {
    page.section("EXIT STATUS");
    for (code, meaning) in exit::TABLE {
        page.named(&code.code().to_string(), &sentence(meaning));
    }
}

// ---- nbguard.toml(5)

const EXAMPLE: &str = "\
[default]
threshold = \"85%\"

[[rule]]
image = \"*/datascience-notebook:*\"
policy = \"growing\"

[[rule]]
name = \"teaching-*\"
notebook_max = \"4G\"
scope = \"user\"
";

fn of_config(page: &mut Text) {
    page.name("nbguard.toml", "configuration of nbguardd");
    page.section("SYNOPSIS");
    page.named(files::DEFAULT, "and the files in conf.d/*.toml beside it.");
    page.section("DESCRIPTION");
    page.prose("TOML. Every key has a default, so that the file may be empty or missing.");
    // Its first paragraph is about the shipped file.
    for paragraph in keys::head().split("\n\n").skip(1) {
        let is_list = paragraph.lines().all(|line| line.contains(":  ") || line.contains(": \""));
        match is_list {
            true => paragraph
                .lines()
                .filter_map(|line| line.split_once(':'))
                .for_each(|(name, meaning)| page.named(name, meaning.trim())),
            false => page.prose(paragraph),
        }
    }
    for section in Section::ALL {
        page.section(&section.header());
        page.prose(section.doc());
        for key in section.keys().filter(|key| key.section() == section) {
            page.named(key.name, &format!("{} Takes {}.", key.doc, key.kind.range()));
            let is = if section == Section::Rule { "Example" } else { "Default" };
            match key.default.contains('\n') {
                false => page.more(&format!("{is}: `{}`.", key.default)),
                true => {
                    page.more(&format!("{is}:"));
                    page.example_inside(key.default);
                }
            }
        }
    }
    page.section("EXAMPLES");
    page.example(EXAMPLE);
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut text = text.trim().to_owned();
    let first = text.chars().next().unwrap_or(' ');
    // A name such as `php.ini`, or what follows a semicolon, stays as it is.
    if first.is_lowercase() && first.is_ascii() {
        text.replace_range(..1, &first.to_uppercase().to_string());
    }
    if !text.is_empty() && !text.ends_with(['.', ':', '!', '?']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is read: without escapes.
    fn plain(page: Page) -> String {
        let text = text(page).replace("\\-", "-").replace("\\*(Aq", "'").replace("\\&", "");
        text.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
    }

    #[test]
    fn every_option_signal_metric_and_reason_is_in_the_manual_of_the_daemon() {
        let text = plain(Page::Nbguardd);
        for option in &daemon::OPTIONS {
            assert!(text.contains(&format!("--{}", option.long)), "{}", option.long);
        }
        let words = daemon::SIGNALS.iter().map(|(signal, _)| *signal);
        let words = words.chain(reference::REASONS.iter().map(|reason| reason.name));
        for word in words.chain(metrics::METRICS.iter().map(|metric| metric.name)) {
            assert!(text.contains(word), "{word}");
        }
        for (file, _) in our_files() {
            assert!(file.starts_with('/') && text.contains(&file), "{file:?}");
        }
        assert!(!text.contains("only-cgroup"));
    }

    #[test]
    fn every_public_command_is_in_the_manual_with_its_options_and_no_hidden_one() {
        let text = plain(Page::Nbguard);
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let told = text.contains(&format!(".SS \"nbguard {name}\"\n"));
            assert_eq!(told, !command.is_hide_set(), "{name}");
            for option in command.get_opts().filter(|_| told) {
                let long = format!("--{}", option.get_long().unwrap_or_default());
                assert_eq!(text.contains(&long), !option.is_hide_set(), "{name} {long}");
            }
        }
        for (_, meaning) in exit::TABLE {
            let words: Vec<&str> = meaning.split_whitespace().skip(1).take(3).collect();
            assert!(text.contains(&words.join(" ")), "{meaning}");
        }
    }

    #[test]
    fn every_key_is_in_the_manual_of_the_configuration() {
        let text = plain(Page::Config);
        for key in keys::KEYS {
            assert!(text.contains(&format!(".TP\n{}\n", key.name)), "{}", key.name);
            assert!(
                text.contains(
                    key.default
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .split(' ')
                        .next()
                        .unwrap_or_default()
                ),
                "{}",
                key.name
            );
        }
        for section in Section::ALL {
            assert!(text.contains(&format!(".SH {}\n", section.header())), "{section:?}");
        }
        let file = ("example".into(), EXAMPLE.to_owned());
        assert!(crate::config::Config::read(&[file]).is_ok());
    }
}
