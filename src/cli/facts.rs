//! What a node says of its settings and of the service user's privileges.
//!
//! One query per node, the same on a primary and on a standby. What follows from the answers is
//! in `findings.rs`.

use crate::config::tls::ServerTlsConnector;
use crate::config::{Cluster, NodeConfig, Service};
use crate::monitor::connection::service_pool;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Row;

/// Called by probes and by the loading of the catalog. `to_regprocedure` leaves out what a
/// version does not have.
const FUNCTIONS: &[&str] = &[
    "pg_catalog.pg_control_system()",
    "pg_catalog.pg_control_init()",
    "pg_catalog.pg_control_checkpoint()",
    "pg_catalog.pg_control_recovery()",
    "pg_catalog.pg_postmaster_start_time()",
    "pg_catalog.pg_is_in_recovery()",
    "pg_catalog.pg_current_wal_lsn()",
    "pg_catalog.pg_current_wal_insert_lsn()",
    "pg_catalog.pg_current_wal_flush_lsn()",
    "pg_catalog.pg_walfile_name(pg_lsn)",
    "pg_catalog.pg_last_wal_receive_lsn()",
    "pg_catalog.pg_last_wal_replay_lsn()",
    "pg_catalog.pg_is_wal_replay_paused()",
];

/// Read by probes and by the loading of the catalog.
const TABLES: &[&str] = &[
    "pg_catalog.pg_settings",
    "pg_catalog.pg_stat_activity",
    "pg_catalog.pg_stat_wal_receiver",
    "pg_catalog.pg_proc",
    "pg_catalog.pg_class",
    "pg_catalog.pg_namespace",
    "pg_catalog.pg_type",
    "pg_catalog.pg_operator",
    "pg_catalog.pg_cast",
    "pg_catalog.pg_attribute",
    "pg_catalog.pg_depend",
    "pg_catalog.pg_rewrite",
    "pg_catalog.pg_policy",
];

const SQL: &str = "\
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS version_number,
       pg_is_in_recovery() AS recovering,
       current_setting('wal_level') AS wal_level,
       current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int AS connections,
       current_setting('hot_standby_feedback') = 'on' AS feedback,
       current_setting('password_encryption') AS password_encryption,
       pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitors,
       ARRAY(SELECT f FROM unnest($1::text[]) f
             WHERE to_regprocedure(f) IS NOT NULL
               AND NOT has_function_privilege(to_regprocedure(f), 'EXECUTE')) AS functions,
       ARRAY(SELECT t FROM unnest($2::text[]) t
             WHERE to_regclass(t) IS NOT NULL
               AND NOT has_table_privilege(to_regclass(t), 'SELECT')) AS tables,
       ARRAY(SELECT d FROM unnest($3::text[]) d
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = d)) AS databases_missing,
       ARRAY(SELECT datname::text FROM pg_database
             WHERE datname = ANY($3::text[])
               AND NOT has_database_privilege(oid, 'CONNECT')) AS databases_closed";

/// The answer of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) version_number: i32,
    pub(super) recovering: bool,
    pub(super) wal_level: String,
    /// `max_connections` less what is reserved.
    pub(super) connections: i32,
    pub(super) feedback: bool,
    pub(super) password_encryption: String,
    pub(super) monitors: bool,
    /// Functions that the service user may not execute.
    pub(super) functions: Vec<String>,
    /// Tables and views that the service user may not read.
    pub(super) tables: Vec<String>,
    /// Databases of the configuration that the server does not have.
    pub(super) databases_missing: Vec<String>,
    /// Databases of the configuration that the service user may not connect to.
    pub(super) databases_closed: Vec<String>,
}

/// What came of logging in as a user of the file, or of asking `auth.query` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
}

/// Asks one node. The error is a sentence.
pub(super) async fn facts(
    cluster: &Cluster,
    node: &NodeConfig,
    tls: &Arc<ServerTlsConnector>,
) -> Result<Facts, String> {
    let pool = service_pool(cluster, node, &cluster.service.database, tls, None);
    let databases: Vec<&str> = cluster.databases.values().map(String::as_str).collect();
    let errand = async {
        let client = pool.get().await.map_err(|error| sentence_of_pool(&error).message)?;
        client
            .query_one(SQL, &[&FUNCTIONS, &TABLES, &databases])
            .await
            .and_then(|row| read(&row))
            .map_err(|error| refusal(&error).message)
    };
    bounded(cluster, errand).await.unwrap_or_else(|| Err("it does not answer".to_owned()))
}

fn read(row: &Row) -> Result<Facts, tokio_postgres::Error> {
    Ok(Facts {
        version: row.try_get("version")?,
        version_number: row.try_get("version_number")?,
        recovering: row.try_get("recovering")?,
        wal_level: row.try_get("wal_level")?,
        connections: row.try_get("connections")?,
        feedback: row.try_get("feedback")?,
        password_encryption: row.try_get("password_encryption")?,
        monitors: row.try_get("monitors")?,
        functions: row.try_get("functions")?,
        tables: row.try_get("tables")?,
        databases_missing: row.try_get("databases_missing")?,
        databases_closed: row.try_get("databases_closed")?,
    })
}

/// Logs in as a user of the file, who takes the place of the service user. `None`: it works, or there was no answer to judge by.
pub(super) async fn login(
    cluster: &Cluster,
    node: &NodeConfig,
    tls: &Arc<ServerTlsConnector>,
    service: Service,
) -> Option<Refusal> {
    let mut as_user = cluster.clone();
    as_user.service = service;
    let pool = service_pool(&as_user, node, &as_user.service.database, tls, None);
    let errand = async { pool.get().await.err().map(|error| sentence_of_pool(&error)) };
    bounded(cluster, errand).await.flatten()
}

/// Runs `auth.query` for the service user itself: whoever may ask for one may ask for all.
pub(super) async fn auth_query(
    cluster: &Cluster,
    node: &NodeConfig,
    tls: &Arc<ServerTlsConnector>,
    query: &str,
) -> Option<Refusal> {
    let wrong = |message: String| Some(Refusal { code: String::new(), message });
    let pool = service_pool(cluster, node, &cluster.service.database, tls, None);
    let errand = async {
        let client = match pool.get().await {
            Ok(client) => client,
            Err(error) => return Some(sentence_of_pool(&error)),
        };
        match client.query(query, &[&cluster.service.user]).await {
            Err(error) => Some(refusal(&error)),
            Ok(rows) if rows.len() > 1 => {
                wrong(format!("it gives {} rows for one user; must give one", rows.len()))
            }
            Ok(rows) if rows.iter().any(|row| row.columns().len() < 2) => {
                wrong("it gives one column; must give two, the user's name and the secret".into())
            }
            Ok(_) => None,
        }
    };
    bounded(cluster, errand).await.flatten()
}

/// `None` after the cluster's `connect_timeout` and one probe's time.
async fn bounded<T>(cluster: &Cluster, errand: impl Future<Output = T>) -> Option<T> {
    let limit: Duration = cluster.pool.connect_timeout + cluster.monitor.timeout;
    tokio::time::timeout(limit, errand).await.ok()
}

fn sentence_of_pool(error: &deadpool_postgres::PoolError) -> Refusal {
    match error {
        deadpool_postgres::PoolError::Backend(error) => refusal(error),
        other => Refusal { code: String::new(), message: other.to_string() },
    }
}

fn refusal(error: &tokio_postgres::Error) -> Refusal {
    match error.as_db_error() {
        Some(db) => Refusal { code: db.code().code().to_owned(), message: db.message().to_owned() },
        None => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Refusal { code: String::new(), message: format!("{error}{cause}") }
        }
    }
}
