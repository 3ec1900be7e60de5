//! Clients that are broken, rude or hostile: a clear error or a closed connection, bounded
//! memory, and nobody else is affected.

use crate::support::wire::{self, Wire, frame, query};
use crate::support::{Fixture, PATIENCE, Session, connect, runtime, state_of, wait_until};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// What the proxy may hold for all of this together.
const GROWTH_MAX: u64 = 96 << 20;

/// Clients that stall are closed by the proxy after `SOON` here; the rest is for a busy machine.
/// Without that bound nothing would be closed in this time.
const CLOSED_WITHIN: Duration = Duration::from_secs(40);
const SOON: &str = "5s";
/// For clients that are rude in other ways: none is to be closed because the machine is busy.
const LATE: &str = "10min";

fn fixture(bound: &'static str) -> Fixture {
    Fixture::build()
        .replicas(1)
        .config(move |config| {
            config["auth"]["method"] = "password".into();
            for limit in ["startup_timeout", "message_timeout", "write_timeout"] {
                config["limits"][limit] = bound.into();
            }
        })
        .start()
}

fn login(fixture: &Fixture) -> Wire {
    let app = &fixture.cluster.app;
    Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password).0
}

/// Before the login: each must end within the start-up timeout, with an error or without.
#[test]
fn garbage_before_the_login() {
    let fixture = fixture(SOON);
    let other = fixture.session();
    let before = fixture.rss();
    let startup = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let version = wire::VERSION_3_0.to_be_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xFF; 64]),
        ("length 0", startup(0, &version)),
        ("length 3", startup(3, &version)),
        ("length 4", startup(4, &[])),
        ("length 7", startup(7, &[0, 3, 0])),
        ("a length of 2 GiB", startup(0x7FFF_FFFF, &version)),
        ("a negative length", startup(0x8000_0000, &version)),
        ("half a packet", startup(100, &version)),
        ("an old protocol", startup(8, &[0, 2, 0, 0])),
        ("a future protocol", startup(9, &[0, 4, 0, 0, 0])),
        ("no terminator", startup(12, &[&version[..], b"user"].concat())),
        ("no user", startup(9, &[&version[..], b"\0"].concat())),
        ("a name without value", startup(14, &[&version[..], b"user\0\0"].concat())),
        ("bytes after the end", startup(20, &[&version[..], b"user\0app\0\0x\0"].concat())),
        ("not UTF-8", startup(16, &[&version[..], b"user\0\xFF\xFE\0"].concat())),
        ("10,000 parameters", {
            let body = [&version[..], &b"a\0b\0".repeat(2_400), b"\0"].concat();
            startup(u32::try_from(body.len() + 4).unwrap(), &body)
        }),
        ("a query instead", query("SELECT 1")),
        ("a cancel request that is too short", startup(12, &[4, 210, 22, 46, 0, 0, 0, 1])),
        (
            "a cancel request with a long key",
            startup(8 + 4 + 300, &[&[4, 210, 22, 46, 0, 0, 0, 1][..], &[7; 300]].concat()),
        ),
        ("TLS asked for again and again", [0, 0, 0, 8, 4, 210, 22, 47].repeat(100)),
        ("a TLS hello", [&[0x16, 3, 1, 2, 0, 1][..], &[0; 500]].concat()),
    ];
    let started = Instant::now();
    // All at once, so that the bound passes but once.
    let wires: Vec<(&str, Wire)> = cases
        .iter()
        .map(|(name, bytes)| {
            let mut wire = Wire::connect(fixture.proxy.port);
            let _ = wire.stream.write_all(bytes);
            assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
            (*name, wire)
        })
        .collect();
    for (name, mut wire) in wires {
        let mut answer = Vec::new();
        // An end or a reset, both are fine; silence is not.
        let _ = wire.stream.read_to_end(&mut answer);
        assert!(started.elapsed() < CLOSED_WITHIN, "{name}: still open");
        assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
    }
    // While logging in: passwords that are none.
    let passwords: Vec<Vec<u8>> = vec![
        frame(b'p', b""),
        vec![b'p', 0, 0, 0, 0],
        vec![b'p', 0, 0, 0, 3],
        vec![b'p', 0x7F, 0xFF, 0xFF, 0xFF],
        vec![b'p', 0xFF, 0xFF, 0xFF, 0xFF],
        frame(b'p', &vec![b'x'; 100_000]),
        frame(b'Q', b"SELECT 1\0"),
        frame(b'd', b"x"),
    ];
    for bytes in &passwords {
        let mut wire = Wire::connect(fixture.proxy.port);
        wire.startup(wire::VERSION_3_0, &[("user", "app"), ("database", "app")]);
        assert_eq!(wire.message().expect("asks for the password").tag, b'R');
        let _ = wire.stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = wire.stream.read_to_end(&mut answer);
        assert_eq!(other.value("SELECT 1").unwrap(), "1");
    }
    let grown = fixture.rss().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {grown}");
    assert!(fixture.proxy.is_running());
    assert!(!fixture.proxy.log().contains("panicked"), "{}", fixture.proxy.log());
}

