//! From what the nodes say to what is missing, with the SQL that mends it. Pure.

use super::facts::{Facts, Refusal};
use crate::config::{AuthMethod, Cluster, Config};
use crate::topology::{Health, Role, Snapshot};

/// Probes are written for these.
const VERSION_MIN: i32 = 130_000;
/// Connections of the proxy itself to each node: the probe's, and one beside it.
const SERVICE_CONNECTIONS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Something will not work.
    Missing,
    /// It works, but not as well as it could.
    Advice,
}

/// Where the SQL is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Primary,
    /// On each node that the finding names.
    Nodes,
}

/// One thing that should be different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) text: String,
    /// Nodes that it was seen on; empty: the whole cluster.
    pub(super) nodes: Vec<String>,
    pub(super) sql: Vec<String>,
    pub(super) place: Place,
}

impl Finding {
    pub(super) fn new(severity: Severity, text: impl Into<String>) -> Finding {
        Finding {
            severity,
            text: text.into(),
            nodes: Vec::new(),
            sql: Vec::new(),
            place: Place::Primary,
        }
    }

    pub(super) fn sql(mut self, line: impl Into<String>) -> Finding {
        self.sql.push(line.into());
        self
    }

    pub(super) fn on_nodes(mut self) -> Finding {
        self.place = Place::Nodes;
        self
    }
}

/// What the picture of the cluster shows.
pub(super) fn of_snapshot(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &snapshot.nodes {
        if let Health::Unhealthy { reason } = &node.health {
            let text = format!("{} cannot be used: {reason}", node.name);
            findings.push(Finding::new(Severity::Missing, text));
        } else if node.health == Health::Unknown {
            let text = format!("{} ({}) does not answer", node.name, node.address);
            findings.push(Finding::new(Severity::Missing, text));
        } else if node.role == Role::Replica && !node.in_read_set && snapshot.primary.is_some() {
            let text = format!("{} gets no reads now: {}", node.name, node.out_because);
            findings.push(Finding::new(Severity::Advice, text));
        }
    }
    if snapshot.primary.is_none() {
        let text = format!("there is no primary: {}", snapshot.no_primary_because);
        findings.push(Finding::new(Severity::Missing, text));
    }
    if snapshot.nodes.iter().all(|node| node.role != Role::Replica) {
        let text = "there is no replica, so every read goes to the primary";
        findings.push(Finding::new(Severity::Advice, text));
    }
    findings
}

/// What one node's settings and privileges lack.
pub(super) fn of_node(config: &Config, cluster: &Cluster, facts: &Facts) -> Vec<Finding> {
    let mut findings = privileges(cluster, facts);
    if facts.version_number < VERSION_MIN {
        let text = format!("PostgreSQL {} is too old; must be 13 or later", facts.version);
        findings.push(Finding::new(Severity::Missing, text));
    }
    if !facts.recovering && facts.wal_level == "minimal" {
        let finding = Finding::new(
            Severity::Missing,
            "wal_level is minimal, so no replica can follow (needs a restart)",
        );
        findings.push(finding.sql("ALTER SYSTEM SET wal_level = 'replica';").on_nodes());
    }
    if facts.recovering && !facts.feedback {
        let text =
            "hot_standby_feedback is off, so the primary's vacuum may cancel long reads here";
        let finding = Finding::new(Severity::Advice, text);
        let finding = finding.sql("ALTER SYSTEM SET hot_standby_feedback = on;");
        findings.push(finding.sql("SELECT pg_reload_conf();").on_nodes());
    }
    let free = usize::try_from(facts.connections).unwrap_or(0);
    if let Some((severity, text, wanted)) = free_connections(config, cluster, free) {
        let finding = Finding::new(severity, text + ", which needs a restart");
        let sql = format!("ALTER SYSTEM SET max_connections = {wanted};");
        findings.push(finding.sql(sql).on_nodes());
    }
    let scram = config.auth.method == AuthMethod::ScramSha256 && config.auth.query.is_some();
    if !facts.recovering && scram && facts.password_encryption == "md5" {
        let text =
            "password_encryption is md5: users that are created now cannot log in by scram-sha-256";
        let finding = Finding::new(Severity::Advice, text);
        let finding = finding.sql("ALTER SYSTEM SET password_encryption = 'scram-sha-256';");
        findings.push(finding.sql("SELECT pg_reload_conf();").on_nodes());
    }
    findings
}

