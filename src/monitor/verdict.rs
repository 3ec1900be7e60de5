//! From the nodes' probes to the next snapshot: the [`Judge`].
//!
//! Pure: probes and `now` come in as values, a [`Snapshot`] goes out. The judge remembers what a
//! single probe cannot tell: failures in a row, who was out of the read set, the primary's
//! samples, and for the life of the process the highest timeline (`election.rs`).
//!
//! A node's way, by its probes:
//! ```text
//! Unknown ──answer──▶ Healthy ──failures in a row──▶ Unhealthy ──answer──▶ Healthy
//!                        │ not in recovery and not believed ──▶ refused (Role::Unknown)
//! ```
//! The epoch grows when the primary is another node or the same one on a new timeline. A primary
//! that restarted on its timeline keeps the epoch: its old connections are gone with it.

use super::election::{self, Claim, Election, Known, LastPrimary};
use super::history::{History, Sample, Source};
use super::probe::{Outcome, ProbeError, Reach, Report, State};
use super::readset::{Bounds, Membership};
use crate::config::Cluster;
use crate::topology::{Epoch, Health, Lag, Node, NodeId, Position, Role, Snapshot, Timeline};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Share of a new round trip in the smoothed one: as TCP's SRTT (RFC 6298), 1/8.
const ROUND_TRIP_SHARE: u32 = 8;

/// What outlives a judge, so that a reloaded configuration forgets no fence.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub system: Option<u64>,
    pub timeline: Option<Timeline>,
    pub epoch: Epoch,
    pub version: u64,
}

/// Turns probes into snapshots.
#[derive(Debug)]
pub struct Judge {
    failures_max: u32,
    interval: Duration,
    /// A primary that has not answered for this long may have written on unseen.
    unseen_after: Duration,
    nodes: Vec<Judged>,
    known: Known,
    /// Why no system identifier could be settled on.
    unsettled: String,
    election: Election,
    history: Option<History>,
    epoch: Epoch,
    version: u64,
    last_change: Option<(Instant, Arc<str>)>,
}

/// One node: what is configured, and what its probes said.
#[derive(Debug)]
struct Judged {
    id: NodeId,
    name: Arc<str>,
    address: Arc<str>,
    zone: Option<Arc<str>>,
    weight: u32,
    /// At least one probe has ended, well or badly.
    probed: bool,
    failures: u32,
    /// A session reported a failure that no probe has confirmed or refuted yet.
    accused: bool,
    error: Option<Arc<str>>,
    /// The last answer.
    report: Option<Report>,
    /// Whether its position still holds: not after the connection was lost, for a restarted
    /// replica may show older data than before.
    position_holds: bool,
    /// When the last answer came, and the lag at that moment.
    answered: Option<(Instant, Lag)>,
    incarnation: u64,
    round_trip: Duration,
    membership: Membership,
}

impl Judge {
    pub fn new(cluster: &Cluster, memory: Memory) -> Judge {
        let bounds =
            Bounds { lag_max: cluster.routing.lag_max, bytes_max: cluster.routing.lag_bytes_max };
        let nodes = (0..).zip(&cluster.nodes).map(|(index, node)| Judged {
            id: NodeId(index),
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
            round_trip: Duration::ZERO,
            membership: Membership::new(bounds),
        });
        Judge {
            failures_max: cluster.monitor.failures.max(1),
            interval: cluster.monitor.interval,
            unseen_after: cluster.monitor.interval * 2 + cluster.monitor.timeout,
            nodes: nodes.collect(),
            known: Known { system: memory.system, timeline: memory.timeline, primary: None },
            unsettled: String::new(),
            election: Election::default(),
            history: None,
            epoch: memory.epoch,
            version: memory.version,
            last_change: None,
        }
    }

    pub fn memory(&self) -> Memory {
        let Known { system, timeline, .. } = self.known;
        Memory { system, timeline, epoch: self.epoch, version: self.version }
    }

