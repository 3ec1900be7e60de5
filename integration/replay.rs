//! The primary is lost with transactions open, and they go on on the next one.

use crate::promotion::{promoted, promoting, wait_done};
use crate::support::wire::{
    Message, VERSION_3_0, Wire, bind, execute, first_value, flush, parse, query, sync, tags,
};
use crate::support::{
    Fixture, PATIENCE, Server, Session, Sql, Stage, Stand, confirm_nothing, sqlstate, wait_until,
};
use std::thread::{JoinHandle, spawn};

/// Statements of one transaction that are kept in these tests.
pub const STATEMENTS_MAX: usize = 12;

/// A client with an open transaction. Its rows have its name.
pub struct Client<S: Stand = Server> {
    pub name: &'static str,
    pub session: S::Session,
}

impl<S: Stand> Client<S> {
    pub fn new(fixture: &Stage<S>, name: &'static str) -> Client<S> {
        Client { name, session: fixture.session() }
    }

    /// Begins and runs these.
    pub fn begin(fixture: &Stage<S>, name: &'static str, statements: &[&str]) -> Client<S> {
        let client = Client::new(fixture, name);
        client.run("BEGIN");
        statements.iter().for_each(|sql| client.run(sql));
        client
    }

    pub fn run(&self, sql: &str) {
        let done = self.session.query(sql);
        done.unwrap_or_else(|error| panic!("{}: {sql}: {error:#}", self.name));
    }

    pub fn value(&self, sql: &str) -> String {
        let value = self.session.value(sql);
        value.unwrap_or_else(|error| panic!("{}: {sql}: {error:#}", self.name))
    }

    /// The SQLSTATE or number of the error that a statement ends with.
    pub fn refused(&self, sql: &str) -> String {
        S::code(&self.session.query(sql).expect_err(self.name))
    }
}

fn insert(name: &str, n: usize) -> String {
    format!("INSERT INTO t VALUES ('{name}', {n})")
}

/// What is there of a client on a server.
fn rows_of(fixture: &Fixture, server: &Server, name: &str) -> String {
    let sql = "SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM t WHERE name =";
    fixture.direct(server).value(&format!("{sql} '{name}'")).unwrap()
}

/// How many transactions have gone on, have met another answer, were not kept.
pub fn replays<S: Stand>(fixture: &Stage<S>) -> [f64; 3] {
    let metrics = fixture.metrics();
    ["done", "differs", "not_kept"]
        .map(|outcome| metrics.sum("tiffin_replays_total", &[("outcome", outcome)]))
}

fn start(builder: crate::support::Builder) -> Fixture {
    let fixture = builder
        .key("failover.replay", "on")
        .key("failover.replay_statements_max", STATEMENTS_MAX)
        .config(|config| config["auth"]["method"] = "password".into())
        .start();
    fixture.create_table("t", "name text, n int, PRIMARY KEY (name, n)");
    let session = fixture.session();
    session.query("INSERT INTO t VALUES ('all', 0)").unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    fixture
}

fn wire(fixture: &Fixture) -> Wire {
    let app = &fixture.cluster.app;
    Wire::login(fixture.proxy.port, VERSION_3_0, &app.user, &app.password).0
}

/// A request that is under way when the server is lost, in a thread of its own.
pub fn under_way<T: Sql + Send + 'static>(session: T, sql: &'static str) -> JoinHandle<(T, usize)> {
    spawn(move || {
        let rows = session.query(sql).unwrap_or_else(|error| panic!("{sql}: {error:#}"));
        (session, rows.len())
    })
}

fn wait_running(primary: &Server, text: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{text}%' AND state = 'active' \
         AND pid <> pg_backend_pid()"
    );
    wait_until(PATIENCE, || primary.value(&sql).is_ok_and(|count| count == "1")).expect(text);
}

