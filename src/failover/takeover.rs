//! The primary is lost: a replica takes its place.
//!
//! Until the promotion is asked for, every failure leaves things as they were. After it, the new
//! primary is what the monitor sees, and the rest (other replicas, the old primary) is made good
//! as far as it can be.

use super::audit::Act;
use super::candidate::{Candidate, Wanted, choose};
use super::command;
use super::control::{Task, isolate};
use super::servers::{Part, Servers, Standing, shown};
use super::unreplaced::Unreplaced;
use crate::config::NodeConfig;
use crate::topology::{Health, Lost, Timeline, Topology};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A frozen primary that has just come to life may still be reached.
const FROZEN_PATIENCE: Duration = Duration::from_millis(100);
/// Each choice leaves one server fewer that the old primary can send to; two are enough unless an
/// errand fails.
const CHOICES_MAX: usize = 4;

/// Runs the steps in order.
///
/// # Errors
/// Why nothing was promoted, or why the promoted server is not used.
pub(super) async fn run(
    task: &mut Task,
    servers: &Servers,
    act: &Act,
    lost: &Lost,
) -> Result<(), String> {
    let since = lost.seen_at.unwrap_or_else(Instant::now);
    // If this promotion's outcome remains unknown, what an earlier one left must not be undone.
    task.unreplaced = None;
    let old = &servers.cluster.nodes[usize::from(lost.node.0)];
    let promoted = promoted(task, servers, act, old, lost).await;
    let new = match promoted {
        Ok(new) => new,
        Err(error) => {
            let _ = task.order(|orders| orders.fenced = None, |_| true).await;
            return Err(error);
        }
    };
    let opened = act.step("open the gate", task.open(&new.name)).await;
    if opened.is_err() {
        let _ = task.order(|orders| orders.fenced = None, |_| true).await;
        return opened;
    }
    act.opened(since);
    task.follow(servers, act, (old, new)).await;
    task.look_for(&old.name, Instant::now());
    if servers.cluster.failover.rejoin_command.is_some() {
        task.rejoin(servers, act, old, new).await;
    }
    Ok(())
}

/// Fences the old primary and promotes the best replica.
async fn promoted<'a>(
    task: &mut Task,
    servers: &'a Servers,
    act: &Act,
    old: &NodeConfig,
    lost: &Lost,
) -> Result<&'a NodeConfig, String> {
    let config = &servers.cluster.failover;
    let name = old.name.clone();
    act.step(format!("keep requests away from {name}"), async {
        let fence = |orders: &mut crate::topology::Orders| orders.fenced = Some(name.clone());
        task.order(fence, |snapshot| snapshot.primary.is_none()).await?;
        Ok(((), "what it may answer from now on is not passed on".to_owned()))
    })
    .await?;
    // One that lets nobody in would be waited for in vain.
    let timeout = servers.cluster.monitor.timeout;
    // Whoever cannot be reached is kept away by its timeline.
    let patience = if lost.frozen { FROZEN_PATIENCE } else { timeout };
    let is_read_only = isolate(servers, act, old, patience).await.is_ok();
    let settled = async {
        if let Some(line) = &config.fence_command {
            act.step(format!("run failover.fence_command for {}", old.name), async {
                let bound = config.command_timeout;
                let told = command::run(line, &servers.cluster.name, (old, None), bound).await?;
                Ok(((), told))
            })
            .await?;
        }
        let settled = settle(task, servers, act, old).await?;
        task.may_act()?;
        Ok(settled)
    };
    let promoted = match settled.await {
        Ok((new, timeline)) => promote(servers, act, new, timeline).await.map(|()| new),
        Err(error) => {
            if is_read_only && !is_there_another(task, servers, old).await {
                let_write(task, servers, act, old).await;
            }
            task.unreplaced = Some(Unreplaced::new(old));
            Err(error)
        }
    };
    if promoted.is_err() {
        reattach(task, servers, old).await;
    }
    promoted
}

/// Nobody was promoted, and the old primary came back in time to be made read-only: it goes on. Not
/// if this proxy has lost its lease: another one may be promoting, and has fenced it.
async fn let_write(task: &Task, servers: &Servers, act: &Act, old: &NodeConfig) {
    let bound = servers.patience();
    let write = async {
        if bounded(bound, servers.standing(old)).await?.part == Part::Replica {
            return Err("it is a replica by now".to_owned());
        }
        task.may_act()?;
        bounded(bound, servers.set_read_only(old, false)).await?;
        Ok(((), "nobody was promoted".to_owned()))
    };
    let _ = act.step(format!("let {} take writes again", old.name), write).await;
}

