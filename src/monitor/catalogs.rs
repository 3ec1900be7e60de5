//! One catalog per database that somebody uses, kept fresh in the background.
//!
//! ```text
//!  get(database) ──▶ Slot { current } ◀── task per database: load, wait, load …
//!  ddl_ran(database) ──▶ current = nothing but built-ins; the task loads at once
//! ```
//! How a catalog is read from a server is the [`Loader`]'s business (`catalog.rs`). After DDL no
//! load that had begun before it is believed, and until one that began after it has ended, reads
//! of user tables go to the primary.

use crate::metrics::control::ClusterEvents;
use crate::topology::{Epoch, Topology};
use arc_swap::{ArcSwap, Guard};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// Databases with a catalog at once; a proxy for more gives the others none. A catalog of a
/// thousand tables takes about half a megabyte.
const DATABASES_MAX: usize = 1000;
/// Loads at once per cluster: they are heavy for the primary.
const LOADS_MAX: usize = 2;
/// A failed load is repeated after this, then after twice as long, up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// A database is asked this often whether its catalog has changed behind the proxy's back.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// What is found changed, or does not know a name, is loaded again no sooner than this after the
/// last load, and than so many times as long as that took: temporary tables change the catalog all
/// the time, and clients choose the names.
const RELOAD_GAP: Duration = Duration::from_secs(1);
const RELOAD_GAP_LOADS: u32 = 50;

/// Reads catalogs from a server.
pub trait Loader: Send + Sync + 'static {
    type Catalog: Send + Sync + 'static;
    /// What is kept of a database from one call to the next, as a connection.
    type Link: Default + Send + 'static;

    /// The catalog of a database of which nothing is known.
    fn unknown(&self) -> Self::Catalog;

    /// What is left of a catalog after a change until it is loaded again.
    fn in_doubt(&self, before: &Self::Catalog) -> Self::Catalog;

    /// The error is a sentence for people. Bounded in time.
    fn load(
        &self,
        database: Arc<str>,
        link: &mut Self::Link,
    ) -> impl Future<Output = Result<Self::Catalog, String>> + Send;

    /// A number that is another one some time after the catalog changed. Cheap; bounded in time.
    fn fingerprint(
        &self,
        database: Arc<str>,
        link: &mut Self::Link,
    ) -> impl Future<Output = Result<i64, String>> + Send;
}

/// A replica that has not applied a change of the catalog after so long is out of the read set in
/// any sensible configuration.
const REPLICA_APPLIES_MS: u64 = 10_000;

/// The catalogs of one cluster. Shared by all workers.
pub struct Cache<L: Loader> {
    shared: Arc<Shared<L>>,
    /// The control plane's: loads run there, whoever asks.
    runtime: Handle,
}

/// One database's catalog, to be kept by whoever classifies statements for it.
pub struct Slot<C> {
    current: ArcSwap<C>,
    /// Grows with each DDL.
    generation: AtomicU64,
    /// Grows with each change that may make plans unusable, also one around the proxy.
    plans: AtomicU64,
    since: Instant,
    /// When `plans` grew last, in milliseconds after `since`.
    plans_grew_ms: AtomicU64,
    wanted: Notify,
    /// Less urgent than `wanted`.
    asked: Notify,
}

/// By the database's name.
type Slots<C> = HashMap<Arc<str>, Arc<Slot<C>>>;

struct Shared<L: Loader> {
    loader: L,
    interval: Duration,
    unused_kept: Duration,
    slots: Mutex<Slots<L::Catalog>>,
    loads: Semaphore,
    counts: Counts,
    events: Option<ClusterEvents>,
}

/// Loads since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub loaded: AtomicU64,
    pub failed: AtomicU64,
}

impl<L: Loader> Cache<L> {
    /// `interval`: a catalog is loaded again this often. `unused_kept`: that of a database which
    /// nobody uses is kept for this long, so that the first reads of whoever comes next need not go
    /// to the primary. `runtime` must live as long as the program.
    pub fn new(loader: L, interval: Duration, unused_kept: Duration, runtime: Handle) -> Cache<L> {
        let shared = Shared {
            loader,
            interval,
            unused_kept,
            slots: Mutex::default(),
            loads: Semaphore::new(LOADS_MAX),
            counts: Counts::default(),
            events: None,
        };
        Cache { shared: Arc::new(shared), runtime }
    }

