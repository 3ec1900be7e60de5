//! Whether a primary is lost for good. Pure.
//!
//! A frozen primary lets nobody in: it is lost when neither the proxy nor any replica that was made
//! to connect again has an answer. Otherwise three signs must agree: its probes fail (sessions that lose it make them fail at once), no
//! replica receives from it, and both for a while. A link that is cut between the proxy and the
//! primary alone shows by the second sign; a stall that no probe notices shows by the first.

use crate::config::{Cluster, Failover};
use crate::topology::{Lost, Snapshot};
use std::time::{Duration, Instant};

/// Replicas that were made to connect again have done so after this: the first new receiver is
/// started at once (`WaitForWALToBecomeAvailable`, xlogrecovery.c), and a login takes no second.
pub const RECONNECT: Duration = Duration::from_secs(3);

/// Each time that replicas connected again to a primary that lives, the next rest is twice as long,
/// so often at the most: on a machine that is overloaded, more of this does not help.
const REST_DOUBLINGS: u32 = 4;

/// After so many rests without doubts the primary counts as quick again.
const QUICK_RESTS: u32 = 4;

/// Probe intervals without an answer that are silence.
const SILENT_INTERVALS: u32 = 3;

/// What is known of the missing primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is one, or there never was, or what there is cannot be mended by a promotion.
    Nothing,
    /// It may be back soon; look again at this moment.
    Suspect(Instant),
    /// It is silent, but replicas hold connections to it that may be as dead as it is: let them
    /// connect anew.
    Doubtful,
    Down(Lost),
}

/// What was seen over several snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// Since when there is no primary.
    pub missed: Option<Instant>,
    /// Since when no replica was seen to receive from the lost one.
    pub unfollowed: Option<Instant>,
    /// When replicas were last made to connect anew.
    pub asked: Option<Instant>,
    /// How often they were once more, of late, without the primary being lost.
    in_vain: u32,
}

impl Signs {
    /// Takes in a snapshot.
    pub fn see(&mut self, snapshot: &Snapshot, now: Instant) {
        let Some(lost) = snapshot.lost else {
            *self = Signs { missed: None, unfollowed: None, ..*self };
            return;
        };
        self.in_vain = 0;
        self.missed = self.missed.or(Some(now));
        self.unfollowed = self.unfollowed.or(Some(now)).filter(|_| !lost.followed);
    }

    /// Replicas are made to connect anew.
    pub fn ask(&mut self, config: &Failover, now: Instant) {
        let quick = self.rest(config) * QUICK_RESTS;
        let of_late = self.asked.is_some_and(|asked| now < asked + quick);
        self.in_vain = if of_late { self.in_vain + 1 } else { 0 };
        self.asked = Some(now);
    }

    fn are_rested(&self, config: &Failover, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now >= asked + self.rest(config))
    }

    /// How long replicas are left alone after they were asked.
    fn rest(&self, config: &Failover) -> Duration {
        (RECONNECT + config.timeout) * 2_u32.pow(self.in_vain.min(REST_DOUBLINGS))
    }
}

/// Whether a primary that has not answered for a while has to be asked by others: replicas that are
/// made to connect again are let in by one that lives, also if the proxy's own link is cut.
pub fn is_in_doubt(snapshot: &Snapshot, cluster: &Cluster, signs: &Signs, now: Instant) -> bool {
    let config = &cluster.failover;
    // Between two probes that are far apart nobody is silent.
    // MySQL's receivers take a second to give up; all together is to take a second and a half.
    let bound = (config.timeout * 2 / 5).max(cluster.monitor.interval * SILENT_INTERVALS);
    let seen = snapshot.primary.and_then(|primary| snapshot.node(primary).applied_at);
    signs.are_rested(config, now) && seen.is_some_and(|seen| now >= seen + bound)
}

