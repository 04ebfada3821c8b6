//! Values of one TOML file, read as what their key asks for. Every fault has the place of the
//! value, or of the element of a list, that is wrong. Pure.

use log::LevelFilter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

use super::error::Fault;
use super::glob::{Glob, LabelGlob, NameGlob};
use super::quantity::{self as q, Parsed};
use super::{Amount, Clear, Gate, Policy, Resource, Scope, Signal};
use crate::parse::template;
use crate::report;
use crate::units::{Bytes, Share, Trigger};

/// What a key takes, with its bounds (both ends included).
#[derive(Clone, Copy)]
pub enum Kind {
    Bool,
    Share(Share, Share),
    /// A share, or `"off"`.
    ShareOrOff(Share, Share),
    Size(Bytes, Bytes),
    /// A size or a share of at most 100 %, or `"off"`.
    AmountOrOff,
    Duration(Duration, Duration),
    Count(u32, u32),
    Trigger,
    /// One of these.
    Word(fn() -> Vec<&'static str>),
    Signals,
    /// An absolute path.
    Path,
    /// An absolute path or this word.
    PathOr(&'static str),
    /// A name without spaces, or `"off"`.
    NameOrOff,
    Globs,
    LabelGlobs,
    /// Names of processes, or of applications behind `app:`.
    NameGlobs,
    Uids,
    /// Any text of at most so many bytes, without control characters.
    Text(usize),
    /// An IP address and a port, or `"off"`.
    AddressOrOff,
    /// A program, absolute, and its arguments.
    Command,
    /// Kinds of incidents.
    Kinds,
}

impl Kind {
    /// What is expected, with an example.
    pub fn wants(self) -> &'static str {
        match self {
            Kind::Bool => "true or false, without quotes",
            Kind::Share(..) => "a share such as \"90%\" or 0.9",
            Kind::ShareOrOff(..) => "a share such as \"85%\", or \"off\"",
            Kind::Size(..) => "a size such as \"512M\"",
            Kind::AmountOrOff => "a size such as \"4G\", a share such as \"50%\", or \"off\"",
            Kind::Duration(..) => "a duration such as \"5s\"",
            Kind::Count(..) => "a whole number, without quotes",
            Kind::Trigger => "a trigger such as \"some 150ms/1s\"",
            Kind::Word(_) => "a word in quotes",
            Kind::Signals => "a list such as [\"TERM\", \"KILL\"]",
            Kind::Path => "an absolute path in quotes",
            Kind::PathOr(_) => "an absolute path or a word, in quotes",
            Kind::NameOrOff => "a name in quotes, or \"off\"",
            Kind::Globs => "a pattern such as \"jupyter-*\", or a list of them",
            Kind::LabelGlobs => "a pattern such as \"tier=prod*\", or a list of them",
            Kind::NameGlobs => {
                "a pattern such as \"backup*\" or \"app:pool:www\", or a list of them"
            }
            Kind::Uids => "a list of user ids such as [1000, 1001]",
            Kind::Text(_) => "a text in quotes",
            Kind::AddressOrOff => "an address such as \"127.0.0.1:9843\", or \"off\"",
            Kind::Command => "a list such as [\"/usr/local/bin/tell\", \"--all\"]",
            Kind::Kinds => "a list such as [\"kill\", \"hold\"]",
        }
    }

    /// What is possible, for the reference.
    pub fn range(self) -> String {
        let list = |words: Vec<&str>| {
            words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Share(min, max) => {
                format!("{} to {}, or as a fraction", q::share_text(min), q::share_text(max))
            }
            Kind::ShareOrOff(min, max) => {
                format!("\"off\", or {}", Kind::Share(min, max).range())
            }
            Kind::Size(min, max) => {
                format!("a size, {} to {}", q::size_text(min), q::size_text(max))
            }
            Kind::AmountOrOff => {
                format!("\"off\", a size from {}, or a share up to 100%", q::size_text(AMOUNT_MIN))
            }
            Kind::Duration(min, max) => {
                let text = q::duration_text;
                format!("a duration, {} to {}", text(min), text(max))
            }
            Kind::Count(min, max) => format!("a whole number, {min} to {max}"),
            Kind::Trigger => {
                "\"some\" or \"full\", stall/window; windows of 500ms to 10s".to_owned()
            }
            Kind::Word(words) => format!("one of {}", list(words())),
            Kind::Signals => {
                format!("a list of {}; each once, the last \"KILL\"", list(names::<Signal>()))
            }
            Kind::Path => "an absolute path".to_owned(),
            Kind::PathOr(word) => format!("{word:?} or an absolute path"),
            Kind::NameOrOff => "a name, or \"off\"".to_owned(),
            Kind::Globs => "a pattern or a list of patterns (* and ?)".to_owned(),
            Kind::LabelGlobs => "\"key=pattern\" or \"key\", or a list of them".to_owned(),
            Kind::NameGlobs => {
                "a pattern or a list of patterns (* and ?), of processes, or of applications as \
                 \"app:pattern\""
                    .to_owned()
            }
            Kind::Uids => "a list of user ids, as the host sees them".to_owned(),
            Kind::Text(most) => format!("one line of at most {most} bytes"),
            Kind::AddressOrOff => "\"off\", or an IP address and a port".to_owned(),
            Kind::Command => "a list: an absolute path, then arguments".to_owned(),
            Kind::Kinds => format!("a list of {}", list(names::<report::Kind>())),
        }
    }
}

/// Would end every kernel as it starts; whoever writes less has forgotten the unit.
const AMOUNT_MIN: Bytes = Bytes::mib(16);

/// A choice and what its members are called, in the configuration and wherever they are shown.
pub trait Words: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, member)| *member == self).map_or("?", |(word, _)| word)
    }
}