/// After the login.
#[test]
fn malformed_messages() {
    let fixture = fixture(SOON);
    let other = fixture.session();
    other.query("CREATE TABLE t (n int)").unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown tag", frame(b'~', b"abc")),
        ("tag zero", frame(0, b"")),
        ("a server's message", frame(b'D', b"\0\x01")),
        ("length 0", vec![b'Q', 0, 0, 0, 0]),
        ("length 3", vec![b'Q', 0, 0, 0, 3]),
        ("a negative length", vec![b'Q', 0xFF, 0xFF, 0xFF, 0xFF]),
        ("a query of 2 GiB", vec![b'Q', 0x7F, 0xFF, 0xFF, 0xFF, b'S']),
        ("a query without end", frame(b'Q', b"SELECT 1")),
        ("an empty query body", frame(b'Q', b"")),
        ("parse without end", frame(b'P', b"name")),
        ("parse with a count too large", frame(b'P', b"\0SELECT 1\0\xFF\xFF")),
        ("parse with a negative count", frame(b'P', b"\0SELECT 1\0\x80\0")),
        ("bind without end", frame(b'B', b"")),
        ("bind with too many parameters", frame(b'B', b"\0\0\0\0\xFF\xFF")),
        ("bind with a length beyond the end", frame(b'B', b"\0\0\0\0\0\x01\x7F\xFF\xFF\xFF")),
        ("execute without limit", frame(b'E', b"\0")),
        ("describe nothing", frame(b'D', b"")),
        ("describe what", frame(b'D', b"X\0")),
        ("close what", frame(b'C', b"X\0")),
        ("a sync with a body", frame(b'S', b"body")),
        (
            "copy data out of place",
            [frame(b'd', b"x"), frame(b'c', b""), frame(b'S', b"")].concat(),
        ),
        ("a password out of place", frame(b'p', b"x\0")),
        ("not UTF-8", query("SELECT '\u{0}'")),
        ("invalid bytes", frame(b'Q', b"SELECT '\xFF\xFE'\0")),
        ("a function call", frame(b'F', b"\0\0\0\x01\0\0\0\0\0\0")),
    ];
    let started = Instant::now();
    // All at once, so that the bound passes but once.
    let wires: Vec<(&str, Wire)> = cases
        .iter()
        .map(|(name, bytes)| {
            let mut wire = login(&fixture);
            let _ = wire.stream.write_all(bytes);
            // Either the connection goes on, or it was closed with an error; both within the bound.
            let _ = wire.stream.write_all(&[frame(b'S', b""), frame(b'X', b"")].concat());
            (*name, wire)
        })
        .collect();
    for (name, mut wire) in wires {
        let mut answer = Vec::new();
        let _ = wire.stream.read_to_end(&mut answer);
        assert!(started.elapsed() < CLOSED_WITHIN, "{name}: hangs");
        assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
        other.query("INSERT INTO t VALUES (1)").unwrap();
    }
    assert!(!fixture.proxy.log().contains("panicked"), "{}", fixture.proxy.log());
}

