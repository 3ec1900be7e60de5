//! The counters of the query path: one set per worker thread, added up when somebody looks.
//!
//! [`WorkerStats`] is the pen: it can be sent to the worker's thread but not be shared between
//! threads, so each counter has exactly one writer and the compiler sees to it. [`StatsRegistry`]
//! hands the pens out and reads all sets.

use super::histogram::Histogram;
use super::labels::{
    AuthFailure, CommitOutcome, CommitWait, ErrorOrigin, GateOutcome, PINS, ReplayOutcome,
    SQLSTATE_CLASS_COUNT, ServerClosed, UnsafeReason, pin_index, sqlstate_class_index,
};
use super::reason::RouteReason;
use super::tally::{Sum, Tally, sums};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Index of a node in its cluster's configuration; the same number as `topology::NodeId`, which
/// this module must not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub u16);

/// Name of the cluster and node that take counts of an index outside of the layout. Such an index
/// is a defect of the caller; it must be seen on the page and must not end the program.
pub const UNLISTED: &str = "unlisted";

/// The clusters and nodes of one configuration, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    clusters: Vec<ClusterLayout>,
    nodes_total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ClusterLayout {
    name: Arc<str>,
    nodes: Vec<Arc<str>>,
    /// Position of the cluster's first node in the flat array of nodes.
    first: usize,
}

impl Layout {
    /// From each cluster's name and its nodes' names.
    pub fn new(clusters: impl IntoIterator<Item = (Arc<str>, Vec<Arc<str>>)>) -> Layout {
        let mut layout = Layout { clusters: Vec::new(), nodes_total: 0 };
        for (name, nodes) in clusters {
            let first = layout.nodes_total;
            layout.nodes_total += nodes.len();
            layout.clusters.push(ClusterLayout { name, nodes, first });
        }
        layout
    }

    /// Position in the flat array of nodes; the one after the last is for what is not listed.
    #[inline]
    fn slot(&self, cluster: usize, node: NodeIndex) -> usize {
        let node = usize::from(node.0);
        match self.clusters.get(cluster) {
            Some(listed) if node < listed.nodes.len() => listed.first + node,
            _ => self.nodes_total,
        }
    }
}

sums! {
    /// Counts that belong to no cluster.
    pub struct GlobalCounts {
        clients_opened: Tally,
        clients_closed: Tally,
        clients_refused: Tally,
        bytes_in: Tally,
        bytes_out: Tally,
        cache_hits: Tally,
        cache_misses: Tally,
        unsafe_statements: [Tally; UnsafeReason::COUNT],
        pinned: [Tally; PINS.len()],
        unpinned: [Tally; PINS.len()],
        pinned_micros: [Tally; PINS.len()],
        errors: [[Tally; SQLSTATE_CLASS_COUNT]; ErrorOrigin::COUNT],
        auth_failures: [Tally; AuthFailure::COUNT],
        cancels_forwarded: Tally,
        cancels_unknown: Tally,
    }
}

sums! {
    /// Counts of one cluster.
    pub struct ClusterCounts {
        stale_reads_avoided: Tally,
        fenced_writes_avoided: Tally,
        lost_writes: Tally,
        commits_resolved: [Tally; CommitOutcome::COUNT],
        replays: [Tally; ReplayOutcome::COUNT],
        commit_waits: [Tally; CommitWait::COUNT],
        gate_entered: Tally,
        gate_left: [Tally; GateOutcome::COUNT],
        gate_wait: Histogram,
    }
}

sums! {
    /// Counts of one node.
    pub struct NodeCounts {
        routed: [Tally; RouteReason::COUNT],
        query: Histogram,
        transactions: Tally,
        retried: Tally,
        pool_wait: Histogram,
        server_opened: Tally,
        server_connect_failed: Tally,
        server_reused: Tally,
        server_closed: [Tally; ServerClosed::COUNT],
    }
}

