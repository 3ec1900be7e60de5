//! Somebody else promotes a replica; the proxy follows at once and never looks back.

use crate::support::relay::{Behaviour, Relay};
use crate::support::wire::{self, Wire};
use crate::support::{
    Cluster, Fixture, Mode, PATIENCE, Server, Session, on_postgres_18, options, state_of,
    wait_until,
};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the returned old primary is watched.
const WATCH: Duration = Duration::from_secs(4);
const WRITERS: usize = 4;
/// Writes that each writer has to see acknowledged before the primary is killed.
const WRITES_BEFORE: usize = 20;
/// How many of the new primary's first probes may be needed to follow it.
const PROBES_MAX: usize = 2;
/// Where an instant's milliseconds end in a line of a log.
const MILLISECONDS_END: usize = "2026-11-21 13:25:14.123".len();

/// What the writers of the promotion's test share.
struct Writing<'a> {
    fixture: &'a Fixture,
    old: &'a Server,
    stop: AtomicBool,
    failed: AtomicU64,
    acknowledged: [AtomicUsize; WRITERS],
    started: Instant,
    /// When the first write was accepted by another server than `old`, in ms from `started`.
    first_elsewhere: AtomicU64,
}

impl Writing<'_> {
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// Writes until it is stopped; the numbers of the writes that were acknowledged.
    fn write(&self, writer: usize) -> Vec<i32> {
        let mut session = self.fixture.session();
        let mut done = Vec::new();
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let sql = format!("INSERT INTO t VALUES ({writer}, {n}) RETURNING inet_server_port()");
            match session.value(&sql) {
                Ok(port) => {
                    if port != self.old.port.to_string() {
                        self.first_elsewhere.fetch_min(self.millis(), Ordering::Relaxed);
                    }
                    done.push(n);
                    self.acknowledged[writer].fetch_add(1, Ordering::Relaxed);
                }
                // In flight when the primary died: the outcome is unknown.
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    session = self.fixture.session();
                }
            }
        }
        done
    }
}

#[test]
fn a_promotion_is_followed_and_the_old_primary_shunned() {
    // However long the promotion takes on a busy machine, it is waited for.
    let fixture = Fixture::build().log_statements().key("gate.hold", "2min").start();
    let old = fixture.cluster.primary();
    fixture.session().query("CREATE TABLE t (writer int, n int, PRIMARY KEY (writer, n))").unwrap();
    fixture.cluster.wait_caught_up(old).unwrap();
    // A replica confirms each write, so an acknowledged one that is missing in the end was lost by
    // the proxy.
    old.set("synchronous_standby_names", "'pg1'").unwrap();
    wait_until(PATIENCE, || {
        old.query("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
            .is_ok_and(|rows| !rows.is_empty())
    })
    .expect("a synchronous replica");

    let writing = Writing {
        fixture: &fixture,
        old,
        stop: AtomicBool::new(false),
        failed: AtomicU64::new(0),
        acknowledged: Default::default(),
        started: Instant::now(),
        first_elsewhere: AtomicU64::new(u64::MAX),
    };
    let (acknowledged, promoted, new, other) = std::thread::scope(|scope| {
        let writing = &writing;
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || writing.write(writer))).collect();
        wait_until(PATIENCE, || {
            writing.acknowledged.iter().all(|n| n.load(Ordering::Relaxed) >= WRITES_BEFORE)
        })
        .expect("everybody writes");
        old.kill9().unwrap();
        let (new, other) = by_progress(&fixture.cluster);
        new.promote().unwrap();
        let promoted = writing.millis();
        wait_until(PATIENCE, || writing.first_elsewhere.load(Ordering::Relaxed) < u64::MAX)
            .expect("writes go on after the promotion");
        fixture.cluster.follow(other, new).unwrap();

        // The old primary comes back and takes writes from whoever asks.
        old.start().unwrap();
        assert_eq!(old.value("SELECT pg_is_in_recovery()").unwrap(), "f");
        std::thread::sleep(WATCH);
        writing.stop.store(true, Ordering::Relaxed);
        let done: Vec<_> = writers.into_iter().map(|task| task.join().unwrap()).collect();
        (done, promoted, new, other)
    });
    let gap = writing.first_elsewhere.load(Ordering::Relaxed).saturating_sub(promoted);
    let failed = writing.failed.load(Ordering::Relaxed);
    let total: usize = acknowledged.iter().map(Vec::len).sum();
    let probes = probes_until_followed(&fixture, new);
    println!(
        "measured: first write accepted {gap} ms after the promotion, {probes} probes; {total} \
         writes acknowledged, {failed} ended with an error when the primary was killed"
    );
    assert!(failed <= WRITERS as u64, "at most one per session");
    assert!(probes <= PROBES_MAX, "{probes} probes until the new primary was known");

    // Nothing of the application on the old timeline.
    let log = old.log();
    let restarted = log.rfind("database system was interrupted").expect("it was killed");
    let after: Vec<&str> =
        log[restarted..].lines().filter(|line| line.contains("app@app")).collect();
    assert!(after.is_empty(), "statements on the old timeline: {after:?}");
    assert_eq!(
        fixture.metrics().sum("tiffin_node_role", &[("node", "pg0"), ("role", "primary")]),
        0.0
    );
    // Whatever was acknowledged is there.
    let check = fixture.direct(new);
    for (writer, done) in acknowledged.iter().enumerate() {
        let numbers: Vec<String> = done.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT count(*) FROM t WHERE writer = {writer} AND n = ANY ('{{{}}}'::int[])",
            numbers.join(",")
        );
        assert_eq!(check.value(&sql).unwrap(), numbers.len().to_string());
    }
    // Reads are shared by what replicates from the new primary.
    fixture.wait_in_read_set([other]);
    let other = other.port.to_string();
    wait_until(PATIENCE, || {
        fixture.try_value("SELECT inet_server_port()").is_ok_and(|port| port == other)
    })
    .expect("reads go to the other replica");
}

