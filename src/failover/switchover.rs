//! An operator hands the primary's part to a replica: no client sees an error.
//!
//! Other proxies are told, requests that need the primary wait, open transactions end, the target
//! applies all that was written, and only then it is promoted. Whatever fails before that is undone:
//! the old primary goes on as if nothing had been.

use super::audit::Act;
use super::control::{Task, isolate, others};
use super::servers::{Announced, Part, Servers, shown};
use super::takeover::{bounded, promote};
use super::unreplaced::Unreplaced;
use crate::config::{Cluster, NodeConfig};
use crate::monitor::handover::seen_by_all;
use crate::topology::{Health, Hold, Orders, Role, Snapshot, Timeline};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Who hands over to whom.
pub(super) struct Pair {
    pub(super) from: NodeConfig,
    pub(super) to: NodeConfig,
}

/// The pair, or why it cannot be.
pub(super) fn pair(cluster: &Cluster, snapshot: &Snapshot, to: &str) -> Result<Pair, String> {
    if cluster.patroni.is_some() {
        return Err(
            "Patroni changes this cluster's primary: use `patronictl switchover`".to_owned()
        );
    }
    let target = snapshot.node_by_name(to).ok_or_else(|| format!("there is no node {to}"))?;
    let Some(primary) = snapshot.primary else {
        return Err(format!("there is no primary: {}", snapshot.no_primary_because));
    };
    if primary == target.id {
        return Err(format!("{to} is the primary"));
    }
    if snapshot.hold != Hold::Nothing {
        return Err(snapshot.closed_because().to_owned());
    }
    if target.role != Role::Replica || target.health != Health::Healthy {
        let why =
            if target.out_because.is_empty() { "it is no replica" } else { &target.out_because };
        return Err(format!("{to} cannot be promoted: {why}"));
    }
    let config = |id: crate::topology::NodeId| cluster.nodes[usize::from(id.0)].clone();
    Ok(Pair { from: config(primary), to: config(target.id) })
}

/// Runs the steps in order. `limit` bounds how long writes are held before the promotion.
///
/// # Errors
/// Why the old primary is still the primary, or what went wrong after it was not.
pub(super) async fn run(
    task: &mut Task,
    servers: &Servers,
    act: &Act,
    pair: &Pair,
    limit: Duration,
) -> Result<(), String> {
    let Pair { from, to } = pair;
    let begun = Instant::now();
    act.step(format!("see whether {} follows", to.name), async {
        let last = bounded(limit, servers.catch_up(from, to)).await?;
        Ok(((), format!("it has applied up to {}", shown(Some(&last)))))
    })
    .await?;
    let announced = announce(task, servers, act, from).await?;
    let left = limit.saturating_sub(begun.elapsed());
    let changed = change(task, servers, act, pair, left).await;
    let pause = if changed.is_ok() { seen_by_all(interval(servers)) } else { Duration::ZERO };
    let taken_back = tokio::spawn(take_back(announced, pause, servers.patience()));
    if changed.is_err() {
        // Before this proxy hears of it as of another one's.
        let _ = taken_back.await;
    }
    task.topology.order(|orders| orders.hands_over = false);
    changed?;
    task.follow(servers, act, (from, to)).await;
    task.rejoin(servers, act, from, to).await;
    Ok(())
}

fn interval(servers: &Servers) -> Duration {
    servers.cluster.monitor.interval
}

/// Tells all proxies, and waits until they hold what needs the primary.
async fn announce(
    task: &Task,
    servers: &Servers,
    act: &Act,
    from: &NodeConfig,
) -> Result<Announced, String> {
    task.topology.order(|orders| orders.hands_over = true);
    let announced = act.step("tell other proxies", async {
        let announced = bounded(servers.patience() * 2, servers.announce(from)).await?;
        sleep(seen_by_all(interval(servers))).await;
        Ok((announced, "requests wait there, too".to_owned()))
    });
    let announced = announced.await;
    if announced.is_err() {
        task.topology.order(|orders| orders.hands_over = false);
    }
    announced
}

/// Others look at the old primary until they have seen the new one.
async fn take_back(announced: Announced, pause: Duration, bound: Duration) {
    sleep(pause).await;
    // Otherwise it goes with its connection.
    let _ = timeout(bound, announced.take_back()).await;
}

