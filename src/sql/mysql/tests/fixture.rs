//! The catalog of `integration/data/classify_mysql/schema.sql`.

use super::super::{
    CatalogRows, DataAccess, Engine, RoutineRow, TableKind, TableRow, TriggerRow, build,
};
use crate::sql::{Catalog, FunctionRules};

const TABLES: &[&str] = &["users", "orders", "items", "Mixed Case", "docs", "places", "audited"];

const VIEWS: &[(&str, Option<&str>)] = &[
    (
        "user_orders",
        Some(
            "select `u`.`id` AS `id`,`o`.`total` AS `total` from (`shop`.`users` `u` left join `shop`.`orders` `o` on((`o`.`user_id` = `u`.`id`)))",
        ),
    ),
    (
        "user_totals",
        Some(
            "select `user_orders`.`id` AS `id`,sum(`user_orders`.`total`) AS `total` from `shop`.`user_orders` group by `user_orders`.`id`",
        ),
    ),
    ("noisy_view", Some("select `log_event`('seen') AS `n`")),
    ("nested_noisy", Some("select `noisy_view`.`n` AS `n` from `shop`.`noisy_view`")),
    (
        "process_view",
        Some(
            "select `information_schema`.`PROCESSLIST`.`ID` AS `id` from `information_schema`.`PROCESSLIST`",
        ),
    ),
    ("hidden_view", None),
];

/// Name, whether it is a function, what it declares, its body.
const ROUTINES: &[(&str, bool, DataAccess, &str)] = &[
    ("add_up", true, DataAccess::NoSql, "RETURN a + b"),
    (
        "full_name",
        true,
        DataAccess::ReadsSql,
        "BEGIN DECLARE n VARCHAR(80); SELECT CONCAT(name, '!') INTO n FROM users WHERE users.id = user_id LIMIT 1; RETURN n; END",
    ),
    ("twice_named", true, DataAccess::ReadsSql, "RETURN CONCAT(full_name(a), full_name(a))"),
    (
        "log_event",
        true,
        DataAccess::ModifiesSql,
        "BEGIN INSERT INTO docs (body) VALUES (what); RETURN 1; END",
    ),
    ("lying", true, DataAccess::ReadsSql, "BEGIN DELETE FROM docs; RETURN 1; END"),
    ("calls_lying", true, DataAccess::ReadsSql, "RETURN lying() + 1"),
    ("remembers", true, DataAccess::NoSql, "BEGIN SET @seen = a; RETURN a; END"),
    ("locks_it", true, DataAccess::NoSql, "RETURN GET_LOCK('a', 0)"),
    (
        "place_order",
        false,
        DataAccess::ModifiesSql,
        "BEGIN INSERT INTO orders (user_id) VALUES (a); END",
    ),
    (
        "make_scratch",
        false,
        DataAccess::ModifiesSql,
        "BEGIN CREATE TEMPORARY TABLE scratch (id INT); END",
    ),
];

const TRIGGERS: &[(&str, &str)] = &[
    ("audited", "SET @last_audit = NOW()"),
    ("orders", "BEGIN INSERT INTO docs (body) VALUES ('order'); END"),
];

pub fn rows() -> CatalogRows {
    let schema = || "shop".to_owned();
    let base = TABLES.iter().map(|name| TableRow {
        schema: schema(),
        name: (*name).to_owned(),
        kind: TableKind::Base,
        definition: None,
    });
    let views = VIEWS.iter().map(|(name, definition)| TableRow {
        schema: schema(),
        name: (*name).to_owned(),
        kind: TableKind::View,
        definition: definition.map(str::to_owned),
    });
    let routines = ROUTINES.iter().map(|(name, is_function, data_access, body)| RoutineRow {
        schema: schema(),
        name: (*name).to_owned(),
        is_function: *is_function,
        data_access: *data_access,
        body: Some((*body).to_owned()),
        sql_mode: "STRICT_TRANS_TABLES".to_owned(),
    });
    let triggers = TRIGGERS.iter().map(|(table, body)| TriggerRow {
        schema: schema(),
        table: (*table).to_owned(),
        body: (*body).to_owned(),
        sql_mode: String::new(),
    });
    CatalogRows {
        tables: base.chain(views).collect(),
        routines: routines.collect(),
        triggers: triggers.collect(),
    }
}

pub fn catalog(engine: Engine) -> Catalog {
    build(engine, rows(), FunctionRules::default())
}
