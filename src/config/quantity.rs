//! Quantities as people write them: `512M`, `90%`, `1m30s`, `some 150ms/1s`, and back.
//! Every error is a sentence for whoever wrote the text. Pure.

use std::time::Duration;

use super::Amount;
use crate::units::{Bytes, Share, StallKind, Trigger};

/// Whatever was wrong, in words.
pub type Parsed<T> = Result<T, String>;

/// Docker, systemd and the kernel read `M` as MiB; so do all spellings here, `MB` too
/// (docker/go-units `RAMInBytes`). A bare number is bytes.
const UNITS: [(&str, u32); 6] = [("B", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// More digits after the point than a size can tell apart.
const SIZE_DECIMALS: u32 = 6;

/// # Errors
/// What is wrong with the text, in words.
pub fn parse_size(text: &str) -> Parsed<Bytes> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("less than nothing".to_owned());
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let shift = size_unit(unit).ok_or_else(|| {
        format!("{:?} is no unit of size: K, M, G, T or P, by powers of 1024", clip(unit))
    })?;
    if shift == 0 && number.contains('.') {
        return Err("there is no part of a byte; is the unit missing?".to_owned());
    }
    let too_large = || "more bytes than can be counted".to_owned();
    let millionths = decimal(number, SIZE_DECIMALS)?.ok_or_else(too_large)?;
    let scaled = millionths.checked_mul(1 << shift).ok_or_else(too_large)?;
    u64::try_from(scaled / 10u128.pow(SIZE_DECIMALS)).map(Bytes).map_err(|_| too_large())
}

/// By how many bits a unit shifts: `M`, `MB`, `MiB` in any case.
fn size_unit(unit: &str) -> Option<u32> {
    if unit.is_empty() {
        return Some(0);
    }
    let unit = unit.to_ascii_uppercase();
    let letter = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let letter = if unit == "B" { "B" } else { letter };
    UNITS.iter().find(|(name, shift)| *name == letter && (*shift > 0 || unit == "B")).map(|u| u.1)
}

/// The largest unit that needs no fraction: `16M`, `1536K`, `1000`.
pub fn size_text(bytes: Bytes) -> String {
    let fits = |shift: u32| bytes.0 != 0 && bytes.0.is_multiple_of(1 << shift);
    match UNITS[1..].iter().rev().find(|(_, shift)| fits(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes.0 >> shift),
        None => bytes.0.to_string(),
    }
}

/// `90%`, `12.5 %`, or a fraction of one with its point: `0.9`.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_share(text: &str) -> Parsed<Share> {
    let text = text.trim();
    let (number, places) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 2),
        None if text.contains('.') || text == "0" => (text, 4),
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(format!("is that a percentage? Then write \"{}%\"", clip(text)));
        }
        None => return Err(format!("{:?} is no share", clip(text))),
    };
    let parts = decimal(number, places)?;
    parts
        .and_then(|parts| u32::try_from(parts).ok())
        .map(Share)
        .ok_or_else(|| "far more than all".to_owned())
}

/// As it is written in the configuration: `90%`.
pub fn share_text(share: Share) -> String {
    share.to_string().replace(' ', "")
}

/// A size or a share.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_amount(text: &str) -> Parsed<Amount> {
    if text.trim_end().ends_with('%') {
        return parse_share(text).map(Amount::Share);
    }
    parse_size(text).map(Amount::Bytes)
}

/// # Errors
/// What is wrong with the text, in words.
pub fn parse_duration(text: &str) -> Parsed<Duration> {
    let text = text.trim();
    humantime::parse_duration(text).map_err(|error| {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return format!("the unit is missing: \"{0}s\" or \"{0}ms\"", clip(text));
        }
        let error = error.to_string();
        format!("{:?} is no duration: {}", clip(text), clip(&error))
    })
}

