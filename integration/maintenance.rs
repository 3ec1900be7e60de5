//! Operators take nodes out of service and pause clusters; what runs may end, and no client sees
//! an error.

use crate::support::{
    Member, PATIENCE, Server, Sql, Stage, Stand, Which, binary, on_every_engine, wait_until,
};
use serde_json::Value;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "the token of this test";

/// Runs a command of the program against the fixture's proxy.
pub fn tiffin<S: Member>(fixture: &Stage<S>, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--config").arg(&fixture.proxy.config_path);
    command.output().expect("run tiffin")
}

pub fn said(output: &Output) -> String {
    let Output { stdout, stderr, .. } = output;
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}

on_every_engine!(
    a_drained_replica_gets_nothing_until_it_is_back,
    a_paused_cluster_holds_everything_and_loses_nothing,
    a_paused_primary_restarts_unseen_and_a_drained_cluster_has_no_clients,
);

fn with_token<S: Stand>(which: Which) -> Stage<S> {
    S::stage(which, 2, |config| config["api"]["token"] = TOKEN.into())
}

pub fn topology<S: Stand>(fixture: &Stage<S>) -> Value {
    let (status, body) = fixture.proxy.get("/api/v1/topology").unwrap();
    assert_eq!(status, 200);
    let mut body: Value = serde_json::from_str(&body).unwrap();
    body["clusters"][0].take()
}

