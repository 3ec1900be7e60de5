//! Clients that speak in bytes: malformed, stalling, odd, and those that cancel.

use super::auth_context::AuthContext;
use super::startup::{Opening, PeerAddress, StartupError, accept};
use super::startup_tests::{config, no_tls, password, session, user};
use crate::backend::postgres::connect::cancel;
use crate::backend::postgres::connect_fixture::PATIENCE;
use crate::backend::stream::Plain;
use crate::config::tls::ServerTlsConnector;
use crate::config::tls_fixture::Certificates;
use crate::config::*;
use crate::protocol::postgres::error::ServerError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A client that says these bytes and then listens; gives what it was told, and what `accept`
/// made of it.
async fn say(
    context: &AuthContext,
    bytes: &[u8],
    stay: bool,
) -> (Vec<u8>, Result<Opening, StartupError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // A refused client may find the door closed before it has said everything.
        let _ = tcp.write_all(bytes).await;
        if !stay {
            tcp.shutdown().await.unwrap();
        }
        let mut told = Vec::new();
        let _ = timeout(PATIENCE, tcp.read_to_end(&mut told)).await.expect("the door closes");
        told
    };
    let server = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        let opening = accept(Plain::Tcp(tcp), PeerAddress::Tcp(peer), context).await;
        if let Ok(Opening::Session(mut accepted)) = opening {
            let _ = accepted.stream.shutdown().await;
            return Ok(Opening::Session(accepted));
        }
        opening
    };
    tokio::join!(client, server)
}

/// A packet without a tag.
fn packet(version: [u16; 2], rest: &[u8]) -> Vec<u8> {
    let length = (8 + rest.len() as u32).to_be_bytes();
    let [major, minor] = version.map(u16::to_be_bytes);
    [&length[..], &major, &minor, rest].concat()
}

fn hello(rest: &[u8]) -> Vec<u8> {
    packet([3, 0], &[rest, b"\0"].concat())
}

