//! `tiffin explain`: what a statement is, where it would go, and why.
//!
//! Nothing is run. With a reachable cluster the catalog is loaded from its primary and the node
//! is chosen as the proxy would; without one, relations are taken for plain tables and functions
//! that are not built in for writes, and that is said.

use super::{Exit, load, watch};
use crate::config::{Cluster, Config};
use crate::metrics::{RouteReason, Target};
use crate::monitor::catalog::PostgresLoader;
use crate::monitor::catalogs::Loader;
use crate::monitor::mysql_catalog::MysqlLoader;
use crate::route::{Choice, Policy, choose};
use crate::session::{Class, Need, Session, Wish};
use crate::sql::{
    Catalog, CatalogRows, Dialect, Effect, FunctionRules, Persistence, RelationKind, RelationRow,
    SessionEffect, Statement, classify, mysql, split_statements,
};
use crate::topology::{Role, Snapshot};
use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const ABOUT: &str = "\
Explains statements: class, tables, functions, what they need of a node, where they would go, and
why, in words. Nothing is run.

If the primary can be reached, its catalog says what functions and relations are, and the node is
chosen among the replicas as they are now. If not, or with --offline, relations are taken for
plain tables and functions that are not built in for writes; the note says so.

Each statement is looked at by itself, as the first of a new session.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin explain --config config.yaml \"SELECT * FROM orders\"
  tiffin explain --config config.yaml --database shop \"SELECT next_order()\"
  tiffin explain --config config.yaml --file queries.sql --format json
  echo \"SELECT 1\" | tiffin explain --config config.yaml --file -

With --format json one object per statement is printed, with at least
  statement   the text
  effect      read, write, session, transaction or unknown
  target      primary or replica
  reason      why, in words

Exit status: 0 explained, 1 the input cannot be read, 2 wrong arguments or configuration.";

/// How the gap is filled where no catalog is known.
const ASSUMED: &str = "relations are assumed to be plain tables, functions that are not built in are taken for writes";
/// Views may stand on views that the first look did not name.
const ASSUME_ROUNDS: usize = 2;
/// Files of statements are read whole.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    config: PathBuf,
    /// The statement, or several with semicolons between
    #[arg(value_name = "SQL", required_unless_present = "file", conflicts_with = "file")]
    sql: Option<String>,
    /// A file of statements with semicolons between; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The database as clients name it [default: the first that the configuration names]
    #[arg(short, long, value_name = "NAME")]
    database: Option<String>,
    /// Connect to nothing
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A few lines per statement
    Text,
    /// One JSON object per line and statement
    Json,
}

/// What is told of one statement; in JSON under these names.
#[derive(Debug, Serialize)]
struct Explanation<'a> {
    statement: &'a str,
    effect: &'static str,
    /// Kind of node.
    target: &'static str,
    reason: String,
    /// The short stable word of the class's reason.
    code: &'a str,
    /// The short stable word of the choice's reason, as in the metrics.
    route: &'static str,
    need: String,
    /// The node that would be chosen now; absent without a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    tables_read: Vec<&'a str>,
    tables_written: Vec<&'a str>,
    functions: Vec<&'a str>,
    /// Why the session must keep its server connection afterwards, as in the metrics.
    pins: Vec<&'static str>,
    /// What the answer rests on where no server was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let Some(config) = load(&args.config) else { return Ok(Exit::Usage) };
    let text = match (&args.sql, &args.file) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => String::new(),
    };
    let (cluster, database) = match place(&config, args.database.as_deref()) {
        Ok(found) => found,
        Err(sentence) => {
            eprintln!("tiffin: {sentence}");
            return Ok(Exit::Usage);
        }
    };
    let known = if args.offline {
        Known::Nothing("no server was asked".to_owned())
    } else {
        watch::runtime()?.block_on(ask(&cluster, &database))?
    };
    let asker = Asker { config: &config, cluster: &cluster, known };
    let dialect = asker.dialect();
    // In JSON the note stands in every object.
    if let (Format::Text, Some(note)) = (args.format, asker.note()) {
        println!("Note: {note}.\n");
    }
    let mut out = std::io::stdout().lock();
    for statement in split_statements(&text, dialect) {
        let told = asker.explain(statement, args.format)?;
        match out.write_all(told.as_bytes()) {
            Ok(()) => {}
            // Whoever reads has seen enough: `tiffin explain … | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error).context("cannot write the answer"),
        }
    }
    Ok(Exit::Ok)
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let name = file.display();
    let mut text = String::new();
    let source: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {name}"))?)
    };
    source
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "{name} is larger than {} MiB",
        FILE_BYTES_MAX >> 20
    );
    Ok(text)
}

