//! What the database's catalog says about names: which functions are volatile, which relations
//! a standby cannot read, what views and policies call.
//!
//! Pure data: a loader fills [`CatalogRows`] by the queries of `catalog_queries.rs` and
//! [`Catalog::build`] makes a [`Catalog`] of them. Names are resolved without `search_path`: an
//! unqualified name is safe only if every object of that name is, in whatever schema.

use super::catalog_build;
use super::functions::{self, Builtin};
use super::mysql;
use super::statement::{Effect, Pin, SessionEffect};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A function or aggregate that is not PostgreSQL's own.
#[derive(Debug, Clone)]
pub struct FunctionRow {
    pub schema: String,
    pub name: String,
    /// Arguments without a default.
    pub arguments_min: usize,
    /// All input arguments; `None` for a variadic function.
    pub arguments_max: Option<usize>,
    /// Of an aggregate, the strictest of its support functions.
    pub volatility: Volatility,
    /// Whether it takes one composite value: then `SELECT t.f FROM t` calls it.
    pub takes_row: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    PartitionedTable,
    View,
    MaterializedView,
    ForeignTable,
    Sequence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

#[derive(Debug, Clone)]
pub struct RelationRow {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: RelationKind,
    pub persistence: Persistence,
    /// `pg_get_viewdef` of a view.
    pub definition: Option<String>,
    /// `pg_get_expr` of each row security policy's USING clause that applies to reads.
    pub policies: Vec<String>,
    /// Tables that it is a partition or child of: reading them reads it.
    pub parents: Vec<u32>,
}

/// An operator that is not PostgreSQL's own.
#[derive(Debug, Clone)]
pub struct OperatorRow {
    pub name: String,
    /// Whether its function is volatile.
    pub volatile: bool,
}

/// A cast that is not PostgreSQL's own and calls a volatile function.
#[derive(Debug, Clone)]
pub struct CastRow {
    /// Name of the type that it makes.
    pub target: String,
    /// Whether it may be applied without being written.
    pub implicit: bool,
}

/// A type that is not PostgreSQL's own (row types of tables excluded).
#[derive(Debug, Clone)]
pub struct TypeRow {
    pub name: String,
    /// Whether its input or output function is volatile.
    pub volatile: bool,
    /// `pg_get_expr` of each CHECK of a domain.
    pub checks: Vec<String>,
}

/// A function, trigger function, procedure or rule whose body may leave something in the session.
#[derive(Debug, Clone)]
pub struct RoutineRow {
    pub name: String,
    pub volatile: bool,
    /// What stands behind AS; of a rule all of it.
    pub body: String,
}

/// What ALTER ROLE … SET and ALTER DATABASE … SET have set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Another one after each change.
    pub number: u64,
    /// The first that was read since the start.
    pub first: u64,
    /// When it was asked for.
    pub since: Instant,
}

/// All that the loader reads.
#[derive(Debug, Clone, Default)]
pub struct CatalogRows {
    pub functions: Vec<FunctionRow>,
    pub relations: Vec<RelationRow>,
    pub operators: Vec<OperatorRow>,
    pub casts: Vec<CastRow>,
    pub types: Vec<TypeRow>,
    pub routines: Vec<RoutineRow>,
    /// Names of all procedures.
    pub procedures: Vec<String>,
    /// Relation and what runs when it is changed: a trigger function, or a rule.
    pub triggers: Vec<(String, String)>,
    pub defaults: Option<Defaults>,
}

/// The operator's own word on functions: `name` or `schema.name`, as folded by the server.
#[derive(Debug, Clone, Default)]
pub struct FunctionRules {
    /// Safe on a replica whatever the catalog says.
    pub read: HashSet<String>,
    /// To the primary whatever the catalog says.
    pub write: HashSet<String>,
}

/// What is known about a name in a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Safe,
    /// Safe, but to be asked of the primary; the sentence says why.
    ServerLocal(Arc<str>),
    /// Makes the statement a write, or leaves it unknown.
    Refused {
        effect: Effect,
        code: &'static str,
        reason: Arc<str>,
    },
}

impl Verdict {
    fn refused(effect: Effect, code: &'static str, reason: String) -> Verdict {
        Verdict::Refused { effect, code, reason: Arc::from(reason) }
    }

