//! Opening a connection to a MySQL or MariaDB server: socket, TLS, authentication, trackers.
//!
//! ```text
//! dial ─▶ greeting ─▶ (SSLRequest, TLS) ─▶ response ─▶ authenticate ─▶ SET trackers ─▶ Established
//! ```
//!
//! Not here: which node, how many connections, and what a session says on them.

use super::auth::{self, PAYLOAD_BYTES_MAX, Prover, ServerSecret, refused};
use super::rsa::RsaError;
use super::wire::{Packets, WireError};
use crate::backend::stream::{Plain, Stream};
use crate::backend::{Fault, dial};
use crate::config::tls::{Connecting, ServerTlsConnector};
use crate::config::{Address, ServerTlsMode};
use crate::protocol::mysql::auth::Plugin;
use crate::protocol::mysql::capabilities::{Capabilities, Status};
use crate::protocol::mysql::command;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::handshake::{
    Greeting, HandshakeResponse, PACKET_BYTES_MAX, Scramble, put_ssl_request,
};
use crate::protocol::mysql::reply::{ERR, OkPacket};
use rustls_pki_types::ServerName;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

/// `utf8mb4_general_ci`, which both engines have had since 5.5: what a connection is opened with,
/// until a session says what it wants.
const COLLATION: u8 = 45;

/// Where to connect, and as whom.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub address: &'a Address,
    pub tls: &'a ServerTlsConnector,
    pub user: &'a str,
    pub secret: &'a ServerSecret,
    /// Of [`Capabilities::OF_SESSION`]: what the client negotiated that no command changes.
    pub flags: Capabilities,
    /// For everything together.
    pub timeout: Duration,
}

/// A connection that has been let in.
#[derive(Debug)]
pub struct Established {
    pub stream: Stream,
    pub connection_id: u32,
    pub mariadb: bool,
    /// As the server calls it, without MariaDB's `5.5.5-`.
    pub version: String,
    pub capabilities: Capabilities,
    pub status: Status,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("the connection broke during start-up: {0}")]
    Broken(#[source] io::Error),
    #[error("the server closed the connection during start-up")]
    Closed,
    #[error("TLS with the server failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the server does not offer TLS, which the configuration requires")]
    TlsRefused,
    #[error("the host's name {0:?} cannot be checked by TLS")]
    TlsName(String),
    /// The sentence says what came instead.
    #[error("this is not a MySQL or MariaDB server: {0}")]
    NotMysql(String),
    #[error(
        "the server ({version}) is too old: it lacks capabilities that the proxy needs, or that the client agreed on"
    )]
    TooOld { version: String },
    #[error("the server sent {0} that is malformed")]
    Malformed(&'static str),
    #[error("the server asks for {asked}, but only {known} is known")]
    Secret { asked: &'static str, known: &'static str },
    #[error("the server asks for the password in clear text, and the connection has no TLS")]
    ClearWithoutTls,
    #[error("the server asks for the authentication plugin {name}, which is not supported")]
    Plugin { name: String },
    #[error(transparent)]
    Rsa(#[from] RsaError),
    /// What the server said, to be passed on where it is the client's business.
    #[error("the server refused: {errno} ({}): {message}", String::from_utf8_lossy(sqlstate))]
    Server { errno: u16, sqlstate: [u8; 5], message: Box<str> },
}

impl From<WireError> for ConnectError {
    fn from(error: WireError) -> ConnectError {
        match error {
            WireError::Io(error) => ConnectError::Broken(error),
            WireError::Closed | WireError::Truncated => ConnectError::Closed,
            error => ConnectError::NotMysql(error.to_string()),
        }
    }
}

impl ConnectError {
    pub fn fault(&self) -> Fault {
        match self {
            ConnectError::Secret { .. }
            | ConnectError::ClearWithoutTls
            | ConnectError::Plugin { .. }
            | ConnectError::TooOld { .. }
            | ConnectError::Rsa(_)
            | ConnectError::TlsRefused
            | ConnectError::TlsName(_) => Fault::Config,
            ConnectError::Server { errno, .. } => fault_of(*errno),
            _ => Fault::Node,
        }
    }

    /// The server's own error, to be repeated to the client.
    pub fn refusal(&self) -> Option<(u16, [u8; 5], &str)> {
        match self {
            ConnectError::Server { errno, sqlstate, message } => Some((*errno, *sqlstate, message)),
            _ => None,
        }
    }
}

/// Whose fault an error is that a server sends while a connection is opened.
fn fault_of(errno: u16) -> Fault {
    match errno {
        // Access denied, with its variants (no such plugin, locked, TLS required, expired): the
        // client has proved who it is before, so the proxy's knowledge and the server's differ.
        1045 | 1251 | 1524 | 1698 | 1862 | 3118 | 3159 | 3955 | 4151 => Fault::Config,
        // This user has too many connections (1203, 1226), may not use the database (1044, 1049).
        1044 | 1049 | 1203 | 1226 => Fault::Client,
        _ => Fault::Node,
    }
}

/// What a session's connection is told to track, in one statement: everything that a session can
/// change and another one must not find. To be sent again after each COM_RESET_CONNECTION, which
/// forgets it.
pub fn trackers(mariadb: bool) -> &'static str {
    // MariaDB's `*` has `last_gtid` in it.
    if mariadb {
        "SET SESSION session_track_system_variables='*',\
         session_track_transaction_info='CHARACTERISTICS',\
         session_track_schema=1,session_track_state_change=1"
    } else {
        "SET SESSION session_track_gtids='OWN_GTID',\
         session_track_system_variables='*',\
         session_track_transaction_info='CHARACTERISTICS',\
         session_track_schema=1,session_track_state_change=1"
    }
}