    /// Counts loads there as well. To be called before anybody uses it.
    pub fn counted(mut self, events: ClusterEvents) -> Cache<L> {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.events = Some(events);
        }
        self
    }

    /// The database's catalog; the first call begins to load it. Takes a lock: call it once per
    /// session, not per statement.
    pub fn get(&self, database: &str) -> Arc<Slot<L::Catalog>> {
        let mut slots = self.shared.lock();
        if let Some(slot) = slots.get(database) {
            return slot.clone();
        }
        let slot = Arc::new(Slot::new(self.shared.loader.unknown()));
        if slots.len() >= DATABASES_MAX {
            slots.retain(|_, slot| !is_unused(slot));
        }
        if slots.len() >= DATABASES_MAX {
            tracing::warn!(database, "no catalog: {DATABASES_MAX} databases have one already");
            return slot;
        }
        let database: Arc<str> = Arc::from(database);
        slots.insert(database.clone(), slot.clone());
        let shared = self.shared.clone();
        self.runtime.spawn(shared.keep(database, slot.clone()));
        slot
    }

    /// Something that may have changed the catalog has run in the database. Inside a transaction
    /// call it again at the commit: only then can a load see it.
    pub fn ddl_ran(&self, database: &str) {
        let slot = self.shared.lock().get(database).cloned();
        if let Some(slot) = slot {
            slot.invalidate(|before| self.shared.loader.in_doubt(before));
        }
    }

    /// All catalogs are in doubt: another node is primary, and DDL that it never got is gone.
    pub fn all_changed(&self) {
        let slots: Vec<_> = self.shared.lock().values().cloned().collect();
        for slot in slots {
            slot.invalidate(|before| self.shared.loader.in_doubt(before));
        }
    }

    /// Calls [`Cache::all_changed`] for each change of the primary, for as long as it runs.
    pub async fn follow(&self, topology: &Topology) {
        let mut changed = topology.subscribe();
        let mut epoch = topology.load().epoch;
        while changed.changed().await.is_ok() {
            let now = topology.load().epoch;
            if now != epoch && epoch != Epoch::default() {
                self.all_changed();
            } else if now != epoch {
                // What could not be loaded for want of a primary; nothing has changed.
                self.shared.lock().values().for_each(|slot| slot.wanted.notify_one());
            }
            epoch = now;
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl<L: Loader> fmt::Debug for Cache<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("databases", &self.shared.lock().len())
            .field("counts", &self.shared.counts)
            .finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for Slot<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl<C> Slot<C> {
    fn new(catalog: C) -> Slot<C> {
        Slot {
            current: ArcSwap::from_pointee(catalog),
            generation: AtomicU64::new(0),
            plans: AtomicU64::new(1),
            since: Instant::now(),
            plans_grew_ms: AtomicU64::new(0),
            wanted: Notify::new(),
            asked: Notify::new(),
        }
    }

    /// A statement names something that the catalog does not know: perhaps it is new. Loads it
    /// again soon, but however often this is called not all the time: clients choose the names.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// The catalog of this moment; cheap enough for every statement, not to be held across an
    /// await.
    pub fn load(&self) -> Guard<Arc<C>> {
        self.current.load()
    }

    pub fn load_full(&self) -> Arc<C> {
        self.current.load_full()
    }

    /// Another number than before if servers may refuse plans that they made before.
    pub fn plans(&self) -> u64 {
        self.plans.load(Ordering::Relaxed)
    }

    /// The number up to which what a replica says of a result holds: it may not have applied what
    /// has changed just now.
    pub fn plans_on_replica(&self) -> u64 {
        let ago = self.age_ms().saturating_sub(self.plans_grew_ms.load(Ordering::Relaxed));
        self.plans().saturating_sub(u64::from(ago < REPLICA_APPLIES_MS))
    }

    /// A server refused a plan that it had made earlier.
    pub fn plans_changed(&self) {
        self.plans_grew_ms.store(self.age_ms(), Ordering::Relaxed);
        self.plans.fetch_add(1, Ordering::Relaxed);
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn invalidate(&self, doubt: impl FnOnce(&C) -> C) {
        self.plans_changed();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let doubted = doubt(&self.current.load());
        self.current.store(Arc::new(doubted));
        self.wanted.notify_one();
    }

    /// Publishes what was loaded, unless DDL ran since the load began.
    fn replace(&self, catalog: C, generation: u64) -> bool {
        let next = Arc::new(catalog);
        let before = self.current.load();
        // The generation is looked at after `before` was: a DDL between here and the swap has
        // stored another catalog, and then the swap does nothing.
        if self.generation.load(Ordering::SeqCst) != generation {
            return false;
        }
        let previous = self.current.compare_and_swap(&before, next);
        Arc::ptr_eq(&previous, &before)
    }
}

impl<L: Loader> Shared<L> {
    fn lock(&self) -> MutexGuard<'_, Slots<L::Catalog>> {
        // A map is whole after every operation.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads one database's catalog again and again, until nobody uses it.
    async fn keep(self: Arc<Self>, database: Arc<str>, slot: Arc<Slot<L::Catalog>>) {
        let mut retry = RETRY_FIRST;
        let mut failing = false;
        let mut unused_since: Option<Instant> = None;
        // Of a database that is not there is nothing to keep.
        let mut kept = Duration::ZERO;
        let mut link = L::Link::default();
        loop {
            // A wish from before this load is fulfilled by it.
            for wish in [&slot.wanted, &slot.asked] {
                let _ = tokio::time::timeout(Duration::ZERO, wish.notified()).await;
            }
            let mark = self.loader.fingerprint(database.clone(), &mut link).await.ok();
            let began = Instant::now();
            let again = match self.load(&database, &slot, &mut link).await {
                Ok(true) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(%database, "the catalog is loaded again");
                    }
                    retry = RETRY_FIRST;
                    kept = self.unused_kept;
                    self.interval
                }
                // DDL ran meanwhile, and more may follow: the primary is not to spend all of its
                // time on loads that are overtaken.
                Ok(false) => {
                    tokio::time::sleep((Instant::now() - began).min(RETRY_LONGEST)).await;
                    continue;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%database, %error, "the catalog cannot be loaded; reads of \
                            what it does not know go to the primary");
                    }
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_LONGEST);
                    wait
                }
            };
            let now = Instant::now();
            let forgotten = unused_since.map_or(now + again, |since| since + kept);
            let not_before = now + RELOAD_GAP.max((now - began) * RELOAD_GAP_LOADS);
            tokio::select! {
                () = slot.wanted.notified() => {}
                () = tokio::time::sleep_until(forgotten.min(now + again)) => {}
                () = self.changed(&database, &mut link, mark, not_before) => slot.plans_changed(),
                () = async {
                    tokio::time::sleep_until(not_before).await;
                    slot.asked.notified().await;
                } => {}
            }
            let mut slots = self.lock();
            // Another one may have been made in its place.
            if !slots.get(&database).is_some_and(|ours| Arc::ptr_eq(ours, &slot)) {
                return;
            }
            unused_since = is_unused(&slot).then(|| unused_since.unwrap_or_else(Instant::now));
            if unused_since.is_some_and(|since| since.elapsed() >= kept) {
                slots.remove(&database);
                return;
            }
        }
    }

    /// Returns when somebody has changed the catalog since it had this mark. What cannot be asked
    /// waits for the next load.
    async fn changed(
        &self,
        database: &Arc<str>,
        link: &mut L::Link,
        mark: Option<i64>,
        not_before: Instant,
    ) {
        tokio::time::sleep_until(not_before).await;
        loop {
            let seen = self.loader.fingerprint(database.clone(), link).await.ok();
            if seen.is_some() && seen != mark {
                return;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// `Ok(false)`: the load was overtaken by DDL and must be repeated.
    async fn load(
        &self,
        database: &Arc<str>,
        slot: &Slot<L::Catalog>,
        link: &mut L::Link,
    ) -> Result<bool, String> {
        // Never closed.
        let _turn = self.loads.acquire().await.map_err(|error| error.to_string())?;
        let generation = slot.generation.load(Ordering::SeqCst);
        let loaded = self.loader.load(database.clone(), link).await;
        self.count(loaded.is_ok());
        Ok(slot.replace(loaded?, generation))
    }

    fn count(&self, loaded: bool) {
        let count = if loaded { &self.counts.loaded } else { &self.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
        match &self.events {
            Some(events) if loaded => events.catalog_loaded(SystemTime::now()),
            Some(events) => events.catalog_failed(),
            None => {}
        }
    }
}

/// Nobody can take a slot while the map is locked, so one that only the map and its task have is
/// not used.
fn is_unused<C>(slot: &Arc<Slot<C>>) -> bool {
    const MAP_AND_TASK: usize = 2;
    Arc::strong_count(slot) <= MAP_AND_TASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::monitor::first_snapshot;
    use crate::topology::Snapshot;
    use std::sync::atomic::{AtomicBool, AtomicI64};
    use tokio::sync::Semaphore;

    const UNUSED_KEPT: Duration = Duration::from_secs(600);
    const INTERVAL: Duration = Duration::from_secs(60);

    /// A catalog is the number of its load; 0 is the unknown one.
    #[derive(Default)]
    struct Fake {
        started: AtomicU64,
        fails: AtomicBool,
        changes: AtomicI64,
        /// Loads end when a permit is given.
        gate: Option<Semaphore>,
    }

    impl Loader for Arc<Fake> {
        type Catalog = u64;
        type Link = ();

        fn unknown(&self) -> u64 {
            0
        }

        fn in_doubt(&self, _before: &u64) -> u64 {
            0
        }

        async fn load(&self, _database: Arc<str>, _link: &mut ()) -> Result<u64, String> {
            let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(gate) = &self.gate {
                gate.acquire().await.map_err(|error| error.to_string())?.forget();
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err("no primary".into());
            }
            Ok(number)
        }

        async fn fingerprint(&self, _database: Arc<str>, _link: &mut ()) -> Result<i64, String> {
            if self.fails.load(Ordering::SeqCst) {
                return Err("no primary".into());
            }
            Ok(self.changes.load(Ordering::SeqCst))
        }
    }

    fn catalogs(fake: &Arc<Fake>) -> Cache<Arc<Fake>> {
        Cache::new(fake.clone(), INTERVAL, UNUSED_KEPT, Handle::current())
    }

    /// Time is paused: this lets all tasks run until they wait.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn gated() -> Arc<Fake> {
        Arc::new(Fake { gate: Some(Semaphore::new(0)), ..Fake::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn loads_on_first_use_and_again_after_the_interval() {
        let fake = Arc::new(Fake::default());
        let catalogs = catalogs(&fake);
        settle().await;
        assert_eq!(fake.started.load(Ordering::SeqCst), 0);
        let slot = catalogs.get("app");
        assert_eq!(**slot.load(), 0);
        settle().await;
        assert_eq!(**slot.load(), 1);
        assert!(Arc::ptr_eq(&slot, &catalogs.get("app")));
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(**slot.load(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn ddl_distrusts_at_once_and_until_a_load_that_began_after_it() {
        let fake = gated();
        let gate = fake.gate.as_ref().unwrap();
        let catalogs = catalogs(&fake);
        let slot = catalogs.get("app");
        gate.add_permits(1);
        settle().await;
        assert_eq!(**slot.load(), 1);
        catalogs.ddl_ran("app");
        assert_eq!(**slot.load(), 0, "at once");
        settle().await;
        assert_eq!(fake.started.load(Ordering::SeqCst), 2, "the second load has begun");
        catalogs.ddl_ran("app");
        gate.add_permits(1);
        settle().await;
        assert_eq!(**slot.load(), 0, "the second load may have missed the second DDL");
        gate.add_permits(1);
        settle().await;
        assert_eq!(**slot.load(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_load_is_repeated_later_and_later_and_keeps_what_is_known() {
        let fake = Arc::new(Fake::default());
        let catalogs = catalogs(&fake);
        let slot = catalogs.get("app");
        settle().await;
        fake.fails.store(true, Ordering::SeqCst);
        tokio::time::sleep(INTERVAL + Duration::from_secs(3)).await;
        assert_eq!(**slot.load(), 1, "old knowledge is better than none");
        // At 0, 0.5, 1.5 s after the interval; not at 3.5 yet.
        assert_eq!(catalogs.counts().failed.load(Ordering::SeqCst), 3);
        fake.fails.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(**slot.load(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_behind_the_proxys_back_is_loaded_soon() {
        let fake = Arc::new(Fake::default());
        let catalogs = catalogs(&fake);
        let slot = catalogs.get("app");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(**slot.load(), 1);
        fake.changes.store(1, Ordering::SeqCst);
        tokio::time::sleep(CHECK_INTERVAL).await;
        settle().await;
        assert_eq!(**slot.load(), 2);
        // One that changes all the time is not loaded all the time.
        for change in 2..12 {
            fake.changes.store(change, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let loads = fake.started.load(Ordering::SeqCst);
        assert!((7..=13).contains(&loads), "{loads}");
        // Neither is one that is asked for a name that nobody has made.
        for _ in 0..100 {
            slot.ask();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let asked = fake.started.load(Ordering::SeqCst) - loads;
        assert!((8..=12).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_primary_is_asked_at_once() {
        let fake = Arc::new(Fake::default());
        fake.fails.store(true, Ordering::SeqCst);
        let catalogs = Arc::new(catalogs(&fake));
        let nothing = first_snapshot(&fixture::cluster(vec![fixture::node("a")]));
        let (topology, _evidence) = Topology::new(nothing.clone());
        let (follower, followed) = (catalogs.clone(), topology.clone());
        tokio::spawn(async move { follower.follow(&followed).await });
        let slot = catalogs.get("app");
        settle().await;
        assert_eq!(catalogs.counts().failed.load(Ordering::SeqCst), 1, "there is no primary");
        fake.fails.store(false, Ordering::SeqCst);
        topology.publish(Snapshot { epoch: Epoch(1), ..nothing.clone() });
        settle().await;
        assert_eq!(**slot.load(), 2, "sooner than the load is repeated");
        let plans = slot.plans();
        topology.publish(Snapshot { epoch: Epoch(2), ..nothing });
        settle().await;
        assert!(**slot.load() == 3 && slot.plans() > plans, "the next one may have another");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_forgotten() {
        let fake = Arc::new(Fake::default());
        let catalogs = catalogs(&fake);
        drop(catalogs.get("app"));
        tokio::time::sleep(INTERVAL * 3).await;
        let slot = catalogs.get("app");
        assert!(**slot.load() > 0, "whoever comes back finds it");
        tokio::time::sleep(UNUSED_KEPT * 2).await;
        assert!(**catalogs.get("app").load() > 0, "it was used all the time");
        drop(slot);
        tokio::time::sleep(UNUSED_KEPT + INTERVAL * 3).await;
        assert!(catalogs.shared.lock().is_empty());
        let slot = catalogs.get("app");
        assert_eq!(**slot.load(), 0);
        settle().await;
        assert!(**slot.load() > 0);
        fake.fails.store(true, Ordering::SeqCst);
        drop(catalogs.get("nowhere"));
        tokio::time::sleep(RETRY_FIRST * 2).await;
        assert!(!catalogs.shared.lock().contains_key("nowhere"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_makes_room() {
        let fake = Arc::new(Fake::default());
        let catalogs = catalogs(&fake);
        let mut slots: Vec<_> = (0..DATABASES_MAX).map(|n| catalogs.get(&n.to_string())).collect();
        settle().await;
        let gone = slots.pop().unwrap();
        let name = slots.len().to_string();
        drop(gone);
        let another = catalogs.get("another");
        assert!(!catalogs.shared.lock().contains_key(&*name));
        settle().await;
        assert!(**another.load() > 0);
        drop(another);
        let again = catalogs.get(&name);
        // The task of the forgotten one ends and leaves the new one where it is.
        tokio::time::sleep(INTERVAL * 3).await;
        assert!(Arc::ptr_eq(&again, &catalogs.get(&name)));
    }

    #[tokio::test(start_paused = true)]
    async fn databases_and_loads_at_once_are_bounded() {
        let fake = gated();
        let catalogs = catalogs(&fake);
        let slots: Vec<_> = (0..DATABASES_MAX + 1).map(|n| catalogs.get(&n.to_string())).collect();
        settle().await;
        assert_eq!(fake.started.load(Ordering::SeqCst), LOADS_MAX as u64);
        fake.gate.as_ref().unwrap().add_permits(DATABASES_MAX * 2);
        settle().await;
        let known = slots.iter().filter(|slot| **slot.load() > 0).count();
        assert_eq!(known, DATABASES_MAX);
    }
}
