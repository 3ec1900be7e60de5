//! Whole files in, configuration or problems out.

use super::keys::KEYS;
use super::*;
use crate::config::file;
use std::path::Path;

const VERIFIER: &str = "SCRAM-SHA-256$4096:VcNrjGbKQ1hR8c9rqFzS4g==$9ToUSZvYUDiLmHxDoFBZ2gJcF2/bVVsXKCqKD8oHO3k=:Lya0DRqT2Bm1lAL7gBeiyyTStVSQdKfxTyKIlSgSGaU=";

/// The smallest file that is of use. The cases below replace lines of it or add to its end.
const MINIMAL: &str = "\
listen:
  postgres: [\"0.0.0.0:6432\"]
users:
  - name: app
    password_env: APP_PASSWORD
clusters:
  main:
    nodes:
      a: 10.0.0.1:5432
      b: 10.0.0.2
    service: {user: tiffin, password_env: SERVICE}
";

fn env(name: &str) -> Option<String> {
    match name {
        "APP_PASSWORD" | "SERVICE" | "TIFFIN_PASSWORD" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        "VERIFIER" => Some(VERIFIER.to_owned()),
        "MD5" => Some("md5d41d8cd98f00b204e9800998ecf8427e".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Loaded, Problems> {
    let base = tempfile::tempdir().expect("a temporary folder");
    Config::parse("t.yaml", text, base.path(), &env)
}

/// The problems, or the warnings where there are none.
fn told(text: &str) -> Vec<String> {
    let problems = match parse(text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    if problems.is_empty() {
        Vec::new()
    } else {
        problems.to_string().lines().map(str::to_owned).collect()
    }
}

/// Clusters of both protocols in one file: each has its listeners, and they share no names.
#[test]
fn clusters_of_both_protocols_stand_side_by_side() {
    let text = MINIMAL.to_owned()
        + "  shop:
    engine: mysql
    nodes: [db1, \"db2:3307\"]
    service: {user: tiffin, password_env: SERVICE}
";
    let Loaded { config, .. } = parse(&text).expect("valid");
    let shop = &config.clusters[1];
    let addresses: Vec<String> = shop.nodes.iter().map(|node| node.address.to_string()).collect();
    assert_eq!(addresses, ["db1:3306", "db2:3307"]);
    assert_eq!(shop.service.database, "");
    let tcp = |text: &str| vec![ListenAddress::Tcp(text.parse().expect("an address"))];
    assert_eq!(config.listen.postgres, tcp("0.0.0.0:6432"));
    assert_eq!(config.listen.mysql, tcp("127.0.0.1:6306"));
    let only_mysql = MINIMAL.replace("    nodes:\n", "    engine: mariadb\n    nodes:\n");
    let listen = parse(&only_mysql).expect("valid").config.listen;
    assert_eq!((listen.postgres, listen.mysql), (vec![], tcp("127.0.0.1:6306")));
    assert_eq!(parse(MINIMAL).expect("valid").config.listen.mysql, []);
    let same =
        text.replace("listen:\n", "listen:\n  mysql: [\"127.0.0.1:6432\", \"unix:/run/x\"]\n");
    let told = told(&same).join("\n");
    assert!(told.contains("2:11: listen.mysql[0]: is already listened on"), "{told}");
    assert!(!told.contains("unix:/run/x"), "{told}");
}

#[test]
fn the_minimal_file_has_all_defaults() {
    let Loaded { config, warnings } = parse(MINIMAL).expect("valid");
    assert!(warnings.is_empty(), "{warnings}");
    let cluster = &config.clusters[0];
    assert_eq!(config.listen.http, Some("127.0.0.1:9632".parse().expect("an address")));
    assert_eq!(config.limits.clients_max, 20_000);
    assert_eq!(config.limits.parse_bytes_max, 65_536);
    assert_eq!(config.limits.message_timeout, Duration::from_secs(60));
    assert_eq!(config.auth.method, AuthMethod::ScramSha256);
    assert_eq!(config.client_tls.mode, ClientTlsMode::Disable);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.shutdown.drain_timeout, Duration::from_secs(30));
    assert!(config.workers > 0);
    let nodes: Vec<String> =
        cluster.nodes.iter().map(|node| format!("{} {}", node.name, node.address)).collect();
    assert_eq!(nodes, ["a 10.0.0.1:5432", "b 10.0.0.2:5432"]);
    assert_eq!(cluster.service.database, "postgres");
    assert_eq!(cluster.pool.size_max, 20);
    assert_eq!(cluster.monitor.interval, Duration::from_millis(100));
    assert_eq!(cluster.routing.consistency, Consistency::Session);
    assert_eq!(cluster.routing.lag_max, Duration::from_secs(1));
    assert_eq!(cluster.routing.lag_bytes_max, None);
    assert_eq!(cluster.routing.on_lag, OnLag::Primary);
    assert_eq!(cluster.gate.hold, Duration::from_secs(10));
}

/// The example spells the defaults out, so it must mean the same as a file that leaves them out.
#[test]
fn the_example_is_valid_and_spells_the_defaults_out() {
    let minimal = parse(MINIMAL).expect("valid").config;
    let text = example();
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}")).config;
    let (a, b) = (&minimal.clusters[0], &config.clusters[0]);
    let outline = |config: &Config, cluster: &Cluster| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            config.workers,
            config.limits,
            config.client_tls,
            config.auth,
            config.log,
            config.shutdown,
            config.listen.http,
            cluster.server_tls,
            cluster.pool,
            cluster.monitor,
            cluster.routing,
            cluster.gate
        )
    };
    assert_eq!(outline(&minimal, a), outline(&config, b));
    assert_eq!(a.nodes[0].weight, b.nodes[0].weight);
}

/// A row of the table that no code reads would be a key without effect.
#[test]
fn every_key_is_read() {
    let tree = file::read(&example()).unwrap_or_else(|error| panic!("{error:?}"));
    let walk = section::Walk::new(Path::new(""), &env);
    check::config(&section::Section::root(&walk, &tree));
    let asked = walk.asked.take();
    let unread: Vec<&str> =
        KEYS.iter().map(|key| key.path).filter(|path| !asked.contains(path)).collect();
    assert_eq!(unread, Vec::<&str>::new());
}

/// Snippets behind the minimal file (whose 11 lines they follow), and what is told of them.
#[test]
fn each_mistake_is_told_with_its_line() {
    let cases: &[(&str, &[&str])] = &[
        ("listne: {}\n", &["12:1: listne: is not a key; did you mean `listen`?"]),
        ("colour: red\n", &["12:1: colour: is not a key; known here: `listen`, `api`, `workers`"]),
        (
            "workers: 0\n",
            &["12:1: workers: must be a whole number from 1 to 128, or `auto`, not 0"],
        ),
        (
            "workers: many\n",
            &["12:1: workers: must be a whole number from 1 to 128, or `auto`, not a text"],
        ),
        (
            "limits:\n  startup_timeout: 15\n",
            &["13:3: limits.startup_timeout: `15` has no unit; must be a duration"],
        ),
        (
            "limits:\n  startup_timeout: 5m\n",
            &["13:3: limits.startup_timeout: `m` is not a unit: `min` are minutes"],
        ),
        (
            "limits:\n  startup_timeout: 1ms\n",
            &["13:3: limits.startup_timeout: must be a duration from 100ms to 1h, not `1ms`"],
        ),
        (
            "limits:\n  startup_timeout:\n",
            &[
                "13:3: limits.startup_timeout: has no value; must be a duration from 100ms to 1h; leave the key out for the default, 15s",
            ],
        ),
        (
            "limits:\n  parse_bytes_max: 64KB\n",
            &["13:3: limits.parse_bytes_max: `KB` is not a unit of size"],
        ),
        ("limits:\n  clients_max: 1.5\n", &["13:3: limits.clients_max: must be a whole number"]),
        ("limits: 5\n", &["12:9: limits: must be a mapping of keys to values, not a number"]),
        (
            "limits: {max_lag: 1s}\n",
            &["12:10: limits.max_lag: is not a key here; it belongs in `clusters.<name>.routing`"],
        ),
        ("workers: 1\nworkers: 2\n", &["13:1: workers: is given twice"]),
        (
            "log: {format: xml, level: \"a=b=c\"}\n",
            &[
                "12:7: log.format: must be `text` or `json`, not `xml`",
                "12:20: log.level: is not understood",
            ],
        ),
        (
            "tls: {mode: requird}\n",
            &[
                "12:7: tls.mode: must be `disable`, `allow`, `require`, `verify-ca` or `verify-full`, not `requird`; did you mean `require`?",
            ],
        ),
        (
            "tls: {mode: require}\n",
            &["12:7: tls.mode: is `require`, which needs `certificate` and `key`"],
        ),
        (
            "tls: {mode: allow, certificate: no.crt, key: no.key}\n",
            &["12:20: tls.certificate: cannot read ", "12:41: tls.key: cannot read "],
        ),
        (
            "tls: {certificate: no.crt}\n",
            &[
                "12:1: tls.mode: is `disable` although certificates are given",
                "12:7: tls.certificate: cannot read",
                "12:7: tls.certificate: needs `key` beside it",
            ],
        ),
        (
            "auth: {method: cert}\n",
            &["12:8: auth.method: is `cert`, which needs `tls.mode: verify-ca` or `verify-full`"],
        ),
        ("auth: {query: SELECT 1}\n", &["12:8: auth.query: must contain `$1`"]),
        ("<<: {}\n", &["12:1: <<: merge keys are not understood"]),
        ("log: !tag x\n", &["12:6: log: must be a mapping of keys to values, not a YAML tag"]),
    ];
    for (snippet, expected) in cases {
        expect(&format!("{MINIMAL}{snippet}"), expected);
    }
}

/// Lines of the minimal file replaced, and what is told then.
#[test]
fn each_mistake_in_users_and_clusters_is_told() {
    let user = "    password_env: APP_PASSWORD\n";
    let b = "      b: 10.0.0.2\n";
    let service = "    service: {user: tiffin, password_env: SERVICE}\n";
    let cases: &[(&str, &str, &[&str])] = &[
        (user, "", &["4:5: users[0]: `app` has no secret and could not log in by `scram-sha-256`"]),
        (
            user,
            "    password_env: NOWHERE\n",
            &["5:5: users[0].password_env: the environment variable NOWHERE is not set"],
        ),
        (user, "    password_env: EMPTY\n", &["5:5: users[0].password_env: the secret is empty"]),
        (user, "    password_file: gone\n", &["5:5: users[0].password_file: cannot read "]),
        (
            user,
            "    password: 12345\n",
            &["5:5: users[0].password: must be a text; put it in quotes"],
        ),
        (
            user,
            "    password: hunter2\n",
            &[
                "5:5: users[0].password: is a secret in the config file itself; better `password_file` or `password_env`",
            ],
        ),
        (
            user,
            "    password_env: VERIFIER\n",
            &[
                "5:5: users[0].password_env: is a stored form of a password, not a password; use `scram_verifier_env`",
            ],
        ),
        (
            user,
            "    scram_verifier: hunter2\n",
            &["5:5: users[0].scram_verifier: is not a SCRAM verifier"],
        ),
        (
            user,
            "    md5_hash_env: MD5\n",
            &["4:5: users[0]: `app` has an md5 hash, which cannot be checked by `scram-sha-256`"],
        ),
        (
            user,
            "    md5_hash_env: APP_PASSWORD\n",
            &["5:5: users[0].md5_hash_env: is not an md5 hash"],
        ),
        (
            user,
            "    scram_verifier_env: VERIFIER\n    method: md5\n",
            &["4:5: users[0]: `app` has a SCRAM verifier, which cannot be checked by `md5`"],
        ),
        (
            user,
            "    password_env: APP_PASSWORD\n    password: hunter2\n",
            &[
                "6:5: users[0].password: contradicts `password_env`|5:5: users[0].password_env: contradicts `password`",
            ],
        ),
        (
            user,
            "    password_env: APP_PASSWORD\n    scram_verifier_env: VERIFIER\n",
            &["4:5: users[0]: has both `password…` and `scram_verifier…`"],
        ),
        (
            user,
            "    password_env: APP_PASSWORD\n  - name: app\n    password_env: APP_PASSWORD\n",
            &["6:5: users[1].name: `app` is in the list twice"],
        ),
        (
            user,
            "    password_env: APP_PASSWORD\n  - {}\n",
            &[
                "6:5: users[1].name: is missing; must be a text",
                "6:5: users[1]: the user has no secret",
            ],
        ),
        (
            user,
            "    password_env: APP_PASSWORD\n  - just a name\n",
            &["6:5: users[1]: must be a mapping of keys to values, not a text"],
        ),
        (
            user,
            "    method: trust\n",
            &["4:5: users[0]: `app` gives the proxy no password for the servers"],
        ),
        (
            "users:\n  - name: app\n    password_env: APP_PASSWORD\n",
            "users: []\n",
            &["3:1: users: nobody could log in"],
        ),
        (
            "\"0.0.0.0:6432\"",
            "\"localhost:6432\", \"unix:run\", \"[::1]:1\", \"[::]:1\"",
            &[
                "2:14: listen.postgres[0]: `localhost:6432` is not an address to listen on",
                "2:32: listen.postgres[1]: `unix:run` is not the folder of a Unix socket",
                "2:55: listen.postgres[3]: is already listened on",
            ],
        ),
        ("[\"0.0.0.0:6432\"]", "[]", &["2:3: listen.postgres: must name at least one address"]),
        (
            "[\"0.0.0.0:6432\"]",
            "[\"0.0.0.0:6432\"]\n  http: 127.0.0.1:6432",
            &["3:3: listen.http: is already listened on"],
        ),
        (b, "      a: 10.0.0.2\n", &["10:7: clusters.main.nodes.a: another node is called `a`"]),
        (
            b,
            "      b: 10.0.0.1\n",
            &["10:7: clusters.main.nodes.b: 10.0.0.1:5432 is already the address of node `a`"],
        ),
        (
            b,
            "      b: \"10.0.0.2:x\"\n",
            &["10:10: clusters.main.nodes.b: `10.0.0.2:x` is not a server's address"],
        ),
        (
            b,
            "      b: {zone: z, weight: 1001}\n",
            &[
                "10:7: clusters.main.nodes.b.address: is missing; must be a host and a port as `db1:5432`",
                "10:20: clusters.main.nodes.b.weight: must be a whole number from 0 to 1000, not 1001",
            ],
        ),
        (
            b,
            "      b: 5432\n",
            &[
                "10:10: clusters.main.nodes.b: must be an address as `db1:5432`, or a mapping with at least `address`, not a number",
            ],
        ),
        (b, "      b: []\n", &["10:10: clusters.main.nodes.b: must be an address as `db1:5432`"]),
        (b, "      b c: 10.0.0.2\n", &["10:7: clusters.main.nodes.b c: `b c` cannot be a name"]),
        (
            service,
            "",
            &["7:3: clusters.main.service: is missing; must be a mapping with at least `user`"],
        ),
        (
            service,
            "    service: {database: x}\n",
            &["11:5: clusters.main.service.user: is missing"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    pool: {idle_min: 30}\n",
            &["12:12: clusters.main.pool.idle_min: is 30, more than `size_max`, which is 20"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    tls: {mode: verify-full}\n",
            &["12:11: clusters.main.tls.mode: is `verify-full`, which needs `ca`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    tls: {direct: true}\n",
            &["12:11: clusters.main.tls.direct: is `true`, which needs `mode: require`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    engine: oracle\n",
            &["12:5: clusters.main.engine: must be `postgres`, `mysql` or `mariadb`, not `oracle`"],
        ),
        (
            service,
            "    service: {user: tiffin, database: x}\n    engine: mariadb\n    databases: {a: b}\n    tls: {mode: require, direct: true}\n    pool: {application_name_add_host: true}\n    routing: {max_lag_bytes: 1MiB}\n",
            &[
                "11:29: clusters.main.service.database: is for PostgreSQL only, and `engine` is `mariadb`",
                "13:5: clusters.main.databases: give other names, which is for PostgreSQL only",
                "14:26: clusters.main.tls.direct: is for PostgreSQL only",
                "15:12: clusters.main.pool.application_name_add_host: is for PostgreSQL only",
                "16:15: clusters.main.routing.max_lag_bytes: is for PostgreSQL only",
            ],
        ),
        (
            service,
            "    service: {user: tiffin}\n    failover: {replication: {user: repl}}\n",
            &["12:30: clusters.main.failover.replication.user: is for MySQL and MariaDB only"],
        ),
        (
            "      b: 10.0.0.2\n",
            "      b: unix:/run/db\n    engine: mysql\n",
            &["8:5: clusters.main.nodes: have a Unix socket in `b`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    routing: {read_functions: [f, 3], write_functions: [f]}\n",
            &[
                "12:35: clusters.main.routing.read_functions[1]: must be a text, not a number; put it in quotes",
                "12:39: clusters.main.routing.write_functions: `f` is also in `read_functions`",
            ],
        ),
        (
            "    nodes:\n",
            "    discovery: patroni\n    failover: {mode: promote}\n    nodes:\n",
            &[
                "8:5: clusters.main.discovery: is `patroni`, which needs `patroni.urls`",
                "9:16: clusters.main.failover.mode: is `promote`, but with `discovery: patroni` Patroni promotes",
                "10:5: clusters.main.nodes: contradict `discovery: patroni`",
            ],
        ),
        (
            "    nodes:\n      a: 10.0.0.1:5432\n      b: 10.0.0.2\n",
            "    discovery: patroni\n    engine: mysql\n    patroni: {urls: [\"https://db1\", \"db2:x\"], password_env: SERVICE, key: k}\n",
            &[
                "8:5: clusters.main.discovery: is `patroni`, which is for PostgreSQL only",
                "10:5: clusters.main.patroni.password: needs `user` beside it",
                "10:15: clusters.main.patroni.urls: `db2:x` is not an address",
                "10:70: clusters.main.patroni.key: cannot read",
                "10:70: clusters.main.patroni.key: needs `certificate` beside it",
            ],
        ),
        (
            service,
            "    service: {user: tiffin}\n    patroni: {urls: [db1]}\n",
            &["12:5: clusters.main.patroni: has no effect while `discovery` is `static`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    failover: {coordination: etcd, etcd: {endpoints: [\"https://etcd1\"]}}\n",
            &[
                "12:43: clusters.main.failover.etcd.endpoints: has an `https` address, which needs `ca`",
            ],
        ),
        (
            service,
            "    service: {user: tiffin}\n    routing: {max_lag: 150ms}\n",
            &["12:15: clusters.main.routing.max_lag: is less than two of `monitor.interval`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    routing: {balance: least-lag, max_lag_bytes: 5}\n",
            &[
                "12:15: clusters.main.routing.balance: must be `least_lag`, `least_connections`, `latency` or `weighted`, not `least-lag`; did you mean `least_lag`?",
                "12:35: clusters.main.routing.max_lag_bytes: `5` has no unit",
            ],
        ),
        (
            service,
            "    service: {user: tiffin}\n  other:\n    nodes: [c]\n    service: {user: tiffin}\n",
            &["12:3: clusters.other.databases: takes any database, and so does cluster `main`"],
        ),
        (
            service,
            "    service: {user: tiffin}\n    databases: [x]\n  other:\n    databases: {x: y}\n    nodes: []\n    service: {user: tiffin}\n",
            &[
                "14:5: clusters.other.databases: `x` is also a database of cluster `main`",
                "15:5: clusters.other.nodes: must name at least one server",
            ],
        ),
    ];
    for (from, to, expected) in cases {
        assert!(MINIMAL.contains(from), "{from}");
        expect(&MINIMAL.replace(from, to), expected);
    }
}

/// Exactly these lines are told, each beginning as expected (`|` between alternatives).
fn expect(text: &str, expected: &[&str]) {
    let told = told(text);
    let fits = told.len() == expected.len()
        && told.iter().zip(expected).all(|(line, start)| {
            start.split('|').any(|start| line.starts_with(&format!("t.yaml:{start}")))
        });
    assert!(fits, "{text}\ntold:\n{}\nexpected:\n{}", told.join("\n"), expected.join("\n"));
}

#[test]
fn a_file_with_many_mistakes_tells_all_in_the_order_of_lines() {
    let text = "\
listen: {postgres: [\"nowhere\"], http: 99}
workers: none
limits: {clients_max: many, auth_delay: 5m, unknown: 1}
tls: {mode: verify-ca, client_ca: gone}
auth: {method: scram, query: SELECT 1}
users: [{name: a}, {name: a, password: hunter2, password_env: X}, 7]
clusters:
  main:
    nodes: {a: \"h:1:2\", b: \"x y\"}
    pool: {size_max: 0, idle_timeout: 1s, max_lag: 1s}
    gate: [hold]
    service: {password_env: NOWHERE}
log: {level: \"=\"}
shutdown: {drain_timeout: -1s}
";
    let problems = parse(text).expect_err("refused");
    let lines: Vec<usize> = problems.list.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted(), "{problems}");
    let mut distinct = lines.clone();
    distinct.dedup();
    assert_eq!(distinct, [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14], "{problems}");
    assert!(problems.list.len() >= 22, "{problems}");
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
}

#[test]
fn very_many_mistakes_are_counted() {
    let text: String = (0..1_000).map(|n| format!("key{n}: 1\n")).collect();
    let problems = parse(&format!("{MINIMAL}{text}")).expect_err("refused");
    assert_eq!(problems.count(), 1_000);
    assert!(problems.to_string().ends_with("t.yaml: and 800 more"));
}

#[test]
fn secrets_are_never_printed() {
    let with_all = MINIMAL.replace(
        "    password_env: APP_PASSWORD\n",
        "    password: hunter2\n    server_password: hunter2\n",
    );
    let loaded = parse(&with_all).expect("valid");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    // The texts that messages quote must not be those of secrets, whatever is wrong with them.
    for value in
        ["[hunter2]", "{hunter2: 1}", "!hunter2 x", "!!int hunter2", "\"hunter2", "*hunter2"]
    {
        for key in ["password", "password_file", "scram_verifier", "md5_hash", "server_password"] {
            let text = MINIMAL.replace("password_env: APP_PASSWORD", &format!("{key}: {value}"));
            let problems = parse(&text).expect_err(&text);
            let shown = problems.to_string().replace("password.hunter2", "");
            assert!(!shown.contains("hunter2"), "{problems}");
        }
    }
}

#[test]
fn nodes_and_databases_have_several_forms() {
    let text = MINIMAL.replace(
        "    nodes:\n      a: 10.0.0.1:5432\n      b: 10.0.0.2\n",
        "    nodes: [\"db1:5433\", {address: \"unix:/run/pg\", name: local, tags: [x], zone: z, weight: 7}]\n    databases: {app: app_live, other: }\n",
    );
    let loaded = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    let cluster = &loaded.config.clusters[0];
    let names: Vec<&str> = cluster.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["db1:5433", "local"]);
    assert_eq!(cluster.nodes[1].address, Address::Unix { folder: "/run/pg".into(), port: 5432 });
    assert_eq!((cluster.nodes[1].weight, cluster.nodes[1].tags.len()), (7, 1));
    assert_eq!(cluster.databases["app"], "app_live");
    assert_eq!(cluster.databases["other"], "other");
}

#[test]
fn secrets_come_from_files_beside_the_config() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let password = folder.path().join("app.password");
    std::fs::write(&password, "hunter2\n").expect("written");
    let text = MINIMAL
        .replace("password_env: APP_PASSWORD", "password_file: app.password")
        .replace("password_env: SERVICE", "password_file: app.password");
    let path = folder.path().join("tiffin.yaml");
    std::fs::write(&path, text).expect("written");
    for (mode, warned) in [(0o600, 0), (0o644, 2)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&password, mode).expect("changed");
        let loaded =
            Config::load_with_warnings(&path).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.warnings.count(), warned, "{}", loaded.warnings);
        let Some(Secret::Password(secret)) = &loaded.config.users[0].secret else {
            panic!("a password")
        };
        assert_eq!(secret.expose_secret(), "hunter2");
    }
}

/// The files exist, but a proxy that started with them could not speak TLS.
#[test]
fn certificates_must_be_some_and_fit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    let make = || rcgen::generate_simple_self_signed(vec!["db".to_owned()]).expect("made");
    let (one, other) = (make(), make());
    write("one.crt", &one.cert.pem());
    write("one.key", &one.signing_key.serialize_pem());
    write("other.key", &other.signing_key.serialize_pem());
    write("junk", "hunter2");
    let cases = [
        ("{mode: require, certificate: one.crt, key: one.key}", ""),
        (
            "{mode: require, certificate: one.crt, key: other.key}",
            "12:22: tls.certificate: the certificate and the key cannot be used",
        ),
        ("{mode: require, certificate: junk, key: one.key}", "12:22: tls.certificate: "),
        ("{mode: require, certificate: one.crt, key: junk}", "12:44: tls.key: "),
        (
            "{mode: verify-ca, client_ca: junk, certificate: one.crt, key: one.key}",
            "12:24: tls.client_ca: ",
        ),
    ];
    for (tls, expected) in cases {
        let text = format!("{MINIMAL}tls: {tls}\n");
        let result = Config::parse("t.yaml", &text, folder.path(), &env);
        let told = result.err().map_or(String::new(), |problems| problems.to_string());
        assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{tls}: {told}");
        assert!(!told.contains("hunter2") && told.lines().count() <= 1, "{told}");
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let problems = Config::load(Path::new("/nonexistent/tiffin.yaml")).expect_err("refused");
    assert!(problems.to_string().starts_with("/nonexistent/tiffin.yaml: cannot read the file: "));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("binary.yaml");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).expect("written");
    let problems = Config::load(&path).expect_err("refused");
    assert!(problems.to_string().ends_with("it is not UTF-8 text"), "{problems}");
    for text in ["", "# nothing\n", "[]", "just a text", "a: [1\n"] {
        assert!(parse(text).is_err(), "{text}");
    }
}
