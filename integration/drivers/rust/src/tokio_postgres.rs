//! tokio-postgres over rustls, and its pool deadpool-postgres.

mod checks;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use checks::{Checks, LARGE_BYTES, PATIENCE, env, same, spread};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

type Notes = Arc<Mutex<Vec<String>>>;

/// The login is bound to the TLS connection: SCRAM-SHA-256-PLUS.
fn config() -> Config {
    let mut config = Config::new();
    config.host(env("PGHOST")).port(env("PGPORT").parse().unwrap_or_default());
    config.user(env("PGUSER")).password(env("PGPASSWORD")).dbname(env("PGDATABASE"));
    config.ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Require);
    config
}

fn tls() -> Result<MakeRustlsConnect> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(env("PGSSLROOTCERT"))? {
        roots.add(certificate?)?;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

/// A client, and what it is told out of turn.
async fn connect_with(config: &Config) -> Result<(Client, Notes)> {
    let (client, mut connection) = config.connect(tls()?).await?;
    let notes = Notes::default();
    let heard = notes.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            let text = match message {
                AsyncMessage::Notification(note) => note.payload().to_owned(),
                AsyncMessage::Notice(notice) => notice.message().to_owned(),
                _ => continue,
            };
            heard.lock().expect("no panic while it was held").push(text);
        }
    });
    Ok((client, notes))
}

async fn connect() -> Result<Client> {
    Ok(connect_with(&config()).await?.0)
}

fn refused<T>(outcome: Result<T, Error>, state: &str) -> Result<()> {
    let error = outcome.err().context("no error")?;
    let found = error.code().with_context(|| error.to_string())?.code();
    same(found, state)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let mut all =
        Checks::new("tokio-postgres", "0.7.18, tokio-postgres-rustls 0.14, deadpool 0.14");
    all.check("connects_with_scram_over_tls", connects()).await;
    all.check("makes_its_tables", makes_tables()).await;
    all.check("prepared_statements", prepared_statements()).await;
    all.check("prepared_statements_after_ddl", after_ddl()).await;
    all.check("pipelines", pipelines()).await;
    all.check("transactions", transactions()).await;
    all.check("portals", portals()).await;
    all.check("errors_have_their_fields", errors()).await;
    all.check("copy_both_ways", copy()).await;
    all.check("cancel_and_timeouts", cancel()).await;
    all.check("listen_and_notify", notifications()).await;
    all.check("large_values", large_values()).await;
    all.check("settings_and_session_objects", sessions()).await;
    all.check("reads_its_own_writes", own_writes()).await;
    all.check("pool", pool()).await;
    // Its `prepare` is a request of its own, with Sync: nothing keeps a read from a replica.
    all.check("reads_spread_over_replicas", spread(|| read_port(false))).await;
    all.check("simple_reads_spread_over_replicas", spread(|| read_port(true))).await;
    all.end()
}

async fn connects() -> Result<()> {
    let client = connect().await?;
    same(client.query_one("SELECT current_user::text", &[]).await?.get(0), env("PGUSER"))?;
    let wrong = config().password("no").connect(tls()?).await;
    refused(wrong.map(|_| ()), "28P01")
}

async fn makes_tables() -> Result<()> {
    let sql = "CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL);
               INSERT INTO dish SELECT n, 'dish ' || n FROM generate_series(1, 100) n";
    Ok(connect().await?.batch_execute(sql).await?)
}

async fn prepared_statements() -> Result<()> {
    let client = connect().await?;
    let select = client.prepare("SELECT name FROM dish WHERE id = $1").await?;
    same(select.params(), &[Type::INT4])?;
    for id in 1..=100 {
        same(client.query_one(&select, &[&id]).await?.get(0), format!("dish {id}"))?;
    }
    let typed = client.prepare_typed("SELECT $1 + 1", &[Type::INT8]).await?;
    same(client.query_one(&typed, &[&41_i64]).await?.get::<_, i64>(0), 42)?;
    let rows = client.query_typed("SELECT $1 || 'x'", &[(&"a", Type::TEXT)]).await?;
    same(rows[0].get::<_, &str>(0), "ax")?;
    for n in 0..100 {
        let sql = format!("SELECT $1::int + {n}");
        same(client.query_one(&sql, &[&1]).await?.get::<_, i32>(0), n + 1)?;
    }
    Ok(())
}

/// The driver keeps what it was told of a statement: rows of another shape must not reach it.
async fn after_ddl() -> Result<()> {
    let (client, other) = (connect().await?, connect().await?);
    other.batch_execute("CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)").await?;
    let before = client.prepare("SELECT * FROM changing").await?;
    same(client.query_one(&before, &[]).await?.get(0), 1_i32)?;
    other.batch_execute("ALTER TABLE changing ALTER a TYPE bigint").await?;
    refused(client.query_one(&before, &[]).await, "0A000")?;
    let after = client.prepare("SELECT * FROM changing").await?;
    same(client.query_one(&after, &[]).await?.get(0), 1_i64)
}