#[tokio::test]
async fn bad_input_is_refused_in_words() {
    let certificates = Certificates::new();
    let tls = certificates.towards_client(ClientTlsMode::Allow, "server", None);
    let users = || vec![user("u", Some(password("right")))];
    let scram = AuthContext::new(&config(AuthMethod::ScramSha256, no_tls(), users()), None);
    let clear = AuthContext::new(&config(AuthMethod::Password, no_tls(), users()), None);
    let trust = AuthContext::new(&config(AuthMethod::Trust, tls, users()), None);
    let (scram, clear, trust) = (scram.unwrap(), clear.unwrap(), trust.unwrap());
    let ssl = packet([1234, 5679], b"");
    let gss = packet([1234, 5680], b"");
    let u = hello(b"user\0u\0");
    let then = |first: &[u8], second: &[u8]| [first, second].concat();
    for (context, bytes, before, sqlstate, message) in [
        (
            &trust,
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            0,
            "08P01",
            "invalid length of startup packet",
        ),
        (&trust, vec![0; 64], 0, "08P01", "invalid length of startup packet"),
        (&trust, vec![0xff; 200_000], 0, "08P01", "invalid length of startup packet"),
        (&trust, 10_001_u32.to_be_bytes().to_vec(), 0, "08P01", "invalid length"),
        (
            &trust,
            packet([2, 0], &[0; 288]),
            0,
            "0A000",
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2",
        ),
        (&trust, packet([4, 1], b"\0"), 0, "0A000", "unsupported frontend protocol 4.1"),
        (&trust, packet([3, 0], b"user\0u"), 0, "08P01", "expected terminator as last byte"),
        (&trust, packet([1234, 5678], b"abc"), 0, "08P01", "cancel request"),
        (&trust, hello(b""), 0, "28000", "no PostgreSQL user name specified in startup packet"),
        (&trust, hello(b"user\0\xff\0"), 0, "22021", "user name"),
        (&trust, hello(b"user\0u\0database\0\xe9\0"), 0, "22021", "database name"),
        (&trust, hello(b"user\0u\0replication\0maybe\0"), 0, "22023", "replication"),
        (&trust, hello(b"user\0nobody\0"), 0, "28000", "role \"nobody\" does not exist"),
        (&trust, then(&ssl, &u), 0, "08P01", "received unencrypted data after SSL request"),
        (&trust, then(&gss, &gss), 1, "0A000", "unsupported frontend protocol 1234.5680"),
        (&clear, then(&ssl, &ssl), 1, "0A000", "unsupported frontend protocol 1234.5679"),
        (&clear, then(&ssl, &then(&gss, &gss)), 2, "0A000", "1234.5680"),
        (&clear, b"\x16\x03\x01\x02\0\x01\0\x01".to_vec(), 0, "08P01", "invalid length"),
        // 9 bytes: AuthenticationCleartextPassword comes first.
        (
            &clear,
            then(&u, b"Q\0\0\0\x05\0"),
            9,
            "08P01",
            "expected password response, got message type 81",
        ),
        (&clear, then(&u, b"p\0\0\0\0"), 9, "08P01", "invalid message length"),
        (&clear, then(&u, b"p\x7f\xff\xff\xff"), 9, "08P01", "invalid message length"),
        (&clear, then(&u, b"p\0\0\0\x06no"), 9, "08P01", "invalid password packet size"),
        (&clear, then(&u, b"p\0\0\0\x08a\0b\0"), 9, "08P01", "invalid password packet size"),
        (
            &clear,
            then(&u, b"p\0\0\0\x05\0"),
            9,
            "28P01",
            "password authentication failed for user \"u\"",
        ),
        (&clear, then(&u, b"p\0\0\0\x06\xff\0"), 9, "28P01", "password authentication failed"),
        // 24 bytes: AuthenticationSASL with one mechanism.
        (&scram, then(&u, b"p\0\0\0\x08right"), 24, "08P01", "malformed SASLInitialResponse"),
        (&scram, then(&u, b"p\0\0\x04\x05"), 24, "08P01", "invalid message length"),
        (
            &scram,
            then(&u, b"p\0\0\0\x0aX\0\0\0\0\0"),
            24,
            "08P01",
            "invalid SASL authentication mechanism",
        ),
        (
            &scram,
            then(&u, b"p\0\0\0\x1bSCRAM-SHA-256-PLUS\0\0\0\0\0"),
            24,
            "08P01",
            "invalid SASL authentication mechanism",
        ),
        (
            &scram,
            then(&u, b"p\0\0\0\x16SCRAM-SHA-256\0\0\0\0\0"),
            24,
            "08P01",
            "malformed SCRAM message",
        ),
    ] {
        let case =
            format!("{:?}: {message}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        let (told, opening) = say(context, &bytes, true).await;
        let Err(StartupError::Refused(refusal)) = opening else { panic!("{case}: {opening:?}") };
        assert_eq!(refusal.sqlstate, sqlstate, "{case}");
        assert_eq!(told.get(before), Some(&b'E'), "{case}: {told:?}");
        let fields = ServerError::parse(&told[before + 5..]);
        assert_eq!((&*fields.severity, &*fields.sqlstate), ("FATAL", sqlstate), "{case}");
        assert!(fields.message.contains(message), "{case}: {}", fields.message);
    }
}

#[tokio::test]
async fn clients_that_leave_or_stall_end() {
    let mut config = config(AuthMethod::Password, no_tls(), vec![user("u", None)]);
    let patient = AuthContext::new(&config, None).unwrap();
    let u = hello(b"user\0u\0");
    for (bytes, closed) in [
        (&b""[..], true),
        (&packet([1234, 5679], b""), true),
        (b"\0", false),
        (&u[..12], false),
        (&u, false),
    ] {
        let (_, opening) = say(&patient, bytes, false).await;
        match opening {
            Ok(Opening::Closed) => assert!(closed, "{bytes:?}"),
            Err(StartupError::Left) => assert!(!closed, "{bytes:?}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    config.limits.startup_timeout = Duration::from_millis(50);
    let hasty = AuthContext::new(&config, None).unwrap();
    for (bytes, told_length) in [(&b""[..], 0), (b"\0\0", 0), (&u[..12], 0), (&u, 9)] {
        let (told, opening) = say(&hasty, bytes, true).await;
        assert!(matches!(opening, Err(StartupError::Timeout(_))), "{bytes:?}: {opening:?}");
        if told_length == 0 {
            assert_eq!(told, b"", "{bytes:?}");
        } else {
            assert_eq!(ServerError::parse(&told[told_length + 5..]).sqlstate, "57014");
        }
    }
}

#[tokio::test]
async fn a_session_keeps_what_its_client_sent() {
    let users = vec![user("u", None)];
    let context = AuthContext::new(&config(AuthMethod::Trust, no_tls(), users), None).unwrap();
    let query = b"Q\0\0\0\x0dSELECT 1\0";
    let rest = b"user\0u\0a\x001\0b\0\xff\0a\x002\0replication\0database\0_pq_.new\0x\0";
    for (minor_asked, minor, negotiated) in
        [(0, 0, true), (1, 0, true), (2, 2, true), (77, 2, true)]
    {
        let hello = packet([3, minor_asked], &[&rest[..], b"\0"].concat());
        let (told, opening) = say(&context, &[&hello[..], query].concat(), true).await;
        let accepted = session(opening);
        assert_eq!(accepted.minor, minor);
        assert_eq!(&accepted.leftover[..], query);
        assert_eq!((&*accepted.user, &*accepted.database), ("u", "u"));
        assert_eq!(accepted.replication.as_deref(), Some("database"));
        let pairs: Vec<_> = accepted.parameters.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b"\xff"), (b"a", b"2")]);
        assert_eq!(told[0] == b'v', negotiated);
        assert_eq!(&told[5..13], [0, 3, 0, minor as u8, 0, 0, 0, 1]);
        assert!(told.ends_with(b"R\0\0\0\x08\0\0\0\0"));
    }
    for (value, expected) in [
        ("on", Some("true")),
        ("TRUE", Some("true")),
        ("1", Some("true")),
        ("Database", Some("database")),
        ("off", None),
        ("0", None),
        ("f", None),
    ] {
        let hello = hello(format!("user\0u\0replication\0{value}\0").as_bytes());
        let accepted = session(say(&context, &hello, true).await.1);
        assert_eq!(accepted.replication.as_deref(), expected, "{value}");
    }
}

#[tokio::test]
async fn cancel_requests_arrive_with_and_without_tls() {
    let certificates = Certificates::new();
    let towards = certificates.towards_client(ClientTlsMode::Require, "server", None);
    let context = AuthContext::new(&config(AuthMethod::Trust, towards, Vec::new()), None).unwrap();
    for (mode, direct) in [
        (ServerTlsMode::Disable, false),
        (ServerTlsMode::Require, false),
        (ServerTlsMode::Require, true),
    ] {
        let mut towards = certificates.towards_server(mode, None);
        towards.direct = direct;
        let tls = ServerTlsConnector::new(&towards).unwrap();
        for length in [4, 32, 256] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let address = Address::Tcp { host: "127.0.0.1".into(), port };
            let sent = vec![length as u8; length];
            let told = AtomicBool::new(false);
            let server = async {
                let (tcp, peer) = listener.accept().await.unwrap();
                let opening = accept(Plain::Tcp(tcp), PeerAddress::Tcp(peer), &context).await;
                let Ok(Opening::Cancel { process_id, key, connection }) = opening else {
                    panic!("{opening:?}")
                };
                assert_eq!((process_id, &*key), (-7, &*sent));
                assert!(!told.load(Relaxed), "whoever cancels waits for the end of the connection");
                drop(connection);
            };
            let client = async {
                cancel(&address, &tls, -7, &sent, PATIENCE).await.unwrap();
                told.store(true, Relaxed);
            };
            tokio::join!(server, client);
        }
    }
}

