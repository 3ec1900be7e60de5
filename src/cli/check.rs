//! `tiffin check`: is the configuration right, and are the nodes ready for it?
//!
//! The nodes are looked at by the monitor that the proxy runs (`watch.rs`), and asked for their
//! settings and the service user's privileges (`facts.rs`); what is missing, and the SQL that
//! mends it, is decided in `findings.rs`. Here: the arguments, the order of things, the printing.

use super::facts;
use super::findings::{self, Finding, Place, Severity};
use super::{Exit, check_mysql, load, table, watch};
use crate::config::tls::ServerTlsConnector;
use crate::config::{self, Cluster, Config, Secret, Service};
use crate::failover::patroni;
use crate::topology::{Health, Lag, Node, Position, Role, Snapshot};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const ABOUT: &str = "\
Checks a configuration file, then every node that it names.

All mistakes of the file are told at once, each with its line and key. If there is none, tiffin
connects to every node as the service user and prints role, version, timeline, position and lag,
and each setting or privilege that is missing with the SQL that mends it. Nothing is changed.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin check --config /etc/tiffin/config.yaml
  tiffin check --config config.yaml --offline    only the file: connects to nothing
  tiffin check --example > config.yaml           a file with every key and its default

Exit status: 0 all is well (there may be advice), 1 something is missing or a node cannot be used,
2 the file is wrong.";

/// Users whose login is tried; more would take long and say no more.
const LOGINS_MAX: usize = 50;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file (`--example` prints one with every key)
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    #[arg(required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Check the file only; connect to nothing
    #[arg(long)]
    offline: bool,
    /// Print a configuration file with every key, and do nothing else
    #[arg(long)]
    example: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    // clap demands a file unless the example is wanted.
    let Some(path) = args.config.as_ref().filter(|_| !args.example) else {
        print!("{}", config::example());
        return Ok(Exit::Ok);
    };
    let Some(config) = load(path) else { return Ok(Exit::Usage) };
    if args.offline {
        println!("The configuration is valid. The nodes were not looked at.");
        return Ok(Exit::Ok);
    }
    println!("The configuration is valid.");
    let mut missing = 0;
    watch::runtime()?.block_on(async {
        for cluster in &config.clusters {
            let cluster = match with_members(cluster).await {
                Ok(cluster) => cluster,
                Err(error) => {
                    println!("\nCluster {}: Patroni tells no nodes: {error}", cluster.name);
                    missing += 1;
                    continue;
                }
            };
            let tls = watch::service_tls(&cluster)?;
            let seen = look_at(&config, &cluster, &tls).await;
            print_cluster(&cluster, &seen);
            missing += seen.findings.iter().filter(|f| f.severity == Severity::Missing).count();
        }
        anyhow::Ok(())
    })?;
    println!("\n{}", conclusion(missing));
    Ok(if missing == 0 { Exit::Ok } else { Exit::Failure })
}

/// The cluster with the nodes that Patroni tells, where it does.
async fn with_members(cluster: &Arc<Cluster>) -> Result<Arc<Cluster>, String> {
    let Some(patroni) = &cluster.patroni else { return Ok(cluster.clone()) };
    let nodes = patroni::ask(patroni).await?.nodes;
    Ok(Arc::new(Cluster { nodes, ..Cluster::clone(cluster) }))
}

fn conclusion(missing: usize) -> String {
    match missing {
        0 => "Nothing is missing.".to_owned(),
        1 => "One thing is missing.".to_owned(),
        _ => format!("{missing} things are missing."),
    }
}

/// A cluster as it was found.
struct Seen {
    snapshot: Arc<Snapshot>,
    findings: Vec<Finding>,
}

async fn look_at(config: &Config, cluster: &Arc<Cluster>, tls: &Arc<ServerTlsConnector>) -> Seen {
    let snapshot = watch::settled(cluster, tls).await.load_full();
    let mut found: Vec<(Option<String>, Finding)> =
        findings::of_snapshot(&snapshot).into_iter().map(|finding| (None, finding)).collect();
    let primary = snapshot.primary.map(|id| usize::from(id.0));
    found.extend(match cluster.engine.speaks_mysql() {
        true => check_mysql::findings(config, cluster, primary).await,
        false => of_postgres(config, cluster, primary, tls).await,
    });
    Seen { snapshot, findings: findings::merged(found) }
}

