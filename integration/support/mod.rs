//! What every test stands on: [`Fixture`], a cluster of real servers with the built proxy in
//! front; [`Stage`] is the same for any engine, [`stand`] how it is set up for a scenario.
//! [`relay`] is a cable that can be cut, [`slow_disk`] makes disks slow, [`wire`] speaks raw bytes, [`psql`] is libpq,
//! [`versions`] is the second server version, [`mysql`] has clusters of MySQL and MariaDB,
//! [`etcd`] and [`patroni`] are these programs.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

pub mod certificates;
pub mod etcd;
pub mod mysql;
pub mod mysql_script;
pub mod mysql_wire;
pub mod patroni;
pub mod psql;
pub mod relay;
pub mod slow_disk;
pub mod stand;
pub mod versions;
pub mod wire;

use serde_json::Value;
pub(crate) use stand::on_every_engine;
pub use stand::{Stand, Which};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use tiffin::cli::sandbox::proxy::{self, Proxy};
pub use tiffin::cli::sandbox::servers::group::{Group, Member, Sql};
pub use tiffin::cli::sandbox::servers::query::sqlstate;
pub use tiffin::cli::sandbox::servers::{
    Cluster, Login, Mode, Options, Server, Session, client_config, query::Rows, wait_until,
};
pub(crate) use versions::on_postgres_18;

/// For everything that takes a few probe intervals; generous, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The built program.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tiffin"))
}

/// Where data directories are kept between runs.
pub fn cache() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")))
}

pub fn options() -> Options {
    Options { template_cache: cache(), binaries: versions::binaries(), ..Options::default() }
}

type Change = Box<dyn FnOnce(&Cluster, &mut Value)>;

/// What a test wants before it starts.
pub struct Builder {
    options: Options,
    changes: Vec<Change>,
    wait: bool,
}

/// A cluster of PostgreSQL and the proxy in front of it.
pub type Fixture = Stage<Server>;

/// A cluster and the proxy in front of it, with the cluster called `main`.
pub struct Stage<S: Member> {
    pub proxy: Proxy,
    pub cluster: Group<S>,
    /// What the proxy was started with.
    pub config: Value,
}

impl Builder {
    pub fn replicas(mut self, number: u16) -> Builder {
        self.options.replicas = number;
        self
    }

    /// Every server logs every statement: see [`Fixture::server_of_marker`].
    pub fn log_statements(self) -> Builder {
        self.setting("log_statement", "'all'")
    }

    /// A setting of all servers.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.options.settings.push((name.into(), value.into()));
        self
    }

    /// Lines of the servers' `pg_hba.conf`.
    pub fn hba(mut self, lines: &[&str]) -> Builder {
        self.options.hba = lines.iter().map(ToString::to_string).collect();
        self
    }

    /// A raw client logs in with two messages: nothing is encrypted, the password is sent as it is.
    pub fn clear_passwords(self) -> Builder {
        self.hba(&["host all all 127.0.0.1/32 password"])
            .key("tls.mode", "disable")
            .config(|config| config["auth"]["method"] = "password".into())
    }

    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Builder {
        change(&mut self.options);
        self
    }

    /// SQL on the new primary, in the database `postgres`, before the replicas are made.
    pub fn sql(mut self, sql: &str) -> Builder {
        self.options.init_sql.push(sql.into());
        self
    }

    /// Changes the proxy's configuration.
    pub fn config(self, change: impl FnOnce(&mut Value) + 'static) -> Builder {
        self.config_with(|_, config| change(config))
    }

    pub fn config_with(mut self, change: impl FnOnce(&Cluster, &mut Value) + 'static) -> Builder {
        self.changes.push(Box::new(change));
        self
    }

    /// A key of the cluster's section, as `routing.consistency`.
    pub fn key(self, path: &'static str, value: impl Into<Value>) -> Builder {
        let value = value.into();
        self.config(move |config| {
            let mut place = &mut config["clusters"]["main"];
            for word in path.split('.') {
                place = &mut place[word];
            }
            *place = value;
        })
    }

    /// Does not wait for the proxy to be ready.
    pub fn unready(mut self) -> Builder {
        self.wait = false;
        self
    }

    pub fn start(self) -> Fixture {
        let cluster = Cluster::start(self.options).expect("start the servers");
        let mut config = proxy::config(&cluster, 0).expect("free ports");
        for change in self.changes {
            change(&cluster, &mut config);
        }
        let proxy = Proxy::spawn(binary(), &cluster, &config).expect("start the proxy");
        let fixture = Fixture { proxy, cluster, config };
        if self.wait {
            fixture.proxy.wait_ready().expect("the proxy is ready");
            fixture.wait_in_read_set(fixture.cluster.replicas());
        }
        fixture
    }
}

