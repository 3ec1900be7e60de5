//! Opening a connection to a server: socket, TLS, start-up, authentication, up to the first
//! ReadyForQuery; and the connection that cancels a statement of another one.
//!
//! ```text
//! dial ─▶ secure ─▶ StartupMessage ─▶ authenticate ─▶ ParameterStatus…, BackendKeyData ─▶ Established
//! ```
//!
//! Not here: which node, how many connections, and what a session says on them.

use super::auth::{self, Identity, MESSAGE_BYTES_MAX, ServerSecret};
use super::auth_wire::{Wire, WireError};
pub use crate::backend::Fault;
use crate::backend::dial;
use crate::backend::stream::{Plain, Stream};
use crate::config::tls::{self, Connecting, ServerTlsConnector};
use crate::config::{Address, ServerTlsMode};
use crate::protocol::postgres::error::ServerError;
use crate::protocol::postgres::scram::ServerMessageError;
use crate::protocol::postgres::startup::{self, Parameter};
use bytes::BytesMut;
use rustls_pki_types::ServerName;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// ParameterStatus and notices between authentication and ReadyForQuery. A server has about
/// fifteen parameters to report; extensions add a few.
const OPENING_MESSAGES_MAX: usize = 512;

/// The longest cancel key is 256 bytes (protocol 3.2), after the process id.
const KEY_DATA_BYTES: std::ops::RangeInclusive<usize> = 4..=4 + startup::CANCEL_KEY_BYTES_MAX;

/// Where to connect, and as whom.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub address: &'a Address,
    pub tls: &'a ServerTlsConnector,
    pub user: &'a str,
    pub database: &'a str,
    pub secret: &'a ServerSecret,
    /// What else the StartupMessage says, in this order.
    pub parameters: &'a [Parameter],
    /// For everything together.
    pub timeout: Duration,
}

/// A connection at its first ReadyForQuery.
pub struct Established {
    pub stream: Stream,
    /// 0 with an empty key: the server named none, nothing can be cancelled.
    pub process_id: i32,
    pub secret_key: Box<[u8]>,
    /// As reported, in the server's order.
    pub parameters: Vec<Parameter>,
    /// Minor version of protocol 3: 0 or 2.
    pub minor: u16,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Established { process_id, minor, .. } = self;
        f.debug_struct("Established")
            .field("process_id", process_id)
            .field("minor", minor)
            .finish_non_exhaustive()
    }
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
    #[error("this is not a PostgreSQL server: {0}")]
    NotPostgres(String),
    #[error("the server sent {0} that is malformed")]
    Malformed(&'static str),
    #[error("the server asks for {asked}, but only {known} is known")]
    Secret { asked: &'static str, known: &'static str },
    #[error("the server's SCRAM verifier is another one than the client logged in with")]
    OtherVerifier,
    #[error("the server asks for authentication method {kind}, which is not supported")]
    Method { kind: u32 },
    #[error("the server offers no SCRAM mechanism that is supported")]
    Mechanism,
    #[error(transparent)]
    Scram(#[from] ServerMessageError),
    #[error("no random numbers")]
    NoRandomness,
    #[error("the proxy is shutting down")]
    ShuttingDown,
    /// What the server said, to be passed on where it is the client's business.
    #[error("the server refused: {} {}: {}", .0.severity, .0.sqlstate, .0.message)]
    Server(Box<ServerError>),
}

impl From<WireError> for ConnectError {
    fn from(error: WireError) -> ConnectError {
        match error {
            WireError::Io(error) => ConnectError::Broken(error),
            WireError::Closed | WireError::Truncated => ConnectError::Closed,
            error @ (WireError::Length { .. } | WireError::Order { .. }) => {
                ConnectError::NotPostgres(error.to_string())
            }
        }
    }
}

impl ConnectError {
    pub fn fault(&self) -> Fault {
        match self {
            ConnectError::Secret { .. }
            | ConnectError::OtherVerifier
            | ConnectError::Method { .. }
            | ConnectError::Mechanism
            | ConnectError::TlsRefused
            | ConnectError::TlsName(_)
            | ConnectError::Scram(ServerMessageError::Iterations(_)) => Fault::Config,
            ConnectError::Server(fields) => fault_of(&fields.sqlstate),
            _ => Fault::Node,
        }
    }

    /// What the client is told where no other node does.
    pub fn sqlstate(&self) -> &str {
        match self {
            ConnectError::Server(fields) => &fields.sqlstate,
            ConnectError::Timeout(_) | ConnectError::Unreachable(_) => "08001",
            ConnectError::ShuttingDown => "57P01",
            _ if self.fault() == Fault::Config => "28000",
            _ => "08006",
        }
    }
}

/// Whose fault an error is that a server sends during start-up.
fn fault_of(sqlstate: &str) -> Fault {
    match sqlstate {
        // The client has proved who it is before: the proxy's knowledge and the server's differ.
        "28000" | "28P01" => Fault::Config,
        // Resources, shutting down or starting, system errors, a broken catalog, the protocol.
        _ if ["53", "57", "58", "XX", "08"].iter().any(|class| sqlstate.starts_with(class)) => {
            Fault::Node
        }
        // No such database (3D000), not allowed (42501), a bad parameter (22023, 42704).
        _ => Fault::Client,
    }
}

/// Opens a connection and logs in. Cancel safe: yes, the connection is closed.
pub async fn connect(target: &Target<'_>) -> Result<Established, ConnectError> {
    let deadline = Instant::now() + target.timeout;
    match timeout_at(deadline, negotiate(target, deadline)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Timeout(target.timeout)),
    }
}

