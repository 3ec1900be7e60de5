//! What replies tell of the session: each packet as it passes, and the whole reply at its end.

use super::active::{Active, Broken, Expected, Progress, Whose};
use super::conversation::Conversation;
use super::errors::{Code, is_no_answer, is_read_only, is_unread};
use super::followed::{Followable, is_of_session};
use super::plan::{Request, What};
use super::statements::Held;
use super::stream::Upload;
use crate::backend::mysql::Traces;
use crate::backend::mysql::connection::Connection;
use crate::metrics::{ErrorOrigin, NodeIndex};
use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::capabilities::Status;
use crate::protocol::mysql::replies::{Awaits, PREPARED_ID_AT, Step, Told};
use crate::protocol::mysql::reply::{EOF, ErrPacket, OkPacket, Tracked};
use crate::protocol::mysql::{PacketError, command, packet};
use crate::session::Transaction;
use crate::sql::{Effect, Pin, SessionEffect, Statement};
use crate::topology::{Evidence, GtidError, Gtids, NodeId};
use std::sync::Arc;
use std::time::Instant;

/// ER_PARSE_ERROR: nothing of the statement has run.
const SYNTAX_ERROR: u16 = 1064;

/// What ROW_COUNT() gives behind rows and errors.
pub(super) const NO_ROW_COUNT: i64 = -1;

