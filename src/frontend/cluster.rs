//! A cluster as the conversations see it: shared by all workers, and one worker's part.

use super::commits::{Commits, LocalCommits};
use super::mysql::startup::Face;
use crate::backend::postgres::connection::{Connection, Reported};
use crate::backend::{ServerConnection, mysql};
use crate::config;
use crate::failover::Gate;
use crate::monitor::Visibility;
use crate::monitor::catalog::PostgresCatalogs;
use crate::monitor::mysql_catalog::MysqlCatalogs;
use crate::pool::{LocalPools, Pools};
use crate::session::Settings;
use crate::topology::Topology;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// Logins that are remembered, with their parameters if the server tells any, per worker.
const WELCOMES_MAX: usize = 1024;

/// What a client is told that comes while an operator has drained its cluster.
pub const DRAINED: &str = "an operator has drained the cluster";

/// What is greeted with as long as no server has been seen: the oldest that is spoken of here.
const VERSION_MYSQL: &str = "8.0.0";
const VERSION_MARIADB: &str = "10.6.0-MariaDB";

/// What clients that name no character set of their own are offered.
const UTF8MB4_GENERAL_CI: u8 = 45;

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

/// Clusters of MySQL or MariaDB servers.
pub struct Mysql;

impl Engine for Mysql {
    type Connection = mysql::connection::Connection;
    type Catalogs = MysqlCatalogs;
    type Memory = Logins;
}

/// Users that a server has let in, each with the schema that it found.
pub type Logins = RefCell<HashSet<Login>>;

/// A user, and the schema that it named.
pub type Login = (Arc<str>, Option<Arc<str>>);

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
    /// `None` where the servers cannot tell.
    pub visibility: Option<Visibility>,
}

/// Which cluster serves a client of MySQL or MariaDB: the one that lists the schema, else the one
/// that takes any, else, for a client that names none, the first.
pub fn index_of_schema(clusters: &[&ClusterHandle<Mysql>], schema: Option<&str>) -> Option<usize> {
    let listed = |cluster: &&ClusterHandle<Mysql>| {
        schema.is_some_and(|schema| cluster.config.databases.contains_key(schema))
    };
    let any = |cluster: &&ClusterHandle<Mysql>| cluster.config.databases.is_empty();
    let first = || (schema.is_none() && !clusters.is_empty()).then_some(0);
    clusters.iter().position(listed).or_else(|| clusters.iter().position(any)).or_else(first)
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

impl LocalCluster<Mysql> {
    /// What the greeting says of the servers.
    pub fn face(&self) -> Face {
        let mariadb = self.handle.config.engine == config::Engine::Mariadb;
        let snapshot = self.handle.topology.load();
        let primary = snapshot.primary.map(|node| snapshot.node(node));
        let version =
            primary.into_iter().chain(&snapshot.nodes).find_map(|node| node.version.as_deref());
        let unknown = if mariadb { VERSION_MARIADB } else { VERSION_MYSQL };
        let version = version.unwrap_or(unknown).to_owned();
        Face { version, mariadb, collation: UTF8MB4_GENERAL_CI }
    }

    pub fn knows_login(&self, login: &Login) -> bool {
        self.memory.borrow().contains(login)
    }

    pub fn remember_login(&self, login: Login) {
        let mut logins = self.memory.borrow_mut();
        if logins.len() >= WELCOMES_MAX {
            logins.clear();
        }
        logins.insert(login);
    }
}
