//! The servers, and in them one database for direct runs and one for each way through the proxy.

use super::client::Door;
use super::script::{Arena, User};
use crate::support::{Fixture, PATIENCE, Session, client_config, wait_until};
use serde_json::json;
use std::time::Duration;

const SETUP: &str = include_str!("setup.sql");

/// The most clients of one script.
pub const CLIENTS_MAX: usize = 3;

/// What of a script's leftovers is waited for: connections that are being closed.
const SETTLE: Duration = Duration::from_secs(10);

/// Between looks at what is over in a few milliseconds.
const LOOK: Duration = Duration::from_millis(2);

pub struct World {
    pub fixture: Fixture,
    places: Vec<Place>,
    replicas: Vec<Session>,
}

/// A database, and a superuser's session that does not go through the proxy.
struct Place {
    name: &'static str,
    admin: Session,
}

/// Who serves a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Direct,
    Proxied(Arena),
}

const DATABASES: [(&str, Side); 3] = [
    ("soak_direct", Side::Direct),
    ("soak_narrow", Side::Proxied(Arena::Narrow)),
    ("soak_wide", Side::Proxied(Arena::Wide)),
];

impl World {
    pub fn start() -> World {
        let fixture = Fixture::build()
            .hba(&["host all all 127.0.0.1/32 trust"])
            .sql("CREATE ROLE soak_role; GRANT soak_role TO app; ALTER ROLE app SET work_mem = '2MB'")
            .setting("max_prepared_transactions", "20")
            .config(|config| {
                config["auth"]["method"] = "trust".into();
                // All clients meet on the same connections.
                config["workers"] = 1.into();
                let mut narrow = config["clusters"]["main"].clone();
                let wide = &mut config["clusters"]["main"];
                wide["monitor"] = json!({ "interval": "20ms", "timeout": "20s" });
                narrow["monitor"] = json!({ "interval": "20ms", "timeout": "20s" });
                wide["databases"] = json!(["soak_wide"]);
                wide["pool"] = json!({ "size_max": CLIENTS_MAX });
                narrow["databases"] = json!(["soak_narrow"]);
                narrow["pool"] = json!({ "size_max": 1, "wait_timeout": "2s" });
                config["clusters"]["narrow"] = narrow;
            })
            .unready()
            .start();
        let primary = fixture.cluster.primary();
        for (name, _) in DATABASES {
            primary.execute(&format!("CREATE DATABASE {name} OWNER app")).unwrap();
            primary.execute(&format!("ALTER DATABASE {name} SET lock_timeout = '500ms'")).unwrap();
            let mut owner = client_config(primary.port, &fixture.cluster.app);
            Session::connect(owner.dbname(name)).unwrap().query(SETUP).unwrap();
        }
        let admin = |port, name: &str| {
            let mut config = client_config(port, &fixture.cluster.superuser);
            let session = Session::connect(config.dbname(name)).unwrap();
            session.query("SET lock_timeout = 0; SET client_min_messages = error").unwrap();
            session
        };
        let places = DATABASES.map(|(name, _)| Place { name, admin: admin(primary.port, name) });
        let replicas =
            fixture.cluster.replicas().iter().map(|server| admin(server.port, "postgres"));
        let replicas = replicas.collect();
        fixture.cluster.wait_caught_up(primary).unwrap();
        fixture.proxy.wait_ready().expect("the proxy is ready");
        let world = World { places: places.into(), replicas, fixture };
        world.wait_for_catalog();
        world
    }

    /// What a function leaves is followed as soon as it is known.
    fn wait_for_catalog(&self) {
        let mut config = client_config(self.fixture.proxy.port, &self.fixture.cluster.app);
        for (name, _) in &DATABASES[1..] {
            let session = Session::connect(config.dbname(*name)).unwrap();
            let on_replica = "SELECT pg_is_in_recovery() AND f_read(1) IS NOT NULL";
            let known = || {
                let rows = session.query(on_replica).unwrap_or_default();
                rows.first().is_some_and(|row| row[0].as_deref() == Some("t"))
            };
            wait_until(PATIENCE, known).expect("the catalog is loaded");
        }
    }

    fn place(&self, side: Side) -> &Place {
        let at = DATABASES.iter().position(|(_, known)| *known == side).unwrap();
        &self.places[at]
    }

    pub fn door(&self, side: Side, user: User, patience: Duration) -> Door {
        let login = match user {
            User::App => &self.fixture.cluster.app,
            User::Superuser => &self.fixture.cluster.superuser,
        };
        let port = match side {
            Side::Direct => self.fixture.cluster.primary().port,
            Side::Proxied(_) => self.fixture.proxy.port,
        };
        Door {
            port,
            user: login.user.clone(),
            password: login.password.clone(),
            database: self.place(side).name.to_owned(),
            patience,
        }
    }

