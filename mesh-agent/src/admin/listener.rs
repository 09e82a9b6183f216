//! Where the admin server listens: a Unix socket, or an address.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Only the owner may enter the socket's folder, if we make it.
const FOLDER_MODE: u32 = 0o700;
/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// A socket that listens. A Unix socket's file goes with it.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A file, and the listener on it.
    Unix(UnixFile, UnixListener),
}

/// A socket's file, which is removed with this, and its folder if that was made for it. One that a
/// successor has put in its place stays.
#[derive(Debug)]
pub struct UnixFile {
    path: PathBuf,
    inode: u64,
    made: Option<PathBuf>,
}

/// A socket's file that is not where it is looked for yet.
#[derive(Debug)]
pub struct Unpublished {
    path: PathBuf,
    to: PathBuf,
}

impl Unpublished {
    /// Puts it there, in the place of a predecessor's.
    ///
    /// # Errors
    ///
    /// The file cannot be moved.
    pub fn publish(&self) -> io::Result<()> {
        fs::rename(&self.path, &self.to)
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        // They may have been removed or replaced, and the folder may hold more: nothing is owed.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
        if let Some(folder) = &self.made {
            drop(fs::remove_dir(folder));
        }
    }
}

impl Listener {
    /// Listens on a Unix socket that only its owner may open. Its folder is made if it is missing.
    /// The file of an agent that was killed is replaced.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, the path is longer than a socket's may be (107 bytes, `unix(7)`),
    /// something else is there, or another agent listens there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let missing = path.parent().filter(|folder| !folder.exists());
        if let Some(folder) = missing {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        // Until here the folder's mode and the umask protect it; nobody is answered yet.
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        let inode = fs::symlink_metadata(path)?.ino();
        let file = UnixFile { path: path.to_owned(), inode, made: missing.map(Path::to_owned) };
        Ok(Self::Unix(file, listener))
    }

    /// Listens on a Unix socket beside that of a predecessor, which is to be replaced.
    ///
    /// # Errors
    ///
    /// As for [`Self::unix`].
    pub fn unix_beside(path: &Path) -> io::Result<(Self, Unpublished)> {
        let beside = path.with_extension(format!("sock.{}", std::process::id()));
        let mut listener = Self::unix(&beside)?;
        if let Self::Unix(file, _) = &mut listener {
            path.clone_into(&mut file.path);
        }
        Ok((listener, Unpublished { path: beside, to: path.to_owned() }))
    }
}

/// Removes a socket's file on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "something else is there"));
    }
    match UnixStream::connect(path) {
        Ok(_other) => Err(io::Error::new(
            ErrorKind::AddrInUse,
            "another agent listens there: stop it, or choose another --admin-socket",
        )),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_connect_and_nothing_is_left() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("node-a/admin.sock");
        let listener = Listener::unix(&path).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        let second = Listener::unix(&path).unwrap_err();
        assert!(second.to_string().contains("another agent listens there"), "{second}");
        drop(listener);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_of_an_agent_that_was_killed_is_replaced_and_nothing_else_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::unix(&path).unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(Listener::unix(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
