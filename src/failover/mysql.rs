//! What is asked of MySQL (8.0.23 and later) and MariaDB (10.5.2 and later) servers around a change
//! of the primary, one errand per function (`servers.rs` says what each is for).
//!
//! Replication is by GTID, over the channel without a name. Its user and password stay those of the
//! channel when only the source changes; a former primary has no channel, and gets those of
//! `failover.replication`.

use super::conninfo::host_and_port;
use super::mysql_words::{MARIADB, MYSQL, Words};
use super::servers::{LOOK_INTERVAL, LeftOut, Part, Servers, Standing, UNDER_WAY, shown};
use crate::config::{Engine, NodeConfig};
use crate::monitor::handover::LOCK_NAME;
use crate::monitor::mysql::{self, flag, named, text};
use crate::monitor::mysql_connection::{self, ServiceOpts};
use crate::topology::{Gtids, Position, Timeline};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Between two looks at open transactions: `innodb_trx` is a copy that is made anew only if nobody
/// has read it for 100 ms (`CACHE_MIN_IDLE_TIME_US`, trx0i_s.cc).
const QUIET_INTERVAL: Duration = Duration::from_millis(120);
/// A new channel that has lost its source looks for it again after so many seconds; the servers'
/// default is 60.
const CONNECT_RETRY_S: u32 = 1;
/// After that a receiver that was started has read how long it may wait.
const CONNECT_BEGUN_S: f64 = 0.05;
/// What a replica may wait for an upstream that says nothing, while it is made to connect again: the
/// shortest that the servers know of.
const SILENT_SOURCE_TIMEOUT: Duration = Duration::from_secs(1);
/// Sessions that no client has: of the server itself, and of replicas.
const OWN_USERS: &[&str] = &["system user", "event_scheduler"];
const OWN_COMMANDS: &[&str] = &["Binlog Dump", "Binlog Dump GTID", "Daemon"];

/// A connection and its server's words.
pub(super) struct Session<'a> {
    pub(super) servers: &'a Servers,
    pub(super) connection: Conn,
    pub(super) words: &'static Words,
}

/// The channel without a name.
pub(super) struct Channel {
    host: String,
    port: u16,
    /// `Yes`, `No`, `Connecting`.
    pub(super) receives: String,
    pub(super) applies: bool,
    pub(super) received: Gtids,
    /// Number of the receiver's last error; empty or 0 if there is none.
    receiver_errno: String,
    pub(super) error: String,
    pub(super) by_gtid: bool,
    /// Whether all that was received, to the last event, has been applied.
    pub(super) at_end: bool,
}

pub(super) async fn standing(servers: &Servers, node: &NodeConfig) -> Result<Standing, String> {
    Ok(connect(servers, node).await?.place().await?.0)
}

pub(super) async fn set_read_only(
    servers: &Servers,
    node: &NodeConfig,
    on: bool,
) -> Result<(), String> {
    let mut session = connect(servers, node).await?;
    if !on {
        return session.make_writable().await;
    }
    // It waits for statements that run, also for a commit that waits for a replica for ever. Once
    // nobody hears of it any more, that may end.
    session.end_clients().await?;
    session.confirm_writes(false).await?;
    session.run(session.words.read_only).await
}

/// The session that tells other proxies of a handover. KILL spares it, as all of this user.
pub(super) async fn announce(servers: &Servers, node: &NodeConfig) -> Result<Conn, String> {
    let mut session = connect(servers, node).await?;
    let wait = servers.patience().as_secs().max(1);
    let lock = format!("SELECT GET_LOCK('{LOCK_NAME}', {wait})");
    let got: Option<Option<u8>> = session.connection.query_first(lock).await.map_err(sentence)?;
    match got.flatten() {
        Some(1) => Ok(session.connection),
        _ => Err(UNDER_WAY.to_owned()),
    }
}

pub(super) async fn terminate(servers: &Servers, node: &NodeConfig) -> Result<usize, String> {
    connect(servers, node).await?.end_clients().await
}

