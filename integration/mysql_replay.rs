//! The primary of MySQL and MariaDB is lost with transactions open, and they go on on the next one,
//! as in `replay.rs`.

use crate::promotion::{promoted, wait_done};
use crate::replay::{self, STATEMENTS_MAX, replays, under_way};
use crate::support::mysql::{Engine, Fixture, Server, on_mysql_and_mariadb};
use crate::support::{PATIENCE, Stand, Which, wait_until};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::runtime::{Builder, Runtime};

on_mysql_and_mariadb! {
    transactions_go_on_on_the_next_primary,
    what_cannot_go_on_fails_or_ends,
    a_read_only_transaction_goes_on_without_its_replica,
}

type Client = replay::Client<Server>;

fn start(engine: Engine) -> Fixture {
    let which = match engine {
        Engine::MySql => Which::MySql,
        Engine::MariaDb => Which::MariaDb,
    };
    let fixture = Server::promoting(which, |config| {
        let failover = &mut config["clusters"]["main"]["failover"];
        failover["replay"] = "on".into();
        failover["replay_statements_max"] = STATEMENTS_MAX.into();
    });
    for table in ["t", "u"] {
        fixture.create_table(table, "name varchar(20), n int, PRIMARY KEY (name, n)");
    }
    fixture.session().execute("INSERT INTO t VALUES ('all', 0)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    fixture
}

/// A client of prepared statements.
struct Prepared {
    runtime: Runtime,
    connection: Conn,
}

impl Prepared {
    fn begin(fixture: &Fixture) -> Prepared {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut connection = runtime.block_on(Conn::new(fixture.opts())).unwrap();
        runtime.block_on(connection.query_drop("BEGIN")).unwrap();
        Prepared { runtime, connection }
    }

    fn insert(&mut self, n: impl Into<mysql_async::Value>) {
        let sql = "INSERT INTO t VALUES ('prepared', ?)";
        self.runtime.block_on(self.connection.exec_drop(sql, (n.into(),))).unwrap();
    }

    /// Runs a statement that is closed at once.
    fn read_once(&mut self, sql: &str) -> Option<i32> {
        self.runtime.block_on(async {
            let statement = self.connection.prep(sql).await.unwrap();
            let value = self.connection.exec_first(&statement, ()).await.unwrap();
            self.connection.close(statement).await.unwrap();
            value
        })
    }

    fn query(&mut self, sql: &str) {
        self.runtime.block_on(self.connection.query_drop(sql)).unwrap();
    }
}

/// Who meets a duplicate locks what is beside it, and has a table of its own.
fn insert(name: &str, n: usize) -> String {
    let table = if name == "savepoints" { "u" } else { "t" };
    format!("INSERT INTO {table} VALUES ('{name}', {n})")
}

/// What is there of a client on a server.
fn rows_of(server: &Server, name: &str) -> String {
    let all = "(SELECT * FROM app.t UNION ALL SELECT * FROM app.u) x";
    let list = "COALESCE(GROUP_CONCAT(n ORDER BY n SEPARATOR ' '), '')";
    server.value(&format!("SELECT {list} FROM {all} WHERE name = '{name}'")).unwrap()
}

fn wait_running(primary: &Server, text: &str) {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE user = 'app' AND info LIKE '%{text}%'"
    );
    wait_until(PATIENCE, || primary.value(&sql).is_ok_and(|count| count == "1")).expect(text);
}