#[test]
fn transactions_go_on_on_the_next_primary() {
    let fixture = start(promoting());
    let old = fixture.cluster.primary();
    let simple = Client::begin(
        &fixture,
        "simple",
        &[&insert("simple", 1), "SELECT n FROM t WHERE name = 'all' FOR UPDATE"],
    );
    let savepoints = Client::begin(
        &fixture,
        "savepoints",
        &[
            "SET LOCAL work_mem TO '123kB'",
            &insert("savepoints", 1),
            "SAVEPOINT a",
            &insert("savepoints", 2),
        ],
    );
    assert_eq!(savepoints.refused(&insert("savepoints", 2)), "23505");
    savepoints.run("ROLLBACK TO a");
    let settings = Client::begin(&fixture, "settings", &["SET TimeZone TO 'Asia/Tokyo'"]);
    let prepared = Client::begin(&fixture, "prepared", &[]);
    for n in 1..=2 {
        let returned = prepared
            .session
            .rows("INSERT INTO t VALUES ('prepared', $1) RETURNING n", &[&n])
            .unwrap();
        assert_eq!(returned[0].get::<_, i32>(0), n);
    }
    let failed = Client::begin(&fixture, "failed", &[&insert("failed", 1)]);
    assert_eq!(failed.refused("SELECT 1/0"), "22012");
    let sleeping = Client::begin(&fixture, "sleeping", &[&insert("sleeping", 1)]);
    // Rows that come in the time of many round trips: some of them before the loss.
    let rows = Client::begin(&fixture, "rows", &[&insert("rows", 1)]);
    let mut pipeline = wire(&fixture);
    pipeline.query("BEGIN");
    let inserts = |numbers: [usize; 2]| {
        let one = |n: usize| {
            let sql = insert("pipeline", n);
            [parse("", &sql), bind("", ""), execute("", 0)].concat()
        };
        numbers.map(one).concat()
    };
    pipeline.send(&[inserts([1, 2]), sync()].concat());
    assert_eq!(tags(&pipeline.until_ready()), "12C12CZ");
    // Answered, and not ended.
    pipeline.send(&[inserts([3, 4]), flush()].concat());
    let answered: Vec<Message> = (0..6).map(|_| pipeline.message().unwrap()).collect();
    assert_eq!(tags(&answered), "12C12C");
    // BEGIN with the first statement, as some drivers send it.
    let mut together = wire(&fixture);
    let begin = [parse("", "BEGIN"), bind("", ""), execute("", 0)].concat();
    let first = [parse("", &insert("together", 1)), bind("", ""), execute("", 0)].concat();
    together.send(&[begin, first, sync()].concat());
    assert_eq!(tags(&together.until_ready()), "12C12CZ");
    let sleeping = under_way(sleeping.session, "SELECT pg_sleep(2), 'sleeps'");
    let rows = under_way(
        rows.session,
        "SELECT repeat('x', 1000), pg_sleep(0.02), n FROM generate_series(1, 150) n",
    );
    wait_running(old, "sleeps");
    wait_running(old, "generate_series");
    old.kill9().unwrap();

    let (new, _) = promoted(&fixture.cluster, &wait_done(&fixture, 1));
    let gone_on = |client: &Client, sql: &str, rows: &str| {
        client.run(sql);
        client.run("COMMIT");
        assert_eq!(rows_of(&fixture, new, client.name), rows, "{}", client.name);
    };
    gone_on(&simple, &insert("simple", 2), "1 2");
    assert_eq!(savepoints.value("SHOW work_mem"), "123kB");
    gone_on(&savepoints, &insert("savepoints", 3), "1 3");
    assert_ne!(savepoints.value("SHOW work_mem"), "123kB");
    assert_eq!(settings.value("SHOW TimeZone"), "Asia/Tokyo");
    gone_on(&settings, &insert("settings", 1), "1");
    assert_eq!(settings.value("SHOW TimeZone"), "Asia/Tokyo");
    let sql = "INSERT INTO t VALUES ('prepared', $1) RETURNING n";
    prepared.session.rows(sql, &[&3]).unwrap();
    gone_on(&prepared, "SELECT 1", "1 2 3");
    assert_eq!(failed.refused("SELECT 1"), "25P02");
    gone_on(&failed, "ROLLBACK", "");
    let mut wanted = insert("pipeline", 5);
    pipeline.send(&[sync(), query(&wanted)].concat());
    assert_eq!(tags(&pipeline.until_ready()), "Z");
    assert_eq!(tags(&pipeline.until_ready()), "CZ");
    wanted = "COMMIT".to_owned();
    assert_eq!(tags(&pipeline.query(&wanted)), "CZ");
    assert_eq!(rows_of(&fixture, new, "pipeline"), "1 2 3 4 5");
    assert_eq!(tags(&together.query(&insert("together", 2))), "CZ");
    assert_eq!(tags(&together.query("COMMIT")), "CZ");
    assert_eq!(rows_of(&fixture, new, "together"), "1 2");
    for (name, thread, count) in [("sleeping", sleeping, 1), ("rows", rows, 150)] {
        let (session, rows) = thread.join().unwrap();
        assert_eq!(rows, count, "{name}");
        session.query("COMMIT").unwrap();
        assert_eq!(rows_of(&fixture, new, name), "1", "{name}");
    }
    assert_eq!(replays(&fixture), [9.0, 0.0, 0.0], "{}", fixture.proxy.log());
}

