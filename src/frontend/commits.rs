//! Commits that are under way through this proxy.
//!
//! A standby may show a commit an instant before the primary does: the primary sends the commit
//! record first and takes the transaction off its list of running ones afterwards
//! (`CommitTransaction`, `src/backend/access/transam/xact.c`). A session that has just read from
//! a replica and reads from the primary next could see that commit vanish. It cannot once every
//! commit that was under way at its last reply has been answered; so such a read waits for those.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A statement that has been running for much longer than is usual is not waited for: that its
/// commit falls into that very instant is as good as impossible, and it may go on for hours.
const USUAL_TIMES: u32 = 8;

/// On a busy machine commits take long. This is the range of what is waited for in all cases and
/// in none.
const LONG_MIN: Duration = Duration::from_millis(100);
const LONG_MAX: Duration = Duration::from_secs(1);

/// The share of a new commit in the mean of them, as a power of two.
const MEAN_SHIFT: u32 = 4;

#[derive(Debug)]
pub struct Commits {
    start: Instant,
    /// The oldest commit under way of each worker, in nanoseconds since the start; 0: none.
    oldest: Box<[AtomicU64]>,
    /// How long a commit takes, as a mean of the last ones, in nanoseconds.
    usual: AtomicU64,
}

impl Commits {
    pub fn new(workers: usize) -> Arc<Commits> {
        let oldest = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Commits { start: Instant::now(), oldest, usual: AtomicU64::new(0) })
    }

    /// Whether any commit is not answered yet.
    #[inline]
    pub fn any(&self) -> bool {
        self.oldest.iter().any(|oldest| oldest.load(Ordering::Acquire) != 0)
    }

    /// Whether a commit that was sent before `at`, and not long before, is not answered yet.
    pub fn any_before(&self, at: Instant) -> bool {
        let (at, long) = (self.nanos(at), as_nanos(self.long()));
        self.oldest.iter().any(|oldest| {
            let oldest = oldest.load(Ordering::Acquire);
            oldest != 0 && oldest <= at && at - oldest < long
        })
    }

    /// What has been running for so long is not waited for, and nothing is waited for any longer.
    pub fn long(&self) -> Duration {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (usual * USUAL_TIMES).clamp(LONG_MIN, LONG_MAX)
    }

    /// Workers may overwrite each other's: it is a mean of many.
    fn took(&self, time: Duration) {
        let time = as_nanos(time.min(LONG_MAX));
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = usual - (usual >> MEAN_SHIFT) + (time >> MEAN_SHIFT);
        self.usual.store(usual, Ordering::Relaxed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        as_nanos(at.saturating_duration_since(self.start)).max(1)
    }
}

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One worker's commits under way.
#[derive(Debug)]
pub struct LocalCommits {
    shared: Arc<Commits>,
    worker: usize,
    /// When each was sent; as many as connections to the primary are busy.
    running: RefCell<Vec<(u64, Instant)>>,
}

impl LocalCommits {
    pub fn new(shared: Arc<Commits>, worker: usize) -> LocalCommits {
        LocalCommits { shared, worker, running: RefCell::default() }
    }

    /// A request that may commit is sent; `id` is the caller's.
    pub fn begun(&self, id: u64, at: Instant) {
        self.running.borrow_mut().push((id, at));
        self.publish();
    }

    /// It was answered, or its connection is gone.
    pub fn ended(&self, id: u64) {
        self.running.borrow_mut().retain(|(running, since)| {
            let ended = *running == id;
            if ended {
                self.shared.took(since.elapsed());
            }
            !ended
        });
        self.publish();
    }

    fn publish(&self) {
        let running = self.running.borrow();
        // One that has been running for long is passed over, or it would hide the short ones.
        let long = self.shared.long();
        let newest = running.iter().map(|(_, at)| *at).max();
        let oldest = running
            .iter()
            .map(|(_, at)| *at)
            .filter(|at| newest.is_some_and(|newest| newest - *at < long))
            .min();
        let nanos = oldest.map_or(0, |at| self.shared.nanos(at));
        if let Some(slot) = self.shared.oldest.get(self.worker) {
            slot.store(nanos, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Commits, LONG_MAX, LONG_MIN, LocalCommits};
    use std::time::Duration;

    #[test]
    fn commits_that_began_before_count_until_they_are_answered() {
        let shared = Commits::new(2);
        let (one, two) =
            (LocalCommits::new(shared.clone(), 0), LocalCommits::new(shared.clone(), 1));
        let at = |ms| shared.start + Duration::from_millis(ms);
        assert!(!shared.any_before(at(10)));
        one.begun(1, at(5));
        two.begun(2, at(8));
        assert!(shared.any_before(at(6)) && !shared.any_before(at(4)));
        one.ended(1);
        assert!(!shared.any_before(at(6)) && shared.any_before(at(9)));
        two.ended(2);
        assert!(!shared.any_before(at(9)));
    }

    #[test]
    fn a_long_one_is_not_waited_for_and_hides_no_other() {
        let shared = Commits::new(1);
        let one = LocalCommits::new(shared.clone(), 0);
        let later = shared.start + LONG_MIN * 2;
        one.begun(1, shared.start);
        assert!(!shared.any_before(later));
        one.begun(2, later);
        assert!(shared.any_before(later + Duration::from_millis(1)));
    }

    #[test]
    fn what_is_long_follows_what_is_usual() {
        let shared = Commits::new(1);
        let after = |time, count| {
            (0..count).for_each(|_| shared.took(time));
            shared.long()
        };
        assert_eq!(after(Duration::from_millis(1), 100), LONG_MIN);
        let slow = after(Duration::from_millis(50), 100);
        assert!(
            slow > Duration::from_millis(350) && slow <= Duration::from_millis(400),
            "{slow:?}"
        );
        assert_eq!(after(Duration::from_secs(3600), 100), LONG_MAX);
        assert_eq!(after(Duration::from_micros(500), 1000), LONG_MIN);
    }
}
