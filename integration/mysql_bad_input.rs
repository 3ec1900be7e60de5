//! Clients of MySQL and MariaDB that are broken, rude or hostile: an error with the number and
//! SQLSTATE that a server has for it, or a closed connection; bounded memory, and nobody else is
//! affected. See `bad_input.rs`.

use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, errno, on_mysql_and_mariadb, options,
};
use crate::support::mysql_wire::Wire;
use crate::support::{PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tiffin::protocol::mysql::packet;
use tiffin::protocol::mysql::reply::ErrPacket;

on_mysql_and_mariadb! {
    garbage_before_the_login,
    malformed_commands,
    clients_that_stall_are_closed,
    absurd_statements,
}

/// What the proxy may hold for all of this together.
const GROWTH_MAX: u64 = 96 << 20;
/// Clients that stall are closed by the proxy after `SOON`; the rest is for a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(40);
const SOON: &str = "5s";
/// For clients that are rude in other ways: none is to be closed because the machine is busy.
const LATE: &str = "10min";

/// Number and SQLSTATE.
type Expected = (u16, &'static str);

fn fixture(engine: Engine, bound: &str) -> Fixture {
    let settings = vec![("max_allowed_packet".to_owned(), "32M".to_owned())];
    let cluster = Cluster::start(Options { replicas: 0, settings, ..options(engine) });
    Fixture::with(cluster.expect("start a server"), |config| {
        for limit in ["startup_timeout", "message_timeout", "write_timeout"] {
            config["limits"][limit] = bound.into();
        }
    })
}

fn login(fixture: &Fixture) -> Wire {
    Wire::connect(fixture.proxy.port, &fixture.cluster.app, "app", true)
}

/// A head and a payload.
fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), sequence);
    packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(payload));
    out
}

/// Number and SQLSTATE of the last packet, if it is an error.
fn refusal(bytes: &[u8]) -> Option<(u16, String)> {
    let (mut rest, mut last) = (bytes, None);
    while let Some((_, payload, next)) = packet::split(rest) {
        (rest, last) = (next, Some(payload));
    }
    let error = ErrPacket::parse(last?).ok()?;
    Some((error.errno, String::from_utf8_lossy(&error.sqlstate).into_owned()))
}

fn is_alive(fixture: &Fixture) {
    assert!(fixture.proxy.is_running());
    assert!(!fixture.proxy.log().contains("panicked"), "{}", fixture.proxy.log());
    // A client's faults are not the server's.
    assert!(!fixture.proxy.log().contains("is unhealthy"), "{}", fixture.proxy.log());
}

/// Each must end within the start-up timeout, with this error or, where there is none to tell,
/// without.
fn garbage_before_the_login(engine: Engine) {
    let fixture = fixture(engine, SOON);
    let other = fixture.session();
    let before = fixture.rss();
    // Capabilities PROTOCOL_41 and SECURE_CONNECTION, then what `rest` says.
    let response = |rest: &[u8]| {
        let mut payload = vec![0; 32];
        payload[..4].copy_from_slice(&0x0008_8200_u32.to_le_bytes());
        payload.extend_from_slice(rest);
        framed(1, &payload)
    };
    let (bad, slow) = (Some((1043, "08S01")), Some((1159, "08S01")));
    let cases: Vec<(&str, Vec<u8>, Option<Expected>)> = vec![
        ("nothing", vec![], slow),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Some((1153, "08S01"))),
        ("zeros", vec![0; 64], Some((1156, "08S01"))),
        ("ones", vec![0xFF; 64], Some((1153, "08S01"))),
        ("an empty packet", framed(1, b""), bad),
        ("one byte", framed(1, b"\0"), bad),
        ("another packet's number", framed(7, &[0; 64]), Some((1156, "08S01"))),
        ("half a packet", framed(1, &[0; 64])[..20].to_vec(), slow),
        ("an absurd length", vec![0xFF, 0xFF, 0xFF, 1, 0x85], Some((1153, "08S01"))),
        ("an old protocol", framed(1, &[0x05, 0, 0, 0, 0, b'u', 0]), None),
        ("a query instead", framed(0, b"\x03SELECT 1"), Some((1156, "08S01"))),
        ("no user", response(b""), bad),
        ("a user without end", response(b"user"), bad),
        ("a proof beyond the end", response(b"user\0\xFFabc"), bad),
        // Asked for a proof by a plugin that the proxy has, they say nothing.
        ("no plugin", response(b"user\0\0"), slow),
        ("not UTF-8", response(b"\xFF\xFE\0\0plugin\0"), slow),
        ("an unknown plugin", response(b"user\0\x03abcno_such\0"), slow),
    ];
    let started = Instant::now();
    // All at once, so that the bound passes but once.
    let streams: Vec<_> = cases
        .into_iter()
        .map(|(name, bytes, expected)| {
            let mut stream = TcpStream::connect(("127.0.0.1", fixture.proxy.port)).unwrap();
            stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
            let _ = stream.write_all(&bytes);
            assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
            (name, stream, expected)
        })
        .collect();
    for (name, mut stream, expected) in streams {
        let mut answer = Vec::new();
        // An end or a reset, both are fine; silence is not.
        let _ = stream.read_to_end(&mut answer);
        assert!(started.elapsed() < CLOSED_WITHIN, "{name}: still open");
        let found = refusal(&answer);
        if let Some((number, state)) = expected {
            assert_eq!(found, Some((number, state.to_owned())), "{name}");
        }
        assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
    }
    let grown = fixture.rss().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {grown}");
    is_alive(&fixture);
}

