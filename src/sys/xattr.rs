//! Extended attributes (lgetxattr(2)).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Whether a file has an attribute. What cannot be read counts as not there: the attributes of
/// `trusted.` are invisible without CAP_SYS_ADMIN.
pub fn has(path: &Path, attribute: &CStr) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both strings end in NUL and live through the call; with size 0 nothing is written
    // to the value (lgetxattr(2)).
    unsafe { libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), ptr::null_mut(), 0) >= 0 }
}

/// Sets one, for tests; `false` where the filesystem takes none.
#[cfg(test)]
pub(crate) fn set(path: &Path, attribute: &CStr, value: &[u8]) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path of a test has no NUL");
    let data = value.as_ptr().cast();
    // SAFETY: both strings end in NUL, `data` and the length are those of one live slice.
    unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), data, value.len(), 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_there() {
        assert!(!has(Path::new("/"), c"user.nbguard-test"));
        assert!(!has(Path::new("/nonexistent"), c"user.delegate"));
        assert!(!has(Path::new("a\0b"), c"user.delegate"));
    }
}
