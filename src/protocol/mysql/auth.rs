//! The arithmetic of MySQL's and MariaDB's authentication plugins (MySQL's
//! `sql-common/client_authentication.cc`, `sql/auth/sha2_password.cc`, `sql/auth/password.c`).
//!
//! A client proves that it knows a password by mixing its hash with the server's scramble:
//!
//! ```text
//! mysql_native_password   SHA1(pw)   xor SHA1(scramble + SHA1(SHA1(pw)))     stored: SHA1(SHA1(pw))
//! caching_sha2_password   SHA256(pw) xor SHA256(SHA256(SHA256(pw)) + scramble)
//!                         fast; else the password itself, over TLS or encrypted by RSA
//!                                                      stored: SHA-256 crypt, `$A$005$salt…hash`
//! mysql_clear_password    the password itself
//! client_ed25519          signature of the scramble (32 bytes) by a key made of SHA512(pw)
//! parsec                  the same with a nonce of the client's, the key being PBKDF2(pw, salt)
//! ```
//!
//! Not here: RSA, which needs randomness.

use super::handshake::Scramble;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub const NATIVE: &str = "mysql_native_password";
pub const CACHING_SHA2: &str = "caching_sha2_password";
/// The password itself, as in caching_sha2_password's second part.
pub const SHA256_PASSWORD: &str = "sha256_password";
pub const CLEAR: &str = "mysql_clear_password";
/// MariaDB's, towards servers.
pub const ED25519: &str = "client_ed25519";
/// MariaDB's since 11.6, towards servers.
pub const PARSEC: &str = "parsec";

/// The scramble of the two, and the nonce that answers it.
pub const NONCE_BYTES: usize = 32;

/// caching_sha2: the client asks for the key to encrypt the password with.
pub const REQUEST_PUBLIC_KEY: u8 = 2;
/// sha256_password: the same.
pub const REQUEST_PUBLIC_KEY_SHA256: u8 = 1;
/// caching_sha2: the proof fits what the server remembers.
pub const FAST_OK: u8 = 3;
/// caching_sha2: the server needs the password itself.
pub const FULL_NEEDED: u8 = 4;

/// The plugins that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    Native,
    CachingSha2,
    /// What MySQL may also ask of users that do not exist.
    Sha256,
    Clear,
    Ed25519,
    Parsec,
}

impl Plugin {
    pub fn of(name: &[u8]) -> Option<Plugin> {
        use Plugin::{CachingSha2, Clear, Ed25519, Native, Parsec, Sha256};
        let all = [Native, CachingSha2, Sha256, Clear, Ed25519, Parsec];
        all.into_iter().find(|plugin| plugin.name().as_bytes() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Plugin::Native => NATIVE,
            Plugin::CachingSha2 => CACHING_SHA2,
            Plugin::Sha256 => SHA256_PASSWORD,
            Plugin::Clear => CLEAR,
            Plugin::Ed25519 => ED25519,
            Plugin::Parsec => PARSEC,
        }
    }
}

pub const SHA1_BYTES: usize = 20;
pub const SHA256_BYTES: usize = 32;

/// SHA1(password): enough to log in to servers by mysql_native_password.
pub type NativeKey = [u8; SHA1_BYTES];
/// SHA256(SHA256(password)): enough to check the fast proof of caching_sha2_password.
pub type Sha2Digest = [u8; SHA256_BYTES];

fn sha1(parts: &[&[u8]]) -> [u8; SHA1_BYTES] {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; SHA1_BYTES];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn sha256(parts: &[&[u8]]) -> [u8; SHA256_BYTES] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; SHA256_BYTES];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn xor<const N: usize>(left: [u8; N], right: &[u8; N]) -> [u8; N] {
    let mut out = left;
    out.iter_mut().zip(right).for_each(|(byte, other)| *byte ^= other);
    out
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    verify_slices_are_equal(left, right).is_ok()
}

/// What a password is for mysql_native_password.
pub fn native_key(password: &[u8]) -> NativeKey {
    sha1(&[password])
}

/// What servers store: SHA1(SHA1(password)).
pub fn native_stored(key: &NativeKey) -> [u8; SHA1_BYTES] {
    sha1(&[key])
}

