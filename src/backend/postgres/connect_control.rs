//! tokio-postgres towards the same servers, with the same TLS: for probes, the catalog and
//! `auth.query`, whose wire nobody needs to see.
//!
//! Here: its configuration from ours, and TLS by rustls with channel binding. Not here: pools,
//! queries, and what a failure means.

use crate::config::tls::{self, ServerTlsConnector};
use crate::config::{Address, ServerTlsMode, Service};
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

/// How to log in to a node as the service user. `application` is what the server's
/// `pg_stat_activity` shows; `timeout` is that of each address of the host.
pub fn control_config(
    address: &Address,
    service: &Service,
    tls: &ServerTlsConnector,
    application: &str,
    timeout: Duration,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    match address {
        Address::Tcp { host, port } => config.host(host).port(*port),
        Address::Unix { folder, port } => config.host_path(folder).port(*port),
    };
    config.user(&service.user).dbname(&service.database);
    if let Some(password) = &service.password {
        config.password(password.expose_secret());
    }
    let tls = tls.load();
    let mode = match tls.mode {
        ServerTlsMode::Disable => SslMode::Disable,
        ServerTlsMode::Prefer => SslMode::Prefer,
        // What is verified is the connector's business.
        ServerTlsMode::Require | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => {
            SslMode::Require
        }
    };
    let unix = matches!(address, Address::Unix { .. });
    config.ssl_mode(if unix { SslMode::Disable } else { mode });
    if tls.direct && !unix {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    config.application_name(application).connect_timeout(timeout);
    config
}

/// Makes tokio-postgres use the certificates that are in force when it connects.
#[derive(Clone)]
pub struct ControlTls {
    connector: Option<TlsConnector>,
}

impl ControlTls {
    pub fn new(tls: &ServerTlsConnector) -> ControlTls {
        ControlTls { connector: tls.load().connector.clone() }
    }
}

type Connected<S> = Pin<Box<dyn Future<Output = io::Result<ControlStream<S>>> + Send>>;

impl<S> MakeTlsConnect<S> for ControlTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = ControlStream<S>;
    type TlsConnect = ControlConnect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ControlConnect> {
        Ok(ControlConnect { connector: self.connector.clone(), host: host.to_owned() })
    }
}

/// One connection's TLS to be.
pub struct ControlConnect {
    connector: Option<TlsConnector>,
    host: String,
}

impl<S> TlsConnect<S> for ControlConnect
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = ControlStream<S>;
    type Error = io::Error;
    type Future = Connected<S>;

    fn connect(self, stream: S) -> Connected<S> {
        Box::pin(async move {
            let connector =
                self.connector.ok_or_else(|| io::Error::other("TLS is not configured"))?;
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            connector.connect(name, stream).await.map(ControlStream)
        })
    }
}

/// A TLS stream that knows the server's certificate.
pub struct ControlStream<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for ControlStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let leaf = certificates.and_then(|chain| chain.first());
        match leaf.and_then(|leaf| tls::end_point_hash(leaf)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.into()),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ControlStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ControlStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
