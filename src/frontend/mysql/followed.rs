//! What a session has beyond transaction and pins, as its servers' trackers tell it: every
//! connection that serves it is made to have the same.

use crate::backend::mysql::Traces;
use crate::backend::mysql::variables::{Variables, as_sql};
use crate::protocol::mysql::capabilities::Status;
use crate::session::Settings;
use crate::sql::mysql::{Reading, is_readable_charset};
use std::sync::Arc;

#[derive(Debug)]
pub struct Followed {
    /// What the login brought: where a reset goes back to.
    startup: Arc<Variables>,
    pub variables: Arc<Variables>,
    pub schema: Option<Arc<[u8]>>,
    /// Whether texts in `character_set_client` can be classified.
    pub is_readable: bool,
    startup_is_readable: bool,
    /// How texts are read (`sql_mode`).
    pub reading: Reading,
    startup_reading: Reading,
    pub autocommit: bool,
    pub in_transaction: bool,
    /// How often the session has begun anew (COM_RESET_CONNECTION).
    pub generation: u32,
    /// What LAST_INSERT_ID() gives.
    pub insert_id: u64,
    /// A statement has run, that the next one may ask about.
    pub ran: bool,
    /// SET TRANSACTION has said something of the next one.
    pub next_transaction: bool,
}

/// What of a variable the session cannot take along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followable {
    Yes,
    /// The connection must be kept.
    No,
}

/// Variables whose value is used up by the next statement, or belongs to one connection only.
const OF_CONNECTION: &[&str] = &[
    "insert_id",
    "rand_seed1",
    "rand_seed2",
    "gtid_next",
    "gtid_domain_id",
    "gtid_seq_no",
    "server_id",
    "sql_log_bin",
    "pseudo_thread_id",
    "pseudo_slave_mode",
    "pseudo_replica_mode",
    "skip_replication",
];

/// Variables that are the proxy's own, or tell what the servers did and not what a client set.
const NOT_FOLLOWED: &[&str] =
    &["last_gtid", "last_insert_id", "identity", "warning_count", "statement_id"];

impl Followed {
    pub fn new(startup: Arc<Variables>, is_readable: bool, reading: Reading) -> Followed {
        Followed {
            reading,
            startup_reading: reading,
            is_readable,
            startup_is_readable: is_readable,
            variables: startup.clone(),
            startup,
            schema: None,
            autocommit: true,
            in_transaction: false,
            generation: 0,
            insert_id: 0,
            ran: false,
            next_transaction: false,
        }
    }

    /// COM_RESET_CONNECTION: only the schema stays.
    pub fn reset(&mut self) {
        self.variables = self.startup.clone();
        self.is_readable = self.startup_is_readable;
        self.reading = self.startup_reading;
        self.autocommit = true;
        self.in_transaction = false;
        self.generation = self.generation.wrapping_add(1);
        self.insert_id = 0;
        self.ran = false;
        self.next_transaction = false;
    }

    /// A server told a variable's new value. `settings` are what decides on transactions.
    pub fn variable(
        &mut self,
        name: &[u8],
        value: &[u8],
        settings: &mut Arc<Settings>,
    ) -> Followable {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if NOT_FOLLOWED.contains(&name.as_str()) || name.starts_with("session_track_") {
            return Followable::Yes;
        }
        if OF_CONNECTION.contains(&name.as_str()) {
            return Followable::No;
        }
        match name.as_str() {
            "character_set_client" => {
                self.is_readable = is_readable_charset(&String::from_utf8_lossy(value));
            }
            "sql_mode" => {
                self.reading = self.reading.with_sql_mode(&String::from_utf8_lossy(value));
            }
            "autocommit" => self.autocommit = is_on(value),
            "transaction_read_only" | "tx_read_only" => {
                let word = if is_on(value) { "on" } else { "off" };
                Arc::make_mut(settings).set("default_transaction_read_only".into(), word.into());
            }
            "transaction_isolation" | "tx_isolation" => {
                let level = match value {
                    b"SERIALIZABLE" => "'serializable'",
                    _ => "'repeatable read'",
                };
                Arc::make_mut(settings).set("default_transaction_isolation".into(), level.into());
            }
            _ => {}
        }
        let Some(sql) = as_sql(value) else { return Followable::No };
        if self.variables.get(&name) == Some(&sql)
            || Arc::make_mut(&mut self.variables).set(&name, sql)
        {
            Followable::Yes
        } else {
            Followable::No
        }
    }

    /// A variable has gone back to the server's own value, whatever that is.
    pub fn default(&mut self, name: &str) {
        if self.variables.get(name).is_some() {
            Arc::make_mut(&mut self.variables).remove(name);
        }
    }

    /// The status flags of a session's reply.
    pub fn status(&mut self, status: Status) {
        self.in_transaction = status.has(Status::IN_TRANS);
        self.autocommit = status.has(Status::AUTOCOMMIT);
    }

    /// The status flags for a reply of the proxy's own.
    pub fn flags(&self) -> Status {
        let mut flags = Status::default();
        if self.autocommit {
            flags = flags.with(Status::AUTOCOMMIT);
        }
        if self.in_transaction {
            flags = flags.with(Status::IN_TRANS);
        }
        flags
    }

    /// The connection has what the session has now.
    pub fn leave_on(&self, traces: &mut Traces) {
        if !Arc::ptr_eq(&traces.variables, &self.variables) {
            traces.variables = self.variables.clone();
        }
        if traces.schema != self.schema {
            traces.schema = self.schema.clone();
        }
    }
}

fn is_on(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"on") || value == b"1"
}

#[cfg(test)]
mod tests {
    use super::{Followable, Followed};
    use crate::session::Settings;
    use crate::sql::mysql::{Engine, Reading};
    use std::sync::Arc;

    fn told(session: &mut Followed, name: &str, value: &str) -> (Followable, Arc<Settings>) {
        let mut settings = Arc::default();
        let followable = session.variable(name.as_bytes(), value.as_bytes(), &mut settings);
        (followable, settings)
    }

    #[test]
    fn what_trackers_tell_is_followed_where_it_can_be() {
        let mut session = Followed::new(Arc::default(), true, Reading::new(Engine::MySql));
        let table = [
            ("time_zone", "+01:00", Followable::Yes, Some("'+01:00'")),
            ("max_execution_time", "10", Followable::Yes, Some("10")),
            ("last_gtid", "0-1-2", Followable::Yes, None),
            ("session_track_schema", "OFF", Followable::Yes, None),
            ("insert_id", "5", Followable::No, None),
            ("sql_mode", "a\\b", Followable::No, None),
        ];
        for (name, value, followable, sql) in table {
            assert_eq!(told(&mut session, name, value).0, followable, "{name}");
            assert_eq!(session.variables.get(name).map(|sql| &**sql), sql, "{name}");
        }
        session.default("time_zone");
        assert_eq!(session.variables.get("time_zone"), None);
        told(&mut session, "autocommit", "OFF");
        assert!(!session.autocommit);
        let (_, settings) = told(&mut session, "transaction_read_only", "ON");
        assert!(settings.is_on("default_transaction_read_only"));
        let (_, settings) = told(&mut session, "tx_isolation", "SERIALIZABLE");
        assert!(settings.is_serializable_by_default());
        session.reset();
        assert!(session.autocommit && session.variables.is_empty());
    }
}
