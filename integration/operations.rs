//! Reload, drain, and what the proxy tells about itself.

use crate::support::wire::{self, Wire};
use crate::support::{Fixture, PATIENCE, Proxy, Session, binary, proxy, wait_until};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_reload_takes_effect_and_a_refused_file_does_not() {
    let fixture = Fixture::start();
    let session = fixture.session();
    session.query("CREATE TABLE t (n int)").unwrap();
    let level = || fixture.session().value("SHOW tiffin.consistency").unwrap();
    let mut config = fixture.config.clone();
    config["clusters"]["main"]["routing"]["consistency"] = "strong".into();
    fixture.reload(&config);
    assert_eq!(level(), "strong");

    // Every mistake at once, and nothing of it comes into force.
    let mut broken = config.clone();
    broken["clusters"]["main"]["routing"] = json!({ "consistency": "sometimes", "max_lag": "5" });
    broken["clusters"]["main"]["pool"] = json!({ "size_maximum": 3 });
    broken["wokers"] = 4.into();
    fixture.proxy.write_config(&broken).unwrap();
    fixture.proxy.signal("HUP").unwrap();
    let told = |word: &str| fixture.proxy.log().contains(word);
    wait_until(PATIENCE, || {
        ["sometimes", "max_lag", "size_maximum", "wokers"].iter().all(|word| told(word))
    })
    .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
    assert_eq!(level(), "strong");
    assert!(!told(&fixture.cluster.app.password));
    // The same file refused by the commands, with lines and an exit status.
    for command in ["check", "run"] {
        let output = Command::new(binary())
            .args([command, "--config"])
            .arg(&fixture.proxy.config_path)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{command}");
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        for word in ["sometimes", "max_lag", "size_maximum", "wokers", "workers"] {
            assert!(said.contains(word), "{command}: {word}: {said}");
        }
    }
    // A node leaves and comes back; the session that was there all the time does not notice.
    let mut fewer = fixture.config.clone();
    fewer["clusters"]["main"]["nodes"].as_object_mut().unwrap().remove("pg2");
    fixture.reload(&fewer);
    wait_until(PATIENCE, || {
        fixture.metrics().with("tiffin_node_healthy", &[("node", "pg2")]).is_empty()
    })
    .expect("pg2 is gone");
    session.query("INSERT INTO t VALUES (1)").unwrap();
    assert!(!fixture.share(40).contains_key("pg2"));
    fixture.reload(&fixture.config);
    wait_until(PATIENCE, || fixture.share(40).contains_key("pg2")).expect("pg2 is back");
    session.query("INSERT INTO t VALUES (1)").unwrap();
}

