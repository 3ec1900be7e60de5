// postgres.js: prepares every text, sends what is asked at once as one pipeline, and is its own
// pool.

'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const postgres = require('postgres');
const { assert, check, connection, eventually, keepCancelling, largeBytes, main, range, refused, spread } = require('./checks');

async function using(body, more = {}) {
  const sql = postgres({ ...connection, max: 1, onnotice: () => {}, ...more });
  try {
    return await body(sql);
  } finally {
    await sql.end();
  }
}

check('connects_with_scram_over_tls', () => using(async (sql) => {
  assert.equal((await sql`SELECT current_user AS name`)[0].name, connection.user);
}));

check('wrong_password_and_database_are_refused', async () => {
  await refused('28P01', () => using((sql) => sql`SELECT 1`, { password: 'no' }));
  await refused('3D000', () => using((sql) => sql`SELECT 1`, { database: 'nowhere' }));
});

check('makes_its_tables', () => using(async (sql) => {
  await sql`CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price numeric, facts jsonb)`;
  await sql`INSERT INTO dish SELECT n, 'dish ' || n, n FROM generate_series(1, 100) n`;
}));

check('prepared_statements', async () => {
  for (const prepare of [true, false]) {
    await using(async (sql) => {
      for (const id of range(1, 101)) {
        assert.equal((await sql`SELECT name FROM dish WHERE id = ${id}`)[0].name, `dish ${id}`);
      }
      const described = await sql`SELECT id, name FROM dish WHERE id = ${1}`.describe();
      assert.deepEqual(described.columns.map((column) => column.name), ['id', 'name']);
    }, { prepare });
  }
});

check('prepared_statements_outlive_ddl', () => using((sql) => using(async (other) => {
  await other`CREATE TABLE changing (a int)`;
  await other`INSERT INTO changing VALUES (1)`;
  const read = () => sql`SELECT * FROM changing WHERE a = ${1}`;
  assert.deepEqual([...(await read())], [{ a: 1 }]);
  await other`ALTER TABLE changing ALTER a TYPE bigint`;
  // The driver prepares again by itself where a server says 0A000.
  assert.deepEqual([...(await read())], [{ a: '1' }]);
})));

check('pipelines', () => using(async (sql) => {
  const rows = await Promise.all(range(1, 101).map((id) => sql`SELECT name FROM dish WHERE id = ${id}`));
  assert.deepEqual(rows.map(([row]) => row.name), range(1, 101).map((id) => `dish ${id}`));
  const mixed = await Promise.allSettled(range(0, 60).map((n) => (
    n % 3 === 0 ? sql`INSERT INTO dish (id, name) VALUES (${2000 + n}, ${'p'})`
      : n % 3 === 1 ? sql`SELECT 1/${n - n}::int` : sql`SELECT count(*)::int AS n FROM dish WHERE id >= 2000`)));
  assert.deepEqual(new Set(mixed.filter((_, n) => n % 3 === 1).map((each) => each.reason?.code)), new Set(['22012']));
  const counts = mixed.filter((_, n) => n % 3 === 2).map((each) => each.value[0].n);
  assert.deepEqual(counts, range(1, 21));
}));

check('values_of_all_kinds', () => using(async (sql) => {
  const [row] = await sql`
    SELECT ${true}::bool AS a, ${1.25}::float8 AS b, ${'naïve ☕'} AS c, ${Buffer.from([0, 255])}::bytea AS d,
      ${new Date(1e12)}::timestamptz AS e, ${[1, 2]}::int[] AS f, ${sql.json({ a: [1] })}::jsonb AS g,
      ${null}::text AS h`;
  assert.deepEqual({ ...row }, {
    a: true, b: 1.25, c: 'naïve ☕', d: Buffer.from([0, 255]), e: new Date(1e12), f: [1, 2], g: { a: [1] }, h: null,
  });
  const dishes = range(0, 500).map((n) => ({ id: 5000 + n, name: `many ${n}`, facts: { n } }));
  assert.equal((await sql`INSERT INTO dish ${sql(dishes)}`).count, 500);
  assert.equal((await sql`SELECT id FROM dish WHERE id IN ${sql([5000, 5001])}`).length, 2);
}));

check('transactions', () => using(async (sql) => {
  await sql.begin(async (tx) => {
    await tx`INSERT INTO dish (id, name) VALUES (1001, 'kept')`;
    await refused('23505', () => tx.savepoint((point) => point`INSERT INTO dish (id, name) VALUES (1001, 'twice')`));
  });
  await assert.rejects(() => sql.begin(async (tx) => {
    await tx`INSERT INTO dish (id, name) VALUES (1002, 'dropped')`;
    throw new Error('the client gives up');
  }));
  assert.equal((await sql`SELECT count(*)::int AS n FROM dish WHERE id BETWEEN 1001 AND 1999`)[0].n, 1);
  await refused('25006', () => sql.begin('read only', (tx) => tx`DELETE FROM dish`));
  const [{ level }] = await sql.begin('isolation level serializable read only', (tx) => (
    tx`SELECT current_setting('transaction_isolation') AS level`));
  assert.equal(level, 'serializable');
  // All of a transaction's statements as one pipeline.
  const sizes = await sql.begin((tx) => range(0, 20).map((n) => tx`SELECT ${n}::int AS n`));
  assert.deepEqual(sizes.map(([row]) => row.n), range(0, 20));
}));

