//! What clients of MySQL and MariaDB may say: statements by kind.
//!
//! Only what gives the same answer whenever it is asked in the same state: no clock, connection id
//! or random number, rows in order, and nothing that waits for another client: tables that are
//! changed belong to one client (`t0`, `t1` …), row locks on `shared` are taken with NOWAIT or SKIP
//! LOCKED, locks by name without waiting.

use crate::support::mysql::Engine;

/// Statements of one kind.
pub struct Kind {
    pub weight: usize,
    /// Whether they may leave something that keeps the connection for the session.
    pub holds: bool,
    pub of: Option<Engine>,
    pub texts: &'static [&'static str],
}

const fn free(weight: usize, texts: &'static [&'static str]) -> Kind {
    Kind { weight, holds: false, of: None, texts }
}

const fn holds(weight: usize, texts: &'static [&'static str]) -> Kind {
    Kind { weight, holds: true, of: None, texts }
}

/// `{c}` is the client's number, `{i}` a small number, `{w}` a word.
pub const KINDS: &[Kind] = &[
    free(20, READS),
    free(14, WRITES),
    free(12, SETTINGS),
    free(10, LOOKS),
    free(14, QUESTIONS),
    free(4, MISTAKES),
    free(3, DEFINITIONS),
    free(2, SHARED),
    holds(8, VARIABLES),
    holds(5, TEMPORARY),
    holds(4, NAMED_LOCKS),
    holds(3, PREPARED),
    holds(5, ROUTINES),
    holds(3, DISTRIBUTED),
    holds(2, HANDLERS),
    holds(2, TABLE_LOCKS),
    holds(2, ODD_SETTINGS),
    holds(1, ROLES),
    Kind { weight: 4, holds: true, of: Some(Engine::MySql), texts: ON_MYSQL },
    Kind { weight: 5, holds: true, of: Some(Engine::MariaDb), texts: ON_MARIADB },
];

const READS: &[&str] = &[
    "SELECT 1",
    "SELECT id, v FROM t{c} ORDER BY id",
    "SELECT count(*), sum(n) FROM t{c}",
    "SELECT v FROM fixed WHERE id = {i}",
    "SELECT id, v FROM fixed ORDER BY id LIMIT {i}",
    "SELECT id FROM view_fixed ORDER BY id",
    "SELECT f_read({i})",
    "SELECT app.f_read({i})",
    "SELECT t.v, f.v FROM t{c} t JOIN fixed f USING (id) ORDER BY 1, 2",
    "WITH x AS (SELECT id FROM fixed WHERE id < {i}) SELECT count(*) FROM x",
    "(SELECT id FROM fixed) UNION (SELECT 2) ORDER BY 1 LIMIT 3",
    "SELECT 'a' 'b', 0x41, b'1', _latin1 'x', DATE '2024-03-01', 1.5e0, NULL",
    "SELECT 'a\\'b'",
    "SELECT \"id\" FROM fixed ORDER BY 1 LIMIT 1",
    "SELECT 'é', v FROM fixed WHERE id = 3",
    "SELECT REPEAT('x', {i}000)",
    "SELECT v FROM other.fixed ORDER BY id",
    "SELECT v FROM app.t{c} ORDER BY id",
    "SELECT SLEEP(0)",
    "SHOW CREATE TABLE app.fixed",
    "SHOW COLUMNS FROM app.t{c}",
    "SHOW TABLES LIKE 'fix%'",
    "EXPLAIN SELECT 1",
    "DO 1",
    "/* tiffin: replica */ SELECT count(*) FROM t{c}",
    "/* tiffin: primary */ SELECT count(*) FROM t{c}",
];

