//! The monitor against real servers.

use super::catalog::{CatalogSlot, PostgresCatalogs, PostgresLoader};
use super::{Memory, Monitor, MonitorHandle, Past, first_snapshot};
use crate::cli::sandbox::servers::{Cluster as Servers, Mode, Options, Server};
use crate::config::tls::ServerTlsConnector;
use crate::config::{Address, Cluster, NodeConfig, fixture};
use crate::sql::{Catalog, Effect, classify};
use crate::topology::{Health, Lag, Node, Role, Snapshot, Topology};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For what takes some rounds of probes; generous, as the machine may be busy.
pub(super) const WITHIN: Duration = Duration::from_secs(60);
/// Several rounds; a busy machine takes longer for them.
const SNAPSHOTS_MIN: usize = 20;
/// `watcher` may see everything, `nobody` not the receivers.
const SETUP: &str = "CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher; \
                     CREATE ROLE nobody LOGIN; CREATE TABLE t (n int)";

pub(super) struct Watched {
    pub(super) topology: Arc<Topology>,
    pub(super) handle: MonitorHandle,
}

/// `pg0`, the primary, and two replicas.
fn servers() -> Servers {
    let options = Options {
        hba: vec!["host all all 127.0.0.1/32 trust".into()],
        settings: vec![("autovacuum".into(), "off".into())],
        init_sql: vec![SETUP.into()],
        ..Options::default()
    };
    Servers::start(options).unwrap()
}

/// The cluster as configured, nodes in the given order of servers.
fn cluster(servers: &Servers, order: &[usize]) -> Cluster {
    let address = |port| Address::Tcp { host: "127.0.0.1".into(), port };
    let nodes = order.iter().map(|&number| {
        let server = &servers.servers()[number];
        NodeConfig { address: address(server.port), ..fixture::node(&server.name) }
    });
    fixture::cluster(nodes)
}

fn watch(servers: &Servers, order: &[usize], user: &str) -> Watched {
    let mut cluster = cluster(servers, order);
    cluster.service.user = user.to_owned();
    watch_cluster(cluster, Memory::default())
}

pub(super) fn watch_cluster(cluster: Cluster, memory: Memory) -> Watched {
    let cluster = Arc::new(cluster);
    let (topology, evidence) = Topology::new(first_snapshot(&cluster));
    let tls = Arc::new(ServerTlsConnector::disabled());
    let past = Past { memory, ..Past::default() };
    let handle = Monitor::spawn(cluster, topology.clone(), evidence, &tls, past);
    Watched { topology, handle }
}

impl Watched {
    pub(super) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let mut changed = self.topology.subscribe();
        let wait = async {
            loop {
                let snapshot = self.topology.load_full();
                if holds(&snapshot) {
                    return snapshot;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(WITHIN, wait).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("{what}: {:#?}", self.topology.load_full()),
        }
    }

    /// The node's lag in ms in each snapshot of a while; `None` is an unknown lag.
    pub(super) async fn lags(&self, name: &str, during: Duration) -> Vec<Option<u64>> {
        let mut changed = self.topology.subscribe();
        let (begun, mut seen) = (Instant::now(), Vec::new());
        while begun.elapsed() < during || seen.len() < SNAPSHOTS_MIN {
            changed.changed().await.unwrap();
            seen.push(age_ms(node(&self.topology.load(), name)));
        }
        seen
    }

    /// The same, of a while in which the primary wrote nothing: by themselves servers write
    /// something now and then.
    async fn idle_lags(&self, servers: &Servers, name: &str, during: Duration) -> Vec<Option<u64>> {
        let sql = "SELECT concat(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn())";
        let position = || servers.primary().value(sql).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < WITHIN {
            let before = position();
            self.until("caught up", |s| s.nodes.iter().all(|n| age_ms(n) == Some(0))).await;
            let lags = self.lags(name, during).await;
            if position() == before {
                return lags;
            }
        }
        panic!("the primary is never idle");
    }
}

pub(super) fn node<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Node {
    snapshot.node_by_name(name).unwrap()
}

pub(super) fn age_ms(node: &Node) -> Option<u64> {
    match node.lag {
        Lag::Unknown => None,
        Lag::Known { age, .. } => Some(age.as_millis() as u64),
    }
}

async fn connect(port: u16) -> (tokio_postgres::Client, tokio::task::JoinSet<()>) {
    let config = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) =
        tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    (client, tasks)
}

