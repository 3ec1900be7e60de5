//! Clusters: nodes, service user, and the settings of pool, monitor, routing and gate.

use super::check::{pair, tls_files};
use super::failover::failover;
use super::file::{Node, Place, Value};
use super::secret::secret;
use super::section::Section;
use super::tls::ServerTlsConnector;
use super::{
    Address, Balance, Cluster, Discovery, Engine, FailoverMode, Gate, Monitor, NodeConfig, Patroni,
    Pool, Routing, ServerTls, ServerTlsMode, Service, Word, remote, units,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Replicas of one primary; more are a mistake, and node ids are small.
pub const NODES_MAX: usize = 256;
/// Names become labels of metrics and parts of messages.
const NAME_CHARS_MAX: usize = 63;
/// Of nodes that do not say otherwise.
pub(super) const WEIGHT: u32 = 100;
pub(super) const PRIORITY: u32 = 100;

/// Checks all clusters, and that a database leads to one of them only.
pub(super) fn clusters(root: &Section<'_>) -> Vec<Arc<Cluster>> {
    let mut clusters: Vec<Arc<Cluster>> = Vec::new();
    let sections = root.sections("clusters");
    if sections.is_empty()
        && root.value("clusters").is_some_and(|node| matches!(node.value, Value::Map(_)))
    {
        root.note("clusters", "must name at least one cluster".to_owned());
    }
    for (name, section) in &sections {
        if let Some(message) = bad_name(name) {
            section.note_whole(message);
        }
        let cluster = cluster(name, section);
        for other in &clusters {
            shared_databases(section, &cluster, other);
        }
        clusters.push(Arc::new(cluster));
    }
    clusters
}

pub(super) fn bad_name(name: &str) -> Option<String> {
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '[' | ']');
    let fine = !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(fits);
    (!fine).then(|| format!("`{name}` cannot be a name; must be 1 to {NAME_CHARS_MAX} letters, digits, `_`, `-` or `.`"))
}

fn shared_databases(section: &Section<'_>, new: &Cluster, other: &Cluster) {
    if new.engine.speaks_mysql() != other.engine.speaks_mysql() {
        return;
    }
    if new.databases.is_empty() && other.databases.is_empty() {
        section.contradiction("databases", format!("takes any database, and so does cluster `{}`; must be named in all clusters but one", other.name));
    }
    for name in new.databases.keys().filter(|name| other.databases.contains_key(*name)) {
        section.contradiction(
            "databases",
            format!(
                "`{name}` is also a database of cluster `{}`; must be in one cluster only",
                other.name
            ),
        );
    }
}

fn cluster(name: &str, section: &Section<'_>) -> Cluster {
    let engine = section.chosen("engine");
    let patroni = patroni(section);
    let nodes = match patroni {
        Some(_) => Vec::new(),
        None => nodes(section, engine),
    };
    let [of_service, of_tls, of_pool, of_routing, of_failover] =
        ["service", "tls", "pool", "routing", "failover"].map(|name| section.section(name));
    let by = service(&of_service, engine);
    let cluster = Cluster {
        name: name.into(),
        engine,
        databases: databases(section),
        service: by.clone(),
        server_tls: server_tls(&of_tls, &nodes),
        pool: pool(&of_pool),
        monitor: monitor(&section.section("monitor")),
        routing: routing(&of_routing),
        gate: gate(&section.section("gate")),
        failover: failover(&of_failover, &by),
        patroni,
        nodes,
    };
    weights(section, &cluster);
    if cluster.patroni.is_some() {
        only_followed(&of_failover, &cluster);
    }
    if engine.speaks_mysql() {
        let foreign = [
            (&of_service, "database"),
            (&of_tls, "direct"),
            (&of_pool, "application_name_add_host"),
            (&of_routing, "max_lag_bytes"),
        ];
        only_postgres(section, &cluster, &foreign);
    } else if cluster.failover.replication.is_some() {
        let message = "is for MySQL and MariaDB only; a standby logs in as its primary_conninfo \
            says"
            .to_owned();
        of_failover.section("replication").contradiction("user", message);
    }
    let lag_max = cluster.routing.lag_max;
    if lag_max < cluster.monitor.interval * 2 {
        of_routing.warn("max_lag", "is less than two of `monitor.interval`; replicas will leave the read set although they follow closely".to_owned());
    }
    cluster
}

