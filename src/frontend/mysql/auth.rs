//! Making a MySQL client prove who it is.
//!
//! Here: the conversation from the client's first proof up to, not including, the OK. Not here:
//! the start before it ([`super::startup`]), what is known of users ([`super::auth_context`]).
//!
//! ```text
//! proof by another plugin, or none ─▶ AuthSwitchRequest ─▶ proof
//! without a password to check       ─▶ let in, whatever the proof says
//! mysql_native_password             ─▶ checked
//! caching_sha2_password             ─▶ checked by the digest ─▶ 0x03
//!                                   └▶ no digest yet: 0x04 ─▶ password (TLS), or key asked for,
//!                                      key, cipher (RSA) ─▶ checked by the stored hash
//! ```
//!
//! A user that does not exist is asked like one that does and fails at the end like one with a
//! wrong password, so that names cannot be tried out.

use super::auth_context::{
    AuthContext, AuthSettings, Credentials, Known, Sha2Account, Shown, is_password,
};
use super::startup::StartupError;
use super::startup_refusal::{Denied, Refusal};
use crate::backend::mysql::auth::ServerSecret;
use crate::backend::mysql::wire::Packets;
use crate::config::AuthMethod;
use crate::frontend::postgres::startup::PeerAddress;
use crate::protocol::mysql::auth::{
    FAST_OK, FULL_NEEDED, Plugin, REQUEST_PUBLIC_KEY, SHA256_BYTES, native_key, native_shown,
    native_stored, sha2_fits,
};
use crate::protocol::mysql::handshake::{SCRAMBLE_BYTES, Scramble, put_auth_more, put_auth_switch};
use aws_lc_rs::rand;
use bytes::BytesMut;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest answer within authentication: a password, or one under RSA.
const PROOF_BYTES_MAX: usize = 4 * 1024;

/// Who asks to be let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applicant<'a> {
    pub user: &'a str,
    pub database: Option<&'a str>,
    pub peer: PeerAddress,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// Common name of the verified client certificate.
    pub certificate: Option<&'a str>,
}

/// What a client has said of its password so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    /// The plugin that it would use; `None`: it named none, or one that is not known here.
    pub plugin: Option<Plugin>,
    /// Its proof by that plugin, and the scramble that it was made with.
    pub proof: Option<(&'a [u8], Scramble)>,
}

/// Letters, since clients of old read the scramble as text: no zero byte, and no dollar sign, which
/// ends a salt in stored hashes.
pub(super) fn scramble() -> Result<Scramble, Refusal> {
    let mut scramble = [0; SCRAMBLE_BYTES];
    rand::fill(&mut scramble).map_err(|_| Refusal::trouble("no random numbers"))?;
    for byte in &mut scramble {
        *byte &= 0x7F;
        if matches!(*byte, 0 | b'$') {
            *byte += 1;
        }
    }
    Ok(scramble)
}

/// What a client with somebody else's certificate is told.
pub(super) fn other_certificate(applicant: Applicant<'_>) -> Refusal {
    let Applicant { user, peer, .. } = applicant;
    Refusal::denied(user, peer, false, Denied::OtherCertificate)
}

/// Checks who asks; gives what servers can be logged in to with. Cancel safe: no.
pub(super) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    context: &AuthContext,
    applicant: Applicant<'_>,
    said: Said<'_>,
    default: Plugin,
) -> Result<ServerSecret, StartupError> {
    let settings: Arc<AuthSettings> = context.settings();
    let credentials = settings
        .find(applicant.user, applicant.database)
        .await
        .map_err(|error| Refusal::lookup_failed(&error.reason))?;
    let credentials = credentials.as_deref();
    let mut exchange = Exchange { packets, context, secure: applicant.secure, said, default };
    let checked = match settings.method_of(credentials) {
        AuthMethod::Trust => exchange.let_in(trusted(credentials)).await,
        AuthMethod::Cert => exchange.let_in(by_certificate(credentials, applicant)).await,
        AuthMethod::ScramSha256 | AuthMethod::Md5 | AuthMethod::Password => {
            exchange.check(credentials.map(|credentials| &credentials.known)).await
        }
    };
    match checked {
        Ok(shown) => {
            let secret = credentials.map(|credentials| credentials.server_secret(shown));
            Ok(secret.unwrap_or_default())
        }
        Err(Failure::Denied { why, password }) => {
            if matches!(why, Denied::WrongPassword | Denied::NoPassword) {
                settings.doubt(applicant.user, applicant.database);
            }
            Err(Refusal::denied(applicant.user, applicant.peer, password, why).into())
        }
        Err(Failure::Startup(error)) => Err(error),
    }
}

