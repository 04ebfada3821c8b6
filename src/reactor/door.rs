//! Where the guard is asked: the host's socket, the containers' socket, TCP. Opens and closes
//! them, and says who knocks. One that cannot be opened is a warning with its reason: the guard
//! goes on without it.
//!
//! The containers' socket lies in a folder that is mounted into containers, some of them with a
//! root of their own: everything in it is done through descriptors and never through a link.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::config::HttpSettings;

/// Connections that wait to be accepted. The loop takes them at once; more is a flood.
const BACKLOG: i32 = 64;
/// The containers' folder: everybody may pass through, nobody else may write.
const FOLDER: u32 = 0o755;
const HOST_SOCKET: u32 = 0o600;
const NOTEBOOK_SOCKET: u32 = 0o666;

/// A token shorter than this is guessed, one longer than that is not a token.
const TOKEN_MIN: usize = 16;
const TOKEN_MAX: usize = 512;

/// Which way somebody came in: what he may see hangs on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// The host's administrator, over the socket that only root may open.
    Host,
    /// A process of a container: it sees its own container and nothing else.
    Notebook,
    Tcp,
}

impl Door {
    pub const ALL: [Door; 3] = [Door::Host, Door::Notebook, Door::Tcp];
}

/// A door that is open.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// `folder` and `name`: what to take away at the end, if it still is ours (`inode`).
    Unix {
        listener: UnixListener,
        folder: File,
        name: OsString,
        inode: u64,
    },
    Tcp(TcpListener),
}

impl Listener {
    /// Opens a door as the settings have it; `None`: they have none.
    ///
    /// # Errors
    /// What is in the way, with the path or address.
    pub fn open(door: Door, http: &HttpSettings) -> Option<Result<Listener, String>> {
        let socket = match door {
            Door::Host => http.socket.as_deref().map(|path| unix(path, HOST_SOCKET)),
            Door::Notebook => {
                http.notebook_socket.as_deref().map(|path| unix(path, NOTEBOOK_SOCKET))
            }
            Door::Tcp => http.listen.map(tcp),
        };
        Some(socket?.map(|socket| Listener { socket }))
    }

    pub fn raw(&self) -> RawFd {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.as_raw_fd(),
            Socket::Tcp(listener) => listener.as_raw_fd(),
        }
    }

    /// The next who waits, not blocking.
    ///
    /// # Errors
    /// `WouldBlock`: nobody. Otherwise as accept(2).
    pub fn accept(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                // An answer is written in one piece.
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
        }
    }

    /// The address, where it is one: its own is a Host that may be asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix { .. } => None,
            Socket::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { folder, name, inode, .. } = &self.socket
            && standing(folder, name).is_ok_and(|(_, found)| found == *inode)
        {
            let _ = unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn tcp(address: SocketAddr) -> Result<Socket, String> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map(Socket::Tcp).map_err(|e| match e.raw_os_error() {
        // What the unit's RestrictAddressFamilies= answers.
        Some(nix::libc::EAFNOSUPPORT) => format!(
            "{address}: {e}: in the unit's sandbox there is no network, \
             /usr/share/nbguard/systemd/network.conf lets it in"
        ),
        _ => format!("{address}: {e}"),
    })
}

fn unix(path: &Path, mode: u32) -> Result<Socket, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(&"no folder and name"));
    };
    let folder = folder(parent)?;
    clear(&folder, name).map_err(|e| failed(&e))?;
    let listener = listening(&folder, name, mode).map_err(|e| failed(&io::Error::from(e)))?;
    let (_, inode) = standing(&folder, name).map_err(|e| failed(&io::Error::from(e)))?;
    Ok(Socket::Unix { listener, folder, name: name.to_owned(), inode })
}

