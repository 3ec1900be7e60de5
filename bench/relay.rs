//! A relay that reads nothing: one server connection for each client, one read and one write per
//! direction, on the runtime that the proxy's workers have. What it costs is the floor of what any
//! proxy of this build can cost; `make bench` runs it beside the others.
//!
//! `relay LISTEN_PORT SERVER_PORT`, both on 127.0.0.1.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

const BUFFER_BYTES: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let port = |at| {
        let text = std::env::args().nth(at).unwrap_or_default();
        text.parse().map_err(|_| io::Error::other("relay LISTEN_PORT SERVER_PORT"))
    };
    let (listen, server): (u16, u16) = (port(1)?, port(2)?);
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", listen)).await?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                // Whichever side ends, both do.
                let _ = relay(client, server).await;
            });
        }
    })
}

async fn relay(mut client: TcpStream, server: u16) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (Direction::new(), Direction::new());
    poll_fn(|cx| {
        let up = up.poll(&mut client, &mut server, cx)?;
        let down = down.poll(&mut server, &mut client, cx)?;
        match (up, down) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// What has been read and not written yet.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Direction {
    fn new() -> Direction {
        Direction { buffer: vec![0; BUFFER_BYTES].into(), start: 0, end: 0 }
    }

    /// Moves bytes until one side has to be waited for; ready at the end of the stream.
    fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.start < self.end {
                let rest = &self.buffer[self.start..self.end];
                self.start += ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            }
            let mut room = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            (self.start, self.end) = (0, room.filled().len());
        }
    }
}
