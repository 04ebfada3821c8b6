//! Reads configuration files: all of them, all that is wrong with them, in one run.
//! The tree comes from `toml` with the place of every value; it is walked along the table of keys.
//! Pure: texts in.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Errors, Fault, Severity, Source, Warning};
use super::keys::{KEYS, Key, Section, Set};
use super::nearest::nearest;
use super::quantity::clip;
use super::rules::{Changes, Matches, Overlay, Rule};
use super::value::{Item, Outcome};
use super::{Config, Settings, check, syntax};

/// More mistakes in one file than anybody reads. What comes after is not told.
const ERRORS_MAX: usize = 200;

/// More rules than anybody writes by hand; each is compared with every new container.
const RULES_MAX: usize = 1_000;

impl Config {
    /// Reads the files in their order: a later one wins key by key, its rules follow.
    ///
    /// # Errors
    /// Everything that is wrong in any of the files.
    pub fn read(files: &[(PathBuf, String)]) -> Result<(Config, Vec<Warning>), Errors> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::new(file, text)).collect();
        let mut reader = Reader::new(&sources);
        for (file, source) in sources.iter().enumerate() {
            reader.found = 0;
            let (text, faults) = syntax::repaired(source);
            for fault in faults {
                reader.error(file, "", fault);
            }
            // What is wrong with the text itself was told.
            let (table, _) = DeTable::parse_recoverable(&text);
            reader.file(file, table.get_ref());
        }
        reader.finish()
    }

    /// As [`Config::read`], for one text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn read_text(file: &Path, text: &str) -> Result<(Config, Vec<Warning>), Errors> {
        Config::read(&[(file.to_owned(), text.to_owned())])
    }
}

/// Where something stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub file: usize,
    pub span: Range<usize>,
}

/// Where keys were last set.
pub(super) type Places = HashMap<(Section, &'static str), Place>;

struct Reader<'s> {
    sources: &'s [Source<'s>],
    config: Config,
    defaults: Overlay,
    places: Places,
    rule_places: Vec<(String, Places)>,
    /// Keys with a bad value somewhere: they are not compared with others.
    failed: HashSet<&'static str>,
    told: Vec<(Place, ConfigError)>,
    /// Errors of the file that is being read.
    found: usize,
}

