"""asyncpg: prepares every statement by Parse, Describe and Flush, asks the catalog for types, and
resets a pooled connection with a text of several statements."""

import asyncio
import contextlib
import datetime
import decimal
import io
import json
import ssl
import uuid

import asyncpg

import checks
from checks import check, eventually_async, refused, same


def tls():
    return ssl.create_default_context(cafile=checks.CA)


def arguments(**kwargs):
    return {
        "host": checks.HOST, "port": checks.PORT, "user": checks.USER, "password": checks.PASSWORD,
        "database": checks.DATABASE, "ssl": tls(), "timeout": 30, **kwargs,
    }


class connect:
    """`async with connect() as conn`."""

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    async def __aenter__(self):
        self.conn = await asyncpg.connect(**arguments(**self.kwargs))
        return self.conn

    async def __aexit__(self, *_):
        await self.conn.close(timeout=20)


@check
async def connects_with_scram_over_tls():
    async with connect() as conn:
        same(await conn.fetchval("SELECT current_user"), checks.USER)
        assert conn.get_server_version().major >= 15
        same(conn.get_settings().server_encoding, "UTF8")


@check
async def wrong_password_and_database_are_refused():
    for wrong, state in [({"password": "no"}, "28P01"), ({"database": "nowhere"}, "3D000")]:
        with refused(state):
            await asyncpg.connect(**arguments(**wrong))


@check
async def makes_its_tables():
    async with connect() as conn:
        await conn.execute("""
            CREATE TYPE heat AS ENUM ('mild', 'hot');
            CREATE TYPE portion AS (grams int, heat heat);
            CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price numeric, heat heat);
        """)
        status = await conn.execute("INSERT INTO dish SELECT n, 'dish ' || n, n, 'hot' FROM generate_series(1, 100) n")
        same(status, "INSERT 0 100")


@check
async def prepared_statements():
    async with connect() as conn:
        statement = await conn.prepare("SELECT name FROM dish WHERE id = $1")
        same([str(p.name) for p in statement.get_parameters()], ["int4"])
        same([a.name for a in statement.get_attributes()], ["name"])
        for number in range(1, 101):
            same(await statement.fetchval(number), f"dish {number}")
        # The cache of statements, used, overflown and switched off.
        for number in range(250):
            same(await conn.fetchval(f"SELECT $1::int + {number}", 1), number + 1)
    async with connect(statement_cache_size=0) as conn:
        for number in range(1, 21):
            same(await conn.fetchval("SELECT name FROM dish WHERE id = $1", number), f"dish {number}")


@check
async def prepared_statements_outlive_ddl():
    async with connect() as conn, connect() as other:
        await other.execute("CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)")
        same(tuple(await conn.fetchrow("SELECT * FROM changing")), (1,))
        await other.execute("ALTER TABLE changing ADD b int DEFAULT 2")
        # asyncpg prepares again by itself where the server says 0A000.
        same(tuple(await conn.fetchrow("SELECT * FROM changing")), (1, 2))
        same(tuple(await conn.fetchrow("SELECT * FROM changing")), (1, 2))


@check
async def values_of_all_kinds():
    values = [
        ("bool", True), ("int8", 1 << 40), ("float8", 1.25), ("numeric", decimal.Decimal("12345.6789")),
        ("text", "naïve ☕ text"), ("bytea", b"\x00\xff"), ("date", datetime.date(2026, 11, 21)),
        ("timestamptz", datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.timezone.utc)),
        ("interval", datetime.timedelta(days=3, seconds=7)), ("uuid", uuid.UUID(int=7)),
        ("int[]", [1, 2, None]), ("text[]", ["a", 'b"{}']), ("jsonb", '{"a": [1, null]}'),
        ("heat", "hot"), ("heat[]", ["mild", "hot"]), ("portion", (300, "mild")), ("int", None),
    ]
    async with connect() as conn:
        for kind, value in values:
            found = await conn.fetchval(f"SELECT $1::{kind}", value)
            same(found, uuid.UUID(str(value)) if kind == "uuid" else value, kind)


