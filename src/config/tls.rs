//! TLS of both sides: PEM files in, acceptors and connectors out.
//!
//! [`ClientTlsAcceptor`] is towards clients, [`ServerTlsConnector`] towards servers. Both hold
//! their certificates in one `ArcSwap`: a reload changes them for the next connection, and a
//! reload that fails changes nothing.
//!
//! Not here: whether a connection must be encrypted (frontend and backend decide by the mode that
//! is kept beside the keys), and the wait for a handshake.

use super::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The protocol's name in TLS (ALPN), registered with IANA.
pub const ALPN: &[u8] = b"postgresql";

/// Why certificates or keys cannot be used. All of them are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("TLS needs {what}, which is not configured")]
    Missing { what: &'static str },
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(Error),
}

/// TLS towards clients.
#[derive(Debug)]
pub struct ClientTlsAcceptor {
    current: ArcSwap<Accepting>,
}

/// What new connections of clients are given.
pub struct Accepting {
    pub mode: ClientTlsMode,
    /// `None`: TLS is not offered.
    pub tls: Option<AcceptingTls>,
}

pub struct AcceptingTls {
    pub acceptor: TlsAcceptor,
    /// Hash of our certificate for channel binding; `None`: its signature has no defined hash.
    pub end_point: Option<Box<[u8]>>,
}

impl std::fmt::Debug for Accepting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepting").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl ClientTlsAcceptor {
    /// Reads the files; blocks on them.
    pub fn new(config: &ClientTls) -> Result<ClientTlsAcceptor, TlsError> {
        Ok(ClientTlsAcceptor { current: ArcSwap::from_pointee(accepting(config)?) })
    }

    /// Reads the files again; on an error the old certificates stay in force. Blocks on the files.
    pub fn reload(&self, config: &ClientTls) -> Result<(), TlsError> {
        self.current.store(Arc::new(accepting(config)?));
        Ok(())
    }

    pub fn load(&self) -> Arc<Accepting> {
        self.current.load_full()
    }
}

