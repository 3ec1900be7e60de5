//! Questions about the statement before: FOUND_ROWS(), ROW_COUNT(), LAST_INSERT_ID(), warnings.
//!
//! Their answer is on the connection that ran it. It is kept for what is known to be asked about
//! (SQL_CALC_FOUND_ROWS) and for a moment behind warnings and errors (`release.rs`); otherwise it
//! is looked for among the idle ones. LAST_INSERT_ID() is brought to any connection, ROW_COUNT()
//! alone is known here, and where nothing was left, nothing is there. The rest is refused: never
//! is another statement's answer given.

use super::active::{Active, Whose};
use super::conversation::Conversation;
use super::errors;
use super::fault::Refused;
use super::followed::{Diagnostics, Last, NOBODY};
use super::learn::NO_ROW_COUNT;
use super::plan::{Request, What};
use crate::frontend::acquire::Seeker;
use crate::protocol::mysql::command::{Command, PING};
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::packet::{self, HEAD_BYTES};
use crate::protocol::mysql::replies::Awaits;
use crate::session::{Need, Wish};
use crate::sql::{Effect, Recall, SessionEffect};
use std::sync::atomic::Ordering;

/// Why the answer cannot be had.
const FORGOTTEN: &str = "the connection that ran the last statement serves others now: ask for \
    FOUND_ROWS(), ROW_COUNT() or warnings in the same transaction, or right after the statement";

/// A statement without warnings; on MariaDB it has to name a table for those before it to go.
const FORGET: &str = "DO (SELECT 1 FROM (SELECT 1) AS t)";

impl Request {
    /// Whether the statement before can be asked about behind it: it runs none.
    fn leaves_found_rows(&self) -> bool {
        match self.what {
            What::ResetStatement(_) | What::Fetch { .. } => true,
            // Of a statement that is not there.
            What::Execute { .. } => self.statement.is_none(),
            _ => false,
        }
    }

    /// Whether it asks about the statement before, in one of these ways.
    fn asks(&self, what: &[Recall]) -> bool {
        let asks = |effect: &SessionEffect| match effect {
            SessionEffect::Recall(recall) => what.contains(recall),
            _ => false,
        };
        self.statement.as_ref().is_some_and(|statement| statement.session.iter().any(asks))
    }
}

/// Whether the warnings of before are still there behind this: on MariaDB behind what names no table.
fn keeps_warnings(request: &Request, active: &Active) -> bool {
    let names_none = request.statement.as_ref().is_none_or(|statement| {
        let writes = matches!(statement.effect, Effect::Write | Effect::Unknown);
        statement.tables_read.is_empty() && !writes
    });
    active.server.pooled.connection.server.mariadb && names_none
}

impl Conversation {
    /// Whether the request's answer is about what the session ran before.
    pub(super) fn recalls(&self, request: &Request) -> bool {
        use Recall::{Diagnostics, FoundRows, InsertId, RowCount};
        let asks =
            matches!(request.what, What::Query | What::Execute { .. } | What::Prepare { .. })
                && request.asks(&[Diagnostics, FoundRows, RowCount, InsertId]);
        asks || request.leaves_found_rows()
    }

    pub(super) fn recalls_insert_id(&self, request: &Request) -> bool {
        request.asks(&[Recall::InsertId])
    }

    /// Another statement is to run: nobody asks any more what the one before has left.
    pub(super) fn goes_on(&mut self) {
        if self.session.pins.remove(crate::sql::Pin::FoundRows) {
            self.pins.hold(self.session.pins.iter().map(|pin| pin.as_str()));
        }
    }

