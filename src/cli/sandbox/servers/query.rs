//! SQL for tours, tests and administration: a session that blocks, with text in and text out.

use super::group::Sql;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage};

/// Nothing that is asked here takes longer unless a server hangs, also on a machine that builds
/// something else at the same time.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Rows of text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// One connection with a runtime of its own. Not to be used inside an async runtime.
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    pub fn connect(config: &Config) -> Result<Session> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let connect = timeout(QUERY_TIMEOUT, config.connect(NoTls));
            let (client, connection) = connect.await.context("no answer to the login")??;
            // Its error reaches the caller through the client.
            tokio::spawn(async { connection.await.ok() });
            anyhow::Ok(client)
        })?;
        Ok(Session { runtime, client })
    }

    /// Runs one statement or several by the simple protocol and returns all rows.
    pub fn query(&self, sql: &str) -> Result<Rows> {
        let messages = self.block_on(sql, self.client.simple_query(sql))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_string)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row; empty for NULL.
    pub fn value(&self, sql: &str) -> Result<String> {
        let first = self.query(sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        first.map(Option::unwrap_or_default).with_context(|| format!("no row: {sql}"))
    }

    /// Runs one statement by the extended protocol.
    pub fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.block_on(sql, self.client.query(sql, parameters))
    }

    /// For what has no method here; to be run by [`Session::block_on`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for an answer of [`Session::client`]; `sql` is for the error.
    ///
    /// # Errors
    /// The server's, with their code, and when there is no answer.
    pub fn block_on<T>(
        &self,
        sql: &str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let answer =
            async { anyhow::Ok(timeout(QUERY_TIMEOUT, answer).await.context("no answer")??) };
        self.runtime.block_on(answer).with_context(|| sql.to_string())
    }
}

impl Sql for Session {
    fn query(&self, sql: &str) -> Result<Rows> {
        Session::query(self, sql)
    }
}

/// Runs SQL as superuser over the Unix socket in the cluster's folder. May be called anywhere.
pub fn query(socket_folder: &Path, port: u16, database: &str, sql: &str) -> Result<Rows> {
    let mut config = Config::new();
    config.host_path(socket_folder).port(port).user("postgres").dbname(database);
    config.application_name("tiffin-servers");
    // A thread of its own, since the caller may be inside an async runtime.
    let result = std::thread::scope(|scope| {
        let task = scope.spawn(|| Session::connect(&config)?.query(sql));
        task.join().unwrap_or_else(|_| bail!("the querying thread panicked"))
    });
    result.with_context(|| format!("port {port}"))
}

/// The SQLSTATE of an error that a server or the proxy sent.
pub fn sqlstate(error: &anyhow::Error) -> Option<&str> {
    let error = error.chain().find_map(|cause| cause.downcast_ref::<tokio_postgres::Error>())?;
    error.code().map(|state| state.code())
}

/// `text` as a literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