async fn pipelines() -> Result<()> {
    let client = connect().await?;
    let insert = client.prepare("INSERT INTO dish VALUES ($1, 'piped')").await?;
    let select = client.prepare("SELECT count(*) FROM dish WHERE name = 'piped'").await?;
    let pairs = (2000..2100).map(|id| {
        let (client, insert, select) = (&client, &insert, &select);
        async move {
            let parameters: [&(dyn ToSql + Sync); 1] = [&id];
            let (written, read) =
                tokio::join!(client.execute(insert, &parameters), client.query_one(select, &[]));
            Ok::<_, Error>((written?, read?.get::<_, i64>(0)))
        }
    });
    for (number, pair) in (1..).zip(join_all(pairs).await) {
        same(pair?, (1, number))?;
    }
    let broken = client.prepare("SELECT 1 / $1::int").await?;
    let (good, bad, after) = tokio::join!(
        client.query_one(&broken, &[&1]),
        client.query_one(&broken, &[&0]),
        client.query_one(&broken, &[&1]),
    );
    refused(bad, "22012")?;
    same(good?.get::<_, i32>(0) + after?.get::<_, i32>(0), 2)
}

async fn transactions() -> Result<()> {
    let mut client = connect().await?;
    let mut outer = client.transaction().await?;
    outer.execute("INSERT INTO dish VALUES (1001, 'kept')", &[]).await?;
    let inner = outer.savepoint("point").await?;
    refused(inner.execute("INSERT INTO dish VALUES (1001, 'twice')", &[]).await, "23505")?;
    refused(inner.execute("SELECT 1", &[]).await, "25P02")?;
    inner.rollback().await?;
    outer.commit().await?;
    let dropped = client.transaction().await?;
    dropped.execute("INSERT INTO dish VALUES (1002, 'dropped')", &[]).await?;
    drop(dropped);
    let count = "SELECT count(*) FROM dish WHERE id IN (1001, 1002)";
    same(client.query_one(count, &[]).await?.get(0), 1_i64)?;
    let reading = client.build_transaction().read_only(true).deferrable(true);
    let reading = reading.isolation_level(tokio_postgres::IsolationLevel::Serializable);
    let reading = reading.start().await?;
    same(reading.query_one(count, &[]).await?.get(0), 1_i64)?;
    refused(reading.execute("DELETE FROM dish", &[]).await, "25006")?;
    Ok(reading.rollback().await?)
}

async fn portals() -> Result<()> {
    let mut client = connect().await?;
    for read_only in [false, true] {
        let transaction = client.build_transaction().read_only(read_only).start().await?;
        let sql = "SELECT id FROM dish WHERE id <= 100 ORDER BY id";
        let portal = transaction.bind(sql, &[]).await?;
        let mut ids = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 7).await?;
            if rows.is_empty() {
                break;
            }
            ids.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        same(ids, (1..=100).collect())?;
        transaction.commit().await?;
    }
    Ok(())
}

async fn errors() -> Result<()> {
    let client = connect().await?;
    let error = client.execute("INSERT INTO dish VALUES (1, 'again')", &[]).await.err();
    let error = error.as_ref().and_then(Error::as_db_error).context("no error")?;
    same(error.constraint(), Some("dish_pkey"))?;
    same(error.detail(), Some("Key (id)=(1) already exists."))?;
    for (sql, state) in
        [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]
    {
        refused(client.query(sql, &[]).await, state)?;
        refused(client.simple_query(sql).await, state)?;
    }
    Ok(client.check_connection().await?)
}

async fn copy() -> Result<()> {
    let client = connect().await?;
    client.batch_execute("CREATE TABLE copied (id int, what text)").await?;
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?);
    for part in 0..100 {
        let lines = (0..200).map(|n| format!("{}\tcopied\n", part * 200 + n));
        sink.send(Bytes::from(lines.collect::<String>())).await?;
    }
    same(sink.finish().await?, 20_000)?;
    let mut bytes = pin!(client.copy_out("COPY copied TO STDOUT").await?);
    let mut lines = 0;
    while let Some(chunk) = bytes.next().await {
        lines += chunk?.iter().filter(|byte| **byte == b'\n').count();
    }
    same(lines, 20_000)?;
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?);
    sink.send(Bytes::from_static(b"x\ty\n")).await?;
    refused(sink.finish().await, "22P02")?;
    // Dropped half-way: the driver sends CopyFail.
    drop(client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?);
    same(client.query_one("SELECT count(*) FROM copied", &[]).await?.get(0), 20_000_i64)
}

async fn cancel() -> Result<()> {
    let client = connect().await?;
    let token = client.cancel_token();
    let running = async { refused(client.batch_execute("SELECT pg_sleep(30)").await, "57014") };
    // A cancel that comes before its statement does nothing.
    let keep_cancelling = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Err(error) = token.cancel_query(tls()?).await {
                break Err(error.into());
            }
        }
    };
    tokio::select! {
        outcome = running => outcome?,
        failed = keep_cancelling => return failed,
    };
    client.batch_execute("SET statement_timeout = '100ms'").await?;
    refused(client.batch_execute("SELECT pg_sleep(30)").await, "57014")?;
    client.batch_execute("RESET statement_timeout").await?;
    Ok(client.check_connection().await?)
}

