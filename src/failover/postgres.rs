//! What is asked of PostgreSQL servers around a change of the primary, one errand per function.
//!
//! Each errand opens a connection of its own as `failover.user` and is bounded by the caller: these
//! are rare, and a connection that was open before may be as dead as its server.

use super::conninfo;
use crate::backend::postgres::connect_control::{ControlTls, control_config};
use crate::config::tls::ServerTlsConnector;
use crate::config::{Cluster, NodeConfig};
use crate::monitor::postgres::LogGeometry;
use crate::topology::Timeline;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error};

/// What these connections call themselves in `pg_stat_activity`.
const APPLICATION_NAME: &str = "tiffin failover";
/// Not read-only, whatever the server's default: the default is what is changed.
const OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
    -c statement_timeout=0 -c client_min_messages=warning";
/// Between two looks at a server that is to reach a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One server's place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub system: u64,
    pub recovering: bool,
    pub timeline: Option<Timeline>,
    /// Received or applied (standby), flushed (primary).
    pub position: u64,
    /// Applied (standby), inserted (primary).
    pub reach: u64,
}

/// A replica's timeline as in the monitor's probe: the highest that it knows of.
const STANDING_SQL: &str = "\
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       r.recovering,
       CASE WHEN r.recovering
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       END AS timeline,
       CASE WHEN r.recovering
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END AS position,
       CASE WHEN r.recovering THEN pg_last_wal_replay_lsn()
            ELSE pg_current_wal_insert_lsn() END AS reach,
       (SELECT wal_block_size FROM pg_control_init()) AS block,
       (SELECT bytes_per_wal_segment FROM pg_control_init()) AS segment
FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) r";

/// Transactions of clients that are open now.
const OPEN_SQL: &str = "\
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND application_name <> 'tiffin monitor'
  AND (state <> 'idle' OR xact_start IS NOT NULL)";

/// Of superusers only if this is one: `pg_signal_backend` does not reach them, and trying fails the
/// whole statement.
const TERMINATE_SQL: &str = "\
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND a.application_name <> 'tiffin monitor'
  AND (NOT r.rolsuper OR current_setting('is_superuser')::bool)";

/// A cluster's servers.
#[derive(Debug, Clone)]
pub struct Servers {
    pub cluster: Arc<Cluster>,
    pub tls: Arc<ServerTlsConnector>,
}

impl Servers {
    pub async fn standing(&self, node: &NodeConfig) -> Result<Standing, String> {
        let client = self.connect(node).await?;
        standing(&client).await
    }

