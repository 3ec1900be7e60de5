//! The probe's queries for MySQL 8.0.22 and later and MariaDB 10.5 and later, and how their rows
//! are read.
//!
//! Everything in one message of two statements, so that a probe is one round trip. The first
//! statement reads the position before the second one reads how replication goes.
//!
//! A server that is not read-only takes writes, also if it replicates from another one. What a
//! replica has applied is in MySQL `gtid_executed`; in MariaDB `gtid_slave_pos`, which moves when
//! a transaction is visible, while the binary log has it earlier. What a MariaDB primary has
//! written is `gtid_binlog_state`, which tells the servers that wrote apart.

use super::mysql_connection::{self, ServiceOpts};
use super::probe::{Ask, ProbeError};
use super::report::{GtidState, Identity, Replication, Report, State};
use crate::config::Engine;
use crate::topology::{Gtids, SessionDefaults};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, FromValueError, Row, Value, from_value_opt};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Once per connection.
const MYSQL_IDENTITY: &str = "SELECT @@GLOBAL.server_uuid, @@GLOBAL.version, @@GLOBAL.server_uuid";
/// MariaDB's server has no identifier of its own before 10.10; no two have all of these in common.
const MARIADB_IDENTITY: &str = "SELECT @@GLOBAL.server_id, @@GLOBAL.version, \
     CONCAT_WS('|', @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.datadir, @@GLOBAL.server_id)";

/// Read-only, whether positions are kept, what it has written, what it has applied, whether a proxy
/// hands its part over ([`super::handover::LOCK_NAME`]); what sessions begin with.
const MYSQL_PROBE: &str = "SELECT @@GLOBAL.read_only, @@GLOBAL.gtid_mode = 'ON', \
     @@GLOBAL.gtid_executed, @@GLOBAL.gtid_executed, \
     IS_USED_LOCK('tiffin.handover') IS NOT NULL, @@GLOBAL.sql_mode, @@GLOBAL.autocommit, \
     @@GLOBAL.transaction_isolation, @@GLOBAL.transaction_read_only, \
     @@GLOBAL.character_set_client, @@GLOBAL.character_set_connection, \
     @@GLOBAL.character_set_results, @@GLOBAL.collation_connection, @@GLOBAL.init_connect";
/// A replica need not have a binary log.
const MARIADB_PROBE: &str = "SELECT @@GLOBAL.read_only, @@GLOBAL.log_bin, \
     @@GLOBAL.gtid_binlog_state, @@GLOBAL.gtid_slave_pos, \
     IS_USED_LOCK('tiffin.handover') IS NOT NULL, @@GLOBAL.sql_mode, @@GLOBAL.autocommit, \
     @@GLOBAL.tx_isolation, @@GLOBAL.tx_read_only, @@GLOBAL.init_connect";
/// The names of what stands behind the positions.
const MYSQL_DEFAULTS: &[&str] = &[
    "sql_mode",
    "autocommit",
    "transaction_isolation",
    "transaction_read_only",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
    "init_connect",
];
const MARIADB_DEFAULTS: &[&str] =
    &["sql_mode", "autocommit", "tx_isolation", "tx_read_only", "init_connect"];
const DEFAULTS_AT: usize = 5;

const MYSQL_STATUS: &str = "SHOW REPLICA STATUS";
const MARIADB_STATUS: &str = "SHOW ALL SLAVES STATUS";

/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: the service user lacks a privilege.
const ACCESS_DENIED: u16 = 1227;
/// The server shuts down, or ended this connection: `ER_SERVER_SHUTDOWN`,
/// `ER_CONNECTION_KILLED` (MariaDB), `ER_SESSION_WAS_KILLED`, `ER_CLIENT_INTERACTION_TIMEOUT`.
pub(crate) const CONNECTION_ENDED: &[u16] = &[1053, 1927, 3169, 4031];

/// How often a service user that lacks a privilege logs in again.
const PRIVILEGES_INTERVAL: Duration = Duration::from_secs(5);

/// Asks one node.
pub(super) struct Mysql {
    pub(super) engine: Engine,
    pub(super) opts: ServiceOpts,
}

/// A node's open probe connection.
pub(super) struct Session {
    connection: Conn,
    identity: Arc<Identity>,
    /// The service user may see how replication goes.
    sees_replication: bool,
    opened_at: Instant,
    /// The last position, as text and as value: mostly the next probe says the same.
    last: Option<(String, Arc<Gtids>)>,
    session_defaults: Arc<SessionDefaults>,
}

impl Ask for Mysql {
    type Session = Session;

    /// mysql_async sees the end of a connection only when it is used. But a privilege that was
    /// granted meanwhile (to a server that is made anew, it comes with the log) counts for new
    /// connections alone, and without it the replica seems to receive for ever.
    fn is_closed(session: &Session) -> bool {
        !session.sees_replication && session.opened_at.elapsed() >= PRIVILEGES_INTERVAL
    }

    async fn ask(&self, session: Option<Session>) -> Result<(Session, Report), ProbeError> {
        let mut session = match session {
            Some(session) => session,
            None => self.open().await?,
        };
        let report = match self.probe(&mut session).await {
            Err(Error::Server(error)) if error.code == ACCESS_DENIED => {
                session.sees_replication = false;
                self.probe(&mut session).await
            }
            answer => answer,
        };
        let report = report.map_err(query_error)?;
        Ok((session, report))
    }
}