/// Tries with the most that is spoken here, and with less where the server balks.
async fn negotiate(target: &Target<'_>, deadline: Instant) -> Result<Established, ConnectError> {
    let tls = target.tls.load();
    let encrypt = tls.connector.is_some();
    let prefer = tls.mode == ServerTlsMode::Prefer;
    match attempt(target, &tls, encrypt, startup::MINOR_MAX, deadline).await {
        // As libpq does it: "prefer" takes a plain connection where TLS does not come about.
        Err(ConnectError::Tls(_)) if prefer => {
            attempt(target, &tls, false, startup::MINOR_MAX, deadline).await
        }
        // Servers and poolers that are too old to negotiate the version.
        Err(ConnectError::Server(fields)) if refuses_version(&fields) => {
            attempt(target, &tls, encrypt, 0, deadline).await
        }
        outcome => outcome,
    }
}

fn refuses_version(fields: &ServerError) -> bool {
    matches!(&*fields.sqlstate, "0A000" | "08P01") && fields.message.contains("protocol")
}

async fn attempt(
    target: &Target<'_>,
    tls: &Connecting,
    encrypt: bool,
    minor: u16,
    deadline: Instant,
) -> Result<Established, ConnectError> {
    let plain = dial(target.address, deadline).await?;
    let stream = if encrypt { secure(plain, target.address, tls).await? } else { plain.into() };
    let end_point = server_end_point(&stream);
    let mut wire = Wire::new(stream);
    let mut hello = BytesMut::new();
    let who: [(&[u8], &[u8]); 2] =
        [(b"user", target.user.as_bytes()), (b"database", target.database.as_bytes())];
    let rest = target.parameters.iter().map(|(name, value)| (&**name, &**value));
    startup::encode_startup(&mut hello, minor, who.into_iter().chain(rest));
    wire.send(&hello).await?;

    let (minor, first) = version(&mut wire, minor).await?;
    let identity =
        Identity { user: target.user, secret: target.secret, end_point: end_point.as_deref() };
    auth::authenticate(&mut wire, &first, identity).await?;
    let opening = opening(&mut wire).await?;
    let (stream, rest) = wire.into_parts();
    if !rest.is_empty() {
        return Err(ConnectError::NotPostgres("bytes after ReadyForQuery".to_owned()));
    }
    let Opening { process_id, secret_key, parameters } = opening;
    Ok(Established { stream, process_id, secret_key, parameters, minor })
}

/// The minor version that the server speaks, and its first authentication request.
async fn version<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    asked: u16,
) -> Result<(u16, BytesMut), ConnectError> {
    let message = wire.message(MESSAGE_BYTES_MAX).await?;
    match message.tag {
        b'v' => {
            let (minor, _options) = startup::parse_negotiation(&message.body)
                .filter(|(minor, _)| *minor <= asked)
                .ok_or(ConnectError::Malformed("a version"))?;
            // 3.1 does not exist; a server that says so means what came before.
            let minor = if minor >= startup::MINOR_MAX { minor } else { 0 };
            Ok((minor, auth::request(wire).await?))
        }
        b'R' => Ok((asked, message.body)),
        b'E' => Err(ConnectError::Server(Box::new(ServerError::parse(&message.body)))),
        b'N' => Ok((asked, auth::request(wire).await?)),
        tag => Err(ConnectError::NotPostgres(format!(
            "it answers with a message of type {:?}",
            char::from(tag)
        ))),
    }
}

/// What a server tells between authentication and ReadyForQuery.
#[derive(Debug, Default)]
struct Opening {
    process_id: i32,
    secret_key: Box<[u8]>,
    parameters: Vec<Parameter>,
}

