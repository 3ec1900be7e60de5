//! The proxy itself promotes a replica: when the primary is lost, and when an operator wants it.

use crate::maintenance::{TOKEN, said, tiffin, topology};
use crate::support::relay::{Behaviour, Relay};
use crate::support::{
    Fixture, Group, Member, PATIENCE, Server, Sql, Stage, Stand, Which, on_every_engine,
    on_postgres_18, wait_until,
};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const WRITERS: usize = 4;
/// Replicas must not wait this out before they follow a new primary.
const RETRY: &str = "wal_retrieve_retry_interval";
const RETRY_LATE: &str = "'10min'";
/// As docs/failover.md has it; the password, too.
const PRIVILEGES: &str = "\
CREATE ROLE tiffin_failover LOGIN REPLICATION PASSWORD '…'
    IN ROLE pg_monitor, pg_signal_backend, pg_checkpoint;
GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf TO tiffin_failover;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, default_transaction_read_only TO tiffin_failover;
";

/// A cluster whose proxy promotes, and whose replicas confirm each write: nothing acknowledged may
/// be missing after a change of the primary.
pub fn promoting() -> crate::support::Builder {
    Fixture::build()
        .log_statements()
        .setting("wal_log_hints", "on")
        .key("gate.hold", "2min")
        .key("failover.mode", "promote")
        .key("failover.retry", "500ms")
        .sql(PRIVILEGES)
        .config(|config| {
            config["api"]["token"] = TOKEN.into();
            let failover = &mut config["clusters"]["main"]["failover"];
            failover["user"] = "tiffin_failover".into();
            failover["password"] = "…".into();
        })
}

fn start(builder: crate::support::Builder) -> Fixture {
    let fixture = builder.start();
    fixture.session().query("CREATE TABLE t (writer int, n int, PRIMARY KEY (writer, n))").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    confirm_writes(fixture.cluster.primary());
    fixture
}

/// Writes are acknowledged once a replica has them.
pub fn confirm_writes(primary: &Server) {
    primary.set("synchronous_standby_names", "'ANY 1 (pg0, pg1, pg2)'").unwrap();
    wait_confirmed(primary);
}

pub fn wait_confirmed<S: Stand>(primary: &S) {
    wait_until(PATIENCE, || primary.are_writes_confirmed())
        .unwrap_or_else(|_| panic!("replicas do not confirm: {}", primary.who_confirms()));
}

/// What was done to change the primary, newest last.
pub fn actions<S: Member>(fixture: &Stage<S>) -> Vec<Value> {
    let (_, body) = fixture.proxy.get("/api/v1/failovers").unwrap();
    let mut body: Value = serde_json::from_str(&body).unwrap();
    match body["clusters"][0]["actions"].take() {
        Value::Array(actions) => actions,
        other => panic!("{other}"),
    }
}

/// The changes of the primary that were made; one that could not be is tried again.
pub fn made<S: Member>(fixture: &Stage<S>) -> Vec<Value> {
    actions(fixture).into_iter().filter(|action| action["state"] == "done").collect()
}

/// Waits for this many changes; the last of them.
pub fn wait_done<S: Member>(fixture: &Stage<S>, count: usize) -> Value {
    wait_until(PATIENCE, || made(fixture).len() >= count)
        .unwrap_or_else(|_| panic!("{:#?}\n{}", actions(fixture), fixture.proxy.log()));
    made(fixture).remove(count - 1)
}

pub fn epoch<S: Member>(fixture: &Stage<S>) -> u64 {
    let (_, body) = fixture.proxy.get("/api/v1/topology").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    body["clusters"][0]["epoch"].as_u64().unwrap()
}

/// The server that the proxy has promoted, and the other replica.
pub fn promoted<'a, S: Member>(cluster: &'a Group<S>, action: &Value) -> (&'a S, &'a S) {
    let name = action["to"].as_str().unwrap_or_else(|| panic!("{action:#}"));
    let (one, two) = (cluster.replica(0), cluster.replica(1));
    if one.name == name { (one, two) } else { (two, one) }
}