fn privileges(cluster: &Cluster, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let user = &cluster.service.user;
    let to = identifier(user);
    let mut missing = |text: String, sql: Option<String>| {
        let finding = Finding::new(Severity::Missing, text);
        findings.push(match sql {
            Some(sql) => finding.sql(sql),
            None => finding,
        });
    };
    if !facts.monitors {
        missing(
            format!(
                "{user} has no privileges of pg_monitor, so a replica's receiver is not seen and lag is not exact"
            ),
            Some(format!("GRANT pg_monitor TO {to};")),
        );
    }
    for function in &facts.functions {
        missing(
            format!("{user} may not call {function}"),
            Some(format!("GRANT EXECUTE ON FUNCTION {function} TO {to};")),
        );
    }
    for table in &facts.tables {
        missing(
            format!("{user} may not read {table}"),
            Some(format!("GRANT SELECT ON {table} TO {to};")),
        );
    }
    for database in &facts.databases_missing {
        missing(format!("there is no database {database}"), None);
    }
    for database in &facts.databases_closed {
        let name = identifier(database);
        missing(
            format!("{user} may not connect to {database}"),
            Some(format!("GRANT CONNECT ON DATABASE {name} TO {to};")),
        );
    }
    findings
}

/// Whether the pools could ask for more connections than the node has free; then also how many it
/// should have.
pub(super) fn free_connections(
    config: &Config,
    cluster: &Cluster,
    free: usize,
) -> Option<(Severity, String, usize)> {
    let (users, databases) = (config.users.len().max(1), cluster.databases.len().max(1));
    let pools = users * databases;
    let most = cluster.pool.size_max * pools + SERVICE_CONNECTIONS;
    let open_ended = config.auth.query.is_some() || cluster.databases.is_empty();
    let at_least = if open_ended { "at least " } else { "" };
    let size_max = cluster.pool.size_max;
    let sizes = format!(
        "{at_least}{most} connections (pool.size_max {size_max} for each of {users} users and {databases} databases, and {SERVICE_CONNECTIONS} of its own)"
    );
    (most > free).then(|| {
        let severity = if size_max + SERVICE_CONNECTIONS > free { Severity::Missing } else { Severity::Advice };
        let text = format!("the pools may open {sizes}, but max_connections leaves {free}; lower pool.size_max, or raise it");
        (severity, text, most + 100 - most % 50)
    })
}

/// A user of the file whom the servers refuse.
pub(super) fn of_login(user: &str, refusal: &Refusal) -> Option<Finding> {
    let quoted = identifier(user);
    let text = format!("the servers refuse {user}: {}", refusal.message);
    match refusal.code.as_str() {
        // Wrong password, or no such user: the server does not tell which.
        "28P01" | "28000" => {
            let finding = Finding::new(Severity::Missing, text);
            Some(finding.sql(format!("ALTER ROLE {quoted} LOGIN PASSWORD '…';")))
        }
        "42501" => Some(
            Finding::new(Severity::Missing, text)
                .sql(format!("GRANT CONNECT ON DATABASE … TO {quoted};")),
        ),
        "" => None,
        _ => Some(Finding::new(Severity::Missing, text)),
    }
}

/// `auth.query` does not work.
pub(super) fn of_auth_query(service: &str, refusal: &Refusal) -> Finding {
    let finding = Finding::new(Severity::Missing, format!("auth.query fails: {}", refusal.message));
    let to = identifier(service);
    let denied = |kind: &str| {
        let rest = refusal.message.strip_prefix("permission denied for ")?.strip_prefix(kind)?;
        Some(rest.trim().to_owned())
    };
    if let Some(relation) = denied("table").or_else(|| denied("view")) {
        return finding.sql(format!("GRANT SELECT ON {relation} TO {to};"));
    }
    if let Some(function) = denied("function") {
        return finding.sql(format!("GRANT EXECUTE ON FUNCTION {function} TO {to};"));
    }
    if let Some(schema) = denied("schema") {
        return finding.sql(format!("GRANT USAGE ON SCHEMA {schema} TO {to};"));
    }
    finding
}

/// The same finding of several nodes becomes one; what is missing comes first.
pub(super) fn merged(found: Vec<(Option<String>, Finding)>) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for (node, finding) in found {
        let same =
            merged.iter_mut().find(|other| other.text == finding.text && other.sql == finding.sql);
        let slot = match same {
            Some(slot) => slot,
            None => {
                merged.push(finding);
                let last = merged.len() - 1;
                &mut merged[last]
            }
        };
        slot.nodes.extend(node);
    }
    merged.sort_by_key(|finding| finding.severity);
    merged
}

/// A name as SQL: quoted unless it is plain.
pub(super) fn identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const FILE: &str = "\
users: [{name: app, password: x}]
auth: {query: SELECT $1}
clusters:
  main:
    databases: [shop]
    nodes: [db1]
    service: {user: Probe}
