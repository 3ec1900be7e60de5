//! The password of caching_sha2_password under RSA, for connections without TLS: OAEP with SHA-1,
//! after the password was mixed with the scramble (MySQL's `sql/auth/sha2_password.cc`).
//!
//! Whoever can change what passes can put in a key of their own. As with MySQL's clients, TLS is
//! what protects against that.

use crate::protocol::mysql::auth::mix;
use crate::protocol::mysql::handshake::Scramble;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// Columns of a PEM file's lines (RFC 7468).
const PEM_COLUMNS: usize = 64;

/// Why RSA did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RsaError {
    #[error("the server's RSA key cannot be used")]
    Key,
    #[error("the password is too long for the server's RSA key")]
    Password,
    #[error("no RSA key could be made")]
    Generate,
}

/// Encrypts a password for a server whose key came as PEM.
pub fn encrypt(password: &[u8], scramble: &Scramble, pem: &[u8]) -> Result<Vec<u8>, RsaError> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| RsaError::Key)?;
    let key = PublicEncryptingKey::from_der(&der).map_err(|_| RsaError::Key)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| RsaError::Key)?;
    let mut plain = [password, b"\0"].concat();
    mix(&mut plain, scramble);
    let mut out = vec![0; key.ciphertext_size()];
    let written = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &plain, &mut out, None)
        .map_err(|_| RsaError::Password)?
        .len();
    out.truncate(written);
    Ok(out)
}

/// The proxy's own key, for clients.
#[derive(Debug)]
pub struct RsaKey {
    key: OaepPrivateDecryptingKey,
    /// The public part, as clients are sent it.
    pub pem: String,
}

impl RsaKey {
    /// Takes a tenth of a second of CPU: not on a thread that serves clients.
    pub fn generate() -> Result<RsaKey, RsaError> {
        let private =
            PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| RsaError::Generate)?;
        let der = private.public_key().as_der().map_err(|_| RsaError::Generate)?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for (index, letter) in text.chars().enumerate() {
            if index > 0 && index % PEM_COLUMNS == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.push_str("\n-----END PUBLIC KEY-----\n");
        let key = OaepPrivateDecryptingKey::new(private).map_err(|_| RsaError::Generate)?;
        Ok(RsaKey { key, pem })
    }

    /// How long a client's answer is.
    pub fn cipher_bytes(&self) -> usize {
        self.key.key_size_bytes()
    }

    /// The password, with its zero byte, in a client's answer. `None`: it was not encrypted with
    /// this key. Takes a third of a millisecond.
    pub fn decrypt(&self, cipher: &[u8], scramble: &Scramble) -> Option<Vec<u8>> {
        let mut out = vec![0; self.key.min_output_size()];
        let length = self.key.decrypt(&OAEP_SHA1_MGF1SHA1, cipher, &mut out, None).ok()?.len();
        out.truncate(length);
        mix(&mut out, scramble);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_is_decrypted() {
        let key = RsaKey::generate().unwrap();
        let scramble = *b"abcdefghijklmnopqrst";
        let cipher = encrypt(b"secret", &scramble, key.pem.as_bytes()).unwrap();
        assert_eq!(cipher.len(), key.cipher_bytes());
        assert_eq!(key.decrypt(&cipher, &scramble).as_deref(), Some(&b"secret\0"[..]));
        assert_eq!(key.decrypt(&cipher[1..], &scramble), None);
        let other = RsaKey::generate().unwrap();
        assert_eq!(other.decrypt(&cipher, &scramble), None);
        assert_eq!(encrypt(b"secret", &scramble, b"no key"), Err(RsaError::Key));
        let long = vec![b'x'; 300];
        assert_eq!(encrypt(&long, &scramble, key.pem.as_bytes()), Err(RsaError::Password));
    }
}
