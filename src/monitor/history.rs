//! The primary's samples over time, and what a replica's position says against them.
//!
//! Pure: offsets and instants come in as values. One [`History`] belongs to one timeline of one
//! primary; after a promotion the monitor starts a new one, so positions of different timelines
//! are never compared.
//!
//! A sample has two offsets. `insert` is where the primary's next record goes: whoever has
//! applied it shows everything that was acknowledged before the sample began, asynchronous
//! commits included. `flush` is what the primary may have sent: lag is measured by it, for a
//! record that the primary itself keeps back in memory (a background writer's snapshot, the
//! writes of an open transaction) is nothing that a replica could be late with.

use crate::topology::{Lag, Timeline};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Places kept. At one per 100 ms under constant writing that is seven minutes; after it the
/// older half is thinned, which doubles the covered time and only makes old lag look older.
const PLACES_MAX: usize = 4096;

/// Bytes of a page's header in the write-ahead log (`SizeOfXLogShortPHD`, xlog_internal.h).
const PAGE_HEADER_BYTES: u64 = 24;
/// Bytes of the header of a segment's first page (`SizeOfXLogLongPHD`).
const SEGMENT_HEADER_BYTES: u64 = 40;

/// Block and segment size of a server's write-ahead log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogGeometry {
    pub block_bytes: u64,
    pub segment_bytes: u64,
}

impl Default for LogGeometry {
    fn default() -> LogGeometry {
        LogGeometry { block_bytes: 8192, segment_bytes: 16 << 20 }
    }
}

impl LogGeometry {
    /// The record end that an offset stands for.
    ///
    /// When the last record ends with its page, the insert position already counts the header of
    /// the next page (`XLogBytePosToRecPtr`), while a replica stops at the page's end: 24 bytes,
    /// 40 at the start of a segment, that nobody applies while the primary is idle. No record
    /// ends just behind a header, so taking those bytes off loses nothing.
    pub fn record_end(self, offset: u64) -> u64 {
        let into = |size: u64| offset.checked_rem(size).unwrap_or(u64::MAX);
        if into(self.segment_bytes) == SEGMENT_HEADER_BYTES {
            offset - SEGMENT_HEADER_BYTES
        } else if into(self.block_bytes) == PAGE_HEADER_BYTES {
            offset - PAGE_HEADER_BYTES
        } else {
            offset
        }
    }
}

/// One answer of the primary; offsets as record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Before the probe was sent.
    pub started_at: Instant,
    pub insert: u64,
    pub flush: u64,
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

/// The samples of one primary on one timeline, oldest first.
#[derive(Debug, Clone)]
pub struct History {
    timeline: Timeline,
    /// How far samples are apart when all is well.
    interval: Duration,
    /// Both offsets and the instants never fall from one place to the next.
    places: VecDeque<Place>,
}

/// Where the primary was, seen by one sample or by several in a row.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// When the first of them was started.
    since: Instant,
    /// The last of them.
    sample: Sample,
}

impl History {
    pub fn new(timeline: Timeline, interval: Duration) -> History {
        History { timeline, interval, places: VecDeque::new() }
    }

    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    pub fn newest(&self) -> Option<&Sample> {
        self.places.back().map(|place| &place.sample)
    }

