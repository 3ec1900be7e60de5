//! Certificates for tests, signed by authorities that live as long as the test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// An authority and what it has signed.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Certificate and key, as PEM, for 127.0.0.1, `localhost` and this common name.
    pub fn sign(&self, common_name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        self.sign_params(params, common_name)
    }

    /// The same for this host and no other.
    pub fn sign_for(&self, host: &str) -> (String, String) {
        self.sign_params(CertificateParams::new(vec![host.to_string()]).unwrap(), host)
    }

    fn sign_params(&self, mut params: CertificateParams, common_name: &str) -> (String, String) {
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// PEM files in a folder that goes away with the test.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        // libpq refuses keys that others may read.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    pub fn pair(&self, name: &str, (certificate, key): (String, String)) -> (PathBuf, PathBuf) {
        (self.write(&format!("{name}.crt"), &certificate), self.write(&format!("{name}.key"), &key))
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}
