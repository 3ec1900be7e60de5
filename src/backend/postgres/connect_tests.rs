//! Opening connections: to a real server, and to what only pretends to be one.

use super::auth::{ScramKeys, ServerSecret};
use super::auth_query::AuthQuery;
use super::connect::{ConnectError, Established, Fault, Target, cancel, connect};
use super::connect_fixture::{PATIENCE, Server};
use crate::config::tls::ServerTlsConnector;
use crate::config::tls_fixture::Certificates;
use crate::config::{Address, Secret, ServerTlsMode, Service};
use crate::protocol::postgres::error::Report;
use crate::protocol::postgres::md5;
use crate::protocol::postgres::scram::{Verifier, derive};
use crate::protocol::postgres::startup::Parameter;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn pw() -> ServerSecret {
    ServerSecret::password("pw".into())
}

fn target<'a>(
    address: &'a Address,
    tls: &'a ServerTlsConnector,
    user: &'a str,
    secret: &'a ServerSecret,
) -> Target<'a> {
    let timeout = PATIENCE;
    Target { address, tls, user, database: "postgres", secret, parameters: &[], timeout }
}

fn parameter<'a>(established: &'a Established, name: &str) -> Option<&'a [u8]> {
    let named = |pair: &&Parameter| &*pair.0 == name.as_bytes();
    established.parameters.iter().find(named).map(|(_, value)| &**value)
}

/// One server for all of it: starting one takes a second.
#[tokio::test]
async fn a_real_server_is_logged_in_to() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates);
    every_method(&server, &certificates).await;
    secrets_learned_from_clients(&server).await;
    refusals(&server, &certificates).await;
    verification(&server, &certificates).await;
    cancelling(&server, &certificates).await;
    one_derivation_serves_many(&server).await;
    users_are_looked_up(&server, &certificates).await;
}

async fn every_method(server: &Server, certificates: &Certificates) {
    let off = ServerTlsConnector::disabled();
    let on = certificates.towards_server(ServerTlsMode::VerifyFull, Some("ca"));
    let on = ServerTlsConnector::new(&on).unwrap();
    for (address, tls) in [(server.unix(), &off), (server.tcp(), &off), (server.tcp(), &on)] {
        for user in ["trust_user", "clear_user", "md5_user", "scram_user"] {
            let secret = pw();
            let established = connect(&target(&address, tls, user, &secret)).await;
            let established = established.unwrap_or_else(|error| panic!("{user}: {error}"));
            assert_ne!(established.process_id, 0);
            assert_eq!(established.secret_key.len(), 4);
            assert_eq!(established.minor, 0, "PostgreSQL 15 negotiates down to 3.0");
            assert_eq!(parameter(&established, "session_authorization"), Some(user.as_bytes()));
            assert_eq!(established.stream.is_tls(), std::ptr::eq(tls, &on));
        }
    }
    // Over TLS the server offers PLUS and would notice if it were not taken.
    let address = server.tcp();
    connect(&target(&address, &on, "tls_user", &pw())).await.unwrap();

    let mut own = certificates.towards_server(ServerTlsMode::VerifyCa, Some("ca"));
    own.certificate = Some(certificates.path("alice.crt"));
    own.key = Some(certificates.path("alice.key"));
    let own = ServerTlsConnector::new(&own).unwrap();
    connect(&target(&address, &own, "alice", &ServerSecret::None)).await.unwrap();
}

