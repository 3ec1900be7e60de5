//! Whether a transaction is in the history of a MySQL or MariaDB server.
//!
//! The id of a transaction (GTID) is told with the reply to its COMMIT. So in front of the COMMIT it
//! sets a savepoint whose name nobody else has: that is a part of the transaction in the binary log
//! of the server that ran it, whatever the log's format, and in those of the replicas that have
//! applied it. A server whose log from before the COMMIT until now does not have the name does not
//! have the transaction.
//!
//! ```text
//! since ─▶ GTID … rows … XID   GTID … rows … SAVEPOINT `tiffin_…` XID ─▶ committed
//!                                                                 ROLLBACK ─▶ nobody can tell
//! ```

use crate::config::Engine;
use crate::monitor::mysql::{CONNECTION_ENDED, named, sentence, text};
use crate::monitor::mysql_connection::{ServiceOpts, connect};
use crate::topology::Gtids;
use aws_lc_rs::rand;
use futures_util::StreamExt;
use memchr::memmem;
use mysql_async::binlog::EventType;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStreamRequest, Conn, Error, Row, Sid};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The log is read no further: at some hundred MB a second that is a second or two, and the client
/// waits.
const LOG_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Servers tell replicas apart by their ids; those of a cluster are small numbers.
const SERVER_ID_MIN: u32 = 0x8000_0000;

/// `ER_PARSE_ERROR`: an older server has another word for it.
const SYNTAX_ERROR: u16 = 1064;

/// The name of a savepoint that no other transaction has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u128);

impl Token {
    /// A new one; `None` without random numbers.
    pub fn random() -> Option<Token> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok()?;
        Some(Token(u128::from_le_bytes(bytes)))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiffin_{:032x}", self.0)
    }
}

/// What a server's history says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Committed,
    Absent,
    /// It may still come: the server has not applied all that it has received, or still receives.
    NotYet,
    /// Nobody can tell, and why.
    Unknown(&'static str),
}

/// Where to look, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    pub engine: Engine,
    /// What the server had before the transaction was to be committed.
    pub since: &'a Gtids,
    pub token: Token,
    /// The transaction ran on this very server, and its session is over.
    pub ran_here: bool,
}

/// For how long the server has run, rounded down to seconds, and its number of the connection that was
/// opened to ask.
///
/// # Errors
/// The network's or the server's, in words.
pub async fn uptime(opts: &ServiceOpts) -> Result<(Duration, u32), String> {
    let asked = async {
        let mut connection = connect(opts).await?;
        let row = connection.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'").await?;
        Ok((row, connection.id()))
    };
    let (row, id): (Option<Row>, u32) =
        asked.await.map_err(|error: Error| sentence(&error).to_string())?;
    let seconds = row.and_then(|row| text(&row, 1).parse().ok()).map(Duration::from_secs);
    Ok((seconds.ok_or_else(|| "it does not tell its uptime".to_owned())?, id))
}

/// Whether the server's commits wait for a replica (semi-synchronous replication), and have not given
/// that up for now.
///
/// # Errors
/// The network's or the server's, in words.
pub async fn awaits_replicas(opts: &ServiceOpts) -> Result<bool, String> {
    const STATUS: &str = "SHOW GLOBAL STATUS LIKE 'Rpl\\_semi\\_sync\\_%\\_status'";
    let asked = async { connect(opts).await?.query(STATUS).await };
    let rows: Vec<(String, String)> =
        asked.await.map_err(|error: Error| sentence(&error).to_string())?;
    let waits = |name: &str| ["_source_", "_master_"].iter().any(|word| name.contains(word));
    Ok(rows.iter().any(|(name, value)| waits(name) && value == "ON"))
}

