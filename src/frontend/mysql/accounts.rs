//! Users that only the servers know: their accounts, read by the service user.
//!
//! Here: [`AccountQuery`], which asks one cluster's servers and remembers the answers for a while,
//! with what logins have shown. Not here: which cluster a client belongs to and which of its nodes
//! are healthy; who implements [`super::auth_context::AccountLookup`] knows that.
//!
//! A user may have several accounts, told apart by the client's host. The server sees the proxy's,
//! so the account is the one that it would choose for the proxy; what a client proves is then what
//! opens the server's connections.

use super::auth_context::{Account, Credentials, LookupError};
use crate::backend::memory::Memory;
use crate::monitor::mysql_connection::{ServiceOpts, connect};
use mysql_async::prelude::Queryable;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections of the service user per cluster for this, at a time. One takes milliseconds, and
/// answers are remembered.
const CONNECTIONS_MAX: usize = 2;

/// One node's answer, the connection included. Within a client's `startup_timeout` there is time
/// for another node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Host pattern, plugin and hash of a user's accounts that are open. `USER()` says how the server
/// sees the proxy.
const MYSQL: &str = "SELECT host, plugin, authentication_string, \
     SUBSTRING_INDEX(USER(), '@', -1) FROM mysql.user \
     WHERE user = ? AND account_locked = 'N' AND password_expired = 'N'";

/// MariaDB has its accounts as JSON; one with several plugins is none of those that are known.
const MARIADB: &str = "SELECT Host, IFNULL(JSON_VALUE(Priv, '$.plugin'), ''), \
     IFNULL(JSON_VALUE(Priv, '$.authentication_string'), ''), \
     SUBSTRING_INDEX(USER(), '@', -1) FROM mysql.global_priv \
     WHERE User = ? AND NOT IFNULL(JSON_VALUE(Priv, '$.account_locked'), 0) \
     AND NOT IFNULL(JSON_VALUE(Priv, '$.is_role'), 0) \
     AND JSON_QUERY(Priv, '$.auth_or') IS NULL \
     AND IFNULL(JSON_VALUE(Priv, '$.password_last_changed'), 1) <> 0";

/// One row of these.
type Row = (String, String, Vec<u8>, String);

/// Asks the nodes of one cluster.
pub struct AccountQuery {
    asker: Arc<Asker>,
    /// The control plane's: connections live there, whichever worker asks.
    runtime: Handle,
}

impl AccountQuery {
    /// Answers are used for `remember`. Must be given a runtime that lives as long as the program.
    pub fn new(mariadb: bool, remember: Duration, runtime: Handle) -> AccountQuery {
        let asker = Asker {
            query: if mariadb { MARIADB } else { MYSQL },
            memory: Memory::new(remember),
            connections: Semaphore::new(CONNECTIONS_MAX),
        };
        AccountQuery { asker: Arc::new(asker), runtime }
    }

    /// What the nodes know of a user; they are asked in the order given until one answers.
    /// `Ok(None)`: there is no such user. Cancel safe: yes.
    pub async fn lookup(
        &self,
        user: &str,
        nodes: Vec<ServiceOpts>,
    ) -> Result<Option<Arc<Credentials>>, LookupError> {
        if let Some(known) = self.asker.memory.recall(user, Instant::now()) {
            return Ok(known.map(|answer| answer.credentials));
        }
        let (asker, user) = (self.asker.clone(), user.to_owned());
        let asking = self.runtime.spawn(async move { asker.ask(&user, &nodes).await });
        let failed = |_| LookupError { reason: "the proxy is shutting down".to_owned() };
        asking.await.map_err(failed)?
    }

    /// A password did not fit what is remembered of the user: the next lookup asks again.
    pub fn doubt(&self, user: &str) {
        self.asker.memory.doubt(user, Instant::now());
    }
}

/// An account, and what logins have shown of it.
#[derive(Clone)]
struct Answer {
    account: Arc<Account>,
    credentials: Arc<Credentials>,
}

