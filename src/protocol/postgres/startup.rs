//! The first packets of a connection, which have no tag: StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest; and NegotiateProtocolVersion, the answer to a version too new.
//!
//! Here: bytes in, values out, and the other way. Not here: what is done about them.
//! Source: PostgreSQL documentation, "Message Formats"; `ProcessStartupPacket` in
//! `src/backend/tcop/backend_startup.c`.

use super::frame::{framed, length_prefixed, put_cstr};
use bytes::{BufMut, BytesMut};

/// The longest first packet, with its length word (`MAX_STARTUP_PACKET_LENGTH` of the server).
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// A length word and a code: no packet is shorter.
pub const STARTUP_BYTES_MIN: usize = 8;

/// Cancel keys of protocol 3.2; those of 3.0 have four bytes.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
const CANCEL_KEY_BYTES_MIN: usize = 4;

/// The major version that is spoken here.
pub const MAJOR: u16 = 3;
/// The newest minor version that is spoken here.
pub const MINOR_MAX: u16 = 2;

const CANCEL_CODE: u32 = code(1234, 5678);
const SSL_CODE: u32 = code(1234, 5679);
const GSSENC_CODE: u32 = code(1234, 5680);

const fn code(major: u16, minor: u16) -> u32 {
    (major as u32) << 16 | minor as u32
}

/// Name and value as bytes: which encoding they are in is not known before there is a session.
pub type Parameter = (Box<[u8]>, Box<[u8]>);

/// A packet without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Ssl,
    GssEnc,
    Cancel { process_id: i32, key: Box<[u8]> },
    Startup(Startup),
}

/// StartupMessage, as the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The minor version that the client asked for, whatever is spoken in the end.
    pub minor_asked: u16,
    /// The minor version to speak: 0 or 2.
    pub minor: u16,
    /// Empty when the client named none.
    pub user: Box<[u8]>,
    /// The user when the client named none, as the server does it.
    pub database: Box<[u8]>,
    /// The value of `replication`, as sent.
    pub replication: Option<Box<[u8]>>,
    /// Names of `_pq_.` options, none of which is known here.
    pub unknown_options: Vec<Box<[u8]>>,
    /// Everything else in the order sent, with duplicates, in whatever encoding.
    pub parameters: Vec<Parameter>,
}

impl Startup {
    /// Whether the client must be told that less is spoken than it asked for.
    pub fn needs_negotiation(&self) -> bool {
        self.minor_asked != self.minor || !self.unknown_options.is_empty()
    }
}

/// Why a first packet is refused. All of them are the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupPacketError {
    #[error("invalid length of startup packet")]
    Length,
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("invalid length of cancel request packet")]
    CancelLength,
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version { major: u16, minor: u16 },
}

impl StartupPacketError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            StartupPacketError::Version { .. } => "0A000",
            _ => "08P01",
        }
    }
}

/// How many bytes follow a packet's length word. `length` is that word, which counts itself.
pub fn body_length(length: u32) -> Result<usize, StartupPacketError> {
    let length = usize::try_from(length).map_err(|_| StartupPacketError::Length)?;
    if (STARTUP_BYTES_MIN..=STARTUP_BYTES_MAX).contains(&length) {
        Ok(length - 4)
    } else {
        Err(StartupPacketError::Length)
    }
}

/// Reads a packet's body: everything after its length word.
pub fn parse(body: &[u8]) -> Result<Packet, StartupPacketError> {
    let (head, rest) = body.split_first_chunk::<4>().ok_or(StartupPacketError::Length)?;
    match u32::from_be_bytes(*head) {
        SSL_CODE if rest.is_empty() => Ok(Packet::Ssl),
        GSSENC_CODE if rest.is_empty() => Ok(Packet::GssEnc),
        SSL_CODE | GSSENC_CODE => Err(StartupPacketError::Length),
        CANCEL_CODE => parse_cancel(rest),
        version => {
            let (major, minor) = ((version >> 16) as u16, version as u16);
            if major != MAJOR {
                return Err(StartupPacketError::Version { major, minor });
            }
            parse_startup(minor, rest).map(Packet::Startup)
        }
    }
}