/// All counters of one worker.
#[derive(Debug)]
struct Counts {
    layout: Arc<Layout>,
    global: GlobalCounts,
    /// As the layout, and one more for what is not listed.
    clusters: Box<[ClusterCounts]>,
    nodes: Box<[NodeCounts]>,
}

/// One worker's counters, to write. Belongs to one thread: it can move, not be shared.
#[derive(Debug)]
pub struct WorkerStats {
    counts: Arc<Counts>,
    /// Makes the type `!Sync`: a second writer would lose counts.
    one_writer: PhantomData<Cell<()>>,
}

impl WorkerStats {
    #[inline]
    fn cluster(&self, cluster: usize) -> &ClusterCounts {
        let unlisted = self.counts.clusters.len() - 1;
        &self.counts.clusters[cluster.min(unlisted)]
    }

    #[inline]
    fn node(&self, cluster: usize, node: NodeIndex) -> &NodeCounts {
        &self.counts.nodes[self.counts.layout.slot(cluster, node)]
    }

    /// A statement (or the first of a transaction) was sent to a node, and why.
    #[inline]
    pub fn routed(&self, cluster: usize, node: NodeIndex, reason: RouteReason) {
        self.node(cluster, node).routed[reason as usize].add(1);
    }

    /// A statement was answered: from the last byte of it sent to the end of its reply.
    #[inline]
    pub fn query_done(&self, cluster: usize, node: NodeIndex, took: Duration) {
        self.node(cluster, node).query.record(took);
    }

    /// A transaction ended on a node (a statement outside of a transaction block is one).
    #[inline]
    pub fn transaction_done(&self, cluster: usize, node: NodeIndex) {
        self.node(cluster, node).transactions.add(1);
    }

    /// A statement that had failed on this node was sent again elsewhere.
    pub fn retried(&self, cluster: usize, node: NodeIndex) {
        self.node(cluster, node).retried.add(1);
    }

    /// A session got a connection after waiting this long. Call it only if it had to wait.
    pub fn pool_wait(&self, cluster: usize, node: NodeIndex, waited: Duration) {
        self.node(cluster, node).pool_wait.record(waited);
    }

    /// A new connection to a server is ready for use.
    pub fn server_opened(&self, cluster: usize, node: NodeIndex) {
        self.node(cluster, node).server_opened.add(1);
    }

    pub fn server_connect_failed(&self, cluster: usize, node: NodeIndex) {
        self.node(cluster, node).server_connect_failed.add(1);
    }

    /// A session got a connection that was already open.
    #[inline]
    pub fn server_reused(&self, cluster: usize, node: NodeIndex) {
        self.node(cluster, node).server_reused.add(1);
    }

    pub fn server_closed(&self, cluster: usize, node: NodeIndex, why: ServerClosed) {
        self.node(cluster, node).server_closed[why as usize].add(1);
    }

    /// A read went elsewhere because the replica that it would have gone to was not fresh enough
    /// for its session.
    pub fn stale_read_avoided(&self, cluster: usize) {
        self.cluster(cluster).stale_reads_avoided.add(1);
    }

    /// A session came back to a new primary that does not have what it had written.
    pub fn lost_write(&self, cluster: usize) {
        self.cluster(cluster).lost_writes.add(1);
    }

    /// A statement was kept from a connection of an older epoch or a node that is not to be
    /// trusted.
    pub fn fenced_write_avoided(&self, cluster: usize) {
        self.cluster(cluster).fenced_writes_avoided.add(1);
    }

    /// A commit's server was lost while it was under way.
    pub fn commit_resolved(&self, cluster: usize, outcome: CommitOutcome) {
        self.cluster(cluster).commits_resolved[outcome as usize].add(1);
    }

    /// An open transaction has lost its primary.
    pub fn replayed(&self, cluster: usize, outcome: ReplayOutcome) {
        self.cluster(cluster).replays[outcome as usize].add(1);
    }

