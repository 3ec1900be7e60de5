//! Both ends of a connection's start against each other, and against psql.

use super::auth_context::AuthContext;
use super::startup::{Accepted, Opening, PeerAddress, StartupError, accept};
use crate::backend::postgres::auth::ServerSecret;
use crate::backend::postgres::auth_query::{Found, Lookup, LookupError, SecretLookup};
use crate::backend::postgres::connect::{ConnectError, Established, Target, connect};
use crate::backend::postgres::connect_fixture::PATIENCE;
use crate::backend::stream::Plain;
use crate::config::tls::ServerTlsConnector;
use crate::config::tls_fixture::Certificates;
use crate::config::*;
use crate::protocol::postgres::md5;
use secrecy::SecretString;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

pub(super) fn config(method: AuthMethod, client_tls: ClientTls, users: Vec<User>) -> Config {
    Config {
        listen: Listen { postgres: Vec::new(), mysql: Vec::new(), http: None },
        api_token: None,
        workers: 1,
        limits: Limits {
            clients_max: 10,
            startup_timeout: PATIENCE,
            message_timeout: PATIENCE,
            write_timeout: PATIENCE,
            parse_bytes_max: 1,
            auth_delay: Duration::ZERO,
            client_statements_max: 1,
            client_portals_max: 1,
            client_messages_max: 1,
            classify_cache_max: 1,
        },
        client_tls,
        auth: Auth { method, query: None, accounts: false, query_cache: Duration::ZERO },
        users,
        clusters: Vec::new(),
        log: Log { format: LogFormat::Text, level: String::new() },
        shutdown: Shutdown { drain_timeout: Duration::ZERO },
    }
}

pub(super) fn no_tls() -> ClientTls {
    ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None, client_ca: None }
}

pub(super) fn user(name: &str, secret: Option<Secret>) -> User {
    User { name: name.into(), secret, server_password: None, method: None }
}

pub(super) fn password(text: &str) -> Secret {
    Secret::Password(text.into())
}

/// Everything after AuthenticationOk that a client needs to be content.
pub(super) const REST_OF_START: &[u8] =
    b"S\0\0\0\x16server_version\x0015\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

/// One client and one `accept`, over loopback.
pub(super) async fn meet(
    context: &AuthContext,
    tls: &ServerTlsConnector,
    name: &str,
    secret: &ServerSecret,
) -> (Result<Opening, StartupError>, Result<Established, ConnectError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let target = Target {
        address: &address,
        tls,
        user: name,
        database: "shop",
        secret,
        parameters: &[(Box::from(&b"application_name"[..]), Box::from(&b"caf\xe9"[..]))],
        timeout: PATIENCE,
    };
    let serve = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        let mut opening = accept(Plain::Tcp(tcp), PeerAddress::Tcp(peer), context).await;
        if let Ok(Opening::Session(accepted)) = &mut opening {
            accepted.stream.write_all(REST_OF_START).await.unwrap();
            accepted.stream.flush().await.unwrap();
        }
        opening
    };
    tokio::join!(serve, connect(&target))
}

pub(super) fn session(opening: Result<Opening, StartupError>) -> Box<Accepted> {
    match opening {
        Ok(Opening::Session(accepted)) => accepted,
        other => panic!("no session: {other:?}"),
    }
}

#[tokio::test]
async fn every_method_lets_the_right_password_in_and_no_other() {
    let verifier = postgres_protocol::password::scram_sha_256(b"right");
    let secrets = [
        ("password", password("right")),
        ("verifier", Secret::ScramVerifier(verifier.into())),
        ("md5", Secret::Md5(md5::stored("md5", b"right").into())),
    ];
    for method in [AuthMethod::ScramSha256, AuthMethod::Md5, AuthMethod::Password] {
        let users = secrets.iter().map(|(name, secret)| user(name, Some(secret.clone())));
        let users = users.chain([user("nothing", None)]).collect();
        let context = AuthContext::new(&config(method, no_tls(), users), None).unwrap();
        let tls = ServerTlsConnector::disabled();
        for name in ["password", "verifier", "md5", "nothing", "nobody"] {
            for given in ["right", "wrong"] {
                let case = format!("{method:?}, {name}, {given}");
                let secret = ServerSecret::password(SecretString::from(given));
                let (opening, established) = meet(&context, &tls, name, &secret).await;
                // An md5 hash cannot answer SCRAM.
                let known = matches!(name, "password" | "verifier")
                    || (name == "md5" && method != AuthMethod::ScramSha256);
                if known && given == "right" {
                    let accepted = session(opening);
                    assert_eq!((&*accepted.user, &*accepted.database), (name, "shop"), "{case}");
                    let parameter = &accepted.parameters[0];
                    assert_eq!(
                        (&*parameter.0, &*parameter.1),
                        (&b"application_name"[..], &b"caf\xe9"[..])
                    );
                    let established = established.expect(&case);
                    assert_eq!((established.process_id, established.minor), (1, 2), "{case}");
                } else {
                    let Err(StartupError::Refused(refusal)) = opening else { panic!("{case}") };
                    assert_eq!(refusal.sqlstate, "28P01", "{case}");
                    let Err(ConnectError::Server(fields)) = established else { panic!("{case}") };
                    assert_eq!(fields.sqlstate, "28P01", "{case}");
                    let message = format!("password authentication failed for user \"{name}\"");
                    assert_eq!(fields.message, message, "{case}");
                }
            }
        }
    }
}

