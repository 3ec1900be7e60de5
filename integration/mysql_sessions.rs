//! Clients of MySQL and MariaDB through the proxy: where statements go, and what of a session
//! follows it from server to server.

use crate::support::PATIENCE;
use crate::support::mysql::{Engine, Fixture, Session, cluster, errno, on_mysql_and_mariadb};
use crate::support::mysql_wire::Wire;
use futures_util::{FutureExt, StreamExt};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, Row, Value};
use serde_json::json;
use std::future::Future;
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! {
    statements_go_where_they_belong,
    prepared_statements_are_the_clients,
    what_a_session_sets_follows_it,
    what_a_connection_held_is_not_lost_unsaid,
    sessions_leave_nothing_to_each_other,
    sessions_that_only_read_share_a_connection_without_resets,
    transactions_stay_where_they_began,
    a_release_ends_the_session_and_nobody_elses,
    a_session_reads_its_own_writes,
    large_packets_and_files_pass,
    a_server_that_is_lost_under_a_file_is_told_behind_it,
    a_server_that_is_lost_behind_a_first_result_is_told_by_the_next_number,
    several_results_pass,
    sessions_are_killed_by_the_proxys_ids,
    limits_have_errors,
}

/// One process serves clusters of both protocols.
#[test]
fn clusters_of_both_kinds_are_served_at_once() {
    let postgres = crate::support::Fixture::build().replicas(1).start();
    let mariadb = cluster(Engine::MariaDb);
    let mut config = postgres.config.clone();
    let other = crate::support::mysql::proxy_config(&mariadb);
    config["listen"]["mysql"] = other["listen"]["mysql"].clone();
    config["clusters"]["other"] = other["clusters"]["main"].clone();
    // The users of both clusters have the same names; one of MariaDB's gets another.
    let mut maria = other["users"][0].clone();
    maria["name"] = json!("maria");
    let password = maria["password"].as_str().unwrap().to_owned();
    let primary = mariadb.primary();
    primary.execute(&format!("CREATE USER maria IDENTIFIED BY '{password}'")).unwrap();
    primary.execute("GRANT ALL ON app.* TO maria").unwrap();
    mariadb.wait_caught_up(primary).unwrap();
    let users = [config["users"][0].clone(), maria];
    config["users"] = json!(users);
    postgres.proxy.kill();
    let proxy = tiffin::cli::sandbox::proxy::Proxy::start(
        crate::support::binary(),
        &postgres.cluster,
        &config,
    )
    .expect("start the proxy");
    let address = config["listen"]["mysql"][0].as_str().unwrap().to_owned();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let opts = crate::support::mysql::client_opts(port, &mariadb.app);
    let opts = opts.user(Some("maria")).pass(Some(password));
    let maria = Session::connect(&opts.into()).expect("a login");
    maria.execute("CREATE TABLE both_kinds (n int)").unwrap();
    assert!(maria.value("SELECT version()").unwrap().contains("MariaDB"));
    let session = crate::support::Session::connect(&crate::support::client_config(
        proxy.port,
        &postgres.cluster.app,
    ))
    .expect("a login");
    assert!(session.value("SELECT version()").unwrap().contains("PostgreSQL"));
    let topology = proxy.get("/api/v1/topology").unwrap().1;
    assert!(topology.contains("\"main\"") && topology.contains("\"other\""), "{topology}");
}

/// Where a read runs.
const PORT: &str = "SELECT @@port FROM t LIMIT 1";

fn table(fixture: &Fixture) {
    let primary = fixture.cluster.primary();
    primary.execute("CREATE TABLE app.t (n int PRIMARY KEY, v varchar(100))").unwrap();
    primary.execute("INSERT INTO app.t VALUES (1, 'one'), (2, 'two')").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    // The catalog knows the table, so reads of it are reads.
    let session = fixture.session();
    wait_until(PATIENCE, || fixture.ran_on(&session, PORT) != primary.name).unwrap();
}

/// Runs a conversation by the driver itself.
fn talk<T, F: Future<Output = T>>(fixture: &Fixture, talk: impl FnOnce(Conn) -> F) -> T {
    talk_with(fixture.opts().into(), talk)
}

