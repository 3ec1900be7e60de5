//! Bounds what an HTTP client can cost: connections at once, time and bytes of a request.
//!
//! axum's server has no such limits. Instead of a second HTTP stack the bounds are put under it,
//! on the byte stream: a connection alternates between a request phase (bytes come in) and a
//! reply phase (bytes go out, then silence until the next request), and each phase has one
//! deadline that nothing extends.

use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

/// Connections served at once; more wait in the kernel's queue. A few scrapers, a balancer's
/// checks and people need a dozen.
pub const CONNECTIONS_MAX: usize = 64;

/// A request is a line and some headers, even behind proxies that add to them.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// From the first byte of a request (or from the connection's start) to its reply.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first byte of a reply to the next request: longer than two usual scrape intervals of a
/// minute, so that a scraper's kept connection stays open.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(150);

/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts no more than [`CONNECTIONS_MAX`] connections at once.
#[derive(Debug)]
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl BoundedListener {
    pub fn new(listener: TcpListener) -> BoundedListener {
        BoundedListener { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed; if it were, there would be no limit and no failure.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (BoundedStream::new(stream, place), address),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Request { bytes: usize },
    Reply,
}

/// A connection with a deadline for each phase and a limit on the bytes of a request.
#[derive(Debug)]
pub struct BoundedStream<S> {
    stream: S,
    phase: Phase,
    deadline: Pin<Box<Sleep>>,
    /// Given back when the connection ends.
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> BoundedStream<S> {
    fn new(stream: S, place: Option<OwnedSemaphorePermit>) -> BoundedStream<S> {
        let deadline = Box::pin(sleep_until(Instant::now() + REQUEST_TIMEOUT));
        BoundedStream { stream, phase: Phase::Request { bytes: 0 }, deadline, _place: place }
    }

    fn enter(&mut self, phase: Phase, timeout: Duration) {
        self.phase = phase;
        self.deadline.as_mut().reset(Instant::now() + timeout);
    }

    /// Resolves to an error once the phase has taken too long; registers for the wake-up.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn count_read(&mut self, read: usize) -> io::Result<()> {
        if read == 0 {
            return Ok(());
        }
        let before = match self.phase {
            Phase::Request { bytes } => bytes,
            Phase::Reply => {
                self.enter(Phase::Request { bytes: 0 }, REQUEST_TIMEOUT);
                0
            }
        };
        let bytes = before.saturating_add(read);
        self.phase = Phase::Request { bytes };
        if bytes > REQUEST_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too large"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.poll_deadline(cx),
            Poll::Ready(Ok(())) => {
                let counted = self.count_read(buffer.filled().len().saturating_sub(before));
                if counted.is_err() {
                    // A read that fails must leave the buffer as it was.
                    buffer.set_filled(before);
                }
                Poll::Ready(counted)
            }
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.phase != Phase::Reply {
            self.enter(Phase::Reply, REPLY_TIMEOUT);
        }
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.poll_deadline(cx),
            done => done,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn pair() -> (BoundedStream<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64 * 1024);
        (BoundedStream::new(ours, None), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_in_is_cut_at_its_deadline() {
        let (mut server, mut client) = pair();
        let started = Instant::now();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut buffer = [0; 16];
        let error = loop {
            match server.read(&mut buffer).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
        drop(server);
        trickle.await.expect("the client ends when the server does");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_cut_and_one_between_requests_later() {
        let (mut server, mut client) = pair();
        let mut buffer = [0; 16];
        client.write_all(b"request").await.expect("the pipe takes it");
        assert_eq!(server.read(&mut buffer).await.expect("the request"), 7);
        server.write_all(b"reply").await.expect("the pipe takes it");
        let replied = Instant::now();
        let error = server.read(&mut buffer).await.expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(replied.elapsed().as_secs(), REPLY_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_a_deadline_of_its_own() {
        let (mut server, mut client) = pair();
        let mut buffer = [0; 16];
        for _ in 0..3 {
            client.write_all(b"request").await.expect("the pipe takes it");
            assert_eq!(server.read(&mut buffer).await.expect("the request"), 7);
            server.write_all(b"reply").await.expect("the pipe takes it");
            // A scraper comes back after longer than a request may take.
            tokio::time::sleep(2 * REQUEST_TIMEOUT).await;
        }
        client.write_all(b"half a ").await.expect("the pipe takes it");
        assert_eq!(server.read(&mut buffer).await.expect("half a request"), 7);
        let begun = Instant::now();
        let error = server.read(&mut buffer).await.expect_err("nothing more comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_reply_is_cut() {
        let (mut server, _client) = pair();
        let reply = vec![0; 1024 * 1024];
        let error = server.write_all(&reply).await.expect_err("the pipe is full");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_request_beyond_the_limit_is_refused_and_many_small_ones_are_not() {
        let (mut server, mut client) = pair();
        let mut buffer = [0; 1024];
        for _ in 0..3 * REQUEST_BYTES_MAX / 1024 {
            client.write_all(&[b'x'; 1024]).await.expect("the pipe takes it");
            server.read_exact(&mut buffer).await.expect("a small request");
            server.write_all(b"reply").await.expect("the pipe takes it");
        }
        client.write_all(&vec![b'x'; REQUEST_BYTES_MAX + 1]).await.expect("the pipe takes it");
        let mut all = Vec::new();
        let error = server.read_to_end(&mut all).await.expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
