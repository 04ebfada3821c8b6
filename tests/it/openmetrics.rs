//! A strict reader of OpenMetrics 1.0, written after the text of its specification and sharing
//! nothing with the writer: what is not allowed is an error with its line.

use std::collections::{BTreeMap, BTreeSet, HashSet};

#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub unit: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Suffixes of the samples of each type. The first one is what a family cannot be without.
const SUFFIXES: [(&str, &[&str]); 8] = [
    ("counter", &["_total", "_created"]),
    ("gauge", &[""]),
    ("histogram", &["_bucket", "_count", "_sum", "_created"]),
    ("gaugehistogram", &["_bucket", "_gcount", "_gsum"]),
    ("summary", &["", "_count", "_sum", "_created"]),
    ("info", &["_info"]),
    ("stateset", &[""]),
    ("unknown", &[""]),
];

/// # Errors
/// The first thing that the specification does not allow, with the number of its line.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let body = body.strip_suffix("# EOF").ok_or("it does not end with # EOF")?;
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("# EOF does not begin a line".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut said = HashSet::new();
    for (number, line) in body.lines_of().enumerate() {
        let at = |why: String| format!("line {}: {why}: {line:?}", number + 1);
        if let Some(rest) = line.strip_prefix('#') {
            describe(rest, &mut families, &mut said).map_err(at)?;
        } else {
            let sample = sample(line).map_err(at)?;
            let family = families.last_mut().ok_or_else(|| at("a sample of no family".into()))?;
            belongs(family, &sample).map_err(at)?;
            family.samples.push(sample);
        }
    }
    apart(&families)?;
    for family in &families {
        check(family).map_err(|why| format!("{}: {why}", family.name))?;
    }
    Ok(families)
}

trait Lines {
    fn lines_of(&self) -> impl Iterator<Item = &str>;
}

impl Lines for str {
    /// `str::lines` would take a carriage return for part of the line's end.
    fn lines_of(&self) -> impl Iterator<Item = &str> {
        self.split_terminator('\n')
    }
}

fn describe(
    rest: &str,
    families: &mut Vec<Family>,
    said: &mut HashSet<(String, String)>,
) -> Result<(), String> {
    let mut words = rest.strip_prefix(' ').ok_or("no space after #")?.splitn(3, ' ');
    let (key, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let value = words.next().ok_or("a descriptor without a value")?;
    if !is_name(name, true) {
        return Err("no name of a metric".to_owned());
    }
    if !said.insert((key.to_owned(), name.to_owned())) {
        return Err(format!("a second {key}"));
    }
    if families.last().is_none_or(|last| last.name != name) {
        if families.iter().any(|family| family.name == name) {
            return Err("its family is interleaved with another".to_owned());
        }
        families.push(Family {
            name: name.to_owned(),
            kind: "unknown".to_owned(),
            unit: String::new(),
            help: String::new(),
            samples: Vec::new(),
        });
    }
    let family = families.last_mut().ok_or("no family")?;
    if !family.samples.is_empty() {
        return Err("a descriptor after a sample".to_owned());
    }
    match key {
        "TYPE" => {
            if !SUFFIXES.iter().any(|(kind, _)| *kind == value) {
                return Err("no such type".to_owned());
            }
            family.kind = value.to_owned();
        }
        "UNIT" => {
            if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err("no unit".to_owned());
            }
            family.unit = value.to_owned();
        }
        "HELP" => family.help = unescape(value)?,
        _ => return Err("neither TYPE, UNIT nor HELP".to_owned()),
    }
    Ok(())
}

fn is_name(text: &str, colon: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// `\\`, `\"` and `\n`, and nothing else that is special.
fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return Err("a quote that is not escaped".to_owned()),
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(char @ ('\\' | '"')) => plain.push(char),
                other => return Err(format!("an escape of {other:?}")),
            },
            char => plain.push(char),
        }
    }
    Ok(plain)
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a sample".to_owned());
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = read_labels(inside, &mut labels)?;
    }
    let value = rest.strip_prefix(' ').ok_or("no space in front of the value")?;
    // Ours write neither timestamps nor exemplars; a further word would be one.
    Ok(Sample { name: name.to_owned(), labels, value: number(value)? })
}

