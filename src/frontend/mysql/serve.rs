//! The relay between a client and the server connection that it holds: both directions at once,
//! each with one buffer, so that neither side can block the other.

use super::active::{Active, Broken, Progress};
use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::plan::{Request, What};
use super::stream::{poll_read_into, poll_write_out};
use crate::metrics::ServerClosed;
use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::command::{self, Command};
use crate::protocol::mysql::packet::{self, HEAD_BYTES};
use crate::session::Class;
use crate::sql::{Effect, Pin, SessionEffect, Statement};
use crate::topology::Evidence;
use std::future::poll_fn;
use std::io;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// Bytes of a long command, or of a file, that wait for the server.
const UPLOAD_BYTES_MAX: usize = 64 * 1024;

/// How a stretch of relaying ended.
#[derive(Debug)]
pub enum Served {
    /// The client has its reply.
    Done,
    /// The command was not run.
    Refused(Refused),
    /// The reply was no answer; the command is to be sent elsewhere.
    Repeat,
}

/// Which sides have nothing to read. They stay so until the task is woken again.
#[derive(Debug, Clone, Copy, Default)]
struct Drained {
    client: bool,
    server: bool,
}

impl Conversation {
    /// Brings the session and the command to the server that it holds, and the reply back.
    pub(super) async fn run_on_server(
        &mut self,
        request: &mut Request,
        may_repeat: bool,
    ) -> Result<Served, Fault> {
        let Some(mut active) = self.active.take() else { return Err(Fault::ClientLeft) };
        active.progress = active.progress.next(Instant::now());
        let refused = self.recall(&mut active, request).err();
        if let Some(refused) = refused.or_else(|| self.cannot_run(&active, request)) {
            self.active = Some(active);
            return Ok(Served::Refused(refused));
        }
        self.bring_for(&mut active, request);
        self.begin_counting(&mut active, request);
        self.bring_statement(&mut active, request);
        // What may write must not run where the session has not arrived; a read can be forgotten.
        let must_wait = !matches!(request.what, What::Query) || !request.only_reads();
        if must_wait && !active.expected.is_empty() {
            self.active = Some(active);
            self.relay().await?;
            let Some(brought) = self.active.take() else { return Err(Fault::ClientLeft) };
            active = brought;
            if let Some(broken) = active.progress.broken.take() {
                self.active = Some(active);
                return self.not_brought(broken, request);
            }
        }
        self.record(&mut active, request);
        active.progress.guard = self.guard(&mut active, request);
        self.begin_lone(&mut active, request, may_repeat);
        let sent = self.send(&mut active, request, may_repeat);
        let begun = active.progress.lone.is_some();
        self.active = Some(active);
        if let Err(refused) = sent {
            if begun {
                // There is nothing of the session's on it.
                self.drop_server(ServerClosed::Dirty);
            }
            return Ok(Served::Refused(refused));
        }
        self.relay().await?;
        self.commit_lone().await?;
        let Some(active) = &mut self.active else { return Err(Fault::ClientLeft) };
        if let Some(broken) = active.progress.broken.take() {
            return self.not_brought(broken, request);
        }
        if active.progress.intercepted {
            return Ok(Served::Repeat);
        }
        self.learn(request);
        self.answer_lone().await?;
        Ok(Served::Done)
    }

    /// Makes the connection the session's, without a command.
    pub(super) async fn bring_session(&mut self) -> Result<Option<Broken>, Fault> {
        let Some(mut active) = self.active.take() else { return Err(Fault::ClientLeft) };
        self.bring(&mut active, false);
        active.connection().traces.unclean = true;
        self.active = Some(active);
        self.relay().await?;
        Ok(self.active.as_mut().and_then(|active| active.progress.broken.take()))
    }

    /// Why a command cannot run on the connection that the session holds.
    fn cannot_run(&self, active: &Active, request: &Request) -> Option<Refused> {
        let locks = SessionEffect::Pin(Pin::AdvisoryLock);
        let statement = request.statement.as_ref();
        if !active.server.is_primary
            && self.followed.in_transaction
            && statement.is_some_and(|statement| statement.session.contains(&locks))
        {
            let message = "a lock belongs to the primary, and the read-only transaction is on a \
                           replica";
            return Some(Refused::new(errors::READ_ONLY_TRANSACTION, message));
        }
        None
    }

