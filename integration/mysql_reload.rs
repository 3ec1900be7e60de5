//! Another configuration while sessions of MySQL and MariaDB are open: users, pools, nodes and
//! certificates.

use crate::support::certificates::{Authority, Files, text};
use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, Session, errno, on_mysql_and_mariadb, options,
};
use crate::support::{PATIENCE, wait_until};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tiffin::cli::sandbox::servers::Tls;

on_mysql_and_mariadb! {
    users_pools_and_nodes_are_taken_over,
    certificates_are_taken_over,
}

fn users_pools_and_nodes_are_taken_over(engine: Engine) {
    let cluster = Cluster::start(Options { replicas: 1, ..options(engine) }).expect("servers");
    let primary = cluster.primary();
    primary.execute("CREATE USER second@'%' IDENTIFIED BY 'pw'").unwrap();
    primary.execute("GRANT ALL ON app.* TO second@'%'").unwrap();
    cluster.wait_caught_up(primary).unwrap();
    let (leader, follower) = (primary.name.clone(), cluster.replica(0).name.clone());
    let fixture = Fixture::with(cluster, |config| config["workers"] = 1.into());
    fixture.create_table("t", "n INT");
    let second = |password: &str| {
        let opts = fixture.opts().user(Some("second")).pass(Some(password));
        Session::connect(&opts.into())
    };
    let is_refused = |password| match second(password) {
        Ok(_) => false,
        Err(error) => errno(&error) == Some(1045),
    };
    assert!(is_refused("pw"), "the proxy does not know the user");
    let open = fixture.session();
    open.execute("BEGIN").unwrap();
    open.execute("INSERT INTO t VALUES (1)").unwrap();

    let mut config = fixture.config.clone();
    let users = config["users"].as_array_mut().expect("users");
    users.push(json!({ "name": "second", "password": "pw" }));
    let main = &mut config["clusters"]["main"];
    main["nodes"].as_object_mut().expect("nodes").remove(&follower);
    main["pool"] = json!({ "size_max": 1, "wait_timeout": "200ms" });
    fixture.reload(&config);
    let late = second("pw").expect("the new user");
    assert!(is_refused("no"));
    open.execute("INSERT INTO t VALUES (2)").unwrap();
    open.execute("COMMIT").unwrap();
    assert_eq!(fixture.share(5).into_iter().collect::<Vec<_>>(), [(leader, 5)]);
    // One connection for each user.
    let waiting = fixture.session();
    open.execute("BEGIN").unwrap();
    open.execute("INSERT INTO t VALUES (3)").unwrap();
    let error = waiting.execute("INSERT INTO t VALUES (4)").unwrap_err();
    assert_eq!(errno(&error), Some(1040), "{error:#}");
    late.execute("INSERT INTO t VALUES (5)").unwrap();
    // A wider pool: whoever waits has a connection now.
    fixture.reload(&fixture.config);
    waiting.execute("INSERT INTO t VALUES (6)").unwrap();
    open.execute("ROLLBACK").unwrap();

    assert!(is_refused("pw"), "that user is gone again");
    assert_eq!(late.value("SELECT COUNT(*) FROM t").unwrap(), "4", "but not its open session");
    let back = || fixture.share(3).contains_key(&follower);
    wait_until(PATIENCE, back).expect("reads on the node that is back");
    // Another password of a known user.
    let mut config = fixture.config.clone();
    let users = config["users"].as_array_mut().expect("users");
    users.push(json!({ "name": "second", "password": "other", "server_password": "pw" }));
    fixture.reload(&config);
    assert!(is_refused("pw"));
    assert_eq!(second("other").unwrap().value("SELECT COUNT(*) FROM t").unwrap(), "4");
}

/// Those that clients are shown, and those of the servers that count: open sessions go on.
fn certificates_are_taken_over(engine: Engine) {
    let (old, new, files) = (Authority::new("old"), Authority::new("new"), Files::new());
    let [old_ca, new_ca] =
        [("old.crt", &old), ("new.crt", &new)].map(|(name, ca)| files.write(name, &ca.pem()));
    let shown = |name: &str, authority: &Authority| {
        let (certificate, key) = files.pair(name, authority.sign("proxy"));
        json!({ "mode": "allow", "certificate": text(&certificate), "key": text(&key) })
    };
    let (certificate, key) = old.sign("server");
    let tls = Some(Tls { certificate, key, client_ca: None });
    let cluster = Cluster::start(Options { replicas: 1, tls, ..options(engine) }).expect("servers");
    let fixture = Fixture::with(cluster, |config| {
        config["tls"] = shown("one", &old);
        config["clusters"]["main"]["tls"] = json!({ "mode": "verify-full", "ca": text(&old_ca) });
    });
    fixture.create_table("t", "n INT");
    let trusts = |ca: &Path| trusts(&fixture, ca);
    assert!(trusts(&old_ca) && !trusts(&new_ca));
    let open = fixture.session();
    open.execute("BEGIN").unwrap();
    open.execute("INSERT INTO t VALUES (1)").unwrap();
    let mut config = fixture.config.clone();
    config["tls"] = shown("two", &new);
    fixture.reload(&config);
    assert!(!trusts(&old_ca) && trusts(&new_ca));
    open.execute("INSERT INTO t VALUES (2)").unwrap();
    // The servers are not who they are to be: no new connection, but the open one goes on.
    config["clusters"]["main"]["tls"]["ca"] = text(&new_ca).into();
    fixture.reload(&config);
    let healthy = || fixture.metrics().sum("tiffin_node_healthy", &[]);
    wait_until(PATIENCE, || healthy() == 0.0).expect("no server is trusted");
    assert!(fixture.proxy.log().contains("UnknownIssuer"), "{}", fixture.proxy.log());
    config["clusters"]["main"]["tls"] = json!({ "mode": "require" });
    fixture.reload(&config);
    wait_until(PATIENCE, || healthy() == 2.0).expect("the servers are back");
    open.execute("COMMIT").unwrap();
    assert_eq!(open.value("SELECT COUNT(*) FROM t").unwrap(), "2");
}

/// Whether a client that trusts this authority gets in.
fn trusts(fixture: &Fixture, ca: &Path) -> bool {
    let login = &fixture.cluster.app;
    let output = Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--ssl-verify-server-cert"])
        .arg(format!("--port={}", fixture.proxy.port))
        .arg(format!("--user={}", login.user))
        .arg(format!("--password={}", login.password))
        .arg(format!("--ssl-ca={}", text(ca)))
        .args(["--batch", "--skip-column-names", "--execute=SELECT 1"])
        .output()
        .expect("the mariadb client");
    output.stdout == b"1\n"
}
