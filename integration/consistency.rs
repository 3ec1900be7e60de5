//! Sessions never read older than their own writes nor backward, however late a replica is.

use crate::support::{Fixture, PATIENCE, Server, connect, on_postgres_18, runtime, wait_until};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PAIRS: i64 = 100_000;
const SESSIONS: i64 = 24;
/// The delayed replica shows each commit this late.
const DELAY_MS: u64 = 150;
/// Between a write and its read a session thinks for up to this long: at once after a write no
/// replica can be known to be fresh, a little later some are.
const THINK_MS_MAX: u64 = 24;

/// What all sessions saw together.
#[derive(Default)]
struct Seen {
    pairs: AtomicU64,
    stale: AtomicU64,
    backward: AtomicU64,
    /// Each backward read: on which server the newer and then the older value was seen.
    moves: Mutex<Vec<String>>,
}

#[test]
fn writes_are_read_and_reads_never_go_backward() {
    let fixture = Fixture::build()
        .key("monitor.interval", "10ms")
        .key("pool.size_max", 32)
        .config(|config| config["workers"] = 2.into())
        .start();
    let primary = fixture.cluster.primary();
    fixture.create_table("t", "id bigint PRIMARY KEY, n bigint NOT NULL");
    let setup = fixture.direct(primary);
    setup
        .query(&format!("INSERT INTO t SELECT i, 0 FROM generate_series(0, {SESSIONS}) AS i"))
        .unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    fixture.cluster.replica(1).set_apply_delay(DELAY_MS).unwrap();

    let seen = Arc::new(Seen::default());
    let started = Instant::now();
    let runtime = runtime();
    let ports = runtime.block_on(async {
        let config = fixture.config();
        let tasks: Vec<_> = (0..SESSIONS)
            .map(|id| tokio::spawn(session(config.clone(), id, seen.clone())))
            .collect();
        let mut ports: BTreeMap<i32, u64> = BTreeMap::new();
        for task in tasks {
            for (port, count) in task.await.expect("the session's task") {
                *ports.entry(port).or_default() += count;
            }
        }
        ports
    });
    let elapsed = started.elapsed();
    let pairs = seen.pairs.load(Ordering::Relaxed);
    let (stale, backward) = (&seen.stale, &seen.backward);
    let (stale, backward) = (stale.load(Ordering::Relaxed), backward.load(Ordering::Relaxed));
    let on_replicas: u64 =
        ports.iter().filter(|(port, _)| **port != i32::from(primary.port)).map(|(_, n)| n).sum();
    let total: u64 = ports.values().sum();
    let by_server: BTreeMap<String, u64> =
        ports.iter().map(|(port, count)| (fixture.name_of(&port.to_string()), *count)).collect();
    println!(
        "measured: {pairs} write-then-read pairs, {SESSIONS} sessions, one replica {DELAY_MS} ms \
         late: {stale} stale, {backward} backward, {:.1} % read on replicas {by_server:?}, {:.1} s",
        100.0 * on_replicas as f64 / total as f64,
        elapsed.as_secs_f64(),
    );
    assert!(pairs >= u64::try_from(PAIRS).unwrap());
    let moves = seen.moves.lock().unwrap();
    assert_eq!((stale, backward), (0, 0), "the primary is {}: {moves:?}", primary.port);
    assert!(on_replicas > 0, "the replicas served nothing, so nothing was shown");
}

/// Writes its own row and reads it with its neighbour's: the own value must be the written one,
/// the neighbour's never smaller than at the last look. Returns the reads by server port.
async fn session(config: tokio_postgres::Config, id: i64, seen: Arc<Seen>) -> BTreeMap<i32, u64> {
    let client = connect(&config).await;
    let write = client.prepare("UPDATE t SET n = $2 WHERE id = $1").await.expect("prepare");
    let read = "SELECT id, n, inet_server_port() FROM t WHERE id = $1 OR id = $2";
    let read = client.prepare(read).await.expect("prepare");
    let neighbour = (id + 1) % SESSIONS;
    let mut neighbours_last = 0;
    let mut last_port = 0;
    let mut last_at = Instant::now();
    let mut ports = BTreeMap::new();
    // A small congruential generator: the same pauses in each run.
    let mut random = u64::try_from(id).expect("small") + 1;
    for n in 1..=(PAIRS + SESSIONS - 1) / SESSIONS {
        client.execute(&write, &[&id, &n]).await.expect("write");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let think = (random >> 33) % (2 * THINK_MS_MAX);
        // Half of the reads follow at once.
        if think < THINK_MS_MAX {
            tokio::time::sleep(Duration::from_millis(think)).await;
        }
        let rows = client.query(&read, &[&id, &neighbour]).await.expect("read");
        let port: i32 = rows[0].get(2);
        for row in &rows {
            let (row_id, value): (i64, i64) = (row.get(0), row.get(1));
            if row_id == id && value != n {
                seen.stale.fetch_add(1, Ordering::Relaxed);
            }
            if row_id == neighbour {
                if value < neighbours_last {
                    seen.backward.fetch_add(1, Ordering::Relaxed);
                    seen.moves.lock().expect("no panic").push(format!(
                        "{neighbours_last} on {last_port}, {:?} later {value} on {port}",
                        last_at.elapsed()
                    ));
                }
                neighbours_last = value;
            }
        }
        (last_port, last_at) = (port, Instant::now());
        *ports.entry(port).or_default() += 1;
        seen.pairs.fetch_add(1, Ordering::Relaxed);
    }
    ports
}

