//! Makes a server connection the session's: what another session has left on it goes, what this
//! one has comes, and the statement that it executes is prepared there.
//!
//! Where the other one has only run what leaves nothing but what is followed ([`Traces`]), its
//! prepared statements are closed and what variables this one has is set, both without waiting for an
//! answer. Otherwise COM_RESET_CONNECTION goes first, and a SET of the trackers, which it turns off.
//!
//! [`Traces`]: crate::backend::mysql::traces::Traces

use super::active::{Active, Broken, Whose};
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::initiate;
use super::plan::{Request, What};
use crate::backend::mysql::connection::trackers;
use crate::backend::mysql::variables::Variables;
use crate::frontend::mysql::serve::Served;
use crate::metrics::ServerClosed;
use crate::protocol::mysql::command;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::replies::Awaits;
use std::sync::Arc;

/// Closed at once on a connection whose owner has closed them; more wait for the next time.
const SWEPT_MIN: usize = 1;

impl Conversation {
    /// Asks for what makes the connection the session's for this request; nothing is asked of one
    /// that is.
    pub(super) fn bring_for(&mut self, active: &mut Active, request: &Request) {
        // What a session that has run nothing asks about is the connection's.
        let asks_of_nothing = self.followed.last.is_none() && self.recalls(request);
        active.connection().traces.unclean |= asks_of_nothing;
        self.bring(active, self.recalls_insert_id(request));
        active.connection().traces.unclean |= !request.leaves_nothing();
    }

    /// The same without a request. Whatever is run then may leave something on the connection.
    pub(super) fn bring(&mut self, active: &mut Active, recalls_id: bool) {
        let mariadb = active.connection().server.mariadb;
        let process_id = Some(self.entry.process_id);
        let traces = &mut active.connection().traces;
        let mine = traces.owner == process_id && traces.generation == self.followed.generation;
        // What `init_connect` has done to a new one is some session's already, or nobody's.
        let is_foreign = !mine
            && (traces.unclean || traces.owner.is_none() && initiate::is_asked_for(&self.cluster));
        // DEFAULT is not the server's own value for all variables (`foreign_key_checks`).
        let lacks_default = !Arc::ptr_eq(&traces.variables, &self.followed.variables)
            && !traces.variables.all_wanted(&self.followed.variables);
        let resets = is_foreign || lacks_default && self.is_free();
        traces.owner = process_id;
        traces.generation = self.followed.generation;
        let mut sets = Vec::new();
        if resets {
            traces.unclean = false;
            traces.variables = Default::default();
            traces.prepared = Default::default();
            traces.insert_id = 0;
            traces.untracked = true;
        }
        // Trackers cannot be set in a transaction.
        let untracked = traces.untracked && !self.followed.in_transaction;
        traces.untracked &= self.followed.in_transaction;
        sets.extend(bring_variables(&mut self.followed.variables, &mut traces.variables));
        if recalls_id && traces.insert_id != self.followed.insert_id {
            traces.insert_id = self.followed.insert_id;
            traces.unclean = true;
            sets.push(format!("last_insert_id = {}", self.followed.insert_id));
        }
        let schema = self
            .followed
            .schema
            .clone()
            .filter(|schema| traces.schema.as_deref() != Some(&**schema));
        if let Some(schema) = &schema {
            traces.schema = Some(schema.clone());
        }
        let statements = &self.statements;
        let closed = if !mine {
            traces.prepared.take()
        } else if traces.prepared.len() >= statements.len() + SWEPT_MIN {
            traces.prepared.sweep(|own| statements.contains(own))
        } else {
            Vec::new()
        };
        if resets {
            active.ask(Awaits::Ok, Whose::Own, |out| out.push(command::RESET_CONNECTION));
        }
        for id in closed {
            active.close_statement(id);
        }
        if untracked {
            sets.insert(0, trackers(mariadb).trim_start_matches("SET ").to_owned());
        }
        active.set(&sets.join(", "));
        if let Some(schema) = schema {
            active.use_schema(&schema);
        }
    }

