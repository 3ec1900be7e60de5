//! A MySQL client's first words: from the accepted socket to an authenticated session.
//!
//! ```text
//! socket ─▶ greeting ─▶ (SSLRequest, TLS) ─▶ handshake response ─▶ authenticate ─▶ Session
//! ```
//!
//! Here: those stages in order, the policy on encryption, and everything a client is told when it
//! is not let in. Not here: the proofs ([`super::auth`]), and the OK that ends the start: whether
//! there is such a schema is the session's to say.

use super::auth::{self, Applicant, Said};
use super::auth_context::AuthContext;
use super::compress::Compression;
pub use super::startup_refusal::Refusal;
use crate::backend::mysql::auth::ServerSecret;
use crate::backend::mysql::wire::{Packets, WireError};
use crate::backend::stream::{Plain, Stream};
use crate::config::ClientTlsMode;
use crate::config::tls::{self, Accepting, AcceptingTls};
use crate::frontend::farewell;
use crate::frontend::postgres::startup::PeerAddress;
use crate::metrics::AuthFailure;
use crate::protocol::mysql::auth::Plugin;
use crate::protocol::mysql::capabilities::{Capabilities, Status};
use crate::protocol::mysql::handshake::{
    ChangeUser, FirstPacket, Greeting, HandshakeResponse, Scramble,
};
use crate::protocol::mysql::reply::ErrPacket;
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout_at};

/// The longest first packet of a client. Attributes are most of it; servers take 64 KiB of them.
const RESPONSE_BYTES_MAX: usize = 128 * 1024;

/// What libmariadb says when it cannot load the plugin of the greeting: caching_sha2_password is a
/// file of its own there, which may be missing, and is not found while another thread loads it.
/// mysql_native_password is built in.
const LIBMARIADB_WITHOUT: &[u8] = b"dummy_fallback_auth";

/// What the proxy is towards clients: what its greeting says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// As the server says it, without MariaDB's `5.5.5-`.
    pub version: String,
    pub mariadb: bool,
    pub collation: u8,
}

impl Face {
    /// MariaDB before 11 says `5.5.5-` first, for replicas of old, and its clients expect either.
    fn greeting_version(&self) -> String {
        match self.mariadb && self.version.starts_with("10.") {
            true => format!("5.5.5-{}", self.version),
            false => self.version.clone(),
        }
    }

    /// The plugin that the greeting names: what the engine's own accounts have.
    fn plugin(&self) -> Plugin {
        if self.mariadb { Plugin::Native } else { Plugin::CachingSha2 }
    }

    fn capabilities(&self) -> Capabilities {
        match self.mariadb {
            true => {
                Capabilities::OFFERED.without(Capabilities::LONG_PASSWORD)
                    | Capabilities::BULK
                    | Capabilities::EXTENDED_METADATA
            }
            false if self.has_query_attributes() => {
                Capabilities::OFFERED | Capabilities::ZSTD | Capabilities::QUERY_ATTRIBUTES
            }
            false => Capabilities::OFFERED | Capabilities::ZSTD,
        }
    }