async fn notifications() -> Result<()> {
    let ((listener, notes), sender) = (connect_with(&config()).await?, connect().await?);
    listener.batch_execute("LISTEN kitchen").await?;
    for n in 0..20 {
        sender.execute("SELECT pg_notify('kitchen', $1)", &[&format!("order {n}")]).await?;
    }
    let heard = || notes.lock().expect("no panic while it was held").clone();
    eventually(|| async { Ok(heard().len() >= 20) }).await?;
    same(heard(), (0..20).map(|n| format!("order {n}")).collect())?;
    listener.batch_execute("UNLISTEN *; DO $$BEGIN RAISE NOTICE 'dal'; END$$").await?;
    eventually(|| async { Ok(heard().last().is_some_and(|last| last == "dal")) }).await
}

async fn large_values() -> Result<()> {
    let client = connect().await?;
    let data: Vec<u8> = (0..=255).cycle().take(LARGE_BYTES).collect();
    client.batch_execute("CREATE TABLE large (data bytea)").await?;
    client.execute("INSERT INTO large VALUES ($1)", &[&data]).await?;
    let row = client.query_one("SELECT data FROM large", &[]).await?;
    ensure!(row.get::<_, &[u8]>(0) == data, "another value came back");
    let rows = client.query_raw::<_, &i32, _>("SELECT generate_series(1, $1)", &[20_000]).await?;
    same(rows.try_fold(0, |count, _| async move { Ok(count + 1) }).await?, 20_000)
}

async fn sessions() -> Result<()> {
    let mut wanted = config();
    wanted.application_name("lunch").options("-c work_mem=7MB -c timezone=Asia/Kolkata");
    let (client, _) = connect_with(&wanted).await?;
    let other = connect().await?;
    for _ in 0..5 {
        for (name, value) in [("work_mem", "7MB"), ("timezone", "Asia/Kolkata")] {
            same(client.query_one(&format!("SHOW {name}"), &[]).await?.get(0), value)?;
        }
    }
    client.batch_execute("CREATE TEMP TABLE mine AS SELECT 7 AS n").await?;
    for _ in 0..5 {
        same(client.query_one("SELECT n FROM mine", &[]).await?.get(0), 7_i32)?;
    }
    refused(other.simple_query("SELECT n FROM mine").await, "42P01")?;
    let lock = "SELECT pg_try_advisory_lock(7)";
    same(client.query_one(lock, &[]).await?.get(0), true)?;
    same(other.query_one(lock, &[]).await?.get(0), false)?;
    client.batch_execute("DISCARD ALL").await?;
    same(other.query_one(lock, &[]).await?.get(0), true)
}

async fn own_writes() -> Result<()> {
    let client = connect().await?;
    client.batch_execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)").await?;
    let write = client.prepare("UPDATE counter SET n = $1").await?;
    let read = client.prepare("SELECT n FROM counter").await?;
    for n in 1..200_i32 {
        client.execute(&write, &[&n]).await?;
        same(client.query_one(&read, &[]).await?.get(0), n)?;
    }
    Ok(())
}

async fn pool() -> Result<()> {
    let how = ManagerConfig { recycling_method: RecyclingMethod::Clean };
    let pool = Pool::builder(Manager::from_config(config(), tls()?, how)).max_size(6).build()?;
    pool.get().await?.batch_execute("UPDATE counter SET n = 0").await?;
    let work = (0..150).map(|_| async {
        let mut client = pool.get().await?;
        let transaction = client.transaction().await?;
        transaction.execute("UPDATE counter SET n = n + 1", &[]).await?;
        transaction.commit().await?;
        drop(client);
        let client = pool.get().await?;
        let sql = client.prepare_cached("SELECT count(*) FROM dish WHERE id <= $1").await?;
        anyhow::Ok(client.query_one(&sql, &[&100]).await?.get::<_, i64>(0))
    });
    for outcome in join_all(work).await {
        same(outcome?, 100)?;
    }
    let sql = "/* tiffin: primary */ SELECT n FROM counter";
    same(pool.get().await?.query_one(sql, &[]).await?.get(0), 150_i32)
}

async fn read_port(simple: bool) -> Result<i32> {
    let (client, sql) = (connect().await?, "SELECT inet_server_port() FROM dish LIMIT 1");
    if !simple {
        return Ok(client.query_one(sql, &[]).await?.get(0));
    }
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.context("no row")?.parse()?)
}

/// Looks until it holds.
async fn eventually<F: Future<Output = Result<bool>>>(look: impl Fn() -> F) -> Result<()> {
    let started = Instant::now();
    while !look().await? {
        ensure!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