impl Conversation {
    /// Matches what the server has sent with what was asked.
    pub(super) fn scan(&mut self) -> Result<(), PacketError> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let mut scanned = Ok(());
        while let Some(mut front) = active.expected.pop_front() {
            if front.reply.is_over() {
                continue;
            }
            let went_on = self.step(&mut active, &mut front);
            let over = front.reply.is_over();
            if !over {
                active.expected.push_front(front);
            }
            match went_on {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    scanned = Err(error);
                    break;
                }
            }
        }
        self.active = Some(active);
        scanned
    }

    /// One step of the first reply that is due. Whether there may be more.
    fn step(&mut self, active: &mut Active, front: &mut Expected) -> Result<bool, PacketError> {
        let Active { server, outbox, read, forwardable, local, upload, progress, .. } = active;
        let at = *forwardable;
        let Step { bytes, told } = front.reply.step(&read.filled()[at..])?;
        let is_clients =
            matches!(front.whose, Whose::Client | Whose::Session) && progress.broken.is_none();
        let Some(told) = told else {
            if bytes == 0 {
                return Ok(front.reply.is_over());
            }
            self.pass(active, bytes, is_clients && front.whose == Whose::Client)?;
            return Ok(true);
        };
        let connection = &mut *server.pooled.connection;
        if !is_clients {
            if let Some(surplus) = self.own(front.whose, &told, connection, progress) {
                put_close(outbox, surplus);
            }
            read.consume(bytes);
            return Ok(true);
        }
        let is_heard = self.hear_told(&told, progress);
        let mut facts = Facts { node: server.node, is_primary: server.is_primary, progress };
        let pass = self.observe(&told, connection, &mut facts);
        let is_silent = facts.progress.keeps(&told) || front.whose == Whose::Session;
        if is_silent && matches!(told, Told::LocalInfile(_)) {
            // There is no file to give.
            return Err(PacketError::Shape);
        }
        if is_silent || pass == Pass::Swallow {
            read.consume(bytes);
            return Ok(true);
        }
        let own_id = facts.progress.preparing;
        if let Told::LocalInfile(_) = told {
            // What the client sends next is the file.
            self.inbox.consume(std::mem::take(&mut facts.progress.retained));
            if let Some(record) = &mut facts.progress.record {
                record.journal.spoil("it sends a file");
            }
            *upload = Some(Upload::file(front.reply.sequence()));
            facts.progress.uploaded = *upload;
        }
        let is_prepared = matches!(told, Told::Prepared(_));
        let mut instead = self.worker.scratch.take();
        let packet = &read.filled()[at..at + bytes];
        let differs = self.reword(&told, packet, facts.progress, &mut instead);
        if is_heard {
            read.consume(bytes);
        } else if differs {
            if local.capacity() == 0 {
                *local = self.worker.take_buffer();
            }
            local.extend(&read.filled()[..at]);
            local.extend(&instead);
            read.consume(at + bytes);
            *forwardable = 0;
        }
        self.worker.keep_scratch(instead);
        if differs || is_heard {
            return Ok(true);
        }
        if let Some(own) = own_id.filter(|_| is_prepared) {
            let id = at + PREPARED_ID_AT;
            read.filled_mut()[id..id + 4].copy_from_slice(&own.to_le_bytes());
        }
        *forwardable += bytes;
        Ok(true)
    }

    /// Bytes of a reply that tell nothing: there are none where the answer is kept for later.
    fn pass(
        &mut self,
        active: &mut Active,
        bytes: usize,
        is_clients: bool,
    ) -> Result<(), PacketError> {
        let Active { read, forwardable, progress, .. } = active;
        let at = *forwardable;
        if !is_clients || progress.intercepted {
            read.consume(bytes);
            return Ok(());
        }
        if progress.lone.is_some() {
            return Err(PacketError::Shape);
        }
        progress.repeatable = false;
        let heard = progress.hear(&read.filled()[at..at + bytes]);
        self.translation.plain(&mut read.filled_mut()[at..at + bytes]);
        // What was heard comes before anything that is passed on.
        read.consume(heard);
        *forwardable += bytes - heard;
        Ok(())
    }

    /// What the proxy asked was answered. Gives a statement that is to be closed on the server.
    fn own(
        &self,
        whose: Whose,
        told: &Told<'_>,
        connection: &mut Connection,
        progress: &mut Progress,
    ) -> Option<u32> {
        match (told, whose) {
            (Told::Prepared(prepared), Whose::Prepare(own)) => {
                let limit = self.cluster.handle.config.pool.statements_max;
                connection.traces.prepared.insert(own, prepared.id, limit)
            }
            (Told::Err(_), Whose::Guard) => {
                progress.guard = None;
                None
            }
            (Told::Err(error), _) if progress.broken.is_none() => {
                progress.broken = Some(Broken {
                    code: Code::new(error.errno, error.sqlstate),
                    message: String::from_utf8_lossy(error.message).into_owned(),
                    by_statement: matches!(whose, Whose::Prepare(_)),
                });
                None
            }
            _ => None,
        }
    }

    /// A packet of the reply to the client's command tells something.
    fn observe(
        &mut self,
        told: &Told<'_>,
        connection: &mut Connection,
        facts: &mut Facts<'_>,
    ) -> Pass {
        match told {
            Told::Err(error) => {
                if facts.progress.repeatable && !facts.is_primary && is_no_answer(error.errno) {
                    facts.progress.intercepted = true;
                    return Pass::Swallow;
                }
                self.failed(error, facts);
            }
            Told::Ok(ok) => self.ok(ok, &mut connection.traces, facts),
            Told::Prepared(prepared) => {
                if let Some(own) = facts.progress.preparing {
                    let limit = self.cluster.handle.config.pool.statements_max;
                    // The surplus one is swept when its own statement is closed.
                    connection.traces.prepared.insert(own, prepared.id, limit.saturating_add(1));
                    if let Some(statement) = self.statements.get_mut(own) {
                        statement.parameters = prepared.parameters;
                    }
                }
            }
            _ => {}
        }
        facts.progress.repeatable = false;
        Pass::Forward
    }

    fn ok(&mut self, ok: &OkPacket<'_>, traces: &mut Traces, facts: &mut Facts<'_>) {
        let progress = &mut *facts.progress;
        self.followed.status(ok.status);
        progress.status = ok.status;
        let shown = ok.header == EOF || ok.status.has(Status::MORE_RESULTS);
        progress.shown |= shown;
        progress.found |= ok.header == EOF && !ok.status.has(Status::PS_OUT_PARAMS);
        progress.warnings = ok.warnings > 0;
        progress.row_count = match ok.header {
            EOF => NO_ROW_COUNT,
            _ => ok.affected_rows.try_into().unwrap_or(i64::MAX),
        };
        if ok.last_insert_id > 0 {
            self.followed.insert_id = ok.last_insert_id;
            traces.insert_id = ok.last_insert_id;
        }
        for tracked in ok.tracked() {
            match tracked {
                Tracked::Variable { name: b"last_gtid", value } if facts.is_primary => {
                    progress.add_committed(value, Gtids::parse_heads);
                }
                Tracked::Gtids(set) if facts.is_primary => {
                    progress.add_committed(set, Gtids::parse_set);
                }
                Tracked::Variable { name, .. } if progress.sets_once => {
                    progress.named_change |= is_of_session(name);
                }
                Tracked::Variable { name, value } => {
                    progress.named_change |= is_of_session(name);
                    let settings = &mut self.session.settings;
                    if self.followed.variable(name, value, settings) == Followable::No {
                        self.session.pins.insert(Pin::Setting);
                    }
                }
                Tracked::Schema(name) => {
                    progress.named_change = true;
                    self.followed.schema = (!name.is_empty()).then(|| name.into());
                }
                Tracked::StateChange(changed) => progress.state_change |= changed,
                Tracked::Gtids(_) | Tracked::Characteristics(_) | Tracked::TransactionState(_) => {}
            }
        }
    }

    fn failed(&mut self, error: &ErrPacket<'_>, facts: &mut Facts<'_>) {
        facts.progress.failed = Some(error.errno);
        facts.progress.row_count = NO_ROW_COUNT;
        self.worker.stats().error(ErrorOrigin::Server, &error.sqlstate);
        // An ERR has no status: without autocommit the statement may have opened a transaction.
        self.followed.in_transaction |= !self.followed.autocommit;
        if facts.is_primary && is_read_only(error.errno, error.message) {
            self.cluster.handle.topology.report(Evidence::NotPrimary { node: facts.node });
        }
    }

    /// The client's command has been answered.
    pub(super) fn learn(&mut self, request: &Request) {
        let now = Instant::now();
        let Some(mut active) = self.active.take() else { return };
        self.inbox.consume(std::mem::take(&mut active.progress.retained));
        self.prepared_changed(request, &mut active);
        if let Some(statement) = &request.statement
            && matches!(request.what, What::Query | What::Execute { .. })
        {
            mark_connection(statement, &mut active);
            self.apply(statement, &mut active);
        }
        match request.what {
            What::Query | What::Execute { .. } => self.remember(request, &active),
            _ if active.progress.failed.is_some() => self.remember(request, &active),
            What::InitDb(_) | What::ResetStatement(_) => self.changed_no_row(),
            What::Prepare { .. } => self.prepared_behind(request, &active),
            _ => {}
        }
        let Active { server, progress, .. } = &mut *active;
        match &request.what {
            What::InitDb(schema) if progress.failed.is_none() => {
                self.followed.schema = Some((**schema).into());
            }
            What::Replicate => {
                self.session.pins.insert(Pin::Unknown);
                server.pooled.connection.traces.spoiled = true;
            }
            // No reset takes that back.
            What::MultiStatements(_) => server.pooled.connection.traces.spoiled = true,
            _ => {}
        }
        let stats = self.worker.stats();
        let (cluster, node) = (self.cluster.handle.index, NodeIndex(server.node.0));
        if let Some(started) = progress.started.filter(|_| request.awaits != Awaits::Nothing) {
            stats.query_done(cluster, node, now - started);
        }
        if let Some(commit) = progress.commit.take() {
            self.cluster.commits.ended(commit);
        }
        self.recorded(progress);
        self.session.transaction = match self.followed.in_transaction {
            true => Transaction::Open,
            false => Transaction::Idle,
        };
        if progress.reading {
            let on_replica = !server.is_primary;
            self.session.positions.read(server.node, server.incarnation, now, on_replica);
        }
        let ended = !self.followed.in_transaction;
        if ended {
            stats.transaction_done(cluster, node);
        }
        let wrote = ended && std::mem::take(&mut progress.writing);
        match progress.committed.take() {
            Some(gtids) => {
                let epoch = server.pooled.connection.life.epoch;
                let is_last = !progress.shown && progress.failed.is_none();
                self.session.positions.committed(now, &gtids, epoch, is_last);
            }
            None if wrote => self.session.positions.wrote(now),
            None => {}
        }
        self.followed.leave_on(&mut server.pooled.connection.traces);
        self.pins.hold(self.session.pins.iter().map(|pin| pin.as_str()));
        self.active = Some(active);
    }

    /// What the command did to a prepared statement.
    fn prepared_changed(&mut self, request: &Request, active: &mut Active) {
        let Active { server, progress, .. } = active;
        let failed = progress.failed.is_some();
        if let (What::Execute { id }, Some(errno)) = (&request.what, progress.failed)
            && is_unread(errno)
        {
            server.pooled.connection.traces.prepared.forget_types(*id);
        }
        let (id, holds) = match request.what {
            What::Prepare { id, .. } => {
                if failed {
                    self.statements.remove(id);
                }
                return;
            }
            What::Execute { id, .. } => {
                let opened = !failed && progress.status.has(Status::CURSOR_EXISTS);
                (id, opened.then_some(Held::Cursor))
            }
            What::LongData { id } => (id, Some(Held::Parameters)),
            What::Fetch { id } => {
                let goes_on = !failed && !progress.status.has(Status::LAST_ROW_SENT);
                (id, goes_on.then_some(Held::Cursor))
            }
            What::ResetStatement(id) => (id, None),
            _ => return,
        };
        if let Some(statement) = self.statements.get_mut(id) {
            statement.holds = holds;
        }
    }

    /// Takes over what a statement has left behind, beyond what the trackers have told.
    fn apply(&mut self, statement: &Arc<Statement>, active: &mut Active) {
        let progress = &active.progress;
        let pins = |effect: &SessionEffect| matches!(effect, SessionEffect::Pin(_));
        if let Some(errno) = progress.failed {
            // What did not parse has done nothing; anything else may have gone half of its way.
            if errno != SYNTAX_ERROR || statement.count > 1 {
                for effect in statement.session.iter().filter(|effect| pins(effect)) {
                    self.session.apply(effect);
                }
            }
            // Whether the collation was set before the error is told by no tracker.
            if statement.count > 1 && statement.session.iter().any(is_client_charset) {
                self.session.pins.insert(Pin::Setting);
            }
            // So is it of what SET TRANSACTION has said.
            self.followed.next_transaction |= statement.count > 1 && statement.says_of_next();
            return;
        }
        self.followed.next_transaction &= !statement.uses_next();
        let sets_names = statement.session.iter().any(is_client_charset);
        for effect in &statement.session {
            match effect {
                SessionEffect::Set { name, value, .. } if name.starts_with("session_track_") => {
                    // It sees what they tell, and the connection gets the proxy's again.
                    self.visible.set(name, value.as_deref());
                    active.server.pooled.connection.traces.untracked = true;
                }
                SessionEffect::Set { name, value: Some(value), .. }
                    if sets_names && &**name == COLLATION =>
                {
                    self.followed.collation(Some(value));
                }
                SessionEffect::Learn(name) if sets_names && &**name == COLLATION => {
                    self.followed.collation(None);
                }
                SessionEffect::Set { name, value: None, .. } | SessionEffect::Reset(name) => {
                    self.followed.default(name);
                }
                SessionEffect::Pin(_)
                | SessionEffect::Unpin(_)
                | SessionEffect::Prepare { .. }
                | SessionEffect::Deallocate(None) => self.session.apply(effect),
                SessionEffect::Counts => {
                    self.session.pins.insert(Pin::FoundRows);
                }
                SessionEffect::SetNext(_) => self.followed.next_transaction = true,
                // Which of the values that were told are still in force is not known.
                SessionEffect::SetsOnce if statement.count > 1 => {
                    self.session.pins.insert(Pin::Setting);
                }
                SessionEffect::SetTiffin { key, value } => {
                    // The server has taken it for a variable of the user's; a wrong value is its.
                    let _ = self.set_tiffin(key, value.as_deref());
                }
                _ => {}
            }
        }
        let progress = &active.progress;
        let named = progress.named_change
            && (progress.went_back
                || progress.sets_once
                || matches!(statement.effect, Effect::Session | Effect::Transaction));
        if progress.state_change && !named && !statement.session.iter().any(pins) {
            self.session.pins.insert(Pin::Unknown);
        }
        if statement.is_ddl {
            self.cluster.handle.catalogs.ddl_ran("");
        }
    }
}

