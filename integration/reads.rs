//! What the classifier's table calls a read must run on a standby: the server is the judge.

use crate::support::versions::is_postgres_18;
use crate::support::{Fixture, Session, client_config, connect, on_postgres_18, runtime, sqlstate};
use futures_util::StreamExt;
use std::path::Path;
use std::pin::pin;

/// A standby refuses with one of these what it must not do.
const REFUSED: &[&str] = &["25006", "0A000", "55000", "XX000"];

#[test]
fn every_statement_called_a_read_runs_on_a_standby() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data/classify");
    let fixture = Fixture::build().replicas(1).start();
    let (primary, standby) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    let schema = std::fs::read_to_string(folder.join("schema.sql")).unwrap();
    primary.execute("CREATE DATABASE classify").unwrap();
    primary.query_in("classify", &schema).expect("the schema");
    fixture.cluster.wait_caught_up(primary).unwrap();

    let log_in = |port: u16| {
        let mut config = client_config(port, &fixture.cluster.superuser);
        config.dbname("classify");
        (Session::connect(&config).unwrap(), config)
    };
    let (direct, through) = (log_in(standby.port), log_in(fixture.proxy.port));
    let (mut reads, mut refused, mut elsewhere) = (0, Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for sql in text.lines().filter_map(read_of) {
            reads += 1;
            for ((session, config), name) in [(&direct, "the standby"), (&through, "the proxy")] {
                let is_copy = sql.trim_start().to_ascii_uppercase().starts_with("COPY");
                if sql.starts_with("DECLARE") {
                    session.query("BEGIN READ ONLY").unwrap();
                }
                let result =
                    if is_copy { copy_out(config, &sql) } else { session.query(&sql).map(drop) };
                if sql.starts_with("DECLARE") {
                    session.query("ROLLBACK").unwrap();
                }
                let Err(error) = result else { continue };
                let state = sqlstate(&error).unwrap_or("none");
                // Otherwise the statement itself is at fault, wherever it runs.
                let list = if REFUSED.contains(&state) { &mut refused } else { &mut elsewhere };
                list.push(format!("{name} ({state}): {sql}\n    {:#}", error.root_cause()));
                let _ = session.query("ROLLBACK");
            }
        }
    }
    println!("measured: {reads} statements called reads, {} refused by the standby", refused.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    // The system catalogs' columns change from version to version; those asked for are 15's.
    elsewhere.retain(|said| !(is_postgres_18() && said.contains("(42703)")));
    assert!(elsewhere.is_empty(), "statements that cannot run at all:\n{}", elsewhere.join("\n"));
    assert!(reads >= 200, "{reads}");
}

/// Runs a COPY … TO STDOUT to its end and drops what it sends.
fn copy_out(config: &tokio_postgres::Config, sql: &str) -> anyhow::Result<()> {
    runtime().block_on(async {
        let client = connect(config).await;
        let mut stream = pin!(client.copy_out(sql).await?);
        while let Some(chunk) = stream.next().await {
            chunk?;
        }
        Ok(())
    })
}

/// The SQL of a line `read target [code] [norun] | session effects | SQL`.
fn read_of(line: &str) -> Option<String> {
    let mut columns = line.splitn(3, " | ");
    let mut words = columns.next()?.split_whitespace();
    if words.next() != Some("read") || words.any(|word| word == "norun") {
        return None;
    }
    columns.nth(1).map(|sql| sql.replace('⏎', "\n"))
}

on_postgres_18!(every_statement_called_a_read_runs_on_a_standby);