    /// The node that is primary as far as is known; it stays so while it is only suspect.
    pub fn primary(&self) -> Option<NodeId> {
        self.election.primary.map(|(node, _)| node)
    }

    /// A session saw the node fail. Alone that proves nothing; if the next probe fails as well,
    /// the node is unhealthy at once.
    pub fn accuse(&mut self, node: NodeId) {
        if let Some(judged) = self.nodes.get_mut(usize::from(node.0)) {
            judged.accused = true;
        }
    }

    /// Takes in a probe. Probes of one node must come in their order.
    pub fn note(&mut self, outcome: Outcome) {
        let Some(judged) = self.nodes.get_mut(usize::from(outcome.node.0)) else { return };
        judged.note(&outcome, self.failures_max);
        self.settle_system();
        self.raise_timeline();
        self.election = self.elect();
        if let Some((node, timeline)) = self.election.primary {
            self.follow_primary(node, timeline, outcome.finished_at);
            if node == outcome.node {
                self.sample(&outcome);
            }
        }
        self.measure(&outcome);
    }

    /// The picture at this moment, with the next version.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        let source = self.source(now);
        let primary = self.primary();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for index in 0..self.nodes.len() {
            nodes.push(self.picture(index, now, source));
        }
        self.version += 1;
        let no_primary_because = match primary {
            Some(_) => Arc::from(""),
            None => Arc::from(self.why_no_primary()),
        };
        Snapshot {
            version: self.version,
            epoch: self.epoch,
            primary,
            no_primary_because,
            nodes,
            last_change: self.last_change.clone(),
        }
    }

    /// The cluster is what most of its nodes are. Decided once, when every node had its chance:
    /// a lone stranger or old primary that answers first must not be taken for the cluster.
    fn settle_system(&mut self) {
        if self.known.system.is_some() || !self.nodes.iter().all(|node| node.probed) {
            return;
        }
        let systems = self.nodes.iter().filter_map(|node| {
            node.report.as_ref().map(|report| (node.name.clone(), report.identity.system))
        });
        match election::common_system(&systems.collect::<Vec<_>>()) {
            Ok(system) => self.known.system = Some(system),
            Err(reason) => self.unsettled = reason,
        }
    }

    /// A standby on a timeline proves a promotion as well as its primary does.
    fn raise_timeline(&mut self) {
        let Some(system) = self.known.system else { return };
        let reports = self.nodes.iter().filter_map(|node| node.report.as_ref());
        let ours = reports.filter(|report| report.identity.system == system);
        self.known.timeline =
            ours.filter_map(|report| report.timeline).max().max(self.known.timeline);
    }

    fn elect(&self) -> Election {
        if self.known.system.is_none() || !self.nodes.iter().all(|node| node.probed) {
            return Election::default();
        }
        let claims = self.nodes.iter().filter(|node| node.failures < self.failures_max);
        let claims: Vec<Claim> = claims.filter_map(Judged::claim).collect();
        election::elect(&claims, &self.known)
    }

    fn follow_primary(&mut self, node: NodeId, timeline: Timeline, now: Instant) {
        let last = self.known.primary;
        if last.is_some_and(|last| last.node == node && last.timeline == timeline) {
            return;
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        self.nodes.iter_mut().for_each(|node| node.answered = None);
        self.history = Some(History::new(timeline, self.interval));
        self.known.primary = Some(LastPrimary { node, timeline, flush: 0 });
        let name = &self.nodes[usize::from(node.0)].name;
        let sentence = match last {
            None => format!("{name} is the primary on timeline {}", timeline.0),
            Some(last) => format!(
                "{name} became the primary on timeline {} after {} on timeline {}",
                timeline.0,
                self.nodes[usize::from(last.node.0)].name,
                last.timeline.0
            ),
        };
        self.last_change = Some((now, Arc::from(sentence)));
    }

    fn sample(&mut self, outcome: &Outcome) {
        let Ok(Report { state: State::Primary { insert, flush }, .. }) = outcome.result else {
            return;
        };
        if let Some(history) = &mut self.history {
            history.push(Sample { started_at: outcome.started_at, insert, flush });
        }
        if let Some(last) = &mut self.known.primary {
            last.flush = flush;
        }
    }

    /// The lag is that of the moment of the answer, against the samples until then: between two
    /// rounds it neither grows nor shrinks. The primary is asked first in each round.
    fn measure(&mut self, outcome: &Outcome) {
        let index = usize::from(outcome.node.0);
        if outcome.result.is_ok() {
            let at = outcome.finished_at;
            let lag = self.lag(&self.nodes[index], at, self.source(at));
            self.nodes[index].answered = Some((at, lag));
        }
    }

    /// Whether the newest sample still is where the primary is. Without a primary it is, if also
    /// no replica receives from one: then nobody writes, and reads go on. One proxy's cut link is
    /// not a dead primary.
    fn source(&self, now: Instant) -> Source {
        let newest = self.history.as_ref().and_then(History::newest);
        let seen = newest.is_some_and(|sample| {
            now.saturating_duration_since(sample.started_at) <= self.unseen_after
        });
        let dead = self.election.primary.is_none()
            && self.election.refused.is_empty()
            && self.receivers().is_empty();
        if seen || dead { Source::Current } else { Source::Unseen }
    }

    /// Names of the replicas that still receive from something that is not a known replica.
    fn receivers(&self) -> Vec<&str> {
        let replicas: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| matches!(&node.report, Some(report) if report.is_replica()))
            .map(|node| &*node.address)
            .collect();
        let receiving = self.nodes.iter().filter(|node| {
            node.failures == 0
                && node.report.as_ref().is_some_and(|report| report.receives(&replicas))
        });
        receiving.map(|node| &*node.name).collect()
    }

    fn why_no_primary(&self) -> String {
        let waiting = self.nodes.iter().filter(|node| !node.probed).map(|node| &*node.name);
        let waiting = waiting.collect::<Vec<_>>().join(", ");
        if !waiting.is_empty() {
            return format!("waiting for the first answer of {waiting}");
        }
        if self.known.system.is_none() {
            return self.unsettled.clone();
        }
        let last = self.known.primary.map(|last| &self.nodes[usize::from(last.node.0)]);
        let mut reason = match last {
            None => "no node answers as a primary".to_string(),
            Some(node) => match &node.error {
                Some(error) => format!("{} does not answer: {error}", node.name),
                None => format!("{} is no longer the primary, and no other node is", node.name),
            },
        };
        let receivers = self.receivers();
        if last.is_some_and(|node| node.error.is_some()) && !receivers.is_empty() {
            reason += &format!("; but {} still receive from a primary", receivers.join(", "));
        }
        if !self.election.because.is_empty() {
            reason = format!("{}; {reason}", self.election.because);
        }
        reason
    }

    fn picture(&mut self, index: usize, now: Instant, source: Source) -> Node {
        let primary = self.primary();
        let refusal = self.refusal(index);
        let judged = &self.nodes[index];
        let health = judged.health(self.failures_max, refusal);
        let role = match &judged.report {
            _ if health != Health::Healthy => Role::Unknown,
            Some(report) if report.is_replica() => Role::Replica,
            Some(_) if primary == Some(judged.id) => Role::Primary,
            _ => Role::Unknown,
        };
        let (lag, applied_at) = match role {
            Role::Primary => {
                let newest = self.history.as_ref().and_then(History::newest);
                let lag = Lag::Known { age: Duration::ZERO, bytes: Some(0) };
                (lag, newest.map(|sample| sample.started_at))
            }
            _ => (self.current_lag(judged, now, source), self.applied_at(judged)),
        };
        let out_because = match role {
            Role::Primary => Arc::from(""),
            Role::Replica => self.membership(index, lag),
            Role::Unknown => Arc::from(match &health {
                Health::Unhealthy { reason } => reason.to_string(),
                Health::Unknown => "it has not answered yet".to_string(),
                Health::Healthy => self.why_no_primary(),
            }),
        };
        self.nodes[index].picture(Picture { role, health, lag, applied_at, out_because })
    }

    /// Why the node must not get a statement although it answers.
    fn refusal(&self, index: usize) -> Option<Arc<str>> {
        let judged = &self.nodes[index];
        if let (Some(report), Some(system)) = (&judged.report, self.known.system)
            && report.identity.system != system
        {
            let reason = election::foreign(&judged.name, report.identity.system, system);
            return Some(Arc::from(reason));
        }
        let refused = self.election.refused.iter().find(|(node, _)| *node == judged.id);
        refused.map(|(_, reason)| reason.clone())
    }

    /// The lag as measured, while the next answer is not overdue and the primary answers.
    fn current_lag(&self, judged: &Judged, now: Instant, source: Source) -> Lag {
        match judged.answered {
            Some((at, lag))
                if judged.failures == 0
                    && source == Source::Current
                    && now.saturating_duration_since(at) <= self.interval * 2 =>
            {
                lag
            }
            _ => self.lag(judged, now, source),
        }
    }

    fn lag(&self, judged: &Judged, now: Instant, source: Source) -> Lag {
        let Some((history, timeline, reach)) = self.distance(judged) else { return Lag::Unknown };
        history.lag(timeline, reach.caught_up_to, now, source)
    }

    /// When the newest sample was started of which the replica shows everything.
    fn applied_at(&self, judged: &Judged) -> Option<Instant> {
        let (history, timeline, reach) = self.distance(judged)?;
        history.applied_at(timeline, reach.replayed)
    }

    fn distance(&self, judged: &Judged) -> Option<(&History, Timeline, Reach)> {
        let history = self.history.as_ref()?;
        let report = judged.report.as_ref().filter(|_| judged.position_holds)?;
        Some((history, report.timeline?, report.reach()?))
    }

    /// Empty if the replica is in the read set, else why it is not.
    fn membership(&mut self, index: usize, lag: Lag) -> Arc<str> {
        let judged = &mut self.nodes[index];
        let Some(objection) = judged.membership.judge(lag) else { return Arc::from("") };
        let mut reason = objection;
        let current = self.history.as_ref().map(History::timeline);
        if let Some(report) = &judged.report {
            if let (Some(own), Some(current)) = (report.timeline, current)
                && own != current
            {
                reason += &format!("; it is on timeline {}, the primary on {}", own.0, current.0);
            }
            reason += &report.remarks();
        }
        if let Some(error) = &judged.error {
            reason += &format!("; its last probe failed: {error}");
        }
        Arc::from(reason)
    }
}

