//! Reads the configuration's files from disk, in the order in which they count. What stands in
//! them is `config`'s business.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Drop-ins are beside the main file, in here.
const DROP_INS: &str = "conf.d";

/// The reference with all its comments has 8 KiB (wc -c conf/nbguard.toml); 1 MiB holds thousands of rules.
const FILE_MAX: u64 = 1 << 20;

/// More drop-ins than a configuration management writes.
const FILES_MAX: usize = 256;

/// The main file, then `conf.d/*.toml` beside it in the order of their names. Hidden files are
/// left out: editors and package managers keep their copies there.
///
/// # Errors
/// A file that cannot be read, is no regular file, is no UTF-8 or larger than 1 MiB. The message
/// has its path.
pub fn read_files(main: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut paths = vec![main.to_owned()];
    paths.extend(drop_ins(&main.with_file_name(DROP_INS))?);
    paths
        .into_iter()
        .map(|path| match read(&path) {
            Ok(text) => Ok((path, text)),
            Err(error) => Err(with_path(&path, error)),
        })
        .collect()
}

fn drop_ins(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| with_path(directory, error))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| with_path(directory, error))?.path();
        if is_drop_in(&path) {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            let error = io::Error::other(format!("more than {FILES_MAX} files"));
            return Err(with_path(directory, error));
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_drop_in(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

/// Symlinks are followed: the directory is the administrator's. A FIFO does not block.
fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: not UTF-8"))
    })
}

fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path =
                std::env::temp_dir().join(format!("nbguard-conf-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join(DROP_INS)).unwrap();
            Directory(path)
        }

        fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn drop_ins_follow_in_the_order_of_their_names() {
        let directory = Directory::new("order");
        let main = directory.put("nbguard.toml", b"main");
        for name in ["20-b.toml", "10-a.toml", "9.toml", ".hidden.toml", "x.toml.bak", "README"] {
            directory.put(&format!("conf.d/{name}"), name.as_bytes());
        }
        symlink(&main, directory.0.join("conf.d/30-link.toml")).unwrap();
        let texts: Vec<_> = read_files(&main).unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["main", "10-a.toml", "20-b.toml", "main", "9.toml"]);
    }

    #[test]
    fn the_main_file_alone_is_enough() {
        let directory = Directory::new("alone");
        let main = directory.put("nbguard.toml", b"");
        fs::remove_dir(directory.0.join(DROP_INS)).unwrap();
        assert_eq!(read_files(&main).unwrap(), [(main, String::new())]);
    }

    #[test]
    fn errors_name_the_file() {
        let directory = Directory::new("errors");
        let main = directory.put("nbguard.toml", b"");
        let error = |path: &Path| {
            let error = read_files(path).expect_err("it cannot be read");
            (error.kind(), error.to_string())
        };
        let missing = directory.0.join("missing.toml");
        let (kind, text) = error(&missing);
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert!(text.contains("missing.toml: "), "{text}");
        for (bytes, kind, message) in [
            (&b"a\n\xff"[..], io::ErrorKind::InvalidData, "x.toml: line 2: not UTF-8"),
            (&vec![b'#'; FILE_MAX as usize + 1], io::ErrorKind::FileTooLarge, "x.toml: larger"),
        ] {
            directory.put("conf.d/x.toml", bytes);
            let (found, text) = error(&main);
            assert_eq!(found, kind);
            assert!(text.contains(message), "{text}");
        }
        fs::remove_file(directory.0.join("conf.d/x.toml")).unwrap();
        fs::create_dir(directory.0.join("conf.d/d.toml")).unwrap();
        assert!(error(&main).1.contains("d.toml: not a regular file"));
    }
}