#[test]
fn what_cannot_go_on_fails_or_ends() {
    let fixture = start(promoting());
    let old = fixture.cluster.primary();
    let random = Client::begin(&fixture, "random", &[&insert("random", 1), "SELECT random()"]);
    let now = Client::begin(&fixture, "now", &[&insert("now", 1), "SELECT now()"]);
    let mut again = wire(&fixture);
    again.query("BEGIN");
    assert_eq!(tags(&again.query("SELECT clock_timestamp()")), "TDCZ");
    let many = Client::begin(&fixture, "many", &[]);
    (0..=STATEMENTS_MAX).for_each(|n| many.run(&insert("many", n)));
    let temporary =
        Client::begin(&fixture, "temporary", &["CREATE TEMPORARY TABLE mine AS SELECT 1"]);
    let mut copying = wire(&fixture);
    copying.query("BEGIN");
    copying.send(&query("COPY t FROM STDIN"));
    assert_eq!(copying.message().unwrap().tag, b'G');
    let chained = Client::begin(&fixture, "chained", &[&insert("chained", 1)]);
    chained.run("COMMIT AND CHAIN");
    chained.run(&insert("chained", 2));
    let outside =
        Client::begin(&fixture, "outside", &["SELECT pg_logical_emit_message(false, 'a', 'b')"]);
    fixture.cluster.wait_caught_up(old).unwrap();
    // Its confirmation never comes.
    confirm_nothing(old);
    let committing = Client::begin(&fixture, "committing", &[&insert("committing", 1)]);
    let committing = spawn(move || committing.refused("COMMIT"));
    wait_running(old, "COMMIT");
    fixture.cluster.wait_caught_up(old).unwrap();
    old.kill9().unwrap();

    let (new, _) = promoted(&fixture.cluster, &wait_done(&fixture, 1));
    assert_eq!(committing.join().unwrap(), "08007");
    assert_eq!(rows_of(&fixture, new, "committing"), "1");
    assert_eq!(random.refused(&insert("random", 2)), "40001");
    assert_eq!(random.refused("SELECT 1"), "25P02");
    random.run("ROLLBACK");
    assert_eq!(random.value("SELECT 1"), "1");
    // A COMMIT must not pass for one.
    assert_eq!(now.refused("COMMIT"), "40001");
    now.run(&insert("now", 2));
    let told = again.query("SELECT 1");
    assert_eq!(tags(&told), "EZ");
    assert!(told[0].field(b'H').contains("not deterministic"), "{}", told[0].text());
    assert_eq!(tags(&again.query("ROLLBACK")), "CZ");
    assert_eq!(first_value(&again.query("SELECT 1")).as_deref(), Some("1"));
    for ended in [many, temporary, chained, outside] {
        assert!(ended.session.query("SELECT 1").is_err(), "{}", ended.name);
    }
    copying.stream.set_nonblocking(false).unwrap();
    assert!(copying.closed_with().is_some());
    for (name, rows) in [("random", ""), ("now", "2"), ("many", ""), ("chained", "1")] {
        assert_eq!(rows_of(&fixture, new, name), rows, "{name}");
    }
    assert_eq!(replays(&fixture), [0.0, 3.0, 4.0], "{}", fixture.proxy.log());
}

