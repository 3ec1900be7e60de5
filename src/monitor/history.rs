//! The primary's samples over time, and what a replica's position says against them.
//!
//! Pure: positions and instants come in as values. One [`History`] belongs to one primary (and
//! one timeline of it); after a promotion the monitor starts a new one.
//!
//! A sample has two positions. `insert` is where the primary's next record goes: whoever has
//! applied it shows everything that was acknowledged before the sample began, asynchronous
//! commits included. `flush` is what the primary may have sent: lag is measured by it, for a
//! record that the primary itself keeps back in memory (a background writer's snapshot, the
//! writes of an open transaction) is nothing that a replica could be late with. Of GTIDs both are
//! the same.

use crate::topology::{Lag, Position};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Places kept. At one per 100 ms under constant writing that is seven minutes; after it the
/// older half is thinned, which doubles the covered time and only makes old lag look older.
const PLACES_MAX: usize = 4096;

/// One answer of the primary; offsets of a log as record ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Before the probe was sent.
    pub started_at: Instant,
    pub insert: Position,
    /// Not ahead of `insert`.
    pub flush: Position,
}

/// Whether the newest sample may be taken for where the primary still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The primary answers, or it is known that nobody writes: who has applied the newest sample
    /// has everything.
    Current,
    /// The primary has not answered for a while and may write on unseen: lag grows from the
    /// newest sample that was applied, whichever it is.
    Unseen,
}

/// The samples of one primary, oldest first.
#[derive(Debug, Clone)]
pub struct History {
    /// How far samples are apart when all is well.
    interval: Duration,
    /// Both positions and the instants never fall from one place to the next.
    places: VecDeque<Place>,
    /// Where the first sample was, while all later ones differ from it in one source only.
    origin: Option<Position>,
    in_order: bool,
}

/// Where the primary was, seen by one sample or by several in a row.
#[derive(Debug, Clone)]
struct Place {
    /// When the first of them was started.
    since: Instant,
    /// The last of them.
    sample: Sample,
}

impl History {
    pub fn new(interval: Duration) -> History {
        History { interval, places: VecDeque::new(), origin: None, in_order: true }
    }

    /// Whether the primary has written in one order only, as far as its samples tell: under one
    /// source, or in one domain.
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    pub fn newest(&self) -> Option<&Sample> {
        self.places.back().map(|place| &place.sample)
    }

    /// Adds a sample that was started after all others.
    ///
    /// A primary that crashed comes back without the records that it had not flushed: samples
    /// beyond its new position are of a log that no longer exists, and are dropped.
    pub fn push(&mut self, sample: Sample) {
        while self.newest().is_some_and(|newest| {
            !sample.insert.covers(&newest.insert)
                || !sample.flush.covers(&newest.flush)
                || newest.started_at > sample.started_at
        }) {
            self.places.pop_back();
        }
        match self.places.back_mut() {
            // An idle primary adds nothing: the same place, seen later.
            Some(Place { sample: last, .. })
                if last.insert == sample.insert && last.flush == sample.flush =>
            {
                last.started_at = sample.started_at;
            }
            _ => {
                let origin = self.origin.get_or_insert_with(|| sample.insert.clone());
                self.in_order &= sample.insert.sources_beyond(origin) <= 1;
                self.places.push_back(Place { since: sample.started_at, sample });
            }
        }
        if self.places.len() > PLACES_MAX {
            self.thin();
        }
    }

    /// When the newest sample was started of which a replica at this place shows everything.
    /// `None`: it is on another timeline or behind every sample that is kept.
    pub fn applied_at(&self, place: &Position) -> Option<Instant> {
        self.newest_applied(|sample| place.covers(&sample.insert))
            .map(|(_, sample)| sample.started_at)
    }

    /// The lag of a replica that has applied everything up to `place`.
    ///
    /// Zero on an idle primary once the last record is applied, also for a replica whose receiver
    /// is gone: there is nothing that it misses, and with the primary's next flushed record its
    /// lag begins to grow.
    ///
    /// Otherwise it is the age of the newest sample that was applied, less what was applied
    /// beyond that sample: the place between two samples is taken for the time between them, but
    /// never for more than one interval, which bounds the error.
    pub fn lag(&self, place: &Position, now: Instant, source: Source) -> Lag {
        let applied = self.newest_applied(|sample| place.covers(&sample.flush));
        let (Some((index, sample)), Some(newest)) = (applied, self.newest()) else {
            return Lag::Unknown;
        };
        let age = now.saturating_duration_since(sample.started_at);
        let age = match self.places.get(index + 1) {
            Some(next) => age.saturating_sub(beyond(sample, next, place).min(self.interval)),
            None if source == Source::Current => Duration::ZERO,
            None => age,
        };
        let bytes = match place {
            Position::Log { .. } => Some(newest.flush.ahead_of(place)),
            Position::Gtids(_) => None,
        };
        Lag::Known { age, bytes }
    }

