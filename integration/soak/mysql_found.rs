//! Scripts for MySQL and MariaDB in which random sessions have found a defect.

pub const FOUND: &[&str] = &[
    // No server forgets a role at COM_RESET_CONNECTION, and MySQL's trackers do not tell of it.
    "narrow clients=2
0 Q SET ROLE soak_role
0 G
1 Q BEGIN
1 Q SELECT CURRENT_ROLE()",
    "narrow clients=2
0 Q CALL p_role()
0 N app
1 Q BEGIN
1 Q SELECT CURRENT_ROLE()",
    // What an open cursor keeps must be able to write.
    "wide clients=2
0 P SELECT id FROM fixed WHERE id > ?
0 K 1 1
0 Q UPDATE t0 SET n = 4
0 T 1 2
1 P SELECT ?
1 L 1 0 abc
1 Q UPDATE t1 SET n = 4
1 E 1 long",
    // Variables that a statement sets for itself are told with its reply, and again with the next.
    "narrow clients=2
0 Q SELECT id FROM shared WHERE id = 2 FOR UPDATE NOWAIT
1 Q SELECT @@lock_wait_timeout
0 Q UPDATE t0 SET n = 5
1 Q COMMIT",
    "narrow clients=2
0 Q SET STATEMENT group_concat_max_len = 99 FOR SELECT count(*) FROM fixed
0 Q SELECT /*+ SET_VAR(group_concat_max_len = 99) */ count(*) FROM fixed
0 Q UPDATE t0 SET n = 5
1 Q SELECT @@group_concat_max_len
1 Q UPDATE t1 SET n = 5
0 Q SELECT @@group_concat_max_len",
    "narrow clients=2
0 Q SET STATEMENT group_concat_max_len = 99 FOR SELECT 1; SELECT 2; SELECT 3
0 Q UPDATE t0 SET n = 5
0 Q SELECT @@group_concat_max_len",
    // A replica that was kept for its warnings does not get a write that also asks for something.
    "wide clients=2
0 Q SELECT CAST('x' AS SIGNED), v FROM fixed ORDER BY id LIMIT 2
0 Q SELECT @@last_insert_id; UPDATE t0 SET v = 'y'",
    // What the proxy knows has the type that the server gives it.
    "narrow clients=2
0 Q UPDATE t0 SET v = 'x'
1 Q UPDATE t1 SET v = 'x' WHERE id = 1
0 Q SELECT ROW_COUNT()
1 Q SELECT 1
1 Q SELECT ROW_COUNT()",
    // A read-only transaction on a replica ends with what only the primary can run.
    "wide clients=2
0 Q START TRANSACTION READ ONLY
0 Q SELECT count(*) FROM fixed
0 Q CREATE TABLE made0 (x INT)
0 Q START TRANSACTION READ ONLY
0 Q SELECT count(*) FROM fixed
0 Q START TRANSACTION
0 Q UPDATE t0 SET v = 'x'
0 Q ROLLBACK
0 Q START TRANSACTION READ ONLY
0 Q SELECT count(*) FROM fixed
0 Q ROLLBACK; SELECT f_lock()
0 Q SELECT RELEASE_LOCK('fl')",
    // What is held for questions about warnings is not held for a reset.
    "narrow clients=2
0 P SELECT CAST(? AS SIGNED)
0 E 1 'x'
0 R 1
0 A 1 2",
    // A statement that the held connection has not been given yet has no cursor.
    "wide clients=2
0 P SELECT @a, ?
0 Q SET @a = 2
0 T 1 2",
    // A statement that is not there is an error like others, and is asked about.
    "narrow clients=2
0 E 1
0 Q SHOW WARNINGS
0 P SELECT ?
0 T 1 1
0 Q SHOW ERRORS
0 C 1
0 R 1
0 Q SELECT @@error_count, ROW_COUNT()
0 Q SET @a = 1
0 T 1 1
0 Q SHOW WARNINGS
0 Q SELECT ROW_COUNT()",
    // What is no statement changes no row.
    "narrow clients=3
0 Q SELECT v FROM app.t0 ORDER BY id
0 P INSERT INTO t0 (v) VALUES (?)
0 R 1
0 Q SELECT ROW_COUNT()
0 Q SELECT 1
0 I
0 Q SELECT ROW_COUNT() + 1
0 Q SELECT 1
0 U other
0 Q SELECT ROW_COUNT()
0 U nowhere
0 Q SHOW ERRORS
0 Q SELECT ROW_COUNT()",
    // A read-only transaction that has read nothing begins again where locks can be taken.
    "wide clients=2
1 Q START TRANSACTION READ ONLY
1 Q SELECT f_lock()
1 Q SELECT RELEASE_LOCK('fl')
1 Q UPDATE t1 SET n = 4
1 Q COMMIT",
    // What ends it within a procedure does so there as well.
    "wide clients=3
2 Q START TRANSACTION READ ONLY
2 Q SET time_zone = '+03:00'
2 Q CALL p_zone()
2 Q DROP TABLE IF EXISTS tmp
2 Q SELECT @@time_zone
1 Q SHOW ERRORS",
    "wide clients=2
0 Q START TRANSACTION READ ONLY
0 Q SELECT count(*) FROM fixed
0 Q UPDATE t0 SET n = 4
0 Q SELECT f_write0(1)
0 Q SELECT count(*) FROM fixed
0 Q COMMIT",
    // What is no statement leaves what FOUND_ROWS() gives, and where.
    "wide clients=2
0 Q SELECT t.v, f.v FROM t0 t JOIN fixed f USING (id) ORDER BY 1, 2
0 A 1 'x' 1
0 Q SELECT FOUND_ROWS()",
    "narrow clients=2
1 P SELECT SQL_CALC_FOUND_ROWS id FROM fixed LIMIT ?
1 E 1 2
1 R 1
1 Q SELECT FOUND_ROWS()",
    // No other session meets a connection on which texts have one statement.
    "narrow clients=3
2 Q START TRANSACTION
2 O 1
2 Q ROLLBACK
1 Q DROP TABLE IF EXISTS tmp; SELECT 1
2 Q SELECT 1; SELECT 2",
    // What a text asks about its own statements is not asked about the one before.
    "wide clients=2
0 Q SELECT 1
1 Q UPDATE t1 SET n = 3
0 Q UPDATE t0 SET n = 1; SELECT ROW_COUNT()
1 Q SELECT id FROM fixed ORDER BY id LIMIT 2; SELECT FOUND_ROWS()
0 Q SELECT id FROM fixed ORDER BY id LIMIT 2
1 Q UPDATE t1 SET n = 4
0 Q UPDATE t0 SET n = 2 WHERE id < 4; SELECT ROW_COUNT() + 1",
    // What a procedure's parameters are is no row that was found.
    "wide clients=2
0 Q SELECT id FROM fixed ORDER BY id LIMIT 2
0 P SELECT FOUND_ROWS()
0 P CALL p_out(?, ?)
0 E 2 2 null
0 E 1",
    // TRUNCATE ends a read-only transaction, as DDL does, and runs on the primary.
    "narrow clients=3
2 Q START TRANSACTION READ ONLY
2 Q SELECT id FROM fixed
2 Q TRUNCATE t2",
    // A statement that the connection does not have has no cursor, also where it cannot be prepared.
    "wide clients=2
1 P UPDATE t1 SET v = ? WHERE id = ?
1 Q START TRANSACTION READ ONLY
1 T 1 2",
    // A text of several statements without rows has found none: what was found before is not there.
    "narrow clients=2
0 Q INSERT INTO t0 (v) VALUES ('x')
1 Q INSERT INTO t1 (v) VALUES ('x')
0 Q SELECT id FROM fixed ORDER BY id LIMIT 2
1 Q UPDATE t1 SET n = 1 LIMIT 1; UPDATE t1 SET n = 2 LIMIT 1
0 Q ROLLBACK; SET auto_increment_increment = 5
0 Q SELECT FOUND_ROWS()",
    // What is prepared again on another connection is read there as it was at first.
    "wide clients=2
0 P SELECT ?
0 P SELECT \"v\", 'a\\b' FROM fixed WHERE id = ?
0 Q SET collation_connection = utf8mb4_bin
0 E 1 'x'
0 Q SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'
0 E 2 1
0 Q INSERT INTO t0 (v) VALUES ('x')
0 E 1 'x'
0 E 2 1
0 P SELECT \"v\", 'a\\b' FROM fixed WHERE id = ?
0 Q SET sql_mode = ''
0 E 3 1
0 E 2 1
0 Q UPDATE t0 SET n = 1 WHERE id = 2
0 E 3 1
0 E 2 1
0 Q SELECT @@sql_mode, @@collation_connection, \"v\"",
    // What SET TRANSACTION has said waits for a transaction: SAVEPOINT without one is none, nor is
    // what touches no table.
    "wide clients=2
1 Q SET TRANSACTION READ ONLY
1 O 1
1 Q SAVEPOINT a
1 Q UPDATE t1 SET n = n + 1 WHERE id = 5
0 Q SET TRANSACTION READ ONLY
0 Q SET NAMES latin1
0 O 1
0 Q SELECT COUNT(*) > 0 FROM information_schema.schemata
0 Q SELECT IS_FREE_LOCK('nobody')
0 Q UPDATE t0 SET n = n + 1 WHERE id = 5",
    // Also if its text has failed behind it.
    "wide clients=2
0 Q SET TRANSACTION READ ONLY; SELECT nothing
0 O 1
0 Q UPDATE t0 SET n = n + 1 WHERE id = 5
0 Q UPDATE t0 SET n = n + 1 WHERE id = 5",
    // A question that sets a variable keeps its connection, which must not be a replica's then.
    "narrow clients=2
0 Q SELECT SQL_CALC_FOUND_ROWS id FROM fixed ORDER BY id LIMIT 2
0 Q GET DIAGNOSTICS CONDITION 1 @b = MESSAGE_TEXT
0 P UPDATE t0 SET v = ? WHERE id = ?
0 E 1 'x' 2",
    // A cursor that is left open on a replica keeps no write there.
    "wide clients=2
1 P SELECT id FROM fixed WHERE id > ?
1 Q START TRANSACTION READ ONLY
1 Q SELECT count(*) FROM fixed
1 K 1 1
1 Q DROP TABLE IF EXISTS made1
1 Q START TRANSACTION READ ONLY
1 Q SELECT count(*) FROM fixed
1 K 1 1
1 Q COMMIT
1 Q UPDATE t1 SET n = 7
1 Q SELECT count(*) FROM t1 WHERE n = 7",
    // A text that begins to read only, and then once more, does not.
    "narrow clients=3
2 Q START TRANSACTION READ ONLY; BEGIN; SET TRANSACTION READ ONLY
2 Q DROP TABLE IF EXISTS nowhere",
    // Types that came with values that cannot be read, the server does not know.
    "narrow clients=3
1 P SELECT ?
1 E 1 2
1 P CALL p_write1(?)
1 E 2 'x'
1 A 1 'x'
1 A 1 1",
    // A question by a statement that is read again by other variables than those of now.
    "wide clients=2
0 P SELECT ROW_COUNT()
0 Q SET sql_mode = 'NO_BACKSLASH_ESCAPES'
0 Q SELECT id FROM shared WHERE id = 8 FOR UPDATE NOWAIT
0 A 1",
    // Behind a question that the proxy has refused, the statement before it is not the last one.
    "wide clients=2
1 Q SET @b = 1
1 Q UPDATE t1 SET n = 4 WHERE id = 1
1 Q SELECT FOUND_ROWS()
1 Q SELECT ROW_COUNT()
1 Q SELECT ROW_COUNT() + 1",
    // What is prepared on another connection takes the errors of the statement before with it.
    "narrow clients=2
0 P SET time_zone = ?
0 E 1 'x'
0 P SELECT ?
0 Q SHOW ERRORS
0 E 1 'x'
0 P SELECT id FROM fixed WHERE id > ?
0 Q SHOW ERRORS
0 E 1 'x'
0 Q SHOW ERRORS",
];
