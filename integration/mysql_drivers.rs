//! Drivers of MySQL and MariaDB, each with a program of its own in `integration/drivers/`, directly
//! and through the proxy, with TLS but where a check is about none; see `drivers.rs`. `TIFFIN_DRIVERS=pymysql,mysql2` chooses.

use crate::drivers::Language::{Java, Node, Python, Rust};
use crate::drivers::{
    Differs, Language, Outcome, Running, command, outcomes, problems_of, surround,
};
use crate::support::certificates::{Authority, Files, text};
use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, mysql_9, on_mysql_and_mariadb, options,
};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use tiffin::cli::sandbox::servers::Tls;

on_mysql_and_mariadb! { drivers_see_what_they_see_without_the_proxy }

/// Name, which is also the schema's, and program.
const DRIVERS: &[(&str, Language, &str)] = &[
    ("pymysql", Python, "mysql_dbapi.py pymysql"),
    ("mysqlclient", Python, "mysql_dbapi.py mysqlclient"),
    ("connector_python", Python, "mysql_dbapi.py connector"),
    ("connector_c", Python, "mysql_dbapi.py connector_c"),
    ("sqlalchemy", Python, "mysql_sqlalchemy.py"),
    ("django", Python, "mysql_django.py"),
    ("mysql2", Node, "mysql2.js"),
    ("mariadb_node", Node, "mariadb_connector.js"),
    ("mariadb_jdbc", Java, "MariaDbJdbc.java"),
    ("mysql_async", Rust, "driver-mysql-async"),
    ("sqlx", Rust, "driver-sqlx-mysql"),
    ("mariadb", Python, "mysql_cli.py mariadb"),
    ("mysql_9", Python, "mysql_cli.py mysql_9"),
];

/// Checks that hold directly and need not hold through the proxy.
const DIFFERS: Differs = &[];

fn drivers_see_what_they_see_without_the_proxy(engine: Engine) {
    let (authority, files) = (Authority::new("lunch"), Files::new());
    let ca = files.write("ca.crt", &authority.pem());
    let fixture = start(engine, &authority, &files, &ca);
    let chosen = std::env::var("TIFFIN_DRIVERS").unwrap_or_default();
    let is_chosen = |name: &str| {
        // MySQL 9's client has no way to log in to MariaDB's accounts.
        let fits = name != "mysql_9" || engine == Engine::MySql;
        fits && (chosen.is_empty() || chosen.split(',').any(|word| word == name))
    };
    let (mut problems, mut checks, started) = (Vec::new(), 0, Instant::now());
    for (name, language, program) in DRIVERS.iter().filter(|(name, ..)| is_chosen(name)) {
        let [proxied, direct] = run_both_ways(&fixture, &ca, name, *language, program);
        checks += proxied.ok.len();
        println!(
            "measured: {engine:?}: {}: {} checks, {:.1} s through the proxy, {:.1} s directly",
            proxied.version,
            proxied.ok.len(),
            proxied.seconds,
            direct.seconds,
        );
        problems.extend(problems_of(name, DIFFERS, &proxied, &direct));
        if !fixture.proxy.is_running() {
            problems.push(format!("the proxy ended during {name}"));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("measured: {engine:?}: {checks} checks of drivers in {seconds:.1} s");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn start(engine: Engine, authority: &Authority, files: &Files, ca: &Path) -> Fixture {
    let (certificate, key) = files.pair("proxy", authority.sign("proxy"));
    let clients = json!({ "mode": "allow", "certificate": text(&certificate), "key": text(&key) });
    let (certificate, key) = authority.sign("server");
    let settings = [
        ("local_infile", "ON"),
        ("log_bin_trust_function_creators", "ON"),
        ("max_allowed_packet", "64M"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let cluster = Cluster::start(Options {
        tls: Some(Tls { certificate, key, client_ca: None }),
        settings: settings.to_vec(),
        ..options(engine)
    });
    Fixture::with(cluster.expect("start the servers"), |config| {
        config["tls"] = clients;
        let main = &mut config["clusters"]["main"];
        main["tls"] = json!({ "mode": "verify-full", "ca": text(ca) });
        // Where reads go is asked below; a busy machine's lag shall not decide it.
        main["routing"] = json!({ "max_lag": "5min" });
    })
}

/// Runs a program against the proxy and against the primary, at the same time.
fn run_both_ways(
    fixture: &Fixture,
    ca: &Path,
    name: &str,
    language: Language,
    program: &str,
) -> [Outcome; 2] {
    let cluster = &fixture.cluster;
    let primary = cluster.primary();
    let start = |way: &str, port: u16, reads: String| {
        let schema = format!("{name}_{way}");
        primary.execute(&format!("CREATE DATABASE {schema}")).unwrap();
        let user = &cluster.app.user;
        primary.execute(&format!("GRANT ALL ON {schema}.* TO `{user}`@'%'")).unwrap();
        cluster.wait_caught_up(primary).unwrap();
        let mut command = command(language, program);
        command.env("READ_PORTS", reads).env("PRIMARY_PORT", primary.port.to_string());
        command.env("MYSQL_9", mysql_9().with_file_name("bin").join("mysql"));
        surround(&mut command, port, &cluster.app, &schema, ca);
        // The cluster's folder: whatever runs there ends with the servers.
        Running::start(format!("{name}, {way}"), cluster.folder().join(&schema), command)
    };
    let replicas: Vec<String> =
        cluster.replicas().iter().map(|replica| replica.port.to_string()).collect();
    outcomes([
        start("proxied", fixture.proxy.port, replicas.join(",")),
        start("direct", primary.port, primary.port.to_string()),
    ])
}