/// Of a second each, and how many it may take until both replicas have been read.
const ROUNDS: usize = 12;
const ROUNDS_MAX: usize = 60;

/// A session that only reads must not go backward either, when the replicas differ in age and
/// the choice among them moves.
#[test]
fn a_reader_moves_between_replicas_and_never_backward() {
    let fixture = Fixture::build().key("monitor.interval", "20ms").start();
    let primary = fixture.cluster.primary();
    fixture.create_table("t", "n bigint");
    let writer = fixture.direct(primary);
    writer.query("INSERT INTO t VALUES (0)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let reader = fixture.session();
    let mut last = 0;
    let mut ports: BTreeMap<String, u64> = BTreeMap::new();
    let both =
        |ports: &BTreeMap<String, u64>| ports.contains_key("pg1") && ports.contains_key("pg2");
    for round in 0.. {
        // On a busy machine the replicas may be too late for a while.
        if (round >= ROUNDS && both(&ports)) || round >= ROUNDS_MAX {
            break;
        }
        // The two take turns at being late, within what is allowed.
        fixture.cluster.replica(round % 2).set_apply_delay(200).unwrap();
        fixture.cluster.replica((round + 1) % 2).set_apply_delay(0).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(1_000) {
            writer.query("UPDATE t SET n = n + 1").unwrap();
            // Without a pause the session stays where it is.
            std::thread::sleep(Duration::from_millis(50));
            let rows = reader.query("SELECT n, inet_server_port() FROM t").unwrap();
            let n: u64 = rows[0][0].as_ref().unwrap().parse().unwrap();
            assert!(n >= last, "read {n} after {last}");
            last = n;
            *ports.entry(fixture.name_of(rows[0][1].as_ref().unwrap())).or_default() += 1;
        }
    }
    println!("measured: reads of a reader whose replicas take turns at being late: {ports:?}");
    assert!(both(&ports), "{ports:?}");
}

#[test]
fn levels_differ_as_they_say() {
    let fixture = Fixture::build().replicas(1).start();
    let replica = fixture.cluster.replica(0);
    fixture.create_table("t", "n int");
    replica.pause_replay().unwrap();

    let count = "SELECT count(*) FROM t";
    for (level, found) in [("session", "1"), ("strong", "2"), ("eventual", "0")] {
        let session = fixture.session();
        session.query(&format!("SET tiffin.consistency = '{level}'")).unwrap();
        session.query("INSERT INTO t VALUES (1)").unwrap();
        // `eventual` asked for whatever there is, which is nothing while replay is paused.
        assert_eq!(session.value(count).unwrap(), found, "{level}");
    }
    // `bounded` forgets own writes, and the lag of a paused replica exceeds any bound.
    let session = fixture.session();
    session.query("SET tiffin.consistency = 'bounded'").unwrap();
    fixture.wait_in_read_set([]);
    assert_eq!(session.value(count).unwrap(), "3");
    replica.resume_replay().unwrap();
    fixture.wait_in_read_set([replica]);
    assert_eq!(fixture.ran_on(&fixture.session(), "SELECT inet_server_port()"), replica.name);
}

/// Django begins each connection with a transaction that sets the time zone.
#[test]
fn a_transaction_that_only_changes_the_session_is_no_write() {
    let fixture = Fixture::build().replicas(1).key("routing.max_lag", "5min").start();
    let (primary, replica) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    fixture.create_table("t", "n int");
    let runtime = runtime();
    let (mut client, write, read) = runtime.block_on(async {
        let client = connect(&fixture.config()).await;
        let write = client.prepare("INSERT INTO t SELECT length($1)").await.unwrap();
        let read = client.prepare("SELECT count(*) FROM t WHERE n > 1000").await.unwrap();
        (client, write, read)
    });
    fixture.wait_in_read_set([replica]);
    let from_replica = [("node", &*replica.name), ("reason", "least_lag")];
    let reads = || fixture.metrics().sum("tiffin_routed_total", &from_replica);
    let before = reads();
    wait_until(PATIENCE, || {
        runtime.block_on(client.query(&read, &[])).unwrap();
        reads() > before
    })
    .expect("to prepare a write counts as one");
    replica.pause_replay().unwrap();
    // From here on the replica lacks whatever a session has just written or seen on the primary.
    fixture.direct(primary).query("INSERT INTO t VALUES (1)").unwrap();
    for (texts, server) in [
        (vec!["SELECT set_config('TimeZone', 'America/Chicago', false)"], replica),
        (vec!["SAVEPOINT a", "SET search_path TO public", "RELEASE a"], replica),
        (vec!["SELECT set_config('TimeZone', 'UTC', false)", "INSERT INTO t VALUES (2)"], primary),
        (vec!["SELECT n FROM t"], primary),
    ] {
        let session = fixture.session();
        session.query("BEGIN").unwrap();
        texts.iter().for_each(|text| drop(session.query(text).unwrap()));
        session.query("COMMIT").unwrap();
        let port =
            session.value("SELECT inet_server_port() FROM t UNION SELECT inet_server_port()");
        assert_eq!(fixture.name_of(&port.unwrap()), server.name, "{}", texts.join("; "));
    }
    // A value too large to be held, of a statement that was prepared before.
    let shown: i64 = runtime.block_on(async {
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute("SET search_path TO public").await.unwrap();
        transaction.execute(&write, &[&"x".repeat(4 << 20)]).await.unwrap();
        transaction.commit().await.unwrap();
        client.query_one(&read, &[]).await.unwrap().get(0)
    });
    assert_eq!(shown, 1);
    replica.resume_replay().unwrap();
}

/// Lets everything on the server go on, also after a failure.
struct Released<'a>(&'a Server);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        let _ = self.0.set("synchronous_standby_names", "''");
        let long = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                    WHERE query LIKE 'INSERT INTO other%'";
        let _ = self.0.execute(long);
    }
}

