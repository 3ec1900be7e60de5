//! What a text does, by the rules that hold in the session and by the cluster's catalog.

use super::conversation::Conversation;
use super::followed::Rules;
use crate::config;
use crate::sql::mysql::{Engine, Reading};
use crate::sql::{Dialect, Effect, Pin, SessionEffect, Statement};
use std::sync::Arc;

/// How texts of a cluster's clients are read, before any SET.
pub fn reading_of(engine: config::Engine) -> Reading {
    Reading::new(match engine {
        config::Engine::Mariadb => Engine::MariaDb,
        config::Engine::Mysql | config::Engine::Postgres => Engine::MySql,
    })
}

impl Conversation {
    pub(super) fn classify(&self, text: &[u8]) -> Arc<Statement> {
        self.classify_by(text, self.followed.rules())
    }

    pub(super) fn classify_by(&self, text: &[u8], rules: Rules) -> Arc<Statement> {
        let reading = match rules {
            Rules::Known(reading) => reading,
            Rules::Untold => return Arc::new(unreadable("no server has told its sql_mode yet")),
            Rules::Unreadable => {
                let reason = "its character_set_client cannot be read by the proxy";
                return Arc::new(unreadable(reason));
            }
        };
        let catalog = self.catalog.load();
        let dialect = Dialect::MySql(reading);
        let statement = {
            let mut classifier = self.worker.classifier.borrow_mut();
            let (hits, _) = classifier.hits_and_misses();
            let statement = classifier.classify(text, dialect, &catalog);
            self.worker.stats().classify_cache(classifier.hits_and_misses().0 > hits);
            statement
        };
        if matches!(statement.effect, Effect::Unknown | Effect::Write) {
            self.unsafe_statement(&statement);
        }
        statement
    }

    /// Counts why a statement is not known to be a read; a name that is not in the catalog may be
    /// new.
    fn unsafe_statement(&self, statement: &Statement) {
        if matches!(statement.reason_code, "unknown_relation" | "unknown_function") {
            self.catalog.ask();
            self.worker.stats().classified_unsafe(statement.reason_code);
        } else if statement.effect == Effect::Unknown {
            self.worker.stats().classified_unsafe(statement.reason_code);
        }
    }

    pub(super) fn catalog_version(&self) -> u64 {
        self.catalog.load().version
    }
}

/// A text of which nobody here can tell where a string ends.
fn unreadable(reason: &str) -> Statement {
    Statement {
        effect: Effect::Unknown,
        reason: reason.into(),
        reason_code: "unreadable_encoding",
        tables_read: vec![],
        tables_written: vec![],
        functions: vec![],
        session: vec![SessionEffect::Pin(Pin::Unknown)],
        ends_first: false,
        count: 1,
        is_ddl: false,
        hint: None,
    }
}
