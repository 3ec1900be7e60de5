//! Reads a PostgreSQL database's catalog from the primary, as the service user.
//!
//! The queries and what follows from the rows are `sql/`'s; here they are run, and rows are
//! turned into values. When and how often is `catalogs.rs`.

use super::catalogs::{Cache, Loader, Slot};
use super::connection::service_pool;
use super::postgres::{pool_error, sentence};
use crate::config::Cluster;
use crate::config::tls::ServerTlsConnector;
use crate::sql::catalog_queries as queries;
use crate::sql::{
    CastRow, Catalog, CatalogRows, FunctionRow, FunctionRules, OperatorRow, Persistence,
    RelationKind, RelationRow, TypeRow, Volatility,
};
use crate::topology::{NodeId, Topology};
use deadpool_postgres::{Object, Pool};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

/// A load that takes longer has failed. A hundred thousand relations take about ten seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Reads until one is not overtaken by DDL; each takes a fraction of a second.
const READS_MAX: u32 = 5;
/// One state of the catalog for all queries. The server ends a query that nobody waits for.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                     SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '60s'";

/// Rows written to the catalog since the server's statistics began, as they are known a second
/// after the commit. ANALYZE and VACUUM change rows in place and are not counted.
const CHANGES: &str = "\
SELECT coalesce(sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid)
                    + pg_catalog.pg_stat_get_tuples_updated(c.oid)
                    + pg_catalog.pg_stat_get_tuples_deleted(c.oid)), 0)::bigint
FROM pg_catalog.pg_class c
WHERE c.oid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass,
                'pg_catalog.pg_type'::regclass, 'pg_catalog.pg_rewrite'::regclass,
                'pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_cast'::regclass,
                'pg_catalog.pg_operator'::regclass, 'pg_catalog.pg_namespace'::regclass,
                'pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_inherits'::regclass)";
const CHANGES_TIMEOUT: Duration = Duration::from_secs(5);

/// The catalogs of one cluster, by the server's name of each database.
pub type PostgresCatalogs = Cache<PostgresLoader>;
/// One database's catalog: `load()` it for each statement.
pub type CatalogSlot = Slot<Catalog>;

/// Loads catalogs from whichever node is the primary.
pub struct PostgresLoader {
    cluster: Arc<Cluster>,
    topology: Arc<Topology>,
    tls: Arc<ServerTlsConnector>,
    rules: FunctionRules,
}

impl PostgresLoader {
    pub fn new(
        cluster: Arc<Cluster>,
        topology: Arc<Topology>,
        tls: Arc<ServerTlsConnector>,
    ) -> PostgresLoader {
        let rules = FunctionRules {
            read: cluster.routing.read_functions.iter().cloned().collect(),
            write: cluster.routing.write_functions.iter().cloned().collect(),
        };
        PostgresLoader { cluster, topology, tls, rules }
    }

    /// A connection to the database on the primary.
    async fn client(&self, database: &str, link: &mut Link) -> Result<Object, String> {
        let primary = self.topology.load().primary.ok_or("there is no primary")?;
        if link.as_ref().is_none_or(|(node, _)| *node != primary) {
            let node = self.cluster.nodes.get(usize::from(primary.0));
            let node = node.ok_or("the primary is not configured any more")?;
            let pool = service_pool(&self.cluster, node, database, &self.tls, None);
            *link = Some((primary, pool));
        }
        let (_, pool) = link.as_ref().ok_or("there is no primary")?;
        pool.get().await.map_err(|error| pool_error(error).to_string())
    }

    async fn rows(&self, database: &str, link: &mut Link) -> Result<CatalogRows, String> {
        let client = self.client(database, link).await?;
        let mut attempt = 1;
        loop {
            match read(&client).await {
                Err(error) if attempt < READS_MAX && is_overtaken(&error) => {
                    attempt += 1;
                    let rolled_back = client.batch_execute("ROLLBACK").await;
                    rolled_back.map_err(|error| sentence(&error).to_string())?;
                }
                outcome => return outcome.map_err(|error| sentence(&error).to_string()),
            }
        }
    }

    async fn changes(&self, database: &str, link: &mut Link) -> Result<i64, String> {
        let client = self.client(database, link).await?;
        let row = client.query_one(CHANGES, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| sentence(&error).to_string())
    }
}

/// The primary's pool for the database. Its connection stays open between two looks; after a
/// failure it is dropped, for nobody knows in which transaction it is.
type Link = Option<(NodeId, Pool)>;

impl Loader for PostgresLoader {
    type Catalog = Catalog;
    type Link = Link;

