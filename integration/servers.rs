//! The harness: what it says about its servers must be true, and nothing may stay behind.

use crate::support::{PATIENCE, options};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiffin::cli::sandbox::servers::{Cluster, Mode, Options, Server, wait_until};

#[test]
fn a_cluster_streams_lags_stops_and_vanishes() {
    let t = std::time::Instant::now();
    let cluster = Cluster::start(options()).unwrap();
    println!("start {:?}", t.elapsed());
    let folder = cluster.folder().to_path_buf();
    let primary = cluster.primary();
    primary.execute("CREATE TABLE t (n int)").unwrap();
    cluster.wait_caught_up(primary).unwrap();
    let replica = cluster.replica(0);
    assert_eq!(replica.value("SELECT count(*) FROM t").unwrap(), "0");
    assert_eq!(replica.value("SELECT pg_is_in_recovery()").unwrap(), "t");

    cluster.replica(1).cut_receiver().unwrap();
    primary.execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(cluster.replica(1).value("SELECT count(*) FROM t").unwrap(), "0");
    cluster.replica(1).restore_receiver().unwrap();
    cluster.wait_caught_up(primary).unwrap();
    assert_eq!(cluster.replica(1).value("SELECT count(*) FROM t").unwrap(), "1");

    replica.pause_replay().unwrap();
    primary.execute("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(replica.value("SELECT count(*) FROM t").unwrap(), "1");
    replica.resume_replay().unwrap();
    cluster.wait_caught_up(primary).unwrap();

    replica.set_apply_delay(3_600_000).unwrap();
    // The standby takes the setting up when it looks: until writes stay away, it has not.
    let rows = |server: &Server| -> u64 {
        server.value("SELECT count(*) FROM t").unwrap().parse().unwrap()
    };
    let stay_away = || {
        primary.execute("INSERT INTO t VALUES (3)").unwrap();
        rows(primary) >= rows(replica) + 5
    };
    wait_until(PATIENCE, stay_away).unwrap();
    replica.set_apply_delay(0).unwrap();
    cluster.wait_caught_up(primary).unwrap();
    let written = rows(primary);

    replica.sigstop().unwrap();
    assert!(replica.is_running());
    replica.sigcont().unwrap();
    assert_eq!(rows(replica), written);

    primary.kill9().unwrap();
    assert!(!primary.is_running());
    replica.promote().unwrap();
    cluster.follow(cluster.replica(1), replica).unwrap();
    replica.execute("INSERT INTO t VALUES (4)").unwrap();
    cluster.wait_caught_up(replica).unwrap();
    assert_eq!(rows(cluster.replica(1)), written + 1);

    primary.start().unwrap();
    primary.execute("INSERT INTO t VALUES (5)").unwrap();
    primary.stop(Mode::Fast).unwrap();
    assert!(primary.value("SELECT 1").is_err());

    // Frozen servers must not survive the cluster either.
    cluster.replica(1).sigstop().unwrap();
    let t = std::time::Instant::now();
    drop(cluster);
    println!("end {:?}", t.elapsed());
    assert!(!folder.exists());
    assert_eq!(residents(&folder), Vec::<PathBuf>::new());
}

#[test]
fn nothing_stays_when_the_holder_is_killed() {
    if let Ok(path) = std::env::var("TIFFIN_TEST_HOLDER") {
        let cluster = Cluster::start(Options { replicas: 1, ..options() }).unwrap();
        std::fs::write(path, cluster.folder().to_str().unwrap()).unwrap();
        std::thread::park_timeout(Duration::from_secs(300));
        return;
    }
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers::nothing_stays_when_the_holder_is_killed"])
        .env("TIFFIN_TEST_HOLDER", note.path())
        .spawn()
        .unwrap();
    let folder = || std::fs::read_to_string(note.path()).unwrap();
    wait_until(PATIENCE, || !folder().is_empty()).unwrap();
    let folder = PathBuf::from(folder());
    assert!(!residents(&folder).is_empty());
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until(PATIENCE, || !folder.exists()).unwrap();
    assert_eq!(residents(&folder), Vec::<PathBuf>::new());
}

/// Processes that live in the folder.
pub fn residents(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.path())
        .filter(|path| {
            std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .collect()
}
