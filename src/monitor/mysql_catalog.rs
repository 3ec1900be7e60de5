//! Reads the catalog of a MySQL or MariaDB cluster from the primary, as the service user.
//!
//! What follows from the rows is `sql/`'s. When and how often is `catalogs.rs`. A cluster has one
//! catalog, of all its schemas.

use super::catalogs::{Cache, Loader, Slot};
use super::mysql_connection::{ServiceOpts, connect};
use crate::config::Cluster;
use crate::sql::mysql::{
    CatalogRows, DataAccess, Engine, RoutineRow, TableKind, TableRow, TriggerRow, build,
};
use crate::sql::{Catalog, FunctionRules};
use crate::topology::{NodeId, Topology};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, from_row_opt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A load that takes longer has failed.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
const CHANGES_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "\
SELECT t.table_schema, t.table_name, t.table_type, v.view_definition
FROM information_schema.tables t
LEFT JOIN information_schema.views v
  ON v.table_schema = t.table_schema AND v.table_name = t.table_name
WHERE t.table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')";
const ROUTINES: &str = "\
SELECT routine_schema, routine_name, routine_type, sql_data_access, routine_definition, sql_mode
FROM information_schema.routines
WHERE routine_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')";
const TRIGGERS: &str = "\
SELECT event_object_schema, event_object_table, action_statement, sql_mode
FROM information_schema.triggers
WHERE event_object_schema NOT IN ('mysql', 'sys')";

/// How often each kind of DDL has run since the server's start, also in routines.
const CHANGES: &str = "\
SHOW GLOBAL STATUS WHERE variable_name IN (
  'Com_create_table', 'Com_create_view', 'Com_create_function', 'Com_create_procedure',
  'Com_create_trigger', 'Com_create_db', 'Com_create_sequence', 'Com_create_package',
  'Com_create_package_body', 'Com_create_udf', 'Com_alter_table', 'Com_alter_function',
  'Com_alter_procedure', 'Com_alter_sequence', 'Com_drop_table', 'Com_drop_view',
  'Com_drop_function', 'Com_drop_procedure', 'Com_drop_trigger', 'Com_drop_db',
  'Com_drop_sequence', 'Com_drop_package', 'Com_drop_package_body', 'Com_rename_table')";

/// The catalogs of one cluster: one, under the empty name.
pub type MysqlCatalogs = Cache<MysqlLoader>;
/// `load()` it for each statement.
pub type MysqlCatalogSlot = Slot<Catalog>;

/// Loads the catalog from whichever node is the primary.
pub struct MysqlLoader {
    cluster: Arc<Cluster>,
    topology: Arc<Topology>,
    rules: FunctionRules,
    engine: Engine,
}

/// The connection to the node that was primary when it was opened.
pub type Link = Option<(NodeId, Conn)>;

impl MysqlLoader {
    pub fn new(cluster: Arc<Cluster>, topology: Arc<Topology>) -> MysqlLoader {
        let rules = FunctionRules {
            read: cluster.routing.read_functions.iter().cloned().collect(),
            write: cluster.routing.write_functions.iter().cloned().collect(),
        };
        let engine = match cluster.engine {
            crate::config::Engine::Mariadb => Engine::MariaDb,
            _ => Engine::MySql,
        };
        MysqlLoader { cluster, topology, rules, engine }
    }

    /// A connection to the primary; one that fails is opened anew the next time.
    async fn client(&self, link: &mut Link) -> Result<Conn, String> {
        let primary = self.topology.load().primary.ok_or("there is no primary")?;
        match link.take() {
            Some((node, client)) if node == primary => Ok(client),
            _ => {
                let node = self.cluster.nodes.get(usize::from(primary.0));
                let node = node.ok_or("the primary is not configured any more")?;
                let opts = ServiceOpts::new(&self.cluster, node);
                connect(&opts).await.map_err(|error| error.to_string())
            }
        }
    }

