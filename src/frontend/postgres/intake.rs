//! What the client sends while a server connection is held: more for the same server.

use super::conversation::Conversation;
use super::extent::complete;
use super::fault::Fault;
use super::op::What;
use crate::config::PoolMode;
use crate::protocol::postgres::reply::Status;
use crate::session::Transaction;
use crate::topology::Hold;
use std::time::Instant;

impl Conversation {
    /// Takes more of the client's messages, if they may go to this server. Whether there is
    /// something to send now.
    pub(super) fn intake(&mut self) -> Result<bool, Fault> {
        if self.streaming > 0 {
            return Ok(self.stream());
        }
        if self.inbox.len() <= self.taken || !self.may_send_more() {
            return Ok(false);
        }
        self.check_epoch()?;
        let hold = self.hold_bytes();
        let bytes = complete(&self.inbox.filled()[self.taken..], hold)?;
        if bytes == 0 {
            return self.begin_streaming(hold);
        }
        let mut batch = self.scratch.take_batch();
        self.plan(bytes, &mut batch);
        if let Some(error) = batch.broken {
            return Err(error.into());
        }
        let bytes = batch.bytes;
        if bytes == 0 {
            // It depends on replies that are still to come.
            self.scratch.keep_batch(batch);
            return Ok(false);
        }
        let Some(mut active) = self.active.take() else { return Ok(false) };
        let cuts = self.cuts_request(&active, &batch);
        if cuts || self.must_leave(&active, &batch) {
            active.batch = Some(batch);
            self.taken += bytes;
            self.begin_to_leave(&mut active, cuts);
            self.active = Some(active);
            return Ok(true);
        }
        let between = !active.progress.segment_open && !active.replies.is_skipping();
        let joins = active.is_under_way();
        if !between || !active.is_quiet() {
            // In the middle of a request.
        } else if active.progress.status == Status::Idle {
            self.prelude(&mut active, batch.sequences);
            self.begin_record(&mut active, &batch, false);
            active.progress.started = Some(Instant::now());
        } else if active.progress.status == Status::Open {
            self.restore(&mut active, &batch);
        }
        if self.compare(&mut active, &batch) {
            active.batch = Some(batch);
            self.taken += bytes;
            self.active = Some(active);
            return Ok(true);
        }
        self.record(&mut active, &batch, self.taken..self.taken + bytes, joins);
        let message = &self.inbox.filled()[self.taken..self.taken + bytes];
        let behind = self.inbox.len() > self.taken + bytes;
        self.encode(&mut active, (&batch, message), (behind, false));
        self.commit_begins(&mut active, &batch);
        active.note(&batch);
        active.hasten_end();
        let left = batch.ops.iter().any(|op| matches!(op.what, What::Terminate));
        self.active = Some(active);
        self.scratch.keep_batch(batch);
        self.inbox.consume(self.taken + bytes);
        self.taken = 0;
        if left { Err(Fault::ClientLeft) } else { Ok(true) }
    }

    /// Nobody answers what the server skips: it is not remembered.
    pub(super) fn forget_skipped(&mut self) -> Result<(), Fault> {
        let skips = self.active.as_ref().is_some_and(|active| active.replies.is_skipping());
        if skips { self.scan() } else { Ok(()) }
    }

    /// Whether the client's next messages may go to the server that it holds. Everything may go
    /// to the primary, and to wherever a transaction or a pin holds the session; beyond that a
    /// replica gets whole batches, each routed on its own.
    fn may_send_more(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let progress = &active.progress;
        let guarded = progress.guard.is_some() || progress.inquiry.is_some();
        if progress.retained
            || progress.silent
            || progress.intercepted
            || progress.leaving
            || progress.comparing.is_some()
            || guarded
        {
            return false;
        }
        let waits = progress.ending || (progress.dropping && !progress.segment_open);
        if waits && !active.is_quiet() && !active.replies.is_copy_in() {
            return false;
        }
        if active.replies.owed() >= self.worker.limits().client_messages_max {
            // The server has them all, and its answers to these fill more than its own buffer.
            return false;
        }
        let Some(server) = &active.server else { return false };
        if self.is_kept_on_replica() {
            return false;
        }
        let in_transaction = !matches!(self.session.transaction, Transaction::Idle);
        let bound = in_transaction
            || active.progress.segment_open
            || self.session.is_bound()
            || active.replies.is_copy_in()
            || active.replies.is_skipping();
        if bound {
            return true;
        }
        // A free session on the primary goes on there while replies are due; after that it is
        // routed anew.
        if server.is_primary && !active.is_quiet() {
            return self.cluster.handle.topology.load().hold == Hold::Nothing;
        }
        self.cluster.handle.config.pool.mode == PoolMode::Session
    }

    /// A primary that is one no more gets nothing, whatever is open on it.
    fn check_epoch(&self) -> Result<(), Fault> {
        let Some(server) = self.active.as_ref().and_then(|active| active.server.as_ref()) else {
            return Ok(());
        };
        let snapshot = self.cluster.handle.topology.load();
        if server.is_primary && snapshot.epoch != server.pooled.connection.life.epoch {
            self.worker.stats().fenced_write_avoided(self.cluster.handle.index);
            let node = snapshot.node(server.node).name.to_string();
            return Err(Fault::PrimaryChanged { node });
        }
        Ok(())
    }
}
