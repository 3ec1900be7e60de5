//! One list of scenarios for PostgreSQL, MySQL and MariaDB: what the proxy promises, whoever the
//! servers are. What differs between the engines is in `support` ([`Stage`], [`Stand`]).

use crate::support::{PATIENCE, Stage, Stand, Which, on_every_engine, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::group::Sql;

on_every_engine! {
    statements_go_where_they_belong,
    a_late_replica_leaves_the_reads_and_returns,
    sessions_read_their_own_writes,
    a_session_that_reads_on_and_on_leaves_the_primary,
    a_promotion_is_followed,
    a_full_pool_makes_wait_and_then_says_so,
    a_reload_cuts_nobody,
    a_drain_cuts_no_transaction,
    bad_input_harms_nobody_else,
}

/// Well above `max_lag`.
const LATE_S: u32 = 3;
/// `max_lag` is one second.
const MAX_LAG_S: f64 = 1.1;
const WRITE_PAUSE: Duration = Duration::from_millis(10);

const SESSIONS: u64 = 16;
/// On each engine; that of PostgreSQL has a longer run in `consistency.rs`. `TIFFIN_PAIRS` is
/// another number.
const PAIRS: u64 = 33_600;
/// Every so many pairs a session thinks between its write and its read, until replicas may have
/// it.
const THINK_EVERY: u64 = 10;
const THINK: Duration = Duration::from_millis(30);

/// For the answer to bytes that may not deserve any.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

fn as_it_is(_: &mut Value) {}

fn statements_go_where_they_belong<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, as_it_is);
    stage.create_table("t", "n int PRIMARY KEY, port int");
    let (session, port) = (stage.session(), S::OWN_PORT);
    session.query(&format!("INSERT INTO t VALUES (1, {port})")).unwrap();
    let primary = stage.cluster.primary();
    assert_eq!(stage.ran_on(&session, "SELECT port FROM t"), primary.name, "the write");
    primary.wait_caught_up(&stage.cluster).unwrap();
    let table = [
        ("SELECT {port} FROM t", true),
        ("SELECT {port} FROM t WHERE n IN (SELECT n FROM t)", true),
        ("WITH one AS (SELECT 1 AS n) SELECT {port} FROM one", true),
        ("SELECT {port} FROM t FOR UPDATE", false),
        ("/* tiffin: primary */ SELECT {port} FROM t", false),
    ];
    for (sql, on_replica) in table {
        let sql = sql.replace("{port}", port);
        // A new session has written nothing: no replica is too old for it.
        let name = stage.ran_on(&stage.session(), &sql);
        assert_eq!(name != primary.name, on_replica, "{sql} ran on {name}");
    }
    let transactions = [("BEGIN", false), ("START TRANSACTION READ ONLY", true)];
    for (begin, on_replica) in transactions {
        let session = stage.session();
        session.query(begin).unwrap();
        let names = [0, 1].map(|_| stage.ran_on(&session, &format!("SELECT {port} FROM t")));
        session.query("COMMIT").unwrap();
        assert_eq!(names[0], names[1], "{begin} stays");
        assert_eq!(names[0] != primary.name, on_replica, "{begin} ran on {}", names[0]);
    }
    let share = stage.share(20);
    let replicas: Vec<&String> = stage.cluster.replicas().iter().map(|r| &r.name).collect();
    assert_eq!(share.keys().collect::<Vec<_>>(), replicas, "both are read");
}

fn a_late_replica_leaves_the_reads_and_returns<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, as_it_is);
    stage.create_table("t", "n int PRIMARY KEY");
    let [good, late] = [stage.cluster.replica(0), stage.cluster.replica(1)];
    late.apply_late(LATE_S).unwrap();
    while_writing(&stage, || {
        // To tell it so, its receiver is stopped: it leaves for that, returns, and leaves for good.
        let lag = || stage.metrics().sum("tiffin_node_lag_seconds", &[("node", &late.name)]);
        let is_late = || (MAX_LAG_S..f64::INFINITY).contains(&lag());
        wait_until(PATIENCE, is_late).expect("it is late");
        stage.wait_in_read_set([good]);
        assert_eq!(stage.share(10), BTreeMap::from([(good.name.clone(), 10)]));
    });
    late.apply_late(0).unwrap();
    stage.wait_in_read_set([good, late]);
    // It may be back before it is as little late as the other one, which is read until then.
    wait_until(PATIENCE, || stage.share(20).len() == 2).expect("both are read");
}

/// Inserts into `t` again and again meanwhile.
fn while_writing<S: Stand>(stage: &Stage<S>, then: impl FnOnce()) {
    let session = stage.session();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1_000.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                session.query(&format!("INSERT INTO t (n) VALUES ({n})")).unwrap();
                std::thread::sleep(WRITE_PAUSE);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(then));
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