    /// The session has run a statement there.
    pub(super) fn remember(&mut self, request: &Request, active: &Active) {
        let progress = &active.progress;
        // Only what selects has found any: behind everything else there is still the number of
        // another session.
        let selects = progress.found
            && request.statement.as_ref().is_some_and(|statement| statement.reason_code != "show");
        let found_rows = selects && !request.leaves_found_rows() && progress.failed.is_none()
            || progress.was_last && self.followed.last.is_some_and(|last| last.found_rows);
        let diagnostics = self.diagnostics_behind(request, active);
        self.followed.last = Some(Last {
            node: active.server.node,
            connection: active.server.pooled.connection.connection_id,
            diagnostics,
            row_count: progress.row_count,
            changed_no_row: false,
            found_rows,
            outlived: false,
        });
    }

    fn diagnostics_behind(&self, request: &Request, active: &Active) -> Diagnostics {
        let progress = &active.progress;
        if progress.leaves_diagnostics() {
            return Diagnostics::There;
        }
        let Some(last) = self.followed.last else { return Diagnostics::None };
        // Asking for them leaves them where they are.
        let keeps = request.asks(&[Recall::Diagnostics]) || keeps_warnings(request, active);
        match last.diagnostics {
            Diagnostics::There if keeps && !progress.was_last => Diagnostics::Elsewhere,
            before if keeps => before,
            _ => Diagnostics::None,
        }
    }

    /// Something was prepared, which leaves but its own warnings behind.
    pub(super) fn prepared_behind(&mut self, request: &Request, active: &Active) {
        let (node, connection) =
            (active.server.node, active.server.pooled.connection.connection_id);
        let elsewhere = |last: &&mut Last| (last.node, last.connection) != (node, connection);
        let Some(last) = self.followed.last.as_mut().filter(elsewhere) else { return };
        if active.progress.leaves_diagnostics() {
            last.diagnostics = Diagnostics::Elsewhere;
        } else if !keeps_warnings(request, active) {
            (last.diagnostics, last.outlived) = (Diagnostics::None, true);
        }
    }

    /// A command that is no statement has succeeded: that is what ROW_COUNT() tells of from now on,
    /// and nothing else does.
    pub(super) fn changed_no_row(&mut self) {
        if let Some(last) = &mut self.followed.last {
            (last.row_count, last.changed_no_row) = (0, true);
        }
    }

    /// The client was told an error that no server knows: what the statement before has left is not
    /// what it asks about from now on.
    pub(super) fn failed_here(&mut self, request: &Request) {
        let runs =
            matches!(request.what, What::Query | What::Execute { .. } | What::Prepare { .. });
        if let Some(last) = self.followed.last.as_mut().filter(|_| runs) {
            *last = Last {
                connection: NOBODY,
                diagnostics: Diagnostics::Elsewhere,
                row_count: NO_ROW_COUNT,
                changed_no_row: false,
                found_rows: false,
                ..*last
            };
        }
    }

    /// A question goes where the last statement ran, if that node may serve it, and its connection
    /// is looked for there.
    pub(super) fn toward_last(&mut self, mut need: Need, request: &Request) -> Need {
        let Some(last) = self.followed.last.filter(|_| self.recalls(request)) else { return need };
        if let Need::Replica(need) = &mut need {
            let snapshot = self.cluster.handle.topology.load();
            need.wish = Wish::Node(snapshot.node(last.node).name.clone());
        }
        self.pool(last.node).shared.asks_sequences.store(true, Ordering::Relaxed);
        need
    }

    /// Whether the connection is that of the session's last statement, with nothing in between.
    fn is_last(&self, active: &Active) -> bool {
        let connection = &active.server.pooled.connection;
        let mine = connection.traces.owner == Some(self.entry.process_id)
            && connection.traces.generation == self.followed.generation;
        let here = |last: &Last| {
            last.node == active.server.node && last.connection == connection.connection_id
        };
        mine && self.followed.last.as_ref().is_some_and(here)
    }