    /// Puts the client's command into the outbox.
    fn send(
        &mut self,
        active: &mut Active,
        request: &mut Request,
        may_repeat: bool,
    ) -> Result<(), Refused> {
        let on_replica = !active.server.is_primary;
        self.translate_ids(active, request)?;
        self.keep_beginning(active, request);
        active.expect(request.awaits, request.whose);
        active.upload = request.upload;
        active.progress.uploaded = request.upload;
        if request.upload.is_some() {
            // What comes next belongs to it as well.
            self.inbox.consume(request.bytes);
            request.bytes = 0;
        }
        let progress = &mut active.progress;
        progress.refused_as_read_only = self.is_refused_as_read_only(on_replica, request);
        progress.retained = request.bytes;
        let prepares = match request.what {
            What::Prepare { id } => {
                progress.preparing = Some(id);
                true
            }
            _ => false,
        };
        // What the session has on its connection would be lost, and nobody told.
        let is_tied = self.followed.in_transaction
            || !self.followed.autocommit
            || self.session.is_bound()
            || self.statements.hold();
        progress.repeatable = may_repeat
            && (request.only_reads() || prepares)
            && !is_tied
            && request.upload.is_none();
        progress.writing |= !prepares && !on_replica && request.may_write();
        progress.went_back = active.server.pooled.connection.traces.goes_back;
        progress.sets_once =
            request.statement.as_ref().is_some_and(|statement| sets_only_for_itself(statement));
        progress.reading |= matches!(request.class, Class::Read | Class::Begin(_));
        let commits = |statement: &Arc<Statement>| {
            let commits = |effect: &SessionEffect| matches!(effect, SessionEffect::Commit { .. });
            statement.commits_unsaid() || statement.session.iter().any(commits)
        };
        let ends = !self.followed.in_transaction || request.statement.as_ref().is_some_and(commits);
        if progress.writing && progress.commit.is_none() && ends {
            let id = self.worker.next_id();
            progress.commit = Some(id);
            self.cluster.commits.begun(id, Instant::now());
        }
        Ok(())
    }

    /// Appends the client's bytes, with the server's id of the statement that they name, and the
    /// types of its parameters if this connection has not seen them. One that is not there the
    /// server is to refuse: it is asked about such errors as about others.
    fn translate_ids(&mut self, active: &mut Active, request: &Request) -> Result<(), Refused> {
        let (What::Execute { id, .. }
        | What::LongData { id }
        | What::Fetch { id }
        | What::ResetStatement(id)) = request.what
        else {
            let own = &self.inbox.filled()[..request.bytes];
            active.outbox.extend(request.instead.as_deref().unwrap_or(own));
            return Ok(());
        };
        active.progress.names = Some(id);
        let bytes = &mut self.inbox.filled_mut()[..request.bytes];
        let traces = &mut active.server.pooled.connection.state.traces;
        let known = self.statements.get_mut(id).zip(traces.prepared.touch(id));
        let Some((prepared, on_server)) = known else {
            return put_with_id(&mut active.outbox, bytes, command::NEVER_PREPARED);
        };
        if let Ok(Command::Execute(execute)) =
            Command::parse(&bytes[HEAD_BYTES..], self.capabilities)
        {
            match execute.types(prepared.parameters) {
                Ok(Some(types)) => {
                    if *prepared.types != *types {
                        prepared.types = types.into();
                        prepared.types_version += 1;
                    }
                    on_server.types = prepared.types_version;
                }
                Ok(None) if prepared.types_version != on_server.types => {
                    if request.upload.is_some() {
                        let message = "a long execution must bring its parameters' types";
                        return Err(Refused::new(errors::PACKET_TOO_LARGE, message));
                    }
                    on_server.types = prepared.types_version;
                    let (mut out, server_id) = (Vec::new(), on_server.id);
                    let mut put = Ok(());
                    packet::put(&mut out, &mut 0, |out| {
                        put = execute.put_with_types(
                            out,
                            server_id,
                            prepared.parameters,
                            &prepared.types,
                        );
                    });
                    put.map_err(|error| Refused::new(errors::MALFORMED, error.to_string()))?;
                    active.outbox.extend(&out);
                    return Ok(());
                }
                // What cannot be read is the server's to refuse.
                Ok(None) | Err(_) => {}
            }
        }
        put_with_id(&mut active.outbox, bytes, on_server.id)
    }

