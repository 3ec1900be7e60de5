//! Every metric: name, kind, labels and help. `docs/metrics.md` lists exactly these, and a test
//! compares them. Names follow the Prometheus conventions: base units (seconds, bytes), `_total`
//! on counters.

/// The type as the exposition format names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// In the order in which the values are given when a sample is written.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! table {
    ($($id:ident: $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        /// Names a metric in the program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name { $($id,)+ }

        /// All metrics, in the order of [`Name`].
        pub const TABLE: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)+
        ];
    };
}

impl Name {
    pub fn metric(self) -> &'static Metric {
        &TABLE[self as usize]
    }
}

table! {
    // The query path, from the workers' counters.
    Routed: "tiffin_routed_total", Counter, ["cluster", "node", "reason"],
        "Statements sent to a node, by the reason of the choice.";
    QuerySeconds: "tiffin_query_seconds", Histogram, ["cluster", "node"],
        "Time from the last byte of a statement sent to a server to the end of its reply.";
    Transactions: "tiffin_transactions_total", Counter, ["cluster", "node"],
        "Transactions that ended on a node; a statement outside of a transaction block is one.";
    Retried: "tiffin_retried_total", Counter, ["cluster", "node"],
        "Statements that failed on this node before a byte reached the client and were sent again elsewhere.";
    StaleReadsAvoided: "tiffin_stale_reads_avoided_total", Counter, ["cluster"],
        "Reads sent elsewhere because a replica was not fresh enough for their session.";
    FencedWritesAvoided: "tiffin_fenced_writes_avoided_total", Counter, ["cluster"],
        "Statements kept from a connection of an older epoch or a node that is not to be trusted.";
    LostWrites: "tiffin_lost_writes_total", Counter, ["cluster"],
        "Sessions that came back to a new primary which does not have what they had written.";
    CommitsResolved: "tiffin_commits_resolved_total", Counter, ["cluster", "outcome"],
        "Commits under way on a lost primary, by what the new one says of them.";
    Replays: "tiffin_replays_total", Counter, ["cluster", "outcome"],
        "Open transactions that have lost their primary, by what came of running them again.";
    CommitWaits: "tiffin_commit_waits_total", Counter, ["cluster", "outcome"],
        "Reads that moved from a replica to the primary and waited for commits under way, by how the wait ended.";
    UnsafeStatements: "tiffin_unsafe_statements_total", Counter, ["reason"],
        "Statements taken for writes for want of knowledge.";
    ClassifyCacheHits: "tiffin_classify_cache_hits_total", Counter, [],
        "Statements whose class was remembered.";
    ClassifyCacheMisses: "tiffin_classify_cache_misses_total", Counter, [],
        "Statements that had to be parsed.";
    Errors: "tiffin_errors_total", Counter, ["origin", "class"],
        "Errors sent to clients, by who made them and the class of their SQLSTATE.";

    // Clients.
    Clients: "tiffin_clients", Gauge, [],
        "Clients connected.";
    ClientsOpened: "tiffin_clients_opened_total", Counter, [],
        "Client connections accepted.";
    ClientsRefused: "tiffin_clients_refused_total", Counter, [],
        "Client connections turned away because of limits.clients_max.";
    ClientReceivedBytes: "tiffin_client_received_bytes_total", Counter, [],
        "Bytes received from clients.";
    ClientSentBytes: "tiffin_client_sent_bytes_total", Counter, [],
        "Bytes sent to clients.";
    AuthFailures: "tiffin_auth_failures_total", Counter, ["reason"],
        "Clients that were not let in.";
    CancelRequests: "tiffin_cancel_requests_total", Counter, ["outcome"],
        "Cancel requests, forwarded to the server that ran the statement or unknown.";
    Pins: "tiffin_pins_total", Counter, ["pin"],
        "Times that a session had to keep its server connection, by cause.";
    PinnedSessions: "tiffin_pinned_sessions", Gauge, ["pin"],
        "Sessions that keep their server connection at present, by cause.";
    PinnedSeconds: "tiffin_pinned_seconds_total", Counter, ["pin"],
        "Time that sessions had to keep their server connection, by cause, counted when it ends.";

    // The gate.
    GateWaiting: "tiffin_gate_waiting", Gauge, ["cluster"],
        "Requests that wait for a primary at present.";
    GateWaits: "tiffin_gate_waits_total", Counter, ["cluster", "outcome"],
        "Waits for a primary that ended, by how they ended.";
    GateWaitSeconds: "tiffin_gate_wait_seconds", Histogram, ["cluster"],
        "Time that requests waited for a primary.";

    // Server connections and pools.
    PoolWaitSeconds: "tiffin_pool_wait_seconds", Histogram, ["cluster", "node"],
        "Time that sessions waited for a server connection; those that got one at once are not in it.";
    ServerOpened: "tiffin_server_connections_opened_total", Counter, ["cluster", "node"],
        "Connections to a server opened for clients.";
    ServerConnectFailed: "tiffin_server_connect_failures_total", Counter, ["cluster", "node"],
        "Connections to a server that could not be opened.";
    ServerReused: "tiffin_server_connections_reused_total", Counter, ["cluster", "node"],
        "Times that a session got a connection that was already open.";
    ServerClosed: "tiffin_server_connections_closed_total", Counter, ["cluster", "node", "reason"],
        "Connections to a server closed, by reason.";
    PoolConnections: "tiffin_pool_connections", Gauge,
        ["cluster", "node", "user", "database", "state"],
        "Server connections of a pool, idle or active (a session has it).";
    PoolWaiting: "tiffin_pool_waiting", Gauge, ["cluster", "node", "user", "database"],
        "Sessions that wait for a connection of a pool.";
    PoolOpened: "tiffin_pool_opened_total", Counter, ["cluster", "node", "user", "database"],
        "Server connections opened by a pool.";
    PoolWaits: "tiffin_pool_waits_total", Counter, ["cluster", "node", "user", "database"],
        "Waits for a connection of a pool that ended.";
    PoolWaitedSeconds: "tiffin_pool_waited_seconds_total", Counter,
        ["cluster", "node", "user", "database"],
        "Time that sessions waited for a connection of a pool, added up.";

    // The topology, from the snapshot at the moment of the scrape.
    ClusterHasPrimary: "tiffin_cluster_has_primary", Gauge, ["cluster"],
        "1 while the cluster has a primary, else 0.";
    ClusterEpoch: "tiffin_cluster_epoch", Gauge, ["cluster"],
        "Grows each time the primary changes.";
    SnapshotVersion: "tiffin_snapshot_version", Gauge, ["cluster"],
        "Grows with each published picture of the cluster.";
    NodeHealthy: "tiffin_node_healthy", Gauge, ["cluster", "node"],
        "1 while the node answers its probes, else 0.";
    NodeRole: "tiffin_node_role", Gauge, ["cluster", "node", "role"],
        "1 for the role that the node was seen to have, 0 for the others.";
    NodeInReadSet: "tiffin_node_in_read_set", Gauge, ["cluster", "node"],
        "1 while health and lag allow reads on the node, else 0.";
    NodeLagSeconds: "tiffin_node_lag_seconds", Gauge, ["cluster", "node"],
        "Age of the newest primary position that the replica has applied; +Inf when unknown.";
    NodeLagBytes: "tiffin_node_lag_bytes", Gauge, ["cluster", "node"],
        "Distance of the replica to the newest known primary position; absent when unknown.";
    NodeAppliedAgeSeconds: "tiffin_node_applied_age_seconds", Gauge, ["cluster", "node"],
        "Everything acknowledged longer ago than this is visible on the node; absent when unknown.";
    NodeTimeline: "tiffin_node_timeline", Gauge, ["cluster", "node"],
        "Timeline of the node's write-ahead log; absent when unknown.";
    NodePositionBytes: "tiffin_node_position_bytes", Gauge, ["cluster", "node"],
        "Offset in the write-ahead log that the node has written or applied; absent when unknown.";
    NodeRoundTripSeconds: "tiffin_node_round_trip_seconds", Gauge, ["cluster", "node"],
        "Smoothed time of a probe's round trip.";
    NodeIncarnation: "tiffin_node_incarnation", Gauge, ["cluster", "node"],
        "Grows when the node restarted or its probe connection was opened anew.";

    // Events of the control plane.
    Probes: "tiffin_probes_total", Counter, ["cluster", "node", "outcome"],
        "Probes of a node, ok or failed.";
    ProbeSeconds: "tiffin_probe_seconds", Histogram, ["cluster", "node"],
        "Time of a probe.";
    Failovers: "tiffin_failovers_total", Counter, ["cluster"],
        "Changes of the primary that were followed.";
    FailoverSeconds: "tiffin_failover_seconds", Histogram, ["cluster"],
        "Time without a primary until the new one was known.";
    FailoverLast: "tiffin_failover_last_timestamp_seconds", Gauge, ["cluster"],
        "When the primary last changed, in seconds since 1970; 0 when it has not.";
    CatalogLoads: "tiffin_catalog_loads_total", Counter, ["cluster", "outcome"],
        "Loads of the catalog (functions, views, tables), ok or failed.";
    CatalogLoaded: "tiffin_catalog_loaded_timestamp_seconds", Gauge, ["cluster"],
        "When the catalog was last loaded, in seconds since 1970; 0 when it has not been.";
    ConfigReloads: "tiffin_config_reloads_total", Counter, ["outcome"],
        "Reloads of the configuration file, ok or refused.";
    ConfigLoaded: "tiffin_config_loaded_timestamp_seconds", Gauge, [],
        "When the configuration in force was loaded, in seconds since 1970.";
    Draining: "tiffin_draining", Gauge, [],
        "1 once the program was told to end and lets running transactions finish, else 0.";
    UptimeSeconds: "tiffin_uptime_seconds", Gauge, [],
        "Time since the program started.";
    BuildInfo: "tiffin_build_info", Gauge, ["version"],
        "Always 1; the label tells the version.";

    // The process, under the names that Prometheus' own clients use.
    ProcessCpuSeconds: "process_cpu_seconds_total", Counter, [],
        "Processor time of the program, in user and kernel mode.";
    ProcessResidentMemory: "process_resident_memory_bytes", Gauge, [],
        "Memory of the program that is resident.";
    ProcessVirtualMemory: "process_virtual_memory_bytes", Gauge, [],
        "Address space of the program.";
    ProcessOpenFds: "process_open_fds", Gauge, [],
        "Open file descriptors; each client and each server connection is one.";
    ProcessMaxFds: "process_max_fds", Gauge, [],
        "File descriptors that the program may open.";
    ProcessStartTime: "process_start_time_seconds", Gauge, [],
        "When the program started, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = HashSet::new();
        for metric in TABLE {
            assert!(seen.insert(metric.name), "{} is listed twice", metric.name);
            let ours = ["tiffin_", "process_"].iter().any(|head| metric.name.starts_with(head));
            assert!(ours, "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}: counters and only they end in _total",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}: the help is a sentence", metric.name);
            let is_word = |text: &str| {
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                    && !text.starts_with('_')
            };
            assert!(is_word(metric.name) && metric.labels.iter().all(|label| is_word(label)));
            assert!(!metric.labels.contains(&"le"), "{}: le is the buckets' own", metric.name);
        }
    }

    #[test]
    fn the_name_finds_its_line() {
        assert_eq!(Name::Routed.metric().name, "tiffin_routed_total");
        assert_eq!(Name::BuildInfo.metric().name, "tiffin_build_info");
        assert_eq!(Name::ProcessStartTime as usize, TABLE.len() - 1);
    }

    /// A row of the page: name, kind, labels.
    fn documented(page: &str) -> Vec<(String, String, String)> {
        let cell = |text: &str| text.trim().to_owned();
        page.lines()
            .filter(|line| line.starts_with("| `tiffin_") || line.starts_with("| `process_"))
            .map(|line| {
                let mut cells = line.trim_matches('|').split('|');
                let mut next = || cell(cells.next().unwrap_or_default());
                (next().replace('`', ""), next(), next().replace('`', ""))
            })
            .collect()
    }

    #[test]
    fn the_page_lists_exactly_the_metrics_of_the_table() {
        let page = include_str!("../../docs/metrics.md");
        let mut listed = documented(page);
        let mut expected: Vec<_> = TABLE
            .iter()
            .map(|metric| {
                let kind = metric.kind.as_str().to_owned();
                (metric.name.to_owned(), kind, metric.labels.join(", "))
            })
            .collect();
        listed.sort();
        expected.sort();
        for row in &expected {
            assert!(listed.contains(row), "docs/metrics.md lacks or misstates {row:?}");
        }
        for row in &listed {
            assert!(expected.contains(row), "docs/metrics.md has what the table has not: {row:?}");
        }
        assert_eq!(listed, expected, "a metric is listed twice in docs/metrics.md");
    }
}
