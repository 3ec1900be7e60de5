//! ErrorResponse and NoticeResponse: written for clients, read from servers.
//!
//! Here: bytes in, bytes out. Not here: which error a situation deserves.
//! Source: PostgreSQL documentation, "Error and Notice Message Fields".

use super::frame::{body, c_string, put};

/// What becomes of the session, as PostgreSQL words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The session ends.
    Fatal,
    /// The statement failed, the session goes on.
    Error,
    Warning,
}

/// An error or a notice for a client. The message's tag follows from the severity.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub severity: Severity,
    /// The five characters of the error's class.
    pub sqlstate: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    /// The function of the server that says so: some drivers know errors by that.
    pub routine: Option<&'a str>,
}

impl<'a> Report<'a> {
    pub fn error(sqlstate: &'a str, message: &'a str) -> Report<'a> {
        let (severity, detail, hint, routine) = (Severity::Error, None, None, None);
        Report { severity, sqlstate, message, detail, hint, routine }
    }

    pub fn fatal(sqlstate: &'a str, message: &'a str) -> Report<'a> {
        Report { severity: Severity::Fatal, ..Report::error(sqlstate, message) }
    }

    /// Appends it as one message.
    pub fn put(&self, out: &mut Vec<u8>) {
        let (tag, severity) = match self.severity {
            Severity::Fatal => (b'E', "FATAL"),
            Severity::Error => (b'E', "ERROR"),
            Severity::Warning => (b'N', "WARNING"),
        };
        // A server may translate S, V never; ours are the same word.
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(self.sqlstate)),
            (b'M', Some(self.message)),
            (b'D', self.detail),
            (b'H', self.hint),
            (b'R', self.routine),
        ];
        put(out, tag, |out| {
            for (kind, value) in fields {
                if let Some(value) = value {
                    out.push(kind);
                    // A NUL would end the field early, and the rest pass for another one.
                    out.extend(value.bytes().filter(|&byte| byte != 0));
                    out.push(0);
                }
            }
            out.push(0);
        });
    }
}

/// The fields of an ErrorResponse or NoticeResponse that the proxy acts on, where they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// Not localised (`V`), or `S` from servers before 9.6.
    pub severity: &'a [u8],
    pub sqlstate: &'a [u8],
    pub message: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads a whole message; fields that are missing or broken stay empty.
    pub fn of_message(message: &'a [u8]) -> ErrorFields<'a> {
        ErrorFields::of_body(body(message))
    }

    /// The same without tag and length.
    pub fn of_body(mut rest: &'a [u8]) -> ErrorFields<'a> {
        let mut fields = ErrorFields::default();
        while let Some((&kind, after)) = rest.split_first() {
            if kind == 0 {
                break;
            }
            let Ok((value, next)) = c_string(after) else { break };
            match kind {
                b'V' => fields.severity = value,
                b'S' if fields.severity.is_empty() => fields.severity = value,
                b'C' => fields.sqlstate = value,
                b'M' => fields.message = value,
                _ => {}
            }
            rest = next;
        }
        fields
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

/// An ErrorResponse in whose message the quoted name `from` is `to`; `None` if it does not occur
/// there.
pub fn with_other_name(message: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let text = ErrorFields::of_message(message).message;
    let from = [b"\"", from, b"\""].concat();
    let at = text.windows(from.len()).position(|part| part == from)?;
    let worded = [&text[..at], b"\"", to, b"\"", &text[at + from.len()..]].concat();
    let mut out = Vec::new();
    put(&mut out, message[0], |out| {
        for field in body(message).split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
            match field {
                [b'M', ..] => out.extend([b"M", &worded[..]].concat()),
                other => out.extend_from_slice(other),
            }
            out.push(0);
        }
        out.push(0);
    });
    Some(out)
}

/// The same to keep. Bytes that are not UTF-8 are replaced: before a session has an encoding, the
/// server's messages may be in any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
}

impl ServerError {
    /// Reads the body, without tag and length.
    pub fn parse(body: &[u8]) -> ServerError {
        let ErrorFields { severity, sqlstate, message } = ErrorFields::of_body(body);
        let [severity, sqlstate, message] =
            [severity, sqlstate, message].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        ServerError { severity, sqlstate, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(report: Report<'_>) -> Vec<u8> {
        let mut out = vec![];
        report.put(&mut out);
        out
    }

    #[test]
    fn names_in_errors_are_replaced() {
        let mut out = vec![];
        let message = "prepared statement \"x\" already exists";
        Report { hint: Some("\"x\""), ..Report::error("42P05", message) }.put(&mut out);
        let renamed = with_other_name(&out, b"x", b"mine").unwrap();
        let mut expected = vec![];
        let message = "prepared statement \"mine\" already exists";
        Report { hint: Some("\"x\""), ..Report::error("42P05", message) }.put(&mut expected);
        assert_eq!(renamed, expected);
        assert_eq!(with_other_name(&out, b"y", b"mine"), None);
        assert_eq!(with_other_name(b"E\0\0\0\x07Cab", b"x", b"mine"), None);
    }

    #[test]
    fn an_error_is_written_as_postgres_writes_it() {
        let out =
            written(Report { detail: Some("d"), hint: Some("h"), ..Report::fatal("28P01", "no") });
        assert_eq!(out, b"E\0\0\0\x24SFATAL\0VFATAL\0C28P01\0Mno\0Dd\0Hh\0\0");
        let warning =
            written(Report { severity: Severity::Warning, ..Report::error("01000", "m") });
        assert_eq!(warning[0], b'N');
    }

    #[test]
    fn what_is_written_can_be_read() {
        let out = written(Report { hint: Some("try again"), ..Report::fatal("57P01", "bye") });
        let fields = ErrorFields::of_message(&out);
        assert!(fields.is_fatal());
        assert_eq!((fields.sqlstate, fields.message), (&b"57P01"[..], &b"bye"[..]));
        let kept = ServerError::parse(&out[5..]);
        assert_eq!((&*kept.severity, &*kept.sqlstate, &*kept.message), ("FATAL", "57P01", "bye"));
    }

    #[test]
    fn a_zero_byte_in_a_text_adds_no_field() {
        let out = written(Report::error("XX000", "a\0Cb"));
        let fields = ErrorFields::of_message(&out);
        assert_eq!((fields.message, fields.sqlstate), (&b"aCb"[..], &b"XX000"[..]));
    }

    #[test]
    fn broken_bodies_give_what_can_be_read() {
        for (body, sqlstate) in
            [(&b""[..], ""), (b"C", ""), (b"C28", ""), (b"C28\0", "28"), (b"\0\0", "")]
        {
            assert_eq!(ServerError::parse(body).sqlstate, sqlstate, "{body:?}");
        }
        assert_eq!(ErrorFields::of_message(b"E"), ErrorFields::default());
    }
}
