//! Memory that one worker's conversations use in turn, so that a request allocates nothing.

use super::active::{Active, Progress};
use super::plan::Batch;
use super::statements::Registry;
use crate::frontend::worker::Worker;
use std::cell::RefCell;
use std::mem::take;

/// Kept for the next request; more are only in use at once when as many requests run.
const KEPT_MAX: usize = 256;

/// Messages whose planning memory is kept.
const OPS_KEPT_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Scratch {
    pub registry: Registry,
    #[expect(clippy::vec_box, reason = "a batch moves from stage to stage")]
    batches: RefCell<Vec<Box<Batch>>>,
    #[expect(clippy::vec_box, reason = "a conversation holds the box, an idle one none")]
    actives: RefCell<Vec<Box<Active>>>,
}

impl Scratch {
    pub fn take_batch(&self) -> Box<Batch> {
        self.batches.borrow_mut().pop().unwrap_or_default()
    }

    pub fn keep_batch(&self, mut batch: Box<Batch>) {
        let mut batches = self.batches.borrow_mut();
        if batches.len() < KEPT_MAX && batch.ops.capacity() <= OPS_KEPT_MAX {
            batch.clear();
            batches.push(batch);
        }
    }

    /// An empty one, with buffers.
    pub fn take_active(&self, worker: &Worker) -> Box<Active> {
        let mut active = self.actives.borrow_mut().pop().unwrap_or_default();
        for buffer in [&mut active.outbox, &mut active.read, &mut active.local] {
            if buffer.capacity() == 0 {
                *buffer = worker.take_buffer();
            }
        }
        active
    }

    pub fn keep_active(&self, mut active: Box<Active>, worker: &Worker) {
        active.server = None;
        active.replies.clear();
        active.progress = Progress {
            executed: take(&mut active.progress.executed),
            commits: take(&mut active.progress.commits),
            ..Progress::default()
        };
        active.progress.executed.clear();
        active.progress.commits.clear();
        active.server_unflushed = false;
        active.client_unflushed = false;
        if let Some(batch) = active.batch.take() {
            self.keep_batch(batch);
        }
        let mut actives = self.actives.borrow_mut();
        for buffer in [&mut active.outbox, &mut active.read, &mut active.local] {
            buffer.clear();
            if buffer.capacity() > crate::frontend::worker::BUFFER_BYTES
                || actives.len() >= KEPT_MAX
            {
                worker.keep_buffer(take(buffer));
            }
        }
        if actives.len() < KEPT_MAX {
            actives.push(active);
        }
    }
}
