//! What a client may say: statements by kind, each with whether it may hold its connection.
//!
//! Only what gives the same answer whenever it is asked in the same state: no clock, process id,
//! transaction id or OID, rows in order, and nothing that waits for another client: tables that
//! are changed belong to one client (`t0`, `t1` …), row locks on `shared` are taken with NOWAIT or
//! SKIP LOCKED, advisory locks are tried.

use super::random::Random;
use super::script::User;

/// One statement.
pub struct Said {
    pub sql: String,
    /// Whether it may leave something that keeps the connection for the session.
    pub holds: bool,
}

/// Who speaks, and what is known of the state.
pub struct Speaker<'a> {
    pub random: &'a mut Random,
    pub client: usize,
    pub user: User,
    pub in_transaction: bool,
}

type Kind = fn(&mut Speaker<'_>) -> Said;

const KINDS: &[(usize, Kind)] = &[
    (20, read),
    (10, write),
    (12, setting),
    (12, look),
    (7, control),
    (4, temporary),
    (4, sequence),
    (4, advisory),
    (4, cursor),
    (4, prepare),
    (3, listen),
    (3, identity),
    (3, large_object),
    (3, definition),
    (5, mistake),
    (3, procedure),
    (2, discard),
    (2, shared),
];

fn free(sql: impl Into<String>) -> Said {
    Said { sql: sql.into(), holds: false }
}

fn holds(sql: impl Into<String>) -> Said {
    Said { sql: sql.into(), holds: true }
}

/// Follows the transaction block, as far as texts tell.
pub fn follow(in_transaction: &mut bool, sql: &str) {
    let text = sql.to_ascii_lowercase();
    if text.starts_with("begin") || text.starts_with("start") || text.ends_with("and chain") {
        *in_transaction = true;
    } else if ["commit", "end", "rollback", "abort", "prepare transaction"]
        .iter()
        .any(|word| text.starts_with(word))
        && !text.contains(" to ")
        && !text.contains("prepared")
    {
        *in_transaction = false;
    }
}

impl Speaker<'_> {
    /// The next statement.
    pub fn say(&mut self) -> Said {
        // Transactions that never end show little.
        if self.in_transaction && self.random.percent(15) {
            return control(self);
        }
        let kind = self.random.weighted(KINDS);
        let mut said = kind(self);
        if self.random.percent(5) {
            let hint = self.random.pick(&["replica", "primary", "consistency=strong"]);
            // Who asks a replica for it is told what a replica is.
            if said.sql != "SHOW transaction_read_only" {
                said.sql = format!("/* tiffin: {hint} */ {}", said.sql);
            }
        }
        said
    }

    pub fn pick(&mut self, from: &[&str]) -> String {
        let own = self.client.to_string();
        self.random.pick(from).replace("{c}", &own)
    }

    pub fn id(&mut self) -> usize {
        self.random.between(1, 9)
    }
}

fn read(speaker: &mut Speaker<'_>) -> Said {
    let id = speaker.id();
    let sql = speaker.pick(&[
        "SELECT 1",
        "SELECT id, v FROM t{c} ORDER BY id",
        "SELECT count(*), sum(n) FROM t{c}",
        "SELECT v FROM fixed WHERE id = {id}",
        "SELECT id, v FROM fixed ORDER BY id LIMIT {id}",
        "SELECT id FROM view_fixed ORDER BY id",
        "SELECT f_read({id})",
        "SELECT t.v, f.v FROM t{c} t JOIN fixed f USING (id) ORDER BY 1, 2",
        "WITH x AS (SELECT id FROM fixed WHERE id < {id}) SELECT count(*) FROM x",
        "SELECT generate_series(1, {id})",
        "VALUES (1, 'a'), (2, NULL)",
        "TABLE t{c} ORDER BY id",
        "SELECT date '2024-03-01', interval '1 day 2 hours', timestamptz '2024-03-01 12:00+00'",
        "SELECT 0.1::float8 + 0.2, '\\x00ff'::bytea",
        "SELECT 'a\\b', E'a\\tb', $$c$$, 'it''s'",
        "SELECT mood FROM moods ORDER BY 1",
        "EXPLAIN (COSTS off) SELECT * FROM fixed WHERE id = {id}",
        "COPY fixed TO STDOUT",
        "COPY (SELECT id, v FROM t{c} ORDER BY id) TO STDOUT (FORMAT csv)",
        "SELECT repeat('x', {id}000)",
        "SELECT",
        "",
        "-- nothing",
    ]);
    free(sql.replace("{id}", &id.to_string()))
}

