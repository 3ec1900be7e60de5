//! The byte stream of a client or a server: TCP or Unix, plain or TLS.
//!
//! One enum instead of a boxed trait object: the relay's reads and writes stay direct calls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A stream without TLS.
#[derive(Debug)]
pub enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream of a client or a server. The TLS variants are boxed: their state is a kilobyte, and
/// most connections have none.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The peer is a client, the proxy holds the certificate.
    TlsAccepted(Box<server::TlsStream<Plain>>),
    /// The peer is a server.
    TlsConnected(Box<client::TlsStream<Plain>>),
}

/// A stream taken out of its runtime, to be registered with another one.
#[derive(Debug)]
pub enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    /// TLS streams stay registered where they were opened and are woken from there.
    Tls(Stream),
}

impl Stream {
    /// Deregisters a plain socket from this thread's runtime.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Stream::Tcp(tcp) => tcp.into_std().map(Detached::Tcp),
            Stream::Unix(unix) => unix.into_std().map(Detached::Unix),
            tls => Ok(Detached::Tls(tls)),
        }
    }

    /// Registers the socket with this thread's runtime.
    pub fn attach(detached: Detached) -> io::Result<Stream> {
        match detached {
            Detached::Tcp(tcp) => TcpStream::from_std(tcp).map(Stream::Tcp),
            Detached::Unix(unix) => UnixStream::from_std(unix).map(Stream::Unix),
            Detached::Tls(stream) => Ok(stream),
        }
    }

    /// Whether there is something to read (bytes or the end), without a system call: what the
    /// event loop has seen so far.
    pub fn looks_readable(&self) -> bool {
        let mut readable = false;
        // Called only where the event loop has seen something; the error leaves that as it is.
        let see = || -> io::Result<()> {
            readable = true;
            Err(io::ErrorKind::Other.into())
        };
        let socket = match self {
            Stream::TlsAccepted(tls) => Some(tls.get_ref().0),
            Stream::TlsConnected(tls) => Some(tls.get_ref().0),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        };
        let _ = match (self, socket) {
            (Stream::Tcp(tcp), _) | (_, Some(Plain::Tcp(tcp))) => {
                tcp.try_io(Interest::READABLE, see)
            }
            (Stream::Unix(unix), _) | (_, Some(Plain::Unix(unix))) => {
                unix.try_io(Interest::READABLE, see)
            }
            _ => Ok(()),
        };
        readable
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::TlsAccepted(_) | Stream::TlsConnected(_))
    }
}

impl From<Plain> for Stream {
    fn from(plain: Plain) -> Stream {
        match plain {
            Plain::Tcp(tcp) => Stream::Tcp(tcp),
            Plain::Unix(unix) => Stream::Unix(unix),
        }
    }
}

/// Calls the same method on whichever stream is inside.
macro_rules! each {
    ($self:expr, [$($variant:path),+], $stream:ident => $call:expr) => {
        match $self.get_mut() {
            $($variant($stream) => {
                let $stream = Pin::new($stream);
                $call
            })+
        }
    };
}

macro_rules! delegate_io {
    ($type:ty, $variants:tt) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                each!(self, $variants, stream => stream.poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                each!(self, $variants, stream => stream.poll_write(cx, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, $variants, stream => stream.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, $variants, stream => stream.poll_shutdown(cx))
            }
        }
    };
}

delegate_io!(Plain, [Plain::Tcp, Plain::Unix]);
delegate_io!(Stream, [Stream::Tcp, Stream::Unix, Stream::TlsAccepted, Stream::TlsConnected]);
