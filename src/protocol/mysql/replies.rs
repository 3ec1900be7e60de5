//! One command's reply, followed as it arrives.
//!
//! ```text
//! Results:  OK | ERR | LOCAL INFILE ─▶ OK | ERR | count, definitions ─▶ rows ─▶ OK(0xFE) | ERR
//!           └──────────────── again while the status says MORE_RESULTS ────────────────┘
//! Prepare:  ERR | PREPARE_OK, parameters, columns          Rows (FETCH):  rows ─▶ OK(0xFE) | ERR
//! Fields:   definitions ─▶ OK(0xFE) | ERR    Text: one packet    Binlog: events ─▶ EOF | ERR
//! ```
//!
//! Only heads and first bytes are looked at: rows and definitions are passed over, in whatever
//! pieces they arrive. What tells something is given out as one whole packet. The server side has
//! negotiated `DEPRECATE_EOF` and `SESSION_TRACK`; clients that have not are [`super::translate`]'s.

use super::PacketError;
use super::capabilities::Status;
use super::lenenc::Reader;
use super::packet::{self, HEAD_BYTES, Head};
use super::reply::{EOF, EOF_BYTES_MAX, ERR, ErrPacket, LOCAL_INFILE, OK, OkPacket};

/// A packet that tells something is looked at as a whole, up to this. Texts of errors have half a
/// kilobyte; trackers may tell long values of variables.
pub const TELLING_BYTES_MAX: usize = 1024 * 1024;

/// What a command is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// No reply at all.
    Nothing,
    /// One OK (by either header) or ERR.
    Ok,
    Results,
    Prepare,
    /// Rows without definitions.
    Rows,
    /// Definitions without a count.
    Fields,
    /// One packet of text.
    Text,
    /// Events until the server stops, if ever.
    Binlog,
}

/// What a packet tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// A statement is done, or its rows are over. With `MORE_RESULTS` in its status another result
    /// follows.
    Ok(OkPacket<'a>),
    /// The end of the reply.
    Err(ErrPacket<'a>),
    /// No packet: here the definitions are over and something other than the end follows.
    DefinitionsEnd,
    /// The server wants this file from the client; its content goes to the server as packets, the
    /// last of them empty. Then the reply goes on.
    LocalInfile(&'a [u8]),
    Prepared(PrepareOk),
    /// The answer of COM_STATISTICS.
    Text(&'a [u8]),
    /// No event is left, and the reader did not want to wait for more.
    BinlogEof,
}

/// COM_STMT_PREPARE_OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOk {
    pub id: u32,
    pub columns: u16,
    pub parameters: u16,
    pub warnings: u16,
}

/// The statement's id in a COM_STMT_PREPARE_OK packet, behind the head and the first byte.
pub const PREPARED_ID_AT: usize = HEAD_BYTES + 1;

impl PrepareOk {
    fn parse(payload: &[u8]) -> Result<PrepareOk, PacketError> {
        let mut reader = Reader::new(payload);
        reader.u8()?;
        let (id, columns, parameters) = (reader.u32()?, reader.u16()?, reader.u16()?);
        reader.u8()?;
        // Servers before 5.0 leave the warnings out.
        let warnings = if reader.is_empty() { 0 } else { reader.u16()? };
        Ok(PrepareOk { id, columns, parameters, warnings })
    }
}

/// How far a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// From the front of what was given: bytes that only pass, or one packet that tells something.
    pub bytes: usize,
    pub told: Option<Told<'a>>,
}

/// The reply that is being followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    state: State,
    /// Bytes of the current packet still to pass.
    passing: usize,
    /// The next packet goes on with the payload of the last one.
    continued: bool,
    /// Of the last packet whose head was seen.
    sequence: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first packet of a result.
    First,
    /// One OK or ERR.
    Single,
    /// So many definitions of columns, then rows.
    Columns(u64),
    Rows,
    PrepareFirst,
    /// So many definitions of parameters are left, then come those of columns.
    Parameters {
        left: u16,
        columns: u16,
    },
    PreparedColumns {
        left: u16,
    },
    Fields,
    Text,
    Binlog,
    Over,
}

/// What the next packet is.
enum Sort {
    /// Nothing to look at; then the reply is here.
    Passes(State),
    Tells,
    /// The first after definitions.
    EndsDefinitions,
    /// More of it must be there.
    Unclear,
}

impl Reply {
    pub fn new(awaits: Awaits) -> Reply {
        let state = match awaits {
            Awaits::Nothing => State::Over,
            Awaits::Ok => State::Single,
            Awaits::Results => State::First,
            Awaits::Prepare => State::PrepareFirst,
            Awaits::Rows => State::Rows,
            Awaits::Fields => State::Fields,
            Awaits::Text => State::Text,
            Awaits::Binlog => State::Binlog,
        };
        Reply { state, passing: 0, continued: false, sequence: 0 }
    }

    /// Whether every byte of the reply has been seen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether a part of a packet has been seen.
    pub fn is_cut(&self) -> bool {
        self.passing > 0 || self.continued
    }

