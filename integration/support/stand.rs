//! What differs between the engines for a scenario that is the same for all.

use super::{
    Fixture, Group, Member, Options, Proxy, Server, Stage, binary, cache, mysql, proxy, sqlstate,
};
use super::{Login, PATIENCE, Session, wait_until};
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt, future, stream};
use serde_json::{Value, json};
use std::time::Duration;
use tiffin::topology::Gtids;

/// Between two rows of [`Stand::copy`], so that something can happen meanwhile.
const COPY_PAUSE: Duration = Duration::from_millis(30);

/// The engines that scenarios run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Postgres,
    MySql,
    MariaDb,
}

impl Which {
    pub fn word(self) -> &'static str {
        match self {
            Which::Postgres => "postgres",
            Which::MySql => "mysql",
            Which::MariaDb => "mariadb",
        }
    }
}

/// Transactions of two phases; `{id}` is their name, and what they write.
pub struct TwoPhases {
    pub prepare: &'static [&'static str],
    pub commit: &'static str,
    pub rollback: &'static str,
    /// Those that are prepared, with their name as the last column.
    pub prepared: &'static str,
}

/// Servers that a scenario can be set up with.
pub trait Stand: Member + 'static {
    /// The code of the error for a pool that has no connection free in time.
    const POOL_IS_FULL: &'static str;

    /// Codes of errors that say that nothing has run: the proxy's own of what it has not sent, and
    /// a read-only server's.
    const NOT_RUN: &'static [&'static str];
    /// A type for long texts.
    const TEXT: &'static str;
    /// SQL for the sum of all balances of the chaos, of one moment, that takes a while.
    const LONG_SUM: &'static str;
    const TWO_PHASES: TwoPhases;

    /// A session that [`Stand::copy`] can write by.
    fn copying_session(port: u16, login: &Login) -> anyhow::Result<Self::Session> {
        Self::session(port, login)
    }

    /// Writes transfers of these numbers by COPY or LOAD DATA LOCAL.
    fn copy(session: &Self::Session, ids: [u64; 2]) -> anyhow::Result<()>;

    /// Sends both before the first is answered.
    fn together(session: &Self::Session, texts: [&str; 2]) -> [anyhow::Result<()>; 2];

    /// A cluster with so many replicas and the proxy in front, ready to read from all of them.
    fn stage(which: Which, replicas: u16, change: impl FnOnce(&mut Value) + 'static)
    -> Stage<Self>;

    /// The same with two replicas that confirm each write, and a proxy that promotes one of them
    /// when the primary is lost.
    fn promoting(which: Which, change: impl FnOnce(&mut Value) + 'static) -> Stage<Self>;

    /// Makes a replica reach its upstream at another port.
    fn lead(&self, port: u16);

    /// Makes a replica follow this server at that port, in one step.
    fn follow_at(&self, cluster: &Group<Self>, upstream: &Self, port: u16);

    /// Brings a former primary of such a cluster back, whatever has become of it; it reaches the new
    /// one at this port.
    fn restore(stage: &Stage<Self>, old: &Self, new: &Self, port: u16);

    /// Whether both replicas confirm what this primary writes.
    fn are_writes_confirmed(&self) -> bool;

    /// What this primary has to say of that, for a test that fails.
    fn who_confirms(&self) -> String;

    /// Starts a server that was killed, as what it was.
    fn start_again(&self);

    /// As a primary it waits for so many replicas before it acknowledges a write.
    fn set_confirmations(&self, count: usize);

    /// Begins to wait for replicas, where a server that was promoted by hand does not by itself.
    fn confirm(&self);

    /// Ends a replica's receiver; a number that grows with what it has received.
    fn stop_receiving(&self) -> u64;

    /// Makes a former primary a replica of the new one, which it reaches at this port, without the
    /// proxy.
    fn remake(stage: &Stage<Self>, old: &Self, new: &Self, port: u16);

    /// The addresses that another proxy in front of this cluster can listen on.
    fn listen(cluster: &Group<Self>) -> Value;

    /// The statement that sets one of the proxy's own settings for a session.
    fn set_own(name: &str, value: &str) -> String;

    /// SQLSTATE or number of an error that a server or the proxy sent; empty if it is another.
    fn code(error: &anyhow::Error) -> String;
}

impl Stand for Server {
    const POOL_IS_FULL: &'static str = "53300";
    const NOT_RUN: &'static [&'static str] = &["57P03", "53300", "40001"];
    const TEXT: &'static str = "text";
    const LONG_SUM: &'static str = "SELECT sum(balance) FROM accounts, pg_sleep(0.1)";
    const TWO_PHASES: TwoPhases = TwoPhases {
        prepare: &["BEGIN", "INSERT INTO transfers VALUES ({id})", "PREPARE TRANSACTION '{id}'"],
        commit: "COMMIT PREPARED '{id}'",
        rollback: "ROLLBACK PREPARED '{id}'",
        prepared: "SELECT gid FROM pg_prepared_xacts",
    };

    fn copy(session: &Session, ids: [u64; 2]) -> anyhow::Result<()> {
        let sql = "COPY transfers FROM STDIN";
        let copied = async {
            let mut sink = std::pin::pin!(session.client().copy_in(sql).await?);
            for id in ids {
                sink.send(Bytes::from(format!("{id}\n"))).await?;
                tokio::time::sleep(COPY_PAUSE).await;
            }
            sink.finish().await
        };
        session.block_on(sql, copied).map(drop)
    }

    fn together(session: &Session, texts: [&str; 2]) -> [anyhow::Result<()>; 2] {
        let both = async {
            let [one, two] = texts.map(|sql| session.client().simple_query(sql));
            Ok(future::join(one, two).await)
        };
        match session.block_on("two statements", both) {
            Ok((one, two)) => {
                [one.map(drop).map_err(Into::into), two.map(drop).map_err(Into::into)]
            }
            Err(error) => {
                let same = anyhow::anyhow!("{error:#}");
                [Err(error), Err(same)]
            }
        }
    }

    fn stage(_: Which, replicas: u16, change: impl FnOnce(&mut Value) + 'static) -> Stage<Server> {
        Fixture::build().replicas(replicas).config(change).start()
    }

    fn promoting(_: Which, change: impl FnOnce(&mut Value) + 'static) -> Stage<Server> {
        let stage = crate::promotion::promoting()
            .options(|options| options.preload = Some(super::slow_disk::library()))
            .config(change)
            .start();
        // Whoever becomes the primary waits for a replica to confirm.
        stage.cluster.servers().iter().for_each(|server| server.set_confirmations(1));
        crate::promotion::confirm_writes(stage.cluster.primary());
        stage
    }

    fn lead(&self, port: u16) {
        let conninfo = self.value("SHOW primary_conninfo").unwrap();
        let words = conninfo.split(' ').filter(|word| !word.starts_with("port="));
        let words = words.map(str::to_owned).chain([format!("port={port}")]);
        let conninfo = words.collect::<Vec<_>>().join(" ").replace('\'', "''");
        self.set("primary_conninfo", &format!("'{conninfo}'")).unwrap();
    }

    fn follow_at(&self, cluster: &Group<Server>, upstream: &Server, port: u16) {
        self.follow(cluster, upstream).unwrap();
        self.lead(port);
    }

    fn restore(stage: &Stage<Server>, old: &Server, new: &Server, port: u16) {
        Server::remake(stage, old, new, port);
    }

    fn start_again(&self) {
        self.start().unwrap();
    }

    fn set_confirmations(&self, count: usize) {
        let names = format!("'ANY {count} (pg0, pg1, pg2)'");
        self.set("synchronous_standby_names", &names).unwrap();
    }

    fn confirm(&self) {}

    fn stop_receiving(&self) -> u64 {
        self.cut_receiver().unwrap();
        let number = self.value("SELECT pg_last_wal_receive_lsn() - '0/0'").unwrap();
        number.parse().expect("a place in the log")
    }

    fn remake(stage: &Stage<Server>, old: &Server, new: &Server, port: u16) {
        stage.cluster.rewind(old, new).unwrap();
        old.lead(port);
    }

    fn listen(cluster: &Group<Server>) -> Value {
        proxy::config(cluster, 0).expect("free ports")["listen"].take()
    }

    fn set_own(name: &str, value: &str) -> String {
        format!("SET tiffin.{name} = '{value}'")
    }

    fn are_writes_confirmed(&self) -> bool {
        let confirms = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'";
        self.query(confirms).is_ok_and(|rows| rows.len() >= 2)
    }

    fn who_confirms(&self) -> String {
        let receivers = self.query("SELECT * FROM pg_stat_replication");
        format!("{receivers:?}\n{}", self.log())
    }

    fn code(error: &anyhow::Error) -> String {
        sqlstate(error).unwrap_or_default().to_owned()
    }
}

