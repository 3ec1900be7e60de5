//! A primary that was to be replaced and was not.
//!
//! It was to be made read-only first. That may have happened although nobody waited for the answer
//! any more, and taking it back at once may fail for the same reason: a machine that is
//! overloaded. Where it is the primary again it is told until it has heard.

use super::control::Task;
use super::takeover::bounded;
use crate::config::NodeConfig;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Statements that were given up may still run so long afterwards.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// From the first time that it has heard to the second; each time twice as long.
const ONCE_MORE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Unreplaced {
    name: Arc<str>,
    /// When nothing is under way there any more.
    quiet_at: Instant,
    /// Since it has heard: when it is told once more, and how long after the last time.
    next: Option<(Instant, Duration)>,
}

impl Unreplaced {
    pub(super) fn new(node: &NodeConfig) -> Unreplaced {
        let quiet_at = Instant::now() + GIVEN_UP;
        Unreplaced { name: node.name.clone(), quiet_at, next: None }
    }
}

impl Task {
    /// Lets it take writes. Not if there is another primary, or another proxy that acts: that may
    /// be what it was made read-only for.
    pub(super) async fn look_after_unreplaced(&mut self) {
        let Some(unreplaced) = self.unreplaced.clone() else { return };
        let snapshot = self.topology.load_full();
        let Some(primary) = snapshot.open_primary() else { return };
        if snapshot.node(primary).name != unreplaced.name {
            self.unreplaced = None;
            return;
        }
        if self.may_act().is_err() {
            return;
        }
        let now = Instant::now();
        if unreplaced.next.is_some_and(|(at, _)| now < at) {
            return;
        }
        let servers = self.servers.load_full();
        let node = &servers.cluster.nodes[usize::from(primary.0)];
        if let Err(error) = bounded(servers.patience(), servers.set_read_only(node, false)).await {
            tracing::warn!(node = %node.name, "it cannot be told to take writes: {error}");
            return;
        }
        if unreplaced.next.is_none() {
            tracing::info!(node = %node.name, "nobody was promoted: it is told to take writes");
        }
        let wait = unreplaced.next.map_or(ONCE_MORE, |(_, wait)| wait * 2);
        let left = Unreplaced { next: Some((now + wait, wait)), ..unreplaced };
        self.unreplaced = Some(left).filter(|left| now < left.quiet_at);
    }
}
