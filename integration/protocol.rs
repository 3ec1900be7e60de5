//! What a client library sees through the proxy is what it sees without it.

use crate::support::proxy::Proxy;
use crate::support::wire::{self, Wire};
use crate::support::{
    Fixture, Metrics, PATIENCE, Session, binary, connect, on_postgres_18, runtime, sqlstate,
    wait_until,
};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::pin::pin;
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::process::free_port;
use tokio_postgres::SimpleQueryMessage;

/// Users log in with their password in clear, which the raw client here can do.
fn plain() -> crate::support::Builder {
    Fixture::build().config(|config| config["auth"]["method"] = "password".into())
}

fn login(fixture: &Fixture) -> Wire {
    let app = &fixture.cluster.app;
    Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password).0
}

#[test]
fn a_client_library_works() {
    let fixture = Fixture::start();
    let runtime = runtime();
    runtime.block_on(async {
        let mut client = connect(&fixture.config()).await;
        client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, what text)").await.unwrap();
        // Prepared once, used on whichever server connection comes, also pipelined.
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
        let select = client.prepare("SELECT what FROM t WHERE id = $1").await.unwrap();
        for id in 0..50 {
            client.execute(&insert, &[&id, &format!("dish {id}")]).await.unwrap();
            let row = client.query_one(&select, &[&id]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), format!("dish {id}"));
        }
        let pairs = (100..200).map(|id| {
            let (client, insert) = (&client, &insert);
            async move { client.execute(insert, &[&id, &"x"]).await }
        });
        for result in join_all(pairs).await {
            assert_eq!(result.unwrap(), 1);
        }
        // A transaction with a savepoint, rolled back on drop.
        let mut outer = client.transaction().await.unwrap();
        outer.execute(&insert, &[&1000, &"kept"]).await.unwrap();
        let inner = outer.savepoint("point").await.unwrap();
        assert!(inner.execute(&insert, &[&1000, &"twice"]).await.is_err());
        inner.rollback().await.unwrap();
        outer.commit().await.unwrap();
        assert_eq!(client.query(&select, &[&1000]).await.unwrap().len(), 1);
        // A portal read in parts.
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
        assert_eq!(transaction.query_portal(&portal, 7).await.unwrap().len(), 7);
        assert_eq!(transaction.query_portal(&portal, 0).await.unwrap().len(), 144);
        transaction.commit().await.unwrap();

        copy_both_ways(&client).await;
        errors_are_whole(&client).await;
    });
}

async fn copy_both_ways(client: &tokio_postgres::Client) {
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap());
    for part in 0..100 {
        let lines = (0..100).map(|i| format!("{}\tcopied\n", 10_000 + part * 100 + i));
        sink.send(Bytes::from(lines.collect::<String>())).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 10_000);
    let mut stream = pin!(client.copy_out("COPY t TO STDOUT").await.unwrap());
    let mut lines = 0;
    while let Some(chunk) = stream.next().await {
        lines += chunk.unwrap().iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 10_151);
}

/// Every field that a server puts into an error arrives.
async fn errors_are_whole(client: &tokio_postgres::Client) {
    let error = client.execute("INSERT INTO t VALUES (1, 'again')", &[]).await.unwrap_err();
    let error = error.as_db_error().expect("the server's error");
    assert_eq!(error.code().code(), "23505");
    assert_eq!(error.constraint(), Some("t_pkey"));
    assert_eq!(error.table(), Some("t"));
    assert_eq!(error.detail(), Some("Key (id)=(1) already exists."));
    // The connection is as good as before.
    let rows = client.simple_query("SELECT 1").await.unwrap();
    assert!(rows.iter().any(|row| matches!(row, SimpleQueryMessage::Row(_))));
}