    /// MySQL 8.0.22, the oldest that is supported, has none yet.
    fn has_query_attributes(&self) -> bool {
        !self.version.starts_with("8.0.22")
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Opening {
    Session(Box<Accepted>),
    /// The client left without asking for anything: a health check of the port, mostly.
    Closed,
}

/// A name and a value that a client tells of itself.
pub type Attribute = (Box<[u8]>, Box<[u8]>);

/// A client that has proved who it is, and waits for the OK.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    pub user: String,
    pub database: Option<String>,
    /// What the client negotiated, of what it was offered.
    pub capabilities: Capabilities,
    pub collation: u8,
    /// What it tells of itself, in its order.
    pub attributes: Vec<Attribute>,
    pub server_secret: ServerSecret,
    pub connection_id: u32,
    /// For everything behind the OK.
    pub compression: Option<Compression>,
    /// Of the OK or ERR that comes next.
    pub sequence: u8,
    /// What the client has sent beyond its last packet of authentication.
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
    /// As it is counted.
    pub fn failure(&self) -> AuthFailure {
        match self {
            StartupError::Refused(refusal) => refusal.failure,
            StartupError::Timeout(_) => AuthFailure::Timeout,
            _ => AuthFailure::Protocol,
        }
    }
}

impl From<Refusal> for StartupError {
    fn from(refusal: Refusal) -> StartupError {
        StartupError::Refused(refusal)
    }
}

impl From<WireError> for StartupError {
    fn from(error: WireError) -> StartupError {
        match error {
            WireError::Io(error) => StartupError::Connection(error),
            WireError::Closed | WireError::Truncated => StartupError::Left,
            WireError::Length { .. } => Refusal::too_long().into(),
            WireError::Order { .. } => Refusal::out_of_order().into(),
        }
    }
}

/// Brings a client from the accepted socket to the end of its proof, within
/// `limits.startup_timeout`, and tells it the reason when it is not let in. The future is large:
/// box it. Cancel safe: yes, the connection is closed.
pub async fn accept(
    plain: Plain,
    peer: PeerAddress,
    context: &AuthContext,
    face: &Face,
    connection_id: u32,
) -> Result<Opening, StartupError> {
    let settings = context.settings();
    let limit = settings.startup_timeout;
    let deadline = Instant::now() + limit;
    let accepting = context.tls();
    let door = Door { context, accepting, face, connection_id, peer, limit, deadline };
    let timed_out = || StartupError::Timeout(limit);
    let opened = timeout_at(deadline, door.open(plain)).await;
    let (mut packets, opened) = opened.map_err(|_| timed_out())??;
    let error = match opened {
        Ok(Hello { scramble, payload }) => {
            let admitted = timeout_at(deadline, door.admit(&mut packets, scramble, &payload)).await;
            match admitted.unwrap_or_else(|_| Err(timed_out())) {
                Ok(admitted) => {
                    return Ok(Opening::Session(Box::new(admitted.with(packets, connection_id))));
                }
                Err(error) => error,
            }
        }
        Err(StartupError::Left) if packets.wire.buffered().is_empty() => {
            return Ok(Opening::Closed);
        }
        Err(error) => error,
    };
    refuse(packets, &error, settings.auth_delay).await;
    Err(error)
}

/// What one client's start is measured by.
struct Door<'a> {
    context: &'a AuthContext,
    accepting: Arc<Accepting>,
    face: &'a Face,
    connection_id: u32,
    peer: PeerAddress,
    limit: Duration,
    deadline: Instant,
}

/// A client's handshake response, and the scramble that it answers.
struct Hello {
    scramble: Scramble,
    payload: BytesMut,
}

/// A stream, and what was read from it or why that was refused.
type Opened = (Packets<Stream>, Result<Hello, StartupError>);

/// A client that has been let in, before the stream is given back.
struct Admitted {
    user: String,
    database: Option<String>,
    capabilities: Capabilities,
    collation: u8,
    attributes: Vec<Attribute>,
    server_secret: ServerSecret,
    compression: Option<Compression>,
}

impl Admitted {
    fn with(self, packets: Packets<Stream>, connection_id: u32) -> Accepted {
        let sequence = packets.sequence;
        let (stream, leftover) = packets.wire.into_parts();
        let Admitted {
            user,
            database,
            capabilities,
            collation,
            attributes,
            server_secret,
            compression,
        } = self;
        Accepted {
            stream,
            user,
            database,
            capabilities,
            collation,
            attributes,
            server_secret,
            connection_id,
            compression,
            sequence,
            leftover,
        }
    }
}

