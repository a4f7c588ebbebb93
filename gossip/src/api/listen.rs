//! The sockets the API listens on: bound before anything is started, gone when it ends.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use super::ApiConfig;

/// Connections the kernel keeps while none is accepted.
const BACKLOG: i32 = 1024;
/// Who may open the Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Why the API cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// Anybody could write.
    #[error("the API would be open to the network at {0} without a token: set one, or listen on loopback")]
    NoToken(SocketAddr),
    /// A TCP address is not to be had.
    #[error("the API cannot listen on {addr}")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another process answers at the Unix socket.
    #[error("the API cannot listen on {}: another process answers there", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else where the Unix socket should be.
    #[error("the API cannot listen on {}: it exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The Unix socket cannot be made.
    #[error("the API cannot listen on {}", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Bound sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) unix: Option<(UnixListener, SocketFile)>,
}

/// A Unix socket's name, removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Listeners {
    pub(super) async fn bind(config: &ApiConfig) -> Result<Self, BindError> {
        let open = config.listen.iter().find(|addr| !addr.ip().is_loopback());
        if let (Some(addr), None) = (open, &config.tokens) {
            return Err(BindError::NoToken(*addr));
        }
        let mut tcp = Vec::with_capacity(config.listen.len());
        for &addr in &config.listen {
            tcp.push(TcpListener::bind(addr).await.map_err(|source| BindError::Tcp { addr, source })?);
        }
        let unix = config.unix.as_deref().map(bind_unix).transpose()?;
        Ok(Self { tcp, unix })
    }
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        drop(std::fs::remove_file(&self.0));
    }
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    // Nobody can connect before it listens, so nobody gets in before the mode is right.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)));
    Ok((listener.map_err(failed)?, file))
}

/// Removes the socket that a process left behind; one that answers stays.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        // One that cannot be asked (not permitted, queue full) may well be alive.
        Ok(_) | Err(_) => Err(BindError::SocketInUse { path: path.to_owned() }),
    }
}