/// Judges the missing primary of a snapshot.
pub fn verdict(snapshot: &Snapshot, config: &Failover, signs: &Signs, now: Instant) -> Verdict {
    let Signs { missed, unfollowed, asked, .. } = *signs;
    let Some(lost) = snapshot.lost.filter(|lost| lost.silent) else { return Verdict::Nothing };
    // After a reload of the configuration in the middle of it, its last answer is not known.
    let Some(seen_at) = lost.seen_at.or(missed) else { return Verdict::Nothing };
    // They were told to connect again, have had the time for it, and all of them still wait.
    if let Some(asked) = asked.filter(|_| lost.frozen) {
        let due = asked + config.confirm;
        return if now >= due { Verdict::Down(lost) } else { Verdict::Suspect(due) };
    }
    // For a moment after they were told to, that they do not receive says nothing.
    if let Some(asked) = asked.filter(|asked| now < *asked + RECONNECT) {
        return Verdict::Suspect(asked + RECONNECT);
    }
    match unfollowed {
        Some(since) => {
            let due = seen_at.max(since) + config.confirm;
            if now >= due { Verdict::Down(lost) } else { Verdict::Suspect(due) }
        }
        None => {
            let due = asked.map_or(seen_at, |asked| asked + RECONNECT) + config.timeout;
            if now >= due { Verdict::Doubtful } else { Verdict::Suspect(due) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::topology::{Epoch, Hold, NodeId};

    #[test]
    fn all_signs_must_agree_for_long_enough() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // Confirm 500 ms, timeout 5 s. Columns: silent, last answer, unfollowed since, asked at,
        // now; and the verdict's first letter with its moment (`f` and `F`: nobody is let in).
        type Row = (bool, Option<u64>, Option<u64>, Option<u64>, u64, &'static str, u64);
        let table: &[Row] = &[
            (false, Some(0), Some(0), None, 9000, "N", 0),
            // Its last answer is not known: it has been missed since the beginning.
            (true, None, Some(0), None, 499, "S", 500),
            (true, None, Some(0), None, 9000, "D", 0),
            (true, Some(0), Some(0), None, 499, "S", 500),
            (true, Some(0), Some(0), None, 500, "D", 0),
            // The replicas lost it later than the proxy.
            (true, Some(0), Some(400), None, 899, "S", 900),
            (true, Some(0), Some(400), None, 900, "D", 0),
            // They had lost it before: the proxy's own sight counts.
            (true, Some(1000), Some(200), None, 1499, "S", 1500),
            // They still hold on to it.
            (true, Some(0), None, None, 4999, "S", 5000),
            (true, Some(0), None, None, 5000, "?", 0),
            // Nobody is let in: not before they have had the time.
            (true, Some(0), Some(600), Some(500), 999, "f", 1000),
            (true, Some(0), Some(600), Some(500), 1000, "F", 0),
            // Without having been asked that says nothing.
            (true, Some(0), None, None, 4999, "f", 5000),
            // Asked to connect again, they need a moment, and then have lost it or not.
            (true, Some(0), Some(5100), Some(5000), 7_999, "S", 8_000),
            (true, Some(0), Some(5100), Some(5000), 8_000, "D", 0),
            (true, Some(0), None, Some(5000), 8_000, "S", 13_000),
            (true, Some(0), None, Some(5000), 13_000, "?", 0),
        ];
        for (number, &(silent, seen, unfollowed, asked, now, letter, due)) in
            table.iter().enumerate()
        {
            let frozen = letter == "F" || letter == "f";
            let lost =
                Lost { node: NodeId(0), seen_at: seen.map(at), silent, frozen, followed: false };
            let snapshot = Snapshot {
                version: 1,
                epoch: Epoch(1),
                primary: None,
                no_primary_because: "".into(),
                hold: Hold::Nothing,
                closed: false,
                lost: Some(lost),
                branch: None,
                timeline: None,
                nodes: Vec::new(),
                last_change: None,
            };
            let (unfollowed, asked) = (unfollowed.map(at), asked.map(at));
            let signs = Signs { missed: Some(at(0)), unfollowed, asked, in_vain: 0 };
            let found = verdict(&snapshot, &fixture::failover(), &signs, at(now));
            let expected = match letter {
                "N" => Verdict::Nothing,
                "S" | "f" => Verdict::Suspect(at(due)),
                "D" | "F" => Verdict::Down(lost),
                _ => Verdict::Doubtful,
            };
            assert_eq!(found, expected, "row {number}");
        }
    }

    #[test]
    fn replicas_are_asked_about_a_primary_that_is_silent_and_not_for_slow_probes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut cluster = fixture::cluster([fixture::node("a")]);
        let mut snapshot = crate::monitor::first_snapshot(&cluster);
        snapshot.primary = Some(NodeId(0));
        snapshot.nodes[0].applied_at = Some(at(0));
        // Timeout 5 s; the probe interval, asked at, now; whether it is in doubt.
        let table = [
            (100, None, 1_999, false),
            (100, None, 2_000, true),
            (100, Some(2_500), 10_499, false),
            (100, Some(2_500), 10_500, true),
            (2_000, None, 5_999, false),
            (2_000, None, 6_000, true),
        ];
        for (interval, asked, now, expected) in table {
            cluster.monitor.interval = Duration::from_millis(interval);
            let signs = Signs { asked: asked.map(at), ..Signs::default() };
            let found = is_in_doubt(&snapshot, &cluster, &signs, at(now));
            assert_eq!(found, expected, "{interval} {asked:?} {now}");
        }
    }

    #[test]
    fn replicas_of_a_slow_primary_are_asked_ever_less_often() {
        let start = Instant::now();
        let cluster = fixture::cluster([fixture::node("a")]);
        let mut snapshot = crate::monitor::first_snapshot(&cluster);
        snapshot.primary = Some(NodeId(0));
        snapshot.nodes[0].applied_at = Some(start);
        // From one time to the next, in seconds: it does not answer, and is not lost either.
        let mut signs = Signs::default();
        let mut intervals = Vec::new();
        let mut last = start;
        for second in 0..1_000 {
            let now = start + Duration::from_secs(second);
            signs.see(&snapshot, now);
            if is_in_doubt(&snapshot, &cluster, &signs, now) {
                signs.ask(&cluster.failover, now);
                intervals.push((now - last).as_secs());
                last = now;
            }
        }
        assert_eq!(intervals[..7], [2, 8, 16, 32, 64, 128, 128], "timeout 5 s, {intervals:?}");
        // One that was lost had given a reason to ask.
        let lost = Lost {
            node: NodeId(0),
            seen_at: Some(start),
            silent: true,
            frozen: false,
            followed: true,
        };
        signs.see(&Snapshot { lost: Some(lost), ..snapshot.clone() }, last);
        assert!(signs.are_rested(&cluster.failover, last + Duration::from_secs(8)));
        // So has one that has been quick for long.
        signs.ask(&cluster.failover, last + Duration::from_secs(1));
        assert!(!signs.are_rested(&cluster.failover, last + Duration::from_secs(10)));
        let late = last + Duration::from_secs(1_000);
        signs.ask(&cluster.failover, late);
        assert!(signs.are_rested(&cluster.failover, late + Duration::from_secs(8)));
    }
}
