//! How the certificates of servers and clients are checked.
//!
//! Those of servers as libpq's `sslmode` does it, where rustls alone is stricter than PostgreSQL's users are used
//! to: the name may be left unchecked (verify-ca), it may stand in the common name only, the
//! server's certificate may itself be the configured CA, and it may be of X.509 version 1, as
//! `openssl x509 -req` makes it from the instructions in PostgreSQL's manual.

use super::tls::common_name;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

/// How much of a server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Against listening only: whoever answers is believed.
    Nothing,
    Chain,
    ChainAndName,
}

/// The configured CAs.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    /// What `roots` was made of.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    check: Check,
    authorities: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(
        check: Check,
        authorities: Authorities,
        provider: &CryptoProvider,
    ) -> ServerVerifier {
        let algorithms = provider.signature_verification_algorithms;
        ServerVerifier { check, authorities, algorithms }
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.authorities.certificates.iter().any(|authority| authority == leaf) {
            return check_validity(leaf, now);
        }
        if is_version_1(leaf) {
            return self.authorities.check_version_1(leaf, now, &self.algorithms);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.authorities.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }

    fn check_name(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        let by_alternatives = match ParsedCertificate::try_from(leaf) {
            Ok(parsed) => verify_server_name(&parsed, name),
            Err(_) if is_version_1(leaf) => Err(CertificateError::NotValidForName.into()),
            Err(error) => Err(error),
        };
        by_alternatives
            .or_else(|error| if common_name_covers(leaf, name) { Ok(()) } else { Err(error) })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.check_chain(leaf, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            self.check_name(leaf, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // The handshake's signature is checked in every mode: channel binding relies on the server
    // having the certificate's key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_handshake(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks certificates of clients as rustls does, and those of version 1 besides. Who shows none
/// is let through here, and refused in words where the mode asks for one.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    usual: Arc<dyn ClientCertVerifier>,
    authorities: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(
        authorities: Authorities,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientVerifier, VerifierBuilderError> {
        let algorithms = provider.signature_verification_algorithms;
        let roots = authorities.roots.clone();
        let usual = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let usual = usual.allow_unauthenticated().build()?;
        Ok(ClientVerifier { usual, authorities, algorithms })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !is_version_1(leaf) {
            return self.usual.verify_client_cert(leaf, intermediates, now);
        }
        self.authorities.check_version_1(leaf, now, &self.algorithms)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_handshake(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Checks the signature of a TLS 1.3 handshake. (With TLS 1.2, certificates of version 1 fail.)
fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !is_version_1(certificate) {
        return verify_tls13_signature(message, certificate, signed, algorithms);
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}

impl Authorities {
    /// Whether one of the CAs itself has signed a certificate of version 1, which is valid now.
    fn check_version_1(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        check_validity(leaf, now)?;
        let vouched = |authority: &CertificateDer<'_>| vouches(authority, leaf, algorithms);
        if self.certificates.iter().any(vouched) {
            Ok(())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }
}

fn vouches(
    authority: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let (Ok((_, issuer)), Ok((_, subject))) =
        (X509Certificate::from_der(authority), X509Certificate::from_der(leaf))
    else {
        return false;
    };
    if issuer.subject().as_raw() != subject.issuer().as_raw() {
        return false;
    }
    let (Some(signed), Some((key_algorithm, key))) =
        (Signed::read(leaf), read_key(issuer.public_key().raw))
    else {
        return false;
    };
    let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
        algorithm.signature_alg_id().as_ref() == signed.algorithm
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
    };
    let mut fitting = algorithms.all.iter().filter(fits);
    fitting.any(|found| found.verify_signature(key, signed.body, signed.signature).is_ok())
}

fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.version() == X509Version::V1)
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether a certificate without alternative names of hosts has the host as its common name: the
/// fall-back of libpq (`pgtls_verify_peer_name_matches_certificate_guts`).
fn common_name_covers(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let alternatives = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names[..],
        Ok(None) => &[],
        Err(_) => return false,
    };
    let is_host = |name: &GeneralName<'_>| {
        matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
    };
    if alternatives.iter().any(is_host) {
        return false;
    }
    let (Some(common), host) = (common_name(certificate), name.to_str()) else { return false };
    match common.strip_prefix("*.") {
        // The star covers one label of a host's name, never a part of an address.
        Some(domain) if matches!(name, ServerName::DnsName(_)) => {
            host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
        }
        Some(_) => false,
        None => common.eq_ignore_ascii_case(&host),
    }
}

/// The parts of a signed structure: what is signed, by which algorithm, and the signature.
struct Signed<'a> {
    body: &'a [u8],
    /// As in `AlgorithmIdentifier`: the contents of the sequence.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(certificate: &'a [u8]) -> Option<Signed<'a>> {
        let whole = Element::read(certificate)?;
        let body = Element::read(whole.contents)?;
        let algorithm = Element::read(body.rest)?;
        let signature = Element::read(algorithm.rest)?;
        Some(Signed {
            body: body.all,
            algorithm: algorithm.contents,
            signature: bits(signature.contents)?,
        })
    }
}

/// Algorithm and key of a SubjectPublicKeyInfo.
fn read_key(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let algorithm = Element::read(Element::read(info)?.contents)?;
    let key = Element::read(algorithm.rest)?;
    Some((algorithm.contents, bits(key.contents)?))
}

/// The bytes of a bit string that has no odd bits.
fn bits(contents: &[u8]) -> Option<&[u8]> {
    contents.split_first().filter(|(odd, _)| **odd == 0).map(|(_, bytes)| bytes)
}

/// One element of DER. x509-parser has taken the certificate apart already, but keeps some
/// encoded parts to itself.
struct Element<'a> {
    all: &'a [u8],
    contents: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    fn read(der: &'a [u8]) -> Option<Element<'a>> {
        let first = *der.get(1)?;
        let (head, length) = if first < 0x80 {
            (2, usize::from(first))
        } else {
            let bytes = der.get(2..2 + usize::from(first & 0x7f))?;
            // A certificate is no longer than 2^24 bytes, TLS sees to that.
            let fold = |length, byte: &u8| length << 8 | usize::from(*byte);
            (2 + bytes.len(), (bytes.len() <= 3).then(|| bytes.iter().fold(0, fold))?)
        };
        let all = der.get(..head + length)?;
        Some(Element { all, contents: &all[head..], rest: &der[head + length..] })
    }
}