";

    /// A node that lacks nothing.
    fn fine() -> Facts {
        Facts {
            version: "15.4".to_owned(),
            version_number: 150_004,
            wal_level: "replica".to_owned(),
            connections: 97,
            feedback: true,
            password_encryption: "scram-sha-256".to_owned(),
            monitors: true,
            ..Facts::default()
        }
    }

    #[test]
    fn each_lack_is_found_with_the_sql_that_mends_it() {
        let loaded = Config::parse("t.yaml", FILE, Path::new(""), &|_| None).expect("valid");
        let config = loaded.config;
        let cases: &[(&str, Facts, &[&str])] = &[
            ("", fine(), &[]),
            (
                "pg_monitor",
                Facts { monitors: false, ..fine() },
                &["GRANT pg_monitor TO \"Probe\";"],
            ),
            (
                "may not call f()",
                Facts { functions: vec!["f()".into()], ..fine() },
                &["GRANT EXECUTE ON FUNCTION f() TO \"Probe\";"],
            ),
            (
                "may not read t",
                Facts { tables: vec!["t".into()], ..fine() },
                &["GRANT SELECT ON t TO \"Probe\";"],
            ),
            ("no database shop", Facts { databases_missing: vec!["shop".into()], ..fine() }, &[]),
            (
                "may not connect to shop",
                Facts { databases_closed: vec!["shop".into()], ..fine() },
                &["GRANT CONNECT ON DATABASE shop TO \"Probe\";"],
            ),
            ("too old", Facts { version_number: 120_003, ..fine() }, &[]),
            (
                "wal_level is minimal",
                Facts { wal_level: "minimal".into(), ..fine() },
                &["ALTER SYSTEM SET wal_level = 'replica';"],
            ),
            (
                "hot_standby_feedback is off",
                Facts { feedback: false, recovering: true, ..fine() },
                &["ALTER SYSTEM SET hot_standby_feedback = on;", "SELECT pg_reload_conf();"],
            ),
            // Only a replica's feedback matters.
            ("", Facts { feedback: false, ..fine() }, &[]),
            (
                "password_encryption is md5",
                Facts { password_encryption: "md5".into(), ..fine() },
                &[
                    "ALTER SYSTEM SET password_encryption = 'scram-sha-256';",
                    "SELECT pg_reload_conf();",
                ],
            ),
            (
                "max_connections leaves 10",
                Facts { connections: 10, ..fine() },
                &["ALTER SYSTEM SET max_connections = 100;"],
            ),
        ];
        for (text, facts, sql) in cases {
            let found = of_node(&config, &config.clusters[0], facts);
            let lines: Vec<&str> =
                found.iter().flat_map(|finding| &finding.sql).map(String::as_str).collect();
            assert_eq!(&lines, sql, "{text}: {found:?}");
            assert_eq!(found.len(), usize::from(!text.is_empty()), "{text}: {found:?}");
            assert!(found.iter().all(|finding| finding.text.contains(text)), "{text}: {found:?}");
        }
    }

    #[test]
    fn refusals_are_told_with_the_grant_that_is_missing() {
        let refusal =
            |code: &str, message: &str| Refusal { code: code.into(), message: message.into() };
        for (message, sql) in [
            ("permission denied for view pg_shadow", "GRANT SELECT ON pg_shadow TO tiffin;"),
            ("permission denied for table pg_authid", "GRANT SELECT ON pg_authid TO tiffin;"),
            (
                "permission denied for function secret_of",
                "GRANT EXECUTE ON FUNCTION secret_of TO tiffin;",
            ),
            ("permission denied for schema s", "GRANT USAGE ON SCHEMA s TO tiffin;"),
        ] {
            assert_eq!(of_auth_query("tiffin", &refusal("42501", message)).sql, [sql]);
        }
        assert_eq!(of_auth_query("tiffin", &refusal("42601", "syntax error")).sql, [""; 0]);
        let wrong = of_login("app", &refusal("28P01", "password authentication failed"));
        assert_eq!(wrong.expect("a finding").sql, ["ALTER ROLE app LOGIN PASSWORD '…';"]);
        // A broken connection says nothing of the user.
        assert_eq!(of_login("app", &refusal("", "connection reset")), None);
    }

    #[test]
    fn the_same_finding_of_several_nodes_is_one() {
        let lacking = |severity, text: &str| Finding::new(severity, text);
        let merged = merged(vec![
            (Some("a".into()), lacking(Severity::Advice, "x")),
            (Some("a".into()), lacking(Severity::Missing, "y")),
            (Some("b".into()), lacking(Severity::Advice, "x")),
        ]);
        let shown: Vec<(&str, String)> =
            merged.iter().map(|finding| (finding.text.as_str(), finding.nodes.join(" "))).collect();
        assert_eq!(shown, [("y", "a".to_owned()), ("x", "a b".to_owned())]);
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        for (name, sql) in
            [("app", "app"), ("App", "\"App\""), ("a\"b", "\"a\"\"b\""), ("1a", "\"1a\"")]
        {
            assert_eq!(identifier(name), sql);
        }
    }
}