/// The two replicas of a primary that has gone, the one that has received more first: the other
/// one can follow it. Which one that is, is chance: the synchronous one confirms what it has, and
/// the other may have got the next record already.
fn by_progress(cluster: &Cluster) -> (&Server, &Server) {
    let position = |server: &Server| -> u64 {
        let idle = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        wait_until(PATIENCE, || server.value(idle).is_ok_and(|count| count == "0"))
            .expect("nothing more is received");
        let received = "SELECT (pg_last_wal_receive_lsn() - '0/0')::bigint";
        server.value(received).unwrap().parse().unwrap()
    };
    let (one, two) = (cluster.replica(0), cluster.replica(1));
    if position(one) >= position(two) { (one, two) } else { (two, one) }
}

/// How often the proxy has asked a new primary from the end of its recovery until it knew: a
/// count, for how long each of that takes is the machine's affair. Both logs have their instants
/// by the same clock.
fn probes_until_followed(fixture: &Fixture, new: &Server) -> usize {
    let log = new.log();
    let promoted = log.rfind("selected new timeline ID").expect("it was promoted");
    let ready = log[promoted..].find("database system is ready to accept connections");
    let ready = &log[promoted + ready.expect("it takes writes")..];
    let told = fixture.proxy.log();
    let knew = told.lines().rfind(|line| line.contains("(epoch 2)")).expect("it was followed");
    // `2026-11-21T13:25:14.123456Z` there, `2026-11-21 13:25:14.123` here.
    let knew = knew[..MILLISECONDS_END].replace('T', " ");
    let probe = |line: &&str| line.contains("SELECT r.recovering");
    let before = |line: &&str| line.get(..MILLISECONDS_END).is_some_and(|at| at <= knew.as_str());
    ready.lines().filter(probe).take_while(before).count()
}

/// Whoever listens misses what is sent while there is no connection to hear it: a session that has
/// lost its server is told so and ends, although nothing was under way. It is never taken over to the
/// new primary in silence.
#[test]
fn a_listening_session_ends_with_its_primary() {
    for lost in ["killed", "demoted"] {
        let fixture = Fixture::build().replicas(1).clear_passwords().start();
        let app = &fixture.cluster.app;
        let login =
            || Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password).0;
        let (mut listener, mut idle, sender) = (login(), login(), fixture.session());
        listener.query("LISTEN kitchen");
        idle.query("SELECT 1");
        sender.query("NOTIFY kitchen, 'before'").unwrap();
        let heard = listener.message().expect("a notification");
        assert_eq!((heard.tag, heard.text().contains("before")), (b'A', true));

        let (old, new) = (fixture.cluster.primary(), &fixture.cluster.replicas()[0]);
        fixture.cluster.wait_caught_up(old).unwrap();
        if lost == "killed" {
            old.kill9().unwrap();
        }
        // The old primary may still run: there it would hear nothing any more.
        new.promote().unwrap();
        let state = listener.closed_with();
        assert!(matches!(state.as_deref(), Some("57P01" | "08006")), "{lost}: {state:?}");
        fixture.wait_primary(new);
        // Who did not listen has lost nothing, and goes on.
        assert_eq!(wire::tags(&idle.query("SELECT 1")), "TDCZ", "{lost}");
        let mut again = login();
        assert_eq!(wire::tags(&again.query("LISTEN kitchen")), "CZ");
        fixture.session().query("NOTIFY kitchen, 'after'").unwrap();
        assert!(again.message().is_some_and(|message| message.text().contains("after")), "{lost}");
    }
}