/// The folder, made where it is not there: under any umask one into which others may go, since
/// that of the notebooks' socket is mounted into containers. One in which somebody else may write is refused: he
/// could put a socket of his own there, and answer in our name.
fn folder(path: &Path) -> Result<File, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let is_new = !path.exists();
    let made = DirBuilder::new().recursive(true).mode(FOLDER).create(path);
    made.map_err(|e| failed(&e))?;
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| failed(&e))?;
    let about = folder.metadata().map_err(|e| failed(&e))?;
    if about.uid() != 0 && !is_own(about.uid()) {
        return Err(failed(&format_args!("it belongs to user {}", about.uid())));
    }
    if about.mode() & 0o022 != 0 {
        return Err(failed(&"others may write in it (chmod 755)"));
    }
    if is_new {
        let wide = fchmod(&folder, Mode::from_bits_truncate(FOLDER));
        wide.map_err(|errno| failed(&io::Error::from(errno)))?;
    }
    Ok(folder)
}

fn is_own(uid: u32) -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == uid)
}

/// Takes away what an earlier guard left; never what is no socket, nor what is in use.
fn clear(folder: &File, name: &OsStr) -> Result<(), String> {
    match standing(folder, name) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.desc().to_owned()),
        Ok((kind, _)) if kind != SFlag::S_IFSOCK => return Err("it is not a socket".to_owned()),
        Ok(_) => {}
    }
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let probe = probe.map_err(|errno| errno.desc().to_owned())?;
    let address = address(folder, name).map_err(|errno| errno.desc().to_owned())?;
    if connect(probe.as_raw_fd(), &address) != Err(Errno::ECONNREFUSED) {
        return Err("another process listens there".to_owned());
    }
    unlinkat(folder, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| errno.desc().to_owned())
}

fn listening(folder: &File, name: &OsStr, mode: u32) -> Result<UnixListener, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) makes the file with the socket's own mode, less the umask: never more than is meant.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    bind(socket.as_raw_fd(), &address(folder, name)?)?;
    if mode != HOST_SOCKET {
        widen(folder, name, mode)?;
    }
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

/// What the umask took away, given back: to the very file, should somebody in a container swap
/// it for a link meanwhile.
fn widen(folder: &File, name: &OsStr, mode: u32) -> Result<(), Errno> {
    use nix::fcntl::{OFlag, openat};
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty())?;
    if kind(fstat(&file)?.st_mode) != SFlag::S_IFSOCK {
        return Err(Errno::ENOTSOCK);
    }
    let own = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        &own,
        Mode::from_bits_truncate(mode),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
}

/// Through the folder's descriptor, and so short enough for a socket's address (108 bytes).
fn address(folder: &File, name: &OsStr) -> Result<UnixAddr, Errno> {
    let folder = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd()));
    UnixAddr::new(&folder.join(name))
}

fn standing(folder: &File, name: &OsStr) -> Result<(SFlag, u64), Errno> {
    let about = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok((kind(about.st_mode), about.st_ino))
}

fn kind(mode: u32) -> SFlag {
    SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits())
}

/// The token of a file that only its owner and group can read.
///
/// # Errors
/// Why it is none; without it TCP stays closed.
pub fn token(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| failed(&e))?;
    let about = file.metadata().map_err(|e| failed(&e))?;
    if !about.is_file() {
        return Err(failed(&"not a file"));
    }
    if about.mode() & 0o007 != 0 {
        return Err(failed(&"others may read it (chmod 640)"));
    }
    let mut text = [0; TOKEN_MAX + 2];
    let len = file.read_at(&mut text, 0).map_err(|e| failed(&e))?;
    let token = text[..len].trim_ascii();
    if token.len() < TOKEN_MIN || token.len() > TOKEN_MAX {
        return Err(failed(&format_args!("a token has {TOKEN_MIN} to {TOKEN_MAX} characters")));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(failed(&"a token has neither blanks nor control characters"));
    }
    Ok(token.to_vec())
}