#[tokio::test]
async fn direct_tls_without_its_protocol_name_is_refused() {
    let certificates = Certificates::new();
    let towards = certificates.towards_client(ClientTlsMode::Allow, "server", None);
    let users = vec![user("u", None)];
    let context = AuthContext::new(&config(AuthMethod::Trust, towards, users), None).unwrap();
    let (mut near, mut far) = (Vec::new(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(certificates.path("ca.crt")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let nameless = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.unwrap();
        let host = "localhost".try_into().unwrap();
        let mut tls = TlsConnector::from(Arc::new(nameless)).connect(host, tcp).await.unwrap();
        tls.read_to_end(&mut near).await.unwrap();
    };
    let server = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        far = Some(accept(Plain::Tcp(tcp), PeerAddress::Tcp(peer), &context).await);
    };
    tokio::join!(client, server);
    let Some(Err(StartupError::Refused(refusal))) = far else { panic!("{far:?}") };
    assert_eq!(refusal.sqlstate, "08P01");
    let told = ServerError::parse(&near[5..]);
    assert!(told.message.contains("without ALPN"), "{}", told.message);
}

#[tokio::test]
async fn unix_sockets_need_no_tls() {
    let certificates = Certificates::new();
    let towards = certificates.towards_client(ClientTlsMode::VerifyFull, "server", Some("ca"));
    let users = vec![user("u", None)];
    let context = AuthContext::new(&config(AuthMethod::Trust, towards, users), None).unwrap();
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(&packet([1234, 5679], b"")).await.unwrap();
    client.write_all(&hello(b"user\0u\0")).await.unwrap();
    let opening = accept(Plain::Unix(server), PeerAddress::Unix, &context).await;
    assert_eq!(session(opening).user, "u");
    let mut told = [0; 10];
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"NR\0\0\0\x08\0\0\0\0");
}

