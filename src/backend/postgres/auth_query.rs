//! Users that only the servers know: `auth.query`, run by the service user.
//!
//! Here: the hook that a client's start calls ([`SecretLookup`]), and [`AuthQuery`], which asks
//! one cluster's servers and remembers the answers for a while. Not here: which cluster a database
//! belongs to and which of its nodes are healthy; who implements the hook knows that.

use super::connect_control::{ControlTls, control_config};
use crate::backend::memory::Memory;
use crate::config::tls::ServerTlsConnector;
use crate::config::{Address, Secret, Service};
use crate::protocol::postgres::md5;
use crate::protocol::postgres::scram::Verifier;
use deadpool_postgres::{
    BuildError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Connections of the service user per node for this. A query takes a fraction of a millisecond,
/// and answers are remembered.
const CONNECTIONS_MAX: usize = 2;

/// One node's answer, the connection included. Within a client's `startup_timeout` there is time
/// for another node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A user that exists.
#[derive(Debug, Clone)]
pub struct Found {
    /// `None`: the user has no password, or one of an unknown kind.
    pub secret: Option<Secret>,
}

/// Why nothing is known of a user, which is not to say that there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("users cannot be looked up: {reason}")]
pub struct LookupError {
    pub reason: String,
}

/// The answer of a lookup. `Ok(None)`: there is no such user.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Option<Found>, LookupError>> + Send + 'a>>;

/// Asks for a user's secret on behalf of a client that wants this database.
pub trait SecretLookup: Send + Sync {
    fn lookup<'a>(&'a self, user: &'a str, database: &'a str) -> Lookup<'a>;

    /// The client's password did not fit the answer. It may have been changed since: whoever
    /// remembers answers should ask again the next time.
    fn doubt(&self, user: &str, database: &str) {
        let _ = (user, database);
    }
}

/// Asks the nodes of one cluster.
pub struct AuthQuery {
    asker: Arc<Asker>,
    /// The control plane's: connections live there, whichever worker asks.
    runtime: Handle,
}

impl AuthQuery {
    /// `query` has `$1` for the user's name and gives the secret in its second column. Answers are
    /// used for `remember`. Must be given a runtime that lives as long as the program.
    pub fn new(
        query: &str,
        remember: Duration,
        service: &Service,
        tls: Arc<ServerTlsConnector>,
        runtime: Handle,
    ) -> AuthQuery {
        let asker = Asker {
            query: query.to_owned(),
            service: service.clone(),
            tls,
            pools: Mutex::default(),
            memory: Memory::new(remember),
        };
        AuthQuery { asker: Arc::new(asker), runtime }
    }

    /// What the nodes know of a user; they are asked in the order given until one answers.
    /// `Ok(None)`: there is no such user. Cancel safe: yes.
    pub async fn lookup(
        &self,
        user: &str,
        nodes: &[Address],
    ) -> Result<Option<Found>, LookupError> {
        if let Some(known) = self.asker.memory.recall(user, Instant::now()) {
            return Ok(known);
        }
        let (asker, user, nodes) = (self.asker.clone(), user.to_owned(), nodes.to_vec());
        let asking = self.runtime.spawn(async move { asker.ask(&user, &nodes).await });
        let failed = |_| LookupError { reason: "the proxy is shutting down".to_owned() };
        asking.await.map_err(failed)?
    }

    /// A password did not fit what is remembered of the user: the next lookup asks again.
    pub fn doubt(&self, user: &str) {
        self.asker.memory.doubt(user, Instant::now());
    }
}

struct Asker {
    query: String,
    service: Service,
    tls: Arc<ServerTlsConnector>,
    pools: Mutex<HashMap<Address, Pool>>,
    memory: Memory<Found>,
}

impl Asker {
    async fn ask(&self, user: &str, nodes: &[Address]) -> Result<Option<Found>, LookupError> {
        let mut reason = "no node is healthy".to_owned();
        for node in nodes {
            let asked = async {
                let mut answer = self.ask_node(user, node).await;
                // Idle connections were cut, which is only seen when they are used.
                for _ in 0..CONNECTIONS_MAX {
                    match &answer {
                        Err(AskError::Query(error)) if was_cut(error) => {}
                        _ => break,
                    }
                    answer = self.ask_node(user, node).await;
                }
                answer
            };
            match timeout(ANSWER_TIMEOUT, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => reason = format!("{node}: {}", error.sentence()),
                Err(_) => reason = format!("{node}: no answer within {ANSWER_TIMEOUT:?}"),
            }
        }
        Err(LookupError { reason })
    }

    async fn ask_node(&self, user: &str, node: &Address) -> Result<Option<Found>, AskError> {
        let client = self.pool(node)?.get().await?;
        // Somebody may have asked for the same user while this waited for a connection.
        if let Some(known) = self.memory.recall(user, Instant::now()) {
            return Ok(known);
        }
        let statement = client.prepare_cached(&self.query).await?;
        let row = client.query(&statement, &[&user]).await?.into_iter().next();
        let found = match row {
            None => None,
            Some(row) => {
                let secret: Option<String> = row.try_get(1)?;
                Some(Found { secret: secret.and_then(secret_of) })
            }
        };
        self.memory.remember(user, found.clone(), Instant::now());
        Ok(found)
    }

    fn pool(&self, node: &Address) -> Result<Pool, BuildError> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(node) {
            return Ok(pool.clone());
        }
        let config =
            control_config(node, &self.service, &self.tls, "tiffin auth_query", ANSWER_TIMEOUT);
        let manager = Manager::from_config(
            config,
            ControlTls::new(&self.tls),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool =
            Pool::builder(manager).max_size(CONNECTIONS_MAX).runtime(Runtime::Tokio1).build()?;
        pools.insert(node.clone(), pool.clone());
        Ok(pool)
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Query(#[from] tokio_postgres::Error),
}

impl AskError {
    /// The server's sentence where there is one: tokio-postgres alone says "db error".
    fn sentence(&self) -> String {
        let error = match self {
            AskError::Query(error) | AskError::Pool(PoolError::Backend(error)) => error,
            other => return other.to_string(),
        };
        match error.as_db_error() {
            Some(said) => format!("{} {}", said.code().code(), said.message()),
            None => match std::error::Error::source(error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
        }
    }
}

/// Whether the connection had ended before it was asked: closed, or with the server's last words
/// (57P01 to 57P05: somebody ended it, or it was idle for too long) still to be read.
fn was_cut(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_some_and(|code| code.code().starts_with("57P"))
}

fn secret_of(text: String) -> Option<Secret> {
    if Verifier::parse(&text).is_some() {
        Some(Secret::ScramVerifier(text.into()))
    } else if md5::is_stored(&text) {
        Some(Secret::Md5(text.into()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_postgres_stores_is_a_secret() {
        let verifier = postgres_protocol::password::scram_sha_256(b"x");
        assert!(matches!(secret_of(verifier), Some(Secret::ScramVerifier(_))));
        assert!(matches!(secret_of(md5::stored("u", b"x")), Some(Secret::Md5(_))));
        assert!(secret_of("x".to_owned()).is_none());
        assert!(secret_of("SCRAM-SHA-256$x".to_owned()).is_none());
    }
}
