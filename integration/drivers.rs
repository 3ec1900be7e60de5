//! Drivers and what is built on them, each with a program of its own in `integration/drivers/`.
//!
//! One cluster with the proxy in front, TLS everywhere, serves all. A program runs at the same
//! time against the proxy and, as a control, against the primary itself, each in a database of
//! its own, and prints `version NAME VERSION` and for each check `ok NAME` or `not ok NAME: why`.
//! `scripts/install-drivers.sh` installs what the programs need. While you work on one of them:
//! `TIFFIN_DRIVERS=asyncpg,pgjdbc cargo nextest run --test integration drivers:: --no-capture`.

use crate::support::certificates::{Authority, Files, text};
use crate::support::{Fixture, PATIENCE, binary, wait_until};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::binaries::Binaries;
use tiffin::cli::sandbox::servers::{Login, Tls};

/// A program takes three to ten seconds on a machine that does nothing else.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(200);
/// Drivers at a time, each twice. With more, probes are late on two cores, and reads leave the
/// replicas.
const AT_ONCE: usize = 2;
/// Lines of a failed program's standard error that are shown.
const STDERR_LINES_MAX: usize = 60;

#[derive(Clone, Copy)]
pub enum Language {
    Python,
    Node,
    Java,
    Rust,
}
use Language::{Java, Node, Python, Rust};

/// Checks that hold directly and need not hold through the proxy: driver, check, reason.
pub type Differs = &'static [(&'static str, &'static str, &'static str)];

/// Name, which is also the database's, and program.
const DRIVERS: &[(&str, Language, &str)] = &[
    ("psycopg_sync", Python, "psycopg_sync.py"),
    ("psycopg_async", Python, "psycopg_async.py"),
    ("asyncpg", Python, "asyncpg_driver.py"),
    ("sqlalchemy", Python, "sqlalchemy_orm.py"),
    ("django", Python, "django_orm.py"),
    ("node_postgres", Node, "node_postgres.js"),
    ("postgres_js", Node, "postgres_js.js"),
    ("pgjdbc", Java, "Jdbc.java"),
    ("tokio_postgres", Rust, "driver-tokio-postgres"),
    ("sqlx", Rust, "driver-sqlx"),
    ("pgbench", Python, "pgbench.py"),
];

const DIFFERS: Differs = &[(
    "django",
    "a_test_database_comes_and_goes",
    "idle connections keep DROP DATABASE from working",
)];

/// Where a program connects to.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Proxied,
    Direct,
}

#[test]
fn drivers_see_what_they_see_without_the_proxy() {
    let (authority, files) = (Authority::new("lunch"), Files::new());
    let ca = files.write("ca.crt", &authority.pem());
    let fixture = start(&authority, &files, &ca);
    let chosen = std::env::var("TIFFIN_DRIVERS").unwrap_or_default();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.split(',').any(|word| word == name);
    let mut problems = Vec::new();
    let mut checks = 0;
    let started = Instant::now();
    let todo = Mutex::new(DRIVERS.iter().filter(|(name, ..)| is_chosen(name)));
    let next = || todo.lock().unwrap().next();
    let work = || std::iter::from_fn(next).map(|driver| run(&fixture, &ca, driver)).collect();
    let results: Vec<(usize, Vec<String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        results.flat_map(|done: Vec<_>| done).collect()
    });
    for (number, found) in results {
        checks += number;
        problems.extend(found);
    }
    println!("measured: {checks} checks of drivers in {:.1} s", started.elapsed().as_secs_f64());
    problems.extend(left_behind(&fixture));
    print_shares(&fixture);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Runs a driver's program; the number of its checks and what is wrong.
fn run(
    fixture: &Fixture,
    ca: &Path,
    (name, language, program): &(&str, Language, &str),
) -> (usize, Vec<String>) {
    let [proxied, direct] = run_both_ways(fixture, ca, name, || command(*language, program));
    println!(
        "measured: {}: {} checks, {:.1} s through the proxy, {:.1} s directly",
        proxied.version,
        proxied.ok.len(),
        proxied.seconds,
        direct.seconds,
    );
    let mut problems = problems_of(name, DIFFERS, &proxied, &direct);
    if !fixture.proxy.is_running() {
        problems.push(format!("the proxy ended during {name}"));
    }
    let drop = format!("DROP DATABASE {name}_direct WITH (FORCE)");
    fixture.cluster.primary().execute(&drop).unwrap();
    (proxied.ok.len(), problems)
}

/// One primary with two replicas and the proxy; everybody speaks TLS with verified names and logs
/// in with SCRAM.
fn start(authority: &Authority, files: &Files, ca: &Path) -> Fixture {
    let (certificate, key) = files.pair("proxy", authority.sign("proxy"));
    let (server_certificate, server_key) = authority.sign("server");
    let clients =
        json!({ "mode": "require", "certificate": text(&certificate), "key": text(&key) });
    let servers = json!({ "mode": "verify-full", "ca": text(ca) });
    Fixture::build()
        .options(move |options| {
            let (certificate, key) = (server_certificate, server_key);
            options.tls = Some(Tls { certificate, key, client_ca: None });
        })
        .hba(&["hostssl all all 127.0.0.1/32 scram-sha-256"])
        // Django's test runner makes databases.
        .sql("ALTER ROLE app CREATEDB")
        .config(|config| config["tls"] = clients)
        .key("tls", servers)
        // Where reads go is asked below; a busy machine's lag shall not decide it.
        .key("routing.max_lag", "5min")
        .start()
}