/// `*` and 40 hex digits, as `mysql.user` has it. `None`: it is something else.
pub fn parse_native_stored(text: &str) -> Option<[u8; SHA1_BYTES]> {
    let digits = text.strip_prefix('*').filter(|digits| digits.len() == 2 * SHA1_BYTES)?;
    let mut out = [0; SHA1_BYTES];
    for (byte, pair) in out.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// The proof of mysql_native_password; of an empty password there is none, and nothing is sent.
pub fn native_proof(key: &NativeKey, scramble: &Scramble) -> [u8; SHA1_BYTES] {
    xor(*key, &sha1(&[scramble, &native_stored(key)]))
}

/// Checks a proof of mysql_native_password; gives the key that it shows.
pub fn native_shown(
    stored: &[u8; SHA1_BYTES],
    scramble: &Scramble,
    proof: &[u8],
) -> Option<NativeKey> {
    let proof = <[u8; SHA1_BYTES]>::try_from(proof).ok()?;
    let key = xor(proof, &sha1(&[scramble, stored]));
    equal(&native_stored(&key), stored).then_some(key)
}

/// What the fast proof of caching_sha2_password is checked with.
pub fn sha2_digest(password: &[u8]) -> Sha2Digest {
    sha256(&[&sha256(&[password])])
}

/// The fast proof of caching_sha2_password.
pub fn sha2_proof(password: &[u8], scramble: &Scramble) -> [u8; SHA256_BYTES] {
    xor(sha256(&[password]), &sha256(&[&sha2_digest(password), scramble]))
}

/// Whether a fast proof of caching_sha2_password fits.
pub fn sha2_fits(digest: &Sha2Digest, scramble: &Scramble, proof: &[u8]) -> bool {
    let Ok(proof) = <[u8; SHA256_BYTES]>::try_from(proof) else { return false };
    let shown = xor(proof, &sha256(&[digest, scramble]));
    equal(&sha256(&[&shown]), digest)
}

/// The proof of client_ed25519.
pub fn ed25519_proof(password: &[u8], scramble: &[u8; NONCE_BYTES]) -> [u8; 64] {
    mysql_common::scramble::create_response_for_ed25519(password, scramble)
}

/// What a server of parsec says of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsecSalt {
    rounds: u32,
    salt: Vec<u8>,
}

/// MariaDB's own bound of the factor, as two to the power of which times 1024 rounds are made.
const PARSEC_FACTOR_MAX: u8 = 3;

impl ParsecSalt {
    /// `P`, the factor of rounds, and the salt.
    pub fn parse(payload: &[u8]) -> Option<ParsecSalt> {
        match payload {
            [b'P', factor @ ..=PARSEC_FACTOR_MAX, salt @ ..] if !salt.is_empty() => {
                Some(ParsecSalt { rounds: 1024 << factor, salt: salt.to_vec() })
            }
            _ => None,
        }
    }

    /// The proof of parsec: a nonce and a signature. Takes milliseconds of CPU: not on a thread
    /// that serves clients.
    pub fn proof(&self, password: &[u8], scramble: &[u8; NONCE_BYTES]) -> [u8; 96] {
        let ParsecSalt { rounds, salt } = self;
        mysql_common::scramble::create_response_for_parsec(password, scramble, *rounds, salt)
    }
}

/// Whether two passwords are the same, in a time that tells neither's length.
pub fn same_password(left: &[u8], right: &[u8]) -> bool {
    equal(&sha256(&[left]), &sha256(&[right]))
}

/// Mixes a password with the scramble before RSA, or takes it out again.
pub fn mix(bytes: &mut [u8], scramble: &Scramble) {
    bytes.iter_mut().zip(scramble.iter().cycle()).for_each(|(byte, other)| *byte ^= other);
}

/// The hash that servers store for caching_sha2_password: `$A$`, thousands of rounds as three hex
/// digits, `$`, a salt of 20 bytes, 43 letters of hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Sha2Stored {
    rounds: u32,
    salt: [u8; SALT_BYTES],
    hash: [u8; CRYPT_BYTES],
}

const SALT_BYTES: usize = 20;
const CRYPT_BYTES: usize = 43;
/// Thousands of rounds: MySQL's own bounds are 5 and 4095; this bounds the time of a login.
const ROUNDS_THOUSANDS: std::ops::RangeInclusive<u32> = 1..=4095;

impl std::fmt::Debug for Sha2Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha2Stored(secret)")
    }
}

impl Sha2Stored {
    /// `None`: it is something else. The salt may have any bytes.
    pub fn parse(bytes: &[u8]) -> Option<Sha2Stored> {
        let (rounds, rest) = bytes.strip_prefix(b"$A$")?.split_first_chunk::<3>()?;
        let thousands = u32::from_str_radix(std::str::from_utf8(rounds).ok()?, 16).ok()?;
        let (salt, hash) = rest.strip_prefix(b"$")?.split_first_chunk::<SALT_BYTES>()?;
        ROUNDS_THOUSANDS.contains(&thousands).then_some(Sha2Stored {
            rounds: thousands * 1000,
            salt: *salt,
            hash: hash.try_into().ok()?,
        })
    }

    /// Whether the password fits. Takes milliseconds of CPU: not on a thread that serves clients.
    pub fn fits(&self, password: &[u8]) -> bool {
        equal(&sha256_crypt(password, &self.salt, self.rounds), &self.hash)
    }
}

/// What a server would store.
#[cfg(test)]
pub(crate) fn sha2_stored(password: &[u8]) -> Vec<u8> {
    let salt = b"01234567890123456789";
    [b"$A$005$", &salt[..], &sha256_crypt(password, salt, 5000)].concat()
}