async fn secrets_learned_from_clients(server: &Server) {
    let tls = ServerTlsConnector::disabled();
    let address = server.tcp();
    let stored = |user: &str| {
        server.run(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"))
    };
    let verifier = Verifier::parse(&stored("scram_user")).unwrap();
    let keys = derive(b"pw", &verifier.salting);
    assert!(keys.verifier(verifier.salting.clone()) == verifier);
    let keys = ScramKeys { keys, salting: verifier.salting };
    let keys = ServerSecret::ScramKeys(Arc::new(keys));
    connect(&target(&address, &tls, "scram_user", &keys)).await.unwrap();

    let other = connect(&target(&address, &tls, "tls_user", &keys)).await.unwrap_err();
    assert!(matches!(other, ConnectError::Server(_)), "{other}");
    server.run("ALTER ROLE scram_user PASSWORD 'pw'");
    let stale = connect(&target(&address, &tls, "scram_user", &keys)).await.unwrap_err();
    assert!(matches!(stale, ConnectError::OtherVerifier), "{stale}");

    let hash = stored("md5_user");
    assert_eq!(hash, md5::stored("md5_user", b"pw"));
    let hash = ServerSecret::Md5Hash(hash.into());
    connect(&target(&address, &tls, "md5_user", &hash)).await.unwrap();
    let error = connect(&target(&address, &tls, "scram_user", &hash)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Secret { asked: "SCRAM", .. }), "{error}");
    assert_eq!(error.fault(), Fault::Config);
}

async fn refusals(server: &Server, certificates: &Certificates) {
    let off = ServerTlsConnector::disabled();
    let address = server.tcp();
    let secret = pw();
    let wrong = ServerSecret::password("wrong".into());
    let good = target(&address, &off, "scram_user", &secret);
    let bad_parameter = [(Box::from(&b"no_such_thing"[..]), Box::from(&b"1"[..]))];
    for (target, sqlstate, fault) in [
        (Target { secret: &wrong, ..good }, "28P01", Fault::Config),
        (Target { user: "md5_user", secret: &wrong, ..good }, "28P01", Fault::Config),
        (Target { user: "tls_user", ..good }, "28000", Fault::Config),
        (Target { database: "nowhere", ..good }, "3D000", Fault::Client),
        (Target { parameters: &bad_parameter, ..good }, "42704", Fault::Client),
    ] {
        let error = connect(&target).await.unwrap_err();
        assert_eq!((error.sqlstate(), error.fault()), (sqlstate, fault), "{error}");
    }
    server.run("ALTER SYSTEM SET ssl = off");
    server.run("SELECT pg_reload_conf()");
    let require = certificates.towards_server(ServerTlsMode::Require, None);
    let require = ServerTlsConnector::new(&require).unwrap();
    let refused = || async {
        connect(&Target { tls: &require, ..good }).await.map_err(|error| error.to_string())
    };
    let refused = until(refused, |outcome| outcome.is_err()).await.unwrap_err();
    assert_eq!(refused, ConnectError::TlsRefused.to_string());
    let prefer = certificates.towards_server(ServerTlsMode::Prefer, None);
    let prefer = ServerTlsConnector::new(&prefer).unwrap();
    let established = connect(&Target { tls: &prefer, ..good }).await.unwrap();
    assert!(!established.stream.is_tls());
    server.run("ALTER SYSTEM SET ssl = on");
    server.run("SELECT pg_reload_conf()");
    let again = || async { connect(&Target { tls: &require, ..good }).await };
    until(again, |outcome| outcome.is_ok()).await.unwrap();
}

