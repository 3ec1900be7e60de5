//! Proving to a server who we are.
//!
//! Here: [`ServerSecret`], what the proxy can prove with, and the conversation from the first
//! authentication request to AuthenticationOk. Not here: opening the connection
//! ([`super::connect`]), and the arithmetic (`protocol::postgres::{scram, md5}`).

use super::auth_wire::Wire;
use super::connect::ConnectError;
use crate::protocol::postgres::auth::{self, AuthMessage};
use crate::protocol::postgres::scram::{self, Binding, ClientExchange, ClientKeys, Salting};
use crate::protocol::postgres::{error::ServerError, md5};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::BytesMut;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

/// The longest message of a connection's start that is accepted from a server. The longest sane
/// ones are errors with a detail and a context.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Notices before authentication is over: real servers send none.
const NOTICES_MAX: usize = 16;

/// Salts remembered for one password. The nodes of a cluster share theirs; a few more for a
/// password that is being changed.
const SALTINGS_MAX: usize = 4;

/// What the proxy can log in to a server with.
#[derive(Debug, Clone, Default)]
pub enum ServerSecret {
    Password(Arc<ServerPassword>),
    /// Learned from a client's SCRAM login: good for servers that have the same verifier.
    ScramKeys(Arc<ScramKeys>),
    /// `md5` and 32 hex digits: good for servers that ask for md5.
    Md5Hash(Arc<str>),
    /// Only servers that trust us, or our certificate.
    #[default]
    None,
}

impl ServerSecret {
    pub fn password(password: SecretString) -> ServerSecret {
        ServerSecret::Password(Arc::new(ServerPassword::new(password)))
    }

    /// Whether both prove the same, in constant time for passwords of the same length.
    pub fn same_as(&self, other: &ServerSecret) -> bool {
        match (self, other) {
            (ServerSecret::Password(left), ServerSecret::Password(right)) => {
                Arc::ptr_eq(left, right) || equal(left.bytes(), right.bytes())
            }
            (ServerSecret::ScramKeys(left), ServerSecret::ScramKeys(right)) => {
                left.salting == right.salting
                    && equal(&left.keys.client_key, &right.keys.client_key)
            }
            (ServerSecret::Md5Hash(left), ServerSecret::Md5Hash(right)) => {
                equal(left.as_bytes(), right.as_bytes())
            }
            (ServerSecret::None, ServerSecret::None) => true,
            _ => false,
        }
    }

    /// In words, for errors.
    fn what(&self) -> &'static str {
        match self {
            ServerSecret::Password(_) => "the password",
            ServerSecret::ScramKeys(_) => "SCRAM keys",
            ServerSecret::Md5Hash(_) => "the md5 hash",
            ServerSecret::None => "nothing",
        }
    }
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    verify_slices_are_equal(left, right).is_ok()
}

/// A password, and the keys already derived from it: a hundred connections cost one derivation.
pub struct ServerPassword {
    password: SecretString,
    /// Held while deriving, so that those who come meanwhile wait instead of deriving too.
    derived: Mutex<Vec<(Salting, ClientKeys)>>,
    #[cfg(test)]
    derivations: std::sync::atomic::AtomicUsize,
}

impl fmt::Debug for ServerPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerPassword(secret)")
    }
}

impl ServerPassword {
    pub fn new(password: SecretString) -> ServerPassword {
        ServerPassword {
            password,
            derived: Mutex::default(),
            #[cfg(test)]
            derivations: Default::default(),
        }
    }

    pub fn expose(&self) -> &SecretString {
        &self.password
    }

    fn bytes(&self) -> &[u8] {
        self.password.expose_secret().as_bytes()
    }

    /// The keys for a salt, derived on another thread if they are not known. `None`: that thread
    /// is gone because the runtime ends.
    async fn keys(&self, salting: &Salting) -> Option<ClientKeys> {
        let mut derived = self.derived.lock().await;
        if let Some((_, keys)) = derived.iter().find(|(known, _)| known == salting) {
            return Some(keys.clone());
        }
        let keys = derive_elsewhere(self.password.clone(), salting.clone()).await?;
        #[cfg(test)]
        self.derivations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if derived.len() == SALTINGS_MAX {
            derived.remove(0);
        }
        derived.push((salting.clone(), keys.clone()));
        Some(keys)
    }
}

