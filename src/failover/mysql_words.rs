//! What the same errand is called on MySQL and on MariaDB.

/// MySQL has renamed what MariaDB calls as ever.
pub(super) struct Words {
    pub(super) replica: &'static str,
    pub(super) status: &'static str,
    pub(super) change: &'static str,
    pub(super) prefix: &'static str,
    pub(super) by_gtid: &'static str,
    pub(super) host: &'static str,
    pub(super) port: &'static str,
    pub(super) receives: &'static str,
    pub(super) applies: &'static str,
    pub(super) received: &'static str,
    /// The variable with the seconds that a receiver waits for an upstream that says nothing: when it
    /// connects (MySQL), and when it ends its old session there because it is stopped (MariaDB, if
    /// replication is semi-synchronous).
    pub(super) bound: &'static str,
    /// Read-only, written, applied.
    pub(super) place: &'static str,
    /// What was ever written there: all of it must be on whom it is to follow.
    pub(super) history: &'static str,
    /// Over a restart, where that can be: a primary stays one, and a replica, too.
    pub(super) kept: &'static str,
    pub(super) read_only: &'static str,
    pub(super) writable: &'static str,
}

pub(super) const MYSQL: Words = Words {
    replica: "REPLICA",
    status: "SHOW REPLICA STATUS",
    change: "CHANGE REPLICATION SOURCE TO",
    prefix: "SOURCE",
    by_gtid: "SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1",
    host: "Source_Host",
    port: "Source_Port",
    receives: "Replica_IO_Running",
    applies: "Replica_SQL_Running",
    received: "Retrieved_Gtid_Set",
    bound: "replica_net_timeout",
    place: "SELECT @@GLOBAL.read_only, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_executed",
    history: "SELECT @@GLOBAL.gtid_executed",
    kept: "PERSIST",
    read_only: "SET PERSIST super_read_only = ON",
    writable: "SET PERSIST super_read_only = OFF; SET PERSIST read_only = OFF",
};

pub(super) const MARIADB: Words = Words {
    replica: "SLAVE",
    status: "SHOW SLAVE STATUS",
    change: "CHANGE MASTER TO",
    prefix: "MASTER",
    by_gtid: "MASTER_USE_GTID = slave_pos",
    host: "Master_Host",
    port: "Master_Port",
    receives: "Slave_IO_Running",
    applies: "Slave_SQL_Running",
    received: "Gtid_IO_Pos",
    bound: "rpl_semi_sync_slave_kill_conn_timeout",
    place: "SELECT @@GLOBAL.read_only, @@GLOBAL.gtid_current_pos, @@GLOBAL.gtid_slave_pos",
    history: "SELECT @@GLOBAL.gtid_binlog_state",
    kept: "GLOBAL",
    read_only: "SET GLOBAL read_only = ON",
    writable: "SET GLOBAL read_only = OFF",
};
