//! Where batches end in the bytes that a client has sent.

use crate::protocol::postgres::frame::{self, FrameError};
use crate::protocol::postgres::request;

/// Where a batch ends in the bytes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it is there, in so many bytes.
    Whole(usize),
    /// More bytes are needed.
    Partial,
    /// The client wants an answer in the middle (Flush), or the batch is longer than what is
    /// held back: so many bytes of complete messages are there.
    Open(usize),
}

/// Finds the end of the first batch. `hold` is how many bytes are held back for it.
pub fn extent(bytes: &[u8], hold: usize) -> Result<Extent, FrameError> {
    let mut at = 0;
    while let Some(head) = frame::head(&bytes[at..])? {
        if !request::is_request_tag(head.tag) {
            return Err(FrameError::Tag(head.tag));
        }
        if head.bytes > hold {
            return Ok(Extent::Open(at));
        }
        if bytes.len() - at < head.bytes {
            break;
        }
        at += head.bytes;
        match head.tag {
            b'Q' | b'S' | b'F' | b'X' => return Ok(Extent::Whole(at)),
            b'H' => return Ok(Extent::Open(at)),
            _ => {}
        }
    }
    Ok(if bytes.len() >= hold { Extent::Open(at) } else { Extent::Partial })
}

/// Bytes of the complete messages at the front that a bound session may send at once. COPY data
/// and messages longer than `hold` are streamed instead.
pub fn complete(bytes: &[u8], hold: usize) -> Result<usize, FrameError> {
    let mut at = 0;
    while let Some(head) = frame::head(&bytes[at..])? {
        if !request::is_request_tag(head.tag) {
            return Err(FrameError::Tag(head.tag));
        }
        if head.tag == b'd' || head.bytes > hold || bytes.len() - at < head.bytes {
            break;
        }
        at += head.bytes;
    }
    Ok(at)
}
