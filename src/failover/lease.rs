//! Which of several proxies may change primaries: the one that has the cluster's lease.
//!
//! The lease is kept alive three times within its life. A proxy counts it as lost a fifth of its
//! life before etcd does, so that two clocks that run differently never make two holders.

use super::etcd::Etcd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const KEEPS_PER_LIFE: u32 = 3;
const MARGIN_PARTS: u32 = 5;

/// Whether this proxy has the lease, as others see it. The task that keeps it ends when the last
/// of these is dropped; the lease then runs out.
#[derive(Debug)]
pub struct Lease {
    start: Instant,
    /// In milliseconds since `start`; 0: not held.
    until: AtomicU64,
    /// Who has it, or what is wrong, for people.
    remark: Mutex<Arc<str>>,
}

/// What is held, and where.
#[derive(Debug, Clone)]
pub struct Terms {
    pub etcd: Etcd,
    pub key: String,
    /// This proxy's name, for the others.
    pub name: String,
    pub life: Duration,
}

impl Lease {
    /// Begins to ask for the lease, on the current runtime.
    pub fn spawn(terms: Terms) -> Arc<Lease> {
        let lease = Arc::new(Lease {
            start: Instant::now(),
            until: AtomicU64::new(0),
            remark: Mutex::new("etcd has not answered yet".into()),
        });
        tokio::spawn(keep(Arc::downgrade(&lease), terms));
        lease
    }

    /// Whether this proxy may act at this moment.
    ///
    /// # Errors
    /// Who may, or why nobody knows.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let until = self.start + Duration::from_millis(self.until.load(Ordering::Acquire));
        if now < until {
            return Ok(());
        }
        let remark = self.remark.lock().unwrap_or_else(PoisonError::into_inner);
        Err(format!("this proxy does not have the lease: {remark}"))
    }

    fn held(&self, until: Instant) {
        let until = until.saturating_duration_since(self.start).as_millis();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn not_held(&self, remark: &str) {
        *self.remark.lock().unwrap_or_else(PoisonError::into_inner) = remark.into();
    }
}

/// Takes the lease when nobody has it, and keeps it.
async fn keep(lease: std::sync::Weak<Lease>, terms: Terms) {
    let valid = terms.life - terms.life / MARGIN_PARTS;
    let mut tick = tokio::time::interval(terms.life / KEEPS_PER_LIFE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut id = None;
    loop {
        tick.tick().await;
        if lease.strong_count() == 0 {
            return;
        }
        let asked = Instant::now();
        let outcome = attempt(&terms, &mut id).await;
        let Some(lease) = lease.upgrade() else { return };
        match outcome {
            Ok(()) => {
                lease.held(asked + valid);
                lease.not_held("it ran out");
            }
            Err(error) => lease.not_held(&error),
        }
    }
}

/// One round; an error says why the lease is not held, or not longer than it was.
async fn attempt(terms: &Terms, id: &mut Option<String>) -> Result<(), String> {
    let kept = match id.take() {
        Some(lease) if terms.etcd.keep(&lease).await? => Some(lease),
        _ => None,
    };
    let lease = match kept {
        Some(lease) => lease,
        None => terms.etcd.grant(terms.life).await?,
    };
    let taken = terms.etcd.take(&terms.key, &terms.name, &lease).await;
    *id = Some(lease);
    match taken? {
        Err(holder) if holder != terms.name => Err(format!("{holder} has it")),
        _ => Ok(()),
    }
}
