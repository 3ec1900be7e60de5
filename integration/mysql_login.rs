//! Logging in to real MySQL and MariaDB servers, and following their replies.

use crate::support::certificates::{Authority, Files};
use crate::support::mysql::{
    Cluster, Engine, Options, client_opts, mariadb_11, on_mysql_and_mariadb, options,
};
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiffin::backend::mysql::auth::ServerSecret;
use tiffin::backend::mysql::connect::{ConnectError, Established, Target, connect};
use tiffin::backend::mysql::connection::{Connection, Kill, trackers};
use tiffin::backend::{Fault, Opening, ServerConnection};
use tiffin::cli::sandbox::servers::Tls;
use tiffin::config::tls::ServerTlsConnector;
use tiffin::config::{Address, ServerTls, ServerTlsMode};
use tiffin::protocol::mysql::auth::native_key;
use tiffin::protocol::mysql::capabilities::{Capabilities, Status};
use tiffin::protocol::mysql::replies::{Awaits, Reply, Told};
use tiffin::protocol::mysql::reply::Tracked;
use tiffin::protocol::mysql::{command, packet};
use tiffin::topology::{Epoch, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Long enough for a loaded machine; nothing waits for it when all goes well.
const PATIENCE: Duration = Duration::from_secs(60);

on_mysql_and_mariadb! {
    servers_are_logged_in_to,
    servers_are_verified,
    connections_are_reset_killed_and_moved,
    every_reply_is_followed_to_its_end,
}

/// Runs the test's asynchronous part.
fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn alone(engine: Engine, init_sql: &[&str]) -> Cluster {
    let init_sql = init_sql.iter().map(|sql| (*sql).to_owned()).collect();
    let settings = vec![("local_infile".to_owned(), "ON".to_owned())];
    Cluster::start(Options { replicas: 0, init_sql, settings, ..options(engine) })
        .expect("start a server")
}

fn address(cluster: &Cluster) -> Address {
    Address::Tcp { host: "127.0.0.1".to_owned(), port: cluster.primary().port }
}

fn tls(mode: ServerTlsMode) -> Arc<ServerTlsConnector> {
    let config = ServerTls { mode, ca: None, certificate: None, key: None, direct: false };
    Arc::new(ServerTlsConnector::new(&config).unwrap())
}

fn password(text: &str) -> ServerSecret {
    ServerSecret::password(SecretString::from(text))
}

async fn log_in(
    cluster: &Cluster,
    user: &str,
    secret: &ServerSecret,
    mode: ServerTlsMode,
) -> Result<Established, ConnectError> {
    let (address, tls) = (address(cluster), tls(mode));
    let flags = Capabilities::LOCAL_FILES | Capabilities::MULTI_STATEMENTS;
    let timeout = PATIENCE;
    connect(&Target { address: &address, tls: &tls, user, secret, flags, timeout }).await
}

fn servers_are_logged_in_to(engine: Engine) {
    let mut accounts = vec![
        "CREATE USER nothing@'%' IDENTIFIED BY ''",
        "CREATE USER plain@'%' IDENTIFIED BY 'pw'",
    ];
    if engine == Engine::MySql {
        // A password that is longer than a scramble.
        accounts
            .push("CREATE USER long_one@'%' IDENTIFIED BY 'abcdefghijklmnopqrstuvwxyz0123456789'");
        accounts.push("CREATE USER sha256@'%' IDENTIFIED WITH sha256_password BY 'pw'");
        accounts.push("CREATE USER tls_only@'%' IDENTIFIED BY 'pw' REQUIRE SSL");
    }
    let cluster = alone(engine, &accounts);
    block_on(async {
        let off = ServerTlsMode::Disable;
        let established = log_in(&cluster, "plain", &password("pw"), off).await.unwrap();
        assert_eq!(established.mariadb, engine == Engine::MariaDb);
        let version = cluster.primary().value("SELECT VERSION()").unwrap();
        assert_eq!(established.version, version);
        assert!(established.capabilities.has(Capabilities::NEEDED_OF_SERVERS));
        assert!(established.status.has(Status::AUTOCOMMIT));

        log_in(&cluster, "nothing", &ServerSecret::None, off).await.unwrap();
        log_in(&cluster, "plain", &password("pw"), ServerTlsMode::Prefer).await.unwrap();
        for (user, secret) in [("plain", password("no")), ("nobody", password("pw"))] {
            let error = log_in(&cluster, user, &secret, off).await.unwrap_err();
            let (errno, sqlstate, message) = error.refusal().unwrap_or_else(|| panic!("{error}"));
            assert_eq!((errno, &sqlstate, error.fault()), (1045, b"28000", Fault::Config));
            assert!(message.starts_with("Access denied"), "{message}");
        }
        match engine {
            Engine::MariaDb => natively(&cluster).await,
            Engine::MySql => by_caching_sha2(&cluster).await,
        }
    });
}

/// Each way to look at a server's certificate.
fn servers_are_verified(engine: Engine) {
    let (ours, others, files) = (Authority::new("ours"), Authority::new("others"), Files::new());
    let right = files.write("right.crt", &ours.pem());
    let wrong = files.write("wrong.crt", &others.pem());
    use ServerTlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    let cases = [
        (Disable, None, Ok(false)),
        (Prefer, None, Ok(true)),
        (Require, None, Ok(true)),
        (VerifyCa, Some(&right), Ok(true)),
        (VerifyCa, Some(&wrong), Err("UnknownIssuer")),
        (VerifyFull, Some(&right), Ok(true)),
        (VerifyFull, Some(&wrong), Err("UnknownIssuer")),
    ];
    verify(engine, ours.sign("server"), &cases);
    let cases = [
        (VerifyCa, Some(&right), Ok(true)),
        (VerifyFull, Some(&right), Err("not valid for name \"127.0.0.1\"")),
    ];
    verify(engine, ours.sign_for("elsewhere.example"), &cases);
}

/// A mode, the authority that is trusted, and whether there is TLS or what the error says.
type Verified<'a> = (ServerTlsMode, Option<&'a PathBuf>, Result<bool, &'a str>);

fn verify(engine: Engine, (certificate, key): (String, String), cases: &[Verified<'_>]) {
    let cluster = Cluster::start(Options {
        replicas: 0,
        tls: Some(Tls { certificate, key, client_ca: None }),
        init_sql: vec!["CREATE USER plain@'%' IDENTIFIED BY 'pw'".to_owned()],
        ..options(engine)
    });
    let cluster = cluster.expect("start a server");
    block_on(async {
        for &(mode, ca, expected) in cases {
            let ca = ca.cloned();
            let config = ServerTls { mode, ca, certificate: None, key: None, direct: false };
            let tls = ServerTlsConnector::new(&config).unwrap();
            let (address, secret) = (address(&cluster), password("pw"));
            let flags = Capabilities::NONE;
            let (tls, timeout) = (&tls, PATIENCE);
            let target =
                Target { address: &address, tls, user: "plain", secret: &secret, flags, timeout };
            match (connect(&target).await, expected) {
                (Ok(established), Ok(encrypted)) => {
                    assert_eq!(established.stream.is_tls(), encrypted, "{config:?}");
                }
                (Err(error @ ConnectError::Tls(_)), Err(words)) => {
                    assert!(error.to_string().contains(words), "{error}");
                }
                (outcome, _) => panic!("{config:?}: {outcome:?}"),
            }
        }
    });
}

/// MariaDB's own plugins: for the proxy's sessions, and for its service user.
#[test]
fn mariadbs_signatures() {
    let accounts = [
        "INSTALL SONAME 'auth_ed25519'",
        "INSTALL SONAME 'auth_parsec'",
        "CREATE USER ed25519@'%' IDENTIFIED VIA ed25519 USING PASSWORD('pw')",
        "CREATE USER parsec@'%' IDENTIFIED VIA parsec USING PASSWORD('pw')",
    ];
    let cluster = Cluster::start(Options {
        replicas: 0,
        binaries: Some(mariadb_11()),
        init_sql: accounts.map(str::to_owned).to_vec(),
        ..options(Engine::MariaDb)
    });
    let cluster = cluster.expect("start a server");
    block_on(async {
        for user in ["ed25519", "parsec"] {
            for mode in [ServerTlsMode::Disable, ServerTlsMode::Require] {
                // A signature depends on the scramble: some begin or end with a zero byte.
                for _ in 0..4 {
                    log_in(&cluster, user, &password("pw"), mode).await.unwrap();
                }
                let error = log_in(&cluster, user, &password("no"), mode).await.unwrap_err();
                assert_eq!(error.refusal().map(|refusal| refusal.0), Some(1045), "{error}");
            }
            let key = ServerSecret::NativeKey(Arc::new(native_key(b"pw")));
            let error = log_in(&cluster, user, &key, ServerTlsMode::Disable).await.unwrap_err();
            assert!(matches!(error, ConnectError::Secret { .. }), "{error}");
            let service = client_opts(cluster.primary().port, &cluster.app);
            let service = service.user(Some(user)).pass(Some("pw")).db_name(None::<String>);
            mysql_async::Conn::new(mysql_async::Opts::from(service)).await.unwrap();
        }
    });
}

async fn natively(cluster: &Cluster) {
    let key = ServerSecret::NativeKey(Arc::new(native_key(b"pw")));
    log_in(cluster, "plain", &key, ServerTlsMode::Disable).await.unwrap();
    let wrong = ServerSecret::NativeKey(Arc::new(native_key(b"no")));
    assert!(log_in(cluster, "plain", &wrong, ServerTlsMode::Disable).await.is_err());
    let refused = log_in(cluster, "plain", &key, ServerTlsMode::Require).await;
    assert!(matches!(refused, Err(ConnectError::TlsRefused)), "{refused:?}");
}

async fn by_caching_sha2(cluster: &Cluster) {
    let long = password("abcdefghijklmnopqrstuvwxyz0123456789");
    for mode in [ServerTlsMode::Disable, ServerTlsMode::Require] {
        // The server has forgotten what it knew: the password itself is sent, by RSA or TLS. Then
        // it remembers.
        cluster.primary().execute("FLUSH PRIVILEGES").unwrap();
        for _ in 0..2 {
            let established = log_in(cluster, "long_one", &long, mode).await.unwrap();
            assert_eq!(established.stream.is_tls(), mode == ServerTlsMode::Require);
        }
        cluster.primary().execute("FLUSH PRIVILEGES").unwrap();
        let error = log_in(cluster, "long_one", &password("no"), mode).await.unwrap_err();
        assert_eq!(error.refusal().map(|refusal| refusal.0), Some(1045));
    }
    for mode in [ServerTlsMode::Disable, ServerTlsMode::Require] {
        log_in(cluster, "sha256", &password("pw"), mode).await.unwrap();
        assert!(log_in(cluster, "sha256", &password("no"), mode).await.is_err());
    }
    let plain = log_in(cluster, "tls_only", &password("pw"), ServerTlsMode::Disable).await;
    assert_eq!(plain.unwrap_err().fault(), Fault::Config);
    log_in(cluster, "tls_only", &password("pw"), ServerTlsMode::Prefer).await.unwrap();
    // Good for mysql_native_password alone.
    let key = ServerSecret::NativeKey(Arc::new(native_key(b"pw")));
    assert!(log_in(cluster, "plain", &key, ServerTlsMode::Disable).await.is_err());
    let unchecked = ServerTls {
        mode: ServerTlsMode::VerifyFull,
        ca: Some("/etc/ssl/certs/ca-certificates.crt".into()),
        certificate: None,
        key: None,
        direct: false,
    };
    if let Ok(strict) = ServerTlsConnector::new(&unchecked) {
        let (address, secret) = (address(cluster), password("pw"));
        let flags = Capabilities::NONE;
        let (tls, timeout) = (&strict, PATIENCE);
        let target =
            Target { address: &address, tls, user: "plain", secret: &secret, flags, timeout };
        assert!(matches!(connect(&target).await, Err(ConnectError::Tls(_))));
    }
}

/// One command's reply: what it told, in short, and what the trackers told.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    payload: &[u8],
    awaits: Awaits,
) -> Vec<String> {
    let (mut out, mut sequence) = (Vec::new(), 0);
    packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(payload));
    stream.write_all(&out).await.unwrap();
    stream.flush().await.unwrap();
    listen(stream, awaits).await
}

