//! A client's first words: from the accepted socket to an authenticated session.
//!
//! ```text
//!          ┌─ SSLRequest ─▶ 'S', TLS ─┐   ┌─ GSSENCRequest ─▶ 'N' ─┐
//! socket ──┴─ first byte 0x16: TLS ───┴─▶─┴────────────────────────┴─▶ CancelRequest ─▶ Cancel
//!                                                                  └─▶ StartupMessage ─▶ Session
//! ```
//!
//! Here: those stages in order, the policy on encryption, and everything a client is told when it
//! is not let in. Not here: the proofs ([`super::auth`]), and what follows AuthenticationOk:
//! ParameterStatus, BackendKeyData and ReadyForQuery are the session's.

use super::auth::{self, Applicant};
use super::auth_context::AuthContext;
pub use super::startup_refusal::Refusal;
use crate::backend::postgres::auth::ServerSecret;
use crate::backend::postgres::auth_wire::{Wire, WireError};
use crate::backend::stream::{Plain, Stream};
use crate::config::ClientTlsMode;
use crate::config::tls::{self, Accepting, AcceptingTls};
use crate::frontend::farewell;
use crate::protocol::postgres::auth::AuthMessage;
use crate::protocol::postgres::error::Report;
use crate::protocol::postgres::startup::{self, Packet, Parameter, Startup, StartupPacketError};
use bytes::BytesMut;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Tcp(address) => address.fmt(f),
            PeerAddress::Unix => f.write_str("[local]"),
        }
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Opening {
    Session(Box<Accepted>),
    /// What to cancel is the caller's to find. The client waits until the connection closes, and
    /// takes that for the sign that the signal has been sent: drop it then, not before.
    Cancel {
        process_id: i32,
        key: Box<[u8]>,
        connection: Stream,
    },
    /// The client left without asking for anything: a health check of the port, mostly.
    Closed,
}

/// A client that has been told AuthenticationOk.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    /// Minor version of protocol 3: 0 or 2.
    pub minor: u16,
    pub user: String,
    pub database: String,
    /// What else the StartupMessage said, in its order, with duplicates, as bytes.
    pub parameters: Vec<Parameter>,
    /// `true` or `database`; `None`: an ordinary session.
    pub replication: Option<String>,
    pub server_secret: ServerSecret,
    /// What the client has sent beyond its last authentication message.
    pub leftover: BytesMut,
}

/// Why there is no session. The client has been told already, if it could be.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    #[error("the client left during start-up")]
    Left,
    #[error("TLS with the client failed: {0}")]
    Tls(#[source] io::Error),
    #[error("start-up took longer than {0:?}")]
    Timeout(Duration),
    #[error("refused: {0}")]
    Refused(Refusal),
}

impl StartupError {
    pub(super) fn is_wrong_password(&self) -> bool {
        matches!(self, StartupError::Refused(refusal) if refusal.sqlstate == "28P01")
    }
}

impl From<Refusal> for StartupError {
    fn from(refusal: Refusal) -> StartupError {
        StartupError::Refused(refusal)
    }
}

impl From<StartupPacketError> for StartupError {
    fn from(error: StartupPacketError) -> StartupError {
        Refusal::new(error.sqlstate(), error.to_string()).into()
    }
}

impl From<WireError> for StartupError {
    fn from(error: WireError) -> StartupError {
        match error {
            WireError::Io(error) => StartupError::Connection(error),
            WireError::Closed | WireError::Truncated => StartupError::Left,
            WireError::Length { .. } | WireError::Order { .. } => {
                Refusal::violation("invalid message length").into()
            }
        }
    }
}

/// Brings a client from its first byte to AuthenticationOk, within `limits.startup_timeout`, and
/// tells it the reason when it is not let in. The future is large: box it. Cancel safe: yes, the
/// connection is closed.
pub async fn accept(
    plain: Plain,
    peer: PeerAddress,
    context: &AuthContext,
) -> Result<Opening, StartupError> {
    let limit = context.settings().startup_timeout;
    let deadline = Instant::now() + limit;
    let door = Door { context, accepting: context.tls(), peer };
    let opened = timeout_at(deadline, door.open(plain)).await;
    let (mut wire, opened) = opened.map_err(|_| StartupError::Timeout(limit))??;
    let error = match opened {
        Ok(Packet::Cancel { process_id, key }) => {
            let (connection, _) = wire.into_parts();
            return Ok(Opening::Cancel { process_id, key, connection });
        }
        Ok(Packet::Startup(startup)) => {
            let admitted = timeout_at(deadline, door.admit(&mut wire, startup)).await;
            match admitted.unwrap_or(Err(StartupError::Timeout(limit))) {
                Ok(admitted) => return Ok(Opening::Session(Box::new(admitted.with(wire)))),
                Err(error) => error,
            }
        }
        Ok(Packet::Ssl | Packet::GssEnc) => Refusal::violation("unexpected request").into(),
        Err(StartupError::Left) if wire.buffered().is_empty() => return Ok(Opening::Closed),
        Err(error) => error,
    };
    refuse(wire, &error, context.settings().auth_delay).await;
    Err(error)
}

