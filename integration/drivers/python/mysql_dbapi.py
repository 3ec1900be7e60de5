"""PyMySQL, mysqlclient and Connector/Python, in Python and in C, by the same checks of the DB-API
and beyond.

    mysql_dbapi.py pymysql | mysqlclient | connector | connector_c
"""

import sys

if sys.argv[1] == "connector_c":
    # Before anything loads the system's OpenSSL: the one that comes with it may be newer.
    import _mysql_connector  # noqa: F401

import datetime
import decimal
import importlib.metadata
import tempfile

import checks
from checks import check, same

DRIVER = sys.argv[1]
IS_CONNECTOR = DRIVER.startswith("connector")
if DRIVER == "pymysql":
    import pymysql as driver
    from pymysql.cursors import SSCursor

    OWN = {"local_infile": True, "client_flag": driver.constants.CLIENT.MULTI_STATEMENTS}
    TLS = {"ssl": {"ca": checks.CA, "check_hostname": True}}
    PLAIN = {"ssl_disabled": True}
elif DRIVER == "mysqlclient":
    import MySQLdb as driver
    from MySQLdb.cursors import SSCursor

    OWN = {"local_infile": 1}
    TLS = {"ssl": {"ca": checks.CA}, "ssl_mode": "VERIFY_IDENTITY"}
    PLAIN = {"ssl_mode": "DISABLED"}
else:
    import mysql.connector as driver

    OWN = {
        "use_pure": DRIVER == "connector",
        "allow_local_infile": True,
        # The default one is MySQL's only.
        "collation": "utf8mb4_general_ci",
    }
    TLS = {"ssl_ca": checks.CA, "ssl_verify_cert": True, "ssl_verify_identity": True}
    PLAIN = {"ssl_disabled": True}


def connect(autocommit=True, encryption=TLS, **more):
    return driver.connect(
        **{
            "host": checks.HOST,
            "port": checks.PORT,
            "user": checks.USER,
            "password": checks.PASSWORD,
            "database": checks.DATABASE,
            "charset": "utf8mb4",
            "autocommit": autocommit,
            **OWN,
            **encryption,
            **more,
        }
    )


class session:
    """`with session() as cursor:` of a new connection."""

    def __init__(self, **more):
        self.more = more

    def __enter__(self):
        self.connection = connect(**self.more)
        self.cursor = self.connection.cursor()
        return self.cursor

    def __exit__(self, *_):
        self.cursor.close()
        self.connection.close()


