"""psycopg 3, asynchronous: what differs from the blocking one — tasks, cancellation, pipelines
that are shared by tasks, its pool."""

import asyncio

import psycopg
import psycopg_pool

import checks
from checks import check, eventually_async, refused, same

CONNINFO = "channel_binding=require"


def connect(**kwargs):
    kwargs.setdefault("autocommit", True)
    return psycopg.AsyncConnection.connect(CONNINFO, **kwargs)


async def value(conn, sql, parameters=None, **kwargs):
    return (await (await conn.execute(sql, parameters, **kwargs)).fetchone())[0]


@check
async def connects_with_scram_over_tls():
    async with await connect() as conn:
        assert conn.pgconn.ssl_in_use and conn.pgconn.used_password
        same(await value(conn, "SELECT current_user"), checks.USER)


@check
async def makes_its_tables():
    async with await connect() as conn:
        await conn.execute("CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL)")
        await conn.execute("INSERT INTO dish SELECT n, 'dish ' || n FROM generate_series(1, 100) n")


@check
async def prepared_statements():
    async with await connect(prepare_threshold=0) as conn:
        for number in range(1, 101):
            same(await value(conn, "SELECT name FROM dish WHERE id = %s", [number]), f"dish {number}")


@check
async def many_connections_at_once():
    async def work(number):
        async with await connect() as conn:
            for _ in range(5):
                name = await value(conn, "SELECT name FROM dish WHERE id = %s", [number])
                same(name, f"dish {number}")

    await asyncio.gather(*(work(number) for number in range(1, 41)))


@check
async def transactions():
    async with await connect(autocommit=False) as conn:
        async with conn.transaction():
            await conn.execute("INSERT INTO dish VALUES (1001, 'kept')")
            with refused("23505"):
                async with conn.transaction():
                    await conn.execute("INSERT INTO dish VALUES (1001, 'twice')")
            async with conn.transaction(force_rollback=True):
                await conn.execute("INSERT INTO dish VALUES (1002, 'dropped')")
        await conn.set_read_only(True)
        same(await value(conn, "SELECT count(*) FROM dish WHERE id > 1000"), 1)
        with refused("25006"):
            await conn.execute("DELETE FROM dish")


@check
async def errors_have_their_fields():
    async with await connect() as conn:
        with refused("23505") as it:
            await conn.execute("INSERT INTO dish VALUES (1, 'again')")
        diag = it.error.diag
        same((diag.constraint_name, diag.table_name), ("dish_pkey", "dish"))
        same(diag.message_detail, "Key (id)=(1) already exists.")
        for sql, state in [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]:
            with refused(state):
                await conn.execute(sql)
            same(await value(conn, "SELECT 1"), 1)


@check
async def copy_both_ways():
    async with await connect() as conn:
        cursor = conn.cursor()
        await conn.execute("CREATE TABLE copied (id int, what text)")
        async with cursor.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(10_000):
                await copy.write_row((number, "x" * 50))
        async with cursor.copy("COPY copied TO STDOUT") as copy:
            same(len([row async for row in copy.rows()]), 10_000)
        with refused("22P02"):
            async with cursor.copy("COPY copied FROM STDIN") as copy:
                await copy.write("no number\tx\n" * 10_000)
        same(await value(conn, "SELECT count(*) FROM copied"), 10_000)


@check
async def a_cancelled_task_cancels_its_statement():
    async with await connect(application_name="to be cancelled") as conn, await connect() as other:
        sleep = "/* tiffin: primary */ SELECT pg_sleep(30)"
        task = asyncio.create_task(conn.execute(sleep))
        running = (
            "/* tiffin: primary */ SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
            f"AND query = '{sleep}' AND datname = current_database()"
        )

        async def runs():
            return await value(other, running) == 1

        await eventually_async(runs, "the statement runs")
        task.cancel()
        try:
            await task
            raise AssertionError("the task was not cancelled")
        except asyncio.CancelledError:
            pass

        async def ended():
            return await value(other, running) == 0

        await eventually_async(ended, "the statement is cancelled")


