//! Numbers of the pools of server connections. Pools come and go with users and databases.

use super::tally::Tally;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Pools on the page. Users and databases may be any that the servers accept, and a page that
/// grows with them takes the scraper down; pools beyond this work and are only not shown.
const POOLS_LISTED_MAX: usize = 4096;

/// What a pool is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolLabels {
    pub cluster: Arc<str>,
    pub node: Arc<str>,
    pub user: Arc<str>,
    pub database: Arc<str>,
}

/// One worker's part of a pool. One writer at a time: a thread, or whoever holds the pool's lock.
#[derive(Debug, Default)]
pub struct PoolStats {
    idle: Tally,
    active: Tally,
    waiting: Tally,
    opened: Tally,
    waits: Tally,
    waited_ns: Tally,
}

/// The negative one of a wrapping counter.
const MINUS_ONE: u64 = u64::MAX;

impl PoolStats {
    /// A connection was opened and serves a session.
    pub fn opened(&self) {
        self.opened.add(1);
        self.active.add(1);
    }

    /// An idle connection was taken by a session.
    #[inline]
    pub fn taken(&self) {
        self.idle.add(MINUS_ONE);
        self.active.add(1);
    }

    /// A session gave its connection back.
    #[inline]
    pub fn returned(&self) {
        self.active.add(MINUS_ONE);
        self.idle.add(1);
    }

    /// A connection was closed while a session had it.
    pub fn active_closed(&self) {
        self.active.add(MINUS_ONE);
    }

    /// An idle connection was closed, or another worker took it.
    pub fn idle_removed(&self) {
        self.idle.add(MINUS_ONE);
    }

    /// An idle connection came from another worker, or was opened ahead of need.
    pub fn idle_added(&self) {
        self.idle.add(1);
    }

    /// A session starts to wait for a connection.
    pub fn wait_started(&self) {
        self.waiting.add(1);
    }

    /// It got one, or gave up.
    pub fn wait_ended(&self, waited: Duration) {
        self.waiting.add(MINUS_ONE);
        self.waits.add(1);
        self.waited_ns.add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Connections that no session has, in this worker's part.
    pub fn idle(&self) -> u64 {
        gauge(self.idle.get())
    }

    /// Connections that sessions have, in this worker's part: what `least_connections` compares.
    pub fn active(&self) -> u64 {
        gauge(self.active.get())
    }
}

/// A wrapping sum as a gauge: a moment's disagreement between workers is not a huge number.
fn gauge(sum: u64) -> u64 {
    u64::try_from(sum.cast_signed()).unwrap_or(0)
}

/// A pool's numbers over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolNumbers {
    pub idle: u64,
    pub active: u64,
    pub waiting: u64,
    pub opened_total: u64,
    pub waits_total: u64,
    pub waited_total: Duration,
}

/// Where pools announce themselves. Locked only when a pool is made and when somebody looks.
#[derive(Debug, Default)]
pub struct PoolRegistry {
    entries: Mutex<Vec<(PoolLabels, Weak<PoolStats>)>>,
}

impl PoolRegistry {
    /// Numbers for a pool, or for a worker's part of it: those with the same labels are added up.
    /// They leave the page when the last `Arc` is dropped.
    pub fn register(&self, labels: PoolLabels) -> Arc<PoolStats> {
        let stats = Arc::new(PoolStats::default());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(_, stats)| stats.strong_count() > 0);
        if entries.len() < POOLS_LISTED_MAX {
            entries.push((labels, Arc::downgrade(&stats)));
        }
        stats
    }

    /// The numbers of all pools, sorted by their labels.
    pub fn numbers(&self) -> BTreeMap<PoolLabels, PoolNumbers> {
        let mut sums: BTreeMap<PoolLabels, PoolStats> = BTreeMap::new();
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, stats) in entries.iter() {
            if let Some(stats) = stats.upgrade() {
                sums.entry(labels.clone()).or_default().absorb(&stats);
            }
        }
        drop(entries);
        sums.into_iter().map(|(labels, stats)| (labels, stats.numbers())).collect()
    }
}

impl PoolStats {
    fn absorb(&self, other: &PoolStats) {
        self.idle.add(other.idle.get());
        self.active.add(other.active.get());
        self.waiting.add(other.waiting.get());
        self.opened.add(other.opened.get());
        self.waits.add(other.waits.get());
        self.waited_ns.add(other.waited_ns.get());
    }

    fn numbers(&self) -> PoolNumbers {
        PoolNumbers {
            idle: gauge(self.idle.get()),
            active: gauge(self.active.get()),
            waiting: gauge(self.waiting.get()),
            opened_total: self.opened.get(),
            waits_total: self.waits.get(),
            waited_total: Duration::from_nanos(self.waited_ns.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(user: &str) -> PoolLabels {
        PoolLabels {
            cluster: "main".into(),
            node: "pg-a".into(),
            user: user.into(),
            database: "shop".into(),
        }
    }

    #[test]
    fn parts_of_a_pool_on_two_workers_are_added_up() {
        let registry = PoolRegistry::default();
        let (one, two) = (registry.register(labels("app")), registry.register(labels("app")));
        one.opened();
        one.returned();
        // The second worker takes the first one's idle connection.
        one.idle_removed();
        two.idle_added();
        two.taken();
        two.wait_started();
        two.wait_started();
        two.wait_ended(Duration::from_millis(5));

        let numbers = registry.numbers();
        let expected = PoolNumbers {
            idle: 0,
            active: 1,
            waiting: 1,
            opened_total: 1,
            waits_total: 1,
            waited_total: Duration::from_millis(5),
        };
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [(labels("app"), expected)]);
    }

    #[test]
    fn a_connection_that_another_worker_closed_does_not_show_as_a_huge_number() {
        let registry = PoolRegistry::default();
        let stats = registry.register(labels("app"));
        stats.idle_removed();
        assert_eq!(stats.idle(), 0);
        assert_eq!(registry.numbers()[&labels("app")].idle, 0);
    }

    #[test]
    fn a_dropped_pool_leaves_the_page() {
        let registry = PoolRegistry::default();
        let kept = registry.register(labels("app"));
        drop(registry.register(labels("batch")));
        assert_eq!(registry.numbers().into_keys().collect::<Vec<_>>(), [labels("app")]);
        drop(kept);
        assert!(registry.numbers().is_empty());
    }

    #[test]
    fn pools_beyond_the_limit_work_and_are_not_listed() {
        let registry = PoolRegistry::default();
        let pools: Vec<_> = (0..POOLS_LISTED_MAX + 1)
            .map(|number| registry.register(labels(&format!("u{number}"))))
            .collect();
        pools[POOLS_LISTED_MAX].opened();
        assert_eq!(pools[POOLS_LISTED_MAX].active(), 1);
        assert_eq!(registry.numbers().len(), POOLS_LISTED_MAX);
    }
}