/// Server connections, an open transaction, the epoch and the journal live on through a reload
/// that is not about them.
#[test]
fn a_reload_leaves_alone_what_it_does_not_change() {
    let fixture = Fixture::build()
        .replicas(1)
        .unready()
        .config(|config| {
            config["workers"] = 1.into();
            let main = config["clusters"]["main"].clone();
            config["clusters"]["other"] = main;
            config["clusters"]["main"]["databases"] = json!(["app"]);
            config["clusters"]["other"]["databases"] = json!(["postgres"]);
        })
        .start();
    let value = |database: &str, sql: &str| {
        let mut config = fixture.config();
        config.dbname(database);
        Session::connect(&config)?.value(sql)
    };
    let on_replica = "/* tiffin: node=pg1 */ SELECT pg_is_in_recovery()";
    for database in ["app", "postgres"] {
        wait_until(PATIENCE, || value(database, on_replica).is_ok_and(|word| word == "t"))
            .expect("reads go to the replica");
    }
    let pids = |database: &str| {
        ["pg0", "pg1"].map(|node| {
            let sql = format!("/* tiffin: node={node} */ SELECT pg_backend_pid()");
            value(database, &sql).unwrap_or_else(|error| panic!("{error:#}"))
        })
    };
    let open = fixture.session();
    open.query("BEGIN").unwrap();
    open.query("CREATE TABLE t (n int)").unwrap();
    let (main, other) = (pids("app"), pids("postgres"));
    let journal = || fixture.proxy.get("/api/v1/failovers").unwrap().1;
    let entries = journal().matches("\"change\"").count();
    assert!(entries > 0, "{}", journal());

    fixture.reload(&fixture.config);
    assert_eq!((pids("app"), pids("postgres")), (main.clone(), other.clone()));
    // Limits, thresholds and users; and a cluster that comes before the others in their order.
    let mut config = fixture.config.clone();
    let section = &mut config["clusters"]["other"];
    section["pool"] = json!({ "size_max": 7, "wait_timeout": "9s" });
    section["routing"] = json!({ "max_lag": "9s", "consistency": "bounded" });
    section["gate"] = json!({ "hold": "9s" });
    config["clusters"]["a"] = fixture.config["clusters"]["main"].clone();
    config["clusters"]["a"]["databases"] = json!(["nowhere"]);
    fixture.reload(&config);
    assert_eq!((pids("app"), pids("postgres")), (main.clone(), other.clone()));
    assert_eq!(value("postgres", "SHOW tiffin.consistency").unwrap(), "bounded");
    assert_eq!(value("app", "SHOW tiffin.consistency").unwrap(), "session");
    // Another way to connect needs other connections, in this cluster alone.
    config["clusters"]["other"]["tls"] = json!({ "mode": "disable" });
    fixture.reload(&config);
    assert_eq!(pids("app"), main);
    let anew = pids("postgres");
    assert!(anew.iter().all(|pid| !other.contains(pid)), "{anew:?}, before {other:?}");

    open.query("COMMIT").unwrap();
    assert_eq!(value("app", "/* tiffin: primary */ SELECT count(*) FROM t").unwrap(), "0");
    assert!(journal().matches("\"change\"").count() >= entries, "{}", journal());
    let epochs = fixture.metrics();
    assert_eq!(epochs.sum("tiffin_cluster_epoch", &[("cluster", "main")]), 1.0);
}

#[test]
fn a_drain_cuts_no_statement() {
    let fixture = Fixture::build()
        .replicas(1)
        .config(|config| {
            config["auth"]["method"] = "password".into();
            config["shutdown"]["drain_timeout"] = "2min".into();
        })
        .start();
    let app = &fixture.cluster.app;
    let (mut idle, _) =
        Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
    let (running, in_transaction) = (fixture.session(), fixture.session());
    in_transaction.query("CREATE TABLE t (n int)").unwrap();
    in_transaction.query("BEGIN").unwrap();
    in_transaction.query("INSERT INTO t VALUES (1)").unwrap();
    std::thread::scope(|scope| {
        let statement = scope.spawn(|| running.value("SELECT 'done' FROM pg_sleep(2)"));
        let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(2)%' AND state = 'active' AND pid <> pg_backend_pid()";
        wait_until(PATIENCE, || {
            fixture.cluster.servers().iter().any(|s| s.value(active).is_ok_and(|n| n == "1"))
        })
        .expect("the statement runs");
        fixture.proxy.signal("TERM").unwrap();
        // The idle client is told and closed, new ones are not taken, the others end in peace.
        assert_eq!(idle.closed_with().as_deref(), Some("57P01"));
        wait_until(PATIENCE, || Session::connect(&fixture.config()).is_err())
            .expect("no new clients");
        if let Ok((status, _)) = fixture.proxy.get("/ready") {
            assert_eq!(status, 503);
        }
        in_transaction.query("INSERT INTO t VALUES (2)").unwrap();
        in_transaction.query("COMMIT").unwrap();
        assert_eq!(statement.join().unwrap().unwrap(), "done");
    });
    let status = fixture.proxy.wait().unwrap();
    assert!(status.success(), "{status:?}\n{}", fixture.proxy.log());
    assert_eq!(
        fixture.direct(fixture.cluster.primary()).value("SELECT count(*) FROM t").unwrap(),
        "2"
    );
}

