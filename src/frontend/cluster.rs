//! A cluster as the conversations see it: shared by all workers, and one worker's part.

use super::commits::{Commits, LocalCommits};
use crate::backend::postgres::connection::Reported;
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

/// What all workers share of a cluster.
pub struct ClusterHandle {
    /// Position in the configuration, for counters.
    pub index: usize,
    pub config: Arc<config::Cluster>,
    pub topology: Arc<Topology>,
    pub gate: Arc<Gate>,
    pub catalogs: Arc<PostgresCatalogs>,
    pub pools: Arc<Pools>,
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
pub struct LocalCluster {
    pub handle: Arc<ClusterHandle>,
    pub pools: Rc<LocalPools>,
    pub commits: Rc<LocalCommits>,
    /// The configuration has replaced it: sessions move to its successor when they are free.
    pub retired: Cell<bool>,
    /// Busy connections of this worker, per node.
    busy: Rc<RefCell<Vec<u32>>>,
    /// What servers report to a session of this kind at its start.
    welcomes: Rc<RefCell<HashMap<WelcomeKey, Arc<Reported>>>>,
}

impl LocalCluster {
    pub fn new(handle: Arc<ClusterHandle>, worker: usize) -> LocalCluster {
        let pools = LocalPools::new(handle.pools.clone(), worker);
        let commits = LocalCommits::new(handle.commits.clone(), worker);
        let busy = RefCell::new(vec![0; handle.config.nodes.len()]);
        LocalCluster {
            handle,
            pools: Rc::new(pools),
            commits: Rc::new(commits),
            retired: Cell::new(false),
            busy: Rc::new(busy),
            welcomes: Rc::default(),
        }
    }

    /// The same pools under another configuration. Sessions of both use them until the last one
    /// has moved.
    pub fn successor(&self, handle: Arc<ClusterHandle>) -> LocalCluster {
        LocalCluster {
            handle,
            pools: self.pools.clone(),
            commits: self.commits.clone(),
            retired: Cell::new(false),
            busy: self.busy.clone(),
            welcomes: self.welcomes.clone(),
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

    pub fn welcome(&self, key: &WelcomeKey) -> Option<Arc<Reported>> {
        self.welcomes.borrow().get(key).cloned()
    }

    pub fn remember_welcome(&self, key: WelcomeKey, reported: Arc<Reported>) {
        let mut welcomes = self.welcomes.borrow_mut();
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(key, reported);
    }

    /// Servers were restarted or promoted: what they report may have changed.
    pub fn forget_welcomes(&self) {
        self.welcomes.borrow_mut().clear();
    }
}
