//! A histogram of durations with fixed buckets and one writer.

use super::tally::{Sum, Tally};
use std::time::Duration;

/// Upper bounds of the buckets in nanoseconds, 50 µs to 10 s, three a decade: from a query that
/// never leaves the server's cache to one that a person waits for.
pub const BOUNDS_NS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The last bucket has no bound.
const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// Counts per bucket (not cumulative) and the sum. The number of samples is the sum of the
/// buckets, so a reader never sees the two disagree.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Tally; BUCKETS],
    sum_ns: Tally,
}

impl Histogram {
    /// Counts one sample: a search of five steps, two loads and two stores.
    #[inline]
    pub fn record(&self, sample: Duration) {
        let nanoseconds = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket, as Prometheus' `le` demands.
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < nanoseconds);
        self.buckets[bucket].add(1);
        self.sum_ns.add(nanoseconds);
    }

    /// How many samples were at most as long as each bound, and at the end how many there were.
    pub fn cumulative(&self) -> [u64; BUCKETS] {
        let mut total = 0;
        std::array::from_fn(|bucket| {
            total += self.buckets[bucket].get();
            total
        })
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.get())
    }
}

impl Sum for Histogram {
    fn zero() -> Histogram {
        Histogram { buckets: Sum::zero(), sum_ns: Sum::zero() }
    }

    fn absorb(&self, other: &Histogram) {
        self.buckets.absorb(&other.buckets);
        self.sum_ns.absorb(&other.sum_ns);
    }

    fn is_used(&self) -> bool {
        self.buckets.is_used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sample in nanoseconds and the index of the bucket that must count it.
    const SAMPLES: &[(u64, usize)] = &[
        (0, 0),
        (1, 0),
        (49_999, 0),
        (50_000, 0),
        (50_001, 1),
        (100_000, 1),
        (100_001, 2),
        (999_999, 4),
        (1_000_000, 4),
        (1_000_001, 5),
        (10_000_000_000, 16),
        (10_000_000_001, 17),
        (u64::MAX, 17),
    ];

    #[test]
    fn each_sample_falls_into_its_bucket() {
        for (nanoseconds, bucket) in SAMPLES {
            let histogram = Histogram::zero();
            histogram.record(Duration::from_nanos(*nanoseconds));
            let expected: [u64; BUCKETS] = std::array::from_fn(|index| u64::from(index >= *bucket));
            assert_eq!(histogram.cumulative(), expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_NS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn sums_add_up_over_histograms() {
        let (one, two) = (Histogram::zero(), Histogram::zero());
        one.record(Duration::from_millis(3));
        two.record(Duration::from_millis(4));
        two.record(Duration::from_secs(60));
        one.absorb(&two);
        assert_eq!(one.sum(), Duration::from_millis(60_007));
        assert_eq!(one.cumulative()[BUCKETS - 1], 3);
        assert_eq!(one.cumulative()[BUCKETS - 2], 2);
    }
}