    /// Sequence id of the last packet that was seen.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Goes over the bytes that have arrived and that no earlier step took. No bytes and nothing
    /// told: the reply is over, or more must be read first. Heads are never parted.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, PacketError> {
        let mut at = 0;
        loop {
            let here = self.passing.min(bytes.len() - at);
            self.passing -= here;
            at += here;
            let passed = Ok(Step { bytes: at, told: None });
            if self.passing > 0 {
                return passed;
            }
            let rest = &bytes[at..];
            let sort = match packet::head(rest) {
                _ if !self.continued && self.prepared_definitions_are_over() => {
                    Sort::EndsDefinitions
                }
                _ if self.is_over() => return passed,
                None => return passed,
                Some(_) if self.continued => Sort::Passes(self.state),
                Some(head) => match self.sort(head, rest) {
                    // Once more, when what was right has been given out.
                    Err(_) if at > 0 => return passed,
                    sort => sort?,
                },
            };
            match sort {
                Sort::Passes(state) => {
                    let head = packet::head(rest).ok_or(PacketError::Short)?;
                    self.state = state;
                    self.passing = head.bytes();
                    self.continued = head.is_continued();
                    self.sequence = head.sequence;
                }
                Sort::Unclear => return passed,
                // What passes is given out first.
                _ if at > 0 => return passed,
                Sort::EndsDefinitions => return Ok(self.definitions_end()),
                Sort::Tells => return self.tell(rest),
            }
        }
    }

    /// Of a COM_STMT_PREPARE's reply: no packet says so.
    fn prepared_definitions_are_over(&self) -> bool {
        matches!(self.state, State::Parameters { left: 0, .. } | State::PreparedColumns { left: 0 })
    }

    fn definitions_end(&mut self) -> Step<'static> {
        self.state = match self.state {
            State::Parameters { columns: left @ 1.., .. } => State::PreparedColumns { left },
            State::Columns(_) => State::Rows,
            _ => State::Over,
        };
        Step { bytes: 0, told: Some(Told::DefinitionsEnd) }
    }

    /// `rest` begins with the packet, of which only the head need be there.
    fn sort(&self, head: Head, rest: &[u8]) -> Result<Sort, PacketError> {
        let Some(&first) = rest.get(HEAD_BYTES) else {
            // No packet of a reply is empty; only the rest of a long one may be.
            return if head.payload == 0 { Err(PacketError::Shape) } else { Ok(Sort::Unclear) };
        };
        if head.payload == 0 {
            return Err(PacketError::Shape);
        }
        let is_end = first == EOF && !head.is_continued();
        Ok(match self.state {
            _ if first == ERR && self.state != State::Columns(0) => Sort::Tells,
            State::First if matches!(first, OK | LOCAL_INFILE) || is_end => Sort::Tells,
            State::First => match rest.get(HEAD_BYTES..head.bytes()) {
                Some(payload) => Sort::Passes(State::Columns(column_count(payload)?)),
                // A count has nine bytes at most.
                None if head.payload > 9 => return Err(PacketError::Shape),
                None => Sort::Unclear,
            },
            // A cursor is opened: its rows come when they are fetched, and the definitions and
            // the reply end together.
            State::Columns(0) if is_end => match self.told(head, rest)? {
                Some(Told::Ok(ok)) if ok.status.has(Status::CURSOR_EXISTS) => Sort::Tells,
                Some(_) => Sort::EndsDefinitions,
                None => Sort::Unclear,
            },
            State::Columns(0) => Sort::EndsDefinitions,
            State::Columns(left) => Sort::Passes(State::Columns(left - 1)),
            State::Rows | State::Fields if is_end => Sort::Tells,
            State::Binlog if is_end && head.payload < EOF_BYTES_MAX => Sort::Tells,
            State::Rows | State::Fields | State::Binlog => Sort::Passes(self.state),
            State::Parameters { left, columns } => {
                Sort::Passes(State::Parameters { left: left.saturating_sub(1), columns })
            }
            State::PreparedColumns { left } => {
                Sort::Passes(State::PreparedColumns { left: left.saturating_sub(1) })
            }
            State::Single | State::PrepareFirst | State::Text | State::Over => Sort::Tells,
        })
    }

    /// What the packet tells; `None` while it is not complete.
    fn told<'a>(&self, head: Head, rest: &'a [u8]) -> Result<Option<Told<'a>>, PacketError> {
        if head.payload > TELLING_BYTES_MAX {
            return Err(PacketError::TooLong);
        }
        let Some(payload) = rest.get(HEAD_BYTES..head.bytes()) else { return Ok(None) };
        let first = payload.first().ok_or(PacketError::Short)?;
        Ok(Some(match (self.state, *first) {
            (_, ERR) => Told::Err(ErrPacket::parse(payload)?),
            (State::Text, _) => Told::Text(payload),
            (State::Binlog, _) => Told::BinlogEof,
            (State::PrepareFirst, OK) => Told::Prepared(PrepareOk::parse(payload)?),
            (State::First, LOCAL_INFILE) => Told::LocalInfile(&payload[1..]),
            _ => Told::Ok(OkPacket::parse(payload)?),
        }))
    }

    fn tell<'a>(&mut self, rest: &'a [u8]) -> Result<Step<'a>, PacketError> {
        let head = packet::head(rest).ok_or(PacketError::Short)?;
        let Some(told) = self.told(head, rest)? else { return Ok(Step { bytes: 0, told: None }) };
        self.sequence = head.sequence;
        self.state = match told {
            Told::LocalInfile(_) => State::First,
            Told::Prepared(PrepareOk { parameters: left @ 1.., columns, .. }) => {
                State::Parameters { left, columns }
            }
            Told::Prepared(PrepareOk { columns: left @ 1.., .. }) => {
                State::PreparedColumns { left }
            }
            Told::Ok(ok)
                if ok.status.has(Status::MORE_RESULTS)
                    && !matches!(self.state, State::Single | State::Fields) =>
            {
                State::First
            }
            _ => State::Over,
        };
        Ok(Step { bytes: head.bytes(), told: Some(told) })
    }
}

fn column_count(payload: &[u8]) -> Result<u64, PacketError> {
    let mut reader = Reader::new(payload);
    let count = reader.int()?;
    reader.end()?;
    if count == 0 { Err(PacketError::Shape) } else { Ok(count) }
}

#[cfg(test)]
#[path = "replies_tests.rs"]
pub(super) mod tests;
