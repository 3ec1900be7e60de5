//! Bytes from and to the client and the server, and what of a client's packets only passes
//! through.

use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::packet::{self, HEAD_BYTES};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room that a read asks for.
const READ_BYTES_MIN: usize = 8 * 1024;

/// Reads once into the free part of a buffer; 0 is the end of the stream.
pub fn poll_read_into<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Buffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(buffer.spare(READ_BYTES_MIN));
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    let count = room.filled().len();
    buffer.advance(count);
    Poll::Ready(Ok(count))
}

/// Writes what a buffer holds, and then what the stream itself holds back. Whether anything
/// moved; the buffer is empty, and `unflushed` false, when all of it is out.
pub fn poll_write_out<S: AsyncWrite + Unpin>(
    stream: &mut S,
    buffer: &mut Buffer,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    let mut moved = false;
    while !buffer.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, buffer.filled())? {
            Poll::Pending => return Ok(moved),
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => {
                buffer.consume(count);
                *unflushed = true;
                moved = true;
            }
        }
    }
    if *unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
        *unflushed = false;
        moved = true;
    }
    Ok(moved)
}

/// What is left of packets that a client is sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    until: Until,
    /// Bytes of the present packet.
    left: usize,
    /// The number that the next packet has for the server, whatever the client says: a server
    /// parts with a connection whose packets are out of order.
    sequence: u8,
    /// The number that its last packet had from the client.
    theirs: u8,
    /// No packet follows.
    last: bool,
}

/// Where an upload ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// At the first packet that is not continued: a command.
    NotContinued,
    /// At an empty packet: a file.
    Empty,
}

impl Upload {
    /// A command.
    pub fn command() -> Upload {
        Upload { until: Until::NotContinued, left: 0, sequence: 0, theirs: 0, last: false }
    }

    /// The file of LOAD DATA LOCAL, which the server's packet of number `asked` has asked for.
    pub fn file(asked: u8) -> Upload {
        let sequence = asked.wrapping_add(1);
        Upload { until: Until::Empty, left: 0, sequence, theirs: asked, last: false }
    }

    pub fn is_command(&self) -> bool {
        self.until == Until::NotContinued
    }

    pub fn is_over(&self) -> bool {
        self.last && self.left == 0
    }

    /// The number that the client expects the answer to have.
    pub fn answered_by(&self) -> u8 {
        self.theirs.wrapping_add(1)
    }

    /// How many of these bytes, which come next, belong to it. Numbers its packets.
    pub fn take(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let here = self.left.min(bytes.len() - at);
            self.left -= here;
            at += here;
            if self.left > 0 || self.last {
                return at;
            }
            let Some(head) = packet::head(&bytes[at..]) else { return at };
            self.theirs = head.sequence;
            bytes[at + HEAD_BYTES - 1] = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            self.left = head.bytes();
            self.last = match self.until {
                Until::NotContinued => !head.is_continued(),
                Until::Empty => head.payload == 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Upload;
    use crate::protocol::mysql::packet::{PAYLOAD_BYTES_MAX, put};

    fn payload(bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, &mut 0, |out| out.resize(out.len() + bytes, b'x'));
        out
    }

    #[test]
    fn a_command_ends_with_its_last_packet() {
        for bytes in [1, 100, PAYLOAD_BYTES_MAX - 1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 7] {
            let mut whole = payload(bytes);
            let length = whole.len();
            whole.extend(payload(3));
            for step in [7, 4096, whole.len()] {
                let (mut upload, mut at) = (Upload::command(), 0);
                let mut end = 0;
                while !upload.is_over() {
                    end = (end + step).min(whole.len());
                    at += upload.take(&mut whole[at..end]);
                }
                assert_eq!(at, length, "{bytes} by {step}");
            }
        }
    }

    #[test]
    fn a_file_ends_with_an_empty_packet() {
        let mut bytes = payload(5);
        bytes.extend(payload(0));
        bytes.extend(payload(9));
        let mut upload = Upload::file(1);
        assert_eq!(upload.take(&mut bytes), 13);
        assert!(upload.is_over());
        assert_eq!((bytes[3], bytes[12], bytes[16]), (2, 3, 0));
        assert_eq!(upload.answered_by(), 1, "both packets had the number 0");
    }
}
