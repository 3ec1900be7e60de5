//! The primary of MySQL and MariaDB is lost with commits under way, and their clients are told what
//! became of them, as in `resolve.rs`.

use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, Server, confirm_writes, on_mysql_and_mariadb, options,
};
use crate::support::{PATIENCE, wait_until};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::json;
use std::thread::{JoinHandle, spawn};
use tokio::runtime::Builder;

on_mysql_and_mariadb! {
    clients_learn_what_became_of_their_commits,
    a_commit_that_one_server_has_is_not_told,
    a_commit_that_has_not_happened_runs_again,
}

/// How a client commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a text.
    Text,
    /// By a prepared statement.
    Prepared,
    /// A transaction that no BEGIN has begun.
    NoAutocommit,
    /// A session that has more on the server than its transaction.
    Bound,
}

const WAYS: [Way; 4] = [Way::Text, Way::Prepared, Way::NoAutocommit, Way::Bound];

/// A client whose COMMIT is under way, and later what it was told.
struct Client {
    way: Way,
    n: i32,
    told: JoinHandle<Result<(), u16>>,
}

/// With a primary whose commits wait for a confirmation, once [`confirm_writes`] is called: nobody
/// confirms any, but replicas receive all the same.
pub fn start(engine: Engine, replay: &str) -> Fixture {
    let settings: &[(&str, &str)] = match engine {
        Engine::MySql => &[
            ("plugin_load_add", "semisync_source.so"),
            ("rpl_semi_sync_source_timeout", "3600000"),
        ],
        // A wait before the commit would keep others out of the log.
        Engine::MariaDb => &[
            ("rpl_semi_sync_master_wait_point", "AFTER_COMMIT"),
            ("rpl_semi_sync_master_timeout", "3600000"),
        ],
    };
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let options = Options { settings: settings.collect(), ..options(engine) };
    let fixture = Fixture::with(Cluster::start(options).expect("start the servers"), |config| {
        let main = &mut config["clusters"]["main"];
        main["gate"]["hold"] = "2min".into();
        main["failover"] = json!({ "resolve_commits": "on", "replay": replay });
    });
    fixture.create_table("t", "n int PRIMARY KEY");
    fixture
}

impl Client {
    fn begin(fixture: &Fixture, way: Way, n: i32) -> Client {
        let opts = fixture.opts();
        let told = spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut session = Conn::new(opts).await.unwrap();
                let begin = match way {
                    Way::NoAutocommit => "SET autocommit = 0",
                    _ => "BEGIN",
                };
                session.query_drop(begin).await.unwrap();
                session.query_drop(format!("INSERT INTO t VALUES ({n})")).await.unwrap();
                if way == Way::Bound {
                    session.query_drop("SET @mine = 1").await.unwrap();
                }
                let told = match way {
                    Way::Prepared => session.exec_drop("COMMIT", ()).await,
                    _ => session.query_drop("COMMIT").await,
                };
                let again: Result<Option<i32>, _> = session.query_first("SELECT 1").await;
                match way {
                    Way::Bound => assert!(again.is_err(), "{way:?} goes on"),
                    _ => assert_eq!(again.unwrap(), Some(1), "{way:?}"),
                }
                told.map_err(|error| match error {
                    mysql_async::Error::Server(error) => error.code,
                    other => panic!("{way:?}: {other}"),
                })
            })
        });
        Client { way, n, told }
    }
}

/// How many of the savepoints in front of commits a server's log has.
pub fn names_in_log(server: &Server) -> usize {
    let logs = server.query("SHOW BINARY LOGS").unwrap_or_default();
    let files = logs.iter().filter_map(|row| row.first().cloned().flatten());
    files
        .flat_map(|file| {
            server.query(&format!("SHOW BINLOG EVENTS IN '{file}'")).unwrap_or_default()
        })
        .filter(|event| {
            let info = event.last().cloned().flatten().unwrap_or_default();
            info.contains("SAVEPOINT `tiffin_")
        })
        .count()
}

/// All are in the primary's log, and wait for a confirmation.
fn commits_under_way(fixture: &Fixture, primary: &Server, ways: &[Way], first: i32) -> Vec<Client> {
    confirm_writes(primary);
    let before = names_in_log(primary);
    let clients = ways.iter().zip(first..).map(|(way, n)| Client::begin(fixture, *way, n));
    let clients: Vec<Client> = clients.collect();
    wait_until(PATIENCE, || names_in_log(primary) == before + clients.len())
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
    clients
}