impl Stand for mysql::Server {
    const POOL_IS_FULL: &'static str = "1040";
    const NOT_RUN: &'static [&'static str] = &["1836", "1040", "1213"];
    const TEXT: &'static str = "mediumtext";
    const LONG_SUM: &'static str = "SELECT SUM(balance) FROM accounts WHERE SLEEP(0.01) = 0";
    const TWO_PHASES: TwoPhases = TwoPhases {
        prepare: &[
            "XA START '{id}'",
            "INSERT INTO transfers VALUES ({id})",
            "XA END '{id}'",
            "XA PREPARE '{id}'",
        ],
        commit: "XA COMMIT '{id}'",
        rollback: "XA ROLLBACK '{id}'",
        prepared: "XA RECOVER",
    };

    /// The name of the file that a server asks for are the rows, with spaces between them.
    fn copying_session(port: u16, login: &Login) -> anyhow::Result<mysql::Session> {
        let rows = |name: &[u8]| {
            let name = String::from_utf8_lossy(name).into_owned();
            let rows: Vec<String> = name.split(' ').map(|row| format!("{row}\n")).collect();
            let rows = stream::iter(rows).then(|row| async {
                tokio::time::sleep(COPY_PAUSE).await;
                Ok(Bytes::from(row))
            });
            future::ready(Ok(rows.boxed())).boxed()
        };
        let opts = mysql::client_opts(port, login).local_infile_handler(Some(rows));
        mysql::Session::connect(&opts.into())
    }

    fn copy(session: &mysql::Session, ids: [u64; 2]) -> anyhow::Result<()> {
        let [one, two] = ids;
        session.execute(&format!("LOAD DATA LOCAL INFILE '{one} {two}' INTO TABLE transfers"))
    }

    /// As one text, of which only the first error is told: then of neither is anything known.
    fn together(session: &mysql::Session, texts: [&str; 2]) -> [anyhow::Result<()>; 2] {
        match session.execute(&texts.join("; ")) {
            Ok(()) => [Ok(()), Ok(())],
            Err(error) => [(); 2].map(|()| Err(anyhow::anyhow!("{error:#}"))),
        }
    }

    fn stage(
        which: Which,
        replicas: u16,
        change: impl FnOnce(&mut Value) + 'static,
    ) -> Stage<mysql::Server> {
        let options = mysql::Options { replicas, ..mysql::options(engine(which)) };
        let cluster = mysql::Cluster::start(options).expect("start the servers");
        let stage = mysql::Fixture::with(cluster, change);
        stage.wait_in_read_set(stage.cluster.replicas());
        stage
    }

    fn promoting(which: Which, change: impl FnOnce(&mut Value) + 'static) -> Stage<mysql::Server> {
        let cluster = mysql::Cluster::start(mysql::confirming(engine(which)));
        let cluster = cluster.expect("start the servers");
        mysql::confirm_writes(cluster.primary());
        wait_until(PATIENCE, || mysql::are_writes_confirmed(cluster.primary()))
            .expect("replicas confirm");
        let replicator = cluster.replicator.clone();
        let stage = mysql::Fixture::with(cluster, |config| {
            config["api"]["token"] = crate::maintenance::TOKEN.into();
            let main = &mut config["clusters"]["main"];
            main["gate"]["hold"] = "2min".into();
            main["failover"] = json!({
                "mode": "promote", "retry": "500ms",
                "user": "tiffin_failover", "password": "…",
                "replication": { "user": replicator.user, "password": replicator.password },
            });
            change(config);
        });
        stage.wait_in_read_set(stage.cluster.replicas());
        stage
    }

    fn lead(&self, port: u16) {
        let [stop, change, start] = match self.engine {
            mysql::Engine::MySql => {
                ["STOP REPLICA", "CHANGE REPLICATION SOURCE TO SOURCE_PORT", "START REPLICA"]
            }
            mysql::Engine::MariaDb => ["STOP SLAVE", "CHANGE MASTER TO MASTER_PORT", "START SLAVE"],
        };
        for sql in [stop, &format!("{change} = {port}"), start] {
            self.execute(sql).unwrap();
        }
    }

    /// MariaDB's primary may hang for ever when a semi-synchronous replica leaves it as soon as it
    /// has come: `Ack_receiver::remove_slave` waits for a thread that it does not wake
    /// (`sql/semisync_master_ack_receiver.cc`).
    fn follow_at(&self, cluster: &Group<mysql::Server>, _: &mysql::Server, port: u16) {
        self.replicate_from(port, &cluster.replicator).unwrap();
    }

    fn restore(stage: &Stage<mysql::Server>, old: &mysql::Server, new: &mysql::Server, port: u16) {
        if !old.is_running() {
            old.start().unwrap();
        }
        // The proxy makes it a replica, if it has nothing that the new one lacks.
        let what = format!("make {} a replica of {}", old.name, new.name);
        let joined = || {
            let action = crate::promotion::made(stage).pop()?;
            let step = action["steps"].as_array()?.iter().find(|step| step["what"] == *what)?;
            step["ok"].as_bool()
        };
        wait_until(PATIENCE, || joined().is_some()).expect("it was looked after");
        if joined() == Some(false) {
            mysql::Server::remake(stage, old, new, port);
        }
    }

    fn start_again(&self) {
        self.start().unwrap();
    }

    fn set_confirmations(&self, count: usize) {
        assert_eq!(self.engine, mysql::Engine::MySql, "MariaDB waits for one");
        let name = "rpl_semi_sync_source_wait_for_replica_count";
        self.execute(&format!("SET GLOBAL {name} = {count}")).unwrap();
    }

    fn confirm(&self) {
        mysql::confirm_writes(self);
    }

    fn stop_receiving(&self) -> u64 {
        mysql::Server::stop_receiving(self).unwrap();
        let (parse, column): (fn(&str) -> Result<Gtids, _>, _) = match self.engine {
            mysql::Engine::MySql => (Gtids::parse_set, "Retrieved_Gtid_Set"),
            mysql::Engine::MariaDb => (Gtids::parse_heads, "Gtid_IO_Pos"),
        };
        let mut gtids = parse(&self.executed().unwrap()).unwrap();
        gtids.unite(&parse(&self.status(column).unwrap()).unwrap());
        gtids.count_beyond(&gtids.none())
    }

    /// Where there is another replica, from that one: to apply everything again would take longer
    /// with each round.
    fn remake(stage: &Stage<mysql::Server>, old: &mysql::Server, new: &mysql::Server, port: u16) {
        let mut others = stage.cluster.servers().iter();
        let other = others.find(|one| ![&old.name, &new.name].contains(&&one.name));
        let other = other.filter(|server| server.is_running());
        stage
            .cluster
            .rebuild(old, other, port, &cache().expect("a folder"))
            .unwrap_or_else(|error| panic!("{error:#}: {}\n{}", old.who_confirms(), old.log()));
    }

    fn listen(cluster: &Group<mysql::Server>) -> Value {
        mysql::proxy_config(cluster)["listen"].take()
    }

    fn set_own(name: &str, value: &str) -> String {
        format!("SET @tiffin_{name} = '{value}'")
    }

    fn are_writes_confirmed(&self) -> bool {
        mysql::are_writes_confirmed(self)
    }

    fn who_confirms(&self) -> String {
        let status = self.query("SHOW STATUS LIKE 'rpl_semi_sync_%'");
        let sessions = self.query("SHOW FULL PROCESSLIST");
        format!("{status:?}\n{sessions:?}\n{}", self.log())
    }

    fn code(error: &anyhow::Error) -> String {
        mysql::errno(error).map(|number| number.to_string()).unwrap_or_default()
    }
}

fn engine(which: Which) -> mysql::Engine {
    match which {
        Which::MariaDb => mysql::Engine::MariaDb,
        Which::MySql | Which::Postgres => mysql::Engine::MySql,
    }
}

/// Runs scenarios on each engine, as `postgres::name`, `mysql::name` and `mariadb::name`. The
/// functions are generic over the servers and take the engine.
macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(
                #[test]
                fn $name() {
                    use crate::support::{Server, Which};
                    super::$name::<Server>(Which::Postgres);
                }
            )+
        }
        mod mysql {
            $(
                #[test]
                fn $name() {
                    use crate::support::{Which, mysql::Server};
                    super::$name::<Server>(Which::MySql);
                }
            )+
        }
        mod mariadb {
            $(
                #[test]
                fn $name() {
                    use crate::support::{Which, mysql::Server};
                    super::$name::<Server>(Which::MariaDb);
                }
            )+
        }
    };
}
pub(crate) use on_every_engine;
