//! SQL for a server's administration: one connection per call, as superuser, over the Unix
//! socket in the cluster's folder.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// Nothing that is asked here takes longer unless the server hangs.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows of text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Runs `sql` (one statement or several) and returns all rows.
pub fn query(socket_folder: &Path, port: u16, database: &str, sql: &str) -> Result<Rows> {
    let mut config = Config::new();
    config.host_path(socket_folder).port(port).user("postgres").dbname(database);
    config.application_name("tiffin-servers").connect_timeout(QUERY_TIMEOUT);
    // A thread of its own, since a caller inside an async runtime may not start another one.
    let result = std::thread::scope(|scope| {
        let task = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::time::timeout(QUERY_TIMEOUT, run(config, sql)).await.context("no answer")?
            })
        });
        task.join().unwrap_or_else(|_| bail!("the querying thread panicked"))
    });
    result.with_context(|| format!("port {port}: {sql}"))
}

async fn run(config: Config, sql: &str) -> Result<Rows> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = async {
        connection.await?;
        std::future::pending::<Result<Rows>>().await
    };
    let answer = async {
        let messages = client.simple_query(sql).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_string)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    };
    tokio::select! {
        biased;
        rows = answer => rows,
        failed = connection => failed,
    }
}

/// `text` as a literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
