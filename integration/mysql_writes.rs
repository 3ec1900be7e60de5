//! The primary of MySQL and MariaDB is lost with writes under way that are transactions of their own,
//! and their clients get the replies, as in `mysql_resolve.rs`.

use crate::mysql_resolve::{names_in_log, start};
use crate::support::mysql::{Engine, Fixture, Server, confirm_writes, errno, on_mysql_and_mariadb};
use crate::support::{PATIENCE, wait_until};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use std::thread::{JoinHandle, spawn};
use tokio::runtime::Builder;

on_mysql_and_mariadb! {
    clients_get_the_replies_to_their_writes,
    answers_are_those_of_the_statements,
}

/// Rows, id and text of an OK, or the number of the error.
type Told = Result<(u64, u64, String), u16>;

/// A statement, of which `*` is a number of its own.
struct Case {
    sql: &'static str,
    is_prepared: bool,
    rows: u64,
    /// The OK has the id of the first row that it inserts.
    has_id: bool,
    info: &'static str,
    /// What is 1 if it has run once.
    once: &'static str,
}

const CASES: &[Case] = &[
    Case {
        sql: "INSERT INTO t VALUES (*)",
        is_prepared: false,
        rows: 1,
        has_id: false,
        info: "",
        once: "SELECT COUNT(*) FROM app.t WHERE n = *",
    },
    Case {
        sql: "INSERT INTO ids (n) VALUES (*)",
        is_prepared: true,
        rows: 1,
        has_id: true,
        info: "",
        once: "SELECT COUNT(*) FROM app.ids WHERE n = *",
    },
    Case {
        sql: "INSERT INTO ids (n) VALUES (*), (-*)",
        is_prepared: false,
        rows: 2,
        has_id: true,
        info: "Records: 2  Duplicates: 0  Warnings: 0",
        once: "SELECT COUNT(*) FROM app.ids WHERE n = *",
    },
    Case {
        sql: "UPDATE counters SET n = n + 1, last = * WHERE id IN (1, 2)",
        is_prepared: true,
        rows: 2,
        has_id: false,
        info: "Rows matched: 2  Changed: 2  Warnings: 0",
        once: "SELECT SUM(last = *) / 2 FROM app.counters",
    },
];

/// A client with a statement under way, and later what it was told.
struct Client {
    case: &'static Case,
    n: usize,
    told: JoinHandle<Told>,
}

impl Client {
    fn begin(fixture: &Fixture, case: &'static Case, n: usize) -> Client {
        let opts = fixture.opts();
        let sql = case.sql.replace('*', &n.to_string());
        let told = spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut session = Conn::new(opts).await.unwrap();
                let told = match case.is_prepared {
                    true => session.exec_drop(&sql, ()).await,
                    false => session.query_drop(&sql).await,
                };
                let id = session.last_insert_id().unwrap_or_default();
                let told = match told {
                    Ok(()) => Ok((session.affected_rows(), id, session.info().into_owned())),
                    Err(Error::Server(error)) => return Err(error.code),
                    Err(other) => panic!("{sql}: {other}"),
                };
                // The session goes on, and nothing of it is open.
                let again: Option<u64> =
                    session.query_first("SELECT LAST_INSERT_ID()").await.unwrap();
                assert_eq!(again, Some(id), "{sql}");
                told
            })
        });
        Client { case, n, told }
    }
}

/// All are in the primary's log, and wait for a confirmation.
fn writes_under_way(fixture: &Fixture, primary: &Server, first: usize) -> Vec<Client> {
    confirm_writes(primary);
    let before = names_in_log(primary);
    let clients = CASES.iter().zip(first..).map(|(case, n)| Client::begin(fixture, case, n));
    let clients: Vec<Client> = clients.collect();
    wait_until(PATIENCE, || names_in_log(primary) == before + clients.len())
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
    clients
}

/// None is answered: the rows are locked.
fn writes_that_wait(fixture: &Fixture, primary: &Server, first: usize) -> Vec<Client> {
    let case = CASES.iter().find(|case| case.sql.starts_with("UPDATE")).unwrap();
    let client = Client::begin(fixture, case, first);
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist \
                   WHERE user = 'app' AND info LIKE '%UPDATE counters%'";
    wait_until(PATIENCE, || primary.value(waiting).is_ok_and(|count| count == "1"))
        .expect("it waits");
    vec![client]
}

/// Each has been done once, and is told so in full.
fn check(fixture: &Fixture, clients: Vec<Client>, server: &Server) {
    for Client { case, n, told } in clients {
        let told = told.join().unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
        let n = n.to_string();
        let value = |sql: &str| server.value(&sql.replace('*', &n)).unwrap();
        let id = match case.has_id {
            true => value("SELECT id FROM app.ids WHERE n = *").parse().unwrap(),
            false => 0,
        };
        let expected = Ok((case.rows, id, case.info.to_owned()));
        assert_eq!(told, expected, "{} {n}\n{}", case.sql, fixture.proxy.log());
        let once = value(case.once).parse::<f64>().unwrap();
        assert_eq!(once, 1.0, "{} {n}\n{}", case.sql, fixture.proxy.log());
    }
}