/// Its transaction runs again with it, and is there once.
#[test]
fn a_commit_that_has_not_happened_runs_again() {
    let fixture =
        start(Fixture::build().key("gate.hold", "2min").key("failover.resolve_commits", "on"));
    let [old, new, third] = fixture.cluster.servers() else { panic!("three servers") };
    new.cut_receiver().unwrap();
    third.cut_receiver().unwrap();
    confirm_nothing(old);
    let commits = ["simple", "prepared"].map(|name| {
        let client = Client::begin(&fixture, name, &[&insert(name, 1)]);
        client.run(&insert(name, 2));
        spawn(move || match name {
            "simple" => client.session.query("COMMIT").map(|_| client),
            _ => client.session.rows("COMMIT", &[]).map(|_| client),
        })
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until(PATIENCE, || old.value(waiting).is_ok_and(|count| count == "2")).expect("commits");
    let differs =
        Client::begin(&fixture, "differs", &[&insert("differs", 1), "SELECT clock_timestamp()"]);
    let differs = spawn(move || (differs.refused("COMMIT"), differs));
    wait_until(PATIENCE, || old.value(waiting).is_ok_and(|count| count == "3")).expect("commits");
    old.kill9().unwrap();
    new.promote().unwrap();
    for commit in commits {
        let client = commit.join().unwrap().expect("committed");
        assert_eq!(rows_of(&fixture, new, client.name), "1 2", "{}", client.name);
        assert_eq!(client.value("SELECT 1"), "1", "{}", client.name);
    }
    let (state, client) = differs.join().unwrap();
    assert_eq!((state.as_str(), client.value("SELECT 1").as_str()), ("40001", "1"));
    assert_eq!(rows_of(&fixture, new, "differs"), "");
    assert_eq!(replays(&fixture), [2.0, 1.0, 0.0], "{}", fixture.proxy.log());
}

#[test]
fn a_read_only_transaction_goes_on_without_its_replica() {
    let fixture = start(Fixture::build());
    let writer = fixture.session();
    let [_, one, two] = fixture.cluster.servers() else { panic!("three servers") };
    let read = "SELECT n FROM t WHERE name =";
    let all = format!("{read} 'all'");
    let reader = fixture.session();
    reader.query("BEGIN READ ONLY").unwrap();
    assert_eq!(reader.value(&all).unwrap(), "0");
    let snapshot = fixture.session();
    snapshot.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").unwrap();
    assert!(snapshot.query(&format!("{read} 'later'")).unwrap().is_empty());
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    let count = |server: &Server| server.value(idle).unwrap().parse::<usize>().unwrap();
    assert_eq!(count(one) + count(two), 2, "on replicas");
    writer.query(&insert("later", 1)).unwrap();
    one.kill9().unwrap();
    two.kill9().unwrap();
    assert_eq!(reader.value(&all).unwrap(), "0");
    reader.query("COMMIT").unwrap();
    let error = snapshot.query(&all).expect_err("it has seen what is no more");
    assert_eq!(sqlstate(&error), Some("40001"));
    snapshot.query("ROLLBACK").unwrap();
    // Whoever was on the first goes on on the second one, if that takes longer to be killed.
    let [done, differs, not_kept] = replays(&fixture);
    assert!((1.0..=2.0).contains(&done), "{done}: {}", fixture.proxy.log());
    assert_eq!([differs, not_kept], [1.0, 0.0], "{}", fixture.proxy.log());
}

/// The next primary is lost as well while the transaction runs again there; then it takes too long on
/// a server that has crashed; then no server comes.
#[test]
fn what_may_go_wrong_while_it_runs_again() {
    let fixture = start(promoting().key("failover.replay_time_max", "2min"));
    let old = fixture.cluster.primary();
    let pause = "SELECT pg_sleep(n) FROM t WHERE name = 'pause'";
    // Longer than anything here takes: nobody waits for its end.
    let set_pause = |session: &Session, seconds: u32| {
        session.query(&format!("UPDATE t SET n = {seconds} WHERE name = 'pause'")).unwrap();
    };
    fixture.session().query("INSERT INTO t VALUES ('pause', 0)").unwrap();
    let twice = Client::begin(&fixture, "twice", &[&insert("twice", 1), pause]);
    set_pause(&fixture.session(), 300);
    fixture.cluster.wait_caught_up(old).unwrap();
    old.kill9().unwrap();
    let next = spawn(move || {
        twice.run(&insert("twice", 2));
        twice
    });
    let (new, last) = promoted(&fixture.cluster, &wait_done(&fixture, 1));
    wait_running(new, "pg_sleep(n)");
    set_pause(&fixture.direct(new), 0);
    fixture.cluster.wait_caught_up(new).unwrap();
    new.kill9().unwrap();
    wait_done(&fixture, 2);
    next.join().unwrap().run("COMMIT");
    assert_eq!(rows_of(&fixture, last, "twice"), "1 2");

    let mut config = fixture.config.clone();
    config["clusters"]["main"]["failover"]["replay_time_max"] = "500ms".into();
    fixture.reload(&config);
    let late = Client::begin(&fixture, "late", &[&insert("late", 1), pause]);
    set_pause(&fixture.session(), 300);
    last.kill9().unwrap();
    last.start().unwrap();
    assert_eq!(late.refused(&insert("late", 2)), "40001");
    late.run("ROLLBACK");

    fixture.wait_primary(last);
    config["clusters"]["main"]["gate"]["hold"] = "2s".into();
    fixture.reload(&config);
    let alone = Client::begin(&fixture, "alone", &[&insert("alone", 1)]);
    last.kill9().unwrap();
    assert_eq!(alone.refused(&insert("alone", 2)), "40001");
    let outcomes = ["done", "too_long", "no_server"]
        .map(|outcome| fixture.metrics().sum("tiffin_replays_total", &[("outcome", outcome)]));
    assert_eq!(outcomes, [1.0, 1.0, 1.0], "{}", fixture.proxy.log());
    last.start().unwrap();
    for name in ["late", "alone"] {
        assert_eq!(rows_of(&fixture, last, name), "", "{name}");
    }
}
