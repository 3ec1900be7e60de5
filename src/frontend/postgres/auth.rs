//! Making a client prove who it is.
//!
//! Here: the conversation from the first authentication request up to, not including,
//! AuthenticationOk, for each method. Not here: the start-up before it ([`super::startup`]), what
//! is known of users ([`super::auth_context`]).
//!
//! A user that does not exist is asked like one that does and fails at the end like one with a
//! wrong password, so that names cannot be tried out.

use super::auth_context::{AuthSettings, Credentials, Known};
use super::startup::{Refusal, StartupError};
use crate::backend::postgres::auth::{ScramKeys, ServerPassword, ServerSecret, derive_elsewhere};
use crate::backend::postgres::auth_wire::{Message, Wire};
use crate::config::AuthMethod;
use crate::protocol::postgres::auth::{self, AuthMessage, PASSWORD_BYTES_MAX, SASL_BYTES_MAX};
use crate::protocol::postgres::md5;
use crate::protocol::postgres::scram::{self, Key, Offer, ScramError, ServerExchange, Verifier};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, rand};
use bytes::BytesMut;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Who asks to be let in, and what TLS says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applicant<'a> {
    pub user: &'a str,
    pub database: &'a str,
    /// Common name of the verified client certificate.
    pub certificate: Option<&'a str>,
    /// Hash of our certificate; `None`: no TLS, so no channel binding.
    pub end_point: Option<&'a [u8]>,
}

/// Asks for a proof and checks it; gives what servers can be logged in to with. Cancel safe: no.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    settings: &AuthSettings,
    seed: &Key,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, StartupError> {
    let credentials = settings
        .find(applicant.user, applicant.database)
        .await
        .map_err(|error| Refusal::lookup_failed(&error.to_string()))?;
    let credentials = credentials.as_deref();
    let known = credentials.map_or(&Known::Nothing, |credentials| &credentials.known);
    let shown = match (settings.method_of(credentials), known) {
        (AuthMethod::Trust, _) => trust(credentials, applicant).map_err(StartupError::from),
        (AuthMethod::Cert, _) => by_certificate(credentials, applicant).map_err(StartupError::from),
        (AuthMethod::Password, known) => by_password(wire, known, applicant).await,
        // As in the server: a verifier is better than what md5 would need.
        (AuthMethod::Md5, Known::Verifier(_)) | (AuthMethod::ScramSha256, _) => {
            by_scram(wire, known, seed, applicant).await
        }
        (AuthMethod::Md5, known) => by_md5(wire, known, applicant).await,
    };
    let shown = shown.inspect_err(|error| {
        if error.is_wrong_password() {
            settings.doubt(applicant.user, applicant.database);
        }
    })?;
    Ok(credentials.map_or(ServerSecret::None, |credentials| credentials.server_secret(shown)))
}

