//! Each class of statement on the node where it belongs, told by the servers themselves.

use crate::support::{Builder, Fixture, PATIENCE, Session, on_postgres_18, state_of, wait_until};

/// Where a statement must run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Primary,
    Replica,
}
use On::{Primary, Replica};

/// What the statements below need. Functions of each volatility, a view that hides one.
const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int);
    INSERT INTO t SELECT i, i FROM generate_series(1, 100) AS i;
    CREATE UNLOGGED TABLE u (id int);
    CREATE SEQUENCE s;
    CREATE VIEW plain AS SELECT id FROM t;
    CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
    CREATE FUNCTION looks() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
    CREATE FUNCTION writes() RETURNS int LANGUAGE sql VOLATILE
        AS 'INSERT INTO t VALUES ((SELECT max(id) + 1 FROM t), 0) RETURNING id';
    CREATE FUNCTION over(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE FUNCTION over(text) RETURNS int LANGUAGE plpgsql VOLATILE
        AS 'BEGIN INSERT INTO t VALUES ((SELECT max(id) + 1 FROM t), 0); RETURN 1; END';
    CREATE VIEW hides AS SELECT writes() AS id;
    CREATE PROCEDURE doing() LANGUAGE sql AS 'UPDATE t SET n = n WHERE id = 1';
    CREATE TYPE mood AS ENUM ('sad', 'ok');";

/// Every statement runs alone, outside a transaction.
const CASES: &[(On, &str)] = &[
    (Replica, "SELECT 1"),
    (Replica, "SELECT * FROM t WHERE id = 7"),
    (Replica, "select count(*) from t as a join t as b using (id)"),
    (Replica, "TABLE t"),
    (Replica, "VALUES (1), (2)"),
    (Replica, "WITH x AS (SELECT * FROM t) SELECT max(n) FROM x"),
    (
        Replica,
        "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < 9) SELECT * FROM r",
    ),
    (Replica, "SELECT id, row_number() OVER (ORDER BY n) FROM t"),
    (Replica, "SELECT * FROM t ORDER BY random() LIMIT 1"),
    (Replica, "SELECT now(), current_user, version()"),
    (Replica, "SELECT 'DELETE FROM t', $$UPDATE t$$ -- INSERT INTO t"),
    (Replica, "SELECT pure(1), looks()"),
    (Replica, "SELECT id FROM plain"),
    (Replica, "SELECT * FROM pg_class LIMIT 1"),
    (Replica, "SELECT * FROM information_schema.tables LIMIT 1"),
    (Replica, "EXPLAIN SELECT * FROM t"),
    (Replica, "EXPLAIN ANALYZE SELECT * FROM t"),
    (Replica, "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM t"),
    (Replica, "COPY (SELECT * FROM t) TO STDOUT"),
    (Replica, "COPY t TO STDOUT"),
    (Replica, "SELECT generate_series(1, 3)"),
    (Replica, "SELECT 'sad'::mood"),
    (Primary, "INSERT INTO t VALUES (1001, 1)"),
    (Primary, "UPDATE t SET n = n + 1 WHERE id = 1"),
    (Primary, "DELETE FROM t WHERE id = 1001"),
    (
        Primary,
        "MERGE INTO t USING (VALUES (1)) AS v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET n = 2",
    ),
    (Primary, "WITH x AS (INSERT INTO t VALUES (1002, 1) RETURNING id) SELECT * FROM x"),
    (Primary, "WITH a AS (SELECT 1), b AS (DELETE FROM t WHERE id = 1002) SELECT * FROM a"),
    (Primary, "SELECT * FROM t WHERE id = 1 FOR UPDATE"),
    (Primary, "SELECT * FROM t WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED"),
    (Primary, "SELECT * FROM t WHERE id = 1 FOR KEY SHARE"),
    (Primary, "SELECT * FROM (SELECT * FROM t WHERE id = 1 FOR SHARE) AS x"),
    (Primary, "SELECT * INTO made FROM t"),
    (Primary, "CREATE TABLE other AS SELECT * FROM t"),
    (Primary, "DROP TABLE other, made"),
    (Primary, "SELECT nextval('s')"),
    (Primary, "SELECT setval('s', 10)"),
    (Primary, "SELECT writes()"),
    (Primary, "SELECT * FROM writes()"),
    (Primary, "VALUES (writes())"),
    (Primary, "SELECT id FROM hides"),
    (Primary, "SELECT over('text'::text)"),
    (Primary, "SELECT txid_current()"),
    (Primary, "SELECT pg_current_xact_id()"),
    (Primary, "SELECT pg_notify('c', 'x')"),
    (Primary, "SELECT lo_create(0)"),
    (Primary, "SELECT pg_advisory_xact_lock(1)"),
    (Primary, "SELECT * FROM u"),
    (Primary, "EXPLAIN ANALYZE INSERT INTO t VALUES (1003, 1)"),
    (Primary, "EXPLAIN (ANALYZE) SELECT writes()"),
    (Primary, "COPY (INSERT INTO t VALUES (1004, 1) RETURNING id) TO STDOUT"),
    (Primary, "DO $$BEGIN UPDATE t SET n = 1 WHERE id = 2; END$$"),
    (Primary, "CALL doing()"),
    (Primary, "LOCK TABLE t IN ACCESS SHARE MODE; SELECT 1"),
    (Primary, "SELECT 1; INSERT INTO t VALUES (1005, 1)"),
    (Primary, "INSERT INTO t VALUES (1006, 1); SELECT 1"),
    (Primary, "NOTIFY c"),
    (Primary, "TRUNCATE u"),
    (Primary, "ANALYZE t"),
    (Primary, "VACUUM t"),
    (Primary, "CREATE INDEX i ON t (n)"),
    (Primary, "REFRESH MATERIALIZED VIEW CONCURRENTLY nothing"),
    (Primary, "COMMENT ON TABLE t IS 'lunch'"),
    (Primary, "GRANT SELECT ON t TO PUBLIC"),
];

/// Lag is another file's subject: here a busy machine's replicas may be as late as they like.
fn builder() -> Builder {
    Fixture::build().key("routing.max_lag", "10min")
}

#[test]
fn each_class_runs_where_it_belongs() {
    let fixture = builder().log_statements().start();
    let setup = fixture.direct(fixture.cluster.primary());
    setup.query(SCHEMA).unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    // The catalog was loaded before the schema was there; DDL through the proxy has it loaded
    // again, after which the functions are known.
    let session = fixture.session();
    session.query("CREATE TABLE ddl_through_the_proxy ()").unwrap();
    let primary = fixture.cluster.primary().port.to_string();
    let looks = "SELECT inet_server_port(), looks()";
    let known = || fixture.try_value(looks).is_ok_and(|port| port != primary);
    wait_until(PATIENCE, known).expect("the catalog is loaded again");

    let mut wrong = Vec::new();
    for (number, (on, sql)) in CASES.iter().enumerate() {
        for (protocol, run) in [("simple", simple as Run), ("extended", extended as Run)] {
            if protocol == "extended" && (sql.contains(';') || sql.starts_with("COPY")) {
                continue;
            }
            // A new session each time: what an earlier statement wrote must not draw the next
            // read to the primary.
            let marker = format!("marker-{number}-{protocol}-");
            run(&fixture.session(), &format!("{sql} /* {marker} */"));
            let primary = &fixture.cluster.primary().name;
            let Some(server) = fixture.server_of_marker(&marker) else {
                wrong.push(format!("nowhere: {sql} ({protocol})"));
                continue;
            };
            let ran = if server.name == *primary { Primary } else { Replica };
            if ran != *on {
                wrong.push(format!("on the {ran:?}: {sql} ({protocol})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    // Nothing was tried on a standby that a standby refuses.
    for replica in fixture.cluster.replicas() {
        assert!(!replica.log().contains("read-only transaction"), "{}", replica.log());
        assert!(!replica.log().contains("during recovery"), "{}", replica.log());
    }
}

type Run = fn(&Session, &str);

/// Errors are the servers' affair here: only the place counts.
fn simple(session: &Session, sql: &str) {
    let _ = session.query(sql);
}

fn extended(session: &Session, sql: &str) {
    let _ = session.rows(sql, &[]);
}

const PORT: &str = "SELECT inet_server_port()";

#[test]
fn a_transaction_runs_on_one_server() {
    let fixture = builder().start();
    let setup = fixture.session();
    setup.query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();

    // What may write starts on the primary, its reads included.
    for begin in [
        "BEGIN",
        "START TRANSACTION",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "BEGIN READ WRITE",
    ] {
        let session = fixture.session();
        session.query(begin).unwrap();
        assert_eq!(fixture.ran_on(&session, PORT), "pg0", "{begin}");
        session.query("COMMIT").unwrap();
    }
    // What may not goes to one replica, whichever way it was said.
    for begin in [
        &["BEGIN READ ONLY"][..],
        &["START TRANSACTION READ ONLY"],
        &["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"],
        &["BEGIN", "SET TRANSACTION READ ONLY"],
        &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "BEGIN"],
        &["SET default_transaction_read_only = on", "BEGIN"],
    ] {
        let session = fixture.session();
        begin.iter().for_each(|sql| drop(session.query(sql).unwrap()));
        let first = fixture.ran_on(&session, PORT);
        assert_ne!(first, "pg0", "{begin:?}");
        for _ in 0..10 {
            assert_eq!(fixture.ran_on(&session, PORT), first, "{begin:?}");
        }
        assert_eq!(state_of(session.query("INSERT INTO t VALUES (1)")), "25006");
        assert_eq!(state_of(session.query("SELECT 1")), "25P02");
        session.query("ROLLBACK").unwrap();
    }
    // Read only, then no longer: the write works.
    let session = fixture.session();
    session.query("BEGIN READ ONLY").unwrap();
    session.query("SET TRANSACTION READ WRITE").unwrap();
    session.query("INSERT INTO t VALUES (1)").unwrap();
    session.query("COMMIT").unwrap();
    // An empty transaction, a failed one, a chained one, and errors answered as by a server.
    session.query("BEGIN").unwrap();
    session.query("COMMIT").unwrap();
    session.query("BEGIN").unwrap();
    assert_eq!(state_of(session.query("SELECT 1/0")), "22012");
    assert_eq!(state_of(session.query("SELECT 1")), "25P02");
    session.query("COMMIT").unwrap();
    session.query("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    session.query("COMMIT AND CHAIN").unwrap();
    session.query("INSERT INTO t VALUES (3)").unwrap();
    session.query("ROLLBACK").unwrap();
    session.query("BEGIN").unwrap();
    session.query("SAVEPOINT a").unwrap();
    session.query("INSERT INTO t VALUES (4)").unwrap();
    session.query("ROLLBACK TO a").unwrap();
    session.query("COMMIT").unwrap();
    assert_eq!(session.value("SELECT string_agg(n::text, ',' ORDER BY n) FROM t").unwrap(), "1,2");
}

#[test]
fn hints_and_settings_choose_among_safe_targets() {
    let fixture = builder().log_statements().start();
    let session = fixture.session();
    session.query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    let session = fixture.session();

    // A session of its own for each: one that has read from the primary may not go back.
    for _ in 0..10 {
        for (hint, allowed) in [
            ("primary", &["pg0"][..]),
            ("consistency=strong", &["pg0"]),
            ("node=pg0", &["pg0"]),
            ("node=pg1", &["pg1"]),
            ("node=pg2", &["pg2"]),
            ("replica", &["pg1", "pg2"]),
        ] {
            let sql = format!("/* tiffin: {hint} */ SELECT inet_server_port()");
            let ran = fixture.ran_on(&fixture.session(), &sql);
            assert!(allowed.contains(&ran.as_str()), "{hint}: {ran}");
        }
    }
    // A hint never sends a write to a replica.
    for hint in ["replica", "node=pg1", "replica, max_lag=5s"] {
        let sql =
            format!("/* tiffin: {hint} */ INSERT INTO t VALUES (1) RETURNING inet_server_port()");
        assert_eq!(fixture.ran_on(&session, &sql), "pg0", "{hint}");
    }

    session.query("SET tiffin.consistency = 'strong'").unwrap();
    assert_eq!(session.value("SHOW tiffin.consistency").unwrap(), "strong");
    let ten = |session: &Session| -> Vec<String> {
        (0..10).map(|_| fixture.ran_on(session, PORT)).collect()
    };
    assert_eq!(ten(&session), ["pg0"; 10]);
    session.query("SET tiffin.consistency = 'eventual'").unwrap();
    assert!(!ten(&session).contains(&"pg0".to_string()));
    session.query("RESET tiffin.consistency").unwrap();
    assert_eq!(session.value("SHOW tiffin.consistency").unwrap(), "session");
    assert_eq!(state_of(session.query("SET tiffin.consistency = 'sometimes'")), "22023");
    // Settings of the proxy never reach a server.
    for server in fixture.cluster.servers() {
        assert!(!server.log().contains("SET tiffin."), "{}", server.log());
    }
    // By start-up option, as a connection string can carry it.
    let strong = fixture.session_with(|config| {
        config.options("-c tiffin.consistency=strong");
    });
    assert_eq!(ten(&strong), ["pg0"; 10]);
}

#[test]
fn both_replicas_share_the_reads() {
    let fixture = builder().start();
    for balance in ["least_lag", "least_connections", "latency", "weighted"] {
        let mut config = fixture.config.clone();
        config["clusters"]["main"]["routing"]["balance"] = balance.into();
        fixture.reload(&config);
        let shared = || {
            let share = fixture.share(40);
            share.len() == 2 && !share.contains_key("pg0")
        };
        wait_until(PATIENCE, shared).unwrap_or_else(|_| panic!("{balance} does not share"));
    }
    let share = fixture.share(200);
    println!("measured: 200 sessions, all weights equal: {share:?}");
    let routed = fixture.metrics().sum("tiffin_routed_total", &[("node", "pg1")]);
    assert!(routed >= 1.0, "reads are counted by node");
}

on_postgres_18!(each_class_runs_where_it_belongs, a_transaction_runs_on_one_server);