const WRITES: &[&str] = &[
    "INSERT INTO t{c} VALUES ({i}, '{w}', 0)",
    "INSERT IGNORE INTO t{c} VALUES ({i}, '{w}', 0)",
    "INSERT INTO t{c} (v) VALUES ('{w}')",
    "INSERT INTO t{c} (v) VALUES ('{w}'), ('more')",
    "INSERT INTO t{c} (v) SELECT v FROM fixed WHERE id < {i}",
    "INSERT INTO t{c} VALUES ({i}, '{w}', 1) ON DUPLICATE KEY UPDATE v = '{w}', n = n + 1",
    "REPLACE INTO t{c} VALUES ({i}, '{w}', 0)",
    "UPDATE t{c} SET n = n + 1 WHERE id = {i}",
    "UPDATE t{c} SET v = '{w}'",
    "UPDATE t{c} SET n = 'seven' WHERE id = {i}",
    "UPDATE t{c} SET v = REPEAT('x', 50) WHERE id = {i}",
    "DELETE FROM t{c} WHERE id = {i}",
    "DELETE FROM t{c} ORDER BY id DESC LIMIT 1",
    "SELECT id FROM t{c} WHERE id < {i} ORDER BY id FOR UPDATE",
    "SELECT id FROM t{c} ORDER BY id LOCK IN SHARE MODE",
    "SELECT f_write{c}({i})",
    "TRUNCATE t{c}",
    "INSERT INTO app.t{c} (v) VALUES (@@sql_mode)",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE t{c} (v)",
];

const SETTINGS: &[&str] = &[
    "SET NAMES latin1",
    "SET NAMES utf8mb4",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET CHARACTER SET latin1",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SET sql_mode = ''",
    "SET sql_mode = DEFAULT",
    "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE'",
    "SET @@session.sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",
    "SET time_zone = '+03:00'",
    "SET time_zone = DEFAULT",
    "SET time_zone = 'nowhere'",
    "USE app",
    "USE other",
    "USE app",
    "USE nowhere",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET autocommit = 1",
    "SET SESSION TRANSACTION READ ONLY",
    "SET SESSION TRANSACTION READ WRITE",
    "SET TRANSACTION READ ONLY",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION group_concat_max_len = 77",
    "SET @@group_concat_max_len = DEFAULT",
    "SET sql_select_limit = 1",
    "SET sql_select_limit = DEFAULT",
    "SET sql_safe_updates = 1",
    "SET sql_safe_updates = 0, unique_checks = 0",
    "SET foreign_key_checks = 0",
    "SET foreign_key_checks = 1",
    "SET character_set_results = NULL",
    "SET collation_connection = utf8mb4_bin",
    "SET div_precision_increment = 2",
    "SET lc_time_names = 'de_DE'",
    "SET @@session.wait_timeout = 500",
    "SET SESSION max_join_size = 1000",
    "SET max_join_size = DEFAULT",
    "SET sql_notes = 0",
    "SET max_error_count = 1",
    "SET max_error_count = DEFAULT, sql_notes = DEFAULT",
    "SET auto_increment_increment = 5",
    "SET default_week_format = 3",
    "SET sql_quote_show_create = 0",
    "SET optimizer_switch = 'index_merge=off'",
    "SET sql_auto_is_null = 1",
    "SET GLOBAL max_connections = 7",
    "SET nothing = 1",
    "SET sql_log_bin = 0",
];

/// What another client left would be seen here.
pub const LOOKS: &[&str] = &[
    "SELECT @@character_set_client, @@collation_connection, @@character_set_results",
    "SELECT @@sql_mode, @@time_zone, DATABASE()",
    "SELECT @@autocommit, @@foreign_key_checks, @@unique_checks, @@sql_safe_updates",
    "SELECT @@group_concat_max_len, @@sql_select_limit, @@max_join_size, @@wait_timeout",
    "SELECT DATE_FORMAT('2020-03-01', '%M'), 1 / 3, 'a' = 'A', WEEK('2020-03-01')",
    "SELECT @@auto_increment_increment, @@sql_notes, @@max_error_count, @@sql_quote_show_create",
    "SELECT @a, @b, @fv, @tv",
    "SELECT CURRENT_ROLE(), CURRENT_USER(), USER() LIKE 'app@%'",
    "SHOW VARIABLES LIKE 'sql_mode'",
    "SHOW VARIABLES LIKE 'group_concat%'",
    "SELECT count(*) FROM tmp",
    "SELECT GROUP_CONCAT(REPEAT(v, 20) ORDER BY id) FROM fixed",
    "SELECT IS_FREE_LOCK('gl'), IS_FREE_LOCK('fl')",
    "SELECT @@default_week_format, @@sql_auto_is_null, @@div_precision_increment",
];