    /// Adds a sample that was started after all others.
    ///
    /// A primary that crashed comes back without the records that it had not flushed: samples
    /// beyond its new position are of a log that no longer exists, and are dropped.
    pub fn push(&mut self, sample: Sample) {
        let sample = Sample { flush: sample.flush.min(sample.insert), ..sample };
        while self.newest().is_some_and(|newest| {
            newest.insert > sample.insert
                || newest.flush > sample.flush
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
            _ => self.places.push_back(Place { since: sample.started_at, sample }),
        }
        if self.places.len() > PLACES_MAX {
            self.thin();
        }
    }

    /// When the newest sample was started of which a replica at this place shows everything.
    /// `None`: it is on another timeline or behind every sample that is kept.
    pub fn applied_at(&self, timeline: Timeline, offset: u64) -> Option<Instant> {
        self.newest_applied(timeline, |sample| sample.insert <= offset)
            .map(|(_, sample)| sample.started_at)
    }

    /// The lag of a replica that has applied everything up to `offset`.
    ///
    /// Zero on an idle primary once the last record is applied, also for a replica whose receiver
    /// is gone: there is nothing that it misses, and with the primary's next flushed record its
    /// lag begins to grow.
    ///
    /// Otherwise it is the age of the newest sample that was applied, less what was applied
    /// beyond that sample: the place between two samples is taken for the time between them, but
    /// never for more than one interval, which bounds the error.
    pub fn lag(&self, timeline: Timeline, offset: u64, now: Instant, source: Source) -> Lag {
        let applied = self.newest_applied(timeline, |sample| sample.flush <= offset);
        let (Some((index, sample)), Some(newest)) = (applied, self.newest()) else {
            return Lag::Unknown;
        };
        let age = now.saturating_duration_since(sample.started_at);
        let age = match self.places.get(index + 1) {
            Some(next) => age.saturating_sub(beyond(sample, next, offset).min(self.interval)),
            None if source == Source::Current => Duration::ZERO,
            None => age,
        };
        Lag::Known { age, bytes: Some(newest.flush.saturating_sub(offset)) }
    }

    /// `applied` must hold for a first part of the samples only.
    fn newest_applied(
        &self,
        timeline: Timeline,
        applied: impl Fn(&Sample) -> bool,
    ) -> Option<(usize, &Sample)> {
        if timeline != self.timeline {
            return None;
        }
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

/// The share of the time between two samples that an offset between theirs stands for.
fn beyond(sample: &Sample, next: &Place, offset: u64) -> Duration {
    let written = next.sample.flush.saturating_sub(sample.flush);
    let applied = offset.saturating_sub(sample.flush);
    if written == 0 {
        return Duration::ZERO;
    }
    let share = applied as f64 / written as f64;
    next.since.saturating_duration_since(sample.started_at).mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Timeline = Timeline(1);
    const INTERVAL: Duration = Duration::from_millis(100);

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn history(start: Instant, samples: &[(u64, u64)]) -> History {
        let mut history = History::new(ONE, INTERVAL);
        for &(at, offset) in samples {
            history.push(Sample { started_at: ms(start, at), insert: offset, flush: offset });
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
            let lag = history(start, samples).lag(ONE, offset, ms(start, now), Source::Current);
            assert_eq!(age_ms(lag), expected, "at {offset} after {now} ms");
        }
    }

    #[test]
    fn a_gap_between_samples_is_credited_with_one_interval_at_most() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (5000, 2000)]);
        let lag = history.lag(ONE, 1999, ms(start, 5000), Source::Current);
        assert_eq!(age_ms(lag), Some(4900));
    }

