//! What became of a commit whose server was lost, asked of the primary that comes after it: whether
//! the transaction is in its log ([`crate::failover::history`]).
//!
//! If that is the same server, the transaction's session must be over first: it may be about to
//! commit still. A server that was restarted since has no old sessions; of one that was not, the
//! connection is killed, as often as it takes until it is not there any more.

use super::conversation::Conversation;
use super::errors;
use super::fault::{Fault, Refused};
use super::guard::Guard;
use super::plan::Request;
use super::replay::Lost;
use crate::backend::mysql::connection::Kill;
use crate::failover::history::{self, Found, Search};
use crate::frontend::acquire::acquire;
use crate::metrics::{CommitOutcome, RouteReason, ServerClosed};
use crate::monitor::mysql_connection::ServiceOpts;
use crate::session::{Need, Transaction};
use crate::topology::{Epoch, Evidence, Node, NodeId, Position, Role};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Between two looks at a server that cannot tell yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Between two questions whether commits still wait for a replica.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// ER_NO_SUCH_THREAD.
const NO_SUCH_THREAD: u16 = 1094;

const ABSENT: &str =
    "the primary was lost before the transaction was committed: nothing of it is there";

/// What comes after the loss of a server.
pub(super) enum Recovered {
    /// The client has its answer.
    Answered,
    /// The open transaction goes on on the server that is held now; the command is to be sent.
    GoesOn,
}

impl Conversation {
    /// Finds out what became of a commit that was under way, and tells the client, or lets the lost
    /// transaction go on.
    ///
    /// # Errors
    /// The fault itself, if neither can be done.
    pub(super) async fn recover(
        &mut self,
        request: &Request,
        fault: Fault,
    ) -> Result<Recovered, Fault> {
        if let (Fault::ServerLost { .. }, Some(active)) = (&fault, self.active.as_deref_mut())
            && let Some(lone) = active.progress.lone.take()
        {
            return self.recover_lone(request, fault, lone).await;
        }
        let lost = match &fault {
            Fault::ServerLost { .. } | Fault::PrimaryChanged { .. } | Fault::AnswersDiffer => {
                self.take_lost()
            }
            _ => return Err(fault),
        };
        let guard = match (&fault, self.active.as_deref_mut()) {
            // With the reply there is nothing to find out.
            (Fault::ServerLost { .. }, Some(active)) if !active.expected.is_empty() => {
                active.progress.guard.take()
            }
            _ => None,
        };
        let Some(guard) = guard else { return self.replay(request, fault, lost, false).await };
        self.drop_server(ServerClosed::Broken);
        let (outcome, _) = self.find_out(&guard).await?;
        self.worker.stats().commit_resolved(self.cluster.handle.index, outcome);
        tracing::info!(user = %self.identity.user, transaction = %guard.token,
            "{fault}; its transaction: {}", outcome.as_str());
        let is_bound = self.session.is_bound();
        match outcome {
            CommitOutcome::Unknown => return Err(fault),
            CommitOutcome::Committed => {
                self.transaction_is_over();
                self.session.positions.wrote(Instant::now());
                self.inbox.consume(request.bytes);
                self.tell_ok().await?;
            }
            CommitOutcome::Absent if lost.as_ref().is_some_and(Lost::can_run_again) => {
                return self.replay(request, fault, lost, true).await;
            }
            CommitOutcome::Absent => {
                self.transaction_is_over();
                self.refuse(request, &Refused::new(errors::NOT_COMMITTED, ABSENT)).await?;
            }
        }
        // What the session had on the lost server beside the transaction is gone.
        if is_bound { Err(fault) } else { Ok(Recovered::Answered) }
    }

    pub(super) fn transaction_is_over(&mut self) {
        self.followed.in_transaction = false;
        self.followed.next_transaction = false;
        self.followed.last = None;
        self.session.transaction = Transaction::Idle;
    }