/// What the statement before has left; some leave something to ask for.
const QUESTIONS: &[&str] = &[
    "SHOW WARNINGS",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW COUNT(*) WARNINGS",
    "SELECT @@warning_count",
    "SELECT @@error_count",
    "SELECT ROW_COUNT()",
    "SELECT ROW_COUNT() + 1",
    "SELECT FOUND_ROWS()",
    "SELECT FOUND_ROWS()",
    "SELECT LAST_INSERT_ID()",
    "SELECT @@last_insert_id, @@identity",
    "SELECT CAST('x' AS SIGNED)",
    "SELECT 1 / 0",
    "SELECT CAST('x' AS SIGNED), v FROM fixed ORDER BY id LIMIT 2",
    "INSERT IGNORE INTO t{c} VALUES (1, REPEAT('y', 99), 0)",
    "DROP TABLE IF EXISTS nowhere",
    "SELECT SQL_CALC_FOUND_ROWS id FROM fixed ORDER BY id LIMIT 2",
    "SELECT id FROM t{c} ORDER BY id LIMIT 2",
];

pub const BEGINS: &[&str] = &[
    "BEGIN",
    "BEGIN",
    "START TRANSACTION",
    "START TRANSACTION READ ONLY",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
];

pub const ENDS: &[&str] = &[
    "COMMIT",
    "COMMIT",
    "COMMIT WORK",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "ROLLBACK TO a",
    "ROLLBACK TO SAVEPOINT b",
    "RELEASE SAVEPOINT a",
    "BEGIN",
    "SET TRANSACTION READ ONLY",
    "SET autocommit = 1",
];

const MISTAKES: &[&str] = &[
    "SELEC 1",
    "SELECT nothing",
    "SELECT * FROM nowhere",
    "SELECT no_function(1)",
    "SELECT 'open",
    "SELECT 'a\\'; SELECT 'b'",
    "INSERT INTO t{c} VALUES (1, 'twice', 0), (1, 'twice', 0)",
    "CREATE TABLE t{c} (x INT)",
    "SELECT ?",
    "SET",
    "BEGIN nonsense",
    "KILL 0",
    "SELECT (SELECT id FROM fixed)",
    "DROP USER nobody",
];

const DEFINITIONS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS made{c} (id INT PRIMARY KEY, v VARCHAR(20))",
    "CREATE TABLE made{c} AS SELECT id, v FROM fixed",
    "SELECT * FROM made{c} ORDER BY 1, 2",
    "INSERT INTO made{c} VALUES (1, 'one')",
    "DROP TABLE IF EXISTS made{c}",
    "ALTER TABLE t{c} COMMENT = '{w}'",
    "CREATE OR REPLACE VIEW made_view{c} AS SELECT id FROM t{c}",
    "SELECT id FROM made_view{c} ORDER BY 1",
    "DROP VIEW IF EXISTS made_view{c}",
    "RENAME TABLE made{c} TO app.made_again{c}",
    "ANALYZE TABLE t{c}",
    "FLUSH TABLES t{c}",
];

/// Rows that all clients may lock.
const SHARED: &[&str] = &[
    "SELECT id FROM shared WHERE id = {i} FOR UPDATE NOWAIT",
    "SELECT id FROM shared ORDER BY id FOR UPDATE SKIP LOCKED",
];

const VARIABLES: &[&str] = &[
    "SET @a = 4",
    "SET @a = {i}, @b = '{w}'",
    "SELECT @a",
    "SELECT @a := 8",
    "SELECT @b, @fv",
    "SELECT 5 INTO @a",
    "SELECT v INTO @b FROM fixed WHERE id = {i}",
    "SET @a = (SELECT count(*) FROM t{c})",
    "SELECT f_var()",
    "INSERT INTO trg{c} VALUES ({i})",
    "SELECT @tv",
    "SET @a = ROW_COUNT()",
    "GET DIAGNOSTICS @b = NUMBER",
    "GET DIAGNOSTICS CONDITION 1 @b = MESSAGE_TEXT",
    "SELECT LAST_INSERT_ID(33)",
];

