//! The queries that fill [`super::CatalogRows`], for PostgreSQL 13 to 18. Run on the primary, in
//! each database that clients use, by a role that may read the system catalogs. Objects of
//! PostgreSQL itself (`pg_catalog`, `information_schema`, TOAST tables, other sessions' temporary
//! tables) are left out: they are known without asking.
//!
//! Set `search_path` to the empty string first: the texts of views and policies then name
//! everything with its schema, which is judged by that one object and not by all of that name.
//!
//! All names come as the server keeps them, which is what unquoted names are folded to.

/// Functions and aggregates. Columns:
/// 1. `schema` text
/// 2. `name` text
/// 3. `arguments_min` int4: input arguments without a default (for a variadic function, without
///    the variadic one, which may be empty)
/// 4. `arguments_max` int4: input arguments; null for a variadic function
/// 5. `volatility` text: `i`, `s` or `v`; of an aggregate the strictest of its support functions,
///    because `provolatile` of the aggregate itself says nothing
/// 6. `takes_row` bool: whether its only argument is of a composite type (or of any type), so
///    that `SELECT t.f FROM t` may call it
pub const FUNCTIONS: &str = "
SELECT n.nspname::text AS schema,
       p.proname::text AS name,
       CASE WHEN p.prokind = 'a' THEN 0
            ELSE p.pronargs - p.pronargdefaults - (p.provariadic <> 0)::int END AS arguments_min,
       CASE WHEN p.provariadic <> 0 OR p.prokind = 'a' THEN NULL
            ELSE p.pronargs::int END AS arguments_max,
       CASE WHEN p.prokind <> 'a' THEN p.provolatile::text
            ELSE (SELECT CASE WHEN bool_or(s.provolatile = 'v') THEN 'v'
                              WHEN bool_or(s.provolatile = 's') THEN 's'
                              ELSE 'i' END
                  FROM pg_catalog.pg_aggregate a
                  JOIN pg_catalog.pg_proc s ON s.oid IN (a.aggtransfn, a.aggfinalfn,
                       a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn,
                       a.aggminvtransfn, a.aggmfinalfn)
                  WHERE a.aggfnoid = p.oid) END AS volatility,
       p.pronargs = 1 AND EXISTS (SELECT 1 FROM pg_catalog.pg_type t
            WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('c', 'p')) AS takes_row
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND p.prokind <> 'p'
  AND p.prorettype <> 'pg_catalog.trigger'::pg_catalog.regtype
  AND p.prorettype <> 'pg_catalog.event_trigger'::pg_catalog.regtype";

/// Relations that a FROM can name. Columns:
/// 1. `oid` oid
/// 2. `schema` text
/// 3. `name` text
/// 4. `kind` text: `relkind`: `r` table, `p` partitioned table, `v` view, `m` materialized view,
///    `f` foreign table, `S` sequence
/// 5. `persistence` text: `relpersistence`: `p` permanent, `u` unlogged, `t` temporary
/// 6. `has_policies` bool: whether policies apply to SELECT and row security is on
/// 7. `parents` oid[]: the tables that it is a partition or child of
///
/// What locks the relation or those in its definition is not in here: [`VIEW`], [`POLICIES`].
pub const RELATIONS: &str = "
SELECT c.oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.relrowsecurity AND EXISTS (
            SELECT 1 FROM pg_catalog.pg_policy y
            WHERE y.polrelid = c.oid AND y.polqual IS NOT NULL AND y.polcmd IN ('r', '*'))
            AS has_policies,
       ARRAY(SELECT h.inhparent FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) AS parents
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_'";

/// The query of the view `$1`. Locks the view and its tables for reading until its transaction
/// ends: run it by itself, so that nobody who drops or alters some of them meets a deadlock.
pub const VIEW: &str = "SELECT pg_catalog.pg_get_viewdef($1::oid) AS text";

