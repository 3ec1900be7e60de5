// mysql2: its text and binary protocols, transactions, pool and streams.

'use strict';
const { Readable } = require('node:stream');
const mysql = require('mysql2/promise');
const { assert, check, connection, eventually, largeBytes, main, range, spread } = require('./checks');

const config = { ...connection, multipleStatements: true, supportBigNumbers: true };

async function using(body, more = {}) {
  const client = await mysql.createConnection({ ...config, ...more });
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

const rows = async (client, sql, values) => (await client.query(sql, values))[0];
const value = async (client, sql, values) => Object.values((await rows(client, sql, values))[0])[0];

// The body must fail with this number.
async function fails(number, body) {
  let error;
  try {
    await body();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `no error instead of ${number}`);
  assert.equal(error.errno, number, String(error));
}

check('connects_over_tls', () => using(async (client) => {
  assert.ok(client.connection.stream.encrypted);
  assert.equal(await value(client, 'SELECT DATABASE()'), connection.database);
}));

check('connects_without_tls', () => using(async (client) => {
  assert.ok(!client.connection.stream.encrypted);
  assert.equal(await value(client, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"), connection.user);
}, { ssl: undefined }));

check('wrong_password_and_database_are_refused', async () => {
  await fails(1045, () => using(() => {}, { password: 'no' }));
  await fails(1044, () => using(() => {}, { database: 'nowhere' }));
});

check('makes_its_tables', () => using(async (client) => {
  await client.query('CREATE TABLE dish (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) UNIQUE, price DECIMAL(10, 2), raw LONGBLOB)');
  const [result] = await client.query('INSERT INTO dish (name, price) VALUES ?', [range(1, 501).map((n) => [`dish ${n}`, n])]);
  assert.equal(result.affectedRows, 500);
  // Reads of different sessions go to different servers, and only own writes are waited for.
  const seen = () => using((other) => value(other, "SELECT COUNT(*) FROM dish"));
  await eventually(async () => {
    for (const _ of range(0, 10)) {
      if ((await seen()) !== 500) return false;
    }
    return true;
  }, 'the rows on every server');
}));

check('prepared_statements', () => using(async (client) => {
  for (const id of range(1, 51)) {
    const [[row]] = await client.execute('SELECT name, ? AS said FROM dish WHERE id = ?', ['ü🍛', id]);
    assert.deepEqual({ ...row }, { name: `dish ${id}`, said: 'ü🍛' });
  }
  for (const n of range(0, 50)) {
    const [[row]] = await client.execute(`SELECT ? + ${n} AS sum`, [1]);
    assert.equal(Number(row.sum), n + 1);
  }
}));

check('errors_have_the_servers_numbers', () => using(async (client) => {
  await fails(1146, () => client.query('SELECT * FROM no_such_table'));
  await fails(1064, () => client.execute('SELEC 1'));
  await fails(1062, () => client.query("INSERT INTO dish (name) VALUES ('dish 1')"));
  assert.equal(await value(client, 'SELECT 1'), 1);
}));

check('several_statements_at_once', () => using(async (client) => {
  const [results] = await client.query("SELECT 1 AS a; UPDATE dish SET price = 2 WHERE name = 'dish 1'; SELECT 3 AS b");
  assert.equal(results[0][0].a, 1);
  assert.equal(results[1].affectedRows, 1);
  assert.equal(results[2][0].b, 3);
}));

check('transactions', () => using(async (client) => {
  await client.beginTransaction();
  await client.query("INSERT INTO dish (name) VALUES ('gone')");
  assert.equal(await value(client, "SELECT COUNT(*) FROM dish WHERE name = 'gone'"), 1);
  await client.rollback();
  assert.equal(await value(client, "SELECT COUNT(*) FROM dish WHERE name = 'gone'"), 0);
}));

check('large_values', () => using(async (client) => {
  const large = largeBytes();
  await client.execute("INSERT INTO dish (name, raw) VALUES ('large', ?)", [large]);
  const found = await value(client, "SELECT raw FROM dish WHERE name = 'large'");
  assert.ok(large.equals(found));
}));

check('queries_are_queued_in_order', () => using(async (client) => {
  const answers = await Promise.all(range(0, 100).map((n) => value(client, `SELECT ${n} AS n FROM dish LIMIT 1`)));
  assert.deepEqual(answers.map(Number), range(0, 100));
}));

check('rows_are_streamed', () => using(async (client) => {
  let count = 0;
  const stream = client.connection.query('SELECT id, name FROM dish').stream();
  for await (const row of stream) {
    assert.ok(row.id);
    count += 1;
  }
  assert.ok(count >= 500);
}));

check('files_of_the_client_are_loaded', () => using(async (client) => {
  const lines = range(0, 100).map((n) => `loaded ${n},${n}\n`).join('');
  await client.query({
    sql: "LOAD DATA LOCAL INFILE 'dishes.csv' INTO TABLE dish FIELDS TERMINATED BY ',' (name, price)",
    infileStreamFactory: () => Readable.from([Buffer.from(lines)]),
  });
  assert.equal(await value(client, "SELECT COUNT(*) FROM dish WHERE name LIKE 'loaded %'"), 100);
}));

check('a_pool_serves_many_at_once', async () => {
  const pool = mysql.createPool({ ...config, connectionLimit: 8 });
  const sums = await Promise.all(range(0, 200).map(async (n) => {
    const [[row]] = await pool.execute('SELECT COUNT(*) AS count, ? AS n FROM dish WHERE id < 11', [n]);
    return [row.count, Number(row.n)];
  }));
  assert.deepEqual(sums, range(0, 200).map((n) => [10, n]));
  await pool.end();
});

check('a_session_is_reset_by_change_user', () => using(async (client) => {
  await client.query('SET @a = 1');
  await client.changeUser({ ...config });
  assert.equal(await value(client, 'SELECT @a'), null);
}));

check('reads_are_spread', () => spread(() => using((client) => value(client, 'SELECT @@port FROM dish LIMIT 1'))));

main('mysql2', require('mysql2/package.json').version);
