//! Authentication messages: what a server asks, what a client answers.
//!
//! Here: bytes in, values out, and the other way. Not here: SCRAM's own messages ([`super::scram`]).
//! Source: PostgreSQL documentation, "Message Formats", Authentication*, SASL*, PasswordMessage.

use super::frame::{framed, put_cstr};
use super::startup::take_cstr;
use bytes::{BufMut, BytesMut};

/// The longest SASL message of a client (`PG_MAX_SASL_MESSAGE_LENGTH` of the server).
pub const SASL_BYTES_MAX: usize = 1024;

/// The longest password message of a client (`PG_MAX_AUTH_TOKEN_LENGTH` of the server).
pub const PASSWORD_BYTES_MAX: usize = 65_535;

/// What an authentication message (`R`) says.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthMessage<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// Names of the mechanisms, in the server's order of preference.
    Sasl(Vec<&'a [u8]>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and whatever comes.
    Unsupported(u32),
}

impl<'a> AuthMessage<'a> {
    /// Reads the body of an `R` message. `None`: malformed.
    pub fn parse(body: &'a [u8]) -> Option<AuthMessage<'a>> {
        let (kind, rest) = body.split_first_chunk::<4>()?;
        match u32::from_be_bytes(*kind) {
            0 => rest.is_empty().then_some(AuthMessage::Ok),
            3 => rest.is_empty().then_some(AuthMessage::CleartextPassword),
            5 => rest.try_into().ok().map(|salt| AuthMessage::Md5Password { salt }),
            10 => parse_mechanisms(rest).map(AuthMessage::Sasl),
            11 => Some(AuthMessage::SaslContinue(rest)),
            12 => Some(AuthMessage::SaslFinal(rest)),
            other => Some(AuthMessage::Unsupported(other)),
        }
    }

    /// Appends the message with its tag and length.
    pub fn encode(&self, out: &mut BytesMut) {
        framed(out, b'R', |out| match self {
            AuthMessage::Ok => out.put_u32(0),
            AuthMessage::CleartextPassword => out.put_u32(3),
            AuthMessage::Md5Password { salt } => {
                out.put_u32(5);
                out.extend_from_slice(salt);
            }
            AuthMessage::Sasl(mechanisms) => {
                out.put_u32(10);
                for mechanism in mechanisms {
                    put_cstr(out, mechanism);
                }
                out.put_u8(0);
            }
            AuthMessage::SaslContinue(data) => {
                out.put_u32(11);
                out.extend_from_slice(data);
            }
            AuthMessage::SaslFinal(data) => {
                out.put_u32(12);
                out.extend_from_slice(data);
            }
            AuthMessage::Unsupported(kind) => out.put_u32(*kind),
        });
    }
}

fn parse_mechanisms(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut mechanisms = Vec::new();
    loop {
        let mechanism = take_cstr(&mut rest)?;
        if mechanism.is_empty() {
            return Some(mechanisms);
        }
        mechanisms.push(mechanism);
    }
}

/// Reads a PasswordMessage's body: the password without its terminator. `None`: not one string.
pub fn parse_password(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    let password = take_cstr(&mut rest)?;
    rest.is_empty().then_some(password)
}

/// Reads a SASLInitialResponse's body: the mechanism, and the client's first message if it came
/// along. `None`: malformed.
pub fn parse_sasl_initial(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut rest = body;
    let mechanism = take_cstr(&mut rest)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 => data.is_empty().then_some((mechanism, None)),
        length => (usize::try_from(length) == Ok(data.len())).then_some((mechanism, Some(data))),
    }
}

/// Appends a PasswordMessage.
pub fn encode_password(out: &mut BytesMut, password: &[u8]) {
    framed(out, b'p', |out| put_cstr(out, password));
}

/// Appends a SASLInitialResponse.
pub fn encode_sasl_initial(out: &mut BytesMut, mechanism: &str, data: &[u8]) {
    framed(out, b'p', |out| {
        put_cstr(out, mechanism.as_bytes());
        out.put_u32(data.len() as u32);
        out.extend_from_slice(data);
    });
}

/// Appends a SASLResponse.
pub fn encode_sasl_response(out: &mut BytesMut, data: &[u8]) {
    framed(out, b'p', |out| out.extend_from_slice(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for message in [
            AuthMessage::Ok,
            AuthMessage::CleartextPassword,
            AuthMessage::Md5Password { salt: *b"salt" },
            AuthMessage::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]),
            AuthMessage::SaslContinue(b"r=x"),
            AuthMessage::SaslFinal(b"v=x"),
            AuthMessage::Unsupported(7),
        ] {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            assert_eq!(
                (out[0], out[1..5].to_vec()),
                (b'R', (out.len() as u32 - 1).to_be_bytes().to_vec())
            );
            assert_eq!(AuthMessage::parse(&out[5..]), Some(message));
        }
    }

    #[test]
    fn malformed_authentication_messages_are_refused() {
        for body in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0x",
            b"\0\0\0\x05abc",
            b"\0\0\0\x05abcde",
            b"\0\0\0\x0aSCRAM",
            b"\0\0\0\x0aSCRAM\0",
        ] {
            assert_eq!(AuthMessage::parse(body), None, "{body:?}");
        }
    }

    #[test]
    fn client_answers_are_read_strictly() {
        for (body, password) in [
            (&b"pw\0"[..], Some(&b"pw"[..])),
            (b"\0", Some(b"")),
            (b"", None),
            (b"pw", None),
            (b"a\0b\0", None),
        ] {
            assert_eq!(parse_password(body), password, "{body:?}");
        }
        for (body, read) in [
            (&b"M\0\0\0\0\x02ab"[..], Some((&b"M"[..], Some(&b"ab"[..])))),
            (b"M\0\xff\xff\xff\xff", Some((b"M", None))),
            (b"M\0\xff\xff\xff\xffab", None),
            (b"M\0\0\0\0\x03ab", None),
            (b"M\0\0\0\0\x01ab", None),
            (b"M\0\x80\0\0\0ab", None),
            (b"M\0\0\0", None),
            (b"M", None),
        ] {
            assert_eq!(parse_sasl_initial(body), read, "{body:?}");
        }
    }
}