/// From behind the `{` to behind the `}`.
fn read_labels<'a>(
    mut rest: &'a str,
    labels: &mut BTreeMap<String, String>,
) -> Result<&'a str, String> {
    if let Some(after) = rest.strip_prefix('}') {
        return Ok(after);
    }
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, false) || name.starts_with("__") {
            return Err(format!("{name:?} is no name of a label"));
        }
        let mut end = None;
        let mut escaped = false;
        for (at, char) in after.char_indices() {
            match char {
                '"' if !escaped => {
                    end = Some(at);
                    break;
                }
                _ => escaped = char == '\\' && !escaped,
            }
        }
        let end = end.ok_or("a label's value without an end")?;
        let value = unescape(&after[..end])?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name} twice"));
        }
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

fn number(text: &str) -> Result<f64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(|c| c.is_ascii_digit() || "eE+-.".contains(c));
    match text {
        "NaN" => Ok(f64::NAN),
        "+Inf" | "Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        _ if plain => text.parse().map_err(|_| format!("{text:?} is no number")),
        _ => Err(format!("{text:?} is no number")),
    }
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    SUFFIXES.iter().find(|(known, _)| *known == kind).map_or(&[], |(_, suffixes)| suffixes)
}

fn belongs(family: &Family, sample: &Sample) -> Result<(), String> {
    let suffix = sample.name.strip_prefix(&family.name);
    match suffix.is_some_and(|suffix| suffixes(&family.kind).contains(&suffix)) {
        true => Ok(()),
        false => Err(format!("no sample of the {} {}", family.kind, family.name)),
    }
}

/// No two families may have a sample of the same name, written or not.
fn apart(families: &[Family]) -> Result<(), String> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for family in families {
        let names = suffixes(&family.kind).iter().map(|s| format!("{}{s}", family.name));
        for name in names.chain([family.name.clone()]).collect::<BTreeSet<_>>() {
            if let Some(other) = owners.insert(name.clone(), &family.name) {
                return Err(format!("{name} is of {other} and of {}", family.name));
            }
        }
    }
    Ok(())
}

fn check(family: &Family) -> Result<(), String> {
    let unit = &family.unit;
    if !unit.is_empty() && !family.name.ends_with(&format!("_{unit}")) {
        return Err(format!("its name does not end with its unit {unit}"));
    }
    if !unit.is_empty() && ["info", "stateset"].contains(&family.kind.as_str()) {
        return Err("a unit where there can be none".to_owned());
    }
    let mut seen = HashSet::new();
    let mut groups: Vec<Vec<(&str, &str)>> = Vec::new();
    for sample in &family.samples {
        let present = sample.labels.iter().filter(|(_, value)| !value.is_empty());
        let key: Vec<(&str, &str)> = present.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if !seen.insert((sample.name.as_str(), key.clone())) {
            return Err(format!("{sample:?} twice"));
        }
        let own = |name: &str| name != "le" && name != family.name;
        let group: Vec<_> = key.into_iter().filter(|(name, _)| own(name)).collect();
        if groups.last() != Some(&group) {
            if groups.contains(&group) {
                return Err(format!("the samples of {group:?} are interleaved with others"));
            }
            groups.push(group);
        }
        check_sample(family, sample)?;
    }
    if family.kind == "histogram" {
        for group in &groups {
            check_histogram(family, group)?;
        }
    }
    Ok(())
}

fn check_sample(family: &Family, sample: &Sample) -> Result<(), String> {
    let value = sample.value;
    let good = match family.kind.as_str() {
        "counter" => value >= 0.0,
        "info" => value == 1.0,
        "stateset" => {
            let state = sample.labels.get(&family.name);
            state.is_some_and(|state| !state.is_empty()) && (value == 0.0 || value == 1.0)
        }
        "histogram" => value >= 0.0,
        _ => true,
    };
    if good { Ok(()) } else { Err(format!("{sample:?} cannot be one of a {}", family.kind)) }
}

