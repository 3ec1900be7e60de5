//! The packets that answer commands: OK, ERR, EOF, and what the trackers tell in an OK ("OK_Packet",
//! "ERR_Packet", "EOF_Packet").
//!
//! OK is read as a peer writes it that negotiated `CLIENT_SESSION_TRACK`, as the proxy does with
//! every server, and written as the reader negotiated.

use super::PacketError;
use super::capabilities::{Capabilities, Status};
use super::lenenc::{Reader, put_bytes, put_int};
use super::packet;

pub const OK: u8 = 0x00;
/// An auth switch, an EOF, or the OK that ends rows.
pub const EOF: u8 = 0xFE;
pub const ERR: u8 = 0xFF;
pub const LOCAL_INFILE: u8 = 0xFB;

/// An EOF without an OK's fields is shorter than this; a row that begins with 0xFE is longer.
pub const EOF_BYTES_MAX: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OkPacket<'a> {
    /// [`OK`], or [`EOF`] where it ends rows.
    pub header: u8,
    pub affected_rows: u64,
    pub last_insert_id: u64,
    pub status: Status,
    pub warnings: u16,
    /// What the command line client prints: `Rows matched: 1 …`.
    pub info: &'a [u8],
    /// What the trackers tell; see [`OkPacket::tracked`].
    pub track: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// Nothing affected, nothing told.
    pub fn plain(status: Status) -> OkPacket<'static> {
        OkPacket {
            header: OK,
            affected_rows: 0,
            last_insert_id: 0,
            status,
            warnings: 0,
            info: b"",
            track: b"",
        }
    }

    pub fn parse(payload: &'a [u8]) -> Result<OkPacket<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        let header = reader.u8()?;
        if !matches!(header, OK | EOF) {
            return Err(PacketError::Shape);
        }
        let mut ok = OkPacket {
            affected_rows: reader.int()?,
            last_insert_id: reader.int()?,
            header,
            status: Status(reader.u16()?),
            warnings: reader.u16()?,
            info: b"",
            track: b"",
        };
        // The server leaves the text out where it is empty and nothing follows.
        if !reader.is_empty() {
            ok.info = reader.bytes()?;
        }
        if ok.status.has(Status::STATE_CHANGED) && !reader.is_empty() {
            ok.track = reader.bytes()?;
        }
        Ok(ok)
    }

    /// Appends the packet for a peer that negotiated `capabilities`.
    pub fn put(&self, out: &mut Vec<u8>, sequence: &mut u8, capabilities: Capabilities) {
        let tells = capabilities.has(Capabilities::SESSION_TRACK) && !self.track.is_empty();
        let status = self.status.without(Status::STATE_CHANGED);
        let status = if tells { status.with(Status::STATE_CHANGED) } else { status };
        packet::put(out, sequence, |out| {
            out.push(self.header);
            put_int(out, self.affected_rows);
            put_int(out, self.last_insert_id);
            out.extend_from_slice(&status.0.to_le_bytes());
            out.extend_from_slice(&self.warnings.to_le_bytes());
            if tells || !self.info.is_empty() {
                put_bytes(out, self.info);
            }
            if tells {
                put_bytes(out, self.track);
            }
        });
    }

    /// What the trackers tell, in the server's order. An entry that cannot be read ends it.
    pub fn tracked(&self) -> impl Iterator<Item = Tracked<'a>> + use<'a> {
        self.entries().filter_map(|entry| entry.tracked)
    }

    /// The trackers' entries with their bytes. What cannot be read ends them.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut reader = Reader::new(self.track);
        std::iter::from_fn(move || Entry::read(&mut reader).ok())
    }
}

/// One entry of what the trackers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub kind: u8,
    pub data: &'a [u8],
    /// `None`: of a kind that is not known, or not readable.
    pub tracked: Option<Tracked<'a>>,
}