fn talk_with<T, F: Future<Output = T>>(opts: Opts, talk: impl FnOnce(Conn) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let everything = async { talk(Conn::new(opts).await.expect("a login")).await };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, everything).await.expect("in time") })
}

fn statements_go_where_they_belong(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let session = fixture.session();
    let primary = fixture.cluster.primary().name.clone();
    let on = |sql: &str| fixture.ran_on(&session, sql);
    let mut replicas = vec![];
    wait_until(PATIENCE, || {
        let name = on(PORT);
        if name != primary && !replicas.contains(&name) {
            replicas.push(name);
        }
        replicas.len() == 2
    })
    .expect("both replicas share the reads");
    for sql in [
        "SELECT @@port FROM t LIMIT 1 FOR UPDATE",
        "/* tiffin: primary */ SELECT @@port FROM t LIMIT 1",
        "SELECT @@port FROM t LIMIT 1 LOCK IN SHARE MODE",
    ] {
        assert_eq!(on(sql), primary, "{sql}");
    }
    session.execute("SET @tiffin_consistency = 'strong'").unwrap();
    assert_eq!(session.value("SELECT @tiffin_consistency").unwrap(), "strong");
    assert_eq!(on(PORT), primary);
    session.execute("SET @tiffin_consistency = DEFAULT").ok();
    let error = session.execute("SET @tiffin_consistency = 'sometimes'").unwrap_err();
    assert_eq!(errno(&error), Some(1231), "{error:#}");
    let error = session.execute("SELECT no_such_column FROM t").unwrap_err();
    assert_eq!(errno(&error), Some(1054), "{error:#}");
    assert_eq!(session.value("SELECT count(*) FROM t").unwrap(), "2");
}

