//! What the classifier's table for MySQL and MariaDB calls a read must run on a read-only replica,
//! and the catalog of a real server must give the classes of the table: the servers are the judge.

use crate::support::binary;
use crate::support::mysql::{
    Cluster, Engine, Options, Server, Session, client_opts, errno, on_mysql_and_mariadb, options,
    proxy_config,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use tiffin::sql::mysql::{
    CatalogRows, DataAccess, Engine as SqlEngine, Reading, RoutineRow, TableKind, TableRow,
    TriggerRow, build,
};
use tiffin::sql::{Dialect, Effect, FunctionRules, classify};

on_mysql_and_mariadb! { every_statement_called_a_read_runs_on_a_replica }

/// A replica refuses with one of these what it must not do: read only, in a read-only
/// transaction, in read-only mode.
const REFUSED: [u16; 3] = [1290, 1792, 1836];

/// A line of the table.
struct Line {
    effect: String,
    runs: bool,
    sql: String,
}

fn every_statement_called_a_read_runs_on_a_replica(engine: Engine) {
    // The schema has functions that say nothing of what they do.
    let settings = vec![("log_bin_trust_function_creators".to_owned(), "ON".to_owned())];
    let options = Options { replicas: 1, settings, ..options(engine) };
    let cluster = Cluster::start(options).expect("start the servers");
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    make_schema(&cluster);
    cluster.wait_caught_up(primary).unwrap();
    let lines = lines(engine);
    classes_follow_from_the_catalog(engine, primary, &lines);
    statements_are_explained(&cluster);

    let opts = client_opts(replica.port, &cluster.app).db_name(Some("shop"));
    let session = Session::connect(&opts.into()).unwrap();
    let (mut reads, mut refused, mut elsewhere) = (0, Vec::new(), Vec::new());
    for line in lines.iter().filter(|line| line.effect == "read" && line.runs) {
        reads += 1;
        let Err(error) = session.query(&line.sql) else { continue };
        let number = errno(&error);
        // Otherwise the statement itself is at fault, wherever it runs.
        let is_refused = number.is_some_and(|number| REFUSED.contains(&number));
        let list = if is_refused { &mut refused } else { &mut elsewhere };
        list.push(format!("{}\n    {:#}", line.sql, error.root_cause()));
    }
    println!("measured: {engine:?}: {reads} statements called reads, {} refused", refused.len());
    assert!(refused.is_empty(), "refused by the replica:\n{}", refused.join("\n"));
    assert!(elsewhere.is_empty(), "statements that cannot run at all:\n{}", elsewhere.join("\n"));
    assert!(reads >= 150, "{reads}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data/classify_mysql")
}

/// The schema of the table, of which each line is a statement.
fn make_schema(cluster: &Cluster) {
    let primary = cluster.primary();
    let user = &cluster.app.user;
    primary.execute("CREATE DATABASE shop").unwrap();
    primary.execute(&format!("GRANT ALL ON shop.* TO `{user}`@'%'")).unwrap();
    let opts = client_opts(primary.port, &cluster.superuser).db_name(Some("shop"));
    let session = Session::connect(&opts.into()).unwrap();
    let schema = std::fs::read_to_string(folder().join("schema.sql")).unwrap();
    for line in schema.lines().filter(|line| !line.starts_with("--") && !line.is_empty()) {
        session.execute(line.trim_end_matches(';')).expect(line);
    }
}

/// The lines that hold for this engine.
fn lines(engine: Engine) -> Vec<Line> {
    let other = match engine {
        Engine::MySql => "mariadb",
        Engine::MariaDb => "mysql",
    };
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut columns = line.splitn(3, " | ");
            let words: Vec<&str> = columns.next().unwrap().split(' ').collect();
            if !words.contains(&other) {
                let sql = columns.nth(1).unwrap().replace('⏎', "\n");
                let runs = !words.contains(&"norun");
                lines.push(Line { effect: words[0].to_owned(), runs, sql });
            }
        }
    }
    lines
}