impl<'s> Reader<'s> {
    fn new(sources: &'s [Source<'s>]) -> Reader<'s> {
        Reader {
            sources,
            config: Config::default(),
            defaults: Overlay::on(Settings::default()),
            places: Places::new(),
            rule_places: Vec::new(),
            failed: HashSet::new(),
            told: Vec::new(),
            found: 0,
        }
    }

    fn file(&mut self, file: usize, table: &DeTable) {
        for (name, value) in table {
            let section = Section::ALL.into_iter().find(|section| section.name() == name.as_ref());
            match section {
                None => self.unknown_section(file, name, value),
                Some(Section::Rule) => self.rules(file, value),
                Some(section) => match value.get_ref() {
                    DeValue::Table(table) => self.section(file, section, table),
                    _ => {
                        let message = format!("`{}` is a section", section.name());
                        let hint = format!("write {}", section.header());
                        self.error(
                            file,
                            section.name(),
                            Fault::new(name.span(), message).hint(hint),
                        );
                    }
                },
            }
        }
    }

    fn section(&mut self, file: usize, section: Section, table: &DeTable) {
        let mut changes = Changes::default();
        for (name, value) in table {
            let path = format!("{}.{}", section.name(), clip(name.get_ref()));
            let Some(key) = self.key(file, section, &path, name) else { continue };
            let item = Item { kind: key.kind, value };
            let outcome = match key.set {
                Set::Guard(set) => set(&mut self.config.guard, item),
                Set::Host(set) => set(&mut self.config.host, item),
                Set::Record(set) => set(&mut self.config.record, item),
                Set::Protect(set) => set(&mut self.config.protect, item),
                Set::Message(set) => set(&mut self.config.message, item),
                Set::Http(set) => set(&mut self.config.http, item),
                Set::Hook(set) => set(&mut self.config.hook, item),
                Set::Default(set) => set(&mut changes, item),
                Set::Rule(_) => continue,
            };
            if self.outcome(file, &path, key, outcome) {
                self.places.insert((section, key.name), Place { file, span: value.span() });
            }
        }
        self.defaults.lay(&changes);
    }

    fn rules(&mut self, file: usize, value: &Spanned<DeValue>) {
        let tables = match value.get_ref() {
            DeValue::Array(array) if array.iter().all(|value| value.get_ref().is_table()) => array,
            _ => {
                let fault = Fault::new(value.span(), "`rule` is a list of tables");
                return self.error(file, "rule", fault.hint("write [[rule]], once for each rule"));
            }
        };
        for (index, value) in tables.iter().enumerate() {
            let DeValue::Table(table) = value.get_ref() else { continue };
            if self.config.rules.len() == RULES_MAX {
                let message = format!("more than {RULES_MAX} rules");
                return self.error(file, "rule", Fault::new(value.span(), message));
            }
            self.rule(file, &format!("rule[{index}]"), value.span(), table);
        }
    }

    fn rule(&mut self, file: usize, path: &str, span: Range<usize>, table: &DeTable) {
        let mut matches = Matches::default();
        let mut changes = Changes::default();
        let mut places = Places::new();
        let mut matchers = 0;
        for (name, value) in table {
            let path = format!("{path}.{}", clip(name.get_ref()));
            let Some(key) = self.key(file, Section::Rule, &path, name) else { continue };
            let item = Item { kind: key.kind, value };
            let outcome = match key.set {
                Set::Rule(set) => {
                    matchers += 1;
                    set(&mut matches, item).and_then(|()| not_empty(item))
                }
                Set::Default(set) => set(&mut changes, item),
                _ => continue,
            };
            if self.outcome(file, &path, key, outcome) {
                places.insert((Section::Rule, key.name), Place { file, span: value.span() });
            }
        }
        if matchers == 0 {
            let fault = Fault::new(span, "a rule for no container: name, image or label is needed")
                .hint("what holds for all containers belongs in [default]");
            self.error(file, path, fault);
        } else if table.len() == matchers {
            let fault = Fault::new(span, "a rule that changes nothing");
            self.tell(Severity::Warning, Place { file, span: fault.span.clone() }, path, fault);
        }
        self.config.rules.push(Rule { matches, changes });
        self.rule_places.push((path.to_owned(), places));
    }

    /// The key of that name in this section, or an error with the one that may have been meant.
    fn key(
        &mut self,
        file: usize,
        section: Section,
        path: &str,
        name: &Spanned<std::borrow::Cow<str>>,
    ) -> Option<&'static Key> {
        let written = name.get_ref().as_ref();
        if let Some(key) = section.keys().find(|key| key.name == written) {
            return Some(key);
        }
        let message = format!("unknown key {} in {}", quoted(written), section.header());
        let fault = Fault::new(name.span(), message);
        let fault = match meant_key(section, written) {
            Some(hint) => fault.hint(hint),
            None => fault,
        };
        self.error(file, path, fault);
        None
    }

    fn unknown_section(
        &mut self,
        file: usize,
        name: &Spanned<std::borrow::Cow<str>>,
        value: &Spanned<DeValue>,
    ) {
        let written = name.get_ref().as_ref();
        let is_table = match value.get_ref() {
            DeValue::Table(_) => true,
            DeValue::Array(array) => array.iter().any(|value| value.get_ref().is_table()),
            _ => false,
        };
        let what = if is_table { "section" } else { "key" };
        let sections: Vec<_> = Section::ALL.iter().map(|section| section.name()).collect();
        let near = nearest(written, sections.iter().copied())
            .and_then(|near| Section::ALL.into_iter().find(|section| section.name() == near));
        let hint = match near {
            Some(section) if is_table => format!("did you mean {}?", section.header()),
            _ => match homes(written) {
                homes if !is_table && !homes.is_empty() => {
                    format!("`{written}` belongs below {homes}")
                }
                _ => format!(
                    "the sections are [{}] and [[rule]]",
                    sections[..sections.len() - 1].join("], [")
                ),
            },
        };
        let message = format!("unknown {what} {}", quoted(written));
        self.error(file, clip(written), Fault::new(name.span(), message).hint(hint));
    }

    /// Tells what is wrong with the value of a key; whether nothing is.
    fn outcome(
        &mut self,
        file: usize,
        path: &str,
        key: &'static Key,
        outcome: Outcome<()>,
    ) -> bool {
        let Err(faults) = outcome else { return true };
        self.failed.insert(key.name);
        for mut fault in faults {
            fault.message = format!("`{}`: {}", key.name, fault.message);
            self.error(file, path, fault);
        }
        false
    }

    fn error(&mut self, file: usize, path: &str, fault: Fault) {
        self.found += 1;
        if self.found <= ERRORS_MAX {
            self.tell(Severity::Error, Place { file, span: fault.span.clone() }, path, fault);
        }
    }

    fn tell(&mut self, severity: Severity, place: Place, path: &str, fault: Fault) {
        let error = self.sources[place.file].locate(severity, path.to_owned(), fault);
        self.told.push((place, error));
    }

    fn finish(mut self) -> Result<(Config, Vec<Warning>), Errors> {
        self.config.defaults = self.defaults.clone().finish();
        for finding in check::all(&self.config, &self.places, &self.rule_places, &self.failed) {
            self.tell(finding.severity, finding.place, &finding.path, finding.fault);
        }
        self.told.sort_by_key(|(place, _)| (place.file, place.span.start));
        let (errors, warnings): (Vec<_>, Vec<_>) =
            self.told.into_iter().map(|(_, e)| e).partition(|e| e.severity == Severity::Error);
        if errors.is_empty() { Ok((self.config, warnings)) } else { Err(Errors(errors)) }
    }
}

