//! The catalog of `integration/data/classify/schema.sql`, as the queries of `catalog_queries.rs`
//! give it with an empty `search_path`. Generated from a server; keep the two alike.

use crate::sql::{
    CastRow, Catalog, CatalogRows, FunctionRow, FunctionRules, OperatorRow, Persistence,
    RelationKind, RelationRow, TypeRow, Volatility,
};

/// Schema, name, least and most arguments (-1: variadic), volatility, takes a row.
type Function = (&'static str, &'static str, usize, i32, char, bool);

#[rustfmt::skip]
const FUNCTIONS: &[Function] = &[
    ("app", "initcap", 1, 1, 'v', false),
    ("app", "lookup", 1, 1, 's', false),
    ("app", "nextval", 1, 1, 'i', false),
    ("public", "add_up", 2, 2, 'i', false),
    ("public", "either_way", 1, 1, 's', false),
    ("public", "either_way", 2, 2, 'v', false),
    ("public", "full_name", 1, 1, 's', true),
    ("public", "int_to_shade", 1, 1, 'v', false),
    ("public", "join_all", 0, -1, 's', false),
    ("public", "log_event", 1, 1, 'v', false),
    ("public", "noisy_check", 1, 1, 'v', false),
    ("public", "noisy_step", 2, 2, 'v', false),
    ("public", "noisy_sum", 0, -1, 'v', false),
    ("public", "postgres_fdw_disconnect", 1, 1, 'v', false),
    ("public", "postgres_fdw_disconnect_all", 0, 0, 'v', false),
    ("public", "postgres_fdw_get_connections", 0, 0, 'v', false),
    ("public", "postgres_fdw_handler", 0, 0, 'v', false),
    ("public", "postgres_fdw_validator", 2, 2, 'v', false),
    ("public", "quiet_sum", 0, -1, 'i', false),
    ("public", "touch", 1, 1, 'v', true),
    ("public", "user_ids", 0, 0, 's', false),
    ("public", "with_default", 1, 2, 's', false),
];

/// Oid, schema, name, kind, persistence, definition, policies, parents.
type Relation = (
    u32,
    &'static str,
    &'static str,
    char,
    char,
    Option<&'static str>,
    &'static [&'static str],
    &'static [u32],
);

#[rustfmt::skip]
const RELATIONS: &[Relation] = &[
    (16409, "public", "users_id_seq", 'S', 'p', None, &[], &[]),
    (16410, "public", "users", 'r', 'p', None, &[], &[]),
    (16427, "public", "orders_id_seq", 'S', 'p', None, &[], &[]),
    (16428, "public", "orders", 'r', 'p', None, &[], &[]),
    (16443, "public", "items", 'r', 'p', None, &[], &[]),
    (16448, "app", "accounts", 'r', 'p', None, &[], &[]),
    (16455, "public", "Mixed Case", 'r', 'p', None, &[], &[]),
    (16460, "public", "documents", 'r', 'p', None, &[], &[]),
    (16465, "public", "bookings", 'r', 'p', None, &[], &[]),
    (16470, "public", "shapes", 'r', 'p', None, &[], &[]),
    (16473, "public", "events", 'p', 'p', None, &[], &[]),
    (16476, "public", "events_old", 'r', 'p', None, &[], &[16473]),
    (16481, "public", "events_new", 'r', 'p', None, &[], &[16473]),
    (16486, "public", "logs", 'r', 'p', None, &[], &[]),
    (16491, "public", "logs_hot", 'r', 'u', None, &[], &[16486]),
    (16496, "public", "scratch", 'r', 'u', None, &[], &[]),
    (16501, "public", "ticket_seq", 'S', 'p', None, &[], &[]),
    (16510, "public", "remote_users", 'f', 'p', None, &[], &[]),
    (16537, "public", "user_orders", 'v', 'p', Some("SELECT u.id, u.name, o.total FROM (public.users u LEFT JOIN public.orders o ON ((o.user_id = u.id)));"), &[], &[]),
    (16541, "public", "user_totals", 'v', 'p', Some("SELECT user_orders.name, sum(user_orders.total) AS total FROM public.user_orders GROUP BY user_orders.name;"), &[], &[]),
    (16545, "public", "noisy_view", 'v', 'p', Some("SELECT public.log_event('seen'::text) AS n;"), &[], &[]),
    (16549, "public", "nested_noisy", 'v', 'p', Some("SELECT noisy_view.n FROM public.noisy_view;"), &[], &[]),
    (16553, "public", "scratch_view", 'v', 'p', Some("SELECT scratch.id, scratch.note FROM public.scratch;"), &[], &[]),
    (16557, "public", "ticket_view", 'v', 'p', Some("SELECT nextval('public.ticket_seq'::regclass) AS n;"), &[], &[]),
    (16561, "public", "activity_view", 'v', 'p', Some("SELECT pg_stat_activity.pid FROM pg_stat_activity;"), &[], &[]),
    (16565, "public", "order_totals", 'm', 'p', None, &[], &[]),
    (16571, "public", "memos", 'r', 'p', None, &["(owner = CURRENT_USER)"], &[]),
    (16575, "public", "secrets", 'r', 'p', None, &["public.noisy_check(id)"], &[]),
    (16579, "public", "tenants", 'r', 'p', None, &["(id = (current_setting('app.tenant'::text, true))::integer)"], &[]),
];

