//! The sockets that clients connect to.

use super::StartError;
use super::worker::{Message, WorkerHandle};
use crate::config::{Listen, ListenAddress};
use crate::frontend::mysql::errors;
use crate::frontend::postgres::startup::PeerAddress;
use crate::protocol::postgres::error::Report;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

/// A client that vanished without a word is noticed after about this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A new client's socket, not registered with any runtime.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Postgres,
    Mysql,
}

pub type Arrived = (Socket, PeerAddress, Protocol);

enum Listener {
    Tcp(TcpListener),
    /// With the socket's path, to be removed.
    Unix(UnixListener, PathBuf),
}

/// All sockets that clients come in by.
pub struct Listeners {
    listeners: Vec<(Listener, Protocol)>,
    next: usize,
}

impl Listeners {
    pub async fn bind(listen: &Listen) -> Result<Listeners, StartError> {
        let mut listeners = Vec::new();
        let postgres = listen.postgres.iter().map(|address| (address, Protocol::Postgres));
        let mysql = listen.mysql.iter().map(|address| (address, Protocol::Mysql));
        for (address, protocol) in postgres.chain(mysql) {
            let (bound, words) = match address {
                ListenAddress::Tcp(address) => {
                    (TcpListener::bind(address).await.map(Listener::Tcp), address.to_string())
                }
                ListenAddress::Unix(path) => (bind_unix(path.clone()), path.display().to_string()),
            };
            let bound = bound.map_err(|error| StartError::Listen { address: words, error })?;
            listeners.push((bound, protocol));
        }
        Ok(Listeners { listeners, next: 0 })
    }

    /// The next client, from each listener in turn. Errors of single clients are passed over.
    pub async fn accept(&mut self) -> Arrived {
        loop {
            let accepted = poll_fn(|cx| {
                for step in 0..self.listeners.len() {
                    let at = (self.next + step) % self.listeners.len();
                    let (listener, protocol) = &self.listeners[at];
                    let protocol = *protocol;
                    let ready = match listener {
                        Listener::Tcp(listener) => listener.poll_accept(cx).map(|accepted| {
                            accepted.and_then(|(stream, peer)| {
                                stream.set_nodelay(true)?;
                                keep_alive(&stream)?;
                                Ok((
                                    Socket::Tcp(stream.into_std()?),
                                    PeerAddress::Tcp(peer),
                                    protocol,
                                ))
                            })
                        }),
                        Listener::Unix(listener, _) => listener.poll_accept(cx).map(|accepted| {
                            let (stream, _) = accepted?;
                            Ok((Socket::Unix(stream.into_std()?), PeerAddress::Unix, protocol))
                        }),
                    };
                    if let Poll::Ready(accepted) = ready {
                        self.next = at + 1;
                        return Poll::Ready(accepted);
                    }
                }
                Poll::Pending
            })
            .await;
            match accepted {
                Ok(arrived) => return arrived,
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    if is_exhausted(&error) {
                        // Out of descriptors: the listener stays readable, so pause.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }

    /// No more clients.
    pub fn close(&mut self) {
        for (listener, _) in self.listeners.drain(..) {
            if let Listener::Unix(_, path) = listener {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (listener, _)) in self.listeners.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match listener {
                Listener::Tcp(tcp) => match tcp.local_addr() {
                    Ok(address) => write!(f, "{address}")?,
                    Err(_) => f.write_str("?")?,
                },
                Listener::Unix(_, path) => write!(f, "{}", path.display())?,
            }
        }
        Ok(())
    }
}

/// Hands a client to the least loaded worker, or tells it that there are too many.
pub async fn place(
    (socket, peer, protocol): Arrived,
    workers: &[WorkerHandle],
    clients_max: usize,
) {
    let clients: usize = workers.iter().map(WorkerHandle::clients).sum();
    let least = workers.iter().min_by_key(|worker| worker.clients());
    let Some(worker) = least.filter(|_| clients < clients_max) else {
        tracing::warn!(%peer, clients_max, "a client was refused: limits.clients_max is reached");
        refuse(socket, protocol);
        return;
    };
    worker.send(Message::Client(socket, peer, protocol)).await;
}

/// Before start-up there is no protocol to speak of; every client reads this one message.
fn refuse(socket: Socket, protocol: Protocol) {
    let mut out = Vec::new();
    match protocol {
        Protocol::Postgres => {
            Report::fatal("53300", "sorry, too many clients already").put(&mut out);
        }
        Protocol::Mysql => {
            let code = errors::TOO_MANY_CONNECTIONS;
            errors::put(&mut out, &mut 0, code, "Too many connections");
        }
    }
    // A fresh socket's buffer takes it at once, or the client does not care.
    let _ = match socket {
        Socket::Tcp(mut tcp) => tcp.write(&out),
        Socket::Unix(mut unix) => unix.write(&out),
    };
}

fn bind_unix(path: PathBuf) -> io::Result<Listener> {
    // Left by a process that was killed: connecting to it would fail.
    if let Ok(found) = fs::symlink_metadata(&path)
        && found.file_type().is_socket()
        && std::os::unix::net::UnixStream::connect(&path).is_err()
    {
        fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    // As `unix_socket_permissions` of the server: who may come in is decided by authentication.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    Ok(Listener::Unix(listener, path))
}

fn keep_alive(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// EMFILE and ENFILE.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
