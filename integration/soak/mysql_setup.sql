-- What the random sessions of MySQL and MariaDB find; a statement per line, made once.
CREATE DATABASE other
GRANT ALL ON other.* TO app@'%'
CREATE TABLE fixed (id INT PRIMARY KEY, v VARCHAR(40))
INSERT INTO fixed VALUES (1, 'fixed 1'), (2, 'fixed 2'), (3, 'café'), (4, 'fixed 4'), (5, NULL), (6, 'x'), (7, 'y'), (8, 'z'), (9, '')
CREATE TABLE other.fixed (id INT PRIMARY KEY, v VARCHAR(40))
INSERT INTO other.fixed VALUES (1, 'other 1'), (2, 'other 2'), (3, 'other 3')
CREATE VIEW view_fixed AS SELECT id FROM fixed WHERE id > 4
CREATE TABLE shared (id INT PRIMARY KEY, v VARCHAR(40))
INSERT INTO shared VALUES (1, 'one'), (2, 'two'), (3, 'three')
CREATE FUNCTION f_read(i INT) RETURNS VARCHAR(40) READS SQL DATA RETURN (SELECT v FROM app.fixed WHERE id = i)
CREATE FUNCTION f_lock() RETURNS INT NOT DETERMINISTIC NO SQL RETURN GET_LOCK('fl', 0)
CREATE FUNCTION f_var() RETURNS INT NOT DETERMINISTIC NO SQL BEGIN SET @fv = 5; RETURN 1; END
CREATE PROCEDURE p_temp() CREATE TEMPORARY TABLE ptmp (n INT)
CREATE PROCEDURE p_zone() SET SESSION time_zone = '+07:00'
CREATE PROCEDURE p_mode() SET SESSION sql_mode = 'ANSI_QUOTES'
CREATE PROCEDURE p_var() SET @b = 99
CREATE PROCEDURE p_autocommit() SET autocommit = 0
CREATE PROCEDURE p_prepare() PREPARE pp FROM 'SELECT 77'
CREATE PROCEDURE p_out(OUT a INT, INOUT b INT) BEGIN SET a = 1, b = COALESCE(b, 0) + 1; END
CREATE PROCEDURE p_fail() SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'said no', MYSQL_ERRNO = 3333
CREATE PROCEDURE p_warn() BEGIN SELECT 1; SIGNAL SQLSTATE '01000' SET MESSAGE_TEXT = 'a warning'; END
CREATE PROCEDURE p_role() SQL SECURITY INVOKER SET ROLE soak_role
