//! The same messages, sent to the primary itself and to the proxy in front of it and of two
//! replicas, must be answered alike: every message, byte for byte.
//!
//! The cases are data: `integration/data/differential/*.txt`, with their format in the README
//! beside them. `TIFFIN_CASES=word` runs only those with the word in their name or file.
//!
//! - [`script`]: the files.
//! - [`run`]: one run of a case against one port.
//! - [`transcript`]: what is left out because it is another number in each run (process ids,
//!   cancel keys, OIDs of what the run itself has made), and the printed difference.
//!
//! Each run finds the same database: what the one before has written is made anew, and the
//! replicas have it. Sessions are told apart by nothing: the second run through the proxy works
//! on server connections that other cases have used.

mod run;
mod script;
mod transcript;

use crate::support::{Fixture, PATIENCE, Server, Session, client_config, wait_until};
use run::{Login, Played, play};
use script::Case;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Ends of server processes are waited for so long.
const ENDS_MAX: Duration = Duration::from_secs(20);

/// Roles of the cases, made once: `app` may become `friend`, not `stranger`.
const ROLES: &str = "CREATE ROLE friend; GRANT friend TO app; CREATE ROLE stranger;
    GRANT CREATE ON DATABASE app TO friend";

/// What a case may leave behind besides its schema.
const CLEAN: &str = "SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
    ALTER ROLE app RESET ALL; ALTER DATABASE app RESET ALL";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/data/differential")
}