fn patroni(section: &Section<'_>) -> Option<Patroni> {
    let part = section.section("patroni");
    let patroni = remote::patroni(&part);
    if section.chosen::<Discovery>("discovery") == Discovery::Static {
        if section.has("patroni") {
            section.warn("patroni", "has no effect while `discovery` is `static`".to_owned());
        }
        return None;
    }
    if patroni.remote.addresses.is_empty() {
        section.contradiction("discovery", "is `patroni`, which needs `patroni.urls`".to_owned());
    }
    if section.has("nodes") {
        let message = "contradict `discovery: patroni`, which tells the nodes; leave them out";
        section.note("nodes", message.to_owned());
    }
    Some(patroni)
}

/// Two who promote would each undo what the other does.
fn only_followed(failover: &Section<'_>, cluster: &Cluster) {
    if cluster.failover.mode == FailoverMode::Promote {
        failover.contradiction(
            "mode",
            "is `promote`, but with `discovery: patroni` Patroni promotes; must be `observe`"
                .to_owned(),
        );
    }
}

/// What has no meaning for MySQL and MariaDB is not passed over in silence.
fn only_postgres(section: &Section<'_>, cluster: &Cluster, keys: &[(&Section<'_>, &str)]) {
    let word = cluster.engine.word();
    for (part, key) in keys {
        if part.has(key) {
            part.contradiction(key, format!("is for PostgreSQL only, and `engine` is `{word}`"));
        }
    }
    if cluster.patroni.is_some() {
        section.contradiction(
            "discovery",
            format!("is `patroni`, which is for PostgreSQL only, and `engine` is `{word}`"),
        );
    }
    if cluster.databases.iter().any(|(name, on_server)| name != on_server) {
        section.contradiction("databases", format!("give other names, which is for PostgreSQL only, and `engine` is `{word}`; must be a list of schemas"));
    }
    let unix = cluster.nodes.iter().find(|node| matches!(node.address, Address::Unix { .. }));
    if let Some(node) = unix {
        section.contradiction("nodes", format!("have a Unix socket in `{}`, which is for PostgreSQL only, and `engine` is `{word}`; must be hosts and ports", node.name));
    }
}

fn weights(section: &Section<'_>, cluster: &Cluster) {
    let weighted = cluster.routing.balance == Balance::Weighted;
    if weighted && !cluster.nodes.is_empty() && cluster.nodes.iter().all(|node| node.weight == 0) {
        section.contradiction(
            "nodes",
            "have no weight above 0, but `routing.balance` is `weighted`; at least one must"
                .to_owned(),
        );
    }
}

fn databases(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut databases = BTreeMap::new();
    match section.value("databases").map(|node| &node.value) {
        Some(Value::Map(entries)) => {
            let mut seen = HashSet::new();
            for entry in entries {
                let path = format!("{}.{}", section.path_of("databases"), entry.key);
                if !seen.insert(&entry.key) {
                    section.walk.note(
                        entry.key_place,
                        path.clone(),
                        "is given twice; the second one is here".to_owned(),
                    );
                }
                match &entry.node.value {
                    Value::Text(text) if !text.is_empty() => {
                        databases.insert(entry.key.clone(), text.clone());
                    }
                    Value::Null => {
                        databases.insert(entry.key.clone(), entry.key.clone());
                    }
                    other => {
                        let message = format!(
                            "must be the servers' name of the database as a text, not {}",
                            other.kind()
                        );
                        section.walk.note(entry.node.place, path, message);
                    }
                }
            }
        }
        Some(_) => {
            for name in section.texts("databases") {
                databases.insert(name.clone(), name);
            }
        }
        None => {}
    }
    databases
}