    /// A read that moved from a replica to the primary has waited for commits under way.
    pub fn commits_waited_for(&self, cluster: usize, outcome: CommitWait) {
        self.cluster(cluster).commit_waits[outcome as usize].add(1);
    }

    /// A request starts to wait for a primary. Each call is followed by one of `gate_left`.
    pub fn gate_entered(&self, cluster: usize) {
        self.cluster(cluster).gate_entered.add(1);
    }

    pub fn gate_left(&self, cluster: usize, waited: Duration, outcome: GateOutcome) {
        let counts = self.cluster(cluster);
        counts.gate_left[outcome as usize].add(1);
        counts.gate_wait.record(waited);
    }

    /// A text was found in the cache of classified texts, or had to be parsed.
    #[inline]
    pub fn classify_cache(&self, hit: bool) {
        let global = &self.counts.global;
        if hit { global.cache_hits.add(1) } else { global.cache_misses.add(1) }
    }

    /// A statement was taken for a write for want of knowledge (`Effect::Unknown`, or it was too
    /// long to be parsed). `reason_code` is the classifier's (`Statement::reason_code`); a word
    /// that is not in [`UnsafeReason`] counts as `other`.
    pub fn classified_unsafe(&self, reason_code: &str) {
        let reason = UnsafeReason::from_code(reason_code);
        self.counts.global.unsafe_statements[reason as usize].add(1);
    }

    /// A client's connection was accepted. Each call is followed by one of `client_closed`, which
    /// may come from another worker.
    pub fn client_opened(&self) {
        self.counts.global.clients_opened.add(1);
    }

    pub fn client_closed(&self) {
        self.counts.global.clients_closed.add(1);
    }

    /// A client was turned away because of `limits.clients_max`.
    pub fn client_refused(&self) {
        self.counts.global.clients_refused.add(1);
    }

    /// Bytes received from clients.
    #[inline]
    pub fn bytes_in(&self, bytes: usize) {
        self.counts.global.bytes_in.add(bytes as u64);
    }

    /// Bytes sent to clients.
    #[inline]
    pub fn bytes_out(&self, bytes: usize) {
        self.counts.global.bytes_out.add(bytes as u64);
    }

    /// A session must keep its connection; `pin` is `Pin::as_str()`. Each call is followed by one
    /// of `unpinned` with the same word, at the latest when the session ends.
    pub fn pinned(&self, pin: &str) {
        self.counts.global.pinned[pin_index(pin)].add(1);
    }

    /// `held`: how long it lasted.
    pub fn unpinned(&self, pin: &str, held: Duration) {
        let micros = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        self.counts.global.unpinned[pin_index(pin)].add(1);
        self.counts.global.pinned_micros[pin_index(pin)].add(micros);
    }

    /// A client received an error; only the SQLSTATE's class (two characters) is counted.
    pub fn error(&self, origin: ErrorOrigin, sqlstate: &[u8]) {
        self.counts.global.errors[origin as usize][sqlstate_class_index(sqlstate)].add(1);
    }

    pub fn auth_failed(&self, why: AuthFailure) {
        self.counts.global.auth_failures[why as usize].add(1);
    }

    /// A cancel request came in; `forwarded` if its key belonged to a running statement.
    pub fn cancel_request(&self, forwarded: bool) {
        let global = &self.counts.global;
        if forwarded { global.cancels_forwarded.add(1) } else { global.cancels_unknown.add(1) }
    }
}

/// Hands out [`WorkerStats`] and adds them up.
#[derive(Debug, Default)]
pub struct StatsRegistry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    live: Vec<Arc<Counts>>,
    /// Sums of workers that are gone: a counter on the page never goes back.
    retired: Totals,
}