pub fn names<T: Words>() -> Vec<&'static str> {
    T::ALL.iter().map(|(word, _)| *word).collect()
}

impl Words for Policy {
    const ALL: &'static [(&'static str, Policy)] = &[
        ("largest", Policy::Largest),
        ("growing", Policy::Growing),
        ("idle-first", Policy::IdleFirst),
    ];
}

impl Words for Resource {
    const ALL: &'static [(&'static str, Resource)] =
        &[("memory", Resource::Memory), ("cpu", Resource::Cpu)];
}

impl Words for Clear {
    const ALL: &'static [(&'static str, Clear)] = &[("enough", Clear::Enough), ("all", Clear::All)];
}

impl Words for Gate {
    const ALL: &'static [(&'static str, Gate)] =
        &[("usage", Gate::Usage), ("notebooks", Gate::Notebooks)];
}

impl Words for Scope {
    const ALL: &'static [(&'static str, Scope)] =
        &[("container", Scope::Container), ("user", Scope::User)];
}

impl Words for Signal {
    const ALL: &'static [(&'static str, Signal)] =
        &[("INT", Signal::Int), ("TERM", Signal::Term), ("KILL", Signal::Kill)];
}

impl Words for report::Kind {
    const ALL: &'static [(&'static str, report::Kind)] = &[
        ("kill", report::Kind::Kill),
        ("hold", report::Kind::Hold),
        ("kernel-oom", report::Kind::KernelOom),
    ];
}

impl Words for LevelFilter {
    const ALL: &'static [(&'static str, LevelFilter)] = &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
}

pub(super) type Outcome<T> = Result<T, Vec<Fault>>;

/// Puts a value where it belongs, if it is one.
pub(super) fn put<T>(place: &mut T, value: Outcome<T>) -> Outcome<()> {
    *place = value?;
    Ok(())
}

/// The value of a key, and what that key takes.
///
/// Each reader below belongs to one kind and panics under another: which reader a key uses stands
/// beside its kind in the table of keys, and a test reads every key of it.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub kind: Kind,
    pub value: &'a Spanned<DeValue<'a>>,
}

const WRONG_READER: &str = "the table of keys names the reader of the key's kind";

