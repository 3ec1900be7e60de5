// node-postgres: its client, cursors, COPY streams and pool.

'use strict';
const { once } = require('node:events');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const pg = require('pg');
const copy = require('pg-copy-streams');
const Cursor = require('pg-cursor');
const { assert, check, connection, eventually, keepCancelling, largeBytes, main, range, refused, spread } = require('./checks');

// The login is bound to the TLS connection where the server offers it: SCRAM-SHA-256-PLUS.
const config = { ...connection, enableChannelBinding: true };

async function using(body, more = {}) {
  const client = new pg.Client({ ...config, ...more });
  await client.connect();
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

const value = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

check('connects_with_scram_over_tls', () => using(async (client) => {
  assert.ok(client.connection.stream.encrypted);
  assert.equal(await value(client, 'SELECT current_user'), connection.user);
}));

check('wrong_password_and_database_are_refused', async () => {
  await refused('28P01', () => using(() => {}, { password: 'no' }));
  await refused('3D000', () => using((client) => client.query('SELECT 1'), { database: 'nowhere' }));
});

check('makes_its_tables', () => using(async (client) => {
  await client.query(`
    CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price numeric);
    INSERT INTO dish SELECT n, 'dish ' || n, n FROM generate_series(1, 100) n;
  `);
}));

check('prepared_statements', () => using(async (client) => {
  for (const id of range(1, 101)) {
    const query = { name: 'dish', text: 'SELECT name FROM dish WHERE id = $1', values: [id] };
    assert.equal(await value(client, query), `dish ${id}`);
  }
  for (const n of range(0, 100)) {
    assert.equal(await value(client, { name: `s${n}`, text: `SELECT $1::int + ${n}`, values: [1] }), n + 1);
  }
  const array = { text: 'SELECT id, name FROM dish WHERE id = ANY($1) ORDER BY id', values: [[1, 2]], rowMode: 'array' };
  assert.deepEqual((await client.query(array)).rows, [[1, 'dish 1'], [2, 'dish 2']]);
}));

check('prepared_statements_outlive_ddl', () => using((client) => using(async (other) => {
  await other.query('CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)');
  const query = { name: 'changing', text: 'SELECT * FROM changing' };
  assert.deepEqual((await client.query(query)).rows, [{ a: 1 }]);
  await other.query('ALTER TABLE changing ADD b int DEFAULT 2');
  // The driver describes each time; a server says 0A000 nevertheless.
  try {
    assert.deepEqual((await client.query(query)).rows, [{ a: 1, b: 2 }]);
  } catch (error) {
    assert.equal(error.code, '0A000');
  }
})));

check('values_of_all_kinds', () => using(async (client) => {
  const when = new Date('2026-11-21T12:30:00Z');
  const kinds = [
    ['bool', true], ['int', 42], ['float8', 1.25], ['text', 'naïve ☕ text'], ['bytea', Buffer.from([0, 255])],
    ['timestamptz', when], ['int[]', [1, null, 3]], ['text[]', ['a', 'b"{}']], ['jsonb', { a: [1, null] }],
    ['int8', '1099511627776'], ['numeric', '12345.6789'], ['text', null],
  ];
  for (const [kind, sent] of kinds) {
    assert.deepEqual(await value(client, `SELECT $1::${kind}`, [sent]), sent, kind);
  }
}));

check('transactions', () => using(async (client) => {
  await client.query('BEGIN');
  await client.query("INSERT INTO dish VALUES (1001, 'kept')");
  await client.query('SAVEPOINT here');
  await refused('23505', () => client.query("INSERT INTO dish VALUES (1001, 'twice')"));
  await refused('25P02', () => client.query('SELECT 1'));
  await client.query('ROLLBACK TO here');
  await client.query('COMMIT');
  await client.query('BEGIN');
  await client.query("INSERT INTO dish VALUES (1002, 'dropped')");
  await client.query('ROLLBACK');
  assert.equal(await value(client, 'SELECT count(*)::int FROM dish WHERE id > 1000'), 1);
  await client.query('BEGIN READ ONLY');
  assert.equal(await value(client, 'SELECT count(*)::int FROM dish WHERE id <= 100'), 100);
  await refused('25006', () => client.query('DELETE FROM dish'));
  await client.query('ROLLBACK');
  await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE');
  assert.equal(await value(client, 'SHOW transaction_deferrable'), 'on');
  await client.query('COMMIT');
}));

check('errors_have_their_fields', () => using(async (client) => {
  const error = await refused('23505', () => client.query("INSERT INTO dish VALUES ($1, 'again')", [1]));
  assert.equal(error.constraint, 'dish_pkey');
  assert.equal(error.table, 'dish');
  assert.equal(error.detail, 'Key (id)=(1) already exists.');
  assert.equal((await refused('42601', () => client.query('SELECT 1 FROM FROM dish'))).position, '15');
  for (const [sql, state] of [['SELECT 1/0', '22012'], ['SELECT nothing()', '42883'], ['SELECT * FROM nowhere', '42P01']]) {
    await refused(state, () => client.query(sql));
    await refused(state, () => client.query({ text: sql, values: [], queryMode: 'extended' }));
  }
  assert.equal(await value(client, 'SELECT 1'), 1);
}));

check('several_statements_in_one_text', () => using(async (client) => {
  const results = await client.query("SELECT 1 AS a; INSERT INTO dish VALUES (3001, 'x'); SELECT 2 AS b");
  assert.deepEqual(results.map((result) => result.command), ['SELECT', 'INSERT', 'SELECT']);
  await refused('22012', () => client.query("INSERT INTO dish VALUES (3002, 'x'); SELECT 1/0"));
  assert.equal(await value(client, 'SELECT count(*)::int FROM dish WHERE id = 3002'), 0);
}));

check('queued_queries', () => using(async (client) => {
  const queries = range(1, 101).map((id) => value(client, 'SELECT name FROM dish WHERE id = $1', [id]));
  queries.push(refused('22012', () => client.query('SELECT 1/$1::int', [0])).then(() => 'refused'));
  queries.push(value(client, 'SELECT name FROM dish WHERE id = 7'));
  const names = await Promise.all(queries);
  assert.deepEqual(names, [...range(1, 101).map((id) => `dish ${id}`), 'refused', 'dish 7']);
}));

check('cursors', () => using(async (client) => {
  const cursor = client.query(new Cursor('SELECT id FROM dish WHERE id <= $1 ORDER BY id', [100]));
  const ids = [];
  for (let rows = await cursor.read(9); rows.length; rows = await cursor.read(9)) ids.push(...rows.map((row) => row.id));
  assert.deepEqual(ids, range(1, 101));
  const half = client.query(new Cursor('SELECT id FROM dish ORDER BY id'));
  assert.equal((await half.read(5)).length, 5);
  await half.close();
  assert.equal(await value(client, 'SELECT 1'), 1);
}));

check('copy_both_ways', () => using(async (client) => {
  await client.query('CREATE TABLE copied (id int, what text)');
  const lines = function* () {
    for (const n of range(0, 20_000)) yield `${n}\trow ${n}\n`;
  };
  await pipeline(Readable.from(lines()), client.query(copy.from('COPY copied FROM STDIN')));
  let bytes = 0;
  for await (const chunk of client.query(copy.to('COPY copied TO STDOUT'))) bytes += chunk.length;
  assert.equal(bytes, [...lines()].join('').length);
  await refused('22P02', () => pipeline(
    Readable.from(['x\ty\n'.repeat(50_000)]), client.query(copy.from('COPY copied FROM STDIN'))));
  assert.equal(await value(client, 'SELECT count(*)::int FROM copied'), 20_000);
}));

check('cancel_and_timeouts', () => using((client) => using(async (other) => {
  const pid = await value(client, '/* tiffin: primary */ SELECT pg_backend_pid()');
  assert.ok(pid > 0);
  // The driver's own way: a second connection, without TLS, that carries the key of the first.
  const query = new pg.Query('SELECT pg_sleep(30)');
  query.on('error', () => {});
  const failed = once(query, 'error');
  client.query(query);
  await keepCancelling(() => {
    const canceller = new pg.Client(config);
    canceller.on('error', () => {});
    canceller.connection.on('error', () => {});
    canceller.cancel(client, query);
  }, failed);
  const [error] = await failed;
  assert.equal(error.code, '57014');
  await client.query("SET statement_timeout = '100ms'");
  await refused('57014', () => client.query('SELECT pg_sleep(30)'));
  await client.query('RESET statement_timeout');
  await other.query('BEGIN; SELECT * FROM dish WHERE id = 1 FOR UPDATE');
  await client.query("SET lock_timeout = '100ms'");
  await refused('55P03', () => client.query("UPDATE dish SET name = 'mine' WHERE id = 1"));
  await other.query('ROLLBACK');
})));

check('timeouts_of_the_start_up_packet', async () => {
  await using((client) => refused('57014', () => client.query('SELECT pg_sleep(30)')), { statement_timeout: 100 });
  await using(async (client) => {
    assert.equal(await value(client, 'SHOW idle_in_transaction_session_timeout'), '12345ms');
    assert.equal(await value(client, 'SHOW application_name'), 'lunch');
  }, { idle_in_transaction_session_timeout: 12345, application_name: 'lunch' });
});

check('listen_and_notify', () => using((listener) => using(async (sender) => {
  const heard = [];
  listener.on('notification', (message) => heard.push(message.payload));
  await listener.query('LISTEN kitchen');
  for (const n of range(0, 20)) await sender.query("SELECT pg_notify('kitchen', $1)", [`order ${n}`]);
  await eventually(() => heard.length >= 20, 'the notifications');
  assert.deepEqual(heard, range(0, 20).map((n) => `order ${n}`));
  assert.equal(await value(listener, 'SELECT count(*)::int FROM dish WHERE id <= 100'), 100);
  await listener.query('UNLISTEN *');
  await sender.query("NOTIFY kitchen, 'nobody listens'");
  await value(listener, 'SELECT 1');
  assert.equal(heard.length, 20);
})));

check('notices', () => using(async (client) => {
  const told = [];
  client.on('notice', (notice) => told.push(notice.message));
  await client.query("DO $$BEGIN RAISE NOTICE 'dal'; END$$");
  assert.deepEqual(told, ['dal']);
}));

check('large_values', () => using(async (client) => {
  const data = largeBytes();
  const text = 'dal '.repeat(data.length / 4);
  await client.query('CREATE TABLE large (data bytea, words text)');
  await client.query('INSERT INTO large VALUES ($1, $2)', [data, text]);
  const { rows: [row] } = await client.query('SELECT * FROM large');
  assert.ok(row.data.equals(data) && row.words === text, 'another value came back');
  const { rows } = await client.query("SELECT repeat('x', 1000000) AS x FROM generate_series(1, 16)");
  assert.deepEqual(new Set(rows.map((each) => each.x.length)), new Set([1_000_000]));
}));

check('settings_follow_the_session', () => using((client) => using(async (other) => {
  await client.query("SET search_path = nowhere, public; SET timezone = 'Asia/Kolkata'");
  for (const _ of range(0, 10)) {
    assert.equal(await value(client, 'SHOW search_path'), 'nowhere, public');
    assert.equal(await value(client, 'SELECT count(*)::int FROM dish WHERE id <= 100'), 100);
    assert.notEqual(await value(other, 'SHOW timezone'), 'Asia/Kolkata');
  }
  await client.query('RESET ALL');
  assert.notEqual(await value(client, 'SHOW timezone'), 'Asia/Kolkata');
}), { options: '-c work_mem=7MB' }));

check('session_objects', () => using((client) => using(async (other) => {
  await client.query('CREATE TEMP TABLE mine (id int); INSERT INTO mine VALUES (1)');
  for (const _ of range(0, 5)) assert.equal(await value(client, 'SELECT id FROM mine'), 1);
  await refused('42P01', () => other.query('SELECT * FROM mine'));
  assert.equal(await value(client, 'SELECT pg_try_advisory_lock(7)'), true);
  assert.equal(await value(other, 'SELECT pg_try_advisory_lock(7)'), false);
  await client.query('DISCARD ALL');
  assert.equal(await value(other, 'SELECT pg_try_advisory_lock(7)'), true);
})));

check('reads_its_own_writes', () => using(async (client) => {
  await client.query('CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)');
  for (const n of range(1, 200)) {
    await client.query('UPDATE counter SET n = $1', [n]);
    assert.equal(await value(client, 'SELECT n FROM counter'), n);
  }
}));

check('pool', async () => {
  const pool = new pg.Pool({ ...config, max: 8 });
  try {
    await pool.query('UPDATE counter SET n = 0');
    const counts = await Promise.all(range(0, 200).map(async () => {
      const client = await pool.connect();
      try {
        await client.query('BEGIN');
        await client.query('UPDATE counter SET n = n + 1');
        await client.query('COMMIT');
      } finally {
        client.release();
      }
      return value(pool, 'SELECT count(*)::int FROM dish WHERE id <= $1', [100]);
    }));
    assert.deepEqual(new Set(counts), new Set([100]));
    assert.equal(await value(pool, '/* tiffin: primary */ SELECT n FROM counter'), 200);
  } finally {
    await pool.end();
  }
});

check('reads_spread_over_replicas', async () => {
  const text = 'SELECT inet_server_port() FROM dish LIMIT 1';
  for (const query of [text, { name: 'port', text }]) {
    await spread(() => using((client) => value(client, query)));
  }
});

main('node-postgres', `${require('pg/package.json').version}, Node.js ${process.versions.node}`);