/// Writers that go on until they are told to stop.
#[derive(Default)]
pub struct Writing {
    stop: AtomicBool,
    done: [AtomicUsize; WRITERS],
    pub failed: AtomicUsize,
}

impl Writing {
    /// The numbers of the writes that were acknowledged.
    fn write<S: Member>(&self, fixture: &Stage<S>, writer: usize) -> Vec<i32> {
        let mut session = fixture.session();
        let mut done = Vec::new();
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match session.query(&format!("INSERT INTO t VALUES ({writer}, {n})")) {
                Ok(_) => {
                    done.push(n);
                    self.done[writer].fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    println!("writer {writer}: {error:#}");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    session = fixture.session();
                }
            }
        }
        done
    }

    /// Waits until every writer has `more` more writes acknowledged.
    pub fn go_on(&self, more: usize) {
        let before: Vec<usize> = self.done.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        wait_until(PATIENCE, || {
            self.done.iter().zip(&before).all(|(n, b)| n.load(Ordering::Relaxed) >= b + more)
        })
        .expect("everybody writes");
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs the writers around `work`; what each has seen acknowledged.
pub fn around<S: Member>(
    fixture: &Stage<S>,
    writing: &Writing,
    work: impl FnOnce(),
) -> Vec<Vec<i32>> {
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|n| scope.spawn(move || writing.write(fixture, n))).collect();
        writing.go_on(10);
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        writing.end();
        if worked.is_err() {
            for server in fixture.cluster.servers() {
                let log = server.log();
                let lines: Vec<&str> =
                    log.lines().filter(|line| !line.contains("LOG:  execute")).collect();
                println!("{}:", server.name);
                lines[lines.len().saturating_sub(40)..].iter().for_each(|line| println!("{line}"));
            }
        }
        let done = writers.into_iter().map(|task| task.join().unwrap()).collect();
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done
    })
}

/// Whatever was acknowledged is there, and nothing twice (the key sees to that).
pub fn check_books<S: Member>(fixture: &Stage<S>, primary: &S, acknowledged: &[Vec<i32>]) {
    let check = fixture.direct(primary);
    for (writer, done) in acknowledged.iter().enumerate() {
        let numbers: Vec<String> = done.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT count(*) FROM t WHERE writer = {writer} AND n IN ({})",
            numbers.join(",")
        );
        assert_eq!(check.value(&sql).unwrap(), numbers.len().to_string(), "writer {writer}");
    }
}

pub fn step<'a>(action: &'a Value, what: &str) -> &'a Value {
    let steps = action["steps"].as_array().unwrap();
    let found = steps.iter().find(|step| step["what"].as_str().unwrap().contains(what));
    found.unwrap_or_else(|| panic!("no step {what}: {action:#}"))
}

#[test]
fn the_documentation_has_the_privileges_that_suffice() {
    assert!(include_str!("../docs/failover.md").contains(PRIVILEGES));
}

#[test]
fn a_killed_primary_is_replaced_and_shunned_when_it_returns() {
    let fixture = start(promoting().setting(RETRY, RETRY_LATE));
    let old = fixture.cluster.primary();
    let writing = Writing::default();
    let acknowledged = around(&fixture, &writing, || {
        let killed = Instant::now();
        old.kill9().unwrap();
        wait_until(PATIENCE, || !actions(&fixture).is_empty()).expect("it is noticed");
        println!("measured: promotion begun {} ms after the kill", killed.elapsed().as_millis());
        let action = wait_done(&fixture, 1);
        println!("measured: no writes for {} ms", action["held_ms"]);
        let (new, other) = promoted(&fixture.cluster, &action);
        assert_eq!((&action["kind"], &action["from"]), (&"failover".into(), &"pg0".into()));
        assert_eq!(step(&action, "read-only")["ok"], false, "nobody answered there");
        assert_eq!(step(&action, &format!("let {} follow", other.name))["ok"], true, "{action:#}");
        writing.go_on(10);
        assert_eq!(other.value("SELECT status FROM pg_stat_wal_receiver").unwrap(), "streaming");
        // It comes back and would take writes from whoever asks.
        old.start().unwrap();
        let action = wait_done(&fixture, 2);
        assert_eq!(step(&action, "read-only")["ok"], true, "{action:#}");
        assert_eq!(old.value("SHOW default_transaction_read_only").unwrap(), "on");
        writing.go_on(10);
        assert_eq!(new.value("SELECT pg_is_in_recovery()").unwrap(), "f");
    });
    let action = &made(&fixture)[0];
    let (new, _) = promoted(&fixture.cluster, action);
    check_books(&fixture, new, &acknowledged);
    let log = old.log();
    let restarted = log.rfind("database system was interrupted").expect("it was killed");
    let after: Vec<&str> =
        log[restarted..].lines().filter(|line| line.contains("app@app")).collect();
    assert!(after.is_empty(), "statements on the old timeline: {after:?}");
    let shown = tiffin(&fixture, &["status"]);
    for word in ["failover from pg0 to", "promote pg", "open the gate", "writes held for"] {
        assert!(said(&shown).contains(word), "{word}: {}", said(&shown));
    }
}