#[test]
fn clients_that_stall_are_closed() {
    let fixture = fixture(SOON);
    let other = fixture.session();
    // In the middle of a message.
    let mut wire = login(&fixture);
    wire.send(&query("SELECT 1")[..7]);
    let started = Instant::now();
    wire.closed_with();
    assert!((Duration::from_secs(1)..CLOSED_WITHIN).contains(&started.elapsed()));
    // Between messages nobody is in a hurry.
    let mut idle = login(&fixture);
    // A client that never reads: the reply is not gathered, and its server comes free again.
    let before = fixture.rss();
    let mut deaf = login(&fixture);
    deaf.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"));
    let closed = || fixture.metrics().sum("tiffin_clients", &[]) <= 2.0;
    let mut peak = 0;
    wait_until(PATIENCE, || {
        peak = peak.max(fixture.rss());
        closed()
    })
    .expect("the deaf client is closed");
    assert!(peak.saturating_sub(before) < GROWTH_MAX, "grew by {}", peak - before);
    let active = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
    for server in fixture.cluster.servers() {
        wait_until(PATIENCE, || server.value(active).unwrap() == "0").expect("the server is free");
    }
    assert_eq!(wire::first_value(&idle.query("SELECT 1")).unwrap(), "1");
    // One that goes away in the middle of a transaction or a COPY leaves nothing locked.
    other.query("CREATE TABLE t (n int)").unwrap();
    for last in ["LOCK TABLE t", "COPY t FROM STDIN"] {
        let mut rude = login(&fixture);
        rude.query("BEGIN");
        rude.send(&query(last));
        rude.message();
        drop(rude);
        other.query("INSERT INTO t VALUES (1)").unwrap();
    }
}

/// Messages that nobody answers, or whose answers nobody reads, are not gathered.
#[test]
fn endless_pipelines() {
    /// What is kept of one message is about a hundred bytes: more than may be held.
    const MESSAGES: usize = 1_200_000;
    let fixture = fixture(LATE);
    let mut client = login(&fixture);
    client.query("BEGIN");
    let before = fixture.rss();
    let fails =
        [wire::parse("", "SELECT 1 / 0"), wire::bind("", ""), wire::execute("", 0)].concat();
    let close = wire::named(b'C', b'P', "");
    for (name, first, one, answer) in [
        // Skipped by the server up to a Sync.
        ("behind an error", fails, close.clone(), "1E"),
        // It ends no COPY, and the server says nothing.
        ("CopyDone", query("ROLLBACK; BEGIN"), frame(b'c', b""), "CCZ"),
        ("answered", vec![], close, ""),
    ] {
        client.send(&first);
        let mut peak = 0;
        let mut sender = client.stream.try_clone().unwrap();
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                sender.write_all(&one.repeat(MESSAGES)).unwrap();
                sender.write_all(&wire::sync()).unwrap();
            });
            // Those whose answers are read late.
            std::thread::sleep(Duration::from_millis(500));
            loop {
                let message = client.message().expect("the session goes on");
                if seen.len() % 10_000 == 0 {
                    peak = peak.max(fixture.rss());
                }
                let ends = message.tag == b'Z' && !(name == "CopyDone" && seen.len() < 3);
                seen.push(message);
                if ends {
                    break;
                }
            }
        });
        peak = peak.max(fixture.rss());
        println!("measured: {name}: the proxy grew by {} KiB", peak.saturating_sub(before) >> 10);
        let tags = wire::tags(&seen);
        assert!(tags.starts_with(answer), "{name}: {}", &tags[..tags.len().min(20)]);
        let closed = seen.iter().filter(|message| message.tag == b'3').count();
        assert_eq!(closed, if name == "answered" { MESSAGES } else { 0 }, "{name}");
        assert!(peak.saturating_sub(before) < GROWTH_MAX, "{name}: grew by {}", peak - before);
    }
    assert_eq!(wire::tags(&client.query("COMMIT")), "CZ");
}

