//! Both ends of a connection's start against each other, and against psql.

use super::auth_context::AuthContext;
use super::startup::{Accepted, Opening, PeerAddress, StartupError, accept};
use crate::backend::postgres::auth::ServerSecret;
use crate::backend::postgres::connect::{ConnectError, Established, Target, connect};
use crate::backend::stream::Plain;
use crate::config::tls::ServerTlsConnector;
use crate::config::*;
use crate::protocol::postgres::md5;
use secrecy::SecretString;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// Long enough for a loaded machine; nothing waits for it when all goes well.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(method: AuthMethod, client_tls: ClientTls, users: Vec<User>) -> Config {
    Config {
        listen: Listen { postgres: Vec::new(), http: None },
        workers: 1,
        limits: Limits {
            clients_max: 10,
            startup_timeout: PATIENCE,
            message_timeout: PATIENCE,
            write_timeout: PATIENCE,
            parse_bytes_max: 1,
            auth_delay: Duration::ZERO,
            client_statements_max: 1,
            classify_cache_max: 1,
        },
        client_tls,
        auth: Auth { method, query: None, query_cache: Duration::ZERO },
        users,
        clusters: Vec::new(),
        log: Log { format: LogFormat::Text, level: String::new() },
        shutdown: Shutdown { drain_timeout: Duration::ZERO },
    }
}

fn no_tls() -> ClientTls {
    ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None, client_ca: None }
}

fn user(name: &str, secret: Option<Secret>) -> User {
    User { name: name.into(), secret, server_password: None, method: None }
}

fn password(text: &str) -> Secret {
    Secret::Password(text.into())
}

/// Everything after AuthenticationOk that a client needs to be content.
const REST_OF_START: &[u8] =
    b"S\0\0\0\x16server_version\x0015\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

/// One client and one `accept`, over loopback.
async fn meet(
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

fn session(opening: Result<Opening, StartupError>) -> Box<Accepted> {
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