#[rustfmt::skip]
const TYPES: &[(&str, bool, &[&str])] = &[
    ("address", false, &[]),
    ("mood", false, &[]),
    ("noisy_domain", false, &["public.noisy_check(VALUE)"]),
    ("positive", false, &["(VALUE > 0)"]),
    ("shade", false, &[]),
];

const OPERATORS: &[(&str, bool)] = &[("===", false), ("~~~>", true)];

const CASTS: &[(&str, bool)] = &[("shade", false)];

pub(super) fn rows() -> CatalogRows {
    CatalogRows {
        functions: FUNCTIONS.iter().map(function).collect(),
        relations: RELATIONS.iter().map(relation).collect(),
        operators: OPERATORS
            .iter()
            .map(|(name, volatile)| OperatorRow { name: (*name).into(), volatile: *volatile })
            .collect(),
        casts: CASTS
            .iter()
            .map(|(target, implicit)| CastRow { target: (*target).into(), implicit: *implicit })
            .collect(),
        types: TYPES
            .iter()
            .map(|(name, volatile, checks)| TypeRow {
                name: (*name).into(),
                volatile: *volatile,
                checks: checks.iter().map(|check| (*check).to_owned()).collect(),
            })
            .collect(),
        ..CatalogRows::default()
    }
}

pub(super) fn catalog() -> Catalog {
    Catalog::build(rows(), FunctionRules::default())
}

fn function((schema, name, least, most, volatility, takes_row): &Function) -> FunctionRow {
    FunctionRow {
        schema: (*schema).to_owned(),
        name: (*name).to_owned(),
        arguments_min: *least,
        arguments_max: usize::try_from(*most).ok(),
        volatility: match volatility {
            'i' => Volatility::Immutable,
            's' => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        takes_row: *takes_row,
    }
}

fn relation(row: &Relation) -> RelationRow {
    let (oid, schema, name, kind, persistence, definition, policies, parents) = row;
    RelationRow {
        oid: *oid,
        schema: (*schema).to_owned(),
        name: (*name).to_owned(),
        kind: match kind {
            'p' => RelationKind::PartitionedTable,
            'v' => RelationKind::View,
            'm' => RelationKind::MaterializedView,
            'f' => RelationKind::ForeignTable,
            'S' => RelationKind::Sequence,
            _ => RelationKind::Table,
        },
        persistence: match persistence {
            'u' => Persistence::Unlogged,
            't' => Persistence::Temporary,
            _ => Persistence::Permanent,
        },
        definition: definition.map(str::to_owned),
        policies: policies.iter().map(|policy| (*policy).to_owned()).collect(),
        parents: parents.to_vec(),
    }
}
