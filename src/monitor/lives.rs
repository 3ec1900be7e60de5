//! The lives of a server, and from which life of the primary a replica has its log.
//!
//! A server that crashes may lose the end of its log, and in its next life it writes other records in
//! the same places, of transactions with the same ids. A replica may have received either:
//!
//! ```text
//! life 1:  ───────┬──── mark ──── commit
//! life 2:         └──────────────────────────▶
//! replica:  1 1 1 1 | 2 2 2 2    "the log up to here" says nothing about the mark
//! ```
//!
//! So a replica's log is life 1's only as far as one receiver has brought it that was seen before the
//! primary was seen in that life, or that came within a second of its last answer while no probe had
//! failed: in that time it does not start anew unseen. Of a later life there is nothing in it, whatever came first: that
//! begins behind all that any replica has of the one before. What came from another replica is what
//! that one has.

use super::judged::Life;
use super::probe::{Outcome, ProbeError};
use super::report::{Report, State};
use crate::topology::{Descent, NodeId, Timeline};
use std::time::{Duration, Instant};

/// Between two probes that are no further apart no server crashes, recovers, serves somebody and is
/// lost once more: each is seen, or was of no consequence.
const UNSEEN_MAX: Duration = Duration::from_secs(1);

/// Counts a server's lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lives {
    /// Grows by one with each life, and by two where another one may have been missed in between.
    pub(super) count: u64,
    life: Option<Life>,
    asked_at: Option<Instant>,
    /// Since the last answer it may have been there without a probe that saw it.
    missed: bool,
}

impl Lives {
    /// `first`: a number that no life of this server has had.
    pub(super) fn new(first: u64) -> Lives {
        Lives { count: first, life: None, asked_at: None, missed: false }
    }

    pub(super) fn note(&mut self, outcome: &Outcome) {
        let away = self.asked_at.map(|at| outcome.started_at.saturating_duration_since(at));
        self.asked_at = Some(outcome.finished_at);
        self.missed |=
            away > Some(UNSEEN_MAX) || matches!(outcome.result, Err(ProbeError::Timeout { .. }));
        let Ok(report) = &outcome.result else { return };
        let life = Life::of(report, outcome.connection);
        if self.life.replace(life).is_some_and(|before| before != life) {
            self.count += 1 + u64::from(self.missed);
        }
        self.missed = false;
    }
}

/// A receiver of a replica's, as it was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    since: Instant,
    last: Instant,
    /// What it has brought, and all before.
    up_to: u64,
    /// The highest timeline of the replica's log.
    timeline: Option<Timeline>,
    from: Upstream,
    over: bool,
    /// The primary has answered since.
    settled: bool,
}

/// Who a receiver's upstream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    Primary,
    Replica(NodeId),
    /// It does not receive yet, or does not tell.
    Unknown,
}

/// Where a replica's log comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lineage {
    seen: Option<Seen>,
    descent: Option<Descent>,
}

impl Lineage {
    /// As far as is known. It stays what it was after the replica's promotion.
    pub(super) fn descent(&self) -> Option<Descent> {
        self.descent
    }

    /// Whether more will be known when the primary that was has answered.
    pub(super) fn is_open(&self) -> bool {
        self.seen.is_some_and(|seen| seen.from == Upstream::Primary && !seen.settled)
    }

    /// The replica that has served it last.
    pub(super) fn upstream(&self) -> Option<NodeId> {
        match self.seen?.from {
            Upstream::Replica(node) => Some(node),
            Upstream::Primary | Upstream::Unknown => None,
        }
    }

    /// This node is the primary, on this timeline. If it is the replica that has served it, it serves
    /// it on, once the receiver has gone on with the new timeline: what it has received is of that.
    pub(super) fn see_promoted(&mut self, node: NodeId, on: Option<Timeline>, now: Instant) {
        if let Some(seen) = &mut self.seen
            && seen.from == Upstream::Replica(node)
            && seen.timeline == on
        {
            (seen.from, seen.settled, seen.since) = (Upstream::Primary, false, now);
        }
    }