    /// Asks the primary of now, and the one after it if that is lost as well. Gives the epoch in which
    /// it was asked.
    pub(super) async fn find_out(
        &mut self,
        guard: &Guard,
    ) -> Result<(CommitOutcome, Epoch), Fault> {
        let deadline = Instant::now() + self.cluster.handle.config.gate.hold;
        let topology = self.cluster.handle.topology.clone();
        while Instant::now() < deadline {
            if acquire(self, &Need::Primary(RouteReason::Write), false).await?.is_err() {
                break;
            }
            let server = self.active.as_ref().map(|active| &active.server);
            let held = server.map(|server| (server.node, server.pooled.connection.life.epoch));
            self.give_up_server();
            let Some((node, epoch)) = held else { break };
            let Ok(found) = timeout_at(deadline.into(), self.ask(guard, node)).await else { break };
            let is_still_primary = epoch == topology.epoch();
            match found {
                Ok(Found::Committed) if is_still_primary => {
                    if self.is_confirmed((node, epoch), deadline).await {
                        return Ok((CommitOutcome::Committed, epoch));
                    }
                }
                Ok(Found::Absent) if is_still_primary => return Ok((CommitOutcome::Absent, epoch)),
                Ok(Found::Unknown(why)) if is_still_primary => {
                    tracing::warn!(transaction = %guard.token, "not to be found out: {why}");
                    break;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!("asking for a commit: {error}"),
            }
            topology.report(Evidence::ProbeNow);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok((CommitOutcome::Unknown, topology.epoch()))
    }

    /// Where commits wait for a replica, waits until one shows what the primary has: what is in the log
    /// of a server that was restarted may be nowhere else, and another promotion would take it from a
    /// client that was told of it.
    async fn is_confirmed(&self, (node, epoch): (NodeId, Epoch), deadline: Instant) -> bool {
        let since = Instant::now();
        let config = &self.cluster.handle.config;
        let topology = &self.cluster.handle.topology;
        let Some(known) = config.nodes.get(usize::from(node.0)) else { return false };
        let opts = ServiceOpts::new(config, known);
        let (mut asks_at, mut told) = (since, false);
        while Instant::now() < deadline && topology.epoch() == epoch {
            let shows = |node: &Node| node.applied_at.is_some_and(|at| at >= since);
            if topology.load().nodes.iter().any(|node| node.role == Role::Replica && shows(node)) {
                return true;
            }
            if asks_at <= Instant::now() {
                match timeout_at(deadline.into(), history::awaits_replicas(&opts)).await {
                    Ok(Ok(false)) => return true,
                    Ok(Ok(true)) if !std::mem::replace(&mut told, true) => {
                        tracing::info!(
                            "a commit is in the log of {}: waiting for a replica",
                            known.name
                        );
                    }
                    _ => {}
                }
                asks_at = Instant::now() + ASK_INTERVAL;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        false
    }

    async fn ask(&self, guard: &Guard, node: NodeId) -> Result<Found, String> {
        let config = &self.cluster.handle.config;
        let Some(known) = config.nodes.get(usize::from(node.0)) else {
            return Ok(Found::Unknown("the node is not known"));
        };
        let opts = ServiceOpts::new(config, known);
        let Some(Position::Gtids(since)) = &guard.before.node(node).position else {
            return Ok(Found::Unknown("what the server had before is not known"));
        };
        let ran_here = node == guard.node;
        if ran_here && !is_over(guard, &opts).await? {
            return Ok(Found::NotYet);
        }
        let (engine, token) = (config.engine, guard.token);
        history::look(&opts, Search { engine, since, token, ran_here }).await
    }
}

/// Whether the session of the commit is over on its server, which is reached again.
async fn is_over(guard: &Guard, opts: &ServiceOpts) -> Result<bool, String> {
    /// The server tells whole seconds.
    const SECOND: Duration = Duration::from_secs(1);
    /// Connections are numbered from 1 on in each life of a server; from here on a smaller number
    /// may come of there being no larger one.
    const NUMBERS_END: u32 = 1 << 31;
    let age_before = guard.opened_at.elapsed();
    let (uptime, number) = history::uptime(opts).await?;
    let number_before = guard.kill.connection_id();
    let counts_anew = number < number_before && number_before < NUMBERS_END;
    if counts_anew || uptime + SECOND <= age_before {
        return Ok(true);
    }
    // After a restart its number may be somebody else's: it must be the same server for certain.
    if uptime < guard.opened_at.elapsed() {
        return Ok(false);
    }
    match guard.kill.kill(Kill::Connection).await {
        Ok(()) => Ok(false),
        Err(error) => match error.refusal() {
            Some((NO_SUCH_THREAD, ..)) => Ok(true),
            _ => Err(error.to_string()),
        },
    }
}