@check
async def cancel_and_timeouts():
    async with await connect() as conn:
        ended = asyncio.Event()

        async def keep_cancelling():
            while True:
                await asyncio.sleep(checks.CANCEL_SECONDS)
                if ended.is_set():
                    return
                await conn.cancel_safe()

        cancelling = asyncio.create_task(keep_cancelling())
        with refused("57014"):
            await conn.execute("SELECT pg_sleep(30)")
        ended.set()
        await cancelling
        try:
            async with asyncio.timeout(0.3):
                await conn.execute("SELECT pg_sleep(30)")
            raise AssertionError("no timeout")
        except TimeoutError:
            pass
        same(await value(conn, "SELECT 1"), 1)
        await conn.execute("SET statement_timeout = '100ms'")
        with refused("57014"):
            await conn.execute("SELECT pg_sleep(30)")


@check
async def listen_and_notify():
    async with await connect() as listener, await connect() as sender:
        await listener.execute("LISTEN kitchen")

        async def hear():
            return [note.payload async for note in listener.notifies(timeout=20, stop_after=50)]

        hearing = asyncio.create_task(hear())
        for number in range(50):
            await sender.execute("SELECT pg_notify('kitchen', %s)", [str(number)])
        same(await hearing, [str(number) for number in range(50)])


@check
async def large_values():
    data = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    async with await connect() as conn:
        for binary in (False, True):
            assert await value(conn, "SELECT %s::bytea", [data], binary=binary) == data
        rows = await (await conn.execute("SELECT repeat('x', 1000000) FROM generate_series(1, 16)")).fetchall()
        same({len(row[0]) for row in rows}, {1_000_000})


@check
async def cursors():
    async with await connect(autocommit=False) as conn:
        async with conn.cursor("named") as cursor:
            cursor.itersize = 9
            await cursor.execute("SELECT id FROM dish WHERE id <= 100 ORDER BY id")
            same([row[0] async for row in cursor], list(range(1, 101)))
        rows = [row async for row in conn.cursor().stream("SELECT id FROM dish WHERE id <= 100", size=10)]
        same(len(rows), 100)


@check
async def pipelines_of_tasks():
    async with await connect() as conn:
        async with conn.pipeline():
            async def work(number):
                cursor = conn.cursor()
                await cursor.execute("SELECT name FROM dish WHERE id = %s", [number])
                return (await cursor.fetchone())[0]

            names = await asyncio.gather(*(work(number) for number in range(1, 51)))
        same(names, [f"dish {number}" for number in range(1, 51)])
        async with conn.pipeline() as pipeline:
            writes = []
            for number in range(20):
                writes.append(await conn.execute("INSERT INTO dish VALUES (%s, 'p')", [2000 + number]))
                read = await conn.execute("SELECT count(*) FROM dish WHERE id >= 2000 AND id < 3000")
                await pipeline.sync()
                same((await read.fetchone())[0], number + 1)
        with refused("22012"):
            async with conn.pipeline():
                await conn.execute("INSERT INTO dish VALUES (3000, 'p')")
                await conn.execute("SELECT 1/0")
        same(await value(conn, "SELECT count(*) FROM dish WHERE id = 3000"), 0)


@check
async def pool():
    async with psycopg_pool.AsyncConnectionPool(
        CONNINFO, min_size=2, max_size=8, timeout=30, kwargs={"autocommit": True}, open=False
    ) as pool:
        async with pool.connection() as conn:
            await conn.execute("CREATE TABLE counter (n int)")
            await conn.execute("INSERT INTO counter VALUES (0)")

        async def work(_):
            async with pool.connection() as conn, conn.transaction():
                await conn.execute("UPDATE counter SET n = n + 1")
            async with pool.connection() as conn:
                return await value(conn, "SELECT count(*) FROM dish WHERE id <= 100")

        same(set(await asyncio.gather(*(work(number) for number in range(200)))), {100})
        async with pool.connection() as conn:
            same(await value(conn, "/* tiffin: primary */ SELECT n FROM counter"), 200)


@check
async def reads_spread_over_replicas():
    async def port():
        async with await connect() as conn:
            await conn.execute("SELECT count(*) FROM dish")
            return await value(conn, "SELECT inet_server_port() FROM dish LIMIT 1", prepare=True)

    async def known():
        return await port() in checks.READ_PORTS

    await eventually_async(known, "a read where reads belong")
    spread = checks.Spread()
    while spread.wants_more():
        spread.ran_on(await port())


checks.main("psycopg (async)", f"{psycopg.__version__}, pool {psycopg_pool.__version__}")