#[test]
fn absurd_statements() {
    let fixture = fixture(LATE);
    let other = fixture.session();
    let before = fixture.rss();
    let deep = |open: &str, close: &str, depth: usize| {
        format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth))
    };
    // What the server says is what the client gets; the proxy itself must only live through it.
    let statements = [
        ("a million parentheses", deep("(", ")", 1_000_000)),
        ("a million NOTs", format!("SELECT {} true", "NOT ".repeat(1_000_000))),
        ("a million minus signs", deep("- ", "", 1_000_000)),
        ("a thousand subqueries", deep("(SELECT ", ")", 1_000)),
        ("a hundred thousand CASEs", deep("CASE WHEN true THEN ", " END", 100_000)),
        ("a million additions", format!("SELECT 1{}", "+1".repeat(1_000_000))),
        ("deep comments", format!("{}{} SELECT 1", "/* ".repeat(500_000), "*/ ".repeat(500_000))),
        ("64 MiB of text", format!("SELECT length('{}')", "x".repeat(64 << 20))),
        ("64 MiB of white space", format!("SELECT 1{}", " ".repeat(64 << 20))),
        ("a hundred thousand statements", "SELECT 1;".repeat(100_000)),
        ("an open quote", "SELECT 'open".to_string()),
        ("an open dollar quote", "SELECT $a$open".to_string()),
        ("an open comment", "SELECT 1 /* open".to_string()),
    ];
    for (name, sql) in &statements {
        let session: Session = fixture.session();
        let started = Instant::now();
        let result = session.query(sql);
        if let Err(error) = &result {
            let state = crate::support::sqlstate(error);
            assert!(state.is_some(), "{name}: {:#}", error.root_cause());
        }
        println!(
            "measured: {name}: {:?}, {}",
            started.elapsed(),
            if result.is_ok() { "done" } else { "refused" }
        );
        assert_eq!(session.value("SELECT 1").unwrap(), "1", "{name}");
        assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
    }
    let long = fixture.session();
    assert_eq!(
        long.value(&format!("SELECT length('{}')", "x".repeat(64 << 20))).unwrap(),
        (64 << 20).to_string()
    );
    let grown = fixture.rss().saturating_sub(before);
    println!("measured: the proxy grew by {} MiB over absurd statements", grown >> 20);
    assert!(grown < 2 * GROWTH_MAX, "grew by {grown}");
}

#[test]
fn logins_that_fail_say_why_and_are_delayed() {
    let fixture = Fixture::build()
        .replicas(0)
        .config(|config| {
            config["limits"]["auth_delay"] = "300ms".into();
            config["limits"]["clients_max"] = 5.into();
            config["clusters"]["main"]["databases"] = serde_json::json!(["app"]);
        })
        .start();
    let try_login = |change: fn(&mut tokio_postgres::Config)| {
        let mut config = fixture.config();
        change(&mut config);
        let started = Instant::now();
        (state_of(Session::connect(&config)), started.elapsed())
    };
    let (state, wrong) = try_login(|config| {
        config.password("wrong");
    });
    assert_eq!(state, "28P01");
    let (state, unknown) = try_login(|config| {
        config.user("nobody");
    });
    assert_eq!(state, "28P01", "an unknown user looks like a wrong password");
    for elapsed in [wrong, unknown] {
        assert!(elapsed >= Duration::from_millis(280), "{elapsed:?}");
    }
    let (state, _) = try_login(|config| {
        config.dbname("nowhere");
    });
    assert_eq!(state, "3D000");
    // Those who were refused have left.
    let clients = || fixture.metrics().sum("tiffin_clients", &[]);
    wait_until(PATIENCE, || clients() == 0.0).expect("nobody is left");
    let sessions: Vec<Session> = (0..5).map(|_| fixture.session()).collect();
    assert_eq!(state_of(Session::connect(&fixture.config())), "53300");
    drop(sessions);
    wait_until(PATIENCE, || Session::connect(&fixture.config()).is_ok()).expect("room again");
}

/// Many clients at once that come and go in disorder.
#[test]
fn a_crowd_of_clients_comes_and_goes() {
    const CLIENTS: usize = 300;
    let fixture = fixture(LATE);
    let runtime = runtime();
    runtime.block_on(async {
        for round in 0..3 {
            let tasks: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let config = fixture.config();
                    tokio::spawn(async move {
                        let client = connect(&config).await;
                        let sent = i32::try_from(number).unwrap();
                        // A third of them goes away in the middle of it.
                        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&sent];
                        let answer = client.query_one("SELECT $1::int", &parameters);
                        if number % 3 != round {
                            assert_eq!(answer.await.unwrap().get::<_, i32>(0), sent);
                        } else {
                            tokio::time::timeout(Duration::from_millis(1), answer).await.ok();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("a client");
            }
        }
    });
    // Only a runtime that runs closes what its clients have dropped.
    drop(runtime);
    wait_until(PATIENCE, || fixture.metrics().sum("tiffin_clients", &[]) == 0.0)
        .expect("all are gone");
    assert_eq!(fixture.metrics().sum("tiffin_clients_opened_total", &[]), (3 * CLIENTS) as f64);
}
