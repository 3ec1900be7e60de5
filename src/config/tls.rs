//! TLS of both sides: PEM files in, acceptors and connectors out.
//!
//! [`ClientTlsAcceptor`] is towards clients, [`ServerTlsConnector`] towards servers. Both hold
//! their certificates in one `ArcSwap`: a reload changes them for the next connection, and a
//! reload that fails changes nothing.
//!
//! Not here: how certificates are checked ([`super::tls_verify`]); whether a connection
//! must be encrypted (frontend and backend decide by the mode that
//! is kept beside the keys), and the wait for a handshake.

use super::tls_verify::{Authorities, Check, ClientVerifier, ServerVerifier};
use super::{ClientTls, ClientTlsMode, Remote, ServerTls, ServerTlsMode};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, X509Certificate};
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
    let certified = certified(need(&config.certificate, "a certificate")?, &config.key)?;
    let end_point = certified.cert.first().and_then(|leaf| end_point_hash(leaf));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = match &config.client_ca {
        Some(path) => {
            let verifier = ClientVerifier::new(read_authorities(path)?, provider())
                .map_err(|error| unreadable(path, &error))?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
        None if matches!(mode, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull) => {
            return Err(TlsError::Missing { what: "a CA for the certificates of clients" });
        }
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
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

    /// New connections use what `other` has read.
    pub fn adopt(&self, other: &ServerTlsConnector) {
        self.current.store(other.load());
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
    let mut tls = client(config, check)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let connector = Some(TlsConnector::from(Arc::new(tls)));
    Ok(Connecting { mode: config.mode, direct: config.direct, connector })
}

/// What HTTP clients use: names are checked always. `None`: no address is `https`.
pub fn https(remote: &Remote) -> Result<Option<TlsConnector>, TlsError> {
    if !remote.addresses.iter().any(|address| address.https) {
        return Ok(None);
    }
    let Remote { ca, certificate, key, .. } = remote.clone();
    let mode = ServerTlsMode::VerifyFull;
    let config = ServerTls { mode, ca, certificate, key, direct: false };
    Ok(Some(TlsConnector::from(Arc::new(client(&config, Check::ChainAndName)?))))
}

fn client(config: &ServerTls, check: Check) -> Result<ClientConfig, TlsError> {
    let authorities = match &config.ca {
        Some(path) if check != Check::Nothing => read_authorities(path)?,
        None if check != Check::Nothing => {
            return Err(TlsError::Missing { what: "a CA for the certificates of servers" });
        }
        _ => Authorities { roots: RootCertStore::empty().into(), certificates: Vec::new() },
    };
    let provider = provider();
    let verifier = Arc::new(ServerVerifier::new(check, authorities, &provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut tls = match &config.certificate {
        Some(path) => {
            let certified = certified(path, &config.key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    tls.resumption = Resumption::disabled();
    Ok(tls)
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

/// A certificate with its chain and its key, which must belong together.
fn certified(path: &Path, key: &Option<PathBuf>) -> Result<CertifiedKey, TlsError> {
    let certificates = read_certificates(path)?;
    let key = read_key(need(key, "a key")?)?;
    let key = provider().key_provider.load_private_key(key).map_err(TlsError::Unusable)?;
    let leaf = certificates.first().map(|leaf| X509Certificate::from_der(leaf));
    let Some(Ok((_, leaf))) = leaf else {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    };
    // rustls does not look into certificates of version 1, so this is done here for all.
    let public = key.public_key();
    if public.is_some_and(|public| public.as_ref() != leaf.public_key().raw) {
        return Err(TlsError::Unusable(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)));
    }
    Ok(CertifiedKey::new(certificates, key))
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

fn read_authorities(path: &Path) -> Result<Authorities, TlsError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| unreadable(path, &error))?;
    }
    Ok(Authorities { roots: roots.into(), certificates })
}

#[cfg(test)]
mod tests {
    use super::super::tls_fixture::Certificates;
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use rustls_pki_types::ServerName;
    use std::fs;

    /// What each end says of a handshake in memory: the name that the server saw, and the errors.
    async fn shake(
        acceptor: &ClientTlsAcceptor,
        connector: &ServerTlsConnector,
        host: &str,
    ) -> (Result<Option<String>, String>, Result<(), String>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accepting = acceptor.load();
        let connecting = connector.load();
        let server = async {
            let tls = accepting.tls.as_ref().unwrap();
            let stream = tls.acceptor.accept(near).await.map_err(|error| error.to_string())?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
            let chain = stream.get_ref().1.peer_certificates();
            Ok(chain.and_then(|chain| common_name(&chain[0])))
        };
        let client = async {
            let name = ServerName::try_from(host.to_owned()).unwrap();
            let connector = connecting.connector.as_ref().unwrap();
            connector.connect(name, far).await.map(drop).map_err(|error| error.to_string())
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn servers_are_checked_as_far_as_the_mode_says() {
        use ServerTlsMode::*;
        let certificates = Certificates::new();
        for (server, mode, ca, host, accepted) in [
            ("elsewhere", Prefer, None, "localhost", true),
            ("elsewhere", Require, None, "localhost", true),
            ("elsewhere", VerifyCa, Some("ca"), "localhost", true),
            ("elsewhere", VerifyCa, Some("other_ca"), "localhost", false),
            ("elsewhere", VerifyFull, Some("ca"), "db.example", true),
            // A common name counts only where there are no alternative names.
            ("elsewhere", VerifyFull, Some("ca"), "localhost", false),
            ("common_name", VerifyFull, Some("ca"), "localhost", true),
            ("common_name", VerifyFull, Some("ca"), "db.example", false),
            ("server", VerifyFull, Some("ca"), "127.0.0.1", true),
            ("server", VerifyFull, Some("ca"), "127.0.0.2", false),
            // What many servers have: one certificate that vouches for itself.
            ("lonely", VerifyFull, Some("lonely"), "localhost", true),
            ("lonely", VerifyFull, Some("lonely"), "db.example", false),
            ("lonely", VerifyCa, Some("ca"), "localhost", false),
        ] {
            let case = format!("{server} {mode:?} {ca:?} {host}");
            let towards = certificates.towards_client(ClientTlsMode::Require, server, None);
            let acceptor = ClientTlsAcceptor::new(&towards).unwrap();
            let connector = certificates.towards_server(mode, ca);
            let connector = ServerTlsConnector::new(&connector).unwrap();
            let (_, outcome) = shake(&acceptor, &connector, host).await;
            assert_eq!(outcome.is_ok(), accepted, "{case}: {outcome:?}");
        }
    }

    /// What `openssl x509 -req` makes of PostgreSQL's own instructions (version 1, without
    /// extensions), until the year 2126.
    #[tokio::test]
    async fn certificates_of_version_1_are_checked_too() {
        use ServerTlsMode::*;
        let certificates = Certificates::new();
        for (file, pem) in [("v1_ca.crt", V1_CA), ("v1.crt", V1), ("v1.key", V1_KEY)] {
            fs::write(certificates.path(file), pem).unwrap();
        }
        // The same leaf with one bit of its signature turned.
        let mut forged = CertificateDer::from_pem_slice(V1.as_bytes()).unwrap().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        fs::write(certificates.path("forged.crt"), pem_of(&forged)).unwrap();
        fs::write(certificates.path("forged.key"), V1_KEY).unwrap();
        for (server, mode, ca, host, accepted) in [
            ("v1", Require, None, "localhost", true),
            ("v1", VerifyCa, Some("v1_ca"), "db.example", true),
            ("v1", VerifyFull, Some("v1_ca"), "localhost", true),
            ("v1", VerifyFull, Some("v1"), "localhost", true),
            ("v1", VerifyFull, Some("v1_ca"), "db.example", false),
            ("v1", VerifyCa, Some("ca"), "localhost", false),
            ("forged", Require, None, "localhost", true),
            ("forged", VerifyCa, Some("v1_ca"), "localhost", false),
        ] {
            let towards = certificates.towards_client(ClientTlsMode::Require, server, None);
            let acceptor = ClientTlsAcceptor::new(&towards).unwrap();
            let connector = certificates.towards_server(mode, ca);
            let connector = ServerTlsConnector::new(&connector).unwrap();
            let (_, outcome) = shake(&acceptor, &connector, host).await;
            assert_eq!(outcome.is_ok(), accepted, "{server} {mode:?} {ca:?} {host}: {outcome:?}");
        }
        for (client, ca, seen) in [
            ("v1", "v1_ca", Ok(Some("localhost"))),
            ("v1", "ca", Err(())),
            ("forged", "v1_ca", Err(())),
        ] {
            let towards = certificates.towards_client(ClientTlsMode::Require, "server", Some(ca));
            let acceptor = ClientTlsAcceptor::new(&towards).unwrap();
            let mut towards = certificates.towards_server(Require, None);
            towards.certificate = Some(certificates.path(&format!("{client}.crt")));
            towards.key = Some(certificates.path(&format!("{client}.key")));
            let connector = ServerTlsConnector::new(&towards).unwrap();
            let (outcome, _) = shake(&acceptor, &connector, "localhost").await;
            let outcome = outcome.as_ref().map(|name| name.as_deref()).map_err(|_| ());
            assert_eq!(outcome, seen, "{client} {ca}");
        }
    }

    fn pem_of(der: &[u8]) -> String {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    const V1_CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUVF7gq5fjiEl9DLPhmhuXEmpzR64wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdjFjYTAgFw0yNjExMjExMTExNDZaGA8yMTI2MTAyODExMTE0
NlowDzENMAsGA1UEAwwEdjFjYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABE6e
gFVdvO7hbeCNcxXEkidhLa1eKlFeMh/eipRUPHZnGymB6A6rxMfW/5jr6fDjuUa4
a3s9x3Z7cOLUULY/9eWjUzBRMB0GA1UdDgQWBBSVUPYgfhKQzNT7VSvbOh7HP8lr
mTAfBgNVHSMEGDAWgBSVUPYgfhKQzNT7VSvbOh7HP8lrmTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIAG7tjkol4102wNe0afTyTXBHV40DXz/EYB2
IfgqWgZPAiEAyWSaYv9AykEhxPO7JyTA5XME6S/qicaw7Xf3o4wTtQI=
-----END CERTIFICATE-----
";
    const V1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBHjCBxgIUcyH4LsNb89MbxJ79xaCoD29afX0wCgYIKoZIzj0EAwIwDzENMAsG
A1UEAwwEdjFjYTAgFw0yNjExMjExMTExNDZaGA8yMTI2MTAyODExMTE0NlowFDES
MBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaFcs
9i3yPARw/XZzzMPM9tZtfefNNMe9z6X0HqF9EwSIu8y5OmGKCeEMiMFaNJKwFonB
/QQNrQYtXTfULkzmETAKBggqhkjOPQQDAgNHADBEAiBwvErocyju70OQ0ao0LlY7
JTTxJ+1/ABZ5/d9ax98ClgIgU4trjZNJRzMQsjMoS0POgN9cghm5pq5eoOnpKRFU
PM8=
-----END CERTIFICATE-----
";
    const V1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtBRL3Cv2EBpP+6MW
SXiMBOUpg6K2kbr0Bc6PiFCjNyShRANCAARoVyz2LfI8BHD9dnPMw8z21m195800
x73PpfQeoX0TBIi7zLk6YYoJ4QyIwVo0krAWicH9BA2tBi1dN9QuTOYR
-----END PRIVATE KEY-----
";

    #[tokio::test]
    async fn clients_show_certificates_of_the_right_authority_or_none() {
        let certificates = Certificates::new();
        let towards = certificates.towards_client(ClientTlsMode::VerifyCa, "server", Some("ca"));
        let acceptor = ClientTlsAcceptor::new(&towards).unwrap();
        for (client, seen) in
            [(None, Ok(None)), (Some("alice"), Ok(Some("alice"))), (Some("stranger"), Err(()))]
        {
            let mut towards = certificates.towards_server(ServerTlsMode::Require, None);
            towards.certificate = client.map(|name| certificates.path(&format!("{name}.crt")));
            towards.key = client.map(|name| certificates.path(&format!("{name}.key")));
            let connector = ServerTlsConnector::new(&towards).unwrap();
            let (outcome, _) = shake(&acceptor, &connector, "localhost").await;
            let outcome = outcome.as_ref().map(|name| name.as_deref()).map_err(|_| ());
            assert_eq!(outcome, seen, "{client:?}");
        }
    }

    #[tokio::test]
    async fn a_reload_takes_new_files_and_refuses_broken_ones() {
        let certificates = Certificates::new();
        let towards = certificates.towards_client(ClientTlsMode::Require, "server", None);
        let acceptor = ClientTlsAcceptor::new(&towards).unwrap();
        let connector = certificates.towards_server(ServerTlsMode::VerifyFull, Some("ca"));
        let connector = ServerTlsConnector::new(&connector).unwrap();
        assert!(shake(&acceptor, &connector, "localhost").await.1.is_ok());

        let good = fs::read(certificates.path("server.crt")).unwrap();
        let other = fs::read(certificates.path("elsewhere.crt")).unwrap();
        for broken in [&b"nonsense"[..], &good[..good.len() / 2], &other] {
            fs::write(certificates.path("server.crt"), broken).unwrap();
            acceptor.reload(&towards).unwrap_err();
            assert!(shake(&acceptor, &connector, "localhost").await.1.is_ok());
        }
        for kind in ["crt", "key"] {
            let new = certificates.path(&format!("elsewhere.{kind}"));
            fs::copy(new, certificates.path(&format!("server.{kind}"))).unwrap();
        }
        acceptor.reload(&towards).unwrap();
        assert!(shake(&acceptor, &connector, "db.example").await.1.is_ok());
        assert!(shake(&acceptor, &connector, "127.0.0.1").await.1.is_err());

        let other = certificates.towards_server(ServerTlsMode::VerifyFull, Some("other_ca"));
        connector.reload(&other).unwrap();
        assert!(shake(&acceptor, &connector, "db.example").await.1.is_err());
        let nowhere = certificates.towards_server(ServerTlsMode::VerifyFull, Some("nowhere"));
        assert!(connector.reload(&nowhere).is_err());
    }

    #[test]
    fn what_is_missing_is_said() {
        let certificates = Certificates::new();
        let mut towards = certificates.towards_client(ClientTlsMode::VerifyFull, "server", None);
        let error = |towards: &ClientTls| ClientTlsAcceptor::new(towards).unwrap_err().to_string();
        assert!(error(&towards).contains("a CA for the certificates of clients"));
        towards.key = None;
        assert!(error(&towards).contains("a key"));
        towards.certificate = Some("/nowhere".into());
        assert!(error(&towards).contains("/nowhere"));
        let towards = certificates.towards_server(ServerTlsMode::VerifyCa, None);
        let error = ServerTlsConnector::new(&towards).unwrap_err().to_string();
        assert!(error.contains("a CA for the certificates of servers"));
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        let params = || CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = |key: KeyPair| params().self_signed(&key).unwrap().der().to_vec();
        let p256 = certificate(KeyPair::generate().unwrap());
        let p384 = certificate(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
        let ed25519 = certificate(KeyPair::generate_for(&PKCS_ED25519).unwrap());
        let sha256 = digest::digest(&digest::SHA256, &p256);
        assert_eq!(end_point_hash(&p256).as_deref(), Some(sha256.as_ref()));
        let sha384 = digest::digest(&digest::SHA384, &p384);
        assert_eq!(end_point_hash(&p384).as_deref(), Some(sha384.as_ref()));
        assert_eq!(end_point_hash(&ed25519), None);
        assert_eq!(end_point_hash(b"nonsense"), None);
    }
}