/// What changed in the session ("SESSION_TRACK": `enum_session_state_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracked<'a> {
    Variable {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// The default schema; empty: none.
    Schema(&'a [u8]),
    StateChange(bool),
    /// `uuid:1-5,…`.
    Gtids(&'a [u8]),
    /// The statements that would open this transaction again.
    Characteristics(&'a [u8]),
    /// Eight letters, such as `T_______`.
    TransactionState(&'a [u8]),
}

const VARIABLE: u8 = 0;
const SCHEMA: u8 = 1;
const STATE_CHANGE: u8 = 2;
const GTIDS: u8 = 3;
const CHARACTERISTICS: u8 = 4;
const TRANSACTION_STATE: u8 = 5;

impl<'a> Entry<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Entry<'a>, PacketError> {
        let kind = reader.u8()?;
        let data = reader.bytes()?;
        Ok(Entry { kind, data, tracked: Tracked::read(kind, data).ok() })
    }

    /// Appends the entry as it came.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.kind);
        put_bytes(out, self.data);
    }
}

impl<'a> Tracked<'a> {
    fn read(kind: u8, data: &'a [u8]) -> Result<Tracked<'a>, PacketError> {
        let mut reader = Reader::new(data);
        Ok(match kind {
            VARIABLE => Tracked::Variable { name: reader.bytes()?, value: reader.bytes()? },
            SCHEMA => Tracked::Schema(reader.bytes()?),
            STATE_CHANGE => Tracked::StateChange(data == b"1"),
            GTIDS => {
                // The encoding; there is only one.
                if reader.u8()? != 0 {
                    return Err(PacketError::Shape);
                }
                Tracked::Gtids(reader.bytes()?)
            }
            CHARACTERISTICS => Tracked::Characteristics(reader.bytes()?),
            TRANSACTION_STATE => Tracked::TransactionState(reader.bytes()?),
            _ => return Err(PacketError::Shape),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrPacket<'a> {
    pub errno: u16,
    pub sqlstate: [u8; 5],
    pub message: &'a [u8],
}

/// The SQLSTATE of errors that come before the handshake, which have none.
const SQLSTATE_GENERAL: [u8; 5] = *b"HY000";

impl<'a> ErrPacket<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<ErrPacket<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != ERR {
            return Err(PacketError::Shape);
        }
        let errno = reader.u16()?;
        let rest = reader.rest();
        Ok(match rest.split_first_chunk::<6>() {
            Some(([b'#', sqlstate @ ..], message)) => {
                ErrPacket { errno, sqlstate: *sqlstate, message }
            }
            _ => ErrPacket { errno, sqlstate: SQLSTATE_GENERAL, message: rest },
        })
    }

    pub fn put(&self, out: &mut Vec<u8>, sequence: &mut u8) {
        packet::put(out, sequence, |out| {
            out.push(ERR);
            out.extend_from_slice(&self.errno.to_le_bytes());
            out.push(b'#');
            out.extend_from_slice(&self.sqlstate);
            out.extend_from_slice(self.message);
        });
    }
}

/// Appends the packet that ends definitions or rows for a peer without `CLIENT_DEPRECATE_EOF`.
pub fn put_eof(out: &mut Vec<u8>, sequence: &mut u8, warnings: u16, status: Status) {
    packet::put(out, sequence, |out| {
        out.push(EOF);
        out.extend_from_slice(&warnings.to_le_bytes());
        out.extend_from_slice(&status.without(Status::STATE_CHANGED).0.to_le_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACK: Capabilities = Capabilities::SESSION_TRACK;

    #[test]
    fn ok_packets() {
        let plain = OkPacket::plain(Status::AUTOCOMMIT);
        let told = OkPacket {
            affected_rows: 300,
            last_insert_id: 7,
            warnings: 2,
            status: Status::AUTOCOMMIT.with(Status::STATE_CHANGED),
            info: b"Rows matched: 1",
            track: b"\x01\x02\x01d",
            ..plain
        };
        let silent = OkPacket { info: b"", ..told };
        let cases: &[(&[u8], OkPacket<'_>)] = &[
            (b"\0\0\0\x02\0\0\0", plain),
            (b"\xfe\0\0\x02\0\0\0", OkPacket { header: EOF, ..plain }),
            (b"\0\xfc\x2c\x01\x07\x02\x40\x02\0\x0fRows matched: 1\x04\x01\x02\x01d", told),
            (b"\0\xfc\x2c\x01\x07\x02\x40\x02\0\0\x04\x01\x02\x01d", silent),
        ];
        for (bytes, ok) in cases {
            assert_eq!(OkPacket::parse(bytes), Ok(*ok));
            let (mut out, mut sequence) = (Vec::new(), 3);
            ok.put(&mut out, &mut sequence, TRACK);
            assert_eq!((&out[4..], &out[..4]), (*bytes, &[bytes.len() as u8, 0, 0, 3][..]));
            assert_eq!(sequence, 4);
        }
        let (mut out, mut sequence) = (Vec::new(), 0);
        told.put(&mut out, &mut sequence, Capabilities::NONE);
        assert_eq!(&out[4..], b"\0\xfc\x2c\x01\x07\x02\0\x02\0\x0fRows matched: 1");
    }

    #[test]
    fn what_trackers_tell() {
        let cases: &[(&[u8], Option<Tracked<'_>>)] = &[
            (b"\x00\x07\x01a\x04utf8", Some(Tracked::Variable { name: b"a", value: b"utf8" })),
            (b"\x01\x02\x01d", Some(Tracked::Schema(b"d"))),
            (b"\x01\x01\x00", Some(Tracked::Schema(b""))),
            (b"\x02\x011", Some(Tracked::StateChange(true))),
            (b"\x03\x05\x00\x03u:1", Some(Tracked::Gtids(b"u:1"))),
            (b"\x03\x05\x01\x03u:1", None),
            (b"\x04\x01\x00", Some(Tracked::Characteristics(b""))),
            (b"\x05\x09\x08T_______", Some(Tracked::TransactionState(b"T_______"))),
            (b"\x09\x01\x00", None),
            (b"\x01\x01\x05", None),
            (b"\x01\x09", None),
        ];
        for (track, expected) in cases {
            let ok = OkPacket { track, ..OkPacket::plain(Status::default()) };
            assert_eq!(ok.tracked().next(), *expected, "{track:?}");
            if let Some(entry) = ok.entries().next() {
                let mut out = Vec::new();
                entry.put(&mut out);
                assert_eq!(out, *track);
            }
        }
    }

    #[test]
    fn err_packets() {
        let err = ErrPacket { errno: 1045, sqlstate: *b"28000", message: b"no" };
        assert_eq!(ErrPacket::parse(b"\xff\x15\x04#28000no"), Ok(err));
        let (mut out, mut sequence) = (Vec::new(), 1);
        err.put(&mut out, &mut sequence);
        assert_eq!(out, b"\x0b\0\0\x01\xff\x15\x04#28000no");
        let early = ErrPacket::parse(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!((early.errno, &early.sqlstate), (1040, b"HY000"));
        assert_eq!(ErrPacket::parse(b"\xff\x10"), Err(PacketError::Short));
    }
}