    fn unknown(&self) -> Catalog {
        Catalog::empty_with(self.rules.clone())
    }

    async fn load(&self, database: Arc<str>, link: &mut Link) -> Result<Catalog, String> {
        let rows = bounded(LOAD_TIMEOUT, self.rows(&database, link)).await;
        if rows.is_err() {
            *link = None;
        }
        let (rows, rules) = (rows?, self.rules.clone());
        // Every view is classified: not on the thread that probes.
        let built = tokio::task::spawn_blocking(move || Catalog::build(rows, rules)).await;
        built.map_err(|error| format!("what the catalog says cannot be used: {error}"))
    }

    async fn fingerprint(&self, database: Arc<str>, link: &mut Link) -> Result<i64, String> {
        let changes = bounded(CHANGES_TIMEOUT, self.changes(&database, link)).await;
        if changes.is_err() {
            *link = None;
        }
        changes
    }
}

async fn bounded<T>(
    limit: Duration,
    errand: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let answer = tokio::time::timeout(limit, errand).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// A view is printed by the catalog of now, whatever the snapshot says: if its tables were dropped
/// since, the server gives up with an internal error.
fn is_overtaken(error: &Error) -> bool {
    error.code() == Some(&SqlState::INTERNAL_ERROR)
}

async fn read(client: &Client) -> Result<CatalogRows, Error> {
    client.batch_execute(BEGIN).await?;
    let rows = CatalogRows {
        functions: all(client, queries::FUNCTIONS, function).await?,
        relations: all(client, queries::RELATIONS, relation).await?,
        operators: all(client, queries::OPERATORS, operator).await?,
        casts: all(client, queries::CASTS, cast).await?,
        types: all(client, queries::TYPES, type_row).await?,
    };
    client.batch_execute("COMMIT").await?;
    Ok(rows)
}

async fn all<T>(
    client: &Client,
    query: &str,
    one: fn(&Row) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    client.query(query, &[]).await?.iter().map(one).collect()
}

fn function(row: &Row) -> Result<FunctionRow, Error> {
    let count = |value: i32| usize::try_from(value).unwrap_or(0);
    Ok(FunctionRow {
        schema: row.try_get("schema")?,
        name: row.try_get("name")?,
        arguments_min: count(row.try_get("arguments_min")?),
        arguments_max: row.try_get::<_, Option<i32>>("arguments_max")?.map(count),
        volatility: match row.try_get::<_, Option<&str>>("volatility")? {
            Some("i") => Volatility::Immutable,
            Some("s") => Volatility::Stable,
            // A letter of a later version is the strictest until it is known.
            _ => Volatility::Volatile,
        },
        takes_row: row.try_get::<_, Option<bool>>("takes_row")?.unwrap_or(true),
    })
}

fn relation(row: &Row) -> Result<RelationRow, Error> {
    Ok(RelationRow {
        oid: row.try_get("oid")?,
        schema: row.try_get("schema")?,
        name: row.try_get("name")?,
        kind: match row.try_get("kind")? {
            "r" => RelationKind::Table,
            "p" => RelationKind::PartitionedTable,
            "v" => RelationKind::View,
            "m" => RelationKind::MaterializedView,
            "S" => RelationKind::Sequence,
            // Foreign, or of a kind of a later version: read on the primary.
            _ => RelationKind::ForeignTable,
        },
        persistence: match row.try_get("persistence")? {
            "p" => Persistence::Permanent,
            "t" => Persistence::Temporary,
            _ => Persistence::Unlogged,
        },
        definition: row.try_get("definition")?,
        policies: texts(row, "policies")?,
        parents: row.try_get("parents")?,
    })
}

fn operator(row: &Row) -> Result<OperatorRow, Error> {
    Ok(OperatorRow { name: row.try_get("name")?, volatile: row.try_get("volatile")? })
}

fn cast(row: &Row) -> Result<CastRow, Error> {
    Ok(CastRow { target: row.try_get("target")?, implicit: row.try_get("implicit")? })
}

fn type_row(row: &Row) -> Result<TypeRow, Error> {
    Ok(TypeRow {
        name: row.try_get("name")?,
        volatile: row.try_get("volatile")?,
        checks: texts(row, "checks")?,
    })
}

/// An expression that the server cannot print stands for one that cannot be parsed.
fn texts(row: &Row, column: &str) -> Result<Vec<String>, Error> {
    let values = row.try_get::<_, Vec<Option<String>>>(column)?;
    Ok(values.into_iter().map(|value| value.unwrap_or_else(|| "(".to_owned())).collect())
}