/// Whether a server takes back all that a transaction has done: it has no tables of users' that know
/// no transactions.
///
/// # Errors
/// The network's or the server's, in words, or that the service user does not see all tables.
pub async fn rolls_all_back(opts: &ServiceOpts) -> Result<bool, String> {
    const SEES_ALL: &str = "SELECT COUNT(*) > 0 FROM information_schema.user_privileges \
        WHERE privilege_type = 'SELECT' AND grantee = CONCAT('''', \
        SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', \
        SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
    const OTHERS: &str = "SELECT COUNT(*) FROM information_schema.tables t \
        LEFT JOIN information_schema.engines e ON e.engine = t.engine \
        WHERE t.table_type = 'BASE TABLE' AND COALESCE(e.transactions, 'NO') <> 'YES' \
        AND t.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
    let asked = async {
        let mut connection = connect(opts).await?;
        let sees_all: Option<bool> = connection.query_first(SEES_ALL).await?;
        let others: Option<u64> = connection.query_first(OTHERS).await?;
        Ok((sees_all, others))
    };
    match asked.await.map_err(|error: Error| sentence(&error).to_string())? {
        (Some(true), Some(others)) => Ok(others == 0),
        _ => Err("the service user may not SELECT from all tables".to_owned()),
    }
}

/// Looks for the transaction on a server that the service user can log in to. Bounded by the
/// caller.
///
/// # Errors
/// The network's or the server's, in words: it may be asked again.
pub async fn look(opts: &ServiceOpts, search: Search<'_>) -> Result<Found, String> {
    match ask(opts, &search).await {
        Ok(found) => Ok(found),
        // Purged, off, or without REPLICATION SLAVE.
        Err(Error::Server(error)) if !CONNECTION_ENDED.contains(&error.code) => {
            tracing::warn!("the binary log cannot be read: {} ({})", error.message, error.code);
            Ok(Found::Unknown("the binary log cannot be read"))
        }
        Err(error) => Err(sentence(&error).to_string()),
    }
}

async fn ask(opts: &ServiceOpts, search: &Search<'_>) -> Result<Found, Error> {
    let mut connection = connect(opts).await?;
    if let Some(why) = lacks(&mut connection, search).await? {
        return Ok(Found::Unknown(why));
    }
    if !search.ran_here && !is_settled(&mut connection, search.engine).await? {
        return Ok(Found::NotYet);
    }
    read_log(connection, search).await
}

