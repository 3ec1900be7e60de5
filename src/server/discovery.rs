//! Nodes that Patroni tells: who is asked, and what was heard last.
//!
//! One task per cluster asks ([`patroni::watch`]); what it hears becomes a configuration with other
//! nodes, which is put in force as a reload's is, and orders to the cluster's monitor.

use crate::config::{Cluster, Config, NodeConfig, Patroni};
use crate::failover::patroni::{self, Found, News};
use crate::topology::Topology;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Answers on their way; each cluster has one at a time, and its watcher waits.
const NEWS_MAX: usize = 16;

/// What is asked for whom.
pub struct Discovery {
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    watchers: HashMap<Arc<str>, (Patroni, JoinHandle<()>)>,
    known: HashMap<Arc<str>, Vec<NodeConfig>>,
}

impl Default for Discovery {
    fn default() -> Discovery {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        Discovery { sender, news, watchers: HashMap::new(), known: HashMap::new() }
    }
}

impl Discovery {
    /// Asks for the clusters of this configuration from now on.
    pub fn follow(&mut self, config: &Config) {
        let asked: HashMap<_, _> = config
            .clusters
            .iter()
            .filter_map(|cluster| Some((cluster.name.clone(), cluster.patroni.clone()?)))
            .collect();
        self.known.retain(|name, _| asked.contains_key(name));
        self.watchers.retain(|name, (patroni, task)| {
            let stays = asked.get(name) == Some(patroni);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, patroni) in asked {
            let (cluster, sender) = (name.clone(), self.sender.clone());
            self.watchers.entry(name).or_insert_with(|| {
                (patroni.clone(), tokio::spawn(patroni::watch(cluster, patroni, sender)))
            });
        }
    }

    /// The next answer. Cancel safe.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // Cannot be: a sender is kept.
            None => std::future::pending().await,
        }
    }

    pub fn learn(&mut self, news: &News) {
        self.known.insert(news.cluster.clone(), news.found.nodes.clone());
    }

    /// The configuration with the nodes that are known.
    pub fn fill(&self, mut config: Config) -> Config {
        for cluster in &mut config.clusters {
            if let Some(nodes) = self.known.get(&cluster.name)
                && cluster.patroni.is_some()
            {
                *cluster = Arc::new(Cluster { nodes: nodes.clone(), ..Cluster::clone(cluster) });
            }
        }
        config
    }
}

/// Tells a cluster's monitor what Patroni says beside the nodes.
pub fn obey(topology: &Topology, found: &Found) {
    let orders = topology.orders();
    if orders.leader == found.leader && orders.no_reads == found.no_reads {
        return;
    }
    topology.order(|orders| {
        orders.leader.clone_from(&found.leader);
        orders.no_reads.clone_from(&found.no_reads);
    });
}