pub fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// `some 150ms/1s`, or as the kernel takes it, in microseconds: `some 150000 1000000`.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_trigger(text: &str) -> Parsed<Trigger> {
    let form = || "write it as \"some 150ms/1s\": kind, stall, window".to_owned();
    let (kind, rest) = text.trim().split_once(char::is_whitespace).ok_or_else(form)?;
    let kind = match kind {
        "some" => StallKind::Some,
        "full" => StallKind::Full,
        _ => return Err(format!("{:?} is neither some nor full", clip(kind))),
    };
    let (stall_us, window_us) = match rest.split_once('/') {
        Some((stall, window)) => (micros(stall)?, micros(window)?),
        None => {
            let (stall, window) = rest.trim().split_once(char::is_whitespace).ok_or_else(form)?;
            let number = |text: &str| text.trim().parse().map_err(|_| form());
            (number(stall)?, number(window)?)
        }
    };
    Trigger::new(kind, stall_us, window_us).map_err(str::to_owned)
}

fn micros(text: &str) -> Parsed<u64> {
    let duration = parse_duration(text)?;
    u64::try_from(duration.as_micros()).map_err(|_| "far too long".to_owned())
}

/// As it is written in the configuration: `some 150ms/1s`.
pub fn trigger_text(trigger: Trigger) -> String {
    let kind = match trigger.kind() {
        StallKind::Some => "some",
        StallKind::Full => "full",
    };
    let text = |us| duration_text(Duration::from_micros(us));
    format!("{kind} {}/{}", text(trigger.stall_us()), text(trigger.window_us()))
}

/// Reads `12.5` as so many units of 10^-places; `None` where that does not fit into 64 bits.
/// No binary fraction on the way: 0.29 stays 29 hundredths.
fn decimal(text: &str, places: u32) -> Parsed<Option<u128>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let hollow = whole.is_empty() || (text.contains('.') && fraction.is_empty());
    if hollow || !digits(whole) || !digits(fraction) {
        return Err(match text.trim_start().starts_with('-') {
            true => "less than nothing".to_owned(),
            false if text.is_empty() => "the number is missing".to_owned(),
            false => format!("{:?} is no number", clip(text)),
        });
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places as usize {
        return Err(format!("more than {places} digits after the point"));
    }
    let whole = whole.parse::<u64>().ok().map(u128::from);
    let part: u128 = format!("{fraction:0<width$}", width = places as usize).parse().unwrap_or(0);
    Ok(whole.map(|whole| whole * 10u128.pow(places) + part))
}