/// Tries until the condition holds, for as long as patience lasts; gives the last outcome.
async fn until<T, F: Future<Output = T>>(
    mut attempt: impl FnMut() -> F,
    holds: impl Fn(&T) -> bool,
) -> T {
    let started = std::time::Instant::now();
    loop {
        let outcome = attempt().await;
        if holds(&outcome) || started.elapsed() > PATIENCE {
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn verification(server: &Server, certificates: &Certificates) {
    use ServerTlsMode::*;
    let secret = ServerSecret::None;
    for (mode, ca, host, accepted) in [
        (Prefer, None, "127.0.0.1", true),
        (Require, None, "127.0.0.1", true),
        (VerifyCa, Some("ca"), "127.0.0.1", true),
        (VerifyCa, Some("other_ca"), "127.0.0.1", false),
        (VerifyFull, Some("ca"), "127.0.0.1", true),
        (VerifyFull, Some("ca"), "localhost", true),
        (VerifyFull, Some("other_ca"), "localhost", false),
    ] {
        let tls = certificates.towards_server(mode, ca);
        let tls = ServerTlsConnector::new(&tls).unwrap();
        let address = Address::Tcp { host: host.into(), port: server.port };
        match connect(&target(&address, &tls, "trust_user", &secret)).await {
            Ok(established) => {
                assert!(accepted && established.stream.is_tls(), "{mode:?} {ca:?} {host}");
            }
            Err(error) => {
                assert!(!accepted, "{mode:?} {ca:?} {host}: {error}");
                assert!(matches!(error, ConnectError::Tls(_)), "{error}");
            }
        }
    }
    // Before version 17 a server knows nothing of direct TLS and hangs up.
    let mut direct = certificates.towards_server(Require, None);
    direct.direct = true;
    let direct = ServerTlsConnector::new(&direct).unwrap();
    match connect(&target(&server.tcp(), &direct, "trust_user", &secret)).await {
        Ok(established) => assert!(server.is_version(17) && established.stream.is_tls()),
        Err(error) => {
            assert!(!server.is_version(17), "{error}");
            assert!(matches!(error, ConnectError::Tls(_)), "{error}");
        }
    }
}

async fn cancelling(server: &Server, certificates: &Certificates) {
    let tls = certificates.towards_server(ServerTlsMode::Require, None);
    let tls = ServerTlsConnector::new(&tls).unwrap();
    let address = server.tcp();
    let mut one =
        connect(&target(&address, &tls, "trust_user", &ServerSecret::None)).await.unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^select pg_sleep'";
    for (process_id, key, hit) in
        [(one.process_id, vec![0; 4], false), (one.process_id, one.secret_key.to_vec(), true)]
    {
        one.stream.write_all(b"Q\0\0\0\x19select pg_sleep(600)\0").await.unwrap();
        one.stream.flush().await.unwrap();
        until(|| async { server.run(running) }, |count| count == "1").await;
        cancel(&address, &tls, process_id, &key, PATIENCE).await.unwrap();
        if hit {
            let mut answer = [0; 1024];
            let length = one.stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert!(answer.contains("57014"), "{answer}");
        } else {
            assert_eq!(server.run(running), "1");
            server.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^select pg_sleep'");
            let mut answer = vec![0; 1024];
            let mut seen = Vec::new();
            while !seen.ends_with(b"Z\0\0\0\x05I") {
                let length = one.stream.read(&mut answer).await.unwrap();
                assert_ne!(length, 0);
                seen.extend_from_slice(&answer[..length]);
            }
        }
    }
}

async fn one_derivation_serves_many(server: &Server) {
    let tls = ServerTlsConnector::disabled();
    let address = server.tcp();
    let secret = pw();
    let target = target(&address, &tls, "scram_user", &secret);
    let (first, second) = tokio::join!(connect(&target), connect(&target));
    first.unwrap();
    second.unwrap();
    let ServerSecret::Password(password) = &secret else { unreachable!() };
    assert_eq!(password.derivations(), 1);
    for _ in 0..3 {
        connect(&target).await.unwrap();
    }
    assert_eq!(password.derivations(), 1);
}

async fn users_are_looked_up(server: &Server, certificates: &Certificates) {
    let service = Service { user: "postgres".into(), password: None, database: "postgres".into() };
    let tls = certificates.towards_server(ServerTlsMode::VerifyFull, Some("ca"));
    let tls = Arc::new(ServerTlsConnector::new(&tls).unwrap());
    let runtime = tokio::runtime::Handle::current();
    let sql = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1";
    let query = AuthQuery::new(sql, PATIENCE, &service, tls.clone(), runtime.clone());
    let down = Address::Tcp { host: "127.0.0.1".into(), port: 1 };
    let nodes = [down.clone(), server.tcp()];
    let found = query.lookup("scram_user", &nodes).await.unwrap().unwrap();
    let Some(Secret::ScramVerifier(text)) = found.secret else { panic!("no verifier") };
    assert!(Verifier::parse(text.expose_secret()).is_some());
    let found = query.lookup("md5_user", &nodes).await.unwrap().unwrap();
    assert!(matches!(found.secret, Some(Secret::Md5(_))));
    let found = query.lookup("trust_user", &nodes).await.unwrap().unwrap();
    assert!(found.secret.is_none());
    assert!(query.lookup("nobody", &nodes).await.unwrap().is_none());
    // What is remembered needs no node.
    assert!(query.lookup("scram_user", &[]).await.unwrap().is_some());
    assert!(query.lookup("nobody", &[]).await.unwrap().is_none());
    // Idle connections that were cut cost nobody a login.
    server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name ~ 'tiffin' AND pid <> pg_backend_pid()",
    );
    assert!(query.lookup("alice", &nodes).await.unwrap().is_some());
    let error = query.lookup("clear_user", &[down]).await.unwrap_err();
    assert!(error.reason.contains("127.0.0.1:1"), "{error}");
    let broken = AuthQuery::new("SELECT nonsense", PATIENCE, &service, tls, runtime);
    let error = broken.lookup("scram_user", &nodes).await.unwrap_err();
    assert!(error.reason.contains("42703"), "{error}");
}

/// What answers is not what it should be.
#[tokio::test]
async fn pretenders_are_found_out_in_time() {
    let secret = pw();
    let error = |message: &str| {
        let mut bytes = Vec::new();
        Report::fatal("57P03", message).put(&mut bytes);
        bytes
    };
    let nonce_of_another = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec();
    for (name, bytes, expected) in [
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not a PostgreSQL"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "not a PostgreSQL"),
        ("MySQL", b"J\0\0\0\x0a8.0.36\0".to_vec(), "not a PostgreSQL"),
        ("hangs up", vec![], "closed the connection"),
        ("half a message", b"R\0\0\0\x08\0".to_vec(), "closed the connection"),
        ("length 0", b"R\0\0\0\0".to_vec(), "not a PostgreSQL"),
        ("2 GiB", b"R\x7f\xff\xff\xff".to_vec(), "not a PostgreSQL"),
        ("unknown method", b"R\0\0\0\x08\0\0\0\x07".to_vec(), "method 7"),
        ("no mechanism", b"R\0\0\0\x0b\0\0\0\x0aX\0\0".to_vec(), "no SCRAM mechanism"),
        ("version 4", b"v\0\0\0\x0c\0\x04\0\0\0\0\0\0".to_vec(), "malformed"),
        ("version 3.9", b"v\0\0\0\x0c\0\x03\0\x09\0\0\0\0".to_vec(), "malformed"),
        ("asks, then leaves", nonce_of_another, "closed the connection"),
        ("starting", error("the database system is starting up"), "57P03"),
        (
            "key too long",
            [b"R\0\0\0\x08\0\0\0\0K\0\0\x01\x09".to_vec(), vec![0; 261]].concat(),
            "malformed",
        ),
        ("no key", b"R\0\0\0\x08\0\0\0\0K\0\0\0\x04".to_vec(), "malformed"),
        ("more", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05IX".to_vec(), "after ReadyForQuery"),
        (
            "endless notices",
            b"R\0\0\0\x08\0\0\0\0"
                .iter()
                .copied()
                .chain(std::iter::repeat_n(*b"N\0\0\0\x05\0", 600).flatten())
                .collect(),
            "without end",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pretend = async {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut hello = [0; 1024];
            assert_ne!(client.read(&mut hello).await.unwrap(), 0);
            let _ = client.write_all(&bytes).await;
            let _ = client.shutdown().await;
            let _ = client.read(&mut hello).await;
        };
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let tls = ServerTlsConnector::disabled();
        let target = target(&address, &tls, "u", &secret);
        let (_, outcome) = tokio::join!(pretend, connect(&target));
        let error = outcome.expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn answers_to_an_ssl_request_are_taken_strictly() {
    let certificates = Certificates::new();
    let tls = certificates.towards_server(ServerTlsMode::Prefer, None);
    let tls = ServerTlsConnector::new(&tls).unwrap();
    for (answer, expected) in [
        (&b"SR\0\0\0\x08\0\0\0\0"[..], "more bytes"),
        (b"NR\0\0\0\x08\0\0\0\0", "more bytes"),
        (b"E", "byte 69"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pretend = async {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            client.read_exact(&mut request).await.unwrap();
            client.write_all(answer).await.unwrap();
            let _ = client.read(&mut request).await;
        };
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let secret = ServerSecret::None;
        let target = target(&address, &tls, "u", &secret);
        let (_, outcome) = tokio::join!(pretend, connect(&target));
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    // Nobody answers, however long one waits.
    const SHORT: Duration = Duration::from_millis(50);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let tls = ServerTlsConnector::disabled();
    let secret = pw();
    let target = Target { timeout: SHORT, ..target(&address, &tls, "u", &secret) };
    let error = connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
    assert_eq!((error.sqlstate(), error.fault()), ("08001", Fault::Node));
    let error = cancel(&address, &tls, 1, b"abcd", SHORT).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let tls = ServerTlsConnector::disabled();
    let secret = pw();
    for address in [
        Address::Tcp { host: "127.0.0.1".into(), port },
        Address::Unix { folder: "/nowhere".into(), port },
    ] {
        let error = connect(&target(&address, &tls, "u", &secret)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
        assert_eq!((error.sqlstate(), error.fault()), ("08001", Fault::Node));
    }
}

/// One pretender per connection, each of which says something else.
async fn connect_in_turns(tls: &ServerTlsConnector, turns: &[&[u8]]) -> Established {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pretend = async {
        let mut kept = Vec::new();
        for turn in turns {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut hello = [0; 1024];
            assert_ne!(client.read(&mut hello).await.unwrap(), 0);
            client.write_all(turn).await.unwrap();
            kept.push(client);
        }
        kept
    };
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let secret = ServerSecret::None;
    let target = target(&address, tls, "u", &secret);
    let (_, outcome) = tokio::join!(pretend, connect(&target));
    outcome.unwrap()
}

#[tokio::test]
async fn less_is_tried_where_more_is_refused() {
    let welcome = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x05abcdZ\0\0\0\x05I";
    let mut refused = Vec::new();
    let message = "unsupported frontend protocol 3.2: server supports 3.0 to 3.0";
    Report::fatal("0A000", message).put(&mut refused);
    let off = ServerTlsConnector::disabled();
    let old = connect_in_turns(&off, &[&refused, welcome]).await;
    assert_eq!((old.minor, old.process_id, &*old.secret_key), (0, 5, &b"abcd"[..]));

    let new = connect_in_turns(&off, &[welcome]).await;
    assert_eq!(new.minor, 2, "a server that says nothing of the version speaks what was asked");
    // It offers TLS and then talks nonsense: the record that comes is no TLS.
    let prefer = Certificates::new().towards_server(ServerTlsMode::Prefer, None);
    let prefer = ServerTlsConnector::new(&prefer).unwrap();
    let plain = nonsense_instead_of_tls(&prefer, welcome).await;
    assert!(!plain.stream.is_tls());
}

async fn nonsense_instead_of_tls(tls: &ServerTlsConnector, welcome: &[u8]) -> Established {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pretend = async {
        let mut hello = [0; 4096];
        let (mut first, _) = listener.accept().await.unwrap();
        first.read_exact(&mut hello[..8]).await.unwrap();
        first.write_all(b"S").await.unwrap();
        assert_ne!(first.read(&mut hello).await.unwrap(), 0);
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        assert_ne!(second.read(&mut hello).await.unwrap(), 0);
        second.write_all(welcome).await.unwrap();
        (first, second)
    };
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let secret = ServerSecret::None;
    let target = target(&address, tls, "u", &secret);
    let (_, outcome) = tokio::join!(pretend, connect(&target));
    outcome.unwrap()
}
