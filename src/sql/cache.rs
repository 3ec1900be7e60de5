//! The classes of the texts that one worker saw last.
//!
//! Bounded in entries and in bytes, evicted by the clock algorithm. A hit needs the same hash
//! *and* the same digest, byte by byte: clients choose their SQL, and a collision must not let
//! a write pass for a read. The hash is seeded per cache. No allocation on a hit.

use super::dialect::Dialect;
use super::statement::Statement;
use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Longer digests are classified each time: parsing costs little beside moving them.
const DIGEST_BYTES_MAX: usize = 16 << 10;
/// Digests of one cache, on average per entry: bounds the memory to the entries times this.
const DIGEST_BYTES_MEAN: usize = 1 << 10;

/// What else than the text decides the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Circumstances {
    /// [`super::Catalog::version`].
    pub catalog: u64,
    pub dialect: Dialect,
}

struct Slot {
    hash: u64,
    digest: Box<[u8]>,
    circumstances: Circumstances,
    statement: Arc<Statement>,
    /// Used since the clock's hand came by.
    used: bool,
}

/// Per worker: not shared, not locked.
pub struct Cache {
    seed: RandomState,
    places: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
    entries_max: usize,
}

/// The keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Cache {
    /// A cache of at most so many texts; 0 remembers nothing.
    pub fn new(entries_max: usize) -> Cache {
        Cache {
            seed: RandomState::default(),
            places: HashMap::default(),
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
            entries_max,
        }
    }

    pub fn hash(&self, digest: &[u8], circumstances: Circumstances) -> u64 {
        self.seed.hash_one((digest, circumstances))
    }

    pub fn get(
        &mut self,
        hash: u64,
        digest: &[u8],
        circumstances: Circumstances,
    ) -> Option<&Arc<Statement>> {
        let place = *self.places.get(&hash)?;
        let slot = self.slots.get_mut(place)?;
        if slot.circumstances != circumstances || *slot.digest != *digest {
            return None;
        }
        slot.used = true;
        Some(&slot.statement)
    }

    /// Remembers a class; another text of the same hash is replaced.
    pub fn insert(
        &mut self,
        hash: u64,
        digest: &[u8],
        circumstances: Circumstances,
        statement: Arc<Statement>,
    ) {
        if self.entries_max == 0 || digest.len() > DIGEST_BYTES_MAX {
            return;
        }
        if let Some(place) = self.places.get(&hash).copied() {
            self.remove(place);
        }
        let bytes_max = self.entries_max.saturating_mul(DIGEST_BYTES_MEAN).max(DIGEST_BYTES_MAX);
        while self.slots.len() >= self.entries_max || self.bytes + digest.len() > bytes_max {
            self.evict();
        }
        self.bytes += digest.len();
        self.places.insert(hash, self.slots.len());
        let digest = Box::from(digest);
        self.slots.push(Slot { hash, digest, circumstances, statement, used: false });
    }

    /// Removes the next text that was not used since the hand came by.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            match self.slots.get_mut(self.hand) {
                Some(slot) if slot.used => {
                    slot.used = false;
                    self.hand += 1;
                }
                Some(_) => return self.remove(self.hand),
                None => return,
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let slot = self.slots.swap_remove(place);
        self.bytes -= slot.digest.len();
        self.places.remove(&slot.hash);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.hash, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Catalog;
    use super::super::classify::classify;
    use super::super::mysql::{Engine, Reading};
    use super::*;

    const NOW: Circumstances = Circumstances { catalog: 1, dialect: Dialect::STANDARD };

    fn statement(text: &str) -> Arc<Statement> {
        Arc::new(classify(text.as_bytes(), Dialect::STANDARD, &Catalog::empty(), 1 << 20))
    }

    fn put(cache: &mut Cache, digest: &[u8], statement: &Arc<Statement>) {
        let hash = cache.hash(digest, NOW);
        cache.insert(hash, digest, NOW, Arc::clone(statement));
    }

    fn has(cache: &mut Cache, digest: &[u8]) -> bool {
        let hash = cache.hash(digest, NOW);
        cache.get(hash, digest, NOW).is_some()
    }

    #[test]
    fn a_hit_needs_the_same_bytes_and_circumstances() {
        let mut cache = Cache::new(4);
        let read = statement("select 1");
        cache.insert(7, b"a", NOW, Arc::clone(&read));
        assert!(cache.get(7, b"a", NOW).is_some());
        assert!(cache.get(7, b"b", NOW).is_none(), "another text of the same hash");
        assert!(cache.get(7, b"a", Circumstances { catalog: 2, ..NOW }).is_none());
        let dialect = Dialect::Postgres { standard_strings: false };
        assert!(cache.get(7, b"a", Circumstances { dialect, ..NOW }).is_none());
        let dialect = Dialect::MySql(Reading::new(Engine::MySql));
        assert!(cache.get(7, b"a", Circumstances { dialect, ..NOW }).is_none());
        cache.insert(7, b"b", NOW, read);
        assert!(cache.get(7, b"a", NOW).is_none(), "replaced");
        assert_eq!(cache.slots.len(), 1);
    }

    #[test]
    fn entries_and_bytes_are_bounded_and_what_is_used_stays() {
        let mut cache = Cache::new(100);
        let read = statement("select 1");
        put(&mut cache, b"kept", &read);
        for number in 0..10_000u32 {
            put(&mut cache, &number.to_le_bytes(), &read);
            assert!(has(&mut cache, b"kept"), "after {number}");
        }
        assert_eq!(cache.slots.len(), 100);
        assert_eq!(cache.places.len(), 100);
        for number in 0..100u32 {
            let mut digest = vec![b'x'; 10 << 10];
            digest.extend(number.to_le_bytes());
            put(&mut cache, &digest, &read);
        }
        assert!(cache.bytes <= 100 * DIGEST_BYTES_MEAN, "{}", cache.bytes);
        assert_eq!(cache.bytes, cache.slots.iter().map(|slot| slot.digest.len()).sum::<usize>());
        put(&mut cache, &vec![b'y'; DIGEST_BYTES_MAX + 1], &read);
        assert!(!has(&mut cache, &vec![b'y'; DIGEST_BYTES_MAX + 1]));
    }
}
