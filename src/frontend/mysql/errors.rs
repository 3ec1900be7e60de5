//! Every error that the proxy itself tells a client of MySQL or MariaDB: the number and the
//! SQLSTATE that a server uses for the like of it (MySQL's "Server Error Message Reference",
//! MariaDB's `sql/share/errmsg-utf8.txt`).

use crate::metrics::ErrorOrigin;
use crate::protocol::mysql::reply::ErrPacket;

/// Number and SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub errno: u16,
    pub sqlstate: [u8; 5],
}

impl Code {
    pub const fn new(errno: u16, sqlstate: [u8; 5]) -> Code {
        Code { errno, sqlstate }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $errno:literal $sqlstate:literal;)+) => {
        $($(#[$doc])* pub const $name: Code = Code::new($errno, *$sqlstate);)+

        #[cfg(test)]
        const ALL: &[(&str, Code)] = &[$((stringify!($name), $name),)+];
    };
}

codes! {
    /// ER_CON_COUNT_ERROR: no connection was free in time, or too many wait.
    TOO_MANY_CONNECTIONS = 1040 b"08004";
    /// ER_UNKNOWN_COM_ERROR: a command that cannot be passed on.
    UNKNOWN_COMMAND = 1047 b"08S01";
    /// ER_BAD_DB_ERROR: no cluster serves the schema.
    UNKNOWN_SCHEMA = 1049 b"42000";
    /// ER_SERVER_SHUTDOWN: the proxy drains or ends.
    SHUTDOWN = 1053 b"08S01";
    /// ER_NO_SUCH_THREAD: KILL of a session that is not there.
    NO_SUCH_THREAD = 1094 b"HY000";
    /// ER_KILL_DENIED_ERROR: KILL of another user's session.
    KILL_DENIED = 1095 b"HY000";
    /// ER_UNKNOWN_ERROR: no replica can serve a read, and the policy is to say so; or what the
    /// session had before is not to be had any more.
    NOT_SERVED = 1105 b"HY000";
    /// ER_NET_PACKET_TOO_LARGE: a command that must be kept is longer than what is kept.
    PACKET_TOO_LARGE = 1153 b"08S01";
    /// ER_NET_PACKETS_OUT_OF_ORDER: a command whose packet has another number than 0.
    OUT_OF_ORDER = 1156 b"08S01";
    /// ER_NET_READ_ERROR: the server's connection broke, and nothing can have been written.
    SERVER_LOST = 1158 b"08S01";
    /// ER_MALFORMED_PACKET: the client broke the protocol.
    MALFORMED = 1835 b"HY000";
    /// ER_ERROR_DURING_COMMIT with the SQLSTATE of an unknown outcome: the server's connection
    /// broke under something that may have been written.
    OUTCOME_UNKNOWN = 1180 b"08007";
    /// ER_ERROR_DURING_COMMIT with the SQLSTATE of a transaction that was rolled back: what was
    /// committed is not on the new primary.
    WRITE_LOST = 1180 b"40000";
    /// ER_NEW_ABORTING_CONNECTION: `init_connect` failed.
    ABORTED = 1184 b"08S01";
    /// ER_LOCK_DEADLOCK, on which drivers and frameworks run a transaction again: nothing of it is
    /// there.
    NOT_COMMITTED = 1213 b"40001";
    /// ER_WRONG_VALUE_FOR_VAR: a `tiffin_…` setting takes other values.
    WRONG_VALUE = 1231 b"42000";
    /// ER_UNKNOWN_STMT_HANDLER: the client has no such prepared statement.
    UNKNOWN_STATEMENT = 1243 b"HY000";
    /// ER_STMT_HAS_NO_OPEN_CURSOR: rows are fetched that there are not.
    NO_OPEN_CURSOR = 1421 b"HY000";
    /// ER_QUERY_INTERRUPTED: killed while it waited for a connection.
    INTERRUPTED = 1317 b"70100";
    /// ER_MAX_PREPARED_STMT_COUNT_REACHED.
    TOO_MANY_STATEMENTS = 1461 b"42000";
    /// ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION: needs the primary, and the transaction is on a
    /// replica.
    READ_ONLY_TRANSACTION = 1792 b"25006";
    /// ER_READ_ONLY_MODE: there is no primary.
    NO_PRIMARY = 1836 b"HY000";
    /// MariaDB's ER_CONNECTION_KILLED.
    KILLED = 1927 b"70100";
}

/// Who refuses, for the counter of errors.
pub const ORIGIN: ErrorOrigin = ErrorOrigin::Proxy;

/// Appends an ERR packet of the proxy's own.
pub fn put(out: &mut Vec<u8>, sequence: &mut u8, code: Code, message: &str) {
    let Code { errno, sqlstate } = code;
    ErrPacket { errno, sqlstate, message: message.as_bytes() }.put(out, sequence);
}

/// Errors of a replica that say nothing of the statement: it would have run elsewhere.
///
/// 1290 and 1836: it is read-only. 1053, 1077, 1927: it goes down. 1040, 1203: it is full. 1213
/// and 1205 are a conflict with what is being applied. 1044, 1049, 1109, 1146, 1305: what was
/// just made may not be there yet.
pub fn is_no_answer(errno: u16) -> bool {
    matches!(
        errno,
        1290 | 1836
            | 1053
            | 1077
            | 1927
            | 1040
            | 1203
            | 1205
            | 1213
            | 1044
            | 1049
            | 1109
            | 1146
            | 1305
    )
}

/// The server cannot read the values of an execution (ER_WRONG_ARGUMENTS, ER_MALFORMED_PACKET), and
/// takes over nothing of it.
pub fn is_unread(errno: u16) -> bool {
    matches!(errno, 1210 | 1835)
}

/// The node refuses writes: it is no primary any more (ER_OPTION_PREVENTS_STATEMENT with
/// `--read-only` or `--super-read-only`, ER_READ_ONLY_MODE).
pub fn is_read_only(errno: u16, message: &[u8]) -> bool {
    let names_option =
        || message.windows(9).any(|part| part == b"read-only" || part == b"read_only");
    errno == 1836 || errno == 1290 && names_option()
}

#[cfg(test)]
mod tests {
    use super::{ALL, is_read_only};

    #[test]
    fn numbers_and_states_are_of_the_right_shape() {
        for (name, code) in ALL {
            assert!((1000..2000).contains(&code.errno), "{name}");
            assert!(code.sqlstate.iter().all(u8::is_ascii_alphanumeric), "{name}");
        }
    }

    #[test]
    fn read_only_nodes() {
        let option = b"The MySQL server is running with the --super-read-only option";
        assert!(is_read_only(1290, option) && is_read_only(1836, b""));
        assert!(!is_read_only(1290, b"running with the --secure-file-priv option"));
    }
}