/// The cluster that serves the database, and the servers' name of it.
fn place(config: &Config, wanted: Option<&str>) -> Result<(Arc<Cluster>, String), String> {
    let Some(wanted) = wanted else {
        let cluster = config.clusters.first().ok_or("the configuration names no cluster")?;
        let first = cluster.databases.values().next().unwrap_or(&cluster.service.database);
        return Ok((cluster.clone(), first.clone()));
    };
    let named = config.clusters.iter().find_map(|cluster| {
        let name = cluster.databases.get(wanted)?;
        Some((cluster.clone(), name.clone()))
    });
    let any = || {
        let cluster = config.clusters.iter().find(|cluster| cluster.databases.is_empty())?;
        Some((cluster.clone(), wanted.to_owned()))
    };
    named.or_else(any).ok_or_else(|| format!("no cluster serves the database {wanted}"))
}

/// What is known of the servers.
enum Known {
    Cluster {
        catalog: Box<Catalog>,
        snapshot: Arc<Snapshot>,
    },
    /// Why.
    Nothing(String),
}

async fn ask(cluster: &Arc<Cluster>, database: &str) -> anyhow::Result<Known> {
    let tls = watch::service_tls(cluster)?;
    let topology = watch::settled(cluster, &tls).await;
    let snapshot = topology.load_full();
    let (cluster, name) = (cluster.clone(), Arc::from(database));
    let loaded = match cluster.engine.mysql() {
        Some(_) => MysqlLoader::new(cluster, topology).load(name, &mut None).await,
        None => PostgresLoader::new(cluster, topology, tls).load(name, &mut None).await,
    };
    Ok(match loaded {
        Ok(catalog) => Known::Cluster { catalog: Box::new(catalog), snapshot },
        Err(reason) => {
            Known::Nothing(format!("the catalog of {database} could not be loaded ({reason})"))
        }
    })
}

struct Asker<'a> {
    config: &'a Config,
    cluster: &'a Cluster,
    known: Known,
}

