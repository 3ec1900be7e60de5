//! The probe's queries for PostgreSQL 13 to 18, and how their rows are read.
//!
//! Everything in one query, so that a probe is one round trip. It runs on a primary and on a
//! standby alike: functions that either of them refuses stand behind CASE.

use super::handover::LOCK_KEYS;
use super::probe::{Ask, ProbeError};
use super::report::{CONNECTING, Identity, Receiver, Report, State};
use crate::topology::Timeline;
use deadpool_postgres::{Object, Pool, PoolError};
use std::error::Error as _;
use std::sync::Arc;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, Row, Statement};

/// Once per connection. `pg_control_*` may be called by everybody unless that was revoked. After a
/// crash the postmaster starts all its processes anew, the checkpointer as well, and stays itself;
/// a promotion leaves it alone.
const IDENTITY_SQL: &str = "\
SELECT s.system_identifier,
       (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
       i.wal_block_size,
       i.bytes_per_wal_segment,
       pg_catalog.current_setting('server_version'),
       (SELECT (extract(epoch FROM a.backend_start) * 1000000)::bigint
        FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'checkpointer'),
       pg_catalog.has_function_privilege(
           'pg_catalog.pg_try_advisory_xact_lock_shared(int, int)', 'execute')
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_init() i";

/// Every probe. Recovery is asked once per row, so that a promotion in the middle cannot mix two
/// states. In detail:
/// - `handover` is put in where the service user may ask for that lock ([`handover_sql`]).
/// - `timeline`: a primary's from the name of its current WAL file. A replica's is the highest of
///   the control file's, which lag behind until a restart point, and the receiver's.
/// - `waits_for_log` is only looked up when something received is not applied; the received
///   offset is read before it. It needs `pg_monitor`, and so do the receiver's columns.
/// - `receiver_connects`: `pg_stat_wal_receiver` has no row until the upstream has let it in.
const PROBE_SQL: &str = "\
SELECT r.recovering,
       false AS handover,
       CASE WHEN r.recovering THEN NULL
            ELSE pg_catalog.pg_current_wal_insert_lsn() END AS insert_lsn,
       CASE WHEN r.recovering THEN NULL
            ELSE pg_catalog.pg_current_wal_flush_lsn() END AS flush_lsn,
       CASE WHEN r.recovering THEN NULL
            ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
       END AS timeline_hex,
       CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_receive_lsn() END AS received_lsn,
       CASE WHEN r.recovering
             AND pg_catalog.pg_last_wal_replay_lsn() < pg_catalog.pg_last_wal_receive_lsn()
            THEN (SELECT a.wait_event = 'RecoveryWalStream'
                  FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'startup')
       END AS waits_for_log,
       pg_catalog.pg_last_wal_replay_lsn() AS replayed_lsn,
       CASE WHEN r.recovering THEN pg_catalog.pg_is_wal_replay_paused() END AS replay_paused,
       CASE WHEN r.recovering THEN
            greatest((SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c),
                     (SELECT c.min_recovery_end_timeline FROM pg_catalog.pg_control_recovery() c),
                     w.received_tli)
       END AS replica_timeline,
       w.pid AS receiver_pid,
       w.status AS receiver_status,
       CASE WHEN r.recovering AND w.pid IS NULL
            THEN EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                         WHERE a.backend_type = 'walreceiver'
                           AND lower(a.wait_event) = 'libpqwalreceiverconnect')
            ELSE false END AS receiver_connects,
       w.sender_host, w.sender_port
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering OFFSET 0) r
LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON r.recovering";

/// Whether somebody holds the lock of a handover, or waits for it: then it cannot be shared. It is
/// given back at the end of the query.
fn handover_sql() -> String {
    let (one, two) = LOCK_KEYS;
    format!(
        "CASE WHEN r.recovering THEN false \
         ELSE NOT pg_catalog.pg_try_advisory_xact_lock_shared({one}, {two}) END AS handover"
    )
}

/// A node's open probe connection.
pub(super) struct Session {
    client: Connection,
    query: Query,
    identity: Arc<Identity>,
    /// The highest timeline that this server was seen to follow. It never goes back while the
    /// server runs, but the receiver that told it may be gone.
    timeline: Option<Timeline>,
}

/// A pooled connection that is closed instead of returned: after a failure its state is unknown.
struct Connection(Option<Object>);