const TEMPORARY: &[&str] = &[
    "CREATE TEMPORARY TABLE tmp (n INT)",
    "CREATE TEMPORARY TABLE IF NOT EXISTS tmp (n INT)",
    "CREATE TEMPORARY TABLE app.tmp SELECT id AS n FROM fixed",
    "CREATE TEMPORARY TABLE fixed (id INT, v VARCHAR(9))",
    "INSERT INTO tmp VALUES (1), (2)",
    "SELECT count(*) FROM tmp",
    "SELECT count(*) FROM fixed",
    "SELECT count(*) FROM ptmp",
    "ALTER TABLE tmp ADD COLUMN m INT",
    "DROP TEMPORARY TABLE tmp",
    "DROP TEMPORARY TABLE IF EXISTS tmp, fixed, ptmp",
    "DROP TABLE IF EXISTS tmp",
];

const NAMED_LOCKS: &[&str] = &[
    "SELECT GET_LOCK('gl', 0)",
    "SELECT GET_LOCK('gl', 0)",
    "SELECT RELEASE_LOCK('gl')",
    "SELECT IS_FREE_LOCK('gl')",
    "SELECT f_lock()",
    "SELECT IS_USED_LOCK('fl') = CONNECTION_ID()",
    "SELECT RELEASE_LOCK('fl')",
    "SELECT RELEASE_ALL_LOCKS()",
    "DO GET_LOCK('l{c}', 0)",
    "DO RELEASE_LOCK('l{c}')",
];

const PREPARED: &[&str] = &[
    "PREPARE p FROM 'SELECT 1 + ?'",
    "PREPARE p FROM 'INSERT INTO t{c} (v) VALUES (?)'",
    "SET @a = 2",
    "EXECUTE p USING @a",
    "EXECUTE p",
    "DEALLOCATE PREPARE p",
    "EXECUTE pp",
    "CALL p_prepare()",
];

const ROUTINES: &[&str] = &[
    "CALL p_temp()",
    "CALL p_zone()",
    "CALL p_mode()",
    "CALL p_var()",
    "CALL p_autocommit()",
    "CALL p_write{c}({i})",
    "CALL p_out(@a, @b)",
    "CALL p_fail()",
    "CALL p_warn()",
    "CALL app.p_rows{c}()",
    "CALL nothing()",
    "SELECT f_write{c}({i}), f_var()",
];

const DISTRIBUTED: &[&str] = &[
    "XA START 'x{c}'",
    "XA END 'x{c}'",
    "XA PREPARE 'x{c}'",
    "XA COMMIT 'x{c}'",
    "XA COMMIT 'x{c}' ONE PHASE",
    "XA ROLLBACK 'x{c}'",
    "INSERT INTO t{c} (v) VALUES ('xa')",
];

const HANDLERS: &[&str] = &[
    "HANDLER t{c} OPEN",
    "HANDLER t{c} READ FIRST",
    "HANDLER t{c} READ NEXT",
    "HANDLER t{c} CLOSE",
];

const TABLE_LOCKS: &[&str] = &[
    "LOCK TABLES t{c} WRITE, fixed READ",
    "LOCK TABLES t{c} READ",
    "UNLOCK TABLES",
    "UNLOCK TABLES",
    "SELECT count(*) FROM fixed",
];

/// Of one connection, or with an effect on what follows.
const ODD_SETTINGS: &[&str] = &[
    "SET insert_id = 5{i}00",
    "SET last_insert_id = {i}",
    "SET timestamp = 1000",
    "SET timestamp = DEFAULT",
    "SELECT UNIX_TIMESTAMP() = 1000",
    "SET completion_type = 1",
    "SET completion_type = 0",
    "SET @@rand_seed1 = 5, @@rand_seed2 = 6",
    "SELECT RAND() < 1",
    "SET session_track_schema = 0",
    "SET lc_time_names = 'ja_JP', @a = 'é'",
];

