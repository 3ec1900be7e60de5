//! Read-only transactions on a replica: when they go on elsewhere, what they are told if they cannot,
//! and what comes behind their end.

use crate::support::wire::{self, Wire, bind, execute, parse, query, sync, tags};
use crate::support::{Fixture, PATIENCE, state_of, wait_until};

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const ON: &str = "SELECT inet_server_port(), count(*) FROM t";

/// It cannot go on elsewhere with what it has seen: it says so, and the next one is elsewhere.
#[test]
fn a_snapshot_on_a_replica_stays_there() {
    let fixture = Fixture::build().replicas(1).start();
    // A function that does not do what it says.
    let hidden = "CREATE FUNCTION hidden() RETURNS void STABLE LANGUAGE plpgsql \
                  AS $$BEGIN PERFORM pg_notify('a', 'b'); END$$";
    fixture.session().query(hidden).unwrap();
    fixture.create_table("t", "n int");
    let primary = fixture.cluster.primary();
    let calls =
        ["SELECT pg_advisory_xact_lock(5)", "SELECT pg_notify('a', 'b')", "SELECT hidden()"];
    for call in calls {
        let session = fixture.session();
        session.query(BEGIN).unwrap();
        assert_ne!(fixture.ran_on(&session, ON), primary.name);
        assert_eq!(state_of(session.query(call)), "40001", "{call}");
        assert_eq!(state_of(session.query("SELECT 1")), "25P02");
        session.query("ROLLBACK").unwrap();
        // As whoever is told of a serialization failure does.
        session.query(BEGIN).unwrap();
        assert_eq!(fixture.ran_on(&session, ON), primary.name);
        session.query(call).unwrap();
        session.query("COMMIT").unwrap();
        session.query("DISCARD ALL").unwrap();
        let on_replica = || {
            session.query("ROLLBACK").unwrap();
            session.query(BEGIN).unwrap();
            fixture.ran_on(&session, ON) != primary.name
        };
        wait_until(PATIENCE, on_replica).unwrap();
        // What no server does is refused in the server's words.
        assert_eq!(state_of(session.query("INSERT INTO t VALUES (1)")), "25006");
        session.query("ROLLBACK").unwrap();
    }
    // From its first statement on, and as long as it has seen nothing.
    let session = fixture.session();
    for before in ["SET LOCAL work_mem = '5MB'", "SAVEPOINT a", "SHOW work_mem"] {
        session.query(BEGIN).unwrap();
        session.query(before).unwrap();
        session.query("SELECT pg_advisory_xact_lock(5)").unwrap();
        assert_eq!(fixture.ran_on(&session, ON), primary.name);
        session.query("COMMIT").unwrap();
    }
}

/// Where the next request goes is decided when the transaction is over.
#[test]
fn requests_behind_the_end_of_a_transaction_are_not_part_of_it() {
    let fixture = Fixture::build().replicas(1).clear_passwords().start();
    fixture.create_table("t", "n int");
    let app = &fixture.cluster.app;
    let port = fixture.proxy.port;
    let (mut client, _) = Wire::login(port, wire::VERSION_3_0, &app.user, &app.password);
    let run = |sql: &str| [parse("", sql), bind("", ""), execute("", 0)].concat();
    let insert = "INSERT INTO t VALUES (1)";
    let fails = "SELECT 1 / count(*) FROM t WHERE n = 2";
    for inside in ["SELECT count(*) FROM t", fails] {
        let pipelines = [
            [query("COMMIT"), query(insert)].concat(),
            [run("ROLLBACK"), sync(), run(insert), sync()].concat(),
        ];
        for pipeline in pipelines {
            client.query(BEGIN);
            client.query(inside);
            client.send(&pipeline);
            client.until_ready();
            let told = tags(&client.until_ready());
            assert!(told.ends_with("CZ") && !told.contains('E'), "{told} behind {inside}");
        }
    }
    // In the same request, where nothing is left of the transaction.
    for request in
        [query(&format!("ROLLBACK; {insert}")), [run("ROLLBACK"), run(insert), sync()].concat()]
    {
        client.query(BEGIN);
        client.query(fails);
        client.send(&request);
        let told = tags(&client.until_ready());
        assert!(told.ends_with("CZ") && !told.contains('E'), "{told}");
    }
}

/// What fails before a server knows of its transaction has failed on every server.
#[test]
fn a_transaction_that_no_server_has_seen_fails_as_a_whole() {
    let fixture = Fixture::build()
        .replicas(0)
        .key("pool.size_max", 1)
        .key("pool.wait_timeout", "200ms")
        .config(|config| config["workers"] = 1.into())
        .start();
    fixture.create_table("t", "n int");
    let (one, other) = (fixture.session(), fixture.session());
    one.query("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    other.query("BEGIN").unwrap();
    assert_eq!(state_of(other.query("INSERT INTO t VALUES (2)")), "53300");
    one.query("COMMIT").unwrap();
    let several = "INSERT INTO t VALUES (3); INSERT INTO t VALUES (4)";
    assert_eq!(state_of(other.query(several)), "25P02");
    other.query("ROLLBACK; INSERT INTO t VALUES (5)").unwrap();
    let all = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
    assert_eq!(other.value(all).unwrap(), "1,5");
}
