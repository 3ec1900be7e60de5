//! The task that asks a node again and again.
//!
//! Each node has its own task and its own connection: one that hangs delays nobody. The queries
//! are the engine's (`postgres.rs`, `mysql.rs`), what they say is in `report.rs`; what it means is
//! decided in `verdict.rs`.

use super::report::Report;
use crate::topology::NodeId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

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
    /// Grows with each connection that has given an answer.
    pub connection: u64,
    /// The connection was opened within this probe: its duration is not a round trip's.
    pub connected_anew: bool,
    pub result: Result<Report, ProbeError>,
}

/// How the nodes of one engine are asked.
pub(super) trait Ask: Send + Sync + 'static {
    /// A node's open connection.
    type Session: Send;

    fn is_closed(session: &Self::Session) -> bool;

    /// Asks on this connection, or on a new one. One that failed is not given back: its state is
    /// unknown.
    fn ask(
        &self,
        session: Option<Self::Session>,
    ) -> impl Future<Output = Result<(Self::Session, Report), ProbeError>> + Send;
}

/// What a node's task needs.
pub(super) struct Prober {
    pub(super) node: NodeId,
    /// Asks for a probe that starts after this moment; several at once are one.
    pub(super) wanted: Arc<Notify>,
    pub(super) outcomes: mpsc::Sender<Outcome>,
    pub(super) timeout: Duration,
    /// Probes start at least this far apart, however often they are asked for.
    pub(super) gap_min: Duration,
}

impl Prober {
    /// Probes whenever asked to, until nobody listens any more.
    pub(super) async fn run<A: Ask>(self, engine: A) {
        let mut session: Option<A::Session> = None;
        let mut connections = 0;
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                () = self.outcomes.closed() => return,
            }
            let outcome = self.probe(&engine, &mut session, &mut connections).await;
            let next_at = outcome.started_at + self.gap_min;
            if self.outcomes.send(outcome).await.is_err() {
                return;
            }
            tokio::time::sleep_until(next_at.into()).await;
        }
    }

    async fn probe<A: Ask>(
        &self,
        engine: &A,
        session: &mut Option<A::Session>,
        connections: &mut u64,
    ) -> Outcome {
        if session.as_ref().is_some_and(A::is_closed) {
            *session = None;
        }
        let connected_anew = session.is_none();
        let started_at = Instant::now();
        // The session is taken: if the time runs out, it is dropped together with its query, and
        // a late answer can never be read as a later probe's.
        let errand = engine.ask(session.take());
        let answer = tokio::time::timeout(self.timeout, errand).await;
        let result = match answer {
            Err(_) => Err(ProbeError::Timeout { after: self.timeout }),
            Ok(Err(error)) => Err(error),
            Ok(Ok((kept, report))) => {
                *session = Some(kept);
                *connections += u64::from(connected_anew);
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
