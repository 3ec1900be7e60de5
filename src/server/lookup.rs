//! `auth.query`: finds the cluster of the database that a client asks for, and asks its nodes.

use super::clusters::Running;
use crate::backend::postgres::auth_query::{AuthQuery, Lookup, LookupError, SecretLookup};
use crate::config::{Address, Config};
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
                return Err(LookupError { reason: "no cluster serves the database".to_owned() });
            };
            query.lookup(user, &nodes(running)).await
        })
    }
}

/// Healthy nodes, the primary first: a new user is there first.
fn nodes(running: &Running) -> Vec<Address> {
    let snapshot = running.handle.topology.load_full();
    let mut healthy: Vec<_> =
        snapshot.nodes.iter().filter(|node| node.health == Health::Healthy).collect();
    healthy.sort_by_key(|node| node.role != Role::Primary);
    let configured = &running.handle.config.nodes;
    healthy.iter().map(|node| configured[usize::from(node.id.0)].address.clone()).collect()
}
