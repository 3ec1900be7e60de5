//! ErrorResponse and NoticeResponse: written for clients, read from servers.
//!
//! Here: bytes in, bytes out. Not here: which error a situation deserves.
//! Source: PostgreSQL documentation, "Error and Notice Message Fields".

use bytes::{BufMut, BytesMut};

/// What becomes of the session, as PostgreSQL words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    Warning,
    Notice,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// Appends an ErrorResponse (`E`). `sqlstate` is the five characters of the error's class.
pub fn encode_error(
    out: &mut BytesMut,
    severity: Severity,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    encode_fields(out, b'E', severity, sqlstate, message, detail, hint);
}

/// Appends a NoticeResponse (`N`).
pub fn encode_notice(
    out: &mut BytesMut,
    severity: Severity,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    encode_fields(out, b'N', severity, sqlstate, message, detail, hint);
}

fn encode_fields(
    out: &mut BytesMut,
    tag: u8,
    severity: Severity,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    framed(out, tag, |out| {
        // S may be translated by a server, V never is; ours are the same word.
        field(out, b'S', severity.as_str());
        field(out, b'V', severity.as_str());
        field(out, b'C', sqlstate);
        field(out, b'M', message);
        if let Some(detail) = detail {
            field(out, b'D', detail);
        }
        if let Some(hint) = hint {
            field(out, b'H', hint);
        }
        out.put_u8(0);
    });
}

fn field(out: &mut BytesMut, code: u8, text: &str) {
    out.put_u8(code);
    put_cstr(out, text.as_bytes());
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

/// The fields of an ErrorResponse or NoticeResponse that the proxy looks at. Bytes that are not
/// UTF-8 are replaced: before a session has an encoding, the server's messages may be in any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ErrorFields {
    /// Reads the body (without tag and length). Unknown fields are skipped, missing ones are
    /// empty; a body that ends in the middle of a field gives what came before it.
    pub fn parse(mut body: &[u8]) -> ErrorFields {
        let mut fields = ErrorFields::default();
        while let Some((&code, rest)) = body.split_first() {
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { break };
            if code == 0 {
                break;
            }
            let text = || String::from_utf8_lossy(&rest[..end]).into_owned();
            match code {
                b'V' => fields.severity = text(),
                b'S' if fields.severity.is_empty() => fields.severity = text(),
                b'C' => fields.sqlstate = text(),
                b'M' => fields.message = text(),
                b'D' => fields.detail = Some(text()),
                b'H' => fields.hint = Some(text()),
                _ => {}
            }
            body = &rest[end + 1..];
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_postgres_writes_it() {
        let mut out = BytesMut::new();
        encode_error(&mut out, Severity::Fatal, "28P01", "no", Some("d"), Some("h"));
        assert_eq!(&out[..], b"E\0\0\0\x24SFATAL\0VFATAL\0C28P01\0Mno\0Dd\0Hh\0\0".as_slice());
        assert_eq!(u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize, out.len() - 1);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = BytesMut::new();
        encode_notice(&mut out, Severity::Warning, "01000", "m", None, Some("h"));
        let read = ErrorFields::parse(&out[5..]);
        assert_eq!((&*read.severity, &*read.sqlstate, &*read.message), ("WARNING", "01000", "m"));
        assert_eq!((read.detail, read.hint.as_deref()), (None, Some("h")));
    }

    #[test]
    fn a_zero_byte_in_a_text_adds_no_field() {
        let mut out = BytesMut::new();
        encode_error(&mut out, Severity::Error, "XX000", "a\0Hb", None, None);
        let read = ErrorFields::parse(&out[5..]);
        assert_eq!((&*read.message, read.hint), ("aHb", None));
    }

    #[test]
    fn broken_bodies_give_what_can_be_read() {
        for (body, sqlstate) in
            [(&b""[..], ""), (b"C", ""), (b"C28", ""), (b"C28\0", "28"), (b"\0\0", "")]
        {
            assert_eq!(ErrorFields::parse(body).sqlstate, sqlstate, "{body:?}");
        }
    }
}