/// A stall that ends by itself is not a lost primary, however often it comes.
#[test]
fn a_stall_is_no_alarm() {
    let fixture = promoting().start();
    let (primary, before) = (fixture.cluster.primary(), epoch(&fixture));
    for _ in 0..4 {
        primary.sigstop().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        primary.sigcont().unwrap();
        wait_until(PATIENCE, || {
            fixture.try_value("CREATE TEMP TABLE x ()").is_err_and(|error| {
                // No row: it ran.
                format!("{error:#}").contains("no row")
            })
        })
        .expect("writes go on");
    }
    assert_eq!((epoch(&fixture), actions(&fixture)), (before, vec![]));
}

/// A frozen primary keeps its connections, also those of its replicas; and it may come to life.
#[test]
fn a_frozen_primary_is_replaced_and_what_it_says_later_is_not_passed_on() {
    let fixture = start(promoting().setting(RETRY, RETRY_LATE));
    let old = fixture.cluster.primary();
    let writing = Writing::default();
    let acknowledged = around(&fixture, &writing, || {
        old.sigstop().unwrap();
        let action = wait_done(&fixture, 1);
        println!("measured: no writes for {} ms with a frozen primary", action["held_ms"]);
        writing.go_on(10);
        old.sigcont().unwrap();
        wait_done(&fixture, 2);
        writing.go_on(10);
    });
    let (new, _) = promoted(&fixture.cluster, &made(&fixture)[0]);
    check_books(&fixture, new, &acknowledged);
    assert!(writing.failed.load(Ordering::Relaxed) <= WRITERS, "one each at most");
}

/// A statement that the proxy gave up when the machine was overloaded may still make it read-only.
#[test]
fn a_primary_that_nobody_replaced_takes_writes() {
    let fixture = promoting().start();
    let primary = fixture.cluster.primary();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    fixture.cluster.replicas().iter().for_each(|replica| replica.kill9().unwrap());
    primary.kill9().unwrap();
    wait_until(PATIENCE, || actions(&fixture).iter().any(|action| action["state"] == "failed"))
        .expect("it is tried");
    primary.start().unwrap();
    fixture.wait_primary(primary);
    let is_running = || actions(&fixture).iter().any(|action| action["state"] == "running");
    wait_until(PATIENCE, || !is_running()).expect("that ends");
    primary.set("default_transaction_read_only", "on").unwrap();
    wait_until(PATIENCE, || fixture.session().query("INSERT INTO t VALUES (1)").is_ok())
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
}

