//! What argv does not say of a process that runs PHP: where its script is, and whether an Apache
//! has PHP in it. Reads two more files of it, and only of one whose argv speaks of PHP. May block
//! as long as reading argv may.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::read;

use crate::parse::php_argv::Said;
use crate::policy::identity::Php;
use crate::roots::{Buffer, Roots};

/// An Apache with forty modules has 50 KiB of maps (measured); what hides behind this is no PHP
/// to us.
const MAX_MAPS: usize = 512 << 10;
/// mod_php 7 and 8: `libphp7.so`, `libphp8.2.so`, `libphp.so`.
const LIBRARY: &[u8] = b"/libphp";

/// Completes what argv said. `None`: no PHP.
pub fn claim(roots: &Roots, pid: u32, said: Said, buffer: &mut Buffer) -> Option<Php> {
    match &said {
        Said::Apache => {
            let has_php = maps_library(roots, pid, buffer);
            said.with(None, has_php)
        }
        Said::Script { is_relative: true, .. } => {
            let cwd = roots.read_process_link(pid, "cwd").ok();
            said.with(cwd.as_deref(), false)
        }
        _ => said.with(None, false),
    }
}

/// Goes through `maps` in pieces of the buffer's size; a name at a seam is looked at whole.
fn maps_library(roots: &Roots, pid: u32, buffer: &mut Buffer) -> bool {
    let Ok(file) = roots.open_process(pid, "maps") else { return false };
    let room = buffer.room();
    let (mut total, mut len) = (0, 0);
    while total < MAX_MAPS {
        match read(file.as_fd(), &mut room[len..]) {
            Ok(0) => return false,
            Ok(got) => {
                (total, len) = (total + got, len + got);
                if room[..len].windows(LIBRARY.len()).any(|window| window == LIBRARY) {
                    return true;
                }
                let kept = len.min(LIBRARY.len() - 1);
                room.copy_within(len - kept..len, 0);
                len = kept;
            }
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    false
}
