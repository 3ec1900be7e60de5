#!/usr/bin/env python3
"""What the proxy costs, beside a direct connection, HAProxy and PgBouncer.

One primary and two replicas on this machine (from `tiffin sandbox`), in front of them in turn
  direct     nothing
  haproxy    TCP mode, to the primary: a relay that reads nothing
  relay      bench/relay.rs, to the primary: one on the proxy's own runtime, the floor
  pgbouncer  transaction mode, to the primary
  tiffin     transaction mode, splitting on: reads go to the replicas
  tiffin-1   the same with the primary alone, as the other proxies have it
all without passwords and TLS. pgbench runs each row against each of them, round by round; the
table has the medians. CPU is user and system time of the proxy's process, all threads, per
query. Everything is removed at the end.

Environment: BENCH_SECONDS (10) per run, BENCH_ROUNDS (3), BENCH_SCALE (10) of pgbench,
BENCH_ROWS (all) as a list like `simple-8,prepared-64,tpcb-8`, BENCH_CLIENTS (10000) idle clients
for the measurement of memory, 0 for none.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SCALE = int(os.environ.get("BENCH_SCALE", "10"))
IDLE_CLIENTS = int(os.environ.get("BENCH_CLIENTS", "10000"))
POOL_SIZE = 20
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
TARGETS = ["direct", "haproxy", "relay", "pgbouncer", "tiffin", "tiffin-1"]
SCRIPTS = {
    "{distinct}": [f"SELECT abalance + {number} FROM pgbench_accounts WHERE aid = :aid;" for number in range(200)],
    "{thousand_rows}": ["SELECT * FROM pgbench_accounts WHERE aid >= :aid AND aid < :aid + 1000;"],
}
# Name, pgbench's options, clients, queries per transaction.
ROWS = [
    (f"{mode}-{clients}", ["-S", "-M", mode], clients, 1)
    for mode in ("simple", "extended", "prepared")
    for clients in (1, 8, 64)
] + [
    # Two hundred different prepared statements, one after the other.
    ("prepared200-8", ["-f", "{distinct}", "-M", "prepared"], 8, 200),
    # A thousand rows of about 110 bytes in each reply.
    ("rows-8", ["-f", "{thousand_rows}", "-M", "simple"], 8, 1),
    ("tpcb-8", ["-b", "tpcb-like", "-M", "simple"], 8, 7),
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--tiffin", type=pathlib.Path, default="target/release/tiffin")
    arguments.add_argument("--relay", type=pathlib.Path, default="target/release/examples/relay")
    arguments = arguments.parse_args()
    tiffin, relay = arguments.tiffin.resolve(), arguments.relay.resolve()
    wanted = os.environ.get("BENCH_ROWS", "")
    rows = [row for row in ROWS if not wanted or row[0] in wanted.split(",")]
    if not rows:
        sys.exit(f"BENCH_ROWS names none of {', '.join(row[0] for row in ROWS)}")
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        servers = Servers(stack, tiffin)
        rows = [(name, [fill(option, servers.folder) for option in options], *rest) for name, options, *rest in rows]
        proxies = start_proxies(stack, servers, tiffin, relay)
        results = run_rows(rows, proxies)
        print_table(rows, results)
        if IDLE_CLIENTS:
            print_memory(proxies)


# The servers


class Servers:
    """A primary and two replicas; everybody may log in without a password."""

    def __init__(self, stack, tiffin):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tiffin-bench-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        # PostgreSQL's own user has to reach its folders.
        self.folder.chmod(0o711)
        cluster = self.folder / "cluster"
        command = [tiffin, "sandbox", "--no-tour", "--replicas", "2", "--keep", cluster]
        sandbox = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(stop, sandbox)
        self.ports = {}
        for line in sandbox.stdout:
            if found := re.match(r" +(pg\d) +127\.0\.0\.1:(\d+)", line):
                self.ports[found[1]] = int(found[2])
            if "Ctrl-C" in line:
                break
        if len(self.ports) != 3:
            sys.exit("the sandbox did not start")
        # Its own proxy would only take CPU from the measured ones.
        for pid in processes_in(cluster):
            os.kill(pid, signal.SIGKILL)
        for name, port in self.ports.items():
            hba = cluster / name / "data" / "pg_hba.conf"
            hba.write_text("local all all trust\nhost all,replication all 127.0.0.1/32 trust\n")
            self.sql(cluster, port, "SELECT pg_reload_conf()")
        print(f"pgbench tables, scale {SCALE}", flush=True)
        pgbench("-i", "-q", "-s", str(SCALE), port=self.ports["pg0"])
        self.wait_for_replicas(cluster)

    def sql(self, cluster, port, statement):
        command = [program("psql"), "-X", "-A", "-t", "-h", cluster, "-p", str(port), "-U", "postgres"]
        done = subprocess.run([*command, "-c", statement, "app"], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def wait_for_replicas(self, cluster):
        target = self.sql(cluster, self.ports["pg0"], "SELECT pg_current_wal_lsn()")
        for name in ("pg1", "pg2"):
            statement = f"SELECT pg_last_wal_replay_lsn() >= '{target}'"
            deadline = time.monotonic() + 120
            while self.sql(cluster, self.ports[name], statement) != "t":
                if time.monotonic() > deadline:
                    sys.exit(f"{name} does not catch up")
                time.sleep(0.2)


# The proxies


class Proxy:
    def __init__(self, name, port, process=None):
        self.name, self.port, self.process = name, port, process

    def cpu_seconds(self):
        if self.process is None:
            return 0.0
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def start_proxies(stack, servers, tiffin, relay):
    folder = servers.folder
    primary = servers.ports["pg0"]
    proxies = {"direct": Proxy("direct", primary)}

    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        f"""global
    # As many file descriptors as it may have.
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen postgres
    bind 127.0.0.1:{port}
    server pg0 127.0.0.1:{primary}
