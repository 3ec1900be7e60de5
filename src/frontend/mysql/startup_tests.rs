//! Both ends of a connection's start against each other, and against the mariadb client.

use super::super::auth_context::{Account, AccountLookup, Credentials, Lookup};
use super::super::compress::ClientStream;
use super::*;
use crate::backend::mysql::connect::{ConnectError, Established, Target, connect};
use crate::config::tls::ServerTlsConnector;
use crate::config::tls_fixture::Certificates;
use crate::config::*;
use crate::protocol::mysql::auth::{native_key, native_stored, sha2_stored};
use crate::protocol::mysql::packet;
use crate::protocol::mysql::reply::OkPacket;
use secrecy::SecretString;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Long enough for a loaded machine; nothing waits for it when all goes well.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(client_tls: ClientTls, startup_timeout: Duration) -> Config {
    Config {
        listen: Listen { postgres: Vec::new(), mysql: Vec::new(), http: None },
        api_token: None,
        workers: 1,
        limits: Limits {
            clients_max: 10,
            startup_timeout,
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
        auth: Auth {
            method: AuthMethod::ScramSha256,
            query: None,
            accounts: false,
            query_cache: Duration::ZERO,
        },
        users: vec![
            user("alice", Some("pw"), None),
            user("other", Some("pw"), Some("server pw")),
            user("without", None, None),
            User { method: Some(AuthMethod::Trust), ..user("trusted", None, None) },
            User { method: Some(AuthMethod::Cert), ..user("certified", None, None) },
        ],
        clusters: Vec::new(),
        log: Log { format: LogFormat::Text, level: String::new() },
        shutdown: Shutdown { drain_timeout: Duration::ZERO },
    }
}

fn user(name: &str, password: Option<&str>, server: Option<&str>) -> User {
    let secret = password.map(|text| Secret::Password(text.into()));
    User {
        name: name.into(),
        secret,
        server_password: server.map(SecretString::from),
        method: None,
    }
}

fn no_tls() -> ClientTls {
    ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None, client_ca: None }
}

/// What the servers would know.
#[derive(Default)]
struct Accounts {
    found: HashMap<&'static str, Arc<Credentials>>,
    doubted: Mutex<Vec<String>>,
}

impl Accounts {
    fn new() -> Accounts {
        let stored = native_stored(&native_key(b"pw"));
        let hex: String = stored.iter().map(|byte| format!("{byte:02X}")).collect();
        let account = |plugin: &str, stored: &[u8]| {
            let account = Account { plugin: plugin.to_owned(), stored: stored.to_vec() };
            Arc::new(Credentials::of_account(&account))
        };
        let found = [
            ("native", account("mysql_native_password", format!("*{hex}").as_bytes())),
            ("sha2", account("caching_sha2_password", &sha2_stored(b"pw"))),
            ("socket", account("auth_socket", b"")),
        ];
        Accounts { found: found.into(), doubted: Mutex::default() }
    }
}

impl AccountLookup for Accounts {
    fn lookup<'a>(&'a self, user: &'a str, _: Option<&'a str>) -> Lookup<'a> {
        Box::pin(async move { Ok(self.found.get(user).cloned()) })
    }

    fn doubt(&self, user: &str, _: Option<&str>) {
        self.doubted.lock().unwrap().push(user.to_owned());
    }
}

fn face(mariadb: bool) -> Face {
    let version = if mariadb { "10.11.6-MariaDB" } else { "9.4.0" };
    Face { version: version.to_owned(), mariadb, collation: 45 }
}

/// A proxy that lets in as configured, and answers whatever comes then with OK.
struct Proxy {
    address: Address,
    context: Arc<AuthContext>,
    accounts: Arc<Accounts>,
    openings: tokio::sync::mpsc::Receiver<Result<Option<Told>, StartupError>>,
}

