"""Writes and reads through the proxies, and keeps books of what was acknowledged.

Clients insert rows with numbers of their own, one after the other, and after each read their newest
row back: at level `session` it must be there. When the process is told to end (SIGTERM), it reads
all rows and compares: every acknowledged one must be there, none twice, and none that was
reported as not sent. Its last line is "books balance" or says what is wrong (status 1).
"""

import os
import signal
import sys
import threading
import time

import psycopg2
import pymysql

PROXIES = os.environ.get("PROXIES", "tiffin1 tiffin2").split()
PASSWORD = os.environ["APP_PASSWORD"]
CLIENTS_PER_PROXY = 3
TELL_EVERY_S = 2
# What the proxy answers to what it has not sent.
NOT_SENT = {"57P03", "53300"}

ended = threading.Event()


class Postgres:
    name = "postgres"
    error = psycopg2.Error

    def connect(self, proxy):
        connection = psycopg2.connect(
            host=proxy, port=6432, user="app", password=PASSWORD, dbname="app",
            connect_timeout=10, keepalives_idle=5,
        )
        connection.autocommit = True
        return connection

    def was_not_sent(self, error):
        return error.pgcode in NOT_SENT


class MariaDb:
    name = "mariadb"
    error = pymysql.Error

    def connect(self, proxy):
        return pymysql.connect(
            host=proxy, port=6306, user="app", password=PASSWORD, database="app",
            connect_timeout=10, autocommit=True,
        )

    def was_not_sent(self, _error):
        return False


class Books:
    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged, self.impossible = set(), set()
        self.unknown = self.stale = self.longest = 0

    def add(self, **counts):
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


def run(engine, proxy, client, books):
    connection, number, last = None, client * 10_000_000, time.monotonic()
    while not ended.is_set():
        number += 1
        try:
            if connection is None:
                connection = engine.connect(proxy)
            cursor = connection.cursor()
        except engine.error:
            connection = None
            time.sleep(0.1)
            continue
        try:
            cursor.execute("INSERT INTO books (n) VALUES (%s)", (number,))
        except engine.error as error:
            print(f"{engine.name} client {client}: {str(error).strip()}")
            if engine.was_not_sent(error):
                books.impossible.add(number)
            else:
                books.add(unknown=1)
            connection = None
            continue
        with books.lock:
            books.acknowledged.add(number)
            books.longest = max(books.longest, time.monotonic() - last)
        last = time.monotonic()
        try:
            cursor.execute("SELECT count(*) FROM books WHERE n = %s", (number,))
            if cursor.fetchone()[0] != 1:
                print(f"{engine.name} client {client} does not see its own row {number}")
                books.add(stale=1)
        except engine.error as error:
            print(f"{engine.name} client {client}, reading: {str(error).strip()}")
            connection = None
        time.sleep(0.01)


def insist(work, seconds=60):
    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (psycopg2.Error, pymysql.Error) as error:
            if time.monotonic() > until:
                raise
            print(f"not yet: {str(error).strip()}")
            time.sleep(1)


def make_table(engine):
    cursor = engine.connect(PROXIES[0]).cursor()
    # No key: what is there twice is to be seen.
    cursor.execute("CREATE TABLE IF NOT EXISTS books (n bigint)")


def rows(engine):
    cursor = engine.connect(PROXIES[-1]).cursor()
    cursor.execute("/* tiffin: target=primary */ SELECT n FROM books")
    return [row[0] for row in cursor.fetchall()]


def faults(engine, books):
    there = insist(lambda: rows(engine))
    distinct = set(there)
    found = []
    for count, what in (
        (len(books.acknowledged - distinct), "acknowledged rows are missing"),
        (len(there) - len(distinct), "rows are there twice"),
        (len(books.impossible & distinct), "rows are there that were not sent"),
        (books.stale, "reads did not see their session's own row"),
    ):
        if count:
            found.append(f"{engine.name}: {count} {what}")
    print(
        f"{engine.name}: {len(books.acknowledged)} acknowledged, {books.unknown} unknown, "
        f"{len(books.impossible)} not sent; longest without an acknowledgement "
        f"{books.longest:.1f} s"
    )
    return found


def main():
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    engines = [Postgres(), MariaDb()]
    for engine in engines:
        insist(lambda engine=engine: make_table(engine))
    kept = [(engine, Books()) for engine in engines]
    clients = []
    for engine, books in kept:
        for number in range(CLIENTS_PER_PROXY * len(PROXIES)):
            of = (engine, PROXIES[number % len(PROXIES)], number, books)
            clients.append(threading.Thread(target=run, args=of, daemon=True))
    for client in clients:
        client.start()
    while not ended.wait(TELL_EVERY_S):
        counts = [f"{engine.name} {len(books.acknowledged)}" for engine, books in kept]
        print("acknowledged:", ", ".join(counts))
    for client in clients:
        client.join(30)
    found = [fault for engine, books in kept for fault in faults(engine, books)]
    print("\n".join(found) or "books balance")
    sys.exit(1 if found else 0)


main()
