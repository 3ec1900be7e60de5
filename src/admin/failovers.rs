//! Counts changes of the primary by looking at what the monitor publishes, so that the monitor
//! needs to know nothing of metrics.

use crate::metrics::control::ClusterEvents;
use crate::topology::{Epoch, Snapshot, Topology};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Counts the cluster's failovers until the topology is dropped. Cancel safe: yes; run one at a
/// time for a cluster.
pub async fn count(topology: Arc<Topology>, events: ClusterEvents) {
    let mut published = topology.subscribe();
    let mut watch = Watch::default();
    let cluster = Arc::downgrade(&topology);
    // Only the monitor and the sessions keep the topology alive.
    drop(topology);
    while let Some(topology) = cluster.upgrade() {
        if let Some(Failover { without }) = watch.see(&topology.load(), Instant::now()) {
            events.failover(SystemTime::now(), without);
        }
        drop(topology);
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// The primary changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failover {
    /// How long there was none; `None` if it changed from one snapshot to the next.
    without: Option<Duration>,
}

/// What has been seen of a cluster.
#[derive(Debug, Default)]
struct Watch {
    /// Of the last primary, which may be gone.
    epoch: Option<Epoch>,
    lost_at: Option<Instant>,
}

impl Watch {
    /// The first primary that is found is no failover, and neither is one that returns under the
    /// same epoch.
    fn see(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Failover> {
        let known = self.epoch;
        if snapshot.primary.is_none() {
            // Before the first primary there is nothing to lose.
            self.lost_at = self.lost_at.or(known.map(|_| now));
            return None;
        }
        self.epoch = Some(snapshot.epoch);
        let lost_at = self.lost_at.take();
        known.filter(|known| snapshot.epoch > *known)?;
        Some(Failover { without: lost_at.map(|at| now.saturating_duration_since(at)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ControlMetrics;
    use crate::topology::{Hold, NodeId};
    use tokio::time::timeout;

    fn snapshot(epoch: u64, primary: Option<u16>) -> Snapshot {
        Snapshot {
            version: 0,
            epoch: Epoch(epoch),
            primary: primary.map(NodeId),
            no_primary_because: "".into(),
            hold: Hold::Nothing,
            closed: false,
            lost: None,
            branch: None,
            timeline: None,
            nodes: Vec::new(),
            last_change: None,
        }
    }

    /// Seconds, epoch and primary of each snapshot, and what must be seen in it: nothing, or a
    /// failover with its seconds without a primary.
    type Step = (u64, u64, Option<u16>, Option<Option<u64>>);

    #[test]
    fn only_another_primary_under_a_higher_epoch_is_a_failover() {
        let histories: &[(&str, &[Step])] = &[
            ("the first primary", &[(0, 0, None, None), (1, 1, Some(0), None)]),
            ("nothing happens", &[(0, 1, Some(0), None), (9, 1, Some(0), None)]),
            ("it comes back", &[(0, 1, Some(0), None), (1, 1, None, None), (2, 1, Some(0), None)]),
            ("a switch at once", &[(0, 1, Some(0), None), (1, 2, Some(1), Some(None))]),
            (
                "lost, then another one",
                &[
                    (0, 1, Some(0), None),
                    (10, 1, None, None),
                    (12, 1, None, None),
                    (15, 2, Some(1), Some(Some(5))),
                    (16, 2, Some(1), None),
                ],
            ),
            (
                "the time of an interruption is not added to the next one",
                &[
                    (0, 1, Some(0), None),
                    (1, 1, None, None),
                    (2, 1, Some(0), None),
                    (3, 2, Some(1), Some(None)),
                ],
            ),
        ];
        let start = Instant::now();
        for (story, steps) in histories {
            let mut watch = Watch::default();
            for (seconds, epoch, primary, expected) in *steps {
                let now = start + Duration::from_secs(*seconds);
                let expected =
                    expected.map(|without| Failover { without: without.map(Duration::from_secs) });
                let found = watch.see(&snapshot(*epoch, *primary), now);
                assert_eq!(found, expected, "{story}, after {seconds} s");
            }
        }
    }

    #[tokio::test]
    async fn published_changes_are_counted_until_the_topology_goes() {
        let (topology, _evidence) = Topology::new(snapshot(1, Some(0)));
        let control = Arc::new(ControlMetrics::new(SystemTime::UNIX_EPOCH));
        let counted = count(Arc::clone(&topology), control.cluster("main"));
        let task = tokio::spawn(counted);
        let total = |count| format!("tiffin_failovers_total{{cluster=\"main\"}} {count}");
        let reaches = async |count: u64| {
            while !control.render().lines().any(|line| line == total(count)) {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(20);
        timeout(patience, reaches(0)).await.expect("counted");
        // The task has looked at the first snapshot once it waits for the next.
        tokio::task::yield_now().await;
        topology.publish(Snapshot { version: 1, ..snapshot(2, Some(1)) });
        timeout(patience, reaches(1)).await.expect("counted");
        drop(topology);
        timeout(patience, task).await.expect("it ends").expect("no panic");
    }
}
