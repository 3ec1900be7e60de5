//! Servers that read texts in another way than by default, for all their sessions (`sql_mode`), or
//! run them in another way: the first statement of a session goes where it belongs.

use crate::support::PATIENCE;
use crate::support::mysql::{Engine, Fixture, Session, on_mysql_and_mariadb};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! { sessions_begin_as_the_servers_are_set }

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
    a_reset_begins_anew(&fixture);
    transactions_by_default(&fixture);
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
