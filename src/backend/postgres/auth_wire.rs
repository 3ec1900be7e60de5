//! Messages of a connection's start, one at a time, over any stream: both sides use it.
//!
//! Here: reading whole messages with a bound, writing. Not here: the relay, which never waits for
//! a whole message.

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

/// A message without its head.
#[derive(Debug)]
pub struct Message {
    pub tag: u8,
    pub body: BytesMut,
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

    /// Reads a message with a tag whose body has at most `limit` bytes. Cancel safe: yes.
    pub async fn message(&mut self, limit: usize) -> Result<Message, WireError> {
        self.fill(5).await?;
        let tag = self.buffer[0];
        let length = u32::from_be_bytes([1, 2, 3, 4].map(|index| self.buffer[index]));
        let body = length.checked_sub(4).and_then(|body| usize::try_from(body).ok());
        let Some(body) = body.filter(|body| *body <= limit) else {
            return Err(WireError::Length { tag: tag.into(), length, limit });
        };
        self.fill(5 + body).await?;
        self.buffer.advance(5);
        Ok(Message { tag, body: self.buffer.split_to(body) })
    }

    /// Reads the length word of a packet without a tag, and leaves it in the buffer. Cancel safe:
    /// yes.
    pub async fn peek_length(&mut self) -> Result<u32, WireError> {
        self.fill(4).await?;
        Ok(u32::from_be_bytes([0, 1, 2, 3].map(|index| self.buffer[index])))
    }

    /// Reads the body, of `body` bytes, of a packet without a tag. Cancel safe: yes.
    pub async fn packet(&mut self, body: usize) -> Result<BytesMut, WireError> {
        self.fill(4 + body).await?;
        self.buffer.advance(4);
        Ok(self.buffer.split_to(body))
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

    /// Reads until `wanted` bytes are there. The caller has bounded `wanted`.
    async fn fill(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.buffer.len() < wanted {
            self.buffer.reserve(READ_BYTES);
            let read = match self.stream.read_buf(&mut self.buffer).await {
                // How rustls reports a peer that hangs up without TLS's good-bye, as many do.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            if read == 0 {
                let empty = self.buffer.is_empty();
                return Err(if empty { WireError::Closed } else { WireError::Truncated });
            }
        }
        Ok(())
    }
}