/// One replica is late by what the proxy tolerates: only the promise of each session keeps its
/// reads away from it.
fn sessions_read_their_own_writes<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, |config| {
        let cluster = &mut config["clusters"]["main"];
        cluster["monitor"] = json!({ "interval": "10ms" });
        cluster["routing"] = json!({ "max_lag": "1min" });
        cluster["pool"] = json!({ "size_max": 32 });
        config["workers"] = 2.into();
    });
    stage.create_table("t", "id int PRIMARY KEY, n int");
    let setup = stage.session();
    for id in 0..SESSIONS {
        setup.query(&format!("INSERT INTO t VALUES ({id}, 0)")).unwrap();
    }
    let primary = stage.cluster.primary();
    primary.wait_caught_up(&stage.cluster).unwrap();
    stage.cluster.replica(1).apply_late(1).unwrap();
    let pairs = std::env::var("TIFFIN_PAIRS").ok().and_then(|text| text.parse().ok());
    let pairs: u64 = pairs.unwrap_or(PAIRS);
    let begun = Instant::now();
    let seen = std::thread::scope(|scope| {
        let stage = &stage;
        let sessions: Vec<_> =
            (0..SESSIONS).map(|id| scope.spawn(move || pairs_of(stage, id, pairs))).collect();
        let seen = sessions.into_iter().map(|session| session.join().expect("a session"));
        seen.fold(Seen::default(), Seen::with)
    });
    let Seen { stale, backward, on_replicas } = seen;
    println!(
        "measured: {which:?}: {pairs} write-then-read pairs, {SESSIONS} sessions, one replica \
         late: {stale} stale, {backward} backward, {on_replicas} read on replicas, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!((stale, backward), (0, 0));
    assert!(on_replicas > 0, "the replicas served nothing, so nothing was shown");
}

/// Each of its reads on the primary must be on a replica before the next one may go there, which no
/// probe at its own time would show: nodes are asked more seldom than the session reads.
fn a_session_that_reads_on_and_on_leaves_the_primary<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, |config| {
        config["clusters"]["main"]["monitor"] = json!({ "interval": "2s", "timeout": "2s" });
    });
    stage.create_table("t", "n int PRIMARY KEY, v int");
    let primary = stage.cluster.primary().name.clone();
    let session = stage.session();
    let read = format!("SELECT {} FROM t", S::OWN_PORT);
    for n in 1..=3 {
        session.query(&format!("INSERT INTO t VALUES ({n}, {n})")).unwrap();
        let begun = Instant::now();
        let mut reads = 1;
        while stage.ran_on(&session, &read) == primary {
            assert!(begun.elapsed() < PATIENCE, "still on the primary after {reads} reads");
            reads += 1;
        }
        for _ in 0..10 {
            assert_ne!(stage.ran_on(&session, &read), primary, "it stays there");
        }
        println!("measured: {which:?}: on a replica after {reads} reads, {:?}", begun.elapsed());
    }
}

/// Reads that showed less than the session had written, less than it had read, and those that
/// replicas served.
#[derive(Default)]
struct Seen {
    stale: u64,
    backward: u64,
    on_replicas: u64,
}

impl Seen {
    fn with(self, other: Seen) -> Seen {
        Seen {
            stale: self.stale + other.stale,
            backward: self.backward + other.backward,
            on_replicas: self.on_replicas + other.on_replicas,
        }
    }
}

/// Writes its own row and reads it with its neighbour's, which is never to be less than at the last
/// look.
fn pairs_of<S: Stand>(stage: &Stage<S>, id: u64, pairs: u64) -> Seen {
    let session = stage.session();
    let primary = stage.cluster.primary().port.to_string();
    let neighbour = (id + 1) % SESSIONS;
    let read = format!(
        "SELECT a.n, b.n, {} FROM t a JOIN t b ON a.id = {id} AND b.id = {neighbour}",
        S::OWN_PORT
    );
    let (mut seen, mut neighbours_last) = (Seen::default(), 0);
    for n in 1..=pairs / SESSIONS {
        session.query(&format!("UPDATE t SET n = {n} WHERE id = {id}")).unwrap();
        if n % THINK_EVERY == 0 {
            std::thread::sleep(THINK);
        }
        let rows = session.query(&read).unwrap();
        let [Some(own), Some(neighbours), Some(port)] = rows[0].as_slice() else {
            panic!("{rows:?}")
        };
        let neighbours: u64 = neighbours.parse().unwrap();
        seen.stale += u64::from(*own != n.to_string());
        seen.backward += u64::from(neighbours < neighbours_last);
        seen.on_replicas += u64::from(*port != primary);
        neighbours_last = neighbours;
    }
    seen
}