impl Door<'_> {
    /// What the greeting offers.
    fn offered(&self) -> Capabilities {
        match &self.accepting.tls {
            Some(_) => self.face.capabilities() | Capabilities::SSL,
            None => self.face.capabilities(),
        }
    }

    /// Greets, settles encryption, and reads the packet that says who the client is. The outer
    /// error is that of a stream that is lost.
    async fn open(&self, plain: Plain) -> Result<Opened, StartupError> {
        let mut packets = Packets::new(plain);
        let scramble = auth::scramble()?;
        let version = self.face.greeting_version();
        let greeting = Greeting {
            version: version.as_bytes(),
            connection_id: self.connection_id,
            scramble,
            capabilities: self.offered(),
            collation: self.face.collation,
            status: Status::AUTOCOMMIT,
            plugin: self.face.plugin().name().as_bytes(),
        };
        packets.send(|out, sequence| greeting.put(out, sequence)).await?;
        let payload = match self.read(&mut packets).await {
            Ok(payload) => payload,
            Err(error) => return Ok((to_stream(packets), Err(error))),
        };
        let asks = matches!(FirstPacket::parse(&payload), Ok(FirstPacket::Ssl(_)));
        let tls = match &self.accepting.tls {
            Some(tls) if asks => tls,
            None if asks => {
                let refusal = Refusal::bad_handshake("the client asks for TLS unoffered");
                return Ok((to_stream(packets), Err(refusal.into())));
            }
            _ => return Ok((to_stream(packets), Ok(Hello { scramble, payload }))),
        };
        // Nothing answers the request: what follows it is TLS already, and has been left in the
        // stream.
        let sequence = packets.sequence;
        let (plain, _) = packets.wire.into_parts();
        let mut packets = Packets { sequence, ..Packets::new(encrypt(plain, tls).await?) };
        let payload = self.read(&mut packets).await;
        Ok((packets, payload.map(|payload| Hello { scramble, payload })))
    }

    /// Waits for a client's packet: one that is slow is told so.
    async fn read<S>(&self, packets: &mut Packets<S>) -> Result<BytesMut, StartupError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let read = timeout_at(self.deadline, packets.payload_exactly(RESPONSE_BYTES_MAX)).await;
        Ok(read.map_err(|_| StartupError::Timeout(self.limit))??)
    }

    /// Checks what the client asks for and makes it prove who it is.
    async fn admit(
        &self,
        packets: &mut Packets<Stream>,
        scramble: Scramble,
        payload: &[u8],
    ) -> Result<Admitted, StartupError> {
        let response = match FirstPacket::parse(payload) {
            Ok(FirstPacket::Response(response)) => response,
            Ok(FirstPacket::TooOld) => return Err(Refusal::too_old().into()),
            Ok(FirstPacket::Ssl(_)) => {
                return Err(Refusal::bad_handshake("TLS is asked for twice").into());
            }
            Err(error) => return Err(Refusal::bad_handshake(&error.to_string()).into()),
        };
        let capabilities = response.capabilities & self.offered();
        if !capabilities.has(Capabilities::SECURE_CONNECTION) {
            return Err(Refusal::too_old().into());
        }
        let certificate = self.check_encryption(packets.wire.stream())?;
        let user = String::from_utf8_lossy(response.user).into_owned();
        let database = response.database.map(|name| String::from_utf8_lossy(name).into_owned());
        let applicant = Applicant {
            user: &user,
            database: database.as_deref(),
            peer: self.peer,
            // Clients send the password itself over either.
            secure: packets.wire.stream().is_tls() || self.peer == PeerAddress::Unix,
            certificate: certificate.as_deref(),
        };
        if self.accepting.mode == ClientTlsMode::VerifyFull && applicant.certificate != Some(&user)
        {
            return Err(auth::other_certificate(applicant).into());
        }
        let default = self.face.plugin();
        let said = said(&response, capabilities, scramble, default);
        let server_secret =
            auth::authenticate(packets, self.context, applicant, said, default).await?;
        let attributes = response.attributes.iter();
        Ok(Admitted {
            capabilities,
            compression: Compression::agreed(capabilities, response.zstd_level),
            collation: response.collation,
            attributes: attributes.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            server_secret,
            user,
            database,
        })
    }

    /// Applies the TLS mode; gives the common name of a verified client certificate.
    fn check_encryption(&self, stream: &Stream) -> Result<Option<String>, Refusal> {
        let mode = self.accepting.mode;
        let Stream::TlsAccepted(tls) = stream else {
            return match mode {
                // What stays on the machine counts as encrypted, as with servers.
                _ if matches!(stream, Stream::Unix(_)) && mode != ClientTlsMode::VerifyFull => {
                    Ok(None)
                }
                ClientTlsMode::Disable | ClientTlsMode::Allow => Ok(None),
                _ => Err(Refusal::unencrypted()),
            };
        };
        let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let needed = matches!(mode, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull);
        match certificate {
            None if needed => Err(Refusal::bad_handshake("no certificate was shown")),
            certificate => Ok(certificate.and_then(|certificate| tls::common_name(certificate))),
        }
    }
}

