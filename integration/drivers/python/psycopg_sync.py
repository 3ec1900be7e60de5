"""psycopg 3, blocking: connections, pipelines, COPY, its pool."""

import concurrent.futures
import contextlib
import datetime
import decimal
import itertools
import uuid

import psycopg
import psycopg_pool
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

import checks
from checks import check, eventually, refused, same

# What libpq's environment says (verify-full) and, over it, that the login is bound to the TLS
# connection: SCRAM-SHA-256-PLUS.
CONNINFO = "channel_binding=require"


def connect(**kwargs):
    kwargs.setdefault("autocommit", True)
    return psycopg.connect(CONNINFO, **kwargs)


@check
def connects_with_scram_over_tls():
    with connect() as conn:
        assert conn.pgconn.ssl_in_use
        assert conn.pgconn.used_password
        same(conn.execute("SELECT current_user").fetchone(), (checks.USER,))
        same(conn.info.dbname, checks.DATABASE)
        same(conn.info.encoding, "utf-8")
        assert conn.info.server_version >= 150000
        same(conn.info.parameter_status("integer_datetimes"), "on")


@check
def wrong_password_and_database_are_refused():
    for wrong, text in [
        ({"password": "no"}, "password authentication failed"),
        ({"dbname": "nowhere"}, "does not exist"),
    ]:
        try:
            connect(**wrong).close()
        except psycopg.OperationalError as error:
            assert text in str(error), error
        else:
            raise AssertionError(f"{wrong} is let in")


@check
def makes_its_tables():
    with connect() as conn:
        conn.execute("CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price numeric)")
        conn.execute("INSERT INTO dish SELECT n, 'dish ' || n, n FROM generate_series(1, 100) n")


@check
def prepared_statements():
    with connect(prepare_threshold=1) as conn:
        for number in range(1, 50):
            row = conn.execute("SELECT name FROM dish WHERE id = %s", [number]).fetchone()
            same(row, (f"dish {number}",))
        # Many texts, more than the driver keeps: it deallocates the oldest.
        conn.prepared_max = 5
        for number in range(30):
            row = conn.execute(f"SELECT %s::int + {number}", [1], prepare=True).fetchone()
            same(row, (number + 1,))
        # A text in two shapes: other parameter types, another prepared statement.
        for value in [1, "one", None, 1.5, decimal.Decimal("1.5"), 1 << 40]:
            conn.execute("SELECT %s", [value], prepare=True)


@check
def prepared_statements_outlive_ddl():
    with connect(prepare_threshold=0) as conn, connect() as other:
        other.execute("CREATE TABLE changing (a int)")
        other.execute("INSERT INTO changing VALUES (1)")
        same(conn.execute("SELECT * FROM changing WHERE a = %s", [1]).fetchone(), (1,))
        other.execute("ALTER TABLE changing ADD b int DEFAULT 2")
        # psycopg describes at the first execution only; a result that has changed its shape is
        # an error of the server, 0A000, or the new shape where the proxy prepares anew.
        try:
            row = conn.execute("SELECT * FROM changing WHERE a = %s", [1]).fetchone()
            same(row, (1, 2))
        except psycopg.errors.FeatureNotSupported:
            pass
        same(conn.execute("SELECT b FROM changing WHERE a = %s", [1]).fetchone(), (2,))


@check
def values_of_all_kinds():
    values = [
        ("bool", True), ("int", 42), ("int8", 1 << 40), ("float8", 1.25), ("text", "naïve ☕ text"),
        ("numeric", decimal.Decimal("12345.6789")), ("bytea", b"\x00\xff bytes"),
        ("date", datetime.date(2026, 11, 21)), ("time", datetime.time(12, 30, 1, 250)),
        ("timestamptz", datetime.datetime(2026, 11, 21, 12, 30, tzinfo=datetime.timezone.utc)),
        ("interval", datetime.timedelta(days=3, seconds=7)), ("uuid", uuid.UUID(int=7)),
        ("int[]", [1, 2, None, 3]), ("text[]", ["a", 'b"{}', "ä"]), ("text", None),
    ]
    with connect() as conn:
        conn.execute("SET timezone = 'UTC'")
        for binary, (kind, value) in itertools.product([False, True], values):
            cursor = conn.execute(f"SELECT %s::{kind}", [value], binary=binary)
            same(cursor.fetchone()[0], value, f"{kind}, binary {binary}")
        same(conn.execute("SELECT %s::jsonb", [Jsonb({"a": [1, None]})]).fetchone(), ({"a": [1, None]},))
        same(conn.cursor(row_factory=dict_row).execute("SELECT 1 AS a").fetchone(), {"a": 1})