impl std::ops::Deref for Connection {
    type Target = Object;

    fn deref(&self) -> &Object {
        // Only `drop` takes it.
        self.0.as_ref().expect("a connection is there until it is dropped")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// Asks one node through its pool.
pub(super) struct Postgres(pub(super) Pool);

impl Ask for Postgres {
    type Session = Session;

    fn is_closed(session: &Session) -> bool {
        session.client.is_closed()
    }

    async fn ask(&self, session: Option<Session>) -> Result<(Session, Report), ProbeError> {
        let mut session = match session {
            Some(session) => session,
            None => open(&self.0).await?,
        };
        let run = || session.query.run(&session.client, &session.identity);
        let mut report = match run().await {
            // A promotion in the middle of the query makes it ask a primary what only a standby
            // has.
            Err(ProbeError::Query(_)) => run().await?,
            answer => answer?,
        };
        report.timeline = report.timeline.max(session.timeline);
        session.timeline = report.timeline;
        Ok((session, report))
    }
}

async fn open(pool: &Pool) -> Result<Session, ProbeError> {
    let object = pool.get().await.map_err(pool_error)?;
    let client = Connection(Some(object));
    let (identity, query) = Query::prepare(&client).await?;
    Ok(Session { client, query, identity: Arc::new(identity), timeline: None })
}

/// Bytes of a page's header in the write-ahead log (`SizeOfXLogShortPHD`, xlog_internal.h).
const PAGE_HEADER_BYTES: u64 = 24;
/// Bytes of the header of a segment's first page (`SizeOfXLogLongPHD`).
const SEGMENT_HEADER_BYTES: u64 = 40;

/// Block and segment size of a server's write-ahead log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogGeometry {
    pub block_bytes: u64,
    pub segment_bytes: u64,
}

impl Default for LogGeometry {
    fn default() -> LogGeometry {
        LogGeometry { block_bytes: 8192, segment_bytes: 16 << 20 }
    }
}

impl LogGeometry {
    /// The record end that an offset stands for.
    ///
    /// When the last record ends with its page, the insert position already counts the header of
    /// the next page (`XLogBytePosToRecPtr`), while a replica stops at the page's end: 24 bytes,
    /// 40 at the start of a segment, that nobody applies while the primary is idle. No record
    /// ends just behind a header, so taking those bytes off loses nothing.
    pub fn record_end(self, offset: u64) -> u64 {
        let into = |size: u64| offset.checked_rem(size).unwrap_or(u64::MAX);
        if into(self.segment_bytes) == SEGMENT_HEADER_BYTES {
            offset - SEGMENT_HEADER_BYTES
        } else if into(self.block_bytes) == PAGE_HEADER_BYTES {
            offset - PAGE_HEADER_BYTES
        } else {
            offset
        }
    }
}

/// The probe's query, prepared on one connection.
pub(super) struct Query {
    statement: Statement,
    geometry: LogGeometry,
}

impl Query {
    pub(super) async fn prepare(client: &Client) -> Result<(Identity, Query), ProbeError> {
        let row = client.query_one(IDENTITY_SQL, &[]).await.map_err(query_error)?;
        let (identity, geometry) = identity(&row).map_err(query_error)?;
        let may_ask_for_lock: bool = row.try_get(6).map_err(query_error)?;
        let sql = match may_ask_for_lock {
            true => PROBE_SQL.replace("false AS handover", &handover_sql()),
            false => PROBE_SQL.to_owned(),
        };
        let statement = client.prepare(&sql).await.map_err(query_error)?;
        Ok((identity, Query { statement, geometry }))
    }

    pub(super) async fn run(
        &self,
        client: &Client,
        identity: &Arc<Identity>,
    ) -> Result<Report, ProbeError> {
        let row = client.query_one(&self.statement, &[]).await.map_err(query_error)?;
        report(&row, identity, self.geometry).map_err(query_error)
    }
}

fn identity(row: &Row) -> Result<(Identity, LogGeometry), Error> {
    // The identifier is unsigned in the control file and shown as a bigint: same bits.
    let system = row.try_get::<_, i64>(0)?.cast_unsigned();
    let geometry = LogGeometry {
        block_bytes: u64::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0),
        segment_bytes: u64::try_from(row.try_get::<_, i32>(3)?).unwrap_or(0),
    };
    let version = Arc::from(row.try_get::<_, &str>(4)?);
    // Two servers that were started in the same microsecond of their clocks are one.
    let instance = row.try_get::<_, i64>(1)?.cast_unsigned();
    let life = row.try_get::<_, Option<i64>>(5)?;
    Ok((Identity { system, instance, life, id: Arc::from(""), version }, geometry))
}

