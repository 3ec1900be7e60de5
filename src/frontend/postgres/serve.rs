//! The relay between a client and the server connection that it holds: both directions at once,
//! each with one buffer, so that neither side can block the other.

use super::active::{Active, Server};
use super::conversation::{Conversation, poll_flush, poll_read_into, poll_write_from};
use super::fault::Fault;
use super::guard::WITHHELD_BYTES_MAX;
use super::observer::Observer;
use crate::config::PoolMode;
use crate::metrics::NodeIndex;
use crate::protocol::postgres::frame::HEAD_BYTES;
use crate::protocol::postgres::reply::Status;
use crate::topology::Evidence;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

/// How a stretch of relaying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Nothing is under way and nothing holds the connection.
    Done,
    /// The reply was no answer; the request is to be sent elsewhere.
    Repeat,
    /// The transaction is to go on with the request on the primary.
    Leave,
    /// What had to be asked before the request is known; it is to be sent now.
    Settled,
    /// Something keeps the session on a replica; its next request is to be looked at first.
    Between,
    /// The request is to be prepared again and sent once more on the same connection.
    RepeatHere,
}

/// What became of a step from the client to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Nothing,
    /// Bytes were written, and there is nothing new to do: whoever answers wakes the task.
    Written,
    /// Something was read that may be sent on.
    More,
}

/// Which sides have nothing to read. They stay so until the task is woken again: the event loop
/// does not run in between, and whoever sends wakes it.
#[derive(Debug, Clone, Copy, Default)]
struct Drained {
    client: bool,
    server: bool,
}

impl Conversation {
    /// Serves the client on the connection that is held, as long as it is the right one.
    pub(super) async fn serve_here(&mut self) -> Result<Served, Fault> {
        loop {
            match poll_fn(|cx| self.poll_serve(cx)).await {
                Ok(Served::RepeatHere) => self.send_again(),
                Ok(Served::Settled) => self.send_settled(),
                served => return served,
            }
        }
    }

    /// Moves bytes in both directions until nothing more is to be done on this connection.
    /// Cancel safe: no.
    pub(super) fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<Served, Fault>> {
        if self.worker.cutting.get() {
            return Poll::Ready(Err(Fault::ShuttingDown));
        }
        if let Some(fault) = self.outdated() {
            return Poll::Ready(Err(fault));
        }
        let mut drained = Drained::default();
        loop {
            let replied = self.poll_replies(&mut drained, cx)?;
            if replied && let Some(served) = self.settled()? {
                return Poll::Ready(Ok(served));
            }
            let asked = self.ask();
            let requested = self.poll_requests(&mut drained, cx)?;
            if replied || asked || requested != Moved::Nothing {
                self.stall.clear();
            }
            if replied || asked || requested == Moved::More {
                continue;
            }
            if let Some(served) = self.settled()? {
                return Poll::Ready(Ok(served));
            }
            return self.poll_stall(cx).map(Err);
        }
    }

    /// Whether the connection can go, and why.
    fn settled(&mut self) -> Result<Option<Served>, Fault> {
        let Some(active) = &mut self.active else { return Ok(Some(Served::Done)) };
        if let Some(error) = active.progress.broken.take() {
            return Err(Fault::Settings(error.into()));
        }
        if !active.is_quiet() || self.streaming > 0 {
            return Ok(None);
        }
        if std::mem::take(&mut active.progress.ddl_done) {
            self.cluster.handle.catalogs.ddl_ran(&self.identity.database);
        }
        if std::mem::take(&mut active.progress.stale_plan_told) {
            self.catalog.plans_changed();
        }
        if active.progress.inquiry.is_some() || active.progress.silent {
            return Ok(Some(Served::Done));
        }
        if active.progress.leaving {
            let ends = self.ends_failed();
            let Some(active) = &mut self.active else { return Ok(Some(Served::Done)) };
            active.progress.may_leave |= ends;
            let only = active.batch.as_ref().is_some_and(|batch| batch.only_on_primary);
            // What has failed meanwhile the server refuses in its own words.
            let failed = active.progress.status == Status::Failed;
            let stays = !active.progress.may_leave && (!only || failed);
            active.progress.leaving = !stays;
            return Ok(Some(if stays { Served::Settled } else { Served::Leave }));
        }
        if active.progress.comparing.is_some() {
            return Ok(Some(Served::Settled));
        }
        if active.progress.stale_plan {
            return Ok(Some(Served::RepeatHere));
        }
        if active.progress.intercepted {
            return Ok(Some(Served::Repeat));
        }
        if self.is_kept_on_replica() && self.session.doubts.is_empty() && !self.inbox.is_empty() {
            return Ok(Some(Served::Between));
        }
        let Some(active) = &self.active else { return Ok(Some(Served::Done)) };
        let session_mode = self.cluster.handle.config.pool.mode == PoolMode::Session;
        let free = active.progress.status == Status::Idle
            && self.session.is_free()
            && (!session_mode || self.greeting)
            && !active.progress.segment_open
            && !active.replies.is_skipping();
        Ok(free.then_some(Served::Done))
    }

