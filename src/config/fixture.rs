//! For tests of other modules: a checked cluster as a short file would give it.

use super::{
    Address, Balance, Cluster, Engine, Failover, FailoverMode, Gate, Monitor, NodeConfig, OnLag,
    Pool, PoolMode, Quorum, Routing, ServerTls, ServerTlsMode, Service,
};
use crate::sql::Consistency;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A bound of one second, level `session`.
pub(crate) fn routing() -> Routing {
    Routing {
        consistency: Consistency::Session,
        lag_max: Duration::from_secs(1),
        lag_bytes_max: None,
        balance: Balance::LeastLag,
        on_lag: OnLag::Primary,
        catchup_wait: Duration::ZERO,
        read_functions: vec![],
        write_functions: vec![],
    }
}

/// At a host of the same name.
pub(crate) fn node(name: &str) -> NodeConfig {
    NodeConfig {
        name: Arc::from(name),
        address: Address::Tcp { host: name.into(), port: 5432 },
        zone: None,
        tags: vec![],
        weight: 1,
        priority: 100,
    }
}

/// Fast probes by the user `watcher`, without TLS.
pub(crate) fn cluster(nodes: impl IntoIterator<Item = NodeConfig>) -> Cluster {
    Cluster {
        name: Arc::from("main"),
        engine: Engine::Postgres,
        databases: BTreeMap::new(),
        nodes: nodes.into_iter().collect(),
        patroni: None,
        service: Service { user: "watcher".into(), password: None, database: "postgres".into() },
        server_tls: ServerTls {
            mode: ServerTlsMode::Disable,
            ca: None,
            certificate: None,
            key: None,
            direct: false,
        },
        pool: Pool {
            mode: PoolMode::Transaction,
            size_max: 10,
            idle_min: 0,
            idle_timeout: Duration::from_secs(60),
            lifetime_max: Duration::from_secs(3600),
            wait_timeout: Duration::from_secs(5),
            waiting_max: 100,
            connect_timeout: Duration::from_secs(5),
            application_name_add_host: false,
            statements_max: 100,
        },
        monitor: Monitor {
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            failures: 3,
            catalog_interval: Duration::from_secs(30),
        },
        routing: routing(),
        gate: Gate { hold: Duration::from_secs(10), waiting_max: 100 },
        failover: failover(),
    }
}

/// By the user `watcher`.
pub(crate) fn failover() -> Failover {
    Failover {
        mode: FailoverMode::Observe,
        login: Service { user: "watcher".into(), password: None, database: "postgres".into() },
        replication: None,
        confirm: Duration::from_millis(500),
        timeout: Duration::from_secs(5),
        quorum: Quorum::Off,
        resolve_commits: false,
        replay: None,
        lease: None,
        step_timeout: Duration::from_secs(30),
        retry: Duration::from_secs(5),
        fence_command: None,
        rejoin_command: None,
        command_timeout: Duration::from_secs(60),
    }
}