    /// That replica's log is known to come from there.
    pub(super) fn inherit(&mut self, theirs: Descent) {
        let Some(seen) = self.seen else { return };
        let up_to = theirs.up_to.min(seen.up_to);
        if self.descent.is_none_or(|own| own.up_to < up_to) {
            self.descent = Some(Descent { up_to, ..theirs });
        }
    }

    /// Takes in what the replica says of its receiver. Must not be told of two lives of one replica.
    pub(super) fn hear(&mut self, report: &Report, outcome: &Outcome, from: Upstream) {
        let State::Replica { received, receiver, .. } = &report.state else { return };
        let Some(received) = *received else { return };
        let pid = receiver.as_ref().and_then(|receiver| receiver.pid);
        match (&mut self.seen, pid) {
            (Some(seen), _) if !seen.over && pid.is_none_or(|pid| pid == seen.pid) => {
                seen.over = pid.is_none();
                if seen.from == Upstream::Unknown {
                    seen.from = from;
                }
                let away = outcome.started_at.saturating_duration_since(seen.last);
                // The end of what it has brought, unless another one has come and gone meanwhile.
                if !seen.over || away <= UNSEEN_MAX {
                    seen.up_to = received;
                }
                (seen.last, seen.timeline) = (outcome.finished_at, report.timeline);
                if let (true, Some(descent)) = (seen.settled, &mut self.descent) {
                    descent.up_to = seen.up_to;
                }
            }
            (_, Some(pid)) => {
                let now = outcome.finished_at;
                let (since, last, up_to) = (now, now, received);
                let (over, settled) = (false, false);
                let timeline = report.timeline;
                self.seen = Some(Seen { pid, since, last, up_to, timeline, from, over, settled });
            }
            _ => {}
        }
    }

    /// The primary was seen in this life, and no probe of it has failed since: a receiver that came a
    /// moment later is connected to the same. Should it have been another one after all, its next
    /// answer tells.
    pub(super) fn presume(&mut self, (node, life): (NodeId, u64), asked_at: Instant) {
        if let Some(seen) = &self.seen
            && !seen.settled
            && seen.from == Upstream::Primary
            && seen.since <= asked_at + UNSEEN_MAX
        {
            self.descent = Some(Descent { node, life, up_to: seen.up_to });
        }
    }

