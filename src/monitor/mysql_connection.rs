//! mysql_async towards the servers of a cluster, with its TLS: for probes and the catalog, whose
//! wire nobody needs to see. Client traffic never runs here.

use crate::config::{Address, Cluster, NodeConfig, ServerTls, ServerTlsMode, Service};
use mysql_async::{ClientIdentity, Conn, DriverError, Error, OptsBuilder, SslOpts};
use secrecy::ExposeSecret;
use std::time::Duration;

/// A peer that vanished without a word is noticed after this, also between probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// How to log in to one node, as the service user or another one of the proxy's own.
#[derive(Debug, Clone)]
pub struct ServiceOpts {
    host: String,
    port: u16,
    service: Service,
    tls: ServerTls,
}

impl ServiceOpts {
    pub fn new(cluster: &Cluster, node: &NodeConfig) -> ServiceOpts {
        ServiceOpts::by(cluster, node, &cluster.service)
    }

    pub fn by(cluster: &Cluster, node: &NodeConfig, login: &Service) -> ServiceOpts {
        let (host, port) = match &node.address {
            Address::Tcp { host, port } => (host.to_string(), *port),
            // The configuration has none for these engines.
            Address::Unix { folder, port } => (folder.display().to_string(), *port),
        };
        let (service, tls) = (login.clone(), cluster.server_tls.clone());
        ServiceOpts { host, port, service, tls }
    }

    fn builder(&self) -> OptsBuilder {
        let password = self.service.password.as_ref().map(|secret| secret.expose_secret());
        OptsBuilder::default()
            .ip_or_hostname(&self.host)
            .tcp_port(self.port)
            .user(Some(&self.service.user))
            .pass(password)
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE_IDLE))
    }

    fn ssl(&self) -> SslOpts {
        let mut ssl = SslOpts::default();
        let verify = matches!(self.tls.mode, ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull);
        if let Some(ca) = self.tls.ca.clone().filter(|_| verify) {
            ssl = ssl.with_root_certs(vec![ca.into()]).with_disable_built_in_roots(true);
        }
        if let Some(certificate) = self.tls.certificate.clone() {
            let key = self.tls.key.clone().unwrap_or_else(|| certificate.clone());
            let identity = ClientIdentity::new(certificate.into(), key.into());
            ssl = ssl.with_client_identity(Some(identity));
        }
        ssl.with_danger_accept_invalid_certs(!verify)
            .with_danger_skip_domain_validation(self.tls.mode != ServerTlsMode::VerifyFull)
    }
}

/// A new connection. Its certificates are read each time. Bounded by the caller.
///
/// # Errors
/// The server's, the network's, or of the certificates' files.
pub async fn connect(opts: &ServiceOpts) -> Result<Conn, Error> {
    if opts.tls.mode == ServerTlsMode::Disable {
        return Conn::new(opts.builder()).await;
    }
    match Conn::new(opts.builder().ssl_opts(opts.ssl())).await {
        Err(Error::Driver(DriverError::NoClientSslFlagFromServer))
            if opts.tls.mode == ServerTlsMode::Prefer =>
        {
            Conn::new(opts.builder()).await
        }
        result => result,
    }
}