#[cfg(test)]
impl ServerPassword {
    /// How often keys have been derived, over the life of the value.
    pub(super) fn derivations(&self) -> usize {
        self.derivations.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Derives on a thread for blocking work. `None`: the runtime ends.
pub(crate) async fn derive_elsewhere(
    password: SecretString,
    salting: Salting,
) -> Option<ClientKeys> {
    let derive = move || scram::derive(password.expose_secret().as_bytes(), &salting);
    tokio::task::spawn_blocking(derive).await.ok()
}

/// Keys of one verifier.
#[derive(Debug, Clone)]
pub struct ScramKeys {
    pub keys: ClientKeys,
    pub salting: Salting,
}

/// Who logs in with what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub user: &'a str,
    pub secret: &'a ServerSecret,
    /// Hash of the server's certificate; `None`: no TLS, or no hash is defined for it.
    pub end_point: Option<&'a [u8]>,
}

/// Answers the server's authentication request, up to AuthenticationOk. `first` is the body of
/// the first `R` message. Cancel safe: no.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    first: &[u8],
    identity: Identity<'_>,
) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    match AuthMessage::parse(first).ok_or(MALFORMED)? {
        AuthMessage::Ok => return Ok(()),
        AuthMessage::CleartextPassword => match identity.secret {
            ServerSecret::Password(password) => auth::encode_password(&mut out, password.bytes()),
            other => return Err(unsuitable("a clear text password", other)),
        },
        AuthMessage::Md5Password { salt } => {
            let stored = match identity.secret {
                ServerSecret::Password(password) => md5::stored(identity.user, password.bytes()),
                ServerSecret::Md5Hash(stored) => stored.to_string(),
                other => return Err(unsuitable("an md5 password", other)),
            };
            auth::encode_password(&mut out, md5::response(&stored, salt).as_bytes());
        }
        AuthMessage::Sasl(mechanisms) => scram_login(wire, &mechanisms, identity).await?,
        AuthMessage::Unsupported(kind) => return Err(ConnectError::Method { kind }),
        AuthMessage::SaslContinue(_) | AuthMessage::SaslFinal(_) => return Err(MALFORMED),
    }
    if !out.is_empty() {
        wire.send(&out).await?;
    }
    match AuthMessage::parse(&request(wire).await?) {
        Some(AuthMessage::Ok) => Ok(()),
        _ => Err(MALFORMED),
    }
}

async fn scram_login<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    mechanisms: &[&[u8]],
    identity: Identity<'_>,
) -> Result<(), ConnectError> {
    if matches!(identity.secret, ServerSecret::Md5Hash(_) | ServerSecret::None) {
        return Err(unsuitable("SCRAM", identity.secret));
    }
    let offered = |name: &str| mechanisms.contains(&name.as_bytes());
    let (mechanism, binding) = match identity.end_point {
        Some(hash) if offered(scram::MECHANISM_PLUS) => {
            (scram::MECHANISM_PLUS, Binding::EndPoint(hash))
        }
        Some(_) if offered(scram::MECHANISM) => (scram::MECHANISM, Binding::NotOffered),
        None if offered(scram::MECHANISM) => (scram::MECHANISM, Binding::Unsupported),
        _ => return Err(ConnectError::Mechanism),
    };
    let mut nonce = [0; scram::NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| ConnectError::NoRandomness)?;
    let exchange = ClientExchange::begin(binding, &nonce);
    let mut out = BytesMut::new();
    auth::encode_sasl_initial(&mut out, mechanism, exchange.client_first().as_bytes());
    wire.send(&out).await?;

    let body = request(wire).await?;
    let Some(AuthMessage::SaslContinue(server_first)) = AuthMessage::parse(&body) else {
        return Err(MALFORMED);
    };
    let challenged = exchange.challenged(server_first)?;
    let keys = match identity.secret {
        ServerSecret::Password(password) => {
            password.keys(&challenged.salting).await.ok_or(ConnectError::ShuttingDown)?
        }
        ServerSecret::ScramKeys(known) if known.salting == challenged.salting => known.keys.clone(),
        _ => return Err(ConnectError::OtherVerifier),
    };
    let awaiting = challenged.prove(&keys);
    out.clear();
    auth::encode_sasl_response(&mut out, awaiting.client_final.as_bytes());
    wire.send(&out).await?;

    let body = request(wire).await?;
    let Some(AuthMessage::SaslFinal(server_final)) = AuthMessage::parse(&body) else {
        return Err(MALFORMED);
    };
    awaiting.finish(server_final).map_err(ConnectError::from)
}

/// The body of the next `R` message.
pub(super) async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
) -> Result<BytesMut, ConnectError> {
    for _ in 0..NOTICES_MAX {
        let message = wire.message(MESSAGE_BYTES_MAX).await?;
        match message.tag {
            b'R' => return Ok(message.body),
            b'E' => return Err(ConnectError::Server(Box::new(ServerError::parse(&message.body)))),
            b'N' => {}
            tag => {
                return Err(ConnectError::NotPostgres(format!(
                    "a message of type {:?} where authentication was expected",
                    char::from(tag)
                )));
            }
        }
    }
    Err(ConnectError::NotPostgres("notices without end".to_owned()))
}

const MALFORMED: ConnectError = ConnectError::Malformed("an authentication request");

fn unsuitable(asked: &'static str, known: &ServerSecret) -> ConnectError {
    ConnectError::Secret { asked, known: known.what() }
}