struct Asker {
    query: &'static str,
    memory: Memory<Answer>,
    connections: Semaphore,
}

impl Asker {
    async fn ask(
        &self,
        user: &str,
        nodes: &[ServiceOpts],
    ) -> Result<Option<Arc<Credentials>>, LookupError> {
        let mut reason = "no node is healthy".to_owned();
        for node in nodes {
            match timeout(ANSWER_TIMEOUT, self.ask_node(user, node)).await {
                Ok(Ok(account)) => return Ok(self.learn(user, account)),
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => reason = format!("no answer within {ANSWER_TIMEOUT:?}"),
            }
        }
        Err(LookupError { reason })
    }

    async fn ask_node(
        &self,
        user: &str,
        node: &ServiceOpts,
    ) -> Result<Option<Account>, mysql_async::Error> {
        // Never closed.
        let _turn = self.connections.acquire().await;
        let mut connection = connect(node).await?;
        let rows: Vec<Row> = connection.exec(self.query, (user,)).await?;
        let _ = connection.disconnect().await;
        Ok(chosen(rows))
    }

    /// Remembers an answer. What logins showed of the account is kept where it has not changed.
    fn learn(&self, user: &str, account: Option<Account>) -> Option<Arc<Credentials>> {
        let answer = account.map(|account| match self.memory.last(user) {
            Some(last) if *last.account == account => last,
            _ => Answer {
                credentials: Arc::new(Credentials::of_account(&account)),
                account: Arc::new(account),
            },
        });
        let credentials = answer.as_ref().map(|answer| answer.credentials.clone());
        self.memory.remember(user, answer, Instant::now());
        credentials
    }
}

/// The account that the server would choose: the most specific of those whose host fits.
fn chosen(rows: Vec<Row>) -> Option<Account> {
    let fitting = rows.into_iter().filter(|(host, .., own)| fits(host, own));
    let (_, plugin, stored, _) = fitting.max_by_key(|(host, ..)| specificity(host))?;
    Some(Account { plugin, stored })
}

/// The later the first wildcard, the more specific (MySQL's manual, "Access Control, Stage 1").
fn specificity(host: &str) -> usize {
    host.find(['%', '_']).unwrap_or(usize::MAX)
}

/// Whether an account's host is that of the proxy, as LIKE compares. Netmasks fit nothing.
fn fits(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    // An empty host is any.
    pattern.is_empty() || like(pattern.as_bytes(), host.as_bytes())
}

/// `%` is any bytes, `_` any one. Patterns and hosts have 255 bytes at most.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Behind the last `%`, and where the text went on from there.
    let mut again = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'%') => {
                at += 1;
                again = Some((at, from));
            }
            Some(b'_') => (at, from) = (at + 1, from + 1),
            Some(byte) if *byte == text[from] => (at, from) = (at + 1, from + 1),
            _ => match again {
                Some((behind, begun)) => {
                    (at, from) = (behind, begun + 1);
                    again = Some((behind, begun + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_the_one_that_the_server_would_choose() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["%"], Some("%")),
            (&["localhost"], None),
            (&["%", "10.1.2.3"], Some("10.1.2.3")),
            (&["10.%", "10.1.%", "%"], Some("10.1.%")),
            (&["10.1.2._", "10.1.2.4", "%.3"], Some("10.1.2._")),
            (&["10.1.0.0/255.255.0.0", "%2.3"], Some("%2.3")),
            (&["", "%.example"], Some("")),
            (&[], None),
        ];
        for (hosts, expected) in cases {
            let row = |host: &&str| {
                let text = (*host).to_owned();
                (text.clone(), text, Vec::new(), "10.1.2.3".to_owned())
            };
            let chosen = chosen(hosts.iter().map(row).collect()).map(|account| account.plugin);
            assert_eq!(chosen.as_deref(), *expected, "{hosts:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a%b%c", "aXbYbZc", true),
            ("a%b%c", "aXbYbZ", false),
            ("%%", "", true),
            ("_", "", false),
            ("Web_.Example", "WEB1.example", true),
            ("%a%a%a%a%b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