    /// From the server to the client. Whether anything moved.
    fn poll_replies(&mut self, drained: &mut Drained, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let mut moved = self.poll_to_client(cx)?;
        let Some(active) = &mut self.active else { return Ok(moved) };
        let unsent = !active.local.is_empty() || active.replies.forwardable() > 0;
        if drained.server || (unsent && !active.progress.withheld) {
            return Ok(moved);
        }
        let Some(server) = &mut active.server else { return Ok(moved) };
        let stream = &mut server.pooled.connection.stream;
        match poll_read_into(stream, &mut active.read, cx) {
            Poll::Pending => {
                drained.server = true;
                return Ok(moved);
            }
            Poll::Ready(Ok(0)) => {
                return Err(self.server_lost(&io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(Err(error)) => return Err(self.server_lost(&error)),
            Poll::Ready(Ok(_)) => {}
        }
        self.scan()?;
        moved |= self.poll_to_client(cx)?;
        Ok(moved || self.active.is_some())
    }

    /// Matches what the server has sent with what was asked.
    pub(super) fn scan(&mut self) -> Result<(), Fault> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Active { server, replies, read, local, progress, .. } = &mut **active;
        let Some(server) = server else { return Ok(()) };
        let stats = self.worker.stats();
        let (was_local, was_retained) = (local.len(), progress.retained);
        let mut observer = Observer {
            session: &mut self.session,
            statements: &mut self.statements,
            known: &mut self.known,
            welcome: &self.welcome,
            connection: &mut server.pooled.connection,
            catalog: &self.catalog,
            progress,
            stats: &stats,
            cluster: self.cluster.handle.index,
            incarnation: server.incarnation,
            on_replica: !server.is_primary,
            pins: &mut self.pins,
            commits: &self.cluster.commits,
            greeting: self.greeting,
            process_id: self.entry.process_id,
        };
        let scanned = replies.scan(read, local, &mut observer);
        if was_retained && progress.intercepted {
            // What stands there for messages that were not sent is said again with the repetition.
            local.truncate(was_local);
        }
        let waits = replies.forwardable() + local.len();
        progress.withheld &= waits <= WITHHELD_BYTES_MAX;
        let answered = !progress.withheld && (replies.forwardable() > 0 || local.len() > was_local);
        if was_retained && answered && !progress.intercepted {
            progress.retained = false;
            progress.repeatable = false;
            self.statements.changed(progress.changed);
            self.inbox.consume(self.taken);
            self.taken = 0;
        }
        active.release_held();
        if active.answers_differ() {
            return Err(Fault::AnswersDiffer);
        }
        scanned.map(|_| ()).map_err(|error| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
            self.server_lost(&error)
        })
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let mut moved = false;
        if active.progress.withheld {
            return Ok(moved);
        }
        if active.progress.silent {
            active.forget_answers();
            return Ok(moved);
        }
        loop {
            poll_flush(&mut self.client, &mut active.client_unflushed, cx)?;
            let forwardable = active.replies.forwardable();
            let from_local = !active.local.is_empty();
            let bytes = match from_local {
                true => active.local.filled(),
                false if forwardable > 0 => &active.read.filled()[..forwardable],
                false => return Ok(moved),
            };
            let written =
                poll_write_from(&mut self.client, bytes, &mut active.client_unflushed, cx)?;
            let Poll::Ready(count) = written else { return Ok(moved) };
            self.worker.stats().bytes_out(count);
            if from_local {
                active.local.consume(count);
            } else {
                active.read.consume(count);
                active.replies.forwarded(count);
            }
            moved = true;
        }
    }

    /// From the client to the server.
    fn poll_requests(
        &mut self,
        drained: &mut Drained,
        cx: &mut Context<'_>,
    ) -> Result<Moved, Fault> {
        let mut moved = match self.poll_to_server(cx)? {
            true => Moved::Written,
            false => Moved::Nothing,
        };
        let sending = self.active.as_ref().is_none_or(|active| !active.outbox.is_empty());
        if sending {
            return Ok(moved);
        }
        if self.intake()? {
            self.forget_skipped()?;
            self.poll_to_server(cx)?;
            return Ok(Moved::More);
        }
        // What cannot be sent yet is not read for ever: the client feels it.
        let hold = self.hold_bytes();
        if drained.client || self.inbox.len() >= hold + HEAD_BYTES {
            return Ok(moved);
        }
        match self.poll_read_client(cx) {
            Poll::Pending => drained.client = true,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::ClientLeft),
            Poll::Ready(Ok(_)) => moved = Moved::More,
        }
        if self.inbox.is_empty() {
            self.worker.keep_buffer(std::mem::take(&mut self.inbox));
        }
        Ok(moved)
    }