/// So much of a text as belongs into a message.
pub(super) fn clip(text: &str) -> &str {
    const MAX: usize = 40;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512M", Ok(Bytes::mib(512))),
            ("512m", Ok(Bytes::mib(512))),
            ("512MB", Ok(Bytes::mib(512))),
            ("512 MiB", Ok(Bytes::mib(512))),
            ("1.5G", Ok(Bytes::mib(1536))),
            ("1GiB", Ok(Bytes::gib(1))),
            ("64KiB", Ok(Bytes::kib(64))),
            ("2T", Ok(Bytes::gib(2048))),
            ("100", Ok(Bytes(100))),
            ("100B", Ok(Bytes(100))),
            ("0", Ok(Bytes(0))),
            ("18446744073709551615", Ok(Bytes(u64::MAX))),
            ("18446744073709551616", Err("counted")),
            ("20000P", Err("counted")),
            ("1.5", Err("unit missing")),
            ("1.5B", Err("unit missing")),
            ("512X", Err("no unit")),
            ("512iB", Err("no unit")),
            ("12 34", Err("no unit")),
            ("M", Err("number is missing")),
            ("", Err("number is missing")),
            ("-1M", Err("less than nothing")),
            ("18446744073709551615P", Err("counted")),
            ("1.M", Err("no number")),
            (".5M", Err("no number")),
            ("1.2.3M", Err("no number")),
            ("1e3", Err("no unit")),
            ("1.0000001M", Err("digits")),
        ] {
            check(text, parse_size(text), expected);
        }
    }

    #[test]
    fn shares() {
        for (text, expected) in [
            ("90%", Ok(Share::percent(90))),
            ("90 %", Ok(Share::percent(90))),
            ("12.5%", Ok(Share(1250))),
            ("0.9", Ok(Share::percent(90))),
            ("0.29", Ok(Share::percent(29))),
            ("1.0", Ok(Share::ONE)),
            ("0", Ok(Share::ZERO)),
            ("0%", Ok(Share::ZERO)),
            ("250%", Ok(Share::percent(250))),
            ("90", Err("write \"90%\"")),
            ("1", Err("write \"1%\"")),
            ("90.001%", Err("digits")),
            ("0.90001", Err("digits")),
            ("%", Err("number is missing")),
            ("", Err("no share")),
            ("-0.5", Err("less than nothing")),
            ("-5%", Err("less than nothing")),
            ("inf", Err("no share")),
            ("9e-1.0", Err("no number")),
            ("99999999999999999999%", Err("far more")),
            ("4294967296%", Err("far more")),
        ] {
            check(text, parse_share(text), expected);
        }
    }

    #[test]
    fn durations_and_triggers() {
        check("1m30s", parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        check("5", parse_duration("5"), Err("unit is missing: \"5s\""));
        check("soon", parse_duration("soon"), Err("no duration"));
        check("", parse_duration(""), Err("no duration"));
        let trigger = |stall, window| Trigger::new(StallKind::Some, stall, window).unwrap();
        for (text, expected) in [
            ("some 150ms/1s", Ok(trigger(150_000, 1_000_000))),
            (" some  150 ms / 1 s ", Ok(trigger(150_000, 1_000_000))),
            ("some 150000 1000000", Ok(trigger(150_000, 1_000_000))),
            ("full 1s/2s", Ok(Trigger::new(StallKind::Full, 1_000_000, 2_000_000).unwrap())),
            ("any 150ms/1s", Err("neither some nor full")),
            ("some", Err("write it as")),
            ("some 150ms", Err("write it as")),
            ("some 150/1", Err("unit is missing")),
            ("some 150ms/100ms", Err("500ms to 10s")),
            ("some 2s/1s", Err("longer than its window")),
            ("some 0s/1s", Err("longer than nothing")),
            ("", Err("write it as")),
        ] {
            check(text, parse_trigger(text), expected);
        }
    }

    fn check<T: PartialEq + std::fmt::Debug>(text: &str, got: Parsed<T>, want: Result<T, &str>) {
        match (&got, &want) {
            (Err(got), Err(want)) => assert!(got.contains(want), "{text:?}: {got}"),
            _ => assert_eq!(got.as_ref().ok(), want.as_ref().ok(), "{text:?}: {got:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_size_is_read_as_it_was_written(bytes: u64, shift in 0u32..64) {
            let bytes = Bytes(bytes >> shift << (shift / 2));
            prop_assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn a_share_is_read_as_it_was_written(parts in 0u32..100_000) {
            prop_assert_eq!(parse_share(&share_text(Share(parts))), Ok(Share(parts)));
        }

        #[test]
        fn a_duration_is_read_as_it_was_written(ms in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }

        #[test]
        fn a_trigger_is_read_as_it_was_written(window in 500_000u64..=10_000_000, part in 1u64..100) {
            let trigger = Trigger::new(StallKind::Full, window * part / 100, window).unwrap();
            prop_assert_eq!(parse_trigger(&trigger_text(trigger)), Ok(trigger));
        }

        #[test]
        fn no_text_makes_them_panic(text in ".{0,30}", number in "[0-9.%a-zA-Z /-]{0,30}") {
            for text in [text, number] {
                let _ = (parse_size(&text), parse_share(&text), parse_amount(&text));
                let _ = (parse_duration(&text), parse_trigger(&text));
                let _ = parse_trigger(&format!("some {text}/{text}"));
            }
        }
    }
}
