//! Another configuration while sessions of MySQL and MariaDB are open.

use crate::support::certificates::{Authority, Files, text};
use crate::support::mysql::{Cluster, Engine, Fixture, Options, on_mysql_and_mariadb, options};
use crate::support::{PATIENCE, wait_until};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tiffin::cli::sandbox::servers::Tls;

on_mysql_and_mariadb! {
    certificates_are_taken_over,
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