/// USING of the policies of the table `$1` that apply to SELECT, one per row. Locks the table.
pub const POLICIES: &str = "
SELECT pg_catalog.pg_get_expr(y.polqual, y.polrelid) AS text FROM pg_catalog.pg_policy y
WHERE y.polrelid = $1::oid AND y.polqual IS NOT NULL AND y.polcmd IN ('r', '*')";

/// Users' operators. Columns: 1. `name` text, 2. `volatile` bool: whether the function of any
/// operator of that name is volatile.
pub const OPERATORS: &str = "
SELECT o.oprname::text AS name, bool_or(p.provolatile = 'v') AS volatile
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
WHERE n.nspname <> 'pg_catalog'
GROUP BY o.oprname";

/// Users' casts that call a volatile function. Columns:
/// 1. `target` text: the name of the type that the cast makes
/// 2. `implicit` bool: whether it is applied without being written
pub const CASTS: &str = "
SELECT t.typname::text AS target, k.castcontext = 'i' AS implicit
FROM pg_catalog.pg_cast k
JOIN pg_catalog.pg_type t ON t.oid = k.casttarget
JOIN pg_catalog.pg_proc p ON p.oid = k.castfunc
WHERE p.provolatile = 'v' AND k.oid >= 16384";

/// Users' types but the row types of relations and arrays. Columns:
/// 1. `name` text
/// 2. `volatile` bool: whether its input or output function is volatile
/// 3. `checks` text[]: the CHECK expressions of a domain
pub const TYPES: &str = "
SELECT t.typname::text AS name,
       EXISTS (SELECT 1 FROM pg_catalog.pg_proc p
               WHERE p.oid IN (t.typinput, t.typoutput) AND p.provolatile = 'v') AS volatile,
       ARRAY(SELECT pg_catalog.pg_get_expr(x.conbin, 0) FROM pg_catalog.pg_constraint x
             WHERE x.contypid = t.oid AND x.contype = 'c') AS checks
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND (t.typrelid = 0 OR c.relkind = 'c')
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)";

/// Routines (functions, trigger functions, procedures) that are not PostgreSQL's own. Columns:
/// 1. `name` text
/// 2. `procedure` bool
/// 3. `volatile` bool
/// 4. `body` text: its source, if a word in it may leave something behind in the session
///    (`body.rs` looks closer) or, with the parameter, if it names one of these routines: `$1` is a
///    regular expression, or null. Null for what was not asked for.
pub const ROUTINES: &str = "
SELECT p.proname::text AS name,
       p.prokind = 'p' AS procedure,
       p.provolatile = 'v' AS volatile,
       CASE WHEN l.lanname NOT IN ('c', 'internal')
             AND p.prosrc ~* coalesce($1::text,
                  '\\m(temp|temporary|pg_temp|listen|hold|prepare|load|set|reset|set_config|setseed)\\M'
                  || '|advisory|dblink')
            THEN p.prosrc END AS body
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND p.prokind IN ('f', 'p')";

/// Triggers. Columns: 1. `relation` text, 2. `routine` text.
pub const TRIGGERS: &str = "
SELECT DISTINCT c.relname::text AS relation, p.proname::text AS routine
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'";

/// Rules that run something when a relation is changed; `pg_settings` has one that sets the setting.
/// Columns: 1. `relation` text, 2. `rule` text, which no routine has as its name, 3. `body` text.
pub const RULES: &str = "
SELECT c.relname::text AS relation,
       'rule ' || r.oid AS rule,
       pg_catalog.pg_get_ruledef(r.oid) AS body
FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
WHERE r.ev_type <> '1' AND r.ev_enabled <> 'D'";

/// One number for all that ALTER ROLE … SET and ALTER DATABASE … SET have set.
pub const DEFAULTS: &str = "
SELECT coalesce(pg_catalog.hashtextextended(
            pg_catalog.string_agg(s::text, ',' ORDER BY s.setdatabase, s.setrole), 0), 0)
FROM pg_catalog.pg_db_role_setting s";
