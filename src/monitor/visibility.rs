//! Whether the primary already shows what a replica has shown.
//!
//! A standby may show a commit before its primary does: the primary sends the commit record first
//! and takes the transaction off its list of running ones afterwards (`CommitTransaction`,
//! `src/backend/access/transam/xact.c`), which takes as long as the machine likes when it has too
//! much to do, or a synchronous standby does not answer.
//!
//! Asked are first the primary for the transactions that run there, then the replica which of them
//! it shows as committed, then the primary again until none of those runs. Whatever the replica had
//! shown before the first question was asked is visible on the primary then.
//!
//! Only PostgreSQL can be asked: neither MySQL nor MariaDB tells what it has made visible.

use super::connection::service_pool;
use super::postgres::{pool_error, query_error};
use super::probe::ProbeError;
use crate::config::Cluster;
use crate::config::tls::ServerTlsConnector;
use crate::topology::{NodeId, Topology};
use deadpool_postgres::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Questions that wait to be taken in: as many as sessions may come at once while one round trip is
/// under way. What comes on top has no answer.
const QUESTIONS_MAX: usize = 1024;
/// The primary is asked again after this: what is committed is shown within microseconds, unless its
/// process does not get to run.
const AGAIN: Duration = Duration::from_millis(1);
/// A query that takes longer is given up, and whoever asked with it: none waits for longer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Transactions that a replica has completed and the primary not, when it was asked. More is no moment
/// of a few round trips, and has no answer.
const AHEAD_MAX: i64 = 10_000;

/// Ids are in what a snapshot lists from its `xmin` on; those from its `xmax` on are not listed.
const RUNNING_SQL: &str = "\
SELECT pg_catalog.pg_snapshot_xmax(s)::text::bigint,
       array(SELECT x::text::bigint FROM pg_catalog.pg_snapshot_xip(s) x)
FROM pg_catalog.pg_current_snapshot() s";

/// A standby's snapshot lists no ids. One that it has not heard of would be an error to ask for.
const COMMITTED_SQL: &str = "\
SELECT CASE WHEN e.xmax - $2 <= $3 THEN array(
    SELECT x FROM (SELECT unnest($1::bigint[])
                   UNION ALL SELECT pg_catalog.generate_series($2, e.xmax - 1)) AS asked(x)
    WHERE CASE WHEN x < e.xmax THEN pg_catalog.pg_xact_status(x::text::xid8) = 'committed' END)
END
FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xmax) e";

struct Question {
    replica: NodeId,
    shown: oneshot::Sender<()>,
}

/// Where sessions ask. The task and its connections end with the last of these.
#[derive(Debug, Clone)]
pub struct Visibility {
    questions: mpsc::Sender<Question>,
}

impl Visibility {
    /// Starts the task on the current runtime, which must be the control plane's. It connects to
    /// no server before somebody asks. `None` for servers that cannot tell.
    pub fn spawn(
        cluster: &Cluster,
        topology: Arc<Topology>,
        tls: &Arc<ServerTlsConnector>,
    ) -> Option<Visibility> {
        if cluster.engine.speaks_mysql() {
            return None;
        }
        let database = &cluster.service.database;
        let pool = |node| service_pool(cluster, node, database, tls, None);
        let task = Task { topology, pools: cluster.nodes.iter().map(pool).collect() };
        let (questions, received) = mpsc::channel(QUESTIONS_MAX);
        tokio::spawn(task.run(received));
        Some(Visibility { questions })
    }

    /// Resolves once the primary shows everything that the replica has shown until now; to an error
    /// if that cannot be found out.
    pub fn ask(&self, replica: NodeId) -> oneshot::Receiver<()> {
        let (shown, answer) = oneshot::channel();
        // A full queue drops the question, and that is an answer.
        let _ = self.questions.try_send(Question { replica, shown });
        answer
    }
}

/// A question, and what the replica shows that the primary did not when it was asked.
struct Pending {
    shown: oneshot::Sender<()>,
    hidden: Arc<[i64]>,
}

/// The transactions that the primary does not show.
struct Running {
    /// All from this one on,
    xmax: i64,
    /// and of those before it these.
    xip: Vec<i64>,
}

struct Task {
    topology: Arc<Topology>,
    pools: Vec<Pool>,
}

impl Task {
    async fn run(self, mut questions: mpsc::Receiver<Question>) {
        let mut pending: Vec<Pending> = Vec::new();
        loop {
            let mut asked = Vec::new();
            if pending.is_empty() {
                match questions.recv().await {
                    Some(question) => asked.push(question),
                    None => return,
                }
            } else {
                tokio::time::sleep(AGAIN).await;
            }
            while let Ok(question) = questions.try_recv() {
                asked.push(question);
            }
            pending.retain(|pending| !pending.shown.is_closed());
            let Some(running) = self.running().await else {
                pending.clear();
                continue;
            };
            pending.extend(self.compare(asked, &running).await);
            pending = running.answer(pending);
        }
    }

    /// What each replica shows of what was running on the primary a moment ago.
    async fn compare(&self, mut asked: Vec<Question>, running: &Running) -> Vec<Pending> {
        let mut pending = Vec::new();
        while let Some(replica) = asked.first().map(|question| question.replica) {
            let of_this = asked.extract_if(.., |question| question.replica == replica);
            let of_this: Vec<_> = of_this.collect();
            let Some(hidden) = self.committed(replica, running).await else { continue };
            let wait = |Question { shown, .. }| Pending { shown, hidden: hidden.clone() };
            pending.extend(of_this.into_iter().map(wait));
        }
        pending
    }

    async fn running(&self) -> Option<Running> {
        let primary = self.topology.load().primary?;
        let row = self.query(primary, RUNNING_SQL, &[]).await?;
        Some(Running { xmax: row.try_get(0).ok()?, xip: row.try_get(1).ok()? })
    }

    async fn committed(&self, replica: NodeId, running: &Running) -> Option<Arc<[i64]>> {
        let Running { xmax, xip } = running;
        let row = self.query(replica, COMMITTED_SQL, &[xip, xmax, &AHEAD_MAX]).await?;
        row.try_get::<_, Option<Vec<i64>>>(0).ok().flatten().map(Arc::from)
    }

    async fn query(
        &self,
        node: NodeId,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Option<Row> {
        let pool = self.pools.get(usize::from(node.0))?;
        let asked = async {
            let client = pool.get().await.map_err(pool_error)?;
            let statement = client.prepare_cached(sql).await.map_err(query_error)?;
            client.query_one(&statement, parameters).await.map_err(query_error)
        };
        let late = |_| Err(ProbeError::Timeout { after: QUERY_TIMEOUT });
        let answer = timeout(QUERY_TIMEOUT, asked).await.unwrap_or_else(late);
        let failed =
            |error| tracing::debug!(node = node.0, %error, "it does not tell what it shows");
        answer.map_err(failed).ok()
    }
}

impl Running {
    fn has(&self, id: i64) -> bool {
        id >= self.xmax || self.xip.contains(&id)
    }

    /// Answers those of whom nothing is hidden any more, and gives the others back.
    fn answer(&self, pending: Vec<Pending>) -> Vec<Pending> {
        let hides = |pending: &Pending| pending.hidden.iter().any(|id| self.has(*id));
        let (hidden, shown): (Vec<_>, Vec<_>) = pending.into_iter().partition(hides);
        for pending in shown {
            // Who asked may have left.
            let _ = pending.shown.send(());
        }
        hidden
    }
}
