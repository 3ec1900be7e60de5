//! Which columns the results of clients' statements have, and whether it still holds.
//!
//! A server refuses to run a prepared statement whose result has got other columns since it was
//! prepared (`RevalidateCachedQuery`, `src/backend/utils/cache/plancache.c`). A connection that
//! has not got the statement prepares it anew and would not notice. So the proxy has it described
//! when the first server prepares it, unless the client asks anyway; and where plans have changed
//! since, a connection without it describes it again first, and only then gets the request, or
//! what it refuses in the request's place.

use super::active::Active;
use super::conversation::Conversation;
use super::observer::Observer;
use super::plan::{Batch, Meant, Op, What};
use super::send::describes;
use super::statements::{Prepared, Shape};
use crate::backend::postgres::replies::ShapeOf;
use crate::protocol::postgres::reply::Status;
use crate::protocol::postgres::request;
use std::rc::Rc;

impl Conversation {
    /// Asks the server for the columns of what a batch runs, where they may not be what the client
    /// was told. Whether there is anything to wait for; not when the batch has waited already.
    pub(super) fn compare(&self, active: &mut Active, batch: &Batch) -> bool {
        if std::mem::take(&mut active.progress.comparing)
            || active.progress.status == Status::Failed
        {
            return false;
        }
        let plans = self.catalog.plans();
        let mut asked = false;
        for prepared in batch.ops.iter().filter_map(|op| told_before(op, plans)) {
            if asked || !describes(batch) {
                asked |= self.describe_first(active, prepared, plans);
            } else {
                return false;
            }
        }
        if asked {
            active.outbox.extend(request::FLUSH);
            active.progress.comparing = true;
        }
        asked
    }

    fn describe_first(&self, active: &mut Active, prepared: &Prepared, plans: u64) -> bool {
        let Some((mut encoder, _)) = self.encoder(active) else { return false };
        let told = prepared.shape.get().map_or(plans, |shape| shape.plans);
        // What was prepared before the client was told is the server's to judge.
        let is_judged = |made| made <= told;
        if encoder.connection.prepared.plans(prepared.id).is_some_and(is_judged) {
            return false;
        }
        encoder.describe_own(prepared);
        true
    }
}

/// The statement that a message runs, if its columns may have changed since the client was told.
fn told_before(op: &Op, plans: u64) -> Option<&Rc<Prepared>> {
    let What::Bind(Meant::Named(prepared)) = &op.what else { return None };
    let doubtful = |shape: Shape| shape.plans != plans && !shape.is_stale;
    let shape = prepared.shape.get().filter(|_| !prepared.sees_names);
    shape.is_some_and(doubtful).then_some(prepared)
}

impl Prepared {
    /// Whether the client knows of other columns than the result has.
    pub fn is_stale(&self) -> bool {
        self.shape.get().is_some_and(|shape| shape.is_stale)
    }

    /// The description that the client gets next is to be kept in mind, if it may be news.
    pub fn shape_wanted(&self, plans: u64) -> Option<ShapeOf> {
        let known = |shape: Shape| shape.plans == plans && !shape.is_stale;
        let wanted = !self.shape.get().is_some_and(known);
        wanted.then_some(ShapeOf { named: self.serial, plans, compares: false })
    }
}

impl Observer<'_> {
    /// What a server says of a statement's columns.
    pub(super) fn shape_told(&mut self, of: ShapeOf, columns: u64) {
        let Some(prepared) = self.statements.by_serial(of.named) else { return };
        let plans = match self.on_replica {
            true => of.plans.min(self.catalog.plans_on_replica()),
            false => of.plans,
        };
        let told = prepared.shape.get();
        let changed = |told: &Shape| of.compares && told.columns != columns;
        let shape = match told.filter(changed) {
            Some(told) => Shape { is_stale: true, ..told },
            None => Shape { columns, plans, is_stale: false },
        };
        prepared.shape.set(Some(shape));
        if prepared.first.get().is_none() {
            prepared.first.set(Some(shape));
        }
    }
}