/// Opens a connection, logs in and sets the trackers. Cancel safe: yes, the connection is closed.
pub async fn connect(target: &Target<'_>) -> Result<Established, ConnectError> {
    within(target.timeout, async |deadline| {
        let (known, mut packets) = log_in(target, deadline).await?;
        run(&mut packets, known.capabilities, trackers(known.mariadb)).await?;
        finished(known, packets)
    })
    .await
}

/// Runs one statement that returns no rows on a connection of its own. Cancel safe: yes.
pub async fn run_alone(target: &Target<'_>, statement: &str) -> Result<(), ConnectError> {
    within(target.timeout, async |deadline| {
        let (known, mut packets) = log_in(target, deadline).await?;
        run(&mut packets, known.capabilities, statement).await?;
        packets.sequence = 0;
        let _ = packets.send_payload(&[command::QUIT]).await;
        Ok(())
    })
    .await
}

async fn within<T>(
    timeout: Duration,
    work: impl AsyncFnOnce(Instant) -> Result<T, ConnectError>,
) -> Result<T, ConnectError> {
    let deadline = Instant::now() + timeout;
    timeout_at(deadline, work(deadline)).await.unwrap_or(Err(ConnectError::Timeout(timeout)))
}

/// Sends a statement and waits for its OK.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    agreed: Capabilities,
    statement: &str,
) -> Result<(), ConnectError> {
    packets.sequence = 0;
    let mut query = Vec::new();
    put_query(&mut query, agreed, statement);
    packets.send_payload(&query).await?;
    let payload = packets.payload(PAYLOAD_BYTES_MAX).await?;
    if payload.first() == Some(&ERR) {
        return Err(refused(&payload));
    }
    OkPacket::parse(&payload).map(|_| ()).map_err(|_| ConnectError::Malformed("a reply"))
}

/// What is known when authentication is over, but for the stream.
struct Known {
    connection_id: u32,
    mariadb: bool,
    version: String,
    capabilities: Capabilities,
    status: Status,
}

fn finished(known: Known, packets: Packets<Stream>) -> Result<Established, ConnectError> {
    let (stream, rest) = packets.wire.into_parts();
    if !rest.is_empty() {
        return Err(ConnectError::NotMysql("bytes behind the reply".to_owned()));
    }
    let Known { connection_id, mariadb, version, capabilities, status } = known;
    Ok(Established { stream, connection_id, mariadb, version, capabilities, status })
}

async fn log_in(
    target: &Target<'_>,
    deadline: Instant,
) -> Result<(Known, Packets<Stream>), ConnectError> {
    let tls = target.tls.load();
    let encrypt = tls.connector.is_some();
    match attempt(target, &tls, encrypt, deadline).await {
        // "prefer" takes a plain connection where TLS does not come about.
        Err(ConnectError::Tls(_)) if tls.mode == ServerTlsMode::Prefer => {
            attempt(target, &tls, false, deadline).await
        }
        outcome => outcome,
    }
}

