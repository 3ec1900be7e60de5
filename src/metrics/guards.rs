//! Gauges that cannot be forgotten: what begins with a guard ends when the guard is dropped, also
//! when a task is cancelled or an error returns early.

use super::labels::{GateOutcome, PINS, pin_index};
use super::pools::PoolStats;
use super::worker::WorkerStats;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A connected client.
#[derive(Debug)]
pub struct ClientGuard {
    stats: Rc<WorkerStats>,
}

impl ClientGuard {
    pub fn new(stats: &Rc<WorkerStats>) -> ClientGuard {
        stats.client_opened();
        ClientGuard { stats: Rc::clone(stats) }
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.stats.client_closed();
    }
}

/// A request that waits at the gate. Dropped without [`GateGuard::leave`] it counts as abandoned.
#[derive(Debug)]
pub struct GateGuard {
    stats: Rc<WorkerStats>,
    cluster: usize,
    since: Instant,
    outcome: GateOutcome,
}

impl GateGuard {
    pub fn enter(stats: &Rc<WorkerStats>, cluster: usize) -> GateGuard {
        stats.gate_entered(cluster);
        let outcome = GateOutcome::Abandoned;
        GateGuard { stats: Rc::clone(stats), cluster, since: Instant::now(), outcome }
    }

    pub fn leave(mut self, outcome: GateOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.stats.gate_left(self.cluster, self.since.elapsed(), self.outcome);
    }
}

/// The pins of one session.
#[derive(Debug)]
pub struct PinGuard {
    stats: Rc<WorkerStats>,
    /// A bit for each of [`PINS`].
    held: u16,
    /// When each of them began; most sessions never have one.
    since: Option<Box<[Instant; PINS.len()]>>,
}

const _: () = assert!(PINS.len() <= u16::BITS as usize, "a pin has no bit");

impl PinGuard {
    pub fn new(stats: &Rc<WorkerStats>) -> PinGuard {
        PinGuard { stats: Rc::clone(stats), held: 0, since: None }
    }

    /// Tells which pins the session has now (`Pin::as_str()` of each); counts the difference to
    /// what was told before.
    pub fn hold<'a>(&mut self, pins: impl IntoIterator<Item = &'a str>) {
        let held = pins.into_iter().fold(0, |held, pin| held | 1 << pin_index(pin));
        let changed = held ^ self.held;
        if changed == 0 {
            return;
        }
        let now = Instant::now();
        let since = self.since.get_or_insert_with(|| Box::new([now; PINS.len()]));
        for (index, pin) in PINS.iter().enumerate() {
            let bit = 1 << index;
            if changed & held & bit != 0 {
                self.stats.pinned(pin);
                since[index] = now;
            } else if changed & bit != 0 {
                self.stats.unpinned(pin, now - since[index]);
            }
        }
        self.held = held;
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        self.hold([]);
    }
}

/// A session that waits for a connection of a pool.
#[derive(Debug)]
pub struct WaitGuard {
    stats: Arc<PoolStats>,
    since: Instant,
}

impl WaitGuard {
    pub fn new(stats: &Arc<PoolStats>) -> WaitGuard {
        stats.wait_started();
        WaitGuard { stats: Arc::clone(stats), since: Instant::now() }
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.stats.wait_ended(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::worker::{Layout, StatsRegistry};
    use crate::metrics::{PoolLabels, PoolRegistry, render, text::Page};

    fn worker() -> (StatsRegistry, Rc<WorkerStats>) {
        let registry = StatsRegistry::default();
        let layout = Arc::new(Layout::new([("main".into(), vec!["pg-a".into()])]));
        let stats = registry.worker(&layout);
        (registry, Rc::new(stats))
    }

    fn has(registry: &StatsRegistry, line: &str) {
        let mut page = Page::default();
        render::totals(&mut page, &registry.totals());
        let text = page.into_text();
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    #[test]
    fn a_client_is_counted_while_its_guard_lives() {
        let (registry, stats) = worker();
        let (one, two) = (ClientGuard::new(&stats), ClientGuard::new(&stats));
        has(&registry, "tiffin_clients 2");
        drop(one);
        has(&registry, "tiffin_clients 1");
        drop(two);
        has(&registry, "tiffin_clients 0");
        has(&registry, "tiffin_clients_opened_total 2");
    }

    #[test]
    fn a_wait_at_the_gate_ends_once_and_tells_how() {
        let (registry, stats) = worker();
        let (one, two) = (GateGuard::enter(&stats, 0), GateGuard::enter(&stats, 0));
        has(&registry, r#"tiffin_gate_waiting{cluster="main"} 2"#);
        one.leave(GateOutcome::Opened);
        drop(two);
        has(&registry, r#"tiffin_gate_waiting{cluster="main"} 0"#);
        has(&registry, r#"tiffin_gate_waits_total{cluster="main",outcome="opened"} 1"#);
        has(&registry, r#"tiffin_gate_waits_total{cluster="main",outcome="abandoned"} 1"#);
        has(&registry, r#"tiffin_gate_wait_seconds_count{cluster="main"} 2"#);
    }

    #[test]
    fn pins_are_counted_when_they_change_and_end_with_the_session() {
        let (registry, stats) = worker();
        let mut pins = PinGuard::new(&stats);
        // What the session has after each statement.
        for held in [&["listen"][..], &["listen"], &["listen", "sequence"], &["sequence"], &[]] {
            pins.hold(held.iter().copied());
        }
        has(&registry, r#"tiffin_pins_total{pin="listen"} 1"#);
        has(&registry, r#"tiffin_pins_total{pin="sequence"} 1"#);
        has(&registry, r#"tiffin_pinned_sessions{pin="listen"} 0"#);
        has(&registry, r#"tiffin_pinned_sessions{pin="sequence"} 0"#);

        pins.hold(["unknown", "listen"]);
        has(&registry, r#"tiffin_pinned_sessions{pin="listen"} 1"#);
        has(&registry, r#"tiffin_pinned_sessions{pin="unknown"} 1"#);
        drop(pins);
        has(&registry, r#"tiffin_pinned_sessions{pin="listen"} 0"#);
        has(&registry, r#"tiffin_pinned_sessions{pin="unknown"} 0"#);
        has(&registry, r#"tiffin_pins_total{pin="listen"} 2"#);
    }

    #[test]
    fn a_wait_for_a_connection_ends_with_its_guard() {
        let registry = PoolRegistry::default();
        let word = Arc::<str>::from("x");
        let labels = PoolLabels {
            cluster: word.clone(),
            node: word.clone(),
            user: word.clone(),
            database: word,
        };
        let stats = registry.register(labels.clone());
        let wait = WaitGuard::new(&stats);
        assert_eq!(registry.numbers()[&labels].waiting, 1);
        drop(wait);
        let numbers = registry.numbers()[&labels];
        assert_eq!((numbers.waiting, numbers.waits_total), (0, 1));
    }
}