@check
def transactions():
    with connect(autocommit=False) as conn:
        conn.execute("INSERT INTO dish VALUES (1001, 'kept', 1)")
        conn.commit()
        conn.execute("INSERT INTO dish VALUES (1002, 'dropped', 1)")
        conn.rollback()
        with conn.transaction():
            conn.execute("INSERT INTO dish VALUES (1003, 'kept', 1)")
            try:
                with conn.transaction():
                    conn.execute("INSERT INTO dish VALUES (1004, 'dropped', 1)")
                    raise psycopg.Rollback
            except psycopg.Rollback:
                pass
            with refused("23505"), conn.transaction("inner"):
                conn.execute("INSERT INTO dish VALUES (1003, 'twice', 1)")
            same(conn.info.transaction_status.name, "INTRANS")
        found = conn.execute("SELECT array_agg(id ORDER BY id) FROM dish WHERE id > 1000").fetchone()
        same(found, ([1001, 1003],))


@check
def failed_transactions():
    with connect(autocommit=False) as conn:
        with refused("42P01"):
            conn.execute("SELECT * FROM nowhere")
        same(conn.info.transaction_status.name, "INERROR")
        with refused("25P02"):
            conn.execute("SELECT 1")
        conn.rollback()
        same(conn.execute("SELECT 1").fetchone(), (1,))


@check
def read_only_and_isolation():
    with connect(autocommit=False) as conn:
        conn.read_only = True
        with refused("25006"):
            conn.execute("DELETE FROM dish")
        conn.rollback()
        same(conn.execute("SELECT count(*) FROM dish WHERE id <= 100").fetchone(), (100,))
        conn.rollback()
        conn.read_only = None
        for level in psycopg.IsolationLevel:
            conn.isolation_level = level
            name = conn.execute("SHOW transaction_isolation").fetchone()[0]
            same(name.replace(" ", "_").upper(), level.name)
            conn.rollback()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.deferrable = True
        conn.read_only = True
        same(conn.execute("SHOW transaction_deferrable").fetchone(), ("on",))


@check
def two_phase_commit():
    with connect(autocommit=False) as conn:
        xid = conn.xid(1, f"{checks.DATABASE}-{checks.PORT}", "branch")
        conn.tpc_begin(xid)
        conn.execute("INSERT INTO dish VALUES (2001, 'in two phases', 1)")
        conn.tpc_prepare()
        conn.tpc_commit()
        same(conn.execute("SELECT name FROM dish WHERE id = 2001").fetchone(), ("in two phases",))
        conn.rollback()
        second = conn.xid(1, f"{checks.DATABASE}-{checks.PORT}", "other")
        conn.tpc_begin(second)
        conn.execute("INSERT INTO dish VALUES (2002, 'never', 1)")
        conn.tpc_prepare()
        conn.close()
    with connect() as conn:
        found = [xid for xid in conn.tpc_recover() if xid.bqual == "other" and xid.database == checks.DATABASE]
        same(len(found), 1)
        conn.tpc_rollback(found[0])
        same(conn.execute("SELECT count(*) FROM dish WHERE id = 2002").fetchone(), (0,))


@check
def errors_have_their_fields():
    with connect() as conn:
        with refused("23505") as it:
            conn.execute("INSERT INTO dish VALUES (1, 'again', 1)")
        diag = it.error.diag
        same((diag.constraint_name, diag.table_name, diag.schema_name), ("dish_pkey", "dish", "public"))
        same(diag.message_detail, "Key (id)=(1) already exists.")
        same(diag.severity_nonlocalized, "ERROR")
        for sql, state in [
            ("SELECT 1/0", "22012"),
            ("SELEC 1", "42601"),
            ("SELECT 'x'::int", "22P02"),
            ("SELECT nothing()", "42883"),
            ("INSERT INTO dish (id) VALUES (5000)", "23502"),
            ("SELECT 1; SELECT 1/0; SELECT 2", "22012"),
            ("DO $$BEGIN RAISE 'mine' USING ERRCODE = 'MYERR'; END$$", "MYERR"),
        ]:
            with refused(state):
                conn.execute(sql)
            same(conn.execute("SELECT 1").fetchone(), (1,))
        with refused("42601") as it:
            conn.execute("SELECT 1 FROM FROM dish")
        same(it.error.diag.statement_position, "15")