fn write(speaker: &mut Speaker<'_>) -> Said {
    let id = speaker.id();
    let word = speaker.pick(&["x", "y", "long word", ""]);
    let sql = speaker.pick(&[
        "INSERT INTO t{c} VALUES ({id}, '{w}') ON CONFLICT (id) DO UPDATE SET v = excluded.v",
        "INSERT INTO t{c} VALUES ({id}, '{w}')",
        "INSERT INTO t{c} SELECT g, '{w}' FROM generate_series(20, 2{id}) g ON CONFLICT DO NOTHING",
        "UPDATE t{c} SET v = '{w}', n = n + 1 WHERE id = {id} RETURNING id, v, n",
        "UPDATE t{c} SET n = 10 / (id - {id})",
        "DELETE FROM t{c} WHERE id = {id}",
        "DELETE FROM t{c} WHERE id = (SELECT max(id) FROM t{c} WHERE id > {id}) RETURNING id",
        "SELECT id FROM t{c} WHERE id < {id} ORDER BY id FOR UPDATE",
        "WITH gone AS (DELETE FROM t{c} WHERE id = {id} RETURNING id) SELECT count(*) FROM gone",
        "SELECT f_write({c}, {id})",
        "TRUNCATE t{c}",
        "COPY (UPDATE t{c} SET n = n + 1 WHERE id = {id} RETURNING id) TO STDOUT",
        "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) INSERT INTO t{c} VALUES (7{id}, 'e')",
        "MERGE INTO t{c} t USING (SELECT {id} AS id) s ON t.id = s.id \
         WHEN MATCHED THEN UPDATE SET v = '{w}' WHEN NOT MATCHED THEN INSERT VALUES (s.id, '{w}')",
        "LOCK TABLE t{c} IN EXCLUSIVE MODE",
        "VACUUM t{c}",
        "ANALYZE t{c}",
    ]);
    free(sql.replace("{id}", &id.to_string()).replace("{w}", &word))
}

