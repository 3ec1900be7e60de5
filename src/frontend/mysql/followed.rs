//! What a session has beyond transaction and pins, as its servers' trackers tell it: every
//! connection that serves it is made to have the same.

use super::welcome::is_readable_collation;
use crate::backend::mysql::Traces;
use crate::backend::mysql::variables::{Variables, as_sql};
use crate::protocol::mysql::capabilities::Status;
use crate::session::Settings;
use crate::sql::mysql::{Engine, Reading, is_readable_charset};
use crate::topology::{NodeId, SessionDefaults};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Followed {
    /// Of the client's handshake; `None`: forgotten, and the servers' own counts.
    pub collation: Option<u8>,
    pub variables: Arc<Variables>,
    pub schema: Option<Arc<[u8]>>,
    /// Whether texts in `character_set_client` can be classified.
    pub is_readable: bool,
    /// How texts are read (`sql_mode`), once that is known.
    pub reading: Reading,
    pub knows_reading: bool,
    pub autocommit: bool,
    pub in_transaction: bool,
    /// How often the session has begun anew (COM_RESET_CONNECTION).
    pub generation: u32,
    /// What LAST_INSERT_ID() gives.
    pub insert_id: u64,
    /// The statement before, which the next one may ask about.
    pub last: Option<Last>,
    /// SET TRANSACTION has said something of the next one.
    pub next_transaction: bool,
}

/// How a session's texts are read at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    Known(Reading),
    /// No server has told the `sql_mode` yet.
    Untold,
    /// By a character set in which nobody here can tell where a string ends.
    Unreadable,
}

/// No connection of a server has this number.
pub const NOBODY: u32 = 0;

/// What is left of a session's last statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub node: NodeId,
    /// The server's number of the connection.
    pub connection: u32,
    pub diagnostics: Diagnostics,
    /// What ROW_COUNT() gives.
    pub row_count: i64,
    /// That is 0 for a command that the proxy has answered, or another connection has run.
    pub changed_no_row: bool,
    /// The connection also knows what FOUND_ROWS() gives.
    pub found_rows: bool,
    /// What has been prepared elsewhere since would have replaced the warnings there.
    pub outlived: bool,
}