/// After the login. Where the session goes on, a ping is answered.
fn malformed_commands(engine: Engine) {
    const GOES_ON: bool = true;
    const ENDS: bool = false;
    let fixture = fixture(engine, SOON);
    let other = fixture.session();
    other.execute("CREATE TABLE t (n INT)").unwrap();
    let (malformed, order) = ((1835, "HY000"), (1156, "08S01"));
    let too_long = (1153, "08S01");
    let long = |first: u8| [&[0xFF, 0xFF, 0xFF, 0, first][..], &[b'x'; 100]].concat();
    let cases: Vec<(&str, Vec<u8>, Expected, bool)> = vec![
        ("an empty packet", framed(0, b""), malformed, ENDS),
        ("another packet's number", framed(5, b"\x03DO 1"), order, ENDS),
        ("a command that is none", framed(0, b"\x42abc"), (1047, "08S01"), GOES_ON),
        ("a command of the server's own", framed(0, b"\0"), (1047, "08S01"), GOES_ON),
        ("an empty query", framed(0, b"\x03"), (1065, "42000"), GOES_ON),
        ("bytes that are no text", framed(0, b"\x03\xFF\xFE\0"), (1064, "42000"), GOES_ON),
        ("an execution that is cut short", framed(0, b"\x17\x01\0"), malformed, ENDS),
        (
            "an unknown statement",
            framed(0, b"\x17\x63\0\0\0\0\x01\0\0\0"),
            (1243, "HY000"),
            GOES_ON,
        ),
        (
            "rows of an unknown one",
            framed(0, b"\x1c\x63\0\0\0\x01\0\0\0"),
            (1243, "HY000"),
            GOES_ON,
        ),
        ("rows that are cut short", framed(0, b"\x1c\x63"), malformed, ENDS),
        ("data that is cut short", framed(0, b"\x18\x01\0\0\0"), malformed, ENDS),
        ("a table without end", framed(0, b"\x04t"), malformed, ENDS),
        ("a KILL of nobody", framed(0, b"\x0c\xFF\xFF\xFF\xFF"), (1094, "HY000"), GOES_ON),
        ("a KILL that is cut short", framed(0, b"\x0c\xFF"), malformed, ENDS),
        ("an option that is cut short", framed(0, b"\x1b"), malformed, ENDS),
        ("another user without end", framed(0, b"\x11user"), (1043, "08S01"), ENDS),
        ("an absurd statement to prepare", long(0x16), too_long, ENDS),
        ("an absurd schema", long(0x02), too_long, ENDS),
        ("a packet that stops", framed(0, b"\x03SELECT 1")[..7].to_vec(), (1158, "08S01"), ENDS),
    ];
    let started = Instant::now();
    let wires: Vec<_> = cases
        .into_iter()
        .map(|(name, bytes, expected, goes_on)| {
            let mut wire = login(&fixture);
            wire.write(&bytes);
            (name, wire, expected, goes_on)
        })
        .collect();
    for (name, mut wire, (number, state), goes_on) in wires {
        let expected = Some((number, state.to_owned()));
        if goes_on {
            let answer = wire.next();
            assert_eq!(refusal(&framed(0, &answer.payload)), expected, "{name}");
            assert_eq!(wire.run(b"\x0e", b"")[0].payload[0], 0, "{name}: PING");
        } else {
            let answer = wire.read_rest();
            // A client that stalls is told nothing.
            if number != 1158 {
                assert_eq!(refusal(&answer), expected, "{name}");
            }
            assert!(started.elapsed() < CLOSED_WITHIN, "{name}: hangs");
        }
        other.execute("INSERT INTO t VALUES (1)").unwrap();
    }
    is_alive(&fixture);
}

