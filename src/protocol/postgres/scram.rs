//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both ends.
//!
//! Here: messages as bytes, keys as values; nonces and salts come in as arguments. Not here: who
//! may use which mechanism, and when the slow key derivation ([`derive`], about half a
//! millisecond at 4096 iterations) is run; it must not run on a thread that relays queries.
//!
//! postgres-protocol has the client's end too, but it derives the key anew for each connection,
//! and cannot log in with keys learned from a client.
//!
//! Source: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point); the server's choices and words are
//! those of `src/backend/libpq/auth-scram.c`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

pub const MECHANISM: &str = "SCRAM-SHA-256";
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Iterations of the verifiers that are made here (`SCRAM_SHA_256_DEFAULT_ITERATIONS`).
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// A server that asks for more wants to burn our time: this is a tenth of a second, and what
/// OWASP recommends for PBKDF2-SHA256 at most.
pub const ITERATIONS_MAX: u32 = 600_000;

/// Bytes of a salt that is made here (`SCRAM_DEFAULT_SALT_LEN`).
pub const SALT_BYTES: usize = 16;

/// Random bytes of a nonce, before base64 (`SCRAM_RAW_NONCE_LEN`).
pub const NONCE_BYTES: usize = 18;

/// SHA-256.
pub type Key = [u8; 32];

/// Random bytes of a nonce; the caller has the randomness.
pub type Nonce = [u8; NONCE_BYTES];

/// Salt and iterations: what decides, with the password, which keys result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Salting {
    pub salt: Box<[u8]>,
    pub iterations: NonZeroU32,
}

/// What proves and checks a password, without being it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKeys {
    pub client_key: Key,
    pub server_key: Key,
}

/// What a server stores of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub salting: Salting,
    pub stored_key: Key,
    pub server_key: Key,
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(secret)")
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(secret)")
    }
}

/// Derives the keys of a password. Slow on purpose: never on a thread that relays queries.
pub fn derive(password: &[u8], salting: &Salting) -> ClientKeys {
    let mut salted = [0; 32];
    let password = prepare(password);
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, salting.iterations, &salting.salt, &password, &mut salted);
    ClientKeys {
        client_key: hmac_sha256(&salted, &[b"Client Key"]),
        server_key: hmac_sha256(&salted, &[b"Server Key"]),
    }
}

/// SASLprep where it is possible, else the bytes as they are: as libpq and the server do it.
fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(password) else { return Cow::Borrowed(password) };
    match stringprep::saslprep(text) {
        Ok(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        Ok(Cow::Borrowed(_)) | Err(_) => Cow::Borrowed(password),
    }
}

/// What both sides sign: the messages of the exchange so far, in the parts that `hmac_sha256`
/// takes (RFC 5802, AuthMessage).
fn auth_message<'a>(
    client_first_bare: &'a str,
    server_first: &'a str,
    without_proof: &'a str,
) -> [&'a [u8]; 5] {
    let comma: &[u8] = b",";
    [client_first_bare.as_bytes(), comma, server_first.as_bytes(), comma, without_proof.as_bytes()]
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    into_key(context.sign().as_ref())
}