async fn listen<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, awaits: Awaits) -> Vec<String> {
    let mut reply = Reply::new(awaits);
    let (mut read, mut told) = (Vec::new(), Vec::new());
    while !reply.is_over() {
        let mut piece = [0; 1 << 16];
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
        let count = count.unwrap_or_else(|_| panic!("{told:?}, and then nothing")).unwrap();
        assert!(count > 0, "the server left after {told:?}");
        read.extend_from_slice(&piece[..count]);
        loop {
            let step = reply.step(&read).unwrap();
            let (bytes, wants) = (step.bytes, matches!(step.told, Some(Told::LocalInfile(_))));
            if bytes == 0 && step.told.is_none() {
                break;
            }
            told.extend(step.told.map(|told| line(&told)));
            read.drain(..bytes);
            if wants {
                send_file(stream, reply.sequence()).await;
            }
        }
    }
    assert!(read.is_empty(), "{} bytes behind {told:?}", read.len());
    told
}

/// Two rows of one column.
async fn send_file<S: AsyncWrite + Unpin>(stream: &mut S, sequence: u8) {
    let (mut out, mut sequence) = (Vec::new(), sequence.wrapping_add(1));
    packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(b"1\n2\n"));
    packet::put(&mut out, &mut sequence, |_| {});
    stream.write_all(&out).await.unwrap();
}