impl StatsRegistry {
    /// Counters for one worker. After a reload that changes clusters or nodes a worker asks for
    /// new ones; what it counted before stays in the sums.
    pub fn worker(&self, layout: &Arc<Layout>) -> WorkerStats {
        let counts = Arc::new(Counts {
            layout: Arc::clone(layout),
            global: Sum::zero(),
            clusters: (0..=layout.clusters.len()).map(|_| Sum::zero()).collect(),
            nodes: (0..=layout.nodes_total).map(|_| Sum::zero()).collect(),
        });
        let mut inner = self.lock();
        inner.retire();
        inner.live.push(Arc::clone(&counts));
        WorkerStats { counts, one_writer: PhantomData }
    }

    /// The sums over all workers. Workers go on counting meanwhile.
    pub fn totals(&self) -> Totals {
        let mut inner = self.lock();
        inner.retire();
        let mut totals = Totals::default();
        totals.absorb(&inner.retired);
        for counts in &inner.live {
            totals.add(counts);
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Sums stay usable whatever happened to a thread that held the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Moves the counters whose writer is gone into the sums.
    fn retire(&mut self) {
        let Inner { live, retired } = self;
        live.retain_mut(|counts| match Arc::get_mut(counts) {
            // Nobody else has it, so nobody will write it again.
            Some(counts) => {
                retired.add(counts);
                false
            }
            None => true,
        });
    }
}

/// Sums by name. Clusters and nodes are sorted, so that pages are stable.
#[derive(Debug)]
pub struct Totals {
    pub global: GlobalCounts,
    pub clusters: BTreeMap<Arc<str>, ClusterCounts>,
    pub nodes: BTreeMap<(Arc<str>, Arc<str>), NodeCounts>,
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { global: Sum::zero(), clusters: BTreeMap::new(), nodes: BTreeMap::new() }
    }
}

impl Totals {
    fn add(&mut self, counts: &Counts) {
        self.global.absorb(&counts.global);
        let mut sums = counts.clusters.iter();
        let mut nodes = counts.nodes.iter();
        for cluster in &counts.layout.clusters {
            let Some(sum) = sums.next() else { break };
            self.cluster(&cluster.name).absorb(sum);
            for (name, sum) in cluster.nodes.iter().zip(nodes.by_ref()) {
                self.node(&cluster.name, name).absorb(sum);
            }
        }
        self.add_unlisted(sums.next(), nodes.next());
    }

    /// The page shows the place for unknown indexes only once it has been used.
    fn add_unlisted(&mut self, cluster: Option<&ClusterCounts>, node: Option<&NodeCounts>) {
        let name: Arc<str> = UNLISTED.into();
        if let Some(cluster) = cluster.filter(|counts| counts.is_used()) {
            self.cluster(&name).absorb(cluster);
        }
        if let Some(node) = node.filter(|counts| counts.is_used()) {
            self.node(&name, &name).absorb(node);
        }
    }

    fn absorb(&mut self, other: &Totals) {
        self.global.absorb(&other.global);
        for (name, counts) in &other.clusters {
            self.cluster(name).absorb(counts);
        }
        for ((cluster, node), counts) in &other.nodes {
            self.node(cluster, node).absorb(counts);
        }
    }

    fn cluster(&mut self, name: &Arc<str>) -> &ClusterCounts {
        self.clusters.entry(Arc::clone(name)).or_insert_with(Sum::zero)
    }

