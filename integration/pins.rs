//! What keeps a session's connection lets go of it when its cause ends, and leaves nothing.

use crate::support::wire::{self, Wire};
use crate::support::{Fixture, PATIENCE, Session, connect, runtime, state_of, wait_until};

/// One server connection for everybody: who gets it sees that it was let go of.
fn narrow() -> crate::support::Builder {
    Fixture::build()
        .replicas(0)
        .key("pool.size_max", 1)
        .config(|config| config["workers"] = 1.into())
}

fn pinned(fixture: &Fixture) -> f64 {
    fixture.metrics().sum("tiffin_pinned_sessions", &[])
}

/// A statement, and whether the session is pinned after it.
type Step = (&'static str, bool);

/// Pin, what begins it, and what comes then.
const CASES: &[(&str, &str, &[Step])] = &[
    ("temporary_table", "CREATE TEMP TABLE a (n int)", &[("DROP TABLE a", false)]),
    (
        "temporary_table",
        "CREATE TEMP TABLE a (n int); CREATE TEMP TABLE b (n int)",
        &[("DROP TABLE a", true), ("DROP TABLE b", false)],
    ),
    ("temporary_table", "CREATE TEMP VIEW v AS SELECT 1", &[("DISCARD TEMP", false)]),
    (
        "temporary_table",
        "CREATE TEMP TABLE a (n int)",
        &[("BEGIN", true), ("DROP TABLE a", true), ("ROLLBACK", true), ("DROP TABLE a", false)],
    ),
    (
        "temporary_table",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        &[("SELECT pg_temp.f()", true), ("DROP FUNCTION pg_temp.f()", false)],
    ),
    ("temporary_table", "SELECT 1 AS n INTO TEMP a", &[("DISCARD ALL", false)]),
    ("temporary_table", "DO 'BEGIN CREATE TEMP TABLE a (n int); END'", &[("DROP TABLE a", false)]),
    (
        "advisory_lock",
        "SELECT pg_advisory_lock(7)",
        &[
            ("SELECT pg_advisory_lock(7)", true),
            ("SELECT pg_advisory_unlock(7)", true),
            ("SELECT pg_advisory_unlock(7)", false),
        ],
    ),
    (
        "advisory_lock",
        "SELECT pg_try_advisory_lock_shared(7)",
        &[("SELECT pg_advisory_unlock_shared(7)", false)],
    ),
    (
        "advisory_lock",
        "SELECT pg_advisory_lock(7, 8)",
        &[("SELECT pg_advisory_unlock_all()", false)],
    ),
    (
        "advisory_lock",
        "DO 'BEGIN PERFORM pg_advisory_lock(9); END'",
        &[("DO 'BEGIN PERFORM pg_advisory_unlock(9); END'", false)],
    ),
    ("listen", "LISTEN a; LISTEN b", &[("UNLISTEN a", true), ("UNLISTEN b", false)]),
    ("listen", "LISTEN a", &[("UNLISTEN *", false)]),
    ("hold_cursor", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", &[("CLOSE c", false)]),
    ("prepared_statement", "PREPARE p AS SELECT 1", &[("DEALLOCATE p", false)]),
    (
        "prepared_statement",
        "PREPARE p AS SELECT 1; PREPARE q AS SELECT 2",
        &[("DEALLOCATE PREPARE p", true), ("DEALLOCATE ALL", false)],
    ),
    ("sequence", "SELECT nextval('numbers')", &[("DISCARD SEQUENCES", false)]),
];

/// What looks as if it could leave something, and does not.
const HARMLESS: &[&str] = &[
    "BEGIN; CREATE TEMP TABLE a (n int) ON COMMIT DROP; COMMIT",
    "BEGIN; CREATE TEMP TABLE a (n int); ROLLBACK",
    "BEGIN; LISTEN a; ROLLBACK",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock(1)",
    "DO 'BEGIN PERFORM 1; END'",
    "DO 'BEGIN CREATE TEMP TABLE a (n int); DROP TABLE a; END'",
    "SELECT set_config('app.a', current_user, false)",
    "SELECT set_config('app.a', 'x', false) FROM generate_series(1, 0)",
    "SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE",
];

const FAILING: &[&str] = &[
    "SELEC 1",
    "DO 'BEGIN CREATE TEMP TABLE a (n int); RAISE EXCEPTION $$no$$; END'",
    "SELECT pg_advisory_lock(1) / 0 FROM numbers WHERE pg_advisory_lock(1) IS NULL",
    "CREATE TEMP TABLE a (n nosuchtype)",
];

/// A pin that outlives its cause takes a connection from everybody else.
#[test]
fn pins_end_with_their_causes() {
    let fixture = narrow().start();
    let (a, b) = (fixture.session(), fixture.session());
    a.query("CREATE SEQUENCE numbers").unwrap();
    let waits = |what: &str, expected: f64| {
        wait_until(PATIENCE, || pinned(&fixture) == expected)
            .unwrap_or_else(|_| panic!("{what}: {} pinned", pinned(&fixture)));
    };
    for (pin, begin, steps) in CASES {
        a.query(begin).unwrap_or_else(|error| panic!("{begin}: {error:#}"));
        let held = fixture.metrics().sum("tiffin_pinned_sessions", &[("pin", pin)]);
        assert_eq!(held, 1.0, "{begin}");
        for (step, still) in *steps {
            a.query(step).unwrap_or_else(|error| panic!("{begin}, {step}: {error:#}"));
            waits(&format!("{begin}, {step}"), f64::from(u8::from(*still)));
        }
        assert_eq!(b.value("SELECT 1").unwrap(), "1", "{begin}: the connection is free");
    }
    for statement in HARMLESS {
        a.query(statement).unwrap_or_else(|error| panic!("{statement}: {error:#}"));
        waits(statement, 0.0);
        assert_eq!(b.value("SELECT 1").unwrap(), "1", "{statement}");
    }
    for statement in FAILING {
        a.query(statement).unwrap_err();
        waits(statement, 0.0);
        assert_eq!(b.value("SELECT 1").unwrap(), "1", "{statement}");
    }
    let seconds = fixture.metrics().sum("tiffin_pinned_seconds_total", &[("pin", "listen")]);
    assert!(seconds > 0.0, "the time of pins is counted");
}

/// A value that only the server knows follows the session all the same.
#[test]
fn settings_whose_values_the_text_does_not_tell() {
    let fixture = Fixture::build()
        .replicas(1)
        .key("pool.size_max", 1)
        .config(|config| config["workers"] = 1.into())
        .start();
    let tell = |session: &Session, hint: &str, name: &str| {
        let sql = format!("/* tiffin: {hint} */ SELECT current_setting('{name}', true)");
        session.value(&sql).unwrap()
    };
    let (a, b) = (fixture.session(), fixture.session());
    a.rows("SELECT set_config('app.tenant', $1, false)", &[&"it's \\ 7"]).unwrap();
    a.rows("SELECT set_config($1, 'x', true)", &[&"app.other"]).unwrap();
    a.query("SELECT set_config('app.never', 'x', false) FROM generate_series(1, 0)").unwrap();
    a.query("DO $$BEGIN PERFORM set_config('app.body', 'b' || 1, false); END$$").unwrap();
    a.query("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE").unwrap();
    a.rows("SELECT set_config('search_path', $1, false)", &[&"x, \"Y\""]).unwrap();
    for hint in ["primary", "replica", "primary"] {
        assert_eq!(tell(&a, hint, "app.tenant"), "it's \\ 7", "{hint}");
        assert_eq!(tell(&a, hint, "app.never"), "", "{hint}");
        assert_eq!(tell(&a, hint, "app.body"), "b1", "{hint}");
        assert_eq!(tell(&a, hint, "timezone"), "<-08>+08", "{hint}");
        assert_eq!(tell(&a, hint, "search_path"), "x, \"Y\"", "{hint}");
        assert_eq!(tell(&b, hint, "app.tenant"), "", "{hint}");
        assert_eq!(tell(&b, hint, "search_path"), "\"$user\", public", "{hint}");
    }
    // Taken back with its transaction.
    a.query("BEGIN").unwrap();
    a.rows("SELECT set_config('app.tenant', $1, false)", &[&"8"]).unwrap();
    a.query("ROLLBACK").unwrap();
    assert_eq!(tell(&a, "replica", "app.tenant"), "it's \\ 7");
}

/// A notification that a session sends itself comes before the end of the statement's reply, with
/// the process id by which the session knows itself.
#[test]
fn notifications_come_once_in_order_and_by_name() {
    let fixture = narrow().key("pool.size_max", 3).clear_passwords().start();
    let app = &fixture.cluster.app;
    let (mut wire, greeting) =
        Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
    let key = greeting.iter().find(|message| message.tag == b'K').expect("a key");
    let own = i32::from_be_bytes(key.body[..4].try_into().unwrap());
    let told = |messages: &[wire::Message]| -> Vec<(i32, String)> {
        let notes = messages.iter().filter(|message| message.tag == b'A');
        notes
            .map(|note| {
                let sender = i32::from_be_bytes(note.body[..4].try_into().unwrap());
                let text = String::from_utf8_lossy(&note.body[4..]).replace('\0', " ");
                (sender, text.trim().to_owned())
            })
            .collect()
    };
    // In the very text that begins to listen.
    let seen = wire.query("LISTEN a; NOTIFY a, 'one'");
    assert_eq!(told(&seen), [(own, "a one".to_owned())]);
    let seen = wire.query("NOTIFY a, 'two'; NOTIFY a, 'three'; NOTIFY a, 'two'; NOTIFY b");
    assert_eq!(told(&seen), [(own, "a two".to_owned()), (own, "a three".to_owned())]);
    assert_eq!(told(&wire.query("BEGIN; NOTIFY a, 'four'")), []);
    assert_eq!(told(&wire.query("COMMIT")), [(own, "a four".to_owned())]);

    // From others, a thousand in order, while it sleeps and while it works.
    let other = fixture.session();
    other.query("SELECT 1").unwrap();
    let sent = "DO $$BEGIN FOR i IN 1..1000 LOOP PERFORM pg_notify('a', i::text); END LOOP; END$$";
    other.query(sent).unwrap();
    let mut notes = Vec::new();
    while notes.len() < 1000 {
        notes.push(wire.message().expect("a notification"));
    }
    let numbers: Vec<String> = told(&notes).into_iter().map(|(_, text)| text).collect();
    let expected: Vec<String> = (1..=1000).map(|i| format!("a {i}")).collect();
    assert_eq!(numbers, expected);
    assert!(told(&notes).iter().all(|(sender, _)| *sender != own));
    // None any more.
    wire.query("UNLISTEN a");
    other.query("NOTIFY a, 'late'").unwrap();
    assert_eq!(told(&wire.query("SELECT 1")), []);
}

/// What cannot be followed in a transaction with a snapshot on a replica keeps nobody there: the
/// settings are asked for, and the next write finds the primary.
#[test]
fn a_session_leaves_a_replica_when_its_transaction_ends() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.create_table("t", "n int");
    let primary = fixture.cluster.primary();
    let on = "SELECT inet_server_port(), count(*) FROM t";
    let pinned = || fixture.metrics().sum("tiffin_pinned_sessions", &[]);
    let session = fixture.session();
    // Its own write may keep it on the primary for a moment.
    let begin = || {
        let on_replica = || {
            session.query("ROLLBACK").unwrap();
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").unwrap();
            fixture.ran_on(&session, on) != primary.name
        };
        wait_until(PATIENCE, on_replica).unwrap();
    };
    for unknown in ["SELECT U&\"n\" FROM t", "SELECT set_config(lower('WORK_MEM'), '7MB', false)"] {
        begin();
        session.query(unknown).unwrap();
        assert_eq!(pinned(), 1.0, "{unknown}");
        assert_ne!(fixture.ran_on(&session, on), primary.name);
        session.query("COMMIT").unwrap();
        session.query("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(pinned(), 0.0, "{unknown}");
    }
    assert_eq!(session.value("SHOW work_mem").unwrap(), "7MB");
    // A cursor is on the replica: what needs the primary is refused until it is closed.
    begin();
    session.query("DECLARE held CURSOR WITH HOLD FOR SELECT n FROM t").unwrap();
    session.query("COMMIT").unwrap();
    for write in ["INSERT INTO t VALUES (2)", "SELECT n FROM t FOR UPDATE"] {
        assert_eq!(state_of(session.query(write)), "0A000", "{write}");
    }
    assert_eq!(session.query("FETCH ALL FROM held").unwrap().len(), 2);
    session.query("CLOSE held").unwrap();
    session.query("INSERT INTO t VALUES (2)").unwrap();
}

/// On a replica an advisory lock would be taken, and nobody would see it.
#[test]
fn a_read_only_transaction_that_locks_moves_to_the_primary() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.create_table("t", "n int");
    let primary = fixture.cluster.primary();
    let locks = || {
        primary
            .value_in("app", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            .unwrap()
    };
    let on = "SELECT inet_server_port(), count(*) FROM t";
    for call in ["SELECT pg_advisory_xact_lock(5)", "SELECT pg_try_advisory_lock_shared(5)"] {
        let session = fixture.session();
        session.query("BEGIN READ ONLY").unwrap();
        assert_ne!(fixture.ran_on(&session, on), primary.name);
        session.query(call).unwrap();
        assert_eq!(locks(), "1", "{call}");
        assert_eq!(fixture.ran_on(&session, on), primary.name);
        assert_eq!(state_of(session.query("INSERT INTO t VALUES (1)")), "25006");
        session.query("ROLLBACK").unwrap();
        session.query("SELECT pg_advisory_unlock_all()").unwrap();
        wait_until(PATIENCE, || locks() == "0").unwrap();
    }
    // What works in a read-only transaction of a primary works.
    let session = fixture.session();
    session.query("BEGIN READ ONLY").unwrap();
    assert_ne!(fixture.ran_on(&session, on), primary.name);
    session.query("SELECT txid_current()").unwrap();
    session.query("SELECT pg_notify('a', 'b')").unwrap();
    session.query("COMMIT").unwrap();
    for statement in ["LISTEN a", "UNLISTEN *", "LOCK TABLE t", "ANALYZE t"] {
        session.query("BEGIN READ ONLY").unwrap();
        session.query("SELECT 1 FROM t").unwrap();
        session.query(statement).unwrap();
        session.query("COMMIT").unwrap();
        session.query("UNLISTEN *").unwrap();
    }
    // Settings and savepoints go along, and what ends them as well.
    let session = fixture.session();
    session.query("BEGIN READ ONLY").unwrap();
    for sql in ["SET work_mem = '5MB'", "SAVEPOINT \"a b\"", "SET LOCAL work_mem = '6MB'"] {
        session.query(sql).unwrap();
    }
    assert_ne!(fixture.ran_on(&session, on), primary.name);
    session.query("SELECT pg_advisory_xact_lock(5)").unwrap();
    assert_eq!(fixture.ran_on(&session, on), primary.name);
    assert_eq!(session.value("SHOW work_mem").unwrap(), "6MB");
    session.query("ROLLBACK TO \"a b\"").unwrap();
    assert_eq!(session.value("SHOW work_mem").unwrap(), "5MB");
    session.query("ROLLBACK").unwrap();
    assert_eq!(session.value("SHOW work_mem").unwrap(), "4MB");
}

/// Many drivers forget a statement in SQL that they made by Parse.
#[test]
fn deallocate_of_a_statement_that_came_by_parse() {
    let fixture = narrow().clear_passwords().start();
    let app = &fixture.cluster.app;
    let login = |port| Wire::login(port, wire::VERSION_3_0, &app.user, &app.password).0;
    use wire::{bind, execute, parse, query, sync};
    let make = || [parse("s", "SELECT 7"), sync()].concat();
    let run = || [bind("", "s"), execute("", 0), sync()].concat();
    let forget = || [parse("", "DEALLOCATE s"), bind("", ""), execute("", 0), sync()].concat();
    let script: Vec<Vec<u8>> = vec![
        make(),
        query("DEALLOCATE s"),
        run(),
        make(),
        run(),
        forget(),
        run(),
        make(),
        query("BEGIN"),
        query("DEALLOCATE PREPARE s"),
        run(),
        query("DEALLOCATE s"),
        query("ROLLBACK"),
        make(),
        query("BEGIN"),
        query("SELECT 1/0"),
        query("DEALLOCATE s"),
        query("ROLLBACK"),
        run(),
        query("DEALLOCATE nosuch"),
        query("DEALLOCATE ALL"),
        run(),
    ];
    let [through, direct] = [fixture.proxy.port, fixture.cluster.primary().port].map(|port| {
        let mut wire = login(port);
        let mut seen = Vec::new();
        for message in &script {
            wire.send(message);
            let answer = wire.until_ready();
            let errors: Vec<_> =
                answer.iter().filter(|m| m.tag == b'E').map(|m| m.field(b'C')).collect();
            let tags: Vec<_> = answer.iter().filter(|m| m.tag == b'C').map(|m| m.text()).collect();
            let status = answer.last().map(|last| last.body[0]);
            seen.push(format!("{} {errors:?} {tags:?} {status:?}", wire::tags(&answer)));
        }
        seen
    });
    for (number, (through, direct)) in through.iter().zip(&direct).enumerate() {
        assert_eq!(through, direct, "message {number}");
    }
}

/// A client that makes more and more is told so, and the next request works.
#[test]
fn what_a_client_makes_is_limited() {
    let fixture = narrow()
        .hba(&["host all all 127.0.0.1/32 password"])
        .key("tls.mode", "disable")
        .config(|config| {
            config["auth"]["method"] = "password".into();
            config["limits"]["client_statements_max"] = 3.into();
            config["limits"]["client_portals_max"] = 3.into();
        })
        .start();
    let app = &fixture.cluster.app;
    let (mut wire, _) =
        Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
    use wire::{bind, execute, named, parse, query, sync};
    let states = |answer: &[wire::Message]| -> Vec<String> {
        answer.iter().filter(|m| m.tag == b'E').map(|m| m.field(b'C')).collect()
    };
    for number in 0..3 {
        wire.send(&[parse(&format!("s{number}"), "SELECT 1"), sync()].concat());
        assert_eq!(wire::tags(&wire.until_ready()), "1Z");
    }
    wire.send(&[parse("s3", "SELECT 1"), bind("", "s0"), execute("", 0), sync()].concat());
    let answer = wire.until_ready();
    assert_eq!((wire::tags(&answer), states(&answer)), ("EZ".to_owned(), vec!["53400".into()]));
    wire.send(&[named(b'C', b'S', "s0"), parse("s3", "SELECT 1"), sync()].concat());
    assert_eq!(wire::tags(&wire.until_ready()), "31Z", "there is room again");

    wire.send(&query("BEGIN"));
    wire.until_ready();
    for number in 0..3 {
        wire.send(&[bind(&format!("p{number}"), "s1"), sync()].concat());
        assert_eq!(wire::tags(&wire.until_ready()), "2Z");
    }
    wire.send(&[bind("p3", "s1"), execute("p3", 0), sync()].concat());
    let answer = wire.until_ready();
    assert_eq!((wire::tags(&answer), states(&answer)), ("EZ".to_owned(), vec!["53400".into()]));
    assert_eq!(answer.last().unwrap().body, b"E", "as any error, it fails the transaction");
    wire.send(&[bind("p3", "s1"), sync()].concat());
    assert_eq!(states(&wire.until_ready()), ["25P02"]);
    wire.query("ROLLBACK");
    wire.send(&[bind("p3", "s1"), execute("p3", 0), sync()].concat());
    assert_eq!(wire::tags(&wire.until_ready()), "2DCZ");
}

/// Two sessions with one text and other tables behind its names, set for one transaction only.
#[test]
fn one_text_under_two_search_paths() {
    let fixture = narrow().start();
    let setup = fixture.session();
    setup.query("CREATE SCHEMA one CREATE TABLE t (n int)").unwrap();
    setup.query("CREATE SCHEMA two CREATE TABLE t (n text)").unwrap();
    setup.query("INSERT INTO one.t VALUES (1); INSERT INTO two.t VALUES ('two')").unwrap();
    runtime().block_on(async {
        let (mut a, mut b) = (connect(&fixture.config()).await, connect(&fixture.config()).await);
        for set in [
            "SET LOCAL search_path = ",
            "SELECT set_config('search_path', $1, true)",
            // Before the transaction: each session keeps its own.
            "SET search_path = ",
        ] {
            for _ in 0..2 {
                for (client, schema) in [(&mut a, "one"), (&mut b, "two")] {
                    let sets = format!("{set}{schema}");
                    if set.starts_with("SET search_path") {
                        client.batch_execute(&sets).await.unwrap();
                    }
                    let transaction = client.transaction().await.unwrap();
                    if set.starts_with("SET LOCAL") {
                        transaction.batch_execute(&sets).await.unwrap();
                    } else if set.starts_with("SELECT") {
                        transaction.query(set, &[&schema]).await.unwrap();
                    }
                    let statement = transaction.prepare("SELECT n FROM t").await.unwrap();
                    let row = transaction.query_one(&statement, &[]).await.unwrap();
                    match schema {
                        "one" => assert_eq!(row.get::<_, i32>(0), 1),
                        _ => assert_eq!(row.get::<_, &str>(0), "two"),
                    }
                    let statement = transaction.prepare("SELECT * FROM t WHERE n = $1");
                    let types = statement.await.unwrap().params().to_vec();
                    assert_eq!(types[0].name(), if schema == "one" { "int4" } else { "text" });
                    transaction.commit().await.unwrap();
                }
            }
        }
    });
}