fn line(told: &Told<'_>) -> String {
    match told {
        Told::Ok(ok) => {
            let kind = if ok.header == 0 { "ok" } else { "end" };
            let mut line = format!("{kind} {}", ok.affected_rows);
            if ok.status.has(Status::MORE_RESULTS) {
                line.push_str(" more");
            }
            if ok.status.has(Status::CURSOR_EXISTS) {
                line.push_str(" cursor");
            }
            if ok.status.has(Status::LAST_ROW_SENT) {
                line.push_str(" last");
            }
            line
        }
        Told::Err(err) => format!("err {}", err.errno),
        Told::DefinitionsEnd => "definitions".to_owned(),
        Told::LocalInfile(_) => "infile".to_owned(),
        Told::Prepared(ok) => format!("prepared {} {}", ok.parameters, ok.columns),
        Told::Text(_) => "text".to_owned(),
        Told::BinlogEof => "eof".to_owned(),
    }
}

fn query(sql: &str) -> Vec<u8> {
    [&[command::QUERY], sql.as_bytes()].concat()
}

/// What the trackers told in the replies to these statements.
async fn tracked<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, sql: &str) -> Vec<String> {
    let (mut out, mut sequence) = (Vec::new(), 0);
    packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(&query(sql)));
    stream.write_all(&out).await.unwrap();
    let mut reply = Reply::new(Awaits::Results);
    let (mut read, mut seen) = (Vec::new(), Vec::new());
    while !reply.is_over() {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        loop {
            let step = reply.step(&read).unwrap();
            if step.bytes == 0 && step.told.is_none() {
                break;
            }
            if let Some(Told::Ok(ok)) = step.told {
                assert!(ok.entries().all(|entry| entry.tracked.is_some()), "{ok:?}");
                seen.extend(ok.tracked().map(|tracked| {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    match tracked {
                        Tracked::Variable { name, value } => {
                            format!("{}={}", text(name), text(value))
                        }
                        Tracked::Schema(name) => format!("schema {}", text(name)),
                        Tracked::StateChange(changed) => format!("changed {changed}"),
                        Tracked::Gtids(gtids) => format!("gtids {}", text(gtids)),
                        Tracked::Characteristics(sql) => format!("begin {}", text(sql)),
                        Tracked::TransactionState(state) => format!("state {}", text(state)),
                    }
                }));
            }
            let bytes = step.bytes;
            read.drain(..bytes);
        }
    }
    seen
}

