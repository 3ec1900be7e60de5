//! Statements that came by Parse, as SQL sees them: EXECUTE, PREPARE of the same name, and
//! `pg_prepared_statements`.
//!
//! On servers they have names of the proxy's own ([`super::statements::server_name`]), and those of
//! other clients are there as well. A simple query that may meet one by its name finds it made for
//! it under the client's name, and closed afterwards:
//!
//! ```text
//! client:                      Query EXECUTE s1 (7)
//! server: Parse s1, Sync       Query EXECUTE s1 (7)       Close s1, Sync
//! ```

use super::encode::Encoder;
use super::statements::{Prepared, Statements, server_name};
use crate::backend::postgres::replies::{Expected, Kind, Way};
use crate::protocol::postgres::request;
use crate::sql::{SessionEffect, Statement};
use std::rc::Rc;
use std::sync::Arc;

/// Where SQL sees all of them.
const VIEW: &str = "pg_prepared_statements";
const FUNCTION: &str = "pg_prepared_statement";

/// Statements of the client that a query may meet by their names.
#[derive(Debug, Clone)]
pub struct OwnNames {
    statements: Vec<(Box<[u8]>, Rc<Prepared>)>,
    /// It may see whatever there is.
    all: bool,
}

impl OwnNames {
    /// What a query may meet; `None`: nothing that came by Parse.
    pub fn of(statement: &Statement, statements: &Statements) -> Option<OwnNames> {
        let is = |name: &Arc<str>, what: &str| name.rsplit('.').next() == Some(what);
        if statement.tables_read.iter().any(|name| is(name, VIEW))
            || statement.functions.iter().any(|name| is(name, FUNCTION))
        {
            let all =
                statements.named.iter().map(|(name, prepared)| (name.clone(), prepared.clone()));
            return Some(OwnNames { statements: all.collect(), all: true });
        }
        let named = statement.session.iter().filter_map(|effect| match effect {
            SessionEffect::Execute { name } | SessionEffect::Prepare { name, .. } => {
                let prepared = statements.get(name.as_bytes())?;
                Some((name.as_bytes().into(), prepared.clone()))
            }
            _ => None,
        });
        let named: Vec<_> = named.collect();
        (!named.is_empty()).then_some(OwnNames { statements: named, all: false })
    }
}

impl Encoder<'_> {
    /// A simple query with the statements that it may meet. What cannot be made (its table is gone)
    /// is not there.
    pub(super) fn query_with(
        &mut self,
        own: &OwnNames,
        statement: &Arc<Statement>,
        message: &[u8],
    ) {
        if own.all {
            self.forget_all();
        }
        for (name, prepared) in &own.statements {
            self.put(|out| request::put_parse(out, name, &prepared.sql, &prepared.types));
            self.expect(Kind::Parse, Way::Ask);
            self.sync();
        }
        self.connection.unnamed = None;
        self.forward(message, Kind::Query, Some(statement));
        for (name, _) in &own.statements {
            self.put(|out| request::put_statement(out, b'C', name));
            self.expect(Kind::Close, Way::Ask);
        }
        self.sync();
    }

    /// The server forgets what the proxy has made there: it is prepared again when it is used.
    fn forget_all(&mut self) {
        for id in self.connection.prepared.take() {
            self.put(|out| request::put_statement(out, b'C', &server_name(id)));
            self.expect(Kind::Close, Way::Ask);
        }
        self.close_spare();
    }

    fn sync(&mut self) {
        self.outbox.extend(request::SYNC);
        self.replies.push(Expected::new(Kind::Sync, Way::Ask));
    }
}