/// What runs a program with its arguments, but for its surroundings.
pub fn command(language: Language, program: &str) -> Command {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/drivers");
    let installed = installed();
    let mut words = program.split(' ');
    let program = words.next().unwrap_or_default();
    let mut command = match language {
        Python => {
            let mut command = Command::new(installed.join("python/bin/python"));
            command.arg("-B").arg(sources.join("python").join(program));
            command
        }
        Node => {
            let mut command = Command::new(installed.join("bin/node"));
            command.arg(sources.join("node").join(program));
            command.env("NODE_PATH", installed.join("node/node_modules"));
            command
        }
        Java => {
            let jars = ["postgresql", "mariadb-java-client", "HikariCP", "slf4j-api", "slf4j-nop"];
            let jars = jars.map(|name| format!("/usr/share/java/{name}.jar")).join(":");
            let mut command = Command::new("java");
            command.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", &jars]);
            command.arg(sources.join("java").join(program));
            command
        }
        Rust => Command::new(binary().with_file_name(program)),
    };
    command.args(words);
    command
}

/// Where `scripts/install-drivers.sh` has installed things, by the present lists.
fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("drivers");
    for (name, list) in [("python", "requirements.txt"), ("node", "package-lock.json")] {
        let wanted = root.join("integration/drivers").join(name).join(list);
        let found = folder.join(name).join(".installed");
        assert!(
            fs::read(&found).ok() == fs::read(&wanted).ok(),
            "the drivers of {} are not installed: run scripts/install-deps.sh drivers and \
             scripts/install-drivers.sh",
            wanted.display()
        );
    }
    folder
}

/// What a program said.
pub struct Outcome {
    pub version: String,
    pub ok: BTreeSet<String>,
    failed: BTreeSet<String>,
    pub seconds: f64,
    /// Empty if all is well.
    complaint: String,
}

/// Runs a program against the proxy and against the primary, at the same time.
fn run_both_ways(
    fixture: &Fixture,
    ca: &Path,
    name: &str,
    command: impl Fn() -> Command,
) -> [Outcome; 2] {
    let primary = fixture.cluster.primary();
    for way in ["proxied", "direct"] {
        primary.execute(&format!("CREATE DATABASE {name}_{way} OWNER app")).unwrap();
    }
    fixture.cluster.wait_caught_up(primary).unwrap();
    let spawn = |way| spawn(fixture, ca, name, way, command());
    outcomes([spawn(Way::Proxied), spawn(Way::Direct)])
}

/// Waits for both, for as long as a program may take.
pub fn outcomes(mut running: [Running; 2]) -> [Outcome; 2] {
    // Also the one that ends first is asked how long it took.
    let all_ended = || running.iter_mut().filter_map(Running::still_runs).count() == 0;
    let _ = wait_until(PROGRAM_TIMEOUT, all_ended);
    running.map(Running::finish)
}

/// A program at work; its output goes to files in the folder that it runs in.
pub struct Running {
    title: String,
    child: Child,
    folder: PathBuf,
    started: Instant,
    took: Option<Duration>,
}

fn spawn(fixture: &Fixture, ca: &Path, name: &str, way: Way, mut command: Command) -> Running {
    let cluster = &fixture.cluster;
    let ports = |servers: &[&tiffin::cli::sandbox::servers::Server]| {
        servers.iter().map(|server| server.port.to_string()).collect::<Vec<_>>().join(",")
    };
    let (way_name, port, read_ports) = match way {
        Way::Proxied => {
            ("proxied", fixture.proxy.port, ports(&cluster.replicas().iter().collect::<Vec<_>>()))
        }
        Way::Direct => ("direct", cluster.primary().port, ports(&[cluster.primary()])),
    };
    let database = format!("{name}_{way_name}");
    // The cluster's folder: whatever runs there ends with the servers.
    let folder = cluster.folder().join(&database);
    command
        .env("READ_PORTS", read_ports)
        .env("PRIMARY_PORT", cluster.primary().port.to_string())
        .env("PG_BIN", Binaries::find().unwrap().folder());
    surround(&mut command, port, &cluster.app, &database, ca);
    Running::start(format!("{name}, {way_name}"), folder, command)
}

/// Where a program connects to, by the names that libpq has for it; those for other servers read
/// the same ones.
pub fn surround(command: &mut Command, port: u16, login: &Login, database: &str, ca: &Path) {
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", &login.user)
        .env("PGPASSWORD", &login.password)
        .env("PGDATABASE", database)
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", ca);
}

/// The same command behind the servers and the proxy, whose probes shall be on time.
fn politely(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.arg("-n").arg("10").arg(command.get_program()).args(command.get_args());
    nice.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    nice
}