/// The second of two writes that came in one send, of which the first is answered, may have been
/// committed as well.
#[test]
fn each_write_of_a_pipeline_is_lost_as_a_write() {
    let fixture = Fixture::build().replicas(1).clear_passwords().start();
    let primary = fixture.cluster.primary();
    fixture.create_table("t", "n int");
    let holder = fixture.direct(primary);
    holder.query("SELECT pg_advisory_lock(7)").unwrap();
    let app = &fixture.cluster.app;
    let (mut client, _) =
        Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
    let held = "INSERT INTO t SELECT 2 FROM (SELECT pg_advisory_xact_lock(7)) AS held";
    client.send(&[wire::query("INSERT INTO t VALUES (1)"), wire::query(held)].concat());
    assert_eq!(wire::tags(&client.until_ready()), "CZ");
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_until(PATIENCE, || primary.value(waits).is_ok_and(|n| n == "1")).expect("the second");
    primary.kill9().unwrap();
    assert_eq!(client.closed_with().as_deref(), Some("08007"));
}

#[test]
fn requests_wait_at_the_gate_for_a_primary() {
    let mut fixture = Fixture::build().key("gate.hold", "2s").key("gate.waiting_max", 3).start();
    let (old, new) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.wait_caught_up(old).unwrap();
    let session = fixture.session();
    let in_transaction = fixture.session();
    in_transaction.query("BEGIN").unwrap();
    in_transaction.query("INSERT INTO t VALUES (0)").unwrap();

    old.stop(Mode::Fast).unwrap();
    // A transaction that was open there ends with an error; the session lives on.
    let state = state_of(in_transaction.query("INSERT INTO t VALUES (0)"));
    assert!(["57P01", "08006", "40001", "25006"].contains(&state.as_str()), "{state}");
    // Reads go on.
    let read = fixture.session();
    wait_until(PATIENCE, || {
        read.value("SELECT inet_server_port()").is_ok_and(|port| port != old.port.to_string())
    })
    .expect("reads go on without a primary");

    // Nobody comes: a clear error after the hold, and not before.
    let started = Instant::now();
    assert_eq!(state_of(session.query("INSERT INTO t VALUES (1)")), "57P03");
    let held = started.elapsed();
    assert!(held >= Duration::from_millis(1_900) && held < PATIENCE, "{held:?}");
    // The session is as good as before.
    assert_ne!(fixture.ran_on(&session, "SELECT inet_server_port()"), old.name);

    // More than may wait: the fourth is refused at once, the three go on at the new primary,
    // however long that takes.
    fixture.config["clusters"]["main"]["gate"]["hold"] = "2min".into();
    fixture.reload(&fixture.config);
    let sessions: Vec<_> = (0..4).map(|_| fixture.session()).collect();
    std::thread::scope(|scope| {
        let tasks: Vec<_> = sessions
            .iter()
            .map(|session| {
                scope.spawn(|| {
                    session.value("INSERT INTO t VALUES (2) RETURNING inet_server_port()")
                })
            })
            .collect();
        wait_until(PATIENCE, || tasks.iter().any(|task| task.is_finished()))
            .expect("one is refused");
        new.promote().unwrap();
        let (done, refused): (Vec<_>, Vec<_>) =
            tasks.into_iter().map(|task| task.join().unwrap()).partition(Result::is_ok);
        assert_eq!((done.len(), refused.len()), (3, 1));
        for answer in refused {
            assert_eq!(state_of(answer), "53300");
        }
        for port in done {
            assert_eq!(port.unwrap(), new.port.to_string());
        }
    });
    assert_eq!(fixture.direct(new).value("SELECT count(*) FROM t WHERE n = 2").unwrap(), "3");
    let opened = fixture.metrics().sum("tiffin_gate_waits_total", &[("outcome", "opened")]);
    assert_eq!(opened, 3.0);
}

/// A cluster of two, and as its third node a cable that can lead to the primary of another one:
/// same timeline, same logins, but not this cluster.
fn beside_a_foreign_primary() -> (Cluster, Relay, Fixture) {
    let foreign = Cluster::start(crate::support::Options { replicas: 0, ..options() }).unwrap();
    let relay = Relay::start(Behaviour::Refuse);
    let port = relay.port;
    let fixture = Fixture::build()
        .replicas(1)
        .key("gate.hold", "2s")
        .config(move |config| {
            config["clusters"]["main"]["nodes"]["pg9"] = format!("127.0.0.1:{port}").into();
        })
        .start();
    // Or a wrong password would do the fencing.
    for login in [&fixture.cluster.service, &fixture.cluster.app] {
        let sql = format!("ALTER ROLE {} PASSWORD '{}'", login.user, login.password);
        foreign.primary().execute(&sql).unwrap();
    }
    foreign.primary().set("log_statement", "'all'").unwrap();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    (foreign, relay, fixture)
}