fn sha256(bytes: &[u8]) -> Key {
    into_key(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn into_key(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(bytes);
    key
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

impl ClientKeys {
    pub fn stored_key(&self) -> Key {
        sha256(&self.client_key)
    }

    pub fn verifier(&self, salting: Salting) -> Verifier {
        Verifier { salting, stored_key: self.stored_key(), server_key: self.server_key }
    }
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` as in `pg_authid`.
    pub fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (salting, keys) = rest.split_once('$')?;
        let (iterations, salt) = salting.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Some(Verifier {
            salting: Salting {
                salt: BASE64.decode(salt).ok()?.into(),
                iterations: iterations.parse().ok()?,
            },
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A verifier that no password fits, for users that do not exist: the exchange looks the same
    /// and fails at its end. `seed` is a secret, so that the salt cannot be computed by others and
    /// is the same each time.
    pub fn mock(seed: &Key, user: &[u8]) -> Verifier {
        Verifier {
            salting: Salting { salt: salt_for(seed, user), iterations: ITERATIONS },
            stored_key: hmac_sha256(seed, &[b"stored", user]),
            server_key: hmac_sha256(seed, &[b"server", user]),
        }
    }
}

/// The salt of a user whose verifier is made here. One rule for users that exist and for those
/// that do not, so that it tells nothing.
pub fn salt_for(seed: &Key, user: &[u8]) -> Box<[u8]> {
    hmac_sha256(seed, &[b"salt", user])[..SALT_BYTES].into()
}

/// Why a client's message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("malformed SCRAM message")]
    Malformed(&'static str),
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
    #[error("SCRAM channel binding check failed")]
    Binding,
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    #[error("invalid SCRAM response")]
    Nonce,
    /// The exchange is in order, the password is not.
    #[error("the password is wrong")]
    WrongPassword,
}

impl ScramError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ScramError::Downgrade | ScramError::Binding => "28000",
            ScramError::AuthorizationIdentity | ScramError::Extension => "0A000",
            ScramError::WrongPassword => "28P01",
            _ => "08P01",
        }
    }

    pub fn detail(&self) -> Option<&'static str> {
        match self {
            ScramError::Malformed(detail) => Some(detail),
            ScramError::Downgrade => Some(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ),
            ScramError::Nonce => Some("Nonce does not match."),
            _ => None,
        }
    }
}

/// What the client chose, seen from the server's end.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The hash of our certificate (tls-server-end-point); `None`: PLUS was not offered.
    pub end_point: Option<&'a [u8]>,
    /// The client chose PLUS.
    pub plus: bool,
}

/// The server's end, after the client's first message.
#[derive(Debug)]
pub struct ServerExchange<'a> {
    verifier: &'a Verifier,
    /// What the client must repeat, base64 of it.
    binding: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

/// A client that knows the password.
#[derive(Debug)]
pub struct Proven {
    /// `v=…`, for AuthenticationSASLFinal.
    pub server_final: String,
    /// With the verifier's server key, what logs in to servers that have the same verifier.
    pub keys: ClientKeys,
}

impl<'a> ServerExchange<'a> {
    /// Reads the client's first message. The answer is [`ServerExchange::server_first`].
    pub fn begin(
        client_first: &[u8],
        offer: Offer<'_>,
        verifier: &'a Verifier,
        nonce: &Nonce,
    ) -> Result<ServerExchange<'a>, ScramError> {
        let text = printable(client_first)?;
        let (flag, rest) = text.split_once(',').ok_or(MALFORMED)?;
        let bound = match flag {
            "n" | "y" if offer.plus => {
                return Err(ScramError::Malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not \
                     include channel binding data.",
                ));
            }
            "n" => None,
            "y" if offer.end_point.is_some() => return Err(ScramError::Downgrade),
            "y" => None,
            "p=tls-server-end-point" if offer.plus => offer.end_point,
            flag if flag.starts_with("p=") && offer.plus => return Err(ScramError::BindingType),
            flag if flag.starts_with("p=") => {
                return Err(ScramError::Malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM \
                     message includes channel binding data.",
                ));
            }
            _ => return Err(MALFORMED),
        };
        let (authorization, bare) = rest.split_once(',').ok_or(MALFORMED)?;
        match authorization {
            "" => {}
            identity if identity.starts_with("a=") => {
                return Err(ScramError::AuthorizationIdentity);
            }
            _ => return Err(MALFORMED),
        }
        let client_nonce = client_nonce(bare)?;
        let nonce = format!("{client_nonce}{}", BASE64.encode(nonce));
        let Salting { salt, iterations } = &verifier.salting;
        let server_first = format!("r={nonce},s={},i={iterations}", BASE64.encode(salt));
        let mut binding = format!("{flag},,").into_bytes();
        binding.extend_from_slice(bound.unwrap_or_default());
        Ok(ServerExchange {
            verifier,
            binding: BASE64.encode(&binding),
            client_first_bare: bare.to_owned(),
            server_first,
            nonce,
        })
    }

    /// For AuthenticationSASLContinue.
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Reads the client's final message and checks the proof, in constant time.
    pub fn finish(self, client_final: &[u8]) -> Result<Proven, ScramError> {
        let text = printable(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(MALFORMED)?;
        let proof: Key =
            BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or(MALFORMED)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or(MALFORMED)?;
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(MALFORMED)?;
        if binding != self.binding {
            return Err(ScramError::Binding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let message = auth_message(&self.client_first_bare, &self.server_first, without_proof);
        let signature = hmac_sha256(&self.verifier.stored_key, &message);
        let client_key = xor(&proof, &signature);
        verify_slices_are_equal(&sha256(&client_key), &self.verifier.stored_key)
            .map_err(|_| ScramError::WrongPassword)?;
        let server_key = self.verifier.server_key;
        let server_final = format!("v={}", BASE64.encode(hmac_sha256(&server_key, &message)));
        Ok(Proven { server_final, keys: ClientKeys { client_key, server_key } })
    }
}

const MALFORMED: ScramError = ScramError::Malformed("The message does not follow RFC 5802.");

/// SCRAM messages are UTF-8 without zero bytes.
fn printable(message: &[u8]) -> Result<&str, ScramError> {
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(MALFORMED),
    }
}

/// The nonce of `n=<user>,r=<nonce>[,extensions]`. The user is that of the start-up message;
/// what is said here is ignored, as the server does.
fn client_nonce(bare: &str) -> Result<&str, ScramError> {
    if bare.starts_with("m=") {
        return Err(ScramError::Extension);
    }
    let mut attributes = bare.split(',');
    attributes.next().filter(|a| a.starts_with("n=")).ok_or(MALFORMED)?;
    let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(MALFORMED)?;
    let visible = !nonce.is_empty() && nonce.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
    if visible { Ok(nonce) } else { Err(MALFORMED) }
}

/// How the client's end ties its proof to the TLS connection.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// No TLS, or a certificate without a defined hash.
    Unsupported,
    /// It could be done, but the server did not offer PLUS; the server notices if that is a lie.
    NotOffered,
    /// The hash of the server's certificate; the mechanism is PLUS.
    EndPoint(&'a [u8]),
}

/// Why a server's message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerMessageError {
    #[error("the server's SCRAM message is malformed")]
    Malformed,
    #[error("the server's SCRAM nonce does not continue ours")]
    Nonce,
    #[error("the server asks for {0} SCRAM iterations, more than {ITERATIONS_MAX}")]
    Iterations(u32),
    #[error("the server says: {0}")]
    Said(String),
    #[error("the server does not know the password: its SCRAM signature is wrong")]
    Signature,
}

/// The client's end, before the server's first message.
#[derive(Debug)]
pub struct ClientExchange {
    gs2: &'static str,
    binding: Vec<u8>,
    nonce: String,
}

/// The client's end, after the server's first message: the keys can be fetched.
#[derive(Debug)]
pub struct ClientChallenged {
    pub salting: Salting,
    binding: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// The client's end, after the proof.
#[derive(Debug)]
pub struct ClientAwaiting {
    /// `c=…,r=…,p=…`, for SASLResponse.
    pub client_final: String,
    signature: Key,
}

impl ClientExchange {
    pub fn begin(binding: Binding<'_>, nonce: &Nonce) -> ClientExchange {
        let (gs2, data) = match binding {
            Binding::Unsupported => ("n,,", &[][..]),
            Binding::NotOffered => ("y,,", &[][..]),
            Binding::EndPoint(hash) => ("p=tls-server-end-point,,", hash),
        };
        let binding = [gs2.as_bytes(), data].concat();
        ClientExchange { gs2, binding, nonce: BASE64.encode(nonce) }
    }

    /// For SASLInitialResponse. The user is left empty: the server takes that of the start-up.
    pub fn client_first(&self) -> String {
        format!("{}{}", self.gs2, self.client_first_bare())
    }

    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server's first message.
    pub fn challenged(self, server_first: &[u8]) -> Result<ClientChallenged, ServerMessageError> {
        use ServerMessageError::*;
        let text = std::str::from_utf8(server_first).map_err(|_| Malformed)?;
        let mut attributes = text.split(',');
        let mut next = |name: &str| attributes.next().and_then(|a| a.strip_prefix(name));
        let nonce = next("r=").ok_or(Malformed)?;
        let salt = next("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or(Malformed)?;
        let iterations: NonZeroU32 = next("i=").and_then(|i| i.parse().ok()).ok_or(Malformed)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(Nonce);
        }
        if iterations.get() > ITERATIONS_MAX {
            return Err(Iterations(iterations.get()));
        }
        Ok(ClientChallenged {
            salting: Salting { salt: salt.into(), iterations },
            binding: BASE64.encode(&self.binding),
            nonce: nonce.to_owned(),
            client_first_bare: self.client_first_bare(),
            server_first: text.to_owned(),
        })
    }
}

impl ClientChallenged {
    /// Proves the password with keys made by [`derive`] for this [`Salting`].
    pub fn prove(self, keys: &ClientKeys) -> ClientAwaiting {
        let without_proof = format!("c={},r={}", self.binding, self.nonce);
        let message = auth_message(&self.client_first_bare, &self.server_first, &without_proof);
        let proof = xor(&keys.client_key, &hmac_sha256(&keys.stored_key(), &message));
        ClientAwaiting {
            client_final: format!("{without_proof},p={}", BASE64.encode(proof)),
            signature: hmac_sha256(&keys.server_key, &message),
        }
    }
}

impl ClientAwaiting {
    /// Checks that the server knows the password's verifier too, in constant time.
    pub fn finish(self, server_final: &[u8]) -> Result<(), ServerMessageError> {
        use ServerMessageError::*;
        let text = std::str::from_utf8(server_final).map_err(|_| Malformed)?;
        if let Some(error) = text.strip_prefix("e=") {
            return Err(Said(error.to_owned()));
        }
        // Extensions may follow, and mean nothing here.
        let signature = text.strip_prefix("v=").and_then(|rest| rest.split(',').next());
        let signature = signature.and_then(|s| BASE64.decode(s).ok()).ok_or(Malformed)?;
        verify_slices_are_equal(&signature, &self.signature).map_err(|_| Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = [7; NONCE_BYTES];

    fn salting() -> Salting {
        Salting {
            salt: BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().into(),
            iterations: ITERATIONS,
        }
    }

    const CLIENT_FIRST_BARE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    const BOTH_NONCES: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn server_first() -> String {
        format!("r={BOTH_NONCES},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    }

    /// The exchange of RFC 7677, section 3; its nonces are not ours, so the states are made here.
    #[test]
    fn both_ends_say_what_rfc_7677_says() {
        let keys = derive(b"pencil", &salting());
        let challenged = ClientChallenged {
            salting: salting(),
            binding: "biws".into(),
            nonce: BOTH_NONCES.into(),
            client_first_bare: CLIENT_FIRST_BARE.into(),
            server_first: server_first(),
        };
        let awaiting = challenged.prove(&keys);
        assert_eq!(awaiting.client_final, CLIENT_FINAL);
        assert_eq!(awaiting.finish(SERVER_FINAL.as_bytes()), Ok(()));

        let verifier = keys.verifier(salting());
        let exchange = ServerExchange {
            verifier: &verifier,
            binding: "biws".into(),
            client_first_bare: CLIENT_FIRST_BARE.into(),
            server_first: server_first(),
            nonce: BOTH_NONCES.into(),
        };
        let proven = exchange.finish(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(proven.server_final, SERVER_FINAL);
        assert!(proven.keys == keys, "the client's key is learned from its proof");
    }

    fn talk(
        binding: Binding<'_>,
        offer: Offer<'_>,
        given: &[u8],
        verifier: &Verifier,
    ) -> Result<Proven, ScramError> {
        let client = ClientExchange::begin(binding, &NONCE);
        let first = client.client_first();
        let server = ServerExchange::begin(first.as_bytes(), offer, verifier, &[9; NONCE_BYTES])?;
        let challenged = client.challenged(server.server_first().as_bytes()).unwrap();
        let awaiting = challenged.prove(&derive(given, &verifier.salting));
        let proven = server.finish(awaiting.client_final.as_bytes())?;
        assert_eq!(awaiting.finish(proven.server_final.as_bytes()), Ok(()));
        Ok(proven)
    }

    #[test]
    fn channel_binding_is_negotiated_and_checked() {
        use ScramError::{Binding as Bound, Downgrade};
        let verifier = derive(b"pw", &salting()).verifier(salting());
        let offer = |end_point, plus| Offer { end_point, plus };
        let hash = Some(&b"hash"[..]);
        for (binding, offer, expected) in [
            (Binding::Unsupported, offer(None, false), None),
            (Binding::NotOffered, offer(None, false), None),
            (Binding::Unsupported, offer(hash, false), None),
            (Binding::EndPoint(b"hash"), offer(hash, true), None),
            (Binding::EndPoint(b"other"), offer(hash, true), Some(Bound)),
            (Binding::NotOffered, offer(hash, false), Some(Downgrade)),
        ] {
            let outcome = talk(binding, offer, b"pw", &verifier).err();
            assert_eq!(outcome, expected, "{binding:?}, {offer:?}");
            let wrong = talk(binding, offer, b"no", &verifier).err();
            assert_eq!(wrong, Some(expected.unwrap_or(ScramError::WrongPassword)));
        }
        let plus = offer(hash, true);
        for flag in ["n,,", "y,,"] {
            let first = format!("{flag}n=,r=abc");
            let begun = ServerExchange::begin(first.as_bytes(), plus, &verifier, &NONCE);
            assert!(matches!(begun.unwrap_err(), ScramError::Malformed(_)), "{flag}");
        }
        let first = b"p=tls-unique,,n=,r=abc";
        let begun = ServerExchange::begin(first, plus, &verifier, &NONCE);
        assert_eq!(begun.unwrap_err(), ScramError::BindingType);
    }

    #[test]
    fn malformed_messages_of_clients_are_refused() {
        let verifier = Verifier::mock(&[1; 32], b"u");
        let offer = Offer { end_point: None, plus: false };
        for (first, sqlstate) in [
            (&b""[..], "08P01"),
            (b"n", "08P01"),
            (b"n,", "08P01"),
            (b"n,,", "08P01"),
            (b"x,,n=,r=abc", "08P01"),
            (b"n,,n=", "08P01"),
            (b"n,,n=,r=", "08P01"),
            (b"n,,n=,r=a b", "08P01"),
            (b"n,,n=,r=a\x01", "08P01"),
            (b"n,,n=,r=\xff", "08P01"),
            (b"n,,n=,r=ab\0", "08P01"),
            (b"n,b,n=,r=abc", "08P01"),
            (b"n,a=other,n=,r=abc", "0A000"),
            (b"n,,m=ext,n=,r=abc", "0A000"),
            (b"p=tls-server-end-point,,n=,r=abc", "08P01"),
        ] {
            let error = ServerExchange::begin(first, offer, &verifier, &NONCE).unwrap_err();
            assert_eq!(error.sqlstate(), sqlstate, "{first:?}");
        }
        let begin = || ServerExchange::begin(b"n,,n=,r=abc", offer, &verifier, &NONCE).unwrap();
        let nonce = begin().nonce.clone();
        let proof = BASE64.encode([0; 32]);
        for (last, error) in [
            (String::new(), MALFORMED),
            (format!("c=biws,r={nonce}"), MALFORMED),
            (format!("c=biws,r={nonce},p="), MALFORMED),
            (format!("c=biws,r={nonce},p=AAAA"), MALFORMED),
            (format!("r={nonce},c=biws,p={proof}"), MALFORMED),
            (format!("c=eSws,r={nonce},p={proof}"), ScramError::Binding),
            (format!("c=biws,r={nonce}x,p={proof}"), ScramError::Nonce),
            (format!("c=biws,r=abc,p={proof}"), ScramError::Nonce),
            (format!("c=biws,r={nonce},p={proof}"), ScramError::WrongPassword),
        ] {
            assert_eq!(begin().finish(last.as_bytes()).unwrap_err(), error, "{last}");
        }
    }

    #[test]
    fn malformed_messages_of_servers_are_refused() {
        use ServerMessageError::*;
        let begin = || ClientExchange::begin(Binding::Unsupported, &NONCE);
        let ours = BASE64.encode(NONCE);
        for (first, error) in [
            (String::new(), Malformed),
            ("r=x".into(), Malformed),
            (format!("r={ours}x,s=!,i=4096"), Malformed),
            (format!("r={ours}x,s=AAAA,i=0"), Malformed),
            (format!("r={ours}x,s=AAAA,i=-1"), Malformed),
            (format!("r={ours}x,s=AAAA"), Malformed),
            (format!("r={ours},s=AAAA,i=4096"), Nonce),
            ("r=other,s=AAAA,i=4096".into(), Nonce),
            (format!("r={ours}x,s=AAAA,i=600001"), Iterations(600_001)),
        ] {
            assert_eq!(begin().challenged(first.as_bytes()).unwrap_err(), error, "{first}");
        }
        let keys = ClientKeys { client_key: [1; 32], server_key: [2; 32] };
        let first = format!("r={ours}x,s=AAAA,i=1");
        let wrong = format!("v={}", BASE64.encode([0; 32]));
        for (last, error) in [
            ("e=invalid-proof", Said("invalid-proof".into())),
            ("v=AAAA", Signature),
            (&*wrong, Signature),
            ("v=!", Malformed),
            ("", Malformed),
        ] {
            let awaiting = begin().challenged(first.as_bytes()).unwrap().prove(&keys);
            assert_eq!(awaiting.finish(last.as_bytes()), Err(error), "{last}");
        }
    }

    #[test]
    fn verifiers_are_those_of_postgres() {
        let text = postgres_protocol::password::scram_sha_256("Ⅸ\u{a0}x".as_bytes());
        let verifier = Verifier::parse(&text).unwrap();
        // SASLprep: both spellings are the same password.
        for password in ["Ⅸ\u{a0}x", "IX x"] {
            let keys = derive(password.as_bytes(), &verifier.salting);
            assert!(keys.verifier(verifier.salting.clone()) == verifier, "{password}");
        }
        for text in [
            "",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$x:AAAA$AAAA:AAAA",
        ] {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_user_that_does_not_exist_has_a_salt_like_one_that_does() {
        let seed = [3; 32];
        let mock = Verifier::mock(&seed, b"nobody");
        assert_eq!(mock.salting.salt, salt_for(&seed, b"nobody"));
        assert!(Verifier::mock(&seed, b"nobody") == mock, "each time the same");
        assert_ne!(salt_for(&seed, b"other"), salt_for(&seed, b"nobody"));
        assert_ne!(salt_for(&[4; 32], b"nobody"), salt_for(&seed, b"nobody"));
        assert_eq!((mock.salting.salt.len(), mock.salting.iterations), (SALT_BYTES, ITERATIONS));
    }
}
