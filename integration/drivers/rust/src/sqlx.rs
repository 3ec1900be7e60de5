//! sqlx: its pool, migrations, listener and COPY.

mod checks;

use anyhow::{Context, Result, ensure};
use checks::{Checks, LARGE_BYTES, env, same, spread};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Error, Executor, PgConnection, Row};
use std::path::Path;
use std::time::Duration;

/// All of it is in the environment's variables of libpq.
fn options() -> PgConnectOptions {
    PgConnectOptions::new()
}

async fn connect() -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&options()).await?)
}

fn refused<T>(outcome: Result<T, Error>, state: &str) -> Result<()> {
    let error = outcome.err().context("no error")?;
    let found = error.as_database_error().and_then(|error| error.code());
    same(found.with_context(|| error.to_string())?.as_ref(), state)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut all = Checks::new("sqlx", "0.9.0");
    all.check("connects_with_scram_over_tls", connects()).await;
    all.check("migrations", migrations()).await;
    all.check("prepared_statements", prepared_statements()).await;
    all.check("transactions", transactions()).await;
    all.check("errors_have_their_fields", errors()).await;
    all.check("rows_one_by_one", streams()).await;
    all.check("copy_both_ways", copy()).await;
    all.check("timeouts", timeouts()).await;
    all.check("listen_and_notify", notifications()).await;
    all.check("large_values", large_values()).await;
    all.check("settings_and_session_objects", sessions()).await;
    all.check("reads_its_own_writes", own_writes()).await;
    all.check("pool", pool()).await;
    all.check("reads_spread_over_replicas", spread(|| read_port(true))).await;
    all.check("unprepared_reads_spread_over_replicas", spread(|| read_port(false))).await;
    all.end()
}

async fn connects() -> Result<()> {
    let mut conn = connect().await?;
    let user: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut conn).await?;
    same(user, env("PGUSER"))?;
    conn.ping().await?;
    conn.close().await?;
    refused(PgConnection::connect_with(&options().password("no")).await, "28P01")
}

/// They hold an advisory lock, run in transactions or without, and are told apart by checksums.
async fn migrations() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let migrator = Migrator::new(folder).await?;
    let pool = PgPool::connect_with(options()).await?;
    migrator.run(&pool).await?;
    migrator.run(&pool).await?;
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success")
        .fetch_one(&pool)
        .await?;
    same(done, 3)?;
    pool.close().await;
    Ok(())
}

async fn prepared_statements() -> Result<()> {
    let mut conn = connect().await?;
    for id in 1..=30 {
        let name: String = sqlx::query_scalar("SELECT name FROM dish WHERE id = $1")
            .bind(id)
            .fetch_one(&mut conn)
            .await?;
        same(name, format!("dish {id}"))?;
    }
    // More than the driver keeps: it closes the oldest.
    for n in 0..110 {
        let sql = format!("SELECT $1::int + {n}");
        let sum: i32 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(1).fetch_one(&mut conn).await?;
        same(sum, n + 1)?;
    }
    let row = sqlx::query("SELECT $1::jsonb AS facts, $2::int[] AS numbers, $3::text AS nothing")
        .bind(sqlx::types::Json(vec![1, 2]))
        .bind(vec![1, 2])
        .bind(None::<String>)
        .fetch_one(&mut conn)
        .await?;
    same(row.get::<sqlx::types::Json<Vec<i32>>, _>("facts").0, vec![1, 2])?;
    same(row.get::<Vec<i32>, _>("numbers"), vec![1, 2])?;
    same(row.get::<Option<String>, _>("nothing"), None)
}

async fn transactions() -> Result<()> {
    let mut conn = connect().await?;
    let mut outer = Connection::begin(&mut conn).await?;
    outer.execute("INSERT INTO dish VALUES (1001, 'kept')").await?;
    let mut inner = outer.begin().await?;
    refused(inner.execute("INSERT INTO dish VALUES (1001, 'twice')").await, "23505")?;
    refused(inner.execute("SELECT 1").await, "25P02")?;
    inner.rollback().await?;
    outer.commit().await?;
    let mut dropped = Connection::begin(&mut conn).await?;
    dropped.execute("INSERT INTO dish VALUES (1002, 'dropped')").await?;
    drop(dropped);
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dish WHERE id IN (1001, 1002)")
        .fetch_one(&mut conn)
        .await?;
    same(count, 1)?;
    let mut reading = conn.begin_with("BEGIN READ ONLY").await?;
    refused(reading.execute("DELETE FROM dish").await, "25006")?;
    Ok(reading.rollback().await?)
}

async fn errors() -> Result<()> {
    let mut conn = connect().await?;
    let error = conn.execute("INSERT INTO dish VALUES (1, 'again')").await.err();
    let error = error.as_ref().and_then(Error::as_database_error).context("no error")?;
    same(error.constraint(), Some("dish_pkey"))?;
    same(error.is_unique_violation(), true)?;
    for (sql, state) in
        [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]
    {
        refused(conn.execute(sql).await, state)?;
        refused(sqlx::query(sql).bind(1).fetch_all(&mut conn).await, state).or_else(|error| {
            // The driver refuses by itself a parameter that the text does not have.
            if sql == "SELECT 1/0" { Ok(()) } else { Err(error) }
        })?;
    }
    Ok(conn.ping().await?)
}

