//! What people and their tools see of a running proxy: health, readiness, metrics and the API,
//! over HTTP, and the changes that operators ask for ([`changes`]). Nothing here is on the way of a
//! query.
//!
//! Open [`http`] first: the list of pages. [`view`] turns values into JSON, [`page`] into the
//! metrics page; both are pure. [`sources`] turns what
//! the monitor keeps into JSON, [`failovers`] counts changes of the primary. [`connection`] bounds what an HTTP client can cost. Everything
//! that the pages show comes in by [`AdminState`]; there is no global.

pub mod changes;
pub mod connection;
pub mod failovers;
pub mod http;
pub mod page;
pub mod sources;
pub mod view;

#[cfg(test)]
mod tests;

use crate::failover::Control;
use crate::metrics::{ControlMetrics, PoolRegistry, Process, StatsRegistry};
use crate::topology::Topology;
use arc_swap::{ArcSwap, ArcSwapOption};
use secrecy::SecretString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where a page gets JSON that another module keeps (failover log, lag history). Called on each
/// request: it must not block, and what it returns must be bounded.
pub type JsonSource = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// One cluster as the pages see it.
#[derive(Clone)]
pub struct ClusterView {
    pub name: Arc<str>,
    pub topology: Arc<Topology>,
    /// Whether the proxy is ready only while this cluster has a primary. `false` for a cluster
    /// that is useful with replicas alone.
    pub needs_primary: bool,
    /// The journal of changes, oldest first: `/api/v1/failovers`; see [`sources::failovers`].
    pub failovers: JsonSource,
    /// What was done to change the primary: also `/api/v1/failovers`; see [`sources::actions`].
    pub actions: JsonSource,
    /// Who changes the primary when an operator asks; `None`: nobody.
    pub control: Option<Control>,
    /// Lag of each node over time: `/api/v1/lag`; see [`sources::lag_history`].
    pub lag_history: JsonSource,
}

/// Everything that the pages show.
pub struct AdminState {
    /// Replaced as a whole when the configuration is loaded again.
    pub clusters: ArcSwap<Vec<ClusterView>>,
    pub stats: Arc<StatsRegistry>,
    pub pools: Arc<PoolRegistry>,
    pub control: Arc<ControlMetrics>,
    pub process: Process,
    /// Set once the program was told to end.
    pub draining: Arc<AtomicBool>,
    /// What changes must be asked with; `None`: nobody may.
    pub token: ArcSwapOption<SecretString>,
}

impl std::fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterView").field("name", &self.name).finish_non_exhaustive()
    }
}
