//! `auth.query` and `auth.accounts`: finds the cluster of the database that a client asks for, and
//! asks its nodes.

use super::clusters::Running;
use crate::backend::postgres::auth_query::{AuthQuery, Lookup, LookupError, SecretLookup};
use crate::config::{self, Address, Config, NodeConfig};
use crate::frontend::cluster::{ClusterHandle, Engine, Mysql, index_of_schema};
use crate::frontend::mysql::accounts::AccountQuery;
use crate::frontend::mysql::auth_context::{self as accounts, AccountLookup};
use crate::monitor::mysql_connection::ServiceOpts;
use crate::topology::{Health, Role};
use std::sync::Arc;
use tokio::runtime::Handle;

struct Clusters {
    asked: Vec<(Arc<Running>, AuthQuery)>,
}

/// The hook for users that the file does not know; `None` without `auth.query`.
pub fn secrets(config: &Config, running: &[Arc<Running>]) -> Option<Arc<dyn SecretLookup>> {
    let query = config.auth.query.as_ref()?;
    let asked = running.iter().map(|running| {
        let service = &running.handle.config.service;
        let remember = config.auth.query_cache;
        let tls = running.tls.clone();
        (running.clone(), AuthQuery::new(query, remember, service, tls, Handle::current()))
    });
    Some(Arc::new(Clusters { asked: asked.collect() }))
}

impl SecretLookup for Clusters {
    fn lookup<'a>(&'a self, user: &'a str, database: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let serves = |running: &Running| {
                let databases = &running.handle.config.databases;
                databases.is_empty() || databases.contains_key(database)
            };
            let Some((running, query)) = self.asked.iter().find(|(running, _)| serves(running))
            else {
                return Err(LookupError { reason: NO_CLUSTER.to_owned() });
            };
            let nodes: Vec<Address> =
                healthy(&running.handle).map(|node| node.address.clone()).collect();
            query.lookup(user, &nodes).await
        })
    }
}

struct AccountClusters {
    asked: Vec<(Arc<ClusterHandle<Mysql>>, AccountQuery)>,
}

/// The hook for users of MySQL and MariaDB that the file does not know; `None` without
/// `auth.accounts`.
pub fn accounts(
    config: &Config,
    clusters: &[Arc<ClusterHandle<Mysql>>],
) -> Option<Arc<dyn AccountLookup>> {
    let asked = clusters.iter().map(|cluster| {
        let mariadb = cluster.config.engine == config::Engine::Mariadb;
        let query = AccountQuery::new(mariadb, config.auth.query_cache, Handle::current());
        (cluster.clone(), query)
    });
    config.auth.accounts.then(|| Arc::new(AccountClusters { asked: asked.collect() }) as _)
}

impl AccountClusters {
    /// The cluster of the session that will come: another one's accounts prove nothing for it.
    fn of(&self, schema: Option<&str>) -> Option<&(Arc<ClusterHandle<Mysql>>, AccountQuery)> {
        let handles: Vec<&ClusterHandle<Mysql>> =
            self.asked.iter().map(|(cluster, _)| &**cluster).collect();
        index_of_schema(&handles, schema).map(|index| &self.asked[index])
    }
}

impl AccountLookup for AccountClusters {
    fn lookup<'a>(&'a self, user: &'a str, schema: Option<&'a str>) -> accounts::Lookup<'a> {
        Box::pin(async move {
            let Some((cluster, query)) = self.of(schema) else {
                return Err(accounts::LookupError { reason: NO_CLUSTER.to_owned() });
            };
            let opts = healthy(cluster).map(|node| ServiceOpts::new(&cluster.config, node));
            query.lookup(user, opts.collect()).await
        })
    }

    fn doubt(&self, user: &str, schema: Option<&str>) {
        if let Some((_, query)) = self.of(schema) {
            query.doubt(user);
        }
    }
}

const NO_CLUSTER: &str = "no cluster serves the database";

/// Healthy nodes, the primary first: a new user is there first.
fn healthy<E: Engine>(cluster: &ClusterHandle<E>) -> impl Iterator<Item = &NodeConfig> {
    let snapshot = cluster.topology.load_full();
    let mut healthy: Vec<_> =
        snapshot.nodes.iter().filter(|node| node.health == Health::Healthy).collect();
    healthy.sort_by_key(|node| node.role != Role::Primary);
    let indexes: Vec<usize> = healthy.iter().map(|node| usize::from(node.id.0)).collect();
    indexes.into_iter().map(|index| &cluster.config.nodes[index])
}
