//! The servers of one cluster, of whatever kind, and the folder that they share.

use super::folder::{Folder, random_hex};
use super::process::Process;
use super::query::Rows;
use anyhow::{Context, Result};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// A login of the new servers, all with random passwords.
#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// The logins that every cluster has.
pub struct Logins {
    /// May do everything: `postgres`, for MySQL `admin`.
    pub superuser: Login,
    /// `tiffin`: may see what the proxy's probes ask for, and the hashes of passwords.
    pub service: Login,
    /// `app`: owner of the database `app`, where applications play.
    pub app: Login,
    /// `replicator`: may receive from a primary.
    pub replicator: Login,
}

impl Logins {
    pub(super) fn random(superuser: &str) -> Result<Logins> {
        let login = |user: &str| -> Result<Login> {
            Ok(Login { user: user.into(), password: random_hex(16)? })
        };
        Ok(Logins {
            superuser: login(superuser)?,
            service: login("tiffin")?,
            app: login("app")?,
            replicator: login("replicator")?,
        })
    }

    pub(super) fn all(&self) -> [&Login; 4] {
        [&self.superuser, &self.service, &self.app, &self.replicator]
    }
}

/// A server of a cluster: what tours and tests do to it, whatever its engine.
pub trait Member: Deref<Target = Process> + Sync + Sized {
    type Session: Sql;

    /// SQL for the port of the server that runs it.
    const OWN_PORT: &'static str;

    /// A session of this user in the database `app`, with a server or the proxy.
    ///
    /// # Errors
    /// Those of the server, with their code.
    fn session(port: u16, login: &Login) -> Result<Self::Session>;

    /// Ends it with its data intact.
    ///
    /// # Errors
    /// When it does not end in time.
    fn stop_in_order(&self) -> Result<()>;

    /// Makes a replica a primary that has all that it had received.
    ///
    /// # Errors
    /// When the server refuses, or does not get there in time.
    fn take_over(&self) -> Result<()>;

    /// Replica: applies everything this many seconds late.
    ///
    /// # Errors
    /// When the server refuses.
    fn apply_late(&self, seconds: u32) -> Result<()>;

    /// Waits until every running replica has applied what this server has written until now.
    ///
    /// # Errors
    /// When one does not.
    fn wait_caught_up(&self, cluster: &Group<Self>) -> Result<()>;

    /// Makes this replica follow another server.
    ///
    /// # Errors
    /// When the server refuses.
    fn follow(&self, cluster: &Group<Self>, upstream: &Self) -> Result<()>;

    /// Starts this stopped former primary, which has written nothing that `upstream` has not, as
    /// its replica.
    ///
    /// # Errors
    /// When it does not start.
    fn rejoin(&self, cluster: &Group<Self>, upstream: &Self) -> Result<()>;
}

/// A session that blocks, with text in and text out.
pub trait Sql: Send + Sync {
    /// Runs one statement and returns its rows.
    ///
    /// # Errors
    /// Those of the server, with their code.
    fn query(&self, sql: &str) -> Result<Rows>;

    /// The first column of the first row; empty for NULL.
    ///
    /// # Errors
    /// As [`Sql::query`], and if there is no row.
    fn value(&self, sql: &str) -> Result<String> {
        let first = self.query(sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        first.map(Option::unwrap_or_default).with_context(|| format!("no row: {sql}"))
    }
}

/// One primary and its replicas. Dropping it ends the servers and deletes the folder.
pub struct Group<S: Member> {
    /// The servers, first the one that was the primary at the start.
    servers: Vec<S>,
    pub(super) logins: Logins,
    /// Last, since the servers must be dropped first.
    folder: Arc<Folder>,
}

impl<S: Member> Group<S> {
    pub(super) fn new(servers: Vec<S>, logins: Logins, folder: Arc<Folder>) -> Group<S> {
        Group { servers, logins, folder }
    }

    /// The server that was the primary at the start, whatever it is now.
    pub fn primary(&self) -> &S {
        &self.servers[0]
    }

    /// The replica with this number, from 0.
    pub fn replica(&self, number: usize) -> &S {
        &self.servers[number + 1]
    }

    pub fn replicas(&self) -> &[S] {
        &self.servers[1..]
    }

    pub fn servers(&self) -> &[S] {
        &self.servers
    }

    /// The server that listens on this port, as `inet_server_port()` or `@@port` tells it.
    pub fn by_port(&self, port: u16) -> Option<&S> {
        self.servers.iter().find(|server| server.port == port)
    }

    /// The folder of everything. What else runs with its working directory in it is ended with
    /// the servers: start the proxy there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything that runs in the folder at once, as dropping does.
    pub fn end(&self) {
        self.folder.end();
    }

    /// Ends all servers in order with their data intact, for a folder that is kept.
    pub fn stop(&self) -> Result<()> {
        self.servers.iter().filter(|server| server.is_running()).try_for_each(|server| {
            server.sigcont()?;
            server.stop_in_order()
        })
    }
}

impl<S: Member> Deref for Group<S> {
    type Target = Logins;

    fn deref(&self) -> &Logins {
        &self.logins
    }
}

impl<S: Member> Drop for Group<S> {
    fn drop(&mut self) {
        self.end();
        self.servers.iter().for_each(|server| server.reap());
    }
}