impl Asker<'_> {
    fn explain(&self, text: &str, format: Format) -> anyhow::Result<String> {
        let statement = match &self.known {
            Known::Cluster { catalog, .. } => self.classify(text, catalog),
            Known::Nothing(_) => self.assume(text),
        };
        let explanation = self.explanation(text, &statement);
        Ok(match format {
            Format::Json => serde_json::to_string(&explanation)? + "\n",
            Format::Text => in_words(&explanation),
        })
    }

    fn note(&self) -> Option<String> {
        match &self.known {
            Known::Cluster { .. } => None,
            Known::Nothing(why) => Some(format!("{why}; {ASSUMED}")),
        }
    }

    /// How new sessions' texts are read; where no server was asked, as by default.
    fn dialect(&self) -> Dialect {
        let Some(engine) = self.cluster.engine.mysql() else { return Dialect::STANDARD };
        let reading = mysql::Reading::new(engine);
        let Known::Cluster { snapshot, .. } = &self.known else { return Dialect::MySql(reading) };
        let mode = snapshot.session_default("sql_mode");
        Dialect::MySql(mode.map_or(reading, |mode| reading.with_sql_mode(mode)))
    }

    fn classify(&self, text: &str, catalog: &Catalog) -> Statement {
        classify(text.as_bytes(), self.dialect(), catalog, self.config.limits.parse_bytes_max)
    }

    /// Classifies with every relation of the statement taken for a plain table.
    fn assume(&self, text: &str) -> Statement {
        let mut names = BTreeSet::new();
        let mut statement = self.classify(text, &self.assumed(&names));
        for _ in 0..ASSUME_ROUNDS {
            let named = statement.tables_read.iter().chain(&statement.tables_written);
            let before = names.len();
            names.extend(named.cloned());
            if names.len() == before {
                break;
            }
            statement = self.classify(text, &self.assumed(&names));
        }
        statement
    }

    /// A catalog that has these tables and nothing else.
    fn assumed(&self, names: &BTreeSet<Arc<str>>) -> Catalog {
        let rules = FunctionRules {
            read: self.cluster.routing.read_functions.iter().cloned().collect(),
            write: self.cluster.routing.write_functions.iter().cloned().collect(),
        };
        match self.cluster.engine.mysql() {
            Some(engine) => {
                let tables = names.iter().map(|name| plain_table_of_mysql(name)).collect();
                let rows = mysql::CatalogRows { tables, ..mysql::CatalogRows::default() };
                mysql::build(engine, rows, rules)
            }
            None => {
                let tables = (1..).zip(names).map(|(oid, name)| plain_table(oid, name));
                let rows = CatalogRows { relations: tables.collect(), ..CatalogRows::default() };
                Catalog::build(rows, rules)
            }
        }
    }

    fn explanation<'a>(&self, text: &'a str, statement: &'a Statement) -> Explanation<'a> {
        let session = Session::default();
        let class = Class::of(statement);
        let need = session.need(&class, statement.hint.as_ref(), &self.cluster.routing);
        let place = self.place(&need);
        let mut reason = statement.reason.to_string();
        if !place.sentence.is_empty() {
            reason = format!("{reason}; {}", place.sentence);
        }
        Explanation {
            statement: text,
            effect: effect(statement.effect),
            target: place.target,
            reason,
            code: statement.reason_code,
            route: place.route,
            need: self.need(&need),
            node: place.node,
            tables_read: names(&statement.tables_read),
            tables_written: names(&statement.tables_written),
            functions: names(&statement.functions),
            pins: pins(statement),
            note: self.note(),
        }
    }

    /// Where a request with this need goes.
    fn place(&self, need: &Need) -> Place {
        let Known::Cluster { snapshot, .. } = &self.known else { return without_cluster(need) };
        let busy = vec![0; snapshot.nodes.len()];
        let policy = Policy {
            routing: &self.cluster.routing,
            probe_interval: self.cluster.monitor.interval,
            busy: &busy,
            draw: 0,
        };
        match choose(need, snapshot, &policy, false) {
            Choice::Node(id, reason) => {
                let node = snapshot.node(id);
                let target = if node.role == Role::Replica { "replica" } else { "primary" };
                // Any server would do: there is nothing to explain about the one that was taken.
                let sentence = match need {
                    Need::Any => String::new(),
                    _ => self.sentence(reason),
                };
                Place {
                    target,
                    node: Some(node.name.to_string()),
                    route: reason.as_str(),
                    sentence,
                }
            }
            Choice::NoPrimary => Place {
                target: "primary",
                node: None,
                route: "no_primary",
                sentence: format!(
                    "there is no primary now ({}), so it waits for one at the gate",
                    snapshot.no_primary_because
                ),
            },
            Choice::CatchUp(reason) | Choice::Refuse(reason) => Place {
                target: "replica",
                node: None,
                route: reason.as_str(),
                sentence: format!("{}, and routing.on_lag lets it fail", reason.explain()),
            },
        }
    }

    /// The reason of the choice, where it adds to that of the class.
    fn sentence(&self, reason: RouteReason) -> String {
        match reason {
            RouteReason::Write
            | RouteReason::UnknownStatement
            | RouteReason::CatalogUnknown
            | RouteReason::TooLarge => String::new(),
            other => other.explain().to_owned(),
        }
    }

    fn need(&self, need: &Need) -> String {
        match need {
            Need::Primary(_) => "the primary".to_owned(),
            Need::Any => "any server; the primary while there is one".to_owned(),
            Need::Replica(need) => {
                let lag = need
                    .lag_max
                    .map_or(String::new(), |lag| format!(" with a lag of at most {lag:?}"));
                let wish = match &need.wish {
                    Wish::None => String::new(),
                    Wish::Replica => ", as the hint asks".to_owned(),
                    Wish::Node(name) => format!(", preferably {name}"),
                };
                let whole = if need.transaction { ", for the whole transaction" } else { "" };
                format!("a replica{lag} (consistency {}){wish}{whole}", need.consistency.as_str())
            }
        }
    }
}

