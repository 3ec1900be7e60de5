CREATE TABLE lunch (n int);
INSERT INTO lunch VALUES (1), (2), (3);
SELECT n FROM lunch ORDER BY n;
SELECT 7 AS seven \gset
SELECT :seven;
PREPARE twice AS SELECT $1::int * 2;
EXECUTE twice(21);
DEALLOCATE twice;
\copy lunch FROM PROGRAM 'seq 4 100'
\set FETCH_COUNT 10
SELECT count(*) FROM lunch;
\unset FETCH_COUNT
SELECT count(*) FROM lunch WHERE n < 5;
LISTEN kitchen;
SET application_name = 'kitchen';
SHOW application_name;
\set ON_ERROR_ROLLBACK on
\set VERBOSITY verbose
\set ON_ERROR_STOP off
BEGIN;
SELECT 1/0;
DROP TABLE lunch;
COMMIT;
SELECT 'done';
