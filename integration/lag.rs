//! Lag as the proxy measures it, against lag that was made on purpose.

use crate::support::{Fixture, PATIENCE, Server, state_of, wait_until};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DELAY_MS: u64 = 2_000;
/// How far the measured lag may be from the true one.
const TOLERANCE_S: f64 = 0.15;
/// Of the measured lag; a busy machine takes longer for them.
const SAMPLES_MIN: usize = 50;
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
    an_idle_primary_means_no_lag(&fixture);

    // From now on somebody writes all the time.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.query("INSERT INTO t VALUES (1)").unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // A panic has to end the writer as well, or the scope waits for it.
        let checks = std::panic::catch_unwind(AssertUnwindSafe(|| {
            an_injected_delay_is_measured(&fixture, delayed);
            lag_grows_without_a_receiver(&fixture, delayed);
        }));
        stop.store(true, Ordering::Relaxed);
        checks.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// What the proxy knows of each server is from now or later.
fn wait_probed(fixture: &Fixture) {
    let probes = || -> Vec<f64> {
        let metrics = fixture.metrics();
        let of = |server: &Server| {
            metrics.sum("tiffin_probes_total", &[("node", &server.name), ("outcome", "ok")])
        };
        fixture.cluster.servers().iter().map(of).collect()
    };
    let before = probes();
    // The first of them may have been under way.
    let are_new = || probes().iter().zip(&before).all(|(now, before)| *now >= before + 2.0);
    wait_until(PATIENCE, are_new).expect("probes");
}

/// Nothing to lag behind, for as long as anybody looks.
fn an_idle_primary_means_no_lag(fixture: &Fixture) {
    let caught_up =
        || fixture.cluster.replicas().iter().all(|replica| lag(fixture, replica) == 0.0);
    let position =
        || fixture.cluster.primary().value("SELECT pg_current_wal_insert_lsn()").unwrap();
    let started = Instant::now();
    let (mut idle_worst, mut looks): (f64, u32) = (0.0, 0);
    let mut last = None;
    while started.elapsed() < IDLE {
        // The servers write something by themselves now and then (running transactions, say).
        let now = Some(position());
        if now != last {
            fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
            wait_probed(fixture);
            wait_until(PATIENCE, caught_up).expect("caught up, so no lag");
            last = now;
            continue;
        }
        let worst = fixture.cluster.replicas().iter().map(|replica| lag(fixture, replica));
        let worst = worst.fold(0.0, f64::max);
        if Some(position()) == last {
            idle_worst = idle_worst.max(worst);
            looks += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("measured: worst lag over 30 s on an idle primary: {idle_worst} s, {looks} looks");
    assert_eq!(idle_worst, 0.0);
    assert!(looks > 10, "it was idle in {looks} looks only");
}

/// Every commit is applied two seconds late. The other replica is as fresh as before.
fn an_injected_delay_is_measured(fixture: &Fixture, delayed: &Server) {
    let other = fixture.cluster.replica(0);
    delayed.set_apply_delay(DELAY_MS).unwrap();
    let injected = Duration::from_millis(DELAY_MS).as_secs_f64();
    wait_until(PATIENCE, || lag(fixture, delayed) >= injected - TOLERANCE_S).expect("the delay");
    fixture.wait_in_read_set([other]);
    let started = Instant::now();
    let (mut measured, mut truths, mut others) = (Vec::new(), Vec::new(), Vec::new());
    while started.elapsed() < Duration::from_secs(6) || measured.len() < SAMPLES_MIN {
        measured.push(lag(fixture, delayed));
        truths.push(true_lag(delayed));
        others.push(lag(fixture, other));
        std::thread::sleep(Duration::from_millis(5));
    }
    let [measured, truths, others] = [measured, truths, others].map(Quantiles::of);
    println!("measured: lag with 2 s of delay: {measured}; by the replica's own clock: {truths}");
    println!("measured: lag of the replica without delay meanwhile: {others}");
    // On a machine that is too busy to apply a commit in time the truth is more than was injected.
    let error = measured.middle - truths.middle;
    assert!(error.abs() <= TOLERANCE_S, "{measured} is not {truths}");
    assert!(measured.middle >= injected - TOLERANCE_S, "{measured} is not {injected}");
    assert!(measured.low >= injected - 2.0 * TOLERANCE_S, "{measured} is not {injected}");
    assert!(others.middle < injected / 2.0, "{others}");

    delayed.set_apply_delay(0).unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());
}

/// Without its receiver a replica knows nothing of the primary; its lag grows all the same.
fn lag_grows_without_a_receiver(fixture: &Fixture, delayed: &Server) {
    delayed.cut_receiver().unwrap();
    let mut last = 0.0;
    for bound in [0.5, 1.0, 2.0] {
        let grown = || {
            let now = lag(fixture, delayed);
            let grows = now > bound && now > last;
            if grows {
                last = now;
            }
            grows
        };
        wait_until(PATIENCE, grown)
            .unwrap_or_else(|_| panic!("the lag does not grow beyond {bound}"));
    }
    println!("measured: lag grew to {last:.3} s while the receiver was cut");
    fixture.wait_in_read_set([fixture.cluster.replica(0)]);
    delayed.restore_receiver().unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());
}

/// How long ago the newest commit was made that a replica has applied, while somebody commits all
/// the time; in seconds.
fn true_lag(replica: &Server) -> f64 {
    let sql = "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())";
    replica.value(sql).unwrap().parse().unwrap()
}

/// Where most of some seconds are: the slowest of them are chance.
struct Quantiles {
    low: f64,
    middle: f64,
    high: f64,
}

impl Quantiles {
    fn of(mut samples: Vec<f64>) -> Quantiles {
        samples.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| samples[samples.len() * part / 20];
        Quantiles { low: at(1), middle: at(10), high: at(19) }
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quantiles { low, middle, high } = self;
        write!(f, "median {middle:.3} s, 5 % {low:.3}, 95 % {high:.3}")
    }
}

#[test]
fn what_happens_when_every_replica_lags() {
    let fixture = Fixture::build().replicas(1).key("pool.wait_timeout", "1s").start();
    let (primary, replica) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    let writer = fixture.direct(primary);
    // So that reads of it would go to the replica.
    fixture.create_table("t", "n int");
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

    let reload = |on_lag: &str, wait_timeout: &str| {
        let mut config = fixture.config.clone();
        config["clusters"]["main"]["routing"]["on_lag"] = on_lag.into();
        config["clusters"]["main"]["pool"]["wait_timeout"] = wait_timeout.into();
        fixture.reload(&config);
    };
    let read = || fixture.session().value("SELECT inet_server_port()");
    let port = |server: &Server| server.port.to_string();

    assert_eq!(read().unwrap(), port(primary), "on_lag: primary is the default");
    reload("stale", "1s");
    wait_until(PATIENCE, || read().is_ok_and(|found| found == port(replica))).expect("stale");
    // Stale or not, a session still reads its own write.
    let session = fixture.session();
    session.query("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(session.value("SELECT count(*) FROM t").unwrap(), "2");
    reload("error", "1s");
    wait_until(PATIENCE, || read().is_err()).expect("error");
    assert!(!state_of(read()).is_empty());
    reload("wait", "1s");
    let waits = || {
        let started = Instant::now();
        read().is_err() && started.elapsed() >= Duration::from_millis(900)
    };
    wait_until(PATIENCE, waits).expect("wait");
    // A read that waits goes on when the replica has caught up.
    reload("wait", "1min");
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(read);
        replica.set_apply_delay(0).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(waited.unwrap(), port(replica));
    fixture.wait_in_read_set(fixture.cluster.replicas());
}
