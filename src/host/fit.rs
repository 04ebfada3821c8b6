//! Whether one can guard here at all: what `nbguard doctor` says of it, and why the daemon does not
//! start. In one place, so that both use the same words. Changes nothing.

use std::fmt;

use crate::roots::Roots;
use crate::sys::{self, pidfd};

/// What keeps anybody from guarding here, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub found: String,
    pub remedy: &'static str,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: it takes {}", self.found, self.remedy)
    }
}

/// Whether processes can be named by a descriptor (pidfd_open, since Linux 5.3): a signal that is
/// sent to a number may reach whoever has that number by then.
///
/// # Errors
/// The kernel has no pidfds, or whoever runs this may not have them.
pub fn to_guard(roots: &Roots) -> Result<(), Unfit> {
    match pidfd::open(std::process::id()) {
        Ok(_) => Ok(()),
        // It has them, and gave none just now.
        Err(error) if sys::may_pass(&error) => Ok(()),
        Err(error) => Err(Unfit {
            found: format!("Linux {}: no pidfd_open: {error}", kernel(roots)),
            remedy: "a kernel of 5.3 or later; without it a reused pid could be hit",
        }),
    }
}

/// The kernel's release, for the sentence.
pub fn kernel(roots: &Roots) -> String {
    let release = std::fs::read_to_string(roots.path("/proc/sys/kernel/osrelease"));
    release.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_missing_and_what_it_takes() {
        let unfit = Unfit { found: "Linux 4.18".to_owned(), remedy: "a kernel of 5.3 or later" };
        assert_eq!(unfit.to_string(), "Linux 4.18: it takes a kernel of 5.3 or later");
    }
}