/// Where a statement goes.
struct Place {
    target: &'static str,
    node: Option<String>,
    route: &'static str,
    sentence: String,
}

fn without_cluster(need: &Need) -> Place {
    let place = |target, route, sentence: &str| Place {
        target,
        node: None,
        route,
        sentence: sentence.to_owned(),
    };
    match need {
        Need::Primary(reason) if reason.target() == Target::Primary => {
            let says_more = !matches!(
                reason,
                RouteReason::Write
                    | RouteReason::UnknownStatement
                    | RouteReason::CatalogUnknown
                    | RouteReason::TooLarge
            );
            place("primary", reason.as_str(), if says_more { reason.explain() } else { "" })
        }
        Need::Primary(reason) => place("primary", reason.as_str(), ""),
        Need::Any => place("primary", "any", ""),
        Need::Replica(_) => place("replica", "replica", "a replica that qualifies takes it"),
    }
}

fn names(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

fn pins(statement: &Statement) -> Vec<&'static str> {
    let pins = statement.session.iter().filter_map(|effect| match effect {
        SessionEffect::Pin(pin) => Some(pin.as_str()),
        _ => None,
    });
    pins.collect()
}

/// A table as it is assumed to be.
fn plain_table(oid: u32, name: &str) -> RelationRow {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    RelationRow {
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: RelationKind::Table,
        persistence: Persistence::Permanent,
        definition: None,
        policies: Vec::new(),
        parents: Vec::new(),
    }
}

fn plain_table_of_mysql(name: &str) -> mysql::TableRow {
    let (schema, name) = name.split_once('.').unwrap_or(("", name));
    mysql::TableRow {
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: mysql::TableKind::Base,
        definition: None,
    }
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Read => "read",
        Effect::Write => "write",
        Effect::Session => "session",
        Effect::Transaction => "transaction",
        Effect::Unknown => "unknown",
    }
}

/// Longer statements are cut in the text form; JSON has them whole.
const SHOWN_CHARS_MAX: usize = 200;