    /// The primary has answered in this life: a receiver that was there before is connected to that
    /// life, or to an earlier one.
    pub(super) fn see_primary(&mut self, (node, life): (NodeId, u64), asked_at: Instant) {
        if let Some(seen) = &mut self.seen
            && !seen.settled
            && seen.from == Upstream::Primary
            && seen.since <= asked_at
        {
            seen.settled = true;
            self.descent = Some(Descent { node, life, up_to: seen.up_to });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Identity, Receiver};
    use super::*;
    use std::sync::Arc;

    /// A probe that began after so many milliseconds; `None`: it was refused.
    fn outcome(start: Instant, ms: u64, report: Option<Report>) -> Outcome {
        let at = start + Duration::from_millis(ms);
        let refused = || ProbeError::Connection(Arc::from("refused"));
        Outcome {
            node: NodeId(1),
            started_at: at,
            finished_at: at,
            connection: 1,
            connected_anew: false,
            result: report.ok_or_else(refused),
        }
    }

    fn report(life: i64, received: u64, pid: Option<i32>) -> Report {
        let identity = Identity {
            system: 7,
            instance: 1,
            life: Some(life),
            id: Arc::from(""),
            version: Arc::from("15.4"),
        };
        let state = State::Replica {
            replayed: Some(received),
            received: Some(received),
            replay_paused: false,
            waits_for_log: None,
            receiver: pid.map(|pid| Receiver { status: None, upstream: None, pid: Some(pid) }),
        };
        Report { identity: Arc::new(identity), timeline: None, handover: false, state }
    }

    #[test]
    fn lives_are_counted() {
        let start = Instant::now();
        /// When it began, and the life that answered.
        type Probe = (u64, Option<i64>);
        let table: &[(&[Probe], u64)] = &[
            (&[(0, Some(1)), (100, Some(1))], 5),
            (&[(0, Some(1)), (100, None), (200, None), (300, Some(2))], 6),
            (&[(0, Some(1)), (100, None), (200, Some(2)), (300, None), (400, Some(3))], 7),
            // Nobody looked for a while.
            (&[(0, Some(1)), (5000, Some(2))], 7),
            (&[(0, Some(1)), (100, None), (5000, None), (5100, Some(2))], 7),
            (&[(0, Some(1)), (5000, Some(1)), (5100, Some(2))], 6),
        ];
        for (probes, expected) in table {
            let mut lives = Lives::new(5);
            for &(ms, life) in *probes {
                lives.note(&outcome(start, ms, life.map(|life| report(life, 1, None))));
            }
            assert_eq!(lives.count, *expected, "{probes:?}");
        }
    }

    enum Step {
        /// The replica: when, received up to, its receiver.
        R(u64, u64, Option<i32>),
        /// The primary in this life, asked after so many milliseconds.
        P(u64, u64),
    }
    use Step::*;

    #[test]
    fn a_log_is_known_as_far_as_one_receiver_has_brought_it() {
        let start = Instant::now();
        type Known = Option<(u64, u64)>;
        let table: &[(&str, &[Step], Known)] = &[
            ("not before the primary has answered", &[P(0, 1), R(1, 10, Some(8))], None),
            ("all of it", &[R(1, 10, Some(8)), P(2, 1), R(100, 30, Some(8))], Some((1, 30))),
            (
                "its end as well",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 30, Some(8)), R(200, 40, None)],
                Some((1, 40)),
            ),
            (
                "nothing that comes behind the end",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 40, None), R(200, 50, None)],
                Some((1, 40)),
            ),
            (
                "nothing that another one has brought",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 50, Some(9)), R(200, 60, None)],
                Some((1, 10)),
            ),
            (
                "nothing that came while nobody looked",
                &[R(1, 10, Some(8)), P(2, 1), R(5000, 50, None)],
                Some((1, 10)),
            ),
            (
                "it all, if that was the same life",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 50, Some(9)), R(200, 60, None), P(300, 1)],
                Some((1, 60)),
            ),
            (
                "of the next life after that was seen",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 50, Some(9)), P(110, 2), R(200, 60, Some(9))],
                Some((2, 60)),
            ),
            (
                "an answer that was asked for before says nothing",
                &[R(1, 10, Some(8)), P(2, 1), R(100, 50, Some(9)), P(90, 1), R(200, 60, Some(9))],
                Some((1, 10)),
            ),
        ];
        for (case, steps, expected) in table {
            let mut lineage = Lineage::default();
            for step in *steps {
                match *step {
                    R(ms, received, pid) => {
                        let report = report(1, received, pid);
                        let outcome = outcome(start, ms, Some(report.clone()));
                        lineage.hear(&report, &outcome, Upstream::Primary);
                    }
                    P(ms, life) => {
                        let asked_at = start + Duration::from_millis(ms);
                        lineage.see_primary((NodeId(0), life), asked_at);
                    }
                }
            }
            let known = lineage.descent().map(|descent| (descent.life, descent.up_to));
            assert_eq!(known, *expected, "{case}");
        }
    }

    /// One replica receives from another one, that received from the primary.
    #[test]
    fn what_a_replica_has_served_is_as_well_known_as_its_own() {
        let start = Instant::now();
        let mut lineage = Lineage::default();
        let mut hear = |ms, received, pid, from| {
            let report = report(1, received, pid);
            lineage.hear(&report, &outcome(start, ms, Some(report.clone())), from);
            lineage
        };
        hear(0, 10, Some(8), Upstream::Primary);
        hear(100, 20, None, Upstream::Unknown);
        let mut lineage = hear(200, 50, Some(9), Upstream::Replica(NodeId(2)));
        assert_eq!((lineage.upstream(), lineage.is_open()), (Some(NodeId(2)), false));
        lineage.see_primary((NodeId(0), 1), start + Duration::from_millis(300));
        assert_eq!(lineage.descent(), None, "it is connected to another one");
        let theirs = |up_to| Descent { node: NodeId(0), life: 1, up_to };
        for (up_to, expected) in [(40, 40), (90, 50), (30, 50)] {
            lineage.inherit(theirs(up_to));
            assert_eq!(lineage.descent(), Some(theirs(expected)));
        }
    }

    #[test]
    fn a_receiver_that_came_after_the_last_answer_is_of_that_life() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let hear = |lineage: &mut Lineage, ms, received, pid| {
            let report = report(1, received, pid);
            lineage.hear(&report, &outcome(start, ms, Some(report.clone())), Upstream::Primary);
        };
        let known = |lineage: &Lineage| lineage.descent().map(|known| (known.life, known.up_to));
        let mut lineage = Lineage::default();
        hear(&mut lineage, 100, 10, Some(8));
        lineage.see_primary((NodeId(0), 1), at(200));
        hear(&mut lineage, 300, 20, Some(9));
        assert_eq!(known(&lineage), Some((1, 10)), "nobody says who serves the new one");
        lineage.presume((NodeId(0), 1), at(200));
        assert_eq!((known(&lineage), lineage.is_open()), (Some((1, 20)), true));
        hear(&mut lineage, 400, 30, Some(9));
        lineage.presume((NodeId(0), 1), at(200));
        assert_eq!(known(&lineage), Some((1, 30)));
        // It was another life after all.
        lineage.see_primary((NodeId(0), 2), at(500));
        assert_eq!((known(&lineage), lineage.is_open()), (Some((2, 30)), false));
        // The primary may have started anew in the time.
        hear(&mut lineage, 2_000, 40, Some(10));
        lineage.presume((NodeId(0), 2), at(500));
        assert_eq!(known(&lineage), Some((2, 30)));
    }

    #[test]
    fn a_promoted_replica_serves_on() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut lineage = Lineage::default();
        let hear = |lineage: &mut Lineage, ms, (timeline, received), from| {
            let timeline = Some(Timeline(timeline));
            let report = Report { timeline, ..report(9, received, Some(8)) };
            lineage.hear(&report, &outcome(start, ms, Some(report.clone())), from);
        };
        let see = |lineage: &mut Lineage, ms, node, life| {
            lineage.see_promoted(NodeId(node), Some(Timeline(4)), at(ms));
            lineage.see_primary((NodeId(node), life), at(ms));
            lineage.descent().map(|known| (known.node, known.life, known.up_to))
        };
        hear(&mut lineage, 0, (3, 10), Upstream::Replica(NodeId(2)));
        lineage.inherit(Descent { node: NodeId(0), life: 1, up_to: 10 });
        assert_eq!(see(&mut lineage, 100, 2, 5), Some((NodeId(0), 1, 10)), "it is not there yet");
        hear(&mut lineage, 200, (4, 20), Upstream::Primary);
        assert_eq!(see(&mut lineage, 300, 3, 7), Some((NodeId(0), 1, 10)), "another one");
        assert_eq!(see(&mut lineage, 300, 2, 5), Some((NodeId(2), 5, 20)));
        hear(&mut lineage, 400, (4, 30), Upstream::Primary);
        assert_eq!(see(&mut lineage, 500, 2, 5), Some((NodeId(2), 5, 30)));
    }
}
