//! What one probe of one node says, and the task that asks a node again and again.
//!
//! Each node has its own task and its own connection: one that hangs delays nobody. The queries
//! are the engine's (`postgres.rs`); what the answers mean is decided in `verdict.rs`.

use super::history::LogGeometry;
use super::postgres;
use crate::topology::{NodeId, Timeline};
use deadpool_postgres::{Object, Pool};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

/// What a server says of itself once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made by initdb, kept by every physical copy: nodes of one cluster have the same.
    pub system: u64,
    /// When the postmaster started, in microseconds of its own clock: differs after a restart.
    pub started_us: i64,
    pub geometry: LogGeometry,
    /// As `server_version_num`: 150004.
    pub version: u32,
}

/// An answered probe.
#[derive(Debug, Clone)]
pub struct Report {
    pub identity: Arc<Identity>,
    pub timeline: Option<Timeline>,
    /// New transactions are read-only by the server's configuration.
    pub read_only: bool,
    pub state: State,
}

/// Offsets are record ends in bytes ([`LogGeometry::record_end`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not in recovery.
    Primary { insert: u64, flush: u64 },
    /// In recovery.
    Replica {
        /// `None` before the first record was applied.
        replayed: Option<u64>,
        /// Up to which the receiver has written and flushed; `None` if nothing was streamed.
        received: Option<u64>,
        replay_paused: bool,
        /// Everything that was received is applied as far as it forms whole records. `None`: the
        /// service user may not see it (`pg_monitor`).
        waits_for_log: Option<bool>,
        receiver: Option<Receiver>,
    },
}

/// A replica's connection to its upstream. The fields are `None` when the service user may not
/// see them (`pg_monitor`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `streaming` in the normal case.
    pub status: Option<Arc<str>>,
    /// `host:port`, for people.
    pub upstream: Option<Arc<str>>,
}

/// How far a replica is, for the two questions that are asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Everything up to here is applied and visible.
    pub replayed: u64,
    /// As far as lag goes. A primary may have sent half of a record whose rest it has not written
    /// yet; a replica that waits for more has applied all there is.
    pub caught_up_to: u64,
}

impl Report {
    pub fn is_replica(&self) -> bool {
        matches!(self.state, State::Replica { .. })
    }

    /// `None` for a primary, and for a replica that has applied nothing.
    pub fn reach(&self) -> Option<Reach> {
        let State::Replica { replayed: Some(replayed), received, waits_for_log, .. } = self.state
        else {
            return None;
        };
        let caught_up_to = match (waits_for_log, received) {
            (Some(true), Some(received)) => received.max(replayed),
            _ => replayed,
        };
        Some(Reach { replayed, caught_up_to })
    }

    /// Whether it is a replica that receives from something else than these `host:port`s. What
    /// the service user may not see is taken for a running receiver.
    pub fn receives(&self, except: &[&str]) -> bool {
        let State::Replica { receiver: Some(receiver), .. } = &self.state else { return false };
        receiver.status.as_deref().is_none_or(|status| status == "streaming")
            && receiver.upstream.as_deref().is_none_or(|upstream| !except.contains(&upstream))
    }

    /// What may explain a replica's lag; empty or beginning with `; `.
    pub fn remarks(&self) -> String {
        let State::Replica { replay_paused, receiver, .. } = &self.state else {
            return String::new();
        };
        let mut remarks = String::new();
        if *replay_paused {
            remarks += "; replay is paused";
        }
        match receiver {
            None => remarks += "; it receives from nobody",
            Some(Receiver { status: Some(status), .. }) if &**status != "streaming" => {
                remarks += &format!("; its receiver is {status}");
            }
            Some(_) => {}
        }
        remarks
    }
}

/// Why a probe has no answer: the server's fault or the network's in every case.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ProbeError {
    #[error("no answer within {} ms", .after.as_millis())]
    Timeout { after: Duration },
    /// Could not connect or log in, or the connection broke. The node may have restarted.
    #[error("{0}")]
    Connection(Arc<str>),
    /// The server refused the query.
    #[error("{0}")]
    Query(Arc<str>),
}

/// One probe, answered or not.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub node: NodeId,
    /// Before anything was sent.
    pub started_at: Instant,
    pub finished_at: Instant,
    /// Grows each time the probe's connection was opened anew.
    pub connection: u64,
    /// The connection was opened within this probe: its duration is not a round trip's.
    pub connected_anew: bool,
    pub result: Result<Report, ProbeError>,
}

/// What a node's task needs.
pub(super) struct Prober {
    pub(super) node: NodeId,
    pub(super) pool: Pool,
    /// Asks for a probe that starts after this moment; several at once are one.
    pub(super) wanted: Arc<Notify>,
    pub(super) outcomes: mpsc::Sender<Outcome>,
    pub(super) timeout: Duration,
    /// Probes start at least this far apart, however often they are asked for.
    pub(super) gap_min: Duration,
}

impl Prober {
    /// Probes whenever asked to, until nobody listens any more.
    pub(super) async fn run(self) {
        let mut session: Option<Session> = None;
        let mut connections = 0;
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                () = self.outcomes.closed() => return,
            }
            let outcome = self.probe(&mut session, &mut connections).await;
            let next_at = outcome.started_at + self.gap_min;
            if self.outcomes.send(outcome).await.is_err() {
                return;
            }
            tokio::time::sleep_until(next_at.into()).await;
        }
    }

    async fn probe(&self, session: &mut Option<Session>, connections: &mut u64) -> Outcome {
        if session.as_ref().is_some_and(|session| session.client.is_closed()) {
            *session = None;
        }
        let connected_anew = session.is_none();
        *connections += u64::from(connected_anew);
        let started_at = Instant::now();
        // The session is taken: if the time runs out, it is dropped together with its query, and
        // a late answer can never be read as a later probe's.
        let errand = ask(&self.pool, session.take());
        let answer = tokio::time::timeout(self.timeout, errand).await;
        let result = match answer {
            Err(_) => Err(ProbeError::Timeout { after: self.timeout }),
            Ok(Err(error)) => Err(error),
            Ok(Ok((kept, report))) => {
                *session = Some(kept);
                Ok(report)
            }
        };
        Outcome {
            node: self.node,
            started_at,
            finished_at: Instant::now(),
            connection: *connections,
            connected_anew,
            result,
        }
    }
}

/// A node's open probe connection.
struct Session {
    client: Connection,
    query: postgres::Query,
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

async fn ask(pool: &Pool, session: Option<Session>) -> Result<(Session, Report), ProbeError> {
    let mut session = match session {
        Some(session) => session,
        None => open(pool).await?,
    };
    let run = || session.query.run(&session.client, &session.identity);
    let mut report = match run().await {
        // A promotion in the middle of the query makes it ask a primary what only a standby has.
        Err(ProbeError::Query(_)) => run().await?,
        answer => answer?,
    };
    report.timeline = report.timeline.max(session.timeline);
    session.timeline = report.timeline;
    Ok((session, report))
}

async fn open(pool: &Pool) -> Result<Session, ProbeError> {
    let object = pool.get().await.map_err(postgres::pool_error)?;
    let client = Connection(Some(object));
    let (identity, query) = postgres::Query::prepare(&client).await?;
    Ok(Session { client, query, identity: Arc::new(identity), timeline: None })
}