    fn node(&mut self, cluster: &Arc<str>, node: &Arc<str>) -> &NodeCounts {
        let name = (Arc::clone(cluster), Arc::clone(node));
        self.nodes.entry(name).or_insert_with(Sum::zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn layout(clusters: &[(&str, &[&str])]) -> Arc<Layout> {
        Arc::new(Layout::new(clusters.iter().map(|(name, nodes)| {
            (Arc::from(*name), nodes.iter().map(|node| Arc::from(*node)).collect())
        })))
    }

    fn routed(totals: &Totals, cluster: &str, node: &str, reason: RouteReason) -> Option<u64> {
        let counts = totals.nodes.get(&(cluster.into(), node.into()))?;
        Some(counts.routed[reason as usize].get())
    }

    #[test]
    fn each_node_has_its_own_counts() {
        let registry = StatsRegistry::default();
        let stats = registry.worker(&layout(&[("one", &["a", "b"]), ("two", &["a"])]));
        stats.routed(0, NodeIndex(1), RouteReason::LeastLag);
        stats.routed(1, NodeIndex(0), RouteReason::Write);
        stats.routed(1, NodeIndex(0), RouteReason::Write);
        let totals = registry.totals();
        assert_eq!(routed(&totals, "one", "a", RouteReason::LeastLag), Some(0));
        assert_eq!(routed(&totals, "one", "b", RouteReason::LeastLag), Some(1));
        assert_eq!(routed(&totals, "two", "a", RouteReason::Write), Some(2));
    }

    #[test]
    fn an_index_outside_of_the_layout_is_counted_apart() {
        let registry = StatsRegistry::default();
        let stats = registry.worker(&layout(&[("one", &["a"]), ("two", &["a"])]));
        assert_eq!(registry.totals().nodes.len(), 2);
        // The first index after a cluster's nodes is not the next cluster's first node.
        stats.routed(0, NodeIndex(1), RouteReason::Write);
        stats.routed(2, NodeIndex(0), RouteReason::Write);
        stats.routed(usize::MAX, NodeIndex(u16::MAX), RouteReason::Write);
        stats.stale_read_avoided(7);
        let totals = registry.totals();
        assert_eq!(routed(&totals, "two", "a", RouteReason::Write), Some(0));
        assert_eq!(routed(&totals, UNLISTED, UNLISTED, RouteReason::Write), Some(3));
        assert_eq!(totals.clusters[UNLISTED].stale_reads_avoided.get(), 1);
    }

    #[test]
    fn counts_of_a_worker_that_is_gone_stay_in_the_sums() {
        let registry = StatsRegistry::default();
        let before = registry.worker(&layout(&[("one", &["a", "b"])]));
        before.routed(0, NodeIndex(0), RouteReason::Write);
        before.client_opened();
        drop(before);
        // A reload took node `a` away and put `c` before `b`.
        let after = registry.worker(&layout(&[("one", &["c", "b"])]));
        after.routed(0, NodeIndex(0), RouteReason::Write);
        for _ in 0..2 {
            let totals = registry.totals();
            assert_eq!(routed(&totals, "one", "a", RouteReason::Write), Some(1));
            assert_eq!(routed(&totals, "one", "c", RouteReason::Write), Some(1));
            assert_eq!(totals.global.clients_opened.get(), 1);
            assert_eq!(registry.lock().live.len(), 1);
        }
    }

    /// Four writers count as fast as they can while a reader looks: no count is lost, and no sum
    /// ever goes back.
    #[test]
    fn readers_see_growing_sums_and_nothing_is_lost() {
        const EACH: u64 = 200_000;
        const WRITERS: u64 = 4;
        let registry = StatsRegistry::default();
        let layout = layout(&[("one", &["a", "b"])]);
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while !finished.load(Ordering::Acquire) {
                    let totals = registry.totals();
                    let now = routed(&totals, "one", "b", RouteReason::LeastLag).unwrap_or(0);
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                }
            });
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| {
                    let stats = registry.worker(&layout);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            stats.routed(0, NodeIndex(1), RouteReason::LeastLag);
                            stats.query_done(0, NodeIndex(1), Duration::from_micros(70));
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("the writer ends");
            }
            finished.store(true, Ordering::Release);
            reader.join().expect("the reader saw only growing sums");
        });
        let totals = registry.totals();
        assert_eq!(routed(&totals, "one", "b", RouteReason::LeastLag), Some(WRITERS * EACH));
        let query = &totals.nodes[&("one".into(), "b".into())].query;
        assert_eq!(query.cumulative().last(), Some(&(WRITERS * EACH)));
    }
}
