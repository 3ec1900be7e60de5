//! Message frames: a tag byte and a big-endian length that counts itself (manual, section 55.2).

use bytes::{BufMut, BytesMut};
use thiserror::Error;

/// Tag and length field.
pub const HEAD_BYTES: usize = 5;

/// The longest message that PostgreSQL accepts: `PQ_LARGE_MESSAGE_LIMIT`, `MaxAllocSize - 1`
/// (`src/include/libpq/libpq.h`).
pub const FRAME_BYTES_MAX: usize = 0x3fff_ffff;

/// Start of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub tag: u8,
    /// The whole message, tag and length field included.
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("invalid message length")]
    Length,
    #[error("invalid message format")]
    Body,
    #[error("invalid frontend message type {0}")]
    Tag(u8),
}

/// The head of the first message, or `None` while fewer than five bytes are there.
#[inline]
pub fn head(bytes: &[u8]) -> Result<Option<Head>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=FRAME_BYTES_MAX).contains(&length) {
        return Err(FrameError::Length);
    }
    Ok(Some(Head { tag, bytes: length + 1 }))
}

/// The body of the message that starts `bytes`; the caller knows that it is complete.
#[inline]
pub fn body(message: &[u8]) -> &[u8] {
    message.get(HEAD_BYTES..).unwrap_or_default()
}

/// Bytes of a string that are looked at one by one: for names, which most are, a wide search takes
/// longer to begin than to find their end.
const SHORT_BYTES: usize = 16;

/// The bytes up to the first NUL, and what comes after it.
#[inline]
pub fn c_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let short = bytes.iter().take(SHORT_BYTES).position(|byte| *byte == 0);
    let end = short.or_else(|| memchr::memchr(0, bytes)).ok_or(FrameError::Body)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// Appends a message whose body `fill` writes.
pub fn put(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends bytes and their terminator. A zero byte inside would end the field early and let the
/// rest pass for another field, so it is left out.
pub(crate) fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    for part in text.split(|byte| *byte == 0) {
        out.extend_from_slice(part);
    }
    out.put_u8(0);
}

/// Appends one message: the tag, the length of what `body` writes, and that.
pub(crate) fn framed(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    length_prefixed(out, body);
}

/// Appends a length that counts itself, and what `body` writes.
pub(crate) fn length_prefixed(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    // Everything written here is bounded by kilobytes; a message cannot outgrow 32 bits.
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::{FrameError, Head, SHORT_BYTES, c_string, head, put};

    #[test]
    fn heads() {
        assert_eq!(head(b"Q\0\0"), Ok(None));
        assert_eq!(head(b"S\0\0\0\x04"), Ok(Some(Head { tag: b'S', bytes: 5 })));
        assert_eq!(head(b"p\0\0\0\x03"), Err(FrameError::Length));
        assert_eq!(head(b"p\xff\xff\xff\xff"), Err(FrameError::Length));
    }

    #[test]
    fn strings_need_their_end() {
        assert_eq!(c_string(b"ab\0c"), Ok((&b"ab"[..], &b"c"[..])));
        assert_eq!(c_string(b"ab"), Err(FrameError::Body));
        for length in [0, 1, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 100] {
            let name = vec![b'n'; length];
            let bytes = [&name[..], b"\0rest\0"].concat();
            assert_eq!(c_string(&bytes), Ok((&name[..], &b"rest\0"[..])));
            assert_eq!(c_string(&name), Err(FrameError::Body));
        }
    }

    #[test]
    fn put_counts_its_length() {
        let mut out = vec![];
        put(&mut out, b'Q', |out| out.extend_from_slice(b"x\0"));
        assert_eq!(out, b"Q\0\0\0\x06x\0");
    }
}