    /// From now on new transactions there are read-only by default; a session that is told so may
    /// still write, so its sessions are ended as well (`terminate`).
    pub async fn set_read_only(&self, node: &NodeConfig, on: bool) -> Result<(), String> {
        let client = self.connect(node).await?;
        let change = if on {
            "ALTER SYSTEM SET default_transaction_read_only = on"
        } else {
            "ALTER SYSTEM RESET default_transaction_read_only"
        };
        client.batch_execute(change).await.map_err(sentence)?;
        client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)
    }

    /// Ends all sessions of clients; how many there were.
    pub async fn terminate(&self, node: &NodeConfig) -> Result<i64, String> {
        let client = self.connect(node).await?;
        client.query_one(TERMINATE_SQL, &[]).await.map(|row| row.get(0)).map_err(sentence)
    }

    /// Waits until no client has a transaction open, seen twice in a row: what was sent before
    /// requests were held may just be arriving.
    pub async fn wait_until_idle(&self, node: &NodeConfig) -> Result<(), String> {
        let client = self.connect(node).await?;
        let mut quiet = 0;
        while quiet < 2 {
            let row = client.query_one(OPEN_SQL, &[]).await.map_err(sentence)?;
            quiet = if row.get::<_, i64>(0) == 0 { quiet + 1 } else { 0 };
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until the target has applied all that the primary has written by now; the position.
    pub async fn catch_up(&self, from: &NodeConfig, target: &NodeConfig) -> Result<u64, String> {
        let (primary, replica) = (self.connect(from).await?, self.connect(target).await?);
        // What is not flushed yet (synchronous_commit off) is flushed and sent soon.
        let wanted = standing(&primary).await?.reach;
        loop {
            let (written, applied) = (standing(&primary).await?, standing(&replica).await?);
            if written.position >= wanted && applied.reach >= wanted {
                return Ok(wanted);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Promotes, and waits until the server is no standby any more.
    pub async fn promote(&self, node: &NodeConfig) -> Result<(), String> {
        let client = self.connect(node).await?;
        client.execute("SELECT pg_promote(false)", &[]).await.map_err(sentence)?;
        loop {
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
            if !row.map_err(sentence)?.get::<_, bool>(0) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether a new primary takes writes: it gives a transaction id, which a standby and a
    /// read-only server refuse. Nothing is committed, so no synchronous replica is waited for.
    pub async fn verify(&self, node: &NodeConfig, after: Timeline) -> Result<Timeline, String> {
        let client = self.connect(node).await?;
        // It may have been isolated itself when it was a primary.
        let reset = "ALTER SYSTEM RESET default_transaction_read_only";
        client.batch_execute(reset).await.map_err(sentence)?;
        client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)?;
        let write = "BEGIN READ WRITE; SELECT txid_current(); ROLLBACK";
        client.batch_execute(write).await.map_err(sentence)?;
        match standing(&client).await?.timeline {
            Some(timeline) if timeline > after => Ok(timeline),
            timeline => Err(format!("it is on timeline {timeline:?}, not on one after {after:?}")),
        }
    }

    /// Makes a replica receive from another server, by a slot of the same name as before, which is
    /// made there; waits until it does not receive from the one before any more.
    pub async fn repoint(
        &self,
        replica: &NodeConfig,
        upstream: &NodeConfig,
    ) -> Result<String, String> {
        let client = self.connect(replica).await?;
        let sql =
            "SELECT current_setting('primary_conninfo'), current_setting('primary_slot_name')";
        let row = client.query_one(sql, &[]).await.map_err(sentence)?;
        let (before, slot): (String, String) = (row.get(0), row.get(1));
        let after = conninfo::with_server(&before, &upstream.address)?;
        if !slot.is_empty() {
            let upstream = self.connect(upstream).await?;
            let make = "SELECT pg_create_physical_replication_slot($1::text::name, true) \
                WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text::name)";
            upstream.execute(make, &[&slot]).await.map_err(sentence)?;
        }
        let told = match slot.is_empty() {
            true => format!("it receives from {}", upstream.name),
            false => format!("it receives from {} by slot {slot}", upstream.name),
        };
        if after == before {
            return Ok(told);
        }
        let receiver = async || {
            let row = client.query_opt("SELECT pid FROM pg_stat_wal_receiver", &[]).await;
            Ok::<_, String>(row.map_err(sentence)?.and_then(|row| row.get::<_, Option<i32>>(0)))
        };
        let before = receiver().await?;
        set_conninfo(&client, &after).await?;
        while before.is_some() && receiver().await? == before {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(told)
    }

    /// As [`Servers::repoint`], and waits until the replica receives.
    pub async fn follow(
        &self,
        replica: &NodeConfig,
        upstream: &NodeConfig,
    ) -> Result<String, String> {
        let told = self.repoint(replica, upstream).await?;
        let client = self.connect(replica).await?;
        let streams = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver \
            WHERE status = 'streaming' AND sender_host = $1 AND sender_port = $2)";
        let (host, port) = conninfo::host_and_port(&upstream.address);
        loop {
            let row = client.query_one(streams, &[&host, &i32::from(port)]).await;
            if row.map_err(sentence)?.get(0) {
                return Ok(told);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Until then `pg_rewind` takes a new primary for one of the old timeline.
    pub async fn checkpoint(&self, node: &NodeConfig) -> Result<(), String> {
        let client = self.connect(node).await?;
        client.batch_execute("CHECKPOINT").await.map_err(sentence)
    }

    /// Makes a replica end its connection to the primary and open it again: a receiver cannot be
    /// terminated by SQL, but it follows each change of `primary_conninfo`.
    pub async fn reconnect(&self, replica: &NodeConfig) -> Result<(), String> {
        let client = self.connect(replica).await?;
        let row = client.query_one("SELECT current_setting('primary_conninfo')", &[]).await;
        let changed = conninfo::changed(row.map_err(sentence)?.get(0))?;
        set_conninfo(&client, &changed).await
    }

    /// How long a server that answers its probes may take for an errand: as long as the monitor
    /// takes to call it unhealthy.
    pub fn patience(&self) -> Duration {
        self.cluster.monitor.timeout * self.cluster.monitor.failures.max(1)
    }

    async fn connect(&self, node: &NodeConfig) -> Result<Client, String> {
        let failover = &self.cluster.failover;
        let bound = self.patience();
        let (login, tls) = (&failover.login, &self.tls);
        let mut config = control_config(&node.address, login, tls, APPLICATION_NAME, bound);
        config.options(OPTIONS);
        let connecting = config.connect(ControlTls::new(tls));
        let connected = timeout(bound, connecting).await;
        let connected = connected.map_err(|_| format!("no answer within {bound:?}"))?;
        let (client, connection) = connected.map_err(sentence)?;
        // Ends with the client.
        tokio::spawn(connection);
        Ok(client)
    }
}

/// ALTER SYSTEM takes no parameters: the value is quoted as a literal.
async fn set_conninfo(client: &Client, conninfo: &str) -> Result<(), String> {
    let value = conninfo.replace('\\', "\\\\").replace('\'', "''");
    let set = format!("ALTER SYSTEM SET primary_conninfo = E'{value}'");
    client.batch_execute(&set).await.map_err(sentence)?;
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)
}

async fn standing(client: &Client) -> Result<Standing, String> {
    let row = client.query_one(STANDING_SQL, &[]).await.map_err(sentence)?;
    let size = |name: &str| u64::try_from(row.get::<_, i32>(name)).unwrap_or(0);
    let geometry = LogGeometry { block_bytes: size("block"), segment_bytes: size("segment") };
    let offset = |name: &str| {
        let lsn = row.get::<_, Option<PgLsn>>(name);
        lsn.map_or(0, |lsn| geometry.record_end(lsn.into()))
    };
    let timeline = row.get::<_, Option<i32>>("timeline").and_then(|t| u32::try_from(t).ok());
    Ok(Standing {
        system: row.get::<_, i64>("system").cast_unsigned(),
        recovering: row.get("recovering"),
        timeline: timeline.map(Timeline),
        position: offset("position"),
        reach: offset("reach"),
    })
}

/// The error with its cause: tokio-postgres alone says "db error".
fn sentence(error: Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", db.message(), db.code().code());
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