    #[test]
    fn lag_grows_from_the_newest_sample_while_the_primary_is_unseen() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (100, 2000)]);
        let lag = history.lag(ONE, 2000, ms(start, 5000), Source::Unseen);
        assert_eq!(age_ms(lag), Some(4900));
    }

    #[test]
    fn another_timeline_is_never_fresh() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000)]);
        for timeline in [Timeline(0), Timeline(2)] {
            assert_eq!(history.applied_at(timeline, u64::MAX), None);
            let lag = history.lag(timeline, u64::MAX, start, Source::Current);
            assert_eq!(lag, Lag::Unknown);
        }
    }

    #[test]
    fn unflushed_records_hold_back_the_promise_but_are_no_lag() {
        let start = Instant::now();
        let mut history = history(start, &[(0, 1000)]);
        history.push(Sample { started_at: ms(start, 100), insert: 1200, flush: 1000 });
        let lag = history.lag(ONE, 1000, ms(start, 5000), Source::Current);
        assert_eq!(lag, Lag::Known { age: Duration::ZERO, bytes: Some(0) });
        assert_eq!(history.applied_at(ONE, 1000), Some(start));
        assert_eq!(history.applied_at(ONE, 1200), Some(ms(start, 100)));
    }

    #[test]
    fn samples_of_a_log_that_was_lost_in_a_crash_are_dropped() {
        let start = Instant::now();
        let history = history(start, &[(0, 1000), (100, 2000), (200, 1500), (300, 1800)]);
        assert_eq!(history.applied_at(ONE, 1800), Some(ms(start, 300)));
        assert_eq!(history.applied_at(ONE, 1500), Some(ms(start, 200)));
        assert_eq!(history.applied_at(ONE, 1499), Some(ms(start, 0)));
    }

    #[test]
    fn page_and_segment_headers_are_not_waited_for() {
        let geometry = LogGeometry::default();
        let segment = geometry.segment_bytes;
        let table = [
            (segment + 8192 + 24, segment + 8192),
            (segment + 8192 + 32, segment + 8192 + 32),
            (segment + 8192, segment + 8192),
            (segment + 40, segment),
            (segment + 8192 + 40, segment + 8192 + 40),
            (0, 0),
        ];
        for (offset, expected) in table {
            assert_eq!(geometry.record_end(offset), expected, "of {offset}");
        }
        // Sizes that a server cannot have must not panic either.
        let broken = LogGeometry { block_bytes: 0, segment_bytes: 0 };
        assert_eq!(broken.record_end(24), 24);
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
            let (mut at, mut insert) = (0, 1000);
            let mut history = History::new(ONE, INTERVAL);
            let mut taken = Vec::new();
            for (time, written, unflushed) in steps {
                at += time;
                insert += written;
                let flush = (insert - unflushed)
                    .max(taken.last().map_or(0, |last: &Sample| last.flush));
                let sample = Sample { started_at: ms(start, at), insert, flush };
                taken.push(sample);
                history.push(sample);
            }
            let (offset, now) = (insert.saturating_sub(back), ms(start, at + later));
            let applied =
                taken.iter().filter(|sample| sample.insert <= offset).map(|s| s.started_at).max();
            prop_assert_eq!(history.applied_at(ONE, offset), applied);
            let (sent, missing): (Vec<&Sample>, Vec<&Sample>) =
                taken.iter().partition(|sample| sample.flush <= offset);
            match history.lag(ONE, offset, now, Source::Current) {
                Lag::Unknown => prop_assert!(sent.is_empty()),
                Lag::Known { age, .. } if missing.is_empty() => {
                    prop_assert_eq!(age, Duration::ZERO);
                }
                Lag::Known { age, .. } => {
                    let most = now - sent[sent.len() - 1].started_at;
                    let least = (now - missing[0].started_at).max(most.saturating_sub(INTERVAL));
                    prop_assert!(least <= age && age <= most, "{least:?} {age:?} {most:?}");
                }
            }
        }

        /// However many samples: bounded, in order, and never fresher than the truth.
        #[test]
        fn thinning_is_bounded_and_only_pessimistic(extra in 1u64..20_000, probe in 0u64..24_000) {
            let start = Instant::now();
            let mut history = History::new(ONE, INTERVAL);
            let count = PLACES_MAX as u64 + extra;
            for step in 0..count {
                let offset = 1000 + step;
                history.push(Sample {
                    started_at: ms(start, step), insert: offset, flush: offset,
                });
            }
            prop_assert!(history.places.len() <= PLACES_MAX);
            let offset = 1000 + probe.min(count - 1);
            let truth = ms(start, probe.min(count - 1));
            prop_assert!(history.applied_at(ONE, offset).is_none_or(|applied| applied <= truth));
            let newest = history.applied_at(ONE, 1000 + count);
            prop_assert_eq!(newest, Some(ms(start, count - 1)));
        }
    }
}
