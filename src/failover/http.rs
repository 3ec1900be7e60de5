//! Small requests with answers in JSON, to the members of etcd or Patroni.
//!
//! HTTP/1.0 on a connection each: a few requests a second at most, and a connection that was open
//! before may be as dead as its server.

use crate::config::{HttpAddress, Remote, tls};
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// 256 members of Patroni with their tags fit several times over.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// A service of which any member may answer.
#[derive(Debug, Clone)]
pub struct Http {
    pub remote: Remote,
    /// For one request to one member.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// The whole value of the header.
    pub authorization: Option<&'a str>,
    pub body: Option<&'a Value>,
}

impl Http {
    /// The first good answer of any member; the last one's error if none gives one. The files of
    /// certificates are read each time: they may have been renewed.
    pub async fn ask(&self, request: &Request<'_>) -> Result<Value, String> {
        let tls = tls::https(&self.remote).map_err(|error| error.to_string())?;
        let mut last = "no address is configured".to_owned();
        for address in &self.remote.addresses {
            match timeout(self.timeout, exchange(address, tls.as_ref(), request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = format!("{address}: {error}"),
                Err(_) => last = format!("{address}: no answer within {:?}", self.timeout),
            }
        }
        Err(last)
    }
}

/// `tls` is there if any address is `https`.
async fn exchange(
    address: &HttpAddress,
    tls: Option<&TlsConnector>,
    request: &Request<'_>,
) -> Result<Value, String> {
    let plain = TcpStream::connect((address.host.as_str(), address.port)).await;
    let plain = plain.map_err(|error| error.to_string())?;
    match tls.filter(|_| address.https) {
        None => converse(plain, address, request).await,
        Some(tls) => {
            let name = ServerName::try_from(address.host.clone());
            let name = name.map_err(|error| error.to_string())?;
            let encrypted = tls.connect(name, plain).await.map_err(|error| error.to_string())?;
            converse(encrypted, address, request).await
        }
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &HttpAddress,
    request: &Request<'_>,
) -> Result<Value, String> {
    let Request { method, path, authorization, body } = request;
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {}:{}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n",
        address.host,
        address.port,
        body.len()
    );
    if let Some(value) = authorization {
        head += &format!("Authorization: {value}\r\n");
    }
    let sentence = |error: io::Error| error.to_string();
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.map_err(sentence)?;
    stream.flush().await.map_err(sentence)?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await {
        Ok(_) => {}
        // Patroni ends TLS without a word; an answer that was cut is no JSON.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(sentence(error)),
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim()));
    }
    serde_json::from_str(body).map_err(|error| format!("no JSON: {error}"))
}
