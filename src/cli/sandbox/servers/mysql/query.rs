//! SQL for tours, tests and administration: a session that blocks, with text in and text out.

use super::super::group::{Login, Sql};
use super::super::query::{QUERY_TIMEOUT, Rows};
use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// One connection with a runtime of its own. Not to be used inside an async runtime.
pub struct Session {
    runtime: Runtime,
    connection: Mutex<Conn>,
}

impl Session {
    pub fn connect(opts: &Opts) -> Result<Session> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(async {
            let connect = timeout(QUERY_TIMEOUT, Conn::new(opts.clone()));
            anyhow::Ok(connect.await.context("no answer to the login")??)
        })?;
        Ok(Session { runtime, connection: Mutex::new(connection) })
    }

    /// The number that the other side has greeted with.
    pub fn id(&self) -> u32 {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Runs one statement or several by the text protocol and returns the rows of the first.
    pub fn query(&self, sql: &str) -> Result<Rows> {
        let rows = self.rows(sql)?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    /// The column of this name of the first row; empty for NULL and if there is no row.
    pub fn column(&self, sql: &str, name: &str) -> Result<String> {
        let Some(row) = self.rows(sql)?.into_iter().next() else { return Ok(String::new()) };
        let mut columns = row.columns_ref().iter();
        let index = columns.position(|column| column.name_str() == name);
        let value = index.and_then(|index| row.as_ref(index));
        let value = value.with_context(|| format!("no column {name}: {sql}"))?;
        Ok(text(value.clone()).unwrap_or_default())
    }

    fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.runtime.block_on(async {
            let answer = connection.query::<Row, _>(sql);
            anyhow::Ok(timeout(QUERY_TIMEOUT, answer).await.context("no answer")??)
        });
        rows.with_context(|| sql.to_string())
    }

    /// The first column of the first row; empty for NULL.
    pub fn value(&self, sql: &str) -> Result<String> {
        let first = self.query(sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        first.map(Option::unwrap_or_default).with_context(|| format!("no row: {sql}"))
    }

    pub fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }
}

impl Sql for Session {
    fn query(&self, sql: &str) -> Result<Rows> {
        Session::query(self, sql)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The connection tells the server that it goes, and needs the runtime for it.
        let _inside = self.runtime.enter();
    }
}

/// `None` for NULL.
fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}

/// Runs SQL as `root` over this Unix socket. May be called anywhere.
pub fn query(socket: &Path, sql: &str) -> Result<Rows> {
    on_socket(socket, |session| session.query(sql))
}

/// The column of this name of the first row; empty for NULL and if there is no row.
pub fn column(socket: &Path, sql: &str, name: &str) -> Result<String> {
    on_socket(socket, |session| session.column(sql, name))
}

fn on_socket<T: Send>(socket: &Path, ask: impl FnOnce(&Session) -> Result<T> + Send) -> Result<T> {
    let socket = socket.to_str().context("the socket's path is not UTF-8")?;
    let opts = OptsBuilder::default().socket(Some(socket)).user(Some("root"));
    let opts = Opts::from(opts);
    // A thread of its own, since the caller may be inside an async runtime.
    std::thread::scope(|scope| {
        let task = scope.spawn(|| ask(&Session::connect(&opts)?));
        task.join().unwrap_or_else(|_| bail!("the querying thread panicked"))
    })
}

/// How this user connects to 127.0.0.1, to the database `app`.
pub fn client_opts(port: u16, login: &Login) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(&login.user))
        .pass(Some(&login.password))
        .db_name(Some("app"))
        .prefer_socket(false)
}

/// The number of an error that a server or the proxy sent.
pub fn errno(error: &anyhow::Error) -> Option<u16> {
    let error = error.chain().find_map(|cause| cause.downcast_ref::<mysql_async::Error>())?;
    match error {
        mysql_async::Error::Server(error) => Some(error.code),
        _ => None,
    }
}