"""
    )
    proxies["haproxy"] = spawn(stack, "haproxy", port, [program("haproxy"), "-db", "-f", config])

    port = free_port()
    proxies["relay"] = spawn(stack, "relay", port, [relay, str(port), str(primary)])

    version = subprocess.run([program("pgbouncer"), "--version"], capture_output=True, text=True).stdout
    print(version.splitlines()[0])
    numbers = tuple(int(word) for word in re.search(r"(\d+)\.(\d+)", version).groups())
    proxies["pgbouncer"] = pgbouncer(stack, folder, primary, "transaction", numbers)
    # Before 1.21 named statements do not survive transaction mode.
    names = proxies["pgbouncer"] if numbers >= (1, 21) else pgbouncer(stack, folder, primary, "session", numbers)
    proxies["pgbouncer-prepared"] = names

    nodes = {name: f"127.0.0.1:{port}" for name, port in servers.ports.items()}
    proxies["tiffin"] = tiffin_with(stack, folder, tiffin, "tiffin", nodes)
    proxies["tiffin-1"] = tiffin_with(stack, folder, tiffin, "tiffin-1", {"pg0": nodes["pg0"]})
    return proxies


def tiffin_with(stack, folder, tiffin, name, nodes, is_up=None, **keys):
    """`keys` are of the configuration, in place of those below."""
    port = free_port()
    config = folder / f"{name}.yaml"
    config.write_text(
        # JSON is YAML.
        json.dumps(
            {
                "listen": {"postgres": [f"127.0.0.1:{port}"], "http": f"127.0.0.1:{free_port()}"},
                "auth": {"method": "trust"},
                "users": [{"name": "app"}],
                "log": {"level": "warn"},
                "clusters": {
                    "main": {
                        "nodes": nodes,
                        "service": {"user": "tiffin"},
                        "pool": {"size_max": POOL_SIZE},
                    }
                },
                **keys,
            },
            indent=2,
        )
    )
    return spawn(stack, name, port, [tiffin, "run", "--config", config], is_up)


def pgbouncer(stack, folder, primary, mode, version):
    port = free_port()
    config = folder / f"pgbouncer-{mode}.ini"
    users = folder / "users.txt"
    users.write_text('"app" ""\n')
    size = POOL_SIZE if mode == "transaction" else 64
    prepared = "max_prepared_statements = 200\n" if version >= (1, 21) else ""
    config.write_text(
        f"""[databases]
