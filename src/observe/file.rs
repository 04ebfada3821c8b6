//! The file of records: one JSON object a line, rotated by size, a bounded number kept. For the
//! writer thread: a slow disk holds up nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::units::Bytes;

#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    most: Bytes,
    keep: u32,
    open: Option<(File, u64)>,
}

impl Log {
    /// A log that grows to `most` bytes before it is put aside as `.1`, of which `keep` are kept.
    pub fn new(path: &Path, most: Bytes, keep: u32) -> Log {
        Log { path: path.to_owned(), most, keep, open: None }
    }

    /// Appends one line. After an error the file is opened again for the next record.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2). A line that was written in part (ENOSPC) is ended by the
    /// next one's newline, so that it costs one record and not two.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        let result = self.try_append(line);
        if result.is_err() {
            self.open = None;
        }
        result
    }

    fn try_append(&mut self, line: &str) -> io::Result<()> {
        let grown = line.len() as u64 + 1;
        if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + grown > self.most.0) {
            self.open = None;
            self.rotate()?;
        }
        if self.open.is_none() {
            self.open = Some(self.open_file()?);
        }
        let Some((file, size)) = &mut self.open else { return Ok(()) };
        let mut text = String::with_capacity(line.len() + 1);
        text.push_str(line);
        text.push('\n');
        file.write_all(text.as_bytes())?;
        *size += grown;
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        // 0640: notebook paths and process names are their users' business.
        let mut file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&self.path)?;
        let size = file.metadata()?.len();
        if size > 0 && !ends_with_newline(&self.path, size)? {
            file.write_all(b"\n")?;
        }
        Ok((file, size))
    }

    fn rotate(&self) -> io::Result<()> {
        for old in (1..self.keep).rev() {
            ignore_missing(fs::rename(self.aside(old), self.aside(old + 1)))?;
        }
        if self.keep == 0 {
            return ignore_missing(fs::remove_file(&self.path));
        }
        ignore_missing(fs::rename(&self.path, self.aside(1)))
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

fn ends_with_newline(path: &Path, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0u8; 1];
    File::open(path)?.read_exact_at(&mut last, size - 1)?;
    Ok(last[0] == b'\n')
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("nbguard-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn it_is_rotated_by_size_and_keeps_so_many() {
        let dir = folder("rotate");
        let path = dir.join("incidents.jsonl");
        let mut log = Log::new(&path, Bytes(20), 2);
        for n in 0..9 {
            log.append(&format!("record {n}")).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("incidents.jsonl"), "record 8\n");
        assert_eq!(read("incidents.jsonl.1"), "record 6\nrecord 7\n");
        assert_eq!(read("incidents.jsonl.2"), "record 4\nrecord 5\n");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let dir = folder("cut");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("incidents.jsonl");
        fs::write(&path, "{\"cut").unwrap();
        let mut log = Log::new(&path, Bytes::mib(1), 1);
        log.append("{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"cut\n{}\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_next_record_is_tried_again() {
        let mut log = Log::new(Path::new("/dev/full"), Bytes::mib(1), 1);
        assert_eq!(log.append("{}").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert!(log.append("{}").is_err());
    }
}