/// Each is told this, and the server has it as often.
fn check(fixture: &Fixture, clients: Vec<Client>, server: &Server, told: Result<(), u16>) {
    for Client { way, n, told: client } in clients {
        let log = || fixture.proxy.log();
        assert_eq!(client.join().unwrap(), told, "{way:?} {n}\n{}", log());
        let count = server.value(&format!("SELECT COUNT(*) FROM app.t WHERE n = {n}")).unwrap();
        assert_eq!(count, if told.is_ok() { "1" } else { "0" }, "{way:?} {n}\n{}", log());
    }
}

fn clients_learn_what_became_of_their_commits(engine: Engine) {
    let fixture = start(engine, "off");
    let [one, two, three] = fixture.cluster.servers() else { panic!("three servers") };

    // The replicas have it all.
    let clients = commits_under_way(&fixture, one, &WAYS, 10);
    wait_until(PATIENCE, || {
        two.value("SELECT COUNT(*) FROM app.t").is_ok_and(|count| count == "4")
    })
    .expect("replicated");
    one.kill9().unwrap();
    two.promote().unwrap();
    check(&fixture, clients, two, Ok(()));

    // The only one left has nothing of it.
    fixture.cluster.follow(three, two).unwrap();
    fixture.wait_in_read_set([three]);
    fixture.cluster.wait_caught_up(two).unwrap();
    three.stop_receiving().unwrap();
    let clients = commits_under_way(&fixture, two, &WAYS, 20);
    two.kill9().unwrap();
    three.promote().unwrap();
    check(&fixture, clients, three, Err(1213));

    // The primary itself comes back after a crash.
    let clients = commits_under_way(&fixture, three, &WAYS, 30);
    three.kill9().unwrap();
    three.start().unwrap();
    check(&fixture, clients, three, Ok(()));

    // Only its connections are lost, and each commits once nobody waits any more.
    let clients = commits_under_way(&fixture, three, &WAYS, 40);
    fixture.proxy.signal("STOP").unwrap();
    let ids = "SELECT GROUP_CONCAT(id) FROM information_schema.processlist \
               WHERE user = 'app' AND info = 'COMMIT'";
    for id in three.value(ids).unwrap().split(',') {
        three.execute(&format!("KILL {id}")).unwrap();
    }
    fixture.proxy.signal("CONT").unwrap();
    let name = match engine {
        Engine::MySql => "rpl_semi_sync_source_enabled",
        Engine::MariaDb => "rpl_semi_sync_master_enabled",
    };
    three.execute(&format!("SET GLOBAL {name} = OFF")).unwrap();
    check(&fixture, clients, three, Ok(()));

    let metrics = fixture.metrics();
    let resolved = |outcome| metrics.sum("tiffin_commits_resolved_total", &[("outcome", outcome)]);
    assert_eq!(["absent", "unknown"].map(resolved), [4.0, 0.0]);
    // Of those that were killed, some servers tell the outcome themselves.
    assert!(resolved("committed") >= 8.0, "{}", resolved("committed"));
}

/// The primary crashes and is back, with commits in its log that no replica has.
fn a_commit_that_one_server_has_is_not_told(engine: Engine) {
    let fixture = start(engine, "off");
    let [one, two, three] = fixture.cluster.servers() else { panic!("three servers") };
    [two, three].iter().for_each(|replica| replica.stop_receiving().unwrap());
    let clients = commits_under_way(&fixture, one, &WAYS, 10);
    fixture.proxy.signal("STOP").unwrap();
    one.kill9().unwrap();
    one.start().unwrap();
    confirm_writes(one);
    fixture.proxy.signal("CONT").unwrap();
    let waits = || fixture.proxy.log().matches("in the log of my0: waiting for a replica").count();
    wait_until(PATIENCE, || waits() == clients.len())
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
    assert!(clients.iter().all(|client| !client.told.is_finished()));
    two.resume().unwrap();
    check(&fixture, clients, one, Ok(()));
    let count = two.value("SELECT COUNT(*) FROM app.t").unwrap();
    assert_eq!(count, WAYS.len().to_string(), "told before the replica has it");
}

/// Its transaction runs again with it, and is there once.
fn a_commit_that_has_not_happened_runs_again(engine: Engine) {
    let fixture = start(engine, "on");
    let [one, two, _] = fixture.cluster.servers() else { panic!("three servers") };
    two.stop_receiving().unwrap();
    let ways = [Way::Text, Way::Prepared, Way::NoAutocommit];
    let clients = commits_under_way(&fixture, one, &ways, 10);
    one.kill9().unwrap();
    two.promote().unwrap();
    check(&fixture, clients, two, Ok(()));
    let metrics = fixture.metrics();
    assert_eq!(metrics.sum("tiffin_commits_resolved_total", &[("outcome", "absent")]), 3.0);
    assert_eq!(metrics.sum("tiffin_replays_total", &[("outcome", "done")]), 3.0);
}
