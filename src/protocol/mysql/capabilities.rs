//! Capability and status flags ("Capabilities Flags", "SERVER_STATUS_flags_enum"; MariaDB's
//! `include/mysql_com.h`).

use std::ops::{BitAnd, BitOr};

/// What one side can do, or what both agreed on. MariaDB's extended capabilities are in the upper
/// half; they are only spoken of by peers that leave `LONG_PASSWORD` (`CLIENT_MYSQL`) out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    pub const NONE: Capabilities = Capabilities(0);
    /// MariaDB calls it `CLIENT_MYSQL`: unset, the peer knows the extended capabilities.
    pub const LONG_PASSWORD: Capabilities = Capabilities(1);
    /// Rows that an UPDATE found count as affected, not only those that it changed.
    pub const FOUND_ROWS: Capabilities = Capabilities(1 << 1);
    pub const LONG_FLAG: Capabilities = Capabilities(1 << 2);
    pub const CONNECT_WITH_DB: Capabilities = Capabilities(1 << 3);
    pub const NO_SCHEMA: Capabilities = Capabilities(1 << 4);
    /// zlib.
    pub const COMPRESS: Capabilities = Capabilities(1 << 5);
    pub const ODBC: Capabilities = Capabilities(1 << 6);
    pub const LOCAL_FILES: Capabilities = Capabilities(1 << 7);
    pub const IGNORE_SPACE: Capabilities = Capabilities(1 << 8);
    pub const PROTOCOL_41: Capabilities = Capabilities(1 << 9);
    pub const INTERACTIVE: Capabilities = Capabilities(1 << 10);
    pub const SSL: Capabilities = Capabilities(1 << 11);
    pub const IGNORE_SIGPIPE: Capabilities = Capabilities(1 << 12);
    pub const TRANSACTIONS: Capabilities = Capabilities(1 << 13);
    pub const RESERVED: Capabilities = Capabilities(1 << 14);
    pub const SECURE_CONNECTION: Capabilities = Capabilities(1 << 15);
    pub const MULTI_STATEMENTS: Capabilities = Capabilities(1 << 16);
    pub const MULTI_RESULTS: Capabilities = Capabilities(1 << 17);
    pub const PS_MULTI_RESULTS: Capabilities = Capabilities(1 << 18);
    pub const PLUGIN_AUTH: Capabilities = Capabilities(1 << 19);
    pub const CONNECT_ATTRS: Capabilities = Capabilities(1 << 20);
    pub const PLUGIN_AUTH_LENENC: Capabilities = Capabilities(1 << 21);
    pub const CAN_HANDLE_EXPIRED_PASSWORDS: Capabilities = Capabilities(1 << 22);
    pub const SESSION_TRACK: Capabilities = Capabilities(1 << 23);
    pub const DEPRECATE_EOF: Capabilities = Capabilities(1 << 24);
    pub const ZSTD: Capabilities = Capabilities(1 << 26);
    /// Names and values come with texts and executions, MySQL since 8.0.23.
    pub const QUERY_ATTRIBUTES: Capabilities = Capabilities(1 << 27);
    /// `COM_STMT_BULK_EXECUTE`, MariaDB.
    pub const BULK: Capabilities = Capabilities(1 << 34);
    /// Definitions of columns tell more of their types (`json`, `uuid`), MariaDB since 10.5.2.
    pub const EXTENDED_METADATA: Capabilities = Capabilities(1 << 35);

    /// What a client negotiates and no command changes on a connection: server connections differ
    /// by it.
    pub const OF_SESSION: Capabilities = Capabilities(
        Capabilities::FOUND_ROWS.0
            | Capabilities::LOCAL_FILES.0
            | Capabilities::MULTI_STATEMENTS.0
            | Capabilities::IGNORE_SPACE.0
            | Capabilities::SHAPING.0,
    );

    /// Of those what changes the shape of packets: a server that does not have it cannot serve a
    /// client that does.
    pub const SHAPING: Capabilities =
        Capabilities(Capabilities::QUERY_ATTRIBUTES.0 | Capabilities::EXTENDED_METADATA.0);

    /// Without these, replies cannot be followed.
    pub const NEEDED_OF_SERVERS: Capabilities = Capabilities(
        Capabilities::PROTOCOL_41.0
            | Capabilities::SECURE_CONNECTION.0
            | Capabilities::PLUGIN_AUTH.0
            | Capabilities::MULTI_RESULTS.0
            | Capabilities::SESSION_TRACK.0
            | Capabilities::DEPRECATE_EOF.0,
    );

    /// What the proxy asks of servers where they have it, whoever the client is.
    pub const WANTED_OF_SERVERS: Capabilities = Capabilities(
        Capabilities::NEEDED_OF_SERVERS.0
            | Capabilities::LONG_PASSWORD.0
            | Capabilities::LONG_FLAG.0
            | Capabilities::TRANSACTIONS.0
            | Capabilities::PS_MULTI_RESULTS.0
            | Capabilities::CONNECT_ATTRS.0
            | Capabilities::PLUGIN_AUTH_LENENC.0
            | Capabilities::BULK.0,
    );

    /// What clients are offered by either engine. Optional metadata, metadata caching and progress
    /// reports change the shape of packets as servers see fit and are offered to nobody.
    pub const OFFERED: Capabilities = Capabilities(
        Capabilities::LONG_PASSWORD.0
            | Capabilities::FOUND_ROWS.0
            | Capabilities::LONG_FLAG.0
            | Capabilities::CONNECT_WITH_DB.0
            | Capabilities::NO_SCHEMA.0
            | Capabilities::COMPRESS.0
            | Capabilities::ODBC.0
            | Capabilities::LOCAL_FILES.0
            | Capabilities::IGNORE_SPACE.0
            | Capabilities::PROTOCOL_41.0
            | Capabilities::INTERACTIVE.0
            | Capabilities::IGNORE_SIGPIPE.0
            | Capabilities::TRANSACTIONS.0
            | Capabilities::RESERVED.0
            | Capabilities::SECURE_CONNECTION.0
            | Capabilities::MULTI_STATEMENTS.0
            | Capabilities::MULTI_RESULTS.0
            | Capabilities::PS_MULTI_RESULTS.0
            | Capabilities::PLUGIN_AUTH.0
            | Capabilities::CONNECT_ATTRS.0
            | Capabilities::PLUGIN_AUTH_LENENC.0
            | Capabilities::CAN_HANDLE_EXPIRED_PASSWORDS.0
            | Capabilities::SESSION_TRACK.0
            | Capabilities::DEPRECATE_EOF.0,
    );

    /// Whether all of `wanted` is there.
    #[inline]
    pub const fn has(self, wanted: Capabilities) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    pub const fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// MySQL's own: what the 32 bits of a handshake say.
    pub const fn lower(self) -> u32 {
        (self.0 & 0xFFFF_FFFF) as u32
    }

    /// MariaDB's extended ones.
    pub const fn extended(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl BitOr for Capabilities {
    type Output = Capabilities;

    fn bitor(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
}

impl BitAnd for Capabilities {
    type Output = Capabilities;

    fn bitand(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }
}

/// Status flags at the end of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

impl Status {
    pub const IN_TRANS: Status = Status(1);
    pub const AUTOCOMMIT: Status = Status(1 << 1);
    pub const MORE_RESULTS: Status = Status(1 << 3);
    pub const NO_GOOD_INDEX_USED: Status = Status(1 << 4);
    pub const NO_INDEX_USED: Status = Status(1 << 5);
    pub const CURSOR_EXISTS: Status = Status(1 << 6);
    pub const LAST_ROW_SENT: Status = Status(1 << 7);
    pub const DB_DROPPED: Status = Status(1 << 8);
    pub const NO_BACKSLASH_ESCAPES: Status = Status(1 << 9);
    pub const METADATA_CHANGED: Status = Status(1 << 10);
    pub const QUERY_WAS_SLOW: Status = Status(1 << 11);
    /// The result set holds the OUT parameters of a CALL.
    pub const PS_OUT_PARAMS: Status = Status(1 << 12);
    pub const IN_TRANS_READONLY: Status = Status(1 << 13);
    /// What trackers tell follows in the packet.
    pub const STATE_CHANGED: Status = Status(1 << 14);
    /// MariaDB: ANSI_QUOTES is in force.
    pub const ANSI_QUOTES: Status = Status(1 << 15);

    #[inline]
    pub const fn has(self, wanted: Status) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    pub const fn with(self, other: Status) -> Status {
        Status(self.0 | other.0)
    }

    pub const fn without(self, other: Status) -> Status {
        Status(self.0 & !other.0)
    }
}
