"""What the Python programs share: the list of checks and how their outcome is printed.

A program decorates functions with `@check` and ends with `main(driver, version)`. Each check is
one line of output, `ok NAME` or `not ok NAME: why`; the traceback goes to standard error. The
harness (`integration/drivers.rs`) reads nothing else.
"""

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections import Counter

HOST = os.environ["PGHOST"]
PORT = int(os.environ["PGPORT"])
USER = os.environ["PGUSER"]
PASSWORD = os.environ["PGPASSWORD"]
DATABASE = os.environ["PGDATABASE"]
CA = os.environ["PGSSLROOTCERT"]
# Where a read may run: the replicas behind the proxy, the one server of a direct connection.
READ_PORTS = {int(port) for port in os.environ["READ_PORTS"].split(",")}
# Where everything else runs.
PRIMARY_PORT = int(os.environ["PRIMARY_PORT"])

# A check that takes longer hangs: the program says where and ends.
CHECK_SECONDS_MAX = 60
# Replicas learn of a new table within about a second; a busy machine needs more.
PATIENCE_SECONDS = 30
# Between two cancels: a statement has mostly begun by then, and the first one ended it.
CANCEL_SECONDS = 1
# Several TCP windows, and more than any buffer on the way.
LARGE_BYTES = 8 << 20

_checks = []


def check(function):
    _checks.append(function)
    return function


def main(driver, version):
    """Runs all checks in the order of the file. The exit status says whether all held."""
    print(f"version {driver} {version}", flush=True)
    with asyncio.Runner() as runner:
        failed = sum(not _holds(function, runner) for function in _checks)
    sys.exit(1 if failed else 0)


def _holds(function, runner):
    name = function.__name__
    faulthandler.dump_traceback_later(CHECK_SECONDS_MAX, exit=True)
    try:
        outcome = function()
        if asyncio.iscoroutine(outcome):
            runner.run(outcome)
    except Exception as error:
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"not ok {name}: {why}", flush=True)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"ok {name}", flush=True)
    return True


def same(found, expected, what=""):
    """An assertion that says what it found."""
    if found != expected:
        raise AssertionError(f"{what or 'found'}: {_short(found)} instead of {_short(expected)}")


def _short(value):
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "…"


class _Raised:
    """The outcome of `with refused(…) as it`: the error is `it.error` afterwards."""

    error = None


class refused:
    """`with refused("23505"):` holds if the body fails with this SQLSTATE."""

    def __init__(self, state):
        self.state = state
        self.raised = _Raised()

    def __enter__(self):
        return self.raised

    def __exit__(self, kind, error, _traceback):
        if error is None:
            raise AssertionError(f"no error instead of {self.state}")
        if not isinstance(error, Exception):
            return False
        found = sqlstate(error)
        if found is None:
            return False
        same(found, self.state, f"SQLSTATE of {error}")
        self.raised.error = error
        return True


def sqlstate(error):
    """The SQLSTATE of an error of any driver, also inside of an ORM's own."""
    while error is not None:
        if state := getattr(error, "sqlstate", None):
            return state
        error = getattr(error, "orig", None) or error.__cause__
    return None


class Spread:
    """Where reads ran: where reads belong, and each such place must be seen:
    `while spread.wants_more(): spread.ran_on(port)`, one new session each.

    A session whose first read was on a replica goes to the primary if that replica's probe has
    failed meanwhile, which happens on a busy machine: one in five may. What keeps reads from
    replicas for a reason of its own keeps all of them."""

    SESSIONS_MIN = 25
    STRAYS_MAX = 0.2

    def __init__(self):
        self.ports = Counter()
        self.end = time.monotonic() + PATIENCE_SECONDS

    def wants_more(self):
        count = sum(self.ports.values())
        strays = sum(self.ports[port] for port in set(self.ports) - READ_PORTS)
        if count >= self.SESSIONS_MIN and set(self.ports) >= READ_PORTS:
            if strays <= count * self.STRAYS_MAX:
                return False
            raise AssertionError(f"{strays} of {count} reads ran on the primary")
        if time.monotonic() > self.end:
            raise AssertionError(f"reads ran on {dict(self.ports)}, not on all of {READ_PORTS}")
        return True

    def ran_on(self, port):
        if port not in READ_PORTS | {PRIMARY_PORT}:
            raise AssertionError(f"a read ran on {port}, which is no server's port")
        self.ports[port] += 1


def eventually(look, what):
    """Looks until it holds: for what takes a few probes of the proxy."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(0.05)


def settled(look, what):
    """Looks until it has held several times in a row: reads of different sessions go to different
    servers, and only a session's own writes are waited for."""
    eventually(lambda: all(look() for _ in range(10)), what)


@contextlib.contextmanager
def cancelling(cancel):
    """Calls `cancel` while the body runs, until that ends: a cancel that comes before its statement
    does nothing."""
    ended = threading.Event()

    def keep_on():
        while not ended.wait(CANCEL_SECONDS):
            cancel()

    thread = threading.Thread(target=keep_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def eventually_async(look, what):
    end = time.monotonic() + PATIENCE_SECONDS
    while not await look():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.05)