impl Mysql {
    async fn open(&self) -> Result<Session, ProbeError> {
        let connect = mysql_connection::connect(&self.opts);
        let mut connection = connect.await.map_err(connection_error)?;
        let sql = if self.is_mariadb() { MARIADB_IDENTITY } else { MYSQL_IDENTITY };
        let row: Option<Row> = connection.query_first(sql).await.map_err(query_error)?;
        let row = row.ok_or_else(|| ProbeError::Query(Arc::from("no row")))?;
        let mut hasher = DefaultHasher::new();
        text(&row, 2).hash(&mut hasher);
        let identity = Identity {
            system: 0,
            instance: hasher.finish(),
            life: None,
            id: Arc::from(text(&row, 0)),
            version: Arc::from(text(&row, 1)),
        };
        let identity = Arc::new(identity);
        Ok(Session {
            connection,
            identity,
            sees_replication: true,
            opened_at: Instant::now(),
            last: None,
            session_defaults: Arc::from([]),
        })
    }

    async fn probe(&self, session: &mut Session) -> Result<Report, Error> {
        let (probe, status) = match self.is_mariadb() {
            true => (MARIADB_PROBE, MARIADB_STATUS),
            false => (MYSQL_PROBE, MYSQL_STATUS),
        };
        let sql = match session.sees_replication {
            true => format!("{probe}; {status}"),
            false => probe.to_owned(),
        };
        let mut answer = session.connection.query_iter(sql).await?;
        let position: Vec<Row> = answer.collect().await?;
        let channels: Vec<Row> = match session.sees_replication {
            true => answer.collect().await?,
            false => Vec::new(),
        };
        answer.drop_result().await?;
        let Some(row) = position.first() else {
            return Err(Error::Other("the probe has no row".into()));
        };
        let writable = !flag(row, 0);
        let position = text(row, if writable { 2 } else { 3 });
        let keeps_gtids = flag(row, 1) || (self.is_mariadb() && !writable);
        let executed = match keeps_gtids {
            true => Some(self.gtids(session, position)?),
            false => None,
        };
        let session_defaults = self.session_defaults(session, row);
        let replication = session
            .sees_replication
            .then(|| channels.iter().map(|row| self.channel(row)).collect());
        Ok(Report {
            identity: session.identity.clone(),
            timeline: None,
            handover: writable && flag(row, 4),
            state: State::Gtids(GtidState { writable, executed, session_defaults, replication }),
        })
    }

    fn gtids(&self, session: &mut Session, text: String) -> Result<Arc<Gtids>, Error> {
        if let Some((last, gtids)) = &session.last
            && *last == text
        {
            return Ok(gtids.clone());
        }
        let parse = if self.is_mariadb() { Gtids::parse_heads } else { Gtids::parse_set };
        let gtids = Arc::new(parse(&text).map_err(|error| Error::Other(Box::new(error)))?);
        session.last = Some((text, gtids.clone()));
        Ok(gtids)
    }

    fn session_defaults(&self, session: &mut Session, row: &Row) -> Arc<SessionDefaults> {
        let names = if self.is_mariadb() { MARIADB_DEFAULTS } else { MYSQL_DEFAULTS };
        let values = (DEFAULTS_AT..).zip(names).map(|(at, name)| (*name, text(row, at).into()));
        let now: Vec<(&'static str, Box<str>)> = values.collect();
        if *now != *session.session_defaults {
            session.session_defaults = now.into();
        }
        session.session_defaults.clone()
    }

    fn channel(&self, row: &Row) -> Replication {
        let [host, port, id, receives, applies] = match self.is_mariadb() {
            true => [
                "Master_Host",
                "Master_Port",
                "Master_Server_Id",
                "Slave_IO_Running",
                "Slave_SQL_Running",
            ],
            false => [
                "Source_Host",
                "Source_Port",
                "Source_UUID",
                "Replica_IO_Running",
                "Replica_SQL_Running",
            ],
        };
        let receiver = named(row, "Last_IO_Error");
        let error = if receiver.is_empty() { named(row, "Last_SQL_Error") } else { receiver };
        Replication {
            upstream: Arc::from(format!("{}:{}", named(row, host), named(row, port))),
            upstream_id: Arc::from(named(row, id)),
            receives: Arc::from(named(row, receives)),
            receiver_errno: named(row, "Last_IO_Errno").parse().unwrap_or(0),
            applies: named(row, applies) == "Yes",
            delay_s: named(row, "SQL_Delay").parse().unwrap_or(0),
            error: Arc::from(error),
        }
    }

    fn is_mariadb(&self) -> bool {
        self.engine == Engine::Mariadb
    }
}

/// A column of a row; empty for NULL, and if there is none.
pub(crate) fn named(row: &Row, name: &str) -> String {
    let mut columns = row.columns_ref().iter();
    let index = columns.position(|column| column.name_str().eq_ignore_ascii_case(name));
    index.map(|index| text(row, index)).unwrap_or_default()
}

/// Empty for NULL.
pub(crate) fn text(row: &Row, index: usize) -> String {
    let value = row.as_ref(index).cloned().unwrap_or(Value::NULL);
    let read: Result<Option<Vec<u8>>, FromValueError> = from_value_opt(value);
    let bytes = read.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A variable that is off is `0`, or a word in newer servers.
pub(crate) fn flag(row: &Row, index: usize) -> bool {
    !matches!(text(row, index).as_str(), "" | "0" | "OFF")
}

fn connection_error(error: Error) -> ProbeError {
    ProbeError::Connection(sentence(&error))
}

fn query_error(error: Error) -> ProbeError {
    match &error {
        Error::Server(server) if !CONNECTION_ENDED.contains(&server.code) => {
            ProbeError::Query(sentence(&error))
        }
        Error::Other(_) => ProbeError::Query(sentence(&error)),
        _ => ProbeError::Connection(sentence(&error)),
    }
}

/// The server's own words with their number.
pub(crate) fn sentence(error: &Error) -> Arc<str> {
    match error {
        Error::Server(error) => Arc::from(format!("{} (error {})", error.message, error.code)),
        other => Arc::from(other.to_string()),
    }
}
