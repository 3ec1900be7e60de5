//! Lag as the proxy measures it, against lag that was made on purpose.

use crate::support::{Fixture, PATIENCE, Server, state_of, wait_until};
use std::time::{Duration, Instant};

const DELAY_MS: u64 = 2_000;
/// How far the measured lag may be from the injected one.
const TOLERANCE_S: f64 = 0.15;
/// How long an idle primary is watched for lag that is not there.
const IDLE: Duration = Duration::from_secs(30);

fn lag(fixture: &Fixture, server: &Server) -> f64 {
    fixture.metrics().sum("tiffin_node_lag_seconds", &[("node", &server.name)])
}

#[test]
fn lag_is_what_it_is() {
    let fixture = Fixture::start();
    let (primary, delayed) = (fixture.cluster.primary(), fixture.cluster.replica(1));
    let writer = fixture.direct(primary);
    writer.query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();

    // Idle: nothing to lag behind, for as long as anybody looks.
    let started = Instant::now();
    let mut idle_worst: f64 = 0.0;
    wait_until(PATIENCE, || lag(&fixture, delayed) == 0.0).expect("caught up, so no lag");
    while started.elapsed() < IDLE {
        for replica in fixture.cluster.replicas() {
            idle_worst = idle_worst.max(lag(&fixture, replica));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("measured: worst lag over 30 s on an idle primary: {idle_worst} s");
    assert_eq!(idle_worst, 0.0);

    // Every commit is applied two seconds late. The other replica is as fresh as before.
    delayed.set_apply_delay(DELAY_MS).unwrap();
    let mut samples = Vec::new();
    let mut other_worst: f64 = 0.0;
    let started = Instant::now();
    let warm = Duration::from_millis(DELAY_MS) + Duration::from_secs(2);
    while started.elapsed() < warm + Duration::from_secs(6) {
        writer.query("INSERT INTO t VALUES (1)").unwrap();
        std::thread::sleep(Duration::from_millis(5));
        if started.elapsed() > warm {
            samples.push(lag(&fixture, delayed));
            other_worst = other_worst.max(lag(&fixture, fixture.cluster.replica(0)));
        }
    }
    samples.sort_unstable_by(f64::total_cmp);
    let (low, middle, high) =
        (samples[samples.len() / 20], samples[samples.len() / 2], samples[samples.len() * 19 / 20]);
    println!("measured: lag with 2 s of delay: median {middle:.3} s, 5 % {low:.3}, 95 % {high:.3}");
    println!("measured: worst lag of the replica without delay meanwhile: {other_worst:.3} s");
    let injected = Duration::from_millis(DELAY_MS).as_secs_f64();
    for value in [low, middle, high] {
        assert!((value - injected).abs() <= TOLERANCE_S, "{value} is not {injected}");
    }
    assert!(other_worst < 1.0, "{other_worst}");
    fixture.wait_in_read_set([fixture.cluster.replica(0)]);
    delayed.set_apply_delay(0).unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());

    // Without its receiver a replica knows nothing of the primary; its lag grows all the same.
    delayed.cut_receiver().unwrap();
    let mut last = 0.0;
    for bound in [0.5, 1.0, 2.0] {
        wait_until(PATIENCE, || {
            writer.query("INSERT INTO t VALUES (1)").unwrap();
            lag(&fixture, delayed) > bound
        })
        .unwrap_or_else(|_| panic!("the lag does not grow beyond {bound}"));
        let now = lag(&fixture, delayed);
        assert!(now > last);
        last = now;
    }
    println!("measured: lag grew to {last:.3} s while the receiver was cut");
    fixture.wait_in_read_set([fixture.cluster.replica(0)]);
    delayed.restore_receiver().unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());
}

#[test]
fn what_happens_when_every_replica_lags() {
    let fixture = Fixture::build().replicas(1).key("pool.wait_timeout", "1s").start();
    let (primary, replica) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    let writer = fixture.direct(primary);
    writer.query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    // The standby takes the setting up when it looks: until a write stays away, it has not.
    writer.query("CREATE TABLE pulse (n int)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    replica.set_apply_delay(3_600_000).unwrap();
    let pulses = |server: &Server| {
        let count = server.value_in("app", "SELECT count(*) FROM pulse").unwrap();
        count.parse::<u32>().unwrap()
    };
    let late = || {
        writer.query("INSERT INTO pulse VALUES (1)").unwrap();
        pulses(primary) >= pulses(replica) + 5
    };
    wait_until(PATIENCE, late).expect("the delay");
    writer.query("INSERT INTO t VALUES (1)").unwrap();
    fixture.wait_in_read_set([]);

    let reload = |on_lag: &str| {
        let mut config = fixture.config.clone();
        config["clusters"]["main"]["routing"]["on_lag"] = on_lag.into();
        fixture.proxy.write_config(&config).unwrap();
        fixture.proxy.signal("HUP").unwrap();
    };
    let read = || fixture.session().value("SELECT inet_server_port()");
    let port = |server: &Server| server.port.to_string();

    assert_eq!(read().unwrap(), port(primary), "on_lag: primary is the default");
    reload("stale");
    wait_until(PATIENCE, || read().is_ok_and(|found| found == port(replica))).expect("stale");
    // Stale or not, a session still reads its own write.
    let session = fixture.session();
    session.query("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t").unwrap(), "2");
    reload("error");
    wait_until(PATIENCE, || read().is_err()).expect("error");
    assert!(!state_of(read()).is_empty());
    reload("wait");
    let waits = || {
        let started = Instant::now();
        read().is_err() && started.elapsed() >= Duration::from_millis(900)
    };
    wait_until(PATIENCE, waits).expect("wait");
    // A read that waits goes on when the replica has caught up.
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(read);
        replica.set_apply_delay(0).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(waited.unwrap(), port(replica));
    fixture.wait_in_read_set(fixture.cluster.replicas());
}
