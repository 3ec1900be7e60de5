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
use super::encode::Encoder;
use super::observer::Observer;
use super::op::{Meant, Op, What};
use super::plan::Batch;
use super::send::describes;
use super::statements::{Prepared, Shape};
use crate::backend::postgres::replies::{ShapeOf, Way};
use crate::protocol::postgres::reply::Status;
use crate::protocol::postgres::request;
use crate::sql::{Effect, Statement};
use std::rc::Rc;

/// Has prepared statements analysed again when they are used.
const RENEWS_PLANS: &str = "DISCARD PLANS";

impl Conversation {
    /// Lets the server look again at names where it has to, and asks it for the columns of what a
    /// batch runs, where they may not be what the client was told. Whether there is anything to wait
    /// for; not when the batch has been compared.
    pub(super) fn compare(&self, active: &mut Active, batch: &Batch) -> bool {
        self.renew_plans(active, batch);
        let before = std::mem::take(&mut active.progress.comparing);
        if before == Some(Comparing::Asked) || active.progress.status == Status::Failed {
            return false;
        }
        // A transaction that fails meanwhile would refuse the question in the request's place.
        let waits = active.replies.is_client_due();
        let plans = self.catalog.plans();
        for prepared in reached(batch).filter_map(|op| told_before(op, plans)) {
            if active.progress.comparing.is_none() && describes(batch) {
                return false;
            }
            if !waits && self.describe_first(active, prepared, plans) {
                active.progress.comparing = Some(Comparing::Asked);
            } else if waits && !self.is_judged(active, prepared, plans) {
                active.progress.comparing = Some(Comparing::Waits);
                return true;
            }
        }
        let asked = active.progress.comparing.is_some();
        if asked {
            active.outbox.extend(request::FLUSH);
        }
        asked
    }

    /// Lets the server look again at what the names in its prepared statements mean, before one of
    /// them is used: DISCARD takes the transaction's snapshot.
    fn renew_plans(&self, active: &mut Active, batch: &Batch) {
        let Some(server) = &mut active.server else { return };
        if !server.pooled.connection.prepared.are_outdated {
            return;
        }
        let may_be_aborted =
            active.progress.status == Status::Failed || active.replies.is_client_due();
        if may_be_aborted || !uses_names(batch) {
            return;
        }
        server.pooled.connection.prepared.are_outdated = false;
        if let Some((mut encoder, _)) = self.encoder(active) {
            encoder.run(RENEWS_PLANS);
        }
    }

    fn describe_first(&self, active: &mut Active, prepared: &Prepared, plans: u64) -> bool {
        if self.is_judged(active, prepared, plans) {
            return false;
        }
        let Some((mut encoder, _)) = self.encoder(active) else { return false };
        encoder.describe_own(prepared);
        true
    }

    /// Whether the server judges the statement itself: it has got it from before the client was
    /// told of its columns.
    fn is_judged(&self, active: &Active, prepared: &Prepared, plans: u64) -> bool {
        let Some(server) = &active.server else { return true };
        let told = prepared.shape.get().map_or(plans, |shape| shape.plans);
        server.pooled.connection.prepared.plans(prepared.id).is_some_and(|made| made <= told)
    }
}

impl Encoder<'_> {
    /// Prepares a statement, unless it is there, and asks for its columns. Where that is a request of
    /// its own nobody is told if it fails: the client's messages in front of its own fail or run first.
    fn describe_own(&mut self, prepared: &Prepared) {
        let apart = self.between && !self.in_block;
        let way = if apart { Way::Ask } else { Way::Swallow };
        if !self.has(prepared) {
            self.send_parse(prepared, way, 0);
        }
        self.describe(prepared, true, way);
        if apart {
            self.sync();
        }
    }
}

/// Where the comparison of a batch has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparing {
    /// The requests before it are answered first.
    Waits,
    Asked,
}

/// Whether a batch uses a statement with names in it that was prepared before.
fn uses_names(batch: &Batch) -> bool {
    let uses = |op: &Op| match &op.what {
        What::Bind(Meant::Named(prepared)) | What::DescribeStatement(Meant::Named(prepared)) => {
            has_names(&prepared.classified.borrow().statement)
        }
        _ => false,
    };
    batch.old_names || batch.ops.iter().any(uses)
}

/// Whether a statement is about anything that has a name.
pub(super) fn has_names(statement: &Statement) -> bool {
    let names = [&statement.tables_read, &statement.tables_written, &statement.functions];
    names.iter().any(|names| !names.is_empty()) || statement.effect == Effect::Unknown
}

/// The messages of a batch up to one that is refused, in each of its segments.
fn reached(batch: &Batch) -> impl Iterator<Item = &Op> {
    let mut is_skipped = false;
    batch.ops.iter().filter(move |op| {
        match op.what {
            What::ParseAgain(_) => is_skipped = true,
            What::Sync => is_skipped = false,
            _ => {}
        }
        !is_skipped
    })
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