/// No server forgets them at COM_RESET_CONNECTION, the proxy does.
pub const ROLES: &[&str] = &[
    "SET ROLE soak_role",
    "SET ROLE NONE",
    "CALL p_role()",
    "SELECT CURRENT_ROLE(), CURRENT_USER()",
];

const ON_MYSQL: &[&str] = &[
    "SELECT /*+ SET_VAR(group_concat_max_len = 99) */ @@group_concat_max_len",
    "SET SESSION max_execution_time = 0",
    "SELECT id FROM t{c} ORDER BY id FOR SHARE",
    "SET SESSION transaction_isolation = 'READ-UNCOMMITTED'",
    "SELECT @@transaction_isolation, @@transaction_read_only",
    "SET transaction_isolation = DEFAULT, transaction_read_only = DEFAULT",
    "TABLE fixed ORDER BY id LIMIT 2",
    "VALUES ROW(1, 'a'), ROW(2, NULL)",
    "SET sql_generate_invisible_primary_key = 0",
    "SELECT /*!80000 1 + */ 1",
    "SELECT STATEMENT_DIGEST_TEXT('SELECT 1')",
];

const ON_MARIADB: &[&str] = &[
    "SET STATEMENT group_concat_max_len = 99 FOR SELECT @@group_concat_max_len",
    "SELECT NEXTVAL(sq{c})",
    "SELECT LASTVAL(sq{c})",
    "SELECT NEXT VALUE FOR app.sq{c}",
    "SELECT SETVAL(sq{c}, {i}00)",
    "SET max_statement_time = 50",
    "SELECT @@max_statement_time, @@tx_isolation, @@tx_read_only",
    "SET tx_isolation = 'READ-UNCOMMITTED'",
    "EXECUTE IMMEDIATE 'SET @a = 6'",
    "BEGIN NOT ATOMIC SET @a = 7; END",
    "SET sql_mode = 'ORACLE'",
    "INSERT INTO t{c} (v) VALUES ('{w}') RETURNING id, v",
    "DELETE FROM t{c} WHERE id = {i} RETURNING id",
    "CREATE OR REPLACE TEMPORARY TABLE tmp (n INT)",
    "SELECT /*M! 1 + */ 1",
    "SELECT id FROM t{c} ORDER BY id OFFSET 1 ROWS FETCH FIRST 2 ROWS ONLY",
    "SET skip_replication = 0",
];

/// What is prepared by the protocol; the number of values is that of the question marks.
pub const BINARY: &[&str] = &[
    "SELECT ? + 1",
    "SELECT ?",
    "SELECT v FROM fixed WHERE id = ?",
    "SELECT id, v FROM fixed WHERE id > ? ORDER BY id",
    "SELECT id, v FROM t{c} WHERE id > ? ORDER BY id",
    "SELECT CHAR_LENGTH(f_read(?))",
    "INSERT INTO t{c} (v) VALUES (?)",
    "INSERT INTO t{c} VALUES (?, ?, 0) ON DUPLICATE KEY UPDATE v = 'again'",
    "UPDATE t{c} SET v = ? WHERE id = ?",
    "DELETE FROM t{c} WHERE id = ?",
    "SELECT count(*) FROM tmp",
    "SELECT @a, CAST(? AS CHAR)",
    "SET @a = ?",
    "SET time_zone = ?",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SELECT \"id\" FROM fixed ORDER BY 1 LIMIT 1",
    "SELECT @@sql_mode, DATABASE()",
    "BEGIN",
    "COMMIT",
    "SHOW WARNINGS",
    "SELECT ROW_COUNT()",
    "SELECT FOUND_ROWS()",
    "SELECT LAST_INSERT_ID()",
    "SELECT SQL_CALC_FOUND_ROWS id FROM fixed LIMIT ?",
    "SELECT CAST(? AS SIGNED)",
    "SELECT GET_LOCK('gl', 0)",
    "CALL p_out(?, ?)",
    "CALL p_write{c}(?)",
    "SELECT id FROM t{c} WHERE id = ? FOR UPDATE",
    "SELEC ?",
    "SELECT * FROM nowhere",
    "USE other",
    "SELECT v FROM fixed LIMIT 1",
];