async fn attempt(
    target: &Target<'_>,
    tls: &Connecting,
    encrypt: bool,
    deadline: Instant,
) -> Result<(Known, Packets<Stream>), ConnectError> {
    let Address::Tcp { host, port } = target.address else {
        return Err(ConnectError::NotMysql("a Unix socket".to_owned()));
    };
    let tcp = dial::tcp(host, *port, deadline).await.map_err(ConnectError::Unreachable)?;
    let mut packets = Packets::new(Plain::Tcp(tcp));
    let payload = packets.payload(PAYLOAD_BYTES_MAX).await?;
    if payload.first() == Some(&ERR) {
        return Err(refused(&payload));
    }
    let greeting = Greeting::parse(&payload).map_err(|_| {
        ConnectError::NotMysql("its greeting is not that of protocol version 10".to_owned())
    })?;
    let version = String::from_utf8_lossy(greeting.shown_version()).into_owned();
    let shaping = target.flags & Capabilities::SHAPING;
    if !greeting.capabilities.has(Capabilities::NEEDED_OF_SERVERS | shaping) {
        return Err(ConnectError::TooOld { version });
    }
    let wanted = Capabilities::WANTED_OF_SERVERS | (target.flags & Capabilities::OF_SESSION);
    let mut capabilities = wanted & greeting.capabilities;
    // A MariaDB reads the extended capabilities of clients that say so by leaving this out.
    if greeting.is_mariadb() {
        capabilities = capabilities.without(Capabilities::LONG_PASSWORD);
    }
    let offered = greeting.capabilities.has(Capabilities::SSL);
    let mut packets = match (&tls.connector, encrypt) {
        (Some(_), true) if offered => {
            capabilities = capabilities | Capabilities::SSL;
            secure(packets, capabilities, host, tls).await?
        }
        (Some(_), true) if tls.mode != ServerTlsMode::Prefer => {
            return Err(ConnectError::TlsRefused);
        }
        _ => Packets { sequence: packets.sequence, wire: packets.wire.map(Stream::from) },
    };
    let status = respond(&mut packets, target, &greeting, capabilities).await?;
    let known = Known {
        connection_id: greeting.connection_id,
        mariadb: greeting.is_mariadb(),
        version,
        capabilities,
        status,
    };
    Ok((known, packets))
}

/// Asks for TLS and puts it on the socket.
async fn secure(
    mut packets: Packets<Plain>,
    capabilities: Capabilities,
    host: &str,
    tls: &Connecting,
) -> Result<Packets<Stream>, ConnectError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::TlsName(host.to_owned()))?;
    let Some(connector) = &tls.connector else { return Err(ConnectError::TlsRefused) };
    packets.send(|out, sequence| put_ssl_request(out, sequence, capabilities, COLLATION)).await?;
    let sequence = packets.sequence;
    let (plain, rest) = packets.wire.into_parts();
    // Whoever writes more in the clear wants it to be taken for the encrypted part.
    if !rest.is_empty() {
        return Err(ConnectError::NotMysql("it sends more bytes than its greeting".to_owned()));
    }
    let stream = connector.connect(name, plain).await.map_err(ConnectError::Tls)?;
    Ok(Packets { sequence, ..Packets::new(Stream::TlsConnected(Box::new(stream))) })
}

/// Says who we are and proves it.
async fn respond(
    packets: &mut Packets<Stream>,
    target: &Target<'_>,
    greeting: &Greeting<'_>,
    capabilities: Capabilities,
) -> Result<Status, ConnectError> {
    let prover = Prover { secret: target.secret, tls: packets.wire.stream().is_tls() };
    // The greeting names the server's default; the account's own comes by a switch. With a
    // default that is not known here, the first proof is one that cannot be wrong.
    let by_scramble = [Plugin::Native, Plugin::CachingSha2, Plugin::Sha256];
    let plugin = Plugin::of(greeting.plugin).filter(|plugin| by_scramble.contains(plugin));
    let (plugin, scramble): (Plugin, Scramble) =
        (plugin.unwrap_or(Plugin::Native), greeting.scramble);
    let proof = match prover.proof(plugin, &scramble) {
        Ok(proof) => proof,
        // The account may be of the plugin for which enough is known.
        Err(ConnectError::Secret { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let response = HandshakeResponse {
        capabilities,
        packet_bytes_max: PACKET_BYTES_MAX,
        collation: COLLATION,
        user: target.user.as_bytes(),
        proof: &proof,
        database: None,
        plugin: plugin.name().as_bytes(),
        attributes: vec![
            (b"_client_name", b"tiffin"),
            (b"_client_version", env!("CARGO_PKG_VERSION").as_bytes()),
            (b"program_name", b"tiffin"),
        ],
        zstd_level: 0,
    };
    packets.send(|out, sequence| response.put(out, sequence)).await?;
    auth::authenticate(packets, plugin, scramble, prover).await
}
