//! Real members of Patroni on loopback, with etcd as their store, gone with the test.

use super::etcd::{Etcd, exchange};
use super::{Login, PATIENCE, Session, client_config, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tiffin::cli::sandbox::servers::binaries::Binaries;
use tiffin::cli::sandbox::servers::folder::Folder;
use tiffin::cli::sandbox::servers::process::free_port;

/// The lowest that Patroni's loop runs well with on a busy machine, in seconds.
const TTL: u32 = 8;

pub struct Patroni {
    // Members are ended before etcd, and both before the folder goes.
    pub members: Vec<PatroniMember>,
    pub etcd: Etcd,
    binaries: Binaries,
    pub folder: Folder,
    pub superuser: Login,
    pub service: Login,
    pub app: Login,
}

/// One member: Patroni's process and the server that it starts.
pub struct PatroniMember {
    pub name: String,
    pub port: u16,
    pub api: u16,
    home: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Patroni {
    /// `members` members with synchronous replication; the first one leads.
    pub fn start(members: usize) -> Patroni {
        let binaries = Binaries::find().unwrap();
        let folder = Folder::create(&binaries, None).unwrap();
        let login = |user: &str| Login { user: user.into(), password: "tiffin".into() };
        let mut patroni = Patroni {
            members: Vec::new(),
            etcd: Etcd::start(folder.path().join("etcd")),
            binaries,
            folder,
            superuser: login("postgres"),
            service: login("tiffin"),
            app: login("app"),
        };
        patroni.add();
        patroni.wait_leader("p0");
        let leader = patroni.session(&patroni.members[0], "postgres");
        for sql in [
            "CREATE ROLE tiffin LOGIN PASSWORD 'tiffin' IN ROLE pg_monitor",
            "CREATE ROLE app LOGIN PASSWORD 'tiffin'",
            "CREATE DATABASE app OWNER app",
        ] {
            leader.query(sql).unwrap();
        }
        for _ in 1..members {
            patroni.add();
        }
        patroni.wait_streaming(members - 1);
        patroni
    }

    /// Starts one more member, and does not wait for it.
    pub fn add(&mut self) {
        let name = format!("p{}", self.members.len());
        let home = self.folder.path().join(&name);
        fs::create_dir(&home).unwrap();
        let (port, api) = (free_port().unwrap(), free_port().unwrap());
        let member = PatroniMember { name, port, api, home, process: Mutex::default() };
        self.configure(&member, json!({}));
        self.run(&member);
        self.members.push(member);
    }

    /// Starts a member that was killed.
    pub fn run(&self, member: &PatroniMember) {
        let log = fs::File::options().create(true).append(true).open(member.home.join("log"));
        let log = log.unwrap();
        let mut command = Command::new("patroni");
        command.arg(member.home.join("patroni.yml")).current_dir(&member.home);
        command.env("HOME", &member.home).env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if let Some((uid, gid)) = self.binaries.run_as {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().expect("patroni is installed (scripts/install-deps.sh)");
        *member.process() = Some(child);
    }

    /// Writes a member's configuration; a running one reads it when it is told to (`reload`).
    pub fn configure(&self, member: &PatroniMember, tags: Value) {
        let host = |port: u16| format!("127.0.0.1:{port}");
        let user = |login: &Login| json!({ "username": login.user, "password": login.password });
        let config = json!({
            "scope": "main",
            "name": member.name,
            "restapi": { "listen": host(member.api), "connect_address": host(member.api) },
            "etcd3": { "host": self.etcd.address },
            "tags": tags,
            "bootstrap": {
                "dcs": {
                    "ttl": TTL, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": true,
                    "postgresql": { "use_pg_rewind": true, "parameters": { "wal_log_hints": "on" } },
                },
                "initdb": [{ "encoding": "UTF8" }, { "locale": "C" }, "no-sync"],
            },
            "postgresql": {
                "listen": host(member.port),
                "connect_address": host(member.port),
                "data_dir": member.home.join("data"),
                "bin_dir": self.binaries.folder(),
                "basebackup": [{ "checkpoint": "fast" }, "no-sync"],
                "pgpass": member.home.join("pgpass"),
                "authentication": {
                    "superuser": user(&self.superuser),
                    "replication": { "username": "replicator", "password": "tiffin" },
                },
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication all 127.0.0.1/32 scram-sha-256",
                ],
                "parameters": {
                    "unix_socket_directories": member.home, "fsync": "off",
                    "shared_buffers": "16MB", "dynamic_shared_memory_type": "mmap",
                },
            },
            "watchdog": { "mode": "off" },
        });
        let path = member.home.join("patroni.yml");
        fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
        if let Some((uid, gid)) = self.binaries.run_as {
            chown(&member.home, Some(uid), Some(gid)).unwrap();
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A page of some member's REST API; `body` makes it a POST.
    pub fn ask(&self, member: &PatroniMember, page: &str, body: Option<Value>) -> String {
        exchange(member.api, page, body.as_ref()).unwrap_or_else(|error| error.to_string())
    }

    /// Who has the leader's key, as a member tells that runs.
    pub fn leader(&self) -> Option<String> {
        let running = self.members.iter().filter(|member| member.process().is_some());
        running.into_iter().find_map(|member| {
            let body: Value = serde_json::from_str(&self.ask(member, "cluster", None)).ok()?;
            let members = body["members"].as_array()?;
            let leader = members.iter().find(|member| member["role"] == "leader")?;
            (leader["state"] == "running").then(|| leader["name"].as_str().map(str::to_owned))?
        })
    }

    pub fn wait_leader(&self, name: &str) {
        wait_until(PATIENCE, || self.leader().as_deref() == Some(name))
            .unwrap_or_else(|_| panic!("{name} does not lead:\n{}", self.logs()));
    }

    /// Waits until so many replicas stream, one of them synchronously.
    pub fn wait_streaming(&self, replicas: usize) {
        let stream = self.stream_within(replicas, PATIENCE);
        assert!(stream, "replicas do not stream:\n{}", self.logs());
    }

    pub fn stream_within(&self, replicas: usize, bound: Duration) -> bool {
        let sql = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') > 0 \
            FROM pg_stat_replication WHERE state = 'streaming' AND application_name LIKE 'p%'";
        let there = || {
            let name = self.leader()?;
            let leader = self.members.iter().find(|member| member.name == name)?;
            let session = self.connect(leader, "postgres").ok()?;
            let rows = session.query(sql).ok()?;
            let counted = rows[0][0].as_deref()?.parse::<usize>().ok()?;
            Some(counted == replicas && rows[0][1].as_deref() == Some("t"))
        };
        wait_until(bound, || there() == Some(true)).is_ok()
    }

    pub fn connect(&self, member: &PatroniMember, database: &str) -> anyhow::Result<Session> {
        let mut config = client_config(member.port, &self.superuser);
        config.dbname(database);
        Session::connect(&config)
    }

    pub fn session(&self, member: &PatroniMember, database: &str) -> Session {
        self.connect(member, database).unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    /// The last lines that each member has logged.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for member in &self.members {
            let log = fs::read_to_string(member.home.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            all += &format!("{}:\n", member.name);
            all += &lines[lines.len().saturating_sub(25)..].join("\n");
            all.push('\n');
        }
        all
    }
}

impl PatroniMember {
    /// Kills Patroni and its server at once, as a host that loses its power.
    pub fn kill9(&self) {
        let pid_file = self.home.join("data/postmaster.pid");
        let pid = fs::read_to_string(pid_file).unwrap_or_default();
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(pid) = pid.lines().next() {
            let script = format!("kill -STOP {pid}; pkill -KILL -P {pid}; kill -KILL {pid}");
            let _ = Command::new("sh").args(["-c", &script]).status();
        }
    }

    /// To Patroni and to all processes of its server.
    pub fn signal(&self, signal: &str) {
        let pid_file = fs::read_to_string(self.home.join("data/postmaster.pid")).unwrap();
        let server = pid_file.lines().next().unwrap();
        let patroni = self.process().as_ref().expect("it runs").id();
        let script = format!("kill -{signal} {patroni} {server} $(pgrep -P {server})");
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for member in &self.members {
            member.kill9();
        }
    }
}