/// The table's classes hold for its own schema as a server tells of it.
fn classes_follow_from_the_catalog(engine: Engine, primary: &Server, lines: &[Line]) {
    let engine = match engine {
        Engine::MySql => SqlEngine::MySql,
        Engine::MariaDb => SqlEngine::MariaDb,
    };
    let catalog = build(engine, rows(primary), FunctionRules::default());
    let dialect = Dialect::MySql(Reading::new(engine));
    let mut wrong = Vec::new();
    for line in lines {
        // Nobody hides a view here.
        if line.sql.contains("hidden_view") {
            continue;
        }
        let statement = classify(line.sql.as_bytes(), dialect, &catalog, 1 << 16);
        let effect = match statement.effect {
            Effect::Read => "read",
            Effect::Write => "write",
            Effect::Session => "session",
            Effect::Transaction => "transaction",
            Effect::Unknown => "unknown",
        };
        if effect != line.effect {
            let reason = &statement.reason;
            wrong.push(format!("{}: {effect}, not {}: {reason}", line.sql, line.effect));
        }
    }
    assert!(wrong.is_empty(), "by the server's own catalog:\n{}", wrong.join("\n"));
}

/// Statement, class, kind of node, and a part of the reason.
const EXPLAINED: &[(&str, &str, &str, &str)] = &[
    ("SELECT full_name(id) FROM users", "read", "replica", "only reads"),
    ("SELECT n FROM nested_noisy", "write", "primary", "log_event"),
    ("SELECT * FROM process_view", "read", "primary", "process_view"),
    ("SELECT * FROM no_such_table", "unknown", "primary", "not in the catalog"),
    ("INSERT INTO audited VALUES (1)", "write", "primary", "INSERT"),
];

/// `tiffin explain` asks the cluster.
fn statements_are_explained(cluster: &Cluster) {
    let config = cluster.folder().join("explain.json");
    std::fs::write(&config, proxy_config(cluster).to_string()).unwrap();
    for (sql, effect, target, reason) in EXPLAINED {
        let mut command = Command::new(binary());
        command.args(["explain", "--format", "json", "--config"]).arg(&config).arg(sql);
        let done = command.output().expect("run tiffin explain");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{sql}: {said}{}", String::from_utf8_lossy(&done.stderr));
        let told: serde_json::Value = serde_json::from_str(&said).expect("an object");
        assert_eq!((&told["effect"], &told["target"]), (&json!(effect), &json!(target)), "{said}");
        assert!(told["reason"].as_str().unwrap_or_default().contains(reason), "{said}");
        assert!(told["node"].is_string() && told["note"].is_null(), "{said}");
        let leaves = told["pins"] == json!(["variable"]);
        assert_eq!(leaves, sql.contains("audited"), "{said}");
    }
}

fn rows(server: &Server) -> CatalogRows {
    let own = "NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')";
    let query = |sql: String| server.query(&sql).unwrap();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let tables = query(format!(
        "SELECT t.table_schema, t.table_name, t.table_type, v.view_definition \
         FROM information_schema.tables t LEFT JOIN information_schema.views v \
         ON v.table_schema = t.table_schema AND v.table_name = t.table_name \
         WHERE t.table_schema {own}"
    ));
    let routines = query(format!(
        "SELECT routine_schema, routine_name, routine_type, sql_data_access, routine_definition, \
         sql_mode FROM information_schema.routines WHERE routine_schema {own}"
    ));
    let triggers = query(format!(
        "SELECT event_object_schema, event_object_table, action_statement, sql_mode \
         FROM information_schema.triggers WHERE event_object_schema {own}"
    ));
    CatalogRows {
        tables: tables
            .iter()
            .map(|row| TableRow {
                schema: text(&row[0]),
                name: text(&row[1]),
                kind: match row[2].as_deref() {
                    Some("VIEW") => TableKind::View,
                    Some("SYSTEM VIEW") => TableKind::SystemView,
                    Some("SEQUENCE") => TableKind::Sequence,
                    _ => TableKind::Base,
                },
                definition: row[3].clone(),
            })
            .collect(),
        routines: routines
            .iter()
            .map(|row| RoutineRow {
                schema: text(&row[0]),
                name: text(&row[1]),
                is_function: row[2].as_deref() == Some("FUNCTION"),
                data_access: match row[3].as_deref() {
                    Some("NO SQL") => DataAccess::NoSql,
                    Some("CONTAINS SQL") => DataAccess::ContainsSql,
                    Some("READS SQL DATA") => DataAccess::ReadsSql,
                    _ => DataAccess::ModifiesSql,
                },
                body: row[4].clone(),
                sql_mode: text(&row[5]),
            })
            .collect(),
        triggers: triggers
            .iter()
            .map(|row| TriggerRow {
                schema: text(&row[0]),
                table: text(&row[1]),
                body: text(&row[2]),
                sql_mode: text(&row[3]),
            })
            .collect(),
    }
}
