//! A cluster's servers as a change of its primary needs them, whatever their engine: each errand
//! once, done as PostgreSQL's or as MySQL's and MariaDB's (`postgres.rs`, `mysql.rs`).
//!
//! Each errand opens a connection of its own as `failover.user` and is bounded by the caller: these
//! are rare, and a connection that was open before may be as dead as its server. Errors are
//! sentences for the audit.

use super::{mysql, postgres};
use crate::config::tls::ServerTlsConnector;
use crate::config::{Cluster, NodeConfig};
use crate::topology::{Position, Timeline};
use std::sync::Arc;
use std::time::Duration;

/// Why no other handover may begin.
pub(super) const UNDER_WAY: &str = "another proxy hands the primary's part over already";
/// Between two looks at a server that is to reach a state.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Characters of a position in the audit; a set of GTIDs may have thousands.
const POSITION_CHARS_MAX: usize = 200;

/// A cluster's servers.
#[derive(Debug, Clone)]
pub struct Servers {
    pub cluster: Arc<Cluster>,
    pub tls: Arc<ServerTlsConnector>,
    /// How long a server may take for an errand, its login included.
    patience: Duration,
}

/// What a server says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It takes writes.
    Primary,
    /// It takes none, and receives from another one or would.
    Replica,
    /// It takes none and receives from nobody: a former primary that was made read-only.
    Neither,
}

/// One server's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub part: Part,
    /// Zero for all where servers have no such thing.
    pub system: u64,
    pub timeline: Option<Timeline>,
    /// Up to which it has received or applied, whichever is further (replica), or flushed. `None`:
    /// it does not tell.
    pub position: Option<Position>,
    /// Up to which it has applied (replica) or written.
    pub reach: Option<Position>,
}

impl Standing {
    /// A replica that nobody sends to any more may tell an older timeline than it has followed, that
    /// of its last restartpoint: what it was seen on before counts.
    pub fn seen_on(mut self, seen: Option<Timeline>) -> Standing {
        if let Some(seen) = seen.filter(|seen| self.timeline.is_some_and(|told| told < *seen)) {
            self.timeline = Some(seen);
            for position in [&mut self.position, &mut self.reach].into_iter().flatten() {
                if let Position::Log { timeline, .. } = position {
                    *timeline = seen;
                }
            }
        }
        self
    }
}

/// Why a former primary is no replica of the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// It cannot be made one by SQL.
    ForGood(String),
    /// Something went wrong that may be right the next time.
    ForNow(String),
}

/// All proxies that probe the primary see that its part is handed over; until this is taken back, or
/// dropped.
pub(super) enum Announced {
    Postgres(tokio_postgres::Client),
    Mysql(mysql_async::Conn),
}

impl Announced {
    /// Takes it back. If the server does not answer, it notices that the connection is gone.
    pub(super) async fn take_back(self) {
        match self {
            Announced::Postgres(client) => {
                let _ = client.batch_execute("SELECT pg_advisory_unlock_all()").await;
            }
            Announced::Mysql(connection) => {
                let _ = connection.disconnect().await;
            }
        }
    }
}

/// Does an errand as the engine's.
macro_rules! by_engine {
    ($servers:ident.$errand:ident($($argument:expr),*)) => {
        match $servers.cluster.engine.speaks_mysql() {
            true => mysql::$errand($servers, $($argument),*).await,
            false => postgres::$errand($servers, $($argument),*).await,
        }
    };
}

impl Servers {
    /// A server that answers its probes may take as long as the monitor takes to call it unhealthy.
    pub fn new(cluster: Arc<Cluster>, tls: Arc<ServerTlsConnector>) -> Servers {
        let patience = cluster.monitor.timeout * cluster.monitor.failures.max(1);
        Servers { cluster, tls, patience }
    }

    /// The same for errands that are waited for as long as the server answers its probes.
    pub(super) fn unhurried(&self) -> Servers {
        Servers { patience: self.cluster.failover.step_timeout.max(self.patience), ..self.clone() }
    }

    pub async fn standing(&self, node: &NodeConfig) -> Result<Standing, String> {
        by_engine!(self.standing(node))
    }

    /// Makes a server refuse writes, or take them again. Sessions that are open may still write on
    /// PostgreSQL: they are to be ended as well (`terminate`).
    pub async fn set_read_only(&self, node: &NodeConfig, on: bool) -> Result<(), String> {
        by_engine!(self.set_read_only(node, on))
    }

