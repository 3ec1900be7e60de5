//! The monitor against real servers of MySQL and MariaDB.

use super::Memory;
use super::tests::{WITHIN, Watched, age_ms, node, watch_cluster};
use crate::cli::sandbox::servers::mysql::{self, Cluster as Servers, Options, Server, client_opts};
use crate::config::{Address, Cluster, Engine, NodeConfig, fixture};
use crate::topology::{Health, Role, Snapshot};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use secrecy::SecretString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// Between the writes of somebody who keeps the primary from being idle.
const WRITE_PAUSE: Duration = Duration::from_millis(10);
/// How far a reported lag may be from the true one; on a machine that is too busy to probe every
/// 100 ms as far as one and a half rounds take.
const LAG_ERROR_MS_MAX: u64 = 150;

/// `my0`, the primary, and two replicas.
fn servers(engine: mysql::Engine) -> Servers {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
    let mut options = Options::of(engine);
    options.template_cache = Some(cache);
    options.init_sql = vec![
        "CREATE TABLE app.beat (id int PRIMARY KEY, at bigint)".into(),
        "INSERT INTO app.beat VALUES (1, 0)".into(),
        "CREATE USER nobody IDENTIFIED BY 'secret'".into(),
    ];
    Servers::start(options).unwrap()
}

fn cluster(servers: &Servers) -> Cluster {
    let nodes = servers.servers().iter().map(|server| {
        let address = Address::Tcp { host: "127.0.0.1".into(), port: server.port };
        NodeConfig { address, ..fixture::node(&server.name) }
    });
    let mut cluster = fixture::cluster(nodes);
    cluster.engine = match servers.primary().engine {
        mysql::Engine::MySql => Engine::Mysql,
        mysql::Engine::MariaDb => Engine::Mariadb,
    };
    cluster.service.user = servers.service.user.clone();
    cluster.service.password = Some(SecretString::from(servers.service.password.as_str()));
    cluster
}

fn healthy(snapshot: &Snapshot) -> bool {
    snapshot.primary.is_some() && snapshot.nodes.iter().all(|node| node.in_read_set)
}

fn is_primary(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.primary.is_some_and(|id| &*snapshot.node(id).name == name)
}

async fn connect(servers: &Servers, server: &Server) -> Conn {
    Conn::new(client_opts(server.port, &servers.app)).await.unwrap()
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// Writes the time to the server again and again until dropped.
async fn beats(servers: &Servers, server: &Server) -> JoinSet<()> {
    let mut connection = connect(servers, server).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let sql = format!("UPDATE beat SET at = {}", now_us());
            connection.query_drop(sql).await.unwrap();
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    });
    tasks
}

#[tokio::test]
async fn mysql_is_watched() {
    is_watched(mysql::Engine::MySql).await;
}

#[tokio::test]
async fn mariadb_is_watched() {
    is_watched(mysql::Engine::MariaDb).await;
}

async fn is_watched(engine: mysql::Engine) {
    let servers = servers(engine);
    let watched = watch_cluster(cluster(&servers), Memory::default());
    roles_and_an_idle_primary(&watched, &servers).await;
    a_delay_is_measured(&watched, &servers).await;
    stopped_threads_are_seen(&watched, &servers).await;
    without_privileges_lag_is_measured_all_the_same(&servers).await;
    a_writable_replica_gets_nothing(&watched, &servers).await;
    a_switchover_is_followed(&watched, &servers).await;
    a_returned_primary_is_refused(&watched, &servers).await;
}

async fn roles_and_an_idle_primary(watched: &Watched, servers: &Servers) {
    let snapshot = watched.until("all are well", healthy).await;
    assert!(is_primary(&snapshot, "my0"), "{snapshot:#?}");
    assert_eq!(snapshot.epoch.0, 1);
    for (node, server) in snapshot.nodes.iter().zip(servers.servers()) {
        let expected = if node.id.0 == 0 { Role::Primary } else { Role::Replica };
        assert_eq!(node.role, expected);
        let version = server.value("SELECT VERSION()").unwrap();
        assert_eq!(node.version.as_deref(), Some(version.as_str()));
        assert!(node.position.is_some());
    }
    // A probe that is overdue on a busy machine counts as lag for a moment.
    let mut lags = watched.lags("my1", Duration::from_secs(1)).await;
    lags.sort_unstable();
    assert_eq!(lags[lags.len() / 2], Some(0), "{lags:?}");
    let applied = |snapshot: &Snapshot| node(snapshot, "my1").applied_at;
    let before = applied(&watched.topology.load());
    watched.until("the promise is renewed", |snapshot| applied(snapshot) > before).await;
}