fn resolved(fixture: &Fixture) -> [f64; 3] {
    let metrics = fixture.metrics();
    ["committed", "absent", "unknown"]
        .map(|outcome| metrics.sum("tiffin_commits_resolved_total", &[("outcome", outcome)]))
}

fn with_tables(engine: Engine) -> Fixture {
    let fixture = start(engine, "off");
    fixture.create_table("ids", "id int AUTO_INCREMENT PRIMARY KEY, n int");
    fixture.create_table("counters", "id int PRIMARY KEY, n int, last int");
    let session = fixture.session();
    session.execute("INSERT INTO counters VALUES (1, 0, 0), (2, 0, 0)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    fixture
}

fn clients_get_the_replies_to_their_writes(engine: Engine) {
    let fixture = with_tables(engine);
    let [one, two, three] = fixture.cluster.servers() else { panic!("three servers") };

    // The replicas have it all.
    let clients = writes_under_way(&fixture, one, 10);
    wait_until(PATIENCE, || {
        let count = |sql| two.value(sql).unwrap_or_default();
        count("SELECT COUNT(*) FROM app.ids") == "3"
            && count("SELECT COUNT(*) FROM app.t") == "1"
            && count("SELECT SUM(n) FROM app.counters") == "2"
    })
    .expect("replicated");
    one.kill9().unwrap();
    two.promote().unwrap();
    check(&fixture, clients, two);
    assert_eq!(resolved(&fixture), [4.0, 0.0, 0.0], "{}", fixture.proxy.log());

    // The only one left has nothing of it: they run there.
    fixture.cluster.follow(three, two).unwrap();
    fixture.wait_in_read_set([three]);
    fixture.cluster.wait_caught_up(two).unwrap();
    three.stop_receiving().unwrap();
    let clients = writes_under_way(&fixture, two, 20);
    two.kill9().unwrap();
    three.promote().unwrap();
    check(&fixture, clients, three);
    assert_eq!(resolved(&fixture), [4.0, 4.0, 0.0], "{}", fixture.proxy.log());

    // The primary itself comes back after a crash: with what was committed …
    let clients = writes_under_way(&fixture, three, 30);
    three.kill9().unwrap();
    three.start().unwrap();
    check(&fixture, clients, three);
    assert_eq!(resolved(&fixture), [8.0, 4.0, 0.0], "{}", fixture.proxy.log());

    // … and without what had not been answered.
    let lock = |server: &Server| {
        let holder = fixture.direct(server);
        holder.query("BEGIN").unwrap();
        holder.query("SELECT * FROM app.counters FOR UPDATE").unwrap();
        holder
    };
    let holder = lock(three);
    let clients = writes_that_wait(&fixture, three, 40);
    three.kill9().unwrap();
    drop(holder);
    three.start().unwrap();
    check(&fixture, clients, three);
    assert_eq!(resolved(&fixture), [8.0, 5.0, 0.0], "{}", fixture.proxy.log());

    // A table without transactions keeps what was taken back.
    three.execute("CREATE TABLE app.kept (n int) ENGINE=MyISAM").unwrap();
    let holder = lock(three);
    let [client] = <[Client; 1]>::try_from(writes_that_wait(&fixture, three, 50)).ok().unwrap();
    three.kill9().unwrap();
    drop(holder);
    three.start().unwrap();
    assert_eq!(client.told.join().unwrap(), Err(1180), "{}", fixture.proxy.log());
}

/// Nobody is lost, and nothing shows that there is a transaction.
fn answers_are_those_of_the_statements(engine: Engine) {
    let fixture = with_tables(engine);
    let primary = fixture.cluster.primary();
    let before = names_in_log(primary);
    for (case, n) in CASES.iter().zip(10..) {
        check(&fixture, vec![Client::begin(&fixture, case, n)], primary);
    }
    assert_eq!(names_in_log(primary), before + CASES.len());
    let session = fixture.session();
    session.execute("INSERT INTO t VALUES (1)").unwrap();
    let refused = session.execute("INSERT INTO t VALUES (2), (1)").unwrap_err();
    assert_eq!(errno(&refused), Some(1062), "{refused:#}");
    // They went with the end of the transaction: nothing else is given for them.
    let refused = session.query("SHOW WARNINGS").unwrap_err();
    assert_eq!(errno(&refused), Some(1105), "{refused:#}");
    // What it had done is taken back, and nothing is open.
    assert_eq!(primary.value("SELECT COUNT(*) FROM app.t WHERE n < 3").unwrap(), "1");
    let open = "SELECT COUNT(*) FROM information_schema.innodb_trx";
    wait_until(PATIENCE, || primary.value(open).is_ok_and(|count| count == "0")).expect("ended");
    session.execute("UPDATE counters SET n = 7 WHERE id = 1").unwrap();
    assert_eq!(session.value("SELECT ROW_COUNT()").unwrap(), "1");
    assert_eq!(session.value("SELECT n FROM counters WHERE id = 1").unwrap(), "7");
    // In a transaction of the client's there is one savepoint, in front of its COMMIT.
    let before = names_in_log(primary);
    session.execute("BEGIN").unwrap();
    session.execute("INSERT INTO t VALUES (3)").unwrap();
    session.execute("INSERT INTO t VALUES (4)").unwrap();
    session.execute("COMMIT").unwrap();
    assert_eq!(names_in_log(primary), before + 1);
}
