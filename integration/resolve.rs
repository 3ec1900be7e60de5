//! The primary is lost with commits under way, and their clients are told what became of them.

use crate::support::{Fixture, PATIENCE, Server, Session, confirm_nothing, sqlstate, wait_until};
use std::thread::{JoinHandle, spawn};

/// How a client writes: the parts of the protocol that a commit can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// COMMIT as a simple query.
    Commit,
    /// COMMIT as a prepared statement.
    Prepared,
    /// A statement alone, as a simple query.
    Query,
    /// A statement alone, prepared, with a result.
    Statement,
}

const WAYS: [Way; 4] = [Way::Commit, Way::Prepared, Way::Query, Way::Statement];

/// Transactions of others on the new primary, more than the old one had begun.
const OTHERS: usize = 300;

/// Clients that wait for the disk.
const WRITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
    AND datname = 'app' AND wait_event_type IN ('IO', 'LWLock')";

/// The questions of the proxy's own that wait for a confirmation.
const CONFIRMING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
    AND query LIKE '%pg_logical_emit_message%'";

/// A client whose commit is under way, and later what it was told. It goes on with its session.
struct Client {
    way: Way,
    n: i32,
    outcome: JoinHandle<(Session, anyhow::Result<()>)>,
}

impl Client {
    fn begin(fixture: &Fixture, way: Way, n: i32) -> Client {
        let session = fixture.session();
        let outcome = spawn(move || {
            let insert = format!("INSERT INTO t VALUES ({n})");
            if matches!(way, Way::Commit | Way::Prepared) {
                session.query("BEGIN").unwrap();
                session.query(&insert).unwrap();
            }
            let told = match way {
                Way::Commit => session.query("COMMIT").map(|_| ()),
                Way::Prepared => session.rows("COMMIT", &[]).map(|_| ()),
                Way::Query => session.query(&insert).map(|_| ()),
                Way::Statement => {
                    let rows = session.rows("INSERT INTO t VALUES ($1) RETURNING n", &[&n]);
                    rows.map(|rows| assert_eq!(rows[0].get::<_, i32>(0), n))
                }
            };
            (session, told)
        });
        Client { way, n, outcome }
    }

    /// What it was told; its session must be as before.
    fn told(self) -> Result<(), String> {
        let (session, told) = self.outcome.join().unwrap();
        let again = session.value("SELECT 1");
        assert_eq!(again.unwrap_or_else(|error| panic!("{:?}: {error:#}", self.way)), "1");
        told.map_err(|error| sqlstate(&error).unwrap_or("none").to_owned())
    }
}

/// All clients wait for a confirmation that nobody gives: committed on the primary's disk, and on
/// its replicas if these receive.
fn commits_under_way(fixture: &Fixture, primary: &Server, first: i32) -> Vec<Client> {
    confirm_nothing(primary);
    let clients = WAYS.iter().zip(first..).map(|(way, n)| Client::begin(fixture, *way, n));
    let clients: Vec<Client> = clients.collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let all = clients.len().to_string();
    wait_until(PATIENCE, || primary.value(waiting).is_ok_and(|count| count == all))
        .expect("commits under way");
    clients
}

fn count(fixture: &Fixture, server: &Server, n: i32) -> String {
    fixture.direct(server).value(&format!("SELECT count(*) FROM t WHERE n = {n}")).unwrap()
}

