//! For the tests of everything that has to do with TLS: certificates.

use super::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder of PEM files: `<name>.crt` and `<name>.key`.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// `ca` and `other_ca`; `server` for localhost and 127.0.0.1, `elsewhere` for another host,
    /// `common_name` for localhost by its common name only; `alice`, a client; `stranger`, a
    /// client of the other CA; `lonely`, a server that is its own CA.
    pub(crate) fn new() -> Certificates {
        let certificates = Certificates { folder: tempfile::tempdir().unwrap() };
        let ca = certificates.authority("ca");
        let other = certificates.authority("other_ca");
        certificates.issue("server", &["localhost", "127.0.0.1"], "tiffin", &ca);
        certificates.issue("elsewhere", &["db.example"], "localhost", &ca);
        certificates.issue("common_name", &[], "localhost", &ca);
        certificates.issue("alice", &[], "alice", &ca);
        certificates.issue("stranger", &[], "alice", &other);
        certificates.authority("lonely");
        certificates
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn towards_server(&self, mode: ServerTlsMode, ca: Option<&str>) -> ServerTls {
        let ca = ca.map(|ca| self.path(&format!("{ca}.crt")));
        ServerTls { mode, ca, certificate: None, key: None, direct: false }
    }

    /// A server's own configuration with the named certificate.
    pub(crate) fn towards_client(
        &self,
        mode: ClientTlsMode,
        name: &str,
        client_ca: Option<&str>,
    ) -> ClientTls {
        let file = |name: &str, kind| self.path(&format!("{name}.{kind}"));
        ClientTls {
            mode,
            certificate: Some(file(name, "crt")),
            key: Some(file(name, "key")),
            client_ca: client_ca.map(|name| file(name, "crt")),
        }
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = named(&["localhost"], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        self.write(name, &params.self_signed(&key).unwrap().pem(), &key);
        Issuer::new(params, key)
    }

    pub(crate) fn issue(&self, name: &str, hosts: &[&str], common: &str, by: &Issuer<'_, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let pem = named(hosts, common).signed_by(&key, by).unwrap().pem();
        self.write(name, &pem, &key);
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.path(&format!("{name}.crt")), certificate).unwrap();
        let path = self.path(&format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn named(hosts: &[&str], common: &str) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}