check('errors_have_their_fields', () => using(async (sql) => {
  const error = await refused('23505', () => sql`INSERT INTO dish (id, name) VALUES (1, 'again')`);
  assert.equal(error.constraint_name, 'dish_pkey');
  assert.equal(error.detail, 'Key (id)=(1) already exists.');
  await refused('42P01', () => sql`SELECT * FROM nowhere`);
  await refused('42601', () => sql.unsafe('SELEC 1'));
  const results = await sql.unsafe('SELECT 1 AS a; SELECT 2 AS b');
  assert.deepEqual(results.map(([row]) => ({ ...row })), [{ a: 1 }, { b: 2 }]);
}));

check('cursors', () => using(async (sql) => {
  const ids = [];
  await sql`SELECT id FROM dish WHERE id <= 100 ORDER BY id`.cursor(9, (rows) => ids.push(...rows.map((row) => row.id)));
  assert.deepEqual(ids, range(1, 101));
  for await (const [row] of sql`SELECT id FROM dish ORDER BY id`.cursor()) if (row.id === 5) break;
  let count = 0;
  await sql`SELECT generate_series(1, 1000)`.forEach(() => { count += 1; });
  assert.equal(count, 1000);
}));

check('copy_both_ways', () => using(async (sql) => {
  await sql`CREATE TABLE copied (id int, what text)`;
  const text = range(0, 20_000).map((n) => `${n}\trow ${n}\n`);
  await pipeline(Readable.from(text), await sql`COPY copied FROM STDIN`.writable());
  assert.equal((await sql`SELECT count(*)::int AS n FROM copied`)[0].n, 20_000);
  let bytes = 0;
  for await (const chunk of await sql`COPY copied TO STDOUT`.readable()) bytes += chunk.length;
  assert.equal(bytes, text.join('').length);
}));

check('cancel_and_timeouts', () => using(async (sql) => {
  await sql`SELECT 1`;
  const query = sql`SELECT pg_sleep(30)`;
  const running = refused('57014', () => query);
  await keepCancelling(() => query.cancel(), running);
  await sql`SET statement_timeout = '100ms'`;
  await refused('57014', () => sql`SELECT pg_sleep(30)`);
}));

check('listen_and_notify', () => using(async (sql) => {
  const heard = [];
  const { unlisten } = await sql.listen('kitchen', (payload) => heard.push(payload));
  for (const n of range(0, 20)) await sql.notify('kitchen', `order ${n}`);
  await eventually(() => heard.length >= 20, 'the notifications');
  assert.deepEqual(heard, range(0, 20).map((n) => `order ${n}`));
  await unlisten();
}));

check('notices', () => {
  const told = [];
  return using(async (sql) => {
    await sql`DO $$BEGIN RAISE NOTICE 'dal'; END$$`.simple();
    assert.deepEqual(told, ['dal']);
  }, { onnotice: (notice) => told.push(notice.message) });
});

check('large_values', () => using(async (sql) => {
  const data = largeBytes();
  const text = 'dal '.repeat(data.length / 4);
  await sql`CREATE TABLE large (data bytea, words text)`;
  await sql`INSERT INTO large VALUES (${data}, ${text})`;
  const [row] = await sql`SELECT * FROM large`;
  assert.ok(row.data.equals(data) && row.words === text, 'another value came back');
}));

check('settings_follow_the_session', () => using(async (sql) => {
  for (const _ of range(0, 5)) {
    assert.equal((await sql`SHOW timezone`)[0].TimeZone, 'Asia/Kolkata');
    assert.equal((await sql`SELECT count(*)::int AS n FROM dish WHERE id <= 100`)[0].n, 100);
  }
  assert.equal((await sql`SHOW application_name`)[0].application_name, 'lunch');
}, { connection: { TimeZone: 'Asia/Kolkata', application_name: 'lunch' } }));

check('reads_its_own_writes', () => using(async (sql) => {
  await sql`CREATE TABLE counter (n int)`;
  await sql`INSERT INTO counter VALUES (0)`;
  for (const n of range(1, 200)) {
    await sql`UPDATE counter SET n = ${n}`;
    assert.equal((await sql`SELECT n FROM counter`)[0].n, n);
  }
}));

check('pool', () => using(async (sql) => {
  await sql`UPDATE counter SET n = 0`;
  const counts = await Promise.all(range(0, 200).map(async () => {
    await sql.begin((tx) => tx`UPDATE counter SET n = n + 1`);
    return (await sql`SELECT count(*)::int AS n FROM dish WHERE id <= ${100}`)[0].n;
  }));
  assert.deepEqual(new Set(counts), new Set([100]));
  assert.equal((await sql`/* tiffin: primary */ SELECT n FROM counter`)[0].n, 200);
  const reserved = await sql.reserve();
  await reserved`CREATE TEMP TABLE mine AS SELECT 7 AS n`;
  assert.equal((await reserved`SELECT n FROM mine`)[0].n, 7);
  reserved.release();
}, { max: 8 }));

// A text's first execution may run on the primary: the driver asks for its description with a
// Flush, when nobody knows what else follows in the same transaction.
check('reads_spread_over_replicas', () => spread(() => using(async (sql) => {
  let port;
  await eventually(async () => {
    port = (await sql`SELECT inet_server_port() AS port FROM dish LIMIT 1`)[0].port;
    return process.env.READ_PORTS.split(',').includes(String(port));
  }, 'a read where reads belong');
  return port;
})));

check('texts_without_parameters_spread_over_replicas', () => spread(() => using(async (sql) => (
  (await sql`SELECT inet_server_port() AS port FROM dish LIMIT 1`.simple())[0].port))));

// The package does not export it.
const folder = path.join(path.dirname(require.resolve('postgres')), '../..');
const { version } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));

main('postgres.js', `${version}, Node.js ${process.versions.node}`);