impl Fixture {
    /// One primary, two replicas, the proxy's defaults.
    pub fn start() -> Fixture {
        Fixture::build().start()
    }

    pub fn build() -> Builder {
        Builder { options: options(), changes: Vec::new(), wait: true }
    }

    /// How the user `app` connects through the proxy.
    pub fn config(&self) -> tokio_postgres::Config {
        client_config(self.proxy.port, &self.cluster.app)
    }

    /// A session with other parameters.
    pub fn session_with(&self, change: impl FnOnce(&mut tokio_postgres::Config)) -> Session {
        let mut config = self.config();
        change(&mut config);
        Session::connect(&config).expect("connect to the proxy")
    }

    /// Which server logged a statement with this text; needs [`Builder::log_statements`].
    pub fn server_of_marker(&self, marker: &str) -> Option<&Server> {
        let logged = |server: &&Server| server.log().contains(marker);
        let mut found = self.cluster.servers().iter().filter(logged);
        let first = found.next();
        assert!(found.next().is_none(), "{marker} ran on two servers");
        first
    }
}

impl<S: Member> Stage<S> {
    /// A new session of the user `app` through the proxy.
    pub fn session(&self) -> S::Session {
        S::session(self.proxy.port, &self.cluster.app).expect("connect to the proxy")
    }

    /// What a new session answers to this, first column of the first row. For conditions that
    /// are waited for: while something changes, a login may fail as well.
    pub fn try_value(&self, sql: &str) -> anyhow::Result<String> {
        S::session(self.proxy.port, &self.cluster.app)?.value(sql)
    }

    /// Replaces the proxy's configuration and waits until it is in force for new sessions.
    pub fn reload(&self, config: &Value) {
        let reloads = || self.proxy.log().matches("the configuration was loaded again").count();
        let before = reloads();
        self.proxy.write_config(config).expect("write the configuration");
        self.proxy.signal("HUP").expect("tell the proxy");
        wait_until(PATIENCE, || reloads() > before)
            .unwrap_or_else(|_| panic!("it is not loaded again:\n{}", self.proxy.log()));
    }

    /// A session of `app` with a server itself.
    pub fn direct(&self, server: &S) -> S::Session {
        S::session(server.port, &self.cluster.app).expect("connect directly")
    }

    /// The name of the server that ran this statement, whose first column must be
    /// its [`Member::OWN_PORT`].
    pub fn ran_on(&self, session: &S::Session, sql: &str) -> String {
        let port = session.value(sql).unwrap_or_else(|error| panic!("{error:#}"));
        self.name_of(&port)
    }

    pub fn name_of(&self, port: &str) -> String {
        let server = port.parse().ok().and_then(|port| self.cluster.by_port(port));
        server.unwrap_or_else(|| panic!("no server has the port {port:?}")).name.clone()
    }

    /// How many of `count` reads each server ran, each in a new session: one that goes on
    /// reading stays with its replica, as another one might be older.
    pub fn share(&self, count: usize) -> BTreeMap<String, usize> {
        let mut share = BTreeMap::new();
        for _ in 0..count {
            let name = self.ran_on(&self.session(), &format!("SELECT {}", S::OWN_PORT));
            *share.entry(name).or_default() += 1;
        }
        share
    }

    /// Makes a table through the proxy and waits until reads of it go to replicas: the catalog
    /// has to be loaded again first.
    pub fn create_table(&self, name: &str, columns: &str) {
        let create = format!("CREATE TABLE {name} ({columns})");
        self.session().query(&create).expect("create the table");
        if self.cluster.replicas().is_empty() {
            return;
        }
        let primary = self.cluster.primary();
        primary.wait_caught_up(&self.cluster).expect("replicas catch up");
        let read = format!("SELECT {}, count(*) FROM {name}", S::OWN_PORT);
        let port = primary.port.to_string();
        let known = || self.try_value(&read).is_ok_and(|ran_on| ran_on != port);
        wait_until(PATIENCE, known).unwrap_or_else(|_| panic!("{name} is not known"));
    }