fn clients_that_stall_are_closed(engine: Engine) {
    let fixture = fixture(engine, SOON);
    let other = fixture.session();
    other.execute("CREATE TABLE t (n INT PRIMARY KEY)").unwrap();
    let mut idle = login(&fixture);
    // In the middle of a long command and of a file.
    let mut halves = [login(&fixture), login(&fixture)];
    halves[0].write(&[&[0, 0, 0x40, 0, 0x03][..], &b"SELECT '".repeat(20_000)].concat());
    halves[1].write(&framed(0, b"\x16SELECT ?")[..8]);
    // A client that never reads: the reply is not gathered, and its server comes free again.
    let before = fixture.rss();
    let mut deaf = login(&fixture);
    let rows = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) \
                SELECT REPEAT('x', 1000) FROM n a, n b";
    deaf.write(&framed(0, format!("\x03{rows}").as_bytes()));
    let mut peak = 0;
    wait_until(PATIENCE, || {
        peak = peak.max(fixture.rss());
        // The other one and the idle one.
        fixture.metrics().sum("tiffin_clients", &[]) <= 2.0
    })
    .unwrap_or_else(|_| panic!("they are not closed:\n{}", fixture.proxy.log()));
    assert!(peak.saturating_sub(before) < GROWTH_MAX, "grew by {}", peak - before);
    // One that goes away in the middle of something leaves nothing locked and nothing running.
    for last in ["INSERT INTO t VALUES (1)", "SELECT SLEEP(600)", "LOCK TABLES t WRITE"] {
        let mut rude = login(&fixture);
        rude.run(b"\x03START TRANSACTION", b"");
        rude.write(&framed(0, format!("\x03{last}").as_bytes()));
        let runs = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND info = '{last}'"
        );
        let primary = fixture.cluster.primary();
        if last.contains("SLEEP") {
            wait_until(PATIENCE, || primary.value(&runs).unwrap() == "1").expect("it runs");
        } else {
            rude.next();
        }
        drop(rude);
        wait_until(PATIENCE, || primary.value(&runs).unwrap() == "0").expect("it is stopped");
        other.execute("INSERT INTO t VALUES (1)").unwrap();
        other.execute("DELETE FROM t").unwrap();
    }
    assert_eq!(idle.run(b"\x0e", b"")[0].payload[0], 0, "between commands nobody is in a hurry");
    is_alive(&fixture);
}

fn absurd_statements(engine: Engine) {
    let fixture = fixture(engine, LATE);
    let other = fixture.session();
    let before = fixture.rss();
    let deep = |open: &str, close: &str, depth: usize| {
        format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth))
    };
    // What the server says is what the client gets; the proxy itself must only live through it.
    let statements = [
        ("ten thousand parentheses", deep("(", ")", 10_000)),
        ("a million parentheses", deep("(", ")", 1_000_000)),
        ("a hundred thousand NOTs", format!("SELECT {} 1", "NOT ".repeat(100_000))),
        ("a thousand subqueries", deep("(SELECT ", ")", 1_000)),
        ("ten thousand CASEs", deep("CASE WHEN 1 THEN ", " END", 10_000)),
        ("a hundred thousand additions", format!("SELECT 1{}", "+1".repeat(100_000))),
        ("comments", format!("{} SELECT 1", "/* x */ ".repeat(100_000))),
        ("executable comments", format!("SELECT 1 {}", "/*!50000 ".repeat(10_000))),
        ("15 MiB of text", format!("SELECT LENGTH('{}')", "x".repeat(15 << 20))),
        ("30 MiB of text", format!("SELECT LENGTH('{}')", "x".repeat(30 << 20))),
        ("30 MiB of white space", format!("SELECT 1{}", " ".repeat(30 << 20))),
        ("ten thousand statements", "SELECT 1;".repeat(10_000)),
        ("an open quote", "SELECT 'open".to_string()),
        ("an open comment", "SELECT 1 /* open".to_string()),
    ];
    for (name, sql) in &statements {
        let session = fixture.session();
        let result = session.query(sql);
        if let Err(error) = &result {
            let number = errno(error);
            assert!(number.is_some_and(|number| number != 1180), "{name}: {number:?}");
            println!("measured: {name}: {number:?}");
        }
        assert_eq!(other.value("SELECT 1").unwrap(), "1", "{name}");
    }
    // More than the server takes: it says so and closes, which is no fault of the server's. When it
    // closes before the client has said all, the rest is no command (1156).
    let mut long = login(&fixture);
    long.put(0, &[&b"\x03SELECT '"[..], &vec![b'x'; 64 << 20]].concat());
    let answer = refusal(&long.read_rest());
    println!("measured: 64 MiB, twice as much as the server takes: {answer:?}");
    assert!(
        answer.as_ref().is_none_or(|(number, _)| matches!(number, 1153 | 1156 | 1158)),
        "{answer:?}"
    );
    assert_eq!(other.value("SELECT 1").unwrap(), "1");
    let grown = fixture.rss().saturating_sub(before);
    assert!(grown < 2 * GROWTH_MAX, "grew by {grown}");
    is_alive(&fixture);
}