async fn of_postgres(
    config: &Config,
    cluster: &Cluster,
    primary: Option<usize>,
    tls: &Arc<ServerTlsConnector>,
) -> Vec<(Option<String>, Finding)> {
    let mut found = Vec::new();
    let facts = all(cluster.nodes.iter().map(|node| facts::facts(cluster, node, tls))).await;
    for (node, facts) in cluster.nodes.iter().zip(&facts) {
        if let Ok(facts) = facts {
            let lacking = findings::of_node(config, cluster, facts);
            found.extend(lacking.into_iter().map(|finding| (Some(node.name.to_string()), finding)));
        }
    }
    // Users are the same on all nodes: the primary is asked, or whoever answers.
    let answering = primary.or_else(|| facts.iter().position(Result::is_ok));
    if let Some(index) = answering {
        let gone = facts[index].as_ref().map(|facts| facts.databases_missing.clone());
        let present =
            cluster.databases.values().find(|name| !gone.iter().flatten().any(|g| g == *name));
        let database = present.unwrap_or(&cluster.service.database);
        found.extend(users(config, cluster, index, tls, database).await);
    }
    found
}

async fn users(
    config: &Config,
    cluster: &Cluster,
    index: usize,
    tls: &Arc<ServerTlsConnector>,
    database: &str,
) -> Vec<(Option<String>, Finding)> {
    let node = &cluster.nodes[index];
    let mut found = Vec::new();
    if let Some(query) = &config.auth.query
        && let Some(refusal) = facts::auth_query(cluster, node, tls, query).await
    {
        found.push((None, findings::of_auth_query(&cluster.service.user, &refusal)));
    }
    for user in config.users.iter().take(LOGINS_MAX) {
        // A verifier or hash cannot be tried; the password can.
        let password = match (&user.server_password, &user.secret) {
            (Some(password), _) | (None, Some(Secret::Password(password))) => password.clone(),
            _ => continue,
        };
        let service = Service {
            user: user.name.to_string(),
            password: Some(password),
            database: database.to_owned(),
        };
        let refusal = facts::login(cluster, node, tls, service).await;
        let finding = refusal.and_then(|refusal| findings::of_login(&user.name, &refusal));
        found.extend(finding.map(|finding| (None, finding)));
    }
    found
}

/// All futures at once, their results in order.
pub(super) async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let mut results: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in running.iter_mut().zip(&mut results) {
            if slot.is_none()
                && let std::task::Poll::Ready(result) = future.as_mut().poll(context)
            {
                *slot = Some(result);
            }
        }
        if results.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

fn print_cluster(cluster: &Cluster, seen: &Seen) {
    println!("\nCluster {}", cluster.name);
    let mut rows = vec![
        ["node", "address", "role", "version", "timeline", "position", "lag"].map(str::to_owned),
    ];
    rows.extend(seen.snapshot.nodes.iter().map(row));
    print!("{}", table(&rows));
    for finding in &seen.findings {
        print_finding(finding, seen.snapshot.nodes.len());
    }
}

fn row(node: &Node) -> [String; 7] {
    let none = || "-".to_owned();
    let role = match (&node.health, node.role) {
        (Health::Healthy, Role::Primary) => "primary",
        (Health::Healthy, Role::Replica) => "replica",
        (Health::Healthy, Role::Unknown) => "refused",
        (Health::Unhealthy { .. } | Health::Unknown, _) => "unreachable",
    };
    let timeline = node.position.as_ref().and_then(Position::timeline);
    let timeline = timeline.map_or_else(none, |timeline| timeline.0.to_string());
    let position = node.position.as_ref().map_or_else(none, Position::to_string);
    let lag = match (node.role, node.lag) {
        (Role::Replica, Lag::Known { age, bytes: Some(bytes) }) if bytes > 0 => {
            format!("{} ms, {bytes} bytes", age.as_millis())
        }
        (Role::Replica, Lag::Known { age, .. }) => format!("{} ms", age.as_millis()),
        (Role::Replica, Lag::Unknown) => "unknown".to_owned(),
        _ => none(),
    };
    let version = node.version.as_deref().and_then(|version| version.split(' ').next());
    let version = version.map_or_else(none, str::to_owned);
    [
        node.name.to_string(),
        node.address.to_string(),
        role.to_owned(),
        version,
        timeline,
        position,
        lag,
    ]
}

fn print_finding(finding: &Finding, nodes: usize) {
    let label = match finding.severity {
        Severity::Missing => "missing",
        Severity::Advice => "advice",
    };
    let on = match finding.nodes.as_slice() {
        [] => String::new(),
        seen if seen.len() == nodes && nodes > 1 => " (on all nodes)".to_owned(),
        seen => format!(" (on {})", seen.join(", ")),
    };
    let run = match (finding.sql.as_slice(), finding.place) {
        ([], _) => ".",
        (_, Place::Primary) => ". On the primary:",
        (_, Place::Nodes) => ". There:",
    };
    println!("\n  {label}: {}{on}{run}", finding.text);
    for line in &finding.sql {
        println!("    {line}");
    }
}
