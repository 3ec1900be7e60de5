//! How a conversation parts with its server connection.

use super::active::{Active, Progress, Server};
use super::conversation::Conversation;
use super::plan::Batch;
use crate::metrics::{NodeIndex, ServerClosed};
use crate::topology::Evidence;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

impl Conversation {
    /// Gives the connection back; gives the batch that was sent on it.
    pub(super) fn give_up_server(&mut self) -> Option<Box<Batch>> {
        let (mut active, server) = self.part()?;
        let batch = active.batch.take();
        if let Some(mut server) = server {
            // A Query in the middle of a request has ended it.
            let state = &mut *server.pooled.connection;
            state.traces.unknown |= !state.under_own_names.is_empty();
            state.under_own_names.clear();
            let now = active.progress.ended.unwrap_or_else(Instant::now);
            server.pool.give_back(server.pooled, now);
        }
        if self.session.positions.take_sample_due() {
            self.cluster.handle.topology.report(Evidence::ProbeNow);
        }
        self.scratch.keep_active(active, &self.worker);
        batch
    }

    /// Closes the connection; gives the batch that was under way.
    pub(super) fn drop_server(&mut self, why: ServerClosed) -> Option<Box<Batch>> {
        let (mut active, server) = self.part()?;
        let batch = active.batch.take();
        if let Some(server) = server {
            server.pool.stats.active_closed();
            let node = NodeIndex(server.node.0);
            self.worker.stats().server_closed(self.cluster.handle.index, node, why);
        }
        active.progress = Progress::default();
        self.scratch.keep_active(active, &self.worker);
        batch
    }

    /// The connection is nobody's any more: it cannot be cancelled, and no commit is under way.
    fn part(&mut self) -> Option<(Box<Active>, Option<Server>)> {
        let mut active = self.active.take()?;
        self.entry.bind(None);
        for commit in active.progress.commits.drain(..) {
            self.cluster.commits.ended(commit.id);
        }
        let server = active.server.take();
        if let Some(server) = &server {
            self.cluster.count_busy(usize::from(server.node.0), false);
        }
        Some((active, server))
    }

    /// Waits for cancel requests on their way: they must not meet the next session's statement.
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

    /// Gives the connection back if nothing holds it.
    pub(super) async fn release(&mut self) {
        self.cancels_arrived().await;
        if let Some(batch) = self.give_up_server() {
            self.keep_batch(batch);
        }
    }
}
