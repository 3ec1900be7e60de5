#!/usr/bin/env python3
"""What the proxy costs on MySQL or MariaDB, beside a direct connection and HAProxy: bench.py's twin.

One primary and two replicas on this machine (from `tiffin sandbox`), in front of them in turn
  direct     nothing
  haproxy    TCP mode, to the primary: a relay that reads nothing
  tiffin     transaction mode, splitting on: reads go to the replicas
all without passwords and TLS. sysbench runs each row against each of them, round by round; the
table has the medians. CPU is user and system time of the proxy's process, all threads, per query.
Everything is removed at the end.

Environment: BENCH_SECONDS (10) per run, BENCH_ROUNDS (3), BENCH_ROWS (all) as a list like
`point-8,write-8`, BENCH_ENGINE (mariadb).
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from bench import ROUNDS, SECONDS, Proxy, free_port, processes_in, program, stop

ENGINE = os.environ.get("BENCH_ENGINE", "mariadb")
TARGETS = ["direct", "haproxy", "tiffin"]
TABLE_ROWS = 100_000
# Name, sysbench's script and options, clients.
ROWS = [
    (f"point-{clients}", ["oltp_point_select", "--db-ps-mode=disable"], clients) for clients in (1, 8, 64)
] + [
    ("prepared-8", ["oltp_point_select"], 8),
    # Without BEGIN and COMMIT: else all of it belongs to the primary.
    ("read-8", ["oltp_read_only", "--skip-trx=on", "--db-ps-mode=disable"], 8),
    ("write-8", ["oltp_read_write", "--db-ps-mode=disable"], 8),
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--tiffin", type=pathlib.Path, default="target/release/tiffin")
    tiffin = arguments.parse_args().tiffin.resolve()
    wanted = os.environ.get("BENCH_ROWS", "")
    rows = [row for row in ROWS if not wanted or row[0] in wanted.split(",")]
    if not rows:
        sys.exit(f"BENCH_ROWS names none of {', '.join(row[0] for row in ROWS)}")
    with contextlib.ExitStack() as stack:
        folder, ports = start_servers(stack, tiffin)
        proxies = start_proxies(stack, folder, ports, tiffin)
        print_table(rows, run_rows(rows, proxies))


def start_servers(stack, tiffin):
    """A primary and two replicas; the user `bench` needs no password."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tiffin-bench-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    # The servers' own user has to reach its folders.
    folder.chmod(0o711)
    cluster = folder / "cluster"
    command = [tiffin, "sandbox", "--engine", ENGINE, "--no-tour", "--replicas", "2", "--keep", cluster]
    sandbox = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(stop, sandbox)
    ports = {}
    for line in sandbox.stdout:
        if found := re.match(r" +(my\d) +127\.0\.0\.1:(\d+)", line):
            ports[found[1]] = int(found[2])
        if "Ctrl-C" in line:
            break
    if len(ports) != 3:
        sys.exit("the sandbox did not start")
    # Its own proxy would only take CPU from the measured ones.
    for pid in processes_in(cluster):
        os.kill(pid, signal.SIGKILL)
    primary = next(name for name in ports if sql(cluster, name, "SELECT @@read_only") == "0")
    for statement in ("CREATE USER bench@'%' IDENTIFIED BY ''", "GRANT ALL ON *.* TO bench@'%'"):
        sql(cluster, primary, statement)
    print(f"{ENGINE} {sql(cluster, primary, 'SELECT VERSION()')}, table of {TABLE_ROWS} rows", flush=True)
    sysbench(["oltp_point_select"], 1, ports[primary], "prepare")
    for name in ports:
        deadline = time.monotonic() + 120
        while sql(cluster, name, "SELECT COUNT(*) FROM app.sbtest1", fails=True) != str(TABLE_ROWS):
            if time.monotonic() > deadline:
                sys.exit(f"{name} does not catch up")
            time.sleep(0.2)
    return folder, {"primary": ports[primary], **ports}


def sql(cluster, name, statement, fails=False):
    command = ["mariadb", "--no-defaults", f"--socket={cluster / name / 'socket'}", "-uroot", "-N", "-B"]
    done = subprocess.run([*command, "-e", statement], capture_output=True, text=True)
    if done.returncode and not fails:
        sys.exit(f"{statement}: {done.stderr}")
    return done.stdout.strip()


