//! The file in which the orders of `nbguard pause` and `nbguard protect` outlive the daemon:
//! replaced as a whole, versioned, bounded, with wall-clock times. It lies beside the note of what
//! was changed, and is no part of it: `nbguard restore` may throw that one away.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::policy::orders::{Order, Orders, Subject};

/// Its name in `guard.state_dir`.
pub const FILE: &str = "orders.json";

/// Version of the file's shape.
const VERSION: u32 = 1;
/// 256 orders of about 2 KiB each, twice.
const SIZE_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// The boot in which it was written: a process of another one is nobody's any more.
    boot: String,
    orders: Vec<Order>,
}

/// Reads what an earlier daemon kept. A file that is not there keeps nothing.
///
/// # Errors
/// It is there and cannot be read or understood; the text says what and where.
pub fn read(path: &Path, boot: &str) -> Result<Orders, String> {
    let words = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Orders::default()),
        Err(e) => return Err(words(&e)),
    };
    let mut text = String::new();
    file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(|e| words(&e))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(words(&"it is too large to be ours"));
    }
    let file: File = serde_json::from_str(&text).map_err(|e| words(&e))?;
    if file.version != VERSION {
        return Err(words(&format_args!("version {} is not {VERSION}", file.version)));
    }
    let mut orders = Orders::new(file.orders);
    if file.boot != boot {
        orders.take_back(|order| matches!(order.of, Subject::Process { .. }));
    }
    Ok(orders)
}

/// Replaces the file. The new one is complete before it takes the old one's place.
///
/// # Errors
/// As open(2), write(2), rename(2).
pub fn write(path: &Path, boot: &str, orders: &Orders) -> io::Result<()> {
    let orders = orders.entries().to_vec();
    super::replace(path, &File { version: VERSION, boot: boot.into(), orders })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::orders::{ORDERS_MAX, Origin, What};

    fn order(of: Subject) -> Order {
        Order { what: What::Protect, of, by: Origin::default(), at: 1, until: Some(2) }
    }

    fn process() -> Subject {
        Subject::Process {
            id: "a".into(),
            name: "lab".into(),
            pid: 1,
            start: 2,
            process: "R".into(),
        }
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let dir =
            std::env::temp_dir().join(format!("nbguard-orders-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn what_was_ordered_is_read_again_and_processes_end_with_the_boot() {
        let dir = folder("again");
        let path = dir.join(FILE);
        let hostile = Subject::Container { id: "b".into(), name: "\u{1b}\"\n".into() };
        let orders = Orders::new(vec![order(process()), order(hostile)]);
        write(&path, "boot-1", &orders).unwrap();
        assert_eq!(read(&path, "boot-1").unwrap(), orders);
        let later = read(&path, "boot-2").unwrap();
        assert_eq!(later.entries(), &orders.entries()[1..]);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_file_is_no_order_and_a_broken_one_an_error_with_its_place() {
        let dir = folder("broken");
        let path = dir.join(FILE);
        assert_eq!(read(&path, "").unwrap(), Orders::default());
        for (text, complaint) in [
            ("{\"version\":1,", "line 1"),
            ("{\"version\":9,\"boot\":\"\",\"orders\":[]}", "version 9"),
            ("\u{0}", "line 1"),
            (&" ".repeat(2 << 20), "too large"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path, "").unwrap_err();
            assert!(error.contains(FILE) && error.contains(complaint), "{error}");
        }
        let many = vec![order(process()); ORDERS_MAX * 2];
        let text = serde_json::json!({ "version": VERSION, "boot": "", "orders": many });
        fs::write(&path, text.to_string()).unwrap();
        assert_eq!(read(&path, "").unwrap().entries().len(), ORDERS_MAX);
        fs::remove_dir_all(dir).unwrap();
    }
}