#[test]
fn a_running_statement_is_cancelled_where_it_runs() {
    let fixture = Fixture::start();
    for hint in ["primary", "replica", "node=pg2"] {
        let runtime = runtime();
        let (error, elapsed) = runtime.block_on(async {
            let client = connect(&fixture.config()).await;
            let token = client.cancel_token();
            let sql = format!("/* tiffin: {hint} */ SELECT pg_sleep(60)");
            let started = Instant::now();
            let running = async { client.simple_query(&sql).await.unwrap_err() };
            let cancel = async {
                // Until the statement runs somewhere there is nothing to cancel.
                let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'
                               AND state = 'active' AND pid <> pg_backend_pid()";
                let servers = fixture.cluster.servers();
                let runs =
                    || servers.iter().any(|s| s.query(running).is_ok_and(|rows| !rows.is_empty()));
                while !runs() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                token.cancel_query(tokio_postgres::NoTls).await.unwrap();
            };
            let (error, ()) = tokio::join!(running, cancel);
            assert_eq!(client.simple_query("SELECT 1").await.unwrap().len(), 3);
            (error, started.elapsed())
        });
        assert_eq!(error.code().unwrap().code(), "57014", "{hint}");
        assert!(elapsed < PATIENCE, "{hint}: {elapsed:?}");
    }
    // A cancel that comes too late hits nobody, and one with a wrong key neither.
    let busy = fixture.session();
    busy.query("SELECT 1").unwrap();
    let mut wire = Wire::connect(fixture.proxy.port);
    wire.send(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert!(wire.message().is_none(), "a cancel request has no answer");
    assert_eq!(busy.value("SELECT 2").unwrap(), "2");
}

/// One that waits for a connection is cancelled, and whoever has it is not: neither by that nor by a
/// cancel of somebody who had the connection before.
#[test]
fn a_cancel_meets_its_own_client_only() {
    let fixture = Fixture::build()
        .replicas(0)
        .key("pool.size_max", 1)
        .config(|config| config["workers"] = 1.into())
        .start();
    let primary = fixture.cluster.primary();
    let sleeps = "SELECT pg_sleep(1)";
    let runs =
        format!("SELECT 1 FROM pg_stat_activity WHERE query = '{sleeps}' AND state = 'active'");
    runtime().block_on(async {
        let (before, busy) = (connect(&fixture.config()).await, connect(&fixture.config()).await);
        before.simple_query("SELECT 1").await.unwrap();
        let token = before.cancel_token();
        busy.simple_query("BEGIN").await.unwrap();
        let late = async {
            while primary.query(&runs).unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (ran, ()) = tokio::join!(busy.simple_query(sleeps), late);
        ran.expect("nobody has cancelled it");
        let cancel = async {
            while fixture.metrics().sum("tiffin_pool_waiting", &[]) == 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (waited, ()) = tokio::join!(before.simple_query("SELECT 2"), cancel);
        assert_eq!(waited.unwrap_err().code().unwrap().code(), "57014");
        busy.simple_query("COMMIT").await.unwrap();
        assert_eq!(before.simple_query("SELECT 3").await.unwrap().len(), 3);
    });
}

/// A cancel finds its session in whichever thread that is, and by whichever listener it comes. At
/// another proxy there is no such session, and nobody else is hit.
#[test]
fn a_cancel_reaches_its_session_by_any_listener() {
    let fixture = plain()
        .replicas(0)
        .config_with(|_, config| {
            let second = free_port().expect("a port");
            let first = config["listen"]["postgres"][0].clone();
            config["listen"]["postgres"] = json!([first, format!("127.0.0.1:{second}")]);
            config["workers"] = 4.into();
        })
        .start();
    let mut config = fixture.config.clone();
    config["listen"] = json!({
        "postgres": [format!("127.0.0.1:{}", free_port().unwrap())],
        "http": format!("127.0.0.1:{}", free_port().unwrap()),
    });
    let other = Proxy::start(binary(), &fixture.cluster, &config).unwrap();
    let stranger = fixture.cluster.app.clone();
    let (mut bystander, _) =
        Wire::login(other.port, wire::VERSION_3_0, &stranger.user, &stranger.password);
    let second = fixture.config["listen"]["postgres"][1].as_str().unwrap();
    let second: u16 = second.rsplit(':').next().unwrap().parse().unwrap();
    let primary = fixture.cluster.primary();
    // More than there are threads: each has one.
    for number in 0..6 {
        let app = &fixture.cluster.app;
        let (mut wire, seen) =
            Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
        let key = seen.iter().find(|message| message.tag == b'K').expect("a cancel key");
        let cancel = [&[0, 0, 0, 16, 4, 210, 22, 46], &key.body[..]].concat();
        let sleeps = format!("SELECT pg_sleep(60), {number}");
        wire.send(&wire::query(&sleeps));
        bystander.send(&wire::query("SELECT pg_sleep(0)"));
        let runs = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE query = '{sleeps}' AND state = 'active'"
        );
        let running = || primary.value(&runs).is_ok_and(|count| count == "1");
        wait_until(PATIENCE, running).expect("the statement runs");
        let send = |port| {
            let mut sender = Wire::connect(port);
            sender.send(&cancel);
            // The end of the stream says that it is done.
            assert!(sender.message().is_none());
        };
        send(other.port);
        assert!(running(), "the other proxy has cancelled it");
        assert_eq!(wire::tags(&bystander.until_ready()), "TDCZ");
        send(second);
        let answer = wire.until_ready();
        assert_eq!(answer.iter().find(|m| m.tag == b'E').unwrap().field(b'C'), "57014");
    }
    let metrics = Metrics::parse(&other.get("/metrics").unwrap().1);
    let unknown = metrics.sum("tiffin_cancel_requests_total", &[("outcome", "unknown")]);
    assert_eq!(unknown, 6.0, "those that are nobody's are counted");
}

#[test]
fn large_values_pass_without_being_held() {
    const VALUE_MIB: u64 = 512;
    /// What the proxy may grow by while such a value passes: buffers, not values.
    const GROWTH_MAX: u64 = 32 << 20;
    let fixture = Fixture::build().replicas(0).start();
    let before = fixture.rss();
    let runtime = runtime();
    let started = Instant::now();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let peak = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(fixture.rss());
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        runtime.block_on(async {
            let client = connect(&fixture.config()).await;
            let bytes = vec![b'x'; usize::try_from(VALUE_MIB << 20).unwrap()];
            let row = client.query_one("SELECT length($1::bytea)", &[&bytes]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), i32::try_from(bytes.len()).unwrap());
            println!("measured: that much was sent in {:.1} s", started.elapsed().as_secs_f64());
            let sql = format!("SELECT convert_to(repeat('x', {}), 'UTF8')", VALUE_MIB << 20);
            let row = client.query_one(&sql, &[]).await.unwrap();
            assert!(row.get::<_, &[u8]>(0) == bytes, "another value came back");
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap()
    });
    println!(
        "measured: a bytea of {VALUE_MIB} MiB both ways in {:.1} s, the proxy grew by {:.1} MiB",
        started.elapsed().as_secs_f64(),
        peak.saturating_sub(before) as f64 / f64::from(1 << 20)
    );
    assert!(peak.saturating_sub(before) <= GROWTH_MAX, "{before} → {peak}");
}

#[test]
fn the_server_learns_who_asks_and_the_client_what_it_talks_to() {
    let fixture = plain().start();
    let session = fixture.session_with(|config| {
        config.application_name("lunch").options("-c statement_timeout=54321");
    });
    for target in ["primary", "replica"] {
        let show =
            |name: &str| session.value(&format!("/* tiffin: {target} */ SHOW {name}")).unwrap();
        assert!(show("application_name").contains("lunch"), "{target}");
        assert_eq!(show("statement_timeout"), "54321ms", "{target}");
    }
    // Start-up: the parameters of a real server, a key of the length that the version has.
    let app = &fixture.cluster.app;
    for (version, key_length) in [(wire::VERSION_3_0, 4), (wire::VERSION_3_2, 4)] {
        let (mut wire, seen) = Wire::login(fixture.proxy.port, version, &app.user, &app.password);
        let names: Vec<String> = seen
            .iter()
            .filter(|message| message.tag == b'S')
            .map(|message| message.text().split(' ').next().unwrap().to_string())
            .collect();
        for name in [
            "server_version",
            "server_encoding",
            "client_encoding",
            "DateStyle",
            "IntervalStyle",
            "TimeZone",
            "integer_datetimes",
            "standard_conforming_strings",
            "is_superuser",
            "session_authorization",
            "application_name",
        ] {
            assert!(names.iter().any(|found| found == name), "{name} is missing: {names:?}");
        }
        let key = seen.iter().find(|message| message.tag == b'K').expect("a cancel key");
        assert!(key.body.len() >= 4 + key_length, "{key:?}");
        assert!(version != wire::VERSION_3_0 || key.body.len() == 8, "{key:?}");
        // A change is reported, also when the next statement runs on another server.
        let answer = wire.query("SET DateStyle = 'German'");
        assert!(answer.iter().any(|m| m.tag == b'S' && m.text().contains("German")), "{answer:?}");
        for hint in ["primary", "node=pg1", "node=pg2"] {
            let sql = format!("/* tiffin: {hint} */ SELECT '2026-11-21'::date");
            assert_eq!(wire::first_value(&wire.query(&sql)).unwrap(), "21.11.2026", "{hint}");
        }
    }
    // A later minor version and an unknown protocol option are negotiated down, not refused.
    let mut wire = Wire::connect(fixture.proxy.port);
    wire.startup(196_608 + 99, &[("user", &app.user), ("database", "app"), ("_pq_.unknown", "1")]);
    let answer = wire.message().expect("an answer");
    assert_eq!(answer.tag, b'v', "{answer:?}");
    assert!(answer.text().contains("_pq_.unknown"), "{answer:?}");
    // GSS encryption and TLS are declined in one byte, and the plain start-up goes on.
    for code in [80_877_104_u32, 80_877_103] {
        let mut wire = Wire::connect(fixture.proxy.port);
        wire.send(&[8_u32.to_be_bytes(), code.to_be_bytes()].concat());
        let mut answer = [0];
        std::io::Read::read_exact(&mut wire.stream, &mut answer).unwrap();
        assert_eq!(answer, *b"N");
        wire.startup(wire::VERSION_3_0, &[("user", &app.user), ("database", "app")]);
        assert_eq!(wire.message().expect("an answer").tag, b'R');
    }
}

#[test]
fn notices_and_notifications_arrive() {
    let fixture = plain().start();
    let mut wire = login(&fixture);
    let answer = wire.query("DO $$BEGIN RAISE NOTICE 'the % is ready', 'dal'; END$$");
    let notice = answer.iter().find(|message| message.tag == b'N').expect("a notice");
    assert_eq!(notice.field(b'M'), "the dal is ready");
    wire.query("LISTEN kitchen");
    // The listener keeps its server connection and hears of it while idle.
    let sender = fixture.session();
    sender.query("NOTIFY kitchen, 'served'").unwrap();
    let told = wire.message().expect("a notification");
    assert_eq!(told.tag, b'A');
    assert!(told.text().contains("kitchen served"), "{}", told.text());
    wire.query("UNLISTEN *");
}

/// The rest of the session after an error of each kind.
#[test]
fn a_session_survives_its_errors() {
    let fixture = Fixture::start();
    let session: Session = fixture.session();
    for (sql, state) in [
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT 1/0", "22012"),
        ("SELECT nothing()", "42883"),
        ("SELECT 'x'::int", "22P02"),
    ] {
        let error = session.query(sql).unwrap_err();
        assert_eq!(sqlstate(&error), Some(state), "{sql}: {error:#}");
        let error = session.rows(sql, &[]).unwrap_err();
        assert_eq!(sqlstate(&error), Some(state), "{sql}: {error:#}");
    }
    wait_until(PATIENCE, || session.value("SELECT 1").is_ok()).unwrap();
}

on_postgres_18!(
    a_client_library_works,
    a_running_statement_is_cancelled_where_it_runs,
    a_session_survives_its_errors,
    the_server_learns_who_asks_and_the_client_what_it_talks_to,
);