#[test]
fn a_primary_of_another_cluster_never_gets_a_statement() {
    let (foreign, relay, fixture) = beside_a_foreign_primary();
    relay.set(Behaviour::Forward(foreign.primary().port));
    wait_until(PATIENCE, || foreign.primary().log().contains("tiffin@")).expect("it is probed");
    let session = fixture.session();
    let started = Instant::now();
    let mut writes = 0;
    while started.elapsed() < Duration::from_secs(2) {
        assert_eq!(
            fixture.ran_on(&session, "INSERT INTO t VALUES (1) RETURNING inet_server_port()"),
            "pg0"
        );
        session.query("SELECT count(*) FROM t").unwrap();
        writes += 1;
    }
    let log = foreign.primary().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("app@app")).collect();
    assert!(lines.is_empty(), "{lines:?}");
    println!("measured: {writes} writes beside a foreign primary, none of them there");

    // Also not when the true primary goes away and the foreign one is all there is.
    fixture.cluster.primary().stop(Mode::Fast).unwrap();
    refuses_writes(&fixture);
    assert!(!foreign.primary().log().contains("app@app"));
}

/// Several at once, so that the time of the gate passes but once.
fn refuses_writes(fixture: &Fixture) {
    // Without a primary the replica tells what a client is told at its login.
    wait_until(PATIENCE, || Session::connect(&fixture.config()).is_ok()).expect("logins go on");
    let sessions: Vec<_> = (0..5).map(|_| fixture.session()).collect();
    std::thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(|| {
                assert_eq!(state_of(session.query("INSERT INTO t VALUES (2)")), "57P03");
            });
        }
    });
}

/// A reload must not make the proxy forget who the cluster is.
#[test]
fn a_primary_of_another_cluster_gets_nothing_after_a_reload_either() {
    let (foreign, relay, fixture) = beside_a_foreign_primary();
    relay.set(Behaviour::Forward(foreign.primary().port));
    wait_until(PATIENCE, || foreign.primary().log().contains("tiffin@")).expect("it is probed");
    fixture.cluster.primary().stop(Mode::Fast).unwrap();
    // Another address is another node: nothing of the cluster goes on but what is remembered.
    let mut config = fixture.config.clone();
    let replica = format!("localhost:{}", fixture.cluster.replica(0).port);
    config["clusters"]["main"]["nodes"]["pg1"] = replica.into();
    fixture.reload(&config);
    refuses_writes(&fixture);
    assert!(!foreign.primary().log().contains("app@app"));
}

/// A node that hangs, talks nonsense or is cut off hurts nobody but itself.
#[test]
fn a_sick_node_leaves_the_others_unaffected() {
    let relay = Relay::start(Behaviour::Hang);
    let port = relay.port;
    // Whoever waited for it would wait for so long that it shows on the slowest machine.
    let fixture = Fixture::build()
        .replicas(1)
        .key("pool.connect_timeout", "5min")
        .config(move |config| {
            config["clusters"]["main"]["nodes"]["pg9"] = format!("127.0.0.1:{port}").into();
        })
        .start();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    for behaviour in [Behaviour::Hang, Behaviour::Garbage, Behaviour::Refuse] {
        relay.set(behaviour);
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        while started.elapsed() < Duration::from_millis(1_500) {
            let asked = Instant::now();
            let session = fixture.session();
            session.query("INSERT INTO t VALUES (1)").unwrap();
            session.query("SELECT count(*) FROM t").unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        println!("measured: slowest session beside a node that does {behaviour:?}: {slowest:?}");
        assert!(slowest < PATIENCE, "{behaviour:?}: {slowest:?}");
        assert_eq!(fixture.metrics().sum("tiffin_node_healthy", &[("node", "pg9")]), 0.0);
    }
    // A replica that freezes leaves the reads, and comes back.
    let replica = fixture.cluster.replica(0);
    replica.sigstop().unwrap();
    fixture.wait_in_read_set([]);
    assert_eq!(fixture.ran_on(&fixture.session(), "SELECT inet_server_port()"), "pg0");
    replica.sigcont().unwrap();
    fixture.wait_in_read_set([replica]);
    // A replica that crashes under a read: the read is served all the same.
    let mut session = fixture.session();
    wait_until(PATIENCE, || {
        session = fixture.session();
        fixture.ran_on(&session, "SELECT inet_server_port()") == "pg1"
    })
    .expect("a session that reads on the replica");
    replica.kill9().unwrap();
    for _ in 0..20 {
        assert_eq!(fixture.ran_on(&session, "SELECT inet_server_port()"), "pg0");
    }
    replica.start().unwrap();
    fixture.wait_in_read_set([replica]);
}

on_postgres_18!(a_promotion_is_followed_and_the_old_primary_shunned);
