//! The stream of a MySQL client, compressed where that was negotiated ("Compression").
//!
//! ```text
//! 3 bytes: length   1: sequence   3: length before compression, 0: not compressed   the rest
//! ```
//!
//! What is inside is the ordinary stream of packets, cut anywhere. The sequence ids go on across
//! both directions and begin anew with each command, so that the next one is the last one seen
//! plus one.

use crate::backend::stream::Stream;
use crate::protocol::mysql::capabilities::Capabilities;
use crate::protocol::mysql::packet::PAYLOAD_BYTES_MAX;
use bytes::{Buf, BytesMut};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEAD_BYTES: usize = 7;

/// Shorter ones are not compressed: `MIN_COMPRESS_LENGTH` of the servers.
const COMPRESSED_BYTES_MIN: usize = 50;

/// What is compressed at a time; a client's own are up to 16 MiB.
const CHUNK_BYTES: usize = 64 * 1024;

/// Written bytes that wait for the socket; more is not taken before some are gone.
const WAITING_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// What one read of the socket asks for.
const READ_BYTES: usize = 16 * 1024;

/// The default of servers (`zlib_compression_level`).
const ZLIB_LEVEL: u32 = 6;

/// A client may ask for up to 22; what is above this costs all the others too much CPU.
const ZSTD_LEVEL_MAX: u8 = 9;
const ZSTD_LEVEL_DEFAULT: u8 = 3;

/// What was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    Zstd { level: u8 },
}

impl Compression {
    /// Of what both sides can; zlib where a client asks for both, as servers do it.
    pub fn agreed(capabilities: Capabilities, zstd_level: u8) -> Option<Compression> {
        if capabilities.has(Capabilities::COMPRESS) {
            return Some(Compression::Zlib);
        }
        let level = if zstd_level == 0 { ZSTD_LEVEL_DEFAULT } else { zstd_level };
        capabilities
            .has(Capabilities::ZSTD)
            .then_some(Compression::Zstd { level: level.min(ZSTD_LEVEL_MAX) })
    }
}

/// A client's stream. The compressed one is boxed: few clients have it.
#[derive(Debug)]
pub enum ClientStream {
    Plain(Stream),
    Compressed(Box<Compressed<Stream>>),
}

impl ClientStream {
    /// To be made when the OK that ends the start has been written: it is not compressed. Of
    /// `leftover`, what has been read already, nothing is left where it is compressed.
    pub fn new(
        stream: Stream,
        compression: Option<Compression>,
        leftover: &mut BytesMut,
    ) -> ClientStream {
        match compression {
            None => ClientStream::Plain(stream),
            Some(compression) => {
                let received = std::mem::take(leftover);
                let compressed = Compressed::new(stream, compression, received);
                ClientStream::Compressed(Box::new(compressed))
            }
        }
    }

    pub fn is_tls(&self) -> bool {
        match self {
            ClientStream::Plain(stream) => stream.is_tls(),
            ClientStream::Compressed(compressed) => compressed.stream.is_tls(),
        }
    }

    /// As [`Stream::looks_readable`]: whether something has arrived that was not read.
    pub fn looks_readable(&self) -> bool {
        match self {
            ClientStream::Plain(stream) => stream.looks_readable(),
            ClientStream::Compressed(compressed) => {
                !compressed.plain.is_empty() || compressed.stream.looks_readable()
            }
        }
    }
}

impl From<Stream> for ClientStream {
    fn from(stream: Stream) -> ClientStream {
        ClientStream::Plain(stream)
    }
}

/// A stream whose bytes are compressed in both directions.
pub struct Compressed<S> {
    stream: S,
    compression: Compression,
    /// Of the compressed packet that comes next, in either direction.
    sequence: u8,
    /// As it came; at most one compressed packet and what one read brings.
    received: BytesMut,
    /// Decompressed and not read yet; at most one packet's.
    plain: BytesMut,
    /// Compressed and not written yet.
    waiting: BytesMut,
}

