-- What every database of the random sessions holds; run by its owner.
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE moods (mood mood);
INSERT INTO moods VALUES ('ok'), ('sad');
CREATE TABLE fixed (id int PRIMARY KEY, v text);
INSERT INTO fixed SELECT g, 'fixed ' || g FROM generate_series(1, 9) g;
UPDATE fixed SET v = 'café' WHERE id = 3;
CREATE TABLE other.fixed (id int PRIMARY KEY, v text);
INSERT INTO other.fixed SELECT g, 'other ' || g FROM generate_series(1, 5) g;
CREATE VIEW view_fixed AS SELECT id FROM fixed WHERE id > 4;
CREATE TABLE shared (id int PRIMARY KEY, v text);
INSERT INTO shared SELECT g, 'shared ' || g FROM generate_series(1, 3) g;
CREATE TABLE numbered (id serial PRIMARY KEY, v text);
CREATE SEQUENCE q0;
CREATE SEQUENCE q1;
CREATE SEQUENCE q2;
CREATE SEQUENCE q_shared;
CREATE FUNCTION f_read(int) RETURNS text STABLE LANGUAGE sql
    AS 'SELECT v FROM public.fixed WHERE id = $1';
CREATE FUNCTION f_write(c int, i int) RETURNS int LANGUAGE plpgsql AS $$BEGIN
    EXECUTE format('UPDATE public.t%s SET n = n + 1 WHERE id = $1', c) USING i;
    RETURN i;
END$$;
CREATE FUNCTION f_temp() RETURNS int LANGUAGE plpgsql AS $$BEGIN
    CREATE TEMP TABLE tt1 (x int);
    RETURN 1;
END$$;
CREATE FUNCTION f_notify(word text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    PERFORM pg_notify('n1', word);
END$$;
CREATE FUNCTION f_set(name text, value text) RETURNS text LANGUAGE sql
    AS 'SELECT set_config(name, value, false)';
CREATE FUNCTION f_raise(word text) RETURNS int LANGUAGE plpgsql AS $$BEGIN
    RAISE WARNING 'a warning: %', word;
    RETURN 1 / 0;
EXCEPTION WHEN division_by_zero THEN
    RAISE NOTICE 'caught';
    RETURN 2;
END$$;
CREATE PROCEDURE p_write(c int) LANGUAGE plpgsql AS $$BEGIN
    EXECUTE format('UPDATE public.t%s SET n = n + 1', c);
    COMMIT;
    EXECUTE format('UPDATE public.t%s SET v = ''called'' WHERE id = 1', c);
END$$;
