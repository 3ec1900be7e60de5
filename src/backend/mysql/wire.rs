//! Packets of a MySQL connection's start, one at a time, with their sequence ids.

use crate::backend::wire::Wire;
pub use crate::backend::wire::WireError;
use crate::protocol::mysql::packet::{self, HEAD_BYTES, Head};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream with the sequence id that is due next, in either direction.
#[derive(Debug)]
pub struct Packets<S> {
    pub wire: Wire<S>,
    pub sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Packets<S> {
    pub fn new(stream: S) -> Packets<S> {
        Packets { wire: Wire::new(stream), sequence: 0 }
    }

    /// Reads a packet whose payload has at most `limit` bytes. Cancel safe: yes.
    pub async fn payload(&mut self, limit: usize) -> Result<BytesMut, WireError> {
        self.wire.fill(HEAD_BYTES).await?;
        let head = self.head(limit)?;
        self.wire.fill(head.bytes()).await?;
        Ok(self.taken(head))
    }

    /// As [`Packets::payload`], and leaves in the stream what comes behind the packet: that may be
    /// TLS already. Cancel safe: yes.
    pub async fn payload_exactly(&mut self, limit: usize) -> Result<BytesMut, WireError> {
        self.wire.fill_exactly(HEAD_BYTES).await?;
        let head = self.head(limit)?;
        self.wire.fill_exactly(head.bytes()).await?;
        Ok(self.taken(head))
    }

    /// The head that is due; it has been read.
    fn head(&self, limit: usize) -> Result<Head, WireError> {
        let head = packet::head(self.wire.buffered()).ok_or(WireError::Truncated)?;
        if head.payload > limit {
            let length = u32::try_from(head.payload).unwrap_or(u32::MAX);
            return Err(WireError::Length { tag: ' ', length, limit });
        }
        if head.sequence != self.sequence {
            return Err(WireError::Order { found: head.sequence, expected: self.sequence });
        }
        Ok(head)
    }

    fn taken(&mut self, head: Head) -> BytesMut {
        self.sequence = head.sequence.wrapping_add(1);
        self.wire.take(HEAD_BYTES);
        self.wire.take(head.payload)
    }

    /// Sends what `put` writes, with the sequence ids that are due. Cancel safe: no.
    pub async fn send(&mut self, put: impl FnOnce(&mut Vec<u8>, &mut u8)) -> Result<(), WireError> {
        let mut out = Vec::new();
        put(&mut out, &mut self.sequence);
        self.wire.send(&out).await
    }

    /// Sends bytes as the payload of one packet. Cancel safe: no.
    pub async fn send_payload(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.send(|out, sequence| {
            packet::put(out, sequence, |out| out.extend_from_slice(payload));
        })
        .await
    }
}