/// What one client's start is measured by.
struct Door<'a> {
    context: &'a AuthContext,
    accepting: std::sync::Arc<Accepting>,
    peer: PeerAddress,
}

/// A client that has been let in, before the stream is given back.
struct Admitted {
    minor: u16,
    user: String,
    database: String,
    parameters: Vec<Parameter>,
    replication: Option<String>,
    server_secret: ServerSecret,
}

impl Admitted {
    fn with(self, wire: Wire<Stream>) -> Accepted {
        let (stream, leftover) = wire.into_parts();
        let Admitted { minor, user, database, parameters, replication, server_secret } = self;
        Accepted { stream, minor, user, database, parameters, replication, server_secret, leftover }
    }
}

/// A stream, and what was read from it or why that was refused.
type Opened = (Wire<Stream>, Result<Packet, StartupError>);

impl Door<'_> {
    /// Settles encryption, and reads the packet that says what the client wants. The outer error
    /// is that of a stream that is lost.
    async fn open(&self, plain: Plain) -> Result<Opened, StartupError> {
        // Unix sockets have no TLS, as in the server.
        let offered = self.accepting.tls.as_ref().filter(|_| matches!(plain, Plain::Tcp(_)));
        if let Some(tls) = offered
            && starts_with_tls(&plain).await?
        {
            let stream = encrypt(plain, tls).await?;
            return Ok(self.open_direct(stream).await);
        }
        let mut wire = Wire::new(plain);
        // Each may be asked once, as in the server: what comes twice is taken for a version.
        let (mut tls_asked, mut gss_asked) = (false, false);
        loop {
            match (read_packet(&mut wire).await, offered) {
                (Ok(Packet::Ssl), Some(tls)) if !tls_asked => {
                    // Bytes behind the request are in the clear, and would be taken for part of
                    // what TLS protects (CVE-2021-23214).
                    if !wire.buffered().is_empty() {
                        let error = Refusal::injected();
                        return Ok((to_stream(wire), Err(error.into())));
                    }
                    wire.send(b"S").await?;
                    let (plain, _) = wire.into_parts();
                    let mut wire = Wire::new(encrypt(plain, tls).await?);
                    let packet = read_packet(&mut wire).await.and_then(wanted);
                    return Ok((wire, packet));
                }
                (Ok(Packet::Ssl), None) if !tls_asked => {
                    tls_asked = true;
                    wire.send(b"N").await?;
                }
                (Ok(Packet::GssEnc), _) if !gss_asked => {
                    gss_asked = true;
                    wire.send(b"N").await?;
                }
                (packet, _) => return Ok((to_stream(wire), packet.and_then(wanted))),
            }
        }
    }

    async fn open_direct(&self, stream: Stream) -> Opened {
        let alpn = match &stream {
            Stream::TlsAccepted(tls) => tls.get_ref().1.alpn_protocol() == Some(tls::ALPN),
            _ => false,
        };
        let mut wire = Wire::new(stream);
        if !alpn {
            // Without it, a browser could be made to talk to us (ALPACA).
            let error = Refusal::violation(
                "received direct SSL connection request without ALPN protocol negotiation extension",
            );
            return (wire, Err(error.into()));
        }
        let packet = read_packet(&mut wire).await.and_then(wanted);
        (wire, packet)
    }

    /// Checks what the client asks for, makes it prove who it is, and tells it AuthenticationOk.
    async fn admit(
        &self,
        wire: &mut Wire<Stream>,
        startup: Startup,
    ) -> Result<Admitted, StartupError> {
        let mut out = BytesMut::new();
        if startup.needs_negotiation() {
            startup::encode_negotiation(&mut out, startup.minor, &startup.unknown_options);
            wire.send(&out).await?;
            out.clear();
        }
        if startup.user.is_empty() {
            return Err(Refusal::no_user().into());
        }
        let user = text(startup.user, "user name")?;
        let database = text(startup.database, "database name")?;
        let replication = replication(startup.replication.as_deref())?;
        let certificate = self.check_encryption(wire.stream(), &user)?;
        let end_point = match wire.stream() {
            Stream::TlsAccepted(_) => self.accepting.tls.as_ref().and_then(|t| t.end_point.clone()),
            _ => None,
        };
        let applicant = Applicant {
            user: &user,
            database: &database,
            certificate: certificate.as_deref(),
            end_point: end_point.as_deref(),
        };
        let settings = self.context.settings();
        let server_secret =
            auth::authenticate(wire, &settings, self.context.seed(), applicant).await?;
        AuthMessage::Ok.encode(&mut out);
        wire.send(&out).await?;
        let (minor, parameters) = (startup.minor, startup.parameters);
        Ok(Admitted { minor, user, database, parameters, replication, server_secret })
    }

    /// Applies the TLS mode; gives the common name of a verified client certificate.
    fn check_encryption(&self, stream: &Stream, user: &str) -> Result<Option<String>, Refusal> {
        let mode = self.accepting.mode;
        let tls = match stream {
            Stream::TlsAccepted(tls) => tls,
            Stream::Tcp(_) if !matches!(mode, ClientTlsMode::Disable | ClientTlsMode::Allow) => {
                return Err(Refusal::unencrypted(self.peer, user));
            }
            _ => return Ok(None),
        };
        let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let name = certificate.and_then(|certificate| tls::common_name(certificate));
        match mode {
            ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull if certificate.is_none() => {
                Err(Refusal::certificate_required())
            }
            ClientTlsMode::VerifyFull if name.as_deref() != Some(user) => {
                Err(Refusal::certificate(user, "the certificate is for another name"))
            }
            _ => Ok(name),
        }
    }
}