#[test]
fn the_proxy_answers_as_the_server_does() {
    let wanted = std::env::var("TIFFIN_CASES").unwrap_or_default();
    let all = cases();
    let number = all.len();
    let cases: Vec<Case> = all
        .into_iter()
        .filter(|case| case.name.contains(&wanted) || case.place.contains(&wanted))
        .collect();
    let stage = Stage::start();
    let started = Instant::now();
    let wrong: Vec<String> = cases.iter().filter_map(|case| stage.compare(case)).collect();
    let metrics = stage.fixture.metrics();
    let on = |server: &Server| metrics.sum("tiffin_routed_total", &[("node", &server.name)]);
    let routed: Vec<f64> = stage.fixture.cluster.servers().iter().map(on).collect();
    let known = cases.iter().filter(|case| case.differs.is_some()).count();
    println!(
        "measured: {} cases of wire messages in {:?}, {} differ, {known} as documented; \
         requests by server: {routed:?}",
        cases.len(),
        started.elapsed(),
        wrong.len(),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(number >= 300, "only {number} cases");
    let each_serves = routed.iter().all(|requests| *requests >= 50.0);
    assert!(each_serves || !wanted.is_empty(), "a server had next to nothing to do: {routed:?}");
}

#[test]
fn names_of_cases_are_unique() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    names.sort_unstable();
    let twice: Vec<&[String]> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

fn cases() -> Vec<Case> {
    let entries = std::fs::read_dir(folder()).expect("the cases");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.iter().flat_map(|path| script::read(path)).collect()
}

/// The servers, the proxy, and what brings both back to the start between runs.
struct Stage {
    fixture: Fixture,
    schema: String,
    superuser: Session,
    replicas: Vec<Session>,
}

impl Stage {
    fn start() -> Stage {
        let fixture = Fixture::build()
            .hba(&["host all all 127.0.0.1/32 password"])
            .config(|config| config["auth"]["method"] = "password".into())
            .start();
        let cluster = &fixture.cluster;
        let connect = |server: &Server| {
            let mut config = client_config(server.port, &cluster.superuser);
            config.dbname("app").application_name("stage");
            Session::connect(&config).expect("connect to a server")
        };
        let superuser = connect(cluster.primary());
        let replicas = cluster.replicas().iter().map(connect).collect();
        superuser.query(ROLES).expect("the roles");
        let schema = std::fs::read_to_string(folder().join("schema.sql")).expect("the schema");
        let stage = Stage { schema, superuser, replicas, fixture };
        stage.reset();
        let read = "SELECT inet_server_port(), count(*) FROM item";
        let primary = &stage.fixture.cluster.primary().name;
        let known = || stage.fixture.ran_on(&stage.fixture.session(), read) != *primary;
        wait_until(PATIENCE, known).expect("the tables are known to the proxy");
        stage
    }

    /// How the proxy differs from the server in this case, if it does.
    fn compare(&self, case: &Case) -> Option<String> {
        let cluster = &self.fixture.cluster;
        let before = self.position();
        let direct = self.play(case, cluster.primary().port);
        if direct.hung {
            // Nothing behind that step would be compared, and each run would take its time.
            return Some(format!("{} ({}) waits in vain without the proxy", case.name, case.place));
        }
        self.wait_for_end_of(&direct.process_ids);
        self.reset_since(&before);
        // The first run meets whatever connections there are, the second those of the first.
        for pass in ["", " when repeated"] {
            let before = self.position();
            let proxied = self.play(case, self.fixture.proxy.port);
            self.reset_since(&before);
            let found = transcript::difference(case, &direct.transcript, &proxied.transcript);
            if case.differs.is_some() && pass.is_empty() {
                // It may take the connections of another run to show.
                continue;
            }
            if let Some(difference) = found {
                return Some(format!(
                    "{} ({}) differs{pass}:\n{difference}",
                    case.name, case.place
                ));
            }
        }
        None
    }

    fn play(&self, case: &Case, port: u16) -> Played {
        let cluster = &self.fixture.cluster;
        let login = match case.user.as_str() {
            "postgres" => &cluster.superuser,
            _ => &cluster.app,
        };
        play(case, &Login { port, user: &login.user, password: &login.password })
    }

    /// The database is as at the beginning, if anything was written since `position`.
    fn reset_since(&self, position: &str) {
        self.wait_for_locks();
        if self.position() != *position {
            self.reset();
        }
    }

    fn reset(&self) {
        for row in self.query("SELECT gid FROM pg_prepared_xacts") {
            self.query(&format!("ROLLBACK PREPARED '{}'", row[0].as_deref().unwrap_or_default()));
        }
        self.query(CLEAN);
        self.query(&self.schema);
        // Not the insert position: at the start of a page it counts a header that no replica
        // reaches before the next record.
        let position = self.superuser.value("SELECT pg_current_wal_lsn()").expect("a position");
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        for replica in &self.replicas {
            let caught_up = || replica.value(&sql).is_ok_and(|word| word == "t");
            while !caught_up() {
                wait_until(PATIENCE, caught_up).expect("a replica catches up");
            }
        }
    }

    fn position(&self) -> String {
        self.superuser.value("SELECT pg_current_wal_insert_lsn()").expect("a position")
    }

    /// Sessions end after their clients; until then they hold their locks.
    fn wait_for_end_of(&self, process_ids: &[i32]) {
        let list: Vec<String> = process_ids.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ('{{{}}}')",
            list.join(",")
        );
        self.wait_for_none(&sql);
    }

    fn wait_for_locks(&self) {
        self.wait_for_none(
            "SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND pid IN (
                 SELECT pid FROM pg_stat_activity WHERE usename IN ('app', 'postgres'))
             AND locktype IN ('advisory', 'relation') AND database = (
                 SELECT oid FROM pg_database WHERE datname = 'app')",
        );
    }

    fn wait_for_none(&self, count: &str) {
        let none = || self.superuser.value(count).is_ok_and(|word| word == "0");
        if !none() {
            wait_until(ENDS_MAX, none).unwrap_or_else(|_| panic!("still there: {count}"));
        }
    }

    fn query(&self, sql: &str) -> crate::support::Rows {
        self.superuser.query(sql).unwrap_or_else(|error| panic!("{error:#}"))
    }
}