    /// Waits until nobody holds anything in this database; says who does.
    pub fn settle(&self, side: Side) -> Result<(), String> {
        let Place { name, admin } = self.place(side);
        let held = format!(
            "SELECT l.locktype, l.mode, l.objid, a.state, a.query FROM pg_locks l \
             JOIN pg_stat_activity a USING (pid) WHERE a.datname = '{name}' \
             AND pid <> pg_backend_pid() AND a.backend_type = 'client backend' \
             AND a.usename <> 'tiffin' \
             AND (l.locktype = 'advisory' OR a.state <> 'idle')"
        );
        let started = std::time::Instant::now();
        loop {
            let rows = admin.query(&held).map_err(|error| format!("{error:#}"))?;
            if rows.is_empty() {
                return Ok(());
            }
            if started.elapsed() > SETTLE {
                return Err(format!("locks are left: {rows:?}"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// How many locks that other clients can feel are held in this database.
    pub fn locks(&self, side: Side) -> String {
        let Place { name, admin } = self.place(side);
        let sql = format!(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
             WHERE a.datname = '{name}' AND pid <> pg_backend_pid() AND a.usename <> 'tiffin' \
             AND locktype IN ('advisory', 'transactionid')"
        );
        admin.value(&sql).unwrap_or_default()
    }

    /// Waits until as many locks are held as in the other run at this point: a server notices
    /// only after a while that the proxy has closed a connection.
    pub fn wait_locks(&self, side: Side, wanted: &str) {
        let _ = wait_until(Duration::from_secs(2), || self.locks(side) == wanted);
    }

    /// Makes the database as it was at the start, on all servers.
    pub fn reset(&self, side: Side) {
        // Their names are the whole cluster's: also the other side is in the way.
        for Place { name, admin } in &self.places {
            let prepared = format!("SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'");
            for row in admin.query(&prepared).unwrap() {
                let gid = row[0].as_deref().unwrap();
                admin.query(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
            }
        }
        let Place { admin, .. } = self.place(side);
        let made = "SELECT count(*) FROM pg_class WHERE relname LIKE 'made%'";
        let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'made%'";
        let mut sql = String::new();
        if admin.value(made).unwrap() != "0" || admin.value(functions).unwrap() != "0" {
            for client in 0..CLIENTS_MAX {
                sql += &format!(
                    "DROP VIEW IF EXISTS made_view{client}; DROP TABLE IF EXISTS made{client}; \
                     DROP INDEX IF EXISTS made_index{client}; \
                     DROP FUNCTION IF EXISTS made_f{client}();"
                );
            }
        }
        // Made while the search path was another one.
        let strays = "SELECT format('DROP %s IF EXISTS other.%I CASCADE;', \
                 CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname) FROM pg_class \
             WHERE relkind IN ('r', 'v') AND relnamespace = 'other'::regnamespace \
             AND relname <> 'fixed' \
             UNION ALL SELECT format('DROP FUNCTION %s;', oid::regprocedure) FROM pg_proc \
             WHERE pronamespace = 'other'::regnamespace";
        for row in admin.query(strays).unwrap() {
            sql += row[0].as_deref().unwrap();
        }
        for client in 0..CLIENTS_MAX {
            let columns = format!(
                "SELECT count(*) FROM pg_attribute WHERE attnum > 0 \
                 AND attrelid = to_regclass('t{client}')"
            );
            if admin.value(&columns).unwrap() != "3" {
                sql += &format!(
                    "DROP TABLE IF EXISTS t{client} CASCADE; CREATE TABLE t{client} \
                     (id int PRIMARY KEY, v text, n int DEFAULT 0); \
                     ALTER TABLE t{client} OWNER TO app;"
                );
            }
            sql += &format!(
                "DELETE FROM t{client}; INSERT INTO t{client} \
                 SELECT g, 'v' || g FROM generate_series(1, 5) g; \
                 SELECT setval('q{client}', 1, false); ALTER SEQUENCE q{client} START 1;"
            );
        }
        sql += "DELETE FROM numbered; SELECT setval('q_shared', 1, false), \
                setval('numbered_id_seq', 1, false); \
                SELECT lo_unlink(oid) FROM pg_largeobject_metadata;";
        admin.query(&sql).unwrap_or_else(|error| panic!("{error:#}"));
        self.catch_up(admin);
    }

    fn catch_up(&self, primary: &Session) {
        let target = primary.value("SELECT pg_current_wal_insert_lsn()").unwrap();
        let applied = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
        for replica in &self.replicas {
            let started = std::time::Instant::now();
            while replica.value(&applied).unwrap() != "t" {
                assert!(started.elapsed() < PATIENCE, "a replica does not catch up to {target}");
                std::thread::sleep(LOOK);
            }
        }
    }
}