#[test]
fn a_drain_is_bounded() {
    let fixture = Fixture::build()
        .replicas(0)
        .config(|config| {
            config["auth"]["method"] = "password".into();
            config["shutdown"]["drain_timeout"] = "1s".into();
        })
        .start();
    let app = &fixture.cluster.app;
    let (mut wire, _) =
        Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
    wire.query("BEGIN");
    wire.query("SELECT 1");
    let started = Instant::now();
    fixture.proxy.signal("TERM").unwrap();
    assert_eq!(wire.closed_with().as_deref(), Some("57P01"));
    fixture.proxy.wait().unwrap();
    let elapsed = started.elapsed();
    assert!((Duration::from_millis(900)..PATIENCE).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn pages_tell_the_state() {
    let fixture = Fixture::start();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    let page = |path: &str| fixture.proxy.get(path).unwrap();
    assert_eq!(page("/health").0, 200);
    assert_eq!(page("/ready").0, 200);
    assert_eq!(page("/nowhere").0, 404);
    let (status, body) = page("/api/v1/topology");
    assert_eq!(status, 200);
    let topology: Value = serde_json::from_str(&body).expect("JSON");
    for name in ["main", "pg0", "pg1", "pg2", "primary", "replica"] {
        assert!(topology.to_string().contains(&format!("\"{name}\"")), "{name}: {topology}");
    }
    assert!(!body.contains(&fixture.cluster.service.password));
    let reads = || fixture.metrics().sum("tiffin_routed_total", &[("reason", "least_lag")]);
    // Now and then a busy machine's replicas may be late.
    wait_until(PATIENCE, || {
        fixture.session().query("SELECT 1").unwrap();
        reads() >= 50.0
    })
    .expect("reads are counted");
    let metrics = fixture.metrics();
    assert_eq!(metrics.sum("tiffin_cluster_has_primary", &[]), 1.0);
    let healthy = || fixture.metrics().sum("tiffin_node_healthy", &[]);
    wait_until(PATIENCE, || healthy() == 3.0).expect("all nodes are healthy");
    assert!(metrics.sum("tiffin_query_seconds_count", &[]) >= 50.0);
    // Without a primary the proxy is alive, and says what it lacks.
    fixture.cluster.primary().kill9().unwrap();
    wait_until(PATIENCE, || fixture.metrics().sum("tiffin_cluster_has_primary", &[]) == 0.0)
        .expect("noticed");
    assert_eq!(page("/health").0, 200);
}

#[test]
fn logs_are_json_when_asked() {
    let fixture = Fixture::build()
        .replicas(0)
        .config_with(|cluster, config| {
            config["log"] = json!({ "format": "json", "level": "debug" });
            // Passwords in the file would be warned of, before there is a log.
            let path = |name: &str, password: &str| {
                let path = cluster.folder().join(name);
                std::fs::write(&path, password).unwrap();
                path.to_str().unwrap().to_string()
            };
            let (app, service) = (&cluster.app, &cluster.service);
            config["users"] =
                json!([{ "name": app.user, "password_file": path("app", &app.password) }]);
            config["clusters"]["main"]["service"] =
                json!({ "user": service.user, "password_file": path("tiffin", &service.password) });
        })
        .start();
    fixture.session().query("SELECT 1").unwrap();
    let log = fixture.proxy.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(!log.contains(&fixture.cluster.app.password));
    assert!(!log.contains(&fixture.cluster.service.password));
}

/// Two proxies, one cluster: the second is started while nothing is there yet.
#[test]
fn a_proxy_that_is_there_first_serves_once_the_servers_are() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.cluster.servers().iter().for_each(|server| server.kill9().unwrap());
    let config = proxy::config(&fixture.cluster, 0).unwrap();
    let second = Proxy::spawn(binary(), &fixture.cluster, &config).unwrap();
    wait_until(PATIENCE, || second.get("/health").is_ok_and(|(status, _)| status == 200))
        .expect("alive");
    assert_ne!(second.get("/ready").unwrap().0, 200);
    fixture.cluster.servers().iter().for_each(|server| server.start().unwrap());
    second.wait_ready().unwrap();
    let client = crate::support::client_config(second.port, &fixture.cluster.app);
    Session::connect(&client).unwrap().query("CREATE TABLE t (n int)").unwrap();
}
