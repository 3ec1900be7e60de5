//! Who may log in, and how the proxy logs in to the servers.

use crate::support::psql::{psql, psql_ok};
use crate::support::{Fixture, PATIENCE, Session, on_postgres_18, state_of, wait_until};
use serde_json::json;

#[test]
fn every_method_towards_clients() {
    let fixture = Fixture::build().replicas(0).start();
    let app = fixture.cluster.app.clone();
    let superuser = &fixture.cluster.superuser;
    let verifier = fixture
        .cluster
        .primary()
        .value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")
        .unwrap();
    let md5 = fixture
        .cluster
        .primary()
        .value(&format!("SELECT 'md5' || md5('{}app')", app.password))
        .unwrap();
    std::fs::write(fixture.cluster.folder().join("secret"), format!("{}\n", app.password)).unwrap();
    let secret_file = fixture.cluster.folder().join("secret");

    let login = |password: &str| {
        let mut config = fixture.config();
        config.password(password);
        Session::connect(&config)
    };
    let users = [
        ("scram-sha-256", json!({ "password": app.password })),
        ("scram-sha-256", json!({ "password_file": secret_file.to_str() })),
        // A verifier does not tell the password: what the proxy says to the servers comes beside it.
        ("scram-sha-256", json!({ "scram_verifier": verifier, "server_password": app.password })),
        ("md5", json!({ "password": app.password })),
        ("md5", json!({ "md5_hash": md5, "server_password": app.password })),
        ("password", json!({ "password": app.password })),
        ("password", json!({ "scram_verifier": verifier, "server_password": app.password })),
        ("password", json!({ "md5_hash": md5, "server_password": app.password })),
        ("trust", json!({ "server_password": app.password })),
        // The user's own method goes before the general one.
        ("trust", json!({ "password": app.password, "method": "scram-sha-256" })),
    ];
    for (method, user) in users {
        let mut config = fixture.config.clone();
        let mut entry = user.clone();
        entry["name"] = "app".into();
        config["users"] = json!([entry]);
        config["auth"]["method"] = method.into();
        fixture.reload(&config);
        let open = method == "trust" && user.get("method").is_none();
        wait_until(PATIENCE, || {
            let right = login(&app.password).is_ok_and(|session| session.value("SELECT 1").is_ok());
            right && login("wrong").is_ok() == open
        })
        .unwrap_or_else(|_| {
            panic!("{method} {user}: {:?}\n{}", login(&app.password).err(), fixture.proxy.log())
        });
    }
    assert!(!fixture.proxy.log().contains(&app.password), "a password is in the log");
    assert!(!fixture.proxy.log().contains(&superuser.password), "a password is in the log");
}

/// Users that only the servers know, by `auth_query`; and every method towards the servers.
#[test]
fn users_by_query_and_methods_towards_servers() {
    let query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin";
    let fixture = Fixture::build()
        .replicas(1)
        .config_with(move |cluster, config| {
            config["auth"] = json!({ "query": query, "query_cache": "1s" });
            config["users"] = json!([]);
            let _ = cluster;
        })
        .start();
    let session = fixture.session();
    assert_eq!(session.value("SELECT current_user").unwrap(), "app");
    session.query("/* tiffin: replica */ SELECT 1").unwrap();
    assert_eq!(state_of(Session::connect(fixture.config().password("wrong"))), "28P01");
    assert_eq!(state_of(Session::connect(fixture.config().user("nobody"))), "28P01");
    // A changed password counts once the cached answer is too old.
    fixture.cluster.primary().execute("ALTER ROLE app PASSWORD 'changed'").unwrap();
    wait_until(PATIENCE, || Session::connect(fixture.config().password("changed")).is_ok())
        .expect("the new password");
    assert_eq!(state_of(Session::connect(&fixture.config())), "28P01");
    let sql = format!("ALTER ROLE app PASSWORD '{}'", fixture.cluster.app.password);
    fixture.cluster.primary().execute(&sql).unwrap();

    // The servers' side: whatever pg_hba.conf demands.
    let mut config = fixture.config.clone();
    config["auth"] = json!({});
    config["users"] = json!([{ "name": "app", "password": fixture.cluster.app.password }]);
    fixture.reload(&config);
    wait_until(PATIENCE, || Session::connect(&fixture.config()).is_ok())
        .expect("the first password");
    for method in ["trust", "password", "md5", "scram-sha-256"] {
        for server in fixture.cluster.servers() {
            server.set_hba(&[format!("host all all 127.0.0.1/32 {method}")]).unwrap();
            server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('app', 'tiffin')").unwrap();
        }
        wait_until(PATIENCE, || fixture.try_value("SELECT 1").is_ok())
            .unwrap_or_else(|_| panic!("{method}: {}", fixture.proxy.log()));
    }
    // Stored as md5 on the server, and asked for as such.
    let primary = fixture.cluster.primary();
    primary.execute(&format!("SET password_encryption = 'md5'; {sql}")).unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    for server in fixture.cluster.servers() {
        server
            .set_hba(&[
                "host all app 127.0.0.1/32 md5".into(),
                "host all all 127.0.0.1/32 scram-sha-256".into(),
            ])
            .unwrap();
        server
            .query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            .unwrap();
    }
    wait_until(PATIENCE, || fixture.try_value("SELECT 1").is_ok()).expect("md5");
}

#[test]
fn unix_sockets_on_both_sides() {
    let fixture = Fixture::build()
        .replicas(1)
        .config_with(|cluster, config| {
            let folder = cluster.folder().to_str().unwrap();
            let tcp = config["listen"]["postgres"][0].clone();
            config["listen"]["postgres"] = json!([tcp, format!("unix:{folder}:7432")]);
            for server in cluster.servers() {
                config["clusters"]["main"]["nodes"][&server.name] =
                    format!("unix:{folder}:{}", server.port).into();
            }
        })
        .start();
    let folder = fixture.cluster.folder().to_str().unwrap();
    let password = &fixture.cluster.app.password;
    let conninfo = format!("host={folder} port=7432 user=app dbname=app password={password}");
    let address = "SELECT inet_server_addr() IS NULL, pg_is_in_recovery()";
    psql_ok(&conninfo, &["CREATE TABLE t (n int)"]);
    assert_eq!(psql_ok(&conninfo, &[address]), "t|t");
    let wrong = format!("host={folder} port=7432 user=app dbname=app password=wrong");
    assert!(!psql(&wrong, &["SELECT 1"]).status.success());
    // The socket goes away with the proxy.
    assert!(fixture.cluster.folder().join(".s.PGSQL.7432").exists());
    fixture.proxy.signal("TERM").unwrap();
    fixture.proxy.wait().unwrap();
    assert!(!fixture.cluster.folder().join(".s.PGSQL.7432").exists());
}

on_postgres_18!(users_by_query_and_methods_towards_servers);
