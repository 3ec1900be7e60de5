//! What sessions of MySQL and MariaDB have by the transactions that replies name: reads that
//! return to replicas soon after a write, and word of a write that a new primary does not have.

use crate::support::PATIENCE;
use crate::support::mysql::{Engine, Fixture, Session, errno, on_mysql_and_mariadb};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! {
    reads_return_to_replicas_after_a_write,
    a_lost_write_is_told_once,
}

/// Where a read runs.
const PORT: &str = "SELECT @@port FROM t LIMIT 1";
const WRITE_PAUSE: Duration = Duration::from_millis(2);
const ROUNDS: u32 = 20;
const PAIRS: u32 = 300;

fn table(fixture: &Fixture) {
    let primary = fixture.cluster.primary();
    primary.execute("CREATE TABLE app.t (n int PRIMARY KEY, v int)").unwrap();
    primary.execute("INSERT INTO app.t VALUES (1, 0), (2, 0)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let session = fixture.session();
    wait_until(PATIENCE, || fixture.ran_on(&session, PORT) != primary.name).unwrap();
}

/// Others write all the time, so that no replica has ever everything.
fn reads_return_to_replicas_after_a_write(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = fixture.session();
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                other.execute(&format!("UPDATE t SET v = {n} WHERE n = 2")).unwrap();
                std::thread::sleep(WRITE_PAUSE);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            returns(engine, &fixture);
            waits(engine, &fixture);
        }));
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

fn is_on_replica(fixture: &Fixture, session: &Session) -> bool {
    session.value(PORT).unwrap() != fixture.cluster.primary().port.to_string()
}

/// How many reads go to a replica, by the time since the session's write.
fn returns(engine: Engine, fixture: &Fixture) {
    let session = fixture.session();
    let mut value = 0;
    for pause_ms in [10, 50, 100] {
        let mut on_replicas = 0;
        for _ in 0..ROUNDS {
            value += 1;
            session.execute(&format!("UPDATE t SET v = {value} WHERE n = 1")).unwrap();
            std::thread::sleep(Duration::from_millis(pause_ms));
            on_replicas += u32::from(is_on_replica(fixture, &session));
            assert_eq!(session.value("SELECT v FROM t WHERE n = 1").unwrap(), value.to_string());
        }
        println!(
            "measured: {engine:?}: {pause_ms} ms after a write {on_replicas} of {ROUNDS} reads \
             run on replicas; probes every 100 ms, others write"
        );
    }
}

/// The same with reads that wait a moment for a replica.
fn waits(engine: Engine, fixture: &Fixture) {
    let mut config = fixture.config.clone();
    config["clusters"]["main"]["routing"] = json!({ "catchup_wait": "200ms" });
    fixture.reload(&config);
    let session = fixture.session();
    wait_until(PATIENCE, || is_on_replica(fixture, &session)).unwrap();
    let (begun, mut on_replicas) = (Instant::now(), 0);
    for n in 1..=PAIRS {
        session.execute(&format!("UPDATE t SET v = {n} WHERE n = 1")).unwrap();
        on_replicas += u32::from(is_on_replica(fixture, &session));
        assert_eq!(session.value("SELECT v FROM t WHERE n = 1").unwrap(), n.to_string());
    }
    println!(
        "measured: {engine:?}: of {PAIRS} reads at once after their write {on_replicas} ran on \
         replicas with catchup_wait: 200ms, {:.1} ms for a write and two reads",
        begun.elapsed().as_secs_f64() * 1000.0 / f64::from(PAIRS)
    );
    assert!(on_replicas > PAIRS / 2, "{on_replicas} of {PAIRS} waited for a replica");
}

/// The primary dies with a write that it has acknowledged and nobody got.
fn a_lost_write_is_told_once(engine: Engine) {
    let fixture = Fixture::start(engine);
    table(&fixture);
    let servers = &fixture.cluster;
    let (kept, lost, reader) = (fixture.session(), fixture.session(), fixture.session());
    kept.execute("UPDATE t SET v = 10 WHERE n = 1").unwrap();
    lost.execute("UPDATE t SET v = 10 WHERE n = 2").unwrap();
    servers.wait_caught_up(servers.primary()).unwrap();
    let (dead, new, other) = (servers.primary(), servers.replica(0), servers.replica(1));
    for replica in [new, other] {
        replica.stop_receiving().unwrap();
    }
    lost.execute("UPDATE t SET v = 11 WHERE n = 2").unwrap();
    dead.kill9().unwrap();
    new.promote().unwrap();
    servers.follow(other, new).unwrap();
    assert_eq!(kept.value("SELECT v FROM t WHERE n = 1").unwrap(), "10");
    kept.execute("UPDATE t SET v = 12 WHERE n = 1").unwrap();
    let error = lost.execute("INSERT INTO t VALUES (3, 0)").unwrap_err();
    assert_eq!(errno(&error), Some(1180), "{error:#}");
    assert!(format!("{error:#}").contains("does not have all"), "{error:#}");
    assert_eq!(lost.value("SELECT count(*) FROM t WHERE n = 3").unwrap(), "0", "it was not run");
    assert_eq!(lost.value("SELECT v FROM t WHERE n = 2").unwrap(), "10");
    lost.execute("INSERT INTO t VALUES (3, 0)").unwrap();
    assert_eq!(reader.value("/* tiffin: primary */ SELECT count(*) FROM t").unwrap(), "3");
    let metrics = fixture.proxy.get("/metrics").unwrap().1;
    assert!(metrics.contains("tiffin_lost_writes_total{cluster=\"main\"} 1\n"), "{metrics}");
}