/// A matcher without patterns would match every container, or none: neither can be meant.
fn not_empty(item: Item) -> Outcome<()> {
    match item.value.get_ref() {
        DeValue::Array(array) if array.is_empty() => {
            Err(vec![Fault::new(item.value.span(), "an empty list matches nothing")])
        }
        _ => Ok(()),
    }
}

/// What may have been meant by a key that is not in this section.
fn meant_key(section: Section, written: &str) -> Option<String> {
    let homes = homes(written);
    if !homes.is_empty() {
        return Some(format!("`{written}` belongs below {homes}"));
    }
    if let Some(near) = nearest(written, section.keys().map(|key| key.name)) {
        return Some(format!("did you mean `{near}`?"));
    }
    let near = nearest(written, KEYS.iter().map(|key| key.name))?;
    Some(format!("did you mean `{near}`? It belongs below {}", self::homes(near)))
}

/// The sections that take a key of this name.
fn homes(name: &str) -> String {
    let takes = |section: &Section| section.keys().any(|key| key.name == name);
    let headers: Vec<_> =
        Section::ALL.into_iter().filter(takes).map(|section| section.header()).collect();
    headers.join(" or ")
}

fn quoted(name: &str) -> String {
    format!("`{}`", clip(name).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Amount, ContainerFacts, Gate, Policy};
    use crate::units::{Bytes, Share};
    use proptest::prelude::*;
    use std::time::Duration;

    fn files(texts: &[&str]) -> Vec<(PathBuf, String)> {
        let name = |i| PathBuf::from(format!("{i}.toml"));
        texts.iter().enumerate().map(|(i, text)| (name(i), (*text).to_owned())).collect()
    }

    fn config(texts: &[&str]) -> Config {
        Config::read(&files(texts)).unwrap_or_else(|errors| panic!("{errors}")).0
    }

    fn errors(texts: &[&str]) -> Vec<ConfigError> {
        Config::read(&files(texts)).map(|(config, _)| config).expect_err("it is wrong").0
    }

    /// Text of one file → line:column, key, part of the message, part of the hint.
    #[test]
    fn each_mistake_is_told_with_its_place() {
        for (text, place, key, message, hint) in [
            // Names.
            (
                "[default]\nthreshhold = 0.9",
                "2:1",
                "default.threshhold",
                "unknown key `threshhold` in [default]",
                "did you mean `threshold`",
            ),
            ("[default]\ndry-run = true", "2:1", "default.dry-run", "unknown", "`dry_run`"),
            ("[guard]\nxyz = 1", "2:1", "guard.xyz", "unknown key `xyz`", ""),
            (
                "[guard]\npolicy = 'x'",
                "2:1",
                "guard.policy",
                "unknown key",
                "belongs below [default] or [[rule]]",
            ),
            ("[default]\nimage = 'x'", "2:1", "default.image", "unknown key", "below [[rule]]"),
            ("[guard]\nthreshhold = 1", "2:1", "guard.threshhold", "unknown", "below [host] or"),
            ("policy = 'x'", "1:1", "policy", "unknown key `policy`", "belongs below [default]"),
            ("[defaults]", "1:2", "defaults", "unknown section", "did you mean [default]?"),
            ("[[rules]]\nname='x'", "1:3", "rules", "unknown section", "did you mean [[rule]]?"),
            ("[htpp]\nx=1", "1:2", "htpp", "unknown section", "did you mean [http]?"),
            ("\"\\u001B[2J\" = 1", "1:1", "\u{1b}[2J", "`\\u{1b}[2J`", ""),
            ("guard = 1", "1:1", "guard", "is a section", "write [guard]"),
            ("[rule]\nname = 'x'", "1:1", "rule", "list of tables", "write [[rule]]"),
            ("rule = 1", "1:8", "rule", "list of tables", "write [[rule]]"),
            ("[default.lab]\nx = 1", "1:10", "default.lab", "unknown key `lab`", ""),
            // Types.
            ("[guard]\nlock_memory = 'yes'", "2:15", "guard.lock_memory", "true or false", ""),
            ("[guard]\nlog = 3", "2:7", "guard.log", "found a whole number", ""),
            ("[default]\nwarning = true", "2:11", "default.warning", "found a boolean", ""),
            ("[default]\nwarning = [0.8]", "2:11", "default.warning", "found a list", ""),
            ("[default]\nthreshold = 90", "2:13", "default.threshold", "write \"90%\"", "0.9"),
            ("[default]\ngrace = 5", "2:9", "default.grace", "unit is missing", "\"5s\""),
            ("[default]\nsignals = 'KILL'", "2:11", "default.signals", "expected a list", ""),
            ("[record]\nkeep = '4'", "2:8", "record.keep", "found a text", ""),
            ("[record]\nkeep = 1979-05-27", "2:8", "record.keep", "found a date", ""),
            ("[protect]\nusers = ['root']", "2:10", "protect.users", "not a name", "id -u"),
            ("[protect]\nnotebooks = [1]", "2:14", "protect.notebooks", "whole number", ""),
            // Values.
            ("[guard]\nlog = 'inof'", "2:7", "guard.log", "\"info\"?", ""),
            ("[guard]\nstate_dir = 'run'", "2:13", "guard.state_dir", "no absolute path", ""),
            ("[guard]\ndocker_root = ''", "2:15", "guard.docker_root", "empty path", ""),
            ("[guard]\nskip_cgroups = ''", "2:16", "guard.skip_cgroups", "empty pattern", ""),
            ("[guard]\nignore_label = ''", "2:16", "guard.ignore_label", "\"off\"", ""),
            ("[protect]\nenv = 'A B'", "2:7", "protect.env", "without spaces", ""),
            ("[protect]\nusers = [-1]", "2:10", "protect.users", "-1 is no user id", ""),
            ("[protect]\nusers = 4294967295", "2:9", "protect.users", "no user id", ""),
            ("[host]\ntrigger = 'some 9s/1s'", "2:11", "host.trigger", "longer than its", ""),
            ("[host]\nsmallest_step = 0", "2:17", "host.smallest_step", "at least 0.1%", ""),
            ("[record]\nmax_size = 1024", "2:12", "record.max_size", "at least 64K", ""),
            ("[record]\nmax_size = '2G'", "2:12", "record.max_size", "at most 1G", ""),
            ("[record]\nkeep = -1", "2:8", "record.keep", "-1 is too small: at least 0", ""),
            ("[record]\nkeep = 0xffffffffffff", "2:8", "record.keep", "at most 100", ""),
            ("[default]\nthreshold = 1.5", "2:13", "default.threshold", "150% is too large", ""),
            ("[default]\nthreshold = nan", "2:13", "default.threshold", "no share", ""),
            ("[default]\nthreshold = -0.5", "2:13", "default.threshold", "less than nothing", ""),
            ("[default]\npolicy = 'large'", "2:10", "default.policy", "\"largest\"?", ""),
            ("[default]\npolicy = 'idle'", "2:10", "default.policy", "idle-first", ""),
            ("[default]\nratio = '1.99%'", "2:9", "default.ratio", "too small: at least 2%", ""),
            ("[default]\nratio = 0", "2:9", "default.ratio", "too small: at least 2%", ""),
            ("[default]\nratio = '101%'", "2:9", "default.ratio", "too large: at most 100%", ""),
            ("[[rule]]\nname = 'x'\nratio = 1.01", "3:9", "rule[0].ratio", "at most 100%", ""),
            ("[default]\nresource = 'io'", "2:12", "default.resource", "none of memory, cpu", ""),
            ("[default]\nclear = 'some'", "2:9", "default.clear", "none of enough, all", ""),
            ("[default]\nidle_for = '0s'", "2:12", "default.idle_for", "at least 1s", ""),
            ("[default]\ndeny = ['a', '/b']", "2:14", "default.deny", "without its folder", ""),
            ("[default]\nallow = 'app:'", "2:9", "default.allow", "name is missing", "pool:www"),
            ("[default]\nscope = 'all'", "2:9", "default.scope", "none of container, user", ""),
            ("[default]\nnotebook_max = '120%'", "2:16", "default.notebook_max", "100%", ""),
            ("[default]\nnotebook_max = '1K'", "2:16", "default.notebook_max", "16M", ""),
            ("[default]\nnotebook_max = 'none'", "2:16", "default.notebook_max", "", "\"off\""),
            ("[default]\ngrace = '1h'", "2:9", "default.grace", "at most 5m", ""),
            ("[default]\nsignals = ['TERM']", "2:11", "default.signals", "last", "caught"),
            ("[default]\nsignals = []", "2:11", "default.signals", "last signal", ""),
            ("[default]\nsignals = ['HUP','KILL']", "2:12", "default.signals", "\"HUP\"", ""),
            ("[default]\nsignals = ['KILL','KILL']", "2:11", "default.signals", "twice", ""),
            (
                "[http]\nlisten = '0.0.0.0:80'",
                "2:10",
                "http.listen",
                "beyond loopback",
                "`token_file`",
            ),
            ("[http]\nlisten = '[fe80::1]:80'", "2:10", "http.listen", "beyond loopback", ""),
            // Rules.
            ("[[rule]]\npolicy = 'growing'", "1:1", "rule[0]", "for no container", "[default]"),
            ("[[rule]]\nname = []\nignore=true", "2:8", "rule[0].name", "matches nothing", ""),
            ("[[rule]]\nlabel = '=x'\nignore=true", "2:9", "rule[0].label", "name is miss", ""),
            (
                "[[rule]]\nname='a'\nignore=true\n[[rule]]\nname='b'\nwarnin=0",
                "6:1",
                "rule[1].warnin",
                "unknown key `warnin` in [[rule]]",
                "`warning`",
            ),
            // Against each other.
            (
                "[default]\nthreshold = '70%'",
                "2:13",
                "default.threshold",
                "`warning` (80%) must be below `threshold` (70%)",
                "for example to \"62%\"",
            ),
            ("[default]\nwarning = 0.95", "2:11", "default.warning", "must be below", ""),
            ("[[rule]]\nname='a'\nwarning=0.9", "3:9", "rule[0].warning", "must be below", ""),
            ("[default]\nlast_call = 0.8", "2:13", "default.last_call", "above `warning`", "85%"),
            ("[default]\nlast_call = '95%'", "2:13", "default.last_call", "below `thresh", "off"),
            ("[default]\nlast_call = 'of'", "2:13", "default.last_call", "is no share", "\"off\""),
            ("[message]\nended = '{memroy}'", "2:9", "message.ended", "\"{memroy}\"", "{memory}"),
            ("[message]\nended = '{}'", "2:9", "message.ended", "stands for nothing", "{share}"),
            ("[message]\nended = \"a\\nb\"", "2:9", "message.ended", "line breaks", ""),
            ("[default]\nbackoff = '10m'", "2:11", "default.backoff", "`backoff_max` (5m)", ""),
            // TOML.
            ("[default]\nthreshold = 90%", "2:13", "", "must be quoted", "threshold = \"90%\""),
            ("[default\n", "1:9", "", "unclosed", ""),
            ("[guard]\nlog = 'off'\nlog = 'b'", "3:1", "", "duplicate key", ""),
        ] {
            let found = errors(&[text]);
            assert_eq!(found.len(), 1, "{text}: {found:#?}");
            let error = &found[0];
            assert_eq!(format!("{}:{}", error.line, error.column), place, "{error}");
            assert_eq!(error.key, key, "{error}");
            assert!(error.message.contains(message), "{error}\nwithout {message:?}");
            let told = error.hint.as_deref().unwrap_or_default();
            assert!(told.contains(hint), "{error}\nwithout {hint:?}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn all_mistakes_of_all_files_are_told_in_order() {
        let found = errors(&[
            "[guard]\nlog = 'x'\nlok_memory = true\n[default]\nthreshold = 90%\nwarning = 2.0\n\
             signals = ['HUP', 'USR1', 'KILL']\n[[rule]]\ndry_run = 1\n",
            "[host]\nstepping = 0\n[default]\ngrace = '5'\nbackoff = '9m'\n",
        ]);
        let places: Vec<_> =
            found.iter().map(|e| (e.file.to_str().unwrap(), e.line, e.column)).collect();
        let (a, b) = ("0.toml", "1.toml");
        let expected = [
            (a, 2, 7),
            (a, 3, 1),
            (a, 5, 13),
            (a, 6, 11),
            (a, 7, 12),
            (a, 7, 19),
            (a, 8, 1),
            (a, 9, 11),
            (b, 2, 12),
            (b, 4, 9),
            (b, 5, 11),
        ];
        assert_eq!(places, expected, "{}", Errors(found.clone()));
    }

    #[test]
    fn a_mistake_as_people_see_it() {
        let text = "[default]\n  threshhold = \"90%\"  # why\n";
        let expected = concat!(
            "0.toml:2:3: error: unknown key `threshhold` in [default]\n",
            "   |\n",
            " 2 |   threshhold = \"90%\"  # why\n",
            "   |   ^^^^^^^^^^\n",
            "   = did you mean `threshold`?",
        );
        let found = errors(&[text]);
        assert_eq!(Errors(found.clone()).to_string(), expected);
        let json = serde_json::to_value(Errors(found)).unwrap();
        assert_eq!(json[0]["line"], 2);
        assert_eq!(json[0]["key"], "default.threshhold");
        assert_eq!(json[0]["severity"], "error");
    }

    #[test]
    fn nothing_is_the_default() {
        for texts in [&[][..], &[""], &["[guard]\n[default]\n"], &["", "# nothing\n"]] {
            assert_eq!(config(texts), Config::default());
        }
    }

    #[test]
    fn values_in_their_spellings() {
        let config = config(&["[default]
            threshold = 0.95
            warning = '70 %'
            min_share = 0
            notebook_max = '4G'
            signals = ['SIGTERM', 'kill']
            grace = '1m 30s'
            [record]
            max_size = 1_048_576
            [guard]
            docker_root = '/srv/docker'
            docker_socket = 'off'
            skip_cgroups = '/a/*'
            [protect]
            users = 1000
            label = 'off'
        "]);
        let Settings { threshold, warning, min_share, notebook_max, signals, grace, .. } =
            config.defaults;
        assert_eq!((threshold, warning), (Share::percent(95), Share::percent(70)));
        assert_eq!((min_share, notebook_max), (Share::ZERO, Some(Amount::Bytes(Bytes::gib(4)))));
        assert_eq!(signals, [crate::config::Signal::Term, crate::config::Signal::Kill]);
        assert_eq!(grace, Duration::from_secs(90));
        assert_eq!(config.record.max_size, Bytes::mib(1));
        assert_eq!(config.guard.docker_root, Some(PathBuf::from("/srv/docker")));
        assert_eq!((config.guard.docker_socket, config.protect.label), (None, None));
        assert_eq!(config.guard.skip_cgroups[0].as_str(), "a/*");
        assert_eq!(config.protect.users, [1000]);
    }

    #[test]
    fn a_later_file_wins_key_by_key_and_its_rules_follow() {
        let config = config(&[
            "[default]\npolicy = 'growing'\ngate = 'notebooks'\n\
             [[rule]]\nname = '*'\ndry_run = true\n",
            "[default]\ngate = 'usage'\n[[rule]]\nname = 'lab'\ndry_run = false\n",
        ]);
        assert_eq!((config.defaults.policy, config.defaults.gate), (Policy::Growing, Gate::Usage));
        assert_eq!(config.defaults.min_share, Share::percent(10));
        let lab = ContainerFacts { name: "lab", ..ContainerFacts::default() };
        assert!(!config.settings_for(&lab).dry_run);
        assert!(config.settings_for(&ContainerFacts::default()).dry_run);
    }

    #[test]
    fn a_contradiction_between_files_is_told_where_the_later_value_is() {
        let found = errors(&["[default]\nwarning = '85%'\n", "\n[default]\nthreshold = 0.8\n"]);
        assert_eq!((found[0].file.to_str(), found[0].line), (Some("1.toml"), 3));
    }

    #[test]
    fn one_mistake_brings_no_second_one() {
        // The threshold cannot be read, so nothing is said of a warning that is above the default.
        assert_eq!(errors(&["[default]\nthreshold = 'x'\nwarning = 0.95\n"]).len(), 1);
        // A broken head hides its keys; they do not seem to belong to the section before.
        assert_eq!(errors(&["[guard]\n[default\nwarning = 0.8\n[host]\n"]).len(), 1);
    }

    #[test]
    fn warnings() {
        for (text, place, message) in [
            ("[[rule]]\nname = 'x'\n", "1:1", "changes nothing"),
            ("[default]\ngrace = '2s'\n", "2:9", "no effect"),
            ("[[rule]]\nname = 'x'\ngrace = '2s'\n", "3:9", "no effect"),
            ("[default]\nratio = '5%'\n", "2:9", "no effect"),
            ("[[rule]]\nname = 'x'\ndeny = ['a', 'b']\n", "3:8", "no effect"),
            ("[default]\npolicy = 'idle-first'\ndeny = ['a', '*']\n", "3:8", "everything"),
            ("[protect]\ncontainers = ['*']\n", "2:14", "protects everything"),
        ] {
            let (_, warnings) = Config::read(&files(&[text])).unwrap();
            assert_eq!(warnings.len(), 1, "{text}");
            let Warning { line, column, message: told, severity, .. } = &warnings[0];
            assert_eq!(format!("{line}:{column}"), place, "{}", warnings[0]);
            assert!(told.contains(message), "{told}");
            assert_eq!(*severity, Severity::Warning);
        }
    }

    #[test]
    fn many_mistakes_are_bounded() {
        let keys: String = (0..5_000).map(|i| format!("x{i} = 1\n")).collect();
        let text = format!("[guard]\n{keys}");
        assert_eq!(errors(&[&text]).len(), ERRORS_MAX);
        let text = "[[rule]]\nname='x'\nignore=true\n".repeat(RULES_MAX + 5);
        assert_eq!(errors(&[&text]).len(), 1);
        let text = "[x\n= \r\n[\"\n".repeat(20_000);
        assert!(errors(&[&text]).len() <= ERRORS_MAX);
        let deep = format!("a = {}", "[".repeat(100_000));
        assert!(!errors(&[&deep]).is_empty());
    }

    /// Texts that look like a configuration, with mistakes in them.
    fn nearly() -> impl Strategy<Value = String> {
        let head = prop::sample::select(vec!["[guard]", "[default]", "[[rule]]", "[rule]", "[x"]);
        let name = prop::sample::select(KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
        let value = prop::sample::select(vec![
            "true",
            "1",
            "-0.5",
            "nan",
            "'90%'",
            "\"4G\"",
            "['a', 1]",
            "{ a = 1 }",
            "[",
            "''",
            "'some 1s/2s'",
            "1e400",
            "99999999999999999999",
            "'5s'",
            "\"\\u0000\"",
            "x",
            "",
        ]);
        let line = (name, value).prop_map(|(name, value)| format!("{name} = {value}"));
        let line = prop_oneof![head.prop_map(str::to_owned), line, "[a-z=\\[\\]'\" ü]{0,12}"];
        prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", near in nearly()) {
            for text in [text, near] {
                match Config::read(&files(&[&text])) {
                    Ok((config, _)) => {
                        config.settings_for(&ContainerFacts::default());
                    }
                    Err(errors) => {
                        prop_assert!(!errors.0.is_empty());
                        let _ = errors.to_string();
                    }
                }
            }
        }

        #[test]
        fn whatever_is_accepted_keeps_the_warning_below_the_threshold(text in nearly()) {
            if let Ok((config, _)) = Config::read(&files(&[&text])) {
                let facts = ContainerFacts { name: "a", ..ContainerFacts::default() };
                let settings = config.settings_for(&facts);
                prop_assert!(settings.warning < settings.threshold);
                prop_assert_eq!(settings.signals.last(), Some(&crate::config::Signal::Kill));
            }
        }
    }
}
