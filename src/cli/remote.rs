//! Questions to a running proxy over its HTTP address.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The control thread answers in a millisecond; what takes longer is the machine.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer of the HTTP interface; metrics of a small cluster are far below.
const HTTP_BYTES_MAX: u64 = 16 << 20;

/// Status and body of one request. `header` is a line of its own, or empty.
pub(super) fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    header: &str,
) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: tiffin\r\n{header}");
    write!(stream, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(HTTP_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}

/// The proxy that runs with a configuration.
pub(super) struct Remote {
    address: SocketAddr,
    token: Option<SecretString>,
}

impl Remote {
    pub(super) fn of(config: &Config) -> Result<Remote> {
        let address = config.listen.http.context("the configuration has no `listen.http`")?;
        Ok(Remote { address, token: config.api_token.clone() })
    }

    pub(super) fn get(&self, page: &str) -> Result<Value> {
        self.ask("GET", page, "")
    }

    /// Asks for a change, with the token of the configuration.
    pub(super) fn post(&self, page: &str) -> Result<Value> {
        let token = self.token.as_ref().context("the configuration has no `api.token`")?;
        let header = format!("Authorization: Bearer {}\r\n", token.expose_secret());
        self.ask("POST", page, &header)
    }

    fn ask(&self, method: &str, page: &str, header: &str) -> Result<Value> {
        let answer = exchange(self.address, method, &format!("/api/v1/{page}"), header);
        let (status, body) =
            answer.with_context(|| format!("ask the proxy at {}", self.address))?;
        let value: Value = serde_json::from_str(&body)
            .with_context(|| format!("the proxy at {} answers no JSON", self.address))?;
        if status != 200 {
            bail!("{}", value["error"].as_str().unwrap_or("the proxy refuses"));
        }
        Ok(value)
    }
}

/// A name as part of a query string.
pub(super) fn encoded(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let letter = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_survive_a_query_string() {
        assert_eq!(super::encoded("pg-a_1.x"), "pg-a_1.x");
        assert_eq!(super::encoded("[::1]:5/é"), "%5B%3A%3A1%5D%3A5%2F%C3%A9");
    }
}
