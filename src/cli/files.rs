//! The configuration that an option names, or the default one, for all commands alike.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::config::{Config, Errors, Warning};
use crate::host::conf;

/// Where the package puts it.
pub const DEFAULT: &str = "/etc/nbguard/nbguard.toml";

/// The files that count. `main` may only be missing where it is the default: then every key is
/// at its default.
///
/// # Errors
/// A file cannot be read; the text names it.
pub fn load(main: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    match conf::read_files(main) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && main == Path::new(DEFAULT) => {
            Ok(Vec::new())
        }
        read => read.map_err(|e| e.to_string()),
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    Read(String),
    Errors(Errors),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Read(message) => f.write_str(message),
            LoadError::Errors(errors) => write!(f, "{errors}"),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::Said(Exit::Config, error.to_string())
    }
}

/// The configuration that `main` stands for, with its warnings.
///
/// # Errors
/// A file cannot be read, or something in them is wrong.
pub fn config(main: &Path) -> Result<(Config, Vec<Warning>), LoadError> {
    let files = load(main).map_err(LoadError::Read)?;
    Config::read(&files).map_err(LoadError::Errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_may_be_missing() {
        let error = config(Path::new("/nonexistent/nbguard.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/nbguard.toml"), "{error}");
        assert_eq!(Failure::from(error).exit(), Exit::Config);
    }
}