fn a_promotion_is_followed<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, |config| {
        // A busy machine takes its time with a promotion.
        config["clusters"]["main"]["gate"]["hold"] = "2min".into();
    });
    stage.create_table("t", "n int PRIMARY KEY, port int");
    let (old, new, other) =
        (stage.cluster.primary(), stage.cluster.replica(0), stage.cluster.replica(1));
    let session = stage.session();
    session.query("INSERT INTO t VALUES (1, 0)").unwrap();
    old.wait_caught_up(&stage.cluster).unwrap();
    old.stop_in_order().unwrap();
    // Sent while there is no primary, it waits for the next one.
    let write = format!("INSERT INTO t VALUES (2, {})", S::OWN_PORT);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.query(&write));
        new.take_over().unwrap();
        waiting.join().unwrap().expect("the write that waited");
    });
    assert_eq!(stage.ran_on(&session, "SELECT port FROM t WHERE n = 2"), new.name);
    stage.wait_primary(new);
    other.follow(&stage.cluster, new).unwrap();
    old.rejoin(&stage.cluster, new).unwrap();
    session.query("INSERT INTO t VALUES (3, 0)").unwrap();
    stage.wait_in_read_set([old, other]);
    assert_eq!(stage.session().value("SELECT count(*) FROM t").unwrap(), "3");
}

fn a_full_pool_makes_wait_and_then_says_so<S: Stand>(which: Which) {
    let stage = S::stage(which, 1, |config| {
        let pool = json!({ "size_max": 1, "wait_timeout": "300ms" });
        config["clusters"]["main"]["pool"] = pool;
        config["workers"] = 1.into();
    });
    stage.create_table("t", "n int PRIMARY KEY");
    let (holder, other) = (stage.session(), stage.session());
    holder.query("BEGIN").unwrap();
    holder.query("INSERT INTO t VALUES (1)").unwrap();
    let begun = Instant::now();
    let error = other.query("INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(S::code(&error), S::POOL_IS_FULL, "{error:#}");
    assert!(begun.elapsed() >= Duration::from_millis(250), "it waited");
    let name = &stage.cluster.primary().name;
    assert!(format!("{error:#}").contains(name), "the pool is named: {error:#}");
    holder.query("COMMIT").unwrap();
    other.query("INSERT INTO t VALUES (2)").unwrap();
}

fn a_reload_cuts_nobody<S: Stand>(which: Which) {
    let stage = S::stage(which, 2, as_it_is);
    stage.create_table("t", "n int PRIMARY KEY");
    let session = stage.session();
    session.query("BEGIN").unwrap();
    session.query("INSERT INTO t VALUES (1)").unwrap();
    let mut config = stage.config.clone();
    let gone = &stage.cluster.replica(1).name;
    let nodes = config["clusters"]["main"]["nodes"].as_object_mut().unwrap();
    nodes.remove(gone).expect("the node");
    stage.reload(&config);
    session.query("INSERT INTO t VALUES (2)").unwrap();
    session.query("COMMIT").unwrap();
    stage.wait_in_read_set([stage.cluster.replica(0)]);
    assert_eq!(stage.session().value("SELECT count(*) FROM t").unwrap(), "2");
}

fn a_drain_cuts_no_transaction<S: Stand>(which: Which) {
    let stage = S::stage(which, 1, |config| {
        config["shutdown"]["drain_timeout"] = "2min".into();
    });
    stage.create_table("t", "n int PRIMARY KEY");
    let session = stage.session();
    session.query("BEGIN").unwrap();
    session.query("INSERT INTO t VALUES (1)").unwrap();
    stage.proxy.signal("TERM").unwrap();
    let refused = || S::session(stage.proxy.port, &stage.cluster.app).is_err();
    wait_until(PATIENCE, refused).expect("no new clients");
    session.query("INSERT INTO t VALUES (2)").unwrap();
    session.query("COMMIT").unwrap();
    let status = stage.proxy.wait().unwrap();
    assert!(status.success(), "{status:?}\n{}", stage.proxy.log());
    let direct = S::session(stage.cluster.primary().port, &stage.cluster.app).unwrap();
    assert_eq!(direct.value("SELECT count(*) FROM t").unwrap(), "2");
}

fn bad_input_harms_nobody_else<S: Stand>(which: Which) {
    let stage = S::stage(which, 0, as_it_is);
    let session = stage.session();
    let inputs: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 100],
        &[0xff; 4096],
        &[0, 0, 0, 8, 0, 0, 0, 0],
        &[1, 0, 0, 1, 0x03],
        &[0xff, 0xff, 0xff, 0, 0x0e],
    ];
    let mut open = Vec::new();
    for input in inputs {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.proxy.port)).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        stream.write_all(input).unwrap();
        // What the proxy says to it does not matter here, only that it lives.
        let _ = stream.read(&mut [0; 1024]);
        open.push(stream);
        assert_eq!(session.value("SELECT 1").unwrap(), "1");
    }
    drop(open);
    assert_eq!(stage.session().value("SELECT 1").unwrap(), "1");
    assert!(stage.proxy.is_running());
    assert!(!stage.proxy.log().contains("panicked"), "{}", stage.proxy.log());
}