/// Whether two are the same, in a time that does not say where they differ.
pub fn is_same(shown: &[u8], kept: &[u8]) -> bool {
    if shown.len() != kept.len() {
        return false;
    }
    let differs = shown.iter().zip(kept).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let dir =
                std::env::temp_dir().join(format!("nbguard-door-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
            Place(dir)
        }

        fn settings(&self) -> HttpSettings {
            HttpSettings {
                socket: Some(self.0.join("http.sock")),
                notebook_socket: Some(self.0.join("notebook/nbguard.sock")),
                ..HttpSettings::default()
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn refused(door: Door, http: &HttpSettings) -> String {
        Listener::open(door, http).unwrap().unwrap_err()
    }

    #[test]
    fn each_socket_has_its_mode_and_goes_with_its_listener() {
        let place = Place::new("modes");
        let http = place.settings();
        let host = Listener::open(Door::Host, &http).unwrap().unwrap();
        let notebook = Listener::open(Door::Notebook, &http).unwrap().unwrap();
        assert_eq!(mode(&place.0.join("http.sock")), 0o600);
        assert_eq!(mode(&place.0.join("notebook")), 0o755);
        assert_eq!(mode(&place.0.join("notebook/nbguard.sock")), 0o666);
        let _client = UnixStream::connect(place.0.join("notebook/nbguard.sock")).unwrap();
        notebook.accept().unwrap();
        assert_eq!(notebook.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(host.address().is_none());
        drop((host, notebook));
        assert!(!place.0.join("http.sock").exists());
        assert!(Listener::open(Door::Tcp, &http).is_none());
        let none = HttpSettings { socket: None, ..http };
        assert!(Listener::open(Door::Host, &none).is_none());
    }

    #[test]
    fn a_socket_that_an_earlier_guard_left_is_taken_away() {
        let place = Place::new("stale");
        let path = place.0.join("http.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let open = Listener::open(Door::Host, &place.settings()).unwrap().unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(open);
    }

    #[test]
    fn what_is_in_use_or_no_socket_is_left_alone() {
        let place = Place::new("foreign");
        let http = place.settings();
        let path = place.0.join("http.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert!(refused(Door::Host, &http).ends_with("another process listens there"));
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(refused(Door::Host, &http).ends_with("it is not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        symlink(place.0.join("elsewhere"), &path).unwrap();
        assert!(refused(Door::Host, &http).ends_with("it is not a socket"));
        assert!(!place.0.join("elsewhere").exists());
    }

    #[test]
    fn a_folder_in_which_others_write_or_that_is_a_link_is_refused() {
        let place = Place::new("folder");
        let http = place.settings();
        let folder = place.0.join("notebook");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(Door::Notebook, &http).contains("others may write in it"));
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(place.0.join("real")).unwrap();
        symlink(place.0.join("real"), &folder).unwrap();
        let _ = refused(Door::Notebook, &http);
        assert_eq!(fs::read_dir(place.0.join("real")).unwrap().count(), 0);
    }

    /// Somebody else's socket in its place is not taken away with ours.
    #[test]
    fn what_took_its_place_stays() {
        let place = Place::new("taken");
        let path = place.0.join("http.sock");
        let open = Listener::open(Door::Host, &place.settings()).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(open);
        assert!(path.exists());
    }

    #[test]
    fn a_token_is_long_plain_and_private() {
        let place = Place::new("token");
        let path = place.0.join("token");
        let write = |text: &str, mode: u32| {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            token(&path)
        };
        let good = "0123456789abcdef";
        assert_eq!(write(&format!("{good}\n"), 0o600), Ok(good.as_bytes().to_vec()));
        assert_eq!(write(good, 0o640), Ok(good.as_bytes().to_vec()));
        let most = "a".repeat(TOKEN_MAX);
        assert_eq!(write(&format!("{most}\n"), 0o600), Ok(most.clone().into_bytes()));
        for (text, mode, why) in [
            (good, 0o644, "others may read it"),
            ("short", 0o600, "16 to 512"),
            ("", 0o600, "16 to 512"),
            (&"a".repeat(TOKEN_MAX + 1), 0o600, "16 to 512"),
            ("0123456789 abcdef", 0o600, "neither blanks"),
            ("0123456789\0abcdef", 0o600, "neither blanks"),
        ] {
            let error = write(text, mode).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(token(&place.0).unwrap_err().contains("not a file"));
        assert!(token(&place.0.join("none")).is_err());
    }

    #[test]
    fn tokens_are_the_same_or_not() {
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abd", b"abc") && !is_same(b"ab", b"abc") && !is_same(b"", b"abc"));
    }
}
