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

use super::election::{self, Claim, Election, Known, LastPrimary, Memory};
use super::history::{History, Sample, Source};
use super::judged::{self, Answered, FROZEN_INTERVALS, Judged, Picture};
use super::probe::Outcome;
use super::readset::Bounds;
use super::report::{Reach, Report};
use crate::config::{Cluster, Engine, FailoverMode, Quorum};
use crate::topology::{
    Branch, Epoch, Health, Hold, Lag, Lost, Node, NodeId, Orders, Role, Snapshot, Timeline,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns probes into snapshots.
#[derive(Debug)]
pub struct Judge {
    failures_max: u32,
    quorum: Quorum,
    /// Too few nodes answer for any to be the primary.
    isolated: bool,
    interval: Duration,
    /// A primary that has not answered for this long may have written on unseen.
    unseen_after: Duration,
    /// Where the proxy promotes: how long a primary may be silent that lets no replica in.
    frozen_after: Option<Duration>,
    /// The newest moment that was heard of.
    now: Instant,
    nodes: Vec<Judged>,
    known: Known,
    /// Why no system identifier could be settled on.
    unsettled: String,
    election: Election,
    /// Its claim is not heard.
    fenced: Option<Arc<str>>,
    history: Option<History>,
    epoch: Epoch,
    version: u64,
    last_change: Option<(Instant, Arc<str>)>,
    branch: Option<Branch>,
}

impl Judge {
    pub fn new(cluster: &Cluster, memory: Memory) -> Judge {
        let bounds =
            Bounds { lag_max: cluster.routing.lag_max, bytes_max: cluster.routing.lag_bytes_max };
        // No life of before has a number as high: each was seen in a snapshot.
        let life = 2 * (memory.version + 1);
        let new = |(index, node)| Judged::new(NodeId(index), node, bounds, life);
        let nodes: Vec<Judged> = (0..).zip(&cluster.nodes).map(new).collect();
        let at = |address: &Arc<str>| nodes.iter().find(|node| node.address == *address);
        let primary = memory.primary.and_then(|(address, timeline, position)| {
            Some(LastPrimary { node: at(&address)?.id, timeline, position })
        });
        let superseded = memory.superseded.iter().filter_map(at).map(|node| node.id).collect();
        let known = Known {
            has_timelines: cluster.engine == Engine::Postgres,
            system: memory.system,
            timeline: memory.timeline,
            primary,
            superseded,
            leader: None,
        };
        Judge {
            failures_max: cluster.monitor.failures.max(1),
            quorum: cluster.failover.quorum,
            isolated: false,
            interval: cluster.monitor.interval,
            unseen_after: cluster.monitor.interval * 2 + cluster.monitor.timeout,
            frozen_after: (cluster.failover.mode == FailoverMode::Promote).then_some(
                cluster.failover.timeout.max(cluster.monitor.interval * FROZEN_INTERVALS),
            ),
            now: Instant::now(),
            nodes,
            known,
            unsettled: String::new(),
            election: Election::default(),
            fenced: None,
            history: None,
            epoch: memory.epoch,
            version: memory.version,
            last_change: None,
            branch: None,
        }
    }

    pub fn memory(&self) -> Memory {
        let Known { system, timeline, primary, superseded, .. } = self.known.clone();
        let address = |node: NodeId| self.nodes[usize::from(node.0)].address.clone();
        Memory {
            system,
            timeline,
            primary: primary.map(|last| (address(last.node), last.timeline, last.position)),
            superseded: superseded.into_iter().map(address).collect(),
            epoch: self.epoch,
            version: self.version,
        }
    }

    /// Whether what it says is worth more than what a judge before it has said.
    pub fn is_settled(&self) -> bool {
        self.election.primary.is_some() || self.nodes.iter().all(|node| node.probed)
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

    /// What is wanted from now on: a fenced node's claim is not heard, and Patroni's word counts.
    /// What was opened to a primary that is none by this is of an older epoch at once: it must
    /// neither get nor answer anything while another node is promoted.
    pub fn heed(&mut self, orders: &Orders) {
        judged::see_parting(&mut self.nodes, orders);
        if self.fenced == orders.fenced && self.known.leader == orders.leader {
            return;
        }
        let fences = orders.fenced.is_some() && self.fenced != orders.fenced;
        (self.fenced, self.known.leader) = (orders.fenced.clone(), orders.leader.clone());
        let before = self.primary();
        self.election = self.elect();
        if fences || (before.is_some() && self.primary() != before) {
            self.epoch = Epoch(self.epoch.0 + 1);
        }
    }

    /// Takes in a probe. Probes of one node must come in their order.
    pub fn note(&mut self, outcome: Outcome) {
        let Some(judged) = self.nodes.get_mut(usize::from(outcome.node.0)) else { return };
        judged.note(&outcome, self.failures_max);
        self.now = self.now.max(outcome.finished_at);
        if judged.report.as_ref().is_some_and(Report::follows) {
            // It has learnt that it no longer is the primary.
            self.known.superseded.retain(|superseded| *superseded != outcome.node);
        }
        let before = self.known.primary.as_ref().map(|last| last.node);
        judged::trace_lineages(&mut self.nodes, &outcome, (before, self.branch));
        self.settle_system();
        self.raise_timeline();
        self.see_quorum();
        self.election = self.elect();
        if let Some((node, timeline)) = self.election.primary {
            self.follow_primary(node, timeline, outcome.finished_at);
            if node == outcome.node {
                self.sample(node);
            }
        }
        if outcome.result.is_ok() {
            self.measure(outcome.node);
        }
    }

    /// The picture at this moment, with the next version.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        let source = self.source(now);
        let primary = self.primary();
        let nodes = (0..self.nodes.len()).map(|index| self.picture(index, now, source)).collect();
        self.version += 1;
        let why = primary.is_none().then(|| self.why_no_primary());
        Snapshot {
            version: self.version,
            epoch: self.epoch,
            primary,
            no_primary_because: Arc::from(why.unwrap_or_default()),
            hold: Hold::Nothing,
            closed: false,
            lost: self.lost(),
            branch: primary
                .and_then(|node| Some(self.nodes[usize::from(node.0)].traced(self.branch?))),
            timeline: self.known.primary.as_ref().and_then(|last| last.timeline),
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

    /// With too few nodes in sight the others may have another primary: what was opened to this
    /// one is of an older epoch at once.
    fn see_quorum(&mut self) {
        let isolated = self.is_isolated();
        if isolated && !self.isolated && self.election.primary.is_some() {
            self.epoch = Epoch(self.epoch.0 + 1);
        }
        self.isolated = isolated;
    }

    fn is_isolated(&self) -> bool {
        self.quorum == Quorum::Majority && self.answering() * 2 <= self.nodes.len()
    }

    fn answering(&self) -> usize {
        let answers = |node: &&Judged| node.report.is_some() && node.failures < self.failures_max;
        self.nodes.iter().filter(answers).count()
    }

    fn elect(&self) -> Election {
        if self.known.system.is_none() {
            return Election::default();
        }
        if self.isolated {
            let because = format!(
                "only {} of {} nodes answer, and the others may have another primary \
                 (failover.quorum)",
                self.answering(),
                self.nodes.len()
            );
            return Election { because, ..Election::default() };
        }
        let answers = |node: &&Judged| node.failures < self.failures_max && !self.is_frozen(node);
        let claims = self.nodes.iter().filter(answers);
        let heard = claims.filter(|node| self.fenced.as_ref() != Some(&node.name));
        let claims: Vec<Claim> = heard.filter_map(Judged::claim).collect();
        election::elect(&claims, &self.known)
    }

    fn follow_primary(&mut self, node: NodeId, timeline: Option<Timeline>, now: Instant) {
        let last = self.known.primary.take();
        if last.as_ref().is_some_and(|last| last.node == node && last.timeline == timeline) {
            self.known.primary = last;
            if self.history.is_none() {
                self.begin_history(node);
            }
            return;
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        self.known.superseded.retain(|superseded| *superseded != node);
        if let Some(last) = last.as_ref().filter(|last| last.node != node) {
            self.known.superseded.push(last.node);
        }
        self.branch = self.nodes[usize::from(node.0)].branch(timeline, last.as_ref());
        let sentence = self.tell_change(node, timeline, last.as_ref());
        self.last_change = Some((now, Arc::from(sentence)));
        self.known.primary = Some(LastPrimary { node, timeline, position: None });
        self.begin_history(node);
    }

    fn tell_change(
        &self,
        node: NodeId,
        timeline: Option<Timeline>,
        last: Option<&LastPrimary>,
    ) -> String {
        let named = |node: NodeId, timeline: Option<Timeline>| {
            let name = &self.nodes[usize::from(node.0)].name;
            (name, timeline.map(|it| format!(" on timeline {}", it.0)).unwrap_or_default())
        };
        let (name, branch) = named(node, timeline);
        let Some(last) = last else { return format!("{name} is the primary{branch}") };
        let (old, before) = named(last.node, last.timeline);
        format!("{name} became the primary{branch} after {old}{before}")
    }

    /// What all nodes said last is taken for the first round of the new history.
    fn begin_history(&mut self, node: NodeId) {
        self.history = Some(History::new(self.interval));
        self.sample(node);
        (0..self.nodes.len()).for_each(|index| self.measure(self.nodes[index].id));
    }

    /// Takes the primary's last answer for a sample.
    fn sample(&mut self, primary: NodeId) {
        let judged = &self.nodes[usize::from(primary.0)];
        let (Some(answered), Some(report)) = (&judged.answered, &judged.report) else { return };
        let (Some(insert), Some(flush)) = (report.position(), report.flushed()) else { return };
        if let Some(last) = &mut self.known.primary {
            last.position = Some(flush.clone());
        }
        if let Some(history) = &mut self.history {
            history.push(Sample { started_at: answered.started_at, insert, flush });
        }
    }

    /// The lag is that of the moment of the answer, against the samples until then: between two
    /// rounds it neither grows nor shrinks. The primary is asked first in each round.
    fn measure(&mut self, node: NodeId) {
        let judged = &self.nodes[usize::from(node.0)];
        let Some(Answered { finished_at, .. }) = judged.answered else { return };
        let lag = self.lag(judged, finished_at, self.source(finished_at));
        if let Some(answered) = &mut self.nodes[usize::from(node.0)].answered {
            answered.lag = lag;
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
            && judged::receivers(&self.nodes).is_empty();
        if seen || dead { Source::Current } else { Source::Unseen }
    }

    fn lost(&self) -> Option<Lost> {
        if self.election.primary.is_some() {
            return None;
        }
        let judged = &self.nodes[usize::from(self.known.primary.as_ref()?.node.0)];
        Some(Lost {
            node: judged.id,
            seen_at: judged.answered.map(|answered| answered.started_at),
            silent: (judged.failures >= self.failures_max || self.is_frozen(judged))
                && self.election.because.is_empty(),
            frozen: self.is_frozen(judged),
            followed: !judged::receivers(&self.nodes).is_empty(),
        })
    }

    /// It answers nobody: neither the proxy for a while, nor any replica that wants to be let in.
    fn is_frozen(&self, node: &Judged) -> bool {
        let silent = node.answered.zip(self.frozen_after).is_some_and(|(answered, bound)| {
            self.now.saturating_duration_since(answered.started_at) >= bound
        });
        silent && judged::all_connect(&self.nodes, self.now)
    }

    fn why_no_primary(&self) -> String {
        if self.nodes.is_empty() {
            return "no node is known yet: Patroni has not answered".to_owned();
        }
        let waiting = self.nodes.iter().filter(|node| !node.probed).map(|node| &*node.name);
        let waiting = waiting.collect::<Vec<_>>().join(", ");
        if !waiting.is_empty() {
            return format!("waiting for the first answer of {waiting}");
        }
        if self.known.system.is_none() {
            return self.unsettled.clone();
        }
        let last = self.known.primary.as_ref().map(|last| &self.nodes[usize::from(last.node.0)]);
        if let Some(fenced) = &self.fenced {
            return format!("another node is promoted in the place of {fenced}");
        }
        let mut reason = match last {
            None => "no node answers as a primary".to_string(),
            Some(node) if self.is_frozen(node) => {
                format!("{} answers neither probes nor replicas", node.name)
            }
            Some(node) => match &node.error {
                Some(error) => format!("{} does not answer: {error}", node.name),
                None => format!("{} is no longer the primary, and no other node is", node.name),
            },
        };
        let receivers = judged::receivers(&self.nodes);
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
        let judged = &self.nodes[index];
        let health = judged.health(self.failures_max, self.refusal(index));
        let role = match &judged.report {
            _ if health != Health::Healthy => Role::Unknown,
            Some(report) if report.is_replica() => Role::Replica,
            Some(_) if primary == Some(judged.id) => Role::Primary,
            _ => Role::Unknown,
        };
        let (lag, applied_at) = match role {
            Role::Primary => {
                let newest = self.history.as_ref().and_then(History::newest);
                (Lag::ZERO, newest.map(|sample| sample.started_at))
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
        let in_order = self.history.as_ref().is_some_and(History::is_in_order);
        let picture = Picture { role, health, lag, applied_at, in_order, out_because };
        self.nodes[index].picture(picture, now)
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
        refused.map(|(_, reason)| reason.clone()).or_else(|| judged.abandoned(&self.known))
    }

    /// The lag as measured, while the next answer is not overdue and the primary answers.
    fn current_lag(&self, judged: &Judged, now: Instant, source: Source) -> Lag {
        match judged.answered {
            Some(Answered { finished_at, lag, .. })
                if judged.failures == 0
                    && source == Source::Current
                    && now.saturating_duration_since(finished_at) <= self.interval * 2 =>
            {
                lag
            }
            _ => self.lag(judged, now, source),
        }
    }

    fn lag(&self, judged: &Judged, now: Instant, source: Source) -> Lag {
        let Some((history, reach)) = self.distance(judged) else { return Lag::Unknown };
        history.lag(&reach.caught_up_to, now, source)
    }

    /// When the newest sample was started of which the replica shows everything.
    fn applied_at(&self, judged: &Judged) -> Option<Instant> {
        let (history, reach) = self.distance(judged)?;
        history.applied_at(&reach.replayed)
    }

    fn distance(&self, judged: &Judged) -> Option<(&History, Reach)> {
        let history = self.history.as_ref()?;
        let report = judged.report.as_ref().filter(|_| judged.position_holds)?;
        Some((history, report.reach()?))
    }

    /// Empty if the replica is in the read set, else why it is not.
    fn membership(&mut self, index: usize, lag: Lag) -> Arc<str> {
        let judged = &mut self.nodes[index];
        let Some(objection) = judged.membership.judge(lag) else { return Arc::from("") };
        let mut reason = objection;
        let current = self.known.primary.as_ref().and_then(|last| last.timeline);
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

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
