\set aid random(1, 100000)
SELECT bid AS one FROM pgbench_branches LIMIT 1 \; SELECT :aid AS two \aset
SELECT 1 / (:one * :two);
UPDATE pgbench_accounts SET abalance = 1 WHERE aid = :aid \; SELECT 1 / abalance FROM pgbench_accounts WHERE aid = :aid;
