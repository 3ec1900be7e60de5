//! Server connections are shared, and nobody notices.

use crate::support::wire::{self, Wire};
use crate::support::{Fixture, PATIENCE, Session, connect, runtime, state_of, wait_until};
use std::time::{Duration, Instant};

/// One server connection per node, so that every session gets what the last one left behind.
fn narrow() -> crate::support::Builder {
    Fixture::build()
        .replicas(1)
        .key("pool.size_max", 1)
        .config(|config| config["workers"] = 1.into())
}

const APP_BACKENDS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
const PID: &str = "/* tiffin: primary */ SELECT pg_backend_pid()";

#[test]
fn sessions_share_a_connection_and_leak_nothing() {
    let fixture = narrow().start();
    let primary = fixture.cluster.primary();
    let (a, b) = (fixture.session(), fixture.session());
    assert_eq!(a.value(PID).unwrap(), b.value(PID).unwrap(), "they take turns");
    assert_eq!(primary.value(APP_BACKENDS).unwrap(), "1");

    // Settings follow their session and nobody else's, on whichever server.
    a.query("SET search_path = a, public").unwrap();
    a.query("SET work_mem = '7MB'").unwrap();
    a.query("SELECT set_config('tiffin_test.word', 'mine', false)").unwrap();
    for hint in ["primary", "replica"] {
        let show = |session: &Session, name: &str| {
            session
                .value(&format!("/* tiffin: {hint} */ SELECT current_setting('{name}', true)"))
                .unwrap()
        };
        for _ in 0..3 {
            assert_eq!(show(&a, "search_path"), "a, public", "{hint}");
            assert_eq!(show(&a, "work_mem"), "7MB", "{hint}");
            assert_eq!(show(&a, "tiffin_test.word"), "mine", "{hint}");
            assert_eq!(show(&b, "search_path"), "\"$user\", public", "{hint}");
            assert_eq!(show(&b, "work_mem"), "4MB", "{hint}");
            assert_eq!(show(&b, "tiffin_test.word"), "", "{hint}");
        }
    }
    // With a transaction's end its settings end.
    b.query("BEGIN; SET LOCAL work_mem = '9MB'; COMMIT").unwrap();
    b.query("BEGIN").unwrap();
    b.query("SET work_mem = '11MB'").unwrap();
    b.query("ROLLBACK").unwrap();
    assert_eq!(b.value("SHOW work_mem").unwrap(), "4MB");
    a.query("RESET work_mem").unwrap();
    assert_eq!(a.value("SHOW work_mem").unwrap(), "4MB");
    a.query("DISCARD ALL").unwrap();
    assert_eq!(a.value("SHOW search_path").unwrap(), "\"$user\", public");
}

/// What keeps a session's connection must end with the session, whatever it left there.
#[test]
fn what_is_left_on_a_connection_is_gone_for_the_next() {
    let fixture = narrow().start();
    for (leave, look, expected) in [
        (
            "CREATE TEMP TABLE left_behind (n int)",
            "SELECT count(*) FROM pg_class WHERE relname = 'left_behind'",
            "0",
        ),
        ("LISTEN left_behind", "SELECT count(*) FROM pg_listening_channels()", "0"),
        (
            "SELECT pg_advisory_lock(42)",
            "SELECT pg_try_advisory_lock(42) AND pg_advisory_unlock(42)",
            "t",
        ),
        (
            "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
            "SELECT count(*) FROM pg_cursors",
            "0",
        ),
        (
            "PREPARE left_behind AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_behind'",
            "0",
        ),
        ("SET ROLE pg_monitor", "SELECT current_user", "app"),
        ("BEGIN; SET work_mem = '9MB'", "SHOW work_mem", "4MB"),
    ] {
        let session = fixture.session_with(|config| {
            config.user("postgres").password(&fixture.cluster.superuser.password).dbname("app");
        });
        session.query(leave).unwrap();
        drop(session);
        let look = format!("/* tiffin: primary */ {look}");
        // Another pool: the server may take a moment to end what a closed connection had.
        let gone = || fixture.try_value(&look).is_ok_and(|found| found == expected);
        wait_until(PATIENCE, gone).unwrap_or_else(|_| panic!("it stays after {leave}"));
        let same_user = fixture.session_with(|config| {
            config.user("postgres").password(&fixture.cluster.superuser.password).dbname("app");
        });
        let expected = if expected == "app" { "postgres" } else { expected };
        // The same pool as the one that left it: this is the connection in question.
        assert_eq!(same_user.value(&look).unwrap(), expected, "after {leave}");
        same_user.query("SELECT pg_advisory_unlock_all()").unwrap();
    }
}