impl Proxy {
    async fn start(client_tls: ClientTls, mariadb: bool) -> Proxy {
        Proxy::with_timeout(client_tls, mariadb, PATIENCE).await
    }

    async fn with_timeout(client_tls: ClientTls, mariadb: bool, timeout: Duration) -> Proxy {
        let accounts = Arc::new(Accounts::new());
        let config = config(client_tls, timeout);
        let context = Arc::new(AuthContext::new(&config, Some(accounts.clone())).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, openings) = tokio::sync::mpsc::channel(64);
        let door = context.clone();
        tokio::spawn(async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                let (door, tell) = (door.clone(), tell.clone());
                tokio::spawn(async move {
                    let (plain, peer) = (Plain::Tcp(tcp), PeerAddress::Tcp(peer));
                    let opening = accept(plain, peer, &door, &face(mariadb), 7).await;
                    let told = match opening {
                        Ok(Opening::Session(accepted)) => {
                            let told = Told::of(&accepted);
                            content(accepted).await;
                            Ok(Some(told))
                        }
                        Ok(Opening::Closed) => Ok(None),
                        Err(error) => Err(error),
                    };
                    let _ = tell.send(told).await;
                });
            }
        });
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port };
        Proxy { address, context, accounts, openings }
    }

    /// As a server connection of the proxy's own logs in.
    async fn log_in(
        &self,
        tls: &ServerTlsConnector,
        user: &str,
        password: &str,
    ) -> Result<Established, ConnectError> {
        let secret = secret(password);
        let (address, flags) = (&self.address, Capabilities::NONE);
        connect(&Target { address, tls, user, secret: &secret, flags, timeout: PATIENCE }).await
    }

    async fn accepted(&mut self) -> Told {
        match self.openings.recv().await {
            Some(Ok(Some(told))) => told,
            other => panic!("{other:?}"),
        }
    }

    async fn connect_raw(&self) -> TcpStream {
        let Address::Tcp { port, .. } = &self.address else { panic!() };
        TcpStream::connect(("127.0.0.1", *port)).await.unwrap()
    }
}

/// What was known of a client that was let in.
#[derive(Debug)]
struct Told {
    user: String,
    database: Option<String>,
    server_secret: ServerSecret,
    attributes: Vec<Attribute>,
    tls: bool,
    compression: Option<Compression>,
}

impl Told {
    fn of(accepted: &Accepted) -> Told {
        Told {
            user: accepted.user.clone(),
            database: accepted.database.clone(),
            server_secret: accepted.server_secret.clone(),
            attributes: accepted.attributes.clone(),
            tls: accepted.stream.is_tls(),
            compression: accepted.compression,
        }
    }
}

fn secret(password: &str) -> ServerSecret {
    ServerSecret::password(SecretString::from(password))
}

