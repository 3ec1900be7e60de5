//! One node as the judge remembers it: what is configured, and what its probes said.

use super::election::{Claim, Known, LastPrimary};
use super::handover::FORGOTTEN;
use super::lives::{Lineage, Lives, Upstream};
use super::probe::{Outcome, ProbeError};
use super::readset::{Bounds, Membership};
use super::report::{Report, State};
use crate::config::NodeConfig;
use crate::topology::{Branch, Health, Lag, Node, NodeId, Orders, Position, Role, Timeline};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Share of a new round trip in the smoothed one: as TCP's SRTT (RFC 6298), 1/8.
const ROUND_TRIP_SHARE: u32 = 8;

/// Where probes are far apart, a primary is not frozen between two of them.
pub(super) const FROZEN_INTERVALS: u32 = 4;

/// One node: what is configured, and what its probes said.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) id: NodeId,
    pub(super) name: Arc<str>,
    pub(super) address: Arc<str>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) weight: u32,
    /// At least one probe has ended, well or badly.
    pub(super) probed: bool,
    pub(super) failures: u32,
    /// A session reported a failure that no probe has confirmed or refuted yet.
    pub(super) accused: bool,
    pub(super) error: Option<Arc<str>>,
    /// The last answer.
    pub(super) report: Option<Report>,
    /// Whether its position still holds: not after the connection was lost, for a restarted
    /// replica may show older data than before.
    pub(super) position_holds: bool,
    pub(super) answered: Option<Answered>,
    pub(super) incarnation: u64,
    pub(super) lives: Lives,
    /// As a replica.
    pub(super) lineage: Lineage,
    /// The life in which it was last seen as a replica, and of which timeline, the newest.
    pub(super) replicated: Option<(Life, Timeline)>,
    /// It is made to end its session at the primary: from when on it should have.
    pub(super) parting: Option<Instant>,
    /// Since when a proxy says that it hands its part over.
    pub(super) handover: Option<Instant>,
    pub(super) round_trip: Duration,
    pub(super) membership: Membership,
}

/// From a server's start, or its last crash, to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Told(i64),
    /// It does not tell: the connection that it has not broken yet.
    Connection(u64),
}

impl Life {
    pub(super) fn of(report: &Report, connection: u64) -> Life {
        report.identity.life.map_or(Life::Connection(connection), Life::Told)
    }
}

/// When the last answer came, and the lag at that moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) started_at: Instant,
    pub(super) finished_at: Instant,
    pub(super) lag: Lag,
}

/// What the judge has found out about a node.
pub(super) struct Picture {
    pub(super) role: Role,
    pub(super) health: Health,
    pub(super) lag: Lag,
    pub(super) applied_at: Option<Instant>,
    pub(super) in_order: bool,
    pub(super) out_because: Arc<str>,
}

impl Judged {
    /// `life`: a number that it has not had.
    pub(super) fn new(id: NodeId, node: &NodeConfig, bounds: Bounds, life: u64) -> Judged {
        Judged {
            id,
            name: node.name.clone(),
            address: Arc::from(node.address.to_string()),
            zone: node.zone.clone(),
            weight: node.weight,
            probed: false,
            failures: 0,
            accused: false,
            error: None,
            report: None,
            position_holds: false,
            answered: None,
            incarnation: 0,
            lives: Lives::new(life),
            lineage: Lineage::default(),
            replicated: None,
            parting: None,
            handover: None,
            round_trip: Duration::ZERO,
            membership: Membership::new(bounds),
        }
    }

