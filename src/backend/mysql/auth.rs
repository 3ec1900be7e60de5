//! Proving to a MySQL or MariaDB server who we are.
//!
//! Here: [`ServerSecret`], what the proxy can prove with, and the conversation from the handshake
//! response to the OK. Not here: opening the connection ([`super::connect`]), and the arithmetic
//! (`protocol::mysql::auth`).

use super::connect::ConnectError;
use super::rsa;
use super::wire::Packets;
use crate::protocol::mysql::auth::{
    self, CACHING_SHA2, CLEAR, FAST_OK, FULL_NEEDED, NATIVE, NONCE_BYTES, NativeKey, ParsecSalt,
    Plugin, REQUEST_PUBLIC_KEY, REQUEST_PUBLIC_KEY_SHA256, SHA256_PASSWORD,
};
use crate::protocol::mysql::capabilities::Status;
use crate::protocol::mysql::handshake::{AUTH_MORE, AuthMessage, Scramble, switched_scramble};
use crate::protocol::mysql::reply::{ERR, ErrPacket, OK, OkPacket};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest packet of a connection's start that is accepted from a server. The longest sane
/// ones are public keys and errors.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Packets until authentication is over: a switch, and the three of RSA, and some to spare.
const ROUNDS_MAX: usize = 8;

/// What the proxy can log in to a server with.
#[derive(Clone, Default)]
pub enum ServerSecret {
    Password(Arc<SecretString>),
    /// SHA1(password), learned from a client's login: good for servers that ask for
    /// mysql_native_password.
    NativeKey(Arc<NativeKey>),
    /// Only accounts without a password.
    #[default]
    None,
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

impl ServerSecret {
    pub fn password(password: SecretString) -> ServerSecret {
        ServerSecret::Password(Arc::new(password))
    }

    /// Whether both prove the same, in constant time.
    pub fn same_as(&self, other: &ServerSecret) -> bool {
        match (self, other) {
            (ServerSecret::Password(left), ServerSecret::Password(right)) => {
                Arc::ptr_eq(left, right) || {
                    let (left, right) = (left.expose_secret(), right.expose_secret());
                    auth::same_password(left.as_bytes(), right.as_bytes())
                }
            }
            (ServerSecret::NativeKey(left), ServerSecret::NativeKey(right)) => {
                auth::same_password(&left[..], &right[..])
            }
            (ServerSecret::None, ServerSecret::None) => true,
            _ => false,
        }
    }

    /// In words, for errors.
    fn what(&self) -> &'static str {
        match self {
            ServerSecret::Password(_) => "the password",
            ServerSecret::NativeKey(_) => "the password's SHA-1",
            ServerSecret::None => "nothing",
        }
    }

    /// The password's bytes; empty where there is none. `None`: not known.
    fn clear(&self) -> Option<&[u8]> {
        match self {
            ServerSecret::Password(password) => Some(password.expose_secret().as_bytes()),
            ServerSecret::NativeKey(_) => None,
            ServerSecret::None => Some(b""),
        }
    }
}

/// What a plugin is answered with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prover<'a> {
    pub secret: &'a ServerSecret,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Prover<'_> {
    fn password(&self, asked: &'static str) -> Result<&[u8], ConnectError> {
        self.secret.clear().ok_or(ConnectError::Secret { asked, known: self.secret.what() })
    }

    /// The first answer that the plugin wants. An empty password has an empty proof.
    pub(super) fn proof(
        &self,
        plugin: Plugin,
        scramble: &Scramble,
    ) -> Result<Vec<u8>, ConnectError> {
        Ok(match (plugin, self.secret) {
            (Plugin::Native, ServerSecret::NativeKey(key)) => {
                auth::native_proof(key, scramble).to_vec()
            }
            (Plugin::Native, _) => match self.password(NATIVE)? {
                b"" => Vec::new(),
                password => auth::native_proof(&auth::native_key(password), scramble).to_vec(),
            },
            (Plugin::CachingSha2, _) => match self.password(CACHING_SHA2)? {
                b"" => Vec::new(),
                password => auth::sha2_proof(password, scramble).to_vec(),
            },
            (Plugin::Sha256, _) => match self.password(SHA256_PASSWORD)? {
                password if self.tls || password.is_empty() => [password, b"\0"].concat(),
                _ => vec![REQUEST_PUBLIC_KEY_SHA256],
            },
            (Plugin::Clear, _) if !self.tls => return Err(ConnectError::ClearWithoutTls),
            (Plugin::Clear, _) => [self.password(CLEAR)?, b"\0"].concat(),
            // Their scramble is another one, and comes with a switch only.
            (Plugin::Ed25519 | Plugin::Parsec, _) => Vec::new(),
        })
    }
}

