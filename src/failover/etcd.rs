//! The three requests that a lease needs, to etcd's JSON gateway (`/v3/…`, etcd 3.4 and later).
//!
//! HTTP/1.0 on a connection each: a few small requests a second at most, and a connection that was
//! open before may be as dead as its server. No TLS and no login: use a network that only the
//! proxies reach.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer is a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The members of an etcd cluster; any of them may answer.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// `host:port`.
    pub endpoints: Vec<String>,
    /// For one request to one member.
    pub timeout: Duration,
}

impl Etcd {
    /// A new lease; its number.
    pub async fn grant(&self, ttl: Duration) -> Result<String, String> {
        let answer = self.post("lease/grant", &json!({ "TTL": ttl.as_secs().to_string() })).await?;
        let id = answer["ID"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("etcd gives no lease: {answer}"))
    }

    /// Puts the key under the lease if nobody has it; otherwise who has.
    pub async fn take(
        &self,
        key: &str,
        value: &str,
        lease: &str,
    ) -> Result<Result<(), String>, String> {
        let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
        let request = json!({
            "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": { "key": key, "value": value, "lease": lease } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = self.post("kv/txn", &request).await?;
        if answer["succeeded"] == true {
            return Ok(Ok(()));
        }
        let holder = answer["responses"][0]["response_range"]["kvs"][0]["value"].as_str();
        let holder = holder.and_then(|text| STANDARD.decode(text).ok());
        let holder = holder.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(Err(holder.unwrap_or_else(|| "somebody".to_owned())))
    }

    /// Makes the lease last its full time from now on; false if it has run out.
    pub async fn keep(&self, lease: &str) -> Result<bool, String> {
        let answer = self.post("lease/keepalive", &json!({ "ID": lease })).await?;
        Ok(answer["result"]["TTL"].as_str().is_some_and(|ttl| ttl != "0"))
    }

    /// The first answer of any member; the last one's error if none answers.
    async fn post(&self, what: &str, request: &Value) -> Result<Value, String> {
        let mut last = "there are no endpoints".to_owned();
        for endpoint in &self.endpoints {
            match timeout(self.timeout, ask(endpoint, what, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = format!("{endpoint}: {error}"),
                Err(_) => last = format!("{endpoint}: no answer within {:?}", self.timeout),
            }
        }
        Err(last)
    }
}

async fn ask(endpoint: &str, what: &str, request: &Value) -> Result<Value, String> {
    let sentence = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(endpoint).await.map_err(sentence)?;
    let body = request.to_string();
    let head = format!(
        "POST /v3/{what} HTTP/1.0\r\nHost: {endpoint}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.map_err(sentence)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.map_err(sentence)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim()));
    }
    serde_json::from_str(body).map_err(|error| format!("no JSON: {error}"))
}
