//! A read-only transaction on a replica meets what a replica cannot do: it begins again on the
//! primary, unseen, if nothing has been read yet. Otherwise it stays, and what the replica refuses
//! is refused in the words of a server that takes writes. What would keep the session on that replica
//! for good, where it cannot write, ends the transaction as a deadlock does.

use super::active::{Active, Whose};
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::plan::{Request, What};
use super::repeatable::is_plain_write;
use crate::frontend::acquire::acquire;
use crate::metrics::RouteReason;
use crate::protocol::mysql::command::Command;
use crate::protocol::mysql::execute::put_query;
use crate::protocol::mysql::packet::HEAD_BYTES;
use crate::protocol::mysql::replies::Awaits;
use crate::session::{Class, Need};
use crate::sql::SessionEffect;

/// Why a transaction is gone that was to begin again.
const NOT_BEGUN: &str = "the read-only transaction has run nothing and could not begin again on \
    the primary";

/// Why a transaction has ended that has read on a replica.
const WOULD_STAY: &str = "this keeps its connection, and the read-only transaction has read on a \
    replica; run the transaction again: this session's read-only transactions begin on the \
    primary from now on";

impl Conversation {
    /// Keeps how the transaction has begun for as long as it has done nothing else.
    pub(super) fn keep_beginning(&self, active: &mut Active, request: &Request) {
        if active.server.is_primary {
            return;
        }
        let progress = &mut active.progress;
        match &request.what {
            What::Query | What::Execute { .. } if !leaves_unread(request) => progress.begun = None,
            _ => {}
        }
        if let Some(text) = self.beginning(request) {
            progress.begun = Some(text);
        }
    }

    /// The text of a command that does nothing but begin a transaction, and reads nothing by that.
    fn beginning(&self, request: &Request) -> Option<Box<str>> {
        let [SessionEffect::Begin(_)] = &request.statement.as_ref()?.session[..] else {
            return None;
        };
        let bytes = self.inbox.filled().get(HEAD_BYTES..request.bytes)?;
        let Ok(Command::Query(text)) = Command::parse(bytes, self.capabilities) else {
            return None;
        };
        let text = std::str::from_utf8(text).ok()?;
        let reads = text.to_ascii_lowercase().contains("snapshot");
        let is_alone = request.is_single() && !self.followed.next_transaction && !reads;
        is_alone.then(|| text.into())
    }

    /// Ends what the session has on a replica when its next command needs the primary. A refusal:
    /// the transaction cannot go on, and the command was not run.
    pub(super) async fn leave_replica(
        &mut self,
        need: &Need,
        request: &Request,
    ) -> Result<Option<Refused>, Fault> {
        if !matches!(need, Need::Primary(_)) || !self.is_on_replica() {
            return Ok(None);
        }
        let ends = self.ends_transaction_first(request);
        let moves = !ends && matches!(request.class, Class::Write(_));
        let begun = self.active.as_mut().filter(|_| moves);
        let begun = begun.and_then(|active| active.progress.begun.take());
        let leaves = self.holds_only_transaction() && (ends || begun.is_some());
        let would_stay = moves && begun.is_none() && self.holds_only_transaction() && pins(request);
        if leaves || would_stay {
            self.end_on_replica().await?;
        }
        self.let_cursors_go(request);
        if !self.is_free() {
            return Ok(None);
        }
        // Perhaps it was kept only for questions about the last statement.
        self.give_up_server();
        if would_stay {
            self.session.shuns_replicas = true;
            return Ok(Some(Refused::new(errors::NOT_COMMITTED, WOULD_STAY)));
        }
        match begun {
            Some(begun) => self.begin_again(need, &begun).await,
            None => Ok(None),
        }
    }

    /// A write does not stay away from the primary for a cursor that was left open on the replica: who
    /// fetches from that afterwards is told that it is not open.
    fn let_cursors_go(&mut self, request: &Request) {
        let writes = match request.class {
            // An execution that opens another cursor leaves this one alone.
            Class::Write(RouteReason::SessionPin) => pins(request),
            Class::Write(_) => true,
            _ => false,
        };
        let stays = self.followed.in_transaction
            || self.followed.next_transaction
            || self.session.is_bound()
            || self.statements.hold_parameters();
        if writes
            && !stays
            && self.statements.hold()
            && let Some(active) = &mut self.active
        {
            // The next session must not find it.
            active.connection().traces.spoiled = true;
            self.statements.let_go();
        }
    }

    /// What cannot be had on the primary must not go on without a transaction.
    async fn begin_again(&mut self, need: &Need, begun: &str) -> Result<Option<Refused>, Fault> {
        let gone = |why: &str| {
            Ok(Some(Refused::new(errors::NOT_COMMITTED, format!("{NOT_BEGUN}: {why}"))))
        };
        if let Err(refused) = acquire(self, need, false).await? {
            return gone(&refused.message);
        }
        if let Some(broken) = self.bring_session().await? {
            self.drop_or_give_up();
            return gone(&broken.message);
        }
        let Some(active) = &mut self.active else { return Err(Fault::ClientLeft) };
        let agreed = active.connection().capabilities;
        active.ask(Awaits::Results, Whose::Session, |out| put_query(out, agreed, begun));
        self.relay().await?;
        if !self.followed.in_transaction {
            self.drop_or_give_up();
            return gone("BEGIN was refused");
        }
        Ok(None)
    }

    /// Whether a replica's refusal of the request is what a server that takes writes says in a
    /// read-only transaction.
    pub(super) fn is_refused_as_read_only(&self, on_replica: bool, request: &Request) -> bool {
        on_replica
            && self.followed.in_transaction
            && request.is_single()
            && request.statement.as_ref().is_some_and(|statement| is_plain_write(statement))
    }
}

/// Whether a request runs what keeps the session's connection.
fn pins(request: &Request) -> bool {
    let pins = |effect: &SessionEffect| matches!(effect, SessionEffect::Pin(_));
    let runs = matches!(request.what, What::Query | What::Execute { .. });
    let statement = request.statement.as_ref().filter(|_| runs);
    statement.is_some_and(|statement| statement.session.iter().any(pins))
}

/// Whether nothing is read by a command within a transaction, and none that comes later depends on
/// it: settings follow the session anyway.
fn leaves_unread(request: &Request) -> bool {
    let Some(statement) = &request.statement else { return false };
    let follows = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Set { .. }
                | SessionEffect::Reset(_)
                | SessionEffect::Use(_)
                | SessionEffect::SetTiffin { .. }
                | SessionEffect::ShowTiffin { .. }
        )
    };
    matches!(request.class, Class::Session) && statement.session.iter().all(follows)
}
