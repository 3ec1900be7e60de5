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
use crate::sql::{CALLS_DEEP_MAX, effects_of_body};
use crate::sql::{
    CastRow, Catalog, CatalogRows, Defaults, FunctionRow, FunctionRules, OperatorRow, Persistence,
    RelationKind, RelationRow, RoutineRow, TypeRow, Volatility,
};
use crate::topology::{NodeId, Topology};
use deadpool_postgres::{Object, Pool};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Error, Row, Statement};

/// A load that takes longer has failed. A hundred thousand relations take about ten seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// One state of the catalog for all queries. The server ends a query that nobody waits for. A
/// lock is not waited for: the wait would make a deadlock of what its owner locks next, and the
/// server would end the owner after its `deadlock_timeout` (1 s).
const BEGIN: &str = "SET statement_timeout = '60s'; SET lock_timeout = '100ms'; \
                     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Definitions that are asked for at once, without waiting for each answer.
const DEFINITIONS_AT_ONCE: usize = 32;
/// Callers of more routines than this are not looked for.
const CALLEES_MAX: usize = 500;

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
                'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_db_role_setting'::regclass,
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
    /// By database; as many as there are catalogs.
    first_defaults: Mutex<HashMap<Arc<str>, u64>>,
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
        PostgresLoader { cluster, topology, tls, rules, first_defaults: Mutex::default() }
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
        read(&client).await.map_err(|error| sentence(&error).to_string())
    }

    /// The first number of the database's defaults that was read.
    fn first_defaults(&self, database: &Arc<str>, now: u64) -> u64 {
        let mut first = self.first_defaults.lock().unwrap_or_else(PoisonError::into_inner);
        *first.entry(database.clone()).or_insert(now)
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

    fn in_doubt(&self, before: &Catalog) -> Catalog {
        before.in_doubt()
    }

    async fn load(&self, database: Arc<str>, link: &mut Link) -> Result<Catalog, String> {
        let rows = bounded(LOAD_TIMEOUT, self.rows(&database, link)).await;
        if rows.is_err() {
            *link = None;
        }
        let (mut rows, rules) = (rows?, self.rules.clone());
        if let Some(defaults) = &mut rows.defaults {
            defaults.first = self.first_defaults(&database, defaults.number);
        }
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

async fn read(client: &Client) -> Result<CatalogRows, Error> {
    let began = Instant::now();
    client.batch_execute(BEGIN).await?;
    let (mut routines, procedures) = routines(client).await?;
    let mut triggers = all(client, queries::TRIGGERS, trigger).await?;
    for row in client.query(queries::RULES, &[]).await? {
        let name: String = row.try_get("rule")?;
        triggers.push((row.try_get("relation")?, name.clone()));
        routines.push(RoutineRow { name, volatile: true, body: readable(row.try_get("body")?) });
    }
    let defaults: i64 = client.query_one(queries::DEFAULTS, &[]).await?.try_get(0)?;
    let functions = all(client, queries::FUNCTIONS, function).await?;
    let relations = client.query(queries::RELATIONS, &[]).await?;
    let mut rows = CatalogRows {
        functions,
        relations: relations.iter().map(relation).collect::<Result<_, _>>()?,
        operators: all(client, queries::OPERATORS, operator).await?,
        casts: all(client, queries::CASTS, cast).await?,
        types: all(client, queries::TYPES, type_row).await?,
        triggers,
        routines,
        procedures,
        defaults: Some(Defaults {
            number: defaults.cast_unsigned(),
            first: defaults.cast_unsigned(),
            since: began,
        }),
    };
    client.batch_execute("COMMIT").await?;
    let (view, policies) =
        (client.prepare(queries::VIEW).await?, client.prepare(queries::POLICIES).await?);
    let mut printing = Vec::new();
    for (number, row) in relations.iter().enumerate() {
        let oid = rows.relations[number].oid;
        if rows.relations[number].kind == RelationKind::View {
            printing.push((number, oid, &view));
        } else if row.try_get("has_policies")? {
            printing.push((number, oid, &policies));
        }
    }
    for some in printing.chunks(DEFINITIONS_AT_ONCE) {
        let texts = some.iter().map(|(_, oid, what)| printed(client, what, *oid)).collect();
        for ((number, ..), texts) in some.iter().zip(join_all(texts).await) {
            let row = &mut rows.relations[*number];
            match row.kind {
                RelationKind::View => row.definition = texts?.pop(),
                _ => row.policies = texts?,
            }
        }
    }
    Ok(rows)
}

/// The texts of an object. It may have been dropped since, or be locked by who changes it: then
/// the text is one that cannot be parsed, so that the object is read on the primary. When the
/// change is committed, the catalog is loaded again.
async fn printed(client: &Client, what: &Statement, oid: u32) -> Result<Vec<String>, Error> {
    match client.query(what, &[&oid]).await {
        Ok(rows) => rows.iter().map(|row| Ok(readable(row.try_get("text")?))).collect(),
        Err(error) if error.code().is_some() => Ok(vec![readable(None)]),
        Err(error) => Err(error),
    }
}

/// Waits for all of them at once.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in waiting.iter_mut().filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(cx) {
                Poll::Ready(value) => *done = Some(value),
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

/// The routines that may leave something in a session, those that call them, and the names of all
/// procedures.
async fn routines(client: &Client) -> Result<(Vec<RoutineRow>, Vec<String>), Error> {
    let mut routines: Vec<RoutineRow> = Vec::new();
    let mut procedures = Vec::new();
    let mut callees: Option<String> = None;
    for round in 0..=CALLS_DEEP_MAX {
        let mut found = Vec::new();
        for row in client.query(queries::ROUTINES, &[&callees]).await? {
            let name: String = row.try_get("name")?;
            if round == 0 && row.try_get("procedure")? {
                procedures.push(name.clone());
            }
            let Some(body) = row.try_get::<_, Option<String>>("body")? else { continue };
            let volatile = row.try_get("volatile")?;
            found.push(RoutineRow { name, volatile, body });
        }
        found.retain(|new| {
            let known = routines.iter().any(|old| old.name == new.name && old.body == new.body);
            !known && (round > 0 || !effects_of_body(new.body.as_bytes()).is_empty())
        });
        callees = names_as_pattern(&found);
        routines.append(&mut found);
        if callees.is_none() {
            break;
        }
    }
    Ok((routines, procedures))
}

/// A regular expression for calls of these; `None` if there are none, or too many for one.
fn names_as_pattern(routines: &[RoutineRow]) -> Option<String> {
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let names: Vec<&str> = routines.iter().map(|row| row.name.as_str()).filter(plain).collect();
    (!names.is_empty() && names.len() <= CALLEES_MAX)
        .then(|| format!("\\m({})\\M", names.join("|")))
}

fn trigger(row: &Row) -> Result<(String, String), Error> {
    Ok((row.try_get("relation")?, row.try_get("routine")?))
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
        definition: None,
        policies: Vec::new(),
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

fn texts(row: &Row, column: &str) -> Result<Vec<String>, Error> {
    let values = row.try_get::<_, Vec<Option<String>>>(column)?;
    Ok(values.into_iter().map(readable).collect())
}

/// An expression that the server cannot print stands for one that cannot be parsed.
fn readable(text: Option<String>) -> String {
    text.unwrap_or_else(|| "(".to_owned())
}