fn accepting(config: &ClientTls) -> Result<Accepting, TlsError> {
    let mode = config.mode;
    if mode == ClientTlsMode::Disable {
        return Ok(Accepting { mode, tls: None });
    }
    let certificates = read_certificates(need(&config.certificate, "a certificate")?)?;
    let key = read_key(need(&config.key, "a key")?)?;
    let end_point = certificates.first().and_then(|leaf| end_point_hash(leaf));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = match &config.client_ca {
        Some(path) => {
            let roots = Arc::new(read_roots(path)?.0);
            // Who shows no certificate is refused later, in words, where the mode asks for one.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| unreadable(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None if matches!(mode, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull) => {
            return Err(TlsError::Missing { what: "a CA for the certificates of clients" });
        }
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder.with_single_cert(certificates, key).map_err(TlsError::Unusable)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // As in the server: no tickets, no resumption. Nobody's driver uses them.
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    Ok(Accepting { mode, tls: Some(AcceptingTls { acceptor, end_point }) })
}

/// TLS towards the servers of one cluster.
#[derive(Debug)]
pub struct ServerTlsConnector {
    current: ArcSwap<Connecting>,
}

/// What new connections to servers use.
pub struct Connecting {
    pub mode: ServerTlsMode,
    /// TLS from the first byte, without SSLRequest.
    pub direct: bool,
    /// `None`: TLS is not used.
    pub connector: Option<TlsConnector>,
}

impl std::fmt::Debug for Connecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connecting")
            .field("mode", &self.mode)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

impl ServerTlsConnector {
    /// Reads the files; blocks on them.
    pub fn new(config: &ServerTls) -> Result<ServerTlsConnector, TlsError> {
        Ok(ServerTlsConnector { current: ArcSwap::from_pointee(connecting(config)?) })
    }

    /// TLS is not used.
    pub fn disabled() -> ServerTlsConnector {
        let off = Connecting { mode: ServerTlsMode::Disable, direct: false, connector: None };
        ServerTlsConnector { current: ArcSwap::from_pointee(off) }
    }

    /// Reads the files again; on an error the old certificates stay in force. Blocks on the files.
    pub fn reload(&self, config: &ServerTls) -> Result<(), TlsError> {
        self.current.store(Arc::new(connecting(config)?));
        Ok(())
    }

    pub fn load(&self) -> Arc<Connecting> {
        self.current.load_full()
    }
}

fn connecting(config: &ServerTls) -> Result<Connecting, TlsError> {
    let check = match config.mode {
        ServerTlsMode::Disable => {
            return Ok(Connecting { mode: config.mode, direct: false, connector: None });
        }
        ServerTlsMode::Prefer | ServerTlsMode::Require => Check::Nothing,
        ServerTlsMode::VerifyCa => Check::Chain,
        ServerTlsMode::VerifyFull => Check::ChainAndName,
    };
    let (roots, anchors) = match &config.ca {
        Some(path) if check != Check::Nothing => read_roots(path)?,
        None if check != Check::Nothing => {
            return Err(TlsError::Missing { what: "a CA for the certificates of servers" });
        }
        _ => (RootCertStore::empty(), Vec::new()),
    };
    let provider = provider();
    let verifier = Arc::new(ServerVerifier { check, roots, anchors, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut tls = match (&config.certificate, &config.key) {
        (Some(certificate), key) => builder
            .with_client_auth_cert(read_certificates(certificate)?, read_key(need(key, "a key")?)?)
            .map_err(TlsError::Unusable)?,
        (None, _) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    let connector = Some(TlsConnector::from(Arc::new(tls)));
    Ok(Connecting { mode: config.mode, direct: config.direct, connector })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Against listening only: whoever answers is believed.
    Nothing,
    Chain,
    ChainAndName,
}

/// Checks servers as libpq's `sslmode` does, where rustls alone is stricter than PostgreSQL's
/// users are used to: a name may be missing (verify-ca), stand in the common name only, and the
/// server's certificate may itself be the configured CA.
#[derive(Debug)]
struct ServerVerifier {
    check: Check,
    roots: RootCertStore,
    anchors: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
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
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        if self.anchors.iter().any(|anchor| anchor == leaf) {
            check_validity(leaf, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.check == Check::ChainAndName {
            verify_server_name(&parsed, name).or_else(|error| {
                if common_name_covers(leaf, name) { Ok(()) } else { Err(error) }
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // The signature is checked in every mode: channel binding relies on the server having the
    // certificate's key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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

/// The common name of a certificate's subject, in DER. `None`: it has none, or not as text.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    // As in the server, a zero byte inside is not trusted.
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.contains('\0')).then(|| name.to_owned())
}

/// The certificate's hash for channel binding by `tls-server-end-point` (RFC 5929, section 4.1):
/// by the hash of its signature, at least SHA-256. `None`: its signature has no single hash.
pub fn end_point_hash(certificate: &[u8]) -> Option<Box<[u8]>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    let algorithm = match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => {
            hash_of(&parameters.hash_algorithm_oid().to_id_string())
        }
        _ => hash_of(&oid),
    }?;
    Some(digest::digest(algorithm, certificate).as_ref().into())
}

/// The hash that an object identifier of a signature or a hash names.
fn hash_of(oid: &str) -> Option<&'static digest::Algorithm> {
    match oid {
        // MD5 and SHA-1, with RSA, DSA, ECDSA and alone: SHA-256 stands in for them.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10040.4.3"
        | "1.2.840.10045.4.1"
        | "1.3.14.3.2.26" => Some(&digest::SHA256),
        // SHA-256.
        "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2"
        | "2.16.840.1.101.3.4.2.1"
        | "2.16.840.1.101.3.4.3.2" => Some(&digest::SHA256),
        // SHA-384.
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(&digest::SHA384)
        }
        // SHA-512.
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(&digest::SHA512)
        }
        // SHA-224.
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
            Some(&digest::SHA224)
        }
        _ => None,
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn need<'a>(path: &'a Option<PathBuf>, what: &'static str) -> Result<&'a Path, TlsError> {
    path.as_deref().ok_or(TlsError::Missing { what })
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.to_owned(), reason: error.to_string() }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    match certificates {
        Ok(found) if found.is_empty() => Err(TlsError::NoCertificate { path: path.to_owned() }),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, &error))
}

fn read_roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let anchors = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for anchor in &anchors {
        roots.add(anchor.clone()).map_err(|error| unreadable(path, &error))?;
    }
    Ok((roots, anchors))
}
