"""libpq as pgbench uses it: every protocol mode, its built-in scripts and some of ours."""

import os
import pathlib
import re
import signal
import subprocess

import checks
from checks import check, same

BIN = pathlib.Path(os.environ["PG_BIN"])
HERE = pathlib.Path(__file__).parent
CLIENTS = 6


def run(program, *words):
    """What the program printed."""
    command = [str(BIN / program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=checks.CHECK_SECONDS_MAX - 5)
    if done.returncode:
        raise AssertionError(f"{program} {' '.join(command[1:])}: {done.stderr[-500:]}")
    return done.stdout


def psql(sql):
    return run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql).strip()


def bench(*words, transactions):
    """Each client's transactions; none may fail."""
    out = run("pgbench", "-n", "-c", CLIENTS, "-j", 2, "-t", transactions, *words)
    number = int(re.search(r"transactions actually processed: (\d+)", out).group(1))
    same(number, CLIENTS * transactions, out)
    same(re.search(r"number of failed transactions: (\d+)", out).group(1), "0", out)


def balanced():
    """The sums that each transaction of the TPC-B-like script keeps equal, and its history."""
    names = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches"]
    sums = [f"(SELECT sum({name[8]}balance) FROM {name})" for name in names]
    found = psql(f"/* tiffin: primary */ SELECT {', '.join(sums)}, (SELECT sum(delta) FROM pgbench_history)")
    same(len(set(found.split("|"))), 1, found)


@check
def initialises_over_copy():
    run("pgbench", "-i", "-q", "-s", 1, "--foreign-keys")
    same(psql("SELECT count(*) FROM pgbench_accounts"), "100000")


@check
def initialises_on_the_server():
    run("pgbench", "-i", "-q", "-s", 1, "-I", "dtGvp", "--partitions", 3)
    same(psql("SELECT count(*) FROM pgbench_accounts"), "100000")


def add(mode):
    def select_only():
        bench("-M", mode, "-S", transactions=100)

    def tpcb_like():
        psql("TRUNCATE pgbench_history")
        psql("UPDATE pgbench_accounts SET abalance = 0 WHERE abalance <> 0")
        psql("UPDATE pgbench_tellers SET tbalance = 0")
        psql("UPDATE pgbench_branches SET bbalance = 0")
        bench("-M", mode, "-b", "tpcb-like", transactions=25)
        same(psql("/* tiffin: primary */ SELECT count(*) FROM pgbench_history"), str(CLIENTS * 25))
        balanced()

    def simple_update():
        bench("-M", mode, "-b", "simple-update", transactions=25)

    def own_script():
        bench("-M", mode, "-f", HERE / "pgbench/mixed.sql", transactions=15)

    def new_connection_each_time():
        bench("-M", mode, "-S", "-C", transactions=5)

    for function in [select_only, tpcb_like, simple_update, own_script, new_connection_each_time]:
        function.__name__ = f"{mode}_{function.__name__}"
        check(function)


for word in ["simple", "extended", "prepared"]:
    add(word)


@check
def several_statements_in_one_text():
    bench("-M", "simple", "-f", HERE / "pgbench/several.sql", transactions=15)


@check
def extended_pipeline():
    bench("-M", "extended", "-f", HERE / "pgbench/pipeline.sql", transactions=15)


@check
def prepared_pipeline():
    bench("-M", "prepared", "-f", HERE / "pgbench/pipeline.sql", transactions=15)


@check
def serializable_with_retries():
    psql("CREATE TABLE queue AS SELECT n, 0 AS taken FROM generate_series(1, 10) n")
    out = run(
        "pgbench", "-n", "-c", CLIENTS, "-j", 2, "-t", 10, "-M", "prepared", "--max-tries=1000",
        "-f", HERE / "pgbench/serializable.sql",
    )
    same(re.search(r"number of failed transactions: (\d+)", out).group(1), "0", out)
    same(psql("/* tiffin: primary */ SELECT sum(taken) FROM queue"), str(CLIENTS * 10))


@check
def an_error_ends_it():
    done = subprocess.run(
        [str(BIN / "pgbench"), "-n", "-t", "1", "-f", str(HERE / "pgbench/error.sql")],
        capture_output=True, text=True, timeout=checks.CHECK_SECONDS_MAX - 5,
    )
    assert done.returncode and "division by zero" in done.stderr, done.stderr


