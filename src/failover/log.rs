//! The failovers of a cluster, told from the monitor's journal.

use crate::monitor::journal::{Change, Entry};
use crate::topology::NodeId;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// One time without a primary, or one change of the primary without such a time.
#[derive(Debug, Clone)]
pub struct Failover {
    /// When the old primary was given up, or the new one was seen if that came first.
    pub began: Instant,
    pub began_wall: SystemTime,
    pub from: Option<NodeId>,
    /// `None` while there is no primary yet. The same node as `from` if it came back.
    pub to: Option<NodeId>,
    /// How long requests that need a primary were held; `None` while they still are.
    pub outage: Option<Duration>,
    /// The sentences of its changes, in order.
    pub steps: Vec<Arc<str>>,
}

/// The failovers in a journal's entries, oldest first. The first primary after the start is none.
pub fn failovers(entries: &[Entry]) -> Vec<Failover> {
    let mut done = Vec::new();
    let mut open: Option<Failover> = None;
    let mut primary: Option<NodeId> = None;
    for entry in entries {
        match entry.change {
            Change::PrimaryLost { node } => open = Some(Failover::begin(entry, Some(node))),
            Change::StillNoPrimary => {
                if let Some(failover) = &mut open {
                    failover.steps.push(entry.text.clone());
                }
            }
            Change::PrimaryFound { node } => {
                let started = open.take().or_else(|| {
                    primary.map(|before| Failover {
                        steps: vec![],
                        ..Failover::begin(entry, Some(before))
                    })
                });
                done.extend(started.map(|failover| failover.end(entry, node)));
                primary = Some(node);
            }
            _ => {}
        }
    }
    done.extend(open);
    done
}

impl Failover {
    fn begin(entry: &Entry, from: Option<NodeId>) -> Failover {
        Failover {
            began: entry.at,
            began_wall: entry.wall,
            from,
            to: None,
            outage: None,
            steps: vec![entry.text.clone()],
        }
    }

    fn end(mut self, entry: &Entry, to: NodeId) -> Failover {
        self.to = Some(to);
        self.outage = Some(entry.at.saturating_duration_since(self.began));
        self.steps.push(entry.text.clone());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: Instant, ms: u64, change: Change) -> Entry {
        let at = start + Duration::from_millis(ms);
        Entry { at, wall: SystemTime::now(), change, text: Arc::from(format!("{change:?}")) }
    }

    #[test]
    fn tells_outages_and_silent_changes() {
        let (a, b) = (NodeId(0), NodeId(1));
        let start = Instant::now();
        let entries = [
            entry(start, 0, Change::PrimaryFound { node: a }),
            entry(start, 50, Change::Unhealthy { node: a }),
            entry(start, 100, Change::PrimaryLost { node: a }),
            entry(start, 150, Change::StillNoPrimary),
            entry(start, 400, Change::PrimaryFound { node: b }),
            entry(start, 900, Change::PrimaryFound { node: a }),
            entry(start, 950, Change::PrimaryLost { node: a }),
        ];
        let told: Vec<_> = failovers(&entries)
            .into_iter()
            .map(|f| (f.from, f.to, f.outage.map(|outage| outage.as_millis()), f.steps.len()))
            .collect();
        let expected = [
            (Some(a), Some(b), Some(300), 3),
            (Some(b), Some(a), Some(0), 1),
            (Some(a), None, None, 1),
        ];
        assert_eq!(told, expected);
    }
}