fn connections_are_reset_killed_and_moved(engine: Engine) {
    let cluster = alone(engine, &["CREATE TABLE app.t (a INT)"]);
    block_on(async {
        let (address, tls) = (address(&cluster), tls(ServerTlsMode::Disable));
        let login = &cluster.superuser;
        let secret = password(&login.password);
        let opening = Opening::<Connection> {
            node: NodeId(1),
            epoch: Epoch(2),
            address: &address,
            tls: &tls,
            user: &login.user,
            database: "",
            flags: 0,
            secret: &secret,
            timeout: PATIENCE,
            lifetime: PATIENCE,
            wanted: None,
        };
        let mut connection = Connection::open(opening).await.unwrap();
        assert!(connection.is_untouched());
        what_is_tracked(engine, &mut connection).await;

        // Both at once, as a pool does it between two sessions.
        let (mut out, mut sequence) = (Vec::new(), 0);
        packet::put(&mut out, &mut sequence, |out| out.push(command::RESET_CONNECTION));
        connection.stream.write_all(&out).await.unwrap();
        let set = trackers(engine == Engine::MariaDb);
        let mut replies = vec![listen_one(&mut connection, Awaits::Ok).await];
        replies.push(ask(&mut connection.stream, &query(set), Awaits::Results).await.join(","));
        assert_eq!(replies, ["ok 0", "ok 0"]);
        what_is_tracked(engine, &mut connection).await;

        let kill = connection.kill.clone();
        let (mut out, mut sequence) = (Vec::new(), 0);
        let sleep = query("SELECT SLEEP(600) FROM app.t");
        packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(&sleep));
        connection.stream.write_all(&out).await.unwrap();
        let sleeps = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {} AND info LIKE \
             'SELECT SLEEP%'",
            connection.connection_id
        );
        eventually("the statement runs", || cluster.primary().value(&sleeps).unwrap() == "1").await;
        kill.kill(Kill::Query).await.unwrap();
        let told = listen(&mut connection.stream, Awaits::Results).await;
        // Interrupted, or its sleep cut short.
        assert!(told.last().unwrap().starts_with("err 1317") || told.last().unwrap() == "end 0");

        let detached = connection.detach().unwrap();
        let mut connection = Connection::attach(detached).unwrap();
        let told = ask(&mut connection.stream, &query("SELECT 1"), Awaits::Results).await;
        assert_eq!(told, ["definitions", "end 0"]);
        kill.kill(Kill::Connection).await.unwrap();
        eventually("the connection ends", || !connection.is_untouched()).await;
    });
}