pub(super) async fn wait_until_idle(servers: &Servers, node: &NodeConfig) -> Result<(), String> {
    let mut session = connect(servers, node).await?;
    let mut quiet = 0;
    while quiet < 2 {
        let open = "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx";
        let open: Vec<u64> = session.connection.query(open).await.map_err(sentence)?;
        let busy = |(id, command): &(u64, String)| command != "Sleep" || open.contains(id);
        quiet = if session.clients().await?.iter().any(busy) { 0 } else { quiet + 1 };
        tokio::time::sleep(QUIET_INTERVAL).await;
    }
    Ok(())
}

pub(super) async fn catch_up(
    servers: &Servers,
    from: &NodeConfig,
    target: &NodeConfig,
) -> Result<Position, String> {
    let (mut primary, mut replica) =
        (connect(servers, from).await?, connect(servers, target).await?);
    let wanted = primary.place().await?.0.reach;
    let wanted = wanted.ok_or_else(|| format!("{} keeps no GTIDs", from.name))?;
    loop {
        let applied = replica.place().await?.0.reach;
        if applied.is_some_and(|applied| applied.covers(&wanted)) {
            return Ok(wanted);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A server that is promoted has applied what it had received. If it cannot, it goes on as a
/// replica.
pub(super) async fn promote(servers: &Servers, node: &NodeConfig) -> Result<String, String> {
    let mut session = connect(servers, node).await?;
    let replica = session.words.replica;
    // Less than the caller waits, so that it can be undone.
    let bound = servers.cluster.failover.step_timeout * 3 / 4;
    let applied = match timeout(bound, session.take_over()).await {
        Ok(Ok(applied)) => applied,
        failed => {
            // The connection may be in the middle of a question.
            if let Ok(mut session) = connect(servers, node).await {
                let _ = session.confirm_writes(false).await;
                let _ = session.run(&format!("START {replica}")).await;
            }
            return Err(match failed {
                Ok(Err(error)) => error,
                _ => format!("it has not applied what it had received within {bound:?}"),
            });
        }
    };
    session.run(&format!("RESET {replica} ALL")).await?;
    Ok(format!("it receives from nobody any more and has applied {}", shown(Some(&applied))))
}

pub(super) async fn verify(
    servers: &Servers,
    node: &NodeConfig,
    _: Option<Timeline>,
) -> Result<String, String> {
    match connect(servers, node).await?.place().await?.0.part {
        Part::Primary => Ok("it does".to_owned()),
        Part::Replica | Part::Neither => Err("it is read-only".to_owned()),
    }
}

pub(super) async fn repoint(
    servers: &Servers,
    replica: &NodeConfig,
    upstream: &NodeConfig,
) -> Result<String, String> {
    connect(servers, replica).await?.point_at(upstream).await?;
    Ok(format!("it receives from {}", upstream.name))
}

pub(super) async fn follow(
    servers: &Servers,
    replica: &NodeConfig,
    upstream: &NodeConfig,
) -> Result<String, String> {
    let mut session = connect(servers, replica).await?;
    session.point_at(upstream).await?;
    loop {
        let channel = session.place().await?.1;
        let channel = channel.ok_or_else(|| format!("{} has no channel", replica.name))?;
        match channel.receives.as_str() {
            "Yes" => return Ok(format!("it receives from {}", upstream.name)),
            "No" => return Err(format!("it cannot receive: {}", channel.error)),
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// A former primary that has nothing that the new one lacks follows it by GTID.
pub(super) async fn rejoin(
    servers: &Servers,
    old: &NodeConfig,
    new: &NodeConfig,
) -> Result<String, LeftOut> {
    let mut session = connect(servers, old).await.map_err(LeftOut::ForNow)?;
    let own = session.history().await.map_err(LeftOut::ForNow)?;
    let theirs = async { connect(servers, new).await?.history().await };
    let theirs = theirs.await.map_err(LeftOut::ForNow)?;
    if !theirs.includes(&own) {
        let errant = shown(Some(&Position::Gtids(Arc::new(own.beyond(&theirs)))));
        let (old, new) = (&old.name, &new.name);
        return Err(LeftOut::ForGood(format!("{old} has transactions that {new} lacks: {errant}")));
    }
    if servers.cluster.failover.replication.is_none() {
        let told = "failover.replication does not say as whom it is to log in there";
        return Err(LeftOut::ForGood(told.to_owned()));
    }
    drop(session);
    set_read_only(servers, old, true).await.map_err(LeftOut::ForNow)?;
    let mut session = connect(servers, old).await.map_err(LeftOut::ForNow)?;
    if servers.cluster.engine == Engine::Mariadb {
        // What it has written itself counts as applied.
        let stop = "STOP SLAVE; SET GLOBAL gtid_slave_pos = @@GLOBAL.gtid_current_pos";
        session.run(stop).await.map_err(LeftOut::ForNow)?;
    }
    drop(session);
    follow(servers, old, new).await.map_err(LeftOut::ForNow)
}

/// All stop at the same time, the chosen one as well: it would have to as the next thing.
pub(super) async fn detach(
    servers: &Servers,
    replica: &NodeConfig,
    _: &NodeConfig,
) -> Result<(), String> {
    connect(servers, replica).await?.stop_receiving().await
}

pub(super) async fn reattach(
    servers: &Servers,
    replica: &NodeConfig,
    _: &NodeConfig,
) -> Result<(), String> {
    let mut session = connect(servers, replica).await?;
    session.run(&format!("START {} IO_THREAD", session.words.replica)).await
}

pub(super) async fn checkpoint(_: &Servers, _: &NodeConfig) -> Result<(), String> {
    Ok(())
}

/// The seconds that the receiver waits for a frozen upstream are cut down meanwhile, in one message:
/// what is begun is also undone if the proxy ends.
///
/// A receiver of MariaDB's that confirms what it receives ends its old session at the primary by a
/// new one (`Repl_semi_sync_slave::kill_connection`), before anything else.
pub(super) async fn reconnect(
    servers: &Servers,
    replica: &NodeConfig,
    parts: impl Fn(),
) -> Result<(), String> {
    let mut session = connect(servers, replica).await?;
    let Words { replica: word, bound, .. } = session.words;
    let restart = format!("STOP {word} IO_THREAD; START {word} IO_THREAD");
    let begun = match servers.cluster.engine {
        Engine::Mariadb => {
            parts();
            String::new()
        }
        _ => format!("DO SLEEP({CONNECT_BEGUN_S}); "),
    };
    let shortly = format!(
        "SET @before = @@GLOBAL.{bound}; SET GLOBAL {bound} = {}; {restart}; \
         {begun}SET GLOBAL {bound} = @before",
        SILENT_SOURCE_TIMEOUT.as_secs()
    );
    if session.run(&shortly).await.is_ok() {
        return Ok(());
    }
    // The variable has another name there, or the user may not set it.
    let _ = session.run(&format!("SET GLOBAL {bound} = @before")).await;
    session.run(&restart).await
}

async fn connect<'a>(servers: &'a Servers, node: &NodeConfig) -> Result<Session<'a>, String> {
    let opts = ServiceOpts::by(&servers.cluster, node, &servers.cluster.failover.login);
    let bound = servers.patience();
    let connected = timeout(bound, mysql_connection::connect(&opts)).await;
    let connected = connected.map_err(|_| format!("no answer within {bound:?}"))?;
    let connection = connected.map_err(sentence)?;
    let words = if servers.cluster.engine == Engine::Mariadb { &MARIADB } else { &MYSQL };
    let mut session = Session { servers, connection, words };
    // Who is told to become read-only and has not within that time must not become so later.
    let wait = format!("SET sql_mode = '', lock_wait_timeout = {}", bound.as_secs().max(1));
    session.run(&wait).await?;
    Ok(session)
}

impl Session<'_> {
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), String> {
        self.connection.query_drop(sql).await.map_err(sentence)
    }

    async fn make_writable(&mut self) -> Result<(), String> {
        self.confirm_writes(true).await?;
        self.run(self.words.writable).await
    }

    /// Semi-synchronous replication, where a server that replicates has its part of it: as a
    /// primary it waits for replicas, else not, or what it applies would wait as well.
    async fn confirm_writes(&mut self, on: bool) -> Result<(), String> {
        let show = "SHOW GLOBAL VARIABLES LIKE 'rpl\\_semi\\_sync\\_%\\_enabled'";
        let rows: Vec<(String, String)> = self.connection.query(show).await.map_err(sentence)?;
        let find = |words: [&str; 2]| {
            rows.iter().find(|(name, _)| words.iter().any(|word| name.contains(word)))
        };
        let (waits, confirms) = (find(["_source_", "_master_"]), find(["_replica_", "_slave_"]));
        let (Some((name, now)), Some((_, confirms))) = (waits, confirms) else { return Ok(()) };
        let word = if on { "ON" } else { "OFF" };
        if now == word || on && confirms != "ON" {
            return Ok(());
        }
        self.run(&format!("SET {} {name} = {word}", self.words.kept)).await
    }

    /// Where the server is, and from whom it receives.
    pub(super) async fn place(&mut self) -> Result<(Standing, Option<Channel>), String> {
        let row: Option<Row> =
            self.connection.query_first(self.words.place).await.map_err(sentence)?;
        let row = row.ok_or("no row")?;
        let (written, applied) = (self.gtids(&text(&row, 1))?, self.gtids(&text(&row, 2))?);
        let channel = self.channel().await?;
        let (part, position, reach) = match (flag(&row, 0), &channel) {
            (false, _) => (Part::Primary, written.clone(), written),
            (true, None) => (Part::Neither, written.clone(), written),
            (true, Some(channel)) => {
                let mut received = applied.clone();
                received.unite(&channel.received);
                (Part::Replica, received, applied)
            }
        };
        let at = |gtids: Gtids| Some(Position::Gtids(Arc::new(gtids)));
        let (position, reach) = (at(position), at(reach));
        Ok((Standing { part, system: 0, timeline: None, position, reach }, channel))
    }

    pub(super) async fn channel(&mut self) -> Result<Option<Channel>, String> {
        let rows: Vec<Row> = self.connection.query(self.words.status).await.map_err(sentence)?;
        let [row] = rows.as_slice() else {
            return match rows.len() {
                0 => Ok(None),
                many => Err(format!("it receives from {many} sources")),
            };
        };
        let name = named(row, "Channel_Name");
        if !name.is_empty() {
            return Err(format!("its channel has the name {name}"));
        }
        let receiver = named(row, "Last_IO_Error");
        let error = if receiver.is_empty() { named(row, "Last_SQL_Error") } else { receiver };
        Ok(Some(Channel {
            host: named(row, self.words.host),
            port: named(row, self.words.port).parse().unwrap_or(0),
            receives: named(row, self.words.receives),
            applies: named(row, self.words.applies) == "Yes",
            received: self.gtids(&named(row, self.words.received))?,
            receiver_errno: named(row, "Last_IO_Errno"),
            by_gtid: named(row, "Auto_Position") == "1",
            at_end: named(row, "Read_Source_Log_Pos") == named(row, "Exec_Source_Log_Pos")
                && named(row, "Source_Log_File") == named(row, "Relay_Source_Log_File"),
            error,
        }))
    }

    async fn history(&mut self) -> Result<Gtids, String> {
        let text: Option<String> =
            self.connection.query_first(self.words.history).await.map_err(sentence)?;
        self.gtids(&text.unwrap_or_default())
    }

    fn gtids(&self, text: &str) -> Result<Gtids, String> {
        let parse = match self.servers.cluster.engine {
            Engine::Mariadb => Gtids::parse_heads,
            _ => Gtids::parse_set,
        };
        parse(text).map_err(|error| error.to_string())
    }

    /// Stops receiving and takes writes, with everything that was received; up to where that is.
    async fn take_over(&mut self) -> Result<Position, String> {
        let replica = self.words.replica;
        let listens = self.channel().await?.is_some_and(|channel| channel.receives == "Yes");
        self.stop_receiving().await?;
        let applied = self.apply_all().await?;
        // A primary that hands its part over has sent what it began to send.
        if !listens {
            self.drop_half_transaction().await?;
        }
        self.run(&format!("STOP {replica}")).await?;
        self.make_writable().await?;
        Ok(applied)
    }

    async fn stop_receiving(&mut self) -> Result<(), String> {
        self.await_receiver().await?;
        self.run(&format!("STOP {} IO_THREAD", self.words.replica)).await
    }

    /// A receiver that waits for the first word of a frozen upstream does not hear that it is to
    /// stop, and MySQL tells it again after two seconds only: it is left to give up by itself, for
    /// as long as that takes.
    async fn await_receiver(&mut self) -> Result<(), String> {
        let until = Instant::now() + SILENT_SOURCE_TIMEOUT;
        while self.servers.cluster.engine != Engine::Mariadb {
            let channel = self.channel().await?;
            let is_stuck = channel.is_some_and(|channel| {
                channel.receives == "Connecting" && matches!(&*channel.receiver_errno, "" | "0")
            });
            if !is_stuck || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Makes the server receive from another one; not again if it does already.
    async fn point_at(&mut self, upstream: &NodeConfig) -> Result<(), String> {
        let (host, port) = host_and_port(&upstream.address);
        let channel = self.channel().await?;
        let Words { replica, change, prefix, by_gtid, .. } = self.words;
        if channel.as_ref().is_some_and(|channel| channel.host == host && channel.port == port) {
            return self.run(&format!("START {replica}")).await;
        }
        let is_new = channel.is_none();
        let mut login = match (&self.servers.cluster.failover.replication, channel) {
            (Some(login), _) => {
                let password = login.password.as_ref().map_or("", |word| word.expose_secret());
                let (user, password) = (quoted(&login.user), quoted(password));
                format!(", {prefix}_USER = {user}, {prefix}_PASSWORD = {password}")
            }
            // It keeps those that it has.
            (None, Some(_)) => String::new(),
            (None, None) => {
                return Err("it has no channel, and failover.replication does not say as whom it \
                    is to log in"
                    .to_owned());
            }
        };
        if is_new {
            login += &format!(", {prefix}_CONNECT_RETRY = {CONNECT_RETRY_S}");
        }
        let host = quoted(&host);
        self.await_receiver().await?;
        // Its new source sends that from the beginning, and what there is of it is rolled back before.
        let keeps_applying = !is_new && self.has_half_transaction().await?;
        let stop = if keeps_applying { " IO_THREAD" } else { "" };
        self.run(&format!("STOP {replica}{stop}")).await?;
        if !keeps_applying {
            login += &format!(", {by_gtid}");
        }
        let to = format!("{prefix}_HOST = {host}, {prefix}_PORT = {port}{login}");
        self.run(&format!("{change} {to}")).await?;
        self.run(&format!("START {replica}")).await
    }

    /// Ids and commands of clients' sessions.
    async fn clients(&mut self) -> Result<Vec<(u64, String)>, String> {
        let own = u64::from(self.connection.id());
        let rows: Vec<Row> = self.connection.query("SHOW PROCESSLIST").await.map_err(sentence)?;
        let cluster = &self.servers.cluster;
        let watchers = [cluster.service.user.as_str(), cluster.failover.login.user.as_str()];
        let sessions = rows.iter().filter_map(|row| {
            let id = named(row, "Id").parse().ok().filter(|id| *id != own)?;
            let (user, command) = (named(row, "User"), named(row, "Command"));
            let is_own = OWN_USERS.contains(&&*user) || OWN_COMMANDS.contains(&&*command);
            (!is_own && !watchers.contains(&&*user)).then_some((id, command))
        });
        Ok(sessions.collect())
    }

    async fn end_clients(&mut self) -> Result<usize, String> {
        let mut ended = 0;
        for (id, _) in self.clients().await? {
            match self.connection.query_drop(format!("KILL {id}")).await {
                Ok(()) => ended += 1,
                // It has ended by itself, or is an administrator's.
                Err(Error::Server(_)) => {}
                Err(error) => return Err(sentence(error)),
            }
        }
        Ok(ended)
    }
}

/// A string for SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

pub(super) fn sentence(error: Error) -> String {
    mysql::sentence(&error).to_string()
}
