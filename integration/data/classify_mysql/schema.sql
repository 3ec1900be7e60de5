-- What the statements of this folder are about; the catalog of src/sql/mysql/tests/fixture.rs is
-- of this schema. For MySQL 8.0 and newer and MariaDB 10.6 and newer.
CREATE TABLE users (id INT PRIMARY KEY, name VARCHAR(80), email VARCHAR(80), active INT, created_at DATETIME, FULLTEXT (name));
CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT, total DECIMAL(10, 2), status VARCHAR(20), created_at DATETIME, KEY by_user (user_id));
CREATE TABLE items (order_id INT, sku VARCHAR(20), amount INT, PRIMARY KEY (order_id, sku));
CREATE TABLE `Mixed Case` (`an id` INT, `select` INT);
CREATE TABLE docs (id INT AUTO_INCREMENT PRIMARY KEY, body TEXT, meta JSON);
CREATE TABLE places (id INT PRIMARY KEY, at POINT);
CREATE TABLE audited (id INT PRIMARY KEY);
CREATE VIEW user_orders AS SELECT u.id, o.total FROM users u LEFT JOIN orders o ON o.user_id = u.id;
CREATE VIEW user_totals AS SELECT id, sum(total) AS total FROM user_orders GROUP BY id;
CREATE FUNCTION add_up(a INT, b INT) RETURNS INT NO SQL DETERMINISTIC RETURN a + b;
CREATE FUNCTION full_name(user_id INT) RETURNS VARCHAR(80) READS SQL DATA BEGIN DECLARE n VARCHAR(80); SELECT CONCAT(name, '!') INTO n FROM users WHERE users.id = user_id LIMIT 1; RETURN n; END;
CREATE FUNCTION twice_named(a INT) RETURNS VARCHAR(160) READS SQL DATA RETURN CONCAT(full_name(a), full_name(a));
CREATE FUNCTION log_event(what VARCHAR(80)) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO docs (body) VALUES (what); RETURN 1; END;
CREATE FUNCTION lying() RETURNS INT READS SQL DATA BEGIN DELETE FROM docs; RETURN 1; END;
CREATE FUNCTION calls_lying() RETURNS INT READS SQL DATA RETURN lying() + 1;
CREATE FUNCTION remembers(a INT) RETURNS INT NO SQL BEGIN SET @seen = a; RETURN a; END;
CREATE FUNCTION locks_it() RETURNS INT NO SQL RETURN GET_LOCK('a', 0);
CREATE VIEW noisy_view AS SELECT log_event('seen') AS n;
CREATE VIEW nested_noisy AS SELECT n FROM noisy_view;
CREATE VIEW process_view AS SELECT id FROM information_schema.processlist;
CREATE PROCEDURE place_order(a INT) BEGIN INSERT INTO orders (user_id) VALUES (a); END;
CREATE PROCEDURE make_scratch() BEGIN CREATE TEMPORARY TABLE scratch (id INT); END;
CREATE TRIGGER remember_audit BEFORE INSERT ON audited FOR EACH ROW SET @last_audit = NOW();
CREATE TRIGGER log_order BEFORE INSERT ON orders FOR EACH ROW BEGIN INSERT INTO docs (body) VALUES ('order'); END;