@check
async def codecs():
    async with connect() as conn:
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        same(await conn.fetchval("SELECT $1::jsonb", {"a": [1]}), {"a": [1]})
        await conn.set_builtin_type_codec("heat", codec_name="text", schema="public")
        same(await conn.fetchval("SELECT heat FROM dish WHERE id = 1"), "hot")


@check
async def transactions():
    async with connect() as conn:
        async with conn.transaction():
            await conn.execute("INSERT INTO dish VALUES (1001, 'kept')")
            with refused("23505"):
                async with conn.transaction():
                    await conn.execute("INSERT INTO dish VALUES (1001, 'twice')")
            inner = conn.transaction()
            await inner.start()
            await conn.execute("INSERT INTO dish VALUES (1002, 'dropped')")
            await inner.rollback()
        same(await conn.fetchval("SELECT array_agg(id) FROM dish WHERE id > 1000"), [1001])
        async with conn.transaction(readonly=True):
            same(await conn.fetchval("SELECT count(*) FROM dish WHERE id <= 100"), 100)
            with refused("25006"):
                async with conn.transaction():
                    await conn.execute("DELETE FROM dish")
        for level in ["read_committed", "repeatable_read", "serializable"]:
            async with conn.transaction(isolation=level, readonly=True):
                same(await conn.fetchval("SHOW transaction_isolation"), level.replace("_", " "))
        async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
            same(await conn.fetchval("SHOW transaction_deferrable"), "on")


@check
async def failed_transactions():
    async with connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        with refused("42P01"):
            await conn.fetch("SELECT * FROM nowhere")
        with refused("25P02"):
            await conn.fetch("SELECT 1")
        await transaction.rollback()
        same(await conn.fetchval("SELECT 1"), 1)


