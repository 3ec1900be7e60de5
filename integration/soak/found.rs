//! Scripts for PostgreSQL in which random sessions have found a defect.

pub const FOUND: &[&str] = &[
    // A transaction that has failed is rolled back by PREPARE TRANSACTION, and the role with it.
    "narrow user=superuser clients=2
@1 send
Q BEGIN
Q SET ROLE soak_role
Q SELECT 1 / 0
Q PREPARE TRANSACTION 'g1'
@1 send
P - - /* tiffin: replica */ FETCH 2 FROM c2
S",
    // Of a custom setting with a name that no text has told only its connection knows.
    "wide user=app clients=2
@0 send
Q SELECT f_set('soak.b', 'f')
@0 send
Q CREATE INDEX IF NOT EXISTS made_index0 ON t0 (v); BEGIN nonsense
@0 send
Q SELECT coalesce(current_setting('soak.b', true), '')",
    // Columns are compared before the request, but not in a transaction that fails meanwhile.
    "narrow user=app clients=2
@0 send
P s1 - SELECT current_user
D S s1
S
@1 send
Q CREATE TABLE made1 (x int)
@1 send
Q DISCARD ALL
@0 send
Q BEGIN ISOLATION LEVEL REPEATABLE READ
@0 send
E p1 2
S
C S s9
B p2 s1 text []
E p2 0
S",
    // A temporary table hides another one, from statements that were prepared before as well, also
    // on a connection that has had temporary tables.
    "narrow user=app clients=2
@1 send
Q CREATE TEMP TABLE tt1 (x int)
@1 send
Q DISCARD ALL
@0 send
P s1 - /* tiffin: primary */ SELECT id, v FROM t1 WHERE id > 0 ORDER BY id
B - s1 text []
E - 0
S
@0 send
Q CREATE TEMP TABLE t1 (x int)
@0 send
B - s1 text []
E - 0
S",
    // A ROLLBACK without a block takes back what its text has done.
    "narrow user=app clients=1
@0 send
Q SELECT 1; SET ROLE soak_role; SET work_mem = '3MB'; ROLLBACK
@0 send
P - - SET ROLE soak_role
B - - text []
E - 0
P - - ROLLBACK
B - - text []
E - 0
S
@0 send
Q SELECT current_user, session_user, current_setting('work_mem')",
    // No rollback brings back what DEALLOCATE has taken away.
    "wide user=app clients=1
@0 send
P s1 - SELECT 1
S
@0 send
P - - DEALLOCATE ALL
B - - text []
E - 0
P - - SELECT 1 / 0
B - - text []
E - 0
S
@0 send
D S s1
S",
    // No replica has SERIALIZABLE transactions, however a transaction becomes one.
    "narrow user=app clients=1
@0 send
Q BEGIN READ ONLY
@0 send
P - - BEGIN ISOLATION LEVEL SERIALIZABLE
B p1 - text []
E p1 0
S
@0 send
Q SELECT count(*) FROM fixed",
    // A transaction that is chained to a failed one has none of its modes.
    "narrow user=app clients=1
@0 send
Q BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY
@0 send
Q SELECT 1 / 0
@0 send
Q ROLLBACK AND CHAIN
@0 send
Q CREATE TABLE made0 (x int)
@0 send
Q ROLLBACK",
    // What DISCARD ALL drops of the start-up values is back at once, and stays if the rest fails.
    "wide user=app clients=1
@0 connect client_encoding=LATIN1 default_transaction_isolation=repeatable\\sread
@0 send
P - - DISCARD ALL
B - - binary []
E - 0
P - - BEGIN ISOLATION LEVEL SERIALIZABLE
B p2 - text []
E p2 0
S
@0 send
Q COPY made0 FROM STDIN
@0 send
P - - DISCARD ALL
B - - text []
E - 0
P - - SHOW transaction_isolation
B - - text []
E - 0
S",
    // One DISCARD ALL after the other is no pipeline to a server.
    "narrow user=app clients=1
@0 connect client_encoding=LATIN1
@0 send
P - - DISCARD ALL
B - - text []
E - 0
B p2 - text []
E p2 0
S",
    // A name stays taken by a statement that would be refused by now.
    "wide user=app clients=3
@2 send
P s3 23,25 INSERT INTO t2 VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v
@2 send
Q CREATE TEMP TABLE t2 (x int)
@2 send
P s3 23,25 UPDATE t2 SET v = $2 WHERE id = $1 RETURNING id, v
B p2 s3 binary []
S
P s3 - SELECT 1
S",
    // A description of what has no result needs no tables.
    "narrow user=superuser clients=2
@1 send
P s2 23,25 INSERT INTO t1 VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v
@1 send
Q CREATE TEMP TABLE t1 (x int)
@1 send
D S s2
S",
    // DISCARD ALL is its own transaction: a ROLLBACK behind it takes nothing of it back.
    "narrow user=superuser clients=2
@0 send
P - - SELECT set_config('application_name', lower('b c'), false)
B p1 - binary []
E p1 0
S
P - - DISCARD ALL
B p2 - text []
E p2 0
P - - ROLLBACK
B - - text []
E - 0
S
@0 send
Q ROLLBACK",
    // What keeps its connection does so as well before a transaction that only reads.
    "narrow user=app clients=1
@0 send
Q /* tiffin: replica */ LISTEN n1; BEGIN READ ONLY; SELECT count(*) FROM fixed",
    // A start-up value that was reset is back behind a question for other settings.
    "narrow user=app clients=1
@0 connect TimeZone=Asia/Tokyo
@0 send
Q INSERT INTO t0 VALUES (9, 'word'); RESET TimeZone; SELECT set_config('DateStyle', lower('SQL, DMY'), false)
@0 send
Q SHOW TimeZone
@0 send
Q SHOW TimeZone",
    // A RESET ALL in a transaction that fails changes nothing.
    "wide user=app clients=1
@0 connect application_name=start
@0 send
Q SET SESSION application_name TO 'b c'
@0 send
P - - BEGIN ISOLATION LEVEL REPEATABLE READ
B p2 - text []
E p2 2
@0 send
P - - RESET ALL
B - - text []
E - 2
E - 2
S
@0 send
Q ROLLBACK
@0 send
Q SHOW application_name",
    // Nothing of the proxy's own takes a snapshot before the client does.
    "narrow user=superuser clients=2
@0 send
Q CREATE TEMP TABLE tt2 ON COMMIT DELETE ROWS AS SELECT 1 AS x
P - - -- nothing
@0 send
Q SET TRANSACTION ISOLATION LEVEL REPEATABLE READ
@0 send
S
@0 send
Q CREATE TEMP TABLE tt1 (x int)
@0 send
Q BEGIN
@0 send
P - - SET TRANSACTION ISOLATION LEVEL REPEATABLE READ
B - - text []
E - 0
S
@0 send
Q COMMIT",
    // Nor does it make a pipeline of what is none.
    "narrow user=app clients=2
@0 send
P - - SELECT f_temp()
B p1 - text []
E p1 0
S
@0 send
P - - DISCARD ALL
H
B p1 - text []
E p1 0
S",
    // What follows a failed transaction may write, however that one began.
    "wide user=app clients=1
@0 send
Q SET application_name TO 'x'; START TRANSACTION READ ONLY; SELECT id FROM t0 ORDER BY id
@0 send
Q SELECT 1 / 0
@0 send
Q ROLLBACK AND CHAIN
@0 send
Q SELECT id FROM t0 ORDER BY id FOR UPDATE
@0 send
Q ROLLBACK",
    // Nor is a transaction behind the end of a read-only one in its text.
    "wide user=app clients=2
@1 send
Q BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY
Q SET ROLE soak_role
@1 send
Q COMMIT; BEGIN; SET SESSION AUTHORIZATION app; SHOW transaction_read_only",
    // The end of the failed one may come by Execute, behind what failed in the same breath.
    "narrow user=app clients=3
@2 send
Q BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY
@2 send
Q ROLLBACK TO a
P - - COMMIT AND CHAIN
B p1 - text []
E p1 0
S
@2 send
Q DELETE FROM t2 WHERE id = 9",
    // Which names a statement has is not asked of the one that is parsed behind its use.
    "wide user=app clients=2
@1 send
Q CREATE TEMP TABLE tt1 (x int) ON COMMIT DROP
@1 send
P - - DISCARD ALL
H
B - - text []
E - 0
P - - SELECT f_raise('word')
S",
    // No replica is told that a transaction may write, also where there is none.
    "wide user=app clients=3
@2 send
P - - BEGIN READ ONLY
B p2 - text []
P - - SET TRANSACTION READ WRITE
B - - text []
E - 0
S",
    // A transaction does not leave a replica for a portal without a name that is only there.
    "wide user=app clients=2
@0 send
Q BEGIN READ ONLY
@0 send
P s3 23 SELECT v FROM fixed WHERE id = $1
B - s3 text [\"1\"]
E - 0
S
E - 2
B - s1 text [\"-1\"]
S",
    // Behind a query nothing sets a transaction's modes, also not in one text with a write.
    "wide user=app clients=1
@0 send
Q BEGIN READ ONLY
Q SELECT v FROM fixed WHERE id = 1
@0 send
Q SET TRANSACTION READ WRITE; DELETE FROM t2 WHERE id = 9
@0 send
Q COMMIT",
    // What comes behind the end of the transaction is not of it.
    "wide user=app clients=1
@0 send
Q BEGIN READ ONLY
Q SELECT v FROM fixed WHERE id = 1
@0 send
Q COMMIT; SET TRANSACTION READ WRITE",
    // A failed transaction does not end behind something else, and keeps its portals.
    "wide user=app clients=2
@0 send
Q BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY
@0 send
P s2 - SET work_mem = '6MB'
B p1 s2 text []
E - 2
S
@0 send
Q SELECT f_set('soak.b', 'f'); SELECT f_read(5); COMMIT
@0 send
E p1 2
S
D S s2
S",
    // What a request may meet by its name is made before the request changes what its text means.
    "wide user=app clients=2
@1 send
P s3 - DELETE FROM t1 WHERE id = $1
@1 send
P - - CREATE TEMP TABLE t1 (x int)
B - - text []
E - 0
P - - SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name
S",
    // In a transaction block the proxy's own question fails alone.
    "wide user=app clients=2
@1 send
P s3 - DELETE FROM t1 WHERE id = $1
S
Q BEGIN
Q CREATE TEMP TABLE t1 (x int)
P - - SELECT x FROM t1
B p1 - text []
E p1 1
S
@1 send
Q SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name
E p1 1
S
@1 send
P - - SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name
B - - text []
E - 0
E p1 1
S
@1 send
Q FAIL
Q SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name
@1 send
Q ROLLBACK
Q SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name",
    // The first request of a read-only transaction ends it: what comes behind it is routed anew.
    "wide user=app clients=1
@0 send
Q BEGIN READ ONLY
@0 send
P - - COMMIT
B p1 - text []
E p1 0
S
P - - INSERT INTO t1 VALUES (77777)
B - - text []
E - 0
S
@0 send
Q BEGIN READ ONLY
@0 send
P - - COMMIT
B p1 - text []
E p1 0
S
P - - BEGIN ISOLATION LEVEL SERIALIZABLE
B - - text []
E - 0
S
Q COMMIT",
    // The proxy's own DISCARD PLANS leaves the client its unnamed portal.
    "narrow user=app clients=1
@0 send
P s1 - SELECT v FROM fixed WHERE id = $1
S
@0 send
Q BEGIN
@0 send
P - - SELECT v FROM fixed ORDER BY id
B - - text []
E - 1
P s9 - CREATE TEMP TABLE tmpx (x int)
B p2 s9 text []
E p2 0
S
@0 send
E - 1
B p3 s1 text [\"1\"]
E p3 0
S",
    // A list of no names is another one than a list of one without a letter.
    "narrow user=app clients=2
@0 send
Q SELECT set_config('search_path', '', false)
@0 send
Q SHOW search_path
@1 send
Q SHOW search_path
@0 send
Q SHOW search_path
@1 send
Q SHOW search_path
@0 send
Q SHOW search_path",
    // What only the primary answers rightly takes its request there, whatever another statement asks.
    "narrow user=app clients=2
@1 send
P - - /* tiffin: replica */ SELECT v FROM fixed
P - - SHOW transaction_read_only
B p1 - binary []
E p1 0
S
@1 send
P - - /* tiffin: replica */ SELECT v FROM fixed
B - - text []
E - 0
P - - SHOW transaction_read_only
B - - text []
E - 0
S",
    // A read-only transaction fails before its end has come to the server: what is behind that writes.
    "narrow user=app clients=2
@0 send
P - - BEGIN READ ONLY
B - - text []
E - 0
S
P - - SET nonsense = 1
B - - binary []
E - 0
S
P - - COMMIT AND CHAIN
B - - text []
E - 0
P - - INSERT INTO t0 SELECT g, '' FROM generate_series(20, 29) g ON CONFLICT DO NOTHING
B - - text []
E - 0
S
@0 send
Q COMMIT",
    // A read-only transaction ends in a request that goes on with a write.
    "wide user=app clients=1
@0 send
Q BEGIN READ ONLY
@0 send
Q SELECT v FROM fixed ORDER BY id
@0 send
P - - COMMIT
B - - text []
E - 0
H
P - - INSERT INTO t1 VALUES (77778)
B - - text []
E - 0
S
@0 send
Q BEGIN READ ONLY
@0 send
Q SELECT nothing
@0 send
P - - ROLLBACK
H
B - - text []
H
E - 0
H
P s1 - INSERT INTO t1 VALUES (77779)
H
B p1 s1 text []
H
E p1 0
S
@0 send
Q BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ
@0 send
Q SELECT v FROM fixed ORDER BY id
@0 send
P - - COMMIT
B - - text []
E - 0
H
P - - DELETE FROM t1 WHERE id = 77779
B - - text []
H
E - 0
H
S
@0 send
Q BEGIN READ ONLY
@0 send
P - - SELECT nothing
B - - text []
E - 0
P - - COMMIT
B - - text []
E - 0
H
P - - INSERT INTO t1 VALUES (77780)
B - - text []
E - 0
S
@0 send
Q ROLLBACK
@0 send
Q SELECT id FROM t1 ORDER BY id",
    // Start-up values that the proxy brings back in a transaction leave the unnamed portal alone.
    "narrow user=app clients=1
@0 connect work_mem=3MB
@0 send
Q BEGIN
@0 send
P - - SELECT v FROM fixed ORDER BY id
B - - text []
E - 1
P s1 - RESET work_mem
B p1 s1 text []
E p1 0
S
@0 send
E - 1
S
@0 send
Q SHOW work_mem",
    // A transaction that has failed on a replica is rolled back by PREPARE TRANSACTION.
    "narrow user=app clients=1
@0 send
Q BEGIN READ ONLY
@0 send
Q SELECT nothing
@0 send
Q BEGIN
Q PREPARE TRANSACTION 'g0'
Q SELECT 1
Q ROLLBACK PREPARED 'g0'
@0 send
Q BEGIN READ ONLY
@0 send
Q SELECT nothing
@0 send
P - - PREPARE TRANSACTION 'g0'
B - - text []
E - 0
P - - SELECT 1
B - - text []
E - 0
S",
    // What is compared before a request says nothing in place of the messages before it.
    "narrow user=app clients=3
@0 send
P s2 - DELETE FROM t0 WHERE id = $1
@0 send
P - - SELECT name, statement FROM pg_prepared_statements WHERE from_sql ORDER BY name
Q CREATE TEMP TABLE t0 (x int)
@0 send
B p1 s1 text []
B p2 s2 text [\"-1\",null]
S",
];
