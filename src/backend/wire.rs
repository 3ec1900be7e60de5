//! Bytes of a connection's start, over any stream: both sides and all engines use it.
//!
//! Here: reading as many bytes as a caller wants, writing. Not here: where messages begin and end
//! (each engine's `wire`), and the relay, which never waits for a whole message.

use bytes::{Buf, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What one read asks for: start-up messages are short.
const READ_BYTES: usize = 1024;

/// A stream with what has been read from it but not yet used.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S> Wire<S> {
    /// The same bytes, the stream in another type.
    pub fn map<T>(self, into: impl FnOnce(S) -> T) -> Wire<T> {
        Wire { stream: into(self.stream), buffer: self.buffer }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    #[error("a message of type {tag:?} has the length {length}; {limit} is the most")]
    Length { tag: char, length: u32, limit: usize },
    #[error("packets out of order: number {found} where {expected} was due")]
    Order { found: u8, expected: u8 },
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        Wire { stream, buffer: BytesMut::new() }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream, and the bytes that were read beyond the last message. Nothing read holds no
    /// memory.
    pub fn into_parts(self) -> (S, BytesMut) {
        let rest = if self.buffer.is_empty() { BytesMut::new() } else { self.buffer };
        (self.stream, rest)
    }

    /// Bytes read and not used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes `count` bytes off the front; they have been read. Fewer where there are fewer.
    pub fn take(&mut self, count: usize) -> BytesMut {
        self.buffer.split_to(count.min(self.buffer.len()))
    }

    /// Reads one byte. Cancel safe: yes.
    pub async fn byte(&mut self) -> Result<u8, WireError> {
        self.fill(1).await?;
        Ok(self.buffer.get_u8())
    }

    /// Writes and flushes. Cancel safe: no, part of the bytes may have been written.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads until `wanted` bytes are there. The caller has bounded `wanted`. Cancel safe: yes.
    pub async fn fill(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.buffer.len() < wanted {
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer).await;
            self.has_read(read)?;
        }
        Ok(())
    }

    /// As [`Wire::fill`], and leaves in the stream what comes behind them. Cancel safe: yes.
    pub async fn fill_exactly(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.buffer.len() < wanted {
            let missing = (wanted - self.buffer.len()) as u64;
            let read = (&mut self.stream).take(missing).read_buf(&mut self.buffer).await;
            self.has_read(read)?;
        }
        Ok(())
    }

    fn has_read(&self, read: io::Result<usize>) -> Result<(), WireError> {
        let read = match read {
            // How rustls reports a peer that hangs up without TLS's good-bye, as many do.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        match (read, self.buffer.is_empty()) {
            (0, true) => Err(WireError::Closed),
            (0, false) => Err(WireError::Truncated),
            _ => Ok(()),
        }
    }
}
