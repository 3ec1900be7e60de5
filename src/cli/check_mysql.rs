//! What `tiffin check` asks a server of MySQL or MariaDB, and what follows from the answers.
//!
//! Queries per node as the service user: its settings, and the user's own privileges; where the
//! proxy promotes, also as `failover.user` for that one's. How the node replicates is what the
//! probes say (`watch.rs`). What is missing is decided by [`lacks`], which is pure.

use super::check::all;
use super::findings::{Finding, Severity, free_connections};
use crate::config::{Cluster, Config, Engine, FailoverMode, NodeConfig, Secret, Service};
use crate::monitor::mysql_connection::{ServiceOpts, connect};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use std::time::Duration;

/// Users whose login is tried; more would take long and say no more.
const LOGINS_MAX: usize = 50;
/// `SHOW REPLICA STATUS` and the columns of its answer.
const MYSQL_VERSION_MIN: (u32, u32, u32) = (8, 0, 22);
/// The privilege to see replication alone.
const MARIADB_VERSION_MIN: (u32, u32, u32) = (10, 5, 2);
/// `ER_ACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_NO_PASSWORD_ERROR`.
const REFUSED: &[u16] = &[1045, 1698];

const MYSQL_FACTS: &str = "SELECT @@GLOBAL.version, @@GLOBAL.read_only, @@GLOBAL.super_read_only, \
     @@GLOBAL.log_bin, @@GLOBAL.log_replica_updates, @@GLOBAL.max_connections, \
     @@GLOBAL.gtid_mode = 'ON', @@GLOBAL.replica_preserve_commit_order";
/// A GTID is never missing here, the order of commits never lost, and nothing is super read-only.
const MARIADB_FACTS: &str = "SELECT @@GLOBAL.version, @@GLOBAL.read_only, @@GLOBAL.read_only, \
     @@GLOBAL.log_bin, @@GLOBAL.log_slave_updates, @@GLOBAL.max_connections, 1, 1";
/// The user's own; of a role's nothing is told here.
const PRIVILEGES: &str = "SELECT privilege_type FROM information_schema.user_privileges \
     WHERE grantee = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', \
                            SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
const SCHEMAS: &str = "SELECT schema_name FROM information_schema.schemata";

