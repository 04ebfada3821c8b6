//! The newest records of the file of records, for whoever asks over HTTP. Reads a bounded part of
//! its end; for a thread beside the loop, since a disk may take its time.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::report::SCHEMA;

/// What is read of the end at first, and at most. A record has 3 KiB; one with every bound
/// reached, 1 MiB.
const FIRST: u64 = 256 << 10;
const MOST: u64 = 4 << 20;

/// Of whose records only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whose {
    /// The container's id.
    pub id: String,
    /// RFC 3339, as in the records: older ones are of an earlier life of it.
    pub since: Option<String>,
}

/// The body of `/api/v1/incidents`: at most `limit` records, the newest first. A line that is no
/// record (cut off by a full disk) is passed over.
///
/// # Errors
/// As open(2) and read(2). A file that is not there has no records.
pub fn incidents(path: &Path, limit: u32, whose: Option<&Whose>) -> io::Result<Vec<u8>> {
    let mut body = Body { text: Vec::new(), left: limit, whose };
    body.text.extend_from_slice(format!("{{\"schema\":{SCHEMA},\"incidents\":[").as_bytes());
    let aside = {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        PathBuf::from(name)
    };
    for file in [path, &aside] {
        if body.left > 0 && body.take_file(file)?.is_break() {
            break;
        }
    }
    body.text.extend_from_slice(b"]}");
    Ok(body.text)
}

struct Body<'a> {
    text: Vec<u8>,
    left: u32,
    whose: Option<&'a Whose>,
}

impl Body<'_> {
    fn take_file(&mut self, path: &Path) -> io::Result<ControlFlow<()>> {
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
            Err(e) => return Err(e),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Ok(ControlFlow::Break(()));
        }
        let size = about.len();
        let (before, left) = (self.text.len(), self.left);
        let mut part = FIRST;
        loop {
            let from = size.saturating_sub(part);
            let mut text = vec![0; usize::try_from(size - from).unwrap_or(0)];
            file.read_exact_at(&mut text, from)?;
            let flow = self.take_lines(&text, from > 0);
            if flow.is_break() || from == 0 || part >= MOST {
                return Ok(flow);
            }
            // Too little was in it: a larger part, from the start.
            self.text.truncate(before);
            self.left = left;
            part *= 4;
        }
    }

    fn take_lines(&mut self, text: &[u8], cut: bool) -> ControlFlow<()> {
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        if cut {
            lines.remove(0);
        }
        for line in lines.into_iter().rev() {
            if self.left == 0 || self.text.len() as u64 > MOST {
                return ControlFlow::Break(());
            }
            self.take_line(line);
        }
        match self.left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn take_line(&mut self, line: &[u8]) {
        // Whatever else stands in it is passed over, but must be JSON.
        let Ok(glance) = serde_json::from_slice::<Glance>(line) else { return };
        let Some(whose) = self.whose else { return self.put(line) };
        let of_it = glance.container.is_some_and(|container| container.id == whose.id);
        let young = whose.since.as_ref().is_none_or(|since| glance.time >= *since);
        if !of_it || !young {
            return;
        }
        if glance.domain == "container" {
            self.put(line);
        } else if let Some(line) = alone(line) {
            self.put(&line);
        }
    }

    fn put(&mut self, line: &[u8]) {
        if !self.text.ends_with(b"[") {
            self.text.push(b',');
        }
        self.text.extend_from_slice(line);
        self.left -= 1;
    }
}

/// What a record is chosen by.
#[derive(Deserialize)]
struct Glance {
    time: String,
    domain: String,
    container: Option<Of>,
}

#[derive(Deserialize)]
struct Of {
    id: String,
}