    pub(super) fn note(&mut self, outcome: &Outcome, failures_max: u32) {
        self.probed = true;
        self.incarnation = outcome.connection;
        self.lives.note(outcome);
        let accused = std::mem::take(&mut self.accused);
        match &outcome.result {
            Ok(report) => {
                self.failures = 0;
                self.error = None;
                if report.is_replica() {
                    let life = Life::of(report, self.incarnation);
                    let before = self.replicated.filter(|(before, _)| *before == life);
                    if before.is_none() {
                        self.lineage = Lineage::default();
                    }
                    // A new connection may tell an older one than was seen, without a receiver.
                    let timeline = report.timeline.max(before.map(|(_, timeline)| timeline));
                    self.replicated = timeline.map(|timeline| (life, timeline));
                }
                let since = self.handover.unwrap_or(outcome.finished_at);
                self.handover = report.handover.then_some(since);
                self.report = Some(report.clone());
                self.position_holds = true;
                self.answered = Some(Answered {
                    started_at: outcome.started_at,
                    finished_at: outcome.finished_at,
                    lag: Lag::Unknown,
                });
                if !outcome.connected_anew {
                    let last = outcome.finished_at.saturating_duration_since(outcome.started_at);
                    self.smooth(last);
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if accused {
                    self.failures = self.failures.max(failures_max);
                }
                self.error = Some(Arc::from(error.to_string()));
                self.position_holds &= !matches!(error, ProbeError::Connection(_));
            }
        }
    }

    fn smooth(&mut self, last: Duration) {
        self.round_trip = if self.round_trip.is_zero() {
            last
        } else {
            (self.round_trip * (ROUND_TRIP_SHARE - 1) + last) / ROUND_TRIP_SHARE
        };
    }

    fn is_replica(&self) -> bool {
        self.report.as_ref().is_some_and(Report::is_replica)
    }

    pub(super) fn claim(&self) -> Option<Claim> {
        let report = self.report.as_ref()?;
        if report.is_replica() {
            return None;
        }
        Some(Claim {
            node: self.id,
            name: self.name.clone(),
            address: self.address.clone(),
            system: report.identity.system,
            instance: report.identity.instance,
            id: report.identity.id.clone(),
            timeline: report.timeline,
            position: report.flushed(),
            upstreams: report.upstreams(),
        })
    }

    /// Why it must not be read although it takes no writes: it may have what no other node has.
    pub(super) fn abandoned(&self, known: &Known) -> Option<Arc<str>> {
        let report = self.report.as_ref()?;
        let stays = known.superseded.contains(&self.id) && report.is_replica();
        stays.then(|| Arc::from("it was the primary before, and replicates from nobody"))
    }

    pub(super) fn health(&self, failures_max: u32, refusal: Option<Arc<str>>) -> Health {
        if self.failures >= failures_max {
            let error = self.error.as_deref().unwrap_or("it does not answer");
            let reason = format!("{} probes failed in a row, the last: {error}", self.failures);
            return Health::Unhealthy { reason: Arc::from(reason) };
        }
        match (refusal, &self.report) {
            (_, None) => Health::Unknown,
            (Some(reason), _) => Health::Unhealthy { reason },
            (None, Some(_)) => Health::Healthy,
        }
    }

    /// Where the new primary's log leaves that of the last one. Known only if it was seen in one and
    /// the same life as a replica of that timeline and as the primary of the next: then it has neither
    /// restarted nor followed yet another primary in between.
    pub(super) fn branch(
        &self,
        timeline: Option<Timeline>,
        last: Option<&LastPrimary>,
    ) -> Option<Branch> {
        let last = last?;
        let before = last.timeline?;
        let report = self.report.as_ref()?;
        let State::Primary { recovered, .. } = report.state else { return None };
        let promoted = last.node != self.id
            && timeline?.0.checked_sub(1) == Some(before.0)
            && self.replicated == Some((Life::of(report, self.incarnation), before));
        let (node, timeline, at) = (last.node, before, recovered?);
        promoted.then_some(Branch { node, timeline, at, descent: None, is_open: false })
    }

    /// With what is known by now of the log of this node, which has become the primary.
    pub(super) fn traced(&self, branch: Branch) -> Branch {
        let descent = self.lineage.descent().filter(|descent| descent.node == branch.node);
        Branch { descent, is_open: self.lineage.is_open(), ..branch }
    }

    fn is_handed_over(&self, now: Instant) -> bool {
        self.handover.is_some_and(|since| now.saturating_duration_since(since) < FORGOTTEN)
    }

    fn position(&self) -> Option<Position> {
        self.report.as_ref().filter(|_| self.position_holds)?.position()
    }

    pub(super) fn picture(&self, picture: Picture, now: Instant) -> Node {
        let Picture { role, health, lag, applied_at, in_order, out_because } = picture;
        Node {
            id: self.id,
            name: self.name.clone(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            role,
            health,
            in_read_set: out_because.is_empty(),
            out_because,
            position: self.position(),
            lag,
            applied_at,
            in_order,
            incarnation: self.incarnation,
            life: self.lives.count,
            version: self.report.as_ref().map(|report| report.identity.version.clone()),
            session_defaults: self.report.as_ref().and_then(Report::session_defaults),
            round_trip: self.round_trip,
            drained: false,
            paused: false,
            handover: self.is_handed_over(now),
        }
    }
}

/// Names of the replicas that still receive from something that is not a known replica.
pub(super) fn receivers(nodes: &[Judged]) -> Vec<&str> {
    let replicas = nodes.iter().filter(|node| node.is_replica());
    let replicas: Vec<&str> = replicas.map(|node| &*node.address).collect();
    let receiving = nodes.iter().filter(|node| {
        node.failures == 0 && node.report.as_ref().is_some_and(|report| report.receives(&replicas))
    });
    receiving.map(|node| &*node.name).collect()
}

/// What the node that was asked last says of where the others have their logs from: those of replicas
/// are the last primary's, and its own is that of the one before.
pub(super) fn trace_lineages(
    nodes: &mut [Judged],
    outcome: &Outcome,
    (last, branch): (Option<NodeId>, Option<Branch>),
) {
    let Ok(report) = &outcome.result else { return };
    if report.is_replica() {
        let from = upstream(nodes, report);
        nodes[usize::from(outcome.node.0)].lineage.hear(report, outcome, from);
        presume(nodes, outcome.node, last);
    }
    for at in 0..nodes.len() {
        let served = nodes[at].lineage.upstream().filter(|_| nodes[at].is_replica());
        let theirs = served.and_then(|node| nodes[usize::from(node.0)].lineage.descent());
        if let Some(theirs) = theirs.filter(|theirs| theirs.node != nodes[at].id) {
            nodes[at].lineage.inherit(theirs);
        }
    }
    if report.is_replica() {
        return;
    }
    let life = nodes[usize::from(outcome.node.0)].lives.count;
    for node in nodes {
        if last == Some(outcome.node) {
            node.lineage.see_promoted(outcome.node, report.timeline, outcome.started_at);
        }
        let before = branch.map(|branch| branch.node);
        let upstream = if last == Some(node.id) { before } else { last };
        if upstream == Some(outcome.node) {
            node.lineage.see_primary((outcome.node, life), outcome.started_at);
        }
    }
}

/// The receiver of this replica may be newer than the last answer of the primary.
fn presume(nodes: &mut [Judged], replica: NodeId, last: Option<NodeId>) {
    let Some(primary) = last.filter(|last| *last != replica) else { return };
    let primary = &nodes[usize::from(primary.0)];
    let answers = primary.failures == 0 && !primary.is_replica();
    let Some(answered) = primary.answered.filter(|_| answers) else { return };
    let life = (primary.id, primary.lives.count);
    nodes[usize::from(replica.0)].lineage.presume(life, answered.started_at);
}

/// From whom a replica receives.
fn upstream(nodes: &[Judged], report: &Report) -> Upstream {
    let replicas = nodes.iter().filter(|node| node.is_replica());
    let addresses: Vec<&str> = replicas.clone().map(|node| &*node.address).collect();
    if report.receives(&addresses) {
        return Upstream::Primary;
    }
    let serves = |node: &&Judged| report.receives(&[]) && !report.receives(&[&node.address]);
    replicas.clone().find(serves).map_or(Upstream::Unknown, |node| Upstream::Replica(node.id))
}

/// Which replicas are made to end their sessions at the primary.
pub(super) fn see_parting(nodes: &mut [Judged], orders: &Orders) {
    for node in nodes {
        node.parting = orders.parting.get(&node.name).copied();
    }
}

/// Whether there are replicas that answer, and all of them wait for their upstream to let them in, or
/// to end the sessions that they had there.
pub(super) fn all_connect(nodes: &[Judged], now: Instant) -> bool {
    let mut replicas =
        nodes.iter().filter(|node| node.failures == 0 && node.is_replica()).peekable();
    let connects = |node: &Judged| {
        node.parting.is_some_and(|due| now >= due)
            || node.report.as_ref().is_some_and(Report::is_connecting)
    };
    replicas.peek().is_some() && replicas.all(connects)
}
