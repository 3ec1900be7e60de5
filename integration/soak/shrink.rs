//! From a script that fails to the few steps that still fail in the same way.

use super::Play;
use super::run::Difference;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What shrinking may take.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Something that hangs is not waited for as long as at first.
const PATIENCE: Duration = Duration::from_secs(2);

/// The report of a failed seed: what differs, and a small script that shows it.
pub fn report<P: Play>(world: &P, seed: u64, script: P::Script, found: &Difference) -> String {
    let mut report = format!("seed {seed} fails {}", found.text());
    match world.compare(&script, PATIENCE).difference() {
        None => {
            let _ = write!(report, "It does not fail again; what was run:\n{script}");
        }
        Some(again) => {
            let (small, found) = shrink(world, script, again);
            let _ = write!(
                report,
                "A smaller script fails {}Run it with SOAK_SCRIPT=file:\n# of seed {seed}\n{small}",
                found.text()
            );
        }
    }
    report
}

fn shrink<P: Play>(world: &P, script: P::Script, found: Difference) -> (P::Script, Difference) {
    let until = Instant::now() + TIME_MAX;
    let kind = found.kind();
    let mut best = (script, found);
    let mut improved = true;
    while improved && Instant::now() < until {
        improved = false;
        let mut part = P::steps(&best.0).div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < P::steps(&best.0) && Instant::now() < until {
                let to = (from + part).min(P::steps(&best.0));
                let smaller = P::without(&best.0, from..to);
                if try_it(world, smaller, &kind, &mut best) {
                    improved = true;
                } else {
                    from += part;
                }
            }
            part /= 2;
        }
        improved |= shrink_messages(world, &kind, &mut best, until);
    }
    best
}

/// Leaves messages out.
fn shrink_messages<P: Play>(
    world: &P,
    kind: &str,
    best: &mut (P::Script, Difference),
    until: Instant,
) -> bool {
    let mut improved = false;
    for at in (0..P::steps(&best.0)).rev() {
        let mut from = 0;
        while Instant::now() < until
            && let Some(smaller) = P::without_message(&best.0, at, from)
        {
            if try_it(world, smaller, kind, best) {
                improved = true;
            } else {
                from += 1;
            }
        }
    }
    improved
}

fn try_it<P: Play>(
    world: &P,
    script: P::Script,
    kind: &str,
    best: &mut (P::Script, Difference),
) -> bool {
    match world.compare(&script, PATIENCE).difference() {
        Some(found) if found.kind() == kind => {
            *best = (script, found);
            true
        }
        _ => false,
    }
}
