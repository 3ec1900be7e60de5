//! The requests that a lease needs, to etcd's JSON gateway (`/v3/…`, etcd 3.4 and later).

use super::http::{Http, Request};
use crate::config::{Remote, Service};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The members of an etcd cluster; any of them may answer.
#[derive(Debug, Clone)]
pub struct Etcd {
    http: Http,
    /// What the last login gave.
    token: Arc<Mutex<Option<String>>>,
}

impl Etcd {
    /// `timeout` is for one request to one member.
    pub fn new(remote: &Remote, timeout: Duration) -> Etcd {
        Etcd { http: Http { remote: remote.clone(), timeout }, token: Arc::default() }
    }

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

    async fn post(&self, what: &str, body: &Value) -> Result<Value, String> {
        let token = self.token().await?;
        let answer = self.send(what, token.as_deref(), body).await;
        if answer.is_err() {
            // It may have run out, or etcd may have forgotten it: the next request logs in again.
            self.remember(None);
        }
        answer
    }

    /// What shows who asks; `None` without a login.
    async fn token(&self) -> Result<Option<String>, String> {
        let Some(Service { user, password, .. }) = &self.http.remote.login else { return Ok(None) };
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            return Ok(known);
        }
        let password = password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        let body = json!({ "name": user, "password": password });
        let answer = self.send("auth/authenticate", None, &body).await?;
        let token = answer["token"].as_str().map(str::to_owned);
        self.remember(token.clone());
        token.map(Some).ok_or_else(|| "etcd gives no token".to_owned())
    }

    fn remember(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    async fn send(
        &self,
        what: &str,
        authorization: Option<&str>,
        body: &Value,
    ) -> Result<Value, String> {
        let path = format!("/v3/{what}");
        let (method, body) = ("POST", Some(body));
        self.http.ask(&Request { method, path: &path, authorization, body }).await
    }
}
