\set aid random(1, 100000)
\set delta random(-10, 10)
SELECT abalance AS before FROM pgbench_accounts WHERE aid = :aid \gset
SELECT :before::int + :delta::int AS wanted, :delta AS d \gset my_
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid FOR UPDATE \gset
SAVEPOINT here;
UPDATE pgbench_accounts SET abalance = abalance + 1000 WHERE aid = :aid;
ROLLBACK TO here;
UPDATE pgbench_accounts SET abalance = :abalance::int + :my_d::int WHERE aid = :aid RETURNING abalance AS after \gset
COMMIT;
BEGIN READ ONLY;
SELECT count(*) AS n FROM pgbench_accounts WHERE aid = :aid \gset
SELECT 1 / :n;
END;
