//! How often a request is sent again with which its server was lost.

use std::time::Instant;

/// After so many losses a request is not sent again: it may be what ends the servers.
const LOSSES_MAX: u32 = 3;

#[derive(Debug, Default)]
pub struct Repeats {
    losses: u32,
    first: Option<Instant>,
}

impl Repeats {
    /// Whether the request may be sent again if this attempt fails as well.
    pub fn are_left(&self) -> bool {
        self.losses < LOSSES_MAX
    }

    /// The attempt has failed at this moment, on a connection that was opened then. One that was there
    /// before the first loss has broken with that one: a server that ends takes all of them with it,
    /// and there may be as many as the pool has.
    pub fn failed(&mut self, now: Instant, opened_at: Option<Instant>) {
        let first = *self.first.get_or_insert(now);
        let is_explained = self.losses > 0 && opened_at.is_some_and(|at| at < first);
        self.losses += u32::from(!is_explained);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn connections_that_were_open_before_the_first_loss_count_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut repeats = Repeats::default();
        // When it was opened, when it was lost; whether the request may be sent again.
        let losses = [
            (Some(0), 100, true),
            (Some(10), 101, true),
            (Some(20), 102, true),
            (Some(99), 103, true),
            (Some(150), 200, true),
            (None, 300, false),
        ];
        for (opened, lost, left) in losses {
            repeats.failed(at(lost), opened.map(at));
            assert_eq!(repeats.are_left(), left, "{lost}");
        }
    }
}