/// A request that its client has not ended by a Sync is no transaction that may be committed: the
/// Sync of the next client would do that.
#[test]
fn a_request_without_its_sync_never_happens() {
    let fixture = narrow().config(|config| config["auth"]["method"] = "password".into()).start();
    let app = &fixture.cluster.app;
    fixture.create_table("t", "what text");
    for (how, goodbye) in [("terminates", wire::frame(b'X', b"")), ("closes", vec![])] {
        let (mut wire, _) =
            Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
        let insert = format!("INSERT INTO t VALUES ('of one that {how}')");
        let request = [wire::parse("", &insert), wire::bind("", ""), wire::execute("", 0)].concat();
        wire.send(&[request, wire::flush()].concat());
        while wire.message().is_some_and(|message| message.tag != b'C') {}
        wire.send(&goodbye);
        drop(wire);
        wait_until(PATIENCE, || fixture.metrics().sum("tiffin_clients", &[]) == 0.0).unwrap();
        let next = fixture.session();
        next.query(&format!("INSERT INTO t VALUES ('next, {how}')")).unwrap();
        let found = next.value("/* tiffin: primary */ SELECT string_agg(what, ';') FROM t");
        assert_eq!(found.unwrap(), format!("next, {how}"));
        next.query("DELETE FROM t").unwrap();
    }
}

#[test]
fn prepared_statements_belong_to_the_client() {
    let fixture = narrow().key("pool.statements_max", 5).start();
    let runtime = runtime();
    runtime.block_on(async {
        let (a, b) = (connect(&fixture.config()).await, connect(&fixture.config()).await);
        a.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
        // The same names in both sessions (s0, s1 …), other texts; more than a connection keeps.
        for round in 0..3 {
            let mut statements = Vec::new();
            for i in 0..12 {
                let text = format!("SELECT {i} + n FROM t WHERE {round} = {round}");
                statements.push((i, a.prepare(&text).await.unwrap()));
                let text = format!("SELECT {i} * 100");
                let other = b.prepare(&text).await.unwrap();
                assert_eq!(b.query_one(&other, &[]).await.unwrap().get::<_, i32>(0), i * 100);
            }
            for (i, statement) in &statements {
                assert_eq!(a.query_one(statement, &[]).await.unwrap().get::<_, i32>(0), i + 1);
            }
        }
    });
    let kept = "SELECT count(*) FROM pg_prepared_statements";
    let kept: usize = fixture.session().value(kept).unwrap().parse().unwrap();
    assert!(kept <= 6, "{kept} prepared statements on one connection");
}

/// A statement whose result changes with its table is prepared again on the server, unseen.
#[test]
fn a_statement_outlives_a_change_of_its_table() {
    let fixture = narrow().start();
    runtime().block_on(async {
        let (a, b) = (connect(&fixture.config()).await, connect(&fixture.config()).await);
        a.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
        let before = a.prepare("SELECT * FROM t").await.unwrap();
        a.query(&before, &[]).await.unwrap();
        b.batch_execute("ALTER TABLE t ALTER COLUMN n TYPE bigint").await.unwrap();
        let after = a.prepare("SELECT * FROM t").await.unwrap();
        assert_eq!(a.query_one(&after, &[]).await.unwrap().get::<_, i64>(0), 1);
        // Rows of another shape would be read by what the client was told of them before, so it
        // is told; what it prepares after that is sound, on whichever connection.
        let text = "/* tiffin: primary */ SELECT * FROM t";
        let before = a.prepare(text).await.unwrap();
        a.query(&before, &[]).await.unwrap();
        // Around the proxy, which would else clean the connection and prepare anew there.
        let (primary, app) = (fixture.cluster.primary(), &fixture.cluster.app);
        let direct = connect(&fixture.cluster.config(primary, app)).await;
        direct.batch_execute("ALTER TABLE t ALTER COLUMN n TYPE text").await.unwrap();
        let error = a.query(&before, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "0A000", "{error:?}");
        for client in [&a, &b] {
            let after = client.prepare(text).await.unwrap();
            assert_eq!(client.query_one(&after, &[]).await.unwrap().get::<_, &str>(0), "1");
        }
    });
}

/// The connection that has the cursor is the session's only one until it is closed, and writes
/// will follow.
#[test]
fn a_held_cursor_is_on_the_primary() {
    let fixture = Fixture::start();
    fixture.create_table("t", "n int");
    let session = fixture.session();
    session.query("DECLARE c CURSOR WITH HOLD FOR SELECT n FROM t").unwrap();
    session.query("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(session.query("FETCH ALL FROM c").unwrap().len(), 0);
    session.query("CLOSE c").unwrap();
    session.query("INSERT INTO t VALUES (2)").unwrap();
}

#[test]
fn a_dead_idle_connection_is_replaced_unseen() {
    let fixture = narrow().start();
    let session = fixture.session();
    session.query("CREATE TABLE t (n int)").unwrap();
    session.query("/* tiffin: replica */ SELECT 1").unwrap();
    for round in 0..5 {
        for server in fixture.cluster.servers() {
            server
                .query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
                )
                .unwrap();
            wait_until(PATIENCE, || server.value(APP_BACKENDS).unwrap() == "0").unwrap();
        }
        session.query("INSERT INTO t VALUES (1)").unwrap();
        session.query("/* tiffin: replica */ SELECT 1").unwrap();
        assert_eq!(
            fixture.direct(fixture.cluster.primary()).value("SELECT count(*) FROM t").unwrap(),
            (round + 1).to_string()
        );
    }
    // In the middle of a transaction it cannot be hidden.
    session.query("BEGIN").unwrap();
    session.query("INSERT INTO t VALUES (1)").unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    fixture.cluster.primary().query(kill).unwrap();
    let state = state_of(session.query("INSERT INTO t VALUES (1)"));
    assert!(["57P01", "08006"].contains(&state.as_str()), "{state}");
}