/// SHA-256 crypt (Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512", steps 1 to 22), without
/// its bound on the salt's length.
fn sha256_crypt(password: &[u8], salt: &[u8], rounds: u32) -> [u8; CRYPT_BYTES] {
    let other = sha256(&[password, salt, password]);
    let mut first = Context::new(&SHA256);
    first.update(password);
    first.update(salt);
    first.update(&repeated(&other, password.len()));
    let mut length = password.len();
    while length > 0 {
        first.update(if length & 1 == 1 { &other } else { password });
        length >>= 1;
    }
    let mut digest = [0; SHA256_BYTES];
    digest.copy_from_slice(first.finish().as_ref());

    let mut all = Context::new(&SHA256);
    password.iter().for_each(|_| all.update(password));
    let passwords = repeated(all.finish().as_ref(), password.len());
    let mut all = Context::new(&SHA256);
    (0..16 + usize::from(digest[0])).for_each(|_| all.update(salt));
    let salts = repeated(all.finish().as_ref(), salt.len());

    for round in 0..rounds {
        let odd = round & 1 == 1;
        let mut next = Context::new(&SHA256);
        next.update(if odd { &passwords } else { &digest });
        if round % 3 != 0 {
            next.update(&salts);
        }
        if round % 7 != 0 {
            next.update(&passwords);
        }
        next.update(if odd { &digest } else { &passwords });
        digest.copy_from_slice(next.finish().as_ref());
    }
    letters(&digest)
}

/// The bytes over and over, `length` of them.
fn repeated(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// crypt's base 64, in crypt's order of the bytes.
fn letters(digest: &[u8; SHA256_BYTES]) -> [u8; CRYPT_BYTES] {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const ORDER: [[usize; 3]; 10] = [
        [0, 10, 20],
        [21, 1, 11],
        [12, 22, 2],
        [3, 13, 23],
        [24, 4, 14],
        [15, 25, 5],
        [6, 16, 26],
        [27, 7, 17],
        [18, 28, 8],
        [9, 19, 29],
    ];
    let mut out = [0; CRYPT_BYTES];
    let words = ORDER.iter().map(|[a, b, c]| (digest[*a], digest[*b], digest[*c]));
    let words = words.chain([(0, digest[31], digest[30])]);
    let letters = words.flat_map(|(a, b, c)| {
        let word = u32::from_be_bytes([0, a, b, c]);
        (0..4).map(move |at| ALPHABET[(word >> (6 * at) & 63) as usize])
    });
    out.iter_mut().zip(letters).for_each(|(out, letter)| *out = letter);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAMBLE: Scramble = *b"abcdefghijklmnopqrst";

    #[test]
    fn native() {
        let key = native_key(b"secret");
        let stored = native_stored(&key);
        // SELECT PASSWORD('secret') on MariaDB.
        assert_eq!(parse_native_stored("*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"), Some(stored));
        let proof = native_proof(&key, &SCRAMBLE);
        assert_eq!(native_shown(&stored, &SCRAMBLE, &proof), Some(key));
        assert_eq!(native_shown(&stored, b"another scramble 123", &proof), None);
        assert_eq!(native_shown(&stored, &SCRAMBLE, &proof[1..]), None);
        assert_eq!(native_shown(&stored, &SCRAMBLE, b""), None);
        assert_eq!(parse_native_stored("*14E6"), None);
        assert_eq!(parse_native_stored("*zzE65567ABDB5135D0CFD9A70B3032C179A49EE7"), None);
    }

    #[test]
    fn sha2_fast() {
        let digest = sha2_digest(b"secret");
        let proof = sha2_proof(b"secret", &SCRAMBLE);
        assert!(sha2_fits(&digest, &SCRAMBLE, &proof));
        assert!(!sha2_fits(&digest, &SCRAMBLE, &sha2_proof(b"Secret", &SCRAMBLE)));
        assert!(!sha2_fits(&digest, b"another scramble 123", &proof));
        assert!(!sha2_fits(&digest, &SCRAMBLE, b""));
    }

    #[test]
    fn crypt() {
        type Case = (&'static [u8], &'static [u8], u32, &'static [u8; CRYPT_BYTES]);
        // As `openssl passwd -5` and the C library have it.
        let cases: &[Case] = &[
            (b"Hello world!", b"saltstring", 5000, b"5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            (
                b"Hello world!",
                b"saltstringsaltst",
                10000,
                b"3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
            ),
        ];
        for (password, salt, rounds, expected) in cases {
            let hash = sha256_crypt(password, salt, *rounds);
            assert_eq!(std::str::from_utf8(&hash), std::str::from_utf8(*expected));
        }
        let stored = Sha2Stored::parse(&sha2_stored(b"secret")).unwrap();
        assert!(stored.fits(b"secret") && !stored.fits(b"Secret") && !stored.fits(b""));
        for bad in [&b"$A$005$0123"[..], b"$B$005$", b"", b"$A$fff$01234567890123456789x"] {
            assert!(Sha2Stored::parse(bad).is_none());
        }
    }

    #[test]
    fn mixing_twice_is_nothing() {
        let mut bytes = b"a password longer than the scramble\0".to_vec();
        mix(&mut bytes, &SCRAMBLE);
        assert_ne!(bytes, b"a password longer than the scramble\0");
        mix(&mut bytes, &SCRAMBLE);
        assert_eq!(bytes, b"a password longer than the scramble\0");
    }
}