async fn streams() -> Result<()> {
    let mut conn = connect().await?;
    let mut rows =
        sqlx::query("SELECT id FROM dish WHERE id <= $1 ORDER BY id").bind(100).fetch(&mut conn);
    let mut ids = Vec::new();
    while let Some(row) = rows.try_next().await? {
        ids.push(row.get::<i32, _>(0));
    }
    drop(rows);
    same(ids, (1..=100).collect())?;
    // Left half-way: the rest is read at the next use.
    let mut rows = sqlx::query("SELECT generate_series(1, 10000)").fetch(&mut conn);
    rows.try_next().await?;
    drop(rows);
    Ok(conn.ping().await?)
}

async fn copy() -> Result<()> {
    let mut conn = connect().await?;
    conn.execute("CREATE TABLE copied (id int, what text)").await?;
    let mut sink = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    for part in 0..100 {
        let lines = (0..200).map(|n| format!("{}\tcopied\n", part * 200 + n));
        sink.send(lines.collect::<String>().into_bytes()).await?;
    }
    same(sink.finish().await?, 20_000)?;
    let mut chunks = conn.copy_out_raw("COPY copied TO STDOUT").await?;
    let mut lines = 0;
    while let Some(chunk) = chunks.try_next().await? {
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
    }
    drop(chunks);
    same(lines, 20_000)?;
    let mut sink = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    sink.send(&b"x\ty\n"[..]).await?;
    refused(sink.finish().await, "22P02")?;
    let mut sink = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    sink.send(&b"1\ty\n"[..]).await?;
    sink.abort("the client gives up").await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM copied").fetch_one(&mut conn).await?;
    same(count, 20_000)
}

async fn timeouts() -> Result<()> {
    let mut conn =
        PgConnection::connect_with(&options().options([("statement_timeout", "100ms")])).await?;
    refused(conn.execute("SELECT pg_sleep(30)").await, "57014")?;
    refused(sqlx::query("SELECT pg_sleep($1)").bind(30.0).fetch_all(&mut conn).await, "57014")?;
    conn.ping().await?;
    // A client that no longer waits drops its connection in the middle of the statement.
    let mut conn = connect().await?;
    let late =
        tokio::time::timeout(Duration::from_millis(200), conn.execute("SELECT pg_sleep(30)"));
    ensure!(late.await.is_err(), "no timeout");
    Ok(())
}

async fn notifications() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(2).connect_with(options()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("kitchen").await?;
    for n in 0..20 {
        sqlx::query("SELECT pg_notify('kitchen', $1)")
            .bind(format!("order {n}"))
            .execute(&pool)
            .await?;
    }
    for n in 0..20 {
        same(listener.recv().await?.payload().to_owned(), format!("order {n}"))?;
    }
    listener.unlisten_all().await?;
    drop(listener);
    pool.close().await;
    Ok(())
}

async fn large_values() -> Result<()> {
    let mut conn = connect().await?;
    let data: Vec<u8> = (0..=255).cycle().take(LARGE_BYTES).collect();
    conn.execute("CREATE TABLE large (data bytea)").await?;
    sqlx::query("INSERT INTO large VALUES ($1)").bind(&data).execute(&mut conn).await?;
    let found: Vec<u8> = sqlx::query_scalar("SELECT data FROM large").fetch_one(&mut conn).await?;
    ensure!(found == data, "another value came back");
    Ok(())
}

async fn sessions() -> Result<()> {
    let wanted = options().application_name("lunch").options([("work_mem", "7MB")]);
    let (mut conn, mut other) = (PgConnection::connect_with(&wanted).await?, connect().await?);
    for _ in 0..5 {
        for (sql, value) in [("SHOW work_mem", "7MB"), ("SHOW application_name", "lunch")] {
            let found: String = sqlx::query_scalar(sql).fetch_one(&mut conn).await?;
            same(found.as_str(), value)?;
        }
    }
    conn.execute("CREATE TEMP TABLE mine AS SELECT 7 AS n").await?;
    for _ in 0..5 {
        let found: i32 = sqlx::query_scalar("SELECT n FROM mine").fetch_one(&mut conn).await?;
        same(found, 7)?;
    }
    refused(other.execute("SELECT n FROM mine").await, "42P01")?;
    let lock = "SELECT pg_try_advisory_lock(7)";
    same(sqlx::query_scalar(lock).fetch_one(&mut conn).await?, true)?;
    same(sqlx::query_scalar(lock).fetch_one(&mut other).await?, false)?;
    Ok(())
}

async fn own_writes() -> Result<()> {
    let mut conn = connect().await?;
    conn.execute("CREATE TABLE counter (n int)").await?;
    conn.execute("INSERT INTO counter VALUES (0)").await?;
    for n in 1..50_i32 {
        sqlx::query("UPDATE counter SET n = $1").bind(n).execute(&mut conn).await?;
        let found: i32 = sqlx::query_scalar("SELECT n FROM counter").fetch_one(&mut conn).await?;
        same(found, n)?;
    }
    Ok(())
}

async fn pool() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(6).connect_with(options()).await?;
    pool.execute("UPDATE counter SET n = 0").await?;
    let work = (0..60).map(|_| async {
        let mut transaction = pool.begin().await?;
        sqlx::query("UPDATE counter SET n = n + $1").bind(1).execute(&mut *transaction).await?;
        transaction.commit().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dish WHERE id <= $1")
            .bind(100)
            .fetch_one(&pool)
            .await?;
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
    let sql = "SELECT inet_server_port() FROM dish LIMIT $1";
    let query = sqlx::query_scalar(sql).bind(1_i64).persistent(persistent);
    Ok(query.fetch_one(&mut conn).await?)
}
