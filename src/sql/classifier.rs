//! The classifier of one worker: the texts of now, digest, cache, and on a miss the pure
//! [`classify`].

use super::cache::{Cache, Circumstances};
use super::catalog::Catalog;
use super::classify::classify;
use super::dialect::Dialect;
use super::recent::Recent;
use super::scan::{self, Room};
use super::statement::Statement;
use std::sync::Arc;

/// A buffer that a large text left behind is given back above this.
const DIGEST_BUFFER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Texts remembered.
    pub cache_max: usize,
    /// Longer texts are not parsed.
    pub parse_bytes_max: usize,
}

/// One per worker; not shared.
pub struct Classifier {
    limits: Limits,
    recent: Recent,
    cache: Cache,
    digest: Room,
    hits: u64,
    misses: u64,
}

impl Classifier {
    pub fn new(limits: Limits) -> Classifier {
        let cache = Cache::new(limits.cache_max);
        let recent = Recent::new();
        Classifier { limits, recent, cache, digest: Room::default(), hits: 0, misses: 0 }
    }

    /// What the text does, read by the rules that hold in the session now.
    pub fn classify(&mut self, text: &[u8], dialect: Dialect, catalog: &Catalog) -> Arc<Statement> {
        if text.len() > self.limits.parse_bytes_max {
            self.misses += 1;
            return Arc::new(classify(text, dialect, catalog, self.limits.parse_bytes_max));
        }
        let circumstances = Circumstances { catalog: catalog.version, dialect };
        if let Some(statement) = self.recent.find(text, circumstances) {
            self.hits += 1;
            return Arc::clone(statement);
        }
        let digest = scan::digest(text, dialect, &mut self.digest);
        let hash = self.cache.hash(digest, circumstances);
        if let Some(statement) = self.cache.get(hash, digest, circumstances) {
            self.hits += 1;
            let statement = Arc::clone(statement);
            if let Some(literals) = self.digest.left_out() {
                self.recent.keep(text, literals, circumstances, &statement);
            }
            return statement;
        }
        self.misses += 1;
        let statement = Arc::new(classify(text, dialect, catalog, self.limits.parse_bytes_max));
        self.cache.insert(hash, digest, circumstances, Arc::clone(&statement));
        if self.digest.size() > DIGEST_BUFFER_BYTES_MAX {
            self.digest = Room::default();
        }
        statement
    }

    /// Texts found in the cache and not, since the start.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}
