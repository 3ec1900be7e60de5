CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price int);
INSERT INTO dish SELECT n, 'dish ' || n, n FROM generate_series(1, 100) n;
