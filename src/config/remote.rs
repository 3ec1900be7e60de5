//! Services that are asked by HTTP: Patroni for the nodes, etcd for the lease.

use super::check::{pair, tls_files};
use super::secret::{is_given, secret};
use super::section::Section;
use super::{Address, NodeConfig, Service, cluster, tls, units};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Members of a service; any of them may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub addresses: Vec<HttpAddress>,
    /// User and password; its database is empty.
    pub login: Option<Service>,
    /// PEM files; `ca` is there if an address is `https`.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAddress {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

/// Who tells a cluster's nodes and its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patroni {
    pub remote: Remote,
    pub interval: Duration,
    /// A member that is not told of any more is a node for so long.
    pub forget_after: Duration,
}

/// Where several proxies agree on who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// etcd's members.
    pub remote: Remote,
    pub life: Duration,
    pub prefix: String,
}

/// Ports of addresses that name none.
const PATRONI_PORT: u16 = 8008;
const ETCD_PORT: u16 = 2379;

pub(super) fn patroni(section: &Section<'_>) -> Patroni {
    Patroni {
        remote: remote(section, "urls", PATRONI_PORT),
        interval: section.duration("interval"),
        forget_after: section.duration("forget_after"),
    }
}

pub(super) fn lease(section: &Section<'_>) -> LeaseTerms {
    LeaseTerms {
        remote: remote(section, "endpoints", ETCD_PORT),
        life: section.duration("lease"),
        prefix: section.text("prefix").unwrap_or_default(),
    }
}

fn remote(section: &Section<'_>, addresses: &str, port: u16) -> Remote {
    let texts = section.texts(addresses);
    let mut parsed = Vec::new();
    for text in &texts {
        match units::http_address(text, port) {
            Ok(address) => parsed.push(address),
            Err(message) => section.note(addresses, message),
        }
    }
    let login = section.text("user").map(|user| {
        let password = secret(section, "password");
        Service { user, password, database: String::new() }
    });
    if login.is_none() && is_given(section, "password") {
        section.note("password", "needs `user` beside it".to_owned());
    }
    let remote = Remote {
        addresses: parsed,
        login,
        ca: section.file("ca"),
        certificate: section.file("certificate"),
        key: section.file("key"),
    };
    pair(section);
    let https = remote.addresses.iter().any(|address| address.https);
    if https && !section.has("ca") {
        section.contradiction(addresses, "has an `https` address, which needs `ca`".to_owned());
    }
    if !https && section.has("ca") {
        section.warn("ca", format!("has no effect without an `https` address in `{addresses}`"));
    }
    if https {
        tls_files(section, || tls::https(&remote).err());
    }
    remote
}

impl NodeConfig {
    /// A node that somebody else has told of, with the defaults of everything else.
    ///
    /// # Errors
    /// A sentence, if such a node could not be in the file either.
    pub fn discovered(name: &str, host: &str, port: u16) -> Result<NodeConfig, String> {
        if let Some(message) = cluster::bad_name(name) {
            return Err(message);
        }
        let text = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let address = match units::server_address(&text, port)? {
            address @ Address::Tcp { .. } => address,
            Address::Unix { .. } => return Err(format!("`{host}` is not a host")),
        };
        Ok(NodeConfig {
            name: Arc::from(name),
            address,
            zone: None,
            tags: Vec::new(),
            weight: cluster::WEIGHT,
            priority: cluster::PRIORITY,
        })
    }
}

impl std::fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let address = Address::Tcp { host: self.host.clone(), port: self.port };
        write!(f, "{scheme}://{address}")
    }
}
