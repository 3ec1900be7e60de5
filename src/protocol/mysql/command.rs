//! What clients ask for ("Command Phase"; numbers in MySQL's `my_command.h` and MariaDB's
//! `mysql_com.h`).

use super::PacketError;
use super::capabilities::Capabilities;
use super::execute::{Execute, QueryAttributes};
use super::lenenc::Reader;
use super::replies::Awaits;

pub const QUIT: u8 = 0x01;
pub const INIT_DB: u8 = 0x02;
pub const QUERY: u8 = 0x03;
pub const FIELD_LIST: u8 = 0x04;
pub const STATISTICS: u8 = 0x09;
pub const PROCESS_INFO: u8 = 0x0A;
pub const PROCESS_KILL: u8 = 0x0C;
pub const DEBUG: u8 = 0x0D;
pub const PING: u8 = 0x0E;
pub const CHANGE_USER: u8 = 0x11;
pub const BINLOG_DUMP: u8 = 0x12;
pub const REGISTER_SLAVE: u8 = 0x15;
pub const STMT_PREPARE: u8 = 0x16;
pub const STMT_EXECUTE: u8 = 0x17;
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
pub const STMT_CLOSE: u8 = 0x19;
pub const STMT_RESET: u8 = 0x1A;
pub const SET_OPTION: u8 = 0x1B;
pub const STMT_FETCH: u8 = 0x1C;
pub const BINLOG_DUMP_GTID: u8 = 0x1E;
pub const RESET_CONNECTION: u8 = 0x1F;
/// MariaDB.
pub const STMT_BULK_EXECUTE: u8 = 0xFA;

/// COM_SET_OPTION's two values.
pub const OPTION_MULTI_STATEMENTS_ON: u16 = 0;
pub const OPTION_MULTI_STATEMENTS_OFF: u16 = 1;

/// MariaDB: an id that stands for the statement that was prepared last on the connection.
pub const LAST_PREPARED: u32 = u32::MAX;

/// An id that no statement has: servers count from 1 up.
pub const NEVER_PREPARED: u32 = u32::MAX - 1;

