//! mysql_async: its text and binary protocols, transactions, pool, streams and files.

mod checks;

use anyhow::{Context, Result, ensure};
use checks::{Checks, LARGE_BYTES, PATIENCE, env, same, spread};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use mysql_async::prelude::{Query, Queryable, WithParams};
use mysql_async::{
    ChangeUserOpts, Compression, Conn, Error, IsolationLevel, Opts, OptsBuilder, Pool,
    PoolConstraints, PoolOpts, Row, SslOpts, TxOpts, Value,
};
use std::path::PathBuf;
use std::time::Instant;

fn plain() -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname(env("PGHOST"))
        .tcp_port(env("PGPORT").parse().expect("a port"))
        .user(Some(env("PGUSER")))
        .pass(Some(env("PGPASSWORD")))
        .db_name(Some(env("PGDATABASE")))
        .prefer_socket(false)
}

fn options() -> OptsBuilder {
    let ca = PathBuf::from(env("PGSSLROOTCERT"));
    plain().ssl_opts(SslOpts::default().with_root_certs(vec![ca.into()]))
}

async fn connect() -> Result<Conn> {
    Ok(Conn::new(options()).await?)
}

fn refused<T>(outcome: Result<T, Error>, number: u16) -> Result<()> {
    match outcome.err().context("no error")? {
        Error::Server(error) => same(error.code, number),
        error => Err(error.into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut all = Checks::new("mysql_async", "0.37");
    all.check("connects_over_tls_and_without", connects()).await;
    all.check("text_protocol", text()).await;
    all.check("prepared_statements", prepared()).await;
    all.check("values_of_all_kinds", values()).await;
    all.check("batches", batches()).await;
    all.check("errors_have_the_servers_numbers", errors()).await;
    all.check("several_results", several()).await;
    all.check("transactions", transactions()).await;
    all.check("rows_one_by_one", streams()).await;
    all.check("files_of_the_client", files()).await;
    all.check("large_values", large()).await;
    all.check("compression", compressed()).await;
    all.check("sessions_are_reset_and_change_users", resets()).await;
    all.check("settings_and_session_objects", sessions()).await;
    all.check("reads_its_own_writes", own_writes()).await;
    all.check("pool", pool()).await;
    all.check("reads_spread_over_replicas", spread(|| read_port(false))).await;
    all.check("prepared_reads_spread_over_replicas", spread(|| read_port(true))).await;
    all.end()
}

async fn connects() -> Result<()> {
    for options in [options(), plain()] {
        let mut conn = Conn::new(options.clone()).await?;
        let user: Option<String> =
            conn.query_first("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)").await?;
        same(user, Some(env("PGUSER")))?;
        conn.ping().await?;
        conn.disconnect().await?;
        refused(Conn::new(options.clone().pass(Some("no"))).await, 1045)?;
        refused(Conn::new(options.db_name(Some("nowhere"))).await, 1044)?;
    }
    Ok(())
}

async fn text() -> Result<()> {
    let mut conn = connect().await?;
    conn.query_drop(
        "CREATE TABLE dish (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) UNIQUE, \
         price INT, raw LONGBLOB)",
    )
    .await?;
    for n in 1..=100 {
        conn.query_drop(format!("INSERT INTO dish (name, price) VALUES ('dish {n}', {n})")).await?;
        same(conn.affected_rows(), 1)?;
        same(conn.last_insert_id(), Some(n))?;
    }
    let rows: Vec<(u32, String)> =
        conn.query("SELECT id, name FROM dish WHERE id <= 3 ORDER BY id").await?;
    let expected = [(1, "dish 1"), (2, "dish 2"), (3, "dish 3")];
    same(rows, expected.map(|(id, name)| (id, name.to_owned())).to_vec())?;
    // What other sessions read is not waited for.
    let started = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 10 {
        ensure!(started.elapsed() < PATIENCE, "the rows are not on every server");
        let mut other = connect().await?;
        let count: Option<u32> = other.query_first("SELECT COUNT(*) FROM dish").await?;
        in_a_row = if count == Some(100) { in_a_row + 1 } else { 0 };
        other.disconnect().await?;
    }
    Ok(())
}

async fn prepared() -> Result<()> {
    let mut conn = connect().await?;
    for id in 1..=50 {
        let name: Option<String> =
            conn.exec_first("SELECT name FROM dish WHERE id = ?", (id,)).await?;
        same(name, Some(format!("dish {id}")))?;
    }
    // More than the driver keeps: it closes the oldest.
    for n in 0..50 {
        let sum: Option<i64> = conn.exec_first(format!("SELECT ? + {n}"), (1,)).await?;
        same(sum, Some(n + 1))?;
    }
    let statement = conn.prep("SELECT name FROM dish WHERE id = ? AND price = ?").await?;
    for id in [7, 8] {
        let parameters = (id, id);
        let name: Option<String> = conn.exec_first(&statement, parameters).await?;
        same(name, Some(format!("dish {id}")))?;
    }
    Ok(conn.close(statement).await?)
}

async fn values() -> Result<()> {
    let mut conn = connect().await?;
    let row: Row = conn
        .exec_first(
            "SELECT CAST(? AS CHAR), ?, CAST(? AS DECIMAL(10, 2)), CAST(? AS DATETIME(6)), ?",
            ("ünïcödé 🍛", 1.5_f64, "12.50", "2026-11-21 17:00:01.25", Value::NULL),
        )
        .await?
        .context("a row")?;
    same(row.get::<String, _>(0).as_deref(), Some("ünïcödé 🍛"))?;
    same(row.get::<f64, _>(1), Some(1.5))?;
    same(row.get::<String, _>(2).as_deref(), Some("12.50"))?;
    same(row.get::<Value, _>(3), Some(Value::Date(2026, 11, 21, 17, 0, 1, 250_000)))?;
    same(row.get::<Value, _>(4), Some(Value::NULL))
}

async fn batches() -> Result<()> {
    let mut conn = connect().await?;
    let rows = (1..=200).map(|n| (format!("batch {n}"), n));
    conn.exec_batch("INSERT INTO dish (name, price) VALUES (?, ?)", rows).await?;
    let count: Option<u32> =
        conn.query_first("SELECT COUNT(*) FROM dish WHERE name LIKE 'batch %'").await?;
    same(count, Some(200))
}

async fn errors() -> Result<()> {
    let mut conn = connect().await?;
    refused(conn.query_drop("SELECT * FROM no_such_table").await, 1146)?;
    refused(conn.query_drop("SELEC 1").await, 1064)?;
    refused(conn.exec_drop("INSERT INTO dish (name) VALUES (?)", ("dish 1",)).await, 1062)?;
    refused(conn.prep("SELEC ?").await, 1064)?;
    same(conn.query_first("SELECT 1").await?, Some(1))
}

async fn several() -> Result<()> {
    let mut conn = connect().await?;
    let mut result = conn.query_iter("SELECT 1; SELECT 2, 3; DO 1; SELECT 4").await?;
    same(result.collect::<u8>().await?, vec![1])?;
    same(result.collect::<(u8, u8)>().await?, vec![(2, 3)])?;
    same(result.collect::<u8>().await?, vec![])?;
    same(result.collect::<u8>().await?, vec![4])?;
    result.drop_result().await?;
    conn.query_drop("CREATE PROCEDURE two(IN a INT) BEGIN SELECT a; SELECT a + 1; END").await?;
    let mut result = conn.exec_iter("CALL two(?)", (5,)).await?;
    same(result.collect::<u8>().await?, vec![5])?;
    same(result.collect::<u8>().await?, vec![6])?;
    Ok(result.drop_result().await?)
}

async fn transactions() -> Result<()> {
    let mut conn = connect().await?;
    let gone = "SELECT COUNT(*) FROM dish WHERE name = 'gone'";
    let levels = [IsolationLevel::ReadCommitted, IsolationLevel::Serializable];
    for level in levels.map(Some).into_iter().chain([None]) {
        let mut options = TxOpts::new();
        options.with_isolation_level(level);
        let mut transaction = conn.start_transaction(options).await?;
        transaction.query_drop("INSERT INTO dish (name) VALUES ('gone')").await?;
        same(transaction.query_first(gone).await?, Some(1))?;
        transaction.rollback().await?;
        same(conn.query_first(gone).await?, Some(0))?;
    }
    let mut options = TxOpts::new();
    options.with_readonly(true).with_consistent_snapshot(true);
    let mut transaction = conn.start_transaction(options).await?;
    refused(transaction.query_drop("DELETE FROM dish").await, 1792)?;
    transaction.commit().await?;
    // Dropped in the middle: the connection rolls back before its next use.
    let mut transaction = conn.start_transaction(TxOpts::default()).await?;
    transaction.query_drop("INSERT INTO dish (name) VALUES ('gone')").await?;
    drop(transaction);
    same(conn.query_first(gone).await?, Some(0))
}

async fn streams() -> Result<()> {
    let mut conn = connect().await?;
    let mut rows = "SELECT id FROM dish WHERE id <= ? ORDER BY id"
        .with((100,))
        .stream::<u32, _>(&mut conn)
        .await?;
    let mut ids = Vec::new();
    while let Some(id) = rows.try_next().await? {
        ids.push(id);
    }
    drop(rows);
    same(ids, (1..=100).collect())?;
    // Left half-way: the rest is read at the next use.
    let mut rows = "SELECT id FROM dish".stream::<u32, _>(&mut conn).await?;
    rows.next().await.context("a row")??;
    drop(rows);
    Ok(conn.ping().await?)
}

async fn files() -> Result<()> {
    let mut conn = connect().await?;
    conn.set_infile_handler(async {
        let lines = (0..1000).map(|n| Ok(format!("loaded {n},{n}\n").into()));
        Ok(futures_util::stream::iter(lines.collect::<Vec<_>>()).boxed())
    });
    conn.query_drop(
        "LOAD DATA LOCAL INFILE 'dishes' INTO TABLE dish FIELDS TERMINATED BY ',' (name, price)",
    )
    .await?;
    let count = "SELECT COUNT(*) FROM dish WHERE name LIKE 'loaded %'";
    same(conn.query_first(count).await?, Some(1000))
}

async fn large() -> Result<()> {
    let mut conn = connect().await?;
    let data: Vec<u8> = (0..=255).cycle().take(LARGE_BYTES).collect();
    // Longer than a packet may be: sent in pieces.
    for _ in 0..2 {
        conn.exec_drop("REPLACE INTO dish (name, raw) VALUES ('large', ?)", (&data,)).await?;
    }
    let found: Option<Vec<u8>> =
        conn.query_first("SELECT raw FROM dish WHERE name = 'large'").await?;
    ensure!(found.as_ref() == Some(&data), "another value came back");
    Ok(())
}

async fn compressed() -> Result<()> {
    let mut conn = Conn::new(options().compression(Some(Compression::default()))).await?;
    let text = "lunch ".repeat(100_000);
    let found: Option<String> = conn.exec_first("SELECT ?", (&text,)).await?;
    ensure!(found.as_ref() == Some(&text), "another value came back");
    Ok(())
}

async fn resets() -> Result<()> {
    let mut conn = connect().await?;
    conn.query_drop("SET @a = 1").await?;
    conn.reset().await?;
    same(conn.query_first::<Option<u8>, _>("SELECT @a").await?, Some(None))?;
    conn.query_drop("SET @a = 1").await?;
    conn.change_user(ChangeUserOpts::default()).await?;
    same(conn.query_first::<Option<u8>, _>("SELECT @a").await?, Some(None))?;
    same(conn.query_first("SELECT DATABASE()").await?, Some(env("PGDATABASE")))
}

async fn sessions() -> Result<()> {
    let wanted = options().setup(vec!["SET SESSION sort_buffer_size = 1048576"]);
    let (mut conn, mut other) = (Conn::new(wanted).await?, connect().await?);
    for _ in 0..5 {
        same(
            conn.query_first("SELECT @@sort_buffer_size FROM dish LIMIT 1").await?,
            Some(1048576),
        )?;
    }
    conn.query_drop("CREATE TEMPORARY TABLE mine AS SELECT 7 AS n").await?;
    for _ in 0..5 {
        same(conn.query_first("SELECT n FROM mine").await?, Some(7))?;
    }
    refused(other.query_drop("SELECT n FROM mine").await, 1146)?;
    let lock = format!("SELECT GET_LOCK('{}', 0)", env("PGDATABASE"));
    same(conn.query_first(&lock).await?, Some(1))?;
    same(other.query_first(&lock).await?, Some(0))
}

async fn own_writes() -> Result<()> {
    let mut conn = connect().await?;
    conn.query_drop("CREATE TABLE counter (n INT)").await?;
    conn.query_drop("INSERT INTO counter VALUES (0)").await?;
    for n in 1..50_i32 {
        conn.exec_drop("UPDATE counter SET n = ?", (n,)).await?;
        same(conn.query_first("SELECT n FROM counter").await?, Some(n))?;
    }
    Ok(())
}

async fn pool() -> Result<()> {
    let limits = PoolConstraints::new(0, 6).context("limits")?;
    let pool_options = PoolOpts::default().with_constraints(limits);
    let pool = Pool::new(Opts::from(options().pool_opts(pool_options)));
    pool.get_conn().await?.query_drop("UPDATE counter SET n = 0").await?;
    let work = (0..60).map(|_| async {
        let mut conn = pool.get_conn().await?;
        let mut transaction = conn.start_transaction(TxOpts::default()).await?;
        transaction.exec_drop("UPDATE counter SET n = n + ?", (1,)).await?;
        transaction.commit().await?;
        let count = conn.exec_first("SELECT COUNT(*) FROM dish WHERE id <= ?", (100,)).await?;
        anyhow::Ok(count)
    });
    for outcome in join_all(work).await {
        same(outcome?, Some(100))?;
    }
    let mut conn = pool.get_conn().await?;
    same(conn.query_first("/* tiffin: primary */ SELECT n FROM counter").await?, Some(60))?;
    drop(conn);
    Ok(pool.disconnect().await?)
}

async fn read_port(prepared: bool) -> Result<i32> {
    let mut conn = connect().await?;
    let port = match prepared {
        true => conn.exec_first("SELECT @@port FROM dish WHERE id >= ? LIMIT 1", (1,)).await?,
        false => conn.query_first("SELECT @@port FROM dish LIMIT 1").await?,
    };
    conn.disconnect().await?;
    port.context("a row")
}
