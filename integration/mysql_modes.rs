//! Servers that read texts in another way than by default, for all their sessions (`sql_mode`), or
//! run them in another way: the first statement of a session goes where it belongs.

use crate::support::PATIENCE;
use crate::support::mysql::{Engine, Fixture, Session, client_opts, on_mysql_and_mariadb};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::process::Command;
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! {
    sessions_begin_as_the_servers_are_set,
    init_connect_is_run_for_each_session,
}

/// Reads without a lock, or a string, by one mode; by the other they lock a row.
const BY_QUOTES: &str = r#"SELECT @@port AS "x\" FROM t LIMIT 1 FOR UPDATE -- ""#;
const BY_BACKSLASHES: &str = r"SELECT @@port, 'x\' FROM t LIMIT 1 FOR UPDATE -- '";

/// The servers' mode, and where the two texts run.
const TABLE: [(&str, bool, bool); 4] = [
    ("NO_ENGINE_SUBSTITUTION", true, true),
    ("ANSI_QUOTES,NO_ENGINE_SUBSTITUTION", false, true),
    ("NO_BACKSLASH_ESCAPES", false, false),
    ("ANSI_QUOTES,NO_BACKSLASH_ESCAPES", false, false),
];

fn sessions_begin_as_the_servers_are_set(engine: Engine) {
    let fixture = Fixture::start(engine);
    let primary = fixture.cluster.primary();
    primary.execute("CREATE TABLE app.t (n int PRIMARY KEY)").unwrap();
    primary.execute("INSERT INTO app.t VALUES (1)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());
    let read = "SELECT @@port FROM t LIMIT 1";
    let on_replica = |session: &Session, sql| fixture.ran_on(session, sql) != primary.name;
    wait_until(PATIENCE, || on_replica(&fixture.session(), read)).expect("the catalog");
    for (mode, quotes, backslashes) in TABLE {
        let before = fixture.session();
        let old = before.value("SELECT @@sql_mode").unwrap();
        for server in fixture.cluster.servers() {
            server.execute(&format!("SET GLOBAL sql_mode = '{mode}'")).unwrap();
        }
        let known = || fixture.session().value("SELECT @@sql_mode").unwrap() == mode;
        wait_until(PATIENCE, known).expect("new sessions have it");
        for (sql, expected) in [(BY_QUOTES, quotes), (BY_BACKSLASHES, backslashes)] {
            for _ in 0..4 {
                assert_eq!(on_replica(&fixture.session(), sql), expected, "{mode}: {sql}");
            }
        }
        // On whichever connection: what a session began with is its own.
        for _ in 0..4 {
            assert_eq!(before.value("SELECT @@sql_mode FROM t LIMIT 1").unwrap(), old);
        }
        let own = fixture.session();
        own.execute("SET sql_mode = ''").unwrap();
        assert!(on_replica(&own, BY_BACKSLASHES), "{mode}");
        own.execute("SET sql_mode = DEFAULT").unwrap();
        assert_eq!(on_replica(&own, BY_BACKSLASHES), backslashes, "{mode}");
        assert_eq!(own.value("SELECT @@sql_mode").unwrap(), mode);
    }
    explain_reads_as_the_servers_do(&fixture);
    a_reset_begins_anew(&fixture);
    transactions_by_default(&fixture);
}

/// The servers are set to the last mode of the table.
fn explain_reads_as_the_servers_do(fixture: &Fixture) {
    let target = |more: &[&str]| {
        let output = Command::new(crate::support::binary())
            .args(["explain", "--format", "json", "--config"])
            .arg(&fixture.proxy.config_path)
            .args(more)
            .arg(BY_BACKSLASHES)
            .output()
            .expect("explain");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an object");
        told["target"].as_str().map(str::to_owned)
    };
    assert_eq!(target(&[]).as_deref(), Some("primary"));
    assert_eq!(target(&["--offline"]).as_deref(), Some("replica"), "as by default");
}

fn a_reset_begins_anew(fixture: &Fixture) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Conn::new(fixture.opts()).await.unwrap();
        client.query_drop("SET sql_mode = ''").await.unwrap();
        assert!(client.reset().await.unwrap());
        let (mode, ..) = TABLE[TABLE.len() - 1];
        let now: Option<String> = client.query_first("SELECT @@sql_mode").await.unwrap();
        assert_eq!(now.as_deref(), Some(mode));
        client.disconnect().await.unwrap();
    });
}

