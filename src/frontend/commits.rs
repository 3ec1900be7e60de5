//! Commits that are under way through this proxy.
//!
//! A standby may show a commit an instant before the primary does: the primary sends the commit
//! record first and takes the transaction off its list of running ones afterwards
//! (`CommitTransaction`, `src/backend/access/transam/xact.c`). A session that has just read from
//! a replica and reads from the primary next could see that commit vanish. It cannot once every
//! commit that was under way at its last reply has been answered; so such a read waits for those,
//! or, where one takes long, for the word of the servers (`monitor::visibility`). Servers that have
//! no word leave the choice between waiting for statements that run for long and for commits that
//! are held up, which look the same from here.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the servers cannot be asked, a statement that has been running for longer than this is not
/// waited for: it may go on for hours. A commit alone takes that long when the disk, or a
/// synchronous standby, stalls.
const LONG: Duration = Duration::from_secs(1);

/// Nor is one there that has been overtaken: of commits that are written out together, nearly all
/// are answered within this time.
const WRITTEN_OUT: Duration = Duration::from_millis(100);

/// The oldest commit under way of each worker, in nanoseconds since the start; 0: none.
#[derive(Debug)]
pub struct Commits {
    start: Instant,
    oldest: Box<[AtomicU64]>,
    /// The servers cannot be asked.
    guesses: bool,
}

impl Commits {
    /// `guesses`: nobody else can tell whether a commit is shown that is not answered.
    pub fn new(workers: usize, guesses: bool) -> Arc<Commits> {
        let oldest = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Commits { start: Instant::now(), oldest, guesses })
    }

    /// How long before `at` the oldest commit was sent that is not answered yet, if one was.
    pub fn oldest_before(&self, at: Instant) -> Option<Duration> {
        let at = self.nanos(at);
        let ages = self.oldest.iter().filter_map(|oldest| {
            let oldest = oldest.load(Ordering::Acquire);
            let age = at.checked_sub(oldest).filter(|_| oldest != 0)?;
            Some(Duration::from_nanos(age)).filter(|age| !self.guesses || *age < LONG)
        });
        ages.max()
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
        let overtaken_before = self.answered.get().earlier.filter(|_| self.shared.guesses);
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
        let shared = Commits::new(2, false);
        let (one, two) =
            (LocalCommits::new(shared.clone(), 0), LocalCommits::new(shared.clone(), 1));
        let at = |ms| shared.start + Duration::from_millis(ms);
        let oldest = |ms| shared.oldest_before(at(ms)).map(|age| age.as_millis());
        assert_eq!(oldest(10), None);
        one.begun(1, at(5));
        two.begun(2, at(8));
        assert_eq!((oldest(6), oldest(4), oldest(5_000)), (Some(1), None, Some(4_995)));
        one.ended(1);
        assert_eq!((oldest(6), oldest(9)), (None, Some(1)));
        two.ended(2);
        assert_eq!(oldest(9), None);
    }

    #[test]
    fn a_long_one_is_not_waited_for_where_nobody_can_be_asked() {
        for guesses in [true, false] {
            let shared = Commits::new(1, guesses);
            let one = LocalCommits::new(shared.clone(), 0);
            let sent = shared.start + Duration::from_millis(1);
            one.begun(1, sent);
            assert!(shared.oldest_before(sent + LONG / 2).is_some(), "the disk may stall");
            assert_eq!(shared.oldest_before(sent + LONG).is_some(), !guesses);
        }
    }

    #[test]
    fn one_that_was_overtaken_is_not_waited_for_there_and_hides_no_other() {
        for guesses in [true, false] {
            let shared = Commits::new(1, guesses);
            let one = LocalCommits::new(shared.clone(), 0);
            let at = |stretches: u32| shared.start + WRITTEN_OUT * stretches;
            one.begun(1, at(1));
            for id in 2..=4 {
                let sent = at(id as u32);
                one.begun(id, sent);
                one.ended_at(id, sent);
                let counts = shared.oldest_before(sent).is_some();
                assert_eq!(counts, !guesses || id < 4, "{id}: some may be its companions");
            }
            one.begun(5, at(5));
            assert!(shared.oldest_before(at(6)).is_some(), "the short one");
        }
    }
}