/// Where the warnings and the error are that SHOW WARNINGS tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostics {
    None,
    /// On the last statement's connection.
    There,
    /// On one of an earlier statement, which the last one has not replaced: on MariaDB only what
    /// names a table does.
    Elsewhere,
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
    /// Nothing is known yet.
    pub fn new(collation: Option<u8>, reading: Reading) -> Followed {
        Followed {
            collation,
            variables: Arc::default(),
            is_readable: false,
            reading,
            knows_reading: false,
            schema: None,
            autocommit: true,
            in_transaction: false,
            generation: 0,
            insert_id: 0,
            last: None,
            next_transaction: false,
        }
    }

    /// A new session, or after COM_RESET_CONNECTION: only the schema stays. `defaults` are those
    /// of the servers, as far as they are known; gives the settings that decide on transactions.
    pub fn begin(
        &mut self,
        startup: Variables,
        reading: Reading,
        defaults: Option<&SessionDefaults>,
    ) -> Arc<Settings> {
        *self = Followed {
            schema: self.schema.take(),
            generation: self.generation.wrapping_add(1),
            variables: Arc::new(startup),
            is_readable: self.collation.is_some_and(is_readable_collation),
            ..Followed::new(self.collation, reading)
        };
        let mut settings = Arc::default();
        for (name, value) in defaults.unwrap_or_default() {
            let counts = match *name {
                // What sessions begin with may change: the mode that this one goes by is its own.
                "sql_mode" => true,
                // It is run, and what it sets is told.
                "init_connect" => false,
                name if name.starts_with("c") => self.collation.is_none(),
                name => !is_usual(name, value),
            };
            if counts {
                self.variable(name.as_bytes(), value.as_bytes(), &mut settings);
            }
        }
        settings
    }

    /// A server told a variable's new value. `settings` are what decides on transactions.
    pub fn variable(
        &mut self,
        name: &[u8],
        value: &[u8],
        settings: &mut Arc<Settings>,
    ) -> Followable {
        // The most frequent ones: MySQL 9 tells of `statement_id` with each reply.
        if !is_of_session(name) || name.starts_with(b"session_track_") {
            return Followable::Yes;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if OF_CONNECTION.contains(&name.as_str()) {
            return Followable::No;
        }
        match name.as_str() {
            "character_set_client" => {
                self.is_readable = is_readable_charset(&String::from_utf8_lossy(value));
            }
            "sql_mode" => {
                self.knows_reading = true;
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
        // The only one that can be NULL, which is told as an empty text.
        let is_null = name == "character_set_results" && value.is_empty();
        let sql = if is_null { Some("NULL".into()) } else { as_sql(value) };
        let Some(sql) = sql else { return Followable::No };
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
        // Of this one the tracker has told what it is.
        if name != "sql_mode" && self.variables.get(name).is_some() {
            Arc::make_mut(&mut self.variables).remove(name);
        }
    }

    /// SET NAMES has run, with this COLLATE; of the collation no tracker tells.
    pub fn collation(&mut self, name: Option<&str>) {
        let name = name.map(|name| name.trim_matches(['\'', '"']));
        let is_name =
            |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match name.filter(is_name) {
            Some(name) => {
                let sql = format!("'{name}'").into();
                Arc::make_mut(&mut self.variables).set("collation_connection", sql);
            }
            None => self.default("collation_connection"),
        }
    }

    /// How texts are read now.
    pub fn rules(&self) -> Rules {
        match (self.is_readable, self.knows_reading) {
            (false, _) => Rules::Unreadable,
            (true, false) => Rules::Untold,
            (true, true) => Rules::Known(self.reading),
        }
    }

    /// The status flags of a session's reply.
    pub fn status(&mut self, status: Status) {
        self.in_transaction = status.has(Status::IN_TRANS);
        self.autocommit = status.has(Status::AUTOCOMMIT);
    }

    /// The status flags for a reply of the proxy's own.
    pub fn flags(&self) -> Status {
        let Reading { engine, ansi_quotes, no_backslash_escapes } = self.reading;
        let flags = [
            (self.autocommit, Status::AUTOCOMMIT),
            (self.in_transaction, Status::IN_TRANS),
            (no_backslash_escapes, Status::NO_BACKSLASH_ESCAPES),
            (ansi_quotes && engine == Engine::MariaDb, Status::ANSI_QUOTES),
        ];
        let set = flags.into_iter().filter(|(is_set, _)| *is_set);
        set.fold(Status::default(), |all, (_, flag)| all.with(flag))
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

/// Whether it is a variable that somebody sets.
pub fn is_of_session(name: &[u8]) -> bool {
    !NOT_FOLLOWED.iter().any(|known| known.as_bytes() == name)
}

/// Whether servers have it so if nobody has set it.
fn is_usual(name: &str, value: &str) -> bool {
    match name {
        "autocommit" => is_on(value.as_bytes()),
        "transaction_isolation" | "tx_isolation" => value == "REPEATABLE-READ",
        "transaction_read_only" | "tx_read_only" => !is_on(value.as_bytes()),
        _ => false,
    }
}

fn is_on(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"on") || value == b"1"
}

#[cfg(test)]
mod tests {
    use super::{Followable, Followed};
    use crate::protocol::mysql::capabilities::Status;
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
        let mut session = Followed::new(Some(45), Reading::new(Engine::MySql));
        let table = [
            ("time_zone", "+01:00", Followable::Yes, Some("'+01:00'")),
            ("max_execution_time", "10", Followable::Yes, Some("10")),
            ("last_gtid", "0-1-2", Followable::Yes, None),
            ("session_track_schema", "OFF", Followable::Yes, None),
            ("insert_id", "5", Followable::No, None),
            ("sql_mode", "a\\b", Followable::No, None),
            ("character_set_results", "", Followable::Yes, Some("NULL")),
            ("init_connect", "", Followable::Yes, Some("''")),
        ];
        for (name, value, followable, sql) in table {
            assert_eq!(told(&mut session, name, value).0, followable, "{name}");
            assert_eq!(session.variables.get(name).map(|sql| &**sql), sql, "{name}");
        }
        session.collation(Some("'utf8mb4_bin'"));
        let collation = session.variables.get("collation_connection");
        assert_eq!(collation.map(|sql| &**sql), Some("'utf8mb4_bin'"));
        session.collation(None);
        assert_eq!(session.variables.get("collation_connection"), None);
        session.default("time_zone");
        assert_eq!(session.variables.get("time_zone"), None);
        told(&mut session, "autocommit", "OFF");
        assert!(!session.autocommit);
        let (_, settings) = told(&mut session, "transaction_read_only", "ON");
        assert!(settings.is_on("default_transaction_read_only"));
        let (_, settings) = told(&mut session, "tx_isolation", "SERIALIZABLE");
        assert!(settings.is_serializable_by_default());
        session.begin(Default::default(), Reading::new(Engine::MySql), None);
        assert!(session.autocommit && session.variables.is_empty() && !session.knows_reading);
    }

    #[test]
    fn a_session_begins_with_what_the_servers_are_set_to() {
        let plain = Reading::new(Engine::MySql);
        let mut session = Followed::new(Some(45), plain);
        let usual: [(&str, Box<str>); 4] = [
            ("sql_mode", "ANSI_QUOTES,STRICT_TRANS_TABLES".into()),
            ("autocommit", "1".into()),
            ("transaction_isolation", "REPEATABLE-READ".into()),
            ("transaction_read_only", "0".into()),
        ];
        let settings = session.begin(Default::default(), plain, Some(&usual));
        assert!(session.knows_reading && session.reading.ansi_quotes && session.autocommit);
        assert!(settings.is_empty());
        let mode = Some("'ANSI_QUOTES,STRICT_TRANS_TABLES'");
        assert_eq!(session.variables.get("sql_mode").map(|sql| &**sql), mode);
        assert_eq!(session.variables.get("autocommit"), None);
        let other: [(&str, Box<str>); 2] =
            [("autocommit", "0".into()), ("tx_isolation", "SERIALIZABLE".into())];
        let settings = session.begin(Default::default(), plain, Some(&other));
        assert!(!session.autocommit && settings.is_serializable_by_default());
        assert_eq!(session.variables.get("autocommit").map(|sql| &**sql), Some("0"));
        told(&mut session, "sql_mode", "NO_BACKSLASH_ESCAPES");
        assert!(session.flags().has(Status::NO_BACKSLASH_ESCAPES));
        // A server that forgets the handshake's character set has its own.
        let set: [(&str, Box<str>); 1] = [("character_set_client", "gbk".into())];
        session.begin(Default::default(), plain, Some(&set));
        assert!(session.is_readable && session.variables.is_empty());
        session.collation = None;
        session.begin(Default::default(), plain, Some(&set));
        assert!(!session.is_readable && session.variables.get("character_set_client").is_some());
        session.collation = Some(45);
        session.begin(Default::default(), plain, Some(&usual));
        // DEFAULT is a value like any other.
        told(&mut session, "sql_mode", "NO_BACKSLASH_ESCAPES");
        session.default("sql_mode");
        assert!(
            session.reading.no_backslash_escapes && session.variables.get("sql_mode").is_some()
        );
    }
}