fn to_stream(wire: Wire<Plain>) -> Wire<Stream> {
    wire.map(Stream::from)
}

/// Whether the client begins with a TLS handshake. Looks without taking the byte.
async fn starts_with_tls(plain: &Plain) -> Result<bool, StartupError> {
    let Plain::Tcp(tcp) = plain else { return Ok(false) };
    let mut first = [0];
    let seen = tcp.peek(&mut first).await.map_err(StartupError::Connection)?;
    Ok(seen == 1 && first[0] == TLS_HANDSHAKE)
}

async fn encrypt(plain: Plain, tls: &AcceptingTls) -> Result<Stream, StartupError> {
    let stream = tls.acceptor.accept(plain).await.map_err(StartupError::Tls)?;
    Ok(Stream::TlsAccepted(Box::new(stream)))
}

async fn read_packet<S>(wire: &mut Wire<S>) -> Result<Packet, StartupError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let body = startup::body_length(wire.peek_length().await?)?;
    Ok(startup::parse(&wire.packet(body).await?)?)
}

/// A request for encryption where none is due any more is refused like a strange version, as the
/// server does.
fn wanted(packet: Packet) -> Result<Packet, StartupError> {
    let minor = match packet {
        Packet::Ssl => 5679,
        Packet::GssEnc => 5680,
        packet => return Ok(packet),
    };
    Err(StartupPacketError::Version { major: 1234, minor }.into())
}

fn text(bytes: Box<[u8]>, what: &str) -> Result<String, Refusal> {
    String::from_utf8(bytes.into()).map_err(|_| {
        Refusal::new("22021", format!("invalid byte sequence for encoding \"UTF8\" in the {what}"))
    })
}

/// What `replication` asks for, read as the server reads it (`ProcessStartupPacket`, `parse_bool`).
fn replication(value: Option<&[u8]>) -> Result<Option<String>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let lower = value.to_ascii_lowercase();
    let prefix_of = |word: &[u8], least: usize| lower.len() >= least && word.starts_with(&lower);
    if lower == b"database" {
        Ok(Some("database".to_owned()))
    } else if prefix_of(b"true", 1) || prefix_of(b"yes", 1) || lower == b"on" || lower == b"1" {
        Ok(Some("true".to_owned()))
    } else if prefix_of(b"false", 1) || prefix_of(b"no", 1) || prefix_of(b"off", 2) || lower == b"0"
    {
        Ok(None)
    } else {
        let value = String::from_utf8_lossy(value);
        let mut refusal = Refusal::new(
            "22023",
            format!("invalid value for parameter \"replication\": \"{value}\""),
        );
        refusal.hint =
            Some("Valid values are: \"false\", 0, \"true\", 1, \"database\".".to_owned());
        Err(refusal)
    }
}

/// Tells the client why, and closes so that it can read that.
async fn refuse(wire: Wire<Stream>, error: &StartupError, delay: Duration) {
    let timed_out;
    let refusal = match error {
        StartupError::Refused(refusal) => refusal,
        StartupError::Timeout(_) => {
            timed_out = Refusal::new("57014", "canceling authentication due to timeout".to_owned());
            &timed_out
        }
        _ => return,
    };
    if refusal.delayed {
        sleep(delay).await;
    }
    let mut out = Vec::new();
    let (detail, hint) = (refusal.detail.as_deref(), refusal.hint.as_deref());
    Report { detail, hint, ..Report::fatal(refusal.sqlstate, &refusal.message) }.put(&mut out);
    farewell::say(wire, &out).await;
}
