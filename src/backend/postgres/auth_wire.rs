//! Messages of a PostgreSQL connection's start, one at a time.

pub use crate::backend::wire::{Wire, WireError};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

/// A message without its head.
#[derive(Debug)]
pub struct Message {
    pub tag: u8,
    pub body: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Reads a message with a tag whose body has at most `limit` bytes. Cancel safe: yes.
    pub async fn message(&mut self, limit: usize) -> Result<Message, WireError> {
        self.fill(5).await?;
        let head = self.buffered();
        let tag = head[0];
        let length = u32::from_be_bytes([1, 2, 3, 4].map(|index| head[index]));
        let body = length.checked_sub(4).and_then(|body| usize::try_from(body).ok());
        let Some(body) = body.filter(|body| *body <= limit) else {
            return Err(WireError::Length { tag: tag.into(), length, limit });
        };
        self.fill(5 + body).await?;
        self.take(5);
        Ok(Message { tag, body: self.take(body) })
    }

    /// Reads the length word of a packet without a tag, and leaves it in the buffer. Cancel safe:
    /// yes.
    pub async fn peek_length(&mut self) -> Result<u32, WireError> {
        self.fill(4).await?;
        Ok(u32::from_be_bytes([0, 1, 2, 3].map(|index| self.buffered()[index])))
    }

    /// Reads the body, of `body` bytes, of a packet without a tag. Cancel safe: yes.
    pub async fn packet(&mut self, body: usize) -> Result<BytesMut, WireError> {
        self.fill(4 + body).await?;
        self.take(4);
        Ok(self.take(body))
    }
}
