//! From the file to the checked [`Config`]: reading, the top-level sections, and the report.
//!
//! Users are in `users.rs`, clusters in `cluster.rs`. Every function notes problems in the walk
//! and goes on; whether there were any is asked once, at the end.

use super::file::{self, Place};
use super::problem::{PROBLEMS_MAX, Problem, Problems};
use super::secret::secret;
use super::section::{Noted, Section, Walk};
use super::tls::{self, TlsError};
use super::{
    Auth, AuthMethod, ClientTls, ClientTlsMode, Cluster, Config, Limits, Listen, ListenAddress,
    Log, Shutdown, cluster, units, users,
};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Twenty thousand users with their verifiers fit twice over.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Each problem that is told costs one more look at the text (`file.rs`): some 20 MiB a second,
/// and nobody waits longer than a few seconds for the lines.
const LOOK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Told however large the file is.
const PROBLEMS_MIN: usize = 10;
/// Where clients connect if the file does not say.
const POSTGRES_PORT: u16 = 6432;
const MYSQL_PORT: u16 = 6306;

/// A valid configuration and what should nevertheless be told.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Not fatal: readable password files, settings without effect. May be empty.
    pub warnings: Problems,
}

impl Config {
    /// Reads a file and the secrets that it names. Warnings are logged.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let loaded = Config::load_with_warnings(path)?;
        for warning in &loaded.warnings.list {
            tracing::warn!(line = warning.line, key = %warning.key, "configuration: {}", warning.message);
        }
        Ok(loaded.config)
    }

    /// Reads a file and the secrets that it names.
    pub fn load_with_warnings(path: &Path) -> Result<Loaded, Problems> {
        let name = path.display().to_string();
        let text = read_file(path)
            .map_err(|fault| Problems::of_file(&name, format!("cannot read the file: {fault}")))?;
        let base = path.parent().unwrap_or(Path::new(""));
        Config::parse(&name, &text, base, &|variable| std::env::var(variable).ok())
    }

    /// Checks a text. `file` is the name for messages, relative file names start at `base`, and
    /// `env` gives the environment's variables.
    pub fn parse(
        file: &str,
        text: &str,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Problems> {
        let tree = file::read(text).map_err(|error| {
            let file::Position { line, column } = error.position;
            let problem = Problem { line, column, key: String::new(), message: error.message };
            Problems { file: file.to_owned(), list: vec![problem], left_out: 0 }
        })?;
        let walk = Walk::new(base, env);
        let config = config(&Section::root(&walk, &tree));
        let noted = walk.noted.take();
        let (warnings, errors): (Vec<Noted>, Vec<Noted>) =
            noted.into_iter().partition(|noted| noted.warning);
        if !errors.is_empty() {
            return Err(report(file, text, errors));
        }
        Ok(Loaded { config, warnings: report(file, text, warnings) })
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {}", units::write_size(FILE_BYTES_MAX)));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// Looks the lines up and sorts by them.
fn report(file: &str, text: &str, mut noted: Vec<Noted>) -> Problems {
    noted.sort_by_key(|noted| noted.place);
    let told_max = (LOOK_BYTES_MAX / text.len().max(1)).clamp(PROBLEMS_MIN, PROBLEMS_MAX);
    let left_out = noted.len().saturating_sub(told_max);
    noted.truncate(told_max);
    let problem = |noted: Noted| {
        let file::Position { line, column } = file::locate(text, noted.place);
        Problem { line, column, key: noted.key, message: noted.message }
    };
    Problems { file: file.to_owned(), list: noted.into_iter().map(problem).collect(), left_out }
}

pub(super) fn config(root: &Section<'_>) -> Config {
    let auth = auth(&root.section("auth"));
    let client_tls = client_tls(&root.section("tls"));
    let users = users::users(root, &auth, &client_tls);
    let clusters = cluster::clusters(root);
    Config {
        listen: listen(&root.section("listen"), &clusters),
        api_token: secret(&root.section("api"), "token"),
        workers: workers(root),
        limits: limits(&root.section("limits")),
        client_tls,
        auth,
        users,
        clusters,
        log: log(&root.section("log")),
        shutdown: Shutdown { drain_timeout: root.section("shutdown").duration("drain_timeout") },
    }
}

/// `auto` is half the cores: a worker with more clients takes more of their requests per turn of
/// its event loop, which costs a sixth less per query than twice as many workers, and one core
/// carries what several servers answer.
fn workers(root: &Section<'_>) -> usize {
    let auto = || std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    root.count("workers").and_then(|count| usize::try_from(count).ok()).unwrap_or_else(auto)
}

fn listen(section: &Section<'_>, clusters: &[Arc<Cluster>]) -> Listen {
    let mut taken = Vec::new();
    let is_mysql = |cluster: &Arc<Cluster>| cluster.engine.speaks_mysql();
    // A file whose clusters are wrong is checked as if they were PostgreSQL's.
    let has_mysql = clusters.iter().any(is_mysql);
    let has_postgres = !has_mysql || clusters.iter().any(|cluster| !is_mysql(cluster));
    let postgres = section.parsed_list("postgres", units::listen_postgres);
    let postgres =
        addresses(section, ("postgres", POSTGRES_PORT), postgres, has_postgres, &mut taken);
    let mysql = section.parsed_list("mysql", units::listen_mysql);
    let mysql = addresses(section, ("mysql", MYSQL_PORT), mysql, has_mysql, &mut taken);
    let http = http(section);
    if let Some(http) = http
        && let Some(message) = collision(&taken, &ListenAddress::Tcp(http))
    {
        section.contradiction("http", message);
    }
    Listen { postgres, mysql, http }
}

/// The addresses of one protocol's listeners; none if they are not to be opened.
fn addresses(
    section: &Section<'_>,
    (name, default_port): (&str, u16),
    mut listed: Vec<(Place, String, ListenAddress)>,
    opened: bool,
    taken: &mut Vec<ListenAddress>,
) -> Vec<ListenAddress> {
    if !opened {
        return Vec::new();
    }
    if !section.has(name) {
        let address = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], default_port)));
        listed.push((section.place, section.path_of(name), address));
    } else if section
        .value(name)
        .is_some_and(|node| matches!(&node.value, file::Value::List(items) if items.is_empty()))
    {
        section.note(name, "must name at least one address".to_owned());
    }
    let mut addresses = Vec::new();
    for (place, path, address) in listed {
        match collision(taken, &address) {
            Some(message) => section.walk.note(place, path, message),
            None => {
                taken.push(address.clone());
                addresses.push(address);
            }
        }
    }
    addresses
}

