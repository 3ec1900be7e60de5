-- The schema that the statements in *.txt of this folder assume. Loaded by a superuser into an
-- empty database. src/sql/tests/fixture.rs has the same objects as rows of the catalog.

CREATE SCHEMA app;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE shade AS ENUM ('light', 'dark');
CREATE TYPE address AS (street text, city text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);

CREATE TABLE users (
    id serial PRIMARY KEY,
    name text NOT NULL,
    email text,
    active boolean DEFAULT true,
    manager_id int REFERENCES users,
    created_at timestamptz DEFAULT now(),
    data jsonb DEFAULT '{}',
    tags text[] DEFAULT '{}',
    feeling mood,
    home address
);
CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    user_id int REFERENCES users,
    total numeric(12, 2),
    status text DEFAULT 'new',
    placed_at timestamptz DEFAULT now()
);
CREATE TABLE items (order_id bigint, sku text, qty int, price numeric);
CREATE TABLE app.accounts (id int PRIMARY KEY, balance bigint, owner text);
CREATE TABLE "Mixed Case" (id int, "Value" text);
CREATE TABLE documents (id int, owner name, body text, search tsvector);
CREATE TABLE bookings (room int, during tstzrange);
CREATE TABLE shapes (id int, at point, box box);

CREATE TABLE events (id bigint, at date, kind text) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2026-01-01');
CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2030-01-01');

-- A parent with an unlogged child: reading the parent reads it as well.
CREATE TABLE logs (id int, line text);
CREATE UNLOGGED TABLE logs_hot () INHERITS (logs);

CREATE UNLOGGED TABLE scratch (id int, note text);
CREATE SEQUENCE ticket_seq;

CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'postgres');
CREATE FOREIGN TABLE remote_users (id int, name text) SERVER elsewhere;

CREATE FUNCTION add_up(a int, b int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a + b';
CREATE FUNCTION app.lookup(n int) RETURNS text STABLE LANGUAGE sql
    AS 'SELECT name FROM public.users WHERE id = n';
CREATE FUNCTION with_default(a int, b int DEFAULT 1) RETURNS int STABLE LANGUAGE sql
    AS 'SELECT a + b';
CREATE FUNCTION join_all(VARIADIC parts text[]) RETURNS text STABLE LANGUAGE sql
    AS 'SELECT array_to_string(parts, '','')';
CREATE FUNCTION user_ids() RETURNS SETOF int STABLE LANGUAGE sql AS 'SELECT id FROM public.users';
CREATE FUNCTION full_name(u users) RETURNS text STABLE LANGUAGE sql AS 'SELECT u.name';
CREATE FUNCTION log_event(kind text) RETURNS int VOLATILE LANGUAGE sql
    AS 'INSERT INTO public.items (sku) VALUES (kind) RETURNING 1';
CREATE FUNCTION touch(u users) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1';
-- One overload is a read, the other is not.
CREATE FUNCTION either_way(a int) RETURNS int STABLE LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION either_way(a int, b int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT a + b';
-- The same name as one of PostgreSQL's own.
CREATE FUNCTION app.initcap(a text) RETURNS text VOLATILE LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION app.nextval(a text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE maintain() LANGUAGE sql AS 'DELETE FROM public.items';

CREATE FUNCTION noisy_step(a int, b int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT a + b';
CREATE AGGREGATE quiet_sum(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE noisy_sum(int) (SFUNC = noisy_step, STYPE = int, INITCOND = '0');

CREATE FUNCTION noisy_check(a int) RETURNS boolean VOLATILE LANGUAGE sql AS 'SELECT a > 0';
CREATE DOMAIN noisy_domain AS int CHECK (noisy_check(VALUE));
CREATE FUNCTION int_to_shade(a int) RETURNS shade VOLATILE LANGUAGE sql
    AS $$SELECT 'dark'::shade$$;
CREATE CAST (int AS shade) WITH FUNCTION int_to_shade(int);
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE OPERATOR ~~~> (LEFTARG = int, RIGHTARG = int, FUNCTION = noisy_step);

CREATE VIEW user_orders AS
    SELECT u.id, u.name, o.total FROM users u LEFT JOIN orders o ON o.user_id = u.id;
CREATE VIEW user_totals AS
    SELECT name, sum(total) AS total FROM user_orders GROUP BY name;
CREATE VIEW noisy_view AS SELECT log_event('seen') AS n;
CREATE VIEW nested_noisy AS SELECT n FROM noisy_view;
CREATE VIEW scratch_view AS SELECT * FROM scratch;
CREATE VIEW ticket_view AS SELECT nextval('ticket_seq') AS n;
CREATE VIEW activity_view AS SELECT pid FROM pg_stat_activity;
CREATE MATERIALIZED VIEW order_totals AS
    SELECT status, count(*) AS n FROM orders GROUP BY status;

-- Row security: one policy that only reads, one that calls a volatile function.
CREATE TABLE memos (id int, owner name);
ALTER TABLE memos ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_memos ON memos USING (owner = CURRENT_USER);
CREATE TABLE secrets (id int);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY noisy_secrets ON secrets USING (noisy_check(id));
CREATE TABLE tenants (id int);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenants USING (id = current_setting('app.tenant', true)::int);

INSERT INTO users (name, email, manager_id) VALUES ('ada', 'ada@example.com', NULL),
    ('bob', 'bob@example.com', 1), ('cid', NULL, 1);
INSERT INTO orders (user_id, total) VALUES (1, 10), (1, 20), (2, 5);
INSERT INTO items VALUES (1, 'pen', 2, 1.5), (2, 'cup', 1, 4);
INSERT INTO events VALUES (1, '2025-05-05', 'a'), (2, '2026-05-05', 'b');