@check
async def errors_have_their_fields():
    async with connect() as conn:
        with refused("23505") as it:
            await conn.execute("INSERT INTO dish VALUES ($1, 'again')", 1)
        same((it.error.constraint_name, it.error.table_name), ("dish_pkey", "dish"))
        same(it.error.detail, "Key (id)=(1) already exists.")
        for sql, state in [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT nothing()", "42883")]:
            for run in (conn.execute, conn.fetch):
                with refused(state):
                    await run(sql)
        with refused("22012"):
            await conn.fetch("SELECT 1/$1::int", 0)


@check
async def many_at_once():
    async with connect() as conn:
        await conn.executemany("INSERT INTO dish VALUES ($1, $2)", [(2000 + n, "many") for n in range(500)])
        same(await conn.fetchval("SELECT count(*) FROM dish WHERE name = 'many'"), 500)
        with refused("23505"):
            await conn.executemany("INSERT INTO dish VALUES ($1, $2)", [(3000, "a"), (3000, "b")])
        same(await conn.fetchval("SELECT count(*) FROM dish WHERE id = 3000"), 0)
        rows = await conn.fetchmany("SELECT name FROM dish WHERE id = $1", [(n,) for n in range(1, 50)])
        same([row[0] for row in rows], [f"dish {n}" for n in range(1, 50)])


@check
async def cursors():
    async with connect() as conn:
        async with conn.transaction():
            ids = [row[0] async for row in conn.cursor("SELECT id FROM dish WHERE id <= 100 ORDER BY id", prefetch=7)]
            same(ids, list(range(1, 101)))
            cursor = await conn.cursor("SELECT id FROM dish WHERE id <= $1 ORDER BY id", 100)
            await cursor.forward(10)
            same([row[0] for row in await cursor.fetch(3)], [11, 12, 13])
        async with conn.transaction(readonly=True):
            ids = [row[0] async for row in conn.cursor("SELECT id FROM dish WHERE id <= 100 ORDER BY id", prefetch=33)]
            same(ids, list(range(1, 101)))


@check
async def copy_both_ways():
    async with connect() as conn:
        await conn.execute("CREATE TABLE copied (id int, what text)")
        records = [(number, f"row {number}") for number in range(10_000)]
        same(await conn.copy_records_to_table("copied", records=records), "COPY 10000")
        text = "".join(f"{number},x\n" for number in range(10_000, 20_000))
        same(await conn.copy_to_table("copied", source=io.BytesIO(text.encode()), format="csv"), "COPY 10000")
        out = io.BytesIO()
        same(await conn.copy_from_query("SELECT id FROM copied WHERE id < $1", 500, output=out), "COPY 500")
        same(out.getvalue().count(b"\n"), 500)
        out = io.BytesIO()
        same(await conn.copy_from_table("copied", output=out, format="csv"), "COPY 20000")
        with refused("22P02"):
            await conn.copy_to_table("copied", source=io.BytesIO(b"x,y\n" * 50_000), format="csv")
        same(await conn.fetchval("SELECT count(*) FROM copied"), 20_000)


@check
async def cancel_and_timeouts():
    async with connect() as conn:
        for _ in range(3):
            try:
                await conn.execute("SELECT pg_sleep(30)", timeout=0.2)
                raise AssertionError("no timeout")
            except TimeoutError:
                pass
            same(await conn.fetchval("SELECT 1"), 1)
        task = asyncio.create_task(conn.fetch("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.2)
        task.cancel()
        try:
            await task
            raise AssertionError("not cancelled")
        except asyncio.CancelledError:
            pass
        same(await conn.fetchval("SELECT 1"), 1)
        await conn.execute("SET statement_timeout = '100ms'")
        with refused("57014"):
            await conn.fetch("SELECT pg_sleep(30)")
        await conn.execute("RESET statement_timeout")
    async with connect(command_timeout=0.2) as conn:
        try:
            await conn.fetch("SELECT pg_sleep($1)", 30)
            raise AssertionError("no timeout")
        except TimeoutError:
            pass
        # It waits for the end of the cancel within its own time.
        same(await conn.fetchval("SELECT 1", timeout=checks.PATIENCE_SECONDS), 1)


@check
async def listen_and_notify():
    async with connect() as listener, connect() as sender:
        heard = asyncio.Queue()

        def hear(_conn, _pid, _channel, payload):
            heard.put_nowait(payload)

        await listener.add_listener("kitchen", hear)
        for number in range(20):
            await sender.execute(f"NOTIFY kitchen, 'order {number}'")
        async with asyncio.timeout(30):
            same([await heard.get() for _ in range(20)], [f"order {number}" for number in range(20)])
        same(await listener.fetchval("SELECT count(*) FROM dish WHERE id <= 100"), 100)
        # The last listener of a channel: UNLISTEN.
        await listener.remove_listener("kitchen", hear)
        await sender.execute("NOTIFY kitchen, 'nobody listens'")
        same(await listener.fetchval("SELECT 1"), 1)
        assert heard.empty()


@check
async def notices():
    async with connect() as conn:
        told = []
        conn.add_log_listener(lambda _, message: told.append(message.message))
        await conn.execute("DO $$BEGIN RAISE NOTICE 'dal'; END$$")

        async def heard():
            return told == ["dal"]

        await eventually_async(heard, "the notice")


@check
async def large_values():
    data = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    text = "dal " * (checks.LARGE_BYTES // 4)
    async with connect() as conn:
        await conn.execute("CREATE TABLE large (id int PRIMARY KEY, data bytea, words text)")
        await conn.execute("INSERT INTO large VALUES (1, $1, $2)", data, text)
        row = await conn.fetchrow("SELECT data, words FROM large")
        assert tuple(row) == (data, text), "another value came back"
        rows = await conn.fetch("SELECT repeat('x', 1000000) FROM generate_series(1, 16)")
        same({len(row[0]) for row in rows}, {1_000_000})


@check
async def settings_follow_the_session():
    settings = {"search_path": "other, public", "timezone": "Asia/Kolkata", "application_name": "lunch"}
    async with connect(server_settings=settings) as conn, connect() as other:
        await other.execute("CREATE SCHEMA other; CREATE TABLE other.dish (id int)")
        for _ in range(10):
            same(await conn.fetchval("SELECT count(*) FROM dish"), 0)
            same(await other.fetchval("SELECT count(*) FROM dish WHERE id <= 100"), 100)
        await conn.execute("SET datestyle = 'German'")
        same(await conn.fetchval("SELECT '2026-11-21'::date::text"), "21.11.2026")
        await conn.reset()
        same(await conn.fetchval("SELECT '2026-11-21'::date::text"), "2026-11-21")
        same(await conn.fetchval("SHOW timezone"), "Asia/Kolkata")


@check
async def session_objects():
    async with connect() as conn, connect() as other:
        await conn.execute("CREATE TEMP TABLE mine (id int)")
        await conn.copy_records_to_table("mine", records=[(1,), (2,)])
        same(await conn.fetchval("SELECT count(*) FROM mine"), 2)
        with refused("42P01"):
            await other.fetch("SELECT * FROM mine")
        same(await conn.fetchval("SELECT pg_try_advisory_lock($1)", 7), True)
        same(await other.fetchval("SELECT pg_try_advisory_lock($1)", 7), False)
        await conn.reset()
        same(await other.fetchval("SELECT pg_try_advisory_lock($1)", 7), True)


@check
async def reads_its_own_writes():
    async with connect() as conn:
        await conn.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
        for number in range(1, 200):
            await conn.execute("UPDATE counter SET n = $1", number)
            same(await conn.fetchval("SELECT n FROM counter"), number)


@check
async def pool():
    async with asyncpg.create_pool(**arguments(min_size=2, max_size=8, command_timeout=30)) as pool:
        await pool.execute("UPDATE counter SET n = 0")

        async def work(_):
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute("UPDATE counter SET n = n + $1", 1)
                # What a session leaves behind is reset with its connection.
                await conn.execute("SET search_path = nowhere")
            return await pool.fetchval("SELECT count(*) FROM dish WHERE id <= $1", 100)

        same(set(await asyncio.gather(*(work(number) for number in range(200)))), {100})
        async with pool.acquire() as conn, conn.transaction():
            same(await conn.fetchval("SELECT n FROM counter"), 200)
        with refused("22012"):
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute("UPDATE counter SET n = 7")
                await conn.execute("SELECT 1/0")
        same(await pool.fetchval("SELECT n FROM counter"), 200)


# The first execution of a statement runs on the primary: its Parse asks for an answer before the
# Sync, when nobody knows what else follows in the same transaction. What the session has read
# there must be known to have reached a replica before it reads on one.
async def read_port(conn):
    sql = "SELECT inet_server_port() FROM dish LIMIT 1"

    async def where_it_belongs():
        return await conn.fetchval(sql) in checks.READ_PORTS

    await eventually_async(where_it_belongs, "a read where reads belong")
    return await conn.fetchval(sql)


@check
async def reads_spread_over_replicas():
    spread = checks.Spread()
    while spread.wants_more():
        async with connect() as conn:
            spread.ran_on(await read_port(conn))


@check
async def reads_of_a_pool_spread_over_replicas():
    async with asyncpg.create_pool(**arguments(min_size=6, max_size=6)) as pool:
        spread = checks.Spread()
        while spread.wants_more():
            async with contextlib.AsyncExitStack() as stack:
                conns = [await stack.enter_async_context(pool.acquire()) for _ in range(6)]
                for port in await asyncio.gather(*map(read_port, conns)):
                    spread.ran_on(port)


@check
async def read_only_transactions_spread_over_replicas():
    spread = checks.Spread()
    while spread.wants_more():
        async with connect() as conn, conn.transaction(readonly=True):
            spread.ran_on(await conn.fetchval("SELECT inet_server_port() FROM dish LIMIT 1"))


checks.main("asyncpg", asyncpg.__version__)