fn http(section: &Section<'_>) -> Option<SocketAddr> {
    match section.text("http")?.as_str() {
        "none" => None,
        text => units::socket_address(text)
            .map_err(|message| section.note("http", format!("{message}, or `none`")))
            .ok(),
    }
}

/// Why an address cannot be listened on beside the others.
fn collision(others: &[ListenAddress], new: &ListenAddress) -> Option<String> {
    let same = |other: &&ListenAddress| match (other, new) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let covers = a.ip() == b.ip()
                || (a.is_ipv4() == b.is_ipv4()
                    && (a.ip().is_unspecified() || b.ip().is_unspecified()));
            covers && a.port() == b.port() && a.port() != 0
        }
        (a, b) => *a == b,
    };
    others
        .iter()
        .find(same)
        .map(|_| "is already listened on by another address of `listen`".to_owned())
}

fn limits(section: &Section<'_>) -> Limits {
    Limits {
        clients_max: section.number("clients_max"),
        startup_timeout: section.duration("startup_timeout"),
        message_timeout: section.duration("message_timeout"),
        write_timeout: section.duration("write_timeout"),
        parse_bytes_max: section
            .size("parse_bytes_max")
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(0),
        auth_delay: section.duration("auth_delay"),
        client_statements_max: section.number("client_statements_max"),
        client_portals_max: section.number("client_portals_max"),
        client_messages_max: section.number("client_messages_max"),
        classify_cache_max: section.number("classify_cache_max"),
    }
}

fn client_tls(section: &Section<'_>) -> ClientTls {
    let mode: ClientTlsMode = section.chosen("mode");
    let tls = ClientTls {
        mode,
        certificate: section.file("certificate"),
        key: section.file("key"),
        client_ca: section.file("client_ca"),
    };
    pair(section);
    let word = super::Word::word(mode);
    if mode == ClientTlsMode::Disable {
        if section.has("certificate") || section.has("client_ca") {
            section.contradiction("mode", "is `disable` although certificates are given; must be `allow`, `require`, `verify-ca` or `verify-full`, or the files left out".to_owned());
        }
    } else if !section.has("certificate") && !section.has("key") {
        section.contradiction("mode", format!("is `{word}`, which needs `certificate` and `key`"));
    }
    tls_files(section, || tls::ClientTlsAcceptor::new(&tls).err());
    let verifies = matches!(mode, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull);
    if verifies && !section.has("client_ca") {
        section.contradiction("mode", format!("is `{word}`, which needs `client_ca`"));
    } else if !verifies && mode != ClientTlsMode::Disable && section.has("client_ca") {
        section.warn("client_ca", format!("has no effect while `mode` is `{word}`; only `verify-ca` and `verify-full` ask for client certificates"));
    }
    tls
}

/// Certificates and keys that can be read must also be some, and fit each other. `open` reads
/// them; it is not asked if something is wrong with the section already.
pub(super) fn tls_files(section: &Section<'_>, open: impl Fn() -> Option<TlsError>) {
    if section.is_faulty() {
        return;
    }
    let Some(error) = open() else { return };
    let path = match &error {
        TlsError::File { path, .. } | TlsError::NoCertificate { path } => Some(path.clone()),
        TlsError::Missing { .. } | TlsError::Unusable(_) => None,
    };
    let names = ["certificate", "key", "client_ca", "ca"];
    let is_it = |name: &&str| section.names_file(name, path.as_deref());
    section.note(names.into_iter().find(is_it).unwrap_or("certificate"), error.to_string());
}

/// A certificate and its key only make sense together.
pub(super) fn pair(section: &Section<'_>) {
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(one) && !section.has(other) {
            section.note(one, format!("needs `{other}` beside it"));
        }
    }
}

fn auth(section: &Section<'_>) -> Auth {
    let query = section.text("query");
    if let Some(text) = &query
        && !text.contains("$1")
    {
        section.note("query", "must contain `$1`, which stands for the user's name".to_owned());
    }
    let accounts = section.flag("accounts");
    if query.is_none() && !accounts && section.has("query_cache") {
        section.warn("query_cache", "has no effect without `query` or `accounts`".to_owned());
    }
    let method: AuthMethod = section.chosen("method");
    if method == AuthMethod::Trust {
        section.warn(
            "method",
            "is `trust`: whoever reaches a listening address is let in as any user".to_owned(),
        );
    }
    Auth { method, query, accounts, query_cache: section.duration("query_cache") }
}

fn log(section: &Section<'_>) -> Log {
    let level = section.text("level").unwrap_or_default();
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
        section.note(
            "level",
            format!("is not understood: {error}; must be as `info` or `info,tiffin::pool=debug`"),
        );
    }
    Log { format: section.chosen("format"), level }
}