/// Commits on the server about every 10 ms until dropped.
async fn write_to(port: u16) -> tokio::task::JoinSet<()> {
    let (client, mut tasks) = connect(port).await;
    tasks.spawn(async move {
        while client.batch_execute("INSERT INTO t VALUES (1)").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tasks
}

#[tokio::test]
async fn follows_a_real_cluster() {
    let servers = servers();
    let watched = watch(&servers, &[2, 0, 1], "watcher");
    roles_are_probed(&watched).await;
    an_idle_primary_means_no_lag(&watched, &servers).await;
    a_write_is_known_as_applied_without_waiting_for_the_next_round(&servers).await;
    unflushed_and_page_ends_are_no_lag(&watched, &servers).await;
    catalogs_are_loaded(&watched, &servers).await;
    apply_delay_is_measured(&watched, &servers).await;
    paused_replay_and_a_cut_receiver_are_seen(&watched, &servers).await;
    a_frozen_replica_delays_nobody(&watched, &servers).await;
    // One whose user may not see the receivers.
    let blind = watch(&servers, &[0, 1, 2], "nobody");
    blind.until("all seen", |snapshot| snapshot.nodes.iter().all(|n| n.in_read_set)).await;
    a_promotion_is_followed(&watched, &blind, &servers).await;
    a_successor_remembers(watched, &servers).await;
}

/// What listens on the configured port is no PostgreSQL server.
#[tokio::test]
async fn strangers_on_the_port_are_unhealthy_and_harm_nobody() {
    let garbage = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = [garbage.local_addr().unwrap(), silent.local_addr().unwrap(), closed];
    let mut babble = tokio::task::JoinSet::new();
    babble.spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let nodes = addresses.iter().zip(["garbage", "silent", "closed"]).map(|(address, name)| {
        let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
        NodeConfig { address, ..fixture::node(name) }
    });
    let mut cluster = fixture::cluster(nodes);
    cluster.monitor.timeout = Duration::from_millis(200);
    let watched = watch_cluster(cluster, Memory::default());
    let snapshot = watched
        .until("all unhealthy", |snapshot| {
            let unhealthy = |node: &Node| matches!(node.health, Health::Unhealthy { .. });
            snapshot.nodes.iter().all(unhealthy)
        })
        .await;
    assert_eq!(&*snapshot.no_primary_because, "no node answers");
    for (name, words) in [("silent", "no answer within 200 ms"), ("closed", "refused")] {
        let reason = &node(&snapshot, name).out_because;
        assert!(reason.contains(words), "{name}: {reason}");
    }
}

async fn roles_are_probed(watched: &Watched) {
    let snapshot = watched
        .until("all in place", |snapshot| {
            snapshot.primary.is_some() && snapshot.nodes.iter().all(|node| node.in_read_set)
        })
        .await;
    let roles: Vec<_> = snapshot.nodes.iter().map(|node| (&*node.name, node.role)).collect();
    let expected = [("pg2", Role::Replica), ("pg0", Role::Primary), ("pg1", Role::Replica)];
    assert_eq!(roles, expected);
    assert_eq!(snapshot.epoch.0, 1);
    assert!(snapshot.no_primary_because.is_empty());
    watched
        .until("round trips", |snapshot| snapshot.nodes.iter().all(|n| !n.round_trip.is_zero()))
        .await;
}

async fn an_idle_primary_means_no_lag(watched: &Watched, servers: &Servers) {
    for name in ["pg1", "pg2"] {
        let lags = watched.idle_lags(servers, name, Duration::from_secs(2)).await;
        assert!(lags.iter().all(|lag| *lag == Some(0)), "{name}: {lags:?}");
    }
}

/// Whoever waits for a fresh sample says so, and gets it long before the next round.
async fn a_write_is_known_as_applied_without_waiting_for_the_next_round(servers: &Servers) {
    let mut slow = cluster(servers, &[0, 1, 2]);
    slow.monitor.interval = 2 * WITHIN;
    let watched = watch_cluster(slow, Memory::default());
    let ask = || watched.topology.report(crate::topology::Evidence::ProbeNow);
    let asked = tokio::time::interval(Duration::from_millis(50));
    let asking = async {
        let mut asked = asked;
        loop {
            asked.tick().await;
            ask();
        }
    };
    let known = async {
        watched.until("primary", |snapshot| snapshot.primary.is_some()).await;
        servers.primary().execute("INSERT INTO t VALUES (0)").unwrap();
        let acknowledged = Instant::now();
        let applied =
            |node: &Node| node.applied_at.is_some_and(|applied_at| applied_at > acknowledged);
        watched.until("applied", |snapshot| snapshot.nodes.iter().all(applied)).await;
    };
    tokio::select! {
        () = known => {}
        () = asking => {}
    }
}

/// A record that ends with its page leaves the primary's insert position behind the next page's
/// header; an open transaction's records stay in the primary's memory. Neither can be applied.
async fn unflushed_and_page_ends_are_no_lag(watched: &Watched, servers: &Servers) {
    let (client, _connection) = connect(servers.primary().port).await;
    client.batch_execute("BEGIN; INSERT INTO t SELECT generate_series(1, 5000)").await.unwrap();
    for name in ["pg1", "pg2"] {
        let lags = watched.idle_lags(servers, name, Duration::from_millis(1500)).await;
        assert!(lags.iter().all(|lag| *lag == Some(0)), "{name}: {lags:?}");
    }
    client.batch_execute("ROLLBACK").await.unwrap();

    // After 15 s the background writer would move the position on by itself.
    let soon = Duration::from_secs(12);
    let sizes = end_a_record_with_its_page(&client).await;
    let applied = |instant: Instant| {
        move |snapshot: &Snapshot| {
            snapshot.nodes.iter().all(|node| node.applied_at.is_some_and(|at| at > instant))
        }
    };
    let begun = Instant::now();
    watched.until(&format!("page end after {sizes:?}"), applied(begun)).await;
    assert!(begun.elapsed() < soon, "page end after {sizes:?}: {:?}", begun.elapsed());
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    let begun = Instant::now();
    watched.until("segment end", applied(begun)).await;
    assert!(begun.elapsed() < soon, "segment end: {:?}", begun.elapsed());
}

/// Commits messages of such sizes that the last commit record ends with a page.
async fn end_a_record_with_its_page(client: &tokio_postgres::Client) -> Vec<i64> {
    const PAGE: i64 = 8192;
    let mut sizes = Vec::new();
    let (mut size, mut overhead) = (0, 200);
    for _ in 0..200 {
        let position = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn";
        let at = |sql| async move {
            let row = client.query_one(&format!("SELECT ({sql})::bigint"), &[]).await.unwrap();
            row.get::<_, i64>(0)
        };
        let before = at(position).await;
        if sizes.len() > 1 && before % PAGE == 24 {
            return sizes;
        }
        if !sizes.is_empty() {
            size = (PAGE - before % PAGE - overhead).max(0);
        }
        let message = format!("SELECT pg_logical_emit_message(true, '', repeat('x', {size}))");
        client.batch_execute(&message).await.unwrap();
        let after = at(position).await;
        // What crosses a page counts the next one's header too.
        if after / PAGE == before / PAGE {
            overhead = after - before - size;
        }
        sizes.push(size);
    }
    panic!("no record ended with its page: {sizes:?}");
}

async fn catalogs_are_loaded(watched: &Watched, servers: &Servers) {
    let cluster = Arc::new(cluster(servers, &[2, 0, 1]));
    let tls = Arc::new(ServerTlsConnector::disabled());
    let loader = PostgresLoader::new(cluster, watched.topology.clone(), tls);
    let runtime = tokio::runtime::Handle::current();
    let catalogs = PostgresCatalogs::new(loader, Duration::from_secs(60), Duration::ZERO, runtime);
    let effect = |catalog: &Catalog, text: &str| {
        classify(text.as_bytes(), crate::sql::Dialect::STANDARD, catalog, 1 << 20).effect
    };
    let slot = catalogs.get("postgres");
    assert_ne!(effect(&slot.load(), "SELECT * FROM t"), Effect::Read, "nothing is known yet");
    loaded(&slot).await;
    assert_eq!(effect(&slot.load(), "SELECT * FROM t"), Effect::Read);

    let setup = "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'; \
         CREATE FUNCTION g(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'; \
         CREATE VIEW v AS SELECT f(n) FROM t; \
         CREATE DOMAIN small AS int CHECK (VALUE < 10)";
    servers.primary().execute(setup).unwrap();
    catalogs.ddl_ran("postgres");
    assert_ne!(effect(&slot.load(), "SELECT * FROM t"), Effect::Read, "in doubt");
    loaded(&slot).await;
    let table = [
        ("SELECT * FROM t", true),
        ("SELECT g(n) FROM t", true),
        ("SELECT f(n) FROM t", false),
        ("SELECT * FROM v", false),
    ];
    for (text, read) in table {
        assert_eq!(effect(&slot.load(), text) == Effect::Read, read, "{text}");
    }
    // Somebody else's DDL is found without being told.
    servers.primary().execute("CREATE TABLE later (n int)").unwrap();
    let begun = Instant::now();
    while effect(&slot.load(), "SELECT * FROM later") != Effect::Read {
        assert!(begun.elapsed() < WITHIN, "the new table is not known");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(catalogs.counts().failed.load(std::sync::atomic::Ordering::Relaxed), 0);
}

async fn loaded(slot: &CatalogSlot) {
    let begun = Instant::now();
    while !slot.load().is_loaded() {
        assert!(begun.elapsed() < WITHIN, "the catalog is not loaded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn apply_delay_is_measured(watched: &Watched, servers: &Servers) {
    let _writes = write_to(servers.primary().port).await;
    servers.replica(0).set_apply_delay(2_000).unwrap();
    watched
        .until("two seconds late", |snapshot| {
            let node = node(snapshot, "pg1");
            age_ms(node).is_some_and(|lag| lag > 1900) && !node.in_read_set
        })
        .await;
    // A busy machine may apply some commits later still, and none earlier.
    let mut lags = watched.lags("pg1", Duration::from_secs(3)).await;
    lags.sort_unstable();
    let (first, middle) = (lags[0], lags[lags.len() / 2]);
    assert!(first.is_some_and(|lag| lag >= 1850), "{lags:?}");
    assert!(middle.is_some_and(|lag| lag.abs_diff(2000) <= 150), "{lags:?}");
    let mut lags = watched.lags("pg2", Duration::from_secs(1)).await;
    lags.sort_unstable();
    assert!(lags[lags.len() / 2].is_some_and(|lag| lag <= 250), "{lags:?}");
    watched.until("pg2 stays", |snapshot| node(snapshot, "pg2").in_read_set).await;

    servers.replica(0).set_apply_delay(0).unwrap();
    let snapshot = watched.until("back", |snapshot| node(snapshot, "pg1").in_read_set).await;
    assert!(age_ms(node(&snapshot, "pg1")).is_some_and(|lag| lag <= 1000));
}

/// A fault of a replica: what makes it, what the reason says, what mends it.
type Fault = (fn(&Server) -> anyhow::Result<()>, &'static str, fn(&Server) -> anyhow::Result<()>);

async fn paused_replay_and_a_cut_receiver_are_seen(watched: &Watched, servers: &Servers) {
    let table: [Fault; 2] = [
        (Server::pause_replay, "replay is paused", Server::resume_replay),
        (Server::cut_receiver, "it receives from nobody", Server::restore_receiver),
    ];
    for (cause, remark, cure) in table {
        cause(servers.replica(1)).unwrap();
        let out = |snapshot: &Snapshot| {
            let late = node(snapshot, "pg2");
            let is_out = !late.in_read_set && age_ms(late).is_some_and(|lag| lag > 1500);
            is_out && node(snapshot, "pg1").in_read_set
        };
        let writes = write_to(servers.primary().port).await;
        let snapshot = watched.until(remark, out).await;
        let reason = node(&snapshot, "pg2").out_because.clone();
        assert!(reason.contains(remark), "{reason}");
        drop(writes);
        cure(servers.replica(1)).unwrap();
        watched.until("back", |snapshot| node(snapshot, "pg2").in_read_set).await;
    }
}

async fn a_frozen_replica_delays_nobody(watched: &Watched, servers: &Servers) {
    servers.replica(1).sigstop().unwrap();
    let begun = Instant::now();
    let mut changed = watched.topology.subscribe();
    let (mut samples, mut last) = (0, None);
    while node(&watched.topology.load(), "pg2").health == Health::Healthy {
        assert!(begun.elapsed() < WITHIN);
        changed.changed().await.unwrap();
        let snapshot = watched.topology.load();
        assert!(snapshot.primary.is_some() && node(&snapshot, "pg1").in_read_set);
        let applied = node(&snapshot, "pg1").applied_at;
        samples += u32::from(applied != std::mem::replace(&mut last, applied));
    }
    // Three probes of a second each; the others were asked ten times a second meanwhile, or as
    // often as the machine can.
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(samples > 6, "{samples} in {:?}", begun.elapsed());
    servers.replica(1).sigcont().unwrap();
    watched.until("thawed", |snapshot| node(snapshot, "pg2").in_read_set).await;
}

async fn a_promotion_is_followed(watched: &Watched, blind: &Watched, servers: &Servers) {
    let before = watched.topology.load_full();
    let (new, other) = (servers.replica(0), servers.replica(1));
    new.promote().unwrap();
    let promoted = Instant::now();
    let snapshot = watched
        .until("pg1 is primary", |snapshot| {
            snapshot.primary.is_some_and(|id| &*snapshot.node(id).name == "pg1")
        })
        .await;
    println!("seen {:?} after pg_promote", promoted.elapsed());
    assert_eq!(snapshot.epoch.0, before.epoch.0 + 1);
    let old = node(&snapshot, "pg0");
    assert_eq!(old.role, Role::Unknown);
    assert!(old.out_because.contains("timeline 2 is known"), "{}", old.out_because);
    let behind =
        watched.until("pg2 is left behind", |snapshot| !node(snapshot, "pg2").in_read_set).await;
    let reason = &node(&behind, "pg2").out_because;
    assert!(reason.contains("timeline 1, the primary on 2"), "{reason}");

    servers.follow(other, new).unwrap();
    watched.until("pg2 follows", |snapshot| node(snapshot, "pg2").in_read_set).await;
    // Without pg_monitor its timeline is only known from its next restart point.
    assert!(!node(&blind.topology.load(), "pg2").in_read_set);
    new.execute("CHECKPOINT").unwrap();
    servers.wait_caught_up(new).unwrap();
    other.execute("CHECKPOINT").unwrap();
    blind.until("pg2 follows", |snapshot| node(snapshot, "pg2").in_read_set).await;

    // The new primary dies; the old one still accepts writes and must not get any.
    new.stop(Mode::Immediate).unwrap();
    let snapshot = watched.until("no primary", |snapshot| snapshot.primary.is_none()).await;
    assert_eq!(node(&snapshot, "pg0").role, Role::Unknown);
    let never = watched.lags("pg0", Duration::from_secs(1)).await;
    assert!(!never.is_empty() && watched.topology.load().primary.is_none());
    new.start().unwrap();
    let snapshot = watched.until("pg1 again", |snapshot| snapshot.primary.is_some()).await;
    assert_eq!(snapshot.epoch.0, before.epoch.0 + 1, "the same node on the same timeline");

    let failovers = crate::failover::log::failovers(&watched.handle.journal().entries());
    assert_eq!(failovers.len(), 2, "{failovers:#?}");
}

/// After a reload of the configuration the fence still stands.
async fn a_successor_remembers(watched: Watched, servers: &Servers) {
    let epoch = watched.topology.load().epoch;
    let memory = watched.handle.stop().await.unwrap().past.memory;
    assert_eq!(memory.timeline.map(|timeline| timeline.0), Some(2));
    let only_the_old = watch_cluster(cluster(servers, &[0]), memory.clone());
    let snapshot = only_the_old
        .until("refused", |snapshot| snapshot.no_primary_because.contains("timeline 2 is known"))
        .await;
    assert!(snapshot.primary.is_none());
    let whole = watch_cluster(cluster(servers, &[0, 1, 2]), memory);
    let snapshot = whole.until("followed", |snapshot| snapshot.primary.is_some()).await;
    assert_eq!(&*snapshot.node(snapshot.primary.unwrap()).name, "pg1");
    assert_eq!(snapshot.epoch, epoch, "it is the primary that it was");
}