/// A replica that was away has received, from the old primary, what the new one does not have.
#[test]
fn a_replica_that_has_too_much_is_not_said_to_follow() {
    let fixture = start(promoting());
    let [old, new, away] = fixture.cluster.servers() else { panic!("three servers") };
    away.sigstop().unwrap();
    old.kill9().unwrap();
    let action = wait_done(&fixture, 1);
    assert_eq!(step(&action, "let pg2 follow pg1")["ok"], false, "{action:#}");
    fixture.proxy.signal("STOP").unwrap();
    old.start().unwrap();
    away.sigcont().unwrap();
    old.query("SELECT pg_switch_wal()").unwrap();
    old.query("CHECKPOINT").unwrap();
    let end = old.value("SELECT pg_current_wal_flush_lsn()").unwrap();
    let has_it = format!("SELECT pg_last_wal_receive_lsn() >= '{end}'");
    wait_until(PATIENCE, || away.value(&has_it).is_ok_and(|has| has == "t")).expect("it receives");
    fixture.proxy.signal("CONT").unwrap();
    let says = |what: &str| fixture.proxy.log().contains(what);
    wait_until(PATIENCE, || says("has to be rebuilt or rewound node=pg2"))
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
    assert!(!says("it is back, and follows"), "{}", fixture.proxy.log());
    fixture.cluster.rewind(away, new).unwrap();
    wait_until(PATIENCE, || says("it is back, and follows pg1 node=pg2"))
        .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
}

/// The proxy alone has lost the primary; its replicas still follow it.
#[test]
fn a_cut_link_is_no_lost_primary() {
    let relay = Relay::start(Behaviour::Refuse);
    let port = relay.port;
    let fixture = promoting()
        .unready()
        .config_with(move |_, config| {
            config["clusters"]["main"]["nodes"]["pg0"] = format!("127.0.0.1:{port}").into();
        })
        .key("failover.detect.timeout", "1s")
        // The replicas' way to the primary is free: a busy machine must not make it look cut.
        .key("failover.detect.confirm", "3s")
        .start();
    relay.set(Behaviour::Forward(fixture.cluster.primary().port));
    fixture.proxy.wait_ready().unwrap();
    fixture.wait_in_read_set(fixture.cluster.replicas());
    relay.set(Behaviour::Refuse);
    let receivers = || -> Vec<String> {
        let pid = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        fixture.cluster.replicas().iter().filter_map(|server| server.value(pid).ok()).collect()
    };
    let before = receivers();
    assert_eq!(before.len(), 2);
    // They are made to connect again, twice, and can.
    for _ in 0..2 {
        let before = receivers();
        wait_until(PATIENCE, || {
            let now = receivers();
            now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
        })
        .expect("replicas connect again");
    }
    assert_eq!(actions(&fixture), Vec::<Value>::new());
    relay.set(Behaviour::Forward(fixture.cluster.primary().port));
    fixture.wait_primary(fixture.cluster.primary());
    assert_eq!(actions(&fixture), Vec::<Value>::new());
}

on_every_engine!(a_proxy_that_sees_a_minority_writes_nothing);

/// The proxy sees the primary and no other: the others may have another one by now.
fn a_proxy_that_sees_a_minority_writes_nothing<S: Stand>(which: Which) {
    let relays = Arc::new([Relay::start(Behaviour::Refuse), Relay::start(Behaviour::Refuse)]);
    let cables = relays.clone();
    let fixture = S::stage(which, 2, move |config| {
        let main = &mut config["clusters"]["main"];
        main["failover"]["quorum"] = "majority".into();
        main["gate"]["hold"] = "500ms".into();
        let replicas = main["nodes"].as_object_mut().unwrap().values_mut().skip(1);
        for (cable, address) in cables.iter().zip(replicas) {
            let port = address.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
            cable.set(Behaviour::Forward(port));
            *address = format!("127.0.0.1:{}", cable.port).into();
        }
    });
    let writer = fixture.session();
    writer.query("CREATE TABLE t (n int)").unwrap();
    let primary = fixture.cluster.primary();
    for (round, cut) in [Behaviour::Refuse, Behaviour::Silence].into_iter().enumerate() {
        relays.iter().for_each(|relay| relay.set(cut));
        // A write under way while the primary is given up would end its session.
        wait_until(PATIENCE, || topology(&fixture)["primary"].is_null()).expect("it is given up");
        let refused = || writer.query("INSERT INTO t VALUES (1)").err();
        let mut told = String::new();
        wait_until(PATIENCE, || {
            refused().is_some_and(|error| {
                told = format!("{error:#}");
                told.contains("failover.quorum")
            })
        })
        .unwrap_or_else(|_| panic!("{told}\n{}", fixture.proxy.log()));
        let count = || fixture.direct(primary).value("SELECT count(*) FROM t").unwrap();
        let before = count();
        assert!((0..3).all(|_| refused().is_some()));
        assert_eq!(count(), before, "round {round}");
        // Two of three are most again.
        relays[0].set(Behaviour::Forward(fixture.cluster.replica(0).port));
        wait_until(PATIENCE, || refused().is_none()).expect("writes go on");
        relays[1].set(Behaviour::Forward(fixture.cluster.replica(1).port));
        fixture.wait_in_read_set(fixture.cluster.replicas());
    }
}

