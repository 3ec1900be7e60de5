//! sqlx on MySQL and MariaDB: its pool, migrations, transactions and streams.

mod checks;

use anyhow::{Context, Result, ensure};
use checks::{Checks, LARGE_BYTES, PATIENCE, env, same, spread};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use sqlx::migrate::Migrator;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, Connection, Error, Executor, MySqlConnection, Row};
use std::path::Path;
use std::time::{Duration, Instant};

fn options() -> MySqlConnectOptions {
    MySqlConnectOptions::new()
        .host(&env("PGHOST"))
        .port(env("PGPORT").parse().expect("a port"))
        .username(&env("PGUSER"))
        .password(&env("PGPASSWORD"))
        .database(&env("PGDATABASE"))
        .ssl_mode(MySqlSslMode::VerifyIdentity)
        .ssl_ca(env("PGSSLROOTCERT"))
}

async fn connect() -> Result<MySqlConnection> {
    Ok(MySqlConnection::connect_with(&options()).await?)
}

/// The SQLSTATE is what sqlx calls the code.
fn refused<T>(outcome: Result<T, Error>, state: &str) -> Result<()> {
    let error = outcome.err().context("no error")?;
    let found = error.as_database_error().and_then(|error| error.code());
    same(found.with_context(|| error.to_string())?.as_ref(), state)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut all = Checks::new("sqlx (MySQL)", "0.9.0");
    all.check("connects_over_tls_and_without", connects()).await;
    all.check("migrations", migrations()).await;
    all.check("prepared_statements", prepared_statements()).await;
    all.check("transactions", transactions()).await;
    all.check("errors_have_their_fields", errors()).await;
    all.check("rows_one_by_one", streams()).await;
    all.check("timeouts", timeouts()).await;
    all.check("large_values", large_values()).await;
    all.check("settings_and_session_objects", sessions()).await;
    all.check("reads_its_own_writes", own_writes()).await;
    all.check("pool", pool()).await;
    all.check("reads_spread_over_replicas", spread(|| read_port(true))).await;
    all.check("unprepared_reads_spread_over_replicas", spread(|| read_port(false))).await;
    all.end()
}

async fn connects() -> Result<()> {
    for mode in [MySqlSslMode::VerifyIdentity, MySqlSslMode::Disabled] {
        let options = options().ssl_mode(mode);
        let mut conn = MySqlConnection::connect_with(&options).await?;
        let sql = "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)";
        same(sqlx::query_scalar::<_, String>(sql).fetch_one(&mut conn).await?, env("PGUSER"))?;
        conn.ping().await?;
        conn.close().await?;
    }
    // Without TLS the driver would want RSA, which is not built in.
    refused(MySqlConnection::connect_with(&options().password("no")).await, "28000")
}

/// They hold a lock of the server's, and are told apart by checksums.
async fn migrations() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations_mysql");
    let migrator = Migrator::new(folder).await?;
    let pool = MySqlPool::connect_with(options()).await?;
    migrator.run(&pool).await?;
    migrator.run(&pool).await?;
    let sql = "SELECT COUNT(*) FROM _sqlx_migrations WHERE success";
    same(sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await?, 3)?;
    pool.close().await;
    // What other sessions read is not waited for.
    let (started, mut in_a_row) = (Instant::now(), 0);
    while in_a_row < 10 {
        ensure!(started.elapsed() < PATIENCE, "the tables are not on every server");
        let mut conn = connect().await?;
        let sql = "SELECT total() + COUNT(heat) FROM dish";
        let found = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut conn).await;
        in_a_row = if matches!(found, Ok(5150)) { in_a_row + 1 } else { 0 };
        conn.close().await?;
    }
    Ok(())
}

async fn prepared_statements() -> Result<()> {
    let mut conn = connect().await?;
    for id in 1..=30 {
        let sql = "SELECT name FROM dish WHERE id = ?";
        let name: String = sqlx::query_scalar(sql).bind(id).fetch_one(&mut conn).await?;
        same(name, format!("dish {id}"))?;
    }
    // More than the driver keeps: it closes the oldest.
    for n in 0..110 {
        let sql = format!("SELECT CAST(? AS SIGNED) + {n}");
        let sum: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(1).fetch_one(&mut conn).await?;
        same(sum, n + 1)?;
    }
    let row = sqlx::query("SELECT CAST(? AS CHAR) AS text, ? AS number, ? AS nothing")
        .bind("ünïcödé 🍛")
        .bind(1.5_f64)
        .bind(None::<String>)
        .fetch_one(&mut conn)
        .await?;
    same(row.get::<String, _>("text").as_str(), "ünïcödé 🍛")?;
    same(row.get::<f64, _>("number"), 1.5)?;
    same(row.get::<Option<String>, _>("nothing"), None)
}

async fn transactions() -> Result<()> {
    let mut conn = connect().await?;
    let mut outer = Connection::begin(&mut conn).await?;
    outer.execute("INSERT INTO dish (id, name) VALUES (1001, 'kept')").await?;
    let mut inner = outer.begin().await?;
    inner.execute("INSERT INTO dish (id, name) VALUES (1002, 'dropped')").await?;
    let twice = inner.execute("INSERT INTO dish (id, name) VALUES (1001, 'twice')").await;
    refused(twice, "23000")?;
    inner.rollback().await?;
    outer.commit().await?;
    let mut dropped = Connection::begin(&mut conn).await?;
    dropped.execute("INSERT INTO dish (id, name) VALUES (1003, 'dropped')").await?;
    drop(dropped);
    let sql = "SELECT COUNT(*) FROM dish WHERE id > 1000";
    same(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut conn).await?, 1)?;
    let mut reading = conn.begin_with("START TRANSACTION READ ONLY").await?;
    refused(reading.execute("DELETE FROM dish").await, "25006")?;
    Ok(reading.rollback().await?)
}