fn trust(
    credentials: Option<&Credentials>,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, Refusal> {
    credentials.map(|_| ServerSecret::None).ok_or_else(|| Refusal::no_such_role(applicant.user))
}

fn by_certificate(
    credentials: Option<&Credentials>,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, Refusal> {
    let why = match (applicant.certificate, credentials) {
        (None, _) => "no certificate was shown",
        (Some(name), _) if name != applicant.user => "the certificate is for another name",
        (Some(_), None) => "there is no such user",
        (Some(_), Some(_)) => return Ok(ServerSecret::None),
    };
    Err(Refusal::certificate(applicant.user, why))
}

async fn by_password<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    known: &Known,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, StartupError> {
    ask(wire, AuthMessage::CleartextPassword).await?;
    let message = answer(wire, PASSWORD_BYTES_MAX).await?;
    let wrong = |why| Refusal::wrong_password(applicant.user, why);
    let given = auth::parse_password(&message.body).ok_or_else(invalid_password_packet)?;
    let Ok(given) = std::str::from_utf8(given) else {
        return Err(wrong("the password is not UTF-8").into());
    };
    if given.is_empty() {
        return Err(wrong("the password is empty").into());
    }
    let right = match known {
        Known::Nothing => return Err(wrong(NOTHING_KNOWN).into()),
        Known::Password { password, .. } => {
            let expected = password.expose().expose_secret();
            // Hashed, so that the time does not tell the length.
            let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
            let right =
                verify_slices_are_equal(hash(given).as_ref(), hash(expected).as_ref()).is_ok();
            if right {
                return Ok(ServerSecret::Password(password.clone()));
            }
            false
        }
        Known::Verifier(verifier) => {
            let given = SecretString::from(given);
            let keys = derive_elsewhere(given, verifier.salting.clone()).await;
            let keys = keys.ok_or_else(Refusal::shutting_down)?;
            verify_slices_are_equal(&keys.stored_key(), &verifier.stored_key).is_ok()
        }
        Known::Md5(stored) => {
            let given = md5::stored(applicant.user, given.as_bytes());
            verify_slices_are_equal(given.as_bytes(), stored.as_bytes()).is_ok()
        }
    };
    if !right {
        return Err(wrong("the password is another one").into());
    }
    Ok(ServerSecret::Password(Arc::new(ServerPassword::new(SecretString::from(given)))))
}

async fn by_md5<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    known: &Known,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, StartupError> {
    let mut salt = [0; 4];
    rand::fill(&mut salt).map_err(|_| Refusal::no_randomness())?;
    ask(wire, AuthMessage::Md5Password { salt }).await?;
    let message = answer(wire, PASSWORD_BYTES_MAX).await?;
    let given = auth::parse_password(&message.body).ok_or_else(invalid_password_packet)?;
    let wrong = |why| Refusal::wrong_password(applicant.user, why);
    let (stored, shown) = match known {
        Known::Password { password, .. } => {
            let stored = md5::stored(applicant.user, password.expose().expose_secret().as_bytes());
            (stored, ServerSecret::Password(password.clone()))
        }
        Known::Md5(stored) => (stored.to_string(), ServerSecret::Md5Hash(stored.clone())),
        Known::Nothing | Known::Verifier(_) => return Err(wrong(NOTHING_KNOWN).into()),
    };
    if !md5::verify(&stored, salt, given) {
        return Err(wrong("the password is another one").into());
    }
    Ok(shown)
}

async fn by_scram<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    known: &Known,
    seed: &Key,
    applicant: Applicant<'_>,
) -> Result<ServerSecret, StartupError> {
    let mock;
    let (verifier, doomed): (&Verifier, bool) = match known.verifier(seed, applicant.user).await {
        Some(verifier) => (verifier, false),
        None => {
            mock = Verifier::mock(seed, applicant.user.as_bytes());
            (&mock, true)
        }
    };
    // PLUS is only offered over TLS: libpq takes the offer on a plain connection for an attack.
    let mut mechanisms = vec![scram::MECHANISM.as_bytes()];
    if applicant.end_point.is_some() {
        mechanisms.insert(0, scram::MECHANISM_PLUS.as_bytes());
    }
    ask(wire, AuthMessage::Sasl(mechanisms)).await?;

    let message = answer(wire, SASL_BYTES_MAX).await?;
    let (mechanism, data) = auth::parse_sasl_initial(&message.body)
        .and_then(|(mechanism, data)| Some((mechanism, data?)))
        .ok_or_else(|| Refusal::violation("malformed SASLInitialResponse message"))?;
    let plus = mechanism == scram::MECHANISM_PLUS.as_bytes() && applicant.end_point.is_some();
    if !plus && mechanism != scram::MECHANISM.as_bytes() {
        return Err(
            Refusal::violation("client selected an invalid SASL authentication mechanism").into()
        );
    }
    let mut nonce = [0; scram::NONCE_BYTES];
    rand::fill(&mut nonce).map_err(|_| Refusal::no_randomness())?;
    let offer = Offer { end_point: applicant.end_point, plus };
    let refused = |error: ScramError| Refusal::scram(applicant.user, &error);
    let exchange = ServerExchange::begin(data, offer, verifier, &nonce).map_err(refused)?;
    ask(wire, AuthMessage::SaslContinue(exchange.server_first().as_bytes())).await?;

    let message = answer(wire, SASL_BYTES_MAX).await?;
    let proven = exchange.finish(&message.body).map_err(refused)?;
    if doomed {
        return Err(Refusal::wrong_password(applicant.user, NOTHING_KNOWN).into());
    }
    ask(wire, AuthMessage::SaslFinal(proven.server_final.as_bytes())).await?;
    Ok(match known {
        Known::Password { password, .. } => ServerSecret::Password(password.clone()),
        _ => ServerSecret::ScramKeys(Arc::new(ScramKeys {
            keys: proven.keys,
            salting: verifier.salting.clone(),
        })),
    })
}

const NOTHING_KNOWN: &str = "there is no such user, or it has no password for this method";

fn invalid_password_packet() -> Refusal {
    Refusal::violation("invalid password packet size")
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    message: AuthMessage<'_>,
) -> Result<(), StartupError> {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    Ok(wire.send(&out).await?)
}

/// Waits for the client's `p` message.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    limit: usize,
) -> Result<Message, StartupError> {
    let message = wire.message(limit).await?;
    match message.tag {
        b'p' => Ok(message),
        tag => {
            Err(Refusal::violation(&format!("expected password response, got message type {tag}"))
                .into())
        }
    }
}
