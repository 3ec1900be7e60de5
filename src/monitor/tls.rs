//! TLS for service connections: the adapter between `tokio-postgres` and rustls.
//!
//! Which certificates are trusted is decided by whoever makes the [`rustls::ClientConfig`].

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;

/// Whether and how service connections use TLS.
#[derive(Debug, Clone, Default)]
pub enum ServiceTls {
    #[default]
    Off,
    /// If the server offers it.
    Prefer(Arc<ClientConfig>),
    Require(Arc<ClientConfig>),
}

impl ServiceTls {
    pub(super) fn connector(&self) -> Option<ServiceTlsConnector> {
        match self {
            ServiceTls::Off => None,
            ServiceTls::Prefer(config) | ServiceTls::Require(config) => {
                Some(ServiceTlsConnector { config: config.clone() })
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ServiceTlsConnector {
    config: Arc<ClientConfig>,
}

pub(super) struct ToHost {
    connector: TlsConnector,
    host: ServerName<'static>,
}

/// The stream after the handshake.
pub(super) struct ServiceTlsStream<S>(client::TlsStream<S>);

impl<S> MakeTlsConnect<S> for ServiceTlsConnector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = ServiceTlsStream<S>;
    type TlsConnect = ToHost;
    type Error = rustls_pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<ToHost, Self::Error> {
        let host = ServerName::try_from(host.to_string())?;
        Ok(ToHost { connector: TlsConnector::from(self.config.clone()), host })
    }
}

impl<S> TlsConnect<S> for ToHost
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = ServiceTlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ServiceTlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(
            async move { self.connector.connect(self.host, stream).await.map(ServiceTlsStream) },
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for ServiceTlsStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServiceTlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServiceTlsStream<S> {
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