def start_proxies(stack, folder, ports, tiffin):
    proxies = {"direct": Proxy("direct", ports["primary"])}
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        f"""global
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen mysql
    bind 127.0.0.1:{port}
    server primary 127.0.0.1:{ports['primary']}
"""
    )
    proxies["haproxy"] = spawn(stack, "haproxy", port, [program("haproxy"), "-db", "-f", config])
    proxies["tiffin"] = tiffin_with(stack, folder, tiffin, ports)
    return proxies


def tiffin_with(stack, folder, tiffin, ports):
    port = free_port()
    config = folder / "tiffin.yaml"
    nodes = {name: f"127.0.0.1:{port}" for name, port in ports.items() if name != "primary"}
    config.write_text(
        # JSON is YAML.
        json.dumps(
            {
                "listen": {"mysql": [f"127.0.0.1:{port}"], "http": f"127.0.0.1:{free_port()}"},
                "auth": {"method": "trust"},
                "users": [{"name": "bench"}],
                "log": {"level": "warn"},
                "clusters": {
                    "main": {
                        "engine": ENGINE,
                        "nodes": nodes,
                        "service": {"user": "bench"},
                        "pool": {"size_max": 20},
                    }
                },
            },
            indent=2,
        )
    )
    return spawn(stack, "tiffin", port, [tiffin, "run", "--config", config])


def spawn(stack, name, port, command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(stop, process)
    deadline = time.monotonic() + 30
    while True:
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}: {' '.join(map(str, command))}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            # A server speaks first.
            if client.recv(1):
                return Proxy(name, port, process)
        if time.monotonic() > deadline:
            sys.exit(f"{name} does not take clients")
        time.sleep(0.1)


def run_rows(rows, proxies):
    """Row name and target → list of (queries per second, ms per transaction, µs per query)."""
    results = {}
    for target in TARGETS:
        measure(proxies[target], ROWS[1], seconds=2)
    for number in range(ROUNDS):
        for row in rows:
            for target in TARGETS:
                results.setdefault((row[0], target), []).append(measure(proxies[target], row, SECONDS))
            print(f"round {number + 1} of {ROUNDS}: {row[0]}", file=sys.stderr, flush=True)
    return results


def measure(proxy, row, seconds):
    _, options, clients = row
    before = proxy.cpu_seconds()
    said = sysbench(options, clients, proxy.port, "run", f"--time={seconds}")
    cpu = proxy.cpu_seconds() - before
    queries, per_second = re.search(r"queries: +(\d+) +\(([\d.]+) per sec", said).groups()
    errors = re.search(r"ignored errors: +(\d+)", said)
    if errors and int(errors[1]):
        print(f"{proxy.name}: {errors[1]} errors", file=sys.stderr)
    latency = re.search(r"avg: +([\d.]+)", said)[1]
    return float(per_second), float(latency), cpu * 1e6 / int(queries)


def sysbench(options, clients, port, *command):
    words = [program("sysbench"), *options, "--db-driver=mysql", "--mysql-host=127.0.0.1", f"--mysql-port={port}"]
    words += ["--mysql-user=bench", "--mysql-db=app", "--tables=1", f"--table-size={TABLE_ROWS}"]
    words += [f"--threads={clients}", "--rand-type=uniform", *command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def print_table(rows, results):
    print(f"\nMedians of {ROUNDS} rounds of {SECONDS} s; {os.cpu_count()} cores; CPU of the proxy per query.\n")
    print("| row        | target  | queries/s | latency ms | CPU µs | CPU / haproxy |")
    print("|------------|---------|----------:|-----------:|-------:|--------------:|")
    for name, *_ in rows:
        medians = {
            target: [statistics.median(column) for column in zip(*results[name, target])] for target in TARGETS
        }
        for target in TARGETS:
            rate, latency, cpu = medians[target]
            own = "" if target == "direct" else f"{cpu:.1f}"
            ratio = f"{cpu / medians['haproxy'][2]:.2f}" if target == "tiffin" and medians["haproxy"][2] else ""
            print(f"| {name:10} | {target:7} | {rate:9.0f} | {latency:10.3f} | {own:>6} | {ratio:>13} |")


if __name__ == "__main__":
    main()
