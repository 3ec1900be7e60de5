//! What is known of the servers' own functions, relations and variables without asking one: the
//! tables in `data/mysql`, and the exceptions to them. Users' functions are the catalog's matter.

use super::super::functions::{Builtin, words};
use super::super::statement::{Pin, Recall, SessionEffect};
use super::Engine;
use std::collections::HashSet;
use std::sync::LazyLock;

struct Tables {
    mysql: HashSet<&'static str>,
    mariadb: HashSet<&'static str>,
    server_local: HashSet<&'static str>,
    refused: HashSet<&'static str>,
    variables: HashSet<&'static str>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let common = || words(include_str!("../data/mysql/functions.txt"));
    let mysql = words(include_str!("../data/mysql/functions_mysql.txt"));
    let mariadb = words(include_str!("../data/mysql/functions_mariadb.txt"));
    Tables {
        mysql: common().chain(mysql).collect(),
        mariadb: common().chain(mariadb).collect(),
        server_local: words(SERVER_LOCAL).collect(),
        refused: words(REFUSED).collect(),
        variables: words(include_str!("../data/mysql/variables.txt")).collect(),
    }
});

/// Harmless, but about the server that answers: its files, its numbers, its locks, its position.
const SERVER_LOCAL: &str = "
    connection_id load_file uuid_short is_free_lock is_used_lock binlog_gtid_pos master_pos_wait
    source_pos_wait master_gtid_wait wait_for_executed_gtid_set wait_until_sql_thread_after_gtids
    ps_current_thread_id ps_thread_id wsrep_last_seen_gtid wsrep_last_written_gtid
    wsrep_sync_wait_upto_gtid";

/// They write, or take locks that count on the primary.
const REFUSED: &str = "
    get_lock release_lock release_all_locks nextval lastval setval
    asynchronous_connection_failover_add_managed asynchronous_connection_failover_add_source
    asynchronous_connection_failover_delete_managed
    asynchronous_connection_failover_delete_source asynchronous_connection_failover_reset";

/// The function (or function-like syntax) of this name, in lower case.
pub fn function(engine: Engine, name: &str) -> Builtin {
    let tables = &*TABLES;
    let safe = match engine {
        Engine::MySql => &tables.mysql,
        Engine::MariaDb => &tables.mariadb,
    };
    // Without an argument it only tells; `calls.rs` sees the other form.
    if safe.contains(name) || name == "last_insert_id" {
        Builtin::Safe
    } else if tables.server_local.contains(name) {
        Builtin::ServerLocal
    } else if tables.refused.contains(name) {
        Builtin::Refused
    } else {
        Builtin::Unknown
    }
}

/// The relation of a schema that belongs to the server.
pub fn relation(schema: Option<&str>, name: &str) -> Builtin {
    match schema {
        None if name == "dual" => Builtin::Safe,
        Some("information_schema") if describes_server(name) => Builtin::ServerLocal,
        Some("information_schema") => Builtin::Safe,
        Some("performance_schema" | "sys" | "mysql") => Builtin::ServerLocal,
        _ => Builtin::Unknown,
    }
}

/// Tables of information_schema that tell of one server or of what the session did on it.
fn describes_server(name: &str) -> bool {
    ["innodb_", "global_", "session_", "xtradb_", "wsrep_", "thread_pool_", "query_cache_", "tp_"]
        .iter()
        .any(|start| name.starts_with(start))
        || matches!(
            name,
            "all_plugins"
                | "client_statistics"
                | "engines"
                | "files"
                | "index_statistics"
                | "metadata_lock_info"
                | "optimizer_trace"
                | "plugins"
                | "processlist"
                | "profiling"
                | "query_response_time"
                | "slave_status"
                | "system_variables"
                | "table_statistics"
                | "user_statistics"
        )
}

/// What reading a system variable is.
pub enum Variable {
    Safe,
    ServerLocal,
    Recall(Recall),
}

/// A variable by what stands behind `@@`, in lower case.
pub fn variable(name: &str) -> Variable {
    let plain = name.replace('`', "");
    let (scope, plain) = match plain.split_once('.') {
        Some((scope @ ("global" | "session" | "local" | "persist" | "persist_only"), rest)) => {
            (scope, rest)
        }
        _ => ("session", plain.as_str()),
    };
    match plain {
        "warning_count" | "error_count" => Variable::Recall(Recall::Diagnostics),
        "identity" | "last_insert_id" => Variable::Recall(Recall::InsertId),
        _ if !TABLES.variables.contains(plain) => Variable::ServerLocal,
        _ if matches!(scope, "session" | "local") || same_everywhere(plain) => Variable::Safe,
        _ => Variable::ServerLocal,
    }
}

/// Whether even the global value may be asked of any server: the program's own, and those that
/// tell which server answers.
fn same_everywhere(name: &str) -> bool {
    name.starts_with("version")
        || matches!(
            name,
            "hostname"
                | "innodb_read_only"
                | "license"
                | "lower_case_file_system"
                | "lower_case_table_names"
                | "port"
                | "protocol_version"
                | "read_only"
                | "server_id"
                | "server_uuid"
                | "super_read_only"
        )
}

/// What a call leaves behind in the session, or what of it the answer tells.
pub fn trace(name: &str, has_arguments: bool) -> &'static [SessionEffect] {
    const LOCK: SessionEffect = SessionEffect::Pin(Pin::AdvisoryLock);
    const UNLOCK: SessionEffect = SessionEffect::Doubt(Pin::AdvisoryLock);
    match name {
        // The lock may not have been had.
        "get_lock" => &[LOCK, UNLOCK],
        "release_lock" => &[UNLOCK],
        "release_all_locks" => &[SessionEffect::Unpin(Pin::AdvisoryLock)],
        "last_insert_id" if has_arguments => &[SessionEffect::Pin(Pin::Sequence)],
        "last_insert_id" => &[SessionEffect::Recall(Recall::InsertId)],
        "found_rows" => &[SessionEffect::Recall(Recall::FoundRows)],
        "row_count" => &[SessionEffect::Recall(Recall::RowCount)],
        "nextval" | "lastval" | "setval" => &[SessionEffect::Pin(Pin::Sequence)],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_those_of_the_server() {
        use Builtin::*;
        let cases = [
            ("lower", Safe, Safe),
            ("regexp_like", Safe, Unknown),
            ("natural_sort_key", Unknown, Safe),
            ("sleep", Safe, Safe),
            ("uuid_short", ServerLocal, ServerLocal),
            ("get_lock", Refused, Refused),
            ("no_such_function", Unknown, Unknown),
        ];
        for (name, mysql, mariadb) in cases {
            assert_eq!(function(Engine::MySql, name), mysql, "{name}");
            assert_eq!(function(Engine::MariaDb, name), mariadb, "{name}");
        }
    }
}