fn prepared_statements_are_the_clients(engine: Engine) {
    let fixture = Fixture::with(cluster(engine), |config| {
        config["clusters"]["main"]["pool"] = json!({ "statements_max": 3 });
    });
    table(&fixture);
    talk(&fixture, async |mut client| {
        let port = client.prep("SELECT @@port FROM t WHERE n = ?").await.unwrap();
        let mut ports = vec![];
        let begun = Instant::now();
        while ports.len() < 2 && begun.elapsed() < PATIENCE {
            let found: Option<u16> = client.exec_first(&port, (1,)).await.unwrap();
            let found = found.unwrap();
            if !ports.contains(&found) {
                ports.push(found);
            }
            // Another replica serves the session once it has been seen to be as far as the last
            // answer: reads without a pause stay where they are.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert_eq!(ports.len(), 2, "it runs on more servers than one");
        let insert = client.prep("INSERT INTO t VALUES (?, ?)").await.unwrap();
        for n in 10..20 {
            client.exec_drop(&insert, (n, format!("value {n}"))).await.unwrap();
        }
        // More statements than a connection keeps, used in turn; types change.
        let mut statements = vec![];
        for n in 0..8 {
            let sql = format!("SELECT ?, {n}, v FROM t WHERE n = 10 + {n}");
            statements.push(client.prep(sql).await.unwrap());
        }
        for round in 0..3 {
            for (n, statement) in statements.iter().enumerate() {
                let value = if round == 1 { Value::from("text") } else { Value::from(round) };
                let row: Row =
                    client.exec_first(statement, (value.clone(),)).await.unwrap().unwrap();
                assert_eq!(row.get::<String, _>(2).unwrap(), format!("value {}", 10 + n));
                assert_eq!(row.get::<usize, _>(1), Some(n));
            }
        }
        for statement in statements {
            client.close(statement).await.unwrap();
        }
        let error = client.exec_drop("SELECT * FROM nowhere WHERE n = ?", (1,)).await.unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        let sum: Option<u32> = client.exec_first("SELECT count(*) FROM t", ()).await.unwrap();
        assert_eq!(sum, Some(12));
        client.disconnect().await.unwrap();
    });
}

/// A read is repeated on another connection when its own one breaks, but not that of a session
/// which has something there.
fn what_a_connection_held_is_not_lost_unsaid(engine: Engine) {
    let fixture = Fixture::start(engine);
    let kill = |session: &Session| {
        let id = session.value("/* tiffin: primary */ SELECT CONNECTION_ID()").unwrap();
        fixture.cluster.primary().execute(&format!("KILL {id}")).unwrap();
    };
    let holder = fixture.session();
    holder.execute("SET @kept = 1").unwrap();
    kill(&holder);
    let value = holder.value("/* tiffin: primary */ SELECT @kept");
    assert!(value.is_err(), "{value:?} of a variable that is no more");
    let free = fixture.session();
    kill(&free);
    assert_eq!(free.value("/* tiffin: primary */ SELECT 5").unwrap(), "5");
}

fn what_a_session_sets_follows_it(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let primary = fixture.cluster.primary();
    primary.execute("CREATE DATABASE other").unwrap();
    primary.execute("CREATE TABLE other.t (n int)").unwrap();
    primary.execute("INSERT INTO other.t VALUES (7)").unwrap();
    let grantee = primary
        .value("SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user WHERE user = 'app'")
        .unwrap();
    primary.execute(&format!("GRANT ALL ON other.* TO {grantee}")).unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let session = fixture.session();
    session
        .execute("SET time_zone = '+03:00', sql_mode = 'ANSI_QUOTES,NO_ENGINE_SUBSTITUTION'")
        .unwrap();
    session.execute("SET NAMES utf8mb4").unwrap();
    session.execute("SET SESSION group_concat_max_len = 77").unwrap();
    let wanted = "+03:00/ANSI_QUOTES,NO_ENGINE_SUBSTITUTION/77";
    let sql =
        "SELECT CONCAT_WS('/', @@time_zone, @@sql_mode, @@group_concat_max_len) FROM t LIMIT 1";
    let mut ports = vec![];
    wait_until(PATIENCE, || {
        assert_eq!(session.value(sql).unwrap(), wanted);
        ports.push(fixture.ran_on(&session, PORT));
        ports.sort();
        ports.dedup();
        ports.len() == 3 || ports.len() == 2 && !ports.contains(&primary.name)
    })
    .unwrap();
    session.execute("USE other").unwrap();
    for _ in 0..6 {
        assert_eq!(session.value("SELECT n FROM t").unwrap(), "7");
        assert_eq!(session.value("SELECT database() FROM t").unwrap(), "other");
    }
    assert_eq!(errno(&session.execute("USE nowhere").unwrap_err()), Some(1044));
    assert_eq!(session.value("SELECT n FROM t").unwrap(), "7");
    session.execute("SET time_zone = DEFAULT").unwrap();
    for _ in 0..6 {
        assert_eq!(session.value("SELECT @@time_zone FROM t").unwrap(), "+00:00");
    }
    assert_eq!(errno(&session.execute("SET time_zone = 'nowhere'").unwrap_err()), Some(1298));
}

fn sessions_leave_nothing_to_each_other(engine: Engine) {
    let fixture = Fixture::with(cluster(engine), |config| {
        config["clusters"]["main"]["pool"] = json!({ "size_max": 1 });
        config["workers"] = json!(2);
    });
    table(&fixture);
    let (one, two) = (fixture.session(), fixture.session());
    one.execute("SET time_zone = '+05:00'").unwrap();
    one.execute("INSERT INTO t VALUES (50, 'x') ON DUPLICATE KEY UPDATE v = 'y'").unwrap();
    assert_eq!(
        two.value("/* tiffin: primary */ SELECT @@time_zone FROM t LIMIT 1").unwrap(),
        "+00:00"
    );
    assert_eq!(
        one.value("/* tiffin: primary */ SELECT @@time_zone FROM t LIMIT 1").unwrap(),
        "+05:00"
    );
    let primary = fixture.cluster.primary();
    primary.execute("CREATE TABLE app.auto (n int PRIMARY KEY AUTO_INCREMENT, v int)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    one.execute("INSERT INTO auto (v) VALUES (1)").unwrap();
    two.execute("INSERT INTO auto (v) VALUES (2)").unwrap();
    one.execute("SELECT 1 FROM t FOR UPDATE").unwrap();
    assert_eq!(one.value("SELECT LAST_INSERT_ID()").unwrap(), "1");
    assert_eq!(two.value("SELECT LAST_INSERT_ID()").unwrap(), "2");
    // What is the session's own binds it to its connection, and goes with it.
    one.execute("SET @mine = 'yes'").unwrap();
    assert_eq!(one.value("SELECT @mine").unwrap(), "yes");
    drop(one);
    assert_eq!(two.value("SELECT @mine IS NULL").unwrap(), "1");
    two.execute("CREATE TEMPORARY TABLE temporary (n int)").unwrap();
    two.execute("INSERT INTO temporary VALUES (1)").unwrap();
    assert_eq!(two.value("SELECT n FROM temporary").unwrap(), "1");
    drop(two);
    let three = fixture.session();
    assert_eq!(errno(&three.execute("SELECT n FROM temporary").unwrap_err()), Some(1146));
    three.execute("DO GET_LOCK('mine', 0)").unwrap();
    drop(three);
    let four = fixture.session();
    assert_eq!(four.value("SELECT IS_FREE_LOCK('mine')").unwrap(), "1");
}

/// A reset takes a round trip, and another one for what it takes away.
fn sessions_that_only_read_share_a_connection_without_resets(engine: Engine) {
    let fixture = Fixture::with(cluster(engine), |config| {
        config["clusters"]["main"]["pool"] = json!({ "size_max": 1 });
        config["workers"] = json!(1);
    });
    table(&fixture);
    let primary = fixture.cluster.primary();
    let resets = || {
        let rows = primary.query("SHOW GLOBAL STATUS LIKE 'Com_admin_commands'").unwrap();
        rows[0][1].as_deref().unwrap().parse::<u32>().unwrap()
    };
    let (one, two) = (fixture.session(), fixture.session());
    one.execute("SET time_zone = '+01:00'").unwrap();
    two.execute("SET time_zone = '+05:00'").unwrap();
    let zones = || {
        let zone = |session: &Session| {
            session.value("/* tiffin: primary */ SELECT @@time_zone FROM t LIMIT 1").unwrap()
        };
        [zone(&one), zone(&two)]
    };
    assert_eq!(zones(), ["+01:00", "+05:00"]);
    let before = resets();
    for _ in 0..20 {
        assert_eq!(zones(), ["+01:00", "+05:00"]);
    }
    assert!(resets() - before < 10, "{} for 40 reads", resets() - before);
    // Whatever a statement may leave that is not followed is reset.
    let before = resets();
    for n in 0..10 {
        one.execute(&format!("UPDATE t SET v = 'x' WHERE n = {n}")).unwrap();
        assert_eq!(zones()[1], "+05:00");
    }
    assert!(resets() - before >= 10, "{} for 10 writes", resets() - before);
    // In MySQL `foreign_key_checks = DEFAULT` turns them off: what a session does not have is not
    // set to that.
    for check in ["OFF", "ON"] {
        one.execute(&format!("SET foreign_key_checks = {check}")).unwrap();
        let seen = one.value("/* tiffin: primary */ SELECT @@foreign_key_checks FROM t LIMIT 1");
        assert_eq!(seen.unwrap() == "1", check == "ON");
        let other = two.value("/* tiffin: primary */ SELECT @@foreign_key_checks FROM t LIMIT 1");
        assert_eq!(other.unwrap(), "1");
    }
}

fn transactions_stay_where_they_began(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let session = fixture.session();
    let primary = fixture.cluster.primary().name.clone();
    let on = |sql: &str| fixture.ran_on(&session, sql);
    session.execute("BEGIN").unwrap();
    assert_eq!(on(PORT), primary);
    session.execute("INSERT INTO t VALUES (100, 'x')").unwrap();
    session.execute("ROLLBACK").unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t WHERE n = 100").unwrap(), "0");
    wait_until(PATIENCE, || on(PORT) != primary).unwrap();
    session.execute("START TRANSACTION READ ONLY").unwrap();
    let replica = on(PORT);
    assert_ne!(replica, primary);
    for _ in 0..5 {
        assert_eq!(on(PORT), replica);
    }
    // What keeps a connection must not keep one of a replica.
    assert_eq!(errno(&session.execute("SET @mine = 1").unwrap_err()), Some(1213));
    session.execute("START TRANSACTION READ ONLY").unwrap();
    assert_eq!(on(PORT), primary, "run again");
    session.execute("SET @mine = 1").unwrap();
    session.execute("COMMIT").unwrap();
    session.execute("DELETE FROM t WHERE n = 100").unwrap();
    assert_eq!(session.value("SELECT @mine").unwrap(), "1");
    let session = fixture.session();
    let on = |sql: &str| fixture.ran_on(&session, sql);
    session.execute("START TRANSACTION READ ONLY").unwrap();
    let replica = on(PORT);
    assert_ne!(replica, primary);
    // MariaDB looks first whether the server is read-only, MySQL whether the transaction is.
    let refused = errno(&session.execute("DELETE FROM t").unwrap_err());
    assert_eq!(refused, Some(1792), "25006, as of a server that takes writes");
    assert_eq!(on(PORT), replica);
    session.execute("COMMIT").unwrap();
    session.execute("SET autocommit = 0").unwrap();
    assert_eq!(on(PORT), primary, "without autocommit a read opens a transaction");
    session.execute("INSERT INTO t VALUES (101, 'x')").unwrap();
    let other = fixture.session();
    let seen = "/* tiffin: primary */ SELECT count(*) FROM t WHERE n = 101";
    assert_eq!(other.value(seen).unwrap(), "0");
    session.execute("SET autocommit = 1").unwrap();
    assert_eq!(other.value(seen).unwrap(), "1");
    session.execute("SET TRANSACTION READ ONLY").unwrap();
    assert_eq!(errno(&session.execute("INSERT INTO t VALUES (102, 'x')").unwrap_err()), Some(1792));
    session.execute("COMMIT").unwrap();
    session.execute("INSERT INTO t VALUES (102, 'x')").unwrap();
    session.execute("SET SESSION TRANSACTION READ ONLY").unwrap();
    wait_until(PATIENCE, || on(PORT) != primary).unwrap();
    session.execute("BEGIN").unwrap();
    assert_ne!(on(PORT), primary);
    session.execute("COMMIT").unwrap();
}

/// COMMIT RELEASE is answered, and the connection is over: the client's, and that of the server, which
/// would break under the next client's statement.
fn a_release_ends_the_session_and_nobody_elses(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let set = "SET completion_type = 'RELEASE'";
    let ends: &[&[&str]] = &[
        &["COMMIT RELEASE"],
        &["COMMIT AND NO CHAIN RELEASE"],
        &["ROLLBACK WORK RELEASE"],
        &["BEGIN", "INSERT INTO t VALUES (200, 'x')", "COMMIT RELEASE"],
        &["START TRANSACTION READ ONLY", PORT, "COMMIT RELEASE"],
        &[set, "COMMIT"],
        &[set, "BEGIN", "COMMIT NO RELEASE", "BEGIN", "ROLLBACK"],
    ];
    let others = fixture.session();
    for statements in ends {
        let session = fixture.session();
        for sql in *statements {
            session.execute(sql).unwrap_or_else(|error| panic!("{statements:?}: {error:?}"));
        }
        let lost = session.execute("DO 1").expect_err("the connection is over");
        assert_eq!(errno(&lost), None, "{statements:?}: {lost:?}");
        others.execute("DO 1").unwrap();
    }
    assert_eq!(others.value("SELECT count(*) FROM t WHERE n = 200").unwrap(), "1");
    let session = fixture.session();
    session.execute("BEGIN").unwrap();
    session.execute("COMMIT NO RELEASE").unwrap();
    session.execute("DO 1").unwrap();
}

/// Every read after a write sees it, though the replicas are seconds behind or just behind.
fn a_session_reads_its_own_writes(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let session = fixture.session();
    session.execute("INSERT INTO t VALUES (0, '0')").unwrap();
    let mut on_replicas = 0;
    for n in 1..=500 {
        session.execute(&format!("UPDATE t SET v = '{n}' WHERE n = 0")).unwrap();
        let seen: u32 = session.value("SELECT v FROM t WHERE n = 0").unwrap().parse().unwrap();
        assert_eq!(seen, n);
        if n % 50 == 0 {
            wait_until(PATIENCE, || {
                fixture.ran_on(&session, PORT) != fixture.cluster.primary().name
            })
            .unwrap();
            on_replicas += 1;
            let seen: u32 = session.value("SELECT v FROM t WHERE n = 0").unwrap().parse().unwrap();
            assert_eq!(seen, n, "on a replica");
        }
    }
    assert_eq!(on_replicas, 10);
    for number in 0..2 {
        fixture.cluster.replica(number).stop_applying().unwrap();
    }
    session.execute("UPDATE t SET v = 'late' WHERE n = 0").unwrap();
    assert_eq!(session.value("SELECT v FROM t WHERE n = 0").unwrap(), "late");
}

fn large_packets_and_files_pass(engine: Engine) {
    const LARGE: usize = 20 * 1024 * 1024;
    let options = crate::support::mysql::Options {
        settings: vec![
            ("max_allowed_packet".into(), "64M".into()),
            ("local_infile".into(), "ON".into()),
        ],
        ..crate::support::mysql::options(engine)
    };
    let cluster = crate::support::mysql::Cluster::start(options).expect("start the servers");
    let fixture = Fixture::with(cluster, |_| {});
    table(&fixture);
    let session = fixture.session();
    session.execute("CREATE TABLE large (v longtext)").unwrap();
    session.execute(&format!("INSERT INTO large VALUES ('{}')", "x".repeat(LARGE))).unwrap();
    let length = |sql: &str| session.value(sql).unwrap();
    assert_eq!(length("SELECT length(v) FROM large"), LARGE.to_string());
    assert_eq!(length("SELECT v FROM large").len(), LARGE);
    assert_eq!(length("SELECT count(*) FROM t"), "2");
    let rows = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) \
                SELECT a.i, REPEAT('y', 50) FROM n a JOIN n b ON b.i < 200";
    assert_eq!(session.query(rows).unwrap().len(), 900 * 199);

    let file = |name: &[u8]| {
        assert_eq!(name, b"of the client's");
        let rows: String = (1000..60_000).map(|n| format!("{n}\tline {n}\n")).collect();
        let content = futures_util::stream::iter([Ok(bytes::Bytes::from(rows))]).boxed();
        async move { Ok(content) }.boxed()
    };
    let opts: Opts = fixture.opts().local_infile_handler(Some(file)).into();
    talk_with(opts, async |mut client| {
        let load = "LOAD DATA LOCAL INFILE 'of the client''s' INTO TABLE t";
        client.query_drop(load).await.unwrap();
        let count: Option<u32> = client.query_first("SELECT count(*) FROM t").await.unwrap();
        assert_eq!(count, Some(59_002));
        let long = client.prep("INSERT INTO large VALUES (?)").await.unwrap();
        client.exec_drop(&long, ("z".repeat(LARGE),)).await.unwrap();
        let lengths: Vec<usize> = client.query("SELECT length(v) FROM large").await.unwrap();
        assert_eq!(lengths, [LARGE, LARGE]);
        client.disconnect().await.unwrap();
    });
}

/// Clients do not look for an answer before they have sent the whole file, and then for the packet
/// behind it.
fn a_server_that_is_lost_under_a_file_is_told_behind_it(engine: Engine) {
    let options = crate::support::mysql::Options {
        settings: vec![("local_infile".into(), "ON".into())],
        ..crate::support::mysql::options(engine)
    };
    let cluster = crate::support::mysql::Cluster::start(options).expect("start the servers");
    let fixture = Fixture::with(cluster, |_| {});
    table(&fixture);
    let primary = fixture.cluster.primary();
    let opts = crate::support::mysql::client_opts(primary.port, &fixture.cluster.superuser);
    let kill = move || {
        let admin = Session::connect(&opts.into()).unwrap();
        let running = "FROM information_schema.processlist WHERE info LIKE 'LOAD DATA%'";
        let id = admin.value(&format!("SELECT id {running}")).unwrap();
        admin.execute(&format!("KILL {id}")).unwrap();
        let is_gone = || admin.value(&format!("SELECT count(*) {running}")).unwrap() == "0";
        wait_until(PATIENCE, is_gone).unwrap();
    };
    let file = move |_: &[u8]| {
        let kill = kill.clone();
        let rows = |from: u32| {
            let rows: String = (from..from + 2000).map(|n| format!("{n}\tline {n}\n")).collect();
            bytes::Bytes::from(rows)
        };
        let content = futures_util::stream::iter(1..=50).map(move |part| {
            if part == 10 {
                // Sessions of tests have a runtime of their own.
                std::thread::spawn(kill.clone()).join().unwrap();
            }
            Ok(rows(part * 2000))
        });
        async move { Ok(content.boxed()) }.boxed()
    };
    let opts: Opts = fixture.opts().local_infile_handler(Some(file)).into();
    talk_with(opts, async |mut client| {
        let refused = client.query_drop("LOAD DATA LOCAL INFILE 'x' INTO TABLE t").await;
        assert_eq!(errno(&refused.unwrap_err().into()), Some(1180));
    });
}

fn a_server_that_is_lost_behind_a_first_result_is_told_by_the_next_number(engine: Engine) {
    let fixture = Fixture::start(engine);
    // The server knows the password from here on, and a client without TLS can log in.
    fixture.session();
    let clients = [false, true].map(|deprecates_eof| {
        let app = &fixture.cluster.app;
        let mut wire = Wire::connect(fixture.proxy.port, app, "app", deprecates_eof);
        let text = b"\x03/* tiffin: primary */ SELECT 1; SELECT SLEEP(600)";
        wire.put(0, text);
        // The number of columns, one, a row, and what ends them.
        let count = if deprecates_eof { 4 } else { 5 };
        for number in 1..=count {
            assert_eq!(wire.next().sequence, number);
        }
        (wire, count + 1)
    });
    fixture.cluster.primary().kill9().unwrap();
    for (mut wire, next) in clients {
        let last = wire.next();
        let told = (last.sequence, last.payload.first().copied());
        assert_eq!(told, (next, Some(0xff)), "{}", last.payload.escape_ascii());
    }
}

fn several_results_pass(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    fixture
        .cluster
        .primary()
        .execute(
            "CREATE PROCEDURE app.several(IN a int, OUT b int) BEGIN \
             SELECT a; SELECT a + 1; SET b = a + 2; END",
        )
        .unwrap();
    talk(&fixture, async |mut client| {
        let mut result =
            client.query_iter("SELECT 1; SELECT 2; SELECT n FROM t ORDER BY n").await.unwrap();
        let mut all: Vec<Vec<u32>> = vec![];
        while !result.is_empty() {
            all.push(result.collect().await.unwrap());
        }
        drop(result);
        assert_eq!(all, [vec![1], vec![2], vec![1, 2]]);
        let mut result = client.query_iter("CALL several(5, @b)").await.unwrap();
        let first: Vec<u32> = result.collect().await.unwrap();
        let second: Vec<u32> = result.collect().await.unwrap();
        assert_eq!((first, second), (vec![5], vec![6]));
        result.drop_result().await.unwrap();
        let out: Option<u32> = client.query_first("SELECT @b").await.unwrap();
        assert_eq!(out, Some(7));
        let mut result = client.exec_iter("CALL several(?, @b)", (8,)).await.unwrap();
        let first: Vec<u32> = result.collect().await.unwrap();
        assert_eq!(first, [8]);
        result.drop_result().await.unwrap();
        let error = client.query_drop("SELECT 1; SELECT nothing FROM t").await.unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        client.query_drop("SELECT 1 / 0").await.unwrap();
        let warnings: Vec<Row> = client.query("SHOW WARNINGS").await.unwrap();
        assert_eq!(warnings.len(), 1, "the warning of the statement before");
        client.reset().await.unwrap();
        client.query_drop("SET @b = 1, time_zone = '+09:00'").await.unwrap();
        client.change_user(Default::default()).await.unwrap();
        let zone: Option<String> = client.query_first("SELECT @@time_zone").await.unwrap();
        assert_eq!(zone.as_deref(), Some("+00:00"));
        let out: Option<Option<u32>> = client.query_first("SELECT @b").await.unwrap();
        assert_eq!(out, Some(None));
        client.disconnect().await.unwrap();
    });
}

fn sessions_are_killed_by_the_proxys_ids(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let opts: Opts = fixture.opts().into();
    let (tell, told) = std::sync::mpsc::sync_channel(2);
    let sleeper = std::thread::spawn(move || {
        talk_with(opts, async |mut client| {
            tell.send(client.id()).unwrap();
            let begun = Instant::now();
            let slept = client.query_first::<u32, _>("SELECT SLEEP(100) FROM t LIMIT 1").await;
            assert!(begun.elapsed() < Duration::from_secs(90), "{slept:?}");
            tell.send(client.id()).unwrap();
            let ended = client.query_first::<u32, _>("SELECT SLEEP(100) FROM t LIMIT 1").await;
            ended.expect_err("the session was killed").to_string()
        })
    });
    let id = told.recv_timeout(PATIENCE).unwrap();
    assert!(id >= 1 << 31, "{id}");
    let killer = fixture.session();
    let running = || {
        fixture.cluster.servers().iter().any(|server| {
            let sql = "SELECT count(*) FROM information_schema.processlist \
                       WHERE info LIKE 'SELECT SLEEP%'";
            server.value(sql).is_ok_and(|count| count == "1")
        })
    };
    wait_until(PATIENCE, running).unwrap();
    killer.execute(&format!("KILL QUERY {id}")).unwrap();
    told.recv_timeout(PATIENCE).expect("the statement has ended");
    wait_until(PATIENCE, running).unwrap();
    killer.execute(&format!("KILL {id}")).unwrap();
    let ended = sleeper.join().unwrap();
    assert!(
        ended.contains("1927") || ended.contains("killed") || ended.contains("closed"),
        "{ended}"
    );
    wait_until(PATIENCE, || !running()).expect("nothing of it runs on");
    let error = killer.execute("KILL 2147483649999").unwrap_err();
    assert_eq!(errno(&error), Some(1094), "{error:#}");
    // Of another user's session.
    let admin = crate::support::mysql::client_opts(fixture.proxy.port, &fixture.cluster.superuser);
    let own: Opts = fixture.opts().into();
    talk_with(admin.into(), async |client| {
        let mut killer = Conn::new(own).await.unwrap();
        let error = killer.query_drop(format!("KILL {}", client.id())).await.unwrap_err();
        assert!(error.to_string().contains("1095"), "{error}");
        killer.disconnect().await.unwrap();
    });
}

fn limits_have_errors(engine: Engine) {
    let fixture = Fixture::with(cluster(engine), |config| {
        config["clusters"]["main"]["pool"] = json!({ "size_max": 1, "wait_timeout": "200ms" });
        config["limits"] = json!({ "client_statements_max": 2, "clients_max": 3 });
    });
    table(&fixture);
    let (one, two) = (fixture.session(), fixture.session());
    one.execute("BEGIN").unwrap();
    let error = two.execute("INSERT INTO t VALUES (5, 'x')").unwrap_err();
    assert_eq!(errno(&error), Some(1040), "{error:#}");
    one.execute("COMMIT").unwrap();
    two.execute("INSERT INTO t VALUES (5, 'x')").unwrap();
    let opts: Opts = fixture.opts().stmt_cache_size(0).into();
    talk_with(opts, async |mut client| {
        let first = client.prep("SELECT 1").await.unwrap();
        let _second = client.prep("SELECT 2").await.unwrap();
        let error = client.prep("SELECT 3").await.unwrap_err();
        assert!(error.to_string().contains("1461"), "{error}");
        client.close(first).await.unwrap();
        client.prep("SELECT 3").await.unwrap();
        let error = Conn::new(Opts::from(fixture.opts())).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("Too many connections"), "{error}");
        client.disconnect().await.unwrap();
    });
    let nowhere: Opts = fixture.opts().db_name(Some("nowhere")).into();
    drop(two);
    let refused = || match Session::connect(&nowhere) {
        Ok(_) => panic!("there is no such schema"),
        Err(error) => errno(&error),
    };
    wait_until(PATIENCE, || refused() != Some(1040)).unwrap();
    assert!(matches!(refused(), Some(1049 | 1044)), "{:?}", refused());
    // A drain waits for nobody who asks for nothing.
    let begun = Instant::now();
    fixture.proxy.signal("TERM").unwrap();
    fixture.proxy.wait().unwrap();
    one.execute("SELECT 1").unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(25), "shutdown.drain_timeout is 30s");
}