async fn errors() -> Result<()> {
    let mut conn = connect().await?;
    let error = conn.execute("INSERT INTO dish (id, name) VALUES (1, 'again')").await.err();
    let error = error.as_ref().and_then(Error::as_database_error).context("no error")?;
    same(error.is_unique_violation(), true)?;
    for (sql, state) in [("SELEC ?", "42000"), ("SELECT ? FROM nowhere", "42S02")] {
        refused(sqlx::query(sql).bind(1).fetch_all(&mut conn).await, state)?;
        refused(conn.execute(AssertSqlSafe(sql.replace('?', "1"))).await, state)?;
    }
    Ok(conn.ping().await?)
}

async fn streams() -> Result<()> {
    let mut conn = connect().await?;
    let sql = "SELECT id FROM dish WHERE id <= ? ORDER BY id";
    let mut rows = sqlx::query(sql).bind(100).fetch(&mut conn);
    let mut ids = Vec::new();
    while let Some(row) = rows.try_next().await? {
        ids.push(row.get::<i32, _>(0));
    }
    drop(rows);
    same(ids, (1..=100).collect())?;
    // Left half-way: the rest is read at the next use.
    let mut rows = sqlx::query("SELECT * FROM dish a, dish b").fetch(&mut conn);
    rows.try_next().await?;
    drop(rows);
    Ok(conn.ping().await?)
}

async fn timeouts() -> Result<()> {
    // A client that no longer waits drops its connection in the middle of the statement.
    let mut conn = connect().await?;
    let late = conn.execute("SELECT SLEEP(30)");
    ensure!(tokio::time::timeout(Duration::from_millis(200), late).await.is_err(), "no timeout");
    Ok(())
}

async fn large_values() -> Result<()> {
    let mut conn = connect().await?;
    let data: Vec<u8> = (0..=255).cycle().take(LARGE_BYTES).collect();
    conn.execute("CREATE TABLE large (data LONGBLOB)").await?;
    sqlx::query("INSERT INTO large VALUES (?)").bind(&data).execute(&mut conn).await?;
    let found: Vec<u8> = sqlx::query_scalar("SELECT data FROM large").fetch_one(&mut conn).await?;
    ensure!(found == data, "another value came back");
    Ok(())
}

async fn sessions() -> Result<()> {
    let (mut conn, mut other) = (connect().await?, connect().await?);
    conn.execute("SET SESSION sort_buffer_size = 1048576").await?;
    for _ in 0..5 {
        let sql = "SELECT CAST(@@sort_buffer_size AS SIGNED) FROM dish LIMIT 1";
        same(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut conn).await?, 1_048_576)?;
        // The driver has set PIPES_AS_CONCAT.
        let sql = "SELECT name || '!' FROM dish WHERE id = 1";
        same(sqlx::query_scalar::<_, String>(sql).fetch_one(&mut conn).await?, "dish 1!".into())?;
    }
    conn.execute("CREATE TEMPORARY TABLE mine AS SELECT 7 AS n").await?;
    for _ in 0..5 {
        let found: i32 = sqlx::query_scalar("SELECT n FROM mine").fetch_one(&mut conn).await?;
        same(found, 7)?;
    }
    refused(other.execute("SELECT n FROM mine").await, "42S02")
}

async fn own_writes() -> Result<()> {
    let mut conn = connect().await?;
    conn.execute("CREATE TABLE counter (n INT)").await?;
    conn.execute("INSERT INTO counter VALUES (0)").await?;
    for n in 1..50_i32 {
        sqlx::query("UPDATE counter SET n = ?").bind(n).execute(&mut conn).await?;
        let found: i32 = sqlx::query_scalar("SELECT n FROM counter").fetch_one(&mut conn).await?;
        same(found, n)?;
    }
    Ok(())
}

async fn pool() -> Result<()> {
    let pool = MySqlPoolOptions::new().max_connections(6).connect_with(options()).await?;
    pool.execute("UPDATE counter SET n = 0").await?;
    let work = (0..60).map(|_| async {
        let mut transaction = pool.begin().await?;
        sqlx::query("UPDATE counter SET n = n + ?").bind(1).execute(&mut *transaction).await?;
        transaction.commit().await?;
        let sql = "SELECT COUNT(*) FROM dish WHERE id <= ?";
        let count: i64 = sqlx::query_scalar(sql).bind(100).fetch_one(&pool).await?;
        anyhow::Ok(count)
    });
    for outcome in join_all(work).await {
        same(outcome?, 100)?;
    }
    let sql = "/* tiffin: primary */ SELECT n FROM counter";
    let found: i32 = sqlx::query_scalar(sql).fetch_one(&pool).await?;
    same(found, 60)?;
    pool.close().await;
    Ok(())
}

async fn read_port(persistent: bool) -> Result<i32> {
    let mut conn = connect().await?;
    let sql = "SELECT CAST(@@port AS SIGNED) FROM dish WHERE id >= ? LIMIT 1";
    let port: i64 =
        sqlx::query_scalar(sql).bind(1).persistent(persistent).fetch_one(&mut conn).await?;
    conn.close().await?;
    Ok(i32::try_from(port)?)
}
