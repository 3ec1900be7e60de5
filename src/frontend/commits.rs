//! Commits that are under way through this proxy.
//!
//! A standby may show a commit an instant before the primary does: the primary sends the commit
//! record first and takes the transaction off its list of running ones afterwards
//! (`CommitTransaction`, `src/backend/access/transam/xact.c`). A session that has just read from
//! a replica and reads from the primary next could see that commit vanish. It cannot once every
//! commit that was under way at its last reply has been answered; so such a read waits for those.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A statement that has been running for longer than this is not waited for: it may go on for
/// hours. A commit alone takes that long when the disk, or a synchronous standby, stalls.
const LONG: Duration = Duration::from_secs(1);

/// Nor is one that has been overtaken: of commits that are written out together, all are answered
/// within this time.
const WRITTEN_OUT: Duration = Duration::from_millis(100);

/// The oldest commit under way of each worker, in nanoseconds since the start; 0: none.
#[derive(Debug)]
pub struct Commits {
    start: Instant,
    oldest: Box<[AtomicU64]>,
}

impl Commits {
    pub fn new(workers: usize) -> Arc<Commits> {
        let oldest = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Commits { start: Instant::now(), oldest })
    }

    /// Whether any commit is not answered yet.
    #[inline]
    pub fn any(&self) -> bool {
        self.oldest.iter().any(|oldest| oldest.load(Ordering::Acquire) != 0)
    }

    /// Whether a commit that was sent before `at`, and not long before, is not answered yet.
    pub fn any_before(&self, at: Instant) -> bool {
        let (at, long) = (self.nanos(at), as_nanos(LONG));
        self.oldest.iter().any(|oldest| {
            let oldest = oldest.load(Ordering::Acquire);
            oldest != 0 && oldest <= at && at - oldest < long
        })
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
    answered: Cell<Answered>,
}

/// When the newest of the commits was sent that have been answered: in this stretch of time, in the
/// one before, and earlier. A stretch is at least as long as [`WRITTEN_OUT`].
#[derive(Debug, Clone, Copy)]
struct Answered {
    now: Option<Instant>,
    before: Option<Instant>,
    earlier: Option<Instant>,
    since: Instant,
}

impl LocalCommits {
    pub fn new(shared: Arc<Commits>, worker: usize) -> LocalCommits {
        let answered = Answered { now: None, before: None, earlier: None, since: shared.start };
        LocalCommits { shared, worker, running: RefCell::default(), answered: Cell::new(answered) }
    }

    /// A request that may commit is sent; `id` is the caller's.
    pub fn begun(&self, id: u64, at: Instant) {
        self.running.borrow_mut().push((id, at));
        self.publish();
    }

    /// It was answered, or its connection is gone.
    pub fn ended(&self, id: u64) {
        self.ended_at(id, Instant::now());
    }

    fn ended_at(&self, id: u64, now: Instant) {
        let mut running = self.running.borrow_mut();
        let Some(place) = running.iter().position(|(running, _)| *running == id) else { return };
        let (_, sent) = running.swap_remove(place);
        drop(running);
        let mut answered = self.answered.get();
        answered.add(sent, now);
        self.answered.set(answered);
        self.publish();
    }

    fn publish(&self) {
        let overtaken_before = self.answered.get().earlier;
        let running = self.running.borrow();
        let waited_for =
            running.iter().map(|(_, at)| *at).filter(|at| Some(*at) >= overtaken_before);
        let nanos = waited_for.min().map_or(0, |at| self.shared.nanos(at));
        if let Some(slot) = self.shared.oldest.get(self.worker) {
            slot.store(nanos, Ordering::Release);
        }
    }
}

impl Answered {
    fn add(&mut self, sent: Instant, now: Instant) {
        if now.saturating_duration_since(self.since) >= WRITTEN_OUT {
            self.earlier = self.earlier.max(self.before);
            self.before = self.now.take();
            self.since = now;
        }
        self.now = self.now.max(Some(sent));
    }
}

#[cfg(test)]
mod tests {
    use super::{Commits, LONG, LocalCommits, WRITTEN_OUT};
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
    fn a_long_one_is_not_waited_for() {
        let shared = Commits::new(1);
        let one = LocalCommits::new(shared.clone(), 0);
        let sent = shared.start + Duration::from_millis(1);
        one.begun(1, sent);
        assert!(shared.any_before(sent + LONG / 2), "the disk may stall");
        assert!(!shared.any_before(sent + LONG));
    }

    #[test]
    fn one_that_was_overtaken_is_not_waited_for_and_hides_no_other() {
        let shared = Commits::new(1);
        let one = LocalCommits::new(shared.clone(), 0);
        let at = |stretches: u32| shared.start + WRITTEN_OUT * stretches;
        one.begun(1, at(1));
        for id in 2..=4 {
            let sent = at(id as u32);
            one.begun(id, sent);
            one.ended_at(id, sent);
            let counts = shared.any_before(sent);
            assert_eq!(counts, id < 4, "{id}: those of the last stretch may be its companions");
        }
        one.begun(5, at(5));
        assert!(shared.any_before(at(6)), "the short one");
    }
}