fn report(row: &Row, identity: &Arc<Identity>, log: LogGeometry) -> Result<Report, Error> {
    let offset = |name: &str| -> Result<Option<u64>, Error> {
        let lsn = row.try_get::<_, Option<PgLsn>>(name)?;
        Ok(lsn.map(|lsn| log.record_end(lsn.into())))
    };
    let recovering: bool = row.try_get("recovering")?;
    let (timeline, state) = if recovering {
        let timeline = row.try_get::<_, Option<i32>>("replica_timeline")?;
        let state = State::Replica {
            replayed: offset("replayed_lsn")?,
            received: offset("received_lsn")?,
            replay_paused: row.try_get::<_, Option<bool>>("replay_paused")?.unwrap_or(false),
            waits_for_log: row.try_get("waits_for_log")?,
            receiver: receiver(row)?,
        };
        (timeline.and_then(|number| u32::try_from(number).ok()), state)
    } else {
        let name = row.try_get::<_, Option<&str>>("timeline_hex")?;
        let insert = offset("insert_lsn")?.unwrap_or(0);
        let flush = offset("flush_lsn")?.unwrap_or(0);
        let timeline = name.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let recovered = row.try_get::<_, Option<PgLsn>>("replayed_lsn")?.map(u64::from);
        (timeline, State::Primary { insert, flush, recovered })
    };
    Ok(Report {
        identity: identity.clone(),
        timeline: timeline.map(Timeline),
        handover: row.try_get("handover")?,
        state,
    })
}

fn receiver(row: &Row) -> Result<Option<Receiver>, Error> {
    if row.try_get::<_, bool>("receiver_connects")? {
        return Ok(Some(Receiver { status: Some(CONNECTING.into()), upstream: None, pid: None }));
    }
    let Some(pid) = row.try_get::<_, Option<i32>>("receiver_pid")? else { return Ok(None) };
    let host = row.try_get::<_, Option<&str>>("sender_host")?;
    let port = row.try_get::<_, Option<i32>>("sender_port")?;
    let upstream = host.zip(port).map(|(host, port)| Arc::from(format!("{host}:{port}")));
    let status = row.try_get::<_, Option<&str>>("receiver_status")?.map(Arc::from);
    Ok(Some(Receiver { status, upstream, pid: Some(pid) }))
}

pub(super) fn pool_error(error: PoolError) -> ProbeError {
    match error {
        PoolError::Backend(error) => ProbeError::Connection(sentence(&error)),
        other => ProbeError::Connection(Arc::from(other.to_string())),
    }
}

pub(super) fn query_error(error: Error) -> ProbeError {
    // A server that shuts down or was told to end this connection says so with class 57.
    let ended = error.as_db_error().is_none_or(|db| db.code().code().starts_with("57P"));
    if ended {
        ProbeError::Connection(sentence(&error))
    } else {
        ProbeError::Query(sentence(&error))
    }
}

/// The error with its cause: `tokio-postgres` alone says "db error".
pub(super) fn sentence(error: &Error) -> Arc<str> {
    if let Some(db) = error.as_db_error() {
        return Arc::from(format!("{} (SQLSTATE {})", db.message(), db.code().code()));
    }
    match error.source() {
        Some(cause) => Arc::from(format!("{error}: {cause}")),
        None => Arc::from(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_segment_headers_are_not_waited_for() {
        let geometry = LogGeometry::default();
        let segment = geometry.segment_bytes;
        let table = [
            (segment + 8192 + 24, segment + 8192),
            (segment + 8192 + 32, segment + 8192 + 32),
            (segment + 8192, segment + 8192),
            (segment + 40, segment),
            (segment + 8192 + 40, segment + 8192 + 40),
            (0, 0),
        ];
        for (offset, expected) in table {
            assert_eq!(geometry.record_end(offset), expected, "of {offset}");
        }
        // Sizes that a server cannot have must not panic either.
        let broken = LogGeometry { block_bytes: 0, segment_bytes: 0 };
        assert_eq!(broken.record_end(24), 24);
    }
}