#[test]
fn clients_learn_what_became_of_their_commits() {
    let fixture = Fixture::build()
        .setting("wal_log_hints", "on")
        .key("gate.hold", "2min")
        .key("failover.resolve_commits", "on")
        .start();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    fixture.session().query("CREATE TABLE other (n int)").unwrap();
    let [one, two, three] = fixture.cluster.servers() else { panic!("three servers") };
    fixture.cluster.wait_caught_up(one).unwrap();

    // The replicas have it all.
    let clients = commits_under_way(&fixture, one, 10);
    fixture.cluster.wait_caught_up(one).unwrap();
    one.kill9().unwrap();
    two.promote().unwrap();
    for client in clients {
        let (way, n) = (client.way, client.n);
        assert_eq!(client.told(), Ok(()), "{way:?}, replicated");
        assert_eq!(count(&fixture, two, n), "1", "{way:?}, replicated");
    }

    // They have nothing, and the new primary has given the ids to others.
    fixture.cluster.rewind(one, two).unwrap();
    fixture.cluster.follow(three, two).unwrap();
    fixture.wait_in_read_set([one, three]);
    fixture.cluster.wait_caught_up(two).unwrap();
    one.cut_receiver().unwrap();
    three.cut_receiver().unwrap();
    let clients = commits_under_way(&fixture, two, 20);
    fixture.proxy.signal("STOP").unwrap();
    two.kill9().unwrap();
    three.promote().unwrap();
    let direct = fixture.direct(three);
    for n in 0..OTHERS {
        direct.query(&format!("INSERT INTO other VALUES ({n})")).unwrap();
    }
    fixture.proxy.signal("CONT").unwrap();
    for client in clients {
        let (way, n) = (client.way, client.n);
        let alone = matches!(way, Way::Query | Way::Statement);
        let expected = if alone { Ok(()) } else { Err("40001".to_owned()) };
        assert_eq!(client.told(), expected, "{way:?}, lost\n{}", fixture.proxy.log());
        // What is a transaction of its own has run again.
        assert_eq!(count(&fixture, three, n), if alone { "1" } else { "0" }, "{way:?}, lost");
    }

    // The primary itself comes back after a crash.
    let clients = commits_under_way(&fixture, three, 30);
    three.kill9().unwrap();
    three.start().unwrap();
    // It has them on disk, and nobody is told before they are confirmed as any commit is.
    wait_until(PATIENCE, || three.value(CONFIRMING).is_ok_and(|count| count == "4"))
        .unwrap_or_else(|_| panic!("nobody waits\n{}", fixture.proxy.log()));
    assert!(clients.iter().all(|client| !client.outcome.is_finished()));
    three.set("synchronous_standby_names", "''").unwrap();
    for client in clients {
        let (way, n) = (client.way, client.n);
        assert_eq!(client.told(), Ok(()), "{way:?}, restarted\n{}", fixture.proxy.log());
        assert_eq!(count(&fixture, three, n), "1", "{way:?}, restarted");
    }

    let metrics = fixture.metrics();
    let resolved = |outcome| metrics.sum("tiffin_commits_resolved_total", &[("outcome", outcome)]);
    assert_eq!(["committed", "absent", "unknown"].map(resolved), [8.0, 4.0, 0.0]);
}

/// The old primary has crashed with commits that nobody had on disk, has come back and gone on at the
/// same places of the log, and only then another one was promoted: what stands there now are others.
#[test]
fn nothing_of_a_life_that_was_not_seen_is_taken_for_the_commit() {
    let fixture = Fixture::build()
        .options(|options| options.preload = Some(crate::support::slow_disk::library()))
        .key("gate.hold", "2min")
        .key("failover.resolve_commits", "on")
        .start();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    fixture.session().query("CREATE TABLE other (n int)").unwrap();
    let [one, two, _] = fixture.cluster.servers() else { panic!("three servers") };
    // What would be written for new connections and for the table's first row is written before.
    let sessions: Vec<Session> = WAYS.iter().map(|_| fixture.session()).collect();
    for sql in ["BEGIN", "INSERT INTO t VALUES (0)", "COMMIT"] {
        sessions.iter().for_each(|session| drop(session.query(sql).unwrap()));
    }
    drop(sessions);
    fixture.cluster.wait_caught_up(one).unwrap();

    one.slow_disk(PATIENCE).unwrap();
    let clients: Vec<Client> =
        WAYS.iter().zip(10..).map(|(way, n)| Client::begin(&fixture, *way, n)).collect();
    wait_until(PATIENCE, || one.value(WRITING).is_ok_and(|count| count == "4"))
        .expect("commits that wait for the disk");
    fixture.proxy.signal("STOP").unwrap();
    one.kill9().unwrap();
    one.slow_disk(std::time::Duration::ZERO).unwrap();
    one.start().unwrap();
    one.query("CHECKPOINT").unwrap();
    one.query("SELECT pg_switch_wal()").unwrap();
    one.query("CHECKPOINT").unwrap();
    fixture.cluster.wait_caught_up(one).unwrap();
    one.kill9().unwrap();
    two.promote().unwrap();
    let direct = fixture.direct(two);
    for n in 0..OTHERS {
        direct.query(&format!("INSERT INTO other VALUES ({n})")).unwrap();
    }
    fixture.proxy.signal("CONT").unwrap();
    for client in clients {
        let (way, n) = (client.way, client.n);
        let told = client.outcome.join().unwrap().1.map_err(|error| format!("{error:#}"));
        assert!(told.is_err(), "{way:?}: {}", fixture.proxy.log());
        assert_eq!(count(&fixture, two, n), "0", "{way:?}");
    }
    let unknown = [("outcome", "unknown")];
    assert_eq!(fixture.metrics().sum("tiffin_commits_resolved_total", &unknown), 4.0);
}
