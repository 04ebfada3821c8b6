//! An incident as an entry of the journal: fields that can be asked for one by one, and a message
//! id, under which `packaging/nbguard.catalog` has the explanation. The message itself is the line
//! that everybody else gets. Formats and sends; decides nothing.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::report::{Incident, Kind};

/// Where systemd-journald listens (systemd-journald.service(8)).
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The id of each kind, as the catalog has them. They never change.
pub const MESSAGES: [(Kind, &str); 3] = [
    (Kind::Kill, "4b4d1a60fcec4ea5ab86aded869ffdf4"),
    (Kind::Hold, "7301d20f245f49a1994ffadf8c0483f3"),
    (Kind::KernelOom, "2847284a925b4a27ae3e92f56a73f6dd"),
];

/// Longest value of a field of its own. What is longer is in the record. The texts of a record are
/// escaped already.
const VALUE_MAX: usize = 1024;

/// syslog(3): an error, a warning, a notice.
pub fn priority(kind: Kind) -> u8 {
    match kind {
        Kind::KernelOom => 3,
        Kind::Kill => 4,
        Kind::Hold => 5,
    }
}

/// The entry in journald's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): the line as its
/// message, and what the line says as fields.
pub fn entry(incident: &Incident, line: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() + 1024);
    let mut put = |key: &str, value: &str| put_field(&mut out, key, value);
    put("MESSAGE", line);
    let id = MESSAGES.iter().find(|(kind, _)| *kind == incident.kind);
    put("MESSAGE_ID", id.map_or("", |(_, id)| id));
    put("PRIORITY", &priority(incident.kind).to_string());
    put("SYSLOG_IDENTIFIER", "nbguardd");
    put("NBGUARD_EPISODE", &incident.id);
    put("NBGUARD_KIND", word(incident.kind));
    put("NBGUARD_REASON", &incident.reason);
    put("NBGUARD_SENTENCE", bounded(&incident.sentence));
    put("NBGUARD_DOMAIN", &incident.domain);
    if incident.dry_run {
        put("NBGUARD_DRY_RUN", "true");
    }
    if let Some(container) = &incident.container {
        put("NBGUARD_CONTAINER", bounded(&container.name));
        put("NBGUARD_CONTAINER_ID", bounded(&container.id));
    }
    put("NBGUARD_USAGE", &incident.figures.usage.0.to_string());
    put("NBGUARD_TOTAL", &incident.figures.total.0.to_string());
    if let Some(victim) = &incident.victim {
        put("NBGUARD_PID", &victim.pid.to_string());
        put("NBGUARD_MEMORY", &victim.memory.0.to_string());
        let notebook = victim.notebook.as_ref().unwrap_or(&victim.name);
        put("NBGUARD_NOTEBOOK", bounded(notebook));
    }
    out
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(VALUE_MAX)]
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Kill => "kill",
        Kind::Hold => "hold",
        Kind::KernelOom => "kernel-oom",
    }
}

/// A value with a newline would begin the next field: it goes with its length instead.
fn put_field(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// Sends an entry, or says at once why not.
///
/// # Errors
/// Nobody listens, journald does not keep up (EAGAIN), or the entry is too large for a datagram.
pub fn send(socket: &Path, entry: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(entry, socket).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident() -> Incident {
        let text = include_str!("../../tests/fixtures/incident.json");
        serde_json::from_str(text).expect("the fixture is a record")
    }

    /// Reads as journald does.
    pub fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|b| *b == b'\n').unwrap();
            let (line, rest) = entry.split_at(end);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            if let Some(equals) = line.iter().position(|b| *b == b'=') {
                fields.push((text(&line[..equals]), text(&line[equals + 1..])));
                entry = &rest[1..];
            } else {
                let len =
                    usize::try_from(u64::from_le_bytes(rest[1..9].try_into().unwrap())).unwrap();
                fields.push((text(line), text(&rest[9..9 + len])));
                assert_eq!(rest[9 + len], b'\n');
                entry = &rest[10 + len..];
            }
        }
        fields
    }

    #[test]
    fn an_entry_has_its_id_and_the_line_as_its_message() {
        let incident = incident();
        let line = crate::observe::line::line(&incident);
        let fields = fields(&entry(&incident, &line));
        let of = |key: &str| {
            let mut found = fields.iter().filter(|(name, _)| name == key);
            let value = found.next().map(|(_, value)| value.as_str());
            assert!(found.next().is_none(), "{key} twice");
            value
        };
        assert_eq!(of("MESSAGE"), Some(line.as_str()));
        assert_eq!(of("MESSAGE_ID"), Some("4b4d1a60fcec4ea5ab86aded869ffdf4"));
        assert_eq!(of("PRIORITY"), Some("4"));
        assert_eq!(of("SYSLOG_IDENTIFIER"), Some("nbguardd"));
        assert_eq!(of("NBGUARD_EPISODE"), Some(incident.id.as_str()));
        assert_eq!(of("NBGUARD_KIND"), Some("kill"));
        assert_eq!(of("NBGUARD_CONTAINER"), Some("nbguard-demo"));
        assert_eq!(of("NBGUARD_NOTEBOOK"), Some("/home/jovyan/growing.ipynb"));
        assert_eq!(of("NBGUARD_USAGE"), Some("483639296"));
        for (key, _) in &fields {
            let valid = |b: u8| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit();
            assert!(key.bytes().all(valid) && !key.starts_with('_') && key.len() <= 64, "{key}");
        }
    }

    #[test]
    fn a_name_with_a_newline_makes_no_field_of_its_own() {
        let mut incident = incident();
        let forged = "lab\nMESSAGE_ID=00000000000000000000000000000000\nPRIORITY=0";
        incident.container.as_mut().unwrap().name = forged.to_owned();
        incident.victim.as_mut().unwrap().notebook = Some(forged.repeat(500));
        let mut entry = entry(&incident, "a message\nPRIORITY=0\nof two lines");
        // The format itself can carry them, whoever puts them in.
        put_field(&mut entry, "LAST", forged);
        let fields = fields(&entry);
        let many = |key: &str| fields.iter().filter(|(name, _)| name == key).count();
        assert_eq!((many("MESSAGE_ID"), many("PRIORITY"), many("MESSAGE")), (1, 1, 1));
        assert_eq!(fields[0].1, "a message\nPRIORITY=0\nof two lines");
        assert_eq!(fields.last().unwrap().1, forged);
        assert!(fields.iter().all(|(_, value)| value.len() <= VALUE_MAX));
    }

    #[test]
    fn a_socket_that_is_full_or_not_there_is_said_at_once() {
        let path = std::env::temp_dir().join(format!("nbguard-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let missing = send(&path, b"MESSAGE=x\n").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let journal = UnixDatagram::bind(&path).unwrap();
        send(&path, b"MESSAGE=x\n").unwrap();
        let mut got = [0; 64];
        let len = journal.recv(&mut got).unwrap();
        assert_eq!(&got[..len], b"MESSAGE=x\n");
        let full = (0..100_000).find_map(|_| send(&path, b"MESSAGE=x\n").err());
        assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(journal);
        let refused = send(&path, b"MESSAGE=x\n").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(path).unwrap();
    }
}