/// The change itself, until requests go on.
async fn change(
    task: &mut Task,
    servers: &Servers,
    act: &Act,
    pair: &Pair,
    limit: Duration,
) -> Result<(), String> {
    let since = Instant::now();
    let Pair { from, to } = pair;
    let ready = bounded(limit, hand_over(task, servers, act, pair)).await;
    let timeline = match ready {
        Ok(timeline) => timeline,
        Err(error) => {
            undo(task, servers, act, from).await;
            return Err(error);
        }
    };
    // As in a takeover.
    task.unreplaced = None;
    // Requests are kept away from it either way.
    let _ = isolate(servers, act, from, servers.patience()).await;
    // A replica that had more than the target could not follow it.
    for node in others(servers, from, to) {
        let point = async {
            let told = bounded(servers.patience(), servers.repoint(node, to)).await?;
            Ok(((), told))
        };
        // One that does not answer cannot be waited for.
        let _ = act.step(format!("point {} at {}", node.name, to.name), point).await;
    }
    // Whatever a session of its own could still write before it was ended is applied as well.
    let last = act.step(format!("see that {} has everything", to.name), async {
        let last = bounded(limit, servers.catch_up(from, to)).await?;
        Ok(((), format!("applied up to {}", shown(Some(&last)))))
    });
    let promoted = match last.await.and_then(|()| task.may_act()) {
        Ok(()) => promote(servers, act, to, timeline).await,
        Err(error) => Err(error),
    };
    if let Err(error) = promoted {
        // Only a server that takes no writes for certain may be left so.
        let standing = bounded(servers.patience(), servers.standing(to)).await;
        if standing.is_ok_and(|standing| standing.part != Part::Primary) {
            undo(task, servers, act, from).await;
            task.unreplaced = Some(Unreplaced::new(from));
            task.follow(servers, act, (from, from)).await;
        } else {
            let _ = task.order(release, |_| true).await;
        }
        return Err(error);
    }
    let opened = act.step("open the gate", task.open(&to.name)).await;
    if opened.is_err() {
        let _ = task.order(release, |_| true).await;
        return opened;
    }
    act.opened(since);
    Ok(())
}

/// Everything before the promotion that can be undone.
async fn hand_over(
    task: &Task,
    servers: &Servers,
    act: &Act,
    pair: &Pair,
) -> Result<Option<Timeline>, String> {
    let Pair { from, to } = pair;
    act.step("hold writes", async {
        task.order(|orders| orders.switching = true, |now| now.hold != Hold::Nothing).await?;
        Ok(((), "what needs the primary waits".to_owned()))
    })
    .await?;
    act.step(format!("let transactions on {} end", from.name), async {
        servers.wait_until_idle(from).await?;
        Ok(((), "none is open".to_owned()))
    })
    .await?;
    act.step(format!("wait for {} to apply everything", to.name), async {
        let last = servers.catch_up(from, to).await?;
        Ok(((), format!("applied up to {}", shown(Some(&last)))))
    })
    .await?;
    let standing = servers.standing(from).await?;
    let name = from.name.clone();
    act.step(format!("keep requests away from {name}"), async {
        let fence = |orders: &mut Orders| orders.fenced = Some(name.clone());
        task.order(fence, |snapshot| snapshot.primary.is_none()).await?;
        Ok(((), "it is the primary no more".to_owned()))
    })
    .await?;
    Ok(standing.timeline)
}

/// The old primary goes on.
async fn undo(task: &Task, servers: &Servers, act: &Act, from: &NodeConfig) {
    let bound = servers.cluster.failover.step_timeout;
    let _ = act
        .step(format!("leave {} the primary", from.name), async {
            bounded(bound, servers.set_read_only(from, false)).await?;
            task.order(release, |snapshot| snapshot.open_primary().is_some()).await?;
            Ok(((), "requests go on there".to_owned()))
        })
        .await;
    // Whatever has failed: nothing waits for a change that is not made.
    task.topology.order(release);
}

fn release(orders: &mut Orders) {
    orders.switching = false;
    orders.fenced = None;
}