    /// The stricter of two.
    pub(super) fn or(self, other: Verdict) -> Verdict {
        match (&self, &other) {
            (Verdict::Refused { .. }, _) | (_, Verdict::Safe) => self,
            (_, Verdict::Refused { .. }) | (Verdict::Safe, _) => other,
            _ => self,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Function {
    pub schema: Arc<str>,
    pub arguments_min: usize,
    pub arguments_max: Option<usize>,
    pub volatile: bool,
    pub takes_row: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub schema: Arc<str>,
    pub verdict: Verdict,
    /// What reading it leaves behind in the session.
    pub pins: Vec<Pin>,
}

/// Knowledge about the names of one database. Immutable; a newer one replaces it.
#[derive(Debug)]
pub struct Catalog {
    /// Differs between any two catalogs of the process: part of the cache's key.
    pub version: u64,
    /// The server's kind if it is not PostgreSQL.
    pub(super) engine: Option<mysql::Engine>,
    pub(super) loaded: bool,
    pub(super) functions: HashMap<Arc<str>, Vec<Function>>,
    pub(super) relations: HashMap<Arc<str>, Vec<Relation>>,
    /// Whether any operator of that name is volatile.
    pub(super) operators: HashMap<String, bool>,
    pub(super) types: HashMap<Arc<str>, Verdict>,
    /// What calls of routines of this name may leave behind in the session.
    pub(super) traces: Arc<HashMap<Arc<str>, Vec<SessionEffect>>>,
    /// What triggers may leave behind when a relation of this name is changed.
    pub(super) fired: Arc<HashMap<Arc<str>, Vec<SessionEffect>>>,
    pub(super) procedures: HashSet<Arc<str>>,
    pub defaults: Option<Defaults>,
    /// A volatile cast that is applied unseen exists: no read of the database is certain.
    pub(super) implicit_cast: bool,
    pub(super) rules: FunctionRules,
}

/// Versions are handed out here so that no two catalogs can share one: workers cache the classes
/// of several databases under it.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

impl Catalog {
    /// Only what is built in is known: the catalog before the first load.
    pub fn empty() -> Catalog {
        Catalog::empty_with(FunctionRules::default())
    }

    pub fn empty_with(rules: FunctionRules) -> Catalog {
        Catalog {
            version: NEXT_VERSION.fetch_add(1, Ordering::Relaxed),
            engine: None,
            loaded: false,
            functions: HashMap::new(),
            relations: HashMap::new(),
            operators: HashMap::new(),
            types: HashMap::new(),
            traces: Arc::default(),
            fired: Arc::default(),
            procedures: HashSet::new(),
            defaults: None,
            implicit_cast: false,
            rules,
        }
    }

    /// [`Catalog::empty_with`] for MySQL and MariaDB.
    pub fn empty_of(engine: mysql::Engine, rules: FunctionRules) -> Catalog {
        Catalog { engine: Some(engine), ..Catalog::empty_with(rules) }
    }

    /// The catalog between a change and the next load: nothing is known to be safe, but what
    /// routines and triggers leave behind is still likely.
    pub fn in_doubt(&self) -> Catalog {
        Catalog {
            traces: self.traces.clone(),
            fired: self.fired.clone(),
            engine: self.engine,
            ..Catalog::empty_with(self.rules.clone())
        }
    }

    /// Classifies every view, policy and domain check once. Takes some ten microseconds for
    /// each: not for a thread that serves clients.
    pub fn build(rows: CatalogRows, rules: FunctionRules) -> Catalog {
        catalog_build::build(Catalog::empty_with(rules), rows)
    }

    /// Whether it came from a server.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// What a call of the function is. `arguments` is `None` where they could not be counted.
    pub fn function(&self, schema: Option<&str>, name: &str, arguments: Option<usize>) -> Verdict {
        if let Some(verdict) = self.ruled(schema, name) {
            return verdict;
        }
        let builtin = match (self.engine, schema) {
            (Some(engine), None) => mysql::functions::function(engine, name),
            (None, None | Some("pg_catalog" | "information_schema")) => functions::function(name),
            (_, Some(_)) => Builtin::Unknown,
        };
        let mut verdict = None;
        for function in self.functions.get(name).into_iter().flatten() {
            let fits = arguments.is_none_or(|count| {
                count >= function.arguments_min
                    && function.arguments_max.is_none_or(|max| count <= max)
            });
            let named = schema.is_none_or(|schema| *schema == *function.schema);
            if fits && named {
                let next = match function.volatile {
                    false => Verdict::Safe,
                    true => Verdict::refused(
                        Effect::Write,
                        "function",
                        format!("{}.{name}() is volatile", function.schema),
                    ),
                };
                verdict = Some(verdict.map_or(next.clone(), |seen: Verdict| seen.or(next)));
            }
        }
        match (builtin_function(builtin, name), verdict) {
            (Some(builtin), Some(user)) => builtin.or(user),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Verdict::refused(
                Effect::Write,
                "unknown_function",
                format!("{name}() is not a function that is known to be safe"),
            ),
        }
    }

    /// Whether somebody made a function of this name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// What a call of a routine of this name may leave behind, whatever schema it is in.
    pub(super) fn traces(&self, name: &str) -> &[SessionEffect] {
        self.traces.get(name).map_or(&[], Vec::as_slice)
    }

    /// What triggers may leave behind when this relation is changed.
    pub(super) fn fired(&self, relation: &str) -> &[SessionEffect] {
        let name = relation.rsplit_once('.').map_or(relation, |(_, name)| name);
        self.fired.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a procedure of this name is known, and so what it leaves behind.
    pub(super) fn knows_procedure(&self, name: &str) -> bool {
        self.procedures.contains(name)
    }

    /// Whether the configuration says that the function is safe.
    pub(super) fn is_read_by_rule(&self, name: &str) -> bool {
        self.rules.read.contains(name)
    }

    fn ruled(&self, schema: Option<&str>, name: &str) -> Option<Verdict> {
        if self.rules.read.is_empty() && self.rules.write.is_empty() {
            return None;
        }
        let full = schema.map(|schema| format!("{schema}.{name}"));
        let listed = |list: &HashSet<String>| {
            list.contains(name) || full.as_ref().is_some_and(|full| list.contains(full))
        };
        // An unqualified call may mean any function that is listed as a write.
        let hidden = |list: &HashSet<String>| {
            schema.is_none()
                && list.iter().any(|entry| entry.rsplit_once('.').is_some_and(|(_, n)| n == name))
        };
        if listed(&self.rules.write) || hidden(&self.rules.write) {
            let reason = format!("{name}() is in the configured write_functions");
            return Some(Verdict::refused(Effect::Write, "function", reason));
        }
        listed(&self.rules.read).then_some(Verdict::Safe)
    }

    /// What reading the relation is, and what it leaves behind in the session.
    pub fn relation(&self, schema: Option<&str>, name: &str) -> (Verdict, Vec<Pin>) {
        if schema.is_some_and(|schema| schema == "pg_temp" || schema.starts_with("pg_temp_")) {
            let reason = format!("{name} is a temporary table");
            return (Verdict::refused(Effect::Write, "temporary_table", reason), Vec::new());
        }
        let mut pins = Vec::new();
        let built_in = match self.engine {
            Some(_) => mysql::functions::relation(schema, name),
            None => functions::relation(schema, name),
        };
        let mut verdict = match built_in {
            Builtin::Safe => Some(Verdict::Safe),
            Builtin::ServerLocal | Builtin::Refused => {
                Some(Verdict::ServerLocal(Arc::from(format!("{name} describes one server"))))
            }
            Builtin::Unknown => None,
        };
        for relation in self.relations.get(name).into_iter().flatten() {
            if schema.is_none_or(|schema| *schema == *relation.schema) {
                pins.extend_from_slice(&relation.pins);
                let next = relation.verdict.clone();
                verdict = Some(verdict.map_or(next.clone(), |seen| seen.or(next)));
            }
        }
        (verdict.unwrap_or_else(|| self.unknown("relation", name)), pins)
    }

    fn unknown(&self, what: &str, name: &str) -> Verdict {
        match (self.loaded, what) {
            (false, _) => Verdict::refused(
                Effect::Unknown,
                "catalog_unknown",
                format!("the catalog is not loaded yet, so the {what} {name} is not known"),
            ),
            (true, _) => {
                let code = match what {
                    "type" => "unknown_type",
                    "operator" => "unknown_operator",
                    _ => "unknown_relation",
                };
                let reason = format!("the {what} {name} is not in the catalog");
                Verdict::refused(Effect::Unknown, code, reason)
            }
        }
    }

    /// What a cast to the type is.
    pub fn type_name(&self, schema: Option<&str>, name: &str) -> Verdict {
        if let Some(verdict) = self.types.get(name) {
            return verdict.clone();
        }
        let builtin = matches!(schema, None | Some("pg_catalog" | "information_schema"))
            && functions::is_type(name);
        // The row type of a table.
        if builtin || self.relations.contains_key(name) {
            return Verdict::Safe;
        }
        self.unknown("type", name)
    }

    /// Whether an operator of this name calls a volatile function.
    pub fn operator(&self, name: &str) -> Verdict {
        // MySQL and MariaDB have their own and no others.
        if self.engine.is_some() {
            return Verdict::Safe;
        }
        match self.operators.get(name) {
            Some(true) => {
                let reason = format!("the operator {name} has an overload that is volatile");
                Verdict::refused(Effect::Write, "operator", reason)
            }
            Some(false) => Verdict::Safe,
            None if functions::is_operator(name) => Verdict::Safe,
            None => self.unknown("operator", name),
        }
    }

    /// Whether `t.name` may call a volatile function that takes a row of `t`.
    pub fn attribute(&self, name: &str) -> Verdict {
        let functions = self.functions.get(name).into_iter().flatten();
        if !functions.into_iter().any(|function| function.takes_row && function.volatile) {
            return Verdict::Safe;
        }
        let reason = format!("a column {name} may be a call of the volatile function {name}()");
        Verdict::refused(Effect::Write, "function", reason)
    }

    /// What holds for every read of a user's table in this database.
    pub fn database(&self) -> Verdict {
        if !self.implicit_cast {
            return Verdict::Safe;
        }
        let reason = "an implicit cast of this database is volatile".to_owned();
        Verdict::refused(Effect::Write, "cast", reason)
    }
}

fn builtin_function(builtin: Builtin, name: &str) -> Option<Verdict> {
    match builtin {
        Builtin::Safe => Some(Verdict::Safe),
        Builtin::ServerLocal => {
            Some(Verdict::ServerLocal(Arc::from(format!("{name}() describes one server"))))
        }
        Builtin::Refused => Some(Verdict::refused(
            Effect::Write,
            "function",
            format!("{name}() writes, locks or fails on a standby"),
        )),
        Builtin::Unknown => None,
    }
}
