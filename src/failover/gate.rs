//! Holds requests that need a primary while there is none.
//!
//! Requests wait outside any pool, bounded in time and number, and go on with the first snapshot
//! that has a primary. The gate is shared by all workers.

use crate::topology::Topology;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// One cluster's gate.
#[derive(Debug)]
pub struct Gate {
    hold: Duration,
    waiting_max: usize,
    waiting: AtomicUsize,
}

/// Why a request was not let through: the cluster's fault, the statement was not sent, and it may
/// be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GateError {
    #[error("no primary to send this to since {} ms: {because}", .held.as_millis())]
    TimedOut { held: Duration, because: String },
    #[error("no primary to send this to, and {waiting} requests already wait for one: {because}")]
    Full { waiting: usize, because: String },
}

impl GateError {
    /// `cannot_connect_now`, and `too_many_connections` for the full gate.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            GateError::TimedOut { .. } => "57P03",
            GateError::Full { .. } => "53300",
        }
    }
}

impl Gate {
    /// `hold`: how long a request may wait. `waiting_max`: how many at once.
    pub fn new(hold: Duration, waiting_max: usize) -> Gate {
        Gate { hold, waiting_max, waiting: AtomicUsize::new(0) }
    }

    /// Requests that wait at this moment.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// When a request that begins to need a primary now has waited long enough. A request that
    /// comes to the gate several times keeps the deadline of its first time.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.hold
    }

    /// Returns once requests may go to the current snapshot's primary; at once if they may now.
    /// Also when less or more is held than before: the request may not need the primary.
    ///
    /// Cancel safe: a request that goes away leaves no trace. May be called from any runtime.
    ///
    /// # Errors
    /// See [`GateError`].
    pub async fn wait_for_primary(
        &self,
        topology: &Topology,
        deadline: Instant,
    ) -> Result<(), GateError> {
        let hold = {
            let snapshot = topology.load();
            if snapshot.open_primary().is_some() {
                return Ok(());
            }
            snapshot.hold
        };
        // Before the next look, so that no publication is missed.
        let mut changed = topology.subscribe();
        let because = || topology.load().closed_because().to_owned();
        let Some(_place) = Place::take(self) else {
            return Err(GateError::Full { waiting: self.waiting(), because: because() });
        };
        let found = async {
            let closed = || {
                let snapshot = topology.load();
                snapshot.open_primary().is_none() && snapshot.hold == hold
            };
            while closed() {
                if changed.changed().await.is_err() {
                    // Nobody publishes any more; the deadline ends it.
                    std::future::pending::<()>().await;
                }
            }
        };
        let timed = tokio::time::timeout_at(deadline, found).await;
        timed.map_err(|_| GateError::TimedOut { held: self.hold, because: because() })
    }
}

/// A place among those that wait; given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate) -> Option<Place<'a>> {
        let max = gate.waiting_max;
        let free = |waiting| (waiting < max).then_some(waiting + 1);
        gate.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Place(&gate.waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Epoch, Hold, NodeId, Snapshot};
    use std::sync::Arc;

    const HOLD: Duration = Duration::from_secs(10);

    fn snapshot(version: u64, primary: Option<u16>) -> Snapshot {
        Snapshot {
            version,
            epoch: Epoch(1),
            primary: primary.map(NodeId),
            no_primary_because: Arc::from("pg-a does not answer"),
            hold: Hold::Nothing,
            closed: false,
            lost: None,
            branch: None,
            timeline: None,
            nodes: Vec::new(),
            last_change: None,
        }
    }

    fn topology(primary: Option<u16>) -> Arc<Topology> {
        Topology::new(snapshot(1, primary)).0
    }

    #[tokio::test(start_paused = true)]
    async fn open_while_there_is_a_primary() {
        let gate = Gate::new(HOLD, 0);
        let before = Instant::now();
        assert_eq!(gate.wait_for_primary(&topology(Some(0)), gate.deadline()).await, Ok(()));
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn opens_with_the_snapshot_that_has_one() {
        let (gate, topology) = (Gate::new(HOLD, 1), topology(None));
        let before = Instant::now();
        let publish = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            topology.publish(snapshot(2, None));
            assert_eq!(gate.waiting(), 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
            topology.publish(snapshot(3, Some(1)));
        };
        let (waited, ()) = tokio::join!(gate.wait_for_primary(&topology, gate.deadline()), publish);
        assert_eq!(waited, Ok(()));
        assert_eq!(before.elapsed(), Duration::from_secs(3));
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_the_hold_also_over_several_visits() {
        let (gate, topology) = (Gate::new(HOLD, 1), topology(None));
        let (before, deadline) = (Instant::now(), gate.deadline());
        tokio::time::sleep(Duration::from_secs(4)).await;
        let error = gate.wait_for_primary(&topology, deadline).await.unwrap_err();
        assert_eq!(before.elapsed(), HOLD);
        assert_eq!(error.sqlstate(), "57P03");
        assert!(error.to_string().contains("pg-a does not answer"), "{error}");
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_at_once_when_full() {
        let (gate, topology) = (Gate::new(HOLD, 1), topology(None));
        let first = gate.wait_for_primary(&topology, gate.deadline());
        let second = async {
            tokio::task::yield_now().await;
            let before = Instant::now();
            let refused = gate.wait_for_primary(&topology, gate.deadline()).await;
            (before.elapsed(), refused)
        };
        let (_, (took, refused)) = tokio::join!(first, second);
        assert_eq!(took, Duration::ZERO);
        assert_eq!(refused.map_err(|error| error.sqlstate()), Err("53300"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_away_leaves_its_place() {
        let (gate, topology) = (Gate::new(HOLD, 1), topology(None));
        let wait = gate.wait_for_primary(&topology, gate.deadline());
        assert!(tokio::time::timeout(Duration::from_secs(1), wait).await.is_err());
        assert_eq!(gate.waiting(), 0);
    }

    #[test]
    fn wakes_requests_of_other_runtimes() {
        let gate = Arc::new(Gate::new(HOLD, 64));
        let topology = topology(None);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (gate, topology) = (gate.clone(), topology.clone());
                std::thread::spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(
                        gate.wait_for_primary(&topology, Instant::now() + Duration::from_secs(60)),
                    )
                })
            })
            .collect();
        while gate.waiting() < 4 {
            std::thread::yield_now();
        }
        topology.publish(snapshot(2, Some(0)));
        for worker in workers {
            assert_eq!(worker.join().unwrap(), Ok(()));
        }
    }
}