fn in_words(explanation: &Explanation<'_>) -> String {
    let line = explanation.statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if cut.len() < line.len() { " …" } else { "" };
    let node = explanation.node.as_ref().map_or(String::new(), |node| format!(": {node}"));
    let rows = [
        ("class", explanation.effect.to_owned()),
        ("target", format!("{}{node}", explanation.target)),
        ("reason", explanation.reason.clone()),
        ("need", explanation.need.clone()),
        ("reads", explanation.tables_read.join(", ")),
        ("writes", explanation.tables_written.join(", ")),
        ("functions", explanation.functions.join(", ")),
        ("pins", explanation.pins.join(", ")),
    ];
    let mut out = format!("{cut}{more}\n");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        out.push_str(&format!("  {name:<10} {value}\n"));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const FILE: &str = "\
users: [{name: app, password: x}]
clusters:
  main:
    databases: {shop: shop_live}
    nodes: [db1]
    service: {user: tiffin}
    routing: {read_functions: [my_read], write_functions: [lower]}
  rest:
    nodes: [db2]
    service: {user: tiffin}
";

    fn config() -> Config {
        Config::parse("t.yaml", FILE, Path::new(""), &|_| None).expect("valid").config
    }

    /// Without a server: effect, target, and a part of the reason.
    #[test]
    fn statements_are_explained_without_a_server() {
        let config = config();
        let known = Known::Nothing("no server was asked".to_owned());
        let asker = Asker { config: &config, cluster: &config.clusters[0], known };
        for (sql, effect, target, reason) in [
            ("SELECT * FROM orders o JOIN s.items i ON true", "read", "replica", "only reads"),
            ("TABLE \"Odd Name\"", "read", "replica", ""),
            ("SELECT my_read(1)", "read", "replica", ""),
            ("SELECT lower('x')", "write", "primary", "write_functions"),
            ("SELECT next_order(3)", "write", "primary", "next_order() is not a function"),
            ("INSERT INTO t VALUES (1)", "write", "primary", "INSERT"),
            ("SELECT * FROM t FOR UPDATE", "write", "primary", "locking"),
            ("BEGIN", "transaction", "primary", "may write"),
            ("BEGIN READ ONLY", "transaction", "replica", ""),
            ("SET work_mem = '1MB'", "session", "primary", ""),
            ("/* tiffin: primary */ SELECT 1", "read", "primary", "hint"),
            ("SELEC 1", "unknown", "primary", "SELEC"),
            ("LISTEN a", "session", "primary", "listens"),
        ] {
            let statement = asker.assume(sql);
            let told = asker.explanation(sql, &statement);
            assert_eq!((told.effect, told.target), (effect, target), "{sql}: {told:?}");
            assert!(told.reason.contains(reason), "{sql}: {told:?}");
            assert_eq!(told.pins.contains(&"listen"), sql == "LISTEN a", "{sql}: {told:?}");
            let note = told.note.clone().unwrap_or_default();
            assert!(note.contains("assumed to be plain tables"), "{note}");
            let json = serde_json::to_value(&told).expect("an object");
            for key in ["statement", "effect", "target", "reason"] {
                assert!(json[key].is_string(), "{sql}: {key} is missing in {json}");
            }
        }
    }

    /// The same for MySQL and MariaDB.
    #[test]
    fn statements_of_mysql_are_explained_without_a_server() {
        for engine in ["mysql", "mariadb"] {
            let engine = format!("databases: [shop]\n    engine: {engine}");
            let file = FILE.replace("databases: {shop: shop_live}", &engine);
            let config = Config::parse("t.yaml", &file, Path::new(""), &|_| None);
            let config = config.expect("valid").config;
            let known = Known::Nothing("no server was asked".to_owned());
            let asker = Asker { config: &config, cluster: &config.clusters[0], known };
            for (sql, effect, target, reason, pins) in [
                ("SELECT * FROM `orders` o JOIN s.items LIMIT 1, 2", "read", "replica", "", ""),
                ("SELECT my_read(1)", "read", "replica", "", ""),
                ("SELECT lower('x')", "write", "primary", "write_functions", ""),
                ("REPLACE INTO t VALUES (1)", "write", "primary", "REPLACE", ""),
                ("SELECT 1 /*!99999 INTO @a */", "unknown", "primary", "version", "variable"),
                ("SET @a = 1", "session", "primary", "", "variable"),
                ("SELECT GET_LOCK('a', 1)", "write", "primary", "get_lock()", "advisory_lock"),
                ("START TRANSACTION READ ONLY", "transaction", "replica", "", ""),
            ] {
                let statement = asker.assume(sql);
                let told = asker.explanation(sql, &statement);
                assert_eq!((told.effect, told.target), (effect, target), "{sql}: {told:?}");
                assert!(told.reason.contains(reason), "{sql}: {told:?}");
                assert_eq!(told.pins.first().copied().unwrap_or_default(), pins, "{sql}");
            }
            assert_eq!(split_statements("SELECT `;`; SELECT ';' # ;\n;", asker.dialect()).len(), 2);
        }
    }

    #[test]
    fn the_database_leads_to_its_cluster() {
        let config = config();
        let found = |wanted| {
            place(&config, wanted).map(|(cluster, name)| format!("{} {name}", cluster.name))
        };
        assert_eq!(found(None), Ok("main shop_live".to_owned()));
        assert_eq!(found(Some("shop")), Ok("main shop_live".to_owned()));
        assert_eq!(found(Some("any")), Ok("rest any".to_owned()));
    }
}