struct Picture {
    role: Role,
    health: Health,
    lag: Lag,
    applied_at: Option<Instant>,
    out_because: Arc<str>,
}

impl Judged {
    fn note(&mut self, outcome: &Outcome, failures_max: u32) {
        self.probed = true;
        self.incarnation = outcome.connection;
        let accused = std::mem::take(&mut self.accused);
        match &outcome.result {
            Ok(report) => {
                self.failures = 0;
                self.error = None;
                self.report = Some(report.clone());
                self.position_holds = true;
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

    fn claim(&self) -> Option<Claim> {
        let report = self.report.as_ref()?;
        let State::Primary { flush, .. } = report.state else { return None };
        let system = report.identity.system;
        Some(Claim {
            node: self.id,
            name: self.name.clone(),
            system,
            timeline: report.timeline,
            flush,
        })
    }

    fn health(&self, failures_max: u32, refusal: Option<Arc<str>>) -> Health {
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

    fn position(&self) -> Option<Position> {
        let report = self.report.as_ref().filter(|_| self.position_holds)?;
        let offset = match report.state {
            State::Primary { insert, .. } => insert,
            State::Replica { replayed, .. } => replayed?,
        };
        Some(Position::Log { timeline: report.timeline?, offset })
    }

    fn picture(&self, picture: Picture) -> Node {
        let Picture { role, health, lag, applied_at, out_because } = picture;
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
            incarnation: self.incarnation,
            round_trip: self.round_trip,
        }
    }
}