    pub(super) async fn relay(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_relay(cx)).await
    }

    /// Moves bytes in both directions until every reply that is due has been passed on. Cancel
    /// safe: no.
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.worker.cutting.get() {
            return Poll::Ready(Err(Fault::ShuttingDown));
        }
        if self.entry.killed.get() {
            return Poll::Ready(Err(Fault::Killed));
        }
        if let Some(fault) = self.outdated() {
            return Poll::Ready(Err(fault));
        }
        let mut drained = Drained::default();
        loop {
            let mut moved = self.poll_to_client(cx)?;
            moved |= self.poll_to_server(cx)?;
            let Some(active) = &self.active else { return Poll::Ready(Ok(())) };
            if active.is_quiet() || active.progress.intercepted {
                return Poll::Ready(Ok(()));
            }
            moved |= self.poll_from_server(&mut drained, cx)?;
            moved |= self.poll_from_client(&mut drained, cx)?;
            if !moved {
                return self.poll_stall(cx).map(Err);
            }
            self.stall.clear();
        }
    }

    /// What is the proxy's own first, then what the server's bytes are to pass.
    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let mut moved = false;
        let before = active.local.len();
        let unflushed = &mut active.client_unflushed;
        if before > 0 {
            let mut quiet = false;
            moved |= poll_write_out(&mut self.client, &mut active.local, &mut quiet, cx)?;
            *unflushed |= quiet || active.local.len() < before;
            self.worker.stats().bytes_out(before - active.local.len());
        }
        while active.local.is_empty() && active.forwardable > 0 {
            let bytes = &active.read.filled()[..active.forwardable];
            match StdPin::new(&mut self.client).poll_write(cx, bytes)? {
                Poll::Pending => return Ok(moved),
                Poll::Ready(0) => return Err(Fault::ClientLeft),
                Poll::Ready(count) => {
                    active.read.consume(count);
                    active.forwardable -= count;
                    *unflushed = true;
                    moved = true;
                    self.worker.stats().bytes_out(count);
                }
            }
        }
        // In the middle of a reply the rest will follow at once.
        let pauses =
            active.local.is_empty() && (active.expected.is_empty() || active.read.is_empty());
        if *unflushed && pauses && StdPin::new(&mut self.client).poll_flush(cx)?.is_ready() {
            *unflushed = false;
            moved = true;
        }
        Ok(moved)
    }

    fn poll_to_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let Active { server, outbox, server_unflushed, .. } = &mut **active;
        let stream = &mut server.pooled.connection.stream;
        match poll_write_out(stream, outbox, server_unflushed, cx) {
            Ok(moved) => Ok(moved),
            // What the server said before it closed is still to be read, and says more.
            Err(_) if stream.looks_readable() => {
                outbox.clear();
                *server_unflushed = false;
                active.upload = None;
                Ok(true)
            }
            Err(error) => Err(self.server_lost(&error)),
        }
    }

    fn poll_from_server(
        &mut self,
        drained: &mut Drained,
        cx: &mut Context<'_>,
    ) -> Result<bool, Fault> {
        let Some(active) = &mut self.active else { return Ok(false) };
        // The client takes what is there before more is read.
        if drained.server || active.forwardable > 0 || !active.local.is_empty() {
            return Ok(false);
        }
        let stream = &mut active.server.pooled.connection.stream;
        match poll_read_into(stream, &mut active.read, cx) {
            Poll::Pending => {
                drained.server = true;
                return Ok(false);
            }
            Poll::Ready(Ok(0)) => {
                return Err(self.server_lost(&io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(Err(error)) => return Err(self.server_lost(&error)),
            Poll::Ready(Ok(_)) => {}
        }
        if let Err(error) = self.scan() {
            let error = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
            return Err(self.server_lost(&error));
        }
        if self.answers_differ() {
            return Err(Fault::AnswersDiffer);
        }
        Ok(true)
    }

    /// More of a long command or of a file goes to the server; the client is watched in any case.
    fn poll_from_client(
        &mut self,
        drained: &mut Drained,
        cx: &mut Context<'_>,
    ) -> Result<bool, Fault> {
        let mut moved = self.pass_upload();
        let uploads = self.active.as_ref().is_some_and(|active| active.upload.is_some());
        if self.active.as_ref().is_some_and(|active| active.progress.silent) {
            return Ok(moved);
        }
        let room = if uploads { UPLOAD_BYTES_MAX } else { self.hold_bytes() };
        if drained.client || self.inbox.len() >= room {
            return Ok(moved);
        }
        match self.poll_read_client(cx) {
            Poll::Pending => drained.client = true,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::ClientLeft),
            Poll::Ready(Ok(_)) => moved = true,
        }
        moved |= self.pass_upload();
        if self.inbox.is_empty() {
            self.worker.keep_buffer(std::mem::take(&mut self.inbox));
        }
        Ok(moved)
    }

    fn pass_upload(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Some(mut upload) = active.upload else { return false };
        if active.outbox.len() >= UPLOAD_BYTES_MAX {
            return false;
        }
        let bytes = self.inbox.filled_mut();
        let taken = upload.take(bytes);
        active.outbox.extend(&bytes[..taken]);
        self.inbox.consume(taken);
        active.upload = Some(upload).filter(|upload| !upload.is_over());
        active.progress.uploaded = Some(upload);
        taken > 0
    }

    /// An answer of a primary that is one no more is worth nothing: what it has committed since may
    /// be lost. A frozen one may come to life at any moment and answer.
    #[inline]
    fn outdated(&self) -> Option<Fault> {
        let Active { server, progress, .. } = self.active.as_deref()?;
        let topology = &self.cluster.handle.topology;
        if !server.is_primary || server.pooled.connection.life.epoch == topology.epoch() {
            return None;
        }
        let node = topology.load().node(server.node).name.to_string();
        let error = "it is the primary no more".to_owned();
        Some(Fault::ServerLost { node, error, writing: progress.writing })
    }

    /// A primary that is one no more gets nothing, whatever is open on it.
    pub(super) fn check_epoch(&self) -> Result<(), Fault> {
        let Some(active) = &self.active else { return Ok(()) };
        let server = &active.server;
        let snapshot = self.cluster.handle.topology.load();
        if server.is_primary && snapshot.epoch != server.pooled.connection.life.epoch {
            self.worker.stats().fenced_write_avoided(self.cluster.handle.index);
            let node = snapshot.node(server.node).name.to_string();
            return Err(Fault::PrimaryChanged { node });
        }
        Ok(())
    }

    /// Somebody keeps us waiting: the client in the middle of a packet, or by not reading.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let limits = self.worker.limits();
        self.entry.remember(cx.waker());
        let Some(active) = &self.active else { return Poll::Pending };
        if !active.local.is_empty() || active.forwardable > 0 || active.client_unflushed {
            let limit = limits.write_timeout;
            return self.stall.poll(cx, limit).map(|()| Fault::ClientDoesNotRead(limit));
        }
        if active.upload.is_some() && active.outbox.is_empty() {
            let limit = limits.message_timeout;
            return self.stall.poll(cx, limit).map(|()| Fault::ClientStalled(limit));
        }
        self.stall.clear();
        Poll::Pending
    }

    /// The server's connection broke: the monitor hears of it at once.
    fn server_lost(&mut self, error: &io::Error) -> Fault {
        let Some(active) = &self.active else { return Fault::ClientLeft };
        let node = active.server.node;
        let topology = &self.cluster.handle.topology;
        topology.report(Evidence::Failed { node, error: error.to_string().into() });
        let name = topology.load().node(node).name.to_string();
        // Of a command whose end it has not got the server has run nothing: one that is longer than
        // it takes, mostly.
        let unsent = active.upload.is_some_and(|upload| upload.is_command());
        let writing = active.progress.writing
            && active.server.is_primary
            && (!unsent || self.followed.in_transaction);
        Fault::ServerLost { node: name, error: error.to_string(), writing }
    }
}

/// Whether whatever its server tells of variables is over with the statement: a read sets none
/// but for itself (MySQL's SET_VAR, MariaDB's SET STATEMENT).
fn sets_only_for_itself(statement: &Statement) -> bool {
    let locks = statement.reason_code == "locking_clause" || statement.is_ddl;
    statement.effect == Effect::Read
        || locks && statement.count == 1 && statement.session.contains(&SessionEffect::SetsOnce)
}

/// Appends a command with the server's id of the statement that it names.
fn put_with_id(outbox: &mut Buffer, bytes: &[u8], id: u32) -> Result<(), Refused> {
    let at = outbox.len();
    outbox.extend(bytes);
    command::set_statement_id(&mut outbox.filled_mut()[at + HEAD_BYTES..], id)
        .map_err(|error| Refused::new(errors::MALFORMED, error.to_string()))
}

impl Progress {
    /// What of it goes on with the next command of the same session.
    fn next(&mut self, now: Instant) -> Progress {
        Progress {
            writing: self.writing,
            reading: self.reading,
            commit: self.commit.take(),
            record: self.record.take(),
            silent: self.silent,
            heard: self.heard,
            begun: self.begun.take(),
            started: Some(now),
            ..Progress::default()
        }
    }
}