def value(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    (row,) = cursor.fetchall()
    return row[0]


def refused(number, run):
    try:
        run()
    except driver.Error as error:
        found = getattr(error, "errno", None) or error.args[0]
        same(found, number, f"number of {error}")
    else:
        raise AssertionError(f"no error instead of {number}")


@check
def connects_over_tls():
    with session() as cursor:
        same(value(cursor, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"), checks.USER)
        same(value(cursor, "SELECT DATABASE()"), checks.DATABASE)
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        cursor.fetchall()


@check
def connects_without_tls():
    # The server remembers the password by now, if its plugin is one that does.
    with session(encryption=PLAIN) as cursor:
        same(value(cursor, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"), checks.USER)


@check
def the_driver_is_the_one_that_is_meant():
    connection = connect()
    if IS_CONNECTOR:
        kind = {"connector": "MySQLConnection", "connector_c": "CMySQLConnection"}[DRIVER]
        same(type(connection).__name__, kind)
    connection.close()


@check
def wrong_password_and_database_are_refused():
    refused(1045, lambda: connect(password="no"))
    refused(1044, lambda: connect(database="nowhere"))


@check
def makes_its_tables():
    with session() as cursor:
        cursor.execute(
            "CREATE TABLE dish (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) UNIQUE, "
            "price DECIMAL(10, 2), made DATETIME(6), raw LONGBLOB, doc JSON)"
        )
        rows = [(f"dish {n}", decimal.Decimal(n) / 4) for n in range(1, 1001)]
        cursor.executemany("INSERT INTO dish (name, price) VALUES (%s, %s)", rows)
        same(cursor.rowcount, 1000)
        same(value(cursor, "SELECT COUNT(*) FROM dish"), 1000)
    checks.settled(lambda: others_see("dish 1000"), "the rows on every server")


def others_see(name):
    """Whether a new session finds the dish, wherever it reads."""
    with session() as cursor:
        return value(cursor, "SELECT COUNT(*) FROM dish WHERE name = %s", (name,)) == 1


@check
def values_of_all_kinds_come_back():
    made = datetime.datetime(2026, 11, 21, 17, 0, 1, 250000)
    with session() as cursor:
        cursor.execute(
            "INSERT INTO dish (name, price, made, raw, doc) VALUES (%s, %s, %s, %s, %s)",
            ("ünïcödé 🍛", decimal.Decimal("1234.50"), made, bytes(range(256)), '{"a": [1]}'),
        )
        last = cursor.lastrowid
        assert last > 1000, last
        same(cursor.rowcount, 1)
        cursor.execute("SELECT name, price, made, raw, NULL FROM dish WHERE id = %s", (last,))
        (row,) = cursor.fetchall()
        expected = ("ünïcödé 🍛", decimal.Decimal("1234.50"), made, bytes(range(256)), None)
        same(tuple(row), expected)
        same(value(cursor, "SELECT LAST_INSERT_ID()"), last)


@check
def large_values_pass_both_ways():
    large = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    with session() as cursor:
        cursor.execute("INSERT INTO dish (name, raw) VALUES ('large', %s)", (large,))
        found = value(cursor, "SELECT raw FROM dish WHERE name = 'large'")
        assert bytes(found) == large


@check
def errors_have_the_servers_numbers():
    with session() as cursor:
        refused(1146, lambda: cursor.execute("SELECT * FROM no_such_table"))
        refused(1064, lambda: cursor.execute("SELEC 1"))
        refused(1062, lambda: cursor.execute("INSERT INTO dish (name) VALUES ('dish 1')"))
        same(value(cursor, "SELECT 1"), 1)


@check
def warnings_are_those_of_the_last_statement():
    with session() as cursor:
        same(value(cursor, "SELECT CAST('x' AS SIGNED)"), 0)
        cursor.execute("SHOW WARNINGS")
        ((level, number, _),) = cursor.fetchall()
        same((level, number), ("Warning", 1292))


@check
def transactions_by_the_driver():
    connection = connect(autocommit=False)
    cursor = connection.cursor()
    cursor.execute("INSERT INTO dish (name) VALUES ('rolled back')")
    same(value(cursor, "SELECT COUNT(*) FROM dish WHERE name = 'rolled back'"), 1)
    connection.rollback()
    same(value(cursor, "SELECT COUNT(*) FROM dish WHERE name = 'rolled back'"), 0)
    cursor.execute("INSERT INTO dish (name) VALUES ('committed')")
    connection.commit()
    connection.rollback()
    same(value(cursor, "SELECT COUNT(*) FROM dish WHERE name = 'committed'"), 1)
    connection.close()


@check
def a_session_reads_its_own_writes():
    with session() as cursor:
        for n in range(50):
            cursor.execute("UPDATE dish SET price = %s WHERE name = 'dish 1'", (n,))
            same(value(cursor, "SELECT price FROM dish WHERE name = 'dish 1'"), n)


@check
def what_a_session_keeps_stays_with_it():
    with session() as cursor:
        cursor.execute("SET @a = 5, sql_mode = 'ANSI_QUOTES'")
        cursor.execute("CREATE TEMPORARY TABLE scratch (id INT)")
        cursor.execute("INSERT INTO scratch VALUES (1), (2)")
        for _ in range(3):
            same(value(cursor, 'SELECT COUNT(*) FROM "dish" WHERE id < 3'), 2)
            same(value(cursor, "SELECT @a"), 5)
            same(value(cursor, "SELECT COUNT(*) FROM scratch"), 2)
    with session() as cursor:
        same(value(cursor, "SELECT @a"), None)
        refused(1146, lambda: cursor.execute("SELECT * FROM scratch"))


@check
def procedures_and_several_results():
    with session() as cursor:
        cursor.execute("CREATE PROCEDURE two(IN a INT) BEGIN SELECT a; SELECT a + 1, a + 2; END")
        if not IS_CONNECTOR:
            cursor.callproc("two", (5,))
            results = [cursor.fetchall()]
            while cursor.nextset():
                results.append(cursor.fetchall())
            results = [result for result in results if result]
        else:
            cursor.callproc("two", (5,))
            results = [result.fetchall() for result in cursor.stored_results()]
        same([[tuple(row) for row in result] for result in results], [[(5,)], [(6, 7)]])
    with session() as cursor:
        same(value(cursor, "SELECT 1"), 1)


@check
def files_of_the_client_are_loaded():
    with tempfile.NamedTemporaryFile("w", suffix=".csv", dir=".") as file, session() as cursor:
        file.write("".join(f"loaded {n},{n}\n" for n in range(100)))
        file.flush()
        cursor.execute(
            f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE dish "
            "FIELDS TERMINATED BY ',' (name, price)"
        )
        same(value(cursor, "SELECT COUNT(*) FROM dish WHERE name LIKE 'loaded %'"), 100)


@check
def rows_are_fetched_one_by_one():
    connection = connect()
    if IS_CONNECTOR:
        cursor = connection.cursor(buffered=False)
    else:
        cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT id, name FROM dish ORDER BY id")
    count = 0
    while cursor.fetchone():
        count += 1
    assert count > 1000, count
    cursor.close()
    connection.close()


@check
def prepared_statements_of_the_server():
    if not IS_CONNECTOR:
        return
    connection = connect()
    cursor = connection.cursor(prepared=True)
    for n in range(1, 51):
        cursor.execute("SELECT name FROM dish WHERE id = %s", (n,))
        same(tuple(cursor.fetchone()), (f"dish {n}",))
    cursor.execute("INSERT INTO dish (name, price) VALUES (%s, %s)", ("prepared", 3.5))
    same(cursor.rowcount, 1)
    cursor.close()
    connection.close()


@check
def attributes_of_queries_reach_the_proxy():
    """By them a statement is told where to run; MariaDB has none."""
    if not IS_CONNECTOR:
        return
    connection = connect()
    if "MariaDB" not in connection.get_server_info():
        for prepared in (False, True):
            cursor = connection.cursor(prepared=prepared)
            for _ in range(10):
                cursor.add_attribute("tiffin_target", "primary")
                cursor.add_attribute("number", 5)
                cursor.execute("SELECT @@port, %s FROM dish LIMIT 1", ("x",))
                same(tuple(cursor.fetchall()[0]), (checks.PRIMARY_PORT, "x"))
                cursor.clear_attributes()
            cursor.close()
    connection.close()


@check
def sessions_are_reset_and_pinged():
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SET @a = 1")
    if not IS_CONNECTOR:
        connection.ping()
        connection.select_db("information_schema")
        same(value(cursor, "SELECT DATABASE()"), "information_schema")
    else:
        connection.ping(reconnect=False)
        cursor.close()
        connection.cmd_reset_connection()
        cursor = connection.cursor()
        same(value(cursor, "SELECT @a"), None)
    connection.close()


@check
def reads_are_spread():
    spread = checks.Spread()
    while spread.wants_more():
        with session() as cursor:
            spread.ran_on(value(cursor, "SELECT @@port FROM dish LIMIT 1"))


PACKAGE = {"pymysql": "PyMySQL", "mysqlclient": "mysqlclient"}.get(DRIVER, "mysql-connector-python")
checks.main(f"{PACKAGE} ({DRIVER})", importlib.metadata.version(PACKAGE))