/// Why not everything that the server has committed is in its log, if that is so.
async fn lacks(connection: &mut Conn, search: &Search<'_>) -> Result<Option<&'static str>, Error> {
    let logs_all = match search.engine {
        Engine::Mariadb => "SELECT @@GLOBAL.log_bin, @@GLOBAL.log_slave_updates",
        _ => "SELECT @@GLOBAL.log_bin, @@GLOBAL.log_replica_updates",
    };
    let row: Option<(bool, bool)> = connection.query_first(logs_all).await?;
    let Some((true, applied)) = row else { return Ok(Some("the server has no binary log")) };
    if !applied && !search.ran_here {
        return Ok(Some("the server does not log what it has applied as a replica"));
    }
    let status = match connection.query_first("SHOW BINARY LOG STATUS").await {
        Err(Error::Server(error)) if error.code == SYNTAX_ERROR => {
            connection.query_first("SHOW MASTER STATUS").await
        }
        answer => answer,
    };
    let status: Option<Row> = status?;
    let filters = ["Binlog_Do_DB", "Binlog_Ignore_DB"];
    Ok(match status {
        None => Some("the server has no binary log"),
        Some(row) if filters.iter().any(|name| !named(&row, name).is_empty()) => {
            Some("the server logs some schemas only")
        }
        Some(_) => None,
    })
}

/// Whether the server has applied all that it will ever receive.
async fn is_settled(connection: &mut Conn, engine: Engine) -> Result<bool, Error> {
    let is_mariadb = engine == Engine::Mariadb;
    let status = if is_mariadb { "SHOW ALL SLAVES STATUS" } else { "SHOW REPLICA STATUS" };
    let channels: Vec<Row> = connection.query(status).await?;
    let is_over = |row: &Row| match is_mariadb {
        true => {
            named(row, "Slave_IO_Running") == "No"
                && named(row, "Master_Log_File") == named(row, "Relay_Master_Log_File")
                && named(row, "Read_Master_Log_Pos") == named(row, "Exec_Master_Log_Pos")
        }
        false => {
            let set = |name| Gtids::parse_set(&named(row, name)).ok();
            let (received, executed) = (set("Retrieved_Gtid_Set"), set("Executed_Gtid_Set"));
            named(row, "Replica_IO_Running") == "No"
                && received
                    .zip(executed)
                    .is_some_and(|(received, executed)| executed.includes(&received))
        }
    };
    Ok(channels.iter().all(is_over))
}

async fn read_log(mut connection: Conn, search: &Search<'_>) -> Result<Found, Error> {
    let mut id = [0; 4];
    if rand::fill(&mut id).is_err() {
        return Ok(Found::Unknown("there are no random numbers"));
    }
    let mut request =
        BinlogStreamRequest::new(u32::from_le_bytes(id) | SERVER_ID_MIN).with_non_blocking();
    match search.since {
        Gtids::Sets(_) => {
            // Two readers of one name would end each other.
            connection.query_drop("SET @replica_uuid = UUID(), @slave_uuid = UUID()").await?;
            request = request.with_gtid().with_gtid_set(sids(search.since));
        }
        Gtids::Heads(heads) => {
            let begin = format!(
                "SET @mariadb_slave_capability = 4, @slave_gtid_strict_mode = 0, \
                 @slave_gtid_ignore_duplicates = 0, @slave_connect_state = '{}'",
                newest(heads)
            );
            connection.query_drop(begin).await?;
        }
    }
    let mut events = connection.get_binlog_stream(request).await?;
    let mut reader = Reader::new(search.token);
    while let Some(event) = events.next().await {
        let event = event?;
        let header = event.header();
        if let Some(found) =
            reader.event(header.event_type_raw(), event.data(), header.event_size())
        {
            return Ok(found);
        }
    }
    Ok(reader.end())
}

/// What a server leaves out. Sources with a tag need a form that older servers do not know: of them
/// all is read, if it is still there.
fn sids(since: &Gtids) -> Vec<Sid<'static>> {
    let Gtids::Sets(sets) = since else { return Vec::new() };
    let untagged = sets.iter().filter(|(source, _)| !source.contains(':'));
    untagged
        .filter_map(|(source, ranges)| {
            let ranges = ranges.iter().map(|range| format!(":{}-{}", range.first, range.last));
            format!("{source}{}", ranges.collect::<String>()).parse().ok()
        })
        .collect()
}

/// Of each domain the newest: where a reader begins that has everything before it.
fn newest(heads: &BTreeMap<(u32, u32), u64>) -> String {
    let mut of_domains: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    for ((domain, server), sequence) in heads {
        let newest = of_domains.entry(*domain).or_default();
        *newest = (*newest).max((*sequence, *server));
    }
    let positions = of_domains
        .iter()
        .map(|(domain, (sequence, server))| format!("{domain}-{server}-{sequence}"));
    positions.collect::<Vec<_>>().join(",")
}

/// Goes over the events of a log.
struct Reader {
    name: Vec<u8>,
    /// The transaction has the name.
    is_it: bool,
    /// What follows was compressed, if it could be read.
    is_packed: bool,
    bytes: u64,
}

impl Reader {
    fn new(token: Token) -> Reader {
        let name = token.to_string().into_bytes();
        Reader { name, is_it: false, is_packed: false, bytes: 0 }
    }

    fn event(&mut self, kind: u8, data: &[u8], size: u32) -> Option<Found> {
        use EventType as E;
        self.bytes += u64::from(size);
        if self.bytes > LOG_BYTES_MAX {
            return Some(Found::Unknown("the binary log is too long"));
        }
        let is = |one: EventType| kind == one as u8;
        // What is inside begins with BEGIN.
        if self.is_packed && !is(E::QUERY_EVENT) {
            return Some(Found::Unknown("a compressed transaction cannot be read"));
        }
        self.is_packed = is(E::TRANSACTION_PAYLOAD_EVENT);
        if is(E::XID_EVENT) {
            return self.is_it.then_some(Found::Committed);
        }
        if is(E::QUERY_EVENT) {
            self.is_it |= memmem::find(data, &self.name).is_some();
            let ends = |word: &[u8]| self.is_it && data.ends_with(word);
            if ends(b"\0COMMIT") {
                return Some(Found::Committed);
            }
            // What cannot be rolled back is logged together with the rest.
            if ends(b"\0ROLLBACK") {
                return Some(Found::Unknown("it was rolled back, but for a part of it"));
            }
        }
        None
    }