    async fn rows(&self, link: &mut Link) -> Result<CatalogRows, String> {
        let primary = self.topology.load().primary;
        let mut client = self.client(link).await?;
        let rows = read(&mut client).await.map_err(|error| error.to_string())?;
        *link = primary.map(|primary| (primary, client));
        Ok(rows)
    }

    async fn changes(&self, link: &mut Link) -> Result<i64, String> {
        let primary = self.topology.load().primary;
        let mut client = self.client(link).await?;
        let counts: Vec<(String, i64)> =
            client.query(CHANGES).await.map_err(|error| error.to_string())?;
        *link = primary.map(|primary| (primary, client));
        Ok(counts.iter().map(|(_, count)| count).sum())
    }
}

impl Loader for MysqlLoader {
    type Catalog = Catalog;
    type Link = Link;

    fn unknown(&self) -> Catalog {
        Catalog::empty_of(self.engine, self.rules.clone())
    }

    fn in_doubt(&self, before: &Catalog) -> Catalog {
        before.in_doubt()
    }

    async fn load(&self, _: Arc<str>, link: &mut Link) -> Result<Catalog, String> {
        let rows = timeout(LOAD_TIMEOUT, self.rows(link)).await;
        let rows = rows.map_err(|_| format!("not loaded within {LOAD_TIMEOUT:?}"))??;
        let (engine, rules) = (self.engine, self.rules.clone());
        let built = tokio::task::spawn_blocking(move || build(engine, rows, rules));
        built.await.map_err(|error| error.to_string())
    }

    async fn fingerprint(&self, _: Arc<str>, link: &mut Link) -> Result<i64, String> {
        let changes = timeout(CHANGES_TIMEOUT, self.changes(link)).await;
        changes.map_err(|_| format!("no answer within {CHANGES_TIMEOUT:?}"))?
    }
}

async fn read(client: &mut Conn) -> Result<CatalogRows, mysql_async::Error> {
    let tables: Vec<Row> = client.query(TABLES).await?;
    let routines: Vec<Row> = client.query(ROUTINES).await?;
    let triggers: Vec<Row> = client.query(TRIGGERS).await?;
    Ok(CatalogRows {
        tables: tables.into_iter().filter_map(table).collect(),
        routines: routines.into_iter().filter_map(routine).collect(),
        triggers: triggers.into_iter().filter_map(trigger).collect(),
    })
}

/// A row of another shape is left out: what is not in the catalog is not known to be safe.
fn table(row: Row) -> Option<TableRow> {
    let (schema, name, kind, definition): (String, String, String, Option<String>) =
        from_row_opt(row).ok()?;
    let kind = match kind.as_str() {
        "VIEW" => TableKind::View,
        "SYSTEM VIEW" => TableKind::SystemView,
        "SEQUENCE" => TableKind::Sequence,
        _ => TableKind::Base,
    };
    Some(TableRow { schema, name, kind, definition: definition.filter(|text| !text.is_empty()) })
}

fn routine(row: Row) -> Option<RoutineRow> {
    let (schema, name, kind, access, body, sql_mode): (
        String,
        String,
        String,
        String,
        Option<String>,
        String,
    ) = from_row_opt(row).ok()?;
    let data_access = match access.as_str() {
        "NO SQL" => DataAccess::NoSql,
        "CONTAINS SQL" => DataAccess::ContainsSql,
        "READS SQL DATA" => DataAccess::ReadsSql,
        _ => DataAccess::ModifiesSql,
    };
    let is_function = kind == "FUNCTION";
    Some(RoutineRow { schema, name, is_function, data_access, body, sql_mode })
}

fn trigger(row: Row) -> Option<TriggerRow> {
    let (schema, table, body, sql_mode): (String, String, String, String) =
        from_row_opt(row).ok()?;
    Some(TriggerRow { schema, table, body, sql_mode })
}