/// The delay itself is not exact, MySQL and MariaDB count in seconds: what is reported is
/// compared with how old the data is.
async fn a_delay_is_measured(watched: &Watched, servers: &Servers) {
    let _beats = beats(servers, servers.primary()).await;
    servers.replica(0).set_apply_delay(2).unwrap();
    let late = |snapshot: &Snapshot| {
        let late = node(snapshot, "my1");
        age_ms(late).is_some_and(|lag| lag > 1_000) && !late.in_read_set
    };
    let snapshot = watched.until("it is late", late).await;
    let because = node(&snapshot, "my1").out_because.clone();
    assert!(because.contains("told to apply 2 s late"), "{because}");
    let mut replica = connect(servers, servers.replica(0)).await;
    let mut changed = watched.topology.subscribe();
    let (mut truths, mut lags, mut rounds, mut last) = (Vec::new(), Vec::new(), 0, None);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) || lags.len() < 10 {
        changed.changed().await.unwrap();
        let (reported, applied) = {
            let snapshot = watched.topology.load();
            let late = node(&snapshot, "my1");
            (age_ms(late).unwrap(), late.applied_at)
        };
        rounds += u64::from(applied != std::mem::replace(&mut last, applied));
        let beat: u64 = replica.query_first("SELECT at FROM beat").await.unwrap().unwrap();
        if beat > 0 {
            truths.push(now_us().saturating_sub(beat) / 1_000);
            lags.push(reported);
        }
    }
    truths.sort_unstable();
    lags.sort_unstable();
    let (true_ms, lag_ms) = (truths[truths.len() / 2], lags[lags.len() / 2]);
    println!("measured: lag of a replica told to be 2 s late: {lag_ms} ms, in truth {true_ms} ms");
    let round_ms = begun.elapsed().as_millis() as u64 / rounds.max(1);
    let allowed = LAG_ERROR_MS_MAX.max(round_ms * 3 / 2);
    assert!(true_ms.abs_diff(lag_ms) <= allowed, "{lags:?} {truths:?}");
    assert!((1_000..4_000).contains(&lag_ms), "{lags:?}");
    servers.replica(0).set_apply_delay(0).unwrap();
    watched.until("back", healthy).await;
}