impl<S> std::fmt::Debug for Compressed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressed").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// What a client sent that is no compressed packet.
fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<S> Compressed<S> {
    fn new(stream: S, compression: Compression, received: BytesMut) -> Compressed<S> {
        let (plain, waiting) = (BytesMut::new(), BytesMut::new());
        Compressed { stream, compression, sequence: 0, received, plain, waiting }
    }

    /// Unpacks the packet in front; whether it was complete.
    fn unpack(&mut self) -> io::Result<bool> {
        let Some(&[a, b, c, sequence, d, e, f]) = self.received.first_chunk::<HEAD_BYTES>() else {
            return Ok(false);
        };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        let plain = u32::from_le_bytes([d, e, f, 0]) as usize;
        // Room is made as the bytes come, not as they are announced.
        if self.received.len() < HEAD_BYTES + length {
            return Ok(false);
        }
        self.sequence = sequence.wrapping_add(1);
        self.received.advance(HEAD_BYTES);
        let body = self.received.split_to(length);
        if plain == 0 {
            self.plain = body;
        } else {
            self.plain = BytesMut::from(&decompress(self.compression, &body, plain)?[..]);
        }
        // An idle client holds no memory.
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Ok(true)
    }

    /// Packs the front of what is to be written; how much of it.
    fn pack(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK_BYTES)];
        let packed = match chunk.len() {
            ..COMPRESSED_BYTES_MIN => None,
            _ => Some(compress(self.compression, chunk)?).filter(|out| out.len() < chunk.len()),
        };
        let (body, plain) = match &packed {
            Some(packed) => (&packed[..], chunk.len()),
            None => (chunk, 0),
        };
        let (length, plain) = ((body.len() as u32).to_le_bytes(), (plain as u32).to_le_bytes());
        self.waiting.extend_from_slice(&length[..3]);
        self.waiting.extend_from_slice(&[self.sequence]);
        self.waiting.extend_from_slice(&plain[..3]);
        self.waiting.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
        Ok(chunk.len())
    }
}

fn compress(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        Compression::Zlib => {
            let mut out = Vec::with_capacity(bytes.len());
            let mut zlib = Compress::new(flate2::Compression::new(ZLIB_LEVEL), true);
            // What does not fit into as many bytes is sent as it is.
            let status = zlib.compress_vec(bytes, &mut out, FlushCompress::Finish)?;
            Ok(if status == Status::StreamEnd { out } else { bytes.to_vec() })
        }
        Compression::Zstd { level } => zstd::bulk::compress(bytes, level.into()),
    }
}

fn decompress(compression: Compression, bytes: &[u8], length: usize) -> io::Result<Vec<u8>> {
    debug_assert!(length <= PAYLOAD_BYTES_MAX);
    let out = match compression {
        Compression::Zlib => {
            let mut out = Vec::with_capacity(length);
            let mut zlib = Decompress::new(true);
            let status = zlib
                .decompress_vec(bytes, &mut out, FlushDecompress::Finish)
                .map_err(|_| broken("a compressed packet is no zlib stream"))?;
            if status != Status::StreamEnd {
                return Err(broken("a compressed packet is longer than it says"));
            }
            out
        }
        Compression::Zstd { .. } => zstd::bulk::decompress(bytes, length)
            .map_err(|_| broken("a compressed packet is no zstd frame of its length"))?,
    };
    if out.len() == length { Ok(out) } else { Err(broken("a compressed packet is too short")) }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Compressed<S> {
    /// Writes what waits, down to `left` bytes.
    fn poll_drain(&mut self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        while self.waiting.len() > left {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        if self.waiting.is_empty() {
            self.waiting = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Compressed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.plain.is_empty() {
            if this.unpack()? {
                continue;
            }
            let mut piece = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.received.extend_from_slice(read.filled());
        }
        let count = this.plain.len().min(buffer.remaining());
        buffer.put_slice(&this.plain.split_to(count));
        if this.plain.is_empty() {
            this.plain = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Compressed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, WAITING_BYTES_MAX))?;
        let taken = this.pack(bytes)?;
        // What the socket does not take now goes with the next write or flush.
        let _ = this.poll_drain(cx, 0)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for ClientStream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Compressed(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Compressed(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Compressed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Compressed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Any bytes as a compressed stream: for the fuzzer and its driver. What comes out does not depend
/// on what is compressed how, only on the bytes.
pub fn fuzz_compressed(bytes: &[u8]) {
    for compression in [Compression::Zlib, Compression::Zstd { level: 1 }] {
        let mut compressed = Compressed::new((), compression, BytesMut::from(bytes));
        while let Ok(true) = compressed.unpack() {}
        let mut packed = Compressed::new((), compression, BytesMut::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok(taken) = packed.pack(rest) else { return };
            rest = &rest[taken..];
        }
        let mut again = Compressed::new((), compression, packed.waiting);
        let mut out = Vec::new();
        while let Ok(true) = again.unpack() {
            out.extend_from_slice(&again.plain);
        }
        assert_eq!(out, bytes);
    }
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