#[test]
fn a_switchover_shows_no_client_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    let line = format!(
        "echo $TIFFIN_NODE $TIFFIN_PRIMARY_NODE > {0}.new; mv {0}.new {0}; \
         while [ -e {0} ]; do sleep 0.05; done",
        request.display()
    );
    let fixture = start(promoting().key("failover.rejoin_command", line));
    let writing = Writing::default();
    let acknowledged = around(&fixture, &writing, || {
        for (from, to) in [("pg0", "pg1"), ("pg1", "pg2"), ("pg2", "pg0")] {
            std::thread::scope(|scope| {
                // What runs on the servers' machine.
                let (fixture, request) = (&fixture, &request);
                scope.spawn(move || {
                    wait_until(PATIENCE, || request.exists()).expect("the command runs");
                    let by_name = |name: &str| {
                        fixture.cluster.servers().iter().find(|server| server.name == name).unwrap()
                    };
                    let asked = std::fs::read_to_string(request).unwrap();
                    assert_eq!(asked.trim(), format!("{from} {to}"));
                    fixture.cluster.rewind(by_name(from), by_name(to)).unwrap();
                    std::fs::remove_file(request).unwrap();
                });
                let switched = tiffin(fixture, &["switchover", "--to", to, "--timeout", "60"]);
                assert_eq!(switched.status.code(), Some(0), "{}", said(&switched));
                assert!(said(&switched).contains("writes held for"), "{}", said(&switched));
            });
            writing.go_on(10);
            // All of them are as they should be before the next.
            let servers = fixture.cluster.servers();
            fixture.wait_in_read_set(servers.iter().filter(|server| server.name != to));
        }
    });
    assert_eq!(writing.failed.load(Ordering::Relaxed), 0, "errors");
    check_books(&fixture, fixture.cluster.primary(), &acknowledged);
    for action in actions(&fixture) {
        println!("measured: switchover to {}: writes held {} ms", action["to"], action["held_ms"]);
    }
}

#[test]
fn a_switchover_that_cannot_be_changes_nothing() {
    let fixture = promoting().start();
    fixture.create_table("t", "n int");
    let (primary, target) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    let before = epoch(&fixture);
    let refused = |to: &str| {
        let asked = tiffin(&fixture, &["switchover", "--to", to, "--timeout", "0.5"]);
        assert_eq!(asked.status.code(), Some(1), "{}", said(&asked));
        said(&asked)
    };
    assert!(refused("pg9").contains("there is no node pg9"));
    assert!(refused("pg0").contains("pg0 is the primary"));

    // A transaction that does not end.
    let writer = fixture.session();
    writer.query("BEGIN").unwrap();
    writer.query("INSERT INTO t VALUES (1)").unwrap();
    let told = refused(&target.name);
    assert!(told.contains("leave pg0 the primary: requests go on there"), "{told}");
    writer.query("INSERT INTO t VALUES (2)").unwrap();
    writer.query("COMMIT").unwrap();

    // A target that does not catch up.
    target.pause_replay().unwrap();
    fixture.session().query("INSERT INTO t VALUES (3)").unwrap();
    refused(&target.name);
    assert_eq!(primary.value("SELECT pg_is_in_recovery()").unwrap(), "f");
    assert_eq!(target.value("SELECT pg_is_in_recovery()").unwrap(), "t");
    assert_eq!(primary.value("SHOW default_transaction_read_only").unwrap(), "off");
    fixture.session().query("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(epoch(&fixture), before);
    target.resume_replay().unwrap();
}

on_postgres_18!(
    a_killed_primary_is_replaced_and_shunned_when_it_returns,
    a_switchover_shows_no_client_an_error,
);
