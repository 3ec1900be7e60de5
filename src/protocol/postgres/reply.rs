//! What a server sends after start-up, read; and the few replies that the proxy writes itself.
//! Errors and notices are `error.rs`.

use super::frame::{FrameError, HEAD_BYTES, body, c_string, put};
use std::hash::{DefaultHasher, Hasher};

/// Transaction status of a ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Idle,
    /// In a transaction block.
    Open,
    /// In a failed transaction block.
    Failed,
}

impl Status {
    pub fn from_byte(byte: u8) -> Result<Status, FrameError> {
        match byte {
            b'I' => Ok(Status::Idle),
            b'T' => Ok(Status::Open),
            b'E' => Ok(Status::Failed),
            _ => Err(FrameError::Body),
        }
    }

    pub fn as_byte(self) -> u8 {
        match self {
            Status::Idle => b'I',
            Status::Open => b'T',
            Status::Failed => b'E',
        }
    }
}

/// Status of a complete ReadyForQuery.
pub fn ready_status(message: &[u8]) -> Result<Status, FrameError> {
    match body(message) {
        [byte] => Status::from_byte(*byte),
        _ => Err(FrameError::Body),
    }
}

/// Name and value of a complete ParameterStatus.
pub fn parameter_status(message: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let (name, rest) = c_string(body(message))?;
    Ok((name, c_string(rest)?.0))
}

/// The tag of a complete CommandComplete.
pub fn command_tag(message: &[u8]) -> &[u8] {
    c_string(body(message)).map(|(tag, _)| tag).unwrap_or_default()
}

/// A number for what a RowDescription or NoData says of a result's columns: names and types, in
/// order. Where they come from and their formats do not count (`equalTupleDescs`,
/// `src/backend/access/common/tupdesc.c`). Of a part of a message, what that part says.
pub fn shape(message: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(message.get(..HEAD_BYTES).unwrap_or_default());
    let mut rest = body(message).get(2..).unwrap_or_default();
    while let Ok((name, after)) = c_string(rest) {
        hasher.write(name);
        // Behind the table's OID and the column's number: type, its size, its modifier.
        let Some((column, after)) = after.split_at_checked(18) else { break };
        hasher.write(&column[6..16]);
        rest = after;
    }
    hasher.finish()
}

pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
pub const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
pub const NO_DATA: &[u8] = b"n\0\0\0\x04";

pub fn put_ready(out: &mut Vec<u8>, status: Status) {
    put(out, b'Z', |out| out.push(status.as_byte()));
}

pub fn put_command_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, b'C', |out| {
        out.extend_from_slice(tag.as_bytes());
        out.push(0);
    });
}

pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, b'S', |out| {
        for part in [name, value] {
            out.extend_from_slice(part);
            out.push(0);
        }
    });
}

pub fn put_backend_key(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    put(out, b'K', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// A result of one text column and one row, as SHOW answers, with its CommandComplete.
pub fn put_text_result(out: &mut Vec<u8>, column: &str, value: &str, tag: &str) {
    put_text_columns(out, column);
    put(out, b'D', |out| {
        out.extend_from_slice(&1u16.to_be_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    });
    put_command_complete(out, tag);
}

/// RowDescription of one text column.
pub fn put_text_columns(out: &mut Vec<u8>, column: &str) {
    /// OID of `text` (`pg_type.dat`).
    const TEXT: u32 = 25;
    put(out, b'T', |out| {
        out.extend_from_slice(&1u16.to_be_bytes());
        out.extend_from_slice(column.as_bytes());
        out.push(0);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&TEXT.to_be_bytes());
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes());
        out.extend_from_slice(&[0; 2]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_a_known_status() {
        assert_eq!(ready_status(b"Z\0\0\0\x05T"), Ok(Status::Open));
        assert_eq!(ready_status(b"Z\0\0\0\x05X"), Err(FrameError::Body));
        assert_eq!(ready_status(b"Z\0\0\0\x04"), Err(FrameError::Body));
    }

    #[test]
    fn the_shape_of_a_result_is_its_names_and_types() {
        let column = |name: &str, places: [u8; 6], kind: u8, format: u8| {
            let mut out = Vec::new();
            put(&mut out, b'T', |out| {
                out.extend([0, 1]);
                out.extend(name.as_bytes());
                out.push(0);
                out.extend(places);
                out.extend([0, 0, 0, kind, 0, 4, 255, 255, 255, 255, 0, format]);
            });
            shape(&out)
        };
        let one = column("a", [1; 6], 23, 0);
        assert_eq!(one, column("a", [2; 6], 23, 1));
        assert_ne!(one, column("b", [1; 6], 23, 0));
        assert_ne!(one, column("a", [1; 6], 25, 0));
        assert_ne!(one, shape(NO_DATA));
        assert_eq!(shape(b""), shape(b""));
    }

    #[test]
    fn parameters() {
        let mut out = vec![];
        put_parameter_status(&mut out, b"TimeZone", b"UTC");
        assert_eq!(parameter_status(&out), Ok((&b"TimeZone"[..], &b"UTC"[..])));
    }
}
