//! From a script that fails to the few steps that still fail in the same way.

use super::arena::World;
use super::compare;
use super::run::Difference;
use super::script::{Act, Script};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What shrinking may take.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Something that hangs is not waited for as long as at first.
const PATIENCE: Duration = Duration::from_secs(2);

/// The report of a failed seed: what differs, and a small script that shows it.
pub fn report(world: &World, seed: u64, script: Script, found: &Difference) -> String {
    let mut report = format!("seed {seed} fails {}", found.text());
    match compare(world, &script, PATIENCE).difference() {
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

fn shrink(world: &World, script: Script, found: Difference) -> (Script, Difference) {
    let until = Instant::now() + TIME_MAX;
    let kind = found.kind();
    let mut best = (script, found);
    let mut improved = true;
    while improved && Instant::now() < until {
        improved = false;
        let mut part = best.0.steps.len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < best.0.steps.len() && Instant::now() < until {
                let mut smaller = best.0.clone();
                let to = (from + part).min(smaller.steps.len());
                smaller.steps.drain(from..to);
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
fn shrink_messages(
    world: &World,
    kind: &str,
    best: &mut (Script, Difference),
    until: Instant,
) -> bool {
    let mut improved = false;
    for at in (0..best.0.steps.len()).rev() {
        let mut from = 0;
        while Instant::now() < until {
            let mut smaller = best.0.clone();
            let Act::Send(messages) = &mut smaller.steps[at].act else { break };
            if from >= messages.len() || messages.len() == 1 {
                break;
            }
            messages.remove(from);
            if try_it(world, smaller, kind, best) {
                improved = true;
            } else {
                from += 1;
            }
        }
    }
    improved
}

fn try_it(world: &World, script: Script, kind: &str, best: &mut (Script, Difference)) -> bool {
    match compare(world, &script, PATIENCE).difference() {
        Some(found) if found.kind() == kind => {
            *best = (script, found);
            true
        }
        _ => false,
    }
}