fn parse_cancel(rest: &[u8]) -> Result<Packet, StartupPacketError> {
    let (id, key) = rest.split_first_chunk::<4>().ok_or(StartupPacketError::CancelLength)?;
    if !(CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) {
        return Err(StartupPacketError::CancelLength);
    }
    Ok(Packet::Cancel { process_id: i32::from_be_bytes(*id), key: key.into() })
}

fn parse_startup(minor_asked: u16, mut rest: &[u8]) -> Result<Startup, StartupPacketError> {
    let mut startup = Startup {
        minor_asked,
        // 3.1 was never released; who asks for it gets what came before.
        minor: if minor_asked >= MINOR_MAX { MINOR_MAX } else { 0 },
        user: Box::default(),
        database: Box::default(),
        replication: None,
        unknown_options: Vec::new(),
        parameters: Vec::new(),
    };
    loop {
        let name = take_cstr(&mut rest).ok_or(StartupPacketError::Layout)?;
        if name.is_empty() {
            break;
        }
        let value = take_cstr(&mut rest).ok_or(StartupPacketError::Layout)?;
        // As in the server, the last one of several counts.
        match name {
            b"user" => startup.user = value.into(),
            b"database" => startup.database = value.into(),
            b"replication" => startup.replication = Some(value.into()),
            _ if name.starts_with(b"_pq_.") => startup.unknown_options.push(name.into()),
            _ => startup.parameters.push((name.into(), value.into())),
        }
    }
    if !rest.is_empty() {
        return Err(StartupPacketError::Layout);
    }
    if startup.database.is_empty() {
        startup.database = startup.user.clone();
    }
    Ok(startup)
}

/// Takes the bytes before the next zero byte, and that byte.
pub(crate) fn take_cstr<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

/// Appends an SSLRequest.
pub fn encode_ssl_request(out: &mut BytesMut) {
    length_prefixed(out, |out| out.put_u32(SSL_CODE));
}

/// Appends a CancelRequest; the key is 4 bytes, or up to 256 since protocol 3.2.
pub fn encode_cancel_request(out: &mut BytesMut, process_id: i32, key: &[u8]) {
    length_prefixed(out, |out| {
        out.put_u32(CANCEL_CODE);
        out.put_i32(process_id);
        out.extend_from_slice(key);
    });
}

/// Appends a StartupMessage. Parameters with an empty name are left out: the server would take
/// them for the end.
pub fn encode_startup<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    length_prefixed(out, |out| {
        out.put_u32(code(MAJOR, minor));
        for (name, value) in parameters {
            if !name.is_empty() {
                put_cstr(out, name);
                put_cstr(out, value);
            }
        }
        out.put_u8(0);
    });
}

/// Appends a NegotiateProtocolVersion: the version that will be spoken, and the options that
/// will not be honoured.
pub fn encode_negotiation(out: &mut BytesMut, minor: u16, unknown_options: &[Box<[u8]>]) {
    framed(out, b'v', |out| {
        // The whole version, as servers send it, although the documentation says the minor one.
        out.put_u32(code(MAJOR, minor));
        out.put_u32(unknown_options.len() as u32);
        for option in unknown_options {
            put_cstr(out, option);
        }
    });
}