/// Nodes are written as a mapping or a list; both lead here.
fn nodes<'w>(section: &Section<'w>, engine: Engine) -> Vec<NodeConfig> {
    let items: Vec<(Option<String>, Place, &'w Node, String)> = match section.value("nodes") {
        None => return Vec::new(),
        Some(node) => {
            match &node.value {
                Value::Map(entries) => entries
                    .iter()
                    .map(|entry| {
                        let path = format!("{}.{}", section.path_of("nodes"), entry.key);
                        (Some(entry.key.clone()), entry.key_place, &entry.node, path)
                    })
                    .collect(),
                Value::List(items) => items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        (None, item.place, item, format!("{}[{index}]", section.path_of("nodes")))
                    })
                    .collect(),
                other => {
                    section.note("nodes", format!("must be a mapping of names to addresses, or a list of addresses, not {}", other.kind()));
                    return Vec::new();
                }
            }
        }
    };
    if items.is_empty() {
        section.note("nodes", "must name at least one server".to_owned());
    }
    if items.len() > NODES_MAX {
        section.note("nodes", format!("are {}; must be at most {NODES_MAX}", items.len()));
    }
    let mut seen = Seen::default();
    let checked = |(name, place, item, path): (Option<String>, Place, &'w Node, String)| {
        let node = node((section, engine), name, place, item, &path)?;
        seen.repeated(&node)
            .into_iter()
            .for_each(|message| section.walk.note(place, path.clone(), message));
        Some(node)
    };
    items.into_iter().filter_map(checked).collect()
}

/// Names and addresses of the nodes so far.
#[derive(Default)]
struct Seen {
    names: HashSet<Arc<str>>,
    addresses: HashMap<Address, Arc<str>>,
}

impl Seen {
    fn repeated(&mut self, node: &NodeConfig) -> Vec<String> {
        let mut messages = Vec::new();
        if !self.names.insert(node.name.clone()) {
            messages.push(format!("another node is called `{}`; names must differ", node.name));
        }
        match self.addresses.get(&node.address) {
            Some(other) => messages.push(format!(
                "{} is already the address of node `{other}`; addresses must differ",
                node.address
            )),
            None => {
                self.addresses.insert(node.address.clone(), node.name.clone());
            }
        }
        messages
    }
}

fn node<'w>(
    (cluster, engine): (&Section<'w>, Engine),
    name: Option<String>,
    place: Place,
    item: &'w Node,
    path: &str,
) -> Option<NodeConfig> {
    let server_address = |text: &str| units::server_address(text, engine.server_port());
    if let Value::Text(text) = &item.value {
        let address = server_address(text)
            .map_err(|message| cluster.walk.note(item.place, path.to_owned(), message))
            .ok()?;
        let name = name.unwrap_or_else(|| text.clone());
        named(cluster, place, path, &name);
        return Some(NodeConfig {
            name: name.into(),
            address,
            zone: None,
            tags: Vec::new(),
            weight: WEIGHT,
            priority: PRIORITY,
        });
    }
    if !matches!(item.value, Value::Map(_)) {
        let kind = item.value.kind();
        let message = format!(
            "must be an address as `db1:5432`, or a mapping with at least `address`, not {kind}"
        );
        cluster.walk.note(item.place, path.to_owned(), message);
        return None;
    }
    let section = cluster.open("clusters.*.nodes.*", path.to_owned(), place, item);
    let written = section.text("name");
    if name.is_some() && written.is_some() {
        section.note("name", "is only for lists; this node already has a name".to_owned());
    }
    let zone = section.text("zone").map(Arc::from);
    let tags = section.texts("tags");
    let weight = u32::try_from(section.number("weight")).unwrap_or(WEIGHT);
    let address = section.parsed("address", server_address)?;
    let name = name.or(written).unwrap_or_else(|| address.to_string());
    named(cluster, place, path, &name);
    let priority = u32::try_from(section.number("priority")).unwrap_or(PRIORITY);
    Some(NodeConfig { name: name.into(), address, zone, tags, weight, priority })
}