/// Asks nobody; knows what it was made with, and remembers who was doubted.
struct Known(Vec<(&'static str, Option<Secret>)>, Mutex<Vec<String>>);

impl SecretLookup for Known {
    fn lookup<'a>(&'a self, user: &'a str, database: &'a str) -> Lookup<'a> {
        assert_eq!(database, "shop");
        let found = self.0.iter().find(|(name, _)| *name == user);
        let answer = match user {
            "unlucky" => Err(LookupError { reason: "everything is down".into() }),
            _ => Ok(found.map(|(_, secret)| Found { secret: secret.clone() })),
        };
        Box::pin(async move { answer })
    }

    fn doubt(&self, user: &str, _database: &str) {
        self.1.lock().unwrap().push(user.to_owned());
    }
}

#[tokio::test]
async fn secrets_of_clients_open_servers_that_store_the_same() {
    let verifier = postgres_protocol::password::scram_sha_256(b"right");
    let secrets = vec![
        ("scram", Some(Secret::ScramVerifier(verifier.into()))),
        ("md5", Some(Secret::Md5(md5::stored("md5", b"right").into()))),
        ("nothing", None),
    ];
    let lookup = Arc::new(Known(secrets, Mutex::default()));
    let users = vec![user("file", Some(password("x")))];
    let config = config(AuthMethod::Md5, no_tls(), users);
    let context = AuthContext::new(&config, Some(lookup.clone())).unwrap();
    let tls = ServerTlsConnector::disabled();
    let right = ServerSecret::password("right".into());
    for name in ["scram", "md5"] {
        let learned = session(meet(&context, &tls, name, &right).await.0).server_secret;
        let expected = match &learned {
            ServerSecret::ScramKeys(_) => "scram",
            ServerSecret::Md5Hash(_) => "md5",
            other => panic!("{other:?}"),
        };
        assert_eq!(name, expected);
        // The second one stands for a server with the same secrets.
        let (opening, established) = meet(&context, &tls, name, &learned).await;
        assert!(session(opening).server_secret.same_as(&learned));
        established.unwrap();
    }
    assert!(lookup.1.lock().unwrap().is_empty());
    for (name, sqlstate) in
        [("nothing", "28P01"), ("nobody", "28P01"), ("file", "28P01"), ("unlucky", "57P03")]
    {
        let (opening, _) = meet(&context, &tls, name, &right).await;
        let Err(StartupError::Refused(refusal)) = opening else { panic!("{name}") };
        assert_eq!(refusal.sqlstate, sqlstate);
        assert!(!refusal.message.contains("down"), "what is wrong inside is not told");
    }
    assert_eq!(*lookup.1.lock().unwrap(), ["nothing", "nobody"]);
}

#[tokio::test]
async fn the_servers_password_of_the_configuration_wins() {
    let mut own = user("own", Some(password("right")));
    own.server_password = Some("of the server".into());
    let mut trusted = user("trusted", Some(password("known")));
    trusted.method = Some(AuthMethod::Trust);
    let mut empty = user("empty", None);
    empty.method = Some(AuthMethod::Trust);
    let config = config(AuthMethod::ScramSha256, no_tls(), vec![own, trusted, empty]);
    let context = AuthContext::new(&config, None).unwrap();
    let tls = ServerTlsConnector::disabled();
    for (name, expected) in [
        ("own", ServerSecret::password("of the server".into())),
        ("trusted", ServerSecret::password("known".into())),
        ("empty", ServerSecret::None),
    ] {
        let given = ServerSecret::password("right".into());
        let accepted = session(meet(&context, &tls, name, &given).await.0);
        assert!(accepted.server_secret.same_as(&expected), "{name}");
    }
}