/// One command. Text and values borrow from the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    Quit,
    InitDb(&'a [u8]),
    Query(&'a [u8]),
    /// The table, and a pattern for the names of columns.
    FieldList {
        table: &'a [u8],
        pattern: &'a [u8],
    },
    Statistics,
    ProcessInfo,
    ProcessKill(u32),
    Debug,
    Ping,
    /// What follows is read as a handshake's.
    ChangeUser(&'a [u8]),
    BinlogDump,
    BinlogDumpGtid,
    RegisterSlave,
    Prepare(&'a [u8]),
    Execute(Execute<'a>),
    SendLongData {
        id: u32,
        parameter: u16,
        data: &'a [u8],
    },
    CloseStatement(u32),
    ResetStatement(u32),
    SetOption(u16),
    Fetch {
        id: u32,
        rows: u32,
    },
    ResetConnection,
    /// Not known, or none that a client may send.
    Unknown(u8),
}

impl<'a> Command<'a> {
    /// Reads a command's payload. Of one that is longer than a packet, `payload` may be the front:
    /// texts and values are then cut short. `client` is what the client has agreed on.
    pub fn parse(payload: &'a [u8], client: Capabilities) -> Result<Command<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        Ok(match reader.u8()? {
            QUIT => Command::Quit,
            INIT_DB => Command::InitDb(reader.rest()),
            QUERY if client.has(Capabilities::QUERY_ATTRIBUTES) => {
                Command::Query(QueryAttributes::before(reader.rest())?.1)
            }
            QUERY => Command::Query(reader.rest()),
            FIELD_LIST => Command::FieldList { table: reader.c_string()?, pattern: reader.rest() },
            STATISTICS => Command::Statistics,
            PROCESS_INFO => Command::ProcessInfo,
            PROCESS_KILL => Command::ProcessKill(reader.u32()?),
            DEBUG => Command::Debug,
            PING => Command::Ping,
            CHANGE_USER => Command::ChangeUser(reader.rest()),
            BINLOG_DUMP => Command::BinlogDump,
            BINLOG_DUMP_GTID => Command::BinlogDumpGtid,
            REGISTER_SLAVE => Command::RegisterSlave,
            STMT_PREPARE => Command::Prepare(reader.rest()),
            STMT_EXECUTE | STMT_BULK_EXECUTE => Command::Execute(Execute::parse(payload, client)?),
            STMT_SEND_LONG_DATA => Command::SendLongData {
                id: reader.u32()?,
                parameter: reader.u16()?,
                data: reader.rest(),
            },
            STMT_CLOSE => Command::CloseStatement(reader.u32()?),
            STMT_RESET => Command::ResetStatement(reader.u32()?),
            SET_OPTION => Command::SetOption(reader.u16()?),
            STMT_FETCH => Command::Fetch { id: reader.u32()?, rows: reader.u32()? },
            RESET_CONNECTION => Command::ResetConnection,
            other => Command::Unknown(other),
        })
    }

    /// What the server answers with.
    pub fn awaits(&self) -> Awaits {
        match self {
            Command::Quit | Command::SendLongData { .. } | Command::CloseStatement(_) => {
                Awaits::Nothing
            }
            Command::Query(_) | Command::ProcessInfo | Command::Execute(_) => Awaits::Results,
            Command::FieldList { .. } => Awaits::Fields,
            Command::Statistics => Awaits::Text,
            Command::BinlogDump | Command::BinlogDumpGtid => Awaits::Binlog,
            Command::Prepare(_) => Awaits::Prepare,
            Command::Fetch { .. } => Awaits::Rows,
            Command::InitDb(_)
            | Command::ProcessKill(_)
            | Command::Debug
            | Command::Ping
            | Command::ChangeUser(_)
            | Command::RegisterSlave
            | Command::ResetStatement(_)
            | Command::SetOption(_)
            | Command::ResetConnection
            | Command::Unknown(_) => Awaits::Ok,
        }
    }

    /// The prepared statement that the command names.
    pub fn statement_id(&self) -> Option<u32> {
        match self {
            Command::Execute(Execute { id, .. })
            | Command::SendLongData { id, .. }
            | Command::CloseStatement(id)
            | Command::ResetStatement(id)
            | Command::Fetch { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Writes another id into the payload of a command that names a prepared statement: all of them
/// have it behind their first byte.
pub fn set_statement_id(payload: &mut [u8], id: u32) -> Result<(), PacketError> {
    let place = payload.get_mut(1..5).ok_or(PacketError::Short)?;
    place.copy_from_slice(&id.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let rest = b"\0\x01\x03\0\x2a\0\0\0";
        let execute = Execute { bulk: false, id: 1, flags: 1, attributes: false, rest };
        let bulk =
            Execute { bulk: true, id: LAST_PREPARED, flags: 128, attributes: false, rest: b"" };
        let cases: &[(&[u8], Command<'_>, Awaits)] = &[
            (b"\x01", Command::Quit, Awaits::Nothing),
            (b"\x02db", Command::InitDb(b"db"), Awaits::Ok),
            (b"\x03SELECT 1", Command::Query(b"SELECT 1"), Awaits::Results),
            (b"\x04t\0c%", Command::FieldList { table: b"t", pattern: b"c%" }, Awaits::Fields),
            (b"\x09", Command::Statistics, Awaits::Text),
            (b"\x0a", Command::ProcessInfo, Awaits::Results),
            (b"\x0c\x07\0\0\0", Command::ProcessKill(7), Awaits::Ok),
            (b"\x0d", Command::Debug, Awaits::Ok),
            (b"\x0e", Command::Ping, Awaits::Ok),
            (b"\x11u\0\0", Command::ChangeUser(b"u\0\0"), Awaits::Ok),
            (b"\x12\x04\0\0\0", Command::BinlogDump, Awaits::Binlog),
            (b"\x15\x01\0\0\0", Command::RegisterSlave, Awaits::Ok),
            (b"\x16SELECT ?", Command::Prepare(b"SELECT ?"), Awaits::Prepare),
            (
                b"\x17\x01\0\0\0\x01\x01\0\0\0\0\x01\x03\0\x2a\0\0\0",
                Command::Execute(execute),
                Awaits::Results,
            ),
            (
                b"\x18\x01\0\0\0\x02\0abc",
                Command::SendLongData { id: 1, parameter: 2, data: b"abc" },
                Awaits::Nothing,
            ),
            (b"\x19\x02\0\0\0", Command::CloseStatement(2), Awaits::Nothing),
            (b"\x1a\x02\0\0\0", Command::ResetStatement(2), Awaits::Ok),
            (b"\x1b\x01\0", Command::SetOption(1), Awaits::Ok),
            (b"\x1c\x02\0\0\0\x0a\0\0\0", Command::Fetch { id: 2, rows: 10 }, Awaits::Rows),
            (b"\x1e\0\0", Command::BinlogDumpGtid, Awaits::Binlog),
            (b"\x1f", Command::ResetConnection, Awaits::Ok),
            (b"\xfa\xff\xff\xff\xff\x80\0", Command::Execute(bulk), Awaits::Results),
            (b"\x42", Command::Unknown(0x42), Awaits::Ok),
        ];
        for (payload, command, awaits) in cases {
            assert_eq!(Command::parse(payload, Capabilities::NONE), Ok(*command));
            assert_eq!(command.awaits(), *awaits);
            // One byte less is either refused or another text; it is never a panic.
            let _ = Command::parse(&payload[..payload.len() - 1], Capabilities::NONE);
        }
        for short in [&b""[..], b"\x0c\0", b"\x17\x01\0\0\0\0", b"\x1c\0\0\0\0\0", b"\x04t"] {
            assert_eq!(
                Command::parse(short, Capabilities::NONE),
                Err(PacketError::Short),
                "{short:?}"
            );
        }
    }

    #[test]
    fn statements_are_named_at_one_place() {
        let mut payload = *b"\x19\x02\0\0\0";
        assert_eq!(set_statement_id(&mut payload, 0x0102_0304), Ok(()));
        assert_eq!(
            Command::parse(&payload, Capabilities::NONE),
            Ok(Command::CloseStatement(0x0102_0304))
        );
        assert_eq!(set_statement_id(&mut [0x19, 0], 1), Err(PacketError::Short));
    }
}