/// What a client sees of a user: the whole answer to its first SASL message, less the nonce.
async fn challenge(context: &AuthContext, name: &str) -> String {
    let hello = hello(format!("user\0{name}\0").as_bytes());
    let first = b"p\0\0\0\x23SCRAM-SHA-256\0\0\0\0\x0dn,,n=,r=abcde";
    let (told, _) = say(context, &[&hello[..], first].concat(), false).await;
    let text = String::from_utf8(told[24 + 9..].to_vec()).unwrap();
    let (nonce, rest) = text.split_once(',').unwrap();
    assert_eq!(nonce.len(), "r=abcde".len() + 24);
    rest.to_owned()
}

#[tokio::test]
async fn users_that_do_not_exist_look_like_those_that_do() {
    let verifier = Secret::ScramVerifier(postgres_protocol::password::scram_sha_256(b"x").into());
    let users = vec![user("real", Some(password("x"))), user("stored", Some(verifier))];
    let config = config(AuthMethod::ScramSha256, no_tls(), users);
    let context = AuthContext::new(&config, None).unwrap();
    let mut salts = Vec::new();
    for name in ["real", "stored", "nobody", "noone"] {
        let once = challenge(&context, name).await;
        assert_eq!(once, challenge(&context, name).await, "{name}: the salt stays");
        assert!(once.starts_with("s=") && once.ends_with(",i=4096"), "{once}");
        salts.push(once);
    }
    context.reload(&config, None).unwrap();
    assert_eq!(salts[0], challenge(&context, "real").await, "over a reload too");
    assert_eq!(salts[2], challenge(&context, "nobody").await);
    salts.sort();
    salts.dedup();
    assert_eq!(salts.len(), 4, "and is another one for each");
}