    /// Whether the connection has to be changed for a moment to prepare what the request executes:
    /// then it has not run the session's last statement as the last.
    pub(super) fn is_reread(&self, active: &mut Active, request: &Request) -> bool {
        let What::Execute { id } = request.what else { return false };
        if active.connection().traces.prepared.touch(id).is_some() {
            return false;
        }
        self.statements.get(id).is_some_and(|prepared| {
            let there = reread(&self.followed.variables, &prepared.variables).0;
            prepared.schema != self.followed.schema || !there.is_empty()
        })
    }

    /// Prepares the statement that the request executes, where the connection does not have it, as
    /// it was prepared: in the same schema, and read by the same variables.
    pub(super) fn bring_statement(&mut self, active: &mut Active, request: &Request) {
        let (What::Execute { id } | What::LongData { id } | What::Fetch { id }) = request.what
        else {
            return;
        };
        let Some(prepared) = self.statements.get(id) else { return };
        if active.connection().traces.prepared.touch(id).is_some() {
            return;
        }
        let elsewhere = prepared.schema != self.followed.schema;
        let (there, back) = reread(&self.followed.variables, &prepared.variables);
        if let Some(schema) = prepared.schema.as_ref().filter(|_| elsewhere) {
            active.use_schema(schema);
        }
        active.set(&there);
        let sql = prepared.sql.clone();
        active.ask(Awaits::Prepare, Whose::Prepare(id), |out| {
            out.push(command::STMT_PREPARE);
            out.extend_from_slice(&sql);
        });
        active.set(&back);
        if let Some(schema) = self.followed.schema.as_ref().filter(|_| elsewhere) {
            active.use_schema(schema);
        }
    }

    /// What the proxy asked has failed: the client is told, or the request goes elsewhere.
    pub(super) fn not_brought(
        &mut self,
        mut broken: Broken,
        request: &Request,
    ) -> Result<Served, Fault> {
        if let (What::Fetch { id }, Some(active), true) =
            (&request.what, &self.active, broken.by_statement)
        {
            // Where it was not prepared it has no cursor, whatever the server says to its text.
            let stop = if active.server.pooled.connection.server.mariadb { "" } else { "." };
            broken.code = errors::NO_OPEN_CURSOR;
            broken.message = format!("The statement ({id}) has no open cursor{stop}");
        }
        let may_move = self.is_on_replica() && self.is_free();
        if !broken.by_statement {
            if !self.is_free() {
                // What the session has there goes with the connection.
                return Err(Fault::Login { code: broken.code, message: broken.message });
            }
            self.drop_server(ServerClosed::Dirty);
        }
        if may_move {
            return Ok(Served::Repeat);
        }
        self.worker.stats().error(crate::metrics::ErrorOrigin::Server, &broken.code.sqlstate);
        Ok(Served::Refused(Refused::new(broken.code, broken.message)))
    }
}

/// What a SET is to say before a text is read as it was at another time, and behind it.
fn reread(now: &Arc<Variables>, then: &Arc<Variables>) -> (String, String) {
    if Arc::ptr_eq(now, then) {
        return Default::default();
    }
    let (now, then) = (now.of_texts(), then.of_texts());
    (now.difference(&then), then.difference(&now))
}

/// What a SET is to say for a connection to have the session's variables, which are taken to be there
/// from now on.
fn bring_variables(own: &mut Arc<Variables>, there: &mut Arc<Variables>) -> Option<String> {
    if Arc::ptr_eq(own, there) {
        return None;
    }
    let difference = there.difference(own);
    if difference.is_empty() {
        // Sessions that have the same come to share it: nothing is compared any more.
        *own = there.clone();
        return None;
    }
    *there = own.clone();
    Some(difference)
}

impl Active {
    pub fn close_statement(&mut self, id: u32) {
        self.ask(Awaits::Nothing, Whose::Own, |out| {
            out.push(command::STMT_CLOSE);
            out.extend_from_slice(&id.to_le_bytes());
        });
    }

    /// Sets variables; nothing if there are none.
    fn set(&mut self, assignments: &str) {
        if !assignments.is_empty() {
            let (agreed, sql) = (self.connection().capabilities, format!("SET {assignments}"));
            self.ask(Awaits::Results, Whose::Own, |out| put_query(out, agreed, &sql));
        }
    }

    fn use_schema(&mut self, schema: &[u8]) {
        self.ask(Awaits::Ok, Whose::Own, |out| {
            out.push(command::INIT_DB);
            out.extend_from_slice(schema);
        });
    }
}