/// What the service user needs: for what, and as one of these.
type Need = (&'static str, &'static [&'static str]);

const MYSQL_NEEDS: &[Need] = &[
    ("see how a replica replicates", &["REPLICATION CLIENT", "SUPER"]),
    ("read what functions, procedures and views do", &["SELECT"]),
    ("read what views do", &["SHOW VIEW"]),
    ("read what triggers do", &["TRIGGER"]),
];
const MARIADB_NEEDS: &[Need] = &[
    (
        "see how a replica replicates",
        &["SLAVE MONITOR", "REPLICA MONITOR", "REPLICATION SLAVE ADMIN", "SUPER"],
    ),
    ("read what functions, procedures and views do", &["SELECT"]),
    ("read what views do", &["SHOW VIEW"]),
    ("read what triggers do", &["TRIGGER"]),
];

/// What the service user needs beyond that for `failover.resolve_commits`.
const MYSQL_RESOLVE_NEEDS: &[Need] =
    &[("find lost commits in the binary log", &["REPLICATION SLAVE"])];
const MARIADB_RESOLVE_NEEDS: &[Need] = &[
    ("find lost commits in the binary log", &["REPLICATION SLAVE"]),
    ("see what the binary log leaves out", &["BINLOG MONITOR", "SUPER"]),
];

/// What the failover user needs, where the proxy promotes.
const MYSQL_FAILOVER_NEEDS: &[Need] = &[
    ("see how a replica replicates", &["REPLICATION CLIENT", "SUPER"]),
    ("see who has a transaction open", &["PROCESS"]),
    ("end sessions", &["CONNECTION_ADMIN", "SUPER"]),
    ("end an applier that has half a transaction", &["SYSTEM_USER"]),
    ("make servers read-only and writable", &["SYSTEM_VARIABLES_ADMIN", "SUPER"]),
    ("point replicas at a new primary", &["REPLICATION_SLAVE_ADMIN", "SUPER"]),
    ("let a new primary forget the old one", &["RELOAD"]),
];
const MARIADB_FAILOVER_NEEDS: &[Need] = &[
    ("see how a replica replicates", &["SLAVE MONITOR", "REPLICA MONITOR", "SUPER"]),
    ("see who has a transaction open", &["PROCESS"]),
    ("end sessions", &["CONNECTION ADMIN", "SUPER"]),
    ("make servers read-only and writable", &["READ_ONLY ADMIN"]),
    ("point replicas at a new primary", &["REPLICATION SLAVE ADMIN", "SUPER"]),
    ("let a new primary wait for its replicas", &["REPLICATION MASTER ADMIN", "SUPER"]),
    ("let a new primary forget the old one", &["RELOAD"]),
];

/// The answer of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    version: String,
    read_only: bool,
    super_read_only: bool,
    log_bin: bool,
    logs_what_it_applies: bool,
    connections: usize,
    keeps_gtids: bool,
    commits_in_order: bool,
    privileges: Vec<String>,
    /// The failover user's, or why it could not be asked. `None`: it is not needed.
    failover: Option<Result<Vec<String>, String>>,
    schemas: Vec<String>,
}

/// What all nodes lack, each with the node's name, and the users whom the servers refuse.
pub(super) async fn findings(
    config: &Config,
    cluster: &Cluster,
    primary: Option<usize>,
) -> Vec<(Option<String>, Finding)> {
    let mut found = Vec::new();
    let mut answering = None;
    let asked = cluster.nodes.iter().map(|node| bounded(cluster, facts(cluster, node)));
    for (index, (node, facts)) in cluster.nodes.iter().zip(all(asked).await).enumerate() {
        let Some(Ok(facts)) = facts else { continue };
        answering = answering.or(Some(index));
        let lacking = lacks(config, cluster, &facts);
        found.extend(lacking.into_iter().map(|finding| (Some(node.name.to_string()), finding)));
    }
    if let Some(index) = primary.or(answering) {
        let refused = refused_users(config, cluster, &cluster.nodes[index]).await;
        found.extend(refused.into_iter().map(|finding| (None, finding)));
    }
    found
}

async fn facts(cluster: &Cluster, node: &NodeConfig) -> Result<Facts, Error> {
    let mut connection = connect(&ServiceOpts::new(cluster, node)).await?;
    let sql = if cluster.engine == Engine::Mariadb { MARIADB_FACTS } else { MYSQL_FACTS };
    let row: Option<Row> = connection.query_first(sql).await?;
    let word = |index: usize| -> String {
        let value = row.as_ref().and_then(|row| row.get_opt::<String, _>(index));
        value.and_then(Result::ok).unwrap_or_default()
    };
    let is_on = |index: usize| !matches!(word(index).as_str(), "" | "0" | "OFF");
    Ok(Facts {
        version: word(0),
        read_only: is_on(1),
        super_read_only: is_on(2),
        log_bin: is_on(3),
        logs_what_it_applies: is_on(4),
        connections: word(5).parse().unwrap_or(0),
        keeps_gtids: is_on(6),
        commits_in_order: is_on(7),
        privileges: words(&mut connection, PRIVILEGES).await?,
        failover: match cluster.failover.mode {
            FailoverMode::Promote => Some(of_failover(cluster, node).await),
            FailoverMode::Observe => None,
        },
        schemas: words(&mut connection, SCHEMAS).await?,
    })
}

/// The failover user's privileges.
async fn of_failover(cluster: &Cluster, node: &NodeConfig) -> Result<Vec<String>, String> {
    let opts = ServiceOpts::by(cluster, node, &cluster.failover.login);
    let asked = async { words(&mut connect(&opts).await?, PRIVILEGES).await };
    asked.await.map_err(|error: Error| crate::monitor::mysql::sentence(&error).to_string())
}

async fn words(connection: &mut Conn, sql: &str) -> Result<Vec<String>, Error> {
    connection.query(sql).await
}

/// What one node's settings and privileges lack.
fn lacks(config: &Config, cluster: &Cluster, facts: &Facts) -> Vec<Finding> {
    let mut findings = privileges(cluster, facts);
    let is_mariadb = cluster.engine == Engine::Mariadb;
    let (name, oldest) = match is_mariadb {
        true => ("MariaDB", MARIADB_VERSION_MIN),
        false => ("MySQL", MYSQL_VERSION_MIN),
    };
    if is_mariadb != facts.version.contains("MariaDB") {
        let text = format!("engine is {name}, but the server says {}", facts.version);
        findings.push(Finding::new(Severity::Missing, text));
    } else if version(&facts.version) < oldest {
        let (major, minor, patch) = oldest;
        let text = format!("{} is too old; must be {name} {major}.{minor}.{patch}", facts.version);
        findings.push(Finding::new(Severity::Missing, text + " or later"));
    }
    findings.extend(replication(is_mariadb, facts));
    let set = if is_mariadb { "SET GLOBAL" } else { "SET PERSIST" };
    if let Some((severity, text, wanted)) = free_connections(config, cluster, facts.connections) {
        let finding = Finding::new(severity, text);
        findings.push(finding.sql(format!("{set} max_connections = {wanted};")).on_nodes());
    }
    for schema in cluster.databases.keys().filter(|name| !facts.schemas.contains(name)) {
        findings.push(Finding::new(Severity::Missing, format!("there is no schema {schema}")));
    }
    findings
}

fn replication(is_mariadb: bool, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut lacking = |severity, text: &str, sql: &[&str]| {
        let finding = sql.iter().fold(Finding::new(severity, text), |f, line| f.sql(*line));
        findings.push(finding.on_nodes());
    };
    if !facts.keeps_gtids {
        lacking(
            Severity::Missing,
            "gtid_mode is not ON, so no lag is known and no replica gets a read",
            &[
                "SET PERSIST enforce_gtid_consistency = ON;",
                "SET PERSIST gtid_mode = OFF_PERMISSIVE;",
                "SET PERSIST gtid_mode = ON_PERMISSIVE;",
                "SET PERSIST gtid_mode = ON;",
            ],
        );
    }
    if !facts.read_only && !facts.log_bin {
        let text = "log_bin is off, so no replica can follow (needs a restart)";
        lacking(Severity::Missing, text, &[]);
    }
    if facts.read_only && !facts.logs_what_it_applies {
        let name = if is_mariadb { "log_slave_updates" } else { "log_replica_updates" };
        let text = format!(
            "{name} is off, so no replica can follow this one after a promotion (needs a restart)"
        );
        lacking(Severity::Advice, &text, &[]);
    }
    if facts.read_only && !facts.super_read_only {
        let text = "read_only is on without super_read_only, so administrators may write here";
        lacking(Severity::Advice, text, &["SET PERSIST super_read_only = ON;"]);
    }
    if facts.read_only && !facts.commits_in_order {
        let text = "replica_preserve_commit_order is off, so commits show in another order than \
                    on the primary";
        let sql = [
            "STOP REPLICA SQL_THREAD;",
            "SET PERSIST replica_preserve_commit_order = ON;",
            "START REPLICA SQL_THREAD;",
        ];
        lacking(Severity::Advice, text, &sql);
    }
    findings
}

fn privileges(cluster: &Cluster, facts: &Facts) -> Vec<Finding> {
    let is_mariadb = cluster.engine == Engine::Mariadb;
    let (needs, to_resolve, of_failover) = match is_mariadb {
        true => (MARIADB_NEEDS, MARIADB_RESOLVE_NEEDS, MARIADB_FAILOVER_NEEDS),
        false => (MYSQL_NEEDS, MYSQL_RESOLVE_NEEDS, MYSQL_FAILOVER_NEEDS),
    };
    let mut findings = lacking(&cluster.service.user, needs, &facts.privileges);
    if cluster.failover.resolve_commits {
        findings.extend(lacking(&cluster.service.user, to_resolve, &facts.privileges));
    }
    let user = &cluster.failover.login.user;
    match &facts.failover {
        None => {}
        Some(Ok(has)) => findings.extend(lacking(user, of_failover, has)),
        Some(Err(error)) => {
            let text = format!("the servers refuse {user} (failover.user): {error}");
            findings.push(Finding::new(Severity::Missing, text));
        }
    }
    findings
}

fn lacking(user: &str, needs: &[Need], has: &[String]) -> Vec<Finding> {
    let lacks = |(_, any): &&Need| !any.iter().any(|wanted| has.iter().any(|has| has == wanted));
    let finding = |(purpose, any): &Need| {
        let text = format!("{user} has no privilege {}, to {purpose}", any[0]);
        let sql = format!("GRANT {} ON *.* TO {};", any[0], account(user));
        Finding::new(Severity::Missing, text).sql(sql)
    };
    needs.iter().filter(lacks).map(finding).collect()
}

/// Tries the passwords of the file.
async fn refused_users(config: &Config, cluster: &Cluster, node: &NodeConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    for user in config.users.iter().take(LOGINS_MAX) {
        // A hash cannot be tried.
        let password = match (&user.server_password, &user.secret) {
            (Some(password), _) | (None, Some(Secret::Password(password))) => password.clone(),
            _ => continue,
        };
        let mut as_user = cluster.clone();
        let database = String::new();
        let name = user.name.to_string();
        as_user.service = Service { user: name, password: Some(password), database };
        let opts = ServiceOpts::new(&as_user, node);
        let Some(Err(Error::Server(error))) = bounded(cluster, connect(&opts)).await else {
            continue;
        };
        let text = format!("the servers refuse {}: {}", user.name, error.message);
        let finding = Finding::new(Severity::Missing, text);
        found.push(match REFUSED.contains(&error.code) {
            // Wrong password, or no such user: the server does not tell which.
            true => finding.sql(format!("ALTER USER {} IDENTIFIED BY '…';", account(&user.name))),
            false => finding,
        });
    }
    found
}

/// `None` after the cluster's `connect_timeout` and one probe's time.
async fn bounded<T>(cluster: &Cluster, errand: impl Future<Output = T>) -> Option<T> {
    let limit: Duration = cluster.pool.connect_timeout + cluster.monitor.timeout;
    tokio::time::timeout(limit, errand).await.ok()
}

/// `8.0.22` of `8.0.22-13-log`; what is no number is zero.
fn version(text: &str) -> (u32, u32, u32) {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

/// A user's name as SQL; from which host it may come is not known here.
fn account(user: &str) -> String {
    format!("'{}'@'%'", user.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn privileges(some: &[&str]) -> Vec<String> {
        let all = ["SELECT", "SHOW VIEW", "TRIGGER"].iter().chain(some);
        all.map(ToString::to_string).collect()
    }

    /// A replica that lacks nothing.
    fn fine(engine: Engine) -> Facts {
        let (version, monitor) = match engine {
            Engine::Mariadb => ("10.11.19-MariaDB-0+deb12u1", "SLAVE MONITOR"),
            _ => ("9.7.4-2", "REPLICATION CLIENT"),
        };
        Facts {
            version: version.into(),
            read_only: true,
            super_read_only: true,
            log_bin: true,
            logs_what_it_applies: true,
            connections: 300,
            keeps_gtids: true,
            commits_in_order: true,
            privileges: privileges(&[monitor, "REPLICATION SLAVE", "BINLOG MONITOR"]),
            failover: None,
            schemas: vec!["shop".into()],
        }
    }

    fn check(engine: Engine, text: &str, facts: &Facts, sql: &[&str]) {
        let file = format!(
            "listen: {{mysql: [127.0.0.1:6306]}}\nusers: [{{name: app, password: x}}]\n\
             clusters: {{main: {{engine: {}, databases: [shop], nodes: [db1], \
             failover: {{resolve_commits: on}}, service: {{user: probe}}}}}}\n",
            if engine == Engine::Mariadb { "mariadb" } else { "mysql" }
        );
        let config =
            Config::parse("t.yaml", &file, Path::new(""), &|_| None).expect("valid").config;
        let found = lacks(&config, &config.clusters[0], facts);
        let lines: Vec<&str> =
            found.iter().flat_map(|finding| &finding.sql).map(String::as_str).collect();
        assert_eq!(lines, sql, "{text}: {found:?}");
        assert_eq!(found.len(), usize::from(!text.is_empty()), "{text}: {found:?}");
        assert!(found.iter().all(|finding| finding.text.contains(text)), "{text}: {found:?}");
    }

    #[test]
    fn each_lack_is_found_with_the_sql_that_mends_it() {
        let my = || fine(Engine::Mysql);
        check(Engine::Mysql, "", &my(), &[]);
        check(Engine::Mariadb, "", &fine(Engine::Mariadb), &[]);
        let cases: &[(&str, Facts, &[&str])] = &[
            (
                "gtid_mode is not ON",
                Facts { keeps_gtids: false, ..my() },
                &[
                    "SET PERSIST enforce_gtid_consistency = ON;",
                    "SET PERSIST gtid_mode = OFF_PERMISSIVE;",
                    "SET PERSIST gtid_mode = ON_PERMISSIVE;",
                    "SET PERSIST gtid_mode = ON;",
                ],
            ),
            ("log_bin is off", Facts { read_only: false, log_bin: false, ..my() }, &[]),
            ("after a promotion", Facts { logs_what_it_applies: false, ..my() }, &[]),
            (
                "administrators may write",
                Facts { super_read_only: false, ..my() },
                &["SET PERSIST super_read_only = ON;"],
            ),
            (
                "in another order",
                Facts { commits_in_order: false, ..my() },
                &[
                    "STOP REPLICA SQL_THREAD;",
                    "SET PERSIST replica_preserve_commit_order = ON;",
                    "START REPLICA SQL_THREAD;",
                ],
            ),
            ("too old; must be MySQL 8.0.22", Facts { version: "8.0.21-log".into(), ..my() }, &[]),
            ("says 10.11", Facts { version: "10.11.2-MariaDB".into(), ..my() }, &[]),
            ("no schema shop", Facts { schemas: vec![], ..my() }, &[]),
            (
                "no privilege REPLICATION CLIENT",
                Facts { privileges: privileges(&["REPLICATION SLAVE"]), ..my() },
                &["GRANT REPLICATION CLIENT ON *.* TO 'probe'@'%';"],
            ),
            (
                "no privilege REPLICATION SLAVE, to find lost commits",
                Facts { privileges: privileges(&["REPLICATION CLIENT"]), ..my() },
                &["GRANT REPLICATION SLAVE ON *.* TO 'probe'@'%';"],
            ),
            (
                "probe has no privilege RELOAD, to let a new primary",
                Facts {
                    failover: Some(Ok(["SUPER", "PROCESS", "SYSTEM_USER"]
                        .map(String::from)
                        .to_vec())),
                    ..my()
                },
                &["GRANT RELOAD ON *.* TO 'probe'@'%';"],
            ),
            (
                "probe has no privilege SYSTEM_USER, to end an applier that has half",
                Facts {
                    failover: Some(Ok(["SUPER", "PROCESS", "RELOAD"].map(String::from).to_vec())),
                    ..my()
                },
                &["GRANT SYSTEM_USER ON *.* TO 'probe'@'%';"],
            ),
            (
                "the servers refuse probe (failover.user): no",
                Facts { failover: Some(Err("no".into())), ..my() },
                &[],
            ),
            (
                "max_connections leaves 10",
                Facts { connections: 10, ..my() },
                &["SET PERSIST max_connections = 100;"],
            ),
        ];
        for (text, facts, sql) in cases {
            check(Engine::Mysql, text, facts, sql);
        }
    }
}
