//! What is known of PostgreSQL's own functions, relations, types and settings without asking a
//! server: the tables in `data/`, generated from PostgreSQL, and the exceptions to them.
//!
//! Users' functions are the catalog's matter (`catalog.rs`).

use super::statement::Pin;
use std::collections::HashSet;
use std::sync::LazyLock;

/// What is built in under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Gives the same answer on a replica that is fresh enough.
    Safe,
    /// Harmless, but the answer is about the server that gives it: asked of the primary.
    ServerLocal,
    /// Writes, takes locks, or fails on a standby.
    Refused,
    /// Nothing is built in under this name.
    Unknown,
}

struct Tables {
    safe: HashSet<&'static str>,
    refused: HashSet<&'static str>,
    server_local: HashSet<&'static str>,
    relations: HashSet<&'static str>,
    types: HashSet<&'static str>,
    operators: HashSet<&'static str>,
    settings: HashSet<&'static str>,
    superuser_settings: HashSet<&'static str>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    safe: words(include_str!("data/functions.txt"))
        .chain(words(VOLATILE_BUT_SAFE))
        .chain(words(SYNTAX))
        .collect(),
    refused: words(include_str!("data/volatile.txt")).chain(words(STABLE_BUT_REFUSED)).collect(),
    server_local: words(SERVER_LOCAL_FUNCTIONS).collect(),
    relations: words(include_str!("data/relations.txt")).collect(),
    types: words(include_str!("data/types.txt")).collect(),
    operators: words(include_str!("data/operators.txt")).collect(),
    settings: words(include_str!("data/settings.txt")).collect(),
    superuser_settings: words(include_str!("data/superuser_settings.txt")).collect(),
});

pub(super) fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}

/// VOLATILE, yet they neither write nor fail on a standby, and their answer does not depend on
/// the server beyond what the caller must expect. The size functions read the same files;
/// `pg_is_in_recovery` and the replay positions are asked in order to see where one is.
const VOLATILE_BUT_SAFE: &str = "
    array_sample array_shuffle clock_timestamp current_query gen_random_uuid
    pg_collation_actual_version pg_database_collation_actual_version pg_database_size
    pg_get_multixact_members pg_indexes_size pg_is_in_recovery pg_is_wal_replay_paused
    pg_get_wal_replay_pause_state pg_last_wal_receive_lsn pg_last_wal_replay_lsn
    pg_last_xact_replay_timestamp pg_partition_ancestors pg_partition_tree pg_relation_size
    pg_sleep pg_sleep_for pg_sleep_until pg_table_size pg_tablespace_size pg_total_relation_size
    random random_normal timeofday uuidv4 uuidv7";

/// STABLE or IMMUTABLE by declaration, yet they need a transaction id, read the position at
/// which the server writes, or read tables that only their arguments name. The last line is of
/// extensions (tablefunc, xml2): these run the SQL in their arguments.
const STABLE_BUT_REFUSED: &str = "
    txid_current pg_current_xact_id pg_walfile_name pg_walfile_name_offset
    table_to_xml table_to_xml_and_xmlschema schema_to_xml schema_to_xml_and_xmlschema
    database_to_xml database_to_xml_and_xmlschema pg_get_replication_slots
    connectby crosstab crosstab2 crosstab3 crosstab4 xpath_table";

/// STABLE, and about the server or the connection at hand. `pg_stat_get_…` is added by its
/// beginning. (`inet_server_addr` and `inet_server_port` are left readable: they are asked in
/// order to see which server answers.)
const SERVER_LOCAL_FUNCTIONS: &str = "
    current_setting pg_backend_pid pg_conf_load_time pg_config pg_cursor pg_listening_channels
    pg_postmaster_start_time pg_prepared_statement pg_show_all_settings
    pg_stat_get_wal_receiver pg_available_wal_summaries";

/// Written as functions, but part of the grammar; none of them is in `pg_proc` by this name.
const SYNTAX: &str = "
    coalesce nullif greatest least grouping row array exists any all some cast extract substring
    trim position overlay normalize xmlagg xmlelement xmlforest xmlparse xmlpi xmlroot
    xmlserialize xmlexists xmlconcat treat ceil ceiling floor
    current_catalog current_date current_role current_schema current_time current_timestamp
    current_user localtime localtimestamp session_user user system_user
    merge_action json json_scalar json_serialize values between in not";

/// The pg_catalog function (or function-like syntax) of this name, in lower case.
pub fn function(name: &str) -> Builtin {
    let tables = &*TABLES;
    if tables.server_local.contains(name) || name.starts_with("pg_stat_get_") {
        Builtin::ServerLocal
    } else if tables.refused.contains(name) && !words(VOLATILE_BUT_SAFE).any(|safe| safe == name) {
        Builtin::Refused
    } else if tables.safe.contains(name) {
        Builtin::Safe
    } else if tables.refused.contains(name) {
        Builtin::Refused
    } else {
        Builtin::Unknown
    }
}

/// Views that show one server's state (or, `pg_sequences`, values that a standby has ahead).
fn describes_server(name: &str) -> bool {
    if name == "pg_statistic" || name.starts_with("pg_statistic_ext") {
        return false;
    }
    ["pg_stat_", "pg_statio_", "pg_replication_"].iter().any(|start| name.starts_with(start))
        || matches!(
            name,
            "pg_locks"
                | "pg_cursors"
                | "pg_prepared_statements"
                | "pg_prepared_xacts"
                | "pg_settings"
                | "pg_file_settings"
                | "pg_hba_file_rules"
                | "pg_ident_file_mappings"
                | "pg_shmem_allocations"
                | "pg_shmem_allocations_numa"
                | "pg_backend_memory_contexts"
                | "pg_config"
                | "pg_sequences"
                | "pg_aios"
                | "pg_subscription_rel"
        )
}