fn check_histogram(family: &Family, group: &[(&str, &str)]) -> Result<(), String> {
    let of = |suffix: &str| -> Vec<&Sample> {
        let name = format!("{}{suffix}", family.name);
        let same = |sample: &&Sample| {
            let labels = sample.labels.iter().filter(|(n, v)| *n != "le" && !v.is_empty());
            labels.map(|(n, v)| (n.as_str(), v.as_str())).eq(group.iter().copied())
        };
        family.samples.iter().filter(|s| s.name == name).filter(same).collect()
    };
    let mut last = (f64::NEG_INFINITY, 0.0);
    for bucket in of("_bucket") {
        let bound = bucket.label("le");
        let le = number(bound)?;
        // "1", "1.0" and "1e0" would be three series.
        let canonical = le == f64::INFINITY && bound == "+Inf" || bound == format!("{le:?}");
        if !canonical {
            return Err(format!("le={bound:?} is not how a number is written"));
        }
        if le <= last.0 || bucket.value < last.1 {
            return Err(format!("the buckets do not rise at le={bound:?}"));
        }
        last = (le, bucket.value);
    }
    if last.0 != f64::INFINITY {
        return Err("no bucket +Inf".to_owned());
    }
    let (counts, sums) = (of("_count"), of("_sum"));
    match (&counts[..], &sums[..]) {
        ([count], [_]) if count.value == last.1 => Ok(()),
        ([], []) => Ok(()),
        _ => Err("count and sum do not go with the buckets".to_owned()),
    }
}

/// What the reader must refuse: a reader that takes everything proves nothing.
#[test]
fn the_strict_reader_refuses_what_is_wrong() {
    let good = "# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n# HELP a_seconds x\n\
                a_seconds_bucket{le=\"0.1\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\n\
                a_seconds_count 2\na_seconds_sum 0.3\n# TYPE b counter\nb_total{x=\"\\\"\\n\\\\\"} 1\n\
                # TYPE c stateset\nc{c=\"on\"} 1\nc{c=\"off\"} 0\n# TYPE d info\nd_info{v=\"1\"} 1\n\
                # EOF\n";
    let families = parse(good).unwrap();
    assert_eq!(families.len(), 4);
    assert_eq!(families[1].samples[0].label("x"), "\"\n\\");
    for (from, to, why) in [
        ("# EOF\n", "", "does not end with # EOF"),
        ("# EOF", "\n# EOF", "no value"),
        ("# TYPE b counter", "# TYPE b kounter", "no such type"),
        ("b_total", "b", "no sample of the counter"),
        ("\\n\\\\", "\\t", "an escape of"),
        ("le=\"0.1\"", "le=\"0.10\"", "not how a number is written"),
        ("le=\"0.1\"} 1", "le=\"0.1\"} 3", "do not rise"),
        ("a_seconds_bucket{le=\"+Inf\"} 2\n", "", "no bucket +Inf"),
        ("a_seconds_count 2", "a_seconds_count 3", "do not go with the buckets"),
        ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes", "end with its unit"),
        ("c{c=\"off\"} 0", "c{c=\"on\"} 0", "twice"),
        ("c{c=\"off\"} 0", "c{c=\"off\"} 2", "cannot be one of a stateset"),
        ("d_info{v=\"1\"} 1", "d_info{v=\"1\"} 2", "cannot be one of a info"),
        (
            "# TYPE d info",
            "# TYPE b_total gauge\nb_total 1\n# TYPE d info",
            "is of b and of b_total",
        ),
        ("# TYPE d info", "# HELP b late\n# TYPE d info", "interleaved"),
        ("d_info{v=\"1\"}", "d_info{v=\"1\",v=\"2\"}", "the label v twice"),
        ("d_info{v=\"1\"} 1", "d_info{v=\"1\"}  1", "is no number"),
        ("d_info{v=\"1\"} 1", "d_info{v=\"1\"} 1 2", "is no number"),
        ("d_info{v=\"1\"} 1", "d_info{v=\"a\nb\"} 1", "without an end"),
        ("d_info{v=\"1\"} 1", "d_info{v-w=\"1\"} 1", "no name of a label"),
        ("b_total{", "b_total {", "is no number"),
        ("# HELP a_seconds x", "# HELP a_seconds \"x\"", "not escaped"),
        ("# HELP a_seconds x", "# Help a_seconds x", "neither TYPE"),
        ("# HELP a_seconds x", "#HELP a_seconds x", "no space after #"),
        ("1\n# TYPE c", "-1\n# TYPE c", "cannot be one of a counter"),
    ] {
        assert!(good.contains(from), "{from:?}");
        let error = parse(&good.replacen(from, to, 1)).expect_err(to);
        assert!(error.contains(why), "{to:?}: {error}");
    }
}