/// Why a check failed.
enum Failure {
    /// `password`: whether the client used one.
    Denied {
        why: Denied,
        password: bool,
    },
    Startup(StartupError),
}

impl From<(Denied, bool)> for Failure {
    fn from((why, password): (Denied, bool)) -> Failure {
        Failure::Denied { why, password }
    }
}

impl<E: Into<StartupError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Startup(error.into())
    }
}

fn trusted(credentials: Option<&Credentials>) -> Result<Shown, Denied> {
    credentials.map(|_| Shown::Nothing).ok_or(Denied::NoUser)
}

fn by_certificate(
    credentials: Option<&Credentials>,
    applicant: Applicant<'_>,
) -> Result<Shown, Denied> {
    match (applicant.certificate, credentials) {
        (None, _) => Err(Denied::NoCertificate),
        (Some(name), _) if name != applicant.user => Err(Denied::OtherCertificate),
        (Some(_), None) => Err(Denied::NoUser),
        (Some(_), Some(_)) => Ok(Shown::Nothing),
    }
}

/// A single zero byte is caching_sha2's way to say that there is no password.
fn is_password_used(proof: &[u8]) -> bool {
    !matches!(proof, b"" | b"\0")
}

/// One client's proof.
struct Exchange<'a, S> {
    packets: &'a mut Packets<S>,
    context: &'a AuthContext,
    secure: bool,
    said: Said<'a>,
    /// The plugin that the greeting named.
    default: Plugin,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<'_, S> {
    /// The plugin that the client would use, if it can be checked here.
    fn offered(&self) -> Plugin {
        match self.said.plugin {
            Some(plugin @ (Plugin::Native | Plugin::CachingSha2)) => plugin,
            _ => self.default,
        }
    }

    /// Without a look at the proof, which has to be asked for all the same: a client whose plugin
    /// has not been given its scramble takes an OK for that, and goes on proving.
    async fn let_in(&mut self, decided: Result<Shown, Denied>) -> Result<Shown, Failure> {
        let shown = decided.map_err(|why| Failure::from((why, false)))?;
        let plugin = self.offered();
        let (proof, _) = self.proof(plugin).await?;
        if plugin == Plugin::CachingSha2 && is_password_used(&proof) {
            self.packets.send(|out, sequence| put_auth_more(out, sequence, &[FAST_OK])).await?;
        }
        Ok(shown)
    }

    async fn check(&mut self, known: Option<&Known>) -> Result<Shown, Failure> {
        let offered = self.offered();
        let plugin = match known {
            Some(Known::Native(_)) => Plugin::Native,
            Some(Known::Sha2(_)) => Plugin::CachingSha2,
            Some(Known::Password { .. } | Known::Nothing) | None => offered,
        };
        let (proof, scramble) = self.proof(plugin).await?;
        let used = is_password_used(&proof);
        let denied = |why| Failure::from((why, used));
        let fits = match (known, plugin) {
            (Some(Known::Password { password, digest }), _) => {
                let fits = match plugin {
                    _ if password.expose_secret().is_empty() => !used,
                    Plugin::Native => {
                        let stored =
                            native_stored(&native_key(password.expose_secret().as_bytes()));
                        native_shown(&stored, &scramble, &proof).is_some()
                    }
                    _ => sha2_fits(digest, &scramble, &proof),
                };
                fits.then(|| Shown::Password(password.clone()))
            }
            (Some(Known::Native(stored)), _) => {
                native_shown(stored, &scramble, &proof).map(Shown::NativeKey)
            }
            (Some(Known::Sha2(account)), _) if used => {
                self.by_sha2(account, &proof, &scramble).await?.map(Shown::Password)
            }
            (Some(Known::Sha2(_)), _) => None,
            (Some(Known::Nothing) | None, _) => {
                // As long as it takes for a user that there is.
                sha2_fits(&[0; SHA256_BYTES], &scramble, &proof);
                let none = if known.is_some() { Denied::NoPassword } else { Denied::NoUser };
                return Err(denied(none));
            }
        };
        let shown = fits.ok_or_else(|| denied(Denied::WrongPassword))?;
        // A server's account has said so itself, or has had the password.
        if plugin == Plugin::CachingSha2 && used && !matches!(known, Some(Known::Sha2(_))) {
            self.packets.send(|out, sequence| put_auth_more(out, sequence, &[FAST_OK])).await?;
        }
        Ok(shown)
    }

    /// The proof by this plugin: what the client has sent already, or what it sends when it is
    /// asked for it.
    async fn proof(&mut self, plugin: Plugin) -> Result<(BytesMut, Scramble), Failure> {
        if let Some((proof, scramble)) = self.said.proof
            && self.said.plugin == Some(plugin)
        {
            return Ok((BytesMut::from(proof), scramble));
        }
        let scramble = scramble()?;
        let name = plugin.name().as_bytes();
        self.packets.send(|out, sequence| put_auth_switch(out, sequence, name, &scramble)).await?;
        let proof = self.packets.payload(PROOF_BYTES_MAX).await?;
        Ok((proof, scramble))
    }

    /// caching_sha2_password against the hash of a server's account; the password, if it fits.
    async fn by_sha2(
        &mut self,
        account: &Sha2Account,
        proof: &[u8],
        scramble: &Scramble,
    ) -> Result<Option<Arc<SecretString>>, Failure> {
        if let Some(learned) = account.learned()
            && sha2_fits(&learned.digest, scramble, proof)
        {
            self.packets.send(|out, sequence| put_auth_more(out, sequence, &[FAST_OK])).await?;
            return Ok(Some(learned.password.clone()));
        }
        self.packets.send(|out, sequence| put_auth_more(out, sequence, &[FULL_NEEDED])).await?;
        let Some(given) = self.clear_password(scramble).await? else { return Ok(None) };
        let password = Arc::new(SecretString::from(given));
        if let Some(learned) = account.learned()
            && is_password(&learned.password, password.expose_secret().as_bytes())
        {
            return Ok(Some(learned.password.clone()));
        }
        let (stored, candidate) = (account.stored.clone(), password.clone());
        // Thousands of rounds of SHA-256.
        let check = move || stored.fits(candidate.expose_secret().as_bytes());
        let fits = tokio::task::spawn_blocking(check)
            .await
            .map_err(|_| Refusal::trouble("the proxy is shutting down"))?;
        if fits {
            account.learn(password.clone());
        }
        Ok(fits.then_some(password))
    }

    /// The password itself, over TLS or under RSA. `None`: what came is none.
    async fn clear_password(&mut self, scramble: &Scramble) -> Result<Option<String>, Failure> {
        let mut answer = self.packets.payload(PROOF_BYTES_MAX).await?.to_vec();
        if !self.secure {
            let key = self.context.rsa().await.map_err(|why| Refusal::trouble(&why.to_string()))?;
            if answer == [REQUEST_PUBLIC_KEY] {
                let pem = key.pem.as_bytes();
                self.packets.send(|out, sequence| put_auth_more(out, sequence, pem)).await?;
                answer = self.packets.payload(PROOF_BYTES_MAX).await?.to_vec();
            }
            match key.decrypt(&answer, scramble) {
                Some(plain) => answer = plain,
                None => return Ok(None),
            }
        }
        let password = answer.strip_suffix(b"\0").unwrap_or(&answer);
        Ok(String::from_utf8(password.to_vec()).ok())
    }
}
