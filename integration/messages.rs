//! For the same bytes of a client, the proxy answers with the same messages as a server.

use crate::support::wire::{self, Wire, bind, execute, flush, named, parse, query, sync, tags};
use crate::support::{Fixture, on_postgres_18};

/// Byte streams that a client sends; the proxy's answers must have the same messages as the
/// primary's own.
#[test]
fn the_same_messages_come_back_as_from_the_server() {
    let fixture = Fixture::build().replicas(1).clear_passwords().start();
    let setup = fixture.direct(fixture.cluster.primary());
    setup.query("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 5)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    let app = &fixture.cluster.app;

    let mut wrong = Vec::new();
    for (name, messages) in &cases() {
        let answers = [fixture.proxy.port, fixture.cluster.primary().port].map(|port| {
            let (mut wire, _) = Wire::login(port, wire::VERSION_3_0, &app.user, &app.password);
            wire.send(&messages.concat());
            let readies = messages.iter().filter(|message| b"QS".contains(&message[0])).count();
            // Simple messages and the end of a COPY make one ReadyForQuery each.
            let seen: Vec<_> = (0..readies).flat_map(|_| wire.until_ready()).collect();
            let errors: Vec<String> =
                seen.iter().filter(|m| m.tag == b'E').map(|m| m.field(b'C')).collect();
            // Which settings a server reports is another test's affair.
            let seen: Vec<_> = seen.into_iter().filter(|message| message.tag != b'S').collect();
            let status: Vec<u8> =
                seen.iter().filter(|m| m.tag == b'Z').map(|m| m.body[0]).collect();
            (tags(&seen), errors, status)
        });
        let [through, direct] = answers;
        if through != direct {
            wrong.push(format!("{name}:\n  proxy  {through:?}\n  server {direct:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A name and what is sent after the login.
fn cases() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let write = "INSERT INTO t VALUES (6)";
    vec![
        ("simple", vec![query("SELECT 1")]),
        ("empty", vec![query("")]),
        ("only a comment", vec![query("-- nothing")]),
        ("several", vec![query("SELECT 1; SELECT 2; SELECT 'x'")]),
        ("an error", vec![query("SELEC 1")]),
        ("an error in the middle", vec![query("SELECT 1; SELECT 1/0; SELECT 2")]),
        ("a transaction", vec![query("BEGIN"), query("SELECT 1"), query("COMMIT")]),
        ("an empty transaction", vec![query("BEGIN"), query("COMMIT")]),
        ("commit without begin", vec![query("COMMIT")]),
        ("begin twice", vec![query("BEGIN"), query("BEGIN"), query("ROLLBACK")]),
        (
            "a failed transaction",
            vec![query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("COMMIT")],
        ),
        ("a notice", vec![query("DO $$BEGIN RAISE NOTICE 'hello'; END$$")]),
        ("a setting", vec![query("SET application_name = 'x'"), query("SHOW application_name")]),
        (
            "extended",
            vec![
                parse("", "SELECT 1"),
                bind("", ""),
                named(b'D', b'P', ""),
                execute("", 0),
                sync(),
            ],
        ),
        (
            "describe a statement",
            vec![parse("a", "SELECT n FROM t"), named(b'D', b'S', "a"), sync()],
        ),
        (
            "a named statement",
            vec![
                parse("b", "SELECT n FROM t"),
                sync(),
                bind("", "b"),
                execute("", 0),
                sync(),
                bind("", "b"),
                execute("", 0),
                sync(),
                named(b'C', b'S', "b"),
                sync(),
            ],
        ),
        (
            "a row limit",
            vec![
                parse("", "SELECT n FROM t"),
                bind("p", ""),
                execute("p", 2),
                execute("p", 2),
                execute("p", 2),
                sync(),
            ],
        ),
        (
            "flush",
            vec![
                parse("", "SELECT 1"),
                flush(),
                bind("", ""),
                flush(),
                execute("", 0),
                flush(),
                sync(),
            ],
        ),
        (
            "an error skips to sync",
            vec![
                parse("", "SELECT 1/0"),
                bind("", ""),
                execute("", 0),
                parse("", "SELECT 2"),
                bind("", ""),
                execute("", 0),
                sync(),
                query("SELECT 3"),
            ],
        ),
        (
            "a parse error skips to sync",
            vec![parse("", "SELEC"), bind("", ""), execute("", 0), sync(), query("SELECT 3")],
        ),
        (
            "pipelined syncs",
            vec![
                parse("", "SELECT 1"),
                bind("", ""),
                execute("", 0),
                sync(),
                parse("", "SELECT 2"),
                bind("", ""),
                execute("", 0),
                sync(),
                parse("", write),
                bind("", ""),
                execute("", 0),
                sync(),
                parse("", "SELECT 3"),
                bind("", ""),
                execute("", 0),
                sync(),
            ],
        ),
        ("simple queries in one go", vec![query("SELECT 1"), query(write), query("SELECT 2")]),
        ("a statement that is not there", vec![bind("", "nowhere"), execute("", 0), sync()]),
        ("a portal that is not there", vec![execute("nowhere", 0), sync()]),
        (
            "a statement named twice",
            vec![
                parse("c", "SELECT 1"),
                parse("c", "SELECT 2"),
                sync(),
                named(b'C', b'S', "c"),
                sync(),
            ],
        ),
        (
            "close what is not there",
            vec![named(b'C', b'S', "nowhere"), named(b'C', b'P', "nowhere"), sync()],
        ),
        ("only sync", vec![sync()]),
        (
            "extended transaction",
            vec![
                parse("", "BEGIN"),
                bind("", ""),
                execute("", 0),
                sync(),
                parse("", write),
                bind("", ""),
                execute("", 0),
                sync(),
                parse("", "ROLLBACK"),
                bind("", ""),
                execute("", 0),
                sync(),
            ],
        ),
        (
            "begin and a statement before one sync",
            vec![
                parse("", "BEGIN"),
                bind("", ""),
                execute("", 0),
                parse("", "SELECT 1"),
                bind("", ""),
                execute("", 0),
                parse("", "COMMIT"),
                bind("", ""),
                execute("", 0),
                sync(),
            ],
        ),
        ("copy out", vec![query("COPY (SELECT generate_series(1, 3)) TO STDOUT")]),
        (
            "copy in",
            vec![query("COPY t FROM STDIN"), wire::frame(b'd', b"7\n8\n"), wire::frame(b'c', b"")],
        ),
        (
            "copy in that fails",
            vec![query("COPY t FROM STDIN"), wire::frame(b'd', b"seven\n"), wire::frame(b'c', b"")],
        ),
        (
            "copy in that the client ends",
            vec![query("COPY t FROM STDIN"), wire::frame(b'f', b"no\0")],
        ),
        ("listen and notify", vec![query("LISTEN c"), query("NOTIFY c, 'x'"), query("UNLISTEN c")]),
        (
            "a held cursor",
            vec![
                query("BEGIN"),
                query("DECLARE h CURSOR WITH HOLD FOR SELECT n FROM t"),
                query("COMMIT"),
                query("FETCH 2 FROM h"),
                query("CLOSE h"),
            ],
        ),
        (
            "a temporary table",
            vec![
                query("CREATE TEMP TABLE tt (n int)"),
                query("INSERT INTO tt VALUES (1)"),
                query("SELECT * FROM tt"),
                query("DROP TABLE tt"),
            ],
        ),
        (
            "prepare by SQL",
            vec![query("PREPARE q AS SELECT 1"), query("EXECUTE q"), query("DEALLOCATE q")],
        ),
        ("discard", vec![query("DISCARD ALL")]),
    ]
}

on_postgres_18!(the_same_messages_come_back_as_from_the_server);
