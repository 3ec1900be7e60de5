//! Puts the workers' and the pools' numbers on a page.

use super::labels::{
    AuthFailure, CommitOutcome, CommitWait, ErrorOrigin, GateOutcome, PINS, ReplayOutcome,
    ServerClosed, UnsafeReason, sqlstate_class_label,
};
use super::pools::{PoolLabels, PoolNumbers};
use super::reason::RouteReason;
use super::table::Name;
use super::tally::Tally;
use super::text::{Page, Value};
use super::worker::{ClusterCounts, GlobalCounts, NodeCounts, Totals};
use std::collections::BTreeMap;
use std::time::Duration;

/// A metric and how to read its value from what was counted.
type Reading<Counted, Read> = (Name, fn(&Counted) -> Read);

/// Everything that the workers have counted.
pub fn totals(page: &mut Page, totals: &Totals) {
    statements(page, &totals.global);
    clients(page, &totals.global);
    clusters(page, totals);
    nodes(page, totals);
}

fn statements(page: &mut Page, global: &GlobalCounts) {
    let mut family = page.family(Name::UnsafeStatements);
    for reason in UnsafeReason::ALL {
        let count = global.unsafe_statements[*reason as usize].get();
        family.sample(&[reason.as_str()], count);
    }
    page.single(Name::ClassifyCacheHits, global.cache_hits.get());
    page.single(Name::ClassifyCacheMisses, global.cache_misses.get());

    // Most classes are never seen, so each is shown from its first error on.
    let mut family = page.family(Name::Errors);
    for origin in ErrorOrigin::ALL {
        for (class, count) in global.errors[*origin as usize].iter().enumerate() {
            if count.get() > 0 {
                family.sample(&[origin.as_str(), sqlstate_class_label(class)], count.get());
            }
        }
    }
}

fn clients(page: &mut Page, global: &GlobalCounts) {
    let connected = difference(&global.clients_opened, &global.clients_closed);
    page.single(Name::Clients, connected);
    page.single(Name::ClientsOpened, global.clients_opened.get());
    page.single(Name::ClientsRefused, global.clients_refused.get());
    page.single(Name::ClientReceivedBytes, global.bytes_in.get());
    page.single(Name::ClientSentBytes, global.bytes_out.get());

    let mut family = page.family(Name::AuthFailures);
    for reason in AuthFailure::ALL {
        family.sample(&[reason.as_str()], global.auth_failures[*reason as usize].get());
    }
    let mut family = page.family(Name::CancelRequests);
    family.sample(&["forwarded"], global.cancels_forwarded.get());
    family.sample(&["unknown"], global.cancels_unknown.get());

    let mut family = page.family(Name::Pins);
    for (pin, count) in PINS.iter().zip(&global.pinned) {
        family.sample(&[pin], count.get());
    }
    let mut family = page.family(Name::PinnedSessions);
    for (pin, (begun, ended)) in PINS.iter().zip(global.pinned.iter().zip(&global.unpinned)) {
        family.sample(&[pin], difference(begun, ended));
    }
    let mut family = page.family(Name::PinnedSeconds);
    for (pin, micros) in PINS.iter().zip(&global.pinned_micros) {
        family.sample(&[pin], Duration::from_micros(micros.get()));
    }
}

/// A gauge from two counters. They are read one after the other while workers write, so the second
/// may be ahead for a moment.
fn difference(begun: &Tally, ended: &Tally) -> u64 {
    begun.get().saturating_sub(ended.get())
}

