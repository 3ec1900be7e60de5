// What the programs for Node.js share: the list of checks and how their outcome is printed.
// See python/checks.py, whose twin this is.

'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');

const { env } = process;
// What every driver here is told: verified TLS, and a login by SCRAM.
const connection = {
  host: env.PGHOST,
  port: Number(env.PGPORT),
  user: env.PGUSER,
  password: env.PGPASSWORD,
  database: env.PGDATABASE,
  ssl: { ca: fs.readFileSync(env.PGSSLROOTCERT, 'utf8'), rejectUnauthorized: true },
};
const readPorts = new Set(env.READ_PORTS.split(',').map(Number));

// A check that takes longer hangs.
const CHECK_MS_MAX = 60_000;
const PATIENCE_MS = 30_000;
// Between two cancels: a statement has mostly begun by then, and the first one ended it.
const CANCEL_MS = 1000;
const LARGE_BYTES = 8 << 20;
// Sessions that are asked at least where their reads run.
const SESSIONS_MIN = 25;
const STRAYS_MAX = 0.2;

const checks = [];

function check(name, run) {
  checks.push({ name, run });
}

async function main(driver, version) {
  console.log(`version ${driver} ${version}`);
  let failed = 0;
  for (const { name, run } of checks) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('it hangs')), CHECK_MS_MAX);
    });
    try {
      await Promise.race([run(), late]);
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.error(error);
      console.log(`not ok ${name}: ${String(error.message ?? error).replace(/\s+/g, ' ')}`);
    } finally {
      clearTimeout(timer);
    }
  }
  process.exit(failed ? 1 : 0);
}

// The body must fail with this SQLSTATE; gives the error.
async function refused(state, body) {
  let error;
  try {
    await body();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `no error instead of ${state}`);
  assert.equal(error.code, state, String(error));
  return error;
}

async function eventually(look, what) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await look())) {
    assert.ok(Date.now() < end, `${what}: not within ${PATIENCE_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Calls `cancel` until the statement has ended: a cancel that comes before it does nothing.
async function keepCancelling(cancel, ended) {
  let over = false;
  const end = ended.finally(() => { over = true; });
  for (;;) {
    await Promise.race([end, sleep(CANCEL_MS)]);
    if (over) return;
    await cancel();
  }
}

// `read` gives the port on which a new session's read ran. See `Spread` in python/checks.py.
async function spread(read) {
  await eventually(async () => readPorts.has(await read()), 'a read where reads belong');
  const seen = new Set();
  let strays = 0;
  const end = Date.now() + PATIENCE_MS;
  let count = 0;
  for (; count < SESSIONS_MIN || seen.size < readPorts.size; count += 1) {
    assert.ok(Date.now() < end, `reads ran on ${[...seen]} only`);
    const port = await read();
    if (readPorts.has(port)) seen.add(port);
    else strays += 1;
  }
  assert.ok(strays <= count * STRAYS_MAX, `${strays} of ${count} reads ran on the primary`);
}

const largeBytes = () => Buffer.alloc(LARGE_BYTES, Buffer.from(Array.from({ length: 256 }, (_, n) => n)));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

module.exports = { assert, check, connection, eventually, keepCancelling, largeBytes, main, range, refused, spread };
