// MariaDB Connector/Node.js: its text and binary protocols, batches, transactions, pool, streams.

'use strict';
const fs = require('node:fs');
const mariadb = require('mariadb');
const { assert, check, connection, eventually, largeBytes, main, range, spread } = require('./checks');

const config = {
  ...connection, multipleStatements: true, permitLocalInfile: true, collation: 'utf8mb4_general_ci',
};

async function using(body, more = {}) {
  const client = await mariadb.createConnection({ ...config, ...more });
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

const value = async (client, sql, values) => Object.values((await client.query(sql, values))[0])[0];

// Of a batch: a server without MariaDB's command for it answers for each set of values.
const affected = (results) => [].concat(results).reduce((sum, { affectedRows }) => sum + affectedRows, 0);

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
  assert.equal(await value(client, 'SELECT DATABASE()'), connection.database);
  assert.ok(client.isValid());
}));

check('connects_without_tls', () => using(async (client) => {
  assert.equal(await value(client, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"), connection.user);
}, { ssl: false, allowPublicKeyRetrieval: true }));

check('wrong_password_and_database_are_refused', async () => {
  await fails(1045, () => using(() => {}, { password: 'no' }));
  await fails(1044, () => using(() => {}, { database: 'nowhere' }));
});

check('makes_its_tables', () => using(async (client) => {
  await client.query('CREATE TABLE dish (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) UNIQUE, price DECIMAL(10, 2), raw LONGBLOB)');
  const rows = range(1, 501).map((n) => [`dish ${n}`, n]);
  // With MariaDB's own command for arrays of values where the server has it.
  const result = await client.batch('INSERT INTO dish (name, price) VALUES (?, ?)', rows);
  assert.equal(affected(result), 500);
  assert.equal(Number(await value(client, 'SELECT COUNT(*) FROM dish')), 500);
  await eventually(async () => {
    for (const _ of range(0, 10)) {
      if (Number(await using((other) => value(other, 'SELECT COUNT(*) FROM dish'))) !== 500) return false;
    }
    return true;
  }, 'the rows on every server');
}));

check('batches_of_all_kinds', () => using(async (client) => {
  const named = await client.batch(
    { namedPlaceholders: true, sql: 'UPDATE dish SET price = :price WHERE name = :name' },
    range(1, 51).map((n) => ({ price: n + 0.5, name: `dish ${n}` })),
  );
  assert.equal(affected(named), 50);
  assert.equal(Number(await value(client, "SELECT price FROM dish WHERE name = 'dish 50'")), 50.5);
  for (const bulk of [true, false]) {
    await using(async (other) => {
      const result = await other.batch(
        'INSERT INTO dish (name, price) VALUES (?, ?)', [[`bulk ${bulk} 1`, null], [`bulk ${bulk} 2`, 3]],
      );
      assert.equal(affected(result), 2);
    }, { bulk });
  }
  // Longer than any buffer on the way.
  const raw = Buffer.alloc(1 << 18, 0x61);
  const long = await client.batch('INSERT INTO dish (name, raw) VALUES (?, ?)', range(0, 8).map((n) => [`long ${n}`, raw]));
  assert.equal(affected(long), 8);
  assert.equal(Number(await value(client, "SELECT SUM(LENGTH(raw)) FROM dish WHERE name LIKE 'long %'")), 8 << 18);
  await fails(1062, () => client.batch('INSERT INTO dish (name) VALUES (?)', [['new'], ['dish 1']]));
  assert.equal(Number(await value(client, 'SELECT 1')), 1);
}));

check('prepared_statements', () => using(async (client) => {
  for (const id of range(1, 51)) {
    const [row] = await client.execute('SELECT name, ? AS said FROM dish WHERE id = ?', ['ü🍛', id]);
    assert.deepEqual({ ...row }, { name: `dish ${id}`, said: 'ü🍛' });
  }
  const prepared = await client.prepare('SELECT id FROM dish WHERE name = ?');
  for (const n of range(1, 51)) {
    assert.equal((await prepared.execute([`dish ${n}`]))[0].id, n);
  }
  prepared.close();
}));

check('values_of_all_kinds_come_back', () => using(async (client) => {
  const raw = Buffer.from(range(0, 256));
  const { insertId } = await client.query('INSERT INTO dish (name, raw) VALUES (?, ?)', ['ünïcödé 🍛', raw]);
  assert.equal(await value(client, 'SELECT LAST_INSERT_ID()'), insertId);
  const [row] = await client.query('SELECT name, raw, NULL AS nothing FROM dish WHERE id = ?', [insertId]);
  assert.ok(raw.equals(row.raw));
  assert.deepEqual([row.name, row.nothing], ['ünïcödé 🍛', null]);
}));

// MariaDB's type is text; what else it is comes with the definitions of columns.
check('documents_come_back_as_objects', () => using(async (client) => {
  await client.query('CREATE TABLE menu (doc JSON)');
  await client.query('INSERT INTO menu VALUES (?)', ['{"a": [1]}']);
  assert.deepEqual((await client.query('SELECT doc FROM menu'))[0].doc, { a: [1] });
  assert.deepEqual((await client.execute('SELECT doc FROM menu'))[0].doc, { a: [1] });
}));

check('errors_have_the_servers_numbers', () => using(async (client) => {
  await fails(1146, () => client.query('SELECT * FROM no_such_table'));
  await fails(1064, () => client.execute('SELEC 1'));
  await fails(1062, () => client.query("INSERT INTO dish (name) VALUES ('dish 1')"));
  assert.equal(Number(await value(client, 'SELECT 1')), 1);
}));

check('several_statements_at_once', () => using(async (client) => {
  const results = await client.query("SELECT 1 AS a; UPDATE dish SET price = 2 WHERE name = 'dish 1'; SELECT 3 AS b");
  assert.equal(Number(results[0][0].a), 1);
  assert.equal(results[1].affectedRows, 1);
  assert.equal(Number(results[2][0].b), 3);
}));

check('procedures', () => using(async (client) => {
  await client.query('CREATE PROCEDURE two(IN a INT, OUT b INT) BEGIN SELECT a; SET b = a + 1; END');
  const results = await client.query('CALL two(5, @b)');
  assert.equal(results[0][0].a, 5);
  assert.equal(Number(await value(client, 'SELECT @b')), 6);
  const [[row], out] = await client.execute('CALL two(?, ?)', [7, null]);
  assert.equal(row.a, 7);
  assert.ok(out);
}));

check('transactions', () => using(async (client) => {
  await client.beginTransaction();
  await client.query("INSERT INTO dish (name) VALUES ('gone')");
  assert.equal(Number(await value(client, "SELECT COUNT(*) FROM dish WHERE name = 'gone'")), 1);
  await client.rollback();
  assert.equal(Number(await value(client, "SELECT COUNT(*) FROM dish WHERE name = 'gone'")), 0);
}));

check('large_values', () => using(async (client) => {
  const large = largeBytes();
  await client.execute("INSERT INTO dish (name, raw) VALUES ('large', ?)", [large]);
  assert.ok(large.equals(await value(client, "SELECT raw FROM dish WHERE name = 'large'")));
}));

check('queries_are_pipelined_in_order', () => using(async (client) => {
  const answers = await Promise.all(range(0, 100).map((n) => value(client, `SELECT ${n} AS n FROM dish LIMIT 1`)));
  assert.deepEqual(answers.map(Number), range(0, 100));
}, { pipelining: true, permitLocalInfile: false }));

check('rows_are_streamed', () => using(async (client) => {
  let count = 0;
  for await (const row of client.queryStream('SELECT id, name FROM dish')) {
    assert.ok(row.id);
    count += 1;
  }
  assert.ok(count >= 500);
}));

check('files_of_the_client_are_loaded', () => using(async (client) => {
  fs.writeFileSync('dishes.csv', range(0, 100).map((n) => `loaded ${n},${n}\n`).join(''));
  await client.query("LOAD DATA LOCAL INFILE 'dishes.csv' INTO TABLE dish FIELDS TERMINATED BY ',' (name, price)");
  assert.equal(Number(await value(client, "SELECT COUNT(*) FROM dish WHERE name LIKE 'loaded %'")), 100);
}));

check('compression', () => using(async (client) => {
  const text = 'lunch '.repeat(100_000);
  assert.equal(await value(client, 'SELECT ? AS text', [text]), text);
}, { compress: true }));

check('a_pool_serves_many_at_once', async () => {
  const pool = mariadb.createPool({ ...config, connectionLimit: 8 });
  const sums = await Promise.all(range(0, 200).map(async (n) => {
    const [row] = await pool.execute('SELECT COUNT(*) AS count, ? AS n FROM dish WHERE id < 11', [n]);
    return [Number(row.count), Number(row.n)];
  }));
  assert.deepEqual(sums, range(0, 200).map((n) => [10, n]));
  await pool.end();
});

check('a_session_is_reset', () => using(async (client) => {
  await client.query('SET @a = 1');
  await client.reset();
  assert.equal(await value(client, 'SELECT @a'), null);
  // The driver does not do it with MySQL.
  if (client.info.isMariaDB()) {
    await client.query('SET @a = 1');
    await client.changeUser({ ...config });
    assert.equal(await value(client, 'SELECT @a'), null);
  }
}));

check('reads_are_spread', () => spread(async () => Number(await using((client) => value(client, 'SELECT @@port FROM dish LIMIT 1')))));

main('mariadb (Node.js)', mariadb.version);