const COLLATION: &str = "collation_connection";

/// SET NAMES and SET CHARACTER SET have this effect.
fn is_client_charset(effect: &SessionEffect) -> bool {
    let (SessionEffect::Set { name, .. } | SessionEffect::Learn(name)) = effect else {
        return false;
    };
    &**name == "character_set_client"
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    /// The command is sent elsewhere instead.
    Swallow,
}

/// Where a reply comes from, and what is known of it.
struct Facts<'a> {
    node: NodeId,
    is_primary: bool,
    progress: &'a mut Progress,
}

impl Progress {
    /// What cannot be read is as good as not told.
    fn add_committed(&mut self, text: &[u8], parse: fn(&str) -> Result<Gtids, GtidError>) {
        let Ok(text) = std::str::from_utf8(text) else { return };
        let Some(gtids) = parse(text).ok().filter(|gtids| !gtids.is_empty()) else { return };
        match &mut self.committed {
            Some(committed) => committed.unite(&gtids),
            None => self.committed = Some(gtids),
        }
    }
}

fn put_close(outbox: &mut Buffer, id: u32) {
    let mut bytes = Vec::new();
    packet::put(&mut bytes, &mut 0, |out| {
        out.push(command::STMT_CLOSE);
        out.extend_from_slice(&id.to_le_bytes());
    });
    outbox.extend(&bytes);
}

/// Marks on the connection what the statement has left there.
fn mark_connection(statement: &Statement, active: &mut Active) {
    let Active { server, progress, .. } = active;
    let connection = &mut server.pooled.connection;
    // An error tells of no variables: the next reply does.
    connection.traces.goes_back = progress.sets_once && progress.named_change
        || progress.went_back && progress.failed.is_some()
        || statement.session.contains(&SessionEffect::SetsOnce);
    // On MariaDB the next statement does not replace them if it names no table.
    let keeps = connection.server.mariadb && progress.leaves_diagnostics();
    connection.traces.unclean |= progress.state_change || keeps;
}