@check
def connects_with_scram_over_tls():
    # Only SCRAM binds a login to its TLS connection.
    same(run("psql", "-XAtq", "channel_binding=require", "-c", "SELECT current_user").strip(), checks.USER)
    done = subprocess.run(
        [str(BIN / "psql"), "-XAtq", "-c", "SELECT 1"], capture_output=True, text=True,
        env=os.environ | {"PGPASSWORD": "no"}, timeout=checks.CHECK_SECONDS_MAX - 5,
    )
    assert done.returncode and "password authentication failed" in done.stderr, done.stderr


@check
def cancels_where_it_runs():
    """Ctrl-C in psql."""
    name = f"to be cancelled in {checks.DATABASE}"
    sleep = f"/* tiffin: primary */ SELECT pg_sleep(50) AS \"{name}\""
    running = psql_process("-c", sleep)
    look = (
        "/* tiffin: primary */ SELECT count(*) FROM pg_stat_activity "
        f"WHERE state = 'active' AND query LIKE '%\"{name}\"'"
    )
    checks.eventually(lambda: psql(look) == "1", "the statement runs")
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=checks.CHECK_SECONDS_MAX - 5)
    assert "canceling statement due to user request" in error, error
    same((out, running.returncode), ("", 1), error)
    checks.eventually(lambda: psql(look) == "0", "the statement ends")


@check
def listen_and_notify():
    listener = psql_process(stdin=subprocess.PIPE)
    listener.stdin.write("LISTEN kitchen; SELECT 'listens';\n")
    listener.stdin.flush()
    same(listener.stdout.readline().strip(), "listens")
    for number in range(3):
        psql(f"NOTIFY kitchen, 'order {number}'")
    # psql looks for notifications behind its own statements.
    out, error = listener.communicate("SELECT 'asks';\n", timeout=checks.CHECK_SECONDS_MAX - 5)
    told = re.findall(r'notification "kitchen" with payload "([^"]*)"', out)
    same(told, [f"order {number}" for number in range(3)], out + error)


@check
def large_values():
    words = "dal " * (checks.LARGE_BYTES // 4)
    pathlib.Path("large.txt").write_text(words)
    psql("CREATE TABLE large (words text)")
    run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-c", r"\copy large FROM 'large.txt'")
    same(psql("/* tiffin: primary */ SELECT words FROM large"), words.strip())
    pathlib.Path("large.sql").write_text(f"INSERT INTO large VALUES ('{words}')")
    run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "large.sql")
    same(psql("/* tiffin: primary */ SELECT count(*), count(DISTINCT words) FROM large"), "2|1")


def psql_process(*words, **options):
    command = [str(BIN / "psql"), "-XAtq", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@check
def psql_describes():
    """The catalog queries behind psql's commands."""
    for word in [
        r"\d", r"\d+ pgbench_accounts", r"\dt+", r"\di+", r"\df", r"\dn+", r"\du", r"\l+", r"\dp", r"\dT+",
        r"\dx", r"\des", r"\conninfo", r"\sf generate_subscripts(anyarray,int)", r"\z", r"\ddp", r"\dO",
    ]:
        assert run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", word), word


@check
def psql_scripts():
    out = run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", HERE / "pgbench/psql.sql")
    same(out.split(), ["1", "2", "3", "7", "42", "100", "4", "kitchen", "done"])


@check
def dump_and_restore():
    content = "/* tiffin: primary */ SELECT count(*), sum(abalance) FROM pgbench_accounts"
    before = psql(content)
    dump = pathlib.Path(f"{checks.DATABASE}.dump")
    run("pg_dump", "--format=custom", "--file", dump, "-t", "pgbench_*")
    psql("DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")
    run("pg_restore", "--exit-on-error", "--dbname", checks.DATABASE, dump)
    same(psql(content), before)


# pgbench's own statements are known by now; each connection's reads go to one replica.
@check
def reads_spread_over_replicas():
    def port():
        return int(psql("SELECT inet_server_port() FROM pgbench_branches LIMIT 1"))

    checks.eventually(lambda: port() in checks.READ_PORTS, "a read where reads belong")
    spread = checks.Spread()
    while spread.wants_more():
        spread.ran_on(port())


checks.main("libpq through pgbench and psql", run("pgbench", "--version").split()[2])