/// The relation of pg_catalog (`schema` is `pg_catalog` or `None`) or information_schema.
pub fn relation(schema: Option<&str>, name: &str) -> Builtin {
    let known = match schema {
        None | Some("pg_catalog") => TABLES.relations.contains(name),
        Some("information_schema") => {
            TABLES.relations.contains(format!("information_schema.{name}").as_str())
        }
        Some(_) => false,
    };
    match known {
        false => Builtin::Unknown,
        true if describes_server(name) => Builtin::ServerLocal,
        true => Builtin::Safe,
    }
}

/// Whether a type of this name is built in.
pub fn is_type(name: &str) -> bool {
    TABLES.types.contains(name)
}

/// Whether an operator of this name is built in.
pub fn is_operator(name: &str) -> bool {
    TABLES.operators.contains(name)
}

/// Whether SHOW of this setting gives the same answer on each server that serves the session.
pub fn setting_follows_session(name: &str) -> bool {
    name.contains('.') || TABLES.settings.contains(name.to_ascii_lowercase().as_str())
}

/// Whether not everybody may change a setting, or who may is not known: settings of extensions.
pub fn setting_needs_privilege(name: &str) -> bool {
    name.contains('.') || TABLES.superuser_settings.contains(name)
}

/// Whether the call is judged by its constant arguments (`calls.rs`).
pub fn reads_setting(schema: Option<&str>, name: &str) -> bool {
    matches!(schema, None | Some("pg_catalog")) && matches!(name, "set_config" | "current_setting")
}

/// What a call leaves behind in the session that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    Pin(Pin),
    Unpin(Pin),
    /// It may end a pin.
    Doubt(Pin),
    /// `set_config`: a setting, if its arguments are constants.
    Setting,
}

/// What a call of the function leaves behind in the session, whatever schema it is in.
pub fn trace(name: &str) -> Option<Trace> {
    let trace = match name {
        "set_config" => Trace::Setting,
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Trace::Pin(Pin::AdvisoryLock),
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" => Trace::Doubt(Pin::AdvisoryLock),
        "pg_advisory_unlock_all" => Trace::Unpin(Pin::AdvisoryLock),
        "nextval" | "setval" | "currval" | "lastval" => Trace::Pin(Pin::Sequence),
        "pg_replication_origin_session_setup"
        | "setseed"
        | "dblink_connect"
        | "dblink_connect_u"
        | "dblink_open"
        | "pg_backup_start"
        | "pg_start_backup" => Trace::Pin(Pin::Unknown),
        _ => return None,
    };
    Some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_win_over_the_generated_tables() {
        let cases = [
            ("lower", Builtin::Safe),
            ("string_agg", Builtin::Safe),
            ("random", Builtin::Safe),
            ("pg_is_in_recovery", Builtin::Safe),
            ("coalesce", Builtin::Safe),
            ("txid_current", Builtin::Refused),
            ("pg_current_xact_id", Builtin::Refused),
            ("nextval", Builtin::Refused),
            ("pg_notify", Builtin::Refused),
            ("lo_create", Builtin::Refused),
            ("pg_walfile_name", Builtin::Refused),
            ("query_to_xml", Builtin::Refused),
            ("ts_rewrite", Builtin::Refused),
            ("pg_stat_get_activity", Builtin::ServerLocal),
            ("pg_backend_pid", Builtin::ServerLocal),
            ("no_such_function", Builtin::Unknown),
        ];
        for (name, expected) in cases {
            assert_eq!(function(name), expected, "{name}");
        }
    }

    #[test]
    fn relations_of_one_server_are_told_from_those_of_the_database() {
        let cases = [
            (None, "pg_class", Builtin::Safe),
            (Some("pg_catalog"), "pg_stats", Builtin::Safe),
            (Some("pg_catalog"), "pg_statistic_ext", Builtin::Safe),
            (Some("information_schema"), "columns", Builtin::Safe),
            (None, "columns", Builtin::Unknown),
            (None, "pg_stat_activity", Builtin::ServerLocal),
            (None, "pg_locks", Builtin::ServerLocal),
            (Some("public"), "pg_class", Builtin::Unknown),
        ];
        for (schema, name, expected) in cases {
            assert_eq!(relation(schema, name), expected, "{name}");
        }
    }

    #[test]
    fn operators_and_types_are_known_by_name() {
        for name in ["+", "#", "#>>", "@>", "~~*", "<->"] {
            assert!(is_operator(name), "{name}");
        }
        assert!(!is_operator("~~~>"));
        assert!(is_type("int4range") && !is_type("mood"));
    }

    #[test]
    fn settings_of_a_server_do_not_follow_a_session() {
        for name in ["search_path", "TimeZone", "app.tenant", "server_version"] {
            assert!(setting_follows_session(name), "{name}");
        }
        for name in ["transaction_read_only", "port", "data_directory", "in_hot_standby"] {
            assert!(!setting_follows_session(name), "{name}");
        }
    }
}