fn clusters(page: &mut Page, totals: &Totals) {
    let readings: [Reading<ClusterCounts, u64>; 4] = [
        (Name::StaleReadsAvoided, |counts| counts.stale_reads_avoided.get()),
        (Name::FencedWritesAvoided, |counts| counts.fenced_writes_avoided.get()),
        (Name::LostWrites, |counts| counts.lost_writes.get()),
        (Name::GateWaiting, |counts| {
            let left: u64 = counts.gate_left.iter().map(Tally::get).sum();
            counts.gate_entered.get().saturating_sub(left)
        }),
    ];
    for (name, value) in readings {
        let mut family = page.family(name);
        for (cluster, counts) in &totals.clusters {
            family.sample(&[cluster], value(counts));
        }
    }
    let mut family = page.family(Name::CommitsResolved);
    for (cluster, counts) in &totals.clusters {
        for outcome in CommitOutcome::ALL {
            let count = counts.commits_resolved[*outcome as usize].get();
            family.sample(&[cluster, outcome.as_str()], count);
        }
    }
    let mut family = page.family(Name::Replays);
    for (cluster, counts) in &totals.clusters {
        for outcome in ReplayOutcome::ALL {
            let count = counts.replays[*outcome as usize].get();
            family.sample(&[cluster, outcome.as_str()], count);
        }
    }
    let mut family = page.family(Name::CommitWaits);
    for (cluster, counts) in &totals.clusters {
        for outcome in CommitWait::ALL {
            let count = counts.commit_waits[*outcome as usize].get();
            family.sample(&[cluster, outcome.as_str()], count);
        }
    }
    let mut family = page.family(Name::GateWaits);
    for (cluster, counts) in &totals.clusters {
        for outcome in GateOutcome::ALL {
            let count = counts.gate_left[*outcome as usize].get();
            family.sample(&[cluster, outcome.as_str()], count);
        }
    }
    let mut family = page.family(Name::GateWaitSeconds);
    for (cluster, counts) in &totals.clusters {
        family.histogram(&[cluster], &counts.gate_wait);
    }
}

fn nodes(page: &mut Page, totals: &Totals) {
    let mut family = page.family(Name::Routed);
    for ((cluster, node), counts) in &totals.nodes {
        for reason in RouteReason::ALL {
            let count = counts.routed[*reason as usize].get();
            family.sample(&[cluster, node, reason.as_str()], count);
        }
    }
    let readings: [Reading<NodeCounts, u64>; 5] = [
        (Name::Transactions, |counts| counts.transactions.get()),
        (Name::Retried, |counts| counts.retried.get()),
        (Name::ServerOpened, |counts| counts.server_opened.get()),
        (Name::ServerConnectFailed, |counts| counts.server_connect_failed.get()),
        (Name::ServerReused, |counts| counts.server_reused.get()),
    ];
    for (name, value) in readings {
        let mut family = page.family(name);
        for ((cluster, node), counts) in &totals.nodes {
            family.sample(&[cluster, node], value(counts));
        }
    }
    let mut family = page.family(Name::ServerClosed);
    for ((cluster, node), counts) in &totals.nodes {
        for reason in ServerClosed::ALL {
            let count = counts.server_closed[*reason as usize].get();
            family.sample(&[cluster, node, reason.as_str()], count);
        }
    }
    let mut family = page.family(Name::QuerySeconds);
    for ((cluster, node), counts) in &totals.nodes {
        family.histogram(&[cluster, node], &counts.query);
    }
    let mut family = page.family(Name::PoolWaitSeconds);
    for ((cluster, node), counts) in &totals.nodes {
        family.histogram(&[cluster, node], &counts.pool_wait);
    }
}

/// The pools at present.
pub fn pools(page: &mut Page, pools: &BTreeMap<PoolLabels, PoolNumbers>) {
    let mut family = page.family(Name::PoolConnections);
    for (PoolLabels { cluster, node, user, database }, numbers) in pools {
        family.sample(&[cluster, node, user, database, "idle"], numbers.idle);
        family.sample(&[cluster, node, user, database, "active"], numbers.active);
    }
    let readings: [Reading<PoolNumbers, Value>; 4] = [
        (Name::PoolWaiting, |numbers| numbers.waiting.into()),
        (Name::PoolOpened, |numbers| numbers.opened_total.into()),
        (Name::PoolWaits, |numbers| numbers.waits_total.into()),
        (Name::PoolWaitedSeconds, |numbers| numbers.waited_total.into()),
    ];
    for (name, value) in readings {
        let mut family = page.family(name);
        for (PoolLabels { cluster, node, user, database }, numbers) in pools {
            family.sample(&[cluster, node, user, database], value(numbers));
        }
    }
}