/// Waits until it is so, and lets the runtime work meanwhile.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: never"));
}

async fn listen_one(connection: &mut Connection, awaits: Awaits) -> String {
    listen(&mut connection.stream, awaits).await.join(",")
}

async fn what_is_tracked(engine: Engine, connection: &mut Connection) {
    let stream = &mut connection.stream;
    let seen = tracked(stream, "SET sql_mode = 'ANSI_QUOTES'").await;
    assert!(seen.contains(&"sql_mode=ANSI_QUOTES".to_owned()), "{seen:?}");
    let seen = tracked(stream, "USE app").await;
    assert!(seen.contains(&"schema app".to_owned()), "{seen:?}");
    let seen = tracked(stream, "INSERT INTO t VALUES (1)").await;
    let gtid = match engine {
        Engine::MySql => seen.iter().any(|line| line.starts_with("gtids ")),
        Engine::MariaDb => seen.iter().any(|line| line.starts_with("last_gtid=0-")),
    };
    assert!(gtid, "{seen:?}");
    let seen = tracked(stream, "START TRANSACTION READ ONLY").await;
    assert!(seen.contains(&"begin START TRANSACTION READ ONLY;".to_owned()), "{seen:?}");
    tracked(stream, "COMMIT").await;
    for sql in ["SET @x = 1", "CREATE TEMPORARY TABLE tt (a INT)", "PREPARE s FROM 'DO 1'"] {
        let seen = tracked(stream, sql).await;
        assert!(seen.contains(&"changed true".to_owned()), "{sql}: {seen:?}");
    }
}

fn every_reply_is_followed_to_its_end(engine: Engine) {
    let cluster = alone(
        engine,
        &[
            "CREATE TABLE app.t (a INT)",
            "INSERT INTO app.t VALUES (1), (2), (3)",
            "CREATE PROCEDURE app.p() BEGIN SELECT a FROM app.t; UPDATE app.t SET a = a; SELECT 2; END",
            "CREATE PROCEDURE app.o(OUT x INT) SET x = 7",
        ],
    );
    block_on(async {
        let login = &cluster.superuser;
        let secret = password(&login.password);
        let established = log_in(&cluster, &login.user, &secret, ServerTlsMode::Disable).await;
        let mut stream = established.unwrap().stream;
        let texts: &[(&str, &[&str])] = &[
            ("SELECT a FROM app.t", &["definitions", "end 0"]),
            ("SELECT a FROM app.t WHERE a > 9", &["definitions", "end 0"]),
            ("SELECT NULL, '', 'x'", &["definitions", "end 0"]),
            ("UPDATE app.t SET a = a + 1 WHERE a = 3", &["ok 1"]),
            ("SELECT nothing", &["err 1054"]),
            ("DO 1; SELECT 1; DO 2", &["ok 0 more", "definitions", "end 0 more", "ok 0"]),
            ("SELECT 1; SELECT nothing; SELECT 2", &["definitions", "end 0 more", "err 1054"]),
            ("CALL app.p()", &["definitions", "end 0 more", "definitions", "end 0 more", "ok 0"]),
            ("LOAD DATA LOCAL INFILE 'any' INTO TABLE app.t", &["infile", "ok 2"]),
            (
                "LOAD DATA LOCAL INFILE 'any' INTO TABLE app.t; DO 1",
                &["infile", "ok 2 more", "ok 0"],
            ),
            // An error in the midst of rows.
            (
                "SELECT a, (SELECT a FROM app.t AS u WHERE u.a >= t.a) FROM app.t",
                &["definitions", "err 1242"],
            ),
        ];
        for (sql, expected) in texts {
            let told = ask(&mut stream, &query(sql), Awaits::Results).await;
            assert_eq!(told, *expected, "{sql}");
        }
        other_commands(engine, &mut stream).await;
        prepared_statements(&mut stream).await;
    });
}