/// A record of a domain of several containers, without what is not the victim's.
fn alone(line: &[u8]) -> Option<Vec<u8>> {
    let mut record: Value = serde_json::from_slice(line).ok()?;
    let victim = record["victim"]["pid"].as_u64();
    let domain = record["domain"].as_str().unwrap_or_default().to_owned();
    let rows = record["rows"].as_array_mut()?;
    rows.retain(|row| victim.is_some() && row["pid"].as_u64() == victim);
    record["servers"] = Value::Array(Vec::new());
    record["unattributed"] = serde_json::json!({ "count": 0, "memory": 0, "top": [] });
    let name = record["victim"]["notebook"].as_str().or(record["victim"]["name"].as_str());
    let sentence = match name {
        Some(name) => format!("Ends {name}: the {domain} is short of memory."),
        None => format!("The {domain} is short of memory."),
    };
    record["sentence"] = Value::String(sentence);
    serde_json::to_vec(&record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let dir =
                std::env::temp_dir().join(format!("nbguard-tail-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Place(dir.join("incidents.jsonl"))
        }

        fn told(&self, limit: u32, whose: Option<&Whose>) -> Vec<Value> {
            let body = incidents(&self.0, limit, whose).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["schema"], 1);
            body["incidents"].as_array().unwrap().clone()
        }

        fn ids(&self, limit: u32) -> Vec<u64> {
            self.told(limit, None).iter().map(|i| i["n"].as_u64().unwrap()).collect()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    fn line(n: u64, container: &str, domain: &str, pad: usize) -> String {
        format!(
            "{{\"n\":{n},\"time\":\"2026-11-{:02}T00:00:00.000Z\",\"domain\":\"{domain}\",\
             \"container\":{{\"id\":\"{container}\"}},\"rows\":[{{\"pid\":1,\"notebook\":\"mine\"}},\
             {{\"pid\":2,\"notebook\":\"theirs\"}}],\"servers\":[{{\"pid\":3}}],\
             \"victim\":{{\"pid\":1,\"notebook\":\"mine\"}},\"sentence\":\"next is theirs\",\
             \"unattributed\":{{\"count\":9}},\"pad\":\"{}\"}}\n",
            n % 28 + 1,
            "x".repeat(pad)
        )
    }

    #[test]
    fn the_newest_come_first_and_no_more_than_asked_for() {
        let place = Place::new("newest");
        assert!(place.told(5, None).is_empty(), "no file, no records");
        let text: String = (0..9).map(|n| line(n, "a", "container", 0)).collect();
        fs::write(&place.0, text + "{\"cut off").unwrap();
        assert_eq!(place.ids(3), [8, 7, 6]);
        assert_eq!(place.ids(0), [0; 0]);
        assert_eq!(place.ids(100).len(), 9);
        let old: String = (20..22).map(|n| line(n, "a", "container", 0)).collect();
        fs::write(place.0.with_extension("jsonl.1"), old).unwrap();
        assert_eq!(place.ids(100)[8..], [0, 21, 20], "what was put aside comes after");
    }

    #[test]
    fn a_large_file_is_read_as_far_as_it_must_be_and_not_further() {
        let place = Place::new("large");
        let text: String = (0..100).map(|n| line(n, "a", "container", 20_000)).collect();
        fs::write(&place.0, text).unwrap();
        let ids = place.ids(60);
        assert_eq!((ids.len(), ids[0], ids[59]), (60, 99, 40));
        let text: String = (0..400).map(|n| line(n, "a", "container", 20_000)).collect();
        fs::write(&place.0, text).unwrap();
        let body = incidents(&place.0, 500, None).unwrap();
        assert!(body.len() as u64 <= MOST + (1 << 20), "{}", body.len());
        assert!(serde_json::from_slice::<Value>(&body).is_ok());
    }

    #[test]
    fn a_container_is_told_of_itself_alone_and_of_this_life() {
        let place = Place::new("whose");
        let text = line(1, "a", "container", 0)
            + &line(2, "b", "container", 0)
            + &line(3, "a", "host", 0)
            + "{\"time\":\"2026\",\"domain\":\"host\",\"container\":null}\n";
        fs::write(&place.0, text).unwrap();
        let mut whose = Whose { id: "a".to_owned(), since: None };
        let told = place.told(9, Some(&whose));
        assert_eq!(told.len(), 2);
        let host = &told[0];
        assert_eq!((host["n"].as_u64(), host["rows"].as_array().unwrap().len()), (Some(3), 1));
        assert!(!host.to_string().contains("theirs"), "{host}");
        assert_eq!(host["servers"].as_array().unwrap().len(), 0);
        whose.since = Some("2026-11-03T00:00:00.000Z".to_owned());
        assert_eq!(place.told(9, Some(&whose)).len(), 1);
        whose.id = "c".to_owned();
        assert!(place.told(9, Some(&whose)).is_empty());
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        assert!(
            incidents(Path::new("/dev/full"), 5, None).is_ok_and(|body| body.ends_with(b"[]}"))
        );
        assert!(incidents(Path::new("/proc/self/mem"), 5, None).is_ok());
        assert!(incidents(Path::new("/root/../proc/1/fd/x/y"), 5, None).is_ok());
    }
}