app = host=127.0.0.1 port={primary} dbname=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 20000
log_connections = 0
log_disconnections = 0
ignore_startup_parameters = extra_float_digits
{prepared}"""
    )
    command = [program("pgbouncer"), config]
    if os.geteuid() == 0:
        # It does not run as root.
        command[1:1] = ["-u", "nobody"]
        config.chmod(0o644)
        users.chmod(0o644)
    return spawn(stack, f"pgbouncer ({mode})", port, command)


def spawn(stack, name, port, command, is_up=None):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(stop, process)
    deadline = time.monotonic() + 30
    while True:
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}: {' '.join(map(str, command))}")
        try:
            (is_up or login)(port).close()
            return Proxy(name, port, process)
        except (OSError, ConnectionError):
            if time.monotonic() > deadline:
                sys.exit(f"{name} does not take clients")
            time.sleep(0.1)


# The rows


def run_rows(rows, proxies):
    """Row name and target → list of (transactions per second, ms per transaction, µs per query)."""
    results = {}
    for target in TARGETS:
        measure(proxies[target], ROWS[1], seconds=2)
    for number in range(ROUNDS):
        for row in rows:
            for target in TARGETS:
                proxy = proxies[target]
                if target == "pgbouncer" and row[0].startswith("prepared"):
                    proxy = proxies["pgbouncer-prepared"]
                results.setdefault((row[0], target), []).append(measure(proxy, row, SECONDS))
            print(f"round {number + 1} of {ROUNDS}: {row[0]}", file=sys.stderr, flush=True)
    return results


def measure(proxy, row, seconds):
    _, options, clients, queries = row
    threads = min(clients, 2)
    before = proxy.cpu_seconds()
    said = pgbench("-n", *options, "-c", str(clients), "-j", str(threads), "-T", str(seconds), port=proxy.port)
    cpu = proxy.cpu_seconds() - before
    transactions = int(re.search(r"actually processed: (\d+)", said)[1])
    failed = re.search(r"failed transactions: (\d+)", said)
    if failed and int(failed[1]):
        print(f"{proxy.name}: {failed[1]} failed transactions", file=sys.stderr)
    latency = float(re.search(r"latency average = ([\d.]+)", said)[1])
    tps = float(re.search(r"tps = ([\d.]+)", said)[1])
    return tps, latency, cpu * 1e6 / (transactions * queries)


def print_table(rows, results):
    print(f"\nMedians of {ROUNDS} rounds of {SECONDS} s; {os.cpu_count()} cores; CPU of the proxy per query.\n")
    print("| row         | target     |      tps | latency ms | CPU µs | CPU / haproxy | CPU / relay | CPU / pgbouncer |")
    print("|-------------|------------|---------:|-----------:|-------:|--------------:|------------:|----------------:|")
    for name, *_ in rows:
        medians = {
            target: [statistics.median(column) for column in zip(*results[name, target])] for target in TARGETS
        }
        for target in TARGETS:
            tps, latency, cpu = medians[target]
            label = target + ("*" if target == "pgbouncer" and name.startswith("prepared") else "")
            columns = ["", "", "", ""]
            if target != "direct":
                columns[0] = f"{cpu:.1f}"
                for place, other in ((1, "haproxy"), (2, "relay"), (3, "pgbouncer")):
                    if target != other and medians[other][2]:
                        columns[place] = f"{cpu / medians[other][2]:.2f}"
            print(
                f"| {name:11} | {label:10} | {tps:8.0f} | {latency:10.3f} | "
                f"{columns[0]:>6} | {columns[1]:>13} | {columns[2]:>11} | {columns[3]:>15} |"
            )
    print("\n* session mode where this PgBouncer has no named statements in transaction mode (before 1.21)\n")


def print_memory(proxies):
    print(f"Memory of the process per idle client, {IDLE_CLIENTS} clients:", flush=True)
    for target in ("pgbouncer", "tiffin"):
        proxy = proxies[target]
        # Room for everything that is made once, by the first clients.
        first = [login(proxy.port) for _ in range(100)]
        before = proxy.rss_bytes()
        clients = [login(proxy.port) for _ in range(IDLE_CLIENTS)]
        time.sleep(1)
        grown = proxy.rss_bytes() - before
        print(f"  {target:9} {grown / IDLE_CLIENTS / 1024:6.2f} KiB")
        for client in first + clients:
            client.close()


# Small things


def fill(option, folder):
    """The name of the script that the option stands for, which is written at its first use."""
    if option not in SCRIPTS:
        return option
    script = folder / f"{option.strip('{}')}.sql"
    script.write_text("\n".join([f"\\set aid random(1, {100_000 * SCALE - 1000})", *SCRIPTS[option], ""]))
    return str(script)


def login(port):
    """A client of the user `app` that has logged in without a password."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    body = struct.pack("!I", 196608) + b"user\0app\0database\0app\0\0"
    client.sendall(struct.pack("!I", len(body) + 4) + body)
    buffer = b""
    while True:
        while len(buffer) < 5 or len(buffer) < 1 + struct.unpack("!I", buffer[1:5])[0]:
            received = client.recv(65536)
            if not received:
                raise ConnectionError("closed during the login")
            buffer += received
        tag, length = buffer[:1], 1 + struct.unpack("!I", buffer[1:5])[0]
        if tag == b"Z":
            return client
        if tag == b"E":
            raise ConnectionError(buffer[5:length].decode(errors="replace"))
        buffer = buffer[length:]


def pgbench(*options, port, **environment):
    command = [program("pgbench"), *options, "-h", "127.0.0.1", "-p", str(port), "-U", "app", "app"]
    environment = {**os.environ, "PGSSLMODE": "disable", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def program(name):
    newest = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = str(newest[-1]) if newest else shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        sys.exit(f"{name} is not installed: scripts/install-deps.sh test bench")
    return found


def processes_in(folder):
    """Process ids of proxies whose working directory is the folder."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").resolve() == folder.resolve() and b"run" in (entry / "cmdline").read_bytes().split(b"\0"):
                yield int(entry.name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stop(process):
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def raise_file_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE_CLIENTS + 5000
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < IDLE_CLIENTS + 1000:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