    fn poll_to_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let Active { server, outbox, server_unflushed, .. } = &mut **active;
        let Some(server) = server else { return Ok(false) };
        let stream = &mut server.pooled.connection.stream;
        let mut moved = false;
        let outcome = loop {
            if let Err(error) = poll_flush(stream, server_unflushed, cx) {
                break Err(error);
            }
            if outbox.is_empty() {
                break Ok(());
            }
            match poll_write_from(stream, outbox.filled(), server_unflushed, cx) {
                Poll::Pending => break Ok(()),
                Poll::Ready(Ok(count)) => outbox.consume(count),
                Poll::Ready(Err(error)) => break Err(error),
            }
            moved = true;
        };
        match outcome {
            Ok(()) => Ok(moved),
            // What the server said before it closed is still to be read, and says more.
            Err(_) if self.has_unread_replies() => {
                if let Some(active) = &mut self.active {
                    active.outbox.clear();
                }
                Ok(true)
            }
            Err(error) => Err(self.server_lost(&error)),
        }
    }

    fn has_unread_replies(&self) -> bool {
        let server = self.active.as_ref().and_then(|active| active.server.as_ref());
        server.is_some_and(|server| server.pooled.connection.stream.looks_readable())
    }

    /// An answer of a primary that is one no more is worth nothing: what it has committed since may
    /// be lost. A frozen one may come to life at any moment and answer.
    #[inline]
    fn outdated(&mut self) -> Option<Fault> {
        let server = self.active.as_ref()?.server.as_ref()?;
        if !server.is_primary
            || server.pooled.connection.life.epoch == self.cluster.handle.topology.epoch()
        {
            return None;
        }
        let active = self.active.as_deref()?;
        let node = self.cluster.handle.topology.load().node(server.node).name.to_string();
        if active.is_quiet() {
            return Some(Fault::PrimaryChanged { node });
        }
        let writing = active.progress.writing;
        let error = "it is the primary no more".to_owned();
        Some(Fault::ServerLost { node, error, writing, told: active.progress.fatal_told })
    }

    /// Somebody keeps us waiting: the client in the middle of a message, or by not reading.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let limits = self.worker.limits();
        self.entry.remember(cx.waker());
        let Some(active) = &self.active else { return Poll::Pending };
        let unread = !active.local.is_empty() || active.replies.forwardable() > 0;
        if unread && !active.progress.withheld || active.client_unflushed {
            let limit = limits.write_timeout;
            return self.stall.poll(cx, limit).map(|()| Fault::ClientDoesNotRead(limit));
        }
        let partial = self.streaming > 0 || (self.inbox.len() > self.taken && active.is_quiet());
        if partial && active.outbox.is_empty() {
            let limit = limits.message_timeout;
            return self.stall.poll(cx, limit).map(|()| Fault::ClientStalled(limit));
        }
        self.stall.clear();
        Poll::Pending
    }

    /// The server's connection broke: the monitor hears of it at once.
    fn server_lost(&mut self, error: &io::Error) -> Fault {
        let Some(Active { server: Some(server), progress, .. }) = self.active.as_deref() else {
            return Fault::ClientLeft;
        };
        let Server { node, .. } = *server;
        let topology = &self.cluster.handle.topology;
        topology.report(Evidence::Failed { node, error: error.to_string().into() });
        let name = topology.load().node(node).name.to_string();
        let index = NodeIndex(node.0);
        let why = crate::metrics::ServerClosed::Broken;
        self.worker.stats().server_closed(self.cluster.handle.index, index, why);
        Fault::ServerLost {
            node: name,
            error: error.to_string(),
            writing: progress.writing && server.is_primary,
            told: progress.fatal_told,
        }
    }
}