    fn end(&self) -> Found {
        match self {
            Reader { is_packed: true, .. } => {
                Found::Unknown("a compressed transaction cannot be read")
            }
            // The log ends in the middle of it.
            Reader { is_it: true, .. } => Found::NotYet,
            _ => Found::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GTID: u8 = 33;
    const MARIADB_GTID: u8 = 162;
    const QUERY: u8 = 2;
    const XID: u8 = 16;
    const ROWS: u8 = 30;
    const PACKED: u8 = 40;

    fn found(events: &[(u8, &str)]) -> Found {
        let mut reader = Reader::new(Token(0xabc));
        let query = |text: &str| [b"\x05\0\0\0app\0", text.as_bytes()].concat();
        let told = events.iter().find_map(|(kind, text)| {
            let text = text.replace('*', &Token(0xabc).to_string());
            reader.event(*kind, &query(&text), 100)
        });
        told.unwrap_or_else(|| reader.end())
    }

    #[test]
    fn a_transaction_is_known_by_its_name() {
        let packed = Found::Unknown("a compressed transaction cannot be read");
        let rolled_back = Found::Unknown("it was rolled back, but for a part of it");
        let other = Token(0xabd).to_string();
        let table: &[(&[(u8, &str)], Found)] = &[
            (&[], Found::Absent),
            (&[(GTID, ""), (QUERY, "BEGIN"), (ROWS, ""), (XID, "")], Found::Absent),
            (
                &[(GTID, ""), (QUERY, "BEGIN"), (ROWS, ""), (QUERY, "SAVEPOINT `*`"), (XID, "")],
                Found::Committed,
            ),
            (&[(MARIADB_GTID, ""), (QUERY, "SAVEPOINT `*`"), (XID, "")], Found::Committed),
            (&[(QUERY, "SAVEPOINT `*`"), (QUERY, "COMMIT")], Found::Committed),
            (&[(QUERY, "SAVEPOINT `*`"), (QUERY, "ROLLBACK")], rolled_back),
            (&[(QUERY, "SAVEPOINT `*`"), (QUERY, "ROLLBACK TO `a`"), (XID, "")], Found::Committed),
            (&[(QUERY, "SAVEPOINT `*`")], Found::NotYet),
            (&[(QUERY, &other), (XID, "")], Found::Absent),
            // What a client has written is no name.
            (&[(ROWS, "SAVEPOINT `*`"), (XID, "")], Found::Absent),
            (&[(PACKED, ""), (QUERY, "BEGIN"), (QUERY, "*"), (XID, "")], Found::Committed),
            (&[(PACKED, ""), (QUERY, "BEGIN"), (XID, "")], Found::Absent),
            (&[(PACKED, ""), (GTID, ""), (QUERY, "BEGIN")], packed),
            (&[(PACKED, "")], packed),
        ];
        for (events, expected) in table {
            assert_eq!(found(events), *expected, "{events:?}");
        }
        let mut reader = Reader::new(Token(1));
        let told = (0..=LOG_BYTES_MAX >> 30).find_map(|_| reader.event(ROWS, b"", 1 << 30));
        assert_eq!(told, Some(Found::Unknown("the binary log is too long")));
    }

    #[test]
    fn servers_are_told_what_to_leave_out() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let since = Gtids::parse_set(&format!("{uuid}:1-5:7:a_tag:1-3")).unwrap();
        let sids: Vec<String> = sids(&since).iter().map(ToString::to_string).collect();
        assert_eq!(sids, [format!("{uuid}:1-5:7")]);
        let Gtids::Heads(heads) = Gtids::parse_heads("0-1-17,0-2-30,3-2-5").unwrap() else {
            panic!("heads");
        };
        assert_eq!(newest(&heads), "0-2-30,3-2-5");
        assert_eq!(newest(&BTreeMap::new()), "");
    }
}