/// On a machine that does something else for a second, a read goes on before the commit does.
const ATTEMPTS: u32 = 5;

/// The proxy's question to the primary.
const ASKS: &str = "SELECT pg_catalog.pg_snapshot_xmax(s)";

/// A commit that waits for its synchronous standby is shown by the others and not by the primary.
/// A read that moves there waits for it, but not for a statement that merely runs for long.
#[test]
fn a_read_that_moves_to_the_primary_shows_what_its_replica_has_shown() {
    let fixture = Fixture::build().replicas(1).setting("synchronous_commit", "'local'").start();
    let (primary, replica) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    fixture.create_table("t", "n int");
    fixture.create_table("other", "n int");
    fixture.direct(primary).query("INSERT INTO t VALUES (0)").unwrap();
    let on_replica =
        format!("/* tiffin: node={}, consistency=eventual */ SELECT n FROM t", replica.name);
    let on_primary = "/* tiffin: primary */ SELECT n FROM t";
    let ended =
        |outcome| fixture.metrics().sum("tiffin_commit_waits_total", &[("outcome", outcome)]);
    let runs = |query: &str, since: &str| {
        let found = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE query LIKE '{query}%' AND query_start > '{since}'"
        );
        primary.value(&found).is_ok_and(|count| count != "0")
    };
    std::thread::scope(|scope| {
        let _released = Released(primary);
        scope.spawn(|| {
            // One transaction, with an id from its beginning.
            let ended =
                fixture.session().query("INSERT INTO other VALUES (1); SELECT pg_sleep(600)");
            ended.expect_err("cancelled");
        });
        wait_until(PATIENCE, || runs("INSERT INTO other", "-infinity"))
            .expect("the long statement");
        let reader = fixture.session();
        wait_until(PATIENCE, || {
            reader.value(&on_replica).unwrap();
            reader.value(on_primary).unwrap();
            ended("shown") > 0.0
        })
        .expect("the servers say that the replica did not show it");

        let mut n = 0;
        let mut in_time = |writes: bool| {
            n += 1;
            let shown = n.to_string();
            let too_late = ended("given_up");
            primary.set("synchronous_standby_names", "'nobody'").unwrap();
            let value = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let writer = fixture.session();
                    writer.query("SET synchronous_commit = 'on'").unwrap();
                    writer.query("UPDATE t SET n = n + 1").unwrap();
                });
                wait_until(PATIENCE, || reader.value(&on_replica).unwrap() == shown).unwrap();
                if writes {
                    reader.query("INSERT INTO other VALUES (2) RETURNING n").unwrap();
                }
                let now = primary.value("SELECT clock_timestamp()").unwrap();
                let reading = scope.spawn(|| reader.value(on_primary).unwrap());
                wait_until(PATIENCE, || runs(ASKS, &now)).expect("the servers are asked");
                primary.set("synchronous_standby_names", "''").unwrap();
                reading.join().unwrap()
            });
            let in_time = ended("given_up") == too_late;
            assert!(value == shown || !in_time, "{value} on the primary after {shown}");
            in_time
        };
        for writes in [false, true] {
            assert!((0..ATTEMPTS).any(|_| in_time(writes)), "given up {ATTEMPTS} times");
        }
    });
}

on_postgres_18!(
    a_reader_moves_between_replicas_and_never_backward,
    a_read_that_moves_to_the_primary_shows_what_its_replica_has_shown,
    levels_differ_as_they_say
);