impl<'a> Item<'a> {
    pub fn boolean(self) -> Outcome<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type())
    }

    pub fn share(self) -> Outcome<Share> {
        let (Kind::Share(min, max) | Kind::ShareOrOff(min, max)) = self.kind else {
            unreachable!("{WRONG_READER}")
        };
        let share = match self.value.get_ref() {
            DeValue::String(text) => q::parse_share(text),
            DeValue::Float(number) => q::parse_share(number.as_str()),
            DeValue::Integer(number) if number.as_str() == "0" => Ok(Share::ZERO),
            DeValue::Integer(number) => match q::parse_share(number.as_str()) {
                Ok(_) => return Err(self.wrong_type()),
                why => why,
            },
            _ => return Err(self.wrong_type()),
        };
        self.within(self.parsed(share)?, min, max, q::share_text)
    }

    pub fn size(self) -> Outcome<Bytes> {
        let Kind::Size(min, max) = self.kind else { unreachable!("{WRONG_READER}") };
        let size = match self.value.get_ref() {
            DeValue::String(text) => q::parse_size(text),
            DeValue::Integer(number) => q::parse_size(&number.to_string()),
            _ => return Err(self.wrong_type()),
        };
        self.within(self.parsed(size)?, min, max, q::size_text)
    }

    pub fn share_or_off(self) -> Outcome<Option<Share>> {
        match self.value.get_ref() {
            DeValue::String(text) if is_off(text) => Ok(None),
            _ => self.share().map(Some),
        }
    }

    pub fn amount_or_off(self) -> Outcome<Option<Amount>> {
        let amount = match self.value.get_ref() {
            DeValue::String(text) if is_off(text) => return Ok(None),
            DeValue::String(text) => q::parse_amount(text),
            DeValue::Integer(number) => q::parse_amount(&number.to_string()),
            DeValue::Float(number) => q::parse_share(number.as_str()).map(Amount::Share),
            _ => return Err(self.wrong_type()),
        };
        match self.parsed(amount)? {
            Amount::Share(share) => {
                let share = self.within(share, Share(1), Share::ONE, q::share_text)?;
                Ok(Some(Amount::Share(share)))
            }
            Amount::Bytes(bytes) => {
                let bytes = self.within(bytes, AMOUNT_MIN, Bytes(u64::MAX), q::size_text)?;
                Ok(Some(Amount::Bytes(bytes)))
            }
        }
    }

    pub fn duration(self) -> Outcome<Duration> {
        let Kind::Duration(min, max) = self.kind else { unreachable!("{WRONG_READER}") };
        let duration = match self.value.get_ref() {
            DeValue::String(text) => q::parse_duration(text),
            DeValue::Integer(number) => q::parse_duration(number.as_str()),
            _ => return Err(self.wrong_type()),
        };
        self.within(self.parsed(duration)?, min, max, q::duration_text)
    }

    pub fn count(self) -> Outcome<u32> {
        let Kind::Count(min, max) = self.kind else { unreachable!("{WRONG_READER}") };
        let DeValue::Integer(number) = self.value.get_ref() else {
            return Err(self.wrong_type());
        };
        let count = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
        let count = self.within(count, min.into(), max.into(), |count| count.to_string())?;
        u32::try_from(count).map_err(|_| self.wrong_type())
    }

    pub fn trigger(self) -> Outcome<Trigger> {
        self.parsed(q::parse_trigger(self.text()?))
    }

    pub fn word<T: Words>(self) -> Outcome<T> {
        self.parsed(one_of(self.text()?))
    }

    pub fn signals(self) -> Outcome<Vec<Signal>> {
        let DeValue::Array(_) = self.value.get_ref() else { return Err(self.wrong_type()) };
        let read = |item: Item| item.parsed(one_of::<Signal>(strip_sig(item.text()?)));
        let signals = self.each(read)?;
        let repeated = |i: &usize| signals[..*i].contains(&signals[*i]);
        if let Some(signal) = (0..signals.len()).find(repeated).map(|i| signals[i]) {
            return Err(self.fault(format!("{} is in the list twice", signal.word())));
        }
        if signals.last() != Some(&Signal::Kill) {
            let fault = Fault::new(self.value.span(), "the last signal must be KILL")
                .hint("the others can be caught; without it nothing ends for certain");
            return Err(vec![fault]);
        }
        Ok(signals)
    }

    pub fn path(self) -> Outcome<PathBuf> {
        self.absolute(self.text()?)
    }

    pub fn path_or(self) -> Outcome<Option<PathBuf>> {
        let Kind::PathOr(word) = self.kind else { unreachable!("{WRONG_READER}") };
        match self.text()? {
            text if text.eq_ignore_ascii_case(word) => Ok(None),
            text => self.absolute(text).map(Some),
        }
    }

    pub fn name_or_off(self) -> Outcome<Option<String>> {
        match self.text()? {
            text if is_off(text) => Ok(None),
            "" => Err(self.fault("an empty name; to turn it off write \"off\"")),
            text if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '=') => {
                Err(self.fault("a name without spaces, control characters or `=` is needed"))
            }
            text => Ok(Some(text.to_owned())),
        }
    }

    pub fn free_text(self) -> Outcome<String> {
        let Kind::Text(most) = self.kind else { unreachable!("{WRONG_READER}") };
        match self.text()? {
            text if text.len() > most => {
                Err(self.fault(format!("{} bytes; at most {most} are possible", text.len())))
            }
            text if text.chars().any(char::is_control) => {
                Err(self.fault("a text without line breaks and control characters is needed"))
            }
            text => match template::unknown(text) {
                Some(name) => {
                    let told = format!("{:?} stands for nothing", format!("{{{}}}", q::clip(name)));
                    Err(vec![Fault::new(self.value.span(), told).hint(placeholder_meant(name))])
                }
                None => Ok(text.to_owned()),
            },
        }
    }

    pub fn address_or_off(self) -> Outcome<Option<SocketAddr>> {
        match self.text()? {
            text if is_off(text) => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                self.fault("an IP address and a port are needed, such as \"127.0.0.1:9843\"")
            }),
        }
    }

    pub fn command(self) -> Outcome<Vec<String>> {
        let words = self.each(|item| Ok(item.text()?.to_owned()))?;
        match words.first() {
            Some(program) if !program.starts_with('/') => {
                Err(self.fault("the program must be an absolute path"))
            }
            _ => Ok(words),
        }
    }

    pub fn kinds(self) -> Outcome<Vec<report::Kind>> {
        self.each(|item| item.parsed(one_of(item.text()?)))
    }

    pub fn globs(self) -> Outcome<Vec<Glob>> {
        self.each(|item| item.parsed(Glob::new(item.text()?).map_err(str::to_owned)))
    }

    pub fn label_globs(self) -> Outcome<Vec<LabelGlob>> {
        self.each(|item| item.parsed(LabelGlob::new(item.text()?).map_err(str::to_owned)))
    }

    pub fn name_globs(self) -> Outcome<Vec<NameGlob>> {
        self.each(|item| item.parsed(NameGlob::new(item.text()?).map_err(str::to_owned)))
    }

    pub fn uids(self) -> Outcome<Vec<u32>> {
        self.each(|item| match item.value.get_ref() {
            // u32::MAX is (uid_t)-1, "no user" (chown(2)).
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix())
                .ok()
                .filter(|uid| *uid != u32::MAX)
                .ok_or_else(|| item.fault(format!("{number} is no user id"))),
            DeValue::String(_) => Err(vec![
                Fault::new(item.value.span(), "a number is needed, not a name")
                    .hint("a container has users of its own; `id -u NAME` tells a number"),
            ]),
            _ => Err(item.wrong_type()),
        })
    }

    /// Reads every element of a list, or the one value that stands for a list of one. All
    /// faults are told.
    fn each<T>(self, read: impl Fn(Item<'a>) -> Outcome<T>) -> Outcome<Vec<T>> {
        let DeValue::Array(array) = self.value.get_ref() else {
            return read(self).map(|value| vec![value]);
        };
        let mut values = Vec::new();
        let mut faults = Vec::new();
        for value in array.iter() {
            match read(Item { value, ..self }) {
                Ok(value) => values.push(value),
                Err(mut more) => faults.append(&mut more),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }

    fn absolute(self, text: &str) -> Outcome<PathBuf> {
        match text {
            "" => Err(self.fault("an empty path")),
            _ if text.contains('\0') => Err(self.fault("a path cannot hold a NUL")),
            _ if !text.starts_with('/') => {
                Err(self.fault(format!("{:?} is no absolute path", q::clip(text))))
            }
            _ => Ok(PathBuf::from(text)),
        }
    }

    fn text(self) -> Outcome<&'a str> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type())
    }

    fn within<T: PartialOrd + Copy>(
        self,
        value: T,
        min: T,
        max: T,
        text: fn(T) -> String,
    ) -> Outcome<T> {
        let found = || text(value);
        if value < min {
            return Err(self.fault(format!("{} is too small: at least {}", found(), text(min))));
        }
        if value > max {
            return Err(self.fault(format!("{} is too large: at most {}", found(), text(max))));
        }
        Ok(value)
    }

    fn parsed<T>(self, parsed: Parsed<T>) -> Outcome<T> {
        parsed.map_err(|message| {
            let fault = Fault::new(self.value.span(), message);
            match self.kind {
                // The message has all words there are.
                Kind::Word(_) => vec![fault],
                _ => vec![fault.hint(format!("expected {}", self.kind.wants()))],
            }
        })
    }

    fn fault(self, message: impl Into<String>) -> Vec<Fault> {
        vec![Fault::new(self.value.span(), message)]
    }

    fn wrong_type(self) -> Vec<Fault> {
        let found = match self.value.get_ref() {
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::String(_) => "a text",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(format!("expected {}, found {found}", self.kind.wants()))
    }
}

fn is_off(text: &str) -> bool {
    text.eq_ignore_ascii_case("off")
}

/// What the name in braces may have been, or all there are.
fn placeholder_meant(name: &str) -> String {
    match super::nearest::nearest(name.trim(), template::NAMES) {
        Some(name) => format!("did you mean {{{name}}}? A brace itself is written twice"),
        None => format!(
            "there are {{{}}}; a brace itself is written twice",
            template::NAMES.join("}, {")
        ),
    }
}

fn strip_sig(text: &str) -> &str {
    text.strip_prefix("SIG").unwrap_or(text)
}

fn one_of<T: Words>(text: &str) -> Parsed<T> {
    let found = T::ALL.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, member)| *member).ok_or_else(|| {
        let nearest = super::nearest::nearest(text, names::<T>());
        let known = names::<T>().join(", ");
        match nearest {
            Some(word) => format!("{:?} is none of {known}; {word:?}?", q::clip(text)),
            None => format!("{:?} is none of {known}", q::clip(text)),
        }
    })
}
