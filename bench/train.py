#!/usr/bin/env python3
"""Has a program that counts what runs do what a proxy does all day; scripts/build-release.sh then
builds one by these counts.

What does not run here is taken for rare and made small instead of fast. So it is the rows of
bench.py and of mysql.py, logins, TLS, COPY, and statements that the classifier has not seen.
Environment: TRAIN_SECONDS (2) per row.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile

import bench
import mysql

SECONDS = int(os.environ.get("TRAIN_SECONDS", "2"))
STATEMENTS = pathlib.Path(__file__).parent.parent / "integration" / "data"
# Each is classified once only.
TIMES = 5


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--tiffin", type=pathlib.Path, required=True)
    tiffin = arguments.parse_args().tiffin.resolve()
    for train in (train_postgres, train_mysql, train_classifier):
        with contextlib.ExitStack() as stack:
            train(stack, tiffin)


def train_postgres(stack, tiffin):
    servers = bench.Servers(stack, tiffin)
    nodes = {name: f"127.0.0.1:{port}" for name, port in servers.ports.items()}
    plain = bench.tiffin_with(stack, servers.folder, tiffin, "plain", nodes)
    for name, options, *rest in bench.ROWS:
        options = [bench.fill(option, servers.folder) for option in options]
        report(name, bench.measure(plain, (name, options, *rest), SECONDS))
    secured = with_secrets(stack, servers.folder, tiffin, nodes)
    secrets = {"PGSSLMODE": "require", "PGPASSWORD": "app"}
    for options in (["-M", "simple"], ["-M", "prepared"], ["-C"]):
        options = ["-n", "-S", *options, "-c", "8", "-j", "2", "-T", str(SECONDS)]
        bench.pgbench(*options, port=secured.port, **secrets)
    psql = [bench.program("psql"), "-q", "-X", "-h", "127.0.0.1", "-p", str(secured.port), "-U", "app", "app"]
    copied = servers.folder / "copied"
    accounts = "SELECT * FROM pgbench_accounts LIMIT 200000"
    for command in (
        f"\\copy ({accounts}) TO {copied}",
        "CREATE TABLE copied (LIKE pgbench_accounts)",
        f"\\copy copied FROM {copied}",
    ):
        subprocess.run([*psql, "-c", command], check=True, env={**os.environ, **secrets})


def with_secrets(stack, folder, tiffin, nodes):
    """One with TLS and SCRAM."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return bench.tiffin_with(
        stack,
        folder,
        tiffin,
        "secured",
        nodes,
        is_up=lambda port: socket.create_connection(("127.0.0.1", port), timeout=10),
        auth={"method": "scram-sha-256"},
        users=[{"name": "app", "password": "app"}],
        tls={"mode": "require", "certificate": str(certificate), "key": str(key)},
    )


def train_mysql(stack, tiffin):
    folder, ports = mysql.start_servers(stack, tiffin)
    proxy = mysql.tiffin_with(stack, folder, tiffin, ports)
    for row in mysql.ROWS:
        report(row[0], mysql.measure(proxy, row, SECONDS))


def train_classifier(stack, tiffin):
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tiffin-train-")))
    for engine, name, listen in (
        ("postgres", "classify", {"postgres": ["127.0.0.1:1"]}),
        ("mariadb", "classify_mysql", {"mysql": ["127.0.0.1:1"]}),
    ):
        config = folder / f"{engine}.yaml"
        cluster = {"engine": engine, "nodes": ["127.0.0.1:2"], "service": {"user": "tiffin"}}
        config.write_text(
            json.dumps(
                {
                    "listen": listen,
                    "auth": {"method": "trust"},
                    "users": [{"name": "app"}],
                    "clusters": {"main": cluster},
                }
            )
        )
        texts = folder / f"{engine}.sql"
        texts.write_text("".join(f"{text};\n" for text in statements(STATEMENTS / name)))
        explain = [tiffin, "explain", "--offline", "--config", config, "--file", texts]
        for _ in range(TIMES):
            subprocess.run(explain, check=True, capture_output=True)
        report(name, (texts.stat().st_size,))


def statements(folder):
    """The last columns of the tables in a folder."""
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text().splitlines():
            if not line.startswith("#") and line.count(" | ") >= 2:
                yield line.split(" | ", 2)[2].replace("⏎", "\n")


def report(name, figures):
    print(name, *(f"{figure:.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