impl Running {
    /// Starts a program in a new folder.
    pub fn start(title: String, folder: PathBuf, mut command: Command) -> Running {
        fs::create_dir(&folder).unwrap();
        let mut command = politely(command.env("LC_ALL", "C.UTF-8").current_dir(&folder));
        command
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("stdout")).unwrap())
            .stderr(File::create(folder.join("stderr")).unwrap());
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{:?}: {error}; run scripts/install-deps.sh drivers", command.get_program())
        });
        Running { title, child, folder, started, took: None }
    }

    /// Notes when it ended.
    fn still_runs(&mut self) -> Option<()> {
        if self.took.is_none() && !matches!(self.child.try_wait(), Ok(None)) {
            self.took = Some(self.started.elapsed());
        }
        self.took.is_none().then_some(())
    }

    fn finish(mut self) -> Outcome {
        if self.took.is_none() {
            let _ = self.child.kill();
        }
        let seconds = self.took.unwrap_or(PROGRAM_TIMEOUT).as_secs_f64();
        let status = self.child.wait().unwrap();
        let read =
            |name| String::from_utf8_lossy(&fs::read(self.folder.join(name)).unwrap()).into_owned();
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        let lines = |prefix: &str| {
            let found = stdout.lines().filter_map(|line| line.strip_prefix(prefix));
            found.map(str::to_string).collect::<Vec<_>>()
        };
        let version = lines("version ").pop().unwrap_or_else(|| self.title.clone());
        let ok: BTreeSet<String> = lines("ok ").into_iter().collect();
        let failed = lines("not ok ");
        let failed = failed.iter().filter_map(|line| line.split_once(':'));
        let failed: BTreeSet<String> = failed.map(|(name, _)| name.to_string()).collect();
        let mut complaint = String::new();
        if self.took.is_none() || !status.success() || !failed.is_empty() || ok.is_empty() {
            let late = self.took.is_none();
            let why = if late { "did not end in time".into() } else { status.to_string() };
            let skip = stderr.lines().count().saturating_sub(STDERR_LINES_MAX);
            let said: Vec<&str> = stderr.lines().skip(skip).collect();
            complaint = format!("{}: {why}\n{stdout}{}\n", self.title, said.join("\n"));
        }
        Outcome { version, ok, failed, seconds, complaint }
    }
}

/// What is wrong with a program's two runs.
pub fn problems_of(name: &str, list: Differs, proxied: &Outcome, direct: &Outcome) -> Vec<String> {
    let differs = list.iter().filter(|(driver, ..)| *driver == name);
    let differs: BTreeSet<String> = differs.map(|(_, check, _)| check.to_string()).collect();
    let mut problems = Vec::new();
    if !direct.complaint.is_empty() {
        problems.push(direct.complaint.clone());
    }
    // A program that did not come to its end has no failed check at its end.
    let excused = !proxied.failed.is_empty() && proxied.failed.is_subset(&differs);
    if !proxied.complaint.is_empty() && !excused {
        problems.push(proxied.complaint.clone());
    }
    for (_, check, why) in list.iter().filter(|(driver, ..)| *driver == name) {
        if proxied.failed.contains(*check) {
            println!("measured: {name} differs in {check}: {why}");
        }
    }
    let all = proxied.ok.union(&proxied.failed).collect::<BTreeSet<_>>();
    if problems.is_empty() && all != direct.ok.iter().collect() {
        problems.push(format!("{name}: other checks than directly"));
    }
    problems
}

/// When every program has ended, nobody holds anything any more.
fn left_behind(fixture: &Fixture) -> Option<String> {
    let held = || {
        let metrics = fixture.metrics();
        metrics.sum("tiffin_pinned_sessions", &[])
            + metrics.sum("tiffin_clients", &[])
            + metrics.sum("tiffin_pool_connections", &[("state", "active")])
    };
    wait_until(PATIENCE, || held() == 0.0).err().map(|_| {
        let (_, text) = fixture.proxy.get("/metrics").unwrap();
        let words = ["tiffin_pinned_sessions", "tiffin_clients", "tiffin_pool_connections"];
        let lines = text.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
        format!("left behind: {}", lines.collect::<Vec<_>>().join("\n"))
    })
}

/// How much of it all ran on replicas, and why the rest did not.
fn print_shares(fixture: &Fixture) {
    let metrics = fixture.metrics();
    let all = metrics.sum("tiffin_routed_total", &[]);
    for replica in fixture.cluster.replicas() {
        let here = metrics.sum("tiffin_routed_total", &[("node", &replica.name)]);
        println!("measured: {} ran {:.1} % of {all} statements", replica.name, here * 100.0 / all);
    }
    for name in ["tiffin_routed_total", "tiffin_unsafe_statements_total", "tiffin_pins_total"] {
        let mut reasons: Vec<String> = metrics
            .with(name, &[])
            .iter()
            .filter(|sample| sample.value > 0.0)
            .map(|sample| {
                let word = [sample.label("node"), sample.label("reason"), sample.label("pin")];
                format!("{} {}", word.join(" ").trim(), sample.value)
            })
            .collect();
        reasons.sort();
        println!("measured: {name}: {}", reasons.join(", "));
    }
}