    /// What a question about the last statement becomes on a connection that did not run it: a
    /// refusal, or what is sent in its place.
    pub(super) fn recall(&self, active: &mut Active, request: &mut Request) -> Result<(), Refused> {
        let is_last = self.is_last(active);
        active.progress.was_last = is_last && !self.is_reread(active, request);
        if !matches!(request.what, What::Query | What::Execute { .. }) {
            return Ok(());
        }
        request.instead = None;
        let Some(last) = self.followed.last else { return Ok(()) };
        let forgotten = || Err(Refused::new(errors::NOT_SERVED, FORGOTTEN));
        let is_own = |what| self.is_about_itself(request, what);
        let warned = request.asks(&[Recall::Diagnostics]) && last.diagnostics != Diagnostics::None;
        if warned && !(active.progress.was_last && last.diagnostics == Diagnostics::There) {
            return forgotten();
        }
        let knows = active.progress.was_last && last.found_rows;
        if request.asks(&[Recall::FoundRows]) && !knows && !is_own(Recall::FoundRows) {
            return forgotten();
        }
        let forgets = request.asks(&[Recall::Diagnostics]) && last.outlived;
        if active.progress.was_last && !forgets {
            if last.changed_no_row && request.asks(&[Recall::RowCount]) {
                active.ask(Awaits::Ok, Whose::Own, |out| out.push(PING));
            }
            return Ok(());
        }
        if request.asks(&[Recall::RowCount]) && !is_own(Recall::RowCount) {
            request.instead = self.row_count(active, request, last.row_count);
            if request.instead.is_none() {
                return forgotten();
            }
        }
        if request.asks(&[Recall::Diagnostics]) {
            // What an older statement has left on the connection goes.
            let agreed = active.connection().capabilities;
            active.ask(Awaits::Results, Whose::Own, |out| put_query(out, agreed, FORGET));
        }
        Ok(())
    }

    /// Whether what a text asks is about a statement in front of the question: ROW_COUNT() tells of
    /// any, FOUND_ROWS() of those with rows.
    fn is_about_itself(&self, request: &Request, what: Recall) -> bool {
        let Some(first) = self.first_of(request) else { return false };
        let asks = |effect: &SessionEffect| matches!(effect, SessionEffect::Recall(asked) if *asked == what);
        // By its words: what a statement does depends on the catalog of the moment.
        let selects = |text: &str| {
            text.trim_start().get(..7).is_some_and(|word| word.eq_ignore_ascii_case("select "))
        };
        let counts = what == Recall::RowCount || self.first_text(request).is_some_and(selects);
        request.is_several() && counts && !first.session.iter().any(asks)
    }

    /// A session that has run nothing yet finds no rows, whatever the connection has found.
    pub(super) fn begin_counting(&self, active: &mut Active, request: &Request) {
        let runs = matches!(request.what, What::Query | What::Execute { .. });
        if runs && self.followed.last.is_none() && request.asks(&[Recall::FoundRows]) {
            let agreed = active.connection().capabilities;
            let nothing = "SELECT 1 FROM DUAL WHERE 0";
            active.ask(Awaits::Results, Whose::Own, |out| put_query(out, agreed, nothing));
        }
    }

    /// The command that gives the number as `SELECT ROW_COUNT()` does, for that very text.
    fn row_count(&self, active: &Active, request: &Request, row_count: i64) -> Option<Box<[u8]>> {
        let bytes = self.inbox.filled().get(HEAD_BYTES..request.bytes)?;
        let Ok(Command::Query(text)) = Command::parse(bytes, self.capabilities) else {
            return None;
        };
        let words: Vec<u8> = text
            .iter()
            .filter(|byte| !byte.is_ascii_whitespace())
            .map(u8::to_ascii_lowercase)
            .collect();
        if words.strip_suffix(b";").unwrap_or(&words) != b"selectrow_count()" {
            return None;
        }
        let mut out = Vec::new();
        let agreed = active.server.pooled.connection.capabilities;
        // Of the same type and length.
        let sql = format!("SELECT IF(1, {row_count}, ROW_COUNT()) AS `ROW_COUNT()`");
        packet::put(&mut out, &mut 0, |out| put_query(out, agreed, &sql));
        Some(out.into())
    }
}
