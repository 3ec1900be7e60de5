//! How a conversation parts with its server connection.

use super::active::{Active, Server, Whose};
use super::conversation::Conversation;
use super::fault::Fault;
use super::plan::{Request, What};
use crate::backend::mysql::connection::Kill;
use crate::metrics::{NodeIndex, ServerClosed};
use crate::protocol::mysql::command::Command;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::packet::HEAD_BYTES;
use crate::protocol::mysql::replies::Awaits;
use crate::session::Transaction;
use crate::sql::{Dialect, SessionEffect, Statement, split_statements};
use crate::topology::Evidence;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

impl Conversation {
    /// Gives the connection back.
    pub(super) fn give_up_server(&mut self) {
        let Some(mut server) = self.part() else { return };
        // A connection that has a schema now is no use to sessions that have none.
        let traces = &mut server.pooled.connection.traces;
        let had_none = !self.pools[0].iter().flatten().all(|pool| !is_same(pool, &server.pool));
        if traces.spoiled || had_none && traces.schema.is_some() {
            self.close(server, ServerClosed::Dirty);
            return;
        }
        server.pool.give_back(server.pooled, Instant::now());
        if self.session.positions.take_sample_due() {
            self.cluster.handle.topology.report(Evidence::ProbeNow);
        }
    }

    /// Closes the connection.
    pub(super) fn drop_server(&mut self, why: ServerClosed) {
        if let Some(server) = self.part() {
            self.close(server, why);
        }
    }

    /// What is left of an answer that was not one is thrown away with the connection.
    pub(super) fn drop_or_give_up(&mut self) {
        let quiet = self.active.as_ref().is_some_and(|active| active.is_quiet());
        if quiet { self.give_up_server() } else { self.drop_server(ServerClosed::Broken) }
    }

    fn close(&self, server: Server, why: ServerClosed) {
        server.pool.stats.active_closed();
        let node = NodeIndex(server.node.0);
        self.worker.stats().server_closed(self.cluster.handle.index, node, why);
    }

    /// The connection is nobody's any more: it cannot be killed, and no commit is under way.
    fn part(&mut self) -> Option<Server> {
        let Active { server, outbox, read, local, mut expected, mut progress, .. } =
            *self.active.take()?;
        expected.clear();
        self.expected = expected;
        self.entry.bind(None);
        if let Some(commit) = progress.commit.take() {
            self.cluster.commits.ended(commit);
        }
        self.cluster.count_busy(usize::from(server.node.0), false);
        self.statements.let_go();
        self.worker.keep_buffer(outbox);
        self.worker.keep_buffer(read);
        self.worker.keep_buffer(local);
        Some(server)
    }

    /// Whether nothing but its transaction, and cursors, keeps the session where it is.
    pub(super) fn holds_only_transaction(&self) -> bool {
        self.followed.in_transaction
            && !self.followed.next_transaction
            && !self.session.is_bound()
            && !self.statements.hold_parameters()
    }

    /// Ends a read-only transaction on a replica, and tells nobody.
    pub(super) async fn end_on_replica(&mut self) -> Result<(), Fault> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let agreed = active.connection().capabilities;
        // Whatever `completion_type` says.
        let end = "COMMIT AND NO CHAIN NO RELEASE";
        active.ask(Awaits::Results, Whose::Own, |out| put_query(out, agreed, end));
        self.relay().await?;
        self.followed.in_transaction = false;
        self.session.transaction = Transaction::Idle;
        Ok(())
    }

    /// Whether the first thing that a request does is to end the transaction (DDL, COMMIT and more
    /// behind it, another BEGIN).
    pub(super) fn ends_transaction_first(&self, request: &Request) -> bool {
        let ends = |statement: &Statement| {
            use SessionEffect::{Begin, Commit, Rollback};
            let [Begin(_) | Commit { chain: false } | Rollback { chain: false }] =
                &statement.session[..]
            else {
                return statement.commits_unsaid();
            };
            true
        };
        self.first_of(request).is_some_and(|first| ends(&first))
    }

    /// Whether the server closes the connection behind its answer: COMMIT or ROLLBACK with RELEASE,
    /// said or set. Of a text with more behind it there is no answer to the end.
    pub(super) fn was_released(&self, request: &Request) -> bool {
        use SessionEffect::{Commit, Disconnect, Rollback};
        let failed = self.active.as_ref().is_some_and(|active| active.progress.failed.is_some());
        if failed || !matches!(request.what, What::Query | What::Execute { .. }) {
            return false;
        }
        let Some(statement) = &request.statement else { return false };
        match &statement.session[..] {
            [.., Disconnect(released)] => *released,
            [.., Commit { .. } | Rollback { .. }] => {
                let completion = self.followed.variables.get("completion_type");
                completion.is_some_and(|value| value.to_ascii_uppercase().contains("RELEASE"))
            }
            _ => false,
        }
    }

    /// What the first statement of a text does.
    pub(super) fn first_of(&self, request: &Request) -> Option<Arc<Statement>> {
        let statement = request.statement.as_ref()?;
        if statement.count == 1 {
            return Some(statement.clone());
        }
        self.first_text(request).map(|first| self.classify(first.as_bytes()))
    }

    /// The first statement of a COM_QUERY's text.
    pub(super) fn first_text(&self, request: &Request) -> Option<&str> {
        let bytes = self.inbox.filled().get(HEAD_BYTES..request.bytes)?;
        let Ok(Command::Query(text)) = Command::parse(bytes, self.capabilities) else {
            return None;
        };
        let dialect = Dialect::MySql(self.followed.reading);
        let text = std::str::from_utf8(text).ok()?;
        split_statements(text, dialect).first().copied()
    }

    /// Waits for KILLs on their way: they must not meet the next session's statement.
    pub(super) async fn cancels_arrived(&self) {
        if self.entry.cancelling.get() > 0 {
            let entry = self.entry.clone();
            poll_fn(|cx| {
                entry.remember(cx.waker());
                if entry.cancelling.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Gives the connection back if nothing holds it. One whose last statement has left warnings
    /// or an error stays for a moment.
    pub(super) async fn settle(&mut self) {
        if !self.is_free() {
            return;
        }
        let Some(active) = &self.active else { return };
        // Whoever asks does so at once; when somebody waits, it is let go at the next look.
        if active.progress.leaves_diagnostics() {
            return;
        }
        self.cancels_arrived().await;
        self.give_up_server();
    }

    /// The client is gone while its statement runs: the server need not finish it.
    pub(super) fn stop_running(&mut self) {
        let Some(active) = &self.active else { return };
        if active.expected.is_empty() {
            return;
        }
        let kill = active.server.pooled.connection.kill.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = kill.kill(Kill::Connection).await {
                tracing::debug!("a statement that nobody waits for goes on: {error}");
            }
        });
    }
}

fn is_same(one: &std::rc::Rc<super::LocalPool>, other: &std::rc::Rc<super::LocalPool>) -> bool {
    std::rc::Rc::ptr_eq(one, other)
}