/// Whether somebody else takes writes.
async fn is_there_another(task: &Task, servers: &Servers, old: &NodeConfig) -> bool {
    for node in others(task, servers, old) {
        let standing = bounded(servers.patience(), servers.standing(node)).await;
        if standing.is_ok_and(|standing| standing.part == Part::Primary) {
            return true;
        }
    }
    false
}

/// Chooses a replica. The old primary may be back at any moment, and what it sent to another one
/// alone the new primary would lack for good: before the choice is final, no other receives from it.
async fn settle<'a>(
    task: &mut Task,
    servers: &'a Servers,
    act: &Act,
    old: &NodeConfig,
) -> Result<(&'a NodeConfig, Option<Timeline>), String> {
    let (mut new, _) = act.step("choose a replica", survey(task, servers, old, None)).await?;
    if task.reconnection.is_under_way() {
        let parted = async {
            task.reconnection.ended().await;
            Ok(((), "they were told to connect again".to_owned()))
        };
        act.step(format!("let replicas end their sessions at {}", old.name), parted).await?;
    }
    let mut told_before = false;
    for _ in 0..CHOICES_MAX {
        act.chosen(&new.name);
        let detached = async {
            let to = new.clone();
            let failed = at_once(task, servers, old, move |servers, node| {
                let to = to.clone();
                async move { servers.detach(&node, &to).await }
            });
            let failed = failed.await;
            let told = if failed.is_empty() { "nobody does".to_owned() } else { failed.join(", ") };
            Ok((failed.is_empty(), told))
        };
        let step = format!("let nobody else receive from {}", old.name);
        let all_parted = act.step(step, detached).await?;
        let again = survey(task, servers, old, Some(&new.name));
        let (best, timeline) = act.step("see who has most", again).await?;
        // Whoever could not be told once is told again: it may only have been slow, and what an old
        // primary that is back sends to it parts it from the new one for good. Who cannot be told at
        // all is made good afterwards, by whoever can: nobody waits for that.
        let is_settled = best.name == new.name && (all_parted || told_before);
        told_before = best.name == new.name;
        if is_settled {
            return Ok((new, timeline));
        }
        new = best;
    }
    Err(format!("replicas go on receiving from {}", old.name))
}

/// Nobody is promoted: the replicas receive from the old primary again, as soon as it is back.
async fn reattach(task: &Task, servers: &Servers, old: &NodeConfig) {
    if is_there_another(task, servers, old).await {
        // Somebody else's, or this one's that has come late: they are to follow that.
        return;
    }
    let to = old.clone();
    let failed = at_once(task, servers, old, move |servers, node| {
        let to = to.clone();
        async move { servers.reattach(&node, &to).await }
    });
    for error in failed.await {
        tracing::warn!("cannot let it receive from {} again: {error}", old.name);
    }
}

/// The other nodes that answer their probes: whoever does not is not waited for.
fn others<'a>(task: &Task, servers: &'a Servers, old: &NodeConfig) -> Vec<&'a NodeConfig> {
    let snapshot = task.topology.load_full();
    let answers = |node: &&NodeConfig| {
        let node = snapshot.node_by_name(&node.name);
        node.is_some_and(|node| node.health == Health::Healthy)
    };
    servers.cluster.nodes.iter().filter(|node| node.name != old.name).filter(answers).collect()
}

/// What a server is asked or told while one is chosen. One that answers its probes is only slow, and
/// waited for: it may have what nobody else has, or go on receiving what nobody else will have.
async fn while_it_answers<T>(
    (topology, name): (Arc<Topology>, Arc<str>),
    (patience, bound): (Duration, Duration),
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut work = std::pin::pin!(work);
    let begun = Instant::now();
    loop {
        if let Ok(done) = timeout(patience, &mut work).await {
            return done;
        }
        let snapshot = topology.load_full();
        let known = snapshot.node_by_name(&name);
        let answers = known.is_some_and(|node| node.health == Health::Healthy);
        if !answers || begun.elapsed() >= bound {
            return Err(format!("no answer within {} s", begun.elapsed().as_secs()));
        }
    }
}