fn transactions_go_on_on_the_next_primary(engine: Engine) {
    let fixture = start(engine);
    let old = fixture.cluster.primary();
    let lock = "SELECT n FROM t WHERE name = 'all' AND n = 0 FOR UPDATE";
    let simple = Client::begin(&fixture, "simple", &[&insert("simple", 1), lock]);
    let savepoints = Client::begin(
        &fixture,
        "savepoints",
        &[&insert("savepoints", 1), "SAVEPOINT a", &insert("savepoints", 2)],
    );
    assert_eq!(savepoints.refused(&insert("savepoints", 2)), "1062");
    savepoints.run("ROLLBACK TO a");
    let settings = Client::new(&fixture, "settings");
    settings.run("SET time_zone = '+01:00'");
    settings.run("BEGIN");
    settings.run("SET time_zone = '+02:00'");
    settings.run(&insert("settings", 1));
    let manual = Client::new(&fixture, "manual");
    manual.run("SET autocommit = 0");
    manual.run(&insert("manual", 1));
    manual.run("COMMIT");
    manual.run(&insert("manual", 2));
    let mut prepared = Prepared::begin(&fixture);
    prepared.insert(1);
    // Other types of the same statement, and none the time after.
    prepared.insert("2");
    prepared.insert("3");
    assert_eq!(prepared.read_once("SELECT COUNT(*) FROM t WHERE name = 'prepared'"), Some(3));
    let sleeping = Client::begin(&fixture, "sleeping", &[&insert("sleeping", 1)]);
    // Rows that come in the time of many round trips: some of them before the loss.
    let rows = Client::begin(&fixture, "rows", &[&insert("rows", 1)]);
    let sleeping = under_way(sleeping.session, "SELECT SLEEP(2), 'sleeps'");
    let rows = under_way(
        rows.session,
        "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 150) \
         SELECT REPEAT('x', 1000), SLEEP(0.02), n FROM s",
    );
    wait_running(old, "sleeps");
    wait_running(old, "RECURSIVE");
    old.kill9().unwrap();

    let (new, _) = promoted(&fixture.cluster, &wait_done(&fixture, 1));
    let gone_on = |client: &Client, n: usize, rows: &str| {
        client.run(&insert(client.name, n));
        client.run("COMMIT");
        assert_eq!(rows_of(new, client.name), rows, "{}", client.name);
    };
    gone_on(&simple, 2, "1 2");
    gone_on(&savepoints, 3, "1 3");
    assert_eq!(settings.value("SELECT @@time_zone"), "+02:00");
    gone_on(&settings, 2, "1 2");
    assert_eq!(settings.value("SELECT @@time_zone"), "+02:00");
    gone_on(&manual, 3, "1 2 3");
    prepared.insert(4);
    prepared.query("COMMIT");
    assert_eq!(rows_of(new, "prepared"), "1 2 3 4");
    for (name, thread, count) in [("sleeping", sleeping, 1), ("rows", rows, 150)] {
        let (session, rows) = thread.join().unwrap();
        assert_eq!(rows, count, "{name}");
        session.execute("COMMIT").unwrap();
        assert_eq!(rows_of(new, name), "1", "{name}");
    }
    assert_eq!(replays(&fixture), [7.0, 0.0, 0.0], "{}", fixture.proxy.log());
}

fn what_cannot_go_on_fails_or_ends(engine: Engine) {
    let fixture = start(engine);
    let old = fixture.cluster.primary();
    let random = Client::begin(&fixture, "random", &[&insert("random", 1), "SELECT RAND()"]);
    let commit = Client::begin(&fixture, "commit", &[&insert("commit", 1), "SELECT UUID()"]);
    let given_up = Client::begin(&fixture, "given_up", &[&insert("given_up", 1), "SELECT RAND()"]);
    let many = Client::begin(&fixture, "many", &[]);
    (0..=STATEMENTS_MAX).for_each(|n| many.run(&insert("many", n)));
    let temporary = Client::begin(&fixture, "temporary", &["CREATE TEMPORARY TABLE mine (n int)"]);
    let variable = Client::begin(&fixture, "variable", &["SET @mine = 1"]);
    let again = Client::begin(&fixture, "again", &[&insert("again", 1)]);
    // It commits the first.
    again.run("START TRANSACTION");
    again.run(&insert("again", 2));
    fixture.cluster.wait_caught_up(old).unwrap();
    old.kill9().unwrap();

    let (new, _) = promoted(&fixture.cluster, &wait_done(&fixture, 1));
    assert_eq!(random.refused(&insert("random", 2)), "1213");
    // As after a deadlock: there is no transaction any more.
    assert_eq!(random.value("SELECT 1"), "1");
    random.run(&insert("random", 3));
    // A COMMIT must not pass for one.
    assert_eq!(commit.refused("COMMIT"), "1213");
    commit.run(&insert("commit", 2));
    given_up.run("ROLLBACK");
    for ended in [many, temporary, variable, again] {
        assert!(ended.session.execute("SELECT 1").is_err(), "{}", ended.name);
    }
    for (name, rows) in
        [("random", "3"), ("commit", "2"), ("given_up", ""), ("many", ""), ("again", "1")]
    {
        assert_eq!(rows_of(new, name), rows, "{name}");
    }
    assert_eq!(replays(&fixture), [0.0, 3.0, 4.0], "{}", fixture.proxy.log());
}

fn a_read_only_transaction_goes_on_without_its_replica(engine: Engine) {
    let fixture = start(engine);
    fixture.wait_in_read_set(fixture.cluster.replicas());
    let reader = Client::new(&fixture, "reader");
    reader.run("START TRANSACTION READ ONLY");
    let read = "SELECT @@port, n FROM t WHERE name = 'all'";
    let count = "SELECT COUNT(*) FROM t";
    let of = |server: &Server| {
        let sql = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_is_read_only = 1";
        server.value(sql).unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(reader.value(count), "1");
    let replica = fixture.cluster.replicas().iter().find(|replica| of(replica) == 1);
    let replica = replica.expect("it is on a replica");
    replica.kill9().unwrap();
    assert_eq!(reader.value(count), "1");
    assert_ne!(reader.value(read), replica.port.to_string());
    reader.run("COMMIT");
    assert_eq!(replays(&fixture), [1.0, 0.0, 0.0], "{}", fixture.proxy.log());
}