fn named(cluster: &Section<'_>, place: Place, path: &str, name: &str) {
    if let Some(message) = bad_name(name) {
        cluster.walk.note(place, path.to_owned(), message);
    }
}

fn service(section: &Section<'_>, engine: Engine) -> Service {
    Service {
        user: section.required("user"),
        password: secret(section, "password"),
        database: if engine.speaks_mysql() { String::new() } else { section.required("database") },
    }
}

fn server_tls(section: &Section<'_>, nodes: &[NodeConfig]) -> ServerTls {
    let mode: ServerTlsMode = section.chosen("mode");
    let tls = ServerTls {
        mode,
        ca: section.file("ca"),
        certificate: section.file("certificate"),
        key: section.file("key"),
        direct: section.flag("direct"),
    };
    pair(section);
    let word = mode.word();
    let verifies = matches!(mode, ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull);
    if verifies && !section.has("ca") {
        section.contradiction("mode", format!("is `{word}`, which needs `ca`"));
    } else if !verifies && section.has("ca") {
        section.warn("ca", format!("has no effect while `mode` is `{word}`; only `verify-ca` and `verify-full` check the server's certificate"));
    }
    if mode == ServerTlsMode::Disable && (section.has("certificate") || section.has("key")) {
        section.contradiction("mode", "is `disable` although a certificate is given".to_owned());
    }
    let optional = matches!(mode, ServerTlsMode::Disable | ServerTlsMode::Prefer);
    if tls.direct && optional {
        section.contradiction(
            "direct",
            format!(
                "is `true`, which needs `mode: require`, `verify-ca` or `verify-full`, not `{word}`"
            ),
        );
    }
    tls_files(section, || ServerTlsConnector::new(&tls).err());
    let unix = nodes.iter().find(|node| matches!(node.address, Address::Unix { .. }));
    if let Some(node) = unix.filter(|_| !optional) {
        section.contradiction(
            "mode",
            format!(
                "is `{word}`, but node `{}` is a Unix socket, over which servers speak no TLS",
                node.name
            ),
        );
    }
    tls
}

fn pool(section: &Section<'_>) -> Pool {
    let pool = Pool {
        mode: section.chosen("mode"),
        size_max: section.number("size_max"),
        idle_min: section.number("idle_min"),
        idle_timeout: section.duration("idle_timeout"),
        lifetime_max: section.duration("lifetime_max"),
        wait_timeout: section.duration("wait_timeout"),
        waiting_max: section.number("waiting_max"),
        connect_timeout: section.duration("connect_timeout"),
        application_name_add_host: section.flag("application_name_add_host"),
        statements_max: section.number("statements_max"),
    };
    if pool.idle_min > pool.size_max {
        section.contradiction(
            "idle_min",
            format!("is {}, more than `size_max`, which is {}", pool.idle_min, pool.size_max),
        );
    }
    pool
}

fn monitor(section: &Section<'_>) -> Monitor {
    Monitor {
        interval: section.duration("interval"),
        timeout: section.duration("timeout"),
        failures: u32::try_from(section.number("failures")).unwrap_or(u32::MAX),
        catalog_interval: section.duration("catalog_interval"),
    }
}

fn routing(section: &Section<'_>) -> Routing {
    let routing = Routing {
        consistency: section.chosen("consistency"),
        lag_max: section.duration("max_lag"),
        lag_bytes_max: section.size("max_lag_bytes"),
        balance: section.chosen("balance"),
        on_lag: section.chosen("on_lag"),
        catchup_wait: section.duration("catchup_wait"),
        read_functions: section.texts("read_functions"),
        write_functions: section.texts("write_functions"),
    };
    for name in routing.read_functions.iter().filter(|name| routing.write_functions.contains(name))
    {
        section.contradiction(
            "write_functions",
            format!("`{name}` is also in `read_functions`; must be in one of them"),
        );
    }
    routing
}

fn gate(section: &Section<'_>) -> Gate {
    Gate { hold: section.duration("hold"), waiting_max: section.number("waiting_max") }
}