#[tokio::test]
async fn a_reload_counts_for_the_next_client() {
    let users = |text| vec![user("u", Some(password(text))), user("v", Some(password("same")))];
    let first = config(AuthMethod::ScramSha256, no_tls(), users("old"));
    let context = AuthContext::new(&first, None).unwrap();
    let tls = ServerTlsConnector::disabled();
    let (old, new) = ("old", "new");
    let secret = |text: &str| ServerSecret::password(SecretString::from(text));
    assert!(meet(&context, &tls, "u", &secret(old)).await.1.is_ok());
    let kept = context.settings().find("v", "shop").await.unwrap().unwrap();
    let second = config(AuthMethod::ScramSha256, no_tls(), users("new"));
    context.reload(&second, None).unwrap();
    assert!(meet(&context, &tls, "u", &secret(old)).await.1.is_err());
    assert!(meet(&context, &tls, "u", &secret(new)).await.1.is_ok());
    let still = context.settings().find("v", "shop").await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&kept, &still), "what was derived from the password is kept");
    let mut broken = config(AuthMethod::Trust, no_tls(), users("old"));
    broken.client_tls.mode = ClientTlsMode::Require;
    context.reload(&broken, None).unwrap_err();
    assert!(meet(&context, &tls, "u", &secret(new)).await.1.is_ok());
}

#[tokio::test]
async fn a_wrong_password_is_answered_late() {
    const DELAY: Duration = Duration::from_millis(200);
    let mut config =
        config(AuthMethod::ScramSha256, no_tls(), vec![user("u", Some(password("x")))]);
    config.limits.auth_delay = DELAY;
    let context = AuthContext::new(&config, None).unwrap();
    let tls = ServerTlsConnector::disabled();
    for name in ["u", "nobody"] {
        let started = Instant::now();
        let wrong = ServerSecret::password("y".into());
        let (_, outcome) = meet(&context, &tls, name, &wrong).await;
        assert!(matches!(outcome, Err(ConnectError::Server(_))));
        assert!(started.elapsed() >= DELAY, "{name}");
    }
}

/// Runs psql against `accept` until it ends; its statement is answered as if it had worked.
async fn psql(context: &AuthContext, options: &str) -> (Option<Box<Accepted>>, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        // Refused without TLS, "prefer" and "allow" come a second time.
        let mut accepted = loop {
            let (tcp, peer) = listener.accept().await.unwrap();
            let opening = accept(Plain::Tcp(tcp), PeerAddress::Tcp(peer), context).await;
            if let Ok(Opening::Session(accepted)) = opening {
                break accepted;
            }
        };
        accepted.stream.write_all(REST_OF_START).await.unwrap();
        accepted.stream.flush().await.unwrap();
        let mut query = [0; 1024];
        let length = accepted.stream.read(&mut query).await.unwrap();
        assert_eq!(&query[..length], b"Q\0\0\0\x0dLISTEN x\0");
        let answer = b"C\0\0\0\x0bLISTEN\0Z\0\0\0\x05I";
        accepted.stream.write_all(answer).await.unwrap();
        accepted.stream.flush().await.unwrap();
        accepted
    };
    let run = Command::new("psql")
        .args(["-Xw", "-c", "LISTEN x", "-d"])
        .arg(format!("host=127.0.0.1 port={port} dbname=shop {options}"))
        .env("PGPASSWORD", "right")
        .env("HOME", "/nowhere")
        .kill_on_drop(true)
        .output();
    tokio::pin!(serve);
    tokio::pin!(run);
    let mut accepted = None;
    loop {
        tokio::select! {
            session = &mut serve, if accepted.is_none() => accepted = Some(session),
            output = &mut run => return (accepted, output.unwrap()),
        }
    }
}

