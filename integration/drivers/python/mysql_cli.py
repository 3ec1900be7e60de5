"""The command-line clients, as scripts use them.

    mysql_cli.py mariadb | mysql_9
"""

import os
import subprocess
import sys

import checks
from checks import check, same, settled

PROGRAM = {"mariadb": "mariadb", "mysql_9": os.environ["MYSQL_9"]}[sys.argv[1]]


def client(sql, *options, fails=False):
    command = [
        PROGRAM,
        "--no-defaults",
        f"--host={checks.HOST}",
        f"--port={checks.PORT}",
        f"--user={checks.USER}",
        f"--password={checks.PASSWORD}",
        f"--ssl-ca={checks.CA}",
        *options,
        checks.DATABASE,
    ]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, timeout=60)
    if bool(done.returncode) != fails:
        raise AssertionError(f"{sql}: {done.returncode}: {done.stderr}")
    return done.stderr if fails else done.stdout


# Where the server does not know the password yet, it is sent by the server's key.
PLAIN = {
    "mariadb": ["--skip-ssl"],
    "mysql_9": ["--ssl-mode=DISABLED", "--get-server-public-key"],
}[sys.argv[1]]


@check
def connects_without_tls():
    told = client("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1);", "--skip-column-names", *PLAIN)
    same(told, f"{checks.USER}\n")


@check
def scripts_run():
    told = client(
        "CREATE TABLE dish (id INT PRIMARY KEY, name VARCHAR(50));\n"
        "INSERT INTO dish VALUES (1, 'one'), (2, 'two');\n"
        "SELECT * FROM dish ORDER BY id;\n"
    )
    same(told, "id\tname\n1\tone\n2\ttwo\n")


@check
def errors_end_scripts():
    told = client("SELECT 1; SELECT * FROM no_such_table; SELECT 2;", fails=True)
    assert "ERROR 1146 (42S02) at line 1" in told, told


@check
def delimiters_are_the_clients():
    told = client(
        "DELIMITER //\n"
        "CREATE PROCEDURE two() BEGIN SELECT 1; SELECT 2; END//\n"
        "DELIMITER ;\n"
        "CALL two();\n",
        "--skip-column-names",
    )
    same(told, "1\n2\n")


@check
def results_have_a_table_and_warnings():
    told = client("SELECT CAST('x' AS SIGNED) AS n;", "--table", "--show-warnings")
    assert "+---+\n| n |\n+---+\n| 0 |\n+---+\n" in told, told
    assert "Warning (Code 1292)" in told, told


@check
def names_are_completed():
    # It reads every table's columns when it starts, by COM_FIELD_LIST or SHOW.
    counted = lambda: client("SELECT COUNT(*) FROM dish;", "--auto-rehash", "--skip-column-names")
    settled(lambda: counted() == "2\n", "the rows on every server")


@check
def files_are_loaded():
    with open("dishes.tsv", "w") as file:
        file.write("".join(f"{n}\tdish {n}\n" for n in range(10, 20)))
    told = client(
        "LOAD DATA LOCAL INFILE 'dishes.tsv' INTO TABLE dish;\nSELECT COUNT(*) FROM dish;",
        "--local-infile=1",
        "--skip-column-names",
    )
    same(told, "12\n")


@check
def results_are_taken_as_they_come():
    options = ["--quick", "--batch", "--skip-column-names"]
    expected = ["1", "2", *map(str, range(10, 20))]
    read = lambda: client("SELECT id FROM dish ORDER BY id;", *options).split()
    settled(lambda: read() == expected, "the rows on every server")


version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout.strip()
checks.main("command line", version)