/// Does an errand on all other nodes at the same time; what went wrong where.
async fn at_once<F>(
    task: &Task,
    servers: &Servers,
    old: &NodeConfig,
    errand: impl Fn(Servers, NodeConfig) -> F,
) -> Vec<String>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let bounds = (servers.patience(), servers.cluster.failover.step_timeout);
    let begin = |node: &'_ NodeConfig| {
        let place = (task.topology.clone(), node.name.clone());
        tokio::spawn(while_it_answers(place, bounds, errand(servers.unhurried(), node.clone())))
    };
    let nodes = others(task, servers, old).into_iter();
    let begun: Vec<_> = nodes.map(|node| (node, begin(node))).collect();
    let mut failed = Vec::new();
    for (node, errand) in begun {
        if let Err(error) = errand.await.unwrap_or_else(|error| Err(error.to_string())) {
            failed.push(format!("{}: {error}", node.name));
        }
    }
    failed
}

/// Promotes a replica and makes sure that it takes writes.
pub(super) async fn promote(
    servers: &Servers,
    act: &Act,
    new: &NodeConfig,
    before: Option<Timeline>,
) -> Result<(), String> {
    let bound = servers.cluster.failover.step_timeout;
    act.step(format!("promote {}", new.name), async {
        Ok(((), bounded(bound, servers.promote(new)).await?))
    })
    .await?;
    act.step(format!("see whether {} takes writes", new.name), async {
        Ok(((), bounded(bound, servers.verify(new, before)).await?))
    })
    .await
}

/// Asks all replicas at once how far they are, and chooses.
async fn survey<'a>(
    task: &Task,
    servers: &'a Servers,
    old: &NodeConfig,
    chosen: Option<&Arc<str>>,
) -> Result<((&'a NodeConfig, Option<Timeline>), String), String> {
    let snapshot = task.topology.load_full();
    let nodes = others(task, servers, old);
    let bounds = (servers.patience(), servers.cluster.failover.step_timeout);
    let asked: Vec<_> = nodes
        .iter()
        .map(|node| {
            let place = (task.topology.clone(), node.name.clone());
            let (servers, node) = (servers.unhurried(), NodeConfig::clone(node));
            let standing = async move { servers.standing(&node).await };
            tokio::spawn(while_it_answers(place, bounds, standing))
        })
        .collect();
    let mut standings: Vec<(&NodeConfig, Standing)> = Vec::new();
    let mut told = Vec::new();
    for (node, answer) in nodes.into_iter().zip(asked) {
        match answer.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(standing) if standing.part == Part::Replica => {
                told.push(format!("{} at {}", node.name, shown(standing.position.as_ref())));
                let known = snapshot.node_by_name(&node.name);
                let seen = known.and_then(|node| node.position.as_ref()?.timeline());
                standings.push((node, standing.seen_on(seen)));
            }
            Ok(standing) if standing.part == Part::Neither => {
                told.push(format!("{} receives from nobody", node.name));
            }
            Ok(_) => return Err(format!("{} takes writes: somebody else promotes", node.name)),
            Err(error) => told.push(format!("{}: {error}", node.name)),
        }
    }
    let told = told.join(", ");
    let orders = task.topology.orders();
    let candidates: Vec<Candidate> = standings
        .iter()
        .filter_map(|(node, standing)| {
            Some(Candidate {
                name: node.name.clone(),
                system: standing.system,
                timeline: standing.timeline,
                position: standing.position.clone()?,
                priority: node.priority,
                zone: node.zone.clone(),
                drained: orders.is_out(&node.name),
            })
        })
        .collect();
    // Whom the monitor calls healthy is of the cluster's system.
    let system = candidates.first().map(|candidate| candidate.system);
    let timeline = candidates.iter().filter_map(|candidate| candidate.timeline).max();
    let Some(system) = system else {
        return Err(format!("no replica can be promoted: {told}"));
    };
    let wanted = Wanted { system, timeline, zone: old.zone.clone(), chosen: chosen.cloned() };
    let best = choose(&candidates, &wanted).map_err(|error| format!("{error} ({told})"))?;
    let chosen = standings.iter().find(|(node, _)| node.name == best.name).map(|(node, _)| *node);
    let chosen = chosen.ok_or_else(|| told.clone())?;
    Ok(((chosen, timeline), format!("{}, of {told}", best.name)))
}

pub(super) async fn bounded<T>(
    bound: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(bound, work).await {
        Ok(done) => done,
        Err(_) => Err(format!("no answer within {bound:?}")),
    }
}
