//! The other commands of the program: explain, check, sandbox.

use crate::support::mysql::{self as my, Engine, on_mysql_and_mariadb};
use crate::support::{Fixture, binary};
use serde_json::Value;
use std::process::{Command, Output};
use std::time::Instant;

fn tiffin(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("run tiffin")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_command_has_its_help() {
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["explain", "--help"],
        &["sandbox", "--help"],
        &["drain", "--help"],
        &["pause", "--help"],
    ] {
        let output = tiffin(command);
        assert!(output.status.success(), "{command:?}");
        assert!(said(&output).len() > 200, "{command:?}: {}", said(&output));
    }
    let help = said(&tiffin(&["sandbox", "--help"]));
    for word in ["--no-tour", "--replicas", "--port", "--keep"] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn explain_tells_class_target_and_reason() {
    let fixture = Fixture::build().replicas(1).start();
    fixture
        .session()
        .query("CREATE FUNCTION f() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'")
        .unwrap();
    let config = fixture.proxy.config_path.to_str().unwrap();
    let table = [
        ("SELECT 1", "read", "replica"),
        ("INSERT INTO t VALUES (1)", "write", "primary"),
        ("BEGIN", "transaction", "primary"),
        ("SELECT f()", "write", "primary"),
        ("SELEC", "unknown", "primary"),
    ];
    let file = fixture.cluster.folder().join("statements.sql");
    let statements: Vec<&str> = table.iter().map(|(sql, ..)| *sql).collect();
    std::fs::write(&file, statements.join(";\n")).unwrap();
    let output = tiffin(&[
        "explain",
        "--config",
        config,
        "--format",
        "json",
        "--file",
        file.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object per line"))
        .collect();
    assert_eq!(lines.len(), table.len(), "{lines:?}");
    for ((sql, effect, target), line) in table.iter().zip(&lines) {
        assert_eq!(line["effect"], *effect, "{sql}: {line}");
        assert_eq!(line["target"], *target, "{sql}: {line}");
        assert!(line["statement"].as_str().unwrap().contains(sql), "{line}");
        assert!(!line["reason"].as_str().unwrap().is_empty(), "{line}");
    }
    // In words, and without a cluster that answers.
    fixture.cluster.servers().iter().for_each(|server| server.kill9().unwrap());
    let output = tiffin(&["explain", "--config", config, "SELECT 1"]);
    assert!(output.status.success() && said(&output).contains("read"), "{}", said(&output));
}

#[test]
fn check_reports_every_node_and_what_is_missing() {
    let fixture = Fixture::start();
    let config = fixture.proxy.config_path.to_str().unwrap();
    let output = tiffin(&["check", "--config", config]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for word in ["pg0", "pg1", "pg2", "primary", "replica", "15"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // A service user that may not see what it must, and a node that is down.
    fixture.cluster.primary().execute("REVOKE pg_monitor FROM tiffin").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    fixture.cluster.replica(1).kill9().unwrap();
    let output = tiffin(&["check", "--config", config]);
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("GRANT pg_monitor TO"), "the line that grants it: {text}");
    assert!(!text.contains(&fixture.cluster.service.password));
}

on_mysql_and_mariadb! {
    check_looks_at_servers_that_replicate_by_gtid,
    the_sandbox_tour_holds_as_well,
}

fn check_looks_at_servers_that_replicate_by_gtid(engine: Engine) {
    let cluster = my::cluster(engine);
    let config = cluster.folder().join("tiffin.yaml");
    let value = tiffin::cli::sandbox::proxy::mysql_config(&cluster, 0).unwrap();
    std::fs::write(&config, value.to_string()).unwrap();
    let check = || tiffin(&["check", "--config", config.to_str().unwrap()]);
    let output = check();
    let text = said(&output);
    assert!(output.status.success() && text.contains("Nothing is missing"), "{text}");
    let version = cluster.primary().value("SELECT VERSION()").unwrap();
    let gtids = cluster.primary().executed().unwrap();
    for word in ["my0", "my2", "primary", "replica", &version, &gtids] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (privilege, user) = match engine {
        Engine::MySql => ("REPLICATION CLIENT", "'tiffin'@'%'"),
        Engine::MariaDb => ("SLAVE MONITOR", "'tiffin'@'%'"),
    };
    let primary = cluster.primary();
    primary.execute(&format!("REVOKE {privilege} ON *.* FROM {user}")).unwrap();
    primary.execute("ALTER USER app IDENTIFIED BY 'another'").unwrap();
    cluster.wait_caught_up(primary).unwrap();
    cluster.replica(1).kill9().unwrap();
    let output = check();
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    let grant = format!("GRANT {privilege} ON *.* TO {user};");
    for words in [grant.as_str(), "ALTER USER 'app'@'%' IDENTIFIED BY '…'", "my2"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains(&cluster.service.password));
}

fn the_sandbox_tour_holds_as_well(engine: Engine) {
    the_tour_holds(engine.word());
}

/// The whole demonstration, as `make demo` runs it without a terminal.
#[test]
fn the_sandbox_tour_holds() {
    the_tour_holds("postgres");
}

fn the_tour_holds(engine: &str) {
    let started = Instant::now();
    let mut command = Command::new(binary());
    command.args(["sandbox", "--engine", engine]).env("TIFFIN_MYSQL_BIN", my::mysql_9());
    let output = command.output().expect("run tiffin");
    let text = said(&output);
    println!(
        "{text}\nmeasured: the tour on {engine} took {:.1} s",
        started.elapsed().as_secs_f64()
    );
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
    assert!(text.matches(" ok\n").count() >= 7, "{text}");
    let folder = text.lines().find_map(|line| line.trim().strip_prefix("/tmp/tiffin-"));
    if let Some(rest) = folder {
        assert!(!std::path::Path::new(&format!("/tmp/tiffin-{rest}")).exists(), "it stays behind");
    }
}
