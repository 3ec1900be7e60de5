//! The rows of a MySQL or MariaDB server's catalog, and the [`Catalog`] that is made of them.
//!
//! One catalog is of a whole server. Names are compared in lower case and without regard to the
//! default schema: an unqualified name is safe only if every object of that name is.

use super::super::catalog::{
    Catalog, CatalogRows as Rows, FunctionRow, FunctionRules, Persistence, RelationKind,
    RelationRow, RoutineRow as Body, Volatility,
};
use super::super::catalog_build;
use super::{Engine, body};
use std::collections::HashSet;

/// `information_schema.tables.table_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Base,
    View,
    SystemView,
    /// MariaDB's SEQUENCE.
    Sequence,
}

/// A row of `information_schema.tables`.
#[derive(Debug, Clone)]
pub struct TableRow {
    pub schema: String,
    pub name: String,
    pub kind: TableKind,
    /// `information_schema.views.view_definition`; `None` if it may not be seen.
    pub definition: Option<String>,
}

/// `information_schema.routines.sql_data_access`: what the author has declared. No server checks
/// it, so that the body counts as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataAccess {
    NoSql,
    ContainsSql,
    ReadsSql,
    ModifiesSql,
}

/// A row of `information_schema.routines`.
#[derive(Debug, Clone)]
pub struct RoutineRow {
    pub schema: String,
    pub name: String,
    pub is_function: bool,
    pub data_access: DataAccess,
    /// `routine_definition`; `None` if it may not be seen.
    pub body: Option<String>,
    pub sql_mode: String,
}

/// A row of `information_schema.triggers`.
#[derive(Debug, Clone)]
pub struct TriggerRow {
    /// Of the table.
    pub schema: String,
    pub table: String,
    /// `action_statement`.
    pub body: String,
    pub sql_mode: String,
}

/// All that the loader reads: every schema but the server's own.
#[derive(Debug, Clone, Default)]
pub struct CatalogRows {
    pub tables: Vec<TableRow>,
    pub routines: Vec<RoutineRow>,
    pub triggers: Vec<TriggerRow>,
}

/// Stands for a body that cannot be read: it may leave anything (see `effects_of_body`).
const UNREADABLE: &str = "\\";

/// Functions call functions this deep before they are taken for writes.
const ROUNDS_MAX: usize = 16;

/// Judges every function and view once. Takes some ten microseconds for each: not for a thread
/// that serves clients.
pub fn build(engine: Engine, rows: CatalogRows, rules: FunctionRules) -> Catalog {
    let safe = safe_functions(&rows, &Catalog::empty_of(engine, rules.clone()));
    let mut neutral = Rows::default();
    for (index, row) in rows.routines.into_iter().enumerate() {
        let name = row.name.to_lowercase();
        if row.is_function {
            neutral.functions.push(FunctionRow {
                schema: row.schema.to_lowercase(),
                name: name.clone(),
                arguments_min: 0,
                arguments_max: None,
                volatility: match safe.contains(&index) {
                    true => Volatility::Stable,
                    false => Volatility::Volatile,
                },
                takes_row: false,
            });
        } else {
            neutral.procedures.push(name.clone());
        }
        let body = readable(row.body, &row.sql_mode);
        neutral.routines.push(Body { name, volatile: true, body });
    }
    for (index, row) in rows.triggers.into_iter().enumerate() {
        // No routine can be called by this name.
        let name = format!("trigger {index}");
        let body = readable(Some(row.body), &row.sql_mode);
        neutral.routines.push(Body { name: name.clone(), volatile: true, body });
        neutral.triggers.push((row.table.to_lowercase(), name));
    }
    neutral.relations =
        rows.tables.into_iter().enumerate().map(|(index, row)| relation(index, row)).collect();
    catalog_build::build(Catalog::empty_of(engine, rules), neutral)
}

/// Which of the routines are functions that only read, by their declaration and by their body.
fn safe_functions(rows: &CatalogRows, catalog: &Catalog) -> HashSet<usize> {
    let declared = |(index, row): (usize, &RoutineRow)| {
        let readable = row.body.is_some() && is_plain(&row.sql_mode);
        let claimed = row.is_function && row.data_access != DataAccess::ModifiesSql;
        (readable && claimed).then_some(index)
    };
    // As long as views can write, a function that reads one is not looked through.
    let views: HashSet<String> = rows
        .tables
        .iter()
        .filter(|row| row.kind != TableKind::Base)
        .map(|row| row.name.to_lowercase())
        .collect();
    let reads_view =
        |body: &str| body::words_of_body(body.as_bytes()).iter().any(|word| views.contains(word));
    let mut safe: HashSet<usize> = rows.routines.iter().enumerate().filter_map(declared).collect();
    safe.retain(|index| {
        rows.routines[*index].body.as_deref().is_some_and(|body| !reads_view(body))
    });
    // From the greatest set down: what calls something that fell out falls out as well.
    for _ in 0..ROUNDS_MAX {
        let names = |safe: &HashSet<usize>, wanted: bool| -> HashSet<String> {
            let functions = rows.routines.iter().enumerate().filter(|(_, row)| row.is_function);
            let chosen = functions.filter(|(index, _)| safe.contains(index) == wanted);
            chosen.map(|(_, row)| row.name.to_lowercase()).collect()
        };
        let (good, bad) = (names(&safe, true), names(&safe, false));
        let callable = |name: &str| good.contains(name) && !bad.contains(name);
        let before = safe.len();
        safe.retain(|index| {
            let body = rows.routines[*index].body.as_deref().unwrap_or_default();
            body::only_reads(body.as_bytes(), catalog, callable)
        });
        if safe.len() == before {
            return safe;
        }
    }
    HashSet::new()
}

/// Whether texts under this `sql_mode` are read by the default rules.
fn is_plain(sql_mode: &str) -> bool {
    use super::Reading;
    let reading = Reading::new(Engine::MariaDb);
    reading.with_sql_mode(sql_mode) == reading
}

fn readable(body: Option<String>, sql_mode: &str) -> String {
    body.filter(|_| is_plain(sql_mode)).unwrap_or_else(|| UNREADABLE.to_owned())
}

fn relation(index: usize, row: TableRow) -> RelationRow {
    let kind = match row.kind {
        TableKind::Base => RelationKind::Table,
        TableKind::View | TableKind::SystemView => RelationKind::View,
        TableKind::Sequence => RelationKind::Sequence,
    };
    // One that cannot be seen is no read.
    let hidden = (kind == RelationKind::View).then(|| "(".to_owned());
    RelationRow {
        oid: u32::try_from(index).unwrap_or(u32::MAX),
        schema: row.schema.to_lowercase(),
        name: row.name.to_lowercase(),
        kind,
        persistence: Persistence::Permanent,
        definition: row.definition.or(hidden),
        policies: Vec::new(),
        parents: Vec::new(),
    }
}
