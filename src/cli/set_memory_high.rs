//! `nbguard set-memory-high` (hidden): sets `MemoryHigh=` of units through systemd, as the daemon's
//! child, because the D-Bus client is too heavy to live in the daemon.

use std::io::Write;

use cgroups_rs::systemd::SystemdClient;
use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::facts::Limit;
use crate::parse;
use crate::units::Bytes;

/// Bytes of the reason that are printed: all of one call fit into a pipe.
const WHY: usize = 512;

#[derive(Args, Debug)]
pub struct SetMemoryHighArgs {
    /// A unit and its value: bytes, or `max`
    #[arg(required = true, value_name = "UNIT=VALUE", value_parser = assignment)]
    pub values: Vec<(String, Limit)>,
}

fn assignment(text: &str) -> Result<(String, Limit), String> {
    let (unit, value) = text.split_once('=').ok_or("not UNIT=VALUE")?;
    // What systemd names a unit (systemd.unit(5)); this also keeps the D-Bus call well-formed.
    let named = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    let typed = unit.ends_with(".scope") || unit.ends_with(".slice") || unit.ends_with(".service");
    if !typed || unit.len() > 255 || !unit.bytes().all(named) {
        return Err(format!(
            "`{}` is not a scope, slice or service",
            parse::escape(unit.as_bytes(), 64)
        ));
    }
    let value = match value {
        "max" => Limit::Max,
        _ => Limit::At(Bytes(value.parse().map_err(|e| format!("{e}"))?)),
    };
    Ok((unit.to_owned(), value))
}

/// Prints a line `UNIT: WHY` for each that could not be set, which the daemon reads.
pub fn run(args: &SetMemoryHighArgs, out: &mut dyn Write) -> Outcome {
    let mut failed = 0;
    for (unit, value) in &args.values {
        // The others are set although one has failed: each is a container of its own.
        let Err(why) = set(unit, *value) else { continue };
        failed += 1;
        writeln!(out, "{unit}: {}", parse::escape(why.as_bytes(), WHY))?;
    }
    if failed == 0 {
        return Ok(Exit::Ok);
    }
    Err(Failure::wrong(format!("{failed} of {} not set", args.values.len())))
}

/// Sets the runtime property of one unit.
///
/// # Errors
/// The unit does not exist, or systemd cannot be asked or refused.
pub fn set(unit: &str, value: Limit) -> Result<(), String> {
    // systemd's `infinity` is the largest number (systemd.resource-control(5), sd-bus).
    let bytes = value.bytes().map_or(u64::MAX, |bytes| bytes.0);
    let mut client = SystemdClient::new(unit, Vec::new()).map_err(|e| e.to_string())?;
    // cgroups-rs 0.5.1 calls a missing unit, and a bus that cannot be reached, a success.
    if !client.exists() {
        return Err("no such unit, or systemd cannot be asked".to_owned());
    }
    client
        .set_properties(&[("MemoryHigh", bytes.into())])
        .map_err(|e| format!("MemoryHigh={value}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_units_with_values_and_nothing_else() {
        let scope = format!("docker-{}.scope", "ab".repeat(32));
        assert_eq!(assignment(&format!("{scope}=max")), Ok((scope.clone(), Limit::Max)));
        let slice = "machine-a\\x2db.slice";
        let value = Limit::At(Bytes(4096));
        assert_eq!(assignment(&format!("{slice}=4096")), Ok((slice.into(), value)));
        for bad in [
            "x.scope",
            "x.scope=",
            "x.scope=-1",
            "x.timer=1",
            "a b.scope=1",
            "/x.scope=1",
            "x\u{1b}.scope=1",
            "=max",
        ] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }
}