fn a_drained_replica_gets_nothing_until_it_is_back<S: Stand>(which: Which) {
    let fixture = with_token::<S>(which);
    let (one, two) = (fixture.cluster.replica(0), fixture.cluster.replica(1));
    let port = format!("SELECT {}", S::OWN_PORT);

    // A transaction that runs there may end; until then the node is not idle.
    let reader = fixture.session();
    reader.query(&S::set_own("target", &one.name)).unwrap();
    reader.query("START TRANSACTION READ ONLY").unwrap();
    assert_eq!(fixture.ran_on(&reader, &port), one.name);
    let waited = tiffin(&fixture, &["drain", "--node", &one.name, "--timeout", "0.3"]);
    assert_eq!(waited.status.code(), Some(1), "{}", said(&waited));
    assert!(said(&waited).contains("1 of its connections"), "{}", said(&waited));
    assert_eq!(fixture.ran_on(&reader, &port), one.name);
    reader.query("COMMIT").unwrap();
    let drained = tiffin(&fixture, &["drain", "--node", &one.name]);
    assert_eq!(drained.status.code(), Some(0), "{}", said(&drained));
    fixture.wait_in_read_set([two]);
    assert!(fixture.share(20).keys().all(|name| *name == two.name));
    // Also reads to which any replica is good enough, and those that name it.
    let session = fixture.session();
    session.query(&S::set_own("consistency", "eventual")).unwrap();
    assert_eq!(fixture.ran_on(&session, &port), two.name);
    session.query(&S::set_own("target", &one.name)).unwrap();
    assert_ne!(fixture.ran_on(&session, &port), one.name);
    // Its idle connections are closed; the one that asks is the test's own.
    let direct = fixture.direct(one);
    let open = match which {
        Which::Postgres => "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'",
        _ => "SELECT count(*) FROM information_schema.processlist WHERE user = 'app'",
    };
    wait_until(PATIENCE, || direct.value(open).is_ok_and(|count| count == "1"))
        .expect("connections are closed");

    // A reload forgets nothing.
    fixture.reload(&fixture.config);
    assert!(topology(&fixture)["nodes"][1]["drained"].as_bool().unwrap());
    let back = tiffin(&fixture, &["undrain", "--node", &one.name]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    fixture.wait_in_read_set([one, two]);
    let (_, told) = fixture.proxy.get("/api/v1/failovers").unwrap();
    assert!(told.contains("an operator has drained it") && told.contains("is in service again"));
}

fn a_paused_cluster_holds_everything_and_loses_nothing<S: Stand>(which: Which) {
    let fixture = with_token::<S>(which);
    fixture.create_table("t", "n int");
    // Drivers may ask something when they connect: that would wait as well.
    let [writer, reader, other] = [(); 3].map(|()| fixture.session());
    writer.query("BEGIN").unwrap();
    writer.query("INSERT INTO t VALUES (1)").unwrap();
    let paused = tiffin(&fixture, &["pause", "--timeout", "0.3"]);
    assert_eq!(paused.status.code(), Some(1), "{}", said(&paused));
    assert_eq!(topology(&fixture)["held"], "everything");

    std::thread::scope(|scope| {
        let held = [
            scope.spawn(|| reader.value("SELECT count(*) FROM t")),
            scope.spawn(|| other.query("INSERT INTO t VALUES (2)").map(|_| String::new())),
        ];
        wait_until(PATIENCE, || fixture.metrics().sum("tiffin_gate_waiting", &[]) == 2.0)
            .expect("both wait at the gate");
        // The open transaction goes on to its end.
        writer.query("INSERT INTO t VALUES (3)").unwrap();
        writer.query("COMMIT").unwrap();
        let paused = tiffin(&fixture, &["pause"]);
        assert_eq!(paused.status.code(), Some(0), "{}", said(&paused));
        assert!(held.iter().all(|task| !task.is_finished()));
        let resumed = tiffin(&fixture, &["resume"]);
        assert_eq!(resumed.status.code(), Some(0), "{}", said(&resumed));
        let [read, _] = held.map(|task| task.join().unwrap().unwrap());
        // The read may have gone on before or after the write.
        assert!(["2", "3"].contains(&read.as_str()), "{read}");
        let direct = fixture.direct(fixture.cluster.primary());
        assert_eq!(direct.value("SELECT count(*) FROM t").unwrap(), "3");
    });

    // A pause that nobody ends: requests wait as long as the gate holds them, and are told why.
    let mut config = fixture.config.clone();
    config["clusters"]["main"]["gate"]["hold"] = "300ms".into();
    fixture.reload(&config);
    assert_eq!(tiffin(&fixture, &["pause"]).status.code(), Some(0));
    let started = Instant::now();
    let error = format!("{:#}", reader.query("SELECT 1 FROM t").unwrap_err());
    assert!(error.contains("an operator has paused the cluster"), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(tiffin(&fixture, &["resume"]).status.code(), Some(0));
    reader.query("SELECT 1 FROM t").unwrap();
}

/// The primary restarts while it is paused: nobody is promoted, reads go on, writes wait. Then the
/// clients are sent away.
fn a_paused_primary_restarts_unseen_and_a_drained_cluster_has_no_clients<S: Stand>(which: Which) {
    let fixture = S::promoting(which, |_| {});
    fixture.create_table("t", "n int");
    let primary = fixture.cluster.primary();
    let run = |arguments: &[&str], text: &str| {
        let done = tiffin(&fixture, arguments);
        let told = said(&done);
        assert_eq!((done.status.code(), told.contains(text)), (Some(0), true), "{told}");
    };
    let epoch = || topology(&fixture)["epoch"].as_u64().unwrap();
    let before = epoch();
    let [writer, reader] = [(); 2].map(|()| fixture.session());
    run(&["pause", "--node", &primary.name], "is paused: none of its connections is in use");
    assert_eq!(topology(&fixture)["held"], "writes");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| writer.query("INSERT INTO t VALUES (1)").map(drop));
        wait_until(PATIENCE, || fixture.metrics().sum("tiffin_gate_waiting", &[]) == 1.0)
            .expect("the write waits");
        primary.kill9().unwrap();
        wait_until(PATIENCE, || topology(&fixture)["primary"].is_null()).expect("it is missed");
        let port = fixture.ran_on(&reader, &format!("SELECT {}, count(*) FROM t", S::OWN_PORT));
        assert_ne!(port, primary.name);
        // Longer than a lost primary is waited for.
        std::thread::sleep(Duration::from_secs(2));
        assert!(crate::promotion::actions(&fixture).is_empty());
        primary.start_again();
        fixture.wait_primary(primary);
        assert!(!held.is_finished());
        run(&["resume", "--node", &primary.name], "goes on");
        held.join().unwrap().unwrap();
    });
    assert!(crate::promotion::actions(&fixture).is_empty());
    assert!(epoch() <= before + 1, "the same primary");

    // Who is in a transaction may end it.
    writer.query("BEGIN").unwrap();
    writer.query("INSERT INTO t VALUES (2)").unwrap();
    let waited = tiffin(&fixture, &["drain", "--timeout", "0.3"]);
    assert_eq!(waited.status.code(), Some(1), "{}", said(&waited));
    wait_until(PATIENCE, || reader.query("SELECT 1").is_err()).expect("it is sent away");
    let refused = fixture.try_value("SELECT 1").map_err(|error| format!("{error:#}"));
    assert!(refused.is_err_and(|told| told.contains("has drained the cluster")));
    assert_eq!(fixture.proxy.get("/ready").unwrap().0, 503);
    writer.query("COMMIT").unwrap();
    run(&["drain"], "is drained: none of its connections is in use");
    wait_until(PATIENCE, || writer.query("SELECT 1").is_err()).expect("it is sent away");
    run(&["undrain"], "in service again");
    wait_until(PATIENCE, || fixture.try_value("SELECT count(*) FROM t").is_ok_and(|n| n == "2"))
        .expect("everybody is let in");
}

#[test]
fn changes_need_the_token_and_a_node_that_can_be_spared() {
    let fixture = with_token::<Server>(Which::Postgres);
    let primary = fixture.cluster.primary().name.as_str();
    let node = |change: &str, node: &str| format!("/api/v1/{change}?cluster=main&node={node}");
    let cases = [
        (node("drain", "pg1"), "wrong", 401, "not the token"),
        (node("drain", primary), TOKEN, 409, "is the primary"),
        (node("drain", "pg9"), TOKEN, 404, "there is no node pg9"),
        (node("pause", "pg9"), TOKEN, 404, "there is no node pg9"),
        ("/api/v1/pause?cluster=x".to_owned(), TOKEN, 404, "there is no cluster x"),
        ("/api/v1/resume?cluster=main".to_owned(), TOKEN, 200, "paused"),
    ];
    for (page, token, status, text) in &cases {
        let (found, body) = fixture.proxy.post(page, token).unwrap();
        assert_eq!((found, body.contains(text)), (*status, true), "{page}: {body}");
    }
    let mut config = fixture.config.clone();
    config.as_object_mut().unwrap().remove("api");
    fixture.reload(&config);
    let (status, body) = fixture.proxy.post("/api/v1/pause?cluster=main", TOKEN).unwrap();
    assert_eq!((status, body.contains("api.token")), (403, true), "{body}");
}