/// Reads a NegotiateProtocolVersion's body: the minor version and how many options it refuses.
/// `None`: malformed, or another major version.
pub fn parse_negotiation(body: &[u8]) -> Option<(u16, u32)> {
    let (version, rest) = body.split_first_chunk::<4>()?;
    let (count, _names) = rest.split_first_chunk::<4>()?;
    let version = u32::from_be_bytes(*version);
    let major = (version >> 16) as u16;
    // Some servers send the minor version alone, as the documentation has it.
    (major == MAJOR || major == 0).then_some((version as u16, u32::from_be_bytes(*count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(version: u32, rest: &[u8]) -> Vec<u8> {
        [&version.to_be_bytes(), rest].concat()
    }

    fn startup(bytes: &[u8]) -> Startup {
        match parse(bytes) {
            Ok(Packet::Startup(startup)) => startup,
            other => panic!("not a startup message: {other:?}"),
        }
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parse(&body(SSL_CODE, b"")), Ok(Packet::Ssl));
        assert_eq!(parse(&body(GSSENC_CODE, b"")), Ok(Packet::GssEnc));
        for length in [4, 32, 256] {
            let key = vec![7; length];
            let rest = [&9_i32.to_be_bytes()[..], &key].concat();
            let cancel = Packet::Cancel { process_id: 9, key: key.into() };
            assert_eq!(parse(&body(CANCEL_CODE, &rest)), Ok(cancel));
        }
    }

    #[test]
    fn malformed_packets_are_refused() {
        use StartupPacketError::*;
        for (bytes, error) in [
            (vec![], Length),
            (vec![0, 3, 0], Length),
            (body(SSL_CODE, b"x"), Length),
            (body(CANCEL_CODE, b"abc"), CancelLength),
            (body(CANCEL_CODE, b"abcdefg"), CancelLength),
            (body(CANCEL_CODE, &[1; 4 + 257]), CancelLength),
            (body(code(3, 0), b""), Layout),
            (body(code(3, 0), b"user"), Layout),
            (body(code(3, 0), b"user\0"), Layout),
            (body(code(3, 0), b"user\0x\0"), Layout),
            (body(code(3, 0), b"user\0x\0\0more"), Layout),
            (body(code(2, 0), b"\0"), Version { major: 2, minor: 0 }),
            (body(code(4, 7), b"\0"), Version { major: 4, minor: 7 }),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_server() {
        for (length, accepted) in
            [(0, None), (7, None), (8, Some(4)), (10_000, Some(9_996)), (10_001, None)]
        {
            assert_eq!(body_length(length).ok(), accepted);
        }
        assert!(body_length(u32::from_be_bytes(*b"GET ")).is_err());
    }

    #[test]
    fn parameters_keep_order_duplicates_and_bytes() {
        let rest = b"a\0\xe9\0user\0u\0a\x00two\0options\0-c x=1\0user\0v\0\0";
        let read = startup(&body(code(3, 0), rest));
        assert_eq!((&*read.user, &*read.database), (&b"v"[..], &b"v"[..]));
        let pairs: Vec<_> = read.parameters.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        assert_eq!(pairs, [(&b"a"[..], &b"\xe9"[..]), (b"a", b"two"), (b"options", b"-c x=1")]);
    }

    #[test]
    fn minor_versions_are_negotiated() {
        for (asked, spoken, negotiated) in
            [(0, 0, false), (1, 0, true), (2, 2, false), (3, 2, true), (9999, 2, true)]
        {
            let read = startup(&body(code(3, asked), b"user\0u\0\0"));
            assert_eq!((read.minor, read.needs_negotiation()), (spoken, negotiated), "3.{asked}");
        }
        let read = startup(&body(code(3, 0), b"user\0u\0_pq_.x\x001\0\0"));
        assert!(read.needs_negotiation());
        assert_eq!(read.unknown_options, [Box::from(&b"_pq_.x"[..])]);
        let mut out = BytesMut::new();
        encode_negotiation(&mut out, read.minor, &read.unknown_options);
        assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
        assert_eq!(parse_negotiation(&out[5..]), Some((0, 1)));
        assert_eq!(parse_negotiation(&[0, 4, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse_negotiation(&[0, 3, 0]), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = BytesMut::new();
        encode_startup(&mut out, 2, [(&b"user"[..], &b"u"[..]), (b"database", b"d"), (b"", b"x")]);
        let read = startup(&out[4..]);
        assert_eq!((&*read.user, &*read.database, read.minor), (&b"u"[..], &b"d"[..], 2));
        out.clear();
        encode_cancel_request(&mut out, 5, b"abcdef");
        assert_eq!(out[..4], 18_u32.to_be_bytes());
        let cancel = Packet::Cancel { process_id: 5, key: Box::from(&b"abcdef"[..]) };
        assert_eq!(parse(&out[4..]), Ok(cancel));
        out.clear();
        encode_ssl_request(&mut out);
        assert_eq!(&out[..], [0, 0, 0, 8, 4, 210, 22, 47]);
    }
}