type Fault = (fn(&Server) -> anyhow::Result<()>, &'static str);

async fn stopped_threads_are_seen(watched: &Watched, servers: &Servers) {
    let table: [Fault; 2] =
        [(Server::stop_receiving, "is stopped"), (Server::stop_applying, "applier is stopped")];
    let replica = servers.replica(1);
    for (cause, remark) in table {
        cause(replica).unwrap();
        let writes = beats(servers, servers.primary()).await;
        let out = |snapshot: &Snapshot| {
            let late = node(snapshot, "my2");
            !late.in_read_set && age_ms(late).is_some_and(|lag| lag > 1_500)
        };
        let snapshot = watched.until(remark, out).await;
        let because = node(&snapshot, "my2").out_because.clone();
        assert!(because.contains(remark), "{because}");
        assert!(node(&snapshot, "my1").in_read_set);
        let first = age_ms(node(&snapshot, "my2"));
        watched.until("it grows", |s| age_ms(node(s, "my2")) > first.map(|ms| ms + 500)).await;
        drop(writes);
        replica.resume().unwrap();
        watched.until("back", healthy).await;
    }
}

async fn without_privileges_lag_is_measured_all_the_same(servers: &Servers) {
    let mut cluster = cluster(servers);
    cluster.service.user = "nobody".into();
    cluster.service.password = Some(SecretString::from("secret"));
    let watched = watch_cluster(cluster, Memory::default());
    watched.until("all are well", healthy).await;
    // A privilege that comes later is noticed.
    let privilege = match servers.primary().engine {
        mysql::Engine::MySql => "REPLICATION CLIENT",
        mysql::Engine::MariaDb => "SLAVE MONITOR",
    };
    servers.primary().execute(&format!("GRANT {privilege} ON *.* TO nobody")).unwrap();
    servers.wait_caught_up(servers.primary()).unwrap();
    let replica = servers.replica(1);
    replica.stop_receiving().unwrap();
    let writes = beats(servers, servers.primary()).await;
    let told = |snapshot: &Snapshot| node(snapshot, "my2").out_because.contains("is stopped");
    watched.until("its receiver is seen", told).await;
    drop(writes);
    replica.resume().unwrap();
    watched.until("back", healthy).await;
}

async fn a_writable_replica_gets_nothing(watched: &Watched, servers: &Servers) {
    let replica = servers.replica(1);
    replica.set_read_only(false).unwrap();
    let snapshot = watched
        .until("refused", |s| matches!(node(s, "my2").health, Health::Unhealthy { .. }))
        .await;
    let because = &node(&snapshot, "my2").out_because;
    assert!(because.contains("replicates from my0 and accepts writes"), "{because}");
    assert!(is_primary(&snapshot, "my0"));
    replica.set_read_only(true).unwrap();
    watched.until("back", healthy).await;
}

async fn a_switchover_is_followed(watched: &Watched, servers: &Servers) {
    let before = watched.topology.load().epoch.0;
    let (old, new) = (servers.primary(), servers.replica(0));
    old.set_read_only(true).unwrap();
    let snapshot = watched.until("nobody", |snapshot| snapshot.primary.is_none()).await;
    assert!(snapshot.no_primary_because.contains("no longer the primary"), "{snapshot:#?}");
    servers.wait_caught_up(old).unwrap();
    new.promote().unwrap();
    let snapshot = watched.until("my1", |snapshot| is_primary(snapshot, "my1")).await;
    assert_eq!(snapshot.epoch.0, before + 1);
    for server in [old, servers.replica(1)] {
        servers.follow(server, new).unwrap();
    }
    new.execute("INSERT INTO app.beat VALUES (2, 0)").unwrap();
    watched.until("all follow", healthy).await;
}

/// The primary dies with a write that nobody got, another one takes over, and it comes back.
async fn a_returned_primary_is_refused(watched: &Watched, servers: &Servers) {
    let epoch = watched.topology.load().epoch.0;
    let (dead, new, other) = (servers.replica(0), servers.primary(), servers.replica(1));
    servers.wait_caught_up(dead).unwrap();
    for replica in [new, other] {
        replica.stop_receiving().unwrap();
    }
    dead.execute("INSERT INTO app.beat VALUES (3, 0)").unwrap();
    dead.kill9().unwrap();
    watched.until("nobody", |snapshot| snapshot.primary.is_none()).await;
    new.promote().unwrap();
    let snapshot = watched.until("my0", |snapshot| is_primary(snapshot, "my0")).await;
    assert_eq!(snapshot.epoch.0, epoch + 1);
    servers.follow(other, new).unwrap();
    new.execute("INSERT INTO app.beat VALUES (4, 0)").unwrap();
    watched.until("my2 follows", |snapshot| node(snapshot, "my2").in_read_set).await;

    dead.start().unwrap();
    let refused = |snapshot: &Snapshot| {
        node(snapshot, "my1").out_because.contains("became the primary after it")
    };
    let snapshot = watched.until("refused", refused).await;
    assert!(is_primary(&snapshot, "my0"), "{snapshot:#?}");
    assert_eq!(snapshot.epoch.0, epoch + 1);
    // Alone it is refused as well, also by a monitor that only remembers.
    new.stop().unwrap();
    let snapshot = watched.until("nobody", |snapshot| snapshot.primary.is_none()).await;
    assert!(refused(&snapshot), "{snapshot:#?}");
    new.start().unwrap();
    watched.until("my0 again", |snapshot| is_primary(snapshot, "my0")).await;
    let begun = Instant::now();
    let topology = Arc::clone(&watched.topology);
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(!is_primary(&topology.load(), "my1"));
        tokio::time::sleep(WRITE_PAUSE).await;
    }
    assert!(begun.elapsed() < WITHIN);
}
