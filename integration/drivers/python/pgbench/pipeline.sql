\set aid random(1, 100000)
\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
END;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\endpipeline
SELECT abalance AS a FROM pgbench_accounts WHERE aid = :aid \gset
\startpipeline
SELECT :a;
SELECT count(*) FROM pgbench_branches;
\endpipeline