/// Goes on from the first proof, already sent, to the server's OK; gives its status flags. Cancel
/// safe: no.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    mut plugin: Plugin,
    mut scramble: Scramble,
    prover: Prover<'_>,
) -> Result<Status, ConnectError> {
    for _ in 0..ROUNDS_MAX {
        let payload = packets.payload(PAYLOAD_BYTES_MAX).await?;
        match payload.first() {
            Some(&OK) => {
                return OkPacket::parse(&payload).map(|ok| ok.status).map_err(|_| MALFORMED);
            }
            Some(&ERR) => return Err(refused(&payload)),
            _ => {}
        }
        match AuthMessage::parse(&payload).map_err(|_| MALFORMED)? {
            AuthMessage::Switch { plugin: name, data } => {
                plugin = Plugin::of(name).ok_or_else(|| ConnectError::Plugin {
                    name: String::from_utf8_lossy(name).into_owned(),
                })?;
                match plugin {
                    Plugin::Ed25519 | Plugin::Parsec => {
                        let data = data.to_vec();
                        by_signature(packets, plugin, &data, prover).await?;
                        continue;
                    }
                    Plugin::Clear => {}
                    _ => scramble = switched_scramble(data).ok_or(MALFORMED)?,
                }
                packets.send_payload(&prover.proof(plugin, &scramble)?).await?;
            }
            AuthMessage::More([FAST_OK]) if plugin == Plugin::CachingSha2 => {}
            AuthMessage::More([FULL_NEEDED]) if plugin == Plugin::CachingSha2 => {
                full(packets, &scramble, prover).await?;
            }
            AuthMessage::More(pem) if plugin == Plugin::Sha256 && !prover.tls => {
                encrypted(packets, &scramble, prover, pem).await?;
            }
            AuthMessage::More(_) | AuthMessage::Other => return Err(MALFORMED),
        }
    }
    Err(ConnectError::NotMysql("authentication without end".to_owned()))
}

/// MariaDB's ed25519 and parsec.
async fn by_signature<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    plugin: Plugin,
    scramble: &[u8],
    prover: Prover<'_>,
) -> Result<(), ConnectError> {
    let scramble = <[u8; NONCE_BYTES]>::try_from(scramble).map_err(|_| MALFORMED)?;
    let password = prover.password(plugin.name())?.to_vec();
    if plugin == Plugin::Ed25519 {
        let proof = auth::ed25519_proof(&password, &scramble);
        return Ok(packets.send_payload(&proof).await?);
    }
    // Nothing, so that the server says how the password is salted.
    packets.send_payload(b"").await?;
    let payload = packets.payload(PAYLOAD_BYTES_MAX).await?;
    if payload.first() == Some(&ERR) {
        return Err(refused(&payload));
    }
    let salt = payload.strip_prefix(&[AUTH_MORE]).unwrap_or(&payload);
    let salt = ParsecSalt::parse(salt).ok_or(MALFORMED)?;
    let proof = tokio::task::spawn_blocking(move || salt.proof(&password, &scramble)).await;
    let proof = proof.map_err(|_| ConnectError::Closed)?;
    Ok(packets.send_payload(&proof).await?)
}

/// caching_sha2_password where the server does not remember the password: it is sent itself.
async fn full<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    scramble: &Scramble,
    prover: Prover<'_>,
) -> Result<(), ConnectError> {
    if prover.tls {
        let password = prover.password(CACHING_SHA2)?;
        return Ok(packets.send_payload(&[password, b"\0"].concat()).await?);
    }
    packets.send_payload(&[REQUEST_PUBLIC_KEY]).await?;
    let payload = packets.payload(PAYLOAD_BYTES_MAX).await?;
    if payload.first() == Some(&ERR) {
        return Err(refused(&payload));
    }
    let AuthMessage::More(pem) = AuthMessage::parse(&payload).map_err(|_| MALFORMED)? else {
        return Err(MALFORMED);
    };
    encrypted(packets, scramble, prover, pem).await
}

/// Sends the password under the server's key.
async fn encrypted<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    scramble: &Scramble,
    prover: Prover<'_>,
    pem: &[u8],
) -> Result<(), ConnectError> {
    let cipher = rsa::encrypt(prover.password(CACHING_SHA2)?, scramble, pem)?;
    Ok(packets.send_payload(&cipher).await?)
}

pub(super) const MALFORMED: ConnectError = ConnectError::Malformed("an authentication packet");

/// What the server said in an ERR packet.
pub(super) fn refused(payload: &[u8]) -> ConnectError {
    match ErrPacket::parse(payload) {
        Ok(err) => ConnectError::Server {
            errno: err.errno,
            sqlstate: err.sqlstate,
            message: String::from_utf8_lossy(err.message).into(),
        },
        Err(_) => ConnectError::Malformed("an error"),
    }
}
