//! Answers about users, remembered for a while.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Users remembered, and as many names without a user: clients choose the names that they try.
const REMEMBERED_MAX: usize = 10_000;

/// A name without a user is asked for again after this at the latest, so that a new user need not
/// wait long.
const NEGATIVE_MAX: Duration = Duration::from_secs(2);

/// An answer that a password did not fit is used on for this long: wrong passwords cost the
/// servers no more than a query per user in this time.
const DOUBT_MIN: Duration = Duration::from_secs(1);

/// What is remembered of a name.
struct Entry<T> {
    value: T,
    learned: Instant,
    until: Instant,
}

/// Answers with the time until which they are used. Users and names without a user are kept
/// apart, so that tried-out names do not push out users.
pub(crate) struct Memory<T> {
    users: Remembered<T>,
    nobodies: Remembered<()>,
    remember: Duration,
}

impl<T: Clone> Memory<T> {
    pub(crate) fn new(remember: Duration) -> Memory<T> {
        Memory { users: Mutex::default(), nobodies: Mutex::default(), remember }
    }

    /// `None`: not remembered. `Some(None)`: there is no such user.
    pub(crate) fn recall(&self, user: &str, now: Instant) -> Option<Option<T>> {
        if let Some(found) = fresh(&self.users, user, now) {
            return Some(Some(found));
        }
        fresh(&self.nobodies, user, now).map(|()| None)
    }

    pub(crate) fn remember(&self, user: &str, found: Option<T>, now: Instant) {
        match found {
            Some(found) => keep(&self.users, user, found, now, self.remember),
            None => keep(&self.nobodies, user, (), now, (self.remember / 10).min(NEGATIVE_MAX)),
        }
    }

    /// What was found last, even if it is not used any more.
    pub(crate) fn last(&self, user: &str) -> Option<T> {
        lock(&self.users).get(user).map(|entry| entry.value.clone())
    }

    /// A password did not fit: the answer is not used any more, unless it is very fresh.
    pub(crate) fn doubt(&self, user: &str, now: Instant) {
        let mut users = lock(&self.users);
        if let Some(entry) = users.get(user)
            && now.duration_since(entry.learned) >= DOUBT_MIN
        {
            users.remove(user);
        }
    }
}

type Remembered<T> = Mutex<HashMap<String, Entry<T>>>;

/// Nothing is done under the lock that could leave the map half changed.
fn lock<T>(map: &Remembered<T>) -> MutexGuard<'_, HashMap<String, Entry<T>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fresh<T: Clone>(map: &Remembered<T>, user: &str, now: Instant) -> Option<T> {
    lock(map).get(user).filter(|entry| now < entry.until).map(|entry| entry.value.clone())
}

fn keep<T>(map: &Remembered<T>, user: &str, value: T, now: Instant, time: Duration) {
    let mut map = lock(map);
    if map.len() >= REMEMBERED_MAX {
        map.retain(|_, entry| now < entry.until);
    }
    // Still full: somebody has to be asked for again.
    if map.len() >= REMEMBERED_MAX
        && let Some(any) = map.keys().next().cloned()
    {
        map.remove(&any);
    }
    let until = now.checked_add(time).unwrap_or(now);
    map.insert(user.to_owned(), Entry { value, learned: now, until });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Option<&'static str> {
        Some("secret")
    }

    #[test]
    fn answers_are_used_until_their_time_is_over() {
        let memory = Memory::new(Duration::from_secs(60));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(memory.recall("a", start).is_none());
        memory.remember("a", user(), start);
        memory.remember("b", None, start);
        assert!(matches!(memory.recall("a", after(59)), Some(Some(_))));
        assert!(memory.recall("a", after(60)).is_none());
        assert!(matches!(memory.recall("b", after(1)), Some(None)));
        assert!(memory.recall("b", after(2)).is_none(), "who is new need not wait a minute");
    }

    #[test]
    fn a_doubted_answer_is_asked_for_again_but_not_at_every_wrong_password() {
        let memory = Memory::new(Duration::from_secs(60));
        let start = Instant::now();
        memory.remember("a", user(), start);
        memory.doubt("a", start + DOUBT_MIN / 2);
        assert!(memory.recall("a", start + DOUBT_MIN).is_some());
        memory.doubt("a", start + DOUBT_MIN);
        assert!(memory.recall("a", start + DOUBT_MIN).is_none());
    }

    #[test]
    fn tried_out_names_push_out_no_user_and_stay_within_their_bound() {
        let memory = Memory::new(Duration::from_secs(60));
        let now = Instant::now();
        memory.remember("real", user(), now);
        for name in 0..REMEMBERED_MAX + 100 {
            memory.remember(&name.to_string(), None, now);
        }
        assert!(memory.recall("real", now).is_some());
        assert_eq!(memory.nobodies.lock().unwrap().len(), REMEMBERED_MAX);
    }
}