    /// `applied` must hold for a first part of the samples only.
    fn newest_applied(&self, applied: impl Fn(&Sample) -> bool) -> Option<(usize, &Sample)> {
        let index = self.places.partition_point(|place| applied(&place.sample)).checked_sub(1)?;
        self.places.get(index).map(|place| (index, &place.sample))
    }

    /// Drops every second place of the older half.
    fn thin(&mut self) {
        let half = self.places.len() / 2;
        let mut index = 0;
        self.places.retain(|_| {
            index += 1;
            index > half || index % 2 == 0
        });
    }
}

/// The share of the time between two samples that a place between theirs stands for.
fn beyond(sample: &Sample, next: &Place, place: &Position) -> Duration {
    let written = next.sample.flush.ahead_of(&sample.flush);
    let applied = place.ahead_of(&sample.flush);
    if written == 0 {
        return Duration::ZERO;
    }
    let share = applied as f64 / written as f64;
    next.since.saturating_duration_since(sample.started_at).mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Gtids, Timeline};
    use proptest::prelude::*;
    use std::sync::Arc;

    const ONE: Timeline = Timeline(1);

    fn log(offset: u64) -> Position {
        Position::Log { timeline: ONE, offset }
    }

    const INTERVAL: Duration = Duration::from_millis(100);

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn history(start: Instant, samples: &[(u64, u64)]) -> History {
        let mut history = History::new(INTERVAL);
        for &(at, offset) in samples {
            let (insert, flush) = (log(offset), log(offset));
            history.push(Sample { started_at: ms(start, at), insert, flush });
        }
        history
    }

    fn age_ms(lag: Lag) -> Option<u64> {
        match lag {
            Lag::Unknown => None,
            Lag::Known { age, .. } => Some(age.as_millis() as u64),
        }
    }

    #[test]
    fn lag_is_the_age_of_the_newest_applied_sample() {
        let start = Instant::now();
        let samples = &[(0, 1000), (100, 2000), (200, 3000), (300, 3000)];
        // replica's offset, now, lag in ms
        let table = [
            (999, 310, None),
            (1000, 310, Some(310)),
            (1500, 310, Some(260)),
            (2000, 310, Some(210)),
            (2250, 310, Some(185)),
            (3000, 310, Some(0)),
            (3000, 9000, Some(0)),
            (4000, 9000, Some(0)),
            (2000, 9000, Some(8900)),
        ];
        for (offset, now, expected) in table {
            let lag = history(start, samples).lag(&log(offset), ms(start, now), Source::Current);
            assert_eq!(age_ms(lag), expected, "at {offset} after {now} ms");
        }
    }

    #[test]
    fn a_gap_between_samples_is_credited_with_one_interval_at_most() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (5000, 2000)]);
        let lag = history.lag(&log(1999), ms(start, 5000), Source::Current);
        assert_eq!(age_ms(lag), Some(4900));
    }

    #[test]
    fn lag_grows_from_the_newest_sample_while_the_primary_is_unseen() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (100, 2000)]);
        let lag = history.lag(&log(2000), ms(start, 5000), Source::Unseen);
        assert_eq!(age_ms(lag), Some(4900));
    }

    #[test]
    fn another_timeline_is_never_fresh() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000)]);
        for timeline in [Timeline(0), Timeline(2)] {
            let place = Position::Log { timeline, offset: u64::MAX };
            assert_eq!(history.applied_at(&place), None);
            let lag = history.lag(&place, start, Source::Current);
            assert_eq!(lag, Lag::Unknown);
        }
    }

    #[test]
    fn unflushed_records_hold_back_the_promise_but_are_no_lag() {
        let start = Instant::now();
        let mut history = history(start, &[(0, 1000)]);
        history.push(Sample { started_at: ms(start, 100), insert: log(1200), flush: log(1000) });
        let lag = history.lag(&log(1000), ms(start, 5000), Source::Current);
        assert_eq!(lag, Lag::Known { age: Duration::ZERO, bytes: Some(0) });
        assert_eq!(history.applied_at(&log(1000)), Some(start));
        assert_eq!(history.applied_at(&log(1200)), Some(ms(start, 100)));
    }

    /// The set of a replica that applies in parallel may have gaps: what a sample has must be
    /// there as a whole.
    #[test]
    fn sets_of_transactions_have_an_age_as_well() {
        const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set = |ranges: &str| {
            let gtids = Gtids::parse_set(&format!("{UUID}:{ranges}")).unwrap();
            Position::Gtids(Arc::new(gtids))
        };
        let start = Instant::now();
        let mut history = History::new(INTERVAL);
        for (at, ranges) in [(0, "1-10"), (100, "1-20"), (200, "1-30"), (300, "1-30")] {
            let (insert, flush) = (set(ranges), set(ranges));
            history.push(Sample { started_at: ms(start, at), insert, flush });
        }
        let table = [
            ("1-9", None, None),
            ("2-30", None, None),
            ("1-10", Some(0), Some(310)),
            ("1-15", Some(0), Some(260)),
            ("1-10:12-21", Some(0), Some(210)),
            ("1-20", Some(100), Some(210)),
            ("1-30", Some(300), Some(0)),
            ("1-31", Some(300), Some(0)),
        ];
        for (ranges, applied, age) in table {
            let place = set(ranges);
            let lag = history.lag(&place, ms(start, 310), Source::Current);
            assert_eq!(age_ms(lag), age, "lag at {ranges}");
            let applied = applied.map(|at| ms(start, at));
            assert_eq!(history.applied_at(&place), applied, "applied at {ranges}");
        }
    }

    #[test]
    fn two_sources_that_go_on_have_no_common_order() {
        let heads = |text: &str| Position::Gtids(Arc::new(Gtids::parse_heads(text).unwrap()));
        let table: [(&[&str], bool); 3] = [
            (&["0-1-5,1-1-3", "0-1-6,1-1-3", "0-1-6,0-2-9,1-1-3"], true),
            (&["0-1-5,1-1-3", "0-1-6,1-1-3", "0-1-6,1-1-4"], false),
            (&["0-1-5", "0-1-6", "0-1-6,1-1-1", "0-1-7,1-1-1"], false),
        ];
        for (samples, in_order) in table {
            let mut history = History::new(INTERVAL);
            for text in samples {
                let (insert, flush) = (heads(text), heads(text));
                history.push(Sample { started_at: Instant::now(), insert, flush });
            }
            assert_eq!(history.is_in_order(), in_order, "{samples:?}");
        }
    }

    #[test]
    fn samples_of_a_log_that_was_lost_in_a_crash_are_dropped() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (100, 2000), (200, 1500), (300, 1800)]);
        assert_eq!(history.applied_at(&log(1800)), Some(ms(start, 300)));
        assert_eq!(history.applied_at(&log(1500)), Some(ms(start, 200)));
        assert_eq!(history.applied_at(&log(1499)), Some(ms(start, 0)));
    }

    proptest! {
        /// Against the definition, by looking at every sample that was ever taken.
        #[test]
        fn agrees_with_the_definition(
            steps in prop::collection::vec((1u64..50, 0u64..5, 0u64..3), 1..200),
            back in 0u64..400,
            later in 0u64..1000,
        ) {
            let start = Instant::now();
            let (mut at, mut insert, mut flush) = (0, 1000, 0);
            let mut history = History::new(INTERVAL);
            let mut taken = Vec::new();
            for (time, written, unflushed) in steps {
                at += time;
                insert += written;
                flush = (insert - unflushed).max(flush);
                taken.push((ms(start, at), insert, flush));
                let (insert, flush) = (log(insert), log(flush));
                history.push(Sample { started_at: ms(start, at), insert, flush });
            }
            let (offset, now) = (insert.saturating_sub(back), ms(start, at + later));
            let applied =
                taken.iter().filter(|taken| taken.1 <= offset).map(|taken| taken.0).max();
            prop_assert_eq!(history.applied_at(&log(offset)), applied);
            type Taken = (Instant, u64, u64);
            let (sent, missing): (Vec<Taken>, Vec<Taken>) =
                taken.iter().partition(|taken| taken.2 <= offset);
            match history.lag(&log(offset), now, Source::Current) {
                Lag::Unknown => prop_assert!(sent.is_empty()),
                Lag::Known { age, .. } if missing.is_empty() => {
                    prop_assert_eq!(age, Duration::ZERO);
                }
                Lag::Known { age, .. } => {
                    let most = now - sent[sent.len() - 1].0;
                    let least = (now - missing[0].0).max(most.saturating_sub(INTERVAL));
                    prop_assert!(least <= age && age <= most, "{least:?} {age:?} {most:?}");
                }
            }
        }

        /// However many samples: bounded, in order, and never fresher than the truth.
        #[test]
        fn thinning_is_bounded_and_only_pessimistic(extra in 1u64..20_000, probe in 0u64..24_000) {
            let start = Instant::now();
            let mut history = History::new(INTERVAL);
            let count = PLACES_MAX as u64 + extra;
            for step in 0..count {
                let offset = 1000 + step;
                history.push(Sample {
                    started_at: ms(start, step), insert: log(offset), flush: log(offset),
                });
            }
            prop_assert!(history.places.len() <= PLACES_MAX);
            let offset = 1000 + probe.min(count - 1);
            let truth = ms(start, probe.min(count - 1));
            prop_assert!(history.applied_at(&log(offset)).is_none_or(|applied| applied <= truth));
            let newest = history.applied_at(&log(1000 + count));
            prop_assert_eq!(newest, Some(ms(start, count - 1)));
        }
    }
}
