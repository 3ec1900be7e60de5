//! Replicas that could not be told to follow the primary of now when it was promoted.

use super::control::Task;
use super::takeover::bounded;
use crate::topology::{Node, Position, Role};

/// How far a replica is that has to follow the primary of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stray {
    Away,
    /// It was told to follow.
    Told,
    /// It does not, and people were told.
    Left,
}

impl Task {
    /// Replicas that were away when the primary changed follow the one of now when they are back.
    pub(super) async fn look_after_strays(&mut self) {
        let snapshot = self.topology.load_full();
        let Some(primary) = snapshot.open_primary().filter(|_| !self.strays.is_empty()) else {
            return;
        };
        if self.may_act().is_err() {
            return;
        }
        let servers = self.servers.load_full();
        let new = &servers.cluster.nodes[usize::from(primary.0)];
        for (name, before) in std::mem::take(&mut self.strays) {
            let known = snapshot.node_by_name(&name).filter(|node| node.id != primary);
            let Some(node) = known else { continue };
            let config = &servers.cluster.nodes[usize::from(node.id.0)];
            let repoint = || bounded(servers.patience(), servers.repoint(config, new));
            if node.role != Role::Replica || before == Stray::Away && repoint().await.is_err() {
                self.strays.push((name, Stray::Away));
                continue;
            }
            let timeline = |node: &Node| node.position.as_ref().and_then(Position::timeline);
            if timeline(node) == timeline(snapshot.node(primary)) {
                tracing::info!(node = %name, "it is back, and follows {}", new.name);
                continue;
            }
            if before == Stray::Told {
                tracing::warn!(node = %name, "it does not get on to the timeline of {0}: if it has what {0} lacks, it has to be rebuilt or rewound", new.name);
            }
            let now = if before == Stray::Away { Stray::Told } else { Stray::Left };
            self.strays.push((name, now));
        }
    }
}