#[tokio::test]
async fn psql_is_let_in_as_the_mode_says() {
    use ClientTlsMode::*;
    let certificates = Certificates::new();
    let pem = |file: &str| certificates.path(file).display().to_string();
    let root = |ca: &str| format!("sslrootcert={}", pem(&format!("{ca}.crt")));
    let own = |name: &str| {
        let (certificate, key) = (pem(&format!("{name}.crt")), pem(&format!("{name}.key")));
        format!("sslcert={certificate} sslkey={key} sslmode=require")
    };
    let full = |ca: &str| format!("sslmode=verify-full {}", root(ca));
    let (good_root, bad_root) = (full("ca"), full("other_ca"));
    let (alice, stranger) = (own("alice"), own("stranger"));
    let bound = format!("{good_root} channel_binding=require");
    const PLAIN: Result<bool, &str> = Ok(false);
    const TLS: Result<bool, &str> = Ok(true);
    for (mode, name, options, expected) in [
        (Disable, "alice", "sslmode=disable", PLAIN),
        (Disable, "alice", "sslmode=prefer", PLAIN),
        (Disable, "alice", "sslmode=require", Err("server does not support SSL")),
        (
            Disable,
            "alice",
            "sslmode=disable channel_binding=require",
            Err("channel binding required"),
        ),
        (Allow, "alice", "sslmode=disable", PLAIN),
        (Allow, "alice", "sslmode=allow", PLAIN),
        (Allow, "alice", "sslmode=prefer", TLS),
        (Allow, "alice", "sslmode=require channel_binding=require", TLS),
        (Allow, "alice", "sslmode=require channel_binding=disable", TLS),
        (Allow, "bob", "sslmode=require channel_binding=prefer", TLS),
        (Allow, "carol", "sslmode=require", TLS),
        (Allow, "carol", "sslmode=disable", PLAIN),
        (
            Allow,
            "dave",
            "sslmode=require",
            Err("certificate authentication failed for user \"dave\""),
        ),
        (
            Allow,
            "nobody",
            "sslmode=require",
            Err("password authentication failed for user \"nobody\""),
        ),
        (
            Allow,
            "alice",
            "sslmode=require password=wrong",
            Err("password authentication failed for user \"alice\""),
        ),
        (Require, "alice", "sslmode=disable", Err("no encryption")),
        (Require, "alice", "sslmode=allow", TLS),
        (Require, "alice", "sslmode=prefer", TLS),
        (Require, "alice", &good_root, TLS),
        (Require, "alice", &bound, TLS),
        (Require, "alice", &bad_root, Err("certificate verify failed")),
        (VerifyCa, "bob", "sslmode=require", Err("connection requires a valid client certificate")),
        (VerifyCa, "bob", &alice, TLS),
        (VerifyCa, "bob", &stranger, Err("unknown ca")),
        (VerifyFull, "alice", &alice, TLS),
        (VerifyFull, "bob", &alice, Err("certificate authentication failed for user \"bob\"")),
        (VerifyFull, "alice", "sslmode=disable", Err("no encryption")),
    ] {
        let verifier = postgres_protocol::password::scram_sha_256(b"right");
        let mut users = vec![
            user("alice", Some(password("right"))),
            user("bob", Some(Secret::ScramVerifier(verifier.into()))),
            user("carol", Some(Secret::Md5(md5::stored("carol", b"right").into()))),
            user("dave", None),
        ];
        users[2].method = Some(AuthMethod::Md5);
        users[3].method = Some(AuthMethod::Cert);
        let towards = certificates.towards_client(mode, "server", Some("ca"));
        let config = config(AuthMethod::ScramSha256, towards, users);
        let context = AuthContext::new(&config, None).unwrap();
        let (accepted, output) = psql(&context, &format!("user={name} {options}")).await;
        let said = String::from_utf8_lossy(&output.stderr);
        let case = format!("{mode:?} {name} {options}: {said}");
        match expected {
            Ok(tls) => {
                assert!(output.status.success(), "{case}");
                assert_eq!(accepted.unwrap().stream.is_tls(), tls, "{case}");
            }
            Err(sentence) => {
                assert!(!output.status.success(), "{case}");
                assert!(said.contains(sentence), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_alone_lets_its_user_in() {
    let certificates = Certificates::new();
    let towards = certificates.towards_client(ClientTlsMode::Allow, "server", Some("ca"));
    let users = vec![user("alice", None), user("bob", None)];
    let context = AuthContext::new(&config(AuthMethod::Cert, towards, users), None).unwrap();
    let mut own = certificates.towards_server(ServerTlsMode::VerifyFull, Some("ca"));
    own.certificate = Some(certificates.path("alice.crt"));
    own.key = Some(certificates.path("alice.key"));
    for direct in [false, true] {
        own.direct = direct;
        let tls = ServerTlsConnector::new(&own).unwrap();
        let (opening, established) = meet(&context, &tls, "alice", &ServerSecret::None).await;
        assert!(session(opening).stream.is_tls() && established.unwrap().stream.is_tls());
        let (_, established) = meet(&context, &tls, "bob", &ServerSecret::None).await;
        assert!(matches!(established, Err(ConnectError::Server(_))));
    }
    let off = ServerTlsConnector::disabled();
    let (_, established) = meet(&context, &off, "alice", &ServerSecret::None).await;
    assert!(matches!(established, Err(ConnectError::Server(_))));
}
