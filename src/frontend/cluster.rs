//! A cluster as the conversations see it: shared by all workers, and one worker's part.

use super::commits::{Commits, LocalCommits};
use crate::backend::ServerConnection;
use crate::backend::postgres::connection::{Connection, Reported};
use crate::config;
use crate::failover::Gate;
use crate::monitor::catalog::PostgresCatalogs;
use crate::pool::{LocalPools, Pools};
use crate::session::Settings;
use crate::topology::Topology;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Logins whose parameters are remembered, per worker.
const WELCOMES_MAX: usize = 1024;

/// The part of a cluster that each kind of server has of its own.
pub trait Engine: 'static {
    type Connection: ServerConnection;
    /// What is known of tables and routines, by database.
    type Catalogs;
    /// What one worker remembers of the servers.
    type Memory: Default;
}

/// Clusters of PostgreSQL servers.
pub struct Postgres;

impl Engine for Postgres {
    type Connection = Connection;
    type Catalogs = PostgresCatalogs;
    type Memory = Welcomes;
}

/// What servers report to a session of this kind at its start.
pub type Welcomes = RefCell<HashMap<WelcomeKey, Arc<Reported>>>;

/// What all workers share of a cluster.
pub struct ClusterHandle<E: Engine = Postgres> {
    /// Position in the configuration, for counters.
    pub index: usize,
    pub config: Arc<config::Cluster>,
    pub topology: Arc<Topology>,
    pub gate: Arc<Gate>,
    pub catalogs: Arc<E::Catalogs>,
    pub pools: Arc<Pools<E::Connection>>,
    pub commits: Arc<Commits>,
}

/// Who logged in, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WelcomeKey {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub settings: Arc<Settings>,
    /// Of the role and the database.
    pub defaults: Option<u64>,
}

/// One worker's part of a cluster.
pub struct LocalCluster<E: Engine = Postgres> {
    pub handle: Arc<ClusterHandle<E>>,
    pub pools: Rc<LocalPools<E::Connection>>,
    pub commits: Rc<LocalCommits>,
    /// The configuration has replaced it: sessions move to its successor when they are free.
    pub retired: Cell<bool>,
    /// Busy connections of this worker, per node.
    busy: Rc<RefCell<Vec<u32>>>,
    memory: Rc<E::Memory>,
}

impl<E: Engine> LocalCluster<E> {
    pub fn new(handle: Arc<ClusterHandle<E>>, worker: usize) -> LocalCluster<E> {
        let pools = LocalPools::new(handle.pools.clone(), worker);
        let commits = LocalCommits::new(handle.commits.clone(), worker);
        let busy = RefCell::new(vec![0; handle.config.nodes.len()]);
        LocalCluster {
            handle,
            pools: Rc::new(pools),
            commits: Rc::new(commits),
            retired: Cell::new(false),
            busy: Rc::new(busy),
            memory: Rc::default(),
        }
    }

    /// The same pools under another configuration. Sessions of both use them until the last one
    /// has moved.
    pub fn successor(&self, handle: Arc<ClusterHandle<E>>) -> LocalCluster<E> {
        LocalCluster {
            handle,
            pools: self.pools.clone(),
            commits: self.commits.clone(),
            retired: Cell::new(false),
            busy: self.busy.clone(),
            memory: self.memory.clone(),
        }
    }

    pub fn busy(&self) -> std::cell::Ref<'_, Vec<u32>> {
        self.busy.borrow()
    }

    pub fn count_busy(&self, node: usize, more: bool) {
        if let Some(busy) = self.busy.borrow_mut().get_mut(node) {
            *busy = if more { *busy + 1 } else { busy.saturating_sub(1) };
        }
    }
}

impl LocalCluster {
    pub fn welcome(&self, key: &WelcomeKey) -> Option<Arc<Reported>> {
        self.memory.borrow().get(key).cloned()
    }

    pub fn remember_welcome(&self, key: WelcomeKey, reported: Arc<Reported>) {
        let mut welcomes = self.memory.borrow_mut();
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(key, reported);
    }

    /// Servers were restarted or promoted: what they report may have changed.
    pub fn forget_welcomes(&self) {
        self.memory.borrow_mut().clear();
    }
}