#[test]
fn a_full_pool_makes_wait_and_then_says_which_it_was() {
    let mut fixture = narrow().key("pool.wait_timeout", "700ms").key("pool.waiting_max", 2).start();
    // Everybody has logged in before the only connection is taken: a login may need it too.
    let holder = fixture.session();
    let waiting: Vec<Session> = (0..3).map(|_| fixture.session()).collect();
    holder.query("BEGIN").unwrap();
    holder.query("SELECT 1").unwrap();
    let started = Instant::now();
    let errors: Vec<String> = std::thread::scope(|scope| {
        let tasks: Vec<_> =
            waiting.iter().map(|session| scope.spawn(|| session.query(PID).unwrap_err())).collect();
        tasks
            .into_iter()
            .map(|task| task.join().unwrap())
            .map(|error| {
                assert_eq!(crate::support::sqlstate(&error), Some("53300"), "{error:#}");
                format!("{error:?}")
            })
            .collect()
    });
    assert!(started.elapsed() >= Duration::from_millis(600), "two of them waited");
    for error in &errors {
        assert!(error.contains("pg0") && error.contains("app"), "the pool is named: {error}");
    }
    drop(waiting);
    holder.query("COMMIT").unwrap();
    // The wait ends well when the connection comes back; first come, first served: the server's
    // clock tells whose turn was first, for the clients' threads may wake up in any order.
    fixture.config["clusters"]["main"]["pool"]["wait_timeout"] = "1min".into();
    fixture.reload(&fixture.config);
    let holder = fixture.session();
    let waiting = [fixture.session(), fixture.session()];
    holder.query("BEGIN").unwrap();
    holder.query("SELECT 1").unwrap();
    let served: Vec<f64> = std::thread::scope(|scope| {
        let mut tasks = Vec::new();
        for (number, session) in waiting.iter().enumerate() {
            tasks.push(scope.spawn(|| {
                let clock = "/* tiffin: primary */ SELECT extract(epoch FROM clock_timestamp())";
                session.value(clock).unwrap().parse().unwrap()
            }));
            let gauge = || fixture.metrics().sum("tiffin_pool_waiting", &[("node", "pg0")]);
            wait_until(PATIENCE, || gauge() == (number + 1) as f64).expect("it waits");
        }
        holder.query("COMMIT").unwrap();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert!(served[0] < served[1], "{served:?}");
}

#[test]
fn session_mode_keeps_a_connection_and_idle_ones_are_closed() {
    let fixture = Fixture::build()
        .replicas(0)
        .key("pool.mode", "session")
        .key("pool.idle_timeout", "1s")
        .key("pool.idle_min", 1)
        .start();
    let primary = fixture.cluster.primary();
    let (a, b) = (fixture.session(), fixture.session());
    let pid = a.value("SELECT pg_backend_pid()").unwrap();
    a.query("PREPARE p AS SELECT 7").unwrap();
    a.query("CREATE TEMP TABLE tt AS SELECT 8 AS n").unwrap();
    assert_ne!(b.value("SELECT pg_backend_pid()").unwrap(), pid);
    assert_eq!(a.value("EXECUTE p").unwrap(), "7");
    assert_eq!(a.value("SELECT n FROM tt").unwrap(), "8");
    assert_eq!(a.value("SELECT pg_backend_pid()").unwrap(), pid);
    assert_eq!(primary.value(APP_BACKENDS).unwrap(), "2");
    drop((a, b));
    wait_until(PATIENCE, || primary.value(APP_BACKENDS).unwrap() == "1")
        .expect("one stays, idle_min");
}

/// A replica that does not know a new database yet refused its first sessions.
#[test]
fn a_database_can_be_used_as_soon_as_it_is_made() {
    let fixture = Fixture::start();
    let superuser = &fixture.cluster.superuser;
    let session_in = |database: &str| {
        fixture.session_with(|config| {
            config.user(&superuser.user).password(&superuser.password).dbname(database);
        })
    };
    let maker = session_in("postgres");
    fixture.cluster.replicas().iter().for_each(|replica| replica.pause_replay().unwrap());
    maker.query("CREATE DATABASE fresh TEMPLATE template0").unwrap();
    let fresh = session_in("fresh");
    assert_eq!(fresh.value("/* tiffin: replica */ SELECT current_database()").unwrap(), "fresh");
    fixture.cluster.replicas().iter().for_each(|replica| replica.resume_replay().unwrap());
}