/// Settings that are tried, with values; some are refused.
pub const SETTINGS: &[(&str, &[&str])] = &[
    ("work_mem", &["'5MB'", "'6MB'", "4096", "'no'", "1"]),
    ("search_path", &["other, public", "public", "\"$user\", public", "''", "other"]),
    ("DateStyle", &["German", "'SQL, DMY'", "ISO", "'nonsense'"]),
    ("TimeZone", &["'UTC'", "'Europe/Berlin'", "'+3'", "'nowhere'"]),
    ("IntervalStyle", &["iso_8601", "postgres_verbose"]),
    ("extra_float_digits", &["0", "3", "99"]),
    ("bytea_output", &["escape", "hex"]),
    ("application_name", &["'a'", "'b c'", "''"]),
    ("client_min_messages", &["warning", "notice", "error"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("default_transaction_isolation", &["'repeatable read'", "serializable", "'read committed'"]),
    ("enable_seqscan", &["on", "off"]),
    ("statement_timeout", &["'100s'", "0"]),
    ("client_encoding", &["'UTF8'", "'LATIN1'", "SQL_ASCII", "'nonsense'"]),
    ("plan_cache_mode", &["force_generic_plan", "auto"]),
    ("transform_null_equals", &["on", "off"]),
    ("check_function_bodies", &["off"]),
    ("soak.a", &["'x'", "'y z'", "'it''s'", "7"]),
    ("soak.b", &["'one'", "two", "''"]),
    ("nonsense", &["1"]),
    ("soak.a b", &["1"]),
];

fn setting(speaker: &mut Speaker<'_>) -> Said {
    let (name, values) = SETTINGS[speaker.random.below(SETTINGS.len())];
    let value = speaker.random.pick(values);
    // One that follows the session is set as often as all the others together.
    let word = if value.starts_with('\'') { value.to_owned() } else { format!("'{value}'") };
    let sql = match speaker.random.below(20) {
        0..=7 => format!("SET {name} = {value}"),
        8 => format!("SET SESSION {name} TO {value}"),
        9..=11 => format!("SET LOCAL {name} TO {value}"),
        12 => format!("SELECT set_config('{name}', {word}, false)"),
        13 => format!("SELECT set_config('{name}', {word}, true)"),
        14 | 15 => format!("RESET {name}"),
        16 => format!("SET {name} TO DEFAULT"),
        17 => "RESET ALL".to_owned(),
        18 => speaker.pick(&[
            "SET TIME ZONE 'Asia/Tokyo'",
            "SET NAMES 'LATIN1'",
            "SET TIME ZONE LOCAL",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, ISOLATION LEVEL SERIALIZABLE",
            "SET SCHEMA 'other'",
            "RESET TIME ZONE",
        ]),
        _ => return holds(format!("SELECT set_config('{name}', lower({word}), false)")),
    };
    free(sql)
}

/// Looks at the state of the session: what another client left would be seen here.
fn look(speaker: &mut Speaker<'_>) -> Said {
    // Asking for the state of sequences keeps the connection that has it.
    holds(speaker.pick(LOOKS))
}

/// State of a session, each in one statement. A setting of one's own that was never set is NULL
/// in a new session and empty in one that has forgotten it: not told apart here, since nothing
/// makes a server forget the name.
pub const LOOKS: &[&str] = &[
    "SELECT name, setting FROM pg_settings WHERE name IN ('work_mem', 'search_path', 'DateStyle', \
     'TimeZone', 'IntervalStyle', 'extra_float_digits', 'bytea_output', 'application_name', \
     'client_min_messages', 'standard_conforming_strings', 'default_transaction_read_only', \
     'default_transaction_isolation', 'enable_seqscan', 'statement_timeout', 'client_encoding', \
     'plan_cache_mode', 'transform_null_equals', 'check_function_bodies', 'role') ORDER BY name",
    "SELECT coalesce(current_setting('soak.a', true), ''), \
     coalesce(current_setting('soak.b', true), '')",
    "SELECT current_user, session_user, current_schema",
    // The portal of a BEGIN that the extended protocol has brought is not there behind the proxy.
    "SELECT name, statement, is_holdable FROM pg_cursors WHERE statement !~* '(begin|start)' \
     ORDER BY name",
    "SELECT * FROM pg_listening_channels() ORDER BY 1",
    "SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name",
    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relnamespace = \
     pg_my_temp_schema() AND relkind IN ('r', 'v', 'S') ORDER BY 1",
    "SHOW work_mem",
    "SHOW search_path",
    "SHOW TimeZone",
    "SHOW default_transaction_read_only",
    "SHOW transaction_isolation",
    "SHOW transaction_read_only",
    "SELECT current_setting('work_mem'), current_setting('DateStyle')",
    "SELECT lastval()",
    "SELECT currval('q{c}')",
    "SELECT x FROM tt1 ORDER BY x",
];

fn control(speaker: &mut Speaker<'_>) -> Said {
    let begin: &[&str] = &[
        "BEGIN",
        "BEGIN",
        "BEGIN",
        "START TRANSACTION",
        "BEGIN READ ONLY",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "COMMIT PREPARED 'g{c}'",
    ];
    let inside: &[&str] = &[
        "COMMIT",
        "COMMIT",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ROLLBACK",
        "ABORT",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "SAVEPOINT a",
        "SAVEPOINT a",
        "SAVEPOINT b",
        "SAVEPOINT b",
        "ROLLBACK TO a",
        "ROLLBACK TO SAVEPOINT b",
        "ROLLBACK TO a",
        "RELEASE a",
        "RELEASE SAVEPOINT b",
        "BEGIN",
        "SET TRANSACTION READ ONLY",
        "SET TRANSACTION READ WRITE",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET LOCAL transaction_read_only = on",
    ];
    let sql = speaker.pick(if speaker.in_transaction { inside } else { begin });
    free(sql)
}

fn temporary(speaker: &mut Speaker<'_>) -> Said {
    holds(speaker.pick(&[
        "CREATE TEMP TABLE tt1 (x int)",
        "CREATE TEMP TABLE IF NOT EXISTS tt1 (x int)",
        "CREATE TEMP TABLE tt1 (x int) ON COMMIT DROP",
        "CREATE TEMP TABLE tt2 ON COMMIT DELETE ROWS AS SELECT 1 AS x",
        "INSERT INTO tt1 VALUES (1), (2)",
        "SELECT id AS x INTO TEMP tt2 FROM fixed WHERE id < 4",
        "SELECT count(*) FROM tt2",
        "DROP TABLE tt1",
        "DROP TABLE IF EXISTS tt1, tt2",
        "CREATE TEMP VIEW tv AS SELECT 1 AS x",
        "SELECT * FROM tv",
        "CREATE TEMP SEQUENCE tq",
        "SELECT nextval('tq')",
        "CREATE TABLE pg_temp.tt2 (x int)",
        "CREATE TEMP TABLE t{c} (x int)",
        "SELECT f_temp()",
    ]))
}

fn sequence(speaker: &mut Speaker<'_>) -> Said {
    holds(speaker.pick(&[
        "SELECT nextval('q{c}')",
        "SELECT nextval('q_shared')",
        "SELECT currval('q{c}')",
        "SELECT lastval()",
        "SELECT setval('q{c}', 40)",
        "INSERT INTO numbered (v) VALUES ('client {c}') RETURNING v",
        "SELECT currval(pg_get_serial_sequence('numbered', 'id')) > 0",
        "ALTER SEQUENCE q{c} RESTART",
    ]))
}

/// None of them inside a function of the users' own: see `docs/limits.md`.
fn advisory(speaker: &mut Speaker<'_>) -> Said {
    let key = speaker.random.between(1, 3);
    let sql = speaker.pick(&[
        "SELECT pg_try_advisory_lock({k})",
        "SELECT pg_try_advisory_lock({k})",
        "SELECT pg_try_advisory_lock_shared({k})",
        "SELECT pg_try_advisory_xact_lock({k})",
        "SELECT pg_try_advisory_xact_lock_shared({k})",
        "SELECT pg_advisory_lock(10{c})",
        "SELECT pg_advisory_xact_lock(10{c})",
        "SELECT pg_advisory_unlock({k})",
        "SELECT pg_advisory_unlock({k})",
        "SELECT pg_advisory_unlock_shared({k})",
        "SELECT pg_advisory_unlock(10{c})",
        "SELECT pg_advisory_unlock_all()",
        "SELECT pg_try_advisory_lock({k}), 1 / 0",
        "SELECT pg_advisory_unlock_shared({k}), pg_try_advisory_lock({k})",
        "SELECT pg_try_advisory_lock(1, {k})",
        "SELECT pg_advisory_unlock(1, {k})",
    ]);
    holds(sql.replace("{k}", &key.to_string()))
}

fn cursor(speaker: &mut Speaker<'_>) -> Said {
    let word = speaker.pick(&["c1", "c2"]);
    let sql = speaker.pick(&[
        "DECLARE {n} CURSOR FOR SELECT id FROM fixed ORDER BY id",
        "DECLARE {n} SCROLL CURSOR FOR SELECT id, v FROM t{c} ORDER BY id",
        "DECLARE {n} CURSOR WITH HOLD FOR SELECT id FROM fixed ORDER BY id",
        "DECLARE {n} CURSOR FOR SELECT id FROM t{c} ORDER BY id FOR UPDATE",
        "FETCH 2 FROM {n}",
        "FETCH 2 FROM {n}",
        "FETCH BACKWARD 1 FROM {n}",
        "MOVE 1 FROM {n}",
        "FETCH ALL IN {n}",
        "UPDATE t{c} SET n = 7 WHERE CURRENT OF {n}",
        "CLOSE {n}",
        "CLOSE ALL",
    ]);
    holds(sql.replace("{n}", &word))
}

fn prepare(speaker: &mut Speaker<'_>) -> Said {
    let word = speaker.pick(&["e1", "e2"]);
    let sql = speaker.pick(&[
        "PREPARE {n} AS SELECT v FROM fixed WHERE id = 1",
        "PREPARE {n} (int) AS SELECT v FROM t{c} WHERE id = $1",
        "PREPARE {n} (int) AS UPDATE t{c} SET n = n + $1 RETURNING id",
        "EXECUTE {n}",
        "EXECUTE {n} (3)",
        "EXECUTE {n} (1 / 0)",
        "EXPLAIN (COSTS off) EXECUTE {n}",
        "CREATE TEMP TABLE tt2 AS EXECUTE {n}",
        "DEALLOCATE {n}",
        "DEALLOCATE ALL",
    ]);
    holds(sql.replace("{n}", &word))
}

fn listen(speaker: &mut Speaker<'_>) -> Said {
    let number = speaker.id();
    let sql = speaker.pick(&[
        "LISTEN n1",
        "LISTEN n2",
        "UNLISTEN n1",
        "UNLISTEN *",
        "NOTIFY n1, '{c}.{i}'",
        "NOTIFY n2, '{c}.{i}'",
        "NOTIFY n1",
        "SELECT pg_notify('n2', '{c}.{i}')",
        "SELECT f_notify('{c}.{i}')",
    ]);
    holds(sql.replace("{i}", &number.to_string()))
}

fn identity(speaker: &mut Speaker<'_>) -> Said {
    let app: &[&str] = &[
        "SET ROLE soak_role",
        "SET LOCAL ROLE soak_role",
        "RESET ROLE",
        "SET ROLE NONE",
        "SET ROLE nobody_there",
        "SET SESSION AUTHORIZATION app",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SELECT current_user, session_user",
    ];
    let superuser: &[&str] = &[
        "SET SESSION AUTHORIZATION app",
        "SET LOCAL SESSION AUTHORIZATION app",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION soak_role",
        "SET ROLE soak_role",
        "RESET ROLE",
        "SELECT current_user, session_user",
    ];
    let superior = speaker.user == User::Superuser;
    free(speaker.pick(if superior { superuser } else { app }))
}

fn large_object(speaker: &mut Speaker<'_>) -> Said {
    holds(speaker.pick(&[
        "SELECT lo_create(7000{c})",
        "SELECT lo_unlink(7000{c})",
        "SELECT lo_put(7000{c}, 0, '\\x616263')",
        "SELECT lo_get(7000{c})",
        "SELECT lo_open(7000{c}, 393216)",
        "SELECT lowrite(0, 'word')",
        "SELECT lo_lseek(0, 0, 0)",
        "SELECT loread(0, 10)",
        "SELECT lo_close(0)",
    ]))
}

fn definition(speaker: &mut Speaker<'_>) -> Said {
    free(speaker.pick(&[
        "CREATE TABLE made{c} (id int PRIMARY KEY, v text)",
        "CREATE TABLE made{c} AS SELECT id, v FROM fixed",
        "SELECT * FROM made{c} ORDER BY 1, 2",
        "INSERT INTO made{c} VALUES (1, 'one')",
        "DROP TABLE IF EXISTS made{c}",
        "ALTER TABLE t{c} ADD COLUMN IF NOT EXISTS extra int DEFAULT 5",
        "ALTER TABLE t{c} DROP COLUMN IF EXISTS extra",
        "SELECT extra FROM t{c} ORDER BY id",
        "CREATE OR REPLACE VIEW made_view{c} AS SELECT id FROM t{c}",
        "SELECT id FROM made_view{c} ORDER BY 1",
        "DROP VIEW IF EXISTS made_view{c}",
        "CREATE INDEX IF NOT EXISTS made_index{c} ON t{c} (v)",
        "CREATE OR REPLACE FUNCTION made_f{c}() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION made_f{c}() RETURNS int LANGUAGE sql AS \
         'UPDATE t{c} SET n = n + 1 RETURNING 2'",
        "SELECT made_f{c}()",
        "COMMENT ON TABLE t{c} IS 'words'",
    ]))
}

fn mistake(speaker: &mut Speaker<'_>) -> Said {
    // A text that cannot be parsed keeps its connection: what ran of it is not known.
    holds(speaker.pick(&[
        "SELEC 1",
        "SELECT 1 / 0",
        "SELECT nothing",
        "SELECT * FROM nowhere",
        "SELECT no_function(1)",
        "SELECT 'a'::int",
        "SELECT 'open",
        "SELECT 'a\\'; SELECT 'b'",
        "INSERT INTO t{c} VALUES (1, 'twice'), (1, 'twice')",
        "INSERT INTO fixed_view_not_there VALUES (1)",
        "SELECT id FROM fixed WHERE 1 / (id - 5) > 0 ORDER BY id",
        "SELECT $1",
        "CREATE TABLE t{c} (x int)",
        "COPY nowhere TO STDOUT",
        "SET",
        "BEGIN nonsense",
    ]))
}

fn procedure(speaker: &mut Speaker<'_>) -> Said {
    holds(speaker.pick(&[
        "DO $$BEGIN RAISE NOTICE 'hello'; END$$",
        "DO $$BEGIN RAISE EXCEPTION 'no' USING HINT = 'a hint', DETAIL = 'more'; END$$",
        "DO $$BEGIN PERFORM set_config('soak.a', 'do', false); END$$",
        "DO $$BEGIN SET work_mem = '9MB'; END$$",
        "DO $$BEGIN UPDATE t{c} SET n = n + 1; COMMIT; UPDATE t{c} SET n = 1 / 0; END$$",
        "CALL p_write({c})",
        "SELECT f_set('soak.b', 'f')",
        "SELECT f_set('work_mem', '8MB')",
        "UPDATE pg_settings SET setting = '9MB' WHERE name = 'work_mem'",
        "SELECT f_raise('word')",
    ]))
}

fn discard(speaker: &mut Speaker<'_>) -> Said {
    free(speaker.pick(&[
        "DISCARD ALL",
        "DISCARD ALL",
        "DISCARD PLANS",
        "DISCARD SEQUENCES",
        "DISCARD TEMP",
    ]))
}

/// What the clients share. Rows are locked without waiting, and read on the primary only: another
/// session's commit may reach a replica later.
fn shared(speaker: &mut Speaker<'_>) -> Said {
    let id = speaker.random.between(1, 3);
    let sql = speaker.pick(&[
        "SELECT id FROM shared WHERE id = {i} FOR UPDATE NOWAIT",
        "SELECT id FROM shared ORDER BY id FOR UPDATE SKIP LOCKED",
        "SELECT id FROM shared WHERE id = {i} FOR SHARE NOWAIT",
        "/* tiffin: primary */ SELECT v FROM t0 ORDER BY id",
        "/* tiffin: primary */ SELECT v FROM t1 ORDER BY id",
    ]);
    free(sql.replace("{i}", &id.to_string()))
}
