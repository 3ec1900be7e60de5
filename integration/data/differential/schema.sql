-- What every case finds; made anew after each that has written.
DROP SCHEMA IF EXISTS app CASCADE;
DROP SCHEMA IF EXISTS other CASCADE;
DROP SCHEMA IF EXISTS friendly CASCADE;
CREATE SCHEMA app AUTHORIZATION app;
CREATE SCHEMA other AUTHORIZATION app;
CREATE SCHEMA friendly AUTHORIZATION friend;
SET SESSION AUTHORIZATION app;

CREATE TABLE item (
    id int PRIMARY KEY,
    name text NOT NULL,
    price numeric(8, 2) CHECK (price >= 0),
    made date,
    data bytea,
    tags text[]
);
INSERT INTO item
    SELECT n, 'item ' || n, n * 1.25, date '2024-01-01' + n, decode(lpad(to_hex(n), 4, '0'), 'hex'),
        CASE WHEN n % 3 = 0 THEN NULL ELSE ARRAY['a' || n, 'b'] END
    FROM generate_series(1, 10) AS n;
CREATE TABLE part (id serial PRIMARY KEY, item int REFERENCES item DEFERRABLE, note text UNIQUE);
CREATE TABLE empty (a int, b text);
-- The same name in another schema, with other columns.
CREATE TABLE other.item (id bigint, label varchar(20));
INSERT INTO other.item VALUES (7, 'other');
CREATE VIEW cheap AS SELECT id, name FROM item WHERE price < 5;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE SEQUENCE counter;

CREATE FUNCTION add_item(id int, name text) RETURNS int LANGUAGE sql
    AS 'INSERT INTO item VALUES ($1, $2, 1) RETURNING id';
CREATE FUNCTION fails(message text) RETURNS int LANGUAGE plpgsql
    AS $$BEGIN RAISE EXCEPTION '%', message USING ERRCODE = 'P1234', HINT = 'a hint',
        DETAIL = 'a detail', COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 't', TABLE = 'tab',
        SCHEMA = 'sch'; END$$;
CREATE FUNCTION tells(level text) RETURNS int LANGUAGE plpgsql STABLE
    AS $$BEGIN
        CASE level
            WHEN 'debug' THEN RAISE DEBUG 'told';
            WHEN 'log' THEN RAISE LOG 'told';
            WHEN 'info' THEN RAISE INFO 'told';
            WHEN 'notice' THEN RAISE NOTICE 'told' USING HINT = 'a hint', DETAIL = 'a detail';
            ELSE RAISE WARNING 'told';
        END CASE;
        RETURN 1;
    END$$;
CREATE FUNCTION double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql STABLE
    AS $$BEGIN IF n = 0 THEN RETURN 1 / n; END IF; RETURN deep(n - 1); END$$;
CREATE FUNCTION cursors() RETURNS SETOF refcursor LANGUAGE plpgsql
    AS $$DECLARE a refcursor := 'first'; b refcursor := 'second'; BEGIN
        OPEN a FOR SELECT id FROM item ORDER BY id; RETURN NEXT a;
        OPEN b FOR SELECT name FROM item ORDER BY id; RETURN NEXT b; END$$;
CREATE PROCEDURE commits(n int) LANGUAGE plpgsql
    AS $$BEGIN FOR i IN 1 .. n LOOP INSERT INTO empty VALUES (i, 'c'); COMMIT; END LOOP; END$$;
CREATE FUNCTION sets(value text) RETURNS text LANGUAGE sql
    AS $$SELECT set_config('application_name', value, false)$$;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql
    AS $$BEGIN RAISE NOTICE 'part % %', TG_OP, NEW.note; RETURN NEW; END$$;
CREATE TRIGGER noted BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION noted();

RESET SESSION AUTHORIZATION;
