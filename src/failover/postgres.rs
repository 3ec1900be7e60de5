//! What is asked of PostgreSQL servers around a change of the primary, one errand per function
//! (`servers.rs` says what each is for).

use super::conninfo;
use super::servers::{LOOK_INTERVAL, LeftOut, Part, Servers, Standing, UNDER_WAY};
use crate::backend::postgres::connect_control::{ControlTls, control_config};
use crate::config::NodeConfig;
use crate::monitor::handover::LOCK_KEYS;
use crate::monitor::postgres::LogGeometry;
use crate::topology::{Position, Timeline};
use std::error::Error as _;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error};

/// What these connections call themselves in `pg_stat_activity`.
const APPLICATION_NAME: &str = "tiffin failover";
/// Not read-only, whatever the server's default: the default is what is changed.
const OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
    -c statement_timeout=0 -c client_min_messages=warning";
/// One server's place in the log, in bytes.
struct Place {
    system: u64,
    recovering: bool,
    timeline: Option<Timeline>,
    /// Received or applied (standby), flushed (primary).
    position: u64,
    /// Applied (standby), inserted (primary).
    reach: u64,
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
/// whole statement. Not the session of this user that tells other proxies of a handover.
const TERMINATE_SQL: &str = "\
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND a.application_name <> 'tiffin monitor'
  AND NOT (a.application_name = 'tiffin handover' AND a.usename = current_user)
  AND (NOT r.rolsuper OR current_setting('is_superuser')::bool)";

pub(super) async fn standing(servers: &Servers, node: &NodeConfig) -> Result<Standing, String> {
    let Place { system, recovering, timeline, position, reach } =
        place(&connect(servers, node).await?).await?;
    let at = |offset| timeline.map(|timeline| Position::Log { timeline, offset });
    let part = if recovering { Part::Replica } else { Part::Primary };
    Ok(Standing { part, system, timeline, position: at(position), reach: at(reach) })
}

/// From now on new transactions there are read-only by default; a session that is told so may
/// still write, so its sessions are ended as well (`terminate`).
pub(super) async fn set_read_only(
    servers: &Servers,
    node: &NodeConfig,
    on: bool,
) -> Result<(), String> {
    let client = connect(servers, node).await?;
    let change = if on {
        "ALTER SYSTEM SET default_transaction_read_only = on"
    } else {
        "ALTER SYSTEM RESET default_transaction_read_only"
    };
    client.batch_execute(change).await.map_err(sentence)?;
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)
}

/// The session that tells other proxies of a handover. A server notices within seconds that the
/// machine of its client is gone; one that has been told to end idle sessions must not.
pub(super) async fn announce(servers: &Servers, node: &NodeConfig) -> Result<Client, String> {
    let client = connect(servers, node).await?;
    let (one, two) = LOCK_KEYS;
    // Probes ask for it, each for a moment.
    let bound = servers.patience().as_millis().max(1);
    let settings = format!(
        "SET application_name = 'tiffin handover'; SET lock_timeout = {bound}; \
         SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 5; \
         SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
    );
    client.batch_execute(&settings).await.map_err(sentence)?;
    let lock = format!("SELECT pg_advisory_lock({one}, {two})");
    match client.batch_execute(&lock).await {
        Ok(()) => Ok(client),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(UNDER_WAY.to_owned())
        }
        Err(error) => Err(sentence(error)),
    }
}