@check
def several_statements_in_one_text():
    with connect() as conn:
        cursor = conn.execute("SELECT 1; INSERT INTO dish VALUES (3001, 'x', 1); SELECT 2, 3")
        results = [cursor.statusmessage]
        while cursor.nextset():
            results.append(cursor.statusmessage)
        same(results, ["SELECT 1", "INSERT 0 1", "SELECT 1"])
        with refused("22012"):
            conn.execute("INSERT INTO dish VALUES (3002, 'x', 1); SELECT 1/0")
        same(conn.execute("SELECT count(*) FROM dish WHERE id = 3002").fetchone(), (0,))
        same(conn.execute("").statusmessage, None)


@check
def notices():
    told = []
    with connect() as conn:
        conn.add_notice_handler(lambda diag: told.append((diag.severity, diag.message_primary)))
        conn.execute("DO $$BEGIN RAISE NOTICE 'dal'; RAISE WARNING 'hot'; END$$")
    same(told, [("NOTICE", "dal"), ("WARNING", "hot")])


class GivesUp(Exception):
    pass


@contextlib.contextmanager
def gives_up():
    try:
        yield
    except GivesUp:
        return
    raise AssertionError("the body went on to its end")


@check
def copy_both_ways():
    with connect() as conn:
        conn.execute("CREATE TABLE copied (id int, what text)")
        cursor = conn.cursor()
        with cursor.copy("COPY copied FROM STDIN") as copy:
            for number in range(10_000):
                copy.write_row((number, f"row\t{number}"))
        same(cursor.rowcount, 10_000)
        with cursor.copy("COPY copied (id, what) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(10_000, 20_000):
                copy.write_row((number, None))
        with cursor.copy("COPY (SELECT * FROM copied WHERE id < 5000 ORDER BY id) TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            same(list(copy.rows()), [(number, f"row\t{number}") for number in range(5_000)])
        with cursor.copy("COPY copied TO STDOUT (FORMAT binary)") as copy:
            assert sum(len(block) for block in copy) > 20_000 * 10
        # Left half-way: the driver cancels it.
        with gives_up(), cursor.copy("COPY copied TO STDOUT") as copy:
            next(iter(copy))
            raise GivesUp
        same(conn.execute("SELECT count(*) FROM copied").fetchone(), (20_000,))


@check
def copy_that_fails():
    with connect() as conn:
        with refused("22P02"), conn.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write(b"not a number\tx\n" * 50_000)
        with gives_up(), conn.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write(b"1\tx\n")
            raise GivesUp
        with refused("42P01"), conn.cursor().copy("COPY nowhere FROM STDIN") as copy:
            copy.write(b"1\n")
        same(conn.execute("SELECT count(*) FROM copied").fetchone(), (20_000,))


@check
def cancel_and_timeouts():
    with connect() as conn:
        with checks.cancelling(conn.cancel_safe), refused("57014"):
            conn.execute("SELECT pg_sleep(30)")
        conn.execute("SET statement_timeout = '100ms'")
        with refused("57014"):
            conn.execute("SELECT pg_sleep(30)")
        conn.execute("RESET statement_timeout")
        same(conn.execute("SELECT 1").fetchone(), (1,))
        with connect(autocommit=False) as holder:
            holder.execute("SELECT * FROM dish WHERE id = 1 FOR UPDATE")
            conn.execute("SET lock_timeout = '100ms'")
            with refused("55P03"):
                conn.execute("UPDATE dish SET name = 'mine' WHERE id = 1")
            with refused("55P03"):
                conn.execute("SELECT * FROM dish WHERE id = 1 FOR UPDATE NOWAIT")
            same(len(conn.execute("SELECT * FROM dish WHERE id = 1 FOR UPDATE SKIP LOCKED").fetchall()), 0)


@check
def deadlocks_are_told():
    with connect(autocommit=False) as one, connect(autocommit=False) as two:
        one.execute("UPDATE dish SET price = 1 WHERE id = 1")
        two.execute("UPDATE dish SET price = 2 WHERE id = 2")
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            tasks = [
                threads.submit(one.execute, "UPDATE dish SET price = 1 WHERE id = 2"),
                threads.submit(two.execute, "UPDATE dish SET price = 2 WHERE id = 1"),
            ]
            done, _ = concurrent.futures.wait(tasks, return_when=concurrent.futures.FIRST_EXCEPTION)
            victim = next(conn for conn, task in zip((one, two), tasks) if task in done and task.exception())
            same(victim.info.transaction_status.name, "INERROR")
            victim.rollback()
            outcomes = sorted(checks.sqlstate(task.exception()) or "" for task in tasks)
        same(outcomes, ["", "40P01"])
        (two if victim is one else one).rollback()


@check
def serialization_failures_are_told():
    level = psycopg.IsolationLevel.SERIALIZABLE
    with connect(autocommit=False) as one, connect(autocommit=False) as two:
        one.isolation_level = two.isolation_level = level
        for conn, number in ((one, 1), (two, 2)):
            conn.execute("SELECT sum(price) FROM dish")
            conn.execute("UPDATE dish SET price = price + 1 WHERE id = %s", [number])
        one.commit()
        with refused("40001"):
            two.commit()


@check
def listen_and_notify():
    with connect() as listener, connect() as sender:
        listener.execute("LISTEN kitchen")
        for number in range(20):
            sender.execute("SELECT pg_notify('kitchen', %s)", [f"order {number}"])
        heard = [note.payload for note in listener.notifies(timeout=20, stop_after=20)]
        same(heard, [f"order {number}" for number in range(20)])
        # Statements of the listener go on between notifications.
        same(listener.execute("SELECT count(*) FROM dish WHERE id <= 100").fetchone(), (100,))
        with sender.transaction():
            sender.execute("NOTIFY kitchen, 'with the commit'")
            same(list(listener.notifies(timeout=0.2)), [])
        heard = [note.payload for note in listener.notifies(timeout=20, stop_after=1)]
        same(heard, ["with the commit"])
        listener.execute("NOTIFY kitchen, 'to myself'")
        same([note.payload for note in listener.notifies(timeout=20, stop_after=1)], ["to myself"])
        listener.execute("UNLISTEN *")
        sender.execute("NOTIFY kitchen, 'nobody listens'")
        same(list(listener.notifies(timeout=0.2)), [])


@check
def large_values():
    data = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    text = "dal " * (checks.LARGE_BYTES // 4)
    with connect() as conn:
        conn.execute("CREATE TABLE large (id int PRIMARY KEY, data bytea, words text)")
        for binary in (False, True):
            conn.execute("TRUNCATE large")
            conn.execute("INSERT INTO large VALUES (1, %s, %s)", [data, text])
            row = conn.execute("SELECT data, words FROM large", binary=binary).fetchone()
            assert row == (data, text), "another value came back"
        # A text of that length, without parameters.
        assert conn.execute(f"SELECT length('{text}')").fetchone() == (len(text),)


@check
def server_side_cursors():
    with connect(autocommit=False) as conn:
        with conn.cursor("named") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM dish WHERE id <= 100 ORDER BY id")
            same([row[0] for row in cursor], list(range(1, 101)))
        with conn.cursor("scrolling", scrollable=True) as cursor:
            cursor.execute("SELECT id FROM dish WHERE id <= 100 ORDER BY id")
            cursor.scroll(50)
            same(cursor.fetchone(), (51,))
            cursor.scroll(-10)
            same(cursor.fetchone(), (42,))
        conn.commit()
    with connect() as conn:
        # Outlives its statement: the connection is kept for it until it is closed.
        with conn.cursor("held", withhold=True) as cursor:
            cursor.execute("SELECT id FROM dish WHERE id <= 100 ORDER BY id")
            same(cursor.fetchmany(3), [(1,), (2,), (3,)])
            conn.execute("INSERT INTO dish VALUES (4001, 'x', 1)")
            same(cursor.fetchmany(2), [(4,), (5,)])
        # Rows one by one as they arrive.
        same(sum(1 for _ in conn.cursor().stream("SELECT generate_series(1, 5000)")), 5000)


@check
def settings_follow_the_session():
    options = "-c search_path=other,public -c timezone=Asia/Kolkata"
    with connect(options=options, application_name="lunch") as conn, connect() as other:
        other.execute("CREATE SCHEMA other CREATE TABLE dish (id int)")
        for _ in range(10):
            same(conn.execute("SELECT count(*) FROM dish").fetchone(), (0,))
            same(other.execute("SELECT count(*) FROM dish WHERE id <= 100").fetchone(), (100,))
            same(conn.execute("SHOW timezone").fetchone(), ("Asia/Kolkata",))
        conn.execute("SET datestyle = 'German'")
        same(conn.info.parameter_status("DateStyle"), "German, DMY")
        same(conn.execute("SELECT '2026-11-21'::date::text").fetchone(), ("21.11.2026",))
        same(other.execute("SELECT '2026-11-21'::date::text").fetchone(), ("2026-11-21",))
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL work_mem = '7MB'")
            conn.execute("SELECT set_config('app.cook', 'meera', false)")
            same(conn.execute("SHOW work_mem").fetchone(), ("7MB",))
            same(conn.execute("SHOW app.cook").fetchone(), ("meera",))
        assert conn.execute("SHOW work_mem").fetchone() != ("7MB",)
        assert not conn.execute("SELECT current_setting('app.cook', true)").fetchone()[0]
        conn.execute("RESET ALL")
        same(conn.execute("SHOW timezone").fetchone(), ("Asia/Kolkata",))


@check
def session_objects():
    with connect() as conn, connect() as other:
        conn.execute("CREATE TEMP TABLE mine (id int)")
        conn.execute("INSERT INTO mine VALUES (1)")
        for _ in range(5):
            same(conn.execute("SELECT * FROM mine").fetchall(), [(1,)])
        with refused("42P01"):
            other.execute("SELECT * FROM mine")
        same(conn.execute("SELECT pg_try_advisory_lock(7)").fetchone(), (True,))
        same(other.execute("SELECT pg_try_advisory_lock(7)").fetchone(), (False,))
        same(conn.execute("SELECT pg_advisory_unlock(7)").fetchone(), (True,))
        same(other.execute("SELECT pg_try_advisory_lock(7)").fetchone(), (True,))
        conn.execute("CREATE SEQUENCE numbers")
        same(conn.execute("SELECT nextval('numbers')").fetchone(), (1,))
        same(conn.execute("SELECT currval('numbers'), lastval()").fetchone(), (1, 1))
        conn.execute("PREPARE mine AS SELECT $1::int + 1")
        same(conn.execute("EXECUTE mine(1)").fetchone(), (2,))
        conn.execute("DISCARD ALL")
        for sql, state in [("SELECT * FROM mine", "42P01"), ("EXECUTE mine(1)", "26000")]:
            with refused(state):
                conn.execute(sql)


@check
def pipelines():
    with connect() as conn:
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("SELECT %s::int", [number]) for number in range(200)]
            pipeline.sync()
            conn.execute("INSERT INTO dish VALUES (6001, 'from a pipeline', 1)")
            seen = conn.execute("SELECT name FROM dish WHERE id = 6001")
        same([cursor.fetchone()[0] for cursor in cursors], list(range(200)))
        same(seen.fetchone(), ("from a pipeline",))
        with conn.pipeline():
            cursor = conn.cursor()
            cursor.executemany(
                "INSERT INTO dish VALUES (%s, %s, 1) RETURNING id",
                [(6100 + number, "many") for number in range(100)],
                returning=True,
            )
            first = cursor.fetchone()
        same(first, (6100,))


@contextlib.contextmanager
def aborted():
    """The body fails with the server's error, or with the driver's own word for what came after
    it, as soon as one of them has arrived."""
    try:
        yield
    except (psycopg.errors.DivisionByZero, psycopg.errors.PipelineAborted):
        return
    raise AssertionError("no error in the pipeline")


@check
def pipelines_with_errors():
    with connect() as conn:
        with conn.pipeline() as pipeline:
            good = conn.execute("SELECT 1")
            pipeline.sync()
        with aborted(), conn.pipeline() as pipeline:
            conn.execute("SELECT 1/%s", [0])
            conn.execute("INSERT INTO dish VALUES (6999, 'skipped', 1)")
            pipeline.sync()
        with aborted(), conn.pipeline():
            conn.execute("INSERT INTO dish VALUES (6999, 'rolled back', 1)")
            conn.execute("SELECT 1/%s", [0])
            conn.execute("INSERT INTO dish VALUES (6999, 'skipped', 1)")
        with conn.pipeline() as pipeline:
            first = conn.execute("SELECT 1")
            pipeline.sync()
            second = conn.execute("SELECT 2")
        same((first.fetchone(), second.fetchone()), ((1,), (2,)))
        same(good.fetchone(), (1,))
        same(conn.execute("SELECT count(*) FROM dish WHERE id = 6999").fetchone(), (0,))
        with conn.transaction(), conn.pipeline():
            conn.execute("INSERT INTO dish VALUES (7001, 'in a transaction', 1)")
            with conn.transaction():
                conn.execute("INSERT INTO dish VALUES (7002, 'in a savepoint', 1)")
        same(conn.execute("SELECT count(*) FROM dish WHERE id BETWEEN 7001 AND 7002").fetchone(), (2,))


@check
def large_objects_and_functions():
    with connect(autocommit=False) as conn:
        oid = conn.execute("SELECT lo_from_bytea(0, %s)", [b"lunch" * 1000]).fetchone()[0]
        same(conn.execute("SELECT lo_get(%s, 5, 5)", [oid]).fetchone(), (b"lunch",))
        conn.execute("SELECT lo_unlink(%s)", [oid])
        conn.execute(
            "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'"
        )
        conn.execute(
            "CREATE PROCEDURE fill(n int) LANGUAGE plpgsql AS "
            "$$BEGIN FOR i IN 1..n LOOP INSERT INTO dish VALUES (8000 + i, 'p', 1); COMMIT; END LOOP; END$$"
        )
        conn.commit()
        conn.autocommit = True
        conn.execute("CALL fill(3)")
        same(conn.execute("SELECT count(*), twice(21) FROM dish WHERE id > 8000").fetchone(), (3, 42))


@check
def reads_its_own_writes():
    with connect() as conn:
        conn.execute("CREATE TABLE counter (n int)")
        conn.execute("INSERT INTO counter VALUES (0)")
        for number in range(1, 200):
            conn.execute("UPDATE counter SET n = %s", [number])
            same(conn.execute("SELECT n FROM counter").fetchone(), (number,))


@check
def pool():
    with psycopg_pool.ConnectionPool(
        CONNINFO, min_size=2, max_size=8, timeout=30, kwargs={"autocommit": False},
        check=psycopg_pool.ConnectionPool.check_connection,
    ) as pool:
        pool.wait(30)

        def work(number):
            with pool.connection() as conn:
                conn.execute("UPDATE counter SET n = n + 1")
                return conn.execute("SELECT count(*) FROM dish WHERE id <= 100").fetchone()[0]

        with connect() as conn:
            conn.execute("UPDATE counter SET n = 0")
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            same(set(threads.map(work, range(200))), {100})
        with pool.connection() as conn:
            same(conn.execute("SELECT n FROM counter").fetchone(), (200,))
        # An error rolls back and the connection stays of use.
        with refused("22012"), pool.connection() as conn:
            conn.execute("UPDATE counter SET n = 7")
            conn.execute("SELECT 1/0")
        with pool.connection() as conn:
            same(conn.execute("SELECT n FROM counter").fetchone(), (200,))


def read_port(**kwargs):
    with connect(**kwargs) as conn:
        conn.execute("SELECT count(*) FROM dish")
        return conn.execute("SELECT inet_server_port(), count(*) FROM dish").fetchone()[0]


@check
def reads_spread_over_replicas():
    for kwargs in [{}, {"prepare_threshold": 0}, {"cursor_factory": psycopg.ClientCursor}]:
        eventually(lambda: read_port(**kwargs) in checks.READ_PORTS, "a read where reads belong")
        spread = checks.Spread()
        while spread.wants_more():
            spread.ran_on(read_port(**kwargs))


@check
def read_only_transactions_spread_over_replicas():
    spread = checks.Spread()
    while spread.wants_more():
        with connect(autocommit=False) as conn:
            conn.read_only = True
            ports = {conn.execute("SELECT inet_server_port() FROM dish LIMIT 1").fetchone()[0] for _ in range(3)}
            same(len(ports), 1, "servers in one transaction")
            spread.ran_on(ports.pop())


libpq = psycopg.pq.version_pretty(psycopg.pq.version())
checks.main("psycopg (blocking)", f"{psycopg.__version__}, {psycopg.pq.__impl__}, libpq {libpq}, pool {psycopg_pool.__version__}")
