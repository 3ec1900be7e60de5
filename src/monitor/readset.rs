//! Whether a replica's lag lets it serve reads: out above the bound, back below 0.7 of it.
//!
//! Pure. There is no ban time: a replica is back as soon as its lag is.

use crate::topology::Lag;
use std::time::Duration;

/// A replica that was out returns below this share of the bounds, so that one that hovers at the
/// bound does not come and go with every probe.
const RETURN_SHARE_PERCENT: u32 = 70;

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub lag_max: Duration,
    pub bytes_max: Option<u64>,
}

/// One replica's membership.
#[derive(Debug, Clone)]
pub struct Membership {
    bounds: Bounds,
    out_by_lag: bool,
}

impl Membership {
    pub fn new(bounds: Bounds) -> Membership {
        Membership { bounds, out_by_lag: false }
    }

    /// `None`: in. Otherwise why not, as a sentence without an end.
    pub fn judge(&mut self, lag: Lag) -> Option<String> {
        let Bounds { lag_max, bytes_max } = self.bounds;
        let Lag::Known { age, bytes } = lag else {
            return Some("its lag is not known".to_string());
        };
        let limits = if self.out_by_lag { self.bounds.to_return() } else { self.bounds };
        self.out_by_lag = !lag.within(limits.lag_max, limits.bytes_max);
        if !self.out_by_lag {
            return None;
        }
        let mut reason = format!(
            "it lags by {} ms (at most {}, back at {})",
            age.as_millis(),
            lag_max.as_millis(),
            self.bounds.to_return().lag_max.as_millis()
        );
        if let (Some(bytes), Some(bytes_max)) = (bytes, bytes_max) {
            reason += &format!(" and {bytes} bytes (at most {bytes_max})");
        }
        Some(reason)
    }
}

impl Bounds {
    fn to_return(self) -> Bounds {
        Bounds {
            lag_max: self.lag_max * RETURN_SHARE_PERCENT / 100,
            bytes_max: self.bytes_max.map(|bytes| {
                bytes / 100 * u64::from(RETURN_SHARE_PERCENT)
                    + bytes % 100 * u64::from(RETURN_SHARE_PERCENT) / 100
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes_max: Option<u64>, steps: &[(Option<(u64, u64)>, bool)]) {
        let bounds = Bounds { lag_max: Duration::from_millis(1000), bytes_max };
        let mut membership = Membership::new(bounds);
        for (step, (lag, expected)) in steps.iter().enumerate() {
            let lag = lag.map_or(Lag::Unknown, |(ms, bytes)| Lag::Known {
                age: Duration::from_millis(ms),
                bytes: Some(bytes),
            });
            assert_eq!(membership.judge(lag).is_none(), *expected, "step {step}: {lag:?}");
        }
    }

    #[test]
    fn out_above_the_bound_and_back_below_seven_tenths() {
        check(
            None,
            &[
                (None, false),
                (Some((1000, 0)), true),
                (Some((1001, 0)), false),
                (Some((900, 0)), false),
                (Some((701, 0)), false),
                (None, false),
                (Some((701, 0)), false),
                (Some((700, 0)), true),
                (Some((999, 0)), true),
            ],
        );
    }

    #[test]
    fn bytes_bound_as_well() {
        check(
            Some(200),
            &[
                (Some((0, 200)), true),
                (Some((0, 201)), false),
                (Some((0, 141)), false),
                (Some((0, 140)), true),
            ],
        );
    }
}