async fn other_commands<S: AsyncRead + AsyncWrite + Unpin>(engine: Engine, stream: &mut S) {
    let init = [&[command::INIT_DB][..], b"app"].concat();
    let nowhere = [&[command::INIT_DB][..], b"nowhere"].concat();
    let fields = [&[command::FIELD_LIST][..], b"t\0"].concat();
    let cases: &[(&[u8], Awaits, &[&str])] = &[
        (&init, Awaits::Ok, &["ok 0"]),
        (&nowhere, Awaits::Ok, &["err 1049"]),
        (&[command::PING], Awaits::Ok, &["ok 0"]),
        (&[command::STATISTICS], Awaits::Text, &["text"]),
        (&[command::PROCESS_INFO], Awaits::Results, &["definitions", "end 0"]),
        (&[command::SET_OPTION, 0, 0], Awaits::Ok, &["end 0"]),
        (&[command::SET_OPTION, 1, 0], Awaits::Ok, &["end 0"]),
        (&[command::RESET_CONNECTION], Awaits::Ok, &["ok 0"]),
        (&[0x42], Awaits::Ok, &["err 1047"]),
    ];
    for (payload, awaits, expected) in cases {
        let told = ask(stream, payload, *awaits).await;
        // MySQL 9 has no COM_PROCESS_INFO any more.
        if payload[0] == command::PROCESS_INFO && engine == Engine::MySql {
            assert!(told == *expected || told == ["err 1047"], "{told:?}");
        } else {
            assert_eq!(told, *expected, "{payload:?}");
        }
    }
    ask(stream, &init, Awaits::Ok).await;
    let told = ask(stream, &fields, Awaits::Fields).await;
    assert!(told == ["end 0"] || told == ["err 1047"], "{told:?}");
}

async fn prepared_statements<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let prepare = |sql: &str| [&[command::STMT_PREPARE], sql.as_bytes()].concat();
    let cases: &[(&str, &str)] = &[
        ("SELECT a, ? FROM app.t WHERE a > ?", "prepared 2 2,definitions,definitions"),
        ("SELECT a FROM app.t", "prepared 0 1,definitions"),
        ("INSERT INTO app.t VALUES (?)", "prepared 1 0,definitions"),
        ("DO 1", "prepared 0 0"),
        ("SELECT nothing", "err 1054"),
    ];
    let mut last = 0;
    for (sql, expected) in cases {
        let told = ask(stream, &prepare(sql), Awaits::Prepare).await;
        assert_eq!(told.join(","), *expected, "{sql}");
        last += u32::from(told[0].starts_with("prepared"));
    }
    // Ids count up from 1 on a connection; the second of four reads without parameters.
    let read = last - 2;
    let execute = |id: u32, cursor: u8| {
        [&[command::STMT_EXECUTE][..], &id.to_le_bytes(), &[cursor, 1, 0, 0, 0]].concat()
    };
    let fetch =
        |rows: u32| [&[command::STMT_FETCH][..], &read.to_le_bytes(), &rows.to_le_bytes()].concat();
    let told = ask(stream, &execute(read, 0), Awaits::Results).await;
    assert_eq!(told, ["definitions", "end 0"]);
    let told = ask(stream, &execute(read, 1), Awaits::Results).await;
    assert_eq!(told, ["end 0 cursor"], "definitions and reply end together");
    assert_eq!(ask(stream, &fetch(2), Awaits::Rows).await, ["end 0 cursor"]);
    assert_eq!(ask(stream, &fetch(1000), Awaits::Rows).await, ["end 0 last"]);
    let reset = [&[command::STMT_RESET][..], &read.to_le_bytes()].concat();
    assert_eq!(ask(stream, &reset, Awaits::Ok).await, ["ok 0"]);
    assert_eq!(ask(stream, &fetch(1), Awaits::Rows).await, ["err 1421"]);
    assert_eq!(ask(stream, &execute(999, 0), Awaits::Results).await, ["err 1243"]);
}