    /// Waits until these, and of the others none, are in the read set.
    pub fn wait_in_read_set<'a>(&self, servers: impl IntoIterator<Item = &'a S>)
    where
        S: 'a,
    {
        let mut expected: Vec<&str> = servers.into_iter().map(|s| s.name.as_str()).collect();
        expected.sort_unstable();
        let waited = wait_until(PATIENCE, || {
            let metrics = self.metrics();
            let replicas = metrics.with("tiffin_node_role", &[("role", "replica")]);
            let is_replica = |name: &str| {
                replicas.iter().any(|sample| sample.label("node") == name && sample.value == 1.0)
            };
            let readable = metrics.with("tiffin_node_in_read_set", &[]);
            let mut names: Vec<&str> = readable
                .iter()
                .filter(|sample| sample.value == 1.0 && is_replica(sample.label("node")))
                .map(|sample| sample.label("node"))
                .collect();
            names.sort_unstable();
            names == expected
        });
        if waited.is_err() {
            let topology = self.proxy.get("/api/v1/topology").map(|(_, body)| body);
            panic!("the read set does not become {expected:?}: {topology:?}\n{}", self.proxy.log());
        }
    }

    /// Waits until the proxy takes this server for the primary.
    pub fn wait_primary(&self, server: &S) {
        let labels = [("role", "primary"), ("node", server.name.as_str())];
        wait_until(PATIENCE, || self.metrics().sum("tiffin_node_role", &labels) == 1.0)
            .unwrap_or_else(|_| {
                panic!("{} is not seen as primary\n{}", server.name, self.proxy.log())
            });
    }

    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.proxy.get("/metrics").expect("metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Memory of the proxy that is resident, in bytes.
    pub fn rss(&self) -> u64 {
        let pid = self.proxy.pid().expect("the proxy runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl<S: Member> Drop for Stage<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the proxy's log:\n{}", self.proxy.log());
        }
    }
}

/// One line of `/metrics`.
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

pub struct Metrics(pub Vec<Sample>);

impl Metrics {
    /// The text format of Prometheus; label values here hold no escapes.
    pub fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Metrics(lines.map(parse_sample).collect())
    }

    /// Samples of this name that have all of these labels.
    pub fn with(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, word)| sample.label(key) == *word)
        };
        self.0.iter().filter(fits).collect()
    }

    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).iter().map(|sample| sample.value).sum()
    }
}

fn parse_sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter(|part| !part.is_empty());
    let labels = labels.map(|part| {
        let (key, value) = part.split_once("=\"").expect("a label");
        (key.to_string(), value.trim_end_matches('"').to_string())
    });
    let value = match value {
        "+Inf" => f64::INFINITY,
        text => text.parse().expect("a number"),
    };
    Sample { name: name.into(), labels: labels.collect(), value }
}

/// The SQLSTATE of a result that must be an error.
pub fn state_of<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => match sqlstate(&error) {
            Some(state) => state.to_string(),
            None => panic!("an error without SQLSTATE: {error:#}"),
        },
    }
}

/// A runtime for tests that hold many connections at once.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An asynchronous connection.
pub async fn connect(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(async { connection.await.ok() });
    client
}

/// From now on no commit on this server is confirmed. Its checkpointer tells committers of that, a moment
/// after it was told itself (`SyncRepUpdateSyncStandbysDefined`): commits are tried until one waits.
pub fn confirm_nothing(primary: &Server) {
    primary.set("synchronous_standby_names", "'nobody'").unwrap();
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waits = || primary.value(&format!("SELECT count(*) {waiting}")).is_ok_and(|n| n != "0");
    std::thread::scope(|scope| {
        let try_one = || {
            let trial = "SELECT pg_logical_emit_message(true, 'trial', '')";
            let trial = scope.spawn(move || primary.execute(trial));
            wait_until(PATIENCE, || trial.is_finished() || waits()).expect("it waits, or is done");
            !trial.is_finished()
        };
        wait_until(PATIENCE, try_one).expect("no commit is confirmed");
        primary.execute(&format!("SELECT pg_cancel_backend(pid) {waiting}")).unwrap();
    });
}