async fn opening<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
) -> Result<Opening, ConnectError> {
    let mut opening = Opening::default();
    for _ in 0..OPENING_MESSAGES_MAX {
        let message = wire.message(MESSAGE_BYTES_MAX).await?;
        let mut body = &message.body[..];
        match message.tag {
            b'S' => {
                let pair = startup::take_cstr(&mut body).zip(startup::take_cstr(&mut body));
                let (name, value) = pair.ok_or(ConnectError::Malformed("a parameter"))?;
                opening.parameters.push((name.into(), value.into()));
            }
            b'K' => {
                let (id, key) = body
                    .split_first_chunk::<4>()
                    .filter(|_| KEY_DATA_BYTES.contains(&body.len()))
                    .ok_or(ConnectError::Malformed("a cancel key"))?;
                opening.process_id = i32::from_be_bytes(*id);
                opening.secret_key = key.into();
            }
            b'Z' if body == b"I" => return Ok(opening),
            b'E' => return Err(ConnectError::Server(Box::new(ServerError::parse(body)))),
            b'N' => {}
            tag => {
                return Err(ConnectError::NotPostgres(format!(
                    "a message of type {:?} before ReadyForQuery",
                    char::from(tag)
                )));
            }
        }
    }
    Err(ConnectError::NotPostgres("parameters without end".to_owned()))
}

/// Sends a CancelRequest and waits until the server has closed the connection: then the signal
/// has been sent, and a statement that starts later is not hit by it. `Ok` does not say that
/// there was something to cancel.
pub async fn cancel(
    address: &Address,
    tls: &ServerTlsConnector,
    process_id: i32,
    key: &[u8],
    timeout: Duration,
) -> Result<(), ConnectError> {
    let deadline = Instant::now() + timeout;
    let tls = tls.load();
    let attempt = |encrypt: bool| {
        let tls = &tls;
        async move {
            let plain = dial(address, deadline).await?;
            let stream = if encrypt { secure(plain, address, tls).await? } else { plain.into() };
            let mut wire = Wire::new(stream);
            let mut request = BytesMut::new();
            startup::encode_cancel_request(&mut request, process_id, key);
            wire.send(&request).await?;
            // A server that closes without TLS's good-bye has closed all the same.
            let _ = wire.stream_mut().read_u8().await;
            Ok(())
        }
    };
    let both = async {
        match attempt(tls.connector.is_some()).await {
            Err(ConnectError::Tls(_)) if tls.mode == ServerTlsMode::Prefer => attempt(false).await,
            outcome => outcome,
        }
    };
    timeout_at(deadline, both).await.unwrap_or(Err(ConnectError::Timeout(timeout)))
}

/// Opens the socket.
async fn dial(address: &Address, deadline: Instant) -> Result<Plain, ConnectError> {
    let (host, port) = match address {
        Address::Unix { folder, port } => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(ConnectError::Unreachable)?;
            return Ok(Plain::Unix(stream));
        }
        Address::Tcp { host, port } => (host, *port),
    };
    let stream = dial::tcp(host, port, deadline).await.map_err(ConnectError::Unreachable)?;
    Ok(Plain::Tcp(stream))
}

/// Puts TLS on the socket as the mode says. Unix sockets have none, as with libpq.
async fn secure(plain: Plain, address: &Address, tls: &Connecting) -> Result<Stream, ConnectError> {
    let (Some(connector), Address::Tcp { host, .. }) = (&tls.connector, address) else {
        return Ok(plain.into());
    };
    let answer = if tls.direct { Answer::Willing(plain) } else { ask_for_tls(plain).await? };
    let plain = match answer {
        Answer::Willing(plain) => plain,
        Answer::Unwilling(plain) if tls.mode == ServerTlsMode::Prefer => return Ok(plain.into()),
        Answer::Unwilling(_) => return Err(ConnectError::TlsRefused),
    };
    let name =
        ServerName::try_from(host.clone()).map_err(|_| ConnectError::TlsName(host.clone()))?;
    let stream = connector.connect(name, plain).await.map_err(ConnectError::Tls)?;
    if tls.direct && stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
        return Err(ConnectError::NotPostgres("it does not know ALPN postgresql".to_owned()));
    }
    Ok(Stream::TlsConnected(Box::new(stream)))
}

/// What a server says to an SSLRequest.
enum Answer {
    Willing(Plain),
    Unwilling(Plain),
}

async fn ask_for_tls(plain: Plain) -> Result<Answer, ConnectError> {
    let mut wire = Wire::new(plain);
    let mut request = BytesMut::new();
    startup::encode_ssl_request(&mut request);
    wire.send(&request).await?;
    let answer = wire.byte().await?;
    let (plain, rest) = wire.into_parts();
    // Whoever writes more in the clear wants it to be taken for the encrypted part
    // (CVE-2021-23222).
    match answer {
        b'S' | b'N' if !rest.is_empty() => Err(ConnectError::NotPostgres(
            "it sends more bytes than the answer to SSLRequest".to_owned(),
        )),
        b'S' => Ok(Answer::Willing(plain)),
        b'N' => Ok(Answer::Unwilling(plain)),
        other => Err(ConnectError::NotPostgres(format!("it answers SSLRequest with byte {other}"))),
    }
}

/// The hash of the server's certificate, for channel binding.
fn server_end_point(stream: &Stream) -> Option<Box<[u8]>> {
    let Stream::TlsConnected(tls) = stream else { return None };
    let certificate = tls.get_ref().1.peer_certificates()?.first()?;
    tls::end_point_hash(certificate)
}