    /// Tells all proxies that this primary's part is handed over.
    pub(super) async fn announce(&self, node: &NodeConfig) -> Result<Announced, String> {
        match self.cluster.engine.speaks_mysql() {
            true => mysql::announce(self, node).await.map(Announced::Mysql),
            false => postgres::announce(self, node).await.map(Announced::Postgres),
        }
    }

    /// Ends all sessions of clients; how many there were.
    pub async fn terminate(&self, node: &NodeConfig) -> Result<usize, String> {
        by_engine!(self.terminate(node))
    }

    /// Waits until no client has a transaction open, seen twice in a row: what was sent before
    /// requests were held may just be arriving.
    pub async fn wait_until_idle(&self, node: &NodeConfig) -> Result<(), String> {
        by_engine!(self.wait_until_idle(node))
    }

    /// Waits until the target has applied all that the primary has written by now; the position.
    pub async fn catch_up(
        &self,
        from: &NodeConfig,
        target: &NodeConfig,
    ) -> Result<Position, String> {
        by_engine!(self.catch_up(from, target))
    }

    /// Makes a replica receive nothing more from the lost primary. Until it follows another one it
    /// may be made to receive from `chosen`, which may be itself.
    pub async fn detach(&self, replica: &NodeConfig, chosen: &NodeConfig) -> Result<(), String> {
        by_engine!(self.detach(replica, chosen))
    }

    /// Undoes [`Servers::detach`], whether or not the primary is there.
    pub async fn reattach(&self, replica: &NodeConfig, primary: &NodeConfig) -> Result<(), String> {
        by_engine!(self.reattach(replica, primary))
    }

    /// Promotes, with all that the server had received, and waits until it is no replica any more.
    pub async fn promote(&self, node: &NodeConfig) -> Result<String, String> {
        by_engine!(self.promote(node))
    }

    /// Whether a new primary takes writes; in words. `before`: the timeline that its own must be
    /// after, where there are timelines.
    pub async fn verify(
        &self,
        node: &NodeConfig,
        before: Option<Timeline>,
    ) -> Result<String, String> {
        by_engine!(self.verify(node, before))
    }

    /// Makes a replica receive from another server, and not from the one before any more.
    pub async fn repoint(
        &self,
        replica: &NodeConfig,
        upstream: &NodeConfig,
    ) -> Result<String, String> {
        by_engine!(self.repoint(replica, upstream))
    }

    /// As [`Servers::repoint`], and waits until the replica receives.
    pub async fn follow(
        &self,
        replica: &NodeConfig,
        upstream: &NodeConfig,
    ) -> Result<String, String> {
        by_engine!(self.follow(replica, upstream))
    }

    /// Makes a former primary that runs a replica of the new one by SQL, if that can be.
    pub async fn rejoin(&self, old: &NodeConfig, new: &NodeConfig) -> Result<String, LeftOut> {
        by_engine!(self.rejoin(old, new))
    }

    /// Makes a new primary ready for the command that brings the old one back.
    pub async fn checkpoint(&self, node: &NodeConfig) -> Result<(), String> {
        by_engine!(self.checkpoint(node))
    }

    /// Makes a replica end its connection to the primary and open it again. `parts` is called first
    /// where it can end it only with the primary's help.
    pub async fn reconnect(&self, replica: &NodeConfig, parts: impl Fn()) -> Result<(), String> {
        by_engine!(self.reconnect(replica, parts))
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }
}

/// A position as the audit has it.
pub(super) fn shown(position: Option<&Position>) -> String {
    let Some(position) = position else { return "an unknown position".to_owned() };
    let text = position.to_string();
    match text.char_indices().nth(POSITION_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_on_the_newest_timeline_that_it_was_seen_on() {
        let on = |timeline: u32| {
            let timeline = Timeline(timeline);
            let position = Some(Position::Log { timeline, offset: 7 });
            let (timeline, reach) = (Some(timeline), position.clone());
            Standing { part: Part::Replica, system: 1, timeline, position, reach }
        };
        for (told, seen, expected) in [(1, Some(2), 2), (2, Some(1), 2), (2, None, 2)] {
            assert_eq!(on(told).seen_on(seen.map(Timeline)), on(expected), "{told} {seen:?}");
        }
    }
}