/// Ends all sessions of clients; how many there were.
pub(super) async fn terminate(servers: &Servers, node: &NodeConfig) -> Result<usize, String> {
    let client = connect(servers, node).await?;
    let row = client.query_one(TERMINATE_SQL, &[]).await.map_err(sentence)?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Waits until no client has a transaction open, seen twice in a row: what was sent before
/// requests were held may just be arriving.
pub(super) async fn wait_until_idle(servers: &Servers, node: &NodeConfig) -> Result<(), String> {
    let client = connect(servers, node).await?;
    let mut quiet = 0;
    while quiet < 2 {
        let row = client.query_one(OPEN_SQL, &[]).await.map_err(sentence)?;
        quiet = if row.get::<_, i64>(0) == 0 { quiet + 1 } else { 0 };
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Waits until the target has applied all that the primary has written by now; the position.
pub(super) async fn catch_up(
    servers: &Servers,
    from: &NodeConfig,
    target: &NodeConfig,
) -> Result<Position, String> {
    let (primary, replica) = (connect(servers, from).await?, connect(servers, target).await?);
    // What is not flushed yet (synchronous_commit off) is flushed and sent soon.
    let Place { timeline, reach: wanted, .. } = place(&primary).await?;
    let timeline = timeline.ok_or_else(|| format!("{} does not tell its timeline", from.name))?;
    loop {
        let (written, applied) = (place(&primary).await?, place(&replica).await?);
        if written.position >= wanted && applied.reach >= wanted {
            return Ok(Position::Log { timeline, offset: wanted });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Promotes, and waits until the server is no standby any more.
pub(super) async fn promote(servers: &Servers, node: &NodeConfig) -> Result<String, String> {
    let client = connect(servers, node).await?;
    client.execute("SELECT pg_promote(false)", &[]).await.map_err(sentence)?;
    loop {
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
        if !row.map_err(sentence)?.get::<_, bool>(0) {
            return Ok("it is no standby any more".to_owned());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Whether a new primary takes writes: it gives a transaction id, which a standby and a
/// read-only server refuse. Nothing is committed, so no synchronous replica is waited for.
pub(super) async fn verify(
    servers: &Servers,
    node: &NodeConfig,
    before: Option<Timeline>,
) -> Result<String, String> {
    let client = connect(servers, node).await?;
    // It may have been isolated itself when it was a primary.
    let reset = "ALTER SYSTEM RESET default_transaction_read_only";
    client.batch_execute(reset).await.map_err(sentence)?;
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)?;
    let write = "BEGIN READ WRITE; SELECT txid_current(); ROLLBACK";
    client.batch_execute(write).await.map_err(sentence)?;
    match place(&client).await?.timeline {
        Some(timeline) if Some(timeline) > before => {
            Ok(format!("it does, on timeline {}", timeline.0))
        }
        timeline => Err(format!("it is on timeline {timeline:?}, not on one after {before:?}")),
    }
}

/// Makes a replica receive from another server, by a slot of the same name as before, which is
/// made there; waits until it does not receive from the one before any more.
pub(super) async fn repoint(
    servers: &Servers,
    replica: &NodeConfig,
    upstream: &NodeConfig,
) -> Result<String, String> {
    let connected = tokio::try_join!(connect(servers, replica), connect(servers, upstream));
    let (client, there) = connected?;
    let sql = "SELECT current_setting('primary_conninfo'), current_setting('primary_slot_name')";
    let row = client.query_one(sql, &[]).await.map_err(sentence)?;
    let (before, slot): (String, String) = (row.get(0), row.get(1));
    let after = conninfo::with_server(&before, &upstream.address)?;
    if !slot.is_empty() {
        let make = "SELECT pg_create_physical_replication_slot($1::text::name, true) \
            WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text::name)";
        there.execute(make, &[&slot]).await.map_err(sentence)?;
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

/// The chosen one alone goes on receiving: as a replica of it another one gets no more than it has.
pub(super) async fn detach(
    servers: &Servers,
    replica: &NodeConfig,
    chosen: &NodeConfig,
) -> Result<(), String> {
    if replica.name == chosen.name {
        return Ok(());
    }
    repoint(servers, replica, chosen).await.map(drop)
}

/// Its slot is still there.
pub(super) async fn reattach(
    servers: &Servers,
    replica: &NodeConfig,
    primary: &NodeConfig,
) -> Result<(), String> {
    let client = connect(servers, replica).await?;
    let row = client.query_one("SELECT current_setting('primary_conninfo')", &[]).await;
    let before: String = row.map_err(sentence)?.get(0);
    let after = conninfo::with_server(&before, &primary.address)?;
    if after == before { Ok(()) } else { set_conninfo(&client, &after).await }
}

/// As [`Servers::repoint`], and waits until the replica receives, on the upstream's timeline: one
/// that has gone beyond the place where that begins waits for ever on the one before.
pub(super) async fn follow(
    servers: &Servers,
    replica: &NodeConfig,
    upstream: &NodeConfig,
) -> Result<String, String> {
    let told = repoint(servers, replica, upstream).await?;
    let timeline = place(&connect(servers, upstream).await?).await?.timeline;
    let timeline = timeline.map_or(0, |timeline| i64::from(timeline.0));
    let client = connect(servers, replica).await?;
    let streams = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver \
        WHERE status = 'streaming' AND sender_host = $1 AND sender_port = $2 \
        AND received_tli >= $3::int8)";
    let (host, port) = conninfo::host_and_port(&upstream.address);
    loop {
        let row = client.query_one(streams, &[&host, &i32::from(port), &timeline]).await;
        if row.map_err(sentence)?.get(0) {
            return Ok(told);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Until then `pg_rewind` takes a new primary for one of the old timeline.
pub(super) async fn checkpoint(servers: &Servers, node: &NodeConfig) -> Result<(), String> {
    let client = connect(servers, node).await?;
    client.batch_execute("CHECKPOINT").await.map_err(sentence)
}

/// Makes a replica end its connection to the primary and open it again: a receiver cannot be
/// terminated by SQL, but it follows each change of `primary_conninfo`.
pub(super) async fn reconnect(
    servers: &Servers,
    replica: &NodeConfig,
    _: impl Fn(),
) -> Result<(), String> {
    let client = connect(servers, replica).await?;
    let row = client.query_one("SELECT current_setting('primary_conninfo')", &[]).await;
    let changed = conninfo::changed(row.map_err(sentence)?.get(0))?;
    set_conninfo(&client, &changed).await
}

/// A former primary has what nobody else has: it is rewound or built anew where it runs.
pub(super) async fn rejoin(
    _: &Servers,
    old: &NodeConfig,
    _: &NodeConfig,
) -> Result<String, LeftOut> {
    Err(LeftOut::ForGood(format!("{} cannot be rewound by SQL", old.name)))
}

async fn connect(servers: &Servers, node: &NodeConfig) -> Result<Client, String> {
    let failover = &servers.cluster.failover;
    let bound = servers.patience();
    let (login, tls) = (&failover.login, &servers.tls);
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

/// ALTER SYSTEM takes no parameters: the value is quoted as a literal.
async fn set_conninfo(client: &Client, conninfo: &str) -> Result<(), String> {
    let value = conninfo.replace('\\', "\\\\").replace('\'', "''");
    let set = format!("ALTER SYSTEM SET primary_conninfo = E'{value}'");
    client.batch_execute(&set).await.map_err(sentence)?;
    client.batch_execute("SELECT pg_reload_conf()").await.map_err(sentence)
}

async fn place(client: &Client) -> Result<Place, String> {
    let row = client.query_one(STANDING_SQL, &[]).await.map_err(sentence)?;
    let size = |name: &str| u64::try_from(row.get::<_, i32>(name)).unwrap_or(0);
    let geometry = LogGeometry { block_bytes: size("block"), segment_bytes: size("segment") };
    let offset = |name: &str| {
        let lsn = row.get::<_, Option<PgLsn>>(name);
        lsn.map_or(0, |lsn| geometry.record_end(lsn.into()))
    };
    let timeline = row.get::<_, Option<i32>>("timeline").and_then(|t| u32::try_from(t).ok());
    Ok(Place {
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