/// The OK that ends the start, and one for every command until the client leaves.
async fn content(mut accepted: Box<Accepted>) {
    let ok = |mut sequence: u8| {
        let mut out = Vec::new();
        OkPacket::plain(Status::AUTOCOMMIT).put(&mut out, &mut sequence, accepted.capabilities);
        out
    };
    accepted.stream.write_all(&ok(accepted.sequence)).await.unwrap();
    accepted.stream.flush().await.unwrap();
    let mut leftover = accepted.leftover;
    let mut stream = ClientStream::new(accepted.stream, accepted.compression, &mut leftover);
    let mut command = [0; 4096];
    while let Ok(5..) = stream.read(&mut command).await {
        if command[4] == 1 || stream.write_all(&ok(1)).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
}

#[tokio::test]
async fn every_kind_of_user_logs_in_by_every_way() {
    let certificates = Certificates::new();
    let on = certificates.towards_client(ClientTlsMode::Allow, "server", None);
    let off = ServerTlsConnector::disabled();
    let verified = certificates.towards_server(ServerTlsMode::VerifyFull, Some("ca"));
    let verified = ServerTlsConnector::new(&verified).unwrap();
    for mariadb in [false, true] {
        let mut proxy = Proxy::start(on.clone(), mariadb).await;
        for tls in [&off, &verified] {
            for (user, password, expected) in [
                ("alice", "pw", secret("pw")),
                ("other", "pw", secret("server pw")),
                ("trusted", "whatever", ServerSecret::None),
                ("native", "pw", ServerSecret::NativeKey(native_key(b"pw").into())),
                // The first time by the stored hash, then by what was learned.
                ("sha2", "pw", secret("pw")),
                ("sha2", "pw", secret("pw")),
            ] {
                let established = proxy.log_in(tls, user, password).await.unwrap_or_else(|error| {
                    panic!("{user} {mariadb} {tls:?}: {error}");
                });
                assert_eq!(established.mariadb, mariadb);
                assert_eq!(established.version, face(mariadb).version);
                assert_eq!(established.connection_id, 7);
                drop(established);
                let accepted = proxy.accepted().await;
                assert_eq!(accepted.user, user);
                assert!(accepted.server_secret.same_as(&expected), "{user} {mariadb}");
                let own = accepted.attributes.iter().any(|(name, _)| &**name == b"program_name");
                assert!(own, "{:?}", accepted.attributes);
            }
        }
        assert_eq!(*proxy.accounts.doubted.lock().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_the_same() {
    let mut proxy = Proxy::start(no_tls(), false).await;
    let off = ServerTlsConnector::disabled();
    for (user, password, failure) in [
        ("alice", "no", AuthFailure::WrongPassword),
        ("alice", "", AuthFailure::WrongPassword),
        ("nobody", "pw", AuthFailure::UnknownUser),
        ("without", "pw", AuthFailure::WrongPassword),
        ("native", "no", AuthFailure::WrongPassword),
        ("sha2", "no", AuthFailure::WrongPassword),
        ("sha2", "", AuthFailure::WrongPassword),
        ("socket", "pw", AuthFailure::WrongPassword),
        ("certified", "pw", AuthFailure::Certificate),
    ] {
        let error = proxy.log_in(&off, user, password).await.unwrap_err();
        let (errno, sqlstate, message) = error.refusal().unwrap_or_else(|| panic!("{error}"));
        assert_eq!((errno, &sqlstate), (1045, b"28000"), "{user}");
        let using = if password.is_empty() || user == "certified" { "NO" } else { "YES" };
        let expected =
            format!("Access denied for user '{user}'@'127.0.0.1' (using password: {using})");
        assert_eq!(message, expected);
        let told = proxy.openings.recv().await.unwrap().unwrap_err();
        assert_eq!(told.failure(), failure, "{user}: {told}");
    }
    let doubted = proxy.accounts.doubted.lock().unwrap().clone();
    assert_eq!(doubted, ["native", "sha2", "sha2", "socket"]);
}

#[tokio::test]
async fn encryption_is_demanded_and_certificates_count() {
    let certificates = Certificates::new();
    let off = ServerTlsConnector::disabled();
    let plain = certificates.towards_server(ServerTlsMode::Require, None);
    let with = |name: &str| ServerTls {
        certificate: Some(certificates.path(&format!("{name}.crt"))),
        key: Some(certificates.path(&format!("{name}.key"))),
        ..plain.clone()
    };
    let (alice, none) = (with("alice"), plain.clone());
    let required = certificates.towards_client(ClientTlsMode::Require, "server", None);
    let proxy = Proxy::start(required, false).await;
    let error = proxy.log_in(&off, "alice", "pw").await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.0), Some(3159));
    let none = ServerTlsConnector::new(&none).unwrap();
    proxy.log_in(&none, "alice", "pw").await.unwrap();

    let full = certificates.towards_client(ClientTlsMode::VerifyFull, "server", Some("ca"));
    let proxy = Proxy::start(full, true).await;
    let alice = ServerTlsConnector::new(&alice).unwrap();
    proxy.log_in(&alice, "alice", "pw").await.unwrap();
    for (tls, user, errno) in [(&alice, "other", 1045), (&none, "alice", 1043)] {
        let error = proxy.log_in(tls, user, "pw").await.unwrap_err();
        assert_eq!(error.refusal().map(|refusal| refusal.0), Some(errno), "{user}: {error}");
    }
}

/// Where a client that is told something went wrong.
async fn errno(stream: &mut TcpStream) -> u16 {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    read.expect("the proxy closes").unwrap();
    let (_, payload, _) = packet::split(&said).unwrap();
    ErrPacket::parse(payload).unwrap().errno
}

async fn greeted(proxy: &Proxy) -> TcpStream {
    let mut stream = proxy.connect_raw().await;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let mut rest = vec![0; usize::from(head[0])];
    stream.read_exact(&mut rest).await.unwrap();
    stream
}

#[tokio::test]
async fn broken_starts_are_refused_with_the_reason() {
    let proxy = Proxy::start(no_tls(), false).await;
    let mut ssl = vec![32, 0, 0, 1];
    ssl.extend_from_slice(&0xffff_ffff_u32.to_le_bytes());
    ssl.resize(36, 0);
    let cases: &[(&str, &[u8], u16)] = &[
        ("an absurd length", b"\xff\xff\xff\x01x", 1153),
        ("another sequence id", b"\x01\0\0\x02x", 1156),
        ("an empty packet", b"\0\0\0\x01", 1043),
        ("a short packet", b"\x04\0\0\x01\x00\x02\0\0", 1043),
        ("a client of old", b"\x06\0\0\x01\x05\0\0\0\0a", 1251),
        ("TLS that is not offered", &ssl, 1043),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n", 1153),
    ];
    for (name, bytes, expected) in cases {
        let mut stream = greeted(&proxy).await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(errno(&mut stream).await, *expected, "{name}");
    }
    let mut left = greeted(&proxy).await;
    left.write_all(b"\x20\0\0").await.unwrap();
    drop(left);
    drop(greeted(&proxy).await);

    let certificates = Certificates::new();
    let tls = certificates.towards_client(ClientTlsMode::Allow, "server", None);
    let mut proxy = Proxy::start(tls, false).await;
    let mut stream = greeted(&proxy).await;
    ssl.extend_from_slice(b"in the clear");
    stream.write_all(&ssl).await.unwrap();
    let told = proxy.openings.recv().await.unwrap();
    assert!(matches!(told, Err(StartupError::Tls(_))), "{told:?}");
}

#[tokio::test]
async fn who_is_slow_is_told_so_and_who_leaves_is_no_error() {
    let mut proxy = Proxy::with_timeout(no_tls(), false, Duration::from_millis(100)).await;
    let mut stream = greeted(&proxy).await;
    stream.write_all(b"\x20\0\0").await.unwrap();
    assert_eq!(errno(&mut stream).await, 1159);
    let told = proxy.openings.recv().await.unwrap();
    assert!(matches!(told, Err(StartupError::Timeout(_))), "{told:?}");
    let mut proxy = Proxy::start(no_tls(), false).await;
    drop(greeted(&proxy).await);
    assert!(matches!(proxy.openings.recv().await, Some(Ok(None))));
}

#[tokio::test]
async fn a_client_becomes_somebody_else() {
    let proxy = Proxy::start(no_tls(), false).await;
    let client =
        Client { capabilities: Capabilities::OFFERED, peer: PeerAddress::Unix, tls: false };
    for (user, password, lets_in) in [("other", "pw", true), ("other", "no", false)] {
        let (near, far) = tokio::io::duplex(4096);
        let payload = format!("{user}\0\0shop\0\x2d\0mysql_native_password\0");
        let answering = async {
            let mut packets = Packets { sequence: 1, ..Packets::new(far) };
            let asked = packets.payload(4096).await.unwrap();
            let scramble = Scramble::try_from(&asked[asked.len() - 21..asked.len() - 1]).unwrap();
            assert!(asked.starts_with(b"\xfemysql_native_password\0"));
            let key = native_key(password.as_bytes());
            let proof = crate::protocol::mysql::auth::native_proof(&key, &scramble);
            packets.send_payload(&proof).await.unwrap();
        };
        let mut packets = Packets { sequence: 1, ..Packets::new(near) };
        let face = face(false);
        let changing = change_user(&mut packets, &proxy.context, &face, client, payload.as_bytes());
        let (changed, ()) = tokio::join!(changing, answering);
        assert_eq!(changed.is_ok(), lets_in);
        if let Ok(changed) = changed {
            assert_eq!(changed.database.as_deref(), Some("shop"));
            assert_eq!((changed.user.as_str(), changed.collation), ("other", 45));
            assert!(changed.server_secret.same_as(&secret("server pw")));
        }
        assert_eq!(packets.sequence, 3);
    }
}

#[tokio::test]
async fn the_mariadb_client_gets_in_with_and_without_tls() {
    let certificates = Certificates::new();
    let tls = certificates.towards_client(ClientTlsMode::Allow, "server", None);
    for mariadb in [true, false] {
        let mut proxy = Proxy::start(tls.clone(), mariadb).await;
        let Address::Tcp { port, .. } = proxy.address.clone() else { panic!() };
        for (user, more, lets_in) in [
            ("alice", "--skip-ssl", true),
            ("alice", "--ssl", true),
            ("alice", "--compress", true),
            ("native", "--skip-ssl", true),
            ("sha2", "--ssl", true),
            ("nobody", "--skip-ssl", false),
        ] {
            let output = Command::new("mariadb")
                .args(["--no-defaults", "-h127.0.0.1", "-ppw", "-e", "DO 1", more, "shop"])
                .args([format!("-P{port}"), format!("-u{user}")])
                .output()
                .await
                .unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.success(), lets_in, "{user} {more}: {told}");
            if lets_in {
                let accepted = proxy.accepted().await;
                assert_eq!(accepted.database.as_deref(), Some("shop"));
                assert_eq!(accepted.tls, more != "--skip-ssl");
                let zlib = accepted.compression == Some(Compression::Zlib);
                assert_eq!(zlib, more == "--compress", "{user} {more} {mariadb}");
            } else {
                assert!(told.contains("ERROR 1045 (28000): Access denied"), "{told}");
                let _ = proxy.openings.recv().await;
            }
        }
    }
}

/// sysbench was refused in every fourth start: libmariadb does not find caching_sha2_password while
/// another thread loads it, says so, and waits to be asked for a proof by another plugin.
#[tokio::test]
async fn a_client_without_the_plugin_of_the_greeting_gets_in() {
    for mariadb in [true, false] {
        let mut proxy = Proxy::start(no_tls(), mariadb).await;
        let Address::Tcp { port, .. } = proxy.address.clone() else { panic!() };
        for (user, more) in [
            ("trusted", "--plugin-dir=/nonexistent"),
            ("alice", "--plugin-dir=/nonexistent"),
            ("trusted", "--default-auth=mysql_native_password"),
            ("trusted", "--default-auth=caching_sha2_password"),
            ("trusted", "--default-auth=client_ed25519"),
        ] {
            for password in ["--password=pw", "--password="] {
                if user == "alice" && password == "--password=" {
                    continue;
                }
                let output = Command::new("mariadb")
                    .args(["--no-defaults", "--skip-ssl", "-h127.0.0.1", "-e", "DO 1"])
                    .args([password, more, &format!("-P{port}"), &format!("-u{user}")])
                    .output()
                    .await
                    .unwrap();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{user} {more} {password} {mariadb}: {told}");
                assert_eq!(proxy.accepted().await.user, user);
            }
        }
    }
}