/// What a handshake response says of the password. Its proof counts where it was made for the
/// plugin that the greeting named: with another one the client waits to be asked.
fn said<'a>(
    response: &HandshakeResponse<'a>,
    capabilities: Capabilities,
    scramble: Scramble,
    greeted: Plugin,
) -> Said<'a> {
    let named = capabilities.has(Capabilities::PLUGIN_AUTH);
    if !named || response.plugin == LIBMARIADB_WITHOUT {
        let proof = (!named).then_some((response.proof, scramble));
        return Said { plugin: Some(Plugin::Native), proof };
    }
    let plugin = Plugin::of(response.plugin);
    let counts = plugin == Some(greeted);
    Said { plugin, proof: counts.then_some((response.proof, scramble)) }
}

/// What COM_CHANGE_USER made of a session.
#[derive(Debug)]
pub struct Changed {
    pub user: String,
    pub database: Option<String>,
    /// 0: not said.
    pub collation: u16,
    pub server_secret: ServerSecret,
}

/// Makes a client prove that it is somebody else, as COM_CHANGE_USER asks; `payload` is what
/// follows the command's first byte. The OK or ERR is the caller's, with `packets.sequence`, an ERR
/// after `Refusal::delayed`. Cancel safe: no.
pub async fn change_user<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    context: &AuthContext,
    face: &Face,
    client: Client,
    payload: &[u8],
) -> Result<Changed, StartupError> {
    let change = ChangeUser::parse(payload, client.capabilities)
        .map_err(|error| Refusal::bad_handshake(&error.to_string()))?;
    let user = String::from_utf8_lossy(change.user).into_owned();
    let database = change.database.map(|name| String::from_utf8_lossy(name).into_owned());
    let applicant = Applicant {
        user: &user,
        database: database.as_deref(),
        peer: client.peer,
        secure: client.tls || client.peer == PeerAddress::Unix,
        certificate: None,
    };
    if !client.capabilities.has(Capabilities::PLUGIN_AUTH) {
        return Err(Refusal::too_old().into());
    }
    // The proof was made with the scramble of the connection's start; a fresh one is better.
    let said = Said { plugin: Plugin::of(change.plugin), proof: None };
    let limit = context.settings().startup_timeout;
    let proved = auth::authenticate(packets, context, applicant, said, face.plugin());
    let proved = timeout_at(Instant::now() + limit, proved).await;
    let server_secret = proved.map_err(|_| StartupError::Timeout(limit))??;
    Ok(Changed { user, database, collation: change.collation, server_secret })
}

/// A client that is already known.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub capabilities: Capabilities,
    pub peer: PeerAddress,
    pub tls: bool,
}

fn to_stream(packets: Packets<Plain>) -> Packets<Stream> {
    Packets { sequence: packets.sequence, wire: packets.wire.map(Stream::from) }
}

async fn encrypt(plain: Plain, tls: &AcceptingTls) -> Result<Stream, StartupError> {
    let stream = tls.acceptor.accept(plain).await.map_err(StartupError::Tls)?;
    Ok(Stream::TlsAccepted(Box::new(stream)))
}

/// Tells the client why, and closes so that it can read that.
async fn refuse(mut packets: Packets<Stream>, error: &StartupError, delay: Duration) {
    let timed_out;
    let refusal = match error {
        StartupError::Refused(refusal) => refusal,
        StartupError::Timeout(_) => {
            timed_out = Refusal::too_slow();
            &timed_out
        }
        _ => return,
    };
    if refusal.delayed {
        sleep(delay).await;
    }
    let Refusal { errno, sqlstate, message, .. } = refusal;
    let err = ErrPacket { errno: *errno, sqlstate: *sqlstate, message: message.as_bytes() };
    let mut out = Vec::new();
    err.put(&mut out, &mut packets.sequence);
    farewell::say(packets.wire, &out).await;
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