/// Without autocommit on the servers the first statement of a session opens a transaction.
fn transactions_by_default(fixture: &Fixture) {
    let primary = fixture.cluster.primary();
    for server in fixture.cluster.servers() {
        server.execute("SET GLOBAL autocommit = 0").unwrap();
    }
    let read = "SELECT @@port FROM t LIMIT 1";
    let on_primary = || fixture.ran_on(&fixture.session(), read) == primary.name;
    wait_until(PATIENCE, on_primary).expect("the proxy hears of it");
    let session = fixture.session();
    assert_eq!(fixture.ran_on(&session, read), primary.name);
    session.execute("INSERT INTO t VALUES (2)").unwrap();
    session.execute("ROLLBACK").unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t").unwrap(), "1");
}

/// Servers run it for each connection; the sessions that share one each find what it sets, once,
/// and what they change follows them.
fn init_connect_is_run_for_each_session(engine: Engine) {
    let fixture = Fixture::with(crate::support::mysql::cluster(engine), |config| {
        config["workers"] = 1.into();
        let main = &mut config["clusters"]["main"];
        main["pool"] = serde_json::json!({ "size_max": 1 });
        main["monitor"] = serde_json::json!({ "interval": "10ms" });
    });
    fixture.create_table("t", "n int PRIMARY KEY");
    fixture.session().execute("INSERT INTO t VALUES (1)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    let look =
        "SELECT CONCAT_WS(' ', @@time_zone, @@group_concat_max_len, @@autocommit + 0) FROM t";
    let before = fixture.session().value(look).unwrap();
    let set = |sql: &str| {
        for server in fixture.cluster.servers() {
            server.execute(&format!("SET GLOBAL init_connect = \"{sql}\"")).unwrap();
        }
    };
    set("SET time_zone = '+05:00'; SET group_concat_max_len = 777;");
    let now = "+05:00 777 1";
    wait_until(PATIENCE, || fixture.session().value(look).unwrap() == now).expect("it is run");
    assert_eq!(fixture.direct(fixture.cluster.primary()).value(look).unwrap(), now);
    let (one, other) = (fixture.session(), fixture.session());
    let on_replica = || {
        assert_eq!(one.value(look).unwrap(), now);
        fixture.ran_on(&one, "SELECT @@port FROM t") != fixture.cluster.primary().name
    };
    wait_until(PATIENCE, on_replica).expect("it reads on a replica");
    one.execute("SET time_zone = '+06:00'").unwrap();
    for primary in ["", "/* tiffin: primary */ "] {
        let look = format!("{primary}{look}");
        assert_eq!(one.value(&look).unwrap(), "+06:00 777 1");
        assert_eq!(other.value(&look).unwrap(), now);
    }
    after_a_reset(&fixture, look, &before);
    // A write opens a transaction; a second session finds none of it.
    set("SET autocommit = 0");
    let is_off = || fixture.session().value(look).unwrap().ends_with(" 0");
    wait_until(PATIENCE, is_off).expect("it is run");
    let session = fixture.session();
    session.execute("INSERT INTO t VALUES (2)").unwrap();
    session.execute("ROLLBACK").unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t").unwrap(), "1");
}

/// What a client's own COM_RESET_CONNECTION leaves is what the servers are set to.
fn after_a_reset(fixture: &Fixture, look: &str, expected: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for port in [fixture.proxy.port, fixture.cluster.primary().port] {
            let opts = client_opts(port, &fixture.cluster.app);
            let mut client = Conn::new(mysql_async::Opts::from(opts)).await.unwrap();
            assert!(client.reset().await.unwrap());
            for _ in 0..4 {
                let now: Option<String> = client.query_first(look).await.unwrap();
                assert_eq!(now.as_deref(), Some(expected), "port {port}");
            }
            client.disconnect().await.unwrap();
        }
    });
}
